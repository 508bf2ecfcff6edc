//! Savepoints that shards put straight into another place.

use std::path::Path;
use std::sync::Arc;

use alluvium::ErrorKind;
use alluvium::coordinator::{Depth, Event, RestoreFrom, verify};
use alluvium::env::RealEnv;
use alluvium::format::ShardAck;
use alluvium::object::{FolderStore, ObjectName, ObjectStore};
use alluvium::savepoint::NativeSavepoint;

use crate::job::{Job, Model, coordinator, latest, store};
use crate::vanishing::Vanishing;

fn count(store: &Arc<dyn ObjectStore>, prefix: &str) -> usize {
    store.list(prefix).unwrap().len()
}

/// A job with a place called "there", and what it holds.
fn job(dir: &Path) -> (Job, Model, Arc<dyn ObjectStore>) {
    let store_of_job = store(&dir.join("store"));
    let mut model = Model::new();
    let state = dir.join("state");
    let mut job = Job::start(coordinator(&store_of_job, "job", 1), &state, 3, None, None);
    job.work(0, 300, &mut model);
    job.checkpoint();
    job.work(100, 50, &mut model);
    let there = store(&dir.join("there"));
    job.places.insert("there".into(), Arc::clone(&there));
    (job, model, there)
}

#[test]
fn a_savepoint_in_another_place_needs_nothing_of_the_jobs_store_and_leaves_nothing_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut job, mut model, there) = job(dir.path());
    let store_of_job = store(&dir.path().join("store"));
    let files = count(&store_of_job, "jobs/job/epochs/");
    let id = job.coordinator.savepoint_into("release", "there", Arc::clone(&there)).unwrap();
    let saved = model.clone();
    let completed = Event::SavepointCompleted { id, name: "release".into() };
    assert_eq!(job.answer().last(), Some(&completed));
    assert_eq!(count(&store_of_job, "jobs/job/epochs/"), files, "nothing new in the job's store");
    let view = job.coordinator.view();
    assert!(view.entry().savepoints.is_empty(), "it is none of the job's");
    assert!(view.entry().outcomes.iter().any(|of| of.id == id && of.failure.is_none()));
    // The job goes on, and its next checkpoint has what the savepoint has.
    job.work(0, 20, &mut model);
    job.checkpoint();
    drop(job);
    let mut again = coordinator(&store_of_job, "job", 1);
    let checkpoint = latest(&mut again);
    Job::start(again, &dir.path().join("state"), 2, Some(&checkpoint), None).check(&model);

    // It may be moved when all else is gone.
    drop((there, store_of_job));
    std::fs::remove_dir_all(dir.path().join("store")).unwrap();
    let moved = dir.path().join("moved");
    std::fs::rename(dir.path().join("there"), &moved).unwrap();
    let savepoint = NativeSavepoint::open(store(&moved)).unwrap().unwrap();
    assert_eq!(savepoint.checkpoint().id, id);
    let found = verify(savepoint.checkpoint(), &*savepoint.source(), Depth::Deep, &mut |_, _| {});
    assert!(found.is_whole(), "{:?}", found.problems);
    let new = store(&dir.path().join("new store"));
    let from = savepoint.checkpoint().clone();
    let next = coordinator(&new, "job", 1);
    let source = Some(savepoint.source());
    Job::start(next, &dir.path().join("state"), 2, Some(&from), source).check(&saved);
    // And any job may import it.
    let mut other = coordinator(&new, "other", 1);
    other.import(&savepoint, "imported", &mut |_| true).unwrap();
}

#[test]
fn a_savepoint_in_a_folder_of_the_jobs_store_is_left_alone_by_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let (mut job, mut model, _) = job(dir.path());
    let all = store(&dir.path().join("store"));
    let name = ObjectName::new("savepoints/release").unwrap();
    let folder: Arc<dyn ObjectStore> = Arc::new(FolderStore::new(Arc::clone(&all), name));
    job.places.insert("folder".into(), Arc::clone(&folder));
    job.coordinator.savepoint_into("release", "folder", Arc::clone(&folder)).unwrap();
    let saved = model.clone();
    job.answer();
    let files = count(&all, "savepoints/");
    for round in 0..5 {
        job.work(round * 30, 60, &mut model);
        job.checkpoint();
        while !job.coordinator.collect(1000).unwrap().is_done {}
    }
    job.coordinator.sweep().unwrap();
    job.checkpoint();
    assert_eq!(count(&all, "savepoints/"), files);
    drop(job);
    let savepoint = NativeSavepoint::open(folder).unwrap().unwrap();
    let from = savepoint.checkpoint().clone();
    let next = coordinator(&store(&dir.path().join("new")), "job", 1);
    let state = dir.path().join("state");
    Job::start(next, &state, 1, Some(&from), Some(savepoint.source())).check(&saved);
}

#[test]
fn a_place_that_has_a_savepoint_is_refused_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let (mut job, _, there) = job(dir.path());
    job.coordinator.savepoint_into("one", "there", Arc::clone(&there)).unwrap();
    job.answer();
    let error = job.coordinator.savepoint_into("two", "there", Arc::clone(&there)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("empty folder"), "{error}");
    assert_eq!(job.coordinator.under_way().count(), 0);
}

