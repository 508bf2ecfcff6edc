//! Claims about the index: the right blocks are found, with few looks, however
//! hashes are spread; rows that contradict each other are refused.

use super::*;
use crate::base::ErrorKind;
use crate::base::hash::hash_key;

const DATA_AT: u64 = 40;
const FRAME: u64 = 100;

/// State, group and hash of the first record of a block.
type Place = (u16, u16, u64);

/// An index and what is needed to read it.
#[derive(Clone)]
struct Rows {
    entries: Vec<BlockEntry>,
    starts: Vec<u32>,
    groups: KeyGroupRange,
    data: Range<u64>,
}

impl Rows {
    /// Of (state, first group, hash, last group) of each block.
    fn new(rows: &[(u16, u16, u64, u16)], groups: KeyGroupRange) -> Self {
        let states = rows.last().map_or(0, |row| row.0 + 1);
        let before = |state| rows.partition_point(|row| row.0 < state) as u32;
        let entries: Vec<_> = (DATA_AT..)
            .step_by(FRAME as usize)
            .zip(rows)
            .map(|(offset, &(state, first, hash, last))| BlockEntry {
                state,
                first_group: KeyGroup(first),
                last_group: KeyGroup(last),
                records: 3,
                hash_prefix: hash_prefix(hash),
                offset,
                end: offset + FRAME,
            })
            .collect();
        let data = DATA_AT..entries.last().map_or(DATA_AT, |entry| entry.end);
        Self { entries, starts: (0..=states).map(before).collect(), groups, data }
    }

    fn payload(&self) -> Vec<u8> {
        let mut builder = IndexBuilder::new();
        self.entries.iter().for_each(|&entry| builder.push(entry));
        builder.payload().to_vec()
    }

    fn over<'a>(&'a self, payload: &'a [u8]) -> Index<'a> {
        Index::new(payload, &self.starts, self.data.clone(), self.groups)
    }

    fn check(&self) -> Result<()> {
        self.over(&self.payload()).check(|_, _| Ok(()))
    }
}

fn groups(first: u16, last: u16) -> KeyGroupRange {
    KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap()
}

/// A hash with this upper half.
fn hash(prefix: u32) -> u64 {
    u64::from(prefix) << 32 | 0x1234
}

#[test]
fn a_hash_is_looked_for_in_every_block_that_can_hold_it() {
    let rows = Rows::new(
        &[
            (0, 1, hash(100), 2),
            (0, 2, hash(50), 2),
            (0, 2, hash(50), 2),
            (0, 2, hash(50), 3),
            (0, 4, hash(10), 4),
            (2, 4, hash(10), 6),
        ],
        groups(0, 6),
    );
    let payload = rows.payload();
    let index = rows.over(&payload);
    let find =
        |state, group, prefix| index.blocks_of_hash(state, KeyGroup(group), hash(prefix)).unwrap();
    assert_eq!(find(0, 1, 99), 0..0, "before everything");
    assert_eq!(find(0, 1, 100), 0..1);
    assert_eq!(find(0, 2, 49), 0..1);
    assert_eq!(find(0, 2, 50), 0..4, "equal hashes across three borders");
    assert_eq!(find(0, 2, 51), 3..4);
    assert_eq!(find(0, 3, 0), 3..4);
    assert_eq!(find(0, 4, 9), 4..4, "the block before ends in group 3");
    assert_eq!(find(0, 4, 10), 4..5);
    assert_eq!(find(0, 5, 0), 5..5);
    assert!(find(1, 4, 10).is_empty(), "a state without blocks");
    assert_eq!(find(2, 4, 9), 5..5);
    assert_eq!(find(2, 6, 0), 5..6);
    assert!(find(2, 7, 0).is_empty());
    assert!(find(3, 0, 0).is_empty());
}

#[test]
fn half_a_hash_that_is_equal_leaves_both_blocks_to_be_looked_at() {
    let rows = Rows::new(&[(0, 0, 7 << 32, 0), (0, 0, (7 << 32) + 5, 0)], groups(0, 0));
    let payload = rows.payload();
    for low in [0, 4, 5, 6, u32::MAX] {
        let hash = 7 << 32 | u64::from(low);
        let found = rows.over(&payload).blocks_of_hash(0, KeyGroup(0), hash).unwrap();
        assert_eq!(found, 0..2, "{low}");
    }
}

