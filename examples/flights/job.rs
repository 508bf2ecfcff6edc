//! The job: what a runtime does around a state backend, in small.
//!
//! 1. The *source* (`source`) reads records and routes each one five times, by
//!    its aircraft, its airport, its carrier, its carrier and day, and its
//!    route: key, then key group, then the shard that owns the group. They
//!    travel in batches through one bounded channel per shard; a full channel
//!    holds the source back. Watermarks travel with them, to all shards.
//! 2. A *worker* per shard gives them to its operators (`operators`), which
//!    alone touch its shard, and whose results go to a file (`results`).
//! 3. The *coordinator* (`coordinator`) begins a checkpoint by asking the source
//!    for barriers. The source sends what it has batched, then the barrier, to
//!    every worker, and reads on. The barrier carries the position in the input.
//! 4. A worker that meets the barrier freezes its shard, closes its part of the
//!    results, hands both to the coordinator and goes on at once.
//! 5. The coordinator waits until every shard's snapshot and every part is
//!    durable, records the checkpoint as completed (see `checkpoint_file`), and
//!    only then tells the workers, through the same channels.
//!
//! There is one source, so a worker has one input, its barriers need no
//! aligning, and the watermark of the source is that of every worker. There is
//! at most one checkpoint under way.
//!
//! A thread that fails says so to the coordinator, which then ends; the other
//! threads follow because their channels close.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alluvium::base::{Error, MaxParallelism, Result, SnapshotId};
use crossbeam::channel::{Receiver, RecvTimeoutError, SendError, Sender, bounded, unbounded};

use super::checkpoint_file::{self, CompletedCheckpoint, JobIdentity, Position};
use super::cli::JobOptions;
use super::coordinator::Coordinator;
use super::event::{Event, Restored};
use super::results::{self, Part, Results};
use super::source::{Batch, Input, Source};
use super::store::{ShardStore, Store, Ticket};
use super::survey::InputIdentity;
use super::verify;

/// Key groups of the job.
pub(crate) const MAX_PARALLELISM: MaxParallelism = MaxParallelism::DEFAULT;

/// Batches that may lie in front of a worker before the source has to wait.
const CHANNEL_BATCHES: usize = 16;

const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);

/// Where the job keeps what, below the directory given to it.
pub(crate) struct Directories {
    /// Alluvium's working files.
    pub(crate) state: PathBuf,
    /// Alluvium's snapshots.
    pub(crate) snapshots: PathBuf,
    /// The job's records of completed checkpoints.
    pub(crate) completed: PathBuf,
    /// What the job says.
    pub(crate) results: PathBuf,
}

impl Directories {
    pub(crate) fn below(dir: &Path) -> Self {
        Self {
            state: dir.join("state"),
            snapshots: dir.join("snapshots"),
            completed: dir.join("completed"),
            results: dir.join("results"),
        }
    }
}

/// Runs the job and reports to the supervisor. True if every aggregate is
/// right.
pub(crate) fn run_as_child(options: &JobOptions) -> Result<bool> {
    match run(options) {
        Ok(right) => {
            Event::Finished { right }.send()?;
            Ok(right)
        }
        Err(error) => {
            Event::Failed { message: error.to_string() }.send()?;
            Ok(false)
        }
    }
}

