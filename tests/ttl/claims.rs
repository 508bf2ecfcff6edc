//! What is claimed of time to live.

use std::ops::ControlFlow;
use std::time::Duration;

use alluvium::codec::CodecId;
use alluvium::{
    Aggregate, AggregatingState, ErrorKind, KeyRef, KeyedStore, ListState, MapState, NewKey,
    OldCodecs, OldKey, ReducingState, StateOptions, StateSpec, TimeDomain, Ttl, TtlUpdate,
    TtlVisibility, ValueState,
};

use crate::job::{DAY_MS, Job, all_ttls, get, has_key, keys, list, map, read, specs, ttl, write};

/// Where event time begins in these tests; processing time begins elsewhere.
const START: i64 = 1_000_000;

fn start(job: &mut Job, time: TimeDomain) -> i64 {
    match time {
        TimeDomain::Processing => job.now_ms(),
        TimeDomain::Event => {
            job.come_to(time, START);
            START
        }
    }
}

/// Every kind, update type, visibility and time; in memory, and read from tables
/// in a next life that is warm or not.
#[test]
fn everything_lives_as_long_as_it_is_told_and_no_longer() {
    for (warm, restarts) in [(false, false), (false, true), (true, true)] {
        for ttl in all_ttls(1000) {
            for spec in specs(Some(ttl)) {
                let what = format!("{:?} with {ttl:?}, {warm}, {restarts}", spec.kind());
                let mut job = Job::new(warm);
                let from = start(&mut job, ttl.time_domain());
                let pause = |job: &mut Job| {
                    if restarts {
                        job.restart();
                        job.shard().register(spec.clone()).unwrap();
                        if warm {
                            job.warm_up();
                        }
                    }
                };
                write(job.shard(), &spec, b"read", b"one");
                write(job.shard(), &spec, b"unread", b"one");
                pause(&mut job);
                job.come_to(ttl.time_domain(), from + 600);
                assert_eq!(read(job.shard(), &spec, b"read").unwrap(), b"one", "{what}");
                pause(&mut job);
                // A good deal before it expires and after: simulated calls take time.
                job.come_to(ttl.time_domain(), from + 990);
                assert!(has_key(job.shard(), &spec, b"unread"), "{what}");
                job.come_to(ttl.time_domain(), from + 1200);
                let renewed = ttl.update_type() == TtlUpdate::OnReadAndWrite;
                let shown = ttl.visibility_type() == TtlVisibility::ReturnExpiredIfNotCleanedUp;
                pause(&mut job);
                if renewed {
                    assert_eq!(read(job.shard(), &spec, b"read").unwrap(), b"one", "{what}");
                }
                if !shown {
                    assert_eq!(read(job.shard(), &spec, b"unread"), None, "{what}");
                    assert!(!has_key(job.shard(), &spec, b"unread"), "{what}");
                    assert_eq!(read(job.shard(), &spec, b"read").is_some(), renewed, "{what}");
                }
                // Whatever it was, it is gone when it was cleaned up.
                job.come_to(ttl.time_domain(), from + 10_000);
                if warm || !restarts {
                    job.expire_all();
                    assert_eq!(read(job.shard(), &spec, b"unread"), None, "{what}");
                    assert_eq!(read(job.shard(), &spec, b"read"), None, "{what}");
                }
                write(job.shard(), &spec, b"unread", b"two");
                if !shown {
                    assert_eq!(read(job.shard(), &spec, b"unread").unwrap(), b"two", "{what}");
                }
            }
        }
    }
}

