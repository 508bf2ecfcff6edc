//! One suite for every object store, and for the local one the power cut after
//! every operation and every call that can fail.
//!
//! What could break: an object that exists in part, an object that was
//! acknowledged and is gone, an object that replaces another, an error that
//! says "nothing happened" although something did.

#![allow(clippy::disallowed_methods, reason = "prepares real directories to test against")]

use std::io::{self, ErrorKind as IoKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::base::{Error, ErrorKind, Result};
use alluvium::env::sim::{CrashMode, FaultError, FaultKind};
use alluvium::env::{Env, Fs, ReadAt, RealEnv, SimEnv};
use alluvium::object::{Contents, LocalStore, MemoryStore, ObjectName, ObjectStore};

use crate::claims::{content, name, pattern};

#[path = "object_claims/mod.rs"]
mod claims;

/// Runs a claim against every store; it gets a directory for local files, too.
fn on_every_store(claim: impl Fn(&dyn ObjectStore, &dyn Fs, &Path)) {
    let temp = tempfile::tempdir().unwrap();
    for (i, real) in [RealEnv::new(), RealEnv::with_pread()].into_iter().enumerate() {
        let env: Arc<dyn Env> = Arc::new(real);
        let dir = temp.path().join(i.to_string());
        env.fs().create_dir_all(&dir).unwrap();
        claim(&LocalStore::open(Arc::clone(&env), dir.join("store")).unwrap(), env.fs(), &dir);
        let dir = temp.path().join(format!("m{i}"));
        env.fs().create_dir_all(&dir).unwrap();
        claim(&MemoryStore::new(Arc::clone(&env)), env.fs(), &dir);
    }
    let sim = SimEnv::new(1);
    sim.create_dir_all(Path::new("/sim")).unwrap();
    let store = LocalStore::open(Arc::new(sim.clone()), "/sim/store".into()).unwrap();
    claim(&store, &sim, Path::new("/sim"));
    // The same where the file system has no links.
    let sim = SimEnv::new(1);
    sim.create_dir_all(Path::new("/sim")).unwrap();
    sim.fail_nth(FaultKind::Link, 1, IoKind::Unsupported, true);
    let store = LocalStore::open(Arc::new(sim.clone()), "/sim/store".into()).unwrap();
    claim(&store, &sim, Path::new("/sim"));
    assert!(sim.fault_fired() || sim.calls(FaultKind::Link) == 0);
}

#[test]
fn what_was_created_is_read_back() {
    on_every_store(claims::what_was_created_is_read_back);
}

#[test]
fn a_file_or_another_object_becomes_an_object() {
    on_every_store(claims::a_file_or_another_object_becomes_an_object);
}

#[test]
fn no_object_is_ever_replaced() {
    on_every_store(claims::no_object_is_ever_replaced);
}

#[test]
fn contents_that_are_not_as_expected_are_refused() {
    on_every_store(claims::contents_that_are_not_as_expected_are_refused);
}

#[test]
fn a_copy_can_be_cancelled_at_every_step() {
    on_every_store(claims::a_copy_can_be_cancelled_at_every_step);
}

#[test]
fn listing_finds_what_begins_with_the_prefix() {
    on_every_store(claims::listing_finds_what_begins_with_the_prefix);
}

#[test]
fn a_missing_object_is_positively_missing() {
    on_every_store(claims::a_missing_object_is_positively_missing);
}

#[test]
fn a_removed_object_is_gone_but_stays_readable_where_it_is_open() {
    on_every_store(claims::a_removed_object_is_gone_but_stays_readable_where_it_is_open);
}

#[test]
fn identities_tell_stores_apart() {
    let temp = tempfile::tempdir().unwrap();
    let env: Arc<dyn Env> = Arc::new(RealEnv::new());
    let open = |dir: PathBuf| LocalStore::open(Arc::clone(&env), dir).unwrap();
    let a = open(temp.path().join("a"));
    let again = open(temp.path().join("a/../a/."));
    let b = open(temp.path().join("b"));
    assert_eq!(a.identity(), again.identity());
    assert_ne!(a.identity(), b.identity());
    let memory = [MemoryStore::new(Arc::clone(&env)), MemoryStore::new(env)];
    assert_ne!(memory[0].identity(), memory[1].identity());
}

const ROOT: &str = "/disk/store";

fn open_local(sim: &SimEnv) -> Result<LocalStore> {
    LocalStore::open(Arc::new(sim.clone()), ROOT.into())
}

/// What became of each object of the scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Untouched,
    Exists,
    Absent,
    Either,
}

