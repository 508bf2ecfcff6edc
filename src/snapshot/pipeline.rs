//! The way of a shard's snapshots through the background, one after the other:
//!
//! ```text
//! frozen -> delta -> local table -> uploaded table -> manifest -> handle
//!         1        2              3                4           5
//! ```
//!
//! 1. *Extract* ([`Priority::Urgent`]): copy the frozen records out, in the
//!    order of freezes. The task thread pays for records it changes until then.
//! 2. *Write* ([`Priority::Normal`], as all that follows): sort, and write one
//!    delta table into the backend's own directory. If that fails the delta
//!    waits in memory, and the next snapshot writes it first.
//! 3. *Upload* ([`upload`]): hand the sink every table of the version that it does
//!    not have. Usually that is the new delta; after a failed, cancelled or aborted
//!    snapshot it is what that one left behind, and nothing else. For a full snapshot
//!    it is every table that any manifest may name.
//! 4. *Publish*: only now is there a manifest, made of uploaded tables.
//! 5. The handle names the manifest, with its size and hash.
//!
//! Merging tables ([`Priority::Idle`], in [`merging`]) goes on beside all this and
//! replaces tables in the version when it is done; the next snapshot uploads the
//! result.
//!
//! # What is never lost
//!
//! A frozen epoch leaves the memtable for good when it is extracted. From then
//! on the pipeline holds its changes, as a waiting delta or as a table of the
//! version, and every later manifest includes them.

mod merging;
mod upload;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::SegQueue;
use parking_lot::Mutex;

use crate::base::{Error, FileId, KeyGroupRange, MaxParallelism, Result, SnapshotId};
use crate::env::Env;
use crate::env::budget::MemoryBudget;
use crate::env::executor::{Executor, Priority};
use crate::env::ledger::{MemoryComponent, MemoryLedger};
use crate::env::local_files::LocalFile;
use crate::format::checkpoint::StoredFile;
use crate::format::handle::SnapshotHandle;
use crate::format::manifest::{Manifest, StateMeta, TableRef};
use crate::format::properties::StateProperties;
use crate::format::table::TableMeta;
use crate::shard::FrozenShard;
use crate::shard::compact::Output;
use crate::shard::flush::{Delta, StateRun};
use crate::shard::migration::{Migrations, MigrationsThen};
use crate::shard::operator::OneState;
use crate::table::TableOptions;
use crate::version::plan::{self, MergeLimits};
use crate::version::stats::{MergeStats, TableStats};
use crate::version::{DroppedStates, Places, TableEntry, TableFile, Version};

use self::merging::Merging;
pub(crate) use self::upload::Destination;
use self::upload::{NamedTables, UploadedTable};
use super::local::LocalDir;
use super::sink::SnapshotSink;
use super::stores::Stores;
use super::ticket::{Promise, SnapshotPhase, SnapshotReport, SnapshotTicket};
use super::views::Views;

/// Snapshots whose confirmation is waited for. Beyond that the oldest are
/// forgotten, which costs a question to the sink and nothing else.
const UNCONFIRMED_KEPT: usize = 64;

/// Numbers for files, unique within one incarnation of a backend.
#[derive(Debug)]
pub(crate) struct FileNumbers {
    incarnation: u64,
    next: AtomicU64,
}

impl FileNumbers {
    pub(crate) fn new(incarnation: u64) -> Self {
        Self { incarnation, next: AtomicU64::new(1) }
    }

    pub(crate) fn next(&self) -> FileId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        FileId { incarnation: self.incarnation, number }
    }
}

/// What a pipeline works with.
#[derive(Clone, Debug)]
pub(crate) struct PipelineConfig {
    pub(crate) operator: String,
    pub(crate) groups: KeyGroupRange,
    pub(crate) max_parallelism: MaxParallelism,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) executor: Executor,
    pub(crate) files: Arc<FileNumbers>,
    /// Directory of the tables that this process writes, and of copies of others.
    pub(crate) local: Arc<LocalDir>,
    pub(crate) sink: Arc<dyn SnapshotSink>,
    /// Where tables that are not in the local directory are read.
    pub(crate) stores: Stores,
    pub(crate) table_options: TableOptions,
    /// What merges go by.
    pub(crate) merge_limits: MergeLimits,
    /// How values of registered states are migrated when tables are merged.
    pub(crate) migrations: Arc<Migrations>,
    /// What memory is charged to.
    pub(crate) ledger: Arc<MemoryLedger>,
    /// What memory is counted by, if there is a budget.
    pub(crate) budget: Option<Arc<MemoryBudget>>,
    /// The first number that a delta may take: above those of all tables that
    /// the shard was restored from.
    pub(crate) sequence: u64,
}

