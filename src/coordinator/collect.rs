//! Deleting what nobody needs: the one place of the engine that deletes in a store.
//!
//! A checkpoint goes in two phases. First the journal says that it is *retired*: nobody
//! can restore it from then on. Then, if nobody pinned it before that, the files go that
//! only it needed, tables first, since the manifests say which they are; last its
//! metadata; and then the journal forgets it. A coordinator that crashes in between
//! leaves a retired checkpoint, and the next one goes on.
//!
//! # When a file may go
//!
//! A shard may name in its next snapshot whatever it has uploaded and not merged since,
//! even for a checkpoint that was given up. But a snapshot names *all* tables that the
//! shard has, and those of a shard finish in order. So what was uploaded for snapshot
//! *n* and is not needed by a completed checkpoint *m* > *n* will not be named by
//! snapshots after *m*. Those before *m* may be under way still, if they are of
//! savepoints, or *m* is: acknowledgements that name it may come any time. The newest *m*
//! that is older than all that are under way is the *horizon*: files of this epoch are
//! *loose* and stay until they are behind it, and so do those of a retired checkpoint.
//! Files of earlier epochs can only be named by snapshots that were restored from a
//! checkpoint which is kept: what no kept one needs, goes at once. A fenced coordinator that is still
//! deleting deletes nothing else, for the same reason.
//!
//! Files of another job, from whose checkpoint this one began, are held like others and
//! never deleted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::registry::{Holder, Released};
use super::view::{self, JobView};
use super::{Coordinator, journal, layout};
use crate::base::{Error, ErrorKind, Result, SnapshotId};
use crate::format::journal::CheckpointRef;
use crate::object::{ObjectName, ObjectStore};
use crate::restore::read_manifest;
use crate::snapshot::sink::StoreSink;

/// What a call of [`Coordinator::collect`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Collected {
    /// Objects that were deleted.
    pub deleted: usize,
    /// Whether nothing is left that could be deleted now.
    pub is_done: bool,
    /// Files that are not needed and may yet be named by a snapshot.
    pub loose: usize,
    /// Retired checkpoints that somebody reads.
    pub pinned: usize,
}

/// What is on its way out.
#[derive(Default)]
pub(super) struct Garbage {
    /// Nobody can restore them any more; whether somebody reads them is to be seen.
    retired: VecDeque<CheckpointRef>,
    going: Vec<Going>,
    /// Files, each with the last snapshot that may have uploaded it.
    loose: BTreeMap<Arc<str>, SnapshotId>,
    /// Names of objects to be deleted.
    trash: Vec<Arc<str>>,
    /// What earlier epochs left behind was looked for.
    swept: bool,
    /// Of which it is not known what they need, and why: nothing may be deleted.
    pub(super) unknown: Vec<(CheckpointRef, Error)>,
}

/// A retired checkpoint whose files are being deleted.
struct Going {
    reference: CheckpointRef,
    /// In the reverse of the order in which they go.
    files: Vec<Arc<str>>,
}

impl Garbage {
    pub(super) fn retire(&mut self, retired: impl IntoIterator<Item = CheckpointRef>) {
        self.retired.extend(retired);
    }

    /// Files that snapshots up to this one may have uploaded, and that nobody needs.
    pub(super) fn add_loose(&mut self, snapshot: SnapshotId, files: Vec<Released>) {
        for Released { location, .. } in files {
            let mark = self.loose.entry(location).or_insert(snapshot);
            *mark = (*mark).max(snapshot);
        }
    }

    pub(super) fn add_trash(&mut self, name: &str) {
        self.trash.push(name.into());
    }

    /// Loose files of snapshots before this one will not be named again.
    pub(super) fn let_go_before(&mut self, horizon: SnapshotId) {
        let trash = &mut self.trash;
        self.loose.retain(|location, mark| {
            let stays = *mark >= horizon;
            if !stays {
                trash.push(Arc::clone(location));
            }
            stays
        });
    }
}

impl Coordinator {
    /// Why nothing is deleted, if so: a checkpoint that is kept could not be read, so
    /// nobody knows which files it needs. If the store could not be reached it is read
    /// again with each [`collect`](Self::collect); one that is damaged holds deleting
    /// up until it is given up.
    pub fn deletes_nothing(&self) -> Option<&Error> {
        self.garbage.unknown.first().map(|(_, error)| error)
    }

    /// Reads which files the checkpoints in the journal need.
    pub(super) fn learn_files(&mut self) {
        let entry = self.seen.clone();
        for reference in entry.kept().chain(&entry.retired) {
            let holder = Holder::Completed(reference.location.clone());
            if !self.registry.knows(&holder) {
                self.learn(reference);
            }
        }
    }

    /// Reads again what could not be read, if it may be otherwise now.
    fn learn_again(&mut self) {
        for (reference, error) in std::mem::take(&mut self.garbage.unknown) {
            if error.is_retryable() || !self.is_kept(&reference) {
                self.learn(&reference);
            } else {
                self.garbage.unknown.push((reference, error));
            }
        }
    }

