//! One suite for every file system behind [`Fs`]: what the engine relies on
//! must be the same for mapped files, `pread` and the simulated disk.

#![allow(clippy::disallowed_methods, reason = "sets up and damages real files to test against")]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use alluvium::env::{Env, Fs, RealEnv, SimEnv};

/// Runs a claim against every implementation, each in an empty directory.
fn on_every_file_system(claim: impl Fn(&dyn Env, &Path)) {
    let [mapping, reading] = [RealEnv::new, RealEnv::with_pread];
    let envs: [Arc<dyn Env>; 4] = [
        Arc::new(mapping()),
        Arc::new(mapping().without_polling()),
        Arc::new(reading()),
        Arc::new(reading().without_polling()),
    ];
    for env in envs {
        let dir = tempfile::tempdir().unwrap();
        claim(&*env, dir.path());
    }
    for env in [SimEnv::new(1), SimEnv::new(2).with_mapped_reads()] {
        env.create_dir_all(Path::new("/sim")).unwrap();
        claim(&env, Path::new("/sim"));
    }
}

fn write(fs: &dyn Fs, path: &Path, bytes: &[u8]) {
    let mut file = fs.create_new(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync().unwrap();
}

fn read(fs: &dyn Fs, path: &Path) -> Vec<u8> {
    let file = fs.open(path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

/// `n` bytes that no short period repeats.
fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
}

#[test]
fn what_was_written_and_synced_is_read_back() {
    on_every_file_system(|env, dir| {
        for n in [0, 1, 4095, 4096, 4097, 64 * 1024, 200_001] {
            let path = dir.join(format!("f{n}"));
            let bytes = pattern(n);
            let mut file = env.fs().create_new(&path).unwrap();
            for piece in bytes.chunks(777) {
                file.write_all(piece).unwrap();
            }
            file.sync().unwrap();
            file.write_all(b"more").unwrap();
            file.sync().unwrap();
            drop(file);
            let mut expected = bytes;
            expected.extend_from_slice(b"more");
            assert_eq!(read(env.fs(), &path), expected);
            assert_eq!(env.fs().file_len(&path).unwrap(), n as u64 + 4);
        }
    });
}

#[test]
fn every_range_is_read_exactly_and_never_past_the_end() {
    on_every_file_system(|env, dir| {
        let path = dir.join("f");
        let bytes = pattern(10_000);
        write(env.fs(), &path, &bytes);
        let file = env.fs().open(&path).unwrap();
        if let Some(slice) = file.as_slice() {
            assert_eq!(slice, bytes);
        }
        for (offset, len) in [(0, 0), (0, 1), (4095, 2), (9_999, 1), (10_000, 0), (0, 10_000)] {
            let mut buf = vec![0; len];
            file.read_at(offset as u64, &mut buf).unwrap();
            assert_eq!(buf, bytes[offset..offset + len]);
            let mut piece = vec![0; len];
            file.read_piece(offset as u64, &mut piece).unwrap();
            assert_eq!(piece, buf);
            file.await_page(offset as u64);
            file.make_resident(offset as u64, len as u64).unwrap();
            file.will_need(offset as u64, len as u64);
        }
        for (offset, len) in [(10_000, 1), (10_001, 0), (0, 10_001), (u64::MAX, 1), (u64::MAX, 0)] {
            for error in [
                file.read_at(offset, &mut vec![0; len]).unwrap_err(),
                file.read_piece(offset, &mut vec![0; len]).unwrap_err(),
            ] {
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{len} bytes at {offset}");
            }
        }
        file.will_need(u64::MAX, u64::MAX);
        file.await_page(u64::MAX);
    });
}

#[test]
fn an_empty_file_opens_and_has_no_bytes() {
    on_every_file_system(|env, dir| {
        write(env.fs(), &dir.join("f"), b"");
        let file = env.fs().open(&dir.join("f")).unwrap();
        assert!(file.is_empty());
        file.read_at(0, &mut []).unwrap();
        file.make_resident(0, 0).unwrap();
        assert!(file.read_at(0, &mut [0]).is_err());
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    on_every_file_system(|env, dir| {
        let path = dir.join("f");
        write(env.fs(), &path, &pattern(5000));
        let file = env.fs().open(&path).unwrap();
        env.fs().remove_file(&path).unwrap();
        let mut buf = vec![0; 5000];
        file.read_at(0, &mut buf).unwrap();
        assert_eq!(buf, pattern(5000));
    });
}

#[test]
fn creating_never_replaces() {
    on_every_file_system(|env, dir| {
        let path = dir.join("f");
        write(env.fs(), &path, b"first");
        let error = env.fs().create_new(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(read(env.fs(), &path), b"first");
    });
}

#[test]
fn a_hard_link_is_a_second_name_and_never_replaces() {
    on_every_file_system(|env, dir| {
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.join(name));
        write(env.fs(), &a, b"first");
        write(env.fs(), &c, b"other");
        env.fs().hard_link(&a, &b).unwrap();
        env.fs().remove_file(&a).unwrap();
        assert_eq!(read(env.fs(), &b), b"first");
        let error = env.fs().hard_link(&b, &c).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(read(env.fs(), &c), b"other");
        let error = env.fs().hard_link(&a, &dir.join("d")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_rename_replaces() {
    on_every_file_system(|env, dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        write(env.fs(), &a, b"new");
        write(env.fs(), &b, b"old");
        env.fs().rename(&a, &b).unwrap();
        assert_eq!(read(env.fs(), &b), b"new");
        assert_eq!(env.fs().list(dir).unwrap(), ["b"]);
        assert_eq!(env.fs().rename(&a, &b).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn directories_are_made_with_their_parents_and_listed_in_order() {
    on_every_file_system(|env, dir| {
        let deep = dir.join("x/y/z");
        env.fs().create_dir_all(&deep).unwrap();
        env.fs().create_dir_all(&deep).unwrap();
        for name in ["b", "a", "c"] {
            write(env.fs(), &deep.join(name), b"");
        }
        assert_eq!(env.fs().list(&deep).unwrap(), ["a", "b", "c"]);
        assert_eq!(env.fs().list(&dir.join("x")).unwrap(), ["y"]);
        for parent in [&deep, &dir.join("x/y"), &dir.join("x"), dir] {
            env.fs().sync_dir(parent).unwrap();
        }
    });
}

#[test]
fn files_and_directories_are_not_mistaken_for_each_other() {
    on_every_file_system(|env, dir| {
        let fs = env.fs();
        let (file, sub) = (dir.join("file"), dir.join("sub"));
        write(fs, &file, b"");
        fs.create_dir_all(&sub).unwrap();
        assert_eq!(fs.list(&file).unwrap_err().kind(), ErrorKind::NotADirectory);
        assert_eq!(fs.sync_dir(&file).unwrap_err().kind(), ErrorKind::NotADirectory);
        assert_eq!(fs.file_len(&sub).unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(fs.open(&sub).unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(fs.file_len(&file.join("x")).unwrap_err().kind(), ErrorKind::NotADirectory);
        assert!(fs.create_dir_all(&file.join("x")).is_err());
        assert_eq!(fs.create_new(&sub).err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert!(fs.remove_file(&sub).is_err());
    });
}

#[test]
fn what_is_missing_is_reported_as_not_found() {
    on_every_file_system(|env, dir| {
        let fs = env.fs();
        let missing = dir.join("missing");
        for kind in [
            fs.open(&missing).err().unwrap().kind(),
            fs.file_len(&missing).unwrap_err().kind(),
            fs.list(&missing).unwrap_err().kind(),
            fs.remove_file(&missing).unwrap_err().kind(),
            fs.sync_dir(&missing).unwrap_err().kind(),
            fs.create_new(&missing.join("f")).err().unwrap().kind(),
            fs.canonicalize(&missing).unwrap_err().kind(),
        ] {
            assert_eq!(kind, ErrorKind::NotFound);
        }
    });
}

#[test]
fn a_lock_has_one_holder_and_falls_with_it() {
    on_every_file_system(|env, dir| {
        let path = dir.join("lock");
        let held = env.fs().try_lock(&path).unwrap().expect("nobody holds it");
        assert!(env.fs().try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(env.fs().try_lock(&path).unwrap().is_some());
        assert_eq!(env.fs().file_len(&path).unwrap(), 0);
    });
}

#[test]
fn two_names_of_one_directory_have_one_canonical_path() {
    on_every_file_system(|env, dir| {
        env.fs().create_dir_all(&dir.join("a")).unwrap();
        let plain = env.fs().canonicalize(&dir.join("a")).unwrap();
        assert_eq!(env.fs().canonicalize(&dir.join("a/../a/.")).unwrap(), plain);
        assert!(plain.is_absolute());
    });
}

#[test]
fn the_clock_never_goes_back_and_random_numbers_do_not_repeat() {
    on_every_file_system(|env, _| {
        let mut before = env.monotonic_ns();
        let mut seen = BTreeSet::new();
        for _ in 0..1000 {
            let now = env.monotonic_ns();
            assert!(now >= before);
            before = now;
            assert!(seen.insert(env.random_u64()), "64 random bits came twice");
        }
        assert!(env.unix_time_ms() > 1_600_000_000_000);
    });
}

#[test]
fn a_spawned_thread_runs_under_its_name() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = RealEnv::new()
        .spawn(
            "alluvium-test",
            Box::new(move || {
                sender.send(std::thread::current().name().map(str::to_owned)).unwrap();
            }),
        )
        .unwrap();
    thread.join().unwrap();
    assert_eq!(receiver.recv().unwrap().as_deref(), Some("alluvium-test"));
}

/// Who reads much once goes around the map; the name may be gone by then.
#[test]
fn a_mapped_file_can_be_read_in_order_without_its_map_or_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    for env in [RealEnv::new(), RealEnv::with_pread()] {
        write(env.fs(), &path, &pattern(5000));
        let file = env.fs().open(&path).unwrap();
        env.fs().remove_file(&path).unwrap();
        let mut read = vec![0; 3000];
        file.read_through(1500, &mut read).unwrap();
        assert_eq!(read, pattern(5000)[1500..4500]);
        let past = file.read_through(4000, &mut read).unwrap_err();
        assert_eq!(past.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn pread_survives_a_file_cut_short_behind_its_back() {
    let dir = tempfile::tempdir().unwrap();
    let env = RealEnv::with_pread();
    let path = dir.path().join("f");
    write(env.fs(), &path, &pattern(10_000));
    let file = env.fs().open(&path).unwrap();
    assert!(file.as_slice().is_none());
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    let mut buf = vec![0; 10_000];
    assert_eq!(file.read_at(0, &mut buf).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    file.read_at(0, &mut buf[..5000]).unwrap();
    assert_eq!(buf[..5000], pattern(5000));
}
