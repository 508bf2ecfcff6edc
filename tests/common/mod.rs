//! What the tests of the engine share: a set of keys, a model of what a store
//! should hold, and readers of what it does hold.
//!
//! The model is an ordered map of key numbers. It shares no code with the
//! engine: even key groups and the ranges of subtasks are computed here again,
//! from their definitions.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use alluvium::env::sim::SimRng;
use alluvium::env::{Env, SimEnv};
use alluvium::format::Manifest;
use alluvium::object::LocalStore;
use alluvium::table::TableReader;
use alluvium::{
    Backend, BackendBuilder, KeyGroup, KeyGroupRange, KeyRef, KeyedStore, MaxParallelism, Result,
    Shard, SnapshotHandle, SnapshotId, SnapshotReport, SnapshotSource, StateId, StateSpec,
    StoreSink,
};

/// The directory of the backend on the simulated machine.
pub const DIR: &str = "/node/state";
/// The directory of its checkpoints.
pub const CHECKPOINTS: &str = "/shared/checkpoints";
/// The operator of all shards.
pub const OPERATOR: &str = "count per key";

/// Values by the numbers of their keys. Clones share the values.
pub type Image = BTreeMap<usize, Arc<[u8]>>;

/// One key of one state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    pub state: usize,
    pub key: Vec<u8>,
    pub namespace: Vec<u8>,
    pub group: u16,
    /// The runtime names the group, rather than leaving it to the hash.
    pub given: bool,
}

/// All keys that a test ever uses.
#[derive(Debug)]
pub struct Keyspace {
    pub max: u32,
    pub states: Vec<String>,
    pub keys: Vec<Key>,
    numbers: BTreeMap<(usize, Vec<u8>, Vec<u8>), usize>,
}

/// The key group of a key that follows from its hash: the low 32 bits, scaled.
pub fn group_of(key: &[u8], max: u32) -> u16 {
    let low = xxhash_rust::xxh3::xxh3_64(key) & 0xffff_ffff;
    ((low * u64::from(max)) >> 32) as u16
}

/// A group that has nothing to do with the engine's hash.
fn given_group(key: &[u8], max: u32) -> u16 {
    let sum = key.iter().fold(17_u32, |sum, &byte| sum.wrapping_mul(31) + u32::from(byte));
    (sum % max) as u16
}

/// The groups of subtask `index` of `parallelism`, as Flink computes them.
pub fn range_of(index: u32, parallelism: u32, max: u32) -> KeyGroupRange {
    let first = (index * max).div_ceil(parallelism);
    let last = ((index + 1) * max - 1) / parallelism;
    KeyGroupRange::new(KeyGroup(first as u16), KeyGroup(last as u16)).unwrap()
}

impl Keyspace {
    pub fn new(max: u32, states: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let states = states.into_iter().map(Into::into).collect();
        Self { max, states, keys: Vec::new(), numbers: BTreeMap::new() }
    }

    /// `count` plain keys in each of some states, groups by hash.
    pub fn plain(states: &[&str], count: usize) -> Self {
        let mut space = Self::new(128, states.iter().copied());
        for state in 0..states.len() {
            for key in 0..count {
                space.add(state, format!("key {key}").as_bytes(), b"", false);
            }
        }
        space
    }

