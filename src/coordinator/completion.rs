//! How a checkpoint that is under way ends: complete, or given up.
//!
//! Whatever is decided is written into the journal first. All else follows from comparing
//! the last entry with the one before ([`absorb`](Coordinator::absorb)), so that an entry
//! whose outcome was in doubt has the same consequences as any other.

use super::objects::{self, Created};
use super::pending::Pending;
use super::registry::{Holder, Released};
use super::{Coordinator, Event, SavepointSchedule};
use crate::base::{Error, Result, SnapshotId};
use crate::format::checkpoint::{Checkpoint, CheckpointKind, ShardAck};
use crate::format::journal::{CheckpointRef, JournalEntry, MAX_TEXT_BYTES, SavepointRef};
use crate::object::Contents;

impl Coordinator {
    /// What another coordinator has to do with ends this one; the rest is tried again.
    pub(super) fn unless_fenced(&self, error: Error, what: &'static str) -> Result<()> {
        if self.journal.is_fenced() {
            return Err(error);
        }
        tracing::warn!(job = self.layout.root(), %error, "{what}");
        Ok(())
    }

    /// Gives up a checkpoint that is under way, unless it may be complete.
    pub(super) fn give_up(&mut self, id: SnapshotId, mut reason: String, is_failure: bool) {
        // What an entry in doubt says is complete may be so. Whoever took over knows what
        // is: nobody must be told here that it was given up.
        if self.journal.is_fenced() || self.journal.may_have(id) {
            return;
        }
        let Some(pending) = self.pending.remove(&id) else { return };
        cut(&mut reason, MAX_TEXT_BYTES);
        if reason.is_empty() {
            "no reason was given".clone_into(&mut reason);
        }
        let now_ns = self.env.monotonic_ns();
        self.outcomes.push(pending.outcome(now_ns, Some(reason.clone())));
        let released = self.registry.release(&Holder::Pending(id));
        self.garbage.add_loose(id, released);
        self.let_loose_go();
        if pending.meta_written {
            self.garbage.add_trash(self.layout.checkpoint(id, self.epoch()).as_str());
        }
        self.stopping &= pending.barrier.stop.is_none();
        self.clock.end_ns = Some(now_ns);
        tracing::warn!(job = self.layout.root(), checkpoint = id.0, reason, "checkpoint given up");
        self.events.push_back(Event::Aborted { id, reason });
        if is_failure && pending.barrier.kind == CheckpointKind::Checkpoint {
            self.failures += 1;
            if self.failures > self.settings.tolerable_failures {
                self.events.push_back(Event::TooManyFailures(self.failures));
            }
        }
    }

