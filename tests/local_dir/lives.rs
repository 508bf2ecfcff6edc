//! Lives of a job whose state is several times what its local directory may hold.

use std::sync::Arc;

use alluvium::env::sim::{FaultError, FaultKind, SimRng};
use alluvium::env::{Env, RealEnv, SimEnv};
use alluvium::{
    Backend, BackendBuilder, ErrorKind, KeyRef, KeyedStore, MaxParallelism, SnapshotHandle,
    SnapshotId, StateSpec,
};

use crate::job::{BUDGET_BYTES, Job, Model, Point, files};
use crate::store::Remote;

const KEYS: u64 = 4_000;
const STEPS: u64 = 12_000;
/// A fifth of what is alive, and not a tenth of the files.
const LIMIT: u64 = 100 << 10;

/// What one life may do differently from another.
fn configure(rng: &mut SimRng) -> impl FnOnce(BackendBuilder) -> BackendBuilder + use<> {
    let limit = [0, LIMIT / 4, LIMIT, 4 * LIMIT][rng.below(4) as usize];
    let tables = 1 + rng.below(8) as usize;
    let warm_up = rng.one_in(2);
    move |builder| builder.local_limit_bytes(limit).max_tables_per_shard(tables).warm_up(warm_up)
}

fn value(rng: &mut SimRng) -> Vec<u8> {
    let mut value = vec![0; [8, 60, 100, 100, 400][rng.below(5) as usize]];
    rng.fill(&mut value);
    value
}

