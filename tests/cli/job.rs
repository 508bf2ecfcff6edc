//! A job of two operators, and what it did.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alluvium::codec::CodecId;
use alluvium::coordinator::{
    Acknowledged, CheckpointSettings, Coordinator, Event, Participant, RestoreFrom,
};
use alluvium::env::RealEnv;
use alluvium::format::ShardAck;
use alluvium::object::{LocalStore, ObjectStore, open_url};
use alluvium::savepoint::NativeSavepoint;
use alluvium::{
    Backend, BroadcastState, KeyRef, KeyedStore, ListState, MapState, MaxParallelism,
    OperatorListState, ReducingState, Result, Shard, SnapshotId, StateOptions, StateSpec,
    TimeDomain, Timers, Ttl, ValueState,
};
use tempfile::TempDir;

pub(crate) const JOB: &str = "flights";
pub(crate) const MAX: u32 = 16;
/// Names and reasons that would do something to a terminal.
pub(crate) const OWNER: &str = "the test\u{1b}[31m\u{9b}2J";
pub(crate) const REASON: &str = "the test wants it so\u{1b}[0m\u{202e}";
/// Keys of the state "counts" after each checkpoint; see [`counts`].
pub(crate) const KEYS: u64 = 60;

/// What the state "counts" has at checkpoint `id` (1 to 4): checkpoint 1 is the first,
/// 2 changed every tenth key, 3 is the savepoint "before", with nothing changed, and 4
/// removed key 0, changed key 1, and added key 1000.
pub(crate) fn counts(id: u64) -> BTreeMap<u64, u64> {
    let mut counts: BTreeMap<u64, u64> = (0..KEYS).map(|key| (key, key + 100)).collect();
    if id >= 2 {
        (0..KEYS).step_by(10).for_each(|key| *counts.get_mut(&key).unwrap() += 1_000);
    }
    if id >= 4 {
        counts.remove(&0);
        counts.insert(1, 7);
        counts.insert(1_000, 1);
    }
    counts
}

/// Two shards of the operator "count", with states of all kinds, and one of "sessions".
pub(crate) struct Job {
    pub(crate) coordinator: Coordinator,
    shards: Vec<Shard>,
    _backend: Backend,
}

struct Count {
    counts: ValueState<u64, u64>,
    visits: ListState<String, (u64, String)>,
    prices: MapState<String, String, Option<i64>>,
    largest: ReducingState<u64, u64>,
    recent: ValueState<u64, String>,
    windows: ValueState<u64, u64, String>,
}

impl Count {
    fn register(shard: &mut Shard) -> Result<Self> {
        let hour = Ttl::after(Duration::from_secs(3_600)).time(TimeDomain::Event);
        Ok(Self {
            counts: ValueState::register(shard, "counts")?,
            visits: ListState::register(shard, "visits")?,
            prices: MapState::register(shard, "prices")?,
            largest: ReducingState::register(shard, "largest", u64::max)?,
            recent: ValueState::register(shard, StateOptions::new("recent").ttl(hour))?,
            windows: ValueState::register(shard, "windows")?,
        })
    }
}

/// A state that is dropped and begun anew.
fn gone(shard: &mut Shard) -> ValueState<u64, u64> {
    ValueState::register(shard, "gone").unwrap()
}

/// Does something with a key in the shard that has it.
fn with<T>(shards: &mut [Shard], mut work: impl FnMut(&mut Shard) -> Result<T>) -> T {
    let mut done: Vec<T> = shards.iter_mut().filter_map(|shard| work(shard).ok()).collect();
    assert_eq!(done.len(), 1, "a key belongs to one shard");
    done.remove(0)
}

