//! Objects as files in a directory, on a local disk or a shared file system.
//!
//! ```text
//! <root>/<name>                      an object; slashes make directories
//! <root>/.tmp/<incarnation>-<n>.tmp  an object being written
//! <root>/.tmp/<incarnation>.lock     held by the store handle that writes those
//! ```
//!
//! No object can have a name in `.tmp`, since no segment begins with a dot.
//!
//! # How an object comes to be
//!
//! 1. Its bytes are written to a temporary file and synced. A failure here
//!    leaves nothing under the final name; the file is abandoned.
//! 2. The directories of its name are made, and each is synced into its parent.
//! 3. The temporary file is linked to the final name. A link never replaces, so
//!    of two creators one fails, and a reader sees all of the object or none.
//! 4. The final directory is synced. Only if this fails is the outcome unknown:
//!    the name is there now and may be gone after a power cut.
//! 5. The temporary name is removed.
//!
//! A finished local file is linked directly (steps 2 to 4). Where the file
//! system has no links, step 3 looks for the name and then renames: safe among
//! the threads of one handle, and among several only because names are unique.
//!
//! # Reading back
//!
//! Having asked whether an object exists, how long it is or which there are, a
//! handle syncs the directory and those above before it answers, unless it did so before and has changed nothing
//! there since. So what it reports to exist, or not to exist, stays so after a
//! power cut, even if the process that created or removed the object died
//! between steps 3 and 4, or step 4 failed. (Another process that is just
//! between those steps has not reported success yet; its object may be seen a
//! moment too early.)
//!
//! # What is left behind
//!
//! A process that dies leaves temporary files, which do no harm but take
//! space. The next store opened on the root removes those whose owner is gone:
//! an owner holds a lock named after its incarnation, a random number of its
//! own, for as long as it lives, and the system drops the lock with the
//! process. Where locks do not work, nothing is cleaned. Should two openers
//! and a dying owner interleave so badly that a live temporary file is removed,
//! then step 3 fails, and the create with it, and can be repeated.
//! Directories that become empty stay.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::name::{check_prefix, parent_of};
use super::{
    Contents, ObjectName, ObjectStore, already_exists, cancelled, copy_checked, missing,
    not_as_expected,
};
use crate::base::{Error, Result};
use crate::env::{Env, Fs, ReadAt, WriteFile};

const TEMP_DIR: &str = ".tmp";

/// An [`ObjectStore`] in a directory.
///
/// The directory must be the engine's own; links in it are followed. Several
/// handles, in one process or many, may use one directory at once.
pub struct LocalStore {
    env: Arc<dyn Env>,
    /// Canonical.
    root: PathBuf,
    identity: String,
    incarnation: u64,
    next_temp: AtomicU64,
    dirs: Mutex<KnownDirs>,
    /// Where there are no links: held between looking for a name and renaming.
    renaming: Mutex<()>,
    /// Shows others that our temporary files are in use. `None` where locks do
    /// not work.
    lock: Option<Box<dyn Send + Sync>>,
}

/// What this handle has made sure of; directories by their path in the root.
#[derive(Default)]
struct KnownDirs {
    /// Their own names, and those of the directories above, are durable.
    placed: BTreeSet<String>,
    /// What is in them is durable, and was not changed by this handle since.
    settled: BTreeSet<String>,
    /// Changes begun so far, and how many of them are under way.
    changes_begun: u64,
    changes_open: u64,
}

/// Directories remembered per handle. Beyond, all are forgotten, which costs a
/// sync of each when next used.
const MAX_KNOWN_DIRS: usize = 10_000;

