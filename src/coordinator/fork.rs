//! Beginning a job with the state of another one, or with a savepoint from elsewhere.

use std::sync::Arc;

use super::registry::Holder;
use super::view::{JobView, RestoreFrom, files_of};
use super::{Coordinator, layout};
use crate::base::{Error, Result, SnapshotId, SnapshotMode};
use crate::format::checkpoint::{Checkpoint, CheckpointKind, ShardCosts, ShardPart};
use crate::format::handle::SnapshotHandle;
use crate::format::journal::{Borrowed, CheckpointRef, SavepointRef};
use crate::object::ObjectName;
use crate::restore::read_manifest;
use crate::savepoint::native::{ExportProgress, NativeSavepoint, copy_shards};
use crate::snapshot::sink::StoreSink;

/// No job takes so many checkpoints: from there on numbers could come to an end.
const MAX_FOREIGN_ID: u64 = u64::MAX / 2;

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
        // Whatever it was there, here it shares its files.
        let theirs = Checkpoint { mode: SnapshotMode::Incremental, ..theirs };
        let (reference, ours) = self.own_metadata(theirs, CheckpointKind::Checkpoint)?;
        let borrowed = Borrowed { job: job.to_owned(), pin: pin.name().as_str().to_owned() };
        let adopted = self.adopt(&reference, |entry| {
            entry.add_checkpoint(reference.clone());
            entry.resume = Some(reference.clone());
            entry.borrowed.push(borrowed);
        });
        if adopted.is_ok() || self.may_be_borrowed(pin.name()) {
            pin.leave();
        }
        adopted?;
        self.base = Some(reference);
        Ok(ours)
    }

    /// Whether an entry that names this pin may be there, or come to be, after the
    /// attempt to write it has failed.
    fn may_be_borrowed(&self, pin: &ObjectName) -> bool {
        if self.journal.is_in_doubt() {
            return true;
        }
        if !self.journal.is_fenced() {
            return false;
        }
        // It may have been written, and read by whoever took over before it was looked
        // whether it counts. What that one wrote says so: all later entries follow from it.
        let view = JobView::open(Arc::clone(&self.store), &self.seen.job);
        view.map_or(true, |view| {
            let borrowed = view.iter().flat_map(|view| &view.entry().borrowed);
            borrowed.into_iter().any(|borrowed| borrowed.pin == pin.as_str())
        })
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
        self.check_new(name)?;
        // Of its own: savepoints of several jobs may have files of the same names.
        let folder = format!("{}/", self.layout.import(self.epoch(), self.env.random_u64()));
        let theirs = savepoint.checkpoint();
        let source = savepoint.source();
        let identity = self.store.identity();
        let shards = copy_shards(theirs, &*source, &*self.store, &folder, &identity, keep_going)?;
        let mode = SnapshotMode::Full;
        self.adopt_as_savepoint(Checkpoint { shards, mode, ..theirs.clone() }, name)
    }

    /// Keeps snapshots that were put into this coordinator's [sink](Self::sink) under
    /// this name: those that an [`Import`](crate::savepoint::Import) made of a canonical
    /// savepoint, of all shards of all operators. `runtime` is what the runtime needs to
    /// go on. The job can then be [restored](Self::restore) from it.
    ///
    /// The savepoint is a checkpoint of a new number, which is not below that of any of
    /// the snapshots.
    ///
    /// # Errors
    /// `Invalid` if the name is taken or no name, a file lies elsewhere than in the sink,
    /// or an operator's snapshots do not hold each of its key groups once; `Corrupt` if
    /// a manifest is missing or damaged; `Closed` and `Unavailable` as always. Nothing
    /// is registered then.
    pub fn import_shards(
        &mut self,
        name: &str,
        handles: impl IntoIterator<Item = SnapshotHandle>,
        runtime: Vec<u8>,
    ) -> Result<CheckpointRef> {
        self.check_new(name)?;
        let source = StoreSink::new(Arc::clone(&self.store));
        let mut id = SnapshotId(0);
        let mut shards = Vec::new();
        for handle in handles {
            let manifest = read_manifest(&source, &handle)?;
            let files = files_of(&manifest, &handle);
            // Files of others are deleted by others, and those of an earlier epoch may be.
            let is_elsewhere =
                |location: &str| self.layout.epoch_of_file(location) != Some(self.epoch());
            if let Some(file) = files.iter().find(|file| is_elsewhere(&file.location)) {
                return Err(Error::invalid("a file of the snapshots is not in the job's sink")
                    .at(&file.location)
                    .expected(format_args!("one in {}", self.layout.epoch(self.epoch())))
                    .remedy("import into the sink of this coordinator"));
            }
            id = id.max(handle.snapshot());
            let bytes = files.iter().map(|file| file.bytes).sum();
            let costs = ShardCosts {
                bytes_new: bytes,
                bytes_total: bytes,
                records_new: manifest.tables.iter().map(|table| table.meta.records).sum(),
                ..ShardCosts::default()
            };
            shards.push(ShardPart { handle, costs });
        }
        let place =
            |part: &ShardPart| (part.handle.operator().to_owned(), part.handle.groups().first());
        shards.sort_by_cached_key(place);
        let now_unix_ms = self.env.unix_time_ms();
        let made = Checkpoint {
            id,
            epoch: self.epoch(),
            job: self.seen.job.clone(),
            kind: CheckpointKind::Savepoint(name.to_owned()),
            mode: SnapshotMode::Full,
            triggered_unix_ms: now_unix_ms,
            completed_unix_ms: now_unix_ms,
            shards,
            runtime,
        };
        self.adopt_as_savepoint(made, name)
    }

    /// Makes a checkpoint whose files are in the store a savepoint of this job.
    fn adopt_as_savepoint(&mut self, theirs: Checkpoint, name: &str) -> Result<CheckpointRef> {
        let kind = CheckpointKind::Savepoint(name.to_owned());
        let (reference, ours) = self.own_metadata(theirs, kind)?;
        self.adopt(&reference, |entry| {
            let savepoint = SavepointRef {
                name: name.to_owned(),
                created_unix_ms: ours.completed_unix_ms,
                checkpoint: reference.clone(),
            };
            entry.add_savepoint(savepoint);
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
            entry.add_savepoint(savepoint);
        })?;
        Ok(chosen)
    }

    pub(super) fn check_not_started(&mut self) -> Result<()> {
        self.settle()?;
        if self.participants.is_empty() {
            return Ok(());
        }
        Err(Error::invalid("shards have been started already").at(self.layout.root()).remedy(
            "choose what to go on from, then start; to choose again open a new coordinator",
        ))
    }

    /// Writes metadata of this job for a checkpoint that it did not take. Its number is
    /// a new one, above that of the other job: no snapshot in it is later, and whoever knows
    /// the number that it had can tell that it has come from elsewhere.
    fn own_metadata(
        &mut self,
        theirs: Checkpoint,
        kind: CheckpointKind,
    ) -> Result<(CheckpointRef, Checkpoint)> {
        // A savepoint from elsewhere may say anything.
        if theirs.id.0 > MAX_FOREIGN_ID {
            return Err(Error::corrupt("a checkpoint has an impossible number")
                .at(format_args!("checkpoint {} of job {:?}", theirs.id, theirs.job))
                .expected(format_args!("at most {MAX_FOREIGN_ID}"))
                .remedy("take another copy of it"));
        }
        let id = SnapshotId(self.next_id.0.max(theirs.id.0 + 1));
        self.next_id = SnapshotId(id.0 + 1);
        let epoch = self.epoch();
        let ours = Checkpoint { id, epoch, job: self.seen.job.clone(), kind, ..theirs };
        match self.write_metadata(&ours) {
            Ok(reference) => Ok((reference, ours)),
            Err(error) => {
                // It may be there all the same, and nobody will name it.
                self.garbage.add_trash(self.layout.checkpoint(id, epoch).as_str());
                Err(error)
            }
        }
    }

    /// Writes the change that makes a checkpoint one of this job. If that comes to
    /// nothing its metadata goes, and it needs no files.
    fn adopt(
        &mut self,
        reference: &CheckpointRef,
        change: impl FnOnce(&mut crate::format::JournalEntry),
    ) -> Result<()> {
        let adopted = self.read_files(reference).and_then(|()| self.append(change));
        if adopted.is_err() && !self.journal.may_have(reference.id) {
            // Files that were written for it are another try's, or a sweep's.
            self.registry.release(&Holder::Completed(reference.location.clone()));
            self.garbage.add_trash(&reference.location);
        }
        adopted
    }

    /// Removes pins in other jobs when no file of others is needed any more.
    pub(super) fn return_what_is_borrowed(&mut self) -> Result<()> {
        if !self.garbage.unknown.is_empty() || self.seen.borrowed.is_empty() {
            return Ok(());
        }
        // Of a job that is itself a fork, the pin keeps also what lies in a third one's
        // folder: so all pins stay as long as anything of others is needed.
        if self.registry.holds_any_outside(self.layout.root()) {
            return Ok(());
        }
        let returned = self.seen.borrowed.clone();
        for borrowed in &returned {
            let pin = ObjectName::new(&borrowed.pin)?;
            // Nothing else of another job is removed, whatever the journal says.
            if !layout::is_pin_of(&borrowed.job, &pin) {
                return Err(Error::corrupt("the journal names something that is no pin")
                    .at(self.layout.root())
                    .expected(format_args!("a pin of job {:?}", borrowed.job))
                    .found(&pin));
            }
            self.store.remove(&pin)?;
        }
        self.append(|entry| entry.borrowed.retain(|borrowed| !returned.contains(borrowed)))
    }
}
