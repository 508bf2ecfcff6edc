//! A shard from `put` to a delta in a checkpoint directory and back.

use alluvium::{
    Backend, ErrorKind, KeyGroup, KeyGroupRange, KeyRef, KeyedStore, Shard, SnapshotId, StateSpec,
    ValueState,
};

#[test]
fn a_restored_shard_holds_what_was_frozen_and_nothing_after() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::builder(dir.path().join("a"))
        .checkpoint_dir(dir.path().join("checkpoints"))
        .open()
        .unwrap();
    let groups = backend.max_parallelism().all_groups();
    let mut shard = backend.shard("count", groups).open().unwrap();
    let counts: ValueState<u64, u64> = ValueState::register(&mut shard, "counts").unwrap();
    for key in 0..10_000 {
        counts.put(&mut shard, &key, &key).unwrap();
    }
    let first = shard.snapshot(SnapshotId(1), b"offset 1").unwrap();
    for key in 0..10_000 {
        counts.update(&mut shard, &key, |value| value.map(|value| value + 1)).unwrap();
    }
    for key in 0..100 {
        counts.delete(&mut shard, &key).unwrap();
    }
    let second = shard.snapshot(SnapshotId(2), b"offset 2").unwrap();
    let first = first.wait().unwrap();
    let second = second.wait().unwrap();
    assert_eq!(first.records_new, 10_000);
    assert_eq!(second.records_new, 10_000);
    shard.notify_complete(SnapshotId(2));
    assert_eq!(backend.snapshot_meta(&second.handle).unwrap(), b"offset 2");
    drop((shard, backend));

    for (report, bump, from) in [(first, 0, 0), (second, 1, 100)] {
        let backend = Backend::builder(dir.path().join("b"))
            .checkpoint_dir(dir.path().join("checkpoints"))
            .open()
            .unwrap();
        for subtask in 0..3 {
            let groups = backend.max_parallelism().range_of_subtask(subtask, 3).unwrap();
            let mut shard =
                backend.shard("count", groups).restore([report.handle.clone()]).open().unwrap();
            let counts: ValueState<u64, u64> = ValueState::register(&mut shard, "counts").unwrap();
            let mut found = 0;
            for key in 0..10_000 {
                match counts.get(&mut shard, &key) {
                    Ok(value) => {
                        assert_eq!(value, (key >= from).then_some(key + bump), "key {key}");
                        found += 1;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{error}"),
                }
            }
            assert!(found > 2_000);
            while !shard.warm_up(1_000).unwrap() {}
            let unchanged = shard.snapshot(SnapshotId(3), b"").unwrap().wait().unwrap();
            assert_eq!(unchanged.records_new, 0);
            assert_eq!(unchanged.tables, first_tables(&report));
        }
    }
}

fn first_tables(report: &alluvium::SnapshotReport) -> usize {
    report.tables
}

#[test]
fn an_object_safe_store_serves_bytes_of_keys_with_namespaces() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::builder(dir.path()).open().unwrap();
    let groups = backend.max_parallelism().all_groups();
    let mut store: Box<dyn KeyedStore> = Box::new(backend.shard("op", groups).open().unwrap());
    let state = store.register(StateSpec::value("v")).unwrap();
    let key = KeyRef::new(b"k");
    store.put(state, key.namespace(b"w1"), b"1").unwrap();
    store.put(state, key.namespace(b"w2"), b"2").unwrap();
    store.delete(state, key.namespace(b"w1")).unwrap();
    store
        .update(state, key.namespace(b"w2"), &mut |value| value.bytes_mut().unwrap()[0] = b'3')
        .unwrap();
    assert_eq!(store.get(state, key.namespace(b"w1")).unwrap(), None);
    assert_eq!(store.get(state, key.namespace(b"w2")).unwrap(), Some(&b"3"[..]));
    assert_eq!(store.get(state, key).unwrap(), None);
}

#[test]
fn a_restored_shard_warms_up_whatever_the_operations_are() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::builder(dir.path()).background_threads(0).open().unwrap();
    let groups = backend.max_parallelism().all_groups();
    let mut shard = backend.shard("op", groups).open().unwrap();
    let state = shard.register(StateSpec::value("v")).unwrap();
    for number in 0..500_u64 {
        shard.put(state, KeyRef::new(&number.to_be_bytes()), b"value").unwrap();
    }
    let handle = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
    type Operation = fn(&mut alluvium::Shard, alluvium::StateId);
    let operations: [(&str, Operation); 4] = [
        ("get", |shard, state| {
            assert!(shard.get(state, KeyRef::new(b"absent")).unwrap().is_none())
        }),
        ("put", |shard, state| shard.put(state, KeyRef::new(b"k"), b"").unwrap()),
        ("delete", |shard, state| shard.delete(state, KeyRef::new(b"k")).unwrap()),
        ("update", |shard, state| shard.update(state, KeyRef::new(b"k"), &mut |_| ()).unwrap()),
    ];
    for (name, operation) in operations {
        let mut shard = backend.shard("op", groups).restore([handle.clone()]).open().unwrap();
        let state = shard.register(StateSpec::value("v")).unwrap();
        for _ in 0..200 {
            while backend.run_background() {}
            operation(&mut shard, state);
        }
        assert!(shard.stats().is_warm, "{name} takes in nothing");
    }
}

