//! Whatever is wrong with what the engine is given (directories, files,
//! handles, arguments), it says what, where, what was expected and found, and
//! what to do about it; it does not panic, and nothing is changed.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::codec::CodecId;
use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::format::Manifest;
use alluvium::{
    Backend, Error, ErrorKind, KeyGroup, KeyGroupRange, KeyRef, KeyedStore, MaxParallelism, Shard,
    SnapshotHandle, SnapshotId, StateSpec,
};

use common::{
    CHECKPOINTS, DIR, Image, Job, Keyspace, OPERATOR, backend_on, manifest_of, range_of, store_on,
    try_read,
};

/// Every file of a simulated machine, and what is in it.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files_of(env: &SimEnv) -> Files {
    let paths = env.list_all_files();
    paths.into_iter().map(|path| (path.clone(), env.file_bytes(&path).unwrap())).collect()
}

fn assert_says(error: &Error, kind: ErrorKind, facts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for fact in facts {
        assert!(text.contains(fact), "{fact:?} is missing in: {text}");
    }
}

/// A machine with one completed checkpoint of two shards on it.
struct World {
    env: SimEnv,
    space: Arc<Keyspace>,
    handles: Vec<SnapshotHandle>,
    image: Image,
}

fn world() -> World {
    let space = Arc::new(Keyspace::plain(&["counts", "names"], 15));
    let env = SimEnv::new(11);
    let mut job = Job::open(&space, backend_on(&env, &space), 2, None).unwrap();
    let mut handles = Vec::new();
    for id in 1..4 {
        job.change(&mut SimRng::new(id), 25);
        handles = job.snapshot(id);
    }
    let image = job.model.clone();
    drop(job);
    World { env, space, handles, image }
}

impl World {
    fn backend(&self) -> Backend {
        backend_on(&self.env, &self.space).warm_up(false).open().unwrap()
    }

    fn all(&self) -> KeyGroupRange {
        self.space.max_parallelism().all_groups()
    }

    fn restore(&self, backend: &Backend) -> alluvium::Result<Shard> {
        backend.shard(OPERATOR, self.all()).restore(self.handles.iter().cloned()).open()
    }

    fn manifest(&self, handle: usize) -> Manifest {
        let store = store_on(&self.env, CHECKPOINTS).unwrap();
        manifest_of(&store, &self.handles[handle]).unwrap()
    }

    fn path(location: &str) -> PathBuf {
        Path::new(CHECKPOINTS).join(location)
    }

    /// The path of the newest table of the first shard, and its name.
    fn table(&self) -> (PathBuf, String) {
        let location = self.manifest(0).tables.last().unwrap().location.clone();
        (Self::path(&location), location)
    }

    /// A restore with the files as they are now is refused, and changes none.
    fn assert_refused(&self, backend: &Backend, kind: ErrorKind, facts: &[&str]) {
        let before = files_of(&self.env);
        let error = self.restore(backend).expect_err("a bad restore is refused");
        assert_says(&error, kind, facts);
        assert_eq!(files_of(&self.env), before, "a refused restore changes nothing");
    }

    /// Restores if it can, and reads everything: what is not an error is
    /// right. Gives the errors.
    fn read_what_can_be_read(&self, backend: &Backend) -> Vec<Error> {
        let mut shard = match self.restore(backend) {
            Ok(shard) => shard,
            Err(error) => return vec![error],
        };
        let mut ids = common::Ids::default();
        let mut errors = Vec::new();
        for key in 0..self.space.keys.len() {
            match try_read(&mut shard, &mut ids, &self.space, key) {
                Ok(found) => {
                    assert_eq!(found.as_deref(), self.image.get(&key).map(|value| &**value));
                }
                Err(error) => errors.push(error),
            }
        }
        errors
    }
}

/// Puts the bytes of a file back when it is dropped.
struct Damaged<'a> {
    env: &'a SimEnv,
    path: &'a Path,
    sound: Vec<u8>,
}

impl<'a> Damaged<'a> {
    fn new(env: &'a SimEnv, path: &'a Path, damage: impl FnOnce(&mut Vec<u8>)) -> Self {
        let sound = env.file_bytes(path).unwrap();
        env.mutate_file(path, damage);
        Self { env, path, sound }
    }
}

