//! Any arguments of a restore: handles that were changed, left out, repeated or made up;
//! key groups, subtasks, names, settings; and manifests and tables that are not what they
//! were. The shard opens, and then works to the end of a snapshot or says what is wrong, or
//! there is a typed error. Nothing is opened but files of the store and of the backend's own
//! directory, and a restore changes none that was there.
//!
//! Checksums are waved through under `cfg(fuzzing)`, so forged files are believed.

#![no_main]

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use alluvium::base::{Error, ErrorKind, KeyGroup, KeyGroupRange, MaxParallelism};
use alluvium::env::{Env, Fs, ReadAt, SimEnv, WriteFile};
use alluvium::object::{LocalStore, ObjectStore};
use alluvium::{
    Backend, KeyRef, KeyedStore, ListState, MapState, OperatorListState, SnapshotHandle,
    SnapshotId, StateSpec, StoreSink, Timers, ValueState,
};
use libfuzzer_sys::fuzz_target;

const STORE: &str = "/store";
const DIR: &str = "/job";
/// What nobody has a reason to look at.
const SECRET: &str = "/secret";
const OPERATOR: &str = "op";
const GROUPS: u32 = 8;
/// Bytes that an input is worth; more of the same finds nothing more.
const MOST_BYTES: usize = 4096;

/// A machine that watches which files are opened.
#[derive(Debug, Clone)]
struct Watched(SimEnv);

fn check(path: &Path) -> &Path {
    let is_plain = path.components().all(|part| !matches!(part, Component::ParentDir));
    let is_inside = path.starts_with(STORE) || path.starts_with(DIR);
    assert!(is_plain && is_inside, "{} is nobody's business", path.display());
    path
}

impl Env for Watched {
    fn fs(&self) -> &dyn Fs {
        self
    }

    fn unix_time_ms(&self) -> u64 {
        self.0.unix_time_ms()
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.monotonic_ns()
    }

    fn random_u64(&self) -> u64 {
        self.0.random_u64()
    }

    fn spawn(
        &self,
        name: &str,
        body: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        self.0.spawn(name, body)
    }
}