#[test]
fn a_range_of_groups_is_a_run_of_blocks() {
    let rows = Rows::new(
        &[(0, 1, hash(9), 2), (0, 2, hash(50), 3), (0, 5, hash(10), 5), (1, 0, hash(10), 6)],
        groups(0, 9),
    );
    let payload = rows.payload();
    let index = rows.over(&payload);
    let find = |state, first, last| index.blocks_of_groups(state, groups(first, last)).unwrap();
    assert_eq!(find(0, 0, 9), 0..3);
    assert_eq!(find(0, 2, 2), 0..2);
    assert_eq!(find(0, 3, 4), 1..2);
    assert!(find(0, 4, 4).is_empty());
    assert_eq!(find(1, 3, 3), 3..4);
    assert!(find(1, 7, 9).is_empty());
    assert!(find(2, 0, 9).is_empty());
}

/// The plain way: every block that begins at a place, and the one before the
/// first of those if it reaches the group.
fn by_hand(rows: &Rows, state: u16, group: KeyGroup, hash: u64) -> Range<usize> {
    let wanted = (state, group, hash_prefix(hash));
    let at = |entry: &BlockEntry| (entry.state, entry.first_group, entry.hash_prefix);
    let first = rows.entries.iter().filter(|entry| at(entry) < wanted).count();
    let equal = rows.entries.iter().filter(|entry| at(entry) == wanted).count();
    let before = first.checked_sub(1).map(|before| &rows.entries[before]);
    let reaches = before.is_some_and(|entry| entry.state == state && entry.last_group >= group);
    first - usize::from(reaches)..first + equal
}

/// Blocks of these places, each ending where the next begins.
fn blocks_at(mut places: Vec<Place>, groups: KeyGroupRange) -> Rows {
    places.sort_unstable();
    let rows: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(i, &(state, group, hash))| {
            let next = places.get(i + 1).filter(|next| next.0 == state);
            (state, group, hash, next.map_or(group, |next| next.1.min(group + 1)))
        })
        .collect();
    Rows::new(&rows, groups)
}

#[test]
fn every_place_is_found_in_few_looks_however_hashes_are_spread() {
    let random = |i: u64| hash_key(&i.to_le_bytes());
    let even = |blocks| (0..blocks).map(|i| (0, (random(i) % 128) as u16, random(i + (1 << 40))));
    let spreads: [(&str, Vec<Place>); 7] = [
        ("even", even(20_000).collect()),
        ("a few", even(33).collect()),
        ("three states", (0..9000).map(|i| ((i % 3) as u16, 5, random(i))).collect()),
        ("one group of many", (0..9000).map(|i| (0, 77, random(i))).collect()),
        ("all equal", (0..9000).map(|_| (0, 3, hash(1 << 31))).collect()),
        ("crowded at one end", (0..9000).map(|i| (0, 0, (random(i) >> 24) << 8)).collect()),
        ("ever denser", (0..48).flat_map(|i| (0..200).map(move |j| (0, 0, j << i))).collect()),
    ];
    for (name, places) in spreads {
        let rows = blocks_at(places, groups(0, 127));
        rows.check().unwrap_or_else(|why| panic!("{name}: {why}"));
        let payload = rows.payload();
        let index = rows.over(&payload);
        let (mut looks, mut most, mut asked) = (0, 0, 0);
        for i in 0..4000u64 {
            let entry = &rows.entries[(random(i) % rows.entries.len() as u64) as usize];
            let (group, hash) = match i % 4 {
                0 => (KeyGroup((random(i + 7) % 130) as u16), random(i + 9)),
                n => {
                    let prefix = entry.hash_prefix.wrapping_add(n as u32).wrapping_sub(2);
                    (entry.first_group, hash(prefix))
                }
            };
            let mut seen = 0;
            let look = |_| {
                seen += 1;
                Ok(())
            };
            let found = index.search(entry.state, group, hash, None, look).unwrap();
            assert_eq!(found, by_hand(&rows, entry.state, group, hash), "{name}, question {i}");
            // Between any two rows that lie around it, it is the same.
            let wanted = place_of(group, hash);
            let of_state = index.blocks_of_state(entry.state);
            let first = of_state.start
                + of_state.clone().filter(|&row| index.place_at(row).unwrap() < wanted).count();
            let low = first - (random(i + 11) as usize % 40).min(first - of_state.start);
            let high = first + (random(i + 13) as usize % 40).min(of_state.end - first);
            let behind = index.place_at(high).filter(|_| high < of_state.end);
            let within = Within { rows: low..high, place_behind: behind };
            if i % 16 == 0 {
                let near = index.search(entry.state, group, hash, Some(within), |_| Ok(()));
                assert_eq!(near.unwrap(), found, "{name}, question {i}, {low} to {high}");
            }
            let equal = (found.len() as u32 + 1).ilog2() * 2 + 2;
            let least = rows.entries.len().ilog2() + 1;
            assert!(seen <= least + 4 + equal, "{name}: {seen} looks");
            (looks, most, asked) = (looks + seen, most.max(seen), asked + 1);
        }
        println!("{name}: {} looks, at most {most}", f64::from(looks) / f64::from(asked));
        if name == "even" {
            assert!(looks <= 10 * asked, "{looks} looks for {asked} hashes");
        }
    }
}

