//! The same bugs in a shard whose state is larger than its memory: changes are written
//! before anybody asks for a snapshot, records leave memory, and tables are merged all
//! the while.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::env::budget::MIN_BUDGET_BYTES;
use alluvium::env::sim::{CrashMode, FaultError, FaultKind, SimRng};
use alluvium::format::Manifest;
use alluvium::table::TableReader;
use alluvium::{
    BackendBuilder, ErrorKind, KeyRef, KeyedStore, Result, Shard, SnapshotHandle, SnapshotId,
    SnapshotSource, StateId, StateSpec, TimeDomain, TimerSpec, TimerStore, TimersId,
};

use crate::common::{
    CHECKPOINTS, Image, Job, Keyspace, assert_same_image, backend_on, handles, manifest_of, read,
    sealed_image, store_on,
};
use crate::{assert_restores, machine, objects, space};

fn small(env: &SimEnv, space: &Keyspace) -> BackendBuilder {
    backend_on(env, space).memory_budget_bytes(MIN_BUDGET_BYTES).max_tables_per_shard(2)
}

/// A value of which some twenty are written early.
fn large(rng: &mut SimRng) -> Vec<u8> {
    let mut value = vec![0; 700 + rng.below(600) as usize];
    rng.fill(&mut value);
    value
}

fn try_change(job: &mut Job, rng: &mut SimRng, operations: usize) -> Result<()> {
    let space = Arc::clone(&job.space);
    for _ in 0..operations {
        let key = rng.below(space.keys.len() as u64) as usize;
        if rng.one_in(4) {
            let (shard, ids) = job.shard_of(key);
            let id = ids.get(shard, &space, space.keys[key].state);
            shard.delete(id, space.key_ref(key))?;
            job.model.remove(&key);
        } else {
            job.try_put(key, &large(rng))?;
        }
    }
    Ok(())
}

fn evict_all(job: &mut Job) {
    for (shard, _) in &mut job.shards {
        shard.evict(u64::MAX).unwrap();
    }
}

/// Writes what changed and lets all of it leave memory.
fn spill_all(job: &mut Job) {
    for (shard, _) in &mut job.shards {
        shard.write_early().unwrap();
    }
    job.settle();
    evict_all(job);
}

fn assert_restores_with_budget(
    env: &SimEnv,
    space: &Arc<Keyspace>,
    handles: &[SnapshotHandle],
    image: &Image,
) {
    assert_restores(env, space, handles, image, 2);
    let mut job = Job::open(space, small(env, space), 1, Some((handles, image))).unwrap();
    job.assert_holds_model();
}

/// FLINK-35217, FLINK-36421: a table that was written early, or merged, is named by a
/// checkpoint before it is durable.
#[test]
fn bug_14_tables_that_were_written_early_are_durable_before_a_checkpoint_names_them() {
    let space = space(30);
    let work = |env: &SimEnv| {
        let mut last: Option<(Vec<SnapshotHandle>, Image)> = None;
        let (mut early, mut evicted) = (0, 0);
        let Ok(mut job) = Job::open(&space, small(env, &space), 1, None) else {
            return (last, early, evicted);
        };
        for id in 1..5 {
            let mut rng = SimRng::new(id);
            if try_change(&mut job, &mut rng, 90).is_err() {
                break;
            }
            if let Ok(reports) = job.try_snapshot(id) {
                last = Some((handles(&reports), job.model.clone()));
                job.complete(id);
            }
            job.settle();
            evict_all(&mut job);
            let stats = job.shards[0].0.stats();
            (early, evicted) = (stats.early_writes, stats.evicted_records);
        }
        (last, early, evicted)
    };
    for operations in 0.. {
        let env = machine();
        env.stop_after(operations);
        let (last, early, evicted) = work(&env);
        if let Some((handles, image)) = &last {
            let found = env.crash_image(CrashMode::DropUnsynced, 0);
            assert_restores_with_budget(&found, &space, handles, image);
        }
        if !env.power_lost() {
            assert!(early > 4 && evicted > 60, "{early} early writes, {evicted} evicted");
            assert!(operations > 100, "there was something to interrupt: {operations}");
            let (handles, _) = last.expect("checkpoints were completed");
            let env = env.crash_image(CrashMode::DropUnsynced, 0);
            let store = store_on(&env, CHECKPOINTS).unwrap();
            let tables = manifest_of(&store, &handles[0]).unwrap().tables.len() as u64;
            assert!(tables < early, "some were merged");
            break;
        }
    }
}

