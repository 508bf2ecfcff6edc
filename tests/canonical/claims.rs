//! What else is claimed of exports and imports.

use std::io;
use std::sync::Arc;

use alluvium::codec::CodecId;
use alluvium::env::sim::{FaultError, FaultKind};
use alluvium::env::{Env, SimEnv};
use alluvium::format::Compression;
use alluvium::object::{LocalStore, ObjectName, ObjectStore};
use alluvium::savepoint::{Export, Import, ObjectStream, SavepointReader};
use alluvium::{
    Error, ErrorKind, KeyGroup, KeyRef, KeyedStore, MaxParallelism, OperatorStateSpec,
    OperatorStore, SnapshotId, StateSpec,
};

use crate::common::{group_of, manifest_of};
use crate::golden::{MAX, small_job};
use crate::plain;
use crate::{
    Memory, WORK, backend_in, backend_on, export, export_by, handles_of, import, import_by, memory,
    open, ranges, snapshots, store_of,
};

fn assert_says(error: &Error, kind: ErrorKind, facts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for fact in facts {
        assert!(text.contains(fact), "{fact:?} is missing in: {text}");
    }
}

#[test]
fn a_job_of_nothing_has_a_savepoint() {
    let store = memory();
    let bytes = export(&store, &[]);
    assert!(plain::read(&bytes).operators.is_empty());
    let imported = import(&store, &bytes, 3);
    assert!(imported.operators.is_empty());
    assert_eq!(imported.head.job, "job");
    assert_eq!(imported.head.user_meta, b"offset 17");
    assert_eq!(imported.end.entries, 0);
}

#[test]
fn values_of_any_length_come_through_with_little_memory() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env, 16).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(1, 16), &[]);
    let shard = &mut shards[0];
    let list = shard.register(StateSpec::list("list")).unwrap();
    let map = shard.register(StateSpec::map("map")).unwrap();
    let value = shard.register(StateSpec::value("value")).unwrap();
    let items = shard.open_operator_state(OperatorStateSpec::list("items")).unwrap();
    let rules = shard.open_operator_state(OperatorStateSpec::broadcast("rules")).unwrap();
    let mib = 1 << 20;
    let mut lens = Vec::new();
    for len in [0, 1, 65_535, mib - 1, mib, mib + 1, 2 * mib, 5 * mib + 7, 100_000] {
        let bytes: Vec<u8> = (0..len as u32).map(|at| (at / 3 % 251) as u8).collect();
        let key = (len as u64).to_be_bytes();
        let at = KeyRef::new(&key);
        shard.put(value, at, &bytes).unwrap();
        shard.list_append(list, at, &[b"before", &bytes, &bytes, b"after"]).unwrap();
        shard.map_put(map, at, b"entry", &bytes).unwrap();
        shard.map_put(map, at, &[b'k'; 60_000], b"long key").unwrap();
        shard.operator_list_add(items, &[&bytes]).unwrap();
        shard.broadcast_put(rules, &key, &bytes).unwrap();
        lens.push(len);
    }
    let long_key = vec![b'k'; 60_000];
    shard.put(value, KeyRef::new(&long_key).namespace(&long_key), b"long key").unwrap();
    let handles = snapshots(&mut shards, 1);
    let store = store_of(&env);
    let bytes = export(&store, &handles);
    let found = plain::read(&bytes);
    let op = &found.operators["op"];
    lens.sort_unstable();
    let values: Vec<usize> =
        op.states["value"].entries.iter().map(|entry| entry.value.len()).collect();
    assert_eq!(values[..9], lens);
    let mut elements = op.states["list"].entries.iter().map(|entry| entry.value.len());
    for len in &lens {
        assert_eq!(elements.by_ref().take(4).collect::<Vec<_>>(), [6, *len, *len, 5]);
    }
    let small =
        export_by(&store, &handles, |export| export.sort_bytes(1).compression(Compression::None));
    assert!(small.unwrap() == bytes);
    let packed = export_by(&store, &handles, |export| export.sort_bytes(1)).unwrap();
    assert!(packed.len() < bytes.len() / 2, "it is compressed");
    let to = memory();
    let imported = import_by(&to, &packed, |import| import.sort_bytes(1).shards(2)).unwrap();
    assert!(export(&to, &handles_of(&imported)) == bytes);
    let backend = backend_in(&to, 16);
    let mut shards = open(&backend, "op", &ranges(2, 16), &imported.operators[0].handles);
    for shard in &mut shards {
        let value = shard.register(StateSpec::value("value")).unwrap();
        for len in &lens {
            let key = (*len as u64).to_be_bytes();
            if let Ok(found) = shard.get(value, KeyRef::new(&key)) {
                assert_eq!(found.map(<[u8]>::len), Some(*len));
            }
        }
    }
}