#[test]
fn a_shard_that_answers_from_the_jobs_store_has_the_savepoint_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut job, mut model, there) = job(dir.path());
    let id = job.coordinator.savepoint_into("one", "there", Arc::clone(&there)).unwrap();
    let Some(Event::Trigger(barrier)) = job.coordinator.next_event() else { panic!("no barrier") };
    assert_eq!(barrier.place.as_deref(), Some("there"));
    let shard = &mut job.operators[0].shards[0];
    let report = shard.snapshot_as(barrier.mode, barrier.id, b"").unwrap().wait().unwrap();
    let ack = ShardAck::of(barrier.epoch, &report);
    let error = job.coordinator.acknowledge(ack).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("snapshot_to"), "{error}");
    let given_up = job.coordinator.next_event();
    assert!(matches!(given_up, Some(Event::Aborted { id: of, .. }) if of == id), "{given_up:?}");
    assert!(NativeSavepoint::open(Arc::clone(&there)).unwrap().is_none());
    job.work(0, 5, &mut model);
    job.checkpoint();
    job.check(&model);
}

#[test]
fn a_savepoint_that_is_given_up_leaves_no_savepoint_and_the_place_can_be_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let (mut job, mut model, there) = job(dir.path());
    let id = job.coordinator.savepoint_into("one", "there", Arc::clone(&there)).unwrap();
    let Some(Event::Trigger(barrier)) = job.coordinator.next_event() else { panic!("no barrier") };
    let sink = NativeSavepoint::sink(Arc::clone(&there));
    let shard = &mut job.operators[0].shards[0];
    let report = shard.snapshot_to(sink, barrier.id, b"").unwrap().wait().unwrap();
    job.coordinator.acknowledge(ShardAck::of(barrier.epoch, &report)).unwrap();
    job.coordinator.abort(id, "enough");
    // One that comes too late has no effect, in the job's store least of all.
    let late = ShardAck::of(barrier.epoch, &report);
    job.coordinator.acknowledge(late).unwrap();
    while job.coordinator.next_event().is_some() {}
    assert!(NativeSavepoint::open(Arc::clone(&there)).unwrap().is_none());
    assert!(count(&there, "tables/") > 0);
    NativeSavepoint::dispose_leftovers(&*there).unwrap();
    assert_eq!(count(&there, ""), 0);
    job.work(0, 5, &mut model);
    job.checkpoint();
    job.checkpoint();
    while !job.coordinator.collect(1000).unwrap().is_done {}
    let from = job.coordinator.view().find(&RestoreFrom::Latest).unwrap().unwrap();
    assert!(!job.coordinator.view().files(&from).unwrap().is_empty());
    // And now it may be tried again.
    job.coordinator.savepoint_into("one", "there", Arc::clone(&there)).unwrap();
    job.answer();
    assert!(NativeSavepoint::open(there).unwrap().is_some());
    job.check(&model);
}

#[test]
fn a_place_that_fails_holds_up_no_checkpoint_and_its_savepoint_is_complete_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut job, mut model, _) = job(dir.path());
    let place = Arc::new(Vanishing::new(Arc::new(RealEnv::new())));
    let there: Arc<dyn ObjectStore> = Arc::clone(&place) as _;
    // The checkpoint is older, and waits for one shard when the savepoint has all.
    let first = job.coordinator.trigger().unwrap();
    let second = job.coordinator.savepoint_into("one", "place", Arc::clone(&there)).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| job.coordinator.next_event()).collect();
    assert!(matches!(&*events, [Event::Trigger(_), Event::Trigger(_)]), "{events:?}");
    let epoch = job.coordinator.epoch();
    let (mut acks, mut placed) = (Vec::new(), Vec::new());
    for shard in job.operators.iter_mut().flat_map(|operator| &mut operator.shards) {
        let report = shard.snapshot(first, b"").unwrap().wait().unwrap();
        acks.push(ShardAck::of(epoch, &report));
        let sink = NativeSavepoint::sink(Arc::clone(&there));
        let report = shard.snapshot_to(sink, second, b"").unwrap().wait().unwrap();
        placed.push(ShardAck::of(epoch, &report));
    }
    let last = acks.pop().unwrap();
    for ack in acks {
        job.coordinator.acknowledge(ack).unwrap();
    }
    place.fail_to_create(Some("savepoint"));
    for ack in placed {
        job.coordinator.acknowledge(ack).unwrap();
    }
    job.coordinator.acknowledge(last).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| job.coordinator.next_event()).collect();
    assert_eq!(events, [Event::Completed(first)]);
    place.fail_to_create(None);
    job.coordinator.poll().unwrap();
    let completed = Event::SavepointCompleted { id: second, name: "one".into() };
    assert_eq!(job.coordinator.next_event(), Some(completed));
    job.work(0, 5, &mut model);
    job.checkpoint();
    job.check(&model);
}

#[test]
fn a_place_in_which_something_else_appears_has_the_savepoint_given_up_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut job, _, there) = job(dir.path());
    let id = job.coordinator.savepoint_into("one", "there", Arc::clone(&there)).unwrap();
    there.create(&ObjectName::new("savepoint").unwrap(), b"of somebody else").unwrap();
    let events = job.answer();
    assert!(
        matches!(events.last(), Some(Event::Aborted { id: of, reason })
            if *of == id && reason.contains("another savepoint")),
        "{events:?}"
    );
    assert_eq!(job.coordinator.under_way().count(), 0);
}