impl Drop for Damaged<'_> {
    fn drop(&mut self) {
        self.env.mutate_file(self.path, |bytes| bytes.clone_from(&self.sound));
    }
}

// Directories.

#[test]
fn a_file_in_place_of_the_directory_is_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("state");
    std::io::Write::write_all(&mut create(&file), b"precious").unwrap();
    for dir in [file.clone(), file.join("below")] {
        let error = Backend::builder(&dir).open().unwrap_err();
        let place = dir.display().to_string();
        assert_says(&error, ErrorKind::Unavailable, &["director", &place, "check that"]);
    }
    let error = Backend::builder(root.path().join("ok")).checkpoint_dir(&file).open().unwrap_err();
    assert_says(&error, ErrorKind::Unavailable, &["object store", &file.display().to_string()]);
    assert_eq!(read_file(&file), b"precious");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    use alluvium::env::Fs;
    for (kind, what) in [
        (alluvium::env::sim::FaultKind::CreateDir, "could not be created"),
        (alluvium::env::sim::FaultKind::Lock, "lock"),
        (alluvium::env::sim::FaultKind::List, "could not be removed"),
    ] {
        let env = SimEnv::new(1);
        env.create_dir_all(Path::new("/node")).unwrap();
        env.fail_nth(kind, 1, std::io::ErrorKind::PermissionDenied, true);
        let error = Backend::builder(DIR).env(Arc::new(env.clone())).open().unwrap_err();
        assert_says(&error, ErrorKind::Unavailable, &[what, DIR, "ermission denied", "check"]);
    }
}

#[test]
fn threads_that_cannot_be_had_are_an_error() {
    let env = Arc::new(SimEnv::new(1));
    let error = Backend::builder(DIR).env(env).background_threads(2).open().unwrap_err();
    assert_says(&error, ErrorKind::Unavailable, &["thread"]);
}

#[test]
fn a_directory_is_open_once_in_a_process() {
    let world = world();
    let first = world.backend();
    let before = files_of(&world.env);
    let error = backend_on(&world.env, &world.space).open().unwrap_err();
    assert_says(&error, ErrorKind::Unavailable, &["in use", DIR, "close the other"]);
    assert_eq!(files_of(&world.env), before);
    let shard = world.restore(&first).unwrap();
    drop(first);
    // The shard keeps its backend open.
    assert!(backend_on(&world.env, &world.space).open().is_err());
    drop(shard);
    backend_on(&world.env, &world.space).open().unwrap();
}

const HELD_DIR: &str = "ALLUVIUM_TEST_HOLD_DIR";

/// Not a test of its own: what the child process of the next one does.
#[test]
fn hold_a_directory_for_another_process() {
    use std::io::{Read, Write};
    let Ok(dir) = std::env::var(HELD_DIR) else { return };
    let backend = Backend::builder(dir).open().unwrap();
    let mut out = std::io::stderr();
    out.write_all(b"held\n").unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    drop(backend);
}

#[test]
fn a_directory_is_open_in_one_process_only() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let root = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_directory_for_another_process", "--nocapture"])
        .env(HELD_DIR, root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    assert!(stderr.lines().any(|line| line.unwrap() == "held"), "the child holds the directory");
    let error = Backend::builder(root.path()).open().unwrap_err();
    let place = root.path().display().to_string();
    assert_says(&error, ErrorKind::Unavailable, &["in use", &place, "another process"]);
    assert!(error.is_retryable());
    // Killed, not closed: the lock goes with the process.
    child.kill().unwrap();
    child.wait().unwrap();
    Backend::builder(root.path()).open().unwrap();
}

// Files.

#[test]
fn a_table_of_another_length_is_corrupt() {
    let world = world();
    let backend = world.backend();
    let (path, location) = world.table();
    let whole = world.env.file_bytes(&path).unwrap().len();
    for len in (0..whole).chain([whole + 1, whole + 4096]) {
        let _damaged = Damaged::new(&world.env, &path, |bytes| bytes.resize(len, 0));
        let (expected, found) = (format!("{whole} bytes"), format!("found {len}"));
        world.assert_refused(
            &backend,
            ErrorKind::Corrupt,
            &[&location, "size", &expected, &found, "another copy"],
        );
    }
    assert!(world.read_what_can_be_read(&backend).is_empty());
}

