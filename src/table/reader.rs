//! Reading a table: what is known of it after opening, and point lookups.
//!
//! A lookup
//!
//! 1. asks the filter, which is in memory or mapped;
//! 2. finds the block in the index, which is in memory;
//! 3. reads that block (or finds it mapped), checks it, decompresses it;
//! 4. compares the records whose tag matches.
//!
//! Almost always one block is read for a key that is there, and none for a key
//! that is not.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use crate::base::checksum::ContentHash;
use crate::base::{Error, FileId, KeyGroup, KeyGroupRange, Result};
use crate::env::ReadAt;
use crate::format::TableMeta;
use crate::format::block::{DataBlock, Slot, tag_of_hash};
use crate::format::collection::Placement;
use crate::format::filter::{Filter, filter_hash};
use crate::format::frame::{FRAME_HEADER_BYTES, PartKind, decode_frame};
use crate::format::index::{BlockEntry, Index};
use crate::format::properties::{Properties, StateProperties};
use crate::format::table::{FOOTER_BYTES, Footer, HEADER_BYTES};

/// What a lookup found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Found {
    /// The table does not know the key; an older one may.
    Absent,
    /// The key was deleted, whatever older tables say.
    Deleted,
    /// The value is in the caller's buffer.
    Value,
}

impl Found {
    /// What is in a slot; a value goes to `out`.
    #[inline]
    pub(super) fn of(slot: Slot<'_>, out: &mut Vec<u8>) -> Self {
        match slot {
            Slot::Absent => Self::Absent,
            Slot::Deleted => Self::Deleted,
            Slot::Value(value) => {
                out.extend_from_slice(value);
                Self::Value
            }
        }
    }
}

/// An open table. Immutable and shared: `&self` from any thread.
///
/// Holds the index (32 bytes a block) and, unless the file is mapped, the
/// filter (1 byte a record by default) in memory.
#[derive(Debug)]
pub struct TableReader {
    source: Arc<dyn ReadAt>,
    meta: TableMeta,
    /// Whether `meta.hash` is known, or only a placeholder.
    hash_known: bool,
    footer: Footer,
    index: Index,
    properties: Properties,
    filter: FilterPlace,
}

#[derive(Debug)]
enum FilterPlace {
    Memory(Vec<u8>),
    /// The payload's place in the mapped file.
    Mapped(Range<usize>),
}

