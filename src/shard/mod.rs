//! One range of key groups: read, write, freeze, flush, merge.
//!
//! [`ShardCore`] is what the task thread owns: the memtables of every state,
//! and the tables beneath them that were restored and are not in memory yet.
//! [`flush`] and [`compact`] are what the background does with what it is
//! handed. Uploading and publishing are the snapshot layer's business.

mod base_tables;
pub(crate) mod compact;
pub(crate) mod flush;
pub(crate) mod store;
pub(crate) mod warm;

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use crate::base::limits::{MAX_STATE_NAME_BYTES, check_key, check_value};
use crate::base::{Error, KeyGroup, KeyGroupRange, MaxParallelism, Result};
use crate::codec::KeyRef;
use crate::env::pages::PagePool;
use crate::format::manifest::StateMeta;
use crate::memtable::extract::Frozen;
use crate::memtable::{BATCH, Below, Hint, Lookup, Memtable, MemtableStats, Probe, ValueMut};

pub(crate) use self::base_tables::BaseTable;
use self::base_tables::StateBase;
use self::store::{KeyedStore, StateId, StateSpec};
use self::warm::{Warm, WarmBatch, WarmSource};

/// Records that one operation brings into memory while the shard warms up.
const WARM_PER_OPERATION: usize = 8;

struct StateSlot {
    meta: StateMeta,
    memtable: Memtable,
    base: StateBase,
}

struct Warming {
    source: Box<dyn WarmSource>,
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
    /// What the states are, for manifests; replaced when a state is added.
    metas: Arc<Vec<StateMeta>>,
    pool: Arc<PagePool>,
    warming: Option<Warming>,
    /// Where values from tables are put on their way into memory.
    value: Vec<u8>,
}

/// The changes of one epoch of a whole shard, by state.
#[derive(Debug)]
pub(crate) struct FrozenShard {
    /// State names and their frozen memtables.
    pub(crate) states: Vec<Frozen>,
    /// What the states are, in the order of `states`.
    pub(crate) metas: Arc<Vec<StateMeta>>,
}

