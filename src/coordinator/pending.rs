//! A checkpoint that is under way: who has acknowledged it, and who has not.

use std::collections::BTreeMap;

use super::placed::Place;
use super::{Barrier, Participant};
use crate::base::{KeyGroup, SnapshotId};
use crate::format::checkpoint::{Checkpoint, CheckpointKind, ShardAck};
use crate::format::journal::Outcome;

/// Names a shard of a job.
pub(super) type ShardKey = (String, KeyGroup);

pub(super) fn key_of(ack: &ShardAck) -> ShardKey {
    (ack.part.handle.operator().to_owned(), ack.part.handle.groups().first())
}

/// See the [module documentation](self).
pub(super) struct Pending {
    pub(super) barrier: Barrier,
    /// If it goes elsewhere than into the job's store.
    pub(super) place: Option<Place>,
    pub(super) triggered_unix_ms: u64,
    pub(super) triggered_ns: u64,
    /// When the last shard acknowledged it.
    completed_unix_ms: u64,
    acks: BTreeMap<ShardKey, ShardAck>,
    missing: usize,
    /// The runtime's data.
    runtime: Vec<u8>,
    /// Its metadata may be in the store.
    pub(super) meta_written: bool,
}

/// What an acknowledgement changed.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Counted {
    /// One shard less is missing.
    Yes,
    /// The shard had acknowledged it already.
    Again,
    /// No shard of the job has these key groups.
    NoShard,
}

impl Pending {
    pub(super) fn new(
        barrier: Barrier,
        place: Option<Place>,
        shards: usize,
        triggered_unix_ms: u64,
        triggered_ns: u64,
    ) -> Self {
        Self {
            barrier,
            place,
            triggered_unix_ms,
            triggered_ns,
            completed_unix_ms: 0,
            acks: BTreeMap::new(),
            missing: shards,
            runtime: Vec::new(),
            meta_written: false,
        }
    }

    pub(super) fn id(&self) -> SnapshotId {
        self.barrier.id
    }

    /// Whether it is of this kind, and goes into the job's store.
    pub(super) fn is_own(&self, kind: &CheckpointKind) -> bool {
        self.place.is_none() && self.barrier.kind == *kind
    }

    /// Counts the acknowledgement of a shard.
    pub(super) fn add(
        &mut self,
        ack: ShardAck,
        participants: &[Participant],
        now_unix_ms: u64,
    ) -> Counted {
        if !participants.iter().any(|shard| shard.is_of(&ack.part.handle)) {
            return Counted::NoShard;
        }
        let key = key_of(&ack);
        if self.acks.contains_key(&key) {
            return Counted::Again;
        }
        self.acks.insert(key, ack);
        self.missing -= 1;
        if self.missing == 0 {
            self.completed_unix_ms = now_unix_ms;
        }
        Counted::Yes
    }

    pub(super) fn set_runtime_data(&mut self, data: Vec<u8>) {
        self.runtime = data;
    }

    /// Whether every shard has acknowledged it.
    pub(super) fn is_ready(&self) -> bool {
        self.missing == 0
    }

    /// Of how many shards nothing was heard.
    pub(super) fn missing(&self) -> usize {
        self.missing
    }

    /// What it becomes when all have acknowledged it.
    pub(super) fn checkpoint(&self, job: &str) -> Checkpoint {
        Checkpoint {
            id: self.barrier.id,
            epoch: self.barrier.epoch,
            job: job.to_owned(),
            kind: self.barrier.kind.clone(),
            mode: self.barrier.mode,
            triggered_unix_ms: self.triggered_unix_ms,
            completed_unix_ms: self.completed_unix_ms,
            // Ascending by operator and groups, as the keys are.
            shards: self.acks.values().map(|ack| ack.part.clone()).collect(),
            runtime: self.runtime.clone(),
        }
    }

    /// What came of it, at this time on the clock that never goes back.
    pub(super) fn outcome(&self, now_ns: u64, failure: Option<String>) -> Outcome {
        let mut outcome = Outcome {
            id: self.barrier.id,
            epoch: self.barrier.epoch,
            kind: self.barrier.kind.clone(),
            mode: self.barrier.mode,
            triggered_unix_ms: self.triggered_unix_ms,
            duration_ms: now_ns.saturating_sub(self.triggered_ns) / 1_000_000,
            pause_ns: 0,
            bytes_new: 0,
            bytes_total: 0,
            failure,
        };
        for ack in self.acks.values() {
            outcome.pause_ns = outcome.pause_ns.max(ack.part.costs.pause_ns);
            let costs = &ack.part.costs;
            outcome.bytes_new = outcome.bytes_new.saturating_add(costs.bytes_new);
            outcome.bytes_total = outcome.bytes_total.saturating_add(costs.bytes_total);
        }
        outcome
    }
}
