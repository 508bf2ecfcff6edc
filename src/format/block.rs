//! A data block: some consecutive records of one state, column by column.
//!
//! Records are of a fixed width more often than not, and a column says so once
//! instead of in every record. A point lookup reads the tags of one key group
//! and the few records whose tag matches; nothing is decoded in between.
//!
//! ```text
//! block:   | count u16 | runs u16 | flags u8 | key width u8 | ns width u8 | value width u8 |
//!          0           2          4          5              6             7
//!          | key size u32 | ns size u32 | value size u32 |
//!          8              12            16               20
//!          | runs x run | tombstones | tags | key lens | ns lens | value lens | keys | nss | values |
//!          20
//! run:     | group u16 | end u16 |            records [previous end, end) are in this group
//! ```
//!
//! - Records are in the table's order: group, hash, key, namespace. The hash
//!   itself is not stored; it is computed again from key and namespace, as the
//!   state's [placement](super::collection::Placement) says.
//! - `runs`: groups ascend, ends ascend, the last end is `count`.
//! - `tombstones`: only if bit 0 of `flags` is set, and then at least one record
//!   is one: a bit a record, lowest bit of the first byte first, unused bits 0.
//!   A tombstone has a key and a namespace but no place in the value columns.
//! - `tags`: one byte a record, the lowest byte of its hash. (The upper half of
//!   the hash gives the order, the upper bits of the lower half the key group,
//!   so within a block the lowest byte tells records apart best.) Records of a
//!   collection share the hash that orders them; their tags come from that and
//!   the subkey.
//! - A column with width 0 holds pieces of `size` bytes each and has no lens.
//!   With width 1, 2 or 4 its lens are integers of that many bytes, and `size`
//!   is their sum. Lens were preferred to varints because the start of a piece
//!   is then a sum over plain bytes, without a table of offsets to allocate.
//!
//! Promises: [`DataBlock::parse`] accepts any bytes and checks every length
//! once; the accessors check again where they slice, so that even a mapped file
//! that changes afterwards gives an error.

use std::ops::Range;

use crate::base::{Error, KeyGroup, KeyGroupRange, Result};
use crate::codec::Reader;

/// Bytes of a block before its runs.
pub const BLOCK_HEADER_BYTES: usize = 20;

/// Most records of a block: what its counters can say.
pub const MAX_BLOCK_RECORDS: usize = u16::MAX as usize;

const RUN_BYTES: usize = 4;
const FLAG_TOMBSTONES: u8 = 1;

/// The tag of a record: the byte of its hash that tells apart records that lie
/// close to each other.
#[inline]
pub const fn tag_of_hash(hash: u64) -> u8 {
    hash as u8
}

/// One record of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRecord<'a> {
    /// Its key group.
    pub group: KeyGroup,
    /// The lowest byte of its hash.
    pub tag: u8,
    /// Its key.
    pub key: &'a [u8],
    /// Its namespace, empty if it has none.
    pub namespace: &'a [u8],
    /// Its value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
}

/// What a lookup found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot<'a> {
    /// Nothing: the key may be in an older table.
    Absent,
    /// A tombstone: the key was deleted, whatever older tables say.
    Deleted,
    /// This value.
    Value(&'a [u8]),
}

/// Collects records and writes them as a block.
#[derive(Default)]
pub struct BlockBuilder {
    runs: Vec<(KeyGroup, u16)>,
    tombstones: Vec<u8>,
    deleted: usize,
    tags: Vec<u8>,
    keys: ColumnBuilder,
    namespaces: ColumnBuilder,
    values: ColumnBuilder,
}

#[derive(Default)]
struct ColumnBuilder {
    bytes: Vec<u8>,
    lens: Vec<u32>,
    longest: u32,
    fixed: bool,
}

