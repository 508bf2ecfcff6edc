//! One range of key groups: read, write, freeze, flush, merge.
//!
//! [`ShardCore`] is what the task thread owns: the memtables of every state,
//! and the tables beneath them that were restored and are not in memory yet.
//! [`flush`] and [`compact`] are what the background does with what it is
//! handed. Uploading and publishing are the snapshot layer's business.

pub(crate) mod base_scan;
pub(crate) mod base_tables;
mod changes;
#[cfg(test)]
mod collection_tests;
mod collections;
pub(crate) mod compact;
pub(crate) mod contents;
pub(crate) mod entry_run;
pub(crate) mod flush;
mod footprint;
pub(crate) mod migration;
pub(crate) mod operator;
mod registry;
pub(crate) mod rekey;
pub(crate) mod spill;
pub(crate) mod stats;
pub(crate) mod store;
pub(crate) mod timers;
pub(crate) mod ttl;
mod values;
pub(crate) mod warm;

use std::collections::HashMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::base::hash::{group_of_hash, hash_key};
use crate::base::limits::check_key;
use crate::base::{Error, ErrorKind, KeyGroup, KeyGroupRange, MaxParallelism, Result};
use crate::codec::KeyRef;
use crate::env::pages::PagePool;
use crate::format::manifest::StateMeta;
use crate::memtable::extract::Frozen;
use crate::memtable::{Below, Changed, Memtable, MemtableStats, Probe, ValueMut};
use crate::table::{PlacedKey, TableReads};

pub(crate) use self::base_tables::BaseTable;
use self::base_tables::StateBase;
use self::collections::Family;
use self::contents::Contents;
use self::footprint::Footprint;
use self::migration::{Migrations, MigrationsThen};
use self::operator::{OneState, OperatorStates};
use self::rekey::{OldCodecs, Rename};
use self::spill::Spill;
use self::stats::{LookupStats, Stalls};
use self::store::{KeyedStore, StateId, StateInfo, StateSpec};
use self::timers::TimerState;
use self::ttl::{Clocks, StateTtl, Ttl};
use self::warm::{Warm, WarmBatch, WarmSource, Warmed, WarmedWhat};

/// Records that one operation brings into memory while the shard warms up.
const WARM_PER_OPERATION: usize = 8;

struct StateSlot {
    meta: StateMeta,
    family: Family,
    memtable: Memtable,
    base: StateBase,
    /// It was asked for in this life. Until then it stays in its tables.
    registered: bool,
    /// Tables had it when the shard was opened.
    restored: bool,
    /// Freezes of the shard before its memtable was there.
    since: u64,
    /// Something of it has no room in memory and stays in its tables.
    no_room: bool,
    /// What it was registered with, and what came of it.
    asked_ttl: Option<Ttl>,
    ttl: Option<StateTtl>,
    /// What look-ups in its tables came to.
    lookups: LookupStats,
}

impl StateSlot {
    /// Notes what time to live the state has.
    fn live_by(&mut self, ttl: Option<StateTtl>, spec: &StateSpec) {
        self.meta.ttl = ttl.as_ref().map(|ttl| ttl.meta);
        self.ttl = ttl;
        self.asked_ttl = spec.ttl;
    }

    /// Brings a collection from the warm-up into memory. One that has no room
    /// there is left in its tables: whoever asks for it is told.
    fn take_in(
        &mut self,
        group: KeyGroup,
        key: &[u8],
        namespace: &[u8],
        contents: &Contents,
    ) -> Result<()> {
        if self.memtable.below() == Below::Nothing {
            // It has taken in everything already, and forgotten some since.
            return Ok(());
        }
        self.lookups.promoted += 1;
        match contents.promote(&mut self.memtable, group, key, namespace) {
            Err(error) if error.kind() == ErrorKind::Invalid => {
                if !self.no_room {
                    let state = &self.meta.name;
                    tracing::warn!(state, %error, "a restored collection has no room in memory");
                }
                self.no_room = true;
                Ok(())
            }
            done => done,
        }
    }
}

struct Warming {
    source: Box<dyn WarmSource>,
    /// States that more may come of.
    wanted: usize,
    current: WarmBatch,
    next: usize,
}

