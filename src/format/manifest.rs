//! A manifest: the immutable list of tables, with their slices of key groups,
//! that makes one shard's snapshot.
//!
//! ```text
//! manifest:  an envelope (see envelope.rs), magic "ALVMANIF", around
//!            | snapshot u64 | created_unix_ms u64 | sequence u64 |
//!            0              8                     16             24
//!            | max_parallelism u16 | first group u16 | last group u16 |
//!            24                    26                28               30
//!            | operator | watermark | state count | state ... | table count | table ... |
//!            | operator state count | operator state ... | user meta |
//! state:     | name | kind u8 | key schema | namespace schema | value schema |
//!            | has map keys u8: 0, or 1 and | map key schema | older count | older value schema ... |
//!            | time to live |
//! time to live:  | time u8: 0, or 1 processing or 2 event and | duration_ms u64 | since |
//! watermark, since:  | 0 u8 |, or | 1 u8 | milliseconds i64 |
//! schema:    | codec name | version | detail | (see schema.rs)
//! operator state: see operator_state.rs
//! table:     | meta 68 bytes (see table.rs) | location | slice first group u16 | slice last group u16 |
//!            | dropped count | name of a dropped state ... |
//! ```
//!
//! Names, details, locations and the user meta are a varint length and bytes;
//! counts and versions are varints. The same manifest always has the same bytes:
//! states of both sorts ascend by name, older schemas by fingerprint, dropped
//! states by name, tables go from the oldest to the newest.
//!
//! A table may hold records of a state that was dropped since. It is then named
//! with that state, and these records do not count: not even if there is a state
//! of the same name again, whose records are in tables that do not name it so.
//!
//! A table names, for each of its states, the fingerprint of the schema that the
//! values in it were written under (see properties.rs). The manifest has every
//! schema that is named so in its tables: records are migrated when they are
//! read or merged, and until then those of several versions stand side by side.
//!
//! Promises that a decoded manifest keeps (and an encoded one, or encoding
//! fails): every limit below holds, no two states of any sort have one name, the
//! value schemas of a state are unique, operator states keep promises of their own, each slice lies within the groups of its table and
//! of the manifest, and slices of the same table do not overlap. Where a location
//! points, and whether it may, is for the store to judge.

use super::envelope::Envelope;
use super::operator_state::{self, MAX_OPERATOR_STATES, MIN_OPERATOR_STATE_BYTES, OperatorState};
use super::promise::{Broken, broken, check_len};
use super::properties::{
    decode_groups, decode_max_parallelism, decode_time, encode_groups, encode_max_parallelism,
    encode_time,
};
use super::table::TableMeta;
use crate::base::limits::{MAX_STATE_NAME_BYTES, MAX_USER_META_BYTES};
use crate::base::{
    Error, ErrorKind, KeyGroupRange, MaxParallelism, Result, SnapshotId, TimeDomain,
};
use crate::codec::{MAX_CODEC_NAME_BYTES, MAX_SCHEMA_DETAIL_BYTES, Reader, Schema, varint};

/// Longest name of an operator, in bytes.
pub const MAX_OPERATOR_BYTES: usize = 1024;
/// Longest location of a table, in bytes: the longest object name of the
/// common stores.
pub const MAX_LOCATION_BYTES: usize = 1024;
/// Most states of a shard: what a table's ordinals can say.
pub const MAX_STATES: usize = u16::MAX as usize;
/// Most tables of a manifest. A shard with a thousand is in trouble already.
pub const MAX_TABLES: usize = 1 << 20;
/// Most older value schemas of a state.
pub const MAX_OLDER_SCHEMAS: usize = 1024;

const ENVELOPE: Envelope = Envelope { what: "manifest", magic: *b"ALVMANIF", version: 1 };

/// Fewest bytes of a schema: a name of one byte, its length, the version and
/// the length of the detail.
pub(super) const MIN_SCHEMA_BYTES: usize = 4;
/// Fewest bytes of a state: a name of one byte, its length, the kind, three
/// schemas, the absence of map keys, the number of older schemas and the absence
/// of a time to live.
pub(super) const MIN_STATE_BYTES: usize = 6 + 3 * MIN_SCHEMA_BYTES;
/// Fewest bytes of a table: its meta, a location of one byte, its slice, the
/// number of dropped states.
const MIN_TABLE_BYTES: usize = TableMeta::ENCODED_BYTES + 2 + 4 + 1;
/// Fewest bytes of a dropped state: a name of one byte, its length.
const MIN_DROPPED_BYTES: usize = 2;

