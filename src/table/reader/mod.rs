//! Reading a table: what is known of it after opening (`open`), and its blocks. Keys are
//! looked up in `look_up`.
//!
//! Filter and index are searched where they lie in the mapped file, and checked as far as
//! they are looked at (see `pages`); of a file that is not mapped they are held in memory,
//! as they are, and checked when it is opened. Where memory is short whoever opens a mapped
//! one says which of them are held ([`Held`]).

mod look_up;
mod open;
mod pages;
#[cfg(test)]
mod written;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

pub(crate) use self::look_up::Rank;
pub use self::look_up::{Found, TableReads};
pub(crate) use self::open::Held;
use self::pages::CheckedPages;
use super::cache::BlockCache;
use super::origin::Origin;
use crate::base::checksum::ContentHash;
use crate::base::{Error, FileId, KeyGroup, KeyGroupRange, Result};
use crate::env::ReadAt;
use crate::env::ledger::{Charge, MemoryComponent, MemoryLedger};
use crate::env::local_files::LocalFile;
use crate::env::mmap::PageBuf;
use crate::format::TableMeta;
use crate::format::block::DataBlock;
use crate::format::collection::Placement;
use crate::format::frame::{FRAME_HEADER_BYTES, PartKind, decode_frame};
use crate::format::index::{BlockEntry, Index};
use crate::format::properties::{Properties, StateProperties};
use crate::format::table::Footer;

/// An open table. Immutable and shared: `&self` from any thread.
///
/// Of a mapped file it holds some hundred bytes, the properties, and a few bytes for each
/// page of filter and index; of any other the index (16 bytes a block) and the filter (1
/// byte a record by default), too.
/// [`memory_bytes`](Self::memory_bytes) says how much that is.
#[derive(Debug)]
pub struct TableReader {
    source: Arc<dyn ReadAt>,
    meta: TableMeta,
    /// Whether `meta.hash` is known, or only a placeholder.
    hash_known: bool,
    footer: Footer,
    properties: Properties,
    /// The first block of each state, and the number of blocks.
    block_starts: Box<[u32]>,
    /// What is held of filter and index, and where.
    holds: Held,
    held: Option<PageBuf>,
    /// Whether blocks are read by calls: as the file is not mapped, or although it is.
    by_calls: bool,
    /// Where the payloads of both are: in `held` if they are, or in the mapped file.
    filter: Range<usize>,
    index: Range<usize>,
    /// What has been checked of them in the mapped file, unless all was when the table was
    /// opened.
    checked: Option<CheckedPages>,
    cache: Option<Arc<BlockCache>>,
    /// Of all that is in memory.
    charge: Charge,
    /// Dropped after `source`: it may keep the file that this has open.
    origin: Option<Origin>,
}

thread_local! {
    /// Buffers for a block as stored and as decompressed, so that a lookup does
    /// not allocate.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    stored: Vec<u8>,
    raw: Vec<u8>,
    /// Counted with the backend of the table that was read last.
    charge: Charge,
}

impl Scratch {
    /// Gives up what is too large, and notes what is kept.
    #[inline]
    fn trim(&mut self, of: &Charge) {
        for buffer in [&mut self.stored, &mut self.raw] {
            if buffer.capacity() > SCRATCH_KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        self.charge.move_to(of);
        self.charge.set((self.stored.capacity() + self.raw.capacity()) as u64);
    }
}

/// Scratch buffers larger than this are freed after use.
const SCRATCH_KEPT_BYTES: usize = 1024 * 1024;

impl TableReader {
    /// Has the memory that it takes counted.
    #[must_use]
    pub fn charged_to(mut self, ledger: &Arc<MemoryLedger>) -> Self {
        self.charge = ledger.charge(MemoryComponent::OpenTables, self.memory_bytes() as u64);
        self
    }

