//! Writing states anew under other keys. A state is re-keyed before anything of
//! it is touched, so each claim goes back to a snapshot first.

use alluvium::codec::CodecId;
use alluvium::{
    Error, KeyGroup, KeyRef, NewKey, OldCodecs, OldKey, Rename, Result, StateId, StateKind,
    StateSpec,
};

use crate::harness::{Job, assert_invalid, claims};

claims! {
    all_kinds_move_to_their_new_keys
    entries_of_maps_move_to_their_new_keys
    keys_and_entries_move_together
    names_may_be_passed_around
    two_that_would_become_one_are_refused
    entries_are_rekeyed_on_any_number_of_shards
    what_has_its_keys_already_is_left_alone
    a_renaming_that_fails_changes_nothing
}

const KINDS: [fn(&str) -> StateSpec; 5] = [
    StateSpec::value,
    StateSpec::list,
    StateSpec::map,
    StateSpec::reducing,
    StateSpec::aggregating,
];

fn codec(name: &'static str) -> CodecId {
    CodecId::new(name, 1)
}

/// A state under its old keys.
fn old(kind: fn(&str) -> StateSpec) -> StateSpec {
    kind("s").key_codec(codec("old")).namespace_codec(codec("old")).entry_codec(codec("old"))
}

/// The same under its new keys.
fn new(kind: fn(&str) -> StateSpec) -> StateSpec {
    kind("s").key_codec(codec("new")).namespace_codec(codec("new")).entry_codec(codec("new"))
}

fn old_codecs() -> OldCodecs {
    let old = || codec("old").into();
    OldCodecs { keys: old(), namespaces: old(), map_keys: Some(old()) }
}

/// Renames by tables of functions.
struct By {
    key: fn(u8) -> Result<u8>,
    entry: fn(u8) -> Result<u8>,
    keeps_groups: bool,
}

impl By {
    fn key(key: fn(u8) -> Result<u8>) -> Self {
        Self { key, entry: Ok, keeps_groups: false }
    }

    fn entry(entry: fn(u8) -> Result<u8>) -> Self {
        Self { key: Ok, entry, keeps_groups: true }
    }
}

impl Rename for By {
    fn key(&mut self, old: OldKey<'_>) -> Result<NewKey> {
        let key = vec![(self.key)(old.key[0])?];
        let namespace = old.namespace.iter().map(|byte| byte + 1).collect();
        Ok(NewKey { key, namespace, group: self.keeps_groups.then_some(old.group) })
    }

    fn map_key(&mut self, _: OldKey<'_>, map_key: &[u8]) -> Result<Vec<u8>> {
        Ok(vec![(self.entry)(map_key[0])?])
    }
}

/// Ten things under a key, of which a state of values keeps the last.
fn fill(job: &mut Job, spec: &StateSpec, key: u8, namespace: u8) {
    let (key, namespace) = ([key], [namespace]);
    let at = KeyRef::new(&key).namespace(&namespace);
    job.on(spec, at, |store, state| {
        (0..10_u8).try_for_each(|number| {
            let what = [key[0], namespace[0], number];
            match spec.kind() {
                StateKind::List => store.list_append(state, at, &[&what]),
                StateKind::Map => store.map_put(state, at, &[number], &what),
                _ => store.put(state, at, &what),
            }
        })
    });
}

/// What is there under a key: the bytes of the entries, if it is a map, and what
/// [`fill`] put there.
fn held(job: &mut Job, spec: &StateSpec, key: u8, namespace: u8) -> Vec<(Option<u8>, Vec<u8>)> {
    let (key, namespace) = ([key], [namespace]);
    let at = KeyRef::new(&key).namespace(&namespace);
    match spec.kind() {
        StateKind::List => job.list(spec, at).into_iter().map(|what| (None, what)).collect(),
        StateKind::Map => {
            let entries = job.entries(spec, at).into_iter();
            entries.map(|(entry, value)| (Some(entry[0]), value)).collect()
        }
        _ => job.get(spec, at).into_iter().map(|what| (None, what)).collect(),
    }
}

/// What should be there of a key and namespace that were filled.
fn filled(
    kind: StateKind,
    key: u8,
    namespace: u8,
    entry: impl Fn(u8) -> u8,
) -> Vec<(Option<u8>, Vec<u8>)> {
    let all = 0..10_u8;
    let what = |number| vec![key, namespace, number];
    match kind {
        StateKind::List => all.map(|number| (None, what(number))).collect(),
        StateKind::Map => {
            let mut entries: Vec<_> =
                all.map(|number| (Some(entry(number)), what(number))).collect();
            entries.sort();
            entries
        }
        _ => vec![(None, what(9))],
    }
}

/// A job whose state `old(kind)` was just restored on so many shards, with the
/// keys 0 to 19 in the namespaces 0 and 1.
fn restored(job: &mut Job, kind: fn(&str) -> StateSpec, shards: u32) {
    for shard in 0..job.shards() {
        job.store(shard).drop_state("s").unwrap();
    }
    for key in 0..20 {
        for namespace in 0..2 {
            fill(job, &old(kind), key, namespace);
        }
    }
    job.pause();
    let snapshot = job.snapshot();
    job.restore(snapshot, shards);
}

fn rekey(
    job: &mut Job,
    kind: fn(&str) -> StateSpec,
    rename: &mut dyn Rename,
) -> Vec<Result<StateId>> {
    let shards = job.shards();
    let rekey = |shard| job.store(shard).register_rekeyed(new(kind), old_codecs(), rename);
    (0..shards).map(rekey).collect()
}

