//! The power goes after every single operation of a checkpoint, of a restore,
//! and of a restore after such a crash. What comes back is exactly the last
//! checkpoint whose tickets had said `Ok`, and from there the job goes on. The same
//! where memory is short: changes are written early, records leave memory and come
//! back, tables are merged in parts, all between two checkpoints.

mod common;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::env::sim::{CrashMode, FaultKind, SimRng};
use alluvium::{BackendBuilder, SnapshotHandle};

use common::{
    CHECKPOINTS, Image, Job, Keyspace, assert_same_image, backend_on, handles, manifest_of,
    sealed_image, store_on, try_read,
};

/// A checkpoint as the runtime remembers it: its own record, kept elsewhere.
#[derive(Clone)]
struct Checkpoint {
    id: u64,
    handles: Vec<SnapshotHandle>,
    image: Image,
}

fn space() -> Arc<Keyspace> {
    Arc::new(Keyspace::plain(&["counts", "names"], 10))
}

/// Two machines that differ in how files get into the store, and how they are
/// read.
#[derive(Clone, Copy, Debug)]
enum Machine {
    Links,
    CopiesAndMaps,
}

fn machine(kind: Machine) -> SimEnv {
    let env = SimEnv::new(7);
    match kind {
        Machine::Links => env,
        Machine::CopiesAndMaps => env.with_mapped_reads(),
    }
}

/// What a machine cannot do is forgotten by a crash.
fn limit(env: &SimEnv, kind: Machine) {
    if matches!(kind, Machine::CopiesAndMaps) {
        env.fail_nth(FaultKind::Link, 1, std::io::ErrorKind::Unsupported, true);
    }
}

fn few_tables(builder: BackendBuilder) -> BackendBuilder {
    builder.max_tables_per_shard(2)
}

/// Changes, checkpoints and merges until the end or until the power goes, from
/// nothing or from a checkpoint. Gives the last checkpoint that was completed.
fn work(
    env: &SimEnv,
    space: &Arc<Keyspace>,
    from: Option<&Checkpoint>,
    parallelism: u32,
    checkpoints: u64,
) -> Option<Checkpoint> {
    let mut last = from.cloned();
    let restore = from.map(|from| (&from.handles[..], &from.image));
    let builder = few_tables(backend_on(env, space)).warm_up(from.is_none());
    let Ok(mut job) = Job::open(space, builder, parallelism, restore) else { return last };
    let first = from.map_or(1, |from| from.id + 1);
    for id in first..first + checkpoints {
        job.change(&mut SimRng::new(id), 14);
        if let Ok(reports) = job.try_snapshot(id) {
            last = Some(Checkpoint { id, handles: handles(&reports), image: job.model.clone() });
            job.complete(id);
        }
        job.settle();
    }
    last
}

/// Restores what should be there, on another number of shards; then goes on,
/// takes a checkpoint, and restores that.
fn assert_recovers(
    env: &SimEnv,
    space: &Arc<Keyspace>,
    last: Option<&Checkpoint>,
    options: fn(BackendBuilder) -> BackendBuilder,
    what: &str,
) {
    if let Some(last) = last {
        let store = store_on(env, CHECKPOINTS).unwrap();
        let image = sealed_image(space, &store, &last.handles)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_same_image(space, &image, &last.image, what);
    }
    let restore = last.map(|last| (&last.handles[..], &last.image));
    let mut job = Job::open(space, options(backend_on(env, space)), 3, restore)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    job.assert_holds_model();
    let id = last.map_or(1, |last| last.id + 1);
    job.change(&mut SimRng::new(id + 1_000), 10);
    let handles = job.snapshot(id);
    assert_eq!(job.backend.snapshot_meta(&handles[0]).unwrap(), id.to_le_bytes());
    job.complete(id);
    job.settle();
    let model = job.model.clone();
    drop(job);
    let mut job = Job::open(space, options(backend_on(env, space)), 2, Some((&handles, &model)))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    job.assert_holds_model();
}

/// The least that a backend takes.
const BUDGET_BYTES: u64 = 256 << 10;

/// Where memory is short.
fn short(builder: BackendBuilder) -> BackendBuilder {
    builder.memory_budget_bytes(BUDGET_BYTES).partition_bytes(8_000).max_tables_per_shard(4)
}

/// How often what this is about happened.
#[derive(Default, Debug)]
struct Seen {
    early_writes: Cell<u64>,
    evicted: Cell<u64>,
    parts: Cell<u64>,
    read_back: Cell<u64>,
}

