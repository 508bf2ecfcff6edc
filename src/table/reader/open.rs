//! Opening a table: its end is read and checked, and of filter and index as much as has to
//! be known before they are looked at.

use std::ops::Range;
use std::sync::Arc;

use super::pages::CheckedPages;
use super::{TableReader, bytes_of, cannot_read, check_index, in_part, payload_of, read_exact};
use crate::base::checksum::ContentHash;
use crate::base::{Error, Result};
use crate::env::ReadAt;
use crate::env::ledger::{Charge, MemoryLedger};
use crate::env::mmap::PageBuf;
use crate::format::TableMeta;
use crate::format::filter::Filter;
use crate::format::frame::{FRAME_HEADER_BYTES, PartKind, decode_frame};
use crate::format::index::Index;
use crate::format::page_sums::SummedPages;
use crate::format::properties::{Properties, StateProperties};
use crate::format::table::{FOOTER_BYTES, Footer, HEADER_BYTES};

/// What of a table is in memory besides its end. Of a file that is not mapped, always both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Held {
    /// Neither filter nor index: they are searched in the mapped file.
    Nothing,
    /// The index alone.
    Index,
    /// Filter and index.
    Both,
}

/// Page sums, properties and footer are hardly ever more than this at the end of a table:
/// sums for eight megabytes of filter and index.
const LIKELY_END_BYTES: u64 = 16 * 1024;

impl TableReader {
    /// Opens the table that `expected` describes.
    ///
    /// Reads and checks the footer and the properties, and, unless the file is mapped, the
    /// filter and the index: two reads. Of a mapped file (if the table is of a version with
    /// [page sums](crate::format::page_sums)) those two are checked a page at a time, when
    /// they are first looked at; data blocks when they are read, the hash of the whole file
    /// by [`verify`](Self::verify).
    ///
    /// # Errors
    /// `Corrupt` if it is not that file or a part is damaged, `Incompatible` if
    /// it is a table of another version, `Unavailable` if it cannot be read.
    pub fn open(source: Arc<dyn ReadAt>, expected: &TableMeta) -> Result<Self> {
        Self::open_as(source, expected, Held::Nothing)
    }

