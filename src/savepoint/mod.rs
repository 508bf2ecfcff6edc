//! Savepoints outside the store of their job.
//!
//! - [`native`]: a folder with everything that a checkpoint needs, tables as they are.

pub mod native;

pub use native::{NativeSavepoint, export_native};
