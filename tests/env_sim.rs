//! The simulated machine must lose what a power cut may lose, and nothing
//! else. If it were too kind, every crash test built on it would prove nothing;
//! each claim about a loss is therefore checked in both directions.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;

use alluvium::env::sim::{CrashMode, FaultError, FaultKind, SimRng};
use alluvium::env::{Env, Fs, SimEnv};

const SEEDS: std::ops::Range<u64> = 0..100;

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// A machine with the durable directories `/d` and `/e`.
fn machine() -> SimEnv {
    let sim = SimEnv::new(1);
    sim.create_dir_all(p("/d")).unwrap();
    sim.create_dir_all(p("/e")).unwrap();
    sim.sync_dir(p("/")).unwrap();
    sim
}

fn write_synced(sim: &SimEnv, path: &str, bytes: &[u8]) {
    let mut file = sim.create_new(p(path)).unwrap();
    file.write_all(bytes).unwrap();
    file.sync().unwrap();
}

/// A file whose bytes and name are durable.
fn write_durable(sim: &SimEnv, path: &str, bytes: &[u8]) {
    write_synced(sim, path, bytes);
    sim.sync_dir(p(path).parent().unwrap()).unwrap();
}

/// Everything that `look` sees in the crash images of one mode.
fn outcomes<T: Ord>(sim: &SimEnv, mode: CrashMode, look: impl Fn(&SimEnv) -> T) -> BTreeSet<T> {
    SEEDS.map(|seed| look(&sim.crash_image(mode, seed))).collect()
}

fn exists(sim: &SimEnv, path: &str) -> bool {
    sim.file_bytes(p(path)).is_some()
}

#[test]
fn what_is_durable_survives_every_crash() {
    let sim = machine();
    write_durable(&sim, "/d/f", b"bytes");
    for mode in CrashMode::ALL {
        let seen = outcomes(&sim, mode, |image| image.file_bytes(p("/d/f")));
        assert_eq!(seen, BTreeSet::from([Some(b"bytes".to_vec())]), "{mode:?}");
    }
}

#[test]
fn synced_bytes_without_a_synced_name_may_be_lost() {
    let sim = machine();
    write_synced(&sim, "/d/f", b"bytes");
    let found = |mode| outcomes(&sim, mode, |image| exists(image, "/d/f"));
    assert_eq!(found(CrashMode::KeepUnsynced), BTreeSet::from([true]));
    assert_eq!(found(CrashMode::DropUnsynced), BTreeSet::from([false]));
    assert_eq!(found(CrashMode::RandomSubset), BTreeSet::from([false, true]));
    assert_eq!(found(CrashMode::Torn), BTreeSet::from([false, true]));
}

#[test]
fn a_synced_name_without_synced_bytes_is_an_empty_file() {
    let sim = machine();
    let mut file = sim.create_new(p("/d/f")).unwrap();
    file.write_all(b"bytes").unwrap();
    sim.sync_dir(p("/d")).unwrap();
    let image = sim.crash_image(CrashMode::DropUnsynced, 1);
    assert_eq!(image.file_bytes(p("/d/f")).unwrap(), b"");
}

