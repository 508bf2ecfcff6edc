//! Data blocks: the drawing is what is written, every width of column works,
//! and bytes that do not add up are refused.

use alluvium::base::{ErrorKind, KeyGroup, KeyGroupRange};
use alluvium::format::block::{BlockBuilder, BlockRecord, DataBlock, MAX_BLOCK_RECORDS, Slot};

type Record = (u16, u8, Vec<u8>, Vec<u8>, Option<Vec<u8>>);

fn block_of(records: &[Record]) -> Vec<u8> {
    let mut builder = BlockBuilder::new();
    for (group, tag, key, namespace, value) in records {
        builder.push(KeyGroup(*group), *tag, key, namespace, value.as_deref());
    }
    let mut out = Vec::new();
    builder.finish(&mut out);
    assert!(builder.is_empty(), "ready for the next block");
    out
}

fn check(records: &[Record]) {
    let bytes = block_of(records);
    let block = DataBlock::parse(&bytes).unwrap();
    assert_eq!(block.records(), records.len());
    let mut cursor = block.cursor(None);
    for (index, (group, tag, key, namespace, value)) in records.iter().enumerate() {
        let (group, tag) = (KeyGroup(*group), *tag);
        let expected = BlockRecord { group, tag, key, namespace, value: value.as_deref() };
        assert_eq!(block.record(index).unwrap(), expected);
        assert_eq!(cursor.next(&block).unwrap(), Some(expected));
        let slot = value.as_deref().map_or(Slot::Deleted, Slot::Value);
        assert_eq!(block.find(group, tag, key, namespace).unwrap(), slot);
        assert_eq!(block.find(group, tag ^ 1, key, namespace).unwrap(), Slot::Absent);
        assert_eq!(block.find(group, tag, key, b"another").unwrap(), Slot::Absent);
    }
    assert_eq!(cursor.next(&block).unwrap(), None);
}

#[test]
fn records_before_what_is_wanted_are_skipped() {
    let records: Vec<Record> = (0..100u8)
        .map(|i| (u16::from(i / 30), i, vec![i; usize::from(i % 5)], vec![], Some(vec![i])))
        .collect();
    let bytes = block_of(&records);
    let block = DataBlock::parse(&bytes).unwrap();
    let groups = KeyGroupRange::new(KeyGroup(1), KeyGroup(2)).unwrap();
    for wanted in 0..=100u8 {
        let mut cursor =
            block.skip(block.cursor(Some(groups)), |record| Ok(record.tag < wanted)).unwrap();
        for expected in wanted.max(30)..90 {
            let record = cursor.next(&block).unwrap().unwrap();
            assert_eq!((record.tag, record.value), (expected, Some(&[expected][..])));
            assert_eq!(record.group, KeyGroup(u16::from(expected / 30)));
        }
        assert_eq!(cursor.next(&block).unwrap(), None, "from {wanted}");
    }
    assert_eq!(block.record(100).unwrap_err().kind(), ErrorKind::Internal);
}

fn sample() -> Vec<Record> {
    vec![
        (3, 0xa1, b"k1".into(), b"".into(), Some(b"one".into())),
        (3, 0xa2, b"k2".into(), b"".into(), None),
        (9, 0xa3, b"k3".into(), b"".into(), Some(b"three".into())),
    ]
}

#[test]
fn a_block_is_as_it_is_drawn() {
    let expected: &[&[u8]] = &[
        &[3, 0, 2, 0, 1, 0, 0, 1],             // count, runs, flags, widths
        &[2, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0], // sizes: 2 each, 0 each, 8 in all
        &[3, 0, 2, 0, 9, 0, 3, 0],             // runs: group 3 to 2, group 9 to 3
        &[0b010],                              // tombstones
        &[0xa1, 0xa2, 0xa3],                   // tags
        &[3, 5],                               // lens of the two values
        b"k1k2k3",
        b"onethree",
    ];
    assert_eq!(block_of(&sample()), expected.concat());
    check(&sample());
}

#[test]
fn columns_of_every_width_come_back() {
    // The tag makes each record's place known; lengths jump about.
    for longest in [0usize, 1, 255, 256, 65_535, 65_536, 70_000] {
        for tombstones in [1, 2, 3, 1000] {
            let records: Vec<Record> = (0..40u8)
                .map(|i| {
                    let len = if i % 7 == 3 { longest } else { usize::from(i) % (longest + 1) };
                    let value =
                        (usize::from(i) % tombstones != 1 % tombstones).then(|| vec![i; len]);
                    let key = vec![i; len.min(300)];
                    (u16::from(i / 9), i, key, vec![i; usize::from(i % 3)], value)
                })
                .collect();
            check(&records);
        }
    }
}

