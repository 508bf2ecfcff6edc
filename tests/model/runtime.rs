//! The runtime's side of the seam: a sink that fails, lets the writer go on in
//! the middle of an upload, and forgets what it was told to discard.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use alluvium::env::sim::SimRng;
use alluvium::env::{Env, ReadAt, SimEnv};
use alluvium::object::{Contents, LocalStore, ObjectStore};
use alluvium::{Error, Result, SnapshotSink, SnapshotSource, StoreSink, TableUpload};

use crate::job::Job;

/// What decides about the calls of a [`Sink`]; shared with the driver.
pub struct Control {
    pub rng: Mutex<SimRng>,
    /// One call in so many fails; 0 for none.
    pub fail_one_in: Mutex<u64>,
    /// One call in so many is interrupted by steps of the writer; 0 for none.
    pub interrupt_one_in: Mutex<u64>,
    pub job: Mutex<Weak<Mutex<Job>>>,
}

impl Control {
    fn one_in(&self, n: &Mutex<u64>) -> bool {
        let n = *n.lock().unwrap();
        self.rng.lock().unwrap().one_in(n)
    }

    /// Lets the writer do something, here and now.
    fn interrupt(&self) {
        if !self.one_in(&self.interrupt_one_in) {
            return;
        }
        let job = self.job.lock().unwrap().upgrade();
        if let Some(job) = job
            && let Ok(mut job) = job.try_lock()
        {
            job.interrupted();
        }
    }
}

/// Stores into a directory of the simulated machine.
#[derive(Clone)]
pub struct Sink {
    inner: StoreSink,
    store: Arc<LocalStore>,
    control: Arc<Control>,
}

impl Sink {
    pub fn open(env: &SimEnv, dir: &str, control: &Arc<Control>) -> Self {
        let env: Arc<dyn Env> = Arc::new(env.clone());
        let store = Arc::new(LocalStore::open(env, PathBuf::from(dir)).expect("a store opens"));
        let inner = StoreSink::new(Arc::<LocalStore>::clone(&store));
        Self { inner, store, control: Arc::clone(control) }
    }

    /// Throws away everything but `needed`.
    pub fn discard_all_but(&self, needed: &BTreeSet<String>) {
        for name in self.store.list("").expect("the store lists") {
            if !needed.contains(name.as_str()) {
                self.store.remove(&name).expect("the store removes");
            }
        }
    }

    /// Does something, or fails before or after it.
    fn perhaps<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.control.interrupt();
        if !self.control.one_in(&self.control.fail_one_in) {
            return act();
        }
        let failed = Error::unavailable("the store is having a bad day");
        if self.control.rng.lock().unwrap().one_in(2) {
            return Err(failed);
        }
        act()?;
        Err(failed.ambiguous())
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({:?})", self.inner)
    }
}

impl SnapshotSink for Sink {
    fn identity(&self) -> String {
        SnapshotSink::identity(&self.inner)
    }

    fn put_table(
        &self,
        table: &TableUpload<'_>,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<String> {
        // A link, or a copy of the bytes.
        let local = table.local.filter(|_| !self.control.rng.lock().unwrap().one_in(3));
        let table = TableUpload { local, ..*table };
        self.perhaps(|| {
            self.inner.put_table(&table, &mut |done| {
                self.control.interrupt();
                keep_going(done)
            })
        })
    }

    fn holds_table(&self, location: &str, contents: &Contents) -> Result<bool> {
        self.control.interrupt();
        self.inner.holds_table(location, contents)
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<String> {
        self.perhaps(|| self.inner.put_manifest(name, bytes))
    }
}

impl SnapshotSource for Sink {
    fn identity(&self) -> String {
        SnapshotSource::identity(&self.inner)
    }

    fn open(&self, location: &str) -> Result<Arc<dyn ReadAt>> {
        self.inner.open(location)
    }
}