#[test]
fn a_write_renews_and_a_write_to_what_has_expired_begins_afresh() {
    let mut job = Job::new(true);
    let state = job.shard().register(StateSpec::value("v").ttl(ttl(1000))).unwrap();
    let key = KeyRef::new(b"k").namespace(b"window");
    let count = |job: &mut Job| {
        let mut seen = None;
        job.shard()
            .update(state, key, &mut |value| {
                let before = value.get().map(|bytes| bytes[0]);
                value.set(&[before.unwrap_or(0) + 1]);
                seen = before;
            })
            .unwrap();
        seen
    };
    assert_eq!(count(&mut job), None);
    for before in 1..6 {
        job.pass_ms(700);
        assert_eq!(count(&mut job), Some(before));
    }
    job.pass_ms(1100);
    assert_eq!(count(&mut job), None, "it had expired");
    job.pass_ms(700);
    assert_eq!(count(&mut job), Some(1));
    // By bytes_mut, too, and in batches.
    for _ in 0..5 {
        job.pass_ms(700);
        let mut change =
            |_: usize, value: &mut alluvium::ValueMut<'_>| value.bytes_mut().unwrap()[0] += 1;
        job.shard().update_many(state, &[key; 3], &mut change).unwrap();
    }
    let mut seen = Vec::new();
    job.shard()
        .get_many(state, &[key, KeyRef::new(b"other")], &mut |_, value| {
            seen.push(value.map(<[u8]>::to_vec));
        })
        .unwrap();
    assert_eq!(seen, [Some(vec![17]), None]);
    job.pass_ms(1100);
    let mut seen = Vec::new();
    job.shard()
        .get_many(state, &[key], &mut |_, value| seen.push(value.map(<[u8]>::to_vec)))
        .unwrap();
    assert_eq!(seen, [None]);
    job.shard()
        .update_many(state, &[key], &mut |_, value| {
            assert!(value.get().is_none() && value.bytes_mut().is_none());
        })
        .unwrap();
    assert_eq!(job.shard().get(state, key).unwrap(), None);
}

#[test]
fn a_value_may_change_its_length_and_an_empty_one_lives_too() {
    let mut job = Job::new(true);
    let state = job.shard().register(StateSpec::value("v").ttl(ttl(1000))).unwrap();
    for value in [&b"short"[..], b"", b"quite a bit longer than it was before", b"s", &[7; 5000]] {
        job.shard().put(state, KeyRef::new(b"k"), value).unwrap();
        assert_eq!(get(job.shard(), state, b"k").unwrap(), value);
        job.pass_ms(600);
        let mut seen = Vec::new();
        let mut change = |entry: &mut alluvium::ValueMut<'_>| {
            seen = entry.get().unwrap().to_vec();
            entry.set(&seen);
            entry.set(b"another");
            assert_eq!(entry.get().unwrap(), b"another");
        };
        job.shard().update(state, KeyRef::new(b"k"), &mut change).unwrap();
        assert_eq!(seen, value);
        job.pass_ms(600);
        assert_eq!(get(job.shard(), state, b"k").unwrap(), b"another");
        job.shard().delete(state, KeyRef::new(b"k")).unwrap();
        assert_eq!(get(job.shard(), state, b"k"), None);
    }
}

#[test]
fn elements_and_entries_expire_one_by_one() {
    for restarts in [false, true] {
        let mut job = Job::new(false);
        let (lists, maps) =
            (StateSpec::list("l").ttl(ttl(1000)), StateSpec::map("m").ttl(ttl(1000)));
        for number in 0..10_u8 {
            let (l, m) = (
                job.shard().register(lists.clone()).unwrap(),
                job.shard().register(maps.clone()).unwrap(),
            );
            job.shard().list_append(l, KeyRef::new(b"k"), &[&[number]]).unwrap();
            job.shard().map_put(m, KeyRef::new(b"k"), &[number], &[number]).unwrap();
            job.pass_ms(300);
            if restarts && number % 3 == 0 {
                job.restart();
            }
        }
        let (l, m) = (job.shard().register(lists).unwrap(), job.shard().register(maps).unwrap());
        // The last ones are 300, 600 and 900 ms old.
        let left: Vec<Vec<u8>> = (7..10).map(|number| vec![number]).collect();
        assert_eq!(list(job.shard(), l, b"k"), left);
        let entries = left.iter().map(|entry| (entry.clone(), entry.clone()));
        assert_eq!(map(job.shard(), m, b"k"), entries.collect::<Vec<_>>());
        assert_eq!(job.shard().map_get(m, KeyRef::new(b"k"), &[6]).unwrap(), None);
        assert!(!job.shard().map_is_empty(m, KeyRef::new(b"k")).unwrap());
        job.pass_ms(1000);
        assert!(list(job.shard(), l, b"k").is_empty());
        assert!(job.shard().map_is_empty(m, KeyRef::new(b"k")).unwrap());
        assert!(keys(job.shard(), l).is_empty() && keys(job.shard(), m).is_empty());
    }
}