#[test]
fn a_flipped_bit_anywhere_in_a_table_is_an_error_or_does_not_matter() {
    let world = world();
    let backend = world.backend();
    let (path, _) = world.table();
    let whole = world.env.file_bytes(&path).unwrap().len();
    let mut found = 0;
    for at in 0..whole {
        let _damaged = Damaged::new(&world.env, &path, |bytes| bytes[at] ^= 1 << (at % 8));
        let errors = world.read_what_can_be_read(&backend);
        for error in &errors {
            // The version is looked at before any checksum can be.
            let version = (whole - 10..whole - 8).contains(&at);
            let kind = if version { ErrorKind::Incompatible } else { ErrorKind::Corrupt };
            assert_says(error, kind, &[]);
        }
        found += usize::from(!errors.is_empty());
    }
    // Only the header and the first bytes of a frame are not needed to read.
    assert!(found > whole * 9 / 10, "{found} of {whole} flips were noticed");
}

#[test]
fn a_foreign_table_is_corrupt() {
    let world = world();
    let backend = world.backend();
    let (path, location) = world.table();
    let mut rng = SimRng::new(1);
    for round in 0..50 {
        let _damaged = Damaged::new(&world.env, &path, |bytes| match round {
            0 => bytes.fill(0),
            1 => bytes.fill(0xff),
            _ => rng.fill(bytes),
        });
        world.assert_refused(&backend, ErrorKind::Corrupt, &[&location]);
    }
    // A sound table of the same length, but another one.
    let other = World::path(&world.manifest(0).tables[0].location);
    let other = world.env.file_bytes(&other).unwrap();
    let _damaged = Damaged::new(&world.env, &path, |bytes| {
        let len = bytes.len();
        bytes.fill(0);
        let common = len.min(other.len());
        bytes[len - common..].copy_from_slice(&other[other.len() - common..]);
    });
    world.assert_refused(&backend, ErrorKind::Corrupt, &[&location]);
}

#[test]
fn one_table_in_place_of_another_is_corrupt() {
    // Two jobs that differ in nothing but their values.
    let make = |value: &[u8]| {
        let space = Arc::new(Keyspace::plain(&["counts"], 5));
        let env = SimEnv::new(u64::from(value[0]));
        let mut job = Job::open(&space, backend_on(&env, &space), 1, None).unwrap();
        for key in 0..5 {
            job.put(key, value);
        }
        let handles = job.snapshot(1);
        let image = job.model.clone();
        drop(job);
        World { env, space, handles, image }
    };
    let (ours, theirs) = (make(b"aaaa"), make(b"bbbb"));
    let (path, location) = ours.table();
    let foreign = theirs.env.file_bytes(&theirs.table().0).unwrap();
    assert_eq!(foreign.len(), ours.env.file_bytes(&path).unwrap().len());
    let backend = ours.backend();
    let _damaged = Damaged::new(&ours.env, &path, |bytes| bytes.clone_from(&foreign));
    ours.assert_refused(
        &backend,
        ErrorKind::Corrupt,
        &["not the table that was expected", &location, "another copy"],
    );
}

#[test]
fn a_missing_table_is_named() {
    let world = world();
    let backend = world.backend();
    let (path, location) = world.table();
    world.env.lose_file(&path);
    world.assert_refused(&backend, ErrorKind::Corrupt, &["missing", &location, "backup"]);
}

#[test]
fn a_store_without_the_snapshot_says_what_it_misses() {
    let world = world();
    let builder = backend_on(&world.env, &world.space).checkpoint_dir("/elsewhere");
    let backend = builder.open().unwrap();
    let manifest = world.handles[0].manifest().to_owned();
    world.assert_refused(&backend, ErrorKind::Corrupt, &["missing", &manifest, "/elsewhere"]);
}

