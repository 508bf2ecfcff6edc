//! Heads of the lists of free blocks, by size.
//!
//! Blocks below [`EXACT_UNITS`] are listed by their exact size; larger ones in
//! four classes for each doubling. One bit per list says whether it holds
//! anything, so that the smallest sufficient list is found without a search.
//! The links are in the blocks themselves and belong to the arena.

use super::addr::CHUNK_UNITS;

const EXACT_UNITS: u32 = 64;
const EXACT_LOG2: u32 = EXACT_UNITS.trailing_zeros();
const CLASSES_PER_DOUBLING: u32 = 4;
const LISTS: usize =
    (EXACT_UNITS + (CHUNK_UNITS.trailing_zeros() + 1 - EXACT_LOG2) * CLASSES_PER_DOUBLING) as usize;

// One bit for each list.
const _: () = assert!(LISTS <= 128);

pub(super) struct FreeLists {
    heads: [u32; LISTS],
    filled: u128,
}

impl FreeLists {
    pub(super) fn new() -> Self {
        Self { heads: [0; LISTS], filled: 0 }
    }

    /// The list of blocks of `units`.
    fn list(units: u32) -> usize {
        if units < EXACT_UNITS {
            return units as usize;
        }
        let log2 = 31 - units.leading_zeros();
        let quarter = (units >> (log2 - 2)) & 3;
        (EXACT_UNITS + (log2 - EXACT_LOG2) * CLASSES_PER_DOUBLING + quarter) as usize
    }

    /// Makes `block` the head of its list and returns the head it had before.
    pub(super) fn push(&mut self, units: u32, block: u32) -> u32 {
        let list = Self::list(units);
        self.filled |= 1 << list;
        std::mem::replace(&mut self.heads[list], block)
    }

    /// Replaces the head of a list; 0 empties it.
    pub(super) fn set_head(&mut self, units: u32, block: u32) {
        let list = Self::list(units);
        self.heads[list] = block;
        if block == 0 {
            self.filled &= !(1 << list);
        }
    }

    /// The first block of the class that `units` falls in, if that is a class
    /// of several sizes: it and those behind it may or may not be large enough.
    pub(super) fn candidates(&self, units: u32) -> Option<u32> {
        let head = self.heads[Self::list(units)];
        (units >= EXACT_UNITS && head != 0).then_some(head)
    }

    /// A block of at least `units`: of exactly that size, or, if `larger` is
    /// allowed, of the next size there is.
    pub(super) fn find(&self, units: u32, larger: bool) -> Option<u32> {
        let exact = units < EXACT_UNITS;
        let list = Self::list(units);
        if exact && self.filled >> list & 1 == 1 {
            return Some(self.heads[list]);
        }
        if !larger && exact {
            return None;
        }
        // Blocks of the class itself may be too small; those of the next
        // class up cannot.
        let from = list + 1;
        let above = if from < LISTS { self.filled >> from << from } else { 0 };
        (above != 0).then(|| self.heads[above.trailing_zeros() as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_block_is_never_too_small_and_the_smallest_sufficient_list_wins() {
        for have in 2..=CHUNK_UNITS {
            let mut lists = FreeLists::new();
            lists.push(have, 7);
            for want in [2, 3, have / 2, have.saturating_sub(1), have, have + 1, have * 2] {
                if !(2..=CHUNK_UNITS).contains(&want) {
                    continue;
                }
                if lists.find(want, true).is_some() {
                    assert!(have >= want, "a block of {have} units was offered for {want}");
                }
            }
        }
    }

    #[test]
    fn exact_size_is_preferred_and_larger_only_on_request() {
        let mut lists = FreeLists::new();
        lists.push(5, 50);
        lists.push(9, 90);
        assert_eq!(lists.find(5, true), Some(50));
        assert_eq!(lists.find(6, true), Some(90));
        assert_eq!(lists.find(6, false), None);
        lists.set_head(5, 0);
        assert_eq!(lists.find(5, false), None);
    }
}