    /// Adds a key, if it is not there already.
    pub fn add(&mut self, state: usize, key: &[u8], namespace: &[u8], given: bool) -> usize {
        let group = if given { given_group(key, self.max) } else { group_of(key, self.max) };
        let next = self.keys.len();
        let name = (state, key.to_vec(), namespace.to_vec());
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            let (key, namespace) = (key.to_vec(), namespace.to_vec());
            self.keys.push(Key { state, key, namespace, group, given });
        }
        number
    }

    pub fn max_parallelism(&self) -> MaxParallelism {
        MaxParallelism::new(self.max).unwrap()
    }

    pub fn key_ref(&self, number: usize) -> KeyRef<'_> {
        let key = &self.keys[number];
        let plain = if key.given {
            KeyRef::in_group(KeyGroup(key.group), &key.key)
        } else {
            KeyRef::new(&key.key)
        };
        plain.namespace(&key.namespace)
    }

    pub fn number_of(&self, state: &str, key: &[u8], namespace: &[u8]) -> Option<usize> {
        let state = self.states.iter().position(|name| name == state)?;
        self.numbers.get(&(state, key.to_vec(), namespace.to_vec())).copied()
    }

    /// The numbers of the keys in a range of groups.
    pub fn within(&self, groups: KeyGroupRange) -> Vec<usize> {
        (0..self.keys.len()).filter(|&number| self.is_within(number, groups)).collect()
    }

    pub fn is_within(&self, number: usize, groups: KeyGroupRange) -> bool {
        groups.contains(KeyGroup(self.keys[number].group))
    }

    /// The part of an image that lies in a range of groups.
    pub fn part(&self, image: &Image, groups: KeyGroupRange) -> Image {
        image
            .iter()
            .filter(|&(&number, _)| self.is_within(number, groups))
            .map(|(&number, value)| (number, Arc::clone(value)))
            .collect()
    }
}

/// The state ids of a shard, registered when first used.
#[derive(Default, Debug, Clone)]
pub struct Ids(Vec<Option<StateId>>);

impl Ids {
    /// Whether all states of the space were registered.
    pub fn are_all_there(&self, space: &Keyspace) -> bool {
        self.0.len() == space.states.len() && self.0.iter().all(Option::is_some)
    }

    pub fn get(&mut self, shard: &mut Shard, space: &Keyspace, state: usize) -> StateId {
        self.0.resize(space.states.len(), None);
        *self.0[state].get_or_insert_with(|| {
            shard.register(StateSpec::value(&space.states[state])).expect("a state is registered")
        })
    }
}

/// What a shard says about one key.
pub fn read(shard: &mut Shard, ids: &mut Ids, space: &Keyspace, key: usize) -> Option<Vec<u8>> {
    try_read(shard, ids, space, key)
        .unwrap_or_else(|error| panic!("key {key} ({:?}): {error}", space.keys[key]))
}

pub fn try_read(
    shard: &mut Shard,
    ids: &mut Ids,
    space: &Keyspace,
    key: usize,
) -> Result<Option<Vec<u8>>> {
    let id = ids.get(shard, space, space.keys[key].state);
    Ok(shard.get(id, space.key_ref(key))?.map(<[u8]>::to_vec))
}

/// Compares everything that a shard says about the keys of its groups with
/// `model`, absent keys included.
pub fn assert_shard_holds(shard: &mut Shard, ids: &mut Ids, space: &Keyspace, model: &Image) {
    for number in space.within(shard.groups()) {
        let found = read(shard, ids, space, number);
        let expected = model.get(&number);
        assert!(
            found.as_deref() == expected.map(|value| &**value),
            "key {number} ({:?}) in {}: expected {}, found {}",
            space.keys[number],
            shard.groups(),
            brief(expected.map(|value| &**value)),
            brief(found.as_deref()),
        );
    }
}

/// A value for people.
pub fn brief(value: Option<&[u8]>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(value) if value.len() <= 16 => format!("{value:?}"),
        Some(value) => format!("{} bytes {:?}...", value.len(), &value[..8]),
    }
}

/// Fails with the first difference of two images.
pub fn assert_same_image(space: &Keyspace, found: &Image, expected: &Image, what: &str) {
    if found == expected {
        return;
    }
    for number in found.keys().chain(expected.keys()) {
        let (found, expected) = (found.get(number), expected.get(number));
        assert!(
            found == expected,
            "{what}: key {number} ({:?}): expected {}, found {}",
            space.keys[*number],
            brief(expected.map(|value| &**value)),
            brief(found.map(|value| &**value)),
        );
    }
}

