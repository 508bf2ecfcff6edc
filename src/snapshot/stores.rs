//! Opening a table where it is: in the local directory, or in the store that has it.
//!
//! A local file comes first. One that is missing or damaged, be it when it is opened or
//! when a block of it is read, gives way to the copy in the store, and is given up, if a
//! store has the table; whoever was reading goes on there, since copies of a table are
//! the same byte for byte. A store that does not answer is an error that may be tried
//! again.
//!
//! After a [full](crate::SnapshotMode::Full) snapshot a store has a table in two places,
//! and once that snapshot's checkpoint is complete the older one may go, perhaps before
//! the shard hears of it. Whoever then meets an object that is gone reads on in the newer
//! place. An object that is there and cannot be read is no reason to.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::base::{Error, ErrorKind, Result};
use crate::env::ledger::MemoryLedger;
use crate::env::local_files::LocalFile;
use crate::env::{Env, ReadAt};
use crate::format::table::TableMeta;
use crate::table::TableReader;
use crate::table::origin::{Origin, Spare};
use crate::version::{Places, Stored, TableEntry, TableFile};

use super::pipeline::Pipeline;
use super::sink::SnapshotSource;

/// What to do about a local file that nobody else has.
const NOBODY_HAS_IT: &str = "no store has this table yet, so its changes are lost: restore the \
     last completed snapshot, and leave the backend's directory alone while it is open";

/// What is counted of reading from stores, and of local files that gave way.
#[derive(Debug, Default)]
pub(crate) struct StoreCounts {
    /// Bytes read from stores.
    pub(crate) read_bytes: Arc<AtomicU64>,
    /// Local files that were missing or damaged.
    pub(super) lost_files: AtomicU64,
}

/// The stores that tables can be opened from, by their identities.
#[derive(Clone)]
pub(crate) struct Stores {
    sources: Arc<[(String, Arc<dyn SnapshotSource>)]>,
    counts: Arc<StoreCounts>,
    ledger: Arc<MemoryLedger>,
}

impl Stores {
    pub(crate) fn new(
        sources: impl IntoIterator<Item = Arc<dyn SnapshotSource>>,
        counts: &Arc<StoreCounts>,
        ledger: &Arc<MemoryLedger>,
    ) -> Self {
        let named = sources.into_iter().map(|source| (source.identity(), source));
        let (counts, ledger) = (Arc::clone(counts), Arc::clone(ledger));
        Self { sources: named.collect(), counts, ledger }
    }

    /// The source that opens what the store has.
    pub(super) fn source_of(&self, stored: &Stored) -> Option<&Arc<dyn SnapshotSource>> {
        let mut sources = self.sources.iter();
        sources.find(|(identity, _)| *identity == stored.store).map(|(_, source)| source)
    }

    /// Whether any of them is remote.
    pub(super) fn is_any_remote(&self) -> bool {
        self.sources.iter().any(|(_, source)| source.is_remote())
    }

    /// Whether a table may be read from a store from now on, as nobody discards it
    /// there.
    pub(super) fn are_relied_upon(&self, places: &Places) -> bool {
        let confirmed = |stored: &Stored| stored.confirmed && self.source_of(stored).is_some();
        // What the shard was restored from is open and stays so.
        places.restored.is_some() || places.stored.iter().any(confirmed)
    }

    fn bytes(&self, stored: &Stored) -> Option<Result<Arc<dyn ReadAt>>> {
        let Stored { location, .. } = stored;
        let opened = self.source_of(stored)?.open(location);
        Some(opened.map_err(|error| error.at(format_args!("table {location}"))))
    }

