//! Typed states of every kind, on the engine, without and with a time to live, and
//! on the reference store of the conformance suite.

#[path = "conformance/engine.rs"]
#[allow(dead_code, reason = "what is asked of the engine here is a part of what it can")]
mod engine;
#[allow(dead_code, unused_imports, unused_macros, reason = "made for the conformance suite")]
#[path = "conformance/harness.rs"]
mod harness;
#[path = "conformance/living.rs"]
mod living;
#[path = "conformance/reference.rs"]
mod reference;

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};

use alluvium::codec::{BytesCodec, Codec, CodecId, Primitive, StringCodec};
use alluvium::{
    Aggregate, AggregatingState, Backend, Error, ErrorKind, KeyedStore, ListState, MapState,
    MaxParallelism, ReducingState, Result, SnapshotId, StateSpec, ValueState,
};

use self::harness::{Deployment, Factory};

/// Whether lists, maps and enumeration are tried on the engine, too.
const ENGINE_SERVES_COLLECTIONS: bool = true;

/// Runs a test with a job of one shard on each store.
fn on_each(engine: bool, test: impl Fn(&mut dyn Deployment)) {
    let mut factories: Vec<(&str, &dyn Factory)> = vec![("reference", &reference::Reference)];
    if engine {
        factories.push(("engine", &const { engine::Engine::warm(living::never) }));
        factories.push(("engine with tables", &const { engine::Engine::cold(living::never) }));
        factories.push((
            "engine with a long time to live",
            &const { engine::Engine::warm(living::always) },
        ));
        factories.push((
            "engine whose time to live comes and goes",
            &const { engine::Engine::cold(living::ever_another) },
        ));
    }
    for (name, factory) in factories {
        println!("on the {name}");
        test(&mut *factory.deploy(MaxParallelism::DEFAULT, 1));
    }
}

/// Goes back to a snapshot that is taken now.
fn restart(job: &mut dyn Deployment) {
    let snapshot = job.snapshot();
    job.restore(snapshot, 1);
}

#[track_caller]
fn assert_names<T>(state: &str, kind: ErrorKind, outcome: Result<T>) {
    let Err(error) = outcome else { panic!("the call succeeded") };
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(&format!("state {state:?}")), "{error}");
}

/// Numbers, of which some do not like to be stored or read.
#[derive(Clone, Copy, Default)]
struct Picky;

const REFUSED: u64 = 13;
const PANICS: u64 = 14;
const UNREADABLE: u64 = 15;
const PANICS_WHEN_READ: u64 = 16;

impl Codec<u64> for Picky {
    fn id(&self) -> CodecId {
        CodecId::new("picky", 1)
    }

    fn encode(&self, value: &u64, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&value.to_be_bytes());
        match *value {
            REFUSED => Err(Error::invalid("not this number")),
            PANICS => panic!("the codec panics"),
            _ => Ok(()),
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<u64> {
        match Primitive::<u64>::default().decode(bytes)? {
            UNREADABLE => Err(Error::corrupt("not this number")),
            PANICS_WHEN_READ => panic!("the codec panics"),
            value => Ok(value),
        }
    }
}

/// Strings in the order in which they came, with what was done to them; some
/// letters make some methods panic.
struct Trace;

impl Aggregate for Trace {
    type In = char;
    type Acc = String;
    type Out = usize;

    fn create(&self) -> String {
        "<".to_owned()
    }

    fn add(&self, acc: &mut String, value: char) {
        acc.push(value);
        assert!(value != 'a', "no a is added");
    }

    fn merge(&self, into: &mut String, from: String) {
        into.push_str(&from);
        assert!(!from.contains('m'), "no m is merged");
    }

