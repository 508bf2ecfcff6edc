//! Tables: immutable sorted files, written once, front to back, and read at
//! any place from any thread.
//!
//! Promises: a table that was finished is durable in the file that it was
//! written to; a table that opens is the file that was expected; everything
//! read from it was checked against its checksums, its place and its file, and
//! what does not pass is an error, never "absent". Damage that a lookup does
//! not touch is found by [`TableReader::verify`].
//!
//! Nothing here knows where files come from, which tables exist, or what a key
//! means: see `env`, `version` and `codec`.

mod cache;
mod collection;
pub(crate) mod origin;
mod page_fit;
mod reader;
mod scan;
mod verify;
mod writer;

pub use cache::BlockCache;
pub use collection::PlacedKey;
pub use reader::{Found, TableReader, TableReads};
pub(crate) use reader::{Held, Rank};
pub use scan::{ScanRecord, TableScan};
pub use writer::{
    DEFAULT_BLOCK_BYTES, DEFAULT_FILTER_BITS_PER_KEY, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES,
    TableOptions, TableWriter,
};
