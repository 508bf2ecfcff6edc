//! A job of a few shards, the model beside it, and the runtime that takes
//! checkpoints of it, restarts it, and loses some of its messages.

use std::collections::BTreeSet;
use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::env::sim::{CrashMode, SimRng};
use alluvium::{
    Backend, ErrorKind, KeyGroupRange, KeyRef, KeyedStore, Shard, SnapshotHandle, SnapshotId,
    SnapshotPhase, SnapshotReport, SnapshotTicket, ValueMut,
};

use crate::common::{
    DIR, Ids, Image, Keyspace, OPERATOR, assert_same_image, assert_shard_holds, locations_of,
    manifest_of, range_of, read, sealed_image, table_records,
};
use crate::runtime::{Control, Sink};
use crate::scenario::{Scenario, pick};

/// Checkpoints that are under way at once.
const MAX_PENDING: usize = 6;

/// What has happened to a shard since its last freeze, and before.
#[derive(Default)]
struct Epoch {
    /// Keys whose records were changed.
    touched: BTreeSet<usize>,
    /// Keys that were deleted without being there.
    deleted_in_vain: BTreeSet<usize>,
    /// What the shard held at the last freeze.
    base: Image,
    /// Keys of which the memtable may still keep a tombstone.
    ever: BTreeSet<usize>,
    /// Tables were below the memtable when the epoch began.
    cold: bool,
}

struct ShardRun {
    shard: Shard,
    ids: Ids,
    groups: KeyGroupRange,
    keys: Vec<usize>,
    epoch: Epoch,
}

/// One shard's snapshot.
struct Part {
    image: Image,
    /// Keys that the delta holds for sure.
    must: BTreeSet<usize>,
    /// Keys that it may hold: deletions of what is not there any more.
    may: BTreeSet<usize>,
    ticket: SnapshotTicket,
    cancelled: bool,
    failures_possible: bool,
    report: Option<Result<SnapshotReport, ErrorKind>>,
}

/// A checkpoint that is under way.
struct Pending {
    id: u64,
    parts: Vec<Part>,
    /// Shards that still have to take their snapshots.
    missing: Vec<usize>,
}

/// A checkpoint that is done.
#[derive(Clone)]
struct Completed {
    id: u64,
    image: Image,
    handles: Vec<SnapshotHandle>,
    store: String,
}

#[derive(Clone, Debug)]
enum Edit {
    Read,
    Flip(u8),
    Set(Arc<[u8]>),
    Delete,
}

pub struct Job {
    scenario: Scenario,
    space: Arc<Keyspace>,
    env: SimEnv,
    control: Arc<Control>,
    rng: SimRng,
    /// `None` only while it restarts.
    running: Option<(Backend, Sink)>,
    store: String,
    stores: u64,
    shards: Vec<ShardRun>,
    model: Image,
    next_id: u64,
    pending: Vec<Pending>,
    completed: Vec<Completed>,
    /// Notifications on their way: the checkpoint, and whether it completed.
    notes: Vec<(u64, bool)>,
    interruptions_left: u64,
}

impl Job {
    pub fn start(
        scenario: Scenario,
        space: Arc<Keyspace>,
        env: SimEnv,
        control: Arc<Control>,
        rng: SimRng,
    ) -> Self {
        let mut job = Self {
            scenario,
            space,
            env,
            control,
            rng,
            running: None,
            store: "/shared/0".to_owned(),
            stores: 1,
            shards: Vec::new(),
            model: Image::new(),
            next_id: 1,
            pending: Vec::new(),
            completed: Vec::new(),
            notes: Vec::new(),
            interruptions_left: 0,
        };
        job.open(None);
        job
    }

    pub fn backend(&self) -> Backend {
        self.running().0.clone()
    }

    /// The background is about to do a step of its own.
    pub fn allow_interruptions(&mut self) {
        self.interruptions_left = 4;
    }

    fn running(&self) -> &(Backend, Sink) {
        self.running.as_ref().expect("the job runs")
    }

    fn failures_possible(&self) -> bool {
        *self.control.fail_one_in.lock().unwrap() > 0
    }