    /// Keeps track of where the table is read, and of how much of it.
    #[must_use]
    pub(crate) fn with_origin(mut self, origin: Origin) -> Self {
        let start = match (&self.checked, self.holds) {
            (None, _) => self.footer.filter_at,
            (Some(_), Held::Index) => self.footer.index_at,
            (Some(_), _) => self.footer.searched().end,
        };
        origin.note_read(self.footer.footer_at - start);
        self.origin = Some(origin);
        self
    }

    /// The local file that it keeps, if it is read there.
    pub(crate) fn local_file(&self) -> Option<&Arc<LocalFile>> {
        self.origin.as_ref().and_then(|origin| origin.file.as_ref())
    }

    pub(super) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The very same table, to be read elsewhere since it cannot be read here.
    ///
    /// # Errors
    /// Why it cannot be read here, if there is no other.
    #[cold]
    pub(super) fn instead(&self, error: Error) -> Result<Arc<Self>> {
        match &self.origin {
            Some(origin) => origin.instead(error),
            None => Err(error),
        }
    }

    /// Has lookups take blocks from `cache`, and put there those that they read.
    #[must_use]
    pub fn with_cache(mut self, cache: Arc<BlockCache>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// What the table is.
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// Identity of the file.
    pub fn file(&self) -> FileId {
        self.meta.file
    }

    /// The groups from the first record to the last.
    pub fn groups(&self) -> KeyGroupRange {
        self.meta.groups
    }

    /// What the table holds, counted.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The states, in the order of their ordinals.
    pub fn states(&self) -> &[StateProperties] {
        &self.properties.states
    }

    /// The ordinal of the state of this name; `None` if the table has no
    /// record of it.
    pub fn state_ordinal(&self, name: &str) -> Option<u16> {
        self.properties.ordinal(name)
    }

    /// The index: every data block, in order, for planning reads and slices. Reads all of
    /// it that has not been looked at yet.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, `Unavailable` if it cannot be read.
    pub fn index(&self) -> Result<Index<'_>> {
        if self.holds == Held::Nothing {
            self.ask_for_searched(self.index.clone());
            self.ensure_sound(self.index.clone())?;
        }
        Ok(self.rows())
    }

    /// The index, of which nothing may be believed that has not been
    /// [seen to be sound](Self::ensure_row).
    #[inline]
    fn rows(&self) -> Index<'_> {
        Index::new(
            self.index_bytes(),
            &self.block_starts,
            self.footer.data(),
            self.properties.groups,
        )
    }

    /// Checks the row of a block, unless that has been done.
    #[inline]
    fn ensure_row(&self, number: usize) -> Result<()> {
        self.rows_in_file(number..number + 1).map_or(Ok(()), |rows| self.ensure_sound(rows))
    }

    /// Asks the system for the rows of these blocks, for who is going to look at each.
    pub(super) fn ask_for_rows(&self, blocks: &Range<usize>) {
        if let Some(rows) = self.rows_in_file(blocks.clone()) {
            self.ask_for_searched(rows);
        }
    }

    /// The blocks that can hold a record with this hash: see
    /// [`Index::blocks_of_hash`].
    #[inline]
    pub(super) fn blocks_of_hash(
        &self,
        ordinal: u16,
        group: KeyGroup,
        hash: u64,
    ) -> Result<Range<usize>> {
        let checked = self.checked.as_ref().filter(|_| self.holds == Held::Nothing);
        let within = checked.and_then(|checked| self.rows_near(checked, ordinal, group, hash));
        let blocks = self.rows().search(ordinal, group, hash, within, |row| self.ensure_row(row));
        blocks.map_err(|error| in_part(error, self.file(), PartKind::Index))
    }

    /// The blocks that hold records of these groups: see [`Index::blocks_of_groups`].
    pub(super) fn blocks_of_groups(
        &self,
        ordinal: u16,
        groups: KeyGroupRange,
    ) -> Result<Range<usize>> {
        let blocks = self.rows().search_groups(ordinal, groups, |row| self.ensure_row(row));
        blocks.map_err(|error| in_part(error, self.file(), PartKind::Index))
    }

