//! Key groups, keys and types across a restore.

use std::sync::Arc;

use alluvium::env::sim::SimRng;
use alluvium::{ErrorKind, KeyRef, KeyedStore, Result, Shard, SnapshotId, StateSpec, ValueState};

use crate::common::{
    CHECKPOINTS, Ids, Image, Job, Keyspace, OPERATOR, backend_on, handles, manifest_of, range_of,
    store_on,
};
use crate::{assert_restores, machine, space};

/// FLINK-40113: a restore with another number of key groups sends keys to the
/// wrong groups in silence.
#[test]
fn bug_25_another_number_of_key_groups_is_refused_not_remapped() {
    let env = machine();
    let few = Arc::new(Keyspace::new(64, ["counts"]));
    let many = Arc::new(Keyspace::new(128, ["counts"]));
    let mut job = Job::open(&few, backend_on(&env, &few), 1, None).unwrap();
    let handles = job.snapshot(1);
    drop(job);
    let nothing = Image::new();
    let restore = Some((&handles[..], &nothing));
    let refused = Job::open(&many, backend_on(&env, &many), 1, restore);
    assert_eq!(refused.err().expect("it is refused").kind(), ErrorKind::Incompatible);
    Job::open(&few, backend_on(&env, &few), 2, restore).unwrap();
}

/// FLINK-38415: a compaction meets tables that were clipped on restore.
#[test]
fn bug_27_merges_of_clipped_tables_keep_to_their_slices() {
    let space = space(60);
    let env = machine();
    let builder = backend_on(&env, &space).max_tables_per_shard(4);
    let mut job = Job::open(&space, builder, 1, None).unwrap();
    for id in 1..4 {
        job.change(&mut SimRng::new(id), 80);
        job.snapshot(id);
    }
    let mut last = (job.snapshot(4), job.model.clone());
    drop(job);
    let mut id = 4;
    for parallelism in [3, 5, 2, 1, 4] {
        let builder = backend_on(&env, &space).max_tables_per_shard(1);
        let restore = Some((&last.0[..], &last.1));
        let mut job = Job::open(&space, builder, parallelism, restore).unwrap();
        // One task of the background at a time, reads and writes between them.
        for step in 0..200 {
            if step % 40 == 10 {
                id += 1;
                job.change(&mut SimRng::new(id), 10);
                let begin = |(shard, _): &mut (Shard, Ids)| shard.snapshot(SnapshotId(id), b"");
                job.shards.iter_mut().for_each(|shard| drop(begin(shard).unwrap()));
            }
            job.backend.run_background();
            if step % 25 == 0 {
                job.assert_holds_model();
            }
        }
        job.settle();
        id += 1;
        last = (job.snapshot(id), job.model.clone());
        for (shard, _) in &job.shards {
            assert_eq!(shard.stats().tables, 1);
        }
        let store = store_on(&env, CHECKPOINTS).unwrap();
        for handle in &last.0 {
            for table in manifest_of(&store, handle).unwrap().tables {
                assert!(handle.groups().covers(table.meta.groups), "the rest was clipped away");
            }
        }
    }
    assert_restores(&env, &space, &last.0, &last.1, 2);
}

