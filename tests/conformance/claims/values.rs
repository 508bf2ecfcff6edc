//! One value for each key and namespace.

use alluvium::base::limits::{MAX_KEY_BYTES, MAX_NAMESPACE_BYTES};
use alluvium::{KeyGroup, KeyRef, StateSpec};

use super::{keys_of_two_shards, noise};
use crate::harness::{Job, assert_invalid, claims};

claims! {
    an_absent_key_has_no_value
    a_value_is_what_was_put_last
    a_deleted_key_has_no_value_until_it_is_put_again
    deleting_an_absent_key_is_no_error
    clearing_removes_a_value
    empty_keys_namespaces_and_values_are_keys_namespaces_and_values
    namespaces_of_one_key_do_not_see_each_other
    a_key_and_its_namespace_do_not_run_together
    states_do_not_see_each_other
    values_of_many_lengths_come_back
    an_update_sees_the_value_and_may_set_change_and_delete_it
    an_update_that_changes_nothing_inserts_nothing
    a_batch_of_lookups_answers_in_order
    a_batch_of_updates_sees_its_own_changes
    a_batch_stops_at_the_first_key_that_is_refused
    the_longest_key_and_namespace_are_served_and_longer_ones_refused
    a_key_of_another_shard_is_refused
    a_given_group_is_where_the_key_lives
    reducing_and_aggregating_states_are_used_like_values
}

fn spec() -> StateSpec {
    StateSpec::value("values")
}

fn an_absent_key_has_no_value(job: &mut Job) {
    assert_eq!(job.get(&spec(), KeyRef::new(b"k")), None);
    job.put(&spec(), KeyRef::new(b"other"), b"v");
    job.pause();
    assert_eq!(job.get(&spec(), KeyRef::new(b"k")), None);
}

fn a_value_is_what_was_put_last(job: &mut Job) {
    let key = KeyRef::new(b"k");
    for value in [&b"one"[..], b"two", b"a longer one", b"x"] {
        job.put(&spec(), key, value);
        assert_eq!(job.get(&spec(), key).as_deref(), Some(value));
        job.pause();
        assert_eq!(job.get(&spec(), key).as_deref(), Some(value));
    }
}

fn a_deleted_key_has_no_value_until_it_is_put_again(job: &mut Job) {
    let key = KeyRef::new(b"k");
    job.put(&spec(), key, b"v");
    job.pause();
    job.delete(&spec(), key);
    assert_eq!(job.get(&spec(), key), None);
    job.pause();
    assert_eq!(job.get(&spec(), key), None);
    job.put(&spec(), key, b"w");
    job.pause();
    assert_eq!(job.get(&spec(), key).as_deref(), Some(&b"w"[..]));
}

fn deleting_an_absent_key_is_no_error(job: &mut Job) {
    job.delete(&spec(), KeyRef::new(b"k"));
    job.pause();
    job.delete(&spec(), KeyRef::new(b"k"));
    assert_eq!(job.get(&spec(), KeyRef::new(b"k")), None);
}

fn clearing_removes_a_value(job: &mut Job) {
    let (cleared, kept) = (KeyRef::new(b"k").namespace(b"1"), KeyRef::new(b"k").namespace(b"2"));
    job.put(&spec(), cleared, b"v");
    job.put(&spec(), kept, b"w");
    job.pause();
    job.clear(&spec(), cleared);
    job.clear(&spec(), KeyRef::new(b"never there"));
    job.pause();
    assert_eq!(job.get(&spec(), cleared), None);
    assert_eq!(job.get(&spec(), kept).as_deref(), Some(&b"w"[..]));
}

