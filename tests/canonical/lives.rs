//! Lives of a job with states of every kind, and its savepoints by every way.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::time::Duration;

use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::format::Compression;
use alluvium::{
    KeyGroup, KeyGroupRange, KeyRef, KeyedStore, OperatorStateSpec, OperatorStore, Shard,
    SnapshotHandle, StateId, StateSpec, TimeDomain, TimerSpec, TimerStore, Ttl,
};

use crate::common::group_of;
use crate::plain::{self, Entry, Name};
use crate::{
    backend_in, backend_on, export, export_by, handles_of, import, import_by, memory, open, ranges,
    snapshots, store_of,
};

type Bytes = Vec<u8>;

const SEEDS: u64 = 150;
const MAX: u32 = 16;
const OPERATORS: [&str; 2] = ["first", "second operator"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Value,
    List,
    Map,
    Timers(TimeDomain),
}

/// The states of each operator: name, kind, whether they have a time to live.
const STATES: [(&str, Kind, bool); 9] = [
    ("a list", Kind::List, false),
    ("a list that expires", Kind::List, true),
    ("a map", Kind::Map, false),
    ("a map that expires", Kind::Map, true),
    ("a value", Kind::Value, false),
    ("a value that expires", Kind::Value, true),
    ("nothing at all", Kind::Value, false),
    ("timers", Kind::Timers(TimeDomain::Event), false),
    ("timers by the clock", Kind::Timers(TimeDomain::Processing), false),
];

/// Key, namespace and the group that was chosen.
type Place = (Bytes, Bytes, Option<u16>);
/// What a place holds, with stamps: elements under no name, entries, times.
type Held = Vec<(Name, Option<i64>, Bytes)>;

#[derive(Clone, Default)]
struct Model {
    states: BTreeMap<(usize, usize), BTreeMap<Place, Held>>,
    watermark: Option<i64>,
    /// Elements of the divided list by shard, of the union list, and the broadcast map.
    list: Vec<Vec<Bytes>>,
    union: Vec<Bytes>,
    broadcast: BTreeMap<Bytes, Bytes>,
}

struct Life {
    rng: SimRng,
    chosen: bool,
    model: Model,
    ids: BTreeMap<usize, Vec<Option<StateId>>>,
}

fn spec(state: usize) -> StateSpec {
    let (name, kind, timed) = STATES[state];
    let spec = match kind {
        Kind::Value => StateSpec::value(name),
        Kind::List => StateSpec::list(name),
        Kind::Map => StateSpec::map(name),
        Kind::Timers(_) => unreachable!("timers are opened"),
    };
    if !timed {
        return spec;
    }
    spec.ttl(Ttl::after(Duration::from_secs(1 << 40)).time(TimeDomain::Event))
}

fn register(shard: &mut Shard) -> Vec<Option<StateId>> {
    let register = |state: usize| match STATES[state] {
        (name, Kind::Timers(time), _) => {
            shard.open_timers(TimerSpec::new(name, time)).unwrap();
            None
        }
        _ => Some(shard.register(spec(state)).unwrap()),
    };
    (0..STATES.len()).map(register).collect()
}

impl Life {
    fn place(&mut self) -> Place {
        let key = match self.rng.below(5) {
            0 => vec![0; self.rng.below(10) as usize],
            1 => vec![b'k'; 7 + self.rng.below(3) as usize],
            _ => format!("key {}", self.rng.below(12)).into_bytes(),
        };
        let namespace = [&b""[..], &[0], &[0, 0, 9], b"window 7"][self.rng.below(4) as usize];
        let sum = key.iter().fold(3_u32, |sum, byte| sum * 7 % 97 + u32::from(*byte));
        let group = (sum % MAX) as u16;
        let chosen = self.chosen && sum.is_multiple_of(3) && group != group_of(&key, MAX);
        (key, namespace.to_vec(), chosen.then_some(group))
    }

    fn value(&mut self) -> Bytes {
        let len = if self.rng.one_in(150) { 300_000 } else { self.rng.below(40) };
        let mut value = vec![0; len as usize];
        let random = value.len() / 2;
        self.rng.fill(&mut value[random..]);
        value
    }

