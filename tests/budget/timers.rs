//! Timers that do not fit: the near ones are in memory, the far ones come when it is
//! their turn, and nobody can tell but by the clock.
//!
//! The model is a `BTreeSet`. In which order timers of one time fire only the engine
//! knows, so that is compared with a shard that has room for all of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::env::sim::{CrashMode, FaultError, FaultKind, SimRng};
use alluvium::{
    Backend, ErrorKind, KeyRef, KeyedStore, MaxParallelism, Result, Shard, SnapshotHandle,
    SnapshotId, StateId, StateSpec, TimeDomain, TimerSpec, TimerStore, TimersId,
};

use crate::job::BUDGET_BYTES;

/// Timers that take twenty times what the budget leaves to records.
const MANY: u64 = 36_000;

type Wanted = (i64, u64);

struct Job {
    backend: Backend,
    shard: Shard,
    timers: TimersId,
    values: StateId,
    last_id: u64,
}

impl Job {
    fn open(env: &SimEnv, handles: &[SnapshotHandle], budget: Option<u64>) -> Self {
        Self::try_open(env, handles, budget, TimeDomain::Event).unwrap()
    }

    fn try_open(
        env: &SimEnv,
        handles: &[SnapshotHandle],
        budget: Option<u64>,
        time: TimeDomain,
    ) -> Result<Self> {
        let builder = Backend::builder("/node").env(Arc::new(env.clone())).background_threads(0);
        let backend = match budget {
            Some(bytes) => builder.memory_budget_bytes(bytes),
            None => builder,
        };
        let backend = backend.open()?;
        let groups = MaxParallelism::DEFAULT.all_groups();
        let mut shard = backend.shard("op", groups).restore(handles.iter().cloned()).open()?;
        let timers = shard.open_timers(TimerSpec::new("timers", time))?;
        let values = shard.register(StateSpec::value("values"))?;
        let last_id = handles.first().map_or(0, |handle| handle.snapshot().0);
        Ok(Self { backend, shard, timers, values, last_id })
    }

    fn register(&mut self, (time, key): Wanted) -> Result<bool> {
        self.shard.register_timer(self.timers, time, KeyRef::new(&key.to_le_bytes()))
    }

    fn delete(&mut self, (time, key): Wanted) -> Result<bool> {
        self.shard.delete_timer(self.timers, time, KeyRef::new(&key.to_le_bytes()))
    }

    fn pop(&mut self, now: i64) -> Result<Option<Wanted>> {
        let mut popped = None;
        let found = self.shard.pop_due(self.timers, now, &mut |timer| {
            let key = timer.key.try_into().expect("keys have eight bytes");
            popped = Some((timer.timestamp, u64::from_le_bytes(key)));
            Ok(())
        })?;
        assert_eq!(found, popped.is_some());
        Ok(popped)
    }

    fn fire_all(&mut self) -> Vec<Wanted> {
        std::iter::from_fn(|| {
            let popped = self.pop(i64::MAX).unwrap();
            self.check_budget();
            popped
        })
        .collect()
    }

    fn put(&mut self, key: u64) -> Result<()> {
        self.shard.put(self.values, KeyRef::new(&key.to_le_bytes()), &[7; 100])
    }

    fn snapshot(&mut self) -> SnapshotHandle {
        self.last_id += 1;
        let id = SnapshotId(self.last_id);
        let report = self.shard.snapshot(id, b"").unwrap().wait().unwrap();
        self.shard.notify_complete(id);
        report.handle
    }

    fn check_budget(&self) {
        let stats = self.shard.stats();
        let used = stats.arena_used_bytes + stats.index_bytes + stats.timer_queue_bytes;
        // What one operation needs may come on top: a segment of the index, and a leaf of the
        // queue that is divided.
        let most = stats.allowed_bytes + (16 << 10);
        assert!(
            stats.allowed_bytes == 0 || used <= most,
            "{used} of {} bytes: {stats}",
            stats.allowed_bytes
        );
    }

