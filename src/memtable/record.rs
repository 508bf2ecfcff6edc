//! What a record looks like, in the arena and in a copy of it.
//!
//! ```text
//! record:  | word a u64 | word b u64 | ns_len u32, if NAMESPACED | key | namespace | value | slack |
//! word a:    bits  0..30  epoch of the record's last change
//!            bit  30      TOMBSTONE
//!            bit  31      NAMESPACED
//!            bits 32..47  key group
//!            bits 47..64  key length in bytes
//! word b:    bits  0..31  value length in bytes
//!            bits 32..37  other flags
//!            bits 37..64  capacity of the block in units of 16 bytes
//! ```
//!
//! One comparison of word a tells whether a record has the length of the key
//! that is looked for, is alive, and may be changed where it is: that is the
//! usual case, and whoever looks need not take the word apart.
//!
//! In memory only, so in the machine's own byte order.

use crate::base::limits::{MAX_KEY_BYTES, MAX_NAMESPACE_BYTES, MAX_VALUE_BYTES};
use crate::base::{Epoch, KeyGroup};

use super::addr::UNIT_BYTES;

pub(super) const HEADER_BYTES: usize = 16;
pub(super) const NAMESPACE_LEN_BYTES: usize = 4;

/// Longest value of a record: a page of a map may be a little longer than the
/// longest value that a caller may give.
pub(super) const MAX_STORED_BYTES: usize = MAX_VALUE_BYTES + (1 << 20);

// Field widths hold the documented limits, and slack of a quarter.
const _: () = assert!(MAX_KEY_BYTES < (1 << 17) - 1);
const _: () = assert!(MAX_STORED_BYTES < 1 << 31);
const _: () = assert!(
    (HEADER_BYTES
        + NAMESPACE_LEN_BYTES
        + MAX_KEY_BYTES
        + MAX_NAMESPACE_BYTES
        + MAX_STORED_BYTES / 4 * 5)
        / UNIT_BYTES
        + 1
        < 1 << 27
);

/// In word b: the key was absent, here and in every table, when the record's
/// epoch began.
pub(super) const FRESH: u64 = 1 << 32;
/// In word b: the block holds no record.
pub(super) const FREE: u64 = 1 << 33;
/// In word b; bit 31 is zero, so that the lower half of the word is a length.
pub(super) const VALUE_LEN: u64 = (1 << 31) - 1;
/// In word a.
pub(super) const EPOCH: u64 = (1 << EPOCH_BITS) - 1;
const EPOCH_BITS: u32 = 30;
/// In word a: the key is deleted; the record stands for that until a table
/// says so.
pub(super) const TOMBSTONE: u64 = 1 << EPOCH_BITS;
/// In word a: a namespace follows the key.
pub(super) const NAMESPACED: u64 = 1 << (EPOCH_BITS + 1);
const GROUP: u64 = 0x7fff << 32;
/// In word a: a length that no key has.
pub(super) const NO_KEY: u64 = 0x1ffff << 47;
/// The last epoch that a record can have: at one freeze a second, 34 years.
pub(super) const LAST_EPOCH: Epoch = Epoch(EPOCH as u32 - 1);

/// A key with everything that is computed from it once per access; made by
/// [`Memtable::probe`](super::Memtable::probe).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe<'a> {
    /// Hash of key and namespace, good for one memtable.
    pub(crate) hash: u64,
    /// The key's group.
    pub(crate) group: KeyGroup,
    /// The key.
    pub(crate) key: &'a [u8],
    /// The namespace, possibly empty.
    pub(crate) namespace: &'a [u8],
}

/// The part of word a that names the key of a record: whether there is a
/// namespace, the group, and the key's length.
pub(super) const IDENTITY: u64 = !(EPOCH | TOMBSTONE);

/// What a lookup compares of word a: the bits in `mask` with those of `bits`.
#[derive(Clone, Copy)]
pub(super) struct Pattern {
    pub(super) bits: u64,
    pub(super) mask: u64,
}

