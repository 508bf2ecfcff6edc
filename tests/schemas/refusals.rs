//! What does not fit is named, and nothing is changed; what a codec cannot do is
//! an error of the records in question and of no others.

use alluvium::codec::{Codec, CodecId, Compatibility, Evolving, Primitive, Schema, StringCodec};
use alluvium::env::SimEnv;
use alluvium::{Error, ErrorKind, KeyedStore, Result, SnapshotHandle, StateSpec, ValueState};

use crate::{assert_says, backend_on, files_of, open_one, register, settle, snapshot, warm_up};

type Numbers = Primitive<u32>;

/// A snapshot of ten numbers, `key * 3`.
fn numbers(env: &SimEnv) -> SnapshotHandle {
    let backend = backend_on(env).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let state = register(&mut shard, "numbers", Numbers::default()).unwrap();
    for key in 0..10 {
        state.put(&mut shard, &key, &(key as u32 * 3)).unwrap();
    }
    snapshot(&mut shard, 1)
}

fn texts() -> impl Codec<String> {
    Evolving::new(StringCodec).older(Numbers::default(), |number: u32| number.to_string())
}

#[test]
fn a_downgrade_is_refused_before_anything_is_touched() {
    let env = SimEnv::new(1);
    let first = numbers(&env);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    // Nothing is written: the newer version has seen the state, and that counts.
    register(&mut shard, "numbers", texts()).unwrap();
    let untouched = snapshot(&mut shard, 2);
    let state = register(&mut shard, "numbers", texts()).unwrap();
    state.put(&mut shard, &1, &"one".to_owned()).unwrap();
    let changed = snapshot(&mut shard, 3);
    drop((shard, backend));

    for handle in [untouched, changed] {
        let backend = backend_on(&env).open().unwrap();
        let mut shard = open_one(&backend, &[handle]);
        let before = (files_of(&env), shard.stats(), env.ops());
        let error = register(&mut shard, "numbers", Numbers::default()).unwrap_err();
        let facts = ["value codec", "\"numbers\"", "expected string", "found u32", "Evolving"];
        assert_says(&error, ErrorKind::Incompatible, &facts);
        assert_eq!((files_of(&env), shard.stats(), env.ops()), before);
        // The state is as it was, so the right codec still finds everything.
        let state = register(&mut shard, "numbers", texts()).unwrap();
        assert_eq!(state.get(&mut shard, &2).unwrap(), Some("6".to_owned()));
        assert!(warm_up(&backend, &mut shard));
        assert_eq!(shard.stats().records, 10);
    }
}

#[test]
fn every_part_is_compared_and_the_reason_names_the_difference() {
    let env = SimEnv::new(1);
    let first = numbers(&env);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let u64s = || StateSpec::value("numbers").key_codec(CodecId::new("u64", 1));
    let units = || u64s().namespace_codec(CodecId::new("unit", 1));
    for (spec, facts) in [
        (StateSpec::value("numbers"), ["key codec", "expected u64", "found bytes", "re-key"]),
        (u64s(), ["namespace codec", "expected unit", "found bytes", "re-key"]),
        (units(), ["value codec", "expected u32", "found bytes", "Evolving"]),
        (
            units().value_codec(CodecId::new("u32", 2)),
            ["version 2 of the codec has no way to read version 1", "u32@2", "u32", "Evolving"],
        ),
        (
            units().value_codec(CodecId::new("u32", 0)),
            ["stored version 1 is newer than version 0", "u32@0", "u32", "Evolving"],
        ),
        (
            units().value_codec(Schema::new(CodecId::new("u32", 1), *b"detail")),
            ["not the details", "expected u32", "found u32 #", "Evolving"],
        ),
    ] {
        let error = shard.register(spec).unwrap_err();
        assert_says(&error, ErrorKind::Incompatible, &["\"numbers\""]);
        assert_says(&error, ErrorKind::Incompatible, &facts);
    }
    for (name, codec, fact) in [
        ("", Schema::from(CodecId::new("u32", 1)), "name of a state"),
        ("new", CodecId::new("", 1).into(), "name of a codec"),
        ("new", Schema::new(CodecId::new("x", 1), vec![0; 256 * 1024 + 1]), "detail of a schema"),
    ] {
        let error = shard.register(StateSpec::value(name).value_codec(codec)).unwrap_err();
        assert_says(&error, ErrorKind::Invalid, &[fact]);
    }
    assert_eq!(shard.state_names().collect::<Vec<_>>(), ["numbers"]);
    register(&mut shard, "numbers", Numbers::default()).unwrap();
}

#[test]
fn a_state_has_one_codec_in_a_life() {
    let env = SimEnv::new(1);
    let first = numbers(&env);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let state = register(&mut shard, "numbers", Numbers::default()).unwrap();
    let error = register(&mut shard, "numbers", texts()).unwrap_err();
    let facts = ["\"numbers\"", "in use with another codec", "expected u32", "found string"];
    assert_says(&error, ErrorKind::Incompatible, &facts);
    assert_eq!(state.get(&mut shard, &2).unwrap(), Some(6));
}

/// Migrates everything but what it is told.
fn texts_but(bad: u32, panics: bool) -> impl Codec<String> {
    Evolving::new(StringCodec).try_older(Numbers::default(), move |number: u32| {
        if number == bad && panics {
            panic!("no text for {number}");
        }
        if number == bad {
            return Err(Error::invalid(format_args!("no text for {number}")));
        }
        Ok(number.to_string())
    })
}

