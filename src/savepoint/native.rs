//! A savepoint as a folder of its own, that can be moved and copied anywhere.
//!
//! ```text
//! tables/FILE.table    the tables, byte for byte as the checkpoint has them
//! manifests/NAME       one for each shard, naming those tables
//! savepoint            metadata, as of a checkpoint (see `format::checkpoint`); written
//!                      last: without it the folder is no savepoint
//! origin               which coordinator had it put here, in words; written first, so that
//!                      two do not meet. An exported one has none
//! ```
//!
//! There are two ways to one. [`export_native`] copies a completed checkpoint: whoever
//! calls it reads every table of it from the job's store and puts it into the folder. Or
//! the shards put their tables there themselves, at a barrier
//! ([`NativeSavepoint::sink`], and [`Coordinator::savepoint_into`] for a whole job): that
//! reads what is in the local directories from there, on all machines at a time, and the
//! job's store is asked for the rest only.
//!
//! [`Coordinator::savepoint_into`]: crate::Coordinator::savepoint_into
//!
//! All locations are relative to the folder, and no handle names a store. A shard that
//! is restored from it uploads what it needs with its first snapshot, so the folder may
//! go when that is complete and the shards are warm.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{Error, ErrorKind, Result};
use crate::format::checkpoint::{Checkpoint, ShardPart};
use crate::format::handle::SnapshotHandle;
use crate::object::{Contents, ObjectName, ObjectStore};
use crate::restore::read_manifest;
use crate::snapshot::sink::{SnapshotSink, SnapshotSource, StoreSink, TableUpload};

/// Name of the metadata.
pub(crate) const METADATA: &str = "savepoint";
/// Name of the object that claims a folder.
pub(crate) const ORIGIN: &str = "origin";
/// Longest metadata that is read, in bytes: a million shards have less.
const MAX_METADATA_BYTES: u64 = 2 << 30;

/// How far an export is, in bytes of tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExportProgress {
    /// Bytes that were copied.
    pub done_bytes: u64,
    /// Bytes of the table that is being copied, and of those before it.
    pub known_bytes: u64,
    /// Shards whose tables are all there.
    pub done_shards: usize,
    /// Shards of the checkpoint.
    pub shards: usize,
}

/// Copies a checkpoint with all that it needs from `source` into `target`, an empty
/// store or a [folder](crate::object::FolderStore) of one, verifying every table on the
/// way. `keep_going` is told every few megabytes how far it is, and ends it by saying
/// no.
///
/// An export that was cut short can be repeated: what is there already is recognised by
/// its bytes.
///
/// # Errors
/// `Invalid` if there is another savepoint in `target`; `Corrupt` if a file is missing
/// or damaged; `Unavailable` if a store fails, or `keep_going` said no.
pub fn export_native(
    checkpoint: &Checkpoint,
    source: &dyn SnapshotSource,
    target: Arc<dyn ObjectStore>,
    keep_going: &mut dyn FnMut(ExportProgress) -> bool,
) -> Result<NativeSavepoint> {
    let shards = copy_shards(checkpoint, source, &*target, "", "", keep_going)?;
    let exported = Checkpoint { shards, ..checkpoint.clone() };
    put(&*target, &ObjectName::new(METADATA)?, &exported.encode()?)?;
    Ok(NativeSavepoint { store: target, checkpoint: exported })
}

