//! The facade: what an operator opens, and the shards it opens from it.
//!
//! A [`Backend`] stands for one directory of this machine and one checkpoint
//! store. It holds what shards share: background threads, ready memory, the
//! lock on the directory.
//!
//! ```text
//! DIR/LOCK           held while the backend is open
//! DIR/local/         tables this process wrote, or fetched from the store; a cache of what
//!                    the store has, and emptied when DIR is opened
//! DIR/checkpoints/   tables/ and manifests/ of snapshots, unless they go elsewhere
//! ```

mod known;
mod shard;
mod stats;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::known::KnownStates;
use crate::base::limits::MAX_USER_META_BYTES;
use crate::base::{Error, ErrorKind, KeyGroupRange, MaxParallelism, Result};
use crate::env::budget::{MIN_BUDGET_BYTES, MemoryBudget};
use crate::env::clock::{ClockThread, CoarseClock};
use crate::env::executor::{Executor, ExecutorThreads};
use crate::env::ledger::MemoryStats;
use crate::env::local_files::LocalFiles;
use crate::env::pages::{PagePool, PageThread};
use crate::env::real::RealEnv;
use crate::env::{Env, Fs};
use crate::format::handle::SnapshotHandle;
use crate::format::manifest::MAX_OPERATOR_BYTES;
use crate::object::LocalStore;
use crate::restore::operator::Subtask;
use crate::restore::warm::WarmUp;
use crate::restore::{Plan, Reading, Target, read_manifest};
use crate::shard::ShardCore;
use crate::snapshot::local::LocalDir;
use crate::snapshot::pipeline::{FileNumbers, Pipeline, PipelineConfig};
use crate::snapshot::sink::{SnapshotSink, SnapshotSource, StoreSink};
use crate::snapshot::stores::Stores;
use crate::table::TableOptions;
use crate::version::plan::MergeLimits;

pub use self::shard::Shard;
pub use self::stats::ShardStats;
pub use crate::snapshot::local::LocalDirStats;

/// Background threads of a backend, unless told otherwise.
pub const DEFAULT_BACKGROUND_THREADS: usize = 1;
/// Tables that a key group of a shard is in above which some are merged, unless
/// told otherwise.
pub const DEFAULT_MAX_TABLES_PER_SHARD: usize = 8;
/// Bytes of a table of the oldest data, unless told otherwise: 32 MiB.
pub const DEFAULT_PARTITION_BYTES: u64 = 32 * 1024 * 1024;
/// Pages of 2 MiB that are kept ready at most, while states grow fast: what a
/// task that inserts as fast as it can fills in some tens of milliseconds, or
/// what several fill in ten.
const MOST_PAGES_READY: usize = 8;

/// One part in so many of the memory budget a partition has at most: whoever merges one
/// keeps some bytes for each record.
const PARTITION_OF_BUDGET: u64 = 4;

/// Settings of a [`Backend`]; see [`Backend::builder`].
#[derive(Debug)]
#[must_use]
pub struct BackendBuilder {
    dir: PathBuf,
    checkpoint_dir: Option<PathBuf>,
    max_parallelism: MaxParallelism,
    background_threads: usize,
    max_tables_per_shard: usize,
    partition_bytes: u64,
    warm_up: bool,
    memory_budget_bytes: Option<u64>,
    local_limit_bytes: Option<u64>,
    local_copies: Option<bool>,
    table_options: Option<TableOptions>,
    env: Option<Arc<dyn Env>>,
    sink: Option<Arc<dyn SnapshotSink>>,
    source: Option<Arc<dyn SnapshotSource>>,
}

