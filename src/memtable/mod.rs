//! The live records of one state of one shard: a hash index over an arena,
//! changed in place, frozen in constant time.
//!
//! # The algorithm
//!
//! Every record carries the epoch of its last change; the memtable has a
//! current epoch and knows the last *extracted* one.
//!
//! 1. *Change a record of the current epoch*: in place. It is dirty already.
//! 2. *Change a record of an extracted epoch*: in place; mark it dirty and
//!    give it the current epoch (its "first touch").
//! 3. *Change a record between the two* (frozen, and perhaps being read by an
//!    extractor): copy it to a new block, which belongs to the current epoch,
//!    point the index at the copy, and *retire* the old block until its epoch
//!    has been extracted.
//! 4. *Freeze*: hand the dirty map and shared references to the chunks to the
//!    caller, and advance the epoch. Nothing is copied, locked or waited for.
//! 5. *Extract*, on another thread: copy the dirty records of the frozen epoch
//!    into a [`Run`](extract::Run), then publish the epoch as extracted.
//!    Sorting, compressing and writing come later and hold nobody up.
//! 6. *Chores*, a few with each first touch: free retired blocks and dropped
//!    tombstones of extracted epochs.
//! 7. *Evict*, where memory is short ([`evict`]): let records go that tables have as
//!    they are; and [compact]: move what is left together, so that whole chunks go back
//!    to the system.
//!
//! A delete leaves a tombstone, so that the next delta says so; except that a
//! record created in the current epoch, whose key is known to be absent from
//! every table (`FRESH`), vanishes without a trace. A tombstone is dropped
//! once it has been extracted and no table below needs it to be hidden.
//!
//! The values of a state of [lists] or [maps] are layouts of their own
//! ([`collection`]), which are changed piece by piece ([`buffer`]) under the
//! same rules.
//!
//! The memtable knows no files and no threads.

mod addr;
mod arena;
#[cfg(test)]
mod at_hand_tests;
mod buffer;
pub(crate) mod collection;
mod compact;
mod copies;
mod dirty;
mod entry;
mod evict;
pub(crate) mod expiry;
pub(crate) mod extract;
mod freelist;
mod handoff;
mod hasher;
mod index;
pub(crate) mod lifetime;
mod lists;
pub(crate) mod maps;
pub(crate) mod queue;
mod record;
mod sync;
#[cfg(test)]
mod tests;
mod value_mut;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use crossbeam_queue::SegQueue;

use crate::base::{Epoch, Error, KeyGroup, Result};
use crate::env::pages::PagePool;

use self::addr::Addr;
use self::arena::{Arena, Block};
pub(crate) use self::compact::Compaction;
use self::dirty::{ChunkBits, DirtyMap};
use self::entry::AtHand;
pub(crate) use self::entry::Hint;
use self::evict::Sweep;
pub(crate) use self::evict::{Changed, Evicted};
use self::expiry::{Expiry, Time};
use self::extract::{Buried, Frozen};
use self::handoff::Handoff;
use self::hasher::IndexHasher;
use self::index::{Index, Slot};
pub(crate) use self::record::Probe;
pub(crate) use self::record::Record;
use self::record::{FRESH, LAST_EPOCH};
use self::sync::AtomicU32;
pub use self::value_mut::ValueMut;

/// Operations that are in flight at once in a batched call: enough to cover a
/// miss to memory with the work of the others, few enough that the lines are
/// still there when their turn comes.
pub(crate) const BATCH: usize = 16;
/// Blocks freed by one round of chores.
const CHORES: usize = 4;

/// What writer and extractor share, besides the chunks.
pub(super) struct Shared {
    handoff: Handoff,
    /// Tombstones that have been extracted.
    buried: SegQueue<Vec<Buried>>,
    /// How large a part of the records that changed the last deltas held, of
    /// [`evict::WHOLE`]: of collections only what changed of each is in them.
    delta_share: AtomicU32,
    /// Cleared dirty bits, to be used again.
    spare_bits: SegQueue<ChunkBits>,
    /// What the records belong to, for errors. Here, since it is hardly ever
    /// looked at, and a memtable is at every operation.
    owner: String,
}

/// What a memtable says about a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup<'a> {
    /// It has never heard of it: look below, if there is anything below.
    Absent,
    /// It was deleted; what tables below say does not count.
    Deleted,
    /// Its value.
    Value(&'a [u8]),
}

