//! Stamps of states with a time to live.

use std::time::Duration;

use alluvium::env::{Env, SimEnv};
use alluvium::{KeyRef, KeyedStore, SnapshotHandle, StateId, StateSpec, TimeDomain, Ttl};

use crate::plain::{self, Name};
use crate::{backend_in, backend_on, export, export_by, handles_of, import, memory};
use crate::{open, ranges, snapshots, store_of};

const MAX: u32 = 16;

fn specs(ttl: Option<Ttl>) -> [StateSpec; 3] {
    [StateSpec::list("list"), StateSpec::map("map"), StateSpec::value("value")].map(
        |spec| match ttl {
            Some(ttl) => spec.ttl(ttl),
            None => spec,
        },
    )
}

/// One life of a shard: writes something under `name` and takes a snapshot.
fn live(
    env: &SimEnv,
    handles: &[SnapshotHandle],
    ttl: Option<Ttl>,
    name: &[u8],
    watermarks: &[i64],
    id: u64,
) -> Vec<SnapshotHandle> {
    let backend = backend_on(env, MAX).max_tables_per_shard(100).open().unwrap();
    let mut shards = open(&backend, "op", &ranges(1, MAX), handles);
    let ids: Vec<StateId> =
        specs(ttl).into_iter().map(|spec| shards[0].register(spec).unwrap()).collect();
    let (before, after) = watermarks.split_at(watermarks.len().min(1));
    before.iter().for_each(|ms| shards[0].advance_watermark(*ms));
    let shard = &mut shards[0];
    shard.list_append(ids[0], KeyRef::new(b"key"), &[name]).unwrap();
    shard.map_put(ids[1], KeyRef::new(b"key"), name, name).unwrap();
    shard.put(ids[2], KeyRef::new(name), name).unwrap();
    after.iter().for_each(|ms| shard.advance_watermark(*ms));
    snapshots(&mut shards, id)
}

/// The stamps of all entries by their values, state by state.
fn stamps(bytes: &[u8]) -> Vec<Vec<(Vec<u8>, Option<i64>)>> {
    let savepoint = plain::read(bytes);
    let states = savepoint.operators["op"].states.values();
    let of_state = |state: &plain::State| {
        let of_entry = |entry: &plain::Entry| {
            assert!(entry.name == Name::None || entry.name == Name::Key(entry.value.clone()));
            (entry.value.clone(), entry.stamp)
        };
        state.entries.iter().map(of_entry).collect()
    };
    states.map(of_state).collect()
}

fn ttl(ms: u64, time: TimeDomain) -> Option<Ttl> {
    Some(Ttl::after(Duration::from_millis(ms)).time(time))
}

#[test]
fn stamps_come_along_and_what_has_none_counts_from_when_the_state_got_a_time_to_live() {
    let env = SimEnv::new(1);
    let store = store_of(&env);
    let handles = live(&env, &[], None, b"a", &[], 1);
    for state in stamps(&export(&store, &handles)) {
        assert_eq!(state, [(b"a".to_vec(), None)]);
    }
    let from = env.unix_time_ms() as i64;
    let handles = live(&env, &handles, ttl(1 << 40, TimeDomain::Processing), b"b", &[], 2);
    let to = env.unix_time_ms() as i64;
    let bytes = export(&store, &handles);
    let since: Vec<i64> = plain::read(&bytes).operators["op"]
        .states
        .values()
        .map(|state| state.ttl.and_then(|(_, _, since)| since).unwrap())
        .collect();
    for (state, since) in stamps(&bytes).into_iter().zip(since) {
        assert_eq!(state.len(), 2);
        assert!((from..=to).contains(&since));
        assert_eq!(state[0], (b"a".to_vec(), Some(since)));
        assert!(state[1].1.is_some_and(|stamp| (since..=to).contains(&stamp)), "{state:?}");
    }
    let other = memory();
    let imported = import(&other, &bytes, 3);
    assert!(export(&other, &handles_of(&imported)) == bytes);

    // Stamps of another time are none, and no time to live needs none.
    let handles = live(&env, &handles, ttl(1 << 40, TimeDomain::Event), b"c", &[70, 90], 3);
    for state in stamps(&export(&store, &handles)) {
        let expected = [(b"a", i64::MIN), (b"b", i64::MIN), (b"c", 70)];
        let expected = expected.map(|(value, stamp)| (value.to_vec(), Some(stamp)));
        assert_eq!(state, expected);
    }
    let handles = live(&env, &handles, None, b"d", &[], 4);
    for state in stamps(&export(&store, &handles)) {
        assert_eq!(state.len(), 4);
        assert!(state.iter().all(|(_, stamp)| stamp.is_none()));
    }
}

#[test]
fn what_has_expired_is_left_out_only_if_that_is_asked_for() {
    for (time, now) in [(TimeDomain::Event, 0), (TimeDomain::Processing, 10_000)] {
        let env = SimEnv::new(1);
        let store = store_of(&env);
        let start = env.unix_time_ms();
        let mut handles = Vec::new();
        for (number, name) in [b"a", b"b", b"c"].into_iter().enumerate() {
            let watermark = 1_000 + 100 * number as i64;
            handles = live(&env, &handles, ttl(150, time), name, &[watermark], number as u64 + 1);
            if time == TimeDomain::Processing {
                env.advance_ms(100);
            }
        }
        // The job reads nothing again, so nothing was removed.
        let all = export(&store, &handles);
        let after = |ms: u64| {
            let bytes = export_by(&store, &handles, |export| export.without_expired(ms)).unwrap();
            let left = stamps(&bytes);
            let names = |state: &Vec<(Vec<u8>, Option<i64>)>| -> Vec<u8> {
                state.iter().map(|(value, _)| value[0]).collect()
            };
            let left: Vec<Vec<u8>> = left.iter().map(names).collect();
            assert!(left.iter().all(|state| *state == left[0]), "{left:?}");
            left[0].clone()
        };
        assert!(stamps(&all).iter().all(|state| state.len() >= 2));
        if time == TimeDomain::Event {
            // The watermark is 1200: what was written at 1000 has expired.
            assert_eq!(after(start + now), b"bc");
        } else {
            assert_eq!(after(start + now), b"");
            let last = plain::read(&all).operators["op"].states["value"].entries.last().cloned();
            let last = last.unwrap().stamp.unwrap() as u64;
            assert_eq!(after(last + 149), b"c");
            assert_eq!(after(last + 150), b"");
        }
    }
}

#[test]
fn an_imported_state_expires_as_it_would_have() {
    let env = SimEnv::new(1);
    let store = store_of(&env);
    let rule = ttl(500, TimeDomain::Event);
    let handles = live(&env, &[], rule, b"a", &[1_000, 1_400], 1);
    let other = memory();
    let imported = import(&other, &export(&store, &handles), 1);
    let backend = backend_in(&other, MAX);
    let mut shards = open(&backend, "op", &ranges(1, MAX), &imported.operators[0].handles);
    assert_eq!(shards[0].watermark(), Some(1_400));
    let [.., value] = specs(rule).map(|spec| shards[0].register(spec).unwrap());
    assert_eq!(shards[0].get(value, KeyRef::new(b"a")).unwrap(), Some(&b"a"[..]));
    shards[0].advance_watermark(1_499);
    assert_eq!(shards[0].get(value, KeyRef::new(b"a")).unwrap(), Some(&b"a"[..]));
    shards[0].advance_watermark(1_500);
    assert_eq!(shards[0].get(value, KeyRef::new(b"a")).unwrap(), None);
}