fn empty_keys_namespaces_and_values_are_keys_namespaces_and_values(job: &mut Job) {
    job.put(&spec(), KeyRef::new(b""), b"");
    job.put(&spec(), KeyRef::new(b"").namespace(b"n"), b"of the namespace");
    job.put(&spec(), KeyRef::new(b"k"), b"");
    job.pause();
    assert_eq!(job.get(&spec(), KeyRef::new(b"")), Some(Vec::new()));
    assert_eq!(job.get(&spec(), KeyRef::new(b"k")), Some(Vec::new()));
    job.delete(&spec(), KeyRef::new(b""));
    job.pause();
    assert_eq!(job.get(&spec(), KeyRef::new(b"")), None);
    let left = job.get(&spec(), KeyRef::new(b"").namespace(b"n"));
    assert_eq!(left.as_deref(), Some(&b"of the namespace"[..]));
}

fn namespaces_of_one_key_do_not_see_each_other(job: &mut Job) {
    let key = KeyRef::new(b"k");
    let windows: Vec<[u8; 8]> = (0_u64..20).map(u64::to_be_bytes).collect();
    for window in &windows {
        job.put(&spec(), key.namespace(window), window);
    }
    job.pause();
    job.delete(&spec(), key.namespace(&windows[7]));
    job.put(&spec(), key.namespace(&windows[8]), b"changed");
    job.pause();
    for (at, window) in windows.iter().enumerate() {
        let expected = match at {
            7 => None,
            8 => Some(&b"changed"[..]),
            _ => Some(&window[..]),
        };
        assert_eq!(job.get(&spec(), key.namespace(window)).as_deref(), expected, "window {at}");
    }
    assert_eq!(job.get(&spec(), key), None);
}

fn a_key_and_its_namespace_do_not_run_together(job: &mut Job) {
    let places = [("abc", ""), ("ab", "c"), ("a", "bc"), ("", "abc"), ("c", "ab")];
    for (key, namespace) in places {
        let value = format!("{key}/{namespace}");
        let key = KeyRef::new(key.as_bytes()).namespace(namespace.as_bytes());
        job.put(&spec(), key, value.as_bytes());
    }
    job.pause();
    for (key, namespace) in places {
        let value = format!("{key}/{namespace}");
        let key = KeyRef::new(key.as_bytes()).namespace(namespace.as_bytes());
        assert_eq!(job.get(&spec(), key), Some(value.into_bytes()));
    }
}

fn states_do_not_see_each_other(job: &mut Job) {
    let specs = ["a", "ab", "b"].map(StateSpec::value);
    let key = KeyRef::new(b"k");
    for (number, spec) in specs.iter().enumerate() {
        job.put(spec, key, &[number as u8]);
    }
    job.pause();
    job.delete(&specs[1], key);
    job.pause();
    assert_eq!(job.get(&specs[0], key), Some(vec![0]));
    assert_eq!(job.get(&specs[1], key), None);
    assert_eq!(job.get(&specs[2], key), Some(vec![2]));
}

fn values_of_many_lengths_come_back(job: &mut Job) {
    let lengths = [0, 1, 7, 8, 9, 127, 128, 1000, 4096, 65_535, 65_536, 1 << 20];
    for (at, &len) in lengths.iter().enumerate() {
        job.put(&spec(), KeyRef::new(&at.to_be_bytes()), &noise(at as u64, len));
    }
    job.pause();
    // Each value becomes as long as the next one was.
    for (at, len) in lengths.iter().cycle().skip(1).take(lengths.len()).enumerate() {
        let key = at.to_be_bytes();
        let old = job.get(&spec(), KeyRef::new(&key));
        assert!(old == Some(noise(at as u64, lengths[at])), "value {at}");
        job.put(&spec(), KeyRef::new(&key), &noise(100 + at as u64, *len));
    }
    job.pause();
    for (at, len) in lengths.iter().cycle().skip(1).take(lengths.len()).enumerate() {
        let new = job.get(&spec(), KeyRef::new(&at.to_be_bytes()));
        assert!(new == Some(noise(100 + at as u64, *len)), "value {at}");
    }
}

