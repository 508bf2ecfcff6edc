//! What a canonical savepoint begins with: what is in it, and how much.

use super::{ENVELOPE, MAX_JOB_BYTES, MAX_OPERATORS, WHAT};
use crate::base::limits::{MAX_STATE_NAME_BYTES, MAX_USER_META_BYTES};
use crate::base::{Error, ErrorKind, MaxParallelism, Result};
use crate::codec::{MAX_CODEC_NAME_BYTES, MAX_SCHEMA_DETAIL_BYTES, Reader, Schema, varint};
use crate::format::manifest::{
    MAX_OPERATOR_BYTES, MAX_STATES, MIN_SCHEMA_BYTES, MIN_STATE_BYTES, StateKind, StateMeta,
    decode_instant, encode_bytes, encode_instant,
};
use crate::format::operator_state::{MAX_OPERATOR_STATES, MAX_PARTS, OperatorStateMode};
use crate::format::promise::{Broken, broken, check_len};
use crate::format::properties::{decode_max_parallelism, encode_max_parallelism};

/// Bytes of a head before its body.
const ENVELOPE_HEAD_BYTES: usize = 16;
/// Bytes of the hash behind its body.
const ENVELOPE_HASH_BYTES: usize = 16;
/// Fewest bytes of a part: a schema and a count.
const MIN_PART_BYTES: usize = MIN_SCHEMA_BYTES + 1;
/// Fewest bytes of an operator state: a name of one byte, its length, the mode, the
/// number of parts, one part, the bytes.
const MIN_ITEMS_BYTES: usize = 5 + MIN_PART_BYTES;
/// Fewest bytes of an operator: a name of one byte, its length, the number of key
/// groups, no watermark, two counts.
const MIN_OPERATOR_BYTES: usize = 7;

/// What a canonical savepoint holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// What the job is called; may be empty.
    pub job: String,
    /// What the runtime attached.
    pub user_meta: Vec<u8>,
    /// The operators, in ascending order of their names.
    pub operators: Vec<OperatorHead>,
}

/// What it holds of one operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OperatorHead {
    /// Its name.
    pub name: String,
    /// Number of key groups that its keys were divided into.
    pub max_parallelism: MaxParallelism,
    /// The event time that all its shards had reached, if they knew any.
    pub watermark: Option<i64>,
    /// Its states, in ascending order of their names.
    pub states: Vec<StateHead>,
    /// Its operator states, in ascending order of their names.
    pub operator_states: Vec<ItemsHead>,
}

/// A state, and how much it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateHead {
    /// What has to be known to read it. The older value schemas are those that
    /// values are written under.
    pub meta: StateMeta,
    /// Number of its entries.
    pub entries: u64,
    /// Bytes of their keys, namespaces, names and values.
    pub bytes: u64,
}

/// An operator state, and how much it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ItemsHead {
    /// Its name.
    pub name: String,
    /// How it is distributed.
    pub mode: OperatorStateMode,
    /// What its keys are written under, if it is a broadcast state.
    pub key_schema: Option<Schema>,
    /// What its elements or values are written under, and how many under each, in
    /// their order.
    pub parts: Vec<(Schema, u64)>,
    /// Bytes of its keys and values.
    pub bytes: u64,
}

