//! Operator states: what a subtask keeps beside its keys, written whole into the
//! manifest of each snapshot.
//!
//! ```text
//! operator state:  | name | mode u8 | key schema, of a broadcast state only | part count | part ... |
//! part:            | value schema | item count | item ... |
//! item:            | length | bytes |
//! ```
//!
//! Names and schemas are those of the manifest; counts and lengths are varints.
//! The items of a list are its elements in order. Those of a broadcast state are
//! its keys and values in turn, keys ascending.
//!
//! A part is a run of items that were written under one schema. A state that was
//! opened has one. One that was only restored, and is carried on, may have been
//! put together from subtasks that had different versions of it.
//!
//! Promises of a decoded state (and of an encoded one, or encoding fails): it has
//! a part; several are none of them empty, and two neighbours differ in their
//! schema; a broadcast state has exactly one part, with as many values as keys,
//! each key once and ascending.

use std::fmt;
use std::sync::Arc;

use super::manifest::encode_bytes;
use super::promise::{Broken, broken, check_len};
use crate::base::limits::{MAX_KEY_BYTES, MAX_STATE_NAME_BYTES, MAX_VALUE_BYTES};
use crate::base::{Error, Result};
use crate::codec::{MAX_CODEC_NAME_BYTES, MAX_SCHEMA_DETAIL_BYTES, Reader, Schema, varint};

/// Most operator states of a shard.
pub const MAX_OPERATOR_STATES: usize = u16::MAX as usize;
/// Most bytes of the items of all operator states in a manifest: 2 GiB, about
/// half of what its envelope can hold.
///
/// [`MAX_OPERATOR_STATE_BYTES`](crate::base::limits::MAX_OPERATOR_STATE_BYTES)
/// is what a shard may write; this is what a restore may bring together.
pub const MAX_MANIFEST_ITEM_BYTES: u64 = 2 << 30;
/// Most parts of a state: no more than there are subtasks in two jobs.
pub const MAX_PARTS: usize = u16::MAX as usize;

/// Fewest bytes of an item: the length of an empty one.
const MIN_ITEM_BYTES: usize = 1;
/// Fewest bytes of a part: a schema of four and the number of items.
const MIN_PART_BYTES: usize = 5;
/// Fewest bytes of a state: a name of one byte, its length, the mode, the number
/// of parts and one of them.
pub(super) const MIN_OPERATOR_STATE_BYTES: usize = 4 + MIN_PART_BYTES;
/// Bytes that are shared and copied as one.
const PIECE_BYTES: usize = 16 * 1024;

/// How an operator state is distributed when it is restored. DO NOT CHANGE the
/// numbers: they are on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum OperatorStateMode {
    /// A list whose elements are divided evenly among the subtasks.
    List = 1,
    /// A list of which every subtask gets the elements of all.
    UnionList = 2,
    /// A map that is the same on every subtask.
    Broadcast = 3,
}

impl OperatorStateMode {
    /// Whether it is one of the lists.
    pub const fn is_list(self) -> bool {
        matches!(self, Self::List | Self::UnionList)
    }

    pub(super) fn decode(number: u8) -> Result<Self> {
        match number {
            1 => Ok(Self::List),
            2 => Ok(Self::UnionList),
            3 => Ok(Self::Broadcast),
            other => {
                Err(Error::incompatible("manifest holds an operator state of an unknown mode")
                    .expected("1 to 3: list, union list, broadcast")
                    .found(other)
                    .remedy("read it with the version of alluvium that wrote it, or a newer one"))
            }
        }
    }
}

impl fmt::Display for OperatorStateMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "a list that is divided",
            Self::UnionList => "a union list",
            Self::Broadcast => "a broadcast state",
        })
    }
}

/// One operator state of one subtask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OperatorState {
    /// Its name. A shard has one namespace for states of all kinds.
    pub name: String,
    /// How it is distributed.
    pub mode: OperatorStateMode,
    /// What its keys are written under, if it is a broadcast state.
    pub key_schema: Option<Schema>,
    /// Its items in order, by the schema that they were written under.
    pub parts: Vec<OperatorPart>,
}

/// Neighbouring items of one schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OperatorPart {
    /// What the elements, or the values, are written under.
    pub value_schema: Schema,
    /// The elements, or keys and values in turn.
    pub items: Items,
}

