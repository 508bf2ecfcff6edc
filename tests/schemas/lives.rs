//! A state that lives on through five versions of its values.
//!
//! The oracle keeps, for each key, the number that was written and the version
//! that wrote it, and has a table of what any later version makes of that. It
//! shares no code with the chain of steps.

use std::collections::{BTreeMap, BTreeSet};

use alluvium::codec::{
    BytesCodec, Codec, Evolving, HasCodec, OptionCodec, Primitive, StringCodec, TupleCodec,
};
use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::{ErrorKind, Shard, SnapshotHandle};

use crate::common::{CHECKPOINTS, manifest_of, store_on};
use crate::{State, assert_says, backend_on, open, open_one, owns, register, settle, snapshot};

type Text = (String, u8);
type TextCodec = TupleCodec<(StringCodec, Primitive<u8>)>;
type Last = (i64, Vec<u8>);
type LastCodec = TupleCodec<(Primitive<i64>, BytesCodec)>;

/// What was written, and by which version.
type Written = (u32, u32);
type Model = BTreeMap<u64, Written>;

/// One version of the job: its type, its codec, what it writes for a number,
/// and what it should read of what was written earlier.
trait Version {
    const NUMBER: u32;
    type Value: PartialEq + std::fmt::Debug + 'static;
    fn codec() -> impl Codec<Self::Value>;
    fn of(written: Written) -> Self::Value;
}

fn mark((version, _): Written) -> u8 {
    match version {
        1 | 2 => 2,
        3 => 3,
        _ => 4,
    }
}

struct V1;
impl Version for V1 {
    const NUMBER: u32 = 1;
    type Value = u32;
    fn codec() -> impl Codec<u32> {
        Primitive::<u32>::default()
    }
    fn of((_, number): Written) -> u32 {
        number
    }
}

struct V2;
impl Version for V2 {
    const NUMBER: u32 = 2;
    type Value = String;
    fn codec() -> impl Codec<String> {
        Evolving::new(StringCodec).older(Primitive::<u32>::default(), |number| number.to_string())
    }
    fn of((_, number): Written) -> String {
        format!("{number}")
    }
}

struct V3;
impl Version for V3 {
    const NUMBER: u32 = 3;
    type Value = Text;
    fn codec() -> impl Codec<Text> {
        Evolving::new(TextCodec::default()).older(V2::codec(), |text| (text, 2))
    }
    fn of(written: Written) -> Text {
        (format!("{}", written.1), mark(written))
    }
}

struct V4;
impl Version for V4 {
    const NUMBER: u32 = 4;
    type Value = Option<Text>;
    fn codec() -> impl Codec<Option<Text>> {
        // Written out instead of nested, so that both ways are tested.
        Evolving::new(OptionCodec(TextCodec::default()))
            .older(TextCodec::default(), Some)
            .older(StringCodec, |text| (text, 2))
            .older(Primitive::<u32>::default(), |number| number.to_string())
    }
    fn of(written: Written) -> Option<Text> {
        Some((format!("{}", written.1), mark(written)))
    }
}

struct V5;
impl Version for V5 {
    const NUMBER: u32 = 5;
    type Value = Last;
    fn codec() -> impl Codec<Last> {
        Evolving::new(LastCodec::default()).older(V4::codec(), |text| {
            let (text, mark) = text.expect("version 4 wrote no None");
            (-text.parse::<i64>().expect("a number"), vec![mark])
        })
    }
    fn of(written: Written) -> Last {
        match written {
            (5, number) => (i64::from(number), b"five".to_vec()),
            (_, number) => (-i64::from(number), vec![mark(written)]),
        }
    }
}

const KEYS: u64 = 120;

struct Job {
    env: SimEnv,
    rng: SimRng,
    model: Model,
    /// What the state `left alone` holds.
    left_alone: Model,
    handles: Vec<SnapshotHandle>,
    next_id: u64,
}

impl Job {
    fn new(seed: u64) -> Self {
        Self {
            env: SimEnv::new(seed),
            rng: SimRng::new(seed),
            model: Model::new(),
            left_alone: Model::new(),
            handles: Vec::new(),
            next_id: 1,
        }
    }

