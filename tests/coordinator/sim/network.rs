//! Messages, and what is said between coordinators and shards.

use alluvium::coordinator::{Acknowledged, Event};
use alluvium::format::ShardAck;
use alluvium::{ErrorKind, Result, SnapshotId};

use super::{Actor, Message, Sim, State, What, participant};
use crate::shard::Shard;
use crate::truth::ShardKey;

impl Sim {
    /// Delivers a message, at random or the one at a place.
    pub fn deliver(&self, at: Option<usize>) {
        let message = {
            let mut state = self.state.lock();
            if state.network.is_empty() {
                return;
            }
            let messages = state.network.len();
            let at = at.unwrap_or_else(|| state.below(messages));
            let (lose, repeat) = (state.chances.lose, state.chances.repeat);
            let repeat = state.rng.one_in(repeat);
            let message = if repeat { state.network[at].clone() } else { state.network.remove(at) };
            if state.rng.one_in(lose) {
                return;
            }
            message
        };
        let Message { job, epoch, what } = message.clone();
        match what {
            What::Barrier(key, barrier) => self.to_shard(message, key, |state, shard| {
                let (id, epoch) = (barrier.id, barrier.epoch);
                match shard.freeze_as(barrier.mode, id, epoch, barrier.stop.is_some()) {
                    Some(value) => {
                        let begun = state.truths[job].begun.get_mut(&(epoch, id.0)).unwrap();
                        assert!(begun.shards.insert(key, value).is_none());
                    }
                    None if !shard.finished && state.rng.one_in(8) => {
                        let what = What::Decline(id.0, participant(shard));
                        state.send(Message { job, epoch, what });
                    }
                    None => {}
                }
            }),
            What::Complete(key, id) => self.to_shard(message, key, |_, shard| shard.complete(id)),
            What::Abort(key, id) => self.to_shard(message, key, |_, shard| shard.abort(id)),
            What::Ack(_, bytes) => self.to_coordinator(message, |sim, actor| {
                let ack = ShardAck::decode(&bytes).unwrap();
                let said = actor.coordinator.as_mut().unwrap().acknowledge(ack);
                let Some(said) = sim.check(actor, said) else { return };
                assert_eq!(said == Acknowledged::Foreign, actor.epoch != epoch);
                let tally = &mut sim.state.lock().tally;
                match said {
                    Acknowledged::Counted => {}
                    Acknowledged::Duplicate => tally.repeated_acks += 1,
                    Acknowledged::Late => tally.late_acks += 1,
                    Acknowledged::Foreign => tally.foreign_acks += 1,
                }
            }),
            What::Decline(id, shard) => self.to_coordinator(message, |_, actor| {
                if actor.epoch == epoch {
                    actor.coordinator.as_mut().unwrap().decline(SnapshotId(id), &shard, "late");
                }
            }),
            What::Finish(bytes) => self.to_coordinator(message, |_, actor| {
                let ack = ShardAck::decode(&bytes).unwrap();
                let finished = actor.coordinator.as_mut().unwrap().finish(ack);
                assert_eq!(finished.is_ok(), actor.epoch == epoch, "{finished:?}");
            }),
        }
    }

    pub fn to_shard(
        &self,
        message: Message,
        key: ShardKey,
        act: impl FnOnce(&mut State, &mut Shard),
    ) {
        let mut state = self.state.lock();
        let found = state
            .shards_of(message.job, message.epoch)
            .into_iter()
            .find(|at| state.shards[*at].as_ref().is_some_and(|shard| shard.key() == key));
        if let Some(at) = found {
            let mut shard = state.shards[at].take().unwrap();
            act(&mut state, &mut shard);
            state.shards[at] = Some(shard);
        }
    }

    pub fn to_coordinator(&self, message: Message, act: impl FnOnce(&Self, &mut Actor)) {
        let found = {
            let mut state = self.state.lock();
            let all: Vec<_> = (0..state.actors.len())
                .filter(|at| state.actors[*at].as_ref().is_some_and(|a| a.job == message.job))
                .collect();
            let own: Vec<_> = all
                .iter()
                .copied()
                .filter(|at| state.actors[*at].as_ref().is_some_and(|a| a.epoch == message.epoch))
                .collect();
            // Mostly to whom it is meant for.
            let from = if own.is_empty() || state.rng.one_in(10) { all } else { own };
            if from.is_empty() { None } else { Some(from[state.below(from.len())]) }
        };
        match found {
            Some(at) => self.with_actor(at, act),
            // It is busy, or dead.
            None => self.state.lock().send(message),
        }
    }

