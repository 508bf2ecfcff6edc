//! A store that is far away: what can be asked for at the same time is, so that latency is
//! paid once for many objects and not once for each.
//!
//! Nothing here waits for time to pass. Calls meet at a gate, which opens when as many
//! are there as should be; only if they come one after the other does it open by itself,
//! after a while, and the test fails.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use alluvium::env::{Env, ReadAt, RealEnv};
use alluvium::object::{Contents, MemoryStore, ObjectName, ObjectStore};
use alluvium::{
    Backend, Error, MaxParallelism, Result, Shard, SnapshotHandle, SnapshotId, StoreSink,
    ValueState,
};

const MAX: MaxParallelism = MaxParallelism::DEFAULT;

/// After which a gate gives up.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Counts {
    /// How many are to be there at the same time.
    wanted: usize,
    inside: usize,
    most: usize,
    calls: usize,
    fails: bool,
}

#[derive(Default)]
struct Gate {
    counts: Mutex<Counts>,
    changed: Condvar,
}

impl Gate {
    /// From now on calls wait for so many others.
    fn want(&self, wanted: usize) {
        *self.counts.lock().unwrap() = Counts { wanted, ..Counts::default() };
    }

    fn pass(&self) -> Result<()> {
        let mut counts = self.counts.lock().unwrap();
        counts.calls += 1;
        if counts.fails {
            return Err(Error::unavailable("the store is away"));
        }
        counts.inside += 1;
        counts.most = counts.most.max(counts.inside);
        self.changed.notify_all();
        let is_closed = |counts: &mut Counts| counts.most < counts.wanted;
        let (mut counts, _) = self.changed.wait_timeout_while(counts, PATIENCE, is_closed).unwrap();
        counts.inside -= 1;
        Ok(())
    }

    /// How many calls there were, and how many at most at the same time.
    fn seen(&self) -> (usize, usize) {
        let counts = self.counts.lock().unwrap();
        (counts.calls, counts.most)
    }
}

/// See the [module documentation](self).
struct FarAway {
    store: MemoryStore,
    at_once: usize,
    manifests: Gate,
    tables: Gate,
    creates: Gate,
    looks: Gate,
}

impl FarAway {
    fn new(at_once: usize) -> Arc<Self> {
        let [manifests, tables, creates, looks] = [(); 4].map(|()| Gate::default());
        let store = MemoryStore::new(Arc::new(RealEnv::new()));
        Arc::new(Self { store, at_once, manifests, tables, creates, looks })
    }
}

impl std::fmt::Debug for FarAway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FarAway({:?})", self.store)
    }
}

