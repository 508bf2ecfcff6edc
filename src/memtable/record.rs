//! What a record looks like, in the arena and in a copy of it.
//!
//! ```text
//! small record: | word a u64 |            ns_len u32, if NAMESPACED | key | namespace | value | slack |
//! wide record:  | word a u64 | word b u64 | ns_len u32, if NAMESPACED | key | namespace | value | slack |
//!
//! word a:    bits  0..27  epoch of the record's last change
//!            bit  27      FRESH
//!   small:   bits 28..35  value length in bytes
//!            bits 35..38  capacity of the block in units of 16 bytes, less two
//!   wide:    bits 28..38  ten more bits of the key's length
//!            bits 38..53  key group
//!            bit  53      COLD
//!            bits 54..60  the lower six bits of the key's length in bytes
//!            bit  60      NAMESPACED
//!            bit  61      TOMBSTONE
//!            bit  62      FREE: no record
//!            bit  63      WIDE: there is a word b
//! word b:    bits  0..31  value length in bytes
//!            bit  31      the highest bit of the key's length
//!            bits 37..64  capacity of the block in units of 16 bytes
//! ```
//!
//! A record is small if what it says of itself fits: most of a state's records are,
//! and then a record of 16 + 8 bytes takes 32, of which two fill a cache line, and
//! none lies across two.
//!
//! One comparison of word a tells whether a record has the length of the key
//! that is looked for, is alive, and may be changed where it is: that is the
//! usual case, and whoever looks need not take the word apart.
//!
//! In memory only, so in the machine's own byte order.

use crate::base::limits::{MAX_KEY_BYTES, MAX_NAMESPACE_BYTES, MAX_VALUE_BYTES};
use crate::base::{Epoch, KeyGroup};

use super::addr::UNIT_BYTES;
use super::arena::MIN_UNITS;

/// Bytes of the header of a small record.
pub(super) const SMALL_HEADER_BYTES: usize = 8;
/// Bytes of the header of a wide record.
pub(super) const WIDE_HEADER_BYTES: usize = 16;
pub(super) const NAMESPACE_LEN_BYTES: usize = 4;

/// Longest value of a record: a page of a map may be a little longer than the
/// longest value that a caller may give.
pub(super) const MAX_STORED_BYTES: usize = MAX_VALUE_BYTES + (1 << 20);

// Field widths hold the documented limits, and slack of a quarter.
const _: () = assert!(MAX_KEY_BYTES < 1 << 17);
const _: () = assert!(MAX_STORED_BYTES < 1 << 31);
const _: () = assert!(
    (WIDE_HEADER_BYTES
        + NAMESPACE_LEN_BYTES
        + MAX_KEY_BYTES
        + MAX_NAMESPACE_BYTES
        + MAX_STORED_BYTES / 4 * 5)
        / UNIT_BYTES
        + 1
        < 1 << 27
);

/// Largest block of a small record, in units; a block has at least [`MIN_UNITS`].
const SMALL_UNITS: u32 = MIN_UNITS + 7;
pub(super) const SMALL_KEY_BYTES: usize = 63;
const SMALL_VALUE_BYTES: usize = 127;

const EPOCH_BITS: u32 = 27;
pub(super) const EPOCH: u64 = (1 << EPOCH_BITS) - 1;
/// The key was absent, here and in every table, when the record's epoch began.
pub(super) const FRESH: u64 = 1 << 27;
const SMALL_VALUE_SHIFT: u32 = 28;
const SMALL_VALUE: u64 = 0x7f << SMALL_VALUE_SHIFT;
const SMALL_CAPACITY_SHIFT: u32 = 35;
const WIDE_KEY_LEN_SHIFT: u32 = 28;
/// What a small and a wide record use each in its own way.
const LENS: u64 = 0x3ff << SMALL_VALUE_SHIFT;
const GROUP_SHIFT: u32 = 38;
const GROUP: u64 = 0x7fff << GROUP_SHIFT;
/// Nobody has asked for the record since the sweep of evictions came by last. Only
/// ever set in a record that tables have as it is.
pub(super) const COLD: u64 = 1 << COLD_SHIFT;
const COLD_SHIFT: u32 = 53;
const KEY_LEN_LOW_SHIFT: u32 = 54;
/// What all records say of a key's length.
const KEY_LEN_LOW: u64 = 63 << KEY_LEN_LOW_SHIFT;
/// A namespace follows the key.
pub(super) const NAMESPACED: u64 = 1 << 60;
/// The key is deleted; the record stands for that until a table says so.
pub(super) const TOMBSTONE: u64 = 1 << 61;
/// The block holds no record.
pub(super) const FREE: u64 = 1 << 62;
/// There is a word b.
const WIDE: u64 = 1 << 63;
/// In word b.
const WIDE_VALUE: u64 = (1 << 31) - 1;
/// In word b: the 17th bit of the key's length.
const WIDE_KEY_LEN_TOP: u64 = 1 << 31;
/// In word b.
const WIDE_CAPACITY_SHIFT: u32 = 37;

