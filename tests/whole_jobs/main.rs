//! Jobs of several operators and shards on the real engine, with the coordinator:
//! checkpoints, savepoints, forks, exports, and any change of parallelism.
//!
//! The coordinator itself is proved by a simulation; here it is seen together with
//! shards, tables and stores.

#![allow(clippy::disallowed_methods, reason = "directories are moved and damaged as people do")]

mod asked;
mod full;
mod job;
mod placed;
mod vanishing;

use std::path::Path;
use std::sync::Arc;

use alluvium::coordinator::{
    CheckpointSettings, ClaimMode, Coordinator, Depth, JobView, RestoreFrom, jobs, orphans, verify,
};
use alluvium::env::RealEnv;
use alluvium::format::Checkpoint;
use alluvium::object::{MemoryStore, ObjectStore};
use alluvium::savepoint::{NativeSavepoint, export_native};
use alluvium::{ErrorKind, SnapshotId};

use crate::job::{Job, Model, coordinator, latest, store};

#[test]
fn a_job_goes_on_from_its_last_checkpoint_on_any_number_of_shards() {
    let dir = tempfile::tempdir().unwrap();
    for before in 1..=16 {
        // In memory: 256 restarts make many files.
        let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Arc::new(RealEnv::new())));
        let mut model = Model::new();
        let state = dir.path().join("state");
        let mut job = Job::start(coordinator(&store, "job", 1), &state, before, None, None);
        job.work(0, 300, &mut model);
        for operator in &mut job.operators {
            for (index, shard) in operator.shards.iter_mut().enumerate() {
                let numbers = (0..5).map(|n| index as u64 * 5 + n).collect::<Vec<_>>();
                operator.list.add_all(shard, &numbers).unwrap();
            }
        }
        let listed = job.listed();
        job.checkpoint();
        job.work(250, 60, &mut model);
        job.checkpoint();
        drop(job);
        for after in 1..=16 {
            let mut next = coordinator(&store, "job", 1);
            let checkpoint = latest(&mut next);
            let mut job = Job::start(next, &state, after, Some(&checkpoint), None);
            job.check(&model);
            assert_eq!(job.listed(), listed, "{before} -> {after}");
            // What is new goes beside what is there.
            job.work(u64::from(after), 1, &mut model);
            job.checkpoint();
            let whole = job.coordinator.view();
            let reference = whole.find(&RestoreFrom::Latest).unwrap().unwrap();
            let costs = whole.read(&reference).unwrap().costs();
            assert!(costs.bytes_new < costs.bytes_total / 2, "{before} -> {after}: {costs:?}");
        }
        let left = orphans(&store, "job").unwrap();
        assert!(left.iter().all(|orphan| !orphan.is_old), "{left:?}");
    }
}

#[test]
fn a_rollback_to_a_savepoint_is_where_the_job_goes_on_even_if_it_fails_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("store"));
    let state = dir.path().join("state");
    let mut model = Model::new();
    let mut job = Job::start(coordinator(&store, "job", 1), &state, 2, None, None);
    job.work(0, 100, &mut model);
    job.checkpoint();
    job.savepoint("before-the-bug");
    let good = model.clone();
    for _ in 0..5 {
        job.work(0, 100, &mut model);
        job.checkpoint();
    }
    drop(job);

    let mut back = coordinator(&store, "job", 1);
    let from = RestoreFrom::Savepoint("before-the-bug".into());
    let checkpoint = back.restore(&from, ClaimMode::NoClaim).unwrap().unwrap();
    let mut job = Job::start(back, &state, 3, Some(&checkpoint), None);
    job.check(&good);
    // It fails before its next checkpoint.
    drop(job);
    let mut again = coordinator(&store, "job", 1);
    let checkpoint = latest(&mut again);
    let mut job = Job::start(again, &state, 1, Some(&checkpoint), None);
    job.check(&good);
    job.work(0, 1, &mut model);
    job.checkpoint();
    job.coordinator.release_base();
    job.checkpoint();
    job.coordinator.dispose("before-the-bug").unwrap();
    while !job.coordinator.collect(1000).unwrap().is_done {}
    job.checkpoint();
    let kept = job.coordinator.view();
    assert!(kept.entry().savepoints.is_empty() && kept.entry().retired.is_empty());
    let reference = kept.find(&RestoreFrom::Latest).unwrap().unwrap();
    let needed = kept.files(&reference).unwrap().len();
    let there = store.list("jobs/job/epochs/").unwrap().len() + 1;
    assert_eq!(there, needed, "nothing but what the checkpoint needs is left");
}

