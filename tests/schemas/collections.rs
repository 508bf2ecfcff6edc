//! Elements of lists and values of maps change their types as single values do:
//! in reads, in the warm-up and in merges, one by one.

use std::collections::BTreeMap;

use alluvium::codec::{Codec, Evolving, Primitive, StringCodec};
use alluvium::env::SimEnv;
use alluvium::{Backend, ErrorKind, ListState, MapState, Result, Shard, SnapshotHandle};

use crate::common::{CHECKPOINTS, manifest_of, store_on};
use crate::{assert_says, backend_on, open, open_one, owns, settle, snapshot, warm_up};

type NoNamespace = Primitive<()>;
type Keys = Primitive<u64>;
type Lists<E, C> = ListState<u64, E, (), Keys, C, NoNamespace>;
type Maps<V, C> = MapState<u64, u64, V, (), Keys, Keys, C, NoNamespace>;

const KEYS: u64 = 40;

fn old() -> Primitive<u32> {
    Primitive::default()
}

/// What writes version 2, and reads version 1 as well.
fn new() -> impl Codec<String> {
    Evolving::new(StringCodec)
        .older(old(), |number| format!("number {number}, and some text that is longer"))
}

fn migrated(number: u32) -> String {
    format!("number {number}, and some text that is longer")
}

fn lists<E: 'static, C: Codec<E>>(shard: &mut Shard, codec: C) -> Result<Lists<E, C>> {
    Lists::with_codecs(shard, "lists", Keys::default(), NoNamespace::default(), codec)
}

fn maps<V: 'static, C: Codec<V>>(shard: &mut Shard, codec: C) -> Result<Maps<V, C>> {
    let (keys, none) = (Keys::default(), NoNamespace::default());
    Maps::with_codecs(shard, "maps", keys, none, Keys::default(), codec)
}

/// What should be there, as the newer version reads it.
#[derive(Clone, Default)]
struct Expected {
    lists: BTreeMap<u64, Vec<String>>,
    maps: BTreeMap<u64, BTreeMap<u64, String>>,
}

impl Expected {
    fn check<C: Codec<String>>(
        &self,
        shard: &mut Shard,
        lists: &Lists<String, C>,
        maps: &Maps<String, C>,
        keys: impl Iterator<Item = u64>,
    ) {
        for key in keys.filter(|&key| owns(shard, key)).collect::<Vec<_>>() {
            let list = self.lists.get(&key).cloned().unwrap_or_default();
            assert_eq!(lists.get(shard, &key).unwrap(), list, "list {key}");
            let map: Vec<_> =
                self.maps.get(&key).cloned().unwrap_or_default().into_iter().collect();
            assert_eq!(maps.entries(shard, &key).unwrap(), map, "map {key}");
        }
    }
}

/// Lists and maps of version 1, of every length up to several pages, in three
/// tables: some are only in the first, some grow, some are cleared in between.
fn version_1(env: &SimEnv) -> (SnapshotHandle, Expected) {
    let backend = backend_on(env).max_tables_per_shard(100).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let (lists, maps) = (lists(&mut shard, old()).unwrap(), maps(&mut shard, old()).unwrap());
    let mut expected = Expected::default();
    let mut handle = None;
    for epoch in 0..3_u32 {
        for key in (0..KEYS).filter(|key| epoch == 0 || key % 3 == u64::from(epoch)) {
            if key % 5 == u64::from(epoch) {
                lists.clear(&mut shard, &key).unwrap();
                maps.clear(&mut shard, &key).unwrap();
                expected.lists.remove(&key);
                expected.maps.remove(&key);
            }
            let many = if key == 7 { 900 } else { key as u32 % 11 };
            for number in 0..many {
                let number = 1000 * epoch + number;
                lists.add(&mut shard, &key, &number).unwrap();
                expected.lists.entry(key).or_default().push(migrated(number));
                let entry = u64::from(number * 7 % 1000);
                maps.put(&mut shard, &key, &entry, &number).unwrap();
                expected.maps.entry(key).or_default().insert(entry, migrated(number));
            }
        }
        handle = Some(snapshot(&mut shard, 1 + u64::from(epoch)));
    }
    (handle.unwrap(), expected)
}

/// Goes on with some keys in version 2, not all of them read before.
fn change<C: Codec<String>>(
    shard: &mut Shard,
    (lists, maps): (&Lists<String, C>, &Maps<String, C>),
    expected: &mut Expected,
) {
    for key in (0..KEYS).step_by(4).filter(|&key| owns(shard, key)).collect::<Vec<_>>() {
        let text = format!("new {key}");
        lists.add(shard, &key, &text).unwrap();
        expected.lists.entry(key).or_default().push(text.clone());
        maps.put(shard, &key, &3, &text).unwrap();
        expected.maps.entry(key).or_default().insert(3, text);
        if key % 8 == 0 {
            maps.remove(shard, &key, &7).unwrap();
            expected.maps.entry(key).or_default().remove(&7);
        }
    }
}

fn settled_snapshot(backend: &Backend, shard: &mut Shard, id: u64) -> SnapshotHandle {
    let handle = snapshot(shard, id);
    settle(backend);
    handle
}

