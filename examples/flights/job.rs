//! The job: what a runtime does around a state backend, in small.
//!
//! 1. The *source* reads records and routes each one three times, by its
//!    aircraft, its route, and its carrier and day: key, then key group, then
//!    the shard that owns the group. Updates travel in batches through one
//!    bounded channel per shard; a full channel holds the source back.
//! 2. A *worker* per shard applies them. It alone touches its shard.
//! 3. The *coordinator* begins a checkpoint by asking the source for barriers.
//!    The source sends what it has batched, then the barrier, to every worker,
//!    and reads on. The barrier carries the position in the input.
//! 4. A worker that meets the barrier freezes its shard, hands the ticket to
//!    the coordinator and goes on at once.
//! 5. The coordinator waits until every shard's snapshot is durable, records
//!    the checkpoint as completed (see `checkpoint_file`), and only then tells
//!    the workers, through the same channels.
//!
//! There is one source, so a worker has one input and its barriers need no
//! aligning. There is at most one checkpoint under way.
//!
//! A thread that fails says so to the coordinator, which then ends; the other
//! threads follow because their channels close.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alluvium::base::{Error, MaxParallelism, Result, SnapshotId};
use crossbeam::channel::{
    Receiver, RecvTimeoutError, SendError, Sender, TryRecvError, bounded, unbounded,
};

use super::checkpoint_file::{self, CompletedCheckpoint, Costs, JobIdentity, Position};
use super::cli::JobOptions;
use super::event::{CheckpointLine, Event, Restored};
use super::input::{Flight, FlightReader, InputIdentity, Outcome};
use super::store::{self, Operator, ShardStore, Store, Ticket};
use super::verify;

/// Key groups of the job.
pub(crate) const MAX_PARALLELISM: MaxParallelism = MaxParallelism::DEFAULT;

/// Updates that travel together. Larger: cheaper sending, longer waits at a
/// barrier.
const BATCH_UPDATES: usize = 1024;

/// Batches that may lie in front of a worker before the source has to wait.
const CHANNEL_BATCHES: usize = 16;

/// Records between two looks of the source at what the coordinator wants.
const RECORDS_PER_LOOK: u64 = 64;

const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);

/// Completed checkpoints that are kept.
const RETAINED_CHECKPOINTS: u64 = 2;

/// Checkpoints that may fail one after the other before the job does.
const TOLERATED_FAILURES: u32 = 3;

/// Where the job keeps what, below the directory given to it.
pub(crate) struct Directories {
    /// Alluvium's working files.
    pub(crate) state: PathBuf,
    /// Alluvium's snapshots.
    pub(crate) snapshots: PathBuf,
    /// The job's records of completed checkpoints.
    pub(crate) completed: PathBuf,
}

