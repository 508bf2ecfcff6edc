//! The job's coordinating thread: carries Alluvium's barriers to the source, and what
//! the shards say back to Alluvium's [`Coordinator`], which decides when a checkpoint is
//! complete.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alluvium::coordinator::{Barrier, Coordinator, Event as Told, Participant};
use alluvium::format::{CheckpointKind, ShardAck};
use alluvium::{Error, Result, SnapshotId, SnapshotMode};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::cli::JobOptions;
use super::event::{CheckpointLine, Event};
use super::job::{Directories, Message, Report, panicked};
use super::job_data::{JobData, JobIdentity, Position};
use super::results::{self, Part};
use super::store::{self, Ticket};

/// How often Alluvium's coordinator is asked whether something is due.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Carries messages between the job and the coordinator of its checkpoints.
pub(crate) struct Coordination<'a> {
    pub(crate) options: &'a JobOptions,
    pub(crate) directories: &'a Directories,
    pub(crate) job: JobIdentity,
    pub(crate) began: Instant,
    pub(crate) checkpoints: Coordinator,
    pub(crate) shards: Vec<Participant>,
    pub(crate) triggers: Sender<(SnapshotMode, SnapshotId)>,
    pub(crate) reports: Receiver<Report>,
    pub(crate) workers: Vec<Sender<Message>>,
    /// Records that the source has read.
    pub(crate) offset: &'a AtomicU64,
    pub(crate) input_ended: bool,
    /// The checkpoint with which the job ends.
    pub(crate) last: Option<SnapshotId>,
    pub(crate) savepoint_taken: bool,
}

impl Coordination<'_> {
    pub(crate) fn run(&mut self) -> Result<()> {
        loop {
            self.begin_what_is_due()?;
            self.checkpoints.poll()?;
            while let Some(told) = self.checkpoints.next_event() {
                if self.do_what_is_told(told)? {
                    return Ok(());
                }
            }
            match self.reports.recv_timeout(POLL_INTERVAL) {
                Ok(report) => self.hear(report)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(panicked("source")),
            }
        }
    }

    /// Begins the savepoint that was asked for, and the last checkpoint when the input
    /// has ended; Alluvium begins all others.
    fn begin_what_is_due(&mut self) -> Result<()> {
        if let Some(at) = self.options.savepoint_at_record
            && !self.savepoint_taken
            && self.offset.load(Ordering::Relaxed) >= at
        {
            self.checkpoints.savepoint(store::SAVEPOINT)?;
            self.savepoint_taken = true;
        }
        let is_over = self.input_ended && !self.options.await_kill;
        if is_over && self.last.is_none() && self.checkpoints.under_way().next().is_none() {
            self.last = Some(self.checkpoints.trigger()?);
        }
        Ok(())
    }

    /// True if the job is at its end.
    fn do_what_is_told(&mut self, told: Told) -> Result<bool> {
        match told {
            Told::Trigger(barrier) => self.answer(&barrier)?,
            Told::Completed(id) => {
                self.tell_workers(|| Message::Completed(id));
                self.report(id)?;
                return Ok(self.last == Some(id));
            }
            Told::SavepointCompleted { id, .. } => self.report(id)?,
            Told::Aborted { id, reason } => {
                self.tell_workers(|| Message::Aborted(id));
                if self.last == Some(id) {
                    return Err(Error::unavailable("the last checkpoint came to nothing")
                        .found(reason)
                        .remedy("start the job again from the checkpoint before"));
                }
                Event::Aborted { id: id.0, reason }.send()?;
            }
            Told::TooManyFailures(failures) => {
                return Err(Error::unavailable("checkpoints fail one after the other")
                    .found(format_args!("{failures} in a row"))
                    .remedy("see the reasons above; then start the job again"));
            }
            // The job asks for nothing else.
            _ => {}
        }
        Ok(false)
    }

    /// Sends a barrier through the job, and what comes of it to Alluvium.
    fn answer(&mut self, barrier: &Barrier) -> Result<()> {
        let id = barrier.id;
        // If the source has gone, its report says why.
        let _ = self.triggers.send((barrier.mode, id));
        let Collected { position, tickets, parts } = self.collect(id)?;
        if self.last == Some(id) {
            Event::Applied {
                offset: position.offset,
                elapsed_us: self.began.elapsed().as_micros() as u64,
            }
            .send()?;
        }
        // While the snapshots are written. A failure of this kind ends the job:
        // what the parts hold is not known then, and only a restart from the
        // last checkpoint writes them anew.
        results::make_durable(&self.directories.results, parts)?;

        let data = JobData { job: self.job, position };
        self.checkpoints.set_runtime_data(id, data.to_bytes())?;
        // Every ticket is waited for, even after one has failed: a snapshot
        // must not be under way any more when its checkpoint is given up.
        let reports: Vec<_> = tickets.into_iter().map(Ticket::wait).collect();
        for (report, shard) in reports.into_iter().zip(&self.shards) {
            match report {
                Ok(report) => {
                    self.checkpoints.acknowledge(ShardAck::of(barrier.epoch, &report))?;
                }
                Err(error) if error.is_retryable() => {
                    self.checkpoints.decline(id, shard, &error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A ticket from each worker, in the order of the shards, and the parts that
    /// came with them.
    fn collect(&mut self, id: SnapshotId) -> Result<Collected> {
        let mut tickets: Vec<Option<Ticket>> = self.workers.iter().map(|_| None).collect();
        let mut parts = Vec::new();
        let mut barrier_at = Position::default();
        while tickets.iter().any(Option::is_none) {
            match self.reports.recv() {
                Ok(Report::Frozen { shard, id: of, position, ticket, part }) if of == id => {
                    tickets[shard] = Some(ticket);
                    parts.extend(part);
                    barrier_at = position;
                }
                Ok(report) => self.hear(report)?,
                Err(_) => return Err(panicked("worker")),
            }
        }
        let tickets = tickets.into_iter().flatten().collect();
        Ok(Collected { position: barrier_at, tickets, parts })
    }

    fn hear(&mut self, report: Report) -> Result<()> {
        match report {
            Report::InputEnded => self.input_ended = true,
            Report::Failed(error) => return Err(error),
            Report::Frozen { id, .. } => {
                return Err(Error::internal("a worker took a snapshot that nobody is waiting for")
                    .found(format_args!("snapshot {id}"))
                    .remedy("please report it"));
            }
        }
        Ok(())
    }

    /// Tells the supervisor of a completed checkpoint, from what Alluvium has recorded.
    fn report(&self, id: SnapshotId) -> Result<()> {
        let line = CheckpointLine::read(&self.checkpoints.view(), id)?;
        line.map_or(Ok(()), |line| Event::Checkpoint(line).send())
    }

    fn tell_workers(&self, message: impl Fn() -> Message) {
        for worker in &self.workers {
            // A worker that has gone has reported why, and we shall read it.
            let _ = worker.send(message());
        }
    }
}

/// What the workers hand over at a barrier.
struct Collected {
    position: Position,
    tickets: Vec<Ticket>,
    parts: Vec<Part>,
}

/// The name of a savepoint; empty for a checkpoint.
pub(crate) fn name_of(kind: &CheckpointKind) -> String {
    match kind {
        CheckpointKind::Checkpoint => String::new(),
        CheckpointKind::Savepoint(name) => name.clone(),
    }
}