/// Whether tables below the memtable may hold records that it does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Below {
    /// The memtable is complete: what it does not hold does not exist.
    Nothing,
    /// A key that is absent here may be present in a table.
    Tables,
}

/// What the values of a memtable's records are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holds {
    /// A caller's values.
    Values,
    /// [Lists](lists).
    Lists,
    /// Parts of [maps].
    Maps,
    /// Something of the memtable's owner that callers must not touch as values.
    Others,
}

/// Size and shape of a memtable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemtableStats {
    /// Records, tombstones included.
    pub(crate) records: u64,
    /// Records that the next delta will hold.
    pub(crate) dirty_records: u64,
    /// Bytes of the index.
    pub(crate) index_bytes: u64,
    /// Bytes mapped for records.
    pub(crate) arena_mapped_bytes: u64,
    /// Bytes of blocks in use.
    pub(crate) arena_used_bytes: u64,
    /// Bytes of blocks that wait to be used again.
    pub(crate) arena_free_bytes: u64,
}

/// See the [module documentation](self).
pub(crate) struct Memtable {
    index: Index,
    hasher: IndexHasher,
    arena: Arena,
    dirty: DirtyMap,
    epoch: Epoch,
    /// The last extracted epoch, as last seen.
    extracted: Epoch,
    shared: Arc<Shared>,
    /// Old blocks of records that were copied while frozen, oldest epoch
    /// first, with the epoch that must be extracted before they can be freed.
    retired: VecDeque<(Epoch, Addr)>,
    /// Extracted tombstones that wait to be dropped.
    buried: VecDeque<Buried>,
    below: Below,
    /// Whether some records are in tables only, and nobody is bringing them up.
    is_partial: bool,
    /// The last epoch whose changes are in the tables that its owner reads, if that
    /// counts: nothing that is not may be forgotten then.
    durable: Option<Epoch>,
    eviction: Sweep,
    /// Whether a record may be in another group than its key's hash says.
    groups_are_given: bool,
    holds: Holds,
    /// Where among its pages a map was last looked at for some that can go.
    sweep: u32,
    /// For keys whose group follows from their hash, and for those that come
    /// with a group: what one look may tell.
    at_hand: [AtHand; 2],
    /// The same for operations on values that expire.
    timed_at_hand: [AtHand; 2],
    time: Time,
    /// What there is besides, if values expire.
    expiry: Option<Box<Expiry>>,
    /// Where a new list is put together.
    scratch: Vec<u8>,
    /// What went wrong inside the closure of an update.
    failure: Option<Error>,
}

impl Memtable {
    /// An empty memtable. `seed` is best a random number.
    pub(crate) fn new(pool: Arc<PagePool>, below: Below, seed: u64) -> Self {
        let mut memtable = Self {
            index: Index::new(Arc::clone(&pool)),
            hasher: IndexHasher::new(seed),
            arena: Arena::new(pool),
            dirty: DirtyMap::default(),
            epoch: Epoch::FIRST,
            extracted: Epoch::CLEAN,
            shared: Arc::new(Shared {
                handoff: Handoff::new(Epoch::CLEAN.0),
                buried: SegQueue::new(),
                delta_share: AtomicU32::new(evict::WHOLE),
                spare_bits: SegQueue::new(),
                owner: String::new(),
            }),
            retired: VecDeque::new(),
            buried: VecDeque::new(),
            below,
            is_partial: false,
            durable: None,
            eviction: Sweep::default(),
            groups_are_given: false,
            holds: Holds::Values,
            sweep: 0,
            at_hand: [AtHand::NOTHING; 2],
            timed_at_hand: [AtHand::NOTHING; 2],
            time: Time::standing_still(),
            expiry: None,
            scratch: Vec::new(),
            failure: None,
        };
        memtable.note_at_hand();
        memtable
    }

