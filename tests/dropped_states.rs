//! Dropped states stay dropped: through snapshots in flight, failed and
//! cancelled ones, merges, restores from before and after, and on any number of
//! shards.
//!
//! The oracle is an ordered map per shard; a snapshot is a copy of it.

mod common;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex};

use alluvium::codec::{Evolving, Primitive, StringCodec};
use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::format::Manifest;
use alluvium::table::TableReader;
use alluvium::{
    Backend, BackendBuilder, ErrorKind, KeyRef, KeyedStore, Shard, SnapshotHandle, SnapshotId,
    SnapshotSource, SnapshotTicket, StateId, StateKind, StateSpec, TimeDomain, TimerSpec,
    TimerStore, Timers, TimersId, ValueState,
};

use common::{CHECKPOINTS, Keyspace, OPERATOR, group_of, manifest_of, range_of, store_on};

const MAX: u32 = 16;
const NAMES: [&str; 3] = ["a", "ab", "b"];
const KINDS: [StateKind; 4] =
    [StateKind::Value, StateKind::List, StateKind::Map, StateKind::Timers];
const KEYS: u8 = 12;
const TIMES: u8 = 4;

fn backend_on(env: &SimEnv) -> BackendBuilder {
    common::backend_on(env, &Keyspace::new(MAX, [""; 0]))
}

/// What a state holds: for each key the value, the elements, the entries or the
/// times.
type Cells = BTreeMap<u8, Vec<Vec<u8>>>;

/// What a shard holds.
type Model = BTreeMap<&'static str, Cells>;

/// The job at one moment.
#[derive(Clone, Default)]
struct Image {
    /// What each name is. Changes only when a state is dropped everywhere.
    kinds: BTreeMap<&'static str, StateKind>,
    shards: Vec<Model>,
}

impl Image {
    /// What the shards of another parallelism hold: a state is there if one of
    /// the old shards had it.
    fn on(&self, parallelism: u32) -> Self {
        let mut names: Vec<&'static str> =
            self.shards.iter().flat_map(|shard| shard.keys().copied()).collect();
        names.sort_unstable();
        names.dedup();
        let model = |index| {
            let groups = range_of(index, parallelism, MAX);
            let of_name = |&name| {
                let cells = self.shards.iter().filter_map(|shard| shard.get(name)).flatten();
                let ours = cells.filter(|(key, _)| {
                    groups.contains(alluvium::KeyGroup(group_of(&[**key], MAX)))
                });
                (name, ours.map(|(key, cell)| (*key, cell.clone())).collect())
            };
            names.iter().map(of_name).collect()
        };
        Self { kinds: self.kinds.clone(), shards: (0..parallelism).map(model).collect() }
    }
}

enum Id {
    State(StateId),
    Timers(TimersId),
}

fn open_state(shard: &mut Shard, name: &str, kind: StateKind) -> Id {
    let spec = match kind {
        StateKind::Timers => {
            let spec = TimerSpec::new(name, TimeDomain::Processing);
            return Id::Timers(shard.open_timers(spec).unwrap());
        }
        StateKind::List => StateSpec::list(name),
        StateKind::Map => StateSpec::map(name),
        _ => StateSpec::value(name),
    };
    Id::State(shard.register(spec).unwrap())
}

/// Adds something to a key, in a shard and in the model.
fn add(shard: &mut Shard, cells: &mut Cells, (name, kind): (&str, StateKind), key: u8, what: u8) {
    let cell = cells.entry(key).or_default();
    let bytes = [key];
    let at = KeyRef::new(&bytes);
    match open_state(shard, name, kind) {
        Id::Timers(timers) => {
            let time = what % TIMES;
            let new = shard.register_timer(timers, i64::from(time), at).unwrap();
            assert_eq!(new, !cell.contains(&vec![time]));
            cell.push(vec![time]);
        }
        Id::State(id) => match kind {
            StateKind::List => {
                shard.list_append(id, at, &[&[what]]).unwrap();
                cell.push(vec![what]);
                return;
            }
            StateKind::Map => {
                shard.map_put(id, at, &[what], &[what]).unwrap();
                cell.push(vec![what]);
            }
            _ => {
                shard.put(id, at, &[what]).unwrap();
                *cell = vec![vec![what]];
            }
        },
    }
    cell.sort();
    cell.dedup();
}