#[test]
fn what_expires_leaves_memory_and_its_queue_little_by_little() {
    for kind in 0..3 {
        let mut job = Job::new(true);
        let spec = specs(Some(ttl(1000)))[kind].clone();
        let state = job.shard().register(spec.clone()).unwrap();
        for number in 0..5000_u32 {
            write(job.shard(), &spec, &number.to_be_bytes(), &[7; 100]);
        }
        let full = job.shard().stats();
        assert!(full.records >= 5000 && full.expiry_queue_bytes > 5000 * 16, "{full:?}");
        job.pass_ms(5000);
        // Operations on other keys do it; a few records each.
        for number in 0..5000_u32 {
            let _ = read(job.shard(), &spec, format!("other {number}").as_bytes());
        }
        let left = job.shard().stats();
        assert_eq!(left.records, 0, "nothing was ever in a table, so nothing is left of it");
        assert_eq!(left.arena_used_bytes, 0);
        assert!(left.expiry_queue_bytes < 10_000, "{left:?}");
        assert!(keys(job.shard(), state).is_empty());
    }
}

#[test]
fn records_that_come_and_go_do_not_fill_the_queue() {
    let mut job = Job::new(true);
    let state = job.shard().register(StateSpec::value("v").ttl(ttl(1_000_000))).unwrap();
    for round in 0..200_000_u32 {
        let key = (round % 100).to_be_bytes();
        job.shard().put(state, KeyRef::new(&key), b"x").unwrap();
        job.shard().delete(state, KeyRef::new(&key)).unwrap();
        let key = round.to_be_bytes();
        job.shard().put(state, KeyRef::new(&key).namespace(b"w"), b"x").unwrap();
        job.shard().delete(state, KeyRef::new(&key).namespace(b"w")).unwrap();
    }
    let stats = job.shard().stats();
    assert!(stats.expiry_queue_bytes < 200_000, "{stats:?}");
    job.shard().put(state, KeyRef::new(b"k"), b"x").unwrap();
    job.pass_ms(2_000_000);
    job.expire_all();
    assert_eq!(job.shard().stats().records, 0);
}

#[test]
fn a_large_map_and_a_long_list_give_up_what_has_expired() {
    let mut job = Job::new(true);
    let m = job.shard().register(StateSpec::map("m").ttl(ttl(10_000))).unwrap();
    let l = job.shard().register(StateSpec::list("l").ttl(ttl(10_000))).unwrap();
    let key = KeyRef::new(b"k");
    for number in 0..20_000_u32 {
        job.shard().map_put(m, key, &number.to_be_bytes(), &[1; 20]).unwrap();
        job.shard().list_append(l, key, &[&[1; 20]]).unwrap();
        if number % 2000 == 1999 {
            job.pass_ms(1000);
        }
    }
    let full = job.shard().stats();
    job.pass_ms(8_500);
    job.expire_all();
    let left = job.shard().stats();
    assert!(left.arena_used_bytes < full.arena_used_bytes / 3, "{full:?} {left:?}");
    let count = map(job.shard(), m, b"k").len();
    assert!((500..6000).contains(&count), "{count}");
    assert_eq!(list(job.shard(), l, b"k").len(), count);
    job.pass_ms(20_000);
    job.expire_all();
    assert_eq!(job.shard().stats().records, 0);
}