#[test]
fn a_savepoint_goes_into_a_store_and_comes_out_of_it() {
    let env = SimEnv::new(9);
    let store = LocalStore::open(Arc::new(env.clone()), "/shared/savepoints".into()).unwrap();
    let (snapshots, handles) = small_job();
    let name = ObjectName::new("savepoints/first").unwrap();
    let make = || {
        let export = Export::new(Arc::new(env.clone()), WORK, &snapshots);
        export.job("job", b"offset 17").compression(Compression::None)
    };
    let report = make().create(&handles, &store, &name).unwrap();
    let object = store.open(&name).unwrap();
    let mut bytes = vec![0; object.len() as usize];
    object.read_at(0, &mut bytes).unwrap();
    assert!(bytes == export(&snapshots, &handles));
    assert_eq!(report.hash.0, plain::read(&bytes).hash);
    assert_eq!(report.bytes, bytes.len() as u64);
    let mut reader = SavepointReader::open(ObjectStream::new(Arc::clone(&object))).unwrap();
    let mut entries = 0;
    while let Some((section, entry)) = reader.next().unwrap() {
        entries += 1;
        assert!(entry.bytes() > 0 || section > 0);
    }
    assert_eq!(entries, report.entries);
    assert_eq!(reader.head(), &report.head);
    let to = memory();
    let imported = import_by(&to, b"", |import| import).unwrap_err();
    assert_eq!(imported.kind(), ErrorKind::Corrupt);
    let import = Import::new(Arc::new(to.env.clone()), WORK, &to.sink, SnapshotId(8));
    let imported = import.read(ObjectStream::new(object)).unwrap();
    assert!(handles_of(&imported).iter().all(|handle| handle.snapshot() == SnapshotId(8)));
    assert!(export(&to, &handles_of(&imported)) == bytes);

    let error = make().create(&handles, &store, &name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let left: Vec<_> =
        env.list_all_files().into_iter().filter(|path| path.starts_with(WORK)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn handles_that_are_not_one_checkpoint_are_refused() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env, 16).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(3, 16), &[]);
    let handles = snapshots(&mut shards, 1);
    let store = store_of(&env);
    let refuse = |handles: &[_], facts: &[&str]| {
        let error = export_by(&store, handles, |export| export).unwrap_err();
        assert_says(&error, ErrorKind::Invalid, &[&["operator \"op\""], facts].concat());
    };
    refuse(&handles[..2], &["none with kg11"]);
    refuse(&handles[1..], &["none with kg0"]);
    let twice = [handles.clone(), vec![handles[1].clone()]].concat();
    refuse(&twice, &["kg6 twice"]);

    let other = backend_on(&SimEnv::new(2), 8).open().unwrap();
    let mixed = snapshots(&mut open(&other, "op", &ranges(1, 8), &[]), 1);
    let mixed = [&handles[..], &mixed].concat();
    let error = export_by(&store, &mixed, |export| export).unwrap_err();
    assert_says(&error, ErrorKind::Incompatible, &["max_parallelism 16", "max_parallelism 8"]);

    let error = export_by(&memory(), &handles, |export| export).unwrap_err();
    assert_says(&error, ErrorKind::Corrupt, &["manifest", "operator \"op\""]);
    let error = export_by(&store, &handles, |export| export.job(&"n".repeat(2_000), b""));
    assert_says(&error.unwrap_err(), ErrorKind::Invalid, &["name of the job", "1024"]);
}

