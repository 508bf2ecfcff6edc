//! Which tables exist, and what each of them is to the shard.
//!
//! A [`Version`] is one immutable list, oldest table first. It is never
//! changed: each transition ([`with_delta`](Version::with_delta),
//! [`with_merged`](Version::with_merged)) makes a new one. Which tables should be
//! merged is worked out in [`plan`]. This module opens no table and touches no
//! file; readers come from above.
//!
//! A merge may take a range of key groups only. What it leaves of a table is the
//! same file under a smaller slice, in a [`TableEntry`] of its own; entries share
//! the [`TableFile`], so that a file goes when the last of them does.

pub(crate) mod merge;
pub(crate) mod plan;
#[cfg(test)]
mod plan_tests;
pub(crate) mod stats;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::base::{KeyGroup, KeyGroupRange};
use crate::env::ReadAt;
use crate::format::properties::StateProperties;
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

/// A table file, and what this process knows of it: whatever does not depend on
/// which of its key groups count.
#[derive(Debug)]
pub(crate) struct TableFile {
    /// What the table is.
    pub(crate) meta: TableMeta,
    /// Names of the states that it holds records of, ascending.
    states: Vec<String>,
    /// Those of them whose records do not count any more.
    dropped: Mutex<DroppedStates>,
    places: Mutex<Places>,
    /// Open, once somebody above has opened it.
    reader: OnceLock<Arc<TableReader>>,
    /// What it holds of each state, if this process wrote it.
    counts: OnceLock<Box<[StateProperties]>>,
}

/// One table of a version: a file, and the part of it that counts.
#[derive(Debug)]
pub(crate) struct TableEntry {
    /// Shared with the entries of other slices: of one that was cut by a merge,
    /// or in older versions.
    file: Arc<TableFile>,
    /// The key groups of it that belong to the shard and have not been merged
    /// into a newer table. Others in the file are not read.
    pub(crate) slice: KeyGroupRange,
}

/// Names of states that were dropped after a table was written, ascending.
pub(crate) type DroppedStates = Vec<String>;

/// An entry is its file, seen through a slice.
impl Deref for TableEntry {
    type Target = TableFile;

    fn deref(&self) -> &TableFile {
        &self.file
    }
}

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
        let file = TableFile {
            meta,
            states,
            dropped: Mutex::default(),
            places: places.into(),
            reader: OnceLock::new(),
            counts: OnceLock::new(),
        };
        file.drop_states(dropped);
        Arc::new(Self { file: Arc::new(file), slice })
    }

    /// Its file.
    pub(crate) fn file(&self) -> &Arc<TableFile> {
        &self.file
    }

    /// What is left of it without `groups`: nothing, or a slice on either side.
    fn without(&self, groups: KeyGroupRange) -> impl Iterator<Item = Arc<Self>> {
        let (first, last) = (u32::from(self.slice.first().0), u32::from(self.slice.last().0));
        let (from, to) = (u32::from(groups.first().0), u32::from(groups.last().0));
        let left = (first, last.min(from.wrapping_sub(1)), from > first);
        let right = (first.max(to + 1), last, to < last);
        [left, right].into_iter().filter(|&(.., is_left)| is_left).map(|(first, last, _)| {
            let range = KeyGroupRange::new(KeyGroup(first as u16), KeyGroup(last as u16));
            let slice = range.expect("a part of a range that is not empty");
            Arc::new(Self { file: Arc::clone(&self.file), slice })
        })
    }

    /// How many bytes of the file its records in `groups` take, about: as if
    /// its key groups were all of one size.
    pub(crate) fn bytes_in(&self, groups: KeyGroupRange) -> u64 {
        self.share_of(self.meta.bytes, groups)
    }

    /// The part of a total of the file that falls to its slice in `groups`.
    fn share_of(&self, total: u64, groups: KeyGroupRange) -> u64 {
        let count = self.slice.intersection(groups).map_or(0, KeyGroupRange::count);
        let all = u128::from(self.meta.groups.count());
        (u128::from(total) * u128::from(count)).div_ceil(all) as u64
    }
}

