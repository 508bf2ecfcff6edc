//! The stores that are compared, and what each must be able to do.
//!
//! One trait per kind of work. The traits are used with static dispatch: the
//! loop over operations is compiled once per engine, key size and value size,
//! and calls the engine directly.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::Result;
pub(crate) mod alluvium;
pub(crate) mod bare;
pub(crate) mod fjall;
pub(crate) mod hashbrown;
pub(crate) mod kinds;
#[cfg(feature = "rocksdb")]
pub(crate) mod rocksdb;

/// Largest batch an engine is handed.
pub(crate) const MAX_BATCH: usize = 64;

/// Time between two looks at a checkpoint that is waited for.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_micros(100);

/// An engine that can be asked for on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// This project.
    Alluvium,
    /// RocksDB, tuned as Flink tunes it; needs the feature `rocksdb`.
    #[cfg(feature = "rocksdb")]
    Rocksdb,
    /// fjall, a log-structured store in Rust.
    Fjall,
    /// hashbrown with keys and values inside its table.
    Inline,
    /// hashbrown with each key and each value in an allocation of its own.
    Boxed,
}

impl Kind {
    /// As the tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Alluvium => "alluvium",
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => "rocksdb",
            Self::Fjall => "fjall",
            Self::Inline => "hashbrown inline",
            Self::Boxed => "hashbrown boxed",
        }
    }

    /// Whether it can have more state than memory.
    pub(crate) fn on_disk(self) -> bool {
        match self {
            Self::Alluvium | Self::Fjall => true,
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => true,
            Self::Inline | Self::Boxed => false,
        }
    }

    /// Whether it keeps all of its state in memory, unless it is limited.
    pub(crate) fn in_memory(self) -> bool {
        match self {
            Self::Alluvium | Self::Inline | Self::Boxed => true,
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => false,
            Self::Fjall => false,
        }
    }

    /// As the command line calls it.
    pub(crate) fn argument(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// How blocks on disk are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Compression {
    /// Blocks as they are.
    None,
    /// LZ4 everywhere.
    Lz4,
}

/// What engines are told when they open.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Block cache and write buffers together, for engines that have them.
    pub(crate) memory_bytes: u64,
    /// Whether tables carry Bloom filters, for engines with a choice.
    pub(crate) bloom: bool,
    /// Whether a restore copies the files of a checkpoint, as one from a store far away
    /// does, instead of linking them; for engines that need either, since they change the
    /// directory that they work in.
    #[cfg_attr(not(feature = "rocksdb"), expect(dead_code, reason = "only RocksDB has a choice"))]
    pub(crate) copied: bool,
    /// Compression of blocks, for engines with a choice.
    pub(crate) compression: Compression,
    /// Threads that write checkpoints, for Alluvium.
    pub(crate) background_threads: usize,
    /// Whether Alluvium sleeps whenever it waits for the disk.
    pub(crate) without_polling: bool,
    /// What Alluvium may keep in memory; everything, if there is no limit.
    pub(crate) budget_bytes: Option<u64>,
}

impl Settings {
    /// One of two write buffers: 64 MB, or less where a third of the memory does
    /// not hold two of those.
    pub(crate) fn write_buffer_bytes(&self) -> u64 {
        (64 << 20).min(self.memory_bytes / 6)
    }
}

/// A store of counters with a tail: keys of `K` bytes, values of `V` bytes.
pub(crate) trait Engine<const K: usize, const V: usize>: Sized {
    /// Makes an empty store with its files in `dir`, which exists and is empty.
    fn create(settings: &Settings, dir: &Path) -> Result<Self>;

    /// Stores a value under a key that may be new.
    fn insert(&mut self, key: &[u8; K], value: &[u8; V]) -> Result<()>;

    /// Stores many records in the engine's cheapest way, to prepare a measure.
    fn load(&mut self, records: &[([u8; K], [u8; V])]) -> Result<()> {
        records.iter().try_for_each(|(key, value)| self.insert(key, value))
    }

    /// Reads the counter of a key.
    fn counter(&mut self, key: &[u8; K]) -> Result<Option<u64>>;

    /// Waits until the engine's own threads have nothing left to do.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Read a value, add one to its counter, write it back.
pub(crate) trait Rmw<const K: usize, const V: usize>: Engine<K, V> {
    /// On one key, which exists.
    fn rmw(&mut self, key: &[u8; K]) -> Result<()>;

    /// On at most [`MAX_BATCH`] keys, which exist; a key may occur twice and
    /// is then counted twice.
    fn rmw_batch(&mut self, keys: &[[u8; K]]) -> Result<()>;
}

/// What a checkpoint added to what the previous one had already stored.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Written {
    /// Keys and values before compression, if the engine can tell.
    pub(crate) raw_bytes: Option<u64>,
    /// Bytes as stored, if the engine has checkpoints that can be shipped.
    pub(crate) stored_bytes: Option<u64>,
}

/// Checkpoints while the task thread works on.
pub(crate) trait Checkpoint<const K: usize, const V: usize>: Engine<K, V> {
    /// A checkpoint under way.
    type Pending;

    /// Takes checkpoint `number`, ascending from 1. Returns when the task
    /// thread may go on: its duration is the pause.
    fn begin_checkpoint(&mut self, number: u64) -> Result<Self::Pending>;