fn remove(shard: &mut Shard, cells: &mut Cells, (name, kind): (&str, StateKind), key: u8) {
    let bytes = [key];
    let at = KeyRef::new(&bytes);
    let removed = cells.remove(&key);
    match open_state(shard, name, kind) {
        Id::State(id) => shard.clear(id, at).unwrap(),
        Id::Timers(timers) => {
            for time in removed.unwrap_or_default() {
                assert!(shard.delete_timer(timers, i64::from(time[0]), at).unwrap());
            }
        }
    }
}

fn read(shard: &mut Shard, id: &Id, kind: StateKind, key: u8) -> Vec<Vec<u8>> {
    let bytes = [key];
    let at = KeyRef::new(&bytes);
    let mut found = Vec::new();
    match id {
        Id::Timers(timers) => {
            for time in 0..TIMES {
                if shard.delete_timer(*timers, i64::from(time), at).unwrap() {
                    assert!(shard.register_timer(*timers, i64::from(time), at).unwrap());
                    found.push(vec![time]);
                }
            }
        }
        Id::State(id) => match kind {
            StateKind::List => {
                shard.list_read(*id, at, &mut |element| found.push(element.to_vec())).unwrap();
            }
            StateKind::Map => shard
                .map_scan(*id, at, Bound::Unbounded, &mut |entry, value| {
                    assert_eq!(entry, value);
                    found.push(entry.to_vec());
                    ControlFlow::Continue(())
                })
                .unwrap(),
            _ => found.extend(shard.get(*id, at).unwrap().map(<[u8]>::to_vec)),
        },
    }
    found
}

fn assert_holds(shard: &mut Shard, model: &Model, kinds: &BTreeMap<&'static str, StateKind>) {
    let listed = shard.states();
    let listed: Vec<_> = listed.iter().map(|info| (&*info.meta.name, info.meta.kind)).collect();
    let expected: Vec<_> = model.keys().map(|name| (*name, kinds[name])).collect();
    assert_eq!(listed, expected, "the states of {}", shard.groups());
    for (name, cells) in model {
        let kind = kinds[name];
        let id = open_state(shard, name, kind);
        for key in 0..KEYS {
            if shard.groups().contains(alluvium::KeyGroup(group_of(&[key], MAX))) {
                let expected = cells.get(&key).cloned().unwrap_or_default();
                let found = read(shard, &id, kind, key);
                assert_eq!(found, expected, "key {key} of {name:?}, {kind:?}");
            }
        }
        match id {
            Id::State(id) => {
                let mut keys = 0;
                shard
                    .visit_keys(id, None, &mut |_, _, _| {
                        keys += 1;
                        ControlFlow::Continue(())
                    })
                    .unwrap();
                assert_eq!(keys, cells.len(), "keys of {name:?}, {kind:?}");
            }
            Id::Timers(timers) => {
                let all: usize = cells.values().map(Vec::len).sum();
                assert_eq!(shard.pending_timers(timers).unwrap(), all as u64);
            }
        }
    }
}

/// A manifest lists what the model has, and every state that a table holds is
/// one of these or said to be dropped.
fn check_manifest(env: &SimEnv, handle: &SnapshotHandle, model: &Model) -> Manifest {
    let store = store_on(env, CHECKPOINTS).unwrap();
    let manifest = manifest_of(&store, handle).unwrap();
    let listed: Vec<&str> = manifest.states.iter().map(|state| &*state.name).collect();
    assert_eq!(listed, model.keys().copied().collect::<Vec<_>>());
    for table in &manifest.tables {
        let bytes = store.open(&table.location).unwrap();
        let reader = TableReader::open(bytes, &table.meta).unwrap();
        let held: Vec<&str> = reader.states().iter().map(|state| &*state.name).collect();
        for name in &table.dropped {
            assert!(held.contains(&&**name), "{name:?} is not in the table");
        }
        for name in held {
            let counts = !table.dropped.iter().any(|dropped| dropped == name);
            assert!(!counts || listed.contains(&name), "{name:?} counts and is not listed");
        }
    }
    manifest
}

struct Job<'a> {
    env: &'a SimEnv,
    rng: SimRng,
    backend: Backend,
    shards: Vec<Shard>,
    now: Image,
    next: u64,
    pending: Vec<(Vec<SnapshotTicket>, Image)>,
    done: Vec<(Vec<SnapshotHandle>, Image)>,
}

