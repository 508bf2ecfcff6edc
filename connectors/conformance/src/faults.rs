//! A store that refuses, or holds up, what it is to keep, while the suite says so.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use alluvium::env::ReadAt;
use alluvium::object::{Contents, ObjectName, ObjectStore};
use alluvium::{Error, Result};

/// Failures of the store, for one life of a job. Clones are the same ones.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    shared: Arc<Shared>,
}

#[derive(Default, Debug)]
struct Shared {
    mood: Mutex<Mood>,
    changed: Condvar,
}

#[derive(Default, Debug)]
struct Mood {
    /// Tables that are refused yet.
    refusals: u64,
    /// Tables are not taken and not refused.
    holds: bool,
    /// Tables that wait because of that.
    waiting: u64,
}

impl Faults {
    /// The store with failures: what the shards of the job put their snapshots into. It is
    /// one and the same store as `inner`, by its identity.
    pub fn wrap(&self, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Faulty { inner, faults: self.clone() })
    }

    /// The next so many tables are refused.
    pub(crate) fn refuse(&self, tables: u64) {
        self.mood().refusals = tables;
    }

    /// Tables that were to be refused, and did not come.
    pub(crate) fn refusals_left(&self) -> u64 {
        self.mood().refusals
    }

    /// Tables wait.
    pub(crate) fn hold(&self) {
        self.mood().holds = true;
    }

    /// Tables that wait now.
    pub(crate) fn waiting(&self) -> u64 {
        self.mood().waiting
    }

    /// They wait no more.
    pub(crate) fn release(&self) {
        self.mood().holds = false;
        self.shared.changed.notify_all();
    }

    fn mood(&self) -> MutexGuard<'_, Mood> {
        self.shared.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meet(&self, name: &ObjectName) -> Result<()> {
        if !name.as_str().contains("/tables/") {
            return Ok(());
        }
        let mut mood = self.mood();
        if mood.refusals > 0 {
            mood.refusals -= 1;
            return Err(Error::unavailable("the conformance suite refuses a table").at(name));
        }
        mood.waiting += 1;
        while mood.holds {
            mood = self.shared.changed.wait(mood).unwrap_or_else(PoisonError::into_inner);
        }
        mood.waiting -= 1;
        Ok(())
    }
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl ObjectStore for Faulty {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.faults.meet(name)?;
        self.inner.create(name, bytes)
    }

    fn create_from_file(
        &self,
        name: &ObjectName,
        local: &Path,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.faults.meet(name)?;
        self.inner.create_from_file(name, local, expected, keep_going)
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.faults.meet(name)?;
        self.inner.create_from_source(name, source, expected, keep_going)
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        self.inner.open(name)
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.inner.len_of(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        self.inner.list(prefix)
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.inner.remove(name)
    }
}
