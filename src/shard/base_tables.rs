//! What a shard was restored from, as far as it is not in memory yet.
//!
//! Everything that changed since the restore is in the memtable, so the writer
//! only ever looks at the tables it was restored from, never at those that the
//! background has written or merged since. They stay open, and the same, until
//! the memtable is complete.
//!
//! Values of earlier versions are migrated on their way up (see
//! [`migration`](super::migration)).

use std::sync::Arc;

use crate::base::hash::{hash_key, with_namespace};
use crate::base::{KeyGroupRange, Result};
use crate::memtable::Probe;
use crate::table::{Found, TableReader};
use crate::version::merge::{MergeScan, MergeSource};

use super::migration::Migration;

/// One table that the shard was restored from.
#[derive(Clone, Debug)]
pub(crate) struct BaseTable {
    /// The open table.
    pub(crate) reader: Arc<TableReader>,
    /// The key groups of it that belong to the shard.
    pub(crate) slice: KeyGroupRange,
}

/// The tables that one state of a shard was restored from, newest first, with
/// the state's ordinal in each.
#[derive(Default)]
pub(super) struct StateBase {
    tables: Vec<(BaseTable, u16)>,
    /// Known from the registration on; nobody reads before.
    migration: Option<Arc<Migration>>,
    /// A value as it is stored, on its way through a migration.
    stored: Vec<u8>,
}

impl StateBase {
    /// Those of `tables` (oldest first) that know the state.
    pub(super) fn new(name: &str, tables: &[BaseTable]) -> Self {
        let tables = tables
            .iter()
            .rev()
            .filter_map(|table| {
                table.reader.state_ordinal(name).map(|ordinal| (table.clone(), ordinal))
            })
            .collect();
        Self { tables, ..Self::default() }
    }

    /// Whether no table knows the state.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Everything that the tables hold of the state, in order.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` if a table cannot be read.
    pub(super) fn scan(&self) -> Result<MergeScan> {
        let oldest_first = self.tables.iter().rev().map(|(table, ordinal)| {
            let reader = Arc::clone(&table.reader);
            (MergeSource { reader, slice: table.slice }, *ordinal)
        });
        MergeScan::of_state(oldest_first.collect())
    }

    /// The tables, newest first.
    pub(super) fn tables(&self) -> &[(BaseTable, u16)] {
        &self.tables
    }

    /// Whether a table holds values of this schema.
    pub(super) fn names(&self, schema: u64) -> bool {
        self.tables.iter().any(|(table, ordinal)| table.value_schema(*ordinal) == schema)
    }

    /// From now on values are read by way of `migration`.
    pub(super) fn set_migration(&mut self, migration: Arc<Migration>) {
        self.migration = Some(migration);
    }

    /// Looks for a key, newest table first; its value goes to `value`.
    pub(super) fn get(&mut self, probe: &Probe<'_>, value: &mut Vec<u8>) -> Result<bool> {
        let hash = with_namespace(hash_key(probe.key), probe.namespace);
        for (table, ordinal) in &self.tables {
            if !table.slice.contains(probe.group) {
                continue;
            }
            let found =
                table.reader.get(*ordinal, probe.group, hash, probe.key, probe.namespace, value)?;
            match found {
                Found::Absent => continue,
                Found::Deleted => return Ok(false),
                Found::Value => {}
            }
            let schema = table.value_schema(*ordinal);
            if let Some(migration) = self.migration.as_ref().filter(|m| m.current() != schema) {
                std::mem::swap(value, &mut self.stored);
                let migrated = migration.apply(schema, &self.stored, value)?;
                // A schema that is read as it is gives back what it was given.
                if std::ptr::eq(migrated, self.stored.as_slice()) {
                    std::mem::swap(value, &mut self.stored);
                }
            }
            return Ok(true);
        }
        Ok(false)
    }
}

impl BaseTable {
    /// What the values of a state are written under.
    pub(crate) fn value_schema(&self, ordinal: u16) -> u64 {
        self.reader.states().get(usize::from(ordinal)).map_or(0, |state| state.value_schema)
    }
}
