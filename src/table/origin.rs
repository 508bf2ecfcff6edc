//! Where an open table is read, for who decides that: how much is read of it, the
//! local file that it keeps, and where else it can be had if that is damaged.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::reader::TableReader;
use crate::base::{Error, Result};
use crate::env::local_files::LocalFile;

/// Finds another copy of one table.
pub(crate) trait Spare: Send + Sync {
    /// The same table, open elsewhere: `damage` is what was met when a part of this
    /// copy was to be read. May block.
    ///
    /// # Errors
    /// `damage`, if there is no other copy.
    fn instead(&self, damage: Error) -> Result<Arc<TableReader>>;
}

/// See the [module documentation](self).
#[derive(Clone)]
pub(crate) struct Origin {
    /// Counts the blocks that look-ups read.
    pub(crate) reads: Arc<AtomicU64>,
    /// Counts the bytes that are read from the store; without, it is read elsewhere.
    pub(crate) store_bytes: Option<Arc<AtomicU64>>,
    pub(crate) spare: Option<Arc<dyn Spare>>,
    /// Stays where it is as long as the table is open.
    pub(crate) file: Option<Arc<LocalFile>>,
}

impl Origin {
    /// Notes that a look-up read a block, of so many bytes.
    #[inline]
    pub(super) fn note_look_up(&self, bytes: u64) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.note_read(bytes);
    }

    /// Notes that so many bytes were read.
    #[inline]
    pub(super) fn note_read(&self, bytes: u64) {
        if let Some(total) = &self.store_bytes {
            total.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn instead(&self, damage: Error) -> Result<Arc<TableReader>> {
        match &self.spare {
            Some(spare) => spare.instead(damage),
            None => Err(damage),
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("file", &self.file).finish_non_exhaustive()
    }
}
