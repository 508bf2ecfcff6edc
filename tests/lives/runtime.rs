//! What happens beside the background: a sink and codecs that let the job go on
//! in the middle of an upload, a merge or a warm-up.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use alluvium::env::sim::SimRng;
use alluvium::env::{Env, Fs, ReadAt, SimEnv, WriteFile};
use alluvium::object::{Contents, LocalStore};
use alluvium::{Result, SnapshotSink, SnapshotSource, StoreSink, TableUpload};

use crate::job::Life;

/// Lets the job in, now and then.
pub struct Door {
    rng: Mutex<SimRng>,
    life: Mutex<Weak<Mutex<Life>>>,
    script: Mutex<Option<Script>>,
}

/// What a test does when the door opens for the first time.
type Script = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Door {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            rng: Mutex::new(SimRng::new(seed)),
            life: Mutex::default(),
            script: Mutex::default(),
        })
    }

    /// One that opens for a script only.
    pub fn closed() -> Arc<Self> {
        Self::new(0)
    }

    pub fn lead_to(&self, life: &Arc<Mutex<Life>>) {
        *self.life.lock().unwrap() = Arc::downgrade(life);
    }

    /// Has something done when a file is made next.
    pub fn follow(&self, script: impl FnOnce() + Send + 'static) {
        *self.script.lock().unwrap() = Some(Box::new(script));
    }

    /// The job does something here and now, unless it is it that called. If that
    /// panics, its lock is poisoned: whoever catches panics does not hide it.
    pub fn open(&self) {
        self.let_in(8, false);
    }

    /// The same where nothing is locked, so that another thread of the background
    /// may come by, too.
    fn open_to_all(&self) {
        let script = self.script.lock().unwrap().take();
        match script {
            Some(script) => script(),
            None => self.let_in(3, true),
        }
    }

    fn let_in(&self, one_in: u64, background: bool) {
        if !self.rng.lock().unwrap().one_in(one_in) {
            return;
        }
        let life = self.life.lock().unwrap().upgrade();
        if let Some(life) = life
            && let Ok(mut life) = life.try_lock()
        {
            life.interrupted(background);
        }
    }
}

/// A store in a directory of the simulated machine.
#[derive(Debug)]
pub struct Sink {
    inner: StoreSink,
    door: Arc<Door>,
}

impl Sink {
    pub fn open(env: &SimEnv, dir: &str, door: &Arc<Door>) -> Self {
        let env: Arc<dyn Env> = Arc::new(env.clone());
        let store = Arc::new(LocalStore::open(env, PathBuf::from(dir)).unwrap());
        Self { inner: StoreSink::new(store), door: Arc::clone(door) }
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
        self.door.open();
        self.inner.put_table(table, keep_going)
    }

    fn holds_table(&self, location: &str, contents: &Contents) -> Result<bool> {
        self.door.open();
        self.inner.holds_table(location, contents)
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<String> {
        self.door.open();
        self.inner.put_manifest(name, bytes)
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

/// A simulated machine where something else happens whenever a file is made.
#[derive(Debug)]
pub struct Machine {
    inner: SimEnv,
    door: Arc<Door>,
}

impl Machine {
    pub fn new(inner: SimEnv, door: &Arc<Door>) -> Self {
        Self { inner, door: Arc::clone(door) }
    }
}

impl Env for Machine {
    fn fs(&self) -> &dyn Fs {
        self
    }

    fn unix_time_ms(&self) -> u64 {
        self.inner.unix_time_ms()
    }

    fn monotonic_ns(&self) -> u64 {
        self.inner.monotonic_ns()
    }

    fn random_u64(&self) -> u64 {
        self.inner.random_u64()
    }

    fn spawn(
        &self,
        name: &str,
        body: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        self.inner.spawn(name, body)
    }
}

impl Fs for Machine {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.fs().create_dir_all(dir)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.door.open_to_all();
        self.inner.fs().create_new(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        self.inner.fs().open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.fs().rename(from, to)
    }

    fn hard_link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        self.inner.fs().hard_link(existing, new)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.fs().remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.fs().sync_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.fs().list(dir)
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        self.inner.fs().file_len(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.inner.fs().try_lock(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.inner.fs().canonicalize(path)
    }
}
