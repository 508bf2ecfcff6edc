//! Timers across a restore.

use std::collections::BTreeSet;

use alluvium::env::SimEnv;
use alluvium::format::Compression;
use alluvium::table::TableOptions;
use alluvium::{
    ErrorKind, Shard, SnapshotHandle, SnapshotId, TimeDomain, TimerSpec, TimerStore, Timers,
    ValueState,
};

use crate::common::{Keyspace, OPERATOR, backend_on, range_of};
use crate::machine;

const GROUPS: u32 = 128;

fn open(
    env: &SimEnv,
    options: TableOptions,
    parallelism: u32,
    handles: &[SnapshotHandle],
) -> Vec<Shard> {
    let space = Keyspace::new(GROUPS, [""; 0]);
    let backend = backend_on(env, &space).table_options(options).open().unwrap();
    (0..parallelism)
        .map(|index| {
            let groups = range_of(index, parallelism, GROUPS);
            backend.shard(OPERATOR, groups).restore(handles.iter().cloned()).open().unwrap()
        })
        .collect()
}

fn snapshot(shards: &mut [Shard], id: u64) -> Vec<SnapshotHandle> {
    let tickets: Vec<_> =
        shards.iter_mut().map(|shard| shard.snapshot(SnapshotId(id), b"").unwrap()).collect();
    tickets.iter().map(|ticket| ticket.wait().unwrap().handle).collect()
}

/// FLINK-34063: what was compressed is cut at the wrong place when it is
/// restored by another number of subtasks, and elements are lost.
#[test]
fn bug_26_no_compression_loses_timers_on_rescaling() {
    for compression in [Compression::None, Compression::Lz4] {
        for block_bytes in [512, 16 * 1024] {
            let env = machine();
            let options = TableOptions { compression, block_bytes, ..TableOptions::default() };
            let all: BTreeSet<(i64, u64, i32)> =
                (0..1_500_i64).map(|i| (i % 7, (i / 3) as u64, (i % 2) as i32)).collect();
            let mut shards = open(&env, options, 1, &[]);
            let timers: Timers<u64, i32> = Timers::event_time(&mut shards[0], "timers").unwrap();
            for (at, key, namespace) in &all {
                timers.register_in(&mut shards[0], key, namespace, *at).unwrap();
            }
            let mut handles = snapshot(&mut shards, 1);
            drop(shards);
            for (id, parallelism) in [(2, 3), (3, 2), (4, 5), (5, 1), (6, 4)] {
                let mut shards = open(&env, options, parallelism, &handles);
                handles = snapshot(&mut shards, id);
                let mut found = BTreeSet::new();
                for shard in &mut shards {
                    let timers: Timers<u64, i32> = Timers::event_time(shard, "timers").unwrap();
                    while let Some(timer) = timers.pop_due(shard, 6).unwrap() {
                        assert!(found.insert((timer.timestamp, timer.key, timer.namespace)));
                    }
                }
                assert_eq!(found, all, "{compression:?}, {block_bytes}, {parallelism} shards");
            }
        }
    }
}

/// FLINK-21486: another kind of timer store is chosen on restore, and nobody
/// checks. Here: timers of the other time, with other keys, or no timers at all.
#[test]
fn bug_32_timers_are_restored_as_what_they_are_or_not_at_all() {
    let env = machine();
    let mut shards = open(&env, TableOptions::default(), 1, &[]);
    let shard = &mut shards[0];
    let event: Timers<u64> = Timers::event_time(shard, "event").unwrap();
    let clock: Timers<u64> = Timers::processing_time(shard, "clock").unwrap();
    let value: ValueState<u64, u64> = ValueState::register(shard, "value").unwrap();
    event.register(shard, &1, 10).unwrap();
    clock.register(shard, &2, 20).unwrap();
    value.put(shard, &3, &30).unwrap();
    let mut handles = snapshot(&mut shards, 1);
    drop(shards);
    for id in 2..4 {
        let mut shards = open(&env, TableOptions::default(), 1, &handles);
        let shard = &mut shards[0];
        let spec = |name| TimerSpec::new(name, TimeDomain::Event);
        let refused = [
            Timers::<u64>::processing_time(shard, "event").err(),
            Timers::<u64>::event_time(shard, "clock").err(),
            Timers::<u64>::event_time(shard, "value").err(),
            Timers::<i64>::event_time(shard, "event").err(),
            Timers::<u64, u64>::event_time(shard, "event").err(),
            ValueState::<u64, u64>::register(shard, "event").err(),
            ValueState::<u64, ()>::register(shard, "clock").err(),
            shard.open_timers(spec("event")).err(),
        ];
        for error in refused {
            let error = error.expect("it is something else");
            assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        }
        // Nobody had opened them, and they are all there the next time.
        handles = snapshot(&mut shards, id);
    }
    let mut shards = open(&env, TableOptions::default(), 1, &handles);
    let shard = &mut shards[0];
    let event: Timers<u64> = Timers::event_time(shard, "event").unwrap();
    let clock: Timers<u64> = Timers::processing_time(shard, "clock").unwrap();
    let value: ValueState<u64, u64> = ValueState::register(shard, "value").unwrap();
    assert_eq!(event.pop_due(shard, 100).unwrap().unwrap().key, 1);
    assert_eq!(clock.pop_due(shard, 100).unwrap().unwrap().key, 2);
    assert_eq!(value.get(shard, &3).unwrap(), Some(30));
}