#[test]
fn a_damaged_manifest_is_corrupt() {
    let world = world();
    let backend = world.backend();
    let name = world.handles[0].manifest();
    let path = World::path(name);
    let whole = world.env.file_bytes(&path).unwrap().len();
    for len in (0..whole).chain([whole + 1]) {
        let _damaged = Damaged::new(&world.env, &path, |bytes| bytes.resize(len, 0));
        let (expected, found) = (format!("{whole} bytes"), format!("{len} bytes"));
        world.assert_refused(&backend, ErrorKind::Corrupt, &[name, "size", &expected, &found]);
    }
    for at in 0..whole {
        let _damaged = Damaged::new(&world.env, &path, |bytes| bytes[at] ^= 1 << (at % 8));
        world.assert_refused(&backend, ErrorKind::Corrupt, &[name, "hash", "another copy"]);
        assert_says(
            &backend.snapshot_meta(&world.handles[0]).unwrap_err(),
            ErrorKind::Corrupt,
            &[name],
        );
    }
    let other = world.env.file_bytes(&World::path(world.handles[1].manifest())).unwrap();
    let mut rng = SimRng::new(1);
    for round in 0..20 {
        let _damaged = Damaged::new(&world.env, &path, |bytes| match round {
            0 => bytes.clone_from(&other),
            _ => rng.fill(bytes),
        });
        world.assert_refused(&backend, ErrorKind::Corrupt, &[name]);
    }
    world.env.lose_file(&path);
    world.assert_refused(&backend, ErrorKind::Corrupt, &["missing", name]);
}

#[test]
fn a_damaged_handle_is_corrupt() {
    let world = world();
    let sound = world.handles[0].encode();
    assert_eq!(SnapshotHandle::decode(&sound).unwrap(), world.handles[0]);
    for len in 0..sound.len() {
        let error = SnapshotHandle::decode(&sound[..len]).unwrap_err();
        assert_says(&error, ErrorKind::Corrupt, &["snapshot handle"]);
    }
    for bit in 0..sound.len() * 8 {
        let mut bad = sound.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = SnapshotHandle::decode(&bad).unwrap_err();
        let version = (8..10).contains(&(bit / 8));
        let kind = if version { ErrorKind::Incompatible } else { ErrorKind::Corrupt };
        assert_says(&error, kind, &["snapshot handle"]);
    }
    let manifest = world.env.file_bytes(&World::path(world.handles[0].manifest())).unwrap();
    assert_says(
        &SnapshotHandle::decode(&manifest).unwrap_err(),
        ErrorKind::Corrupt,
        &["not a snapshot handle", "ALVHANDL", "ALVMANIF"],
    );
    let mut rng = SimRng::new(1);
    for _ in 0..1_000 {
        let mut noise = vec![0; rng.below(300) as usize];
        rng.fill(&mut noise);
        assert_says(&SnapshotHandle::decode(&noise).unwrap_err(), ErrorKind::Corrupt, &[]);
    }
}

/// The bytes of an enveloped file, said to be of another version.
fn of_version(mut bytes: Vec<u8>, version: u16) -> Vec<u8> {
    bytes[8..10].copy_from_slice(&version.to_le_bytes());
    let end = bytes.len() - 16;
    let hash = xxhash_rust::xxh3::xxh3_128(&bytes[..end]);
    bytes[end..].copy_from_slice(&hash.to_le_bytes());
    bytes
}

#[test]
fn an_unknown_format_version_is_incompatible() {
    let world = world();
    let backend = world.backend();
    let facts = ["unknown format version", "expected 1", "found 99", "newer"];

    let handle = of_version(world.handles[0].encode(), 99);
    let error = SnapshotHandle::decode(&handle).unwrap_err();
    assert_says(&error, ErrorKind::Incompatible, &facts);

    let mut newer = world.manifest(0);
    newer.user_meta = b"from the future".to_vec();
    let bytes = of_version(newer.encode().unwrap(), 99);
    let path = World::path(world.handles[0].manifest());
    let damaged = Damaged::new(&world.env, &path, |old| old.clone_from(&bytes));
    let store = world.handles[0].store();
    let location = world.handles[0].manifest();
    let handle = SnapshotHandle::new(&newer, &bytes, store, location).unwrap();
    let handles = [handle, world.handles[1].clone()];
    let shard = backend.shard(OPERATOR, world.all()).restore(handles).open();
    assert_says(&shard.unwrap_err(), ErrorKind::Incompatible, &facts);
    drop(damaged);

    let (path, location) = world.table();
    let _damaged = Damaged::new(&world.env, &path, |bytes| {
        let end = bytes.len();
        bytes[end - 10..end - 8].copy_from_slice(&99_u16.to_le_bytes());
    });
    world.assert_refused(&backend, ErrorKind::Incompatible, &[&location, "found 99"]);
}