/// The part of a shard that the task thread owns.
pub(crate) struct ShardCore {
    name: String,
    groups: KeyGroupRange,
    max_parallelism: MaxParallelism,
    states: Vec<StateSlot>,
    by_name: HashMap<String, u32>,
    /// What the states are, for manifests, in the order of `states`, but without
    /// those that were dropped; replaced when a state is added or dropped.
    metas: Arc<Vec<StateMeta>>,
    /// Names of states that were dropped since the last freeze.
    dropped: Vec<String>,
    /// How the background migrates values.
    migrations: Arc<Migrations>,
    /// Those of the states that are registered, as the next freeze takes them.
    registered: MigrationsThen,
    pool: Arc<PagePool>,
    /// What the memtables' hashes are seeded with.
    seed: u64,
    warming: Option<Warming>,
    /// What the states of timers have besides their records.
    timers: Vec<TimerState>,
    /// What the subtask keeps beside its keys.
    operator: OperatorStates,
    /// Where values from tables are put on their way into memory.
    value: Vec<u8>,
    /// Where the names of the records of a map are written.
    names: Vec<u8>,
    /// What time it is.
    clocks: Clocks,
    /// Freezes so far.
    freezes: u64,
    /// How it keeps within its budget, if it has one.
    spill: Option<Box<Spill>>,
    /// What its memory is charged to.
    footprint: Footprint,
    /// How long operations waited.
    stalls: Stalls,
}

/// The changes of one epoch of a whole shard, by state.
#[derive(Debug)]
pub(crate) struct FrozenShard {
    /// State names and their frozen memtables.
    pub(crate) states: Vec<Frozen>,
    /// What the states are, in the order of `states`.
    pub(crate) metas: Arc<Vec<StateMeta>>,
    pub(crate) operator: Vec<OneState>,
    /// Names of states that were dropped since the freeze before: what was frozen
    /// of them until then does not count from this epoch on.
    pub(crate) dropped: Vec<String>,
    /// The event time, if it is known.
    pub(crate) watermark: Option<i64>,
    /// How values of the states that are registered are migrated.
    pub(crate) migrations: MigrationsThen,
}

