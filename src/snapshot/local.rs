//! The local directory as a cache of the checkpoint store.
//!
//! Tables are written here, and read here. When the directory has a limit and is above
//! it, tables leave that can be read from the store; when there is room, and the store
//! is far away, tables are fetched.
//!
//! # What may leave
//!
//! What nobody may discard in the store: tables that a confirmed snapshot names, or that
//! the shard was restored from. Others stay, whatever the limit: what no snapshot has
//! uploaded, what a merge has made since the last one, and what is uploaded by a
//! snapshot that may yet be aborted. If they alone are above the limit, writers with a
//! memory budget wait a little for each piece that they change
//! ([`spill`](crate::shard::spill)), and the log says so. It is never an error: the next
//! confirmed snapshot makes room. A table is opened in the store before its local file
//! goes, so a store that cannot be reached takes nothing away.
//!
//! # Which leaves first
//!
//! The one with the fewest blocks read by look-ups for each byte of space, lately. All
//! blocks cost the same to read from the store, whatever table they are in, so this
//! keeps the reads of the store few. The oldest data, the partitions at the bottom, is
//! read the most in all; but for each byte it is read less than newer tables are, which
//! are asked by every look-up and small. Among tables that nobody reads the largest goes
//! first, and the oldest of those. Merges are not counted: they read every table once,
//! wherever it is.
//!
//! # What is fetched
//!
//! Tables of a store that is remote, or all if the builder says so: in the reverse
//! order, and while nobody reads yet the smallest first, and the newest of those. A copy
//! is read once from front to back, its size and hash are checked, it is synced, and
//! then read instead. An eighth of the limit is left for what is written next.
//!
//! # Whose space is free when
//!
//! A table that has left is read from the store from the next view on. Its file goes
//! when the last who has it open does ([`LocalFiles`]): a shard, when it works next.

use std::cmp::Ordering as Order;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::base::checksum::ContentHasher;
use crate::base::{Error, ErrorKind, FileId, Result};
use crate::env::ReadAt;
use crate::env::executor::{Executor, Priority};
use crate::env::local_files::{LocalFile, LocalFiles};
use crate::format::table::TableMeta;
use crate::object::COPY_STEP_BYTES;
use crate::table::TableReader;
use crate::version::{TableEntry, TableFile};

use super::pipeline::{FileNumbers, Pipeline};
use super::stores::StoreCounts;

/// One part in so many of the limit is left for what is written next.
const LEFT_FOR_WRITES: u64 = 8;
/// Writers wait as long as they ever do for the directory when what cannot leave is
/// above the limit by one part in so many.
const FAR_ABOVE: u64 = 4;

/// What the local directory of a [`Backend`](crate::Backend) holds, for gauges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LocalDirStats {
    /// The [limit](crate::BackendBuilder::local_limit_bytes), if there is one.
    pub limit_bytes: Option<u64>,
    /// Bytes of the table files in the directory, those included that are being fetched;
    /// one that is being written counts when it is done.
    pub bytes: u64,
    /// Bytes of those of them that nobody will open again, but somebody has open still: a
    /// shard, until it works next.
    pub leaving_bytes: u64,
    /// Bytes by which what cannot leave was above the limit when that was looked at last.
    pub above_limit_bytes: u64,
    /// Tables that are in the directory; each counts once for each shard.
    pub tables_local: usize,
    /// Tables that are read from the store.
    pub tables_in_store_only: usize,
    /// Bytes fetched from the store so far, as whole tables.
    pub fetched_bytes: u64,
    /// Bytes of tables that left so far because of the limit.
    pub evicted_bytes: u64,
    /// Bytes read from tables in a store so far: of blocks by look-ups and scans, and of
    /// indexes when they were opened. What is fetched is not counted here.
    pub store_read_bytes: u64,
    /// Local files that were found missing or damaged so far, and gave way to the store.
    pub lost_files: u64,
}

