//! Where snapshots go, and where they come from: the two seams that a runtime
//! may implement itself.
//!
//! Upload control is inverted: a snapshot hands finished files to a
//! [`SnapshotSink`], so that a runtime which has its own checkpoint streams
//! keeps them. [`StoreSink`] is the sink for those that do not; it writes into
//! an [`ObjectStore`].

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::base::{Error, ErrorKind, Result};
use crate::env::ReadAt;
use crate::object::{Contents, ObjectName, ObjectStore, holds};

/// A finished, immutable table on its way into a store.
#[derive(Clone, Copy)]
pub struct TableUpload<'a> {
    /// A name that no other table ever has.
    pub name: &'a str,
    /// Its size and the hash of its bytes.
    pub contents: Contents,
    /// The table as a file of this machine, if it is one: synced, and not to
    /// be changed or removed.
    pub local: Option<&'a Path>,
    /// Its bytes.
    pub bytes: &'a dyn ReadAt,
}

impl fmt::Debug for TableUpload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableUpload({}, {})", self.name, self.contents)
    }
}

/// Takes the files of snapshots. All calls come from background threads and
/// may block. Several shards call it at the same time, and one shard does if the sink says
/// so ([`puts_at_once`](Self::puts_at_once)).
///
/// # For implementers
///
/// - `Ok` means durable. What is not durable yet must not be reported.
/// - Neither call may replace anything that exists.
/// - An error that is [ambiguous](Error::may_have_happened) makes the snapshot
///   fail; the same table may be handed in again by the next one.
/// - The engine never deletes what it handed in: that is the business of
///   whoever knows which snapshots are still needed.
/// - Whoever discards the tables of an aborted snapshot does so while no
///   later snapshot of that shard is under way, or keeps those that a later one
///   was told it [holds](Self::holds_table).
pub trait SnapshotSink: Send + Sync + fmt::Debug {
    /// A stable text that tells two stores apart. A restored table that is
    /// already in the store of this name is referred to, not uploaded again.
    fn identity(&self) -> String;

    /// Stores a table and returns the location that manifests will name.
    /// `keep_going` is asked every few megabytes, with the bytes done so far,
    /// and ends the call with an `Unavailable` error when it says no.
    ///
    /// # Errors
    /// Any; the snapshot then fails with it, and the next one tries again.
    fn put_table(
        &self,
        table: &TableUpload<'_>,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<String>;

    /// How many tables of so many bytes each may be put at a time, by calls of
    /// [`put_table`](Self::put_table) on several threads; with 0 bytes, how many may be
    /// asked for at a time by [`holds_table`](Self::holds_table). One, unless a sink says
    /// otherwise, and always in a backend without background threads.
    fn puts_at_once(&self, bytes: u64) -> usize {
        let _ = bytes;
        1
    }

    /// Whether a table that was stored for a snapshot which has not been
    /// confirmed is still there, whole. A runtime that discards the files of
    /// aborted snapshots says no, and gets the table again.
    ///
    /// # Errors
    /// If it cannot be told; the snapshot then fails.
    fn holds_table(&self, location: &str, contents: &Contents) -> Result<bool>;

    /// Stores a manifest, whole or not at all, and returns its location. By
    /// then everything that it names is durable. `name` is never used twice.
    ///
    /// # Errors
    /// Any; the snapshot then fails with it.
    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<String>;
}

/// Opens what a [`SnapshotSink`] stored.
pub trait SnapshotSource: Send + Sync + fmt::Debug {
    /// The same text as that of the sink which stored the files.
    fn identity(&self) -> String;

    /// Whether what it opens is read over a network, so that a copy on a disk of this
    /// machine would be faster. A backend with a memory budget then fetches such
    /// copies in the background; see
    /// [`local_copies`](crate::BackendBuilder::local_copies).
    fn is_remote(&self) -> bool {
        false
    }

    /// Opens a table or manifest by its location. Called by whoever opens a shard, by
    /// background threads, and by a task thread if it meets a damaged local file. What
    /// was opened is read by all of them, for as long as the shard lives.
    ///
    /// # Errors
    /// `Corrupt` if it positively does not exist, `Unavailable` if it cannot
    /// be reached.
    fn open(&self, location: &str) -> Result<Arc<dyn ReadAt>>;
}

/// Keeps snapshots in an [`ObjectStore`]: tables as `tables/NAME`, manifests as
/// `manifests/NAME`, in a folder if one is given. Locations are those of the whole
/// store, so that what is new in one folder may refer to what lies in another.
#[derive(Clone, Debug)]
pub struct StoreSink {
    store: Arc<dyn ObjectStore>,
    /// Empty, or ends with a slash.
    folder: Arc<str>,
}

impl StoreSink {
    /// A sink and source over `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, folder: "".into() }
    }

    /// A sink that puts what is new into a folder of `store`, and a source of all of
    /// it.
    pub fn in_folder(store: Arc<dyn ObjectStore>, folder: &ObjectName) -> Self {
        Self { store, folder: format!("{folder}/").into() }
    }

    /// Puts something by `create`, or finds that it is there already: after a
    /// create whose reply was lost, or one that an earlier snapshot made. It
    /// is recognised by all its bytes, never by its name or size.
    fn put(
        &self,
        name: &ObjectName,
        contents: &Contents,
        create: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let Err(error) = create() else { return Ok(()) };
        let exists = error.kind() == ErrorKind::Invalid || error.may_have_happened();
        if exists && holds(&*self.store, name, contents)? { Ok(()) } else { Err(error) }
    }
}

impl SnapshotSink for StoreSink {
    fn identity(&self) -> String {
        self.store.identity()
    }

    fn put_table(
        &self,
        table: &TableUpload<'_>,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<String> {
        let name = ObjectName::new(format!("{}tables/{}", self.folder, table.name))?;
        self.put(&name, &table.contents, || match table.local {
            Some(path) => self.store.create_from_file(&name, path, &table.contents, keep_going),
            None => self.store.create_from_source(&name, table.bytes, &table.contents, keep_going),
        })?;
        Ok(name.as_str().to_owned())
    }

    fn puts_at_once(&self, bytes: u64) -> usize {
        self.store.creates_at_once(bytes)
    }

    fn holds_table(&self, location: &str, contents: &Contents) -> Result<bool> {
        // Its bytes were verified when it was stored, and objects never change.
        Ok(self.store.len_of(&ObjectName::new(location)?)? == Some(contents.bytes))
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let name = ObjectName::new(format!("{}manifests/{name}", self.folder))?;
        self.put(&name, &Contents::of(bytes), || self.store.create(&name, bytes))?;
        Ok(name.as_str().to_owned())
    }
}

impl SnapshotSource for StoreSink {
    fn identity(&self) -> String {
        self.store.identity()
    }

    fn is_remote(&self) -> bool {
        self.store.is_remote()
    }

    fn open(&self, location: &str) -> Result<Arc<dyn ReadAt>> {
        // The location comes out of a file: only a well-formed name gets near
        // the store.
        let name = ObjectName::new(location).map_err(|error| {
            Error::corrupt("a snapshot names something that cannot be an object")
                .source(error)
                .remedy("restore from another copy of the snapshot")
        })?;
        self.store.open(&name)
    }
}
