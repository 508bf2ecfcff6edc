//! A job of one shard with a small budget on a simulated machine.

use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::{
    Backend, KeyRef, KeyedStore, MaxParallelism, Result, Shard, SnapshotHandle, SnapshotId,
    StateId, StateSpec,
};

/// What the backend may use.
pub(crate) const BUDGET_BYTES: u64 = 256 << 10;

/// See the [module documentation](self).
pub(crate) struct Job {
    pub(crate) shard: Shard,
    pub(crate) state: StateId,
}

impl Job {
    pub(crate) fn open(env: &SimEnv, handle: Option<SnapshotHandle>) -> Self {
        Self::with_budget(env, handle, BUDGET_BYTES)
    }

    pub(crate) fn with_budget(env: &SimEnv, handle: Option<SnapshotHandle>, bytes: u64) -> Self {
        let backend = Backend::builder("/node")
            .env(Arc::new(env.clone()))
            .background_threads(0)
            .memory_budget_bytes(bytes)
            .open()
            .unwrap();
        let groups = MaxParallelism::DEFAULT.all_groups();
        let mut shard = backend.shard("op", groups).restore(handle).open().unwrap();
        let state = shard.register(StateSpec::value("values")).unwrap();
        Self { shard, state }
    }

    pub(crate) fn snapshot(&mut self, id: u64) -> Result<SnapshotHandle> {
        let report = self.shard.snapshot(SnapshotId(id), b"")?.wait()?;
        self.shard.notify_complete(SnapshotId(id));
        Ok(report.handle)
    }

    pub(crate) fn put(&mut self, key: u64, value: &[u8]) -> Result<()> {
        self.shard.put(self.state, KeyRef::new(&key.to_le_bytes()), value)
    }

    pub(crate) fn get(&mut self, key: u64) -> Result<Option<Vec<u8>>> {
        let key = key.to_le_bytes();
        Ok(self.shard.get(self.state, KeyRef::new(&key))?.map(<[u8]>::to_vec))
    }

    /// Bytes of records and indexes, and what they may come to.
    pub(crate) fn resident(&self) -> (u64, u64) {
        let stats = self.shard.stats();
        (stats.arena_used_bytes + stats.index_bytes, stats.allowed_bytes)
    }
}