    fn is_kept(&self, reference: &CheckpointRef) -> bool {
        self.seen.kept().any(|kept| kept == reference)
    }

    fn learn(&mut self, reference: &CheckpointRef) {
        let is_kept = self.is_kept(reference);
        match self.read_files(reference) {
            // What is missing of one that is retired has gone already.
            Err(error) if is_kept || error.kind() != ErrorKind::Corrupt => {
                tracing::error!(
                    job = self.layout.root(), checkpoint = reference.id.0, %error,
                    "a checkpoint cannot be read; no files are deleted"
                );
                self.garbage.unknown.push((reference.clone(), error));
            }
            _ if is_kept || self.garbage.retired.contains(reference) => {}
            _ => self.garbage.retired.push_back(reference.clone()),
        }
    }

    /// Has a checkpoint hold its files; those that are known, if it cannot be read.
    pub(super) fn read_files(&mut self, reference: &CheckpointRef) -> Result<()> {
        let holder = Holder::Completed(reference.location.clone());
        // From an attempt that failed.
        self.registry.release(&holder);
        self.registry.hold(&holder, [(&*reference.location, reference.bytes)]);
        let checkpoint = view::read_checkpoint(&*self.store, reference)?;
        let source = StoreSink::new(Arc::clone(&self.store));
        let mut outcome = Ok(());
        for shard in &checkpoint.shards {
            match read_manifest(&source, &shard.handle) {
                Ok(manifest) => {
                    let tables = &manifest.tables;
                    let tables = tables.iter().map(|table| (&*table.location, table.meta.bytes));
                    let own = (shard.handle.manifest(), shard.handle.manifest_bytes());
                    self.registry.hold(&holder, tables.chain([own]));
                }
                // That the store fails weighs more than that something is missing.
                Err(error) => {
                    let is_worse = |before: &Error| !before.is_retryable();
                    if outcome.as_ref().err().is_none_or(is_worse) {
                        outcome = Err(error);
                    }
                }
            }
        }
        outcome
    }

    /// Deletes up to `limit` objects that nobody needs.
    ///
    /// # Errors
    /// `Closed` if another coordinator has taken over; `Unavailable` if the store fails:
    /// what is left is tried again by the next call.
    pub fn collect(&mut self, limit: usize) -> Result<Collected> {
        self.settle()?;
        let mut collected = Collected::default();
        self.learn_again();
        if !self.garbage.unknown.is_empty() {
            return Ok(Collected { is_done: true, ..collected });
        }
        if !self.garbage.swept {
            self.look_for_leftovers()?;
            self.garbage.swept = true;
        }
        collected.pinned = self.release_retired()?;
        while collected.deleted < limit {
            let Some(name) = self.next_to_go() else { break };
            // What another job wrote is that job's.
            let is_own = name.starts_with(self.layout.root());
            if !is_own || self.registry.is_held(&name) {
                self.gone();
                continue;
            }
            let object = ObjectName::new(&*name).map_err(|error| {
                Error::corrupt("a checkpoint names something that cannot be an object")
                    .source(error)
            })?;
            self.store.remove(&object)?;
            self.gone();
            collected.deleted += 1;
        }
        self.forget_those_gone()?;
        self.return_what_is_borrowed()?;
        collected.loose = self.garbage.loose.len();
        collected.is_done = self.next_to_go().is_none();
        Ok(collected)
    }

