//! What goes around a small file that is read whole.
//!
//! ```text
//! envelope:  | magic 8 bytes | version u16 | reserved u16 | body_len u32 | body | hash u128 |
//!            0               8             10             12             16
//! ```
//!
//! `hash` is the 128-bit xxh3 of everything before it. Damage, truncation and
//! extension are all found before the body is looked at.

use super::frame::checksum_matches;
use crate::base::checksum::{ContentHash, of_contents};
use crate::base::{Error, Result};
use crate::codec::Reader;

/// What a kind of file is called, starts with, and is written as.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// What the file is called in errors.
    pub what: &'static str,
    /// Its first bytes.
    pub magic: [u8; 8],
    /// The only version that this code reads and writes.
    pub version: u16,
}

const HEAD_BYTES: usize = 16;
const HASH_BYTES: usize = 16;

/// Bytes that an envelope adds to its body.
pub const ENVELOPE_BYTES: usize = HEAD_BYTES + HASH_BYTES;

impl Envelope {
    /// Puts the body that `write` appends into an envelope.
    ///
    /// # Errors
    /// What `write` returns; `Invalid` if the body is 4 GiB or longer.
    pub fn seal(self, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.resize(HEAD_BYTES, 0);
        write(&mut out)?;
        let Ok(body_len) = u32::try_from(out.len() - HEAD_BYTES) else {
            return Err(Error::invalid(format_args!("{} is too large", self.what))
                .expected("less than 4 GiB")
                .found(format_args!("{} bytes", out.len())));
        };
        out[12..16].copy_from_slice(&body_len.to_le_bytes());
        let hash = of_contents(&out);
        out.extend_from_slice(&hash.0.to_le_bytes());
        Ok(out)
    }

    /// The body of an envelope that fills `bytes`, checked.
    ///
    /// # Errors
    /// `Incompatible` if the version is not the one known here, `Corrupt` for
    /// anything else that is wrong.
    pub fn open(self, bytes: &[u8]) -> Result<Reader<'_>> {
        let mut reader = self.open_head(bytes)?;
        let reserved = reader.u16("reserved bytes")?;
        let body_len = reader.u32("body length")? as usize;
        let body = reader.take("body", body_len)?;
        let stored = ContentHash(reader.u128("hash")?);
        if reserved != 0 {
            return Err(reader.corrupt("reserved bytes", 0, reserved));
        }
        reader.finish()?;
        let computed = of_contents(&bytes[..HEAD_BYTES + body_len]);
        if !checksum_matches(computed, stored) {
            return Err(Error::corrupt(format_args!(
                "{} is damaged: its hash does not match",
                self.what
            ))
            .expected(stored)
            .found(computed)
            .remedy("read another copy of it"));
        }
        Ok(Reader::new(self.what, body))
    }

    /// A cursor behind the version, if it is the one known here.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn open_head(self, bytes: &[u8]) -> Result<Reader<'_>> {
        let mut reader = Reader::new(self.what, bytes);
        let magic = reader.array::<8>("magic")?;
        if magic != self.magic {
            return Err(Error::corrupt(format_args!("not a {}", self.what))
                .expected(format_args!("first bytes {:?}", self.magic.escape_ascii().to_string()))
                .found(format_args!("{:?}", magic.escape_ascii().to_string())));
        }
        let version = reader.u16("version")?;
        if version != self.version {
            return Err(unknown_version(self.what, self.version, version));
        }
        Ok(reader)
    }
}

/// The error for a version that this code does not know.
pub(crate) fn unknown_version(what: &str, known: u16, found: u16) -> Error {
    Error::incompatible(format_args!("{what} has an unknown format version"))
        .expected(known)
        .found(found)
        .remedy("read it with the version of alluvium that wrote it, or a newer one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    const TEST: Envelope = Envelope { what: "letter", magic: *b"ALVTEST\n", version: 3 };

    #[test]
    fn damage_of_any_kind_is_found_before_the_body_is_read() {
        let sealed = TEST
            .seal(|out| {
                out.extend_from_slice(b"hello");
                Ok(())
            })
            .unwrap();
        assert_eq!(TEST.open(&sealed).unwrap().rest(), b"hello");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let kind = TEST.open(&bad).unwrap_err().kind();
            let version = (8..10).contains(&(bit / 8));
            assert_eq!(kind, if version { ErrorKind::Incompatible } else { ErrorKind::Corrupt });
        }
        for len in 0..sealed.len() {
            assert_eq!(TEST.open(&sealed[..len]).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        let longer = [&sealed[..], &[0]].concat();
        assert_eq!(TEST.open(&longer).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
