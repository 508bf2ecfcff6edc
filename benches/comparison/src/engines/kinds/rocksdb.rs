//! RocksDB's lists, maps and timers, as Flink lays them out.
//!
//! A column family for state and one for timers, tuned like that of the values.
//!
//! * A list is one value, its elements joined; appending is a merge operand, which
//!   reads nothing, and reading or compacting joins them.
//! * An entry of a map is a record under the key of the map and its own; scanning
//!   is a seek and a walk as far as the prefix goes.
//! * A timer is a record under its time and key, without a value. Firing walks
//!   from the time that has fired already on, past the tombstones of what fired
//!   before it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ::rocksdb::checkpoint::Checkpoint as NativeCheckpoint;
use ::rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, MergeOperands, ReadOptions, WriteBatch, WriteOptions,
};

use super::{Contents, ENTRY_BYTES, Lists, Maps, Store, Timers, Windows, empty_window};
use crate::Result;
use crate::engines::rocksdb::{options_for, sst_files, wait_for};
use crate::engines::{Settings, Written};
use crate::workload::{bump, counter_of};

const STATE: &str = "state";
const TIMERS: &str = "timers";
/// Deletions that are written at once.
const DELETIONS: usize = 128;

/// A database with two column families.
pub(crate) struct RocksDb {
    db: DB,
    read: ReadOptions,
    write: WriteOptions,
    dir: PathBuf,
    /// SST files of the newest checkpoint, and its number.
    shipped: BTreeSet<OsString>,
    number: u64,
    /// All timers up to this time have fired.
    fired: Option<u64>,
    /// Kept from call to call: a composite key, an element, and the timers that
    /// fire.
    name: Vec<u8>,
    element: Vec<u8>,
    due: Vec<u8>,
}

/// Joins what is there and what was appended: each element behind its length.
fn join(_: &[u8], existing: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    let len = existing.map_or(0, <[u8]>::len) + operands.iter().map(<[u8]>::len).sum::<usize>();
    let mut joined = Vec::with_capacity(len);
    joined.extend_from_slice(existing.unwrap_or_default());
    operands.iter().for_each(|operand| joined.extend_from_slice(operand));
    Some(joined)
}

/// Shows the elements of a joined list.
fn split(mut joined: &[u8], mut visit: impl FnMut(&[u8])) -> Result<()> {
    while let Some((&len, rest)) = joined.split_first() {
        let (element, rest) = rest.split_at_checked(len.into()).ok_or("a list was cut off")?;
        visit(element);
        joined = rest;
    }
    Ok(())
}

impl RocksDb {
    fn family(&self, name: &str) -> Result<&ColumnFamily> {
        Ok(self.db.cf_handle(name).ok_or("RocksDB has lost a column family")?)
    }

    fn name(&mut self, parts: &[&[u8]]) {
        self.name.clear();
        parts.iter().for_each(|part| self.name.extend_from_slice(part));
    }

    /// Appends to the list under `name`.
    fn merge(&mut self, element: &[u8]) -> Result<()> {
        self.element.clear();
        self.element.push(u8::try_from(element.len())?);
        self.element.extend_from_slice(element);
        Ok(self.db.merge_cf_opt(self.family(STATE)?, &self.name, &self.element, &self.write)?)
    }

    /// Moves the timers up to a time into `due`.
    fn take_due(&mut self, until: u64) -> Result<()> {
        self.due.clear();
        let from = self.fired.map_or(0, |fired| fired + 1).to_be_bytes();
        self.fired = Some(until);
        let family = self.db.cf_handle(TIMERS).ok_or("RocksDB has lost a column family")?;
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound((until + 1).to_be_bytes());
        let mut batch = WriteBatch::default();
        let mut timers = self.db.raw_iterator_cf_opt(family, options);
        timers.seek(from);
        while let Some(timer) = timers.key() {
            self.due.extend_from_slice(timer);
            batch.delete_cf(family, timer);
            timers.next();
        }
        timers.status()?;
        Ok(self.db.write_opt(batch, &self.write)?)
    }
}

impl Store for RocksDb {
    fn create(settings: &Settings, dir: &Path) -> Result<Self> {
        let options = options_for(settings)?;
        let mut state = options.clone();
        state.set_merge_operator_associative("join", join);
        let mut options_of_db = options.clone();
        options_of_db.create_missing_column_families(true);
        let families = [
            ColumnFamilyDescriptor::new(STATE, state),
            ColumnFamilyDescriptor::new(TIMERS, options),
        ];
        let db = DB::open_cf_descriptors(&options_of_db, dir.join("db"), families)?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(Self {
            db,
            read: ReadOptions::default(),
            write,
            dir: dir.to_owned(),
            shipped: BTreeSet::new(),
            number: 0,
            fired: None,
            name: Vec::new(),
            element: Vec::new(),
            due: Vec::new(),
        })
    }

    fn settle(&mut self) -> Result<()> {
        wait_for(&self.db, &[STATE, TIMERS])
    }