/// The last epoch that a record can have: at one freeze a second, four years.
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

/// The part of word a that names the key of a record: that it is one, whether there
/// is a namespace, the group, and some of the key's length.
pub(super) const IDENTITY: u64 = FREE | NAMESPACED | GROUP | KEY_LEN_LOW;

/// What a lookup compares of word a: its upper part, from `shift` on, with `bits`.
#[derive(Clone, Copy)]
pub(super) struct Pattern {
    bits: u64,
    shift: u32,
    /// An epoch, which is not compared, but [told](Self::matches); or [`FREE`], so
    /// that nothing matches.
    also: u64,
}

/// How far the epoch of a record that was found is from that of the pattern.
#[derive(Clone, Copy)]
pub(super) struct Apart(u32);

impl Apart {
    pub(super) const NOT: Self = Self(0);

    /// Whether it is another one.
    #[inline(always)]
    pub(super) fn is_earlier(self) -> bool {
        self.0 & EPOCH as u32 != 0
    }
}

impl Pattern {
    /// A live small record that is not cold, whose key has this length, if that of a
    /// small record can have it, and a namespace if there is one. If the group follows from the key
    /// (`None`), then equal keys have equal groups, and it need be neither computed
    /// nor compared.
    #[inline(always)]
    pub(super) fn live(also: u64, group: Option<KeyGroup>, key: &[u8], namespace: &[u8]) -> Self {
        let bits = namespaced(namespace) | key_len_low(key);
        match group {
            None => Self { bits, shift: COLD_SHIFT, also },
            Some(group) => Self { bits: bits | group_bits(group), shift: GROUP_SHIFT, also },
        }
    }

    /// Whether a record with this word a is one that is looked for; and if so,
    /// whether it is of another epoch.
    #[inline(always)]
    pub(super) fn matches(self, a: u64) -> Option<Apart> {
        let differs = a ^ self.also;
        (differs >> self.shift == self.bits >> self.shift).then_some(Apart(differs as u32))
    }

    /// The same for a wide record, of whose key's length only the lower bits are
    /// compared.
    #[inline(always)]
    pub(super) fn matches_wide(self, header: Header) -> Option<Apart> {
        Self { bits: self.bits | WIDE, ..self }.matches(header.a)
    }
}

#[inline(always)]
fn group_bits(group: KeyGroup) -> u64 {
    u64::from(group.0) << GROUP_SHIFT
}

#[inline(always)]
fn key_len_low(key: &[u8]) -> u64 {
    (key.len() as u64) << KEY_LEN_LOW_SHIFT & KEY_LEN_LOW
}

#[inline(always)]
fn namespaced(namespace: &[u8]) -> u64 {
    if namespace.is_empty() { 0 } else { NAMESPACED }
}

/// Bytes between the header of a record and its value.
#[inline(always)]
pub(super) fn stored_bytes(key: &[u8], namespace: &[u8]) -> usize {
    if namespace.is_empty() { key.len() } else { NAMESPACE_LEN_BYTES + key.len() + namespace.len() }
}

impl Probe<'_> {
    /// What [`IDENTITY`] covers of word a.
    #[inline(always)]
    pub(super) fn identity(&self) -> u64 {
        namespaced(self.namespace) | group_bits(self.group) | key_len_low(self.key)
    }
}

/// How long a value is, and how long its record must be able to say that it is.
#[derive(Clone, Copy)]
pub(super) struct ValueLens {
    pub(super) len: usize,
    pub(super) longest: usize,
}

impl ValueLens {
    #[inline]
    pub(super) fn exactly(len: usize) -> Self {
        Self { len, longest: len }
    }
}

#[inline]
fn may_be_small(key_len: usize, longest_value: usize) -> bool {
    key_len <= SMALL_KEY_BYTES && longest_value <= SMALL_VALUE_BYTES
}

/// A copy of the header of a record, or of a free block.
#[derive(Clone, Copy)]
pub(super) struct Header {
    a: u64,
    /// Anything, if the record is small.
    b: u64,
}

