//! The stores that Alluvium is compared with answer as one of its shards does.

#![allow(clippy::disallowed_methods, reason = "the seed comes from the real clock")]

use std::ops::{Bound, ControlFlow};

use alluvium::{
    Backend, KeyRef, MaxParallelism, StateSpec, TimeDomain, TimerSpec, TimerStore, ValueMut,
};
use nexmark_comparison::record::mixed;
use nexmark_comparison::stores::map::MapStore;

const STEPS: u64 = 20_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = mixed(self.0, 3);
        self.0 % bound
    }

    /// Up to three bytes, of which there are few.
    fn bytes(&mut self) -> Vec<u8> {
        let len = self.below(4);
        (0..len).map(|_| self.below(3) as u8).collect()
    }
}

/// What a store says to one random call after the other; the calls follow from the seed.
fn answers(store: &mut dyn TimerStore, seed: u64) -> Vec<String> {
    let mut random = Random(seed);
    let values = store.register(StateSpec::value("values")).unwrap();
    let lists = store.register(StateSpec::list("lists")).unwrap();
    let maps = store.register(StateSpec::map("maps")).unwrap();
    let timers = store.open_timers(TimerSpec::new("timers", TimeDomain::Event)).unwrap();
    assert_eq!(store.register(StateSpec::list("lists")).unwrap(), lists);
    let mut now = 0;
    let mut said = Vec::new();
    for step in 0..STEPS {
        let (key, namespace) = ([random.below(12) as u8, 7], random.bytes());
        let key = KeyRef::new(&key).namespace(&namespace);
        let (one, other) = (random.bytes(), random.bytes());
        let mut seen = Vec::new();
        let call = random.below(19);
        match call {
            0 => store.put(values, key, &one).unwrap(),
            1 => store.delete(values, key).unwrap(),
            2 => seen.push(format!("{:?}", store.get(values, key).unwrap())),
            3 | 4 => {
                let change = &mut |value: &mut ValueMut<'_>| {
                    seen.push(format!("{:?} in {:?}", value.get(), value.key_group()));
                    match one.len() {
                        0 => value.delete(),
                        1 => value.bytes_mut().into_iter().flatten().for_each(|byte| *byte += 1),
                        _ => value.set(&one),
                    }
                };
                store.update(values, key, change).unwrap();
            }
            5 | 6 => store.list_append(lists, key, &[&one, &other]).unwrap(),
            7 => store.list_replace(lists, key, &[&one]).unwrap(),
            8 => store.list_replace(lists, key, &[]).unwrap(),
            9 => {
                store.list_read(lists, key, &mut |e| seen.push(format!("{e:?}"))).unwrap();
            }
            10 | 11 => store.map_put(maps, key, &one, &other).unwrap(),
            12 => store.map_remove(maps, key, &one).unwrap(),
            13 => seen.push(format!("{:?}", store.map_get(maps, key, &one).unwrap())),
            14 => {
                seen.push(format!("{}", store.map_is_empty(maps, key).unwrap()));
                let from = match other.len() {
                    0 => Bound::Unbounded,
                    1 => Bound::Excluded(&one[..]),
                    _ => Bound::Included(&one[..]),
                };
                let visit = &mut |entry: &[u8], value: &[u8]| {
                    seen.push(format!("{entry:?} {value:?}"));
                    if seen.len() > 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                store.map_scan(maps, key, from, visit).unwrap();
            }
            15 => {
                let of = [values, lists, maps][random.below(3) as usize];
                store.clear(of, key).unwrap();
            }
            16 | 17 => {
                let at = now + random.below(400) as i64 - 20;
                let outcome = match random.below(5) {
                    0 => store.delete_timer(timers, at, key),
                    _ => store.register_timer(timers, at, key),
                };
                seen.push(format!("{:?}", outcome.map_err(|error| error.kind())));
            }
            _ => {
                now += random.below(8) as i64;
                let mut due = Vec::new();
                while store
                    .pop_due(timers, now, &mut |timer| {
                        due.push(format!("{timer:?}"));
                        Ok(())
                    })
                    .unwrap()
                {}
                // Those of one time come in any order.
                due.sort();
                seen.extend(due);
                seen.push(format!("{:?}", store.next_timer(timers).unwrap()));
                seen.push(format!("{:?}", store.pending_timers(timers).unwrap()));
            }
        }
        if step % 1_000 == 999 {
            for state in [values, lists, maps] {
                let mut keys = Vec::new();
                let within = (step % 2_000 == 999).then_some(&[1][..]);
                store
                    .visit_keys(state, within, &mut |group, key, namespace| {
                        keys.push(format!("{group:?} {key:?} {namespace:?}"));
                        ControlFlow::Continue(())
                    })
                    .unwrap();
                keys.sort();
                seen.extend(keys);
            }
        }
        said.push(format!("step {step}, call {call}: {seen:?}"));
    }
    said
}

#[track_caller]
fn compare(expected: &[String], found: &[String]) {
    assert_eq!(expected.len(), found.len());
    for (expected, found) in expected.iter().zip(found) {
        assert_eq!(expected, found);
    }
}

#[test]
fn stores_that_are_compared_answer_as_a_shard_does() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 % 1_000_000;
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::builder(dir.path().join("alluvium")).open().unwrap();
    let max = MaxParallelism::DEFAULT;
    let mut shard = backend.shard("shard", max.all_groups()).open().unwrap();
    let expected = answers(&mut shard, seed);
    compare(&expected, &answers(&mut MapStore::new(max), seed));
    #[cfg(feature = "rocksdb")]
    {
        let rocks = nexmark_comparison::stores::rocksdb::Rocks::new(dir.path(), Some(16 << 20));
        compare(&expected, &answers(&mut rocks.open(max).unwrap(), seed));
    }
}