    fn change(&mut self, shards: &mut [Vec<Shard>]) {
        let operator = self.rng.below(2) as usize;
        let state = self.rng.below(STATES.len() as u64) as usize;
        let (name, kind, timed) = STATES[state];
        if name.starts_with("nothing") {
            return;
        }
        let place = self.place();
        let (key, namespace, chosen) = &place;
        let at = match chosen {
            Some(group) => KeyRef::in_group(KeyGroup(*group), key),
            None => KeyRef::new(key),
        };
        let at = at.namespace(namespace);
        let group = KeyGroup(chosen.unwrap_or_else(|| group_of(key, MAX)));
        let shards = &mut shards[operator];
        let owner = shards.iter().position(|shard| shard.groups().contains(group)).unwrap();
        let shard = &mut shards[owner];
        let id = self.ids[&operator][state];
        let stamp = timed.then(|| self.model.watermark.unwrap_or(i64::MIN));
        let value = self.value();
        let held = self.model.states.entry((operator, state)).or_default();
        let now = held.entry(place.clone()).or_default();
        match (kind, self.rng.below(6)) {
            (Kind::Timers(_), what) => {
                let time =
                    1_000_000 + self.rng.below(6) as i64 * if what < 3 { 1 } else { -90_000 };
                let timers = shard
                    .open_timers(TimerSpec::new(
                        name,
                        match kind {
                            Kind::Timers(time) => time,
                            _ => unreachable!(),
                        },
                    ))
                    .unwrap();
                now.retain(|(known, _, _)| *known != Name::Time(time));
                if what == 0 {
                    shard.delete_timer(timers, time, at).unwrap();
                } else {
                    shard.register_timer(timers, time, at).unwrap();
                    now.push((Name::Time(time), None, Vec::new()));
                }
            }
            (_, 0) => {
                shard.clear(id.unwrap(), at).unwrap();
                now.clear();
            }
            (Kind::Value, _) => {
                shard.put(id.unwrap(), at, &value).unwrap();
                *now = vec![(Name::None, stamp, value)];
            }
            (Kind::List, what) => {
                let count = if self.rng.one_in(12) { 90 } else { 1 };
                let element = |number: u32| [&value[..], &number.to_le_bytes()].concat();
                let elements: Vec<Bytes> = (0..count).map(element).collect();
                let borrowed: Vec<&[u8]> = elements.iter().map(|element| &element[..]).collect();
                if what == 1 {
                    shard.list_replace(id.unwrap(), at, &borrowed).unwrap();
                    now.clear();
                } else {
                    shard.list_append(id.unwrap(), at, &borrowed).unwrap();
                }
                now.extend(elements.into_iter().map(|value| (Name::None, stamp, value)));
            }
            (Kind::Map, what) => {
                let entry = [b"".to_vec(), vec![0], vec![0, 0], b"entry".to_vec(), vec![7; 9]]
                    [self.rng.below(5) as usize]
                    .clone();
                now.retain(|(known, _, _)| *known != Name::Key(entry.clone()));
                if what == 1 {
                    shard.map_remove(id.unwrap(), at, &entry).unwrap();
                } else {
                    shard.map_put(id.unwrap(), at, &entry, &value).unwrap();
                    now.push((Name::Key(entry), stamp, value));
                }
            }
        }
        if kind != Kind::List {
            now.sort();
        }
        if now.is_empty() {
            held.remove(&place);
        }
    }

    fn change_operator_states(&mut self, shards: &mut [Shard]) {
        let at = self.rng.below(shards.len() as u64) as usize;
        let list = shards[at].open_operator_state(OperatorStateSpec::list("items")).unwrap();
        let item = self.value();
        shards[at].operator_list_add(list, &[&item]).unwrap();
        self.model.list[at].push(item);
        let (key, value) = (vec![self.rng.below(9) as u8; 2], self.value());
        for shard in shards {
            let spec = OperatorStateSpec::broadcast("rules");
            let rules = shard.open_operator_state(spec).unwrap();
            shard.broadcast_put(rules, &key, &value).unwrap();
        }
        self.model.broadcast.insert(key, value);
    }