#[test]
fn tables_shrink_when_they_are_merged() {
    for time in [TimeDomain::Processing, TimeDomain::Event] {
        let mut job = Job::with_tables(true, 1);
        let from = start(&mut job, time);
        let ttl = ttl(1000).time(time);
        for spec in specs(Some(ttl)) {
            for number in 0..2000_u32 {
                write(job.shard(), &spec, &number.to_be_bytes(), &number.to_be_bytes().repeat(20));
            }
        }
        let handles = job.snapshot();
        let full = job.table_bytes();
        assert!(full > 50_000, "{full}");
        // In a life in which nothing is read, and nothing comes into memory.
        job.restore(&handles, 1);
        for spec in specs(Some(ttl)) {
            job.shard().register(spec).unwrap();
        }
        job.come_to(time, from + 60_000);
        write(job.shard(), &specs(Some(ttl))[0], b"a", b"b");
        job.snapshot();
        let left = job.table_bytes();
        assert!(left < 2000, "{left} bytes of {full} are left");
        assert_eq!(read(job.shard(), &specs(Some(ttl))[0], b"a").unwrap(), b"b");
    }
}

#[test]
fn without_its_state_registered_a_table_keeps_everything() {
    let mut job = Job::with_tables(true, 1);
    let spec = StateSpec::value("v").ttl(ttl(1000));
    write(job.shard(), &spec, b"k", b"v");
    let handles = job.snapshot();
    job.restore(&handles, 1);
    job.pass_ms(600);
    write(job.shard(), &StateSpec::value("another"), b"k", b"v");
    job.snapshot();
    job.pass_ms(-300);
    write(job.shard(), &StateSpec::value("another"), b"l", b"v");
    let handles = job.snapshot();
    job.restore(&handles, 1);
    assert_eq!(read(job.shard(), &spec, b"k").unwrap(), b"v");
    job.pass_ms(800);
    assert_eq!(read(job.shard(), &spec, b"k"), None);
}

/// On, off, longer, shorter, another time: no migration, and nothing is lost.
#[test]
fn a_time_to_live_may_be_another_one_in_each_life() {
    for warm in [false, true] {
        for kind in 0..3 {
            for handles_on in [1, 3] {
                let spec = |ttl: Option<Ttl>| specs(ttl)[kind].clone();
                let mut job = Job::with_tables(warm, 3);
                let next = |job: &mut Job, ttl: Option<Ttl>| {
                    let handles = job.snapshot();
                    job.restore(&handles, handles_on);
                    let spec = spec(ttl);
                    job.shards.iter_mut().for_each(|shard| {
                        shard.register(spec.clone()).unwrap();
                    });
                    if warm {
                        job.warm_up();
                    }
                    spec
                };
                let key = |number: u8| [b'k', number];
                let on = |job: &mut Job, number: u8| {
                    let shards = &mut job.shards;
                    let (group, _) =
                        KeyRef::new(&key(number)).locate(job.backend.max_parallelism());
                    shards.iter().position(|shard| shard.groups().contains(group)).unwrap()
                };
                let plain = spec(None);
                for number in 0..30 {
                    write(job.shard(), &plain, &key(number), b"without");
                }
                // On: it counts as written now.
                let timed = next(&mut job, Some(ttl(10_000)));
                job.pass_ms(6000);
                let at = on(&mut job, 0);
                write(&mut job.shards[at], &timed, &key(0), b"anew");
                // Again, with the same: from when it counts is not forgotten.
                let timed = next(&mut job, Some(ttl(10_000)));
                for number in 1..30 {
                    let at = on(&mut job, number);
                    let found = read(&mut job.shards[at], &timed, &key(number));
                    assert_eq!(found.unwrap(), b"without");
                }
                // Longer, when it would just have expired.
                let timed = next(&mut job, Some(ttl(100_000)));
                job.pass_ms(50_000);
                for number in 1..30 {
                    let at = on(&mut job, number);
                    let found = read(&mut job.shards[at], &timed, &key(number));
                    assert_eq!(found.unwrap(), b"without");
                }
                // Off: for ever.
                let plain = next(&mut job, None);
                job.pass_ms(100 * DAY_MS);
                for number in 1..30 {
                    let at = on(&mut job, number);
                    let found = read(&mut job.shards[at], &plain, &key(number));
                    assert_eq!(found.unwrap(), b"without");
                }
                // By another time, which begins with its first watermark.
                let timed = next(&mut job, Some(ttl(1000).time(TimeDomain::Event)));
                job.pass_ms(100 * DAY_MS);
                job.come_to(TimeDomain::Event, 5_000_000);
                job.come_to(TimeDomain::Event, 5_000_900);
                for number in 1..30 {
                    let at = on(&mut job, number);
                    let found = read(&mut job.shards[at], &timed, &key(number));
                    assert_eq!(found.unwrap(), b"without");
                }
                job.come_to(TimeDomain::Event, 5_001_000);
                for number in 0..30 {
                    let at = on(&mut job, number);
                    assert_eq!(read(&mut job.shards[at], &timed, &key(number)), None);
                }
            }
        }
    }
}