/// An object, its bytes, and what the store has promised about it.
struct Promise {
    object: ObjectName,
    bytes: Vec<u8>,
    fate: Fate,
}

impl Promise {
    fn new(object: &str, n: usize) -> Self {
        Self { object: name(object), bytes: pattern(n), fate: Fate::Untouched }
    }

    fn creating(&mut self, create: impl FnOnce(&ObjectName, &[u8]) -> Result<()>) -> Result<()> {
        let result = create(&self.object, &self.bytes);
        self.fate = match &result {
            Ok(()) => Fate::Exists,
            Err(error) if error.may_have_happened() => Fate::Either,
            Err(_) => Fate::Absent,
        };
        result
    }

    fn removing(&mut self, store: &LocalStore) -> Result<()> {
        let result = store.remove(&self.object);
        self.fate = match &result {
            Ok(()) => Fate::Absent,
            Err(error) if error.may_have_happened() => Fate::Either,
            Err(_) => Fate::Exists,
        };
        result
    }

    /// Asserts that a store shows what was promised; says whether it exists.
    fn check(&self, store: &LocalStore, context: &str) -> bool {
        let len = store.len_of(&self.object).unwrap();
        match self.fate {
            Fate::Exists => assert!(len.is_some(), "{} is gone: {context}", self.object),
            Fate::Absent | Fate::Untouched => {
                assert!(len.is_none(), "{} came to be: {context}", self.object);
            }
            Fate::Either => {}
        }
        if len.is_some() {
            let found = content(store, &self.object);
            assert!(found == self.bytes, "{} is not whole: {context}", self.object);
        }
        len.is_some()
    }
}

/// Creates four objects in each way there is, and removes one of them. An error
/// that is not the end of the world does not end the scenario.
fn scenario(sim: &SimEnv, promises: &mut Vec<Promise>) -> Result<()> {
    promises.extend([
        Promise::new("job/a/1.tbl", 10_000),
        Promise::new("job/a/2.tbl", 9_000),
        Promise::new("job/b/3.tbl", 100),
        Promise::new("manifest", 1),
    ]);
    let io = |e| Error::io("scenario", e);
    let store = open_local(sim)?;
    let [one, two, three, four] = &mut promises[..] else { unreachable!("four promises") };
    let first = one.creating(|object, bytes| store.create(object, bytes));
    let local = Path::new("/disk/local.tbl");
    write_or_fail(sim, local, &two.bytes).map_err(io)?;
    let second = two.creating(|object, bytes| {
        store.create_from_file(object, local, &Contents::of(bytes), &mut |_| true)
    });
    let source = sim.open(local).map_err(io)?;
    let third = three.creating(|object, bytes| {
        let part = Prefix(source, bytes.len() as u64);
        store.create_from_source(object, &part, &Contents::of(bytes), &mut |_| true)
    });
    let fourth = four.creating(|object, bytes| store.create(object, bytes));
    let removed = if first.is_ok() { one.removing(&store) } else { Ok(()) };
    first.and(second).and(third).and(fourth).and(removed)
}

fn write_or_fail(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs.create_new(path)?;
    file.write_all(bytes)?;
    file.sync()
}

/// The first bytes of a file.
#[derive(Debug)]
struct Prefix(Arc<dyn ReadAt>, u64);

impl ReadAt for Prefix {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }
}

fn machine(links: bool) -> SimEnv {
    let sim = SimEnv::new(7);
    sim.create_dir_all(Path::new("/disk")).unwrap();
    if !links {
        sim.fail_nth(FaultKind::Link, 1, IoKind::Unsupported, true);
    }
    sim
}