    fn add_to_union(&mut self, shards: &mut [Shard]) {
        for (number, shard) in shards.iter_mut().enumerate() {
            let union = OperatorStateSpec::union_list("union of items");
            let union = shard.open_operator_state(union).unwrap();
            for item in 0..self.rng.below(4) {
                let item = vec![number as u8, item as u8];
                shard.operator_list_add(union, &[&item]).unwrap();
                self.model.union.push(item);
            }
        }
    }

    fn split(&mut self) -> Vec<KeyGroupRange> {
        let mut ends = BTreeSet::from([MAX as u16 - 1]);
        for _ in 0..self.rng.below(4) {
            ends.insert(self.rng.below(u64::from(MAX)) as u16);
        }
        let mut first = 0;
        ends.into_iter()
            .map(|last| {
                let range = KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap();
                first = last + 1;
                range
            })
            .collect()
    }
}

/// `all` in pieces: as many for each, and one more each of the first.
fn divided(all: &[Bytes], among: usize) -> Vec<Vec<Bytes>> {
    let mut counts = vec![0; among];
    (0..all.len()).for_each(|item| counts[item % among] += 1);
    let mut items = all.iter();
    counts.into_iter().map(|count| items.by_ref().take(count).cloned().collect()).collect()
}

/// What a savepoint should hold of one operator's state.
fn entries_of(held: Option<&BTreeMap<Place, Held>>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for ((key, namespace, group), held) in held.into_iter().flatten() {
        for (name, stamp, value) in held {
            entries.push(Entry {
                key: key.clone(),
                namespace: namespace.clone(),
                group: *group,
                name: name.clone(),
                schema: 0,
                stamp: *stamp,
                value: value.clone(),
            });
        }
    }
    entries
}

fn check(savepoint: &plain::Savepoint, model: &Model) {
    assert_eq!((&*savepoint.job, &*savepoint.user_meta), ("job", &b"offset 17"[..]));
    let names: Vec<&String> = savepoint.operators.keys().collect();
    assert_eq!(names, OPERATORS);
    for (operator, name) in OPERATORS.iter().enumerate() {
        let found = &savepoint.operators[*name];
        assert_eq!(found.watermark, model.watermark);
        for (state, (name, kind, timed)) in STATES.iter().enumerate() {
            let expected = entries_of(model.states.get(&(operator, state)));
            let found = &found.states[*name];
            assert!(found.entries == expected, "{operator} {name}: {:?}", (found, expected));
            assert_eq!(found.ttl.is_some(), *timed);
            let kinds = [Kind::Value, Kind::List, Kind::Map];
            let number = kinds.iter().position(|known| known == kind).map_or(6, |at| at as u8 + 1);
            assert_eq!(found.kind, number);
            assert_eq!(found.values.len(), 1);
            match kind {
                Kind::Timers(TimeDomain::Event) => {
                    assert_eq!(found.values[0].0, "timers.event_time");
                }
                Kind::Timers(_) => assert_eq!(found.values[0].0, "timers.processing_time"),
                _ => {}
            }
        }
        assert_eq!(found.states.len(), STATES.len());
        if operator == 1 {
            assert!(found.items.is_empty());
            continue;
        }
        let items = |name: &str| -> Vec<(Bytes, Bytes)> { found.items[name].items.clone() };
        let unnamed = |all: Vec<Bytes>| -> Vec<(Bytes, Bytes)> {
            all.into_iter().map(|item| (Vec::new(), item)).collect()
        };
        assert_eq!(items("items"), unnamed(model.list.concat()));
        assert_eq!(items("union of items"), unnamed(model.union.clone()));
        assert_eq!(items("rules"), model.broadcast.clone().into_iter().collect::<Vec<_>>());
        let modes: Vec<u8> = found.items.values().map(|items| items.mode).collect();
        assert_eq!(modes, [1, 3, 2]);
    }
}

