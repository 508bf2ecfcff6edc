//! Where a block is: 32 bits for 64 GiB, in units of 16 bytes.

/// Blocks are multiples of this many bytes.
pub(super) const UNIT_BYTES: usize = 16;
/// Bytes in an ordinary chunk: one huge page.
pub(super) const CHUNK_BYTES: usize = 2 << 20;
/// Units in an ordinary chunk.
pub(super) const CHUNK_UNITS: u32 = (CHUNK_BYTES / UNIT_BYTES) as u32;
const CHUNK_SHIFT: u32 = CHUNK_UNITS.trailing_zeros();
/// An address has 32 bits: this many chunks of `CHUNK_UNITS`.
pub(super) const MAX_CHUNKS: usize = 1 << (32 - CHUNK_SHIFT);

/// A block's place: chunk number and unit within the chunk. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Addr(pub(super) u32);

impl Addr {
    #[inline]
    pub(super) fn chunk(self) -> usize {
        (self.0 >> CHUNK_SHIFT) as usize
    }

    #[inline]
    pub(super) fn unit(self) -> u32 {
        self.0 & (CHUNK_UNITS - 1)
    }

    #[inline]
    pub(super) fn new(chunk: usize, unit: u32) -> Self {
        Self((chunk as u32) << CHUNK_SHIFT | unit)
    }
}
