//! The job: its shards, and operations whose answers are compared with the oracle.

use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alluvium::env::sim::SimRng;
use alluvium::env::{Env, RealEnv};
use alluvium::{
    Backend, KeyRef, KeyedStore, MaxParallelism, Shard, SnapshotHandle, StateId, StateSpec,
    TimeDomain, TimerSpec, TimerStore, TimersId, Ttl,
};

use crate::oracle::{
    CLOCK_TTL_MS, ENTRIES, Is, Kind, LONG_LIST, Now, Oracle, Span, Timed, group_of,
};

/// A shard, with what it gave.
#[derive(Debug)]
pub struct Running {
    pub shard: Shard,
    states: Vec<StateId>,
    timers: TimersId,
}

impl Running {
    fn id(&self, kind: Kind) -> StateId {
        self.states[kind as usize]
    }
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Job {
    pub shards: Vec<Running>,
}

/// What goes on from life to life.
#[derive(Debug)]
pub struct World {
    pub env: Arc<RealEnv>,
    pub began_ms: u64,
    pub rng: SimRng,
    /// Operations on one key so far: what event time goes by.
    pub operations: u32,
    /// Writes so far.
    written: u32,
    pub expired: u64,
    pub timers_fired: u64,
    pub answers: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let env = Arc::new(RealEnv::new());
        Self {
            began_ms: env.unix_time_ms(),
            env,
            rng: SimRng::new(seed),
            operations: 0,
            written: 0,
            expired: 0,
            timers_fired: 0,
            answers: 0,
        }
    }

    pub fn clock_ms(&self) -> u32 {
        (self.env.unix_time_ms().saturating_sub(self.began_ms)) as u32
    }

    pub fn now(&self, oracle: &Oracle) -> Now {
        Now { watermark: oracle.watermark, clock_ms: self.clock_ms() }
    }

    /// A number that no write had before.
    fn number(&mut self) -> u32 {
        self.written += 1;
        self.written
    }

    /// A key: any, one of those that are asked for often, or one of those that are
    /// asked for now.
    fn key(&mut self, keys: u32) -> u32 {
        let keys = u64::from(keys.max(1));
        let key = match self.rng.below(3) {
            0 => self.rng.below(keys),
            1 => {
                // Of probability 1 / rank, the ranks all over the keys.
                let of_one = self.rng.below(1 << 32) as f64 / (1_u64 << 32) as f64;
                let rank = (keys as f64).powf(of_one) as u64;
                rank.wrapping_mul(2_654_435_761) % keys
            }
            _ => (u64::from(self.operations / 16) + self.rng.below(keys / 50 + 1)) % keys,
        };
        key as u32
    }
}

fn key_ref(key: &[u8; 4]) -> KeyRef<'_> {
    KeyRef::in_group(group_of(u32::from_le_bytes(*key)), key)
}

impl Job {
    pub fn open(
        world: &World,
        dir: &Path,
        budget_bytes: u64,
        event_ttl: u32,
        handles: &[SnapshotHandle],
        parallelism: u32,
    ) -> Self {
        let backend = Backend::builder(dir.join("node"))
            .checkpoint_dir(dir.join("store"))
            .env(Arc::clone(&world.env) as Arc<dyn Env>)
            .memory_budget_bytes(budget_bytes)
            .open()
            .unwrap();
        let shards = (0..parallelism).map(|index| {
            let groups = MaxParallelism::DEFAULT.range_of_subtask(index, parallelism).unwrap();
            let builder = backend.shard("soak", groups).restore(handles.iter().cloned());
            let mut shard = builder.open().unwrap();
            let by_event = Ttl::after(Duration::from_millis(u64::from(event_ttl)));
            let by_clock = Ttl::after(Duration::from_millis(CLOCK_TTL_MS));
            let states = Kind::ALL.map(|kind| {
                let name = kind.name();
                let spec = match kind {
                    Kind::Values => StateSpec::value(name),
                    Kind::ByEvent => StateSpec::value(name).ttl(by_event.time(TimeDomain::Event)),
                    Kind::ByClock => StateSpec::value(name).ttl(by_clock),
                    Kind::Lists => StateSpec::list(name),
                    Kind::Maps => StateSpec::map(name),
                };
                shard.register(spec).unwrap()
            });
            let timers = shard.open_timers(TimerSpec::new("timers", TimeDomain::Event)).unwrap();
            Running { shard, states: states.to_vec(), timers }
        });
        Self { shards: shards.collect() }
    }

