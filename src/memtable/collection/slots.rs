//! Entries of any length in the order of their keys, and a directory to find
//! them by bisection.
//!
//! ```text
//! sorted:  | entries u32 | skip u32 | rest of header | entries x entry | entries x slot |
//!          0             4          8                HEADER_BYTES
//! entry:   | word u32 | rest of entry header | key | rest of entry |
//!          0          4                      KEY_AT
//! word:    bits 0..17 key length in bytes; bits 17..32 the layout's own
//! slot:    | offset u32 | head u32 |
//! ```
//!
//! - Entries lie in the order of their keys without gaps, so that a scan reads
//!   memory from front to back and needs no directory.
//! - All keys begin with the same `skip` bytes. `head` is the four bytes that
//!   follow them, as a big-endian number, padded with zeros: read as one
//!   little-endian `u64`, a slot compares first by head. Numbers, ids with a
//!   prefix and random keys are all told apart by their heads, so bisection
//!   stays in the directory and compares one whole key at the end.
//! - The directory lies behind the entries: an insertion then moves what comes
//!   after it, half of the bytes on average, where a directory in front would
//!   make it move all.
//!
//! `skip` may be shorter than what the keys have in common; it shrinks with an
//! insertion that needs it to, and grows again when entries are dropped or
//! moved in bulk.

use std::marker::PhantomData;

use crate::base::Result;
use crate::base::limits::MAX_KEY_BYTES;

use super::{Buffer, common_prefix, get_u32, put_u32, same_bytes};

pub(super) const SLOT_BYTES: usize = 8;
/// The part of an entry's first word that is the length of its key.
pub(super) const KEY_LEN: u32 = (1 << 17) - 1;
const SKIP_AT: usize = 4;

const _: () = assert!(MAX_KEY_BYTES <= KEY_LEN as usize);

/// What a layout adds to the directory.
pub(super) trait Shape {
    /// Bytes before the first entry.
    const HEADER_BYTES: usize;
    /// Where in an entry its key begins.
    const KEY_AT: usize;
}

/// The entries of a layout, to be read.
pub(super) struct Sorted<'a, S> {
    pub(super) bytes: &'a [u8],
    slots: &'a [[u8; SLOT_BYTES]],
    shape: PhantomData<S>,
}

impl<S> Clone for Sorted<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Sorted<'_, S> {}

impl<'a, S: Shape> Sorted<'a, S> {
    #[inline(always)]
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let (_, slots) = bytes.split_at(slots_at(bytes));
        Self { bytes, slots: slots.as_chunks().0, shape: PhantomData }
    }

    #[inline(always)]
    pub(super) fn entries(&self) -> usize {
        self.slots.len()
    }

    /// Where the entries end.
    #[inline(always)]
    pub(super) fn end(&self) -> usize {
        self.bytes.len() - self.slots.len() * SLOT_BYTES
    }

    /// Where entry `index` begins; the end of all for the one after the last.
    #[inline(always)]
    pub(super) fn offset(&self, index: usize) -> usize {
        if index == self.slots.len() { self.end() } else { offset_of(self.slots[index]) }
    }

    /// The key of entry `index`.
    #[inline(always)]
    pub(super) fn key(&self, index: usize) -> &'a [u8] {
        key_at::<S>(self.bytes, offset_of(self.slots[index]))
    }

    /// Where the entry with this key begins, or the index that it would have.
    #[inline(always)]
    pub(super) fn search_offset(&self, key: &[u8]) -> Result<usize, usize> {
        self.search(key).map(|index| offset_of(self.slots[index]))
    }

    /// The index of the entry with this key, or that which it would have.
    #[inline]
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let slots = self.slots;
        let Some(&first) = slots.first() else { return Err(0) };
        let skip = skip(self.bytes);
        if skip > 0 {
            let prefix = &key_at::<S>(self.bytes, offset_of(first))[..skip];
            if !key.starts_with(prefix) {
                return Err(if key < prefix { 0 } else { slots.len() });
            }
        }
        let rest = &key[skip..];
        let head = head(rest);
        let from = slots.partition_point(|&slot| head_of(slot) < head);
        let Some(&slot) = slots.get(from).filter(|&&slot| head_of(slot) == head) else {
            return Err(from);
        };
        let found = &key_at::<S>(self.bytes, offset_of(slot))[skip..];
        if same_bytes(found, rest) {
            return Ok(from);
        }
        if rest < found {
            return Err(from);
        }
        self.search_behind(from + 1, head, skip, rest)
    }

    /// Goes on from `from` among the entries that have the same head.
    #[inline(never)]
    fn search_behind(
        &self,
        from: usize,
        head: u32,
        skip: usize,
        rest: &[u8],
    ) -> Result<usize, usize> {
        let same = self.slots[from..].partition_point(|&slot| head_of(slot) == head);
        let same = &self.slots[from..from + same];
        let found = same
            .binary_search_by(|&slot| key_at::<S>(self.bytes, offset_of(slot))[skip..].cmp(rest));
        found.map(|index| from + index).map_err(|index| from + index)
    }
}

