//! The thread that owns Alluvium's coordinator, in the process of the first worker.
//!
//! It carries the coordinator's barriers to the workers, and what they report back to it.
//! Of a checkpoint it first gathers everything: a snapshot from each shard, the position
//! of each split, the pending files of each sink. Then it attaches the latter two, and
//! acknowledges for the shards; with the last of them the coordinator completes the
//! checkpoint. All that waits for the store happens on this thread.

mod pending;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use alluvium::coordinator::{Coordinator, Event, Participant, StopMode};
use alluvium::format::{Checkpoint, CheckpointKind, ShardAck, ShardPart, check_place};
use alluvium::{Error, MaxParallelism, Result, SnapshotId, SnapshotMode};
use timely::scheduling::SyncActivator;

use self::pending::Pending;
use crate::control::mail::{Failure, Order, Plan, Report, Start, Stop, Trigger};
use crate::handle::Ask;
use crate::job::JobEvent;
use crate::metadata::{Metadata, Origin};
use crate::place::{Open, knows_no_places};
use crate::process::Process;
use crate::sink::recover::{self, Kept, Restored};

/// How often the coordinator is asked whether something is due.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What [`JobHandle`](crate::JobHandle) asks for, and where the answer goes.
pub(crate) type Request = (Ask, Sender<Result<SnapshotId>>);

/// See the [module documentation](self).
pub(crate) struct Master {
    pub(crate) coordinator: Coordinator,
    /// Of its checkpoints.
    pub(crate) origin: Origin,
    /// How it opens places.
    pub(crate) places: Option<Arc<Open>>,
    pub(crate) restored: Option<Checkpoint>,
    pub(crate) workers: u64,
    pub(crate) max_parallelism: MaxParallelism,
    pub(crate) allow_dropped_state: bool,
    pub(crate) orders: Sender<Order>,
    pub(crate) reports: Receiver<Report>,
    pub(crate) attach: Receiver<SyncActivator>,
    pub(crate) asks: Receiver<Request>,
    pub(crate) observer: Box<dyn Fn(&JobEvent) + Send>,
}

/// What is known once all workers are ready.
struct Running {
    plan: Plan,
    shards: Vec<Participant>,
    pending: BTreeMap<SnapshotId, Pending>,
    /// Workers that have let a barrier pass.
    passed: BTreeMap<u64, BTreeSet<u64>>,
    /// Sources of workers that have come to their end.
    exhausted: usize,
    /// Shards that read what they were restored from no more.
    independent: usize,
    /// The checkpoint with which the job ends.
    last: Option<SnapshotId>,
    waiting: BTreeMap<SnapshotId, Sender<Result<SnapshotId>>>,
}

impl Master {
    /// Runs until the job is over; a failure is told to all workers.
    pub(crate) fn run(mut self, process: &Process) {
        // Without a worker there is nobody to tell anything.
        let Ok(activator) = self.attach.recv() else { return };
        if let Err(error) = self.run_job(process, &activator) {
            let _ = self.orders.send(Order::Fail(Failure::of(&error)));
            let _ = activator.activate();
        }
    }

