//! A job whose objects anybody may have changed: its journal, the metadata of checkpoints,
//! manifests and pins. Whoever looks at it, and whoever becomes its coordinator, gets a
//! typed error or goes on; nothing that the journal keeps, and nothing of another job, is
//! ever removed by way of what was changed.
//!
//! The bytes are edits of a sound job. Checksums are waved through under `cfg(fuzzing)`.

#![no_main]

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use alluvium::coordinator::{
    ClaimMode, Depth, JobView, Participant, RestoreFrom, jobs, orphans, verify,
};
use alluvium::env::{ReadAt, SimEnv};
use alluvium::format::ShardAck;
use alluvium::object::{Contents, MemoryStore, ObjectName, ObjectStore};
use alluvium::{Backend, Coordinator, Error, ErrorKind, MaxParallelism, Result, ValueState};
use libfuzzer_sys::fuzz_target;

type Objects = Vec<(String, Vec<u8>)>;

/// A store that watches what is removed.
struct Watched {
    inner: MemoryStore,
    removed: Mutex<Vec<String>>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl ObjectStore for Watched {
    fn identity(&self) -> String {
        "watched".to_owned()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.inner.create(name, bytes)
    }

    fn create_from_file(
        &self,
        _: &ObjectName,
        _: &Path,
        _: &Contents,
        _: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        Err(Error::unavailable("nobody here has files"))
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.inner.create_from_source(name, source, expected, keep_going)
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        self.inner.open(name)
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.inner.len_of(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        self.inner.list(prefix)
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.removed.lock().expect("one thread").push(name.as_str().to_owned());
        self.inner.remove(name)
    }
}

/// The objects of a job that took three checkpoints and a savepoint, was forked by
/// another one, and is read by somebody.
fn sound() -> Objects {
    let env = Arc::new(SimEnv::new(1));
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Arc::clone(&env) as _));
    let mut readers = Vec::new();
    let groups = MaxParallelism::new(4).expect("four groups");
    for job in ["job", "other"] {
        let builder = Coordinator::builder(Arc::clone(&store), job).env(Arc::clone(&env) as _);
        let mut coordinator = builder.open().expect("a new job");
        let forked = (job == "other")
            .then(|| coordinator.fork("job", &RestoreFrom::Latest).expect("there is one"));
        let sink = Arc::new(coordinator.sink());
        let backend = Backend::builder(format!("/{job}"))
            .env(Arc::clone(&env) as _)
            .background_threads(0)
            .max_parallelism(groups)
            .sink(Arc::clone(&sink) as _)
            .source(sink)
            .open()
            .expect("a sound disk");
        let parts = Participant::of_operator("op", groups, 2).expect("two shards");
        let mut shards: Vec<_> = parts
            .iter()
            .map(|part| {
                let handles = forked.iter().flat_map(|checkpoint| checkpoint.handles("op"));
                backend.shard("op", part.groups).restore(handles).open().expect("a shard")
            })
            .collect();
        coordinator.start(parts).expect("all groups");
        let mut round = |coordinator: &mut Coordinator, name: Option<&str>| {
            for shard in &mut shards {
                let state: ValueState<u64, u64> =
                    ValueState::register(shard, "v").expect("a state");
                for key in 0..8 {
                    // Another shard's keys are refused.
                    let _ = state.put(shard, &key, &coordinator.epoch());
                }
            }
            let id = match name {
                Some(name) => coordinator.savepoint(name),
                None => coordinator.trigger(),
            }
            .expect("nothing is in the way");
            for shard in &mut shards {
                let report = shard.snapshot(id, b"").expect("room").wait().expect("sound");
                let ack = ShardAck::of(coordinator.epoch(), &report);
                coordinator.acknowledge(ack).expect("a shard of the job");
            }
            coordinator.poll().expect("sound");
        };
        round(&mut coordinator, None);
        round(&mut coordinator, Some("before"));
        round(&mut coordinator, None);
        if job == "job" {
            let view = coordinator.view();
            let savepoint = RestoreFrom::Savepoint("before".to_owned());
            let reference = view.find(&savepoint).expect("there").expect("there");
            readers.push(view.pin(&*env, &reference, "reader").expect("kept"));
        }
    }
    let names = store.list("").expect("sound");
    names
        .iter()
        .map(|name| {
            let object = store.open(name).expect("there");
            let mut bytes = vec![0; object.len() as usize];
            object.read_at(0, &mut bytes).expect("sound");
            (name.as_str().to_owned(), bytes)
        })
        .collect()
}

