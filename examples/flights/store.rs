//! Where the job meets Alluvium: one backend for the process, and for each
//! worker one shard with the three operators' states in it.

use std::path::Path;

use alluvium::base::hash::{group_of_hash, hash_key};
use alluvium::{
    Backend, Error, KeyGroup, KeyGroupRange, MaxParallelism, Result, Shard, SnapshotHandle,
    SnapshotId, SnapshotTicket, ValueState,
};

use super::aggregate::Aggregate;
use super::checkpoint_file::{CompletedCheckpoint, Costs, Position, ShardSnapshot};
use super::input::Outcome;

/// The name under which Alluvium knows the job's shards.
const SHARD_OPERATOR: &str = "flights";

/// What the flights are grouped by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Operator {
    Aircraft,
    Route,
    CarrierDay,
}

impl Operator {
    pub(crate) const ALL: [Self; 3] = [Self::Aircraft, Self::Route, Self::CarrierDay];

    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Aircraft => "aircraft",
            Self::Route => "route",
            Self::CarrierDay => "carrier and day",
        }
    }

    /// In snapshots: a restored shard finds its states by these names.
    const fn state_name(self) -> &'static str {
        match self {
            Self::Aircraft => "by-aircraft",
            Self::Route => "by-route",
            Self::CarrierDay => "by-carrier-day",
        }
    }
}

/// The key group that a shard will put the key into: the codec of a `String`
/// writes its UTF-8 bytes and nothing else, and those are hashed.
pub(crate) fn group_of_key(key: &str, max_parallelism: MaxParallelism) -> KeyGroup {
    group_of_hash(hash_key(key.as_bytes()), max_parallelism)
}

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
    ) -> Result<ShardStore> {
        let builder = self.backend.shard(SHARD_OPERATOR, groups);
        let mut shard = builder.restore(snapshots.iter().cloned()).open()?;
        let mut state =
            |operator: Operator| ValueState::register(&mut shard, operator.state_name());
        let states = OperatorStates {
            by_aircraft: state(Operator::Aircraft)?,
            by_carrier_day: state(Operator::CarrierDay)?,
            by_route: state(Operator::Route)?,
        };
        Ok(ShardStore { shard, states, key: String::new() })
    }
}

/// One worker's shard. It goes with its worker from thread to thread and is
/// never shared.
pub(crate) struct ShardStore {
    shard: Shard,
    states: OperatorStates,
    /// Keys arrive as slices of a batch; a typed state wants a `String`.
    key: String,
}

struct OperatorStates {
    by_aircraft: ValueState<String, Aggregate>,
    by_carrier_day: ValueState<String, Aggregate>,
    by_route: ValueState<String, Aggregate>,
}

impl OperatorStates {
    fn of(&self, operator: Operator) -> &ValueState<String, Aggregate> {
        match operator {
            Operator::Aircraft => &self.by_aircraft,
            Operator::Route => &self.by_route,
            Operator::CarrierDay => &self.by_carrier_day,
        }
    }
}

impl ShardStore {
    /// Adds a flight to the aggregate of its key, which begins empty.
    pub(crate) fn update(
        &mut self,
        operator: Operator,
        key: &str,
        outcome: &Outcome,
    ) -> Result<()> {
        key.clone_into(&mut self.key);
        self.states.of(operator).update(&mut self.shard, &self.key, |aggregate| {
            let mut aggregate = aggregate.unwrap_or(Aggregate::EMPTY);
            aggregate.apply(outcome);
            Some(aggregate)
        })
    }

    /// The aggregate of a key.
    pub(crate) fn get(&mut self, operator: Operator, key: &str) -> Result<Option<Aggregate>> {
        key.clone_into(&mut self.key);
        self.states.of(operator).get(&mut self.shard, &self.key)
    }

    /// Freezes the shard as it is at the barrier, which takes microseconds;
    /// the rest happens in the background.
    pub(crate) fn snapshot(&mut self, id: SnapshotId, position: Position) -> Result<Ticket> {
        self.shard.snapshot(id, &position.to_bytes()).map(Ticket)
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