impl ItemsHead {
    /// Number of its entries.
    pub fn entries(&self) -> u64 {
        self.parts.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    fn check(&self) -> Result<(), Broken> {
        check_len("name of an operator state", self.name.len(), 1, MAX_STATE_NAME_BYTES)?;
        let is_broadcast = self.mode == OperatorStateMode::Broadcast;
        if self.key_schema.is_some() != is_broadcast {
            return broken("keys of an operator state", "in broadcast states only", self.mode);
        }
        check_len(
            "number of parts",
            self.parts.len(),
            1,
            if is_broadcast { 1 } else { MAX_PARTS },
        )?;
        for schema in self.parts.iter().map(|(schema, _)| schema).chain(&self.key_schema) {
            check_len("name of a codec", schema.id().name.len(), 1, MAX_CODEC_NAME_BYTES)?;
            check_len("detail of a schema", schema.detail().len(), 0, MAX_SCHEMA_DETAIL_BYTES)?;
        }
        if self.parts.len() > 1 && self.parts.iter().any(|(_, count)| *count == 0) {
            let what = "parts of an operator state";
            return broken(what, "none empty among several", "an empty one");
        }
        if let Some(pair) = self.parts.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let found = format_args!("{} twice in a row", pair[0].0);
            return broken("parts of an operator state", "a schema each", found);
        }
        Ok(())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.name.as_bytes(), out);
        out.push(self.mode as u8);
        if let Some(schema) = &self.key_schema {
            schema.encode(out);
        }
        varint::put_u64(out, self.parts.len() as u64);
        for (schema, count) in &self.parts {
            schema.encode(out);
            varint::put_u64(out, *count);
        }
        varint::put_u64(out, self.bytes);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let name = reader.str("operator state name", MAX_STATE_NAME_BYTES)?.to_owned();
        let mode = OperatorStateMode::decode(reader.u8("operator state mode")?)?;
        let is_broadcast = mode == OperatorStateMode::Broadcast;
        let key_schema = if is_broadcast { Some(Schema::decode(reader)?) } else { None };
        let parts = reader.count("part count", MAX_PARTS, MIN_PART_BYTES)?;
        let parts = (0..parts)
            .map(|_| Ok((Schema::decode(reader)?, reader.varint_u64("entry count")?)))
            .collect::<Result<_>>()?;
        let bytes = reader.varint_u64("bytes")?;
        Ok(Self { name, mode, key_schema, parts, bytes })
    }
}

/// What entries belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section<'a> {
    /// A state by key.
    State(&'a OperatorHead, &'a StateHead),
    /// A state beside the keys.
    Items(&'a OperatorHead, &'a ItemsHead),
}

impl Section<'_> {
    /// The operator whose state it is.
    pub fn operator(&self) -> &OperatorHead {
        match self {
            Self::State(operator, _) | Self::Items(operator, _) => operator,
        }
    }

    /// The name of the state.
    pub fn name(&self) -> &str {
        match self {
            Self::State(_, state) => &state.meta.name,
            Self::Items(_, items) => &items.name,
        }
    }

    /// Number of entries.
    pub fn entries(&self) -> u64 {
        match self {
            Self::State(_, state) => state.entries,
            Self::Items(_, items) => items.entries(),
        }
    }

    /// Bytes of their keys, namespaces, names and values.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::State(_, state) => state.bytes,
            Self::Items(_, items) => items.bytes,
        }
    }
}

