//! What a record looks like, in the arena and in a copy of it.
//!
//! ```text
//! record:  | word a u64 | word b u64 | ns_len u32, if NAMESPACED | key | namespace | value | slack |
//! word a:    bits  0..31  epoch of the record's last change
//!            bit  31      NAMESPACED
//!            bits 32..47  key group
//!            bits 47..64  key length in bytes
//! word b:    bits  0..31  value length in bytes
//!            bits 31..37  flags
//!            bits 37..64  capacity of the block in units of 16 bytes
//! ```
//!
//! In memory only, so in the machine's own byte order.

use crate::base::limits::{MAX_KEY_BYTES, MAX_NAMESPACE_BYTES, MAX_VALUE_BYTES};
use crate::base::{Epoch, KeyGroup};

use super::addr::UNIT_BYTES;

pub(super) const HEADER_BYTES: usize = 16;
pub(super) const NAMESPACE_LEN_BYTES: usize = 4;

// Field widths hold the documented limits.
const _: () = assert!(MAX_KEY_BYTES < 1 << 17);
const _: () = assert!(MAX_VALUE_BYTES < 1 << 31);
const _: () = assert!(
    (HEADER_BYTES + NAMESPACE_LEN_BYTES + MAX_KEY_BYTES + MAX_NAMESPACE_BYTES + MAX_VALUE_BYTES)
        / UNIT_BYTES
        + 1
        < 1 << 27
);

/// The key is deleted; the record stands for that until a table says so.
pub(super) const TOMBSTONE: u64 = 1 << 31;
/// The key was absent, here and in every table, when the record's epoch began.
pub(super) const FRESH: u64 = 1 << 32;
pub(super) const FREE: u64 = 1 << 33;
pub(super) const VALUE_LEN: u64 = (1 << 31) - 1;
/// In word a: a namespace follows the key. Beside group and key length, so
/// that one comparison tells most keys apart.
pub(super) const NAMESPACED: u64 = 1 << EPOCH_BITS;
pub(super) const EPOCH: u64 = (1 << EPOCH_BITS) - 1;
const EPOCH_BITS: u32 = 31;
/// The last epoch that a header can hold: at one freeze a second, 68 years.
pub(super) const LAST_EPOCH: Epoch = Epoch(EPOCH as u32);

/// A key with everything that is computed from it once per access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe<'a> {
    /// Hash of key and namespace.
    pub(crate) hash: u64,
    /// The key's group.
    pub(crate) group: KeyGroup,
    /// The key.
    pub(crate) key: &'a [u8],
    /// The namespace, possibly empty.
    pub(crate) namespace: &'a [u8],
}

impl Probe<'_> {
    /// What word a is beside the epoch: whether there is a namespace, the
    /// group, and the key's length.
    #[inline(always)]
    pub(super) fn identity(&self) -> u64 {
        let namespaced = if self.namespace.is_empty() { 0 } else { NAMESPACED };
        namespaced | u64::from(self.group.0) << 32 | (self.key.len() as u64) << 47
    }

    #[inline]
    pub(super) fn stored_bytes(&self) -> usize {
        if self.namespace.is_empty() {
            self.key.len()
        } else {
            NAMESPACE_LEN_BYTES + self.key.len() + self.namespace.len()
        }
    }
}

/// A copy of the two header words of a record.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) a: u64,
    pub(super) b: u64,
}

impl Header {
    #[inline]
    pub(super) fn epoch(self) -> Epoch {
        Epoch((self.a & EPOCH) as u32)
    }

    #[inline]
    pub(super) fn has(self, flag: u64) -> bool {
        self.b & flag != 0
    }

    #[inline]
    pub(super) fn is_namespaced(self) -> bool {
        self.a & NAMESPACED != 0
    }

    #[inline]
    pub(super) fn group(self) -> KeyGroup {
        KeyGroup((self.a >> 32) as u16 & 0x7fff)
    }

    #[inline]
    pub(super) fn key_len(self) -> usize {
        (self.a >> 47) as usize
    }

    #[inline]
    pub(super) fn value_len(self) -> usize {
        (self.b & VALUE_LEN) as usize
    }

    #[inline]
    pub(super) fn capacity_units(self) -> u32 {
        (self.b >> 37) as u32
    }

    #[inline]
    pub(super) fn capacity_bytes(self) -> usize {
        self.capacity_units() as usize * UNIT_BYTES
    }
}

/// A record read out of the arena or out of a copy of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// The key's group.
    pub(crate) group: KeyGroup,
    /// The key.
    pub(crate) key: &'a [u8],
    /// The namespace, possibly empty.
    pub(crate) namespace: &'a [u8],
    /// The value; `None` says that the key is deleted.
    pub(crate) value: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// Takes apart the bytes of a record, header included, as
    /// [`ChunkSet::record_bytes`] gave them.
    pub(super) fn parse(bytes: &'a [u8]) -> Self {
        let word = |at: usize| {
            u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
        };
        let header = Header { a: word(0), b: word(8) };
        let mut rest = &bytes[HEADER_BYTES..];
        let mut namespace_len = 0;
        if header.is_namespaced() {
            let (len, tail) = rest.split_at(NAMESPACE_LEN_BYTES);
            namespace_len =
                u32::from_ne_bytes(len.try_into().expect("four bytes were taken")) as usize;
            rest = tail;
        }
        let (key, rest) = rest.split_at(header.key_len());
        let (namespace, rest) = rest.split_at(namespace_len);
        let value = (!header.has(TOMBSTONE)).then(|| &rest[..header.value_len()]);
        Self { group: header.group(), key, namespace, value }
    }
}
