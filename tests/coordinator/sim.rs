//! The world: processes, a network, a store, and one step after the other at random.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use alluvium::coordinator::{
    Acknowledged, Barrier, CheckpointSettings, Event, JobView, OnCancel, Participant, PinGuard,
    SavepointSchedule, StopMode,
};
use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::format::{CheckpointKind, CheckpointRef, ShardAck};
use alluvium::{Coordinator, ErrorKind, Result, SnapshotId, SnapshotMode};
use parking_lot::Mutex;

use crate::shard::Shard;
use crate::store::{Door, Late};
use crate::truth::{Files, ShardKey, Truth};

/// How often things go wrong: once in so many times.
#[derive(Clone, Copy, Default, Debug)]
pub struct Chances {
    pub fail: u64,
    pub crash: u64,
    /// That others go on while somebody waits for the store.
    pub meanwhile: u64,
    pub lose: u64,
    pub repeat: u64,
    /// That a message stays on its way for long.
    pub slow: u64,
}

/// What happened, counted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    pub completed: u64,
    pub savepoints: u64,
    pub stopped: u64,
    pub aborted: u64,
    pub fenced: u64,
    pub crashed: u64,
    pub opened: u64,
    pub restored: u64,
    pub restored_older: u64,
    pub claimed: u64,
    pub of_other_jobs: u64,
    pub disposed: u64,
    pub cancelled: u64,
    pub late_acks: u64,
    pub foreign_acks: u64,
    pub repeated_acks: u64,
    pub finished: u64,
    pub pins: u64,
    pub removed: u64,
    pub failed_calls: u64,
    pub late_effects: u64,
    pub entries_in_gaps: u64,
    pub base_reads: u64,
    pub went_on_after_faults: u64,
}

impl Tally {
    pub fn fields(&self) -> [(&'static str, u64); 24] {
        [
            ("completed", self.completed),
            ("savepoints", self.savepoints),
            ("stopped", self.stopped),
            ("aborted", self.aborted),
            ("fenced", self.fenced),
            ("crashed", self.crashed),
            ("opened", self.opened),
            ("restored", self.restored),
            ("restored older", self.restored_older),
            ("claimed", self.claimed),
            ("of other jobs", self.of_other_jobs),
            ("disposed", self.disposed),
            ("cancelled", self.cancelled),
            ("late acks", self.late_acks),
            ("foreign acks", self.foreign_acks),
            ("repeated acks", self.repeated_acks),
            ("finished", self.finished),
            ("pins", self.pins),
            ("removed", self.removed),
            ("failed calls", self.failed_calls),
            ("late effects", self.late_effects),
            ("entries in gaps", self.entries_in_gaps),
            ("base reads", self.base_reads),
            ("went on after faults", self.went_on_after_faults),
        ]
    }
}

/// One coordinator, of whatever epoch.
pub struct Actor {
    pub job: usize,
    pub epoch: u64,
    pub door: Arc<Door>,
    pub coordinator: Option<Coordinator>,
    pub fenced: bool,
    /// Barriers, and whether they came to an end.
    pub asked: BTreeMap<u64, bool>,
}

pub struct Reader {
    pub job: usize,
    pub guard: PinGuard,
    pub pinned: CheckpointRef,
    /// A job goes on from what is pinned.
    pub for_good: bool,
}

#[derive(Clone, Debug)]
pub enum What {
    Barrier(ShardKey, Barrier),
    Complete(ShardKey, u64),
    Abort(ShardKey, u64),
    Ack(u64, Vec<u8>),
    Decline(u64, Participant),
    Finish(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Message {
    pub job: usize,
    pub epoch: u64,
    pub what: What,
}

pub struct State {
    pub rng: SimRng,
    pub chances: Chances,
    pub objects: BTreeMap<String, Arc<[u8]>>,
    pub late: Vec<Late>,
    pub truths: Vec<Truth>,
    /// By number of the reader: the job, what, its files.
    pub pinned: BTreeMap<usize, (usize, String, Files)>,
    pub tally: Tally,
    pub actors: Vec<Option<Actor>>,
    pub shards: Vec<Option<Shard>>,
    pub network: Vec<Message>,
    /// Messages that come much later, after so many steps.
    pub slow: Vec<(u64, Message)>,
    pub readers: Vec<Option<Reader>>,
    pub numbers: u32,
    pub depth: u32,
    tracing: bool,
}

impl State {
    pub fn trace(&self, text: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:1$}{2}", "", self.depth as usize * 4, text());
        }
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.rng.below(n as u64) as usize
    }

