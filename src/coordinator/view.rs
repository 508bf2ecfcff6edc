//! Looking at a job's checkpoints without being its coordinator: for restores on other
//! machines, for tools, and for other jobs. Nothing is changed but [pins](JobView::pin).

use std::fmt;
use std::sync::Arc;

use super::layout::{Layout, all_jobs, job_of};
use super::{journal, objects};
use crate::base::{Error, Result, SnapshotId};
use crate::env::Env;
use crate::format::checkpoint::{Checkpoint, StoredFile};
use crate::format::handle::SnapshotHandle;
use crate::format::journal::{CheckpointRef, JournalEntry, Pin};
use crate::format::manifest::Manifest;
use crate::object::{ObjectName, ObjectStore};
use crate::restore::read_manifest;
use crate::snapshot::sink::{SnapshotSource, StoreSink};

/// Which checkpoint is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RestoreFrom {
    /// The one that the job goes on from: what was completed last.
    Latest,
    /// The completed checkpoint of this number.
    Checkpoint(SnapshotId),
    /// The savepoint of this name.
    Savepoint(String),
}

impl fmt::Display for RestoreFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("the latest checkpoint"),
            Self::Checkpoint(id) => write!(f, "checkpoint {id}"),
            Self::Savepoint(name) => write!(f, "savepoint {name:?}"),
        }
    }
}

/// The names of the jobs that a store knows, ascending.
///
/// # Errors
/// `Unavailable` if the store cannot be read.
pub fn jobs(store: &dyn ObjectStore) -> Result<Vec<String>> {
    let names = store.list(all_jobs())?;
    let mut jobs: Vec<_> = names.iter().filter_map(job_of).map(str::to_owned).collect();
    jobs.sort_unstable();
    jobs.dedup();
    Ok(jobs)
}

/// A job as its journal describes it at one moment.
pub struct JobView {
    store: Arc<dyn ObjectStore>,
    layout: Layout,
    entry: JournalEntry,
}

impl JobView {
    /// Reads the last entry of a job's journal; `None` if the store has no such job.
    ///
    /// # Errors
    /// `Invalid` if no job can have this name, `Unavailable` if the store cannot be
    /// read, `Corrupt` or `Incompatible` if the entry cannot.
    pub fn open(store: Arc<dyn ObjectStore>, job: &str) -> Result<Option<Self>> {
        let layout = Layout::new(job)?;
        let entry = journal::read_last(&*store, &layout)?;
        Ok(entry.map(|entry| Self { store, layout, entry }))
    }

    pub(super) fn of(store: Arc<dyn ObjectStore>, layout: Layout, entry: JournalEntry) -> Self {
        Self { store, layout, entry }
    }

    /// Where the job's objects are.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the journal says.
    pub fn entry(&self) -> &JournalEntry {
        &self.entry
    }

    /// Opens tables and manifests of the job's checkpoints.
    pub fn source(&self) -> Arc<dyn SnapshotSource> {
        Arc::new(StoreSink::new(Arc::clone(&self.store)))
    }

    /// Finds a checkpoint; `None` only for [`RestoreFrom::Latest`], if none was ever
    /// completed.
    ///
    /// # Errors
    /// `Invalid` if there is none of this number or name.
    pub fn find(&self, from: &RestoreFrom) -> Result<Option<CheckpointRef>> {
        let found = match from {
            RestoreFrom::Latest => return Ok(self.entry.resume.clone()),
            RestoreFrom::Checkpoint(id) => self.entry.kept().find(|kept| kept.id == *id),
            RestoreFrom::Savepoint(name) => {
                self.entry.savepoint(name).map(|savepoint| &savepoint.checkpoint)
            }
        };
        match found {
            Some(found) => Ok(Some(found.clone())),
            None => {
                let ids: Vec<_> = self.entry.checkpoints.iter().map(|c| c.id.to_string()).collect();
                let names: Vec<_> = self.entry.savepoints.iter().map(|s| s.name.as_str()).collect();
                Err(Error::invalid("the job has no such checkpoint")
                    .at(self.layout.root())
                    .expected(format_args!(
                        "one of the checkpoints [{}] or the savepoints [{}]",
                        ids.join(", "),
                        names.join(", ")
                    ))
                    .found(from)
                    .remedy("choose one that was kept"))
            }
        }
    }

    /// Reads the metadata of a checkpoint.
    ///
    /// # Errors
    /// `Corrupt` if it is missing or not what the journal says, `Unavailable` if the
    /// store cannot be read.
    pub fn read(&self, reference: &CheckpointRef) -> Result<Checkpoint> {
        read_checkpoint(&*self.store, reference)
    }