#[test]
fn shards_that_disagree_about_a_state_have_no_savepoint() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env, 16).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(2, 16), &[]);
    shards[0].register(StateSpec::value("state")).unwrap();
    shards[1].register(StateSpec::list("state")).unwrap();
    let handles = snapshots(&mut shards, 1);
    let error = export_by(&store_of(&env), &handles, |export| export).unwrap_err();
    assert_says(&error, ErrorKind::Incompatible, &["\"state\"", "Value", "List"]);

    let mut shards = open(&backend, "op", &ranges(2, 16), &[]);
    shards[0].open_operator_state(OperatorStateSpec::list("state")).unwrap();
    shards[1].open_operator_state(OperatorStateSpec::union_list("state")).unwrap();
    let handles = snapshots(&mut shards, 2);
    let error = export_by(&store_of(&env), &handles, |export| export).unwrap_err();
    assert_says(&error, ErrorKind::Incompatible, &["\"state\"", "union list"]);

    let mut shards = open(&backend, "op", &ranges(2, 16), &[]);
    shards[0].open_operator_state(OperatorStateSpec::list("state")).unwrap();
    shards[1].register(StateSpec::list("state")).unwrap();
    let handles = snapshots(&mut shards, 3);
    let error = export_by(&store_of(&env), &handles, |export| export).unwrap_err();
    assert_says(&error, ErrorKind::Incompatible, &["\"state\""]);
}

#[test]
fn a_broadcast_state_that_differs_is_the_first_one_and_is_told() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env, 16).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(3, 16), &[]);
    for (number, shard) in shards.iter_mut().enumerate().skip(1) {
        let same = shard.open_operator_state(OperatorStateSpec::broadcast("same")).unwrap();
        shard.broadcast_put(same, b"key", b"value").unwrap();
        let other = shard.open_operator_state(OperatorStateSpec::broadcast("other")).unwrap();
        shard.broadcast_put(other, b"key", &[number as u8]).unwrap();
    }
    let handles = snapshots(&mut shards, 1);
    let store = store_of(&env);
    let mut bytes = Vec::new();
    let export = Export::new(Arc::new(SimEnv::new(2)), WORK, &store);
    let report = export.write(&handles, &mut bytes).unwrap();
    assert_eq!(report.differing_broadcasts, [("op".to_owned(), "other".to_owned())]);
    let found = plain::read(&bytes);
    assert_eq!(found.operators["op"].items["other"].items, [(b"key".to_vec(), vec![1])]);
}

#[test]
fn a_subtask_without_items_leaves_no_trace_among_those_of_others() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env, 16).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(3, 16), &[]);
    for (number, shard) in shards.iter_mut().enumerate() {
        let version = if number == 1 { 2 } else { 1 };
        let spec = OperatorStateSpec::list("items").value_codec(CodecId::new("item", version));
        let items = shard.open_operator_state(spec).unwrap();
        if number != 1 {
            shard.operator_list_add(items, &[&[number as u8]]).unwrap();
        }
    }
    let found = plain::read(&export(&store_of(&env), &snapshots(&mut shards, 1)));
    let items = &found.operators["op"].items["items"];
    assert_eq!(items.parts, [(("item".to_owned(), 1, Vec::new()), 2)]);
    let values: Vec<&[u8]> = items.items.iter().map(|(_, value)| &value[..]).collect();
    assert_eq!(values, [[0], [2]]);
}

