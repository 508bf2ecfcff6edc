//! Making one table of several, so that a shard's number of tables is bounded.

use std::path::Path;
use std::sync::Arc;

use crate::base::{FileId, MaxParallelism, Result};
use crate::env::Fs;
use crate::format::table::TableMeta;
use crate::table::{TableOptions, TableWriter};
use crate::version::merge::{MergeScan, MergeSource};

/// Records merged between two breaths.
const BREATH_RECORDS: u64 = 2048;

/// What the merged table is to be.
pub(crate) struct Output {
    pub(crate) file: FileId,
    pub(crate) max_parallelism: MaxParallelism,
    pub(crate) options: TableOptions,
}

/// Merges `inputs` (oldest first) into a table at `path`. `None`, and
/// no file worth keeping, if nothing is left: the tables held only deletions,
/// or only other shards' groups. With `to_the_bottom`, deletions are dropped.
///
/// # Errors
/// `Unavailable` or `Corrupt` if an input cannot be read or the output cannot
/// be written; the inputs are as they were.
pub(crate) fn merge(
    inputs: Vec<MergeSource>,
    to_the_bottom: bool,
    fs: &dyn Fs,
    path: &Path,
    output: Output,
    mut go_on: impl FnMut() -> Result<()>,
) -> Result<Option<TableMeta>> {
    let mut scan = MergeScan::new(inputs)?;
    let mut writer: Option<TableWriter> = None;
    let mut open_state: Option<Arc<str>> = None;
    let mut seen = 0_u64;
    while let Some(record) = scan.next()? {
        seen += 1;
        if seen.is_multiple_of(BREATH_RECORDS) {
            go_on()?;
        }
        if record.value.is_none() && to_the_bottom {
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
        if open_state.as_deref() != Some(record.state) {
            writer.begin_state(record.state)?;
            open_state = Some(Arc::from(record.state));
        }
        writer.add(record.group, record.hash, record.key, record.namespace, record.value)?;
    }
    writer.map(TableWriter::finish).transpose()
}
