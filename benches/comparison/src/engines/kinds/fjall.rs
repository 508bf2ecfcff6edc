//! fjall's lists, maps and timers, under composite keys.
//!
//! fjall has no merge operator. An element of a list is a record of its own, under
//! the key of the list and a number that ascends: appending reads nothing, which
//! is faster than reading the list and writing it anew. A map is read by prefix,
//! timers from the last one that fired on.

use std::path::Path;

use ::fjall::{Database, Keyspace};

use super::{Contents, ENTRY_BYTES, Lists, Maps, Store, Timers, Windows, empty_window};
use crate::Result;
use crate::engines::Settings;
use crate::engines::fjall::{open_database, open_keyspace, wait_for};
use crate::workload::{bump, counter_of};

/// A database with a keyspace for state and one for timers.
pub(crate) struct Fjall {
    state: Keyspace,
    timers: Keyspace,
    database: Database,
    /// The number of the next element.
    element: u64,
    /// All timers up to this time have fired.
    fired: Option<u64>,
    /// Kept from call to call: a composite key, and the timers that fire.
    name: Vec<u8>,
    due: Vec<u8>,
}

impl Fjall {
    /// Moves the timers up to a time into `due`, keys of `N` bytes.
    fn take_due<const N: usize>(&mut self, until: u64) -> Result<()> {
        self.due.clear();
        let from = self.fired.map_or(0, |fired| fired + 1).to_be_bytes();
        self.fired = Some(until);
        let end = (until + 1).to_be_bytes();
        let mut batch = self.database.batch();
        for timer in self.timers.range(from..end) {
            let key = timer.key()?;
            self.due.extend_from_slice(&key);
            batch.remove(&self.timers, key);
        }
        Ok(batch.commit()?)
    }

    fn name(&mut self, parts: &[&[u8]]) {
        self.name.clear();
        parts.iter().for_each(|part| self.name.extend_from_slice(part));
    }
}

impl Store for Fjall {
    fn create(settings: &Settings, dir: &Path) -> Result<Self> {
        let database = open_database(settings, &dir.join("db"))?;
        Ok(Self {
            state: open_keyspace(&database, settings, "state")?,
            timers: open_keyspace(&database, settings, "timers")?,
            database,
            element: 0,
            fired: None,
            name: Vec::new(),
            due: Vec::new(),
        })
    }

    fn settle(&mut self) -> Result<()> {
        wait_for(&self.database)
    }
}

impl<const K: usize, const V: usize> Lists<K, V> for Fjall {
    #[inline]
    fn append(&mut self, key: &[u8; K], element: &[u8; V]) -> Result<()> {
        let number = self.element.to_be_bytes();
        self.element += 1;
        self.name(&[key, &number]);
        Ok(self.state.insert(&self.name[..], *element)?)
    }

    #[inline]
    fn read(&mut self, key: &[u8; K], mut visit: impl FnMut(&[u8])) -> Result<()> {
        for element in self.state.prefix(key) {
            visit(&element.value()?);
        }
        Ok(())
    }

    fn clear(&mut self, key: &[u8; K]) -> Result<()> {
        let mut batch = self.database.batch();
        for element in self.state.prefix(key) {
            batch.remove(&self.state, element.key()?);
        }
        Ok(batch.commit()?)
    }
}

impl<const K: usize, const V: usize> Maps<K, V> for Fjall {
    #[inline]
    fn put(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES], value: &[u8; V]) -> Result<()> {
        self.name(&[key, entry]);
        Ok(self.state.insert(&self.name[..], *value)?)
    }

    #[inline]
    fn get(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES]) -> Result<Option<u64>> {
        self.name(&[key, entry]);
        Ok(self.state.get(&self.name)?.and_then(|value| counter_of(&value)))
    }

    #[inline]
    fn scan(&mut self, key: &[u8; K], mut visit: impl FnMut(&[u8], &[u8])) -> Result<()> {
        for entry in self.state.prefix(key) {
            let (name, value) = entry.into_inner()?;
            visit(&name[K..], &value);
        }
        Ok(())
    }
}

impl<const K: usize> Timers<K> for Fjall {
    #[inline]
    fn register(&mut self, time: u64, key: &[u8; K]) -> Result<()> {
        self.name(&[&time.to_be_bytes(), key]);
        Ok(self.timers.insert(&self.name[..], [])?)
    }

    fn fire(&mut self, until: u64, mut visit: impl FnMut(u64, &[u8])) -> Result<()> {
        self.take_due::<K>(until)?;
        for timer in self.due.chunks_exact(8 + K) {
            let (time, key) = timer.split_first_chunk().ok_or("a timer has a time")?;
            visit(u64::from_be_bytes(*time), key);
        }
        Ok(())
    }
}

impl<const K: usize, const V: usize> Windows<K, V> for Fjall {
    #[inline]
    fn add(
        &mut self,
        contents: Contents,
        key: &[u8; K],
        window: u64,
        event: &[u8; V],
    ) -> Result<()> {
        let end = window.to_be_bytes();
        match contents {
            Contents::List => {
                let number = self.element.to_be_bytes();
                self.element += 1;
                self.name(&[key, &end, &number]);
                self.state.insert(&self.name[..], *event)?;
            }
            Contents::Sum => {
                self.name(&[key, &end]);
                let mut sum = [0; 8];
                if let Some(found) = self.state.get(&self.name)? {
                    sum.copy_from_slice(&found);
                }
                bump(&mut sum, counter_of(event).unwrap_or(0));
                self.state.insert(&self.name[..], sum)?;
            }
        }
        Timers::<K>::register(self, window, key)
    }

    fn fire_window(
        &mut self,
        contents: Contents,
        window: u64,
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<()> {
        let end = window.to_be_bytes();
        self.take_due::<K>(window)?;
        let due = std::mem::take(&mut self.due);
        let mut batch = self.database.batch();
        for timer in due.chunks_exact(8 + K) {
            let key = &timer[8..];
            self.name(&[key, &end]);
            match contents {
                Contents::List => {
                    for event in self.state.prefix(&self.name) {
                        let (name, event) = event.into_inner()?;
                        visit(key, &event);
                        batch.remove(&self.state, name);
                    }
                }
                Contents::Sum => {
                    let sum = self.state.get(&self.name)?;
                    visit(key, &sum.ok_or_else(|| empty_window(window))?);
                    batch.remove(&self.state, &self.name[..]);
                }
            }
            if batch.len() >= 128 {
                batch.commit()?;
                batch = self.database.batch();
            }
        }
        batch.commit()?;
        self.due = due;
        Ok(())
    }
}
