//! What a runtime and its coordinator say to each other.

use crate::base::{SnapshotId, SnapshotMode};
use crate::format::checkpoint::{CheckpointKind, ShardAck, ShardCosts, ShardPart};
use crate::snapshot::ticket::SnapshotReport;

/// How a job ends with a savepoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopMode {
    /// It may go on from it later: timers that are not due stay.
    Suspend,
    /// It is over: the runtime lets event time come to its end before the barrier, so
    /// that all windows fire.
    Drain,
}

/// What the runtime sends through its shards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Barrier {
    /// The number for [`Shard::snapshot_as`](crate::Shard::snapshot_as).
    pub id: SnapshotId,
    /// Goes into the acknowledgement.
    pub epoch: u64,
    /// Checkpoint or savepoint.
    pub kind: CheckpointKind,
    /// The mode for [`Shard::snapshot_as`](crate::Shard::snapshot_as).
    pub mode: SnapshotMode,
    /// The job is to stop with it, in this way: its sources emit nothing after it.
    pub stop: Option<StopMode>,
    /// The snapshots go there, with [`Shard::snapshot_to`](crate::Shard::snapshot_to), and
    /// not into the job's store: see
    /// [`savepoint_into`](super::Coordinator::savepoint_into).
    pub place: Option<String>,
}

/// What the runtime is told.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Send this barrier to all shards.
    Trigger(Barrier),
    /// A checkpoint is complete: tell the shards
    /// ([`notify_complete`](crate::Shard::notify_complete)), and let sinks commit what
    /// belongs to it.
    Completed(SnapshotId),
    /// A savepoint is complete. Shards and sinks are not told: it may be disposed of,
    /// and the job does not go on from it.
    SavepointCompleted {
        /// Its number.
        id: SnapshotId,
        /// Its name.
        name: String,
    },
    /// The savepoint with which the job was to stop is complete: sinks commit, shards
    /// are closed, and the coordinator has nothing more to do.
    Stopped {
        /// Its number.
        id: SnapshotId,
        /// Its name.
        name: String,
    },
    /// A checkpoint was given up: tell the shards
    /// ([`notify_aborted`](crate::Shard::notify_aborted)).
    Aborted {
        /// Its number.
        id: SnapshotId,
        /// Why.
        reason: String,
    },
    /// More checkpoints failed one after the other than is tolerated: let the job fail,
    /// and restore it.
    TooManyFailures(usize),
}

/// What became of an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledged {
    /// It was counted.
    Counted,
    /// The shard had acknowledged that checkpoint before.
    Duplicate,
    /// The checkpoint is over, or was never begun. Its files are looked after.
    Late,
    /// It is of another epoch, that of a shard which should not be there any more.
    Foreign,
}

impl ShardAck {
    /// What a shard says in answer to a barrier of this epoch, when its snapshot is
    /// durable.
    pub fn of(epoch: u64, report: &SnapshotReport) -> Self {
        let costs = ShardCosts {
            pause_ns: report.pause_ns,
            duration_ns: report.duration_ns,
            bytes_new: report.bytes_new,
            bytes_total: report.bytes_total,
            records_new: report.records_new,
        };
        let part = ShardPart { handle: report.handle.clone(), costs };
        Self { epoch, part, files: report.files.to_vec() }
    }
}
