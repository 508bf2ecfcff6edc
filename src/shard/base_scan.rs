//! Going through what a shard was restored from: the live records of one
//! collection, or of one state.

use std::sync::Arc;

use super::migration::{Form, Migration};
use crate::base::{KeyGroup, Result};
use crate::format::Placement;
use crate::format::collection::{EntryName, Subkey};
use crate::table::TableReads;
use crate::version::merge::MergeScan;

/// A live record of the tables beneath a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BaseRecord<'a> {
    pub(crate) group: KeyGroup,
    /// The hash of key and namespace.
    pub(crate) hash: u64,
    pub(crate) key: &'a [u8],
    /// The namespace proper.
    pub(crate) namespace: &'a [u8],
    /// Which entry of the collection; `None` in a state of single values.
    pub(crate) entry: Option<&'a [u8]>,
    /// In which form the value is.
    pub(crate) form: Form,
    pub(crate) value: &'a [u8],
}

/// Lends live records in order: the newest of each name, without deletions,
/// markers, and what those hide.
pub(crate) struct BaseScan {
    merged: MergeScan,
    /// Values are lent as they are stored, if there is none.
    migration: Option<Arc<Migration>>,
    /// A value that was migrated.
    value: Vec<u8>,
    /// What was done to begin it.
    reads: TableReads,
}

impl BaseScan {
    /// Lends what `merged` does, as far as it is live.
    pub(crate) fn new(merged: MergeScan) -> Self {
        Self { merged, migration: None, value: Vec::new(), reads: TableReads::default() }
    }

    /// From now on values are migrated.
    pub(crate) fn migrated(self, migration: Option<Arc<Migration>>) -> Self {
        Self { migration, ..self }
    }

    /// Says what was read before it began.
    pub(super) fn having_read(self, reads: TableReads) -> Self {
        Self { reads, ..self }
    }

    /// What was read so far.
    pub(super) fn reads(&self) -> TableReads {
        let mut reads = self.reads;
        self.merged.count_reads(&mut reads);
        reads
    }

    /// The next record, borrowed until the next call; `None` at the end.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` if a table cannot be read, and those of the
    /// codecs. The scan is then of no more use.
    pub(crate) fn next(&mut self) -> Result<Option<BaseRecord<'_>>> {
        while self.merged.step()? {
            let Some(record) = self.merged.current() else { break };
            if !record.is_only_for_older_tables()? {
                return self.current();
            }
        }
        Ok(None)
    }

    /// The record that the last step lent, once more.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(crate) fn current(&mut self) -> Result<Option<BaseRecord<'_>>> {
        let Some(record) = self.merged.current() else { return Ok(None) };
        let (namespace, entry) = match record.placement {
            Placement::Single => (record.namespace, None),
            Placement::Collection => {
                let EntryName { namespace, subkey } = EntryName::decode(record.namespace)?;
                let entry = match subkey {
                    Subkey::Entry(entry) => Some(entry),
                    Subkey::Marker => None,
                };
                (namespace, entry)
            }
        };
        let stored = record.value.unwrap_or_default();
        let form = Form { schema: record.value_schema, stamps: record.stamps };
        let (form, value) = match &self.migration {
            Some(migration) => {
                (migration.current(), migration.apply(form, stored, &mut self.value)?)
            }
            None => (form, stored),
        };
        Ok(Some(BaseRecord {
            group: record.group,
            hash: record.hash,
            key: record.key,
            namespace,
            entry,
            form,
            value,
        }))
    }
}