    fn is_complete(&self) -> bool {
        let states = self.shard.state_stats();
        states.iter().find(|state| state.name == "timers").unwrap().is_complete
    }
}

fn some_timers(rng: &mut SimRng, count: u64, span: u64) -> BTreeSet<Wanted> {
    (0..count).map(|key| (rng.below(span) as i64, key)).collect()
}

/// The order in which a shard that has room for all of them fires timers.
fn order_of(timers: &BTreeSet<Wanted>) -> Vec<Wanted> {
    let mut job = Job::open(&SimEnv::new(0), &[], None);
    for &timer in timers {
        assert!(job.register(timer).unwrap());
    }
    job.fire_all()
}

#[test]
fn twenty_times_as_many_timers_as_fit_fire_in_the_order_that_they_have_in_memory() {
    // At times of their own, at a few, and all at one.
    for (seed, span) in [(1, 1 << 40), (2, 7), (3, 1)] {
        let mut rng = SimRng::new(seed);
        let timers = some_timers(&mut rng, MANY, span);
        let order = order_of(&timers);
        assert_eq!(order.len() as u64, MANY);
        let mut shuffled: Vec<Wanted> = timers.into_iter().collect();
        shuffled.sort_by_key(|(_, key)| key.wrapping_mul(0x9e37_79b9_7f4a_7c15));

        let env = SimEnv::new(seed);
        let mut job = Job::open(&env, &[], Some(BUDGET_BYTES));
        for (at, &timer) in shuffled.iter().enumerate() {
            assert!(job.register(timer).unwrap());
            job.check_budget();
            if at % 10_000 == 9_999 {
                job.snapshot();
            }
        }
        assert!(!job.is_complete(), "they do not fit");
        assert_eq!(job.shard.pending_timers(job.timers).unwrap(), MANY);
        let handle = job.snapshot();
        let fired = job.fire_all();
        assert!(fired == order, "span {span}");
        assert!(job.is_complete(), "there is nothing that tables have and memory has not");
        let stalls = job.shard.stats().stalls.loading.count;
        assert!((10..200).contains(&stalls), "{stalls} stretches");
        drop(job);

        // The same from a checkpoint, and the rest of it from another in the midst.
        let mut job = Job::open(&env, &[handle], Some(BUDGET_BYTES));
        let mut fired: Vec<Wanted> =
            (0..MANY / 3).map(|_| job.pop(i64::MAX).unwrap().unwrap()).collect();
        job.check_budget();
        let handle = job.snapshot();
        let left = MANY - fired.len() as u64;
        assert_eq!(job.shard.pending_timers(job.timers).unwrap(), left);
        drop(job);
        let mut job = Job::open(&env, &[handle], Some(BUDGET_BYTES));
        assert_eq!(job.shard.pending_timers(job.timers).unwrap(), left);
        fired.extend(job.fire_all());
        assert!(fired == order, "span {span}, restored");
    }
}

/// The timers of a stretch of one time have neighbouring hashes: the index that they need
/// must not stay behind when they have fired.
#[test]
fn timers_of_one_time_leave_no_index_behind_with_every_stretch() {
    let env = SimEnv::new(8);
    let mut job = Job::open(&env, &[], Some(4 * BUDGET_BYTES));
    let all = 8 * MANY / 2;
    for key in 0..all {
        assert!(job.register((5, key)).unwrap());
    }
    job.snapshot();
    let mut fired = BTreeSet::new();
    while let Some((time, key)) = job.pop(5).unwrap() {
        assert_eq!(time, 5);
        assert!(fired.insert(key), "{key} fires twice");
        job.check_budget();
    }
    assert_eq!(fired.len() as u64, all);
    let stats = job.shard.stats();
    assert!(stats.index_bytes < stats.allowed_bytes / 4, "{stats}");
}

