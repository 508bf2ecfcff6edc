//! Local files that vanish or are damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::{Backend, ErrorKind, KeyRef, KeyedStore, MaxParallelism, SnapshotId, StateSpec};

use crate::job::{Job, files, value};
use crate::store::Remote;

/// Damages the blocks of a file, one byte in each kilobyte, and neither filter nor index.
fn damage(env: &SimEnv, file: &Path) {
    env.mutate_file(file, |bytes| {
        let end = bytes.len() * 3 / 4;
        bytes[64..end].iter_mut().step_by(1024).for_each(|byte| *byte ^= 0x40);
    });
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a real directory is deleted")]
fn a_local_directory_that_is_gone_is_made_again_at_opening() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let backend = Backend::builder(dir.path()).memory_budget_bytes(1 << 20);
        backend.background_threads(0).open().unwrap()
    };
    let groups = MaxParallelism::DEFAULT.all_groups();
    let handle = {
        let backend = open();
        let mut shard = backend.shard("op", groups).open().unwrap();
        let state = shard.register(StateSpec::value("values")).unwrap();
        for key in 0..1_000_u64 {
            shard.put(state, KeyRef::new(&key.to_le_bytes()), &value(key)).unwrap();
        }
        shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle
    };
    std::fs::remove_dir_all(dir.path().join("local")).unwrap();
    let backend = open();
    let mut shard = backend.shard("op", groups).restore([handle]).open().unwrap();
    let state = shard.register(StateSpec::value("values")).unwrap();
    for key in 0..1_000_u64 {
        let found = shard.get(state, KeyRef::new(&key.to_le_bytes())).unwrap();
        assert_eq!(found, Some(&value(key)[..]), "key {key}");
    }
    // And while the job runs: an attempt fails, the next one finds a directory.
    std::fs::remove_dir_all(dir.path().join("local")).unwrap();
    shard.put(state, KeyRef::new(b"new"), b"new").unwrap();
    assert!(shard.snapshot(SnapshotId(2), b"").unwrap().wait().is_err());
    shard.snapshot(SnapshotId(3), b"").unwrap().wait().unwrap();
}

/// A merge opens its inputs by name.
#[test]
fn a_local_file_that_vanishes_gives_way_to_the_store() {
    for with_budget in [true, false] {
        let env = SimEnv::new(1);
        let remote = Remote::new(&env);
        let backend = Backend::builder("/node")
            .env(Arc::new(env.clone()))
            .background_threads(0)
            .max_tables_per_shard(3)
            .sink(Arc::new(remote.clone()))
            .source(Arc::new(remote.clone()));
        let backend = if with_budget { backend.memory_budget_bytes(1 << 20) } else { backend };
        let backend = backend.open().unwrap();
        let groups = MaxParallelism::DEFAULT.all_groups();
        let mut shard = backend.shard("op", groups).open().unwrap();
        let state = shard.register(StateSpec::value("values")).unwrap();
        let mut handle = None;
        for id in 1..=12 {
            for key in 0..100_u64 {
                shard.put(state, KeyRef::new(&key.to_le_bytes()), &value(key + id)).unwrap();
            }
            let ticket = shard.snapshot(SnapshotId(id), b"").unwrap();
            handle = Some(ticket.wait().unwrap().handle);
            // All that is there is in the store, confirmed or not.
            files(&env).iter().for_each(|file| env.lose_file(file));
            while backend.run_background() {}
        }
        assert!(shard.stats().tables <= 4, "it was merged: {:?}", shard.stats());
        assert!(backend.local_dir().lost_files > 0);
        drop(shard);
        let mut shard = backend.shard("op", groups).restore(handle).open().unwrap();
        let state = shard.register(StateSpec::value("values")).unwrap();
        for key in 0..100_u64 {
            let found = shard.get(state, KeyRef::new(&key.to_le_bytes())).unwrap();
            assert_eq!(found, Some(&value(key + 12)[..]), "key {key}");
        }
    }
}

/// With a budget, the shard has its tables open, and that is as good as a name.
#[test]
fn a_local_file_that_vanishes_while_it_is_open_is_uploaded_all_the_same() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let mut job = Job::open(&env, &remote, None, |builder| builder);
    job.fill(0..2_000);
    job.settle();
    assert!(!job.files().is_empty());
    job.files().iter().for_each(|file| env.lose_file(file));
    let point = job.checkpoint();
    job.forget();
    job.assert_holds_model();
    drop(job);
    let mut job = Job::open(&env, &remote, Some(&point), |builder| builder);
    job.assert_holds_model();
}

