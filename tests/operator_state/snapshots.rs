//! Barriers, failures, and what goes on while a snapshot is under way.

use alluvium::env::sim::FaultKind;
use alluvium::{BroadcastState, KeyedStore, OperatorListState, StateSpec, ValueState};

use crate::*;

/// No background thread: nothing of the snapshots has been done when the states
/// change again.
#[test]
fn every_snapshot_holds_what_was_there_at_its_barrier() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let (elements, rules) = (list(&mut shard, "elements"), broadcast(&mut shard, "rules"));
    let mut expected = Vec::new();
    let mut tickets = Vec::new();
    for round in 0..12_u32 {
        for number in 0..200_u32 {
            add(&mut shard, elements, [round.to_be_bytes(), number.to_be_bytes()].concat());
            let key = (number * 7 + round).to_be_bytes();
            shard.broadcast_put(rules, &key, &vec![round as u8; number as usize]).unwrap();
        }
        match round {
            4 => shard.operator_state_clear(elements).unwrap(),
            6 => shard.operator_list_replace(elements, &[b"one", b"two"]).unwrap(),
            8 => (0..1500_u32).step_by(2).for_each(|key| {
                shard.broadcast_remove(rules, &key.to_be_bytes()).unwrap();
            }),
            9 => shard.operator_state_clear(rules).unwrap(),
            _ => {}
        }
        tickets.push(shard.snapshot(SnapshotId(u64::from(round) + 1), b"").unwrap());
        expected.push((read(&shard, elements), entries(&shard, rules)));
    }
    shard.operator_state_clear(elements).unwrap();
    shard.operator_state_clear(rules).unwrap();
    for (ticket, (of_list, of_map)) in tickets.iter().zip(expected) {
        let handle = ticket.wait().unwrap().handle;
        let mut shard = open_one(&backend, 0, 1, &[handle]).unwrap();
        let (elements, rules) = (list(&mut shard, "elements"), broadcast(&mut shard, "rules"));
        assert_eq!(read(&shard, elements), of_list);
        assert_eq!(entries(&shard, rules), of_map);
    }
}

#[test]
fn operator_states_and_keyed_states_are_of_the_same_moment() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let counts: ValueState<u64, u64> = ValueState::register(&mut shard, "counts").unwrap();
    let offset: OperatorListState<u64> =
        OperatorListState::even_split(&mut shard, "offset").unwrap();
    let mut tickets = Vec::new();
    for record in 1..=50 {
        counts.update(&mut shard, &0, |count| Some(count.unwrap_or(0) + 1)).unwrap();
        offset.replace(&mut shard, &[record]).unwrap();
        tickets.push(shard.snapshot(SnapshotId(record), b"").unwrap());
    }
    for (ticket, record) in tickets.into_iter().zip(1..) {
        let handle = ticket.wait().unwrap().handle;
        let mut shard = open_one(&backend, 0, 1, &[handle]).unwrap();
        let counts: ValueState<u64, u64> = ValueState::register(&mut shard, "counts").unwrap();
        let offset: OperatorListState<u64> =
            OperatorListState::even_split(&mut shard, "offset").unwrap();
        assert_eq!(counts.get(&mut shard, &0).unwrap(), Some(record));
        assert_eq!(offset.get(&shard).unwrap(), [record]);
    }
}

#[test]
fn a_snapshot_that_fails_or_is_cancelled_leaves_the_next_one_whole() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let (elements, rules) = (list(&mut shard, "elements"), broadcast(&mut shard, "rules"));
    add(&mut shard, elements, b"before");
    shard.broadcast_put(rules, b"rule", b"before").unwrap();
    let cancelled = shard.snapshot(SnapshotId(1), b"").unwrap();
    cancelled.cancel();
    assert_eq!(cancelled.wait().unwrap_err().kind(), ErrorKind::Unavailable);
    shard.notify_aborted(SnapshotId(1));
    add(&mut shard, elements, b"between");
    env.fail_nth(FaultKind::Sync, 1, std::io::ErrorKind::StorageFull, true);
    let failed = shard.snapshot(SnapshotId(2), b"").unwrap();
    assert_eq!(failed.wait().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(env.fault_fired());
    env.clear_faults();
    add(&mut shard, elements, b"after");
    let handle = snapshot(&mut shard, 3);
    let mut shard = open_one(&backend, 0, 1, &[handle]).unwrap();
    let (elements, rules) = (list(&mut shard, "elements"), broadcast(&mut shard, "rules"));
    assert_eq!(read(&shard, elements), [&b"before"[..], b"between", b"after"]);
    assert_eq!(shard.broadcast_get(rules, b"rule").unwrap(), Some(&b"before"[..]));
}

