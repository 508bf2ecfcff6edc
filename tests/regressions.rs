//! Bugs that other state stores have had, each as a test. The numbers are those
//! of the project's catalogue of historic bugs; the engine or database that had
//! the bug is named with each.
//!
//! Tested elsewhere, and more thoroughly than one case could:
//!
//! - 14 (missing sync of a file or directory), 15 (states flushed
//!   inconsistently), 19 (recovery after a crash in recovery): `crash.rs`, whose
//!   images are compared over all states.
//! - 18 (a read error taken for "not found"), 6 (a lost reply): `faults.rs`,
//!   for every call; the cases here add merging and deletion.
//! - 22 (copy-on-write races with an asynchronous snapshot): here with threads,
//!   and as a model of the hand-over, in `tests/loom`.
//!
//! Not here, because the engine has no such part: 1, 4, 5, 8, 9, 10, 13, 21 (the
//! files of other jobs, reference counts, savepoints, fencing, resumed uploads),
//! 26 and 32 (operator state, timers), 33 and 34 (TTL, changelog).

mod common;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use alluvium::env::sim::{CrashMode, FaultError, FaultKind, SimRng};
use alluvium::env::{Env, SimEnv};
use alluvium::object::{Contents, LocalStore, ObjectName, ObjectStore};
use alluvium::{
    Backend, Error, ErrorKind, KeyRef, KeyedStore, Result, Shard, SnapshotHandle, SnapshotId,
    SnapshotSink, SnapshotTicket, StateSpec, StoreSink, TableUpload, ValueState,
};

use common::{
    CHECKPOINTS, Ids, Image, Job, Keyspace, OPERATOR, assert_same_image, backend_on, handles,
    locations_of, manifest_of, range_of, sealed_image, store_on, table_records,
};

fn machine() -> SimEnv {
    SimEnv::new(23)
}

fn space(keys: usize) -> Arc<Keyspace> {
    Arc::new(Keyspace::plain(&["counts", "names"], keys))
}

fn assert_restores(
    env: &SimEnv,
    space: &Arc<Keyspace>,
    handles: &[SnapshotHandle],
    image: &Image,
    parallelism: u32,
) {
    let store = store_on(env, CHECKPOINTS).unwrap();
    let sealed = sealed_image(space, &store, handles).unwrap();
    assert_same_image(space, &sealed, image, "what is in the tables");
    let builder = backend_on(env, space);
    let mut job = Job::open(space, builder, parallelism, Some((handles, image))).unwrap();
    job.assert_holds_model();
    job.warm_up();
    job.assert_holds_model();
}

/// What a sink is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    PutTable,
    HoldsTable,
    PutManifest,
}

type OnCall = Box<dyn FnMut(Call) -> Result<()> + Send>;

/// A store whose calls are watched, and fail if the watcher says so.
#[derive(Clone)]
struct Watched {
    inner: StoreSink,
    on_call: Arc<Mutex<OnCall>>,
}

impl Watched {
    fn new(env: &SimEnv) -> Self {
        let on_call: OnCall = Box::new(|_| Ok(()));
        let inner = store_on(env, CHECKPOINTS).unwrap();
        Self { inner, on_call: Arc::new(Mutex::new(on_call)) }
    }

    fn watch(&self, on_call: impl FnMut(Call) -> Result<()> + Send + 'static) {
        *self.on_call.lock().unwrap() = Box::new(on_call);
    }

    fn called(&self, call: Call) -> Result<()> {
        (self.on_call.lock().unwrap())(call)
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({:?})", self.inner)
    }
}

impl SnapshotSink for Watched {
    fn identity(&self) -> String {
        SnapshotSink::identity(&self.inner)
    }

    fn put_table(
        &self,
        table: &TableUpload<'_>,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<String> {
        self.called(Call::PutTable)?;
        self.inner.put_table(table, keep_going)
    }

