//! The handle that a task thread works with.

mod operator;

use std::fmt;
use std::ops::{Bound, ControlFlow};

use crate::base::{
    Error, KeyGroup, KeyGroupRange, MaxParallelism, Result, SnapshotId, SnapshotMode,
};
use crate::codec::KeyRef;
use crate::memtable::ValueMut;
use crate::shard::ShardCore;
use crate::shard::rekey::{OldCodecs, Rename};
use crate::shard::stats::StateStats;
use crate::shard::store::{KeyedStore, StateId, StateInfo, StateSpec};
use crate::shard::timers::store::{TimerRef, TimerSpec, TimerStore, TimersId};
use crate::snapshot::pipeline::{Destination, Pipeline};
use crate::snapshot::sink::SnapshotSink;
use crate::snapshot::ticket::SnapshotTicket;
use crate::version::stats::TableStats;

use super::stats::ShardStats;
use super::{Backend, check_user_meta};

use std::sync::Arc;

/// State of one range of key groups, owned by one thread at a time.
///
/// Reading and writing is [`KeyedStore`]'s part, or a typed state's such as
/// [`ValueState`](crate::ValueState); this type adds snapshots. It may be sent
/// to another thread, not shared with one.
///
/// Dropping it leaves snapshots that are under way to the background.
pub struct Shard {
    core: ShardCore,
    pipeline: Arc<Pipeline>,
    backend: Backend,
    last_snapshot: Option<SnapshotId>,
}

impl Shard {
    pub(super) fn new(core: ShardCore, pipeline: Arc<Pipeline>, backend: Backend) -> Self {
        Self { core, pipeline, backend, last_snapshot: None }
    }

    /// The key groups that the shard owns.
    pub fn groups(&self) -> KeyGroupRange {
        self.core.groups()
    }

    /// The name of the operator that the shard is a part of.
    pub fn operator(&self) -> &str {
        self.core.name()
    }

    /// The names of all its states, restored ones that nobody has asked for
    /// included; those of operator states come last.
    pub fn state_names(&self) -> impl Iterator<Item = &str> {
        let keyed = self.core.states().iter().map(|state| state.name.as_str());
        keyed.chain(self.core.operator().names())
    }

    /// Takes a snapshot of the shard as it is now.
    ///
    /// Returns at once: the time does not depend on how much state there is or
    /// has changed (it is counted as
    /// [`pause_ns`](crate::SnapshotReport::pause_ns)). The background does the
    /// rest while the shard goes on; the ticket tells how it went. Several
    /// snapshots may be under way; they finish in order. No lock is taken and
    /// no system call made: a background thread that has nothing to do finds
    /// the snapshot within 16 ms, and at once if somebody waits for the ticket.
    ///
    /// `user_meta` is kept in the manifest and returned by
    /// [`Backend::snapshot_meta`]: source offsets, a watermark.
    ///
    /// # Errors
    /// `Invalid` if `id` is not above that of the last snapshot, or
    /// `user_meta` is too long; `Closed` if an internal failure has made
    /// snapshots impossible. The shard is then as it was.
    pub fn snapshot(&mut self, id: SnapshotId, user_meta: &[u8]) -> Result<SnapshotTicket> {
        self.snapshot_as(SnapshotMode::Incremental, id, user_meta)
    }

    /// Takes a snapshot as [`snapshot`](Self::snapshot) does, incremental or *full*.
    ///
    /// A full one names only files that were uploaded for it, under names that no
    /// snapshot before it has, so that all of those may be deleted, or it alone be copied
    /// elsewhere. The task thread does not notice the difference; the background uploads
    /// all tables of the shard once more. Into a directory on the same file system those
    /// that are in the local directory are linked, without being read; what only the
    /// store has is read from there and put there again. A table that several shards
    /// share, as they do after their number was changed and until it is merged, is
    /// uploaded whole by each of them. [`bytes_new`](crate::SnapshotReport::bytes_new)
    /// says what it came to.
    ///
    /// Later incremental snapshots build on it, once it was published: they share its
    /// files, and name no older ones.
    ///
    /// # Errors
    /// As of [`snapshot`](Self::snapshot).
    pub fn snapshot_as(
        &mut self,
        mode: SnapshotMode,
        id: SnapshotId,
        user_meta: &[u8],
    ) -> Result<SnapshotTicket> {
        self.begin_snapshot(Destination::Own(mode), id, user_meta)
    }

