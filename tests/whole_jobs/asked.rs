//! Savepoints that others ask into a place: by a request in the job's store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alluvium::coordinator::{
    Asked, CheckpointSettings, Coordinator, CoordinatorBuilder, Depth, JobView, ask, verify,
};
use alluvium::env::RealEnv;
use alluvium::format::{Action, Answer};
use alluvium::object::{ObjectStore, open_url};
use alluvium::savepoint::NativeSavepoint;
use alluvium::{Error, ErrorKind, SnapshotId, SnapshotMode};

use crate::job::{Job, Model, store};

const NAME: &str = "release";
/// Turns in which a coordinator that looks every millisecond has long looked.
const TURNS: usize = 20_000;

fn url(path: &Path) -> String {
    format!("file://{}", path.to_str().unwrap())
}

/// A directory of one's own, by a path without links.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(dir.path()).unwrap();
    (dir, path)
}

/// A coordinator that looks for requests every millisecond, and remembers no outcomes.
fn builder(store: &Arc<dyn ObjectStore>) -> CoordinatorBuilder {
    let mut settings = CheckpointSettings::default();
    (settings.interval_ms, settings.requests_interval_ms, settings.history) = (None, Some(1), 0);
    Coordinator::builder(Arc::clone(store), "job").settings(settings)
}

struct World {
    job: Job,
    model: Model,
    store: Arc<dyn ObjectStore>,
    opened: Arc<AtomicUsize>,
}

impl World {
    fn new(dir: &Path) -> Self {
        let (store, opened) = (store(&dir.join("store")), Arc::new(AtomicUsize::new(0)));
        let counts = Arc::clone(&opened);
        let coordinator = builder(&store).places(move |place| {
            counts.fetch_add(1, Ordering::Relaxed);
            open_url(Arc::new(RealEnv::new()), place)
        });
        Self::with(coordinator.open().unwrap(), dir, store, opened)
    }

    fn with(
        coordinator: Coordinator,
        dir: &Path,
        store: Arc<dyn ObjectStore>,
        opened: Arc<AtomicUsize>,
    ) -> Self {
        let mut model = Model::new();
        let mut job = Job::start(coordinator, &dir.join("state"), 2, None, None);
        job.work(0, 200, &mut model);
        job.checkpoint();
        Self { job, model, store, opened }
    }

    fn ask(&self, place: &str) -> Asked {
        self.try_to_ask(place).unwrap()
    }

    fn try_to_ask(&self, place: &str) -> alluvium::Result<Asked> {
        let view = JobView::open(Arc::clone(&self.store), "job")?.unwrap();
        let action = Action::SavepointInto { name: NAME.to_owned(), place: place.to_owned() };
        ask(Arc::clone(&self.store), &RealEnv::new(), &view, "a test", action)
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        for _ in 0..TURNS {
            self.job.coordinator.poll().unwrap();
            self.job.answer();
            if let Some(answer) = asked.answer().unwrap() {
                return answer;
            }
        }
        panic!("no answer to {asked:?}");
    }

    /// Has the coordinator begin what is asked for, and nothing more.
    fn begin(&mut self) -> SnapshotId {
        for _ in 0..TURNS {
            self.job.coordinator.poll().unwrap();
            if let Some((barrier, _)) = self.job.coordinator.under_way().next() {
                return barrier.id;
            }
        }
        panic!("nothing was begun");
    }

    fn refusal(&mut self, place: &str) -> String {
        let asked = self.ask(place);
        let answer = self.answer(&asked);
        assert_eq!(answer.id, None);
        answer.refused.expect("a refusal")
    }

    fn goes_on(&mut self) {
        self.job.work(100, 20, &mut self.model);
        self.job.checkpoint();
        self.job.check(&self.model);
    }
}

/// Everything below a directory: files with their bytes, and directories and links by name.
fn listing(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let bytes = if kind.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
            if kind.is_dir() {
                dirs.push(entry.path());
            }
            found.insert(entry.path(), bytes);
        }
    }
    found
}

#[test]
fn a_savepoint_that_is_asked_into_a_place_is_whole_there_and_none_of_the_jobs() {
    let (_dir, dir) = directory();
    let mut world = World::new(&dir);
    let there = dir.join("saved/release");
    let asked = world.ask(&url(&there));
    // Another one for the same is met by the same.
    let again = world.ask(&url(&there));
    let answer = world.answer(&asked);
    let id = answer.id.unwrap_or_else(|| panic!("{answer:?}"));
    assert_eq!(world.answer(&again).id, Some(id));
    let saved = world.model.clone();
    let savepoint = NativeSavepoint::open(store(&there)).unwrap().unwrap();
    assert_eq!((savepoint.checkpoint().id, &*savepoint.checkpoint().job), (id, "job"));
    let found = verify(savepoint.checkpoint(), &*savepoint.source(), Depth::Deep, &mut |_, _| {});
    assert!(found.is_whole(), "{:?}", found.problems);
    assert!(world.job.coordinator.view().entry().savepoints.is_empty());
    world.goes_on();
    drop(world);
    fs::remove_dir_all(dir.join("store")).unwrap();
    let new = store(&dir.join("new"));
    let (from, source) = (savepoint.checkpoint().clone(), savepoint.source());
    let next = crate::job::coordinator(&new, "job", 1);
    Job::start(next, &dir.join("new-state"), 3, Some(&from), Some(source)).check(&saved);
}