    /// Completes what all shards have acknowledged, the newest first: it makes older
    /// checkpoints needless.
    pub(super) fn try_to_complete(&mut self) -> Result<()> {
        if let Err(error) = self.settle() {
            return self.unless_fenced(error, "the journal cannot be written");
        }
        let ready: Vec<_> =
            self.pending.values().filter(|p| p.is_ready()).map(Pending::id).collect();
        for id in ready.into_iter().rev() {
            let is_own = self.pending.get(&id).is_some_and(|pending| pending.place.is_none());
            if let Err(error) = self.complete(id) {
                self.unless_fenced(error, "a checkpoint could not be completed yet")?;
                // Another store that fails holds up nothing in this one.
                if is_own {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn complete(&mut self, id: SnapshotId) -> Result<()> {
        if self.complete_placed(id)? {
            return Ok(());
        }
        let Some(pending) = self.pending.get_mut(&id) else { return Ok(()) };
        let checkpoint = pending.checkpoint(&self.seen.job);
        pending.meta_written = true;
        let reference = self.write_metadata(&checkpoint)?;
        let Some(pending) = self.pending.get(&id) else { return Ok(()) };
        let stops = pending.barrier.stop.is_some();
        let mut outcome = pending.outcome(self.env.monotonic_ns(), None);
        outcome.bytes_new = outcome.bytes_new.saturating_add(reference.bytes);
        outcome.bytes_total = outcome.bytes_total.saturating_add(reference.bytes);
        let kind = checkpoint.kind;
        let completed_unix_ms = checkpoint.completed_unix_ms;
        let (retained, base) = (self.settings.retained, self.base.clone());
        let schedule = self.settings.savepoints.clone();
        self.append(move |entry| {
            entry.outcomes.push(outcome);
            if let CheckpointKind::Savepoint(name) = &kind {
                let savepoint = SavepointRef {
                    name: name.clone(),
                    created_unix_ms: completed_unix_ms,
                    checkpoint: reference.clone(),
                };
                entry.add_savepoint(savepoint);
                if let Some(schedule) = schedule {
                    dispose_of_old(entry, &schedule);
                }
            }
            if kind == CheckpointKind::Checkpoint || stops {
                entry.add_checkpoint(reference.clone());
                entry.resume = Some(reference);
                let base = base.filter(|base| entry.checkpoints.contains(base));
                entry.checkpoints.retain(|kept| Some(kept) != base.as_ref());
                retire_all_but(entry, retained);
                if let Some(base) = base {
                    entry.add_checkpoint(base);
                }
            }
        })
    }

    /// Writes the metadata of a checkpoint of this epoch.
    ///
    /// # Errors
    /// `Invalid` if it breaks a promise of its format, `Corrupt` if other metadata is in
    /// its place, `Unavailable` if the store fails.
    pub(super) fn write_metadata(&self, checkpoint: &Checkpoint) -> Result<CheckpointRef> {
        let (id, epoch) = (checkpoint.id, checkpoint.epoch);
        let bytes = checkpoint.encode()?;
        let name = self.layout.checkpoint(id, epoch);
        let created = objects::create(&*self.store, &name, &bytes);
        if let Created::Others(_) = created.map_err(|error| error.at(&name))? {
            return Err(Error::corrupt("the metadata of a new checkpoint is there already")
                .at(&name)
                .remedy("find out who else writes into this folder of the store"));
        }
        let Contents { bytes, hash } = Contents::of(&bytes);
        Ok(CheckpointRef { id, epoch, location: name.as_str().to_owned(), bytes, hash })
    }

    /// Writes a change of the journal, and does what follows from it.
    pub(super) fn append(&mut self, change: impl FnOnce(&mut JournalEntry)) -> Result<()> {
        self.settle()?;
        let history = self.settings.history;
        let outcomes = self.outcomes.clone();
        let written = outcomes.len();
        let next_id = self.next_id;
        let appended = self.journal.append(|entry| {
            entry.next_id = entry.next_id.max(next_id);
            entry.outcomes.extend(outcomes);
            change(entry);
            let over = entry.outcomes.len().saturating_sub(history);
            entry.outcomes.drain(..over);
        });
        if appended.is_ok() || self.journal.is_in_doubt() {
            // They are in the entry, which is written or will be.
            self.outcomes.drain(..written);
        }
        self.absorb();
        appended
    }

    /// Finds out what came of an entry in doubt.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.journal.settle()?;
        self.absorb();
        Ok(())
    }

    /// Does what follows from the last journal entry.
    pub(super) fn absorb(&mut self) {
        let last = self.journal.last().clone();
        if last.number == self.seen.number {
            return;
        }
        let before = std::mem::replace(&mut self.seen, last);
        let new: Vec<_> = self
            .seen
            .kept()
            .filter(|kept| kept.epoch == self.seen.epoch)
            .filter(|kept| !before.kept().any(|other| other == *kept))
            .cloned()
            .collect();
        for reference in new {
            self.completed(&reference);
        }
        let retired: Vec<_> =
            self.seen.retired.iter().filter(|r| !before.retired.contains(r)).cloned().collect();
        self.garbage.retire(retired);
    }

    /// A checkpoint is in the journal.
    pub(super) fn completed(&mut self, reference: &CheckpointRef) {
        let id = reference.id;
        let Some(pending) = self.pending.remove(&id) else { return };
        let holder = Holder::Completed(reference.location.clone());
        self.registry.hand_over(&Holder::Pending(id), holder.clone());
        self.registry.hold(&holder, [(&*reference.location, reference.bytes)]);
        self.completed.insert(id);
        self.let_loose_go();
        self.clock.end_ns = Some(self.env.monotonic_ns());
        match pending.barrier.kind {
            CheckpointKind::Savepoint(name) if pending.barrier.stop.is_some() => {
                self.subsume(id);
                self.events.push_back(Event::Stopped { id, name });
            }
            CheckpointKind::Savepoint(name) => {
                self.events.push_back(Event::SavepointCompleted { id, name });
            }
            CheckpointKind::Checkpoint => {
                self.failures = 0;
                self.subsume(id);
                self.events.push_back(Event::Completed(id));
            }
        }
    }

    /// Gives up checkpoints that were begun before one that is complete.
    pub(super) fn subsume(&mut self, completed: SnapshotId) {
        let older: Vec<_> = self
            .pending
            .range(..completed)
            .filter(|(_, pending)| pending.barrier.kind == CheckpointKind::Checkpoint)
            .map(|(id, _)| *id)
            .collect();
        for id in older {
            self.give_up(id, format!("checkpoint {completed} was completed before it"), false);
        }
    }

    /// Takes note of the files of a snapshot whose checkpoint is over.
    pub(super) fn look_after(&mut self, id: SnapshotId, ack: &ShardAck) {
        let unknown = ack.files.iter().filter(|file| !self.registry.is_held(&file.location));
        let unknown: Vec<_> = unknown
            .map(|file| Released { location: (&*file.location).into(), bytes: file.bytes })
            .collect();
        self.garbage.add_loose(id, unknown);
        self.let_loose_go();
    }

    /// The newest checkpoint of this epoch that is complete and older than all that are
    /// under way: what it does not need, and nobody else holds, will not be named again.
    pub(super) fn horizon(&self) -> Option<SnapshotId> {
        let newest = match self.pending.keys().next() {
            Some(oldest) => self.completed.range(..oldest).next_back(),
            None => self.completed.last(),
        };
        newest.copied()
    }

    pub(super) fn let_loose_go(&mut self) {
        if let Some(horizon) = self.horizon() {
            self.completed = self.completed.split_off(&horizon);
            self.garbage.let_go_before(horizon);
        }
    }
}

/// Retires the oldest checkpoints until so many are left.
pub(super) fn retire_all_but(entry: &mut JournalEntry, retained: usize) {
    let over = entry.checkpoints.len().saturating_sub(retained);
    for gone in entry.checkpoints.drain(..over).collect::<Vec<_>>() {
        // As a savepoint it stays.
        if !entry.kept().any(|kept| kept.location == gone.location) {
            entry.retired.push(gone);
        }
    }
}

/// Disposes of the oldest savepoints of a schedule until so many are left.
fn dispose_of_old(entry: &mut JournalEntry, schedule: &SavepointSchedule) {
    let is_of_schedule = |savepoint: &&SavepointRef| {
        let rest = savepoint.name.strip_prefix(&schedule.prefix);
        rest.is_some_and(|rest| rest == savepoint.checkpoint.id.to_string())
    };
    let mut ids: Vec<_> =
        entry.savepoints.iter().filter(is_of_schedule).map(|s| s.checkpoint.id).collect();
    ids.sort_unstable();
    ids.truncate(ids.len().saturating_sub(schedule.retained));
    for id in ids {
        let resume = entry.resume.as_ref().map(|resume| resume.id);
        let at = entry.savepoints.iter().position(|s| is_of_schedule(&s) && s.checkpoint.id == id);
        if let Some(at) = at
            && resume != Some(id)
        {
            let gone = entry.savepoints.remove(at).checkpoint;
            if !entry.kept().any(|kept| kept.location == gone.location) {
                entry.retired.push(gone);
            }
        }
    }
}

/// Shortens a text to at most so many bytes, between characters.
pub(super) fn cut(text: &mut String, most: usize) {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}
