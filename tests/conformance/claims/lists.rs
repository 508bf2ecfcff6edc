//! A sequence of elements for each key and namespace.

use alluvium::base::limits::MAX_KEY_BYTES;
use alluvium::{KeyRef, StateSpec};

use super::{keys_of_two_shards, noise};
use crate::harness::{Job, assert_invalid, claims};

claims! {
    an_absent_list_has_no_elements
    elements_come_in_the_order_in_which_they_were_added
    equal_and_empty_elements_are_elements
    adding_no_elements_adds_nothing
    a_replaced_list_holds_the_new_elements_only
    replacing_by_no_elements_clears
    a_cleared_list_begins_anew
    lists_of_namespaces_and_states_do_not_see_each_other
    elements_of_many_lengths_come_back
    long_lists_come_back
    a_snapshot_of_lists_holds_nothing_later
    keys_that_are_too_long_or_of_another_shard_are_refused
}

fn spec() -> StateSpec {
    StateSpec::list("list")
}

fn an_absent_list_has_no_elements(job: &mut Job) {
    job.append(&spec(), KeyRef::new(b"other"), &[b"e"]);
    job.pause();
    assert!(job.list(&spec(), KeyRef::new(b"k")).is_empty());
}

fn elements_come_in_the_order_in_which_they_were_added(job: &mut Job) {
    let key = KeyRef::new(b"k");
    job.append(&spec(), key, &[b"c"]);
    job.append(&spec(), key, &[b"a", b"d"]);
    assert_eq!(job.list(&spec(), key), [b"c", b"a", b"d"]);
    job.pause();
    // Without a look at what is there.
    job.append(&spec(), key, &[b"b"]);
    job.pause();
    job.append(&spec(), key, &[b"0"]);
    assert_eq!(job.list(&spec(), key), [b"c", b"a", b"d", b"b", b"0"]);
    job.append(&spec(), key, &[b"1"]);
    job.pause();
    assert_eq!(job.list(&spec(), key), [b"c", b"a", b"d", b"b", b"0", b"1"]);
}

fn equal_and_empty_elements_are_elements(job: &mut Job) {
    let key = KeyRef::new(b"");
    job.append(&spec(), key, &[b"", b"e", b"e"]);
    job.pause();
    job.append(&spec(), key, &[b""]);
    job.pause();
    assert_eq!(job.list(&spec(), key), [&b""[..], b"e", b"e", b""]);
}

fn adding_no_elements_adds_nothing(job: &mut Job) {
    let (full, absent) = (KeyRef::new(b"full"), KeyRef::new(b"absent"));
    job.append(&spec(), full, &[b"e"]);
    job.pause();
    job.append(&spec(), full, &[]);
    job.append(&spec(), absent, &[]);
    job.pause();
    assert_eq!(job.list(&spec(), full), [b"e"]);
    assert!(job.list(&spec(), absent).is_empty());
}

fn a_replaced_list_holds_the_new_elements_only(job: &mut Job) {
    let key = KeyRef::new(b"k");
    job.append(&spec(), key, &[b"a", b"b"]);
    job.pause();
    job.append(&spec(), key, &[b"c"]);
    job.replace(&spec(), key, &[b"x", b"y"]);
    assert_eq!(job.list(&spec(), key), [b"x", b"y"]);
    job.pause();
    job.append(&spec(), key, &[b"z"]);
    job.pause();
    assert_eq!(job.list(&spec(), key), [b"x", b"y", b"z"]);
    let absent = KeyRef::new(b"absent");
    job.replace(&spec(), absent, &[b"n"]);
    job.pause();
    assert_eq!(job.list(&spec(), absent), [b"n"]);
}

fn replacing_by_no_elements_clears(job: &mut Job) {
    let key = KeyRef::new(b"k");
    job.append(&spec(), key, &[b"a", b"b"]);
    job.pause();
    job.replace(&spec(), key, &[]);
    assert!(job.list(&spec(), key).is_empty());
    job.pause();
    assert!(job.list(&spec(), key).is_empty());
}

