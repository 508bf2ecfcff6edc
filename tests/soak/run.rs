//! The run: work, checkpoints, deletions in the store, crashes and samples.

use std::collections::VecDeque;
use std::path::Path;

use alluvium::env::Env;
use alluvium::{SnapshotHandle, SnapshotId, SnapshotTicket};

use crate::job::{Job, World};
use crate::oracle::{Oracle, Sizes};
use crate::samples::{Sample, growth, table};
use crate::store::{collect, named_by, scrub};

/// Checkpoints whose files are kept.
const RETAINED: usize = 2;

/// What a run goes by.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Rounds of a few operations.
    Rounds,
    /// Milliseconds.
    Milliseconds,
}

/// When things are done, in what the pace counts.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub budget_bytes: u64,
    pub pace: Pace,
    pub length: u64,
    pub checkpoint_every: u64,
    pub crash_every: u64,
    pub sample_every: u64,
    pub seed: u64,
}

#[derive(Debug)]
struct Checkpoint {
    id: u64,
    handles: Vec<SnapshotHandle>,
}

#[derive(Debug)]
struct UnderWay {
    id: u64,
    tickets: Vec<SnapshotTicket>,
    image: Oracle,
}

#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    completed: u64,
    aborted: u64,
    failed: u64,
    crashes: u64,
    crashes_during_a_snapshot: u64,
    deleted_objects: usize,
    evicted_records: u64,
    early_writes: u64,
}

struct Run<'a> {
    plan: Plan,
    dir: &'a Path,
    world: World,
    job: Option<Job>,
    oracle: Oracle,
    /// What the last completed checkpoint holds, and what the next may.
    image: Oracle,
    spare: Option<Oracle>,
    completed: VecDeque<Checkpoint>,
    under_way: Option<UnderWay>,
    last_id: u64,
    parallelism: u32,
    tally: Tally,
}

impl Run<'_> {
    fn job(&mut self) -> &mut Job {
        self.job.as_mut().expect("it is open")
    }

    fn open(&mut self) {
        let handles = self.completed.back().map_or(&[][..], |last| &last.handles);
        let (budget, ttl) = (self.plan.budget_bytes, self.oracle.sizes.event_ttl);
        self.job = Some(Job::open(&self.world, self.dir, budget, ttl, handles, self.parallelism));
    }

    fn begin_checkpoint(&mut self) {
        self.last_id += 1;
        let id = self.last_id;
        let tickets = self
            .job()
            .shards
            .iter_mut()
            .map(|running| running.shard.snapshot(SnapshotId(id), b"soak").unwrap());
        let tickets = tickets.collect();
        let mut image = self.spare.take().expect("one checkpoint at a time");
        image.copy(&self.oracle);
        let under_way = UnderWay { id, tickets, image };
        if self.world.rng.one_in(20) {
            under_way.tickets[0].cancel();
        }
        self.under_way = Some(under_way);
    }

    /// Ends a checkpoint, if all its snapshots are over.
    fn end_checkpoint(&mut self) {
        let Some(under_way) = &self.under_way else { return };
        if under_way.tickets.iter().any(|ticket| ticket.try_poll().is_none()) {
            return;
        }
        let UnderWay { id, tickets, image } = self.under_way.take().expect("it was there");
        let reports = tickets.iter().map(SnapshotTicket::wait).collect::<Result<Vec<_>, _>>();
        let aborts = self.world.rng.one_in(6);
        match reports {
            Ok(reports) if !aborts => {
                for running in &mut self.job().shards {
                    running.shard.notify_complete(SnapshotId(id));
                }
                let handles = reports.into_iter().map(|report| report.handle).collect();
                self.completed.push_back(Checkpoint { id, handles });
                let old = std::mem::replace(&mut self.image, image);
                self.spare = Some(old);
                self.tally.completed += 1;
                while self.completed.len() > RETAINED {
                    self.completed.pop_front();
                }
            }
            other => {
                if let Err(error) = other {
                    assert!(error.to_string().contains("cancel"), "{error}");
                    self.tally.failed += 1;
                } else {
                    self.tally.aborted += 1;
                }
                for running in &mut self.job().shards {
                    running.shard.notify_aborted(SnapshotId(id));
                }
                self.spare = Some(image);
            }
        }
        self.collect();
    }

    fn retained(&self) -> Vec<SnapshotHandle> {
        self.completed.iter().flat_map(|checkpoint| checkpoint.handles.clone()).collect()
    }

    fn collect(&mut self) {
        let named = named_by(self.dir, &self.retained());
        self.tally.deleted_objects += collect(self.dir, &named);
    }

    /// The process dies, and goes on from the last completed checkpoint on another
    /// number of shards.
    fn crash(&mut self) {
        if self.completed.is_empty() {
            return;
        }
        if self.world.rng.one_in(3) {
            let (job, oracle) = (self.job.as_mut().expect("it is open"), &self.oracle);
            job.check_keys(oracle);
        }
        if self.under_way.is_none() && self.world.rng.one_in(2) {
            self.begin_checkpoint();
        }
        self.tally.crashes += 1;
        self.tally.crashes_during_a_snapshot += u64::from(self.under_way.is_some());
        self.count_evictions();
        for running in &self.job.as_ref().expect("it is open").shards {
            eprintln!("{}: {:?}", running.shard.groups(), running.shard.stats());
        }
        self.job = None;
        if let Some(UnderWay { image, .. }) = self.under_way.take() {
            self.spare = Some(image);
        }
        self.collect();
        self.oracle.copy(&self.image);
        self.parallelism = self.parallelism % 3 + 1;
        self.open();
    }

    fn count_evictions(&mut self) {
        for running in &self.job.as_ref().expect("it is open").shards {
            let stats = running.shard.stats();
            self.tally.evicted_records += stats.evicted_records;
            self.tally.early_writes += stats.early_writes;
        }
    }

    /// Checkpoints while the state is filled.
    fn fill(&mut self) {
        let mut job = self.job.take().expect("it is open");
        let mut oracle = std::mem::replace(&mut self.oracle, self.spare.take().expect("unused"));
        job.fill(&mut self.world, &mut oracle, &mut |_| {});
        self.spare = Some(std::mem::replace(&mut self.oracle, oracle));
        self.job = Some(job);
        self.begin_checkpoint();
        self.wait_for_checkpoint();
    }

    fn wait_for_checkpoint(&mut self) {
        if let Some(under_way) = &self.under_way {
            for ticket in &under_way.tickets {
                let _ = ticket.wait();
            }
            self.end_checkpoint();
        }
    }

    fn sample(&self, at: f64, operations: u64) -> Sample {
        let live = self.oracle.live_bytes(self.world.now(&self.oracle));
        Sample::take(self.dir, at, live, operations)
    }

    fn work(&mut self) -> Vec<Sample> {
        let plan = self.plan;
        let began_ns = self.world.env.monotonic_ns();
        let mut rounds = 0;
        let mut samples = Vec::with_capacity((plan.length / plan.sample_every) as usize + 2);
        let (mut checkpoint_at, mut sample_at) = (plan.checkpoint_every, plan.sample_every);
        let mut crash_at = plan.crash_every;
        let mut sampled = self.world.operations;
        loop {
            let now = match plan.pace {
                Pace::Rounds => rounds,
                Pace::Milliseconds => (self.world.env.monotonic_ns() - began_ns) / 1_000_000,
            };
            if now >= plan.length {
                return samples;
            }
            rounds += 1;
            let job = self.job.as_mut().expect("it is open");
            job.operate(&mut self.world, &mut self.oracle);
            self.end_checkpoint();
            if now >= checkpoint_at && self.under_way.is_none() {
                self.begin_checkpoint();
                checkpoint_at = now + plan.checkpoint_every;
            }
            if now >= crash_at {
                self.crash();
                let jitter = self.world.rng.below(plan.crash_every / 4 + 1);
                crash_at += plan.crash_every - plan.crash_every / 8 + jitter;
            }
            if now >= sample_at {
                let operations = u64::from(self.world.operations - sampled);
                sampled = self.world.operations;
                samples.push(self.sample(now as f64 / plan.length as f64, operations));
                sample_at = now + plan.sample_every;
                if samples.len().is_multiple_of(60) {
                    eprintln!("{now} of {}: {:?}", plan.length, samples.last());
                }
            }
        }
    }
}