    /// The manifest of one shard's snapshot.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn manifest(&self, handle: &SnapshotHandle) -> Result<Manifest> {
        read_manifest(&StoreSink::new(Arc::clone(&self.store)), handle)
    }

    /// Every file that a checkpoint needs, its manifests and metadata included, each
    /// once, ascending by location.
    ///
    /// # Errors
    /// As [`read`](Self::read), for the metadata and each manifest.
    pub fn files(&self, reference: &CheckpointRef) -> Result<Vec<StoredFile>> {
        let checkpoint = self.read(reference)?;
        let mut files =
            vec![StoredFile { location: reference.location.clone(), bytes: reference.bytes }];
        for shard in &checkpoint.shards {
            files.extend(files_of(&self.manifest(&shard.handle)?, &shard.handle));
        }
        files.sort_unstable();
        files.dedup();
        Ok(files)
    }

    /// Keeps a checkpoint from being deleted while somebody reads it, even if it is
    /// subsumed meanwhile. `owner` is for people.
    ///
    /// # Errors
    /// `Invalid` if it is no longer kept: look at the job again. `Unavailable` if the
    /// store fails.
    pub fn pin(&self, env: &dyn Env, reference: &CheckpointRef, owner: &str) -> Result<PinGuard> {
        let name = self.layout.pin(reference, env.random_u64());
        let pin = Pin {
            created_unix_ms: env.unix_time_ms(),
            owner: owner.to_owned(),
            checkpoint: reference.clone(),
        };
        objects::create(&*self.store, &name, &pin.encode()?)?;
        let guard = PinGuard { store: Arc::clone(&self.store), name, released: false };
        // Whoever deletes first says so in the journal and then looks for pins: one of
        // the two sees the other.
        let entry = journal::read_last(&*self.store, &self.layout)?;
        if entry.is_some_and(|entry| entry.kept().any(|kept| kept == reference)) {
            return Ok(guard);
        }
        guard.release()?;
        Err(Error::invalid("the checkpoint was given up meanwhile")
            .at(&reference.location)
            .remedy("look at the job again, and take a newer checkpoint"))
    }

    /// The pins of the job's checkpoints: their object names, and what they say.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read, `Corrupt` if a pin cannot.
    pub fn pins(&self) -> Result<Vec<(ObjectName, Pin)>> {
        let mut pins = Vec::new();
        for name in self.store.list(&self.layout.pins())? {
            if let Some(bytes) = objects::read(&*self.store, &name)? {
                let pin = Pin::decode(&bytes).map_err(|error| error.at(&name))?;
                pins.push((name, pin));
            }
        }
        Ok(pins)
    }
}

impl fmt::Debug for JobView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobView({} at {})", self.layout.root(), self.entry.number)
    }
}

/// Keeps a checkpoint from being deleted until it is dropped or
/// [released](Self::release).
#[derive(Debug)]
pub struct PinGuard {
    store: Arc<dyn ObjectStore>,
    name: ObjectName,
    released: bool,
}

impl PinGuard {
    /// The name of the pin.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Leaves the pin in the store for whoever has its name.
    pub(super) fn leave(mut self) -> ObjectName {
        self.released = true;
        self.name.clone()
    }

    /// Ends the pin.
    ///
    /// # Errors
    /// `Unavailable` if the store fails: the checkpoint is then kept until somebody
    /// removes the pin.
    pub fn release(mut self) -> Result<()> {
        self.released = true;
        self.store.remove(&self.name)
    }
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        if !self.released
            && let Err(error) = self.store.remove(&self.name)
        {
            tracing::warn!(pin = %self.name, %error, "a pin could not be removed");
        }
    }
}

pub(super) fn read_checkpoint(
    store: &dyn ObjectStore,
    reference: &CheckpointRef,
) -> Result<Checkpoint> {
    let name = ObjectName::new(&reference.location).map_err(|error| {
        Error::corrupt("the journal names something that cannot be an object").source(error)
    })?;
    let Some(bytes) = objects::read(store, &name)? else {
        return Err(Error::corrupt("the metadata of a checkpoint is missing")
            .at(&name)
            .remedy("put it back from a copy, or restore another checkpoint"));
    };
    reference.check(&bytes)?;
    let checkpoint = Checkpoint::decode(&bytes).map_err(|error| error.at(&name))?;
    if checkpoint.id != reference.id || checkpoint.epoch != reference.epoch {
        return Err(Error::corrupt("the metadata is that of another checkpoint")
            .at(&name)
            .expected(format_args!("checkpoint {} of epoch {}", reference.id, reference.epoch))
            .found(format_args!("checkpoint {} of epoch {}", checkpoint.id, checkpoint.epoch)));
    }
    Ok(checkpoint)
}

/// The files that a manifest names, and itself.
pub(super) fn files_of(manifest: &Manifest, handle: &SnapshotHandle) -> Vec<StoredFile> {
    let tables = manifest
        .tables
        .iter()
        .map(|table| StoredFile { location: table.location.clone(), bytes: table.meta.bytes });
    let own = StoredFile { location: handle.manifest().to_owned(), bytes: handle.manifest_bytes() };
    let mut files: Vec<_> = tables.chain([own]).collect();
    files.sort_unstable();
    files.dedup();
    files
}