#[test]
fn a_local_file_that_nobody_else_has_is_an_error_that_says_what_to_do() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let backend = Backend::builder("/node")
        .env(Arc::new(env.clone()))
        .background_threads(0)
        .sink(Arc::new(remote.clone()))
        .source(Arc::new(remote.clone()))
        .open()
        .unwrap();
    let groups = MaxParallelism::DEFAULT.all_groups();
    let mut shard = backend.shard("op", groups).open().unwrap();
    let state = shard.register(StateSpec::value("values")).unwrap();
    shard.put(state, KeyRef::new(b"key"), b"value").unwrap();
    remote.set_away(true);
    assert!(shard.snapshot(SnapshotId(1), b"").unwrap().wait().is_err());
    remote.set_away(false);
    let file: PathBuf = files(&env).pop().expect("it was written");
    env.lose_file(&file);
    let error = shard.snapshot(SnapshotId(2), b"").unwrap().wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    for part in
        ["missing from the local directory", file.to_str().unwrap(), "restore the last completed"]
    {
        assert!(error.to_string().contains(part), "{part:?} in {error}");
    }
}

#[test]
fn a_damaged_local_file_gives_way_to_the_store() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let mut job = Job::open(&env, &remote, None, |builder| builder);
    job.fill(0..3_000);
    job.checkpoint_all(&remote);
    let files = job.files();
    files.iter().for_each(|file| damage(&env, file));
    job.forget();
    // Every look-up is right, those that meet the damage and those after.
    job.assert_holds_model();
    let lost = job.stats().lost_files;
    assert!(lost > 0 && lost <= files.len() as u64, "{:?}", job.stats());
    assert_eq!(job.stats().tables_in_store_only as u64, lost);
    // Those that were not read meet it when they are merged.
    for _ in 0..8 {
        job.fill(0..300);
        job.checkpoint();
    }
    job.forget();
    job.assert_holds_model();
    job.assert_directory_is_right();
    assert!(files.iter().all(|file| env.file_bytes(file).is_none()), "they are gone");
}

/// The store is asked in the middle of an operation, and may be away.
#[test]
fn a_damaged_local_file_whose_store_is_away_may_be_read_later() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let mut job = Job::open(&env, &remote, None, |builder| builder);
    job.fill(0..3_000);
    job.checkpoint_all(&remote);
    job.files().iter().for_each(|file| damage(&env, file));
    job.forget();
    remote.set_away(true);
    let mut failed = 0;
    for key in 0..3_000 {
        match job.get(key) {
            Ok(found) => assert_eq!(found.as_ref(), job.model.get(&key)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 100, "only {failed} were damaged");
    remote.set_away(false);
    job.assert_holds_model();
}

/// A copy of a table that was restored from another store, on its way to the own one.
#[test]
fn a_damaged_copy_is_not_uploaded_if_another_store_has_its_table() {
    let env = SimEnv::new(1);
    let (there, here) = (Remote::new(&env), Remote::new(&env));
    let mut job = Job::open(&env, &there, None, |builder| builder);
    job.fill(0..1_000);
    let point = job.checkpoint_all(&there);
    drop(job);
    let backend = Backend::builder("/node")
        .env(Arc::new(env.clone()))
        .background_threads(0)
        .memory_budget_bytes(1 << 20)
        .local_copies(true)
        .sink(Arc::new(here.clone()))
        .source(Arc::new(here.clone()))
        .open()
        .unwrap();
    let groups = MaxParallelism::DEFAULT.all_groups();
    let builder = backend.shard("op", groups).source(Arc::new(there)).restore([point.handle]);
    let mut shard = builder.open().unwrap();
    while backend.run_background() {}
    assert!(!files(&env).is_empty());
    files(&env).iter().for_each(|file| damage(&env, file));
    let handle = shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle;
    assert!(backend.local_dir().lost_files > 0);
    drop(shard);
    let mut shard = backend.shard("op", groups).restore([handle]).open().unwrap();
    let state = shard.register(StateSpec::value("values")).unwrap();
    for (key, value) in point.model {
        let found = shard.get(state, KeyRef::new(&key.to_le_bytes())).unwrap();
        assert_eq!(found, Some(&value[..]), "key {key}");
    }
}

#[test]
fn damage_to_what_nobody_else_has_is_told() {
    let env = SimEnv::new(1);
    let remote = Remote::new(&env);
    let mut job = Job::open(&env, &remote, None, |builder| builder);
    job.fill(0..3_000);
    job.settle();
    job.files().iter().for_each(|file| damage(&env, file));
    job.forget();
    let errors: Vec<_> = (0..3_000).filter_map(|key| job.get(key).err()).collect();
    assert!(!errors.is_empty());
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("restore the last completed snapshot"), "{error}");
    }
}
