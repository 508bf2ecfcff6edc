//! A store in memory whose open objects cannot be read any more once they are removed, as
//! in a cloud, and which fails to create one when it is told to.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use alluvium::env::{Env, ReadAt};
use alluvium::object::{Contents, MemoryStore, ObjectName, ObjectStore};
use alluvium::{Error, Result};

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Vanishing(Arc<MemoryStore>, Mutex<Option<&'static str>>);

impl Vanishing {
    pub(crate) fn new(env: Arc<dyn Env>) -> Self {
        Self(Arc::new(MemoryStore::new(env)), Mutex::new(None))
    }

    /// From now on the object of this name cannot be created, or all can.
    pub(crate) fn fail_to_create(&self, name: Option<&'static str>) {
        *self.1.lock().unwrap() = name;
    }
}

struct Object {
    name: ObjectName,
    bytes: Arc<dyn ReadAt>,
    store: Arc<MemoryStore>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl ReadAt for Object {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.store.len_of(&self.name) {
            Ok(Some(_)) => self.bytes.read_at(offset, buf),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl ObjectStore for Vanishing {
    fn identity(&self) -> String {
        self.0.identity()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        if *self.1.lock().unwrap() == Some(name.as_str()) {
            return Err(Error::unavailable("the store is away"));
        }
        self.0.create(name, bytes)
    }

    fn create_from_file(
        &self,
        name: &ObjectName,
        local: &Path,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.0.create_from_file(name, local, expected, keep_going)
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.0.create_from_source(name, source, expected, keep_going)
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        let bytes = self.0.open(name)?;
        Ok(Arc::new(Object { name: name.clone(), bytes, store: Arc::clone(&self.0) }))
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.0.len_of(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        self.0.list(prefix)
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.0.remove(name)
    }
}
