//! Filter and index of a mapped table, checked page by page when they are first looked
//! at: opening a table reads neither.
//!
//! Who looks at bytes of them says so before. Of each page that is remembered in one bit,
//! which is asked in a nanosecond or two. Two threads may check the same page at the same
//! time; both come to the same.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{TableReader, payload_of};
use crate::base::{Error, Result};
use crate::format::frame::PAGE_BYTES;
use crate::format::page_sums::SummedPages;

const BITS: usize = u64::BITS as usize;

/// Which pages of a table's filter and index have been checked.
#[derive(Debug)]
pub(super) struct CheckedPages(Box<[AtomicU64]>);

impl CheckedPages {
    /// None of so many.
    pub(super) fn none_of(pages: usize) -> Self {
        Self((0..pages.div_ceil(BITS)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Bytes of memory beside its own.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    #[inline]
    fn contains(&self, number: usize) -> bool {
        self.0.get(number / BITS).is_some_and(|word| {
            // Nothing else is published by it: the bytes are what they are.
            word.load(Ordering::Relaxed) >> (number % BITS) & 1 == 1
        })
    }

    fn add(&self, number: usize) {
        if let Some(word) = self.0.get(number / BITS) {
            word.fetch_or(1 << (number % BITS), Ordering::Relaxed);
        }
    }
}

/// The numbers of the pages that a range of the file lies on.
#[inline]
fn numbers_of(pages: &SummedPages, range: &Range<usize>) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    pages.number_of(range.start as u64)..pages.number_of(range.end as u64 - 1) + 1
}

impl TableReader {
    #[inline]
    fn summed_pages(&self) -> SummedPages {
        SummedPages::new(self.meta.file, self.footer.searched())
    }

    /// Checks the pages of a range within filter and index, unless that has been done.
    ///
    /// # Errors
    /// `Corrupt` if one is damaged, `Unavailable` if it cannot be read.
    #[inline]
    pub(super) fn ensure_sound(&self, range: Range<usize>) -> Result<()> {
        let Some(checked) = &self.checked else { return Ok(()) };
        let mut numbers = numbers_of(&self.summed_pages(), &range);
        numbers.try_for_each(|number| match checked.contains(number) {
            true => Ok(()),
            false => self.check_page(checked, number),
        })
    }

    /// Asks the system for a range within filter and index that has not been looked at
    /// yet, if it is more than a page.
    pub(super) fn ask_for_searched(&self, range: Range<usize>) {
        let Some(checked) = self.checked.as_ref().filter(|_| range.len() > PAGE_BYTES) else {
            return;
        };
        if !numbers_of(&self.summed_pages(), &range).all(|number| checked.contains(number)) {
            self.source.will_need(range.start as u64, range.len() as u64);
        }
    }

    /// Reads and checks a page.
    #[cold]
    fn check_page(&self, checked: &CheckedPages, number: usize) -> Result<()> {
        let pages = self.summed_pages();
        let range = pages.range_of(number);
        let bytes = range.end - range.start;
        let place = || format!("{:?}, {bytes} bytes at offset {}", self.source, range.start);
        // An error and not a signal, if the disk cannot read it.
        self.source
            .make_resident(range.start, bytes)
            .map_err(|why| Error::io("could not read a table", why).at(place()))?;
        let file = self.source.as_slice().unwrap_or_default();
        let page = file.get(range.start as usize..range.end as usize).unwrap_or_default();
        let sums = self.footer.sums().and_then(|sums| file.get(payload_of(sums)));
        pages.check(number, page, sums.unwrap_or_default())?;
        checked.add(number);
        if let Some(origin) = &self.origin {
            origin.note_read(bytes);
        }
        Ok(())
    }
}