impl TableFile {
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

    /// Whether records of a state in it do not count.
    fn has_dropped(&self) -> bool {
        !self.dropped.lock().is_empty()
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

    /// Notes what it holds of each state.
    pub(crate) fn set_counts(&self, states: Vec<StateProperties>) {
        // What was said first is as true.
        let _ = self.counts.set(states.into());
    }

    /// Shows what it holds of each state; nothing if nobody knows without reading it.
    fn with_counts<T>(&self, show: impl FnOnce(&[StateProperties]) -> T) -> T {
        let counts = self.counts.get().map(|counts| &**counts);
        let read = || self.reader.get().map(|reader| reader.states());
        show(counts.or_else(read).unwrap_or_default())
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

/// The tables of a shard. For one key, a later table wins; the order of two that
/// share no key group means nothing.
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

    /// This version with what `inputs` (in the order of age) have of `groups`
    /// replaced by one table (or by none, if nothing of it was left); the rest of
    /// them stays as it is.
    ///
    /// `None` if they are not all there any more, or if in one of the groups
    /// another table is newer than one of them and older than another: then no one
    /// table can stand for them.
    pub(crate) fn with_merged(
        &self,
        inputs: &[Arc<TableEntry>],
        groups: KeyGroupRange,
        output: Option<Arc<TableEntry>>,
    ) -> Option<Self> {
        let mut left = inputs.iter().peekable();
        let mut tables = Vec::with_capacity(self.tables.len() + 1);
        // What was merged of the inputs so far, and the tables since the first.
        let mut merged: Vec<KeyGroupRange> = Vec::with_capacity(inputs.len());
        let mut output = output;
        for table in self.tables.iter() {
            if left.next_if(|input| Arc::ptr_eq(input, table)).is_some() {
                merged.push(table.slice.intersection(groups)?);
                tables.extend(table.without(groups));
                if left.peek().is_none() {
                    // In the place of the newest: whatever stands between two of
                    // them shares no group with the older one.
                    tables.extend(output.take());
                }
                continue;
            }
            let is_newer = |merged: &KeyGroupRange| merged.intersection(table.slice).is_some();
            if left.peek().is_some() && merged.iter().any(is_newer) {
                return None;
            }
            tables.push(Arc::clone(table));
        }
        (left.next().is_none() && !merged.is_empty()).then(|| Self::new(tables))
    }

    /// The files of `inputs` that are in it no more.
    pub(crate) fn files_gone(&self, inputs: &[Arc<TableEntry>]) -> Vec<Arc<TableFile>> {
        let mut gone: Vec<Arc<TableFile>> = Vec::new();
        for file in inputs.iter().map(|input| input.file()) {
            let same = |other: &Arc<TableFile>| Arc::ptr_eq(other, file);
            if !gone.iter().any(same) && !self.tables.iter().any(|table| same(table.file())) {
                gone.push(Arc::clone(file));
            }
        }
        gone
    }

    /// The bytes of its files, each counted once.
    pub(crate) fn file_bytes(&self) -> u64 {
        let bytes = self.tables.iter().map(|table| (table.meta.file, table.meta.bytes));
        bytes.collect::<BTreeMap<_, _>>().values().sum()
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
    fn a_merge_of_tables_that_are_gone_changes_nothing() {
        let version = Version::new(vec![table(1, 10), table(2, 10), table(3, 10)]);
        let inputs = version.tables()[..2].to_vec();
        let all = inputs[0].slice;
        let merged = version.with_merged(&inputs, all, None).expect("both are there");
        assert_eq!(numbers(&merged), [3]);
        assert!(merged.with_merged(&inputs, all, None).is_none());
        let apart = [Arc::clone(&version.tables()[0]), Arc::clone(&version.tables()[2])];
        assert!(version.with_merged(&apart, all, None).is_none());
    }
}
