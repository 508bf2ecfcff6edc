//! Alluvium keeps the state of stream processors.
//!
//! The thread that works on a stream owns a shard and changes its records in
//! memory, in place. At a barrier the shard is frozen in constant time, and
//! background threads turn what changed into one table, hand it to a checkpoint
//! store and publish a manifest. There is no write-ahead log: what came after
//! the last checkpoint is replayed from the source.
//!
//! # A tour
//!
//! 1. Open a [`Backend`] on a directory. It holds what the shards of a process
//!    share: background threads, ready memory, a place for checkpoints.
//! 2. Open a [`Shard`] for a range of key groups
//!    ([`MaxParallelism::range_of_subtask`] computes it), empty or
//!    [restored](ShardBuilder::restore).
//! 3. Register states. [`ValueState`], [`ListState`], [`MapState`],
//!    [`ReducingState`] and [`AggregatingState`] are typed, through a
//!    [`Codec`](codec::Codec) for keys and one for values; [`KeyedStore`] is
//!    the level of bytes beneath them. [`Timers`] call back later, by event time
//!    or by the clock. [`OperatorListState`] and [`BroadcastState`] belong to the
//!    subtask instead of a key.
//!    What a state holds for a key may have a [time to live](Ttl).
//! 4. At a barrier call [`Shard::snapshot`], which returns a
//!    [`SnapshotTicket`] at once. Its [`SnapshotReport`] has the
//!    [`SnapshotHandle`] that restores the shard: keep it with those of the
//!    other shards, and say [`notify_complete`](Shard::notify_complete) when
//!    all are kept.
//! 5. To recover, or to run on another number of shards, give each new shard
//!    the handles of one checkpoint.
//!
//! ```
//! # fn main() -> alluvium::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! use alluvium::{Backend, SnapshotHandle, SnapshotId, ValueState};
//!
//! let backend = Backend::builder(dir.path()).open()?;
//! let max = backend.max_parallelism();
//!
//! // One shard counts to one, and takes a snapshot.
//! let mut shard = backend.shard("count", max.all_groups()).open()?;
//! let counts: ValueState<u64, u64> = ValueState::register(&mut shard, "counts")?;
//! for key in 0..100 {
//!     counts.update(&mut shard, &key, |count| Some(count.unwrap_or(0) + 1))?;
//! }
//! let handle = shard.snapshot(SnapshotId(1), b"offset 100")?.wait()?.handle;
//!
//! // Handles are bytes to whoever keeps them; two shards go on from this one.
//! let handle = SnapshotHandle::decode(&handle.encode())?;
//! assert_eq!(backend.snapshot_meta(&handle)?, b"offset 100");
//! let mut found = 0;
//! for index in 0..2 {
//!     let groups = max.range_of_subtask(index, 2)?;
//!     let mut shard = backend.shard("count", groups).restore([handle.clone()]).open()?;
//!     let counts: ValueState<u64, u64> = ValueState::register(&mut shard, "counts")?;
//!     for key in 0..100 {
//!         // The key of another shard is an error, never `None`.
//!         if let Ok(count) = counts.get(&mut shard, &key) {
//!             assert_eq!(count, Some(1));
//!             found += 1;
//!         }
//!     }
//! }
//! assert_eq!(found, 100);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! - Something failed: [`Error`] and [`ErrorKind`], which names the next step.
//! - A runtime to be connected, from key groups to sinks: the [`guide`].
//! - Checkpoints of a whole job, savepoints, forks: [`coordinator`]; savepoints that leave
//!   their store, and reading a checkpoint without a shard: [`savepoint`].
//! - A runtime with its own checkpoint files: [`SnapshotSink`] and
//!   [`SnapshotSource`].
//! - What keys and values may be: [`base::limits`]; how they become bytes, and
//!   what happens to yesterday's: [`codec`].
//! - A file that will not open: [`mod@format`] draws every layout,
//!   [`table::TableReader::verify`] checks a whole table.
//! - Tests that cut the power: [`env::sim`].
//! - How it works, and why so: `DESIGN.md` in the repository.

pub mod backend;
pub mod base;
pub mod codec;
pub mod coordinator;
pub mod env;
pub mod format;
#[doc = include_str!("guide.md")]
pub mod guide {}
mod memtable;
pub mod object;
mod restore;
pub mod savepoint;
mod shard;
mod snapshot;
pub mod state;
pub mod table;
mod version;

pub use crate::backend::{Backend, BackendBuilder, LocalDirStats, Shard, ShardBuilder, ShardStats};
pub use crate::base::{
    Error, ErrorKind, KeyGroup, KeyGroupRange, MaxParallelism, Result, SnapshotId, SnapshotMode,
    TimeDomain,
};
pub use crate::codec::KeyRef;
pub use crate::coordinator::Coordinator;
pub use crate::env::ledger::{MemoryComponent, MemoryStats};
pub use crate::format::{OperatorStateMode, SnapshotHandle, StateKind};
pub use crate::memtable::ValueMut;
pub use crate::shard::operator::store::{
    OperatorStateId, OperatorStateInfo, OperatorStateSpec, OperatorStore,
};
pub use crate::shard::rekey::{NewKey, OldCodecs, OldKey, Rename};
pub use crate::shard::stats::{LookupStats, Stall, Stalls, StateStats};
pub use crate::shard::store::{KeyedStore, StateId, StateInfo, StateSpec};
pub use crate::shard::timers::store::{TimerRef, TimerSpec, TimerStore, TimersId};
pub use crate::shard::ttl::{Ttl, TtlUpdate, TtlVisibility};
pub use crate::snapshot::sink::{SnapshotSink, SnapshotSource, StoreSink, TableUpload};
pub use crate::snapshot::ticket::{
    SnapshotPhase, SnapshotProgress, SnapshotReport, SnapshotTicket,
};
pub use crate::state::{
    Aggregate, AggregatingState, BroadcastState, ListState, MapState, OperatorListState,
    ReducingState, StateOptions, Timer, Timers, ValueState,
};
pub use crate::version::stats::{MergeStats, TableStateStats, TableStats};

/// The fuzzers' door to what is not public.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    /// Does what the bytes say with a list or a map in memory, beside a model.
    pub fn layouts(bytes: &[u8]) {
        crate::memtable::collection::model::run(bytes);
    }
}

/// The README's example, compiled and run with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// That of the design, compiled: the files that it reads are the reader's.
#[cfg(doctest)]
#[doc = include_str!("../DESIGN.md")]
struct Design;
