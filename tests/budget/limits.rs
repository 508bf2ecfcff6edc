//! What a budget bounds, and what it says when it is too small.

use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::{
    Backend, ErrorKind, KeyRef, KeyedStore, MaxParallelism, MemoryComponent, OperatorStateSpec,
    OperatorStore, Shard, StateSpec, TimeDomain, TimerSpec, TimerStore,
};

use crate::job::{BUDGET_BYTES, Job};

#[test]
fn a_budget_too_small_to_work_with_is_refused() {
    let error = Backend::builder("/node")
        .env(Arc::new(SimEnv::new(1)))
        .memory_budget_bytes(1000)
        .open()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for part in ["memory budget is too small", "1000 bytes", "at least 262144 bytes"] {
        assert!(error.to_string().contains(part), "{part:?} in {error}");
    }
}

/// Operator states are all in memory: nothing can be evicted to make room for them.
#[test]
fn a_budget_too_small_for_the_job_says_what_takes_the_memory() {
    let env = SimEnv::new(1);
    let mut job = Job::open(&env, None);
    let offsets = job.shard.open_operator_state(OperatorStateSpec::list("offsets")).unwrap();
    job.shard.operator_list_replace(offsets, &[&[1; 1_000][..]; 200]).unwrap();
    let timers = job.shard.open_timers(TimerSpec::new("timers", TimeDomain::Event)).unwrap();
    let refused = (0..100_000_i64)
        .find_map(|time| {
            let key = time.to_le_bytes();
            job.shard.register_timer(timers, time, KeyRef::new(&key)).err()
        })
        .expect("no timer fits");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    for part in ["memory budget is too small", "operator states", "larger memory budget"] {
        assert!(refused.to_string().contains(part), "{part:?} in {refused}");
    }
    // The shard is as it was: what is there can be read.
    assert_eq!(job.shard.next_timer(timers).unwrap(), None);
}

/// A shard that sleeps keeps what it has; one that works alone may have the rest, and
/// two that work come to equal parts.
#[test]
fn shards_share_one_budget() {
    let env = SimEnv::new(1);
    let backend = Backend::builder("/node")
        .env(Arc::new(env))
        .background_threads(0)
        .memory_budget_bytes(2 * BUDGET_BYTES)
        .open()
        .unwrap();
    let max = MaxParallelism::DEFAULT;
    let mut shards: Vec<(Shard, _)> = (0..2)
        .map(|index| {
            let groups = max.range_of_subtask(index, 2).unwrap();
            let mut shard = backend.shard("op", groups).open().unwrap();
            let state = shard.register(StateSpec::value("values")).unwrap();
            (shard, state)
        })
        .collect();
    let mut work = |at: usize, keys: std::ops::Range<u64>| {
        let (shard, state) = &mut shards[at];
        for key in keys {
            let key = key.to_le_bytes();
            let group = shard.groups().first();
            shard.put(*state, KeyRef::in_group(group, &key), &[1; 100]).unwrap();
        }
        let used = shards.iter().map(|(shard, _)| {
            let stats = shard.stats();
            stats.arena_used_bytes + stats.index_bytes
        });
        used.collect::<Vec<_>>()
    };
    let records_bytes = 2 * BUDGET_BYTES / 32 * 19;
    let alone = work(0, 0..10_000);
    assert!(alone[0] > records_bytes * 8 / 10 && alone[0] <= records_bytes, "{alone:?}");
    work(1, 0..10_000);
    work(0, 10_000..12_000);
    let both = work(1, 10_000..12_000);
    for used in &both {
        assert!((records_bytes / 3..=records_bytes / 2 + 1024).contains(used), "{both:?}");
    }
}

/// What it looked into stays open, filters and all, and on the disk, until it looks at what
/// took its place. Merges go on with snapshots alone.
#[test]
fn a_shard_that_only_takes_snapshots_lets_go_of_tables_that_were_merged() {
    let env = SimEnv::new(1);
    let backend = Backend::builder("/node")
        .env(Arc::new(env))
        .background_threads(0)
        .memory_budget_bytes(BUDGET_BYTES)
        .open()
        .unwrap();
    let all = MaxParallelism::DEFAULT.all_groups();
    let mut shard = backend.shard("op", all).open().unwrap();
    let state = shard.register(StateSpec::value("values")).unwrap();
    let mut job = Job { shard, state };
    (0..20_000).for_each(|key| job.put(key, &[1; 100]).unwrap());
    let open_bytes = || backend.memory().bytes_of(MemoryComponent::OpenTables);
    job.snapshot(1).unwrap();
    let merges = job.shard.stats().merges.merges;
    for id in 2..200 {
        job.snapshot(id).unwrap();
        while backend.run_background() {}
    }
    assert!(job.shard.stats().merges.merges > merges, "nothing was merged");
    let idle = open_bytes();
    // An operation takes the newest view in any case.
    job.put(1, &[1; 100]).unwrap();
    assert_eq!(idle, open_bytes(), "bytes of open tables");
}

/// Filters, copies, and what merges of many tables read come to more than is set aside.
#[test]
fn records_give_way_to_what_many_tables_need() {
    let env = SimEnv::new(1);
    let mut job = Job::with_budget(&env, None, 8 << 20);
    let (_, at_first) = job.resident();
    let mut least = at_first;
    for key in 0..800_000 {
        job.put(key, &[1; 100]).unwrap();
        if key % 1_000 == 0 {
            least = least.min(job.resident().1);
        }
    }
    assert!(least < at_first, "{at_first} bytes for records, whatever else was needed");
    assert!(least > at_first / 2, "{least} bytes for records, of {at_first}");
}
