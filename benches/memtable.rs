//! What does one operation on a state in memory cost, one at a time and
//! sixteen at a time, and what would a plain hash map take?
//!
//! A million keys of 8 bytes, in an order that no cache foresees, with values
//! of 8 and of 100 bytes. The state has been through a snapshot, as in a job
//! that runs. The hash map holds keys and values of a fixed size inline and
//! uses the same hash function; it has no snapshots, namespaces or key groups:
//! it is the ceiling.
//!
//! The same updates, in a namespace and with a time to live, stand beside those of
//! a state that has neither.
//!
//! `ALLUVIUM_BENCH_RECORDS` sets another number of keys.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;
use std::time::{Duration, Instant};

use alluvium::{Backend, KeyRef, KeyedStore, Shard, SnapshotId, StateId, StateSpec, Ttl, ValueMut};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use xxhash_rust::xxh3::xxh3_64;

const BATCH: usize = 16;

fn records() -> u64 {
    let set = std::env::var("ALLUVIUM_BENCH_RECORDS").ok();
    set.map_or(1_000_000, |set| set.parse().expect("ALLUVIUM_BENCH_RECORDS is a number"))
}

/// Key number `i`; neighbours have nothing in common.
fn key(i: u64) -> [u8; 8] {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

/// Numbers below a limit, as good as random and cheap.
struct Picks {
    state: u64,
    below: u64,
}

impl Picks {
    fn new(below: u64) -> Self {
        Self { state: 0x853c_49e6_748f_ea9b, below }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        ((u128::from(self.state) * u128::from(self.below)) >> 64) as u64
    }
}

/// A shard with one state, and what it needs to live.
struct Store {
    shard: Shard,
    state: StateId,
    backend: Backend,
    _dir: tempfile::TempDir,
}

impl Store {
    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::builder(dir.path()).open().unwrap();
        let (shard, state) = open(&backend);
        Self { shard, state, backend, _dir: dir }
    }

    /// With keys 0 to `records`, all of them in a snapshot.
    fn filled<const VALUE: usize>(records: u64) -> Self {
        let mut store = Self::empty();
        for i in 0..records {
            store.put(i, &[1; VALUE]);
        }
        store.shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap();
        store.shard.notify_complete(SnapshotId(1));
        store
    }

    fn put(&mut self, i: u64, value: &[u8]) {
        self.shard.put(self.state, KeyRef::new(&key(i)), value).unwrap();
    }

    fn delete(&mut self, i: u64) {
        self.shard.delete(self.state, KeyRef::new(&key(i))).unwrap();
    }

    fn get(&mut self, i: u64) -> Option<&[u8]> {
        self.shard.get(self.state, KeyRef::new(&key(i))).unwrap()
    }
}

fn open(backend: &Backend) -> (Shard, StateId) {
    let groups = backend.max_parallelism().all_groups();
    let mut shard = backend.shard("bench", groups).open().unwrap();
    let state = shard.register(StateSpec::value("state")).unwrap();
    (shard, state)
}

/// The hash of the engine, for a `HashMap`.
#[derive(Clone, Copy, Default)]
struct Xxh3(u64);