/// Timers that are far, near, and at one time, beside values that want the memory, too.
struct Life {
    rng: SimRng,
    env: SimEnv,
    job: Job,
    time: TimeDomain,
    timers: BTreeSet<Wanted>,
    watermark: Option<i64>,
    now: i64,
    ahead: u64,
    keys: u64,
    completed: Option<(SnapshotHandle, BTreeSet<Wanted>)>,
    /// Stretches that the lives before this one loaded.
    loads: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = SimRng::new(seed);
        let env = SimEnv::new(seed);
        let env = if rng.one_in(2) { env.with_mapped_reads() } else { env };
        let time = if rng.one_in(3) { TimeDomain::Processing } else { TimeDomain::Event };
        let job = Job::try_open(&env, &[], Some(BUDGET_BYTES), time).unwrap();
        let ahead = [3, 200, 1 << 30][rng.below(3) as usize];
        let keys = [100, 3_000, 1 << 40][rng.below(3) as usize];
        Self {
            env,
            job,
            time,
            timers: BTreeSet::new(),
            watermark: None,
            now: [0, -1_000, 1_700_000_000_000][rng.below(3) as usize],
            ahead,
            keys,
            completed: None,
            loads: 0,
            rng,
        }
    }

    fn some_timer(&mut self) -> Wanted {
        if self.rng.one_in(4) && !self.timers.is_empty() {
            let from = (self.now + self.rng.below(self.ahead) as i64, self.rng.below(self.keys));
            let after = self.timers.range(from..).next();
            return *after.unwrap_or_else(|| self.timers.iter().next().unwrap());
        }
        let time = self.now + self.rng.below(self.ahead + 2) as i64 - 1;
        (time, self.rng.below(self.keys))
    }

    fn register(&mut self, timer: Wanted) {
        let is_late = self.time == TimeDomain::Event && Some(timer.0) <= self.watermark;
        match self.job.register(timer) {
            Err(error) => {
                assert!(is_late, "{error}");
                assert_eq!(error.kind(), ErrorKind::Invalid);
            }
            Ok(added) => assert_eq!(added, !is_late && self.timers.insert(timer), "{timer:?}"),
        }
    }

    fn delete(&mut self) {
        let timer = self.some_timer();
        assert_eq!(self.job.delete(timer).unwrap(), self.timers.remove(&timer), "{timer:?}");
    }

    fn peek(&mut self) {
        let next = self.timers.first().map(|timer| timer.0);
        assert_eq!(self.job.shard.next_timer(self.job.timers).unwrap(), next);
    }

    fn count(&mut self) {
        let found = self.job.shard.pending_timers(self.job.timers).unwrap();
        assert_eq!(found, self.timers.len() as u64);
    }

    fn fire(&mut self, most: u64) {
        for _ in 0..most {
            let first = self.timers.first().map(|timer| timer.0).filter(|&time| time <= self.now);
            let popped = self.job.pop(self.now).unwrap();
            self.watermark = self.watermark.max(Some(self.now));
            assert_eq!(popped.map(|timer| timer.0), first, "at {}", self.now);
            let Some(timer) = popped else { return };
            assert!(self.timers.remove(&timer), "{timer:?} was never registered");
            if self.rng.one_in(4) {
                // A handler registers for this round, too, and far ahead.
                let later = timer.0.saturating_add(1 + self.rng.below(self.ahead) as i64);
                let key = self.rng.below(self.keys);
                self.register((later, key));
            }
        }
    }

    fn restart(&mut self) {
        self.loads += self.job.shard.stats().stalls.loading.count;
        let mode = if self.rng.one_in(2) { CrashMode::DropUnsynced } else { CrashMode::Torn };
        self.env = self.env.crash_image(mode, self.rng.next_u64());
        let (handle, timers) = match self.completed.clone() {
            Some((handle, timers)) => (Some(handle), timers),
            None => (None, BTreeSet::new()),
        };
        // In some lives everything has room.
        let budget = (!self.rng.one_in(5)).then_some(BUDGET_BYTES);
        let handles = Vec::from_iter(handle);
        self.job = Job::try_open(&self.env, &handles, budget, self.time).unwrap();
        self.timers = timers;
        self.watermark = None;
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..30 => {
                for _ in 0..self.rng.below(120) {
                    let timer = self.some_timer();
                    self.register(timer);
                }
            }
            30..40 => {
                for _ in 0..self.rng.below(20) {
                    self.delete();
                }
            }
            40..48 => self.peek(),
            48..52 => self.count(),
            52..72 => {
                self.now += self.rng.below(self.ahead / 8 + 2) as i64;
                let most = if self.rng.one_in(3) { self.rng.below(4) } else { 300 };
                self.fire(most);
            }
            72..80 => {
                for _ in 0..self.rng.below(200) {
                    let key = self.rng.below(4_000);
                    self.job.put(key).unwrap();
                }
            }
            80..86 => {
                let handle = self.job.snapshot();
                self.completed = Some((handle, self.timers.clone()));
            }
            86..90 => {
                let bytes = if self.rng.one_in(3) { u64::MAX } else { self.rng.below(20_000) };
                self.job.shard.evict(bytes).unwrap();
            }
            90..93 => self.job.shard.write_early().unwrap(),
            93..96 => {
                for _ in 0..self.rng.below(20) {
                    self.job.backend.run_background();
                }
            }
            96 => {
                self.job.shard.warm_up(self.rng.below(300) as usize).unwrap();
            }
            _ if self.rng.one_in(4) => self.restart(),
            _ => self.count(),
        }
        self.job.check_budget();
    }

    fn drain(&mut self) {
        self.count();
        self.now = i64::MAX;
        while !self.timers.is_empty() {
            let popped = self.job.pop(self.now).unwrap().expect("some are left");
            assert_eq!(Some(popped.0), self.timers.first().map(|timer| timer.0));
            assert!(self.timers.remove(&popped), "{popped:?}");
        }
        assert_eq!(self.job.pop(self.now).unwrap(), None);
        self.count();
    }
}

