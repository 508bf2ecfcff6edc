//! States of one shard that take turns: room that one had is room for the others.

use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::{
    Backend, KeyRef, KeyedStore, MaxParallelism, MemoryComponent, Shard, SnapshotId, StateId,
    StateSpec,
};

const BUDGET_BYTES: u64 = 4 << 20;
/// Twice what may be in memory.
const TURN_BYTES: u64 = 2 * BUDGET_BYTES;
const VALUE_BYTES: u64 = 100;

struct Turns {
    backend: Backend,
    shard: Shard,
    values: StateId,
    lists: StateId,
    maps: StateId,
    rng: SimRng,
    operations: u64,
    snapshots: u64,
    most_bytes: u64,
    most_gaps: u64,
}

impl Turns {
    fn open(seed: u64) -> Self {
        Self::with_budget(seed, BUDGET_BYTES)
    }

    fn with_budget(seed: u64, bytes: u64) -> Self {
        let backend = Backend::builder("/node")
            .env(Arc::new(SimEnv::new(seed).with_mapped_reads()))
            .background_threads(0)
            .memory_budget_bytes(bytes)
            .open()
            .unwrap();
        let groups = MaxParallelism::DEFAULT.all_groups();
        let mut shard = backend.shard("op", groups).open().unwrap();
        let values = shard.register(StateSpec::value("values")).unwrap();
        let lists = shard.register(StateSpec::list("lists")).unwrap();
        let maps = shard.register(StateSpec::map("maps")).unwrap();
        let rng = SimRng::new(seed);
        let (operations, snapshots, most_bytes, most_gaps) = (0, 0, 0, 0);
        Self {
            backend,
            shard,
            values,
            lists,
            maps,
            rng,
            operations,
            snapshots,
            most_bytes,
            most_gaps,
        }
    }

    fn value(&mut self) -> [u8; VALUE_BYTES as usize] {
        let mut value = [0; VALUE_BYTES as usize];
        self.rng.fill(&mut value);
        value
    }

    fn done(&mut self) {
        self.operations += 1;
        if self.operations.is_multiple_of(20_000) {
            self.snapshots += 1;
            let id = SnapshotId(self.snapshots);
            self.shard.snapshot(id, b"").unwrap().wait().unwrap();
            self.shard.notify_complete(id);
        }
        let memory = self.backend.memory();
        self.most_bytes = self.most_bytes.max(memory.total_bytes);
        self.most_gaps = self.most_gaps.max(memory.bytes_of(MemoryComponent::Gaps));
    }

    fn values(&mut self) {
        for key in 0..TURN_BYTES / VALUE_BYTES {
            let value = self.value();
            self.shard.put(self.values, KeyRef::new(&key.to_le_bytes()), &value).unwrap();
            self.done();
        }
    }

    fn lists(&mut self) {
        let elements = TURN_BYTES / VALUE_BYTES;
        for _ in 0..elements {
            let value = self.value();
            let key = self.rng.below(elements / 16).to_le_bytes();
            self.shard.list_append(self.lists, KeyRef::new(&key), &[&value]).unwrap();
            self.done();
        }
    }

    /// Maps of `entries` each, or so, that come to `TURN_BYTES`.
    fn maps(&mut self, entries: u64) {
        let puts = TURN_BYTES / VALUE_BYTES;
        for _ in 0..puts {
            let value = self.value();
            let key = self.rng.below(puts / entries).to_le_bytes();
            let entry = self.rng.below(2 * entries).to_le_bytes();
            self.shard.map_put(self.maps, KeyRef::new(&key), &entry, &value).unwrap();
            self.done();
        }
    }
}

/// What is on its way to a table comes on top for a moment: a sixteenth.
#[test]
fn states_that_take_turns_keep_within_the_budget_together() {
    for seed in 0..2 {
        let mut turns = Turns::open(seed);
        turns.values();
        turns.lists();
        turns.maps(64);
        turns.values();
        let memory = turns.backend.memory();
        let most = BUDGET_BYTES + BUDGET_BYTES / 16;
        assert!(turns.most_bytes <= most, "seed {seed}: {} of {memory}", turns.most_bytes);
        let most = BUDGET_BYTES / 8;
        assert!(turns.most_gaps <= most, "seed {seed}: {} of {memory}", turns.most_gaps);
    }
}

#[test]
fn a_shard_that_gives_up_all_records_keeps_no_room_for_them() {
    let mut turns = Turns::open(1);
    turns.values();
    turns.maps(64);
    turns.shard.snapshot(SnapshotId(1_000), b"").unwrap().wait().unwrap();
    turns.shard.evict(u64::MAX).unwrap();
    let memory = turns.backend.memory();
    let components = [MemoryComponent::Records, MemoryComponent::Gaps];
    assert_eq!(components.map(|part| memory.bytes_of(part)), [0; 2], "{memory}");
    assert!(memory.bytes_of(MemoryComponent::Indexes) < 1024, "{memory}");
    // What is asked for comes back.
    let found = turns.shard.get(turns.values, KeyRef::new(&7_u64.to_le_bytes())).unwrap();
    assert_eq!(found.map(<[u8]>::len), Some(VALUE_BYTES as usize));
}

/// A map is in memory as whole pages, of which a table gets the entries that changed:
/// some 1,600 and 130 bytes here. Pages may come to three eighths of what is for records.
#[test]
fn maps_of_which_little_changes_are_written_when_many_of_their_pages_wait_for_it() {
    let mut turns = Turns::open(1);
    turns.maps(16);
    let before = turns.shard.stats();
    turns.maps(16);
    let stats = turns.shard.stats();
    let writes = stats.early_writes - before.early_writes;
    let puts = TURN_BYTES / VALUE_BYTES;
    // An eighth would be some 140 pages.
    assert!(writes <= puts / 300, "{writes} early writes of {puts} changes: {stats}");
}

/// However many records tables have: filters and indexes of the oldest are read in the
/// files.
#[test]
fn filters_and_indexes_that_are_held_keep_within_their_part() {
    let budget = BUDGET_BYTES / 4;
    let mut turns = Turns::with_budget(1, budget);
    let mut most = 0;
    // A byte of a filter for each.
    for key in 0..budget / 4 {
        turns.shard.put(turns.values, KeyRef::new(&key.to_le_bytes()), b"value").unwrap();
        turns.done();
        most = most.max(turns.backend.memory().bytes_of(MemoryComponent::OpenTables));
    }
    let tables = turns.shard.stats().tables as u64;
    // One that was opened anew is closed when the shard has taken the view.
    assert!(most <= budget / 16 * 3 + budget / 32, "{most} bytes of {tables} tables");
}
