//! Which tables exist, and what each of them is to the shard.
//!
//! A [`Version`] is one immutable list, oldest table first. It is never
//! changed: each transition ([`with_delta`](Version::with_delta),
//! [`with_merged`](Version::with_merged)) makes a new one. This module opens
//! no table and touches no file; readers come from above.

pub(crate) mod merge;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::base::KeyGroupRange;
use crate::env::ReadAt;
use crate::format::table::TableMeta;
use crate::table::TableReader;

/// Where a table's bytes can be had.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// The file this process wrote, in the backend's own directory.
    pub(crate) local: Option<PathBuf>,
    /// The open object it was restored from.
    pub(crate) restored: Option<Arc<dyn ReadAt>>,
    /// Where the checkpoint store has it.
    pub(crate) stored: Option<Stored>,
}

/// A table as the checkpoint store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Which store: two stores may use the same names.
    pub(crate) store: String,
    /// Its name there.
    pub(crate) location: String,
    /// A snapshot that names it there was confirmed by the runtime. Only such
    /// tables are relied upon without asking the store again.
    pub(crate) confirmed: bool,
}

/// One table of a version.
#[derive(Debug)]
pub(crate) struct TableEntry {
    /// What the table is.
    pub(crate) meta: TableMeta,
    /// The key groups of it that belong to the shard; others in the file are
    /// somebody else's and vanish at the next merge.
    pub(crate) slice: KeyGroupRange,
    /// Names of the states that it holds records of, ascending.
    states: Vec<String>,
    /// Those of them whose records do not count any more.
    dropped: Mutex<DroppedStates>,
    places: Mutex<Places>,
    /// Open, once somebody above has opened it.
    reader: OnceLock<Arc<TableReader>>,
}

/// Names of states that were dropped after a table was written, ascending.
pub(crate) type DroppedStates = Vec<String>;

impl TableEntry {
    /// A table that holds records of these states (ascending), of which some may
    /// not count any more.
    pub(crate) fn new(
        meta: TableMeta,
        slice: KeyGroupRange,
        states: Vec<String>,
        dropped: &[String],
        places: Places,
    ) -> Arc<Self> {
        let (dropped_states, reader) = (Mutex::default(), OnceLock::new());
        let entry =
            Self { meta, slice, states, dropped: dropped_states, places: places.into(), reader };
        entry.drop_states(dropped);
        Arc::new(entry)
    }

    /// The states that it holds records of which do not count.
    pub(crate) fn dropped(&self) -> DroppedStates {
        self.dropped.lock().clone()
    }

    /// From now on its records of these states do not count.
    pub(crate) fn drop_states(&self, names: &[String]) {
        let mut dropped = self.dropped.lock();
        dropped.extend(names.iter().filter(|name| self.states.contains(name)).cloned());
        dropped.sort_unstable();
        dropped.dedup();
    }

    /// Whether none of its records counts.
    fn is_dropped(&self) -> bool {
        !self.states.is_empty() && self.dropped.lock().len() == self.states.len()
    }

    /// Where its bytes are now.
    pub(crate) fn places(&self) -> Places {
        self.places.lock().clone()
    }

    /// The open table, if somebody has opened it.
    pub(crate) fn reader(&self) -> Option<Arc<TableReader>> {
        self.reader.get().cloned()
    }

    /// Notes that it is open, and gives what was noted first.
    pub(crate) fn set_reader(&self, reader: Arc<TableReader>) -> Arc<TableReader> {
        Arc::clone(self.reader.get_or_init(|| reader))
    }

    /// Notes that a store has it.
    pub(crate) fn set_stored(&self, stored: Stored) {
        self.places.lock().stored = Some(stored);
    }

    /// Notes that a snapshot which names it was confirmed.
    pub(crate) fn confirm(&self) {
        if let Some(stored) = &mut self.places.lock().stored {
            stored.confirmed = true;
        }
    }
}

/// The tables of a shard, oldest first. For one key, a later table wins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version {
    tables: Arc<Vec<Arc<TableEntry>>>,
}

impl Version {
    pub(crate) fn new(tables: Vec<Arc<TableEntry>>) -> Self {
        Self { tables: Arc::new(tables) }
    }

    pub(crate) fn tables(&self) -> &[Arc<TableEntry>] {
        &self.tables
    }

    /// This version and one newer table.
    #[must_use]
    pub(crate) fn with_delta(&self, table: Arc<TableEntry>) -> Self {
        let mut tables = Vec::clone(&self.tables);
        tables.push(table);
        Self::new(tables)
    }