    /// One life: restore on some number of shards, read and write a part, take
    /// snapshots in between.
    fn live<V: Version>(&mut self) {
        let backend = backend_on(&self.env)
            .max_tables_per_shard(1 + self.rng.below(5) as usize)
            .warm_up(self.rng.one_in(2))
            .open()
            .unwrap();
        let parallelism = 1 + self.rng.below(4) as u32;
        let mut shards: Vec<_> = open(&backend, parallelism, &self.handles)
            .into_iter()
            .map(|shard| (shard, None))
            .collect();
        for _ in 0..1 + self.rng.below(3) {
            for (shard, state) in &mut shards {
                // A shard may take a snapshot before it asks for its state.
                if state.is_none() && !self.rng.one_in(3) {
                    *state = Some(register(shard, "evolving", V::codec()).unwrap());
                }
                let Some(state) = state else { continue };
                for _ in 0..self.rng.below(40) {
                    let key = self.rng.below(KEYS);
                    if owns(shard, key) {
                        self.step::<V, _>(shard, state, key);
                    }
                    if self.rng.one_in(10) {
                        backend.run_background();
                    }
                }
            }
            let id = self.next_id;
            self.next_id += 1;
            self.handles = shards.iter_mut().map(|(shard, _)| snapshot(shard, id)).collect();
            self.check_handles();
            if self.rng.one_in(2) {
                settle(&backend);
            }
        }
        // The whole of it, sometimes.
        if self.rng.one_in(3) {
            for (shard, state) in &mut shards {
                let state =
                    state.get_or_insert_with(|| register(shard, "evolving", V::codec()).unwrap());
                for key in (0..KEYS).filter(|&key| owns(shard, key)).collect::<Vec<_>>() {
                    self.check::<V, _>(shard, state, key);
                }
            }
        }
    }

    fn step<V: Version, C: Codec<V::Value>>(
        &mut self,
        shard: &mut Shard,
        state: &State<V::Value, C>,
        key: u64,
    ) {
        let written = (V::NUMBER, self.rng.below(1_000_000) as u32);
        match self.rng.below(6) {
            0 | 1 => self.check::<V, _>(shard, state, key),
            2 => {
                state.put(shard, &key, &V::of(written)).unwrap();
                self.model.insert(key, written);
            }
            3 => {
                state.delete(shard, &key).unwrap();
                self.model.remove(&key);
            }
            4 => {
                let before = self.model.get(&key).map(|&written| V::of(written));
                let change = |value| {
                    assert_eq!(value, before, "key {key} in version {}", V::NUMBER);
                    Some(V::of(written))
                };
                state.update(shard, &key, change).unwrap();
                self.model.insert(key, written);
            }
            _ => {
                let keys: Vec<u64> = (key..key + 9).filter(|&key| owns(shard, key)).collect();
                let found = state.get_many(shard, &keys).unwrap();
                for (key, found) in keys.iter().zip(found) {
                    assert_eq!(found, self.model.get(key).map(|&written| V::of(written)), "{key}");
                }
            }
        }
    }

    fn check<V: Version, C: Codec<V::Value>>(
        &self,
        shard: &mut Shard,
        state: &State<V::Value, C>,
        key: u64,
    ) {
        let found = state.get(shard, &key).unwrap();
        let expected = self.model.get(&key).map(|&written| V::of(written));
        assert_eq!(found, expected, "key {key} in version {}", V::NUMBER);
    }

    /// A manifest knows what all its tables name, and `left alone` is what it was.
    fn check_handles(&self) {
        let store = store_on(&self.env, CHECKPOINTS).unwrap();
        for handle in &self.handles {
            let manifest = manifest_of(&store, handle).unwrap();
            let mut known = BTreeSet::new();
            for state in &manifest.states {
                known.extend(state.value_schemas().map(|schema| schema.fingerprint()));
                if state.name == "left alone" {
                    assert_eq!(state.value_schema, V1::codec().schema());
                    assert!(state.older_value_schemas.is_empty());
                }
            }
            for table in &manifest.tables {
                let bytes = alluvium::SnapshotSource::open(&store, &table.location).unwrap();
                let table = alluvium::table::TableReader::open(bytes, &table.meta).unwrap();
                for state in table.states() {
                    assert!(known.contains(&state.value_schema), "{state:?}");
                }
            }
        }
    }