#[test]
fn places_that_could_do_harm_are_refused_with_the_reason_and_nothing_is_changed() {
    let (_dir, dir) = directory();
    let mut world = World::new(&dir);
    fs::create_dir_all(dir.join("occupied")).unwrap();
    fs::write(dir.join("occupied/letter"), b"dear").unwrap();
    fs::create_dir_all(dir.join("empty")).unwrap();
    symlink(dir.join("empty"), dir.join("link")).unwrap();
    symlink(dir.join("store"), dir.join("way-in")).unwrap();
    symlink(dir.join("nowhere"), dir.join("dangling")).unwrap();
    fs::write(dir.join("file"), b"file").unwrap();
    let outside = |dir: &Path| {
        let mut found = listing(dir);
        let own = |path: &PathBuf| {
            path.starts_with(dir.join("store")) || path.starts_with(dir.join("state"))
        };
        found.retain(|path, _| !own(path));
        found
    };
    let (before, files) = (outside(&dir), listing(&dir.join("store/jobs/job/epochs")));
    for (place, expected) in [
        ("occupied", "letter"),
        ("link", "through a link"),
        ("link/deeper", "through a link"),
        ("way-in/savepoints", "through a link"),
        ("dangling", "cannot be opened"),
        ("file", "cannot be a directory"),
        ("file/deeper", "cannot be a directory"),
        ("store", "the job's own store"),
        ("store/savepoints", "the job's own store"),
        ("store/jobs/other", "the job's own store"),
    ] {
        let refusal = world.refusal(&url(&dir.join(place)));
        assert!(refusal.contains(expected), "{place}: {refusal}");
        assert!(outside(&dir) == before, "{place} was changed");
        assert!(!dir.join("store/savepoints").exists() && !dir.join("store/jobs/other").exists());
    }
    let around = world.refusal(&url(&dir));
    assert!(around.contains("around it"), "{around}");
    let unknown = world.refusal("ftp://host/folder");
    assert!(unknown.contains("cannot be opened") && unknown.contains("ftp"), "{unknown}");
    assert!(outside(&dir) == before);
    // What is no sound URL is not even asked for.
    for place in ["saved", "../saved", "file:///a/../b", "memory:///", "file:///"] {
        let error = world.try_to_ask(place).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{place}: {error}");
    }
    assert!(listing(&dir.join("store/jobs/job/epochs")) == files, "the job's files changed");
    assert_eq!(world.job.coordinator.under_way().count(), 0);
    world.goes_on();
}

#[test]
fn of_two_savepoints_that_are_asked_into_one_place_the_second_is_refused() {
    let (_dir, dir) = directory();
    let mut world = World::new(&dir);
    let there = url(&dir.join("there"));
    let first = world.ask(&there);
    world.begin();
    // It is on its way. Another job finds that, and so does this one under another name.
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = None;
    let mut other = Coordinator::builder(store(&dir.join("other")), "other");
    other = other.settings(settings);
    let mut other = Job::start(other.open().unwrap(), &dir.join("other-state"), 1, None, None);
    let place = world.job.place(&there);
    let error = other.coordinator.savepoint_into(NAME, &there, Arc::clone(&place)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("job job"), "{error}");
    let error = world.job.coordinator.savepoint_into("b", &there, Arc::clone(&place)).unwrap_err();
    assert!(error.to_string().contains("on its way"), "{error}");
    assert_eq!(place.list("").unwrap().len(), 1, "nothing but who began");

    let answer = world.answer(&first);
    assert!(answer.id.is_some(), "{answer:?}");
    // And when it is complete there is no room for another one.
    let refusal = world.refusal(&there);
    assert!(refusal.contains("something in the place"), "{refusal}");
    let error = other.coordinator.savepoint_into(NAME, &there, place).unwrap_err();
    assert!(error.to_string().contains("there is a savepoint"), "{error}");
}