impl ShardCore {
    /// A shard whose states and tables are those of a restored snapshot; both
    /// may be empty. `tables` are ordered oldest first; `seed` is best a random
    /// number.
    pub(crate) fn new(
        name: String,
        groups: KeyGroupRange,
        max_parallelism: MaxParallelism,
        pool: Arc<PagePool>,
        seed: u64,
        states: Vec<StateMeta>,
        tables: &[BaseTable],
    ) -> Self {
        let mut core = Self {
            name,
            groups,
            max_parallelism,
            states: Vec::new(),
            by_name: HashMap::new(),
            metas: Arc::default(),
            dropped: Vec::new(),
            migrations: Arc::default(),
            registered: Arc::default(),
            footprint: Footprint::new(pool.ledger()),
            stalls: Stalls::default(),
            pool,
            seed,
            warming: None,
            timers: Vec::new(),
            operator: OperatorStates::default(),
            value: Vec::new(),
            names: Vec::new(),
            clocks: Clocks::none(),
            freezes: 0,
            spill: None,
        };
        for meta in states {
            let base = StateBase::new(&meta.name, tables);
            core.add_state(meta, base, false);
        }
        core
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn groups(&self) -> KeyGroupRange {
        self.groups
    }

    /// Every state, registered in this life or only restored.
    pub(crate) fn states(&self) -> &Arc<Vec<StateMeta>> {
        &self.metas
    }

    /// How values of the registered states are migrated.
    pub(crate) fn migrations(&self) -> &Arc<Migrations> {
        &self.migrations
    }

    /// Sizes of all memtables together.
    pub(crate) fn memory(&self) -> MemtableStats {
        let mut sum = MemtableStats::default();
        for state in &self.states {
            let stats = state.memtable.stats();
            sum.records += stats.records;
            sum.dirty_records += stats.dirty_records;
            sum.index_bytes += stats.index_bytes;
            sum.arena_mapped_bytes += stats.arena_mapped_bytes;
            sum.arena_used_bytes += stats.arena_used_bytes;
            sum.arena_free_bytes += stats.arena_free_bytes;
        }
        sum
    }

    /// Whether every record of the registered states is in memory.
    pub(crate) fn is_warm(&self) -> bool {
        let mut registered = self.states.iter().filter(|state| state.registered);
        registered.all(|state| state.memtable.below() == Below::Nothing)
    }

    /// Takes the records of states that are registered from now on from a
    /// warm-up, a few with each operation.
    pub(crate) fn start_warming(&mut self, source: Box<dyn WarmSource>) {
        self.warming = Some(Warming { source, wanted: 0, current: WarmBatch::default(), next: 0 });
    }

    /// Takes in at most `records` of what the warm-up has ready.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had.
    pub(crate) fn warm(&mut self, records: usize) -> Result<()> {
        let Some(warming) = &mut self.warming else { return Ok(()) };
        let mut left = records;
        while left > 0 {
            left -= 1;
            if let Some(warmed) = warming.current.get(warming.next) {
                let slot = &mut self.states[warmed.state];
                if slot.memtable.is_partial() {
                    // There was no room for all of it, and it may be older than what
                    // has left memory since.
                    warming.next += 1;
                    continue;
                }
                if warmed.group != group_of_hash(hash_key(warmed.key), self.max_parallelism) {
                    slot.memtable.expect_given_groups();
                }
                let Warmed { group, key, namespace, .. } = warmed;
                match warmed.what {
                    WarmedWhat::Value(value) => {
                        slot.lookups.promoted += 1;
                        let probe = slot.memtable.probe(group, key, namespace);
                        timers::take_in(slot, &mut self.timers, warmed.state, &probe, value)?;
                    }
                    WarmedWhat::Collection(contents) => {
                        // As much work as so many records.
                        left = left.saturating_sub(contents.bytes() / 512);
                        slot.take_in(group, key, namespace, contents)?;
                    }
                }
                warming.next += 1;
                continue;
            }
            if warming.wanted == 0 {
                break;
            }
            match warming.source.try_next() {
                Warm::Batch(batch) => {
                    warming.current = batch;
                    warming.next = 0;
                }
                Warm::NotYet => break,
                Warm::Done(state) => {
                    warming.wanted -= 1;
                    let slot = &mut self.states[state];
                    if !slot.no_room {
                        slot.memtable.set_complete();
                        // With a budget it may have to look there again.
                        if self.spill.is_none() {
                            slot.base = StateBase::default();
                        }
                    }
                }
                Warm::GaveUp => warming.wanted -= 1,
                Warm::Failed => {
                    self.warming = None;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Ends the epoch of every state. Constant time in the size of the state.
    pub(crate) fn freeze(&mut self) -> Result<FrozenShard> {
        let changed = if self.spill.is_some() { self.changed() } else { Changed::default() };
        let mut states = Vec::with_capacity(self.states.len());
        for state in self.states.iter_mut().filter(|state| state.family != Family::Dropped) {
            states.push(state.memtable.freeze()?);
        }
        self.note_freeze(changed);
        self.note_footprint();
        let operator = self.operator.freeze();
        let dropped = std::mem::take(&mut self.dropped);
        let (metas, watermark) = (Arc::clone(&self.metas), self.watermark());
        let migrations = Arc::clone(&self.registered);
        Ok(FrozenShard { states, metas, operator, dropped, watermark, migrations })
    }

    /// The group of a key, if it may be used on this shard, and the state
    /// serves the call.
    #[inline]
    fn check(
        &mut self,
        state: StateId,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        family: Family,
        call: &'static str,
    ) -> Result<KeyGroup> {
        self.check_kind(state, family, call)?;
        let computed = group_of_hash(hash_key(key), self.max_parallelism);
        let chosen = group.unwrap_or(computed);
        if !self.groups.contains(chosen) {
            return Err(self.not_ours(state, chosen));
        }
        check_key(key, namespace).map_err(|error| self.in_state(state, error))?;
        if chosen != computed {
            self.slot(state)?.memtable.expect_given_groups();
        }
        Ok(chosen)
    }

    #[cold]
    fn not_ours(&self, state: StateId, group: KeyGroup) -> Error {
        let error = Error::invalid("the key belongs to another shard")
            .at(format_args!("shard {} of operator {:?}", self.groups, self.name))
            .expected(format_args!("a key group in {}", self.groups))
            .found(group)
            .remedy("route each record to the shard that owns its key group");
        self.in_state(state, error)
    }

    /// Names the state in an error. Timers name themselves.
    #[cold]
    fn in_state(&self, state: StateId, error: Error) -> Error {
        match self.states.get(state.position()) {
            Some(slot) if slot.family != Family::Timers => slot.locate(error),
            _ => error,
        }
    }

    #[inline(always)]
    fn slot(&mut self, state: StateId) -> Result<&mut StateSlot> {
        match self.states.get_mut(state.position()) {
            Some(slot) if slot.is_meant_by(state) => Ok(slot),
            _ => Err(no_such_state(&self.name, self.groups)),
        }
    }

    /// The memtable of a state of which the id says whether its values expire; the
    /// paths that count know, and ask nothing more.
    #[inline(always)]
    fn memtable<const TIMED: bool>(&mut self, state: StateId) -> Result<&mut Memtable> {
        let at = if TIMED { state.position() } else { state.0 as usize };
        match self.states.get_mut(at) {
            Some(slot) => Ok(&mut slot.memtable),
            None => Err(no_such_state(&self.name, self.groups)),
        }
    }

    /// The memtable of a state, for a write that does not care what was there.
    /// Like every operation it takes in some of what the warm-up has ready.
    #[inline(always)]
    fn blind(&mut self, state: StateId) -> Result<&mut Memtable> {
        self.keep_room()?;
        if self.slot(state)?.memtable.below() == Below::Tables {
            self.warm(WARM_PER_OPERATION)?;
        }
        Ok(&mut self.slot(state)?.memtable)
    }

    /// The memtable of a state, with the key in it if it exists at all.
    #[inline]
    fn settled<'k>(
        &mut self,
        state: StateId,
        group: KeyGroup,
        key: &'k [u8],
        namespace: &'k [u8],
    ) -> Result<Settled<'_, 'k>> {
        let position = state.position();
        self.keep_room()?;
        let probe = self.slot(state)?.memtable.probe(group, key, namespace);
        let mut came_up = false;
        if self.states[position].memtable.below() == Below::Tables {
            came_up = self.bring_up(position, probe)?;
        }
        Ok(Settled { memtable: &mut self.states[position].memtable, probe, came_up })
    }

    /// Copies a record from the tables below into the memtable, if only they
    /// have it, and says whether it did; and takes in some of what the warm-up has ready.
    #[cold]
    fn bring_up(&mut self, position: usize, probe: Probe<'_>) -> Result<bool> {
        self.warm(WARM_PER_OPERATION)?;
        let slot = &mut self.states[position];
        let value = &mut self.value;
        if slot.memtable.refer(&probe) {
            return Ok(false);
        }
        let at = PlacedKey::in_group(probe.group, probe.key, probe.namespace);
        let mut reads = TableReads::default();
        let found = slot.base.get(at, value, &mut reads);
        slot.lookups.note(matches!(found, Ok(true)), reads);
        let done = match found {
            Ok(true) => slot.memtable.promote(&probe, value).map(|()| true),
            other => other,
        };
        done.map_err(|error| slot.locate(error))
    }
}

/// A key that is in its memtable, if it exists at all.
struct Settled<'m, 'k> {
    memtable: &'m mut Memtable,
    probe: Probe<'k>,
    /// It came from a table just now.
    came_up: bool,
}

#[cold]
fn no_such_state(operator: &str, groups: KeyGroupRange) -> Error {
    Error::invalid("no such state")
        .at(format_args!("shard {groups} of operator {operator:?}"))
        .remedy("use the StateId that this shard gave at registration")
}

impl KeyedStore for ShardCore {
    fn max_parallelism(&self) -> MaxParallelism {
        self.max_parallelism
    }

    fn register(&mut self, spec: StateSpec) -> Result<StateId> {
        Self::register(self, spec)
    }

    fn drop_state(&mut self, name: &str) -> Result<bool> {
        Self::drop_state(self, name)
    }

    fn states(&self) -> Vec<StateInfo> {
        self.state_infos()
    }

    fn register_rekeyed(
        &mut self,
        spec: StateSpec,
        old: OldCodecs,
        rename: &mut dyn Rename,
    ) -> Result<StateId> {
        self.rekey(spec, old, rename)
    }

    #[inline(always)]
    fn get(&mut self, state: StateId, key: KeyRef<'_>) -> Result<Option<&[u8]>> {
        Self::get(self, state, key)
    }

    #[inline(always)]
    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        Self::put(self, state, key, value)
    }

    #[inline]
    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        Self::delete(self, state, key)
    }

    #[inline(always)]
    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        Self::update(self, state, key, change)
    }

    fn get_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.get_each(state, keys, |key| *key, visit)
    }