/// One shard's snapshot: which tables, and what they mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Name of the operator whose state it is.
    pub operator: String,
    /// When it was made, by the wall clock; for people.
    pub created_unix_ms: u64,
    /// The next number that a list chunk of the shard may take.
    pub sequence: u64,
    /// The key groups of the shard.
    pub groups: KeyGroupRange,
    /// Number of key groups of the job.
    pub max_parallelism: MaxParallelism,
    /// The event time that the shard had reached, if it knew any.
    pub watermark: Option<i64>,
    /// The states, in ascending order of their names.
    pub states: Vec<StateMeta>,
    /// The tables, from the oldest to the newest: a record in a later one
    /// replaces those in earlier ones.
    pub tables: Vec<TableRef>,
    /// The operator states, in ascending order of their names.
    pub operator_states: Vec<OperatorState>,
    /// What the runtime attached: source offsets, watermarks.
    pub user_meta: Vec<u8>,
}

/// What has to be known of a state to read it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateMeta {
    /// Its name.
    pub name: String,
    /// How its records are to be read.
    pub kind: StateKind,
    /// What its keys are written under.
    pub key_schema: Schema,
    /// What its namespaces are written under.
    pub namespace_schema: Schema,
    /// What the keys of its maps are written under, if it is one of maps.
    pub map_key_schema: Option<Schema>,
    /// What its values (elements of lists, values of maps) were written under
    /// last.
    pub value_schema: Schema,
    /// What else the values in some of the tables may be written under, in
    /// ascending order of the fingerprints.
    pub older_value_schemas: Vec<Schema>,
    /// How long its values live, if not for ever.
    pub ttl: Option<TtlMeta>,
}

/// How long the values of a state live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TtlMeta {
    /// By which time.
    pub time: TimeDomain,
    /// How long, in milliseconds. For people: the next life may have another.
    pub duration_ms: u64,
    /// From when on it has been so, in milliseconds of that time: values without
    /// a stamp count as written then. `None` in event time as long as there was no
    /// watermark.
    pub since_ms: Option<i64>,
}

/// How the records of a state are to be read. DO NOT CHANGE the numbers: they
/// are on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum StateKind {
    /// One value for each key and namespace.
    Value = 1,
    /// A sequence of elements for each key and namespace.
    List = 2,
    /// Entries by user key for each key and namespace.
    Map = 3,
    /// One value for each key and namespace, into which further ones are
    /// reduced.
    Reducing = 4,
    /// One accumulator for each key and namespace.
    Aggregating = 5,
    /// Timers, in order of their time.
    Timers = 6,
}

/// A table, where it is, and the part of it that counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableRef {
    /// What recognises the file.
    pub meta: TableMeta,
    /// Name of the object that holds it.
    pub location: String,
    /// The groups of it that belong to the shard.
    pub slice: KeyGroupRange,
    /// Names of states whose records in it do not count, ascending: the states
    /// were dropped after they were written.
    pub dropped: Vec<String>,
}

