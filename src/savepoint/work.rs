//! The working directory of an export or an import.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::{Error, FileId, Result};
use crate::env::{Env, ReadAt, WriteFile};

/// Makes files with names of their own in a directory, and removes them when they are
/// dropped. After a crash they stay; they are then of no use to anybody.
pub(super) struct WorkDir {
    env: Arc<dyn Env>,
    dir: PathBuf,
    incarnation: u64,
    next: AtomicU64,
}

/// A file in a working directory, removed with this value.
pub(super) struct WorkFile {
    pub(super) id: FileId,
    pub(super) path: PathBuf,
    env: Arc<dyn Env>,
}

impl WorkDir {
    /// In `dir`, which is created if need be.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be.
    pub(super) fn open(env: Arc<dyn Env>, dir: &Path) -> Result<Self> {
        env.fs().create_dir_all(dir).map_err(|source| {
            Error::io("the working directory of a savepoint could not be created", source)
                .at(dir.display())
                .remedy("check that its parent exists and may be written")
        })?;
        let incarnation = env.random_u64();
        Ok(Self { env, dir: dir.to_owned(), incarnation, next: AtomicU64::new(1) })
    }

    pub(super) fn env(&self) -> &Arc<dyn Env> {
        &self.env
    }

    /// An identity that no other file has.
    pub(super) fn next_id(&self) -> FileId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        FileId { incarnation: self.incarnation, number }
    }

    /// Creates a file, to be written.
    ///
    /// # Errors
    /// `Unavailable` if that fails.
    pub(super) fn create(&self, kind: &str) -> Result<(WorkFile, Box<dyn WriteFile>)> {
        let id = self.next_id();
        let path = self.dir.join(format!("{id}.{kind}"));
        let out =
            self.env.fs().create_new(&path).map_err(|source| {
                failed("a file could not be created", source).at(path.display())
            })?;
        Ok((WorkFile { id, path, env: Arc::clone(&self.env) }, out))
    }
}

impl WorkFile {
    /// Opens the file, which is finished, to be read.
    ///
    /// # Errors
    /// `Unavailable` if that fails.
    pub(super) fn open(&self) -> Result<Arc<dyn ReadAt>> {
        self.env
            .fs()
            .open(&self.path)
            .map_err(|source| failed("a file could not be opened", source).at(self.path.display()))
    }
}

impl Drop for WorkFile {
    fn drop(&mut self) {
        if let Err(error) = self.env.fs().remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "a file of a savepoint is left over");
        }
    }
}

impl fmt::Debug for WorkFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// An error of a file of the working directory.
pub(super) fn failed(what: &str, source: std::io::Error) -> Error {
    Error::io(format_args!("{what} in the working directory of a savepoint"), source)
        .remedy("check its free space and permissions, and start again")
}
