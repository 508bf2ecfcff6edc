//! The elements of a list, as memory and tables hold them.
//!
//! ```text
//! element:  | len varint | stamp u64, if timed | len bytes |
//! ```
//!
//! Whether elements are timed is a property of the state, equal for all its
//! lists and known to whoever reads them.
//!
//! [`Elements`] are sound: their count is right and each is whole. They come out
//! of a list, out of an [`ElementsBuf`], or out of a table by way of
//! [`Elements::parse`], which takes any bytes.

use crate::base::Result;
use crate::base::limits::MAX_VALUE_BYTES;
use crate::codec::{Reader, varint};

use super::{NEVER, check_len};

/// Most bytes of the elements of one list: a value, less the header of a list.
pub(crate) const MAX_ELEMENTS_BYTES: usize = MAX_VALUE_BYTES - 20;

pub(super) const STAMP_BYTES: usize = 8;

/// One element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Element<'a> {
    /// Its bytes.
    pub(crate) value: &'a [u8],
    /// When it was written or read last; [`NEVER`] if the list is not timed.
    pub(crate) stamp: u64,
}

impl Element<'_> {
    /// Whether it has expired: its stamp is not above `cutoff`.
    #[inline]
    pub(crate) fn is_expired(&self, cutoff: u64) -> bool {
        self.stamp <= cutoff
    }
}

/// Sound elements, as lists and tables hold them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Elements<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) count: u32,
    pub(super) timed: bool,
}

impl<'a> Elements<'a> {
    /// Checks bytes that came from a table.
    ///
    /// # Errors
    /// `Corrupt` if they are not elements of such a list.
    pub(crate) fn parse(bytes: &'a [u8], timed: bool) -> Result<Self> {
        let mut reader = Reader::new("list", bytes);
        if bytes.len() > MAX_ELEMENTS_BYTES {
            let most = format_args!("at most {MAX_ELEMENTS_BYTES} bytes");
            return Err(reader.corrupt("length", most, bytes.len()));
        }
        // Each takes a byte or more, so their number fits.
        let mut count = 0;
        while reader.remaining() > 0 {
            let len = reader.varint_u32("element length")?;
            if timed {
                reader.u64("element stamp")?;
            }
            reader.take("element", len as usize)?;
            count += 1;
        }
        Ok(Self { bytes, count, timed })
    }

    /// The elements as bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Their number.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.count as usize
    }

    /// Shows the bytes of one after the other.
    #[inline(always)]
    pub(crate) fn visit(&self, mut visit: impl FnMut(&'a [u8])) {
        if self.timed {
            return self.iter().for_each(|element| visit(element.value));
        }
        let mut left = self.bytes;
        while let [first, rest @ ..] = left {
            let (len, rest) = match *first {
                len @ 0..0x80 => (len as usize, rest),
                _ => long_len(left),
            };
            let (value, rest) = rest.split_at(len);
            left = rest;
            visit(value);
            // Most lists have elements of one length. Taken for granted and then
            // checked, the next element is found without waiting for this one.
            while let Some((head, rest)) = left.split_at_checked(len + 1)
                && let [next, value @ ..] = head
                && next == first
                && *first < 0x80
            {
                left = rest;
                visit(value);
            }
        }
    }

    /// One after the other.
    #[inline]
    pub(crate) fn iter(&self) -> ElementIter<'a> {
        ElementIter { rest: self.bytes, timed: self.timed }
    }
}

/// Lends the elements of a list in order.
#[derive(Clone, Debug)]
pub(crate) struct ElementIter<'a> {
    pub(super) rest: &'a [u8],
    pub(super) timed: bool,
}

impl<'a> Iterator for ElementIter<'a> {
    type Item = Element<'a>;

    #[inline]
    fn next(&mut self) -> Option<Element<'a>> {
        let (len, mut rest) = match *self.rest {
            [] => return None,
            [len @ 0..0x80, ref rest @ ..] => (len as usize, rest),
            _ => long_len(self.rest),
        };
        let mut stamp = NEVER;
        if self.timed {
            let (bytes, behind) = rest.split_first_chunk().expect("an element is whole");
            (stamp, rest) = (u64::from_le_bytes(*bytes), behind);
        }
        let (value, rest) = rest.split_at(len);
        self.rest = rest;
        Some(Element { value, stamp })
    }
}

#[cold]
fn long_len(bytes: &[u8]) -> (usize, &[u8]) {
    let (len, read) = varint::get_u32(bytes).expect("an element begins with its length");
    (len as usize, &bytes[read..])
}

/// Collects elements for a list.
#[derive(Clone, Debug)]
pub(crate) struct ElementsBuf {
    bytes: Vec<u8>,
    count: u32,
    timed: bool,
}

impl ElementsBuf {
    /// Without elements.
    pub(crate) fn new(timed: bool) -> Self {
        Self { bytes: Vec::new(), count: 0, timed }
    }

    /// Forgets the elements and keeps the memory; says whether the next ones are
    /// timed.
    pub(crate) fn reset(&mut self, timed: bool) {
        self.bytes.clear();
        self.count = 0;
        self.timed = timed;
    }

    /// Adds one with its stamp, or [`NEVER`].
    ///
    /// # Errors
    /// `Invalid` if a list could not hold it.
    pub(crate) fn push(&mut self, value: &[u8], stamp: u64) -> Result<()> {
        check_elements_len(self.bytes.len().saturating_add(element_len(value, self.timed)))?;
        varint::put_u32(&mut self.bytes, value.len() as u32);
        if self.timed {
            self.bytes.extend_from_slice(&stamp.to_le_bytes());
        } else {
            debug_assert_eq!(stamp, NEVER, "elements of this list have no stamps");
        }
        self.bytes.extend_from_slice(value);
        self.count += 1;
        Ok(())
    }

    /// The elements.
    pub(crate) fn elements(&self) -> Elements<'_> {
        Elements { bytes: &self.bytes, count: self.count, timed: self.timed }
    }
}

/// Bytes that an element of this value takes.
#[inline(always)]
pub(super) fn element_len(value: &[u8], timed: bool) -> usize {
    let len = value.len();
    let len_len = if len < 0x80 { 1 } else { varint::len_u64(len as u64) };
    len_len + len + if timed { STAMP_BYTES } else { 0 }
}

/// Bytes that an element of this value takes in a list that is not timed.
#[inline(always)]
pub(crate) fn untimed_len(value: &[u8]) -> usize {
    element_len(value, false)
}

/// Writes the length of an element and returns what is behind it.
#[inline(always)]
pub(super) fn put_len(bytes: &mut [u8], len: usize) -> &mut [u8] {
    let mut at = 0;
    let mut left = len;
    while left >= 0x80 {
        bytes[at] = left as u8 | 0x80;
        left >>= 7;
        at += 1;
    }
    bytes[at] = left as u8;
    &mut bytes[at + 1..]
}

/// Refuses more elements than a list can hold.
#[inline]
pub(crate) fn check_elements_len(len: usize) -> Result<()> {
    check_len("the list is too long", MAX_ELEMENTS_BYTES, len, "split it over several keys")
}
