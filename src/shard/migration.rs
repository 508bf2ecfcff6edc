//! How the values of one state are brought from the schemas of earlier versions
//! to that of today.
//!
//! # Where a record's schema is known
//!
//! - *In a table*: its properties name one value schema for each state.
//! - *In memory*: every value is in the schema that the state was registered
//!   with in this life. What comes up from a table is migrated on its way, by a
//!   read on the task thread or by the warm-up in the background, so no operation
//!   on a record in memory ever asks.
//! - *In a manifest*: the schema of today, and every other that one of its tables
//!   may still name.
//!
//! What is a *value* here is an element in a state of lists, and the value of an
//! entry in one of maps. A list is stored in chunks of elements, each chunk in one
//! table and so in one schema; its elements are migrated one by one.
//!
//! A record that was only read stays in its table as it was: migrating changes
//! nothing. It is written anew when the job changes it, or when its table is
//! merged. So a snapshot may hold values of several versions, and the next life
//! compares the codec it is given with each of them.
//!
//! A state that nobody has registered has no codec in this life. Its records stay
//! in their tables, which are carried on as they are; tables that hold them under
//! different schemas are not merged with each other.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::limits::check_value;
use crate::base::{Error, Result};
use crate::codec::schema::{Fit, Reencode};
use crate::codec::{CodecSpec, Schema};
use crate::format::manifest::{StateKind, StateMeta};
use crate::memtable::collection::NEVER;
use crate::memtable::collection::elements::{Elements, ElementsBuf};

use super::store::StateSpec;

/// The ways from the stored schemas of a state to that of today.
pub(crate) struct Migration {
    state: String,
    kind: StateKind,
    current: Schema,
    /// Other schemas; none for those whose bytes are read as they are.
    older: Vec<(Schema, Option<Reencode>)>,
}

impl Migration {
    /// Fingerprint of today's schema.
    pub(crate) fn current(&self) -> u64 {
        self.current.fingerprint()
    }

    /// The value of a record written under `schema`, as today's codec writes it:
    /// in a state of lists a chunk of elements, in one of maps the value of an
    /// entry.
    ///
    /// # Errors
    /// Those of the codecs and steps, naming the state; `Invalid` if one panics
    /// or makes a value that is too long; `Corrupt` if a chunk of elements is
    /// none.
    pub(crate) fn apply<'a>(
        &self,
        schema: u64,
        value: &'a [u8],
        out: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        if schema == self.current() {
            return Ok(value);
        }
        match self.older.iter().find(|(known, _)| known.fingerprint() == schema) {
            Some((_, None)) => Ok(value),
            Some((stored, Some(reencode))) => {
                out.clear();
                let done = match self.kind {
                    StateKind::List => reencode_elements(reencode, value, out),
                    _ => reencode(value, out).and_then(|()| check_value(out)),
                };
                done.map_err(|error| self.failed(stored, error))?;
                Ok(out)
            }
            None => Err(Error::internal("a table was not asked for its schema when it was opened")
                .at(format_args!("state {:?}, schema #{schema:016x}", self.state))),
        }
    }

    #[cold]
    fn failed(&self, stored: &Schema, error: Error) -> Error {
        let current = &self.current;
        error
            .at(format_args!("state {:?}, a value of {stored} on its way to {current}", self.state))
    }
}

/// Re-encodes the elements of a list one by one.
fn reencode_elements(reencode: &Reencode, stored: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut elements = ElementsBuf::new(false);
    for (number, element) in Elements::parse(stored, false)?.iter().enumerate() {
        out.clear();
        reencode(element.value, out)
            .and_then(|()| check_value(out))
            .and_then(|()| elements.push(out, NEVER))
            .map_err(|error| error.at(format_args!("element {number}")))?;
    }
    out.clear();
    out.extend_from_slice(elements.elements().bytes());
    Ok(())
}

/// The migrations of a shard's registered states, for the background.
#[derive(Default)]
pub(crate) struct Migrations(Mutex<BTreeMap<String, Arc<Migration>>>);

/// Those of one moment, by the names of the states.
pub(crate) type MigrationsNow = BTreeMap<String, Arc<Migration>>;

impl Migrations {
    /// Tells of a state that was registered.
    pub(crate) fn add(&self, migration: &Arc<Migration>) {
        self.0.lock().insert(migration.state.clone(), Arc::clone(migration));
    }

    /// From now on merges leave the state's records as they are.
    pub(crate) fn give_up(&self, state: &str) {
        self.0.lock().remove(state);
    }

    pub(crate) fn now(&self) -> MigrationsNow {
        self.0.lock().clone()
    }
}

impl std::fmt::Debug for Migrations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.lock().keys()).finish()
    }
}