impl Directories {
    pub(crate) fn below(dir: &Path) -> Self {
        Self {
            state: dir.join("state"),
            snapshots: dir.join("snapshots"),
            completed: dir.join("completed"),
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
    std::fs::create_dir_all(&directories.completed).map_err(|e| {
        Error::io("cannot create the directory for completed checkpoints", e)
            .at(directories.completed.display())
            .remedy("check the directory given with --dir and its permissions")
    })?;
    let job = JobIdentity {
        input: InputIdentity::of_file(&options.input)?,
        repeat: options.repeat,
        spread: options.spread,
    };
    let latest = match options.restore {
        true => Some(checkpoint_to_restore(&directories.completed, &job)?),
        false => None,
    };

    let store = Store::open(&directories.state, &directories.snapshots, MAX_PARALLELISM)?;
    let shards = open_shards(&store, options.shards, latest.as_ref())?;
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

    let next_id = SnapshotId(latest.as_ref().map_or(1, |latest| latest.id.0 + 1));
    let mut shards = process(options, &directories, job, shards, start, next_id)?;

    let mut right = true;
    for verdict in verify::against_single_pass(options, &mut shards)? {
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
        return Err(Error::incompatible("the checkpoint was taken over another input")
            .at(completed.display())
            .expected(format_args!("{:?}", latest.job))
            .found(format_args!("{job:?}"))
            .remedy("continue with the same --input, --repeat and --spread"));
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
    count: u32,
    restored: Option<&CompletedCheckpoint>,
) -> Result<Vec<ShardStore>> {
    let snapshots = match restored {
        Some(checkpoint) => store.snapshots_of(checkpoint)?,
        None => Vec::new(),
    };
    (0..count)
        .map(|index| store.shard(MAX_PARALLELISM.range_of_subtask(index, count)?, &snapshots))
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

        let mut source = Source {
            options,
            position: start,
            workers: senders.clone(),
            batches: senders.iter().map(|_| Batch::new()).collect(),
            triggers: triggers_of_source,
            offset: &offset,
            suffix: String::new(),
            key: String::new(),
        };
        let reports = Reports(reports);
        let source =
            spawn(scope, "source".into(), move || reports.of(|reports| source.run(reports)))?;

        let mut coordinator = Coordinator {
            options,
            completed: &directories.completed,
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

fn panicked(thread: &str) -> Error {
    Error::internal(format_args!("the {thread} thread ended unexpectedly"))
        .remedy("see its message above, and report it")
}

/// What flows to a worker.
enum Message {
    Updates(Batch),
    /// Everything before it belongs to the checkpoint, nothing after it does.
    Barrier {
        id: SnapshotId,
        position: Position,
    },
    Completed(SnapshotId),
    Aborted(SnapshotId),
}

/// Updates for one shard. The keys lie one after the other in `keys`.
struct Batch {
    keys: String,
    updates: Vec<Update>,
}

struct Update {
    operator: Operator,
    key_bytes: u8,
    outcome: Outcome,
}

impl Batch {
    fn new() -> Self {
        Self {
            keys: String::with_capacity(BATCH_UPDATES * 16),
            updates: Vec::with_capacity(BATCH_UPDATES),
        }
    }
}

/// What the coordinator hears.
enum Report {
    InputEnded,
    Frozen { shard: usize, id: SnapshotId, position: Position, ticket: Ticket },
    Failed(Error),
}

/// Why a thread stops early.
enum Halt {
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
            Message::Updates(batch) => {
                let mut keys = batch.keys.as_str();
                for update in &batch.updates {
                    let (key, rest) = keys.split_at(usize::from(update.key_bytes));
                    keys = rest;
                    shard.update(update.operator, key, &update.outcome)?;
                }
            }
            Message::Barrier { id, position } => {
                let ticket = shard.snapshot(id, position)?;
                reports.send(Report::Frozen { shard: index, id, position, ticket })?;
            }
            Message::Completed(id) => shard.notify_complete(id),
            Message::Aborted(id) => shard.notify_aborted(id),
        }
    }
    Ok(shard)
}

/// Reads and routes.
struct Source<'a> {
    options: &'a JobOptions,
    position: Position,
    workers: Vec<Sender<Message>>,
    /// What is to be sent to each worker next.
    batches: Vec<Batch>,
    triggers: Receiver<SnapshotId>,
    /// `position.offset`, for everybody to see.
    offset: &'a AtomicU64,
    /// Ends every key of this repetition.
    suffix: String,
    key: String,
}

impl Source<'_> {
    fn run(&mut self, reports: &Sender<Report>) -> Result<(), Halt> {
        let start = self.position;
        for repetition in start.repetition..self.options.repeat {
            let mut reader = FlightReader::open(&self.options.input)?;
            self.position.repetition = repetition;
            self.position.record = 0;
            if repetition == start.repetition {
                reader.skip(start.record)?;
                self.position.record = start.record;
            }
            self.suffix = repetition_suffix(self.options.spread, repetition);
            while let Some(flight) = reader.next()? {
                self.route(&flight)?;
                self.position.offset += 1;
                self.position.record += 1;
                if self.position.offset.is_multiple_of(RECORDS_PER_LOOK) {
                    self.look_at_triggers()?;
                }
            }
        }
        self.flush()?;
        reports.send(Report::InputEnded)?;
        // An input at rest still gets its checkpoints, until nobody asks.
        while let Ok(id) = self.triggers.recv() {
            self.send_barrier(id)?;
        }
        Ok(())
    }

    fn look_at_triggers(&mut self) -> Result<(), Halt> {
        self.offset.store(self.position.offset, Ordering::Relaxed);
        match self.triggers.try_recv() {
            Ok(id) => self.send_barrier(id),
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => Err(Halt::Stopped),
        }
    }

    fn send_barrier(&mut self, id: SnapshotId) -> Result<(), Halt> {
        self.flush()?;
        for worker in &self.workers {
            worker.send(Message::Barrier { id, position: self.position })?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Halt> {
        self.offset.store(self.position.offset, Ordering::Relaxed);
        for (worker, batch) in self.workers.iter().zip(&mut self.batches) {
            if !batch.updates.is_empty() {
                worker.send(Message::Updates(std::mem::replace(batch, Batch::new())))?;
            }
        }
        Ok(())
    }

    fn route(&mut self, flight: &Flight) -> Result<(), Halt> {
        for operator in Operator::ALL {
            self.key.clear();
            write_key(operator, flight, &mut self.key);
            self.key.push_str(&self.suffix);
            let index = shard_of_key(&self.key, self.workers.len() as u32);
            let batch = &mut self.batches[index];
            batch.keys.push_str(&self.key);
            batch.updates.push(Update {
                operator,
                key_bytes: self.key.len() as u8,
                outcome: flight.outcome,
            });
            if batch.updates.len() == BATCH_UPDATES {
                let batch = std::mem::replace(batch, Batch::new());
                self.workers[index].send(Message::Updates(batch))?;
            }
        }
        Ok(())
    }
}

/// Which of `shards` owns the key.
pub(crate) fn shard_of_key(key: &str, shards: u32) -> usize {
    let group = store::group_of_key(key, MAX_PARALLELISM);
    MAX_PARALLELISM.subtask_of_group(group, shards) as usize
}

/// What distinguishes the keys of one repetition from those of another.
pub(crate) fn repetition_suffix(spread: bool, repetition: u32) -> String {
    if spread { format!("#{repetition}") } else { String::new() }
}

/// `N14228`, `EWR-IAH`, or `UA 2013-01-01`. At most 23 bytes before the
/// suffix of the repetition, so that a length fits one byte.
fn write_key(operator: Operator, flight: &Flight, key: &mut String) {
    let mut push = |bytes: &[u8]| key.extend(bytes.iter().map(|&byte| char::from(byte)));
    match operator {
        Operator::Aircraft => match &flight.tailnum {
            Some(tailnum) => push(tailnum.as_bytes()),
            None => push(b"(none)"),
        },
        Operator::Route => {
            push(flight.origin.as_bytes());
            push(b"-");
            push(flight.dest.as_bytes());
        }
        Operator::CarrierDay => {
            let date = &flight.date;
            let digit = |number: u16| b'0' + (number % 10) as u8;
            let (year, month, day) = (date.year, u16::from(date.month), u16::from(date.day));
            push(flight.carrier.as_bytes());
            push(&[
                b' ',
                digit(year / 1000),
                digit(year / 100),
                digit(year / 10),
                digit(year),
                b'-',
                digit(month / 10),
                digit(month),
                b'-',
                digit(day / 10),
                digit(day),
            ]);
        }
    }
}

/// Makes checkpoints out of snapshots.
struct Coordinator<'a> {
    options: &'a JobOptions,
    completed: &'a Path,
    job: JobIdentity,
    began: Instant,
    next_id: SnapshotId,
    triggers: Sender<SnapshotId>,
    reports: Receiver<Report>,
    workers: Vec<Sender<Message>>,
    input_ended: bool,
    /// Failed checkpoints since the last one that completed.
    failures: u32,
}

impl Coordinator<'_> {
    fn run(&mut self) -> Result<()> {
        let interval = Duration::from_millis(self.options.interval_ms);
        let mut next = Instant::now() + interval;
        loop {
            let is_last = self.wait_until(next)?;
            next = Instant::now() + interval;
            self.checkpoint(is_last)?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Waits for the time of the next checkpoint; true if it is the last,
    /// because the input has ended.
    fn wait_until(&mut self, time: Instant) -> Result<bool> {
        loop {
            if self.input_ended && !self.options.await_kill {
                return Ok(true);
            }
            match self.reports.recv_deadline(time) {
                Ok(Report::InputEnded) => self.input_ended = true,
                Ok(Report::Failed(error)) => return Err(error),
                Ok(Report::Frozen { id, .. }) => return Err(unasked_snapshot(id)),
                Err(RecvTimeoutError::Timeout) => return Ok(false),
                Err(RecvTimeoutError::Disconnected) => return Err(panicked("source")),
            }
        }
    }

    fn checkpoint(&mut self, is_last: bool) -> Result<()> {
        let id = self.next_id;
        self.next_id = SnapshotId(id.0 + 1);
        let triggered = Instant::now();
        // If the source has gone, its report says why.
        let _ = self.triggers.send(id);

        let (position, tickets) = self.collect_tickets(id)?;
        if is_last {
            Event::Applied {
                offset: position.offset,
                elapsed_us: self.began.elapsed().as_micros() as u64,
            }
            .send()?;
        }

        // Every ticket is waited for, even after one has failed: a snapshot
        // must not be under way any more when its checkpoint is aborted.
        let snapshots: Vec<_> = tickets.into_iter().map(Ticket::wait).collect();
        let snapshots: Result<Vec<_>> = snapshots.into_iter().collect();
        let completed = snapshots.and_then(|shards| {
            let checkpoint = CompletedCheckpoint {
                id,
                max_parallelism: MAX_PARALLELISM.get(),
                job: self.job,
                position,
                shards,
            };
            checkpoint.publish(self.completed)?;
            Ok(checkpoint)
        });
        match completed {
            Ok(checkpoint) => {
                let duration_ns = triggered.elapsed().as_nanos() as u64;
                self.complete(&checkpoint, duration_ns)
            }
            Err(error) => self.abort(id, error, is_last),
        }
    }

    /// One ticket from each worker, in the order of the shards.
    fn collect_tickets(&mut self, id: SnapshotId) -> Result<(Position, Vec<Ticket>)> {
        let mut tickets: Vec<Option<Ticket>> = self.workers.iter().map(|_| None).collect();
        let mut barrier_at = Position::default();
        while tickets.iter().any(Option::is_none) {
            match self.reports.recv() {
                Ok(Report::Frozen { shard, id: of, position, ticket }) if of == id => {
                    tickets[shard] = Some(ticket);
                    barrier_at = position;
                }
                Ok(Report::Frozen { id: of, .. }) => return Err(unasked_snapshot(of)),
                Ok(Report::InputEnded) => self.input_ended = true,
                Ok(Report::Failed(error)) => return Err(error),
                Err(_) => return Err(panicked("worker")),
            }
        }
        Ok((barrier_at, tickets.into_iter().flatten().collect()))
    }

    fn complete(&mut self, checkpoint: &CompletedCheckpoint, duration_ns: u64) -> Result<()> {
        self.failures = 0;
        // Their records only: Alluvium never deletes a snapshot that it has
        // handed out, and this job does not either.
        let first_kept = checkpoint.id.0.saturating_sub(RETAINED_CHECKPOINTS - 1);
        checkpoint_file::forget_before(self.completed, SnapshotId(first_kept))?;
        self.tell_workers(|| Message::Completed(checkpoint.id));
        let costs = Costs { duration_ns, ..Costs::of_all(&checkpoint.shards) };
        Event::Checkpoint(CheckpointLine {
            id: checkpoint.id.0,
            shards: checkpoint.shards.len() as u32,
            offset: checkpoint.position.offset,
            costs,
        })
        .send()
    }

    fn abort(&mut self, id: SnapshotId, error: Error, is_last: bool) -> Result<()> {
        self.failures += 1;
        if is_last || !error.is_retryable() || self.failures > TOLERATED_FAILURES {
            return Err(error);
        }
        self.tell_workers(|| Message::Aborted(id));
        Event::Aborted { id: id.0, reason: error.to_string() }.send()
    }

    fn tell_workers(&self, message: impl Fn() -> Message) {
        for worker in &self.workers {
            // A worker that has gone has reported why, and we shall read it.
            let _ = worker.send(message());
        }
    }
}

fn unasked_snapshot(id: SnapshotId) -> Error {
    Error::internal("a worker took a snapshot that nobody is waiting for")
        .found(format_args!("snapshot {id}"))
        .remedy("please report it")
}
