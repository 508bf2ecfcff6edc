//! The hash that places a record in the index.
//!
//! Not the hash of [`base::hash`](crate::base::hash), which chooses the key
//! group and gives the order of a table: that one is on disk and must never
//! change, this one never leaves the process. So it may be shorter, and an
//! operation on a record in memory, which needs neither group nor order, pays
//! only for this one; and it may be seeded, so that nobody who chooses keys
//! can choose where they go.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;

/// See the [module documentation](self).
#[derive(Clone)]
pub(super) struct IndexHasher {
    state: FixedState,
}

impl IndexHasher {
    /// A function of its own for each `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self { state: FixedState::with_seed(seed) }
    }

    /// The hash of a key in a namespace.
    #[inline(always)]
    pub(super) fn hash(&self, key: &[u8], namespace: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(key);
        if !namespace.is_empty() {
            hasher.write(namespace);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The index takes its segment from the top bits, its bucket from the
    /// middle and its tag from the lowest: all must differ from key to key,
    /// however alike the keys are.
    #[test]
    fn every_part_of_the_hash_spreads_keys_that_are_alike() {
        let counters = |bytes: usize, big_endian: bool| {
            (0_u64..1 << 16).map(move |number| match big_endian {
                true => number.to_be_bytes()[8 - bytes..].to_vec(),
                false => number.to_le_bytes()[..bytes].to_vec(),
            })
        };
        let texts = (0..1 << 16).map(|number| format!("customer:{number:07}").into_bytes());
        let shapes: [(&str, Vec<Vec<u8>>); 6] = [
            ("4 bytes, big end first", counters(4, true).collect()),
            ("8 bytes, big end first", counters(8, true).collect()),
            ("8 bytes, little end first", counters(8, false).collect()),
            (
                "multiples of 4096",
                counters(8, false).map(|key| [&[0, 0x10], &key[..]].concat()).collect(),
            ),
            ("16 bytes", counters(8, true).map(|key| [&[0; 8], &key[..]].concat()).collect()),
            ("text", texts.collect()),
        ];
        for seed in [0, 1, 0x9e37_79b9_7f4a_7c15] {
            for (shape, keys) in &shapes {
                for (part, shift) in [("top", 56), ("bucket", 32), ("tag", 0)] {
                    let mut counts = [0_u32; 256];
                    for key in keys {
                        let hash = IndexHasher::new(seed).hash(key, &[]);
                        counts[(hash >> shift) as u8 as usize] += 1;
                    }
                    // 256 are expected in each; by chance, none differs by
                    // more than some six times the root of that.
                    let (least, most) = (counts.iter().min(), counts.iter().max());
                    let range = least.copied().unwrap_or(0)..=most.copied().unwrap_or(0);
                    assert!(
                        *range.start() >= 160 && *range.end() <= 352,
                        "{shape}, seed {seed}: {part} bits are taken by {range:?} keys"
                    );
                }
            }
        }
    }

    #[test]
    fn the_seed_moves_every_key() {
        let of = |seed: u64| IndexHasher::new(seed).hash(b"key", b"window");
        assert_ne!(of(1), of(2));
    }
}
