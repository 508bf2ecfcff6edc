//! Random lives of a job whose shards hold lists, maps and values.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::{
    Backend, KeyGroup, KeyRef, KeyedStore, MaxParallelism, Shard, SnapshotHandle, SnapshotId,
    SnapshotTicket, StateId, StateSpec,
};

const GROUPS: u32 = 16;
const KEYS: u64 = 6;
const NAMESPACES: u64 = 3;
const STEPS: usize = 260;

type Bytes = Vec<u8>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    List,
    Map,
    Value,
}

const STATES: [(&str, Kind); 5] = [
    ("lists", Kind::List),
    ("maps", Kind::Map),
    ("more lists", Kind::List),
    ("more maps", Kind::Map),
    ("values", Kind::Value),
];

/// What a job must hold under a state and the number of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Held {
    List(Vec<Bytes>),
    Map(BTreeMap<Bytes, Bytes>),
    Value(Bytes),
}

type Model = BTreeMap<(usize, u64), Held>;

struct Key {
    group: Option<KeyGroup>,
    key: Bytes,
    namespace: Bytes,
}

impl Key {
    /// Every third comes in a group of the runtime's choice.
    fn new(number: u64) -> Self {
        let (key, namespace) = (number % KEYS, number / KEYS);
        let group = (key % 3 == 2).then(|| KeyGroup((key * 5 % u64::from(GROUPS)) as u16));
        let key = if key == 0 { Vec::new() } else { format!("key {key}").into_bytes() };
        // Namespaces that end as the names of a map's records might.
        let namespace = [vec![], vec![0], vec![0, 0, 0, 0, 0, 2]][namespace as usize].clone();
        Self { group, key, namespace }
    }

    fn at(&self) -> KeyRef<'_> {
        let key = match self.group {
            Some(group) => KeyRef::in_group(group, &self.key),
            None => KeyRef::new(&self.key),
        };
        key.namespace(&self.namespace)
    }

    fn group(&self) -> KeyGroup {
        self.at().locate(MaxParallelism::new(GROUPS).unwrap()).0
    }
}

struct Checkpoint {
    id: u64,
    tickets: Vec<SnapshotTicket>,
    handles: Option<Vec<SnapshotHandle>>,
    model: Model,
}

struct Life {
    rng: SimRng,
    backend: Backend,
    shards: Vec<(Shard, Vec<StateId>)>,
    model: Model,
    checkpoints: Vec<Checkpoint>,
    next_id: u64,
    steps: u64,
}

pub fn run(seed: u64) -> u64 {
    let mut rng = SimRng::new(seed);
    let env = SimEnv::new(rng.next_u64());
    let backend = Backend::builder("/node/state")
        .checkpoint_dir("/shared/checkpoints")
        .env(Arc::new(env))
        .background_threads(0)
        .max_parallelism(MaxParallelism::new(GROUPS).unwrap())
        .max_tables_per_shard(1 + rng.below(6) as usize)
        .warm_up(!rng.one_in(4))
        .open()
        .unwrap();
    let mut life = Life {
        rng,
        backend,
        shards: Vec::new(),
        model: Model::new(),
        checkpoints: Vec::new(),
        next_id: 1,
        steps: 0,
    };
    let parallelism = 1 + life.rng.below(4) as u32;
    life.open(parallelism, &[]);
    for _ in 0..STEPS {
        life.step();
    }
    life.check_all();
    life.barrier();
    life.restart();
    life.check_all();
    life.steps
}

impl Life {
    fn open(&mut self, parallelism: u32, handles: &[SnapshotHandle]) {
        let max = self.backend.max_parallelism();
        self.shards = (0..parallelism)
            .map(|index| {
                let groups = max.range_of_subtask(index, parallelism).unwrap();
                let builder = self.backend.shard("op", groups).restore(handles.iter().cloned());
                let mut shard = builder.open().unwrap();
                let ids = STATES
                    .iter()
                    .map(|&(name, kind)| {
                        let spec = match kind {
                            Kind::List => StateSpec::list(name),
                            Kind::Map => StateSpec::map(name),
                            Kind::Value => StateSpec::value(name),
                        };
                        shard.register(spec).unwrap()
                    })
                    .collect();
                (shard, ids)
            })
            .collect();
    }

    fn step(&mut self) {
        self.steps += 1;
        match self.rng.below(40) {
            0..=27 => self.operate(),
            28..=30 => {
                self.backend.run_background();
            }
            31 => while self.backend.run_background() {},
            32 | 33 => self.barrier(),
            34 => self.settle_some(),
            35 => {
                let records = 1 + self.rng.below(5) as usize;
                for (shard, _) in &mut self.shards {
                    shard.warm_up(records).unwrap();
                }
            }
            36 if self.rng.one_in(3) => self.restart(),
            37 => self.check_keys(),
            38 if self.rng.one_in(4) => self.check_all(),
            _ => {
                let state = self.rng.below(STATES.len() as u64) as usize;
                let number = self.rng.below(KEYS * NAMESPACES);
                self.check(state, number);
            }
        }
    }

