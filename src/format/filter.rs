//! The Bloom filter of a table: answers "not in this table" without a read.
//!
//! ```text
//! filter payload:  | block 0 | block 1 | ...
//! block:           | word 0 u32 | word 1 u32 | ... | word 7 u32 |        32 bytes
//! ```
//!
//! A split-block Bloom filter. A record sets one bit in each of the eight words
//! of one block, so a question costs one cache line (two when the filter lies
//! across a boundary in a mapped file):
//!
//! 1. `h` = mix of the state's ordinal, the key group and the record's hash;
//! 2. block = upper half of `h`, scaled to the number of blocks;
//! 3. bit in word `i` = top five bits of (lower half of `h` times `SALT[i]`).
//!
//! Records of a collection are in it twice: each by a hash of its own, and all of
//! them together by the hash that places them
//! ([`collection`](super::collection)).
//!
//! An empty payload is the filter of a table written without one: it excludes
//! nothing. With 8 bits a record about 1 in 40 absent records passes, with 10
//! about 1 in 100.

use std::ops::Range;

use crate::base::{Error, KeyGroup, Result};

/// Bytes of one block of the filter.
pub const FILTER_BLOCK_BYTES: usize = 32;

/// Most bits a record may be given.
pub const MAX_FILTER_BITS_PER_KEY: u8 = 32;

const WORDS: usize = 8;

/// Odd multipliers without a pattern, one a word. DO NOT CHANGE: the bits on
/// disk depend on them.
const SALT: [u32; WORDS] = [
    0x2b7e_1517,
    0x8d31_98a3,
    0x5f35_6495,
    0xa409_3823,
    0x299f_31d1,
    0xec4e_6c89,
    0xbe54_66cf,
    0x34e9_0c6d,
];

/// The number that stands for a record in the filter.
#[inline]
pub fn filter_hash(ordinal: u16, group: KeyGroup, hash: u64) -> u64 {
    let place = (u64::from(ordinal) << 16 | u64::from(group.0)).wrapping_add(1);
    let mut h = hash ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h = (h ^ (h >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    h = (h ^ (h >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ (h >> 32)
}

#[inline]
fn block_of(h: u64, blocks: usize) -> usize {
    ((u128::from(h) * blocks as u128) >> 64) as usize
}

#[inline]
fn mask(h: u64, word: usize) -> u32 {
    1 << ((h as u32).wrapping_mul(SALT[word]) >> 27)
}

/// The payload of the filter over all `hashes` (from [`filter_hash`]), with
/// `bits_per_key` bits for each.
pub fn encode_filter(hashes: &[u64], bits_per_key: u8) -> Vec<u8> {
    let mut payload = vec![0; filter_bytes(hashes.len(), bits_per_key)];
    fill_filter(&mut payload, hashes.iter().copied());
    payload
}

/// Bytes of the filter over so many hashes.
pub fn filter_bytes(hashes: usize, bits_per_key: u8) -> usize {
    let bits = hashes * usize::from(bits_per_key);
    bits.div_ceil(FILTER_BLOCK_BYTES * 8) * FILTER_BLOCK_BYTES
}

/// Makes of zeros, as many as [`filter_bytes`] says, the payload of the filter over all
/// `hashes`.
pub fn fill_filter(payload: &mut [u8], hashes: impl Iterator<Item = u64>) {
    let blocks = payload.len() / FILTER_BLOCK_BYTES;
    if blocks == 0 {
        return;
    }
    for h in hashes {
        let start = block_of(h, blocks) * FILTER_BLOCK_BYTES;
        let block = &mut payload[start..start + FILTER_BLOCK_BYTES];
        for (word, bytes) in block.chunks_exact_mut(4).enumerate() {
            let old = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            bytes.copy_from_slice(&(old | mask(h, word)).to_le_bytes());
        }
    }
}

/// A filter that can be asked. The default one excludes nothing.
#[derive(Clone, Copy, Default, Debug)]
pub struct Filter<'a>(&'a [u8]);

impl<'a> Filter<'a> {
    /// The filter with this payload.
    ///
    /// # Errors
    /// `Corrupt` if it is not a whole number of blocks.
    pub fn decode(payload: &'a [u8]) -> Result<Self> {
        if payload.len().is_multiple_of(FILTER_BLOCK_BYTES) {
            Ok(Self(payload))
        } else {
            Err(Error::corrupt("filter is damaged: bad length")
                .expected("a multiple of 32 bytes")
                .found(payload.len()))
        }
    }

    /// Where in the payload the bytes lie that a question about this
    /// [`filter_hash`] looks at: nowhere if there is no filter.
    #[inline]
    pub fn range_of(self, h: u64) -> Range<usize> {
        let blocks = self.0.len() / FILTER_BLOCK_BYTES;
        if blocks == 0 {
            return 0..0;
        }
        let start = block_of(h, blocks) * FILTER_BLOCK_BYTES;
        start..start + FILTER_BLOCK_BYTES
    }

    /// Whether a record with this [`filter_hash`] may be in the table. `false`
    /// is certain.
    #[inline]
    pub fn may_contain(self, h: u64) -> bool {
        let block = &self.0[self.range_of(h)];
        let mut missing = 0;
        for (word, bytes) in block.chunks_exact(4).enumerate() {
            let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            missing |= mask(h, word) & !bits;
        }
        missing == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::hash_key;

    fn hashes(range: std::ops::Range<u64>) -> Vec<u64> {
        range
            .map(|i| filter_hash(2, KeyGroup((i % 128) as u16), hash_key(&i.to_le_bytes())))
            .collect()
    }

    #[test]
    fn no_record_is_denied_and_few_strangers_pass() {
        for (bits, most) in [(8, 0.035), (10, 0.015), (16, 0.003)] {
            let payload = encode_filter(&hashes(0..100_000), bits);
            assert_eq!(payload.len(), (100_000 * usize::from(bits)).div_ceil(256) * 32);
            let filter = Filter::decode(&payload).unwrap();
            assert!(hashes(0..100_000).into_iter().all(|h| filter.may_contain(h)));
            let passed =
                hashes(100_000..200_000).into_iter().filter(|&h| filter.may_contain(h)).count();
            assert!(
                (passed as f64) < 100_000.0 * most,
                "{bits} bits: {passed} strangers of 100000"
            );
        }
    }

    #[test]
    fn the_same_key_in_another_state_or_group_is_a_stranger() {
        let h = hash_key(b"key");
        let one = filter_hash(1, KeyGroup(5), h);
        assert_ne!(one, filter_hash(2, KeyGroup(5), h));
        assert_ne!(one, filter_hash(1, KeyGroup(6), h));
    }

    #[test]
    fn an_empty_filter_excludes_nothing_and_a_torn_one_is_corrupt() {
        assert!(encode_filter(&hashes(0..10), 0).is_empty());
        assert!(Filter::decode(&[]).unwrap().may_contain(17));
        assert!(Filter::decode(&[0; 33]).is_err());
    }
}