    /// Looks for files that nobody needs: those of shards that failed before they
    /// could acknowledge anything, and what came to be after it was given up. Files of
    /// this epoch go when a checkpoint that begins from now on is complete, those of
    /// earlier ones with the next [`collect`](Self::collect). Lists all objects of the
    /// job; returns how many nobody needs.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub fn sweep(&mut self) -> Result<usize> {
        let old = self.look_for_leftovers()?;
        let prefix = format!("{}/", self.layout.epoch(self.epoch()));
        let files = self.store.list(&prefix)?;
        let unknown = files.iter().filter(|name| !self.registry.is_held(name.as_str()));
        let unknown: Vec<_> =
            unknown.map(|name| Released { location: name.as_str().into(), bytes: 0 }).collect();
        let found = unknown.len();
        self.garbage.add_loose(SnapshotId(self.next_id.0.saturating_sub(1)), unknown);
        Ok(old + found)
    }

    /// What earlier epochs left behind, and metadata of what was given up. Returns how
    /// many objects that are.
    fn look_for_leftovers(&mut self) -> Result<usize> {
        let (epoch, layout) = (self.epoch(), &self.layout);
        let files = self.store.list(&layout.epochs())?;
        let old_files = files
            .iter()
            .filter(|name| layout.epoch_of_file(name.as_str()).is_some_and(|of| of < epoch));
        let metas = self.store.list(&layout.checkpoints())?;
        let old_metas = metas.iter().filter(|name| {
            layout.checkpoint_of(name).is_some_and(|(id, of)| {
                of < epoch || of == epoch && !self.pending.contains_key(&id)
            })
        });
        let left = old_files.chain(old_metas).filter(|name| !self.registry.is_held(name.as_str()));
        let left: Vec<Arc<str>> = left.map(|name| Arc::from(name.as_str())).collect();
        let found = left.len();
        self.garbage.trash.extend(left);
        Ok(found)
    }

    /// Gives up the files of retired checkpoints that nobody reads. Returns how many
    /// somebody does.
    fn release_retired(&mut self) -> Result<usize> {
        let mut pinned = 0;
        for _ in 0..self.garbage.retired.len() {
            let Some(reference) = self.garbage.retired.pop_front() else { break };
            let is_own = reference.epoch == self.epoch();
            let may_be_named = match self.horizon() {
                Some(horizon) => is_own && reference.id >= horizon,
                // As long as nothing is complete, what shards were restored from is kept.
                None => is_own || !self.completed.is_empty(),
            };
            if may_be_named || self.base.as_ref() == Some(&reference) {
                self.garbage.retired.push_back(reference);
                continue;
            }
            let pins = match self.store.list(&self.layout.pins_of(&reference)) {
                Ok(pins) => pins,
                Err(error) => {
                    self.garbage.retired.push_back(reference);
                    return Err(error);
                }
            };
            if !pins.is_empty() {
                pinned += 1;
                self.garbage.retired.push_back(reference);
                continue;
            }
            let holder = Holder::Completed(reference.location.clone());
            let released = self.registry.release(&holder);
            let mut files: Vec<Arc<str>> = released.into_iter().map(|file| file.location).collect();
            // The metadata goes last, before it manifests, first of all tables.
            let rank = |name: &Arc<str>| match () {
                () if **name == *reference.location => 0,
                () if name.contains("/manifests/") => 1,
                () => 2,
            };
            files.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
            self.garbage.going.push(Going { reference, files });
        }
        Ok(pinned)
    }

    fn next_to_go(&self) -> Option<Arc<str>> {
        let of_retired = self.garbage.going.iter().find_map(|going| going.files.last());
        of_retired.or_else(|| self.garbage.trash.last()).cloned()
    }

    /// The object that `next_to_go` named has gone.
    fn gone(&mut self) {
        match self.garbage.going.iter_mut().find(|going| !going.files.is_empty()) {
            Some(going) => going.files.pop(),
            None => self.garbage.trash.pop(),
        };
    }

    /// Has the journal forget retired checkpoints of which nothing is left.
    fn forget_those_gone(&mut self) -> Result<()> {
        let gone: Vec<CheckpointRef> = self
            .garbage
            .going
            .iter()
            .filter(|going| going.files.is_empty())
            .map(|going| going.reference.clone())
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.append(|entry| entry.retired.retain(|reference| !gone.contains(reference)))?;
        self.garbage.going.retain(|going| !going.files.is_empty());
        Ok(())
    }
}

/// An object that no checkpoint of its job needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orphan {
    /// Its name.
    pub name: ObjectName,
    /// Whether it may be deleted at once: it is of an epoch that is over. Those of the
    /// present epoch may be files of a checkpoint under way.
    pub is_old: bool,
}

/// The objects of a job that none of its checkpoints needs, for tools. The job may run
/// meanwhile: what is [old](Orphan::is_old) is never needed again.
///
/// # Errors
/// `Unavailable` if the store cannot be read; `Corrupt` if a checkpoint that is kept
/// cannot: then nobody knows what it needs.
pub fn orphans(store: &Arc<dyn ObjectStore>, job: &str) -> Result<Vec<Orphan>> {
    let Some(view) = JobView::open(Arc::clone(store), job)? else { return Ok(Vec::new()) };
    let mut needed = BTreeSet::new();
    for reference in view.entry().kept().chain(&view.entry().retired) {
        match view.files(reference) {
            Ok(files) => needed.extend(files.into_iter().map(|file| file.location)),
            // What is retired may be gone in part; the coordinator sees to the rest.
            Err(error)
                if error.kind() == ErrorKind::Corrupt
                    && view.entry().retired.contains(reference) =>
            {
                tracing::debug!(%error, "a retired checkpoint is not whole any more");
                needed.insert(reference.location.clone());
            }
            Err(error) => return Err(error),
        }
    }
    let layout = layout::Layout::new(job)?;
    let names = [store.list(&layout.epochs())?, store.list(&layout.checkpoints())?].concat();
    // What was completed while all this was read is needed, too.
    let now = journal::read_last(&**store, &layout)?;
    let epoch = now.as_ref().map_or(0, |entry| entry.epoch.min(view.entry().epoch));
    let mut orphans = Vec::new();
    for name in names {
        let of_checkpoint = || layout.checkpoint_of(&name).map(|(_, epoch)| epoch);
        let of = layout.epoch_of_file(name.as_str()).or_else(of_checkpoint);
        if let Some(of) = of
            && !needed.contains(name.as_str())
        {
            orphans.push(Orphan { name, is_old: of < epoch });
        }
    }
    Ok(orphans)
}
