//! What the workers of one process share: its backend, and whether it has failed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use alluvium::env::Env;
use alluvium::format::Checkpoint;
use alluvium::object::{ObjectName, ObjectStore};
use alluvium::{
    Backend, BackendBuilder, Error, KeyGroupRange, MaxParallelism, Result, Shard, StoreSink,
};

use crate::control::mail::{Failure, Start};
use crate::control::watch::Watch;
use crate::place::{Open, PlaceSink};

/// Changes a backend's settings before it is opened.
pub(crate) type Configure = dyn Fn(BackendBuilder) -> BackendBuilder + Send + Sync;

/// The place of a process among all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Its number, from 0.
    pub(crate) process: usize,
    /// Workers of each process.
    pub(crate) threads: usize,
    /// Workers of all processes.
    pub(crate) workers: usize,
}

/// See the [module documentation](self).
pub(crate) struct Process {
    pub(crate) env: Arc<dyn Env>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) max_parallelism: MaxParallelism,
    /// Of the backend of this process alone.
    pub(crate) dir: PathBuf,
    pub(crate) configure: Box<Configure>,
    pub(crate) lead: u64,
    pub(crate) shape: Shape,
    /// How often this process says that it is there; nothing if nobody listens.
    pub(crate) beat_interval: Option<Duration>,
    watch: Mutex<Option<Watch>>,
    /// How it opens places.
    places: Option<Arc<Open>>,
    /// Those that savepoints are on their way into, by the numbers of these.
    placed: Mutex<BTreeMap<u64, Weak<PlaceSink>>>,
    backend: Mutex<Option<Backend>>,
    /// Why the first of its workers has failed.
    failed: Mutex<Option<Failure>>,
}

impl Process {
    pub(crate) fn new(
        env: Arc<dyn Env>,
        store: Arc<dyn ObjectStore>,
        max_parallelism: MaxParallelism,
        dir: PathBuf,
        configure: Box<Configure>,
        lead: u64,
        shape: Shape,
    ) -> Self {
        let (backend, failed) = (Mutex::default(), Mutex::default());
        let (beat_interval, watch) = (None, Mutex::default());
        let (places, placed) = (None, Mutex::default());
        Self {
            env,
            store,
            max_parallelism,
            dir,
            configure,
            lead,
            shape,
            beat_interval,
            watch,
            places,
            placed,
            backend,
            failed,
        }
    }

    /// Misses other processes after so long a silence, if there are others.
    pub(crate) fn watching(mut self, peer_timeout: Option<Duration>) -> Self {
        let Shape { threads, workers, .. } = self.shape;
        let processes = workers / threads.max(1);
        if let Some(limit) = peer_timeout.filter(|_| processes > 1) {
            let watch = Watch::new(processes, limit, self.env.monotonic_ns());
            self.beat_interval = Some(watch.interval());
            self.watch = Mutex::new(Some(watch));
        }
        self
    }

    /// Opens places in this way.
    pub(crate) fn opening(mut self, places: Option<Arc<Open>>) -> Self {
        self.places = places;
        self
    }

    /// Where the shards of this process put their snapshots for a savepoint of this number
    /// that goes into another place. Nothing is opened by this.
    pub(crate) fn place(&self, id: u64, place: &str) -> Arc<PlaceSink> {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = placed.get(&id).and_then(Weak::upgrade) {
            return sink;
        }
        placed.retain(|_, sink| sink.strong_count() > 0);
        let sink = Arc::new(PlaceSink::new(place, self.places.clone()));
        placed.insert(id, Arc::downgrade(&sink));
        sink
    }

    /// Another process was heard of.
    pub(crate) fn hear(&self, process: usize) {
        if let Some(watch) = &mut *self.watch.lock().unwrap_or_else(PoisonError::into_inner) {
            watch.hear(process);
        }
    }

    /// Looks whether all that were heard of still are.
    ///
    /// # Errors
    /// `Unavailable` if one is not.
    pub(crate) fn look(&self, now_ns: u64) -> Result<()> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        match watch.as_mut().and_then(|watch| watch.look(now_ns)) {
            None => Ok(()),
            Some((process, silent)) => {
                Err(Error::unavailable("a process of the job is not heard of any more")
                    .at(format_args!("process {process}"))
                    .expected("a sign of life every few seconds")
                    .found(format_args!("none for {} ms", silent.as_millis()))
                    .remedy(
                        "start the job again, without that machine if it is gone; or allow longer \
                         silences, if functions of the job may take as long",
                    ))
            }
        }
    }

    /// What the clock shows, in milliseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        i64::try_from(self.env.unix_time_ms()).unwrap_or(i64::MAX)
    }

    /// Opens the shard of one worker and operator, restored from what the job goes on
    /// from. The first caller opens the process's backend.
    pub(crate) fn shard(
        &self,
        start: &Start,
        checkpoint: Option<&Checkpoint>,
        operator: &str,
        groups: KeyGroupRange,
        (index, peers): (u32, u32),
    ) -> Result<Shard> {
        let backend = {
            let mut backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
            match &*backend {
                Some(backend) => backend.clone(),
                None => backend.insert(self.open(start)?).clone(),
            }
        };
        let handles = checkpoint.map(|checkpoint| checkpoint.handles(operator));
        let builder = backend.shard(operator, groups).subtask(index, peers);
        builder.restore(handles.unwrap_or_default()).open()
    }

    fn open(&self, start: &Start) -> Result<Backend> {
        let folder = ObjectName::new(&start.folder)?;
        let sink = Arc::new(StoreSink::in_folder(Arc::clone(&self.store), &folder));
        let builder = Backend::builder(&self.dir)
            .env(Arc::clone(&self.env))
            .max_parallelism(self.max_parallelism);
        let builder = (self.configure)(builder);
        builder.sink(Arc::clone(&sink) as _).source(sink).open()
    }

    /// One of its workers has failed: the others end, too.
    pub(crate) fn fail(&self, error: &Error) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert_with(|| Failure::of(error));
    }

    /// Why one of its workers has failed, if one has.
    pub(crate) fn failure(&self) -> Option<Error> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().map(Failure::to_error)
    }

    /// Closes the backend as soon as its last shard is gone.
    pub(crate) fn close(&self) {
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(backend);
    }
}