/// RocksDB 7.8.0, 8.1.0: without a log, column families are flushed at different times,
/// and what is recovered has a change of one without that of another.
#[test]
fn bug_15_what_two_states_have_to_do_with_each_other_holds_in_every_snapshot() {
    // Forty numbers, and their sum in another state.
    let mut space = Keyspace::new(128, ["parts", "sum"]);
    for key in 0..40 {
        space.add(0, format!("part {key}").as_bytes(), b"", false);
    }
    let sum_key = space.add(1, b"sum", b"", false);
    let space = Arc::new(space);
    let number = |image: &Image, key: usize| {
        image.get(&key).map_or(0, |value| u64::from_le_bytes(value[..8].try_into().unwrap()))
    };
    for seed in 0..6 {
        let env = machine();
        let mut rng = SimRng::new(seed);
        let mut job = Job::open(&space, small(&env, &space), 1, None).unwrap();
        let store = store_on(&env, CHECKPOINTS).unwrap();
        let mut pending = Vec::new();
        let (mut checked, mut between) = (0, 0);
        for step in 0..600 {
            let key = rng.below(40) as usize;
            let add = rng.below(1_000);
            let with_filler = |value: u64, rng: &mut SimRng| {
                let mut bytes = large(rng);
                bytes[..8].copy_from_slice(&value.to_le_bytes());
                bytes
            };
            let part = with_filler(number(&job.model, key) + add, &mut rng);
            job.put(key, &part);
            // Whatever happens between the two changes.
            match rng.below(6) {
                0 => {
                    job.shards[0].0.write_early().unwrap();
                    between += 1;
                }
                1 => spill_all(&mut job),
                2 => drop(job.backend.run_background()),
                _ => {}
            }
            let sum = with_filler(number(&job.model, sum_key) + add, &mut rng);
            job.put(sum_key, &sum);
            if rng.one_in(12) {
                let ticket = job.shards[0].0.snapshot(SnapshotId(step + 1), b"").unwrap();
                if rng.one_in(4) {
                    ticket.cancel();
                }
                pending.push((ticket, job.model.clone()));
            }
            if rng.one_in(10) {
                for (ticket, image) in pending.drain(..) {
                    let Ok(report) = ticket.wait() else { continue };
                    let handles = [report.handle];
                    let sealed = sealed_image(&space, &store, &handles).unwrap();
                    let sum: u64 = (0..40).map(|key| number(&sealed, key)).sum();
                    let what = format!("seed {seed}, snapshot {}", report.snapshot);
                    assert_eq!(sum, number(&sealed, sum_key), "{what}");
                    assert_same_image(&space, &sealed, &image, &what);
                    checked += 1;
                }
            }
        }
        assert!(checked > 20 && between > 50, "{checked} snapshots, {between} early writes");
        assert!(job.shards[0].0.stats().evicted_records > 100);
    }
}

/// RocksDB 6.8.0: a full disk leaves a hole in the middle of what is written.
#[test]
fn bug_16_a_full_disk_has_nothing_half_written_named() {
    let space = space(30);
    for late in [false, true] {
        for nth in 1.. {
            let env = machine();
            let mut job = Job::open(&space, small(&env, &space), 1, None).unwrap();
            try_change(&mut job, &mut SimRng::new(1), 40).unwrap();
            job.snapshot(1);
            if late {
                env.fail_nth_late(FaultKind::Write, nth, FaultError::ENOSPC, true);
            } else {
                env.fail_nth(FaultKind::Write, nth, FaultError::ENOSPC, true);
            }
            let mut refused = 0;
            for id in 2..5 {
                if let Err(error) = try_change(&mut job, &mut SimRng::new(id), 60) {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    refused += 1;
                }
                if let Err(error) = job.try_snapshot(id) {
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                    assert!(error.to_string().contains("os error 28"), "{error}");
                }
                job.settle();
            }
            let full = env.fault_fired();
            env.clear_faults();
            assert!(full || refused == 0, "nothing fails while there is room");
            let store = store_on(&env, CHECKPOINTS).unwrap();
            for name in objects(&env) {
                let bytes = env.file_bytes(&Path::new(CHECKPOINTS).join(&name)).unwrap();
                if name.starts_with("manifests/") {
                    for table in Manifest::decode(&bytes).unwrap().tables {
                        let file = store.open(&table.location).unwrap();
                        TableReader::open(file, &table.meta).unwrap().verify().unwrap();
                    }
                }
            }
            // The first may still be told of the last failure.
            let mut rng = SimRng::new(9);
            if try_change(&mut job, &mut rng, 60).is_err() {
                try_change(&mut job, &mut rng, 60).unwrap();
            }
            spill_all(&mut job);
            job.assert_holds_model();
            let handles = job.snapshot(5);
            let image = job.model.clone();
            drop(job);
            assert_restores_with_budget(&env, &space, &handles, &image);
            if !full {
                break;
            }
        }
    }
}

