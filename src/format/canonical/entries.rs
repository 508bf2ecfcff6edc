//! The entries of a canonical savepoint, and what ends it.

use std::ops::Range;

use super::{PIECE_BYTES, Section, WHAT};
use crate::base::checksum::ContentHash;
use crate::base::limits::{MAX_KEY_BYTES, MAX_NAMESPACE_BYTES, MAX_VALUE_BYTES};
use crate::base::time::{UNKNOWN_STAMP, ms_of_stamp, stamp_of_ms};
use crate::base::{KeyGroup, Result};
use crate::codec::{Reader, varint};
use crate::format::collection::MAX_ENTRY_BYTES;
use crate::format::manifest::{StateKind, encode_bytes};
use crate::format::operator_state::OperatorStateMode;

/// The stamp of what was written at a time that is not known: before there was any
/// watermark.
pub const UNKNOWN_TIME: i64 = i64::MIN;

const SAME_PLACE: u8 = 1;
const CHOSEN_GROUP: u8 = 2;
const OLDER_SCHEMA: u8 = 4;
const LONG: u8 = 8;

/// Bytes of a timer's time.
const TIME_BYTES: usize = 8;
/// Bytes of a block before its entries.
const BLOCK_HEAD_BYTES: usize = 8;
/// Fewest bytes of an entry: its flags, and a time or the length of a value.
const MIN_ENTRY_BYTES: usize = 2;
/// Bytes that an element of a list takes beside its own at most: its length and a
/// stamp, and the header of a list.
const ELEMENT_EXTRA_BYTES: usize = 40;

/// What tells the entries of one place apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Name<'a> {
    /// Nothing: a value, an element of a list, an item of a list beside the keys.
    None,
    /// The user key of a map's entry, or the key of an entry of a broadcast state.
    Key(&'a [u8]),
    /// The time of a timer.
    Time(i64),
}

impl Name<'_> {
    /// Bytes that it counts for.
    pub fn bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Key(key) => key.len(),
            Self::Time(_) => TIME_BYTES,
        }
    }
}

/// One entry of a canonical savepoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Its key; empty in an operator state.
    pub key: &'a [u8],
    /// Its namespace, empty if it has none.
    pub namespace: &'a [u8],
    /// Its key group, if it does not follow from the key.
    pub group: Option<KeyGroup>,
    /// Which entry of its place it is.
    pub name: Name<'a>,
    /// Which of the value schemas of its state it is written under, of the parts if it
    /// is in an operator state.
    pub schema: usize,
    /// When it was last written, in milliseconds of the time that its state lives by
    /// ([`UNKNOWN_TIME`] if that is not known); `None` if values live for ever.
    pub stamp: Option<i64>,
    /// Its value; empty for a timer.
    pub value: &'a [u8],
}

impl<'a> Entry<'a> {
    /// What it adds to the `bytes` of its section.
    pub fn bytes(&self) -> u64 {
        let Self { key, namespace, name, value, .. } = self;
        (key.len() + namespace.len() + name.bytes() + value.len()) as u64
    }

    /// What all entries of one value, list, map or key of timers share, in the order
    /// of a section.
    pub(crate) fn place(&self) -> (&'a [u8], &'a [u8], Option<KeyGroup>) {
        (self.key, self.namespace, self.group)
    }
}

/// The instant of a stamp in a table.
pub(crate) fn instant_of_stamp(stamp: u64) -> i64 {
    if stamp <= UNKNOWN_STAMP { UNKNOWN_TIME } else { ms_of_stamp(stamp) }
}

/// The stamp of an instant, for a table.
pub(crate) fn stamp_of_instant(instant: i64) -> u64 {
    stamp_of_ms(instant)
}

/// Which fields the entries of a section have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Key, namespace and group.
    has_place: bool,
    name: NameKind,
    has_stamp: bool,
    has_value: bool,
    /// How many entries a place has.
    pub(crate) per_place: PerPlace,
    schemas: usize,
    max_namespace: usize,
    max_value: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NameKind {
    None,
    Key,
    Time,
}

/// How many entries a place has, and in which order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PerPlace {
    One,
    /// In the order that they come in.
    Sequence,
    /// By ascending names.
    Named,
}

impl Section<'_> {
    pub(crate) fn shape(&self) -> Shape {
        match self {
            Self::State(_, state) => {
                let meta = &state.meta;
                let (name, per_place) = match meta.kind {
                    StateKind::List => (NameKind::None, PerPlace::Sequence),
                    StateKind::Map => (NameKind::Key, PerPlace::Named),
                    StateKind::Timers => (NameKind::Time, PerPlace::Named),
                    StateKind::Value | StateKind::Reducing | StateKind::Aggregating => {
                        (NameKind::None, PerPlace::One)
                    }
                };
                let is_timers = meta.kind == StateKind::Timers;
                let is_timed = meta.ttl.is_some();
                Shape {
                    has_place: true,
                    name,
                    has_stamp: is_timed && !is_timers,
                    has_value: !is_timers,
                    per_place,
                    schemas: 1 + meta.older_value_schemas.len(),
                    max_namespace: MAX_NAMESPACE_BYTES - if is_timers { TIME_BYTES } else { 0 },
                    max_value: match meta.kind {
                        StateKind::List => MAX_VALUE_BYTES - ELEMENT_EXTRA_BYTES,
                        _ => MAX_VALUE_BYTES - if is_timed { TIME_BYTES } else { 0 },
                    },
                }
            }
            Self::Items(_, items) => {
                let is_broadcast = items.mode == OperatorStateMode::Broadcast;
                Shape {
                    has_place: false,
                    name: if is_broadcast { NameKind::Key } else { NameKind::None },
                    has_stamp: false,
                    has_value: true,
                    per_place: if is_broadcast { PerPlace::Named } else { PerPlace::Sequence },
                    schemas: 1,
                    max_namespace: 0,
                    max_value: MAX_VALUE_BYTES,
                }
            }
        }
    }
}

