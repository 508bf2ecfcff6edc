//! Checksums of the pages of filter and index, so that a table can be opened without
//! reading either: who needs a page checks that page.
//!
//! ```text
//! page sums payload:  | checksum of page 0 u64 | checksum of page 1 u64 | ...
//! ```
//!
//! - A page is [`PAGE_BYTES`] of the file, from a multiple of that on: what a disk reads at
//!   once. The first one begins where the filter's frame does, and the last one ends where
//!   the index's frame does, so both may be shorter.
//! - A checksum is of the bytes of a page, seeded with the file's id, where in the file they
//!   begin, and the kind of this part.
//! - That is 8 bytes for 4 KiB of filter and index, or for about 4,000 records.
//!
//! The frames of filter and index have checksums of their own, for who reads them whole.

use std::ops::Range;

use super::frame::{PAGE_BYTES, PartKind, checksum_matches};
use crate::base::checksum::of_part;
use crate::base::{Error, FileId, Result};

const SUM_BYTES: usize = size_of::<u64>();

/// The checksums of a table that is being written.
#[derive(Debug)]
pub struct PageSumsBuilder {
    file: FileId,
    /// Where in the file `page` begins.
    at: u64,
    /// What there is of the page that has not ended yet.
    page: Vec<u8>,
    payload: Vec<u8>,
}

impl PageSumsBuilder {
    /// Of parts of this file that begin there.
    pub fn new(file: FileId, at: u64) -> Self {
        Self { file, at, page: Vec::with_capacity(PAGE_BYTES), payload: Vec::new() }
    }

    /// Takes the next bytes of the parts.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = self.at + self.page.len() as u64;
            let left = PAGE_BYTES - (end % PAGE_BYTES as u64) as usize;
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            self.page.extend_from_slice(now);
            if now.len() == left {
                self.end_page();
            }
            bytes = later;
        }
    }

    /// The payload of the page sums.
    pub fn finish(mut self) -> Vec<u8> {
        if !self.page.is_empty() {
            self.end_page();
        }
        self.payload
    }

    fn end_page(&mut self) {
        let sum = of_part(self.file, self.at, PartKind::PageSums as u8, &self.page);
        self.payload.extend_from_slice(&sum.to_le_bytes());
        self.at += self.page.len() as u64;
        self.page.clear();
    }
}

/// The pages of the part of a file between two offsets.
#[derive(Clone, Debug)]
pub struct SummedPages {
    file: FileId,
    part: Range<u64>,
}

impl SummedPages {
    /// Those of `part`, from where the filter's frame begins to where the index's ends.
    pub fn new(file: FileId, part: Range<u64>) -> Self {
        Self { file, part }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        if self.part.is_empty() { 0 } else { self.number_of(self.part.end - 1) + 1 }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.part.is_empty()
    }

    /// The number of the page with the byte at this offset, which lies in the part.
    #[inline]
    pub fn number_of(&self, offset: u64) -> usize {
        (offset / PAGE_BYTES as u64 - self.part.start / PAGE_BYTES as u64) as usize
    }

    /// Where in the file the page of this number lies.
    pub fn range_of(&self, number: usize) -> Range<u64> {
        let page = PAGE_BYTES as u64;
        let start = (self.part.start / page + number as u64) * page;
        start.max(self.part.start)..(start + page).min(self.part.end)
    }

    /// Checks that `payload` has a checksum for each page.
    ///
    /// # Errors
    /// `Corrupt` if it has not.
    pub fn check_payload(&self, payload: &[u8]) -> Result<()> {
        if payload.len() == self.len() * SUM_BYTES {
            return Ok(());
        }
        Err(Error::corrupt("page sums are not those of filter and index")
            .expected(format_args!("{} of {SUM_BYTES} bytes", self.len()))
            .found(format_args!("{} bytes", payload.len())))
    }

