//! A folder of a store as a store of its own.

use std::path::Path;
use std::sync::Arc;

use super::{Contents, ObjectName, ObjectStore};
use crate::base::Result;
use crate::env::ReadAt;

/// An [`ObjectStore`] of the objects in one folder of another: a savepoint in a bucket
/// that holds other things, say.
#[derive(Clone, Debug)]
pub struct FolderStore {
    store: Arc<dyn ObjectStore>,
    folder: ObjectName,
}

impl FolderStore {
    /// The folder of this name, which need not exist.
    pub fn new(store: Arc<dyn ObjectStore>, folder: ObjectName) -> Self {
        Self { store, folder }
    }

    fn whole(&self, name: &ObjectName) -> Result<ObjectName> {
        self.folder.join(name.as_str())
    }
}

impl ObjectStore for FolderStore {
    fn identity(&self) -> String {
        format!("{}/{}", self.store.identity(), self.folder)
    }

    fn is_remote(&self) -> bool {
        self.store.is_remote()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.store.create(&self.whole(name)?, bytes)
    }

    fn create_from_file(
        &self,
        name: &ObjectName,
        local: &Path,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.store.create_from_file(&self.whole(name)?, local, expected, keep_going)
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.store.create_from_source(&self.whole(name)?, source, expected, keep_going)
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        self.store.open(&self.whole(name)?)
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.store.len_of(&self.whole(name)?)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        let all = format!("{}/", self.folder);
        let names = self.store.list(&format!("{all}{prefix}"))?;
        let inside = names.iter().filter_map(|name| name.as_str().strip_prefix(&all));
        inside.map(ObjectName::new).collect()
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.store.remove(&self.whole(name)?)
    }
}
