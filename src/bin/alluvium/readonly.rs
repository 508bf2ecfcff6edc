//! A directory that is only read, as a checkpoint store.
//!
//! The engine's own store in a directory makes the directory if it is not there, clears
//! up temporary files and leaves a lock; a tool that looks must do nothing of that. And
//! it follows links, as its owner set them up; here a store may come from anywhere, so
//! nothing is opened but plain files that lie within the root.

#![allow(
    clippy::disallowed_methods,
    reason = "what a path really is has to be asked of the system itself"
)]

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::env::{Env, ReadAt, RealEnv};
use alluvium::object::{Contents, ObjectName, ObjectStore};
use alluvium::{Error, Result};

/// See the [module documentation](self).
pub(crate) struct ReadOnlyStore {
    /// Canonical.
    root: PathBuf,
    env: RealEnv,
}

impl ReadOnlyStore {
    /// The store in a directory, which must exist.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let failed = |error| unreadable("cannot open the store", error, root);
        let root = fs::canonicalize(root).map_err(failed)?;
        if !fs::metadata(&root).map_err(failed)?.is_dir() {
            return Err(Error::invalid("a checkpoint store is a directory").at(root.display()));
        }
        // Others may change files meanwhile, which a map would turn into a signal.
        Ok(Self { root, env: RealEnv::with_pread() })
    }

    /// Where an object really is; `None` if there is none.
    fn find(&self, name: &ObjectName) -> Result<Option<PathBuf>> {
        let path = self.root.join(name.as_str());
        match fs::canonicalize(&path) {
            Ok(real) => self.check_inside(&real, &path).map(|()| Some(real)),
            Err(error) if is_absent(&error) => self.check_present().map(|()| None),
            Err(error) => Err(unreadable("cannot look for an object", error, &path)),
        }
    }

    fn check_inside(&self, real: &Path, path: &Path) -> Result<()> {
        if real.starts_with(&self.root) {
            return Ok(());
        }
        Err(Error::corrupt("a link leads out of the store, and is not followed")
            .at(path.display())
            .expected(format_args!("something in {}", self.root.display()))
            .found(real.display())
            .remedy("put the file itself into the store"))
    }

    /// Nothing is absent unless the root is there.
    fn check_present(&self) -> Result<()> {
        match fs::metadata(&self.root) {
            Ok(_) => Ok(()),
            Err(error) => Err(unreadable("the store has gone", error, &self.root)),
        }
    }

    fn refuse(&self) -> Error {
        Error::invalid("the store is open for reading only").at(self.root.display())
    }
}

impl ObjectStore for ReadOnlyStore {
    fn identity(&self) -> String {
        format!("local:{}", self.root.display())
    }

    fn create(&self, _: &ObjectName, _: &[u8]) -> Result<()> {
        Err(self.refuse())
    }

    fn create_from_file(
        &self,
        _: &ObjectName,
        _: &Path,
        _: &Contents,
        _: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        Err(self.refuse())
    }

    fn create_from_source(
        &self,
        _: &ObjectName,
        _: &dyn ReadAt,
        _: &Contents,
        _: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        Err(self.refuse())
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        let missing = || {
            Error::corrupt("an object that should exist is missing")
                .at(format_args!("{name} in {}", self.identity()))
                .remedy("put it back from a backup, or restore a checkpoint that does not need it")
        };
        let path = self.find(name)?.ok_or_else(missing)?;
        let failed = |error| unreadable("cannot open an object", error, &path);
        // A pipe would keep us waiting, a device might never end.
        if !fs::metadata(&path).map_err(failed)?.is_file() {
            return Err(Error::corrupt("an object is no plain file").at(path.display()));
        }
        self.env.fs().open(&path).map_err(failed)
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        let Some(path) = self.find(name)? else { return Ok(None) };
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => Ok(None),
            Ok(found) => Ok(Some(found.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(unreadable("cannot look for an object", error, &path)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        // Checks the prefix as a whole: it may end inside a segment.
        let parent = prefix.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !parent.is_empty() {
            ObjectName::new(parent)?;
        }
        self.check_present()?;
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut dirs = vec![parent.to_owned()];
        while let Some(dir) = dirs.pop() {
            let path = self.root.join(&dir);
            let failed = |error, path: &Path| unreadable("cannot list the store", error, path);
            let real = match fs::canonicalize(&path) {
                Ok(real) => real,
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(failed(error, &path)),
            };
            self.check_inside(&real, &path)?;
            // Links may lead round in a circle.
            if !seen.insert(real.clone()) {
                continue;
            }
            let entries = match fs::read_dir(&real) {
                Ok(entries) => entries,
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(failed(error, &path)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| failed(error, &path))?;
                let Ok(text) = entry.file_name().into_string() else { continue };
                let full = if dir.is_empty() { text } else { format!("{dir}/{text}") };
                // What no object can be called is not an object.
                let Ok(name) = ObjectName::new(&full) else { continue };
                let inside = full.starts_with(prefix);
                let above = prefix.strip_prefix(&full).is_some_and(|rest| rest.starts_with('/'));
                if !inside && !above {
                    continue;
                }
                match fs::metadata(entry.path()) {
                    Ok(meta) if meta.is_dir() => dirs.push(full),
                    Ok(_) if inside => found.push(name),
                    Ok(_) => {}
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(failed(error, &entry.path())),
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn remove(&self, _: &ObjectName) -> Result<()> {
        Err(self.refuse())
    }
}

impl fmt::Debug for ReadOnlyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadOnlyStore({})", self.root.display())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn unreadable(what: &str, error: io::Error, path: &Path) -> Error {
    Error::io(what, error).at(path.display())
}

/// Whether there is a directory here.
pub(crate) fn is_dir(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_dir())
}

/// Whether there is a plain file here.
pub(crate) fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file())
}