impl LocalStore {
    /// Opens the store in `root`, which is created if need be, and removes
    /// temporary files whose owner is gone.
    ///
    /// A root that can only be read is accepted; creating objects fails later.
    ///
    /// # Errors
    /// `Invalid` if the path is not UTF-8; `Unavailable` if the directory can
    /// neither be found nor made.
    pub fn open(env: Arc<dyn Env>, root: PathBuf) -> Result<Self> {
        let fs = env.fs();
        let open_error = |e: io::Error| io_error("cannot open a local object store", e, &root);
        fs.create_dir_all(&root).map_err(open_error)?;
        let canonical = fs.canonicalize(&root).map_err(open_error)?;
        let Some(text) = canonical.to_str() else {
            return Err(Error::invalid("the root of an object store must be UTF-8")
                .at(canonical.display())
                .remedy("choose another directory"));
        };
        let identity = format!("local:{text}");
        // The root may have been made by a process that died before it could
        // make the name durable, so all names on the way are synced.
        for above in canonical.ancestors().skip(1) {
            sync_for_reading(fs, above).map_err(open_error)?;
        }
        fs.create_dir_all(&canonical.join(TEMP_DIR)).map_err(open_error)?;
        let (incarnation, lock) = claim_incarnation(&*env, &canonical).map_err(open_error)?;
        let store = Self {
            identity,
            incarnation,
            next_temp: AtomicU64::new(0),
            dirs: Mutex::default(),
            renaming: Mutex::new(()),
            lock,
            root: canonical,
            env,
        };
        if store.lock.is_some()
            && let Err(error) = store.remove_orphans()
        {
            tracing::warn!(%error, root = %store.root.display(), "temporary files left by dead processes were not removed");
        }
        Ok(store)
    }

    /// The directory, as one absolute path without links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn fs(&self) -> &dyn Fs {
        self.env.fs()
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Removes the temporary files of incarnations that nobody holds.
    fn remove_orphans(&self) -> io::Result<()> {
        let temp = self.root.join(TEMP_DIR);
        let names = self.fs().list(&temp)?;
        let owners: BTreeSet<u64> = names.iter().filter_map(|name| owner_of(name)).collect();
        for owner in owners {
            if owner == self.incarnation {
                continue;
            }
            let lock_path = lock_path(&self.root, owner);
            let Some(_held) = self.fs().try_lock(&lock_path)? else {
                continue;
            };
            for name in names.iter().filter(|name| owner_of(name) == Some(owner)) {
                remove_if_there(self.fs(), &temp.join(name))?;
            }
            remove_if_there(self.fs(), &lock_path)?;
        }
        Ok(())
    }

    /// Writes and syncs a temporary file.
    fn write_temp(
        &self,
        name: &ObjectName,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<Temp<'_>> {
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(TEMP_DIR).join(format!("{:016x}-{number}.tmp", self.incarnation));
        let failed = |e| io_error("cannot write an object", e, &path).at(name);
        let mut file: Box<dyn WriteFile> = self.fs().create_new(&path).map_err(failed)?;
        let temp = Temp { fs: self.fs(), path: path.clone() };
        fill(&mut |piece| file.write_all(piece).map_err(failed))?;
        file.sync().map_err(failed)?;
        Ok(temp)
    }

    fn refuse_existing(&self, name: &ObjectName) -> Result<()> {
        let path = self.path(name);
        match self.fs().file_len(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            // A directory of that name is in the way, or a file where a
            // directory should be.
            Err(e) if is_in_the_way(&e) => Err(already_exists(name)),
            Ok(_) => Err(already_exists(name)),
            Err(e) => Err(io_error("cannot look for an object", e, &path)),
        }
    }

    /// Makes the directories of a name, durably.
    fn place(&self, name: &ObjectName) -> Result<()> {
        let dir = name.parent();
        if dir.is_empty() || self.dirs.lock().placed.contains(dir) {
            return Ok(());
        }
        let path = self.root.join(dir);
        let failed = |e: io::Error| match is_in_the_way(&e) {
            true => already_exists(name).at(path.display()),
            false => io_error("cannot make the directory of an object", e, &path).at(name),
        };
        self.fs().create_dir_all(&path).map_err(failed)?;
        for above in lineage(dir).filter(|above| *above != dir) {
            self.fs().sync_dir(&self.root.join(above)).map_err(failed)?;
        }
        self.dirs.lock().remember_placed(dir);
        Ok(())
    }