/// Collects the entries of one block.
#[derive(Debug, Default)]
pub(crate) struct EntryWriter {
    payload: Vec<u8>,
    count: u32,
    /// The place of the last entry, if it is in this block.
    key: Vec<u8>,
    namespace: Vec<u8>,
    group: Option<KeyGroup>,
}

impl EntryWriter {
    /// Bytes of the entries so far.
    pub(crate) fn bytes(&self) -> usize {
        self.payload.len().saturating_sub(BLOCK_HEAD_BYTES)
    }

    /// Adds an entry; `true` if its value is long, so that the block ends here and
    /// pieces have to follow.
    pub(crate) fn push(&mut self, section: u32, shape: &Shape, entry: &Entry<'_>) -> bool {
        if self.count == 0 {
            self.payload.clear();
            self.payload.extend_from_slice(&section.to_le_bytes());
            self.payload.extend_from_slice(&[0; 4]);
        }
        let out = &mut self.payload;
        let flags_at = out.len();
        out.push(0);
        let mut flags = 0;
        if shape.has_place {
            let last = (&*self.key, &*self.namespace, self.group);
            if self.count > 0 && last == entry.place() {
                flags |= SAME_PLACE;
            } else {
                encode_bytes(entry.key, out);
                encode_bytes(entry.namespace, out);
                if let Some(group) = entry.group {
                    flags |= CHOSEN_GROUP;
                    out.extend_from_slice(&group.0.to_le_bytes());
                }
                self.key.clear();
                self.key.extend_from_slice(entry.key);
                self.namespace.clear();
                self.namespace.extend_from_slice(entry.namespace);
                self.group = entry.group;
            }
            if entry.schema != 0 {
                flags |= OLDER_SCHEMA;
                varint::put_u64(out, entry.schema as u64);
            }
        }
        match entry.name {
            Name::None => {}
            Name::Key(key) => encode_bytes(key, out),
            Name::Time(time) => out.extend_from_slice(&time.to_le_bytes()),
        }
        if let Some(stamp) = entry.stamp {
            out.extend_from_slice(&stamp.to_le_bytes());
        }
        let is_long = entry.value.len() > PIECE_BYTES;
        if is_long {
            flags |= LONG;
            varint::put_u64(out, entry.value.len() as u64);
        } else if shape.has_value {
            encode_bytes(entry.value, out);
        }
        out[flags_at] = flags;
        self.count += 1;
        is_long
    }

    /// Ends the block and lends its payload; `None` if it has no entries.
    pub(crate) fn finish(&mut self) -> Option<&[u8]> {
        let count = std::mem::take(&mut self.count);
        if count == 0 {
            return None;
        }
        self.payload[4..8].copy_from_slice(&count.to_le_bytes());
        Some(&self.payload)
    }
}

/// A cursor over the payload of a block.
#[derive(Clone, Debug)]
pub struct Block {
    section: u32,
    left: u32,
    at: usize,
    place: Option<Place>,
}

/// The place of the last entry.
#[derive(Clone, Debug)]
struct Place {
    key: Range<usize>,
    namespace: Range<usize>,
    group: Option<KeyGroup>,
}

impl Block {
    /// At the first entry of a block.
    ///
    /// # Errors
    /// `Corrupt` if it can be none.
    pub fn begin(payload: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(WHAT, payload);
        let section = reader.u32("section of a block")?;
        let count = reader.u32("entry count of a block")?;
        let most = (reader.remaining() / MIN_ENTRY_BYTES) as u32;
        if !(1..=most).contains(&count) {
            return Err(reader.corrupt(
                "entry count of a block",
                format_args!("1 to {most}"),
                count,
            ));
        }
        Ok(Self { section, left: count, at: reader.offset(), place: None })
    }

    /// The number of the section whose entries it holds.
    pub fn section(&self) -> u32 {
        self.section
    }

    /// Whether there are more entries.
    pub fn has_more(&self) -> bool {
        self.left > 0
    }