    fn holds_table(&self, location: &str, contents: &Contents) -> Result<bool> {
        self.called(Call::HoldsTable)?;
        self.inner.holds_table(location, contents)
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<String> {
        self.called(Call::PutManifest)?;
        self.inner.put_manifest(name, bytes)
    }
}

/// The objects in the store, temporary files left out.
fn objects(env: &SimEnv) -> BTreeSet<String> {
    let root = Path::new(CHECKPOINTS);
    let below = |path: &PathBuf| path.strip_prefix(root).ok()?.to_str().map(str::to_owned);
    let names: Vec<_> = env.list_all_files().iter().filter_map(below).collect();
    names.into_iter().filter(|name| !name.starts_with('.')).collect()
}

/// FLINK-24611, FLINK-25395: aborting a checkpoint deletes files that the next
/// one uses.
#[test]
fn bug_02_an_aborted_snapshot_leaves_the_next_one_whole() {
    let space = space(20);
    for stop_at in 0..8 {
        let env = machine();
        let sink = Watched::new(&env);
        let builder = backend_on(&env, &space).sink(Arc::new(sink.clone()));
        let mut job = Job::open(&space, builder, 2, None).unwrap();
        job.change(&mut SimRng::new(1), 30);
        job.snapshot(1);
        job.complete(1);
        job.change(&mut SimRng::new(2), 30);

        // Two in flight; the first is stopped at its n-th call, the second
        // goes on with whatever the first had stored.
        let take = |job: &mut Job, id| -> Vec<SnapshotTicket> {
            let begin = |(shard, _): &mut (Shard, Ids)| shard.snapshot(SnapshotId(id), b"");
            job.shards.iter_mut().map(begin).collect::<Result<_>>().unwrap()
        };
        let second = take(&mut job, 2);
        job.change(&mut SimRng::new(3), 10);
        let third = take(&mut job, 3);
        let mut calls = 0;
        let stopped = second.clone();
        sink.watch(move |_| {
            if calls == stop_at {
                stopped.iter().for_each(SnapshotTicket::cancel);
            }
            calls += 1;
            Ok(())
        });
        let image = job.model.clone();
        let aborted = second.iter().map(SnapshotTicket::wait).filter(Result::is_err).count();
        assert!(aborted > 0 || stop_at > 2, "stopped at call {stop_at}");
        job.abort(2);
        let reports: Vec<_> = third.iter().map(|ticket| ticket.wait().unwrap()).collect();
        job.complete(3);
        drop(job);
        assert_restores(&env, &space, &handles(&reports), &image, 3);
    }
}

/// FLINK-29913, FLINK-6533: concurrent checkpoints upload the same file, and
/// one copy is deleted.
#[test]
fn bug_03_snapshots_in_flight_may_be_acknowledged_in_any_order() {
    let space = space(10);
    let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    for order in orders {
        for aborted in 0..8_u64 {
            let env = machine();
            let builder = backend_on(&env, &space).max_tables_per_shard(2);
            let mut job = Job::open(&space, builder, 1, None).unwrap();
            let mut taken = Vec::new();
            for id in 1..=3 {
                job.change(&mut SimRng::new(id), 12);
                let ticket = job.shards[0].0.snapshot(SnapshotId(id), b"").unwrap();
                taken.push((ticket, job.model.clone()));
            }
            let reports: Vec<_> = taken.iter().map(|(ticket, _)| ticket.wait().unwrap()).collect();
            for id in order {
                if aborted >> (id - 1) & 1 == 1 {
                    job.abort(id);
                } else {
                    job.complete(id);
                }
            }
            job.settle();
            job.change(&mut SimRng::new(4), 5);
            let last = job.snapshot(4);
            let image = job.model.clone();
            drop(job);
            for (report, (_, image)) in reports.iter().zip(&taken) {
                assert_restores(&env, &space, std::slice::from_ref(&report.handle), image, 1);
            }
            assert_restores(&env, &space, &last, &image, 2);
        }
    }
}

/// FLINK-22494, FLINK-24543: a commit succeeded, its reply was lost, and the
/// data was "cleaned up".
#[test]
fn bug_06_what_was_stored_is_never_removed_because_a_reply_was_lost() {
    let space = space(10);
    for kind in [FaultKind::Link, FaultKind::SyncDir, FaultKind::Sync, FaultKind::Write] {
        for nth in 1..12 {
            let env = machine();
            let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
            job.change(&mut SimRng::new(1), 20);
            job.snapshot(1);
            job.change(&mut SimRng::new(2), 20);
            env.fail_nth_late(kind, nth, FaultError::EIO, false);
            let before = objects(&env);
            if let Err(error) = job.try_snapshot(2) {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
            }
            let after = objects(&env);
            assert!(after.is_superset(&before), "{kind:?} {nth}");
            env.clear_faults();
            let last = job.snapshot(3);
            assert!(objects(&env).is_superset(&after), "{kind:?} {nth}");
            let image = job.model.clone();
            drop(job);
            assert_restores(&env, &space, &last, &image, 1);
        }
    }
}

/// FLINK-30461, FLINK-28984: what a cancelled checkpoint had uploaded stays
/// behind for ever.
#[test]
fn bug_07_what_a_cancelled_snapshot_uploaded_is_used_by_the_next() {
    let space = space(20);
    // Five tables are missing; the snapshot ends after k of them.
    for k in 0..5 {
        let env = machine();
        let sink = Watched::new(&env);
        let builder = backend_on(&env, &space).sink(Arc::new(sink.clone()));
        let mut job = Job::open(&space, builder, 1, None).unwrap();
        sink.watch(|_| Err(Error::unavailable("not now")));
        for id in 1..5 {
            job.change(&mut SimRng::new(id), 10);
            job.try_snapshot(id).unwrap_err();
        }
        job.change(&mut SimRng::new(5), 10);
        let mut left = k;
        sink.watch(move |_| {
            if left == 0 {
                return Err(Error::unavailable("enough"));
            }
            left -= 1;
            Ok(())
        });
        job.try_snapshot(5).unwrap_err();
        let stored = objects(&env);
        assert_eq!(stored.len(), k);

        let uploads = Arc::new(Mutex::new(0));
        let count = Arc::clone(&uploads);
        sink.watch(move |call| {
            *count.lock().unwrap() += usize::from(call == Call::PutTable);
            Ok(())
        });
        let handles = job.snapshot(6);
        assert_eq!(*uploads.lock().unwrap(), 5 - k, "only what is missing is uploaded");
        assert!(objects(&env).is_superset(&stored));
        let needed = locations_of(&sink.inner, &handles).unwrap();
        assert_eq!(objects(&env), needed, "nothing was left behind");
        let image = job.model.clone();
        drop(job);
        assert_restores(&env, &space, &handles, &image, 1);
    }
}

/// FLINK-6964, BOOKKEEPER-2641, SPARK-43404: a file is taken for another of the
/// same name or size.
#[test]
fn bug_11_files_are_recognised_by_identity_not_by_name_or_size() {
    let space = space(10);
    let env = machine();
    let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
    job.change(&mut SimRng::new(1), 20);
    let base = job.snapshot(1);
    let base_image = job.model.clone();
    drop(job);
    // Rolled back twice, each time with changes of the same shape.
    let mut histories = Vec::new();
    for value in [b"one", b"two"] {
        let restore = Some((&base[..], &base_image));
        let mut job = Job::open(&space, backend_on(&env, &space), 1, restore).unwrap();
        for key in 0..10 {
            job.put(key, value);
        }
        histories.push((job.snapshot(2), job.model.clone()));
    }
    for (handles, image) in &histories {
        assert_restores(&env, &space, handles, image, 2);
    }

    // Something of that very name and size is in the store, but it is not it.
    let local = LocalStore::open(Arc::new(env.clone()), PathBuf::from("/other")).unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(local);
    let sink = StoreSink::new(Arc::clone(&store));
    store.create(&ObjectName::new("tables/t").unwrap(), b"other").unwrap();
    store.create(&ObjectName::new("source").unwrap(), b"bytes").unwrap();
    let bytes = store.open(&ObjectName::new("source").unwrap()).unwrap();
    let contents = Contents::of(b"bytes");
    let upload = TableUpload { name: "t", contents, local: None, bytes: &*bytes };
    let error = sink.put_table(&upload, &mut |_| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let upload = TableUpload { name: "u", ..upload };
    let location = sink.put_table(&upload, &mut |_| true).unwrap();
    assert_eq!(sink.put_table(&upload, &mut |_| true).unwrap(), location, "it is there already");
    assert!(!sink.holds_table(&location, &Contents::of(b"longer")).unwrap());
    let error = sink.put_manifest("u", b"x").and(sink.put_manifest("u", b"y")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// FLINK-12296, FLINK-11743: stores share a local directory, and a restore
/// deletes the state of others.
#[test]
fn bug_12_sixteen_stores_share_one_root() {
    let space = space(8);
    let env = machine();
    let open = |store: u64, restore: Option<(&[SnapshotHandle], &Image)>| {
        let builder = Backend::builder(format!("/node/{store}"))
            .checkpoint_dir(CHECKPOINTS)
            .env(Arc::new(env.clone()))
            .background_threads(0)
            .max_parallelism(space.max_parallelism());
        Job::open(&space, builder, 2, restore).unwrap()
    };
    let mut jobs: Vec<_> = (0..16).map(|store| open(store, None)).collect();
    let mut last = Vec::new();
    for (store, job) in jobs.iter_mut().enumerate() {
        job.change(&mut SimRng::new(store as u64), 15);
        last.push((job.snapshot(1), job.model.clone()));
    }
    let mut rng = SimRng::new(1);
    for round in 2..60 {
        let store = rng.below(16);
        let at = store as usize;
        if rng.one_in(2) {
            // Close before opening again: the directory is its own.
            let job = jobs.remove(at);
            drop(job);
            jobs.insert(at, open(store, Some((&last[at].0, &last[at].1))));
        }
        jobs[at].assert_holds_model();
        jobs[at].change(&mut rng, 5);
        last[at] = (jobs[at].snapshot(round), jobs[at].model.clone());
        jobs[at].settle();
    }
    for job in &mut jobs {
        job.assert_holds_model();
    }
    drop(jobs);
    for (store, (handles, image)) in last.iter().enumerate() {
        open(store as u64, Some((handles, image))).assert_holds_model();
    }
}

/// FLINK-35217, FLINK-36421: a checkpoint is acknowledged before its files, or
/// their names, are durable. See `crash.rs` for every operation.
#[test]
fn bug_14_an_acknowledged_snapshot_survives_the_worst_power_cut() {
    let space = space(20);
    let env = machine();
    let mut job = Job::open(&space, backend_on(&env, &space), 2, None).unwrap();
    for id in 1..6 {
        job.change(&mut SimRng::new(id), 15);
        let handles = job.snapshot(id);
        let found = env.crash_image(CrashMode::DropUnsynced, 0);
        assert_restores(&found, &space, &handles, &job.model, 2);
        job.settle();
    }
}

/// RocksDB 6.8.0: a full disk leaves a hole in the middle of the manifest.
#[test]
fn bug_16_a_full_disk_leaves_no_half_written_object() {
    let space = space(20);
    for late in [false, true] {
        for nth in 1.. {
            let env = machine();
            let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
            job.change(&mut SimRng::new(1), 20);
            job.snapshot(1);
            if late {
                env.fail_nth_late(FaultKind::Write, nth, FaultError::ENOSPC, true);
            } else {
                env.fail_nth(FaultKind::Write, nth, FaultError::ENOSPC, true);
            }
            for id in 2..5 {
                job.change(&mut SimRng::new(id), 20);
                if let Err(error) = job.try_snapshot(id) {
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                    assert!(error.to_string().contains("os error 28"), "{error}");
                }
            }
            let full = env.fault_fired();
            env.clear_faults();
            for name in objects(&env) {
                let bytes = env.file_bytes(&Path::new(CHECKPOINTS).join(&name)).unwrap();
                if name.starts_with("manifests/") {
                    alluvium::format::Manifest::decode(&bytes).unwrap();
                }
            }
            let handles = job.snapshot(5);
            let image = job.model.clone();
            drop(job);
            assert_restores(&env, &space, &handles, &image, 1);
            if !full {
                break;
            }
        }
    }
}

/// RocksDB 7.9.0: a flush that is tried again puts memtables into the wrong
/// order.
#[test]
fn bug_17_a_retried_flush_keeps_the_order_of_memtables() {
    let space = space(6);
    for kind in [FaultKind::Create, FaultKind::Write, FaultKind::Sync] {
        for nth in 1..10 {
            let env = machine();
            let builder = backend_on(&env, &space).max_tables_per_shard(2);
            let mut job = Job::open(&space, builder, 1, None).unwrap();
            // Four frozen epochs wait; each says something else of each key.
            let mut tickets = Vec::new();
            env.fail_nth(kind, nth, FaultError::EIO, false);
            for id in 1..5_u64 {
                for key in 0..space.keys.len() {
                    match (key as u64 + id) % 3 {
                        0 => job.delete(key),
                        _ => job.put(key, &id.to_le_bytes()),
                    }
                }
                let ticket = job.shards[0].0.snapshot(SnapshotId(id), b"").unwrap();
                tickets.push((ticket, job.model.clone()));
            }
            let results: Vec<_> = tickets.iter().map(|(ticket, _)| ticket.wait()).collect();
            assert!(results.iter().filter(|result| result.is_err()).count() <= 1);
            job.settle();
            let last = job.snapshot(5);
            let image = job.model.clone();
            drop(job);
            env.clear_faults();
            for (result, (_, image)) in results.iter().zip(&tickets) {
                if let Ok(report) = result {
                    let handles = std::slice::from_ref(&report.handle);
                    assert_restores(&env, &space, handles, image, 1);
                }
            }
            assert_restores(&env, &space, &last, &image, 1);
        }
    }
}

/// RocksDB 8.7.0, 6.8.0: a compaction takes a read error for the end of its
/// input, and the rest is lost.
#[test]
fn bug_18_a_merge_that_cannot_read_loses_nothing() {
    let space = space(40);
    let mut merges_that_failed = 0;
    for sticky in [false, true] {
        for nth in 1.. {
            let env = machine();
            let builder = backend_on(&env, &space).max_tables_per_shard(2);
            let mut job = Job::open(&space, builder, 1, None).unwrap();
            for id in 1..4 {
                job.change(&mut SimRng::new(id), 60);
                job.snapshot(id);
            }
            // The third has made three tables; now they are merged.
            env.fail_nth(FaultKind::Read, nth, FaultError::EIO, sticky);
            job.settle();
            let failed = env.fault_fired();
            env.clear_faults();
            merges_that_failed += u32::from(failed);
            let handles = job.snapshot(4);
            let image = job.model.clone();
            drop(job);
            assert_restores(&env, &space, &handles, &image, 1);
            if !failed {
                break;
            }
        }
    }
    assert!(merges_that_failed > 4, "{merges_that_failed}");
}

/// FLINK-5940, later FLINK-22502: a latest checkpoint that cannot be read is
/// skipped in silence.
#[test]
fn bug_20_a_damaged_checkpoint_is_an_error_and_no_older_one_is_taken() {
    let space = space(20);
    let env = machine();
    let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
    job.change(&mut SimRng::new(1), 40);
    let first = job.snapshot(1);
    let first_image = job.model.clone();
    job.change(&mut SimRng::new(2), 40);
    let second = job.snapshot(2);
    drop(job);
    let store = store_on(&env, CHECKPOINTS).unwrap();
    let newest = manifest_of(&store, &second[0]).unwrap().tables[1].location.clone();
    for name in [second[0].manifest(), &newest] {
        let path = Path::new(CHECKPOINTS).join(name);
        let sound = env.file_bytes(&path).unwrap();
        env.mutate_file(&path, |bytes| bytes.truncate(30));
        let backend = backend_on(&env, &space).open().unwrap();
        let shard = backend.shard(OPERATOR, range_of(0, 1, 128)).restore(second.clone());
        assert_eq!(shard.open().unwrap_err().kind(), ErrorKind::Corrupt);
        env.mutate_file(&path, |bytes| *bytes = sound);
    }
    // To go back is the operator's decision, and possible.
    assert_restores(&env, &space, &first, &first_image, 1);
}

/// FLINK-26967, FLINK-9269, FLINK-6207: the writer changes what an asynchronous
/// snapshot is reading. A real machine, threads, and a writer that never waits.
#[test]
fn bug_22_a_writer_on_another_thread_never_changes_a_frozen_record() {
    const KEYS: u64 = 1_500;
    const SNAPSHOTS: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let space = {
        let mut space = Keyspace::new(128, ["counts"]);
        for key in 0..KEYS {
            space.add(0, &key.to_be_bytes(), b"", false);
        }
        Arc::new(space)
    };
    let open = |name: &str| {
        Backend::builder(dir.path().join(name))
            .checkpoint_dir(dir.path().join("checkpoints"))
            .background_threads(2)
            .max_tables_per_shard(3)
            .max_parallelism(space.max_parallelism())
    };
    let mut job = Job::open(&space, open("a"), 2, None).unwrap();
    let mut rng = SimRng::new(1);
    let mut taken: Vec<(Vec<SnapshotTicket>, Image)> = Vec::new();
    for id in 1..=SNAPSHOTS {
        // Some records again and again, so that they are often frozen.
        for _ in 0..1_000 {
            let among = if rng.one_in(2) { 50 } else { KEYS };
            let key = rng.below(among) as usize;
            match rng.below(10) {
                0..=1 => job.delete(key),
                2..=3 => job.put(key, &vec![id as u8; rng.below(300) as usize]),
                _ => {
                    let value = rng.next_u64().to_le_bytes();
                    job.put(key, &value);
                }
            }
        }
        let begin = |(shard, _): &mut (Shard, Ids)| shard.snapshot(SnapshotId(id), b"");
        let tickets = job.shards.iter_mut().map(begin).collect::<Result<_>>().unwrap();
        taken.push((tickets, job.model.clone()));
    }
    job.assert_holds_model();
    let env: Arc<dyn Env> = Arc::new(alluvium::env::RealEnv::new());
    let store = LocalStore::open(env, dir.path().join("checkpoints")).unwrap();
    let store = StoreSink::new(Arc::new(store));
    let mut last = None;
    for (tickets, image) in taken {
        let reports: Vec<_> = tickets.iter().map(|ticket| ticket.wait().unwrap()).collect();
        let handles = handles(&reports);
        let sealed = sealed_image(&space, &store, &handles).unwrap();
        assert_same_image(&space, &sealed, &image, &format!("snapshot {}", reports[0].snapshot));
        last = Some((handles, image));
    }
    drop(job);
    let (handles, image) = last.expect("there were snapshots");
    let mut job = Job::open(&space, open("b"), 3, Some((&handles, &image))).unwrap();
    // While the background brings records into memory, and after it did.
    job.assert_holds_model();
    let mut rng = SimRng::new(2);
    job.change(&mut rng, 2_000);
    job.assert_holds_model();
    let begin = |(shard, _): &mut (Shard, Ids)| shard.snapshot(SnapshotId(SNAPSHOTS + 1), b"");
    let tickets: Vec<_> = job.shards.iter_mut().map(begin).collect::<Result<_>>().unwrap();
    let image = job.model.clone();
    job.change(&mut rng, 2_000);
    let reports: Vec<_> = tickets.iter().map(|ticket| ticket.wait().unwrap()).collect();
    let sealed = sealed_image(&space, &store, &common::handles(&reports)).unwrap();
    assert_same_image(&space, &sealed, &image, "the snapshot of a shard that warms up");
}

/// FLINK-26968: an increment leaves an update out, because a version was not
/// advanced.
#[test]
fn bug_23_full_restore_equals_incremental_restore() {
    let space = space(25);
    for max_tables in [1, 3, 100] {
        let env = machine();
        let builder = backend_on(&env, &space).max_tables_per_shard(max_tables);
        let mut job = Job::open(&space, builder, 1, None).unwrap();
        let mut increments = Vec::new();
        for id in 1..9 {
            job.change(&mut SimRng::new(id), 20);
            increments.push((job.snapshot(id), job.model.clone()));
            job.settle();
        }
        drop(job);
        for (handles, image) in increments {
            // The same state, written at once.
            let builder = backend_on(&env, &space).checkpoint_dir("/full");
            let mut full = Job::open(&space, builder, 1, None).unwrap();
            for (&key, value) in &image {
                full.put(key, value);
            }
            let written = full.snapshot(1);
            drop(full);
            let full = sealed_image(&space, &store_on(&env, "/full").unwrap(), &written).unwrap();
            let store = store_on(&env, CHECKPOINTS).unwrap();
            let increments = sealed_image(&space, &store, &handles).unwrap();
            assert_same_image(&space, &increments, &full, "increments");
            assert_restores(&env, &space, &handles, &full, 1);
        }
    }
}

/// RocksDB 7.1.0, 6.11, 5.10.0: deletions are dropped by a compaction that does
/// not reach the bottom, and what was deleted comes back.
#[test]
fn bug_24_a_deletion_outlives_merges_above_what_it_deletes() {
    let space = Arc::new(Keyspace::plain(&["counts"], 200));
    let env = machine();
    let builder = backend_on(&env, &space).max_tables_per_shard(3);
    let mut job = Job::open(&space, builder, 1, None).unwrap();
    for key in 0..200 {
        let mut value = vec![0; 100];
        SimRng::new(key as u64).fill(&mut value);
        job.put(key, &value);
    }
    job.snapshot(1);
    for (id, key) in [(2, 7), (3, 8), (4, 9)] {
        job.delete(key);
        job.snapshot(id);
        job.settle();
    }
    job.put(10, b"changed");
    let handles = job.snapshot(5);
    let store = store_on(&env, CHECKPOINTS).unwrap();
    let manifest = manifest_of(&store, &handles[0]).unwrap();
    assert!(manifest.tables.len() < 5, "some tables were merged");
    let merged = table_records(&space, &store, &manifest, 1).unwrap();
    let deleted: Vec<_> = merged.iter().filter(|(_, value)| value.is_none()).collect();
    assert!(deleted.len() > 1, "the merged table still says what was deleted: {merged:?}");
    let image = job.model.clone();
    drop(job);
    assert_restores(&env, &space, &handles, &image, 2);

    // Once a merge reaches the bottom, they are gone for good.
    let builder = backend_on(&env, &space).max_tables_per_shard(1);
    let mut job = Job::open(&space, builder, 1, Some((&handles, &image))).unwrap();
    job.put(11, b"changed");
    job.snapshot(6);
    job.settle();
    let handles = job.snapshot(7);
    let manifest = manifest_of(&store, &handles[0]).unwrap();
    assert_eq!(manifest.tables.len(), 1);
    assert_eq!(manifest.tables[0].meta.tombstones, 0);
    let image = job.model.clone();
    drop(job);
    assert_restores(&env, &space, &handles, &image, 2);
}

/// FLINK-40113: a restore with another number of key groups sends keys to the
/// wrong groups in silence.
#[test]
fn bug_25_another_number_of_key_groups_is_refused_not_remapped() {
    let env = machine();
    let few = Arc::new(Keyspace::new(64, ["counts"]));
    let many = Arc::new(Keyspace::new(128, ["counts"]));
    let mut job = Job::open(&few, backend_on(&env, &few), 1, None).unwrap();
    let handles = job.snapshot(1);
    drop(job);
    let nothing = Image::new();
    let restore = Some((&handles[..], &nothing));
    let refused = Job::open(&many, backend_on(&env, &many), 1, restore);
    assert_eq!(refused.err().expect("it is refused").kind(), ErrorKind::Incompatible);
    Job::open(&few, backend_on(&env, &few), 2, restore).unwrap();
}

/// FLINK-38415: a compaction meets tables that were clipped on restore.
#[test]
fn bug_27_merges_of_clipped_tables_keep_to_their_slices() {
    let space = space(60);
    let env = machine();
    let builder = backend_on(&env, &space).max_tables_per_shard(4);
    let mut job = Job::open(&space, builder, 1, None).unwrap();
    for id in 1..4 {
        job.change(&mut SimRng::new(id), 80);
        job.snapshot(id);
    }
    let mut last = (job.snapshot(4), job.model.clone());
    drop(job);
    let mut id = 4;
    for parallelism in [3, 5, 2, 1, 4] {
        let builder = backend_on(&env, &space).max_tables_per_shard(1);
        let restore = Some((&last.0[..], &last.1));
        let mut job = Job::open(&space, builder, parallelism, restore).unwrap();
        // One task of the background at a time, reads and writes between them.
        for step in 0..200 {
            if step % 40 == 10 {
                id += 1;
                job.change(&mut SimRng::new(id), 10);
                let begin = |(shard, _): &mut (Shard, Ids)| shard.snapshot(SnapshotId(id), b"");
                job.shards.iter_mut().for_each(|shard| drop(begin(shard).unwrap()));
            }
            job.backend.run_background();
            if step % 25 == 0 {
                job.assert_holds_model();
            }
        }
        job.settle();
        id += 1;
        last = (job.snapshot(id), job.model.clone());
        for (shard, _) in &job.shards {
            assert_eq!(shard.stats().tables, 1);
        }
        let store = store_on(&env, CHECKPOINTS).unwrap();
        for handle in &last.0 {
            for table in manifest_of(&store, handle).unwrap().tables {
                assert!(handle.groups().covers(table.meta.groups), "the rest was clipped away");
            }
        }
    }
    assert_restores(&env, &space, &last.0, &last.1, 2);
}

/// FLINK-11087, FLINK-12064: serializers of key and value are exchanged, which
/// nobody notices when they have the same type.
#[test]
fn bug_28_key_namespace_and_value_have_types_of_their_own() {
    let env = machine();
    let space = Keyspace::new(128, ["s"]);
    let backend = backend_on(&env, &space).open().unwrap();
    let mut shard = backend.shard(OPERATOR, range_of(0, 1, 128)).open().unwrap();
    let state: ValueState<String, u64, i32> = ValueState::register(&mut shard, "s").unwrap();
    state.put_in(&mut shard, &"heron".to_owned(), &-3, &7).unwrap();
    let handle = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
    let mut shard = backend.shard(OPERATOR, range_of(0, 1, 128)).restore([handle]).open().unwrap();
    type Exchanged = ValueState<u64, String, i32>;
    type AlsoExchanged = ValueState<String, i32, u64>;
    let errors = [
        Exchanged::register(&mut shard, "s").err(),
        AlsoExchanged::register(&mut shard, "s").err(),
    ];
    for error in errors {
        assert_eq!(error.expect("it is refused").kind(), ErrorKind::Incompatible);
    }
    let state: ValueState<String, u64, i32> = ValueState::register(&mut shard, "s").unwrap();
    assert_eq!(state.get_in(&mut shard, &"heron".to_owned(), &-3).unwrap(), Some(7));
    assert_eq!(state.get_in(&mut shard, &"heron".to_owned(), &3).unwrap(), None);
}

/// FLINK-11094: state that was restored and not touched breaks the next
/// snapshot.
#[test]
fn bug_29_restored_untouched_state_survives_further_snapshots() {
    let space = space(30);
    for max_tables in [1, 8] {
        for warm_up in [false, true] {
            let env = machine();
            let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
            job.change(&mut SimRng::new(1), 50);
            job.snapshot(1);
            job.change(&mut SimRng::new(2), 50);
            let mut last = job.snapshot(2);
            let image = job.model.clone();
            drop(job);
            for round in 0..4 {
                let builder =
                    backend_on(&env, &space).max_tables_per_shard(max_tables).warm_up(warm_up);
                let mut job = Job::open(&space, builder, 1, Some((&last, &image))).unwrap();
                // No state is even registered.
                let shard = &job.shards[0].0;
                assert_eq!(shard.state_names().collect::<Vec<_>>(), ["counts", "names"]);
                for id in 3..6 {
                    let reports = job.try_snapshot(id).unwrap();
                    assert_eq!(reports[0].records_new, 0, "round {round}");
                    last = handles(&reports);
                    job.complete(id);
                    job.settle();
                }
                drop(job);
                assert_restores(&env, &space, &last, &image, 1);
            }
        }
    }
}

/// FLINK-8679, FLINK-9804: keys and namespaces run into each other.
#[test]
fn bug_30_keys_and_namespaces_are_kept_apart() {
    let env = machine();
    let mut space = Keyspace::new(128, ["", "a", "ab"].map(|name| format!("s{name}")));
    let pieces: [&[u8]; 9] = [b"", b"\0", b"\0\0", b"a", b"ab", b"b", b"a\0", b"\xff", b"\xff\xff"];
    for state in 0..3 {
        for key in pieces {
            for namespace in pieces {
                space.add(state, key, namespace, state == 2);
            }
        }
    }
    let space = Arc::new(space);
    let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
    for key in 0..space.keys.len() {
        job.put(key, &(key as u64).to_le_bytes());
    }
    let mut all = (job.snapshot(1), job.model.clone());
    for key in (0..space.keys.len()).step_by(2) {
        job.delete(key);
    }
    let half = (job.snapshot(2), job.model.clone());
    job.assert_holds_model();
    drop(job);
    for (handles, image) in [&mut all, &mut half.clone()] {
        assert_restores(&env, &space, handles, image, 1);
        assert_restores(&env, &space, handles, image, 5);
    }
}

/// lsm-tree #286, RocksDB 11.3.0: an operation is acknowledged and lost at the
/// next open, because it said nothing or had an empty name.
#[test]
fn bug_31_every_operation_survives_a_reopening() {
    let env = machine();
    let space = Keyspace::new(128, ["s"]);
    let all = range_of(0, 1, 128);
    type Operation = fn(&mut Shard, alluvium::StateId) -> Result<()>;
    let key = KeyRef::new(b"");
    // Each begins with the empty key and the empty value under it.
    let operations: [(Operation, Option<&[u8]>); 9] = [
        (|_, _| Ok(()), Some(b"")),
        (|shard, id| shard.put(id, KeyRef::new(b""), b"x"), Some(b"x")),
        (|shard, id| shard.put(id, KeyRef::new(b""), b""), Some(b"")),
        (|shard, id| shard.delete(id, KeyRef::new(b"")), None),
        (|shard, id| shard.update(id, KeyRef::new(b""), &mut |value| value.delete()), None),
        (|shard, id| shard.update(id, KeyRef::new(b""), &mut |value| value.set(b"y")), Some(b"y")),
        (
            |shard, id| {
                shard.update(id, KeyRef::new(b""), &mut |value| {
                    value.set(b"long");
                    value.bytes_mut().unwrap()[0] = b's';
                    value.delete();
                    value.set(b"");
                })
            },
            Some(b""),
        ),
        (
            |shard, id| {
                let keys = [KeyRef::new(b""); 3];
                shard.update_many(id, &keys, &mut |at, value| value.set(&[at as u8]))
            },
            Some(&[2]),
        ),
        (
            |shard, id| {
                shard.delete(id, KeyRef::new(b""))?;
                shard.put(id, KeyRef::new(b""), b"again")
            },
            Some(b"again"),
        ),
    ];
    for (operation, expected) in operations {
        for cold in [false, true] {
            let backend = backend_on(&env, &space).warm_up(!cold).open().unwrap();
            let mut shard = backend.shard(OPERATOR, all).open().unwrap();
            let id = shard.register(StateSpec::value("s")).unwrap();
            shard.register(StateSpec::value("nobody wrote to it")).unwrap();
            shard.put(id, key, b"").unwrap();
            let before = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
            if cold {
                shard = backend.shard(OPERATOR, all).restore([before]).open().unwrap();
            }
            let id = shard.register(StateSpec::value("s")).unwrap();
            operation(&mut shard, id).unwrap();
            assert_eq!(shard.get(id, key).unwrap(), expected);
            let after = shard.snapshot(SnapshotId(2), b"").unwrap().wait().unwrap().handle;
            drop((shard, backend));
            let backend = backend_on(&env, &space).open().unwrap();
            let mut shard = backend.shard(OPERATOR, all).restore([after]).open().unwrap();
            let names: Vec<_> = shard.state_names().collect();
            assert_eq!(names, ["nobody wrote to it", "s"]);
            let id = shard.register(StateSpec::value("s")).unwrap();
            assert_eq!(shard.get(id, key).unwrap(), expected);
        }
    }
    // And the snapshot of nothing at all.
    let backend = backend_on(&env, &space).open().unwrap();
    let mut shard = backend.shard(OPERATOR, all).open().unwrap();
    let report = shard.snapshot(SnapshotId(1), b"meta").unwrap().wait().unwrap();
    assert_eq!((report.records_new, report.tables), (0, 0));
    let shard = backend.shard(OPERATOR, all).restore([report.handle.clone()]).open().unwrap();
    assert_eq!(shard.state_names().count(), 0);
    assert_eq!(backend.snapshot_meta(&report.handle).unwrap(), b"meta");
}

/// A job goes from one shard to two and back to one before the table that both
/// have slices of was merged: the one shard then has two slices of it.
#[test]
fn a_shard_may_hold_two_slices_of_one_table() {
    let space = space(30);
    let env = machine();
    let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
    job.change(&mut SimRng::new(1), 100);
    let mut last = job.snapshot(1);
    let mut image = job.model.clone();
    drop(job);
    for (id, parallelism) in [(2, 2), (3, 1), (4, 3), (5, 2)] {
        let restore = Some((&last[..], &image));
        let mut job = Job::open(&space, backend_on(&env, &space), parallelism, restore).unwrap();
        job.assert_holds_model();
        job.change(&mut SimRng::new(id), 5);
        last = job.snapshot(id);
        image = job.model.clone();
        drop(job);
        assert_restores(&env, &space, &last, &image, 1);
    }
}
