//! Another place than the job's store, as a savepoint's snapshots get there from one
//! process.
//!
//! Opening a store may take long, and so may everything else that has to do with it. A
//! worker only makes a [`PlaceSink`], which costs nothing; the first of the process's
//! background threads that has something for it opens it. All shards of the process share
//! it, so it is opened once for each savepoint, also if that fails.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use alluvium::object::{Contents, ObjectStore};
use alluvium::savepoint::NativeSavepoint;
use alluvium::{Error, ErrorKind, Result, SnapshotSink, TableUpload};

use crate::control::mail::Failure;

/// Opens a place by its URL.
pub(crate) type Open = dyn Fn(&str) -> Result<Arc<dyn ObjectStore>> + Send + Sync;

/// Why a job does not know any places.
pub(crate) fn knows_no_places() -> Error {
    Error::invalid("the job takes no savepoints into other places")
        .at("the job, which was not told how to open one")
        .remedy("have it built with Job::places, in all of its processes")
}

/// See the [module documentation](self).
pub(crate) struct PlaceSink {
    place: String,
    open: Option<Arc<Open>>,
    /// Held while it is opened: the others wait for the same.
    opened: Mutex<Option<Result<Arc<dyn SnapshotSink>, Failure>>>,
}

impl PlaceSink {
    pub(crate) fn new(place: &str, open: Option<Arc<Open>>) -> Self {
        Self { place: place.to_owned(), open, opened: Mutex::default() }
    }

    fn opened(&self) -> Result<Arc<dyn SnapshotSink>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = opened.get_or_insert_with(|| {
            let store = match &self.open {
                Some(open) => open(&self.place),
                None => Err(knows_no_places()),
            };
            store.map(NativeSavepoint::sink).map_err(|error| Failure::of(&error))
        });
        match opened {
            Ok(sink) => Ok(Arc::clone(sink)),
            Err(failure) => Err(Error::unavailable("the place of a savepoint cannot be opened")
                .at(&self.place)
                .source(failure.to_error())),
        }
    }

    /// Whatever a place answers, it is no fault of the shard: the savepoint fails, and the
    /// job goes on. Damage is told as it is, since the shard may have another copy of what
    /// is damaged.
    fn judged<T>(&self, done: Result<T>) -> Result<T> {
        done.map_err(|error| {
            if error.is_retryable() || error.kind() == ErrorKind::Corrupt {
                return error;
            }
            let is_in_doubt = error.may_have_happened();
            let judged = Error::unavailable("the place of a savepoint cannot be used")
                .at(&self.place)
                .source(error);
            if is_in_doubt { judged.ambiguous() } else { judged }
        })
    }
}

impl fmt::Debug for PlaceSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlaceSink({:?})", self.place)
    }
}

impl SnapshotSink for PlaceSink {
    /// None, as that of every savepoint in a folder of its own.
    fn identity(&self) -> String {
        String::new()
    }

    fn put_table(
        &self,
        table: &TableUpload<'_>,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<String> {
        self.judged(self.opened()?.put_table(table, keep_going))
    }

    fn puts_at_once(&self, bytes: u64) -> usize {
        // Whoever puts one is told why it cannot.
        self.opened().map_or(1, |sink| sink.puts_at_once(bytes))
    }

    fn holds_table(&self, location: &str, contents: &Contents) -> Result<bool> {
        self.judged(self.opened()?.holds_table(location, contents))
    }

    fn put_manifest(&self, name: &str, bytes: &[u8]) -> Result<String> {
        self.judged(self.opened()?.put_manifest(name, bytes))
    }
}
