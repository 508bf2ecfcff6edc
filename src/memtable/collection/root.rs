//! The root of a large map: which page holds which keys.
//!
//! ```text
//! root:   | pages u32 | skip u32 | live u64 | next page u32 | pages x entry | pages x slot |
//!         0           4          8          16              20
//! entry:  | separator length u32 | page u32 | separator |
//!         0                      4          8
//! ```
//!
//! `pages`, `skip` and the slots are those of [`slots`].
//!
//! - A page holds the keys from its separator on, up to the next one. The first
//!   separator is empty, so every key has a page.
//! - Page ids ascend and are never used twice.
//! - A root lives in memory only. No table ever has one: it follows from the
//!   pages, and those follow from the entries. So nobody but the writer reads
//!   it, and it may be changed in place in any epoch.
//!
//! Splitting a page is done in this order, so that a failure leaves the map as
//! it was: write the upper page under [`MapRoot::next_page`]; add it to the
//! root, or else delete what was written; drop the upper half of the old page,
//! which cannot fail.

use crate::base::{Error, Result};

use super::slots::{self, SLOT_BYTES, Shape, Sorted};
use super::{Buffer, check_len, get_u32, put_u32};
use crate::base::limits::MAX_VALUE_BYTES;

const ROOT_HEADER_BYTES: usize = 20;
const ENTRY_HEADER_BYTES: usize = 8;
const LIVE_AT: usize = 8;
const NEXT_PAGE_AT: usize = 16;
const PAGE_AT: usize = 4;

/// The id of a page within its map.
pub(crate) type PageId = u32;

struct Root;

impl Shape for Root {
    const HEADER_BYTES: usize = ROOT_HEADER_BYTES;
    const KEY_AT: usize = ENTRY_HEADER_BYTES;
}

/// The root of a map, to be read.
#[derive(Clone, Copy)]
pub(crate) struct MapRoot<'a> {
    sorted: Sorted<'a, Root>,
}

impl<'a> MapRoot<'a> {
    /// The root in the bytes of a record.
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { sorted: Sorted::new(bytes) }
    }

    /// Number of pages, at least one.
    #[inline]
    pub(crate) fn pages(&self) -> usize {
        self.sorted.entries()
    }

    /// Number of live entries in all pages.
    #[inline]
    pub(crate) fn live(&self) -> u64 {
        live(self.sorted.bytes)
    }

    /// The id that the next page gets.
    #[inline]
    pub(crate) fn next_page(&self) -> PageId {
        get_u32(self.sorted.bytes, NEXT_PAGE_AT)
    }

    /// The page that holds a key, if any does.
    #[inline]
    pub(crate) fn find_page(&self, key: &[u8]) -> PageId {
        self.page(self.index_of(key))
    }

    /// The pages from that which holds a key on, each with its separator, in
    /// the order of their keys.
    #[inline]
    pub(crate) fn pages_from(
        &self,
        key: &[u8],
    ) -> impl Iterator<Item = (&'a [u8], PageId)> + use<'a> {
        let root = *self;
        (self.index_of(key)..self.pages())
            .map(move |index| (root.sorted.key(index), root.page(index)))
    }

    /// The separator and the id of the page at a position below
    /// [`pages`](Self::pages).
    pub(crate) fn nth(&self, index: usize) -> (&'a [u8], PageId) {
        (self.sorted.key(index), self.page(index))
    }

    fn index_of(&self, key: &[u8]) -> usize {
        // Nothing is below the empty separator of the first page.
        self.sorted.search(key).unwrap_or_else(|index| index - 1)
    }

    fn page(&self, index: usize) -> PageId {
        get_u32(self.sorted.bytes, self.sorted.offset(index) + PAGE_AT)
    }
}

/// The root of a map, to be changed.
pub(crate) struct MapRootMut<'b, B> {
    buffer: &'b mut B,
}

impl<'b, B: Buffer> MapRootMut<'b, B> {
    /// The root in the bytes of a record.
    #[inline]
    pub(crate) fn new(buffer: &'b mut B) -> Self {
        debug_assert!(buffer.bytes().len() >= ROOT_HEADER_BYTES);
        Self { buffer }
    }

