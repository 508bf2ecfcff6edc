//! Where the job meets Alluvium: one backend for the process, and for each
//! worker one shard with the states of all operators in it.

use std::path::Path;
use std::sync::Arc;

use alluvium::coordinator::{CheckpointSettings, Coordinator};
use alluvium::env::RealEnv;
use alluvium::format::Checkpoint;
use alluvium::object::{LocalStore, ObjectStore};
use alluvium::{
    Backend, Error, KeyGroupRange, MaxParallelism, Result, Shard, SnapshotHandle, SnapshotId,
    SnapshotMode, SnapshotReport, SnapshotTicket,
};

use super::departure::{Departure, KeyedBy};
use super::job_data::Position;
use super::operators::{Context, Operators};
use super::results::{Part, Results};
use super::rules::Rules;
use super::time::EventTime;

/// The name under which Alluvium knows the job.
pub(crate) const JOB: &str = "flights";
/// The name under which Alluvium knows the job's shards.
pub(crate) const SHARD_OPERATOR: &str = "flights";
/// The name of the savepoint that is taken on the way.
pub(crate) const SAVEPOINT: &str = "on-the-way";

/// Completed checkpoints that are kept.
const RETAINED_CHECKPOINTS: usize = 2;
/// Checkpoints that may fail one after the other before the job does.
const TOLERATED_FAILURES: usize = 3;

/// The directory in which checkpoints are.
pub(crate) fn object_store(dir: &Path) -> Result<Arc<dyn ObjectStore>> {
    Ok(Arc::new(LocalStore::open(Arc::new(RealEnv::new()), dir.to_owned())?))
}

/// Takes over the checkpoints of the job: a killed process that is not quite dead can
/// complete none any more.
pub(crate) fn coordinator(dir: &Path, interval_ms: u64) -> Result<Coordinator> {
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = Some(interval_ms);
    settings.retained = RETAINED_CHECKPOINTS;
    settings.tolerable_failures = TOLERATED_FAILURES;
    let owner = format!("process {}", std::process::id());
    Coordinator::builder(object_store(dir)?, JOB).settings(settings).owner(owner).open()
}

/// The state of this process.
pub(crate) struct Store {
    backend: Backend,
}

impl Store {
    /// Opens Alluvium with its working files in `dir` and its snapshots where the
    /// coordinator says. The working files of a killed process are removed; its lock
    /// on `dir` fell with it.
    pub(crate) fn open(
        dir: &Path,
        coordinator: &Coordinator,
        max_parallelism: MaxParallelism,
    ) -> Result<Self> {
        let sink = Arc::new(coordinator.sink());
        let backend = Backend::builder(dir)
            .sink(Arc::clone(&sink) as _)
            .source(sink)
            .max_parallelism(max_parallelism)
            .open()?;
        Ok(Self { backend })
    }

    /// The snapshots of a checkpoint, after a look at whether they belong
    /// together: each carries the position of its barrier, which must be the one that
    /// the job has kept with the checkpoint.
    ///
    /// # Errors
    /// `Corrupt` if they are not, or a manifest is damaged.
    pub(crate) fn snapshots_of(
        &self,
        checkpoint: &Checkpoint,
        position: Position,
    ) -> Result<Vec<SnapshotHandle>> {
        let handles = checkpoint.handles(SHARD_OPERATOR);
        for handle in &handles {
            let at = || format!("shard {} of checkpoint {}", handle.groups(), checkpoint.id);
            let found = self.backend.snapshot_meta(handle).and_then(|b| Position::from_bytes(&b));
            let found = found.map_err(|error| error.at(at()))?;
            if found != position {
                return Err(Error::corrupt(
                    "a snapshot does not belong to the checkpoint that names it",
                )
                .at(at())
                .expected(format_args!("one taken at {position}"))
                .found(format_args!("one taken at {found}"))
                .remedy("restore the directory from a copy, or start the job anew"));
            }
        }
        Ok(handles)
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
        mode: SnapshotMode,
        id: SnapshotId,
        position: Position,
    ) -> Result<(Ticket, Option<Part>)> {
        let ticket = self.shard.snapshot_as(mode, id, &position.to_bytes()).map(Ticket)?;
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
    pub(crate) fn wait(self) -> Result<SnapshotReport> {
        self.0.wait()
    }
}
