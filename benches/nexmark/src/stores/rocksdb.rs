//! State in RocksDB, as a stream processor's RocksDB backend keeps it.
//!
//! One database for each operator of each worker, all with one block cache. Every access of
//! a state is a get, a put, a merge or a delete of its own, without a write-ahead log:
//! checkpoints would carry durability, and none are taken here, to the advantage of RocksDB.
//!
//! * A list is one value; appending is a merge operand, which reads nothing.
//! * An entry of a map is a record of its own; a scan is a seek and a walk.
//! * A timer is a record in a column family of its own, in the order of time. The first
//!   timers are kept in memory as well, so that what fires is not looked for.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium::codec::Codec;
use alluvium::{
    Error, KeyGroup, KeyRef, KeyedStore, MaxParallelism, OldCodecs, Rename, Result, StateId,
    StateInfo, StateKind, StateSpec, TimerRef, TimerSpec, TimerStore, TimersId, ValueMut,
};
use alluvium_timely::{Keyed, Stateful};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBPinnableSlice, LruCacheOptions, MergeOperands, Options, ReadOptions, WriteBufferManager,
    WriteOptions,
};
use timely::ExchangeData;

use super::{not_here, too_late, unknown};
use crate::engine::Engine;

const STATE: &str = "state";
const TIMERS: &str = "timers";
const MB: u64 = 1024 * 1024;
/// The memory of cache and write buffers, unless told otherwise.
const DEFAULT_MEMORY_BYTES: u64 = 512 * MB;
/// Timers of one name that are kept in memory.
const TIMERS_AT_HAND: usize = 128;
/// Bytes of a name before its key.
const HEAD: usize = 4;

/// Opens databases that share a cache.
#[derive(Clone)]
pub struct Rocks {
    dir: PathBuf,
    cache: Cache,
    buffers: WriteBufferManager,
    memory_bytes: u64,
    opened: Arc<AtomicU64>,
}

impl Rocks {
    /// Databases below `dir` with so much memory together, 512 MiB if nothing is said: as
    /// Flink divides it, a third at most are write buffers, which are charged to the cache.
    pub fn new(dir: &Path, memory_bytes: Option<u64>) -> Self {
        let memory_bytes = memory_bytes.unwrap_or(DEFAULT_MEMORY_BYTES);
        let mut options = LruCacheOptions::default();
        options.set_capacity((memory_bytes * 5 / 6) as usize);
        let cache = Cache::new_lru_cache_opts(&options);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            (memory_bytes / 3) as usize,
            false,
            cache.clone(),
        );
        Self { dir: dir.to_owned(), cache, buffers, memory_bytes, opened: Arc::default() }
    }

    fn options(&self) -> Options {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&self.cache);
        blocks.set_block_size(4096);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        blocks.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_block_based_table_factory(&blocks);
        options.set_write_buffer_manager(&self.buffers);
        let buffer = (64 * MB).min(self.memory_bytes / 6).max(MB);
        options.set_write_buffer_size(buffer as usize);
        options.set_max_write_buffer_number(2);
        options.set_max_bytes_for_level_base(256 * MB);
        options.set_max_bytes_for_level_multiplier(10.0);
        options.set_max_background_jobs(2);
        // One thread writes: the parallel write path would only cost locks.
        options.set_allow_concurrent_memtable_write(false);
        options.set_compression_type(DBCompressionType::Lz4);
        options
    }

    /// Opens an empty database.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be made.
    pub fn open(&self, max_parallelism: MaxParallelism) -> Result<RocksStore> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(number.to_string());
        std::fs::create_dir_all(&dir)
            .map_err(|error| Error::io("no directory for RocksDB", error))?;
        let options = self.options();
        let mut state = options.clone();
        state.set_merge_operator_associative("join", join);
        let families = [
            ColumnFamilyDescriptor::new(STATE, state),
            ColumnFamilyDescriptor::new(TIMERS, options.clone()),
        ];
        let db = DB::open_cf_descriptors(&options, dir, families).map_err(failed)?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(RocksStore {
            db,
            read: ReadOptions::default(),
            write,
            max_parallelism,
            states: Vec::new(),
            timers: Vec::new(),
            name: Vec::new(),
            value: Vec::new(),
        })
    }
}