    /// Takes a snapshot as [`snapshot`](Self::snapshot) does, all of whose files go into
    /// `sink`, which may lead to any store: into a savepoint's folder, say
    /// ([`NativeSavepoint::sink`](crate::savepoint::NativeSavepoint::sink)). The
    /// background puts every table of the shard there, from the local directory or, if
    /// it is not there, from the shard's own store; into that nothing is written. The
    /// shard remembers nothing of it: later snapshots do not build on it, and neither
    /// [`notify_complete`](Self::notify_complete) nor
    /// [`notify_aborted`](Self::notify_aborted) has to be said of it.
    ///
    /// # Errors
    /// As of [`snapshot`](Self::snapshot).
    pub fn snapshot_to(
        &mut self,
        sink: Arc<dyn SnapshotSink>,
        id: SnapshotId,
        user_meta: &[u8],
    ) -> Result<SnapshotTicket> {
        self.begin_snapshot(Destination::Elsewhere(sink), id, user_meta)
    }

    fn begin_snapshot(
        &mut self,
        to: Destination,
        id: SnapshotId,
        user_meta: &[u8],
    ) -> Result<SnapshotTicket> {
        let env = &self.backend.inner.env;
        let started_ns = env.monotonic_ns();
        check_user_meta(user_meta)?;
        self.pipeline.check_sound()?;
        if let Some(last) = self.last_snapshot
            && id <= last
        {
            return Err(Error::invalid("snapshot ids must ascend")
                .at(format_args!("shard {} of operator {:?}", self.groups(), self.operator()))
                .expected(format_args!("an id above {last}"))
                .found(id)
                .remedy("use the number of the checkpoint's barrier"));
        }
        let frozen = self.core.freeze()?;
        self.last_snapshot = Some(id);
        let ticket = self.pipeline.submit(id, to, frozen, user_meta.to_vec(), started_ns);
        ticket.set_pause_ns(env.monotonic_ns().saturating_sub(started_ns));
        Ok(ticket)
    }

    /// Tells that the checkpoint of a snapshot was completed: from now on its
    /// tables are relied upon. An unknown or old id changes nothing of that. With a memory
    /// budget the shard then reads the newest tables, at a cost that grows with their number.
    pub fn notify_complete(&mut self, id: SnapshotId) {
        self.pipeline.confirm(id);
        // A shard that does nothing would keep tables open that were merged meanwhile.
        self.core.take_newest_view();
    }

    /// Tells that the checkpoint of a snapshot was given up. Its changes are
    /// part of the next snapshot all the same; tables that were uploaded for it
    /// are used again if the sink still has them. A snapshot that is still
    /// under way is left to finish; to stop it, cancel its ticket. An unknown
    /// or old id does nothing.
    pub fn notify_aborted(&mut self, id: SnapshotId) {
        self.pipeline.forget(id);
    }

    /// Brings up to `records` more records of a restored shard into memory, if
    /// the background has them ready, and says whether all are there of the
    /// states that are registered. A list or a map comes as a whole and counts as
    /// several. Every operation does a few; this is for idle moments.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had.
    pub fn warm_up(&mut self, records: usize) -> Result<bool> {
        self.core.warm(records)?;
        Ok(self.core.is_warm())
    }

    /// Says that event time has come to `ms` milliseconds: values that [live by
    /// it](crate::Ttl) age. A time before an earlier one is passed over. The
    /// watermark is part of snapshots. Timers have theirs, said with
    /// [`pop_due`](TimerStore::pop_due).
    pub fn advance_watermark(&mut self, ms: i64) {
        self.core.advance_watermark(ms);
    }

    /// The event time that was said or restored last, in milliseconds.
    pub fn watermark(&self) -> Option<i64> {
        self.core.watermark()
    }

    /// Looks at up to `records` records of each state that are due to have
    /// expired, removes those that have, and says whether there are no more. Every
    /// operation on a state does a few; this is for idle moments, and for states
    /// that nothing operates on.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had to note a deletion.
    pub fn expire(&mut self, records: usize) -> Result<bool> {
        self.core.expire(records)
    }