#[test]
fn names_that_lead_out_of_the_store_are_refused() {
    let world = world();
    let backend = world.backend();
    let manifest = world.manifest(0);
    let store = world.handles[0].store();
    for name in ["../../etc/passwd", "/etc/passwd", "tables/../x", "a\0b", ".tmp/x", "tables//x"] {
        let bytes = manifest.encode().unwrap();
        let handle = SnapshotHandle::new(&manifest, &bytes, store, name).unwrap();
        let shard = backend.shard(OPERATOR, manifest.groups).restore([handle]).open();
        assert_says(&shard.unwrap_err(), ErrorKind::Corrupt, &["cannot be an object"]);

        // A manifest, sound in itself, whose tables are elsewhere.
        let mut bad = manifest.clone();
        bad.tables[0].location = name.to_owned();
        let bytes = bad.encode().unwrap();
        let path = World::path(world.handles[0].manifest());
        let _damaged = Damaged::new(&world.env, &path, |old| old.clone_from(&bytes));
        let location = world.handles[0].manifest();
        let handle = SnapshotHandle::new(&bad, &bytes, store, location).unwrap();
        let shard = backend.shard(OPERATOR, manifest.groups).restore([handle]).open();
        assert_says(&shard.unwrap_err(), ErrorKind::Corrupt, &["cannot be an object"]);
    }
}

// Settings that do not fit.

#[test]
fn another_number_of_key_groups_is_incompatible() {
    let world = world();
    for groups in [64, 127, 129, 32_768] {
        let max = MaxParallelism::new(groups).unwrap();
        let builder = backend_on(&world.env, &world.space).max_parallelism(max);
        let backend = builder.open().unwrap();
        let before = files_of(&world.env);
        let shard = backend.shard(OPERATOR, max.all_groups());
        let error = shard.restore(world.handles.iter().cloned()).open().unwrap_err();
        assert_says(
            &error,
            ErrorKind::Incompatible,
            &["snapshot 3", &format!("max_parallelism {groups}"), "max_parallelism 128"],
        );
        assert_eq!(files_of(&world.env), before);
    }
}

#[test]
fn the_snapshot_of_another_operator_is_incompatible() {
    let world = world();
    let backend = world.backend();
    let shard = backend.shard("somebody else", world.all());
    let error = shard.restore(world.handles.iter().cloned()).open().unwrap_err();
    assert_says(&error, ErrorKind::Incompatible, &["operator", "\"somebody else\"", OPERATOR]);
}

#[test]
fn handles_must_hold_every_group_once() {
    let world = world();
    let backend = world.backend();
    let [first, second] = &world.handles[..] else { panic!("there are two") };
    for (handles, facts) in [
        (vec![first], ["do not hold all key groups", "kg64"]),
        (vec![second], ["do not hold all key groups", "kg0"]),
        (vec![first, second, first], ["the same key group", "kg0 twice"]),
        (vec![second, first, second], ["the same key group", "kg64 twice"]),
    ] {
        let before = files_of(&world.env);
        let shard = backend.shard(OPERATOR, world.all()).restore(handles.into_iter().cloned());
        let error = shard.open().unwrap_err();
        assert_says(&error, ErrorKind::Invalid, &facts);
        assert_says(&error, ErrorKind::Invalid, &["give the handles"]);
        assert_eq!(files_of(&world.env), before);
    }
    // Of a shard's own groups each is needed; those of others do no harm.
    let groups = range_of(0, 4, 128);
    backend.shard(OPERATOR, groups).restore([first.clone()]).open().unwrap();
    backend.shard(OPERATOR, groups).restore([second.clone(), first.clone()]).open().unwrap();
}