    /// The next entry of `payload`, which is the one that it began with and belongs to
    /// `section`; `None` behind the last. With it comes the length of its value, if
    /// that is long and follows in pieces.
    ///
    /// # Errors
    /// `Corrupt` if there is none.
    pub fn next<'p>(
        &mut self,
        payload: &'p [u8],
        section: &Section<'_>,
    ) -> Result<Option<(Entry<'p>, Option<usize>)>> {
        self.next_of(payload, &section.shape())
    }

    pub(crate) fn next_of<'p>(
        &mut self,
        payload: &'p [u8],
        shape: &Shape,
    ) -> Result<Option<(Entry<'p>, Option<usize>)>> {
        let mut reader = Reader::new(WHAT, payload);
        reader.take("entries", self.at)?;
        if self.left == 0 {
            reader.finish()?;
            return Ok(None);
        }
        let flags = reader.u8("flags of an entry")?;
        let allowed = match (shape.has_place, shape.has_value) {
            (true, true) => SAME_PLACE | CHOSEN_GROUP | OLDER_SCHEMA | LONG,
            (true, false) => SAME_PLACE | CHOSEN_GROUP | OLDER_SCHEMA,
            (false, _) => LONG,
        };
        let repeats = flags & (SAME_PLACE | CHOSEN_GROUP) == SAME_PLACE | CHOSEN_GROUP;
        if flags & !allowed != 0 || repeats {
            let expected = format_args!("flags of {allowed:#x}");
            return Err(reader.corrupt("flags of an entry", expected, format_args!("{flags:#x}")));
        }
        if shape.has_place && flags & SAME_PLACE == 0 {
            let key = ranged(&mut reader, "key", MAX_KEY_BYTES)?;
            let namespace = ranged(&mut reader, "namespace", shape.max_namespace)?;
            let group = match flags & CHOSEN_GROUP {
                0 => None,
                _ => Some(KeyGroup(reader.u16("key group")?)),
            };
            self.place = Some(Place { key, namespace, group });
        }
        let (key, namespace, group) = match &self.place {
            Some(Place { key, namespace, group }) => {
                (&payload[key.clone()], &payload[namespace.clone()], *group)
            }
            None if shape.has_place => {
                return Err(reader.corrupt("flags of an entry", "a place", "that of no entry"));
            }
            None => (&[][..], &[][..], None),
        };
        let schema = match flags & OLDER_SCHEMA {
            0 => 0,
            _ => match reader.varint_u64("schema of an entry")? {
                schema if (1..shape.schemas as u64).contains(&schema) => schema as usize,
                schema => {
                    let expected = format_args!("1 to {}", shape.schemas - 1);
                    return Err(reader.corrupt("schema of an entry", expected, schema));
                }
            },
        };
        let name = match shape.name {
            NameKind::None => Name::None,
            NameKind::Key => Name::Key(reader.bytes("name of an entry", MAX_ENTRY_BYTES)?),
            NameKind::Time => Name::Time(reader.u64("time of a timer")? as i64),
        };
        let stamp = match shape.has_stamp {
            false => None,
            true => match reader.u64("stamp of an entry")? as i64 {
                // No table tells it from one that is not known.
                stamp if stamp == UNKNOWN_TIME + 1 => {
                    return Err(reader.corrupt("stamp of an entry", "a time", stamp));
                }
                stamp => Some(stamp),
            },
        };
        let (value, long) = match (flags & LONG, shape.has_value) {
            (0, true) => {
                let most = shape.max_value.min(PIECE_BYTES);
                (reader.bytes("value of an entry", most)?, None)
            }
            (0, false) => (&[][..], None),
            _ => {
                let len = reader.varint_u64("length of a long value")?;
                let (least, most) = (PIECE_BYTES as u64 + 1, shape.max_value as u64);
                if !(least..=most).contains(&len) || self.left > 1 {
                    let expected = format_args!("{least} to {most}, at the end of its block");
                    return Err(reader.corrupt("length of a long value", expected, len));
                }
                (&[][..], Some(len as usize))
            }
        };
        self.at = reader.offset();
        self.left -= 1;
        if self.left == 0 {
            reader.finish()?;
        }
        Ok(Some((Entry { key, namespace, group, name, schema, stamp, value }, long)))
    }
}

/// Where the next byte string lies.
fn ranged(reader: &mut Reader<'_>, field: &'static str, limit: usize) -> Result<Range<usize>> {
    let len = reader.bytes(field, limit)?.len();
    Ok(reader.offset() - len..reader.offset())
}

/// What ends a canonical savepoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// Number of blocks and pieces.
    pub frames: u64,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of their keys, namespaces, names and values.
    pub bytes: u64,
    /// Hash of the head and of the payloads of all blocks and pieces, before
    /// compression: equal hashes, equal state.
    pub hash: ContentHash,
}

impl End {
    /// The payload of the end.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40);
        for count in [self.frames, self.entries, self.bytes] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(&self.hash.0.to_le_bytes());
        out
    }

    /// Reads the payload back.
    ///
    /// # Errors
    /// `Corrupt` if it is none.
    pub fn decode(payload: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(WHAT, payload);
        let end = Self {
            frames: reader.u64("number of frames")?,
            entries: reader.u64("number of entries")?,
            bytes: reader.u64("number of bytes")?,
            hash: ContentHash(reader.u128("hash")?),
        };
        reader.finish()?;
        Ok(end)
    }
}
