//! Any bytes as a sequence of operations on timers of one operator: which are
//! there, and which fire in which order, is what ordered sets say that share no
//! code with the engine, through snapshots, merges, restores and rescaling.
//!
//! The simulated machine has no background threads, so an input replays.

#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;

use alluvium::base::MaxParallelism;
use alluvium::env::SimEnv;
use alluvium::{
    Backend, ErrorKind, KeyRef, Shard, SnapshotHandle, SnapshotId, SnapshotTicket, TimeDomain,
    TimerSpec, TimerStore, TimersId,
};
use libfuzzer_sys::fuzz_target;

const GROUPS: u32 = 8;
const OPERATOR: &str = "fuzzed";
const STATES: [(&str, TimeDomain); 2] =
    [("event", TimeDomain::Event), ("clock", TimeDomain::Processing)];
/// Operations of one input; more of the same finds nothing more.
const MAX_OPERATIONS: usize = 512;

/// Time, key, namespace. Timers of one time may fire in any order here: the
/// tests of the engine know which, from the definition of its hash.
type Timer = (i64, Vec<u8>, Vec<u8>);
type Model = [BTreeSet<Timer>; 2];

struct Worker {
    shard: Shard,
    timers: [TimersId; 2],
    watermark: Option<i64>,
}

/// The snapshots of all shards under one number, and what they must hold.
struct Checkpoint {
    id: SnapshotId,
    tickets: Vec<SnapshotTicket>,
    model: Model,
}

struct Job {
    backend: Backend,
    workers: Vec<Worker>,
    model: Model,
    pending: Vec<Checkpoint>,
    completed: (Vec<SnapshotHandle>, Model),
    last_id: u64,
}

fn key_ref<'a>((_, key, namespace): &'a Timer) -> KeyRef<'a> {
    KeyRef::new(key).namespace(namespace)
}

impl Job {
    fn new(options: u8) -> Self {
        let mut env = SimEnv::new(u64::from(options));
        if options & 1 != 0 {
            env = env.with_mapped_reads();
        }
        let backend = Backend::builder("/job")
            .env(Arc::new(env))
            .background_threads(0)
            .max_parallelism(MaxParallelism::new(GROUPS).expect("a number of groups"))
            .max_tables_per_shard(1 + usize::from(options >> 2 & 3))
            .warm_up(options & 2 != 0)
            .open()
            .expect("the simulated disk is sound");
        let mut job = Self {
            backend,
            workers: Vec::new(),
            model: Model::default(),
            pending: Vec::new(),
            completed: Default::default(),
            last_id: 0,
        };
        job.restart(1 + u32::from(options >> 4 & 3));
        job
    }

    /// Everything in memory is lost, and the last completed checkpoint is
    /// restored by another number of workers.
    fn restart(&mut self, workers: u32) {
        self.pending.clear();
        self.workers.clear();
        let (handles, model) = self.completed.clone();
        self.model = model;
        for subtask in 0..workers {
            let groups = self.backend.max_parallelism().range_of_subtask(subtask, workers);
            let groups = groups.expect("there are more groups than workers");
            let builder = self.backend.shard(OPERATOR, groups).restore(handles.clone());
            let mut shard = builder.open().expect("a completed checkpoint is restored");
            let timers = STATES.map(|(name, time)| {
                shard.open_timers(TimerSpec::new(name, time)).expect("they are as they were")
            });
            self.workers.push(Worker { shard, timers, watermark: None });
        }
    }

    fn owns(&self, worker: &Worker, timer: &Timer) -> bool {
        let (group, _) = key_ref(timer).locate(self.backend.max_parallelism());
        worker.shard.groups().contains(group)
    }

    fn owner(&self, timer: &Timer) -> usize {
        let owner = self.workers.iter().position(|worker| self.owns(worker, timer));
        owner.expect("each group has an owner")
    }

    fn register(&mut self, state: usize, timer: Timer) {
        let owner = self.owner(&timer);
        let worker = &mut self.workers[owner];
        let done = worker.shard.register_timer(worker.timers[state], timer.0, key_ref(&timer));
        if state == 0 && worker.watermark.is_some_and(|mark| timer.0 <= mark) {
            assert_eq!(done.expect_err("it is too late").kind(), ErrorKind::Invalid);
        } else {
            let is_new = self.model[state].insert(timer);
            assert_eq!(done.expect("there is memory"), is_new);
        }
    }

    fn delete(&mut self, state: usize, timer: &Timer) {
        let owner = self.owner(timer);
        let worker = &mut self.workers[owner];
        let done = worker.shard.delete_timer(worker.timers[state], timer.0, key_ref(timer));
        assert_eq!(done.expect("there is memory"), self.model[state].remove(timer));
    }

    /// The time of the earliest timer of a worker, as the model has it.
    fn earliest(&self, at: usize, state: usize) -> Option<i64> {
        let mut timers = self.model[state].iter();
        timers.find(|timer| self.owns(&self.workers[at], timer)).map(|timer| timer.0)
    }

