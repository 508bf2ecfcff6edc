//! The life of a job: its steps, its snapshots, its restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::env::sim::{CrashMode, SimRng};
use alluvium::env::{Env, SimEnv};
use alluvium::{
    Backend, KeyGroup, KeyGroupRange, KeyedStore, MaxParallelism, SnapshotHandle, SnapshotId,
    SnapshotTicket, TimeDomain, Ttl, TtlUpdate,
};

use crate::engine::Running;
use crate::model::{GROUPS, Image, Rule, STATES, State};
use crate::operator::{self, Kept};
use crate::runtime::{Door, Sink};
use crate::thing::LAST_VERSION;

const STEPS: u64 = 500;
const DAY_MS: i64 = 86_400_000;

/// What happened, and how often.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn count(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, times)| self.count(what, *times));
    }

    pub fn assert_all_happened(&self) {
        for what in [
            "completed",
            "cancelled",
            "restarted",
            "power cut",
            "rescaled",
            "new version",
            "left for later",
            "dropped",
            "registered later",
            "clock",
            "watermark",
            "expired",
            "either way",
            "merged namespaces",
            "popped",
            "too late",
            "old snapshot",
            "time to live changed",
            "in the middle",
        ] {
            assert!(
                self.0.get(what).is_some_and(|times| *times > 20),
                "{what:?} is rare: {self:?}"
            );
        }
    }
}

struct Checkpoint {
    id: u64,
    tickets: Vec<SnapshotTicket>,
    handles: Option<Vec<SnapshotHandle>>,
    image: Image,
}

pub struct Life {
    pub rng: SimRng,
    pub env: SimEnv,
    pub backend: Option<Backend>,
    pub shards: Vec<Running>,
    /// What the job holds.
    pub image: Image,
    /// By what time values of a state live, if they do.
    pub times: Vec<TimeDomain>,
    /// The times to live in this life.
    pub ttls: Vec<Option<Ttl>>,
    pub is_open: Vec<bool>,
    /// What an operator state that is not open would be opened with, by subtask.
    pub unopened: Vec<Vec<Option<Kept>>>,
    pub version: u8,
    pub written: u32,
    /// Timers of one time, in the order in which they fired.
    pub ties: BTreeSet<(usize, i64, u64, u64)>,
    pub tally: Tally,
    checkpoints: Vec<Checkpoint>,
    next_id: u64,
    door: Arc<Door>,
    /// How often the job may still go on within this step of the background.
    interruptions_left: u64,
}

pub fn run(seed: u64) -> Tally {
    let mut rng = SimRng::new(seed);
    let env = SimEnv::new(rng.next_u64());
    let env = if rng.one_in(2) { env.with_mapped_reads() } else { env };
    let door = Door::new(rng.next_u64());
    let times = STATES.iter().map(|_| any_time(&mut rng)).collect();
    let image = nothing();
    let mut life = Life {
        rng,
        env,
        backend: None,
        shards: Vec::new(),
        image,
        times,
        ttls: vec![None; STATES.len()],
        is_open: vec![false; STATES.len()],
        unopened: Vec::new(),
        version: 1,
        written: 0,
        ties: BTreeSet::new(),
        tally: Tally::default(),
        checkpoints: Vec::new(),
        next_id: 1,
        door: Arc::clone(&door),
        interruptions_left: 0,
    };
    life.open(&[]);
    let life = Arc::new(Mutex::new(life));
    door.lead_to(&life);
    for _ in 0..STEPS {
        let tasks = life.lock().unwrap().step();
        // Not under the lock: the background lets the job in.
        for _ in 0..tasks {
            let backend = life.lock().unwrap().backend().clone();
            if !backend.run_background() {
                break;
            }
        }
    }
    let mut life = life.lock().unwrap();
    life.check_all();
    life.barrier();
    life.restart();
    life.open_all();
    life.check_all();
    life.fire_to_the_end_of_time();
    life.tally.clone()
}

fn nothing() -> Image {
    let states = (0..STATES.len()).map(|state| State::absent(format!("s{state}"))).collect();
    Image { states, operator: Vec::new(), watermark: None }
}

fn any_time(rng: &mut SimRng) -> TimeDomain {
    if rng.one_in(2) { TimeDomain::Event } else { TimeDomain::Processing }
}