#[test]
fn shorter_time_to_live_of_a_next_life_holds_for_what_was_written_before() {
    for spec in [true, false] {
        let mut job = Job::new(spec);
        let state = |ms| StateSpec::value("v").ttl(ttl(ms));
        write(job.shard(), &state(100_000), b"k", b"v");
        job.pass_ms(5000);
        job.restart();
        assert_eq!(read(job.shard(), &state(4000), b"k"), None);
    }
}

#[test]
fn event_time_follows_the_watermark_across_restores() {
    let mut job = Job::new(true);
    let spec = StateSpec::value("v").ttl(ttl(1000).time(TimeDomain::Event));
    write(job.shard(), &spec, b"before any watermark", b"v");
    job.pass_ms(100 * DAY_MS);
    assert_eq!(job.shard().watermark(), None);
    assert!(read(job.shard(), &spec, b"before any watermark").is_some(), "nothing expires");
    job.restart();
    assert!(read(job.shard(), &spec, b"before any watermark").is_some());
    job.come_to(TimeDomain::Event, -500);
    write(job.shard(), &spec, b"k", b"v");
    job.restart();
    assert_eq!(job.shard().watermark(), Some(-500), "it is part of the snapshot");
    job.come_to(TimeDomain::Event, -2000);
    assert_eq!(job.shard().watermark(), Some(-500), "it never goes back");
    job.come_to(TimeDomain::Event, 499);
    assert!(read(job.shard(), &spec, b"k").is_some());
    assert!(read(job.shard(), &spec, b"before any watermark").is_some());
    job.come_to(TimeDomain::Event, 500);
    assert_eq!(read(job.shard(), &spec, b"k"), None);
    assert_eq!(read(job.shard(), &spec, b"before any watermark"), None);
    job.restart();
    assert_eq!(read(job.shard(), &spec, b"k"), None);
}

#[test]
fn a_joined_shard_has_the_lowest_watermark_of_its_parts() {
    let mut job = Job::new(true);
    let spec = StateSpec::value("v").ttl(ttl(1000).time(TimeDomain::Event));
    job.restore(&[], 2);
    for (shard, watermark) in job.shards.iter_mut().zip([7000, 6000]) {
        shard.register(spec.clone()).unwrap();
        shard.advance_watermark(watermark);
    }
    for number in 0..20_u8 {
        write(job.shard_of(KeyRef::new(&[number])), &spec, &[number], b"v");
    }
    let handles = job.snapshot();
    job.restore(&handles, 1);
    assert_eq!(job.shard().watermark(), Some(6000));
    job.come_to(TimeDomain::Event, 6999);
    for number in 0..20_u8 {
        assert!(read(job.shard(), &spec, &[number]).is_some());
    }
    job.come_to(TimeDomain::Event, 8000);
    for number in 0..20_u8 {
        assert!(read(job.shard(), &spec, &[number]).is_none());
    }
}

