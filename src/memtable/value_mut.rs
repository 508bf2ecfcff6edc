//! The value of one key, as an update is given it.

use std::fmt;

use super::entry::RecordMut;
use crate::base::{KeyGroup, MaxParallelism, Result};
use crate::codec::KeyRef;

/// The value of one key, present or not, for a read-modify-write in place.
///
/// Given to the closure of an update. Reading costs nothing more; the record
/// becomes dirty only by [`bytes_mut`](Self::bytes_mut), [`set`](Self::set) or
/// [`delete`](Self::delete).
///
/// Running out of memory inside a closure makes the update return that error;
/// the value is then as the last successful call left it.
pub struct ValueMut<'a>(Place<'a>);

enum Place<'a> {
    Record(RecordMut<'a>),
    Detached(KeyRef<'a>, MaxParallelism, &'a mut Option<Vec<u8>>),
}

impl<'a> ValueMut<'a> {
    #[inline(always)]
    pub(super) fn of(record: RecordMut<'a>) -> Self {
        Self(Place::Record(record))
    }

    /// The value of a key in a store that is no shard, for those who implement
    /// [`KeyedStore`](crate::KeyedStore): `value` is what the store has, and when the
    /// closure is done, what it is to have. There is no limit to its length here.
    #[inline]
    pub fn detached(
        key: KeyRef<'a>,
        max_parallelism: MaxParallelism,
        value: &'a mut Option<Vec<u8>>,
    ) -> Self {
        Self(Place::Detached(key, max_parallelism, value))
    }
}

impl ValueMut<'_> {
    /// The value, if the key has one.
    #[inline(always)]
    pub fn get(&self) -> Option<&[u8]> {
        match &self.0 {
            Place::Record(record) => record.get(),
            Place::Detached(.., value) => value.as_deref(),
        }
    }

    /// The value, to be changed where it is, at its present length; `None` if
    /// the key has none. The record counts as changed even if the bytes are
    /// not.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.0 {
            Place::Record(record) => record.bytes_mut(),
            Place::Detached(.., value) => value.as_deref_mut(),
        }
    }

    /// Inserts or replaces the value; any length up to the limit is welcome.
    #[inline(always)]
    pub fn set(&mut self, value: &[u8]) {
        match &mut self.0 {
            Place::Record(record) => record.set(value),
            Place::Detached(.., there) => {
                let there = there.get_or_insert_default();
                there.clear();
                there.extend_from_slice(value);
            }
        }
    }

    /// Deletes the key.
    #[inline(always)]
    pub fn delete(&mut self) {
        match &mut self.0 {
            Place::Record(record) => record.delete(),
            Place::Detached(.., value) => **value = None,
        }
    }

    /// The key group of the key.
    #[inline]
    pub fn key_group(&self) -> KeyGroup {
        match &self.0 {
            Place::Record(record) => record.key_group(),
            Place::Detached(key, max, _) => key.locate(*max).0,
        }
    }

    /// Renews the stamp of a value that is there and has not expired, if reads do.
    ///
    /// # Errors
    /// `Unavailable` if its record is frozen and there is no memory for a copy.
    pub(crate) fn renew(&mut self) -> Result<()> {
        match &mut self.0 {
            Place::Record(record) => record.renew(),
            Place::Detached(..) => Ok(()),
        }
    }

    /// The last failure inside the closure, if there was one.
    #[inline(always)]
    pub(crate) fn finish(self) -> Result<()> {
        match self.0 {
            Place::Record(record) => record.finish(),
            Place::Detached(..) => Ok(()),
        }
    }
}

impl fmt::Debug for ValueMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueMut").field("value", &self.get()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_store_is_read_and_changed_as_that_of_a_shard() {
        let (key, max) = (KeyRef::in_group(KeyGroup(3), b"key"), MaxParallelism::DEFAULT);
        let mut stored = None;
        let mut value = ValueMut::detached(key, max, &mut stored);
        assert_eq!((value.get(), value.key_group()), (None, KeyGroup(3)));
        assert!(value.bytes_mut().is_none(), "bytes of a value that is not there");
        value.set(b"abc");
        value.bytes_mut().unwrap()[0] = b'x';
        assert_eq!(value.get(), Some(&b"xbc"[..]));
        value.set(b"longer");
        assert_eq!(stored.as_deref(), Some(&b"longer"[..]));
        let mut value = ValueMut::detached(key, max, &mut stored);
        value.delete();
        assert_eq!(value.get(), None);
        value.finish().unwrap();
        assert_eq!(stored, None);
    }
}
