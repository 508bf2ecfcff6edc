//! This project, through the calls a stream processor would make.
//!
//! One shard over all key groups, one value state, keys as bytes; the key
//! group of a key comes from its hash. Read-modify-write is `update`, and
//! `update_batch` for batches. The pause of a checkpoint is the `snapshot` call;
//! it is complete when its ticket says so. What it added is what the ticket's
//! report counts, the results of merges included; how large that was before
//! compression is in the manifest, for the tables that the checkpoint before
//! did not have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::alluvium::env::RealEnv;
use ::alluvium::format::Compression as TableCompression;
use ::alluvium::table::TableOptions;
use ::alluvium::{
    Backend, BackendBuilder, KeyRef, KeyedStore, MaxParallelism, Shard, SnapshotHandle, SnapshotId,
    SnapshotTicket, StateId, StateSpec, ValueMut,
};

use super::{
    Checkpoint, Compression, Engine, OnDisk, Restore, Rmw, Settings, Written, lost_key, unknown_key,
};
use crate::Result;
use crate::workload::{bump, counter_of};

const OPERATOR: &str = "comparison";
pub(crate) const CHECKPOINTS: &str = "checkpoints";
const STATE: &str = "counters";
/// How long to wait for merges that do not come about.
const MERGE_PATIENCE: Duration = Duration::from_secs(30);

/// After so many without a merge there is none to come: each grants at least a quarter of
/// a partition, of which a step is one at most.
const CHECKPOINTS_FOR_A_MERGE: usize = 12;

/// A backend with one shard.
pub(crate) struct Alluvium<const K: usize, const V: usize> {
    shard: Shard,
    state: StateId,
    dir: PathBuf,
    /// Number of the newest checkpoint.
    number: u64,
    /// Files that the newest checkpoint consists of.
    shipped: BTreeSet<String>,
    /// Kept from call to call, so that a batch does not allocate it.
    absent: Vec<[u8; K]>,
}

/// Opens a backend, with its checkpoints beside it.
pub(super) fn open_backend(settings: &Settings, dir: &Path) -> Result<Backend> {
    open_with(settings, dir, &dir.join(CHECKPOINTS))
}

/// Opens a backend, with its checkpoints elsewhere.
pub(crate) fn open_with(settings: &Settings, dir: &Path, checkpoints: &Path) -> Result<Backend> {
    let compression = match settings.compression {
        Compression::None => TableCompression::None,
        Compression::Lz4 => TableCompression::Lz4,
    };
    // As the engine chooses it.
    let fit_pages = settings.budget_bytes.is_some();
    let env = RealEnv::new();
    let env = if settings.without_polling { env.without_polling() } else { env };
    let builder = Backend::builder(dir)
        .env(Arc::new(env))
        .checkpoint_dir(checkpoints)
        .background_threads(settings.background_threads)
        .table_options(TableOptions { compression, fit_pages, ..TableOptions::default() });
    Ok(limited(builder, settings.budget_bytes).open()?)
}

/// Limits the memory of the backend, if there is a limit.
fn limited(builder: BackendBuilder, budget_bytes: Option<u64>) -> BackendBuilder {
    match budget_bytes {
        Some(bytes) => builder.memory_budget_bytes(bytes),
        None => builder,
    }
}