#[test]
fn a_directory_without_a_synced_parent_is_lost_with_all_in_it() {
    let sim = machine();
    sim.create_dir_all(p("/d/x/y")).unwrap();
    write_durable(&sim, "/d/x/y/f", b"bytes");
    sim.sync_dir(p("/d/x")).unwrap();
    let image = sim.crash_image(CrashMode::DropUnsynced, 1);
    assert_eq!(image.list(p("/d/x")).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(image.list_all_files().is_empty());
    sim.sync_dir(p("/d")).unwrap();
    let image = sim.crash_image(CrashMode::DropUnsynced, 1);
    assert_eq!(image.file_bytes(p("/d/x/y/f")).unwrap(), b"bytes");
}

#[test]
fn rename_without_dir_sync_may_be_lost_in_a_crash() {
    let sim = machine();
    write_durable(&sim, "/d/old", b"bytes");
    sim.rename(p("/d/old"), p("/d/new")).unwrap();
    let seen = outcomes(&sim, CrashMode::RandomSubset, |image| image.list(p("/d")).unwrap());
    // Within one directory it is one step: never both names, never none.
    assert_eq!(seen, BTreeSet::from([vec!["old".to_owned()], vec!["new".to_owned()]]));
}

#[test]
fn a_rename_over_a_file_leaves_the_old_or_the_new_one() {
    let sim = machine();
    write_durable(&sim, "/d/f", b"old");
    write_durable(&sim, "/d/g", b"new");
    sim.rename(p("/d/g"), p("/d/f")).unwrap();
    for mode in CrashMode::ALL {
        for bytes in outcomes(&sim, mode, |image| image.file_bytes(p("/d/f")).unwrap()) {
            assert!(bytes == b"old" || bytes == b"new", "{mode:?}");
        }
    }
}

#[test]
fn a_rename_between_directories_is_two_changes() {
    let sim = machine();
    write_durable(&sim, "/d/f", b"bytes");
    sim.rename(p("/d/f"), p("/e/f")).unwrap();
    let seen = outcomes(&sim, CrashMode::RandomSubset, |image| {
        (exists(image, "/d/f"), exists(image, "/e/f"))
    });
    assert_eq!(seen.len(), 4);
    sim.sync_dir(p("/e")).unwrap();
    let seen = outcomes(&sim, CrashMode::RandomSubset, |image| {
        (exists(image, "/d/f"), exists(image, "/e/f"))
    });
    assert_eq!(seen, BTreeSet::from([(false, true), (true, true)]));
}

#[test]
fn a_removed_name_may_come_back_until_the_directory_is_synced() {
    let sim = machine();
    write_durable(&sim, "/d/f", b"bytes");
    sim.remove_file(p("/d/f")).unwrap();
    let seen = outcomes(&sim, CrashMode::RandomSubset, |image| exists(image, "/d/f"));
    assert_eq!(seen, BTreeSet::from([false, true]));
    sim.sync_dir(p("/d")).unwrap();
    for mode in CrashMode::ALL {
        assert_eq!(outcomes(&sim, mode, |image| exists(image, "/d/f")), BTreeSet::from([false]));
    }
}

#[test]
fn two_names_of_one_file_stay_so_after_a_crash() {
    let sim = machine();
    write_durable(&sim, "/d/a", b"bytes");
    sim.hard_link(p("/d/a"), p("/d/b")).unwrap();
    sim.sync_dir(p("/d")).unwrap();
    let image = sim.crash_image(CrashMode::DropUnsynced, 1);
    image.mutate_file(p("/d/a"), |bytes| bytes[0] ^= 1);
    assert_eq!(image.file_bytes(p("/d/b")), image.file_bytes(p("/d/a")));
    // A crash image shares nothing with the machine it was taken of.
    assert_eq!(sim.file_bytes(p("/d/a")).unwrap(), b"bytes");
}

#[test]
fn any_subset_of_unsynced_writes_may_survive() {
    let sim = machine();
    let mut file = sim.create_new(p("/d/f")).unwrap();
    sim.sync_dir(p("/d")).unwrap();
    file.write_all(b"S").unwrap();
    file.sync().unwrap();
    for piece in [b"a", b"b", b"c"] {
        file.write_all(piece).unwrap();
    }
    let seen =
        outcomes(&sim, CrashMode::RandomSubset, |image| image.file_bytes(p("/d/f")).unwrap());
    for kept in 0..8 {
        let mut bytes = b"S".to_vec();
        for (bit, piece) in b"abc".iter().enumerate() {
            if kept & (1 << bit) != 0 {
                bytes.resize(1 + bit, 0);
                bytes.push(*piece);
            }
        }
        assert!(seen.contains(&bytes), "{bytes:?} never came");
    }
    assert!(seen.contains(b"S\0\0\0".as_slice()), "the size alone may survive");
    assert!(seen.iter().all(|bytes| bytes[0] == b'S'));
}

#[test]
fn a_torn_file_is_cut_at_sectors_and_keeps_what_was_synced() {
    let sim = machine();
    let mut file = sim.create_new(p("/d/f")).unwrap();
    sim.sync_dir(p("/d")).unwrap();
    file.write_all(&[7; 700]).unwrap();
    file.sync().unwrap();
    file.write_all(&[9; 20_000]).unwrap();
    let seen = outcomes(&sim, CrashMode::Torn, |image| image.file_bytes(p("/d/f")).unwrap());
    for bytes in &seen {
        assert_eq!(bytes[..700], [7; 700]);
        assert!(bytes.len() % 512 == 0 || bytes.len() == 700 || bytes.len() == 20_700);
    }
    let any = |what: &dyn Fn(&[u8]) -> bool| seen.iter().any(|bytes| what(&bytes[700..]));
    assert!(any(&|tail| tail.len() < 20_000), "cut");
    assert!(any(&|tail| tail.contains(&0)), "zeros");
    assert!(any(&|tail| tail.iter().any(|b| ![0, 9].contains(b))), "garbage");
    assert!(any(&|tail| tail.len() > 512 && tail.contains(&9)), "right");
}

#[test]
fn what_a_failed_sync_left_behind_is_not_saved_by_the_name() {
    let sim = machine();
    let mut file = sim.create_new(p("/d/f")).unwrap();
    file.write_all(b"bytes").unwrap();
    sim.fail_nth(FaultKind::Sync, 1, FaultError::EIO, false);
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    // The handle refuses to go on, as every WriteFile must.
    assert!(file.write_all(b"x").is_err());
    assert!(file.sync().is_err());
    sim.sync_dir(p("/d")).unwrap();
    assert_eq!(sim.file_bytes(p("/d/f")).unwrap(), b"bytes");
    assert_eq!(sim.crash_image(CrashMode::DropUnsynced, 1).file_bytes(p("/d/f")).unwrap(), b"");
}

#[test]
fn equal_seeds_give_equal_machines() {
    let images = [5, 5, 6].map(|seed| {
        let sim = machine();
        for i in 0..20 {
            let mut file = sim.create_new(p(&format!("/d/{i}"))).unwrap();
            file.write_all(&[i; 3000]).unwrap();
        }
        let image = sim.crash_image(CrashMode::Torn, seed);
        let files: Vec<_> = image
            .list_all_files()
            .into_iter()
            .map(|path| (image.file_bytes(&path).unwrap(), path))
            .collect();
        (files, image.random_u64(), image.monotonic_ns())
    });
    assert_eq!(images[0], images[1]);
    assert_ne!(images[0], images[2]);
}

#[test]
fn a_chain_of_crashes_with_one_seed_draws_new_numbers() {
    let mut sim = SimEnv::new(0);
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        assert!(seen.insert(sim.random_u64()));
        sim = sim.crash_image(CrashMode::DropUnsynced, 0);
    }
}

