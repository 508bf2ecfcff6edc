//! Collections in tables: many records for one key and namespace, side by side.
//!
//! The entries of a list or a map are ordinary records of a table. What tells
//! them apart stands behind the namespace, in the place of the namespace:
//!
//! ```text
//! entry name:  | namespace length varint | namespace | subkey |
//! subkey:      | 0x00 |                  the marker of the collection
//!              | 0x01 | entry ... |      an entry
//! ```
//!
//! - The *entry* is the user's key in a map, and for a list the number of a
//!   chunk of elements, u64 big-endian, so that chunks lie in their order.
//! - The *marker* says that what older tables hold for this key and namespace
//!   does not count: the collection was cleared or replaced. The records of its
//!   own table count. A marker is a tombstone or has a value; the value means
//!   nothing here and goes when the marker goes.
//! - Records of a state of [`Placement::Collection`] are ordered by the hash of
//!   the key and the namespace alone. With the entry name behind it, the order
//!   of a table (state, group, hash, key, namespace) puts the records of one
//!   collection next to each other, the marker first, then the entries by their
//!   bytes.
//! - A record's tag, and its place in the filter, come from a second hash, of
//!   the first one and the subkey; the filter knows the first one as well, once
//!   for each collection. So one question tells whether a table has anything of
//!   a collection, and another whether it has one entry or the marker.
//!
//! Nothing here knows what an entry holds.

use super::manifest::StateKind;
use crate::base::hash::{hash_key, with_namespace};
use crate::base::limits::{MAX_KEY_BYTES, MAX_NAMESPACE_BYTES};
use crate::base::{Error, Result};
use crate::codec::{Reader, varint};

/// First byte of the subkey of a marker, and all of it.
const MARKER: u8 = 0;
/// First byte of the subkey of an entry.
const ENTRY: u8 = 1;

/// Longest entry, in bytes: as long as a key.
pub const MAX_ENTRY_BYTES: usize = MAX_KEY_BYTES;

/// Longest entry name, in bytes.
pub const MAX_ENTRY_NAME_BYTES: usize =
    varint::len_u64(MAX_NAMESPACE_BYTES as u64) + MAX_NAMESPACE_BYTES + 1 + MAX_ENTRY_BYTES;

/// How the records of a state find their places in a table. DO NOT CHANGE the
/// numbers: they are on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
#[non_exhaustive]
pub enum Placement {
    /// Each by the hash of its key and its namespace.
    #[default]
    Single = 1,
    /// Side by side with the others of its collection: by the hash of its key
    /// and that part of its namespace which is one.
    Collection = 2,
}

impl Placement {
    /// How records of this kind of state are placed.
    pub const fn of(kind: StateKind) -> Self {
        match kind {
            StateKind::List | StateKind::Map => Self::Collection,
            StateKind::Value | StateKind::Reducing | StateKind::Aggregating | StateKind::Timers => {
                Self::Single
            }
        }
    }

    /// The hash that orders a record.
    ///
    /// # Errors
    /// `Corrupt` if `namespace` had to be an entry name and is none.
    #[inline]
    pub fn hash(self, key: &[u8], namespace: &[u8]) -> Result<u64> {
        let namespace = match self {
            Self::Single => namespace,
            Self::Collection => EntryName::decode(namespace)?.namespace,
        };
        Ok(with_namespace(hash_key(key), namespace))
    }

