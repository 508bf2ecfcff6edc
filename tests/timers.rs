//! Timers, beside ordered sets.
//!
//! What could break: a timer that is lost, fires twice, early, late or out of
//! order; one that a snapshot, a merge, a restore or another split of the key
//! groups forgets or brings back; a refused call that changes something after
//! all; a queue that grows with what was deleted. Each seed draws a job (how
//! many key groups and shards, how far ahead timers are set, how tables are
//! made) and some hundred steps. The model is a `BTreeSet`, which shares no
//! code with the engine.
//!
//! `ALLUVIUM_SEEDS=n` runs n seeds, `ALLUVIUM_SEED=n` replays one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::base::MaxParallelism;
use alluvium::codec::CodecId;
use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::format::StateKind;
use alluvium::{
    Backend, BackendBuilder, ErrorKind, KeyGroup, KeyRef, KeyedStore, Shard, SnapshotHandle,
    SnapshotId, SnapshotTicket, StateId, StateSpec, TimeDomain, Timer, TimerSpec, TimerStore,
    Timers, TimersId, ValueState,
};
use xxhash_rust::xxh3::xxh3_64;

const SEEDS: u64 = 400;
const OPERATOR: &str = "windows";
/// Two states of timers; which time each waits for depends on the seed.
const NAMES: [&str; 2] = ["a", "b"];
const CHECKPOINTS: &str = "/shared/checkpoints";

/// A timer. Those of one time fire in an order of their own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Wanted {
    timestamp: i64,
    key: Vec<u8>,
    namespace: Vec<u8>,
    group: u16,
}

impl Wanted {
    fn new(timestamp: i64, key: &[u8], namespace: &[u8], max: u32) -> Self {
        let group = ((xxh3_64(key) & 0xffff_ffff) * u64::from(max)) >> 32;
        let (key, namespace) = (key.to_vec(), namespace.to_vec());
        Self { timestamp, key, namespace, group: group as u16 }
    }

    fn key_ref(&self) -> KeyRef<'_> {
        KeyRef::new(&self.key).namespace(&self.namespace)
    }
}

/// What a job should hold: the timers of each state, and how many fired for
/// each key.
#[derive(Clone, Default)]
struct Model {
    timers: [BTreeSet<Wanted>; 2],
    fired: BTreeMap<Vec<u8>, u64>,
}

struct Worker {
    shard: Shard,
    timers: [TimersId; 2],
    fired: StateId,
    watermarks: [Option<i64>; 2],
}

struct Checkpoint {
    id: SnapshotId,
    tickets: Vec<SnapshotTicket>,
    model: Model,
}

struct Job {
    rng: SimRng,
    max: u32,
    times: [TimeDomain; 2],
    /// How far ahead timers are registered.
    ahead: i64,
    keys: u64,
    backend: Backend,
    workers: Vec<Worker>,
    model: Model,
    pending: Vec<Checkpoint>,
    completed: Vec<(Vec<SnapshotHandle>, Model)>,
    last_id: u64,
    now: i64,
}

fn backend_on(env: &SimEnv, max: u32) -> BackendBuilder {
    Backend::builder("/node/state")
        .checkpoint_dir(CHECKPOINTS)
        .env(Arc::new(env.clone()))
        .background_threads(0)
        .max_parallelism(MaxParallelism::new(max).unwrap())
}

fn open(backend: &Backend, parallelism: u32, handles: &[SnapshotHandle]) -> Vec<Shard> {
    let max = backend.max_parallelism();
    let groups = (0..parallelism).map(|index| max.range_of_subtask(index, parallelism).unwrap());
    groups
        .map(|groups| {
            backend.shard(OPERATOR, groups).restore(handles.iter().cloned()).open().unwrap()
        })
        .collect()
}

fn snapshots(shards: &mut [Shard], id: u64) -> Vec<SnapshotHandle> {
    let tickets: Vec<_> =
        shards.iter_mut().map(|shard| shard.snapshot(SnapshotId(id), b"").unwrap()).collect();
    tickets.iter().map(|ticket| ticket.wait().unwrap().handle).collect()
}

/// Pops one timer.
fn pop(shard: &mut Shard, timers: TimersId, now: i64, max: u32) -> Option<Wanted> {
    let mut popped = None;
    let found = shard.pop_due(timers, now, &mut |timer| {
        let wanted = Wanted::new(timer.timestamp, timer.key, timer.namespace, max);
        assert_eq!(timer.group, KeyGroup(wanted.group));
        assert!(popped.replace(wanted).is_none(), "one timer at a time");
        Ok(())
    });
    assert_eq!(found.unwrap(), popped.is_some());
    popped
}

