//! Values that expire, across restores.

use std::time::Duration;

use alluvium::env::SimEnv;
use alluvium::{KeyRef, KeyedStore, Shard, SnapshotHandle, SnapshotId, StateSpec, Ttl};

use crate::common::{Keyspace, OPERATOR, backend_on, range_of};
use crate::machine;

const DAY_MS: i64 = 86_400_000;
const GROUPS: u32 = 128;

fn specs() -> [StateSpec; 3] {
    let ttl = Ttl::after(Duration::from_millis(DAY_MS as u64));
    [StateSpec::value("values"), StateSpec::list("lists"), StateSpec::map("maps")]
        .map(|spec| spec.ttl(ttl))
}

struct Job {
    env: SimEnv,
    shard: Shard,
    backend: alluvium::Backend,
    last: u64,
}

impl Job {
    fn open(env: &SimEnv, handles: &[SnapshotHandle], last: u64) -> Self {
        let space = Keyspace::new(GROUPS, [""; 0]);
        let backend = backend_on(env, &space).max_tables_per_shard(1).open().unwrap();
        let builder = backend.shard(OPERATOR, range_of(0, 1, GROUPS));
        let shard = builder.restore(handles.iter().cloned()).open().unwrap();
        Self { env: env.clone(), shard, backend, last }
    }

    fn write(&mut self, keys: std::ops::Range<u32>) {
        let [values, lists, maps] = specs().map(|spec| self.shard.register(spec).unwrap());
        for number in keys {
            let bytes = number.to_be_bytes();
            let (key, value) = (KeyRef::new(&bytes), bytes.repeat(10));
            self.shard.put(values, key, &value).unwrap();
            self.shard.list_append(lists, key, &[&value]).unwrap();
            self.shard.map_put(maps, key, b"entry", &value).unwrap();
        }
    }

    fn found(&mut self, number: u32) -> [bool; 3] {
        let [values, lists, maps] = specs().map(|spec| self.shard.register(spec).unwrap());
        let bytes = number.to_be_bytes();
        let key = KeyRef::new(&bytes);
        let mut elements = 0;
        self.shard.list_read(lists, key, &mut |_| elements += 1).unwrap();
        [
            self.shard.get(values, key).unwrap().is_some(),
            elements > 0,
            self.shard.map_get(maps, key, b"entry").unwrap().is_some(),
        ]
    }

    /// A snapshot, merges, and the bytes of all tables after them.
    fn snapshot(&mut self) -> (SnapshotHandle, u64) {
        let mut handle = None;
        // The second one's tables are what the merge after the first has left.
        for _ in 0..2 {
            self.last += 1;
            let id = SnapshotId(self.last);
            handle = Some(self.shard.snapshot(id, b"").unwrap().wait().unwrap().handle);
            self.shard.notify_complete(id);
            while self.backend.run_background() {}
        }
        (handle.unwrap(), self.shard.stats().table_bytes)
    }

    fn next_life(self, handle: &SnapshotHandle) -> Self {
        let Self { env, last, shard, backend } = self;
        drop((shard, backend));
        Self::open(&env, std::slice::from_ref(handle), last)
    }
}

/// FLINK-40354: nothing configured the filter that drops what has expired.
/// FLINK-23277: it was lost when the state was restored. State grows for ever,
/// and nobody sees it.
#[test]
fn bug_33_what_expires_leaves_tables_and_memory_in_every_life() {
    for warm in [false, true] {
        let env = machine();
        let mut job = Job::open(&env, &[], 0);
        job.write(0..1000);
        let (mut handle, full) = job.snapshot();
        assert!(full > 40_000, "{full}");
        // In the life that wrote it, and in two that were restored, of which the
        // second has new data to expire.
        for life in 0..3_u32 {
            if life > 0 {
                job = job.next_life(&handle);
                for spec in specs() {
                    job.shard.register(spec).unwrap();
                }
                if warm {
                    while !job.shard.warm_up(100).unwrap() {
                        job.backend.run_background();
                    }
                }
                job.write(1000 * life..1000 * (life + 1));
                let (_, full) = job.snapshot();
                assert!(full > 40_000, "life {life}: {full}");
            }
            job.env.shift_wall_clock(2 * DAY_MS);
            job.write(5_000_000..5_000_001);
            while !job.shard.expire(100).unwrap() {}
            let (after, left) = job.snapshot();
            assert!(left < full / 20, "life {life}: {left} bytes of {full} are left");
            assert_eq!(job.found(5_000_000), [true; 3]);
            assert_eq!(job.found(1000 * life + 7), [false; 3]);
            // The snapshot has the deletions, so memory need not.
            while !job.shard.expire(100).unwrap() {}
            let stats = job.shard.stats();
            assert!(stats.records < 1000, "life {life}: {stats:?}");
            handle = after;
        }
    }
}

#[test]
fn bug_33_a_clock_that_jumps_by_thirty_days_loses_nothing_that_lives_and_brings_nothing_back() {
    let env = machine();
    let mut job = Job::open(&env, &[], 0);
    job.write(0..100);
    let (handle, _) = job.snapshot();
    job = job.next_life(&handle);
    job.env.shift_wall_clock(-30 * DAY_MS);
    for number in 0..100 {
        assert_eq!(job.found(number), [true; 3], "it lives longer when the clock goes back");
    }
    job.write(100..200);
    job.env.shift_wall_clock(30 * DAY_MS);
    for number in 0..100 {
        assert_eq!(job.found(number), [true; 3]);
        assert_eq!(job.found(100 + number), [false; 3], "written thirty days ago");
    }
    while !job.shard.expire(100).unwrap() {}
    let (handle, _) = job.snapshot();
    job.env.shift_wall_clock(-30 * DAY_MS);
    job = job.next_life(&handle);
    for number in 0..100 {
        assert_eq!(job.found(number), [true; 3]);
        assert_eq!(job.found(100 + number), [false; 3], "it was removed");
    }
}