/// Writes the header of a layout without entries; the rest of it is zero.
pub(super) fn create<S: Shape>(buffer: &mut impl Buffer) -> Result<()> {
    buffer.splice(0, buffer.bytes().len(), S::HEADER_BYTES)?;
    buffer.bytes_mut().fill(0);
    Ok(())
}

/// Makes an entry of `entry_len` bytes at `index`, which [`Sorted::search`]
/// gave for its key, and lets `write` write it, key included.
pub(super) fn insert<S: Shape>(
    buffer: &mut impl Buffer,
    index: usize,
    key: &[u8],
    entry_len: usize,
    write: impl FnOnce(&mut [u8]),
) -> Result<()> {
    let sorted = Sorted::<S>::new(buffer.bytes());
    let entries = sorted.entries();
    let at = sorted.offset(index);
    let slot_at = sorted.end() + index * SLOT_BYTES;
    let len = sorted.bytes.len();
    let old_skip = skip(sorted.bytes);
    let new_skip = match entries {
        0 => key.len(),
        _ => common_prefix(&sorted.key(0)[..old_skip], key),
    };

    buffer.splice(len, 0, entry_len + SLOT_BYTES)?;
    let bytes = buffer.bytes_mut();
    bytes.copy_within(slot_at..len, slot_at + entry_len + SLOT_BYTES);
    bytes.copy_within(at..slot_at, at + entry_len);
    write(&mut bytes[at..at + entry_len]);
    let (slot, later) = bytes[slot_at + entry_len..].split_at_mut(SLOT_BYTES);
    slot.copy_from_slice(&slot_of(at, head(&key[new_skip..])));
    shift(later, entry_len, 0);
    put_u32(bytes, 0, entries as u32 + 1);
    if new_skip != old_skip {
        set_skip::<S>(bytes, new_skip);
    }
    Ok(())
}

/// Replaces the `remove` bytes at `at`, in or at the end of entry `index`, by
/// `insert` bytes of any content.
#[inline]
pub(super) fn resize<S: Shape>(
    buffer: &mut impl Buffer,
    index: usize,
    at: usize,
    remove: usize,
    insert: usize,
) -> Result<()> {
    buffer.splice(at, remove, insert)?;
    let bytes = buffer.bytes_mut();
    let later = slots_at(bytes) + (index + 1) * SLOT_BYTES;
    shift(&mut bytes[later..], insert, remove);
    Ok(())
}

/// Removes entry `index`.
pub(super) fn remove<S: Shape>(buffer: &mut impl Buffer, index: usize) -> Result<()> {
    let sorted = Sorted::<S>::new(buffer.bytes());
    let entries = sorted.entries();
    let (at, end) = (sorted.offset(index), sorted.offset(index + 1));
    let slot_at = sorted.end() + index * SLOT_BYTES;
    let entry_len = end - at;

    let bytes = buffer.bytes_mut();
    let len = bytes.len();
    bytes.copy_within(end..slot_at, at);
    bytes.copy_within(slot_at + SLOT_BYTES.., slot_at - entry_len);
    let new_len = len - entry_len - SLOT_BYTES;
    shift(&mut bytes[slot_at - entry_len..new_len], 0, entry_len);
    put_u32(bytes, 0, entries as u32 - 1);
    buffer.splice(new_len, len - new_len, 0)
}

/// Shortens or drops many entries at once: `keep` may change an entry, except
/// its key, and says how many of its first bytes remain, 0 for none of it.
pub(super) fn retain<S: Shape>(
    buffer: &mut impl Buffer,
    mut keep: impl FnMut(&mut [u8]) -> usize,
) -> Result<()> {
    let sorted = Sorted::<S>::new(buffer.bytes());
    let (entries, slots_at) = (sorted.entries(), sorted.end());

    let bytes = buffer.bytes_mut();
    let len = bytes.len();
    let (mut kept, mut to) = (0, S::HEADER_BYTES);
    let mut at = S::HEADER_BYTES;
    for index in 0..entries {
        let (slot_at, kept_at) = (slots_at + index * SLOT_BYTES, slots_at + kept * SLOT_BYTES);
        // Slots are overwritten from the front, at most up to this one.
        let end = match index + 1 {
            next if next == entries => slots_at,
            _ => get_u32(bytes, slot_at + SLOT_BYTES) as usize,
        };
        let remain = keep(&mut bytes[at..end]);
        if remain > 0 {
            bytes.copy_within(at..at + remain, to);
            bytes.copy_within(slot_at..slot_at + SLOT_BYTES, kept_at);
            put_u32(bytes, kept_at, to as u32);
            to += remain;
            kept += 1;
        }
        at = end;
    }
    bytes.copy_within(slots_at..slots_at + kept * SLOT_BYTES, to);
    put_u32(bytes, 0, kept as u32);
    let new_len = to + kept * SLOT_BYTES;
    buffer.splice(new_len, len - new_len, 0)?;
    tighten::<S>(buffer.bytes_mut());
    Ok(())
}

