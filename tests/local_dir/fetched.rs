//! What is fetched into the local directory.

use alluvium::env::SimEnv;
use alluvium::env::sim::{FaultError, FaultKind};

use crate::job::{Job, PARTS, Point, parts, roomy};
use crate::store::Remote;

const KEYS: u64 = 3_000;

/// A checkpoint of some tables in a store far away.
fn checkpoint(env: &SimEnv, remote: &Remote) -> Point {
    let mut job = Job::open(env, remote, None, |builder| builder);
    job.fill(0..KEYS);
    job.checkpoint();
    job.fill(KEYS / 2..KEYS / 2 + 200);
    let point = job.checkpoint();
    remote.doing(|doing| doing.is_remote = true);
    point
}

fn all_bytes(job: &Job) -> u64 {
    job.shard.stats().table_bytes
}

#[test]
fn restored_tables_of_a_remote_store_are_fetched_and_then_read_here() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let point = checkpoint(&env, &remote);
    let mut job = Job::open(&env, &remote, Some(&point), |builder| builder.warm_up(false));
    assert_eq!(job.stats().tables_local, 0);
    assert!(job.get(7).unwrap().is_some(), "it works before anything is here");
    job.settle();
    let stats = job.stats();
    assert_eq!(stats.tables_in_store_only, 0, "{stats:?}");
    assert_eq!((stats.fetched_bytes, stats.bytes), (all_bytes(&job), all_bytes(&job)));
    remote.set_away(true);
    job.forget();
    job.assert_holds_model();
    job.assert_directory_is_right();
    // They are in the store already.
    remote.set_away(false);
    remote.take_put();
    job.checkpoint();
    assert_eq!(remote.take_put(), [""; 0]);
}

#[test]
fn tables_are_fetched_if_the_store_is_remote_or_somebody_says_so() {
    for (is_remote, said, expected) in [
        (false, None, false),
        (true, None, true),
        (true, Some(false), false),
        (false, Some(true), true),
    ] {
        let env = SimEnv::new(1);
        let remote = Remote::new(&env);
        let point = checkpoint(&env, &remote);
        remote.doing(|doing| doing.is_remote = is_remote);
        let mut job = Job::open(&env, &remote, Some(&point), |builder| match said {
            Some(said) => builder.local_copies(said),
            None => builder,
        });
        job.settle();
        assert_eq!(job.stats().tables_local > 0, expected, "{is_remote} {said:?}");
    }
}

#[test]
fn what_is_fetched_is_within_the_limit_and_what_is_read_the_most_comes_first() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let (point, bytes) = parts(&env, &remote);
    remote.doing(|doing| doing.is_remote = true);
    for (hot, part) in PARTS.into_iter().enumerate() {
        remote.set_away(false);
        // Just room for the largest.
        let limit = bytes[0] * 8 / 7 + 8;
        let mut job = Job::open(&env, &remote, Some(&point), |builder| {
            roomy(builder).local_limit_bytes(limit)
        });
        for _ in 0..3 {
            assert_eq!(job.read_again(part.clone()), 0);
        }
        job.settle();
        let stats = job.stats();
        let expected = if hot == 0 { bytes[0] } else { bytes[1..].iter().sum() };
        assert_eq!((stats.fetched_bytes, stats.bytes), (expected, expected), "{stats:?}");
        assert!(stats.bytes <= limit - limit / 8 && stats.evicted_bytes == 0, "{stats:?}");
        remote.set_away(true);
        assert!(job.read_again(part) < 20);
        let other = if hot == 0 { PARTS[1].clone() } else { PARTS[0].clone() };
        assert!(job.read_again(other) > 80, "there was no room for it");
    }
}

#[test]
fn a_copy_that_is_not_what_it_should_be_is_not_used() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let point = checkpoint(&env, &remote);
    let mut job = Job::open(&env, &remote, Some(&point), |builder| builder.warm_up(false));
    remote.doing(|doing| doing.lies_above = Some(8 << 10));
    job.settle();
    let stats = job.stats();
    assert!(stats.tables_in_store_only > 0, "{stats:?}");
    assert_eq!(job.files().len(), stats.tables_local, "what was copied wrong is gone");
    remote.doing(|doing| doing.lies_above = None);
    job.assert_holds_model();
    job.assert_directory_is_right();
}

#[test]
fn what_could_not_be_fetched_is_fetched_when_tables_change_next() {
    type Fault = fn(&SimEnv, &Remote, bool);
    let away: Fault = |_, remote, is_away| remote.set_away(is_away);
    let full: Fault = |env, _, is_full| match is_full {
        true => env.fail_nth(FaultKind::Write, 1, FaultError::ENOSPC, true),
        false => env.clear_faults(),
    };
    let unsynced: Fault = |env, _, fails| match fails {
        true => env.fail_nth(FaultKind::Sync, 1, FaultError::EIO, true),
        false => env.clear_faults(),
    };
    for fault in [away, full, unsynced] {
        let env = SimEnv::new(1);
        let remote = Remote::new(&env);
        let point = checkpoint(&env, &remote);
        let mut job = Job::open(&env, &remote, Some(&point), |builder| builder.warm_up(false));
        fault(&env, &remote, true);
        job.settle();
        assert_eq!((job.files().len(), job.stats().bytes), (0, 0));
        fault(&env, &remote, false);
        job.assert_holds_model();
        job.fill(0..300);
        job.checkpoint();
        let stats = job.stats();
        assert_eq!(stats.tables_in_store_only, 0, "{stats:?}");
        job.forget();
        job.assert_holds_model();
        job.assert_directory_is_right();
    }
}

/// Shards that were made of one hold slices of its tables.
#[test]
fn shards_that_share_a_table_share_its_copy() {
    use alluvium::{KeyRef, KeyedStore, MaxParallelism, StateSpec};
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let point = checkpoint(&env, &remote);
    let job = Job::open(&env, &remote, Some(&point), |builder| builder.warm_up(false));
    let (all, backend) = (all_bytes(&job), job.backend.clone());
    drop(job);
    while backend.run_background() {}
    let before = backend.local_dir();
    assert_eq!(before.bytes, 0, "{before:?}");
    let mut shards: Vec<_> = (0..2)
        .map(|index| {
            let groups = MaxParallelism::DEFAULT.range_of_subtask(index, 2).unwrap();
            backend.shard("op", groups).restore([point.handle.clone()]).open().unwrap()
        })
        .collect();
    while backend.run_background() {}
    let stats = backend.local_dir();
    assert_eq!((stats.tables_in_store_only, stats.bytes), (0, all), "{stats:?}");
    assert_eq!(stats.fetched_bytes, before.fetched_bytes + all, "{stats:?}");
    remote.set_away(true);
    let mut second = shards.pop().unwrap();
    drop(shards);
    while backend.run_background() {}
    let state = second.register(StateSpec::value("values")).unwrap();
    let own = |key: &u64| {
        let hash = xxhash_rust::xxh3::xxh3_64(&key.to_le_bytes()) & 0xffff_ffff;
        (hash * 128) >> 32 >= 64
    };
    for key in (0..KEYS).filter(own) {
        let key = key.to_le_bytes();
        assert!(second.get(state, KeyRef::new(&key)).unwrap().is_some());
    }
}