fn all_kinds_move_to_their_new_keys(job: &mut Job) {
    for kind in KINDS {
        restored(job, kind, 1);
        for done in rekey(job, kind, &mut By::key(|key| Ok(key + 100))) {
            done.unwrap();
        }
        for _ in 0..3 {
            let spec = new(kind);
            for key in 0..20 {
                for namespace in 0..2 {
                    assert_eq!(
                        held(job, &spec, key + 100, namespace + 1),
                        filled(spec.kind(), key, namespace, |entry| entry)
                    );
                    assert_eq!(held(job, &spec, key, namespace), []);
                }
            }
            assert_eq!(job.keys(&spec, None).len(), 40);
            job.pause();
        }
    }
}

fn entries_of_maps_move_to_their_new_keys(job: &mut Job) {
    restored(job, StateSpec::map, 1);
    rekey(job, StateSpec::map, &mut By::entry(|entry| Ok(200 - entry))).remove(0).unwrap();
    for _ in 0..3 {
        let spec = new(StateSpec::map);
        for key in 0..20 {
            assert_eq!(held(job, &spec, key, 1), filled(spec.kind(), key, 0, |entry| 200 - entry));
            let (key, namespace) = ([key], [2]);
            let at = KeyRef::new(&key).namespace(&namespace);
            assert_eq!(job.map_get(&spec, at, &[3]), None, "the old entry");
            assert_eq!(job.map_get(&spec, at, &[197]).unwrap(), [key[0], 1, 3]);
        }
        job.pause();
    }
}

fn keys_and_entries_move_together(job: &mut Job) {
    restored(job, StateSpec::map, 1);
    let mut rename =
        By { key: |key| Ok(19 - key), entry: |entry| Ok(9 - entry), keeps_groups: false };
    rekey(job, StateSpec::map, &mut rename).remove(0).unwrap();
    job.pause();
    let spec = new(StateSpec::map);
    for key in 0..20 {
        assert_eq!(held(job, &spec, 19 - key, 2), filled(spec.kind(), key, 1, |entry| 9 - entry));
    }
}

/// Each key takes the name that another gives up.
fn names_may_be_passed_around(job: &mut Job) {
    for kind in KINDS {
        restored(job, kind, 1);
        rekey(job, kind, &mut By::key(|key| Ok((key + 7) % 20))).remove(0).unwrap();
        for _ in 0..2 {
            let spec = new(kind);
            for key in 0..20 {
                assert_eq!(
                    held(job, &spec, (key + 7) % 20, 1),
                    filled(spec.kind(), key, 0, |entry| entry)
                );
            }
            job.pause();
        }
    }
}

fn two_that_would_become_one_are_refused(job: &mut Job) {
    for kind in KINDS {
        restored(job, kind, 1);
        assert_invalid(rekey(job, kind, &mut By::key(|key| Ok(key / 2))).remove(0));
        if old(kind).kind() == StateKind::Map {
            let done = rekey(job, kind, &mut By::entry(|entry| Ok(entry / 2)));
            assert_invalid(done.into_iter().next().unwrap());
        }
        for key in 0..20 {
            let spec = old(kind);
            assert_eq!(held(job, &spec, key, 1), filled(spec.kind(), key, 1, |entry| entry));
        }
    }
}

fn entries_are_rekeyed_on_any_number_of_shards(job: &mut Job) {
    for shards in [1, 3, 5] {
        restored(job, StateSpec::map, shards);
        for done in rekey(job, StateSpec::map, &mut By::entry(|entry| Ok(entry + 40))) {
            done.unwrap();
        }
        for _ in 0..2 {
            let spec = new(StateSpec::map);
            for key in 0..20 {
                assert_eq!(
                    held(job, &spec, key, 1),
                    filled(spec.kind(), key, 0, |entry| entry + 40)
                );
            }
            job.pause();
        }
    }
}

fn what_has_its_keys_already_is_left_alone(job: &mut Job) {
    let mut nothing = |_: OldKey<'_>| -> Result<NewKey> { panic!("there is nothing to rename") };
    for kind in KINDS {
        for done in rekey(job, kind, &mut nothing) {
            done.unwrap();
        }
        fill(job, &new(kind), 1, 1);
        for _ in 0..2 {
            job.pause();
            for done in rekey(job, kind, &mut nothing) {
                done.unwrap();
            }
            assert_eq!(held(job, &new(kind), 1, 1), filled(new(kind).kind(), 1, 1, |entry| entry));
        }
        for shard in 0..job.shards() {
            assert!(job.store(shard).drop_state("s").unwrap());
        }
    }
}

fn a_renaming_that_fails_changes_nothing(job: &mut Job) {
    fn refuse(number: u8) -> Result<u8> {
        if number == 7 { Err(Error::invalid("no name for it")) } else { Ok(number) }
    }
    for kind in KINDS {
        restored(job, kind, 1);
        assert_invalid(rekey(job, kind, &mut By::key(refuse)).remove(0));
        if old(kind).kind() == StateKind::Map {
            assert_invalid(rekey(job, kind, &mut By::entry(refuse)).remove(0));
        }
        let mut too_long = |old: OldKey<'_>| {
            let namespace = old.namespace.to_vec();
            Ok(NewKey { key: vec![0; 1 << 20], namespace, group: Some(KeyGroup(0)) })
        };
        assert_invalid(rekey(job, kind, &mut too_long).remove(0));
        let spec = old(kind);
        for _ in 0..2 {
            for key in 0..20 {
                assert_eq!(held(job, &spec, key, 1), filled(spec.kind(), key, 1, |entry| entry));
            }
            job.pause();
        }
    }
}
