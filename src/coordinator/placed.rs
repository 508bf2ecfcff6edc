//! Savepoints that shards put straight into a folder of their own, outside the job's
//! store (see [`savepoint::native`](crate::savepoint::native)).
//!
//! Such a savepoint is none of the job's afterwards: the journal keeps its outcome and
//! nothing else, no file of it is counted, and nobody but its owner deletes it. What a
//! savepoint that was given up has left in its folder is its owner's, too
//! ([`dispose_leftovers`](crate::savepoint::NativeSavepoint::dispose_leftovers)).
//!
//! Of two that are asked into one place, by whatever jobs, one is refused: each begins
//! with an object that says whose it is, which nobody can replace (`origin`). It stays,
//! and by it a coordinator recognises what one before it did for the same request. One that
//! was given up leaves it, too, since shards may still be putting files there.

use std::fmt;
use std::sync::Arc;

use super::objects::{self, Created};
use super::places::occupied;
use super::{Coordinator, Event};
use crate::base::{Error, Result, SnapshotId, SnapshotMode};
use crate::format::checkpoint::{CheckpointKind, ShardAck, check_job_name};
use crate::format::journal::{MAX_TEXT_BYTES, Outcome};
use crate::object::{ObjectName, ObjectStore};
use crate::savepoint::native::{NativeSavepoint, ORIGIN, not_in_folder};

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

impl Place {
    /// Ends the claim.
    fn release(&self) {
        let removed = ObjectName::new(ORIGIN).and_then(|claim| self.store.remove(&claim));
        if let Err(error) = removed {
            tracing::warn!(place = self.name, %error, "{ORIGIN} stays in the place of a savepoint");
        }
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
    /// This call, and the one that completes it, wait for `store`: it should have timeouts.
    /// Others can ask for such a savepoint, too, if the coordinator was built with
    /// [`places`](super::CoordinatorBuilder::places).
    ///
    /// # Errors
    /// As [`trigger`](Self::trigger), also of `store`; `Invalid` if `name` is no name,
    /// anything is in the place already, another savepoint is on its way there, or a shard
    /// has [come to its end](Self::finish). Then nothing has been changed.
    pub fn savepoint_into(
        &mut self,
        name: &str,
        place: &str,
        store: Arc<dyn ObjectStore>,
    ) -> Result<SnapshotId> {
        check_job_name("name of the savepoint", name)?;
        self.settle()?;
        self.check_may_begin(SnapshotMode::Full)?;
        let place = Place { name: place.to_owned(), store };
        self.claim(&place, name, None)?;
        self.begin_claimed(name, place)
    }

    /// Begins a savepoint in a place that was claimed for it.
    pub(super) fn begin_claimed(&mut self, name: &str, place: Place) -> Result<SnapshotId> {
        let kind = CheckpointKind::Savepoint(name.to_owned());
        let claimed = place.clone();
        let begun = self.begin_into(kind, SnapshotMode::Full, None, Some(place));
        if begun.is_err() {
            claimed.release();
        }
        begun
    }

    /// Claims a place for the checkpoint that begins next, for a request if there is one.
    ///
    /// # Errors
    /// `Invalid` if something is there, `Unavailable` if its store fails.
    pub(super) fn claim(
        &self,
        place: &Place,
        name: &str,
        request: Option<&ObjectName>,
    ) -> Result<()> {
        let store = &*place.store;
        if NativeSavepoint::open(Arc::clone(&place.store))?.is_some() {
            return Err(Error::invalid("there is a savepoint in this place already")
                .at(&place.name)
                .remedy("choose an empty folder"));
        }
        let origin = ObjectName::new(ORIGIN)?;
        let there = store.list("")?;
        if let Some(other) = there.first().filter(|_| !there.contains(&origin)) {
            return Err(occupied(other).at(&place.name));
        }
        let (job, id, epoch) = (&self.seen.job, self.next_id, self.epoch());
        let mut text = format!("savepoint {name}\njob {job}\ncheckpoint {id} of epoch {epoch}\n");
        if let Some(request) = request {
            text.push_str(&line_of(request));
        }
        match objects::create(store, &origin, text.as_bytes()) {
            // It may be there from an attempt whose outcome was not known: nothing was begun
            // since, so it has the same number.
            Ok(Created::Ours) => Ok(()),
            Ok(Created::Others(bytes)) => {
                Err(Error::invalid("another savepoint is on its way into this place")
                    .at(&place.name)
                    .found(format_args!("{:?}", shown(&bytes)))
                    .remedy("choose another folder; if that one was given up, clear this one"))
            }
            Err(error) => Err(error),
        }
    }

    /// The savepoint in a place, if it was put there for this request.
    ///
    /// # Errors
    /// `Invalid` if there is another one, and what reading it says.
    pub(super) fn placed_for(
        &self,
        request: &ObjectName,
        place: &Place,
    ) -> Result<Option<SnapshotId>> {
        let Some(there) = NativeSavepoint::open(Arc::clone(&place.store))? else {
            return Ok(None);
        };
        let checkpoint = there.checkpoint();
        let origin = objects::read(&*place.store, &ObjectName::new(ORIGIN)?)?.unwrap_or_default();
        let is_same = shown(&origin).lines().any(|line| line == line_of(request).trim_end());
        if is_same && checkpoint.job == self.seen.job {
            return Ok(Some(checkpoint.id));
        }
        let found = format_args!("checkpoint {} of job {:?}", checkpoint.id, checkpoint.job);
        Err(occupied(found).at(&place.name))
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
        if let Err(error) = NativeSavepoint::complete(Arc::clone(&place.store), checkpoint) {
            let error = error.at(&place.name);
            if error.is_retryable() {
                return Err(error);
            }
            // Somebody put something else there.
            self.give_up(id, error.to_string(), true);
            return Ok(true);
        }
        // Whether this is still the coordinator shows when it is told, which may have been
        // in doubt before.
        let is_told = |of: &Outcome| (of.id, of.epoch) == (outcome.id, outcome.epoch);
        if !self.seen.outcomes.iter().any(is_told) {
            self.append(|entry| entry.outcomes.push(outcome))?;
        }
        self.requests.is_placed(id);
        if let Some(pending) = self.pending.remove(&id)
            && let CheckpointKind::Savepoint(name) = pending.barrier.kind
        {
            self.clock.end_ns = Some(self.env.monotonic_ns());
            self.events.push_back(Event::SavepointCompleted { id, name });
        }
        Ok(true)
    }
}

/// What is said of a request in the place of its savepoint.
fn line_of(request: &ObjectName) -> String {
    format!("request {request}\n")
}

/// The beginning of what a place says of whose it is.
fn shown(origin: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&origin[..origin.len().min(MAX_TEXT_BYTES)])
}
