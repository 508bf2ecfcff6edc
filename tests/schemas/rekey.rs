//! Keys and namespaces change when they are asked to, all of them or none.

use alluvium::codec::{Codec, CodecId, Evolving, Primitive, StringCodec};
use alluvium::env::SimEnv;
use alluvium::{
    Error, ErrorKind, KeyGroup, KeyRef, KeyedStore, NewKey, OldCodecs, OldKey, Result, Shard,
    SnapshotHandle, StateSpec, ValueState,
};

use crate::common::{OPERATOR, range_of};
use crate::{MAX, assert_says, backend_on, files_of, open, open_one, settle, snapshot, warm_up};

/// Counts by number, in windows.
type Old = ValueState<u32, u64, u8>;
/// Texts by name, in wider windows.
type New<C> = ValueState<String, String, u32, StringCodec, C, Primitive<u32>>;

fn old_snapshot(env: &SimEnv) -> SnapshotHandle {
    let backend = backend_on(env).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let counts: Old = ValueState::register(&mut shard, "counts").unwrap();
    for key in 0..60 {
        counts.put_in(&mut shard, &key, &(key as u8 % 3), &u64::from(key)).unwrap();
    }
    snapshot(&mut shard, 1);
    for key in 0..10 {
        counts.delete_in(&mut shard, &key, &(key as u8 % 3)).unwrap();
        counts.put_in(&mut shard, &(key + 10), &((key + 10) as u8 % 3), &7).unwrap();
    }
    snapshot(&mut shard, 2)
}

fn rename(key: u32, window: u8) -> Result<(String, u32)> {
    Ok((format!("user {key}"), u32::from(window) * 1000))
}

fn rekey(
    shard: &mut Shard,
    rename: &mut dyn FnMut(u32, u8) -> Result<(String, u32)>,
) -> Result<New<impl Codec<String> + use<>>> {
    let values = Evolving::new(StringCodec).older(Primitive::<u64>::default(), |n| format!("{n}"));
    let old = (Primitive::<u32>::default(), Primitive::<u8>::default());
    ValueState::rekeyed(
        shard,
        "counts",
        old,
        (StringCodec, Primitive::<u32>::default(), values),
        rename,
    )
}

fn expected(key: u32) -> Option<String> {
    match key {
        0..10 => None,
        10..20 => Some("7".to_owned()),
        _ => Some(key.to_string()),
    }
}

fn assert_rekeyed<C: Codec<String>>(shard: &mut Shard, state: &New<C>) {
    for key in 0..60 {
        let (name, window) = rename(key, key as u8 % 3).unwrap();
        for at in [0, 1000, 2000] {
            match state.get_in(shard, &name, &at) {
                Ok(found) => {
                    let expected = expected(key).filter(|_| at == window);
                    assert_eq!(found, expected, "{name} in {at}");
                }
                Err(error) => assert!(error.to_string().contains("another shard"), "{error}"),
            }
        }
        // Under the old bytes there is nothing any more.
        let (old, window) = (key.to_be_bytes(), [key as u8 % 3]);
        let old = KeyRef::new(&old).namespace(&window);
        if let Ok(found) = shard.get(state.id(), old) {
            assert_eq!(found, None, "old key {key}");
        }
    }
}

#[test]
fn all_records_move_to_their_new_keys_within_one_snapshot() {
    for (tables, warm) in [(100, true), (1, false), (1, true)] {
        let env = SimEnv::new(1);
        let mut handles = vec![old_snapshot(&env)];
        for life in 0_u64..4 {
            let backend = backend_on(&env).max_tables_per_shard(tables).warm_up(warm);
            let backend = backend.open().unwrap();
            let mut shard = open_one(&backend, &handles);
            let mut renamed = 0;
            let state = rekey(&mut shard, &mut |key, window| {
                renamed += 1;
                rename(key, window)
            })
            .unwrap();
            assert_eq!(renamed, if life == 0 { 50 } else { 0 }, "once and for all");
            assert_rekeyed(&mut shard, &state);
            handles = vec![snapshot(&mut shard, 10 + life)];
            settle(&backend);
            // Written anew it is all in memory; later it has to be brought up.
            assert_eq!(warm_up(&backend, &mut shard), warm || life == 0);
            assert_rekeyed(&mut shard, &state);
        }
        // From here on without the old codecs, on more shards.
        let backend = backend_on(&env).open().unwrap();
        for mut shard in open(&backend, 3, &handles) {
            let values = Evolving::new(StringCodec)
                .older(Primitive::<u64>::default(), |number| number.to_string());
            let state =
                New::with_codecs(&mut shard, "counts", StringCodec, Primitive::default(), values)
                    .unwrap();
            assert_rekeyed(&mut shard, &state);
        }
    }
}

