//! One job step by step, in a store that fails when a test says so.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use alluvium::coordinator::{CheckpointSettings, ClaimMode, Event, Participant, RestoreFrom};
use alluvium::env::sim::SimRng;
use alluvium::env::{Env, ReadAt, SimEnv};
use alluvium::format::{Checkpoint, ShardAck};
use alluvium::object::{Contents, MemoryStore, ObjectName, ObjectStore};
use alluvium::{Coordinator, Error, Result, SnapshotId};
use parking_lot::Mutex;

use crate::shard::{OPERATORS, Shard, Value, max_of};

/// How a changing call of a store goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goes {
    Well,
    Fails,
    /// It happens, and its reply is lost.
    Unheard,
}

type Watch = Box<dyn FnMut(&str, &str) -> Goes + Send>;
type Then = Box<dyn FnOnce() + Send>;

/// A store whose creates and removals are watched; reads fail if it is told so.
pub struct Watched {
    pub inner: MemoryStore,
    watch: Mutex<Watch>,
    pub unreadable: Mutex<Option<String>>,
    then: Mutex<Option<(String, Then)>>,
    once_seen: Mutex<Option<(String, Then)>>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({:?})", self.inner)
    }
}

impl Watched {
    pub fn new(env: &SimEnv) -> Arc<Self> {
        let inner = MemoryStore::new(Arc::new(env.clone()));
        let watch: Watch = Box::new(|_, _| Goes::Well);
        let (unreadable, then, once_seen) = Default::default();
        Arc::new(Self { inner, watch: Mutex::new(watch), unreadable, then, once_seen })
    }

    /// `watch` is told what is done ("create", "remove"), and to which object.
    pub fn watch(&self, watch: impl FnMut(&str, &str) -> Goes + Send + 'static) {
        *self.watch.lock() = Box::new(watch);
    }

    /// `then` happens once when an object has been created whose name begins so, before
    /// its creator hears of that.
    pub fn when_created(&self, prefix: &str, then: impl FnOnce() + Send + 'static) {
        *self.then.lock() = Some((prefix.to_owned(), Box::new(then)));
    }

    /// `then` happens once when somebody has seen that an object is there whose name begins
    /// so, before the reply.
    pub fn when_seen(&self, prefix: &str, then: impl FnOnce() + Send + 'static) {
        *self.once_seen.lock() = Some((prefix.to_owned(), Box::new(then)));
    }

    pub fn names(&self, prefix: &str) -> Vec<String> {
        let names = self.inner.list(prefix).unwrap();
        names.into_iter().map(|name| name.as_str().to_owned()).collect()
    }

    fn change(
        &self,
        what: &str,
        name: &ObjectName,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let goes = (self.watch.lock())(what, name.as_str());
        match goes {
            Goes::Well => act(),
            Goes::Fails => Err(Error::unavailable("the store is away")),
            Goes::Unheard => act().and(Err(Error::unavailable("a reply was lost").ambiguous())),
        }
    }

    fn check_readable(&self, name: &str) -> Result<()> {
        match &*self.unreadable.lock() {
            Some(part) if name.contains(part.as_str()) => Err(Error::unavailable("not readable")),
            _ => Ok(()),
        }
    }
}

impl ObjectStore for Watched {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.change("create", name, || self.inner.create(name, bytes))?;
        let is_awaited = |(prefix, _): &mut (String, Then)| name.as_str().starts_with(&**prefix);
        let then = self.then.lock().take_if(is_awaited);
        if let Some((_, then)) = then {
            then();
        }
        Ok(())
    }

    fn create_from_file(
        &self,
        _name: &ObjectName,
        _local: &Path,
        _expected: &Contents,
        _keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        unreachable!("nobody here has files")
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let inner = &self.inner;
        self.change("create", name, || inner.create_from_source(name, source, expected, keep_going))
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        self.check_readable(name.as_str())?;
        self.inner.open(name)
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.check_readable(name.as_str())?;
        let len = self.inner.len_of(name)?;
        let is_awaited = |(prefix, _): &mut (String, Then)| name.as_str().starts_with(&**prefix);
        let then = self.once_seen.lock().take_if(|awaited| len.is_some() && is_awaited(awaited));
        if let Some((_, then)) = then {
            then();
        }
        Ok(len)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        self.inner.list(prefix)
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.change("remove", name, || self.inner.remove(name))
    }
}

/// Settings with which nothing happens by itself.
pub fn by_hand() -> CheckpointSettings {
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = None;
    settings
}

/// A coordinator and its shards.
pub struct Job {
    pub env: SimEnv,
    pub store: Arc<Watched>,
    pub name: &'static str,
    pub coordinator: Coordinator,
    pub shards: Vec<Shard>,
    rng: SimRng,
    numbers: u32,
}

pub fn world() -> (SimEnv, Arc<Watched>) {
    let env = SimEnv::new(5);
    let store = Watched::new(&env);
    (env, store)
}

impl Job {
    pub fn new(settings: CheckpointSettings) -> Self {
        let (env, store) = world();
        let mut job = Self::open(&env, &store, "job", settings);
        job.start(None, 2);
        job
    }

