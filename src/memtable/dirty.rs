//! Which records changed in this epoch: one bit for each unit of the arena.
//!
//! A map rather than a list of addresses: a record that is created and deleted
//! within one epoch, or grows and moves, must not leave an entry behind, or a
//! job without checkpoints would grow without bound. It costs one bit for 16
//! bytes of the chunks that were written in the epoch.

use super::addr::{Addr, CHUNK_UNITS};

/// The dirty bits of one chunk, up to the last that was ever set.
pub(super) type ChunkBits = Vec<u64>;

/// See the [module documentation](self).
#[derive(Default)]
pub(super) struct DirtyMap {
    chunks: Vec<Option<ChunkBits>>,
    records: u64,
}

impl DirtyMap {
    /// Number of dirty records.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Marks a record that is not marked. `spare` may offer cleared bits.
    #[inline]
    pub(super) fn set(&mut self, addr: Addr, spare: impl FnOnce() -> Option<ChunkBits>) {
        let chunk = addr.chunk();
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let bits = self.chunks[chunk].get_or_insert_with(|| spare().unwrap_or_default());
        let unit = addr.unit() as usize;
        if unit / 64 >= bits.len() {
            bits.resize((unit / 64 + 1).next_power_of_two(), 0);
        }
        debug_assert!(bits[unit / 64] >> (unit % 64) & 1 == 0, "marked twice");
        bits[unit / 64] |= 1 << (unit % 64);
        self.records += 1;
    }

    /// Unmarks a marked record.
    #[inline]
    pub(super) fn clear(&mut self, addr: Addr) {
        let unit = addr.unit() as usize;
        let bits = self.chunks[addr.chunk()].as_mut().expect("a marked record's chunk has bits");
        debug_assert!(bits[unit / 64] >> (unit % 64) & 1 == 1, "not marked");
        bits[unit / 64] &= !(1 << (unit % 64));
        self.records -= 1;
    }

    /// Calls `visit` with every marked address in ascending order, and hands
    /// the cleared bits of each chunk to `reuse`.
    pub(super) fn drain(self, mut visit: impl FnMut(Addr), mut reuse: impl FnMut(ChunkBits)) {
        for (chunk, bits) in self.chunks.into_iter().enumerate() {
            let Some(mut bits) = bits else { continue };
            for (word, bits) in bits.iter_mut().enumerate() {
                let mut left = std::mem::take(bits);
                while left != 0 {
                    let unit = word as u32 * 64 + left.trailing_zeros();
                    visit(Addr(chunk as u32 * CHUNK_UNITS + unit));
                    left &= left - 1;
                }
            }
            reuse(bits);
        }
    }
}