    /// Opens a backend and shards, all of a checkpoint or nothing in them.
    fn open(&mut self, from: Option<Completed>) {
        let mut source = None;
        if let Some(from) = &from {
            self.store.clone_from(&from.store);
            if self.rng.one_in(6) {
                source = Some(Sink::open(&self.env, &from.store, &self.control));
                self.store = format!("/shared/{}", self.stores);
                self.stores += 1;
            }
        }
        let sink = Sink::open(&self.env, &self.store, &self.control);
        let backend = Backend::builder(DIR)
            .env(Arc::new(self.env.clone()))
            .sink(Arc::new(sink.clone()))
            .source(Arc::new(sink.clone()))
            .background_threads(0)
            .max_parallelism(self.space.max_parallelism())
            .max_tables_per_shard(pick(&mut self.rng, &[1, 2, 3, 6]))
            .partition_bytes(pick(&mut self.rng, &[1, 700, 3_000, 32 << 20]))
            .warm_up(self.rng.one_in(2))
            .table_options(self.scenario.table_options)
            .open()
            .expect("the backend opens");
        self.running = Some((backend.clone(), sink));
        self.model = from.as_ref().map(|from| from.image.clone()).unwrap_or_default();
        let parallelism = 1 + self.rng.below(u64::from(self.space.max.min(5))) as u32;
        for index in 0..parallelism {
            let groups = range_of(index, parallelism, self.space.max);
            let mut handles = from.as_ref().map(|from| from.handles.clone()).unwrap_or_default();
            shuffle(&mut self.rng, &mut handles);
            let mut builder = backend.shard(OPERATOR, groups).restore(handles);
            if let Some(source) = &source {
                builder = builder.source(Arc::new(source.clone()));
            }
            let shard = builder.open().expect("the shard opens");
            let base = self.space.part(&self.model, groups);
            let epoch = Epoch {
                ever: base.keys().copied().collect(),
                base,
                cold: from.is_some(),
                ..Epoch::default()
            };
            let keys = self.space.within(groups);
            self.shards.push(ShardRun { shard, ids: Ids::default(), groups, keys, epoch });
        }
        if self.rng.one_in(4) {
            self.check_all();
        }
    }

    /// The writer goes on while a file is on its way. Not too often in one
    /// step of the background: a writer that takes two snapshots while one is
    /// uploaded never comes to an end.
    pub fn interrupted(&mut self) {
        if self.interruptions_left == 0 {
            return;
        }
        self.interruptions_left -= 1;
        for _ in 0..1 + self.rng.below(3) {
            match self.rng.below(8) {
                0 => self.barrier(),
                1 if self.rng.one_in(4) => self.cancel(),
                _ => self.write_some(),
            }
        }
    }

    pub fn write_some(&mut self) {
        let at = self.rng.below(self.shards.len() as u64) as usize;
        for _ in 0..1 + self.rng.below(12) {
            self.write(at);
        }
    }

    fn write(&mut self, at: usize) {
        let keys = &self.shards[at].keys;
        if keys.is_empty() {
            return;
        }
        let key = keys[self.rng.below(keys.len() as u64) as usize];
        match self.rng.below(16) {
            0..=1 => self.read(at, key),
            2..=5 => {
                let value = self.value();
                self.update_one(at, key, |shard, id, key| shard.put(id, key, &value));
                self.set(at, key, Some(Arc::clone(&value)));
            }
            6..=8 => {
                self.update_one(at, key, |shard, id, key| shard.delete(id, key));
                self.set(at, key, None);
            }
            9..=12 => {
                let edits = self.edits();
                self.edit(at, key, &edits);
            }
            13 => self.read_many(at, key),
            14 => self.edit_many(at, key),
            _ => {
                let records = self.rng.below(20) as usize;
                let shard = &mut self.shards[at].shard;
                if self.rng.one_in(2) {
                    shard.warm_up(records).expect("records come into memory");
                } else {
                    self.write_to_another_shard(at);
                }
            }
        }
    }

    fn value(&mut self) -> Arc<[u8]> {
        let bytes = match self.rng.below(100) {
            0..=9 => 0,
            10..=79 => 1 + self.rng.below(40),
            80..=97 => self.rng.below(600),
            98 => self.rng.below(5_000),
            _ if self.scenario.large_values && self.rng.one_in(4) => self.rng.below(3_000_000),
            _ => self.rng.below(30_000),
        };
        let mut value = vec![0; bytes as usize];
        // Long values repeat themselves: filling them is not what is tested.
        let random = value.len().min(64);
        self.rng.fill(&mut value[..random]);
        value.into()
    }

    fn edits(&mut self) -> Vec<Edit> {
        (0..self.rng.below(4))
            .map(|_| match self.rng.below(8) {
                0 => Edit::Read,
                1..=3 => Edit::Flip(self.rng.next_u64() as u8 | 1),
                4..=6 => Edit::Set(self.value()),
                _ => Edit::Delete,
            })
            .collect()
    }