    fn owner(&mut self, key: u32) -> &mut Running {
        let group = group_of(key);
        let owner = self.shards.iter_mut().find(|running| running.shard.groups().contains(group));
        owner.expect("every group has a shard")
    }

    /// Some keys of one shard, which may be there twice.
    fn some_keys(&mut self, world: &mut World, keys: u32) -> (usize, Vec<[u8; 4]>) {
        let at = world.rng.below(self.shards.len() as u64) as usize;
        let groups = self.shards[at].shard.groups();
        let len = 8 + world.rng.below(40);
        let of_the_shard = |_| loop {
            let key = world.key(keys);
            if groups.contains(group_of(key)) {
                return key.to_le_bytes();
            }
        };
        (at, (0..len).map(of_the_shard).collect())
    }

    /// Gives every key of every state something.
    pub fn fill(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        step: &mut dyn FnMut(&mut Self),
    ) {
        for key in 0..oracle.sizes.values {
            self.put(world, oracle, key);
            if key % 10_000 == 0 {
                step(self);
            }
        }
        for key in 0..oracle.sizes.lists {
            while oracle.lists[key as usize].end < LONG_LIST / 2 {
                self.append(oracle, key, 8);
            }
            if key % 1_000 == 0 {
                step(self);
            }
        }
        for key in 0..oracle.sizes.maps {
            for entry in 0..ENTRIES * 2 / 3 {
                self.put_entry(world, oracle, key, entry);
            }
            if key % 1_000 == 0 {
                step(self);
            }
        }
    }

    /// Does a few things.
    pub fn operate(&mut self, world: &mut World, oracle: &mut Oracle) {
        let operations = match world.rng.below(100) {
            0..35 => self.update_many(world, oracle),
            35..55 => self.get_many(world, oracle),
            55..60 => self.one_value(world, oracle),
            60..70 => (0..8).map(|_| self.one_timed(world, oracle, Kind::ByEvent)).sum(),
            70..75 => (0..8).map(|_| self.one_timed(world, oracle, Kind::ByClock)).sum(),
            75..85 => (0..4).map(|_| self.one_list(world, oracle)).sum(),
            85..95 => (0..4).map(|_| self.one_map(world, oracle)).sum(),
            95..99 => (0..8).map(|_| self.one_timer(world, oracle)).sum(),
            _ => self.advance(world, oracle),
        };
        world.operations += operations;
    }

    fn put(&mut self, world: &mut World, oracle: &mut Oracle, key: u32) {
        let number = world.number();
        let running = self.owner(key);
        let id = running.id(Kind::Values);
        let value = Kind::Values.value(key, number);
        running.shard.put(id, key_ref(&key.to_le_bytes()), &value).unwrap();
        oracle.values[key as usize] = number;
    }

    fn update_many(&mut self, world: &mut World, oracle: &mut Oracle) -> u32 {
        let (at, keys) = self.some_keys(world, oracle.sizes.values);
        let refs: Vec<_> = keys.iter().map(key_ref).collect();
        let running = &mut self.shards[at];
        let id = running.id(Kind::Values);
        running
            .shard
            .update_many(id, &refs, &mut |at, value| {
                let key = u32::from_le_bytes(keys[at]);
                let known = &mut oracle.values[key as usize];
                assert_value(Kind::Values, key, *known, value.get());
                match world.rng.below(10) {
                    0 => (value.delete(), *known = 0).1,
                    1 => {}
                    _ => {
                        *known = world.number();
                        value.set(&Kind::Values.value(key, *known));
                    }
                }
            })
            .unwrap();
        world.answers += keys.len() as u64;
        keys.len() as u32
    }

    fn get_many(&mut self, world: &mut World, oracle: &Oracle) -> u32 {
        let (at, keys) = self.some_keys(world, oracle.sizes.values);
        self.check_values(at, &keys, oracle);
        world.answers += keys.len() as u64;
        keys.len() as u32
    }