fn an_update_sees_the_value_and_may_set_change_and_delete_it(job: &mut Job) {
    let key = KeyRef::new(b"k").namespace(b"n");
    let mut calls = 0;
    job.on(&spec(), key, |store, state| {
        store.update(state, key, &mut |value| {
            calls += 1;
            assert_eq!(value.get(), None);
            assert_eq!(value.bytes_mut(), None);
            value.set(b"first");
            assert_eq!(value.get(), Some(&b"first"[..]));
        })
    });
    assert_eq!(calls, 1, "the closure is called once");
    job.pause();
    job.on(&spec(), key, |store, state| {
        store.update(state, key, &mut |value| {
            assert_eq!(value.get(), Some(&b"first"[..]));
            value.bytes_mut().expect("there is a value")[0] = b'F';
        })
    });
    assert_eq!(job.get(&spec(), key).as_deref(), Some(&b"First"[..]));
    job.pause();
    job.on(&spec(), key, |store, state| {
        store.update(state, key, &mut |value| {
            assert_eq!(value.get(), Some(&b"First"[..]));
            value.set(b"and a longer one");
        })
    });
    job.pause();
    assert_eq!(job.get(&spec(), key).as_deref(), Some(&b"and a longer one"[..]));
    job.on(&spec(), key, |store, state| {
        store.update(state, key, &mut |value| {
            value.delete();
            assert_eq!(value.get(), None);
        })
    });
    assert_eq!(job.get(&spec(), key), None);
    job.pause();
    assert_eq!(job.get(&spec(), key), None);
}

fn an_update_that_changes_nothing_inserts_nothing(job: &mut Job) {
    let key = KeyRef::new(b"k");
    job.on(&spec(), key, |store, state| store.update(state, key, &mut |_| ()));
    job.pause();
    assert_eq!(job.get(&spec(), key), None);
}

fn a_batch_of_lookups_answers_in_order(job: &mut Job) {
    let names: Vec<[u8; 4]> = (0_u32..100).map(u32::to_be_bytes).collect();
    for name in names.iter().step_by(3) {
        job.put(&spec(), KeyRef::new(name), name);
    }
    job.pause();
    for shard in 0..job.shards() {
        let keys = names.iter().map(|name| KeyRef::new(name));
        let keys: Vec<_> = keys.filter(|key| job.shard_of(*key) == shard).collect();
        let store = job.store(shard);
        let state = store.register(spec()).unwrap();
        let mut answers = 0;
        store
            .get_many(state, &keys, &mut |at, value| {
                assert_eq!(at, answers);
                answers += 1;
                let name = keys[at].key_bytes();
                let number = u32::from_be_bytes(name.try_into().unwrap());
                assert_eq!(value, (number % 3 == 0).then_some(name));
            })
            .unwrap();
        assert_eq!(answers, keys.len());
    }
}

fn a_batch_of_updates_sees_its_own_changes(job: &mut Job) {
    let key = KeyRef::new(b"k");
    let keys = [key; 50];
    job.pause();
    job.on(&spec(), key, |store, state| {
        let mut calls = 0;
        store.update_many(state, &keys, &mut |at, value| {
            assert_eq!(at, calls);
            calls += 1;
            let before = value.get().map(<[u8]>::to_vec).unwrap_or_default();
            assert_eq!(before, noise(1, at));
            value.set(&noise(1, at + 1));
        })
    });
    job.pause();
    assert_eq!(job.get(&spec(), key), Some(noise(1, 50)));
}