/// Compares what shards say with the model.
fn check_shards(shards: &mut [Shard], operator: usize, model: &Model) {
    let ids: Vec<_> = shards.iter_mut().map(register).collect();
    for (state, (name, kind, _)) in STATES.iter().enumerate() {
        let mut pending = 0;
        for ((key, namespace, chosen), held) in
            model.states.get(&(operator, state)).into_iter().flatten()
        {
            let group = KeyGroup(chosen.unwrap_or_else(|| group_of(key, MAX)));
            let at = match chosen {
                Some(_) => KeyRef::in_group(group, key),
                None => KeyRef::new(key),
            };
            let at = at.namespace(namespace);
            let owner = shards.iter().position(|shard| shard.groups().contains(group)).unwrap();
            let shard = &mut shards[owner];
            let id = ids[owner][state];
            let mut found: Vec<(Name, Bytes)> = Vec::new();
            match kind {
                Kind::Value => {
                    let value = shard.get(id.unwrap(), at).unwrap().map(<[u8]>::to_vec);
                    found.extend(value.map(|value| (Name::None, value)));
                }
                Kind::List => {
                    let visit = &mut |element: &[u8]| found.push((Name::None, element.to_vec()));
                    shard.list_read(id.unwrap(), at, visit).unwrap();
                }
                Kind::Map => {
                    let visit = &mut |entry: &[u8], value: &[u8]| {
                        found.push((Name::Key(entry.to_vec()), value.to_vec()));
                        ControlFlow::Continue(())
                    };
                    shard.map_scan(id.unwrap(), at, Bound::Unbounded, visit).unwrap();
                }
                Kind::Timers(_) => {
                    pending += held.len() as u64;
                    continue;
                }
            }
            let expected: Vec<_> =
                held.iter().map(|(name, _, value)| (name.clone(), value.clone())).collect();
            assert!(found == expected, "{name} {key:?} {namespace:?}: {found:?} {expected:?}");
        }
        if let Kind::Timers(time) = kind {
            let of_shard = |shard: &mut Shard| {
                let timers = shard.open_timers(TimerSpec::new(name, *time)).unwrap();
                shard.pending_timers(timers).unwrap()
            };
            assert_eq!(shards.iter_mut().map(of_shard).sum::<u64>(), pending);
        }
    }
}

