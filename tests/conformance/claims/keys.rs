//! Enumerating what a state holds something for.

use std::ops::ControlFlow;

use alluvium::{KeyRef, StateSpec};

use crate::harness::{Job, Keys, claims};

claims! {
    every_key_and_namespace_is_visited_once
    one_namespace_is_visited_alone
    what_was_deleted_is_not_visited
    empty_lists_and_maps_are_not_visited
    the_empty_namespace_is_one_like_any_other
    keys_come_with_the_groups_that_were_given
    a_visit_ends_when_the_visitor_breaks
    states_are_visited_apart
}

/// Puts something there.
type Touch = fn(&mut Job, &StateSpec, KeyRef<'_>);

/// One state of each kind, and what puts something there.
fn kinds() -> [(StateSpec, Touch); 5] {
    let put: Touch = |job, spec, key| job.put(spec, key, b"v");
    [
        (StateSpec::value("values"), put),
        (StateSpec::reducing("reduced values"), put),
        (StateSpec::aggregating("aggregates"), put),
        (StateSpec::list("lists"), |job, spec, key| job.append(spec, key, &[b"e", b"f"])),
        (StateSpec::map("maps"), |job, spec, key| {
            job.map_put(spec, key, b"e", b"v");
            job.map_put(spec, key, b"f", b"v");
        }),
    ]
}

/// What a visit has to give for these keys.
fn expected(job: &Job, places: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Keys {
    let group = |key: &[u8]| KeyRef::new(key).locate(job.max_parallelism()).0;
    places.into_iter().map(|place| (place.clone(), group(&place.0))).collect()
}

fn place(key: u8, namespace: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![key], if namespace == 0 { Vec::new() } else { vec![namespace] })
}

fn every_key_and_namespace_is_visited_once(job: &mut Job) {
    for (spec, touch) in kinds() {
        assert_eq!(job.keys(&spec, None), Keys::new());
        let mut places = Vec::new();
        for round in 0..3 {
            // Most of them again, for a second version in a second table.
            for key in 10 * round..50 + 10 * round {
                let (name, namespace) = place(key, key % 3);
                touch(job, &spec, KeyRef::new(&name).namespace(&namespace));
                places.push((name, namespace));
            }
            assert_eq!(job.keys(&spec, None), expected(job, places.clone()), "{spec:?}");
            job.pause();
            assert_eq!(job.keys(&spec, None), expected(job, places.clone()), "{spec:?}");
        }
    }
}

fn one_namespace_is_visited_alone(job: &mut Job) {
    for (spec, touch) in kinds() {
        let all: Vec<_> = (0..60).map(|key| place(key / 2, key % 4)).collect();
        for (name, namespace) in &all {
            touch(job, &spec, KeyRef::new(name).namespace(namespace));
        }
        for _ in 0..2 {
            for namespace in 0..5 {
                let (_, namespace) = place(0, namespace);
                let within = all.iter().filter(|place| place.1 == namespace).cloned();
                assert_eq!(job.keys(&spec, Some(&namespace)), expected(job, within), "{spec:?}");
            }
            job.pause();
        }
    }
}

fn what_was_deleted_is_not_visited(job: &mut Job) {
    for (spec, touch) in kinds() {
        for key in 0..30 {
            touch(job, &spec, KeyRef::new(&[key]));
        }
        job.pause();
        for key in (0..30).step_by(2) {
            job.clear(&spec, KeyRef::new(&[key]));
        }
        for key in (0..30).step_by(6) {
            touch(job, &spec, KeyRef::new(&[key]));
        }
        let left = (0..30).filter(|key| key % 2 == 1 || key % 6 == 0);
        let left = expected(job, left.map(|key| place(key, 0)));
        assert_eq!(job.keys(&spec, None), left, "{spec:?}");
        job.pause();
        assert_eq!(job.keys(&spec, None), left, "{spec:?}");
    }
}

fn empty_lists_and_maps_are_not_visited(job: &mut Job) {
    let (list, map) = (StateSpec::list("lists"), StateSpec::map("maps"));
    let key = KeyRef::new(b"k");
    job.append(&list, key, &[]);
    job.map_remove(&map, key, b"e");
    assert!(job.keys(&list, None).is_empty() && job.keys(&map, None).is_empty());
    job.append(&list, key, &[b"e"]);
    job.map_put(&map, key, b"e", b"v");
    job.map_put(&map, key, b"f", b"v");
    job.pause();
    job.replace(&list, key, &[]);
    job.map_remove(&map, key, b"e");
    job.map_remove(&map, key, b"f");
    assert!(job.keys(&list, None).is_empty() && job.keys(&map, None).is_empty());
    job.pause();
    assert!(job.keys(&list, None).is_empty() && job.keys(&map, None).is_empty());
}

fn the_empty_namespace_is_one_like_any_other(job: &mut Job) {
    let spec = StateSpec::value("values");
    job.put(&spec, KeyRef::new(b"a"), b"v");
    job.put(&spec, KeyRef::new(b"b").namespace(b"n"), b"v");
    job.put(&spec, KeyRef::new(b""), b"");
    job.pause();
    let outside = expected(job, [(b"a".to_vec(), Vec::new()), (Vec::new(), Vec::new())]);
    assert_eq!(job.keys(&spec, Some(b"")), outside);
}

fn keys_come_with_the_groups_that_were_given(job: &mut Job) {
    for (spec, touch) in kinds() {
        let groups: Vec<_> = job.max_parallelism().all_groups().iter().collect();
        for (at, &group) in groups.iter().enumerate() {
            touch(job, &spec, KeyRef::in_group(group, &[at as u8]));
        }
        let given: Keys =
            groups.iter().enumerate().map(|(at, &group)| (place(at as u8, 0), group)).collect();
        assert_eq!(job.keys(&spec, None), given, "{spec:?}");
        job.pause();
        assert_eq!(job.keys(&spec, None), given, "{spec:?}");
    }
}

fn a_visit_ends_when_the_visitor_breaks(job: &mut Job) {
    for (spec, touch) in kinds() {
        for key in 0..40 {
            touch(job, &spec, KeyRef::new(&[key]));
        }
        job.pause();
        for key in 0..5 {
            touch(job, &spec, KeyRef::new(&[key]));
        }
        let store = job.store(0);
        let state = store.register(spec).unwrap();
        for most in 1..5 {
            let mut seen = 0;
            let visit = &mut |_, _: &[u8], _: &[u8]| {
                assert!(seen < most, "the visitor was called after it had broken");
                seen += 1;
                if seen == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            store.visit_keys(state, None, visit).unwrap();
            assert_eq!(seen, most);
        }
    }
}

fn states_are_visited_apart(job: &mut Job) {
    for (at, (spec, touch)) in kinds().into_iter().enumerate() {
        touch(job, &spec, KeyRef::new(&[at as u8]));
    }
    job.pause();
    for (at, (spec, _)) in kinds().into_iter().enumerate() {
        assert_eq!(job.keys(&spec, None), expected(job, [place(at as u8, 0)]), "{spec:?}");
    }
}