#[test]
fn a_shard_must_fit_its_backend() {
    let env = SimEnv::new(1);
    let space = Keyspace::new(16, ["s"]);
    let backend = backend_on(&env, &space).open().unwrap();
    let groups = KeyGroupRange::new(KeyGroup(8), KeyGroup(16)).unwrap();
    let error = backend.shard(OPERATOR, groups).open().unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["kg0..=kg15", "kg8..=kg16", OPERATOR]);
    for (name, found) in [(String::new(), "0 bytes"), ("n".repeat(1025), "1025 bytes")] {
        let error = backend.shard(&name, range_of(0, 1, 16)).open().unwrap_err();
        assert_says(&error, ErrorKind::Invalid, &["operator", "1 to 1024 bytes", found]);
    }
}

#[test]
fn a_state_stays_what_it_was_registered_as() {
    let spec = |what: usize, codec: CodecId| match what {
        0 => StateSpec::value("counts").key_codec(codec),
        1 => StateSpec::value("counts").namespace_codec(codec),
        _ => StateSpec::value("counts").value_codec(codec),
    };
    let names = ["key codec", "namespace codec", "value codec"];
    let world = world();
    let backend = world.backend();
    for registered in [false, true] {
        let mut shard = world.restore(&backend).unwrap();
        if registered {
            shard.register(StateSpec::value("counts")).unwrap();
        }
        for (what, name) in names.into_iter().enumerate() {
            for codec in [CodecId::new("u64", 1), CodecId::new("bytes", 2)] {
                let text = codec.to_string();
                let error = shard.register(spec(what, codec)).unwrap_err();
                assert_says(&error, ErrorKind::Incompatible, &[name, "\"counts\"", &text, "bytes"]);
            }
        }
        let id = shard.register(StateSpec::value("counts")).unwrap();
        assert_eq!(shard.register(StateSpec::value("counts")).unwrap(), id);
    }
    let mut shard = world.restore(&backend).unwrap();
    for (name, found) in [(String::new(), "0 bytes"), ("n".repeat(1025), "1025 bytes")] {
        let error = shard.register(StateSpec::value(&name)).unwrap_err();
        assert_says(&error, ErrorKind::Invalid, &["name of a state", found]);
    }
}

#[test]
fn two_snapshots_that_disagree_about_a_state_are_incompatible() {
    let space = Arc::new(Keyspace::plain(&["counts"], 1));
    let env = SimEnv::new(1);
    let backend = backend_on(&env, &space).open().unwrap();
    type With = fn(StateSpec, CodecId) -> StateSpec;
    let keys: With = |spec, codec| spec.key_codec(codec);
    let namespaces: With = |spec, codec| spec.namespace_codec(codec);
    for (name, with) in [("key codec", keys), ("namespace codec", namespaces)] {
        let mut handles = Vec::new();
        for (index, codec) in [(0, "u64"), (1, "i64")] {
            let mut shard = backend.shard(OPERATOR, range_of(index, 2, 128)).open().unwrap();
            shard.register(with(StateSpec::value("counts"), CodecId::new(codec, 1))).unwrap();
            handles.push(shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle);
        }
        let shard = backend.shard(OPERATOR, range_of(0, 1, 128)).restore(handles);
        let error = shard.open().unwrap_err();
        assert_says(&error, ErrorKind::Incompatible, &[name, "\"counts\"", "u64", "i64"]);
    }
}

