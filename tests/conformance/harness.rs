//! What a store has to provide to be put to the claims, and what claims are
//! written with.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use alluvium::{
    ErrorKind, KeyGroup, KeyRef, KeyedStore, MaxParallelism, Result, StateId, StateSpec,
};

/// A kind of store.
pub(crate) trait Factory {
    /// An empty job on `shards` shards, with `max_parallelism` key groups; shard
    /// `i` has those that `MaxParallelism::range_of_subtask(i, shards)` says.
    fn deploy(&self, max_parallelism: MaxParallelism, shards: u32) -> Box<dyn Deployment>;
}

/// A job that runs on one kind of store.
pub(crate) trait Deployment {
    /// The number of shards.
    fn shards(&self) -> u32;

    /// The store of one shard.
    fn store(&mut self, shard: u32) -> &mut dyn KeyedStore;

    /// Takes a snapshot of all shards, waits until it is complete, and gives its
    /// number. The job goes on.
    fn snapshot(&mut self) -> usize;

    /// Goes back to a snapshot, on `shards` shards.
    fn restore(&mut self, snapshot: usize, shards: u32);
}

/// One thing that every store owes its callers.
pub(crate) struct Claim {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Job),
}

/// Makes the table of the claims of a module.
macro_rules! claims {
    ($($name:ident)*) => {
        pub(crate) const CLAIMS: &[crate::harness::Claim] =
            &[$(crate::harness::Claim { name: stringify!($name), run: $name }),*];
    };
}
pub(crate) use claims;

/// What happens where a claim pauses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pause {
    /// Nothing.
    Nothing,
    /// A snapshot is taken.
    Snapshot,
    /// The job goes back to a snapshot that is taken there, on so many shards.
    Restore(u32),
    /// The same, on another number of shards each time.
    Rescale,
}

impl Pause {
    pub(crate) const ALL: [Self; 5] =
        [Self::Nothing, Self::Snapshot, Self::Restore(SHARDS), Self::Restore(1), Self::Rescale];
}

/// Shards that a job begins with.
const SHARDS: u32 = 2;
/// Key groups of a job.
const GROUPS: u32 = 16;

/// A job as claims see it: calls go to the shard that owns the key, and states
/// are registered on the way. Errors fail the claim, except in
/// [`try_on`](Self::try_on).
pub(crate) struct Job {
    deployment: Box<dyn Deployment>,
    max: MaxParallelism,
    pause: Pause,
    pauses: u32,
}

/// Keys and namespaces that a state holds something for, and their groups.
pub(crate) type Keys = BTreeMap<(Vec<u8>, Vec<u8>), KeyGroup>;

impl Job {
    pub(crate) fn new(factory: &dyn Factory, pause: Pause) -> Self {
        let max = MaxParallelism::new(GROUPS).unwrap();
        Self { deployment: factory.deploy(max, SHARDS), max, pause, pauses: 0 }
    }

    /// A moment at which a runtime may take snapshots and restore them.
    pub(crate) fn pause(&mut self) {
        self.pauses += 1;
        match self.pause {
            Pause::Nothing => {}
            Pause::Snapshot => drop(self.snapshot()),
            Pause::Restore(shards) => self.restart(shards),
            Pause::Rescale => self.restart([3, 1, 5, 2][self.pauses as usize % 4]),
        }
    }

    fn restart(&mut self, shards: u32) {
        let snapshot = self.snapshot();
        self.restore(snapshot, shards);
    }

    pub(crate) fn snapshot(&mut self) -> usize {
        self.deployment.snapshot()
    }

    pub(crate) fn restore(&mut self, snapshot: usize, shards: u32) {
        self.deployment.restore(snapshot, shards);
        assert_eq!(self.deployment.shards(), shards);
    }

    pub(crate) fn shards(&self) -> u32 {
        self.deployment.shards()
    }

    pub(crate) fn max_parallelism(&self) -> MaxParallelism {
        self.max
    }

    pub(crate) fn store(&mut self, shard: u32) -> &mut dyn KeyedStore {
        self.deployment.store(shard)
    }

    /// The shard that owns a key.
    pub(crate) fn shard_of(&self, key: KeyRef<'_>) -> u32 {
        self.max.subtask_of_group(key.locate(self.max).0, self.shards())
    }

    /// A call to the shard that owns a key.
    pub(crate) fn try_on<T>(
        &mut self,
        spec: &StateSpec,
        key: KeyRef<'_>,
        call: impl FnOnce(&mut dyn KeyedStore, StateId) -> Result<T>,
    ) -> Result<T> {
        let store = self.deployment.store(self.shard_of(key));
        let state = store.register(spec.clone())?;
        call(store, state)
    }