impl Job {
    /// Opens the job in a store, "count" on so many shards: without state, or as a fork of
    /// another job.
    pub(crate) fn open(
        dir: &Path,
        job: &str,
        parallelism: u32,
        from: Option<(&str, RestoreFrom)>,
    ) -> Self {
        let store = open_store(&dir.join("store"));
        let mut settings = CheckpointSettings::default();
        (settings.interval_ms, settings.retained) = (None, 3);
        settings.requests_interval_ms = Some(1);
        let builder = Coordinator::builder(store, job).owner(OWNER).settings(settings);
        let mut coordinator = builder.places(open_place).open().unwrap();
        let forked = from.map(|(other, from)| coordinator.fork(other, &from).unwrap());
        let max = MaxParallelism::new(MAX).unwrap();
        let backend = Backend::builder(dir.join(format!("local-{job}")))
            .max_parallelism(max)
            .sink(Arc::new(coordinator.sink()))
            .source(Arc::new(coordinator.sink()))
            .open()
            .unwrap();
        let mut participants = Participant::of_operator("count", max, parallelism).unwrap();
        participants.extend(Participant::of_operator("sessions", max, 1).unwrap());
        let shards = participants.iter().enumerate().map(|(at, part)| {
            let at = at as u32;
            let subtask = if at < parallelism { (at, parallelism) } else { (0, 1) };
            let mut builder =
                backend.shard(&part.operator, part.groups).subtask(subtask.0, subtask.1);
            if let Some(checkpoint) = &forked {
                builder = builder.restore(checkpoint.handles(&part.operator));
            }
            builder.open().unwrap()
        });
        let shards = shards.collect();
        coordinator.start(participants).unwrap();
        Self { coordinator, shards, _backend: backend }
    }

