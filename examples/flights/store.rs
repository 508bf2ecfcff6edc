//! Where the job meets Alluvium: one backend for the process, and for each
//! worker one shard with the states of all operators in it.

use std::path::Path;

use alluvium::{
    Backend, Error, KeyGroupRange, MaxParallelism, Result, Shard, SnapshotHandle, SnapshotId,
    SnapshotTicket,
};

use super::checkpoint_file::{CompletedCheckpoint, Costs, Position, ShardSnapshot};
use super::departure::{Departure, KeyedBy};
use super::operators::{Context, Operators};
use super::results::{Part, Results};
use super::rules::Rules;
use super::time::EventTime;

/// The name under which Alluvium knows the job's shards.
const SHARD_OPERATOR: &str = "flights";

/// The state of this process.
pub(crate) struct Store {
    backend: Backend,
}

impl Store {
    /// Opens Alluvium with its working files in `dir` and its snapshots in
    /// `snapshots`. The working files of a killed process are removed; its lock
    /// on `dir` fell with it.
    pub(crate) fn open(
        dir: &Path,
        snapshots: &Path,
        max_parallelism: MaxParallelism,
    ) -> Result<Self> {
        let backend = Backend::builder(dir)
            .checkpoint_dir(snapshots)
            .max_parallelism(max_parallelism)
            .open()?;
        Ok(Self { backend })
    }

    /// The snapshots of a checkpoint, after a look at whether they belong
    /// together: each carries its number and the position of its barrier, and
    /// both must be those that the job has recorded.
    ///
    /// # Errors
    /// `Corrupt` if they are not, or a handle or manifest is damaged.
    pub(crate) fn snapshots_of(
        &self,
        checkpoint: &CompletedCheckpoint,
    ) -> Result<Vec<SnapshotHandle>> {
        let mut handles = Vec::with_capacity(checkpoint.shards.len());
        for (index, shard) in checkpoint.shards.iter().enumerate() {
            let handle = SnapshotHandle::decode(&shard.handle)
                .and_then(|handle| self.check_origin(&handle, checkpoint).map(|()| handle))
                .map_err(|e| e.at(format_args!("shard {index} of checkpoint {}", checkpoint.id)))?;
            handles.push(handle);
        }
        Ok(handles)
    }

    fn check_origin(
        &self,
        handle: &SnapshotHandle,
        checkpoint: &CompletedCheckpoint,
    ) -> Result<()> {
        let foreign = || {
            Error::corrupt("a snapshot does not belong to the checkpoint that names it")
                .remedy("restore the directory from a copy, or start the job anew")
        };
        if handle.snapshot() != checkpoint.id {
            return Err(foreign()
                .expected(format_args!("snapshot {}", checkpoint.id))
                .found(handle.snapshot()));
        }
        let position = Position::from_bytes(&self.backend.snapshot_meta(handle)?)?;
        if position != checkpoint.position {
            return Err(foreign()
                .expected(format_args!("one taken at {}", checkpoint.position))
                .found(format_args!("one taken at {position}")));
        }
        Ok(())
    }

    /// Opens the shard that owns `groups`: empty, or with its part of a
    /// checkpoint if there are `snapshots` of one.
    pub(crate) fn shard(
        &self,
        groups: KeyGroupRange,
        snapshots: &[SnapshotHandle],
        rules: &Rules,
        results: Results,
    ) -> Result<ShardStore> {
        let builder = self.backend.shard(SHARD_OPERATOR, groups);
        let mut shard = builder.restore(snapshots.iter().cloned()).open()?;
        let operators = Operators::register(&mut shard, rules)?;
        Ok(ShardStore {
            shard,
            operators,
            results,
            watermark: EventTime::START,
            key: String::new(),
        })
    }
}

/// One worker's shard, with what works on it. It goes with its worker from
/// thread to thread and is never shared.
pub(crate) struct ShardStore {
    pub(crate) shard: Shard,
    pub(crate) operators: Operators,
    results: Results,
    watermark: EventTime,
    /// Keys arrive as slices of a batch; a typed state wants a `String`.
    key: String,
}

impl ShardStore {
    /// Takes in a flight under one of its keys.
    pub(crate) fn process(&mut self, by: KeyedBy, key: &str, flight: &Departure) -> Result<()> {
        key.clone_into(&mut self.key);
        let mut context = Context {
            shard: &mut self.shard,
            watermark: self.watermark,
            results: &mut self.results,
        };
        self.operators.process(&mut context, by, &self.key, flight)
    }

    /// The watermark advances: fires what is due.
    pub(crate) fn advance(&mut self, watermark: EventTime) -> Result<()> {
        self.watermark = watermark;
        // What lives by event time ages. The end of the input is not the end of
        // time: nothing expires by it.
        if watermark < EventTime::END {
            self.shard.advance_watermark(watermark.milliseconds());
        }
        let mut context = Context { shard: &mut self.shard, watermark, results: &mut self.results };
        self.operators.advance(&mut context)
    }

    /// Freezes the shard as it is at the barrier, which takes microseconds, and
    /// closes the part of the results that belongs to it; the rest happens in
    /// the background.
    pub(crate) fn snapshot(
        &mut self,
        id: SnapshotId,
        position: Position,
    ) -> Result<(Ticket, Option<Part>)> {
        let ticket = self.shard.snapshot(id, &position.to_bytes()).map(Ticket)?;
        Ok((ticket, self.results.barrier(id)?))
    }

    /// The checkpoint is complete.
    pub(crate) fn notify_complete(&mut self, id: SnapshotId) {
        self.shard.notify_complete(id);
    }

    /// The checkpoint came to nothing.
    pub(crate) fn notify_aborted(&mut self, id: SnapshotId) {
        self.shard.notify_aborted(id);
    }
}

/// A snapshot under way.
pub(crate) struct Ticket(SnapshotTicket);

impl Ticket {
    /// Blocks until the snapshot is durable.
    pub(crate) fn wait(self) -> Result<ShardSnapshot> {
        let report = self.0.wait()?;
        Ok(ShardSnapshot {
            costs: Costs {
                pause_ns: report.pause_ns,
                duration_ns: report.duration_ns,
                bytes_new: report.bytes_new,
                bytes_total: report.bytes_total,
                records_new: report.records_new,
            },
            handle: report.handle.encode(),
        })
    }
}
