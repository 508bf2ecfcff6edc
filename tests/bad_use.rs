//! Whatever is wrong with a call on a state, the error says which state it was
//! about, and the state is as it was: at the level of bytes and typed, whether
//! the record lies at hand, is of an earlier epoch, in a table, or nowhere.

mod common;

use std::ops::{Bound, ControlFlow};

use alluvium::codec::{Codec, CodecId, Primitive};
use alluvium::env::SimEnv;
use alluvium::{
    Backend, Error, ErrorKind, KeyGroup, KeyRef, KeyedStore, ReducingState, Result, Shard,
    SnapshotHandle, SnapshotId, StateId, StateKind, StateSpec, TimeDomain, TimerSpec, TimerStore,
    Timers, TimersId, ValueState,
};

use common::{Keyspace, OPERATOR, backend_on, group_of, range_of};

const MAX: u32 = 128;
const KINDS: [fn(&str) -> StateSpec; 5] = [
    StateSpec::value,
    StateSpec::list,
    StateSpec::map,
    StateSpec::reducing,
    StateSpec::aggregating,
];
const NAMES: [&str; 5] = ["the value", "the list", "the map", "the minimum", "the mean"];

fn backend(env: &SimEnv) -> Backend {
    let builder = backend_on(env, &Keyspace::new(MAX, [""; 0])).warm_up(false);
    builder.open().unwrap()
}

fn open(backend: &Backend, handles: &[SnapshotHandle]) -> Shard {
    let shard = backend.shard(OPERATOR, range_of(0, 2, MAX));
    shard.restore(handles.iter().cloned()).open().unwrap()
}

fn snapshot(shard: &mut Shard, id: u64) -> SnapshotHandle {
    shard.snapshot(SnapshotId(id), b"").unwrap().wait().unwrap().handle
}

/// Keys of the shard, or of the other one.
fn keys(ours: bool) -> impl Iterator<Item = [u8; 2]> {
    (0..u16::MAX).map(u16::to_be_bytes).filter(move |key| (group_of(key, MAX) < 64) == ours)
}

fn fill(shard: &mut Shard, ids: &[StateId], timers: TimersId, key: KeyRef<'_>) {
    for (id, kind) in ids.iter().zip(KINDS) {
        match kind("a").kind() {
            StateKind::List => shard.list_append(*id, key, &[b"old", b"older"]).unwrap(),
            StateKind::Map => shard.map_put(*id, key, b"entry", b"old").unwrap(),
            _ => shard.put(*id, key, b"old").unwrap(),
        }
    }
    shard.register_timer(timers, 100, key).unwrap();
}

/// All that the states hold for a key.
fn held(shard: &mut Shard, ids: &[StateId], timers: TimersId, key: KeyRef<'_>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (id, kind) in ids.iter().zip(KINDS) {
        all.push(b"|".to_vec());
        match kind("a").kind() {
            StateKind::List => {
                shard.list_read(*id, key, &mut |element| all.push(element.to_vec())).unwrap();
            }
            StateKind::Map => shard
                .map_scan(*id, key, Bound::Unbounded, &mut |entry, value| {
                    all.push([entry, b"=", value].concat());
                    ControlFlow::Continue(())
                })
                .unwrap(),
            _ => all.extend(shard.get(*id, key).unwrap().map(<[u8]>::to_vec)),
        }
    }
    all.push(shard.pending_timers(timers).unwrap().to_string().into_bytes());
    all.push(format!("{:?}", shard.next_timer(timers).unwrap()).into_bytes());
    all
}