impl BackendBuilder {
    /// Where snapshots go, if not to `checkpoints` in the backend's directory.
    /// May be on another disk or a shared file system; it outlives the backend
    /// and may be shared by several.
    pub fn checkpoint_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.checkpoint_dir = Some(dir.into());
        self
    }

    /// The number of key groups. It is fixed for the life of the state: a
    /// snapshot can only be restored with the number it was taken with.
    /// Default: [`MaxParallelism::DEFAULT`].
    pub fn max_parallelism(mut self, max_parallelism: MaxParallelism) -> Self {
        self.max_parallelism = max_parallelism;
        self
    }

    /// Threads that extract, write, upload and merge for all shards of the
    /// backend. More than one helps when several shards take snapshots at once
    /// and there are cores to spare. With 0, whoever waits for a snapshot does
    /// its work, and nothing happens in between.
    /// Default: [`DEFAULT_BACKGROUND_THREADS`].
    pub fn background_threads(mut self, threads: usize) -> Self {
        self.background_threads = threads;
        self
    }

    /// Tables above which a shard merges some of its tables: the most that hold
    /// records of one key group, so the most that a look-up or a restore meets
    /// there. A shard of up to half a [partition](Self::partition_bytes) has no more
    /// tables in all.
    ///
    /// A larger one has its oldest data in partitions, each of other key groups, and
    /// merges one or a few of them after a snapshot, whenever what is newer has come
    /// to 0.7 of its bytes. While it goes through them, new tables come on top: up to
    /// half as many again. Fewer: quicker restores and less space, but more bytes
    /// written and uploaded. At least 1.
    /// Default: [`DEFAULT_MAX_TABLES_PER_SHARD`].
    pub fn max_tables_per_shard(mut self, tables: usize) -> Self {
        self.max_tables_per_shard = tables.max(1);
        self
    }

    /// About how many bytes the tables of a shard's oldest data have, and thus the
    /// least that merges may add to a snapshot: up to one and a half of it, or seven
    /// times the bytes of a usual delta if that is more. A key group is never cut, so
    /// one that is larger has a table of its own.
    ///
    /// Larger: fewer files. Smaller: a large state whose changes are small is merged
    /// in more, smaller steps, so that snapshots are more alike. At least 1; with a
    /// [memory budget](Self::memory_budget_bytes) at most a quarter of that.
    /// Default: [`DEFAULT_PARTITION_BYTES`].
    pub fn partition_bytes(mut self, bytes: u64) -> Self {
        self.partition_bytes = bytes.max(1);
        self
    }

    /// Whether the states of a restored shard are brought into memory in the
    /// background, each from its registration on. Without, each record comes when it is first asked for, and asking for
    /// an absent one always looks into the tables. Default: `true`.
    pub fn warm_up(mut self, warm_up: bool) -> Self {
        self.warm_up = warm_up;
        self
    }

    /// How much memory the backend may use, in bytes, at least
    /// [`MIN_BUDGET_BYTES`]: all shards together, with their indexes, the room
    /// between records, and what the background needs. Operator states must fit. State may
    /// then be far larger than memory. What was not asked for lately is in tables only and is
    /// read from there, one read for a key; of timers the latest are, and when those before
    /// them have fired, all that tables have of the state is read to find the next ones.
    /// Changes are written early when there are many; if writing does not keep up, operations
    /// wait for it.
    ///
    /// Default: no limit, and everything stays in memory.
    pub fn memory_budget_bytes(mut self, bytes: u64) -> Self {
        self.memory_budget_bytes = Some(bytes);
        self
    }

    /// How many bytes the tables in the backend's local directory may have, of all shards
    /// together. State may then be larger than the disk: tables that a
    /// [completed](Shard::notify_complete) snapshot names leave the directory when it is
    /// above the limit, those first of which the fewest blocks were read for each byte,
    /// and are read from the store, block by block, through the
    /// [`source`](Self::source) of the sink's [identity](SnapshotSink::identity).
    ///
    /// What cannot leave may be above the limit: what was written since the last completed
    /// snapshot, what merges have made since, and for a moment what a merge reads and
    /// writes. Then the log says so, and with a
    /// [memory budget](Self::memory_budget_bytes) operations wait up to 10 ms for each
    /// 256th of the memory that they change. It is never an error, so a job that never
    /// completes a snapshot fills the disk. A limit of several times what changes between
    /// two snapshots, and of some [partitions](Self::partition_bytes), is never met for
    /// long.
    ///
    /// Default: none, and tables lie there until no version needs them.
    pub fn local_limit_bytes(mut self, bytes: u64) -> Self {
        self.local_limit_bytes = Some(bytes);
        self
    }

    /// Whether tables that are in the store only, such as those of a restored shard, are
    /// fetched into the local directory in the background while there is room under its
    /// [limit](Self::local_limit_bytes): whole, each once, one after the other. Until
    /// they are there, and if there is no room, their blocks are read from the store.
    ///
    /// Default: with a [memory budget](Self::memory_budget_bytes), those of a store that
    /// [is remote](SnapshotSource::is_remote). Without a budget everything comes into
    /// memory anyway, and a copy serves merges only.
    pub fn local_copies(mut self, local_copies: bool) -> Self {
        self.local_copies = Some(local_copies);
        self
    }

    /// Block size and compression of the tables that are written. Default: that of
    /// [`TableOptions`], but with a memory budget blocks of 4 KiB, which are read for
    /// one record each.
    pub fn table_options(mut self, options: TableOptions) -> Self {
        self.table_options = Some(options);
        self
    }

    /// The world to live in, if not the real one: for simulations.
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = Some(env);
        self
    }

    /// Where snapshots go, if the runtime has its own place for them. To
    /// restore them it must give a [`source`](Self::source) as well.
    pub fn sink(mut self, sink: Arc<dyn SnapshotSink>) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Where restored snapshots come from, if not from the checkpoint
    /// directory.
    pub fn source(mut self, source: Arc<dyn SnapshotSource>) -> Self {
        self.source = Some(source);
        self
    }

    /// Opens the backend: takes the lock on its directory, creating it if need
    /// be, removes what a dead process left in `local`, and starts the
    /// background threads. Snapshots in the checkpoint directory are neither
    /// read nor changed.
    ///
    /// # Errors
    /// `Invalid` if the table options are out of range; `Unavailable` if the
    /// directory cannot be created or written, or is in use by another
    /// backend. At most an empty directory is left behind then.
    pub fn open(self) -> Result<Backend> {
        let table_options = self.table_options.unwrap_or_else(|| match self.memory_budget_bytes {
            None => TableOptions::default(),
            Some(_) => TableOptions { fit_pages: true, ..TableOptions::default() },
        });
        table_options.check()?;
        let budget = self.memory_budget_bytes.map(open_budget).transpose()?;
        let env = self.env.unwrap_or_else(|| Arc::new(RealEnv::new()));
        let fs = env.fs();
        create_dir(fs, &self.dir)?;
        let lock = lock(fs, &self.dir)?;
        let local_dir = self.dir.join("local");
        create_dir(fs, &local_dir)?;
        empty(fs, &local_dir)?;

        let (sink, source) = match (self.sink, self.source) {
            (Some(sink), Some(source)) => (sink, source),
            (sink, source) => {
                let dir = self.checkpoint_dir.unwrap_or_else(|| self.dir.join("checkpoints"));
                let store = StoreSink::new(Arc::new(LocalStore::open(Arc::clone(&env), dir)?));
                (
                    sink.unwrap_or_else(|| Arc::new(store.clone())),
                    source.unwrap_or_else(|| Arc::new(store)),
                )
            }
        };
        let not_started = |source| Error::io("a background thread could not be started", source);
        let (executor, threads) =
            Executor::start(&*env, "alluvium", self.background_threads).map_err(not_started)?;
        // A thread of its own: it sleeps nearly always, but a growing state
        // must not wait for memory until an extraction is over.
        let driven = executor.is_driven_by_caller();
        let pool = Arc::new(match &budget {
            None => PagePool::new(if driven { 0 } else { MOST_PAGES_READY }),
            Some(budget) => PagePool::within(budget, MOST_PAGES_READY),
        });
        let page_thread = if driven || !pool.keeps_ready() {
            None
        } else {
            Some(PageThread::start(&*env, "alluvium-pages", &pool).map_err(not_started)?)
        };
        let clock = CoarseClock::new(Arc::clone(&env), !driven);
        let files = Arc::new(FileNumbers::new(env.random_u64()));
        let local = LocalDir::new(
            LocalFiles::new(Arc::clone(&env), executor.clone(), local_dir),
            executor.clone(),
            Arc::clone(&files),
            self.local_limit_bytes,
            self.local_copies,
        );
        Ok(Backend {
            inner: Arc::new(Inner {
                threads,
                _page_thread: page_thread,
                clock: ClockThread(clock),
                executor,
                pool,
                env,
                files,
                sink,
                source,
                local,
                max_parallelism: self.max_parallelism,
                merge_limits: MergeLimits {
                    max_tables: self.max_tables_per_shard,
                    partition_bytes: match self.memory_budget_bytes {
                        None => self.partition_bytes,
                        Some(bytes) => self.partition_bytes.min(bytes / PARTITION_OF_BUDGET),
                    },
                },
                warm_up: self.warm_up,
                budget,
                table_options,
                _lock: lock,
            }),
        })
    }
}