impl Pattern {
    /// A live record whose key and namespace have these lengths. If the group
    /// follows from the key (`None`), then equal keys have equal groups, and
    /// it need be neither computed nor compared.
    #[inline(always)]
    pub(super) fn live(group: Option<KeyGroup>, key: &[u8], namespace: &[u8]) -> Self {
        let bits = namespaced(namespace) | (key.len() as u64) << 47;
        match group {
            None => Self { bits, mask: !(EPOCH | GROUP) },
            Some(group) => Self { bits: bits | u64::from(group.0) << 32, mask: !EPOCH },
        }
    }

    /// The same with bits that it does not have: an epoch, which is not compared,
    /// but [told](Self::matches); or [`NO_KEY`], so that nothing matches.
    #[inline(always)]
    pub(super) fn with(self, also: u64) -> Self {
        Self { bits: self.bits | also, ..self }
    }

    /// Whether a record with this word a is one that is looked for; and if so,
    /// whether it is of another epoch.
    #[inline(always)]
    pub(super) fn matches(self, a: u64) -> Option<bool> {
        let differs = a ^ self.bits;
        (differs & self.mask == 0).then_some(differs & EPOCH != 0)
    }
}

#[inline(always)]
fn namespaced(namespace: &[u8]) -> u64 {
    if namespace.is_empty() { 0 } else { NAMESPACED }
}

/// Bytes of a record in front of its value.
#[inline(always)]
pub(super) fn value_offset(key: &[u8], namespace: &[u8]) -> usize {
    HEADER_BYTES + stored_bytes(key, namespace)
}

#[inline(always)]
fn stored_bytes(key: &[u8], namespace: &[u8]) -> usize {
    if namespace.is_empty() { key.len() } else { NAMESPACE_LEN_BYTES + key.len() + namespace.len() }
}

impl Probe<'_> {
    /// What [`IDENTITY`] covers of word a.
    #[inline(always)]
    pub(super) fn identity(&self) -> u64 {
        namespaced(self.namespace) | u64::from(self.group.0) << 32 | (self.key.len() as u64) << 47
    }

    #[inline]
    pub(super) fn stored_bytes(&self) -> usize {
        stored_bytes(self.key, self.namespace)
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

    /// Whether a flag of word b is set.
    #[inline]
    pub(super) fn has(self, flag: u64) -> bool {
        self.b & flag != 0
    }

    #[inline]
    pub(super) fn is_tombstone(self) -> bool {
        self.a & TOMBSTONE != 0
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
        self.b as u32 as usize
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
        let header = Header::of_copy(bytes);
        let namespace_len = namespace_len_of_copy(header, bytes);
        let at = HEADER_BYTES + if header.is_namespaced() { NAMESPACE_LEN_BYTES } else { 0 };
        let (key, rest) = bytes[at..].split_at(header.key_len());
        let (namespace, rest) = rest.split_at(namespace_len);
        let value = (!header.is_tombstone()).then(|| &rest[..header.value_len()]);
        Self { group: header.group(), key, namespace, value }
    }
}

impl Header {
    /// The header of a copied record.
    fn of_copy(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
        };
        Self { a: word(0), b: word(8) }
    }
}

fn namespace_len_of_copy(header: Header, bytes: &[u8]) -> usize {
    if !header.is_namespaced() {
        return 0;
    }
    let len = bytes[HEADER_BYTES..].first_chunk().expect("a length follows the header");
    u32::from_ne_bytes(*len) as usize
}

/// Bytes of the copied record that `bytes` begin with.
pub(super) fn copied_bytes(bytes: &[u8]) -> usize {
    let header = Header::of_copy(bytes);
    let mut len = HEADER_BYTES + header.key_len() + header.value_len();
    if header.is_namespaced() {
        len += NAMESPACE_LEN_BYTES + namespace_len_of_copy(header, bytes);
    }
    len
}

/// Whether a copied record is a tombstone.
pub(super) fn is_tombstone(bytes: &[u8]) -> bool {
    Header::of_copy(bytes).is_tombstone()
}

/// Says in a copy of a record that its value has another length.
pub(super) fn set_value_len(bytes: &mut [u8], len: usize) {
    debug_assert!(len as u64 <= VALUE_LEN);
    let word: &mut [u8; 8] =
        (&mut bytes[8..HEADER_BYTES]).try_into().expect("eight bytes were taken");
    let b = u64::from_ne_bytes(*word) & !VALUE_LEN | len as u64;
    *word = b.to_ne_bytes();
}
