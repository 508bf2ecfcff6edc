//! The thread that reads the source, sends barriers, and owns the coordinator.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::coordinator::{Barrier, Coordinator, Event, Participant, StopMode};
use alluvium::format::ShardAck;
use alluvium::{Error, Result, SnapshotId};
use alluvium_conformance::{DISORDER, Polled, Source};

use crate::mutation::Mutation;
use crate::runtime::{Names, Routes};
use crate::second::ToSecond;
use crate::subtask::{Mail, Message, Report};

/// Records of each split that are read before others have their turn.
const BATCH: u64 = 16;
/// The input that this thread reads.
const FIRST: usize = 0;
/// For how long nothing is done if there is nothing to read.
const NAP: Duration = Duration::from_millis(1);

/// What is asked of a running job.
pub(crate) enum Ask {
    Checkpoint,
    Savepoint(String),
    Stop(String),
}

pub(crate) type Answer = Sender<Result<SnapshotId>>;
pub(crate) type Request = (Ask, Answer);

/// How far a split was read.
#[derive(Clone, Copy, Default)]
pub(crate) struct Position {
    pub(crate) at: u64,
    /// The latest time of a record; `None` before the first.
    pub(crate) latest: Option<i64>,
    pub(crate) ended: bool,
}

/// Up to where time has come with these splits: what has just this time may come yet.
pub(crate) fn times(splits: &[Position]) -> impl Iterator<Item = i64> {
    splits.iter().map(|split| match split {
        Position { ended: true, .. } => i64::MAX,
        Position { latest, .. } => latest.map_or(i64::MIN, |latest| latest - DISORDER - 1),
    })
}

/// The runtime's part of a checkpoint.
#[derive(Clone)]
pub(crate) struct Metadata {
    pub(crate) splits: Vec<Position>,
    /// Those of the second input.
    pub(crate) second: Vec<Position>,
    pub(crate) names: Names,
}

impl Metadata {
    pub(crate) fn new(splits: u32, second: u32) -> Self {
        let new = |splits: u32| vec![Position::default(); splits as usize];
        Self { splits: new(splits), second: new(second), names: Names::new() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        for Position { at, latest, ended } in self.splits.iter().chain(&self.second) {
            let latest = latest.map_or("-".to_owned(), |latest| latest.to_string());
            text.push_str(&format!("{at} {latest} {ended}\n"));
        }
        self.names.iter().for_each(|name| text.extend([name, "\n"]));
        text.into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8], splits: u32, second: u32) -> Self {
        let text = std::str::from_utf8(bytes).expect("it was written as text");
        let mut lines = text.lines();
        let position = |line: &str| {
            let mut words = line.split(' ');
            let mut word = || words.next().expect("three words");
            Position {
                at: word().parse().expect("a number"),
                latest: word().parse().ok(),
                ended: word() == "true",
            }
        };
        let splits = lines.by_ref().take(splits as usize).map(position).collect();
        let second = lines.by_ref().take(second as usize).map(position).collect();
        Self { splits, second, names: lines.map(str::to_owned).collect() }
    }
}

/// A checkpoint under way.
pub(crate) struct Pending {
    metadata: Metadata,
    acks: Vec<ShardAck>,
    /// Where the second input was is not known yet.
    misses_second: bool,
}

pub(crate) struct Master {
    pub(crate) coordinator: Coordinator,
    pub(crate) shards: Vec<Participant>,
    pub(crate) source: Source,
    /// As of now.
    pub(crate) metadata: Metadata,
    pub(crate) subtasks: Vec<Sender<Mail>>,
    /// Who reads the second input, if there is one.
    pub(crate) second: Option<ToSecond>,
    pub(crate) routes: Routes,
    /// Processes that have died.
    pub(crate) dead: Vec<Arc<AtomicBool>>,
    pub(crate) reported: Receiver<Report>,
    pub(crate) asked: Receiver<Request>,
    pub(crate) is_killed: Arc<AtomicBool>,
    /// Nobody is told of completed checkpoints.
    pub(crate) is_deaf: Arc<AtomicBool>,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) renamed: Arc<Mutex<BTreeMap<String, SnapshotId>>>,
    pub(crate) pending: BTreeMap<SnapshotId, Pending>,
    pub(crate) waiting: BTreeMap<SnapshotId, Answer>,
    /// What the subtasks were told last.
    pub(crate) watermark: i64,
    /// Nothing is read after a barrier with which the job stops.
    pub(crate) stopping: bool,
    /// The checkpoint at the end of the inputs.
    pub(crate) last: Option<SnapshotId>,
}

