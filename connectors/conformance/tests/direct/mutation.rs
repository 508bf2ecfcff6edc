//! How a runtime can be broken, each in one place.

/// A fault of the runtime, built in on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutation {
    /// The sink commits at the barrier.
    CommitsEarly,
    /// It commits what belongs to a checkpoint that was given up.
    CommitsAborted,
    /// It writes that once more, beside what it had prepared.
    CommitsTwice,
    /// It commits when a snapshot is done, though its checkpoint was given up.
    CommitsLate,
    /// It commits what belongs to a savepoint.
    CommitsSavepoints,
    /// It commits when the coordinator was fenced, and nobody refuses.
    CommitsWhenFenced,
    /// It commits nothing when the job is stopped.
    StopsWithoutCommit,
    /// A restore does not look for what was prepared.
    RestoresNoTransactions,
    /// Sources begin at the beginning.
    IgnoresOffsets,
    /// The offset in a checkpoint is that of the next record.
    OffsetsAhead,
    /// Restored timers are dropped.
    ForgetsTimers,
    /// A timer that fires after a restore is handled twice.
    FiresTwice,
    /// A subtask that there was none of before begins empty.
    LosesShards,
    /// Records go by a hash of its own.
    OwnHash,
    /// The watermark is that of the fastest split.
    HastyWatermark,
    /// A savepoint is a checkpoint like any other.
    SubsumesSavepoints,
    /// State of operators that the job does not have is lost without a word.
    LosesUnknownState,
    /// If a checkpoint cannot be read, the job begins.
    BeginsAnew,
    /// Records stay in the process that has read them.
    StaysAtHome,
    /// A process that has died begins again with nothing, and the job goes on.
    RespawnsEmpty,
    /// A process restores its share of the snapshots, whichever key groups they have.
    RestoresOwnShare,
    /// A snapshot is taken at the first of two barriers.
    AlignsOnFirst,
    /// What comes after the first of two barriers does not wait for the second.
    DoesNotBlock,
    /// Of two inputs the faster one says what time it is.
    FasterInput,
}