/// RocksDB 7.9.0: a flush that is tried again puts memtables into the wrong order.
#[test]
fn bug_17_early_writes_that_are_tried_again_keep_their_order() {
    let space = space(6);
    let mut failures = 0;
    for kind in [FaultKind::Create, FaultKind::Write, FaultKind::Sync] {
        for nth in 1..12 {
            let env = machine();
            let mut job = Job::open(&space, small(&env, &space), 1, None).unwrap();
            // Four wait to be written; each says something else of each key.
            for id in 1..5_u64 {
                for key in 0..space.keys.len() {
                    match (key as u64 + id) % 3 {
                        0 => job.delete(key),
                        _ => job.put(key, &id.to_le_bytes()),
                    }
                }
                job.shards[0].0.write_early().unwrap();
            }
            env.fail_nth(kind, nth, FaultError::EIO, false);
            job.settle();
            evict_all(&mut job);
            job.assert_holds_model();
            failures += u32::from(env.fault_fired());
            // What was not written is, with what comes next.
            job.put(0, b"last");
            spill_all(&mut job);
            env.clear_faults();
            job.assert_holds_model();
            spill_all(&mut job);
            job.assert_holds_model();
            let handles = job.snapshot(1);
            let image = job.model.clone();
            drop(job);
            assert_restores_with_budget(&env, &space, &handles, &image);
        }
    }
    assert!(failures > 12, "{failures} early writes failed");
}

/// A shard with values, lists, maps and timers, and what it should hold.
struct Kinds {
    shard: Shard,
    backend: alluvium::Backend,
    values: StateId,
    lists: StateId,
    maps: StateId,
    timers: TimersId,
}

type Bytes = Vec<u8>;
type Place = (Bytes, Bytes);

/// By key and namespace. What does not exist has no entry.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct All {
    values: BTreeMap<Place, Bytes>,
    lists: BTreeMap<Place, Vec<Bytes>>,
    maps: BTreeMap<Place, BTreeMap<Bytes, Bytes>>,
    timers: Vec<(i64, Place)>,
}

const KEYS: [&[u8]; 3] = [b"", b"k", b"key"];
const NAMESPACES: [&[u8]; 2] = [b"", b"n"];

fn places() -> impl Iterator<Item = (&'static [u8], &'static [u8])> {
    KEYS.into_iter().flat_map(|key| NAMESPACES.map(|namespace| (key, namespace)))
}

fn at<'a>((key, namespace): (&'a [u8], &'a [u8])) -> KeyRef<'a> {
    KeyRef::new(key).namespace(namespace)
}

impl Kinds {
    fn open(env: &SimEnv, handle: Option<SnapshotHandle>) -> Self {
        let space = space(1);
        let backend = small(env, &space).open().unwrap();
        let groups = backend.max_parallelism().all_groups();
        let mut shard = backend.shard("op", groups).restore(handle).open().unwrap();
        Self {
            values: shard.register(StateSpec::value("v")).unwrap(),
            lists: shard.register(StateSpec::list("l")).unwrap(),
            maps: shard.register(StateSpec::map("m")).unwrap(),
            timers: shard.open_timers(TimerSpec::new("t", TimeDomain::Event)).unwrap(),
            shard,
            backend,
        }
    }

    fn spill(&mut self) {
        self.shard.write_early().unwrap();
        while self.backend.run_background() {}
        self.shard.evict(u64::MAX).unwrap();
    }

    fn list(&mut self, place: (&[u8], &[u8])) -> Result<Vec<Bytes>> {
        let mut found = Vec::new();
        self.shard.list_read(self.lists, at(place), &mut |element| found.push(element.to_vec()))?;
        Ok(found)
    }