/// State of one process: background threads, a directory, a checkpoint store.
///
/// Cloning gives another handle to the same backend. It closes when the last
/// handle and the last [`Shard`] are gone; snapshots still under way then end
/// with `Closed`.
#[derive(Clone)]
pub struct Backend {
    inner: Arc<Inner>,
}

// The threads go first: when they have been joined nobody uses the rest.
struct Inner {
    threads: ExecutorThreads,
    _page_thread: Option<PageThread>,
    clock: ClockThread,
    executor: Executor,
    pool: Arc<PagePool>,
    env: Arc<dyn Env>,
    files: Arc<FileNumbers>,
    sink: Arc<dyn SnapshotSink>,
    source: Arc<dyn SnapshotSource>,
    local: Arc<LocalDir>,
    max_parallelism: MaxParallelism,
    merge_limits: MergeLimits,
    warm_up: bool,
    budget: Option<Arc<MemoryBudget>>,
    table_options: TableOptions,
    _lock: Box<dyn Send + Sync>,
}

impl Backend {
    /// A backend whose own files live in `dir`.
    ///
    /// `dir` belongs to the backend: one process at a time, and nothing else
    /// in it.
    pub fn builder(dir: impl Into<PathBuf>) -> BackendBuilder {
        BackendBuilder {
            dir: dir.into(),
            checkpoint_dir: None,
            max_parallelism: MaxParallelism::DEFAULT,
            background_threads: DEFAULT_BACKGROUND_THREADS,
            max_tables_per_shard: DEFAULT_MAX_TABLES_PER_SHARD,
            partition_bytes: DEFAULT_PARTITION_BYTES,
            warm_up: true,
            memory_budget_bytes: None,
            local_limit_bytes: None,
            local_copies: None,
            table_options: None,
            env: None,
            sink: None,
            source: None,
        }
    }