fn a_batch_stops_at_the_first_key_that_is_refused(job: &mut Job) {
    let (ours, theirs) = keys_of_two_shards(job);
    let keys = [KeyRef::new(&ours), KeyRef::new(&theirs), KeyRef::new(&ours)];
    let store = job.store(0);
    let state = store.register(spec()).unwrap();
    let mut seen = Vec::new();
    assert_invalid(store.update_many(state, &keys, &mut |at, value| {
        seen.push(at);
        value.set(b"updated");
    }));
    assert_eq!(seen, [0], "the keys before it are updated, those after it are not");
    assert_invalid(store.get_many(state, &keys, &mut |at, value| {
        seen.push(at);
        assert_eq!(value, Some(&b"updated"[..]));
    }));
    assert_eq!(seen, [0, 0]);
    job.pause();
    assert_eq!(job.get(&spec(), KeyRef::new(&ours)).as_deref(), Some(&b"updated"[..]));
    assert_eq!(job.get(&spec(), KeyRef::new(&theirs)), None);
}

fn the_longest_key_and_namespace_are_served_and_longer_ones_refused(job: &mut Job) {
    let (key, namespace) = (noise(1, MAX_KEY_BYTES), noise(2, MAX_NAMESPACE_BYTES));
    let longest = KeyRef::new(&key).namespace(&namespace);
    job.put(&spec(), longest, b"v");
    job.pause();
    assert_eq!(job.get(&spec(), longest).as_deref(), Some(&b"v"[..]));
    let too_long = [&key[..], b"x"].concat();
    for longer in [KeyRef::new(&too_long), KeyRef::new(b"k").namespace(&too_long)] {
        assert_invalid(job.try_on(&spec(), longer, |store, state| store.put(state, longer, b"v")));
        assert_invalid(job.try_on(&spec(), longer, |store, state| {
            store.update(state, longer, &mut |_| panic!("called for a key that is too long"))
        }));
    }
    job.pause();
    assert_eq!(job.get(&spec(), longest).as_deref(), Some(&b"v"[..]));
}

fn a_key_of_another_shard_is_refused(job: &mut Job) {
    let (_, theirs) = keys_of_two_shards(job);
    let key = KeyRef::new(&theirs);
    job.put(&spec(), key, b"v");
    let store = job.store(0);
    let state = store.register(spec()).unwrap();
    // An error, never "absent".
    assert_invalid(store.get(state, key).map(|_| ()));
    assert_invalid(store.put(state, key, b"w"));
    assert_invalid(store.delete(state, key));
    assert_invalid(store.clear(state, key));
    assert_invalid(store.update(state, key, &mut |_| panic!("called for another's key")));
    job.pause();
    assert_eq!(job.get(&spec(), key).as_deref(), Some(&b"v"[..]));
}

fn a_given_group_is_where_the_key_lives(job: &mut Job) {
    let groups: Vec<KeyGroup> = job.max_parallelism().all_groups().iter().collect();
    for &group in &groups {
        job.put(&spec(), KeyRef::in_group(group, b"k"), &group.0.to_be_bytes());
    }
    job.pause();
    for &group in &groups {
        let value = job.get(&spec(), KeyRef::in_group(group, b"k"));
        assert_eq!(value, Some(group.0.to_be_bytes().to_vec()), "{group}");
    }
    let by_hash = KeyRef::new(b"k");
    let group = by_hash.locate(job.max_parallelism()).0;
    assert_eq!(job.get(&spec(), by_hash), Some(group.0.to_be_bytes().to_vec()));
}

fn reducing_and_aggregating_states_are_used_like_values(job: &mut Job) {
    let key = KeyRef::new(b"k").namespace(b"n");
    let specs = [StateSpec::reducing("reducing"), StateSpec::aggregating("aggregating")];
    for spec in &specs {
        job.put(spec, key, b"1");
        job.on(spec, key, |store, state| store.update(state, key, &mut |value| value.set(b"2")));
    }
    job.pause();
    for spec in &specs {
        assert_eq!(job.get(spec, key).as_deref(), Some(&b"2"[..]));
        job.clear(spec, key);
        assert_eq!(job.get(spec, key), None);
    }
    job.pause();
    for spec in &specs {
        assert_eq!(job.get(spec, key), None);
    }
}
