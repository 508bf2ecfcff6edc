//! Files of one directory that go when the last who needs them is gone, and how many
//! bytes they take until then.
//!
//! A [`LocalFile`] stands for a name. Whoever is to find the file there holds it: the
//! list of tables, and every reader that has the file open, since an open file takes
//! its space whether it has a name or not. When the last lets go, the name is put
//! down to be removed; that takes no lock and no system call, since it may be a task
//! thread. The background removes it, and tries again if that fails. Only then are its
//! bytes free.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::SegQueue;
use parking_lot::Mutex;

use super::Env;
use super::executor::{Executor, Priority};

/// See the [module documentation](self).
pub(crate) struct LocalFiles {
    env: Arc<dyn Env>,
    executor: Executor,
    dir: PathBuf,
    /// Of all files whose names have not been removed.
    bytes: AtomicU64,
    /// Of those that will go, but are still open or not removed yet.
    leaving_bytes: AtomicU64,
    unused: SegQueue<Unused>,
    /// Those that could not be removed.
    kept: Mutex<Vec<Unused>>,
    sweep_due: AtomicBool,
}

/// A file to be removed.
struct Unused {
    path: PathBuf,
    bytes: u64,
}

impl LocalFiles {
    /// The files of `dir`, which has none of ours yet.
    pub(crate) fn new(env: Arc<dyn Env>, executor: Executor, dir: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            env,
            executor,
            dir,
            bytes: AtomicU64::new(0),
            leaving_bytes: AtomicU64::new(0),
            unused: SegQueue::new(),
            kept: Mutex::default(),
            sweep_due: AtomicBool::new(false),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn env(&self) -> &Arc<dyn Env> {
        &self.env
    }

    /// Stands for a file of this name, which is about to be made and is of no size yet.
    /// No name is given twice.
    pub(crate) fn add(self: &Arc<Self>, name: &str) -> Arc<LocalFile> {
        Arc::new(LocalFile {
            files: Arc::clone(self),
            path: self.dir.join(name),
            bytes: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
        })
    }

    /// Bytes of all files that have not been removed.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of those of them that will go as soon as nobody has them open.
    pub(crate) fn leaving_bytes(&self) -> u64 {
        self.leaving_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of those that stay.
    pub(crate) fn staying_bytes(&self) -> u64 {
        self.bytes().saturating_sub(self.leaving_bytes())
    }

    /// Removes what nobody needs. It is not worth failing for: what cannot be removed
    /// is tried again by the next sweep, and goes when the directory is opened next.
    pub(crate) fn sweep(&self) {
        self.sweep_due.store(false, Ordering::Relaxed);
        let mut unused = std::mem::take(&mut *self.kept.lock());
        unused.extend(std::iter::from_fn(|| self.unused.pop()));
        unused.retain(|Unused { path, bytes }| {
            let removed = self.env.fs().remove_file(path);
            if removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
                return true;
            }
            self.bytes.fetch_sub(*bytes, Ordering::Relaxed);
            self.leaving_bytes.fetch_sub(*bytes, Ordering::Relaxed);
            false
        });
        self.kept.lock().append(&mut unused);
    }
}

impl Drop for LocalFiles {
    fn drop(&mut self) {
        self.sweep();
    }
}

impl fmt::Debug for LocalFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalFiles({}, {} bytes)", self.dir.display(), self.bytes())
    }
}

/// One file: see the [module documentation](self).
pub(crate) struct LocalFile {
    files: Arc<LocalFiles>,
    path: PathBuf,
    bytes: AtomicU64,
    leaving: AtomicBool,
}

impl LocalFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Says how many bytes it has, or is going to have. To be said once.
    pub(crate) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.files.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says that nobody will open it again.
    pub(crate) fn leave(&self) {
        if !self.leaving.swap(true, Ordering::Relaxed) {
            let bytes = self.bytes.load(Ordering::Relaxed);
            self.files.leaving_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        self.leave();
        let (path, bytes) = (std::mem::take(&mut self.path), *self.bytes.get_mut());
        self.files.unused.push(Unused { path, bytes });
        if !self.files.sweep_due.swap(true, Ordering::Relaxed) {
            let files = Arc::clone(&self.files);
            self.files.executor.spawn_quietly(Priority::Idle, move || files.sweep());
        }
    }
}

impl fmt::Debug for LocalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalFile({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::sim::{FaultError, FaultKind};
    use crate::env::{Fs, SimEnv};

    #[test]
    fn a_file_takes_its_space_until_the_last_reader_has_gone_and_it_is_removed() {
        let env = SimEnv::new(1);
        let (executor, _threads) = Executor::start(&env, "test", 0).unwrap();
        env.create_dir_all(Path::new("/dir")).unwrap();
        let files = LocalFiles::new(Arc::new(env.clone()), executor.clone(), "/dir".into());
        let file = files.add("a");
        env.create_new(file.path()).unwrap().write_all(b"seven b").unwrap();
        file.set_bytes(7);
        let reader = Arc::clone(&file);
        file.leave();
        drop(file);
        files.sweep();
        assert_eq!((files.bytes(), files.staying_bytes()), (7, 0));
        assert_eq!(env.list_all_files().len(), 1);
        env.fail_nth(FaultKind::Remove, 1, FaultError::EIO, false);
        drop(reader);
        assert!(executor.run_one(), "the background is told");
        assert_eq!(files.bytes(), 7, "it could not be removed");
        files.sweep();
        assert_eq!((files.bytes(), files.leaving_bytes()), (0, 0));
        assert!(env.list_all_files().is_empty());
    }
}
