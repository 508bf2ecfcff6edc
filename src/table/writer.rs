//! Writing a table.
//!
//! 1. Records come in order and gather in a block.
//! 2. A full block becomes a frame at the end of a buffer, a row of the index,
//!    and a hash for the filter each record.
//! 3. A full buffer goes to the file and through the content hash.
//! 4. At the end the filter, the index, the properties and the footer follow,
//!    and the file is made durable.

use std::fmt;
use std::mem;

use super::page_fit::PageFit;
use crate::base::checksum::ContentHasher;
use crate::base::limits::{
    MAX_KEY_BYTES, MAX_NAMESPACE_BYTES, MAX_STATE_NAME_BYTES, MAX_VALUE_BYTES,
};
use crate::base::{Error, FileId, KeyGroup, KeyGroupRange, MaxParallelism, Result, TimeDomain};
use crate::env::WriteFile;
use crate::env::ledger::Charge;
use crate::env::mmap::{PageBuf, PageVec};
use crate::format::block::{BlockBuilder, MAX_BLOCK_RECORDS, tag_of_hash};
use crate::format::collection::{EntryName, MAX_ENTRY_NAME_BYTES, Placement};
use crate::format::filter::{MAX_FILTER_BITS_PER_KEY, fill_filter, filter_bytes, filter_hash};
use crate::format::frame::{FRAME_HEADER_BYTES, FrameEncoder, FrameLens, PartKind};
use crate::format::index::{BlockEntry, IndexBuilder, MAX_TABLE_BYTES, hash_prefix};
use crate::format::manifest::MAX_STATES;
use crate::format::page_sums::PageSumsBuilder;
use crate::format::properties::{Properties, StateProperties};
use crate::format::table::{Footer, encode_header};
use crate::format::{Compression, TableMeta};

/// Default of [`TableOptions::block_bytes`]: 16 KiB.
pub const DEFAULT_BLOCK_BYTES: usize = 16 * 1024;
/// Least [`TableOptions::block_bytes`]: 512 bytes.
pub const MIN_BLOCK_BYTES: usize = 512;
/// Most [`TableOptions::block_bytes`]: 1 MiB.
pub const MAX_BLOCK_BYTES: usize = 1024 * 1024;
/// Default of [`TableOptions::filter_bits_per_key`]: 8.
pub const DEFAULT_FILTER_BITS_PER_KEY: u8 = 8;

/// Bytes that are gathered before the file is called. With blocks of the usual size the
/// buffer stays smaller than what allocators take from the system at once, and learn from
/// to keep more of what is freed.
const BUFFER_BYTES: usize = 64 * 1024;
/// Hashes on neighbouring pages: 256 KiB.
const HASHES_TOGETHER: usize = 32 * 1024;

/// How a table is laid out. Readers need none of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableOptions {
    /// Bytes of records, before compression, after which a block ends.
    ///
    /// Larger: better compression, a smaller index and cheaper scans, but every
    /// lookup reads, checks and decompresses more. Smaller: the reverse. From
    /// [`MIN_BLOCK_BYTES`] to [`MAX_BLOCK_BYTES`]; a record that is larger gets
    /// a block of its own. Default: [`DEFAULT_BLOCK_BYTES`].
    pub block_bytes: usize,

    /// How blocks are stored. Default: [`Compression::Lz4`].
    pub compression: Compression,

    /// Whether a block is to be what fits into a page of the file, 4 KiB as stored.
    /// `block_bytes` is then of no account: a block holds as much as compresses to a page,
    /// up to 16 KiB, and what is left of a page is padded if that is little. For tables that are read from a disk a record at a time: a block that lies
    /// across two pages costs a third more there. Takes some 3 % more space.
    /// Default: no.
    pub fit_pages: bool,

    /// Bits of the filter for each record.
    ///
    /// More: fewer blocks are read in vain for keys that the table does not
    /// have (8 bits: one in 40, 10: one in 100), for more memory in every
    /// process that opens the table. A shard gives half as many again to tables with
    /// older ones beneath them, of which a look-up asks many. 0 writes no filter, and every lookup reads
    /// a block; [`TableWriter::set_filtered`] does so for one state. At most 32.
    /// Default:
    /// [`DEFAULT_FILTER_BITS_PER_KEY`].
    pub filter_bits_per_key: u8,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            block_bytes: DEFAULT_BLOCK_BYTES,
            compression: Compression::default(),
            fit_pages: false,
            filter_bits_per_key: DEFAULT_FILTER_BITS_PER_KEY,
        }
    }
}

