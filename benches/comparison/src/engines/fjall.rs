//! fjall at its default durability: a journal, handed to the operating system
//! with every write, without fsync.
//!
//! Two write buffers of 64 MB, two worker threads, and the rest of the memory
//! budget as block cache. fjall has no checkpoint that could be shipped: the
//! closest is an fsync of its journal, after which the state survives on this
//! machine, together with a snapshot for reading. That is what its pause
//! measures; it adds no figure for bytes. Restoring opens its directory.

use std::path::{Path, PathBuf};

use ::fjall::config::{CompressionPolicy, FilterPolicy};
use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Snapshot};

use super::{
    Checkpoint, Compression, Engine, OnDisk, Restore, Rmw, Settings, Written, distinct_counts,
    lost_key, unknown_key, wait_until_idle,
};
use crate::Result;
use crate::workload::{bump, counter_of};

/// A database with one keyspace.
pub(crate) struct Fjall<const K: usize, const V: usize> {
    keyspace: Keyspace,
    database: Database,
    dir: PathBuf,
    /// Kept from call to call, so that a batch does not allocate it.
    batch: Vec<([u8; K], u64)>,
}

/// How the memory is divided: bytes of cache, and of one write buffer.
///
/// fjall stops its writer at four write buffers that wait to be flushed, has index
/// and filter blocks beside its cache, and needs more than the bytes of a record for
/// one in a write buffer. Where a limit is enforced, a third and a twelfth of the
/// memory keep it within a quarter more than all of it; larger parts get its process
/// killed.
fn shares(settings: &Settings) -> (u64, u64) {
    match settings.budget_bytes {
        Some(budget_bytes) => (budget_bytes / 3, budget_bytes / 12),
        None => {
            let buffer_bytes = settings.write_buffer_bytes();
            (settings.memory_bytes - 2 * buffer_bytes, buffer_bytes)
        }
    }
}

/// Opens a database with its share of the memory.
pub(super) fn open_database(settings: &Settings, dir: &Path) -> Result<Database> {
    Ok(Database::builder(dir).cache_size(shares(settings).0).worker_threads(2).open()?)
}

/// Opens one of its keyspaces.
pub(super) fn open_keyspace(
    database: &Database,
    settings: &Settings,
    name: &str,
) -> Result<Keyspace> {
    Ok(database.keyspace(name, || {
        let mut options = KeyspaceCreateOptions::default().max_memtable_size(shares(settings).1);
        // By default fjall leaves its two upper levels as they are and
        // compresses the others with LZ4, which is what LZ4 means here.
        if settings.compression == Compression::None {
            options = options.data_block_compression_policy(CompressionPolicy::disabled());
        }
        if !settings.bloom {
            options = options.filter_policy(FilterPolicy::disabled());
        }
        options
    })?)
}

/// Waits until its workers have nothing left to do.
pub(super) fn wait_for(database: &Database) -> Result<()> {
    wait_until_idle("fjall", || {
        Ok(database.outstanding_flushes() == 0 && database.active_compactions() == 0)
    })
}

impl<const K: usize, const V: usize> Fjall<K, V> {
    fn open(settings: &Settings, dir: &Path) -> Result<Self> {
        let database = open_database(settings, dir)?;
        let keyspace = open_keyspace(&database, settings, "state")?;
        Ok(Self { keyspace, database, dir: dir.to_owned(), batch: Vec::new() })
    }
}

impl<const K: usize, const V: usize> Engine<K, V> for Fjall<K, V> {
    fn create(settings: &Settings, dir: &Path) -> Result<Self> {
        Self::open(settings, &dir.join("db"))
    }

    #[inline]
    fn insert(&mut self, key: &[u8; K], value: &[u8; V]) -> Result<()> {
        Ok(self.keyspace.insert(*key, *value)?)
    }

    fn load(&mut self, records: &[([u8; K], [u8; V])]) -> Result<()> {
        for chunk in records.chunks(256) {
            let mut batch = self.database.batch();
            for (key, value) in chunk {
                batch.insert(&self.keyspace, *key, *value);
            }
            batch.commit()?;
        }
        Ok(())
    }

    #[inline]
    fn counter(&mut self, key: &[u8; K]) -> Result<Option<u64>> {
        Ok(self.keyspace.get(key)?.and_then(|value| counter_of(&value)))
    }

    fn settle(&mut self) -> Result<()> {
        wait_for(&self.database)
    }
}

impl<const K: usize, const V: usize> Rmw<K, V> for Fjall<K, V> {
    #[inline]
    fn rmw(&mut self, key: &[u8; K]) -> Result<()> {
        let mut value = [0; V];
        match self.keyspace.get(key)? {
            Some(found) => value.copy_from_slice(&found),
            None => return Err(lost_key(key)),
        }
        bump(&mut value, 1);
        Ok(self.keyspace.insert(*key, value)?)
    }

    fn rmw_batch(&mut self, keys: &[[u8; K]]) -> Result<()> {
        distinct_counts(keys, &mut self.batch);
        let mut write = self.database.batch();
        for (key, count) in &self.batch {
            let mut value = [0; V];
            match self.keyspace.get(key)? {
                Some(found) => value.copy_from_slice(&found),
                None => return Err(lost_key(key)),
            }
            bump(&mut value, *count);
            write.insert(&self.keyspace, *key, value);
        }
        Ok(write.commit()?)
    }
}

impl<const K: usize, const V: usize> Checkpoint<K, V> for Fjall<K, V> {
    type Pending = Snapshot;

    fn begin_checkpoint(&mut self, _: u64) -> Result<Snapshot> {
        let snapshot = self.database.snapshot();
        self.database.persist(PersistMode::SyncAll)?;
        Ok(snapshot)
    }

    fn poll_checkpoint(&mut self, _: &mut Snapshot) -> Result<Option<Written>> {
        Ok(Some(Written::default()))
    }
}

impl<const K: usize, const V: usize> Restore<K, V> for Fjall<K, V> {
    type Saved = PathBuf;

    fn save(mut self) -> Result<PathBuf> {
        Engine::<K, V>::settle(&mut self)?;
        self.database.persist(PersistMode::SyncAll)?;
        Ok(self.dir)
    }

    fn restore(settings: &Settings, saved: &PathBuf) -> Result<Self> {
        Self::open(settings, saved)
    }
}

impl<const K: usize, const V: usize> OnDisk<K, V> for Fjall<K, V> {
    fn insert_absent_batch(&mut self, records: &[([u8; K], [u8; V])]) -> Result<()> {
        let mut write = self.database.batch();
        for (key, value) in records {
            if self.keyspace.get(key)?.is_some() {
                return Err(unknown_key(key));
            }
            write.insert(&self.keyspace, *key, *value);
        }
        Ok(write.commit()?)
    }

    fn pack(_: &PathBuf) -> Vec<u8> {
        Vec::new()
    }

    fn unpack(dir: &Path, _: &[u8]) -> Result<PathBuf> {
        Ok(dir.join("db"))
    }
}