/// A sequence of byte strings, laid out as it is stored. Clones share it, and
/// one that is changed copies only what it must: a list of pieces of 16 KiB, and
/// the last of them.
#[derive(Clone, Default)]
pub struct Items {
    /// Each holds whole items, and at least one.
    pieces: Arc<Vec<Arc<Vec<u8>>>>,
    count: u64,
    bytes: u64,
}

impl Items {
    /// Appends an item.
    pub fn push(&mut self, item: &[u8]) {
        let stored = Self::stored_bytes(item.len());
        let pieces = Arc::make_mut(&mut self.pieces);
        match pieces.last_mut() {
            Some(last) if last.len() as u64 + stored <= PIECE_BYTES as u64 => {
                encode_bytes(item, Arc::make_mut(last));
            }
            _ => {
                let mut piece = Vec::with_capacity(stored as usize);
                encode_bytes(item, &mut piece);
                pieces.push(Arc::new(piece));
            }
        }
        self.count += 1;
        self.bytes += stored;
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().flat_map(|piece| Split { rest: piece })
    }

    /// Number of items.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that they take, with their lengths.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that an item of `len` bytes takes.
    pub const fn stored_bytes(len: usize) -> u64 {
        varint::len_u64(len as u64) as u64 + len as u64
    }

    /// What `pieces` hold: whole items of this number, as laid out here.
    pub(crate) fn of_pieces(pieces: Vec<Arc<Vec<u8>>>, count: u64) -> Self {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces: Arc::new(pieces), count, bytes }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        varint::put_u64(out, self.count);
        for piece in &*self.pieces {
            out.extend_from_slice(piece);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let count = reader.count("item count", usize::MAX, MIN_ITEM_BYTES)?;
        let mut pieces = Vec::new();
        let mut copied = reader.clone();
        for _ in 0..count {
            reader.bytes("item", MAX_VALUE_BYTES)?;
            let read = reader.offset() - copied.offset();
            if read >= PIECE_BYTES {
                pieces.push(Arc::new(copied.take("items", read)?.to_vec()));
            }
        }
        let read = reader.offset() - copied.offset();
        if read > 0 {
            pieces.push(Arc::new(copied.take("items", read)?.to_vec()));
        }
        Ok(Self::of_pieces(pieces, count as u64))
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Items {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut all = Self::default();
        items.into_iter().for_each(|item| all.push(item.as_ref()));
        all
    }
}

impl PartialEq for Items {
    fn eq(&self, other: &Self) -> bool {
        (self.count, self.bytes) == (other.count, other.bytes) && self.iter().eq(other.iter())
    }
}

impl Eq for Items {}

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items of {} bytes", self.count, self.bytes)
    }
}

/// The items of a piece, which has been checked or was made here.
struct Split<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Split<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (item, rest) = split_item(self.rest);
        self.rest = rest;
        Some(item)
    }
}

/// The first item of bytes that begin with one, and what follows it.
pub(crate) fn split_item(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (len, head) = varint::get_u64(bytes).expect("a piece holds whole items");
    bytes[head..].split_at(len as usize)
}

impl OperatorState {
    /// Number of items of all parts.
    pub fn items(&self) -> u64 {
        self.parts.iter().map(|part| part.items.len()).sum()
    }