    /// Gives `file` the final name, which must be free, and makes it durable.
    fn publish(
        &self,
        name: &ObjectName,
        give_name: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<Published> {
        self.place(name)?;
        let path = self.path(name);
        let change = Change::begin(self, name.parent());
        match give_name(&path) {
            Ok(()) => change.settle("cannot make the name of an object durable")?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(already_exists(name)),
            Err(e) if cannot_link(&e) => return Ok(Published::NoLinksHere),
            Err(e) => {
                if e.kind() == io::ErrorKind::NotFound {
                    // Somebody may have removed the directory.
                    self.dirs.lock().placed.clear();
                }
                let absent = self
                    .fs()
                    .file_len(&path)
                    .is_err_and(|back| back.kind() == io::ErrorKind::NotFound);
                let error = io_error("cannot name an object", e, &path);
                return Err(if absent { error } else { error.ambiguous() });
            }
        }
        Ok(Published::Done)
    }

    /// Names a synced temporary file.
    fn publish_temp(&self, name: &ObjectName, temp: Temp<'_>) -> Result<()> {
        let linked = self.publish(name, |path| self.fs().hard_link(&temp.path, path))?;
        if linked == Published::Done {
            return Ok(());
        }
        let _guard = self.renaming.lock();
        self.refuse_existing(name)?;
        match self.publish(name, |path| self.fs().rename(&temp.path, path))? {
            Published::Done => {
                temp.was_renamed();
                Ok(())
            }
            Published::NoLinksHere => {
                Err(Error::unavailable("the file system can neither link nor rename")
                    .at(self.path(name).display())
                    .remedy("check that the directory can be written to"))
            }
        }
    }

    /// Makes durable what was just seen in the directory `dir`, before anybody
    /// is told. Directories that do not exist need none of it.
    fn settle(&self, dir: &str) -> Result<()> {
        let quiet_at = {
            let dirs = self.dirs.lock();
            if dirs.settled.contains(dir) {
                return Ok(());
            }
            (dirs.changes_open == 0).then_some(dirs.changes_begun)
        };
        for above in lineage(dir) {
            let path = self.root.join(above);
            match sync_for_reading(self.fs(), &path) {
                Ok(()) => {}
                Err(e) if is_absent(&e) && !above.is_empty() => return Ok(()),
                Err(e) => return Err(io_error("cannot look into an object store", e, &path)),
            }
        }
        let mut dirs = self.dirs.lock();
        if quiet_at == Some(dirs.changes_begun) {
            dirs.remember_settled(dir);
        }
        Ok(())
    }

    /// Says whether "not found" can be believed: the root is there, and is not
    /// merely the empty place where its volume should be mounted.
    fn check_present(&self) -> Result<()> {
        let temp = self.root.join(TEMP_DIR);
        self.fs().canonicalize(&temp).map(drop).map_err(|e| {
            io_error("the directory of an object store cannot be found", e, &temp)
                .remedy("is the volume mounted? if so, make the directory again")
        })
    }
}

impl ObjectStore for LocalStore {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.refuse_existing(name)?;
        let temp = self.write_temp(name, |sink| sink(bytes))?;
        self.publish_temp(name, temp)
    }

