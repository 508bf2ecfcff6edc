//! Random lives beside a plain model.
//!
//! The model knows of each thing that was written when its stamp is, or between
//! which moments it lies where a life without time to live came in between; and
//! whether it had ever expired by what the clock said at some moment. Such a thing
//! may have been removed, so if the clock jumps back it may be there or not: what
//! a read says decides. All else must be exactly as the model has it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, ControlFlow};

use alluvium::env::sim::SimRng;
use alluvium::{
    KeyRef, KeyedStore, Shard, SnapshotHandle, StateId, StateKind, StateSpec, TimeDomain, Ttl,
    TtlUpdate, TtlVisibility,
};

use crate::job::{DAY_MS, Job, specs, ttl};

const SEEDS: u64 = 60;
const KEYS: u64 = 6;
const ENTRIES: u64 = 5;
const STEPS: u64 = 350;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// Names the seed of a life that fails.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} failed; ALLUVIUM_SEED={0} replays it", self.0);
        }
    }
}

#[test]
fn every_life_of_values_that_expire_is_as_the_model_allows() {
    let seeds = match number_from("ALLUVIUM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("ALLUVIUM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let _naming = Naming(seed);
        Life::new(seed).run();
    }
}

/// Something that was written.
#[derive(Clone)]
struct Cell {
    value: Vec<u8>,
    /// Its stamp is not before and not after these; `None` before any watermark.
    oldest: Option<i64>,
    newest: Option<i64>,
    /// It may have been removed.
    doomed: bool,
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u64::from_be_bytes(*self.value.first_chunk().unwrap());
        let Self { oldest, newest, doomed, .. } = self;
        write!(f, "#{number} from {oldest:?} to {newest:?}, doomed: {doomed}")
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    There,
    Gone,
    EitherWay,
}

fn all_of(cells: &[(Vec<u8>, Cell)]) -> Vec<&Cell> {
    cells.iter().map(|(_, cell)| cell).collect()
}

/// What one state holds: by key, then by entry, or in the order of a list.
type Cells = BTreeMap<Vec<u8>, Vec<(Vec<u8>, Cell)>>;

#[derive(Clone)]
struct Model {
    states: [Cells; 3],
    /// Whether the last life had a time to live, and since when.
    timed: bool,
    since: Option<i64>,
}

struct Taken {
    handles: Vec<SnapshotHandle>,
    model: Model,
    watermark: Option<i64>,
}