    /// Lets records that tables have leave memory until `bytes` are free or there are
    /// no more, those first that nobody asked for lately, and says how many bytes
    /// they took. A shard with a [memory budget](crate::BackendBuilder::memory_budget_bytes)
    /// does so by itself when memory is short; this is for giving memory to others
    /// at a moment of the caller's choice. Without a budget nothing goes.
    ///
    /// # Errors
    /// None at present.
    pub fn evict(&mut self, bytes: u64) -> Result<u64> {
        self.core.evict(bytes)
    }

    /// Has what changed since the last snapshot written to a local table now, so that
    /// the next snapshot finds less to do and the records may be [evicted](Self::evict).
    /// Does not wait for it. A shard with a memory budget does so by itself when a
    /// part of its memory has changed; without a budget nothing happens.
    ///
    /// # Errors
    /// `Closed` as of [`snapshot`](Self::snapshot).
    pub fn write_early(&mut self) -> Result<()> {
        self.pipeline.check_sound()?;
        self.core.write_early_if_dirty()
    }

    /// As [`get_many`](KeyedStore::get_many), for keys without namespaces
    /// whose groups follow from their hashes. Where the calls of an object-safe
    /// trait would be felt, this is faster by a third: the compiler sees the
    /// keys and the closure.
    ///
    /// # Errors
    /// As `get_many`.
    #[inline]
    pub fn get_batch<K: AsRef<[u8]>>(
        &mut self,
        state: StateId,
        keys: &[K],
        visit: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.core.get_each(state, keys, |key| KeyRef::new(key.as_ref()), visit)
    }

    /// As [`update_many`](KeyedStore::update_many), for keys without
    /// namespaces whose groups follow from their hashes. Where the calls of an
    /// object-safe trait would be felt, this is faster by a third: the
    /// compiler sees the keys and the closure.
    ///
    /// # Errors
    /// As `update_many`.
    #[inline]
    pub fn update_batch<K: AsRef<[u8]>>(
        &mut self,
        state: StateId,
        keys: &[K],
        change: impl FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        self.core.update_each(state, keys, |key| KeyRef::new(key.as_ref()), change)
    }

    /// Size and shape, without blocking on the background for longer than it
    /// takes to change a list of tables and, after a merge, to remove the
    /// local files of those that were replaced.
    pub fn stats(&self) -> ShardStats {
        let memory = self.core.memory();
        let spill = self.core.spill_stats();
        let (tables, table_bytes, is_merging, merges) = self.pipeline.table_stats();
        ShardStats {
            records: memory.records,
            dirty_records: memory.dirty_records,
            index_bytes: memory.index_bytes,
            arena_mapped_bytes: memory.arena_mapped_bytes,
            arena_used_bytes: memory.arena_used_bytes,
            arena_free_bytes: memory.arena_free_bytes,
            timer_queue_bytes: self.core.timer_queue_bytes() as u64,
            operator_state_bytes: self.core.operator().bytes(),
            expiry_queue_bytes: self.core.expiry_queue_bytes() as u64,
            is_warm: self.core.is_warm(),
            allowed_bytes: spill.allowed_bytes,
            evicted_records: spill.evicted_records,
            early_writes: spill.early_writes,
            tables_met: spill.tables_met,
            tables,
            table_bytes,
            is_merging,
            lookups: self.core.lookup_stats(),
            stalls: self.core.stalls(),
            merges,
        }
    }

    /// The tables of the shard, oldest first, with what they hold. For one key a later
    /// one wins. Costs a few hundred bytes a table and state, and no file is read.
    pub fn tables(&self) -> Vec<TableStats> {
        self.pipeline.tables()
    }

    /// Every state that there is, by name, with what memory and tables hold of it. Costs
    /// as [`tables`](Self::tables).
    pub fn state_stats(&self) -> Vec<StateStats> {
        let mut states = self.core.state_stats();
        for table in self.pipeline.tables() {
            for held in table.states.iter().filter(|held| !held.is_dropped) {
                let Some(state) = states.iter_mut().find(|state| state.name == held.name) else {
                    continue;
                };
                state.table_records += table.share_of(held.records);
                state.table_bytes += table.share_of(held.raw_bytes());
            }
        }
        states
    }
}