    /// Checks all of filter and index, whatever has been checked of them.
    pub(super) fn verify_searched(&self) -> Result<()> {
        let footer = &self.footer;
        let mut parts =
            vec![(PartKind::Filter, footer.filter()), (PartKind::Index, footer.index())];
        // What is held was checked as it was read.
        parts.truncate(match self.holds {
            Held::Nothing => 2,
            Held::Index => 1,
            Held::Both => 0,
        });
        if let (Some((_, first)), Some((_, last))) = (parts.first(), parts.last()) {
            let all = first.start as usize..last.end as usize;
            self.ask_for_searched(all.clone());
            self.ensure_sound(all)?;
            for (kind, range) in parts {
                let mut unused = Vec::new();
                let frame = bytes_of(self.source(), range.clone(), &mut unused)?;
                decode_frame(frame, self.file(), kind, range.start, &mut Vec::new())?;
            }
        }
        check_index(&self.rows(), &self.properties)
            .map_err(|error| in_part(error, self.file(), PartKind::Index))
    }

    /// Bytes of memory that the open table occupies: neither the mapped file nor
    /// the block cache is counted.
    pub fn memory_bytes(&self) -> usize {
        let names: usize = self.properties.states.iter().map(|state| state.name.capacity()).sum();
        size_of::<Self>()
            + self.properties.states.capacity() * size_of::<StateProperties>()
            + names
            + size_of_val(&*self.block_starts)
            + self.checked.as_ref().map_or(0, CheckedPages::memory_bytes)
            + self.held_bytes()
    }

    /// Bytes of it that filter and index take.
    pub(crate) fn held_bytes(&self) -> usize {
        // On pages of its own.
        self.held.as_deref().map_or(0, <[u8]>::len).next_multiple_of(4096)
    }

    /// Whether its blocks are read by calls, be it mapped or not.
    pub(crate) fn is_read_by_calls(&self) -> bool {
        self.by_calls
    }

    /// Whether a state in it has lists or maps.
    pub(crate) fn has_collections(&self) -> bool {
        self.states().iter().any(|state| state.placement == Placement::Collection)
    }

    /// How the records of a state are placed; of a state that the table does
    /// not know, singly.
    #[inline]
    pub fn placement(&self, ordinal: u16) -> Placement {
        let state = self.properties.states.get(usize::from(ordinal));
        state.map_or(Placement::Single, |state| state.placement)
    }

    pub(super) fn source(&self) -> &dyn ReadAt {
        &*self.source
    }

    /// The file, as it was opened.
    pub(crate) fn bytes(&self) -> &Arc<dyn ReadAt> {
        &self.source
    }

    /// Where the parts of the file lie.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The hash of the whole file, if it is known.
    pub(super) fn expected_hash(&self) -> Option<ContentHash> {
        self.hash_known.then_some(self.meta.hash)
    }

    /// The payload of the filter. Empty if the file is not what it was: an empty filter
    /// excludes nothing.
    #[inline]
    fn filter_bytes(&self) -> &[u8] {
        self.part(&self.filter, self.holds == Held::Both)
    }

    /// The payload of the index. Empty if the file is not what it was: it says so when it
    /// is asked for a block.
    #[inline]
    fn index_bytes(&self) -> &[u8] {
        self.part(&self.index, self.holds != Held::Nothing)
    }

    #[inline]
    fn part(&self, range: &Range<usize>, is_held: bool) -> &[u8] {
        let bytes = if is_held { self.held.as_deref() } else { self.source.as_slice() };
        bytes.and_then(|bytes| bytes.get(range.clone())).unwrap_or_default()
    }

    /// Where rows of the index lie in the file, if they are searched there.
    #[inline]
    fn rows_in_file(&self, rows: Range<usize>) -> Option<Range<usize>> {
        let [start, end] = [rows.start, rows.end].map(|row| Index::range_of_row(row).start);
        let start = self.index.start + start;
        (self.holds == Held::Nothing).then(|| start..(self.index.start + end).min(self.index.end))
    }