    fn run_job(&mut self, process: &Process, activator: &SyncActivator) -> Result<()> {
        let checkpoint = self.restored.as_ref().map(Checkpoint::encode).transpose()?;
        let folder = self.coordinator.folder().as_str().to_owned();
        let life = self.coordinator.epoch();
        self.say(activator, Order::Start(Start { life, folder, checkpoint }));
        let Some((plan, exhausted)) = self.wait_until_all_are_ready()? else { return Ok(()) };
        let mut running = self.start(plan, process)?;
        running.exhausted = exhausted;
        loop {
            self.trigger_the_last(&mut running)?;
            self.coordinator.poll()?;
            while let Some(event) = self.coordinator.next_event() {
                if let Some(finish) = self.carry(&mut running, activator, event)? {
                    return self.finish(activator, finish);
                }
            }
            match self.reports.recv_timeout(POLL_INTERVAL) {
                Ok(report) => {
                    self.hear(&mut running, activator, report)?;
                    while let Ok(report) = self.reports.try_recv() {
                        self.hear(&mut running, activator, report)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The first worker has ended, which said why.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            while let Ok((ask, answer)) = self.asks.try_recv() {
                self.meet(&mut running, ask, answer);
            }
        }
    }

    fn say(&self, activator: &SyncActivator, order: Order) {
        // A worker that has gone has said why.
        let _ = self.orders.send(order);
        let _ = activator.activate();
    }

    /// The plan that all workers have, and how many sources have come to their end
    /// meanwhile; nothing if the first worker has ended.
    fn wait_until_all_are_ready(&self) -> Result<Option<(Plan, usize)>> {
        let mut ready = BTreeMap::new();
        let mut exhausted = 0;
        while (ready.len() as u64) < self.workers {
            match self.reports.recv() {
                Ok(Report::Ready { worker, plan }) => {
                    ready.insert(worker, plan);
                }
                Ok(Report::Exhausted) => exhausted += 1,
                Ok(Report::Failed(failure)) => return Err(failure.to_error()),
                // Everything else answers a barrier, and there was none.
                Ok(_) => {}
                Err(_) => return Ok(None),
            }
        }
        let mut plans = ready.into_iter();
        let Some((_, first)) = plans.next() else { return Ok(None) };
        match plans.find(|(_, plan)| *plan != first) {
            None => Ok(Some((first, exhausted))),
            Some((worker, other)) => Err(Error::invalid("workers have built different jobs")
                .at(format_args!("worker {worker}"))
                .expected(format_args!("{first:?}"))
                .found(format_args!("{other:?}"))
                .remedy("run the same program with the same options in all processes")),
        }
    }

    /// Puts the sinks' directories into the state of the checkpoint that the job goes on
    /// from, and lets checkpoints begin.
    fn start(&mut self, plan: Plan, process: &Process) -> Result<Running> {
        let restored = match &self.restored {
            None => None,
            Some(checkpoint) => {
                if !self.allow_dropped_state {
                    check_all_are_there(checkpoint, &plan)?;
                }
                let metadata = Metadata::decode(&checkpoint.runtime)?;
                Some(Restored::new(checkpoint, metadata, &self.origin))
            }
        };
        let life = self.coordinator.epoch();
        let saved = self.parts_of_savepoints()?;
        let kept = saved.as_ref().map_or(Kept::All, Kept::These);
        for (name, dir) in &plan.sinks {
            let directory = recover::Directory::new(process.env.fs(), dir.as_ref(), life);
            directory.recover(name, restored.as_ref(), &kept)?;
        }
        let restored = self.restored.as_ref().map(|checkpoint| checkpoint.id);
        let parallelism = u32::try_from(self.workers).unwrap_or(u32::MAX);
        let mut shards = Vec::new();
        for operator in &plan.operators {
            shards.extend(Participant::of_operator(operator, self.max_parallelism, parallelism)?);
        }
        self.coordinator.start(shards.clone())?;
        (self.observer)(&JobEvent::Started { restored, workers: parallelism });
        Ok(Running {
            plan,
            shards,
            pending: BTreeMap::new(),
            passed: BTreeMap::new(),
            exhausted: 0,
            independent: 0,
            last: None,
            waiting: BTreeMap::new(),
        })
    }

    /// The pending files of all sinks that savepoints name: a savepoint commits nothing
    /// before the job goes on from it, or has taken a checkpoint after it. Nothing if that
    /// cannot be found out.
    fn parts_of_savepoints(&self) -> Result<Option<BTreeSet<String>>> {
        let view = self.coordinator.view();
        let mut names = BTreeSet::new();
        for savepoint in &view.entry().savepoints {
            let checkpoint = view.read(&savepoint.checkpoint);
            match checkpoint.and_then(|checkpoint| Metadata::decode(&checkpoint.runtime)) {
                Ok(metadata) => {
                    let parts = metadata.sinks.into_values().flatten();
                    names.extend(parts.map(|part| part.pending));
                }
                Err(error) if error.is_retryable() => return Err(error),
                // Its damage is for whoever restores it.
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(names))
    }

    /// At the end of all inputs one more checkpoint is taken, which commits the rest.
    fn trigger_the_last(&mut self, running: &mut Running) -> Result<()> {
        let of = running.plan.sources.len() * self.workers as usize;
        let is_at_end = of > 0 && running.exhausted == of;
        if is_at_end && running.last.is_none() && self.coordinator.under_way().next().is_none() {
            running.last = Some(self.coordinator.trigger()?);
        }
        Ok(())
    }

    /// Ends the job, once every worker has committed what the last checkpoint commits.
    fn finish(&self, activator: &SyncActivator, finish: Order) -> Result<()> {
        self.say(activator, Order::Settle);
        let mut settled = 0;
        while settled < self.workers {
            match self.reports.recv() {
                Ok(Report::Settled) => settled += 1,
                Ok(Report::Failed(failure)) => return Err(failure.to_error()),
                // Too late to count.
                Ok(_) => {}
                // The first worker has ended, which said why.
                Err(_) => return Ok(()),
            }
        }
        self.say(activator, finish);
        Ok(())
    }

    /// Does what an event of the coordinator tells. If the job is at its end, what is to
    /// be said in the end.
    fn carry(
        &mut self,
        running: &mut Running,
        activator: &SyncActivator,
        event: Event,
    ) -> Result<Option<Order>> {
        match event {
            Event::Trigger(barrier) => {
                let stop = match barrier.stop {
                    None => Stop::No,
                    Some(StopMode::Suspend) => Stop::Suspend,
                    Some(StopMode::Drain) => Stop::Drain,
                };
                let workers = self.workers as usize;
                let pending = Pending::new(&running.plan, running.shards.len(), workers);
                running.pending.insert(barrier.id, pending);
                let is_full = barrier.mode == SnapshotMode::Full;
                let (id, life) = (barrier.id.0, barrier.epoch);
                let trigger = Trigger { id, life, stop, is_full, place: barrier.place };
                self.say(activator, Order::Trigger(trigger));
            }
            Event::Completed(id) => {
                running.pending.remove(&id);
                (self.observer)(&JobEvent::Completed(id));
                self.say(activator, Order::Completed(id.0));
                running.answer(id, Ok(id));
                if running.last == Some(id) {
                    return Ok(Some(Order::Finish { checkpoint: Some(id.0), savepoint: None }));
                }
            }
            Event::SavepointCompleted { id, name } => {
                running.pending.remove(&id);
                (self.observer)(&JobEvent::Savepoint { id, name });
                running.answer(id, Ok(id));
            }
            Event::Stopped { id, name } => {
                (self.observer)(&JobEvent::Savepoint { id, name: name.clone() });
                self.say(activator, Order::Completed(id.0));
                running.answer(id, Ok(id));
                let (checkpoint, savepoint) = (Some(id.0), Some(name));
                return Ok(Some(Order::Finish { checkpoint, savepoint }));
            }
            Event::Aborted { id, reason } => {
                running.pending.remove(&id);
                self.say(activator, Order::Aborted(id.0));
                let why = Error::unavailable("the checkpoint was given up").found(&reason);
                running.answer(id, Err(why));
                (self.observer)(&JobEvent::Aborted { id, reason });
                if running.last == Some(id) {
                    running.last = None;
                }
            }
            Event::TooManyFailures(failures) => {
                return Err(Error::unavailable("checkpoints fail one after the other")
                    .found(format_args!("{failures} in a row"))
                    .remedy("see the log for the reasons; then start the job again"));
            }
            // Nothing else is asked for.
            _ => {}
        }
        Ok(None)
    }

    fn hear(
        &mut self,
        running: &mut Running,
        activator: &SyncActivator,
        report: Report,
    ) -> Result<()> {
        let changed = match report {
            Report::Ready { .. } | Report::Settled => None,
            Report::Failed(failure) => return Err(failure.to_error()),
            Report::Exhausted => {
                running.exhausted += 1;
                None
            }
            Report::Independent => {
                running.independent += 1;
                if running.independent == running.shards.len() {
                    self.coordinator.release_base();
                }
                None
            }
            Report::Passed { worker, id } => {
                let passed = running.passed.entry(id).or_default();
                passed.insert(worker);
                if passed.len() as u64 == self.workers {
                    running.passed.remove(&id);
                    self.say(activator, Order::AllPassed(id));
                }
                None
            }
            Report::Declined { operator, worker, id, reason } => {
                let first = running.shards.iter().position(|shard| shard.operator == operator);
                let shard = first.and_then(|first| running.shards.get(first + worker as usize));
                match shard {
                    Some(shard) => self.coordinator.decline(SnapshotId(id), shard, &reason),
                    None => self.coordinator.abort(SnapshotId(id), &reason),
                }
                None
            }
            Report::Positions { source, id, splits } => {
                running.pending(id, |pending| pending.add_positions(source, splits))
            }
            Report::Prepared { sink, id, parts } => {
                running.pending(id, |pending| pending.add_parts(sink, parts))
            }
            Report::Acknowledged { id, ack } => {
                let ack = ShardAck::decode(&ack)?;
                let ShardPart { handle, costs } = &ack.part;
                (self.observer)(&JobEvent::Acknowledged {
                    id: SnapshotId(id),
                    operator: handle.operator().to_owned(),
                    costs: *costs,
                });
                match running.pending.get_mut(&SnapshotId(id)) {
                    Some(pending) => {
                        pending.add_ack(ack);
                        Some(SnapshotId(id))
                    }
                    // Too late to count; its files are looked after.
                    None => {
                        self.coordinator.acknowledge(ack)?;
                        None
                    }
                }
            }
        };
        if let Some(id) = changed
            && running.pending.get(&id).is_some_and(Pending::is_ready)
            && let Some(pending) = running.pending.remove(&id)
        {
            let (metadata, acks) = pending.take(Origin { id: id.0, ..self.origin.clone() });
            self.coordinator.set_runtime_data(id, metadata.encode())?;
            for ack in acks {
                self.coordinator.acknowledge(ack)?;
            }
        }
        Ok(())
    }

    fn meet(&mut self, running: &mut Running, ask: Ask, answer: Sender<Result<SnapshotId>>) {
        let begun = match ask {
            Ask::Checkpoint => self.coordinator.trigger(),
            Ask::Savepoint(name) => self.coordinator.savepoint(&name),
            Ask::SavepointInto(name, place) => self.savepoint_into(&name, &place),
            Ask::Stop(name, mode) => self.coordinator.stop(&name, mode),
        };
        match begun {
            Ok(id) => {
                running.waiting.insert(id, answer);
            }
            Err(error) => {
                // Who asked may have gone.
                let _ = answer.send(Err(error));
            }
        }
    }

    fn savepoint_into(&mut self, name: &str, place: &str) -> Result<SnapshotId> {
        check_place(place)?;
        let Some(open) = &self.places else { return Err(knows_no_places()) };
        let store = open(place).map_err(|error| error.at(place))?;
        self.coordinator.savepoint_into(name, place, store)
    }
}

impl Running {
    /// Changes a checkpoint under way; its number, if it is.
    fn pending(&mut self, id: u64, change: impl FnOnce(&mut Pending)) -> Option<SnapshotId> {
        let id = SnapshotId(id);
        self.pending.get_mut(&id).map(change).map(|()| id)
    }

    fn answer(&mut self, id: SnapshotId, answer: Result<SnapshotId>) {
        if let Some(waiting) = self.waiting.remove(&id) {
            // Who asked may have gone.
            let _ = waiting.send(answer);
        }
    }
}

/// State that the job has no operator for would be lost with the next checkpoint.
fn check_all_are_there(checkpoint: &Checkpoint, plan: &Plan) -> Result<()> {
    let lost: Vec<_> = checkpoint
        .operators()
        .filter(|operator| !plan.operators.iter().any(|known| known == operator))
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::incompatible("the job has no operators for some of the restored state")
        .at(match &checkpoint.kind {
            CheckpointKind::Checkpoint => format!("checkpoint {}", checkpoint.id),
            CheckpointKind::Savepoint(name) => format!("savepoint {name:?}"),
        })
        .expected(format_args!("operators {:?}", plan.operators))
        .found(format_args!("state of {lost:?}"))
        .remedy("name the operators as before, or allow state to be dropped"))
}