fn run(seed: u64) -> [bool; 3] {
    let mut rng = SimRng::new(seed);
    let env = SimEnv::new(rng.next_u64());
    let chosen = rng.one_in(2);
    let mut life = Life { rng, chosen, model: Model::default(), ids: BTreeMap::new() };
    let mut handles: Vec<Vec<SnapshotHandle>> = vec![Vec::new(); 2];
    let mut id = 0;
    for number in 0..1 + life.rng.below(3) {
        let backend = backend_on(&env, MAX)
            .max_tables_per_shard(1 + life.rng.below(5) as usize)
            .partition_bytes([1, 700, 32 << 20][life.rng.below(3) as usize])
            .open()
            .unwrap();
        let mut shards: Vec<Vec<Shard>> = Vec::new();
        for (operator, name) in OPERATORS.iter().enumerate() {
            let split = life.split();
            let mut opened = open(&backend, name, &split, &handles[operator]);
            let ids: Vec<_> = opened.iter_mut().map(register).collect();
            life.ids.insert(operator, ids[0].clone());
            shards.push(opened);
        }
        if life.model.list.len() != shards[0].len() {
            life.model.list = divided(&life.model.list.concat(), shards[0].len());
        }
        if number == 0 {
            life.add_to_union(&mut shards[0]);
            life.change_operator_states(&mut shards[0]);
        }
        for _ in 0..1 + life.rng.below(3) {
            for _ in 0..life.rng.below(120) {
                life.change(&mut shards);
            }
            if life.rng.one_in(2) {
                // Timers of event time are registered for times after it.
                let next = life.model.watermark.map_or(-50, |watermark| watermark + 10);
                life.model.watermark = Some(next);
                shards.iter_mut().flatten().for_each(|shard| shard.advance_watermark(next));
            }
            life.change_operator_states(&mut shards[0]);
            id += 1;
            handles = shards.iter_mut().map(|shards| snapshots(shards, id)).collect();
            let completed = alluvium::SnapshotId(id);
            shards.iter_mut().flatten().for_each(|shard| shard.notify_complete(completed));
            while backend.run_background() {}
        }
    }
    let all = handles.concat();
    let store = store_of(&env);
    let bytes = export(&store, &all);
    let savepoint = plain::read(&bytes);
    check(&savepoint, &life.model);

    // The same with little memory, and compressed.
    let packed =
        export_by(&store, &all, |export| export.sort_bytes(1).compression(Compression::Lz4));
    let packed = packed.unwrap();
    let of_packed = plain::read(&packed);
    assert!(of_packed == savepoint);

    // Through an import onto other shards, and whatever these do with it.
    let to = memory();
    let split = life.split();
    let with = split.clone();
    let table_bytes = [1, 500, 1 << 25][life.rng.below(3) as usize];
    let from = if life.rng.one_in(2) { &packed } else { &bytes };
    let imported = import_by(&to, from, |import| {
        let import = import.operator_groups(OPERATORS[0], with).operator_shards(OPERATORS[1], 3);
        import.table_bytes(table_bytes).sort_bytes(1)
    });
    let imported = imported.unwrap();
    assert!(export(&to, &handles_of(&imported)) == bytes, "an import and no shard");
    let registered = life.rng.one_in(2);
    let backend = backend_in(&to, MAX);
    let mut again = Vec::new();
    for (operator, split) in [life.split(), split].into_iter().enumerate() {
        let handles = &imported.operators[operator].handles;
        let mut shards = open(&backend, OPERATORS[operator], &split, handles);
        if registered {
            check_shards(&mut shards, operator, &life.model);
        }
        again.extend(snapshots(&mut shards, 2));
        while backend.run_background() {}
        if life.rng.one_in(2) {
            // Merged meanwhile.
            let merged = snapshots(&mut shards, 3);
            let kept = again.len() - merged.len();
            again.truncate(kept);
            again.extend(merged);
        }
    }
    assert!(export(&to, &again) == bytes, "restored from an import");

    // Restored by the engine's own way onto other shards.
    let backend = backend_on(&env, MAX).open().unwrap();
    let mut again = Vec::new();
    for (operator, name) in OPERATORS.iter().enumerate() {
        let split = life.split();
        let mut shards = open(&backend, name, &split, &handles[operator]);
        again.extend(snapshots(&mut shards, id + 1));
    }
    assert!(export(&store, &again) == bytes, "restored on other shards");

    // Another number of key groups and back, if the keys allow it.
    let has_chosen = life.model.states.values().flatten().any(|((_, _, group), _)| group.is_some());
    let max = |max| alluvium::MaxParallelism::new(max).unwrap();
    let to = memory();
    let wider =
        import_by(&to, &bytes, |import| import.shards(5).max_parallelism(max(1_000)).sort_bytes(1));
    assert_eq!(wider.is_err(), has_chosen);
    if let Ok(wider) = wider {
        let wide = export(&to, &handles_of(&wider));
        let back = import_by(&to, &wide, |import| import.shards(2).max_parallelism(max(MAX)));
        assert!(export(&to, &handles_of(&back.unwrap())) == bytes, "and back");
    }
    let _ = import(&memory(), &bytes, ranges(2, MAX).len() as u32);
    [has_chosen, registered, life.model.watermark.is_some()]
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// Names the seed of a life that fails.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} failed; ALLUVIUM_SEED={0} replays it", self.0);
        }
    }
}

#[test]
fn the_same_state_has_the_same_savepoint_on_any_number_of_shards() {
    let seeds = match number_from("ALLUVIUM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("ALLUVIUM_SEEDS").unwrap_or(SEEDS),
    };
    let mut happened = [[0; 2]; 3];
    for seed in seeds.clone() {
        let _naming = Naming(seed);
        for (count, what) in happened.iter_mut().zip(run(seed)) {
            count[usize::from(what)] += 1;
        }
    }
    if seeds.count() as u64 >= SEEDS {
        assert!(happened.iter().flatten().all(|count| *count > 10), "{happened:?}");
    }
}
