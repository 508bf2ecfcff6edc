//! Every call of every kind fails once, and from then on, before and after it
//! took effect. No panic, no wrong answer, nothing lost: reads and snapshots
//! fail with `Unavailable` while the fault lasts, what was completed before
//! stays restorable, and the next snapshot after it holds everything.

mod common;

use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::env::sim::{FaultError, FaultKind, SimRng};
use alluvium::{ErrorKind, SnapshotHandle};

use common::{
    CHECKPOINTS, Image, Job, Keyspace, assert_same_image, backend_on, sealed_image, store_on,
    try_read,
};

/// How a call fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    error: FaultError,
    sticky: bool,
    late: bool,
}

const FAULTS: [Fault; 6] = [
    Fault { error: FaultError::EIO, sticky: false, late: false },
    Fault { error: FaultError::EIO, sticky: false, late: true },
    Fault { error: FaultError::EIO, sticky: true, late: false },
    Fault { error: FaultError::ENOSPC, sticky: true, late: false },
    Fault { error: FaultError::ENOSPC, sticky: true, late: true },
    Fault { error: FaultError::EMFILE, sticky: false, late: false },
];

fn plan(env: &SimEnv, kind: FaultKind, nth: u64, fault: Fault) {
    if fault.late {
        env.fail_nth_late(kind, nth, fault.error, fault.sticky);
    } else {
        env.fail_nth(kind, nth, fault.error, fault.sticky);
    }
}

fn space() -> Arc<Keyspace> {
    Arc::new(Keyspace::plain(&["counts", "names"], 12))
}

fn assert_restores(env: &SimEnv, space: &Arc<Keyspace>, handles: &[SnapshotHandle], image: &Image) {
    let store = store_on(env, CHECKPOINTS).unwrap();
    let found = sealed_image(space, &store, handles).unwrap();
    assert_same_image(space, &found, image, "the tables of a checkpoint");
    let builder = backend_on(env, space);
    let mut job = Job::open(space, builder, 3, Some((handles, image))).unwrap();
    job.assert_holds_model();
}

/// Runs `scenario` with the first, second, ... call of each kind failing in
/// each way, until it says that none has failed. Gives how many runs that took.
fn fail_every_call(scenario: impl Fn(&dyn Fn(&SimEnv)) -> bool) -> u64 {
    let mut runs = 0;
    for kind in FaultKind::ALL {
        for fault in FAULTS {
            for nth in 1.. {
                let context = Context { what: format!("{kind:?} {nth}, {fault:?}") };
                let fired = scenario(&|env: &SimEnv| plan(env, kind, nth, fault));
                drop(context);
                runs += 1;
                if !fired {
                    break;
                }
            }
        }
    }
    runs
}

/// Says what was going on when a test fails.
struct Context {
    what: String,
}

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with this fault: {}", self.what);
        }
    }
}

#[test]
fn a_snapshot_survives_the_failure_of_any_call() {
    let space = space();
    let runs = fail_every_call(|plan| {
        let env = SimEnv::new(3);
        let builder = backend_on(&env, &space).max_tables_per_shard(2);
        let mut job = Job::open(&space, builder, 2, None).unwrap();
        job.change(&mut SimRng::new(1), 20);
        let first = job.snapshot(1);
        job.complete(1);
        let first_image = job.model.clone();
        job.settle();

        plan(&env);
        for id in 2..5 {
            job.change(&mut SimRng::new(id), 10);
            match job.try_snapshot(id) {
                Ok(_) => job.complete(id),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    job.abort(id);
                }
            }
            job.settle();
            job.assert_holds_model();
        }
        let fired = env.fault_fired();
        env.clear_faults();

        // What was written while snapshots failed is in the next one.
        job.change(&mut SimRng::new(5), 3);
        let handles = job.snapshot(5);
        job.complete(5);
        job.settle();
        let image = job.model.clone();
        job.assert_holds_model();
        drop(job);
        assert_restores(&env, &space, &handles, &image);
        assert_restores(&env, &space, &first, &first_image);
        fired
    });
    assert!(runs > 500, "many calls were made to fail: {runs}");
}

#[test]
fn a_restore_survives_the_failure_of_any_call() {
    let space = space();
    for warm_up in [false, true] {
        let runs = fail_every_call(|plan| {
            let env = SimEnv::new(5);
            let builder = backend_on(&env, &space).max_tables_per_shard(3);
            let mut job = Job::open(&space, builder, 2, None).unwrap();
            for id in 1..4 {
                job.change(&mut SimRng::new(id), 12);
                job.snapshot(id);
                job.settle();
            }
            let handles = job.snapshot(4);
            let image = job.model.clone();
            drop(job);

            plan(&env);
            let open = || {
                let builder = backend_on(&env, &space).warm_up(warm_up);
                Job::open(&space, builder, 3, Some((&handles, &image)))
            };
            let mut job = match open() {
                Ok(job) => job,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    let fired = env.fault_fired();
                    env.clear_faults();
                    open().unwrap().assert_holds_model();
                    return fired;
                }
            };
            for round in 0..2 {
                for (shard, ids) in &mut job.shards {
                    for key in space.within(shard.groups()) {
                        // Right, or an error: never absent, never old.
                        match try_read(shard, ids, &space, key) {
                            Ok(found) => {
                                assert_eq!(found.as_deref(), image.get(&key).map(|v| &**v))
                            }
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}")
                            }
                        }
                    }
                    if round == 0 {
                        let _ = shard.warm_up(7).unwrap();
                    }
                }
                job.settle();
            }
            let fired = env.fault_fired();
            env.clear_faults();
            job.assert_holds_model();
            job.change(&mut SimRng::new(9), 5);
            let again = job.snapshot(5);
            let model = job.model.clone();
            drop(job);
            assert_restores(&env, &space, &again, &model);
            assert_restores(&env, &space, &handles, &image);
            fired
        });
        assert!(runs > 300, "many calls were made to fail: {runs}");
    }
}

#[test]
fn a_read_that_fails_is_an_error_whatever_is_done_with_it() {
    use alluvium::KeyedStore;
    let space = space();
    let env = SimEnv::new(5);
    let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
    for key in 0..space.keys.len() {
        job.put(key, b"value");
    }
    let handles = job.snapshot(1);
    let image = job.model.clone();
    drop(job);
    let builder = backend_on(&env, &space).warm_up(false);
    let mut job = Job::open(&space, builder, 1, Some((&handles, &image))).unwrap();
    env.fail_nth(FaultKind::Read, 1, FaultError::EIO, true);
    let (shard, ids) = &mut job.shards[0];
    let id = ids.get(shard, &space, 0);
    let key = space.key_ref(0);
    let errors = [
        shard.get(id, key).map(drop),
        shard.update(id, key, &mut |_| panic!("the old value is not known")),
        shard.get_many(id, &[key], &mut |_, _| panic!("the value is not known")),
        shard.update_many(id, &[key], &mut |_, _| panic!("the old value is not known")),
    ];
    for result in errors {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_retryable());
        assert!(error.to_string().contains("counts"), "the state is named: {error}");
    }
    // Writing needs no reading.
    shard.put(id, key, b"new").unwrap();
    shard.delete(id, space.key_ref(1)).unwrap();
    assert_eq!(shard.get(id, key).unwrap(), Some(&b"new"[..]));
    assert_eq!(shard.get(id, space.key_ref(1)).unwrap(), None);
    env.clear_faults();
    assert_eq!(shard.get(id, space.key_ref(2)).unwrap(), Some(&b"value"[..]));
}