    fn bytes(&mut self) -> Bytes {
        let longest = [1, 12, 12, 300, 3000][self.rng.below(5) as usize];
        let mut bytes = vec![0; self.rng.below(longest) as usize];
        self.rng.fill(&mut bytes);
        bytes
    }

    fn operate(&mut self) {
        let state = self.rng.below(STATES.len() as u64) as usize;
        let number = self.rng.below(KEYS * NAMESPACES);
        let at = Key::new(number);
        let owner = self.shards.iter().position(|(shard, _)| shard.groups().contains(at.group()));
        let owner = owner.expect("every group has a shard");
        let id = self.shards[owner].1[state];
        if self.rng.one_in(12) {
            self.shards[owner].0.clear(id, at.at()).unwrap();
            self.model.remove(&(state, number));
            return;
        }
        match STATES[state].1 {
            Kind::Value => {
                let value = self.bytes();
                self.shards[owner].0.put(id, at.at(), &value).unwrap();
                self.model.insert((state, number), Held::Value(value));
            }
            Kind::List => {
                let replaces = self.rng.one_in(8);
                let count = if self.rng.one_in(10) { 60 } else { 4 };
                let count = self.rng.below(count);
                let elements: Vec<Bytes> = (0..count).map(|_| self.bytes()).collect();
                let slices: Vec<&[u8]> = elements.iter().map(|element| &**element).collect();
                let shard = &mut self.shards[owner].0;
                if replaces {
                    shard.list_replace(id, at.at(), &slices).unwrap();
                    self.model.remove(&(state, number));
                } else {
                    shard.list_append(id, at.at(), &slices).unwrap();
                }
                if elements.is_empty() {
                    return;
                }
                let held = self.model.entry((state, number)).or_insert(Held::List(vec![]));
                let Held::List(list) = held else { panic!("a list") };
                list.extend(elements);
            }
            Kind::Map => {
                let count = if self.rng.one_in(8) { self.rng.below(400) } else { 3 };
                let of = [10, 60, 2000][self.rng.below(3) as usize];
                let removes = self.rng.below(4);
                let mut map = match self.model.remove(&(state, number)) {
                    None => BTreeMap::new(),
                    Some(Held::Map(map)) => map,
                    Some(other) => panic!("{other:?} is no map"),
                };
                for _ in 0..count {
                    let mut entry = entry_of(&mut self.rng, of);
                    if self.rng.below(4) < removes {
                        if let Some(known) = map.range(entry.clone()..).next() {
                            entry = known.0.clone();
                        }
                        self.shards[owner].0.map_remove(id, at.at(), &entry).unwrap();
                        map.remove(&entry);
                    } else {
                        let value = self.bytes();
                        self.shards[owner].0.map_put(id, at.at(), &entry, &value).unwrap();
                        map.insert(entry, value);
                    }
                }
                if !map.is_empty() {
                    self.model.insert((state, number), Held::Map(map));
                }
            }
        }
    }