/// No panic, no overflow: forward expires, backward lives longer, and what was
/// removed does not come back from tables.
#[test]
fn clocks_may_jump_by_thirty_days() {
    for warm in [false, true] {
        for kind in 0..3 {
            let spec = specs(Some(ttl(DAY_MS as u64)))[kind].clone();
            let mut job = Job::new(warm);
            write(job.shard(), &spec, b"old", b"v");
            job.restart();
            // Back: it lives on.
            job.pass_ms(-30 * DAY_MS);
            assert!(read(job.shard(), &spec, b"old").is_some());
            write(job.shard(), &spec, b"new", b"v");
            job.pass_ms(DAY_MS / 2);
            assert!(read(job.shard(), &spec, b"old").is_some());
            assert!(read(job.shard(), &spec, b"new").is_some());
            job.pass_ms(DAY_MS);
            assert!(read(job.shard(), &spec, b"old").is_some());
            assert_eq!(read(job.shard(), &spec, b"new"), None);
            // Forward: it has expired; what is removed is removed for good.
            job.pass_ms(60 * DAY_MS);
            assert_eq!(read(job.shard(), &spec, b"old"), None);
            job.expire_all();
            if warm {
                job.warm_up();
                job.expire_all();
                job.pass_ms(-90 * DAY_MS);
                assert_eq!(read(job.shard(), &spec, b"old"), None);
                job.restart();
                assert_eq!(read(job.shard(), &spec, b"old"), None);
            }
            write(job.shard(), &spec, b"old", b"again");
            assert_eq!(read(job.shard(), &spec, b"old").unwrap(), b"again");
        }
    }
    // Times at the ends of what can be counted.
    let mut job = Job::new(true);
    let spec = StateSpec::value("v").ttl(ttl(1 << 62).time(TimeDomain::Event));
    for watermark in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX] {
        job.come_to(TimeDomain::Event, watermark);
        write(job.shard(), &spec, b"k", b"v");
        assert!(read(job.shard(), &spec, b"k").is_some());
    }
    job.expire_all();
    job.pass_ms(i64::MAX);
    job.pass_ms(i64::MIN);
}

#[test]
fn a_read_that_renews_is_part_of_the_next_snapshot() {
    for kind in 0..3 {
        let ttl = ttl(1000).update(TtlUpdate::OnReadAndWrite);
        let spec = specs(Some(ttl))[kind].clone();
        let mut job = Job::new(true);
        write(job.shard(), &spec, b"k", b"v");
        job.snapshot();
        assert_eq!(job.shard().stats().dirty_records, 0);
        job.pass_ms(700);
        assert!(read(job.shard(), &spec, b"k").is_some());
        assert_eq!(job.shard().stats().dirty_records, 1);
        job.restart();
        job.pass_ms(700);
        assert!(read(job.shard(), &spec, b"k").is_some(), "it was read 700 ms ago");
    }
}

