//! A savepoint as a folder of its own, that can be moved and copied anywhere.
//!
//! ```text
//! tables/FILE.table    the tables, byte for byte as the checkpoint has them
//! manifests/NAME       one for each shard, naming those tables
//! savepoint            metadata, as of a checkpoint (see `format::checkpoint`); written
//!                      last: without it the folder is no savepoint
//! ```
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
use crate::snapshot::sink::{SnapshotSource, StoreSink};

/// Name of the metadata.
const METADATA: &str = "savepoint";
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
    if !exists || store.len_of(name)?.is_none() {
        return Err(error);
    }
    if crate::object::holds(store, name, &contents)? {
        return Ok(());
    }
    Err(Error::invalid("the folder holds another savepoint, or something else")
        .at(name)
        .expected(format_args!("nothing, or {contents}"))
        .remedy("export into an empty folder"))
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
        Ok(())
    }
}