#[test]
fn the_power_goes_after_exactly_so_many_operations() {
    let scenario = |sim: &SimEnv| -> io::Result<()> {
        sim.create_dir_all(p("/d/x"))?; // 2 operations
        let mut file = sim.create_new(p("/d/x/f"))?;
        file.write_all(b"1")?;
        sim.open(p("/d/x/f"))?.read_at(0, &mut [0])?;
        file.sync()?;
        sim.hard_link(p("/d/x/f"), p("/d/x/g"))?;
        sim.rename(p("/d/x/f"), p("/d/x/h"))?;
        sim.remove_file(p("/d/x/g"))?;
        drop(sim.try_lock(p("/d/x/lock"))?);
        drop(sim.try_lock(p("/d/x/lock"))?);
        sim.list(p("/d/x"))?;
        sim.file_len(p("/d/x/h"))?;
        sim.sync_dir(p("/d/x"))
    };
    let clean = SimEnv::new(1);
    scenario(&clean).unwrap();
    assert_eq!(clean.ops(), 10);
    for n in 0..10 {
        let sim = SimEnv::new(1);
        sim.stop_after(n);
        let error = scenario(&sim).unwrap_err();
        assert_eq!(error.to_string(), "simulated power loss");
        assert!(sim.power_lost());
        assert_eq!(sim.ops(), n);
        assert!(sim.create_dir_all(p("/d")).is_err(), "nothing works without power");
        assert!(sim.list(p("/")).is_err());
    }
    let sim = SimEnv::new(1);
    sim.stop_after(10);
    scenario(&sim).unwrap();
    assert!(!sim.power_lost());
}

