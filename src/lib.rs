//! Alluvium keeps the state of stream processors.

pub mod backend;
pub mod base;
pub mod codec;
pub mod env;
pub mod format;
mod memtable;
pub mod object;
mod restore;
mod shard;
mod snapshot;
pub mod state;
pub mod table;
mod version;

pub use crate::backend::{Backend, BackendBuilder, Shard, ShardBuilder, ShardStats};
pub use crate::base::{
    Error, ErrorKind, KeyGroup, KeyGroupRange, MaxParallelism, Result, SnapshotId,
};
pub use crate::codec::KeyRef;
pub use crate::format::SnapshotHandle;
pub use crate::memtable::ValueMut;
pub use crate::shard::store::{KeyedStore, StateId, StateSpec};
pub use crate::snapshot::sink::{SnapshotSink, SnapshotSource, StoreSink, TableUpload};
pub use crate::snapshot::ticket::{
    SnapshotPhase, SnapshotProgress, SnapshotReport, SnapshotTicket,
};
pub use crate::state::ValueState;