/// What a store says after `sim` lost its power in the given way, and that it
/// keeps saying so after the power is lost once more.
fn check_after_crash(sim: &SimEnv, mode: CrashMode, seed: u64, promises: &[Promise], at: &str) {
    let context = format!("{at}, {mode:?}, seed {seed}");
    let image = sim.crash_image(mode, seed);
    let store = open_local(&image).unwrap();
    let exist: Vec<bool> = promises.iter().map(|promise| promise.check(&store, &context)).collect();
    let listed = store.list("").unwrap();
    let expected = promises.iter().zip(&exist).filter(|(_, exists)| **exists);
    let mut expected: Vec<_> = expected.map(|(promise, _)| promise.object.clone()).collect();
    expected.sort_unstable();
    assert_eq!(listed, expected, "{context}");
    let temps = image.list(Path::new("/disk/store/.tmp")).unwrap();
    assert_eq!(temps.len(), 1, "only the lock of this store is left: {temps:?}, {context}");

    let again = image.crash_image(CrashMode::DropUnsynced, seed);
    let store = open_local(&again).unwrap();
    for (promise, existed) in promises.iter().zip(exist) {
        let exists = store.len_of(&promise.object).unwrap().is_some();
        assert_eq!(exists, existed, "{} changed its mind: {context}", promise.object);
    }
}

#[test]
fn an_object_exists_whole_or_not_at_all_wherever_the_power_goes() {
    for links in [true, false] {
        for ops in 0.. {
            let sim = machine(links);
            sim.stop_after(ops);
            let mut promises = Vec::new();
            let result = scenario(&sim, &mut promises);
            for mode in CrashMode::ALL {
                for seed in 0..4 {
                    // Objects whose creation was refused for want of power may
                    // exist: the call that failed is not the one that mattered.
                    let context = format!("after {ops} operations, links {links}");
                    check_after_crash(&sim, mode, seed, &promises, &context);
                }
            }
            if !sim.power_lost() {
                result.unwrap();
                assert!(ops > 20);
                break;
            }
        }
    }
}