/// FLINK-11087, FLINK-12064: serializers of key and value are exchanged, which
/// nobody notices when they have the same type.
#[test]
fn bug_28_key_namespace_and_value_have_types_of_their_own() {
    let env = machine();
    let space = Keyspace::new(128, ["s"]);
    let backend = backend_on(&env, &space).open().unwrap();
    let mut shard = backend.shard(OPERATOR, range_of(0, 1, 128)).open().unwrap();
    let state: ValueState<String, u64, i32> = ValueState::register(&mut shard, "s").unwrap();
    state.put_in(&mut shard, &"heron".to_owned(), &-3, &7).unwrap();
    let handle = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
    let mut shard = backend.shard(OPERATOR, range_of(0, 1, 128)).restore([handle]).open().unwrap();
    type Exchanged = ValueState<u64, String, i32>;
    type AlsoExchanged = ValueState<String, i32, u64>;
    let errors = [
        Exchanged::register(&mut shard, "s").err(),
        AlsoExchanged::register(&mut shard, "s").err(),
    ];
    for error in errors {
        assert_eq!(error.expect("it is refused").kind(), ErrorKind::Incompatible);
    }
    let state: ValueState<String, u64, i32> = ValueState::register(&mut shard, "s").unwrap();
    assert_eq!(state.get_in(&mut shard, &"heron".to_owned(), &-3).unwrap(), Some(7));
    assert_eq!(state.get_in(&mut shard, &"heron".to_owned(), &3).unwrap(), None);
}

/// FLINK-11094: state that was restored and not touched breaks the next
/// snapshot.
#[test]
fn bug_29_restored_untouched_state_survives_further_snapshots() {
    let space = space(30);
    for max_tables in [1, 8] {
        for warm_up in [false, true] {
            let env = machine();
            let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
            job.change(&mut SimRng::new(1), 50);
            job.snapshot(1);
            job.change(&mut SimRng::new(2), 50);
            let mut last = job.snapshot(2);
            let image = job.model.clone();
            drop(job);
            for round in 0..4 {
                let builder =
                    backend_on(&env, &space).max_tables_per_shard(max_tables).warm_up(warm_up);
                let mut job = Job::open(&space, builder, 1, Some((&last, &image))).unwrap();
                // No state is even registered.
                let shard = &job.shards[0].0;
                assert_eq!(shard.state_names().collect::<Vec<_>>(), ["counts", "names"]);
                for id in 3..6 {
                    let reports = job.try_snapshot(id).unwrap();
                    assert_eq!(reports[0].records_new, 0, "round {round}");
                    last = handles(&reports);
                    job.complete(id);
                    job.settle();
                }
                drop(job);
                assert_restores(&env, &space, &last, &image, 1);
            }
        }
    }
}

/// FLINK-8679, FLINK-9804: keys and namespaces run into each other.
#[test]
fn bug_30_keys_and_namespaces_are_kept_apart() {
    let env = machine();
    let mut space = Keyspace::new(128, ["", "a", "ab"].map(|name| format!("s{name}")));
    let pieces: [&[u8]; 9] = [b"", b"\0", b"\0\0", b"a", b"ab", b"b", b"a\0", b"\xff", b"\xff\xff"];
    for state in 0..3 {
        for key in pieces {
            for namespace in pieces {
                space.add(state, key, namespace, state == 2);
            }
        }
    }
    let space = Arc::new(space);
    let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
    for key in 0..space.keys.len() {
        job.put(key, &(key as u64).to_le_bytes());
    }
    let mut all = (job.snapshot(1), job.model.clone());
    for key in (0..space.keys.len()).step_by(2) {
        job.delete(key);
    }
    let half = (job.snapshot(2), job.model.clone());
    job.assert_holds_model();
    drop(job);
    for (handles, image) in [&mut all, &mut half.clone()] {
        assert_restores(&env, &space, handles, image, 1);
        assert_restores(&env, &space, handles, image, 5);
    }
}

