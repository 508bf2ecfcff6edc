//! A cursor over bytes that somebody else wrote.

use std::fmt::Display;

use super::varint;
use crate::base::{Error, Result};

/// Reads fields one after the other and refuses to leave the bytes it was
/// given. Every failure is `Corrupt` and names what was being read, the field
/// and its offset.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

macro_rules! little_endian {
    ($($name:ident: $int:ty),*) => {$(
        #[doc = concat!("The next `", stringify!($int), "`, little-endian.")]
        ///
        /// # Errors
        /// `Corrupt` if the bytes end before it.
        #[inline]
        pub fn $name(&mut self, field: &'static str) -> Result<$int> {
            let bytes = self.array::<{ size_of::<$int>() }>(field)?;
            Ok(<$int>::from_le_bytes(bytes))
        }
    )*};
}

impl<'a> Reader<'a> {
    /// A cursor at the start of `bytes`; `what` names them in errors
    /// ("manifest", "data block").
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    /// How many bytes have been read.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error that says that `field`, which was just read or is next, is not
    /// what it has to be.
    #[cold]
    pub fn corrupt(&self, field: &str, expected: impl Display, found: impl Display) -> Error {
        Error::corrupt(format_args!("{} is damaged: bad {field}", self.what))
            .at(format_args!("byte {}", self.at))
            .expected(expected)
            .found(found)
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// `Corrupt` if fewer are left.
    #[inline]
    pub fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        match rest.get(..len) {
            Some(taken) => {
                self.at += len;
                Ok(taken)
            }
            None => Err(self.corrupt(
                field,
                format_args!("{len} bytes"),
                format_args!("{} before the end", rest.len()),
            )),
        }
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// `Corrupt` if fewer are left.
    #[inline]
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N]> {
        let taken = self.take(field, N)?;
        Ok(taken.try_into().expect("take returns exactly the length asked for"))
    }

    little_endian!(u8: u8, u16: u16, u32: u32, u64: u64, u128: u128);

    /// The next varint that fits a `u64`.
    ///
    /// # Errors
    /// `Corrupt` if there is none, or not in its shortest form.
    #[inline]
    pub fn varint_u64(&mut self, field: &'static str) -> Result<u64> {
        match varint::get_u64(&self.bytes[self.at..]) {
            Ok((value, len)) => {
                self.at += len;
                Ok(value)
            }
            Err(why) => Err(self.corrupt(field, "a varint of 64 bits", why)),
        }
    }

    /// The next varint that fits a `u32`.
    ///
    /// # Errors
    /// `Corrupt` if there is none, or not in its shortest form.
    #[inline]
    pub fn varint_u32(&mut self, field: &'static str) -> Result<u32> {
        match varint::get_u32(&self.bytes[self.at..]) {
            Ok((value, len)) => {
                self.at += len;
                Ok(value)
            }
            Err(why) => Err(self.corrupt(field, "a varint of 32 bits", why)),
        }
    }

    /// The next byte string: a varint of its length, then its bytes.
    ///
    /// # Errors
    /// `Corrupt` if it is longer than `limit` or than what is left.
    pub fn bytes(&mut self, field: &'static str, limit: usize) -> Result<&'a [u8]> {
        let len = self.varint_u64(field)?;
        match usize::try_from(len) {
            Ok(len) if len <= limit => self.take(field, len),
            _ => Err(self.corrupt(
                field,
                format_args!("at most {limit} bytes"),
                format_args!("{len}"),
            )),
        }
    }

    /// The next text: a byte string that is UTF-8.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), or if it is not UTF-8.
    pub fn str(&mut self, field: &'static str, limit: usize) -> Result<&'a str> {
        let bytes = self.bytes(field, limit)?;
        std::str::from_utf8(bytes).map_err(|why| self.corrupt(field, "UTF-8", why))
    }

    /// The next varint as a number of things that follow, each of which takes
    /// at least `min_bytes` (not zero). What it returns is safe to reserve
    /// memory for.
    ///
    /// # Errors
    /// `Corrupt` if it is more than `limit`, or more than the bytes left can
    /// hold.
    pub fn count(&mut self, field: &'static str, limit: usize, min_bytes: usize) -> Result<usize> {
        let count = self.varint_u64(field)?;
        let most = limit.min(self.remaining() / min_bytes);
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(self.corrupt(field, format_args!("at most {most}"), count)),
        }
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    /// Ends reading.
    ///
    /// # Errors
    /// `Corrupt` if bytes are left.
    pub fn finish(self) -> Result<()> {
        if self.remaining() == 0 {
            Ok(())
        } else {
            Err(self.corrupt(
                "end",
                "no more bytes",
                format_args!("{} bytes too many", self.remaining()),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn a_count_is_bounded_by_the_bytes_that_are_left() {
        let mut bytes = Vec::new();
        varint::put_u64(&mut bytes, 4);
        bytes.extend([0; 12]);
        assert_eq!(Reader::new("test", &bytes).count("things", 100, 3).unwrap(), 4);
        let error = Reader::new("test", &bytes).count("things", 100, 4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(
            Reader::new("test", &bytes).count("things", 3, 1).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }

    #[test]
    fn an_error_names_the_thing_the_field_and_the_offset() {
        let mut reader = Reader::new("manifest", &[1, 2, 3]);
        reader.u16("version").unwrap();
        let text = reader.u32("table count").unwrap_err().to_string();
        assert_eq!(
            text,
            "manifest is damaged: bad table count (byte 2): expected 4 bytes, found 1 before the end"
        );
    }

    #[test]
    fn left_over_bytes_are_refused() {
        let mut reader = Reader::new("test", &[1, 2]);
        reader.u8("first").unwrap();
        assert_eq!(reader.clone().finish().unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(reader.rest(), &[2]);
        reader.finish().unwrap();
    }

    #[test]
    fn a_length_near_the_end_of_the_address_space_does_not_overflow() {
        let mut bytes = Vec::new();
        varint::put_u64(&mut bytes, u64::MAX);
        bytes.extend([0; 8]);
        assert!(Reader::new("test", &bytes).bytes("text", usize::MAX).is_err());
        assert!(Reader::new("test", &bytes).take("text", usize::MAX).is_err());
    }
}
