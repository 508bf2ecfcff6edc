//! Schemas of operator states: compared before anything is touched, migrated when
//! the state is opened, carried on as they are until then.

use alluvium::codec::{Codec, CodecId, Evolving, Primitive, StringCodec};
use alluvium::{BroadcastState, OperatorListState};

use crate::common::{CHECKPOINTS, manifest_of, store_on};
use crate::*;

type Numbers<C> = OperatorListState<u64, C>;

/// `u64`, which were `u32` once, and text before that.
fn evolved() -> impl Codec<u64> {
    Evolving::new(Primitive::<u64>::default())
        .older(Primitive::<u32>::default(), u64::from)
        .try_older(StringCodec, |text: String| {
            text.parse().map_err(|_| Error::corrupt("not a number").found(text))
        })
}

#[test]
fn elements_of_older_versions_are_migrated_when_the_state_is_opened() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let texts: OperatorListState<String> = OperatorListState::even_split(&mut shard, "n").unwrap();
    let old: Vec<String> = (0..10_000_u32).map(|number| number.to_string()).collect();
    texts.add_all(&mut shard, &old).unwrap();
    let handle = snapshot(&mut shard, 1);
    let mut shard = open_one(&backend, 0, 1, &[handle]).unwrap();
    let numbers = Numbers::even_split_with(&mut shard, "n", evolved()).unwrap();
    assert!(numbers.get(&shard).unwrap().into_iter().eq(0..10_000));
    numbers.add(&mut shard, &10_000).unwrap();
    let handle = snapshot(&mut shard, 2);
    let mut shard = open_one(&backend, 0, 1, &[handle]).unwrap();
    let numbers: OperatorListState<u64> = OperatorListState::even_split(&mut shard, "n").unwrap();
    assert!(numbers.get(&shard).unwrap().into_iter().eq(0..=10_000));
}

/// One subtask has opened the state with the new codec before the snapshot, one
/// has not; then the job is rescaled without anybody opening it.
#[test]
fn elements_of_several_versions_stand_side_by_side_until_they_are_migrated() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    for mode in [OperatorStateMode::List, OperatorStateMode::UnionList] {
        let is_union = mode == OperatorStateMode::UnionList;
        let mut shards = open(&backend, 3, &[]);
        for (index, shard) in shards.iter_mut().enumerate() {
            let texts: OperatorListState<String> = if is_union {
                OperatorListState::union(shard, "n").unwrap()
            } else {
                OperatorListState::even_split(shard, "n").unwrap()
            };
            texts.add_all(shard, &[10 * index, 10 * index + 1].map(|n| n.to_string())).unwrap();
        }
        let mut shards = open(&backend, 3, &snapshots(&mut shards, 1));
        let migrated = if is_union {
            let numbers = Numbers::union_with(&mut shards[1], "n", evolved()).unwrap();
            numbers.replace(&mut shards[1], &[10, 11]).unwrap();
            numbers
        } else {
            Numbers::even_split_with(&mut shards[1], "n", evolved()).unwrap()
        };
        migrated.add(&mut shards[1], &12).unwrap();
        let mut handles = snapshots(&mut shards, 2);
        for (id, parallelism) in [(3, 1), (4, 5), (5, 2)] {
            handles = snapshots(&mut open(&backend, parallelism, &handles), id);
            let store = store_on(&env, CHECKPOINTS).unwrap();
            let parts: usize = handles
                .iter()
                .map(|handle| manifest_of(&store, handle).unwrap().operator_states[0].parts.len())
                .sum();
            assert!((3..=7).contains(&parts), "neighbours of one version are one part: {parts}");
        }
        let mut found = Vec::new();
        for mut shard in open(&backend, 2, &handles) {
            let numbers = if is_union {
                Numbers::union_with(&mut shard, "n", evolved()).unwrap()
            } else {
                Numbers::even_split_with(&mut shard, "n", evolved()).unwrap()
            };
            found.push(numbers.get(&shard).unwrap());
        }
        if is_union {
            assert_eq!(found[0], found[1]);
            found.pop();
        } else {
            assert_eq!(found[0].len(), 4);
        }
        assert_eq!(found.concat(), [0, 1, 10, 11, 12, 20, 21]);
    }
}

