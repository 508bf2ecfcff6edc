//! Files are known by what they are, not by what they are called.

use std::path::PathBuf;
use std::sync::Arc;

use alluvium::env::sim::SimRng;
use alluvium::object::{Contents, LocalStore, ObjectName, ObjectStore};
use alluvium::{Backend, ErrorKind, SnapshotHandle, SnapshotSink, StoreSink, TableUpload};

use crate::common::{CHECKPOINTS, Image, Job, backend_on};
use crate::{assert_restores, machine, space};

/// FLINK-6964, BOOKKEEPER-2641, SPARK-43404: a file is taken for another of the
/// same name or size.
#[test]
fn bug_11_files_are_recognised_by_identity_not_by_name_or_size() {
    let space = space(10);
    let env = machine();
    let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
    job.change(&mut SimRng::new(1), 20);
    let base = job.snapshot(1);
    let base_image = job.model.clone();
    drop(job);
    // Rolled back twice, each time with changes of the same shape.
    let mut histories = Vec::new();
    for value in [b"one", b"two"] {
        let restore = Some((&base[..], &base_image));
        let mut job = Job::open(&space, backend_on(&env, &space), 1, restore).unwrap();
        for key in 0..10 {
            job.put(key, value);
        }
        histories.push((job.snapshot(2), job.model.clone()));
    }
    for (handles, image) in &histories {
        assert_restores(&env, &space, handles, image, 2);
    }

    // Something of that very name and size is in the store, but it is not it.
    let local = LocalStore::open(Arc::new(env.clone()), PathBuf::from("/other")).unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(local);
    let sink = StoreSink::new(Arc::clone(&store));
    store.create(&ObjectName::new("tables/t").unwrap(), b"other").unwrap();
    store.create(&ObjectName::new("source").unwrap(), b"bytes").unwrap();
    let bytes = store.open(&ObjectName::new("source").unwrap()).unwrap();
    let contents = Contents::of(b"bytes");
    let upload = TableUpload { name: "t", contents, local: None, bytes: &*bytes };
    let error = sink.put_table(&upload, &mut |_| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let upload = TableUpload { name: "u", ..upload };
    let location = sink.put_table(&upload, &mut |_| true).unwrap();
    assert_eq!(sink.put_table(&upload, &mut |_| true).unwrap(), location, "it is there already");
    assert!(!sink.holds_table(&location, &Contents::of(b"longer")).unwrap());
    let error = sink.put_manifest("u", b"x").and(sink.put_manifest("u", b"y")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// FLINK-12296, FLINK-11743: stores share a local directory, and a restore
/// deletes the state of others.
#[test]
fn bug_12_sixteen_stores_share_one_root() {
    let space = space(8);
    let env = machine();
    let open = |store: u64, restore: Option<(&[SnapshotHandle], &Image)>| {
        let builder = Backend::builder(format!("/node/{store}"))
            .checkpoint_dir(CHECKPOINTS)
            .env(Arc::new(env.clone()))
            .background_threads(0)
            .max_parallelism(space.max_parallelism());
        Job::open(&space, builder, 2, restore).unwrap()
    };
    let mut jobs: Vec<_> = (0..16).map(|store| open(store, None)).collect();
    let mut last = Vec::new();
    for (store, job) in jobs.iter_mut().enumerate() {
        job.change(&mut SimRng::new(store as u64), 15);
        last.push((job.snapshot(1), job.model.clone()));
    }
    let mut rng = SimRng::new(1);
    for round in 2..60 {
        let store = rng.below(16);
        let at = store as usize;
        if rng.one_in(2) {
            // Close before opening again: the directory is its own.
            let job = jobs.remove(at);
            drop(job);
            jobs.insert(at, open(store, Some((&last[at].0, &last[at].1))));
        }
        jobs[at].assert_holds_model();
        jobs[at].change(&mut rng, 5);
        last[at] = (jobs[at].snapshot(round), jobs[at].model.clone());
        jobs[at].settle();
    }
    for job in &mut jobs {
        job.assert_holds_model();
    }
    drop(jobs);
    for (store, (handles, image)) in last.iter().enumerate() {
        open(store as u64, Some((handles, image))).assert_holds_model();
    }
}
