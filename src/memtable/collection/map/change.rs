//! Changing a page of a map.

use crate::base::limits::{check_key, check_value};
use crate::base::{Epoch, Result};
use crate::memtable::Below;

use super::super::slots::{self, KEY_LEN, SLOT_BYTES};
use super::super::{Buffer, NEVER, check_len, get_u32, put_u32};
use super::{
    ENTRY_HEADER_BYTES, EPOCH_AT, FRESH, LIVE_AT, MAX_PAGE_BYTES, MapEntry, MapPage,
    PAGE_HEADER_BYTES, Page, STAMP_BYTES, Split, TIMED, TOMBSTONE, VALUE_LEN_AT, count_live,
};

/// A page, to be changed.
pub(crate) struct MapPageMut<'b, B> {
    buffer: &'b mut B,
}

impl<'b, B: Buffer> MapPageMut<'b, B> {
    /// The page in the bytes of a record.
    #[inline]
    pub(crate) fn new(buffer: &'b mut B) -> Self {
        debug_assert!(buffer.bytes().len() >= PAGE_HEADER_BYTES);
        Self { buffer }
    }

    /// Replaces whatever the buffer holds by a page without entries.
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn create(buffer: &'b mut B) -> Result<Self> {
        slots::create::<Page>(buffer)?;
        Ok(Self { buffer })
    }

