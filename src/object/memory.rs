//! Objects in memory, for tests and examples. Gone with the process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::name::check_prefix;
use super::{
    COPY_STEP_BYTES, Contents, ObjectName, ObjectStore, already_exists, copy_checked, missing,
};
use crate::base::{Error, Result};
use crate::env::{Env, ReadAt};

/// An [`ObjectStore`] in memory. Every value is a store of its own.
pub struct MemoryStore {
    env: Arc<dyn Env>,
    identity: String,
    objects: Mutex<BTreeMap<ObjectName, Arc<[u8]>>>,
}

impl MemoryStore {
    /// An empty store. `env` is for reading the files that objects are made of.
    pub fn new(env: Arc<dyn Env>) -> Self {
        let identity = format!("memory:{:016x}", env.random_u64());
        Self { env, identity, objects: Mutex::default() }
    }

    fn insert(&self, name: &ObjectName, bytes: Arc<[u8]>) -> Result<()> {
        match self.objects.lock().entry(name.clone()) {
            Entry::Occupied(_) => Err(already_exists(name)),
            Entry::Vacant(place) => {
                place.insert(bytes);
                Ok(())
            }
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({}, {} objects)", self.identity, self.objects.lock().len())
    }
}

impl ObjectStore for MemoryStore {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.insert(name, bytes.into())
    }

    fn create_from_file(
        &self,
        name: &ObjectName,
        local: &Path,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let source = self.env.fs().open(local).map_err(|e| {
            Error::io("cannot open the file to be stored", e).at(local.display()).at(name)
        })?;
        self.create_from_source(name, &*source, expected, keep_going)
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        if self.objects.lock().contains_key(name) {
            return Err(already_exists(name));
        }
        let mut bytes = Vec::with_capacity(source.len().min(COPY_STEP_BYTES as u64) as usize);
        copy_checked(name, source, expected, keep_going, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        self.insert(name, bytes.into())
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        let found = self.objects.lock().get(name).cloned();
        Ok(Arc::new(MemoryObject(found.ok_or_else(|| missing(name, self))?)))
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        Ok(self.objects.lock().get(name).map(|bytes| bytes.len() as u64))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        check_prefix(prefix)?;
        let objects = self.objects.lock();
        Ok(objects.keys().filter(|name| name.as_str().starts_with(prefix)).cloned().collect())
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.objects.lock().remove(name);
        Ok(())
    }
}

struct MemoryObject(Arc<[u8]>);

impl fmt::Debug for MemoryObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryObject({} bytes)", self.0.len())
    }
}

impl ReadAt for MemoryObject {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let found = start
            .and_then(|start| self.0.get(start..start.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(found);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.0)
    }
}