impl ShardCore {
    /// A shard whose states and tables are those of a restored snapshot; both
    /// may be empty. `tables` are ordered oldest first.
    pub(crate) fn new(
        name: String,
        groups: KeyGroupRange,
        max_parallelism: MaxParallelism,
        pool: Arc<PagePool>,
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
            pool,
            warming: None,
            value: Vec::new(),
        };
        for meta in states {
            let base = StateBase::new(&meta.name, tables);
            core.add_state(meta, base);
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

    /// Whether every record is in memory.
    pub(crate) fn is_warm(&self) -> bool {
        self.states.iter().all(|state| state.memtable.below() == Below::Nothing)
    }

    /// Takes records from a warm-up from now on, a few with each operation.
    pub(crate) fn start_warming(&mut self, source: Box<dyn WarmSource>) {
        self.warming = Some(Warming { source, current: WarmBatch::default(), next: 0 });
    }

    /// Takes in at most `records` of what the warm-up has ready.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had.
    pub(crate) fn warm(&mut self, records: usize) -> Result<()> {
        let Some(warming) = &mut self.warming else { return Ok(()) };
        for _ in 0..records {
            if let Some((state, probe, value)) = warming.current.get(warming.next) {
                self.states[state].memtable.promote(&probe, value)?;
                warming.next += 1;
                continue;
            }
            match warming.source.try_next() {
                Warm::Batch(batch) => {
                    warming.current = batch;
                    warming.next = 0;
                }
                Warm::NotYet => break,
                Warm::Done => {
                    for state in &mut self.states {
                        state.memtable.set_complete();
                        state.base = StateBase::default();
                    }
                    self.warming = None;
                    break;
                }
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
        let mut states = Vec::with_capacity(self.states.len());
        for state in &mut self.states {
            states.push(state.memtable.freeze()?);
        }
        Ok(FrozenShard { states, metas: Arc::clone(&self.metas) })
    }

    fn add_state(&mut self, meta: StateMeta, base: StateBase) -> StateId {
        let id = self.states.len() as u32;
        let below = if base.is_empty() { Below::Nothing } else { Below::Tables };
        let memtable = Memtable::new(Arc::clone(&self.pool), below);
        self.by_name.insert(meta.name.clone(), id);
        Arc::make_mut(&mut self.metas).push(meta.clone());
        self.states.push(StateSlot { meta, memtable, base });
        StateId(id)
    }

    /// Whether a key may be used on this shard.
    ///
    /// Keys are checked first and their probes put together where they are
    /// used: a probe that is returned in a `Result` travels through memory,
    /// and reading it back makes the processor wait for the operations before
    /// this one.
    #[inline(always)]
    fn check(&self, group: KeyGroup, key: &KeyRef<'_>) -> Result<()> {
        if !self.groups.contains(group) {
            return Err(self.not_ours(group));
        }
        check_key(key.key_bytes(), key.namespace_bytes())
    }

    #[cold]
    fn not_ours(&self, group: KeyGroup) -> Error {
        Error::invalid("the key belongs to another shard")
            .at(format_args!("shard {} of operator {:?}", self.groups, self.name))
            .expected(format_args!("a key group in {}", self.groups))
            .found(group)
            .remedy("route each record to the shard that owns its key group")
    }

    #[inline(always)]
    fn slot(&mut self, state: StateId) -> Result<&mut StateSlot> {
        match self.states.get_mut(state.0 as usize) {
            Some(slot) => Ok(slot),
            None => Err(no_such_state(&self.name, self.groups)),
        }
    }

    /// The memtable of a state, for a write that does not care what was there.
    /// Like every operation it takes in some of what the warm-up has ready.
    #[inline(always)]
    fn blind(&mut self, state: StateId) -> Result<&mut Memtable> {
        if self.slot(state)?.memtable.below() == Below::Tables {
            self.warm(WARM_PER_OPERATION)?;
        }
        Ok(&mut self.slot(state)?.memtable)
    }

    /// The memtable of a state, with the probed key in it if it exists at all.
    #[inline(always)]
    fn settled(&mut self, state: StateId, probe: &Probe<'_>) -> Result<&mut Memtable> {
        let position = state.0 as usize;
        if position >= self.states.len() {
            return Err(no_such_state(&self.name, self.groups));
        }
        if self.states[position].memtable.below() == Below::Nothing {
            return Ok(&mut self.states[position].memtable);
        }
        self.bring_up(position, *probe)?;
        Ok(&mut self.states[position].memtable)
    }

    /// Copies a record from the tables below into the memtable, if only they
    /// have it; and takes in some of what the warm-up has ready.
    #[cold]
    fn bring_up(&mut self, position: usize, probe: Probe<'_>) -> Result<()> {
        self.warm(WARM_PER_OPERATION)?;
        let slot = &mut self.states[position];
        let value = &mut self.value;
        if slot.memtable.get(&probe) == Lookup::Absent
            && slot
                .base
                .get(&probe, value)
                .map_err(|error| error.at(format_args!("state {:?}", slot.meta.name)))?
        {
            slot.memtable.promote(&probe, value)?;
        }
        Ok(())
    }

    /// Runs `each` for every key, with the cache misses of [`BATCH`] keys
    /// overlapping: first all index lines are asked for, then all records,
    /// then the work is done.
    #[inline(always)]
    fn in_batches<'k>(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'k>],
        mut each: impl FnMut(&mut Memtable, usize, Probe<'k>, Hint) -> Result<()>,
    ) -> Result<()> {
        let mut hashes = [(KeyGroup(0), 0); BATCH];
        let mut hints = [Hint::NONE; BATCH];
        for (batch, keys) in keys.chunks(BATCH).enumerate() {
            let max_parallelism = self.max_parallelism;
            let memtable = &self.slot(state)?.memtable;
            for (key, located) in keys.iter().zip(&mut hashes) {
                *located = key.locate(max_parallelism);
                memtable.prefetch_index(located.1);
            }
            for (&(_, hash), hint) in hashes.iter().take(keys.len()).zip(&mut hints) {
                *hint = memtable.prefetch_record(hash);
            }
            for (at, (key, &(group, hash))) in keys.iter().zip(&hashes).enumerate() {
                let number = batch * BATCH + at;
                // The keys before a bad one are done first, as if they had
                // come one at a time.
                self.check(group, key).map_err(|error| at_key(error, number))?;
                let probe = probe(group, hash, *key);
                each(self.settled(state, &probe)?, number, probe, hints[at])?;
            }
        }
        Ok(())
    }
}

#[inline(always)]
fn probe(group: KeyGroup, hash: u64, key: KeyRef<'_>) -> Probe<'_> {
    Probe { hash, group, key: key.key_bytes(), namespace: key.namespace_bytes() }
}

#[cold]
fn at_key(error: Error, number: usize) -> Error {
    error.at(format_args!("key {number} of the batch"))
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
        let meta = spec.0;
        if meta.name.is_empty() || meta.name.len() > MAX_STATE_NAME_BYTES {
            return Err(Error::invalid("the name of a state has a bad length")
                .expected(format_args!("1 to {MAX_STATE_NAME_BYTES} bytes"))
                .found(format_args!("{} bytes", meta.name.len()))
                .remedy("give the state a short name"));
        }
        if let Some(&id) = self.by_name.get(&meta.name) {
            check_same(&self.states[id as usize].meta, &meta)?;
            return Ok(StateId(id));
        }
        Ok(self.add_state(meta, StateBase::default()))
    }

    #[inline]
    fn get(&mut self, state: StateId, key: KeyRef<'_>) -> Result<Option<&[u8]>> {
        let (group, hash) = key.locate(self.max_parallelism);
        self.check(group, &key)?;
        let probe = probe(group, hash, key);
        let memtable = self.settled(state, &probe)?;
        Ok(match memtable.get(&probe) {
            Lookup::Value(value) => Some(value),
            Lookup::Absent | Lookup::Deleted => None,
        })
    }

    #[inline]
    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        let (group, hash) = key.locate(self.max_parallelism);
        self.check(group, &key)?;
        let probe = probe(group, hash, key);
        check_value(value)?;
        self.blind(state)?.put(&probe, value)
    }

    #[inline]
    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        let (group, hash) = key.locate(self.max_parallelism);
        self.check(group, &key)?;
        let probe = probe(group, hash, key);
        self.blind(state)?.delete(&probe).map(drop)
    }