impl Manifest {
    /// The bytes of the manifest.
    ///
    /// # Errors
    /// `Invalid` if it breaks one of the promises in the module's head.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|broken| broken.error(ErrorKind::Invalid, "manifest"))?;
        ENVELOPE.seal(|out| {
            out.extend_from_slice(&self.snapshot.0.to_le_bytes());
            out.extend_from_slice(&self.created_unix_ms.to_le_bytes());
            out.extend_from_slice(&self.sequence.to_le_bytes());
            encode_max_parallelism(self.max_parallelism, out);
            encode_groups(self.groups, out);
            encode_bytes(self.operator.as_bytes(), out);
            encode_instant(self.watermark, out);
            varint::put_u64(out, self.states.len() as u64);
            for state in &self.states {
                state.encode(out);
            }
            varint::put_u64(out, self.tables.len() as u64);
            for table in &self.tables {
                table.meta.encode(out);
                encode_bytes(table.location.as_bytes(), out);
                encode_groups(table.slice, out);
                varint::put_u64(out, table.dropped.len() as u64);
                for name in &table.dropped {
                    encode_bytes(name.as_bytes(), out);
                }
            }
            varint::put_u64(out, self.operator_states.len() as u64);
            for state in &self.operator_states {
                state.encode(out);
            }
            encode_bytes(&self.user_meta, out);
            Ok(())
        })
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not a manifest that keeps its promises;
    /// `Incompatible` if they are one of another version, or hold a kind of
    /// state that is not known here.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = ENVELOPE.open(bytes)?;
        let snapshot = SnapshotId(reader.u64("snapshot")?);
        let created_unix_ms = reader.u64("creation time")?;
        let sequence = reader.u64("sequence")?;
        let max_parallelism = decode_max_parallelism(&mut reader)?;
        let all = max_parallelism.all_groups();
        let groups = decode_groups(&mut reader, all)?;
        let operator = reader.str("operator", MAX_OPERATOR_BYTES)?.to_owned();
        let watermark = decode_instant("watermark", &mut reader)?;
        let states = reader.count("state count", MAX_STATES, MIN_STATE_BYTES)?;
        let states = (0..states).map(|_| StateMeta::decode(&mut reader)).collect::<Result<_>>()?;
        let tables = reader.count("table count", MAX_TABLES, MIN_TABLE_BYTES)?;
        let tables = (0..tables)
            .map(|_| {
                Ok(TableRef {
                    meta: TableMeta::decode(&mut reader)?,
                    location: reader.str("table location", MAX_LOCATION_BYTES)?.to_owned(),
                    slice: decode_groups(&mut reader, all)?,
                    dropped: decode_dropped(&mut reader)?,
                })
            })
            .collect::<Result<_>>()?;
        let count = "operator state count";
        let count = reader.count(count, MAX_OPERATOR_STATES, MIN_OPERATOR_STATE_BYTES)?;
        let operator_states =
            (0..count).map(|_| OperatorState::decode(&mut reader)).collect::<Result<_>>()?;
        let user_meta = reader.bytes("user meta", MAX_USER_META_BYTES)?.to_vec();
        reader.finish()?;
        let manifest = Self {
            snapshot,
            operator,
            created_unix_ms,
            sequence,
            groups,
            max_parallelism,
            watermark,
            states,
            tables,
            operator_states,
            user_meta,
        };
        manifest.check().map_err(|broken| broken.error(ErrorKind::Corrupt, "manifest"))?;
        Ok(manifest)
    }

    /// The promises of the module's head.
    fn check(&self) -> Result<(), Broken> {
        let all = self.max_parallelism.all_groups();
        if !all.covers(self.groups) {
            return broken("groups of the manifest", format_args!("within {all}"), self.groups);
        }
        check_len("name of the operator", self.operator.len(), 1, MAX_OPERATOR_BYTES)?;
        check_len("number of states", self.states.len(), 0, MAX_STATES)?;
        check_len("number of tables", self.tables.len(), 0, MAX_TABLES)?;
        check_len("user meta", self.user_meta.len(), 0, MAX_USER_META_BYTES)?;
        for state in &self.states {
            state.check()?;
        }
        if let Some(pair) = self.states.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            let found = format_args!("{:?} before {:?}", pair[0].name, pair[1].name);
            return broken("names of the states", "each once, ascending", found);
        }
        for TableRef { meta, location, slice, dropped } in &self.tables {
            check_len("location of a table", location.len(), 1, MAX_LOCATION_BYTES)?;
            check_dropped(dropped)?;
            if !all.covers(meta.groups) {
                return broken("groups of a table", format_args!("within {all}"), meta.groups);
            }
            if !meta.groups.covers(*slice) || !self.groups.covers(*slice) {
                let expected = format_args!("within {} and {}", meta.groups, self.groups);
                return broken("slice of a table", expected, slice);
            }
        }
        operator_state::check_all(&self.operator_states)?;
        for OperatorState { name, .. } in &self.operator_states {
            if self.states.binary_search_by(|state| state.name.cmp(name)).is_ok() {
                let found = format_args!("{name:?} of both sorts");
                return broken("names of states and operator states", "each once", found);
            }
        }
        self.check_shared_tables()
    }

    /// A shard joined from several may hold a table more than once, each time
    /// another slice of it.
    fn check_shared_tables(&self) -> Result<(), Broken> {
        let mut tables: Vec<&TableRef> = self.tables.iter().collect();
        tables.sort_unstable_by_key(|table| (table.meta.file, table.slice.first()));
        for pair in tables.windows(2) {
            let (one, other) = (pair[0], pair[1]);
            if one.meta.file != other.meta.file {
                continue;
            }
            if one.meta != other.meta || one.location != other.location {
                return broken("a table that is named twice", "the same both times", one.meta.file);
            }
            if one.slice.intersection(other.slice).is_some() {
                let expected = format_args!("apart from {}", one.slice);
                return broken("slices of a table that is named twice", expected, other.slice);
            }
        }
        Ok(())
    }
}

impl StateMeta {
    /// Everything that its values may be written under.
    pub fn value_schemas(&self) -> impl Iterator<Item = &Schema> {
        std::iter::once(&self.value_schema).chain(&self.older_value_schemas)
    }