impl Job<'_> {
    fn restart(&mut self) {
        let parallelism = 1 + self.rng.below(3) as u32;
        let at = self.rng.below(self.done.len() as u64 + 1) as usize;
        let (handles, image) = self.done.get(at).cloned().unwrap_or_default();
        self.pending.clear();
        self.shards.clear();
        let builder = backend_on(self.env)
            .max_tables_per_shard([1, 2, 3, 50][self.rng.below(4) as usize])
            .partition_bytes([1, 700, 3_000, 32 << 20][self.rng.below(4) as usize])
            .warm_up(self.rng.one_in(2));
        self.backend = {
            // The old one lets go of its directory.
            let elsewhere = common::backend_on(self.env, &Keyspace::new(MAX, [""; 0]));
            drop(std::mem::replace(&mut self.backend, closed(elsewhere)));
            builder.open().unwrap()
        };
        self.now = image.on(parallelism);
        self.shards = (0..parallelism)
            .map(|index| {
                let shard = self.backend.shard(OPERATOR, range_of(index, parallelism, MAX));
                shard.restore(handles.iter().cloned()).open().unwrap()
            })
            .collect();
    }

    fn change(&mut self) {
        let key = self.rng.below(u64::from(KEYS)) as u8;
        let name = NAMES[self.rng.below(3) as usize];
        let what = self.rng.below(200) as u8;
        let group = alluvium::KeyGroup(group_of(&[key], MAX));
        let at = self.shards.iter().position(|shard| shard.groups().contains(group)).unwrap();
        let some_kind = KINDS[self.rng.below(4) as usize];
        let kind = *self.now.kinds.entry(name).or_insert(some_kind);
        let cells = self.now.shards[at].entry(name).or_default();
        if self.rng.one_in(5) {
            remove(&mut self.shards[at], cells, (name, kind), key);
        } else {
            add(&mut self.shards[at], cells, (name, kind), key, what);
        }
    }

    fn drop_state(&mut self) {
        let name = NAMES[self.rng.below(3) as usize];
        let only = self.rng.one_in(3).then(|| self.rng.below(self.shards.len() as u64) as usize);
        for (at, shard) in self.shards.iter_mut().enumerate() {
            if only.is_none_or(|only| only == at) {
                let was_there = self.now.shards[at].remove(name).is_some();
                assert_eq!(shard.drop_state(name).unwrap(), was_there);
            }
        }
        if only.is_none() {
            self.now.kinds.remove(name);
        }
    }

    fn snapshot(&mut self) {
        let id = SnapshotId(self.next);
        self.next += 1;
        let tickets =
            self.shards.iter_mut().map(|shard| shard.snapshot(id, b"").unwrap()).collect();
        self.pending.push((tickets, self.now.clone()));
    }

    fn finish(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let at = self.rng.below(self.pending.len() as u64) as usize;
        let (tickets, image) = self.pending.remove(at);
        if self.rng.one_in(4) {
            tickets.iter().for_each(SnapshotTicket::cancel);
        }
        let reports: Result<Vec<_>, _> = tickets.iter().map(SnapshotTicket::wait).collect();
        let Ok(reports) = reports else { return };
        let handles: Vec<_> = reports.into_iter().map(|report| report.handle).collect();
        for (handle, model) in handles.iter().zip(&image.shards) {
            check_manifest(self.env, handle, model);
        }
        let snapshot = handles[0].snapshot();
        for shard in &mut self.shards {
            match self.rng.below(3) {
                0 => shard.notify_aborted(snapshot),
                1 => {}
                _ => shard.notify_complete(snapshot),
            }
        }
        self.done.push((handles, image));
    }

    fn step(&mut self) {
        match self.rng.below(40) {
            0..20 => self.change(),
            20..24 => self.drop_state(),
            24..28 => self.snapshot(),
            28..31 => self.finish(),
            31..35 => drop(self.backend.run_background()),
            35..37 => {
                for shard in &mut self.shards {
                    shard.warm_up(3).unwrap();
                }
            }
            37..39 => {
                for (shard, model) in self.shards.iter_mut().zip(&self.now.shards) {
                    assert_holds(shard, model, &self.now.kinds);
                }
            }
            _ => self.restart(),
        }
    }
}