impl Job {
    fn new(seed: u64) -> Self {
        let mut rng = SimRng::new(seed);
        let max = [3, 8, 128, 1_000][rng.below(4) as usize];
        let time = |rng: &mut SimRng| {
            if rng.one_in(3) { TimeDomain::Processing } else { TimeDomain::Event }
        };
        let env = SimEnv::new(seed);
        let env = if rng.one_in(2) { env.with_mapped_reads() } else { env };
        let backend = backend_on(&env, max)
            .max_tables_per_shard(1 + rng.below(5) as usize)
            .warm_up(!rng.one_in(3))
            .open()
            .unwrap();
        let mut job = Self {
            max,
            times: [time(&mut rng), time(&mut rng)],
            ahead: [1, 5, 100, 10_000_000][rng.below(4) as usize],
            keys: [1, 4, 60, 10_000][rng.below(4) as usize],
            backend,
            workers: Vec::new(),
            model: Model::default(),
            pending: Vec::new(),
            completed: Vec::new(),
            last_id: 0,
            now: [0, -50, 1_700_000_000_000][rng.below(3) as usize],
            rng,
        };
        job.restart(None);
        job
    }

    fn restart(&mut self, from: Option<usize>) {
        self.pending.clear();
        self.workers.clear();
        let (handles, model) = match from {
            None => (Vec::new(), Model::default()),
            Some(at) => self.completed[at].clone(),
        };
        self.model = model;
        let parallelism = 1 + self.rng.below(u64::from(self.max.min(4))) as u32;
        for mut shard in open(&self.backend, parallelism, &handles) {
            let specs = [0, 1].map(|at| TimerSpec::new(NAMES[at], self.times[at]));
            self.workers.push(Worker {
                fired: shard.register(StateSpec::value("fired")).unwrap(),
                timers: specs.map(|spec| shard.open_timers(spec).unwrap()),
                shard,
                watermarks: [None; 2],
            });
        }
    }

    fn some_timer(&mut self, state: usize) -> Wanted {
        let set = &self.model.timers[state];
        if !set.is_empty() && self.rng.one_in(2) {
            let at = self.rng.below(set.len().min(40) as u64) as usize;
            return set.iter().nth(at).unwrap().clone();
        }
        let key = format!("key {}", self.rng.below(self.keys));
        let namespace = [&b""[..], b"w", &[7; 60]][self.rng.below(3) as usize];
        let timestamp = match self.rng.below(40) {
            0 => i64::MIN,
            1 => i64::MAX,
            _ => self.now + self.rng.below(self.ahead as u64 + 3) as i64 - 2,
        };
        Wanted::new(timestamp, key.as_bytes(), namespace, self.max)
    }

    fn owner(&self, wanted: &Wanted) -> usize {
        let owns = |worker: &Worker| worker.shard.groups().contains(KeyGroup(wanted.group));
        self.workers.iter().position(owns).expect("every group has a shard")
    }

    fn register(&mut self, state: usize) {
        let wanted = self.some_timer(state);
        let owner = self.owner(&wanted);
        self.register_this(owner, state, wanted);
    }