/// See the [module documentation](self).
pub(crate) struct LocalDir {
    files: Arc<LocalFiles>,
    executor: Executor,
    numbers: Arc<FileNumbers>,
    limit_bytes: Option<u64>,
    /// Whether tables are fetched; if nobody has said, when their store is remote.
    copies: Option<bool>,
    counts: Arc<StoreCounts>,
    fetched_bytes: AtomicU64,
    evicted_bytes: AtomicU64,
    above_limit_bytes: AtomicU64,
    shards: Mutex<Vec<Weak<Pipeline>>>,
    /// Held by who makes room; others leave it to them.
    making_room: Mutex<()>,
    /// There may be more to do than whoever makes room has seen.
    again: AtomicBool,
    /// A look at the directory is queued.
    look_due: AtomicBool,
    /// Fetching is queued or under way.
    fetching: AtomicBool,
    /// Tables that are not in the store as they should be.
    unsound: Mutex<BTreeSet<FileId>>,
}

/// One file in the directory, and whose it is.
struct Candidate {
    meta: TableMeta,
    heat: u64,
    /// Counted from the oldest table of a shard.
    age: usize,
    may_leave: bool,
    /// By the number of their shard.
    tables: Vec<(usize, Arc<TableEntry>)>,
}

impl Candidate {
    /// The one that may leave sooner comes first.
    fn compare(&self, other: &Self) -> Order {
        let density = |of: &Self, by: &Self| u128::from(of.heat) * u128::from(by.meta.bytes);
        density(self, other)
            .cmp(&density(other, self))
            .then(other.meta.bytes.cmp(&self.meta.bytes))
            .then(self.age.cmp(&other.age))
            .then(self.meta.file.cmp(&other.meta.file))
    }
}

