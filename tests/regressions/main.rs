//! Bugs that other state stores have had, each as a test. The numbers are those
//! of the project's catalogue of historic bugs; the engine or database that had
//! the bug is named with each.
//!
//! Tested elsewhere, and more thoroughly than one case could:
//!
//! - 14 (missing sync of a file or directory), 15 (states flushed
//!   inconsistently), 19 (recovery after a crash in recovery): `crash.rs`, whose
//!   images are compared over all states.
//! - 18 (a read error taken for "not found"), 6 (a lost reply): `faults.rs`,
//!   for every call; the cases here add merging and deletion.
//! - 22 (copy-on-write races with an asynchronous snapshot): here with threads,
//!   and as a model of the hand-over, in `tests/loom`.
//!
//! `budget` has those of them again that state larger than memory could bring back.
//!
//! Not here, because the engine has no such part: 1, 4, 5, 8, 9, 10, 13, 21 (the
//! files of other jobs, reference counts, savepoints, fencing, resumed uploads),
//! 34 (changelog). 26 is a bug of operator state; the same is asked of timers.

#[path = "../common/mod.rs"]
mod common;

mod budget;
mod durability;
mod expiry;
mod identity;
mod operator;
mod ownership;
mod rescale;
mod schemas;
mod snapshots;
mod timers;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use alluvium::env::SimEnv;
use alluvium::object::Contents;
use alluvium::{Result, SnapshotHandle, SnapshotSink, StoreSink, TableUpload};

use common::{
    CHECKPOINTS, Image, Job, Keyspace, assert_same_image, backend_on, sealed_image, store_on,
};

fn machine() -> SimEnv {
    SimEnv::new(23)
}

fn space(keys: usize) -> Arc<Keyspace> {
    Arc::new(Keyspace::plain(&["counts", "names"], keys))
}

fn assert_restores(
    env: &SimEnv,
    space: &Arc<Keyspace>,
    handles: &[SnapshotHandle],
    image: &Image,
    parallelism: u32,
) {
    let store = store_on(env, CHECKPOINTS).unwrap();
    let sealed = sealed_image(space, &store, handles).unwrap();
    assert_same_image(space, &sealed, image, "what is in the tables");
    let builder = backend_on(env, space);
    let mut job = Job::open(space, builder, parallelism, Some((handles, image))).unwrap();
    job.assert_holds_model();
    job.warm_up();
    job.assert_holds_model();
}

/// What a sink is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    PutTable,
    HoldsTable,
    PutManifest,
}

type OnCall = Box<dyn FnMut(Call) -> Result<()> + Send>;

/// A store whose calls are watched, and fail if the watcher says so.
#[derive(Clone)]
struct Watched {
    inner: StoreSink,
    on_call: Arc<Mutex<OnCall>>,
}

impl Watched {
    fn new(env: &SimEnv) -> Self {
        let on_call: OnCall = Box::new(|_| Ok(()));
        let inner = store_on(env, CHECKPOINTS).unwrap();
        Self { inner, on_call: Arc::new(Mutex::new(on_call)) }
    }

    fn watch(&self, on_call: impl FnMut(Call) -> Result<()> + Send + 'static) {
        *self.on_call.lock().unwrap() = Box::new(on_call);
    }

    fn called(&self, call: Call) -> Result<()> {
        (self.on_call.lock().unwrap())(call)
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({:?})", self.inner)
    }
}

impl SnapshotSink for Watched {
    fn identity(&self) -> String {
        SnapshotSink::identity(&self.inner)
    }

    fn put_table(
        &self,
        table: &TableUpload<'_>,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<String> {
        self.called(Call::PutTable)?;
        self.inner.put_table(table, keep_going)
    }

    fn holds_table(&self, location: &str, contents: &Contents) -> Result<bool> {
        self.called(Call::HoldsTable)?;
        self.inner.holds_table(location, contents)
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<String> {
        self.called(Call::PutManifest)?;
        self.inner.put_manifest(name, bytes)
    }
}

/// The objects in the store, temporary files left out.
fn objects(env: &SimEnv) -> BTreeSet<String> {
    let root = Path::new(CHECKPOINTS);
    let below = |path: &PathBuf| path.strip_prefix(root).ok()?.to_str().map(str::to_owned);
    let names: Vec<_> = env.list_all_files().iter().filter_map(below).collect();
    names.into_iter().filter(|name| !name.starts_with('.')).collect()
}
