//! One range of key groups: read, write, freeze, flush, merge.
//!
//! [`ShardCore`] is what the task thread owns: the memtables of every state,
//! and the tables beneath them that were restored and are not in memory yet.
//! [`flush`] and [`compact`] are what the background does with what it is
//! handed. Uploading and publishing are the snapshot layer's business.

mod base_tables;
pub(crate) mod compact;
pub(crate) mod flush;
pub mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam::channel::Receiver;

use crate::base::limits::{MAX_STATE_NAME_BYTES, check_key, check_value};
use crate::base::{Error, KeyGroupRange, MaxParallelism, Result};
use crate::codec::key::KeyRef;
use crate::env::pages::PagePool;
use crate::format::manifest::StateMeta;
use crate::memtable::extract::Frozen;
use crate::memtable::{BATCH, Below, Lookup, Memtable, MemtableStats, Probe, ValueMut};

pub(crate) use self::base_tables::BaseTable;
use self::base_tables::StateBase;
use self::store::{KeyedStore, StateId, StateSpec};

/// Records that one operation brings into memory while the shard warms up.
const WARM_PER_OPERATION: usize = 8;

struct StateSlot {
    meta: StateMeta,
    memtable: Memtable,
    base: StateBase,
}

/// A message of the warm-up to the task thread.
#[derive(Debug)]
pub(crate) enum Warm {
    /// Records of one state, newest version of each, tombstones left out.
    Batch(WarmBatch),
    /// Everything that the tables hold has been sent.
    Done,
}

/// Records on their way from tables into memory.
#[derive(Debug, Default)]
pub(crate) struct WarmBatch {
    /// Position of the state among those of the restored shard.
    pub(crate) state: usize,
    records: Vec<WarmRecord>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct WarmRecord {
    hash: u64,
    group: crate::base::KeyGroup,
    start: usize,
    key_len: usize,
    namespace_len: usize,
    value_len: usize,
}

impl WarmBatch {
    /// Adds a record.
    pub(crate) fn push(&mut self, probe: &Probe<'_>, value: &[u8]) {
        self.records.push(WarmRecord {
            hash: probe.hash,
            group: probe.group,
            start: self.bytes.len(),
            key_len: probe.key.len(),
            namespace_len: probe.namespace.len(),
            value_len: value.len(),
        });
        self.bytes.extend_from_slice(probe.key);
        self.bytes.extend_from_slice(probe.namespace);
        self.bytes.extend_from_slice(value);
    }

    /// Bytes of keys, namespaces and values in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn get(&self, at: usize) -> Option<(Probe<'_>, &[u8])> {
        let record = self.records.get(at)?;
        let rest = &self.bytes[record.start..];
        let (key, rest) = rest.split_at(record.key_len);
        let (namespace, rest) = rest.split_at(record.namespace_len);
        let probe = Probe { hash: record.hash, group: record.group, key, namespace };
        Some((probe, &rest[..record.value_len]))
    }
}

struct Warming {
    batches: Receiver<Warm>,
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
    pub(crate) fn start_warming(&mut self, batches: Receiver<Warm>) {
        self.warming = Some(Warming { batches, current: WarmBatch::default(), next: 0 });
    }

    /// Takes in at most `records` of what the warm-up has ready.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had.
    pub(crate) fn warm(&mut self, records: usize) -> Result<()> {
        let Some(warming) = &mut self.warming else { return Ok(()) };
        for _ in 0..records {
            let Some((probe, value)) = warming.current.get(warming.next) else {
                match warming.batches.try_recv() {
                    Ok(Warm::Batch(batch)) => {
                        warming.current = batch;
                        warming.next = 0;
                        continue;
                    }
                    Ok(Warm::Done) => {
                        for state in &mut self.states {
                            state.memtable.set_complete();
                            state.base = StateBase::default();
                        }
                        self.warming = None;
                        return Ok(());
                    }
                    Err(error) => {
                        // A warm-up that failed has said so in the log; the
                        // shard goes on reading its tables.
                        if error.is_disconnected() {
                            self.warming = None;
                        }
                        return Ok(());
                    }
                }
            };
            self.states[warming.current.state].memtable.promote(&probe, value)?;
            warming.next += 1;
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

    #[inline]
    fn probe<'k>(&self, key: KeyRef<'k>) -> Result<Probe<'k>> {
        let (group, hash) = key.locate(self.max_parallelism);
        if !self.groups.contains(group) {
            return Err(self.not_ours(group));
        }
        check_key(key.key_bytes(), key.namespace_bytes())?;
        Ok(Probe { hash, group, key: key.key_bytes(), namespace: key.namespace_bytes() })
    }