    fn register_this(&mut self, at: usize, state: usize, wanted: Wanted) {
        let is_event = self.times[state] == TimeDomain::Event;
        let worker = &mut self.workers[at];
        let timers = worker.timers[state];
        let done = worker.shard.register_timer(timers, wanted.timestamp, wanted.key_ref());
        if is_event && worker.watermarks[state].is_some_and(|mark| wanted.timestamp <= mark) {
            let error = done.expect_err("it is too late");
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(NAMES[state]), "{error}");
            return;
        }
        let is_new = !self.model.timers[state].contains(&wanted);
        assert_eq!(done.unwrap(), is_new, "{wanted:?}");
        self.model.timers[state].insert(wanted);
    }

    fn delete(&mut self, state: usize) {
        let wanted = self.some_timer(state);
        let owner = self.owner(&wanted);
        let worker = &mut self.workers[owner];
        let timers = worker.timers[state];
        let done = worker.shard.delete_timer(timers, wanted.timestamp, wanted.key_ref());
        assert_eq!(done.unwrap(), self.model.timers[state].remove(&wanted), "{wanted:?}");
    }

    /// A key of another shard is refused.
    fn misroute(&mut self, state: usize) {
        let wanted = self.some_timer(state);
        let owner = self.owner(&wanted);
        for (at, worker) in self.workers.iter_mut().enumerate() {
            if at != owner {
                let timers = worker.timers[state];
                let shard = &mut worker.shard;
                let errors = [
                    shard.register_timer(timers, i64::MAX, wanted.key_ref()).err(),
                    shard.delete_timer(timers, wanted.timestamp, wanted.key_ref()).err(),
                ];
                for error in errors {
                    let error = error.expect("not its key");
                    assert_eq!(error.kind(), ErrorKind::Invalid);
                    assert!(error.to_string().contains(NAMES[state]), "{error}");
                }
            }
        }
    }

    /// The time of the earliest timer of a shard.
    fn earliest(&self, at: usize, state: usize) -> Option<i64> {
        let groups = self.workers[at].shard.groups();
        let mut timers = self.model.timers[state].iter();
        timers.find(|timer| groups.contains(KeyGroup(timer.group))).map(|timer| timer.timestamp)
    }

    fn peek(&mut self, at: usize, state: usize) {
        let expected = self.earliest(at, state);
        let worker = &mut self.workers[at];
        assert_eq!(worker.shard.next_timer(worker.timers[state]).unwrap(), expected);
        assert_eq!(
            worker.shard.timer_watermark(worker.timers[state]).unwrap(),
            worker.watermarks[state]
        );
    }

    fn count(&mut self, at: usize, state: usize) {
        let worker = &mut self.workers[at];
        let groups = worker.shard.groups();
        let mine = |timer: &&Wanted| groups.contains(KeyGroup(timer.group));
        let expected = self.model.timers[state].iter().filter(mine).count() as u64;
        assert_eq!(worker.shard.pending_timers(worker.timers[state]).unwrap(), expected);
    }

    /// Fires what is due at `now`, but at most `most` timers; handlers write
    /// to a state, register and delete.
    fn advance(&mut self, at: usize, state: usize, now: i64, most: usize, handlers: bool) {
        for _ in 0..most {
            let expected = self.earliest(at, state).filter(|&timestamp| timestamp <= now);
            let max = self.max;
            let worker = &mut self.workers[at];
            if self.rng.one_in(20) {
                let refuse = alluvium::Error::unavailable("not now");
                let mut refuse = Some(refuse);
                let refused = worker.shard.pop_due(worker.timers[state], now, &mut |_| {
                    Err(refuse.take().expect("it is called once"))
                });
                assert_eq!(refused.is_err(), expected.is_some());
            }
            let found = pop(&mut worker.shard, worker.timers[state], now, max);
            let mark = &mut worker.watermarks[state];
            *mark = (*mark).max(Some(now));
            assert_eq!(found.as_ref().map(|timer| timer.timestamp), expected, "at {now}");
            let Some(timer) = found else { return };
            assert!(self.model.timers[state].remove(&timer), "{timer:?} was never registered");
            *self.model.fired.entry(timer.key.clone()).or_default() += 1;
            let fired = KeyRef::new(&timer.key);
            worker
                .shard
                .update(worker.fired, fired, &mut |value| {
                    let count = value.get().map_or(0, |bytes| {
                        u64::from_le_bytes(bytes.try_into().expect("a count has eight bytes"))
                    });
                    value.set(&(count + 1).to_le_bytes());
                })
                .unwrap();
            if handlers && self.rng.one_in(3) {
                let later = timer.timestamp.saturating_add(1 + self.rng.below(9) as i64);
                let again = Wanted::new(later, &timer.key, &timer.namespace, max);
                let other = self.rng.below(2) as usize;
                self.register_this(at, other, again);
            }
            if handlers && self.rng.one_in(5) {
                self.delete(state);
            }
        }
    }

    fn snapshot(&mut self) {
        self.last_id += 1;
        let id = SnapshotId(self.last_id);
        let tickets = self.workers.iter_mut().map(|worker| worker.shard.snapshot(id, b""));
        let tickets = tickets.collect::<Result<_, _>>().unwrap();
        self.pending.push(Checkpoint { id, tickets, model: self.model.clone() });
    }

    fn complete(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let Checkpoint { id, tickets, model } = self.pending.remove(0);
        let handles = tickets.iter().map(|ticket| ticket.wait().unwrap().handle).collect();
        for worker in &mut self.workers {
            worker.shard.notify_complete(id);
        }
        self.completed.push((handles, model));
    }

    fn step(&mut self) {
        let state = self.rng.below(2) as usize;
        let at = self.rng.below(self.workers.len() as u64) as usize;
        match self.rng.below(100) {
            0..45 => self.register(state),
            45..58 => self.delete(state),
            58..60 => self.misroute(state),
            60..66 => self.peek(at, state),
            66..68 => self.count(at, state),
            68..80 => {
                self.now += self.rng.below(self.ahead as u64 / 4 + 2) as i64;
                let back = if self.rng.one_in(5) { 3 } else { 0 };
                let most = if self.rng.one_in(3) { 2 } else { usize::MAX };
                self.advance(at, state, self.now - back, most, true);
            }
            80..86 => self.snapshot(),
            86..90 => self.complete(),
            90..94 => {
                for _ in 0..self.rng.below(6) {
                    self.backend.run_background();
                }
            }
            94..97 => {
                let records = self.rng.below(30) as usize;
                self.workers[at].shard.warm_up(records).unwrap();
            }
            97 => {
                // Long lists of timers at once, over several leaves.
                for _ in 0..self.rng.below(400) {
                    self.register(state);
                }
            }
            _ => {
                if let Some(last) = self.completed.len().checked_sub(1) {
                    let back = if self.rng.one_in(4) { self.rng.below(3) as usize } else { 0 };
                    self.restart(Some(last.saturating_sub(back)));
                }
            }
        }
    }

    /// Everything fires at the end of time.
    fn drain(&mut self) {
        for at in 0..self.workers.len() {
            for state in 0..2 {
                self.count(at, state);
                self.peek(at, state);
                self.advance(at, state, i64::MAX, usize::MAX, false);
            }
            let worker = &mut self.workers[at];
            for (key, count) in &self.model.fired {
                let key = KeyRef::new(key);
                let (group, _) = key.locate(self.backend.max_parallelism());
                if worker.shard.groups().contains(group) {
                    let found = worker.shard.get(worker.fired, key).unwrap();
                    assert_eq!(found, Some(&count.to_le_bytes()[..]));
                }
            }
        }
        assert!(self.model.timers.iter().all(BTreeSet::is_empty));
    }
}