#[test]
fn an_import_is_refused_for_shards_that_cannot_be() {
    let (store, handles) = small_job();
    let bytes = export(&store, &handles);
    let to = memory();
    let refuse = |settings: fn(Import<'_>) -> Import<'_>, facts: &[&str]| {
        let error = import_by(&to, &bytes, settings).unwrap_err();
        assert_says(&error, ErrorKind::Invalid, facts);
    };
    refuse(|import| import.shards(0), &["needs a shard", "no state"]);
    refuse(|import| import.shards(129), &["parallelism", "129"]);
    refuse(|import| import.operator_shards("order", 1), &["no such operator", "\"order\""]);
    let groups = |last: &[u32]| {
        let mut first = 0;
        let mut groups = Vec::new();
        for &last in last {
            let range = (KeyGroup(first as u16), KeyGroup(last as u16));
            groups.push(alluvium::KeyGroupRange::new(range.0, range.1).unwrap());
            first = last + 1;
        }
        groups
    };
    let some = |last: &[u32]| {
        import_by(&to, &bytes, |import| import.operator_groups("orders", groups(last)))
    };
    assert!(some(&[3, 127]).is_ok());
    for last in [&[][..], &[3, 126], &[3, 128]] {
        let error = some(last).unwrap_err();
        assert_says(&error, ErrorKind::Invalid, &["orders", "kg0..=kg127"]);
    }
}

#[test]
fn keys_in_groups_of_the_runtimes_choice_forbid_another_number_of_groups() {
    let (store, handles) = small_job();
    let bytes = export(&store, &handles);
    let max = MaxParallelism::new(256).unwrap();
    let error = import_by(&memory(), &bytes, |import| import.max_parallelism(max)).unwrap_err();
    let facts = ["\"orders\"", "\"amount\"", "kg100", "max_parallelism 128", "256"];
    assert_says(&error, ErrorKind::Incompatible, &facts);
}

#[test]
fn keys_are_found_where_they_belong_after_an_import_with_more_key_groups() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env, 16).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(1, 16), &[]);
    let value = shards[0].register(StateSpec::value("value")).unwrap();
    for number in 0..200_u32 {
        let key = number.to_be_bytes();
        shards[0].put(value, KeyRef::new(&key), &key).unwrap();
    }
    let bytes = export(&store_of(&env), &snapshots(&mut shards, 1));
    let to = memory();
    let max = MaxParallelism::new(300).unwrap();
    let imported =
        import_by(&to, &bytes, |import| import.max_parallelism(max).shards(20).table_bytes(100));
    let imported = imported.unwrap();
    assert_eq!(imported.operators[0].max_parallelism, max);
    let backend = backend_in(&to, 300);
    let mut shards = open(&backend, "op", &ranges(7, 300), &imported.operators[0].handles);
    for number in 0..200_u32 {
        let key = number.to_be_bytes();
        let group = KeyGroup(group_of(&key, 300));
        let shard = shards.iter_mut().find(|shard| shard.groups().contains(group)).unwrap();
        let value = shard.register(StateSpec::value("value")).unwrap();
        assert_eq!(shard.get(value, KeyRef::new(&key)).unwrap(), Some(&key[..]));
    }
}

#[test]
fn the_watermark_of_a_savepoint_is_the_lowest_of_all_shards() {
    for (watermarks, lowest) in [([Some(9), Some(5)], Some(5)), ([Some(9), None], None)] {
        let env = SimEnv::new(1);
        let backend = backend_on(&env, 16).open().unwrap();
        let mut shards = open(&backend, "op", &ranges(2, 16), &[]);
        for (shard, watermark) in shards.iter_mut().zip(watermarks) {
            if let Some(watermark) = watermark {
                shard.advance_watermark(watermark);
            }
        }
        let bytes = export(&store_of(&env), &snapshots(&mut shards, 1));
        assert_eq!(plain::read(&bytes).operators["op"].watermark, lowest);
        let to = memory();
        let imported = import(&to, &bytes, 3);
        let backend = backend_in(&to, 16);
        let shards = open(&backend, "op", &ranges(3, 16), &imported.operators[0].handles);
        assert!(shards.iter().all(|shard| shard.watermark() == lowest));
    }
}