impl ObjectStore for FarAway {
    fn identity(&self) -> String {
        self.store.identity()
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn creates_at_once(&self, _bytes: u64) -> usize {
        self.at_once
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.store.create(name, bytes)
    }

    fn create_from_file(
        &self,
        name: &ObjectName,
        local: &Path,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.creates.pass()?;
        self.store.create_from_file(name, local, expected, keep_going)
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.creates.pass()?;
        self.store.create_from_source(name, source, expected, keep_going)
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        let is_table = name.as_str().starts_with("tables/");
        (if is_table { &self.tables } else { &self.manifests }).pass()?;
        self.store.open(name)
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.looks.pass()?;
        self.store.len_of(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        self.store.list(prefix)
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.store.remove(name)
    }
}

struct Job {
    backend: Backend,
    shards: Vec<Shard>,
    _dir: tempfile::TempDir,
}

impl Job {
    fn open(store: &Arc<FarAway>, parallelism: u32, handles: &[SnapshotHandle]) -> Self {
        Self::try_open(store, parallelism, handles).unwrap()
    }

    fn try_open(
        store: &Arc<FarAway>,
        parallelism: u32,
        handles: &[SnapshotHandle],
    ) -> Result<Self> {
        let dir = tempfile::tempdir().unwrap();
        let sink = Arc::new(StoreSink::new(Arc::clone(store) as _));
        let backend = Backend::builder(dir.path())
            .env(Arc::new(RealEnv::new()) as Arc<dyn Env>)
            .max_tables_per_shard(64)
            .warm_up(false)
            .sink(Arc::clone(&sink) as _)
            .source(sink)
            .open()?;
        let shards = (0..parallelism)
            .map(|index| {
                let groups = MAX.range_of_subtask(index, parallelism).unwrap();
                backend.shard("op", groups).restore(handles.iter().cloned()).open()
            })
            .collect::<Result<_>>()?;
        Ok(Self { backend, shards, _dir: dir })
    }

    /// Puts some keys into every shard that has them.
    fn put(&mut self, keys: std::ops::Range<u64>, value: u64) {
        for shard in &mut self.shards {
            let state: ValueState<u64, u64> = ValueState::register(shard, "v").unwrap();
            for key in keys.clone() {
                let _ = state.put(shard, &key, &value);
            }
        }
    }

    fn get(&mut self, key: u64) -> Option<u64> {
        let values = self.shards.iter_mut().filter_map(|shard| {
            let state: ValueState<u64, u64> = ValueState::register(shard, "v").unwrap();
            state.get(shard, &key).ok()
        });
        values.last().flatten()
    }

    fn snapshot(&mut self, id: u64) -> Vec<Result<SnapshotHandle>> {
        let tickets: Vec<_> = self
            .shards
            .iter_mut()
            .map(|shard| shard.snapshot(SnapshotId(id), b"").unwrap())
            .collect();
        tickets.iter().map(|ticket| ticket.wait().map(|report| report.handle)).collect()
    }
}

/// Three shards of six tables each.
fn checkpoint(store: &Arc<FarAway>) -> Vec<SnapshotHandle> {
    let mut job = Job::open(store, 3, &[]);
    let mut handles = Vec::new();
    for id in 1..=6 {
        job.put(id * 50..id * 50 + 60, id);
        handles = job.snapshot(id).into_iter().map(Result::unwrap).collect();
    }
    assert!(job.backend.local_dir().tables_local >= 18);
    handles
}

#[test]
fn a_restore_waits_for_all_manifests_at_once_and_then_for_all_tables_at_once() {
    let store = FarAway::new(1);
    let handles = checkpoint(&store);
    store.manifests.want(3);
    store.tables.want(18);
    let mut job = Job::open(&store, 1, &handles);
    assert_eq!(store.manifests.seen(), (3, 3), "one round trip");
    assert_eq!(store.tables.seen(), (18, 18), "one more");
    assert_eq!(job.get(60), Some(1));
    assert_eq!(job.get(310), Some(6));
}

#[test]
fn no_more_than_32_objects_are_opened_at_a_time() {
    let store = FarAway::new(1);
    let mut job = Job::open(&store, 1, &[]);
    let mut handles = Vec::new();
    for id in 1..=40 {
        job.put(id..id + 1, id);
        handles = job.snapshot(id);
    }
    let handles: Vec<_> = handles.into_iter().map(Result::unwrap).collect();
    store.tables.want(32);
    let mut job = Job::open(&store, 1, &handles);
    assert_eq!(store.tables.seen(), (40, 32));
    assert_eq!(job.get(17), Some(17));
}

#[test]
fn a_table_that_cannot_be_opened_is_named_whoever_opened_it() {
    let store = FarAway::new(1);
    let handles = checkpoint(&store);
    let gone = &store.list("tables/").unwrap()[7];
    store.remove(gone).unwrap();
    let error = Job::try_open(&store, 1, &handles).err().expect("a table is missing");
    assert_eq!(error.kind(), alluvium::ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(gone.as_str()), "{error}");
}

#[test]
fn tables_that_are_left_from_before_are_stored_several_at_a_time() {
    let store = FarAway::new(4);
    let mut job = Job::open(&store, 1, &[]);
    job.put(0..100, 1);
    store.creates.counts.lock().unwrap().fails = true;
    for id in 1..=7 {
        job.put(id * 10..id * 10 + 5, id);
        assert!(job.snapshot(id)[0].is_err(), "the store is away");
    }
    // Eight are missing now.
    job.put(200..210, 8);
    store.creates.want(4);
    let ticket = job.shards[0].snapshot(SnapshotId(8), b"").unwrap();
    let report = ticket.wait().unwrap();
    assert_eq!(store.creates.seen(), (8, 4));
    assert_eq!(report.tables, 8);
    let progress = ticket.progress();
    assert_eq!(progress.uploaded_bytes, progress.upload_bytes, "{progress:?}");
    assert!(report.bytes_new > progress.upload_bytes, "the manifest is new, too");
    // Nobody has confirmed them: they are asked for, at the same time as well.
    store.looks.want(4);
    job.put(300..301, 9);
    let handle = job.snapshot(9).remove(0).unwrap();
    assert_eq!(store.looks.seen(), (8, 4));
    drop(job);
    let mut job = Job::open(&store, 2, &[handle]);
    assert_eq!([31, 74, 99, 205].map(|key| job.get(key)), [Some(3), Some(7), Some(1), Some(8)]);
}

#[test]
fn a_store_that_fails_while_several_tables_are_stored_loses_none() {
    let store = FarAway::new(4);
    let mut job = Job::open(&store, 1, &[]);
    for id in 1..=6 {
        store.creates.counts.lock().unwrap().fails = true;
        job.put(id * 10..id * 10 + 10, id);
        assert!(job.snapshot(id)[0].is_err());
    }
    store.creates.want(0);
    let handle = job.snapshot(7).remove(0).unwrap();
    drop(job);
    let mut job = Job::open(&store, 1, &[handle]);
    assert!((1..=6).all(|id| job.get(id * 10 + 3) == Some(id)));
}
