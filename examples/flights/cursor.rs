//! Reads the fields of a file of ours, one after the other.

use alluvium::base::{Error, Result};

/// Takes a byte string apart, front to back.
pub(crate) struct Cursor<'a> {
    /// What the bytes are, for messages.
    pub(crate) what: &'static str,
    pub(crate) rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| {
            Error::corrupt(format_args!("{} is cut short", self.what))
                .expected(format_args!("{count} more bytes"))
                .found(self.rest.len())
        })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("took N bytes"))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn end(&self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(Error::corrupt(format_args!("{} has bytes past its end", self.what))
                .expected("none")
                .found(more)),
        }
    }
}
