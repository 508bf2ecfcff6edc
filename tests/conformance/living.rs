//! A store whose states all have a time to live that never ends, or that is on in
//! one life and off in the next: what is claimed of stores holds all the same.

use std::ops::{Bound, ControlFlow};
use std::time::Duration;

use alluvium::{
    KeyGroup, KeyRef, KeyedStore, MaxParallelism, OldCodecs, Rename, Result, Shard, StateId,
    StateInfo, StateSpec, TimeDomain, Ttl, TtlUpdate, ValueMut,
};

/// Which time to live states have in a life of the job.
pub(crate) type InLife = fn(u32) -> Option<Ttl>;

fn years() -> Ttl {
    Ttl::after(Duration::from_secs(100 * 365 * 86_400))
}

/// None.
pub(crate) fn never(_life: u32) -> Option<Ttl> {
    None
}

/// One, and each read renews it.
pub(crate) fn always(_life: u32) -> Option<Ttl> {
    Some(years().update(TtlUpdate::OnReadAndWrite))
}

/// Another one in each life, or none.
pub(crate) fn ever_another(life: u32) -> Option<Ttl> {
    match life % 3 {
        0 => None,
        1 => Some(years()),
        _ => Some(years().time(TimeDomain::Event).update(TtlUpdate::OnReadAndWrite)),
    }
}

/// A shard whose states have a time to live.
pub(crate) struct Living {
    pub(crate) shard: Shard,
    pub(crate) ttl: Option<Ttl>,
}

impl Living {
    fn spec(&self, spec: StateSpec) -> StateSpec {
        match self.ttl {
            Some(ttl) => spec.ttl(ttl),
            None => spec,
        }
    }
}

impl KeyedStore for Living {
    fn max_parallelism(&self) -> MaxParallelism {
        KeyedStore::max_parallelism(&self.shard)
    }

    fn register(&mut self, spec: StateSpec) -> Result<StateId> {
        let spec = self.spec(spec);
        self.shard.register(spec)
    }

    fn register_rekeyed(
        &mut self,
        spec: StateSpec,
        old: OldCodecs,
        rename: &mut dyn Rename,
    ) -> Result<StateId> {
        let spec = self.spec(spec);
        self.shard.register_rekeyed(spec, old, rename)
    }

    fn drop_state(&mut self, name: &str) -> Result<bool> {
        self.shard.drop_state(name)
    }

    fn states(&self) -> Vec<StateInfo> {
        // As what they were asked for as: claims know of no time to live.
        let mut states = self.shard.states();
        states.iter_mut().for_each(|state| state.meta.ttl = None);
        states
    }

    fn get(&mut self, state: StateId, key: KeyRef<'_>) -> Result<Option<&[u8]>> {
        self.shard.get(state, key)
    }

    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        self.shard.put(state, key, value)
    }

    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        self.shard.delete(state, key)
    }

    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        self.shard.update(state, key, change)
    }

    fn get_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.shard.get_many(state, keys, visit)
    }

    fn update_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        change: &mut dyn FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        self.shard.update_many(state, keys, change)
    }

    fn list_append(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        self.shard.list_append(state, key, elements)
    }

    fn list_read(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        self.shard.list_read(state, key, visit)
    }

    fn list_replace(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        self.shard.list_replace(state, key, elements)
    }

    fn map_get(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<Option<&[u8]>> {
        self.shard.map_get(state, key, entry)
    }

    fn map_put(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
        value: &[u8],
    ) -> Result<()> {
        self.shard.map_put(state, key, entry, value)
    }

    fn map_remove(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<()> {
        self.shard.map_remove(state, key, entry)
    }

    fn map_scan(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.shard.map_scan(state, key, from, visit)
    }

    fn map_is_empty(&mut self, state: StateId, key: KeyRef<'_>) -> Result<bool> {
        self.shard.map_is_empty(state, key)
    }

    fn clear(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        self.shard.clear(state, key)
    }

    fn visit_keys(
        &mut self,
        state: StateId,
        namespace: Option<&[u8]>,
        visit: &mut dyn FnMut(KeyGroup, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.shard.visit_keys(state, namespace, visit)
    }
}