/// See the [module documentation](self). Says what has grown.
pub fn run(plan: Plan, dir: &Path) -> Vec<String> {
    let sizes = Sizes::of(plan.budget_bytes);
    // Memory that is never touched does not count; so all of it is.
    let touched = || {
        let mut oracle = Oracle::new(sizes);
        oracle.values.fill(1);
        oracle.by_event.fill(crate::oracle::Timed { number: 1, at: 1 });
        oracle.by_clock.fill(crate::oracle::Timed { number: 1, at: 1 });
        oracle.lists.fill(crate::oracle::Span { first: 1, end: 1 });
        oracle.maps.fill([1; crate::oracle::ENTRIES]);
        oracle
    };
    let mut run = Run {
        plan,
        dir,
        world: World::new(plan.seed),
        job: None,
        oracle: Oracle::new(sizes),
        image: touched(),
        spare: Some(touched()),
        completed: VecDeque::new(),
        under_way: None,
        last_id: 0,
        parallelism: 1,
        tally: Tally::default(),
    };
    run.open();
    run.job.as_mut().expect("it is open").advance(&mut run.world, &mut run.oracle);
    run.fill();
    let first = run.sample(0.0, u64::from(run.world.operations));
    eprintln!("filled: {first:?}");
    let samples = run.work();
    run.wait_for_checkpoint();
    // One more, which all is compared with: as it is, and restored.
    while run.completed.back().is_none_or(|last| last.id < run.last_id) || run.last_id == 0 {
        run.begin_checkpoint();
        run.wait_for_checkpoint();
    }
    let scrubbed = scrub(dir, &run.retained());
    run.crash();
    let (job, world) = (run.job.as_mut().expect("it is open"), &run.world);
    job.check_all(world, &mut run.oracle);
    run.count_evictions();
    println!("{}", table(&samples));
    println!("{:?}", run.tally);
    let World { operations, expired, timers_fired, answers, .. } = run.world;
    println!(
        "{operations} operations, {answers} answers compared, {expired} of them expired, {timers_fired} timers fired"
    );
    println!("{scrubbed:?}");
    assert!(run.tally.evicted_records > 1_000 && run.tally.early_writes > 0, "{:?}", run.tally);
    assert!(run.tally.completed > 0 && run.tally.crashes > 0, "{:?}", run.tally);
    growth(&samples)
}