#[test]
fn a_snapshot_from_before_holds_none_of_it() {
    let env = SimEnv::new(1);
    let first = old_snapshot(&env);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let before = snapshot(&mut shard, 5);
    let state = rekey(&mut shard, &mut rename).unwrap();
    drop((shard, state, backend));
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[before]);
    let counts: Old = ValueState::register(&mut shard, "counts").unwrap();
    for key in 0..60 {
        let found = counts.get_in(&mut shard, &key, &(key as u8 % 3)).unwrap();
        assert_eq!(found.map(|n| n.to_string()), expected(key), "key {key}");
    }
}

#[test]
fn a_renaming_that_fails_changes_nothing() {
    let env = SimEnv::new(1);
    let first = old_snapshot(&env);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let before = (files_of(&env), shard.stats());
    type Rename = fn(u32, u8) -> Result<(String, u32)>;
    let cases: [(Rename, &str); 5] = [
        (|key, _| Ok((format!("{}", key / 2), 0)), "two keys would become one"),
        (|key, _| Ok(("x".repeat(70_000 * (key as usize / 59)), key)), "too long"),
        (|_, _| Err(Error::invalid("no name for it")), "no name for it"),
        (|key, window| if key == 40 { panic!("forty") } else { rename(key, window) }, "forty"),
        (|_, _| Ok((String::new(), 0)), "twice"),
    ];
    for (mut rename, fact) in cases {
        let error = rekey(&mut shard, &mut rename).expect_err(fact);
        assert_says(&error, ErrorKind::Invalid, &["\"counts\"", fact]);
        assert_eq!((files_of(&env), shard.stats()), before);
    }
    // The old keys must be what they are said to be.
    let error = ValueState::<String, u64>::rekeyed(
        &mut shard,
        "counts",
        (Primitive::<i32>::default(), Primitive::<u8>::default()),
        (StringCodec, Primitive::default(), Primitive::<u64>::default()),
        |key: i32, _| Ok((key.to_string(), ())),
    )
    .unwrap_err();
    assert_says(&error, ErrorKind::Incompatible, &["key codec", "expected u32", "found i32"]);
    let state = rekey(&mut shard, &mut rename).unwrap();
    assert_rekeyed(&mut shard, &state);
    let error = ValueState::<u32, u64, u8>::register(&mut shard, "counts").unwrap_err();
    assert_says(&error, ErrorKind::Incompatible, &["key codec", "expected string", "found u32"]);
}

#[test]
fn a_new_key_of_another_shard_is_refused_unless_its_group_is_kept() {
    let env = SimEnv::new(1);
    let first = old_snapshot(&env);
    let backend = backend_on(&env).open().unwrap();
    let shard = backend.shard(OPERATOR, range_of(1, 2, MAX)).restore([first]);
    let mut shard = shard.open().unwrap();
    let error = rekey(&mut shard, &mut rename).expect_err("keys move to other groups");
    let facts = ["\"counts\"", "another shard", "kg64..=kg127", "one shard that owns all"];
    assert_says(&error, ErrorKind::Invalid, &facts);

    let spec = StateSpec::value("counts")
        .key_codec(CodecId::new("text", 1))
        .namespace_codec(CodecId::new("u8", 1))
        .value_codec(CodecId::new("u64", 1));
    let mut groups: Vec<(Vec<u8>, KeyGroup, Vec<u8>)> = Vec::new();
    let old = OldCodecs {
        keys: CodecId::new("u32", 1).into(),
        namespaces: CodecId::new("u8", 1).into(),
        map_keys: None,
    };
    let id = shard
        .register_rekeyed(spec, old, &mut |old: OldKey<'_>| {
            let number = u32::from_be_bytes(old.key.try_into().unwrap());
            let key = format!("user {number}").into_bytes();
            groups.push((key.clone(), old.group, old.namespace.to_vec()));
            Ok(NewKey { key, namespace: old.namespace.to_vec(), group: Some(old.group) })
        })
        .unwrap();
    assert!(groups.len() > 10);
    let handle = snapshot(&mut shard, 3);
    drop(shard);
    let shard = backend.shard(OPERATOR, range_of(3, 4, MAX)).restore([handle]);
    let mut shard = shard.open().unwrap();
    let spec = StateSpec::value("counts")
        .key_codec(CodecId::new("text", 1))
        .namespace_codec(CodecId::new("u8", 1))
        .value_codec(CodecId::new("u64", 1));
    assert_eq!(shard.register(spec).unwrap(), id);
    for (key, group, window) in groups.iter().filter(|(_, group, _)| group.0 >= 96) {
        let key = KeyRef::in_group(*group, key).namespace(window);
        assert!(shard.get(id, key).unwrap().is_some(), "{key:?}");
    }
}

#[test]
fn a_new_state_is_simply_registered() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let state = rekey(&mut shard, &mut |_, _| panic!("there is nothing to rename")).unwrap();
    state.put_in(&mut shard, &"a".to_owned(), &1, &"b".to_owned()).unwrap();
    let again = rekey(&mut shard, &mut |_, _| panic!("there is nothing to rename")).unwrap();
    assert_eq!(again.get_in(&mut shard, &"a".to_owned(), &1).unwrap(), Some("b".to_owned()));
}
