//! The index of a table: one row for each data block.
//!
//! ```text
//! index:  | row | row | ...
//! row:    | last group u16 | hash prefix u32 | first group u16 | records u16 | offset u48 |
//!         0                2                 6                 8             10           16
//! ```
//!
//! - Rows are searched where they lie, in the mapped file: they are of one
//!   width, and 256 of them fill a page. Read as a little-endian number, the
//!   first half of a row shifted by 16 is its *place*: first group, then the
//!   upper half of the hash of its first record.
//! - Rows ascend by (state, place). Which rows are of which state, the number of
//!   blocks in each state's properties says.
//! - Blocks follow each other without gaps: a frame ends where the next begins,
//!   and the last where the data ends. So any range of key groups of a state is
//!   one contiguous run of bytes: the index is the directory of slices by which
//!   shards are split and merged without rewriting a file.
//! - Half a hash is enough: blocks whose places are equal and whose hashes are
//!   not are one pair in a million, and cost whoever looks for one a look at the
//!   other.
//!
//! Promises: [`Index::check`] looks at every row once and keeps nothing. What is read of
//! a row is checked where it is used, so that even a mapped file that changes gives an
//! error and never "no such block". Who has not seen to it that all rows are sound is
//! [asked](Index::search) about each before it is looked at.

use std::ops::Range;

use super::frame::FRAME_HEADER_BYTES;
use crate::base::{Error, KeyGroup, KeyGroupRange, Result};
use crate::env::mmap::PageVec;

/// Bytes of one row.
pub const ROW_BYTES: usize = 16;

/// Bytes of the largest table: what an offset can say.
pub const MAX_TABLE_BYTES: u64 = 1 << 48;

/// Rows to either side of where an interpolation says that a hash should be, in
/// which it is looked for before everywhere else: a few lines of the cache.
const NEAR_ROWS: usize = 8;

/// Fewer rows than this are searched by halves from the beginning.
const FEW_ROWS: usize = 4 * NEAR_ROWS;

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
    /// Upper half of the hash of its first record.
    pub hash_prefix: u32,
    /// Where its frame starts in the file.
    pub offset: u64,
    /// Where the byte behind its frame is.
    pub end: u64,
}

impl BlockEntry {
    /// Bytes of its frame.
    pub const fn frame_bytes(&self) -> u64 {
        self.end - self.offset
    }
}

/// The part of a hash that stands in a row.
#[inline]
pub const fn hash_prefix(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// What rows of a state are ordered by: that of the blocks that begin with this hash.
#[inline]
pub const fn place_of(group: KeyGroup, hash: u64) -> u64 {
    place(group, hash_prefix(hash))
}

#[inline]
const fn place(group: KeyGroup, hash_prefix: u32) -> u64 {
    (group.0 as u64) << 32 | hash_prefix as u64
}

/// Rows of a state among which the first is that does not come before a place, by what is
/// known without a look at any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Within {
    /// All before these come before the place. If there is a row behind them, it does not.
    pub rows: Range<usize>,
    /// The place of the row behind them; of none, if they end where the state does.
    pub place_behind: Option<u64>,
}

/// The rows of a table that is being written.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    /// On pages of their own: those of a large table are many.
    rows: PageVec<u8>,
}

impl IndexBuilder {
    /// An index without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next block. Its state and its end are not written: they follow
    /// from the properties and from the next block.
    pub fn push(&mut self, entry: BlockEntry) {
        debug_assert!(entry.offset < MAX_TABLE_BYTES, "the writer ends a table before");
        let place = place(entry.first_group, entry.hash_prefix);
        let first = place << 16 | u64::from(entry.last_group.0);
        let second = entry.offset << 16 | u64::from(entry.records);
        self.rows.extend_from_slice(&first.to_le_bytes());
        self.rows.extend_from_slice(&second.to_le_bytes());
    }

    /// The payload of the index.
    pub fn payload(&self) -> &[u8] {
        &self.rows
    }
}

/// One row, as it stands there.
#[derive(Clone, Copy)]
struct Row(u64, u64);

impl Row {
    #[inline]
    const fn place(self) -> u64 {
        self.0 >> 16
    }

    #[inline]
    const fn first_group(self) -> KeyGroup {
        KeyGroup((self.0 >> 48) as u16)
    }

    #[inline]
    const fn last_group(self) -> KeyGroup {
        KeyGroup(self.0 as u16)
    }

    #[inline]
    const fn offset(self) -> u64 {
        self.1 >> 16
    }