fn add(to: &Cell<u64>, count: u64) {
    to.set(to.get() + count);
}

/// As [`work`], with more state than there is memory for: puts, deletes and reads, a
/// checkpoint that is given up now and then, and background work at any time.
fn work_without_room(
    env: &SimEnv,
    space: &Arc<Keyspace>,
    from: Option<&Checkpoint>,
    parallelism: u32,
    checkpoints: u64,
    seen: &Seen,
) -> Option<Checkpoint> {
    let mut last = from.cloned();
    let restore = from.map(|from| (&from.handles[..], &from.image));
    let Ok(mut job) = Job::open(space, short(backend_on(env, space)), parallelism, restore) else {
        return last;
    };
    let first = from.map_or(1, |from| from.id + 1);
    for id in first..first + checkpoints {
        let mut rng = SimRng::new(id);
        for _ in 0..100 {
            let key = rng.below(space.keys.len() as u64) as usize;
            let mut value = vec![0; rng.below(1_500) as usize];
            rng.fill(&mut value);
            let done = match rng.below(8) {
                0 => job.try_delete(key),
                1..4 => {
                    let (shard, ids) = job.shard_of(key);
                    try_read(shard, ids, space, key).map(|found| {
                        let expected = job.model.get(&key).map(|value| value.to_vec());
                        assert_eq!(found, expected, "key {key}");
                        add(&seen.read_back, 1);
                    })
                }
                _ => job.try_put(key, &value),
            };
            if done.is_err() {
                assert!(env.power_lost(), "{done:?}");
                return last;
            }
            if rng.one_in(20) {
                job.backend.run_background();
            }
        }
        match job.try_snapshot(id) {
            // One that the runtime gives up: the next one has it all.
            Ok(_) if id % 3 == 2 => job.abort(id),
            Ok(reports) => {
                let (handles, image) = (handles(&reports), job.model.clone());
                last = Some(Checkpoint { id, handles, image });
                job.complete(id);
            }
            Err(_) => {}
        }
        if rng.one_in(2) {
            job.settle();
        }
    }
    for (shard, _) in &job.shards {
        add(&seen.early_writes, shard.stats().early_writes);
        add(&seen.evicted, shard.stats().evicted_records);
    }
    let store = store_on(env, CHECKPOINTS).ok();
    for handle in last.iter().flat_map(|last| &last.handles) {
        if let Some(Ok(manifest)) = store.as_ref().map(|store| manifest_of(store, handle)) {
            let is_part = |table: &&alluvium::format::TableRef| table.slice != table.meta.groups;
            add(&seen.parts, manifest.tables.iter().filter(is_part).count() as u64);
        }
    }
    last
}

/// The crash images worth looking at: those without chance once.
fn crashes() -> impl Iterator<Item = (CrashMode, u64)> {
    CrashMode::ALL.into_iter().flat_map(|mode| {
        let seeds = match mode {
            CrashMode::KeepUnsynced | CrashMode::DropUnsynced => 1,
            CrashMode::RandomSubset | CrashMode::Torn => 2,
        };
        (0..seeds).map(move |seed| (mode, seed))
    })
}

/// Cuts the power after every operation of some work on some machine.
fn crash_at_every_operation(
    machine: impl Fn() -> SimEnv,
    space: &Arc<Keyspace>,
    work: impl Fn(&SimEnv) -> Option<Checkpoint>,
    options: fn(BackendBuilder) -> BackendBuilder,
) -> u64 {
    for operations in 0.. {
        let env = machine();
        env.stop_after(operations);
        let last = work(&env);
        for (mode, seed) in crashes() {
            let image = env.crash_image(mode, seed * 1_000 + operations);
            let what = format!("power cut after {operations} operations, {mode:?} {seed}");
            assert_recovers(&image, space, last.as_ref(), options, &what);
        }
        if !env.power_lost() {
            return operations;
        }
    }
    unreachable!("the work ends some day")
}

#[test]
fn a_power_cut_at_any_operation_of_a_checkpoint_restores_the_last_completed_one() {
    for kind in [Machine::Links, Machine::CopiesAndMaps] {
        let space = space();
        let make = || {
            let env = machine(kind);
            limit(&env, kind);
            env
        };
        let operations =
            crash_at_every_operation(make, &space, |env| work(env, &space, None, 2, 4), few_tables);
        assert!(operations > 100, "there was something to interrupt: {operations}");
    }
}