    /// Replaces whatever the buffer holds by a root with one page, whose id is
    /// 0, and `live` live entries.
    ///
    /// # Errors
    /// If there is no memory; then the buffer is what it was.
    pub(crate) fn create(buffer: &'b mut B, live: u64) -> Result<Self> {
        let len = ROOT_HEADER_BYTES + ENTRY_HEADER_BYTES + SLOT_BYTES;
        buffer.splice(0, buffer.bytes().len(), len)?;
        let bytes = buffer.bytes_mut();
        // All of it is zero but the number of pages, the id after this page's
        // and where the entry begins.
        bytes.fill(0);
        put_u32(bytes, 0, 1);
        bytes[LIVE_AT..LIVE_AT + 8].copy_from_slice(&live.to_le_bytes());
        put_u32(bytes, NEXT_PAGE_AT, 1);
        put_u32(bytes, ROOT_HEADER_BYTES + ENTRY_HEADER_BYTES, ROOT_HEADER_BYTES as u32);
        Ok(Self { buffer })
    }

    /// The root, to be read.
    #[inline]
    pub(crate) fn root(&self) -> MapRoot<'_> {
        MapRoot::new(self.buffer.bytes())
    }

    /// Counts live entries that came or, below zero, went.
    #[inline]
    pub(crate) fn add_live(&mut self, by: i64) {
        let bytes = self.buffer.bytes_mut();
        let live = live(bytes).checked_add_signed(by).expect("no more entries go than were there");
        bytes[LIVE_AT..LIVE_AT + 8].copy_from_slice(&live.to_le_bytes());
    }

    /// Adds the next page, which holds the keys from `separator` on.
    ///
    /// # Errors
    /// `Invalid` if ids are used up or the root becomes too long; if there is
    /// no memory.
    ///
    /// # Panics
    /// If a page has this separator.
    pub(crate) fn add_page(&mut self, separator: &[u8]) -> Result<PageId> {
        let root = self.root();
        let page = root.next_page();
        let index = root.sorted.search(separator).expect_err("separators differ");
        let Some(next) = page.checked_add(1) else {
            return Err(Error::invalid("a map has used up the ids of its pages")
                .expected(format_args!("at most {} pages in its life", u32::MAX))
                .remedy("spread the map over several keys"));
        };
        let len = ENTRY_HEADER_BYTES + separator.len();
        check_len(
            "the root of a map is too long",
            MAX_VALUE_BYTES,
            root.sorted.bytes.len() + len + SLOT_BYTES,
            "spread the map over several keys",
        )?;
        slots::insert::<Root>(self.buffer, index, separator, len, |entry| {
            put_u32(entry, 0, separator.len() as u32);
            put_u32(entry, PAGE_AT, page);
            entry[ENTRY_HEADER_BYTES..].copy_from_slice(separator);
        })?;
        put_u32(self.buffer.bytes_mut(), NEXT_PAGE_AT, next);
        Ok(page)
    }

    /// Removes the page that holds a key and gives its id. A neighbour holds
    /// its keys from now on: the one before it, or that after the first. `None`
    /// if it is the only page, which stays.
    ///
    /// # Errors
    /// None; whoever shortens a buffer has a `Result` to pass on.
    pub(crate) fn remove_page(&mut self, key: &[u8]) -> Result<Option<PageId>> {
        let root = self.root();
        if root.pages() == 1 {
            return Ok(None);
        }
        let index = root.index_of(key);
        let page = root.page(index);
        if index == 0 {
            // The first separator is empty and stays so: the second page takes
            // the place of the first.
            let (first, second) = (root.sorted.offset(0), root.page(1));
            put_u32(self.buffer.bytes_mut(), first + PAGE_AT, second);
        }
        slots::remove::<Root>(self.buffer, index.max(1))?;
        Ok(Some(page))
    }
}

fn live(bytes: &[u8]) -> u64 {
    let bytes = bytes[LIVE_AT..].first_chunk().expect("a root has a header");
    u64::from_le_bytes(*bytes)
}