/// A codec might read both, so this is for the registration to say.
#[test]
fn a_codec_has_to_read_the_values_of_all_snapshots() {
    let space = Arc::new(Keyspace::plain(&["counts"], 40));
    let env = SimEnv::new(1);
    let backend = backend_on(&env, &space).open().unwrap();
    let mut handles = Vec::new();
    for (index, codec) in [(0, "u64"), (1, "i64")] {
        let mut shard = backend.shard(OPERATOR, range_of(index, 2, 128)).open().unwrap();
        let spec = StateSpec::value("counts").value_codec(CodecId::new(codec, 1));
        let id = shard.register(spec).unwrap();
        for key in space.within(shard.groups()) {
            shard.put(id, space.key_ref(key), &[0; 8]).unwrap();
        }
        handles.push(shard.snapshot(SnapshotId(1), b"").unwrap().wait().unwrap().handle);
    }
    let shard = backend.shard(OPERATOR, range_of(0, 1, 128)).restore(handles);
    let mut shard = shard.open().unwrap();
    for (asked, stored) in [("u64", "i64"), ("i64", "u64")] {
        let spec = StateSpec::value("counts").value_codec(CodecId::new(asked, 1));
        let error = shard.register(spec).unwrap_err();
        assert_says(
            &error,
            ErrorKind::Incompatible,
            &["value codec", "\"counts\"", &format!("expected {stored}, found {asked}")],
        );
    }
}

#[test]
fn table_options_out_of_range_are_refused_when_the_backend_opens() {
    let env = SimEnv::new(1);
    let space = Keyspace::new(128, ["s"]);
    let options = alluvium::table::TableOptions { block_bytes: 1, ..Default::default() };
    let error = backend_on(&env, &space).table_options(options).open().unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["block_bytes", "512 to 1048576", "found 1"]);
}

// Arguments.

fn one_shard() -> (SimEnv, Backend, Shard) {
    let env = SimEnv::new(1);
    let space = Keyspace::new(128, ["s"]);
    let backend = backend_on(&env, &space).open().unwrap();
    let shard = backend.shard(OPERATOR, range_of(0, 2, 128)).open().unwrap();
    (env, backend, shard)
}

/// A key of the lower half of the groups, and one of the upper.
fn keys() -> (&'static [u8], &'static [u8]) {
    let of = |lower: bool| {
        let all: [&[u8]; 8] = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"];
        all.into_iter().find(|key| (common::group_of(key, 128) < 64) == lower).unwrap()
    };
    (of(true), of(false))
}

/// Every way to use a key, none of which may do anything.
fn try_everything(
    shard: &mut Shard,
    id: alluvium::StateId,
    key: KeyRef<'_>,
) -> Vec<alluvium::Error> {
    let results = [
        shard.get(id, key).map(drop),
        shard.put(id, key, b"v"),
        shard.delete(id, key),
        shard.update(id, key, &mut |_| panic!("called for a key that is refused")),
        shard.get_many(id, &[key], &mut |_, _| panic!("called for a key that is refused")),
        shard.update_many(id, &[key], &mut |_, _| panic!("called for a key that is refused")),
    ];
    results.into_iter().map(Result::unwrap_err).collect()
}

#[test]
fn keys_and_namespaces_that_are_too_long_are_refused() {
    let (_env, _backend, mut shard) = one_shard();
    let id = shard.register(StateSpec::value("s")).unwrap();
    let long = vec![b'k'; 64 * 1024 + 1];
    let longest = &long[1..];
    let too_long = ["65536 bytes", "65537 bytes", "digest"];
    let group = KeyGroup(0);
    for (key, what) in [
        (KeyRef::in_group(group, &long), "the key is too long"),
        (KeyRef::in_group(group, b"k").namespace(&long), "the namespace is too long"),
    ] {
        for error in try_everything(&mut shard, id, key) {
            assert_says(&error, ErrorKind::Invalid, &[what]);
            assert_says(&error, ErrorKind::Invalid, &too_long);
        }
    }
    let key = KeyRef::in_group(group, longest).namespace(longest);
    shard.put(id, key, b"v").unwrap();
    assert_eq!(shard.get(id, key).unwrap(), Some(&b"v"[..]));
    assert_eq!(shard.stats().records, 1);
}

#[test]
fn values_that_are_too_long_are_refused() {
    let (_env, _backend, mut shard) = one_shard();
    let id = shard.register(StateSpec::value("s")).unwrap();
    let key = KeyRef::new(keys().0);
    shard.put(id, key, b"old").unwrap();
    // Never touched, so it takes no memory.
    let long = vec![0; (1 << 30) + 1];
    let facts = ["the value is too long", "1073741824 bytes", "1073741825 bytes", "split"];
    let error = shard.put(id, key, &long).unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &facts);
    let error = shard.update(id, key, &mut |value| value.set(&long)).unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &facts);
    let error = shard.update_many(id, &[key], &mut |_, value| value.set(&long)).unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &facts);
    assert_eq!(shard.get(id, key).unwrap(), Some(&b"old"[..]));
}

