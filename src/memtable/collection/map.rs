//! A page of a map: entries in the order of their map keys, each with the
//! epoch of its last change. A small map is one page.
//!
//! ```text
//! page:    | entries u32 | skip u32 | live u32 | entries x entry | entries x slot |
//!          0             4          8          12
//! entry:   | word u32 | value len u32 | epoch u32 | key | stamp u64, if TIMED | value |
//!          0          4               8           12
//! word:    bits 0..17 key length; bit 29 FRESH; bit 30 TIMED; bit 31 TOMBSTONE
//! ```
//!
//! `entries`, `skip` and the slots are those of [`slots`]; `live`
//! counts the entries that are not tombstones.
//!
//! - A removed entry stays as a *tombstone*, so that its epoch can say so. One
//!   that is `FRESH`, whose key was absent here and in every table when its
//!   epoch began, vanishes if it is removed in that epoch.
//! - An entry that expires counts as live until it is
//!   [purged](MapPageMut::purge); who reads asks [`MapEntry::is_expired`].
//! - A page grows without regard to its size. The owner of a map splits it when
//!   it [`wants_split`](MapPage::wants_split), which leaves an entry that is
//!   larger than a page alone in its page.

mod change;

use std::ops::Bound;

use crate::base::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::base::{Epoch, Result};

use super::slots::{self, KEY_LEN, SLOT_BYTES, Shape, Sorted};
use super::{Buffer, NEVER, common_prefix, get_u32, put_u32};

pub(crate) use self::change::{MapPageMut, overwrite};

/// Bytes of a page without entries.
pub(crate) const PAGE_HEADER_BYTES: usize = 12;

/// A longer page with two entries or more is one to be split.
///
/// Larger: fewer pages and a smaller root, but more bytes to move for an
/// insertion and to copy when a frozen page is touched. Smaller: the reverse.
pub(crate) const TARGET_PAGE_BYTES: usize = 4096;

/// Most bytes that an entry adds to a page besides its key and value.
pub(crate) const MAX_ADDED_BYTES: usize = ENTRY_HEADER_BYTES + STAMP_BYTES + SLOT_BYTES;

/// Longest page: the largest entry, and what else a page may hold.
pub(crate) const MAX_PAGE_BYTES: usize = MAX_VALUE_BYTES + (1 << 20);

const ENTRY_HEADER_BYTES: usize = 12;
const VALUE_LEN_AT: usize = 4;
const EPOCH_AT: usize = 8;
const STAMP_BYTES: usize = 8;
const LIVE_AT: usize = 8;

const TOMBSTONE: u32 = 1 << 31;
const TIMED: u32 = 1 << 30;
const FRESH: u32 = 1 << 29;

// An entry of any size finds room beside a page of small ones, and offsets are u32.
const _: () = assert!(
    PAGE_HEADER_BYTES
        + ENTRY_HEADER_BYTES
        + SLOT_BYTES
        + STAMP_BYTES
        + MAX_KEY_BYTES
        + 16 * TARGET_PAGE_BYTES
        < MAX_PAGE_BYTES - MAX_VALUE_BYTES
);
const _: () = assert!(MAX_PAGE_BYTES <= u32::MAX as usize);

struct Page;

impl Shape for Page {
    const HEADER_BYTES: usize = PAGE_HEADER_BYTES;
    const KEY_AT: usize = ENTRY_HEADER_BYTES;
}

/// One entry of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MapEntry<'a> {
    /// Its map key.
    pub(crate) key: &'a [u8],
    /// Its value; `None` says that it was removed.
    pub(crate) value: Option<&'a [u8]>,
    /// The epoch of its last change.
    pub(crate) epoch: Epoch,
    /// When it was written or read last, or [`NEVER`].
    pub(crate) stamp: u64,
}

impl<'a> MapEntry<'a> {
    /// Whether it has expired: its stamp is not above `cutoff`.
    #[inline]
    pub(crate) fn is_expired(&self, cutoff: u64) -> bool {
        self.stamp <= cutoff
    }

