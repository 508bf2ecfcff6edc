//! When checkpoints begin, and when they have taken too long.

use super::pending::Pending;
use super::placed::Place;
use super::registry::Holder;
use super::{Barrier, Coordinator, Event, StopMode};
use crate::base::{Error, Result, SnapshotId, SnapshotMode};
use crate::format::checkpoint::CheckpointKind;

/// When something was done last, on the clock that never goes back.
pub(super) struct Clock {
    pub(super) trigger_ns: u64,
    pub(super) end_ns: Option<u64>,
    pub(super) savepoint_ns: u64,
}

impl Clock {
    pub(super) fn new(now_ns: u64) -> Self {
        Self { trigger_ns: now_ns, end_ns: None, savepoint_ns: now_ns }
    }
}

impl Coordinator {
    pub(super) fn begin(
        &mut self,
        kind: CheckpointKind,
        mode: SnapshotMode,
        stop: Option<StopMode>,
    ) -> Result<SnapshotId> {
        self.begin_into(kind, mode, stop, None)
    }

    pub(super) fn begin_into(
        &mut self,
        kind: CheckpointKind,
        mode: SnapshotMode,
        stop: Option<StopMode>,
        place: Option<Place>,
    ) -> Result<SnapshotId> {
        self.settle()?;
        self.check_may_begin(mode)?;
        // Numbers are told in the journal before they are used, some at a time: the
        // coordinator after this one must not use one again.
        const RESERVED: u64 = 16;
        let id = self.next_id;
        if id >= self.journal.last().next_id {
            self.append(|entry| entry.next_id = SnapshotId(id.0 + RESERVED))?;
        }
        self.next_id = SnapshotId(id.0 + 1);
        let barrier = Barrier {
            id,
            epoch: self.epoch(),
            kind,
            mode,
            stop,
            place: place.as_ref().map(|place| place.name.clone()),
        };
        let now_ns = self.env.monotonic_ns();
        let now_unix_ms = self.env.unix_time_ms();
        let shards = self.participants.len();
        let mut pending = Pending::new(barrier.clone(), place, shards, now_unix_ms, now_ns);
        for ack in self.finished.values() {
            pending.add(ack.clone(), &self.participants, now_unix_ms);
            let files = ack.files.iter().map(|file| (&*file.location, file.bytes));
            self.registry.hold(&Holder::Pending(id), files);
        }
        self.pending.insert(id, pending);
        self.events.push_back(Event::Trigger(barrier));
        Ok(id)
    }

    /// Refuses a checkpoint of this mode if none can be begun now.
    pub(super) fn check_may_begin(&self, mode: SnapshotMode) -> Result<()> {
        if self.participants.is_empty() || self.stopping {
            let what = if self.stopping { "the job is being stopped" } else { "no shards yet" };
            return Err(Error::invalid("no checkpoint can be begun").at(what));
        }
        if mode == SnapshotMode::Full
            && let Some((operator, first)) = self.finished.keys().next()
        {
            return Err(Error::invalid("a shard that has come to its end takes no full snapshot")
                .at(format_args!("the shard of {operator:?} that begins with {first}"))
                .remedy(
                    "take an incremental one, and copy the completed checkpoint by an export",
                ));
        }
        Ok(())
    }

    pub(super) fn trigger_what_is_due(&mut self) -> Result<()> {
        if self.participants.is_empty() || self.stopping {
            return Ok(());
        }
        let now_ns = self.env.monotonic_ns();
        let passed = |since_ns: u64, ms: u64| now_ns.saturating_sub(since_ns) / 1_000_000 >= ms;
        if let Some(schedule) = self.settings.savepoints.clone()
            && passed(self.clock.savepoint_ns, schedule.interval_ms)
        {
            let name = format!("{}{}", schedule.prefix, self.next_id);
            match self.savepoint(&name) {
                Ok(_) => self.clock.savepoint_ns = now_ns,
                // Somebody may have taken its name; with the next checkpoint it is another.
                Err(error) => self.unless_fenced(error, "no savepoint could be begun")?,
            }
        }
        let under_way = |pending: &&Pending| pending.barrier.kind == CheckpointKind::Checkpoint;
        let is_free =
            self.pending.values().filter(under_way).count() < self.settings.max_concurrent;
        let rested = self.clock.end_ns.is_none_or(|end| passed(end, self.settings.min_pause_ms));
        if let Some(interval_ms) = self.settings.interval(self.catching_up)
            && is_free
            && rested
            && passed(self.clock.trigger_ns, interval_ms)
        {
            match self.trigger() {
                Ok(_) => self.clock.trigger_ns = now_ns,
                Err(error) => return self.unless_fenced(error, "no checkpoint could be begun"),
            }
        }
        Ok(())
    }

    pub(super) fn give_up_late_ones(&mut self) {
        let now_ns = self.env.monotonic_ns();
        let timeout_ms = self.settings.timeout_ms;
        let is_late = |pending: &&Pending| {
            now_ns.saturating_sub(pending.triggered_ns) / 1_000_000 >= timeout_ms
        };
        let late: Vec<_> = self
            .pending
            .values()
            .filter(is_late)
            .map(|pending| (pending.id(), pending.missing()))
            .collect();
        for (id, missing) in late {
            let reason = match missing {
                0 => format!("not written to the store within {timeout_ms} ms"),
                _ => format!("{missing} shards did not acknowledge it within {timeout_ms} ms"),
            };
            self.give_up(id, reason, true);
        }
    }
}