impl KeyedStore for Shard {
    fn max_parallelism(&self) -> MaxParallelism {
        self.core.max_parallelism()
    }

    fn register(&mut self, spec: StateSpec) -> Result<StateId> {
        self.core.register(spec)
    }

    fn drop_state(&mut self, name: &str) -> Result<bool> {
        self.core.drop_state(name)
    }

    fn states(&self) -> Vec<StateInfo> {
        self.core.state_infos()
    }

    fn register_rekeyed(
        &mut self,
        spec: StateSpec,
        old: OldCodecs,
        rename: &mut dyn Rename,
    ) -> Result<StateId> {
        self.core.register_rekeyed(spec, old, rename)
    }

    #[inline(always)]
    fn get(&mut self, state: StateId, key: KeyRef<'_>) -> Result<Option<&[u8]>> {
        self.core.get(state, key)
    }

    #[inline(always)]
    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        self.core.put(state, key, value)
    }

    #[inline]
    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        self.core.delete(state, key)
    }

    #[inline(always)]
    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        self.core.update(state, key, change)
    }

    fn get_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.core.get_many(state, keys, visit)
    }

    fn update_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        change: &mut dyn FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        self.core.update_many(state, keys, change)
    }

    #[inline(always)]
    fn list_append(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        self.core.list_append(state, key, elements)
    }

    #[inline(always)]
    fn list_read(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        self.core.list_read(state, key, visit)
    }

    fn list_replace(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        self.core.list_replace(state, key, elements)
    }

    #[inline(always)]
    fn map_get(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<Option<&[u8]>> {
        self.core.map_get(state, key, entry)
    }

    #[inline(always)]
    fn map_put(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
        value: &[u8],
    ) -> Result<()> {
        self.core.map_put(state, key, entry, value)
    }

    fn map_remove(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<()> {
        self.core.map_remove(state, key, entry)
    }

    #[inline(always)]
    fn map_scan(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.core.map_scan(state, key, from, visit)
    }

    fn map_is_empty(&mut self, state: StateId, key: KeyRef<'_>) -> Result<bool> {
        self.core.map_is_empty(state, key)
    }

    fn clear(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        self.core.clear(state, key)
    }

    fn visit_keys(
        &mut self,
        state: StateId,
        namespace: Option<&[u8]>,
        visit: &mut dyn FnMut(KeyGroup, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.core.visit_keys(state, namespace, visit)
    }
}

impl TimerStore for Shard {
    fn open_timers(&mut self, spec: TimerSpec) -> Result<TimersId> {
        self.core.open_timers(spec)
    }

    fn open_timers_rekeyed(
        &mut self,
        spec: TimerSpec,
        old: OldCodecs,
        rename: &mut dyn Rename,
    ) -> Result<TimersId> {
        self.core.open_timers_rekeyed(spec, old, rename)
    }

    #[inline]
    fn register_timer(
        &mut self,
        timers: TimersId,
        timestamp: i64,
        key: KeyRef<'_>,
    ) -> Result<bool> {
        self.core.register_timer(timers, timestamp, key)
    }

    #[inline]
    fn delete_timer(&mut self, timers: TimersId, timestamp: i64, key: KeyRef<'_>) -> Result<bool> {
        self.core.delete_timer(timers, timestamp, key)
    }

    fn next_timer(&mut self, timers: TimersId) -> Result<Option<i64>> {
        self.core.next_timer(timers)
    }

    #[inline]
    fn pop_due(
        &mut self,
        timers: TimersId,
        now: i64,
        take: &mut dyn FnMut(&TimerRef<'_>) -> Result<()>,
    ) -> Result<bool> {
        self.core.pop_due(timers, now, take)
    }

    fn timer_watermark(&self, timers: TimersId) -> Result<Option<i64>> {
        self.core.timer_watermark(timers)
    }

    fn pending_timers(&mut self, timers: TimersId) -> Result<u64> {
        self.core.pending_timers(timers)
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("operator", &self.operator())
            .field("groups", &self.groups())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
