//! The job: one process of it, with its workers.
//!
//! The connector runs the dataflow and takes its checkpoints. What is left to do here, in
//! the first process, is to choose where the job goes on, to ask for the savepoint, to
//! tell the supervisor how it goes, and to compare what has come of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use alluvium::coordinator::{JobView, RestoreFrom};
use alluvium::object::ObjectStore;
use alluvium::{Error, ErrorKind, Result, SnapshotId};
use alluvium_timely::{Job, JobEvent, JobHandle};
use timely::{CommunicationConfig, Config, WorkerConfig};
use xxhash_rust::xxh3::xxh3_64;

use super::cli::JobOptions;
use super::dataflow::{self, Plan};
use super::event::{CheckpointLine, Event, Restored};
use super::source::{Course, FlightSource};
use super::store::{self, Directories};
use super::survey::InputIdentity;
use super::verify;

const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);

/// Flights that the source may read past a barrier: the first worker reads and works, and
/// is not to run away from the others.
const LEAD_RECORDS: u64 = 20_000;

/// A number that is another one if the job is to read another input, or to do something
/// else with it: then it must not go on from a checkpoint.
pub(crate) fn fingerprint(options: &JobOptions, input: &InputIdentity) -> u64 {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&input.file_bytes.to_le_bytes());
    bytes.extend_from_slice(&input.hash.0.to_le_bytes());
    bytes.extend_from_slice(&options.repeat.to_le_bytes());
    bytes.push(u8::from(options.spread));
    bytes.extend_from_slice(&options.rules.to_bytes());
    xxh3_64(&bytes)
}