/// Changes objects: which one, what is done with it, where, and how many of the bytes that
/// follow go there.
fn edit(objects: &mut Objects, mut bytes: &[u8]) {
    while let [which, how, at_low, at_high, count, rest @ ..] = bytes {
        let len = objects.len();
        if len == 0 {
            return;
        }
        let (_, object) = &mut objects[usize::from(*which) % len];
        let (new, rest) = rest.split_at(usize::from(*count).min(rest.len()));
        bytes = rest;
        let at = usize::from(u16::from_le_bytes([*at_low, *at_high])) % (object.len() + 1);
        match how % 5 {
            0 => {
                let end = (at + new.len()).min(object.len());
                object[at..end].copy_from_slice(&new[..end - at]);
            }
            1 => drop(object.splice(at..at, new.iter().copied())),
            2 => object.truncate(at),
            3 => *object = new.to_vec(),
            _ => drop(objects.remove(usize::from(*which) % len)),
        }
    }
}

fn typed(error: &Error) {
    assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
}

fuzz_target!(|bytes: &[u8]| {
    thread_local!(static SOUND: Objects = sound());
    let mut objects = SOUND.with(Clone::clone);
    edit(&mut objects, &bytes[..bytes.len().min(4096)]);

    let env = Arc::new(SimEnv::new(2));
    let memory = MemoryStore::new(Arc::clone(&env) as _);
    for (name, bytes) in &objects {
        memory.create(&ObjectName::new(name).expect("a name"), bytes).expect("a new name");
    }
    let watched = Arc::new(Watched { inner: memory, removed: Mutex::default() });
    let store: Arc<dyn ObjectStore> = Arc::clone(&watched) as _;

    // Whoever looks changes nothing.
    for job in jobs(&*store).expect("the store itself is sound") {
        let view = match JobView::open(Arc::clone(&store), &job) {
            Ok(Some(view)) => view,
            Ok(None) => continue,
            Err(error) => {
                typed(&error);
                continue;
            }
        };
        for reference in view.entry().kept().chain(&view.entry().retired) {
            match view.read(reference) {
                Ok(checkpoint) => {
                    let found =
                        verify(&checkpoint, &*view.source(), Depth::Shallow, &mut |_, _| {});
                    found.problems.iter().for_each(|problem| typed(&problem.error));
                }
                Err(error) => typed(&error),
            }
            let _ = view.files(reference).inspect_err(typed);
        }
        let _ = view.pins().inspect_err(typed);
        let _ = orphans(&store, &job).inspect_err(typed);
    }
    assert!(watched.removed.lock().expect("one thread").is_empty(), "looking removed something");

    // Whoever takes it over deletes nothing that is needed, and nothing at all if it cannot
    // be told what that is.
    let mut needed = BTreeSet::new();
    let mut is_known = true;
    if let Ok(Some(view)) = JobView::open(Arc::clone(&store), "job") {
        for kept in view.entry().kept() {
            match view.files(kept) {
                Ok(files) => needed.extend(files.into_iter().map(|file| file.location)),
                Err(_) => is_known = false,
            }
        }
    }
    let builder = Coordinator::builder(Arc::clone(&store), "job").env(env as _);
    let mut coordinator = match builder.open() {
        Ok(coordinator) => coordinator,
        Err(error) => return typed(&error),
    };
    let _ = coordinator.restore(&RestoreFrom::Latest, ClaimMode::NoClaim).inspect_err(typed);
    for _ in 0..3 {
        let _ = coordinator.poll().inspect_err(typed);
        let _ = coordinator.collect(usize::MAX).inspect_err(typed);
    }
    for name in watched.removed.lock().expect("one thread").iter() {
        assert!(!needed.contains(name), "{name} is needed and was removed");
        let own = name.strip_prefix("jobs/job/");
        assert!(own.is_some() || name.contains("/pins/"), "{name} of another job was removed");
        let is_small = |own: &str| {
            ["journal/", "requests/", "answers/"].iter().any(|folder| own.starts_with(folder))
        };
        assert!(is_known || own.is_some_and(is_small), "{name} may be needed and was removed");
    }
});