    /// Has one coordinator do something, and does what it says then.
    pub fn with_actor(&self, at: usize, act: impl FnOnce(&Self, &mut Actor)) {
        let Some(mut actor) = self.state.lock().actors[at].take() else { return };
        if !actor.door.is_crashed() {
            act(self, &mut actor);
        }
        if actor.door.is_crashed() {
            self.state.lock().tally.crashed += 1;
            return;
        }
        if actor.coordinator.is_some() {
            self.drain(&mut actor);
        }
        if !actor.fenced && actor.coordinator.is_some() {
            self.state.lock().actors[at] = Some(actor);
        }
    }

    pub fn call(&self, act: impl FnOnce(&Self, &mut Actor)) {
        let at = self.state.lock().pick(|state| &state.actors);
        if let Some(at) = at {
            self.with_actor(at, act);
        }
    }

    /// What a call gave; an error must be one that may be.
    pub fn check<T>(&self, actor: &mut Actor, result: Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let mut state = self.state.lock();
        let is_last = state.truths[actor.job].epoch() == actor.epoch;
        state.trace(|| format!("epoch {} of job {}: {error}", actor.epoch, actor.job));
        match error.kind() {
            ErrorKind::Unavailable => {}
            ErrorKind::Closed => {
                assert!(!is_last, "nobody fenced epoch {}: {error}", actor.epoch);
                actor.fenced = true;
                state.tally.fenced += 1;
            }
            _ => assert!(!is_last || actor.door.is_crashed(), "{error}"),
        }
        None
    }

    /// Takes what a coordinator has to say, and tells it to its shards.
    pub fn drain(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        let mut stopped = false;
        let (job, epoch) = (actor.job, actor.epoch);
        while let Some(event) = coordinator.next_event() {
            let mut state = self.state.lock();
            state.trace(|| format!("epoch {epoch} of job {job} says {event:?}"));
            let keys: Vec<_> = state
                .shards_of(job, epoch)
                .into_iter()
                .map(|at| state.shards[at].as_ref().unwrap().key())
                .collect();
            let mut ended = |id: SnapshotId| {
                let before = actor.asked.insert(id.0, true);
                assert_eq!(before, Some(false), "checkpoint {id} came to an end twice");
            };
            let is_kept = |state: &State, id: SnapshotId| {
                assert!(
                    state.truths[job].accepted.contains_key(&id.0),
                    "{id} is not in the journal"
                );
            };
            let what: Box<dyn Fn(ShardKey) -> What> = match event {
                Event::Trigger(barrier) => {
                    let truth = &mut state.truths[job];
                    assert!(
                        truth.triggered.insert(barrier.id.0),
                        "{} was there before",
                        barrier.id
                    );
                    assert_eq!(barrier.epoch, epoch);
                    actor.asked.insert(barrier.id.0, false);
                    let begun = truth.begun.entry((epoch, barrier.id.0)).or_default();
                    begun.runtime =
                        [barrier.id.0, epoch, job as u64].map(u64::to_le_bytes).concat();
                    coordinator.set_runtime_data(barrier.id, begun.runtime.clone()).unwrap();
                    // Some never get it; those who are busy neither.
                    Box::new(move |key| What::Barrier(key, barrier.clone()))
                }
                Event::Completed(id) => {
                    ended(id);
                    is_kept(&state, id);
                    state.tally.completed += 1;
                    Box::new(move |key| What::Complete(key, id.0))
                }
                Event::SavepointCompleted { id, .. } => {
                    ended(id);
                    is_kept(&state, id);
                    state.tally.savepoints += 1;
                    continue;
                }
                Event::Stopped { id, .. } => {
                    ended(id);
                    is_kept(&state, id);
                    state.tally.stopped += 1;
                    stopped = true;
                    continue;
                }
                Event::Aborted { id, .. } => {
                    ended(id);
                    let fate = state.truths[job].accepted.get(&id.0);
                    assert!(fate.is_none(), "{id} was completed, and then given up");
                    state.tally.aborted += 1;
                    Box::new(move |key| What::Abort(key, id.0))
                }
                Event::TooManyFailures(_) => continue,
                _ => unreachable!("an event that is not known"),
            };
            for key in keys {
                let message = Message { job, epoch, what: what(key) };
                state.send(message);
            }
        }
        if stopped {
            self.close_shards(job, epoch);
            actor.coordinator = None;
        }
        if let Some(coordinator) = &actor.coordinator {
            let under_way: Vec<_> = coordinator.under_way().map(|(b, _)| b.id.0).collect();
            let open: Vec<_> =
                actor.asked.iter().filter(|(_, ended)| !**ended).map(|(id, _)| *id).collect();
            assert_eq!(under_way, open, "what is under way");
        }
    }
}
