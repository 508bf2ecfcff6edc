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
//!
//! The records of a state in an entry are *spent* when nothing would change without
//! them: they are deletions, or have all expired, and no older entry of the same key
//! groups has records of the state that count. They count no more, as if the state had
//! been dropped, and an entry without any that count goes, unread
//! ([`without_spent`](Version::without_spent)). That is said of an entry and not of
//! its file: an older version, which a snapshot under way is made of, may have
//! something beneath.

pub(crate) mod merge;
#[cfg(test)]
mod merge_tests;
pub(crate) mod plan;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod spent_tests;
pub(crate) mod stats;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::base::{KeyGroup, KeyGroupRange};
use crate::env::ReadAt;
use crate::env::local_files::LocalFile;
use crate::format::properties::StateProperties;
use crate::format::table::TableMeta;
use crate::table::TableReader;

/// Where a table's bytes can be had.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// The file that this process wrote, or fetched, in the backend's own directory.
    pub(crate) local: Option<Arc<LocalFile>>,
    /// The open object it was restored from.
    pub(crate) restored: Option<Arc<dyn ReadAt>>,
    /// Where a checkpoint store has it, oldest first: where it was relied upon last, and
    /// where full snapshots have put it since. All of one store.
    pub(crate) stored: Vec<Stored>,
}

/// A table as the checkpoint store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Which store: two stores may use the same names.
    pub(crate) store: String,
    /// Its name there.
    pub(crate) location: Arc<str>,
    /// A snapshot that names it there was confirmed by the runtime. Only such
    /// tables are relied upon without asking the store again.
    pub(crate) confirmed: bool,
    /// A manifest may name it there: a full snapshot needs it elsewhere.
    pub(crate) named: bool,
}

/// A table file, and what this process knows of it: whatever does not depend on
/// which of its key groups count.
#[derive(Debug)]
pub(crate) struct TableFile {
    /// What the table is.
    pub(crate) meta: TableMeta,
    /// What it holds of each state, in the order of their names.
    states: Vec<StateProperties>,
    /// Those of them whose records do not count any more.
    dropped: Mutex<DroppedStates>,
    places: Mutex<Places>,
    /// Open, once somebody above has opened it, where it is to be read now.
    reader: Mutex<Option<Arc<TableReader>>>,
    /// Blocks that look-ups read since it was asked last.
    reads: Arc<AtomicU64>,
    /// The same, of all the time, what is long ago counting less.
    heat: AtomicU64,
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
    /// Names of the states whose records in it are spent, ascending.
    spent: DroppedStates,
}

/// The part of a table that must be spent for it to be written anew.
const WORTH_FRACTION: u64 = 8;

/// Names of states whose records in a table do not count, ascending.
pub(crate) type DroppedStates = Vec<String>;

/// An entry is its file, seen through a slice.
impl Deref for TableEntry {
    type Target = TableFile;

    fn deref(&self) -> &TableFile {
        &self.file
    }
}

impl TableEntry {
    /// A table that holds records of these states (in the order of their names), of
    /// which some may not count any more.
    pub(crate) fn new(
        meta: TableMeta,
        slice: KeyGroupRange,
        states: Vec<StateProperties>,
        dropped: &[String],
        places: Places,
    ) -> Arc<Self> {
        let file = TableFile {
            meta,
            states,
            dropped: Mutex::default(),
            places: places.into(),
            reader: Mutex::default(),
            reads: Arc::default(),
            heat: AtomicU64::new(0),
        };
        file.drop_states(dropped);
        Arc::new(Self { file: Arc::new(file), slice, spent: Vec::new() })
    }

    /// A slice of a file of which there are other ones, and the states whose records in
    /// it do not count.
    pub(crate) fn slice_of(
        file: &Arc<TableFile>,
        slice: KeyGroupRange,
        dropped: &[String],
    ) -> Arc<Self> {
        let of_file = file.dropped.lock().clone();
        let spent = dropped.iter().filter(|name| !of_file.contains(name)).cloned().collect();
        Arc::new(Self { file: Arc::clone(file), slice, spent })
    }

    /// The states whose records in it do not count: they were dropped, or the records
    /// are spent.
    pub(crate) fn dropped(&self) -> DroppedStates {
        let mut dropped = self.file.dropped.lock().clone();
        dropped.extend(self.spent.iter().cloned());
        dropped.sort_unstable();
        dropped.dedup();
        dropped
    }

    /// What it holds of each state whose records count.
    fn counting(&self) -> impl Iterator<Item = &StateProperties> {
        let dropped = self.dropped();
        self.states.iter().filter(move |state| !dropped.contains(&state.name))
    }