#[test]
fn typed_states_of_all_kinds_take_a_time_to_live() {
    struct Sum;
    impl Aggregate for Sum {
        type In = u64;
        type Acc = u64;
        type Out = u64;
        fn create(&self) -> u64 {
            0
        }
        fn add(&self, sum: &mut u64, value: u64) {
            *sum += value;
        }
        fn merge(&self, into: &mut u64, from: u64) {
            *into += from;
        }
        fn result(&self, sum: u64) -> u64 {
            sum
        }
    }
    let mut job = Job::new(true);
    let options = |name: &str| StateOptions::new(name).ttl(ttl(1000));
    let shard = &mut job.shards[0];
    let values: ValueState<u64, u64> = ValueState::register(shard, options("values")).unwrap();
    let lists: ListState<u64, u64> = ListState::register(shard, options("lists")).unwrap();
    let maps: MapState<u64, u64, u64> = MapState::register(shard, options("maps")).unwrap();
    let reducing: ReducingState<u64, u64> =
        ReducingState::register(shard, options("reducing"), |a, b| a + b).unwrap();
    let sums: AggregatingState<u64, Sum> =
        AggregatingState::register(shard, options("sums"), Sum).unwrap();
    let round = |job: &mut Job| {
        let shard = &mut job.shards[0];
        values.update(shard, &1, |value| Some(value.unwrap_or(0) + 1)).unwrap();
        lists.add(shard, &1, &7).unwrap();
        maps.put(shard, &1, &5, &6).unwrap();
        reducing.add(shard, &1, 10).unwrap();
        sums.add(shard, &1, 10).unwrap();
        (
            values.get(shard, &1).unwrap(),
            lists.get(shard, &1).unwrap().len(),
            maps.get(shard, &1, &5).unwrap(),
            reducing.get(shard, &1).unwrap(),
            sums.get(shard, &1).unwrap(),
        )
    };
    assert_eq!(round(&mut job), (Some(1), 1, Some(6), Some(10), Some(10)));
    job.pass_ms(500);
    assert_eq!(round(&mut job), (Some(2), 2, Some(6), Some(20), Some(20)));
    job.pass_ms(1100);
    assert_eq!(round(&mut job), (Some(1), 1, Some(6), Some(10), Some(10)), "afresh");
    job.pass_ms(1100);
    let shard = &mut job.shards[0];
    assert_eq!(reducing.get(shard, &1).unwrap(), None);
    assert_eq!(sums.get(shard, &1).unwrap(), None);
    assert!(values.keys(shard).unwrap().is_empty() && reducing.keys(shard).unwrap().is_empty());
}

#[test]
fn what_is_written_where_something_has_expired_and_gone_expires_too() {
    for spec in specs(Some(ttl(1000))) {
        let mut job = Job::new(true);
        write(job.shard(), &spec, b"k", b"v");
        job.snapshot();
        for _ in 0..3 {
            job.pass_ms(1200);
            job.expire_all();
            assert!(job.shard().stats().records <= 1, "a deletion that tables must hear of");
            write(job.shard(), &spec, b"k", b"again");
        }
        job.pass_ms(1200);
        job.expire_all();
        job.snapshot();
        job.expire_all();
        assert_eq!(job.shard().stats().records, 0, "{:?}", spec.kind());
    }
}

/// It may be seen until it is removed, which is a 32nd of its time later at most;
/// but it does not live on by that.
#[test]
fn a_read_of_what_has_expired_renews_nothing() {
    let ttl = ttl(32_000)
        .update(TtlUpdate::OnReadAndWrite)
        .visibility(TtlVisibility::ReturnExpiredIfNotCleanedUp);
    for how in 0..3 {
        let mut job = Job::new(true);
        let state = job.shard().register(StateSpec::value("v").ttl(ttl)).unwrap();
        let key = KeyRef::new(b"k");
        job.shard().put(state, key, b"v").unwrap();
        job.pass_ms(32_050);
        let mut seen = None;
        match how {
            0 => seen = get(job.shard(), state, b"k"),
            1 => {
                let look = &mut |value: &mut alluvium::ValueMut<'_>| {
                    seen = value.get().map(<[u8]>::to_vec);
                };
                job.shard().update(state, key, look).unwrap();
            }
            _ => {
                let look = &mut |_, value: &mut alluvium::ValueMut<'_>| {
                    seen = value.get().map(<[u8]>::to_vec);
                };
                job.shard().update_many(state, &[key], look).unwrap();
            }
        }
        assert_eq!(seen.as_deref(), Some(&b"v"[..]), "not removed yet");
        job.pass_ms(2000);
        assert_eq!(get(job.shard(), state, b"k"), None);
    }
}