    /// A shard of `operator` that owns `groups`, to be opened empty or
    /// restored. The operator's name is stored in snapshots.
    pub fn shard(&self, operator: &str, groups: KeyGroupRange) -> ShardBuilder {
        ShardBuilder {
            backend: self.clone(),
            operator: operator.to_owned(),
            groups,
            handles: Vec::new(),
            source: None,
            subtask: None,
            known_states: KnownStates::default(),
        }
    }

    /// The number of key groups.
    pub fn max_parallelism(&self) -> MaxParallelism {
        self.inner.max_parallelism
    }

    /// How much memory the backend has, by component, and how much it may have. Costs
    /// some loads from memory.
    ///
    /// What a shard has is as of its last snapshot or early write, or, with a [memory
    /// budget](BackendBuilder::memory_budget_bytes), exact to 64 KiB.
    /// Not in it are thread stacks, what the allocator keeps, the page cache, what a
    /// runtime's own [`SnapshotSink`] takes, and what is small: locks, lists of tables,
    /// bits for changed records (a hundredth of what the records take).
    pub fn memory(&self) -> MemoryStats {
        let limit = self.inner.budget.as_ref().map(|budget| budget.limit_bytes());
        self.inner.pool.ledger().stats().within(limit)
    }

    /// What the runtime attached to a snapshot.
    ///
    /// # Errors
    /// `Corrupt` if the manifest is missing or damaged, `Unavailable` if it
    /// cannot be read.
    pub fn snapshot_meta(&self, handle: &SnapshotHandle) -> Result<Vec<u8>> {
        Ok(read_manifest(&*self.inner.source, handle)?.user_meta)
    }

    /// What the local directory holds, and what came and went. Takes the lists of tables
    /// of all shards, each for a moment.
    pub fn local_dir(&self) -> LocalDirStats {
        self.inner.local.stats()
    }

    /// Runs one piece of waiting background work on this thread; `false` if
    /// there is none. For backends without background threads.
    pub fn run_background(&self) -> bool {
        self.inner.executor.run_one()
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("local_dir", &self.inner.local.path())
            .field("store", &self.inner.sink.identity())
            .field("threads", &self.inner.threads)
            .finish_non_exhaustive()
    }
}

