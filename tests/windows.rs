//! Windows that come and go: state of a namespace for each, put and some time later
//! deleted, and never asked for again.
//!
//! What could break: deletions pile up in tables, since nothing says that there is
//! nothing to be deleted any more; or tables of them are read and written for nothing.
//! Bytes are counted in the directory, beside a model that knows what is open.

mod common;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use alluvium::env::{Env, SimEnv};
use alluvium::{BackendBuilder, KeyRef, KeyedStore, Shard, SnapshotId, StateId, StateSpec};

use common::{DIR, Keyspace, OPERATOR, backend_on, range_of};

const GROUPS: u32 = 128;
/// Keys that have something in each window.
const KEYS: u32 = 100;
/// Windows that are open at one time.
const OPEN: u64 = 5;

struct Job {
    env: SimEnv,
    backend: alluvium::Backend,
    shard: Shard,
    states: [StateId; 3],
    snapshots: u64,
}

impl Job {
    fn open(options: impl Fn(BackendBuilder) -> BackendBuilder) -> Self {
        let env = SimEnv::new(3);
        let backend = options(backend_on(&env, &Keyspace::new(GROUPS, [""; 0]))).open().unwrap();
        let mut shard = backend.shard(OPERATOR, range_of(0, 1, GROUPS)).open().unwrap();
        let specs = [StateSpec::value("sums"), StateSpec::list("events"), StateSpec::map("seen")];
        let states = specs.map(|spec| shard.register(spec).unwrap());
        Self { env, backend, shard, states, snapshots: 0 }
    }

    fn fill(&mut self, window: u64) {
        let [sums, events, seen] = self.states;
        let namespace = window.to_be_bytes();
        for number in 0..KEYS {
            let bytes = number.to_be_bytes();
            let key = KeyRef::new(&bytes).namespace(&namespace);
            self.shard.put(sums, key, &[1; 8]).unwrap();
            self.shard.list_append(events, key, &[&[2; 30]]).unwrap();
            self.shard.map_put(seen, key, b"user", &[3; 4]).unwrap();
        }
    }

    fn close(&mut self, window: u64) {
        let namespace = window.to_be_bytes();
        for number in 0..KEYS {
            let bytes = number.to_be_bytes();
            for state in self.states {
                self.shard.clear(state, KeyRef::new(&bytes).namespace(&namespace)).unwrap();
            }
        }
    }

    /// A completed snapshot, and the merges after it; the bytes that were uploaded.
    fn snapshot(&mut self) -> u64 {
        self.snapshots += 1;
        let id = SnapshotId(self.snapshots);
        let report = self.shard.snapshot(id, b"").unwrap().wait().unwrap();
        self.shard.notify_complete(id);
        while self.backend.run_background() {}
        report.bytes_new
    }

    fn windows(&mut self) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        for state in self.states {
            self.shard
                .visit_keys(state, None, &mut |_, _, namespace| {
                    found.insert(u64::from_be_bytes(namespace.try_into().unwrap()));
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
        found
    }

    fn local_bytes(&self) -> u64 {
        let dir = Path::new(DIR).join("local");
        let files = self.env.fs().list(&dir).unwrap();
        files.iter().map(|file| self.env.fs().open(&dir.join(file)).unwrap().len()).sum()
    }
}

#[test]
fn two_hundred_generations_of_windows_leave_tables_of_the_open_ones() {
    // By the number of tables alone, as in a small shard; and by bytes, in pieces.
    for partition_bytes in [None, Some(20_000)] {
        let mut job = Job::open(|builder| match partition_bytes {
            Some(bytes) => builder.partition_bytes(bytes),
            None => builder,
        });
        let (mut most, mut most_tables, mut uploaded, mut one) = (0, 0, 0, 0);
        for window in 0..200 {
            job.fill(window);
            if let Some(over) = window.checked_sub(OPEN) {
                job.close(over);
            }
            let new = job.snapshot();
            uploaded += new;
            if window == 0 {
                one = job.local_bytes();
            }
            most = most.max(job.local_bytes());
            most_tables = most_tables.max(job.shard.stats().tables);
        }
        println!(
            "{partition_bytes:?}: {one} bytes of one window, {most} in files at most, \
             {most_tables} tables, {uploaded} uploaded"
        );
        // Five are open, ten deltas are not merged yet, with a deletion for each record
        // of theirs, and what is being merged is there twice.
        assert!(most <= 30 * one, "{most} bytes, of one window {one}");
        assert_eq!(job.windows(), (200 - OPEN..200).collect());
        for over in 200 - OPEN..200 {
            job.close(over);
        }
        // Nothing is left, and nobody has to write more for that than the deletions.
        for _ in 0..40 {
            job.snapshot();
        }
        assert_eq!(job.windows(), BTreeSet::new());
        let left = job.shard.stats();
        assert_eq!((left.tables, left.table_bytes, job.local_bytes()), (0, 0, 0), "{left:?}");
    }
}