    fn read_left_alone(&mut self) {
        let backend = backend_on(&self.env).open().unwrap();
        let mut shard = open_one(&backend, &self.handles);
        let state = register(&mut shard, "left alone", V1::codec()).unwrap();
        for key in 0..KEYS {
            let expected = self.left_alone.get(&key).map(|&written| V1::of(written));
            assert_eq!(state.get(&mut shard, &key).unwrap(), expected, "key {key}");
        }
    }
}

#[test]
fn five_versions_in_many_lives_read_as_the_oracle_says() {
    for seed in 0..60 {
        let _naming = Naming(seed);
        let mut job = Job::new(seed);
        {
            let backend = backend_on(&job.env).open().unwrap();
            let mut shard = open_one(&backend, &[]);
            let state = register(&mut shard, "left alone", V1::codec()).unwrap();
            for key in (0..KEYS).step_by(3) {
                state.put(&mut shard, &key, &(key as u32)).unwrap();
                job.left_alone.insert(key, (1, key as u32));
            }
            job.handles = vec![snapshot(&mut shard, 1)];
            job.next_id = 2;
        }
        for version in 1..=5 {
            // Some versions are never deployed, some restarted.
            for _ in 0..job.rng.below(3) {
                match version {
                    1 => job.live::<V1>(),
                    2 => job.live::<V2>(),
                    3 => job.live::<V3>(),
                    4 => job.live::<V4>(),
                    _ => job.live::<V5>(),
                }
            }
        }
        job.live::<V5>();
        job.read_left_alone();
    }
}

/// Names the seed of a run that fails.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} failed", self.0);
        }
    }
}

/// Writes version 1 of ten keys, with two snapshots, and gives the second.
fn version_1(env: &SimEnv) -> SnapshotHandle {
    let backend = backend_on(env).open().unwrap();
    let mut shard = open_one(&backend, &[]);
    let state = register(&mut shard, "evolving", V1::codec()).unwrap();
    for key in 0..5 {
        state.put(&mut shard, &key, &(10 + key as u32)).unwrap();
    }
    snapshot(&mut shard, 1);
    for key in 5..10 {
        state.put(&mut shard, &key, &(10 + key as u32)).unwrap();
    }
    snapshot(&mut shard, 2)
}

#[test]
fn reading_alone_writes_nothing_anew_and_changing_does() {
    let env = SimEnv::new(1);
    let first = version_1(&env);
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let state = register(&mut shard, "evolving", V2::codec()).unwrap();
    assert!(crate::warm_up(&backend, &mut shard));
    assert_eq!(state.get(&mut shard, &3).unwrap(), Some("13".to_owned()));
    assert_eq!(shard.stats().dirty_records, 0);
    state.put(&mut shard, &3, &"x".to_owned()).unwrap();
    assert_eq!(shard.stats().dirty_records, 1);
    let handle = snapshot(&mut shard, 3);
    let store = store_on(&env, CHECKPOINTS).unwrap();
    let manifest = manifest_of(&store, &handle).unwrap();
    assert_eq!(manifest.states[0].value_schema, V2::codec().schema());
    assert_eq!(manifest.states[0].older_value_schemas, [V1::codec().schema()]);
    assert_eq!(manifest.tables.len(), 3);
}