#[test]
fn a_list_goes_on_behind_what_was_imported() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env, 16).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(1, 16), &[]);
    let list = shards[0].register(StateSpec::list("list")).unwrap();
    let mut expected = Vec::new();
    for number in 0..5_u8 {
        // Some MiB, so that it has several chunks.
        let element = vec![number; 700_000];
        shards[0].list_append(list, KeyRef::new(b"key"), &[&element]).unwrap();
        expected.push(element);
    }
    let bytes = export(&store_of(&env), &snapshots(&mut shards, 1));
    let to = memory();
    let imported = import(&to, &bytes, 1);
    let mut handles = imported.operators[0].handles.clone();
    let backend = backend_in(&to, 16);
    for id in 2..5_u8 {
        let mut shards = open(&backend, "op", &ranges(1, 16), &handles);
        let list = shards[0].register(StateSpec::list("list")).unwrap();
        shards[0].list_append(list, KeyRef::new(b"key"), &[&[id]]).unwrap();
        expected.push(vec![id]);
        handles = snapshots(&mut shards, u64::from(id));
        while backend.run_background() {}
    }
    let found = plain::read(&export(&to, &handles));
    let entries = found.operators["op"].states["list"].entries.iter();
    assert!(entries.map(|entry| &entry.value).eq(&expected));
    let mut shards = open(&backend, "op", &ranges(1, 16), &handles);
    let list = shards[0].register(StateSpec::list("list")).unwrap();
    let mut found = Vec::new();
    let visit = &mut |element: &[u8]| found.push(element.to_vec());
    shards[0].list_read(list, KeyRef::new(b"key"), visit).unwrap();
    assert!(found == expected);
}

#[test]
fn the_tables_of_an_imported_shard_have_key_groups_of_their_own() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env, 64).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(1, 64), &[]);
    let value = shards[0].register(StateSpec::value("value")).unwrap();
    let list = shards[0].register(StateSpec::list("list")).unwrap();
    for number in 0..4_000_u32 {
        let key = number.to_be_bytes();
        shards[0].put(value, KeyRef::new(&key), &[7; 50]).unwrap();
        shards[0].list_append(list, KeyRef::new(&key), &[&[7; 50]]).unwrap();
    }
    let bytes = export(&store_of(&env), &snapshots(&mut shards, 1));
    for (shards, table_bytes, tables) in [(1, 1 << 30, 1), (4, 1 << 30, 1), (4, 30_000, 4)] {
        let to = memory();
        let imported =
            import_by(&to, &bytes, |import| import.shards(shards).table_bytes(table_bytes));
        for handle in &imported.unwrap().operators[0].handles {
            let manifest = manifest_of(&*to, handle).unwrap();
            assert_eq!(manifest.tables.len(), tables);
            let mut slices: Vec<_> = manifest.tables.iter().map(|table| table.slice).collect();
            slices.sort_by_key(|slice| slice.first());
            assert!(slices.windows(2).all(|pair| pair[0].last() < pair[1].first()), "{slices:?}");
            assert!(manifest.user_meta.is_empty());
        }
    }
}

/// A stream that fails after some bytes.
struct Failing(usize);