/// A machine with a completed checkpoint on it.
fn machine_with_checkpoint(space: &Arc<Keyspace>) -> (SimEnv, Checkpoint) {
    let env = machine(Machine::Links);
    let last = work(&env, space, None, 2, 3).expect("checkpoints complete");
    (env, last)
}

#[test]
fn a_power_cut_at_any_operation_of_a_restore_does_no_harm() {
    let space = space();
    let (env, last) = machine_with_checkpoint(&space);
    assert_eq!(last.id, 3);
    let make = || env.crash_image(CrashMode::DropUnsynced, 0);
    let operations = crash_at_every_operation(
        make,
        &space,
        |env| work(env, &space, Some(&last), 3, 2),
        few_tables,
    );
    assert!(operations > 50, "there was something to interrupt: {operations}");
}

#[test]
fn a_power_cut_at_any_operation_of_a_job_without_room_in_memory_does_no_harm() {
    // Three hundred values of 750 bytes; 144 KiB for them.
    let space = Arc::new(Keyspace::plain(&["counts", "names"], 150));
    let seen = Seen::default();
    let run = |env: &SimEnv, from: Option<&Checkpoint>, parallelism, checkpoints| {
        work_without_room(env, &space, from, parallelism, checkpoints, &seen)
    };
    let operations = crash_at_every_operation(
        || machine(Machine::Links),
        &space,
        |env| run(env, None, 1, 5),
        short,
    );
    assert!(operations > 100, "there was something to interrupt: {operations}");
    // Restored on two shards, what is in no memory at all is read from tables.
    let env = machine(Machine::Links);
    let last = run(&env, None, 1, 6).expect("checkpoints complete");
    let operations = crash_at_every_operation(
        || env.crash_image(CrashMode::DropUnsynced, 0),
        &space,
        |env| run(env, Some(&last), 2, 3),
        short,
    );
    assert!(operations > 100, "there was something to interrupt: {operations}");
    println!("{operations} operations, {seen:?}");
    let Seen { early_writes, evicted, parts, read_back } = seen;
    assert!(early_writes.get() > 20 && evicted.get() > 100, "{early_writes:?} {evicted:?}");
    assert!(parts.get() > 5 && read_back.get() > 100, "{parts:?} {read_back:?}");
}

#[test]
fn a_power_cut_while_recovering_from_a_power_cut_does_no_harm() {
    let space = space();
    let (whole, last) = machine_with_checkpoint(&space);
    // Cut first in the middle of the second restore's work, then in that of
    // the third.
    for first in (0..60).step_by(4) {
        let env = whole.crash_image(CrashMode::DropUnsynced, 0);
        env.stop_after(first);
        let after_first = work(&env, &space, Some(&last), 3, 1).expect("there is one already");
        for mode in [CrashMode::RandomSubset, CrashMode::Torn] {
            let image = env.crash_image(mode, first);
            for second in (0..70).step_by(5) {
                let again = image.crash_image(CrashMode::KeepUnsynced, 1);
                again.stop_after(second);
                let after_second = work(&again, &space, Some(&after_first), 2, 1);
                let found = again.crash_image(mode, second);
                let what = format!("power cuts after {first} and {second} operations, {mode:?}");
                assert_recovers(&found, &space, after_second.as_ref(), few_tables, &what);
            }
        }
    }
}

#[test]
fn files_of_a_dead_process_are_gone_after_the_next_start() {
    let space = space();
    let env = machine(Machine::Links);
    let last = work(&env, &space, None, 2, 3).expect("checkpoints complete");
    let mut operations = 0;
    let left = |env: &SimEnv| {
        let ours = |path: &Path| {
            path.starts_with(common::DIR) && path.extension().is_some_and(|is| is == "table")
                || path.extension().is_some_and(|is| is == "tmp")
        };
        env.list_all_files().into_iter().filter(|path| ours(path)).count()
    };
    let mut most = 0;
    loop {
        let env = env.crash_image(CrashMode::KeepUnsynced, 0);
        env.stop_after(operations);
        work(&env, &space, Some(&last), 1, 1);
        let image = env.crash_image(CrashMode::KeepUnsynced, 0);
        most = most.max(left(&image));
        let backend = backend_on(&image, &space).open().unwrap();
        assert_eq!(left(&image), 0, "after {operations} operations");
        drop(backend);
        if !env.power_lost() {
            break;
        }
        operations += 1;
    }
    assert!(most > 1, "there was something to remove");
}
