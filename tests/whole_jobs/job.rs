//! A job of two operators with values, timers and operator states, and what it should
//! hold.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use alluvium::coordinator::{
    CheckpointSettings, ClaimMode, Coordinator, Event, Participant, RestoreFrom,
};
use alluvium::env::RealEnv;
use alluvium::format::{Checkpoint, ShardAck};
use alluvium::object::{LocalStore, ObjectStore, open_url};
use alluvium::savepoint::NativeSavepoint;
use alluvium::{
    Backend, BackendBuilder, KeyGroup, MaxParallelism, OperatorListState, Shard, SnapshotId,
    SnapshotSource, Timers, ValueState,
};

pub(crate) const OPERATORS: [&str; 2] = ["counts", "marks"];
pub(crate) const MAX: MaxParallelism = MaxParallelism::DEFAULT;

pub(crate) fn store(dir: &Path) -> Arc<dyn ObjectStore> {
    Arc::new(LocalStore::open(Arc::new(RealEnv::new()), dir.to_owned()).unwrap())
}

pub(crate) fn coordinator(store: &Arc<dyn ObjectStore>, job: &str, retained: usize) -> Coordinator {
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = None;
    settings.retained = retained;
    Coordinator::builder(Arc::clone(store), job).settings(settings).open().unwrap()
}

/// The key group of a key: the low half of its hash, scaled.
pub(crate) fn group(key: u64) -> KeyGroup {
    let low = xxhash_rust::xxh3::xxh3_64(&key.to_be_bytes()) & 0xffff_ffff;
    KeyGroup(((low * u64::from(MAX.get())) >> 32) as u16)
}

/// The shards of one operator.
pub(crate) struct Subtasks {
    pub(crate) shards: Vec<Shard>,
    pub(crate) values: ValueState<u64, u64>,
    timers: Timers<u64>,
    pub(crate) list: OperatorListState<u64>,
}

impl Subtasks {
    fn open(
        backend: &Backend,
        operator: &str,
        parallelism: u32,
        from: Option<(&Checkpoint, Option<Arc<dyn SnapshotSource>>)>,
    ) -> Self {
        let mut states = None;
        let shards = (0..parallelism)
            .map(|index| {
                let groups = MAX.range_of_subtask(index, parallelism).unwrap();
                let mut builder = backend.shard(operator, groups).subtask(index, parallelism);
                if let Some((checkpoint, source)) = &from {
                    builder = builder.restore(checkpoint.handles(operator));
                    if let Some(source) = source {
                        builder = builder.source(Arc::clone(source));
                    }
                }
                let mut shard = builder.open().unwrap();
                let values = ValueState::register(&mut shard, "v").unwrap();
                let timers = Timers::event_time(&mut shard, "t").unwrap();
                let list = OperatorListState::even_split(&mut shard, "l").unwrap();
                states = Some((values, timers, list));
                shard
            })
            .collect();
        let (values, timers, list) = states.unwrap();
        Self { shards, values, timers, list }
    }
}

/// A running job, and what it should hold.
pub(crate) struct Job {
    pub(crate) coordinator: Coordinator,
    pub(crate) operators: Vec<Subtasks>,
    pub(crate) backend: Backend,
    /// Where savepoints go, by the name that barriers say; what is not here is a URL.
    pub(crate) places: BTreeMap<String, Arc<dyn ObjectStore>>,
}

pub(crate) type Model = BTreeMap<u64, u64>;

impl Job {
    /// Starts a job on `parallelism` subtasks for each operator, from a checkpoint if
    /// one is given.
    pub(crate) fn start(
        coordinator: Coordinator,
        dir: &Path,
        parallelism: u32,
        from: Option<&Checkpoint>,
        source: Option<Arc<dyn SnapshotSource>>,
    ) -> Self {
        Self::start_with(coordinator, dir, parallelism, from, source, |builder| builder)
    }

    /// The same, on a backend as `configure` says.
    pub(crate) fn start_with(
        mut coordinator: Coordinator,
        dir: &Path,
        parallelism: u32,
        from: Option<&Checkpoint>,
        source: Option<Arc<dyn SnapshotSource>>,
        configure: impl FnOnce(BackendBuilder) -> BackendBuilder,
    ) -> Self {
        let sink = Arc::new(coordinator.sink());
        let builder =
            Backend::builder(dir).background_threads(0).sink(Arc::clone(&sink) as _).source(sink);
        let backend = configure(builder).open().unwrap();
        let operators = OPERATORS
            .iter()
            .map(|operator| {
                let from = from.map(|checkpoint| (checkpoint, source.clone()));
                Subtasks::open(&backend, operator, parallelism, from)
            })
            .collect();
        let shards = OPERATORS
            .iter()
            .flat_map(|operator| Participant::of_operator(operator, MAX, parallelism).unwrap());
        coordinator.start(shards.collect()).unwrap();
        Self { coordinator, operators, backend, places: BTreeMap::new() }
    }