    fn update_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        change: &mut dyn FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        self.update_each(state, keys, |key| *key, change)
    }

    #[inline(always)]
    fn list_append(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        Self::list_append(self, state, key, elements)
    }

    #[inline(always)]
    fn list_read(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        Self::list_read(self, state, key, visit)
    }

    fn list_replace(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        Self::list_replace(self, state, key, elements)
    }

    #[inline(always)]
    fn map_get(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<Option<&[u8]>> {
        Self::map_get(self, state, key, entry)
    }

    #[inline(always)]
    fn map_put(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
        value: &[u8],
    ) -> Result<()> {
        Self::map_put(self, state, key, entry, value)
    }

    fn map_remove(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<()> {
        Self::map_remove(self, state, key, entry)
    }

    #[inline(always)]
    fn map_scan(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        Self::map_scan(self, state, key, from, visit)
    }

    fn map_is_empty(&mut self, state: StateId, key: KeyRef<'_>) -> Result<bool> {
        Self::map_is_empty(self, state, key)
    }

    fn clear(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        Self::clear(self, state, key)
    }

    fn visit_keys(
        &mut self,
        state: StateId,
        namespace: Option<&[u8]>,
        visit: &mut dyn FnMut(KeyGroup, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        Self::visit_keys(self, state, namespace, visit)
    }
}
