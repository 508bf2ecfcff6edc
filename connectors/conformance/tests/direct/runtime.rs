//! A small runtime on Alluvium's public interface: the one of the guide, grown. One
//! operator on threads, barriers in their channels, a coordinator and the source on one
//! more thread, a sink of prepared transactions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use alluvium::coordinator::{
    CheckpointSettings, ClaimMode, Coordinator, JobView, Participant, RestoreFrom,
};
use alluvium::env::RealEnv;
use alluvium::format::Checkpoint;
use alluvium::object::{MemoryStore, ObjectName, ObjectStore};
use alluvium::{Backend, Error, KeyedStore, MaxParallelism, Result, SnapshotId};
use alluvium_conformance::{
    Adapter, Capability, GoesOnFrom, Job, Place, Running, Source, Support, Tally,
};

use crate::master::{Ask, Master, Metadata, Request};
use crate::mutation::Mutation;
use crate::outside::Outside;
use crate::second::Second;
use crate::subtask::{Inputs, SinkPart, Subtask};

const JOB: &str = "tally";

/// What outlives the lives of a job.
#[derive(Clone)]
struct World {
    store: Arc<MemoryStore>,
    outside: Arc<Outside>,
    /// Savepoints that are mere checkpoints, in a runtime that is broken so.
    renamed: Arc<Mutex<BTreeMap<String, SnapshotId>>>,
}

/// The runtime, whole or broken.
#[derive(Default)]
pub(crate) struct Direct {
    pub(crate) mutation: Option<Mutation>,
    worlds: Mutex<BTreeMap<PathBuf, World>>,
    lives: AtomicU64,
}

impl Direct {
    pub(crate) fn broken(mutation: Mutation) -> Self {
        Self { mutation: Some(mutation), ..Self::default() }
    }

    fn world(&self, dir: &Path) -> World {
        let mut worlds = self.worlds.lock().unwrap();
        let world = worlds.entry(dir.to_owned()).or_insert_with(|| World {
            store: Arc::new(MemoryStore::new(Arc::new(RealEnv::new()))),
            outside: Arc::default(),
            renamed: Arc::default(),
        });
        world.clone()
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Chooses what to go on from, and reads it.
    fn restore(
        &self,
        world: &World,
        coordinator: &mut Coordinator,
        job: &Job,
    ) -> Result<Option<Checkpoint>> {
        let from = match &job.from {
            GoesOnFrom::Latest => RestoreFrom::Latest,
            GoesOnFrom::Savepoint(name) => match world.renamed.lock().unwrap().get(name) {
                Some(id) => RestoreFrom::Checkpoint(*id),
                None => RestoreFrom::Savepoint(name.clone()),
            },
        };
        let restored = match coordinator.restore(&from, ClaimMode::NoClaim) {
            Err(_) if self.is(Mutation::BeginsAnew) => None,
            restored => restored?,
        };
        let unknown = |checkpoint: &Checkpoint| {
            let mut operators = checkpoint.operators();
            operators.find(|operator| *operator != job.operator).map(str::to_owned)
        };
        match restored.as_ref().and_then(unknown) {
            Some(name) if !job.allow_dropped_state && !self.is(Mutation::LosesUnknownState) => {
                Err(Error::incompatible("the job has no such operator")
                    .expected(&job.operator)
                    .found(name))
            }
            _ => Ok(restored),
        }
    }
}

impl Adapter for Direct {
    fn name(&self) -> String {
        match self.mutation {
            None => "a direct runtime".to_owned(),
            Some(mutation) => format!("a direct runtime that is broken: {mutation:?}"),
        }
    }

    fn supports(&self, _: Capability) -> Support {
        Support::Yes
    }

