//! Records whose values are changed piece by piece: the [`Buffer`] that the
//! layouts of collections work on, in the arena.
//!
//! A record is made one of the current epoch when it is [opened](Memtable::open):
//! copied if it is frozen, and marked dirty. From then on its bytes are changed
//! where they are. It grows into slack behind it, and moves to a larger block
//! when that is used up, so that growing a little many times costs constant time
//! each.
//!
//! *Quiet* records are never dirty and belong to no epoch: no extractor ever
//! reads them, so they are changed in place however many epochs are frozen. Only
//! what follows from other records may be quiet.

use crate::base::{Epoch, KeyGroup, Result};
use crate::env::mmap::prefetch_read;

use super::arena::{Block, Splice};
use super::collection::Buffer;
use super::entry::Hit;
use super::index::Slot;
use super::record::{FRESH, Probe};
use super::{Below, Found, Holds, Memtable};

const LINE_BYTES: usize = 64;
/// As much as a processor fetches at once; the rest follows when it is read.
const PREFETCHED_BYTES: usize = 1536;

/// The value of one live record, to be changed by a layout.
pub(super) struct RecordBuf<'a> {
    memtable: &'a mut Memtable,
    slot: Slot,
    block: Block,
    key: &'a [u8],
    namespace: &'a [u8],
    quiet: bool,
}

/// What one look tells of a key.
struct Seen {
    hash: u64,
    found: Found,
    earlier: bool,
}

/// Room behind a value that had to move to grow.
fn slack_of(value_len: usize) -> usize {
    match value_len {
        0..0x400 => value_len,
        0x400..0x10_0000 => value_len / 2,
        _ => value_len / 4,
    }
}

/// Asks the processor for the lines of a value behind its first, which is here:
/// where an element begins is known when the one before it has come, and so the
/// lines would be waited for one after the other.
#[inline(always)]
pub(super) fn prefetch_rest(value: &[u8]) {
    let mut at = LINE_BYTES;
    while at < value.len().min(PREFETCHED_BYTES) {
        prefetch_read(value.as_ptr().wrapping_add(at));
        at += LINE_BYTES;
    }
}

impl Buffer for RecordBuf<'_> {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        self.memtable.arena.value_of(self.block, self.key, self.namespace)
    }

    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.memtable.arena.value_of_mut(self.block, self.key, self.namespace)
    }

    fn splice(&mut self, at: usize, remove: usize, insert: usize) -> Result<()> {
        let splice = Splice { at, remove, insert };
        let new_len = self.bytes().len() - remove + insert;
        let (fits, wastes) = self.memtable.arena.room_for(self.block, new_len);
        if fits && !(wastes && remove > insert) {
            self.memtable.arena.splice_value(self.block, splice);
            return Ok(());
        }
        match self.relocate(splice, slack_of(new_len)) {
            // Memory that cannot be had to save memory is no reason to fail.
            Err(_) if fits => {
                self.memtable.arena.splice_value(self.block, splice);
                Ok(())
            }
            moved => moved,
        }
    }

    #[inline(always)]
    fn extend(&mut self, by: usize) -> Result<()> {
        if self.memtable.arena.extend_value(self.block, self.key, self.namespace, by) {
            return Ok(());
        }
        self.extend_elsewhere(by)
    }
}

impl RecordBuf<'_> {
    #[inline(never)]
    fn extend_elsewhere(&mut self, by: usize) -> Result<()> {
        self.splice(self.bytes().len(), 0, by)
    }

    fn relocate(&mut self, splice: Splice, slack: usize) -> Result<()> {
        let memtable = &mut *self.memtable;
        let (addr, block) = memtable.arena.copy_spliced(self.block, splice, slack)?;
        let old = memtable.index.addr(self.slot);
        memtable.index.replace(self.slot, addr);
        if !self.quiet {
            memtable.dirty.clear(old);
            memtable.mark_dirty(addr);
        }
        memtable.arena.release(old);
        self.block = block;
        Ok(())
    }
}

impl Memtable {
    /// The epoch that changes belong to.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last epoch of which what was removed may be forgotten: it was extracted,
    /// and if that counts, tables have it.
    pub(super) fn forgettable(&mut self) -> Epoch {
        self.refresh_extracted();
        self.durable.map_or(self.extracted, |durable| durable.min(self.extracted))
    }