#[test]
fn the_nth_call_fails_and_no_other() {
    type Call = fn(&SimEnv) -> io::Result<()>;
    let calls: [(FaultKind, Call); 11] = [
        (FaultKind::CreateDir, |sim| sim.create_dir_all(p("/d"))),
        (FaultKind::Create, |sim| {
            sim.create_new(p("/d/new"))?;
            sim.remove_file(p("/d/new"))
        }),
        (FaultKind::SyncDir, |sim| sim.sync_dir(p("/d"))),
        (FaultKind::Rename, |sim| sim.rename(p("/d/f"), p("/d/f"))),
        (FaultKind::Link, |sim| {
            sim.hard_link(p("/d/f"), p("/d/g"))?;
            sim.remove_file(p("/d/g"))
        }),
        (FaultKind::Remove, |sim| {
            sim.lose_file(p("/d/r"));
            sim.hard_link(p("/d/f"), p("/d/r"))?;
            sim.remove_file(p("/d/r"))?;
            sim.hard_link(p("/d/f"), p("/d/r"))
        }),
        (FaultKind::Open, |sim| sim.open(p("/d/f")).map(drop)),
        (FaultKind::Read, |sim| sim.open(p("/d/f"))?.read_at(0, &mut [0])),
        (FaultKind::List, |sim| sim.list(p("/d")).map(drop)),
        (FaultKind::Len, |sim| sim.file_len(p("/d/f")).map(drop)),
        (FaultKind::Lock, |sim| sim.try_lock(p("/d/f")).map(drop)),
    ];
    for (kind, call) in calls {
        for sticky in [false, true] {
            let sim = machine();
            write_synced(&sim, "/d/f", b"x");
            write_synced(&sim, "/d/r", b"x");
            let before = sim.calls(kind);
            sim.fail_nth(kind, 3, FaultError::ENOSPC, sticky);
            let failed: Vec<bool> = (0..5)
                .map(|_| {
                    let result = call(&sim);
                    if let Err(error) = &result {
                        assert_eq!(error.kind(), ErrorKind::StorageFull, "{kind:?}");
                    }
                    result.is_err()
                })
                .collect();
            assert_eq!(failed, [false, false, true, sticky, sticky], "{kind:?}");
            assert!(sim.fault_fired());
            assert_eq!(sim.calls(kind) - before, 5, "{kind:?}");
            sim.clear_faults();
            assert!(!sim.fault_fired());
            if kind != FaultKind::Remove {
                call(&sim).unwrap();
            }
        }
    }
}