fn a_cleared_list_begins_anew(job: &mut Job) {
    let key = KeyRef::new(b"k");
    job.append(&spec(), key, &[b"a", b"b"]);
    job.pause();
    job.clear(&spec(), key);
    job.clear(&spec(), KeyRef::new(b"absent"));
    job.append(&spec(), key, &[b"c"]);
    assert_eq!(job.list(&spec(), key), [b"c"]);
    job.pause();
    assert_eq!(job.list(&spec(), key), [b"c"]);
    job.clear(&spec(), key);
    job.pause();
    assert!(job.list(&spec(), key).is_empty());
    job.append(&spec(), key, &[b"d"]);
    job.pause();
    assert_eq!(job.list(&spec(), key), [b"d"]);
}

fn lists_of_namespaces_and_states_do_not_see_each_other(job: &mut Job) {
    let other = StateSpec::list("other");
    let key = KeyRef::new(b"k");
    job.append(&spec(), key, &[b"none"]);
    job.append(&spec(), key.namespace(b"1"), &[b"one"]);
    job.append(&spec(), key.namespace(b"2"), &[b"two"]);
    job.append(&other, key, &[b"other"]);
    job.pause();
    job.clear(&spec(), key.namespace(b"1"));
    job.append(&spec(), key.namespace(b"2"), &[b"more"]);
    job.pause();
    assert_eq!(job.list(&spec(), key), [b"none"]);
    assert!(job.list(&spec(), key.namespace(b"1")).is_empty());
    assert_eq!(job.list(&spec(), key.namespace(b"2")), [&b"two"[..], b"more"]);
    assert_eq!(job.list(&other, key), [b"other"]);
}

fn elements_of_many_lengths_come_back(job: &mut Job) {
    let key = KeyRef::new(b"k");
    let lengths = [0, 1, 127, 128, 300, 5000, 70_000, 16_383, 16_384, 1 << 20, 3];
    let elements: Vec<Vec<u8>> =
        lengths.iter().enumerate().map(|(at, &len)| noise(at as u64, len)).collect();
    for element in &elements {
        job.append(&spec(), key, &[element]);
        job.pause();
    }
    assert!(job.list(&spec(), key) == elements);
}

fn long_lists_come_back(job: &mut Job) {
    let key = KeyRef::new(b"k").namespace(b"n");
    let mut expected = Vec::new();
    for round in 0..6 {
        for number in 0..500_u64 {
            let element = noise(number + 1000 * round, (number % 40) as usize);
            job.append(&spec(), key, &[&element]);
            expected.push(element);
        }
        job.pause();
    }
    assert!(job.list(&spec(), key) == expected);
}

fn a_snapshot_of_lists_holds_nothing_later(job: &mut Job) {
    let names: Vec<[u8; 1]> = (0_u8..30).map(|name| [name]).collect();
    let mut snapshots = Vec::new();
    for round in 0_u8..4 {
        for name in &names {
            let key = KeyRef::new(name);
            match (name[0] + round) % 5 {
                0 => job.clear(&spec(), key),
                1 => job.replace(&spec(), key, &[b"new", &[round]]),
                _ => job.append(&spec(), key, &[&[round]]),
            }
        }
        let all: Vec<_> = names.iter().map(|name| job.list(&spec(), KeyRef::new(name))).collect();
        snapshots.push((job.snapshot(), all));
    }
    for shards in [1, 3] {
        for (snapshot, expected) in snapshots.iter().rev() {
            job.restore(*snapshot, shards);
            for (name, expected) in names.iter().zip(expected) {
                assert_eq!(&job.list(&spec(), KeyRef::new(name)), expected, "{snapshot}, {name:?}");
            }
        }
    }
}

fn keys_that_are_too_long_or_of_another_shard_are_refused(job: &mut Job) {
    let (_, theirs) = keys_of_two_shards(job);
    job.append(&spec(), KeyRef::new(&theirs), &[b"e"]);
    let too_long = noise(1, MAX_KEY_BYTES + 1);
    let long_shard = job.shard_of(KeyRef::new(&too_long));
    let places = [(0, KeyRef::new(&theirs)), (long_shard, KeyRef::new(&too_long))];
    for (shard, key) in places {
        let store = job.store(shard);
        let state = store.register(spec()).unwrap();
        assert_invalid(store.list_append(state, key, &[b"wrong"]));
        assert_invalid(store.list_replace(state, key, &[b"wrong"]));
        assert_invalid(store.list_read(state, key, &mut |_| panic!("called for such a key")));
        assert_invalid(store.clear(state, key));
    }
    job.pause();
    assert_eq!(job.list(&spec(), KeyRef::new(&theirs)), [b"e"]);
}