    #[inline]
    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        let (group, hash) = key.locate(self.max_parallelism);
        self.check(group, &key)?;
        let probe = probe(group, hash, key);
        let memtable = self.settled(state, &probe)?;
        let mut value = memtable.entry(probe);
        change(&mut value);
        value.finish()
    }

    fn get_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.in_batches(state, keys, |memtable, at, probe, hint| {
            visit(
                at,
                match memtable.get_at(&probe, hint) {
                    Lookup::Value(value) => Some(value),
                    Lookup::Absent | Lookup::Deleted => None,
                },
            );
            Ok(())
        })
    }

    fn update_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        change: &mut dyn FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        self.in_batches(state, keys, |memtable, at, probe, hint| {
            let mut value = memtable.entry_at(probe, hint);
            change(at, &mut value);
            value.finish()
        })
    }
}

/// Whether a state may be used as what it is asked for as.
pub(crate) fn check_same(have: &StateMeta, want: &StateMeta) -> Result<()> {
    let differ = |what: &str, stored: &dyn Display, asked: &dyn Display| {
        Error::incompatible(format_args!("the {what} of a state differs from what is stored"))
            .at(format_args!("state {:?}", want.name))
            .expected(stored)
            .found(asked)
            .remedy("register the state as it was written, or use another name")
    };
    if have.kind != want.kind {
        return Err(differ("kind", &format!("{:?}", have.kind), &format!("{:?}", want.kind)));
    }
    for (what, have, want) in [
        ("key codec", &have.key_codec, &want.key_codec),
        ("namespace codec", &have.namespace_codec, &want.namespace_codec),
        ("value codec", &have.value_codec, &want.value_codec),
    ] {
        if have != want {
            return Err(differ(what, have, want));
        }
    }
    Ok(())
}