/// Names the seed of a job that fails.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} failed; ALLUVIUM_SEED={0} replays it", self.0);
        }
    }
}

fn seeds() -> Range<u64> {
    let number = |variable| {
        let text = std::env::var(variable).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
    };
    match number("ALLUVIUM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ALLUVIUM_SEEDS").unwrap_or(SEEDS),
    }
}

#[test]
fn timers_equal_an_ordered_set_through_snapshots_restores_and_rescaling() {
    for seed in seeds() {
        let _naming = Naming(seed);
        let mut job = Job::new(seed);
        for _ in 0..300 {
            job.step();
        }
        job.snapshot();
        while !job.pending.is_empty() {
            job.complete();
        }
        job.drain();
        job.restart(Some(job.completed.len() - 1));
        job.drain();
    }
}

#[test]
fn restore_on_any_number_of_shards_keeps_every_timer_and_their_order() {
    let env = SimEnv::new(5);
    let backend = backend_on(&env, 128).max_tables_per_shard(3).open().unwrap();
    let spec = || TimerSpec::new("timers", TimeDomain::Event);
    let all: BTreeSet<Wanted> = (0..2_000_u64)
        .map(|i| Wanted::new((i % 90) as i64 - 40, &i.to_be_bytes(), b"ns", 128))
        .collect();
    let mut shards = open(&backend, 1, &[]);
    let id = shards[0].open_timers(spec()).unwrap();
    for timer in &all {
        assert!(shards[0].register_timer(id, timer.timestamp, timer.key_ref()).unwrap());
    }
    let mut handles = snapshots(&mut shards, 1);
    // As one shard has it; the others are parts of that.
    let mut order = Vec::new();
    for (id, parallelism) in [(2, 1), (3, 4), (4, 3), (5, 1), (6, 7), (7, 2), (8, 128), (9, 5)] {
        // Some are asked for their timers before the next snapshot, some not.
        shards = open(&backend, parallelism, &handles);
        for shard in shards.iter_mut().step_by(2) {
            let timers = shard.open_timers(spec()).unwrap();
            shard.next_timer(timers).unwrap();
        }
        handles = snapshots(&mut shards, id);
        let mut found = BTreeSet::new();
        for shard in &mut shards {
            let timers = shard.open_timers(spec()).unwrap();
            let fired = std::iter::from_fn(|| pop(shard, timers, i64::MAX, 128));
            let fired: Vec<Wanted> = fired.collect();
            assert!(fired.windows(2).all(|pair| pair[0].timestamp <= pair[1].timestamp));
            if order.is_empty() {
                order.clone_from(&fired);
            }
            let groups = shard.groups();
            let mine = order.iter().filter(|timer| groups.contains(KeyGroup(timer.group)));
            assert!(mine.eq(&fired), "timers of one time fire in another order");
            for timer in fired {
                assert!(found.insert(timer), "fired by two shards");
            }
        }
        assert!(found == all, "{} of {} timers", found.len(), all.len());
    }
}

#[test]
fn timers_that_come_and_go_between_two_barriers_leave_no_bytes() {
    let env = SimEnv::new(6);
    let backend = backend_on(&env, 128).open().unwrap();
    let shard = &mut open(&backend, 1, &[])[0];
    let timers: Timers<u64> = Timers::event_time(shard, "timers").unwrap();
    timers.register(shard, &1, 1_000_000).unwrap();
    shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap();
    for round in 2..5 {
        for key in 0..500 {
            timers.register(shard, &key, round).unwrap();
            timers.register(shard, &key, round + 10).unwrap();
            timers.delete(shard, &key, round + 10).unwrap();
        }
        let fired = std::iter::from_fn(|| timers.pop_due(shard, round).unwrap()).count();
        assert_eq!(fired, 500);
        let report = shard.snapshot(SnapshotId(round as u64), b"").unwrap().wait().unwrap();
        assert_eq!((report.records_new, shard.stats().records), (0, 1));
    }
    // The one that was in a table is gone from the next.
    assert_eq!(timers.pop_due(shard, 1_000_000).unwrap().unwrap().key, 1);
    let report = shard.snapshot(SnapshotId(9), b"").unwrap().wait().unwrap();
    assert_eq!(report.records_new, 1);
    let shard = &mut open(&backend, 1, &[report.handle])[0];
    let timers: Timers<u64> = Timers::event_time(shard, "timers").unwrap();
    assert_eq!(timers.next(shard).unwrap(), None);
}