#[test]
fn a_state_of_another_shard_is_refused() {
    let (_env, backend, mut shard) = one_shard();
    let mut other = backend.shard(OPERATOR, range_of(1, 2, 128)).open().unwrap();
    shard.register(StateSpec::value("first")).unwrap();
    let second = shard.register(StateSpec::value("second")).unwrap();
    other.register(StateSpec::value("only")).unwrap();
    for error in try_everything(&mut other, second, KeyRef::new(keys().1)) {
        assert_says(
            &error,
            ErrorKind::Invalid,
            &["no such state", "kg64..=kg127", OPERATOR, "registration"],
        );
    }
}

#[test]
fn a_key_of_another_shard_is_refused() {
    let (_env, _backend, mut shard) = one_shard();
    let id = shard.register(StateSpec::value("s")).unwrap();
    let group = KeyGroup(common::group_of(keys().1, 128)).to_string();
    let facts = ["another shard", "kg0..=kg63", OPERATOR, &group, "route"];
    for error in try_everything(&mut shard, id, KeyRef::new(keys().1)) {
        assert_says(&error, ErrorKind::Invalid, &facts);
    }
    for named in [64, 128, u16::MAX] {
        let key = KeyRef::in_group(KeyGroup(named), b"k");
        let named = format!("kg{named}");
        for error in try_everything(&mut shard, id, key) {
            assert_says(&error, ErrorKind::Invalid, &["another shard", &named]);
        }
    }
    // The position of a bad key in a batch is told.
    let (good, bad) = (KeyRef::new(keys().0), KeyRef::new(keys().1));
    let mut batch = vec![good; 20];
    batch[17] = bad;
    let mut done = 0;
    let error = shard.update_many(id, &batch, &mut |_, value| {
        value.set(b"x");
        done += 1;
    });
    assert_says(&error.unwrap_err(), ErrorKind::Invalid, &["key 17 of the batch", &group]);
    assert_eq!(done, 17);
    assert_eq!(shard.stats().records, 1);
}

#[test]
fn a_refused_snapshot_leaves_the_shard_as_it_was() {
    let (_env, backend, mut shard) = one_shard();
    let id = shard.register(StateSpec::value("s")).unwrap();
    shard.put(id, KeyRef::new(keys().0), b"v").unwrap();
    let long = vec![0; 16 * 1024 * 1024 + 1];
    let error = shard.snapshot(SnapshotId(5), &long).unwrap_err();
    assert_says(&error, ErrorKind::Invalid, &["attached", "16777216 bytes", "16777217 bytes"]);
    assert_eq!(shard.stats().dirty_records, 1);
    // Its number was not used up, either.
    let report = shard.snapshot(SnapshotId(5), b"meta").unwrap().wait().unwrap();
    assert_eq!(report.records_new, 1);
    assert_eq!(backend.snapshot_meta(&report.handle).unwrap(), b"meta");
    shard.put(id, KeyRef::new(keys().0), b"w").unwrap();
    for not_above in [5, 4, 0] {
        let error = shard.snapshot(SnapshotId(not_above), b"").unwrap_err();
        let found = format!("found {not_above}");
        assert_says(&error, ErrorKind::Invalid, &["ascend", "above 5", &found, OPERATOR]);
    }
    assert_eq!(shard.stats().dirty_records, 1);
    let report = shard.snapshot(SnapshotId(6), b"").unwrap().wait().unwrap();
    assert_eq!(report.records_new, 1);
}

#[allow(clippy::disallowed_methods, reason = "the test is about files that are in the way")]
fn create(path: &Path) -> std::fs::File {
    std::fs::File::create(path).unwrap()
}

#[allow(clippy::disallowed_methods, reason = "the test is about files that are in the way")]
fn read_file(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