    /// Changes `count` keys from `first` on in both operators, and the model.
    pub(crate) fn work(&mut self, first: u64, count: u64, model: &mut Model) {
        for key in first..first + count {
            let value = model.entry(key).or_default();
            *value += key + 1;
            for operator in &mut self.operators {
                let group = group(key);
                let mut shards = operator.shards.iter_mut();
                let shard = shards.find(|shard| shard.groups().contains(group)).unwrap();
                operator.values.put(shard, &key, value).unwrap();
                operator.timers.register(shard, &key, key as i64).unwrap();
            }
        }
    }

    /// What all shards together hold is what the model says.
    pub(crate) fn check(&mut self, model: &Model) {
        for operator in &mut self.operators {
            let mut timers = 0;
            for shard in &mut operator.shards {
                let groups = shard.groups();
                for key in model.keys().filter(|key| groups.contains(group(**key))) {
                    let found = operator.values.get(shard, key).unwrap();
                    assert_eq!(found.as_ref(), model.get(key), "key {key}");
                }
                timers += operator.timers.pending(shard).unwrap();
            }
            assert_eq!(timers, model.len() as u64, "every key has its timer");
        }
    }

    /// The numbers in the operator states of all subtasks.
    pub(crate) fn listed(&mut self) -> Vec<u64> {
        let mut all = Vec::new();
        for operator in &mut self.operators {
            for shard in &mut operator.shards {
                all.extend(operator.list.get(shard).unwrap());
            }
        }
        all.sort_unstable();
        all
    }

    /// The store that is a place.
    pub(crate) fn place(&self, place: &str) -> Arc<dyn ObjectStore> {
        let known = self.places.get(place).cloned();
        known.unwrap_or_else(|| open_url(Arc::new(RealEnv::new()), place).unwrap())
    }

    /// Carries a barrier through all shards and returns what became of it.
    pub(crate) fn answer(&mut self) -> Vec<Event> {
        let events = self.carry();
        self.coordinator.poll().unwrap();
        events
    }

    /// The same, without a look of the coordinator at what is due after it.
    pub(crate) fn carry(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.coordinator.next_event() {
            match &event {
                Event::Trigger(barrier) => {
                    let place = barrier.place.as_ref().map(|place| self.place(place));
                    for operator in &mut self.operators {
                        for shard in &mut operator.shards {
                            let ticket = match &place {
                                None => shard.snapshot_as(barrier.mode, barrier.id, b""),
                                Some(place) => {
                                    let sink = NativeSavepoint::sink(Arc::clone(place));
                                    shard.snapshot_to(sink, barrier.id, b"")
                                }
                            };
                            let ticket = ticket.unwrap();
                            let report = ticket.wait().unwrap();
                            let ack = ShardAck::of(barrier.epoch, &report);
                            let sent = ack.encode().unwrap();
                            self.coordinator.acknowledge(ShardAck::decode(&sent).unwrap()).unwrap();
                        }
                    }
                }
                Event::Completed(id) => {
                    for operator in &mut self.operators {
                        operator.shards.iter_mut().for_each(|shard| shard.notify_complete(*id));
                    }
                }
                _ => {}
            }
            events.push(event);
        }
        events
    }

    pub(crate) fn checkpoint(&mut self) -> SnapshotId {
        let id = self.coordinator.trigger().unwrap();
        assert_eq!(self.answer().last(), Some(&Event::Completed(id)));
        id
    }

    pub(crate) fn savepoint(&mut self, name: &str) {
        let id = self.coordinator.savepoint(name).unwrap();
        let completed = Event::SavepointCompleted { id, name: name.into() };
        assert_eq!(self.answer().last(), Some(&completed));
    }
}

pub(crate) fn latest(coordinator: &mut Coordinator) -> Checkpoint {
    coordinator.restore(&RestoreFrom::Latest, ClaimMode::NoClaim).unwrap().unwrap()
}