#[test]
fn what_a_shard_says_of_itself_includes_operator_states() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    assert_eq!(shard.stats().operator_state_bytes, 0);
    let (elements, rules) = (list(&mut shard, "elements"), broadcast(&mut shard, "rules"));
    add(&mut shard, elements, [7; 99]);
    shard.broadcast_put(rules, &[1; 9], &[2; 19]).unwrap();
    assert_eq!(shard.stats().operator_state_bytes, 100 + 10 + 20);
    assert_eq!(shard.state_names().collect::<Vec<_>>(), ["elements", "rules"]);
    let handle = snapshot(&mut shard, 1);
    let mut shard = open_one(&backend, 0, 1, &[handle]).unwrap();
    assert_eq!(shard.stats().operator_state_bytes, 130, "before they are opened");
    let (elements, rules) = (list(&mut shard, "elements"), broadcast(&mut shard, "rules"));
    assert_eq!(shard.stats().operator_state_bytes, 130, "and after");
    shard.broadcast_put(rules, &[1; 9], &[]).unwrap();
    shard.operator_state_clear(elements).unwrap();
    assert_eq!(shard.stats().operator_state_bytes, 11);
    assert!(shard.broadcast_remove(rules, &[1; 9]).unwrap());
    assert!(!shard.broadcast_remove(rules, &[1; 9]).unwrap());
    assert_eq!(shard.stats().operator_state_bytes, 0);
}

#[test]
fn typed_states_do_what_their_names_say() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let names: OperatorListState<String> = OperatorListState::union(&mut shard, "names").unwrap();
    assert!(names.is_empty(&shard).unwrap());
    names.add(&mut shard, &"heron".to_owned()).unwrap();
    names.add_all(&mut shard, &["egret".to_owned(), String::new()]).unwrap();
    assert_eq!(names.get(&shard).unwrap(), ["heron", "egret", ""]);
    let mut first = None;
    names
        .scan(&shard, |name| {
            first = Some(name);
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(first.as_deref(), Some("heron"));
    names.replace(&mut shard, &["stork".to_owned()]).unwrap();
    assert_eq!(
        (names.len(&shard).unwrap(), names.get(&shard).unwrap()),
        (1, vec!["stork".to_owned()])
    );
    names.clear(&mut shard).unwrap();
    assert_eq!(names.get(&shard).unwrap(), Vec::<String>::new());

    let prices: BroadcastState<u32, String> = BroadcastState::open(&mut shard, "prices").unwrap();
    for number in [300, 5, 70_000, 1] {
        prices.put(&mut shard, &number, &number.to_string()).unwrap();
    }
    prices.put(&mut shard, &5, &"five".to_owned()).unwrap();
    assert_eq!(prices.get(&shard, &5).unwrap().as_deref(), Some("five"));
    assert!(prices.contains(&shard, &300).unwrap() && !prices.contains(&shard, &2).unwrap());
    let keys = |from| {
        let mut keys = Vec::new();
        prices
            .scan(&shard, from, |key, _| {
                keys.push(key);
                ControlFlow::Continue(())
            })
            .unwrap();
        keys
    };
    assert_eq!(keys(Bound::Unbounded), [1, 5, 300, 70_000]);
    assert_eq!(keys(Bound::Included(&5)), [5, 300, 70_000]);
    assert_eq!(keys(Bound::Excluded(&5)), [300, 70_000]);
    assert!(prices.remove(&mut shard, &300).unwrap() && !prices.remove(&mut shard, &300).unwrap());
    assert_eq!(prices.len(&shard).unwrap(), 3);
    prices.clear(&mut shard).unwrap();
    assert!(prices.is_empty(&shard).unwrap() && prices.entries(&shard).unwrap().is_empty());
}

#[test]
fn a_dropped_state_is_in_earlier_snapshots_and_in_no_later_one() {
    let env = machine();
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, 0, 1, &[]).unwrap();
    let (elements, rules) = (list(&mut shard, "elements"), broadcast(&mut shard, "rules"));
    add(&mut shard, elements, b"element");
    shard.broadcast_put(rules, b"rule", b"value").unwrap();
    let before = shard.snapshot(SnapshotId(1), b"").unwrap();
    assert!(shard.drop_operator_state("elements").unwrap());
    assert!(!shard.drop_operator_state("elements").unwrap());
    let error = shard.operator_list_add(elements, &[b"more"]).unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["no such operator state"]);
    assert_eq!(shard.stats().operator_state_bytes, 5 + 6);
    // The name is free, for a state of any sort.
    shard.register(StateSpec::value("elements")).unwrap();
    let again = shard.snapshot(SnapshotId(2), b"").unwrap().wait().unwrap().handle;

    let earlier = [before.wait().unwrap().handle];
    let mut shard = open_one(&backend, 0, 1, &earlier).unwrap();
    let info = |shard: &Shard| -> Vec<(String, bool, u64, u64)> {
        let infos = shard.operator_states().into_iter();
        infos.map(|info| (info.name, info.is_open, info.items, info.bytes)).collect()
    };
    let of_elements = |is_open| ("elements".to_owned(), is_open, 1, 8);
    let of_rules = ("rules".to_owned(), false, 1, 11);
    assert_eq!(info(&shard), [of_elements(false), of_rules.clone()]);
    let elements = list(&mut shard, "elements");
    assert_eq!(read(&shard, elements), [b"element"]);
    assert_eq!(info(&shard), [of_elements(true), of_rules]);
    // One that nobody has opened can be dropped, too.
    assert!(shard.drop_operator_state("rules").unwrap());
    let handle = snapshot(&mut shard, 3);
    let shard = open_one(&backend, 0, 1, &[handle]).unwrap();
    assert_eq!(info(&shard), [of_elements(false)]);

    let shard = open_one(&backend, 0, 1, &[again]).unwrap();
    assert_eq!(shard.state_names().collect::<Vec<_>>(), ["elements", "rules"]);
    assert_eq!(shard.operator_states().len(), 1);
}