/// Runs the job and reports to the supervisor. True if every aggregate is
/// right.
pub(crate) fn run_as_child(options: &JobOptions) -> Result<bool> {
    if options.process > 0 {
        let course = Arc::new(Course::default());
        let source = FlightSource::new(options, course)?;
        return run_workers(new_job(options)?, options, source).map(|()| true);
    }
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

/// The first process.
fn run(options: &JobOptions) -> Result<bool> {
    let clock = Arc::new(Clock::new());
    let directories = Directories::below(&options.dir);
    let restored = restored(options, &directories)?;
    let (at_record, is_due) = channel();
    let is_held = options.await_kill || options.savepoint_at_record.is_some();
    let course = Arc::new(Course::new(options.savepoint_at_record, at_record, is_held));
    let source = FlightSource::new(options, Arc::clone(&course))?;
    let watermark = source.last_watermark();

    let telling = Telling {
        checkpoints: store::object_store(&directories.checkpoints)?,
        clock: Arc::clone(&clock),
        restored,
    };
    let job = new_job(options)?.observer(move |event| telling.hear(event));
    let handle = job.handle();
    let (over, until_over) = channel::<()>();
    let (ended, saved) = thread::scope(|scope| {
        let (course, clock) = (&*course, &*clock);
        let saving = scope.spawn(move || save(options, &handle, &is_due, course));
        scope.spawn(move || tell_progress(course, clock, &until_over));
        let ended = run_workers(job, options, source);
        course.close();
        drop(over);
        (ended, saving.join())
    });
    ended?;
    saved
        .unwrap_or_else(|_| Err(Error::internal("the thread that asks for savepoints panicked")))?;
    Event::Applied { offset: course.offset(), elapsed_us: clock.completed_us() }.send()?;

    let mut right = true;
    for verdict in verify::against_plain_computation(options, &directories, watermark)? {
        right &= verdict.is_right();
        Event::Verified(verdict).send()?;
    }
    Ok(right)
}

/// What to go on from; the beginning if there is nothing.
fn origin(options: &JobOptions) -> RestoreFrom {
    let savepoint = options.rollback_to.clone().map(RestoreFrom::Savepoint);
    savepoint.unwrap_or(RestoreFrom::Latest)
}

/// What the checkpoint says that the job goes on from; nothing if it begins.
fn restored(options: &JobOptions, directories: &Directories) -> Result<Option<CheckpointLine>> {
    if !options.restore && options.rollback_to.is_none() {
        return Ok(None);
    }
    let (_, checkpoint) = store::find(&directories.checkpoints, &origin(options))?;
    CheckpointLine::of(&checkpoint).map(Some)
}

/// The job, the same in every process.
fn new_job(options: &JobOptions) -> Result<Job> {
    let directories = Directories::below(&options.dir);
    let checkpoints = store::object_store(&directories.checkpoints)?;
    Ok(Job::new(store::JOB, checkpoints, directories.state)
        .settings(store::settings(options.interval_ms))
        .restore_from(origin(options))
        .lead_records(LEAD_RECORDS))
}

/// Runs this process's workers until the job is over.
fn run_workers(job: Job, options: &JobOptions, source: FlightSource) -> Result<()> {
    let threads = options.workers as usize;
    let communication = match options.addresses.is_empty() {
        true => CommunicationConfig::Process(threads),
        false => CommunicationConfig::Cluster {
            threads,
            process: options.process as usize,
            addresses: options.addresses.clone(),
            report: false,
            zerocopy: false,
        },
    };
    let (rules, spread) = (options.rules, options.spread);
    let results = Directories::below(&options.dir).results;
    let config = Config { communication, worker: WorkerConfig::default() };
    let ended = job.run(config, move |flow| {
        let source = source.clone();
        dataflow::build(flow, Plan { source, rules, spread, results: &results })
    });
    match ended {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Incompatible => {
            Err(error.remedy("continue with the same --input and rules, or start the job anew"))
        }
        Err(error) => Err(error),
    }
}

/// Takes the savepoint when it is due. Without it the job does not come to its end.
fn save(
    options: &JobOptions,
    handle: &JobHandle,
    is_due: &Receiver<()>,
    course: &Course,
) -> Result<()> {
    // Fails if the job has ended and none is wanted, or the job itself has failed.
    if is_due.recv().is_err() {
        return Ok(());
    }
    let mut tries = 0;
    let saved = loop {
        tries += 1;
        match handle.savepoint(store::SAVEPOINT) {
            Err(error) if error.is_retryable() && tries <= store::TOLERATED_FAILURES => {}
            saved => break saved,
        }
    };
    if saved.is_err() || !options.await_kill {
        course.release();
    }
    saved.map(|_| ())
}

/// How long the job has been running.
pub(crate) struct Clock {
    began: Instant,
    /// When all workers ran; 0 before that.
    started_us: AtomicU64,
    /// When the latest checkpoint was complete.
    completed_us: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        let (began, zero) = (Instant::now(), || AtomicU64::new(0));
        Self { began, started_us: zero(), completed_us: zero() }
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// How long all workers have been running, if they do.
    fn running_us(&self) -> Option<u64> {
        match self.started_us.load(Ordering::Relaxed) {
            0 => None,
            started => Some(self.now_us().saturating_sub(started)),
        }
    }

    /// From when all workers ran until the latest checkpoint was complete.
    fn completed_us(&self) -> u64 {
        let started = self.started_us.load(Ordering::Relaxed);
        self.completed_us.load(Ordering::Relaxed).saturating_sub(started)
    }
}

/// Tells the supervisor what happens to the job.
struct Telling {
    checkpoints: Arc<dyn ObjectStore>,
    clock: Arc<Clock>,
    restored: Option<CheckpointLine>,
}

impl Telling {
    fn hear(&self, event: &JobEvent) {
        match event {
            JobEvent::Started { workers, .. } => {
                let now = self.clock.now_us();
                let restored = self.restored.as_ref();
                tell(&Event::Started {
                    workers: *workers,
                    offset: restored.map_or(0, |from| from.offset),
                    restored: restored.map(|from| Restored {
                        checkpoint: from.id,
                        savepoint: from.savepoint.clone(),
                        from_workers: from.workers,
                        restore_us: now,
                    }),
                });
                // From now on progress is told.
                self.clock.started_us.store(now, Ordering::Relaxed);
            }
            JobEvent::Completed(id) => {
                self.clock.completed_us.store(self.clock.now_us(), Ordering::Relaxed);
                self.tell_costs(*id);
            }
            JobEvent::Savepoint { id, .. } => self.tell_costs(*id),
            JobEvent::Aborted { id, reason } => {
                tell(&Event::Aborted { id: id.0, reason: reason.clone() });
            }
            // Of no interest here.
            _ => {}
        }
    }

    /// What Alluvium has recorded of a checkpoint that is complete.
    fn tell_costs(&self, id: SnapshotId) {
        let view = JobView::open(Arc::clone(&self.checkpoints), store::JOB);
        let line = view.and_then(|view| match view {
            Some(view) => CheckpointLine::read(&view, id),
            None => Ok(None),
        });
        match line {
            Ok(Some(line)) => tell(&Event::Checkpoint(line)),
            // It has gone again.
            Ok(None) => {}
            Err(error) => eprintln!("checkpoint {id} is complete, and cannot be read: {error}"),
        }
    }
}

/// Tells the supervisor something. If nobody listens any more, nobody wants the job.
fn tell(event: &Event) {
    if let Err(error) = event.send() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// Tells the supervisor how far the source has come, until the job is over.
fn tell_progress(course: &Course, clock: &Clock, until_over: &Receiver<()>) {
    while until_over.recv_timeout(PROGRESS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        if let Some(elapsed_us) = clock.running_us() {
            tell(&Event::Progress { offset: course.offset(), elapsed_us });
        }
    }
}