struct Life {
    rng: SimRng,
    job: Job,
    time: TimeDomain,
    ttl: Option<Ttl>,
    model: Model,
    watermark: Option<i64>,
    taken: Vec<Taken>,
    written: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = SimRng::new(seed);
        let job = Job::with_tables(rng.one_in(2), 1 + rng.below(4) as usize);
        let time = if rng.one_in(2) { TimeDomain::Event } else { TimeDomain::Processing };
        let model = Model { states: Default::default(), timed: false, since: None };
        let mut life = Self {
            rng,
            job,
            time,
            ttl: None,
            model,
            watermark: None,
            taken: Vec::new(),
            written: 0,
        };
        life.begin();
        life
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            match self.rng.below(40) {
                0..=3 => self.pass(),
                4 => self.snapshot(),
                5 if self.rng.one_in(2) => self.restore(),
                6 => {
                    self.job.backend.run_background();
                }
                7 => {
                    for shard in &mut self.job.shards {
                        let _ = shard.expire(5).unwrap();
                    }
                }
                8 => self.keys(),
                9..=24 => self.change(),
                _ => self.look(),
            }
        }
        self.keys();
    }

    fn now(&self) -> Option<i64> {
        match self.time {
            TimeDomain::Processing => Some(self.job.now_ms()),
            TimeDomain::Event => self.watermark,
        }
    }

    fn duration(&self) -> Option<i64> {
        self.ttl.map(|ttl| ttl.duration().as_millis() as i64)
    }

    /// Begins a life with a time to live, or none.
    fn begin(&mut self) {
        let on = !self.rng.one_in(4);
        let durations = [200, 1000, 20_000];
        let update =
            [TtlUpdate::OnCreateAndWrite, TtlUpdate::OnReadAndWrite][self.rng.below(2) as usize];
        let visibility = if self.rng.one_in(4) {
            TtlVisibility::ReturnExpiredIfNotCleanedUp
        } else {
            TtlVisibility::NeverReturnExpired
        };
        self.ttl = on.then(|| {
            ttl(durations[self.rng.below(3) as usize])
                .update(update)
                .visibility(visibility)
                .time(self.time)
        });
        for at in 0..self.job.shards.len() {
            for spec in specs(self.ttl) {
                self.job.shards[at].register(spec).unwrap();
            }
        }
        let now = self.now();
        if on && !self.model.timed {
            // What has no stamp counts as written now; what kept one, as then.
            self.model.since = now;
            self.each(|cell| {
                (cell.oldest, cell.newest) = (cell.oldest.min(now), cell.newest.max(now));
            });
        }
        self.model.timed = on;
        self.doom();
    }

    fn each(&mut self, mut change: impl FnMut(&mut Cell)) {
        for cells in &mut self.model.states {
            cells.values_mut().flatten().for_each(|(_, cell)| change(cell));
        }
    }

    fn expired(&self, stamp: Option<i64>) -> bool {
        let (Some(duration), Some(now)) = (self.duration(), self.now()) else { return false };
        let stamp = match self.time {
            TimeDomain::Processing => stamp.unwrap_or(i64::MIN),
            TimeDomain::Event => match self.model.since {
                Some(since) => stamp.unwrap_or(i64::MIN).max(since),
                None => return false,
            },
        };
        stamp.saturating_add(duration) <= now
    }

    fn is(&self, cell: &Cell) -> Is {
        let shown = self
            .ttl
            .is_some_and(|ttl| ttl.visibility_type() == TtlVisibility::ReturnExpiredIfNotCleanedUp);
        if self.expired(cell.newest) {
            return if shown { Is::EitherWay } else { Is::Gone };
        }
        if cell.doomed || self.expired(cell.oldest) { Is::EitherWay } else { Is::There }
    }

    /// Notes what has expired by now.
    fn doom(&mut self) {
        let mut states = std::mem::take(&mut self.model.states);
        for cells in &mut states {
            for (_, cell) in cells.values_mut().flatten() {
                cell.doomed |= self.expired(cell.oldest);
            }
        }
        self.model.states = states;
    }

    fn pass(&mut self) {
        let by = match self.rng.below(12) {
            0 => 30 * DAY_MS,
            1 => -30 * DAY_MS,
            2..=6 => self.rng.below(400) as i64,
            _ => self.rng.below(3000) as i64,
        };
        match self.time {
            TimeDomain::Processing => self.job.pass_ms(by),
            TimeDomain::Event => {
                let to = self.watermark.unwrap_or(5_000).saturating_add(by / 10);
                self.job.come_to(TimeDomain::Event, to);
                if self.watermark.is_none() && self.ttl.is_some() && self.model.since.is_none() {
                    self.model.since = Some(to);
                }
                self.watermark = self.watermark.max(Some(to));
            }
        }
        self.doom();
    }

    fn snapshot(&mut self) {
        self.doom();
        if self.rng.one_in(3) {
            // One that comes to nothing.
            let handles = self.job.snapshot();
            drop(handles);
            return;
        }
        let handles = self.job.snapshot();
        self.doom();
        self.taken.push(Taken { handles, model: self.model.clone(), watermark: self.watermark });
    }

    fn restore(&mut self) {
        let Some(last) = self.taken.len().checked_sub(1) else { return };
        let at = if self.rng.one_in(4) { self.rng.below(last as u64 + 1) as usize } else { last };
        self.taken.truncate(at + 1);
        let Taken { handles, model, watermark } = &self.taken[at];
        let shards = 1 + self.rng.below(3) as u32;
        let handles = handles.clone();
        (self.model, self.watermark) = (model.clone(), *watermark);
        self.job.restore(&handles, shards);
        self.begin();
        if self.rng.one_in(3) {
            while self.job.backend.run_background() {}
            for shard in &mut self.job.shards {
                shard.warm_up(20).unwrap();
            }
        }
    }

    fn key(&mut self) -> Vec<u8> {
        vec![b'k', self.rng.below(KEYS) as u8]
    }

    fn entry(&mut self) -> Vec<u8> {
        vec![self.rng.below(ENTRIES) as u8; 1 + self.rng.below(2) as usize]
    }

    fn value(&mut self) -> Vec<u8> {
        self.written += 1;
        let longest = if self.rng.one_in(10) { 3000 } else { 20 };
        let mut value = self.written.to_be_bytes().to_vec();
        value.resize(8 + self.rng.below(longest) as usize, 7);
        value
    }

    fn fresh(&self, value: &[u8]) -> Cell {
        let now = self.now();
        Cell { value: value.to_vec(), oldest: now, newest: now, doomed: false }
    }

    /// A state, and the shard that has a key of it.
    fn on(&mut self, state: usize, key: &[u8]) -> (&mut Shard, StateId) {
        let spec = specs(self.ttl)[state].clone();
        let shard = self.job.shard_of(KeyRef::new(key));
        let id = shard.register(spec).unwrap();
        (shard, id)
    }

    fn change(&mut self) {
        let key = self.key();
        let value = self.value();
        let fresh = self.fresh(&value);
        let kind = self.rng.below(3) as usize;
        let what = self.rng.below(10);
        let entry = self.entry();
        let several: Vec<Vec<u8>> = (0..self.rng.below(4)).map(|_| self.value()).collect();
        let (shard, state) = self.on(kind, &key);
        let at = KeyRef::new(&key);
        if what == 0 {
            shard.clear(state, at).unwrap();
            self.model.states[kind].remove(&key);
            return;
        }
        match kind {
            0 if what == 1 => {
                shard.delete(state, at).unwrap();
                self.model.states[0].remove(&key);
            }
            0 if what < 5 => {
                shard.put(state, at, &value).unwrap();
                self.model.states[0].insert(key, vec![(Vec::new(), fresh)]);
            }
            0 => {
                let mut seen = None;
                shard
                    .update_many(state, &[at], &mut |_, entry| {
                        seen = entry.get().map(<[u8]>::to_vec);
                        entry.set(&value);
                    })
                    .unwrap();
                self.found(0, &key, &[], seen);
                let fresh = self.fresh(&value);
                self.model.states[0].insert(key, vec![(Vec::new(), fresh)]);
            }
            1 if what < 3 => {
                let elements: Vec<&[u8]> = several.iter().map(|element| &**element).collect();
                shard.list_replace(state, at, &elements).unwrap();
                let cells = several.iter().map(|element| (element.clone(), self.fresh(element)));
                let cells: Vec<_> = cells.collect();
                self.model.states[1].insert(key, cells);
            }
            1 => {
                shard.list_append(state, at, &[&value]).unwrap();
                self.model.states[1].entry(key).or_default().push((value, fresh));
            }
            _ if what < 3 => {
                shard.map_remove(state, at, &entry).unwrap();
                if let Some(cells) = self.model.states[2].get_mut(&key) {
                    cells.retain(|(name, _)| *name != entry);
                }
            }
            _ => {
                shard.map_put(state, at, &entry, &value).unwrap();
                let cells = self.model.states[2].entry(key).or_default();
                cells.retain(|(name, _)| *name != entry);
                cells.push((entry, fresh));
                cells.sort_by(|a, b| a.0.cmp(&b.0));
            }
        }
    }

    /// A read said this of one cell: it may, and now it is known.
    fn found(&mut self, state: usize, key: &[u8], name: &[u8], seen: Option<Vec<u8>>) {
        let now = self.now();
        let cells = self.model.states[state].get(key);
        let Some(at) = cells.and_then(|cells| cells.iter().position(|(found, _)| found == name))
        else {
            assert_eq!(seen, None, "state {state}, {key:?}, {name:?}: it was never written");
            return;
        };
        let cell = cells.unwrap()[at].1.clone();
        let is = self.is(&cell);
        let what = || format!("state {state}, {key:?}, {cell:?} at {now:?}, {:?}", self.ttl);
        match (&seen, is) {
            (Some(seen), Is::There | Is::EitherWay) => assert_eq!(*seen, cell.value, "{}", what()),
            (None, Is::Gone | Is::EitherWay) => {}
            (seen, _) => panic!("{}: {is:?}, and a read says {seen:?}", what()),
        }
        let renews = self.ttl.is_some_and(|ttl| ttl.update_type() == TtlUpdate::OnReadAndWrite);
        let surely_live = !self.expired(cell.oldest);
        let surely_expired = self.expired(cell.newest);
        let cells = self.model.states[state].get_mut(key).unwrap();
        if seen.is_none() {
            // Hidden, or removed; if the clock goes back it may be there.
            cells[at].1.doomed = true;
        } else if renews && surely_live {
            (cells[at].1.oldest, cells[at].1.newest) = (now, now);
            cells[at].1.doomed = false;
        } else if renews && !surely_expired {
            cells[at].1.newest = now;
        }
    }

    fn look(&mut self) {
        let key = self.key();
        let kind = self.rng.below(3) as usize;
        let entry = self.entry();
        let what = self.rng.below(4);
        let (shard, state) = self.on(kind, &key);
        let at = KeyRef::new(&key);
        match kind {
            0 if what == 0 => {
                let mut seen = None;
                shard
                    .get_many(state, &[at], &mut |_, value| seen = value.map(<[u8]>::to_vec))
                    .unwrap();
                self.found(0, &key, &[], seen);
            }
            0 => {
                let seen = shard.get(state, at).unwrap().map(<[u8]>::to_vec);
                self.found(0, &key, &[], seen);
            }
            1 => {
                let mut seen = Vec::new();
                shard.list_read(state, at, &mut |element| seen.push(element.to_vec())).unwrap();
                let names = self.model.states[1].get(&key).cloned().unwrap_or_default();
                let order: Vec<_> =
                    names.iter().map(|(name, _)| name).filter(|name| seen.contains(name)).collect();
                assert_eq!(order, seen.iter().collect::<Vec<_>>(), "the elements of {key:?}");
                for (name, _) in names {
                    let element = seen.contains(&name).then(|| name.clone());
                    self.found(1, &key, &name, element);
                }
            }
            _ if what == 0 => {
                let seen = shard.map_get(state, at, &entry).unwrap().map(<[u8]>::to_vec);
                self.found(2, &key, &entry, seen);
            }
            _ if what == 1 => {
                let empty = shard.map_is_empty(state, at).unwrap();
                self.check_there(2, &key, !empty);
            }
            _ => {
                let mut seen = BTreeMap::new();
                shard
                    .map_scan(state, at, Bound::Unbounded, &mut |entry, value| {
                        assert!(
                            seen.last_key_value()
                                .is_none_or(|(last, _): (&Vec<u8>, _)| { **last < *entry })
                        );
                        seen.insert(entry.to_vec(), value.to_vec());
                        ControlFlow::Continue(())
                    })
                    .unwrap();
                let names = self.model.states[2].get(&key).cloned().unwrap_or_default();
                for name in seen.keys() {
                    assert!(names.iter().any(|(known, _)| known == name), "{key:?} {name:?}");
                }
                for (name, _) in names {
                    let value = seen.get(&name).cloned();
                    self.found(2, &key, &name, value);
                }
            }
        }
    }

    /// Whether a state holds anything for a key.
    fn check_there(&self, state: usize, key: &[u8], there: bool) {
        let cells = self.model.states[state].get(key).map_or(&[][..], |cells| cells);
        let all: Vec<Is> = cells.iter().map(|(_, cell)| self.is(cell)).collect();
        if there {
            assert!(
                all.iter().any(|is| *is != Is::Gone),
                "state {state}, {key:?}: {:?}",
                all_of(cells)
            );
        } else {
            assert!(!all.contains(&Is::There), "state {state}, {key:?}: {:?}", all_of(cells));
        }
    }

    fn keys(&mut self) {
        for (number, spec) in specs(self.ttl).into_iter().enumerate() {
            let found = self.visited(&spec);
            for key in (0..KEYS).map(|key| vec![b'k', key as u8]) {
                self.check_there(number, &key, found.contains(&key));
            }
            assert!(found.is_sorted_by(|a, b| a < b), "each once: {found:?}");
            assert!(spec.kind() != StateKind::Timers);
        }
    }

    fn visited(&mut self, spec: &StateSpec) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for shard in &mut self.job.shards {
            let state = shard.register(spec.clone()).unwrap();
            shard
                .visit_keys(state, None, &mut |_, key, _| {
                    found.push(key.to_vec());
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
        found.sort();
        found
    }
}