/// A runtime that routes by itself may use the bytes of one key in two groups;
/// whoever asks without a group means the one that the hash says.
#[test]
fn a_key_without_a_group_is_not_taken_for_one_that_came_with_another() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::builder(dir.path()).open().unwrap();
    let max = backend.max_parallelism();
    let by_hash = KeyRef::new(b"k").locate(max).0;
    let given = KeyGroup((by_hash.0 + 1) % 128);
    let put_given = |shard: &mut Shard, value: &[u8]| {
        let state = shard.register(StateSpec::value("values")).unwrap();
        shard.put(state, KeyRef::in_group(given, b"k"), value).unwrap();
        state
    };
    let mut shard = backend.shard("op", max.all_groups()).open().unwrap();
    let state = put_given(&mut shard, b"given");
    assert_eq!(shard.get(state, KeyRef::new(b"k")).unwrap(), None);
    shard.put(state, KeyRef::new(b"k"), b"by hash").unwrap();
    assert_eq!(shard.get(state, KeyRef::in_group(given, b"k")).unwrap(), Some(&b"given"[..]));
    assert_eq!(shard.get(state, KeyRef::new(b"k")).unwrap(), Some(&b"by hash"[..]));
    assert_eq!(shard.get(state, KeyRef::in_group(by_hash, b"k")).unwrap(), Some(&b"by hash"[..]));
    shard.delete(state, KeyRef::new(b"k")).unwrap();
    assert_eq!(shard.get(state, KeyRef::new(b"k")).unwrap(), None);

    // Also when it comes out of a table.
    let handle = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
    let mut shard = backend.shard("op", max.all_groups()).restore([handle]).open().unwrap();
    while !shard.warm_up(100).unwrap() {}
    let state = shard.register(StateSpec::value("values")).unwrap();
    assert_eq!(shard.get(state, KeyRef::new(b"k")).unwrap(), None);

    // And if all other groups are another shard's, it is an error.
    let mine = KeyGroupRange::new(given, given).unwrap();
    let mut shard = backend.shard("one", mine).open().unwrap();
    let state = put_given(&mut shard, b"given");
    assert_eq!(shard.get(state, KeyRef::new(b"k")).unwrap_err().kind(), ErrorKind::Invalid);
    let update = shard.update_batch(state, &[b"k"], |_, _| panic!("called for another's key"));
    assert_eq!(update.unwrap_err().kind(), ErrorKind::Invalid);
}

/// The first change of a frozen record moves it: what a batch has looked up
/// before must not be taken for the record any more.
#[test]
fn a_key_that_comes_again_in_a_batch_after_a_barrier_is_changed_again() {
    let dir = tempfile::tempdir().unwrap();
    // No thread: the records stay frozen until somebody waits.
    let backend = Backend::builder(dir.path()).background_threads(0).open().unwrap();
    let groups = backend.max_parallelism().all_groups();
    let mut shard = backend.shard("count", groups).open().unwrap();
    let state = shard.register(StateSpec::value("counts")).unwrap();
    let keys: Vec<[u8; 8]> = (0..48_u64).map(|number| (number % 5).to_le_bytes()).collect();
    let count = |shard: &mut Shard| {
        shard.update_batch(state, &keys, |_, value| match value.bytes_mut() {
            Some(bytes) => bytes[0] += 1,
            None => value.set(&[1]),
        })
    };
    count(&mut shard).unwrap();
    let ticket = shard.snapshot(SnapshotId(1), b"").unwrap();
    count(&mut shard).unwrap();
    shard
        .get_batch(state, &keys, |at, value| {
            let times = keys.iter().filter(|key| **key == keys[at]).count() as u8;
            assert_eq!(value, Some(&[2 * times][..]));
        })
        .unwrap();

    let handle = ticket.wait().unwrap().handle;
    let mut restored = backend.shard("count", groups).restore([handle]).open().unwrap();
    let state = restored.register(StateSpec::value("counts")).unwrap();
    for key in &keys {
        let times = keys.iter().filter(|other| *other == key).count() as u8;
        assert_eq!(restored.get(state, KeyRef::new(key)).unwrap(), Some(&[times][..]));
    }
}
