//! This project's lists, maps and timers, through the calls that a stream
//! processor would make.
//!
//! One shard with a state of each kind. A window is a namespace; when its timers
//! fire, state after state is read and cleared.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ::alluvium::{
    Backend, KeyRef, KeyedStore, Shard, SnapshotId, StateId, StateSpec, TimeDomain, TimerSpec,
    TimerStore, TimersId, Ttl, ValueMut,
};

use super::{Contents, ENTRY_BYTES, Lists, Maps, Store, Timers, Windows, empty_window};
use crate::Result;
use crate::engines::alluvium::{CHECKPOINTS, open_backend};
use crate::engines::{Settings, Written};
use crate::workload::{bump, counter_of};

/// A backend with one shard.
pub(crate) struct Alluvium {
    shard: Shard,
    lists: StateId,
    maps: StateId,
    sums: StateId,
    timers: TimersId,
    /// Number of the newest checkpoint.
    number: u64,
    /// Kept from call to call: the key of a timer that fired.
    key: Vec<u8>,
    dir: PathBuf,
    /// Tables that the newest checkpoint consists of.
    shipped: BTreeSet<String>,
}

impl Store for Alluvium {
    fn create(settings: &Settings, dir: &Path) -> Result<Self> {
        let backend: Backend = open_backend(settings, dir)?;
        let mut shard =
            backend.shard("comparison", backend.max_parallelism().all_groups()).open()?;
        Ok(Self {
            lists: shard.register(StateSpec::list("lists"))?,
            maps: shard.register(StateSpec::map("maps"))?,
            sums: shard.register(StateSpec::value("sums"))?,
            timers: shard.open_timers(TimerSpec::new("timers", TimeDomain::Event))?,
            shard,
            number: 0,
            key: Vec::new(),
            dir: dir.to_owned(),
            shipped: BTreeSet::new(),
        })
    }

    fn checkpoint(&mut self) -> Result<Written> {
        self.number += 1;
        let snapshot = SnapshotId(self.number);
        let report = self.shard.snapshot(snapshot, &[])?.wait()?;
        self.shard.notify_complete(snapshot);
        // Tables alone, as of RocksDB the SST files: without the manifest.
        let manifest = std::fs::read(self.dir.join(CHECKPOINTS).join(report.handle.manifest()))?;
        let tables = report.handle.open_manifest(&manifest)?.tables;
        let new = tables.iter().filter(|table| !self.shipped.contains(&table.location));
        let stored_bytes = Some(new.map(|table| table.meta.bytes).sum());
        self.shipped = tables.into_iter().map(|table| table.location).collect();
        Ok(Written { raw_bytes: Some(report.raw_bytes_new), stored_bytes })
    }
}

impl<const K: usize, const V: usize> Lists<K, V> for Alluvium {
    #[inline]
    fn append(&mut self, key: &[u8; K], element: &[u8; V]) -> Result<()> {
        Ok(self.shard.list_append(self.lists, KeyRef::new(key), &[element])?)
    }

    #[inline]
    fn read(&mut self, key: &[u8; K], mut visit: impl FnMut(&[u8])) -> Result<()> {
        Ok(self.shard.list_read(self.lists, KeyRef::new(key), &mut visit)?)
    }

    fn clear(&mut self, key: &[u8; K]) -> Result<()> {
        Ok(self.shard.clear(self.lists, KeyRef::new(key))?)
    }
}

impl<const K: usize, const V: usize> Maps<K, V> for Alluvium {
    #[inline]
    fn put(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES], value: &[u8; V]) -> Result<()> {
        Ok(self.shard.map_put(self.maps, KeyRef::new(key), entry, value)?)
    }

    #[inline]
    fn get(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES]) -> Result<Option<u64>> {
        Ok(self.shard.map_get(self.maps, KeyRef::new(key), entry)?.and_then(counter_of))
    }

    #[inline]
    fn scan(&mut self, key: &[u8; K], mut visit: impl FnMut(&[u8], &[u8])) -> Result<()> {
        Ok(self.shard.map_scan(
            self.maps,
            KeyRef::new(key),
            std::ops::Bound::Unbounded,
            &mut |key, value| {
                visit(key, value);
                std::ops::ControlFlow::Continue(())
            },
        )?)
    }
}