/// Names the seed of a life that fails.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} failed; ALLUVIUM_SEED={0} replays it", self.0);
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number = |variable| std::env::var(variable).ok().map(|text| text.parse::<u64>().unwrap());
    match number("ALLUVIUM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ALLUVIUM_SEEDS").unwrap_or(40),
    }
}

#[test]
fn timers_that_do_not_fit_are_what_an_ordered_set_says_through_crashes_and_restores() {
    let mut loads = 0;
    for seed in seeds() {
        let _naming = Naming(seed);
        let mut life = Life::new(seed);
        for _ in 0..400 {
            life.step();
        }
        loads += life.loads + life.job.shard.stats().stalls.loading.count;
        let handle = life.job.snapshot();
        life.completed = Some((handle, life.timers.clone()));
        life.drain();
        life.restart();
        life.drain();
    }
    assert!(std::env::var("ALLUVIUM_SEED").is_ok() || loads > 100, "only {loads} stretches");
}

/// Whichever read fails, the call says so and may be repeated, and every timer fires once.
#[test]
fn a_read_that_fails_loses_no_timer_and_fires_none_twice() {
    let timers = some_timers(&mut SimRng::new(4), 6_000, 1_000);
    let order = order_of(&timers);
    let mut failed = 0;
    // Reads are counted from the first call that fires on.
    for nth in (1..).step_by(4) {
        let env = SimEnv::new(nth);
        let time = TimeDomain::Processing;
        let mut job = Job::try_open(&env, &[], Some(BUDGET_BYTES), time).unwrap();
        for &timer in &timers {
            assert!(job.register(timer).unwrap());
        }
        job.snapshot();
        // The other copies, too, or the one in the store would do.
        env.fail_nth(FaultKind::Read, nth, FaultError::EIO, true);
        let mut fired = Vec::new();
        let mut reached = false;
        loop {
            match job.pop(i64::MAX) {
                Ok(Some(timer)) => fired.push(timer),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    assert!(error.to_string().contains("timers"), "{error}");
                    failed += 1;
                    reached = true;
                    env.clear_faults();
                    // Between two attempts anything else may be done.
                    let far = (1_000_000, 1);
                    assert!(job.register(far).unwrap());
                    assert!(job.delete(far).unwrap());
                    let left = (order.len() - fired.len()) as u64;
                    assert_eq!(job.shard.pending_timers(job.timers).unwrap(), left);
                }
            }
        }
        assert!(fired == order, "read {nth} fails: {} of {}", fired.len(), order.len());
        if !reached && !env.fault_fired() {
            break;
        }
    }
    assert!(failed > 10, "only {failed} calls failed");
}