/// A backend that is in nobody's way.
fn closed(builder: BackendBuilder) -> Backend {
    drop(builder);
    Backend::builder("/elsewhere")
        .env(Arc::new(SimEnv::new(1)))
        .background_threads(0)
        .open()
        .unwrap()
}

#[test]
fn dropped_states_stay_dropped_whatever_happens() {
    let seeds: Vec<u64> = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..150).collect(),
    };
    for seed in seeds {
        println!("SEED={seed}");
        let env = SimEnv::new(seed);
        let mut job = Job {
            env: &env,
            rng: SimRng::new(seed),
            backend: closed(backend_on(&env)),
            shards: Vec::new(),
            now: Image::default(),
            next: 1,
            pending: Vec::new(),
            done: Vec::new(),
        };
        job.restart();
        for _ in 0..300 {
            job.step();
        }
        for (shard, model) in job.shards.iter_mut().zip(&job.now.shards) {
            assert_holds(shard, model, &job.now.kinds);
        }
    }
}

fn open_one(backend: &Backend, handles: &[SnapshotHandle]) -> Shard {
    let shard = backend.shard(OPERATOR, range_of(0, 1, MAX));
    shard.restore(handles.iter().cloned()).open().unwrap()
}

fn snapshot(shard: &mut Shard, id: u64) -> SnapshotHandle {
    shard.snapshot(SnapshotId(id), b"").unwrap().wait().unwrap().handle
}

#[test]
fn memory_of_a_dropped_state_is_given_back_at_once() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let kept: ValueState<u64, u64> = ValueState::register(&mut shard, "kept").unwrap();
    kept.put(&mut shard, &1, &1).unwrap();
    let before = shard.stats();
    for round in 0..20 {
        let large: ValueState<u64, Vec<u8>> = ValueState::register(&mut shard, "large").unwrap();
        let timers: Timers<u64> = Timers::processing_time(&mut shard, "timers").unwrap();
        for key in 0..2_000 {
            large.put(&mut shard, &key, &vec![round; 1_000]).unwrap();
            timers.register(&mut shard, &key, key as i64).unwrap();
        }
        let during = shard.stats();
        assert!(during.arena_used_bytes > before.arena_used_bytes + 2_000_000);
        assert!(during.timer_queue_bytes > before.timer_queue_bytes);
        if round % 3 == 0 {
            snapshot(&mut shard, 1 + u64::from(round));
        }
        assert!(shard.drop_state("large").unwrap());
        assert!(shard.drop_state("timers").unwrap());
        let after = shard.stats();
        assert_eq!(after.records, before.records);
        assert_eq!(after.arena_used_bytes, before.arena_used_bytes);
        assert_eq!(after.arena_mapped_bytes, before.arena_mapped_bytes);
        assert!(after.timer_queue_bytes <= before.timer_queue_bytes + 20 * 4096);
    }
}

#[test]
fn a_snapshot_in_flight_keeps_the_state_as_of_its_barrier() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let state: ValueState<u64, u64> = ValueState::register(&mut shard, "s").unwrap();
    for key in 0..100 {
        state.put(&mut shard, &key, &key).unwrap();
    }
    let before = shard.snapshot(SnapshotId(1), b"").unwrap();
    shard.drop_state("s").unwrap();
    let after = shard.snapshot(SnapshotId(2), b"").unwrap();
    let again: ValueState<u64, u64> = ValueState::register(&mut shard, "s").unwrap();
    again.put(&mut shard, &7, &70).unwrap();
    let last = shard.snapshot(SnapshotId(3), b"").unwrap();
    let [before, after, last] = [before, after, last].map(|ticket| ticket.wait().unwrap().handle);
    let expected = |handle: &SnapshotHandle, key: u64| match handle.snapshot().0 {
        1 => Some(key),
        2 => None,
        _ => (key == 7).then_some(70),
    };
    drop(shard);
    for handle in [&before, &after, &last] {
        let mut shard = open_one(&backend, std::slice::from_ref(handle));
        assert_eq!(shard.states().len(), usize::from(handle.snapshot().0 != 2));
        let state: ValueState<u64, u64> = ValueState::register(&mut shard, "s").unwrap();
        for key in 0..100 {
            assert_eq!(state.get(&mut shard, &key).unwrap(), expected(handle, key), "key {key}");
        }
    }
}

