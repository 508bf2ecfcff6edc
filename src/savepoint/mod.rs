//! Savepoints outside the store of their job, and reading checkpoints without a job.
//!
//! - [`native`]: a folder with everything that a checkpoint needs, tables as they are.
//! - [`reader`]: the states of a checkpoint, record by record.
//! - [`diff`]: in which records two checkpoints differ.

pub mod diff;
pub mod native;
pub mod reader;

pub use native::{NativeSavepoint, export_native};
pub use reader::{CheckpointReader, OperatorReader};
