//! What leaves the local directory, and when.

use alluvium::ErrorKind;
use alluvium::env::SimEnv;

use crate::job::{Job, PARTS, files, parts, roomy};
use crate::store::Remote;

const LIMIT: u64 = 100 << 10;

fn with_limit(bytes: u64) -> impl FnOnce(alluvium::BackendBuilder) -> alluvium::BackendBuilder {
    move |builder| builder.local_limit_bytes(bytes)
}

#[test]
fn a_table_leaves_only_when_a_confirmed_snapshot_names_it() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let mut job = Job::open(&env, &remote, None, with_limit(LIMIT));
    job.fill(0..5_000);
    job.settle();
    assert!(job.stats().bytes > 4 * LIMIT, "{:?}", job.stats());
    // A snapshot that is aborted, whose tables the runtime discards.
    let (id, _) = job.snapshot().unwrap();
    job.settle();
    assert_eq!(job.stats().tables_in_store_only, 0, "nobody confirmed it");
    job.shard.notify_aborted(id);
    remote.discard(&remote.take_put());
    job.settle();
    assert_eq!((job.stats().tables_in_store_only, job.stats().evicted_bytes), (0, 0));
    assert!(job.stats().above_limit_bytes > 0);
    job.forget();
    job.assert_holds_model();
    // One that is published and not confirmed yet.
    let (id, point) = job.snapshot().unwrap();
    job.settle();
    assert_eq!(job.stats().evicted_bytes, 0);
    job.shard.notify_complete(id);
    job.settle();
    let stats = job.stats();
    assert!(stats.bytes <= LIMIT && stats.evicted_bytes > 0, "{stats:?}");
    assert_eq!((stats.above_limit_bytes, stats.leaving_bytes), (0, 0), "{stats:?}");
    job.forget();
    job.assert_holds_model();
    assert!(remote.doing(|doing| doing.reads) > 100, "most is far away");
    assert!(job.stats().store_read_bytes > 0);
    job.assert_directory_is_right();
    drop(job);
    let mut job = Job::open(&env, &remote, Some(&point), with_limit(LIMIT));
    job.assert_holds_model();
}

/// A job that never says which snapshots are complete, and one that has no source for
/// what its sink has, keep everything.
#[test]
fn without_a_source_for_it_nothing_leaves() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let other = Remote::new(&SimEnv::new(2));
    let mut job = Job::open(&env, &remote, None, |builder| {
        builder.local_limit_bytes(LIMIT).source(std::sync::Arc::new(other))
    });
    job.fill(0..3_000);
    job.checkpoint();
    let stats = job.stats();
    assert!(stats.bytes > 2 * LIMIT && stats.evicted_bytes == 0, "{stats:?}");
    job.forget();
    job.assert_holds_model();
}

#[test]
fn the_space_of_a_table_is_free_when_its_last_reader_has_gone() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let mut job = Job::open(&env, &remote, None, with_limit(0));
    job.fill(0..3_000);
    let (id, _) = job.publish_all(&remote);
    let before = job.stats();
    job.shard.notify_complete(id);
    while job.backend.run_background() {}
    let stats = job.stats();
    assert_eq!((stats.tables_local, stats.leaving_bytes), (0, stats.bytes), "{stats:?}");
    assert!(stats.bytes > 0 && stats.bytes <= before.bytes, "{stats:?}");
    assert!(!job.files().is_empty(), "the shard has them open");
    job.take_view();
    while job.backend.run_background() {}
    assert_eq!(job.stats().bytes, 0);
    assert_eq!(job.files(), [""; 0].map(Into::<std::path::PathBuf>::into));
    job.forget();
    job.assert_holds_model();
}