    fn map(&mut self, place: (&[u8], &[u8])) -> Result<BTreeMap<Bytes, Bytes>> {
        let mut found = BTreeMap::new();
        self.shard.map_scan(self.maps, at(place), Bound::Unbounded, &mut |entry, value| {
            found.insert(entry.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    fn all(&mut self) -> All {
        let mut all = All::default();
        for place in places() {
            let name = (place.0.to_vec(), place.1.to_vec());
            if let Some(value) = self.shard.get(self.values, at(place)).unwrap() {
                all.values.insert(name.clone(), value.to_vec());
            }
            let list = self.list(place).unwrap();
            if !list.is_empty() {
                all.lists.insert(name.clone(), list);
            }
            let map = self.map(place).unwrap();
            assert_eq!(self.shard.map_is_empty(self.maps, at(place)).unwrap(), map.is_empty());
            if !map.is_empty() {
                all.maps.insert(name, map);
            }
        }
        for state in [self.values, self.lists, self.maps] {
            let mut keys = Vec::new();
            let visit = &mut |_, key: &[u8], namespace: &[u8]| {
                keys.push((key.to_vec(), namespace.to_vec()));
                ControlFlow::Continue(())
            };
            self.shard.visit_keys(state, None, visit).unwrap();
            keys.sort();
            let there: Vec<_> = match state {
                state if state == self.values => all.values.keys().cloned().collect(),
                state if state == self.lists => all.lists.keys().cloned().collect(),
                _ => all.maps.keys().cloned().collect(),
            };
            assert_eq!(keys, there, "what is visited is there");
        }
        all
    }

    fn all_timers(&mut self) -> Vec<(i64, Place)> {
        let mut found = Vec::new();
        let take = &mut |timer: &alluvium::TimerRef<'_>| {
            found.push((timer.timestamp, (timer.key.to_vec(), timer.namespace.to_vec())));
            Ok(())
        };
        while self.shard.pop_due(self.timers, i64::MAX, take).unwrap() {}
        found.sort();
        found
    }
}

type Operation = (&'static str, fn(&mut Kinds, (&[u8], &[u8])), fn(&mut All, Place));

fn put_value(all: &mut All, place: Place, value: &[u8]) {
    all.values.insert(place, value.to_vec());
}

/// Every call that changes something, with nothing and with something, and what it is
/// to come to.
const OPERATIONS: [Operation; 21] = [
    ("nothing", |_, _| {}, |_, _| {}),
    ("put", |j, p| j.shard.put(j.values, at(p), b"new").unwrap(), |a, p| put_value(a, p, b"new")),
    ("put nothing", |j, p| j.shard.put(j.values, at(p), b"").unwrap(), |a, p| put_value(a, p, b"")),
    ("delete", |j, p| j.shard.delete(j.values, at(p)).unwrap(), |a, p| drop(a.values.remove(&p))),
    (
        "clear value",
        |j, p| j.shard.clear(j.values, at(p)).unwrap(),
        |a, p| {
            a.values.remove(&p);
        },
    ),
    (
        "update",
        |j, p| j.shard.update(j.values, at(p), &mut |value| value.set(b"updated")).unwrap(),
        |a, p| put_value(a, p, b"updated"),
    ),
    (
        "update to nothing",
        |j, p| j.shard.update(j.values, at(p), &mut |value| value.set(b"")).unwrap(),
        |a, p| put_value(a, p, b""),
    ),
    (
        "update by deleting",
        |j, p| j.shard.update(j.values, at(p), &mut |value| value.delete()).unwrap(),
        |a, p| drop(a.values.remove(&p)),
    ),
    (
        "update many",
        |j, p| {
            let keys = [at(p), at(p)];
            let set = &mut |nth, value: &mut alluvium::ValueMut<'_>| value.set(&[b'a', nth as u8]);
            j.shard.update_many(j.values, &keys, set).unwrap();
        },
        |a, p| put_value(a, p, b"a\x01"),
    ),
    (
        "append",
        |j, p| j.shard.list_append(j.lists, at(p), &[b"x", b""]).unwrap(),
        |a, p| a.lists.entry(p).or_default().extend([b"x".to_vec(), Vec::new()]),
    ),
    ("append nothing", |j, p| j.shard.list_append(j.lists, at(p), &[]).unwrap(), |_, _| {}),
    (
        "replace",
        |j, p| j.shard.list_replace(j.lists, at(p), &[b""]).unwrap(),
        |a, p| drop(a.lists.insert(p, vec![Vec::new()])),
    ),
    (
        "replace by nothing",
        |j, p| j.shard.list_replace(j.lists, at(p), &[]).unwrap(),
        |a, p| drop(a.lists.remove(&p)),
    ),
    (
        "clear list",
        |j, p| j.shard.clear(j.lists, at(p)).unwrap(),
        |a, p| {
            a.lists.remove(&p);
        },
    ),
    (
        "clear list and append",
        |j, p| {
            j.shard.clear(j.lists, at(p)).unwrap();
            j.shard.list_append(j.lists, at(p), &[b"again"]).unwrap();
        },
        |a, p| drop(a.lists.insert(p, vec![b"again".to_vec()])),
    ),
    (
        "put entry",
        |j, p| j.shard.map_put(j.maps, at(p), b"e", b"new").unwrap(),
        |a, p| drop(a.maps.entry(p).or_default().insert(b"e".to_vec(), b"new".to_vec())),
    ),
    (
        "put nothing as an entry without a name",
        |j, p| j.shard.map_put(j.maps, at(p), b"", b"").unwrap(),
        |a, p| drop(a.maps.entry(p).or_default().insert(Vec::new(), Vec::new())),
    ),
    (
        "remove entries",
        |j, p| {
            for entry in [&b""[..], b"e", b"absent"] {
                j.shard.map_remove(j.maps, at(p), entry).unwrap();
            }
        },
        |a, p| {
            if let Some(map) = a.maps.get_mut(&p) {
                map.retain(|entry, _| !entry.is_empty() && entry != b"e");
                if map.is_empty() {
                    a.maps.remove(&p);
                }
            }
        },
    ),
    (
        "clear map",
        |j, p| j.shard.clear(j.maps, at(p)).unwrap(),
        |a, p| {
            a.maps.remove(&p);
        },
    ),
    (
        "clear map and put",
        |j, p| {
            j.shard.clear(j.maps, at(p)).unwrap();
            j.shard.map_put(j.maps, at(p), b"f", b"").unwrap();
        },
        |a, p| drop(a.maps.insert(p, [(b"f".to_vec(), Vec::new())].into())),
    ),
    (
        "register and delete timers",
        |j, p| {
            assert!(j.shard.register_timer(j.timers, 7, at(p)).unwrap());
            assert!(j.shard.register_timer(j.timers, 8, at(p)).unwrap());
            assert!(j.shard.delete_timer(j.timers, 8, at(p)).unwrap());
        },
        |a, p| a.timers.push((7, p)),
    ),
];

/// A shard in which a place has something, or nothing.
fn prepare(kinds: &mut Kinds, all: &mut All, filled: bool) {
    for place in places().filter(|_| filled) {
        let name = (place.0.to_vec(), place.1.to_vec());
        kinds.shard.put(kinds.values, at(place), b"old").unwrap();
        all.values.insert(name.clone(), b"old".to_vec());
        kinds.shard.list_append(kinds.lists, at(place), &[b"", b"old"]).unwrap();
        all.lists.insert(name.clone(), vec![Vec::new(), b"old".to_vec()]);
        for entry in [&b""[..], b"e", b"g"] {
            kinds.shard.map_put(kinds.maps, at(place), entry, b"old").unwrap();
            all.maps.entry(name.clone()).or_default().insert(entry.to_vec(), b"old".to_vec());
        }
    }
}

/// lsm-tree #286, RocksDB 11.3.0: `clear()`, or something with an empty name, is
/// acknowledged and gone after the next start.
#[test]
fn bug_31_every_operation_outlasts_eviction_and_the_next_start() {
    for (name, operate, expect) in OPERATIONS {
        for (filled, evicted) in [(false, false), (true, false), (true, true)] {
            let env = machine();
            let mut kinds = Kinds::open(&env, None);
            let mut all = All::default();
            prepare(&mut kinds, &mut all, filled);
            if evicted {
                kinds.spill();
            }
            for place in places() {
                operate(&mut kinds, place);
                expect(&mut all, (place.0.to_vec(), place.1.to_vec()));
            }
            let timers = std::mem::take(&mut all.timers);
            let what = format!("{name}, something there: {filled}, evicted: {evicted}");
            assert_eq!(kinds.all(), all, "{what}");
            kinds.spill();
            assert_eq!(kinds.all(), all, "evicted after {what}");
            kinds.spill();
            let handle = kinds.shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
            assert_eq!(kinds.all(), all, "after a snapshot after {what}");
            drop(kinds);
            let mut kinds = Kinds::open(&env, Some(handle));
            assert_eq!(kinds.all(), all, "restored after {what}");
            let mut expected = timers;
            expected.sort();
            assert_eq!(kinds.all_timers(), expected, "timers after {what}");
        }
    }
}

type Question = (&'static str, fn(&mut Kinds, u32) -> Result<Bytes>);

fn key_of(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// Whatever is asked of evicted records, as bytes.
const QUESTIONS: [Question; 9] = [
    ("get", |j, n| {
        Ok(j.shard.get(j.values, KeyRef::new(&key_of(n)))?.unwrap_or(b"absent").to_vec())
    }),
    ("get many", |j, n| {
        let keys = [key_of(n), key_of(n + 7), key_of(n + 900)];
        let refs: Vec<_> = keys.iter().map(|key| KeyRef::new(key)).collect();
        let mut found = Vec::new();
        j.shard.get_many(j.values, &refs, &mut |_, value| {
            found.extend(value.unwrap_or(b"absent"));
        })?;
        Ok(found)
    }),
    ("get batch", |j, n| {
        let keys = [key_of(n), key_of(n + 7), key_of(n + 900)];
        let mut found = Vec::new();
        j.shard.get_batch(j.values, &keys, |_, value| found.extend(value.unwrap_or(b"absent")))?;
        Ok(found)
    }),
    ("update", |j, n| {
        let mut found = Vec::new();
        j.shard.update(j.values, KeyRef::new(&key_of(n)), &mut |value| {
            found.extend(value.get().unwrap_or(b"absent"));
        })?;
        Ok(found)
    }),
    ("update many", |j, n| {
        let keys = [key_of(n), key_of(n + 7), key_of(n + 900)];
        let refs: Vec<_> = keys.iter().map(|key| KeyRef::new(key)).collect();
        let mut found = Vec::new();
        j.shard.update_many(j.values, &refs, &mut |_, value| {
            found.extend(value.get().unwrap_or(b"absent"));
        })?;
        Ok(found)
    }),
    ("read a list", |j, n| Ok(j.list((&key_of(n), b""))?.concat())),
    ("get an entry", |j, n| {
        let found = j.shard.map_get(j.maps, KeyRef::new(&key_of(n)), &[3])?;
        Ok(found.unwrap_or(b"absent").to_vec())
    }),
    ("scan a map", |j, n| Ok(j.map((&key_of(n), b""))?.into_values().flatten().collect())),
    ("visit keys", |j, _| {
        let mut found = Vec::new();
        for state in [j.values, j.lists, j.maps] {
            let mut keys = Vec::new();
            j.shard.visit_keys(state, None, &mut |_, key, _| {
                keys.push(key.to_vec());
                ControlFlow::Continue(())
            })?;
            keys.sort();
            found.extend(keys.concat());
        }
        Ok(found)
    }),
];

/// RocksDB 8.7.0, 6.8.0: a read error is taken for "not found", or for the end.
#[test]
fn bug_18_no_read_of_evicted_records_takes_an_error_for_absence() {
    let env = machine();
    let mut kinds = Kinds::open(&env, None);
    let value = |n: u32| n.to_le_bytes().repeat(20);
    // In three tables, one above the other.
    for part in 0..3 {
        for n in 0..60 {
            let key = key_of(n);
            let key = KeyRef::new(&key);
            if n % 3 == part {
                kinds.shard.put(kinds.values, key, &value(n)).unwrap();
            }
            kinds.shard.list_append(kinds.lists, key, &[&value(n + part)]).unwrap();
            for entry in 0..6 {
                kinds.shard.map_put(kinds.maps, key, &[entry], &value(n + part)).unwrap();
            }
        }
        kinds.shard.write_early().unwrap();
        while kinds.backend.run_background() {}
    }
    kinds.shard.evict(u64::MAX).unwrap();
    let mut errors = 0;
    for (name, ask) in QUESTIONS {
        for n in [0, 1, 29, 500] {
            kinds.shard.evict(u64::MAX).unwrap();
            let answer = ask(&mut kinds, n).unwrap();
            for sticky in [false, true] {
                for nth in 1.. {
                    kinds.shard.evict(u64::MAX).unwrap();
                    env.fail_nth(FaultKind::Read, nth, FaultError::EIO, sticky);
                    let found = ask(&mut kinds, n);
                    let fired = env.fault_fired();
                    env.clear_faults();
                    match found {
                        Ok(found) => {
                            assert!(!fired, "{name} {n}: read {nth} failed, and nothing is said");
                            assert_eq!(found, answer, "{name} {n}");
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Unavailable, "{name}: {error}");
                            errors += 1;
                        }
                    }
                    assert_eq!(ask(&mut kinds, n).unwrap(), answer, "{name} {n} afterwards");
                    if !fired {
                        break;
                    }
                }
            }
        }
    }
    assert!(errors > 60, "{errors} reads failed");
}

/// The same, of merges beside early writes.
#[test]
fn bug_18_a_merge_of_what_was_evicted_loses_nothing_when_it_cannot_read() {
    let space = space(30);
    let mut failed_merges = 0;
    for sticky in [false, true] {
        for nth in 1.. {
            let env = machine();
            let mut job = Job::open(&space, small(&env, &space), 1, None).unwrap();
            let mut rng = SimRng::new(nth);
            for _ in 0..5 {
                // Written, and not merged yet.
                try_change(&mut job, &mut rng, 15).unwrap();
                job.shards[0].0.write_early().unwrap();
            }
            env.fail_nth(FaultKind::Read, nth, FaultError::EIO, sticky);
            job.settle();
            let failed = env.fault_fired();
            env.clear_faults();
            failed_merges += u32::from(failed);
            evict_all(&mut job);
            job.assert_holds_model();
            spill_all(&mut job);
            job.assert_holds_model();
            let handles = job.snapshot(1);
            let image = job.model.clone();
            drop(job);
            assert_restores_with_budget(&env, &space, &handles, &image);
            if !failed {
                break;
            }
        }
    }
    assert!(failed_merges > 10, "{failed_merges}");
}

/// RocksDB 7.1.0, 6.11, 5.10.0: what was deleted comes back, since a deletion was dropped
/// too early: by a flush beside a snapshot, a merge above what it deletes, or with a
/// range of a file.
#[test]
fn bug_24_a_deletion_that_left_memory_deletes_for_ever() {
    let space = space(20);
    let (mut evicted, mut restored) = (0, 0);
    for seed in 0..60 {
        let env = machine();
        let mut rng = SimRng::new(seed);
        // Merged by single key groups, or all at once.
        let partition_bytes = [1, 4_000, u64::MAX][rng.below(3) as usize];
        let open = |restore: Option<(&[SnapshotHandle], &Image)>| {
            let builder = small(&env, &space).partition_bytes(partition_bytes);
            Job::open(&space, builder, 1, restore).unwrap()
        };
        let mut job = open(None);
        let store = store_on(&env, CHECKPOINTS).unwrap();
        let mut pending = Vec::new();
        let mut id = 0;
        for _ in 0..200 {
            let key = rng.below(space.keys.len() as u64) as usize;
            match rng.below(16) {
                0..=3 => job.put(key, &large(&mut rng)),
                4..=7 => job.delete(key),
                8 => job.shards[0].0.write_early().unwrap(),
                9 => evict_all(&mut job),
                10..=12 => drop(job.backend.run_background()),
                13 => {
                    id += 1;
                    let ticket = job.shards[0].0.snapshot(SnapshotId(id), b"").unwrap();
                    pending.push((ticket, job.model.clone()));
                }
                14 => {
                    let (shard, ids) = &mut job.shards[0];
                    let found = read(shard, ids, &space, key);
                    let known = job.model.get(&key).map(|value| value.to_vec());
                    assert_eq!(found, known, "seed {seed}, key {key}");
                }
                _ => {
                    let Some((ticket, image)) = pending.pop() else { continue };
                    let handles = [ticket.wait().unwrap().handle];
                    let what = format!("seed {seed}, snapshot {}", ticket.snapshot());
                    let sealed = sealed_image(&space, &store, &handles).unwrap();
                    assert_same_image(&space, &sealed, &image, &what);
                    pending.clear();
                    if rng.one_in(4) {
                        evicted += job.shards[0].0.stats().evicted_records;
                        restored += 1;
                        drop(job);
                        job = open(Some((&handles, &image)));
                    }
                }
            }
        }
        spill_all(&mut job);
        job.assert_holds_model();
        evicted += job.shards[0].0.stats().evicted_records;
    }
    assert!(evicted > 1_000 && restored > 30, "{evicted} evicted, {restored} restored");
}