type Failures = Vec<(&'static str, ErrorKind, Option<Error>)>;

/// Every call of the kind, with a key that is no good.
fn with_bad_key(shard: &mut Shard, ids: &[StateId], timers: TimersId, key: KeyRef<'_>) -> Failures {
    let mut failures = Failures::new();
    for ((&id, kind), name) in ids.iter().zip(KINDS).zip(NAMES) {
        let never = "called for a key that is refused";
        let mut say = |done: Result<()>| failures.push((name, ErrorKind::Invalid, done.err()));
        match kind("a").kind() {
            StateKind::List => {
                say(shard.list_append(id, key, &[b"new"]));
                say(shard.list_read(id, key, &mut |_| panic!("{never}")));
                say(shard.list_replace(id, key, &[b"new"]));
            }
            StateKind::Map => {
                say(shard.map_get(id, key, b"entry").map(drop));
                say(shard.map_put(id, key, b"entry", b"new"));
                say(shard.map_remove(id, key, b"entry"));
                say(shard.map_scan(id, key, Bound::Unbounded, &mut |_, _| panic!("{never}")));
                say(shard.map_is_empty(id, key).map(drop));
            }
            _ => {
                say(shard.get(id, key).map(drop));
                say(shard.put(id, key, b"new"));
                say(shard.delete(id, key));
                say(shard.update(id, key, &mut |_| panic!("{never}")));
                say(shard.get_many(id, &[key], &mut |_, _| panic!("{never}")));
                say(shard.update_many(id, &[key], &mut |_, _| panic!("{never}")));
            }
        }
        say(shard.clear(id, key));
    }
    let done =
        [shard.register_timer(timers, 50, key).err(), shard.delete_timer(timers, 100, key).err()];
    failures.extend(done.map(|error| ("the timers", ErrorKind::Invalid, error)));
    failures
}

/// Calls with a good key that must fail all the same.
fn with_bad_arguments(
    shard: &mut Shard,
    ids: &[StateId],
    timers: TimersId,
    key: KeyRef<'_>,
    long: &[u8],
) -> Failures {
    let [value, list, map, minimum, mean] = *ids else { panic!("five kinds") };
    let entry = &long[..(64 << 10) + 1];
    let of_values = |shard: &mut Shard, id| {
        [
            shard.put(id, key, long),
            shard.update(id, key, &mut |value| value.set(long)),
            shard.update_many(id, &[key], &mut |_, value| value.set(long)),
            shard.list_append(id, key, &[b"new"]),
            shard.map_put(id, key, b"entry", b"new"),
            shard.map_is_empty(id, key).map(drop),
        ]
    };
    let mut all = Vec::new();
    for (name, id) in [("the value", value), ("the minimum", minimum), ("the mean", mean)] {
        all.extend(of_values(shard, id).map(|done| (name, done)));
    }
    let of_list = [
        shard.list_append(list, key, &[b"new", long]),
        shard.list_replace(list, key, &[b"new", long]),
        shard.put(list, key, b"new"),
        shard.get(list, key).map(drop),
        shard.update(list, key, &mut |value| value.set(b"new")),
        shard.map_put(list, key, b"entry", b"new"),
    ];
    all.extend(of_list.map(|done| ("the list", done)));
    let of_map = [
        shard.map_put(map, key, b"entry", long),
        shard.map_put(map, key, entry, b"new"),
        shard.delete(map, key),
        shard.list_replace(map, key, &[b"new"]),
    ];
    all.extend(of_map.map(|done| ("the map", done)));
    let too_long = key.namespace(&entry[..(64 << 10) - 7]);
    let mut failures: Failures =
        all.into_iter().map(|(name, done)| (name, ErrorKind::Invalid, done.err())).collect();
    failures.push((
        "the timers",
        ErrorKind::Invalid,
        shard.register_timer(timers, 50, too_long).err(),
    ));
    // Registered as what they are not.
    for (number, name) in NAMES.iter().enumerate() {
        let other = KINDS[(number + 1) % 5](name);
        failures.push((name, ErrorKind::Incompatible, shard.register(other).err()));
        let keyed = KINDS[number](name).key_codec(CodecId::new("another", 1));
        failures.push((name, ErrorKind::Incompatible, shard.register(keyed).err()));
        let timers = TimerSpec::new(name, TimeDomain::Event);
        failures.push((name, ErrorKind::Incompatible, shard.open_timers(timers).err()));
    }
    let other = TimerSpec::new("the timers", TimeDomain::Processing);
    failures.push(("the timers", ErrorKind::Incompatible, shard.open_timers(other).err()));
    failures
}

fn assert_all_fail(failures: Failures) {
    for (number, (name, kind, error)) in failures.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("call {number} on {name:?} succeeds"));
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        assert_eq!(text.matches(&format!("{name:?}")).count(), 1, "call {number}: {text}");
    }
}