    fn pick<T>(&mut self, slots: impl Fn(&Self) -> &Vec<Option<T>>) -> Option<usize> {
        let all = slots(self);
        let there: Vec<_> = (0..all.len()).filter(|at| all[*at].is_some()).collect();
        if there.is_empty() { None } else { Some(there[self.below(there.len())]) }
    }

    /// Puts a message on its way.
    pub fn send(&mut self, message: Message) {
        let chance = self.chances.slow;
        // Some checkpoints are slow and others not, so that these overtake those.
        let id = match &message.what {
            What::Ack(id, _) => *id,
            _ => 1,
        };
        if id % 3 == 0 && self.rng.one_in(chance) {
            let steps = 20 + self.rng.below(600);
            self.slow.push((steps, message));
        } else {
            self.network.push(message);
        }
    }

    /// Slow messages come nearer.
    fn approach(&mut self) {
        let network = &mut self.network;
        self.slow.retain_mut(|(steps, message)| {
            *steps -= 1;
            if *steps == 0 {
                network.push(message.clone());
            }
            *steps > 0
        });
    }

    pub fn shards_of(&self, job: usize, epoch: u64) -> Vec<usize> {
        let is_of = |shard: &&Option<Shard>| {
            shard.as_ref().is_some_and(|shard| shard.job == job && shard.epoch == epoch)
        };
        (0..self.shards.len()).filter(|at| is_of(&&self.shards[*at])).collect()
    }
}

pub struct Sim {
    pub state: Mutex<State>,
    pub env: SimEnv,
    me: Weak<Self>,
}

const JOBS: [&str; 3] = ["flights", "flights-2", "orders"];

fn draw_settings(rng: &mut SimRng) -> CheckpointSettings {
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = [None, Some(40), Some(150)][rng.below(3) as usize];
    settings.timeout_ms = [300, 2_000][rng.below(2) as usize];
    settings.min_pause_ms = [0, 30][rng.below(2) as usize];
    settings.max_concurrent = 1 + rng.below(3) as usize;
    settings.retained = 1 + rng.below(3) as usize;
    settings.history = rng.below(5) as usize;
    settings.tolerable_failures = rng.below(3) as usize;
    settings.on_cancel = if rng.one_in(2) { OnCancel::Delete } else { OnCancel::Keep };
    if rng.one_in(4) {
        let (interval_ms, retained) = (300, 1 + rng.below(2) as usize);
        settings.savepoints =
            Some(SavepointSchedule { interval_ms, prefix: "auto-".into(), retained });
    }
    settings
}

impl Sim {
    pub fn new(seed: u64, tracing: bool) -> Arc<Self> {
        let mut rng = SimRng::new(seed);
        let of = |rng: &mut SimRng, all: &[u64]| all[rng.below(all.len() as u64) as usize];
        let chances = Chances {
            fail: of(&mut rng, &[0, 200, 60, 15]),
            crash: of(&mut rng, &[0, 0, 800, 200]),
            meanwhile: of(&mut rng, &[0, 80, 25, 10]),
            lose: of(&mut rng, &[0, 30, 8]),
            repeat: of(&mut rng, &[0, 20, 5]),
            slow: of(&mut rng, &[0, 9, 3]),
        };
        let jobs = of(&mut rng, &[1, 1, 1, 2, 3]) as usize;
        let truths =
            JOBS[..jobs].iter().map(|name| Truth::new((*name).into(), draw_settings(&mut rng)));
        let state = State {
            truths: truths.collect(),
            chances,
            objects: BTreeMap::new(),
            late: Vec::new(),
            pinned: BTreeMap::new(),
            tally: Tally::default(),
            actors: Vec::new(),
            shards: Vec::new(),
            network: Vec::new(),
            slow: Vec::new(),
            readers: Vec::new(),
            numbers: 0,
            depth: 0,
            tracing,
            rng,
        };
        state.trace(|| format!("{chances:?}"));
        let env = SimEnv::new(seed ^ 0x5eed);
        Arc::new_cyclic(|me| Self { state: Mutex::new(state), env, me: me.clone() })
    }

