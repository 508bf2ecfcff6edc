//! A shard that was restored from more than fits into memory.

use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::{
    Backend, KeyRef, KeyedStore, MaxParallelism, MemoryComponent, Shard, SnapshotHandle,
    SnapshotId, StateId, StateSpec,
};

const BUDGET_BYTES: u64 = 512 << 10;
const VALUE_BYTES: u64 = 100;
/// Ten times the budget.
const KEYS: u64 = 10 * BUDGET_BYTES / VALUE_BYTES;

fn open(env: &SimEnv, handle: Option<SnapshotHandle>) -> (Backend, Shard, StateId) {
    open_within(BUDGET_BYTES, env, handle)
}

fn open_within(
    budget_bytes: u64,
    env: &SimEnv,
    handle: Option<SnapshotHandle>,
) -> (Backend, Shard, StateId) {
    let backend = Backend::builder("/node")
        .env(Arc::new(env.clone()))
        .background_threads(0)
        .memory_budget_bytes(budget_bytes)
        .open()
        .unwrap();
    let groups = MaxParallelism::DEFAULT.all_groups();
    let mut shard = backend.shard("op", groups).restore(handle).open().unwrap();
    let values = shard.register(StateSpec::value("values")).unwrap();
    (backend, shard, values)
}

/// A snapshot of [`KEYS`] values that nothing compresses.
fn loaded(env: &SimEnv) -> SnapshotHandle {
    let (backend, mut shard, values) = open(env, None);
    let mut rng = SimRng::new(1);
    let mut value = [0; VALUE_BYTES as usize];
    for key in 0..KEYS {
        rng.fill(&mut value);
        shard.put(values, KeyRef::new(&key.to_le_bytes()), &value).unwrap();
    }
    let report = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap();
    while backend.run_background() {}
    report.handle
}

/// The rest would be read to be thrown away, and take the disk from those who ask.
#[test]
fn a_warm_up_ends_when_memory_is_full() {
    let env = SimEnv::new(1);
    let handle = loaded(&env);
    let (backend, mut shard, values) = open(&env, Some(handle));
    let mut rng = SimRng::new(2);
    for _ in 0..KEYS / 10 {
        let key = rng.below(KEYS).to_le_bytes();
        assert!(shard.get(values, KeyRef::new(&key)).unwrap().is_some());
        shard.warm_up(100).unwrap();
        backend.run_background();
    }
    while backend.run_background() {}
    let (read, blocks) = (backend.local_dir().store_read_bytes, shard.stats().lookups.blocks_read);
    // What was asked for, filters and indexes, and what fits twice over.
    let most = blocks * 2 * 4096 + 4 * KEYS + 2 * BUDGET_BYTES;
    assert!(read <= most, "{read} bytes read, for {blocks} blocks that were asked for");
}

/// In a mapped file their pages come and go, one read of the disk for each look.
#[test]
fn filters_and_indexes_of_a_restored_shard_come_into_memory_as_far_as_they_may() {
    let env = SimEnv::new(1).with_mapped_reads();
    let handle = loaded(&env);
    let (backend, mut shard, values) = open(&env, Some(handle));
    while backend.run_background() {}
    shard.get(values, KeyRef::new(&1_u64.to_le_bytes())).unwrap();
    let held = backend.memory().bytes_of(MemoryComponent::OpenTables);
    // A byte a record for the filter, and something for the index: it all fits.
    assert!((KEYS..=BUDGET_BYTES / 4).contains(&held), "{held} bytes of {KEYS} records");
}

/// A filter that excludes nothing takes the memory of records that would be asked for.
#[test]
fn filters_of_the_oldest_tables_are_held_while_keys_are_asked_for_that_are_nowhere() {
    const BUDGET_BYTES: u64 = 8 << 20;
    const KEYS: u64 = 10 * BUDGET_BYTES / VALUE_BYTES;
    let env = SimEnv::new(1).with_mapped_reads();
    let (backend, mut shard, values) = open_within(BUDGET_BYTES, &env, None);
    let mut rng = SimRng::new(3);
    let mut value = [0; VALUE_BYTES as usize];
    for key in 0..KEYS {
        rng.fill(&mut value);
        shard.put(values, KeyRef::new(&key.to_le_bytes()), &value).unwrap();
    }
    // Each key is looked for, and then another one changed, so that tables are written.
    let mut work = |first: u64, times: u64, changes: bool| {
        for _ in 0..times {
            let key = (first + rng.below(KEYS)).to_le_bytes();
            let found = shard.get(values, KeyRef::new(&key)).unwrap().is_some();
            assert_eq!(found, first == 0);
            if changes {
                rng.fill(&mut value);
                let known = rng.below(KEYS).to_le_bytes();
                shard.put(values, KeyRef::new(&known), &value).unwrap();
                backend.run_background();
            }
        }
        let held = backend.memory().bytes_of(MemoryComponent::OpenTables);
        (held, shard.stats())
    };
    let usual = BUDGET_BYTES / 32 * 19;
    let (without, stats) = work(0, 20_000, true);
    assert!(stats.allowed_bytes > usual, "{} bytes, usually {usual}", stats.allowed_bytes);
    let (_, after) = work(KEYS, 500, false);
    let blocks = after.lookups.blocks_read - stats.lookups.blocks_read;
    assert!(blocks > 400, "{blocks} blocks read for 500 keys that no filter excludes");
    let (with, stats) = work(KEYS, 20_000, true);
    assert!(with > without + KEYS / 2, "{with} bytes after {without}");
    assert!(stats.allowed_bytes <= usual, "{} bytes, usually {usual}", stats.allowed_bytes);
    let (_, after) = work(KEYS, 1_000, true);
    let blocks = after.lookups.blocks_read - stats.lookups.blocks_read;
    assert!(blocks < 200, "{blocks} blocks read for 1,000 keys that are nowhere");
    let (again, _) = work(0, 20_000, true);
    assert!(again < with - KEYS / 2, "{again} bytes after {with}");
}
