//! A store that is only looked at, whatever the credentials would allow.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use alluvium::env::ReadAt;
use alluvium::object::{Contents, ObjectName, ObjectStore};
use alluvium::{Error, Result};

/// See the [module documentation](self).
pub(crate) struct Looking(pub(crate) Arc<dyn ObjectStore>);

impl Looking {
    fn refuse(&self) -> Error {
        Error::invalid("the store is open for reading only").at(self.0.identity())
    }
}

impl ObjectStore for Looking {
    fn identity(&self) -> String {
        self.0.identity()
    }

    fn is_remote(&self) -> bool {
        self.0.is_remote()
    }

    fn create(&self, _: &ObjectName, _: &[u8]) -> Result<()> {
        Err(self.refuse())
    }

    fn create_from_file(
        &self,
        _: &ObjectName,
        _: &Path,
        _: &Contents,
        _: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        Err(self.refuse())
    }

    fn create_from_source(
        &self,
        _: &ObjectName,
        _: &dyn ReadAt,
        _: &Contents,
        _: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        Err(self.refuse())
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        self.0.open(name)
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.0.len_of(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        self.0.list(prefix)
    }

    fn remove(&self, _: &ObjectName) -> Result<()> {
        Err(self.refuse())
    }
}

impl fmt::Debug for Looking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Looking({:?})", self.0)
    }
}