#[test]
fn merges_leave_out_what_was_dropped() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env).max_tables_per_shard(1).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let kept: ValueState<u64, u64> = ValueState::register(&mut shard, "kept").unwrap();
    let gone: ValueState<u64, Vec<u8>> = ValueState::register(&mut shard, "gone").unwrap();
    kept.put(&mut shard, &1, &1).unwrap();
    for key in 0..500 {
        gone.put(&mut shard, &key, &vec![key as u8; 100]).unwrap();
    }
    let first = snapshot(&mut shard, 1);
    shard.drop_state("gone").unwrap();
    kept.put(&mut shard, &2, &2).unwrap();
    // It comes back with other values, which does not keep the tables apart.
    let again: ValueState<u64, u64> = ValueState::register(&mut shard, "gone").unwrap();
    again.put(&mut shard, &1, &1).unwrap();
    let listed = BTreeMap::from([("gone", Cells::new()), ("kept", Cells::new())]);
    let second = snapshot(&mut shard, 2);
    let manifest = check_manifest(&env, &second, &listed);
    assert_eq!(manifest.tables[0].dropped, ["gone"]);
    while backend.run_background() {}
    let third = snapshot(&mut shard, 3);
    let manifest = check_manifest(&env, &third, &listed);
    assert_eq!(manifest.tables.len(), 1);
    assert_eq!(manifest.tables[0].dropped, [""; 0]);
    assert_eq!(manifest.tables[0].meta.records, 3);
    let bytes = |handle| {
        let store = store_on(&env, CHECKPOINTS).unwrap();
        manifest_of(&store, handle)
            .unwrap()
            .tables
            .iter()
            .map(|table| table.meta.bytes)
            .sum::<u64>()
    };
    assert!(bytes(&third) * 5 < bytes(&first), "{} of {}", bytes(&third), bytes(&first));
}

#[test]
fn tables_that_hold_nothing_but_dropped_states_are_let_go() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    for life in 1..6 {
        let state: ValueState<u64, u64> = ValueState::register(&mut shard, "s").unwrap();
        state.put(&mut shard, &life, &life).unwrap();
        let handle = snapshot(&mut shard, 2 * life);
        let store = store_on(&env, CHECKPOINTS).unwrap();
        assert_eq!(manifest_of(&store, &handle).unwrap().tables.len(), 1);
        shard.drop_state("s").unwrap();
        let handle = snapshot(&mut shard, 2 * life + 1);
        assert_eq!(manifest_of(&store, &handle).unwrap().tables, []);
        if life % 2 == 0 {
            drop(shard);
            shard = open_one(&backend, &[handle]);
            assert_eq!(shard.states(), []);
        }
    }
}

#[test]
fn numbers_and_views_of_a_dropped_state_say_that_it_was_dropped() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let state: ValueState<u64, u64> = ValueState::register(&mut shard, "sizes").unwrap();
    let timers: Timers<u64> = Timers::event_time(&mut shard, "timeouts").unwrap();
    state.put(&mut shard, &1, &1).unwrap();
    timers.register(&mut shard, &1, 10).unwrap();
    shard.drop_state("sizes").unwrap();
    shard.drop_state("timeouts").unwrap();
    for again in [false, true] {
        if again {
            let sizes: ValueState<u64, u64> = ValueState::register(&mut shard, "sizes").unwrap();
            sizes.put(&mut shard, &1, &5).unwrap();
            let timers: Timers<u64> = Timers::event_time(&mut shard, "timeouts").unwrap();
            timers.register(&mut shard, &1, 50).unwrap();
        }
        let of_values = [
            state.get(&mut shard, &1).map(drop),
            state.put(&mut shard, &1, &2),
            state.update(&mut shard, &1, |_| Some(3)),
            state.delete(&mut shard, &1),
            state.clear(&mut shard, &1),
            state.get_many(&mut shard, &[1, 2]).map(drop),
            state.update_many(&mut shard, &[1, 2], |_, _| Some(3)),
            state.keys(&mut shard).map(drop),
        ];
        let of_timers = [
            timers.register(&mut shard, &1, 20).map(drop),
            timers.delete(&mut shard, &1, 10).map(drop),
            timers.next(&mut shard).map(drop),
            timers.pending(&mut shard).map(drop),
            timers.watermark(&shard).map(drop),
            timers.pop_due(&mut shard, 100).map(drop),
        ];
        let of_values = of_values.map(|done| ("\"sizes\"", done));
        let of_timers = of_timers.map(|done| ("\"timeouts\"", done));
        for (name, done) in of_values.into_iter().chain(of_timers) {
            let error = done.unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(text.contains("dropped") && text.contains(name), "{text}");
        }
    }
    let sizes: ValueState<u64, u64> = ValueState::register(&mut shard, "sizes").unwrap();
    assert_eq!(sizes.get(&mut shard, &1).unwrap(), Some(5));
    let timers: Timers<u64> = Timers::event_time(&mut shard, "timeouts").unwrap();
    assert_eq!(timers.pending(&mut shard).unwrap(), 1);
}