impl LocalDir {
    pub(crate) fn new(
        files: Arc<LocalFiles>,
        executor: Executor,
        numbers: Arc<FileNumbers>,
        limit_bytes: Option<u64>,
        copies: Option<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            files,
            executor,
            numbers,
            limit_bytes,
            copies,
            counts: Arc::default(),
            fetched_bytes: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
            above_limit_bytes: AtomicU64::new(0),
            shards: Mutex::default(),
            making_room: Mutex::default(),
            again: AtomicBool::new(false),
            look_due: AtomicBool::new(false),
            fetching: AtomicBool::new(false),
            unsound: Mutex::default(),
        })
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.files.dir()
    }

    pub(crate) fn counts(&self) -> &Arc<StoreCounts> {
        &self.counts
    }

    pub(crate) fn stats(&self) -> LocalDirStats {
        let (mut tables_local, mut tables_in_store_only) = (0, 0);
        for shard in self.shards() {
            for file in files_of(&shard) {
                let is_local = file.places().local.is_some();
                *(if is_local { &mut tables_local } else { &mut tables_in_store_only }) += 1;
            }
        }
        LocalDirStats {
            limit_bytes: self.limit_bytes,
            bytes: self.files.bytes(),
            leaving_bytes: self.files.leaving_bytes(),
            above_limit_bytes: self.above_limit_bytes.load(Ordering::Relaxed),
            tables_local,
            tables_in_store_only,
            fetched_bytes: self.fetched_bytes.load(Ordering::Relaxed),
            evicted_bytes: self.evicted_bytes.load(Ordering::Relaxed),
            store_read_bytes: self.counts.read_bytes.load(Ordering::Relaxed),
            lost_files: self.counts.lost_files.load(Ordering::Relaxed),
        }
    }

    /// A name for a table that is about to be written.
    pub(super) fn new_file(&self) -> (FileId, Arc<LocalFile>) {
        let file = self.numbers.next();
        (file, self.files.add(&format!("{file}.table")))
    }

    /// Gives up a file that could not be written.
    pub(super) fn abandon(&self, file: Arc<LocalFile>) {
        drop(file);
        self.files.sweep();
        // Somebody may have taken it away; then the next attempt finds it.
        let _ = self.files.env().fs().create_dir_all(self.files.dir());
    }

    /// Removes what nobody needs any more.
    pub(super) fn sweep(&self) {
        self.files.sweep();
    }

    /// From now on the tables of this shard are seen to, too.
    pub(super) fn add_shard(self: &Arc<Self>, shard: &Arc<Pipeline>) {
        let mut shards = self.shards.lock();
        shards.retain(|shard| shard.strong_count() > 0);
        shards.push(Arc::downgrade(shard));
        drop(shards);
        self.fetch_later();
    }

    fn shards(&self) -> Vec<Arc<Pipeline>> {
        self.shards.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Tables were written, merged or confirmed: makes room, or uses what there is. Not
    /// for task threads.
    pub(super) fn tables_changed(self: &Arc<Self>) {
        self.look_due.store(false, Ordering::Relaxed);
        self.files.sweep();
        self.make_room();
        self.fetch_later();
    }

    /// The same, done by the background if there is anything to do.
    pub(super) fn look_later(self: &Arc<Self>) {
        if self.excess_bytes() > 0 && !self.look_due.swap(true, Ordering::Relaxed) {
            let this = Arc::clone(self);
            self.executor.spawn(Priority::Normal, move || this.tables_changed());
        }
    }

    /// Bytes of what stays that are above the limit.
    fn excess_bytes(&self) -> u64 {
        self.limit_bytes.map_or(0, |limit| self.files.staying_bytes().saturating_sub(limit))
    }

    /// How far what cannot leave is above the limit, from 0 to 1. Costs a load if it is
    /// not.
    pub(super) fn shortage(&self) -> f64 {
        let above = self.above_limit_bytes.load(Ordering::Relaxed);
        match self.limit_bytes {
            Some(limit) if above > 0 => (above as f64 / (limit / FAR_ABOVE).max(1) as f64).min(1.0),
            _ => 0.0,
        }
    }

    /// Has tables leave until what is left is within the limit, or cannot leave.
    fn make_room(&self) {
        if self.limit_bytes.is_none() {
            return;
        }
        self.again.store(true, Ordering::Relaxed);
        while self.again.load(Ordering::Relaxed) {
            let Some(_alone) = self.making_room.try_lock() else { return };
            self.again.store(false, Ordering::Relaxed);
            self.let_some_leave();
        }
    }

    fn let_some_leave(&self) {
        let shards = self.shards();
        let mut left = BTreeSet::new();
        for candidate in self.coldest_first(&shards) {
            if self.excess_bytes() == 0 {
                break;
            }
            match leave(&shards, &candidate) {
                Ok(()) => {
                    let bytes = candidate.meta.bytes;
                    self.evicted_bytes.fetch_add(bytes, Ordering::Relaxed);
                    left.extend(candidate.tables.iter().map(|(shard, _)| *shard));
                }
                // The others may be in another store.
                Err(error) => tracing::warn!(
                    table = %candidate.meta.file, %error,
                    "a table stays in the local directory, since the store does not give it"
                ),
            }
        }
        for shard in left {
            shards[shard].publish_view(Ok(()));
        }
        self.files.sweep();
        let above = self.excess_bytes();
        let before = self.above_limit_bytes.swap(above, Ordering::Relaxed);
        if above > 0 && before == 0 {
            tracing::warn!(
                dir = %self.files.dir().display(), limit = self.limit_bytes, above,
                "what must stay in the local directory is above its limit until a snapshot is \
                 confirmed"
            );
        }
    }

    /// What may leave.
    fn coldest_first(&self, shards: &[Arc<Pipeline>]) -> Vec<Candidate> {
        let mut found: BTreeMap<FileId, Candidate> = BTreeMap::new();
        for (number, shard) in shards.iter().enumerate() {
            for (age, table) in tables_of(shard).into_iter().enumerate() {
                let heat = table.cool();
                let places = table.places();
                if places.local.is_none() {
                    continue;
                }
                let may_leave = shard.stores().are_relied_upon(&places);
                let candidate = found.entry(table.meta.file).or_insert_with(|| Candidate {
                    meta: table.meta,
                    heat: 0,
                    age,
                    may_leave: true,
                    tables: Vec::new(),
                });
                candidate.heat = candidate.heat.saturating_add(heat);
                candidate.may_leave &= may_leave;
                candidate.tables.push((number, table));
            }
        }
        let mut found: Vec<_> = found.into_values().filter(|found| found.may_leave).collect();
        found.sort_by(Candidate::compare);
        found
    }

    /// Fetches tables in the background, if there are any to be fetched.
    pub(super) fn fetch_later(self: &Arc<Self>) {
        if self.copies == Some(false) || self.fetching.swap(true, Ordering::Relaxed) {
            return;
        }
        let fetching = Fetching(Arc::clone(self));
        if self.next_to_fetch().is_some() {
            self.executor.spawn(Priority::Idle, move || fetching.go_on());
        }
    }

    /// The table that is worth its space the most, and its shard.
    fn next_to_fetch(&self) -> Option<(Arc<Pipeline>, Arc<TableEntry>)> {
        let room = self.limit_bytes.map_or(u64::MAX, |limit| {
            (limit - limit / LEFT_FOR_WRITES).saturating_sub(self.files.staying_bytes())
        });
        let shards = self.shards();
        let mut best: Option<Candidate> = None;
        for (number, shard) in shards.iter().enumerate() {
            // Most shards never fetch anything: they should not look for it.
            if self.copies.is_none() && !shard.stores().is_any_remote() {
                continue;
            }
            for (age, table) in tables_of(shard).into_iter().enumerate() {
                let (meta, heat) = (table.meta, table.heat());
                if meta.bytes > room || !self.is_wanted(shard, &table) {
                    continue;
                }
                let tables = vec![(number, table)];
                let next = Candidate { meta, heat, age, may_leave: true, tables };
                if best.as_ref().is_none_or(|best| best.compare(&next).is_lt()) {
                    best = Some(next);
                }
            }
        }
        let (number, table) = best?.tables.pop()?;
        Some((Arc::clone(&shards[number]), table))
    }

    fn is_wanted(&self, shard: &Pipeline, table: &TableFile) -> bool {
        let places = table.places();
        if places.local.is_some() || self.unsound.lock().contains(&table.meta.file) {
            return false;
        }
        let is_remote = || {
            let stored = places.stored.last();
            let source = stored.and_then(|stored| shard.stores().source_of(stored));
            source.is_some_and(|source| source.is_remote())
        };
        // What comes into memory whole is read once, and merges read once, too.
        self.copies.unwrap_or_else(|| shard.views().are_wanted() && is_remote())
    }

    /// Fetches one table.
    fn fetch(&self, shard: &Arc<Pipeline>, table: &TableEntry) -> Result<()> {
        // Another shard may have a part of the same table.
        let others = self.shards().iter().flat_map(tables_of).collect::<Vec<_>>();
        let same = others.iter().filter(|other| other.meta.file == table.meta.file);
        let file = match same.filter_map(|other| other.places().local).next() {
            Some(file) => file,
            None => {
                let (bytes, _) = shard.open_bytes(table)?;
                let (_, file) = self.new_file();
                // From now on nobody else counts on this room.
                file.set_bytes(table.meta.bytes);
                let copied =
                    self.copy(&*bytes, &table.meta, &file, || Arc::strong_count(shard) > 1);
                if let Err(error) = copied {
                    self.abandon(file);
                    return Err(error);
                }
                self.fetched_bytes.fetch_add(table.meta.bytes, Ordering::Relaxed);
                file
            }
        };
        // Merged away meanwhile: the copy is of no use.
        let is_same = |other: &Arc<TableEntry>| Arc::ptr_eq(other.file(), table.file());
        if tables_of(shard).iter().any(is_same) {
            shard.publish_view_after(|| table.set_local(file));
        }
        Ok(())
    }

    /// Copies a table, durably, and makes sure that it is what it should be.
    fn copy(
        &self,
        from: &dyn ReadAt,
        meta: &TableMeta,
        to: &LocalFile,
        is_wanted: impl Fn() -> bool,
    ) -> Result<()> {
        let not_written = |error| {
            Error::io("a table could not be copied into the local directory", error)
                .at(to.path().display())
        };
        let mut out = self.files.env().fs().create_new(to.path()).map_err(not_written)?;
        let mut hasher = ContentHasher::new();
        let mut piece = vec![0; meta.bytes.min(COPY_STEP_BYTES as u64) as usize];
        let mut done = 0;
        while done < meta.bytes {
            if self.executor.is_closed() || !is_wanted() {
                return Err(Error::closed("the shard is being closed"));
            }
            self.executor.breathe(Priority::Idle);
            let step = (meta.bytes - done).min(piece.len() as u64) as usize;
            from.read_through(done, &mut piece[..step]).map_err(|error| {
                Error::io("a table could not be fetched", error).at(format_args!("{from:?}"))
            })?;
            hasher.update(&piece[..step]);
            out.write_all(&piece[..step]).map_err(not_written)?;
            done += step as u64;
        }
        let found = hasher.finish();
        if found != meta.hash {
            return Err(Error::corrupt("a table in the store is not the file that was written")
                .at(format_args!("table {}, {from:?}", meta.file))
                .expected(format_args!("hash {}", meta.hash))
                .found(found)
                .remedy("put another copy of the table there"));
        }
        out.sync().map_err(not_written)
    }
}