fn live(seed: u64) {
    let env = SimEnv::new(seed);
    let mut rng = SimRng::new(seed);
    let remote = Remote::new(&env);
    remote.doing(|doing| doing.is_remote = rng.one_in(2));
    let mut job = Job::open(&env, &remote, None, configure(&mut rng));
    let mut completed: Option<Point> = None;
    let mut trouble = false;
    let mut vanished = 0;
    // How many operations may still be told of the last trouble.
    let mut to_be_told = 0;
    for step in 0..STEPS {
        let key = if rng.one_in(3) { rng.below(KEYS / 50) } else { rng.below(KEYS) };
        let outcome = match rng.below(1_000) {
            0..=549 => {
                let value = value(&mut rng);
                job.try_put(key, &value)
            }
            550..=599 => job.delete(key),
            600..=949 => job.get(key).map(|found| {
                assert_eq!(found.as_ref(), job.model.get(&key), "seed {seed}, step {step}");
            }),
            950..=979 => {
                job.backend.run_background();
                Ok(())
            }
            980..=985 => {
                job.forget();
                Ok(())
            }
            986..=991 => match job.snapshot() {
                Ok((id, point)) if rng.one_in(4) => {
                    // Given up, and what it put is discarded. It may have had tables that
                    // an earlier one had put in vain: those stay.
                    job.shard.notify_aborted(id);
                    remote.discard(&remote.take_put());
                    drop(point);
                    Ok(())
                }
                Ok((id, point)) => {
                    job.shard.notify_complete(id);
                    remote.take_put();
                    completed = Some(point);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            992 | 993 if !trouble => {
                trouble = true;
                match rng.below(4) {
                    0 | 1 => remote.set_away(true),
                    2 => env.fail_nth(FaultKind::Write, 1, FaultError::ENOSPC, true),
                    _ => env.fail_nth(FaultKind::Sync, 1 + rng.below(3), FaultError::EIO, false),
                }
                Ok(())
            }
            994 if rng.one_in(3) && !trouble => {
                // The job fails, and goes on from its last completed checkpoint.
                drop(job);
                assert_eq!(files(&env), Vec::<std::path::PathBuf>::new(), "seed {seed}");
                remote.take_put();
                vanished = 0;
                job = Job::open(&env, &remote, completed.as_ref(), configure(&mut rng));
                Ok(())
            }
            995 if !trouble => {
                // What the store has may vanish here.
                job.snapshot().map(|_| {
                    remote.take_put();
                    let files = job.files();
                    if !files.is_empty() {
                        env.lose_file(&files[rng.below(files.len() as u64) as usize]);
                        vanished += 1;
                    }
                })
            }
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            if !trouble {
                assert!(to_be_told > 0, "seed {seed}, step {step}: {error}");
                assert!(error.to_string().contains("cannot be written"), "{error}");
                to_be_told -= 1;
            }
            assert_eq!(error.kind(), ErrorKind::Unavailable, "seed {seed}, step {step}: {error}");
        }
        if trouble && rng.one_in(100) {
            (trouble, to_be_told) = (false, 2);
            env.clear_faults();
            remote.set_away(false);
        }
    }
    env.clear_faults();
    remote.set_away(false);
    job.checkpoint_all(&remote);
    let stats = job.stats();
    assert_eq!(stats.above_limit_bytes, 0, "seed {seed}: {stats:?}");
    assert!(stats.bytes <= stats.limit_bytes.unwrap(), "seed {seed}: {stats:?}");
    job.assert_directory_is_right_without(vanished);
    job.forget();
    job.assert_holds_model();
    for key in 0..KEYS {
        assert_eq!(job.get(key).unwrap().as_ref(), job.model.get(&key), "seed {seed}");
    }
    drop(job);
    assert_eq!(files(&env), Vec::<std::path::PathBuf>::new(), "seed {seed}");
}

#[test]
fn state_five_times_the_local_limit_is_what_ordered_maps_say() {
    let seeds = match std::env::var("ALLUVIUM_SEEDS") {
        Ok(text) => text.parse().expect("ALLUVIUM_SEEDS is a number"),
        Err(_) => 24,
    };
    for seed in 0..seeds {
        live(seed);
    }
}

/// The same with threads that write, merge, fetch and let tables leave side by side.
#[test]
#[allow(clippy::disallowed_methods, reason = "the directory is looked into")]
fn tables_come_and_go_beside_a_job_that_works() {
    let dir = tempfile::tempdir().unwrap();
    let env: Arc<dyn Env> = Arc::new(RealEnv::with_pread());
    let remote = Remote::of(Arc::clone(&env));
    remote.doing(|doing| doing.is_remote = true);
    let groups = MaxParallelism::DEFAULT.all_groups();
    let mut rng = SimRng::new(1);
    let mut model = Model::new();
    let mut completed: Option<(SnapshotHandle, Model)> = None;
    for life in 0..3 {
        let backend = Backend::builder(dir.path())
            .env(Arc::clone(&env))
            .background_threads(3)
            .memory_budget_bytes(BUDGET_BYTES)
            .partition_bytes(32 << 10)
            .max_tables_per_shard(4)
            .local_limit_bytes([0, LIMIT, 4 * LIMIT][life])
            .sink(Arc::new(remote.clone()))
            .source(Arc::new(remote.clone()))
            .open()
            .unwrap();
        let handle = completed.as_ref().map(|(handle, _)| handle.clone());
        let mut shard = backend.shard("op", groups).restore(handle).open().unwrap();
        let state = shard.register(StateSpec::value("values")).unwrap();
        for id in 1..=12 {
            for _ in 0..1_500 {
                let key = rng.below(KEYS);
                let bytes = key.to_le_bytes();
                if rng.one_in(2) {
                    let value = value(&mut rng);
                    shard.put(state, KeyRef::new(&bytes), &value).unwrap();
                    model.insert(key, value);
                } else {
                    let found = shard.get(state, KeyRef::new(&bytes)).unwrap();
                    assert_eq!(found, model.get(&key).map(Vec::as_slice), "key {key}");
                }
            }
            let ticket = shard.snapshot(SnapshotId(id), b"").unwrap();
            completed = Some((ticket.wait().unwrap().handle, model.clone()));
            shard.notify_complete(SnapshotId(id));
            shard.evict(u64::MAX).unwrap();
        }
        drop((shard, backend));
        let left: Vec<_> = std::fs::read_dir(dir.path().join("local")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(!model.is_empty());
}