    fn peek(&mut self, at: usize, state: usize) {
        let expected = self.earliest(at, state);
        let count = self.model[state].iter();
        let count = count.filter(|timer| self.owns(&self.workers[at], timer)).count();
        let worker = &mut self.workers[at];
        let timers = worker.timers[state];
        assert_eq!(worker.shard.next_timer(timers).expect("the disk is sound"), expected);
        assert_eq!(worker.shard.pending_timers(timers).expect("it is sound"), count as u64);
    }

    /// Fires at most `most` of the timers that are due.
    fn advance(&mut self, at: usize, state: usize, now: i64, most: usize) {
        for _ in 0..most {
            let expected = self.earliest(at, state).filter(|&time| time <= now);
            let worker = &mut self.workers[at];
            let mut fired = None;
            let found = worker.shard.pop_due(worker.timers[state], now, &mut |timer| {
                fired = Some((timer.timestamp, timer.key.to_vec(), timer.namespace.to_vec()));
                Ok(())
            });
            assert_eq!(found.expect("the disk is sound"), fired.is_some());
            if state == 0 {
                worker.watermark = worker.watermark.max(Some(now));
            }
            assert_eq!(fired.as_ref().map(|timer| timer.0), expected);
            let Some(timer) = fired else { return };
            assert!(self.model[state].remove(&timer), "it was there");
            // A handler that comes back, a few times.
            if timer.1.len() % 2 == 1 && now < 1_000 && timer.0 > now.saturating_sub(40) {
                self.register(state, (timer.0.saturating_add(9), timer.1, timer.2));
            }
        }
    }

    /// A barrier passes through all workers.
    fn snapshot(&mut self) {
        // Each holds a copy of the model.
        if self.pending.len() >= 4 {
            return self.complete(0);
        }
        self.last_id += 1;
        let id = SnapshotId(self.last_id);
        let tickets = self
            .workers
            .iter_mut()
            .map(|worker| worker.shard.snapshot(id, b"").expect("ids ascend"))
            .collect();
        self.pending.push(Checkpoint { id, tickets, model: self.model.clone() });
    }

    /// Waits for a checkpoint that is under way, and completes it. Those before
    /// it are subsumed.
    fn complete(&mut self, which: usize) {
        if which >= self.pending.len() {
            return;
        }
        let checkpoint = self.pending.drain(..=which).next_back().expect("it is there");
        let handles = checkpoint
            .tickets
            .iter()
            .map(|ticket| ticket.wait().expect("the disk is sound").handle)
            .collect();
        for worker in &mut self.workers {
            worker.shard.notify_complete(checkpoint.id);
        }
        self.completed = (handles, checkpoint.model);
    }

    fn drain(&mut self) {
        for at in 0..self.workers.len() {
            for state in 0..2 {
                self.peek(at, state);
                self.advance(at, state, i64::MAX, usize::MAX);
            }
        }
        assert!(self.model.iter().all(BTreeSet::is_empty));
    }
}

/// Reads an input from the front; past its end everything is zero.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    fn time(&mut self) -> i64 {
        match self.byte() {
            255 => i64::MAX,
            254 => i64::MIN,
            byte @ 240..254 => (i64::from(byte) - 247) << 40,
            byte => i64::from(byte) - 100,
        }
    }

    /// One of 32 short keys, or now and then a long or an empty one.
    fn timer(&mut self) -> Timer {
        let time = self.time();
        let key = match self.byte() {
            255 => Vec::new(),
            byte @ 248..255 => vec![byte; usize::from(byte - 247) * 40],
            byte => vec![b'k'; usize::from(byte & 31)],
        };
        let namespace = match self.byte() & 7 {
            0..=4 => Vec::new(),
            7 => vec![b'w'; 100],
            byte => vec![b'w'; usize::from(byte - 4)],
        };
        (time, key, namespace)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut job = Job::new(input.byte());
    for _ in 0..MAX_OPERATIONS {
        if input.0.is_empty() {
            break;
        }
        let operation = input.byte();
        let state = usize::from(operation >> 7);
        match operation & 31 {
            0..=9 => job.register(state, input.timer()),
            10..=13 => job.delete(state, &input.timer()),
            14 => {
                // Many at once, so that leaves are split.
                let (time, key, _) = input.timer();
                for i in 0..u16::from(input.byte()) * 3 {
                    let time = time.saturating_add(i64::from(i % 50));
                    job.register(state, (time, key.clone(), i.to_le_bytes().to_vec()));
                }
            }
            15..=16 => {
                let at = usize::from(input.byte()) % job.workers.len();
                job.peek(at, state);
            }
            17..=20 => {
                let at = usize::from(input.byte()) % job.workers.len();
                let now = input.time();
                job.advance(at, state, now, usize::from(input.byte()) * 8);
            }
            21..=23 => job.snapshot(),
            24..=25 => {
                for _ in 0..=input.byte() & 7 {
                    job.backend.run_background();
                }
            }
            26..=28 => job.complete(usize::from(operation >> 5 & 3)),
            29..=30 => {
                let worker = usize::from(input.byte()) % job.workers.len();
                let records = usize::from(input.byte());
                job.workers[worker].shard.warm_up(records).expect("there is memory");
            }
            _ => job.restart(1 + u32::from(input.byte() & 7)),
        }
    }
    job.snapshot();
    job.complete(job.pending.len().saturating_sub(1));
    job.drain();
    job.restart(3);
    job.drain();
});