    /// Opens a table where it is stored; `None` if it is not.
    ///
    /// # Errors
    /// Why it cannot be opened there.
    pub(super) fn open(
        &self,
        table: &Arc<TableFile>,
        how: OpenTable,
    ) -> Result<Option<Arc<TableReader>>> {
        let places = table.places();
        let mut failure = None;
        if let Some(bytes) = places.restored
            // Unless it has been put into another store since, that is where it is.
            && let Some(first) = places.stored.first()
        {
            match how(bytes, &table.meta) {
                Ok(reader) => return Ok(Some(self.opened(table, reader, first))),
                Err(error) => failure = Some(error),
            }
        }
        for stored in &places.stored {
            let Some(bytes) = self.bytes(stored) else { continue };
            match bytes.and_then(|bytes| how(bytes, &table.meta)) {
                Ok(reader) => return Ok(Some(self.opened(table, reader, stored))),
                Err(error) => {
                    let is_gone = error.kind() == ErrorKind::Corrupt;
                    failure = Some(error);
                    if !is_gone {
                        break;
                    }
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// A table that is open in a store.
    pub(crate) fn opened(
        &self,
        table: &Arc<TableFile>,
        reader: TableReader,
        stored: &Stored,
    ) -> Arc<TableReader> {
        let spare = Newer {
            table: Arc::downgrade(table),
            store: stored.store.clone(),
            location: Arc::clone(&stored.location),
            stores: self.clone(),
        };
        let origin = Origin {
            reads: Arc::clone(table.reads()),
            store_bytes: Some(Arc::clone(&self.counts.read_bytes)),
            spare: Some(Arc::new(spare)),
            file: None,
        };
        Arc::new(reader.charged_to(&self.ledger).with_origin(origin))
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sources.iter().map(|(identity, _)| identity)).finish()
    }
}

/// The bytes of a table, and the local file if they are its.
pub(super) type TableBytes = (Arc<dyn ReadAt>, Option<Arc<LocalFile>>);

/// [`TableReader::open`] or [`TableReader::open_held`].
pub(super) type OpenTable = fn(Arc<dyn ReadAt>, &TableMeta) -> Result<TableReader>;

/// Another place of a table in the store, for who reads it in one that may be gone.
struct Newer {
    table: Weak<TableFile>,
    /// What the reader has open.
    store: String,
    location: Arc<str>,
    stores: Stores,
}

impl Spare for Newer {
    fn instead(&self, damage: Error) -> Result<Arc<TableReader>> {
        let Some(table) = self.table.upgrade() else { return Err(damage) };
        let is_own =
            |stored: &Stored| (&stored.store, &stored.location) == (&self.store, &self.location);
        let stored = table.places().stored;
        if stored.iter().all(is_own) {
            return Err(damage);
        }
        // Objects that are gone do not come back: nobody is sent to and fro.
        let own = Stored {
            store: self.store.clone(),
            location: Arc::clone(&self.location),
            confirmed: false,
            named: true,
        };
        match self.stores.bytes(&own) {
            Some(Err(error)) if error.kind() == ErrorKind::Corrupt => {}
            _ => return Err(damage),
        }
        for other in stored.iter().filter(|stored| !is_own(stored)) {
            let Some(bytes) = self.stores.bytes(other) else { continue };
            match bytes.and_then(|bytes| TableReader::open(bytes, &table.meta)) {
                Ok(reader) => {
                    let reader = self.stores.opened(&table, reader, other);
                    if table.places().local.is_none() {
                        table.replace_reader(Arc::clone(&reader));
                    }
                    return Ok(reader);
                }
                Err(error) => {
                    tracing::debug!(table = %table.meta.file, %error, "nor is it to be read here");
                }
            }
        }
        Err(damage)
    }
}

/// The copy of a table in the store, for who reads a local one.
struct InStore {
    table: Weak<TableFile>,
    /// What the reader has open.
    file: Weak<LocalFile>,
    stores: Stores,
}

impl Spare for InStore {
    fn instead(&self, damage: Error) -> Result<Arc<TableReader>> {
        // Gone from the shard, as after a merge: whoever reads on has nobody to ask.
        let Some(table) = self.table.upgrade() else { return Err(damage) };
        let local = table.places().local;
        let is_own = |file: &Arc<LocalFile>| Weak::ptr_eq(&self.file, &Arc::downgrade(file));
        if !local.as_ref().is_some_and(is_own)
            && let Some(reader) = table.reader().filter(|reader| reader.local_file().is_none())
        {
            // Somebody has met the damage before.
            return Ok(reader);
        }
        match self.stores.open(&table, TableReader::open) {
            Ok(Some(reader)) => {
                tracing::warn!(
                    table = %table.meta.file, %damage,
                    "a local file is missing or damaged; its table is read from the store"
                );
                self.stores.counts.lost_files.fetch_add(1, Ordering::Relaxed);
                if local.as_ref().is_some_and(is_own) {
                    table.leave_local(Some(Arc::clone(&reader)));
                }
                Ok(reader)
            }
            Ok(None) if damage.kind() == ErrorKind::Corrupt => Err(damage.remedy(NOBODY_HAS_IT)),
            Ok(None) => Err(damage),
            // Later perhaps.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                Err(error.at(format_args!("instead of a local file ({damage})")))
            }
            Err(error) => {
                tracing::warn!(table = %table.meta.file, %error, "the store cannot help");
                Err(damage)
            }
        }
    }
}

impl Pipeline {
    fn in_store(&self, table: &TableEntry, file: &Arc<LocalFile>) -> Arc<InStore> {
        Arc::new(InStore {
            table: Arc::downgrade(table.file()),
            file: Arc::downgrade(file),
            stores: self.stores().clone(),
        })
    }

    /// Opens the table where it is best read.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged everywhere, `Unavailable` if it cannot be reached.
    pub(super) fn open_table(
        &self,
        table: &TableEntry,
        how: OpenTable,
    ) -> Result<Arc<TableReader>> {
        let Some(file) = table.places().local else {
            // To open it once more would be to read its index once more.
            if let Some(reader) = table.reader() {
                return Ok(reader);
            }
            let opened = self.stores().open(table.file(), how)?;
            return opened.ok_or_else(|| nowhere(table));
        };
        let spare = self.in_store(table, &file);
        match open_local(self.env(), &file).and_then(|bytes| how(bytes, &table.meta)) {
            Ok(reader) => {
                let reads = Arc::clone(table.reads());
                let origin =
                    Origin { reads, store_bytes: None, spare: Some(spare), file: Some(file) };
                Ok(Arc::new(reader.charged_to(self.ledger()).with_origin(origin)))
            }
            // A file that lost its name may still be open.
            Err(error) => spare.instead(error).or_else(|error| table.reader().ok_or(error)),
        }
    }

    /// Gives up a local file that is not what it should be, if a store has its table.
    ///
    /// # Errors
    /// `damage`, if none has it, or why it cannot be had there.
    pub(super) fn give_up_local(
        &self,
        table: &TableEntry,
        file: &Arc<LocalFile>,
        damage: Error,
    ) -> Result<()> {
        self.in_store(table, file).instead(damage).map(drop)
    }

    /// The bytes of a table, and the local file if they are its.
    ///
    /// # Errors
    /// As of [`open_table`](Self::open_table).
    pub(super) fn open_bytes(&self, table: &TableEntry) -> Result<TableBytes> {
        if let Some(file) = table.places().local
            && let Ok(bytes) = open_local(self.env(), &file)
        {
            return Ok((bytes, Some(file)));
        }
        // Whoever copies does not ask block by block, as readers do, whether the place
        // before is gone.
        if let [_, .., newest] = &*table.places().stored
            && let Some(Ok(bytes)) = self.stores().bytes(newest)
        {
            return Ok((bytes, None));
        }
        let reader = self.open_table(table, TableReader::open)?;
        Ok((Arc::clone(reader.bytes()), None))
    }
}

fn open_local(env: &dyn Env, file: &LocalFile) -> Result<Arc<dyn ReadAt>> {
    env.fs().open(file.path()).map_err(|source| {
        let error = match source.kind() {
            io::ErrorKind::NotFound => {
                Error::corrupt("a table is missing from the local directory").source(source)
            }
            _ => Error::io("a table of the shard could not be opened", source),
        };
        error.at(file.path().display())
    })
}

fn nowhere(table: &TableEntry) -> Error {
    Error::internal("a table is neither in the local directory nor in a store")
        .at(format_args!("table {}", table.meta.file))
}