#[test]
fn a_failed_write_may_have_written_any_part() {
    let sim = machine();
    let mut lengths = BTreeSet::new();
    for i in 0..100 {
        let path = format!("/d/{i}");
        let mut file = sim.create_new(p(&path)).unwrap();
        sim.fail_nth(FaultKind::Write, 1, FaultError::ENOSPC, false);
        assert!(file.write_all(b"abc").is_err());
        let bytes = sim.file_bytes(p(&path)).unwrap();
        assert!(b"abc".starts_with(&bytes));
        lengths.insert(bytes.len());
    }
    assert_eq!(lengths, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn a_late_fault_takes_effect_first() {
    let sim = machine();
    write_synced(&sim, "/d/f", b"x");
    sim.fail_nth_late(FaultKind::Link, 1, ErrorKind::TimedOut, false);
    let error = sim.hard_link(p("/d/f"), p("/d/g")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(exists(&sim, "/d/g"));
    sim.fail_nth_late(FaultKind::SyncDir, 1, FaultError::EIO, false);
    assert!(sim.sync_dir(p("/d")).is_err());
    assert!(exists(&sim.crash_image(CrashMode::DropUnsynced, 1), "/d/g"));
}

#[test]
fn locks_fall_with_the_power() {
    let sim = machine();
    let _held = sim.try_lock(p("/d/lock")).unwrap().unwrap();
    assert!(sim.try_lock(p("/d/lock")).unwrap().is_none());
    let image = sim.crash_image(CrashMode::KeepUnsynced, 1);
    assert!(image.try_lock(p("/d/lock")).unwrap().is_some());
}

#[test]
fn damage_is_seen_by_open_files_unless_they_are_mapped() {
    let sim = machine();
    write_durable(&sim, "/d/f", b"bytes");
    let file = sim.open(p("/d/f")).unwrap();
    let mapped = sim.clone().with_mapped_reads().open(p("/d/f")).unwrap();
    sim.mutate_file(p("/d/f"), |bytes| bytes.truncate(2));
    assert!(file.as_slice().is_none());
    assert_eq!(mapped.as_slice().unwrap(), b"bytes");
    let mut buf = [0; 3];
    assert_eq!(file.read_at(0, &mut buf).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(sim.crash_image(CrashMode::DropUnsynced, 1).file_bytes(p("/d/f")).unwrap(), b"by");
    sim.lose_file(p("/d/f"));
    for mode in CrashMode::ALL {
        assert!(!exists(&sim.crash_image(mode, 1), "/d/f"));
    }
}

#[test]
fn mapped_reads_meet_faults_where_they_are_made_resident() {
    let sim = machine().with_mapped_reads();
    write_synced(&sim, "/d/f", b"bytes");
    let file = sim.open(p("/d/f")).unwrap();
    sim.fail_nth(FaultKind::Read, 1, FaultError::EIO, true);
    assert!(file.make_resident(0, 5).is_err());
    assert!(file.make_resident(0, 6).is_err());
}

#[test]
fn time_passes_by_itself_and_on_demand() {
    let sim = SimEnv::new(1);
    let (ns, ms) = (sim.monotonic_ns(), sim.unix_time_ms());
    assert!(sim.monotonic_ns() > ns);
    sim.advance_ms(10_000);
    assert!(sim.monotonic_ns() >= ns + 10_000_000_000);
    assert!(sim.unix_time_ms() >= ms + 10_000);
}

#[test]
fn there_are_no_threads() {
    let error = SimEnv::new(1).spawn("x", Box::new(|| panic!("ran"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn paths_that_mean_something_else_elsewhere_are_refused() {
    let sim = machine();
    for path in ["d/f", "/d/../f", "../f", "", "."] {
        assert_eq!(sim.file_len(p(path)).unwrap_err().kind(), ErrorKind::InvalidInput, "{path:?}");
        assert!(sim.create_new(p(path)).is_err());
    }
    assert!(sim.canonicalize(p("d")).is_err());
}

#[test]
fn random_numbers_stay_below_their_bound_and_reach_it() {
    let mut rng = SimRng::new(3);
    let seen: BTreeSet<u64> = (0..1000).map(|_| rng.below(5)).collect();
    assert_eq!(seen, BTreeSet::from([0, 1, 2, 3, 4]));
    assert_eq!(rng.below(0), 0);
    assert!(!rng.one_in(0));
    let mut bytes = [0; 13];
    rng.fill(&mut bytes);
    assert!(bytes.iter().filter(|b| **b != 0).count() > 8);
}
