//! Beginning a job with the state of another one, or with a savepoint from elsewhere.

use std::sync::Arc;

use super::objects::{self, Created};
use super::view::{JobView, RestoreFrom};
use super::{Coordinator, layout};
use crate::base::{Error, Result, SnapshotId};
use crate::format::checkpoint::{Checkpoint, CheckpointKind, check_job_name};
use crate::format::journal::{Borrowed, CheckpointRef, SavepointRef};
use crate::object::{Contents, ObjectName};
use crate::savepoint::native::{ExportProgress, NativeSavepoint, copy_shards};

impl Coordinator {
    /// Makes a checkpoint or savepoint of another job in the same store the one that
    /// this job goes on from, without copying anything. Both jobs go their own ways
    /// from there: the other one keeps the files that this one needs (by a pin) until
    /// its tables have replaced them.
    ///
    /// # Errors
    /// `Invalid` if there is no such job or checkpoint, or shards have been started;
    /// else as [`restore`](Self::restore).
    pub fn fork(&mut self, job: &str, from: &RestoreFrom) -> Result<Checkpoint> {
        self.check_not_started()?;
        let view = JobView::open(Arc::clone(&self.store), job)?;
        let chosen = match &view {
            Some(view) if job != self.seen.job => view.find(from)?.map(|chosen| (view, chosen)),
            _ => None,
        };
        let Some((view, chosen)) = chosen else {
            return Err(Error::invalid("there is no checkpoint to fork from")
                .at(layout::root_of(job))
                .expected("another job, with a completed checkpoint")
                .found(from));
        };
        // A pin that a crash leaves behind names its owner.
        let owner = format!("job {}", self.seen.job);
        let pin = view.pin(&*self.env, &chosen, &owner)?;
        let theirs = view.read(&chosen)?;
        let (reference, ours) = self.own_metadata(theirs, CheckpointKind::Checkpoint)?;
        let borrowed = Borrowed { job: job.to_owned(), pin: pin.name().as_str().to_owned() };
        self.adopt(&reference, |entry| {
            let at = entry.checkpoints.partition_point(|other| other.id < reference.id);
            entry.checkpoints.insert(at, reference.clone());
            entry.resume = Some(reference.clone());
            entry.borrowed.push(borrowed);
        })?;
        pin.leave();
        self.base = Some(reference);
        Ok(ours)
    }

    /// Copies a savepoint from elsewhere into the job's store and keeps it under this
    /// name. The job can then be [restored](Self::restore) from it.
    ///
    /// # Errors
    /// `Invalid` if the name is taken or no name; `Corrupt` if a file is missing or
    /// damaged; `Closed` and `Unavailable` as always.
    pub fn import(
        &mut self,
        savepoint: &NativeSavepoint,
        name: &str,
        keep_going: &mut dyn FnMut(ExportProgress) -> bool,
    ) -> Result<CheckpointRef> {
        check_job_name("name of the savepoint", name)?;
        self.check_new(name)?;
        let folder = format!("{}/", self.layout.epoch(self.epoch()));
        let theirs = savepoint.checkpoint();
        let source = savepoint.source();
        let identity = self.store.identity();
        let shards = copy_shards(theirs, &*source, &*self.store, &folder, &identity, keep_going)?;
        let copied = Checkpoint { shards, ..theirs.clone() };
        let kind = CheckpointKind::Savepoint(name.to_owned());
        let (reference, ours) = self.own_metadata(copied, kind)?;
        self.adopt(&reference, |entry| {
            let savepoint = SavepointRef {
                name: name.to_owned(),
                created_unix_ms: ours.completed_unix_ms,
                checkpoint: reference.clone(),
            };
            let at = entry.savepoints.partition_point(|other| other.name.as_str() < name);
            entry.savepoints.insert(at, savepoint);
        })?;
        Ok(reference)
    }

    /// Keeps a completed checkpoint under a name, without copying anything, for as long
    /// as it is not [disposed](Self::dispose) of.
    ///
    /// # Errors
    /// `Invalid` if the name is taken or no name, or there is no such checkpoint;
    /// `Closed` and `Unavailable` as always.
    pub fn keep(&mut self, from: &RestoreFrom, name: &str) -> Result<CheckpointRef> {
        self.check_new(name)?;
        let Some(chosen) = self.view().find(from)? else {
            return Err(
                Error::invalid("there is no completed checkpoint yet").at(self.layout.root())
            );
        };
        let now_unix_ms = self.env.unix_time_ms();
        self.append(|entry| {
            let savepoint = SavepointRef {
                name: name.to_owned(),
                created_unix_ms: now_unix_ms,
                checkpoint: chosen.clone(),
            };
            let at = entry.savepoints.partition_point(|other| other.name.as_str() < name);
            entry.savepoints.insert(at, savepoint);
        })?;
        Ok(chosen)
    }

    fn check_not_started(&mut self) -> Result<()> {
        self.settle()?;
        if self.participants.is_empty() {
            return Ok(());
        }
        Err(Error::invalid("shards have been started already")
            .at(self.layout.root())
            .remedy("choose what to go on from first, then start"))
    }

    /// Writes metadata of this job for a checkpoint that it did not take. Its number is
    /// a new one, not below that of the other job: no snapshot in it is later.
    fn own_metadata(
        &mut self,
        theirs: Checkpoint,
        kind: CheckpointKind,
    ) -> Result<(CheckpointRef, Checkpoint)> {
        let id = SnapshotId(self.next_id.0.max(theirs.id.0));
        self.next_id = SnapshotId(id.0 + 1);
        let epoch = self.epoch();
        let ours = Checkpoint { id, epoch, job: self.seen.job.clone(), kind, ..theirs };
        let bytes = ours.encode()?;
        let name = self.layout.checkpoint(id, epoch);
        match objects::create(&*self.store, &name, &bytes).map_err(|error| error.at(&name))? {
            Created::Ours => {}
            Created::Others(_) => {
                return Err(Error::corrupt("the metadata of a new checkpoint is there already")
                    .at(&name)
                    .remedy("find out who else writes into this folder of the store"));
            }
        }
        let Contents { bytes, hash } = Contents::of(&bytes);
        let location = name.as_str().to_owned();
        Ok((CheckpointRef { id, epoch, location, bytes, hash }, ours))
    }

    /// Writes the change that makes a checkpoint one of this job.
    fn adopt(
        &mut self,
        reference: &CheckpointRef,
        change: impl FnOnce(&mut crate::format::JournalEntry),
    ) -> Result<()> {
        self.read_files(reference)?;
        self.append(change)
    }

    /// Removes pins in other jobs none of whose files is needed any more.
    pub(super) fn return_what_is_borrowed(&mut self) -> Result<()> {
        if !self.garbage.unknown.is_empty() || self.seen.borrowed.is_empty() {
            return Ok(());
        }
        let is_needed =
            |borrowed: &&Borrowed| self.registry.holds_any_in(&layout::root_of(&borrowed.job));
        let (_, returned): (Vec<_>, Vec<_>) =
            self.seen.borrowed.iter().cloned().partition(|borrowed| is_needed(&borrowed));
        if returned.is_empty() {
            return Ok(());
        }
        for borrowed in &returned {
            self.store.remove(&ObjectName::new(&borrowed.pin)?)?;
        }
        self.append(|entry| entry.borrowed.retain(|borrowed| !returned.contains(borrowed)))
    }
}
