//! Operator states across a restore.

use alluvium::format::Compression;
use alluvium::table::TableOptions;
use alluvium::{OperatorListState, Shard, SnapshotHandle, SnapshotId, ValueState};

use crate::common::{Keyspace, OPERATOR, backend_on, range_of};
use crate::machine;

const GROUPS: u32 = 128;

/// FLINK-34063: the offsets of a list's elements were those of the bytes before
/// compression; on another number of subtasks it was cut in the wrong places, and
/// splits of a source got lost.
#[test]
fn bug_26_no_compression_loses_elements_of_a_list_on_rescaling() {
    for compression in [Compression::None, Compression::Lz4] {
        let env = machine();
        let options = TableOptions { compression, ..TableOptions::default() };
        let open = |parallelism: u32, handles: &[SnapshotHandle]| -> Vec<Shard> {
            let space = Keyspace::new(GROUPS, [""; 0]);
            let backend = backend_on(&env, &space).table_options(options).open().unwrap();
            let open = |index| {
                let groups = range_of(index, parallelism, GROUPS);
                let shard = backend.shard(OPERATOR, groups).subtask(index, parallelism);
                shard.restore(handles.iter().cloned()).open().unwrap()
            };
            (0..parallelism).map(open).collect()
        };
        let snapshot = |shards: &mut [Shard], id: u64| -> Vec<SnapshotHandle> {
            let taken = shards.iter_mut().map(|shard| shard.snapshot(SnapshotId(id), b"").unwrap());
            taken.map(|ticket| ticket.wait().unwrap().handle).collect()
        };
        // What compresses well, at lengths that go up and down.
        let all: Vec<String> =
            (0..1_000_usize).map(|n| format!("{n} {}", "split ".repeat(n * 7 % 40))).collect();
        let mut shards = open(1, &[]);
        let splits: OperatorListState<String> =
            OperatorListState::even_split(&mut shards[0], "splits").unwrap();
        let read: ValueState<u64, String> = ValueState::register(&mut shards[0], "read").unwrap();
        for (number, split) in all.iter().enumerate() {
            splits.add(&mut shards[0], split).unwrap();
            read.put(&mut shards[0], &(number as u64), split).unwrap();
        }
        let mut handles = snapshot(&mut shards, 1);
        drop(shards);
        for (id, parallelism) in [(2, 3), (3, 2), (4, 7), (5, 7), (6, 1), (7, 16), (8, 5)] {
            let mut shards = open(parallelism, &handles);
            let mut found = Vec::new();
            for shard in &mut shards {
                let splits: OperatorListState<String> =
                    OperatorListState::even_split(shard, "splits").unwrap();
                found.extend(splits.get(shard).unwrap());
            }
            assert_eq!(found, all, "{compression:?}, {parallelism} shards");
            handles = snapshot(&mut shards, id);
        }
    }
}
