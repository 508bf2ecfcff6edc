//! Whether a restored operator state is what it is asked for as, and its items
//! under the schemas of today.
//!
//! They are few enough to be migrated at once, when the state is opened, so that
//! an open state has one schema. Nothing here changes a state: what comes out is
//! put in its place when all of it is there.

use std::fmt::Display;

use crate::base::limits::{check_key, check_value};
use crate::base::{Error, Result};
use crate::codec::schema::{Fit, Reencode};
use crate::codec::{CodecSpec, Schema};
use crate::format::{Items, OperatorPart, OperatorState};

use super::super::migration::differ;
use super::map::Map;
use super::store::OperatorStateSpec;
use super::{Content, What, at_state};

/// The content of a restored state, whose mode is that of `spec`, as `spec` wants
/// it. Changes nothing.
///
/// # Errors
/// `Incompatible`, naming the state, both schemas and the difference; those of the
/// codecs; `Invalid` if one panics, or what it makes is too long or a key twice.
pub(super) fn migrate(stored: &OperatorState, spec: &OperatorStateSpec) -> Result<Content> {
    // All schemas are compared before the first item is touched.
    let keys = match (&stored.key_schema, spec.keys()) {
        (Some(stored), Some(codec)) => {
            Some((stored, codec.schema(), way_from(stored, codec, "key codec", spec)?))
        }
        _ => None,
    };
    let ways = stored
        .parts
        .iter()
        .map(|part| way_from(&part.value_schema, spec.values(), "value codec", spec))
        .collect::<Result<Vec<_>>>()?;
    let today = spec.values().schema();
    let migrated = match (keys, &stored.parts[..]) {
        (Some((stored_keys, todays_keys, way)), [part]) => {
            let keys = Change { stored: stored_keys, today: todays_keys, way: way.as_ref() };
            let values = Change { stored: &part.value_schema, today, way: ways[0].as_ref() };
            migrate_entries(&part.items, keys, values).map(Content::Broadcast)
        }
        (None, [part]) if ways[0].is_none() => Ok(Content::List(part.items.clone())),
        (_, parts) => migrate_elements(parts, &ways, today).map(Content::List),
    };
    migrated.map_err(|error| error.at(at_state(spec.name())))
}

fn migrate_elements(
    parts: &[OperatorPart],
    ways: &[Option<Reencode>],
    today: &Schema,
) -> Result<Items> {
    let mut all = Items::default();
    let mut migrated = Vec::new();
    for (part, way) in parts.iter().zip(ways) {
        for element in part.items.iter() {
            let element =
                apply(way.as_ref(), element, &mut migrated, check_value).map_err(|error| {
                    failed(error, &format!("element {}", all.len()), &part.value_schema, today)
                })?;
            all.push(element);
        }
    }
    Ok(all)
}

/// `keys` and `values` are what was stored, what is wanted, and the way.
fn migrate_entries(items: &Items, keys: Change<'_>, values: Change<'_>) -> Result<Map> {
    let mut map = Map::default();
    let (mut new_key, mut new_value) = (Vec::new(), Vec::new());
    let mut items = items.iter();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        let number = map.len();
        let key = apply(keys.way, key, &mut new_key, |key| check_key(key, b""))
            .map_err(|error| failed(error, &format!("key {number}"), keys.stored, keys.today))?;
        let value = apply(values.way, value, &mut new_value, check_value).map_err(|error| {
            failed(error, &format!("value {number}"), values.stored, values.today)
        })?;
        if map.get(key).is_some() {
            return Err(Error::invalid("two keys would become one")
                .found(format_args!("key \"{:.200}\" twice", key.escape_ascii().to_string()))
                .remedy("give the keys a codec that keeps them apart"));
        }
        map.put(key, value);
    }
    Ok(map)
}

/// From which schema to which, and how; there is no way if it is the same.
struct Change<'a> {
    stored: &'a Schema,
    today: &'a Schema,
    way: Option<&'a Reencode>,
}

fn apply<'a>(
    way: Option<&Reencode>,
    item: &'a [u8],
    migrated: &'a mut Vec<u8>,
    check: impl FnOnce(&[u8]) -> Result<()>,
) -> Result<&'a [u8]> {
    let Some(reencode) = way else { return Ok(item) };
    migrated.clear();
    reencode(item, migrated)?;
    check(migrated)?;
    Ok(migrated)
}

/// How `codec` reads what was stored; `None` if the bytes are its own.
fn way_from(
    stored: &Schema,
    codec: &CodecSpec,
    what: &str,
    spec: &OperatorStateSpec,
) -> Result<Option<Reencode>> {
    match codec.fit(stored).map_err(|error| error.at(at_state(spec.name())))? {
        Fit::Same => Ok(None),
        Fit::Migrate(reencode) => Ok(Some(reencode)),
        Fit::Incompatible(reason) => Err(differ(what, spec.name(), stored, codec.schema(), &reason)
            .remedy("open the state with a codec that reads all that is stored, such as codec::Evolving with every version since")),
    }
}

pub(super) fn check_mode(have: &What, want: &OperatorStateSpec) -> Result<()> {
    if have.mode == want.mode() {
        return Ok(());
    }
    let reason = "what is kept in one mode is not read in another";
    Err(differ("mode", want.name(), have.mode, want.mode(), reason)
        .remedy("open the state as it was written, or use another name"))
}

/// Whether a state that is open is asked for as the same.
pub(super) fn check_again(have: &What, want: &OperatorStateSpec) -> Result<()> {
    let keys = have.key_schema.as_ref().zip(want.keys()).map(|both| ("key codec", both));
    let values = have.value_schema.as_ref().map(|schema| ("value codec", (schema, want.values())));
    for (what, (schema, codec)) in keys.into_iter().chain(values) {
        if schema != codec.schema() {
            let reason = "the state is in use with another codec in this process";
            return Err(differ(what, want.name(), schema, codec.schema(), reason)
                .remedy("open a state with one and the same codec, or use another name"));
        }
    }
    Ok(())
}

/// The error for a name that a state of another sort has.
pub(super) fn name_is_taken(name: &str, have: &dyn Display, asked: &dyn Display) -> Error {
    differ("sort", name, have, asked, "a shard has one name for one state")
        .remedy("use another name for one of them")
}

#[cold]
fn failed(error: Error, item: &str, stored: &Schema, today: &Schema) -> Error {
    error.at(format_args!("{item} of {stored} on its way to {today}"))
}