    fn check_values(&mut self, at: usize, keys: &[[u8; 4]], oracle: &Oracle) {
        let refs: Vec<_> = keys.iter().map(key_ref).collect();
        let running = &mut self.shards[at];
        let id = running.id(Kind::Values);
        running
            .shard
            .get_many(id, &refs, &mut |at, found| {
                let key = u32::from_le_bytes(keys[at]);
                assert_value(Kind::Values, key, oracle.values[key as usize], found);
            })
            .unwrap();
    }

    fn one_value(&mut self, world: &mut World, oracle: &mut Oracle) -> u32 {
        let key = world.key(oracle.sizes.values);
        let bytes = key.to_le_bytes();
        match world.rng.below(4) {
            0 => self.put(world, oracle, key),
            1 => {
                let running = self.owner(key);
                let id = running.id(Kind::Values);
                running.shard.delete(id, key_ref(&bytes)).unwrap();
                oracle.values[key as usize] = 0;
            }
            _ => {
                let running = self.owner(key);
                let id = running.id(Kind::Values);
                let found = running.shard.get(id, key_ref(&bytes)).unwrap();
                assert_value(Kind::Values, key, oracle.values[key as usize], found);
                world.answers += 1;
            }
        }
        1
    }

    fn one_timed(&mut self, world: &mut World, oracle: &mut Oracle, kind: Kind) -> u32 {
        let keys = oracle.timed(kind).len() as u32;
        let key = world.key(keys);
        let bytes = key.to_le_bytes();
        let choice = world.rng.below(10);
        let number = world.number();
        let now = world.now(oracle);
        let running = self.owner(key);
        let id = running.id(kind);
        let at = if kind == Kind::ByEvent { now.watermark } else { now.clock_ms };
        match choice {
            0..6 => {
                running.shard.put(id, key_ref(&bytes), &kind.value(key, number)).unwrap();
                oracle.timed(kind)[key as usize] = Timed { number, at };
            }
            6 => {
                running.shard.delete(id, key_ref(&bytes)).unwrap();
                oracle.timed(kind)[key as usize] = Timed::default();
            }
            _ => {
                let found = running.shard.get(id, key_ref(&bytes)).unwrap();
                // Now, since that may have waited.
                let now = world.now(oracle);
                let timed = oracle.timed(kind)[key as usize];
                let expected = match oracle.is(kind, timed, now) {
                    Is::There => timed.number,
                    Is::Gone => 0,
                    Is::EitherWay => found.map_or(0, |_| timed.number),
                };
                assert_value(kind, key, expected, found);
                world.expired += u64::from(timed.number != 0 && expected == 0);
                world.answers += 1;
            }
        }
        1
    }

    fn append(&mut self, oracle: &mut Oracle, key: u32, count: u32) {
        let span = &mut oracle.lists[key as usize];
        let elements: Vec<_> =
            (span.end..span.end + count).map(|at| Kind::Lists.value(key, at)).collect();
        let elements: Vec<_> = elements.iter().map(Vec::as_slice).collect();
        let running = self.owner(key);
        let id = running.id(Kind::Lists);
        running.shard.list_append(id, key_ref(&key.to_le_bytes()), &elements).unwrap();
        span.end += count;
    }

    fn one_list(&mut self, world: &mut World, oracle: &mut Oracle) -> u32 {
        let key = world.key(oracle.sizes.lists);
        let span = oracle.lists[key as usize];
        match world.rng.below(10) {
            _ if span.end - span.first > LONG_LIST => self.replace(world, oracle, key),
            0..5 => self.append(oracle, key, world.rng.below(8) as u32),
            5 => {
                let running = self.owner(key);
                let id = running.id(Kind::Lists);
                running.shard.clear(id, key_ref(&key.to_le_bytes())).unwrap();
                oracle.lists[key as usize].first = span.end;
            }
            _ => {
                self.check_list(key, span);
                world.answers += 1;
            }
        }
        1
    }

    fn replace(&mut self, world: &mut World, oracle: &mut Oracle, key: u32) {
        let first = oracle.lists[key as usize].end;
        let end = first + world.rng.below(40) as u32;
        let elements: Vec<_> = (first..end).map(|at| Kind::Lists.value(key, at)).collect();
        let elements: Vec<_> = elements.iter().map(Vec::as_slice).collect();
        let running = self.owner(key);
        let id = running.id(Kind::Lists);
        running.shard.list_replace(id, key_ref(&key.to_le_bytes()), &elements).unwrap();
        oracle.lists[key as usize] = Span { first, end };
    }