    fn result(&self, acc: String) -> usize {
        assert!(!acc.contains('r'), "no r is in a result");
        acc.len()
    }
}

fn concat(before: String, added: String) -> String {
    assert!(added != "bad", "a bad string came");
    before + &added
}

#[test]
fn reducing_and_aggregating_states_go_on_after_restores_on_other_shards() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::builder(dir.path()).open().unwrap();
    let max = backend.max_parallelism();
    let mut handles = Vec::new();
    for (round, shards) in [1, 3, 2].into_iter().enumerate() {
        let mut taken = Vec::new();
        for subtask in 0..shards {
            let groups = max.range_of_subtask(subtask, shards).unwrap();
            let shard = backend.shard("op", groups).restore(handles.iter().cloned());
            let mut shard = shard.open().unwrap();
            let most: ReducingState<u64, u64> =
                ReducingState::register(&mut shard, "most", u64::max).unwrap();
            let trace: AggregatingState<u64, Trace, u8> =
                AggregatingState::register(&mut shard, "trace", Trace).unwrap();
            let mut keys = 0;
            for key in 0..500 {
                let before = match most.get(&mut shard, &key) {
                    Ok(before) => before,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                        continue;
                    }
                };
                keys += 1;
                let last = [None, Some(key + 100), Some(key + 101)][round];
                assert_eq!(before, last, "key {key}");
                let namespace = (key % 3) as u8;
                let length = trace.get_in(&mut shard, &key, &namespace).unwrap();
                assert_eq!(length, (round > 0).then_some(1 + 2 * round), "key {key}");
                for added in [50, 100 + round as u64, 7] {
                    most.add(&mut shard, &key, key + added).unwrap();
                }
                for letter in ['x', 'y'] {
                    trace.add_in(&mut shard, &key, &namespace, letter).unwrap();
                }
            }
            assert!(keys > 100);
            let id = SnapshotId(round as u64 + 1);
            taken.push(shard.snapshot(id, b"").unwrap().wait().unwrap().handle);
        }
        handles = taken;
    }
}

#[test]
fn the_first_reduced_value_is_stored_as_it_is() {
    on_each(true, |job| {
        let store = job.store(0);
        let log: ReducingState<u8, String> = ReducingState::register(store, "log", concat).unwrap();
        assert_eq!(log.get(store, &1).unwrap(), None);
        log.add(store, &1, "bad".to_owned()).unwrap();
        log.add(store, &1, "x".to_owned()).unwrap();
        assert_eq!(log.get(store, &1).unwrap().as_deref(), Some("badx"));
        log.clear(store, &1).unwrap();
        restart(job);
        let store = job.store(0);
        let log: ReducingState<u8, String> = ReducingState::register(store, "log", concat).unwrap();
        assert_eq!(log.get(store, &1).unwrap(), None);
    });
}

#[test]
fn merged_values_go_from_the_target_through_the_sources_in_order() {
    on_each(true, |job| {
        let text = |letter: &str| letter.to_owned();
        let register = |store: &mut dyn KeyedStore| -> ReducingState<u8, String, u32> {
            ReducingState::register(store, "log", concat).unwrap()
        };
        let log = register(job.store(0));
        for key in 0..2 {
            for (namespace, letter) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
                log.add_in(job.store(0), &key, &namespace, text(letter)).unwrap();
            }
        }
        restart(job);
        let store = job.store(0);
        let log = register(store);
        // The target among the sources, one of them twice, and one that is empty.
        log.merge_namespaces(store, &0, &3, &[4, 3, 9, 1, 4]).unwrap();
        // Into nothing.
        log.merge_namespaces(store, &0, &7, &[2]).unwrap();
        // Nothing into something, and into nothing.
        log.merge_namespaces(store, &0, &7, &[100, 7]).unwrap();
        log.merge_namespaces(store, &0, &8, &[100]).unwrap();
        log.merge_namespaces(store, &0, &7, &[]).unwrap();
        for _ in 0..2 {
            let store = job.store(0);
            let log = register(store);
            for (namespace, expected) in
                [(1, None), (2, None), (3, Some("cda")), (4, None), (7, Some("b")), (8, None)]
            {
                let found = log.get_in(store, &0, &namespace).unwrap();
                assert_eq!(found.as_deref(), expected, "namespace {namespace}");
            }
            assert_eq!(log.get_in(store, &1, &1).unwrap().as_deref(), Some("a"));
            restart(job);
        }
    });
}