    /// This version with a run of neighbouring tables replaced by one (or by
    /// none, if nothing of them was left). `None` if they are not all there,
    /// side by side, any more.
    pub(crate) fn with_merged(
        &self,
        inputs: &[Arc<TableEntry>],
        output: Option<Arc<TableEntry>>,
    ) -> Option<Self> {
        let first = inputs.first()?;
        let at = self.tables.iter().position(|table| Arc::ptr_eq(table, first))?;
        let found = self.tables.get(at..at + inputs.len())?;
        if !found.iter().zip(inputs).all(|(a, b)| Arc::ptr_eq(a, b)) {
            return None;
        }
        let mut tables = self.tables[..at].to_vec();
        tables.extend(output);
        tables.extend_from_slice(&self.tables[at + inputs.len()..]);
        Some(Self::new(tables))
    }

    /// Has the records of these states that are in its tables count no more: the
    /// states were dropped after all that is here was frozen.
    pub(crate) fn drop_states(&self, names: &[String]) {
        self.tables.iter().for_each(|table| table.drop_states(names));
    }

    /// This version without tables none of whose records counts, and those;
    /// `None` if there are none.
    pub(crate) fn without_dropped(&self) -> Option<(Self, Vec<Arc<TableEntry>>)> {
        let (dropped, kept): (Vec<_>, Vec<_>) =
            self.tables.iter().cloned().partition(|table| table.is_dropped());
        (!dropped.is_empty()).then(|| (Self::new(kept), dropped))
    }

    /// Which tables to merge so that at most `limit` are left, if there are
    /// more: some of the newest, and older ones as long as they are no larger
    /// than what is being merged anyway.
    ///
    /// Every byte is thus rewritten about once for each doubling of what lies
    /// above it, and a version of *n* bytes has O(log *n*) tables.
    pub(crate) fn merge_candidates(&self, limit: usize) -> Option<MergePlan> {
        let count = self.tables.len();
        if count <= limit.max(1) {
            return None;
        }
        let mut first = count - (count - limit.max(1) + 1);
        let mut bytes: u64 = self.tables[first..].iter().map(|table| table.meta.bytes).sum();
        while first > 0 && self.tables[first - 1].meta.bytes <= bytes {
            first -= 1;
            bytes += self.tables[first].meta.bytes;
        }
        Some(MergePlan { inputs: self.tables[first..].to_vec(), to_the_bottom: first == 0 })
    }
}

/// Neighbouring tables to be made one.
#[derive(Debug)]
pub(crate) struct MergePlan {
    /// Oldest first.
    pub(crate) inputs: Vec<Arc<TableEntry>>,
    /// Nothing older lies beneath, so deletions need not be remembered.
    pub(crate) to_the_bottom: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::checksum::ContentHash;
    use crate::base::{FileId, MaxParallelism};

    fn table(number: u64, bytes: u64) -> Arc<TableEntry> {
        let groups = MaxParallelism::DEFAULT.all_groups();
        let meta = TableMeta {
            file: FileId { incarnation: 1, number },
            bytes,
            hash: ContentHash(0),
            records: 1,
            tombstones: 0,
            raw_bytes: bytes,
            groups,
        };
        TableEntry::new(meta, groups, vec!["a".into()], &[], Places::default())
    }

    fn numbers(version: &Version) -> Vec<u64> {
        version.tables().iter().map(|table| table.meta.file.number).collect()
    }

    #[test]
    fn merging_keeps_the_number_of_tables_bounded_and_the_order_of_age() {
        let mut version = Version::default();
        let mut rewritten = 0;
        for number in 0..1_000 {
            version = version.with_delta(table(number, 1_000));
            if let Some(plan) = version.merge_candidates(6) {
                let bytes: u64 = plan.inputs.iter().map(|table| table.meta.bytes).sum();
                rewritten += bytes;
                let newest = plan.inputs.last().unwrap().meta.file.number;
                version =
                    version.with_merged(&plan.inputs, Some(table(newest, bytes))).expect("there");
            }
            assert!(version.tables().len() <= 6);
            assert!(numbers(&version).windows(2).all(|pair| pair[0] < pair[1]));
        }
        let total: u64 = version.tables().iter().map(|table| table.meta.bytes).sum();
        assert_eq!(total, 1_000 * 1_000);
        assert!(rewritten < 12 * total, "each byte was rewritten {} times", rewritten / total);
    }

    #[test]
    fn a_merge_of_tables_that_are_gone_changes_nothing() {
        let version = Version::new(vec![table(1, 10), table(2, 10), table(3, 10)]);
        let inputs = version.tables()[..2].to_vec();
        let merged = version.with_merged(&inputs, None).expect("both are there");
        assert_eq!(numbers(&merged), [3]);
        assert!(merged.with_merged(&inputs, None).is_none());
        let apart = [Arc::clone(&version.tables()[0]), Arc::clone(&version.tables()[2])];
        assert!(version.with_merged(&apart, None).is_none());
    }
}
