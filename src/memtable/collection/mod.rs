//! How lists and maps lie in the value bytes of memtable records.
//!
//! ```text
//! elements  the elements of a list, as memory and tables hold them
//! list      the elements of one list, and from where on they are new
//! map       some entries of one map in order: a whole small map, or a page
//! root      which page of a large map holds which keys
//! build     a whole map from entries in order
//! slots     the sorted directory that pages and roots share
//! ```
//!
//! Each layout is a pair of views: one reads bytes, one changes a [`Buffer`].
//! They know no arena, no index, no file and no thread, and they do not know
//! whether a record is frozen: *whoever changes a record of a frozen epoch
//! copies it first*, so a layout changes bytes where they are.
//!
//! What changed in an epoch must be known from the bytes alone, since a
//! background thread reads the record after the writer has gone on: lists keep
//! a mark, map entries a stamp.
//!
//! # Promises
//!
//! - The bytes are ours and trusted: broken ones panic, they never read out of
//!   bounds. The one exception is [`Elements::parse`](elements::Elements::parse),
//!   which takes what a table held.
//! - Only growing fails, for want of memory or at a limit, and then nothing has
//!   changed: the one step that can fail comes before the first byte is written.
//!
//! Elements are written to tables as they lie here, so all integers are
//! little-endian.

#![cfg_attr(not(test), expect(dead_code, reason = "no layout is converted yet"))]

pub(crate) mod build;
pub(crate) mod elements;
pub(crate) mod list;
pub(crate) mod map;
#[cfg(any(test, fuzzing))]
pub(crate) mod model;
pub(crate) mod root;
mod slots;
#[cfg(test)]
mod tests;

use crate::base::{Error, Result};

/// The stamp of something that never expires.
///
/// A stamp is the time of the last write, or read, in whatever unit the caller
/// counts. A thing has expired if its stamp is not above the *cutoff* asked
/// about.
pub(crate) const NEVER: u64 = u64::MAX;

/// Bytes that can grow and shrink anywhere: the value of one record.
pub(crate) trait Buffer {
    /// The bytes.
    fn bytes(&self) -> &[u8];

    /// The bytes, to be changed.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Replaces the `remove` bytes at `at` by `insert` bytes of any content.
    ///
    /// Implementers: growing a little many times must cost constant time each.
    ///
    /// # Errors
    /// If there is no memory; then nothing has changed. Never if `insert` is at
    /// most `remove`.
    fn splice(&mut self, at: usize, remove: usize, insert: usize) -> Result<()>;

    /// Adds `by` bytes of any content at the end.
    ///
    /// # Errors
    /// As of [`splice`](Self::splice).
    #[inline(always)]
    fn extend(&mut self, by: usize) -> Result<()> {
        self.splice(self.bytes().len(), 0, by)
    }
}

impl Buffer for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn splice(&mut self, at: usize, remove: usize, insert: usize) -> Result<()> {
        let len = self.len();
        let tail = at + remove;
        assert!(tail <= len, "the removed bytes are there");
        if insert > remove {
            let more = insert - remove;
            self.try_reserve(more)
                .map_err(|error| Error::unavailable("no memory for a collection").source(error))?;
            self.resize(len + more, 0);
            self.copy_within(tail..len, at + insert);
        } else {
            self.copy_within(tail.., at + insert);
            self.truncate(len - (remove - insert));
        }
        Ok(())
    }

    #[inline]
    fn extend(&mut self, by: usize) -> Result<()> {
        self.try_reserve(by)
            .map_err(|error| Error::unavailable("no memory for a collection").source(error))?;
        self.resize(self.len() + by, 0);
        Ok(())
    }
}

/// Refuses a layout that would be longer than its limit.
#[inline]
fn check_len(what: &'static str, limit: usize, len: usize, remedy: &'static str) -> Result<()> {
    if len <= limit { Ok(()) } else { Err(too_long(what, limit, len, remedy)) }
}

#[cold]
fn too_long(what: &'static str, limit: usize, len: usize, remedy: &'static str) -> Error {
    Error::invalid(what)
        .expected(format_args!("at most {limit} bytes"))
        .found(format_args!("{len} bytes"))
        .remedy(remedy)
}

/// The `u32` at `at`.
#[inline(always)]
fn get_u32(bytes: &[u8], at: usize) -> u32 {
    // Through an array: taken byte by byte and masked by the caller, the bytes
    // are loaded one by one.
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

/// Writes a `u32` at `at`.
#[inline(always)]
fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Whether these are the same bytes. Most keys have 8 to 16 of them, which two
/// words tell.
#[inline(always)]
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let (Some(first), Some(last)) = (a.first_chunk::<8>(), a.last_chunk::<8>()) else {
        return a == b;
    };
    if a.len() != b.len() || a.len() > 16 {
        return a == b;
    }
    b.first_chunk() == Some(first) && b.last_chunk() == Some(last)
}

/// Length of what two keys have in common at their start.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