/// Compares a state that was restored with what it is asked for as. Changes
/// nothing.
///
/// # Errors
/// `Incompatible`, naming the state, both schemas and the difference; `Invalid`
/// if a codec panics.
pub(super) fn compare(have: &StateMeta, want: &StateSpec) -> Result<Migration> {
    check_kind(have, want)?;
    let map_keys = have.map_key_schema.as_ref().zip(want.map_keys.as_ref());
    for (what, stored, codec) in [
        ("key codec", &have.key_schema, &want.keys),
        ("namespace codec", &have.namespace_schema, &want.namespaces),
    ]
    .into_iter()
    .chain(map_keys.map(|(stored, codec)| ("map key codec", stored, codec)))
    {
        let reason = match codec.fit(stored).map_err(|error| at_state(error, &want.name))? {
            Fit::Same => continue,
            Fit::Migrate(_) => {
                "the bytes of a key say where it is, so they are not migrated".to_owned()
            }
            Fit::Incompatible(reason) => reason,
        };
        return Err(differ(what, &want.name, stored, codec.schema(), &reason)
            .remedy("register the state with the codec that wrote it, or re-key it"));
    }
    let mut older = Vec::new();
    for stored in have.value_schemas() {
        let codec = &want.values;
        if stored == codec.schema() {
            continue;
        }
        match codec.fit(stored).map_err(|error| at_state(error, &want.name))? {
            Fit::Same => older.push((stored.clone(), None)),
            Fit::Migrate(reencode) => older.push((stored.clone(), Some(reencode))),
            Fit::Incompatible(reason) => {
                return Err(differ("value codec", &want.name, stored, codec.schema(), &reason)
                    .remedy("register the state with a codec that reads all that is stored, such as codec::Evolving with every version since"));
            }
        }
    }
    Ok(Migration {
        state: want.name.clone(),
        kind: want.kind,
        current: want.values.schema().clone(),
        older,
    })
}

/// Whether keys, namespaces and map keys of a stored state are those of `want`.
///
/// # Errors
/// `Invalid` if a codec panics.
pub(super) fn has_keys_of(have: &StateMeta, want: &StateSpec) -> Result<bool> {
    let same = |codec: &CodecSpec, stored| Ok::<_, Error>(matches!(codec.fit(stored)?, Fit::Same));
    Ok(same(&want.keys, &have.key_schema)?
        && same(&want.namespaces, &have.namespace_schema)?
        && match (&want.map_keys, &have.map_key_schema) {
            (Some(codec), Some(stored)) => same(codec, stored)?,
            _ => true,
        })
}

/// Whether a state that was registered in this life is asked for as the same.
///
/// # Errors
/// `Incompatible`, as [`compare`].
pub(super) fn check_again(have: &StateMeta, want: &StateSpec) -> Result<()> {
    check_kind(have, want)?;
    let map_keys = have.map_key_schema.as_ref().zip(want.map_keys.as_ref());
    for (what, have, codec) in [
        ("key codec", &have.key_schema, &want.keys),
        ("namespace codec", &have.namespace_schema, &want.namespaces),
        ("value codec", &have.value_schema, &want.values),
    ]
    .into_iter()
    .chain(map_keys.map(|(have, codec)| ("map key codec", have, codec)))
    {
        if have != codec.schema() {
            let reason = "the state is in use with another codec in this process";
            return Err(differ(what, &want.name, have, codec.schema(), reason)
                .remedy("register a state with one and the same codec, or use another name"));
        }
    }
    Ok(())
}

/// Whether two snapshots of one checkpoint hold the same state; `have` then
/// stands for both. Their values may be of different versions, since a shard may
/// have taken its snapshot before it registered the state.
///
/// # Errors
/// `Incompatible`, naming the state and what differs.
pub(crate) fn join(have: &mut StateMeta, other: StateMeta) -> Result<()> {
    let disagree = |what, one: &dyn Display, another: &dyn Display| {
        differ(what, &have.name, one, another, "the snapshots of one checkpoint disagree")
            .remedy("restore each of them by itself, and let one write the state anew")
    };
    if have.kind != other.kind || have.map_key_schema.is_some() != other.map_key_schema.is_some() {
        let (one, another) = (format!("{:?}", have.kind), format!("{:?}", other.kind));
        return Err(disagree("kind", &one, &another));
    }
    let map_keys = have.map_key_schema.as_ref().zip(other.map_key_schema.as_ref());
    for (what, one, another) in [
        ("key codec", &have.key_schema, &other.key_schema),
        ("namespace codec", &have.namespace_schema, &other.namespace_schema),
    ]
    .into_iter()
    .chain(map_keys.map(|(one, another)| ("map key codec", one, another)))
    {
        if one != another {
            return Err(disagree(what, one, another));
        }
    }
    // Today's is the one that has seen the other. It matters for nothing but
    // what people are told: each of them will be compared.
    let mut schemas: Vec<Schema> = have.value_schemas().cloned().collect();
    if other.older_value_schemas.contains(&have.value_schema) {
        have.value_schema = other.value_schema.clone();
    }
    schemas.extend(other.value_schemas().cloned());
    schemas.retain(|schema| *schema != have.value_schema);
    have.older_value_schemas = sorted(schemas);
    Ok(())
}

/// In the order of manifests.
pub(crate) fn sorted(mut schemas: Vec<Schema>) -> Vec<Schema> {
    schemas.sort_unstable_by_key(Schema::fingerprint);
    schemas.dedup_by_key(|schema| schema.fingerprint());
    schemas
}

fn check_kind(have: &StateMeta, want: &StateSpec) -> Result<()> {
    let text = |kind, map_keys| {
        let map_keys = if map_keys { " with map keys" } else { "" };
        format!("{kind:?}{map_keys}")
    };
    let stored = text(have.kind, have.map_key_schema.is_some());
    let asked = text(want.kind, want.map_keys.is_some());
    if stored == asked {
        return Ok(());
    }
    let reason = "records of one kind are not read as another";
    Err(differ("kind", &want.name, &stored, &asked, reason)
        .remedy("register the state as it was written, or use another name"))
}

pub(super) fn differ(
    what: &str,
    state: &str,
    stored: impl Display,
    asked: impl Display,
    reason: &str,
) -> Error {
    Error::incompatible(format_args!("the {what} of a state does not fit what is stored: {reason}"))
        .at(format_args!("state {state:?}"))
        .expected(stored)
        .found(asked)
}

fn at_state(error: Error, state: &str) -> Error {
    error.at(format_args!("state {state:?}"))
}
