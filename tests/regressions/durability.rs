//! What was acknowledged is there, and a failure says so.

use std::path::Path;

use alluvium::env::sim::{CrashMode, FaultError, FaultKind, SimRng};
use alluvium::{ErrorKind, SnapshotId};

use crate::common::{CHECKPOINTS, Job, OPERATOR, backend_on, manifest_of, range_of, store_on};
use crate::{assert_restores, machine, objects, space};

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
