//! Calls that do not fit the kind of a state.

use std::ops::{Bound, ControlFlow};

use alluvium::{KeyRef, KeyedStore, Result, StateId, StateSpec};

use crate::harness::{Job, assert_invalid, claims};

claims! {
    a_call_that_does_not_fit_names_the_state_and_changes_nothing
    calls_about_no_state_are_refused
}

type Call = fn(&mut dyn KeyedStore, StateId, KeyRef<'_>) -> Result<()>;

const VALUE_CALLS: [Call; 6] = [
    |store, state, key| store.get(state, key).map(|_| ()),
    |store, state, key| store.put(state, key, b"wrong"),
    |store, state, key| store.delete(state, key),
    |store, state, key| store.update(state, key, &mut |value| value.set(b"wrong")),
    |store, state, key| store.get_many(state, &[key], &mut |_, _| ()),
    |store, state, key| store.update_many(state, &[key], &mut |_, value| value.set(b"wrong")),
];

const LIST_CALLS: [Call; 3] = [
    |store, state, key| store.list_append(state, key, &[b"wrong"]),
    |store, state, key| store.list_read(state, key, &mut |_| ()),
    |store, state, key| store.list_replace(state, key, &[b"wrong"]),
];

const MAP_CALLS: [Call; 5] = [
    |store, state, key| store.map_get(state, key, b"e").map(|_| ()),
    |store, state, key| store.map_put(state, key, b"e", b"wrong"),
    |store, state, key| store.map_remove(state, key, b"e"),
    |store, state, key| {
        store.map_scan(state, key, Bound::Unbounded, &mut |_, _| ControlFlow::Continue(()))
    },
    |store, state, key| store.map_is_empty(state, key).map(|_| ()),
];

fn assert_refused(job: &mut Job, spec: &StateSpec, keys: &[KeyRef<'_>], calls: &[&[Call]]) {
    for (number, call) in calls.iter().flat_map(|calls| calls.iter()).enumerate() {
        for &key in keys {
            let text =
                assert_invalid(job.try_on(spec, key, |store, state| call(store, state, key)));
            assert!(text.contains(spec.name()), "call {number}: {text:?} names no state");
        }
    }
}

fn a_call_that_does_not_fit_names_the_state_and_changes_nothing(job: &mut Job) {
    let values = ["a value", "a reduced value", "an aggregate"];
    let specs = [
        StateSpec::value(values[0]),
        StateSpec::reducing(values[1]),
        StateSpec::aggregating(values[2]),
    ];
    let (list, map) = (StateSpec::list("a list"), StateSpec::map("a map"));
    let (full, empty) = (KeyRef::new(b"full").namespace(b"n"), KeyRef::new(b"empty"));
    for spec in &specs {
        job.put(spec, full, b"v");
    }
    job.append(&list, full, &[b"v"]);
    job.map_put(&map, full, b"e", b"v");
    for _ in 0..2 {
        for spec in &specs {
            assert_refused(job, spec, &[full, empty], &[&LIST_CALLS, &MAP_CALLS]);
        }
        assert_refused(job, &list, &[full, empty], &[&VALUE_CALLS, &MAP_CALLS]);
        assert_refused(job, &map, &[full, empty], &[&VALUE_CALLS, &LIST_CALLS]);
        job.pause();
    }
    for spec in &specs {
        assert_eq!(job.get(spec, full).as_deref(), Some(&b"v"[..]));
        assert_eq!(job.get(spec, empty), None);
    }
    assert_eq!(job.list(&list, full), [b"v"]);
    assert!(job.list(&list, empty).is_empty());
    assert_eq!(job.entries(&map, full), [(b"e".to_vec(), b"v".to_vec())]);
    assert!(job.map_is_empty(&map, empty));
}

fn calls_about_no_state_are_refused(job: &mut Job) {
    let key = KeyRef::new(b"k");
    let shard = job.shard_of(key);
    let store = job.store(shard);
    let nothing = StateId::new(1000);
    for call in VALUE_CALLS.iter().chain(&LIST_CALLS).chain(&MAP_CALLS) {
        assert_invalid(call(store, nothing, key));
    }
    assert_invalid(store.clear(nothing, key));
    assert_invalid(store.visit_keys(nothing, None, &mut |_, _, _| ControlFlow::Continue(())));
}