#[test]
fn memory_follows_the_timers_that_are_there_not_those_that_were() {
    let env = SimEnv::new(7);
    let backend = backend_on(&env, 128).open().unwrap();
    let shard = &mut open(&backend, 1, &[])[0];
    let timers: Timers<u64> = Timers::event_time(shard, "timers").unwrap();
    let mut most = (0, 0);
    // A session for each key that every event prolongs: nothing ever fires.
    for event in 0..200_000 {
        // Keys come round in a fixed order, so it was set a round ago.
        let (key, timeout) = (event as u64 % 1_000, 1_000_000 + event);
        assert_eq!(timers.delete(shard, &key, timeout - 1_000).unwrap(), event >= 1_000);
        assert!(timers.register(shard, &key, timeout).unwrap());
        let stats = shard.stats();
        most = (most.0.max(stats.timer_queue_bytes), most.1.max(stats.arena_used_bytes));
    }
    assert_eq!(timers.pending(shard).unwrap(), 1_000);
    assert!(most.0 < 200_000 && most.1 < 200_000, "{most:?} bytes");
}

#[test]
fn a_watermark_refuses_what_it_has_passed_and_a_clock_does_not() {
    let env = SimEnv::new(8);
    let backend = backend_on(&env, 128).open().unwrap();
    let shard = &mut open(&backend, 1, &[])[0];
    let event: Timers<u64> = Timers::event_time(shard, "event").unwrap();
    let clock: Timers<u64> = Timers::processing_time(shard, "clock").unwrap();
    for timers in [&event, &clock] {
        assert_eq!(timers.watermark(shard).unwrap(), None);
        assert!(timers.register(shard, &1, i64::MIN).unwrap());
        assert!(timers.register(shard, &1, 100).unwrap());
        assert!(timers.register(shard, &2, 101).unwrap());
        assert_eq!(timers.pop_due(shard, 100).unwrap().unwrap().timestamp, i64::MIN);
        assert_eq!(timers.watermark(shard).unwrap(), Some(100));
    }
    // One is still due, and 100 has passed all the same.
    for time in [i64::MIN, 99, 100] {
        let error = event.register(shard, &7, time).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        for fact in ["event time timers \"event\"", "a time after 100", &time.to_string()] {
            assert!(error.to_string().contains(fact), "{fact:?} is missing in: {error}");
        }
    }
    assert!(event.register(shard, &7, 101).unwrap());
    assert_eq!(event.pending(shard).unwrap(), 3);
    assert!(clock.register(shard, &7, 99).unwrap());
    assert_eq!(clock.next(shard).unwrap(), Some(99));
    // Time that goes back moves nothing back, and fires nothing early.
    assert_eq!(event.pop_due(shard, 50).unwrap(), None);
    assert_eq!(event.watermark(shard).unwrap(), Some(100));
    assert_eq!(clock.pop_due(shard, 98).unwrap(), None);
    let due = |key, timestamp| Some(Timer { timestamp, key, namespace: () });
    assert_eq!(clock.pop_due(shard, 100).unwrap(), due(7, 99));
    assert_eq!(clock.pop_due(shard, 100).unwrap(), due(1, 100));
    assert_eq!(clock.pop_due(shard, 100).unwrap(), None);
    // At the end of time nothing can be registered any more.
    while event.pop_due(shard, i64::MAX).unwrap().is_some() {}
    assert_eq!(event.register(shard, &1, i64::MAX).unwrap_err().kind(), ErrorKind::Invalid);

    // A restored shard waits for the runtime to say the watermark again.
    let handle = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
    let shard = &mut open(&backend, 1, &[handle])[0];
    let event: Timers<u64> = Timers::event_time(shard, "event").unwrap();
    assert_eq!(event.watermark(shard).unwrap(), None);
    assert!(event.register(shard, &1, 5).unwrap());
    assert_eq!(event.pop_due(shard, 100).unwrap(), due(1, 5));
}

