//! Immutable named blobs: where tables, manifests and checkpoint metadata live
//! once they have left the machine that wrote them.
//!
//! An object is created once, whole and durably, and never changes. That is
//! all the engine asks of a store, so that a directory, an object store in a
//! cloud and a map in memory can all be one. Which objects make up a
//! checkpoint, and when one may go, is not known here.
//!
//! - [`LocalStore`]: a directory, on a local disk or a shared file system.
//! - [`MemoryStore`]: a map, for tests and examples.
//! - [`FolderStore`]: a part of another store.
//! - `RemoteStore`, with the feature `object-store`: Amazon S3 and what speaks like it,
//!   Google Cloud Storage, Azure; with the feature `hdfs`, HDFS.
//!
//! [`open_url`] finds the one that a URL asks for.

mod folder;
mod local;
mod memory;
mod name;
#[cfg(feature = "object-store")]
mod remote;
mod url;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use folder::FolderStore;
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use name::{MAX_NAME_BYTES, MAX_SEGMENT_BYTES, ObjectName};
#[cfg(feature = "object-store")]
pub use remote::{MAX_PART_BYTES, MIN_PART_BYTES, RemoteOptions, RemoteStore};
pub(crate) use url::directory_of;
pub use url::open_url;

use crate::base::checksum::{self, ContentHash, ContentHasher};
use crate::base::{Error, Result};
use crate::env::ReadAt;
use crate::env::mmap::PageBuf;

/// Most bytes that are copied before the caller is asked again whether to go
/// on: 2 MiB, a few milliseconds on a disk, so that a cancelled upload ends
/// soon and a merge can give way to it.
pub const COPY_STEP_BYTES: usize = 2 << 20;

/// What an object must hold: its size and the hash of all its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Contents {
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of all of them.
    pub hash: ContentHash,
}

impl Contents {
    /// The contents that are just these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, hash: checksum::of_contents(bytes) }
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes with hash {}", self.bytes, self.hash)
    }
}

/// A place for immutable named blobs. All calls block.
///
/// # For implementers
///
/// - A create that returns `Ok` survives a power cut of the machine that
///   called it and of the store. One that fails has no effect, unless the
///   error [says otherwise](Error::may_have_happened).
/// - What [`len_of`](Self::len_of) and [`list`](Self::list) report to exist is
///   durable: whoever asks after an ambiguous create may build on the answer.
///   [`open`](Self::open) does not vouch for that; it is for objects whose
///   create is known to have succeeded.
/// - "It is not there" is only said when the store positively knows.
/// - `keep_going` is asked before every step of at most [`COPY_STEP_BYTES`]
///   and told how many bytes are done; when it says no, the create fails with
///   `Unavailable` and leaves nothing.
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// A stable text that tells two stores apart. Equal texts mean that an
    /// object in one is the object of that name in the other.
    fn identity(&self) -> String;

    /// Whether objects are read over a network, so that copies on a disk of this
    /// machine would be faster.
    fn is_remote(&self) -> bool {
        false
    }

    /// How many objects of so many bytes each are best created at a time, on several
    /// threads: more than one where creating is waiting for somebody far away. An object
    /// that is created in parallel parts is best created alone.
    fn creates_at_once(&self, bytes: u64) -> usize {
        let _ = bytes;
        1
    }

    /// Creates `name` from bytes: afterwards it exists whole, or not at all.
    ///
    /// # Errors
    /// `Invalid` if the name exists; nothing changes then. `Unavailable` if
    /// the store fails; ambiguous if the object may exist nevertheless.
    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()>;

    /// Creates `name` from a finished local file, one that is synced and will
    /// not change: by a hard link where possible, else by copying it.
    ///
    /// # Errors
    /// As [`create`](Self::create), and `Corrupt` if the file is not what is
    /// `expected`: its size always, its hash when it is copied.
    fn create_from_file(
        &self,
        name: &ObjectName,
        local: &Path,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()>;

    /// Creates `name` by copying what can be read from `source`, such as an
    /// object in another store.
    ///
    /// # Errors
    /// As [`create`](Self::create), and `Corrupt` if what was read is not what
    /// is `expected`.
    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()>;

    /// Opens an object for reading. It stays readable if it is removed; in a store that
    /// has no such thing as an open file, reading it fails then, as `NotFound`.
    ///
    /// # Errors
    /// `Corrupt` if the store is there and the object is not: trying again
    /// will not bring it back. `Unavailable` if the store cannot be reached.
    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>>;

    /// The size of an object; `None` only if the store positively says that it
    /// does not exist.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot tell.
    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>>;

    /// The names that begin with `prefix`, which may end inside a segment,
    /// sorted. Objects created or removed meanwhile may be missing or there.
    ///
    /// # Errors
    /// `Invalid` if no name can begin so; `Unavailable` if the store cannot
    /// tell.
    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>>;

    /// Removes an object, durably. To remove what does not exist is no error,
    /// so that a removal can be repeated when its outcome was lost.
    ///
    /// # Errors
    /// `Unavailable` if the store fails; ambiguous if the object may be gone.
    fn remove(&self, name: &ObjectName) -> Result<()>;
}