    fn barrier(&mut self) {
        // A barrier that does not come to all shards is given up.
        if self.rng.one_in(4) {
            let alone = self.rng.below(self.shards.len() as u64) as usize;
            let id = SnapshotId(self.next_id);
            let (shard, _) = &mut self.shards[alone];
            drop(shard.snapshot(id, b"").unwrap());
            shard.notify_aborted(id);
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        let take = |(shard, _): &mut (Shard, _)| shard.snapshot(SnapshotId(id), b"").unwrap();
        let tickets = self.shards.iter_mut().map(take).collect();
        let model = self.model.clone();
        self.checkpoints.push(Checkpoint { id, tickets, handles: None, model });
    }

    /// Completes the oldest open checkpoint, or gives it up.
    fn settle_some(&mut self) {
        let Some(at) = self.checkpoints.iter().position(|point| point.handles.is_none()) else {
            return;
        };
        if self.rng.one_in(4) {
            let given_up = self.checkpoints.remove(at);
            let cancels = self.rng.one_in(2);
            for (ticket, (shard, _)) in given_up.tickets.iter().zip(&mut self.shards) {
                if cancels {
                    ticket.cancel();
                }
                shard.notify_aborted(SnapshotId(given_up.id));
            }
            return;
        }
        self.complete(at);
    }

    fn complete(&mut self, at: usize) {
        let point = &mut self.checkpoints[at];
        let handles = point.tickets.iter().map(|ticket| ticket.wait().unwrap().handle).collect();
        point.handles = Some(handles);
        for (shard, _) in &mut self.shards {
            shard.notify_complete(SnapshotId(point.id));
        }
    }

    /// Goes on from a completed checkpoint, on another number of shards.
    fn restart(&mut self) {
        if self.rng.one_in(2)
            && let Some(at) = self.checkpoints.iter().rposition(|point| point.handles.is_none())
        {
            self.complete(at);
        }
        let completed: Vec<usize> = (0..self.checkpoints.len())
            .filter(|&at| self.checkpoints[at].handles.is_some())
            .collect();
        let Some(&newest) = completed.last() else { return };
        let any = completed[self.rng.below(completed.len() as u64) as usize];
        let at = if self.rng.one_in(3) { any } else { newest };
        self.shards.clear();
        let handles = self.checkpoints[at].handles.clone().expect("it is completed");
        self.model = self.checkpoints[at].model.clone();
        self.checkpoints.retain(|point| point.handles.is_some());
        let parallelism = 1 + self.rng.below(4) as u32;
        self.open(parallelism, &handles);
    }

    fn check_all(&mut self) {
        for state in 0..STATES.len() {
            for number in 0..KEYS * NAMESPACES {
                self.check(state, number);
            }
        }
        self.check_keys();
    }

    fn check(&mut self, state: usize, number: u64) {
        let at = Key::new(number);
        let expected = self.model.get(&(state, number));
        let shard = self.shards.iter_mut().find(|(shard, _)| shard.groups().contains(at.group()));
        let (shard, ids) = shard.expect("every group has a shard");
        let id = ids[state];
        let name = STATES[state].0;
        match STATES[state].1 {
            Kind::Value => {
                let found = shard.get(id, at.at()).unwrap().map(<[u8]>::to_vec).map(Held::Value);
                assert!(found.as_ref() == expected, "value {number}");
            }
            Kind::List => {
                let mut found = Vec::new();
                shard.list_read(id, at.at(), &mut |element| found.push(element.to_vec())).unwrap();
                let found = (!found.is_empty()).then_some(Held::List(found));
                assert!(found.as_ref() == expected, "{name}: {number}: {found:?}\n{expected:?}");
            }
            Kind::Map => {
                let nothing = BTreeMap::new();
                let expected = match expected {
                    None => &nothing,
                    Some(Held::Map(map)) => map,
                    Some(other) => panic!("{other:?} is no map"),
                };
                let entry = entry_of(&mut self.rng, 60);
                let found = shard.map_get(id, at.at(), &entry).unwrap().map(<[u8]>::to_vec);
                assert_eq!(found.as_ref(), expected.get(&entry), "{name}: {number}");
                assert_eq!(shard.map_is_empty(id, at.at()).unwrap(), expected.is_empty());
                let from = match self.rng.below(4) {
                    0 => Bound::Included(&*entry),
                    1 => Bound::Excluded(&*entry),
                    _ => Bound::Unbounded,
                };
                let most =
                    if self.rng.one_in(3) { self.rng.below(20) as usize } else { usize::MAX };
                let wanted: Vec<(Bytes, Bytes)> = expected
                    .range::<[u8], _>((from, Bound::Unbounded))
                    .take(most.max(1))
                    .map(|(entry, value)| (entry.clone(), value.clone()))
                    .collect();
                let mut found = Vec::new();
                shard
                    .map_scan(id, at.at(), from, &mut |entry, value| {
                        found.push((entry.to_vec(), value.to_vec()));
                        if found.len() >= most {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        }
                    })
                    .unwrap();
                assert!(found == wanted, "{name}: {number} from {from:?}");
            }
        }
    }

    /// Compares the keys of every state, all of them and those of a namespace.
    fn check_keys(&mut self) {
        for state in 0..STATES.len() {
            let wanted = Key::new(self.rng.below(KEYS * NAMESPACES)).namespace;
            let wanted = self.rng.one_in(2).then_some(wanted);
            let mut found = Vec::new();
            for (shard, ids) in &mut self.shards {
                shard
                    .visit_keys(ids[state], wanted.as_deref(), &mut |group, key, namespace| {
                        found.push((group, key.to_vec(), namespace.to_vec()));
                        ControlFlow::Continue(())
                    })
                    .unwrap();
            }
            let mut expected: Vec<_> = (0..KEYS * NAMESPACES)
                .filter(|&number| self.model.contains_key(&(state, number)))
                .map(Key::new)
                .filter(|key| wanted.as_ref().is_none_or(|wanted| *wanted == key.namespace))
                .map(|key| (key.group(), key.key, key.namespace))
                .collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "the keys of {:?}", STATES[state].0);
        }
    }
}

fn entry_of(rng: &mut SimRng, of: u64) -> Bytes {
    let number = rng.below(of);
    match number % 7 {
        0 => vec![0; (number / 7 % 20) as usize],
        1 => number.to_le_bytes()[..(number % 5) as usize].to_vec(),
        _ => format!("entry {number:05}").into_bytes(),
    }
}
