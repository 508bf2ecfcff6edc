//! Making one table of several, so that a shard's number of tables is bounded.
//!
//! The values of a state come out in one form, schema and stamps: that which the
//! state was registered with, or else the one that all of them have already.
//! Tables for which there is no such form are not merged with each other
//! ([`that_mix`]).
//!
//! Of a state with time to live, what has expired is deleted: a deletion takes its
//! place, so that an older version in a table that is not merged stays hidden.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::base::{Error, FileId, MaxParallelism, Result};
use crate::env::ledger::{Charge, MemoryComponent};
use crate::env::{Fs, WriteFile};
use crate::format::properties::StateProperties;
use crate::format::table::TableMeta;
use crate::table::{TableOptions, TableWriter};
use crate::version::merge::{MergeScan, MergeSource, MergedRecord};

use super::migration::{Form, Migration, MigrationsNow, NewestStamp};

/// Records merged between two breaths.
const BREATH_RECORDS: u64 = 2048;

/// What a new table is to be.
pub(crate) struct Output {
    pub(crate) file: FileId,
    pub(crate) max_parallelism: MaxParallelism,
    pub(crate) options: TableOptions,
    /// Of what is read to make it.
    pub(crate) charge: Charge,
}

impl Output {
    /// A writer of it, whose memory is charged beside.
    pub(super) fn writer(&self, out: Box<dyn WriteFile>) -> Result<TableWriter> {
        let writer = TableWriter::new(out, self.file, self.max_parallelism, self.options)?;
        Ok(writer.with_charge(self.charge.beside(MemoryComponent::Writing)))
    }
}

/// A merged table.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) meta: TableMeta,
    /// What it holds of each state, in the order of their names.
    pub(crate) states: Vec<StateProperties>,
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

/// The state whose records are being merged.
struct Current<'m> {
    state: Arc<str>,
    /// In which form its values come out.
    form: Form,
    migration: Option<&'m Migration>,
    /// What has a stamp up to this has expired.
    cutoff: u64,
}

impl<'m> Current<'m> {
    fn new(record: &MergedRecord<'_>, form: Form, migrations: &'m MigrationsNow) -> Self {
        let migration = migrations.get(record.state);
        Self {
            state: Arc::from(record.state),
            form: migration.map_or(form, Migration::current),
            migration,
            cutoff: migration.map_or(0, |migration| migration.cutoff(migrations.watermark())),
        }
    }
}

/// How many of the newest of `inputs` (oldest first) can be merged: those in
/// which the values of each state that `migrations` does not have are of one
/// form.
pub(crate) fn that_mix(inputs: &[MergeSource], migrations: &MigrationsNow) -> usize {
    let mut forms: BTreeMap<&str, Form> = BTreeMap::new();
    for (newer, input) in inputs.iter().rev().enumerate() {
        for state in input.states() {
            let own = Form { schema: state.value_schema, stamps: state.stamps };
            let form = *forms.entry(&state.name).or_insert(own);
            if form != own && migrations.get(&state.name).is_none() {
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
/// migrated, and what has expired of them is deleted; those of others are of one
/// form each.
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
    mut output: Output,
    mut go_on: impl FnMut() -> Result<()>,
) -> Result<Option<Merged>, Failure> {
    let mut scan = MergeScan::new(inputs)?;
    let mut writer: Option<TableWriter> = None;
    let mut current: Option<Current<'_>> = None;
    // The state that the writer was told of last.
    let mut begun: Option<Arc<str>> = None;
    let mut newest = NewestStamp::default();
    let (mut migrated, mut left) = (Vec::new(), Vec::new());
    let mut seen = 0_u64;
    loop {
        if seen.is_multiple_of(BREATH_RECORDS) {
            output.charge.set(scan.memory_bytes());
        }
        let Some(record) = scan.next()? else { break };
        seen += 1;
        if seen.is_multiple_of(BREATH_RECORDS) {
            go_on()?;
        }
        if to_the_bottom && record.is_only_for_older_tables()? {
            continue;
        }
        let form = Form { schema: record.value_schema, stamps: record.stamps };
        let of_state = match &mut current {
            Some(current) if *current.state == *record.state => &*current,
            current => current.insert(Current::new(&record, form, migrations)),
        };
        let value = match (record.value, of_state.migration) {
            // What the marker of a collection has for a value means nothing.
            (Some(value), Some(migration)) if !record.is_only_for_older_tables()? => {
                let value = migration
                    .apply(form, value, &mut migrated)
                    .and_then(|value| migration.without_expired(value, of_state.cutoff, &mut left))
                    .map_err(|error| Failure::Migration(record.state.to_owned(), error))?;
                // A chunk of a list is in no other table; of all else there may be
                // an older version to be hidden.
                if value.is_none() && (to_the_bottom || migration.is_of_lists()) {
                    continue;
                }
                value
            }
            (value, _) => value,
        };
        if of_state.migration.is_none() && of_state.form != form {
            return Err(Failure::Tables(
                Error::internal("values of two forms came together in a merge")
                    .at(format_args!("state {:?}", record.state)),
            ));
        }
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(output.writer(super::flush::create(fs, path)?)?),
        };
        if begun.as_ref() != Some(&of_state.state) {
            if begun.is_some() {
                writer.set_newest_stamp(newest.get())?;
            }
            newest = NewestStamp::default();
            writer.begin_placed_state(record.state, record.placement)?;
            writer.set_value_schema(of_state.form.schema)?;
            writer.set_stamps(of_state.form.stamps)?;
            begun = Some(Arc::clone(&of_state.state));
        }
        if let Some(value) = value.filter(|_| of_state.form.stamps.is_some()) {
            match of_state.migration {
                _ if record.is_only_for_older_tables()? => {}
                Some(migration) => newest.note(migration.is_of_lists(), value),
                // Only who registers a state says of which kind its values are.
                None => newest.note_table(record.newest_stamp),
            }
        }
        writer.add(record.group, record.hash, record.key, record.namespace, value)?;
    }
    let Some(mut writer) = writer else { return Ok(None) };
    writer.set_newest_stamp(newest.get())?;
    let (meta, properties) = writer.finish_counted()?;
    Ok(Some(Merged { meta, states: properties.states }))
}
