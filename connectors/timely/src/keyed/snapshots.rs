//! What an operator does at barriers: freezes its shard, follows the tickets, and says
//! what came of them. Nothing here waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use alluvium::format::ShardAck;
use alluvium::{
    Error, ErrorKind, Result, Shard, SnapshotId, SnapshotMode, SnapshotSink, SnapshotTicket,
};

use crate::control::Control;
use crate::control::mail::{Report, Trigger};

/// How often tickets are looked at.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Restored records that are brought into memory when a checkpoint is complete, beside
/// those that every operation brings.
const WARMED_AT_A_TIME: usize = 4096;

/// Where a snapshot goes.
enum To {
    /// Into the job's store.
    Own(SnapshotMode),
    /// Into another place.
    Elsewhere(Arc<dyn SnapshotSink>),
}

/// What a store has to do with checkpoints.
pub(super) struct Snapshots<S> {
    snapshot: fn(&mut S, To, SnapshotId) -> Result<SnapshotTicket>,
    complete: fn(&mut S, SnapshotId),
    is_independent: fn(&mut S) -> Result<bool>,
    aborted: fn(&mut S, SnapshotId),
    watermark: fn(&mut S, i64),
}

impl Snapshots<Shard> {
    pub(super) const OF_SHARD: Self = Self {
        snapshot: |shard, to, id| match to {
            To::Own(mode) => shard.snapshot_as(mode, id, b""),
            To::Elsewhere(sink) => shard.snapshot_to(sink, id, b""),
        },
        complete: Shard::notify_complete,
        // With a budget what it was restored from is part of the snapshot now.
        is_independent: |shard| {
            Ok(shard.warm_up(WARMED_AT_A_TIME)? || shard.stats().allowed_bytes > 0)
        },
        aborted: Shard::notify_aborted,
        watermark: Shard::advance_watermark,
    };
}

/// The snapshots of an operator's shard that are under way.
pub(super) struct UnderWay<S> {
    snapshots: Option<Snapshots<S>>,
    operator: String,
    tickets: VecDeque<(Trigger, SnapshotTicket)>,
    /// The checkpoint that it was restored from is not read any more.
    is_independent: bool,
}

impl<S> UnderWay<S> {
    pub(super) fn new(snapshots: Option<Snapshots<S>>, operator: String) -> Self {
        Self { snapshots, operator, tickets: VecDeque::new(), is_independent: false }
    }

    /// The barrier has come: freezes the store as it is. What cannot be written is
    /// declined; the job goes on.
    pub(super) fn begin(
        &mut self,
        store: &mut S,
        barrier: Trigger,
        control: &Control,
    ) -> Result<()> {
        let Some(snapshots) = &self.snapshots else { return Ok(()) };
        let to = match &barrier.place {
            Some(place) => To::Elsewhere(control.process.place(barrier.id, place)),
            None if barrier.is_full => To::Own(SnapshotMode::Full),
            None => To::Own(SnapshotMode::Incremental),
        };
        match (snapshots.snapshot)(store, to, SnapshotId(barrier.id)) {
            Ok(ticket) => {
                self.tickets.push_back((barrier, ticket));
                Ok(())
            }
            Err(error) if error.is_retryable() => {
                self.decline(barrier.id, &error, control);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Says what came of the snapshots that are over. True if there are others.
    pub(super) fn follow(&mut self, control: &Control) -> Result<bool> {
        while let Some((barrier, ticket)) = self.tickets.front() {
            let Some(outcome) = ticket.try_poll() else { return Ok(true) };
            match outcome {
                Ok(report) => {
                    let ack = ShardAck::of(barrier.life, &report).encode()?;
                    control.report(Report::Acknowledged { id: barrier.id, ack });
                }
                Err(error) if is_bearable(barrier, &error) => {
                    self.decline(barrier.id, &error, control);
                }
                Err(error) => return Err(error),
            }
            self.tickets.pop_front();
        }
        Ok(false)
    }

    fn decline(&self, id: u64, error: &Error, control: &Control) {
        control.report(Report::Declined {
            operator: self.operator.clone(),
            worker: control.index as u64,
            id,
            reason: error.to_string(),
        });
    }

    /// The checkpoint is complete.
    pub(super) fn complete(&mut self, store: &mut S, id: u64, control: &Control) -> Result<()> {
        let Some(snapshots) = &self.snapshots else { return Ok(()) };
        (snapshots.complete)(store, SnapshotId(id));
        if !self.is_independent && (snapshots.is_independent)(store)? {
            self.is_independent = true;
            control.report(Report::Independent);
        }
        Ok(())
    }

    /// The checkpoint was given up: what is still being written for it may stop.
    pub(super) fn abort(&self, store: &mut S, id: u64) {
        for (_, ticket) in self.tickets.iter().filter(|(barrier, _)| barrier.id == id) {
            ticket.cancel();
        }
        if let Some(snapshots) = &self.snapshots {
            (snapshots.aborted)(store, SnapshotId(id));
        }
    }

    /// Event time has come so far.
    pub(super) fn advance(&self, store: &mut S, watermark: i64) {
        if let Some(snapshots) = &self.snapshots {
            (snapshots.watermark)(store, watermark);
        }
    }
}

/// Whether a snapshot that failed is only declined. Damage that a savepoint into another
/// place meets is in that place, or for the next checkpoint that needs what is damaged.
fn is_bearable(barrier: &Trigger, error: &Error) -> bool {
    error.is_retryable() || (barrier.place.is_some() && error.kind() == ErrorKind::Corrupt)
}