#[test]
fn a_record_that_cannot_be_migrated_is_an_error_and_the_others_are_not() {
    for (panics, warm) in [(false, false), (false, true), (true, false), (true, true)] {
        let env = SimEnv::new(1);
        let first = numbers(&env);
        let backend = backend_on(&env).warm_up(warm).max_tables_per_shard(1).open().unwrap();
        let mut shard = open_one(&backend, &[first]);
        let state = register(&mut shard, "numbers", texts_but(6, panics)).unwrap();
        assert!(!warm_up(&backend, &mut shard), "one record cannot come into memory");
        for round in 0..4 {
            for key in 0..10 {
                let found = state.get(&mut shard, &key);
                if key == 2 {
                    let facts = ["\"numbers\"", "u32", "string", "no text for 6"];
                    assert_says(&found.unwrap_err(), ErrorKind::Invalid, &facts);
                    let error = state.update(&mut shard, &2, |_| panic!("not called"));
                    assert_says(&error.unwrap_err(), ErrorKind::Invalid, &facts);
                } else {
                    assert_eq!(found.unwrap(), Some((key * 3).to_string()), "key {key}");
                }
            }
            // Snapshots go on, and merges of all that can be merged.
            state.put(&mut shard, &(100 + round), &"new".to_owned()).unwrap();
            snapshot(&mut shard, 2 + round);
            settle(&backend);
        }
        assert_eq!(shard.stats().tables, 2, "the old one, and all that came later");
        // Overwritten, it is whole again, also for those who come later.
        state.put(&mut shard, &2, &"six".to_owned()).unwrap();
        let handle = snapshot(&mut shard, 7);
        drop((shard, backend));
        let backend = backend_on(&env).open().unwrap();
        let mut shard = open_one(&backend, &[handle]);
        let state = register(&mut shard, "numbers", texts()).unwrap();
        assert_eq!(state.get(&mut shard, &2).unwrap(), Some("six".to_owned()));
        assert_eq!(state.get(&mut shard, &3).unwrap(), Some("9".to_owned()));
        assert!(warm_up(&backend, &mut shard));
    }
}

/// Refuses 13 and panics at 66, in both directions.
#[derive(Clone)]
struct Superstitious;

impl Superstitious {
    fn look_at(value: u32) -> Result<u32> {
        assert_ne!(value, 66, "an ominous number");
        if value == 13 { Err(Error::invalid("an unlucky number")) } else { Ok(value) }
    }
}

impl Codec<u32> for Superstitious {
    fn id(&self) -> CodecId {
        CodecId::new("superstitious", 1)
    }

    fn encode(&self, value: &u32, out: &mut Vec<u8>) -> Result<()> {
        Primitive::<u32>::default().encode(&Self::look_at(*value)?, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<u32> {
        Self::look_at(Primitive::<u32>::default().decode(bytes)?)
    }

    fn compatibility(&self, stored: &Schema) -> Compatibility<u32> {
        panic!("asked about {stored}")
    }
}

#[test]
fn a_codec_that_fails_or_panics_is_an_error_that_names_the_state() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let state = register(&mut shard, "omens", Superstitious).unwrap();
    let keyed: ValueState<u32, u8, (), Superstitious> = ValueState::with_codecs(
        &mut shard,
        "by omen",
        Superstitious,
        Primitive::default(),
        Primitive::default(),
    )
    .unwrap();
    for (bad, fact) in [(13, "unlucky"), (66, "ominous")] {
        state.put(&mut shard, &1, &5).unwrap();
        for error in [
            state.put(&mut shard, &1, &bad).unwrap_err(),
            state.update(&mut shard, &1, |_| Some(bad)).unwrap_err(),
            state.update_many(&mut shard, &[1, 2], |_, _| Some(bad)).unwrap_err(),
        ] {
            assert_says(&error, ErrorKind::Invalid, &["\"omens\"", "encoded", fact]);
        }
        assert_eq!(state.get(&mut shard, &1).unwrap(), Some(5), "as it was");
        assert_eq!(state.get(&mut shard, &2).unwrap(), None, "as it was");
        // Stored behind the codec's back.
        let key = 1_u64.to_be_bytes();
        shard.put(state.id(), alluvium::KeyRef::new(&key), &bad.to_be_bytes()).unwrap();
        for error in [
            state.get(&mut shard, &1).unwrap_err(),
            state.get_many(&mut shard, &[1]).unwrap_err(),
            state.update(&mut shard, &1, |_| Some(1)).unwrap_err(),
        ] {
            assert_says(&error, ErrorKind::Invalid, &["\"omens\"", "decoded", fact]);
        }
        for error in [
            keyed.put(&mut shard, &bad, &1).unwrap_err(),
            keyed.get(&mut shard, &bad).unwrap_err(),
            keyed.get_many(&mut shard, &[1, bad]).unwrap_err(),
        ] {
            assert_says(&error, ErrorKind::Invalid, &["\"by omen\"", "encoded", fact]);
        }
    }
    drop((shard, backend));
    let first = numbers(&env);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let error = register(&mut shard, "numbers", Superstitious).unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["\"numbers\"", "asked about u32"]);
    register(&mut shard, "numbers", Numbers::default()).unwrap();
}