/// A disk that cannot be read is told again and again, and what is near fires all the same.
#[test]
fn near_timers_fire_while_the_far_ones_cannot_be_read() {
    let env = SimEnv::new(5);
    let mut job = Job::open(&env, &[], Some(BUDGET_BYTES));
    for key in 0..MANY {
        assert!(job.register((key as i64, key)).unwrap());
    }
    job.snapshot();
    env.fail_nth(FaultKind::Read, 1, FaultError::EIO, true);
    let mut fired = 0;
    let told = loop {
        match job.pop(i64::MAX) {
            Ok(timer) => assert_eq!(timer, Some((fired as i64, fired))),
            Err(error) => break error,
        }
        fired += 1;
    };
    assert!((10..MANY / 2).contains(&fired), "{fired} were near: {told}");
    for _ in 0..3 {
        assert_eq!(job.pop(i64::MAX).unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(job.shard.next_timer(job.timers).is_err());
        // Nothing is due, and that is known without a look.
        assert_eq!(job.pop(fired as i64 - 1).unwrap(), None);
    }
    env.clear_faults();
    let rest = job.fire_all();
    assert!(rest.into_iter().eq((fired..MANY).map(|key| (key as i64, key))));
}

#[test]
fn values_and_timers_that_both_do_not_fit_leave_each_other_room() {
    let env = SimEnv::new(6);
    let mut job = Job::open(&env, &[], Some(BUDGET_BYTES));
    let mut timers = BTreeSet::new();
    let mut rng = SimRng::new(6);
    for key in 0..20_000 {
        let timer = (rng.below(1 << 30) as i64, key);
        assert!(job.register(timer).unwrap());
        timers.insert(timer);
        job.put(key).unwrap();
        job.check_budget();
    }
    let stretches_before = job.shard.stats().stalls.loading.count;
    let mut count = 0;
    while let Some(timer) = job.pop(i64::MAX).unwrap() {
        assert_eq!(timers.pop_first(), Some(timer));
        // Each firing looks at a value of another key.
        let key = rng.below(20_000).to_le_bytes();
        assert!(job.shard.get(job.values, KeyRef::new(&key)).unwrap().is_some());
        job.check_budget();
        count += 1;
    }
    assert_eq!(count, 20_000);
    let stretches = job.shard.stats().stalls.loading.count - stretches_before;
    assert!(stretches < 400, "{stretches} stretches: a few timers at a time");
}

/// A timer that was registered and fired since the last delta is in no table, whether
/// others are in tables only or not.
#[test]
fn timers_that_come_and_go_among_far_ones_leave_no_bytes() {
    let env = SimEnv::new(7);
    let mut job = Job::open(&env, &[], Some(BUDGET_BYTES));
    for key in 0..MANY {
        job.register((1_000_000 + key as i64, key)).unwrap();
    }
    job.snapshot();
    assert!(!job.is_complete());
    assert_eq!(job.pop(0).unwrap(), None);
    for key in 0..500 {
        assert!(job.register((1, key)).unwrap());
        assert!(job.register((i64::MAX, key)).unwrap());
        assert!(job.delete((i64::MAX, key)).unwrap());
    }
    for _ in 0..500 {
        assert_eq!(job.pop(1).unwrap().unwrap().0, 1);
    }
    let id = SnapshotId(job.last_id + 1);
    let report = job.shard.snapshot(id, b"").unwrap().wait().unwrap();
    assert_eq!(report.records_new, 0);
}