impl Life {
    pub fn pick(&mut self, below: usize) -> usize {
        self.rng.below(below as u64) as usize
    }

    /// Does something, and gives the number of tasks that the background is to do
    /// now.
    fn step(&mut self) -> u64 {
        self.interruptions_left = 4;
        match self.rng.below(48) {
            0..=24 => self.operate_on_some(),
            25..=27 => self.timers_step(),
            28..=30 => self.operator_step(),
            31..=34 => return 1,
            35 => return u64::MAX,
            36 | 37 => self.barrier(),
            38 => self.settle_some(),
            39 => {
                let records = 1 + self.pick(8);
                for running in &mut self.shards {
                    running.shard.warm_up(records).unwrap();
                }
            }
            40 if self.rng.one_in(2) => self.restart(),
            41 => self.pass(),
            42 => self.advance_watermark(),
            43 => {
                let records = 1 + self.pick(8);
                for running in &mut self.shards {
                    let _ = running.shard.expire(records).unwrap();
                }
            }
            44 if self.rng.one_in(3) => self.drop_some(),
            45 => self.register_some(),
            46 => self.check_keys(),
            _ if self.rng.one_in(6) => self.check_all(),
            _ => {}
        }
        0
    }

    /// The background is in the middle of something. Not too often in one step: a
    /// job that takes two snapshots while one is uploaded never comes to an end.
    pub fn interrupted(&mut self) {
        if self.interruptions_left == 0 {
            return;
        }
        self.interruptions_left -= 1;
        self.tally.count("in the middle", 1);
        for _ in 0..1 + self.rng.below(3) {
            match self.rng.below(12) {
                0 | 1 => self.barrier(),
                2 => self.pass(),
                3 | 4 => self.advance_watermark(),
                5 => self.timers_step(),
                6 => self.operator_step(),
                7 => self.drop_some(),
                8 => self.register_some(),
                _ => self.operate_on_some(),
            }
        }
    }

    pub fn backend(&self) -> &Backend {
        self.backend.as_ref().expect("the job runs")
    }

    pub fn now_ms(&self) -> i64 {
        self.env.unix_time_ms() as i64
    }

    pub fn rule(&self, state: usize) -> Rule {
        let time = self.times[state];
        let now = match time {
            TimeDomain::Processing => Some(self.now_ms()),
            TimeDomain::Event => self.image.watermark,
        };
        Rule { ttl: self.ttls[state], time, now }
    }

    /// Notes what has expired by now, here and, by the clock, in snapshots that
    /// are under way: their tables may be merged with what is older before they
    /// are done.
    fn doom(&mut self) {
        for state in (0..STATES.len()).filter(|&state| self.is_open[state]) {
            let rule = self.rule(state);
            rule.doom(&mut self.image.states[state]);
            if rule.time == TimeDomain::Event {
                continue;
            }
            let name = &self.image.states[state].name;
            for point in self.checkpoints.iter_mut().filter(|point| point.handles.is_none()) {
                // The table may have been dropped since, and be something else.
                let theirs = &mut point.image.states[state];
                if theirs.name == *name {
                    rule.doom(theirs);
                }
            }
        }
    }

    fn pass(&mut self) {
        self.tally.count("clock", 1);
        let by = match self.rng.below(12) {
            0 => self.rng.below(30) as i64 * DAY_MS,
            1 => -(self.rng.below(30) as i64 * DAY_MS),
            2 => -(self.rng.below(3_000) as i64),
            3..=6 => self.rng.below(400) as i64,
            _ => self.rng.below(3_000) as i64,
        };
        self.env.shift_wall_clock(by);
        self.doom();
    }

    fn advance_watermark(&mut self) {
        self.tally.count("watermark", 1);
        let before = self.image.watermark.unwrap_or(5_000);
        // One that lies before an earlier one is passed over.
        let to = before + self.rng.below(700) as i64 - 60;
        for running in &mut self.shards {
            running.shard.advance_watermark(to);
        }
        for state in (0..STATES.len()).filter(|&state| self.is_open[state]) {
            let timed = self.ttls[state].is_some() && self.times[state] == TimeDomain::Event;
            let since = &mut self.image.states[state].since;
            if timed && since.is_none() {
                *since = Some(to);
            }
        }
        self.image.watermark = self.image.watermark.max(Some(to));
        self.doom();
        for running in &self.shards {
            assert_eq!(running.shard.watermark(), self.image.watermark);
        }
    }

