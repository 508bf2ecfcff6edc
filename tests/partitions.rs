//! A shard of several partitions, from outside: what its snapshots upload, and which
//! local files are left.
//!
//! What could break: a checkpoint that carries a merge of the whole state, which is
//! seen in the report's new bytes; a local file that is kept although no slice of it
//! is needed, or removed although one is, which is seen in the directory, and by
//! restoring every snapshot that was taken.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use alluvium::SnapshotHandle;
use alluvium::env::Env;
use alluvium::env::sim::{SimEnv, SimRng};

use crate::common::{
    CHECKPOINTS, DIR, Image, Job, Keyspace, assert_same_image, backend_on, handles, manifest_of,
    sealed_image, store_on,
};

const KEYS: u64 = 2_000;
const VALUE_BYTES: usize = 100;
const PARTITION_BYTES: u64 = 16_000;

#[test]
fn merges_of_a_state_of_many_partitions_are_spread_over_its_snapshots() {
    let mut space = Keyspace::new(128, ["counts"]);
    for key in 0..KEYS {
        space.add(0, &key.to_be_bytes(), b"", false);
    }
    let space = Arc::new(space);
    let env = SimEnv::new(5);
    let store = store_on(&env, CHECKPOINTS).unwrap();
    let builder = backend_on(&env, &space).partition_bytes(PARTITION_BYTES);
    let mut job = Job::open(&space, builder, 1, None).unwrap();
    let mut rng = SimRng::new(5);
    let mut value = vec![0; VALUE_BYTES];
    for key in 0..KEYS as usize {
        rng.fill(&mut value);
        job.put(key, &value);
    }
    let mut taken: Vec<(Vec<SnapshotHandle>, Image)> = Vec::new();
    let (mut new_bytes, mut most_new, mut most_tables, mut cut) = (0, 0, 0, 0);
    for id in 1..=120 {
        for _ in 0..KEYS / 20 {
            rng.fill(&mut value);
            job.put(rng.below(KEYS) as usize, &value);
        }
        let reports = job.try_snapshot(id).unwrap();
        job.complete(id);
        job.settle();
        let handles = handles(&reports);
        let manifest = manifest_of(&store, &handles[0]).unwrap();
        let of_group =
            |group| manifest.tables.iter().filter(|table| table.slice.contains(group)).count();
        most_tables = most_tables.max(manifest.groups.iter().map(of_group).max().unwrap());
        cut += manifest.tables.iter().filter(|table| table.slice != table.meta.groups).count();
        if id > 20 {
            new_bytes += reports[0].bytes_new;
            most_new = most_new.max(reports[0].bytes_new);
        }
        taken.push((handles, job.model.clone()));
    }
    // A record with its share of a filter, an index and the manifest.
    let delta_bytes = KEYS / 20 * (VALUE_BYTES as u64 + 8 + 12) + 6_000;
    println!("{new_bytes} in all, {most_new} at most, {most_tables} tables, delta {delta_bytes}");
    assert!(cut > 0, "some tables were merged in part");
    assert!(most_tables <= 15, "{most_tables} tables of one group");
    // The state is twenty deltas: a merge of all of it would be more than this.
    assert!(most_new <= 8 * delta_bytes, "{most_new} bytes at once");
    assert!(new_bytes <= 100 * delta_bytes * 3, "{new_bytes} bytes in all");

    // Merges come to their end, and what they replaced is forgotten.
    for id in 121..140 {
        job.snapshot(id);
        job.complete(id);
        job.settle();
    }
    let last = job.snapshot(140);
    let tables = manifest_of(&store, &last[0]).unwrap().tables;
    let named: BTreeSet<_> = tables.iter().map(|t| format!("{}.table", t.meta.file)).collect();
    let local = env.fs().list(&Path::new(DIR).join("local")).unwrap();
    assert_eq!(local.into_iter().collect::<BTreeSet<_>>(), named, "local files");
    for (handles, image) in taken.iter().step_by(7) {
        let sealed = sealed_image(&space, &store, handles).unwrap();
        assert_same_image(&space, &sealed, image, "a snapshot of many partitions");
    }
}