#[cfg(not(feature = "hdfs"))]
fn needs_feature(scheme: &str, feature: &str) -> Error {
    Error::invalid("this kind of object store was left out when the engine was built")
        .at(format_args!("{scheme}://"))
        .remedy(format_args!("build the crate alluvium with its feature \"{feature}\""))
}

fn already_exists(name: &ObjectName) -> Error {
    Error::invalid("an object of this name exists already, and objects never change")
        .at(name)
        .remedy("names are made to be unique: find out who created it")
}

fn missing(name: &ObjectName, store: &dyn ObjectStore) -> Error {
    Error::corrupt("an object that should exist is missing")
        .at(format_args!("{name} in {}", store.identity()))
        .remedy("put it back from a backup, or restore a checkpoint that does not need it")
}

/// Whether an object is what it should be, judged by all its bytes.
///
/// # Errors
/// `Unavailable` if it cannot be read.
pub(crate) fn holds(
    store: &dyn ObjectStore,
    name: &ObjectName,
    contents: &Contents,
) -> Result<bool> {
    Ok(is_same(store, name, contents)? == Some(true))
}

/// Whether an object holds just this; `None` if there is none. One look says both, since
/// others may remove it between two.
///
/// # Errors
/// As [`holds`].
pub(crate) fn is_same(
    store: &dyn ObjectStore,
    name: &ObjectName,
    contents: &Contents,
) -> Result<Option<bool>> {
    match store.len_of(name)? {
        None => return Ok(None),
        Some(bytes) if bytes != contents.bytes => return Ok(Some(false)),
        Some(_) => {}
    }
    match hash_of(store, name, contents.bytes) {
        Ok(hash) => Ok(Some(hash == contents.hash)),
        // It has gone since.
        Err(_) if store.len_of(name)?.is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The hash of the first so many bytes of an object, which it must have.
fn hash_of(store: &dyn ObjectStore, name: &ObjectName, bytes: u64) -> Result<ContentHash> {
    let object = store.open(name)?;
    let mut hasher = ContentHasher::new();
    let mut buffer = vec![0; bytes.min(COPY_STEP_BYTES as u64) as usize];
    let mut done = 0;
    while done < bytes {
        let step = (bytes - done).min(buffer.len() as u64) as usize;
        object
            .read_at(done, &mut buffer[..step])
            .map_err(|source| Error::io("an object could not be read back", source).at(name))?;
        hasher.update(&buffer[..step]);
        done += step as u64;
    }
    Ok(hasher.finish())
}

fn cancelled(name: &ObjectName, done: u64) -> Error {
    Error::unavailable("cancelled").at(name).found(format_args!("{done} bytes copied"))
}

fn not_as_expected(name: &ObjectName, expected: &Contents, found: impl fmt::Display) -> Error {
    Error::corrupt("what was to be stored is not what it should be")
        .at(name)
        .expected(expected)
        .found(found)
        .remedy("do not use this source; write it anew or take another copy")
}

/// Reads all of `source` in steps, hands them to `sink`, and vouches that they
/// were what was `expected`.
fn copy_checked(
    name: &ObjectName,
    source: &dyn ReadAt,
    expected: &Contents,
    keep_going: &mut dyn FnMut(u64) -> bool,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let total = source.len();
    if total != expected.bytes {
        return Err(not_as_expected(name, expected, format_args!("{total} bytes")));
    }
    let step_bytes = total.min(COPY_STEP_BYTES as u64) as usize;
    // Outside of the heap, where it would leave a hole as large as itself.
    let mut buffer = PageBuf::on_small_pages(step_bytes.max(1))
        .map_err(|e| Error::io("no memory to copy what is to be stored", e).at(name))?;
    let mut hasher = ContentHasher::new();
    let mut done = 0;
    loop {
        if !keep_going(done) {
            return Err(cancelled(name, done));
        }
        let step = (total - done).min(step_bytes as u64) as usize;
        if step == 0 {
            break;
        }
        let piece = &mut buffer[..step];
        source
            .read_at(done, piece)
            .map_err(|e| Error::io("cannot read what is to be stored", e).at(done).at(name))?;
        hasher.update(piece);
        sink(piece)?;
        done += step as u64;
    }
    let hash = hasher.finish();
    if hash != expected.hash {
        return Err(not_as_expected(name, expected, Contents { bytes: done, hash }));
    }
    Ok(())
}
