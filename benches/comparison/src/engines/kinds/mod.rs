//! The stores that are compared, as stores of lists, maps, windows and timers.
//!
//! One trait for each kind of state, as narrow as the measure of it, and used
//! with static dispatch like those of values. Each engine does what its best
//! user would: RocksDB is driven as Flink drives it (a merge operator for lists,
//! the entries of a map under composite keys that are scanned by prefix, timers
//! under keys in the order of time), fjall likewise, and the hash maps hold the
//! collections of the standard library.

use std::path::Path;

use super::{Kind, Settings, Written};
use crate::Result;

pub(crate) mod alluvium;
pub(crate) mod bare;
pub(crate) mod fjall;
pub(crate) mod hashbrown;
#[cfg(feature = "rocksdb")]
pub(crate) mod rocksdb;

/// Bytes of the key of a map entry.
pub(crate) const ENTRY_BYTES: usize = 8;

/// What is kept for a key in a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contents {
    /// The sum of a number per event.
    Sum,
    /// The events.
    List,
}

/// What stores of all kinds have in common.
pub(crate) trait Store: Sized {
    /// Makes an empty store with its files in `dir`, which exists and is empty.
    fn create(settings: &Settings, dir: &Path) -> Result<Self>;

    /// Waits until the engine's own threads have nothing left to do.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Takes a checkpoint and waits for it; says what it added to the one before,
    /// if the engine has checkpoints that can be shipped.
    fn checkpoint(&mut self) -> Result<Written> {
        Ok(Written::default())
    }
}

/// A list for each key.
pub(crate) trait Lists<const K: usize, const V: usize>: Store {
    /// Appends an element.
    fn append(&mut self, key: &[u8; K], element: &[u8; V]) -> Result<()>;

    /// Shows the elements in the order in which they were appended.
    fn read(&mut self, key: &[u8; K], visit: impl FnMut(&[u8])) -> Result<()>;

    /// Removes all elements.
    fn clear(&mut self, key: &[u8; K]) -> Result<()>;
}

/// A map for each key, in the order of the keys of its entries.
pub(crate) trait Maps<const K: usize, const V: usize>: Store {
    /// Inserts or replaces an entry.
    fn put(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES], value: &[u8; V]) -> Result<()>;

    /// The counter in the value of an entry.
    fn get(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES]) -> Result<Option<u64>>;

    /// Shows keys and values of all entries in order.
    fn scan(&mut self, key: &[u8; K], visit: impl FnMut(&[u8], &[u8])) -> Result<()>;
}

/// A queue of timers with the semantics of a set.
pub(crate) trait Timers<const K: usize>: Store {
    /// Registers a timer, unless it is there.
    fn register(&mut self, time: u64, key: &[u8; K]) -> Result<()>;

    /// Removes all timers up to a time and shows them in its order. No timer is
    /// registered for that time or an earlier one from then on.
    fn fire(&mut self, until: u64, visit: impl FnMut(u64, &[u8])) -> Result<()>;
}

/// Windows of keys: each event is added to the state of its key in its window and
/// registers a timer, which fires when the window is over; what was added is then
/// read and purged.
pub(crate) trait Windows<const K: usize, const V: usize>: Store {
    /// Adds an event to a window, which is named by the time of its end. A sum
    /// adds the counter of the event.
    fn add(
        &mut self,
        contents: Contents,
        key: &[u8; K],
        window: u64,
        event: &[u8; V],
    ) -> Result<()>;

    /// Shows what the keys of a window have, key by key, and removes it: for each
    /// key the bytes of the sum, or one event after the other. All windows before
    /// it have been fired.
    fn fire_window(
        &mut self,
        contents: Contents,
        window: u64,
        visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<()>;
}

/// Everything that the measures of kinds ask of an engine.
pub(crate) trait Kinds<const K: usize, const V: usize>:
    Lists<K, V> + Maps<K, V> + Timers<K> + Windows<K, V>
{
}

impl<T, const K: usize, const V: usize> Kinds<K, V> for T where
    T: Lists<K, V> + Maps<K, V> + Timers<K> + Windows<K, V>
{
}

/// Something to be done with one engine, whichever it is.
pub(crate) trait KindsVisitor<const K: usize, const V: usize> {
    /// What comes out.
    type Output;

    /// Does it.
    fn visit<E: Kinds<K, V> + 'static>(self) -> Self::Output;
}

impl Kind {
    /// Calls the visitor with the engine of this kind.
    pub(crate) fn visit_kinds<const K: usize, const V: usize, T: KindsVisitor<K, V>>(
        self,
        visitor: T,
    ) -> T::Output {
        match self {
            Self::Alluvium => visitor.visit::<alluvium::Alluvium>(),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => visitor.visit::<rocksdb::RocksDb>(),
            Self::Fjall => visitor.visit::<fjall::Fjall>(),
            Self::Inline => {
                visitor.visit::<hashbrown::Collections<[u8; K], [u8; V], [u8; ENTRY_BYTES]>>()
            }
            Self::Boxed => {
                visitor.visit::<hashbrown::Collections<Box<[u8]>, Box<[u8]>, Box<[u8]>>>()
            }
        }
    }
}

/// The error for a timer whose window has nothing.
#[cold]
fn empty_window(window: u64) -> crate::Error {
    format!("a timer fired for window {window}, which has nothing of its key").into()
}