/// Copies what the shards of a checkpoint need into `folder` of `target` (empty, or with
/// a slash at its end), and gives handles that lead there, in a store of this identity.
pub(crate) fn copy_shards(
    checkpoint: &Checkpoint,
    source: &dyn SnapshotSource,
    target: &dyn ObjectStore,
    folder: &str,
    identity: &str,
    keep_going: &mut dyn FnMut(ExportProgress) -> bool,
) -> Result<Vec<ShardPart>> {
    let mut progress =
        ExportProgress { shards: checkpoint.shards.len(), ..ExportProgress::default() };
    // Shards may share files.
    let mut copied: BTreeMap<String, String> = BTreeMap::new();
    let mut shards = Vec::with_capacity(checkpoint.shards.len());
    for (number, shard) in checkpoint.shards.iter().enumerate() {
        let mut manifest = read_manifest(source, &shard.handle)?;
        for table in &mut manifest.tables {
            if let Some(location) = copied.get(&table.location) {
                table.location.clone_from(location);
                continue;
            }
            let name = ObjectName::new(format!("{folder}tables/{}.table", table.meta.file))?;
            let contents = Contents { bytes: table.meta.bytes, hash: table.meta.hash };
            progress.known_bytes += contents.bytes;
            let before = progress.done_bytes;
            let bytes = source.open(&table.location)?;
            let created = target.create_from_source(&name, &*bytes, &contents, &mut |done| {
                progress.done_bytes = before + done;
                keep_going(progress)
            });
            created.or_else(|error| is_there(target, &name, contents, error))?;
            progress.done_bytes = before + contents.bytes;
            copied.insert(table.location.clone(), name.as_str().to_owned());
            name.as_str().clone_into(&mut table.location);
        }
        let bytes = manifest.encode()?;
        let groups = manifest.groups;
        let name = ObjectName::new(format!(
            "{folder}manifests/{:020}-{number:06}-{:05}-{:05}.manifest",
            checkpoint.id.0,
            groups.first().0,
            groups.last().0
        ))?;
        put(target, &name, &bytes)?;
        let handle = SnapshotHandle::new(&manifest, &bytes, identity, name.as_str())?;
        shards.push(ShardPart { handle, costs: shard.costs });
        progress.done_shards += 1;
    }
    Ok(shards)
}

/// Why a handle has no place in a savepoint.
pub(crate) fn not_in_folder(handle: &SnapshotHandle) -> Error {
    Error::invalid("a snapshot is not in the folder of the savepoint")
        .at(format_args!("shard {} of {:?}", handle.groups(), handle.operator()))
        .expected("one that was taken into the savepoint's sink")
        .found(format_args!("{} in {:?}", handle.manifest(), handle.store()))
        .remedy("take the snapshot with Shard::snapshot_to")
}

/// Creates an object, or finds it there with the same bytes.
fn put(store: &dyn ObjectStore, name: &ObjectName, bytes: &[u8]) -> Result<()> {
    let created = store.create(name, bytes);
    created.or_else(|error| is_there(store, name, Contents::of(bytes), error))
}

fn is_there(
    store: &dyn ObjectStore,
    name: &ObjectName,
    contents: Contents,
    error: Error,
) -> Result<()> {
    let exists = error.kind() == ErrorKind::Invalid || error.may_have_happened();
    if !exists {
        return Err(error);
    }
    match crate::object::is_same(store, name, &contents)? {
        Some(true) => return Ok(()),
        Some(false) => {}
        None if error.may_have_happened() => return Err(error),
        None => {
            return Err(Error::unavailable("an object was there, and has gone")
                .at(name)
                .remedy("find out who else deletes in this folder, and try again"));
        }
    }
    Err(Error::invalid("the folder holds another savepoint, or something else")
        .at(name)
        .expected(format_args!("nothing, or {contents}"))
        .remedy("export into an empty folder"))
}

/// Puts the files of snapshots into the folder of a savepoint.
#[derive(Debug)]
struct Folder(StoreSink);

impl SnapshotSink for Folder {
    /// None: it may be moved.
    fn identity(&self) -> String {
        String::new()
    }

    fn put_table(
        &self,
        table: &TableUpload<'_>,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<String> {
        self.0.put_table(table, keep_going)
    }

    fn puts_at_once(&self, bytes: u64) -> usize {
        self.0.puts_at_once(bytes)
    }

