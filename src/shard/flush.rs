//! From the sorted runs of a frozen shard to one delta table.

use std::path::Path;

use super::changes;
use super::compact::Output;
use super::entry_run::EntryRun;
use super::migration::NewestStamp;
use crate::base::{Result, TimeDomain};
use crate::env::Fs;
use crate::format::Placement;
use crate::format::manifest::StateKind;
use crate::format::properties::StateProperties;
use crate::format::table::TableMeta;
use crate::memtable::extract::{Run, SortedRun};

/// Records written between two breaths: well below a megabyte of usual ones.
const BREATH_RECORDS: usize = 4096;

/// The changes of one snapshot, out of the arena and not yet in a table.
#[derive(Debug)]
pub(crate) struct Delta {
    /// In the byte order of the states' names; none is empty.
    states: Vec<StateChanges>,
}

/// The changes of one state.
#[derive(Debug)]
pub(crate) struct StateRun {
    pub(crate) state: String,
    pub(crate) kind: StateKind,
    /// Fingerprint of what its values are written under.
    pub(crate) value_schema: u64,
    /// Which time the stamps in front of its values are of.
    pub(crate) stamps: Option<TimeDomain>,
    pub(crate) run: Run,
}

/// The changes of one state on their way into a table.
#[derive(Debug)]
struct StateChanges {
    state: String,
    /// Whether its values are chunks of lists.
    lists: bool,
    value_schema: u64,
    stamps: Option<TimeDomain>,
    changes: Changes,
}

#[derive(Debug)]
enum Changes {
    /// As they were copied, of a state of this kind.
    Copied(StateKind, Run),
    Single(SortedRun),
    Collections(EntryRun),
}

impl Changes {
    fn records(&self) -> usize {
        match self {
            Self::Copied(_, run) => run.len(),
            Self::Single(run) => run.len(),
            Self::Collections(run) => run.len(),
        }
    }

    /// Bytes of keys, namespaces and values. To be asked when they are sorted.
    fn raw_bytes(&self) -> u64 {
        match self {
            Self::Copied(..) => unreachable!("{UNSORTED}"),
            Self::Single(run) => run.raw_bytes(),
            Self::Collections(run) => run.raw_bytes(),
        }
    }

    /// Puts them into the order of a table; see [`Delta::sort`].
    fn sort(self, timed: bool, sequence: u64, breathe: &mut impl FnMut()) -> Self {
        let mut entries = match self {
            Self::Copied(kind, run) => match Placement::of(kind) {
                Placement::Single => return Self::Single(run.sort()),
                Placement::Collection => changes::entries_of(kind, timed, &run, sequence),
            },
            Self::Single(run) => return Self::Single(run),
            Self::Collections(entries) => entries,
        };
        breathe();
        entries.sort();
        Self::Collections(entries)
    }
}

const UNSORTED: &str = "a delta is sorted before it is counted and written";

impl Delta {
    /// A delta of the runs that hold anything; they are still to be
    /// [sorted](Self::sort).
    pub(crate) fn unsorted(runs: Vec<StateRun>) -> Self {
        let of_state = |StateRun { state, kind, value_schema, stamps, run }| StateChanges {
            state,
            lists: kind == StateKind::List,
            value_schema,
            stamps,
            changes: Changes::Copied(kind, run),
        };
        Self::of(runs.into_iter().map(of_state).collect())
    }

    /// This delta and the runs of states of collections, still to be sorted.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn with_collections(self, runs: Vec<(String, EntryRun)>) -> Self {
        let runs = runs.into_iter().map(|(state, run)| {
            let changes = Changes::Collections(run);
            StateChanges { state, lists: false, value_schema: 0, stamps: None, changes }
        });
        Self::of(self.states.into_iter().chain(runs).collect())
    }

    fn of(mut states: Vec<StateChanges>) -> Self {
        states.retain(|state| state.changes.records() > 0);
        states.sort_unstable_by(|a, b| a.state.as_bytes().cmp(b.state.as_bytes()));
        Self { states }
    }

    /// Sorts the runs into the order of a table, and makes entries of what
    /// changed in lists and maps. `sequence` is above that of every delta of the
    /// shard before this one.
    pub(crate) fn sort(&mut self, sequence: u64, mut breathe: impl FnMut()) {
        let states = std::mem::take(&mut self.states);
        for StateChanges { state, lists, value_schema, stamps, changes } in states {
            let changes = changes.sort(stamps.is_some(), sequence, &mut breathe);
            self.states.push(StateChanges { state, lists, value_schema, stamps, changes });
            breathe();
        }
        // Records may have changed in epochs before and moved in this one.
        self.states.retain(|state| state.changes.records() > 0);
    }

    /// Forgets the changes of these states.
    pub(crate) fn drop_states(&mut self, names: &[String]) {
        self.states.retain(|state| !names.contains(&state.state));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    pub(crate) fn records(&self) -> u64 {
        self.states.iter().map(|state| state.changes.records() as u64).sum()
    }

    /// Bytes of keys, namespaces and values.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.states.iter().map(|state| state.changes.raw_bytes()).sum()
    }

    /// Writes the delta, which is sorted and not empty, as a table at `path`,
    /// durably, and says what it holds of each state. The name becomes durable with the
    /// directory.
    ///
    /// # Errors
    /// `Unavailable` if the file system fails; what there is of the file is
    /// then worthless, and another attempt needs another name.
    pub(crate) fn write(
        &self,
        fs: &dyn Fs,
        path: &Path,
        output: Output,
        mut breathe: impl FnMut(),
    ) -> Result<(TableMeta, Vec<StateProperties>)> {
        let out = create(fs, path)?;
        let mut writer = output.writer(out)?;
        for StateChanges { state, lists, value_schema, stamps, changes } in &self.states {
            let placement = match changes {
                Changes::Copied(..) => unreachable!("{UNSORTED}"),
                Changes::Single(_) => Placement::Single,
                Changes::Collections(_) => Placement::Collection,
            };
            writer.begin_placed_state(state, placement)?;
            writer.set_value_schema(*value_schema)?;
            writer.set_stamps(*stamps)?;
            let mut newest = NewestStamp::default();
            let mut note = |value: Option<&[u8]>| {
                if let Some(value) = value.filter(|_| stamps.is_some()) {
                    newest.note(*lists, value);
                }
            };
            let mut breathe_at = |number: usize| {
                if number.is_multiple_of(BREATH_RECORDS) {
                    breathe();
                }
            };
            match changes {
                Changes::Single(run) => {
                    for (number, (hash, record)) in run.records().enumerate() {
                        let (key, namespace) = (record.key, record.namespace);
                        writer.add(record.group, hash, key, namespace, record.value)?;
                        note(record.value);
                        breathe_at(number);
                    }
                }
                Changes::Copied(..) => unreachable!("{UNSORTED}"),
                Changes::Collections(run) => {
                    for (number, record) in run.records().enumerate() {
                        let (key, name) = (record.key, record.name);
                        writer.add(record.group, record.hash, key, name, record.value)?;
                        note(record.value);
                        breathe_at(number);
                    }
                }
            }
            writer.set_newest_stamp(newest.get())?;
        }
        writer.finish_counted().map(|(meta, properties)| (meta, properties.states))
    }
}

/// Creates the file of a new table.
pub(super) fn create(fs: &dyn Fs, path: &Path) -> Result<Box<dyn crate::env::WriteFile>> {
    fs.create_new(path).map_err(|source| {
        crate::base::Error::io("a table could not be created", source)
            .at(path.display())
            .remedy("check free space and permissions; the next snapshot tries again")
    })
}