    /// A coordinator that has not started anything.
    pub fn open(
        env: &SimEnv,
        store: &Arc<Watched>,
        name: &'static str,
        settings: CheckpointSettings,
    ) -> Self {
        let coordinator = Self::coordinator(env, store, name, settings).unwrap();
        let rng = SimRng::new(coordinator.epoch());
        let (env, store) = (env.clone(), Arc::clone(store));
        Self { env, store, name, coordinator, shards: Vec::new(), rng, numbers: 0 }
    }

    pub fn coordinator(
        env: &SimEnv,
        store: &Arc<Watched>,
        name: &str,
        settings: CheckpointSettings,
    ) -> Result<Coordinator> {
        let store: Arc<dyn ObjectStore> = store.clone();
        Coordinator::builder(store, name).env(Arc::new(env.clone())).settings(settings).open()
    }

    /// The next life of the same job, from the latest checkpoint.
    pub fn next_life(&self, settings: CheckpointSettings) -> Self {
        let mut next = Self::open(&self.env, &self.store, self.name, settings);
        next.restore(&RestoreFrom::Latest, ClaimMode::NoClaim, 2);
        next
    }

    pub fn restore(&mut self, from: &RestoreFrom, claim: ClaimMode, parallelism: u32) {
        let checkpoint = self.coordinator.restore(from, claim).unwrap();
        self.start(checkpoint.as_ref(), parallelism);
    }

    pub fn start(&mut self, from: Option<&Checkpoint>, parallelism: u32) {
        let mut participants = Vec::new();
        for (operator, _) in OPERATORS {
            let handles = from.map_or(vec![], |checkpoint| checkpoint.handles(operator));
            let of = Participant::of_operator(operator, max_of(operator), parallelism).unwrap();
            for participant in &of {
                let who = (0, self.coordinator.epoch(), self.env.random_u64());
                let sink = self.coordinator.sink();
                let what = (operator, participant.groups);
                self.shards.push(Shard::open(who, what, None, sink, &handles).unwrap());
            }
            participants.extend(of);
        }
        self.coordinator.start(participants).unwrap();
    }

    /// Every shard gets some numbers.
    pub fn write(&mut self) {
        for shard in &mut self.shards {
            self.numbers += 1;
            shard.write(self.numbers, &mut self.rng);
        }
    }

    pub fn merge(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.merge_all());
    }

    pub fn value(&self) -> Vec<Value> {
        let mut values = Vec::new();
        for (operator, _) in OPERATORS {
            let of = self.shards.iter().filter(|shard| shard.operator == operator);
            values.push(of.flat_map(|shard| shard.value.clone()).collect());
        }
        values
    }

    /// The shards take a barrier and store their snapshots.
    pub fn acks(&mut self, id: SnapshotId) -> Vec<ShardAck> {
        let epoch = self.coordinator.epoch();
        let take = |shard: &mut Shard| {
            shard.freeze(id, epoch, false).unwrap();
            shard.work().unwrap().1.unwrap()
        };
        self.shards.iter_mut().map(take).collect()
    }

    pub fn acknowledge(&mut self, acks: Vec<ShardAck>) {
        for ack in acks {
            self.coordinator.acknowledge(ack).unwrap();
        }
    }

    /// Tells the shards what became of a checkpoint.
    pub fn notify(&mut self, events: &[Event]) {
        for event in events {
            for shard in &mut self.shards {
                match event {
                    Event::Completed(id) => shard.complete(id.0),
                    Event::Aborted { id, .. } => shard.abort(id.0),
                    _ => {}
                }
            }
        }
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.coordinator.next_event()).collect()
    }

    /// Takes a checkpoint of new numbers, and gives its number.
    pub fn checkpoint(&mut self) -> SnapshotId {
        self.write();
        let id = self.coordinator.trigger().unwrap();
        let acks = self.acks(id);
        self.acknowledge(acks);
        let events = self.events();
        assert!(events.contains(&Event::Completed(id)), "{events:?}");
        self.notify(&events);
        id
    }

    pub fn savepoint(&mut self, name: &str) -> SnapshotId {
        self.write();
        let id = self.coordinator.savepoint(name).unwrap();
        let acks = self.acks(id);
        self.acknowledge(acks);
        self.events();
        id
    }

    pub fn collect(&mut self) {
        assert!(self.coordinator.collect(usize::MAX).unwrap().is_done);
    }

    /// Everything that checkpoints need is there, and gives back this value.
    pub fn assert_restores(&self, from: &RestoreFrom, value: &[Value]) {
        let mut next = Self::open(&self.env, &self.store, self.name, by_hand());
        next.restore(from, ClaimMode::NoClaim, 3);
        assert_eq!(next.value(), value, "what {from} holds");
    }

    /// The objects of the job but its journal.
    pub fn files(&self) -> Vec<String> {
        let mut names = self.store.names(&format!("jobs/{}/", self.name));
        names.retain(|name| !name.contains("/journal/"));
        names
    }

    /// What its checkpoints need.
    pub fn needed(&self) -> Vec<String> {
        let view = self.coordinator.view();
        let files = view.entry().kept().flat_map(|kept| view.files(kept).unwrap());
        let mut names: Vec<_> = files.map(|file| file.location).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
