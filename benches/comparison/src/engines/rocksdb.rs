//! RocksDB through its C interface, tuned as Flink tunes it.
//!
//! No write-ahead log (checkpoints carry durability), two write buffers of
//! 64 MB, a first level of 256 MB and factor ten between levels, blocks of
//! 4 KiB, ten bits of Bloom filter per key, two background jobs. One budget
//! holds block cache and write buffers, divided as Flink divides its managed
//! memory: a third of it at most goes to write buffers, which are charged to
//! the cache; index and filter blocks live in the cache with priority.
//!
//! A checkpoint is RocksDB's own: flush, then hard links. It is synchronous,
//! so the pause is the whole of it. What it added is the SST files that the
//! checkpoint before did not have.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ::rocksdb::checkpoint::Checkpoint as NativeCheckpoint;
use ::rocksdb::properties;
use ::rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, LruCacheOptions,
    Options, ReadOptions, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::{
    Checkpoint, Compression, Engine, OnDisk, Restore, Rmw, Settings, Written, distinct_counts,
    lost_key, unknown_key, wait_until_idle,
};
use crate::Result;
use crate::workload::{bump, counter_of};

const FAMILY: &str = "default";
/// The checkpoint that a restore begins with.
const SAVED: &str = "restore-from";
/// The database that it becomes.
const RESTORED: &str = "restored";
const MB: u64 = 1024 * 1024;

/// A database with one column family.
pub(crate) struct RocksDb<const K: usize, const V: usize> {
    db: DB,
    read: ReadOptions,
    write: WriteOptions,
    dir: PathBuf,
    /// SST files of the newest checkpoint.
    shipped: BTreeSet<OsString>,
    /// Kept from call to call, so that a batch does not allocate it.
    batch: Vec<([u8; K], u64)>,
}

/// How a database and its column families are tuned.
pub(super) fn options_for(settings: &Settings) -> Result<Options> {
    let mut cache_options = LruCacheOptions::default();
    cache_options.set_capacity(usize::try_from(settings.memory_bytes * 5 / 6)?);
    let cache = Cache::new_lru_cache_opts(&cache_options);
    let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
        usize::try_from(settings.memory_bytes / 3)?,
        false,
        cache.clone(),
    );

    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&cache);
    blocks.set_block_size(4096);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if settings.bloom {
        blocks.set_bloom_filter(10.0, false);
    }

    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_manager(&buffers);
    options.set_write_buffer_size(usize::try_from(settings.write_buffer_bytes())?);
    options.set_max_write_buffer_number(2);
    options.set_max_bytes_for_level_base(256 * MB);
    options.set_max_bytes_for_level_multiplier(10.0);
    options.set_max_background_jobs(2);
    // One thread writes: the parallel write path would only cost locks.
    options.set_allow_concurrent_memtable_write(false);
    options.set_compression_type(match settings.compression {
        Compression::None => DBCompressionType::None,
        Compression::Lz4 => DBCompressionType::Lz4,
    });
    Ok(options)
}

