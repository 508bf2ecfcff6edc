//! Who may remove or reuse a file, and when.

use std::sync::{Arc, Mutex};

use alluvium::env::sim::{FaultError, FaultKind, SimRng};
use alluvium::{Error, ErrorKind, Result, Shard, SnapshotId, SnapshotTicket};

use crate::common::{Ids, Job, backend_on, handles, locations_of};
use crate::{Call, Watched, assert_restores, machine, objects, space};

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