impl<const K: usize, const V: usize> Alluvium<K, V> {
    fn open(settings: &Settings, dir: &Path, from: Option<SnapshotHandle>) -> Result<Self> {
        let backend = open_backend(settings, dir)?;
        let shard = backend.shard(OPERATOR, MaxParallelism::DEFAULT.all_groups());
        let mut shard = match from {
            Some(handle) => shard.restore([handle]).open()?,
            None => shard.open()?,
        };
        let state = shard.register(StateSpec::value(STATE))?;
        let (dir, shipped, absent) = (dir.to_owned(), BTreeSet::new(), Vec::new());
        Ok(Self { shard, state, dir, number: 0, shipped, absent })
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

    fn settle(&mut self) -> Result<()> {
        // The shard has no work of its own but merging.
        let start = Instant::now();
        while self.shard.stats().is_merging && start.elapsed() < MERGE_PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl<const K: usize, const V: usize> Alluvium<K, V> {
    /// Takes note of a complete checkpoint: gives the bytes of keys and values
    /// in those of its tables that the one before did not have, and removes
    /// what only the one before needed, as a runtime that keeps one checkpoint
    /// does.
    fn supersede(&mut self, handle: &SnapshotHandle) -> Result<u64> {
        let checkpoints = self.dir.join(CHECKPOINTS);
        let manifest = std::fs::read(checkpoints.join(handle.manifest()))?;
        let tables = handle.open_manifest(&manifest)?.tables;
        let raw_bytes = tables
            .iter()
            .filter(|table| !self.shipped.contains(&table.location))
            .map(|table| table.meta.raw_bytes)
            .sum();
        let mut files: BTreeSet<String> = tables.into_iter().map(|table| table.location).collect();
        files.insert(handle.manifest().to_owned());
        for superseded in self.shipped.difference(&files) {
            std::fs::remove_file(checkpoints.join(superseded))?;
        }
        self.shipped = files;
        Ok(raw_bytes)
    }
}

impl<const K: usize, const V: usize> Rmw<K, V> for Alluvium<K, V> {
    #[inline]
    fn rmw(&mut self, key: &[u8; K]) -> Result<()> {
        let mut found = false;
        self.shard.update(self.state, KeyRef::new(key), &mut |value: &mut ValueMut<'_>| {
            if let Some(bytes) = value.bytes_mut() {
                bump(bytes, 1);
                found = true;
            }
        })?;
        if found { Ok(()) } else { Err(lost_key(key)) }
    }

    #[inline]
    fn rmw_batch(&mut self, keys: &[[u8; K]]) -> Result<()> {
        let mut lost = None;
        self.shard.update_batch(self.state, keys, |at, value| match value.bytes_mut() {
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
                self.shard.notify_complete(*snapshot);
                Ok(Some(Written {
                    raw_bytes: Some(self.supersede(&report.handle)?),
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
        self.shard.notify_complete(snapshot);
        Ok((self.dir, report.handle))
    }

    fn restore(settings: &Settings, (dir, handle): &Self::Saved) -> Result<Self> {
        Self::open(settings, dir, Some(handle.clone()))
    }
}

impl<const K: usize, const V: usize> OnDisk<K, V> for Alluvium<K, V> {
    fn insert_absent(&mut self, key: &[u8; K], value: &[u8; V]) -> Result<()> {
        let mut absent = false;
        self.shard.update(self.state, KeyRef::new(key), &mut |found: &mut ValueMut<'_>| {
            absent = found.get().is_none();
            found.set(value);
        })?;
        if absent { Ok(()) } else { Err(unknown_key(key)) }
    }

    fn insert_absent_batch(&mut self, records: &[([u8; K], [u8; V])]) -> Result<()> {
        self.absent.clear();
        self.absent.extend(records.iter().map(|(key, _)| *key));
        let mut known = None;
        self.shard.update_batch(self.state, &self.absent, |at, found| {
            if found.get().is_some() {
                known = Some(at);
            }
            found.set(&records[at].1);
        })?;
        match known {
            None => Ok(()),
            Some(at) => Err(unknown_key(&records[at].0)),
        }
    }

    /// Each checkpoint grants some bytes of merges, which are saved up for a step.
    fn come_to_rest(&mut self, number: &mut u64) -> Result<()> {
        let mut merges = self.shard.stats().merges.merges;
        let mut in_vain = 0;
        while in_vain < CHECKPOINTS_FOR_A_MERGE {
            *number += 1;
            let pending = self.begin_checkpoint(*number)?;
            self.finish_checkpoint(pending)?;
            self.settle()?;
            let now = self.shard.stats().merges.merges;
            in_vain = if now == merges { in_vain + 1 } else { 0 };
            merges = now;
        }
        Ok(())
    }

    fn pack((_, handle): &Self::Saved) -> Vec<u8> {
        handle.encode()
    }

    fn unpack(dir: &Path, packed: &[u8]) -> Result<Self::Saved> {
        Ok((dir.to_owned(), SnapshotHandle::decode(packed)?))
    }
}
