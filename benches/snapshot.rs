//! What does a snapshot cost the task, how long until it is durable, and how
//! soon does a restored shard work, and at full speed?
//!
//! A million records with keys of 8 and values of 100 bytes, on the disk that
//! holds the temporary directory, which is what some of these measure. The
//! whole distribution of pauses is the business of `benches/comparison`.
//!
//! `ALLUVIUM_BENCH_RECORDS` sets another number of records.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::time::{Duration, Instant};

use alluvium::{
    Backend, KeyRef, KeyedStore, Shard, SnapshotHandle, SnapshotId, SnapshotReport, StateId,
    StateSpec,
};
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};

const VALUE: [u8; 100] = [b'v'; 100];
/// What is measured may be a thousandth of what it takes to prepare it. A sample
/// takes no longer than this, preparations included, and is scaled up.
const SAMPLE: Duration = Duration::from_millis(200);

fn records() -> u64 {
    let set = std::env::var("ALLUVIUM_BENCH_RECORDS").ok();
    set.map_or(1_000_000, |set| set.parse().expect("ALLUVIUM_BENCH_RECORDS is a number"))
}

fn key(i: u64) -> [u8; 8] {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

/// Times `measured`, which says itself how long it took.
fn each(b: &mut Bencher<'_>, mut measured: impl FnMut() -> Duration) {
    b.iter_custom(|wanted| {
        let started = Instant::now();
        let (mut spent, mut done) = (measured(), 1);
        while done < wanted && started.elapsed() < SAMPLE {
            spent += measured();
            done += 1;
        }
        spent.mul_f64(wanted as f64 / done as f64)
    });
}

struct Job {
    shard: Shard,
    state: StateId,
    last: u64,
}

impl Job {
    fn filled(backend: &Backend, records: u64) -> (Self, SnapshotReport) {
        let groups = backend.max_parallelism().all_groups();
        let mut shard = backend.shard("bench", groups).open().unwrap();
        let state = shard.register(StateSpec::value("state")).unwrap();
        let mut job = Self { shard, state, last: 0 };
        job.change(0..records);
        let (_, report) = job.snapshot();
        (job, report)
    }

    fn change(&mut self, keys: impl Iterator<Item = u64>) {
        for i in keys {
            self.shard.put(self.state, KeyRef::new(&key(i)), &VALUE).unwrap();
        }
    }

    /// Freezes the shard, waits until the snapshot is durable, and gives how
    /// long the first took and what came of it.
    fn snapshot(&mut self) -> (Duration, SnapshotReport) {
        self.last += 1;
        let started = Instant::now();
        let ticket = self.shard.snapshot(SnapshotId(self.last), b"").unwrap();
        let paused = started.elapsed();
        let report = ticket.wait().unwrap();
        self.shard.notify_complete(SnapshotId(self.last));
        (paused, report)
    }

    fn restore(backend: &Backend, handle: &SnapshotHandle) -> (Shard, StateId) {
        let groups = backend.max_parallelism().all_groups();
        let mut shard = backend.shard("bench", groups).restore([handle.clone()]).open().unwrap();
        let state = shard.register(StateSpec::value("state")).unwrap();
        (shard, state)
    }
}

fn snapshots(c: &mut Criterion) {
    let records = records();
    let dirty = (records / 100).max(1);
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::builder(dir.path()).open().unwrap();
    let mut job = Job::filled(&backend, records).0;
    let mut group = c.benchmark_group("snapshot");
    group.sample_size(10);

    // The same hundredth never comes twice in a row.
    let mut from = 0;
    let mut next_hundredth = move || {
        from = (from + dirty) % records;
        (from..from + dirty).map(move |i| i % records)
    };
    group.bench_function("freeze_cost_while_writing", |b| {
        each(b, || {
            job.change(next_hundredth());
            job.snapshot().0
        })
    });
    group.throughput(Throughput::Elements(dirty));
    group.bench_function("hundredth_dirty_until_durable", |b| {
        each(b, || {
            job.change(next_hundredth());
            let started = Instant::now();
            job.snapshot();
            started.elapsed()
        })
    });
    group.throughput(Throughput::Bytes(records * (8 + VALUE.len() as u64)));
    group.bench_function("all_dirty_until_extracted", |b| {
        each(b, || {
            job.change(0..records);
            Duration::from_nanos(job.snapshot().1.extract_ns)
        })
    });
    group.bench_function("all_dirty_until_durable", |b| {
        each(b, || {
            job.change(0..records);
            let started = Instant::now();
            job.snapshot();
            started.elapsed()
        })
    });
    group.finish();
}

/// Of a snapshot with a single table.
fn restores(c: &mut Criterion) {
    let records = records();
    let dir = tempfile::tempdir().unwrap();
    let backend = |name: &str| {
        Backend::builder(dir.path().join(name)).checkpoint_dir(dir.path().join("checkpoints"))
    };
    let handle = &Job::filled(&backend("writer").open().unwrap(), records).1.handle;
    let cold = backend("cold").warm_up(false).open().unwrap();
    let warm = backend("warm").open().unwrap();
    let mut group = c.benchmark_group("restore");
    group.sample_size(10);

    group.bench_function("open", |b| {
        each(b, || {
            let started = Instant::now();
            let opened = Job::restore(&cold, handle);
            let spent = started.elapsed();
            drop(opened);
            spent
        })
    });
    let mut i = 0;
    group.bench_function("first_read", |b| {
        each(b, || {
            let (mut shard, state) = Job::restore(&cold, handle);
            i = (i + 12_345) % records;
            let started = Instant::now();
            let found = shard.get(state, KeyRef::new(&key(i))).unwrap().is_some();
            let spent = started.elapsed();
            assert!(found);
            spent
        })
    });
    group.throughput(Throughput::Elements(records));
    group.bench_function("open_and_warm_up", |b| {
        each(b, || {
            let started = Instant::now();
            let (mut shard, _) = Job::restore(&warm, handle);
            while !shard.warm_up(4096).unwrap() {
                std::thread::yield_now();
            }
            started.elapsed()
        })
    });
    group.finish();
}

criterion_group!(benches, snapshots, restores);
criterion_main!(benches);
