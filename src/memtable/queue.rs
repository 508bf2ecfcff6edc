//! Pending timers, or records that expire, in the order of their times: a
//! B-tree of two levels whose leaves are sorted only when they come first.
//!
//! An entry is 16 bytes: the timer's time, and the hash of its record, by
//! which the memtable finds it. Entries ascend by time, and at one time by
//! hash. A *leaf* holds up to [`LEAF_ENTRIES`] entries of one stretch of time
//! in any order, a *branch* up to [`BRANCH_LEAVES`] leaves with the lowest
//! entry that belongs into each.
//!
//! ```text
//! branches:  | low entry, branch | low entry, branch | ...
//! branch:    | low entries of its leaves |  and  | leaf | leaf | ...
//! leaf:      up to 512 entries; those of the first leaf may be sorted, the
//!            earliest at the end
//! ```
//!
//! - *Insert*: two searches in arrays that stay in the cache, and an append to
//!   a leaf, which waits for no memory. A full leaf is split at its median.
//! - *Pop*: from the end of the first leaf, which is sorted when it becomes
//!   the first one.
//! - *Remove*: looks through one leaf.
//!
//! No step does more than a leaf's work, some microseconds, whatever the times
//! are. A timing wheel or a radix heap is as fast on average, but now and then
//! hands much of what it holds down a level at once; and it forgets an entry
//! only by marking it, so that it grows with what was deleted.
//!
//! The queue is a multiset: two timers of one time and one hash, which chance
//! does not bring about, are two equal entries.

use std::cell::Cell;

use crate::env::mmap::prefetch_read;

/// Entries of a full leaf. More would be more to look through for a removal,
/// which half a leaf of this size takes some 100 ns for; fewer would be more
/// leaves, and their low entries would leave the nearest caches. A power of two.
const LEAF_ENTRIES: usize = 512;
/// Leaves of a full branch: what a split of a leaf may have to move.
const BRANCH_LEAVES: usize = 256;
/// A leaf with so few entries is joined with its neighbour, if that is small.
const SMALL_LEAF_ENTRIES: usize = LEAF_ENTRIES / 8;

/// A time and the hash of a record, in one number that orders as they do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Entry(u128);

impl Entry {
    /// Not above any other.
    pub(crate) const LOWEST: Self = Self(0);

    #[inline(always)]
    pub(crate) fn new(timestamp: i64, hash: u64) -> Self {
        let ascending = timestamp as u64 ^ 1 << 63;
        Self(u128::from(ascending) << 64 | u128::from(hash))
    }

    #[inline(always)]
    pub(crate) fn timestamp(self) -> i64 {
        ((self.0 >> 64) as u64 ^ 1 << 63) as i64
    }

    #[inline(always)]
    pub(crate) fn hash(self) -> u64 {
        self.0 as u64
    }
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct TimeQueue {
    /// Lowest entries of the branches; the first is [`LOWEST`].
    lows: Vec<Entry>,
    branches: Vec<Branch>,
    /// The first leaf is sorted, descending.
    first_is_sorted: bool,
    len: usize,
    /// How many entries there were when its bytes were counted last, and those bytes.
    counted: Cell<(usize, usize)>,
}

/// What becomes of an entry that is [gone through](TimeQueue::sift).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sifted {
    Stays,
    Goes,
    /// It stays, and nothing further is gone through.
    Enough,
}

/// At least one leaf; no leaf is empty, unless it is the only one of the queue.
#[derive(Debug)]
struct Branch {
    /// Lowest entries of the leaves.
    lows: Vec<Entry>,
    leaves: Vec<Vec<Entry>>,
}

/// The leaf that an entry belongs into. Good until the queue changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    branch: usize,
    leaf: usize,
}

const FIRST: Place = Place { branch: 0, leaf: 0 };
const LOWEST: Entry = Entry::LOWEST;