    /// The value of a live record.
    pub(super) fn live_value<'m>(&'m self, probe: &Probe<'_>) -> Option<&'m [u8]> {
        let found = self.find(probe)?;
        self.is_live(found.block)
            .then(|| self.arena.value_of(found.block, probe.key, probe.namespace))
    }

    /// The epoch in which a key was deleted, if that is what is known of it.
    pub(super) fn deleted_in(&self, probe: &Probe<'_>) -> Option<Epoch> {
        let found = self.find(probe)?;
        let header = self.arena.header(found.block);
        header.is_tombstone().then(|| header.epoch())
    }

    /// Whether a live record is of the current epoch, and its key was absent
    /// before, so that it may go without a trace.
    pub(super) fn is_fresh(&self, probe: &Probe<'_>) -> bool {
        self.find(probe).is_some_and(|found| {
            let header = self.arena.header(found.block);
            header.epoch() == self.epoch && header.has(FRESH) && !header.is_tombstone()
        })
    }

    /// Whether one look may tell of a key, with or without a group of its own, in
    /// a memtable that holds this: everything is in memory, nothing of it expires,
    /// and equal keys have equal groups.
    #[inline(always)]
    fn tells(&self, holds: Holds, group: Option<KeyGroup>) -> bool {
        self.holds == holds
            && self.below == Below::Nothing
            && !self.is_timed()
            && (group.is_some() || !self.groups_are_given)
    }