impl Master {
    /// Runs until the inputs have come to their end, the job was stopped or killed, or
    /// something failed.
    pub(crate) fn run(mut self) -> Result<()> {
        let outcome = self.work();
        if outcome.is_err() && self.mutation == Some(Mutation::CommitsWhenFenced) {
            self.tell_all(|| Message::Complete(SnapshotId(u64::MAX)));
        } else if outcome.is_err() {
            // What is on its way must not be worked off.
            self.is_killed.store(true, Ordering::SeqCst);
        }
        outcome
    }

    fn work(&mut self) -> Result<()> {
        while !self.is_killed.load(Ordering::SeqCst) {
            let has_died = self.dead.iter().any(|dead| dead.load(Ordering::SeqCst));
            if has_died && self.mutation != Some(Mutation::RespawnsEmpty) {
                return Err(Error::unavailable("a process has died"));
            }
            self.coordinator.poll()?;
            while let Some(event) = self.coordinator.next_event() {
                if self.carry(event)? {
                    return Ok(());
                }
            }
            let read = if self.stopping { 0 } else { self.read()? };
            let report = if read > 0 {
                self.reported.try_recv().ok()
            } else {
                self.reported.recv_timeout(NAP).ok()
            };
            if let Some(report) = report {
                self.hear(report)?;
                while let Ok(report) = self.reported.try_recv() {
                    self.hear(report)?;
                }
            }
            while let Ok((ask, answer)) = self.asked.try_recv() {
                self.meet(ask, answer);
            }
        }
        Ok(())
    }

    fn tell_all(&self, message: impl Fn() -> Message) {
        for subtask in &self.subtasks {
            // One that has ended said why.
            let _ = subtask.send((FIRST, message()));
        }
    }

    /// Reads a little of each split and routes it. Then time goes on.
    fn read(&mut self) -> Result<u64> {
        let mut read = 0;
        for split in 0..self.metadata.splits.len() {
            for _ in 0..BATCH {
                let position = &mut self.metadata.splits[split];
                match self.source.at(split as u32, position.at) {
                    Polled::Record(record) => {
                        position.at += 1;
                        position.latest = position.latest.max(Some(record.time));
                        let owner = self.routes.owner(split, record.key)?;
                        let _ = self.subtasks[owner].send((FIRST, Message::Record(record)));
                        read += 1;
                    }
                    Polled::Idle => break,
                    Polled::End => {
                        position.ended = true;
                        break;
                    }
                }
            }
        }
        let times = times(&self.metadata.splits);
        let now = match self.mutation {
            Some(Mutation::HastyWatermark) => times.max(),
            _ => times.min(),
        };
        if let Some(now) = now.filter(|now| *now > self.watermark) {
            self.watermark = now;
            self.tell_all(|| Message::Watermark(now));
        }
        let has_second = self.second.as_ref().is_some_and(|second| !second.has_ended());
        let is_at_end = !has_second && self.metadata.splits.iter().all(|split| split.ended);
        if is_at_end && self.last.is_none() && self.coordinator.under_way().next().is_none() {
            self.last = Some(self.coordinator.trigger()?);
        }
        Ok(read)
    }