    fn create_from_file(
        &self,
        name: &ObjectName,
        local: &Path,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        if !keep_going(0) {
            return Err(cancelled(name, 0));
        }
        self.refuse_existing(name)?;
        let failed = |e| io_error("cannot open the file to be stored", e, local).at(name);
        let bytes = self.fs().file_len(local).map_err(failed)?;
        if bytes != expected.bytes {
            let error = not_as_expected(name, expected, format_args!("{bytes} bytes"));
            return Err(error.at(local.display()));
        }
        match self.publish(name, |path| self.fs().hard_link(local, path))? {
            Published::Done => Ok(()),
            Published::NoLinksHere => {
                let source = self.fs().open(local).map_err(failed)?;
                self.create_from_source(name, &*source, expected, keep_going)
                    .map_err(|e| e.at(local.display()))
            }
        }
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.refuse_existing(name)?;
        let temp =
            self.write_temp(name, |sink| copy_checked(name, source, expected, keep_going, sink))?;
        self.publish_temp(name, temp)
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        let path = self.path(name);
        // Not settled when it is there: whoever has its name to read it has it
        // from a create that succeeded, and a restore must not wait for the
        // disk to write what others are writing.
        match self.fs().open(&path) {
            Ok(file) => Ok(file),
            Err(e) if is_absent(&e) => {
                self.settle(name.parent())?;
                self.check_present()?;
                Err(missing(name, self))
            }
            Err(e) => Err(io_error("cannot open an object", e, &path)),
        }
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        let path = self.path(name);
        let seen = self.fs().file_len(&path);
        self.settle(name.parent())?;
        match seen {
            Ok(len) => Ok(Some(len)),
            Err(e) if is_absent(&e) => {
                self.check_present()?;
                Ok(None)
            }
            Err(e) => Err(io_error("cannot look for an object", e, &path)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        check_prefix(prefix)?;
        self.check_present()?;
        let mut found = Vec::new();
        let mut dirs = vec![parent_of(prefix).to_owned()];
        while let Some(dir) = dirs.pop() {
            let path = self.root.join(&dir);
            let failed = |e, path: &Path| io_error("cannot list an object store", e, path);
            let seen = self.fs().list(&path);
            self.settle(&dir)?;
            let entries = match seen {
                Err(e) if is_absent(&e) => continue,
                entries => entries.map_err(|e| failed(e, &path))?,
            };
            for entry in entries {
                let full = if dir.is_empty() { entry } else { format!("{dir}/{entry}") };
                // What no object can be called is not an object.
                let Ok(name) = ObjectName::new(&full) else { continue };
                let inside = full.starts_with(prefix);
                if !inside && !prefix.strip_prefix(&full).is_some_and(|rest| rest.starts_with('/'))
                {
                    continue;
                }
                let path = self.path(&name);
                match self.fs().file_len(&path) {
                    Ok(_) if inside => found.push(name),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::IsADirectory => dirs.push(full),
                    Err(e) if is_absent(&e) => {}
                    Err(e) => return Err(failed(e, &path)),
                }
            }
        }
        self.check_present()?;
        found.sort_unstable();
        Ok(found)
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        let path = self.path(name);
        let change = Change::begin(self, name.parent());
        match self.fs().remove_file(&path) {
            Ok(()) => change.settle("cannot make a removal durable"),
            Err(e) if is_absent(&e) => {
                drop(change);
                // An earlier removal may not be durable yet.
                self.settle(name.parent())?;
                self.check_present()
            }
            Err(e) => Err(io_error("cannot remove an object", e, &path).ambiguous()),
        }
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalStore({})", self.root.display())
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Left behind, the lock file does no harm: the next store that is
            // opened removes it.
            let _ = self.fs().remove_file(&lock_path(&self.root, self.incarnation));
        }
    }
}

impl KnownDirs {
    fn remember_placed(&mut self, dir: &str) {
        if self.placed.len() >= MAX_KNOWN_DIRS {
            self.placed.clear();
        }
        self.placed.insert(dir.to_owned());
    }

    fn remember_settled(&mut self, dir: &str) {
        if self.settled.len() >= MAX_KNOWN_DIRS {
            self.settled.clear();
        }
        self.settled.insert(dir.to_owned());
    }
}

/// How naming a file ended, if not in an error.
#[derive(PartialEq, Eq)]
enum Published {
    Done,
    /// This file cannot be linked to there; nothing was done.
    NoLinksHere,
}

/// A change of names in one directory. Until its outcome is settled, nothing is
/// taken for durable there.
struct Change<'a> {
    store: &'a LocalStore,
    dir: &'a str,
    number: u64,
}

impl<'a> Change<'a> {
    fn begin(store: &'a LocalStore, dir: &'a str) -> Self {
        let mut dirs = store.dirs.lock();
        dirs.settled.remove(dir);
        dirs.changes_begun += 1;
        dirs.changes_open += 1;
        Self { store, dir, number: dirs.changes_begun }
    }

