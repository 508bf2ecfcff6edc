//! This project, through the calls a stream processor would make.
//!
//! One shard over all key groups, one value state, keys as bytes; the key
//! group of a key comes from its hash. Read-modify-write is `update`, and
//! `update_many` for batches. The pause of a checkpoint is the `snapshot` call;
//! it is complete when its ticket says so.

use std::path::{Path, PathBuf};

use alluvium::base::{MaxParallelism, SnapshotId};
use alluvium::{Backend, KeyRef, Shard, SnapshotHandle, SnapshotTicket, StateId, StateSpec};

use super::{Checkpoint, Engine, MAX_BATCH, Restore, Rmw, Settings, Written, lost_key};
use crate::Result;
use crate::workload::{bump, counter_of};

const OPERATOR: &str = "comparison";
const STATE: &str = "counters";

/// A backend with one shard.
pub(crate) struct Alluvium<const K: usize, const V: usize> {
    shard: Shard,
    state: StateId,
    /// Kept open as long as its shard.
    _backend: Backend,
    dir: PathBuf,
    /// Number of the newest checkpoint.
    number: u64,
}

impl<const K: usize, const V: usize> Alluvium<K, V> {
    fn open(settings: &Settings, dir: &Path, from: Option<SnapshotHandle>) -> Result<Self> {
        let backend =
            Backend::builder(dir).background_threads(settings.background_threads).open()?;
        let shard = backend.shard(OPERATOR, MaxParallelism::DEFAULT.all_groups());
        let mut shard = match from {
            Some(handle) => shard.restore(vec![handle]).open()?,
            None => shard.open()?,
        };
        let state = shard.register(StateSpec::value(STATE))?;
        Ok(Self { shard, state, _backend: backend, dir: dir.to_owned(), number: 0 })
    }
}

impl<const K: usize, const V: usize> Engine<K, V> for Alluvium<K, V> {
    fn create(settings: &Settings, dir: &Path) -> Result<Self> {
        Self::open(settings, dir, None)
    }

    #[inline]
    fn insert(&mut self, key: &[u8; K], value: &[u8; V]) -> Result<()> {
        Ok(self.shard.put(self.state, KeyRef::new(key), value)?)
    }

    #[inline]
    fn counter(&mut self, key: &[u8; K]) -> Result<Option<u64>> {
        Ok(self.shard.get(self.state, KeyRef::new(key))?.and_then(counter_of))
    }
}

impl<const K: usize, const V: usize> Rmw<K, V> for Alluvium<K, V> {
    #[inline]
    fn rmw(&mut self, key: &[u8; K]) -> Result<()> {
        let mut found = false;
        self.shard.update(self.state, KeyRef::new(key), &mut |value| {
            if let Some(bytes) = value.bytes_mut() {
                bump(bytes, 1);
                found = true;
            }
        })?;
        if found { Ok(()) } else { Err(lost_key(key)) }
    }

    #[inline]
    fn rmw_batch(&mut self, keys: &[[u8; K]]) -> Result<()> {
        let mut refs = [KeyRef::new(&[]); MAX_BATCH];
        for (slot, key) in refs.iter_mut().zip(keys) {
            *slot = KeyRef::new(key);
        }
        let mut lost = None;
        self.shard.update_many(self.state, &refs[..keys.len()], &mut |at, value| match value
            .bytes_mut()
        {
            Some(bytes) => bump(bytes, 1),
            None => lost = Some(at),
        })?;
        match lost {
            None => Ok(()),
            Some(at) => Err(lost_key(&keys[at])),
        }
    }
}

impl<const K: usize, const V: usize> Checkpoint<K, V> for Alluvium<K, V> {
    type Pending = (SnapshotId, SnapshotTicket);

    fn begin_checkpoint(&mut self, number: u64) -> Result<Self::Pending> {
        self.number = number;
        let snapshot = SnapshotId(number);
        Ok((snapshot, self.shard.snapshot(snapshot, &[])?))
    }

    fn poll_checkpoint(
        &mut self,
        (snapshot, ticket): &mut Self::Pending,
    ) -> Result<Option<Written>> {
        match ticket.try_poll() {
            None => Ok(None),
            Some(report) => {
                let report = report?;
                self.shard.notify_complete(*snapshot)?;
                Ok(Some(Written {
                    raw_bytes: Some(report.records_new * (K + V) as u64),
                    stored_bytes: Some(report.bytes_new),
                }))
            }
        }
    }
}

impl<const K: usize, const V: usize> Restore<K, V> for Alluvium<K, V> {
    type Saved = (PathBuf, SnapshotHandle);

    fn save(mut self) -> Result<Self::Saved> {
        let snapshot = SnapshotId(self.number + 1);
        let report = self.shard.snapshot(snapshot, &[])?.wait()?;
        self.shard.notify_complete(snapshot)?;
        Ok((self.dir, report.handle))
    }

    fn restore(settings: &Settings, (dir, handle): &Self::Saved) -> Result<Self> {
        Self::open(settings, dir, Some(handle.clone()))
    }
}