thread_local! {
    /// Buffers for a block as stored and as decompressed, so that a lookup does
    /// not allocate.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Scratch buffers larger than this are freed after use.
const SCRATCH_KEPT_BYTES: usize = 1024 * 1024;

impl TableReader {
    /// Opens the table that `expected` describes.
    ///
    /// Reads the footer, the filter, the index and the properties (two reads)
    /// and checks them; data blocks are checked when they are read, the hash of
    /// the whole file by [`verify`](Self::verify).
    ///
    /// # Errors
    /// `Corrupt` if it is not that file or a part is damaged, `Incompatible` if
    /// it is a table of another version, `Unavailable` if it cannot be read.
    pub fn open(source: Arc<dyn ReadAt>, expected: &TableMeta) -> Result<Self> {
        if source.len() != expected.bytes {
            return Err(Error::corrupt("table file has the wrong size")
                .at(format_args!("file {}, {source:?}", expected.file))
                .expected(format_args!("{} bytes", expected.bytes))
                .found(source.len())
                .remedy("restore the file from another copy"));
        }
        let mut reader = Self::open_any(source)?;
        // The hash is the one fact that opening does not compute.
        let found = TableMeta { hash: expected.hash, ..reader.meta };
        if found != *expected {
            return Err(Error::corrupt("not the table that was expected")
                .at(format_args!("{:?}", reader.source))
                .expected(format_args!("{expected:?}"))
                .found(format_args!("{found:?}"))
                .remedy("restore the file from another copy"));
        }
        reader.meta.hash = expected.hash;
        reader.hash_known = true;
        Ok(reader)
    }

    /// Opens whatever table `source` holds, for tools. Its [`meta`](Self::meta)
    /// says what the file says of itself; the hash in it is zero.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_any(source: Arc<dyn ReadAt>) -> Result<Self> {
        let opened = Self::open_parts(&source);
        opened.map_err(|error| error.at(format_args!("{source:?}")))
    }

    fn open_parts(source: &Arc<dyn ReadAt>) -> Result<Self> {
        let bytes = source.len();
        let Some(footer_at) = bytes
            .checked_sub(FOOTER_BYTES as u64)
            .filter(|&footer_at| footer_at > HEADER_BYTES as u64)
        else {
            return Err(
                Error::corrupt("too short to be a table").found(format_args!("{bytes} bytes"))
            );
        };
        let mut footer = [0; FOOTER_BYTES];
        read_exact(&**source, footer_at, &mut footer)?;
        let footer = Footer::decode(&footer, bytes)?;
        let file = footer.file;

        let mut buffer = Vec::new();
        let tail = bytes_of(&**source, footer.filter_at..footer.footer_at, &mut buffer)?;
        let part = |kind, range: Range<u64>| {
            let start = (range.start - footer.filter_at) as usize;
            let frame = &tail[start..start + (range.end - range.start) as usize];
            // Only data blocks are compressed, so there is nothing to put here.
            let payload = decode_frame(frame, file, kind, range.start, &mut Vec::new())
                .map(|payload| payload.len())?;
            Ok::<_, Error>(&frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload])
        };
        let filter = part(PartKind::Filter, footer.filter())?;
        let index = part(PartKind::Index, footer.index())?;
        let properties = part(PartKind::Properties, footer.properties())?;

        Filter::decode(filter).map_err(|error| in_part(error, file, PartKind::Filter))?;
        let properties = Properties::decode(properties)
            .map_err(|error| in_part(error, file, PartKind::Properties))?;
        let index = Index::decode(index, footer.data(), properties.groups)
            .and_then(|index| check_counts(&index, &properties).map(|()| index))
            .map_err(|error| in_part(error, file, PartKind::Index))?;
        let filter = if source.as_slice().is_some() {
            let start = footer.filter_at as usize + FRAME_HEADER_BYTES;
            FilterPlace::Mapped(start..start + filter.len())
        } else {
            FilterPlace::Memory(filter.to_vec())
        };
        let meta = TableMeta {
            file,
            bytes,
            hash: ContentHash(0),
            records: properties.total(|state| state.records),
            tombstones: properties.total(|state| state.tombstones),
            raw_bytes: properties.total(StateProperties::raw_bytes),
            groups: properties.groups,
        };
        let source = Arc::clone(source);
        Ok(Self { source, meta, hash_known: false, footer, index, properties, filter })
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

    /// Every data block, in order.
    pub fn blocks(&self) -> &[BlockEntry] {
        self.index.entries()
    }

    /// The index, for planning reads and slices.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Bytes of memory that the open table occupies, mapped bytes not counted.
    pub fn memory_bytes(&self) -> usize {
        let filter = match &self.filter {
            FilterPlace::Memory(filter) => filter.capacity(),
            FilterPlace::Mapped(_) => 0,
        };
        filter + size_of_val(self.index.entries()) + size_of::<Self>()
    }

    /// How the records of a state are placed; of a state that the table does
    /// not know, singly.
    #[inline]
    pub fn placement(&self, ordinal: u16) -> Placement {
        let state = self.properties.states.get(usize::from(ordinal));
        state.map_or(Placement::Single, |state| state.placement)
    }

    /// Whether the table may hold a record of this hash: the one that places
    /// it, so for a state of collections this asks for a whole collection.
    /// `false` is certain; `true` is wrong for about one stranger in 40. Reads
    /// no file.
    #[inline]
    pub fn may_contain(&self, ordinal: u16, group: KeyGroup, hash: u64) -> bool {
        if !self.meta.groups.contains(group) {
            return false;
        }
        self.filter().may_contain(filter_hash(ordinal, group, hash))
    }

    /// Looks a key up. The value, if there is one, is put into `out`, which is
    /// emptied first in any case.
    ///
    /// In a state of collections this finds one record of one: `namespace` is
    /// its [entry name](crate::format::collection), and `hash` the one that
    /// places the collection. Usually that reads one block, or none; in a
    /// collection of *n* blocks, log2(*n*).
    ///
    /// # Errors
    /// `Corrupt` if a block that had to be looked at is damaged, `Unavailable`
    /// if it could not be read, `Invalid` if `namespace` had to be an entry
    /// name and is none.
    pub fn get(
        &self,
        ordinal: u16,
        group: KeyGroup,
        hash: u64,
        key: &[u8],
        namespace: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Found> {
        out.clear();
        if self.placement(ordinal) == Placement::Collection {
            return self.get_of_collection(ordinal, group, hash, key, namespace, out);
        }
        if !self.may_contain(ordinal, group, hash) {
            return Ok(Found::Absent);
        }
        for block in self.index.blocks_of_hash(ordinal, group, hash) {
            let entry = &self.index.entries()[block];
            let found = self.with_block(entry, |block| {
                Ok(Found::of(block.find(group, tag_of_hash(hash), key, namespace)?, out))
            })?;
            if found != Found::Absent {
                return Ok(found);
            }
        }
        Ok(Found::Absent)
    }

    pub(super) fn source(&self) -> &dyn ReadAt {
        &*self.source
    }

    /// Where the parts of the file lie.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The hash of the whole file, if it is known.
    pub(super) fn expected_hash(&self) -> Option<ContentHash> {
        self.hash_known.then_some(self.meta.hash)
    }

    pub(super) fn filter(&self) -> Filter<'_> {
        let payload = match &self.filter {
            FilterPlace::Memory(filter) => filter.as_slice(),
            FilterPlace::Mapped(range) => {
                let file = self.source.as_slice();
                file.and_then(|file| file.get(range.clone())).unwrap_or_default()
            }
        };
        // Opening checked the length; an empty filter excludes nothing.
        Filter::decode(payload).unwrap_or_default()
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
        let payload = decode_frame(frame, file, PartKind::Data, entry.offset, scratch)?;
        if payload.len() != entry.lens.raw_len as usize {
            return Err(in_block(
                Error::corrupt("data block is not as long as the index says")
                    .expected(format_args!("{} bytes", entry.lens.raw_len))
                    .found(payload.len()),
                file,
                entry,
            ));
        }
        Ok(payload)
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

    pub(super) fn with_block<T>(
        &self,
        entry: &BlockEntry,
        body: impl FnOnce(DataBlock<'_>) -> Result<T>,
    ) -> Result<T> {
        SCRATCH.with_borrow_mut(|(stored, raw)| {
            let frame = bytes_of(self.source(), entry.offset..entry.end(), stored)
                .map_err(|error| in_block(error, self.file(), entry))?;
            let payload = self.payload(entry, frame, raw)?;
            let result = body(self.parse(entry, payload)?)
                .map_err(|error| in_block(error, self.file(), entry));
            for buffer in [stored, raw] {
                if buffer.capacity() > SCRATCH_KEPT_BYTES {
                    *buffer = Vec::new();
                }
            }
            result
        })
    }
}

/// Checks that the index and the properties speak of the same records.
fn check_counts(index: &Index, properties: &Properties) -> Result<()> {
    let mut rows = index.entries().chunk_by(|a, b| a.state == b.state).peekable();
    for (ordinal, state) in properties.states.iter().enumerate() {
        let of_state = rows.next_if(|rows| usize::from(rows[0].state) == ordinal);
        let records: u64 =
            of_state.unwrap_or_default().iter().map(|row| u64::from(row.records)).sum();
        if records != state.records {
            return Err(Error::corrupt("index and properties contradict each other")
                .at(format_args!("state {:?}", state.name))
                .expected(format_args!("{} records", state.records))
                .found(records));
        }
    }
    match rows.next() {
        None => Ok(()),
        Some(rows) => Err(Error::corrupt("index names a state that the properties do not")
            .expected(format_args!("less than {}", properties.states.len()))
            .found(rows[0].state)),
    }
}

fn in_part(error: Error, file: FileId, kind: PartKind) -> Error {
    error.at(format_args!("file {file}, {}", kind.name()))
}

pub(super) fn in_block(error: Error, file: FileId, entry: &BlockEntry) -> Error {
    error.at(format_args!("file {file}, data block at offset {}", entry.offset))
}

/// Fills `buf` from `offset`.
pub(super) fn read_exact(source: &dyn ReadAt, offset: u64, buf: &mut [u8]) -> Result<()> {
    source.read_at(offset, buf).map_err(|why| {
        let at = format!("{source:?}, {} bytes at offset {offset}", buf.len());
        match why.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::corrupt("table file ends early")
                .at(at)
                .remedy("restore the file from another copy")
                .source(why),
            _ => Error::io("could not read a table", why).at(at),
        }
    })
}

/// The bytes of `range`: where they are mapped, or read into `buffer`.
pub(super) fn bytes_of<'a>(
    source: &'a dyn ReadAt,
    range: Range<u64>,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let ends_early = || {
        Error::corrupt("table file ends early")
            .at(format_args!("{source:?}"))
            .expected(format_args!("at least {} bytes", range.end))
            .found(source.len())
    };
    if range.start > range.end || range.end > source.len() {
        return Err(ends_early());
    }
    if let Some(file) = source.as_slice() {
        return file.get(range.start as usize..range.end as usize).ok_or_else(ends_early);
    }
    let len = (range.end - range.start) as usize;
    // What is there already is overwritten, so only growth is zeroed.
    buffer.resize(len, 0);
    read_exact(source, range.start, buffer)?;
    Ok(buffer)
}
