//! Seeing to it that the store has the tables of a snapshot.
//!
//! A table that a store has stays where it is, and every snapshot names it there. A
//! *full* snapshot is to share nothing with those before it: what a manifest may name
//! already is put into the store once more, under a name of its own. Whatever comes after
//! it builds on that: the tables of a version are only ever in newer places, so that what
//! one completed checkpoint does not need the next ones do not need either.
//!
//! Small tables are put into a store that is far away several at a time
//! ([`SnapshotSink::puts_at_once`](crate::SnapshotSink::puts_at_once)), on threads that
//! last as long as that; large ones go one after the other, each in parallel parts.
//!
//! The places before are remembered until a snapshot that names the newer ones is
//! confirmed. If the runtime discards what a full snapshot uploaded, as it may when the
//! checkpoint is given up, the next one goes back to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use super::{Pipeline, Promise};
use crate::base::{ErrorKind, FileId, KeyGroupRange, Result, SnapshotMode};
use crate::env::ledger::MemoryComponent;
use crate::env::parallel;
use crate::format::table::TableMeta;
use crate::object::{COPY_STEP_BYTES, Contents};
use crate::snapshot::sink::{SnapshotSink, TableUpload};
use crate::snapshot::ticket::{SnapshotPhase, Uploading};
use crate::version::{DroppedStates, Stored, TableEntry, TableFile, Version};

/// A table that the store has: all that a manifest is made of.
pub(super) struct UploadedTable {
    pub(super) meta: TableMeta,
    pub(super) location: Arc<str>,
    pub(super) slice: KeyGroupRange,
    pub(super) dropped: DroppedStates,
}

/// The tables of a manifest, and where it names them.
pub(super) type NamedTables = Vec<(Weak<TableFile>, Arc<str>)>;

/// What a snapshot is made for.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// The store of the shard, on which later snapshots build.
    Own(SnapshotMode),
    /// Another place, which gets everything, and of which nothing is remembered.
    Elsewhere(Arc<dyn SnapshotSink>),
}

impl Destination {
    /// Where the files go, if those of the shard go into `own`.
    pub(super) fn sink<'a>(&'a self, own: &'a Arc<dyn SnapshotSink>) -> &'a Arc<dyn SnapshotSink> {
        match self {
            Self::Own(_) => own,
            Self::Elsewhere(sink) => sink,
        }
    }

    /// Notes that a manifest is about to name the tables of `version` where they are now,
    /// and gives what is to be relied upon once it is confirmed.
    pub(super) fn names(
        &self,
        version: &Version,
        uploaded: &[UploadedTable],
    ) -> Option<NamedTables> {
        let Self::Own(_) = self else { return None };
        let pairs = version.tables().iter().zip(uploaded);
        let named = pairs.map(|(table, uploaded)| {
            table.set_named(&uploaded.location);
            (Arc::downgrade(table.file()), Arc::clone(&uploaded.location))
        });
        Some(named.collect())
    }
}

impl Pipeline {
    /// Sees to it that the destination has every table of `version`. Gives them in
    /// the same order, and the number of bytes that had to be handed over.
    pub(super) fn upload(
        self: &Arc<Self>,
        version: &Version,
        to: &Destination,
        promise: &Promise,
    ) -> Result<(Vec<UploadedTable>, u64)> {
        promise.set_phase(SnapshotPhase::Uploading);
        let mut seen = BTreeSet::new();
        let tables: Vec<Arc<TableEntry>> =
            version.tables().iter().filter(|table| seen.insert(table.meta.file)).cloned().collect();
        let found = match to {
            Destination::Own(mode) => {
                let (this, store, mode) = (Arc::clone(self), self.config.sink.identity(), *mode);
                let look = move |table: Arc<TableEntry>| this.stored_at(&table, &store, mode);
                self.each(self.at_once(&*self.config.sink, 0), tables.clone(), look)?
            }
            // Nobody knows what is there; the sink will find out.
            Destination::Elsewhere(_) => vec![None; tables.len()],
        };
        let sink = to.sink(&self.config.sink);
        let mut locations: BTreeMap<FileId, Arc<str>> = BTreeMap::new();
        let (mut small, mut large) = (Vec::new(), Vec::new());
        let mut small_at_once = usize::MAX;
        for (table, location) in tables.into_iter().zip(found) {
            if let Some(location) = location {
                locations.insert(table.meta.file, location);
                continue;
            }
            match self.at_once(&**sink, table.meta.bytes) {
                0 | 1 => large.push(table),
                at_once => {
                    small_at_once = small_at_once.min(at_once);
                    small.push(table);
                }
            }
        }
        let bytes = small.iter().chain(&large).map(|table| table.meta.bytes).sum();
        promise.set_upload_bytes(bytes);
        for (at_once, tables) in [(small_at_once, small), (1, large)] {
            let (this, to, uploading) = (Arc::clone(self), to.clone(), promise.uploading());
            let put = move |table: Arc<TableEntry>| this.put(&table, &to, &uploading);
            locations.extend(self.each(at_once, tables, put)?);
        }
        let uploaded = version
            .tables()
            .iter()
            .map(|table| UploadedTable {
                meta: table.meta,
                location: Arc::clone(&locations[&table.meta.file]),
                slice: table.slice,
                dropped: table.dropped(),
            })
            .collect();
        Ok((uploaded, bytes))
    }