impl ColumnBuilder {
    fn push(&mut self, piece: &[u8]) {
        let len = piece.len() as u32;
        match self.lens.first() {
            None => (self.longest, self.fixed) = (len, true),
            Some(&first) => {
                self.longest = self.longest.max(len);
                self.fixed &= first == len;
            }
        }
        self.lens.push(len);
        self.bytes.extend_from_slice(piece);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.lens.clear();
        (self.longest, self.fixed) = (0, true);
    }

    fn width(&self) -> u8 {
        match self.longest {
            _ if self.fixed || self.lens.is_empty() => 0,
            0..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 4,
        }
    }

    fn size(&self) -> u32 {
        if self.width() == 0 { self.longest } else { self.bytes.len() as u32 }
    }

    fn write_lens(&self, out: &mut Vec<u8>) {
        match self.width() {
            0 => {}
            1 => out.extend(self.lens.iter().map(|&len| len as u8)),
            2 => out.extend(self.lens.iter().flat_map(|&len| (len as u16).to_le_bytes())),
            _ => out.extend(self.lens.iter().flat_map(|&len| len.to_le_bytes())),
        }
    }
}

impl BlockBuilder {
    /// A builder without records.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of records added.
    pub fn records(&self) -> usize {
        self.tags.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Bytes of the block so far, lens not counted.
    pub fn raw_bytes(&self) -> usize {
        BLOCK_HEADER_BYTES
            + self.runs.len() * RUN_BYTES
            + self.tags.len()
            + self.keys.bytes.len()
            + self.namespaces.bytes.len()
            + self.values.bytes.len()
    }

    /// Adds the next record. Order and limits are the caller's business; there
    /// may be at most [`MAX_BLOCK_RECORDS`], and less than 4 GiB in a column.
    pub fn push(
        &mut self,
        group: KeyGroup,
        tag: u8,
        key: &[u8],
        namespace: &[u8],
        value: Option<&[u8]>,
    ) {
        let index = self.tags.len();
        assert!(index < MAX_BLOCK_RECORDS, "a block is ended before its counters overflow");
        match self.runs.last_mut() {
            Some((last, end)) if *last == group => *end += 1,
            _ => self.runs.push((group, index as u16 + 1)),
        }
        if index.is_multiple_of(8) {
            self.tombstones.push(0);
        }
        self.tags.push(tag);
        self.keys.push(key);
        self.namespaces.push(namespace);
        match value {
            Some(value) => self.values.push(value),
            None => {
                self.tombstones[index / 8] |= 1 << (index % 8);
                self.deleted += 1;
            }
        }
    }

    /// Appends the block to `out` and starts a new, empty one.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.reserve(self.raw_bytes() + self.records() * 3);
        out.extend_from_slice(&(self.tags.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.runs.len() as u16).to_le_bytes());
        out.push(if self.deleted > 0 { FLAG_TOMBSTONES } else { 0 });
        let columns = [&self.keys, &self.namespaces, &self.values];
        out.extend(columns.map(ColumnBuilder::width));
        for column in columns {
            out.extend_from_slice(&column.size().to_le_bytes());
        }
        for &(group, end) in &self.runs {
            out.extend_from_slice(&group.0.to_le_bytes());
            out.extend_from_slice(&end.to_le_bytes());
        }
        if self.deleted > 0 {
            out.extend_from_slice(&self.tombstones);
        }
        out.extend_from_slice(&self.tags);
        for column in columns {
            column.write_lens(out);
        }
        for column in columns {
            out.extend_from_slice(&column.bytes);
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.runs.clear();
        self.tombstones.clear();
        self.deleted = 0;
        self.tags.clear();
        self.keys.clear();
        self.namespaces.clear();
        self.values.clear();
    }
}

/// A block whose lengths were checked.
#[derive(Clone, Copy, Debug)]
pub struct DataBlock<'a> {
    bytes: &'a [u8],
    layout: BlockLayout,
}

