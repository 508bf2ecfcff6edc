//! A job: its settings, and running it on timely's workers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alluvium::coordinator::{CheckpointSettings, ClaimMode, Coordinator, RestoreFrom};
use alluvium::env::{Env, RealEnv};
use alluvium::format::{Checkpoint, ShardCosts};
use alluvium::object::{LocalStore, ObjectStore};
use alluvium::{BackendBuilder, Error, MaxParallelism, Result, SnapshotId};
use timely::worker::Worker;
use timely::{CommunicationConfig, Config};

use crate::control::mail::{Order, Report};
use crate::control::{Control, Over, ToMaster};
use crate::flow::Flow;
use crate::handle::JobHandle;
use crate::master::{Master, Request};
use crate::metadata::{Metadata, Origin};
use crate::place::Open;
use crate::process::{Configure, Process, Shape};
use crate::time::Time;

/// How long a worker sleeps at most before it looks whether the job is over.
const LONGEST_NAP: Duration = Duration::from_millis(20);

/// Records that a source reads past a barrier, unless told otherwise.
const DEFAULT_LEAD: u64 = 100_000;

/// After which silence of a process the others end, unless told otherwise.
const DEFAULT_PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// What became of a job; the same in every process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The last completed checkpoint, which holds the end of the job.
    pub checkpoint: Option<SnapshotId>,
    /// The savepoint that the job was stopped with; `None` if its inputs came to their
    /// end.
    pub stopped_with: Option<String>,
}

/// What happens to a job; see [`Job::observer`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JobEvent {
    /// All workers run.
    Started {
        /// The checkpoint that they go on from.
        restored: Option<SnapshotId>,
        /// How many there are, in all processes.
        workers: u32,
    },
    /// A shard's snapshot is durable, and counts when all others of its checkpoint are.
    Acknowledged {
        /// The number of the checkpoint.
        id: SnapshotId,
        /// The operator that the shard belongs to.
        operator: String,
        /// What it cost: how long the barrier kept the worker, what was uploaded.
        costs: ShardCosts,
    },
    /// A checkpoint is complete.
    Completed(SnapshotId),
    /// A savepoint is complete.
    Savepoint {
        /// Its number.
        id: SnapshotId,
        /// Its name.
        name: String,
    },
    /// A checkpoint was given up; the next one is tried.
    Aborted {
        /// Its number.
        id: SnapshotId,
        /// Why.
        reason: String,
    },
}

/// A dataflow with keyed state and checkpoints; see the [crate's documentation](crate).
///
/// All processes of a job are given the same settings.
#[must_use]
pub struct Job {
    name: String,
    env: Arc<dyn Env>,
    store: Arc<dyn ObjectStore>,
    state_dir: PathBuf,
    settings: CheckpointSettings,
    restore: RestoreFrom,
    claim: ClaimMode,
    max_parallelism: MaxParallelism,
    allow_dropped_state: bool,
    lead: u64,
    peer_timeout: Option<Duration>,
    configure: Box<Configure>,
    places: Option<Arc<Open>>,
    observer: Box<dyn Fn(&JobEvent) + Send>,
    asks: (Sender<Request>, Receiver<Request>),
}

