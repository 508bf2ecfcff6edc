//! Entries by user key for each key and namespace.

use std::collections::BTreeMap;
use std::ops::Bound;

use alluvium::base::limits::MAX_KEY_BYTES;
use alluvium::{KeyRef, StateSpec};

use super::{keys_of_two_shards, noise};
use crate::harness::{Job, assert_invalid, claims};

claims! {
    an_absent_map_has_no_entries
    an_entry_is_what_was_put_last
    a_removed_entry_is_gone_until_it_is_put_again
    empty_user_keys_and_values_are_entries
    a_map_is_empty_when_its_last_entry_is_removed
    entries_come_in_the_order_of_the_bytes_of_their_user_keys
    a_scan_begins_where_it_is_told_to
    a_scan_ends_when_the_visitor_breaks
    a_cleared_map_begins_anew
    maps_of_namespaces_and_states_do_not_see_each_other
    a_key_and_a_user_key_do_not_run_together
    entries_of_many_lengths_come_back
    large_maps_come_back
    a_snapshot_of_maps_holds_nothing_later
    the_longest_user_key_is_served_and_a_longer_one_refused
    keys_that_are_too_long_or_of_another_shard_are_refused
}

fn spec() -> StateSpec {
    StateSpec::map("map")
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

fn entries<const N: usize>(entries: [(&[u8], &[u8]); N]) -> Entries {
    entries.iter().map(|(entry, value)| (entry.to_vec(), value.to_vec())).collect()
}

fn an_absent_map_has_no_entries(job: &mut Job) {
    job.map_put(&spec(), KeyRef::new(b"other"), b"e", b"v");
    job.pause();
    let key = KeyRef::new(b"k");
    assert_eq!(job.map_get(&spec(), key, b"e"), None);
    assert!(job.map_is_empty(&spec(), key));
    assert_eq!(job.entries(&spec(), key), []);
    job.map_remove(&spec(), key, b"e");
    job.pause();
    assert!(job.map_is_empty(&spec(), key));
}

fn an_entry_is_what_was_put_last(job: &mut Job) {
    let key = KeyRef::new(b"k");
    job.map_put(&spec(), key, b"other", b"o");
    for value in [&b"one"[..], b"two", b"a longer one", b""] {
        job.map_put(&spec(), key, b"e", value);
        assert_eq!(job.map_get(&spec(), key, b"e").as_deref(), Some(value));
        job.pause();
        assert_eq!(job.map_get(&spec(), key, b"e").as_deref(), Some(value));
        assert_eq!(job.entries(&spec(), key), entries([(b"e", value), (b"other", b"o")]));
    }
}

fn a_removed_entry_is_gone_until_it_is_put_again(job: &mut Job) {
    let key = KeyRef::new(b"k");
    job.map_put(&spec(), key, b"a", b"1");
    job.map_put(&spec(), key, b"b", b"2");
    job.pause();
    job.map_remove(&spec(), key, b"a");
    job.map_remove(&spec(), key, b"never there");
    assert_eq!(job.map_get(&spec(), key, b"a"), None);
    job.pause();
    assert_eq!(job.map_get(&spec(), key, b"a"), None);
    assert_eq!(job.entries(&spec(), key), entries([(b"b", b"2")]));
    job.map_put(&spec(), key, b"a", b"3");
    job.pause();
    assert_eq!(job.entries(&spec(), key), entries([(b"a", b"3"), (b"b", b"2")]));
}

fn empty_user_keys_and_values_are_entries(job: &mut Job) {
    let key = KeyRef::new(b"");
    job.map_put(&spec(), key, b"", b"");
    job.pause();
    assert!(!job.map_is_empty(&spec(), key));
    assert_eq!(job.map_get(&spec(), key, b""), Some(Vec::new()));
    job.map_put(&spec(), key, b"\0", b"v");
    job.pause();
    assert_eq!(job.entries(&spec(), key), entries([(b"", b""), (b"\0", b"v")]));
}

fn a_map_is_empty_when_its_last_entry_is_removed(job: &mut Job) {
    let key = KeyRef::new(b"k");
    job.map_put(&spec(), key, b"a", b"1");
    job.map_put(&spec(), key, b"b", b"2");
    assert!(!job.map_is_empty(&spec(), key));
    job.pause();
    assert!(!job.map_is_empty(&spec(), key));
    job.map_remove(&spec(), key, b"a");
    assert!(!job.map_is_empty(&spec(), key));
    job.map_remove(&spec(), key, b"b");
    assert!(job.map_is_empty(&spec(), key));
    job.pause();
    assert!(job.map_is_empty(&spec(), key));
    assert_eq!(job.entries(&spec(), key), []);
}

fn entries_come_in_the_order_of_the_bytes_of_their_user_keys(job: &mut Job) {
    let key = KeyRef::new(b"k");
    let ordered: [&[u8]; 9] = [b"", b"\0", b"\0\0", b"\0\x01", b"a", b"a\0", b"ab", b"b", b"\xff"];
    for at in [4, 0, 8, 2, 7] {
        job.map_put(&spec(), key, ordered[at], &[at as u8]);
    }
    job.pause();
    for at in [1, 6, 3, 5] {
        job.map_put(&spec(), key, ordered[at], &[at as u8]);
    }
    let expected: Entries =
        ordered.iter().enumerate().map(|(at, entry)| (entry.to_vec(), vec![at as u8])).collect();
    assert_eq!(job.entries(&spec(), key), expected);
    job.pause();
    assert_eq!(job.entries(&spec(), key), expected);
}

fn a_scan_begins_where_it_is_told_to(job: &mut Job) {
    let key = KeyRef::new(b"k");
    for entry in [b"b", b"d", b"f"] {
        job.map_put(&spec(), key, entry, b"v");
    }
    let check = |job: &mut Job| {
        let cases: [(Bound<&[u8]>, &str); 9] = [
            (Bound::Unbounded, "bdf"),
            (Bound::Included(b""), "bdf"),
            (Bound::Excluded(b""), "bdf"),
            (Bound::Included(b"d"), "df"),
            (Bound::Excluded(b"d"), "f"),
            (Bound::Included(b"c"), "df"),
            (Bound::Excluded(b"c"), "df"),
            (Bound::Excluded(b"f"), ""),
            (Bound::Included(b"g"), ""),
        ];
        for (from, expected) in cases {
            let found = job.scan(&spec(), key, from, usize::MAX);
            let found: Vec<u8> = found.into_iter().flat_map(|(entry, _)| entry).collect();
            assert_eq!(found, expected.as_bytes(), "from {from:?}");
        }
    };
    check(job);
    job.pause();
    check(job);
}

fn a_scan_ends_when_the_visitor_breaks(job: &mut Job) {
    let key = KeyRef::new(b"k");
    for entry in 0_u8..100 {
        job.map_put(&spec(), key, &[entry], &[entry]);
        if entry == 50 {
            job.pause();
        }
    }
    for most in [1, 2, 49, 50, 51, 99] {
        let found = job.scan(&spec(), key, Bound::Unbounded, most);
        let expected: Entries = (0..most as u8).map(|entry| (vec![entry], vec![entry])).collect();
        assert_eq!(found, expected);
    }
}

fn a_cleared_map_begins_anew(job: &mut Job) {
    let key = KeyRef::new(b"k");
    job.map_put(&spec(), key, b"a", b"1");
    job.map_put(&spec(), key, b"b", b"2");
    job.pause();
    job.clear(&spec(), key);
    job.clear(&spec(), KeyRef::new(b"absent"));
    assert!(job.map_is_empty(&spec(), key));
    assert_eq!(job.map_get(&spec(), key, b"a"), None);
    job.map_put(&spec(), key, b"c", b"3");
    assert_eq!(job.entries(&spec(), key), entries([(b"c", b"3")]));
    job.pause();
    assert_eq!(job.entries(&spec(), key), entries([(b"c", b"3")]));
    assert_eq!(job.map_get(&spec(), key, b"b"), None);
    job.clear(&spec(), key);
    job.pause();
    assert!(job.map_is_empty(&spec(), key));
    job.map_put(&spec(), key, b"a", b"4");
    job.pause();
    assert_eq!(job.entries(&spec(), key), entries([(b"a", b"4")]));
}

fn maps_of_namespaces_and_states_do_not_see_each_other(job: &mut Job) {
    let other = StateSpec::map("other");
    let key = KeyRef::new(b"k");
    job.map_put(&spec(), key, b"e", b"none");
    job.map_put(&spec(), key.namespace(b"1"), b"e", b"one");
    job.map_put(&spec(), key.namespace(b"2"), b"e", b"two");
    job.map_put(&other, key, b"e", b"other");
    job.pause();
    job.clear(&spec(), key.namespace(b"1"));
    job.map_put(&spec(), key.namespace(b"2"), b"f", b"more");
    job.pause();
    assert_eq!(job.entries(&spec(), key), entries([(b"e", b"none")]));
    assert_eq!(job.entries(&spec(), key.namespace(b"1")), []);
    let second = job.entries(&spec(), key.namespace(b"2"));
    assert_eq!(second, entries([(b"e", b"two"), (b"f", b"more")]));
    assert_eq!(job.entries(&other, key), entries([(b"e", b"other")]));
}

fn a_key_and_a_user_key_do_not_run_together(job: &mut Job) {
    let places: [(&[u8], &[u8], &[u8]); 4] =
        [(b"a", b"", b"bc"), (b"a", b"b", b"c"), (b"ab", b"", b"c"), (b"", b"a", b"bc")];
    for (number, (key, namespace, entry)) in places.iter().enumerate() {
        job.map_put(&spec(), KeyRef::new(key).namespace(namespace), entry, &[number as u8]);
    }
    job.pause();
    for (number, (key, namespace, entry)) in places.iter().enumerate() {
        let key = KeyRef::new(key).namespace(namespace);
        assert_eq!(job.entries(&spec(), key), entries([(entry, &[number as u8])]));
    }
}

fn entries_of_many_lengths_come_back(job: &mut Job) {
    let key = KeyRef::new(b"k");
    let lengths = [0, 1, 127, 128, 300, 5000, 60_000, 16_383, 16_384, 3];
    let mut expected = BTreeMap::new();
    for (at, &len) in lengths.iter().enumerate() {
        for (user_key_len, value_len) in [(len, 3), (len / 2 + 1, 17 * len)] {
            let user_key = noise(at as u64, user_key_len);
            let value = noise(at as u64 + 50, value_len);
            job.map_put(&spec(), key, &user_key, &value);
            expected.insert(user_key, value);
        }
        job.pause();
    }
    for (user_key, value) in &expected {
        assert!(job.map_get(&spec(), key, user_key).as_ref() == Some(value));
    }
    assert!(job.entries(&spec(), key) == expected.into_iter().collect::<Entries>());
}

fn large_maps_come_back(job: &mut Job) {
    let key = KeyRef::new(b"k").namespace(b"n");
    let mut expected = BTreeMap::new();
    for round in 0..5_u64 {
        for number in 0..400_u64 {
            let dice = noise(round * 1000 + number, 4);
            let user_key = [dice[0] % 8, dice[1]];
            if dice[2].is_multiple_of(3) {
                job.map_remove(&spec(), key, &user_key);
                expected.remove(&user_key[..]);
            } else {
                let value = noise(number, usize::from(dice[3]));
                job.map_put(&spec(), key, &user_key, &value);
                expected.insert(user_key.to_vec(), value);
            }
        }
        job.pause();
        let from = [3, round as u8];
        let rest = expected.range(from.to_vec()..);
        let rest: Entries = rest.map(|(entry, value)| (entry.clone(), value.clone())).collect();
        assert!(job.scan(&spec(), key, Bound::Included(&from), usize::MAX) == rest);
    }
    assert!(job.entries(&spec(), key) == expected.into_iter().collect::<Entries>());
}

fn a_snapshot_of_maps_holds_nothing_later(job: &mut Job) {
    let names: Vec<[u8; 1]> = (0_u8..30).map(|name| [name]).collect();
    let mut snapshots = Vec::new();
    for round in 0_u8..4 {
        for name in &names {
            let key = KeyRef::new(name);
            match (name[0] + round) % 5 {
                0 => job.clear(&spec(), key),
                1 => job.map_remove(&spec(), key, &[round.wrapping_sub(1)]),
                2 => job.map_put(&spec(), key, b"same", &[round]),
                _ => job.map_put(&spec(), key, &[round], name),
            }
        }
        let all: Vec<_> =
            names.iter().map(|name| job.entries(&spec(), KeyRef::new(name))).collect();
        snapshots.push((job.snapshot(), all));
    }
    for shards in [1, 3] {
        for (snapshot, expected) in snapshots.iter().rev() {
            job.restore(*snapshot, shards);
            for (name, expected) in names.iter().zip(expected) {
                let found = job.entries(&spec(), KeyRef::new(name));
                assert_eq!(&found, expected, "{snapshot}, {name:?}");
            }
        }
    }
}

fn the_longest_user_key_is_served_and_a_longer_one_refused(job: &mut Job) {
    let key = KeyRef::new(b"k");
    let longest = noise(1, MAX_KEY_BYTES);
    job.map_put(&spec(), key, &longest, b"v");
    job.pause();
    assert_eq!(job.map_get(&spec(), key, &longest).as_deref(), Some(&b"v"[..]));
    let too_long = [&longest[..], b"x"].concat();
    for key in [key, KeyRef::new(b"absent")] {
        assert_invalid(
            job.try_on(&spec(), key, |store, state| store.map_put(state, key, &too_long, b"v")),
        );
    }
    job.pause();
    assert!(job.map_is_empty(&spec(), KeyRef::new(b"absent")));
    assert_eq!(job.entries(&spec(), key), entries([(&longest, b"v")]));
}

fn keys_that_are_too_long_or_of_another_shard_are_refused(job: &mut Job) {
    let (_, theirs) = keys_of_two_shards(job);
    job.map_put(&spec(), KeyRef::new(&theirs), b"e", b"v");
    let too_long = noise(1, MAX_KEY_BYTES + 1);
    let long_shard = job.shard_of(KeyRef::new(&too_long));
    for (shard, key) in [(0, KeyRef::new(&theirs)), (long_shard, KeyRef::new(&too_long))] {
        let store = job.store(shard);
        let state = store.register(spec()).unwrap();
        assert_invalid(store.map_get(state, key, b"e").map(|_| ()));
        assert_invalid(store.map_put(state, key, b"e", b"wrong"));
        assert_invalid(store.map_remove(state, key, b"e"));
        assert_invalid(store.map_is_empty(state, key));
        assert_invalid(
            store.map_scan(state, key, Bound::Unbounded, &mut |_, _| {
                panic!("called for such a key")
            }),
        );
        assert_invalid(store.clear(state, key));
    }
    job.pause();
    assert_eq!(job.entries(&spec(), KeyRef::new(&theirs)), entries([(b"e", b"v")]));
}