impl io::Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Read for Failing {
    fn read(&mut self, _bytes: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

#[test]
fn streams_that_fail_and_callers_that_cancel_leave_nothing() {
    let (store, handles) = small_job();
    let to = memory();
    let env = to.env.clone();
    let arc: Arc<dyn Env> = Arc::new(env.clone());
    let export = || Export::new(Arc::clone(&arc), WORK, &store);
    let error = export().write(&handles, &mut Failing(100)).unwrap_err();
    assert_says(&error, ErrorKind::Unavailable, &["could not be written", "worthless"]);
    let bytes = crate::export(&store, &handles);
    let cut = io::Read::chain(&bytes[..500], Failing(0));
    let import = Import::new(Arc::clone(&arc), WORK, &to.sink, SnapshotId(1));
    let error = import.read(cut).unwrap_err();
    assert_says(&error, ErrorKind::Unavailable, &["could not be read"]);

    let big_env = SimEnv::new(8);
    let backend = backend_on(&big_env, 16).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(1, 16), &[]);
    let value = shards[0].register(StateSpec::value("value")).unwrap();
    for number in 0..10_000_u32 {
        shards[0].put(value, KeyRef::new(&number.to_be_bytes()), b"value").unwrap();
    }
    let big = snapshots(&mut shards, 1);
    let big_store = store_of(&big_env);
    let bytes = crate::export(&big_store, &big);
    for allowed in 0..4 {
        let mut left = allowed;
        let mut go_on = |_| {
            left -= 1;
            left >= 0
        };
        let export = Export::new(Arc::clone(&arc), WORK, &big_store).sort_bytes(1);
        let error = export.keep_going(&mut go_on).write(&big, &mut Vec::new()).unwrap_err();
        assert_says(&error, ErrorKind::Unavailable, &["cancelled"]);
        let mut left = allowed;
        let mut go_on = |_| {
            left -= 1;
            left >= 0
        };
        let import = Import::new(Arc::clone(&arc), WORK, &to.sink, SnapshotId(1));
        let done = import.sort_bytes(1).keep_going(&mut go_on).read(&bytes[..]);
        assert_says(&done.unwrap_err(), ErrorKind::Unavailable, &["cancelled"]);
        assert!(env.list_all_files().is_empty(), "files are left over");
    }
}

/// Every call of the working directory fails once.
#[test]
fn a_working_directory_that_fails_makes_an_error_and_no_savepoint() {
    let big_env = SimEnv::new(8);
    let backend = backend_on(&big_env, 16).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(2, 16), &[]);
    for shard in &mut shards {
        let value = shard.register(StateSpec::value("value")).unwrap();
        for number in 0..3_000_u32 {
            let _ = shard.put(value, KeyRef::new(&number.to_be_bytes()), &[1; 80]);
        }
    }
    let handles = snapshots(&mut shards, 1);
    let store = store_of(&big_env);
    let expected = export(&store, &handles);
    let mut runs = 0;
    for kind in FaultKind::ALL {
        for nth in (1..).step_by(1 + runs % 3) {
            runs += 1;
            let env = SimEnv::new(3);
            env.fail_nth(kind, nth, FaultError::ENOSPC, false);
            let arc: Arc<dyn Env> = Arc::new(env.clone());
            let mut bytes = Vec::new();
            let export = Export::new(Arc::clone(&arc), WORK, &store).job("job", b"offset 17");
            let export = export.sort_bytes(1).compression(Compression::None);
            let exported = export.write(&handles, &mut bytes).map(|_| ());
            let to = Memory::on(&env);
            let import = Import::new(arc, WORK, &to.sink, SnapshotId(1)).sort_bytes(1).shards(2);
            let imported = import.read(&expected[..]);
            let fired = env.fault_fired();
            // What cannot be removed is left, and nothing else.
            let is_removal = kind == FaultKind::Remove && fired;
            assert_eq!(env.list_all_files().len(), usize::from(is_removal), "{kind:?} {nth}");
            match exported {
                Ok(()) => assert!(bytes == expected),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
            match imported {
                Ok(imported) => {
                    assert!(crate::export(&to, &handles_of(&imported)) == expected);
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
            if !fired {
                break;
            }
        }
    }
    assert!(runs > 60, "{runs} runs");
}

#[test]
fn a_damaged_table_makes_an_error_and_no_savepoint() {
    let env = SimEnv::new(8);
    let backend = backend_on(&env, 16).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(1, 16), &[]);
    let value = shards[0].register(StateSpec::value("value")).unwrap();
    for number in 0..300_u32 {
        shards[0].put(value, KeyRef::new(&number.to_be_bytes()), &[1; 80]).unwrap();
    }
    let handles = snapshots(&mut shards, 1);
    let table = env.list_all_files().into_iter().find(|path| {
        path.starts_with(crate::CHECKPOINTS) && path.extension().is_some_and(|end| end == "table")
    });
    let table = table.unwrap();
    let len = env.file_bytes(&table).unwrap().len();
    for at in (0..len).step_by(len / 60 + 1) {
        env.mutate_file(&table, |bytes| bytes[at] ^= 4);
        // The filter is not asked.
        match export_by(&store_of(&env), &handles, |export| export) {
            Ok(bytes) => assert!(bytes.len() > 100),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        }
        env.mutate_file(&table, |bytes| bytes[at] ^= 4);
    }
    env.mutate_file(&table, |bytes| bytes[200] ^= 4);
    let error = export_by(&store_of(&env), &handles, |export| export).unwrap_err();
    assert_says(&error, ErrorKind::Corrupt, &["data block"]);
    assert_eq!(MAX, 128);
}