    #[inline]
    const fn records(self) -> u16 {
        self.1 as u16
    }
}

/// All blocks of a table, in order, where they lie.
#[derive(Clone, Copy, Debug)]
pub struct Index<'a> {
    rows: &'a [u8],
    /// The first row of each state, and the number of all rows.
    starts: &'a [u32],
    /// The bytes of the file that hold blocks.
    data: (u64, u64),
    groups: KeyGroupRange,
}

impl<'a> Index<'a> {
    /// The index with this payload, of a table whose blocks fill `data` and lie
    /// within `groups`, and whose states start at the rows `starts`, the last of
    /// which is the number of rows. Nothing is checked: see
    /// [`check`](Self::check).
    #[inline]
    pub fn new(
        payload: &'a [u8],
        starts: &'a [u32],
        data: Range<u64>,
        groups: KeyGroupRange,
    ) -> Self {
        Self { rows: payload, starts, data: (data.start, data.end), groups }
    }

    /// Looks at every row once, in order, and holds none: a few milliseconds for
    /// a million. Calls `of_state` with the number of records of each state.
    ///
    /// # Errors
    /// `Corrupt` if rows are out of order, do not follow each other, do not fill
    /// the data, lie outside of the groups, or are not as many as there should
    /// be. Those of `of_state`.
    pub fn check(&self, mut of_state: impl FnMut(u16, u64) -> Result<()>) -> Result<()> {
        self.check_len()?;
        let mut rows = self.rows.chunks_exact(ROW_BYTES).map(row_of).enumerate();
        let mut offset = self.data.0;
        for (state, range) in self.starts.windows(2).enumerate() {
            // Of the row before, in the same state.
            let (mut last_place, mut last_group) = (0, self.groups.first());
            let mut records = 0;
            for (number, row) in rows.by_ref().take(range[1].saturating_sub(range[0]) as usize) {
                let bad = |what, expected: &dyn std::fmt::Display| {
                    Err(Error::corrupt(format_args!("index is damaged: bad {what}"))
                        .at(format_args!("block {number} of {}, state {state}", self.len()))
                        .expected(expected)
                        .found(format_args!(
                            "{} to {}, {:08x}, {} records at {}",
                            row.first_group(),
                            row.last_group(),
                            row.place() as u32,
                            row.records(),
                            row.offset()
                        )))
                };
                // The first row starts where the data does; a row's end is seen
                // with the next one.
                let least = if number == 0 { offset } else { offset + FRAME_HEADER_BYTES as u64 };
                let most = if number == 0 { offset } else { self.data.1 };
                if row.offset() < least || row.offset() > most {
                    return bad("block offset", &format_args!("{least} to {most}"));
                }
                if row.place() < last_place || row.first_group() < last_group {
                    return bad("row order", &"ascending rows");
                }
                if row.first_group() > row.last_group() || row.last_group() > self.groups.last() {
                    return bad("block groups", &format_args!("a range within {}", self.groups));
                }
                if row.records() == 0 {
                    return bad("record count", &"at least 1");
                }
                offset = row.offset();
                (last_place, last_group) = (row.place(), row.last_group());
                records += u64::from(row.records());
            }
            of_state(state as u16, records)?;
        }
        let filled = match self.len() {
            0 => self.data.0 == self.data.1,
            _ => offset + FRAME_HEADER_BYTES as u64 <= self.data.1,
        };
        if !filled {
            return Err(Error::corrupt("index is damaged: bad end of the blocks")
                .expected(format_args!("blocks up to offset {}", self.data.1))
                .found(format_args!("{} blocks, the last at {offset}", self.len())));
        }
        Ok(())
    }

    /// Checks that there is a row for each block; looks at none.
    ///
    /// # Errors
    /// `Corrupt` if there is not.
    pub fn check_len(&self) -> Result<()> {
        if self.rows.len() == self.len() * ROW_BYTES {
            return Ok(());
        }
        Err(Error::corrupt("index has the wrong number of blocks")
            .expected(format_args!("{} rows of {ROW_BYTES} bytes", self.len()))
            .found(format_args!("{} bytes", self.rows.len())))
    }

    /// Number of blocks.
    #[inline]
    pub fn len(&self) -> usize {
        self.starts.last().map_or(0, |&rows| rows as usize)
    }

