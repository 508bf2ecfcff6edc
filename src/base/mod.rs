//! The lowest layer: ids, limits, hashing, checksums and errors.
//!
//! Everything here is a leaf type. Nothing in this layer touches a file, a
//! clock or a thread, and nothing in it knows what a table is.

pub mod checksum;
pub mod error;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod time;

pub use error::{Error, ErrorKind, Result};
pub use ids::{Epoch, FileId, KeyGroup, KeyGroupRange, MaxParallelism, SnapshotId, SnapshotMode};
pub use time::TimeDomain;