    #[cold]
    fn not_ours(&self, group: crate::base::KeyGroup) -> Error {
        Error::invalid("the key belongs to another shard")
            .at(format_args!("shard {} of operator {:?}", self.groups, self.name))
            .expected(format_args!("a key group in {}", self.groups))
            .found(group)
            .remedy("route each record to the shard that owns its key group")
    }

    #[cold]
    fn no_such_state(&self) -> Error {
        Error::invalid("no such state")
            .at(format_args!("shard {} of operator {:?}", self.groups, self.name))
            .remedy("use the StateId that this shard gave at registration")
    }

    /// The state, with the probed key in its memtable if it exists at all.
    #[inline]
    fn settled(&mut self, state: StateId, probe: &Probe<'_>) -> Result<&mut StateSlot> {
        if self.warming.is_some() {
            self.warm(WARM_PER_OPERATION)?;
        }
        let Some(slot) = self.states.get_mut(state.0 as usize) else {
            return Err(self.no_such_state());
        };
        if slot.memtable.below() == Below::Tables {
            bring_up(slot, probe, &mut self.value)
                .map_err(|error| error.at(format_args!("state {:?}", slot.meta.name)))?;
        }
        Ok(slot)
    }

    /// The state, for a write that does not care what was there.
    #[inline]
    fn blind(&mut self, state: StateId) -> Result<&mut StateSlot> {
        if self.warming.is_some() {
            self.warm(WARM_PER_OPERATION)?;
        }
        match self.states.get_mut(state.0 as usize) {
            Some(slot) => Ok(slot),
            None => Err(Error::invalid("no such state")
                .at(format_args!("shard {} of operator {:?}", self.groups, self.name))
                .remedy("use the StateId that this shard gave at registration")),
        }
    }

    /// Runs `each` for every key, with the cache misses of [`BATCH`] keys
    /// overlapping: first all index lines are asked for, then all records,
    /// then the work is done.
    fn in_batches<'k>(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'k>],
        mut each: impl FnMut(&mut Self, usize, Probe<'k>) -> Result<()>,
    ) -> Result<()> {
        let nobody = Probe { hash: 0, group: self.groups.first(), key: &[], namespace: &[] };
        let mut probes = [nobody; BATCH];
        for (batch, keys) in keys.chunks(BATCH).enumerate() {
            let Some(slot) = self.states.get(state.0 as usize) else {
                return Err(self.no_such_state());
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
            for probe in &probes[..count] {
                slot.memtable.prefetch_record(probe.hash);
            }
            for (at, probe) in probes[..count].iter().enumerate() {
                each(self, batch * BATCH + at, *probe)?;
            }
            if let Some(error) = refused {
                return Err(error.at(format_args!("key {} of the batch", batch * BATCH + count)));
            }
        }
        Ok(())
    }
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
        let slot = self.settled(state, &probe)?;
        Ok(match slot.memtable.get(&probe) {
            Lookup::Value(value) => Some(value),
            Lookup::Absent | Lookup::Deleted => None,
        })
    }

    #[inline]
    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        let probe = self.probe(key)?;
        check_value(value)?;
        self.blind(state)?.memtable.put(&probe, value)
    }

    #[inline]
    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        let probe = self.probe(key)?;
        self.blind(state)?.memtable.delete(&probe).map(drop)
    }

    #[inline]
    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        let probe = self.probe(key)?;
        let slot = self.settled(state, &probe)?;
        let mut value = slot.memtable.entry(probe);
        change(&mut value);
        value.finish()
    }

    fn get_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.in_batches(state, keys, |core, at, probe| {
            let slot = core.settled(state, &probe)?;
            visit(
                at,
                match slot.memtable.get(&probe) {
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
        self.in_batches(state, keys, |core, at, probe| {
            let slot = core.settled(state, &probe)?;
            let mut value = slot.memtable.entry(probe);
            change(at, &mut value);
            value.finish()
        })
    }
}

/// Whether a state may be used as what it is asked for as.
pub(crate) fn check_same(have: &StateMeta, want: &StateMeta) -> Result<()> {
    let differ = |what: &str, have: &dyn std::fmt::Display, want: &dyn std::fmt::Display| {
        Error::incompatible(format_args!("the {what} of a state differs from what is stored"))
            .at(format_args!("state {:?}", want.name))
            .expected(have)
            .found(want)
            .remedy("register the state as it was written, or use another name")
    };
    if have.kind != want.kind {
        return Err(differ("kind", &have.kind, &want.kind));
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