    /// The change was made: makes it durable.
    fn settle(self, what: &str) -> Result<()> {
        let path = self.store.root.join(self.dir);
        self.store.fs().sync_dir(&path).map_err(|e| io_error(what, e, &path).ambiguous())?;
        let mut dirs = self.store.dirs.lock();
        // If no other change came between, the sync covered everything. The
        // directory's own name counts, too, and may be another's work.
        let name_is_durable = self.dir.is_empty() || dirs.placed.contains(self.dir);
        if name_is_durable && dirs.changes_open == 1 && dirs.changes_begun == self.number {
            dirs.remember_settled(self.dir);
        }
        Ok(())
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.store.dirs.lock().changes_open -= 1;
    }
}

/// A temporary file, whose name is removed on drop.
struct Temp<'a> {
    fs: &'a dyn Fs,
    path: PathBuf,
}

impl Temp<'_> {
    /// Its name is gone already.
    fn was_renamed(mut self) {
        self.path.clear();
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = remove_if_there(self.fs, &self.path) {
            tracing::debug!(%error, path = %self.path.display(), "a temporary file stays behind");
        }
    }
}

/// Draws an incarnation that nobody uses, and its lock.
fn claim_incarnation(
    env: &dyn Env,
    root: &Path,
) -> io::Result<(u64, Option<Box<dyn Send + Sync>>)> {
    loop {
        let incarnation = env.random_u64();
        let path = lock_path(root, incarnation);
        match env.fs().try_lock(&path) {
            // Another opener may have locked and removed the file just before
            // we got it; then it is nobody's file any more.
            Ok(Some(lock)) => match env.fs().file_len(&path) {
                Ok(_) => return Ok((incarnation, Some(lock))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            },
            Ok(None) => {}
            Err(e) if locks_do_not_work(&e) => return Ok((incarnation, None)),
            Err(e) => return Err(e),
        }
    }
}

fn lock_path(root: &Path, incarnation: u64) -> PathBuf {
    root.join(TEMP_DIR).join(format!("{incarnation:016x}.lock"))
}

/// Whose file in the temporary directory this is; `None` if it is not a
/// store's at all.
fn owner_of(name: &str) -> Option<u64> {
    let owner = match (name.strip_suffix(".lock"), name.strip_suffix(".tmp")) {
        (Some(owner), _) => owner,
        (_, Some(rest)) => rest.split_once('-')?.0,
        _ => return None,
    };
    let sound = owner.len() == 16 && owner.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if sound { u64::from_str_radix(owner, 16).ok() } else { None }
}

/// The root, and every directory from there down to `dir`.
fn lineage(dir: &str) -> impl Iterator<Item = &str> {
    let parts = dir.match_indices('/').map(|(end, _)| &dir[..end]);
    let whole = (!dir.is_empty()).then_some(dir);
    std::iter::once("").chain(parts).chain(whole)
}

/// Syncs a directory that we may not be allowed, or not able, to sync. Then
/// nothing in it was changed by us either.
fn sync_for_reading(fs: &dyn Fs, dir: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    match fs.sync_dir(dir) {
        Err(e)
            if matches!(
                e.kind(),
                InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn remove_if_there(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    match fs.remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// There is no such file, and cannot be one as things are.
fn is_absent(e: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(e.kind(), NotFound | NotADirectory | IsADirectory)
}

/// Something else has the place that a file or directory should take.
fn is_in_the_way(e: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory};
    matches!(e.kind(), AlreadyExists | IsADirectory | NotADirectory)
}

/// The file system has no links, or none between these places, or no more to
/// this file, or none for us.
fn cannot_link(e: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(e.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

fn locks_do_not_work(e: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(e.kind(), PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

fn io_error(what: &str, e: io::Error, path: &Path) -> Error {
    let full = matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let error = Error::io(what, e).at(path.display());
    if full { error.remedy("free some space, then try again") } else { error }
}