    /// Says what the records belong to, which errors from within a
    /// [`ValueMut`] then name. For a memtable that was not frozen yet.
    pub(crate) fn name_owner(&mut self, owner: String) {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.owner = owner;
        }
    }

    /// From now on there may be records in other groups than the hashes of
    /// their keys say.
    pub(crate) fn expect_given_groups(&mut self) {
        if !self.groups_are_given {
            self.groups_are_given = true;
            self.note_at_hand();
        }
    }

    /// Says what the values of records are. Unless they are a caller's values,
    /// no operation on values finds anything at hand.
    pub(crate) fn hold(&mut self, what: Holds) {
        self.holds = what;
        self.note_at_hand();
    }

    /// Whether a key that is absent here may be present in a table.
    #[inline]
    pub(crate) fn below(&self) -> Below {
        self.below
    }

    /// Everything that the tables hold is here now, or will never be asked
    /// for: from now on absent means absent.
    pub(crate) fn set_complete(&mut self) {
        debug_assert!(!self.is_partial, "what has gone is in tables only");
        self.below = Below::Nothing;
        self.note_at_hand();
    }

    pub(crate) fn stats(&self) -> MemtableStats {
        let bytes = self.arena.bytes();
        MemtableStats {
            records: self.index.len(),
            dirty_records: self.dirty.records(),
            index_bytes: self.index.bytes(),
            arena_mapped_bytes: bytes.mapped,
            arena_used_bytes: bytes.used,
            arena_free_bytes: bytes.free,
        }
    }

    #[inline(always)]
    fn find(&self, probe: &Probe<'_>) -> Option<Found> {
        let found = self.index.find(probe.hash, |addr| self.recognise(addr, probe));
        match found {
            Some((slot, block)) => Some(Found { slot, block }),
            None => self.find_beyond(*probe),
        }
    }

    /// The rare rest of [`find`](Self::find). Takes the probe by value, so
    /// that in the usual case it need not be in memory at all.
    #[cold]
    #[inline(never)]
    fn find_beyond(&self, probe: Probe<'_>) -> Option<Found> {
        self.index
            .find_beyond(probe.hash, |addr| self.recognise(addr, &probe))
            .map(|(slot, block)| Found { slot, block })
    }

    #[inline(always)]
    fn recognise(&self, addr: Addr, probe: &Probe<'_>) -> Option<Block> {
        let block = self.arena.block(addr);
        self.arena.is(block, probe).then_some(block)
    }

    #[inline(always)]
    fn is_live(&self, block: Block) -> bool {
        !self.arena.header(block).is_tombstone()
    }

    /// The hash that places a key here.
    #[inline(always)]
    pub(crate) fn hash(&self, key: &[u8], namespace: &[u8]) -> u64 {
        self.hasher.hash(key, namespace)
    }

    /// A key, to be looked up here.
    #[inline]
    pub(crate) fn probe<'a>(
        &self,
        group: KeyGroup,
        key: &'a [u8],
        namespace: &'a [u8],
    ) -> Probe<'a> {
        Probe { hash: self.hash(key, namespace), group, key, namespace }
    }

    /// Looks a key up.
    #[inline]
    pub(crate) fn get(&self, probe: &Probe<'_>) -> Lookup<'_> {
        match self.find(probe) {
            None => Lookup::Absent,
            Some(found) if self.is_live(found.block) => {
                Lookup::Value(self.arena.value_of(found.block, probe.key, probe.namespace))
            }
            Some(_) => Lookup::Deleted,
        }
    }

    /// Calls `visit` with the place, group, key and namespace of every live
    /// record in memory whose key and namespace have this hash. That is one or
    /// none, unless hashes collide.
    #[inline]
    pub(crate) fn visit_hash(&self, hash: u64, visit: impl FnMut(Shown, KeyGroup, &[u8], &[u8])) {
        let visit = RefCell::new(visit);
        // Recognises nothing, so that the index shows all it has.
        let show = |addr| -> Option<()> {
            let block = self.arena.block(addr);
            if self.is_live(block) && hash_of(&self.hasher, &self.arena, addr) == hash {
                let (key, namespace) = self.arena.key_and_namespace(block);
                (visit.borrow_mut())(Shown(addr), self.arena.header(block).group(), key, namespace);
            }
            None
        };
        self.index.find(hash, show);
        self.index.find_beyond(hash, show);
    }

    /// Deletes a live record that [`visit_hash`](Self::visit_hash) has just shown.
    ///
    /// # Errors
    /// As of [`delete`](Self::delete).
    #[inline]
    pub(crate) fn delete_shown(&mut self, Shown(addr): Shown, probe: &Probe<'_>) -> Result<()> {
        // The address counts only if the index still has it.
        let same = |found| (found == addr).then_some(());
        let found = self.index.find(probe.hash, same);
        match found.or_else(|| self.index.find_beyond(probe.hash, same)) {
            Some((slot, ())) => self.bury(Found { slot, block: self.arena.block(addr) }, probe),
            None => Ok(()),
        }
    }

    /// Inserts an empty value if the key has none, and says whether it had none.
    /// What only tables have does not count.
    ///
    /// # Errors
    /// As of [`put`](Self::put).
    #[inline]
    pub(crate) fn add_absent(&mut self, probe: &Probe<'_>) -> Result<bool> {
        match self.find(probe) {
            Some(found) if self.is_live(found.block) => Ok(false),
            Some(found) => self.overwrite(found, probe, &[]).map(|_| true),
            None => self.insert(probe, &[]).map(|_| true),
        }
    }

    /// The same of a key that no table has if it is absent here, which is known of it
    /// although tables may have others.
    ///
    /// # Errors
    /// As of [`put`](Self::put).
    pub(crate) fn add_absent_everywhere(&mut self, probe: &Probe<'_>) -> Result<bool> {
        match self.find(probe) {
            Some(_) => self.add_absent(probe),
            None => self.add(probe, Some(&[]), FRESH, 0).map(|_| true),
        }
    }

    /// Inserts or replaces.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had; the record is as it was.
    #[inline]
    pub(crate) fn put(&mut self, probe: &Probe<'_>, value: &[u8]) -> Result<()> {
        match self.find(probe) {
            Some(found) => self.overwrite(found, probe, value).map(drop),
            None => self.insert(probe, value).map(drop),
        }
    }

    /// Deletes, and says whether the memtable had a value.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had for a tombstone; the record is
    /// as it was.
    pub(crate) fn delete(&mut self, probe: &Probe<'_>) -> Result<bool> {
        match self.find(probe) {
            Some(found) if self.is_live(found.block) => self.bury(found, probe).map(|()| true),
            Some(_) => Ok(false),
            None if self.below == Below::Tables => self.add(probe, None, 0, 0).map(|_| false),
            None => Ok(false),
        }
    }

    /// Brings in a record from a table, unchanged, unless the memtable has
    /// something newer to say about its key.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had.
    pub(crate) fn promote(&mut self, probe: &Probe<'_>, value: &[u8]) -> Result<()> {
        if self.find(probe).is_none() {
            self.reserve(probe.hash)?;
            let cold = self.cold_at_first();
            let (addr, _) = self.arena.create(probe, Some(value), cold, Epoch::CLEAN, 0)?;
            self.index.insert(probe.hash, addr);
            self.expect_expiry(probe.hash, value);
        }
        Ok(())
    }

    /// Ends the current epoch. Constant time: nothing is copied.
    ///
    /// # Errors
    /// `Closed` after 134 million epochs.
    pub(crate) fn freeze(&mut self) -> Result<Frozen> {
        let frozen = self.epoch;
        if frozen == LAST_EPOCH {
            return Err(Error::closed("the shard has used up its epochs")
                .expected(format_args!("at most {} snapshots in one life", LAST_EPOCH.0))
                .remedy("restore the shard from its last snapshot"));
        }
        self.epoch = frozen.next();
        self.note_at_hand();
        Ok(Frozen {
            epoch: frozen,
            dirty: std::mem::take(&mut self.dirty),
            chunks: self.arena.chunk_set(),
            hasher: self.hasher.clone(),
            shared: Arc::clone(&self.shared),
            holds: self.holds,
            record_bytes: (self.arena.bytes().used / self.index.len().max(1)) as usize,
            pool: Arc::clone(self.arena.pool()),
        })
    }

    /// Frees what earlier epochs left behind, a bounded amount of it; says
    /// whether there may be more to do.
    pub(crate) fn chores(&mut self) -> bool {
        self.refresh_extracted();
        let mut left = CHORES;
        while left > 0 {
            match self.retired.front() {
                Some(&(epoch, addr)) if epoch <= self.extracted => {
                    self.retired.pop_front();
                    self.arena.release(addr);
                    left -= 1;
                }
                _ => break,
            }
        }
        // While tables below may hold the key, its tombstone must stay; if records are
        // evicted, until that is.
        let evicts_itself = self.is_partial && self.holds != Holds::Others;
        if evicts_itself {
            while self.shared.buried.pop().is_some() {}
            self.buried = VecDeque::new();
        } else if self.below == Below::Nothing || self.is_partial {
            if self.buried.is_empty()
                && let Some(more) = self.shared.buried.pop()
            {
                self.buried = more.into();
            }
            while left > 0
                && let Some(&buried) = self.buried.front()
            {
                if !self.drop_tombstone(buried) {
                    break;
                }
                self.buried.pop_front();
                left -= 1;
            }
        }
        left == 0
    }

    /// Drops a tombstone, if that is still what it is. The block may have
    /// been freed and used again since, even by another key; but if the index
    /// still holds its address then there is a record, and its header says
    /// whether it, too, is an extracted tombstone. `false` if it must stay until
    /// a table has it.
    fn drop_tombstone(&mut self, buried: Buried) -> bool {
        let addr = Addr(buried.addr);
        let same = |found| (found == addr).then_some(found);
        let found = self.index.find(buried.hash, same);
        if let Some((slot, addr)) = found.or_else(|| self.index.find_beyond(buried.hash, same)) {
            let header = self.arena.header(self.arena.block(addr));
            if header.is_tombstone() && header.epoch() <= self.extracted {
                if self.durable.is_some_and(|durable| header.epoch() > durable) {
                    return false;
                }
                self.index.remove(hash_of(&self.hasher, &self.arena, addr), slot);
                self.arena.release(addr);
            }
        }
        true
    }

    #[inline]
    fn refresh_extracted(&mut self) {
        self.extracted = Epoch(self.shared.handoff.extracted());
    }

    /// Whether a record of another epoch may be changed where it is.
    #[inline]
    fn is_thawed(&mut self, epoch: Epoch) -> bool {
        if epoch <= self.extracted {
            return true;
        }
        self.refresh_extracted();
        epoch <= self.extracted
    }

    #[inline]
    fn mark_dirty(&mut self, addr: Addr) {
        self.dirty.set(addr, || self.shared.spare_bits.pop());
    }

    #[inline]
    fn reserve(&mut self, hash: u64) -> Result<()> {
        let (hasher, arena) = (&self.hasher, &self.arena);
        self.index.reserve(
            hash,
            |addr| hash_of(hasher, arena, addr),
            |addr| arena.prefetch(arena.block(addr)),
        )
    }

    fn add(
        &mut self,
        probe: &Probe<'_>,
        value: Option<&[u8]>,
        fresh: u64,
        slack: usize,
    ) -> Result<Block> {
        self.reserve(probe.hash)?;
        let (addr, block) = self.arena.create(probe, value, fresh, self.epoch, slack)?;
        self.index.insert(probe.hash, addr);
        self.mark_dirty(addr);
        if let Some(value) = value {
            self.expect_expiry(probe.hash, value);
        }
        self.some_chores();
        Ok(block)
    }

    #[inline]
    fn insert(&mut self, probe: &Probe<'_>, value: &[u8]) -> Result<Block> {
        let fresh = if self.below == Below::Nothing { FRESH } else { 0 };
        self.add(probe, Some(value), fresh, 0)
    }

    #[inline]
    fn some_chores(&mut self) {
        if !self.retired.is_empty() || !self.buried.is_empty() || !self.shared.buried.is_empty() {
            self.chores();
        }
    }

    /// Makes a record of an earlier epoch one of the current epoch, which may
    /// be changed in place, and marks it dirty.
    #[inline]
    fn first_touch(&mut self, slot: Slot, block: Block) -> Result<Block> {
        let epoch = self.arena.header(block).epoch();
        if self.is_thawed(epoch) {
            self.arena.touch(block, self.epoch);
            self.mark_dirty(self.index.addr(slot));
            return Ok(block);
        }
        self.touch_a_copy(slot, block, epoch)
    }

    /// The same for a record that is still frozen: a copy takes its place.
    #[inline(never)]
    fn touch_a_copy(&mut self, slot: Slot, block: Block, epoch: Epoch) -> Result<Block> {
        let addr = self.index.addr(slot);
        let (copy_addr, copy) = self.arena.copy(block, self.epoch)?;
        self.index.replace(slot, copy_addr);
        self.mark_dirty(copy_addr);
        self.retire(addr, epoch);
        Ok(copy)
    }

    fn retire(&mut self, addr: Addr, epoch: Epoch) {
        self.arena.note_move();
        // Epochs in the queue need not ascend (an older frozen record may be
        // touched after a younger one); waiting for the youngest in front of
        // it delays a block a little and never frees one too early.
        let epoch = self.retired.back().map_or(epoch, |&(last, _)| last.max(epoch));
        self.retired.push_back((epoch, addr));
        self.some_chores();
    }

    /// Gives the record a new value.
    #[inline]
    fn overwrite(&mut self, found: Found, probe: &Probe<'_>, value: &[u8]) -> Result<Block> {
        let block = found.block;
        let header = self.arena.header(block);
        let epoch = header.epoch();
        let current = epoch == self.epoch;
        if header.is_tombstone() {
            self.expect_expiry(probe.hash, value);
        }
        if self.arena.fits(block, value.len()) && (current || self.is_thawed(epoch)) {
            if !current {
                self.arena.touch(block, self.epoch);
                self.mark_dirty(self.index.addr(found.slot));
            }
            self.arena.write_value(block, value);
            return Ok(block);
        }
        // A value that grew may grow again: an eighth of slack makes a
        // thousand small appends move it some fifty times instead of each time.
        let grew = value.len() > header.value_len();
        self.rewrite(found, probe, Some(value), if grew { value.len() / 8 } else { 0 })
    }

    /// Replaces the record by a new one elsewhere.
    fn rewrite(
        &mut self,
        found: Found,
        probe: &Probe<'_>,
        value: Option<&[u8]>,
        slack: usize,
    ) -> Result<Block> {
        let Found { slot, block: old } = found;
        let old_addr = self.index.addr(slot);
        let header = self.arena.header(old);
        let epoch = header.epoch();
        let current = epoch == self.epoch;
        let fresh = if current && header.has(FRESH) { FRESH } else { 0 };
        let (addr, block) = self.arena.create(probe, value, fresh, self.epoch, slack)?;
        self.index.replace(slot, addr);
        if current {
            self.dirty.clear(old_addr);
            self.arena.release(old_addr);
        } else if self.is_thawed(epoch) {
            self.arena.release(old_addr);
        } else {
            self.retire(old_addr, epoch);
        }
        self.mark_dirty(addr);
        Ok(block)
    }

    /// Deletes a live record.
    fn bury(&mut self, found: Found, probe: &Probe<'_>) -> Result<()> {
        let Found { slot, block } = found;
        let addr = self.index.addr(slot);
        let header = self.arena.header(block);
        let epoch = header.epoch();
        let current = epoch == self.epoch;
        if current && header.has(FRESH) {
            self.dirty.clear(addr);
            self.index.remove(probe.hash, slot);
            self.arena.release(addr);
            return Ok(());
        }
        if self.arena.fits(block, 0) && (current || self.is_thawed(epoch)) {
            if !current {
                self.arena.touch(block, self.epoch);
                self.mark_dirty(addr);
            }
            self.arena.bury(block);
            self.some_chores();
            return Ok(());
        }
        self.rewrite(found, probe, None, 0).map(drop)
    }

    #[cold]
    fn take_failure(&mut self) -> Error {
        let failure = self.failure.take();
        let failure = failure.expect("whoever says that it failed has left the reason here");
        match &*self.shared.owner {
            "" => failure,
            owner => failure.at(owner),
        }
    }

    /// Calls `visit` with every live record that is in memory, in no
    /// particular order, until it breaks.
    pub(crate) fn visit(
        &self,
        mut visit: impl FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.index.visit(|addr| {
            let block = self.arena.block(addr);
            let header = self.arena.header(block);
            if header.is_tombstone() {
                return ControlFlow::Continue(());
            }
            let (key, namespace) = self.arena.key_and_namespace(block);
            let value = Some(self.arena.value_of(block, key, namespace));
            visit(Record { group: header.group(), key, namespace, value })
        })
    }
}

/// The hash of a stored record, which is not stored with it.
fn hash_of(hasher: &IndexHasher, arena: &Arena, addr: Addr) -> u64 {
    let (key, namespace) = arena.key_and_namespace(arena.block(addr));
    hasher.hash(key, namespace)
}

impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memtable")
            .field("epoch", &self.epoch)
            .field("extracted", &self.extracted)
            .field("below", &self.below)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Where a record was when it was shown.
#[derive(Clone, Copy)]
pub(crate) struct Shown(Addr);

/// A record and the slot of the index that holds it.
#[derive(Clone, Copy)]
struct Found {
    slot: Slot,
    block: Block,
}
