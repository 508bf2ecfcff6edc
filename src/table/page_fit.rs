//! How much goes into a block that is to fit into a page of its file.
//!
//! What a block comes to when it is stored is known only after it was compressed, so
//! the blocks before it say: the next one gets as many bytes of records as should fill
//! the rest of the page, or a little less. It most often does, or nearly; the rest is
//! [padding](crate::format::frame). One that becomes too large lies across two pages,
//! and the one behind it gets what is left of the second.

use crate::format::frame::{FRAME_HEADER_BYTES, FrameLens, PAGE_BYTES};

/// What ratios are measured in.
const WHOLE: usize = 1024;
/// A block with less than this to itself would not be worth its row in the index: it
/// goes on in the next page.
const LEAST_ROOM_BYTES: usize = PAGE_BYTES / 4;
/// Most bytes of records in a block, however well they compress: each look-up
/// decompresses all of it.
const MOST_BYTES: usize = 4 * PAGE_BYTES;
/// What is left free where blocks are compressed, one part in so many: some compress
/// less well than the ones before.
const MARGIN: usize = 32;
/// A ratio that falls is believed by one part in so many.
const SLOWNESS: usize = 8;

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct PageFit {
    /// Bytes stored for each byte of records, in parts of [`WHOLE`].
    ratio: usize,
    is_compressed: bool,
}

impl PageFit {
    pub(super) fn new() -> Self {
        // Records, and some bytes for each that say where they end.
        Self { ratio: WHOLE + WHOLE / 64, is_compressed: false }
    }

    /// Notes what a block of so many bytes of records has come to.
    pub(super) fn note(&mut self, raw_bytes: usize, lens: FrameLens) {
        let ratio = lens.stored_len as usize * WHOLE / raw_bytes.max(1);
        self.is_compressed = lens.stored_len < lens.raw_len;
        // Too much costs a second page, too little some bytes.
        self.ratio = ratio.max(self.ratio - self.ratio.saturating_sub(ratio) / SLOWNESS);
    }

    /// Bytes of records for a block whose frame stands at `offset`.
    pub(super) fn block_bytes(&self, offset: u64) -> usize {
        let room = PAGE_BYTES - (offset % PAGE_BYTES as u64) as usize;
        let room = if room < LEAST_ROOM_BYTES { room + PAGE_BYTES } else { room };
        let margin = if self.is_compressed { room / MARGIN } else { 0 };
        let stored = room - FRAME_HEADER_BYTES - margin;
        (stored * WHOLE / self.ratio.max(1)).min(MOST_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(raw_len: usize, stored_len: usize) -> FrameLens {
        FrameLens { raw_len: raw_len as u32, stored_len: stored_len as u32, padding: 0 }
    }

    #[test]
    fn blocks_grow_with_what_compression_saves_and_shrink_at_once_when_it_saves_less() {
        let mut fit = PageFit::new();
        let at_first = fit.block_bytes(0);
        assert!((3900..4076).contains(&at_first), "{at_first}");
        for _ in 0..100 {
            fit.note(1000, lens(1020, 400));
        }
        let grown = fit.block_bytes(0);
        assert!((9_500..10_190).contains(&grown), "{grown}");
        fit.note(1000, lens(1020, 1020));
        assert!(fit.block_bytes(0) < 4000);
        for _ in 0..100 {
            fit.note(1000, lens(1020, 1));
        }
        assert_eq!(fit.block_bytes(0), MOST_BYTES);
    }

    #[test]
    fn a_block_gets_the_rest_of_its_page_unless_that_is_very_little() {
        let fit = PageFit::new();
        let of = |offset| fit.block_bytes(offset);
        assert!(of(40) < of(0) && of(2048) < of(0) / 2 && of(3072) > 900);
        assert!(of(3073) > of(0) && of(4096) == of(0));
    }
}