fn run(options: &JobOptions) -> Result<bool> {
    let began = Instant::now();
    let directories = Directories::below(&options.dir);
    for dir in [&directories.completed, &directories.results] {
        std::fs::create_dir_all(dir).map_err(|e| {
            Error::io("cannot create a directory of the job", e)
                .at(dir.display())
                .remedy("check the directory given with --dir and its permissions")
        })?;
    }
    let job = JobIdentity {
        input: InputIdentity::of_file(&options.input)?,
        repeat: options.repeat,
        spread: options.spread,
        rules: options.rules,
    };
    let latest = match options.restore {
        true => Some(checkpoint_to_restore(&directories.completed, &job)?),
        false => None,
    };

    let store = Store::open(&directories.state, &directories.snapshots, MAX_PARALLELISM)?;
    let next_id = SnapshotId(latest.as_ref().map_or(1, |latest| latest.id.0 + 1));
    results::discard_after(&directories.results, SnapshotId(next_id.0 - 1))?;
    let shards = open_shards(&store, options, &directories, latest.as_ref(), next_id)?;
    let start = latest.as_ref().map_or(Position::default(), |latest| latest.position);
    Event::Started {
        shards: options.shards,
        offset: start.offset,
        restored: latest.as_ref().map(|latest| Restored {
            checkpoint: latest.id.0,
            from_shards: latest.shards.len() as u32,
            restore_us: began.elapsed().as_micros() as u64,
        }),
    }
    .send()?;

    let mut shards = process(options, &directories, job, shards, start, next_id)?;

    let mut right = true;
    for verdict in verify::against_plain_computation(options, &directories, &mut shards)? {
        right &= verdict.is_right();
        Event::Verified(verdict).send()?;
    }
    Ok(right)
}

fn checkpoint_to_restore(completed: &Path, job: &JobIdentity) -> Result<CompletedCheckpoint> {
    let latest = checkpoint_file::latest_completed(completed)?.ok_or_else(|| {
        Error::invalid("there is no completed checkpoint to restart from")
            .at(completed.display())
            .remedy("start the job anew")
    })?;
    if latest.job != *job {
        return Err(Error::incompatible(
            "the checkpoint was taken over another input, or by other rules",
        )
        .at(completed.display())
        .expected(format_args!("{:?}", latest.job))
        .found(format_args!("{job:?}"))
        .remedy("continue with the same --input and the same options"));
    }
    if latest.max_parallelism != MAX_PARALLELISM.get() {
        return Err(Error::incompatible("the checkpoint has another number of key groups")
            .at(completed.display())
            .expected(MAX_PARALLELISM)
            .found(latest.max_parallelism)
            .remedy("start the job anew"));
    }
    Ok(latest)
}

/// Opens every shard: empty, or with its part of the restored state.
fn open_shards(
    store: &Store,
    options: &JobOptions,
    directories: &Directories,
    restored: Option<&CompletedCheckpoint>,
    next_id: SnapshotId,
) -> Result<Vec<ShardStore>> {
    let snapshots = match restored {
        Some(checkpoint) => store.snapshots_of(checkpoint)?,
        None => Vec::new(),
    };
    let count = options.shards;
    (0..count)
        .map(|index| {
            let groups = MAX_PARALLELISM.range_of_subtask(index, count)?;
            let results = Results::new(&directories.results, index as usize, next_id);
            store.shard(groups, &snapshots, &options.rules, results)
        })
        .collect()
}