impl Header {
    /// Bytes of the header of a record with a key of this length and a value that may
    /// grow to that one, with so many bytes between header and value.
    #[inline]
    pub(super) fn bytes_for(key_len: usize, front: usize, longest: usize) -> usize {
        let small = may_be_small(key_len, longest)
            && SMALL_HEADER_BYTES + front + longest <= SMALL_UNITS as usize * UNIT_BYTES;
        if small { SMALL_HEADER_BYTES } else { WIDE_HEADER_BYTES }
    }

    /// That of a record in a block of `units`, which has room for a header of
    /// [`bytes_for`](Self::bytes_for) it. `flags` are some of the flags of word a.
    #[inline]
    pub(super) fn of_record(
        probe: &Probe<'_>,
        epoch: Epoch,
        flags: u64,
        lens: ValueLens,
        units: u32,
    ) -> Self {
        let a = u64::from(epoch.0) | flags | namespaced(probe.namespace) | group_bits(probe.group);
        Self::with_lens(a, probe.key.len(), lens, units)
    }

    #[inline]
    fn with_lens(a: u64, key_len: usize, value: ValueLens, units: u32) -> Self {
        let a = a | (key_len as u64) << KEY_LEN_LOW_SHIFT & KEY_LEN_LOW;
        if may_be_small(key_len, value.longest) && units <= SMALL_UNITS {
            let lens = (value.len as u64) << SMALL_VALUE_SHIFT
                | u64::from(units - MIN_UNITS) << SMALL_CAPACITY_SHIFT;
            return Self { a: a | lens, b: 0 };
        }
        let lens = ((key_len >> 6) as u64) << WIDE_KEY_LEN_SHIFT & LENS;
        let top = (key_len >> 16) as u64 * WIDE_KEY_LEN_TOP;
        Self {
            a: a | WIDE | lens,
            b: value.len as u64 | top | u64::from(units) << WIDE_CAPACITY_SHIFT,
        }
    }

    /// That of the same record with a value of other lengths, in another block.
    #[inline]
    pub(super) fn moved(self, lens: ValueLens, units: u32) -> Self {
        let a = self.a & !(WIDE | LENS | KEY_LEN_LOW);
        Self::with_lens(a, self.key_len(), lens, units)
    }

    /// That of a free block.
    #[inline]
    pub(super) fn of_free(units: u32) -> Self {
        Self { a: FREE | WIDE, b: u64::from(units) << WIDE_CAPACITY_SHIFT }
    }

    /// Takes apart the first word of a block; `b` gives the second.
    #[inline(always)]
    pub(super) fn read(a: u64, b: impl FnOnce() -> u64) -> Self {
        Self { a, b: if a & WIDE == 0 { 0 } else { b() } }
    }

    /// The first word, and the second if there is one.
    #[inline(always)]
    pub(super) fn words(self) -> (u64, Option<u64>) {
        (self.a, self.is_wide().then_some(self.b))
    }

    /// Whether its record is a wide one.
    #[inline(always)]
    pub(super) fn is_wide(self) -> bool {
        self.a & WIDE != 0
    }

    /// Bytes of the header itself.
    #[inline(always)]
    pub(super) fn bytes(self) -> usize {
        if self.is_wide() { WIDE_HEADER_BYTES } else { SMALL_HEADER_BYTES }
    }

    /// How far its epoch is from this one.
    #[inline]
    pub(super) fn apart(self, epoch: Epoch) -> Apart {
        Apart((self.a ^ u64::from(epoch.0)) as u32)
    }

    #[inline]
    pub(super) fn epoch(self) -> Epoch {
        Epoch((self.a & EPOCH) as u32)
    }

    /// Whether it says that it is of the record that is looked for; the bytes of
    /// key and namespace are still to be compared.
    #[inline(always)]
    pub(super) fn names(self, probe: &Probe<'_>) -> bool {
        self.a & IDENTITY == probe.identity() && self.key_len() == probe.key.len()
    }

    /// Whether a flag is set.
    #[inline]
    pub(super) fn has(self, flag: u64) -> bool {
        self.a & flag != 0
    }

    #[inline]
    pub(super) fn with(self, flags: u64) -> Self {
        Self { a: self.a | flags, ..self }
    }

    #[inline]
    pub(super) fn without(self, flags: u64) -> Self {
        Self { a: self.a & !flags, ..self }
    }

    /// The same of another epoch, and so no longer fresh.
    #[inline]
    pub(super) fn touched(self, epoch: Epoch) -> Self {
        Self { a: self.a & !(EPOCH | FRESH | COLD) | u64::from(epoch.0), ..self }
    }