    /// Checks the bytes of a page with the sums in `payload`.
    ///
    /// # Errors
    /// `Corrupt` if they are damaged, or the payload has no sum of the page.
    pub fn check(&self, number: usize, bytes: &[u8], payload: &[u8]) -> Result<()> {
        let offset = self.range_of(number).start;
        let stored =
            payload.chunks_exact(SUM_BYTES).nth(number).and_then(|sum| sum.try_into().ok());
        let stored = stored.map(u64::from_le_bytes);
        let computed = of_part(self.file, offset, PartKind::PageSums as u8, bytes);
        if stored.is_some_and(|stored| checksum_matches(computed, stored)) {
            return Ok(());
        }
        Err(Error::corrupt("a page of filter and index is damaged or misplaced")
            .at(format_args!("file {}, {} bytes at offset {offset}", self.file, bytes.len()))
            .expected(match stored {
                Some(stored) => format!("checksum {stored:016x}"),
                None => "a checksum".to_owned(),
            })
            .found(format_args!("{computed:016x}"))
            .remedy("restore the file from another copy"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    const FILE: FileId = FileId { incarnation: 3, number: 4 };

    /// Bytes that stand at `at`, their pages, and the sums.
    fn summed(at: u64, len: usize, pieces: usize) -> (Vec<u8>, SummedPages, Vec<u8>) {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut builder = PageSumsBuilder::new(FILE, at);
        bytes.chunks(pieces).for_each(|piece| builder.add(piece));
        (bytes, SummedPages::new(FILE, at..at + len as u64), builder.finish())
    }

    #[test]
    fn every_byte_is_of_one_page_whose_sum_is_right_however_it_was_handed_over() {
        let page = PAGE_BYTES as u64;
        for at in [0, 40, page - 1, page, 3 * page + 5] {
            for len in [1, 100, PAGE_BYTES, PAGE_BYTES + 1, 3 * PAGE_BYTES, 20_000] {
                let (bytes, pages, payload) = summed(at, len, 1000);
                assert_eq!(payload, summed(at, len, 50_000).2);
                pages.check_payload(&payload).unwrap();
                let mut end = at;
                for number in 0..pages.len() {
                    let range = pages.range_of(number);
                    assert_eq!(range.start, end, "no gap");
                    assert_eq!(range.start / page, (range.end - 1) / page, "one page");
                    assert_eq!(pages.number_of(range.start), number);
                    assert_eq!(pages.number_of(range.end - 1), number);
                    let here = (range.start - at) as usize..(range.end - at) as usize;
                    pages.check(number, &bytes[here], &payload).unwrap();
                    end = range.end;
                }
                assert_eq!(end, at + len as u64);
            }
        }
    }

    #[test]
    fn a_page_that_is_damaged_or_elsewhere_is_corrupt_and_so_are_sums_of_others() {
        let (mut bytes, pages, payload) = summed(40, 3 * PAGE_BYTES, 1000);
        let second = PAGE_BYTES - 40..2 * PAGE_BYTES - 40;
        let refused = |number, bytes: &[u8], payload: &[u8]| {
            let error = pages.check(number, bytes, payload).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        };
        refused(2, &bytes[second.clone()], &payload);
        refused(1, &bytes[second.clone()], &payload[..15]);
        let other = SummedPages::new(FileId { number: 5, ..FILE }, pages.part.clone());
        assert!(other.check(1, &bytes[second.clone()], &payload).is_err());
        for bit in [0, 12_345, PAGE_BYTES * 8 - 1] {
            bytes[second.start + bit / 8] ^= 1 << (bit % 8);
            refused(1, &bytes[second.clone()], &payload);
            bytes[second.start + bit / 8] ^= 1 << (bit % 8);
        }
        pages.check(1, &bytes[second], &payload).unwrap();
        for len in [0, 8, 23, 25, 40] {
            let mut torn = payload.clone();
            torn.resize(len, 0);
            let error = pages.check_payload(&torn).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes");
        }
    }
}
