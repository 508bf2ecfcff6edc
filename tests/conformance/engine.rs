//! The engine, on a simulated machine, as a store that claims are put to.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::{Backend, KeyedStore, MaxParallelism, SnapshotHandle, SnapshotId};

use crate::harness::{Deployment, Factory};
use crate::living::{InLife, Living};

const OPERATOR: &str = "conformance";

/// The engine.
pub(crate) struct Engine {
    /// Whether a restored shard is in memory before the job goes on; otherwise
    /// it reads its tables for each key.
    pub(crate) warm: bool,
    /// Whether everything leaves memory before each call, so that every call finds
    /// what it needs in tables.
    pub(crate) evicted: bool,
    /// What time to live its states have.
    pub(crate) ttl: InLife,
}

impl Engine {
    pub(crate) const fn warm(ttl: InLife) -> Self {
        Self { warm: true, evicted: false, ttl }
    }

    pub(crate) const fn cold(ttl: InLife) -> Self {
        Self { warm: false, evicted: false, ttl }
    }

    pub(crate) const fn evicted(ttl: InLife) -> Self {
        Self { warm: true, evicted: true, ttl }
    }
}

impl Factory for Engine {
    fn deploy(&self, max_parallelism: MaxParallelism, shards: u32) -> Box<dyn Deployment> {
        let mut builder = Backend::builder("/conformance");
        if self.evicted {
            // Memory is never short by itself.
            builder = builder.memory_budget_bytes(1 << 30);
        }
        let backend = builder
            .env(Arc::new(SimEnv::new(1)))
            .max_parallelism(max_parallelism)
            .background_threads(0)
            .max_tables_per_shard(2)
            .warm_up(self.warm)
            .open()
            .unwrap();
        let mut job = Job {
            warm: self.warm,
            evicted: self.evicted,
            ttl: self.ttl,
            life: 0,
            shards: Vec::new(),
            backend,
            snapshots: BTreeMap::new(),
            last_snapshot: 0,
        };
        job.open(shards, &[]);
        Box::new(job)
    }
}

struct Job {
    warm: bool,
    evicted: bool,
    ttl: InLife,
    life: u32,
    shards: Vec<Living>,
    backend: Backend,
    snapshots: BTreeMap<usize, Vec<SnapshotHandle>>,
    last_snapshot: usize,
}

impl Job {
    fn open(&mut self, shards: u32, handles: &[SnapshotHandle]) {
        let max = self.backend.max_parallelism();
        let ttl = (self.ttl)(self.life);
        self.life += 1;
        self.shards = (0..shards)
            .map(|shard| {
                let groups = max.range_of_subtask(shard, shards).unwrap();
                let builder = self.backend.shard(OPERATOR, groups);
                Living { shard: builder.restore(handles.iter().cloned()).open().unwrap(), ttl }
            })
            .collect();
        for shard in self.shards.iter_mut().filter(|_| self.warm) {
            while !shard.shard.warm_up(1000).unwrap() {
                self.backend.run_background();
            }
        }
    }
}

impl Deployment for Job {
    fn shards(&self) -> u32 {
        self.shards.len() as u32
    }

    fn store(&mut self, shard: u32) -> &mut dyn KeyedStore {
        if self.evicted {
            let Living { shard, .. } = &mut self.shards[shard as usize];
            shard.write_early().unwrap();
            while self.backend.run_background() {}
            shard.evict(u64::MAX).unwrap();
        }
        &mut self.shards[shard as usize]
    }

    fn snapshot(&mut self) -> usize {
        self.last_snapshot += 1;
        let id = SnapshotId(self.last_snapshot as u64);
        let handles = self
            .shards
            .iter_mut()
            .map(|Living { shard, .. }| {
                let report = shard.snapshot(id, b"").unwrap().wait().unwrap();
                shard.notify_complete(id);
                report.handle
            })
            .collect();
        // Merges happen between snapshots.
        while self.backend.run_background() {}
        self.snapshots.insert(self.last_snapshot, handles);
        self.last_snapshot
    }

    fn restore(&mut self, snapshot: usize, shards: u32) {
        self.shards.clear();
        let handles = self.snapshots[&snapshot].clone();
        self.open(shards, &handles);
    }
}
