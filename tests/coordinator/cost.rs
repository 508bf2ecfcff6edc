//! What a large checkpoint costs its coordinator. Run by hand, and read:
//!
//! ```text
//! cargo test --release --test coordinator costs -- --ignored --nocapture
//! ```

use std::sync::Arc;

use alluvium::base::FileId;
use alluvium::base::checksum::ContentHash;
use alluvium::coordinator::{Event, Participant};
use alluvium::env::{Env, RealEnv};
use alluvium::format::{
    Manifest, ShardAck, ShardCosts, ShardPart, StoredFile, TableMeta, TableRef,
};
use alluvium::object::{MemoryStore, ObjectName, ObjectStore};
use alluvium::{Coordinator, MaxParallelism, SnapshotHandle, SnapshotId};

use crate::by_hand::by_hand;

const SHARDS: u32 = 1_000;
const FILES: u64 = 100;

/// The acknowledgement of a shard whose tables are those from `first` on.
fn ack(
    store: &dyn ObjectStore,
    id: SnapshotId,
    number: u64,
    shard: &Participant,
    first: u64,
) -> ShardAck {
    let location =
        |table: u64| format!("jobs/job/epochs/0000000001/tables/{number:016x}-{table:08}.table");
    let meta = |table| TableMeta {
        file: FileId { incarnation: number, number: table },
        bytes: 64 << 20,
        hash: ContentHash(u128::from(table)),
        records: 1,
        tombstones: 0,
        raw_bytes: 1,
        groups: shard.groups,
    };
    let tables = (first..first + FILES).map(|table| TableRef {
        meta: meta(table),
        location: location(table),
        slice: shard.groups,
        dropped: vec![],
    });
    let manifest = Manifest {
        snapshot: id,
        operator: shard.operator.clone(),
        created_unix_ms: 1,
        sequence: id.0,
        groups: shard.groups,
        max_parallelism: shard.max_parallelism,
        watermark: None,
        states: vec![],
        tables: tables.collect(),
        operator_states: vec![],
        user_meta: vec![],
    };
    let bytes = manifest.encode().unwrap();
    let name = format!("jobs/job/epochs/0000000001/manifests/{:020}-{number:05}", id.0);
    store.create(&ObjectName::new(&*name).unwrap(), &bytes).unwrap();
    let handle = SnapshotHandle::new(&manifest, &bytes, "memory", &name).unwrap();
    let mut files: Vec<_> = (first..first + FILES)
        .map(|table| StoredFile { location: location(table), bytes: 64 << 20 })
        .collect();
    files.push(StoredFile { location: name, bytes: bytes.len() as u64 });
    files.sort_unstable();
    ShardAck { epoch: 1, part: ShardPart { handle, costs: ShardCosts::default() }, files }
}

#[allow(clippy::disallowed_methods, reason = "what the system says of this process")]
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

#[test]
#[ignore = "for people: it prints times and claims nothing of them"]
fn costs_of_a_thousand_shards_and_a_hundred_thousand_shared_files() {
    let env: Arc<dyn Env> = Arc::new(RealEnv::new());
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Arc::clone(&env)));
    let open = || {
        let builder = Coordinator::builder(Arc::clone(&store), "job").env(Arc::clone(&env));
        builder.settings(by_hand()).open().unwrap()
    };
    let mut coordinator = open();
    let max = MaxParallelism::new(1_024).unwrap();
    let shards = Participant::of_operator("count", max, SHARDS).unwrap();
    coordinator.start(shards.clone()).unwrap();
    let ms = |since: u64| (env.monotonic_ns() - since) as f64 / 1e6;
    for round in 0..4 {
        let id = coordinator.trigger().unwrap();
        let mut acks: Vec<_> = (0..)
            .zip(&shards)
            .map(|(number, shard)| ack(&*store, id, number, shard, round))
            .collect();
        let last = acks.pop().unwrap();
        let before = resident_bytes();
        let start = env.monotonic_ns();
        for ack in acks {
            coordinator.acknowledge(ack).unwrap();
        }
        println!("checkpoint {id}: all acknowledgements but the last {:.1} ms", ms(start));
        let start = env.monotonic_ns();
        coordinator.acknowledge(last).unwrap();
        println!("  the last one, which completes it {:.1} ms", ms(start));
        let files = coordinator.files().0;
        let grown = resident_bytes().saturating_sub(before);
        println!("  {files} files are known, and the process grew by {grown} bytes");
        assert!(std::iter::from_fn(|| coordinator.next_event()).any(|e| e == Event::Completed(id)));
        let start = env.monotonic_ns();
        let collected = coordinator.collect(usize::MAX).unwrap();
        println!("  collecting {} objects {:.1} ms", collected.deleted, ms(start));
    }
    let start = env.monotonic_ns();
    drop(coordinator);
    println!("dropping it {:.1} ms", ms(start));
    let start = env.monotonic_ns();
    let next = open();
    println!("opening the next one, which reads {SHARDS} manifests, {:.1} ms", ms(start));
    assert!(next.deletes_nothing().is_none());
}