#[test]
fn bad_arguments_name_the_state_and_change_nothing() {
    let env = SimEnv::new(9);
    let backend = backend_on(&env, 128).open().unwrap();
    let shard = &mut open(&backend, 2, &[])[1];
    let timers = shard.open_timers(TimerSpec::new("here", TimeDomain::Processing)).unwrap();
    let ours = (0..).find(|i: &u64| Wanted::new(0, &i.to_le_bytes(), b"", 128).group >= 64);
    let ours = ours.unwrap().to_le_bytes();
    let theirs = (0..).find(|i: &u64| Wanted::new(0, &i.to_le_bytes(), b"", 128).group < 64);
    let theirs = theirs.unwrap().to_le_bytes();
    let group = KeyGroup(100);
    let (long_key, long_namespace) = (vec![1; 64 * 1024 + 1], vec![2; 64 * 1024 - 7]);
    let bad = [
        (KeyRef::new(&theirs), "another shard"),
        (KeyRef::in_group(group, &long_key), "65537 bytes"),
        (KeyRef::in_group(group, b"k").namespace(&long_namespace), "at most 65528 bytes"),
    ];
    for (key, fact) in bad {
        let errors =
            [shard.register_timer(timers, 5, key).err(), shard.delete_timer(timers, 5, key).err()];
        for error in errors {
            let error = error.expect("it is refused");
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(text.contains(fact) && text.contains("\"here\""), "{text}");
        }
    }
    assert_eq!((shard.stats().records, shard.pending_timers(timers).unwrap()), (0, 0));
    // The longest that is allowed goes all the way.
    let longest = KeyRef::in_group(group, &long_key[1..]).namespace(&long_namespace[1..]);
    assert!(shard.register_timer(timers, 5, longest).unwrap());
    let handle = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
    let groups = shard.groups();
    let shard = &mut backend.shard(OPERATOR, groups).restore([handle]).open().unwrap();
    let timers = shard.open_timers(TimerSpec::new("here", TimeDomain::Processing)).unwrap();
    let popped = shard.pop_due(timers, 5, &mut |timer| {
        assert_eq!(timer.key_ref(), longest);
        Ok(())
    });
    assert!(popped.unwrap());
    // A number from nowhere.
    let others = {
        let mut more = open(&backend, 1, &[]);
        more[0].open_timers(TimerSpec::new("1", TimeDomain::Event)).unwrap();
        more[0].open_timers(TimerSpec::new("2", TimeDomain::Event)).unwrap()
    };
    let key = KeyRef::new(&ours);
    assert_eq!(shard.register_timer(others, 5, key).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(shard.next_timer(others).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(shard.timer_watermark(others).unwrap_err().kind(), ErrorKind::Invalid);
    for name in ["", &"n".repeat(2_000)] {
        let error = shard.open_timers(TimerSpec::new(name, TimeDomain::Event)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_state_of_timers_answers_no_calls_on_values_lists_or_maps() {
    let env = SimEnv::new(9);
    let backend = backend_on(&env, 128).open().unwrap();
    let shard = &mut open(&backend, 1, &[])[0];
    let timers = shard.open_timers(TimerSpec::new("here", TimeDomain::Event)).unwrap();
    let state = StateId::new(0);
    let mut inner_key = (5_u64 ^ 1 << 63).to_be_bytes().to_vec();
    inner_key.extend_from_slice(b"ns");
    let key = KeyRef::new(b"key").namespace(b"ns");
    let record = KeyRef::new(b"key").namespace(&inner_key);
    assert!(shard.register_timer(timers, 5, key).unwrap());
    for epoch in 1..3 {
        let refused = [
            shard.get(state, record).map(drop),
            shard.put(state, record, b"value"),
            shard.update(state, record, &mut |value| value.set(b"value")),
            shard.delete(state, record),
            shard.get_many(state, &[record], &mut |_, _| ()),
            shard.update_many(state, &[record], &mut |_, value| value.delete()),
            shard.list_append(state, record, &[b"element"]),
            shard.map_put(state, record, b"entry", b"value"),
            shard.clear(state, record),
            shard.visit_keys(state, None, &mut |_, _, _| std::ops::ControlFlow::Continue(())),
        ];
        for (call, done) in refused.into_iter().enumerate() {
            let error = done.expect_err("it is refused");
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Invalid, "call {call}: {text}");
            assert!(text.contains("\"here\"") && text.contains("Timers"), "call {call}: {text}");
        }
        shard.snapshot(SnapshotId(epoch), b"").unwrap().wait().unwrap();
    }
    assert_eq!(shard.pending_timers(timers).unwrap(), 1);
    let popped = shard.pop_due(timers, 5, &mut |timer| {
        assert_eq!((timer.key, timer.namespace), (&b"key"[..], &b"ns"[..]));
        Ok(())
    });
    assert!(popped.unwrap());
}

/// A runtime that gives one key two groups has two keys, whose hashes collide.
#[test]
fn timers_whose_hashes_collide_all_fire() {
    let env = SimEnv::new(10);
    let backend = backend_on(&env, 128).open().unwrap();
    let mut handles = Vec::new();
    for deleted in [None, Some(40), Some(3)] {
        let shard = &mut open(&backend, 1, &handles)[0];
        let timers = shard.open_timers(TimerSpec::new("t", TimeDomain::Event)).unwrap();
        let groups = [40, 3, 127, 0, 77].map(KeyGroup);
        for group in groups {
            let key = KeyRef::in_group(group, b"one");
            assert_eq!(shard.register_timer(timers, 9, key).unwrap(), handles.is_empty());
        }
        let id = SnapshotId(1);
        handles = vec![shard.snapshot(id, b"").unwrap().wait().unwrap().handle];
        if let Some(group) = deleted {
            let key = KeyRef::in_group(KeyGroup(group), b"one");
            assert!(shard.delete_timer(timers, 9, key).unwrap());
        }
        let mut fired = Vec::new();
        while shard
            .pop_due(timers, 9, &mut |timer| {
                fired.push(timer.group);
                Ok(())
            })
            .unwrap()
        {}
        let mut expected = groups.to_vec();
        expected.retain(|group| deleted != Some(group.0));
        expected.sort();
        assert_eq!(fired, expected);
    }
}

/// A key without a group is another one than the same key in a group that was chosen, after
/// all timers were read from tables, too.
#[test]
fn a_timer_in_a_given_group_is_not_taken_for_one_in_the_group_of_its_hash() {
    let env = SimEnv::new(15);
    let backend = backend_on(&env, 128).warm_up(false).open().unwrap();
    let given = KeyGroup(40);
    assert_ne!(Wanted::new(9, b"one", b"", 128).group, given.0);
    let shard = &mut open(&backend, 1, &[])[0];
    let timers = shard.open_timers(TimerSpec::new("t", TimeDomain::Event)).unwrap();
    assert!(shard.register_timer(timers, 9, KeyRef::in_group(given, b"one")).unwrap());
    let handle = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
    let shard = &mut open(&backend, 1, &[handle])[0];
    let timers = shard.open_timers(TimerSpec::new("t", TimeDomain::Event)).unwrap();
    assert_eq!(shard.next_timer(timers).unwrap(), Some(9));
    assert!(shard.register_timer(timers, 9, KeyRef::new(b"one")).unwrap());
    assert!(!shard.register_timer(timers, 9, KeyRef::in_group(given, b"one")).unwrap());
    assert_eq!(shard.pending_timers(timers).unwrap(), 2);
}

/// Puts damage into every table of the store, and takes it away again.
fn damage(env: &SimEnv, sound: &mut BTreeMap<PathBuf, Vec<u8>>) {
    let tables = Path::new(CHECKPOINTS).join("tables");
    for path in env.list_all_files().into_iter().filter(|path| path.starts_with(&tables)) {
        sound.insert(path.clone(), env.file_bytes(&path).unwrap());
        // Behind the header, where the blocks of the first state are.
        env.mutate_file(&path, |bytes| bytes[200..300].fill(0xab));
    }
}

#[test]
fn a_restore_that_cannot_read_its_timers_says_so_and_can_go_on_later() {
    for warm_up in [false, true] {
        let env = SimEnv::new(11);
        let backend = backend_on(&env, 128).open().unwrap();
        let mut shards = open(&backend, 1, &[]);
        let timers: Timers<u64> = Timers::event_time(&mut shards[0], "due").unwrap();
        let names: ValueState<u64, u64> = ValueState::register(&mut shards[0], "names").unwrap();
        let mut handles = Vec::new();
        for id in 1..4 {
            for key in 0..300 {
                timers.register(&mut shards[0], &key, (id * 1_000 + key) as i64).unwrap();
                names.put(&mut shards[0], &key, &id).unwrap();
            }
            handles = snapshots(&mut shards, id);
        }
        drop((shards, backend));

        let backend = backend_on(&env, 128).warm_up(warm_up).open().unwrap();
        let shard = &mut open(&backend, 1, &handles)[0];
        let timers: Timers<u64> = Timers::event_time(shard, "due").unwrap();
        let mut sound = BTreeMap::new();
        damage(&env, &mut sound);
        for _ in 0..3 {
            let error = timers.next(shard).expect_err("a timer may be missing");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains("\"due\""), "{error}");
            assert!(timers.pop_due(shard, 10_000).is_err());
            assert!(timers.pending(shard).is_err());
            // Nothing was popped, so no time has passed.
            assert_eq!(timers.watermark(shard).unwrap(), None);
        }
        for (path, bytes) in sound {
            env.mutate_file(&path, |damaged| damaged.clone_from(&bytes));
        }
        // What was registered in between counts as well.
        timers.register(shard, &1, 5).unwrap();
        assert!(timers.delete(shard, &7, 1_007).unwrap());
        assert_eq!(timers.pending(shard).unwrap(), 900);
        while backend.run_background() {}
        let mut last = i64::MIN;
        let mut fired = 0;
        while let Some(timer) = timers.pop_due(shard, 10_000).unwrap() {
            assert!(timer.timestamp >= last);
            last = timer.timestamp;
            fired += 1;
            // The warm-up goes on, and has nothing new to say about timers.
            shard.warm_up(3).unwrap();
        }
        assert_eq!(fired, 900);
        assert_eq!(timers.next(shard).unwrap(), None);
    }
}

/// A snapshot that says of a state of values that it holds timers.
fn forged(env: &SimEnv, handle: &SnapshotHandle) -> SnapshotHandle {
    let path = Path::new(CHECKPOINTS).join(handle.manifest());
    let mut manifest = handle.open_manifest(&env.file_bytes(&path).unwrap()).unwrap();
    for state in &mut manifest.states {
        if state.name.starts_with("forged") {
            state.kind = StateKind::Timers;
        }
    }
    let bytes = manifest.encode().unwrap();
    env.mutate_file(&path, |old| old.clone_from(&bytes));
    SnapshotHandle::new(&manifest, &bytes, handle.store(), handle.manifest()).unwrap()
}

#[test]
fn what_is_no_timer_is_damage_of_its_state_and_of_no_other() {
    // No time in the namespace; a value.
    let bad: [(&[u8], &[u8]); 2] = [(b"seven b", b""), (b"eight by", b"v")];
    for (namespace, value) in bad {
        let env = SimEnv::new(14);
        let backend = backend_on(&env, 128).open().unwrap();
        let mut shards = open(&backend, 1, &[]);
        for name in ["forged", "sound"] {
            // Under the schema of timers, which the table will say, too.
            let schema = CodecId::new("timers.event_time", 1);
            let spec = StateSpec::value(name).value_codec(schema);
            let state = shards[0].register(spec).unwrap();
            let key = KeyRef::new(b"key").namespace(namespace);
            shards[0].put(state, key, value).unwrap();
        }
        let timers: Timers<u64> = Timers::event_time(&mut shards[0], "due").unwrap();
        timers.register(&mut shards[0], &1, 2).unwrap();
        let handle = forged(&env, &snapshots(&mut shards, 1)[0]);
        drop((shards, backend));
        for warm_up in [false, true] {
            let backend = backend_on(&env, 128).warm_up(warm_up).open().unwrap();
            let shard = &mut open(&backend, 1, std::slice::from_ref(&handle))[0];
            let spec = TimerSpec::new("forged", TimeDomain::Event);
            let id = shard.open_timers(spec).unwrap();
            while backend.run_background() {}
            for _ in 0..2 {
                shard.warm_up(100).unwrap();
                for error in
                    [shard.next_timer(id).err(), shard.pop_due(id, 9, &mut |_| Ok(())).err()]
                {
                    let error = error.expect("nobody knows what is due");
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    let text = error.to_string();
                    assert!(text.matches("timers \"forged\"").count() == 1, "{text}");
                }
            }
            let key = KeyRef::new(b"key");
            assert_eq!(shard.register_timer(id, 5, key).unwrap_err().kind(), ErrorKind::Corrupt);
            assert_eq!(shard.delete_timer(id, 5, key).unwrap_err().kind(), ErrorKind::Corrupt);
            let timers: Timers<u64> = Timers::event_time(shard, "due").unwrap();
            assert_eq!(timers.pop_due(shard, 2).unwrap().unwrap().key, 1);
            let schema = CodecId::new("timers.event_time", 1);
            let state = shard.register(StateSpec::value("sound").value_codec(schema)).unwrap();
            assert_eq!(shard.get(state, key.namespace(namespace)).unwrap(), Some(value));
        }
    }
}

#[test]
fn what_cannot_be_decoded_is_not_lost() {
    let env = SimEnv::new(12);
    let backend = backend_on(&env, 128).open().unwrap();
    let shard = &mut open(&backend, 1, &[])[0];
    let timers: Timers<u32, u8> = Timers::processing_time(shard, "timers").unwrap();
    // Of the right codecs by name, and not by its bytes.
    shard.register_timer(timers.id(), 4, KeyRef::new(b"five!").namespace(b"n")).unwrap();
    timers.register_in(shard, &8, &1, 5).unwrap();
    for _ in 0..2 {
        let error = timers.pop_due(shard, 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("\"timers\""), "{error}");
        assert_eq!(timers.pending(shard).unwrap(), 2);
    }
    let key = KeyRef::new(b"five!").namespace(b"n");
    assert!(shard.delete_timer(timers.id(), 4, key).unwrap());
    let due = timers.pop_due(shard, 9).unwrap();
    assert_eq!(due, Some(Timer { timestamp: 5, key: 8, namespace: 1 }));
}

#[test]
fn a_trait_object_is_as_good_as_a_shard() {
    let env = SimEnv::new(13);
    let backend = backend_on(&env, 128).open().unwrap();
    let mut store: Box<dyn TimerStore> = Box::new(open(&backend, 1, &[]).remove(0));
    let timers: Timers<String, i64> = Timers::event_time(&mut *store, "timers").unwrap();
    timers.register_in(&mut *store, &"heron".to_owned(), &-3, 17).unwrap();
    assert_eq!(timers.next(&mut *store).unwrap(), Some(17));
    let timer = timers.pop_due(&mut *store, 17).unwrap().unwrap();
    assert_eq!((timer.key.as_str(), timer.namespace), ("heron", -3));
}