/// lsm-tree #286, RocksDB 11.3.0: an operation is acknowledged and lost at the
/// next open, because it said nothing or had an empty name.
#[test]
fn bug_31_every_operation_survives_a_reopening() {
    let env = machine();
    let space = Keyspace::new(128, ["s"]);
    let all = range_of(0, 1, 128);
    type Operation = fn(&mut Shard, alluvium::StateId) -> Result<()>;
    let key = KeyRef::new(b"");
    // Each begins with the empty key and the empty value under it.
    let operations: [(Operation, Option<&[u8]>); 9] = [
        (|_, _| Ok(()), Some(b"")),
        (|shard, id| shard.put(id, KeyRef::new(b""), b"x"), Some(b"x")),
        (|shard, id| shard.put(id, KeyRef::new(b""), b""), Some(b"")),
        (|shard, id| shard.delete(id, KeyRef::new(b"")), None),
        (|shard, id| shard.update(id, KeyRef::new(b""), &mut |value| value.delete()), None),
        (|shard, id| shard.update(id, KeyRef::new(b""), &mut |value| value.set(b"y")), Some(b"y")),
        (
            |shard, id| {
                shard.update(id, KeyRef::new(b""), &mut |value| {
                    value.set(b"long");
                    value.bytes_mut().unwrap()[0] = b's';
                    value.delete();
                    value.set(b"");
                })
            },
            Some(b""),
        ),
        (
            |shard, id| {
                let keys = [KeyRef::new(b""); 3];
                shard.update_many(id, &keys, &mut |at, value| value.set(&[at as u8]))
            },
            Some(&[2]),
        ),
        (
            |shard, id| {
                shard.delete(id, KeyRef::new(b""))?;
                shard.put(id, KeyRef::new(b""), b"again")
            },
            Some(b"again"),
        ),
    ];
    for (operation, expected) in operations {
        for cold in [false, true] {
            let backend = backend_on(&env, &space).warm_up(!cold).open().unwrap();
            let mut shard = backend.shard(OPERATOR, all).open().unwrap();
            let id = shard.register(StateSpec::value("s")).unwrap();
            shard.register(StateSpec::value("nobody wrote to it")).unwrap();
            shard.put(id, key, b"").unwrap();
            let before = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
            if cold {
                shard = backend.shard(OPERATOR, all).restore([before]).open().unwrap();
            }
            let id = shard.register(StateSpec::value("s")).unwrap();
            operation(&mut shard, id).unwrap();
            assert_eq!(shard.get(id, key).unwrap(), expected);
            let after = shard.snapshot(SnapshotId(2), b"").unwrap().wait().unwrap().handle;
            drop((shard, backend));
            let backend = backend_on(&env, &space).open().unwrap();
            let mut shard = backend.shard(OPERATOR, all).restore([after]).open().unwrap();
            let names: Vec<_> = shard.state_names().collect();
            assert_eq!(names, ["nobody wrote to it", "s"]);
            let id = shard.register(StateSpec::value("s")).unwrap();
            assert_eq!(shard.get(id, key).unwrap(), expected);
        }
    }
    // And the snapshot of nothing at all.
    let backend = backend_on(&env, &space).open().unwrap();
    let mut shard = backend.shard(OPERATOR, all).open().unwrap();
    let report = shard.snapshot(SnapshotId(1), b"meta").unwrap().wait().unwrap();
    assert_eq!((report.records_new, report.tables), (0, 0));
    let shard = backend.shard(OPERATOR, all).restore([report.handle.clone()]).open().unwrap();
    assert_eq!(shard.state_names().count(), 0);
    assert_eq!(backend.snapshot_meta(&report.handle).unwrap(), b"meta");
}

/// A job goes from one shard to two and back to one before the table that both
/// have slices of was merged: the one shard then has two slices of it.
#[test]
fn a_shard_may_hold_two_slices_of_one_table() {
    let space = space(30);
    let env = machine();
    let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
    job.change(&mut SimRng::new(1), 100);
    let mut last = job.snapshot(1);
    let mut image = job.model.clone();
    drop(job);
    for (id, parallelism) in [(2, 2), (3, 1), (4, 3), (5, 2)] {
        let restore = Some((&last[..], &image));
        let mut job = Job::open(&space, backend_on(&env, &space), parallelism, restore).unwrap();
        job.assert_holds_model();
        job.change(&mut SimRng::new(id), 5);
        last = job.snapshot(id);
        image = job.model.clone();
        drop(job);
        assert_restores(&env, &space, &last, &image, 1);
    }
}