/// Drops a state, and takes a snapshot of that, in the midst of a merge: from
/// within the migration of a value, which the merge calls.
#[test]
fn a_state_dropped_while_its_tables_are_merged_does_not_come_back() {
    const KEYS: u64 = 9_000;
    type Numbers = ValueState<u64, u64>;
    let env = SimEnv::new(1);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let moved: Numbers = ValueState::register(&mut shard, "moved").unwrap();
    let gone: Numbers = ValueState::register(&mut shard, "gone").unwrap();
    for key in 0..KEYS {
        moved.put(&mut shard, &key, &key).unwrap();
        gone.put(&mut shard, &key, &key).unwrap();
    }
    let first = snapshot(&mut shard, 1);
    drop((shard, backend));

    let backend = backend_on(&env).max_tables_per_shard(1).warm_up(false).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let shared: Arc<Mutex<Option<Shard>>> = Arc::default();
    let dropped: Arc<Mutex<Option<SnapshotTicket>>> = Arc::default();
    let (shard_of_merge, ticket_of_merge) = (Arc::clone(&shared), Arc::clone(&dropped));
    let texts = Evolving::new(StringCodec).older(Primitive::<u64>::default(), move |number| {
        let mut ticket = ticket_of_merge.lock().unwrap();
        if let Some(shard) = &mut *shard_of_merge.lock().unwrap()
            && ticket.is_none()
        {
            assert!(shard.drop_state("gone").unwrap());
            *ticket = Some(shard.snapshot(SnapshotId(3), b"").unwrap());
        }
        number.to_string()
    });
    let plain = Primitive::<()>::default();
    let moved: ValueState<u64, String, (), Primitive<u64>, _, Primitive<()>> =
        ValueState::with_codecs(&mut shard, "moved", Primitive::default(), plain, texts).unwrap();
    let gone: Numbers = ValueState::register(&mut shard, "gone").unwrap();
    gone.put(&mut shard, &1, &10).unwrap();
    moved.put(&mut shard, &1, &"one".to_owned()).unwrap();
    let ticket = shard.snapshot(SnapshotId(2), b"").unwrap();
    *shared.lock().unwrap() = Some(shard);
    let published = |ticket: &SnapshotTicket| ticket.try_poll().map(|done| done.unwrap().handle);
    while published(&ticket).is_none() {
        assert!(backend.run_background());
    }
    assert!(dropped.lock().unwrap().is_none(), "the merge has not begun");
    assert!(backend.run_background());
    let ticket = dropped.lock().unwrap().take().expect("the merge has migrated a value");
    let third = published(&ticket).expect("the merge let it go first");
    let mut shard = shared.lock().unwrap().take().unwrap();
    let fourth = snapshot(&mut shard, 4);
    let listed = BTreeMap::from([("moved", Cells::new())]);
    assert_eq!(check_manifest(&env, &third, &listed).tables.len(), 2, "not merged by then");
    let manifest = check_manifest(&env, &fourth, &listed);
    assert_eq!(manifest.tables.len(), 1, "merged by now");
    assert_eq!(manifest.tables[0].dropped, ["gone"]);
    for handle in [third, fourth] {
        let mut shard = open_one(&backend, &[handle]);
        let gone: Numbers = ValueState::register(&mut shard, "gone").unwrap();
        assert_eq!(gone.get(&mut shard, &1).unwrap(), None);
        assert_eq!(gone.keys(&mut shard).unwrap(), [0; 0]);
    }
}