/// The manifest that a handle names.
pub fn manifest_of(source: &dyn SnapshotSource, handle: &SnapshotHandle) -> Result<Manifest> {
    let object = source.open(handle.manifest())?;
    let mut bytes = vec![0; object.len() as usize];
    object.read_at(0, &mut bytes).expect("a manifest can be read");
    handle.open_manifest(&bytes)
}

/// One record of a table: its key and, unless it is a deletion, its value.
pub type TableRecord = (usize, Option<Arc<[u8]>>);

/// The records of the table at `position` of a manifest, those of its slice.
pub fn table_records(
    space: &Keyspace,
    source: &dyn SnapshotSource,
    manifest: &Manifest,
    position: usize,
) -> Result<Vec<TableRecord>> {
    let table = &manifest.tables[position];
    let reader = Arc::new(TableReader::open(source.open(&table.location)?, &table.meta)?);
    let names: Vec<String> = reader.states().iter().map(|state| state.name.to_string()).collect();
    let mut records = Vec::new();
    let mut scan = reader.scan(table.slice);
    while let Some(record) = scan.next()? {
        let state = &names[usize::from(record.state)];
        let number = space
            .number_of(state, record.key, record.namespace)
            .unwrap_or_else(|| panic!("a key that was never written: {state:?} {record:?}"));
        assert_eq!(record.group.0, space.keys[number].group, "the group of key {number}");
        assert!(table.slice.contains(record.group), "{} outside {}", record.group, table.slice);
        records.push((number, record.value.map(Arc::from)));
    }
    Ok(records)
}

/// What the snapshots of one checkpoint hold, read from their tables alone and
/// not through a shard.
pub fn sealed_image(
    space: &Keyspace,
    source: &dyn SnapshotSource,
    handles: &[SnapshotHandle],
) -> Result<Image> {
    let mut image = Image::new();
    for handle in handles {
        let manifest = manifest_of(source, handle)?;
        for position in 0..manifest.tables.len() {
            for (number, value) in table_records(space, source, &manifest, position)? {
                match value {
                    Some(value) => image.insert(number, value),
                    None => image.remove(&number),
                };
            }
        }
    }
    Ok(image)
}

/// A backend on a simulated machine, without threads.
pub fn backend_on(env: &SimEnv, space: &Keyspace) -> BackendBuilder {
    Backend::builder(DIR)
        .checkpoint_dir(CHECKPOINTS)
        .env(Arc::new(env.clone()))
        .background_threads(0)
        .max_parallelism(space.max_parallelism())
}

/// The store in a directory of a simulated machine.
pub fn store_on(env: &SimEnv, dir: &str) -> Result<StoreSink> {
    let env: Arc<dyn Env> = Arc::new(env.clone());
    Ok(StoreSink::new(Arc::new(LocalStore::open(env, PathBuf::from(dir))?)))
}

/// A job of a few shards on one backend, with its model beside it: for tests
/// that follow a script.
pub struct Job {
    pub space: Arc<Keyspace>,
    pub backend: Backend,
    pub shards: Vec<(Shard, Ids)>,
    pub model: Image,
}

impl Job {
    /// Opens `parallelism` shards, from nothing or from a checkpoint.
    pub fn open(
        space: &Arc<Keyspace>,
        builder: BackendBuilder,
        parallelism: u32,
        restore: Option<(&[SnapshotHandle], &Image)>,
    ) -> Result<Self> {
        let backend = builder.open()?;
        let (handles, model) = restore.unwrap_or((&[], &NOTHING));
        let mut shards = Vec::new();
        for index in 0..parallelism {
            let groups = range_of(index, parallelism, space.max);
            let builder = backend.shard(OPERATOR, groups).restore(handles.iter().cloned());
            shards.push((builder.open()?, Ids::default()));
        }
        Ok(Self { space: Arc::clone(space), backend, shards, model: model.clone() })
    }

    /// The shard that owns a key.
    pub fn shard_of(&mut self, key: usize) -> &mut (Shard, Ids) {
        let group = KeyGroup(self.space.keys[key].group);
        self.shards
            .iter_mut()
            .find(|(shard, _)| shard.groups().contains(group))
            .expect("every group has a shard")
    }