    /// Whether there are no blocks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The blocks of a state.
    #[inline]
    pub fn blocks_of_state(&self, state: u16) -> Range<usize> {
        match self.starts.get(usize::from(state)..) {
            Some(&[start, end, ..]) => start as usize..end.max(start) as usize,
            _ => self.len()..self.len(),
        }
    }

    /// The block of this number.
    ///
    /// # Errors
    /// `Invalid` if there is no such block; `Corrupt` if the row is not what it
    /// was when it was checked.
    #[inline]
    pub fn block(&self, number: usize) -> Result<BlockEntry> {
        if number >= self.len() {
            return Err(Error::invalid("a table has no such block")
                .expected(format_args!("less than {}", self.len()))
                .found(number));
        }
        let row = self.row(number);
        let end = match number + 1 < self.len() {
            true => self.row(number + 1).map(Row::offset),
            false => Some(self.data.1),
        };
        let (Some(row), Some(end)) = (row, end) else { return Err(changed_after_check()) };
        let offset = row.offset();
        if offset < self.data.0
            || end > self.data.1
            || end < offset + FRAME_HEADER_BYTES as u64
            || row.records() == 0
        {
            return Err(changed_after_check());
        }
        // States without blocks start where the next one does.
        let states = self.starts.partition_point(|&start| start as usize <= number);
        Ok(BlockEntry {
            state: states.saturating_sub(1) as u16,
            first_group: row.first_group(),
            last_group: row.last_group(),
            records: row.records(),
            hash_prefix: row.place() as u32,
            offset,
            end,
        })
    }

