//! A data block that parses can be read whole and by lookup without an error,
//! and every record that a cursor lends is found.

#![no_main]

use alluvium::base::{KeyGroup, KeyGroupRange};
use alluvium::format::block::{DataBlock, Slot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(block) = DataBlock::parse(bytes) else { return };
    let mut cursor = block.cursor(None);
    let (mut records, mut tombstones) = (0, 0);
    while let Some(record) = cursor.next(&block).expect("a parsed block reads") {
        records += 1;
        tombstones += usize::from(record.value.is_none());
        // Lookups of every record would be quadratic in a hostile block.
        if records <= 64 {
            let found = block
                .find(record.group, record.tag, record.key, record.namespace)
                .expect("a parsed block can be searched");
            assert_ne!(found, Slot::Absent);
        }
    }
    assert_eq!((records, tombstones), (block.records(), block.tombstones()));

    let (first, last) = (block.first_group(), block.last_group());
    for (from, to) in [(first, first), (last, last), (KeyGroup(0), first)] {
        let Ok(groups) = KeyGroupRange::new(from, to) else { continue };
        let mut cursor = block.cursor(Some(groups));
        let mut of_groups = 0;
        while let Some(record) = cursor.next(&block).expect("a parsed block reads") {
            assert!(groups.contains(record.group));
            of_groups += 1;
        }
        assert!(of_groups <= records);
    }
    let layout = block.layout();
    assert!(DataBlock::from_layout(bytes, layout).is_ok());
});