    /// What the checkpoint wrote, once it is complete. Does not wait.
    fn poll_checkpoint(&mut self, pending: &mut Self::Pending) -> Result<Option<Written>>;

    /// Waits for the checkpoint.
    fn finish_checkpoint(&mut self, mut pending: Self::Pending) -> Result<Written> {
        loop {
            if let Some(written) = self.poll_checkpoint(&mut pending)? {
                return Ok(written);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Starting again from a checkpoint.
pub(crate) trait Restore<const K: usize, const V: usize>: Checkpoint<K, V> {
    /// What is left of the store when its process has gone: a directory, a handle.
    type Saved;

    /// Takes a last checkpoint and closes the store.
    fn save(self) -> Result<Self::Saved>;

    /// Opens the checkpoint; returns when the store can be read.
    fn restore(settings: &Settings, saved: &Self::Saved) -> Result<Self>;
}

/// State that may be larger than memory, of a process that ends and starts again.
pub(crate) trait OnDisk<const K: usize, const V: usize>: Rmw<K, V> + Restore<K, V> {
    /// Looks for a key, which must be absent, and stores a value under it.
    fn insert_absent(&mut self, key: &[u8; K], value: &[u8; V]) -> Result<()> {
        if self.counter(key)?.is_some() {
            return Err(unknown_key(key));
        }
        self.insert(key, value)
    }

    /// The same with at most [`MAX_BATCH`] different keys.
    fn insert_absent_batch(&mut self, records: &[([u8; K], [u8; V])]) -> Result<()>;

    /// Waits until nothing is left to be merged, taking checkpoints if the engine merges
    /// only with them; `number` is that of the newest.
    fn come_to_rest(&mut self, _number: &mut u64) -> Result<()> {
        self.settle()
    }

    /// What another process needs beside the directory to restore what was saved.
    fn pack(saved: &Self::Saved) -> Vec<u8>;

    /// What was saved in `dir`.
    fn unpack(dir: &Path, packed: &[u8]) -> Result<Self::Saved>;
}

/// Something to be done with one engine that is [`Kind::on_disk`].
pub(crate) trait OnDiskVisitor<const K: usize, const V: usize> {
    /// What comes out.
    type Output;

    /// Does it.
    fn visit<E: OnDisk<K, V> + 'static>(self) -> Self::Output;
}

/// Something to be done with one engine, whichever it is.
pub(crate) trait Visitor<const K: usize, const V: usize> {
    /// What comes out.
    type Output;

    /// Does it.
    fn visit<E: Rmw<K, V> + Restore<K, V> + 'static>(self) -> Self::Output;
}

impl Kind {
    /// Calls the visitor with the engine of this kind.
    pub(crate) fn visit<const K: usize, const V: usize, T: Visitor<K, V>>(
        self,
        visitor: T,
    ) -> T::Output {
        match self {
            Self::Alluvium => visitor.visit::<alluvium::Alluvium<K, V>>(),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => visitor.visit::<rocksdb::RocksDb<K, V>>(),
            Self::Fjall => visitor.visit::<fjall::Fjall<K, V>>(),
            Self::Inline => visitor.visit::<hashbrown::Inline<K, V>>(),
            Self::Boxed => visitor.visit::<hashbrown::Boxed<K, V>>(),
        }
    }
}

impl Kind {
    /// Calls the visitor with the engine of this kind, if it is
    /// [on disk](Self::on_disk).
    pub(crate) fn visit_on_disk<const K: usize, const V: usize, T: OnDiskVisitor<K, V>>(
        self,
        visitor: T,
    ) -> Option<T::Output> {
        match self {
            Self::Alluvium => Some(visitor.visit::<alluvium::Alluvium<K, V>>()),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => Some(visitor.visit::<rocksdb::RocksDb<K, V>>()),
            Self::Fjall => Some(visitor.visit::<fjall::Fjall<K, V>>()),
            Self::Inline | Self::Boxed => None,
        }
    }
}

/// The error for a key that nobody stored and the engine has.
#[cold]
pub(crate) fn unknown_key<const K: usize>(key: &[u8; K]) -> Box<dyn std::error::Error> {
    format!("the engine has key {key:02x?}, which was never stored").into()
}

/// The error for a key that the preparation stored and the engine lost.
#[cold]
pub(crate) fn lost_key<const K: usize>(key: &[u8; K]) -> Box<dyn std::error::Error> {
    format!("the engine has lost key {key:02x?}").into()
}

/// Sorts a batch and merges equal keys, for engines whose batches cannot see
/// their own writes: each key once, with how often it occurred.
pub(crate) fn distinct_counts<const K: usize>(keys: &[[u8; K]], into: &mut Vec<([u8; K], u64)>) {
    into.clear();
    into.extend(keys.iter().map(|key| (*key, 1)));
    into.sort_unstable();
    into.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 += later.1;
        }
        same
    });
}

/// Waits until `idle` says so.
///
/// # Errors
/// If that takes more than five minutes.
pub(crate) fn wait_until_idle(name: &str, mut idle: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !idle()? {
        if start.elapsed() > Duration::from_secs(300) {
            return Err(format!("{name} is still busy in the background after 300 s").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