impl Job {
    /// A job of this name (letters, digits, `.`, `_` and `-`) whose checkpoints are in
    /// `store`, which all processes reach under the same identity. Working files of each
    /// process are in a directory of its own below `state_dir`, on its own machine.
    pub fn new(
        name: impl Into<String>,
        store: Arc<dyn ObjectStore>,
        state_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            env: Arc::new(RealEnv::new()),
            store,
            state_dir: state_dir.into(),
            settings: CheckpointSettings::default(),
            restore: RestoreFrom::Latest,
            claim: ClaimMode::NoClaim,
            max_parallelism: MaxParallelism::DEFAULT,
            allow_dropped_state: false,
            lead: DEFAULT_LEAD,
            peer_timeout: Some(DEFAULT_PEER_TIMEOUT),
            configure: Box::new(|backend| backend),
            places: None,
            observer: Box::new(|_| {}),
            asks: channel(),
        }
    }

    /// A job with everything in one directory: checkpoints in `DIR/checkpoints`, working
    /// files in `DIR/state`. For processes of one machine, or a shared file system.
    ///
    /// # Errors
    /// As [`LocalStore::open`].
    pub fn local(name: impl Into<String>, dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let store = LocalStore::open(Arc::new(RealEnv::new()), dir.join("checkpoints"))?;
        Ok(Self::new(name, Arc::new(store), dir.join("state")))
    }

    /// The world of this process, as the engine sees it: files, threads and clocks. Its
    /// [wall clock](Env::unix_time_ms) is what timers of the processing time fire by, what
    /// [`Context::processing_time`](crate::Context::processing_time) shows, and what times
    /// to live are counted by; a test that has one of its own need not wait for any of
    /// them. The store has its own. Default: [`RealEnv::new`].
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = env;
        self
    }

    /// Time from one checkpoint to the next, in milliseconds; `None` if they are only
    /// taken when somebody asks, and at the end. Default: 10 seconds.
    pub fn interval_ms(mut self, interval_ms: Option<u64>) -> Self {
        self.settings.interval_ms = interval_ms;
        self
    }

    /// All settings of checkpoints, the interval included.
    pub fn settings(mut self, settings: CheckpointSettings) -> Self {
        self.settings = settings;
        self
    }

    /// What to go on from. Default: the latest checkpoint, or the beginning.
    pub fn restore_from(mut self, from: RestoreFrom) -> Self {
        self.restore = from;
        self
    }

    /// What becomes of a savepoint that is restored. Default: it stays.
    pub fn claim(mut self, claim: ClaimMode) -> Self {
        self.claim = claim;
        self
    }

    /// The number of key groups, and so the most workers there can be. It is fixed for
    /// the life of the state. Default: [`MaxParallelism::DEFAULT`].
    pub fn max_parallelism(mut self, max_parallelism: MaxParallelism) -> Self {
        self.max_parallelism = max_parallelism;
        self
    }

    /// Whether restored state may be lost that no operator of the job has the name of.
    /// Default: it is an error.
    pub fn allow_dropped_state(mut self, allow: bool) -> Self {
        self.allow_dropped_state = allow;
        self
    }

    /// How many records each source of a worker reads past a barrier until all workers
    /// have let that barrier pass: a bound for what waits at barriers, and what keeps
    /// sources from running away from slow operators. Default: 100,000.
    pub fn lead_records(mut self, records: u64) -> Self {
        self.lead = records;
        self
    }

    /// After how long a silence of one process the others fail, in milliseconds; `None` if
    /// they wait for ever. A process that dies is noticed at once, since its connections
    /// end; this is for machines without power and networks that are cut, which say
    /// nothing. A process begins to count when it has built its dataflow. Its workers
    /// give the signs of life, between their functions: choose it longer than any of these
    /// takes. Default: 60 seconds.
    pub fn peer_timeout_ms(mut self, timeout_ms: Option<u64>) -> Self {
        self.peer_timeout = timeout_ms.map(Duration::from_millis);
        self
    }

    /// Changes settings of the process's backend: memory, threads, tables. Directory,
    /// sink, source and number of key groups are the job's.
    pub fn backend(
        mut self,
        configure: impl Fn(BackendBuilder) -> BackendBuilder + Send + Sync + 'static,
    ) -> Self {
        self.configure = Box::new(configure);
        self
    }

    /// How every process of the job opens a place that somebody asks a savepoint into, by
    /// its URL: whoever can write requests into the job's store (as
    /// `alluvium savepoint STORE NAME --into PLACE` does), and
    /// [`JobHandle::savepoint_into`]. Default: such savepoints are refused.
    ///
    /// [`open_url`](alluvium::object::open_url) will do where everybody who can write into
    /// the store may also choose where the job writes, with the rights of its processes;
    /// else refuse here what is not allowed. All processes must open the same place by the
    /// same text: a directory is one only if it is of a shared file system, or all processes
    /// are on one machine. In the first process it is called on the coordinator's thread,
    /// which takes no checkpoints meanwhile; in all of them on a background thread of the
    /// backend, whose snapshots wait. So what is opened should have timeouts. Of requests,
    /// those are refused before that are refused everywhere; see
    /// [`CoordinatorBuilder::places`](alluvium::coordinator::CoordinatorBuilder::places).
    pub fn places(
        mut self,
        open: impl Fn(&str) -> Result<Arc<dyn ObjectStore>> + Send + Sync + 'static,
    ) -> Self {
        self.places = Some(Arc::new(open));
        self
    }

    /// Is told what happens to the job, in the process of the first worker, on the
    /// thread that completes checkpoints.
    pub fn observer(mut self, observer: impl Fn(&JobEvent) + Send + 'static) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// Asks the job for things while it runs.
    pub fn handle(&self) -> JobHandle {
        JobHandle { asks: self.asks.0.clone() }
    }

    /// Runs the job on this process's workers until its inputs have come to their end, it
    /// is stopped, or it fails. `build` is called in each worker and must build the same
    /// dataflow in all of them, in all processes.
    ///
    /// # Errors
    /// What `build`, a function of the job, the state or the store failed with;
    /// `Unavailable` if another process has gone. The job can be run again, with as many
    /// workers and processes as wanted, and goes on from its latest checkpoint. Threads
    /// of timely's network may be left behind after an error: end the process.
    pub fn run<F>(self, config: Config, build: F) -> Result<Outcome>
    where
        F: for<'scope> Fn(&Flow<'scope>) -> Result<()> + Send + Sync + 'static,
    {
        let shape = shape(&config.communication);
        let Shape { process: index, threads: local, workers } = shape;
        if u64::from(self.max_parallelism.get()) < workers as u64 {
            return Err(Error::invalid("there are more workers than key groups")
                .expected(format_args!("at most {}", self.max_parallelism))
                .found(workers)
                .remedy("run fewer workers; the number of key groups is fixed"));
        }
        let process = Process::new(
            Arc::clone(&self.env),
            Arc::clone(&self.store),
            self.max_parallelism,
            self.state_dir.join(format!("process-{index}")),
            self.configure,
            self.lead,
            shape,
        );
        let process = process.watching(self.peer_timeout).opening(self.places.clone());
        let process = Arc::new(process);
        let mut master = None;
        let mut thread = None;
        if index == 0 {
            // Before the workers meet, so that an older coordinator is fenced by then.
            let mut coordinator = Coordinator::builder(Arc::clone(&self.store), &self.name)
                .settings(self.settings)
                .owner(format!("process {}", std::process::id()))
                .env(Arc::clone(&self.env));
            if let Some(open) = self.places.clone() {
                coordinator = coordinator.places(move |place| open(place));
            }
            let mut coordinator = coordinator.open()?;
            let restored = coordinator.restore(&self.restore, self.claim)?;
            let (order, orders) = channel::<Order>();
            let (report, reports) = channel::<Report>();
            let (attach, attached) = channel();
            master = Some(ToMaster { orders, reports: report, attach });
            let body = Master {
                origin: Origin::new(&self.name, &self.store.identity(), coordinator.epoch()),
                coordinator,
                restored,
                places: self.places,
                workers: workers as u64,
                max_parallelism: self.max_parallelism,
                allow_dropped_state: self.allow_dropped_state,
                orders: order,
                reports,
                attach: attached,
                asks: self.asks.1,
                observer: self.observer,
            };
            let shared = Arc::clone(&process);
            let body = Box::new(move || body.run(&shared));
            let spawned = self.env.spawn("alluvium-master", body);
            thread = Some(spawned.map_err(|e| Error::io("no thread for the coordinator", e))?);
        } else {
            // Whoever asks here is told so at once.
            drop(self.asks.1);
        }

        let master = Mutex::new(master);
        let (done, outcomes) = channel();
        let done = Mutex::new(done);
        let shared = Arc::clone(&process);
        let guards = timely::execute(config, move |worker| {
            let master = match worker.index() {
                0 => master.lock().unwrap_or_else(PoisonError::into_inner).take(),
                _ => None,
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| work(worker, &shared, master, &build)))
                .unwrap_or_else(|panic| Err(panicked(worker.index(), &*panic)));
            if let Err(error) = &outcome {
                shared.fail(error);
            }
            // A function that has panicked may do so again when it goes.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                for dataflow in worker.installed_dataflows() {
                    worker.drop_dataflow(dataflow);
                }
            }));
            let done = done.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever waits for it has not gone.
            let _ = done.send(outcome);
        })
        .map_err(|text| Error::unavailable("timely cannot start").found(text))?;

        let outcomes: Vec<_> = outcomes.iter().take(local).collect();
        process.close();
        if let Some(failure) = process.failure() {
            // The network's threads wait for processes that may have gone.
            std::mem::forget(guards);
            return Err(failure);
        }
        // They panic if another process has ended without a farewell; this one is done.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(guards)));
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        outcomes.into_iter().next().unwrap_or_else(|| {
            Err(Error::internal("no worker has ended").remedy("please report it"))
        })
    }
}