/// Makes `upper` a layout of the entries from `index` on, with the rest of its
/// header zero.
pub(super) fn copy_upper<S: Shape>(
    bytes: &[u8],
    index: usize,
    upper: &mut impl Buffer,
) -> Result<()> {
    let sorted = Sorted::<S>::new(bytes);
    let (from, to) = (sorted.offset(index), sorted.end());
    let slots = to + index * SLOT_BYTES;
    let new_len = S::HEADER_BYTES + (to - from) + (bytes.len() - slots);

    upper.splice(0, upper.bytes().len(), new_len)?;
    let new = upper.bytes_mut();
    let (header, body) = new.split_at_mut(S::HEADER_BYTES);
    let (new_entries, new_slots) = body.split_at_mut(to - from);
    header.fill(0);
    put_u32(header, 0, (sorted.entries() - index) as u32);
    put_u32(header, SKIP_AT, skip(bytes) as u32);
    new_entries.copy_from_slice(&bytes[from..to]);
    new_slots.copy_from_slice(&bytes[slots..]);
    shift(new_slots, S::HEADER_BYTES, from);
    tighten::<S>(new);
    Ok(())
}

/// Drops the entries from `index` on.
pub(super) fn truncate<S: Shape>(buffer: &mut impl Buffer, index: usize) -> Result<()> {
    let sorted = Sorted::<S>::new(buffer.bytes());
    let (end, slots_at) = (sorted.offset(index), sorted.end());
    let bytes = buffer.bytes_mut();
    let len = bytes.len();
    bytes.copy_within(slots_at..slots_at + index * SLOT_BYTES, end);
    put_u32(bytes, 0, index as u32);
    let new_len = end + index * SLOT_BYTES;
    buffer.splice(new_len, len - new_len, 0)?;
    tighten::<S>(buffer.bytes_mut());
    Ok(())
}

#[inline(always)]
fn skip(bytes: &[u8]) -> usize {
    get_u32(bytes, SKIP_AT) as usize
}

#[inline(always)]
fn slots_at(bytes: &[u8]) -> usize {
    bytes.len() - get_u32(bytes, 0) as usize * SLOT_BYTES
}

#[inline(always)]
fn slot_of(offset: usize, head: u32) -> [u8; SLOT_BYTES] {
    (u64::from(head) << 32 | offset as u64).to_le_bytes()
}

#[inline(always)]
fn offset_of(slot: [u8; SLOT_BYTES]) -> usize {
    u64::from_le_bytes(slot) as u32 as usize
}

#[inline(always)]
fn head_of(slot: [u8; SLOT_BYTES]) -> u32 {
    (u64::from_le_bytes(slot) >> 32) as u32
}

#[inline(always)]
fn head(rest: &[u8]) -> u32 {
    match rest.first_chunk() {
        Some(&bytes) => u32::from_be_bytes(bytes),
        None => {
            rest.iter().zip([24, 16, 8]).fold(0, |head, (&byte, at)| head | u32::from(byte) << at)
        }
    }
}

#[inline(always)]
fn key_at<S: Shape>(bytes: &[u8], at: usize) -> &[u8] {
    let (word, rest) = bytes[at..].split_first_chunk().expect("an entry has a header");
    let len = (u32::from_le_bytes(*word) & KEY_LEN) as usize;
    &rest[S::KEY_AT - 4..][..len]
}

/// Adds `plus` and subtracts `minus` from the offsets of some slots.
#[inline]
fn shift(slots: &mut [u8], plus: usize, minus: usize) {
    // No carry reaches the head: the sum is an offset again.
    let by = (plus as u64).wrapping_sub(minus as u64);
    for slot in slots.as_chunks_mut::<SLOT_BYTES>().0 {
        *slot = u64::from_le_bytes(*slot).wrapping_add(by).to_le_bytes();
    }
}

/// Computes all heads anew.
#[cold]
fn set_skip<S: Shape>(bytes: &mut [u8], skip: usize) {
    put_u32(bytes, SKIP_AT, skip as u32);
    for at in (slots_at(bytes)..bytes.len()).step_by(SLOT_BYTES) {
        let offset = get_u32(bytes, at) as usize;
        let head = head(&key_at::<S>(bytes, offset)[skip..]);
        bytes[at..at + SLOT_BYTES].copy_from_slice(&slot_of(offset, head));
    }
}

/// Makes `skip` all that the keys have in common.
fn tighten<S: Shape>(bytes: &mut [u8]) {
    let sorted = Sorted::<S>::new(bytes);
    let common = match sorted.entries() {
        0 => 0,
        entries => common_prefix(sorted.key(0), sorted.key(entries - 1)),
    };
    if common != skip(bytes) {
        set_skip::<S>(bytes, common);
    }
}
