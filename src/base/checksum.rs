//! xxh3 over contents *and* identity.
//!
//! A checksum that covers only the bytes passes when a sound block is read
//! from the wrong place. Ours are seeded with where the bytes should be, so a
//! misdirected read fails like a damaged one. xxh3 is no defence against an
//! attacker: decoders stay safe after it has passed.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::ids::FileId;

/// The checksum of `bytes` that belong to `file`, at `offset`, as a part of
/// the given `kind`.
pub fn of_part(file: FileId, offset: u64, kind: u8, bytes: &[u8]) -> u64 {
    let place = file
        .incarnation
        .wrapping_add(file.number.rotate_left(32))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ offset.rotate_left(8)
        ^ u64::from(kind);
    xxh3_64_with_seed(bytes, place)
}

/// The 128-bit xxh3 of a whole file's bytes, kept by whoever refers to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub u128);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes a [`ContentHash`] as bytes go by.
#[derive(Clone, Default)]
pub struct ContentHasher(Xxh3);

impl ContentHasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self(Xxh3::new())
    }

    /// Takes the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of everything seen so far.
    pub fn finish(&self) -> ContentHash {
        ContentHash(self.0.digest128())
    }
}

/// The [`ContentHash`] of bytes that are all at hand.
pub fn of_contents(bytes: &[u8]) -> ContentHash {
    ContentHash(xxhash_rust::xxh3::xxh3_128(bytes))
}
