//! The life of a job: its steps, its snapshots, its restarts.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use alluvium::env::sim::{CrashMode, SimRng};
use alluvium::env::{Env, SimEnv};
use alluvium::object::LocalStore;
use alluvium::savepoint::{Export, Import};
use alluvium::{
    Backend, KeyGroup, KeyGroupRange, MaxParallelism, SnapshotHandle, SnapshotId, SnapshotTicket,
    StoreSink, TimeDomain, Ttl,
};

use crate::engine::Running;
use crate::model::{GROUPS, Image, STATES, State};
use crate::operator::{self, Kept};
use crate::runtime::{Door, Machine, Sink};
use crate::tally::Tally;
use crate::thing::LAST_VERSION;

const STEPS: u64 = 500;

pub struct Checkpoint {
    id: u64,
    tickets: Vec<SnapshotTicket>,
    pub handles: Option<Vec<SnapshotHandle>>,
    pub image: Image,
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
    pub checkpoints: Vec<Checkpoint>,
    next_id: u64,
    pub door: Arc<Door>,
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
    life.open(&[], false);
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
        match self.rng.below(52) {
            48..=50 => self.evict_some(),
            51 => self.write_early(),
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
            45 if self.rng.one_in(3) => self.register_some(),
            46 => self.check_keys(),
            _ if self.rng.one_in(6) => self.check_all(),
            _ => {}
        }
        0
    }

    /// The background is in the middle of something. Not too often in one step: a
    /// job that takes two snapshots while one is uploaded never comes to an end.
    pub fn interrupted(&mut self, background: bool) {
        if self.interruptions_left == 0 {
            return;
        }
        self.interruptions_left -= 1;
        self.tally.count("in the middle", 1);
        if background && !self.rng.one_in(3) {
            for _ in 0..1 + self.rng.below(4) {
                let ran = self.backend().clone().run_background();
                self.tally.count("side by side", u64::from(ran));
            }
        }
        for _ in 0..1 + self.rng.below(3) {
            match self.rng.below(15) {
                12 | 13 => self.evict_some(),
                14 => self.write_early(),
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

    /// Memory is short: what tables have goes, some of it or all. Without a budget
    /// nothing does.
    fn evict_some(&mut self) {
        let bytes = if self.rng.one_in(3) { u64::MAX } else { self.rng.below(4_000) };
        let before = self.evicted_records();
        for running in &mut self.shards {
            running.shard.evict(bytes).unwrap();
        }
        let gone = self.evicted_records() - before;
        self.tally.count("evicted", gone);
    }

    fn evicted_records(&self) -> u64 {
        self.shards.iter().map(|running| running.shard.stats().evicted_records).sum()
    }

    fn write_early(&mut self) {
        let before: u64 = self.early_writes();
        let at = self.pick(self.shards.len());
        self.shards[at].shard.write_early().unwrap();
        let begun = self.early_writes() - before;
        self.tally.count("written early", begun);
    }

    fn early_writes(&self) -> u64 {
        self.shards.iter().map(|running| running.shard.stats().early_writes).sum()
    }

    pub fn backend(&self) -> &Backend {
        self.backend.as_ref().expect("the job runs")
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
        // What comes right after a barrier is not in its snapshot.
        match self.rng.below(6) {
            0 | 3 => self.register_some(),
            1 => self.advance_watermark(),
            _ => {}
        }
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
        let mut handles = handles.clone().expect("it is completed");
        self.image = image.clone();
        if self.rng.one_in(3) {
            self.tally.count("by way of a savepoint", 1);
            handles = self.through_a_savepoint(&handles);
        }
        if self.rng.one_in(4) {
            self.tally.count("power cut", 1);
            let mode = CrashMode::ALL[self.pick(CrashMode::ALL.len())];
            self.env = self.env.crash_image(mode, self.rng.next_u64());
        }
        let is_new = self.version < LAST_VERSION && self.rng.one_in(3);
        if is_new {
            self.tally.count("new version", 1);
            self.version += 1;
        }
        self.open(&handles, is_new);
        if self.rng.one_in(3) {
            self.check_all();
        }
    }

    /// Makes a canonical savepoint of a checkpoint, and a checkpoint of that on other
    /// shards.
    fn through_a_savepoint(&mut self, handles: &[SnapshotHandle]) -> Vec<SnapshotHandle> {
        let env: Arc<dyn Env> = Arc::new(self.env.clone());
        let store = LocalStore::open(Arc::clone(&env), "/shared/checkpoints".into()).unwrap();
        let store = StoreSink::new(Arc::new(store));
        let export = |handles: &[SnapshotHandle]| {
            let mut bytes = Vec::new();
            let export = Export::new(Arc::clone(&env), "/node/work", &store);
            export.sort_bytes(1).write(handles, &mut bytes).unwrap();
            bytes
        };
        let bytes = export(handles);
        let shards = 1 + self.rng.below(5) as u32;
        let import = Import::new(Arc::clone(&env), "/node/work", &store, SnapshotId(self.next_id));
        let import = import.shards(shards).table_bytes(1 + self.rng.below(3_000)).sort_bytes(1);
        let imported = import.read(&bytes[..]).unwrap();
        let handles = imported.operators[0].handles.clone();
        assert!(export(&handles) == bytes, "what was imported has another savepoint");
        self.image.operator = operator::imported(&self.image.operator, shards as usize);
        handles
    }

    /// Opens shards of some snapshots, or empty ones. What a new version of the job
    /// asks for later than its first snapshots is in them as the last one left it.
    fn open(&mut self, handles: &[SnapshotHandle], is_new: bool) {
        self.shards.clear();
        if let Some(backend) = self.backend.take() {
            let local = backend.local_dir();
            self.tally.count("left the local directory", local.evicted_bytes);
            self.tally.count("fetched", local.fetched_bytes);
        }
        let max = MaxParallelism::new(GROUPS).unwrap();
        let sink = Arc::new(Sink::open(&self.env, "/shared/checkpoints", &self.door));
        let mut builder = Backend::builder("/node/state");
        if self.rng.one_in(2) {
            // So large that memory is short only when a step says so.
            builder = builder.memory_budget_bytes(1 << 30);
        }
        if self.rng.one_in(2) {
            // What is completed leaves the local directory, some of it or all.
            builder = builder.local_limit_bytes([0, 500, 3_000, 20_000][self.pick(4)]);
        }
        if self.rng.one_in(4) {
            builder = builder.local_copies(true);
        }
        let backend = builder
            .sink(Arc::clone(&sink) as _)
            .source(sink)
            .env(Arc::new(Machine::new(self.env.clone(), &self.door)))
            .background_threads(0)
            .max_parallelism(max)
            .max_tables_per_shard(1 + self.pick(5))
            .partition_bytes([1, 700, 3_000, 32 << 20][self.pick(4)])
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
            if self.rng.one_in(if is_new { 2 } else { 4 }) {
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