    #[inline]
    pub(super) fn is_tombstone(self) -> bool {
        self.has(TOMBSTONE)
    }

    #[inline]
    pub(super) fn is_namespaced(self) -> bool {
        self.has(NAMESPACED)
    }

    #[inline]
    pub(super) fn group(self) -> KeyGroup {
        KeyGroup((self.a >> GROUP_SHIFT) as u16 & 0x7fff)
    }

    #[inline(always)]
    pub(super) fn key_len(self) -> usize {
        let low = (self.a & KEY_LEN_LOW) >> KEY_LEN_LOW_SHIFT;
        if self.is_wide() {
            let middle = (self.a & LENS) >> WIDE_KEY_LEN_SHIFT;
            let top = (self.b & WIDE_KEY_LEN_TOP) / WIDE_KEY_LEN_TOP;
            (top << 16 | middle << 6 | low) as usize
        } else {
            low as usize
        }
    }

    #[inline(always)]
    pub(super) fn value_len(self) -> usize {
        if self.is_wide() {
            (self.b & WIDE_VALUE) as usize
        } else {
            (self.a & SMALL_VALUE) as usize >> SMALL_VALUE_SHIFT
        }
    }

    /// Whether it can say that the value has this length.
    #[inline]
    pub(super) fn can_say(self, value_len: usize) -> bool {
        self.is_wide() || value_len <= SMALL_VALUE_BYTES
    }

    /// The same with another length of the value, which it [can say](Self::can_say).
    #[inline]
    pub(super) fn with_value_len(self, len: usize) -> Self {
        debug_assert!(self.can_say(len) && len as u64 <= WIDE_VALUE);
        if self.is_wide() {
            Self { b: self.b & !WIDE_VALUE | len as u64, ..self }
        } else {
            Self { a: self.a & !SMALL_VALUE | (len as u64) << SMALL_VALUE_SHIFT, ..self }
        }
    }

    #[inline]
    pub(super) fn capacity_units(self) -> u32 {
        if self.is_wide() {
            (self.b >> WIDE_CAPACITY_SHIFT) as u32
        } else {
            (self.a >> SMALL_CAPACITY_SHIFT) as u32 % 8 + MIN_UNITS
        }
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
        let at = header.bytes() + if header.is_namespaced() { NAMESPACE_LEN_BYTES } else { 0 };
        let (key, rest) = bytes[at..].split_at(header.key_len());
        let (namespace, rest) = rest.split_at(namespace_len);
        let value = (!header.is_tombstone()).then(|| &rest[..header.value_len()]);
        Self { group: header.group(), key, namespace, value }
    }
}

impl Header {
    /// The header of a copied record.
    #[inline]
    fn of_copy(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
        };
        Self::read(word(0), || word(8))
    }
}

fn namespace_len_of_copy(header: Header, bytes: &[u8]) -> usize {
    if !header.is_namespaced() {
        return 0;
    }
    let len = bytes[header.bytes()..].first_chunk().expect("a length follows the header");
    u32::from_ne_bytes(*len) as usize
}

/// Bytes of the copied record that `bytes` begin with.
pub(super) fn copied_bytes(bytes: &[u8]) -> usize {
    let header = Header::of_copy(bytes);
    let mut len = header.bytes() + header.key_len() + header.value_len();
    if header.is_namespaced() {
        len += NAMESPACE_LEN_BYTES + namespace_len_of_copy(header, bytes);
    }
    len
}

/// Whether a copied record is a tombstone.
pub(super) fn is_tombstone(bytes: &[u8]) -> bool {
    Header::of_copy(bytes).is_tombstone()
}

/// Makes `out` a copied record with the key of another, of which `head` is all in
/// front of the value, and with the value that `append` appends.
pub(super) fn copy_with_value(head: &[u8], out: &mut Vec<u8>, append: impl FnOnce(&mut Vec<u8>)) {
    let header = Header::of_copy(head);
    out.clear();
    out.resize(WIDE_HEADER_BYTES, 0);
    out.extend_from_slice(&head[header.bytes()..]);
    let value_at = out.len();
    append(out);
    // In a block that is too large for a small record.
    let header = header.moved(ValueLens::exactly(out.len() - value_at), SMALL_UNITS + 1);
    out[..8].copy_from_slice(&header.a.to_ne_bytes());
    out[8..WIDE_HEADER_BYTES].copy_from_slice(&header.b.to_ne_bytes());
}
