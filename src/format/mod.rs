//! Every layout that reaches a disk: drawn once, encoded and decoded in the
//! same file.
//!
//! ```text
//! frame       a checked, perhaps compressed, piece of a table
//! envelope    a checked small file: magic, version, body, hash
//! block       records of one state, column by column
//! collection  names and places of records that belong together
//! filter      which records a table may hold
//! index       where each block of a table lies and where it starts
//! page sums   checksums of the pages of filter and index
//! properties  what a table holds, counted
//! table       header, footer and the order of the parts
//! operator    states that a subtask keeps beside its keys
//! manifest    which tables make a shard's snapshot
//! handle      how to find and recognise a manifest
//! checkpoint  the handles of all shards of a job, and what it cost
//! journal     what the coordinator of a job remembers
//! canonical   all state of a job, in an order that knows no tables
//! request     what others ask of it, and its answers
//! place       where a savepoint may be asked to go
//! ```
//!
//! Nothing here reads or writes a file: the layouts work on byte slices, so
//! that the engine, a scrubber and a command-line tool share them.
//!
//! Common to all layouts:
//!
//! - Integers are little-endian. Every file has a magic number and a version.
//!   An unknown version is [`Incompatible`](crate::base::ErrorKind::Incompatible),
//!   everything else that does not decode is
//!   [`Corrupt`](crate::base::ErrorKind::Corrupt).
//! - Decoders take any bytes: sums are checked, counts are bounded by the bytes
//!   that are there, and what is allocated is bounded by the input, except that
//!   one compressed block may grow to [`frame::MAX_COMPRESSED_RAW_BYTES`].
//! - Reserved bytes are written as zero and must be zero.

pub mod block;
pub mod canonical;
pub mod checkpoint;
pub mod collection;
pub mod envelope;
pub mod filter;
pub mod frame;
pub mod handle;
pub mod index;
pub mod journal;
pub mod manifest;
pub mod operator_state;
pub mod page_sums;
pub mod place;
mod promise;
pub mod properties;
pub mod request;
pub mod table;

pub use checkpoint::{Checkpoint, CheckpointKind, ShardAck, ShardCosts, ShardPart, StoredFile};
pub use collection::Placement;
pub use frame::Compression;
pub use handle::SnapshotHandle;
pub use journal::{Borrowed, CheckpointRef, JournalEntry, Outcome, Pin, SavepointRef};
pub use manifest::{Manifest, StateKind, StateMeta, TableRef, TtlMeta};
pub use operator_state::{Items, OperatorPart, OperatorState, OperatorStateMode};
pub use place::check_place;
pub use request::{Action, Answer, Request};
pub use table::TableMeta;

// Lengths from files are at most 32 bits wide and are added up in `usize`.
const _: () = assert!(size_of::<usize>() >= 8, "alluvium needs a 64-bit address space");
