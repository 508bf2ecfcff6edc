//! What does a timer cost, beside a `BinaryHeap` and a `HashSet`, which is the
//! least that a queue with the semantics of a set can be made of?
//!
//! A million timers are pending (`ALLUVIUM_BENCH_RECORDS` says another number)
//! within an hour. Each step fires what is due a little later, and for each
//! timer that fires registers another, so that their number stays.
//! `register_and_fire` counts one of each, as the engine's users do it;
//! `prolong` deletes a pending timer and registers it for later, as a session
//! does with every event. The baselines keep no snapshots.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::time::{Duration, Instant};

use alluvium::{Backend, KeyRef, Shard, SnapshotId, TimeDomain, TimerSpec, TimerStore, TimersId};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// How far ahead a timer is registered, at most.
const HORIZON_MS: u64 = 3_600_000;

fn timers() -> u64 {
    let set = std::env::var("ALLUVIUM_BENCH_RECORDS").ok();
    set.map_or(1_000_000, |set| set.parse().expect("ALLUVIUM_BENCH_RECORDS is a number"))
}

/// Times and keys, as good as random and cheap.
struct Picks(u64);

impl Picks {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * u128::from(below)) >> 64) as u64
    }
}

type Timer = (i64, [u8; 8]);

/// What is compared.
trait Queue {
    fn register(&mut self, timer: Timer) -> bool;
    fn delete(&mut self, timer: Timer) -> bool;
    fn pop_due(&mut self, now: i64) -> Option<Timer>;
}

struct Engine {
    shard: Shard,
    timers: TimersId,
    _backend: Backend,
    _dir: tempfile::TempDir,
}

impl Engine {
    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::builder(dir.path()).open().unwrap();
        let groups = backend.max_parallelism().all_groups();
        let mut shard = backend.shard("bench", groups).open().unwrap();
        let timers = shard.open_timers(TimerSpec::new("timers", TimeDomain::Event)).unwrap();
        Self { shard, timers, _backend: backend, _dir: dir }
    }
}

impl Queue for Engine {
    fn register(&mut self, (at, key): Timer) -> bool {
        self.shard.register_timer(self.timers, at, KeyRef::new(&key)).unwrap()
    }

    fn delete(&mut self, (at, key): Timer) -> bool {
        self.shard.delete_timer(self.timers, at, KeyRef::new(&key)).unwrap()
    }

    fn pop_due(&mut self, now: i64) -> Option<Timer> {
        let mut popped = None;
        self.shard
            .pop_due(self.timers, now, &mut |timer| {
                popped = Some((timer.timestamp, timer.key.try_into().unwrap()));
                Ok(())
            })
            .unwrap();
        popped
    }
}

/// Order in one, the semantics of a set in the other; what was deleted is
/// passed over when it comes up.
#[derive(Default)]
struct HeapAndSet {
    heap: BinaryHeap<Reverse<Timer>>,
    set: HashSet<Timer, BuildHasherDefault<Quick>>,
}