/// A frozen shard on its way in.
struct Request {
    frozen: FrozenShard,
    frozen_at_ns: u64,
    /// Without, it is written early, and the next snapshot names what it becomes.
    asked: Option<Asked>,
}

/// A snapshot that somebody asked for.
struct Asked {
    snapshot: SnapshotId,
    to: Destination,
    user_meta: Vec<u8>,
    promise: Promise,
}

/// A snapshot whose records are out of the memtable.
struct Extracted {
    asked: Option<Asked>,
    delta: Delta,
    /// Names of states that were dropped between the freeze before and this one.
    dropped: DroppedStates,
    /// The number of the delta.
    sequence: u64,
    metas: Arc<Vec<StateMeta>>,
    operator: Vec<OneState>,
    watermark: Option<i64>,
    migrations: MigrationsThen,
    frozen_at_ns: u64,
    extract_ns: u64,
}

/// What a manifest says of a snapshot besides its states and tables.
struct About {
    snapshot: SnapshotId,
    to: Destination,
    /// The number of the next delta.
    sequence: u64,
    watermark: Option<i64>,
    user_meta: Vec<u8>,
}

#[derive(Default)]
struct Writing {
    queue: VecDeque<Extracted>,
    busy: bool,
}

struct Tables {
    version: Version,
    /// Deltas that no table holds yet, oldest first, with their numbers.
    waiting: VecDeque<(u64, Arc<Delta>)>,
    /// The number of the next delta to come.
    next_delta: u64,
    /// Records, and their bytes, in deltas that were written since the last snapshot
    /// that somebody asked for.
    early: (u64, u64),
    /// What published snapshots were made of, until they are confirmed. What has been
    /// merged since need not stay for them: the store has it, at the place that is named.
    unconfirmed: BTreeMap<SnapshotId, NamedTables>,
    /// Files that the version has no more, which can go once nobody uses them.
    replaced: Vec<Arc<TableFile>>,
    merging: Merging,
    /// What was done so far.
    done: MergeStats,
}

/// See the [module documentation](self).
pub(crate) struct Pipeline {
    config: PipelineConfig,
    /// Without a lock: the task thread adds to it during its pause.
    extracting: SegQueue<Request>,
    /// Held while a request is extracted: they go in order. The number of the
    /// next delta.
    extractor: Mutex<u64>,
    writing: Mutex<Writing>,
    tables: Mutex<Tables>,
    /// An extraction panicked: the memtables can no longer be trusted to
    /// tell what they have handed out.
    broken: AtomicBool,
    views: Views,
}

impl Pipeline {
    /// A pipeline for a shard whose tables are `version`.
    pub(crate) fn new(config: PipelineConfig, version: Version) -> Arc<Self> {
        let extractor = Mutex::new(config.sequence);
        let tables = Tables {
            version,
            waiting: VecDeque::new(),
            next_delta: config.sequence,
            early: (0, 0),
            unconfirmed: BTreeMap::new(),
            replaced: Vec::new(),
            merging: Merging::new(config.merge_limits),
            done: MergeStats::default(),
        };
        let this = Arc::new(Self {
            config,
            extracting: SegQueue::new(),
            extractor,
            writing: Mutex::default(),
            tables: Mutex::new(tables),
            broken: AtomicBool::new(false),
            views: Views::new(),
        });
        this.config.local.add_shard(&this);
        this
    }