impl Fs for Watched {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.fs().create_dir_all(check(dir))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.0.fs().create_new(check(path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        self.0.fs().open(check(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.fs().rename(check(from), check(to))
    }

    fn hard_link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        self.0.fs().hard_link(check(existing), check(new))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.fs().remove_file(check(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // What is made in the root is made durable there.
        if dir == Path::new("/") {
            self.0.fs().sync_dir(dir)
        } else {
            self.0.fs().sync_dir(check(dir))
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.fs().list(check(dir))
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        self.0.fs().file_len(check(path))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.0.fs().try_lock(check(path))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.0.fs().canonicalize(check(path))
    }
}

/// A job that was restored on another number of shards, and its last handles.
struct Sound {
    files: Vec<(PathBuf, Vec<u8>)>,
    handles: Vec<Vec<u8>>,
}

fn open_store(env: &Watched) -> Arc<dyn ObjectStore> {
    Arc::new(LocalStore::open(Arc::new(env.clone()), STORE.into()).expect("a sound disk"))
}

fn open_backend(env: &Watched, max: MaxParallelism, settings: u8) -> Backend {
    let sink = Arc::new(StoreSink::new(open_store(env)));
    let builder = Backend::builder(DIR)
        .env(Arc::new(env.clone()))
        .background_threads(0)
        .max_parallelism(max)
        .warm_up(settings & 1 == 0)
        .sink(Arc::clone(&sink) as _)
        .source(sink);
    let builder = if settings & 2 == 0 { builder } else { builder.memory_budget_bytes(16 << 20) };
    builder.open().expect("a sound disk")
}

fn sound() -> Sound {
    let env = Watched(SimEnv::new(1));
    let max = MaxParallelism::new(GROUPS).expect("a number of groups");
    let mut handles: Vec<SnapshotHandle> = Vec::new();
    for (id, parallelism) in [(1, 3), (2, 2), (3, 2)] {
        let backend = open_backend(&env, max, 0);
        let mut next = Vec::new();
        for index in 0..parallelism {
            let groups = max.range_of_subtask(index, parallelism).expect("enough groups");
            let builder = backend.shard(OPERATOR, groups).restore(handles.iter().cloned());
            let mut shard = builder.subtask(index, parallelism).open().expect("sound");
            let values: ValueState<u64, u64> = ValueState::register(&mut shard, "v").expect("v");
            let lists: ListState<u64, u64> = ListState::register(&mut shard, "l").expect("l");
            let maps: MapState<u64, u64, u64> = MapState::register(&mut shard, "m").expect("m");
            let timers: Timers<u64> = Timers::event_time(&mut shard, "t").expect("t");
            let items: OperatorListState<u64> =
                OperatorListState::even_split(&mut shard, "o").expect("o");
            for key in 0..12 {
                // Another shard's keys are refused.
                let _ = values.put(&mut shard, &key, &id);
                let _ = lists.add(&mut shard, &key, &id);
                let _ = maps.put(&mut shard, &key, &id, &id);
                let _ = timers.register(&mut shard, &key, id as i64 * 1_000);
            }
            items.add(&mut shard, &id).expect("room");
            next.push(shard.snapshot(SnapshotId(id), b"meta").expect("room").wait());
        }
        handles = next.into_iter().map(|report| report.expect("sound").handle).collect();
    }
    let paths = env.0.list_all_files();
    let in_store = |path: &PathBuf| path.starts_with(STORE) && !path.ends_with("LOCK");
    let files = paths.into_iter().filter(in_store);
    let files = files.filter_map(|path| env.0.file_bytes(&path).map(|bytes| (path, bytes)));
    Sound { files: files.collect(), handles: handles.iter().map(SnapshotHandle::encode).collect() }
}

/// Takes the fuzzer's bytes to pieces.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn take(&mut self) -> &'a [u8] {
        let count = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// Changes bytes in one way of several.
    fn edit(&mut self, object: &mut Vec<u8>) {
        let (how, low, high) = (self.byte(), self.byte(), self.byte());
        let new = self.take();
        let at = usize::from(u16::from_le_bytes([low, high])) % (object.len() + 1);
        match how % 4 {
            0 => {
                let end = (at + new.len()).min(object.len());
                object[at..end].copy_from_slice(&new[..end - at]);
            }
            1 => drop(object.splice(at..at, new.iter().copied())),
            2 => object.truncate(at),
            _ => *object = new.to_vec(),
        }
    }
}

fn typed(error: Error) {
    assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
}

fuzz_target!(|bytes: &[u8]| {
    thread_local!(static SOUND: Sound = sound());
    let mut bytes = Bytes(&bytes[..bytes.len().min(MOST_BYTES)]);
    let settings = bytes.byte();
    let env = Watched(SimEnv::new(2));
    SOUND.with(|sound| {
        // The store, with some of its files changed.
        drop(open_store(&env));
        let mut files: Vec<_> = sound.files.clone();
        for _ in 0..settings >> 4 & 3 {
            let which = usize::from(bytes.byte()) % files.len();
            bytes.edit(&mut files[which].1);
        }
        for (path, bytes) in files.iter().chain([&(PathBuf::from(SECRET), b"secret".to_vec())]) {
            let fs = env.0.fs();
            fs.create_dir_all(path.parent().expect("a folder")).expect("a sound disk");
            fs.create_new(path).expect("a new file").write_all(bytes).expect("room");
        }

        // Handles: as they were, changed, left out, twice.
        let mut handles = Vec::new();
        for _ in 0..(settings >> 2 & 3) + 1 {
            let which = usize::from(bytes.byte());
            let mut encoded = sound.handles[which % sound.handles.len()].clone();
            if which & 0x80 != 0 {
                bytes.edit(&mut encoded);
            }
            match SnapshotHandle::decode(&encoded) {
                Ok(handle) => handles.push(handle),
                Err(error) => typed(error),
            }
        }

        // What the shard is to be.
        let max = MaxParallelism::new([GROUPS, GROUPS, 1, 128][usize::from(bytes.byte() & 3)]);
        let backend = open_backend(&env, max.expect("a number of groups"), settings);
        let (first, last) = (bytes.byte(), bytes.byte());
        let wide = |byte: u8| if byte < 0xf0 { u16::from(byte % 8) } else { u16::from(byte) << 8 };
        let Ok(groups) = KeyGroupRange::new(KeyGroup(wide(first)), KeyGroup(wide(last))) else {
            return;
        };
        let operator = if bytes.byte() < 0xf0 { OPERATOR } else { "other" };
        let mut builder = backend.shard(operator, groups).restore(handles.clone());
        let (index, parallelism) = (bytes.byte(), bytes.byte());
        if index & 0x80 != 0 {
            builder = builder.subtask(u32::from(index & 0x7f), u32::from(parallelism));
        }
        for handle in &handles {
            let _ = backend.snapshot_meta(handle).map_err(typed);
        }
        let before = env.0.list_all_files();
        let opened = builder.open();
        assert_eq!(env.0.list_all_files(), before, "a restore made or removed a file");
        let mut shard = match opened {
            Ok(shard) => shard,
            Err(error) => return typed(error),
        };

        // What opened works, or says what is wrong.
        let names: Vec<String> = shard.state_names().map(str::to_owned).collect();
        let _ = ListState::<u64, u64>::register(&mut shard, "l").map(|lists| {
            for key in 0..12 {
                let _ = lists.get(&mut shard, &key).map_err(typed);
            }
        });
        let _ = MapState::<u64, u64, u64>::register(&mut shard, "m").map(|maps| {
            for key in 0..12 {
                let _ = maps.get(&mut shard, &key, &3).map_err(typed);
            }
        });
        let _ = Timers::<u64>::event_time(&mut shard, "t").map(|_| shard.advance_watermark(1));
        let _ = OperatorListState::<u64>::even_split(&mut shard, "o").map_err(typed);
        let registered = shard.register(StateSpec::value("v"));
        if let Ok(state) = registered.map_err(typed) {
            for key in 0..12u64 {
                let _ = shard.get(state, KeyRef::new(&key.to_be_bytes())).map(drop).map_err(typed);
                let _ = shard.put(state, KeyRef::new(&key.to_be_bytes()), b"new").map_err(typed);
            }
        }
        let _ = shard.warm_up(1_000).map_err(typed);
        while backend.run_background() {}
        let _ = shard.warm_up(1_000).map_err(typed);
        assert!(names.len() <= 64, "as many states as were stored");
        match shard.snapshot(SnapshotId(4), b"") {
            Ok(ticket) => drop(ticket.wait().map_err(typed)),
            Err(error) => typed(error),
        }
    });
});