    /// As [`open`](Self::open), with filter and index in memory even if the file is
    /// mapped: then nobody can push them out. [`memory_bytes`](Self::memory_bytes)
    /// says what that takes.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_held(source: Arc<dyn ReadAt>, expected: &TableMeta) -> Result<Self> {
        Self::open_as(source, expected, Held::Both)
    }

    fn open_as(source: Arc<dyn ReadAt>, expected: &TableMeta, held: Held) -> Result<Self> {
        if source.len() != expected.bytes {
            return Err(Error::corrupt("table file has the wrong size")
                .at(format_args!("file {}, {source:?}", expected.file))
                .expected(format_args!("{} bytes", expected.bytes))
                .found(source.len())
                .remedy("restore the file from another copy"));
        }
        let opened = Self::open_parts(&source, held);
        let mut reader = opened.map_err(|error| error.at(format_args!("{source:?}")))?;
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
        let opened = Self::open_parts(&source, Held::Nothing);
        opened.map_err(|error| error.at(format_args!("{source:?}")))
    }

    /// Asks for what [`open`](Self::open) is going to read of a table that is near, so that
    /// it is on its way while others are opened. Waits for nothing.
    pub(crate) fn ask_for_end(source: &dyn ReadAt) {
        let bytes = source.len();
        if source.as_slice().is_some() {
            source.read_singly(0, bytes);
        }
        let start = bytes.saturating_sub(LIKELY_END_BYTES);
        source.will_need(start, bytes - start);
    }

    fn open_parts(source: &Arc<dyn ReadAt>, held: Held) -> Result<Self> {
        let bytes = source.len();
        let footer = read_footer(&**source)?;
        let file = footer.file;

        let holds = held.or_more(source.as_slice().is_some(), &footer);
        let mapped = holds == Held::Nothing;
        // What is not held is looked at now, or page by page when it is needed.
        let is_later = holds != Held::Both && footer.sums().is_some();
        let start = match holds {
            Held::Index => footer.index_at,
            Held::Nothing if is_later => footer.searched().end,
            Held::Nothing | Held::Both => footer.filter_at,
        };
        let range = start..footer.footer_at;
        let (mut held, mut unused) = (None, Vec::new());
        let tail = if mapped {
            let bytes = range.end - range.start;
            source.will_need(start, bytes);
            let resident = source.make_resident(start, bytes);
            resident.map_err(|why| cannot_read(&**source, start, bytes as usize, why))?;
            bytes_of(&**source, range, &mut unused)?
        } else {
            // Pages of its own: it is large, and lives as long as the table is open.
            let pages = PageBuf::new((range.end - range.start) as usize)
                .map_err(|error| Error::io("no memory for the index of a table", error))?;
            let pages = held.insert(pages);
            source
                .read_through(range.start, pages)
                .map_err(|why| cannot_read(&**source, range.start, pages.len(), why))?;
            &**pages
        };
        // Where the payload of a part is in `tail`.
        let part = |kind, range: Range<u64>| {
            let at = (range.start - start) as usize;
            let frame = &tail[at..at + (range.end - range.start) as usize];
            // Only data blocks are compressed, so there is nothing to put here.
            let payload = decode_frame(frame, file, kind, range.start, &mut Vec::new())
                .map(|payload| payload.len())?;
            let at = at + FRAME_HEADER_BYTES;
            Ok::<_, Error>(at..at + payload)
        };
        let properties = part(PartKind::Properties, footer.properties())?;
        let properties = Properties::decode(&tail[properties])
            .map_err(|error| in_part(error, file, PartKind::Properties))?;
        let block_starts = properties
            .block_starts()
            .map_err(|error| in_part(error, file, PartKind::Properties))?;

        let pages = SummedPages::new(file, footer.searched());
        if let Some(sums) = footer.sums() {
            let sums = part(PartKind::PageSums, sums)?;
            let found = pages.check_payload(&tail[sums]);
            found.map_err(|error| in_part(error, file, PartKind::PageSums))?;
        }
        let checked = is_later.then(|| CheckedPages::none_of(&footer));
        let [filter, index] = if mapped && is_later {
            [footer.filter(), footer.index()].map(payload_of)
        } else {
            let filter = match holds {
                Held::Index => payload_of(footer.filter()),
                Held::Nothing | Held::Both => part(PartKind::Filter, footer.filter())?,
            };
            let index = part(PartKind::Index, footer.index())?;
            let rows =
                Index::new(&tail[index.clone()], &block_starts, footer.data(), properties.groups);
            check_index(&rows, &properties)
                .map_err(|error| in_part(error, file, PartKind::Index))?;
            let base = if mapped { start as usize } else { 0 };
            [filter, index].map(|part| base + part.start..base + part.end)
        };
        // Of others when the end has been read: until then a remote one keeps it.
        if source.as_slice().is_none() {
            source.read_singly(0, bytes);
        }
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
        let reader = Self {
            source,
            meta,
            hash_known: false,
            footer,
            properties,
            block_starts,
            by_calls: held.is_some(),
            holds,
            held,
            filter,
            index,
            checked,
            cache: None,
            charge: Charge::default(),
            origin: None,
        };
        // Nothing of either is read for this.
        Filter::decode(reader.filter_bytes())
            .map_err(|error| in_part(error, file, PartKind::Filter))?;
        let len = reader.rows().check_len();
        len.map_err(|error| in_part(error, file, PartKind::Index))?;
        Ok(reader)
    }

    /// What it holds.
    pub(crate) fn holds(&self) -> Held {
        self.holds
    }

    /// What it would hold if it was [reopened](Self::reopened) to hold this.
    pub(crate) fn would_hold(&self, held: Held) -> Held {
        held.or_more(self.source.as_slice().is_some(), &self.footer)
    }

    /// Bytes that this would take in memory, or takes.
    pub(crate) fn bytes_to_hold(&self, held: Held) -> u64 {
        let footer = &self.footer;
        let start = match self.would_hold(held) {
            Held::Nothing => footer.footer_at,
            Held::Index => footer.index_at,
            Held::Both => footer.filter_at,
        };
        (footer.footer_at - start).next_multiple_of(4096)
    }

    /// The same table once more, for a shard that is short of memory: with this in memory,
    /// or [more](Self::would_hold); and its blocks are read by calls. Pages of a map would
    /// come and go one by one, and each cost more than to copy the block.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn reopened(&self, held: Held, ledger: &Arc<MemoryLedger>) -> Result<Self> {
        let mut reader = Self::open_as(Arc::clone(&self.source), &self.meta, held)?;
        reader.hash_known = self.hash_known;
        reader.by_calls = true;
        reader.cache.clone_from(&self.cache);
        let reader = reader.charged_to(ledger);
        Ok(match self.origin.clone() {
            Some(origin) => reader.with_origin(origin),
            None => reader,
        })
    }
}

impl Held {
    /// What has to be held if this is to be, at least.
    fn or_more(self, is_mapped: bool, footer: &Footer) -> Self {
        match self {
            _ if !is_mapped => Self::Both,
            // Of a table without page sums the filter is checked whole or not at all.
            Self::Index if footer.sums().is_none() => Self::Both,
            held => held,
        }
    }
}

/// Reads and checks the footer.
fn read_footer(source: &dyn ReadAt) -> Result<Footer> {
    let bytes = source.len();
    let Some(footer_at) =
        bytes.checked_sub(FOOTER_BYTES as u64).filter(|&footer_at| footer_at > HEADER_BYTES as u64)
    else {
        return Err(Error::corrupt("too short to be a table").found(format_args!("{bytes} bytes")));
    };
    // A table is read here and there; scans do not go through the map. Of a map this is
    // said before the first touch, which would bring along as much as the disk reads ahead:
    // megabytes on some.
    if source.as_slice().is_some() {
        source.read_singly(0, bytes);
    }
    let mut footer = [0; FOOTER_BYTES];
    read_exact(source, footer_at, &mut footer)?;
    Footer::decode(&footer, bytes)
}