    fn start(&self, job: &Job) -> Result<Box<dyn Running>> {
        let world = self.world(&job.dir);
        let store = job.faults.wrap(Arc::clone(&world.store) as Arc<dyn ObjectStore>);
        let mut settings = CheckpointSettings::default();
        settings.interval_ms = None;
        settings.timeout_ms = job.timeout_ms;
        settings.tolerable_failures = usize::MAX;
        let mut coordinator = Coordinator::builder(store, JOB).settings(settings).open()?;
        let restored = self.restore(&world, &mut coordinator, job)?;
        let life = coordinator.epoch();

        let (first, second) = (job.source.splits(), job.second.as_ref().map_or(0, Source::splits));
        let mut metadata = match &restored {
            Some(checkpoint) => Metadata::decode(&checkpoint.runtime, first, second),
            None => Metadata::new(first, second),
        };
        match self.mutation {
            Some(Mutation::RestoresNoTransactions) => world.outside.fence(life),
            Some(Mutation::CommitsWhenFenced) => world.outside.recover(0, &metadata.names),
            _ => world.outside.recover(life, &metadata.names),
        }
        if self.is(Mutation::IgnoresOffsets) {
            metadata = Metadata { names: metadata.names, ..Metadata::new(first, second) };
        }

        let sink = Arc::new(coordinator.sink());
        let number = self.lives.fetch_add(1, Ordering::SeqCst);
        let dir = job.dir.join(format!("life-{number}"));
        let backend = |process: u32| {
            let dir = dir.join(process.to_string());
            Backend::builder(dir).sink(sink.clone()).source(sink.clone()).open()
        };
        let backends = (0..job.processes).map(backend).collect::<Result<Vec<_>>>()?;
        let max = MaxParallelism::DEFAULT;
        let per_process = job.workers / job.processes;
        let routes = Routes { max, workers: job.workers, per_process, mutation: self.mutation };
        let dead: Vec<Arc<AtomicBool>> = (0..job.processes).map(|_| Arc::default()).collect();
        let handles: Vec<_> =
            restored.iter().flat_map(|checkpoint| checkpoint.handles(&job.operator)).collect();
        let is_killed = Arc::new(AtomicBool::new(false));
        let (reports, reported) = channel();
        let (mut subtasks, mut bodies) = (Vec::new(), Vec::new());
        for worker in 0..job.workers {
            let place = Place { worker, workers: job.workers, max_parallelism: max };
            let process = (worker / per_process) as usize;
            let shard = backends[process]
                .shard(&job.operator, max.range_of_subtask(worker, job.workers)?)
                .subtask(worker, job.workers);
            let is_lost = self.is(Mutation::LosesShards) && worker as usize >= handles.len();
            let share = handles.len().div_ceil(backends.len());
            let is_other = |at: usize| self.is(Mutation::RestoresOwnShare) && at / share != process;
            let handles = handles.iter().enumerate().filter(|(at, _)| !is_other(*at));
            let handles = handles.map(|(_, handle)| handle.clone());
            let shard = if is_lost { shard } else { shard.restore(handles) };
            let mut shard = shard.open()?;
            if self.is(Mutation::ForgetsTimers) {
                shard.drop_state("ends")?;
            }
            let tally = Tally::open(&mut shard, place, job.probe.clone())?;
            let (to, inbox) = channel();
            subtasks.push(to);
            bodies.push(Subtask {
                worker: worker as usize,
                life,
                shard,
                tally,
                inbox,
                inputs: Inputs::new(1 + usize::from(job.second.is_some())),
                place,
                probe: job.probe.clone(),
                reports: reports.clone(),
                outside: Arc::clone(&world.outside),
                is_killed: Arc::clone(&is_killed),
                is_dead: Arc::clone(&dead[process]),
                is_restored: restored.is_some(),
                mutation: self.mutation,
                sink: SinkPart::default(),
                tickets: VecDeque::new(),
            });
        }
        let shards = Participant::of_operator(&job.operator, max, job.workers)?;
        coordinator.start(shards.clone())?;
        let second = job.second.clone().map(|source| {
            let (splits, subtasks) = (metadata.second.clone(), subtasks.clone());
            Second::new(source, splits, subtasks, reports, routes)
        });
        let (second, to_second) = second.unzip();
        let (asks, asked) = channel();
        let is_deaf = Arc::new(AtomicBool::new(false));
        let master = Master {
            coordinator,
            shards,
            source: job.source.clone(),
            metadata,
            subtasks,
            second: to_second,
            routes,
            dead: dead.clone(),
            reported,
            asked,
            is_killed: Arc::clone(&is_killed),
            is_deaf: Arc::clone(&is_deaf),
            mutation: self.mutation,
            renamed: Arc::clone(&world.renamed),
            pending: BTreeMap::new(),
            waiting: BTreeMap::new(),
            watermark: i64::MIN,
            stopping: false,
            last: None,
        };
        let thread = std::thread::spawn(move || {
            let mut threads: Vec<_> =
                bodies.into_iter().map(|body| std::thread::spawn(move || body.run())).collect();
            threads.extend(second.map(|second| std::thread::spawn(move || second.run())));
            let outcome = master.run();
            // The subtasks work off what is on its way, unless they were killed.
            for thread in threads {
                thread.join().expect("no subtask panics");
            }
            drop(backends);
            outcome
        });
        Ok(Box::new(Life { asks, thread, is_killed, is_deaf, dead }))
    }