/// Where everything is in a block: [`DataBlock`] without the bytes, for who
/// owns those and cannot borrow from himself.
#[derive(Clone, Copy, Debug)]
pub struct BlockLayout {
    block_bytes: usize,
    count: usize,
    runs: usize,
    /// Start of the tombstones, if there are any.
    tombstones: Option<usize>,
    tags: usize,
    keys: Column,
    namespaces: Column,
    values: Column,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    /// Bytes of a len; 0: every piece has `size` bytes.
    width: u8,
    size: usize,
    /// Number of pieces.
    count: usize,
    lens: usize,
    pieces: usize,
}

impl Column {
    fn lens_bytes(self) -> usize {
        self.count * usize::from(self.width)
    }

    fn pieces_bytes(self) -> u64 {
        if self.width == 0 { self.count as u64 * self.size as u64 } else { self.size as u64 }
    }

    /// The sum of the first `n` lens, or of as many as `block` holds.
    #[inline]
    fn start_of(self, block: &[u8], n: usize) -> usize {
        let width = usize::from(self.width);
        if width == 0 {
            return n * self.size;
        }
        let lens = block.get(self.lens..self.lens + n * width).unwrap_or_default();
        // 65,535 lens of one or two bytes cannot overflow 32 bits; the narrow
        // sums are what the compiler turns into vector code.
        match width {
            1 => lens.iter().map(|&len| u32::from(len)).sum::<u32>() as usize,
            2 => {
                let lens = lens.chunks_exact(2);
                lens.map(|len| u32::from(u16::from_le_bytes([len[0], len[1]]))).sum::<u32>()
                    as usize
            }
            _ => {
                let lens = lens.chunks_exact(4);
                lens.map(|len| u64::from(u32::from_le_bytes([len[0], len[1], len[2], len[3]])))
                    .sum::<u64>() as usize
            }
        }
    }

    #[inline]
    fn len_of(self, block: &[u8], index: usize) -> usize {
        let at = self.lens + index * usize::from(self.width);
        let byte = |i: usize| block.get(at + i).copied().unwrap_or(0);
        match self.width {
            0 => self.size,
            1 => usize::from(byte(0)),
            2 => usize::from(u16::from_le_bytes([byte(0), byte(1)])),
            _ => u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]) as usize,
        }
    }

    #[inline]
    fn piece(self, block: &[u8], start: usize, len: usize) -> Result<&[u8]> {
        let at = self.pieces + start;
        block.get(at..at + len).ok_or_else(changed_after_check)
    }

    #[inline]
    fn get(self, block: &[u8], index: usize) -> Result<&[u8]> {
        self.piece(block, self.start_of(block, index), self.len_of(block, index))
    }
}

#[cold]
fn changed_after_check() -> Error {
    Error::corrupt("data block changed after it was checked")
        .remedy("something writes to a file that must not change: find it, and restore the file")
}

impl<'a> DataBlock<'a> {
    /// Checks that `bytes` are exactly one block.
    ///
    /// Costs a pass over the runs, the tombstones and the lens of the columns
    /// that have them; allocates nothing.
    ///
    /// # Errors
    /// `Corrupt` if the parts do not add up.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new("data block", bytes);
        let count = usize::from(reader.u16("record count")?);
        let runs = usize::from(reader.u16("run count")?);
        let flags = reader.u8("flags")?;
        let widths = reader.array::<3>("column widths")?;
        let sizes =
            [reader.u32("key size")?, reader.u32("namespace size")?, reader.u32("value size")?];
        if count == 0 {
            return Err(reader.corrupt("record count", "at least 1", 0));
        }
        if flags & !FLAG_TOMBSTONES != 0 {
            return Err(reader.corrupt("flags", "0 or 1", flags));
        }
        if let Some(width) = widths.iter().find(|width| ![0, 1, 2, 4].contains(*width)) {
            return Err(reader.corrupt("column width", "0, 1, 2 or 4", width));
        }
        check_runs(&mut reader, runs, count)?;