#[test]
fn a_fork_shares_files_and_neither_job_takes_them_from_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("store"));
    let mut ours = Model::new();
    let one = dir.path().join("one");
    let mut job = Job::start(coordinator(&store, "one", 1), &one, 2, None, None);
    job.work(0, 2000, &mut ours);
    job.checkpoint();

    let mut next = coordinator(&store, "two", 1);
    let checkpoint = next.fork("one", &RestoreFrom::Latest).unwrap();
    let before = store.list("jobs/two/").unwrap().len();
    assert!(before <= 3, "journal and metadata, nothing copied: {before}");
    let mut theirs = ours.clone();
    let two = dir.path().join("two");
    let mut fork = Job::start(next, &two, 3, Some(&checkpoint), None);
    for round in 0..40 {
        job.work(round * 50, 50, &mut ours);
        job.checkpoint();
        fork.work(round * 50 + 1000, 50, &mut theirs);
        if round == 0 {
            fork.checkpoint();
        }
    }
    job.check(&ours);
    fork.checkpoint();
    fork.check(&theirs);
    assert_eq!(jobs(&*store).unwrap(), ["one", "two"]);
    drop((job, fork));
    for (name, model, dir) in [("one", &ours, &one), ("two", &theirs, &two)] {
        let mut again = coordinator(&store, name, 1);
        let checkpoint = latest(&mut again);
        Job::start(again, dir, 2, Some(&checkpoint), None).check(model);
    }
    // The fork ends; then the other job may delete what only the fork needed.
    let mut settings = CheckpointSettings::default();
    settings.on_cancel = alluvium::coordinator::OnCancel::Delete;
    let end = Coordinator::builder(Arc::clone(&store), "two").settings(settings);
    end.open().unwrap().cancel().unwrap();
    assert!(store.list("jobs/two/epochs/").unwrap().is_empty());
    assert!(store.list("jobs/one/pins/").unwrap().is_empty());
}

#[test]
fn an_exported_savepoint_can_be_moved_and_needs_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let source = store(&at);
    let state = dir.path().join("state");
    let mut model = Model::new();
    let mut job = Job::start(coordinator(&source, "job", 1), &state, 3, None, None);
    job.work(0, 500, &mut model);
    job.savepoint("release");
    let view = JobView::open(Arc::clone(&source), "job").unwrap().unwrap();
    let found = view.find(&RestoreFrom::Savepoint("release".into())).unwrap().unwrap();
    let here = dir.path().join("here");
    let mut told = 0;
    let mut keep_going = |progress: alluvium::savepoint::native::ExportProgress| {
        told = progress.done_bytes;
        true
    };
    let checkpoint = view.read(&found).unwrap();
    let target = store(&here);
    export_native(&checkpoint, &*view.source(), Arc::clone(&target), &mut keep_going).unwrap();
    assert!(told > 0);
    // Once more is no harm; another one in its place is refused.
    export_native(&checkpoint, &*view.source(), Arc::clone(&target), &mut |_| true).unwrap();
    job.work(0, 10, &mut model.clone());
    job.checkpoint();
    let other = view.read(&job.coordinator.view().find(&RestoreFrom::Latest).unwrap().unwrap());
    let refused =
        export_native(&other.unwrap(), &*view.source(), Arc::clone(&target), &mut |_| true);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    drop((job, view, source, target));
    std::fs::remove_dir_all(&at).unwrap();
    let there = dir.path().join("there");
    std::fs::rename(&here, &there).unwrap();

    let savepoint = NativeSavepoint::open(store(&there)).unwrap().unwrap();
    let found = verify(savepoint.checkpoint(), &*savepoint.source(), Depth::Deep, &mut |_, _| {});
    assert!(found.is_whole(), "{:?}", found.problems);
    let source = Some(savepoint.source());
    let new = store(&dir.path().join("new store"));
    let next = coordinator(&new, "job", 1);
    let from = savepoint.checkpoint().clone();
    let mut job = Job::start(next, &state, 2, Some(&from), source);
    job.check(&model);
    job.checkpoint();
    drop(job);
    savepoint.dispose().unwrap();
    assert!(NativeSavepoint::open(store(&there)).unwrap().is_none());
    let mut again = coordinator(&new, "job", 1);
    let checkpoint = latest(&mut again);
    Job::start(again, &state, 4, Some(&checkpoint), None).check(&model);
}