impl Engine for Rocks {
    type Store = RocksStore;

    const HAS_CHECKPOINTS: bool = false;

    fn states<'scope, R, K, C, St>(
        &self,
        keyed: Keyed<'scope, R, K, C>,
        register: impl FnOnce(&mut RocksStore) -> Result<St>,
    ) -> Result<Stateful<'scope, R, K, C, RocksStore, St>>
    where
        R: ExchangeData,
        K: 'static,
        C: Codec<K>,
    {
        keyed.state_in(|max, _| self.open(max), register)
    }
}

#[cold]
fn failed(error: rocksdb::Error) -> Error {
    Error::unavailable("RocksDB failed").found(error)
}

#[cold]
fn lost_family() -> Error {
    Error::internal("RocksDB has lost a column family")
}

/// Joins what is there and what was appended: each element behind its length.
fn join(_: &[u8], existing: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    let len = existing.map_or(0, <[u8]>::len) + operands.iter().map(<[u8]>::len).sum::<usize>();
    let mut joined = Vec::with_capacity(len);
    joined.extend_from_slice(existing.unwrap_or_default());
    operands.iter().for_each(|operand| joined.extend_from_slice(operand));
    Some(joined)
}

fn push_element(joined: &mut Vec<u8>, element: &[u8]) {
    joined.extend_from_slice(&(element.len() as u32).to_le_bytes());
    joined.extend_from_slice(element);
}

/// Shows the elements of a joined list.
fn split(mut joined: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<()> {
    let cut = || Error::corrupt("a list in RocksDB was cut off");
    while let Some((len, rest)) = joined.split_first_chunk() {
        let len = u32::from_le_bytes(*len) as usize;
        let (element, rest) = rest.split_at_checked(len).ok_or_else(cut)?;
        visit(element);
        joined = rest;
    }
    if joined.is_empty() { Ok(()) } else { Err(cut()) }
}

/// Composes a name: which state, how long the namespace and the key are, and both. All
/// entries of a map have its name as a prefix, and nothing else has.
fn compose(name: &mut Vec<u8>, state: u8, key: KeyRef<'_>) {
    let (key, namespace) = (key.key_bytes(), key.namespace_bytes());
    name.clear();
    name.push(state);
    name.push(namespace.len() as u8);
    name.extend_from_slice(&(key.len() as u16).to_be_bytes());
    name.extend_from_slice(key);
    name.extend_from_slice(namespace);
}

/// Key, namespace and the rest of a name.
fn parts(name: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (head, rest) = name.split_at_checked(HEAD)?;
    let (key, rest) = rest.split_at_checked(u16::from_be_bytes([head[2], head[3]]).into())?;
    let (namespace, rest) = rest.split_at_checked(head[1].into())?;
    Some((key, namespace, rest))
}

/// Bytes of a time whose order is that of times.
fn time_bytes(timestamp: i64) -> [u8; 8] {
    (timestamp as u64 ^ 1 << 63).to_be_bytes()
}

fn time_of(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ 1 << 63) as i64
}

/// The timers of one name.
struct Queue {
    name: String,
    /// The first of them: number, time and name.
    at_hand: BTreeSet<Vec<u8>>,
    /// Whether those are all.
    is_all: bool,
    /// How many there are.
    pending: u64,
    /// Nothing is in the database before this.
    from: Vec<u8>,
    watermark: Option<i64>,
}

/// See the [module documentation](self).
pub struct RocksStore {
    db: DB,
    read: ReadOptions,
    write: WriteOptions,
    max_parallelism: MaxParallelism,
    states: Vec<StateSpec>,
    timers: Vec<Queue>,
    /// Kept from call to call: a name, and a value that is lent.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl RocksStore {
    fn family(&self, name: &str) -> Result<&ColumnFamily> {
        self.db.cf_handle(name).ok_or_else(lost_family)
    }

    fn compose(&mut self, state: StateId, key: KeyRef<'_>) {
        compose(&mut self.name, state.number() as u8, key);
    }

