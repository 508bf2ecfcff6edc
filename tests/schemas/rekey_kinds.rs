//! All kinds of typed state move to other keys, and maps to other user keys, by
//! way of the codecs of both.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use alluvium::codec::{Codec, Evolving, Primitive, StringCodec};
use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::{
    Aggregate, AggregatingState, Error, ErrorKind, KeyedStore, ListState, MapState, ReducingState,
    Result, Shard, SnapshotHandle, TimeDomain, Timers,
};

use crate::{assert_says, backend_on, files_of, open, open_one, settle, snapshot, warm_up};

const KEYS: u32 = 30;

struct Sum;

impl Aggregate for Sum {
    type In = u64;
    type Acc = u64;
    type Out = u64;

    fn create(&self) -> u64 {
        0
    }

    fn add(&self, acc: &mut u64, value: u64) {
        *acc += value;
    }

    fn merge(&self, into: &mut u64, from: u64) {
        *into += from;
    }

    fn result(&self, acc: u64) -> u64 {
        acc
    }
}

/// What each key (a number, in a window) holds.
#[derive(Clone, Default)]
struct Expected {
    lists: BTreeMap<(u32, u8), Vec<u32>>,
    maps: BTreeMap<(u32, u8), BTreeMap<u16, u64>>,
    sums: BTreeMap<(u32, u8), u64>,
    timers: BTreeMap<(i64, u32, u8), ()>,
}

/// Two snapshots' worth of changes, at random.
fn old_snapshot(env: &SimEnv, rng: &mut SimRng) -> (SnapshotHandle, Expected) {
    let backend = backend_on(env).open().unwrap();
    let shard = &mut open_one(&backend, &[]);
    let lists: ListState<u32, u32, u8> = ListState::register(shard, "lists").unwrap();
    let maps: MapState<u32, u16, u64, u8> = MapState::register(shard, "maps").unwrap();
    let most: ReducingState<u32, u64, u8> =
        ReducingState::register(shard, "reduced", |a, b| a + b).unwrap();
    let sums: AggregatingState<u32, Sum, u8> =
        AggregatingState::register(shard, "aggregated", Sum).unwrap();
    let timers: Timers<u32, u8> = Timers::event_time(shard, "timers").unwrap();
    let mut expected = Expected::default();
    let mut handle = None;
    for id in 1..4 {
        for _ in 0..400 {
            let (key, window) = (rng.below(u64::from(KEYS)) as u32, rng.below(3) as u8);
            let at = (key, window);
            let value = rng.below(1000);
            match rng.below(7) {
                0 => {
                    lists.add_in(shard, &key, &window, &(value as u32)).unwrap();
                    expected.lists.entry(at).or_default().push(value as u32);
                }
                1 | 2 => {
                    let entry = rng.below(300) as u16;
                    maps.put_in(shard, &key, &window, &entry, &value).unwrap();
                    expected.maps.entry(at).or_default().insert(entry, value);
                }
                3 => {
                    most.add_in(shard, &key, &window, value).unwrap();
                    sums.add_in(shard, &key, &window, value).unwrap();
                    *expected.sums.entry(at).or_default() += value;
                }
                4 => {
                    let time = value as i64;
                    timers.register_in(shard, &key, &window, time).unwrap();
                    expected.timers.insert((time, key, window), ());
                }
                5 => {
                    if let Some((&(time, key, window), ())) = expected.timers.first_key_value() {
                        assert!(timers.delete_in(shard, &key, &window, time).unwrap());
                        expected.timers.pop_first();
                    }
                }
                _ => {
                    lists.clear_in(shard, &key, &window).unwrap();
                    expected.lists.remove(&at);
                    if rng.one_in(3) {
                        maps.clear_in(shard, &key, &window).unwrap();
                        expected.maps.remove(&at);
                    }
                }
            }
        }
        handle = Some(snapshot(shard, id));
    }
    (handle.unwrap(), expected)
}

type OldNames = (Primitive<u32>, Primitive<u8>);

fn old_names() -> OldNames {
    (Primitive::default(), Primitive::default())
}

