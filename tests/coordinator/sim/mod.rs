//! The world: processes, a network, a store, and one step after the other at random.

mod acts;
mod adopt;
mod network;
mod readers;
mod requests;
mod shards;
mod tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use alluvium::coordinator::{
    Barrier, CheckpointSettings, OnCancel, Participant, PinGuard, SavepointSchedule,
};
use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::format::CheckpointRef;
use alluvium::object::ObjectStore;
use alluvium::{Coordinator, SnapshotMode};
use parking_lot::Mutex;

use crate::shard::Shard;
use crate::store::{Door, Late};
use crate::truth::{Files, Pinned, ShardKey, Truth};

pub use requests::{ASKED_FOR, Asker};
pub use shards::participant;
pub use tally::{Chances, Tally};

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
    pub askers: Vec<Option<Asker>>,
    /// Names of requests that were given out.
    pub requests: u64,
    /// Savepoints outside of the store.
    pub exported: Vec<Arc<dyn ObjectStore>>,
    /// By name: the job that made it, the job whose checkpoint it keeps, and which.
    pub pins: BTreeMap<String, Pinned>,
    pub numbers: u32,
    pub depth: u32,
    /// Steps within others, so far.
    pub nested: usize,
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

    /// Incremental most often.
    pub fn some_mode(&mut self) -> SnapshotMode {
        if self.rng.one_in(4) { SnapshotMode::Full } else { SnapshotMode::Incremental }
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

/// Steps within others: where each of many calls of the store lets others go on, which call
/// it too, a life would take hours.
const MOST_NESTED: usize = 20_000;
const JOBS: [&str; 3] = ["flights", "flights-2", "orders"];

fn draw_settings(rng: &mut SimRng) -> CheckpointSettings {
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = [None, Some(40), Some(150)][rng.below(3) as usize];
    settings.timeout_ms = [300, 2_000][rng.below(2) as usize];
    settings.min_pause_ms = [0, 30][rng.below(2) as usize];
    settings.max_concurrent = 1 + rng.below(3) as usize;
    settings.retained = 1 + rng.below(3) as usize;
    settings.requests_interval_ms = [Some(20), Some(100)][rng.below(2) as usize];
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
            askers: Vec::new(),
            requests: 0,
            exported: Vec::new(),
            pins: BTreeMap::new(),
            numbers: 0,
            depth: 0,
            nested: 0,
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
            if state.depth >= 3 || state.nested > MOST_NESTED || !state.rng.one_in(chance) {
                return;
            }
            state.depth += 1;
            let most = [3, 12, 60][state.below(3)];
            let steps = 1 + state.below(most);
            state.nested += steps;
            steps
        };
        (0..steps).for_each(|_| self.step());
        self.state.lock().depth -= 1;
    }

    pub fn step(&self) {
        let roll = {
            let mut state = self.state.lock();
            state.approach();
            state.below(212)
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
            196..200 => self.read_base(),
            200..203 => self.ask(),
            203..207 => self.hear(),
            207..209 => self.export(),
            _ => self.call(|sim, actor| sim.import(actor)),
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
}