fn shape(config: &CommunicationConfig) -> Shape {
    match config {
        CommunicationConfig::Thread => Shape { process: 0, threads: 1, workers: 1 },
        CommunicationConfig::Process(threads) | CommunicationConfig::ProcessBinary(threads) => {
            Shape { process: 0, threads: *threads, workers: *threads }
        }
        CommunicationConfig::Cluster { threads, process, addresses, .. } => {
            Shape { process: *process, threads: *threads, workers: threads * addresses.len() }
        }
    }
}

fn panicked(index: usize, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    Error::unavailable("a worker panicked")
        .at(format_args!("worker {index}"))
        .found(text)
        .remedy("if another process has gone, start the job again; else correct the function")
}

/// A worker's life.
fn work<F>(
    worker: &mut Worker,
    process: &Arc<Process>,
    master: Option<ToMaster>,
    build: &F,
) -> Result<Outcome>
where
    F: for<'scope> Fn(&Flow<'scope>) -> Result<()>,
{
    let control = Control::build(worker, Arc::clone(process), master);
    let outcome = live(worker, &control, process, build);
    if let Err(error) = &outcome {
        // What was said last is to arrive.
        control.fail(error);
        for _ in 0..2 {
            worker.step();
        }
    }
    outcome
}

fn live<F>(
    worker: &mut Worker,
    control: &Rc<Control>,
    process: &Process,
    build: &F,
) -> Result<Outcome>
where
    F: for<'scope> Fn(&Flow<'scope>) -> Result<()>,
{
    let start = loop {
        if let Some(start) = control.start() {
            break start;
        }
        step(worker, control, process)?;
    };
    let checkpoint = start.checkpoint.as_deref().map(Checkpoint::decode).transpose()?;
    let metadata = match &checkpoint {
        Some(checkpoint) => Metadata::decode(&checkpoint.runtime)?,
        None => Metadata::default(),
    };
    worker.dataflow_named::<Time, _, _>("Job", |scope| {
        build(&Flow::new(scope, Rc::clone(control), start, checkpoint, metadata))
    })?;
    let plan = control.plan.borrow().clone();
    control.report(Report::Ready { worker: control.index as u64, plan });
    loop {
        control.beat()?;
        if let Some(outcome) = step(worker, control, process)? {
            return Ok(outcome);
        }
    }
}

/// Works for a moment, or sleeps; how the job ended, if it has.
fn step(worker: &mut Worker, control: &Control, process: &Process) -> Result<Option<Outcome>> {
    let nap = control.wake_due(LONGEST_NAP);
    worker.step_or_park(Some(nap));
    match control.over() {
        Some(Over::Finished { checkpoint, savepoint }) => {
            Ok(Some(Outcome { checkpoint: checkpoint.map(SnapshotId), stopped_with: savepoint }))
        }
        Some(Over::Failed(failure)) => Err(failure.to_error()),
        None => process.failure().map_or(Ok(None), Err),
    }
}