    /// Bytes of the items of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.items.bytes()).sum()
    }

    pub(super) fn check(&self) -> Result<(), Broken> {
        check_len("name of an operator state", self.name.len(), 1, MAX_STATE_NAME_BYTES)?;
        check_len("number of parts", self.parts.len(), 1, MAX_PARTS)?;
        let is_broadcast = self.mode == OperatorStateMode::Broadcast;
        if self.key_schema.is_some() != is_broadcast {
            return broken("keys of an operator state", "in broadcast states only", self.mode);
        }
        let values = self.parts.iter().map(|part| &part.value_schema);
        for schema in values.chain(&self.key_schema) {
            check_len("name of a codec", schema.id().name.len(), 1, MAX_CODEC_NAME_BYTES)?;
            check_len("detail of a schema", schema.detail().len(), 0, MAX_SCHEMA_DETAIL_BYTES)?;
        }
        if self.parts.len() > 1 && self.parts.iter().any(|part| part.items.is_empty()) {
            return broken(
                "parts of an operator state",
                "none empty among several",
                "an empty one",
            );
        }
        if let Some(pair) =
            self.parts.windows(2).find(|pair| pair[0].value_schema == pair[1].value_schema)
        {
            let found = format_args!("{} twice in a row", pair[0].value_schema);
            return broken("parts of an operator state", "a schema each", found);
        }
        if is_broadcast { self.check_keys() } else { Ok(()) }
    }

    fn check_keys(&self) -> Result<(), Broken> {
        check_len("parts of a broadcast state", self.parts.len(), 1, 1)?;
        let items = &self.parts[0].items;
        if !items.len().is_multiple_of(2) {
            return broken("items of a broadcast state", "as many values as keys", items.len());
        }
        let mut before: Option<&[u8]> = None;
        for key in items.iter().step_by(2) {
            check_len("key of a broadcast state", key.len(), 0, MAX_KEY_BYTES)?;
            if before.is_some_and(|before| before >= key) {
                let found = format_args!("another order in state {:?}", self.name);
                return broken("keys of a broadcast state", "each once, ascending", found);
            }
            before = Some(key);
        }
        Ok(())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.name.as_bytes(), out);
        out.push(self.mode as u8);
        if let Some(schema) = &self.key_schema {
            schema.encode(out);
        }
        varint::put_u64(out, self.parts.len() as u64);
        for part in &self.parts {
            part.value_schema.encode(out);
            part.items.encode(out);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let name = reader.str("operator state name", MAX_STATE_NAME_BYTES)?.to_owned();
        let mode = OperatorStateMode::decode(reader.u8("operator state mode")?)?;
        let is_broadcast = mode == OperatorStateMode::Broadcast;
        let key_schema = if is_broadcast { Some(Schema::decode(reader)?) } else { None };
        let parts = reader.count("part count", MAX_PARTS, MIN_PART_BYTES)?;
        let parts = (0..parts)
            .map(|_| {
                let value_schema = Schema::decode(reader)?;
                Ok(OperatorPart { value_schema, items: Items::decode(reader)? })
            })
            .collect::<Result<_>>()?;
        Ok(Self { name, mode, key_schema, parts })
    }
}

/// The promises that concern all operator states of a manifest.
pub(super) fn check_all(states: &[OperatorState]) -> Result<(), Broken> {
    check_len("number of operator states", states.len(), 0, MAX_OPERATOR_STATES)?;
    states.iter().try_for_each(OperatorState::check)?;
    if let Some(pair) = states.windows(2).find(|pair| pair[0].name >= pair[1].name) {
        let found = format_args!("{:?} before {:?}", pair[0].name, pair[1].name);
        return broken("names of the operator states", "each once, ascending", found);
    }
    let bytes: u64 = states.iter().map(OperatorState::bytes).sum();
    if bytes > MAX_MANIFEST_ITEM_BYTES {
        let expected = format_args!("at most {MAX_MANIFEST_ITEM_BYTES}");
        return broken("bytes of the operator states", expected, bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_its_items_while_the_other_grows() {
        let mut items = Items::default();
        let mut clones = Vec::new();
        let item = |number: usize| vec![number as u8; number * 37 % 5000];
        for number in 0..400 {
            clones.push(items.clone());
            items.push(&item(number));
        }
        clones.push(items);
        for (len, clone) in clones.iter().enumerate() {
            assert_eq!(clone.len(), len as u64);
            assert!(clone.iter().eq((0..len).map(item)), "{len} items");
            assert_eq!(
                clone.bytes(),
                clone.pieces.iter().map(|piece| piece.len() as u64).sum::<u64>()
            );
            let biggest = clone.pieces.iter().map(|piece| piece.len()).max().unwrap_or(0);
            assert!(biggest <= PIECE_BYTES);
        }
        let shared = clones[399].pieces.iter().zip(&*clones[400].pieces);
        let copied = shared.filter(|(one, other)| !Arc::ptr_eq(one, other)).count();
        assert!(copied <= 1, "only the last piece is copied, not {copied}");
    }

    #[test]
    fn items_of_any_length_come_back_in_pieces() {
        let items: Items = (0..300_u32).map(|len| vec![7; (len * len) as usize]).collect();
        let mut bytes = Vec::new();
        items.encode(&mut bytes);
        let mut reader = Reader::new("items", &bytes);
        let back = Items::decode(&mut reader).unwrap();
        reader.finish().unwrap();
        assert_eq!(back, items);
        assert!(back.pieces.len() > 100);
        assert_ne!(items, items.iter().skip(1).collect());
    }
}