    pub fn me(&self) -> Arc<Self> {
        self.me.upgrade().unwrap()
    }

    /// What others do while somebody waits for the store.
    pub fn meanwhile(&self) {
        let steps = {
            let mut state = self.state.lock();
            let chance = state.chances.meanwhile;
            if state.depth >= 3 || !state.rng.one_in(chance) {
                return;
            }
            state.depth += 1;
            let most = [3, 12, 60][state.below(3)];
            1 + state.below(most)
        };
        (0..steps).for_each(|_| self.step());
        self.state.lock().depth -= 1;
    }

    pub fn step(&self) {
        let roll = {
            let mut state = self.state.lock();
            state.approach();
            state.below(200)
        };
        match roll {
            0..70 => self.deliver(None),
            70..90 => self.write(),
            90..122 => self.work(),
            122..130 => self.merge(),
            130..150 => self.call(|sim, actor| sim.poll(actor)),
            150..156 => self.call(|sim, actor| sim.trigger(actor)),
            156..161 => self.call(|sim, actor| sim.savepoint(actor)),
            161..163 => self.call(|sim, actor| sim.dispose(actor)),
            163 => self.call(|sim, actor| sim.stop(actor)),
            164..166 => self.call(|sim, actor| sim.give_up(actor)),
            166..170 => self.call(|sim, actor| sim.collect(actor)),
            170..172 => self.call(|sim, actor| {
                let swept = actor.coordinator.as_mut().unwrap().sweep();
                sim.check(actor, swept);
            }),
            172..174 => self.call(|sim, actor| {
                sim.state.lock().trace(|| "base released".into());
                sim.end_base(actor.job, actor.epoch);
                actor.coordinator.as_mut().unwrap().release_base();
            }),
            174 => self.call(|sim, actor| sim.cancel(actor)),
            175..178 => self.take_over(),
            178 => self.crash(),
            179..183 => self.pin(),
            183..185 => self.unpin(),
            185..190 => {
                let ms = 1 + self.state.lock().rng.below(120);
                self.env.advance_ms(ms);
            }
            190 => {
                let by = self.state.lock().rng.below(1 << 33) as i64 - (1 << 32);
                self.env.shift_wall_clock(by);
            }
            191..195 => self.land_one(),
            195 => self.finish_one(),
            _ => self.read_base(),
        }
    }

    pub fn land_one(&self) {
        let mut state = self.state.lock();
        if !state.late.is_empty() {
            let late = state.late.len();
            let at = state.below(late);
            let late = state.late.swap_remove(at);
            state.land(late);
        }
    }

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