    fn update_one(
        &mut self,
        at: usize,
        key: usize,
        act: impl FnOnce(&mut Shard, alluvium::StateId, KeyRef<'_>) -> alluvium::Result<()>,
    ) {
        let ShardRun { shard, ids, .. } = &mut self.shards[at];
        let id = ids.get(shard, &self.space, self.space.keys[key].state);
        act(shard, id, self.space.key_ref(key)).expect("a record is changed");
    }

    /// Notes in the model what was done to a key by one call.
    fn set(&mut self, at: usize, key: usize, value: Option<Arc<[u8]>>) {
        let epoch = &mut self.shards[at].epoch;
        match value {
            Some(value) => {
                epoch.touched.insert(key);
                self.model.insert(key, value);
            }
            None => {
                let set = if self.model.remove(&key).is_some() {
                    &mut epoch.touched
                } else {
                    &mut epoch.deleted_in_vain
                };
                set.insert(key);
            }
        }
    }

    fn read(&mut self, at: usize, key: usize) {
        let run = &mut self.shards[at];
        let found = read(&mut run.shard, &mut run.ids, &self.space, key);
        let expected = self.model.get(&key);
        assert_eq!(found.as_deref(), expected.map(|value| &**value), "key {key}");
    }

    fn edit(&mut self, at: usize, key: usize, edits: &[Edit]) {
        let group = self.space.keys[key].group;
        let before = self.model.get(&key).cloned();
        let mut steps = Vec::new();
        self.update_one(at, key, |shard, id, key| {
            shard.update(id, key, &mut |value| {
                assert_eq!(value.key_group().0, group);
                steps = apply(value, before.clone(), edits);
            })
        });
        for step in steps {
            self.set(at, key, step);
        }
    }

    /// Some keys of one state of one shard, the first given, with repetitions.
    fn batch(&mut self, at: usize, first: usize) -> Vec<usize> {
        let run = &self.shards[at];
        let state = self.space.keys[first].state;
        let mut batch = vec![first];
        for _ in 0..self.rng.below(40) {
            let key = run.keys[self.rng.below(run.keys.len() as u64) as usize];
            if self.space.keys[key].state == state {
                batch.push(key);
            }
        }
        batch
    }

    /// A key that belongs to another shard, if there is one.
    fn foreign_key(&mut self, at: usize) -> Option<usize> {
        let groups = self.shards[at].groups;
        let key = self.rng.below(self.space.keys.len() as u64) as usize;
        (!self.space.is_within(key, groups)).then_some(key)
    }

    fn read_many(&mut self, at: usize, first: usize) {
        let batch = self.batch(at, first);
        let ShardRun { shard, ids, .. } = &mut self.shards[at];
        let id = ids.get(shard, &self.space, self.space.keys[first].state);
        let refs: Vec<_> = batch.iter().map(|&key| self.space.key_ref(key)).collect();
        let mut next = 0;
        let model = &self.model;
        shard
            .get_many(id, &refs, &mut |position, found| {
                assert_eq!(position, next);
                next += 1;
                let expected = model.get(&batch[position]);
                assert_eq!(found, expected.map(|value| &**value), "position {position}");
            })
            .expect("keys are looked up");
        assert_eq!(next, batch.len());
    }

    fn edit_many(&mut self, at: usize, first: usize) {
        let mut batch = self.batch(at, first);
        let mut good = batch.len();
        if self.rng.one_in(5)
            && let Some(foreign) = self.foreign_key(at)
        {
            good = self.rng.below(batch.len() as u64 + 1) as usize;
            batch.insert(good, foreign);
        }
        let edits: Vec<_> = batch.iter().map(|_| self.edits()).collect();
        let mut done = Vec::new();
        let ShardRun { shard, ids, .. } = &mut self.shards[at];
        let id = ids.get(shard, &self.space, self.space.keys[first].state);
        let refs: Vec<_> = batch.iter().map(|&key| self.space.key_ref(key)).collect();
        let mut now: Image = batch
            .iter()
            .filter_map(|key| self.model.get(key).map(|value| (*key, Arc::clone(value))))
            .collect();
        let result = shard.update_many(id, &refs, &mut |position, value| {
            let key = batch[position];
            let steps = apply(value, now.get(&key).cloned(), &edits[position]);
            if let Some(last) = steps.last() {
                match last {
                    Some(value) => now.insert(key, Arc::clone(value)),
                    None => now.remove(&key),
                };
            }
            done.push((key, steps));
        });
        match result {
            Ok(()) => assert_eq!(good, batch.len()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                assert!(good < batch.len());
            }
        }
        assert_eq!(done.len(), good, "the keys before a bad one are done, and no others");
        for (key, steps) in done {
            for step in steps {
                self.set(at, key, step);
            }
        }
    }

    fn write_to_another_shard(&mut self, at: usize) {
        let Some(foreign) = self.foreign_key(at) else { return };
        let ShardRun { shard, ids, .. } = &mut self.shards[at];
        let id = ids.get(shard, &self.space, self.space.keys[foreign].state);
        let key = self.space.key_ref(foreign);
        let refused = [
            shard.get(id, key).map(drop),
            shard.put(id, key, b"v"),
            shard.delete(id, key),
            shard.update(id, key, &mut |_| panic!("called for a key of another shard")),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    /// One shard takes the snapshot of the current checkpoint; or a new
    /// checkpoint begins.
    pub fn barrier(&mut self) {
        if self.pending.last().is_none_or(|pending| pending.missing.is_empty()) {
            if self.pending.len() >= MAX_PENDING {
                return;
            }
            let mut missing: Vec<_> = (0..self.shards.len()).collect();
            shuffle(&mut self.rng, &mut missing);
            self.pending.push(Pending { id: self.next_id, parts: Vec::new(), missing });
            self.next_id += 1 + self.rng.below(3);
        }
        let failures_possible = self.failures_possible();
        let pending = self.pending.last_mut().expect("there is one by now");
        let run = &mut self.shards[pending.missing.pop().expect("a shard is missing")];
        let image = self.space.part(&self.model, run.groups);
        let id = SnapshotId(pending.id);
        let ticket = run.shard.snapshot(id, &pending.id.to_be_bytes()).expect("a snapshot begins");
        // A state that nobody has asked for yet lies in its tables.
        let warm = run.shard.stats().is_warm && run.ids.are_all_there(&self.space);
        let (must, may) = run.epoch.turn(&image, !warm);
        let part =
            Part { image, must, may, ticket, cancelled: false, failures_possible, report: None };
        pending.parts.push(part);
        // No going back: an id that does not ascend is refused.
        let again = run.shard.snapshot(id, b"").expect_err("an id is used once");
        assert_eq!(again.kind(), ErrorKind::Invalid);
    }

    pub fn cancel(&mut self) {
        let mut parts: Vec<_> =
            self.pending.iter_mut().flat_map(|pending| &mut pending.parts).collect();
        if !parts.is_empty() {
            let part = self.rng.below(parts.len() as u64) as usize;
            parts[part].ticket.cancel();
            parts[part].cancelled = true;
        }
    }

    /// Looks what became of the snapshots, and completes or aborts checkpoints
    /// all of whose snapshots are over.
    pub fn poll(&mut self) {
        let source = self.running().1.clone();
        for pending in &mut self.pending {
            for part in &mut pending.parts {
                if part.report.is_some() {
                    continue;
                }
                let Some(result) = part.ticket.try_poll() else { continue };
                assert_eq!(part.ticket.progress().phase, SnapshotPhase::Done);
                match result {
                    Ok(report) => {
                        check_sealed(&self.space, &source, pending.id, part, &report);
                        part.report = Some(Ok(report));
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                        assert!(part.cancelled || part.failures_possible, "{error}");
                        part.report = Some(Err(error.kind()));
                    }
                }
            }
        }
        // In any order: a later checkpoint may complete first, and subsumes
        // the earlier ones.
        while let Some(at) = self.pending.iter().position(Pending::is_over) {
            let pending = self.pending.remove(at);
            self.resolve(pending);
        }
    }

    fn resolve(&mut self, pending: Pending) {
        let reports: Result<Vec<_>, _> =
            pending.parts.iter().map(|part| part.report.clone().expect("it is over")).collect();
        let newest = self.completed.iter().map(|completed| completed.id).max().unwrap_or(0);
        match reports {
            Ok(reports) if !self.rng.one_in(6) && pending.id > newest => {
                let image = pending.parts.iter().flat_map(|part| part.image.clone()).collect();
                let handles = reports.into_iter().map(|report| report.handle).collect();
                let store = self.store.clone();
                self.completed.push(Completed { id: pending.id, image, handles, store });
                let subsumed = self.completed.len().saturating_sub(self.scenario.kept);
                self.completed.drain(..subsumed);
                self.notes.push((pending.id, true));
            }
            _ => self.notes.push((pending.id, false)),
        }
    }

    /// Delivers a notification, or loses it, or makes one up.
    pub fn notify(&mut self) {
        let lost = self.rng.one_in(5);
        let twice = self.rng.one_in(5);
        let note = match self.notes.len() {
            0 => (self.next_id + self.rng.below(100), self.rng.one_in(2)),
            notes => {
                let at = self.rng.below(notes as u64) as usize;
                if twice { self.notes[at] } else { self.notes.swap_remove(at) }
            }
        };
        for run in &mut self.shards {
            if lost && self.rng.one_in(2) {
                continue;
            }
            match note {
                (id, true) => run.shard.notify_complete(SnapshotId(id)),
                (id, false) => run.shard.notify_aborted(SnapshotId(id)),
            }
        }
    }

    /// The runtime throws away what no checkpoint needs that is completed or
    /// may still be.
    pub fn discard(&mut self) {
        if !self.scenario.discards {
            return;
        }
        self.poll();
        let mut handles: Vec<_> = self
            .completed
            .iter()
            .filter(|completed| completed.store == self.store)
            .flat_map(|completed| completed.handles.clone())
            .collect();
        for part in self.pending.iter().flat_map(|pending| &pending.parts) {
            if let Some(Ok(report)) = &part.report {
                handles.push(report.handle.clone());
            }
        }
        let sink = &self.running().1;
        let needed = locations_of(sink, &handles).expect("what is needed is there");
        sink.discard_all_but(&needed);
    }

    pub fn check_all(&mut self) {
        for run in &mut self.shards {
            assert_shard_holds(&mut run.shard, &mut run.ids, &self.space, &self.model);
        }
    }

    /// The job dies, by a power cut or not, and goes on from some checkpoint
    /// with another number of shards.
    pub fn restart(&mut self) {
        let from = match self.completed.len() as u64 {
            0 => None,
            _ if self.rng.one_in(20) => None,
            all if self.rng.one_in(3) => Some(self.completed[self.rng.below(all) as usize].clone()),
            all => Some(self.completed[all as usize - 1].clone()),
        };
        let image = self.rng.one_in(2).then(|| {
            let mode = pick(&mut self.rng, &CrashMode::ALL);
            self.env.crash_image(mode, self.rng.next_u64())
        });
        self.close();
        if let Some(image) = image {
            self.env = image;
        }
        self.open(from);
    }

    fn close(&mut self) {
        self.shards.clear();
        self.running = None;
        for pending in self.pending.drain(..) {
            for part in pending.parts {
                let result = part.ticket.try_poll().expect("a ticket outlives its backend");
                if let Err(error) = result {
                    let known = part.cancelled || part.failures_possible;
                    let closed = error.kind() == ErrorKind::Closed;
                    assert!(closed || known, "{error}");
                }
            }
        }
        self.notes.clear();
    }

    /// Finishes what is under way, takes a last checkpoint, and restores it.
    /// Gives a number that depends on everything that happened.
    pub fn finish(&mut self) -> u64 {
        while self.pending.last().is_some_and(|pending| !pending.missing.is_empty()) {
            self.barrier();
        }
        self.settle();
        self.poll();
        assert!(self.pending.is_empty(), "a snapshot that nobody finished");
        for _ in 0..self.shards.len() {
            self.barrier();
        }
        let last = self.pending.pop().expect("the last checkpoint was begun");
        let source = self.running().1.clone();
        let mut handles = Vec::new();
        for part in &last.parts {
            let report = part.ticket.wait().expect("the last snapshot completes");
            check_sealed(&self.space, &source, last.id, part, &report);
            handles.push(report.handle);
        }
        let image = self.model.clone();
        let store = self.store.clone();
        self.check_all();
        let last = Completed { id: last.id, image, handles, store };
        self.close();
        self.open(Some(last.clone()));
        self.check_all();
        self.settle();
        let backend = self.backend();
        for run in &mut self.shards {
            let mut idle = 0;
            while !run.shard.warm_up(1_000).expect("the shard warms up") && idle < 3 {
                idle = if backend.run_background() { 0 } else { idle + 1 };
            }
            let stats = run.shard.stats();
            assert_eq!(stats.dirty_records, 0);
            if stats.is_warm && run.ids.are_all_there(&self.space) {
                assert_eq!(stats.records, run.epoch.base.len() as u64, "records in memory");
            }
        }
        self.check_all();
        let files = self.env.list_all_files().len() as u64;
        let bytes: usize = last.image.values().map(|value| value.len()).sum();
        self.env.ops() << 32 ^ files << 16 ^ bytes as u64 ^ self.rng.next_u64()
    }

    fn settle(&self) {
        while self.running().0.run_background() {}
    }
}

impl Epoch {
    /// Begins the next epoch. `image` is what the shard holds. Gives the keys
    /// that the delta must hold, and those that it may hold besides.
    ///
    /// A key that was not there at the last freeze and is not there now leaves
    /// no trace in a warm shard, unless an older tombstone of it was still
    /// around. In a cold one, every deletion leaves a trace.
    fn turn(&mut self, image: &Image, cold: bool) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let touched = std::mem::take(&mut self.touched);
        let mut may = std::mem::take(&mut self.deleted_in_vain);
        let mut must = BTreeSet::new();
        for key in touched {
            if image.contains_key(&key) || self.base.contains_key(&key) {
                must.insert(key);
            } else {
                may.insert(key);
            }
        }
        may.retain(|key| self.cold || self.ever.contains(key));
        self.ever.extend(must.iter().chain(&may));
        self.base.clone_from(image);
        self.cold = cold;
        (must, may)
    }
}

impl Pending {
    fn is_over(&self) -> bool {
        self.missing.is_empty() && self.parts.iter().all(|part| part.report.is_some())
    }
}

/// Does some edits, and gives the value after each that changed it.
fn apply(
    value: &mut ValueMut<'_>,
    before: Option<Arc<[u8]>>,
    edits: &[Edit],
) -> Vec<Option<Arc<[u8]>>> {
    let mut now = before;
    let mut steps = Vec::new();
    for edit in edits {
        assert_eq!(value.get(), now.as_deref());
        match edit {
            Edit::Read => continue,
            Edit::Flip(mask) => {
                let bytes = value.bytes_mut();
                assert_eq!(bytes.is_some(), now.is_some());
                let (Some(bytes), Some(old)) = (bytes, &now) else { continue };
                let mut flipped = old.to_vec();
                for byte in bytes.iter_mut().take(9) {
                    *byte ^= mask;
                }
                for byte in flipped.iter_mut().take(9) {
                    *byte ^= mask;
                }
                now = Some(flipped.into());
            }
            Edit::Set(new) => {
                value.set(new);
                now = Some(Arc::clone(new));
            }
            Edit::Delete => {
                value.delete();
                now = None;
            }
        }
        steps.push(now.clone());
    }
    assert_eq!(value.get(), now.as_deref());
    steps
}

/// A completed snapshot holds what the model held when it was taken, and its
/// newest table what had changed since the one before.
fn check_sealed(space: &Keyspace, source: &Sink, id: u64, part: &Part, report: &SnapshotReport) {
    assert_eq!(report.snapshot.0, id);
    let handle = &report.handle;
    let image = sealed_image(space, source, std::slice::from_ref(handle))
        .unwrap_or_else(|error| panic!("snapshot {id} cannot be read: {error}"));
    assert_same_image(space, &image, &part.image, &format!("snapshot {id}"));
    let manifest = manifest_of(source, handle).expect("the manifest was just read");
    assert_eq!(manifest.user_meta, id.to_be_bytes());
    assert_eq!(report.tables, manifest.tables.len());
    let mut delta = BTreeSet::new();
    if report.records_new > 0 {
        let newest = manifest.tables.len() - 1;
        let records = table_records(space, source, &manifest, newest).expect("just read");
        for (key, value) in records {
            assert!(delta.insert(key), "key {key} twice in the delta of snapshot {id}");
            assert_eq!(value.as_ref(), part.image.get(&key), "key {key} in snapshot {id}");
        }
    }
    assert_eq!(report.records_new, delta.len() as u64, "records of snapshot {id}");
    let missing: Vec<_> = part.must.difference(&delta).collect();
    let extra: Vec<_> =
        delta.iter().filter(|key| !part.must.contains(key) && !part.may.contains(key)).collect();
    assert!(missing.is_empty(), "changed, but not in the delta of snapshot {id}: {missing:?}");
    assert!(extra.is_empty(), "in the delta of snapshot {id}, but not changed: {extra:?}");
}

fn shuffle<T>(rng: &mut SimRng, items: &mut [T]) {
    for at in (1..items.len()).rev() {
        items.swap(at, rng.below(at as u64 + 1) as usize);
    }
}