impl<const K: usize> Timers<K> for Alluvium {
    #[inline]
    fn register(&mut self, time: u64, key: &[u8; K]) -> Result<()> {
        self.shard.register_timer(self.timers, time as i64, KeyRef::new(key))?;
        Ok(())
    }

    fn fire(&mut self, until: u64, mut visit: impl FnMut(u64, &[u8])) -> Result<()> {
        while self.shard.pop_due(self.timers, until as i64, &mut |timer| {
            visit(timer.timestamp as u64, timer.key);
            Ok(())
        })? {}
        Ok(())
    }
}

impl<const K: usize, const V: usize> Windows<K, V> for Alluvium {
    #[inline]
    fn add(
        &mut self,
        contents: Contents,
        key: &[u8; K],
        window: u64,
        event: &[u8; V],
    ) -> Result<()> {
        let namespace = window.to_be_bytes();
        let at = KeyRef::new(key).namespace(&namespace);
        match contents {
            Contents::List => self.shard.list_append(self.lists, at, &[event])?,
            Contents::Sum => {
                let by = counter_of(event).unwrap_or(0);
                self.shard.update(self.sums, at, &mut |sum: &mut ValueMut<'_>| match sum
                    .bytes_mut()
                {
                    Some(sum) => bump(sum, by),
                    None => sum.set(&by.to_le_bytes()),
                })?;
            }
        }
        self.shard.register_timer(self.timers, window as i64, KeyRef::new(key))?;
        Ok(())
    }

    fn fire_window(
        &mut self,
        contents: Contents,
        window: u64,
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<()> {
        let namespace = window.to_be_bytes();
        loop {
            let key = &mut self.key;
            let fired = self.shard.pop_due(self.timers, window as i64, &mut |timer| {
                key.clear();
                key.extend_from_slice(timer.key);
                Ok(())
            })?;
            if !fired {
                return Ok(());
            }
            let key = &self.key[..];
            let at = KeyRef::new(key).namespace(&namespace);
            match contents {
                Contents::List => {
                    self.shard.list_read(self.lists, at, &mut |event| visit(key, event))?;
                    self.shard.clear(self.lists, at)?;
                }
                Contents::Sum => {
                    let sum = self.shard.get(self.sums, at)?;
                    visit(key, sum.ok_or_else(|| empty_window(window))?);
                    self.shard.delete(self.sums, at)?;
                }
            }
        }
    }
}

/// Values, in namespaces or without, with a time to live or without.
pub(crate) struct Scoped {
    shard: Shard,
    state: StateId,
}

impl Scoped {
    /// An empty state.
    pub(crate) fn create(settings: &Settings, dir: &Path, ttl: Option<Ttl>) -> Result<Self> {
        let backend = open_backend(settings, dir)?;
        let mut shard =
            backend.shard("comparison", backend.max_parallelism().all_groups()).open()?;
        let spec = StateSpec::value("counters");
        let spec = match ttl {
            Some(ttl) => spec.ttl(ttl),
            None => spec,
        };
        Ok(Self { state: shard.register(spec)?, shard })
    }

    /// Stores a value.
    pub(crate) fn insert(&mut self, key: &[u8], namespace: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.shard.put(self.state, KeyRef::new(key).namespace(namespace), value)?)
    }

    /// Adds one to the counter of a value, which exists.
    #[inline(always)]
    pub(crate) fn rmw(&mut self, key: &[u8], namespace: &[u8]) -> Result<()> {
        let mut found = false;
        let at = KeyRef::new(key).namespace(namespace);
        self.shard.update(self.state, at, &mut |value: &mut ValueMut<'_>| {
            if let Some(bytes) = value.bytes_mut() {
                bump(bytes, 1);
                found = true;
            }
        })?;
        if found { Ok(()) } else { Err("a value was lost".into()) }
    }

    /// The counter of a value.
    pub(crate) fn counter(&mut self, key: &[u8], namespace: &[u8]) -> Result<Option<u64>> {
        let at = KeyRef::new(key).namespace(namespace);
        Ok(self.shard.get(self.state, at)?.and_then(counter_of))
    }
}