impl Head {
    /// The sections, in their order.
    pub fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        self.operators.iter().flat_map(|operator| {
            let states = operator.states.iter().map(move |state| Section::State(operator, state));
            let items = operator.operator_states.iter();
            states.chain(items.map(move |items| Section::Items(operator, items)))
        })
    }

    /// The bytes of the head.
    ///
    /// # Errors
    /// `Invalid` if a limit is exceeded, or names are not each once and ascending.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|broken| broken.error(ErrorKind::Invalid, WHAT))?;
        ENVELOPE.seal(|out| {
            encode_bytes(self.job.as_bytes(), out);
            encode_bytes(&self.user_meta, out);
            varint::put_u64(out, self.operators.len() as u64);
            for operator in &self.operators {
                encode_bytes(operator.name.as_bytes(), out);
                encode_max_parallelism(operator.max_parallelism, out);
                encode_instant(operator.watermark, out);
                varint::put_u64(out, operator.states.len() as u64);
                for state in &operator.states {
                    state.meta.encode(out);
                    varint::put_u64(out, state.entries);
                    varint::put_u64(out, state.bytes);
                }
                varint::put_u64(out, operator.operator_states.len() as u64);
                operator.operator_states.iter().for_each(|state| state.encode(out));
            }
            Ok(())
        })
    }

    /// How many bytes a head has of which these are the first 16; more of them are
    /// not looked at.
    ///
    /// # Errors
    /// `Corrupt` if no savepoint begins so, `Incompatible` if one of another version
    /// does.
    pub fn encoded_len(first: &[u8]) -> Result<usize> {
        let mut reader = ENVELOPE.open_head(first)?;
        reader.u16("reserved bytes")?;
        let body_len = reader.u32("body length")? as usize;
        Ok(ENVELOPE_HEAD_BYTES + body_len + ENVELOPE_HASH_BYTES)
    }

    /// Reads a head that fills `bytes`.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged or contradicts itself, `Incompatible` if it is one
    /// of another version, or has something that is not known here.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = ENVELOPE.open(bytes)?;
        let job = reader.str("job", MAX_JOB_BYTES)?.to_owned();
        let user_meta = reader.bytes("user meta", MAX_USER_META_BYTES)?.to_vec();
        let operators = reader.count("operator count", MAX_OPERATORS, MIN_OPERATOR_BYTES)?;
        let operators =
            (0..operators).map(|_| decode_operator(&mut reader)).collect::<Result<_>>()?;
        reader.finish()?;
        let head = Self { job, user_meta, operators };
        head.check().map_err(|broken| broken.error(ErrorKind::Corrupt, WHAT))?;
        Ok(head)
    }

    fn check(&self) -> Result<(), Broken> {
        check_len("name of the job", self.job.len(), 0, MAX_JOB_BYTES)?;
        check_len("user meta", self.user_meta.len(), 0, MAX_USER_META_BYTES)?;
        check_len("number of operators", self.operators.len(), 0, MAX_OPERATORS)?;
        ascend("names of the operators", self.operators.iter().map(|operator| &operator.name))?;
        for operator in &self.operators {
            check_len("name of an operator", operator.name.len(), 1, MAX_OPERATOR_BYTES)?;
            let (states, items) = (&operator.states, &operator.operator_states);
            check_len("number of states", states.len(), 0, MAX_STATES)?;
            check_len("number of operator states", items.len(), 0, MAX_OPERATOR_STATES)?;
            ascend("names of the states", states.iter().map(|state| &state.meta.name))?;
            ascend("names of the operator states", items.iter().map(|items| &items.name))?;
            for StateHead { meta, .. } in states {
                meta.check()?;
                if meta.ttl.is_some() && meta.kind == StateKind::Timers {
                    return broken("time to live of a state", "none of timers", &meta.name);
                }
            }
            for items in items {
                items.check()?;
                if states.binary_search_by(|state| state.meta.name.cmp(&items.name)).is_ok() {
                    let found = format_args!("{:?} of both sorts", items.name);
                    return broken("names of states and operator states", "each once", found);
                }
            }
        }
        let counts = self.sections().flat_map(|section| [section.entries(), section.bytes()]);
        match counts.into_iter().find(|count| *count > u64::MAX >> 1) {
            Some(count) => broken("counts of a state", "less than 2^63", count),
            None => Ok(()),
        }
    }
}

fn ascend<'a>(
    what: &'static str,
    mut names: impl Iterator<Item = &'a String>,
) -> Result<(), Broken> {
    let Some(mut before) = names.next() else { return Ok(()) };
    for name in names {
        if before >= name {
            let found = format_args!("{before:?} before {name:?}");
            return broken(what, "each once, ascending", found);
        }
        before = name;
    }
    Ok(())
}

fn decode_operator(reader: &mut Reader<'_>) -> Result<OperatorHead> {
    let name = reader.str("operator name", MAX_OPERATOR_BYTES)?.to_owned();
    let max_parallelism = decode_max_parallelism(reader)?;
    let watermark = decode_instant("watermark", reader)?;
    let states = reader.count("state count", MAX_STATES, MIN_STATE_BYTES + 2)?;
    let states = (0..states)
        .map(|_| {
            Ok(StateHead {
                meta: StateMeta::decode(reader)?,
                entries: reader.varint_u64("entry count")?,
                bytes: reader.varint_u64("bytes")?,
            })
        })
        .collect::<Result<_>>()?;
    let items = "operator state count";
    let items = reader.count(items, MAX_OPERATOR_STATES, MIN_ITEMS_BYTES)?;
    let operator_states =
        (0..items).map(|_| ItemsHead::decode(reader)).collect::<Result<_, Error>>()?;
    Ok(OperatorHead { name, max_parallelism, watermark, states, operator_states })
}