#[test]
fn an_imported_savepoint_is_one_of_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let here = store(&dir.path().join("here"));
    let state = dir.path().join("state");
    let mut model = Model::new();
    let mut job = Job::start(coordinator(&here, "job", 1), &state, 3, None, None);
    job.work(0, 500, &mut model);
    job.savepoint("release");
    let view = job.coordinator.view();
    let found = view.find(&RestoreFrom::Savepoint("release".into())).unwrap().unwrap();
    let folder = store(&dir.path().join("folder"));
    let exported = view.read(&found).unwrap();
    let savepoint = export_native(&exported, &*view.source(), folder, &mut |_| true).unwrap();
    drop(job);

    let there = store(&dir.path().join("there"));
    let mut next = coordinator(&there, "other", 1);
    next.import(&savepoint, "from-elsewhere", &mut |_| true).unwrap();
    savepoint.dispose().unwrap();
    drop(next);
    let mut next = coordinator(&there, "other", 1);
    let from = RestoreFrom::Savepoint("from-elsewhere".into());
    let checkpoint = next.restore(&from, ClaimMode::Claim).unwrap().unwrap();
    let mut job = Job::start(next, &state, 2, Some(&checkpoint), None);
    job.check(&model);
    job.coordinator.release_base();
    job.work(0, 500, &mut model);
    job.checkpoint();
    let entry = job.coordinator.view();
    assert!(entry.entry().savepoints.is_empty(), "it was claimed");
    assert_eq!(entry.entry().checkpoints.len(), 1, "and later ones have taken its place");
    job.check(&model);
}

#[test]
fn a_savepoint_with_an_impossible_number_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let here = store(&dir.path().join("here"));
    let mut job =
        Job::start(coordinator(&here, "job", 1), &dir.path().join("state"), 1, None, None);
    job.savepoint("release");
    let view = job.coordinator.view();
    let found = view.find(&RestoreFrom::Savepoint("release".into())).unwrap().unwrap();
    let forged = Checkpoint { id: SnapshotId(u64::MAX), ..view.read(&found).unwrap() };
    let folder = store(&dir.path().join("folder"));
    let savepoint = export_native(&forged, &*view.source(), folder, &mut |_| true).unwrap();
    let mut other = coordinator(&here, "other", 1);
    let error = other.import(&savepoint, "forged", &mut |_| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(other.view().entry().savepoints.is_empty());
}

#[test]
fn what_is_wrong_with_a_checkpoint_is_named_file_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("store");
    let source = store(&at);
    let mut job =
        Job::start(coordinator(&source, "job", 3), &dir.path().join("state"), 2, None, None);
    let mut model = Model::new();
    job.work(0, 500, &mut model);
    job.checkpoint();
    job.work(0, 500, &mut model);
    job.checkpoint();
    let view = job.coordinator.view();
    let reference = view.find(&RestoreFrom::Latest).unwrap().unwrap();
    let checkpoint = view.read(&reference).unwrap();
    let look = |depth| verify(&checkpoint, &*view.source(), depth, &mut |_, _| {});
    assert!(look(Depth::Deep).is_whole());
    let files: Vec<_> = view.files(&reference).unwrap();
    let tables: Vec<_> = files.iter().filter(|file| file.location.contains("/tables/")).collect();
    // A byte in the data of one, another one gone.
    let path = at.join(&tables[0].location);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    let unlock = |path: &Path| std::fs::remove_file(path).unwrap();
    unlock(&path);
    std::fs::write(&path, bytes).unwrap();
    unlock(&at.join(&tables[1].location));
    let found = look(Depth::Deep);
    let named: Vec<_> = found.problems.iter().map(|problem| &problem.location).collect();
    let mut expected = vec![&tables[0].location, &tables[1].location];
    expected.sort_unstable();
    let mut sorted = named.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert!(found.problems.iter().all(|problem| problem.error.kind() == ErrorKind::Corrupt));
    let shallow = look(Depth::Shallow);
    assert_eq!(shallow.problems.len(), 1, "its ends are whole: {:?}", shallow.problems);
}