#[test]
fn calls_on_bytes_name_the_state_and_leave_it_as_it_was() {
    let env = SimEnv::new(1);
    let shared = backend(&env);
    let mut ours = keys(true);
    let [at_hand, earlier, in_table, nowhere] = [(); 4].map(|()| ours.next().unwrap());
    let theirs = keys(false).next().unwrap();
    // Never touched, so it takes no memory.
    let long = vec![0; (1 << 30) + 1];
    let mut handles = Vec::new();
    for life in 0..3_u64 {
        let mut shard = open(&shared, &handles);
        let ids: Vec<StateId> = KINDS
            .iter()
            .zip(NAMES)
            .map(|(kind, name)| shard.register(kind(name)).unwrap())
            .collect();
        let timers = shard.open_timers(TimerSpec::new("the timers", TimeDomain::Event)).unwrap();
        if life == 0 {
            fill(&mut shard, &ids, timers, KeyRef::new(&in_table));
        } else {
            fill(&mut shard, &ids, timers, KeyRef::new(&earlier));
            snapshot(&mut shard, 10 * life);
            fill(&mut shard, &ids, timers, KeyRef::new(&at_hand));
        }
        let all = [at_hand, earlier, in_table, nowhere];
        let read = |shard: &mut Shard| all.map(|key| held(shard, &ids, timers, KeyRef::new(&key)));
        let bad_keys = [
            KeyRef::new(&theirs),
            KeyRef::in_group(KeyGroup(64), b"k"),
            KeyRef::in_group(KeyGroup(0), &long[..(64 << 10) + 1]),
            KeyRef::in_group(KeyGroup(0), b"k").namespace(&long[..(64 << 10) + 1]),
        ];
        for key in bad_keys {
            assert_all_fail(with_bad_key(&mut shard, &ids, timers, key));
        }
        for key in all {
            let key = KeyRef::new(&key);
            assert_all_fail(with_bad_arguments(&mut shard, &ids, timers, key, &long));
        }
        let before = read(&mut shard);
        let dirty = shard.stats().dirty_records;
        for key in bad_keys {
            assert_all_fail(with_bad_key(&mut shard, &ids, timers, key));
        }
        for key in all {
            let key = KeyRef::new(&key);
            assert_all_fail(with_bad_arguments(&mut shard, &ids, timers, key, &long));
        }
        // A watermark refuses what it has passed, whatever is there.
        shard.pop_due(timers, 99, &mut |_| panic!("none is due")).unwrap();
        for key in all {
            for time in [99, 98, i64::MIN] {
                let error = shard.register_timer(timers, time, KeyRef::new(&key)).err();
                assert_all_fail(vec![("the timers", ErrorKind::Invalid, error)]);
            }
        }
        assert_eq!(read(&mut shard), before, "life {life}");
        assert_eq!(shard.stats().dirty_records, dirty, "nothing was touched");
        let filled = |key: [u8; 2]| life > 0 && key != nowhere || key == in_table;
        for (key, held) in all.iter().zip(&before) {
            assert_eq!(held.contains(&b"old".to_vec()), filled(*key), "life {life}, {key:?}");
        }
        handles = vec![snapshot(&mut shard, 10 * life + 5)];
    }
}

