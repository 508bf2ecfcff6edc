//! A job of one or several shards on a simulated machine, whose clock the test
//! sets.

use std::sync::Arc;
use std::time::Duration;

use alluvium::env::{Env, SimEnv};
use alluvium::{
    Backend, KeyRef, KeyedStore, MaxParallelism, Shard, SnapshotHandle, SnapshotId, StateId,
    StateSpec, TimeDomain, Ttl, TtlUpdate, TtlVisibility,
};

pub const DAY_MS: i64 = 86_400_000;

/// A machine, a backend, and the shards of one operator.
pub struct Job {
    pub env: SimEnv,
    pub backend: Backend,
    pub shards: Vec<Shard>,
    snapshots: u64,
}

impl Job {
    pub fn new(warm_up: bool) -> Self {
        Self::with_tables(warm_up, 2)
    }

    /// With so many tables before some are merged.
    pub fn with_tables(warm_up: bool, tables: usize) -> Self {
        let env = SimEnv::new(7);
        let backend = Backend::builder("/ttl")
            .env(Arc::new(env.clone()))
            .max_parallelism(MaxParallelism::new(16).unwrap())
            .background_threads(0)
            .max_tables_per_shard(tables)
            .warm_up(warm_up)
            .open()
            .unwrap();
        let mut job = Self { env, backend, shards: Vec::new(), snapshots: 0 };
        job.restore(&[], 1);
        job
    }

    /// The first shard, which is the only one unless it was said otherwise.
    pub fn shard(&mut self) -> &mut Shard {
        &mut self.shards[0]
    }

    /// The shard that owns a key.
    pub fn shard_of(&mut self, key: KeyRef<'_>) -> &mut Shard {
        let (group, _) = key.locate(self.backend.max_parallelism());
        let shards = &mut self.shards;
        shards.iter_mut().find(|shard| shard.groups().contains(group)).unwrap()
    }

    /// Lets time pass, or the clock jump.
    pub fn pass_ms(&self, ms: i64) {
        self.env.shift_wall_clock(ms);
    }

    pub fn now_ms(&self) -> i64 {
        self.env.unix_time_ms() as i64
    }

    /// A completed snapshot of all shards; merges are done.
    pub fn snapshot(&mut self) -> Vec<SnapshotHandle> {
        self.snapshots += 1;
        let id = SnapshotId(self.snapshots);
        let handles = self.shards.iter_mut().map(|shard| {
            let handle = shard.snapshot(id, b"").unwrap().wait().unwrap().handle;
            shard.notify_complete(id);
            handle
        });
        let handles = handles.collect();
        while self.backend.run_background() {}
        handles
    }

    /// Another life, on so many shards.
    pub fn restore(&mut self, handles: &[SnapshotHandle], shards: u32) {
        self.shards.clear();
        let max = self.backend.max_parallelism();
        self.shards = (0..shards)
            .map(|shard| {
                let groups = max.range_of_subtask(shard, shards).unwrap();
                let builder = self.backend.shard("ttl", groups);
                builder.restore(handles.iter().cloned()).open().unwrap()
            })
            .collect();
    }

    pub fn restart(&mut self) {
        let handles = self.snapshot();
        self.restore(&handles, 1);
    }

    /// Brings what is registered into memory.
    pub fn warm_up(&mut self) {
        for shard in &mut self.shards {
            while !shard.warm_up(100).unwrap() {
                assert!(self.backend.run_background(), "the warm-up comes to an end");
            }
        }
    }

    /// Has all that is due removed.
    pub fn expire_all(&mut self) {
        for shard in &mut self.shards {
            while !shard.expire(64).unwrap() {}
        }
    }

    /// Bytes of all tables.
    pub fn table_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.stats().table_bytes).sum()
    }

    /// Says what time it is, by the clock or by the watermark.
    pub fn come_to(&mut self, time: TimeDomain, ms: i64) {
        match time {
            TimeDomain::Processing => self.pass_ms(ms - self.now_ms()),
            TimeDomain::Event => {
                self.shards.iter_mut().for_each(|shard| shard.advance_watermark(ms));
            }
        }
    }
}

pub fn ttl(ms: u64) -> Ttl {
    Ttl::after(Duration::from_millis(ms))
}

/// Every way to live so long.
pub fn all_ttls(ms: u64) -> Vec<Ttl> {
    let mut all = Vec::new();
    for update in [TtlUpdate::OnCreateAndWrite, TtlUpdate::OnReadAndWrite] {
        for visibility in
            [TtlVisibility::NeverReturnExpired, TtlVisibility::ReturnExpiredIfNotCleanedUp]
        {
            for time in [TimeDomain::Processing, TimeDomain::Event] {
                all.push(ttl(ms).update(update).visibility(visibility).time(time));
            }
        }
    }
    all
}

pub fn list(shard: &mut Shard, state: StateId, key: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let key = KeyRef::new(key);
    shard.list_read(state, key, &mut |element| found.push(element.to_vec())).unwrap();
    found
}

pub fn map(shard: &mut Shard, state: StateId, key: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    shard
        .map_scan(state, KeyRef::new(key), std::ops::Bound::Unbounded, &mut |entry, value| {
            found.push((entry.to_vec(), value.to_vec()));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    found
}

pub fn get(shard: &mut Shard, state: StateId, key: &[u8]) -> Option<Vec<u8>> {
    shard.get(state, KeyRef::new(key)).unwrap().map(<[u8]>::to_vec)
}

/// Keys that a state holds something for, sorted.
pub fn keys(shard: &mut Shard, state: StateId) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    shard
        .visit_keys(state, None, &mut |_, key, _| {
            found.push(key.to_vec());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    found.sort();
    found
}

/// A state of each kind.
pub fn specs(ttl: Option<Ttl>) -> [StateSpec; 3] {
    [StateSpec::value("values"), StateSpec::list("lists"), StateSpec::map("maps")].map(|spec| {
        match ttl {
            Some(ttl) => spec.ttl(ttl),
            None => spec,
        }
    })
}

/// Writes one thing under a key of a state of any kind.
pub fn write(shard: &mut Shard, spec: &StateSpec, key: &[u8], value: &[u8]) {
    let state = shard.register(spec.clone()).unwrap();
    let key = KeyRef::new(key);
    match spec.kind() {
        alluvium::StateKind::List => shard.list_append(state, key, &[value]).unwrap(),
        alluvium::StateKind::Map => shard.map_put(state, key, b"entry", value).unwrap(),
        _ => shard.put(state, key, value).unwrap(),
    }
}

/// Reads the one thing that is under a key of a state of any kind.
pub fn read(shard: &mut Shard, spec: &StateSpec, key: &[u8]) -> Option<Vec<u8>> {
    let state = shard.register(spec.clone()).unwrap();
    match spec.kind() {
        alluvium::StateKind::List => {
            let found = list(shard, state, key);
            assert!(found.len() <= 1);
            found.into_iter().next()
        }
        alluvium::StateKind::Map => {
            let found = shard.map_get(state, KeyRef::new(key), b"entry").unwrap();
            let found = found.map(<[u8]>::to_vec);
            assert_eq!(map(shard, state, key).len(), usize::from(found.is_some()));
            found
        }
        _ => get(shard, state, key),
    }
}

/// Whether a state of any kind enumerates a key.
pub fn has_key(shard: &mut Shard, spec: &StateSpec, key: &[u8]) -> bool {
    let state = shard.register(spec.clone()).unwrap();
    keys(shard, state).iter().any(|found| found == key)
}
