//! The job: what a runtime does around a state backend, in small.
//!
//! 1. The *source* (`source`) reads records and routes each one five times, by
//!    its aircraft, its airport, its carrier, its carrier and day, and its
//!    route: key, then key group, then the shard that owns the group. They
//!    travel in batches through one bounded channel per shard; a full channel
//!    holds the source back. Watermarks travel with them, to all shards.
//! 2. A *worker* per shard gives them to its operators (`operators`), which
//!    alone touch its shard, and whose results go to a file (`results`).
//! 3. Alluvium's coordinator says when a checkpoint begins; the thread that polls it
//!    (`coordinator`) asks the source for barriers. The source sends what it has
//!    batched, then the barrier, to every worker, and reads on. The barrier carries the
//!    position in the input.
//! 4. A worker that meets the barrier freezes its shard, closes its part of the
//!    results, hands both to that thread and goes on at once.
//! 5. The thread waits until every shard's snapshot and every part is durable, and
//!    acknowledges them, with what the job itself has to remember (`job_data`).
//!    Alluvium's coordinator then completes the checkpoint, and the workers hear of it
//!    through the same channels.
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

use alluvium::coordinator::{ClaimMode, Coordinator, Participant, RestoreFrom};
use alluvium::format::Checkpoint;
use alluvium::{Error, MaxParallelism, Result, SnapshotId, SnapshotMode};
use crossbeam::channel::{Receiver, RecvTimeoutError, SendError, Sender, bounded, unbounded};

use super::cli::JobOptions;
use super::coordinator::{self, Coordination};
use super::event::{Event, Restored};
use super::job_data::{JobData, JobIdentity, Position};
use super::results::{self, Part, Results};
use super::source::{Batch, Input, Source};
use super::store::{self, ShardStore, Store, Ticket};
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
    /// Alluvium's checkpoints and savepoints.
    pub(crate) checkpoints: PathBuf,
    /// What the job says.
    pub(crate) results: PathBuf,
}

impl Directories {
    pub(crate) fn below(dir: &Path) -> Self {
        Self {
            state: dir.join("state"),
            checkpoints: dir.join("checkpoints"),
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
    std::fs::create_dir_all(&directories.results).map_err(|e| {
        Error::io("cannot create a directory of the job", e)
            .at(directories.results.display())
            .remedy("check the directory given with --dir and its permissions")
    })?;
    let job = JobIdentity {
        input: InputIdentity::of_file(&options.input)?,
        repeat: options.repeat,
        spread: options.spread,
        rules: options.rules,
    };
    let mut checkpoints = store::coordinator(&directories.checkpoints, options.interval_ms)?;
    let restored = restore(&mut checkpoints, options, &job)?;

    let store = Store::open(&directories.state, &checkpoints, MAX_PARALLELISM)?;
    let next_id = SnapshotId(restored.as_ref().map_or(1, |(from, _)| from.id.0 + 1));
    results::discard_after(&directories.results, SnapshotId(next_id.0 - 1))?;
    let shards = open_shards(&store, options, &directories, restored.as_ref(), next_id)?;
    let start = restored.as_ref().map_or(Position::default(), |(_, data)| data.position);
    Event::Started {
        shards: options.shards,
        offset: start.offset,
        restored: restored.as_ref().map(|(from, _)| Restored {
            checkpoint: from.id.0,
            savepoint: coordinator::name_of(&from.kind),
            from_shards: from.shards.len() as u32,
            restore_us: began.elapsed().as_micros() as u64,
        }),
    }
    .send()?;

    let (mut shards, last) = process(options, &directories, job, checkpoints, shards, start)?;

    let mut right = true;
    for verdict in verify::against_plain_computation(options, &directories, last, &mut shards)? {
        right &= verdict.is_right();
        Event::Verified(verdict).send()?;
    }
    Ok(right)
}

/// What the job goes on from, and what it kept with that; nothing if it begins.
fn restore(
    checkpoints: &mut Coordinator,
    options: &JobOptions,
    job: &JobIdentity,
) -> Result<Option<(Checkpoint, JobData)>> {
    let from = match &options.rollback_to {
        Some(name) => RestoreFrom::Savepoint(name.clone()),
        None if options.restore => RestoreFrom::Latest,
        None => return Ok(None),
    };
    let restored = checkpoints.restore(&from, ClaimMode::NoClaim)?.ok_or_else(|| {
        Error::invalid("there is no completed checkpoint to restart from")
            .at(options.dir.display())
            .remedy("start the job anew")
    })?;
    let at = format!("{from} in {}", options.dir.display());
    let data = JobData::from_bytes(&restored.runtime).map_err(|error| error.at(&at))?;
    if data.job != *job {
        return Err(Error::incompatible(
            "the checkpoint was taken over another input, or by other rules",
        )
        .at(at)
        .expected(format_args!("{:?}", data.job))
        .found(format_args!("{job:?}"))
        .remedy("continue with the same --input and the same options"));
    }
    Ok(Some((restored, data)))
}

/// Opens every shard: empty, or with its part of the restored state.
fn open_shards(
    store: &Store,
    options: &JobOptions,
    directories: &Directories,
    restored: Option<&(Checkpoint, JobData)>,
    next_id: SnapshotId,
) -> Result<Vec<ShardStore>> {
    let snapshots = match restored {
        Some((checkpoint, data)) => store.snapshots_of(checkpoint, data.position)?,
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

/// Reads the input from `start` to its end and gives the shards back, and the number of
/// the last checkpoint.
fn process(
    options: &JobOptions,
    directories: &Directories,
    job: JobIdentity,
    mut checkpoints: Coordinator,
    shards: Vec<ShardStore>,
    start: Position,
) -> Result<(Vec<ShardStore>, SnapshotId)> {
    let began = Instant::now();
    let offset = AtomicU64::new(start.offset);
    let (reports, reports_of_all) = unbounded();
    let (triggers, triggers_of_source) = bounded(1);
    let (senders, receivers): (Vec<_>, Vec<_>) =
        shards.iter().map(|_| bounded::<Message>(CHANNEL_BATCHES)).unzip();

    let participants =
        Participant::of_operator(store::SHARD_OPERATOR, MAX_PARALLELISM, options.shards)?;
    checkpoints.start(participants.clone())?;

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

        let mut coordination = Coordination {
            options,
            directories,
            job,
            began,
            checkpoints,
            shards: participants,
            triggers,
            reports: reports_of_all,
            workers: senders,
            offset: &offset,
            input_ended: false,
            last: None,
            savepoint_taken: false,
        };
        let (done, until_done) = bounded::<()>(0);
        let coordinator = spawn(scope, "coordinator".into(), move || {
            let _done = done;
            coordination.run()?;
            coordination.last.ok_or_else(|| panicked("coordinator"))
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
        let last = coordinated?;
        read.ok_or_else(|| panicked("source"))?;
        Ok((shards.ok_or_else(|| panicked("worker"))?, last))
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
        mode: SnapshotMode,
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
            Message::Barrier { mode, id, position } => {
                let (ticket, part) = shard.snapshot(mode, id, position)?;
                reports.send(Report::Frozen { shard: index, id, position, ticket, part })?;
            }
            Message::Completed(id) => shard.notify_complete(id),
            Message::Aborted(id) => shard.notify_aborted(id),
        }
    }
    Ok(shard)
}