    /// Does what an event of the coordinator tells; true if the job is over.
    fn carry(&mut self, event: Event) -> Result<bool> {
        match event {
            Event::Trigger(barrier) => self.send_barrier(barrier),
            Event::Completed(id) => {
                self.pending.remove(&id);
                self.complete(id);
                if let Some(answer) = self.waiting.remove(&id) {
                    let _ = answer.send(Ok(id));
                }
                return Ok(self.last == Some(id));
            }
            Event::SavepointCompleted { id, .. } => {
                self.pending.remove(&id);
                if self.mutation == Some(Mutation::CommitsSavepoints) {
                    self.complete(id);
                }
                if let Some(answer) = self.waiting.remove(&id) {
                    let _ = answer.send(Ok(id));
                }
            }
            Event::Stopped { id, .. } => {
                if self.mutation != Some(Mutation::StopsWithoutCommit) {
                    self.complete(id);
                }
                if let Some(answer) = self.waiting.remove(&id) {
                    let _ = answer.send(Ok(id));
                }
                return Ok(true);
            }
            Event::Aborted { id, reason } => {
                self.pending.remove(&id);
                self.stopping = false;
                self.tell_all(|| Message::Aborted(id));
                if let Some(answer) = self.waiting.remove(&id) {
                    let why = Error::unavailable("the checkpoint was given up").found(reason);
                    let _ = answer.send(Err(why));
                }
                if self.last == Some(id) {
                    self.last = None;
                }
            }
            Event::TooManyFailures(failures) => {
                return Err(Error::unavailable("checkpoints fail").found(failures));
            }
            _ => {}
        }
        Ok(false)
    }

    fn complete(&self, id: SnapshotId) {
        if !self.is_deaf.load(Ordering::SeqCst) {
            self.tell_all(|| Message::Complete(id));
        }
    }

    /// Everything that was read comes before the barrier, nothing else.
    fn send_barrier(&mut self, barrier: Barrier) {
        self.stopping |= barrier.stop.is_some();
        let mut metadata = self.metadata.clone();
        if self.mutation == Some(Mutation::OffsetsAhead) {
            metadata.splits.iter_mut().for_each(|split| split.at += 1);
        }
        let misses_second = self.second.is_some();
        self.pending.insert(barrier.id, Pending { metadata, acks: Vec::new(), misses_second });
        if let Some(second) = &self.second {
            second.send(barrier.clone());
        }
        self.tell_all(|| Message::Barrier(barrier.clone()));
    }

    fn hear(&mut self, report: Report) -> Result<()> {
        let (id, worker, outcome) = match report {
            Report::Failed(error) => return Err(error),
            Report::Positions { id, splits } => {
                if let Some(pending) = self.pending.get_mut(&id) {
                    pending.metadata.second = splits;
                    pending.misses_second = false;
                }
                return self.complete_if_whole(id);
            }
            Report::Snapshot { id, worker, outcome } => (id, worker, outcome),
        };
        let (ack, names) = match *outcome {
            Ok(part) => part,
            Err(error) if error.is_retryable() => {
                self.coordinator.decline(id, &self.shards[worker], &error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(pending) = self.pending.get_mut(&id) else {
            // Too late to count; its files are looked after.
            self.coordinator.acknowledge(ack)?;
            return Ok(());
        };
        pending.metadata.names.extend(names);
        pending.acks.push(ack);
        self.complete_if_whole(id)
    }

    /// Gives the coordinator a checkpoint of which everything is there.
    fn complete_if_whole(&mut self, id: SnapshotId) -> Result<()> {
        let shards = self.shards.len();
        let is_whole = |pending: &Pending| pending.acks.len() == shards && !pending.misses_second;
        if !self.pending.get(&id).is_some_and(is_whole) {
            return Ok(());
        }
        if let Some(Pending { metadata, acks, .. }) = self.pending.remove(&id) {
            self.coordinator.set_runtime_data(id, metadata.encode())?;
            for ack in acks {
                self.coordinator.acknowledge(ack)?;
            }
        }
        Ok(())
    }

    fn meet(&mut self, ask: Ask, answer: Answer) {
        let begun = match ask {
            Ask::Checkpoint => self.coordinator.trigger(),
            Ask::Savepoint(name) if self.mutation == Some(Mutation::SubsumesSavepoints) => {
                let begun = self.coordinator.trigger();
                if let Ok(id) = &begun {
                    self.renamed.lock().unwrap().insert(name, *id);
                }
                begun
            }
            Ask::Savepoint(name) => self.coordinator.savepoint(&name),
            Ask::Stop(name) => self.coordinator.stop(&name, StopMode::Suspend),
        };
        match begun {
            Ok(id) => {
                self.waiting.insert(id, answer);
            }
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        }
    }
}
