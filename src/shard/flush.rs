//! From the sorted runs of a frozen shard to one delta table.

use std::path::Path;

use crate::base::{FileId, MaxParallelism, Result};
use crate::env::Fs;
use crate::format::table::TableMeta;
use crate::memtable::extract::Run;
use crate::table::{TableOptions, TableWriter};

/// Records written between two breaths: well below a megabyte of usual ones.
const BREATH_RECORDS: usize = 4096;

/// The changes of one snapshot, out of the arena and not yet in a table.
#[derive(Debug)]
pub(crate) struct Delta {
    /// In the byte order of the states' names; none is empty.
    runs: Vec<StateRun>,
}

/// The changes of one state.
#[derive(Debug)]
pub(crate) struct StateRun {
    pub(crate) state: String,
    /// Fingerprint of what its values are written under.
    pub(crate) value_schema: u64,
    pub(crate) run: Run,
}

impl Delta {
    /// A delta of the runs that hold anything; they are still to be sorted.
    pub(crate) fn unsorted(mut runs: Vec<StateRun>) -> Self {
        runs.retain(|state| state.run.len() > 0);
        runs.sort_unstable_by(|a, b| a.state.as_bytes().cmp(b.state.as_bytes()));
        Self { runs }
    }

    /// Sorts the runs into the order of a table.
    pub(crate) fn sort(&mut self, mut breathe: impl FnMut()) {
        for state in &mut self.runs {
            state.run.sort();
            breathe();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn records(&self) -> u64 {
        self.runs.iter().map(|state| state.run.len() as u64).sum()
    }

    /// Bytes of keys, namespaces and values.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.runs.iter().map(|state| state.run.raw_bytes()).sum()
    }

    /// Writes the delta, which is sorted and not empty, as the table `file` at `path`,
    /// durably. The name becomes durable with the directory.
    ///
    /// # Errors
    /// `Unavailable` if the file system fails; what there is of the file is
    /// then worthless, and another attempt needs another name.
    pub(crate) fn write(
        &self,
        fs: &dyn Fs,
        path: &Path,
        file: FileId,
        max_parallelism: MaxParallelism,
        options: TableOptions,
        mut breathe: impl FnMut(),
    ) -> Result<TableMeta> {
        let out = create(fs, path)?;
        let mut writer = TableWriter::new(out, file, max_parallelism, options)?;
        for StateRun { state, value_schema, run } in &self.runs {
            writer.begin_state(state)?;
            writer.set_value_schema(*value_schema)?;
            for (number, (hash, record)) in run.records().enumerate() {
                writer.add(record.group, hash, record.key, record.namespace, record.value)?;
                if number % BREATH_RECORDS == 0 {
                    breathe();
                }
            }
        }
        writer.finish()
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