    pub fn try_put(&mut self, key: usize, value: &[u8]) -> Result<()> {
        let space = Arc::clone(&self.space);
        let (shard, ids) = self.shard_of(key);
        let id = ids.get(shard, &space, space.keys[key].state);
        shard.put(id, space.key_ref(key), value)?;
        self.model.insert(key, value.into());
        Ok(())
    }

    pub fn put(&mut self, key: usize, value: &[u8]) {
        self.try_put(key, value).expect("a record is put");
    }

    pub fn try_delete(&mut self, key: usize) -> Result<()> {
        let space = Arc::clone(&self.space);
        let (shard, ids) = self.shard_of(key);
        let id = ids.get(shard, &space, space.keys[key].state);
        shard.delete(id, space.key_ref(key))?;
        self.model.remove(&key);
        Ok(())
    }

    pub fn delete(&mut self, key: usize) {
        self.try_delete(key).expect("a record is deleted");
    }

    /// Puts and deletes some keys at random.
    pub fn change(&mut self, rng: &mut SimRng, operations: usize) {
        for _ in 0..operations {
            let key = rng.below(self.space.keys.len() as u64) as usize;
            if rng.one_in(4) {
                self.delete(key);
            } else {
                let mut value = vec![0; rng.below(60) as usize];
                rng.fill(&mut value);
                self.put(key, &value);
            }
        }
    }

    /// Takes a snapshot of every shard and waits for all; the first error
    /// counts.
    pub fn try_snapshot(&mut self, id: u64) -> Result<Vec<SnapshotReport>> {
        let tickets: Result<Vec<_>> = self
            .shards
            .iter_mut()
            .map(|(shard, _)| shard.snapshot(SnapshotId(id), &id.to_le_bytes()))
            .collect();
        let results: Vec<_> = tickets?.iter().map(alluvium::SnapshotTicket::wait).collect();
        results.into_iter().collect()
    }

    pub fn snapshot(&mut self, id: u64) -> Vec<SnapshotHandle> {
        handles(&self.try_snapshot(id).expect("the snapshot completes"))
    }

    pub fn complete(&mut self, id: u64) {
        for (shard, _) in &mut self.shards {
            shard.notify_complete(SnapshotId(id));
        }
    }

    pub fn abort(&mut self, id: u64) {
        for (shard, _) in &mut self.shards {
            shard.notify_aborted(SnapshotId(id));
        }
    }

    /// Does all background work there is.
    pub fn settle(&self) {
        while self.backend.run_background() {}
    }

    /// Brings everything into memory that is still to come.
    pub fn warm_up(&mut self) {
        for (shard, ids) in &mut self.shards {
            // What nobody has asked for stays in its tables.
            for state in 0..self.space.states.len() {
                ids.get(shard, &self.space, state);
            }
            let mut idle = 0;
            while !shard.warm_up(100).expect("the shard warms up") {
                idle = if self.backend.run_background() { 0 } else { idle + 1 };
                assert!(idle < 1_000, "a warm-up that nobody works on");
            }
        }
    }

    /// Compares every key of every shard with the model.
    pub fn assert_holds_model(&mut self) {
        for (shard, ids) in &mut self.shards {
            assert_shard_holds(shard, ids, &self.space, &self.model);
        }
    }
}

static NOTHING: Image = Image::new();

pub fn handles(reports: &[SnapshotReport]) -> Vec<SnapshotHandle> {
    reports.iter().map(|report| report.handle.clone()).collect()
}

/// The locations of everything that some checkpoints need.
pub fn locations_of(
    source: &dyn SnapshotSource,
    handles: &[SnapshotHandle],
) -> Result<BTreeSet<String>> {
    let mut locations = BTreeSet::new();
    for handle in handles {
        locations.insert(handle.manifest().to_owned());
        let manifest = manifest_of(source, handle)?;
        locations.extend(manifest.tables.into_iter().map(|table| table.location));
    }
    Ok(locations)
}