    /// The hash that recognises a record in tags and filters, given that which
    /// orders it.
    ///
    /// # Errors
    /// `Corrupt` if `namespace` had to be an entry name and is none.
    #[inline]
    pub fn own_hash(self, hash: u64, namespace: &[u8]) -> Result<u64> {
        match self {
            Self::Single => Ok(hash),
            Self::Collection => {
                let (_, subkey) = split(namespace)?;
                Ok(with_namespace(hash, subkey))
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        match reader.u8("placement")? {
            1 => Ok(Self::Single),
            2 => Ok(Self::Collection),
            other => Err(Error::incompatible("table places records in an unknown way")
                .at(format_args!("byte {}", reader.offset() - 1))
                .expected("1 or 2: singly, by collection")
                .found(other)
                .remedy("read it with the version of alluvium that wrote it, or a newer one")),
        }
    }
}

/// Which record of a collection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Subkey<'a> {
    /// The one that says that older tables do not count.
    Marker,
    /// An entry.
    Entry(&'a [u8]),
}

/// What stands in the place of the namespace in a record of a collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryName<'a> {
    /// The namespace proper.
    pub namespace: &'a [u8],
    /// Which record of the collection.
    pub subkey: Subkey<'a>,
}

impl<'a> EntryName<'a> {
    /// The name of the marker of a collection.
    pub const fn marker(namespace: &'a [u8]) -> Self {
        Self { namespace, subkey: Subkey::Marker }
    }

    /// The name of an entry of a collection.
    pub const fn entry(namespace: &'a [u8], entry: &'a [u8]) -> Self {
        Self { namespace, subkey: Subkey::Entry(entry) }
    }

