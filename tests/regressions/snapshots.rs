//! Freezing, merging and deleting beside each other.

use std::sync::Arc;

use alluvium::env::Env;
use alluvium::env::sim::SimRng;
use alluvium::object::LocalStore;
use alluvium::{Backend, Result, Shard, SnapshotId, SnapshotTicket, StoreSink};

use crate::common::{
    CHECKPOINTS, Ids, Image, Job, Keyspace, assert_same_image, backend_on, handles, manifest_of,
    sealed_image, store_on, table_records,
};
use crate::{assert_restores, machine, space};

/// FLINK-26967, FLINK-9269, FLINK-6207: the writer changes what an asynchronous
/// snapshot is reading. A real machine, threads, and a writer that never waits.
#[test]
fn bug_22_a_writer_on_another_thread_never_changes_a_frozen_record() {
    const KEYS: u64 = 1_500;
    const SNAPSHOTS: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let space = {
        let mut space = Keyspace::new(128, ["counts"]);
        for key in 0..KEYS {
            space.add(0, &key.to_be_bytes(), b"", false);
        }
        Arc::new(space)
    };
    let open = |name: &str| {
        Backend::builder(dir.path().join(name))
            .checkpoint_dir(dir.path().join("checkpoints"))
            .background_threads(2)
            .max_tables_per_shard(3)
            .max_parallelism(space.max_parallelism())
    };
    let mut job = Job::open(&space, open("a"), 2, None).unwrap();
    let mut rng = SimRng::new(1);
    let mut taken: Vec<(Vec<SnapshotTicket>, Image)> = Vec::new();
    for id in 1..=SNAPSHOTS {
        // Some records again and again, so that they are often frozen.
        for _ in 0..1_000 {
            let among = if rng.one_in(2) { 50 } else { KEYS };
            let key = rng.below(among) as usize;
            match rng.below(10) {
                0..=1 => job.delete(key),
                2..=3 => job.put(key, &vec![id as u8; rng.below(300) as usize]),
                _ => {
                    let value = rng.next_u64().to_le_bytes();
                    job.put(key, &value);
                }
            }
        }
        let begin = |(shard, _): &mut (Shard, Ids)| shard.snapshot(SnapshotId(id), b"");
        let tickets = job.shards.iter_mut().map(begin).collect::<Result<_>>().unwrap();
        taken.push((tickets, job.model.clone()));
    }
    job.assert_holds_model();
    let env: Arc<dyn Env> = Arc::new(alluvium::env::RealEnv::new());
    let store = LocalStore::open(env, dir.path().join("checkpoints")).unwrap();
    let store = StoreSink::new(Arc::new(store));
    let mut last = None;
    for (tickets, image) in taken {
        let reports: Vec<_> = tickets.iter().map(|ticket| ticket.wait().unwrap()).collect();
        let handles = handles(&reports);
        let sealed = sealed_image(&space, &store, &handles).unwrap();
        assert_same_image(&space, &sealed, &image, &format!("snapshot {}", reports[0].snapshot));
        last = Some((handles, image));
    }
    drop(job);
    let (handles, image) = last.expect("there were snapshots");
    let mut job = Job::open(&space, open("b"), 3, Some((&handles, &image))).unwrap();
    // While the background brings records into memory, and after it did.
    job.assert_holds_model();
    let mut rng = SimRng::new(2);
    job.change(&mut rng, 2_000);
    job.assert_holds_model();
    let begin = |(shard, _): &mut (Shard, Ids)| shard.snapshot(SnapshotId(SNAPSHOTS + 1), b"");
    let tickets: Vec<_> = job.shards.iter_mut().map(begin).collect::<Result<_>>().unwrap();
    let image = job.model.clone();
    job.change(&mut rng, 2_000);
    let reports: Vec<_> = tickets.iter().map(|ticket| ticket.wait().unwrap()).collect();
    let sealed = sealed_image(&space, &store, &crate::common::handles(&reports)).unwrap();
    assert_same_image(&space, &sealed, &image, "the snapshot of a shard that warms up");
}

/// FLINK-26968: an increment leaves an update out, because a version was not
/// advanced.
#[test]
fn bug_23_full_restore_equals_incremental_restore() {
    let space = space(25);
    for max_tables in [1, 3, 100] {
        let env = machine();
        let builder = backend_on(&env, &space).max_tables_per_shard(max_tables);
        let mut job = Job::open(&space, builder, 1, None).unwrap();
        let mut increments = Vec::new();
        for id in 1..9 {
            job.change(&mut SimRng::new(id), 20);
            increments.push((job.snapshot(id), job.model.clone()));
            job.settle();
        }
        drop(job);
        for (handles, image) in increments {
            // The same state, written at once.
            let builder = backend_on(&env, &space).checkpoint_dir("/full");
            let mut full = Job::open(&space, builder, 1, None).unwrap();
            for (&key, value) in &image {
                full.put(key, value);
            }
            let written = full.snapshot(1);
            drop(full);
            let full = sealed_image(&space, &store_on(&env, "/full").unwrap(), &written).unwrap();
            let store = store_on(&env, CHECKPOINTS).unwrap();
            let increments = sealed_image(&space, &store, &handles).unwrap();
            assert_same_image(&space, &increments, &full, "increments");
            assert_restores(&env, &space, &handles, &full, 1);
        }
    }
}

/// RocksDB 7.1.0, 6.11, 5.10.0: deletions are dropped by a compaction that does
/// not reach the bottom, and what was deleted comes back.
#[test]
fn bug_24_a_deletion_outlives_merges_above_what_it_deletes() {
    let space = Arc::new(Keyspace::plain(&["counts"], 200));
    let env = machine();
    let builder = backend_on(&env, &space).max_tables_per_shard(3);
    let mut job = Job::open(&space, builder, 1, None).unwrap();
    for key in 0..200 {
        let mut value = vec![0; 100];
        SimRng::new(key as u64).fill(&mut value);
        job.put(key, &value);
    }
    job.snapshot(1);
    for (id, key) in [(2, 7), (3, 8), (4, 9)] {
        job.delete(key);
        job.snapshot(id);
        job.settle();
    }
    job.put(10, b"changed");
    let handles = job.snapshot(5);
    let store = store_on(&env, CHECKPOINTS).unwrap();
    let manifest = manifest_of(&store, &handles[0]).unwrap();
    assert!(manifest.tables.len() < 5, "some tables were merged");
    let merged = table_records(&space, &store, &manifest, 1).unwrap();
    let deleted: Vec<_> = merged.iter().filter(|(_, value)| value.is_none()).collect();
    assert!(deleted.len() > 1, "the merged table still says what was deleted: {merged:?}");
    let image = job.model.clone();
    drop(job);
    assert_restores(&env, &space, &handles, &image, 2);

    // Once a merge reaches the bottom, they are gone for good.
    let builder = backend_on(&env, &space).max_tables_per_shard(1);
    let mut job = Job::open(&space, builder, 1, Some((&handles, &image))).unwrap();
    job.put(11, b"changed");
    job.snapshot(6);
    job.settle();
    let handles = job.snapshot(7);
    let manifest = manifest_of(&store, &handles[0]).unwrap();
    assert_eq!(manifest.tables.len(), 1);
    assert_eq!(manifest.tables[0].meta.tombstones, 0);
    let image = job.model.clone();
    drop(job);
    assert_restores(&env, &space, &handles, &image, 2);
}
