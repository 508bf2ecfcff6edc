//! One parallel subtask of the operator: a shard, a thread, and its part of the sink.
//!
//! It has one inbox for all its inputs. What comes of an input whose barrier was there
//! waits until those of all inputs were.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use alluvium::coordinator::Barrier;
use alluvium::format::ShardAck;
use alluvium::{Error, KeyedStore, Result, Shard, SnapshotId, SnapshotTicket};
use alluvium_conformance::{Place, Probe, Record, Tally};

use crate::master::Position;
use crate::mutation::Mutation;
use crate::outside::Outside;

/// How often tickets are looked at.
const LOOK: Duration = Duration::from_millis(1);

/// What comes to a subtask: by number the input that it belongs to.
pub(crate) type Mail = (usize, Message);

/// What comes of one input, in the order in which it has to be worked on; and what becomes of
/// checkpoints.
pub(crate) enum Message {
    Record(Record),
    /// Nothing of this time or an earlier one comes any more.
    Watermark(i64),
    Barrier(Barrier),
    Complete(SnapshotId),
    Aborted(SnapshotId),
}

/// What a subtask says.
pub(crate) enum Report {
    /// Its part of a checkpoint: the snapshot, and the transactions that it has prepared.
    Snapshot { id: SnapshotId, worker: usize, outcome: Box<Result<(ShardAck, Vec<String>)>> },
    /// Where the second input was at a barrier.
    Positions { id: SnapshotId, splits: Vec<Position> },
    /// It has ended.
    Failed(Error),
}

/// Where a subtask is with its inputs.
pub(crate) struct Inputs {
    /// Up to where the time of each has come.
    times: Vec<i64>,
    /// Up to where that of the operator has.
    now: i64,
    /// Whose barrier has come.
    is_blocked: Vec<bool>,
    waiting: VecDeque<Mail>,
    /// Of a runtime that does not wait for the second, the last barrier that was the first.
    passed: Option<SnapshotId>,
}

impl Inputs {
    pub(crate) fn new(count: usize) -> Self {
        let (times, is_blocked) = (vec![i64::MIN; count], vec![false; count]);
        Self { times, now: i64::MIN, is_blocked, waiting: VecDeque::new(), passed: None }
    }
}

pub(crate) struct Subtask {
    pub(crate) worker: usize,
    pub(crate) life: u64,
    pub(crate) shard: Shard,
    pub(crate) tally: Tally,
    pub(crate) inbox: Receiver<Mail>,
    pub(crate) inputs: Inputs,
    pub(crate) place: Place,
    pub(crate) probe: Probe,
    pub(crate) reports: Sender<Report>,
    pub(crate) outside: Arc<Outside>,
    pub(crate) is_killed: Arc<AtomicBool>,
    /// Its process alone has died.
    pub(crate) is_dead: Arc<AtomicBool>,
    pub(crate) is_restored: bool,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) sink: SinkPart,
    pub(crate) tickets: VecDeque<(Barrier, Vec<String>, SnapshotTicket)>,
}

/// What a subtask has written.
#[derive(Default)]
pub(crate) struct SinkPart {
    /// Since the last barrier.
    open: Vec<String>,
    /// In this life, each with the checkpoint before whose barrier it was written. All of
    /// them go into the metadata of every later one: enough for a small runtime.
    prepared: Vec<(SnapshotId, String)>,
    /// Of checkpoints that were given up.
    aborted: Vec<SnapshotId>,
}