    fn any_ttl(&mut self, state: usize) -> Option<Ttl> {
        if !STATES[state].1 || self.rng.one_in(4) {
            return None;
        }
        let duration = [200, 1_000, 20_000][self.pick(3)];
        let update = [TtlUpdate::OnCreateAndWrite, TtlUpdate::OnReadAndWrite][self.pick(2)];
        let ttl = Ttl::after(Duration::from_millis(duration));
        Some(ttl.update(update).time(self.times[state]))
    }

    /// Registers a state on all shards, as it was or anew.
    pub fn register(&mut self, state: usize) {
        let ttl = self.any_ttl(state);
        self.ttls[state] = ttl;
        self.is_open[state] = true;
        let held = &mut self.image.states[state];
        held.is_there = true;
        for running in &mut self.shards {
            running.register(state, &held.name, ttl, (self.version, &self.door));
        }
        let rule = self.rule(state);
        let held = &mut self.image.states[state];
        if ttl.is_some() && !held.timed {
            // What has no stamp counts as written now; what kept one, as then.
            held.since = rule.now;
            for (_, cell) in held.cells.values_mut().flatten() {
                cell.oldest = cell.oldest.min(rule.now);
                cell.newest = cell.newest.max(rule.now);
            }
        } else if ttl.is_some() && held.since.is_none() {
            held.since = rule.now;
        }
        if held.timed != ttl.is_some() && !held.cells.is_empty() {
            self.tally.count("time to live changed", 1);
        }
        held.timed = ttl.is_some();
        rule.doom(held);
    }

    fn register_some(&mut self) {
        let state = self.pick(STATES.len());
        if !self.is_open[state] {
            self.tally.count("registered later", 1);
            self.register(state);
        }
    }

    pub fn open_all(&mut self) {
        for state in 0..STATES.len() {
            if !self.is_open[state] {
                self.register(state);
            }
        }
    }

    /// Drops a state on all shards; sometimes two, which then change names.
    fn drop_some(&mut self) {
        if self.rng.one_in(4) {
            self.drop_operator_state();
            return;
        }
        let (one, other) = (self.pick(STATES.len()), self.pick(STATES.len()));
        let both = self.rng.one_in(2) && one != other;
        for state in [Some(one), both.then_some(other)].into_iter().flatten() {
            let held = &mut self.image.states[state];
            let is_there = held.is_there;
            let name = held.name.clone();
            *held = State::absent(name.clone());
            (self.is_open[state], self.ttls[state]) = (false, None);
            for running in &mut self.shards {
                assert_eq!(running.shard.drop_state(&name).unwrap(), is_there, "{name:?}");
                running.open[state] = None;
            }
            self.ties.retain(|tie| tie.0 != state);
            self.tally.count("dropped", u64::from(is_there));
        }
        if both {
            let name = self.image.states[one].name.clone();
            let name = std::mem::replace(&mut self.image.states[other].name, name);
            self.image.states[one].name = name;
        }
        if self.rng.one_in(2) {
            self.register(one);
        }
    }

