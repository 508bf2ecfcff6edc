//! What workers say to each other beside the records.

use serde::{Deserialize, Serialize};

/// One message. It travels in a dataflow of its own, to the worker that it is addressed
/// to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Mail {
    /// From the master to every worker.
    Order(Order),
    /// From a worker to the master.
    Report(Report),
    /// From one process to another: it is there.
    Beat {
        /// The number of the process that says so.
        process: usize,
    },
}

/// How the barrier of a checkpoint ends the job, if it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Stop {
    /// It goes on.
    No,
    /// Timers that are not due stay.
    Suspend,
    /// Event time comes to its end first.
    Drain,
}

/// The barrier of one checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Trigger {
    /// Number of the checkpoint.
    pub(crate) id: u64,
    /// Which life of the coordinator asks.
    pub(crate) life: u64,
    pub(crate) stop: Stop,
    /// Whether its snapshots share no file with those before.
    pub(crate) is_full: bool,
    /// Where its snapshots go, if that is not the job's store.
    pub(crate) place: Option<String>,
}

/// What the master says. Every worker hears the same, in the same order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first: what the job goes on from.
    Start(Start),
    /// A checkpoint begins.
    Trigger(Trigger),
    /// All workers have let a barrier pass.
    AllPassed(u64),
    /// A checkpoint is complete.
    Completed(u64),
    /// A checkpoint was given up.
    Aborted(u64),
    /// The last checkpoint is complete: say when all that follows from it is done.
    Settle,
    /// The job is over. `savepoint` is that with which it was stopped, if it was.
    Finish { checkpoint: Option<u64>, savepoint: Option<String> },
    /// The job has failed.
    Fail(Failure),
}

/// What a process has to know before it can open its shards.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// Which life of the coordinator this is.
    pub(crate) life: u64,
    /// Where snapshots of this life go in the store.
    pub(crate) folder: String,
    /// The encoded metadata of the checkpoint to go on from.
    pub(crate) checkpoint: Option<Vec<u8>>,
}

/// What a worker says to the master.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The worker has built its dataflow.
    Ready { worker: u64, plan: Plan },
    /// The worker has let the barrier of a checkpoint pass everywhere.
    Passed { worker: u64, id: u64 },
    /// The worker has done all that follows from the last checkpoint.
    Settled,
    /// Where the source of a worker was at a barrier.
    Positions { source: String, id: u64, splits: Vec<(u32, Position)> },
    /// A snapshot is durable; an encoded `ShardAck`.
    Acknowledged { id: u64, ack: Vec<u8> },
    /// A shard reads what it was restored from no more.
    Independent,
    /// A shard cannot take part.
    Declined { operator: String, worker: u64, id: u64, reason: String },
    /// The parts that a sink of a worker has to commit with this checkpoint.
    Prepared { sink: String, id: u64, parts: Vec<Part> },
    /// The source of a worker has come to its end.
    Exhausted,
    /// Something failed that ends the job.
    Failed(Failure),
}

/// An error on its way to another process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: u8,
    pub(crate) text: String,
}

/// What a worker has built; all must have built the same.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Names of the operators with a shard.
    pub(crate) operators: Vec<String>,
    /// Names of the sources, how many splits they have, and their fingerprints.
    pub(crate) sources: Vec<(String, u32, u64)>,
    /// Names of the sinks, and their directories.
    pub(crate) sinks: Vec<(String, String)>,
}

/// How far one split of a source had been read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Where to go on.
    pub(crate) at: u64,
    /// The latest event time that was read, from which the watermark follows.
    pub(crate) latest: i64,
    /// It has been read to its end.
    pub(crate) ended: bool,
}

/// A file that is written and not committed: its name now, and when it counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) pending: String,
    pub(crate) committed: String,
}

impl Failure {
    pub(crate) fn of(error: &alluvium::Error) -> Self {
        use alluvium::ErrorKind::{Closed, Corrupt, Incompatible, Internal, Invalid, Unavailable};
        let kind = match error.kind() {
            Invalid => 1,
            Incompatible => 2,
            Corrupt => 3,
            Closed => 4,
            Internal => 5,
            Unavailable => 0,
            _ => 0,
        };
        Self { kind, text: error.to_string() }
    }

    pub(crate) fn to_error(&self) -> alluvium::Error {
        use alluvium::ErrorKind::{Closed, Corrupt, Incompatible, Internal, Invalid, Unavailable};
        let kinds = [Unavailable, Invalid, Incompatible, Corrupt, Closed, Internal];
        let kind = kinds.get(usize::from(self.kind)).copied().unwrap_or(Unavailable);
        alluvium::Error::new(kind, &self.text)
    }
}
