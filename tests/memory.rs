//! What the backend says it has of memory, against what the system says of the process.
//!
//! A binary of its own, with one test: the memory of a process is that of all its
//! threads. State is ten times the budget; new keys, uniform and skewed updates, lists,
//! maps and timers, early writes, snapshots and merges all happen while samples are
//! taken.

#![allow(clippy::disallowed_methods, reason = "the system is asked about the real process")]

use alluvium::{
    Backend, KeyRef, KeyedStore, MaxParallelism, MemoryStats, Shard, SnapshotId, StateId,
    StateSpec, TimeDomain, TimerSpec, TimerStore, TimersId,
};

const MIB: u64 = 1 << 20;
/// What the backend may use, unless `MEMORY_BUDGET_MIB` says otherwise.
const BUDGET_MIB: u64 = 32;
const VALUE_BYTES: usize = 100;
/// Operations between two looks at the process.
const SAMPLE_EVERY: u64 = 2_000;

/// Anonymous memory of this process, in bytes.
fn anonymous_bytes() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    kib * 1024
}

/// Xorshift.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Like Zipf's law with an exponent of 1: the logarithm is uniform.
    fn skewed(&mut self, end: u64) -> u64 {
        let part = self.below(1 << 32) as f64 / f64::from(1 << 16) / f64::from(1 << 16);
        ((end as f64).powf(part) as u64).saturating_sub(1) % end
    }

    fn value(&mut self) -> [u8; VALUE_BYTES] {
        let mut value = [0; VALUE_BYTES];
        value.chunks_mut(8).for_each(|some| {
            let bytes = self.next().to_le_bytes();
            some.copy_from_slice(&bytes[..some.len()]);
        });
        value
    }
}

/// What the samples came to.
#[derive(Default)]
struct Samples {
    number: u64,
    most_accounted: u64,
    /// The process had so much more than was accounted, and so much less.
    most_above: i64,
    most_below: i64,
    sum: f64,
    worst: Option<(String, u64, MemoryStats)>,
}

struct Life {
    backend: Backend,
    shard: Shard,
    values: StateId,
    lists: StateId,
    maps: StateId,
    timers: TimersId,
    rng: Rng,
    operations: u64,
    snapshots: u64,
    /// Anonymous memory before there was anything, less what was accounted by then.
    baseline: u64,
    samples: Samples,
}

impl Life {
    fn open(dir: &std::path::Path, budget: u64) -> Self {
        let backend = Backend::builder(dir).memory_budget_bytes(budget).open().unwrap();
        let groups = MaxParallelism::DEFAULT.all_groups();
        let mut shard = backend.shard("op", groups).open().unwrap();
        let values = shard.register(StateSpec::value("values")).unwrap();
        let lists = shard.register(StateSpec::list("lists")).unwrap();
        let maps = shard.register(StateSpec::map("maps")).unwrap();
        let timers = shard.open_timers(TimerSpec::new("timers", TimeDomain::Event)).unwrap();
        let baseline = anonymous_bytes() - backend.memory().total_bytes;
        Self {
            backend,
            shard,
            values,
            lists,
            maps,
            timers,
            rng: Rng(0x9e37_79b9_7f4a_7c15),
            operations: 0,
            snapshots: 0,
            baseline,
            samples: Samples::default(),
        }
    }

    fn sample(&mut self, phase: &str) {
        let accounted = self.backend.memory();
        let anonymous = anonymous_bytes().saturating_sub(self.baseline);
        let apart = anonymous as i64 - accounted.total_bytes as i64;
        let samples = &mut self.samples;
        samples.number += 1;
        samples.sum += apart as f64;
        samples.most_accounted = samples.most_accounted.max(accounted.total_bytes);
        if apart > samples.most_above {
            samples.worst = Some((phase.to_owned(), anonymous, accounted));
        }
        samples.most_above = samples.most_above.max(apart);
        samples.most_below = samples.most_below.max(-apart);
    }

    fn done(&mut self, phase: &str) {
        self.operations += 1;
        if self.operations.is_multiple_of(SAMPLE_EVERY) {
            self.sample(phase);
        }
    }

    fn put(&mut self, phase: &str, key: u64) {
        let value = self.rng.value();
        self.shard.put(self.values, KeyRef::new(&key.to_le_bytes()), &value).unwrap();
        self.done(phase);
    }

    fn snapshot(&mut self) {
        self.snapshots += 1;
        let id = SnapshotId(self.snapshots);
        self.shard.snapshot(id, b"").unwrap().wait().unwrap();
        self.shard.notify_complete(id);
        self.sample("snapshot");
    }