impl TableOptions {
    /// The same for a table with older ones beneath it: nearly all keys that are looked
    /// for there are somewhere else, and there are several such tables for each key.
    #[must_use]
    pub(crate) fn above_others(mut self) -> Self {
        let bits = self.filter_bits_per_key;
        self.filter_bits_per_key = (bits + bits / 2).min(MAX_FILTER_BITS_PER_KEY);
        self
    }

    /// Refuses options that no table can be written with.
    pub(crate) fn check(&self) -> Result<()> {
        if !(MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&self.block_bytes) {
            return Err(Error::invalid("block_bytes is out of range")
                .expected(format_args!("{MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}"))
                .found(self.block_bytes)
                .remedy("choose a size in that range; 16 KiB suits most states"));
        }
        if self.filter_bits_per_key > MAX_FILTER_BITS_PER_KEY {
            return Err(Error::invalid("filter_bits_per_key is out of range")
                .expected(format_args!("0 to {MAX_FILTER_BITS_PER_KEY}"))
                .found(self.filter_bits_per_key)
                .remedy("8 to 10 bits are enough for almost everybody"));
        }
        Ok(())
    }
}

/// Writes one table, record by record.
///
/// Needs memory for one block, a buffer of 64 KiB, 16 bytes a block for the
/// index, and 8 bytes a record (and a collection) for the filter.
///
/// After an error of the file the writer refuses further work, and the file
/// must be abandoned. Dropping an unfinished writer leaves a file that does not
/// open.
pub struct TableWriter {
    out: Box<dyn WriteFile>,
    file: FileId,
    max_parallelism: MaxParallelism,
    options: TableOptions,
    frames: FrameEncoder,
    /// Bytes that are not in the file yet.
    buffer: Vec<u8>,
    /// Bytes that are.
    written: u64,
    content: ContentHasher,
    block: BlockBuilder,
    /// Bytes of records at which the block ends.
    block_bytes: usize,
    fit: Option<PageFit>,
    /// Reused for the payload of each block.
    payload: Vec<u8>,
    first: (KeyGroup, u64),
    last: LastRecord,
    /// The smallest and the largest group so far.
    groups: Option<(KeyGroup, KeyGroup)>,
    index: IndexBuilder,
    hashes: Hashes,
    states: Vec<StateProperties>,
    failed: bool,
    /// Of all that is gathered until the table ends.
    charge: Charge,
}

/// What the filter is made of. A large table has millions, so they lie on pages that go
/// back to the system with the writer, and are never moved.
#[derive(Default)]
struct Hashes {
    /// All but the last are full.
    parts: Vec<PageVec<u64>>,
    count: usize,
}

impl Hashes {
    fn push(&mut self, hash: u64) {
        if self.count.is_multiple_of(HASHES_TOGETHER) {
            self.parts.push(PageVec::with_capacity(HASHES_TOGETHER));
        }
        if let Some(last) = self.parts.last_mut() {
            last.push(hash);
            self.count += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        self.parts.iter().flat_map(|part| part.iter().copied())
    }
}

/// The record that the next one must follow. Empty at the start of a state.
#[derive(Default)]
struct LastRecord {
    place: Option<(KeyGroup, u64)>,
    key: Vec<u8>,
    namespace: Vec<u8>,
}

impl fmt::Debug for TableWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableWriter")
            .field("file", &self.file)
            .field("states", &self.states.len())
            .field("bytes_written", &self.bytes_written())
            .finish_non_exhaustive()
    }
}