    /// The value under the composed name.
    fn found(&self) -> Result<Option<DBPinnableSlice<'_>>> {
        self.db.get_pinned_cf_opt(self.family(STATE)?, &self.name, &self.read).map_err(failed)
    }

    /// The same, copied, since it is lent while the store could change.
    fn lend(&mut self) -> Result<Option<&[u8]>> {
        let mut value = std::mem::take(&mut self.value);
        value.clear();
        let is_there = match self.found()? {
            Some(found) => {
                value.extend_from_slice(&found);
                true
            }
            None => false,
        };
        self.value = value;
        Ok(is_there.then_some(self.value.as_slice()))
    }

    fn store(&self, value: &[u8]) -> Result<()> {
        self.db.put_cf_opt(self.family(STATE)?, &self.name, value, &self.write).map_err(failed)
    }

    fn remove(&self) -> Result<()> {
        self.db.delete_cf_opt(self.family(STATE)?, &self.name, &self.write).map_err(failed)
    }

    /// Walks over the names with the composed prefix, from it and `from` on.
    fn walk(
        &self,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut records = self.db.raw_iterator_cf_opt(self.family(STATE)?, ReadOptions::default());
        records.seek([&self.name[..], from].concat());
        while let Some((name, value)) = records.item()
            && let Some(rest) = name.strip_prefix(&self.name[..])
        {
            if visit(rest, value)?.is_break() {
                return Ok(());
            }
            records.next();
        }
        records.status().map_err(failed)
    }

    /// Has the first timers at hand, if there are any.
    fn look_ahead(&mut self, timers: TimersId) -> Result<&mut Queue> {
        let number = timers.number();
        let Some(queue) = self.timers.get_mut(number as usize) else {
            return Err(unknown("state of timers", number));
        };
        if queue.at_hand.is_empty() && !queue.is_all {
            let family = self.db.cf_handle(TIMERS).ok_or_else(lost_family)?;
            let mut names = self.db.raw_iterator_cf_opt(family, ReadOptions::default());
            names.seek(&queue.from);
            while let Some(name) = names.key().filter(|name| name.first() == Some(&(number as u8)))
            {
                if queue.at_hand.len() == TIMERS_AT_HAND {
                    return Ok(queue);
                }
                queue.at_hand.insert(name.to_vec());
                names.next();
            }
            names.status().map_err(failed)?;
            queue.is_all = true;
        }
        Ok(queue)
    }

    fn timer_name(timers: TimersId, timestamp: i64, key: KeyRef<'_>) -> Vec<u8> {
        let number = timers.number() as u8;
        let mut composed = Vec::with_capacity(64);
        compose(&mut composed, number, key);
        let mut name = Vec::with_capacity(composed.len() + 9);
        name.push(number);
        name.extend_from_slice(&time_bytes(timestamp));
        name.extend_from_slice(&composed);
        name
    }
}

fn timestamp_of(timer: &[u8]) -> Result<i64> {
    let bytes = timer.get(1..9).and_then(|bytes| bytes.try_into().ok());
    bytes.map(time_of).ok_or_else(|| Error::corrupt("a timer in RocksDB has no time"))
}

impl KeyedStore for RocksStore {
    fn max_parallelism(&self) -> MaxParallelism {
        self.max_parallelism
    }

    fn register(&mut self, spec: StateSpec) -> Result<StateId> {
        let known = self.states.iter().position(|state| state.name() == spec.name());
        let at = known.unwrap_or_else(|| {
            self.states.push(spec);
            self.states.len() - 1
        });
        Ok(StateId::new(at as u32))
    }

    fn drop_state(&mut self, _: &str) -> Result<bool> {
        Err(not_here("dropping a state"))
    }

    fn states(&self) -> Vec<StateInfo> {
        let info = |spec: &StateSpec| StateInfo { meta: spec.meta(), is_registered: true };
        self.states.iter().map(info).collect()
    }

    fn register_rekeyed(
        &mut self,
        _: StateSpec,
        _: OldCodecs,
        _: &mut dyn Rename,
    ) -> Result<StateId> {
        Err(not_here("re-keying a state"))
    }