fn rename(key: u32, window: u8) -> Result<(String, u32)> {
    // Names that other keys had, as bytes, among them.
    Ok((format!("{:04}", (key + 1) % KEYS), u32::from(2 - window)))
}

fn rename_entry(entry: u16) -> Result<String> {
    Ok(format!("entry {}", 1000 - entry))
}

type Lists<C> = ListState<String, String, u32, StringCodec, C, Primitive<u32>>;
type Maps = MapState<String, String, u64, u32>;
type Reduced = ReducingState<String, u64, u32>;
type Aggregated = AggregatingState<String, Sum, u32>;

struct States<C: Codec<String>> {
    lists: Lists<C>,
    maps: Maps,
    reduced: Reduced,
    aggregated: Aggregated,
    timers: Timers<String, u32>,
}

fn texts() -> impl Codec<String> {
    Evolving::new(StringCodec).older(Primitive::<u32>::default(), |n| n.to_string())
}

fn rekey(
    shard: &mut Shard,
    renamed: &mut dyn FnMut(u32, u8) -> Result<(String, u32)>,
    entry: &mut dyn FnMut(u16) -> Result<String>,
) -> Result<States<impl Codec<String> + use<>>> {
    let (keys, windows) = (StringCodec, Primitive::<u32>::default());
    let numbers = Primitive::<u64>::default();
    let old_user_keys = Primitive::<u16>::default();
    let (old_keys, old_windows) = old_names();
    Ok(States {
        lists: ListState::rekeyed(
            shard,
            "lists",
            old_names(),
            (keys, windows, texts()),
            &mut *renamed,
        )?,
        maps: MapState::rekeyed(
            shard,
            "maps",
            (old_keys, old_windows, old_user_keys),
            (keys, windows, StringCodec, numbers),
            &mut *renamed,
            entry,
        )?,
        reduced: ReducingState::rekeyed(
            shard,
            "reduced",
            old_names(),
            (keys, windows, numbers),
            &mut *renamed,
            |a, b| a + b,
        )?,
        aggregated: AggregatingState::rekeyed(
            shard,
            "aggregated",
            old_names(),
            (keys, windows, numbers),
            &mut *renamed,
            Sum,
        )?,
        timers: Timers::rekeyed(
            shard,
            "timers",
            TimeDomain::Event,
            old_names(),
            (keys, windows),
            &mut *renamed,
        )?,
    })
}

fn assert_moved<C: Codec<String>>(shard: &mut Shard, states: &States<C>, expected: &Expected) {
    let mut live = [0; 3];
    for key in 0..KEYS {
        for window in 0..3 {
            let (name, to) = rename(key, window).unwrap();
            if !shard
                .groups()
                .contains(alluvium::KeyGroup(crate::common::group_of(name.as_bytes(), crate::MAX)))
            {
                continue;
            }
            let at = (key, window);
            let list = expected.lists.get(&at).cloned().unwrap_or_default();
            let list: Vec<String> = list.iter().map(u32::to_string).collect();
            assert_eq!(states.lists.get_in(shard, &name, &to).unwrap(), list, "{at:?}");
            let map = expected.maps.get(&at).cloned().unwrap_or_default();
            let mut map: Vec<_> = map
                .into_iter()
                .map(|(entry, value)| (rename_entry(entry).unwrap(), value))
                .collect();
            map.sort();
            assert_eq!(states.maps.entries_in(shard, &name, &to).unwrap(), map, "{at:?}");
            let sum = expected.sums.get(&at).copied();
            assert_eq!(states.reduced.get_in(shard, &name, &to).unwrap(), sum, "{at:?}");
            assert_eq!(states.aggregated.get_in(shard, &name, &to).unwrap(), sum, "{at:?}");
            live[0] += usize::from(!list.is_empty());
            live[1] += usize::from(!map.is_empty());
            live[2] += usize::from(sum.is_some());
        }
    }
    let ids = [states.lists.id(), states.maps.id(), states.reduced.id(), states.aggregated.id()];
    for (id, expected) in ids.into_iter().zip([live[0], live[1], live[2], live[2]]) {
        let mut keys = 0;
        let mut count = |_, _: &[u8], _: &[u8]| {
            keys += 1;
            ControlFlow::Continue(())
        };
        shard.visit_keys(id, None, &mut count).unwrap();
        assert_eq!(keys, expected, "{id:?}");
    }
}