/// Two versions, half of it read, a snapshot, and another life, on one shard and
/// on several, with and without a warm-up.
#[test]
fn elements_and_map_values_of_an_older_version_are_read_in_the_newer_one() {
    for (seed, warm) in [(1, false), (2, true)] {
        let env = SimEnv::new(seed);
        let (first, mut expected) = version_1(&env);
        let backend = backend_on(&env).max_tables_per_shard(100).warm_up(warm).open().unwrap();
        let mut shard = open_one(&backend, &[first]);
        let (list, map) = (lists(&mut shard, new()).unwrap(), maps(&mut shard, new()).unwrap());
        expected.check(&mut shard, &list, &map, 0..KEYS / 2);
        assert_eq!(shard.stats().dirty_records, 0, "reading changes nothing");
        assert_eq!(warm_up(&backend, &mut shard), warm);
        change(&mut shard, (&list, &map), &mut expected);
        let second = snapshot(&mut shard, 4);
        expected.check(&mut shard, &list, &map, 0..KEYS);
        drop((shard, backend));

        // Both versions stand side by side.
        let store = store_on(&env, CHECKPOINTS).unwrap();
        for state in &manifest_of(&store, &second).unwrap().states {
            assert_eq!(state.value_schema, new().schema(), "{}", state.name);
            assert_eq!(state.older_value_schemas, [old().schema()], "{}", state.name);
            assert_eq!(state.map_key_schema.is_some(), state.name == "maps");
        }
        for shards in [1, 3] {
            let backend = backend_on(&env).warm_up(warm).open().unwrap();
            for mut shard in open(&backend, shards, std::slice::from_ref(&second)) {
                let list = lists(&mut shard, new()).unwrap();
                let map = maps(&mut shard, new()).unwrap();
                if warm {
                    assert!(warm_up(&backend, &mut shard));
                }
                expected.check(&mut shard, &list, &map, 0..KEYS);
            }
        }
    }
}

#[test]
fn merges_migrate_elements_and_map_values() {
    let env = SimEnv::new(3);
    let (first, mut expected) = version_1(&env);
    let backend = backend_on(&env).max_tables_per_shard(1).warm_up(false).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let (list, map) = (lists(&mut shard, new()).unwrap(), maps(&mut shard, new()).unwrap());
    change(&mut shard, (&list, &map), &mut expected);
    settled_snapshot(&backend, &mut shard, 4);
    let merged = settled_snapshot(&backend, &mut shard, 5);
    assert_eq!(shard.stats().tables, 1);
    // The tables beneath are those of the restore until all is in memory.
    expected.check(&mut shard, &list, &map, 0..KEYS);
    drop((shard, backend));

    // Nothing of version 1 is left: the codec that knows it is not needed.
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[merged]);
    let (list, map) =
        (lists(&mut shard, StringCodec).unwrap(), maps(&mut shard, StringCodec).unwrap());
    expected.check(&mut shard, &list, &map, 0..KEYS);
}

#[test]
fn an_element_or_map_value_that_cannot_be_migrated_is_named_and_nothing_else_fails() {
    let env = SimEnv::new(4);
    let (first, expected) = version_1(&env);
    let picky = || {
        Evolving::new(StringCodec).older(old(), |number| {
            assert_ne!(number, 1899, "a step that fails");
            migrated(number)
        })
    };
    let mut lasts = Vec::new();
    for warm in [false, true] {
        let backend = backend_on(&env).warm_up(warm).max_tables_per_shard(1).open().unwrap();
        let mut shard = open_one(&backend, std::slice::from_ref(&first));
        let (list, map) = (lists(&mut shard, picky()).unwrap(), maps(&mut shard, picky()).unwrap());
        let fails = (0..KEYS)
            .filter(|key| expected.lists.get(key).is_some_and(|l| l.contains(&migrated(1899))));
        for key in fails {
            let error = list.get(&mut shard, &key).unwrap_err();
            assert_says(&error, ErrorKind::Invalid, &["\"lists\"", "element", "a step that fails"]);
            let error = map.entries(&mut shard, &key).unwrap_err();
            assert_says(&error, ErrorKind::Invalid, &["\"maps\"", "a step that fails"]);
        }
        let others = (0..KEYS)
            .filter(|key| expected.lists.get(key).is_none_or(|l| !l.contains(&migrated(1899))));
        expected.check(&mut shard, &list, &map, others.clone());
        // A merge that meets it leaves the tables apart; nothing is lost.
        list.add(&mut shard, &1000, &"new".to_owned()).unwrap();
        map.put(&mut shard, &1000, &1, &"new".to_owned()).unwrap();
        settled_snapshot(&backend, &mut shard, 4);
        let last = settled_snapshot(&backend, &mut shard, 5);
        assert!(shard.stats().tables > 1);
        lasts.push(last);
    }
    for last in lasts {
        let backend = backend_on(&env).open().unwrap();
        let mut shard = open_one(&backend, &[last]);
        let (list, map) = (lists(&mut shard, new()).unwrap(), maps(&mut shard, new()).unwrap());
        expected.check(&mut shard, &list, &map, 0..KEYS);
        assert_eq!(list.get(&mut shard, &1000).unwrap(), ["new"]);
        assert_eq!(map.get(&mut shard, &1000, &1).unwrap(), Some("new".to_owned()));
    }
}

#[test]
fn the_codec_of_map_keys_is_compared_and_never_migrated() {
    let env = SimEnv::new(5);
    let (first, expected) = version_1(&env);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let other: Result<MapState<u64, String, u32>> = MapState::register(&mut shard, "maps");
    assert_says(
        &other.unwrap_err(),
        ErrorKind::Incompatible,
        &["map key codec", "\"maps\"", "u64", "string"],
    );
    let (list, map) = (lists(&mut shard, new()).unwrap(), maps(&mut shard, new()).unwrap());
    expected.check(&mut shard, &list, &map, 0..KEYS);
}
