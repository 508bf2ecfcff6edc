//! What a shard was restored from, as far as it is not in memory yet.
//!
//! Everything that changed since the restore is in the memtable, so the writer
//! only ever looks at the tables it was restored from, never at those that the
//! background has written or merged since. They stay open, and the same, until
//! the memtable is complete.

use std::sync::Arc;

use crate::base::hash::{hash_key, with_namespace};
use crate::base::{KeyGroupRange, Result};
use crate::memtable::Probe;
use crate::table::{Found, TableReader};
use crate::version::merge::{MergeScan, MergeSource};

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
#[derive(Debug, Default)]
pub(super) struct StateBase {
    tables: Vec<(BaseTable, u16)>,
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
        Self { tables }
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

    /// Looks for a key, newest table first; its value goes to `value`.
    pub(super) fn get(&self, probe: &Probe<'_>, value: &mut Vec<u8>) -> Result<bool> {
        let hash = with_namespace(hash_key(probe.key), probe.namespace);
        for (table, ordinal) in &self.tables {
            if !table.slice.contains(probe.group) {
                continue;
            }
            let found =
                table.reader.get(*ordinal, probe.group, hash, probe.key, probe.namespace, value)?;
            match found {
                Found::Absent => {}
                Found::Deleted => return Ok(false),
                Found::Value => return Ok(true),
            }
        }
        Ok(false)
    }
}