impl BuildHasher for Xxh3 {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for Xxh3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= xxh3_64(bytes);
    }

    /// All keys have the same length.
    fn write_usize(&mut self, _len: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

type Map<const VALUE: usize> = HashMap<[u8; 8], [u8; VALUE], Xxh3>;

fn count(bytes: &mut [u8]) {
    let (counter, _) = bytes.split_first_chunk_mut::<8>().unwrap();
    *counter = (u64::from_le_bytes(*counter) + 1).to_le_bytes();
}

fn with_values_of<const VALUE: usize>(c: &mut Criterion) {
    let records = records();
    let mut group = c.benchmark_group(format!("{VALUE}_byte_values"));
    group.sample_size(20).throughput(Throughput::Elements(1));

    let mut map: Map<VALUE> = (0..records).map(|i| (key(i), [1; VALUE])).collect();
    let mut picks = Picks::new(records);
    group.bench_function("hash_map_update", |b| {
        b.iter(|| count(map.get_mut(&key(picks.next())).unwrap()))
    });
    let mut picks = Picks::new(records);
    group.bench_function("hash_map_get_hit", |b| {
        b.iter(|| black_box(map.get(&key(picks.next())).unwrap()[0]))
    });
    drop(map);

    let mut store = Store::filled::<VALUE>(records);
    update(&mut group, &mut store, records);
    read(&mut group, &mut store, records);
    let mut picks = Picks::new(records);
    group.bench_function("put_existing", |b| b.iter(|| store.put(picks.next(), &[2; VALUE])));
    let mut picks = Picks::new(records);
    group.bench_function("delete_and_insert_again", |b| {
        b.iter(|| {
            let i = picks.next();
            store.delete(i);
            store.put(i, &[3; VALUE]);
        })
    });
    drop(store);
    put_new::<VALUE>(&mut group, records);
    group.finish();
}

fn update(group: &mut BenchmarkGroup<'_, WallTime>, store: &mut Store, records: u64) {
    let state = store.state;
    let mut picks = Picks::new(records);
    group.bench_function("update_one_at_a_time", |b| {
        b.iter(|| {
            let key = key(picks.next());
            let shard = &mut store.shard;
            shard
                .update(state, KeyRef::new(&key), &mut |value| count(value.bytes_mut().unwrap()))
                .unwrap();
        })
    });
    let mut picks = Picks::new(records);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("update_16_at_a_time", |b| {
        b.iter(|| {
            let keys: [_; BATCH] = std::array::from_fn(|_| key(picks.next()));
            let keys: [_; BATCH] = std::array::from_fn(|at| KeyRef::new(&keys[at]));
            let shard = &mut store.shard;
            shard
                .update_many(state, &keys, &mut |_, value| count(value.bytes_mut().unwrap()))
                .unwrap();
        })
    });
    group.throughput(Throughput::Elements(1));
}

fn read(group: &mut BenchmarkGroup<'_, WallTime>, store: &mut Store, records: u64) {
    let mut picks = Picks::new(records);
    group.bench_function("get_hit", |b| {
        b.iter(|| black_box(store.get(picks.next()).unwrap()[0]));
    });
    let mut picks = Picks::new(records);
    group.bench_function("get_miss", |b| {
        b.iter(|| assert!(store.get(records + picks.next()).is_none()));
    });
}

/// Growing from nothing to all records, again and again.
fn put_new<const VALUE: usize>(group: &mut BenchmarkGroup<'_, WallTime>, records: u64) {
    let mut store = Store::empty();
    group.bench_function("put_new", |b| {
        b.iter_custom(|mut left| {
            let mut spent = Duration::ZERO;
            while left > 0 {
                let now = left.min(records);
                let started = Instant::now();
                for i in 0..now {
                    store.put(i, &[1; VALUE]);
                }
                spent += started.elapsed();
                left -= now;
                (store.shard, store.state) = open(&store.backend);
            }
            spent
        })
    });
}

/// One at a time and in batches: without, in a namespace, and with a time to live
/// too. All in one table, so that the machine's moods are the same for all.
fn time_to_live(c: &mut Criterion) {
    let records = records();
    let mut group = c.benchmark_group("time_to_live");
    group.sample_size(20);
    let ttl = Ttl::after(Duration::from_secs(86_400));
    let kinds: [(&str, &[u8], Option<Ttl>); 4] = [
        ("plain", b"", None),
        ("namespace", b"windowed", None),
        ("ttl", b"", Some(ttl)),
        ("ttl_and_namespace", b"windowed", Some(ttl)),
    ];
    let mut store = Store::empty();
    let states = kinds.map(|(name, namespace, ttl)| {
        let spec = StateSpec::value(name);
        let spec = ttl.map_or(spec.clone(), |ttl| spec.ttl(ttl));
        let state = store.shard.register(spec).unwrap();
        for i in 0..records {
            let key = key(i);
            store.shard.put(state, KeyRef::new(&key).namespace(namespace), &[1; 8]).unwrap();
        }
        (name, namespace, state)
    });
    for (name, namespace, state) in states {
        let mut picks = Picks::new(records);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("update_one_at_a_time/{name}"), |b| {
            b.iter(|| {
                let key = key(picks.next());
                let key = KeyRef::new(&key).namespace(namespace);
                let count = &mut |value: &mut ValueMut<'_>| count(value.bytes_mut().unwrap());
                store.shard.update(state, key, count).unwrap();
            })
        });
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(format!("update_16_at_a_time/{name}"), |b| {
            b.iter(|| {
                let keys: [_; BATCH] = std::array::from_fn(|_| key(picks.next()));
                let keys: [_; BATCH] =
                    std::array::from_fn(|at| KeyRef::new(&keys[at]).namespace(namespace));
                let count = &mut |_, value: &mut ValueMut<'_>| count(value.bytes_mut().unwrap());
                store.shard.update_many(state, &keys, count).unwrap();
            })
        });
    }
    group.finish();
}

fn memtable(c: &mut Criterion) {
    time_to_live(c);
    with_values_of::<8>(c);
    with_values_of::<100>(c);
}

criterion_group!(benches, memtable);
criterion_main!(benches);