    fn check_list(&mut self, key: u32, span: Span) {
        let running = self.owner(key);
        let id = running.id(Kind::Lists);
        let mut next = span.first;
        let visit = &mut |element: &[u8]| {
            assert!(next < span.end, "list {key}: more elements than {span:?}");
            assert_value(Kind::Lists, key, next, Some(element));
            next += 1;
        };
        running.shard.list_read(id, key_ref(&key.to_le_bytes()), visit).unwrap();
        assert_eq!(next, span.end, "list {key}: fewer elements than {span:?}");
    }

    fn put_entry(&mut self, world: &mut World, oracle: &mut Oracle, key: u32, entry: usize) {
        let number = world.number();
        let running = self.owner(key);
        let id = running.id(Kind::Maps);
        let value = Kind::Maps.value(key, number);
        running.shard.map_put(id, key_ref(&key.to_le_bytes()), &[entry as u8], &value).unwrap();
        oracle.maps[key as usize][entry] = number;
    }

    fn one_map(&mut self, world: &mut World, oracle: &mut Oracle) -> u32 {
        let key = world.key(oracle.sizes.maps);
        let bytes = key.to_le_bytes();
        let entry = world.rng.below(ENTRIES as u64) as usize;
        let choice = world.rng.below(40);
        if choice < 18 {
            self.put_entry(world, oracle, key, entry);
            return 1;
        }
        let running = self.owner(key);
        let id = running.id(Kind::Maps);
        let known = &mut oracle.maps[key as usize];
        match choice {
            18..24 => {
                running.shard.map_remove(id, key_ref(&bytes), &[entry as u8]).unwrap();
                known[entry] = 0;
            }
            24 => {
                running.shard.clear(id, key_ref(&bytes)).unwrap();
                *known = [0; ENTRIES];
            }
            25..30 => {
                let found = running.shard.map_get(id, key_ref(&bytes), &[entry as u8]).unwrap();
                assert_value(Kind::Maps, key, known[entry], found);
            }
            30..32 => {
                let empty = running.shard.map_is_empty(id, key_ref(&bytes)).unwrap();
                assert_eq!(empty, *known == [0; ENTRIES], "map {key}: {known:?}");
            }
            _ => self.check_map(key, &oracle.maps[key as usize]),
        }
        world.answers += u64::from(choice >= 25);
        1
    }

    fn check_map(&mut self, key: u32, known: &[u32; ENTRIES]) {
        let running = self.owner(key);
        let id = running.id(Kind::Maps);
        let mut found = [0; ENTRIES];
        let visit = &mut |entry: &[u8], value: &[u8]| {
            let entry = usize::from(entry[0]);
            assert_value(Kind::Maps, key, known[entry], Some(value));
            found[entry] = known[entry];
            ControlFlow::Continue(())
        };
        let from = Bound::Unbounded;
        running.shard.map_scan(id, key_ref(&key.to_le_bytes()), from, visit).unwrap();
        assert_eq!(found, *known, "map {key} as a whole");
    }

    fn one_timer(&mut self, world: &mut World, oracle: &mut Oracle) -> u32 {
        let some = oracle.timers.iter().nth(world.rng.below(20) as usize).copied();
        let full = oracle.timers.len() >= oracle.sizes.timers;
        match some {
            Some((time, key)) if full || world.rng.one_in(8) => {
                let running = self.owner(key);
                let timers = running.timers;
                let bytes = key.to_le_bytes();
                assert!(running.shard.delete_timer(timers, time, key_ref(&bytes)).unwrap());
                oracle.timers.remove(&(time, key));
            }
            _ => {
                let key = world.key(oracle.sizes.values);
                let within = 4 * oracle.sizes.values.max(1_000);
                let after = 1 + world.rng.below(u64::from(within));
                let time = i64::from(oracle.watermark) + after as i64;
                let running = self.owner(key);
                let timers = running.timers;
                let bytes = key.to_le_bytes();
                let new = running.shard.register_timer(timers, time, key_ref(&bytes)).unwrap();
                assert_eq!(new, oracle.timers.insert((time, key)), "timer {time} of key {key}");
            }
        }
        1
    }

