//! What a merge of one state reads, and when.

use std::path::Path;
use std::sync::Arc;

use super::merge::{MergeScan, MergeSource};
use crate::base::{FileId, KeyGroup, KeyGroupRange, MaxParallelism};
use crate::env::{Env, SimEnv};
use crate::format::Placement;
use crate::table::{TableOptions, TableReader, TableWriter};

const GROUPS_EACH: u16 = 4;
const RECORDS_EACH: u64 = 1_000;

/// A table of values of 100 bytes in four groups from `first` on.
fn table(env: &SimEnv, number: u64, first: u16) -> Arc<TableReader> {
    let path = format!("/{number}");
    let out = env.fs().create_new(Path::new(&path)).unwrap();
    let file = FileId { incarnation: 1, number };
    let mut writer =
        TableWriter::new(out, file, MaxParallelism::DEFAULT, TableOptions::default()).unwrap();
    writer.begin_state("values").unwrap();
    for group in first..first + GROUPS_EACH {
        let mut placed: Vec<_> = (0..RECORDS_EACH / u64::from(GROUPS_EACH))
            .map(|key| (u64::from(group) << 32 | key).to_le_bytes())
            .map(|key| (Placement::Single.hash(&key, b"").unwrap(), key))
            .collect();
        placed.sort_unstable();
        for (hash, key) in placed {
            let value = [number as u8; 100];
            writer.add(KeyGroup(group), hash, &key, b"", Some(&value)).unwrap();
        }
    }
    writer.finish().unwrap();
    let bytes = env.fs().open(Path::new(&path)).unwrap();
    Arc::new(TableReader::open_any(bytes).unwrap())
}

/// A restored shard has hundreds of tables, each of some key groups: a buffer for every
/// one of them would be more than a small budget has in all.
#[test]
fn of_tables_side_by_side_only_those_at_hand_have_buffers() {
    let env = SimEnv::new(1);
    let first_of = |number: u64| number as u16 / 2 * GROUPS_EACH;
    // Two over each other, and so on beside; the newer ones not in the order of groups.
    let mut numbers: Vec<u64> = (0..32).filter(|number| number % 2 == 0).collect();
    numbers.extend((0..32).rev().filter(|number| number % 2 == 1));
    let sources = numbers.iter().map(|&number| {
        let first = first_of(number);
        let slice = KeyGroupRange::new(KeyGroup(first), KeyGroup(first + GROUPS_EACH - 1)).unwrap();
        let reader = table(&env, number, first);
        (MergeSource { reader, slice, dropped: Vec::new() }, 0)
    });
    let mut scan = MergeScan::of_state(sources.collect());
    assert_eq!(scan.memory_bytes(), 0);
    let (mut records, mut most, mut last) = (0, 0, None);
    while let Some(record) = scan.next().unwrap() {
        let place = (record.group, record.hash, record.key.to_vec());
        assert!(last.replace(place.clone()) < Some(place), "in order, and each once");
        let newer = u64::from(record.group.0 / GROUPS_EACH * 2 + 1);
        assert_eq!(record.value, Some(&[newer as u8; 100][..]));
        records += 1;
        most = most.max(scan.memory_bytes());
    }
    assert_eq!(records, 16 * RECORDS_EACH);
    // Those of four tables, where two end and two begin.
    assert!(most < 4 * (64 + 32) * 1024, "{most} bytes");
    assert!(scan.memory_bytes() < 32 * 1024, "{} bytes at the end", scan.memory_bytes());
}
