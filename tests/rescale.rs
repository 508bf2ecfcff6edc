//! Shards that are split and joined again keep their state and can go on.

use alluvium::{Backend, Shard, SnapshotHandle, SnapshotId, ValueState};

fn open(backend: &Backend, shards: u32, handles: &[SnapshotHandle]) -> Vec<Shard> {
    (0..shards)
        .map(|index| {
            let groups = backend.max_parallelism().range_of_subtask(index, shards).unwrap();
            backend.shard("op", groups).restore(handles.iter().cloned()).open().unwrap()
        })
        .collect()
}

fn snapshots(shards: &mut [Shard], id: u64) -> Vec<SnapshotHandle> {
    let taken = shards.iter_mut().map(|shard| shard.snapshot(SnapshotId(id), b"").unwrap());
    taken.map(|ticket| ticket.wait().unwrap().handle).collect()
}

#[test]
fn shards_that_were_split_and_joined_again_can_take_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::builder(dir.path()).open().unwrap();
    let mut one = open(&backend, 1, &[]);
    let state: ValueState<u64, u64> = ValueState::register(&mut one[0], "v").unwrap();
    for key in 0..1_000 {
        state.put(&mut one[0], &key, &key).unwrap();
    }
    let mut handles = snapshots(&mut one, 1);
    for (id, parallelism) in [(2, 2), (3, 1), (4, 5), (5, 3), (6, 128), (7, 1)] {
        handles = snapshots(&mut open(&backend, parallelism, &handles), id);
    }
    let mut last = open(&backend, 1, &handles);
    let state: ValueState<u64, u64> = ValueState::register(&mut last[0], "v").unwrap();
    for key in 0..1_000 {
        assert_eq!(state.get(&mut last[0], &key).unwrap(), Some(key));
    }
}