    /// Event time goes on, and timers fire. What is written before there is any counts
    /// as written when it begins, so it begins at once.
    pub fn advance(&mut self, world: &mut World, oracle: &mut Oracle) -> u32 {
        oracle.watermark = world.operations;
        let now = i64::from(oracle.watermark);
        for running in &mut self.shards {
            running.shard.advance_watermark(now);
            let mut last = i64::MIN;
            let fire = &mut |timer: &alluvium::TimerRef<'_>| {
                let key = u32::from_le_bytes(timer.key.try_into().unwrap());
                let was_there = oracle.timers.remove(&(timer.timestamp, key));
                assert!(was_there, "timer {} of key {key} fired", timer.timestamp);
                assert!(last <= timer.timestamp && timer.timestamp <= now);
                last = timer.timestamp;
                Ok(())
            };
            while running.shard.pop_due(running.timers, now, fire).unwrap() {
                world.timers_fired += 1;
            }
        }
        let next = oracle.timers.first().map(|(time, _)| *time);
        assert!(next.is_none_or(|next| next > now), "a timer of {next:?} did not fire at {now}");
        1
    }

    /// Compares the keys that some states have with the oracle.
    pub fn check_keys(&mut self, oracle: &Oracle) {
        for kind in [Kind::Lists, Kind::Maps] {
            let mut found = vec![false; oracle.sizes.lists.max(oracle.sizes.maps) as usize];
            for running in &mut self.shards {
                let id = running.id(kind);
                let visit = &mut |_, key: &[u8], _: &[u8]| {
                    let key = u32::from_le_bytes(key.try_into().unwrap()) as usize;
                    assert!(!std::mem::replace(&mut found[key], true), "{kind:?} {key} twice");
                    ControlFlow::Continue(())
                };
                running.shard.visit_keys(id, None, visit).unwrap();
            }
            for (key, found) in found.into_iter().enumerate() {
                let expected = match kind {
                    Kind::Lists => oracle.lists.get(key).is_some_and(|span| span.first < span.end),
                    _ => oracle.maps.get(key).is_some_and(|map| *map != [0; ENTRIES]),
                };
                assert_eq!(found, expected, "whether {kind:?} has {key}");
            }
        }
    }

    /// Compares everything with the oracle.
    pub fn check_all(&mut self, world: &World, oracle: &mut Oracle) {
        for at in 0..self.shards.len() {
            let groups = self.shards[at].shard.groups();
            let keys = (0..oracle.sizes.values).filter(|&key| groups.contains(group_of(key)));
            let keys: Vec<_> = keys.map(u32::to_le_bytes).collect();
            for some in keys.chunks(256) {
                self.check_values(at, some, oracle);
            }
        }
        for kind in [Kind::ByEvent, Kind::ByClock] {
            for key in 0..oracle.timed(kind).len() as u32 {
                let running = self.owner(key);
                let id = running.id(kind);
                let found = running.shard.get(id, key_ref(&key.to_le_bytes())).unwrap();
                let timed = oracle.timed(kind)[key as usize];
                let expected = match oracle.is(kind, timed, world.now(oracle)) {
                    Is::There => timed.number,
                    Is::Gone => 0,
                    Is::EitherWay => found.map_or(0, |_| timed.number),
                };
                assert_value(kind, key, expected, found);
            }
        }
        for key in 0..oracle.sizes.lists {
            self.check_list(key, oracle.lists[key as usize]);
        }
        for key in 0..oracle.sizes.maps {
            self.check_map(key, &oracle.maps[key as usize]);
        }
        self.check_keys(oracle);
        let pending: u64 = self
            .shards
            .iter_mut()
            .map(|running| running.shard.pending_timers(running.timers).unwrap())
            .sum();
        assert_eq!(pending, oracle.timers.len() as u64, "pending timers");
    }
}

fn assert_value(kind: Kind, key: u32, number: u32, found: Option<&[u8]>) {
    // Elements of lists are numbered from 0 on.
    let expected = (number != 0 || kind == Kind::Lists).then(|| kind.value(key, number));
    assert!(
        found == expected.as_deref(),
        "{kind:?}, key {key}, write {number}: expected {:?}, found {:?}",
        expected.map(|value| (value.len(), value[..8].to_vec())),
        found.map(|value| (value.len(), value[..8.min(value.len())].to_vec())),
    );
}