    fn to_shard(&self, message: Message, key: ShardKey, act: impl FnOnce(&mut State, &mut Shard)) {
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

    fn to_coordinator(&self, message: Message, act: impl FnOnce(&Self, &mut Actor)) {
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

    fn call(&self, act: impl FnOnce(&Self, &mut Actor)) {
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
    fn drain(&self, actor: &mut Actor) {
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
                    begun.runtime = [barrier.id.0, epoch].map(u64::to_le_bytes).concat();
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

    pub fn end_base(&self, job: usize, epoch: u64) {
        let truth = &mut self.state.lock().truths[job];
        if truth.base.as_ref().is_some_and(|(of, _)| *of == epoch) {
            truth.base = None;
        }
    }

    pub fn close_shards(&self, job: usize, epoch: u64) {
        self.end_base(job, epoch);
        let mut state = self.state.lock();
        for at in state.shards_of(job, epoch) {
            state.shards[at] = None;
        }
    }

    fn poll(&self, actor: &mut Actor) {
        let polled = actor.coordinator.as_mut().unwrap().poll();
        self.check(actor, polled);
    }

    fn trigger(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        if coordinator.under_way().count() < 4 && !is_stopping(coordinator) {
            let is_full = self.state.lock().rng.one_in(4);
            let mode = if is_full { SnapshotMode::Full } else { SnapshotMode::Incremental };
            let begun = match coordinator.trigger_as(mode) {
                // A shard has come to its end.
                Err(error) if is_full && error.kind() == ErrorKind::Invalid => {
                    coordinator.trigger()
                }
                begun => begun,
            };
            self.check(actor, begun);
        }
    }

    fn savepoint(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        if coordinator.under_way().count() < 4 && !is_stopping(coordinator) {
            let name = format!("s{}", self.state.lock().below(4));
            let taken = is_taken(coordinator, &name);
            let is_full = self.state.lock().rng.one_in(4);
            let mode = if is_full { SnapshotMode::Full } else { SnapshotMode::Incremental };
            match coordinator.savepoint_as(&name, mode) {
                Err(error) if error.to_string().contains("come to its end") => assert!(is_full),
                Err(error) if error.kind() == ErrorKind::Invalid => assert!(taken, "{error}"),
                begun => drop(self.check(actor, begun)),
            }
        }
    }

    fn stop(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        if !is_stopping(coordinator) {
            let number = self.state.lock().below(1000);
            let begun = coordinator.stop(&format!("stop-{number}"), StopMode::Suspend);
            if begun.as_ref().is_err_and(|error| error.kind() == ErrorKind::Invalid) {
                return;
            }
            self.check(actor, begun);
        }
    }

    fn dispose(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        let view = coordinator.view();
        let names: Vec<_> = view.entry().savepoints.iter().map(|s| s.name.clone()).collect();
        if names.is_empty() {
            return;
        }
        let name = {
            let mut state = self.state.lock();
            let name = names[state.below(names.len())].clone();
            state.truths[actor.job].disposing.insert((actor.epoch, name.clone()));
            name
        };
        let disposed = coordinator.dispose(&name);
        if disposed.as_ref().is_err_and(|error| error.kind() == ErrorKind::Invalid) {
            return;
        }
        if self.check(actor, disposed).is_some() {
            self.state.lock().tally.disposed += 1;
        }
    }

    fn give_up(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        let ids: Vec<_> = coordinator.under_way().map(|(barrier, _)| barrier.id).collect();
        if !ids.is_empty() {
            let id = ids[self.state.lock().below(ids.len())];
            coordinator.abort(id, "");
        }
    }

    fn collect(&self, actor: &mut Actor) {
        let limit = self.state.lock().below(6);
        let collected = actor.coordinator.as_mut().unwrap().collect(limit);
        self.check(actor, collected);
    }

    fn cancel(&self, actor: &mut Actor) {
        if !self.state.lock().rng.one_in(3) {
            return;
        }
        self.close_shards(actor.job, actor.epoch);
        self.drain(actor);
        self.state.lock().truths[actor.job].cancelling.insert(actor.epoch);
        let cancelled = actor.coordinator.take().unwrap().cancel();
        if self.check(actor, cancelled).is_some() {
            self.state.lock().tally.cancelled += 1;
        }
    }

    fn crash(&self) {
        let mut state = self.state.lock();
        if state.rng.one_in(2) {
            if let Some(at) = state.pick(|state| &state.shards) {
                // Its whole process.
                let door = state.shards[at].as_ref().unwrap().door.clone().unwrap();
                door.crash();
                let same = |shard: &Shard| Arc::ptr_eq(shard.door.as_ref().unwrap(), &door);
                state.shards.iter_mut().for_each(|slot| {
                    if slot.as_ref().is_some_and(same) {
                        *slot = None;
                    }
                });
            }
        } else if let Some(at) = state.pick(|state| &state.actors) {
            state.trace(|| "a coordinator crashes".into());
            state.tally.crashed += 1;
            state.actors[at] = None;
        }
    }

    fn with_shard(&self, act: impl FnOnce(&Self, &mut Shard)) {
        let Some((at, mut shard)) = ({
            let mut state = self.state.lock();
            state.pick(|state| &state.shards).map(|at| (at, state.shards[at].take().unwrap()))
        }) else {
            return;
        };
        act(self, &mut shard);
        if !shard.door.as_ref().unwrap().is_crashed() {
            self.state.lock().shards[at] = Some(shard);
        }
    }

    fn write(&self) {
        self.with_shard(|sim, shard| {
            let mut state = sim.state.lock();
            for _ in 0..=state.below(4) {
                state.numbers += 1;
                let number = state.numbers;
                shard.write(number, &mut state.rng);
            }
        });
    }

    fn merge(&self) {
        self.with_shard(|sim, shard| {
            let rng = &mut sim.state.lock().rng;
            if rng.one_in(2) { shard.merge(rng) } else { shard.merge_all() }
        });
    }

    fn work(&self) {
        self.with_shard(|sim, shard| sim.work_on(shard));
    }

    pub fn work_on(&self, shard: &mut Shard) {
        let Some((id, ack)) = shard.work() else { return };
        let (job, epoch) = (shard.job, shard.epoch);
        let mut state = self.state.lock();
        let what = match ack {
            Ok(ack) => What::Ack(id.0, ack.encode().unwrap()),
            Err(error) => {
                // What those before wrote may be swept while they look at it, and what
                // shards of a cancelled job write.
                let truth = &state.truths[job];
                let is_last = truth.epoch() == epoch && !truth.cancelling.contains(&epoch);
                assert!(!is_last || error.kind() == ErrorKind::Unavailable, "{error}");
                What::Decline(id.0, participant(shard))
            }
        };
        state.send(Message { job, epoch, what });
    }

    fn finish_one(&self) {
        self.with_shard(|sim, shard| {
            if let Some(last) = shard.finish() {
                let (job, epoch) = (shard.job, shard.epoch);
                let mut state = sim.state.lock();
                state.truths[job].finished.insert((epoch, shard.key()), shard.value.clone());
                let what = What::Finish(last.encode().unwrap());
                state.send(Message { job, epoch, what });
                state.tally.finished += 1;
            }
        });
    }

    /// Shards may read what they were restored from until they say that they will not.
    fn read_base(&self) {
        self.with_shard(|sim, shard| {
            let mut state = sim.state.lock();
            let truth = &state.truths[shard.job];
            let is_there = truth.base.as_ref().is_some_and(|(epoch, _)| *epoch == shard.epoch)
                && truth.epoch() == shard.epoch;
            if !is_there {
                return;
            }
            if let Some((location, contents)) = shard.read_base(&mut state.rng) {
                let found = state.objects.get(location);
                let found = found.unwrap_or_else(|| panic!("{location} went while it was read"));
                assert_eq!(found.len() as u64, contents.bytes);
                state.tally.base_reads += 1;
            }
        });
    }

    fn pin(&self) {
        let job = {
            let mut state = self.state.lock();
            let jobs = state.truths.len();
            state.below(jobs)
        };
        self.pin_some(job, false);
    }

    /// Pins a checkpoint of a job, for a reader or for good.
    pub fn pin_some(&self, job: usize, for_good: bool) -> Option<(JobView, CheckpointRef)> {
        let name = self.state.lock().truths[job].name.clone();
        let door = Door::new(&self.me(), job);
        let may_fail = |error: &alluvium::Error| {
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Invalid), "{error}");
        };
        let view = JobView::open(door, &name).inspect_err(may_fail).ok()??;
        let kept: Vec<_> = view.entry().kept().cloned().collect();
        if kept.is_empty() {
            return None;
        }
        let reference = kept[self.state.lock().below(kept.len())].clone();
        let guard = view.pin(&self.env, &reference, "reader").inspect_err(may_fail).ok()?;
        let mut state = self.state.lock();
        let files = state.truths[job].files_of(&reference);
        for name in &*files {
            assert!(state.objects.contains_key(name), "{name} was pinned and is not there");
        }
        let at = state.readers.len();
        state.pinned.insert(at, (job, format!("checkpoint {}", reference.id), files));
        state.readers.push(Some(Reader { job, guard, pinned: reference.clone(), for_good }));
        state.tally.pins += 1;
        drop(state);
        Some((view, reference))
    }

    fn unpin(&self) {
        let reader = {
            let mut state = self.state.lock();
            let Some(at) = state.pick(|state| &state.readers) else { return };
            if state.readers[at].as_ref().unwrap().for_good {
                return;
            }
            state.pinned.remove(&at);
            state.readers[at].take().unwrap()
        };
        let _ = reader.guard.release();
    }
}

fn is_stopping(coordinator: &Coordinator) -> bool {
    coordinator.under_way().any(|(barrier, _)| barrier.stop.is_some())
}

fn is_taken(coordinator: &Coordinator, name: &str) -> bool {
    let under_way = coordinator
        .under_way()
        .any(|(barrier, _)| barrier.kind == CheckpointKind::Savepoint(name.to_owned()));
    under_way || coordinator.view().entry().savepoint(name).is_some()
}

pub fn participant(shard: &Shard) -> Participant {
    Participant {
        operator: shard.operator.to_owned(),
        groups: shard.groups,
        max_parallelism: crate::shard::max_of(shard.operator),
    }
}