/// Opens a table in the store for all who have it, and gives its local file up then.
fn leave(shards: &[Arc<Pipeline>], candidate: &Candidate) -> Result<()> {
    let mut opened = Vec::with_capacity(candidate.tables.len());
    for (shard, table) in &candidate.tables {
        let shard = &shards[*shard];
        let reader = shard.stores().open(table.file(), TableReader::open)?;
        let reader = reader.ok_or_else(|| Error::internal("a stored table is in no store"))?;
        // Without views nobody reads it but merges, which will open it.
        opened.push(shard.views().are_wanted().then_some(reader));
    }
    for ((_, table), reader) in candidate.tables.iter().zip(opened) {
        table.leave_local(reader);
    }
    Ok(())
}

/// The tables of a shard, oldest first, each file once.
fn tables_of(shard: &Arc<Pipeline>) -> Vec<Arc<TableEntry>> {
    let (version, _) = shard.version_now();
    let mut seen = BTreeSet::new();
    let tables = version.tables().iter();
    tables.filter(|table| seen.insert(table.meta.file)).map(Arc::clone).collect()
}

fn files_of(shard: &Arc<Pipeline>) -> Vec<Arc<TableFile>> {
    tables_of(shard).iter().map(|table| Arc::clone(table.file())).collect()
}

/// Says that fetching is over when it is dropped.
struct Fetching(Arc<LocalDir>);

impl Fetching {
    /// Fetches the next table, and goes to the end of the queue, so that others have
    /// their turn.
    fn go_on(self) {
        let dir = &self.0;
        let Some((shard, table)) = dir.next_to_fetch() else { return };
        match dir.fetch(&shard, &table) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Closed => return,
            Err(error) => {
                tracing::warn!(table = %table.meta.file, %error, "a table was not fetched");
                if error.kind() != ErrorKind::Corrupt {
                    // Tried again when the tables change next.
                    return;
                }
                dir.unsound.lock().insert(table.meta.file);
            }
        }
        drop((shard, table));
        let executor = dir.executor.clone();
        executor.spawn(Priority::Idle, move || self.go_on());
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.fetching.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for LocalDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalDir")
            .field("files", &self.files)
            .field("limit_bytes", &self.limit_bytes)
            .finish_non_exhaustive()
    }
}