        let tombstones_at = reader.offset();
        let mut deleted = 0;
        if flags & FLAG_TOMBSTONES != 0 {
            let bitmap = reader.take("tombstones", count.div_ceil(8))?;
            deleted = ones(bitmap);
            let unused = bitmap.last().map_or(0, |&last| u32::from(last) >> ((count - 1) % 8 + 1));
            if deleted == 0 || unused != 0 {
                return Err(reader.corrupt("tombstones", "some, within the count", deleted));
            }
        }
        let tags = reader.offset();
        reader.take("tags", count)?;

        let mut columns = [count, count, count - deleted].map(|count| Column {
            width: 0,
            size: 0,
            count,
            lens: 0,
            pieces: 0,
        });
        for (column, (width, size)) in columns.iter_mut().zip(widths.into_iter().zip(sizes)) {
            (column.width, column.size) = (width, size as usize);
            column.lens = reader.offset();
            reader.take("lens", column.lens_bytes())?;
        }
        for column in &mut columns {
            column.pieces = reader.offset();
            let wanted = column.pieces_bytes();
            match usize::try_from(wanted) {
                Ok(wanted) => reader.take("pieces", wanted)?,
                Err(_) => return Err(reader.corrupt("column size", "what fits in memory", wanted)),
            };
            let sum = column.start_of(bytes, column.count);
            if sum as u64 != wanted {
                return Err(reader.corrupt("lens", format_args!("a sum of {wanted}"), sum));
            }
        }
        reader.finish()?;
        let [keys, namespaces, values] = columns;
        Ok(Self {
            bytes,
            layout: BlockLayout {
                block_bytes: bytes.len(),
                count,
                runs,
                tombstones: (deleted > 0).then_some(tombstones_at),
                tags,
                keys,
                namespaces,
                values,
            },
        })
    }

    /// The block again, from the bytes it was parsed from.
    ///
    /// # Errors
    /// `Internal` if they are not of the same length.
    #[inline]
    pub fn from_layout(bytes: &'a [u8], layout: BlockLayout) -> Result<Self> {
        if bytes.len() == layout.block_bytes {
            Ok(Self { bytes, layout })
        } else {
            Err(Error::internal("a block's layout was put on other bytes"))
        }
    }

    /// Where everything is in this block.
    pub fn layout(&self) -> BlockLayout {
        self.layout
    }

    /// Number of records, at least 1.
    pub fn records(&self) -> usize {
        self.layout.count
    }

    /// Number of records that are tombstones.
    pub fn tombstones(&self) -> usize {
        self.layout.count - self.layout.values.count
    }

    /// The group of the first record.
    pub fn first_group(&self) -> KeyGroup {
        self.run(0).0
    }

    /// The group of the last record.
    pub fn last_group(&self) -> KeyGroup {
        self.run(self.layout.runs - 1).0
    }

    /// The record of this group, key and namespace, whose hash has this tag.
    ///
    /// # Errors
    /// `Corrupt` if the bytes changed since they were checked.
    pub fn find(&self, group: KeyGroup, tag: u8, key: &[u8], namespace: &[u8]) -> Result<Slot<'a>> {
        let (keys, namespaces) = (self.layout.keys, self.layout.namespaces);
        if keys.width == 0 && keys.size != key.len() {
            return Ok(Slot::Absent);
        }
        let run = self.runs_before(group);
        if run == self.layout.runs || self.run(run).0 != group {
            return Ok(Slot::Absent);
        }
        let (first, end) = (self.run_start(run), usize::from(self.run(run).1));
        let tags = self.layout.tags;
        let tags = self.bytes.get(tags + first..tags + end).ok_or_else(changed_after_check)?;
        let mut from = 0;
        while let Some(at) = position(tags, tag, from) {
            from = at + 1;
            let index = first + at;
            if keys.get(self.bytes, index)? == key
                && namespaces.get(self.bytes, index)? == namespace
            {
                return Ok(match self.live_before(index) {
                    None => Slot::Deleted,
                    Some(live) => Slot::Value(self.layout.values.get(self.bytes, live)?),
                });
            }
        }
        Ok(Slot::Absent)
    }

    /// A cursor over the records of `groups`, or over all.
    pub fn cursor(&self, groups: Option<KeyGroupRange>) -> BlockCursor {
        let (first_run, end_run) = match groups {
            None => (0, self.layout.runs),
            Some(groups) => {
                let first = self.runs_before(groups.first());
                let behind = (first..self.layout.runs)
                    .find(|&run| self.run(run).0 > groups.last())
                    .unwrap_or(self.layout.runs);
                (first, behind)
            }
        };
        self.cursor_at(self.run_start(first_run)..self.run_start(end_run))
    }

    /// The record at this place.
    ///
    /// # Errors
    /// `Internal` if there are not so many, `Corrupt` if the bytes changed since
    /// they were checked.
    pub fn record(&self, index: usize) -> Result<BlockRecord<'a>> {
        self.cursor_at(index..self.layout.count)
            .next(self)?
            .ok_or_else(|| Error::internal("a block was asked for a record behind its last"))
    }

    /// `cursor` without the records at its beginning that are `before` what is
    /// wanted. They must come first; each of log2(records) ones is looked at.
    ///
    /// # Errors
    /// `Corrupt` if the bytes changed since they were checked, and those of
    /// `before`.
    pub fn skip(
        &self,
        cursor: BlockCursor,
        mut before: impl FnMut(BlockRecord<'a>) -> Result<bool>,
    ) -> Result<BlockCursor> {
        let (mut low, mut high) = (cursor.index, cursor.end.max(cursor.index));
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.record(middle)?)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(self.cursor_at(low..cursor.end))
    }

    /// A cursor over these records.
    fn cursor_at(&self, range: Range<usize>) -> BlockCursor {
        let index = range.start.min(self.layout.count);
        let live = index - self.deleted_before(index);
        let (bytes, layout) = (self.bytes, &self.layout);
        BlockCursor {
            index,
            end: range.end.min(layout.count),
            run: self.runs_ended_by(index),
            live,
            key_at: layout.keys.start_of(bytes, index),
            namespace_at: layout.namespaces.start_of(bytes, index),
            value_at: layout.values.start_of(bytes, live),
        }
    }

    /// Group and end of a run; a run behind the last reads as zeros.
    #[inline]
    fn run(&self, run: usize) -> (KeyGroup, u16) {
        let at = BLOCK_HEADER_BYTES + run * RUN_BYTES;
        match self.bytes.get(at..at + RUN_BYTES) {
            Some(b) => {
                (KeyGroup(u16::from_le_bytes([b[0], b[1]])), u16::from_le_bytes([b[2], b[3]]))
            }
            None => (KeyGroup(0), 0),
        }
    }

    #[inline]
    fn run_start(&self, run: usize) -> usize {
        if run == 0 { 0 } else { usize::from(self.run(run - 1).1) }
    }

    /// How many runs have a smaller group.
    fn runs_before(&self, group: KeyGroup) -> usize {
        self.runs_while(|run| run.0 < group)
    }

    /// How many runs end at or before a record.
    fn runs_ended_by(&self, index: usize) -> usize {
        self.runs_while(|run| usize::from(run.1) <= index)
    }

    fn runs_while(&self, holds: impl Fn((KeyGroup, u16)) -> bool) -> usize {
        let (mut low, mut high) = (0, self.layout.runs);
        while low < high {
            let middle = (low + high) / 2;
            if holds(self.run(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    #[inline]
    fn is_deleted(&self, index: usize) -> bool {
        self.layout.tombstones.is_some_and(|start| {
            self.bytes.get(start + index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
        })
    }

    /// How many of the first `index` records are tombstones.
    fn deleted_before(&self, index: usize) -> usize {
        let Some(start) = self.layout.tombstones else { return 0 };
        let whole = self.bytes.get(start..start + index / 8).unwrap_or_default();
        let byte = self.bytes.get(start + index / 8).copied().unwrap_or(0);
        let part = byte & ((1u16 << (index % 8)) - 1) as u8;
        ones(whole) + part.count_ones() as usize
    }

    /// The place of a record among the values; `None` for a tombstone.
    #[inline]
    fn live_before(&self, index: usize) -> Option<usize> {
        (!self.is_deleted(index)).then(|| index.saturating_sub(self.deleted_before(index)))
    }
}

fn check_runs(reader: &mut Reader<'_>, runs: usize, count: usize) -> Result<()> {
    let mut before: Option<(u16, u16)> = None;
    for _ in 0..runs {
        let run = (reader.u16("run group")?, reader.u16("run end")?);
        let ascends = match before {
            None => run.1 > 0,
            Some(before) => before.0 < run.0 && before.1 < run.1,
        };
        if !ascends {
            return Err(reader.corrupt(
                "runs",
                "ascending groups and ends",
                format_args!("{run:?}"),
            ));
        }
        before = Some(run);
    }
    match before {
        Some((_, end)) if usize::from(end) == count => Ok(()),
        _ => Err(reader.corrupt(
            "runs",
            format_args!("an end at {count}"),
            format_args!("{before:?}"),
        )),
    }
}

fn ones(bytes: &[u8]) -> usize {
    bytes.iter().map(|byte| byte.count_ones() as usize).sum()
}

/// The first place of `tag` in `tags` at or after `from`. Looks at 32 tags at
/// a time without branching, which becomes vector code.
#[inline]
fn position(tags: &[u8], tag: u8, from: usize) -> Option<usize> {
    const STEP: usize = 32;
    let mut at = from;
    for chunk in tags[from..].chunks(STEP) {
        let any = chunk.iter().fold(false, |any, &t| any | (t == tag));
        if any {
            return chunk.iter().position(|&t| t == tag).map(|within| at + within);
        }
        at += STEP;
    }
    None
}

/// A place in a block that moves forward record by record.
#[derive(Clone, Copy, Debug)]
pub struct BlockCursor {
    index: usize,
    end: usize,
    run: usize,
    live: usize,
    key_at: usize,
    namespace_at: usize,
    value_at: usize,
}

impl BlockCursor {
    /// Whether the cursor stands behind its last record.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.index >= self.end
    }

    /// The record at the cursor, which then stands behind it; `None` at the
    /// end. `block` must be the one that made the cursor.
    ///
    /// # Errors
    /// `Corrupt` if the bytes changed since they were checked.
    #[inline]
    pub fn next<'a>(&mut self, block: &DataBlock<'a>) -> Result<Option<BlockRecord<'a>>> {
        if self.is_done() {
            return Ok(None);
        }
        let (bytes, layout) = (block.bytes, &block.layout);
        while self.run < layout.runs && usize::from(block.run(self.run).1) <= self.index {
            self.run += 1;
        }
        let group = block.run(self.run).0;
        let tag = *bytes.get(layout.tags + self.index).ok_or_else(changed_after_check)?;
        let key_len = layout.keys.len_of(bytes, self.index);
        let key = layout.keys.piece(bytes, self.key_at, key_len)?;
        let namespace_len = layout.namespaces.len_of(bytes, self.index);
        let namespace = layout.namespaces.piece(bytes, self.namespace_at, namespace_len)?;
        let value = if block.is_deleted(self.index) {
            None
        } else {
            let len = layout.values.len_of(bytes, self.live);
            let value = layout.values.piece(bytes, self.value_at, len)?;
            self.value_at += len;
            self.live += 1;
            Some(value)
        };
        self.index += 1;
        self.key_at += key_len;
        self.namespace_at += namespace_len;
        Ok(Some(BlockRecord { group, tag, key, namespace, value }))
    }
}
