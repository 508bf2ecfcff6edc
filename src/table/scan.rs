//! Reading records in order, block by block.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::collection::Bounds;
use super::reader::{TableReader, TableReads, bytes_of, ensure_inside, in_block, read_all_through};
use crate::base::{Error, KeyGroup, KeyGroupRange, Result};
use crate::env::mmap::PageVec;
use crate::format::block::{BlockCursor, BlockLayout, DataBlock};
use crate::format::index::BlockEntry;

/// Bytes that a scan reads at a time.
const READ_AHEAD_BYTES: u64 = 64 * 1024;

/// One record of a table, lent by a [`TableScan`] until its next step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanRecord<'a> {
    /// Ordinal of its state in this table.
    pub state: u16,
    /// Its key group.
    pub group: KeyGroup,
    /// The hash that places it, computed from key and namespace.
    pub hash: u64,
    /// Its key.
    pub key: &'a [u8],
    /// Its namespace, empty if it has none; in a state of collections its
    /// [entry name](crate::format::collection).
    pub namespace: &'a [u8],
    /// Its value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
}

/// Lends the records of a range of key groups, in the order of the table:
/// state, group, hash, key, namespace.
///
/// Holds the table open, one decompressed block, and up to 64 KiB of the file
/// (or one block, if that is larger). After an error it stays failed.
pub struct TableScan {
    table: Arc<TableReader>,
    groups: KeyGroupRange,
    /// What a scan of one collection looks for.
    bounds: Option<Bounds>,
    /// The state being scanned, and the one behind the last to scan.
    state: u16,
    end_state: u16,
    /// Blocks of the current state that are still to be read; `None` until it is known
    /// which.
    blocks: Option<Range<usize>>,
    current: Option<Current>,
    /// Stored bytes of the file from `ahead_at` on.
    ahead: PageVec<u8>,
    ahead_at: u64,
    raw: Vec<u8>,
    failed: bool,
    blocks_read: u64,
    has_lent: bool,
}

#[derive(Clone, Copy)]
struct Current {
    entry: BlockEntry,
    place: Place,
    layout: BlockLayout,
    cursor: BlockCursor,
}

/// Where the payload of the current block is.
#[derive(Clone, Copy)]
enum Place {
    /// In the mapped file, from this offset.
    Mapped(usize, usize),
    /// In `ahead`.
    Ahead(usize, usize),
    /// In `raw`, decompressed.
    Raw,
}

impl fmt::Debug for TableScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableScan")
            .field("file", &self.table.file())
            .field("groups", &self.groups)
            .field("state", &self.state)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl TableReader {
    /// Lends every record of these groups, state by state.
    pub fn scan(self: &Arc<Self>, groups: KeyGroupRange) -> TableScan {
        // The table holds at most 65,535 states, or it would not have opened.
        let states = self.states().len() as u16;
        TableScan::new(Arc::clone(self), 0..states, groups)
    }

    /// Lends every record of these groups of one state; none if there is no
    /// such ordinal.
    pub fn scan_state(self: &Arc<Self>, ordinal: u16, groups: KeyGroupRange) -> TableScan {
        TableScan::new(Arc::clone(self), ordinal..ordinal.saturating_add(1), groups)
    }
}

impl TableScan {
    /// Lends the records within `bounds`, which are in `blocks` of the state.
    pub(super) fn of_collection(
        table: Arc<TableReader>,
        state: u16,
        bounds: Bounds,
        blocks: Range<usize>,
    ) -> Result<Self> {
        let groups = KeyGroupRange::new(bounds.group, bounds.group)?;
        let mut scan = Self::new(table, state..state.saturating_add(1), groups);
        (scan.blocks, scan.bounds) = (Some(blocks), Some(bounds));
        Ok(scan)
    }

    fn new(table: Arc<TableReader>, states: Range<u16>, groups: KeyGroupRange) -> Self {
        Self {
            table,
            groups,
            bounds: None,
            state: states.start,
            end_state: states.end,
            blocks: states.is_empty().then_some(0..0),
            current: None,
            ahead: PageVec::new(),
            ahead_at: 0,
            raw: Vec::new(),
            failed: false,
            blocks_read: 0,
            has_lent: false,
        }
    }