    /// The payload of a block, checked: in the mapped file, or in a buffer.
    /// `frame` is its frame where the caller has it already.
    pub(super) fn payload<'a>(
        &self,
        entry: &BlockEntry,
        frame: &'a [u8],
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let file = self.meta.file;
        decode_frame(frame, file, PartKind::Data, entry.offset, scratch)
    }

    /// The block in `payload`, checked against the index.
    pub(super) fn parse<'a>(&self, entry: &BlockEntry, payload: &'a [u8]) -> Result<DataBlock<'a>> {
        let block =
            DataBlock::parse(payload).map_err(|error| in_block(error, self.file(), entry))?;
        let (first, last) = (block.first_group(), block.last_group());
        if block.records() != usize::from(entry.records)
            || (first, last) != (entry.first_group, entry.last_group)
        {
            let error = Error::corrupt("data block does not hold what the index says")
                .expected(format_args!(
                    "{} records in {} to {}",
                    entry.records, entry.first_group, entry.last_group
                ))
                .found(format_args!("{} in {first} to {last}", block.records()));
            return Err(in_block(error, self.file(), entry));
        }
        Ok(block)
    }

    /// Shows `body` the block of this number: from the cache, from the mapped
    /// file, or read.
    pub(super) fn with_block<T>(
        &self,
        number: usize,
        body: impl FnOnce(DataBlock<'_>) -> Result<T>,
    ) -> Result<T> {
        let cache = self.cache.as_deref().filter(|cache| cache.is_on());
        if let Some(block) = cache.and_then(|cache| cache.get(self.file(), number)) {
            return block.block().and_then(body).map_err(|error| self.in_block_of(error, number));
        }
        let mut body = Some(body);
        match self.with_own_block(number, cache, &mut body) {
            // It has not come to the body: somebody else may have the block.
            Err(error) => match body {
                Some(body) => self.instead(error)?.with_block(number, body),
                None => Err(error),
            },
            shown => shown,
        }
    }

    /// Shows the body, which it takes, a block of this very file.
    fn with_own_block<T>(
        &self,
        number: usize,
        cache: Option<&BlockCache>,
        body: &mut Option<impl FnOnce(DataBlock<'_>) -> Result<T>>,
    ) -> Result<T> {
        let entry = self.block(number)?;
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { stored, raw, .. } = scratch;
            let range = entry.offset..entry.end;
            let frame = if self.by_calls {
                read_piece(self.source(), range, stored).map(|()| &**stored)
            } else {
                // A touch alone would bring 128 KiB around it, and more for the next
                // page.
                self.source.will_need(entry.offset, entry.frame_bytes());
                self.source.await_page(entry.offset);
                bytes_of(self.source(), range, stored)
            };
            let frame = frame.map_err(|error| in_block(error, self.file(), &entry))?;
            let payload = self.payload(&entry, frame, raw)?;
            let block = self.parse(&entry, payload)?;
            if let Some(cache) = cache {
                cache.insert(self.file(), number, payload, block.layout());
            }
            if let Some(origin) = &self.origin {
                origin.note_look_up(entry.frame_bytes());
            }
            let body = body.take().expect("a block is shown once");
            let result = body(block).map_err(|error| in_block(error, self.file(), &entry));
            scratch.trim(&self.charge);
            result
        })
    }

    /// What the index says about the block of this number.
    pub(super) fn block(&self, number: usize) -> Result<BlockEntry> {
        let rows = self.rows();
        // Where it ends, the next row says.
        let last = (number + 1).min(rows.len().saturating_sub(1));
        let sound = (number..=last).try_for_each(|row| self.ensure_row(row));
        let block = sound.and_then(|()| rows.block(number));
        block.map_err(|error| in_part(error, self.file(), PartKind::Index))
    }

    #[cold]
    fn in_block_of(&self, error: Error, number: usize) -> Error {
        match self.block(number) {
            Ok(entry) => in_block(error, self.file(), &entry),
            Err(_) => error.at(format_args!("file {}, data block {number}", self.file())),
        }
    }
}

