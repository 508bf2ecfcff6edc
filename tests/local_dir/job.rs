//! A job of one shard on a simulated machine, with an ordered map beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::{
    Backend, BackendBuilder, KeyRef, KeyedStore, LocalDirStats, MaxParallelism, Result, Shard,
    SnapshotHandle, SnapshotId, StateId, StateSpec,
};

use crate::store::Remote;

/// Memory that the backend may use.
pub const BUDGET_BYTES: u64 = 256 << 10;

pub type Model = BTreeMap<u64, Vec<u8>>;

/// See the [module documentation](self).
pub struct Job {
    pub env: SimEnv,
    pub backend: Backend,
    pub shard: Shard,
    pub state: StateId,
    pub model: Model,
    next_id: u64,
}

/// A completed checkpoint.
#[derive(Clone)]
pub struct Point {
    pub handle: SnapshotHandle,
    pub model: Model,
}

impl Job {
    /// A job with a budget and what else `configure` says.
    pub fn open(
        env: &SimEnv,
        remote: &Remote,
        point: Option<&Point>,
        configure: impl FnOnce(BackendBuilder) -> BackendBuilder,
    ) -> Self {
        Self::try_open(env, remote, point, configure).unwrap()
    }

    pub fn try_open(
        env: &SimEnv,
        remote: &Remote,
        point: Option<&Point>,
        configure: impl FnOnce(BackendBuilder) -> BackendBuilder,
    ) -> Result<Self> {
        let builder = Backend::builder("/node")
            .env(Arc::new(env.clone()))
            .background_threads(0)
            .memory_budget_bytes(BUDGET_BYTES)
            .partition_bytes(32 << 10)
            .sink(Arc::new(remote.clone()))
            .source(Arc::new(remote.clone()));
        let backend = configure(builder).open()?;
        let groups = MaxParallelism::DEFAULT.all_groups();
        let handle = point.map(|point| point.handle.clone());
        let mut shard = backend.shard("op", groups).restore(handle).open()?;
        let state = shard.register(StateSpec::value("values"))?;
        let model = point.map(|point| point.model.clone()).unwrap_or_default();
        Ok(Self { env: env.clone(), backend, shard, state, model, next_id: 1 })
    }

    pub fn put(&mut self, key: u64, value: &[u8]) {
        self.try_put(key, value).unwrap();
    }

    pub fn try_put(&mut self, key: u64, value: &[u8]) -> Result<()> {
        self.shard.put(self.state, KeyRef::new(&key.to_le_bytes()), value)?;
        self.model.insert(key, value.to_vec());
        Ok(())
    }

    pub fn delete(&mut self, key: u64) -> Result<()> {
        self.shard.delete(self.state, KeyRef::new(&key.to_le_bytes()))?;
        self.model.remove(&key);
        Ok(())
    }

    pub fn get(&mut self, key: u64) -> Result<Option<Vec<u8>>> {
        let key = key.to_le_bytes();
        Ok(self.shard.get(self.state, KeyRef::new(&key))?.map(<[u8]>::to_vec))
    }

    /// Reads these keys from tables, and says how many in a hundred could not be read.
    /// Some look into more tables than the one that has them: filters let one in forty
    /// pass that is not there.
    pub fn read_again(&mut self, keys: std::ops::Range<u64>) -> u64 {
        self.forget();
        let (mut failed, all) = (0, keys.end - keys.start);
        for key in keys {
            match self.get(key) {
                Ok(found) => assert_eq!(found.as_ref(), self.model.get(&key), "key {key}"),
                Err(_) => failed += 1,
            }
        }
        failed * 100 / all
    }

    /// Puts values of 100 bytes under these keys.
    pub fn fill(&mut self, keys: std::ops::Range<u64>) {
        for key in keys {
            self.put(key, &value(key));
        }
    }

    /// Takes a snapshot; nobody confirms it.
    pub fn snapshot(&mut self) -> Result<(SnapshotId, Point)> {
        let id = SnapshotId(self.next_id);
        self.next_id += 1;
        let handle = self.shard.snapshot(id, b"")?.wait()?.handle;
        Ok((id, Point { handle, model: self.model.clone() }))
    }

    /// Takes a snapshot, which completes a checkpoint, and has the background do what
    /// there is to do.
    pub fn checkpoint(&mut self) -> Point {
        let (id, point) = self.snapshot().unwrap();
        self.shard.notify_complete(id);
        self.settle();
        point
    }