    /// Adds what it did so far: of a scan of one collection, a look-up of that.
    pub fn count_reads(&self, reads: &mut TableReads) {
        reads.blocks += self.blocks_read;
        reads.false_positives += u64::from(self.blocks_read > 0 && !self.has_lent);
    }

    /// Bytes of its buffers.
    pub fn memory_bytes(&self) -> u64 {
        (self.ahead.capacity() + self.raw.capacity()) as u64
    }

    /// The key groups whose records it lends.
    pub fn groups(&self) -> KeyGroupRange {
        self.groups
    }

    /// The table that is scanned.
    pub fn table(&self) -> &Arc<TableReader> {
        &self.table
    }

    /// The next record; `None` behind the last.
    ///
    /// # Errors
    /// `Corrupt` if a block is damaged, `Unavailable` if it could not be read,
    /// `Closed` after either: records would be missing.
    #[expect(clippy::should_implement_trait, reason = "an Iterator cannot lend")]
    pub fn next(&mut self) -> Result<Option<ScanRecord<'_>>> {
        if self.failed {
            return Err(Error::closed("a scan failed before")
                .at(format_args!("file {}", self.table.file()))
                .remedy("start a new scan"));
        }
        // Set while anything can go wrong, so that every way out is covered.
        self.failed = true;
        if !self.find_next()? {
            self.current = None;
            // Of many scans that are merged, most end long before the last.
            (self.ahead, self.raw) = (PageVec::new(), Vec::new());
            self.failed = false;
            return Ok(None);
        }
        let Some(Current { entry, place, layout, cursor }) = &mut self.current else {
            return Err(Error::internal("a scan has no block to lend from"));
        };
        let in_this = |error| in_block(error, self.table.file(), entry);
        let payload = payload(&self.table, &self.ahead, &self.raw, *place);
        let block = DataBlock::from_layout(payload, *layout).map_err(in_this)?;
        let Some(record) = cursor.next(&block).map_err(in_this)? else {
            return Err(in_this(Error::internal("a block's cursor ended before its time")));
        };
        let placement = self.table.placement(entry.state);
        let hash = placement.hash(record.key, record.namespace).map_err(in_this)?;
        self.failed = false;
        self.has_lent = true;
        Ok(Some(ScanRecord {
            state: entry.state,
            group: record.group,
            hash,
            key: record.key,
            namespace: record.namespace,
            value: record.value,
        }))
    }

    /// Puts the cursor before the next record to lend; `false` if there is none.
    fn find_next(&mut self) -> Result<bool> {
        loop {
            while self.current.as_ref().is_none_or(|current| current.cursor.is_done()) {
                let Some(number) = self.next_block()? else { return Ok(false) };
                self.current = Some(self.load_or_instead(number)?);
            }
            let (Some(bounds), Some(current)) = (&self.bounds, &mut self.current) else {
                return Ok(true);
            };
            let in_this = |error| in_block(error, self.table.file(), &current.entry);
            let payload = payload(&self.table, &self.ahead, &self.raw, current.place);
            let block = DataBlock::from_layout(payload, current.layout).map_err(in_this)?;
            let mut behind = current.cursor;
            let Some(record) = behind.next(&block).map_err(in_this)? else {
                return Err(in_this(Error::internal("a block's cursor ended before its time")));
            };
            match bounds.compare(record).map_err(in_this)? {
                Ordering::Less => current.cursor = behind,
                Ordering::Equal => return Ok(true),
                Ordering::Greater => {
                    self.blocks = Some(0..0);
                    return Ok(false);
                }
            }
        }
    }

    /// The next block to read, moving on to the next state if need be.
    fn next_block(&mut self) -> Result<Option<usize>> {
        loop {
            let blocks = match &mut self.blocks {
                Some(blocks) => blocks,
                None => {
                    let found = self.blocks_of_state()?;
                    self.table.ask_for_rows(&found);
                    self.blocks.insert(found)
                }
            };
            if let Some(block) = blocks.next() {
                return Ok(Some(block));
            }
            if self.state.saturating_add(1) >= self.end_state {
                return Ok(None);
            }
            self.state += 1;
            self.blocks = None;
        }
    }

    /// The blocks of the state that is to be scanned now; from elsewhere, if the index
    /// cannot be read here.
    fn blocks_of_state(&mut self) -> Result<Range<usize>> {
        match self.table.blocks_of_groups(self.state, self.groups) {
            Err(error) => {
                self.go_elsewhere(error)?;
                self.table.blocks_of_groups(self.state, self.groups)
            }
            found => found,
        }
    }

    /// Loads a block; from now on from elsewhere, if it cannot be read here.
    fn load_or_instead(&mut self, number: usize) -> Result<Current> {
        let loaded = self.table.block(number).and_then(|entry| self.load(entry));
        let Err(error) = loaded else { return loaded };
        // The same file, so the same blocks.
        self.go_elsewhere(error)?;
        self.load(self.table.block(number)?)
    }

    /// From now on the table is read elsewhere, if there is another copy.
    fn go_elsewhere(&mut self, error: Error) -> Result<()> {
        self.table = self.table.instead(error)?;
        (self.ahead_at, self.current) = (0, None);
        self.ahead.clear();
        Ok(())
    }

    fn load(&mut self, entry: BlockEntry) -> Result<Current> {
        let table = Arc::clone(&self.table);
        self.blocks_read += 1;
        // What is read once and in order does not go through the map, which would
        // take it page by page and hold it longer.
        let mapped = self.bounds.is_some() && table.source().as_slice().is_some();
        let mut unused = Vec::new();
        let frame = if mapped {
            let frame = bytes_of(table.source(), entry.offset..entry.end, &mut unused)?;
            self.table.origin().inspect(|origin| origin.note_read(entry.frame_bytes()));
            frame
        } else {
            self.read_ahead(&entry)?;
            let start = (entry.offset - self.ahead_at) as usize;
            &self.ahead[start..start + entry.frame_bytes() as usize]
        };
        let payload = table.payload(&entry, frame, &mut self.raw)?;
        let block = table.parse(&entry, payload)?;
        let (layout, mut cursor) = (block.layout(), block.cursor(Some(self.groups)));
        if let Some(bounds) = &self.bounds {
            cursor = block
                .skip(cursor, |record| Ok(bounds.compare(record)? == Ordering::Less))
                .map_err(|error| in_block(error, table.file(), &entry))?;
        }
        // One that lies within its frame was not decompressed.
        let is_stored = frame.as_ptr_range().contains(&payload.as_ptr());
        let place = if is_stored {
            let start = payload.as_ptr().addr() - frame.as_ptr().addr();
            let at = entry.offset as usize + start;
            if mapped {
                Place::Mapped(at, at + payload.len())
            } else {
                let at = at - self.ahead_at as usize;
                Place::Ahead(at, at + payload.len())
            }
        } else {
            Place::Raw
        };
        Ok(Current { entry, place, layout, cursor })
    }

    /// Makes sure that the frame of `entry` is in `ahead`, with those behind it
    /// that this scan will want.
    fn read_ahead(&mut self, entry: &BlockEntry) -> Result<()> {
        let have = self.ahead_at..self.ahead_at + self.ahead.len() as u64;
        if have.start <= entry.offset && entry.end <= have.end {
            return Ok(());
        }
        // Whole blocks, lest the last one be read twice.
        let most = entry.offset.saturating_add(READ_AHEAD_BYTES);
        let mut end = entry.end;
        for number in self.blocks.clone().unwrap_or_default() {
            let block = self.table.block(number)?;
            if block.end > most {
                break;
            }
            end = block.end;
        }
        // Forget first: a failed read leaves anything in the buffer.
        self.ahead_at = entry.offset;
        let source = self.table.source();
        let read = ensure_inside(source, &(entry.offset..end)).and_then(|()| {
            self.ahead.resize_for_overwriting((end - entry.offset) as usize);
            read_all_through(source, entry.offset, &mut self.ahead)
        });
        if let Err(error) = read {
            self.ahead.clear();
            return Err(in_block(error, self.table.file(), entry));
        }
        self.table.origin().inspect(|origin| origin.note_read(end - entry.offset));
        Ok(())
    }
}

#[inline]
fn payload<'a>(table: &'a TableReader, ahead: &'a [u8], raw: &'a [u8], place: Place) -> &'a [u8] {
    match place {
        Place::Mapped(start, end) => {
            let file = table.source().as_slice();
            file.and_then(|file| file.get(start..end)).unwrap_or_default()
        }
        Place::Ahead(start, end) => &ahead[start..end],
        Place::Raw => raw,
    }
}