/// Re-keyed, everything is as old as it was.
#[test]
fn re_keying_leaves_stamps_as_they_are() {
    for spec in specs(Some(ttl(1000))) {
        let mut job = Job::new(true);
        write(job.shard(), &spec, b"old", b"v");
        job.pass_ms(600);
        let handles = job.snapshot();
        job.restore(&handles, 1);
        let renamed = spec.clone().key_codec(CodecId::new("renamed", 1));
        let before = OldCodecs {
            keys: CodecId::new("bytes", 1).into(),
            namespaces: CodecId::new("bytes", 1).into(),
            map_keys: None,
        };
        let mut rename = |old: OldKey<'_>| {
            let key = [b"new and ", old.key].concat();
            Ok(NewKey { key, namespace: old.namespace.to_vec(), group: None })
        };
        job.shard().register_rekeyed(renamed.clone(), before, &mut rename).unwrap();
        assert_eq!(read(job.shard(), &renamed, b"new and old").unwrap(), b"v");
        assert_eq!(read(job.shard(), &renamed, b"old"), None);
        job.pass_ms(300);
        assert!(has_key(job.shard(), &renamed, b"new and old"));
        job.restart();
        job.pass_ms(200);
        assert_eq!(read(job.shard(), &renamed, b"new and old"), None, "{:?}", spec.kind());
        assert!(!has_key(job.shard(), &renamed, b"new and old"));
    }
}

#[test]
fn a_dropped_state_may_be_registered_again_with_another_time_to_live_or_none() {
    for kind in 0..3 {
        let mut job = Job::new(true);
        let other = [None, Some(ttl(7)), Some(ttl(1000)), None];
        let mut numbers = Vec::new();
        for ttl in other {
            let spec = specs(ttl)[kind].clone();
            write(job.shard(), &spec, b"k", b"v");
            numbers.push(job.shard().register(spec.clone()).unwrap());
            assert!(read(job.shard(), &spec, b"k").is_some());
            job.snapshot();
            assert!(job.shard().drop_state(spec.name()).unwrap());
            for &gone in &numbers {
                let error = job.shard().clear(gone, KeyRef::new(b"k")).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            }
            job.pass_ms(10);
            job.expire_all();
        }
        let spec = specs(Some(ttl(1000)))[kind].clone();
        assert_eq!(read(job.shard(), &spec, b"k"), None);
        job.restart();
        assert_eq!(read(job.shard(), &spec, b"k"), None);
    }
}

#[test]
fn what_cannot_be_is_refused_and_named() {
    let mut job = Job::new(true);
    let shard = job.shard();
    for bad in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
        let error = shard.register(StateSpec::value("v").ttl(Ttl::after(bad))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("\"v\""), "{error}");
    }
    assert_eq!(shard.state_names().count(), 0, "nothing was changed");
    let state = shard.register(StateSpec::value("v").ttl(ttl(5))).unwrap();
    assert_eq!(shard.register(StateSpec::value("v").ttl(ttl(5))).unwrap(), state);
    for other in [StateSpec::value("v"), StateSpec::value("v").ttl(ttl(6))] {
        let error = shard.register(other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    }
    // A number that says that the values of a state do not expire, which do.
    let forged = alluvium::StateId::new(state.number() & 0x7fff_ffff);
    let untimed = shard.register(StateSpec::value("u")).unwrap();
    let also_forged = alluvium::StateId::new(untimed.number() | 1 << 31);
    for forged in [forged, also_forged] {
        let key = KeyRef::new(b"k");
        assert_eq!(shard.put(forged, key, b"v").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(shard.get(forged, key).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(shard.delete(forged, key).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(shard.clear(forged, key).unwrap_err().kind(), ErrorKind::Invalid);
        let error = shard.update(forged, key, &mut |_| panic!("it is none")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let error = shard.get_many(forged, &[key], &mut |_, _| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let error = shard.update_many(forged, &[key], &mut |_, _| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let visit = &mut |_, _: &[u8], _: &[u8]| ControlFlow::Continue(());
        assert_eq!(shard.visit_keys(forged, None, visit).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