impl TableWriter {
    /// Starts a table in an empty file.
    ///
    /// # Errors
    /// `Invalid` if an option is out of range.
    pub fn new(
        out: Box<dyn WriteFile>,
        file: FileId,
        max_parallelism: MaxParallelism,
        options: TableOptions,
    ) -> Result<Self> {
        options.check()?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES + 2 * options.block_bytes);
        buffer.extend_from_slice(&encode_header(file));
        let fit = options.fit_pages.then(PageFit::new);
        let of_page = fit.as_ref().map(|fit| fit.block_bytes(buffer.len() as u64));
        Ok(Self {
            out,
            file,
            max_parallelism,
            options,
            frames: FrameEncoder::new(file, options.compression),
            buffer,
            written: 0,
            content: ContentHasher::new(),
            block: BlockBuilder::new(),
            block_bytes: of_page.unwrap_or(options.block_bytes),
            fit,
            payload: Vec::new(),
            first: (KeyGroup(0), 0),
            last: LastRecord::default(),
            groups: None,
            index: IndexBuilder::new(),
            hashes: Hashes::default(),
            states: Vec::new(),
            failed: false,
            charge: Charge::default(),
        })
    }

    /// Has the memory that the writer takes counted.
    #[must_use]
    pub fn with_charge(mut self, charge: Charge) -> Self {
        self.charge = charge;
        self.note_memory(0);
        self
    }

    /// Notes what is gathered by now, and so many bytes besides.
    fn note_memory(&mut self, besides: usize) {
        let bytes = self.hashes.count * size_of::<u64>()
            + self.index.payload().len()
            + self.buffer.capacity()
            + 2 * self.payload.capacity();
        self.charge.set((bytes + besides) as u64);
    }

    /// Begins a state; the records that follow are of it. Names come in
    /// strictly ascending order of their bytes.
    ///
    /// # Errors
    /// `Invalid` if the name is empty or too long, `Internal` if it is out of
    /// order, and any error of the file.
    pub fn begin_state(&mut self, name: &str) -> Result<()> {
        self.begin_placed_state(name, Placement::Single)
    }

    /// Begins a state whose records are placed in this way: see
    /// [`begin_state`](Self::begin_state). The records of
    /// [`Placement::Collection`] have an
    /// [entry name](crate::format::collection) in the place of the namespace.
    ///
    /// # Errors
    /// As [`begin_state`](Self::begin_state).
    pub fn begin_placed_state(&mut self, name: &str, placement: Placement) -> Result<()> {
        self.check_open()?;
        if name.is_empty() || name.len() > MAX_STATE_NAME_BYTES {
            return Err(Error::invalid("name of a state has a bad length")
                .expected(format_args!("1 to {MAX_STATE_NAME_BYTES} bytes"))
                .found(name.len()));
        }
        if let Some(before) = self.states.last().filter(|before| before.name.as_str() >= name) {
            return Err(Error::internal("states came out of order to a table")
                .at(format_args!("file {}", self.file))
                .expected(format_args!("a name after {:?}", before.name))
                .found(format_args!("{name:?}")));
        }
        if self.states.len() == MAX_STATES {
            return Err(Error::invalid("too many states for one table").expected(MAX_STATES));
        }
        self.end_block()?;
        self.states.push(StateProperties {
            name: name.to_owned(),
            placement,
            filtered: self.options.filter_bits_per_key > 0,
            ..Default::default()
        });
        self.last.place = None;
        Ok(())
    }

    /// Says what the values of the state are written under: the fingerprint of
    /// a [`Schema`](crate::codec::Schema). 0, which is said of a state that
    /// nothing is said of, is none that a manifest knows.
    ///
    /// # Errors
    /// `Internal` if no state was begun.
    pub fn set_value_schema(&mut self, fingerprint: u64) -> Result<()> {
        match self.states.last_mut() {
            Some(state) => {
                state.value_schema = fingerprint;
                Ok(())
            }
            None => Err(Error::internal("a schema came before the first state to a table")
                .at(format_args!("file {}", self.file))),
        }
    }

    /// Says which time the stamps in front of the values of the state are of;
    /// none, if nothing is said.
    ///
    /// # Errors
    /// `Internal` if no state was begun.
    pub fn set_stamps(&mut self, stamps: Option<TimeDomain>) -> Result<()> {
        match self.states.last_mut() {
            Some(state) => {
                state.stamps = stamps;
                Ok(())
            }
            None => Err(Error::internal("stamps came before the first state to a table")
                .at(format_args!("file {}", self.file))),
        }
    }

    /// Says what stamp none of the values of the state is above, when all of them have
    /// been added; nothing is known of that if nothing is said, or `None`.
    ///
    /// # Errors
    /// `Internal` if the values of the state have no stamps.
    pub fn set_newest_stamp(&mut self, newest: Option<u64>) -> Result<()> {
        match self.states.last_mut().filter(|state| state.stamps.is_some() || newest.is_none()) {
            Some(state) => {
                state.newest_stamp = newest;
                Ok(())
            }
            None => {
                Err(Error::internal("a newest stamp came to a table for values without stamps")
                    .at(format_args!("file {}", self.file)))
            }
        }
    }

    /// Says whether the records of the state go into the filter of the table;
    /// they do if nothing is said, unless the table has none
    /// ([`filter_bits_per_key`](TableOptions::filter_bits_per_key)).
    ///
    /// A filter costs memory in every process that opens the table, and only
    /// pays where keys are asked for that are not there. A state that is read as
    /// a whole needs none, nor does the oldest table of a state in which nearly
    /// every key that is asked for exists: a lookup then goes straight to the
    /// block.
    ///
    /// # Errors
    /// `Internal` if no state was begun, or it has records already.
    pub fn set_filtered(&mut self, filtered: bool) -> Result<()> {
        match self.states.last_mut().filter(|state| state.records == 0) {
            Some(state) => {
                state.filtered = filtered && self.options.filter_bits_per_key > 0;
                Ok(())
            }
            None => Err(Error::internal("a filter was set outside of the beginning of a state")
                .at(format_args!("file {}", self.file))),
        }
    }

    /// Adds the next record of the state; `None` for a tombstone. Records come
    /// in strictly ascending order of (group, hash, key, namespace), where
    /// `hash` is [`base::hash`](crate::base::hash) of key and namespace, and of
    /// the namespace proper if `namespace` is an entry name
    /// ([`Placement::hash`]).
    ///
    /// # Errors
    /// `Invalid` if a part is longer than its limit, `Internal` if the record
    /// is out of order, belongs to no state, its group is not one of the job's,
    /// or its namespace had to be an entry name and is none. Any error of the
    /// file.
    pub fn add(
        &mut self,
        group: KeyGroup,
        hash: u64,
        key: &[u8],
        namespace: &[u8],
        value: Option<&[u8]>,
    ) -> Result<()> {
        self.check_open()?;
        let value_len = value.map_or(0, <[u8]>::len);
        self.check_lens(key.len(), namespace.len(), value_len)?;
        self.check_order(group, hash, key, namespace)?;
        let own_hash = self.own_hash(hash, namespace)?;

        let record_bytes = key.len() + namespace.len() + value_len;
        if !self.block.is_empty()
            && (self.block.raw_bytes() + record_bytes > self.block_bytes
                || self.block.records() == MAX_BLOCK_RECORDS)
        {
            self.end_block()?;
        }
        if self.block.is_empty() {
            self.first = (group, hash);
        }
        self.block.push(group, tag_of_hash(own_hash), key, namespace, value);
        self.add_to_filter((group, hash), own_hash);
        self.last.place = Some((group, hash));
        self.last.key.clear();
        self.last.key.extend_from_slice(key);
        self.last.namespace.clear();
        self.last.namespace.extend_from_slice(namespace);
        let lens = [key.len(), namespace.len(), value_len];
        self.count_record(group, lens, value.is_none());
        Ok(())
    }

    /// Bytes of the table so far, of ended blocks only.
    pub fn bytes_written(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Ends the table and makes it durable. Blocks until the file is synced.
    ///
    /// # Errors
    /// `Invalid` if the table has no records. Any error of the file; after a
    /// failed sync the file must not be used, whatever it seems to hold.
    pub fn finish(self) -> Result<TableMeta> {
        self.finish_counted().map(|(meta, _)| meta)
    }

    /// As [`finish`](Self::finish), and says what the table holds of each state.
    ///
    /// # Errors
    /// As `finish`.
    pub fn finish_counted(mut self) -> Result<(TableMeta, Properties)> {
        self.check_open()?;
        let Some((smallest, largest)) = self.groups else {
            return Err(Error::invalid("a table needs at least one record")
                .at(format_args!("file {}", self.file))
                .remedy("write no table when nothing changed"));
        };
        let groups = KeyGroupRange::new(smallest, largest)?;
        self.end_block()?;
        let filter_at = self.bytes_written();
        let mut sums = PageSumsBuilder::new(self.file, filter_at);
        self.write_filter(filter_at, &mut sums)?;
        let index_at = self.bytes_written();
        self.write_index(index_at, &mut sums)?;
        let (sums_at, _) = self.append_frame(PartKind::PageSums, &sums.finish())?;
        let properties = Properties {
            max_parallelism: self.max_parallelism,
            groups,
            states: mem::take(&mut self.states),
        };
        let (properties_at, _) = self.append_frame(PartKind::Properties, &properties.encode())?;
        let footer = Footer {
            file: self.file,
            filter_at,
            index_at,
            sums_at: Some(sums_at),
            properties_at,
            footer_at: self.bytes_written(),
        };
        self.buffer.extend_from_slice(&footer.encode());
        self.flush()?;
        self.out.sync().map_err(|why| {
            Error::io("could not make a table durable", why)
                .at(format_args!("file {}", self.file))
                .remedy("check the disk's free space and health; the table is written again, as another file, by the next attempt")
        })?;
        let meta = TableMeta {
            file: self.file,
            bytes: self.written,
            hash: self.content.finish(),
            records: properties.total(|state| state.records),
            tombstones: properties.total(|state| state.tombstones),
            raw_bytes: properties.total(StateProperties::raw_bytes),
            groups,
        };
        Ok((meta, properties))
    }

    fn write_filter(&mut self, offset: u64, sums: &mut PageSumsBuilder) -> Result<()> {
        let bytes = filter_bytes(self.hashes.count, self.options.filter_bits_per_key);
        self.write_in_place(PartKind::Filter, bytes, offset, sums, |writer, filter| {
            fill_filter(filter, writer.hashes.iter());
            writer.hashes = Hashes::default();
        })
    }

    fn write_index(&mut self, offset: u64, sums: &mut PageSumsBuilder) -> Result<()> {
        let bytes = self.index.payload().len();
        self.write_in_place(PartKind::Index, bytes, offset, sums, |writer, index| {
            index.copy_from_slice(writer.index.payload());
            writer.index = IndexBuilder::new();
        })
    }

    /// Writes a part that may be as large as all else that is in memory, and is searched
    /// later: it is made where it is written from.
    fn write_in_place(
        &mut self,
        kind: PartKind,
        bytes: usize,
        offset: u64,
        sums: &mut PageSumsBuilder,
        fill: impl FnOnce(&mut Self, &mut [u8]),
    ) -> Result<()> {
        self.note_memory(bytes);
        let mut frame = PageBuf::on_small_pages(FRAME_HEADER_BYTES + bytes)
            .map_err(|why| Error::io("no memory for filter or index of a table", why))?;
        fill(self, &mut frame[FRAME_HEADER_BYTES..]);
        let framed = self.frames.frame_in_place(&mut frame, kind, offset);
        if let Err(error) = framed {
            self.failed = true;
            return Err(error);
        }
        sums.add(&frame);
        self.flush()?;
        self.write_out(&frame)?;
        self.note_memory(0);
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        if self.failed {
            return Err(Error::closed("table writer failed before")
                .at(format_args!("file {}", self.file))
                .remedy("check the disk's free space and health; the table is written again, as another file, by the next attempt"));
        }
        Ok(())
    }

    fn check_lens(&self, key: usize, namespace: usize, value: usize) -> Result<()> {
        let namespace_limit = match self.placement() {
            Placement::Single => MAX_NAMESPACE_BYTES,
            Placement::Collection => MAX_ENTRY_NAME_BYTES,
        };
        for (what, len, limit) in [
            ("key", key, MAX_KEY_BYTES),
            ("namespace", namespace, namespace_limit),
            ("value", value, MAX_VALUE_BYTES),
        ] {
            if len > limit {
                return Err(Error::invalid(format_args!("{what} is too long"))
                    .expected(format_args!("at most {limit} bytes"))
                    .found(len));
            }
        }
        Ok(())
    }

    fn check_order(&self, group: KeyGroup, hash: u64, key: &[u8], namespace: &[u8]) -> Result<()> {
        let place = (group, hash);
        let follows = self.last.place.is_none_or(|last| {
            last < place
                || last == place && (&*self.last.key, &*self.last.namespace) < (key, namespace)
        });
        let broken = if self.states.is_empty() {
            "came before the first state"
        } else if u32::from(group.0) >= self.max_parallelism.get() {
            "is in a key group that the job does not have"
        } else if !follows {
            "came out of order"
        } else {
            return Ok(());
        };
        Err(Error::internal(format_args!("a record {broken} to a table"))
            .at(format_args!("file {}", self.file))
            .expected(format_args!("a record behind {:?}", self.last.place))
            .found(format_args!("{place:?}")))
    }

    /// How records of the current state are placed.
    fn placement(&self) -> Placement {
        self.states.last().map_or(Placement::Single, |state| state.placement)
    }

    /// The hash that recognises the record.
    fn own_hash(&self, hash: u64, namespace: &[u8]) -> Result<u64> {
        let placement = self.placement();
        if placement == Placement::Single {
            return Ok(hash);
        }
        EntryName::decode(namespace).and_then(|_| placement.own_hash(hash, namespace)).map_err(
            |why| {
                Error::internal("a record of a collection came without a name to a table")
                    .at(format_args!("file {}", self.file))
                    .source(why)
            },
        )
    }

    /// Notes the record for the filter, and its collection if it is the first
    /// one of that.
    fn add_to_filter(&mut self, place: (KeyGroup, u64), own_hash: u64) {
        if self.states.last().is_none_or(|state| !state.filtered) {
            return;
        }
        let ordinal = self.states.len() as u16 - 1;
        let (group, hash) = place;
        self.hashes.push(filter_hash(ordinal, group, own_hash));
        if own_hash != hash && self.last.place != Some(place) {
            self.hashes.push(filter_hash(ordinal, group, hash));
        }
    }

    fn count_record(
        &mut self,
        group: KeyGroup,
        [key, namespace, value]: [usize; 3],
        deleted: bool,
    ) {
        let (smallest, largest) = self.groups.unwrap_or((group, group));
        self.groups = Some((smallest.min(group), largest.max(group)));
        let state = self.states.last_mut().expect("check_order saw a state");
        state.records += 1;
        state.tombstones += u64::from(deleted);
        state.key_bytes += key as u64;
        state.namespace_bytes += namespace as u64;
        state.value_bytes += value as u64;
    }

    fn end_block(&mut self) -> Result<()> {
        let Some((last_group, _)) = self.last.place.filter(|_| !self.block.is_empty()) else {
            return Ok(());
        };
        let (records, raw_bytes) = (self.block.records() as u16, self.block.raw_bytes());
        self.payload.clear();
        self.block.finish(&mut self.payload);
        // Taken out, so that the frame can be written beside it.
        let payload = mem::take(&mut self.payload);
        let (offset, lens) = self.append_frame(PartKind::Data, &payload)?;
        self.payload = payload;
        let end = offset + lens.frame_bytes();
        if let Some(fit) = &mut self.fit {
            fit.note(raw_bytes, lens);
            self.block_bytes = fit.block_bytes(end);
        }
        if end >= MAX_TABLE_BYTES {
            self.failed = true;
            return Err(Error::invalid("table is too large")
                .at(format_args!("file {}", self.file))
                .expected(format_args!("less than {MAX_TABLE_BYTES} bytes"))
                .remedy("write several smaller tables"));
        }
        self.index.push(BlockEntry {
            state: self.states.len() as u16 - 1,
            first_group: self.first.0,
            last_group,
            records,
            hash_prefix: hash_prefix(self.first.1),
            offset,
            end,
        });
        if let Some(state) = self.states.last_mut() {
            state.blocks += 1;
        }
        // One huge value must not pin its size for the rest of the table.
        if self.payload.capacity() > 4 * MAX_BLOCK_BYTES {
            self.payload = Vec::new();
            self.block = BlockBuilder::new();
        }
        self.note_memory(0);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Appends a frame to the buffer and says where it will stand. After an
    /// error the table has a hole, so the writer is failed.
    fn append_frame(&mut self, kind: PartKind, payload: &[u8]) -> Result<(u64, FrameLens)> {
        let offset = self.bytes_written();
        let appended = match kind {
            PartKind::Data if self.fit.is_some() => {
                self.frames.encode_to_page(&mut self.buffer, offset, payload)
            }
            _ => self.frames.encode(&mut self.buffer, kind, offset, payload),
        };
        match appended {
            Ok(lens) => Ok((offset, lens)),
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        let buffer = mem::take(&mut self.buffer);
        let written = self.write_out(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
        self.buffer.shrink_to(8 * MAX_BLOCK_BYTES);
        written
    }

    /// Hands bytes to the file.
    fn write_out(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(why) = self.out.write_all(bytes) {
            self.failed = true;
            return Err(Error::io("could not write a table", why)
                .at(format_args!("file {}, offset {}", self.file, self.written))
                .remedy("check the disk's free space and health; the table is written again, as another file, by the next attempt"));
        }
        self.content.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}