/// Checks the rows of the index, and that the properties speak of the same
/// records.
fn check_index(index: &Index<'_>, properties: &Properties) -> Result<()> {
    index.check(|ordinal, records| {
        let state = &properties.states[usize::from(ordinal)];
        if records == state.records {
            return Ok(());
        }
        Err(Error::corrupt("index and properties contradict each other")
            .at(format_args!("state {:?}", state.name))
            .expected(format_args!("{} records", state.records))
            .found(records))
    })
}

/// The payload of a part that fills `range`, where it lies in the file.
fn payload_of(range: Range<u64>) -> Range<usize> {
    range.start as usize + FRAME_HEADER_BYTES..range.end as usize
}

fn in_part(error: Error, file: FileId, kind: PartKind) -> Error {
    error.at(format_args!("file {file}, {}", kind.name()))
}

pub(super) fn in_block(error: Error, file: FileId, entry: &BlockEntry) -> Error {
    error.at(format_args!("file {file}, data block at offset {}", entry.offset))
}

/// Fills `buf` from `offset`.
pub(super) fn read_exact(source: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<()> {
    source.read_at(offset, buf).map_err(|why| cannot_read(source, offset, buf.len(), why))
}

#[cold]
fn cannot_read(source: &dyn ReadAt, offset: u64, bytes: usize, why: std::io::Error) -> Error {
    let at = format!("{source:?}, {bytes} bytes at offset {offset}");
    match why.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::corrupt("table file ends early")
            .at(at)
            .remedy("restore the file from another copy")
            .source(why),
        _ => Error::io("could not read a table", why).at(at),
    }
}

/// Reads a range into a buffer, also of a file that is mapped.
pub(super) fn read_through(
    source: &dyn ReadAt,
    range: Range<u64>,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let buffer = sized(source, &range, buffer)?;
    read_all_through(source, range.start, buffer)
}

/// As [`read_through`], of as many bytes as the buffer has.
pub(super) fn read_all_through(source: &dyn ReadAt, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let read = source.read_through(offset, buffer);
    read.map_err(|why| cannot_read(source, offset, buffer.len(), why))
}

/// As [`read_through`], for a piece that is waited for.
fn read_piece(source: &dyn ReadAt, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<()> {
    let buffer = sized(source, &range, buffer)?;
    let read = source.read_piece(range.start, buffer);
    read.map_err(|why| cannot_read(source, range.start, buffer.len(), why))
}

/// The buffer with as many bytes as the range has, which has to lie in the file.
fn sized<'a>(
    source: &dyn ReadAt,
    range: &Range<u64>,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a mut [u8]> {
    ensure_inside(source, range)?;
    // What is there already is overwritten, so only growth is zeroed.
    buffer.resize((range.end - range.start) as usize, 0);
    Ok(buffer)
}

/// Whether a range lies in the file.
pub(super) fn ensure_inside(source: &dyn ReadAt, range: &Range<u64>) -> Result<()> {
    if range.start > range.end || range.end > source.len() {
        return Err(ends_early(source, range));
    }
    Ok(())
}

#[cold]
fn ends_early(source: &dyn ReadAt, range: &Range<u64>) -> Error {
    Error::corrupt("table file ends early")
        .at(format_args!("{source:?}"))
        .expected(format_args!("at least {} bytes", range.end))
        .found(source.len())
}

/// The bytes of `range`: where they are mapped, or read into `buffer`.
pub(super) fn bytes_of<'a>(
    source: &'a dyn ReadAt,
    range: Range<u64>,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    ensure_inside(source, &range)?;
    if let Some(file) = source.as_slice() {
        let bytes = file.get(range.start as usize..range.end as usize);
        return bytes.ok_or_else(|| ends_early(source, &range));
    }
    let buffer = sized(source, &range, buffer)?;
    read_exact(source, range.start, buffer)?;
    Ok(buffer)
}