/// Numbers that are refused, or make it panic, when they are encoded (1 and 2)
/// or decoded (3 and 4).
#[derive(Clone)]
struct Touchy(&'static str);

impl Codec<u64> for Touchy {
    fn id(&self) -> CodecId {
        CodecId::new(self.0, 1)
    }

    fn encode(&self, value: &u64, out: &mut Vec<u8>) -> Result<()> {
        match value {
            1 => return Err(Error::invalid("one is refused")),
            2 => panic!("two is too much"),
            _ => out.extend_from_slice(&value.to_be_bytes()),
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<u64> {
        match u64::from_be_bytes(bytes.try_into().expect("eight bytes")) {
            3 => Err(Error::corrupt("three is refused")),
            4 => panic!("four is too much"),
            value => Ok(value),
        }
    }
}

/// An error that names the state once and says what happened.
fn assert_tells<T>(name: &str, done: Result<T>, fact: &str) {
    let Err(error) = done else { panic!("{name}: it should say {fact:?}") };
    let text = error.to_string();
    assert_eq!(text.matches(&format!("{name:?}")).count(), 1, "{text}");
    assert!(text.contains(fact), "{fact:?} is missing in: {text}");
}

#[test]
fn codecs_and_functions_that_fail_are_told_with_the_state_which_is_as_it_was() {
    let env = SimEnv::new(1);
    let backend = backend_on(&env, &Keyspace::new(MAX, [""; 0])).open().unwrap();
    let mut shard = backend.shard(OPERATOR, range_of(0, 1, MAX)).open().unwrap();
    let shard = &mut shard;
    let (key, unit) = (Touchy("touchy key"), Primitive::<()>::default());
    let values: ValueState<u64, u64, (), Touchy, Touchy, Primitive<()>> =
        ValueState::with_codecs(shard, "the value", key.clone(), unit, Touchy("v")).unwrap();
    let reduce = |a: u64, b: u64| if b == 9 { panic!("nine is too much") } else { a.min(b) };
    let least: ReducingState<u64, u64, (), Touchy, Touchy, Primitive<()>> =
        ReducingState::with_codecs(shard, "the least", key.clone(), unit, Touchy("v"), reduce)
            .unwrap();
    let timers: Timers<u64, u64, Touchy, Touchy> = Timers::with_codecs(
        shard,
        "the timers",
        TimeDomain::Processing,
        key.clone(),
        Touchy("touchy namespace"),
    )
    .unwrap();
    values.put(shard, &10, &20).unwrap();
    least.add(shard, &10, 20).unwrap();
    timers.register_in(shard, &10, &20, 100).unwrap();
    let dirty = shard.stats().dirty_records;

    for (number, fact) in [(1, "one is refused"), (2, "two is too much")] {
        assert_tells("the value", values.get(shard, &number), fact);
        assert_tells("the value", values.put(shard, &number, &5), fact);
        assert_tells("the value", values.put(shard, &10, &number), fact);
        assert_tells("the value", values.update(shard, &10, |_| Some(number)), fact);
        assert_tells("the value", values.update_many(shard, &[10], |_, _| Some(number)), fact);
        assert_tells("the value", values.get_many(shard, &[10, number]), fact);
        assert_tells("the value", values.delete(shard, &number), fact);
        assert_tells("the value", values.clear(shard, &number), fact);
        assert_tells("the least", least.add(shard, &number, 5), fact);
        assert_tells("the least", least.add(shard, &10, number), fact);
        assert_tells("the timers", timers.register_in(shard, &number, &5, 50), fact);
        assert_tells("the timers", timers.register_in(shard, &10, &number, 50), fact);
        assert_tells("the timers", timers.delete_in(shard, &10, &number, 100), fact);
    }
    assert_tells("the least", least.add(shard, &10, 9), "nine is too much");
    assert_eq!(shard.stats().dirty_records, dirty);

    for (number, fact) in [(3, "three is refused"), (4, "four is too much")] {
        values.put(shard, &number, &number).unwrap();
        assert_tells("the value", values.get(shard, &number), fact);
        assert_tells("the value", values.update(shard, &number, |_| None), fact);
        assert_tells("the value", values.keys(shard), fact);
        let raw = shard.get(values.id(), KeyRef::new(&number.to_be_bytes())).unwrap();
        assert_eq!(raw, Some(&number.to_be_bytes()[..]));
        values.delete(shard, &number).unwrap();
        timers.register_in(shard, &number, &20, 10).unwrap();
        assert_tells("the timers", timers.pop_due(shard, 10), fact);
        assert_eq!(timers.pending(shard).unwrap(), 2, "it is not lost");
        assert!(timers.delete_in(shard, &number, &20, 10).unwrap());
    }
    assert_eq!(values.get(shard, &10).unwrap(), Some(20));
    assert_eq!(least.get(shard, &10).unwrap(), Some(20));
    assert_eq!(timers.pop_due(shard, 100).unwrap().unwrap().key, 10);
}