/// A hash that costs nearly nothing and is good enough for these keys.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        self.write_i64(i64::from_le_bytes(bytes.try_into().unwrap()));
    }

    fn write_i64(&mut self, number: i64) {
        self.0 = (self.0.rotate_left(29) ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// All keys have the same length.
    fn write_usize(&mut self, _len: usize) {}

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

impl Queue for HeapAndSet {
    fn register(&mut self, timer: Timer) -> bool {
        let is_new = self.set.insert(timer);
        if is_new {
            self.heap.push(Reverse(timer));
        }
        is_new
    }

    fn delete(&mut self, timer: Timer) -> bool {
        self.set.remove(&timer)
    }

    fn pop_due(&mut self, now: i64) -> Option<Timer> {
        while let Some(&Reverse(timer)) = self.heap.peek().filter(|timer| timer.0.0 <= now) {
            self.heap.pop();
            if self.set.remove(&timer) {
                return Some(timer);
            }
        }
        None
    }
}

impl Queue for BTreeSet<Timer> {
    fn register(&mut self, timer: Timer) -> bool {
        self.insert(timer)
    }

    fn delete(&mut self, timer: Timer) -> bool {
        self.remove(&timer)
    }

    fn pop_due(&mut self, now: i64) -> Option<Timer> {
        self.first().filter(|timer| timer.0 <= now)?;
        self.pop_first()
    }
}

/// A heap alone: no set, so no deletion, and a timer registered twice fires
/// twice.
#[derive(Default)]
struct HeapAlone(BinaryHeap<Reverse<Timer>>);

impl Queue for HeapAlone {
    fn register(&mut self, timer: Timer) -> bool {
        self.0.push(Reverse(timer));
        true
    }

    fn delete(&mut self, _: Timer) -> bool {
        false
    }

    fn pop_due(&mut self, now: i64) -> Option<Timer> {
        self.0.peek().filter(|timer| timer.0.0 <= now)?;
        self.0.pop().map(|Reverse(timer)| timer)
    }
}

fn key(i: u64) -> [u8; 8] {
    i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

/// A queue with all timers pending, and the keys that they are for.
struct Pending<Q> {
    queue: Q,
    picks: Picks,
    now: i64,
    next_key: u64,
}

impl<Q: Queue> Pending<Q> {
    fn new(queue: Q, timers: u64) -> Self {
        let mut pending = Self { queue, picks: Picks(0x853c_49e6_748f_ea9b), now: 0, next_key: 0 };
        for _ in 0..timers {
            pending.register();
        }
        pending
    }

    fn register(&mut self) -> Timer {
        let at = self.now + 1 + self.picks.next(HORIZON_MS) as i64;
        let timer = (at, key(self.next_key));
        self.next_key += 1;
        assert!(self.queue.register(timer));
        timer
    }

    /// Fires `count` timers, and registers as many.
    fn register_and_fire(&mut self, count: u64) {
        let mut left = count;
        loop {
            while let Some(timer) = self.queue.pop_due(self.now) {
                black_box(timer);
                self.register();
                left -= 1;
                if left == 0 {
                    return;
                }
            }
            self.now += 1;
        }
    }
}

fn measure<Q: Queue>(c: &mut Criterion, name: &str, mut queue: impl FnMut() -> Q) {
    let count = timers();
    let mut group = c.benchmark_group("timers");
    group.sample_size(20).throughput(Throughput::Elements(1));
    let mut pending = Pending::new(queue(), count);
    group.bench_function(format!("register_and_fire/{name}"), |b| {
        b.iter_custom(|times| {
            let started = Instant::now();
            pending.register_and_fire(times);
            started.elapsed()
        });
    });
    drop(pending);
    if name == "heap_alone" {
        return;
    }
    let mut pending = Pending::new(queue(), 0);
    let mut live: Vec<Timer> = (0..count).map(|_| pending.register()).collect();
    group.bench_function(format!("prolong/{name}"), |b| {
        b.iter(|| {
            let at = pending.picks.next(count) as usize;
            assert!(pending.queue.delete(live[at]));
            live[at] = pending.register();
        });
    });
    group.finish();
}

/// From a handle to the earliest timer: everything has to be read for it.
fn first_after_restore(c: &mut Criterion) {
    let mut engine = Pending::new(Engine::empty(), timers()).queue;
    let handle = engine.shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
    let mut group = c.benchmark_group("timers");
    group.sample_size(10).throughput(Throughput::Elements(timers()));
    group.bench_function("first_after_restore", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let groups = engine.shard.groups();
                let backend = &engine._backend;
                let builder = backend.shard("bench", groups).restore([handle.clone()]);
                let started = Instant::now();
                let mut shard = builder.open().unwrap();
                let spec = TimerSpec::new("timers", TimeDomain::Event);
                let timers = shard.open_timers(spec).unwrap();
                black_box(shard.next_timer(timers).unwrap());
                spent += started.elapsed();
            }
            spent
        });
    });
    group.finish();
}

fn benches(c: &mut Criterion) {
    measure(c, "alluvium", Engine::empty);
    measure(c, "heap_and_set", HeapAndSet::default);
    measure(c, "ordered_set", BTreeSet::new);
    measure(c, "heap_alone", HeapAlone::default);
    first_after_restore(c);
}

criterion_group!(all, benches);
criterion_main!(all);