    /// Appends the name. The lengths are the caller's business.
    pub fn encode(self, out: &mut Vec<u8>) {
        encode_prefix(self.namespace, out);
        match self.subkey {
            Subkey::Marker => out.push(MARKER),
            Subkey::Entry(entry) => {
                out.push(ENTRY);
                out.extend_from_slice(entry);
            }
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are no name.
    #[inline]
    pub fn decode(name: &'a [u8]) -> Result<Self> {
        let (prefix, subkey) = split(name)?;
        let namespace = &name[prefix.start..prefix.end];
        let subkey = match subkey {
            [MARKER] => Subkey::Marker,
            [ENTRY, entry @ ..] if entry.len() <= MAX_ENTRY_BYTES => Subkey::Entry(entry),
            _ => return Err(bad_subkey(prefix.end, subkey)),
        };
        Ok(Self { namespace, subkey })
    }

    /// Whether it names the marker.
    #[inline]
    pub const fn is_marker(self) -> bool {
        matches!(self.subkey, Subkey::Marker)
    }
}

/// Appends what all names of one collection begin with, and no other.
pub fn encode_prefix(namespace: &[u8], out: &mut Vec<u8>) {
    varint::put_u64(out, namespace.len() as u64);
    out.extend_from_slice(namespace);
}

/// How many bytes at the beginning of a name are those of
/// [`encode_prefix`].
///
/// # Errors
/// `Corrupt` if the bytes are no name.
#[inline]
pub fn prefix_len(name: &[u8]) -> Result<usize> {
    split(name).map(|(namespace, _)| namespace.end)
}

/// Where the namespace lies in a name, and the bytes of the subkey, of which
/// there is at least one.
#[inline]
fn split(name: &[u8]) -> Result<(std::ops::Range<usize>, &[u8])> {
    let (len, start) = match varint::get_u64(name) {
        Ok((len, start)) if len <= MAX_NAMESPACE_BYTES as u64 => (len as usize, start),
        Ok((len, _)) => {
            return Err(bad_name("namespace length", 0, MAX_NAMESPACE_BYTES, len));
        }
        Err(why) => return Err(bad_name("namespace length", 0, MAX_NAMESPACE_BYTES, why)),
    };
    let end = start + len;
    match name.get(end..) {
        Some(subkey) if !subkey.is_empty() => Ok((start..end, subkey)),
        _ => Err(bad_name("namespace length", 0, name.len().saturating_sub(start + 1), len)),
    }
}

#[cold]
fn bad_name(field: &str, at: usize, most: usize, found: impl std::fmt::Display) -> Error {
    Error::corrupt(format_args!("entry name is damaged: bad {field}"))
        .at(format_args!("byte {at}"))
        .expected(format_args!("at most {most}"))
        .found(found)
}

#[cold]
fn bad_subkey(at: usize, subkey: &[u8]) -> Error {
    let start = &subkey[..subkey.len().min(2)];
    Error::corrupt("entry name is damaged: bad subkey")
        .at(format_args!("byte {at}"))
        .expected(format_args!("0 alone, or 1 and at most {MAX_ENTRY_BYTES} bytes"))
        .found(format_args!("{start:?} of {} bytes", subkey.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    fn encoded(name: EntryName<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        name.encode(&mut out);
        out
    }

    #[test]
    fn names_are_as_they_are_drawn_and_come_back() {
        assert_eq!(encoded(EntryName::marker(b"")), [0, 0]);
        assert_eq!(encoded(EntryName::marker(b"ns")), [2, b'n', b's', 0]);
        assert_eq!(encoded(EntryName::entry(b"ns", b"")), [2, b'n', b's', 1]);
        assert_eq!(encoded(EntryName::entry(b"", b"ab")), [0, 1, b'a', b'b']);
        let long = vec![7; MAX_NAMESPACE_BYTES];
        for namespace in [&b""[..], b"n", &long[..127], &long[..128], &long] {
            for subkey in
                [Subkey::Marker, Subkey::Entry(b""), Subkey::Entry(&[0; 9]), Subkey::Entry(&long)]
            {
                let name = EntryName { namespace, subkey };
                let bytes = encoded(name);
                assert!(bytes.len() <= MAX_ENTRY_NAME_BYTES);
                assert_eq!(EntryName::decode(&bytes).unwrap(), name);
            }
        }
    }

    #[test]
    fn the_marker_comes_first_and_entries_come_by_their_bytes() {
        let entries: [&[u8]; 6] = [b"", &[0], &[0, 0], &[0, 1], &[1], &[255]];
        let mut names = vec![encoded(EntryName::marker(b"n"))];
        names.extend(entries.map(|entry| encoded(EntryName::entry(b"n", entry))));
        assert!(names.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn no_name_begins_with_the_prefix_of_another_collection() {
        let namespaces: [&[u8]; 7] = [b"", &[0], &[1], &[1, 0], &[0, 1], &[2, 1, 1], &[1, 1]];
        for one in namespaces {
            let mut prefix = Vec::new();
            encode_prefix(one, &mut prefix);
            for other in namespaces {
                for name in [EntryName::marker(other), EntryName::entry(other, &[0, 1])] {
                    assert_eq!(encoded(name).starts_with(&prefix), one == other);
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_name_are_corrupt() {
        let over = vec![1; MAX_ENTRY_BYTES + 2];
        let mut far = Vec::new();
        varint::put_u64(&mut far, MAX_NAMESPACE_BYTES as u64 + 1);
        far.extend(vec![1; MAX_NAMESPACE_BYTES + 5]);
        let bad: [&[u8]; 13] = [
            b"",
            &[0],
            &[1],
            &[1, b'n'],
            &[2, b'n', 0],
            &[0x80, 0x00, 0x00],
            &[0x80],
            &[0xff; 12],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00],
            &[0, 0, 0],
            &[0, 2],
            &[&[0][..], &over].concat(),
            &far,
        ];
        for name in bad {
            let error = EntryName::decode(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{:?}", &name[..name.len().min(12)]);
            assert!(Placement::Collection.hash(b"k", name).is_err());
            Placement::Single.hash(b"k", name).unwrap();
        }
    }

    #[test]
    fn one_hash_holds_a_collection_together_and_another_tells_its_records_apart() {
        let names = [
            encoded(EntryName::marker(b"n")),
            encoded(EntryName::entry(b"n", b"")),
            encoded(EntryName::entry(b"n", b"e")),
        ];
        let placement = Placement::Collection;
        let mut own = Vec::new();
        for name in &names {
            let hash = placement.hash(b"k", name).unwrap();
            assert_eq!(hash, Placement::Single.hash(b"k", b"n").unwrap());
            own.push(placement.own_hash(hash, name).unwrap());
            own.push(hash);
        }
        own.sort_unstable();
        own.dedup();
        assert_eq!(own.len(), 4, "three records and the collection");
    }
}