#[test]
fn a_cursor_of_groups_starts_and_ends_at_their_records() {
    let records: Vec<Record> = (0..60u8)
        .map(|i| {
            let value = (i % 4 != 0).then(|| vec![i; usize::from(i)]);
            (u16::from(i / 6) * 2 + 1, i, vec![i; usize::from(i % 5)], vec![i], value)
        })
        .collect();
    let bytes = block_of(&records);
    let block = DataBlock::parse(&bytes).unwrap();
    for first in 0..24 {
        for last in first..24 {
            let groups = KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap();
            let mut cursor = block.cursor(Some(groups));
            for (group, tag, key, _, value) in &records {
                if groups.contains(KeyGroup(*group)) {
                    let record = cursor.next(&block).unwrap().unwrap();
                    assert_eq!((record.group.0, record.tag), (*group, *tag));
                    assert_eq!((record.key, record.value), (&key[..], value.as_deref()));
                }
            }
            assert!(cursor.is_done());
            assert_eq!(cursor.next(&block).unwrap(), None, "{groups}");
        }
    }
}

#[test]
fn the_largest_number_of_records_fits() {
    let records: Vec<Record> = (0..MAX_BLOCK_RECORDS)
        .map(|i| (0, i as u8, (i as u16).to_le_bytes().into(), vec![], Some(vec![])))
        .collect();
    let bytes = block_of(&records);
    let block = DataBlock::parse(&bytes).unwrap();
    assert_eq!(block.records(), MAX_BLOCK_RECORDS);
    let key = 65_000u16.to_le_bytes();
    assert_eq!(block.find(KeyGroup(0), key[0], &key, b"").unwrap(), Slot::Value(b""));
}

#[test]
fn a_block_of_any_other_length_is_corrupt() {
    let bytes = block_of(&sample());
    for len in 0..bytes.len() {
        assert_eq!(DataBlock::parse(&bytes[..len]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(DataBlock::parse(&longer).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_block_that_does_not_add_up_is_corrupt() {
    let good = block_of(&sample());
    for (what, at, value) in [
        ("no records", 0, 0),
        ("more records than tags", 0, 4),
        ("no runs", 2, 0),
        ("an unknown flag", 4, 3),
        ("tombstones without the flag", 4, 0),
        ("an unknown width", 7, 3),
        ("keys longer than the block", 8, 3),
        ("values shorter than their lens", 16, 7),
        ("groups that do not ascend", 24, 3),
        ("a run that ends before it begins", 26, 2),
        ("a run that ends behind the records", 26, 4),
        ("the flag without tombstones", 28, 0),
        ("a tombstone behind the records", 28, 0b1010),
        ("a len too long", 32, 4),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(DataBlock::parse(&bad).unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
    }
}

#[test]
fn a_layout_belongs_to_bytes_of_its_length() {
    let bytes = block_of(&sample());
    let layout = DataBlock::parse(&bytes).unwrap().layout();
    assert!(DataBlock::from_layout(&bytes, layout).is_ok());
    let error = DataBlock::from_layout(&bytes[1..], layout).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
}

#[test]
fn bytes_that_change_after_the_check_give_an_error_and_no_panic() {
    let records: Vec<Record> = (0..20u8)
        .map(|i| {
            (
                u16::from(i / 5),
                i,
                vec![i; usize::from(i % 4)],
                vec![],
                Some(vec![i; usize::from(i)]),
            )
        })
        .collect();
    let good = block_of(&records);
    let layout = DataBlock::parse(&good).unwrap().layout();
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] = 0xff;
        let block = DataBlock::from_layout(&changed, layout).unwrap();
        let mut cursor = block.cursor(None);
        while let Ok(Some(_)) = cursor.next(&block) {}
        for (group, tag, key, namespace, _) in &records {
            let _ = block.find(KeyGroup(*group), *tag, key, namespace);
        }
        let groups = KeyGroupRange::new(KeyGroup(1), KeyGroup(2)).unwrap();
        let mut cursor = block.cursor(Some(groups));
        while let Ok(Some(_)) = cursor.next(&block) {}
    }
}