    fn report(&self, phase: &str) {
        let samples = &self.samples;
        let mib = |bytes: i64| bytes as f64 / MIB as f64;
        println!(
            "{phase}: accounted at most {:.1} MiB, peak {:.1}; the process {:.1} above to {:.1} below, {:.1} on average of {} samples",
            mib(samples.most_accounted as i64),
            mib(self.backend.memory().peak_bytes as i64),
            mib(samples.most_above),
            mib(samples.most_below),
            mib((samples.sum / samples.number.max(1) as f64) as i64),
            samples.number,
        );
        println!("{}\n{}", self.backend.memory(), self.shard.stats());
    }
}

impl Life {
    /// New keys up to eight times the budget, then updates of them, uniform and skewed.
    fn live_with_values(&mut self, budget: u64) {
        let keys = 8 * budget / (VALUE_BYTES as u64 + 8);
        for key in 0..keys {
            self.put("new keys", key);
            if key % (keys / 4) == 0 {
                self.snapshot();
            }
        }
        self.report("new keys");
        for step in 0..keys / 4 {
            let key = self.rng.below(keys);
            self.put("uniform updates", key);
            if step % (keys / 16) == 0 {
                self.snapshot();
            }
        }
        self.report("uniform updates");
        for step in 0..keys / 4 {
            let key = self.rng.skewed(keys).to_le_bytes();
            // Reads, too, which tables have to answer.
            let change = |value: &mut alluvium::ValueMut<'_>| {
                if let Some(bytes) = value.bytes_mut() {
                    bytes[0] ^= 1;
                }
            };
            self.shard.update(self.values, KeyRef::new(&key), &mut { change }).unwrap();
            self.done("skewed updates");
            if step % (keys / 16) == 0 {
                self.snapshot();
            }
        }
        self.report("skewed updates");
    }

    /// Lists and maps that come to twice the budget, and some timers.
    fn live_with_others(&mut self, budget: u64) {
        let elements = budget / 128;
        for step in 0..elements {
            let value = self.rng.value();
            let key = self.rng.below(elements / 16).to_le_bytes();
            self.shard.list_append(self.lists, KeyRef::new(&key), &[&value]).unwrap();
            self.done("lists");
            if step % (elements / 4) == 0 {
                self.snapshot();
            }
        }
        self.report("lists");
        for step in 0..elements {
            let value = self.rng.value();
            let entry = self.rng.below(1000).to_le_bytes();
            let key = self.rng.below(elements / 64).to_le_bytes();
            self.shard.map_put(self.maps, KeyRef::new(&key), &entry, &value).unwrap();
            self.done("maps");
            if step % (elements / 4) == 0 {
                self.snapshot();
            }
        }
        self.report("maps");
        for time in 0..budget as i64 / 1024 {
            let key = self.rng.next().to_le_bytes();
            self.shard.register_timer(self.timers, time, KeyRef::new(&key)).unwrap();
            self.done("timers");
        }
        self.snapshot();
        self.report("timers");
    }

    /// What was accounted is what the process has, but for an eighth of `bytes`, and no more
    /// than those.
    fn check(&self, bytes: u64) {
        let samples = &self.samples;
        if let Some((phase, anonymous, accounted)) = &samples.worst {
            println!("worst at {phase}: {} KiB anonymous\n{accounted}", anonymous / 1024);
        }
        let eighth = (bytes / 8) as i64;
        assert!(samples.most_above <= eighth, "{} KiB above", samples.most_above / 1024);
        assert!(samples.most_below <= eighth, "{} KiB below", samples.most_below / 1024);
        let memory = self.backend.memory();
        assert!(memory.peak_bytes <= bytes, "more than the budget: {memory}");
    }
}

/// It takes minutes on a slow disk: `cargo test --release --test memory -- --ignored
/// --nocapture`, with `MEMORY_BUDGET_MIB` for another budget than 32 MiB.
#[test]
#[ignore = "writes some gigabytes"]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn what_is_accounted_is_what_the_process_has_and_never_above_the_limit() {
    let budget_mib = std::env::var("MEMORY_BUDGET_MIB").ok();
    let budget = budget_mib.map_or(BUDGET_MIB, |mib| mib.parse().unwrap()) * MIB;
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::open(dir.path(), budget);
    life.live_with_values(budget);
    life.check(budget);
    // Room that one state had is room for the others.
    life.live_with_others(budget);
    life.check(budget);
}