    /// Whether so much of it does not count that the rest is worth writing anew.
    fn has_dropped(&self) -> bool {
        if !self.file.dropped.lock().is_empty() {
            return true;
        }
        let is_spent = |state: &&StateProperties| self.spent.contains(&state.name);
        let spent: u64 = self.states.iter().filter(is_spent).map(StateProperties::raw_bytes).sum();
        spent > 0 && spent >= self.meta.raw_bytes / WORTH_FRACTION
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
            Arc::new(Self { file: Arc::clone(&self.file), slice, spent: self.spent.clone() })
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
    /// From now on its records of these states do not count.
    pub(crate) fn drop_states(&self, names: &[String]) {
        let mut dropped = self.dropped.lock();
        let holds = |name: &&String| self.states.iter().any(|state| state.name == **name);
        dropped.extend(names.iter().filter(holds).cloned());
        dropped.sort_unstable();
        dropped.dedup();
    }

    /// Where its bytes are now.
    pub(crate) fn places(&self) -> Places {
        self.places.lock().clone()
    }

    /// The open table, if somebody has opened it.
    pub(crate) fn reader(&self) -> Option<Arc<TableReader>> {
        self.reader.lock().clone()
    }

    /// Notes that it is open, and gives what was noted first.
    pub(crate) fn set_reader(&self, reader: Arc<TableReader>) -> Arc<TableReader> {
        Arc::clone(self.reader.lock().get_or_insert(reader))
    }

    /// Notes that it is open, in the place of what was noted before.
    pub(crate) fn replace_reader(&self, reader: Arc<TableReader>) -> Arc<TableReader> {
        let before = self.reader.lock().replace(Arc::clone(&reader));
        drop(before);
        reader
    }

    /// Notes that there is a local file of it now, from which it is to be read.
    pub(crate) fn set_local(&self, file: Arc<LocalFile>) {
        self.places.lock().local = Some(file);
        let before = self.reader.lock().take();
        drop(before);
    }

    /// Gives the local file up. From now on the table is read by `reader`, or opened
    /// anew where it is stored.
    pub(crate) fn leave_local(&self, reader: Option<Arc<TableReader>>) {
        let file = self.places.lock().local.take();
        if let Some(file) = &file {
            file.leave();
        }
        let before = std::mem::replace(&mut *self.reader.lock(), reader);
        drop((before, file));
    }

    /// Counts the blocks that look-ups read of it.
    pub(crate) fn reads(&self) -> &Arc<AtomicU64> {
        &self.reads
    }

    /// How much it is asked for: the blocks that were read since it cooled last, and
    /// what was left then.
    pub(crate) fn heat(&self) -> u64 {
        self.heat.load(Ordering::Relaxed).saturating_add(self.reads.load(Ordering::Relaxed))
    }

    /// Has what was read before count an eighth less, and gives the heat.
    pub(crate) fn cool(&self) -> u64 {
        let before = self.heat.load(Ordering::Relaxed);
        let new = self.reads.swap(0, Ordering::Relaxed);
        let heat = (before - before.div_ceil(8)).saturating_add(new);
        self.heat.store(heat, Ordering::Relaxed);
        heat
    }

    /// Notes that a store has it, beside other places in the same store.
    pub(crate) fn set_stored(&self, new: Stored) {
        let stored = &mut self.places.lock().stored;
        stored.retain(|before| before.store == new.store && before.location != new.location);
        stored.push(new);
    }

    /// Notes that the store says that it is not there any more.
    pub(crate) fn not_stored(&self, location: &str) {
        let stored = &mut self.places.lock().stored;
        stored.retain(|of| of.confirmed || &*of.location != location);
    }

    /// Notes that a manifest may name it there.
    pub(crate) fn set_named(&self, location: &str) {
        let stored = &mut self.places.lock().stored;
        stored.iter_mut().filter(|of| &*of.location == location).for_each(|of| of.named = true);
    }

    /// Notes that a snapshot which names it there was confirmed, and says whether it is to
    /// be read elsewhere now: where it was before nobody vouches for it any more.
    pub(crate) fn confirm(&self, location: &str) -> bool {
        let mut places = self.places.lock();
        let Some(at) = places.stored.iter().position(|of| &*of.location == location) else {
            return false;
        };
        places.stored[at].confirmed = true;
        if at == 0 {
            return false;
        }
        places.stored.drain(..at);
        let restored = places.restored.take();
        let is_elsewhere = places.local.is_none();
        drop(places);
        let reader = if is_elsewhere { self.reader.lock().take() } else { None };
        drop((restored, reader));
        is_elsewhere
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
        let (kept, dropped): (Vec<_>, Vec<_>) =
            self.tables.iter().cloned().partition(|table| table.counting().next().is_some());
        (!dropped.is_empty()).then(|| (Self::new(kept), dropped))
    }

    /// This version without records that are spent, and the tables that are gone for
    /// it; `None` if there are none. Of what a table holds of a state it is asked
    /// whether all values have expired.
    pub(crate) fn without_spent(
        &self,
        have_expired: impl Fn(&StateProperties) -> bool,
    ) -> Option<(Self, Vec<Arc<TableEntry>>)> {
        let mut kept: Vec<Arc<TableEntry>> = Vec::with_capacity(self.tables.len());
        let (mut gone, mut is_changed) = (Vec::new(), false);
        for table in self.tables.iter() {
            let is_free = |state: &&StateProperties| {
                let older =
                    kept.iter().filter(|older| older.slice.intersection(table.slice).is_some());
                !older.flat_map(|older| older.counting()).any(|beneath| beneath.name == state.name)
            };
            let has_values = |state: &StateProperties| state.records > state.tombstones;
            let spent = table.counting().filter(|state| !has_values(state) || have_expired(state));
            let spent: Vec<_> = spent.filter(is_free).map(|state| state.name.clone()).collect();
            if spent.is_empty() {
                kept.push(Arc::clone(table));
                continue;
            }
            is_changed = true;
            let mut all = [&table.spent[..], &spent].concat();
            all.sort_unstable();
            let file = Arc::clone(&table.file);
            let entry = TableEntry { file, slice: table.slice, spent: all };
            if entry.counting().next().is_none() {
                gone.push(Arc::clone(table));
            } else {
                kept.push(Arc::new(entry));
            }
        }
        is_changed.then(|| (Self::new(kept), gone))
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
        let state = StateProperties { name: "a".into(), records: 1, ..Default::default() };
        TableEntry::new(meta, groups, vec![state], &[], Places::default())
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