/// A shard about to be opened; see [`Backend::shard`].
#[derive(Debug)]
#[must_use]
pub struct ShardBuilder {
    backend: Backend,
    operator: String,
    groups: KeyGroupRange,
    handles: Vec<SnapshotHandle>,
    source: Option<Arc<dyn SnapshotSource>>,
    subtask: Option<Subtask>,
    known_states: KnownStates,
}

impl ShardBuilder {
    /// Restores the shard from the snapshots of one checkpoint: best those of
    /// all old shards of the operator, each once.
    ///
    /// Keyed state and timers need only those that share a key group with this
    /// shard; the others are not read for data. [Operator
    /// states](crate::OperatorStore) need all: if the snapshots have any, fewer
    /// handles are refused, and if they have none, fewer handles leave a shard
    /// that opens none.
    pub fn restore(mut self, handles: impl IntoIterator<Item = SnapshotHandle>) -> Self {
        self.handles.extend(handles);
        self
    }

    /// Says that the shard is subtask `index` of `parallelism`, counted from 0 in
    /// the order of the key groups: which share of [operator
    /// states](crate::OperatorStore) it has when it is restored.
    ///
    /// Without it, that follows from the key groups if they are those of
    /// [`MaxParallelism::range_of_subtask`] for one parallelism only, as they are
    /// as long as each subtask has many. If they are not, snapshots with operator
    /// states are refused until it is said.
    pub fn subtask(mut self, index: u32, parallelism: u32) -> Self {
        self.subtask = Some(Subtask { index, parallelism });
        self
    }

    /// Reads the restored snapshots from another place than the backend's own.
    /// Tables that its store does not have are uploaded with the next
    /// snapshot.
    pub fn source(mut self, source: Arc<dyn SnapshotSource>) -> Self {
        self.source = Some(source);
        self
    }

    /// Opens the shard. A restore reads manifests, and of tables the indexes
    /// and filters (about a byte a record): the data follows in the background
    /// when the states are registered. From a source that is
    /// [remote](SnapshotSource::is_remote) up to 32 of them are read at a time, on threads
    /// that end with this call.
    ///
    /// # Errors
    /// `Invalid` if the key groups do not fit the backend or the
    /// [subtask](Self::subtask), or the handles do not cover them once each, or if
    /// there are operator states and a handle is missing or it is not known which
    /// subtask this is; `Incompatible` if the snapshots are of
    /// another operator, number of key groups or format, or hold states that are not
    /// [known](Self::known_states); `Corrupt` if a
    /// manifest or table is missing or damaged; `Unavailable` if it cannot be
    /// read. Nothing is changed then.
    pub fn open(self) -> Result<Shard> {
        let inner = &self.backend.inner;
        let all = inner.max_parallelism.all_groups();
        if !all.covers(self.groups) {
            return Err(Error::invalid("the key groups do not fit max_parallelism")
                .at(format_args!("shard {} of operator {:?}", self.groups, self.operator))
                .expected(format_args!("a range within {all}"))
                .found(self.groups)
                .remedy("use MaxParallelism::range_of_subtask to compute it"));
        }
        if self.operator.is_empty() || self.operator.len() > MAX_OPERATOR_BYTES {
            return Err(Error::invalid("the name of an operator has a bad length")
                .expected(format_args!("1 to {MAX_OPERATOR_BYTES} bytes"))
                .found(format_args!("{} bytes", self.operator.len()))
                .remedy("give the operator a short name"));
        }
        if let Some(subtask) = self.subtask {
            subtask.check(self.groups, inner.max_parallelism).map_err(|error| {
                error.at(format_args!("shard {} of operator {:?}", self.groups, self.operator))
            })?;
        }
        let counts = inner.local.counts();
        let source = self.source.as_ref().unwrap_or(&inner.source);
        // Tables go to the backend's own store, and come from there if they leave.
        let own = self.source.as_ref().map(|_| &inner.source);
        let ledger = inner.pool.ledger();
        let stores = Stores::new([source].into_iter().chain(own).cloned(), counts, ledger);
        let mut restored = crate::restore::Restored::default();
        if !self.handles.is_empty() {
            let target = Target {
                operator: &self.operator,
                groups: self.groups,
                max_parallelism: inner.max_parallelism,
                subtask: self.subtask,
            };
            let from = Reading::new(&*inner.env, source);
            let plan = Plan::new(target, &from, &self.handles)?;
            let at = format_args!("shard {} of operator {:?}", self.groups, self.operator);
            self.known_states.check(plan.state_names(), at)?;
            restored = plan.open(&from, &stores)?;
        }
        let mut core = ShardCore::new(
            self.operator.clone(),
            self.groups,
            inner.max_parallelism,
            Arc::clone(&inner.pool),
            inner.env.random_u64(),
            restored.states,
            &restored.base,
        );
        core.start_with(restored.operator);
        core.set_clock(Arc::clone(&inner.clock.0));
        if let Some(watermark) = restored.watermark {
            core.advance_watermark(watermark);
        }
        if inner.warm_up && !restored.base.is_empty() {
            core.start_warming(Box::new(WarmUp::new(
                inner.executor.clone(),
                Arc::clone(inner.pool.ledger()),
            )));
        }
        let pipeline = Pipeline::new(
            PipelineConfig {
                operator: self.operator,
                groups: self.groups,
                max_parallelism: inner.max_parallelism,
                env: Arc::clone(&inner.env),
                executor: inner.executor.clone(),
                files: Arc::clone(&inner.files),
                local: Arc::clone(&inner.local),
                sink: Arc::clone(&inner.sink),
                stores,
                table_options: inner.table_options,
                merge_limits: inner.merge_limits,
                migrations: Arc::clone(core.migrations()),
                ledger: Arc::clone(inner.pool.ledger()),
                budget: inner.budget.clone(),
                sequence: restored.sequence,
            },
            restored.version,
        );
        if let Some(budget) = &inner.budget {
            let tables = Box::new(pipeline.spilling(restored.base));
            core.start_spilling(tables, budget.open_account(), restored.sequence);
        }
        Ok(Shard::new(core, pipeline, self.backend.clone()))
    }
}

