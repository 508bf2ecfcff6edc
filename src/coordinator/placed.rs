//! Savepoints that shards put straight into a folder of their own, outside the job's
//! store (see [`savepoint::native`](crate::savepoint::native)).
//!
//! Such a savepoint is none of the job's afterwards: the journal keeps its outcome and
//! nothing else, no file of it is counted, and nobody but its owner deletes it. What a
//! savepoint that was given up has left in its folder is its owner's, too
//! ([`dispose_leftovers`](crate::savepoint::NativeSavepoint::dispose_leftovers)).

use std::fmt;
use std::sync::Arc;

use super::{Coordinator, Event};
use crate::base::{Error, Result, SnapshotId, SnapshotMode};
use crate::format::checkpoint::{CheckpointKind, ShardAck, check_job_name};
use crate::format::journal::Outcome;
use crate::object::ObjectStore;
use crate::savepoint::native::{NativeSavepoint, not_in_folder};

/// Where a savepoint goes.
#[derive(Clone)]
pub(super) struct Place {
    /// What the shards know it by.
    pub(super) name: String,
    pub(super) store: Arc<dyn ObjectStore>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({:?}, {})", self.name, self.store.identity())
    }
}

impl Coordinator {
    /// Begins a savepoint that the shards put straight into another place: an empty
    /// store, or an empty [folder](crate::object::FolderStore) of one. It comes out
    /// self-contained there, as an export does
    /// ([`NativeSavepoint`]), without a copy in the
    /// job's store.
    ///
    /// `place` is for the shards, which may be on other machines: a URL, say. They find it
    /// in the [barrier](super::Barrier::place), open it, and answer with
    /// [`snapshot_to`](crate::Shard::snapshot_to) into its
    /// [sink](crate::savepoint::NativeSavepoint::sink). Each of them puts all its tables
    /// there, which costs the size of its state. `store` is the same place for this
    /// coordinator, which adds the metadata, last. Then
    /// [`Event::SavepointCompleted`] tells so, and the savepoint belongs to who asked for
    /// it: the job neither lists nor deletes it.
    ///
    /// # Errors
    /// As [`trigger`](Self::trigger); `Invalid` if `name` is no name, there is a savepoint
    /// already, or a shard has [come to its end](Self::finish).
    pub fn savepoint_into(
        &mut self,
        name: &str,
        place: &str,
        store: Arc<dyn ObjectStore>,
    ) -> Result<SnapshotId> {
        check_job_name("name of the savepoint", name)?;
        if NativeSavepoint::open(Arc::clone(&store))?.is_some() {
            return Err(Error::invalid("there is a savepoint in this place already")
                .at(place)
                .remedy("choose an empty folder"));
        }
        let id = self.begin_into(
            CheckpointKind::Savepoint(name.to_owned()),
            SnapshotMode::Full,
            None,
            Some(Place { name: place.to_owned(), store }),
        )?;
        Ok(id)
    }

    /// Gives up a savepoint of whose shards one put its snapshot elsewhere.
    ///
    /// # Errors
    /// `Invalid` in this case.
    pub(super) fn check_place(&mut self, id: SnapshotId, ack: &ShardAck) -> Result<()> {
        let pending = self.pending.get(&id);
        if pending.is_none_or(|pending| pending.place.is_none())
            || ack.part.handle.store().is_empty()
        {
            return Ok(());
        }
        let error = not_in_folder(&ack.part.handle);
        self.give_up(id, error.to_string(), true);
        Err(error)
    }

    /// Completes a savepoint in another place, if it is one.
    pub(super) fn complete_placed(&mut self, id: SnapshotId) -> Result<bool> {
        let Some(pending) = self.pending.get(&id) else { return Ok(false) };
        let Some(place) = pending.place.clone() else { return Ok(false) };
        let checkpoint = pending.checkpoint(&self.seen.job);
        let outcome = pending.outcome(self.env.monotonic_ns(), None);
        NativeSavepoint::complete(place.store, checkpoint)
            .map_err(|error| error.at(&place.name))?;
        // Whether this is still the coordinator shows when it is told, which may have been
        // in doubt before.
        let is_told = |of: &Outcome| (of.id, of.epoch) == (outcome.id, outcome.epoch);
        if !self.seen.outcomes.iter().any(is_told) {
            self.append(|entry| entry.outcomes.push(outcome))?;
        }
        if let Some(pending) = self.pending.remove(&id)
            && let CheckpointKind::Savepoint(name) = pending.barrier.kind
        {
            self.clock.end_ns = Some(self.env.monotonic_ns());
            self.events.push_back(Event::SavepointCompleted { id, name });
        }
        Ok(true)
    }
}