#[test]
fn keys_and_values_of_broadcast_states_are_migrated_and_put_in_order_again() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let old: BroadcastState<String, u32> = BroadcastState::open(&mut shard, "rules").unwrap();
    for key in [9, 10, 100, 8] {
        old.put(&mut shard, &key.to_string(), &(key + 1)).unwrap();
    }
    assert_eq!(old.entries(&shard).unwrap()[0].0, "10", "by the bytes of the text");
    let handle = snapshot(&mut shard, 1);
    let mut shard = open_one(&backend, 0, 1, std::slice::from_ref(&handle)).unwrap();
    let rules = BroadcastState::with_codecs(&mut shard, "rules", evolved(), evolved()).unwrap();
    assert_eq!(rules.entries(&shard).unwrap(), [(8, 9), (9, 10), (10, 11), (100, 101)]);
    // Two keys that become one are not.
    let halves = Evolving::new(Primitive::<u64>::default())
        .older(StringCodec, |text: String| text.parse::<u64>().unwrap() / 2);
    let mut shard = open_one(&backend, 0, 1, &[handle]).unwrap();
    let refused = BroadcastState::with_codecs(&mut shard, "rules", halves, evolved());
    let error = refused.expect_err("8 and 9 are one half");
    assert_says(&error, ErrorKind::Invalid, &["\"rules\"", "two keys would become one"]);
    let old: BroadcastState<String, u32> = BroadcastState::open(&mut shard, "rules").unwrap();
    assert_eq!(old.len(&shard).unwrap(), 4, "it was as it was");
}

#[test]
fn a_codec_that_does_not_fit_is_refused_and_the_state_stays_as_it_was() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let numbers: OperatorListState<u64> = OperatorListState::even_split(&mut shard, "n").unwrap();
    let rules: BroadcastState<u64, u64> = BroadcastState::open(&mut shard, "rules").unwrap();
    let texts: OperatorListState<String> = OperatorListState::union(&mut shard, "texts").unwrap();
    numbers.add(&mut shard, &7).unwrap();
    rules.put(&mut shard, &1, &2).unwrap();
    texts.add_all(&mut shard, &["12".to_owned(), "dozen".to_owned()]).unwrap();
    // In the first life the states are open, in the second they are only restored.
    for life in 1..=2 {
        let error = OperatorListState::<u32>::even_split(&mut shard, "n").unwrap_err();
        assert_says(&error, ErrorKind::Incompatible, &["value codec", "\"n\"", "u32", "u64"]);
        let error = BroadcastState::<u32, u64>::open(&mut shard, "rules").unwrap_err();
        assert_says(&error, ErrorKind::Incompatible, &["key codec", "\"rules\"", "u32", "u64"]);
        let error = BroadcastState::<u64, i64>::open(&mut shard, "rules").unwrap_err();
        assert_says(&error, ErrorKind::Incompatible, &["value codec", "\"rules\"", "i64", "u64"]);
        let error = Numbers::union_with(&mut shard, "texts", evolved()).unwrap_err();
        if life == 1 {
            assert_says(&error, ErrorKind::Incompatible, &["in use with another codec"]);
        } else {
            let facts = ["\"texts\"", "element 1 of string", "to u64", "dozen"];
            assert_says(&error, ErrorKind::Corrupt, &facts);
        }
        let panics =
            Evolving::new(Primitive::<u64>::default()).older(StringCodec, |_| panic!("no way"));
        let error = Numbers::union_with(&mut shard, "texts", panics).unwrap_err();
        assert!(error.to_string().contains("\"texts\""), "{error}");
        let handle = snapshot(&mut shard, life);
        shard = open_one(&backend, 0, 1, &[handle]).unwrap();
    }
    let numbers: OperatorListState<u64> = OperatorListState::even_split(&mut shard, "n").unwrap();
    let rules: BroadcastState<u64, u64> = BroadcastState::open(&mut shard, "rules").unwrap();
    let texts: OperatorListState<String> = OperatorListState::union(&mut shard, "texts").unwrap();
    assert_eq!(numbers.get(&shard).unwrap(), [7]);
    assert_eq!(rules.entries(&shard).unwrap(), [(1, 2)]);
    assert_eq!(texts.get(&shard).unwrap(), ["12", "dozen"]);
}

#[test]
fn an_unopened_state_keeps_its_bytes_and_schema_in_every_further_snapshot() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let spec = OperatorStateSpec::broadcast("rules")
        .key_codec(CodecId::new("somebody's key", 3))
        .value_codec(alluvium::codec::Schema::new(CodecId::new("value", 2), *b"detail"));
    let state = shard.open_operator_state(spec).unwrap();
    for number in 0..3000_u32 {
        shard.broadcast_put(state, &number.to_be_bytes(), b"some value").unwrap();
    }
    let mut handle = snapshot(&mut shard, 1);
    let store = store_on(&env, CHECKPOINTS).unwrap();
    let first = manifest_of(&store, &handle).unwrap().operator_states;
    assert_eq!(first[0].items(), 6000);
    for id in 2..5 {
        handle = snapshot(&mut open_one(&backend, 0, 1, &[handle]).unwrap(), id);
        assert_eq!(manifest_of(&store, &handle).unwrap().operator_states, first);
    }
}