    fn results(&self, dir: &Path) -> Result<Vec<String>> {
        Ok(self.world(dir).outside.shown())
    }

    fn damage_latest(&self, dir: &Path) -> Result<()> {
        let store = self.world(dir).store;
        damage_latest(store, JOB)
    }
}

/// Replaces the metadata of a job's latest checkpoint by other bytes.
pub(crate) fn damage_latest(store: Arc<dyn ObjectStore>, job: &str) -> Result<()> {
    let view = JobView::open(Arc::clone(&store), job)?;
    let latest = view.and_then(|view| view.entry().resume.clone());
    let latest = latest.ok_or_else(|| Error::invalid("there is no checkpoint"))?;
    let name = ObjectName::new(latest.location)?;
    store.remove(&name)?;
    store.create(&name, b"damaged")
}

struct Life {
    asks: Sender<Request>,
    thread: JoinHandle<Result<()>>,
    is_killed: Arc<AtomicBool>,
    is_deaf: Arc<AtomicBool>,
    /// By process.
    dead: Vec<Arc<AtomicBool>>,
}

impl Life {
    fn ask(&self, ask: Ask) -> Result<SnapshotId> {
        let closed = || Error::closed("the job has ended");
        let (answer, answers) = channel();
        self.asks.send((ask, answer)).map_err(|_| closed())?;
        answers.recv().map_err(|_| closed())?
    }
}

impl Running for Life {
    fn checkpoint(&self) -> Result<SnapshotId> {
        self.ask(Ask::Checkpoint)
    }

    fn begin_checkpoint(&self) {
        let (answer, _) = channel();
        let _ = self.asks.send((Ask::Checkpoint, answer));
    }

    fn savepoint(&self, name: &str) -> Result<SnapshotId> {
        self.ask(Ask::Savepoint(name.to_owned()))
    }

    fn stop(self: Box<Self>, name: &str) -> Result<()> {
        self.ask(Ask::Stop(name.to_owned()))?;
        self.thread.join().expect("the master does not panic")
    }

    fn lose_notifications(&self) {
        self.is_deaf.store(true, Ordering::SeqCst);
    }

    fn kill_process(&self, process: u32) {
        self.dead[process as usize].store(true, Ordering::SeqCst);
    }

    fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    fn kill(self: Box<Self>) {
        self.is_killed.store(true, Ordering::SeqCst);
        // How it ended does not matter any more.
        let _ = self.thread.join().expect("the master does not panic");
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.thread.join().expect("the master does not panic")
    }
}

/// Which worker a record goes to.
#[derive(Clone, Copy)]
pub(crate) struct Routes {
    max: MaxParallelism,
    workers: u32,
    /// Workers of each process.
    per_process: u32,
    mutation: Option<Mutation>,
}

impl Routes {
    /// The worker that owns a key, which a split has had.
    pub(crate) fn owner(&self, split: usize, key: u64) -> Result<usize> {
        use alluvium::codec::{Codec, HasCodec};
        if self.mutation == Some(Mutation::OwnHash) {
            return Ok(key as usize % self.workers as usize);
        }
        let mut bytes = Vec::new();
        <u64 as HasCodec>::Codec::default().encode(&key, &mut bytes)?;
        let (group, _) = alluvium::KeyRef::new(&bytes).locate(self.max);
        if self.mutation == Some(Mutation::StaysAtHome) {
            let home = split as u32 % (self.workers / self.per_process);
            let of_home = self.max.subtask_of_group(group, self.per_process);
            return Ok((home * self.per_process + of_home) as usize);
        }
        Ok(self.max.subtask_of_group(group, self.workers) as usize)
    }
}

/// What transactions a checkpoint names.
pub(crate) type Names = BTreeSet<String>;