    pub(super) fn check(&self) -> Result<(), Broken> {
        let name = self.name.len();
        check_len("name of a state", name, 1, MAX_STATE_NAME_BYTES)?;
        let others = [&self.key_schema, &self.namespace_schema].into_iter();
        for schema in others.chain(&self.map_key_schema).chain(self.value_schemas()) {
            check_len("name of a codec", schema.id().name.len(), 1, MAX_CODEC_NAME_BYTES)?;
            check_len("detail of a schema", schema.detail().len(), 0, MAX_SCHEMA_DETAIL_BYTES)?;
        }
        let older = &self.older_value_schemas;
        check_len("number of older schemas", older.len(), 0, MAX_OLDER_SCHEMAS)?;
        if let Some(pair) =
            older.windows(2).find(|pair| pair[0].fingerprint() >= pair[1].fingerprint())
        {
            let found = format_args!("{} before {}", pair[0], pair[1]);
            return broken("older schemas of a state", "each once, ascending", found);
        }
        if older.contains(&self.value_schema) {
            let found = format_args!("{} twice", self.value_schema);
            return broken("value schemas of a state", "each once", found);
        }
        Ok(())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.name.as_bytes(), out);
        out.push(self.kind as u8);
        self.key_schema.encode(out);
        self.namespace_schema.encode(out);
        self.value_schema.encode(out);
        out.push(u8::from(self.map_key_schema.is_some()));
        if let Some(schema) = &self.map_key_schema {
            schema.encode(out);
        }
        varint::put_u64(out, self.older_value_schemas.len() as u64);
        for schema in &self.older_value_schemas {
            schema.encode(out);
        }
        out.push(encode_time(self.ttl.map(|ttl| ttl.time)));
        if let Some(ttl) = &self.ttl {
            out.extend_from_slice(&ttl.duration_ms.to_le_bytes());
            encode_instant(ttl.since_ms, out);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let name = reader.str("state name", MAX_STATE_NAME_BYTES)?.to_owned();
        let kind = StateKind::decode(reader.u8("state kind")?)?;
        let key_schema = Schema::decode(reader)?;
        let namespace_schema = Schema::decode(reader)?;
        let value_schema = Schema::decode(reader)?;
        let map_key_schema = match reader.u8("whether a state has map keys")? {
            0 => None,
            1 => Some(Schema::decode(reader)?),
            other => return Err(reader.corrupt("whether a state has map keys", "0 or 1", other)),
        };
        let older = reader.count("older schemas", MAX_OLDER_SCHEMAS, MIN_SCHEMA_BYTES)?;
        let older_value_schemas =
            (0..older).map(|_| Schema::decode(reader)).collect::<Result<_>>()?;
        let ttl = match decode_time("time to live", reader)? {
            None => None,
            Some(time) => Some(TtlMeta {
                time,
                duration_ms: reader.u64("time to live")?,
                since_ms: decode_instant("when a time to live began", reader)?,
            }),
        };
        Ok(Self {
            name,
            kind,
            key_schema,
            namespace_schema,
            map_key_schema,
            value_schema,
            older_value_schemas,
            ttl,
        })
    }
}

impl StateKind {
    fn decode(number: u8) -> Result<Self> {
        match number {
            1 => Ok(Self::Value),
            2 => Ok(Self::List),
            3 => Ok(Self::Map),
            4 => Ok(Self::Reducing),
            5 => Ok(Self::Aggregating),
            6 => Ok(Self::Timers),
            other => Err(Error::incompatible("manifest holds a state of an unknown kind")
                .expected("1 to 6: value, list, map, reducing, aggregating, timers")
                .found(other)
                .remedy("read it with the version of alluvium that wrote it, or a newer one")),
        }
    }
}

fn decode_dropped(reader: &mut Reader<'_>) -> Result<Vec<String>> {
    let count = reader.count("dropped states of a table", MAX_STATES, MIN_DROPPED_BYTES)?;
    (0..count)
        .map(|_| Ok(reader.str("name of a dropped state", MAX_STATE_NAME_BYTES)?.to_owned()))
        .collect()
}

fn check_dropped(dropped: &[String]) -> Result<(), Broken> {
    check_len("number of dropped states of a table", dropped.len(), 0, MAX_STATES)?;
    for name in dropped {
        check_len("name of a dropped state", name.len(), 1, MAX_STATE_NAME_BYTES)?;
    }
    match dropped.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => {
            let found = format_args!("{:?} before {:?}", pair[0], pair[1]);
            broken("dropped states of a table", "each once, ascending", found)
        }
        None => Ok(()),
    }
}

pub(super) fn encode_instant(ms: Option<i64>, out: &mut Vec<u8>) {
    out.push(u8::from(ms.is_some()));
    if let Some(ms) = ms {
        out.extend_from_slice(&ms.to_le_bytes());
    }
}

pub(super) fn decode_instant(what: &'static str, reader: &mut Reader<'_>) -> Result<Option<i64>> {
    match reader.u8(what)? {
        0 => Ok(None),
        1 => Ok(Some(reader.u64(what)? as i64)),
        other => Err(reader.corrupt(what, "0 or 1", other)),
    }
}

pub(crate) fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    varint::put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
