//! Savepoints outside the store of their job, in two forms.
//!
//! *Native*: a folder with everything that a checkpoint needs, tables as they are
//! ([`native`]; quick to write, and restored without being read first).
//!
//! And what reads a checkpoint without a job: [`states`], record by record; [`diff`], in
//! which records two checkpoints differ.
//!
//! *Canonical*: all state of a job, out of the engine's own layout into one portable
//! stream and back.
//!
//! - [`Export`] writes one from the snapshots of all shards of all operators.
//! - [`Import`] makes snapshots of one, for any number of shards.
//! - [`SavepointReader`] reads one entry by entry, for tools; [`ObjectStream`] is what it
//!   and an import read an object by.
//!
//! The layout is drawn in [`format::canonical`](crate::format::canonical). Tables are
//! in the order of hashes within key groups, the stream is in the order of keys, so
//! both ways sort, in bounded memory, with sorted runs in files of a working
//! directory.
//!
//! ```text
//! order   byte strings that compare as what they were made of
//! work    the working directory and its files
//! sort    records in the order of their keys, however many
//! runs    where those are that do not fit into memory
//! writer  entries to bytes
//! reader  bytes to entries
//! ```
//!
//! Nothing here knows a shard, or who the runtime is.

pub mod diff;
mod export;
mod export_records;
mod export_states;
mod import;
mod import_tables;
pub mod native;
mod order;
mod reader;
mod runs;
mod sort;
pub mod states;
mod work;
mod writer;

use crate::base::{Error, Result};

pub use self::export::{Export, ExportReport};
pub use self::import::{Import, Imported, ImportedOperator};
pub use self::native::{NativeSavepoint, export_native};
pub use self::reader::{ObjectStream, SavepointReader};
pub use self::states::{CheckpointReader, OperatorReader};

/// Bytes that a sort keeps in memory unless told otherwise: 32 MiB. What comes beside
/// it is less than that again.
pub const DEFAULT_SORT_BYTES: usize = 32 << 20;
/// Fewest bytes that a sort can be told to keep: 64 KiB.
pub const MIN_SORT_BYTES: usize = 64 << 10;
/// Most bytes that a sort can be told to keep: 1 GiB.
pub const MAX_SORT_BYTES: usize = 1 << 30;

/// Asks whether to go on.
///
/// # Errors
/// `Unavailable` if not.
fn breathe(keep_going: &mut Option<&mut dyn FnMut(u64) -> bool>, records: u64) -> Result<()> {
    if keep_going.as_mut().is_none_or(|keep_going| keep_going(records)) {
        return Ok(());
    }
    Err(Error::unavailable("cancelled").found(format_args!("{records} records done")))
}

/// Records between two questions whether to go on.
const BREATH_RECORDS: u64 = 4096;