/// Reads the input from `start` to its end and gives the shards back.
fn process(
    options: &JobOptions,
    directories: &Directories,
    job: JobIdentity,
    shards: Vec<ShardStore>,
    start: Position,
    next_id: SnapshotId,
) -> Result<Vec<ShardStore>> {
    let began = Instant::now();
    let offset = AtomicU64::new(start.offset);
    let (reports, reports_of_all) = unbounded();
    let (triggers, triggers_of_source) = bounded(1);
    let (senders, receivers): (Vec<_>, Vec<_>) =
        shards.iter().map(|_| bounded::<Message>(CHANNEL_BATCHES)).unzip();

    thread::scope(|scope| {
        let mut workers = Vec::new();
        for (index, (shard, messages)) in shards.into_iter().zip(receivers).enumerate() {
            let reports = Reports(reports.clone());
            workers.push(spawn(scope, format!("shard-{index}"), move || {
                reports.of(|reports| work(index, shard, &messages, reports))
            })?);
        }

        let mut source = Source::new(options, start, senders.clone(), triggers_of_source, &offset);
        let reports = Reports(reports);
        let source =
            spawn(scope, "source".into(), move || reports.of(|reports| source.run(reports)))?;

        let mut coordinator = Coordinator {
            options,
            directories,
            job,
            began,
            next_id,
            triggers,
            reports: reports_of_all,
            workers: senders,
            input_ended: false,
            failures: 0,
        };
        let (done, until_done) = bounded::<()>(0);
        let coordinator = spawn(scope, "coordinator".into(), move || {
            let _done = done;
            coordinator.run()
        })?;

        while until_done.recv_timeout(PROGRESS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let progress = Event::Progress {
                offset: offset.load(Ordering::Relaxed),
                elapsed_us: began.elapsed().as_micros() as u64,
            };
            // If nobody listens, the coordinator will find that out as well
            // and end the job in good order.
            if progress.send().is_err() {
                break;
            }
        }

        let coordinated = coordinator.join().unwrap_or_else(|_| Err(panicked("coordinator")));
        let read = source.join().ok().flatten();
        let shards: Option<Vec<_>> =
            workers.into_iter().map(|worker| worker.join().ok().flatten()).collect();
        coordinated?;
        read.ok_or_else(|| panicked("source"))?;
        shards.ok_or_else(|| panicked("worker"))
    })
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: String,
    body: impl FnOnce() -> T + Send + 'scope,
) -> Result<thread::ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().name(name).spawn_scoped(scope, body).map_err(|e| {
        Error::io("cannot start a thread", e).remedy("ask for fewer shards, or raise the limit")
    })
}

pub(crate) fn panicked(thread: &str) -> Error {
    Error::internal(format_args!("the {thread} thread ended unexpectedly"))
        .remedy("see its message above, and report it")
}

/// What flows to a worker.
pub(crate) enum Message {
    Batch(Batch),
    /// Everything before it belongs to the checkpoint, nothing after it does.
    Barrier {
        id: SnapshotId,
        position: Position,
    },
    Completed(SnapshotId),
    Aborted(SnapshotId),
}

/// What the coordinator hears.
pub(crate) enum Report {
    InputEnded,
    Frozen { shard: usize, id: SnapshotId, position: Position, ticket: Ticket, part: Option<Part> },
    Failed(Error),
}

/// Why a thread stops early.
pub(crate) enum Halt {
    /// Others ended; the reason is theirs to tell.
    Stopped,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl<T> From<SendError<T>> for Halt {
    fn from(_: SendError<T>) -> Self {
        Self::Stopped
    }
}

/// A thread's line to the coordinator, which hears of its end in any case.
struct Reports(Sender<Report>);

impl Reports {
    /// Runs a thread's body; `None` if it failed.
    fn of<T>(self, body: impl FnOnce(&Sender<Report>) -> Result<T, Halt>) -> Option<T> {
        match body(&self.0) {
            Ok(value) => Some(value),
            Err(Halt::Stopped) => None,
            Err(Halt::Failed(error)) => {
                // Without a coordinator the job is ending for another reason.
                let _ = self.0.send(Report::Failed(error));
                None
            }
        }
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        if thread::panicking() {
            let name = thread::current().name().unwrap_or("unnamed").to_owned();
            let _ = self.0.send(Report::Failed(panicked(&name)));
        }
    }
}

/// A worker's life.
fn work(
    index: usize,
    mut shard: ShardStore,
    messages: &Receiver<Message>,
    reports: &Sender<Report>,
) -> Result<ShardStore, Halt> {
    for message in messages {
        match message {
            Message::Batch(batch) => {
                for input in batch.iter() {
                    match input {
                        Input::Flight(by, key, flight) => shard.process(by, key, flight)?,
                        Input::Watermark(watermark) => shard.advance(watermark)?,
                    }
                }
            }
            Message::Barrier { id, position } => {
                let (ticket, part) = shard.snapshot(id, position)?;
                reports.send(Report::Frozen { shard: index, id, position, ticket, part })?;
            }
            Message::Completed(id) => shard.notify_complete(id),
            Message::Aborted(id) => shard.notify_aborted(id),
        }
    }
    Ok(shard)
}