#[test]
fn merges_migrate_and_then_the_old_codec_is_no_longer_needed() {
    let env = SimEnv::new(1);
    let first = version_1(&env);
    let mut handles = vec![first];
    for (life, tables) in [(0, 100), (1, 1)] {
        let backend = backend_on(&env).max_tables_per_shard(tables).open().unwrap();
        let mut shard = open_one(&backend, &handles);
        // While a table of version 1 is left, a codec that knows it is needed.
        let error = register(&mut shard, "evolving", StringCodec).unwrap_err();
        assert_says(&error, ErrorKind::Incompatible, &["\"evolving\"", "u32", "string"]);
        let state = register(&mut shard, "evolving", V2::codec()).unwrap();
        state.put(&mut shard, &(20 + life), &"new".to_owned()).unwrap();
        snapshot(&mut shard, 10);
        settle(&backend);
        handles = vec![snapshot(&mut shard, 11)];
    }
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &handles);
    assert_eq!(shard.stats().tables, 1);
    let state = register(&mut shard, "evolving", StringCodec).unwrap();
    for key in 0..10 {
        assert_eq!(state.get(&mut shard, &key).unwrap(), Some(format!("{}", 10 + key)));
    }
    let handle = snapshot(&mut shard, 1);
    let store = store_on(&env, CHECKPOINTS).unwrap();
    assert!(manifest_of(&store, &handle).unwrap().states[0].older_value_schemas.is_empty());
}

#[test]
fn versions_of_a_state_that_nobody_asks_for_are_not_merged_with_each_other() {
    let env = SimEnv::new(1);
    let first = version_1(&env);
    let backend = backend_on(&env).max_tables_per_shard(100).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let state = register(&mut shard, "evolving", V2::codec()).unwrap();
    for key in 8..13 {
        state.put(&mut shard, &key, &"two".to_owned()).unwrap();
    }
    let second = snapshot(&mut shard, 3);
    drop((shard, backend));

    let backend = backend_on(&env).max_tables_per_shard(1).open().unwrap();
    let mut shard = open_one(&backend, &[second]);
    let other = register(&mut shard, "other", StringCodec).unwrap();
    let mut last = None;
    for id in 4..10 {
        other.put(&mut shard, &id, &"other".to_owned()).unwrap();
        last = Some(snapshot(&mut shard, id));
        settle(&backend);
    }
    // Two of version 1, which nothing can be merged with from above, and one of
    // all that came later.
    assert_eq!(shard.stats().tables, 3);
    drop((shard, backend));

    let backend = backend_on(&env).max_tables_per_shard(1).open().unwrap();
    let mut shard = open_one(&backend, &[last.unwrap()]);
    let state = register(&mut shard, "evolving", V3::codec()).unwrap();
    for key in 0..13 {
        let text = if key < 8 { format!("{}", 10 + key) } else { "two".to_owned() };
        assert_eq!(state.get(&mut shard, &key).unwrap(), Some((text, 2)), "key {key}");
    }
    state.put(&mut shard, &20, &("20".to_owned(), 3)).unwrap();
    snapshot(&mut shard, 11);
    settle(&backend);
    assert_eq!(shard.stats().tables, 1, "now there is a codec that brings them together");
}

#[test]
fn a_chain_of_a_hundred_steps_is_walked() {
    let env = SimEnv::new(1);
    let first = version_1(&env);
    #[derive(Clone)]
    struct Step(u32);
    impl Codec<u32> for Step {
        fn id(&self) -> alluvium::codec::CodecId {
            match self.0 {
                0 => <u32 as HasCodec>::Codec::default().id(),
                version => alluvium::codec::CodecId::new("step", version),
            }
        }
        fn encode(&self, value: &u32, out: &mut Vec<u8>) -> alluvium::Result<()> {
            Primitive::<u32>::default().encode(value, out)
        }
        fn decode(&self, bytes: &[u8]) -> alluvium::Result<u32> {
            Primitive::<u32>::default().decode(bytes)
        }
    }
    let mut chain = Evolving::new(Step(100));
    for version in (0..100).rev() {
        chain = chain.older(Step(version), |value| value + 1);
    }
    let backend = backend_on(&env).open().unwrap();
    let mut shard = open_one(&backend, &[first]);
    let state = register(&mut shard, "evolving", chain).unwrap();
    assert_eq!(state.get(&mut shard, &4).unwrap(), Some(114));
}