    /// Fails if an earlier failure makes further snapshots impossible.
    pub(crate) fn check_sound(&self) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::closed(
                "the shard takes no more snapshots after an internal failure",
            )
            .at(self)
            .remedy("restore the shard from its last completed snapshot, and report the failure"));
        }
        Ok(())
    }

    /// Takes over a frozen shard. Takes no lock, makes no system call and wakes
    /// nobody: the task thread stands still meanwhile. The background finds the
    /// request by itself, sooner if somebody waits for the ticket.
    pub(crate) fn submit(
        self: &Arc<Self>,
        snapshot: SnapshotId,
        to: Destination,
        frozen: FrozenShard,
        user_meta: Vec<u8>,
        frozen_at_ns: u64,
    ) -> SnapshotTicket {
        let executor = &self.config.executor;
        let (promise, ticket) = Promise::new(snapshot, executor.clone());
        let asked = Some(Asked { snapshot, to, user_meta, promise });
        self.extracting.push(Request { frozen, frozen_at_ns, asked });
        let this = Arc::clone(self);
        executor.spawn_quietly(Priority::Urgent, move || this.extract_next());
        ticket
    }

    /// Takes over a frozen shard that is to be written because there is no room for it
    /// in memory. Does not block.
    pub(super) fn submit_early(self: &Arc<Self>, frozen: FrozenShard) {
        let frozen_at_ns = self.config.env.monotonic_ns();
        self.extracting.push(Request { frozen, frozen_at_ns, asked: None });
        let this = Arc::clone(self);
        self.config.executor.spawn(Priority::Urgent, move || this.extract_next());
    }

    /// Whether something could not be written, and nobody is about to try again.
    pub(super) fn is_left_unwritten(&self) -> bool {
        let is_idle = {
            let writing = self.writing.lock();
            !writing.busy && writing.queue.is_empty()
        };
        is_idle && !self.tables.lock().waiting.is_empty()
    }

    /// Tries to write what could not be written.
    pub(super) fn write_again(self: &Arc<Self>) {
        // Whoever is at it has tried since.
        {
            let mut writing = self.writing.lock();
            if writing.busy {
                return;
            }
            writing.busy = true;
        }
        let _busy = Busy(self);
        let written = self.write_waiting(|| Ok(()));
        self.publish_view(written);
        self.config.local.tables_changed();
        let more = {
            let mut writing = self.writing.lock();
            writing.busy = false;
            !writing.queue.is_empty()
        };
        if more {
            self.write_all_later();
        }
    }

    /// The runtime has completed the checkpoint of this snapshot.
    pub(crate) fn confirm(self: &Arc<Self>, snapshot: SnapshotId) {
        let mut tables = self.tables.lock();
        let mut are_elsewhere = false;
        if let Some(files) = tables.unconfirmed.remove(&snapshot) {
            for (file, location) in files {
                are_elsewhere |= file.upgrade().is_some_and(|file| file.confirm(&location));
            }
            // Earlier ones that were not confirmed by now were subsumed.
            tables.unconfirmed = tables.unconfirmed.split_off(&snapshot);
        }
        drop(tables);
        if are_elsewhere {
            // Not here: tables are opened for it, and the task thread calls this.
            let this = Arc::clone(self);
            self.config.executor.spawn(Priority::Normal, move || this.publish_view(Ok(())));
        }
        self.config.local.look_later();
    }

    /// The runtime has given up the checkpoint of this snapshot.
    pub(crate) fn forget(&self, snapshot: SnapshotId) {
        self.tables.lock().unconfirmed.remove(&snapshot);
    }

    /// Number of tables, the bytes of their files, whether some are being
    /// merged, and what was written and merged so far.
    pub(crate) fn table_stats(&self) -> (usize, u64, bool, MergeStats) {
        let (version, is_merging, done) = {
            let tables = self.tables.lock();
            (tables.version.clone(), tables.merging.is_busy(), tables.done)
        };
        let done = MergeStats { debt_bytes: plan::debt_bytes(&version), ..done };
        (version.tables().len(), version.file_bytes(), is_merging, done)
    }

    /// The tables, oldest first.
    pub(crate) fn tables(&self) -> Vec<TableStats> {
        let version = self.tables.lock().version.clone();
        version.stats()
    }

    fn extract_next(self: &Arc<Self>) {
        {
            // Held until the delta is queued: two threads must neither
            // extract nor queue the epochs of a shard out of order.
            let mut next_sequence = self.extractor.lock();
            let Some(request) = self.extracting.pop() else { return };
            let unsound = Unsound(&self.broken);
            let Request { frozen, frozen_at_ns, asked } = request;
            let FrozenShard { states, metas, operator, dropped, watermark, migrations } = frozen;
            let runs: Vec<_> = states
                .into_iter()
                .zip(metas.iter())
                .map(|(frozen, meta)| StateRun {
                    state: meta.name.clone(),
                    kind: meta.kind,
                    value_schema: meta.value_schema.fingerprint(),
                    stamps: meta.ttl.map(|ttl| ttl.time),
                    run: frozen.extract(),
                })
                .collect();
            std::mem::forget(unsound);
            let extract_ns = self.config.env.monotonic_ns().saturating_sub(frozen_at_ns);
            // Sorting is left to the next step: nobody's speed depends on it.
            let delta = Delta::unsorted(runs);
            // A restore refuses numbers that could ever come to an end.
            let sequence = *next_sequence;
            *next_sequence += 1;
            let extracted = Extracted {
                asked,
                delta,
                dropped,
                sequence,
                metas,
                operator,
                watermark,
                migrations,
                frozen_at_ns,
                extract_ns,
            };
            self.writing.lock().queue.push_back(extracted);
        }
        self.write_all_later();
    }

    /// Finishes waiting snapshots until there are none, unless somebody else
    /// is at it.
    fn write_all(self: &Arc<Self>) {
        {
            let mut writing = self.writing.lock();
            if writing.busy {
                return;
            }
            writing.busy = true;
        }
        let _busy = Busy(self);
        loop {
            let next = {
                let mut writing = self.writing.lock();
                let next = writing.queue.pop_front();
                writing.busy = next.is_some();
                next
            };
            let Some(extracted) = next else { return };
            let (then, watermark) = (Arc::clone(&extracted.migrations), extracted.watermark);
            self.finish(extracted);
            self.tables_changed();
            self.merge_if_needed(then, watermark);
        }
    }

    fn finish(self: &Arc<Self>, extracted: Extracted) {
        let Extracted {
            asked,
            mut delta,
            dropped,
            sequence,
            metas,
            operator,
            watermark,
            frozen_at_ns,
            extract_ns,
            ..
        } = extracted;
        self.drop_states(&dropped);
        if let Some(Asked { promise, .. }) = &asked {
            promise.set_phase(SnapshotPhase::Writing);
        }
        delta.sort(sequence, || self.breathe());
        let (records_new, raw_bytes_new) = {
            let mut tables = self.tables.lock();
            tables.early.0 += delta.records();
            tables.early.1 += delta.raw_bytes();
            tables.next_delta = sequence + 1;
            if !delta.is_empty() {
                tables.waiting.push_back((sequence, Arc::new(delta)));
            }
            if asked.is_some() { std::mem::take(&mut tables.early) } else { tables.early }
        };
        let Some(Asked { snapshot, to, user_meta, promise }) = asked else {
            let written = self.write_waiting(|| Ok(()));
            match &written {
                // Merges are granted as after a snapshot: the next one has it all.
                Ok(()) => self.tables.lock().merging.published(),
                Err(error) => {
                    tracing::warn!(shard = %self, %error, "changes could not be written early");
                }
            }
            return self.publish_view(written);
        };
        let written = self.write_waiting(|| promise.check_cancelled());
        match &written {
            Ok(()) => self.publish_view(Ok(())),
            // Nobody waits for the snapshot any more, but memory does for its delta.
            Err(_) if promise.is_cancelled() && self.views.are_wanted() => {
                self.publish_view(self.write_waiting(|| Ok(())));
            }
            Err(_) if promise.is_cancelled() => {}
            Err(error) => self.publish_view(Err(Error::new(error.kind(), error))),
        }
        let published = written.and_then(|()| {
            let about = About { snapshot, to, sequence: sequence + 1, watermark, user_meta };
            self.upload_and_publish(about, &metas, operator, &promise)
        });
        let result = published.map(|published| SnapshotReport {
            handle: published.handle,
            snapshot,
            pause_ns: 0,
            extract_ns,
            duration_ns: self.config.env.monotonic_ns().saturating_sub(frozen_at_ns),
            bytes_new: published.bytes_new,
            bytes_total: published.bytes_total,
            records_new,
            raw_bytes_new,
            tables: published.tables,
            files: published.files,
        });
        match &result {
            Ok(report) => tracing::debug!(
                shard = %self,
                snapshot = snapshot.0,
                bytes_new = report.bytes_new,
                bytes_total = report.bytes_total,
                duration_ms = report.duration_ns / 1_000_000,
                "snapshot published"
            ),
            Err(error) => {
                tracing::warn!(shard = %self, snapshot = snapshot.0, %error, "snapshot failed");
            }
        }
        promise.keep(result);
    }

    /// Has what earlier snapshots hold of these states count no more. They were
    /// all published, or failed, before this one began; so none of them loses
    /// what it held at its barrier, and none from here on has it.
    fn drop_states(&self, names: &[String]) {
        let mut tables = self.tables.lock();
        if !names.is_empty() {
            tables.version.drop_states(names);
            for (_, delta) in &mut tables.waiting {
                let delta = Arc::get_mut(delta).expect("only who finishes a snapshot lends one");
                delta.drop_states(names);
            }
            tables.waiting.retain(|(_, delta)| !delta.is_empty());
            tables.merging.states_dropped();
        }
        // A merge wants to find its inputs where they were.
        if !tables.merging.is_busy()
            && let Some((version, dropped)) = tables.version.without_dropped()
        {
            tables.replaced.extend(version.files_gone(&dropped));
            tables.version = version;
        }
    }

    /// Writes every waiting delta as a table, oldest first, as long as it may.
    fn write_waiting(&self, may_go_on: impl Fn() -> Result<()>) -> Result<()> {
        loop {
            may_go_on()?;
            // It stays in the queue until a table holds it.
            let front = self.tables.lock().waiting.front().map(|(_, delta)| Arc::clone(delta));
            let Some(delta) = front else {
                return Ok(());
            };
            let (file, local) = self.config.local.new_file();
            let written = delta.write(
                self.config.env.fs(),
                local.path(),
                self.output(file, MemoryComponent::Writing, false),
                || self.breathe(),
            );
            let (meta, states) = match written {
                Ok(written) => written,
                Err(error) => {
                    self.config.local.abandon(local);
                    return Err(error);
                }
            };
            let table = own_table(meta, states, local);
            let mut tables = self.tables.lock();
            tables.merging.delta_written(table.meta.bytes);
            tables.done.note_delta(table.meta.bytes);
            tables.version = tables.version.with_delta(table);
            tables.waiting.pop_front();
        }
    }

    fn upload_and_publish(
        self: &Arc<Self>,
        about: About,
        metas: &[StateMeta],
        operator: Vec<OneState>,
        promise: &Promise,
    ) -> Result<Published> {
        let snapshot = about.snapshot;
        let version = self.tables.lock().version.clone();
        let (uploaded, uploaded_bytes) = self.upload(&version, &about.to, promise)?;
        promise.set_phase(SnapshotPhase::Publishing);
        promise.check_cancelled()?;
        // A shard joined from several may hold several slices of one file.
        let files: BTreeMap<_, _> =
            uploaded.iter().map(|table| (table.meta.file, table.meta.bytes)).collect();
        let tables_bytes: u64 = files.values().sum();
        let tables = uploaded.len();
        let mut stored: Vec<_> = uploaded
            .iter()
            .map(|table| StoredFile {
                location: table.location.as_ref().to_owned(),
                bytes: table.meta.bytes,
            })
            .collect();
        let named = about.to.names(&version, &uploaded);
        let sink = Arc::clone(about.to.sink(&self.config.sink));
        let manifest = self.manifest(about, metas, operator, uploaded);
        let bytes = manifest.encode()?;
        let config = &self.config;
        let name = format!(
            "{:020}-{:05}-{:05}-{}.manifest",
            snapshot.0,
            config.groups.first().0,
            config.groups.last().0,
            config.files.next(),
        );
        let location = sink.put_manifest(&name, &bytes)?;
        let handle = SnapshotHandle::new(&manifest, &bytes, &sink.identity(), &location)?;
        stored.push(StoredFile { location, bytes: bytes.len() as u64 });
        stored.sort_unstable();
        stored.dedup();
        let mut tables_now = self.tables.lock();
        tables_now.merging.published();
        if let Some(named) = named {
            tables_now.unconfirmed.insert(snapshot, named);
        }
        while tables_now.unconfirmed.len() > UNCONFIRMED_KEPT {
            tables_now.unconfirmed.pop_first();
        }
        Ok(Published {
            handle,
            bytes_new: uploaded_bytes + bytes.len() as u64,
            bytes_total: tables_bytes + bytes.len() as u64,
            tables,
            files: stored.into(),
        })
    }

    fn manifest(
        &self,
        about: About,
        metas: &[StateMeta],
        operator: Vec<OneState>,
        tables: Vec<UploadedTable>,
    ) -> Manifest {
        let About { snapshot, sequence, watermark, user_meta, .. } = about;
        let mut states = metas.to_vec();
        states.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut operator_states: Vec<_> = operator.into_iter().map(OneState::into_stored).collect();
        operator_states.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Manifest {
            snapshot,
            operator: self.config.operator.clone(),
            created_unix_ms: self.config.env.unix_time_ms(),
            sequence,
            groups: self.config.groups,
            max_parallelism: self.config.max_parallelism,
            watermark,
            states,
            tables: tables
                .into_iter()
                .map(|table| TableRef {
                    meta: table.meta,
                    location: table.location.as_ref().to_owned(),
                    slice: table.slice,
                    dropped: table.dropped,
                })
                .collect(),
            operator_states,
            user_meta,
        }
    }

    fn breathe(&self) {
        self.config.executor.breathe(Priority::Normal);
    }

    pub(super) fn views(&self) -> &Views {
        &self.views
    }

    pub(super) fn budget(&self) -> Option<&Arc<MemoryBudget>> {
        self.config.budget.as_ref()
    }

    /// Has records give way to what the background needs.
    pub(super) fn note_beside_records(&self) {
        if let Some(budget) = &self.config.budget {
            budget.note_beside(self.ledger().take_most_beside());
        }
    }

    pub(super) fn ledger(&self) -> &Arc<MemoryLedger> {
        &self.config.ledger
    }

    pub(super) fn executor(&self) -> &Executor {
        &self.config.executor
    }

    pub(super) fn local(&self) -> &Arc<LocalDir> {
        &self.config.local
    }

    pub(super) fn stores(&self) -> &Stores {
        &self.config.stores
    }

    pub(super) fn env(&self) -> &dyn Env {
        &*self.config.env
    }

    /// Whether no delta waits to be written.
    pub(super) fn is_all_written(&self) -> bool {
        self.tables.lock().waiting.is_empty()
    }

    /// Whether tables are being merged, or about to be.
    pub(super) fn is_merging(&self) -> bool {
        self.tables.lock().merging.is_busy()
    }

    /// The version, and how many of the shard's freezes are in it.
    pub(super) fn version_now(&self) -> (Version, u64) {
        let tables = self.tables.lock();
        let waiting = tables.waiting.front().map(|(sequence, _)| *sequence);
        let next = waiting.unwrap_or(tables.next_delta);
        (tables.version.clone(), next - self.config.sequence)
    }

    fn write_all_later(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.config.executor.spawn(Priority::Normal, move || this.write_all());
    }

    /// What a new table is to be, and what the memory for it is charged to.
    fn output(&self, file: FileId, component: MemoryComponent, is_lowest: bool) -> Output {
        let options = self.config.table_options;
        Output {
            file,
            max_parallelism: self.config.max_parallelism,
            options: if is_lowest { options } else { options.above_others() },
            charge: self.config.ledger.charge(component, 0),
        }
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.config.operator, self.config.groups)
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipeline({self})")
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // The files of tables go with them, and with the views that have them open.
        let tables = self.tables.get_mut();
        tables.version = Version::default();
        tables.replaced.clear();
        self.views = Views::new();
        self.config.local.sweep();
    }
}

struct Published {
    handle: SnapshotHandle,
    bytes_new: u64,
    bytes_total: u64,
    tables: usize,
    files: Arc<[StoredFile]>,
}

/// A table that this process wrote into its local directory.
fn own_table(
    meta: TableMeta,
    states: Vec<StateProperties>,
    file: Arc<LocalFile>,
) -> Arc<TableEntry> {
    file.set_bytes(meta.bytes);
    let places = Places { local: Some(file), ..Places::default() };
    TableEntry::new(meta, meta.groups, states, &[], places)
}

/// Marks the pipeline broken if it is dropped, that is, if an extraction
/// panics.
struct Unsound<'a>(&'a AtomicBool);

impl Drop for Unsound<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// If writing panics, has another task write what is still queued: the tasks
/// of those snapshots may have come and gone while this one was busy.
struct Busy<'a>(&'a Arc<Pipeline>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.writing.lock().busy = false;
            self.0.write_all_later();
        }
    }
}
