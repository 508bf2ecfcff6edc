//! Making one table of several, so that a shard's number of tables is bounded.
//!
//! The values of a state come out in one schema: that which the state was
//! registered with, or else the one that all of them have already. Tables for
//! which there is no such schema are not merged with each other
//! ([`that_mix`]).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::base::{Error, FileId, MaxParallelism, Result};
use crate::env::Fs;
use crate::format::table::TableMeta;
use crate::table::{TableOptions, TableWriter};
use crate::version::merge::{MergeScan, MergeSource};

use super::migration::MigrationsNow;

/// Records merged between two breaths.
const BREATH_RECORDS: u64 = 2048;

/// What the merged table is to be.
pub(crate) struct Output {
    pub(crate) file: FileId,
    pub(crate) max_parallelism: MaxParallelism,
    pub(crate) options: TableOptions,
}

/// A merged table.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) meta: TableMeta,
    /// Names of the states in it, ascending.
    pub(crate) states: Vec<String>,
}

/// Why there is no merged table.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An input cannot be read, or the output cannot be written.
    Tables(Error),
    /// A value of the state of this name cannot be migrated.
    Migration(String, Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Tables(error)
    }
}

/// How many of the newest of `inputs` (oldest first) can be merged: those in
/// which the values of each state that `migrations` does not have are of one
/// schema.
pub(crate) fn that_mix(inputs: &[MergeSource], migrations: &MigrationsNow) -> usize {
    let mut schemas: BTreeMap<&str, u64> = BTreeMap::new();
    for (newer, input) in inputs.iter().rev().enumerate() {
        for state in input.states() {
            let schema = *schemas.entry(&state.name).or_insert(state.value_schema);
            if schema != state.value_schema && !migrations.contains_key(&state.name) {
                return newer;
            }
        }
    }
    inputs.len()
}

/// Merges `inputs` (oldest first) into a table at `path`. `None`, and
/// no file worth keeping, if nothing is left: the tables held only deletions,
/// or only other shards' groups, or dropped states. With `to_the_bottom`, deletions and the markers
/// of collections are dropped. Values of the states that `migrations` has are
/// migrated; those of others are of one schema each.
///
/// # Errors
/// `Unavailable` or `Corrupt` if an input cannot be read or the output cannot
/// be written; the inputs are as they were.
pub(crate) fn merge(
    inputs: Vec<MergeSource>,
    to_the_bottom: bool,
    migrations: &MigrationsNow,
    fs: &dyn Fs,
    path: &Path,
    output: Output,
    mut go_on: impl FnMut() -> Result<()>,
) -> Result<Option<Merged>, Failure> {
    let mut scan = MergeScan::new(inputs)?;
    let mut writer: Option<TableWriter> = None;
    let mut open_state: Option<(Arc<str>, u64)> = None;
    let mut states = Vec::new();
    let mut migrated = Vec::new();
    let mut seen = 0_u64;
    while let Some(record) = scan.next()? {
        seen += 1;
        if seen.is_multiple_of(BREATH_RECORDS) {
            go_on()?;
        }
        if to_the_bottom && record.is_only_for_older_tables()? {
            continue;
        }
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(TableWriter::new(
                super::flush::create(fs, path)?,
                output.file,
                output.max_parallelism,
                output.options,
            )?),
        };
        let migration = migrations.get(record.state);
        let schema = match &open_state {
            Some((state, schema)) if **state == *record.state => *schema,
            _ => {
                let schema = migration.map_or(record.value_schema, |to| to.current());
                writer.begin_placed_state(record.state, record.placement)?;
                writer.set_value_schema(schema)?;
                open_state = Some((Arc::from(record.state), schema));
                states.push(record.state.to_owned());
                schema
            }
        };
        let value = match (record.value, migration) {
            // What the marker of a collection has for a value means nothing.
            (Some(value), Some(migration)) if !record.is_only_for_older_tables()? => Some(
                migration
                    .apply(record.value_schema, value, &mut migrated)
                    .map_err(|error| Failure::Migration(record.state.to_owned(), error))?,
            ),
            (value, _) => value,
        };
        if migration.is_none() && schema != record.value_schema {
            return Err(Failure::Tables(
                Error::internal("values of two schemas came together in a merge")
                    .at(format_args!("state {:?}", record.state)),
            ));
        }
        writer.add(record.group, record.hash, record.key, record.namespace, value)?;
    }
    let Some(writer) = writer else { return Ok(None) };
    Ok(Some(Merged { meta: writer.finish()?, states }))
}