    /// Takes apart the entry at the start of the bytes, and gives what follows.
    #[inline(always)]
    fn parse(bytes: &'a [u8]) -> (Self, &'a [u8]) {
        let (header, rest) = bytes.split_at(ENTRY_HEADER_BYTES);
        let word = get_u32(header, 0);
        let (key, mut rest) = rest.split_at((word & KEY_LEN) as usize);
        let mut stamp = NEVER;
        if word & TIMED != 0 {
            let (bytes, behind) = rest.split_first_chunk().expect("an entry is whole");
            (stamp, rest) = (u64::from_le_bytes(*bytes), behind);
        }
        let (value, rest) = rest.split_at(get_u32(header, VALUE_LEN_AT) as usize);
        let value = (word & TOMBSTONE == 0).then_some(value);
        (Self { key, value, epoch: Epoch(get_u32(header, EPOCH_AT)), stamp }, rest)
    }
}

/// Lends the entries of a page in order, tombstones included.
#[derive(Clone, Debug)]
pub(crate) struct MapEntries<'a> {
    rest: &'a [u8],
}

impl<'a> MapEntries<'a> {
    /// The entries that [`MapPage::copy_changes_in`] has copied.
    pub(crate) fn of_copy(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for MapEntries<'a> {
    type Item = MapEntry<'a>;

    #[inline]
    fn next(&mut self) -> Option<MapEntry<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (entry, rest) = MapEntry::parse(self.rest);
        self.rest = rest;
        Some(entry)
    }
}

/// Where to split a page.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    index: usize,
    separator: Vec<u8>,
}

impl Split {
    /// All keys of the upper page are at or above this one, all keys of the
    /// lower page below it. It is as short as that allows.
    pub(crate) fn separator(&self) -> &[u8] {
        &self.separator
    }
}

/// A page, to be read.
#[derive(Clone, Copy)]
pub(crate) struct MapPage<'a> {
    sorted: Sorted<'a, Page>,
}

