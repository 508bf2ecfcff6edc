//! A disk that is full or fails while memory is short.

use alluvium::env::SimEnv;
use alluvium::env::sim::{FaultError, FaultKind};
use alluvium::{ErrorKind, SnapshotId};

use crate::job::Job;

const VALUE: [u8; 100] = [7; 100];

/// Puts keys from `first` on until that fails, and gives the first that failed.
fn put_until_refused(job: &mut Job, first: u64) -> u64 {
    for key in first..first + 100_000 {
        if let Err(error) = job.put(key, &VALUE) {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.to_string().contains("cannot be written"), "{error}");
            return key;
        }
        let (used, allowed) = job.resident();
        assert!(used <= allowed, "{used} of {allowed} bytes");
    }
    panic!("memory had room for everything");
}

/// Everything acknowledged is there, before and after the disk has room again, and
/// in the next snapshot.
#[test]
fn a_full_disk_is_told_when_memory_is_full_and_work_goes_on_when_it_has_room() {
    for kind in [FaultKind::Create, FaultKind::Write, FaultKind::Sync] {
        let env = SimEnv::new(1);
        let mut job = Job::open(&env, None);
        for key in 0..5_000 {
            job.put(key, &VALUE).unwrap();
        }
        env.fail_nth(kind, 1, FaultError::ENOSPC, true);
        let refused = put_until_refused(&mut job, 5_000);
        for _ in 0..3 {
            assert_eq!(put_until_refused(&mut job, refused), refused, "nothing went on");
        }
        env.clear_faults();
        for key in refused..refused + 5_000 {
            // The first ones may still be told of the last failure.
            let put = job.put(key, &VALUE);
            assert!(put.is_ok() || key < refused + 2, "{put:?}");
            if put.is_err() {
                job.put(key, &VALUE).unwrap();
            }
        }
        let handle = job.snapshot(1).unwrap();
        drop(job);
        let mut job = Job::open(&env, Some(handle));
        for key in 0..refused + 5_000 {
            assert_eq!(job.get(key).unwrap().as_deref(), Some(&VALUE[..]), "key {key}");
        }
        assert_eq!(job.get(refused + 5_000).unwrap(), None);
    }
}

/// A merge that is done says that there are new tables; that changes could not be
/// written is told all the same, and so they are written again.
#[test]
fn a_write_that_failed_once_is_tried_again_whatever_else_is_done_meanwhile() {
    for nth in 1..60 {
        let env = SimEnv::new(nth);
        let mut job = Job::open(&env, None);
        env.fail_nth(FaultKind::Create, nth, FaultError::ENOSPC, false);
        for key in 0..12_000 {
            if let Err(error) = job.put(key, &VALUE) {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                job.put(key, &VALUE).unwrap();
            }
        }
        assert!(env.fault_fired());
    }
}

/// What a snapshot that was given up had frozen is still to be written, or memory would
/// be full of it for ever.
#[test]
fn a_cancelled_snapshot_keeps_no_memory() {
    let env = SimEnv::new(1);
    let mut job = Job::open(&env, None);
    let mut key = 0;
    for id in 1..=20 {
        // Less than is written early, so that cancelled snapshots have all of it.
        for _ in 0..80 {
            job.put(key, &VALUE).unwrap();
            key += 1;
        }
        let ticket = job.shard.snapshot(SnapshotId(id), b"").unwrap();
        ticket.cancel();
        assert!(ticket.wait().is_err());
        job.shard.notify_aborted(SnapshotId(id));
    }
    for id in 0..key {
        assert_eq!(job.get(id).unwrap().as_deref(), Some(&VALUE[..]), "key {id}");
    }
}

#[test]
fn a_record_that_cannot_be_read_is_an_error_and_never_absent() {
    let env = SimEnv::new(1);
    let mut job = Job::open(&env, None);
    for key in 0..20_000 {
        job.put(key, &VALUE).unwrap();
    }
    env.fail_nth(FaultKind::Read, 1, FaultError::EIO, true);
    let mut failed = 0;
    for key in 0..20_000 {
        match job.get(key) {
            Ok(found) => assert_eq!(found.as_deref(), Some(&VALUE[..]), "key {key}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 10_000, "only {failed} were in tables");
    env.clear_faults();
    for key in 0..20_000 {
        assert_eq!(job.get(key).unwrap().as_deref(), Some(&VALUE[..]), "key {key}");
    }
}