    /// The page, to be read.
    #[inline]
    pub(crate) fn page(&self) -> MapPage<'_> {
        MapPage::new(self.buffer.bytes())
    }

    /// Gives a key a value with its stamp, or [`NEVER`]. True if the
    /// key had none. `below` says whether tables may know a key that the page
    /// does not.
    ///
    /// # Errors
    /// `Invalid` if key or value are too long, or there is no
    /// [room](MapPage::has_room); if there is no memory.
    #[inline]
    pub(crate) fn put(
        &mut self,
        epoch: Epoch,
        key: &[u8],
        value: &[u8],
        stamp: u64,
        below: Below,
    ) -> Result<bool> {
        check_value(value)?;
        match self.page().sorted.search(key) {
            Ok(index) => self.replace(index, epoch, key.len(), value, stamp),
            Err(index) => {
                let fresh = if below == Below::Nothing { FRESH } else { 0 };
                let entry = MapEntry { key, value: Some(value), epoch, stamp };
                self.insert(index, fresh, entry).map(|()| true)
            }
        }
    }

    /// Takes in an entry that a table has, unless the page knows the key. That
    /// changes nothing which tables have to know. True if it was taken in.
    ///
    /// # Errors
    /// As of [`put`](Self::put).
    pub(crate) fn promote(&mut self, key: &[u8], value: &[u8], stamp: u64) -> Result<bool> {
        check_value(value)?;
        let Err(index) = self.page().sorted.search(key) else { return Ok(false) };
        let entry = MapEntry { key, value: Some(value), epoch: Epoch::CLEAN, stamp };
        self.insert(index, 0, entry).map(|()| true)
    }

    /// Removes a key. True if the page had a value of it; if `below` says that
    /// tables may know a key which the page does not, one that is absent gets a
    /// tombstone.
    ///
    /// # Errors
    /// As of [`put`](Self::put), but only if a tombstone is added.
    pub(crate) fn remove(&mut self, epoch: Epoch, key: &[u8], below: Below) -> Result<bool> {
        let sorted = self.page().sorted;
        let index = match sorted.search(key) {
            Ok(index) => index,
            Err(_) if below == Below::Nothing => return Ok(false),
            Err(index) => {
                let entry = MapEntry { key, value: None, epoch, stamp: NEVER };
                return self.insert(index, 0, entry).map(|()| false);
            }
        };
        let (at, end) = (sorted.offset(index), sorted.offset(index + 1));
        let entry = &mut self.buffer.bytes_mut()[at..end];
        let word = get_u32(entry, 0);
        if word & TOMBSTONE != 0 {
            return Ok(false);
        }
        if vanishes(entry, epoch) {
            slots::remove::<Page>(self.buffer, index)?;
        } else {
            let remain = bury(entry, epoch);
            slots::resize::<Page>(self.buffer, index, at + remain, end - at - remain, 0)?;
        }
        self.add_live(-1);
        Ok(true)
    }

    /// The value of a key, to be changed where it is, at its present length;
    /// `None` if it has none. The entry counts as changed even if the bytes are
    /// not.
    #[inline]
    pub(crate) fn value_mut(&mut self, epoch: Epoch, key: &[u8]) -> Option<&mut [u8]> {
        let sorted = self.page().sorted;
        let index = sorted.search(key).ok()?;
        let (at, end) = (sorted.offset(index), sorted.offset(index + 1));
        let entry = &mut self.buffer.bytes_mut()[at..end];
        let word = get_u32(entry, 0);
        if word & TOMBSTONE != 0 {
            return None;
        }
        mark(entry, word & !FRESH | still_fresh(entry, epoch), epoch);
        let value_len = get_u32(entry, VALUE_LEN_AT) as usize;
        let value_at = entry.len() - value_len;
        Some(&mut entry[value_at..])
    }

    /// Gives the entry of a key that has a value and a stamp another stamp.
    pub(crate) fn restamp(&mut self, epoch: Epoch, key: &[u8], stamp: u64) {
        let sorted = self.page().sorted;
        let Ok(index) = sorted.search(key) else { return };
        let (at, end) = (sorted.offset(index), sorted.offset(index + 1));
        let entry = &mut self.buffer.bytes_mut()[at..end];
        let word = get_u32(entry, 0);
        if word & (TIMED | TOMBSTONE) != TIMED {
            return;
        }
        mark(entry, word & !FRESH | still_fresh(entry, epoch), epoch);
        let stamp_at = ENTRY_HEADER_BYTES + key.len();
        entry[stamp_at..stamp_at + STAMP_BYTES].copy_from_slice(&stamp.to_le_bytes());
    }

    /// Removes every key that the page has a value of, and says how many.
    ///
    /// # Errors
    /// None; whoever shortens a buffer has a `Result` to pass on.
    pub(crate) fn clear(&mut self, epoch: Epoch) -> Result<usize> {
        let live = self.page().live();
        slots::retain::<Page>(self.buffer, |entry| {
            if get_u32(entry, 0) & TOMBSTONE != 0 {
                return entry.len();
            }
            if vanishes(entry, epoch) { 0 } else { bury(entry, epoch) }
        })?;
        put_u32(self.buffer.bytes_mut(), LIVE_AT, 0);
        Ok(live)
    }

    /// Drops the tombstones that have been extracted. None goes as long as `below`
    /// says that the tables of a restored shard may still be asked for keys that
    /// the page does not know.
    ///
    /// # Errors
    /// None; whoever shortens a buffer has a `Result` to pass on.
    pub(crate) fn purge(&mut self, extracted: Epoch, below: Below) -> Result<()> {
        let goes = |entry: &MapEntry<'_>| entry.epoch <= extracted && entry.value.is_none();
        if below == Below::Tables || !self.page().iter().any(|entry| goes(&entry)) {
            return Ok(());
        }
        slots::retain::<Page>(self.buffer, |bytes| {
            if goes(&MapEntry::parse(bytes).0) { 0 } else { bytes.len() }
        })
    }

    /// Splits off the upper half, and gives the separator; `None` if there are
    /// no two entries.
    ///
    /// # Errors
    /// If there is no memory; then neither buffer has changed.
    pub(crate) fn split(&mut self, upper: &mut impl Buffer) -> Result<Option<Split>> {
        let Some(split) = self.page().plan_split() else { return Ok(None) };
        self.page().copy_upper(&split, upper)?;
        self.drop_upper(&split)?;
        Ok(Some(split))
    }

    /// Keeps the lower page of a split, whose upper page was
    /// [copied](MapPage::copy_upper) and entered into the root.
    ///
    /// # Errors
    /// None; whoever shortens a buffer has a `Result` to pass on.
    pub(crate) fn drop_upper(&mut self, split: &Split) -> Result<()> {
        slots::truncate::<Page>(self.buffer, split.index)?;
        count_live(self.buffer.bytes_mut());
        Ok(())
    }

    fn add_live(&mut self, by: i32) {
        let bytes = self.buffer.bytes_mut();
        let live = get_u32(bytes, LIVE_AT).wrapping_add_signed(by);
        put_u32(bytes, LIVE_AT, live);
    }

    /// Adds an entry at the index that a search for its key gave.
    pub(super) fn insert(&mut self, index: usize, flags: u32, entry: MapEntry<'_>) -> Result<()> {
        let MapEntry { key, value, epoch, stamp } = entry;
        check_key(key, b"")?;
        let timed = if stamp == NEVER { 0 } else { TIMED };
        let stamp_len = if stamp == NEVER { 0 } else { STAMP_BYTES };
        let dead = if value.is_none() { TOMBSTONE } else { 0 };
        let bytes = value.unwrap_or_default();
        let len = ENTRY_HEADER_BYTES + key.len() + stamp_len + bytes.len();
        check_page_len(self.buffer.bytes().len() + len + SLOT_BYTES)?;
        slots::insert::<Page>(self.buffer, index, key, len, |entry| {
            mark(entry, key.len() as u32 | flags | timed | dead, epoch);
            let (header, rest) = entry.split_at_mut(ENTRY_HEADER_BYTES);
            put_u32(header, VALUE_LEN_AT, bytes.len() as u32);
            let (to, rest) = rest.split_at_mut(key.len());
            to.copy_from_slice(key);
            put_value(rest, stamp, bytes);
        })?;
        self.add_live(i32::from(value.is_some()));
        Ok(())
    }

    /// Gives entry `index` another value; true if it had none.
    #[inline]
    fn replace(
        &mut self,
        index: usize,
        epoch: Epoch,
        key_len: usize,
        value: &[u8],
        stamp: u64,
    ) -> Result<bool> {
        let sorted = self.page().sorted;
        let (at, end) = (sorted.offset(index), sorted.offset(index + 1));
        let value_at = at + ENTRY_HEADER_BYTES + key_len;
        let (timed, stamp_len) = if stamp == NEVER { (0, 0) } else { (TIMED, STAMP_BYTES) };
        let (old_len, new_len) = (end - value_at, stamp_len + value.len());
        if old_len != new_len {
            check_page_len(sorted.bytes.len() - old_len + new_len)?;
            slots::resize::<Page>(self.buffer, index, value_at, old_len, new_len)?;
        }
        let bytes = self.buffer.bytes_mut();
        let entry = &mut bytes[at..value_at + new_len];
        let word = get_u32(entry, 0);
        mark(entry, word & KEY_LEN | timed | still_fresh(entry, epoch), epoch);
        put_u32(entry, VALUE_LEN_AT, value.len() as u32);
        put_value(&mut entry[ENTRY_HEADER_BYTES + key_len..], stamp, value);
        let had_none = word & TOMBSTONE != 0;
        if had_none {
            self.add_live(1);
        }
        Ok(had_none)
    }
}