#[test]
fn rows_that_overlap_leave_gaps_or_go_back_are_corrupt() {
    let good = Rows::new(
        &[(0, 1, hash(9), 2), (0, 2, hash(50), 3), (0, 3, hash(4), 3), (1, 0, hash(10), 6)],
        groups(0, 6),
    );
    good.check().unwrap();
    let payload = good.payload();
    let read: Vec<_> = good.over(&payload).iter().map(Result::unwrap).collect();
    assert_eq!(read, good.entries);
    let damages: [fn(&mut Rows); 15] = [
        |rows| rows.entries[0].offset += 1,
        |rows| rows.entries[1].offset = rows.entries[0].offset + 19,
        |rows| rows.entries[3].offset = MAX_TABLE_BYTES - 1,
        |rows| rows.entries[3].offset = rows.data.end - 19,
        |rows| rows.entries[1].first_group = KeyGroup(1),
        |rows| rows.entries[1].last_group = KeyGroup(1),
        |rows| rows.entries[2].hash_prefix = 51,
        |rows| rows.entries.swap(1, 2),
        |rows| {
            (rows.entries[3].first_group, rows.entries[3].last_group) = (KeyGroup(7), KeyGroup(7))
        },
        |rows| rows.entries[3].last_group = KeyGroup(7),
        |rows| rows.groups = groups(1, 6),
        |rows| rows.entries[0].records = 0,
        |rows| rows.starts = vec![0, 4],
        |rows| rows.entries.truncate(3),
        |rows| rows.data.start += 1,
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let mut bad = good.clone();
        damage(&mut bad);
        if number == 6 {
            bad.entries[1].last_group = KeyGroup(2);
            bad.entries[2].first_group = KeyGroup(2);
            bad.entries[2].hash_prefix = 49;
        }
        let error = bad.check().expect_err(&format!("damage {number}"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "damage {number}");
    }
    for len in [0, 16, 63, 65, 80] {
        let mut torn = payload.clone();
        torn.resize(len, 0);
        let error = good.over(&torn).check(|_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes");
    }
    let mut none = Rows::new(&[], groups(0, 6));
    none.check().unwrap();
    none.data.end += 1;
    assert!(none.check().is_err(), "data without blocks");
}

#[test]
fn rows_that_vanish_after_the_check_are_an_error_and_not_an_absence() {
    let places = (0..500u64).map(|i| (0, (i % 8) as u16, hash_key(&i.to_le_bytes()))).collect();
    let rows = blocks_at(places, groups(0, 7));
    let payload = rows.payload();
    for (i, entry) in rows.entries.iter().enumerate() {
        let torn = rows.over(&payload[..i * ROW_BYTES]);
        let hash = u64::from(entry.hash_prefix) << 32;
        let all = |found: Result<Range<usize>>| {
            found.and_then(|found| found.map(|block| torn.block(block)).collect::<Result<Vec<_>>>())
        };
        let error = all(torn.blocks_of_hash(0, entry.first_group, hash));
        assert_eq!(error.expect_err("the row is gone").kind(), ErrorKind::Corrupt);
        let error = all(torn.blocks_of_groups(0, groups(entry.first_group.0, entry.first_group.0)));
        assert_eq!(error.expect_err("the row is gone").kind(), ErrorKind::Corrupt, "block {i}");
    }
    let whole = rows.over(&payload);
    assert_eq!(whole.block(500).unwrap_err().kind(), ErrorKind::Invalid);
}