    fn barrier(&mut self) {
        // A barrier that does not come to all shards is given up.
        if self.rng.one_in(5) {
            let alone = self.pick(self.shards.len());
            let id = SnapshotId(self.next_id);
            let shard = &mut self.shards[alone].shard;
            drop(shard.snapshot(id, b"").unwrap());
            shard.notify_aborted(id);
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        let take = |running: &mut Running| running.shard.snapshot(SnapshotId(id), b"").unwrap();
        let tickets = self.shards.iter_mut().map(take).collect();
        let image = self.image.clone();
        self.checkpoints.push(Checkpoint { id, tickets, handles: None, image });
    }

    /// Completes an open checkpoint, or gives it up.
    fn settle_some(&mut self) {
        let open = |point: &Checkpoint| point.handles.is_none();
        let Some(at) = self.checkpoints.iter().position(open) else { return };
        if !self.rng.one_in(4) {
            self.complete(at);
            return;
        }
        self.tally.count("cancelled", 1);
        let given_up = self.checkpoints.remove(at);
        for (ticket, running) in given_up.tickets.iter().zip(&mut self.shards) {
            if self.rng.one_in(2) {
                ticket.cancel();
            }
            running.shard.notify_aborted(SnapshotId(given_up.id));
        }
    }

    fn complete(&mut self, at: usize) {
        self.tally.count("completed", 1);
        let point = &mut self.checkpoints[at];
        let handles = point.tickets.iter().map(|ticket| ticket.wait().unwrap().handle).collect();
        point.handles = Some(handles);
        let told = !self.rng.one_in(6);
        for running in self.shards.iter_mut().filter(|_| told) {
            running.shard.notify_complete(SnapshotId(point.id));
        }
    }

    /// Goes on from a completed checkpoint, on another split of the key groups.
    fn restart(&mut self) {
        let open = |point: &Checkpoint| point.handles.is_none();
        if !self.rng.one_in(3)
            && let Some(at) = self.checkpoints.iter().rposition(open)
        {
            self.complete(at);
        }
        self.checkpoints.retain(|point| !open(point));
        let Some(newest) = self.checkpoints.len().checked_sub(1) else { return };
        let at = if self.rng.one_in(3) { self.pick(newest + 1) } else { newest };
        self.tally.count("old snapshot", u64::from(at != newest));
        self.tally.count("restarted", 1);
        if self.rng.one_in(4) {
            self.fire_to_the_end_of_time();
        }
        let Checkpoint { handles, image, .. } = &self.checkpoints[at];
        let handles = handles.clone().expect("it is completed");
        self.image = image.clone();
        if self.rng.one_in(4) {
            self.tally.count("power cut", 1);
            let mode = CrashMode::ALL[self.pick(CrashMode::ALL.len())];
            self.env = self.env.crash_image(mode, self.rng.next_u64());
        }
        if self.version < LAST_VERSION && self.rng.one_in(3) {
            self.tally.count("new version", 1);
            self.version += 1;
        }
        self.open(&handles);
        if self.rng.one_in(3) {
            self.check_all();
        }
    }

    fn open(&mut self, handles: &[SnapshotHandle]) {
        self.shards.clear();
        self.backend = None;
        let max = MaxParallelism::new(GROUPS).unwrap();
        let sink = Arc::new(Sink::open(&self.env, "/shared/checkpoints", &self.door));
        let backend = Backend::builder("/node/state")
            .sink(Arc::clone(&sink) as _)
            .source(sink)
            .env(Arc::new(self.env.clone()))
            .background_threads(0)
            .max_parallelism(max)
            .max_tables_per_shard(1 + self.pick(5))
            .warm_up(self.rng.one_in(2))
            .open()
            .unwrap();
        let ends = self.split();
        let parallelism = ends.len();
        let image = std::mem::take(&mut self.image.operator);
        self.tally.count("rescaled", u64::from(image.len() != parallelism));
        let mut first = 0;
        let mut shuffled = handles.to_vec();
        let by = self.pick(handles.len() + 1);
        shuffled.rotate_left(by);
        for (index, last) in ends.into_iter().enumerate() {
            let groups = KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap();
            first = last + 1;
            let builder = backend.shard("op", groups).subtask(index as u32, parallelism as u32);
            let shard = builder.restore(shuffled.iter().cloned()).open().unwrap();
            assert_eq!(shard.watermark(), self.image.watermark);
            self.shards.push(Running::new(shard, operator::MODES.len()));
        }
        self.backend = Some(backend);
        self.open_operator(&image, parallelism);
        self.assert_states_are_listed();
        (self.is_open, self.ttls) = (vec![false; STATES.len()], vec![None; STATES.len()]);
        for state in 0..STATES.len() {
            if self.rng.one_in(4) {
                self.tally.count("left for later", 1);
            } else {
                self.register(state);
            }
        }
    }

    /// The last groups of the shards of some split.
    fn split(&mut self) -> Vec<u16> {
        let mut ends = BTreeSet::from([GROUPS as u16 - 1]);
        for _ in 0..self.rng.below(4) {
            ends.insert(self.rng.below(u64::from(GROUPS)) as u16);
        }
        ends.into_iter().collect()
    }
}