#[test]
fn merged_accumulators_go_from_the_target_through_the_sources_in_order() {
    on_each(true, |job| {
        let store = job.store(0);
        let trace: AggregatingState<u8, Trace, u32> =
            AggregatingState::register(store, "trace", Trace).unwrap();
        for (namespace, letter) in [(1, 'x'), (2, 'y'), (3, 'z')] {
            trace.add_in(store, &0, &namespace, letter).unwrap();
        }
        trace.merge_namespaces(store, &0, &2, &[3, 1]).unwrap();
        assert_eq!(trace.get_in(store, &0, &2).unwrap(), Some("<y<z<x".len()));
        assert_eq!(trace.get_in(store, &0, &1).unwrap(), None);
        assert_eq!(trace.get_in(store, &0, &3).unwrap(), None);
        restart(job);
        let stored = StateSpec::aggregating("trace")
            .key_codec(CodecId::new("u8", 1))
            .namespace_codec(CodecId::new("u32", 1))
            .value_codec(StringCodec.id());
        let store = job.store(0);
        let state = store.register(stored).unwrap();
        let key = alluvium::KeyRef::new(&[0]).namespace(&[0, 0, 0, 2]);
        assert_eq!(store.get(state, key).unwrap(), Some(&b"<y<z<x"[..]));
    });
}

#[test]
fn a_reduce_function_that_panics_leaves_everything_as_it_was() {
    let register = |store: &mut dyn KeyedStore| -> ReducingState<u8, String, u8> {
        ReducingState::register(store, "the log", concat).unwrap()
    };
    on_each(true, |job| {
        let store = job.store(0);
        let log = register(store);
        log.add_in(store, &1, &1, "good".to_owned()).unwrap();
        log.add_in(store, &1, &2, "fine".to_owned()).unwrap();
        log.add_in(store, &1, &3, "bad".to_owned()).unwrap();
        restart(job);
        let store = job.store(0);
        let log = register(store);
        let failed = log.add_in(store, &1, &1, "bad".to_owned());
        assert!(format!("{failed:?}").contains("a bad string came"), "{failed:?}");
        assert_names("the log", ErrorKind::Invalid, failed);
        let failed = log.merge_namespaces(store, &1, &1, &[2, 3]);
        assert_names("the log", ErrorKind::Invalid, failed);
        restart(job);
        let store = job.store(0);
        let log = register(store);
        for (namespace, expected) in [(1, "good"), (2, "fine"), (3, "bad")] {
            let found = log.get_in(store, &1, &namespace).unwrap();
            assert_eq!(found.as_deref(), Some(expected));
        }
        // And it goes on.
        log.add_in(store, &1, &1, "!".to_owned()).unwrap();
        assert_eq!(log.get_in(store, &1, &1).unwrap().as_deref(), Some("good!"));
    });
}

#[test]
fn an_aggregate_that_panics_leaves_everything_as_it_was() {
    on_each(true, |job| {
        let store = job.store(0);
        let trace: AggregatingState<u8, Trace, u8> =
            AggregatingState::register(store, "the trace", Trace).unwrap();
        trace.add_in(store, &1, &1, 'x').unwrap();
        trace.add_in(store, &1, &2, 'm').unwrap();
        trace.add_in(store, &1, &3, 'r').unwrap();
        let failures = [
            trace.add_in(store, &1, &1, 'a'),
            trace.add_in(store, &1, &9, 'a'),
            trace.merge_namespaces(store, &1, &1, &[3, 2]),
            trace.get_in(store, &1, &3).map(|_| ()),
        ];
        for failed in failures {
            assert_names("the trace", ErrorKind::Invalid, failed);
        }
        assert_eq!(trace.get_in(store, &1, &1).unwrap(), Some(2));
        assert_eq!(trace.get_in(store, &1, &2).unwrap(), Some(2));
        assert_eq!(trace.get_in(store, &1, &9).unwrap(), None);
        assert_names("the trace", ErrorKind::Invalid, trace.get_in(store, &1, &3));
    });
}

