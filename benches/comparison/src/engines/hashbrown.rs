//! Two hash maps, which is what a program without a state backend would use.
//!
//! * [`Inline`]: keys and values inside the map's table. The fastest layout
//!   there is, possible only when all keys and all values of a state have one
//!   size. Growing moves every record at once.
//! * [`Boxed`]: each key and value in an allocation of its own, as a
//!   general-purpose backend over a map must do.
//!
//! Both hash with foldhash, hashbrown's default. A checkpoint clones the whole
//! map on the task thread; another thread then writes the clone to a file of
//! plain records and drops it. Restoring reads such a file into a map of the
//! right capacity.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use ::hashbrown::HashMap;

use super::{Checkpoint, Engine, Restore, Rmw, Settings, Written, lost_key};
use crate::Result;
use crate::workload::{bump, counter_of};

/// A map as the engine below needs it, whichever its layout.
pub(crate) trait Table<const K: usize, const V: usize>:
    Clone + Send + Sized + 'static
{
    fn with_capacity(records: usize) -> Self;
    fn put(&mut self, key: &[u8; K], value: &[u8; V]);
    fn value(&self, key: &[u8; K]) -> Option<&[u8]>;
    fn value_mut(&mut self, key: &[u8; K]) -> Option<&mut [u8]>;
    fn records(&self) -> usize;
    fn write_to(&self, out: &mut impl Write) -> std::io::Result<()>;
}

impl<const K: usize, const V: usize> Table<K, V> for HashMap<[u8; K], [u8; V]> {
    fn with_capacity(records: usize) -> Self {
        Self::with_capacity(records)
    }

    #[inline]
    fn put(&mut self, key: &[u8; K], value: &[u8; V]) {
        self.insert(*key, *value);
    }

    #[inline]
    fn value(&self, key: &[u8; K]) -> Option<&[u8]> {
        self.get(key).map(|value| &value[..])
    }

    #[inline]
    fn value_mut(&mut self, key: &[u8; K]) -> Option<&mut [u8]> {
        self.get_mut(key).map(|value| &mut value[..])
    }

    fn records(&self) -> usize {
        self.len()
    }

    fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        self.iter().try_for_each(|(key, value)| {
            out.write_all(key)?;
            out.write_all(value)
        })
    }
}

impl<const K: usize, const V: usize> Table<K, V> for HashMap<Box<[u8]>, Box<[u8]>> {
    fn with_capacity(records: usize) -> Self {
        Self::with_capacity(records)
    }

    #[inline]
    fn put(&mut self, key: &[u8; K], value: &[u8; V]) {
        self.insert(Box::from(&key[..]), Box::from(&value[..]));
    }

    #[inline]
    fn value(&self, key: &[u8; K]) -> Option<&[u8]> {
        self.get(&key[..]).map(|value| &**value)
    }

    #[inline]
    fn value_mut(&mut self, key: &[u8; K]) -> Option<&mut [u8]> {
        self.get_mut(&key[..]).map(|value| &mut **value)
    }

    fn records(&self) -> usize {
        self.len()
    }

    fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        self.iter().try_for_each(|(key, value)| {
            out.write_all(key)?;
            out.write_all(value)
        })
    }
}

/// Keys and values inside the table.
pub(crate) type Inline<const K: usize, const V: usize> = MapEngine<HashMap<[u8; K], [u8; V]>>;
/// Keys and values in allocations.
pub(crate) type Boxed<const K: usize, const V: usize> = MapEngine<HashMap<Box<[u8]>, Box<[u8]>>>;

/// A map and the place for its checkpoints.
pub(crate) struct MapEngine<T> {
    table: T,
    dir: PathBuf,
}

impl<const K: usize, const V: usize, T: Table<K, V>> Engine<K, V> for MapEngine<T> {
    fn create(_: &Settings, dir: &Path) -> Result<Self> {
        Ok(Self { table: T::with_capacity(0), dir: dir.to_owned() })
    }

    #[inline]
    fn insert(&mut self, key: &[u8; K], value: &[u8; V]) -> Result<()> {
        self.table.put(key, value);
        Ok(())
    }

    #[inline]
    fn counter(&mut self, key: &[u8; K]) -> Result<Option<u64>> {
        Ok(self.table.value(key).and_then(counter_of))
    }
}

impl<const K: usize, const V: usize, T: Table<K, V>> Rmw<K, V> for MapEngine<T> {
    #[inline]
    fn rmw(&mut self, key: &[u8; K]) -> Result<()> {
        match self.table.value_mut(key) {
            Some(value) => {
                bump(value, 1);
                Ok(())
            }
            None => Err(lost_key(key)),
        }
    }

    #[inline]
    fn rmw_batch(&mut self, keys: &[[u8; K]]) -> Result<()> {
        keys.iter().try_for_each(|key| self.rmw(key))
    }
}

/// A thread that writes a clone.
pub(crate) struct Writing {
    thread: Option<JoinHandle<std::io::Result<u64>>>,
}

impl<const K: usize, const V: usize, T: Table<K, V>> Checkpoint<K, V> for MapEngine<T> {
    type Pending = Writing;

    fn begin_checkpoint(&mut self, number: u64) -> Result<Writing> {
        let clone = self.table.clone();
        // Two names in turn: the newest complete checkpoint stays whole.
        let path = checkpoint_path(&self.dir, number % 2);
        let thread = std::thread::spawn(move || {
            write_checkpoint(&clone, &path)?;
            Ok(clone.records() as u64 * (K + V) as u64)
        });
        Ok(Writing { thread: Some(thread) })
    }

    fn poll_checkpoint(&mut self, pending: &mut Writing) -> Result<Option<Written>> {
        match pending.thread.take_if(|thread| thread.is_finished()) {
            Some(thread) => {
                let bytes = thread.join().map_err(|_| "the checkpoint writer panicked")??;
                Ok(Some(Written { raw_bytes: Some(bytes), stored_bytes: Some(bytes) }))
            }
            None => Ok(None),
        }
    }
}

impl<const K: usize, const V: usize, T: Table<K, V>> Restore<K, V> for MapEngine<T> {
    type Saved = (PathBuf, usize);

    fn save(self) -> Result<Self::Saved> {
        write_checkpoint(&self.table, &checkpoint_path(&self.dir, 0))?;
        Ok((self.dir, self.table.records()))
    }

    fn restore(_: &Settings, (dir, records): &Self::Saved) -> Result<Self> {
        let mut table = T::with_capacity(*records);
        let mut file = BufReader::with_capacity(1 << 20, File::open(checkpoint_path(dir, 0))?);
        for _ in 0..*records {
            let (mut key, mut value) = ([0; K], [0; V]);
            file.read_exact(&mut key)?;
            file.read_exact(&mut value)?;
            table.put(&key, &value);
        }
        Ok(Self { table, dir: dir.clone() })
    }
}

fn checkpoint_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("checkpoint-{number}"))
}

fn write_checkpoint<const K: usize, const V: usize>(
    table: &impl Table<K, V>,
    path: &Path,
) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    table.write_to(&mut file)?;
    file.flush()
}
