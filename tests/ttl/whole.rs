//! Tables whose values have all expired go as they are, unread.

use std::collections::BTreeSet;
use std::path::Path;

use alluvium::env::{Env, SimEnv};
use alluvium::{
    Backend, KeyRef, KeyedStore, ListState, SnapshotId, StateOptions, StateSpec, TimeDomain,
    TtlUpdate,
};

use crate::job::{DAY_MS, Job, all_ttls, get, list, map, read, specs, ttl, write};

/// Enough that none are merged.
const MANY: usize = 100;
const START: i64 = 1_000_000;

/// The files that the job has made and not removed.
fn files(job: &Job) -> BTreeSet<String> {
    job.env.fs().list(Path::new("/ttl/local")).unwrap().into_iter().collect()
}

#[test]
fn tables_that_have_expired_whole_go_and_nothing_is_written_for_that() {
    for warm in [false, true] {
        for ttl in all_ttls(10_000) {
            for spec in specs(Some(ttl)) {
                let what = format!("{:?}, {ttl:?}", spec.kind());
                let mut job = Job::with_tables(warm, MANY);
                job.come_to(ttl.time_domain(), START);
                for (number, at) in [(0_u8, 0), (1, 4_000), (2, 8_000)] {
                    job.come_to(ttl.time_domain(), START + at);
                    write(job.shard(), &spec, &[number], b"v");
                    job.snapshot();
                }
                // A life in which nothing is in memory: only tables know of it.
                job.restart();
                job.shard().register(spec.clone()).unwrap();
                assert_eq!(job.shard().stats().tables, 3, "{what}");
                for (at, left) in [(9_000, 3), (11_000, 2), (15_000, 1), (30_000, 0)] {
                    job.come_to(ttl.time_domain(), START + at);
                    let before = files(&job);
                    // Twice: a snapshot under way keeps its files until the next one.
                    job.snapshot();
                    job.snapshot();
                    assert_eq!(job.shard().stats().tables, left, "{what} at {at}");
                    assert!(files(&job).is_subset(&before), "{what} at {at}");
                    let there = read(job.shard(), &spec, &[2]).is_some();
                    assert!(there || at >= 18_000, "{what} at {at}");
                    if ttl.update_type() == TtlUpdate::OnReadAndWrite {
                        // That was a write.
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_removed_from_memory_when_it_expires_leaves_no_deletions_in_tables() {
    for spec in specs(Some(ttl(1000))) {
        let mut job = Job::with_tables(true, MANY);
        for round in 0..20_u8 {
            for number in 0..50 {
                write(job.shard(), &spec, &[number, round], b"some value");
            }
            job.snapshot();
            job.pass_ms(1100);
            job.expire_all();
            assert_eq!(job.shard().stats().dirty_records, 50, "they say that it is gone");
        }
        // Values of one round, and the deletions of them.
        job.snapshot();
        let left = job.shard().stats();
        assert_eq!((left.tables, left.table_bytes), (0, 0), "{:?}: {left:?}", spec.kind());
    }
}

#[test]
fn a_table_stays_while_it_hides_what_another_time_to_live_would_show() {
    // The clock goes back between two writes, so the older one expires later.
    let spec = StateSpec::value("v").ttl(ttl(1000));
    let mut job = Job::with_tables(true, MANY);
    write(job.shard(), &spec, b"k", b"older");
    job.snapshot();
    job.pass_ms(-600);
    write(job.shard(), &spec, b"k", b"newer");
    job.snapshot();
    job.pass_ms(1200);
    let handles = job.snapshot();
    assert_eq!(job.shard().stats().tables, 2);
    job.restore(&handles, 1);
    let for_ever = StateSpec::value("v");
    assert_eq!(read(job.shard(), &for_ever, b"k").unwrap(), b"newer");
    // Both have expired: both go, and no later life finds them.
    job.restore(&handles, 1);
    job.shard().register(spec.clone()).unwrap();
    job.pass_ms(DAY_MS);
    job.snapshot();
    let handles = job.snapshot();
    assert_eq!(job.shard().stats().tables, 0);
    job.restore(&handles, 1);
    assert_eq!(read(job.shard(), &for_ever, b"k"), None);
}

#[test]
fn a_marker_stays_as_long_as_there_is_something_for_it_to_hide() {
    for kind in [1, 2] {
        let spec = specs(Some(ttl(1000).time(TimeDomain::Event)))[kind].clone();
        let for_ever = specs(None)[kind].clone();
        let mut job = Job::with_tables(true, MANY);
        job.come_to(TimeDomain::Event, START);
        write(job.shard(), &spec, b"k", b"cleared");
        job.snapshot();
        let state = job.shard().register(spec.clone()).unwrap();
        job.shard().clear(state, KeyRef::new(b"k")).unwrap();
        job.snapshot();
        let handles = job.snapshot();
        assert_eq!(job.shard().stats().tables, 2, "the marker has no stamp, and hides");
        job.come_to(TimeDomain::Event, START + 5000);
        job.snapshot();
        assert_eq!(job.shard().stats().tables, 0);
        job.restore(&handles, 1);
        let state = job.shard().register(for_ever).unwrap();
        match kind {
            1 => assert!(list(job.shard(), state, b"k").is_empty()),
            _ => assert!(map(job.shard(), state, b"k").is_empty()),
        }
    }
}

#[test]
fn a_longer_time_to_live_of_the_next_life_keeps_what_had_not_gone() {
    let short = StateSpec::value("v").ttl(ttl(1000));
    let long = StateSpec::value("v").ttl(ttl(100_000));
    let mut job = Job::with_tables(true, MANY);
    write(job.shard(), &short, b"k", b"v");
    let handles = job.snapshot();
    // It expires between two lives, and nobody registers it in the second one.
    job.restore(&handles, 1);
    job.pass_ms(2000);
    write(job.shard(), &StateSpec::value("another"), b"k", b"v");
    job.snapshot();
    let handles = job.snapshot();
    job.restore(&handles, 1);
    job.shard().register(long.clone()).unwrap();
    job.snapshot();
    job.snapshot();
    assert_eq!(read(job.shard(), &long, b"k").unwrap(), b"v");
}

#[test]
fn what_was_written_without_a_time_to_live_expires_whole_by_when_it_was_given_one() {
    let mut job = Job::with_tables(true, MANY);
    write(job.shard(), &StateSpec::value("v"), b"k", b"v");
    let handles = job.snapshot();
    job.restore(&handles, 1);
    let timed = StateSpec::value("v").ttl(ttl(10_000));
    job.shard().register(timed.clone()).unwrap();
    job.pass_ms(9_000);
    job.snapshot();
    job.snapshot();
    assert_eq!(job.shard().stats().tables, 1);
    job.pass_ms(2_000);
    job.snapshot();
    assert_eq!(job.shard().stats().tables, 0);
    assert_eq!(read(job.shard(), &timed, b"k"), None);
}

#[test]
fn by_event_time_a_table_goes_by_the_barrier_of_a_snapshot_that_is_done() {
    let spec = StateSpec::value("v").ttl(ttl(1000).time(TimeDomain::Event));
    let mut job = Job::with_tables(true, MANY);
    job.come_to(TimeDomain::Event, START);
    write(job.shard(), &spec, b"k", b"v");
    job.snapshot();
    // The watermark moves on while a snapshot is under way.
    let ticket = job.shard().snapshot(SnapshotId(50), b"").unwrap();
    job.come_to(TimeDomain::Event, START + 5000);
    let handle = ticket.wait().unwrap().handle;
    while job.backend.run_background() {}
    assert_eq!(job.shard().stats().tables, 1, "at its barrier the value lived");
    job.restore(&[handle], 1);
    assert_eq!(read(job.shard(), &spec, b"k").unwrap(), b"v");
}

/// Names of what does not count go into manifests, and are left out by merges.
#[test]
fn a_table_of_two_states_gives_up_the_one_that_has_expired_when_it_is_merged() {
    let timed = StateSpec::value("timed").ttl(ttl(1000));
    let plain = StateSpec::value("plain");
    for tables in [MANY, 1] {
        let mut job = Job::with_tables(false, tables);
        for number in 0..500_u32 {
            let value = number.to_be_bytes().repeat(20);
            write(job.shard(), &timed, &number.to_be_bytes(), &value);
            write(job.shard(), &plain, &number.to_be_bytes(), b"v");
        }
        job.restart();
        let full = job.table_bytes();
        job.shard().register(timed.clone()).unwrap();
        job.pass_ms(DAY_MS);
        job.snapshot();
        write(job.shard(), &plain, b"another", b"v");
        job.snapshot();
        let handles = job.snapshot();
        if tables == 1 {
            assert!(job.table_bytes() < full / 2, "{} of {full}", job.table_bytes());
        }
        // It does not come back, whatever the clock says.
        job.pass_ms(-2 * DAY_MS);
        job.restore(&handles, 3);
        let for_ever = StateSpec::value("timed");
        let key = 7_u32.to_be_bytes();
        let shard = job.shard_of(KeyRef::new(&key));
        assert_eq!(read(shard, &for_ever, &key), None);
        assert_eq!(read(shard, &plain, &key).unwrap(), b"v");
    }
}

/// Where memory is short, reads go to the tables that there are now.
#[test]
fn a_shard_with_a_budget_reads_on_when_tables_have_gone() {
    let env = SimEnv::new(4);
    let backend = Backend::builder("/ttl")
        .env(std::sync::Arc::new(env.clone()))
        .background_threads(0)
        .max_tables_per_shard(MANY)
        .memory_budget_bytes(1 << 20)
        .open()
        .unwrap();
    let groups = backend.max_parallelism().all_groups();
    let mut shard = backend.shard("ttl", groups).open().unwrap();
    let timed = shard.register(StateSpec::value("timed").ttl(ttl(10_000))).unwrap();
    let plain = shard.register(StateSpec::value("plain")).unwrap();
    let log: ListState<u32, u32> =
        ListState::register(&mut shard, StateOptions::new("log").ttl(ttl(10_000))).unwrap();
    for round in 0..40_u32 {
        for number in 0..50_u32 {
            let key = (round * 50 + number).to_be_bytes();
            shard.put(timed, KeyRef::new(&key), &[7; 60]).unwrap();
            log.add(&mut shard, &number, &round).unwrap();
        }
        shard.put(plain, KeyRef::new(&round.to_be_bytes()), &[1; 60]).unwrap();
        env.shift_wall_clock(1000);
        let id = SnapshotId(u64::from(round) + 1);
        shard.snapshot(id, b"").unwrap().wait().unwrap();
        shard.notify_complete(id);
        while backend.run_background() {}
        shard.evict(u64::MAX).unwrap();
        for old in 0..=round {
            assert!(get(&mut shard, plain, &old.to_be_bytes()).is_some(), "{old} of {round}");
            let found = get(&mut shard, timed, &(old * 50).to_be_bytes());
            if round - old != 9 && round - old != 10 {
                assert_eq!(found.is_some(), round - old < 9, "{old} of {round}");
            }
        }
        let kept = log.get(&mut shard, &7).unwrap();
        assert!(kept.len() <= 11 && kept.last() == Some(&round), "{kept:?} in {round}");
    }
}

#[test]
fn merges_know_the_newest_stamp_whether_the_state_is_registered_or_not() {
    for registered in [true, false] {
        for spec in specs(Some(ttl(10_000))) {
            let what = format!("{:?}, {registered}", spec.kind());
            let another = StateSpec::value("another");
            let mut job = Job::with_tables(false, 1);
            for number in 0..3_u8 {
                write(job.shard(), &spec, &[number], b"v");
                job.pass_ms(1000);
                job.snapshot();
            }
            job.restart();
            if registered {
                job.shard().register(spec.clone()).unwrap();
            }
            for number in 0..3_u8 {
                write(job.shard(), &another, &[number], b"v");
                job.snapshot();
            }
            assert_eq!(job.shard().stats().tables, 1, "{what}: all in one");
            job.shard().register(spec.clone()).unwrap();
            job.shard().drop_state("another").unwrap();
            job.pass_ms(7_000);
            job.snapshot();
            assert_eq!(job.shard().stats().tables, 1, "{what}: one lives");
            assert!(read(job.shard(), &spec, &[2]).is_some(), "{what}");
            job.pass_ms(3_000);
            job.snapshot();
            assert_eq!(job.shard().stats().tables, 0, "{what}");
        }
    }
}