#[test]
fn a_savepoint_of_the_same_name_in_the_jobs_store_is_another_one() {
    let (_dir, dir) = directory();
    let mut world = World::new(&dir);
    let placed = world.ask(&url(&dir.join("there")));
    world.begin();
    assert_eq!(world.job.coordinator.under_way().count(), 1);
    let view = world.job.coordinator.view();
    let action = Action::Savepoint(NAME.to_owned(), SnapshotMode::Incremental);
    let own = ask(Arc::clone(&world.store), &RealEnv::new(), &view, "a test", action).unwrap();
    let ids = [world.answer(&own), world.answer(&placed)].map(|answer| answer.id.unwrap());
    assert_ne!(ids[0], ids[1]);
    let entry = world.job.coordinator.view().entry().clone();
    assert_eq!(entry.savepoint(NAME).map(|of| of.checkpoint.id), Some(ids[0]));
}

#[test]
fn a_job_that_was_not_told_how_to_open_places_says_so() {
    let (_dir, dir) = directory();
    let store = store(&dir.join("store"));
    let coordinator = builder(&store).open().unwrap();
    let mut world = World::with(coordinator, &dir, store, Arc::default());
    let refusal = world.refusal(&url(&dir.join("there")));
    assert!(refusal.contains("takes no savepoints into other places"), "{refusal}");
    assert!(refusal.contains("alluvium export"), "{refusal}");
    assert!(!dir.join("there").exists());
    world.goes_on();
}

#[test]
fn a_place_that_cannot_be_reached_is_told_and_holds_up_nobody_else() {
    let (_dir, dir) = directory();
    let store = store(&dir.join("store"));
    let away = |_: &str| Err(Error::unavailable("the endpoint is away"));
    let coordinator = builder(&store).places(away).open().unwrap();
    let mut world = World::with(coordinator, &dir, store, Arc::default());
    let asked = [world.ask("s3://bucket/a"), world.ask("s3://bucket/b")];
    let view = world.job.coordinator.view();
    let action = Action::Checkpoint(SnapshotMode::Incremental, view.entry().next_id);
    let other = ask(Arc::clone(&world.store), &RealEnv::new(), &view, "a test", action).unwrap();
    assert!(world.answer(&other).id.is_some());
    for asked in asked {
        let refusal = world.answer(&asked).refused.unwrap();
        assert!(refusal.contains("the endpoint is away"), "{refusal}");
    }
}

#[test]
fn a_request_that_is_met_again_by_the_next_coordinator_finds_what_was_done_and_nothing_older() {
    let (_dir, dir) = directory();
    let mut world = World::new(&dir);
    let there = url(&dir.join("there"));
    let asked = world.ask(&there);
    let id = world.begin();
    world.job.carry();
    // It is complete, and the coordinator dies before it says so.
    assert!(NativeSavepoint::open(world.job.place(&there)).unwrap().is_some());
    assert!(asked.answer().unwrap().is_none());
    let World { job, store, opened, .. } = world;
    drop(job);
    let next = builder(&store).places(|place| open_url(Arc::new(RealEnv::new()), place));
    let mut world = World::with(next.open().unwrap(), &dir, store, opened);
    assert_eq!(world.answer(&asked).id, Some(id));
    // For somebody who asks now it is an old one.
    let refusal = world.refusal(&there);
    assert!(refusal.contains(&format!("checkpoint {id} of job")), "{refusal}");
}

#[test]
fn a_savepoint_whose_coordinator_died_on_the_way_is_told_to_be_cleared() {
    let (_dir, dir) = directory();
    let mut world = World::new(&dir);
    let there = url(&dir.join("there"));
    let asked = world.ask(&there);
    world.begin();
    let World { job, store, opened, .. } = world;
    drop(job);
    let next = builder(&store).places(|place| open_url(Arc::new(RealEnv::new()), place));
    let mut world = World::with(next.open().unwrap(), &dir, store, opened);
    let refusal = world.answer(&asked).refused.unwrap();
    assert!(refusal.contains("on its way") && refusal.contains("clear this one"), "{refusal}");
    NativeSavepoint::dispose_leftovers(&*world.job.place(&there)).unwrap();
    let asked = world.ask(&there);
    assert!(world.answer(&asked).id.is_some());
    world.goes_on();
}

#[test]
fn one_that_is_given_up_is_told_with_what_is_left_to_do() {
    let (_dir, dir) = directory();
    let mut world = World::new(&dir);
    let there = url(&dir.join("there"));
    let asked = world.ask(&there);
    let id = world.begin();
    world.job.coordinator.abort(id, "a shard has no such store");
    while world.job.coordinator.next_event().is_some() {}
    let refusal = world.answer(&asked).refused.unwrap();
    assert!(refusal.contains(&format!("clear {there}")), "{refusal}");
    assert_eq!(world.opened.load(Ordering::Relaxed), 1);
    world.goes_on();
}