#[test]
fn what_cannot_leave_is_never_an_error() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let mut job = Job::open(&env, &remote, None, with_limit(LIMIT));
    for round in 0..3 {
        job.fill(round * 2_000..(round + 1) * 2_000);
        assert!(job.stats().above_limit_bytes > 0, "{:?}", job.stats());
    }
    job.assert_holds_model();
    job.checkpoint();
    assert_eq!(job.stats().above_limit_bytes, 0);
    assert!(job.stats().bytes <= LIMIT);
}

/// Tables are opened in the store before anything is given up.
#[test]
fn a_store_that_cannot_be_reached_takes_nothing_from_the_local_directory() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let mut job = Job::open(&env, &remote, None, with_limit(LIMIT));
    job.fill(0..3_000);
    let (id, _) = job.snapshot().unwrap();
    remote.set_away(true);
    job.shard.notify_complete(id);
    job.settle();
    let stats = job.stats();
    assert_eq!((stats.tables_in_store_only, stats.evicted_bytes), (0, 0), "{stats:?}");
    assert!(stats.above_limit_bytes > 0, "{stats:?}");
    job.forget();
    job.assert_holds_model();
    remote.set_away(false);
    job.checkpoint();
    assert!(job.stats().bytes <= LIMIT && job.stats().evicted_bytes > 0);
    job.forget();
    job.assert_holds_model();
}

#[test]
fn a_store_that_does_not_answer_is_told_and_may_be_asked_again() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let mut job = Job::open(&env, &remote, None, with_limit(0));
    job.fill(0..3_000);
    job.checkpoint();
    job.forget();
    remote.set_away(true);
    let mut failed = 0;
    for key in 0..3_000 {
        match job.get(key) {
            Ok(found) => assert_eq!(found.as_ref(), job.model.get(&key), "key {key}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 2_000, "only {failed} were in the store");
    // What is new is taken and kept. An absent key may have to be looked for, too.
    for key in 10_000..10_500 {
        let put = job.try_put(key, &[1; 100]);
        assert!(put.is_ok(), "{put:?}");
    }
    assert!(job.snapshot().is_err());
    remote.set_away(false);
    job.assert_holds_model();
    let point = job.checkpoint();
    drop(job);
    let mut job = Job::open(&env, &remote, Some(&point), with_limit(0));
    job.assert_holds_model();
}

/// Blocks read for each byte of space decide, lately, and then the size.
#[test]
fn what_is_read_the_most_for_its_space_leaves_last() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let (point, bytes) = parts(&env, &remote);
    let all: u64 = bytes.iter().sum();
    for (hot, part) in PARTS.into_iter().enumerate() {
        let mut job = Job::open(&env, &remote, Some(&point), |builder| {
            roomy(builder).local_copies(true).local_limit_bytes(all * 8 / 7 + 8)
        });
        job.settle();
        assert_eq!((job.stats().tables_local, job.stats().evicted_bytes), (4, 0));
        for _ in 0..3 {
            assert_eq!(job.read_again(part.clone()), 0);
        }
        // New data takes the room of the others.
        job.fill(40_000..40_800);
        job.checkpoint();
        let stats = job.stats();
        assert!(stats.evicted_bytes > 0 && stats.tables_in_store_only > 0, "{stats:?}");
        assert_eq!(job.shard.stats().tables, 5, "nothing is merged");
        remote.set_away(true);
        assert!(job.read_again(part) < 20, "part {hot} is far away");
        if hot > 0 {
            assert!(job.read_again(0..100) > 80, "the largest went first");
        }
        remote.set_away(false);
    }
}

#[test]
fn a_shard_that_is_dropped_leaves_nothing_behind() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let mut job = Job::open(&env, &remote, None, with_limit(LIMIT));
    job.fill(0..3_000);
    job.checkpoint();
    job.fill(3_000..4_000);
    assert!(!job.files().is_empty());
    let Job { shard, backend, .. } = job;
    drop(shard);
    while backend.run_background() {}
    assert_eq!(files(&env).len(), 0);
    assert_eq!(backend.local_dir().bytes, 0);
}