#[test]
fn every_call_may_fail_and_no_error_lies() {
    let errors = [FaultError::EIO, FaultError::ENOSPC, FaultError::EMFILE, IoKind::TimedOut.into()];
    for kind in FaultKind::ALL {
        for error in errors {
            for (sticky, late) in [(false, false), (true, false), (false, true)] {
                for n in 1.. {
                    let sim = machine(true);
                    if late {
                        sim.fail_nth_late(kind, n, error, sticky);
                    } else {
                        sim.fail_nth(kind, n, error, sticky);
                    }
                    let mut promises = Vec::new();
                    let result = scenario(&sim, &mut promises);
                    let fired = sim.fault_fired();
                    sim.clear_faults();
                    let context = format!(
                        "{kind:?} {n}, {error:?}, sticky {sticky}, late {late}: {result:?}"
                    );
                    if let Err(error) = &result {
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{context}");
                    }
                    // The fault is over: the same machine, and then the power goes.
                    let store = open_local(&sim).unwrap();
                    for promise in &mut promises {
                        // What is read back is a promise, too.
                        promise.fate = match promise.check(&store, &context) {
                            true => Fate::Exists,
                            false => Fate::Absent,
                        };
                    }
                    drop(store);
                    check_after_crash(&sim, CrashMode::DropUnsynced, n, &promises, &context);
                    if !fired {
                        result.unwrap();
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn a_create_that_failed_can_be_repeated() {
    for kind in [FaultKind::Write, FaultKind::Sync, FaultKind::Link, FaultKind::CreateDir] {
        let sim = machine(true);
        let store = open_local(&sim).unwrap();
        sim.fail_nth(kind, 1, FaultError::ENOSPC, false);
        let error = store.create(&name("a/b"), b"bytes").unwrap_err();
        assert!(!error.may_have_happened());
        assert!(error.to_string().contains("free some space"), "{error}");
        store.create(&name("a/b"), b"bytes").unwrap();
        assert_eq!(content(&store, &name("a/b")), b"bytes");
    }
}

#[test]
fn a_failed_directory_sync_is_ambiguous_and_reading_back_settles_it() {
    let sim = machine(true);
    let store = open_local(&sim).unwrap();
    store.create(&name("a/first"), b"").unwrap();
    sim.fail_nth(FaultKind::SyncDir, 1, FaultError::EIO, true);
    let error = store.create(&name("a/b"), b"bytes").unwrap_err();
    assert!(error.may_have_happened(), "{error}");
    // As long as nobody can know, nobody is told.
    assert_eq!(store.len_of(&name("a/b")).unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(store.list("a/").is_err());
    sim.clear_faults();
    assert_eq!(store.len_of(&name("a/b")).unwrap(), Some(5));
    let image = sim.crash_image(CrashMode::DropUnsynced, 1);
    assert_eq!(content(&open_local(&image).unwrap(), &name("a/b")), b"bytes");
}

#[test]
fn a_missing_volume_is_not_a_missing_object() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("store");
    let store = LocalStore::open(Arc::new(RealEnv::new()), root.clone()).unwrap();
    store.create(&name("a/b"), b"x").unwrap();
    std::fs::rename(&root, temp.path().join("unmounted")).unwrap();
    for empty_mount_point in [false, true] {
        if empty_mount_point {
            std::fs::create_dir(&root).unwrap();
        }
        let errors = [
            store.open(&name("a/b")).unwrap_err(),
            store.len_of(&name("a/b")).unwrap_err(),
            store.len_of(&name("c")).unwrap_err(),
            store.list("").unwrap_err(),
            store.remove(&name("a/b")).unwrap_err(),
            store.create(&name("c"), b"").unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
    }
}

#[test]
fn temporary_files_of_the_dead_are_removed_and_those_of_the_living_stay() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("store");
    let env: Arc<dyn Env> = Arc::new(RealEnv::new());
    let living = LocalStore::open(Arc::clone(&env), root.clone()).unwrap();
    let dir = root.join(".tmp");
    let lock = env.fs().list(&dir).unwrap().pop().unwrap();
    let incarnation = lock.strip_suffix(".lock").unwrap();
    let of_the_living = format!("{incarnation}-7.tmp");
    let foreign = ["notes.txt", "0123-1.tmp", "00000000000000FF-1.tmp", "x.lock"];
    let of_the_dead = ["00000000000000ff-1.tmp", "00000000000000fe.lock", "00000000000000fd-3.tmp"];
    for file in foreign.into_iter().chain(of_the_dead).chain([&*of_the_living]) {
        std::fs::write(dir.join(file), b"").unwrap();
    }
    let other = LocalStore::open(Arc::clone(&env), root.clone()).unwrap();
    let left = env.fs().list(&dir).unwrap();
    for file in foreign.into_iter().chain([&*of_the_living, &*lock]) {
        assert!(left.iter().any(|name| name == file), "{file} should stay");
    }
    for file in of_the_dead {
        assert!(!left.iter().any(|name| name == file), "{file} should go");
    }
    assert_eq!(left.len(), foreign.len() + 3, "and the lock of the other one: {left:?}");
    drop(other);
    drop(living);
    assert!(!dir.join(lock).exists());
    assert!(dir.join(&of_the_living).exists());
    drop(LocalStore::open(env, root).unwrap());
    assert!(!dir.join(&of_the_living).exists());
}

#[test]
fn two_creators_of_one_name_have_one_winner() {
    let temp = tempfile::tempdir().unwrap();
    let env: Arc<dyn Env> = Arc::new(RealEnv::new());
    let stores: Vec<_> = (0..4)
        .map(|_| LocalStore::open(Arc::clone(&env), temp.path().to_owned()).unwrap())
        .collect();
    for round in 0..20 {
        let object = name(&format!("a/{round}"));
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = stores
                .iter()
                .enumerate()
                .map(|(i, store)| {
                    let object = &object;
                    scope.spawn(move || store.create(object, &[i as u8; 5000]))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<_> = (0..4).filter(|i| results[*i].is_ok()).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(content(&stores[0], &object), [winners[0] as u8; 5000]);
        for error in results.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}

#[test]
fn what_is_not_an_object_is_not_listed() {
    let temp = tempfile::tempdir().unwrap();
    let store = LocalStore::open(Arc::new(RealEnv::new()), temp.path().to_owned()).unwrap();
    store.create(&name("a/b"), b"x").unwrap();
    std::fs::write(temp.path().join("a/with space"), b"").unwrap();
    std::fs::write(temp.path().join(".hidden"), b"").unwrap();
    std::fs::create_dir(temp.path().join("empty")).unwrap();
    assert_eq!(store.list("").unwrap(), [name("a/b")]);
}