    /// As [`try_on`](Self::try_on), and it has to succeed.
    pub(crate) fn on<T>(
        &mut self,
        spec: &StateSpec,
        key: KeyRef<'_>,
        call: impl FnOnce(&mut dyn KeyedStore, StateId) -> Result<T>,
    ) -> T {
        self.try_on(spec, key, call).unwrap_or_else(|error| panic!("{error:?}"))
    }

    pub(crate) fn get(&mut self, spec: &StateSpec, key: KeyRef<'_>) -> Option<Vec<u8>> {
        self.on(spec, key, |store, state| Ok(store.get(state, key)?.map(<[u8]>::to_vec)))
    }

    pub(crate) fn put(&mut self, spec: &StateSpec, key: KeyRef<'_>, value: &[u8]) {
        self.on(spec, key, |store, state| store.put(state, key, value));
    }

    pub(crate) fn delete(&mut self, spec: &StateSpec, key: KeyRef<'_>) {
        self.on(spec, key, |store, state| store.delete(state, key));
    }

    pub(crate) fn clear(&mut self, spec: &StateSpec, key: KeyRef<'_>) {
        self.on(spec, key, |store, state| store.clear(state, key));
    }

    pub(crate) fn append(&mut self, spec: &StateSpec, key: KeyRef<'_>, elements: &[&[u8]]) {
        self.on(spec, key, |store, state| store.list_append(state, key, elements));
    }

    pub(crate) fn replace(&mut self, spec: &StateSpec, key: KeyRef<'_>, elements: &[&[u8]]) {
        self.on(spec, key, |store, state| store.list_replace(state, key, elements));
    }

    pub(crate) fn list(&mut self, spec: &StateSpec, key: KeyRef<'_>) -> Vec<Vec<u8>> {
        let mut elements = Vec::new();
        self.on(spec, key, |store, state| {
            store.list_read(state, key, &mut |element| elements.push(element.to_vec()))
        });
        elements
    }

    pub(crate) fn map_get(
        &mut self,
        spec: &StateSpec,
        key: KeyRef<'_>,
        entry: &[u8],
    ) -> Option<Vec<u8>> {
        self.on(spec, key, |store, state| Ok(store.map_get(state, key, entry)?.map(<[u8]>::to_vec)))
    }

    pub(crate) fn map_put(
        &mut self,
        spec: &StateSpec,
        key: KeyRef<'_>,
        entry: &[u8],
        value: &[u8],
    ) {
        self.on(spec, key, |store, state| store.map_put(state, key, entry, value));
    }

    pub(crate) fn map_remove(&mut self, spec: &StateSpec, key: KeyRef<'_>, entry: &[u8]) {
        self.on(spec, key, |store, state| store.map_remove(state, key, entry));
    }

    pub(crate) fn map_is_empty(&mut self, spec: &StateSpec, key: KeyRef<'_>) -> bool {
        self.on(spec, key, |store, state| store.map_is_empty(state, key))
    }

    /// At most `most` entries of a map from a place on.
    pub(crate) fn scan(
        &mut self,
        spec: &StateSpec,
        key: KeyRef<'_>,
        from: Bound<&[u8]>,
        most: usize,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut entries = Vec::new();
        self.on(spec, key, |store, state| {
            store.map_scan(state, key, from, &mut |entry, value| {
                assert!(entries.len() < most, "the visitor was called after it had broken");
                entries.push((entry.to_vec(), value.to_vec()));
                if entries.len() == most {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        });
        entries
    }

    /// All entries of a map, in the order of the scan.
    pub(crate) fn entries(&mut self, spec: &StateSpec, key: KeyRef<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.scan(spec, key, Bound::Unbounded, usize::MAX)
    }

    /// What `visit_keys` gives on all shards; fails if something comes twice, or
    /// from a shard that does not own it.
    pub(crate) fn keys(&mut self, spec: &StateSpec, namespace: Option<&[u8]>) -> Keys {
        let mut keys = Keys::new();
        for shard in 0..self.shards() {
            let groups = self.max.range_of_subtask(shard, self.shards()).unwrap();
            let store = self.deployment.store(shard);
            let state = store.register(spec.clone()).unwrap();
            let visited = store.visit_keys(state, namespace, &mut |group, key, namespace| {
                assert!(groups.contains(group), "{group} from the shard of {groups}");
                let key = (key.to_vec(), namespace.to_vec());
                assert!(!keys.contains_key(&key), "{key:?} was visited twice");
                keys.insert(key, group);
                ControlFlow::Continue(())
            });
            visited.unwrap_or_else(|error| panic!("{error:?}"));
        }
        keys
    }
}

/// A call must have been refused as wrong.
#[track_caller]
pub(crate) fn assert_invalid<T>(outcome: Result<T>) -> String {
    let Err(error) = outcome else { panic!("the call was not refused") };
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    error.to_string()
}