/// Gives a key a value as long as the one it has, neither of which expires. False
/// says that it has none such; then nothing has changed.
#[inline(always)]
pub(crate) fn overwrite(page: &mut [u8], epoch: Epoch, key: &[u8], value: &[u8]) -> bool {
    let Ok(at) = MapPage::new(page).sorted.search_offset(key) else { return false };
    let (header, rest) = page[at..].split_at_mut(ENTRY_HEADER_BYTES);
    let word = get_u32(header, 0);
    if word & (TOMBSTONE | TIMED) != 0 || get_u32(header, VALUE_LEN_AT) as usize != value.len() {
        return false;
    }
    mark(header, word & KEY_LEN | still_fresh(header, epoch), epoch);
    rest[key.len()..][..value.len()].copy_from_slice(value);
    true
}

#[inline(always)]
fn mark(entry: &mut [u8], word: u32, epoch: Epoch) {
    put_u32(entry, 0, word);
    put_u32(entry, EPOCH_AT, epoch.0);
}

/// Writes what follows the key.
#[inline(always)]
fn put_value(bytes: &mut [u8], stamp: u64, value: &[u8]) {
    let (at, to) = bytes.split_at_mut(bytes.len() - value.len());
    if !at.is_empty() {
        at.copy_from_slice(&stamp.to_le_bytes());
    }
    to.copy_from_slice(value);
}

/// The fresh flag of an entry if it still holds in an epoch.
#[inline(always)]
fn still_fresh(entry: &[u8], epoch: Epoch) -> u32 {
    if get_u32(entry, EPOCH_AT) == epoch.0 { get_u32(entry, 0) & FRESH } else { 0 }
}

/// Whether a live entry leaves nothing behind if it is removed in an epoch.
fn vanishes(entry: &[u8], epoch: Epoch) -> bool {
    still_fresh(entry, epoch) != 0
}

/// Makes an entry a tombstone, of which so many of its first bytes remain.
fn bury(entry: &mut [u8], epoch: Epoch) -> usize {
    let key_len = get_u32(entry, 0) & KEY_LEN;
    mark(entry, key_len | TOMBSTONE, epoch);
    put_u32(entry, VALUE_LEN_AT, 0);
    ENTRY_HEADER_BYTES + key_len as usize
}

fn check_page_len(len: usize) -> Result<()> {
    check_len(
        "a page of a map is too long",
        MAX_PAGE_BYTES,
        len,
        "split the page around the key first",
    )
}
