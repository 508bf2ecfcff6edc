//! A checkpoint store that is not of this machine: in memory, read by calls, which
//! fail, lie and are counted on demand.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use alluvium::env::{Env, ReadAt, SimEnv};
use alluvium::object::{Contents, MemoryStore, ObjectName, ObjectStore};
use alluvium::{Error, Result, SnapshotSink, SnapshotSource, StoreSink, TableUpload};

/// What the store does, and what was done to it.
#[derive(Default)]
pub struct Doing {
    /// Every call fails.
    pub is_away: bool,
    /// Reads of more than so many bytes give one wrong byte.
    pub lies_above: Option<usize>,
    pub is_remote: bool,
    /// Reads of open objects, and their bytes.
    pub reads: u64,
    pub read_bytes: u64,
    /// Objects that were discarded: who has one open cannot read it any more.
    pub gone: BTreeSet<String>,
    /// Tables that were put since this was last emptied.
    pub put: Vec<String>,
}

/// See the [module documentation](self). Clones are the same store.
#[derive(Clone)]
pub struct Remote {
    store: Arc<MemoryStore>,
    inner: StoreSink,
    doing: Arc<Mutex<Doing>>,
}

impl Remote {
    pub fn new(env: &SimEnv) -> Self {
        Self::of(Arc::new(env.clone()))
    }

    pub fn of(env: Arc<dyn Env>) -> Self {
        let store = Arc::new(MemoryStore::new(env));
        let inner = StoreSink::new(Arc::clone(&store) as _);
        Self { store, inner, doing: Arc::default() }
    }

    pub fn doing<T>(&self, act: impl FnOnce(&mut Doing) -> T) -> T {
        act(&mut self.doing.lock().unwrap())
    }

    pub fn set_away(&self, is_away: bool) {
        self.doing(|doing| doing.is_away = is_away);
    }

    /// Forgets which tables were put, and gives their names.
    pub fn take_put(&self) -> Vec<String> {
        self.doing(|doing| std::mem::take(&mut doing.put))
    }

    /// The tables that are there.
    pub fn tables(&self) -> Vec<String> {
        let names = self.store.list("tables/").unwrap();
        names.iter().map(|name| name.as_str().to_owned()).collect()
    }

    /// Discards tables, as a runtime does with those of an aborted checkpoint.
    pub fn discard(&self, tables: &[String]) {
        for table in tables {
            self.store.remove(&ObjectName::new(table).unwrap()).unwrap();
            self.doing(|doing| doing.gone.insert(table.clone()));
        }
    }

    fn check(&self) -> Result<()> {
        if self.doing(|doing| doing.is_away) {
            return Err(Error::unavailable("the store is away"));
        }
        Ok(())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({:?})", self.store)
    }
}

impl SnapshotSink for Remote {
    fn identity(&self) -> String {
        SnapshotSink::identity(&self.inner)
    }

    fn put_table(
        &self,
        table: &TableUpload<'_>,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<String> {
        self.check()?;
        let location = self.inner.put_table(table, keep_going)?;
        self.doing(|doing| {
            doing.gone.remove(&location);
            doing.put.push(location.clone());
        });
        Ok(location)
    }

    fn holds_table(&self, location: &str, contents: &Contents) -> Result<bool> {
        self.check()?;
        self.inner.holds_table(location, contents)
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<String> {
        self.check()?;
        self.inner.put_manifest(name, bytes)
    }
}

impl SnapshotSource for Remote {
    fn identity(&self) -> String {
        SnapshotSource::identity(&self.inner)
    }

    fn is_remote(&self) -> bool {
        self.doing(|doing| doing.is_remote)
    }

    fn open(&self, location: &str) -> Result<Arc<dyn ReadAt>> {
        self.check()?;
        let inner = self.inner.open(location)?;
        let (location, doing) = (location.to_owned(), Arc::clone(&self.doing));
        Ok(Arc::new(Object { inner, location, doing }))
    }
}

struct Object {
    inner: Arc<dyn ReadAt>,
    location: String,
    doing: Arc<Mutex<Doing>>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object far away")
    }
}

impl ReadAt for Object {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut doing = self.doing.lock().unwrap();
        doing.reads += 1;
        doing.read_bytes += buf.len() as u64;
        if doing.is_away {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if doing.gone.contains(&self.location) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.inner.read_at(offset, buf)?;
        if doing.lies_above.is_some_and(|most| buf.len() > most) {
            let middle = buf.len() / 2;
            buf[middle] ^= 1;
        }
        Ok(())
    }
}