/// Waits until its background jobs have nothing left to do.
pub(super) fn wait_for(db: &DB, families: &[&str]) -> Result<()> {
    wait_until_idle("RocksDB", || {
        for name in families {
            let family = db.cf_handle(name).ok_or("RocksDB has lost a column family")?;
            for property in [
                properties::MEM_TABLE_FLUSH_PENDING,
                properties::NUM_RUNNING_FLUSHES,
                properties::COMPACTION_PENDING,
                properties::NUM_RUNNING_COMPACTIONS,
            ] {
                if db.property_int_value_cf(family, property)?.unwrap_or(0) > 0 {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    })
}

impl<const K: usize, const V: usize> RocksDb<K, V> {
    fn open(settings: &Settings, dir: &Path) -> Result<DB> {
        let options = options_for(settings)?;
        // Opened by name, so that batched reads have a handle to it.
        let family = ColumnFamilyDescriptor::new(FAMILY, options.clone());
        Ok(DB::open_cf_descriptors(&options, dir, [family])?)
    }

    fn with(db: DB, dir: &Path) -> Self {
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Self {
            db,
            read: ReadOptions::default(),
            write,
            dir: dir.to_owned(),
            shipped: BTreeSet::new(),
            batch: Vec::new(),
        }
    }

    fn checkpoint_dir(&self, number: u64) -> PathBuf {
        self.dir.join(format!("checkpoint-{number}"))
    }
}

impl<const K: usize, const V: usize> Engine<K, V> for RocksDb<K, V> {
    fn create(settings: &Settings, dir: &Path) -> Result<Self> {
        Ok(Self::with(Self::open(settings, &dir.join("db"))?, dir))
    }

    #[inline]
    fn insert(&mut self, key: &[u8; K], value: &[u8; V]) -> Result<()> {
        Ok(self.db.put_opt(key, value, &self.write)?)
    }

    fn load(&mut self, records: &[([u8; K], [u8; V])]) -> Result<()> {
        for chunk in records.chunks(256) {
            let mut batch = WriteBatch::default();
            for (key, value) in chunk {
                batch.put(key, value);
            }
            self.db.write_opt(batch, &self.write)?;
        }
        Ok(())
    }

    #[inline]
    fn counter(&mut self, key: &[u8; K]) -> Result<Option<u64>> {
        Ok(self.db.get_pinned_opt(key, &self.read)?.and_then(|value| counter_of(&value)))
    }

    fn settle(&mut self) -> Result<()> {
        wait_for(&self.db, &[FAMILY])
    }
}

impl<const K: usize, const V: usize> Rmw<K, V> for RocksDb<K, V> {
    #[inline]
    fn rmw(&mut self, key: &[u8; K]) -> Result<()> {
        let mut value = [0; V];
        match self.db.get_pinned_opt(key, &self.read)? {
            Some(found) => value.copy_from_slice(&found),
            None => return Err(lost_key(key)),
        }
        bump(&mut value, 1);
        Ok(self.db.put_opt(key, value, &self.write)?)
    }

    fn rmw_batch(&mut self, keys: &[[u8; K]]) -> Result<()> {
        distinct_counts(keys, &mut self.batch);
        let family = self.db.cf_handle(FAMILY).ok_or("RocksDB has no default column family")?;
        let found = self.db.batched_multi_get_cf_opt(
            family,
            self.batch.iter().map(|(key, _)| key),
            true,
            &self.read,
        );
        let mut write = WriteBatch::default();
        for ((key, count), found) in self.batch.iter().zip(found) {
            let mut value = [0; V];
            match found? {
                Some(found) => value.copy_from_slice(&found),
                None => return Err(lost_key(key)),
            }
            bump(&mut value, *count);
            write.put(key, value);
        }
        Ok(self.db.write_opt(write, &self.write)?)
    }
}

impl<const K: usize, const V: usize> Checkpoint<K, V> for RocksDb<K, V> {
    type Pending = u64;

    fn begin_checkpoint(&mut self, number: u64) -> Result<u64> {
        let dir = self.checkpoint_dir(number);
        NativeCheckpoint::new(&self.db)?.create_checkpoint(dir)?;
        Ok(number)
    }

    fn poll_checkpoint(&mut self, number: &mut u64) -> Result<Option<Written>> {
        let entries: BTreeMap<OsString, u64> = self
            .db
            .live_files()?
            .into_iter()
            .map(|file| (OsString::from(file.name.trim_start_matches('/')), file.num_entries))
            .collect();
        let files = sst_files(&self.checkpoint_dir(*number))?;
        let (mut raw_bytes, mut stored_bytes) = (0, 0);
        let mut names = BTreeSet::new();
        for (name, bytes) in files {
            if !self.shipped.contains(&name) {
                // RocksDB stores eight bytes of sequence number and type with
                // each entry; they are not state and not counted. A file that
                // a compaction has replaced since can no longer be asked.
                let raw = entries.get(&name).map_or(bytes, |entries| entries * (K + V) as u64);
                raw_bytes += raw;
                stored_bytes += bytes;
            }
            names.insert(name);
        }
        self.shipped = names;
        // The checkpoint before is superseded; dropping its links lets RocksDB
        // give the space back.
        let superseded = self.checkpoint_dir(number.saturating_sub(1));
        if superseded.exists() {
            std::fs::remove_dir_all(superseded)?;
        }
        Ok(Some(Written { raw_bytes: Some(raw_bytes), stored_bytes: Some(stored_bytes) }))
    }
}

impl<const K: usize, const V: usize> Restore<K, V> for RocksDb<K, V> {
    type Saved = PathBuf;

    fn save(mut self) -> Result<PathBuf> {
        Engine::<K, V>::settle(&mut self)?;
        let dir = self.dir.join(SAVED);
        NativeCheckpoint::new(&self.db)?.create_checkpoint(&dir)?;
        Ok(dir)
    }

    fn restore(settings: &Settings, saved: &PathBuf) -> Result<Self> {
        let dir = saved.with_file_name(RESTORED);
        take_files(saved, &dir, settings.copied)?;
        Ok(Self::with(Self::open(settings, &dir)?, &dir))
    }
}

/// Makes `to` a database of the files of a checkpoint, which stays what it is: of its
/// tables, which never change, links or copies, of everything else copies.
fn take_files(checkpoint: &Path, to: &Path, copied: bool) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(checkpoint)? {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let is_table = from.extension().is_some_and(|extension| extension == "sst");
        if is_table && !copied {
            std::fs::hard_link(from, to.join(name))?;
        } else {
            std::fs::copy(from, to.join(name))?;
        }
    }
    Ok(())
}

impl<const K: usize, const V: usize> OnDisk<K, V> for RocksDb<K, V> {
    fn insert_absent_batch(&mut self, records: &[([u8; K], [u8; V])]) -> Result<()> {
        let family = self.db.cf_handle(FAMILY).ok_or("RocksDB has no default column family")?;
        let keys = records.iter().map(|(key, _)| key);
        let found = self.db.batched_multi_get_cf_opt(family, keys, false, &self.read);
        let mut write = WriteBatch::default();
        for ((key, value), found) in records.iter().zip(found) {
            if found?.is_some() {
                return Err(unknown_key(key));
            }
            write.put(key, value);
        }
        Ok(self.db.write_opt(write, &self.write)?)
    }

    fn pack(_: &PathBuf) -> Vec<u8> {
        Vec::new()
    }

    fn unpack(dir: &Path, _: &[u8]) -> Result<PathBuf> {
        Ok(dir.join(SAVED))
    }
}

/// The SST files in a checkpoint, with their sizes.
pub(super) fn sst_files(dir: &Path) -> Result<Vec<(OsString, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "sst") {
            files.push((entry.file_name(), entry.metadata()?.len()));
        }
    }
    Ok(files)
}