    fn get(&mut self, state: StateId, key: KeyRef<'_>) -> Result<Option<&[u8]>> {
        self.compose(state, key);
        self.lend()
    }

    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        self.compose(state, key);
        self.store(value)
    }

    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        self.compose(state, key);
        self.remove()
    }

    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        self.compose(state, key);
        let mut buffer = std::mem::take(&mut self.value);
        let mut value = self.found()?.map(|found| {
            buffer.clear();
            buffer.extend_from_slice(&found);
            buffer
        });
        let was_there = value.is_some();
        change(&mut ValueMut::detached(key, self.max_parallelism, &mut value));
        match value {
            Some(value) => {
                self.store(&value)?;
                self.value = value;
                Ok(())
            }
            None if was_there => self.remove(),
            None => Ok(()),
        }
    }

    fn list_append(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        self.compose(state, key);
        self.value.clear();
        elements.iter().for_each(|element| push_element(&mut self.value, element));
        let family = self.family(STATE)?;
        self.db.merge_cf_opt(family, &self.name, &self.value, &self.write).map_err(failed)
    }

    fn list_read(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        self.compose(state, key);
        match self.found()? {
            Some(joined) => split(&joined, visit),
            None => Ok(()),
        }
    }

    fn list_replace(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        self.compose(state, key);
        if elements.is_empty() {
            return self.remove();
        }
        self.value.clear();
        elements.iter().for_each(|element| push_element(&mut self.value, element));
        self.store(&self.value)
    }

    fn map_get(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<Option<&[u8]>> {
        self.compose(state, key);
        self.name.extend_from_slice(entry);
        self.lend()
    }

    fn map_put(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
        value: &[u8],
    ) -> Result<()> {
        self.compose(state, key);
        self.name.extend_from_slice(entry);
        self.store(value)
    }

    fn map_remove(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<()> {
        self.compose(state, key);
        self.name.extend_from_slice(entry);
        self.remove()
    }

    fn map_scan(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.compose(state, key);
        let (first, excluded) = match from {
            Bound::Unbounded => (&[][..], None),
            Bound::Included(from) => (from, None),
            Bound::Excluded(from) => (from, Some(from)),
        };
        self.walk(first, |entry, value| {
            Ok(if excluded == Some(entry) {
                ControlFlow::Continue(())
            } else {
                visit(entry, value)
            })
        })
    }

    fn map_is_empty(&mut self, state: StateId, key: KeyRef<'_>) -> Result<bool> {
        self.compose(state, key);
        let mut is_empty = true;
        self.walk(&[], |_, _| {
            is_empty = false;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(is_empty)
    }

    fn clear(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        let spec = self.states.get(state.number() as usize);
        let kind = spec.ok_or_else(|| unknown("state", state.number()))?.kind();
        self.compose(state, key);
        if kind != StateKind::Map {
            return self.remove();
        }
        let family = self.family(STATE)?;
        self.walk(&[], |entry, _| {
            let name = [&self.name[..], entry].concat();
            self.db.delete_cf_opt(family, name, &self.write).map_err(failed)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    fn visit_keys(
        &mut self,
        state: StateId,
        namespace: Option<&[u8]>,
        visit: &mut dyn FnMut(KeyGroup, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let number = state.number() as u8;
        self.name.clear();
        self.name.push(number);
        let mut before = Vec::new();
        self.walk(&[], |rest, _| {
            let name = [&[number][..], rest].concat();
            let (key, within, entry) =
                parts(&name).ok_or_else(|| Error::corrupt("a name in RocksDB was cut off"))?;
            // Entries of one map follow each other.
            let own = &name[..name.len() - entry.len()];
            if own == before || namespace.is_some_and(|namespace| namespace != within) {
                return Ok(ControlFlow::Continue(()));
            }
            before = own.to_vec();
            Ok(visit(KeyRef::new(key).locate(self.max_parallelism).0, key, within))
        })
    }
}

impl TimerStore for RocksStore {
    fn open_timers(&mut self, spec: TimerSpec) -> Result<TimersId> {
        let known = self.timers.iter().position(|queue| queue.name == spec.name());
        let at = known.unwrap_or_else(|| {
            self.timers.push(Queue {
                name: spec.name().to_owned(),
                at_hand: BTreeSet::new(),
                is_all: true,
                pending: 0,
                from: vec![self.timers.len() as u8],
                watermark: None,
            });
            self.timers.len() - 1
        });
        Ok(TimersId::new(at as u32))
    }

    fn open_timers_rekeyed(
        &mut self,
        _: TimerSpec,
        _: OldCodecs,
        _: &mut dyn Rename,
    ) -> Result<TimersId> {
        Err(not_here("re-keying timers"))
    }

    fn register_timer(
        &mut self,
        timers: TimersId,
        timestamp: i64,
        key: KeyRef<'_>,
    ) -> Result<bool> {
        let name = Self::timer_name(timers, timestamp, key);
        let queue = self.look_ahead(timers)?;
        if let Some(watermark) = queue.watermark.filter(|watermark| timestamp <= *watermark) {
            return Err(too_late(timestamp, watermark));
        }
        if queue.at_hand.contains(&name) {
            return Ok(false);
        }
        let is_among_the_first =
            queue.is_all || queue.at_hand.last().is_some_and(|last| name < *last);
        let family = self.db.cf_handle(TIMERS).ok_or_else(lost_family)?;
        if !is_among_the_first {
            let there = self.db.get_pinned_cf_opt(family, &name, &self.read).map_err(failed)?;
            if there.is_some() {
                return Ok(false);
            }
        }
        self.db.put_cf_opt(family, &name, [], &self.write).map_err(failed)?;
        let queue = self.look_ahead(timers)?;
        queue.pending += 1;
        if is_among_the_first {
            queue.at_hand.insert(name);
            if queue.at_hand.len() > TIMERS_AT_HAND {
                queue.at_hand.pop_last();
                queue.is_all = false;
            }
        }
        Ok(true)
    }

    fn delete_timer(&mut self, timers: TimersId, timestamp: i64, key: KeyRef<'_>) -> Result<bool> {
        let name = Self::timer_name(timers, timestamp, key);
        let family = self.family(TIMERS)?;
        let there = self.db.get_pinned_cf_opt(family, &name, &self.read).map_err(failed)?.is_some();
        if there {
            self.db.delete_cf_opt(family, &name, &self.write).map_err(failed)?;
            let queue = self.look_ahead(timers)?;
            queue.at_hand.remove(&name);
            queue.pending -= 1;
        }
        Ok(there)
    }

    fn next_timer(&mut self, timers: TimersId) -> Result<Option<i64>> {
        let queue = self.look_ahead(timers)?;
        queue.at_hand.first().map(|timer| timestamp_of(timer)).transpose()
    }

    fn pop_due(
        &mut self,
        timers: TimersId,
        now: i64,
        take: &mut dyn FnMut(&TimerRef<'_>) -> Result<()>,
    ) -> Result<bool> {
        let max = self.max_parallelism;
        let queue = self.look_ahead(timers)?;
        queue.watermark = Some(queue.watermark.map_or(now, |before| before.max(now)));
        let Some(timer) = queue.at_hand.first().cloned() else { return Ok(false) };
        let timestamp = timestamp_of(&timer)?;
        if timestamp > now {
            return Ok(false);
        }
        let (key, namespace, _) =
            parts(&timer[9..]).ok_or_else(|| Error::corrupt("a timer in RocksDB was cut off"))?;
        let group = KeyRef::new(key).locate(max).0;
        take(&TimerRef { timestamp, group, key, namespace })?;
        let family = self.family(TIMERS)?;
        self.db.delete_cf_opt(family, &timer, &self.write).map_err(failed)?;
        let queue = &mut self.timers[timers.number() as usize];
        queue.at_hand.pop_first();
        queue.pending -= 1;
        queue.from = timer;
        Ok(true)
    }

    fn timer_watermark(&self, timers: TimersId) -> Result<Option<i64>> {
        let queue = self.timers.get(timers.number() as usize);
        queue
            .map(|queue| queue.watermark)
            .ok_or_else(|| unknown("state of timers", timers.number()))
    }

    fn pending_timers(&mut self, timers: TimersId) -> Result<u64> {
        Ok(self.look_ahead(timers)?.pending)
    }
}