fn open_budget(bytes: u64) -> Result<Arc<MemoryBudget>> {
    if bytes >= MIN_BUDGET_BYTES {
        return Ok(Arc::new(MemoryBudget::new(bytes)));
    }
    Err(Error::invalid("the memory budget is too small")
        .expected(format_args!("at least {MIN_BUDGET_BYTES} bytes"))
        .found(format_args!("{bytes} bytes"))
        .remedy("give the backend more memory"))
}

fn check_user_meta(user_meta: &[u8]) -> Result<()> {
    if user_meta.len() <= MAX_USER_META_BYTES {
        return Ok(());
    }
    Err(Error::invalid("what is attached to the snapshot is too long")
        .expected(format_args!("at most {MAX_USER_META_BYTES} bytes"))
        .found(format_args!("{} bytes", user_meta.len()))
        .remedy("keep it in a state, or elsewhere"))
}

fn create_dir(fs: &dyn Fs, dir: &Path) -> Result<()> {
    fs.create_dir_all(dir).map_err(|source| {
        Error::io("a directory of the backend could not be created", source)
            .at(dir.display())
            .remedy(
                "check that its parent exists and may be written, and that no file has its name",
            )
    })
}

fn lock(fs: &dyn Fs, dir: &Path) -> Result<Box<dyn Send + Sync>> {
    let path = dir.join("LOCK");
    let taken = fs.try_lock(&path).map_err(|source| {
        Error::io("the lock on the backend's directory could not be taken", source)
            .at(path.display())
            .remedy("check that the directory may be written")
    })?;
    taken.ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, "the backend's directory is in use")
            .at(dir.display())
            .expected("a directory that no open backend has locked")
            .found("one that is locked, by another process or by this one")
            .remedy("close the other backend, or give this one a directory of its own")
    })
}

/// Removes the files of a dead process from the directory of local tables.
/// Nothing refers to them: what a snapshot needs is in its store.
fn empty(fs: &dyn Fs, dir: &Path) -> Result<()> {
    let remove = |name: &str| fs.remove_file(&dir.join(name));
    let names = fs.list(dir);
    names
        .and_then(|names| {
            names.iter().filter(|name| name.ends_with(".table")).try_for_each(|name| remove(name))
        })
        .map_err(|source| {
            Error::io("files of an earlier process could not be removed", source)
                .at(dir.display())
                .remedy("check that the directory may be written")
        })
}