/// Pops all timers; they are gone then.
fn pop_all<C: Codec<String>>(shard: &mut Shard, states: &States<C>) -> Vec<(i64, String, u32)> {
    let mut found: Vec<(i64, String, u32)> = Vec::new();
    while let Some(timer) = states.timers.pop_due(shard, 10_000).unwrap() {
        assert!(found.last().is_none_or(|(last, ..)| *last <= timer.timestamp));
        found.push((timer.timestamp, timer.key, timer.namespace));
    }
    found
}

fn timers_of(expected: &Expected) -> Vec<(i64, String, u32)> {
    let mut all: Vec<_> = expected
        .timers
        .keys()
        .map(|&(time, key, window)| {
            let (name, to) = rename(key, window).unwrap();
            (time, name, to)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn states_of_all_kinds_move_to_their_new_keys() {
    for seed in 0..12 {
        println!("seed {seed}");
        let env = SimEnv::new(seed);
        let (first, expected) = old_snapshot(&env, &mut SimRng::new(seed));
        let (tables, warm) = ([100, 1][seed as usize % 2], seed % 3 == 0);
        let mut handles = vec![first];
        for life in 0..3 {
            let backend = backend_on(&env).max_tables_per_shard(tables).warm_up(warm);
            let backend = backend.open().unwrap();
            let mut shard = open_one(&backend, &handles);
            if seed % 4 == 0 {
                // Untouched, it moves on as it was.
                snapshot(&mut shard, 5 + 10 * life);
                settle(&backend);
            }
            let mut renamed = 0;
            let states = rekey(
                &mut shard,
                &mut |key, window| {
                    renamed += 1;
                    rename(key, window)
                },
                &mut rename_entry,
            )
            .unwrap();
            assert_eq!(renamed > 0, life == 0, "once and for all");
            assert_moved(&mut shard, &states, &expected);
            let pending = states.timers.pending(&mut shard).unwrap();
            assert_eq!(pending, expected.timers.len() as u64);
            handles = vec![snapshot(&mut shard, 10 + 10 * life)];
            settle(&backend);
            warm_up(&backend, &mut shard);
            assert_moved(&mut shard, &states, &expected);
            let mut popped = pop_all(&mut shard, &states);
            popped.sort();
            assert_eq!(popped, timers_of(&expected));
        }
        let backend = backend_on(&env).open().unwrap();
        let mut popped = Vec::new();
        for mut shard in open(&backend, 3, &handles) {
            let states = rekey(&mut shard, &mut rename, &mut rename_entry).unwrap();
            assert_moved(&mut shard, &states, &expected);
            popped.extend(pop_all(&mut shard, &states));
        }
        popped.sort();
        assert_eq!(popped, timers_of(&expected));
    }
}

#[test]
fn a_renaming_that_fails_leaves_every_kind_as_it_was() {
    let env = SimEnv::new(1);
    let (first, expected) = old_snapshot(&env, &mut SimRng::new(1));
    let backend = backend_on(&env).warm_up(false).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let before = (files_of(&env), shard.stats(), shard.states());
    let (keys, windows) = (StringCodec, Primitive::<u32>::default());
    let numbers = Primitive::<u64>::default();
    let user_keys = Primitive::<u16>::default();
    type Names = fn(u32, u8) -> Result<(String, u32)>;
    let cases: [(Names, &str); 4] = [
        (|_, _| Ok(("one and the same".to_owned(), 0)), "two keys would become one"),
        (|_, _| Err(Error::invalid("no name for it")), "no name for it"),
        (|key, window| if key == 20 { panic!("twenty") } else { rename(key, window) }, "twenty"),
        (|key, window| Ok(("x".repeat(70_000), key + u32::from(window))), "too long"),
    ];
    let mut refused: Vec<(Error, &str, &str)> = Vec::new();
    for (names, fact) in cases {
        let lists =
            Lists::rekeyed(&mut shard, "lists", old_names(), (keys, windows, texts()), names);
        refused.push((lists.unwrap_err(), "\"lists\"", fact));
        let (old_keys, old_windows) = old_names();
        let maps = MapState::rekeyed(
            &mut shard,
            "maps",
            (old_keys, old_windows, user_keys),
            (keys, windows, StringCodec, numbers),
            names,
            rename_entry,
        );
        refused.push((maps.unwrap_err(), "\"maps\"", fact));
        let timers = Timers::rekeyed(
            &mut shard,
            "timers",
            TimeDomain::Event,
            old_names(),
            (keys, windows),
            names,
        );
        match timers {
            Err(error) => refused.push((error, "\"timers\"", fact)),
            Ok(_) => panic!("timers that should not move: {fact}"),
        }
    }
    type Entries = fn(u16) -> Result<String>;
    let cases: [(Entries, &str); 4] = [
        (|entry| Ok((entry / 100).to_string()), "two keys of a map would become one"),
        (|_| Err(Error::invalid("no name for it")), "no name for it"),
        (|entry| if entry > 150 { panic!("too many") } else { Ok(entry.to_string()) }, "too many"),
        (|_| Ok("x".repeat(70_000)), "too long"),
    ];
    for (names, fact) in cases {
        let (keys, windows) = old_names();
        let maps = MapState::entries_rekeyed(
            &mut shard,
            "maps",
            user_keys,
            (keys, windows, StringCodec, numbers),
            names,
        );
        refused.push((maps.unwrap_err(), "\"maps\"", fact));
    }
    for (error, name, fact) in &refused {
        assert_says(error, ErrorKind::Invalid, &[name, fact]);
    }
    // The old codecs must be what they are said to be.
    let (keys, windows) = old_names();
    let error = MapState::<u32, String, u64, u8>::entries_rekeyed(
        &mut shard,
        "maps",
        Primitive::<i16>::default(),
        (keys, windows, StringCodec, numbers),
        |entry: i16| Ok(entry.to_string()),
    )
    .unwrap_err();
    assert_says(&error, ErrorKind::Incompatible, &["map key codec", "\"maps\"", "u16", "i16"]);
    assert_eq!((files_of(&env), shard.stats(), shard.states()), before);

    let states = rekey(&mut shard, &mut rename, &mut rename_entry).unwrap();
    assert_moved(&mut shard, &states, &expected);
}

#[test]
fn a_snapshot_from_before_and_one_that_failed_hold_none_of_it() {
    let env = SimEnv::new(1);
    let (first, expected) = old_snapshot(&env, &mut SimRng::new(3));
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let before = snapshot(&mut shard, 5);
    let states = rekey(&mut shard, &mut rename, &mut rename_entry).unwrap();
    let cancelled = shard.snapshot(alluvium::SnapshotId(6), b"").unwrap();
    cancelled.cancel();
    assert!(cancelled.wait().is_err());
    assert_moved(&mut shard, &states, &expected);
    let after = snapshot(&mut shard, 7);
    drop(shard);
    for _ in 0..2 {
        let mut shard = open_one(&backend, std::slice::from_ref(&before));
        let lists: ListState<u32, u32, u8> = ListState::register(&mut shard, "lists").unwrap();
        let maps: MapState<u32, u16, u64, u8> = MapState::register(&mut shard, "maps").unwrap();
        for key in 0..KEYS {
            for window in 0..3 {
                let list = expected.lists.get(&(key, window)).cloned().unwrap_or_default();
                assert_eq!(lists.get_in(&mut shard, &key, &window).unwrap(), list);
                let map = expected.maps.get(&(key, window)).cloned().unwrap_or_default();
                let found = maps.entries_in(&mut shard, &key, &window).unwrap();
                assert_eq!(found, map.into_iter().collect::<Vec<_>>());
            }
        }
    }
    let mut shard = open_one(&backend, &[after]);
    let states = rekey(&mut shard, &mut rename, &mut rename_entry).unwrap();
    assert_moved(&mut shard, &states, &expected);
}