    /// How many tables of so many bytes are put at a time.
    fn at_once(&self, sink: &dyn SnapshotSink, bytes: u64) -> usize {
        // What waits for others runs the background itself: in one order.
        if self.config.executor.is_driven_by_caller() { 1 } else { sink.puts_at_once(bytes) }
    }

    fn each<R: Send + 'static>(
        &self,
        at_once: usize,
        tables: Vec<Arc<TableEntry>>,
        work: impl Fn(Arc<TableEntry>) -> Result<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        parallel::for_each(&*self.config.env, "alluvium-store", at_once, tables, work)
    }

    /// Hands the sink one table, and notes where it is.
    fn put(
        &self,
        table: &Arc<TableEntry>,
        to: &Destination,
        uploading: &Uploading,
    ) -> Result<(FileId, Arc<str>)> {
        let TableMeta { file, bytes: all_bytes, .. } = table.meta;
        let sink = to.sink(&self.config.sink);
        let name = match to {
            // Another shard, or a snapshot of an earlier life, may have used the other name.
            Destination::Own(SnapshotMode::Full) => {
                format!("{file}-{}.table", self.config.files.next())
            }
            Destination::Own(SnapshotMode::Incremental) | Destination::Elsewhere(_) => {
                format!("{file}.table")
            }
        };
        let mut copied = self.config.ledger.charge(MemoryComponent::Uploading, 0);
        let mut done_bytes = 0;
        let location = loop {
            let (bytes, local) = self.open_bytes(table)?;
            let put = sink.put_table(
                &TableUpload {
                    name: &name,
                    contents: contents(&table.meta),
                    local: local.as_ref().map(|file| file.path()),
                    bytes: &*bytes,
                },
                &mut |done| {
                    // A link is all that a local store needs.
                    if done > 0 {
                        copied.set(all_bytes.min(COPY_STEP_BYTES as u64));
                    }
                    uploading.advance(std::mem::replace(&mut done_bytes, done), done);
                    self.breathe();
                    !uploading.is_cancelled()
                },
            );
            match (put, local) {
                (Err(error), Some(file)) if error.kind() == ErrorKind::Corrupt => {
                    self.give_up_local(table, &file, error)?;
                }
                (put, _) => break put,
            }
        };
        let location = location.map_err(|error| error.at(format_args!("table {file}")))?;
        let location: Arc<str> = location.into();
        if let Destination::Own(_) = to {
            table.set_stored(Stored {
                store: sink.identity(),
                location: Arc::clone(&location),
                confirmed: false,
                named: false,
            });
        }
        self.tables.lock().done.uploaded_bytes += all_bytes;
        uploading.advance(done_bytes, all_bytes);
        Ok((file, location))
    }

    /// Where a snapshot of this kind may name the table in the store: in the newest place
    /// that is there; none if it must be put there.
    fn stored_at(
        &self,
        table: &TableEntry,
        store: &str,
        mode: SnapshotMode,
    ) -> Result<Option<Arc<str>>> {
        let places = table.places().stored;
        for stored in places.iter().rev().filter(|stored| stored.store == store) {
            // What a snapshot uploaded that then failed is nobody else's.
            if mode == SnapshotMode::Full && stored.named {
                return Ok(None);
            }
            if stored.confirmed
                || self.config.sink.holds_table(&stored.location, &contents(&table.meta))?
            {
                return Ok(Some(Arc::clone(&stored.location)));
            }
            table.not_stored(&stored.location);
        }
        Ok(None)
    }
}

fn contents(meta: &TableMeta) -> Contents {
    Contents { bytes: meta.bytes, hash: meta.hash }
}