    /// Every block, in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = Result<BlockEntry>> {
        (0..self.len()).map(move |number| self.block(number))
    }

    /// The blocks that can hold a record with this hash: usually one; more only
    /// where equal hashes lie across a border.
    ///
    /// Looks at four to six rows, nearly always in one or two pages; of *n*
    /// blocks whose hashes are not spread evenly, at log2(*n*) and four more.
    ///
    /// # Errors
    /// `Corrupt` if rows are missing.
    pub fn blocks_of_hash(&self, state: u16, group: KeyGroup, hash: u64) -> Result<Range<usize>> {
        self.search(state, group, hash, None, |_| Ok(()))
    }

    /// [`blocks_of_hash`](Self::blocks_of_hash), which asks `is_sound` about the row of
    /// each number before it looks at it, and at few rows but those `within`, if that is
    /// known.
    ///
    /// # Errors
    /// `Corrupt` if rows are missing. Those of `is_sound`.
    #[inline]
    pub fn search(
        &self,
        state: u16,
        group: KeyGroup,
        hash: u64,
        within: Option<Within>,
        mut is_sound: impl FnMut(usize) -> Result<()>,
    ) -> Result<Range<usize>> {
        let wanted = place(group, hash_prefix(hash));
        let Range { start, end } = self.blocks_of_state(state);
        let mut sound_row = |number: usize| {
            is_sound(number)?;
            self.row(number).ok_or_else(changed_after_check)
        };
        let mut place_of = |number: usize| sound_row(number).map(Row::place);
        // Records at `wanted` may begin in the block before the first that
        // starts at or behind it, and go on through all that start at it.
        let (mut low, mut high, mut at_high) = match &within {
            Some(Within { rows, place_behind }) => (rows.start, rows.end, *place_behind),
            None => (start, end, None),
        };
        if within.is_none() && high - low > FEW_ROWS {
            let guess = self.guess(wanted, low, high, &mut place_of)?;
            // Both ends of where it should be, unless they are the ends of all.
            let near = guess.saturating_sub(NEAR_ROWS).max(low);
            if near > low {
                let found = place_of(near)?;
                if found < wanted { low = near + 1 } else { (high, at_high) = (near, Some(found)) }
            }
            let near = guess + NEAR_ROWS;
            if at_high.is_none() && near < high {
                let found = place_of(near)?;
                if found < wanted { low = near + 1 } else { (high, at_high) = (near, Some(found)) }
            }
        }
        while low < high {
            let middle = low + (high - low) / 2;
            let found = place_of(middle)?;
            if found < wanted { low = middle + 1 } else { (high, at_high) = (middle, Some(found)) }
        }
        let mut behind = low;
        if at_high == Some(wanted) {
            // Nearly always the next row is another: double the step, then halve.
            let mut step = 1;
            while behind + step < end && place_of(behind + step)? == wanted {
                behind += step;
                step *= 2;
            }
            let mut last = (behind + step).min(end);
            behind += 1;
            while behind < last {
                let middle = behind + (last - behind) / 2;
                if place_of(middle)? == wanted { behind = middle + 1 } else { last = middle }
            }
        }
        match low.checked_sub(1).filter(|&before| before >= start) {
            Some(before) if sound_row(before)?.last_group() >= group => Ok(before..behind),
            _ => Ok(low..behind),
        }
    }

    /// About where a place should be among the rows of a state: hashes are
    /// spread evenly over the groups, so a first guess is off by some hundred
    /// rows of a million, and a second one, from there, by a few.
    #[inline]
    fn guess(
        &self,
        wanted: u64,
        low: usize,
        high: usize,
        place_of: &mut impl FnMut(usize) -> Result<u64>,
    ) -> Result<usize> {
        let scaled = |places: u64| (places as f64 * self.rows_a_place(high - low)) as usize;
        let guess = self.first_guess(wanted, low, high);
        let found = place_of(guess)?;
        let better = if found < wanted {
            guess + scaled(wanted - found)
        } else {
            guess.saturating_sub(scaled(found - wanted))
        };
        Ok(better.clamp(low, high - 1))
    }

    /// How many of so many rows there are to a place. A guess may be as inexact as it
    /// likes, and this never overflows.
    #[inline]
    fn rows_a_place(&self, rows: usize) -> f64 {
        let places = place(self.groups.last(), u32::MAX) - place(self.groups.first(), 0);
        rows as f64 / places as f64
    }

    #[inline]
    fn first_guess(&self, wanted: u64, low: usize, high: usize) -> usize {
        let places = wanted.saturating_sub(place(self.groups.first(), 0));
        let guess = (places as f64 * self.rows_a_place(high - low)) as usize;
        low + guess.min(high - low - 1)
    }

    /// About where the first row of a state is that does not come before a place: off by
    /// some hundred rows of a million. `None` if the state has no rows. Looks at none.
    #[inline]
    pub fn likely_row(&self, state: u16, wanted: u64) -> Option<usize> {
        let Range { start, end } = self.blocks_of_state(state);
        (start < end).then(|| self.first_guess(wanted, start, end))
    }

    /// The place of the row of this number, as it stands there.
    pub fn place_at(&self, number: usize) -> Option<u64> {
        self.row(number).map(Row::place)
    }

    /// The contiguous run of blocks that hold records of these groups.
    ///
    /// # Errors
    /// `Corrupt` if rows are missing.
    pub fn blocks_of_groups(&self, state: u16, groups: KeyGroupRange) -> Result<Range<usize>> {
        self.search_groups(state, groups, |_| Ok(()))
    }

    /// [`blocks_of_groups`](Self::blocks_of_groups), which asks `is_sound` about the row
    /// of each number before it looks at it.
    ///
    /// # Errors
    /// `Corrupt` if rows are missing. Those of `is_sound`.
    pub fn search_groups(
        &self,
        state: u16,
        groups: KeyGroupRange,
        mut is_sound: impl FnMut(usize) -> Result<()>,
    ) -> Result<Range<usize>> {
        let Range { start, end } = self.blocks_of_state(state);
        let mut partition_point = |mut low: usize, before: &dyn Fn(Row) -> bool| {
            let mut high = end;
            while low < high {
                let middle = low + (high - low) / 2;
                is_sound(middle)?;
                let row = self.row(middle).ok_or_else(changed_after_check)?;
                if before(row) { low = middle + 1 } else { high = middle }
            }
            Ok::<_, Error>(low)
        };
        let first = partition_point(start, &|row| row.last_group() < groups.first())?;
        let behind = partition_point(first, &|row| row.first_group() <= groups.last())?;
        Ok(first..behind)
    }

    /// Where in the payload the row of this number lies.
    #[inline]
    pub fn range_of_row(number: usize) -> Range<usize> {
        number * ROW_BYTES..(number + 1) * ROW_BYTES
    }

    #[inline]
    fn row(&self, number: usize) -> Option<Row> {
        self.rows.get(Self::range_of_row(number)).map(row_of)
    }
}

/// The row in these [`ROW_BYTES`].
#[inline]
fn row_of(bytes: &[u8]) -> Row {
    let half = |at: usize| {
        let mut half = [0; 8];
        half.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(half)
    };
    Row(half(0), half(8))
}

#[cold]
fn changed_after_check() -> Error {
    Error::corrupt("index changed after it was checked")
        .remedy("something writes to a file that must not change: find it, and restore the file")
}

#[cfg(test)]
mod tests;