impl TimeQueue {
    pub(crate) fn new() -> Self {
        let branch = Branch { lows: vec![LOWEST], leaves: vec![Vec::new()] };
        Self {
            lows: vec![LOWEST],
            branches: vec![branch],
            first_is_sorted: false,
            len: 0,
            counted: Cell::new((0, 0)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory taken. Costs a look at every leaf.
    pub(crate) fn bytes(&self) -> usize {
        let entries = |entries: &Vec<Entry>| entries.capacity() * size_of::<Entry>();
        let of_branch = |branch: &Branch| {
            entries(&branch.lows)
                + branch.leaves.capacity() * size_of::<Vec<Entry>>()
                + branch.leaves.iter().map(entries).sum::<usize>()
        };
        entries(&self.lows)
            + self.branches.capacity() * size_of::<Branch>()
            + self.branches.iter().map(of_branch).sum::<usize>()
    }

    /// About as much, counted again only when there are quite a few entries more or less.
    pub(crate) fn likely_bytes(&self) -> usize {
        let (len, bytes) = self.counted.get();
        if self.len.abs_diff(len) > len / LEAF_ENTRIES || bytes == 0 {
            self.counted.set((self.len, self.bytes()));
        }
        let (len, bytes) = self.counted.get();
        let more = self.len.saturating_sub(len) * 2 * size_of::<Entry>();
        (bytes + more).saturating_sub(len.saturating_sub(self.len) * size_of::<Entry>())
    }

    /// Where an entry belongs. Asks the processor for the end of that leaf.
    #[inline]
    pub(crate) fn locate(&self, entry: Entry) -> Place {
        let branch = last_not_above(&self.lows, entry);
        let Branch { lows, leaves } = &self.branches[branch];
        let leaf = last_not_above(lows, entry);
        prefetch_read(leaves[leaf].as_ptr_range().end.cast());
        Place { branch, leaf }
    }

    /// Adds an entry where it [belongs](Self::locate).
    #[inline]
    pub(crate) fn insert(&mut self, place: Place, entry: Entry) {
        self.len += 1;
        let leaf = &mut self.branches[place.branch].leaves[place.leaf];
        if place == FIRST && self.first_is_sorted {
            let at = leaf.partition_point(|&other| other > entry);
            leaf.insert(at, entry);
        } else {
            leaf.push(entry);
        }
        // A leaf of equal entries cannot be split; it is tried again when there
        // are twice as many.
        if leaf.len() >= LEAF_ENTRIES && leaf.len().is_power_of_two() {
            self.split(place);
        }
    }

    /// Adds an entry, unless there is one like it. Looks through a leaf.
    pub(crate) fn insert_unless_there(&mut self, entry: Entry) {
        let place = self.locate(entry);
        if !self.branches[place.branch].leaves[place.leaf].contains(&entry) {
            self.insert(place, entry);
        }
    }

    /// Takes all entries of the leaf that `from` belongs into out, in any order,
    /// and says where the next leaf begins: whoever goes on from there comes to
    /// all entries, and then to the first again.
    pub(crate) fn take_leaf(&mut self, from: Entry) -> (Vec<Entry>, Entry) {
        let place = self.locate(from);
        let branch = &mut self.branches[place.branch];
        let next = branch.lows.get(place.leaf + 1).or_else(|| self.lows.get(place.branch + 1));
        let next = next.copied().unwrap_or(Entry::LOWEST);
        let taken = std::mem::take(&mut branch.leaves[place.leaf]);
        self.len -= taken.len();
        self.remove_empty_leaf(place);
        (taken, next)
    }

    /// Goes through the entries of one leaf from the latest on, those below `below` only
    /// (all of them if there is no such bound), and takes out what is to go. `judge` is told
    /// how many entries come before each. Says where to go on; `None` if nothing is earlier
    /// than what was gone through. Costs a look at the length of every leaf.
    pub(crate) fn sift(
        &mut self,
        below: Option<Entry>,
        mut judge: impl FnMut(Entry, usize) -> Sifted,
    ) -> Option<Entry> {
        let latest = match below {
            None => Entry(u128::MAX),
            Some(below) => Entry(below.0.checked_sub(1)?),
        };
        let place = self.locate(latest);
        let lengths = |leaves: &[Vec<Entry>]| leaves.iter().map(Vec::len).sum::<usize>();
        let before = self.branches[..place.branch].iter().map(|branch| lengths(&branch.leaves));
        let before =
            before.sum::<usize>() + lengths(&self.branches[place.branch].leaves[..place.leaf]);
        let branch = &mut self.branches[place.branch];
        let low = branch.lows[place.leaf];
        let leaf = &mut branch.leaves[place.leaf];
        leaf.sort_unstable_by(|a, b| b.cmp(a));
        self.first_is_sorted |= place == FIRST;
        let from = leaf.partition_point(|&entry| entry > latest);
        let (mut kept, mut at) = (from, from);
        let mut stopped = None;
        while at < leaf.len() {
            let entry = leaf[at];
            match judge(entry, before + leaf.len() - 1 - at) {
                Sifted::Stays => {
                    leaf[kept] = entry;
                    kept += 1;
                }
                Sifted::Goes => {}
                Sifted::Enough => {
                    // It was not gone through: it comes first the next time.
                    stopped = Some(Entry(entry.0.saturating_add(1)));
                    break;
                }
            }
            at += 1;
        }
        leaf.drain(kept..at);
        self.len -= at - kept;
        if leaf.is_empty() {
            self.remove_empty_leaf(place);
        } else if at > kept && leaf.len() <= SMALL_LEAF_ENTRIES {
            self.join_and_shrink(place);
        }
        stopped.or((low != LOWEST).then_some(low))
    }

    /// Takes an entry out, and says whether it was there.
    pub(crate) fn remove(&mut self, entry: Entry) -> bool {
        let place = self.locate(entry);
        let leaf = &mut self.branches[place.branch].leaves[place.leaf];
        if place == FIRST && self.first_is_sorted {
            let Ok(at) = leaf.binary_search_by(|other| entry.cmp(other)) else { return false };
            leaf.remove(at);
        } else {
            let Some(at) = leaf.iter().position(|&other| other == entry) else { return false };
            leaf.swap_remove(at);
        }
        self.len -= 1;
        if leaf.is_empty() {
            self.remove_empty_leaf(place);
        } else if leaf.len() <= SMALL_LEAF_ENTRIES {
            self.join_and_shrink(place);
        }
        true
    }

    /// The earliest entry.
    #[inline]
    pub(crate) fn first(&mut self) -> Option<Entry> {
        let leaf = &mut self.branches[0].leaves[0];
        if !self.first_is_sorted {
            leaf.sort_unstable_by(|a, b| b.cmp(a));
            self.first_is_sorted = true;
        }
        leaf.last().copied()
    }

    /// The entry that comes `ahead` entries after the earliest, if that is
    /// known without work.
    #[inline]
    pub(crate) fn upcoming(&self, ahead: usize) -> Option<Entry> {
        let leaf = &self.branches[0].leaves[0];
        let at = leaf.len().checked_sub(ahead + 1)?;
        self.first_is_sorted.then(|| leaf[at])
    }

    /// Takes the earliest entry out.
    #[inline]
    pub(crate) fn pop_first(&mut self) -> Option<Entry> {
        let first = self.first()?;
        let leaf = &mut self.branches[0].leaves[0];
        leaf.pop();
        self.len -= 1;
        if leaf.is_empty() {
            self.remove_empty_leaf(FIRST);
        }
        Some(first)
    }

    #[cold]
    fn split(&mut self, place: Place) {
        let Place { branch: at, leaf } = place;
        let is_last_branch = at + 1 == self.branches.len();
        let branch = &mut self.branches[at];
        // Timers are often registered in the order of time, and then a leaf
        // that is not the last any more gets no further entries.
        let is_last = is_last_branch && leaf + 1 == branch.leaves.len();
        let lower = &mut branch.leaves[leaf];
        let middle = if is_last { lower.len() / 8 * 7 } else { lower.len() / 2 };
        if place == FIRST {
            self.first_is_sorted = false;
        }
        let (_, &mut low, _) = lower.select_nth_unstable(middle);
        let mut upper = lower.split_off(middle);
        // Of equal entries all are in the same leaf.
        let mut at_entry = 0;
        while at_entry < lower.len() {
            if lower[at_entry] == low {
                upper.push(lower.swap_remove(at_entry));
            } else {
                at_entry += 1;
            }
        }
        if lower.is_empty() {
            *lower = upper;
            return;
        }
        branch.leaves.insert(leaf + 1, upper);
        branch.lows.insert(leaf + 1, low);
        if branch.leaves.len() > BRANCH_LEAVES {
            let middle = if is_last { BRANCH_LEAVES / 8 * 7 } else { BRANCH_LEAVES / 2 };
            let upper = Branch {
                lows: branch.lows.split_off(middle),
                leaves: branch.leaves.split_off(middle),
            };
            self.lows.insert(at + 1, upper.lows[0]);
            self.branches.insert(at + 1, upper);
        }
    }

    fn remove_empty_leaf(&mut self, place: Place) {
        if self.len == 0 {
            // The last leaf stays; without its memory, which a full queue of
            // once would otherwise keep for ever.
            *self = Self::new();
            return;
        }
        if place == FIRST {
            self.first_is_sorted = false;
        }
        let branch = &mut self.branches[place.branch];
        branch.leaves.remove(place.leaf);
        branch.lows.remove(place.leaf);
        match branch.lows.first() {
            Some(&low) => self.lows[place.branch] = low,
            None => {
                self.branches.remove(place.branch);
                self.lows.remove(place.branch);
            }
        }
        // Whichever is the first now takes what comes before it, too.
        self.lows[0] = LOWEST;
        self.branches[0].lows[0] = LOWEST;
    }

    /// Keeps the memory of a leaf that lost entries in proportion to what is
    /// left.
    #[cold]
    fn join_and_shrink(&mut self, place: Place) {
        let branch = &mut self.branches[place.branch];
        // Of two neighbours the lower takes in the other.
        let is_last = place.leaf + 1 == branch.leaves.len();
        let lower = if is_last { place.leaf.saturating_sub(1) } else { place.leaf };
        let mut kept = place.leaf;
        if let Some([one, other]) = branch.leaves.get_mut(lower..lower + 2)
            && one.len() + other.len() <= LEAF_ENTRIES / 2
        {
            one.append(other);
            branch.leaves.remove(lower + 1);
            branch.lows.remove(lower + 1);
            if (Place { leaf: lower, ..place }) == FIRST {
                self.first_is_sorted = false;
            }
            kept = lower;
        }
        let leaf = &mut branch.leaves[kept];
        if leaf.capacity() > 4 * leaf.len().max(SMALL_LEAF_ENTRIES / 4) {
            leaf.shrink_to(2 * leaf.len());
        }
    }

    #[cfg(test)]
    fn check(&self) {
        let mut count = 0;
        let mut below = None;
        assert_eq!(self.lows.len(), self.branches.len());
        for (branch, &low) in self.branches.iter().zip(&self.lows) {
            assert_eq!(branch.lows.len(), branch.leaves.len());
            assert_eq!(branch.lows[0], low);
            for (at, (leaf, &low)) in branch.leaves.iter().zip(&branch.lows).enumerate() {
                assert!(!leaf.is_empty() || self.len == 0);
                assert_eq!(low == LOWEST, count == 0 && at == 0);
                assert!(below.is_none_or(|below| below < low), "leaves ascend");
                assert!(leaf.iter().all(|&entry| entry >= low));
                below = leaf.iter().copied().max().or(below);
                count += leaf.len();
            }
        }
        assert_eq!(count, self.len);
    }
}

/// The position of the last low entry that is not above `entry`; of the first
/// if all are.
#[inline]
fn last_not_above(lows: &[Entry], entry: Entry) -> usize {
    let mut at = 0;
    let mut count = lows.len();
    // Which way it goes is anybody's guess, so it is computed: a branch would
    // be mispredicted every other time.
    while count > 1 {
        let half = count / 2;
        at += half & usize::from(lows[at + half] <= entry).wrapping_neg();
        count -= half;
    }
    at
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::env::sim::SimRng;

    /// The queue beside a map from entries to how often they are there.
    struct Pair {
        queue: TimeQueue,
        model: BTreeMap<Entry, usize>,
    }

    impl Pair {
        fn new() -> Self {
            Self { queue: TimeQueue::new(), model: BTreeMap::new() }
        }

        fn insert(&mut self, entry: Entry) {
            self.queue.insert(self.queue.locate(entry), entry);
            *self.model.entry(entry).or_default() += 1;
        }

        fn remove(&mut self, entry: Entry) {
            let count = self.model.get(&entry).copied().unwrap_or(0);
            assert_eq!(self.queue.remove(entry), count > 0);
            self.forget(entry, count);
        }

        fn pop(&mut self) {
            let first = self.model.first_key_value().map(|(&entry, &count)| (entry, count));
            assert_eq!(self.queue.first(), first.map(|(entry, _)| entry));
            assert_eq!(self.queue.pop_first(), first.map(|(entry, _)| entry));
            if let Some((entry, count)) = first {
                self.forget(entry, count);
            }
        }

        fn forget(&mut self, entry: Entry, count: usize) {
            if count > 1 {
                self.model.insert(entry, count - 1);
            } else {
                self.model.remove(&entry);
            }
        }

        fn some(&self, rng: &mut SimRng) -> Option<Entry> {
            let from = Entry::new(rng.next_u64() as i64, 0);
            let after = self.model.range(from..).next().or_else(|| self.model.iter().next());
            after.map(|(&entry, _)| entry)
        }
    }

    #[test]
    fn entries_order_by_time_and_then_by_hash() {
        let times = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
        let mut last = None;
        for time in times {
            for hash in [0, 1, u64::MAX] {
                let entry = Entry::new(time, hash);
                assert_eq!((entry.timestamp(), entry.hash()), (time, hash));
                assert!(last.is_none_or(|last| last < entry));
                last = Some(entry);
            }
        }
    }

    #[test]
    fn the_queue_equals_an_ordered_map_for_any_times_and_any_operations() {
        for seed in 0..60 {
            let mut rng = SimRng::new(seed);
            let mut pair = Pair::new();
            let mut now = 0_i64;
            // Ever new times, times from a few, or all alike.
            let span = [1, 3, 1 << 12, 1 << 40, u64::MAX][rng.below(5) as usize];
            let hashes = [1, 2, u64::MAX][rng.below(3) as usize];
            for phase in 0..6 {
                let (inserts, removes) = (1 + rng.below(8), rng.below(5));
                let pops = if phase % 2 == 0 { rng.below(3) } else { rng.below(9) };
                for _ in 0..1_500 {
                    match rng.below(inserts + removes + pops) {
                        at if at < inserts => {
                            let time = match span {
                                u64::MAX => rng.next_u64() as i64,
                                _ => now.wrapping_add(rng.below(span) as i64),
                            };
                            pair.insert(Entry::new(time, rng.below(hashes)));
                        }
                        at if at < inserts + removes => {
                            let entry = match pair.some(&mut rng) {
                                Some(entry) if !rng.one_in(4) => entry,
                                _ => Entry::new(now, rng.next_u64()),
                            };
                            pair.remove(entry);
                        }
                        _ => {
                            pair.pop();
                            now += 1;
                        }
                    }
                }
                pair.queue.check();
            }
            while !pair.model.is_empty() {
                pair.pop();
            }
            pair.pop();
            assert_eq!(pair.queue.len(), 0, "seed {seed}");
        }
    }

    #[test]
    fn sifting_from_the_end_comes_to_every_entry_once_and_takes_out_what_is_to_go() {
        for seed in 0..40 {
            let mut rng = SimRng::new(seed);
            let mut pair = Pair::new();
            let span = [1, 5, 1 << 30][rng.below(3) as usize];
            for _ in 0..rng.below(6_000) {
                pair.insert(Entry::new(rng.below(span) as i64, rng.below(1 << 20)));
            }
            if rng.one_in(2) {
                pair.queue.first();
            }
            let (mut hand, mut last) = (None, None);
            let keep_every = 1 + rng.below(4);
            loop {
                let most = rng.below(700) as usize;
                let mut seen = 0;
                let mut gone = Vec::new();
                let earlier = |model: &BTreeMap<Entry, usize>, entry| {
                    model.range(..entry).map(|(_, count)| count).sum::<usize>()
                };
                let model = &pair.model;
                hand = pair.queue.sift(hand, |entry, before| {
                    if rng.one_in(100) {
                        let least = earlier(model, entry);
                        assert!((least..least + model[&entry]).contains(&before), "seed {seed}");
                    }
                    if seen == most {
                        return Sifted::Enough;
                    }
                    seen += 1;
                    assert!(last.is_none_or(|last| entry <= last), "seed {seed}");
                    last = Some(entry);
                    if entry.hash() % keep_every == 0 {
                        return Sifted::Stays;
                    }
                    gone.push(entry);
                    Sifted::Goes
                });
                for entry in gone {
                    let count = pair.model[&entry];
                    pair.forget(entry, count);
                }
                pair.queue.check();
                if hand.is_none() {
                    break;
                }
            }
            assert!(pair.model.keys().all(|entry| entry.hash() % keep_every == 0), "seed {seed}");
            let exact = pair.queue.bytes();
            assert!(pair.queue.likely_bytes().abs_diff(exact) <= 2_048 + exact / 16);
            while !pair.model.is_empty() {
                pair.pop();
            }
            assert_eq!(pair.queue.len(), 0, "seed {seed}");
        }
    }

    #[test]
    fn branches_split_and_vanish_in_any_order_of_times() {
        for order in 0..3 {
            let mut queue = TimeQueue::new();
            let count = 400_000_u64;
            for i in 0..count {
                let time = match order {
                    0 => i,
                    1 => count - i,
                    _ => i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20,
                };
                let entry = Entry::new(time as i64, i);
                queue.insert(queue.locate(entry), entry);
            }
            queue.check();
            assert!(queue.branches.len() > 1);
            assert!(queue.bytes() < 40 * count as usize, "{} bytes", queue.bytes());
            if order == 0 {
                assert!(queue.bytes() < 20 * count as usize, "{} bytes", queue.bytes());
            }
            let mut last = None;
            while let Some(entry) = queue.pop_first() {
                assert!(last.is_none_or(|last| last < entry));
                last = Some(entry);
            }
            assert_eq!(queue.branches.len(), 1);
        }
    }

    #[test]
    fn what_is_inserted_and_removed_leaves_no_memory_behind() {
        let mut rng = SimRng::new(7);
        let mut queue = TimeQueue::new();
        let mut live = std::collections::VecDeque::new();
        let mut most = 0;
        for i in 0..300_000_u64 {
            let entry = Entry::new(i as i64 + rng.below(100_000) as i64, rng.next_u64());
            queue.insert(queue.locate(entry), entry);
            live.push_back(entry);
            if live.len() > 1_000 {
                let at = rng.below(live.len() as u64) as usize;
                live.swap(0, at);
                assert!(queue.remove(live.pop_front().unwrap()));
            }
            most = most.max(queue.bytes());
        }
        queue.check();
        assert!(most < 100 * 1_000, "{most} bytes for 1,000 entries");
    }

    #[test]
    fn a_queue_that_was_large_becomes_small() {
        for keep_every in [u64::MAX, 1_000, 100] {
            let mut queue = TimeQueue::new();
            let entry = |i: u64| Entry::new(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64, i);
            for i in 1..=100_000 {
                queue.insert(queue.locate(entry(i)), entry(i));
            }
            for i in 1..=100_000 {
                assert!(i % keep_every == 0 || queue.remove(entry(i)));
            }
            queue.check();
            let (len, bytes) = (queue.len(), queue.bytes());
            assert_eq!(len as u64, 100_000 / keep_every);
            // Branches keep their arrays: some kilobytes each.
            assert!(bytes < 50_000 + 150 * len, "{bytes} bytes for {len} entries");
        }
    }

    #[test]
    fn equal_entries_are_kept_apart_by_number_only() {
        let mut pair = Pair::new();
        for i in 0..3_000_u64 {
            pair.insert(Entry::new(5, 9));
            pair.insert(Entry::new(5 + (i % 3) as i64, i));
        }
        pair.queue.check();
        for _ in 0..1_000 {
            pair.remove(Entry::new(5, 9));
            pair.pop();
        }
        pair.queue.check();
        while !pair.model.is_empty() {
            pair.pop();
        }
    }
}
