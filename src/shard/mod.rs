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

    #[inline(always)]
    fn probe<'k>(&self, key: KeyRef<'k>) -> Result<Probe<'k>> {
        let (group, hash) = key.locate(self.max_parallelism);
        if !self.groups.contains(group) {
            return Err(self.not_ours(group));
        }
        check_key(key.key_bytes(), key.namespace_bytes())?;
        Ok(Probe { hash, group, key: key.key_bytes(), namespace: key.namespace_bytes() })
    }

    #[cold]
    fn not_ours(&self, group: KeyGroup) -> Error {
        Error::invalid("the key belongs to another shard")
            .at(format_args!("shard {} of operator {:?}", self.groups, self.name))
            .expected(format_args!("a key group in {}", self.groups))
            .found(group)
            .remedy("route each record to the shard that owns its key group")
    }

    /// The state, ready to be written to blindly.
    #[inline(always)]
    fn slot(&mut self, state: StateId) -> Result<&mut StateSlot> {
        if self.warming.is_some() {
            self.warm(WARM_PER_OPERATION)?;
        }
        match self.states.get_mut(state.0 as usize) {
            Some(slot) => Ok(slot),
            None => Err(no_such_state(&self.name, self.groups)),
        }
    }

    /// The state, with the probed key in its memtable if it exists at all.
    #[inline(always)]
    fn settled(&mut self, state: StateId, probe: &Probe<'_>) -> Result<&mut Memtable> {
        if self.warming.is_some() {
            self.warm(WARM_PER_OPERATION)?;
        }
        let Some(slot) = self.states.get_mut(state.0 as usize) else {
            return Err(no_such_state(&self.name, self.groups));
        };
        if slot.memtable.below() == Below::Tables {
            bring_up(slot, probe, &mut self.value)
                .map_err(|error| error.at(format_args!("state {:?}", slot.meta.name)))?;
        }
        Ok(&mut slot.memtable)
    }

    /// Runs `each` for every key, with the cache misses of [`BATCH`] keys
    /// overlapping: first all index lines are asked for, then all records,
    /// then the work is done.
    fn in_batches<'k>(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'k>],
        mut each: impl FnMut(&mut Self, usize, Probe<'k>, Hint) -> Result<()>,
    ) -> Result<()> {
        let nobody = Probe { hash: 0, group: self.groups.first(), key: &[], namespace: &[] };
        let mut probes = [nobody; BATCH];
        let mut hints = [Hint::NONE; BATCH];
        for (batch, keys) in keys.chunks(BATCH).enumerate() {
            let Some(slot) = self.states.get(state.0 as usize) else {
                return Err(no_such_state(&self.name, self.groups));
            };
            // A bad key ends its batch early: those before it are done first.
            let mut count = 0;
            let mut refused = None;
            for (probe, &key) in probes.iter_mut().zip(keys) {
                match self.probe(key) {
                    Ok(found) => *probe = found,
                    Err(error) => {
                        refused = Some(error);
                        break;
                    }
                }
                slot.memtable.prefetch_index(probe.hash);
                count += 1;
            }
            for (probe, hint) in probes.iter().zip(&mut hints).take(count) {
                *hint = slot.memtable.prefetch_record(probe.hash);
            }
            for (at, (probe, hint)) in probes.iter().zip(&hints).take(count).enumerate() {
                each(self, batch * BATCH + at, *probe, *hint)?;
            }
            if let Some(error) = refused {
                return Err(error.at(format_args!("key {} of the batch", batch * BATCH + count)));
            }
        }
        Ok(())
    }
}

#[cold]
fn no_such_state(operator: &str, groups: KeyGroupRange) -> Error {
    Error::invalid("no such state")
        .at(format_args!("shard {groups} of operator {operator:?}"))
        .remedy("use the StateId that this shard gave at registration")
}

/// Copies a record from the tables below into the memtable, if only they have
/// it.
#[cold]
fn bring_up(slot: &mut StateSlot, probe: &Probe<'_>, value: &mut Vec<u8>) -> Result<()> {
    if slot.memtable.get(probe) == Lookup::Absent && slot.base.get(probe, value)? {
        slot.memtable.promote(probe, value)?;
    }
    Ok(())
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
        let probe = self.probe(key)?;
        let memtable = self.settled(state, &probe)?;
        Ok(match memtable.get(&probe) {
            Lookup::Value(value) => Some(value),
            Lookup::Absent | Lookup::Deleted => None,
        })
    }

    #[inline]
    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        let probe = self.probe(key)?;
        check_value(value)?;
        self.slot(state)?.memtable.put(&probe, value)
    }

    #[inline]
    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        let probe = self.probe(key)?;
        self.slot(state)?.memtable.delete(&probe).map(drop)
    }

    #[inline]
    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        let probe = self.probe(key)?;
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
        self.in_batches(state, keys, |core, at, probe, hint| {
            let memtable = core.settled(state, &probe)?;
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
        self.in_batches(state, keys, |core, at, probe, hint| {
            let memtable = core.settled(state, &probe)?;
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