    /// Lets the coordinator do what it wants, and answers its barriers.
    pub(crate) fn turn(&mut self) {
        self.coordinator.poll().unwrap();
        while let Some(event) = self.coordinator.next_event() {
            match event {
                Event::Trigger(barrier) => {
                    self.coordinator
                        .set_runtime_data(barrier.id, format!("offset {}", barrier.id).into_bytes())
                        .unwrap();
                    let place = barrier.place.as_deref().map(|place| open_place(place).unwrap());
                    for shard in &mut self.shards {
                        let ticket = match &place {
                            None => shard.snapshot_as(barrier.mode, barrier.id, b"meta"),
                            Some(place) => {
                                let sink = NativeSavepoint::sink(Arc::clone(place));
                                shard.snapshot_to(sink, barrier.id, b"meta")
                            }
                        };
                        let report = ticket.unwrap().wait().unwrap();
                        let ack = ShardAck::of(barrier.epoch, &report);
                        let counted = self.coordinator.acknowledge(ack).unwrap();
                        assert_eq!(counted, Acknowledged::Counted);
                    }
                }
                Event::Completed(id) => {
                    self.shards.iter_mut().for_each(|shard| shard.notify_complete(id));
                }
                Event::SavepointCompleted { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn checkpoint(&mut self) -> SnapshotId {
        let id = self.coordinator.trigger().unwrap();
        self.turn();
        id
    }

    /// What comes before the first checkpoint.
    fn begin(&mut self) {
        let (count, sessions) = self.shards.split_at_mut(2);
        let states: Vec<Count> = count.iter_mut().map(|s| Count::register(s).unwrap()).collect();
        let orders: Vec<_> = count
            .iter_mut()
            .map(|shard| {
                let spec = StateSpec::value("orders").value_codec(CodecId::new("shop.Order", 2));
                shard.register(spec).unwrap()
            })
            .collect();
        for (key, value) in counts(1) {
            with(count, |shard| states[0].counts.put(shard, &key, &value));
        }
        for shard in count.iter_mut() {
            shard.advance_watermark(1_000_000);
        }
        for (key, text) in [(1, "old"), (2, "old too")] {
            with(count, |shard| states[0].recent.put(shard, &key, &text.to_owned()));
        }
        for shard in count.iter_mut() {
            shard.advance_watermark(3_000_000);
        }
        with(count, |shard| states[0].recent.put(shard, &3, &"new".to_owned()));
        for shard in count.iter_mut() {
            // Two have expired, and nobody looks at them before the checkpoint.
            shard.advance_watermark(5_000_000);
        }
        for (place, word) in ["heron", "stork", "crane"].into_iter().enumerate() {
            let key = "lake".to_owned();
            with(count, |shard| {
                states[0].visits.add(shard, &key, &(place as u64, word.to_owned()))
            });
        }
        for (item, price) in [("apple", Some(5)), ("pear", None)] {
            with(count, |shard| {
                states[0].prices.put(shard, &"market".to_owned(), &item.to_owned(), &price)
            });
        }
        with(count, |shard| states[0].largest.add(shard, &1, 3));
        with(count, |shard| states[0].largest.add(shard, &1, 9));
        for window in ["monday", "tuesday"] {
            with(count, |shard| states[0].windows.put_in(shard, &5, &window.to_owned(), &1));
        }
        with(count, |shard| {
            let orders = orders[0];
            shard.put(orders, KeyRef::new(b"\x1b[2Jkey"), b"\x00\xff")
        });
        // Values that are none of the codec that is said to have written them.
        for shard in count.iter_mut() {
            let spec = StateSpec::value("broken").value_codec(CodecId::new("u64", 1));
            let broken = shard.register(spec).unwrap();
            let _ = shard.put(broken, KeyRef::new(b"key"), b"abc");
        }
        let gone: Vec<_> = count.iter_mut().map(gone).collect();
        with(count, |shard| gone[0].put(shard, &1, &1));

        let shard = &mut sessions[0];
        let timeouts: Timers<String> = Timers::event_time(shard, "timeouts").unwrap();
        timeouts.register(shard, &"heron".to_owned(), 86_400_000).unwrap();
        let offsets: OperatorListState<(String, u64)> =
            OperatorListState::even_split(shard, "offsets").unwrap();
        offsets.add(shard, &("a".to_owned(), 17)).unwrap();
        let rules: BroadcastState<u32, String> = BroadcastState::open(shard, "rules").unwrap();
        rules.put(shard, &1, &"be kind".to_owned()).unwrap();
    }

    fn set_counts(&mut self, before: &BTreeMap<u64, u64>, after: &BTreeMap<u64, u64>) {
        let count = &mut self.shards[..2];
        let states: Vec<Count> = count.iter_mut().map(|s| Count::register(s).unwrap()).collect();
        for (key, value) in after.iter().filter(|(key, value)| before.get(key) != Some(value)) {
            with(count, |shard| states[0].counts.put(shard, key, value));
        }
        for key in before.keys().filter(|key| !after.contains_key(key)) {
            with(count, |shard| states[0].counts.delete(shard, key));
        }
    }

    /// What comes before the last checkpoint.
    fn end(&mut self) {
        let count = &mut self.shards[..2];
        for shard in count.iter_mut() {
            shard.drop_state("gone").unwrap();
        }
        let gone: Vec<_> = count.iter_mut().map(gone).collect();
        with(count, |shard| gone[0].put(shard, &2, &2));
        let states: Vec<Count> = count.iter_mut().map(|s| Count::register(s).unwrap()).collect();
        with(count, |shard| {
            states[0].prices.remove(shard, &"market".to_owned(), &"pear".to_owned())
        });
        with(count, |shard| {
            states[0].visits.replace(shard, &"lake".to_owned(), &[(9, "swan".to_owned())])
        });
    }
}

/// Runs the job to its fourth checkpoint.
pub(crate) fn run(dir: &Path) -> Job {
    let mut job = Job::open(dir, JOB, 2, None);
    job.begin();
    assert_eq!(job.checkpoint(), SnapshotId(1));
    job.set_counts(&counts(1), &counts(2));
    assert_eq!(job.checkpoint(), SnapshotId(2));
    assert_eq!(job.coordinator.savepoint("before").unwrap(), SnapshotId(3));
    job.turn();
    job.set_counts(&counts(3), &counts(4));
    job.end();
    assert_eq!(job.checkpoint(), SnapshotId(4));
    // One that fails, for the history.
    let id = job.coordinator.trigger().unwrap();
    job.coordinator.abort(id, REASON);
    while job.coordinator.next_event().is_some() {}
    job.coordinator.keep(&RestoreFrom::Checkpoint(SnapshotId(1)), "first").unwrap();
    job
}

/// Opens a place that a savepoint is asked into.
fn open_place(place: &str) -> Result<Arc<dyn ObjectStore>> {
    open_url(Arc::new(RealEnv::with_pread()), place)
}

pub(crate) fn open_store(dir: &Path) -> Arc<dyn ObjectStore> {
    Arc::new(LocalStore::open(Arc::new(RealEnv::with_pread()), dir.to_owned()).unwrap())
}

/// A store with the job, which ran and is over. Shared: only for looking.
pub(crate) fn shared() -> &'static Path {
    static STORE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, store) = STORE.get_or_init(|| {
        // Nobody removes it: it lies where builds put such things.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        drop(run(dir.path()));
        let store = dir.path().join("store");
        (dir, store)
    });
    store
}

/// A copy of the shared store, to be changed.
pub(crate) fn copy() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    copy_all(shared(), &store);
    (dir, store)
}

/// A copy of the store as it was when tables were of version 1.
pub(crate) fn earlier() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    copy_all(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/store-v1")), &store);
    (dir, store)
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to.join(name));
        } else {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// Everything in a directory, with its bytes; temporary files aside.
pub(crate) fn listing(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|name| name == ".tmp") {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                found.insert(path, bytes);
            }
        }
    }
    found
}
