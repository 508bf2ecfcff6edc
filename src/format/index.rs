//! The index of a table: one row for each data block.
//!
//! ```text
//! index:  | row | row | ...
//! row:    | state u16 | first group u16 | last group u16 | records u16 |
//!         0           2                 4                6
//!         | stored_len u32 | raw_len u32 | first hash u64 | offset u64 |
//!         8                12            16               24           32
//! ```
//!
//! Rows ascend by (state, first group, first hash), and blocks follow each
//! other without gaps. So any range of key groups of a state is one contiguous
//! run of bytes: the index is the directory of slices by which shards are
//! split and merged without rewriting a file.

use std::ops::Range;

use super::frame::{FRAME_HEADER_BYTES, FrameLens};
use crate::base::{KeyGroup, KeyGroupRange, Result};
use crate::codec::Reader;

/// Bytes of one row.
pub const ROW_BYTES: usize = 32;

/// What the index says about a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockEntry {
    /// Ordinal of the state whose records it holds.
    pub state: u16,
    /// Group of its first record.
    pub first_group: KeyGroup,
    /// Group of its last record.
    pub last_group: KeyGroup,
    /// Number of records.
    pub records: u16,
    /// Lengths of its payload.
    pub lens: FrameLens,
    /// Hash of its first record.
    pub first_hash: u64,
    /// Where its frame starts in the file.
    pub offset: u64,
}

impl BlockEntry {
    fn place(&self) -> (u16, KeyGroup, u64) {
        (self.state, self.first_group, self.first_hash)
    }

    /// Where the byte behind its frame is; saturates instead of overflowing.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.lens.frame_bytes())
    }
}

/// All blocks of a table, in order.
#[derive(Clone, Debug, Default)]
pub struct Index {
    entries: Vec<BlockEntry>,
}

impl Index {
    /// An index without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next block.
    pub fn push(&mut self, entry: BlockEntry) {
        self.entries.push(entry);
    }

    /// The rows, in order.
    pub fn entries(&self) -> &[BlockEntry] {
        &self.entries
    }

    /// The payload of the index.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * ROW_BYTES);
        for entry in &self.entries {
            out.extend_from_slice(&entry.state.to_le_bytes());
            out.extend_from_slice(&entry.first_group.0.to_le_bytes());
            out.extend_from_slice(&entry.last_group.0.to_le_bytes());
            out.extend_from_slice(&entry.records.to_le_bytes());
            out.extend_from_slice(&entry.lens.stored_len.to_le_bytes());
            out.extend_from_slice(&entry.lens.raw_len.to_le_bytes());
            out.extend_from_slice(&entry.first_hash.to_le_bytes());
            out.extend_from_slice(&entry.offset.to_le_bytes());
        }
        out
    }

    /// Reads an index whose blocks must fill `data`, the bytes of the file
    /// that hold blocks, and lie within `groups`.
    ///
    /// # Errors
    /// `Corrupt` if they do not, or if rows are out of order.
    pub fn decode(payload: &[u8], data: Range<u64>, groups: KeyGroupRange) -> Result<Self> {
        let mut reader = Reader::new("index", payload);
        // Bounded by the bytes that are there, and as large in memory.
        let mut entries: Vec<BlockEntry> = Vec::with_capacity(payload.len() / ROW_BYTES);
        let mut offset = data.start;
        while reader.remaining() > 0 {
            let entry = decode_row(&mut reader)?;
            if entry.offset != offset || entry.end() > data.end {
                return Err(reader.corrupt(
                    "block offset",
                    format_args!("a block at {offset}, before {}", data.end),
                    format_args!("{} to {}", entry.offset, entry.end()),
                ));
            }
            let ordered = entries.last().is_none_or(|before| {
                before.place() <= entry.place()
                    && (before.state < entry.state || before.last_group <= entry.first_group)
            });
            if !ordered {
                return Err(reader.corrupt(
                    "row order",
                    "ascending rows",
                    format_args!("{entry:?}"),
                ));
            }
            if entry.first_group > entry.last_group
                || !groups.contains(entry.first_group)
                || !groups.contains(entry.last_group)
            {
                return Err(reader.corrupt(
                    "block groups",
                    format_args!("a range within {groups}"),
                    format_args!("{} to {}", entry.first_group, entry.last_group),
                ));
            }
            if entry.records == 0 {
                return Err(reader.corrupt("record count", "at least 1", 0));
            }
            offset = entry.end();
            entries.push(entry);
        }
        if offset != data.end {
            return Err(reader.corrupt(
                "end of the blocks",
                format_args!("offset {}", data.end),
                offset,
            ));
        }
        Ok(Self { entries })
    }

    /// The blocks that can hold a record with this hash: usually one; more only
    /// where equal hashes lie across a border.
    pub fn blocks_of_hash(&self, state: u16, group: KeyGroup, hash: u64) -> Range<usize> {
        let place = (state, group, hash);
        // Records at `place` may begin in the block before the first that
        // starts at or behind it, and go on through all that start at it.
        let at = self.entries.partition_point(|entry| entry.place() < place);
        let mut end = at;
        while self.entries.get(end).is_some_and(|entry| entry.place() == place) {
            end += 1;
        }
        let reaches = |entry: &BlockEntry| entry.state == state && entry.last_group >= group;
        let before = at.checked_sub(1).filter(|&before| reaches(&self.entries[before]));
        before.unwrap_or(at)..end
    }

    /// The contiguous run of blocks that hold records of these groups.
    pub fn blocks_of_groups(&self, state: u16, groups: KeyGroupRange) -> Range<usize> {
        let start = self
            .entries
            .partition_point(|entry| (entry.state, entry.last_group) < (state, groups.first()));
        let end = self
            .entries
            .partition_point(|entry| (entry.state, entry.first_group) <= (state, groups.last()));
        start..end.max(start)
    }
}