    /// Where a key's record is, if one look tells that it is there, and whether it
    /// is of an earlier epoch; that is the usual case. `None` says nothing.
    #[inline(always)]
    fn look(
        &self,
        holds: Holds,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> Option<Seen> {
        if !self.tells(holds, group) {
            return None;
        }
        let hash = self.hash(key, namespace);
        let (slot, addr) = self.index.likely(hash)?;
        let block = self.arena.block(addr);
        let also = u64::from(self.epoch.0);
        let earlier = self.arena.matches(block, also, group, key, namespace)?.is_earlier();
        Some(Seen { hash, found: Found { slot, block }, earlier })
    }

    /// A record, to be read, if one look tells that it is there. `None` says
    /// nothing.
    #[inline(always)]
    pub(super) fn part_at_hand(
        &self,
        holds: Holds,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> Option<Hit> {
        self.look(holds, group, key, namespace).map(|seen| Hit(seen.found.block))
    }

    /// A record, to be changed where it is, if one look tells that it is there and
    /// of the current epoch. `None` says nothing.
    #[inline(always)]
    pub(super) fn current_at_hand(
        &self,
        holds: Holds,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> Option<Hit> {
        let seen = self.look(holds, group, key, namespace)?;
        (!seen.earlier).then_some(Hit(seen.found.block))
    }

    /// Whether one look tells that a key of a memtable of [`Holds::Others`] is
    /// there. False says nothing.
    #[inline(always)]
    pub(crate) fn has_at_hand(
        &self,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> bool {
        self.part_at_hand(Holds::Others, group, key, namespace).is_some()
    }

    /// Deletes a record, if one look tells that it is there. False says nothing:
    /// then nothing has changed.
    #[inline(always)]
    pub(crate) fn delete_at_hand(
        &mut self,
        holds: Holds,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> bool {
        let Some(Seen { hash, found, .. }) = self.look(holds, group, key, namespace) else {
            return false;
        };
        let group = self.arena.header(found.block).group();
        self.bury(found, &Probe { hash, group, key, namespace }).is_ok()
    }

    /// A record of any epoch, to be changed, if one look tells that it is there:
    /// after a freeze, an earlier one is the usual case for a while. `None` says
    /// nothing, or that there is no memory for a copy.
    #[inline]
    pub(super) fn open_of_any_epoch<'a>(
        &'a mut self,
        holds: Holds,
        group: Option<KeyGroup>,
        key: &'a [u8],
        namespace: &'a [u8],
    ) -> Option<RecordBuf<'a>> {
        let Seen { found: Found { slot, mut block }, earlier, .. } =
            self.look(holds, group, key, namespace)?;
        if earlier {
            block = self.first_touch(slot, block).ok()?;
        }
        Some(RecordBuf { memtable: self, slot, block, key, namespace, quiet: false })
    }

    /// A live record, to be changed; it is dirty from now on.
    ///
    /// # Errors
    /// `Unavailable` if it is frozen and there is no memory for a copy.
    pub(super) fn open<'a>(&'a mut self, probe: &Probe<'a>) -> Result<Option<RecordBuf<'a>>> {
        match self.find(probe) {
            Some(found) if self.is_live(found.block) => self.open_found(found, probe).map(Some),
            _ => Ok(None),
        }
    }

    /// A live record that was found, to be changed; it is dirty from now on.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub(super) fn open_found<'a>(
        &'a mut self,
        found: Found,
        probe: &Probe<'a>,
    ) -> Result<RecordBuf<'a>> {
        let Found { slot, mut block } = found;
        if self.arena.header(block).epoch() != self.epoch {
            block = self.first_touch(slot, block)?;
        }
        let Probe { key, namespace, .. } = *probe;
        Ok(RecordBuf { memtable: self, slot, block, key, namespace, quiet: false })
    }

    /// A quiet record, to be changed.
    pub(super) fn open_quiet<'a>(&'a mut self, probe: &Probe<'a>) -> Option<RecordBuf<'a>> {
        let Found { slot, block } = self.find(probe)?;
        debug_assert!(self.arena.header(block).epoch() == Epoch::CLEAN);
        let Probe { key, namespace, .. } = *probe;
        Some(RecordBuf { memtable: self, slot, block, key, namespace, quiet: true })
    }

    /// Gives a key, which was looked for, a value that will probably grow.
    ///
    /// # Errors
    /// As of [`put`](Self::put).
    #[inline(never)]
    pub(super) fn set_found(
        &mut self,
        found: Option<Found>,
        probe: &Probe<'_>,
        value: &[u8],
    ) -> Result<()> {
        match found {
            Some(found) => self.overwrite(found, probe, value).map(drop),
            None => self.add_part(probe, value, self.below == Below::Nothing),
        }
    }

    /// Adds a record of the current epoch under a key that has none; `fresh`
    /// says that it may go without a trace.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had.
    pub(super) fn add_part(&mut self, probe: &Probe<'_>, value: &[u8], fresh: bool) -> Result<()> {
        debug_assert!(self.find(probe).is_none());
        self.add(probe, Some(value), if fresh { FRESH } else { 0 }, slack_of(value.len())).map(drop)
    }

    /// Adds a quiet record under a key that has none.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had.
    pub(super) fn add_quiet(&mut self, probe: &Probe<'_>, value: &[u8]) -> Result<()> {
        debug_assert!(self.find(probe).is_none());
        self.reserve(probe.hash)?;
        let (addr, _) =
            self.arena.create(probe, Some(value), 0, Epoch::CLEAN, slack_of(value.len()))?;
        self.index.insert(probe.hash, addr);
        Ok(())
    }

    /// Removes a record, if there is one, without saying so to any table.
    pub(super) fn forget(&mut self, probe: &Probe<'_>) {
        let Some(Found { slot, block }) = self.find(probe) else { return };
        let addr = self.index.addr(slot);
        let epoch = self.arena.header(block).epoch();
        self.index.remove(probe.hash, slot);
        if epoch == self.epoch {
            self.dirty.clear(addr);
            self.arena.release(addr);
        } else if self.is_thawed(epoch) {
            self.arena.release(addr);
        } else {
            self.retire(addr, epoch);
        }
    }

    /// Makes the record of a key that never has a value a tombstone of the
    /// current epoch.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had.
    pub(super) fn entomb(&mut self, probe: &Probe<'_>) -> Result<()> {
        match self.find(probe) {
            None => self.add(probe, None, 0, 0).map(drop),
            Some(Found { slot, block }) => {
                debug_assert!(!self.is_live(block));
                if self.arena.header(block).epoch() != self.epoch {
                    self.first_touch(slot, block)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::extract::Frozen;
    use super::super::{Below, Holds};
    use super::*;
    use crate::base::KeyGroup;
    use crate::env::pages::PagePool;
    use crate::env::sim::SimRng;

    type Model = BTreeMap<u8, Vec<u8>>;

    fn extracted(frozen: Frozen) -> Model {
        let run = frozen.extract().sort();
        run.records().map(|(_, record)| (record.key[0], record.value.unwrap().to_vec())).collect()
    }

    /// What a splice does to a vector, and to a record that others grow beside,
    /// that is frozen, extracted or not, forgotten and made again.
    #[test]
    fn a_record_that_is_spliced_is_what_a_vector_is_and_frozen_ones_stay() {
        for seed in 0..if cfg!(miri) { 1 } else { 40 } {
            let mut rng = SimRng::new(seed);
            let mut memtable = Memtable::new(Arc::new(PagePool::new(0)), Below::Nothing, seed);
            memtable.hold(Holds::Values);
            let (mut model, mut changed) = (Model::new(), Model::new());
            let mut under_way = std::collections::VecDeque::new();
            for _ in 0..if cfg!(miri) { 150 } else { 600 } {
                let key = [rng.below(6) as u8];
                let probe = memtable.probe(KeyGroup(1), &key, b"n");
                match rng.below(10) {
                    0 => {
                        under_way.push_back((memtable.freeze().unwrap(), changed));
                        changed = Model::new();
                    }
                    1 | 2 => {
                        if let Some((frozen, expected)) = under_way.pop_front() {
                            assert_eq!(extracted(frozen), expected, "seed {seed}");
                        }
                    }
                    3 if rng.one_in(3) => {
                        memtable.forget(&probe);
                        model.remove(&key[0]);
                        changed.remove(&key[0]);
                    }
                    _ if !model.contains_key(&key[0]) => {
                        memtable.add_part(&probe, b"first", rng.one_in(2)).unwrap();
                        model.insert(key[0], b"first".to_vec());
                        changed.insert(key[0], b"first".to_vec());
                    }
                    _ => {
                        let vector = model.get_mut(&key[0]).unwrap();
                        let at = rng.below(vector.len() as u64 + 1) as usize;
                        let remove = rng.below((vector.len() - at) as u64 + 1) as usize;
                        let remove = if rng.one_in(2) { remove } else { 0 };
                        let longest = [1, 40, 5000][rng.below(3) as usize];
                        let mut insert = vec![0; rng.below(longest) as usize];
                        rng.fill(&mut insert);
                        vector.splice(at..at + remove, insert.iter().copied());
                        let mut record = memtable.open(&probe).unwrap().unwrap();
                        record.splice(at, remove, insert.len()).unwrap();
                        record.bytes_mut()[at..at + insert.len()].copy_from_slice(&insert);
                        assert_eq!(record.bytes(), vector, "seed {seed}");
                        changed.insert(key[0], vector.clone());
                    }
                }
                let probe = memtable.probe(KeyGroup(1), &key, b"n");
                assert_eq!(memtable.live_value(&probe), model.get(&key[0]).map(|v| &**v));
            }
            for (frozen, expected) in under_way {
                assert_eq!(extracted(frozen), expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn quiet_records_are_in_no_epoch_and_change_in_place() {
        let mut memtable = Memtable::new(Arc::new(PagePool::new(0)), Below::Nothing, 1);
        let mut expected = Vec::new();
        let probe = memtable.probe(KeyGroup(1), b"k", b"");
        memtable.add_quiet(&probe, b"").unwrap();
        let mut epochs = Vec::new();
        for number in 0..100_u8 {
            let mut record = memtable.open_quiet(&probe).unwrap();
            record.splice(expected.len(), 0, 100).unwrap();
            record.bytes_mut()[expected.len()..].fill(number);
            expected.extend_from_slice(&[number; 100]);
            assert_eq!(record.bytes(), expected);
            epochs.push(memtable.freeze().unwrap());
        }
        assert!(epochs.into_iter().all(|frozen| frozen.records() == 0));
        memtable.forget(&probe);
        assert_eq!(memtable.stats().arena_used_bytes, 0);
    }

    #[test]
    fn growing_a_little_many_times_moves_a_record_a_few_times() {
        let mut memtable = Memtable::new(Arc::new(PagePool::new(0)), Below::Nothing, 1);
        let probe = memtable.probe(KeyGroup(1), b"k", b"");
        memtable.add_part(&probe, b"", true).unwrap();
        for len in 0..100_000 {
            memtable.open(&probe).unwrap().unwrap().splice(len, 0, 1).unwrap();
        }
        assert!(memtable.moves() < 40, "moved {} times", memtable.moves());
        let mut record = memtable.open(&probe).unwrap().unwrap();
        record.splice(10, 99_990, 0).unwrap();
        assert!(memtable.stats().arena_used_bytes < 1000, "what shrank gives its room back");
    }
}