#[test]
fn a_codec_that_fails_is_told_with_the_state_which_is_as_it_was() {
    on_each(true, |job| {
        let store = job.store(0);
        let unit = Primitive::<()>::default;
        let sums: ReducingState<u64, u64, (), Picky, Picky, _> =
            ReducingState::with_codecs(store, "sums", Picky, unit(), Picky, |a, b| a + b).unwrap();
        sums.add(store, &1, 10).unwrap();
        for added in [REFUSED - 10, PANICS - 10] {
            assert_names("sums", ErrorKind::Invalid, sums.add(store, &1, added));
        }
        for value in [REFUSED, PANICS] {
            assert_names("sums", ErrorKind::Invalid, sums.add(store, &2, value));
            assert_names("sums", ErrorKind::Invalid, sums.add(store, &value, 1));
            assert_names("sums", ErrorKind::Invalid, sums.get(store, &value));
            assert_names("sums", ErrorKind::Invalid, sums.clear(store, &value));
        }
        assert_eq!(sums.get(store, &1).unwrap(), Some(10));
        assert_eq!(sums.get(store, &2).unwrap(), None);
        for (value, kind) in
            [(UNREADABLE, ErrorKind::Corrupt), (PANICS_WHEN_READ, ErrorKind::Invalid)]
        {
            sums.add(store, &value, value).unwrap();
            assert_names("sums", kind, sums.get(store, &value));
            assert_names("sums", kind, sums.add(store, &value, 1));
        }
    });
}

#[test]
fn lists_are_what_was_added_in_order() {
    on_each(ENGINE_SERVES_COLLECTIONS, |job| {
        let store = job.store(0);
        let list: ListState<String, u64> = ListState::register(store, "list").unwrap();
        let (key, other) = ("k".to_owned(), "other".to_owned());
        assert_eq!(list.get(store, &key).unwrap(), [0; 0]);
        list.add(store, &key, &3).unwrap();
        list.add_all(store, &key, &[1, 2]).unwrap();
        list.add_all(store, &other, &[]).unwrap();
        restart(job);
        let store = job.store(0);
        let list: ListState<String, u64> = ListState::register(store, "list").unwrap();
        list.add(store, &key, &1).unwrap();
        assert_eq!(list.get(store, &key).unwrap(), [3, 1, 2, 1]);
        assert_eq!(list.keys(store).unwrap(), ["k"]);
        list.replace(store, &key, &[9, 8]).unwrap();
        assert_eq!(list.get(store, &key).unwrap(), [9, 8]);
        list.replace(store, &key, &[]).unwrap();
        assert_eq!(list.keys(store).unwrap(), Vec::<String>::new());
        list.add(store, &key, &1).unwrap();
        list.clear(store, &key).unwrap();
        assert_eq!(list.get(store, &key).unwrap(), [0; 0]);
    });
}

#[test]
fn merged_lists_are_the_target_and_then_the_sources_in_order() {
    on_each(ENGINE_SERVES_COLLECTIONS, |job| {
        let store = job.store(0);
        let list: ListState<u8, String, u32> = ListState::register(store, "list").unwrap();
        for key in 0..2 {
            for namespace in 1..=4 {
                let elements = [format!("{namespace}a"), format!("{namespace}b")];
                list.add_all_in(store, &key, &namespace, &elements).unwrap();
            }
        }
        restart(job);
        let store = job.store(0);
        let list: ListState<u8, String, u32> = ListState::register(store, "list").unwrap();
        list.merge_namespaces(store, &0, &3, &[4, 3, 9, 1, 4]).unwrap();
        list.merge_namespaces(store, &0, &7, &[2]).unwrap();
        list.merge_namespaces(store, &0, &8, &[100]).unwrap();
        restart(job);
        let store = job.store(0);
        let list: ListState<u8, String, u32> = ListState::register(store, "list").unwrap();
        let merged = list.get_in(store, &0, &3).unwrap();
        assert_eq!(merged, ["3a", "3b", "4a", "4b", "1a", "1b"]);
        assert_eq!(list.get_in(store, &0, &7).unwrap(), ["2a", "2b"]);
        for namespace in [1, 2, 4, 8, 9] {
            assert_eq!(list.get_in(store, &0, &namespace).unwrap(), Vec::<String>::new());
            assert!(!list.keys_in(store, &namespace).unwrap().contains(&0));
        }
        assert_eq!(list.get_in(store, &1, &4).unwrap(), ["4a", "4b"]);
    });
}