fn decode_row(reader: &mut Reader<'_>) -> Result<BlockEntry> {
    Ok(BlockEntry {
        state: reader.u16("state")?,
        first_group: KeyGroup(reader.u16("first group")?),
        last_group: KeyGroup(reader.u16("last group")?),
        records: reader.u16("record count")?,
        lens: FrameLens {
            stored_len: reader.u32("stored length")?,
            raw_len: reader.u32("raw length")?,
        },
        first_hash: reader.u64("first hash")?,
        offset: reader.u64("offset")?,
    })
}

const _: () = assert!(FRAME_HEADER_BYTES > 0, "blocks of a damaged index still advance");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    /// (state, first group, first hash, last group) of each block.
    fn index(rows: &[(u16, u16, u64, u16)]) -> Index {
        let mut index = Index::new();
        let mut offset = 40;
        for &(state, first, hash, last) in rows {
            let entry = BlockEntry {
                state,
                first_group: KeyGroup(first),
                last_group: KeyGroup(last),
                records: 3,
                lens: FrameLens { raw_len: 100, stored_len: 80 },
                first_hash: hash,
                offset,
            };
            offset = entry.end();
            index.push(entry);
        }
        index
    }

    fn groups(first: u16, last: u16) -> KeyGroupRange {
        KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap()
    }

    #[test]
    fn a_hash_is_looked_for_in_every_block_that_can_hold_it() {
        let index = index(&[
            (0, 1, 100, 2),
            (0, 2, 50, 2),
            (0, 2, 50, 2),
            (0, 2, 50, 3),
            (0, 4, 10, 4),
            (2, 4, 10, 6),
        ]);
        let find = |state, group, hash| index.blocks_of_hash(state, KeyGroup(group), hash);
        assert_eq!(find(0, 1, 99), 0..0, "before everything");
        assert_eq!(find(0, 1, 100), 0..1);
        assert_eq!(find(0, 2, 49), 0..1);
        assert_eq!(find(0, 2, 50), 0..4, "equal hashes across three borders");
        assert_eq!(find(0, 2, 51), 3..4);
        assert_eq!(find(0, 3, 0), 3..4);
        assert_eq!(find(0, 4, 9), 4..4, "the block before ends in group 3");
        assert_eq!(find(0, 4, 10), 4..5);
        assert_eq!(find(0, 5, 0), 5..5);
        assert_eq!(find(1, 4, 10), 5..5, "a state without blocks");
        assert_eq!(find(2, 4, 9), 5..5);
        assert_eq!(find(2, 6, 0), 5..6);
        assert_eq!(find(2, 7, 0), 6..6);
        assert_eq!(find(3, 0, 0), 6..6);
    }

    #[test]
    fn a_range_of_groups_is_a_run_of_blocks() {
        let index = index(&[(0, 1, 9, 2), (0, 2, 50, 3), (0, 5, 10, 5), (1, 0, 10, 6)]);
        let find = |state, first, last| index.blocks_of_groups(state, groups(first, last));
        assert_eq!(find(0, 0, 9), 0..3);
        assert_eq!(find(0, 2, 2), 0..2);
        assert_eq!(find(0, 3, 4), 1..2);
        assert!(find(0, 4, 4).is_empty());
        assert_eq!(find(1, 3, 3), 3..4);
        assert!(find(1, 7, 9).is_empty());
        assert!(find(2, 0, 9).is_empty());
    }

    #[test]
    fn rows_that_overlap_leave_gaps_or_go_back_are_corrupt() {
        let good = index(&[(0, 1, 9, 2), (0, 2, 50, 3), (1, 0, 10, 6)]);
        let data = 40..good.entries()[2].end();
        let decode = |index: &Index| Index::decode(&index.encode(), data.clone(), groups(0, 6));
        assert_eq!(decode(&good).unwrap().entries(), good.entries());
        let damages: [fn(&mut Vec<BlockEntry>); 8] = [
            |rows| rows[1].offset += 1,
            |rows| rows[1].lens.stored_len -= 1,
            |rows| rows[2].lens.stored_len = u32::MAX,
            |rows| rows[1].first_group = KeyGroup(1),
            |rows| rows[2].last_group = KeyGroup(7),
            |rows| rows[0].records = 0,
            |rows| rows[2].state = 0,
            |rows| rows.truncate(2),
        ];
        for (number, damage) in damages.into_iter().enumerate() {
            let mut bad = good.clone();
            damage(&mut bad.entries);
            assert_eq!(decode(&bad).unwrap_err().kind(), ErrorKind::Corrupt, "damage {number}");
        }
        let torn = &good.encode()[..70];
        assert!(Index::decode(torn, data, groups(0, 6)).is_err());
    }
}