    fn holds_table(&self, location: &str, contents: &Contents) -> Result<bool> {
        self.0.holds_table(location, contents)
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<String> {
        self.0.put_manifest(name, bytes)
    }
}

/// A savepoint in a folder.
#[derive(Debug)]
pub struct NativeSavepoint {
    store: Arc<dyn ObjectStore>,
    checkpoint: Checkpoint,
}

impl NativeSavepoint {
    /// Opens the savepoint that fills a store, or a folder of one; `None` if there is
    /// none.
    ///
    /// # Errors
    /// `Corrupt` or `Incompatible` if its metadata cannot be read, `Unavailable` if the
    /// store cannot.
    pub fn open(store: Arc<dyn ObjectStore>) -> Result<Option<Self>> {
        let name = ObjectName::new(METADATA)?;
        let Some(len) = store.len_of(&name)? else { return Ok(None) };
        if len > MAX_METADATA_BYTES {
            return Err(Error::corrupt("the metadata of a savepoint is too large")
                .at(&name)
                .expected(format_args!("at most {MAX_METADATA_BYTES} bytes"))
                .found(len));
        }
        let object = store.open(&name)?;
        let mut bytes = vec![0; object.len().min(MAX_METADATA_BYTES) as usize];
        object
            .read_at(0, &mut bytes)
            .map_err(|source| Error::io("a savepoint could not be read", source).at(&name))?;
        let checkpoint = Checkpoint::decode(&bytes).map_err(|error| error.at(&name))?;
        Ok(Some(Self { store, checkpoint }))
    }

    /// A sink for the shards of a job, which together make a savepoint of an empty store,
    /// or an empty [folder](crate::object::FolderStore) of one, with
    /// [`Shard::snapshot_to`](crate::Shard::snapshot_to). It is one when
    /// [`complete`](Self::complete) has been called.
    pub fn sink(store: Arc<dyn ObjectStore>) -> Arc<dyn SnapshotSink> {
        Arc::new(Folder(StoreSink::new(store)))
    }

    /// Makes a savepoint of what shards have put into the [sink](Self::sink) of a store:
    /// writes its metadata, by one create.
    ///
    /// # Errors
    /// `Invalid` if there is another savepoint, if a handle leads elsewhere, or if it
    /// breaks a promise of the format: key groups of an operator are missing, say.
    /// `Unavailable` if the store fails; may be repeated.
    pub fn complete(store: Arc<dyn ObjectStore>, checkpoint: Checkpoint) -> Result<Self> {
        let mut handles = checkpoint.shards.iter().map(|shard| &shard.handle);
        if let Some(elsewhere) = handles.find(|handle| !handle.store().is_empty()) {
            return Err(not_in_folder(elsewhere));
        }
        put(&*store, &ObjectName::new(METADATA)?, &checkpoint.encode()?)?;
        Ok(Self { store, checkpoint })
    }

    /// What it is.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Opens its files: for [`ShardBuilder::source`](crate::ShardBuilder::source).
    pub fn source(&self) -> Arc<dyn SnapshotSource> {
        Arc::new(StoreSink::new(Arc::clone(&self.store)))
    }

    /// The store that it fills.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Deletes it: the metadata first, so that nobody begins to read what is going.
    ///
    /// # Errors
    /// `Unavailable` if the store fails; may be repeated through
    /// [`dispose_leftovers`](Self::dispose_leftovers).
    pub fn dispose(self) -> Result<()> {
        self.store.remove(&ObjectName::new(METADATA)?)?;
        Self::dispose_leftovers(&*self.store)
    }

    /// Deletes what is left in a folder of an export or a disposal that was cut short.
    ///
    /// # Errors
    /// `Invalid` if there is a savepoint; `Unavailable` if the store fails.
    pub fn dispose_leftovers(store: &dyn ObjectStore) -> Result<()> {
        if store.len_of(&ObjectName::new(METADATA)?)?.is_some() {
            return Err(Error::invalid("there is a whole savepoint")
                .at(store.identity())
                .remedy("open it and dispose of it"));
        }
        for prefix in ["manifests/", "tables/"] {
            for name in store.list(prefix)? {
                store.remove(&name)?;
            }
        }
        // Last: until then nobody may begin here.
        store.remove(&ObjectName::new(ORIGIN)?)
    }
}