    /// Takes snapshots until the store has all that there is, merges included; nobody
    /// confirms the last.
    pub fn publish_all(&mut self, remote: &Remote) -> (SnapshotId, Point) {
        for _ in 0..100 {
            self.settle();
            remote.take_put();
            let last = self.snapshot().unwrap();
            let files = self.files();
            self.settle();
            if remote.take_put().is_empty() && self.files() == files {
                return last;
            }
        }
        panic!("merges have no end");
    }

    /// Completes a checkpoint after which the store has all that there is.
    pub fn checkpoint_all(&mut self, remote: &Remote) -> Point {
        let (id, point) = self.publish_all(remote);
        self.shard.notify_complete(id);
        self.settle();
        point
    }

    /// Has the background do what there is to do, and the shard notice.
    pub fn settle(&mut self) {
        while self.backend.run_background() {}
        self.take_view();
        while self.backend.run_background() {}
    }

    /// Has the shard read what there is now: nothing is evicted.
    pub fn take_view(&mut self) {
        self.shard.evict(0).unwrap();
    }

    /// Everything that tables have leaves memory.
    pub fn forget(&mut self) {
        self.shard.evict(u64::MAX).unwrap();
    }

    pub fn stats(&self) -> LocalDirStats {
        self.backend.local_dir()
    }

    /// The files in the local directory.
    pub fn files(&self) -> Vec<PathBuf> {
        files(&self.env)
    }

    /// The directory holds the tables that it should, says so, and nothing else.
    pub fn assert_directory_is_right(&mut self) {
        self.assert_directory_is_right_without(0);
    }

    /// The same, when so many files were taken away, which the job may not have noticed.
    pub fn assert_directory_is_right_without(&mut self, vanished: usize) {
        self.settle();
        let stats = self.stats();
        let bytes: usize =
            self.files().iter().map(|file| self.env.file_bytes(file).unwrap().len()).sum();
        let files = self.files().len();
        let expected = stats.tables_local - vanished.min(stats.tables_local)..=stats.tables_local;
        assert!(expected.contains(&files), "{files} files, {expected:?} expected");
        assert_eq!(bytes as u64 == stats.bytes, files == stats.tables_local, "{bytes} {stats:?}");
        assert_eq!(stats.leaving_bytes, 0, "{stats:?}");
        let files = self.shard.stats();
        assert!(stats.tables_local + stats.tables_in_store_only <= files.tables, "{stats:?}");
    }

    pub fn assert_holds_model(&mut self) {
        let keys: Vec<u64> = self.model.keys().copied().collect();
        for key in keys {
            assert_eq!(self.get(key).unwrap().as_ref(), self.model.get(&key), "key {key}");
        }
    }
}

/// A value of 100 bytes that compresses badly.
pub fn value(key: u64) -> Vec<u8> {
    let mut rng = alluvium::env::sim::SimRng::new(key);
    let mut value = vec![0; 100];
    rng.fill(&mut value);
    value
}

/// The files in the local directory of a machine.
pub fn files(env: &SimEnv) -> Vec<PathBuf> {
    let local = |path: &PathBuf| path.starts_with(Path::new("/node/local"));
    env.list_all_files().into_iter().filter(local).collect()
}

/// Room for all that is written, and for all tables.
pub fn roomy(builder: BackendBuilder) -> BackendBuilder {
    builder
        .memory_budget_bytes(4 << 20)
        .partition_bytes(32 << 20)
        .max_tables_per_shard(100)
        .warm_up(false)
}

/// The keys of a large old table and of three small new ones.
pub const PARTS: [std::ops::Range<u64>; 4] =
    [0..2_000, 10_000..10_200, 20_000..20_200, 30_000..30_200];

/// A checkpoint of one table for each of the [`PARTS`], and their bytes.
pub fn parts(env: &SimEnv, remote: &Remote) -> (Point, Vec<u64>) {
    let mut job = Job::open(env, remote, None, roomy);
    let mut point = None;
    let mut bytes = Vec::new();
    for part in PARTS {
        job.fill(part);
        point = Some(job.checkpoint());
        bytes.push(job.shard.stats().table_bytes - bytes.iter().sum::<u64>());
        assert_eq!(job.shard.stats().tables, bytes.len(), "nothing is merged");
    }
    (point.unwrap(), bytes)
}
