//! The coordinator: makes checkpoints of the whole job out of snapshots of its
//! shards and parts of its results.

use std::time::{Duration, Instant};

use alluvium::base::{Error, Result, SnapshotId};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::checkpoint_file::{self, CompletedCheckpoint, Costs, JobIdentity, Position};
use super::cli::JobOptions;
use super::event::{CheckpointLine, Event};
use super::job::{Directories, MAX_PARALLELISM, Message, Report, panicked};
use super::results::{self, Part};
use super::store::Ticket;

/// Completed checkpoints that are kept.
const RETAINED_CHECKPOINTS: u64 = 2;

/// Checkpoints that may fail one after the other before the job does.
const TOLERATED_FAILURES: u32 = 3;

/// Makes checkpoints out of snapshots.
pub(crate) struct Coordinator<'a> {
    pub(crate) options: &'a JobOptions,
    pub(crate) directories: &'a Directories,
    pub(crate) job: JobIdentity,
    pub(crate) began: Instant,
    pub(crate) next_id: SnapshotId,
    pub(crate) triggers: Sender<SnapshotId>,
    pub(crate) reports: Receiver<Report>,
    pub(crate) workers: Vec<Sender<Message>>,
    pub(crate) input_ended: bool,
    /// Failed checkpoints since the last one that completed.
    pub(crate) failures: u32,
}

impl Coordinator<'_> {
    pub(crate) fn run(&mut self) -> Result<()> {
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

        let Collected { position, tickets, parts } = self.collect(id)?;
        if is_last {
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
            checkpoint.publish(&self.directories.completed)?;
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
                Ok(Report::Frozen { id: of, .. }) => return Err(unasked_snapshot(of)),
                Ok(Report::InputEnded) => self.input_ended = true,
                Ok(Report::Failed(error)) => return Err(error),
                Err(_) => return Err(panicked("worker")),
            }
        }
        let tickets = tickets.into_iter().flatten().collect();
        Ok(Collected { position: barrier_at, tickets, parts })
    }

    fn complete(&mut self, checkpoint: &CompletedCheckpoint, duration_ns: u64) -> Result<()> {
        self.failures = 0;
        // Their records only: Alluvium never deletes a snapshot that it has
        // handed out, and this job does not either.
        let first_kept = checkpoint.id.0.saturating_sub(RETAINED_CHECKPOINTS - 1);
        checkpoint_file::forget_before(&self.directories.completed, SnapshotId(first_kept))?;
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

/// What the workers hand over at a barrier.
struct Collected {
    position: Position,
    tickets: Vec<Ticket>,
    parts: Vec<Part>,
}

fn unasked_snapshot(id: SnapshotId) -> Error {
    Error::internal("a worker took a snapshot that nobody is waiting for")
        .found(format_args!("snapshot {id}"))
        .remedy("please report it")
}