impl Subtask {
    pub(crate) fn run(mut self) {
        loop {
            let message = self.inbox.recv_timeout(LOOK);
            // One that commits when it should not does so before it dies.
            let dies = self.mutation != Some(Mutation::CommitsWhenFenced);
            if dies && self.is_killed.load(Ordering::SeqCst) {
                return;
            }
            if self.is_dead.load(Ordering::SeqCst) {
                if self.mutation != Some(Mutation::RespawnsEmpty) {
                    return;
                }
                self.is_dead = Arc::default();
                self.forget_all();
            }
            let worked = match message {
                Ok((input, message)) => self.take(input, message),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(error) = worked {
                let _ = self.reports.send(Report::Failed(error));
                return;
            }
            self.follow();
        }
    }

    /// A process without a memory.
    fn forget_all(&mut self) {
        for state in ["counts", "seen", "sums", "closed", "ends"] {
            self.shard.drop_state(state).expect("it is there");
        }
        let tally = Tally::open(&mut self.shard, self.place, self.probe.clone());
        self.tally = tally.expect("new states");
        self.sink.open.clear();
    }

    /// Works on a message, or lets it wait.
    fn take(&mut self, input: usize, message: Message) -> Result<()> {
        if let Message::Complete(_) | Message::Aborted(_) = message {
            return self.work(input, message);
        }
        let waits = self.mutation != Some(Mutation::DoesNotBlock);
        if waits && self.inputs.is_blocked[input] {
            self.inputs.waiting.push_back((input, message));
            return Ok(());
        }
        let Message::Barrier(barrier) = message else { return self.work(input, message) };
        if self.mutation == Some(Mutation::AlignsOnFirst) {
            let before = self.inputs.passed.replace(barrier.id);
            return if before < Some(barrier.id) { self.pass(barrier) } else { Ok(()) };
        }
        self.inputs.is_blocked[input] = true;
        let is_last = !self.inputs.is_blocked.contains(&false);
        if is_last {
            self.pass(barrier)?;
            self.inputs.is_blocked.fill(false);
            for (input, message) in std::mem::take(&mut self.inputs.waiting) {
                self.take(input, message)?;
            }
        }
        Ok(())
    }

    fn work(&mut self, input: usize, message: Message) -> Result<()> {
        match message {
            Message::Record(record) => {
                self.tally.record(&mut self.shard, &record, &mut self.sink.open)
            }
            Message::Watermark(now) => {
                self.inputs.times[input] = now;
                let times = self.inputs.times.iter().copied();
                let now = match self.mutation {
                    Some(Mutation::FasterInput) => times.max(),
                    _ => times.min(),
                };
                let Some(now) = now.filter(|now| *now > self.inputs.now) else { return Ok(()) };
                self.inputs.now = now;
                self.shard.advance_watermark(now);
                while let Some(timer) = self.tally.timers().pop_due(&mut self.shard, now)? {
                    self.tally.timer(&mut self.shard, &timer, &mut self.sink.open)?;
                    if self.mutation == Some(Mutation::FiresTwice) && self.is_restored {
                        self.tally.timer(&mut self.shard, &timer, &mut self.sink.open)?;
                    }
                }
                Ok(())
            }
            Message::Barrier(barrier) => self.pass(barrier),
            Message::Complete(id) => {
                self.shard.notify_complete(id);
                self.commit_up_to(id);
                Ok(())
            }
            Message::Aborted(id) => {
                self.shard.notify_aborted(id);
                self.sink.aborted.push(id);
                match self.mutation {
                    Some(Mutation::CommitsAborted) => self.commit_up_to(id),
                    Some(Mutation::CommitsTwice) => {
                        for (_, name) in self.sink.prepared.iter().filter(|(of, _)| *of == id) {
                            self.sink.open.extend(self.outside.lines(name));
                        }
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    }

    /// A barrier: what was written is prepared, and the shard frozen.
    fn pass(&mut self, barrier: Barrier) -> Result<()> {
        let name = format!("{}-{}-{}", barrier.epoch, barrier.id, self.worker);
        self.outside.prepare(&name, std::mem::take(&mut self.sink.open));
        self.sink.prepared.push((barrier.id, name));
        if self.mutation == Some(Mutation::CommitsEarly) {
            self.commit_up_to(barrier.id);
        }
        match self.shard.snapshot_as(barrier.mode, barrier.id, b"") {
            Ok(ticket) => {
                let names = self.sink.prepared.iter().map(|(_, name)| name.clone()).collect();
                self.tickets.push_back((barrier, names, ticket));
                Ok(())
            }
            Err(error) if error.is_retryable() => {
                self.say(barrier.id, Err(error));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Says what came of the snapshots that are over.
    fn follow(&mut self) {
        while let Some((barrier, names, ticket)) = self.tickets.front() {
            let Some(outcome) = ticket.try_poll() else { return };
            let id = barrier.id;
            let outcome =
                outcome.map(|report| (ShardAck::of(barrier.epoch, &report), names.clone()));
            self.tickets.pop_front();
            if self.mutation == Some(Mutation::CommitsLate)
                && outcome.is_ok()
                && self.sink.aborted.contains(&id)
            {
                self.commit_up_to(id);
            }
            self.say(id, outcome);
        }
    }

    fn say(&self, id: SnapshotId, outcome: Result<(ShardAck, Vec<String>)>) {
        // If nobody listens the life is over.
        let _ = self.reports.send(Report::Snapshot {
            id,
            worker: self.worker,
            outcome: Box::new(outcome),
        });
    }

    fn commit_up_to(&self, id: SnapshotId) {
        for (_, name) in self.sink.prepared.iter().filter(|(of, _)| *of <= id) {
            self.outside.commit(self.life, name);
        }
    }
}