#[test]
fn maps_are_what_was_put_in_the_order_of_their_bytes() {
    on_each(ENGINE_SERVES_COLLECTIONS, |job| {
        let store = job.store(0);
        let map: MapState<u8, i32, String> = MapState::register(store, "map").unwrap();
        assert!(map.is_empty(store, &1).unwrap());
        for number in [5, -7, 300, 0] {
            map.put(store, &1, &number, &number.to_string()).unwrap();
        }
        restart(job);
        let store = job.store(0);
        let map: MapState<u8, i32, String> = MapState::register(store, "map").unwrap();
        map.put(store, &1, &-1, &"-1".to_owned()).unwrap();
        map.remove(store, &1, &0).unwrap();
        map.remove(store, &1, &1).unwrap();
        assert_eq!(map.get(store, &1, &300).unwrap().as_deref(), Some("300"));
        assert_eq!(map.get(store, &1, &0).unwrap(), None);
        assert!(map.contains(store, &1, &-1).unwrap() && !map.contains(store, &1, &1).unwrap());
        assert_eq!(map.entry_keys(store, &1).unwrap(), [-7, -1, 5, 300]);
        assert_eq!(map.entry_values(store, &1).unwrap(), ["-7", "-1", "5", "300"]);
        let entries = map.entries(store, &1).unwrap();
        assert_eq!(entries[1], (-1, "-1".to_owned()));
        let mut seen = Vec::new();
        map.scan(store, &1, Bound::Excluded(&-7), |number, _| {
            seen.push(number);
            if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(seen, [-1, 5]);
        assert!(!map.is_empty(store, &1).unwrap());
        assert_eq!(map.keys(store).unwrap(), [1]);
        map.clear(store, &1).unwrap();
        assert!(map.is_empty(store, &1).unwrap());
        assert_eq!(map.entries(store, &1).unwrap(), []);
    });
}

#[test]
fn collections_with_a_failing_codec_are_as_they_were() {
    on_each(ENGINE_SERVES_COLLECTIONS, |job| {
        let store = job.store(0);
        let keys = || (Primitive::<u8>::default(), Primitive::<()>::default());
        let list: ListState<u8, u64, (), _, Picky, _> =
            ListState::with_codecs(store, "the list", keys().0, keys().1, Picky).unwrap();
        let map: MapState<u8, u64, u64, (), _, Picky, Picky, _> =
            MapState::with_codecs(store, "the map", keys().0, keys().1, Picky, Picky).unwrap();
        list.add_all(store, &1, &[1, 2]).unwrap();
        map.put(store, &1, &1, &1).unwrap();
        for bad in [REFUSED, PANICS] {
            let failures = [
                list.add(store, &1, &bad),
                list.add_all(store, &1, &[3, bad]),
                list.replace(store, &1, &[3, bad]),
            ];
            for failed in failures {
                assert_names("the list", ErrorKind::Invalid, failed);
            }
            let failures = [
                map.put(store, &1, &1, &bad),
                map.put(store, &1, &bad, &1),
                map.remove(store, &1, &bad),
                map.get(store, &1, &bad).map(|_| ()),
                map.contains(store, &1, &bad).map(|_| ()),
            ];
            for failed in failures {
                assert_names("the map", ErrorKind::Invalid, failed);
            }
        }
        assert_eq!(list.get(store, &1).unwrap(), [1, 2]);
        assert_eq!(map.entries(store, &1).unwrap(), [(1, 1)]);
        for (bad, kind) in
            [(UNREADABLE, ErrorKind::Corrupt), (PANICS_WHEN_READ, ErrorKind::Invalid)]
        {
            list.add_all(store, &2, &[1, bad, 2]).unwrap();
            assert_names("the list", kind, list.get(store, &2));
            list.clear(store, &2).unwrap();
            map.put(store, &2, &1, &bad).unwrap();
            map.put(store, &2, &2, &2).unwrap();
            assert_names("the map", kind, map.get(store, &2, &1));
            assert_names("the map", kind, map.entries(store, &2));
            assert_names("the map", kind, map.entry_values(store, &2));
            assert_eq!(map.entry_keys(store, &2).unwrap(), [1, 2]);
            map.clear(store, &2).unwrap();
        }
    });
}

#[test]
fn keys_are_enumerated_and_worked_on_while_the_state_changes() {
    on_each(ENGINE_SERVES_COLLECTIONS, |job| {
        let store = job.store(0);
        let counts: ValueState<u32, u64, u8> = ValueState::register(store, "counts").unwrap();
        let list: ListState<u32, u32> = ListState::register(store, "list").unwrap();
        for key in 0..100 {
            counts.put_in(store, &key, &((key % 2) as u8), &1).unwrap();
            list.add(store, &key, &key).unwrap();
        }
        restart(job);
        let store = job.store(0);
        let sums: ReducingState<u32, u64, u8> =
            ReducingState::register(store, "sums", |a, b| a + b).unwrap();
        let counts: ValueState<u32, u64, u8> = ValueState::register(store, "counts").unwrap();
        let list: ListState<u32, u32> = ListState::register(store, "list").unwrap();
        let mut visited = BTreeSet::new();
        counts
            .visit_keys(store, |key, namespace| {
                assert!(visited.insert((key, namespace)));
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(visited, (0..100).map(|key| (key, (key % 2) as u8)).collect());
        // Deletes what it is called for, and adds what it must not be called for.
        let mut calls = 0;
        counts
            .for_each_key_in(store, &1, |store, key| {
                calls += 1;
                counts.delete_in(store, key, &1)?;
                counts.put_in(store, &(key + 1000), &1, &1)?;
                sums.add_in(store, &(key % 10), &1, u64::from(*key))
            })
            .unwrap();
        assert_eq!(calls, 50);
        let left: BTreeSet<u32> = counts.keys_in(store, &1).unwrap().into_iter().collect();
        assert_eq!(left, (1001..1100).step_by(2).collect());
        let mut keys = sums.keys_in(store, &1).unwrap();
        keys.sort_unstable();
        assert_eq!(keys, [1, 3, 5, 7, 9]);
        // The first error ends it.
        let mut calls = 0;
        let failed = list.for_each_key(store, |store, key| {
            calls += 1;
            list.clear(store, key)?;
            if calls == 3 { Err(Error::unavailable("enough")) } else { Ok(()) }
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!((calls, list.keys(store).unwrap().len()), (3, 97));
    });
}

#[test]
fn keys_that_cannot_be_decoded_are_told_with_the_state() {
    on_each(ENGINE_SERVES_COLLECTIONS, |job| {
        let store = job.store(0);
        let none = Primitive::<()>::default();
        let list: ListState<u64, u8, (), Picky, _, _> =
            ListState::with_codecs(store, "the list", Picky, none, Primitive::default()).unwrap();
        list.add(store, &UNREADABLE, &1).unwrap();
        let visit = |_, ()| ControlFlow::Continue(());
        assert_names("the list", ErrorKind::Corrupt, list.keys(store));
        assert_names("the list", ErrorKind::Corrupt, list.visit_keys(store, visit));
        list.clear(store, &UNREADABLE).unwrap();
        list.add(store, &PANICS_WHEN_READ, &1).unwrap();
        assert_names("the list", ErrorKind::Invalid, list.keys(store));
    });
}

#[test]
fn a_state_of_another_kind_or_codec_is_refused() {
    on_each(true, |job| {
        let store = job.store(0);
        let _: ReducingState<u8, u64> =
            ReducingState::register(store, "reducing", |a, _| a).unwrap();
        let _: MapState<u8, u16, u64> = MapState::register(store, "map").unwrap();
        restart(job);
        let store = job.store(0);
        let refused = [
            ValueState::<u8, u64>::register(store, "reducing").map(|_| ()),
            ReducingState::<u8, u32>::register(store, "reducing", |a, _| a).map(|_| ()),
            ReducingState::<u8, u64, u8>::register(store, "reducing", |a, _| a).map(|_| ()),
            ListState::<u8, u64>::register(store, "map").map(|_| ()),
            MapState::<u8, u32, u64>::register(store, "map").map(|_| ()),
            MapState::<u8, u16, u32>::register(store, "map").map(|_| ()),
        ];
        for refused in refused {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Incompatible);
        }
        MapState::<u8, u16, u64>::register(store, "map").unwrap();
        MapState::<u8, Vec<u8>, u64>::with_codecs(
            store,
            "of bytes",
            Primitive::default(),
            Primitive::default(),
            BytesCodec,
            Primitive::default(),
        )
        .unwrap();
    });
}

#[test]
fn typed_states_may_go_to_the_thread_of_their_shard() {
    fn sent<T: Send>() {}
    sent::<ValueState<u8, u64, u8>>();
    sent::<ListState<u8, u64, u8>>();
    sent::<MapState<u8, u16, u64, u8>>();
    sent::<ReducingState<u8, u64, u8>>();
    sent::<AggregatingState<u8, Trace, u8>>();
}
