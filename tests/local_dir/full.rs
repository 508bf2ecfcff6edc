//! Full snapshots of a shard that reads from the store: the copies before them may go.

use alluvium::env::SimEnv;
use alluvium::{SnapshotId, SnapshotMode};

use crate::job::{Job, Point};
use crate::store::Remote;

/// A job of which everything is in the store only, and the tables that it reads there.
fn far(remote: &Remote, env: &SimEnv) -> (Job, Vec<String>) {
    let mut job = Job::open(env, remote, None, |builder| builder.local_limit_bytes(0));
    job.fill(0..4_000);
    let (id, _) = job.publish_all(remote);
    job.shard.notify_complete(id);
    job.settle();
    assert_eq!(job.stats().tables_local, 0, "{:?}", job.stats());
    remote.take_put();
    (job, remote.tables())
}

fn full(job: &mut Job, id: u64) -> Point {
    let ticket = job.shard.snapshot_as(SnapshotMode::Full, SnapshotId(id), b"").unwrap();
    Point { handle: ticket.wait().unwrap().handle, model: job.model.clone() }
}

#[test]
fn a_shard_reads_on_in_the_copies_of_a_full_snapshot_when_those_before_are_gone() {
    for is_told in [false, true] {
        let env = SimEnv::new(1);
        let remote = Remote::new(&env);
        let (mut job, before) = far(&remote, &env);
        let point = full(&mut job, 1_000);
        let copies = remote.take_put();
        assert!(copies.iter().all(|copy| !before.contains(copy)), "{copies:?}");
        if is_told {
            job.shard.notify_complete(SnapshotId(1_000));
            job.settle();
        }
        // The checkpoint is complete, and a coordinator deletes what was before.
        remote.discard(&before);
        assert_eq!(job.read_again(0..4_000), 0, "told {is_told}");
        job.assert_holds_model();
        // Merges and further full snapshots read there, too.
        for round in 0..20 {
            job.fill(round * 100..round * 100 + 200);
            let (id, _) = snapshot(&mut job, 1_001 + round);
            job.shard.notify_complete(id);
            job.settle();
        }
        let again = full(&mut job, 2_000);
        job.assert_holds_model();
        drop(job);
        for point in [point, again] {
            let mut job = Job::open(&env, &remote, Some(&point), |builder| builder);
            job.assert_holds_model();
        }
    }
}

fn snapshot(job: &mut Job, id: u64) -> (SnapshotId, Point) {
    let id = SnapshotId(id);
    let handle = job.shard.snapshot(id, b"").unwrap().wait().unwrap().handle;
    (id, Point { handle, model: job.model.clone() })
}

#[test]
fn a_full_snapshot_that_is_aborted_and_discarded_leaves_the_copies_before_it() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let (mut job, _) = far(&remote, &env);
    full(&mut job, 1_000);
    job.shard.notify_aborted(SnapshotId(1_000));
    remote.discard(&remote.take_put());
    assert_eq!(job.read_again(0..4_000), 0);
    job.fill(0..50);
    let (id, point) = snapshot(&mut job, 1_001);
    assert_eq!(remote.take_put().len(), 1, "the new delta, and nothing that was there before");
    job.shard.notify_complete(id);
    job.settle();
    job.assert_holds_model();
    drop(job);
    Job::open(&env, &remote, Some(&point), |builder| builder).assert_holds_model();
}

/// Nobody told the shard that the first one is complete.
#[test]
fn a_full_snapshot_is_made_of_the_newest_copies() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let (mut job, before) = far(&remote, &env);
    full(&mut job, 1_000);
    let copies = remote.take_put();
    remote.discard(&before);
    full(&mut job, 1_001);
    remote.discard(&copies);
    let point = full(&mut job, 1_002);
    assert_eq!(job.read_again(0..4_000), 0);
    drop(job);
    Job::open(&env, &remote, Some(&point), |builder| builder).assert_holds_model();
}

/// A store that does not answer is no reason to look for another copy, and one that has
/// lost everything is told as such.
#[test]
fn without_any_copy_the_loss_is_told() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let (mut job, before) = far(&remote, &env);
    full(&mut job, 1_000);
    let copies = remote.take_put();
    remote.set_away(true);
    assert!(job.read_again(0..4_000) > 90);
    remote.set_away(false);
    assert_eq!(job.read_again(0..4_000), 0);
    remote.discard(&before);
    remote.discard(&copies);
    assert!(job.read_again(0..4_000) > 90);
}