    fn checkpoint(&mut self) -> Result<Written> {
        let superseded = self.dir.join(format!("checkpoint-{}", self.number));
        self.number += 1;
        let dir = self.dir.join(format!("checkpoint-{}", self.number));
        NativeCheckpoint::new(&self.db)?.create_checkpoint(&dir)?;
        let files = sst_files(&dir)?;
        let new = files.iter().filter(|(name, _)| !self.shipped.contains(name));
        let stored_bytes = Some(new.map(|(_, bytes)| bytes).sum());
        self.shipped = files.into_iter().map(|(name, _)| name).collect();
        if superseded.exists() {
            std::fs::remove_dir_all(superseded)?;
        }
        Ok(Written { raw_bytes: None, stored_bytes })
    }
}

impl<const K: usize, const V: usize> Lists<K, V> for RocksDb {
    #[inline]
    fn append(&mut self, key: &[u8; K], element: &[u8; V]) -> Result<()> {
        self.name(&[key]);
        self.merge(element)
    }

    #[inline]
    fn read(&mut self, key: &[u8; K], visit: impl FnMut(&[u8])) -> Result<()> {
        match self.db.get_pinned_cf_opt(self.family(STATE)?, key, &self.read)? {
            Some(joined) => split(&joined, visit),
            None => Ok(()),
        }
    }

    fn clear(&mut self, key: &[u8; K]) -> Result<()> {
        Ok(self.db.delete_cf_opt(self.family(STATE)?, key, &self.write)?)
    }
}

impl<const K: usize, const V: usize> Maps<K, V> for RocksDb {
    #[inline]
    fn put(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES], value: &[u8; V]) -> Result<()> {
        self.name(&[key, entry]);
        Ok(self.db.put_cf_opt(self.family(STATE)?, &self.name, value, &self.write)?)
    }

    #[inline]
    fn get(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES]) -> Result<Option<u64>> {
        self.name(&[key, entry]);
        let value = self.db.get_pinned_cf_opt(self.family(STATE)?, &self.name, &self.read)?;
        Ok(value.and_then(|value| counter_of(&value)))
    }

    #[inline]
    fn scan(&mut self, key: &[u8; K], mut visit: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut entries = self.db.raw_iterator_cf_opt(self.family(STATE)?, ReadOptions::default());
        entries.seek(key);
        while let Some((name, value)) = entries.item()
            && let Some(entry) = name.strip_prefix(&key[..])
        {
            visit(entry, value);
            entries.next();
        }
        Ok(entries.status()?)
    }
}

impl<const K: usize> Timers<K> for RocksDb {
    #[inline]
    fn register(&mut self, time: u64, key: &[u8; K]) -> Result<()> {
        self.name(&[&time.to_be_bytes(), key]);
        Ok(self.db.put_cf_opt(self.family(TIMERS)?, &self.name, [], &self.write)?)
    }

    fn fire(&mut self, until: u64, mut visit: impl FnMut(u64, &[u8])) -> Result<()> {
        self.take_due(until)?;
        for timer in self.due.chunks_exact(8 + K) {
            let (time, key) = timer.split_first_chunk().ok_or("a timer has a time")?;
            visit(u64::from_be_bytes(*time), key);
        }
        Ok(())
    }
}

impl<const K: usize, const V: usize> Windows<K, V> for RocksDb {
    #[inline]
    fn add(
        &mut self,
        contents: Contents,
        key: &[u8; K],
        window: u64,
        event: &[u8; V],
    ) -> Result<()> {
        self.name(&[key, &window.to_be_bytes()]);
        match contents {
            Contents::List => self.merge(event)?,
            Contents::Sum => {
                let family = self.family(STATE)?;
                let mut sum = [0; 8];
                if let Some(found) = self.db.get_pinned_cf_opt(family, &self.name, &self.read)? {
                    sum.copy_from_slice(&found);
                }
                bump(&mut sum, counter_of(event).unwrap_or(0));
                self.db.put_cf_opt(family, &self.name, sum, &self.write)?;
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
        self.take_due(window)?;
        let due = std::mem::take(&mut self.due);
        let mut batch = WriteBatch::default();
        for timer in due.chunks_exact(8 + K) {
            let key = &timer[8..];
            self.name(&[key, &window.to_be_bytes()]);
            let family = self.family(STATE)?;
            let found = self.db.get_pinned_cf_opt(family, &self.name, &self.read)?;
            let found = found.ok_or_else(|| empty_window(window))?;
            match contents {
                Contents::List => split(&found, |event| visit(key, event))?,
                Contents::Sum => visit(key, &found),
            }
            batch.delete_cf(family, &self.name);
            if batch.len() >= DELETIONS {
                self.db.write_opt(std::mem::take(&mut batch), &self.write)?;
            }
        }
        self.db.write_opt(batch, &self.write)?;
        self.due = due;
        Ok(())
    }
}