impl<'a> MapPage<'a> {
    /// The page in the bytes of a record.
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { sorted: Sorted::new(bytes) }
    }

    /// Number of entries, tombstones included. A page without any has nothing
    /// more to say.
    #[inline]
    pub(crate) fn entries(&self) -> usize {
        self.sorted.entries()
    }

    /// Number of entries that are not tombstones.
    #[inline]
    pub(crate) fn live(&self) -> usize {
        get_u32(self.sorted.bytes, LIVE_AT) as usize
    }

    /// Whether no entry is live.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.live() == 0
    }

    /// The entry of a key: `None` if the page knows nothing of it, a tombstone
    /// if it was removed.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Option<MapEntry<'a>> {
        let at = self.sorted.search_offset(key).ok()?;
        Some(MapEntry::parse(&self.sorted.bytes[at..]).0)
    }

    /// All entries in order.
    #[inline]
    pub(crate) fn iter(&self) -> MapEntries<'a> {
        MapEntries { rest: &self.sorted.bytes[PAGE_HEADER_BYTES..self.sorted.end()] }
    }

    /// The entries from a bound on, in order.
    #[inline]
    pub(crate) fn iter_from(&self, bound: Bound<&[u8]>) -> MapEntries<'a> {
        let index = match bound {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.sorted.search(key).unwrap_or_else(|index| index),
            Bound::Excluded(key) => {
                self.sorted.search(key).map_or_else(|index| index, |index| index + 1)
            }
        };
        MapEntries { rest: &self.sorted.bytes[self.sorted.offset(index)..self.sorted.end()] }
    }

    /// The live entries from a bound on, in order; those that have expired
    /// among them.
    #[inline]
    pub(crate) fn live_from(
        &self,
        bound: Bound<&[u8]>,
    ) -> impl Iterator<Item = MapEntry<'a>> + use<'a> {
        self.iter_from(bound).filter(|entry| entry.value.is_some())
    }

    /// The entries whose last change was in an epoch, in order.
    pub(crate) fn changes_in(&self, epoch: Epoch) -> impl Iterator<Item = MapEntry<'a>> + use<'a> {
        self.iter().filter(move |entry| entry.epoch == epoch)
    }

    /// Appends the entries whose last change was in an epoch, one behind the
    /// other as they lie here, for [`MapEntries::of_copy`].
    pub(crate) fn copy_changes_in(&self, epoch: Epoch, out: &mut Vec<u8>) {
        let mut left = self.iter();
        let mut from = left.rest;
        while let Some(entry) = left.next() {
            if entry.epoch == epoch {
                out.extend_from_slice(&from[..from.len() - left.rest.len()]);
            }
            from = left.rest;
        }
    }

    /// Whether the page is long and can be split.
    #[inline]
    pub(crate) fn wants_split(&self) -> bool {
        self.sorted.bytes.len() > TARGET_PAGE_BYTES && self.entries() > 1
    }

    /// Where to split a page so that both are about as long; `None` if it has
    /// no two entries.
    pub(crate) fn plan_split(&self) -> Option<Split> {
        let entries = self.entries();
        if entries < 2 {
            return None;
        }
        let middle = usize::midpoint(PAGE_HEADER_BYTES, self.sorted.end());
        let mut index = 1;
        let mut above = entries - 1;
        while index < above {
            let at = usize::midpoint(index, above);
            if self.sorted.offset(at) < middle { index = at + 1 } else { above = at }
        }
        // The first entry that begins in the upper half, or the one before it.
        let distance = |index| self.sorted.offset(index).abs_diff(middle);
        if index > 1 && distance(index - 1) < distance(index) {
            index -= 1;
        }
        Some(self.split_between(index, self.sorted.key(index - 1), self.sorted.key(index)))
    }

    /// Whether a page stays within its limit if a key gets a value of
    /// `value_len` bytes. If not, [`plan_split_around`](Self::plan_split_around)
    /// that key first.
    pub(crate) fn has_room(&self, key: &[u8], value_len: usize) -> bool {
        let entry = ENTRY_HEADER_BYTES + key.len() + STAMP_BYTES + value_len + SLOT_BYTES;
        let replaced = match self.sorted.search(key) {
            Ok(index) => self.sorted.offset(index + 1) - self.sorted.offset(index),
            Err(_) => 0,
        };
        self.sorted.bytes.len() - replaced + entry <= MAX_PAGE_BYTES
    }

    /// Where to split a page so that a key comes to lie among fewer entries:
    /// splitting the page of the key in this way again and again leaves it
    /// alone. One of the two pages may have no entries. `None` if the key is
    /// alone.
    pub(crate) fn plan_split_around(&self, key: &[u8]) -> Option<Split> {
        let entries = self.entries();
        match self.sorted.search(key) {
            Ok(0) | Err(0) if entries == 0 => None,
            Ok(0) if entries == 1 => None,
            Ok(0) => Some(self.split_between(1, key, self.sorted.key(1))),
            Err(0) => Some(self.split_between(0, key, self.sorted.key(0))),
            Ok(index) | Err(index) => {
                Some(self.split_between(index, self.sorted.key(index - 1), key))
            }
        }
    }

    /// A split before entry `index`, with `below` in the lower page and `from`
    /// in the upper one.
    fn split_between(&self, index: usize, below: &[u8], from: &[u8]) -> Split {
        Split { index, separator: from[..=common_prefix(below, from)].to_vec() }
    }

    /// Makes `upper` the upper page of a split. The second step of it is
    /// [`MapPageMut::drop_upper`].
    ///
    /// # Errors
    /// If there is no memory; then `upper` is what it was.
    pub(crate) fn copy_upper(&self, split: &Split, upper: &mut impl Buffer) -> Result<()> {
        slots::copy_upper::<Page>(self.sorted.bytes, split.index, upper)?;
        count_live(upper.bytes_mut());
        Ok(())
    }

    /// Makes `new` a page of the same entries with their values in another
    /// form: `convert` appends what a value becomes.
    ///
    /// # Errors
    /// Those of `convert`, and those of [`MapPageMut::put`]; what is in `new` is
    /// a page then, but not this one.
    pub(crate) fn convert(
        &self,
        new: &mut impl Buffer,
        mut convert: impl FnMut(&[u8], &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut new = MapPageMut::create(new)?;
        let mut scratch = Vec::new();
        let mut at = PAGE_HEADER_BYTES;
        for (index, entry) in self.iter().enumerate() {
            scratch.clear();
            if let Some(value) = entry.value {
                convert(value, &mut scratch)?;
            }
            let flags = get_u32(self.sorted.bytes, at) & !KEY_LEN;
            let value = entry.value.map(|_| &scratch[..]);
            new.insert(index, flags & FRESH, MapEntry { value, ..entry })?;
            at = self.sorted.offset(index + 1);
        }
        Ok(())
    }
}

/// Counts the live entries of a page anew.
fn count_live(bytes: &mut [u8]) {
    let live = MapPage::new(bytes).live_from(Bound::Unbounded).count();
    put_u32(bytes, LIVE_AT, live as u32);
}
