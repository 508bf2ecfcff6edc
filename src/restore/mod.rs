//! From snapshot handles to an open shard.
//!
//! [`plan`](Plan::new) reads the manifests and works out, by metadata alone,
//! which tables hold which of the wanted key groups. [`Plan::open`] opens those
//! tables: their footers, indexes and filters are read, their data is not.
//! After that the first read can be served; [`warm`] brings the rest into
//! memory behind the task's back.
//!
//! What is far away is read many at a time: the manifests take one round trip to the
//! store, the tables another (two if filter and index are larger than what an object is
//! opened with), and the first look-up a third.
//!
//! Nothing is changed by a restore, in the store or anywhere else.

pub(crate) mod operator;
pub(crate) mod warm;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::base::{Error, KeyGroup, KeyGroupRange, MaxParallelism, Result};
use crate::codec::Schema;
use crate::env::{Env, ReadAt, parallel};
use crate::format::OperatorState;
use crate::format::handle::SnapshotHandle;
use crate::format::manifest::{Manifest, StateMeta, TableRef};
use crate::format::table::TableMeta;
use crate::shard::operator::RestoredOperatorStates;
use crate::shard::{BaseTable, migration};
use crate::snapshot::sink::SnapshotSource;
use crate::snapshot::stores::Stores;
use crate::table::TableReader;
use crate::version::{Places, Stored, TableEntry, Version};

use self::operator::{Distribution, Subtask};

/// Objects that are opened at a time where that takes a round trip to a store. Each has a
/// thread meanwhile.
const OPENED_AT_ONCE: usize = 32;

/// Tables of a near store whose filters and indexes are on their way while one is opened. A
/// disk gives more of them in the same time than one after the other, and each takes about
/// a megabyte of page cache meanwhile.
const ASKED_AHEAD: usize = 8;

/// No shard takes so many snapshots.
const MAX_SEQUENCE: u64 = u64::MAX / 2;

/// What a shard is to be restored as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) operator: &'a str,
    pub(crate) groups: KeyGroupRange,
    pub(crate) max_parallelism: MaxParallelism,
    /// Which subtask of how many it is, if the runtime has said so.
    pub(crate) subtask: Option<Subtask>,
}

/// Which tables, and which key groups of each, make up a restored shard.
#[derive(Debug)]
pub(crate) struct Plan {
    states: Vec<StateMeta>,
    sequence: u64,
    watermark: Option<i64>,
    /// Oldest first within each old shard; those of different old shards hold
    /// different key groups, so their order does not matter.
    tables: Vec<(TableRef, KeyGroupRange)>,
    operator: RestoredOperatorStates,
}

/// The tables of a restored shard.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) states: Vec<StateMeta>,
    /// The greatest of the manifests: no number is taken twice.
    pub(crate) sequence: u64,
    /// The lowest of the manifests: no event is taken for late that is not.
    pub(crate) watermark: Option<i64>,
    pub(crate) version: Version,
    pub(crate) base: Vec<BaseTable>,
    pub(crate) operator: RestoredOperatorStates,
}

/// Where a restore reads, and how much at a time.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    env: &'a dyn Env,
    source: &'a Arc<dyn SnapshotSource>,
    /// Objects that are opened at a time.
    at_once: usize,
}

impl<'a> Reading<'a> {
    /// What is near is read one after the other, which needs no threads.
    pub(crate) fn new(env: &'a dyn Env, source: &'a Arc<dyn SnapshotSource>) -> Self {
        let at_once = if source.is_remote() { OPENED_AT_ONCE } else { 1 };
        Self { env, source, at_once }
    }

    fn each<T: Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        work: impl Fn(T) -> Result<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        parallel::for_each(self.env, "alluvium-restore", self.at_once, items, work)
    }
}

/// Reads and checks the manifest that a handle names.
///
/// # Errors
/// `Corrupt` if it is missing or not what the handle says; `Unavailable` if
/// the store cannot be read.
pub(crate) fn read_manifest(
    source: &dyn SnapshotSource,
    handle: &SnapshotHandle,
) -> Result<Manifest> {
    let place = || format!("manifest {} of snapshot {}", handle.manifest(), handle.snapshot());
    let object = source.open(handle.manifest()).map_err(|error| error.at(place()))?;
    // The handle bounds what is read, whatever the store has there.
    if object.len() != handle.manifest_bytes() {
        return Err(Error::corrupt("a manifest has the wrong size")
            .at(place())
            .expected(format_args!("{} bytes", handle.manifest_bytes()))
            .found(format_args!("{} bytes", object.len()))
            .remedy("restore from another copy of the snapshot"));
    }
    let mut bytes = vec![0; object.len() as usize];
    object
        .read_at(0, &mut bytes)
        .map_err(|source| Error::io("a manifest could not be read", source).at(place()))?;
    handle.open_manifest(&bytes).map_err(|error| error.at(place()))
}

impl Plan {
    /// Plans the restore of `target` from `handles`, which together hold all
    /// of its key groups, each once.
    ///
    /// # Errors
    /// `Incompatible` if the handles are of another operator or number of key
    /// groups, or a state is of another kind or has other keys in one than in
    /// another; `Invalid` if they do not
    /// cover the target, or overlap, and as [`Distribution::add`] and
    /// [`read_manifest`].
    pub(crate) fn new(
        target: Target<'_>,
        from: &Reading<'_>,
        handles: &[SnapshotHandle],
    ) -> Result<Self> {
        check_handles(target, handles)?;
        let mut states: Vec<StateMeta> = Vec::new();
        let mut sequence = 0;
        let mut watermarks = Vec::new();
        let mut tables = Vec::new();
        let mut handles: Vec<&SnapshotHandle> = handles.iter().collect();
        handles.sort_by_key(|handle| handle.groups().first());
        let old = handles.iter().map(|handle| handle.groups()).collect();
        let mut operator = Distribution::new(target, old);
        // A handle that shares no key group has nothing to say about keyed
        // data, but it may know a state that nobody else does, and operator
        // states go by other ways.
        let source = Arc::clone(from.source);
        let read = move |handle: SnapshotHandle| read_manifest(&*source, &handle);
        let manifests = from.each(handles.iter().map(|&handle| handle.clone()).collect(), read)?;
        for (number, (handle, manifest)) in handles.into_iter().zip(manifests).enumerate() {
            check_sequence(manifest.sequence, handle)?;
            sequence = sequence.max(manifest.sequence);
            if manifest.groups.intersection(target.groups).is_some() {
                watermarks.push(manifest.watermark);
            }
            for state in manifest.states {
                match states.iter_mut().find(|known| known.name == state.name) {
                    Some(known) => migration::join(known, state).map_err(|error| {
                        error.at(format_args!("snapshot {}", handle.snapshot()))
                    })?,
                    None => states.push(state),
                }
            }
            for table in manifest.tables {
                if let Some(slice) = table.slice.intersection(target.groups) {
                    tables.push((table, slice));
                }
            }
            operator.add(number as u32, manifest.operator_states).map_err(|error| {
                error.at(format_args!("snapshot {}, {}", handle.snapshot(), handle.groups()))
            })?;
        }
        let operator = operator.finish()?;
        for OperatorState { name, mode, .. } in operator.states.iter().map(|of| &of.state) {
            if let Some(state) = states.iter().find(|state| state.name == *name) {
                return Err(Error::incompatible("two states of one checkpoint have one name")
                    .at(format_args!("state {name:?}"))
                    .expected(format_args!("a state of kind {:?}, as in one snapshot", state.kind))
                    .found(format_args!("{mode}, as in another"))
                    .remedy("give the handles of one and the same checkpoint"));
            }
        }
        states.sort_by(|a, b| a.name.cmp(&b.name));
        // `None`, that there was none yet, is the lowest.
        let watermark = watermarks.into_iter().min().flatten();
        Ok(Self { states, sequence, watermark, tables, operator })
    }

    /// The names of all states that there are.
    pub(crate) fn state_names(&self) -> impl Iterator<Item = &str> {
        let keyed = self.states.iter().map(|state| state.name.as_str());
        keyed.chain(self.operator.states.iter().map(|of| of.state.name.as_str()))
    }

    /// Opens the planned tables, without reading their data. What that takes in memory
    /// is charged.
    ///
    /// # Errors
    /// `Corrupt` if one is missing or damaged, `Unavailable` if one cannot be
    /// reached; the error names it.
    ///
    /// Bytes that are read of them are counted, and what is in memory charged.
    pub(crate) fn open(mut self, from: &Reading<'_>, stores: &Stores) -> Result<Restored> {
        let store = from.source.identity();
        let mut entries: Vec<Arc<TableEntry>> = Vec::with_capacity(self.tables.len());
        let mut base = Vec::with_capacity(self.tables.len());
        let tables = std::mem::take(&mut self.tables);
        let mut opened = open_files(&tables, from)?.into_iter();
        for (table, slice) in &tables {
            let (table, slice) = (table, *slice);
            let dropped: Arc<[String]> = Arc::from(table.dropped.clone());
            // Slices of one file are of one file here, too: it is opened once, and is in
            // one place.
            let file = entries.iter().find(|entry| entry.meta.file == table.meta.file);
            if let Some(file) = file.map(|entry| Arc::clone(entry.file())) {
                let reader = file.reader().expect("it was opened with its first slice");
                base.push(BaseTable { reader, slice, dropped });
                entries.push(TableEntry::slice_of(&file, slice, &table.dropped));
                continue;
            }
            let (bytes, reader) = opened.next().expect("each file was opened once");
            check_schemas(&self.states, &reader, &table.dropped)
                .map_err(|error| error.at(named(&table.location)))?;
            let states = reader.states().to_vec();
            let stored = Stored {
                store: store.clone(),
                location: table.location.as_str().into(),
                // A restored snapshot is one that was completed.
                confirmed: true,
                named: true,
            };
            let places =
                Places { local: None, restored: Some(bytes), stored: vec![stored.clone()] };
            let common = dropped_in_all(&tables, table);
            let first = TableEntry::new(table.meta, slice, states, &common, places);
            let entry = TableEntry::slice_of(first.file(), slice, &table.dropped);
            let reader = stores.opened(entry.file(), reader, &stored);
            base.push(BaseTable { reader: Arc::clone(&reader), slice, dropped });
            entry.set_reader(reader);
            entries.push(entry);
        }
        for state in &mut self.states {
            let name = &state.name;
            let used = |schema: &Schema| {
                base.iter().any(|table| {
                    table
                        .ordinal(name)
                        .is_some_and(|ordinal| table.value_schema(ordinal) == schema.fingerprint())
                })
            };
            state.older_value_schemas.retain(used);
        }
        let version = Version::new(entries);
        let Self { states, sequence, watermark, operator, .. } = self;
        Ok(Restored { states, sequence, watermark, version, base, operator })
    }
}

/// The bytes of each file, and the table that it is, in the order of the tables that are
/// the first of theirs.
fn open_files(
    tables: &[(TableRef, KeyGroupRange)],
    from: &Reading<'_>,
) -> Result<Vec<(Arc<dyn ReadAt>, TableReader)>> {
    let mut seen = BTreeSet::new();
    let firsts = tables.iter().filter(|(table, _)| seen.insert(table.meta.file));
    let files = firsts.map(|(table, _)| (table.location.clone(), table.meta)).collect();
    let source = Arc::clone(from.source);
    if from.at_once == 1 {
        return open_near(&*source, files);
    }
    let open = move |(location, meta): (String, TableMeta)| {
        let opened = source.open(&location).and_then(|bytes| {
            let reader = TableReader::open(Arc::clone(&bytes), &meta)?;
            Ok((bytes, reader))
        });
        opened.map_err(|error| error.at(named(&location)))
    };
    from.each(files, open)
}

/// Opens files that are near one after the other, and asks for the next ones meanwhile.
fn open_near(
    source: &dyn SnapshotSource,
    files: Vec<(String, TableMeta)>,
) -> Result<Vec<(Arc<dyn ReadAt>, TableReader)>> {
    let mut opened = Vec::with_capacity(files.len());
    let mut asked = VecDeque::with_capacity(ASKED_AHEAD);
    let mut files = files.into_iter();
    loop {
        for (location, meta) in files.by_ref().take(ASKED_AHEAD - asked.len()) {
            let bytes = source.open(&location).map_err(|error| error.at(named(&location)))?;
            TableReader::ask_for_end(&*bytes);
            asked.push_back((location, meta, bytes));
        }
        let Some((location, meta, bytes)) = asked.pop_front() else { return Ok(opened) };
        let reader = TableReader::open(Arc::clone(&bytes), &meta)
            .map_err(|error| error.at(named(&location)))?;
        opened.push((bytes, reader));
    }
}

/// How an error names a table.
fn named(location: &str) -> String {
    format!("table {location} named by the manifest")
}

/// The states whose records do not count in any slice of the file of a table.
fn dropped_in_all(tables: &[(TableRef, KeyGroupRange)], table: &TableRef) -> Vec<String> {
    let slices = tables.iter().filter(|(other, _)| other.meta.file == table.meta.file);
    let is_in_all = |name: &&String| slices.clone().all(|(slice, _)| slice.dropped.contains(*name));
    table.dropped.iter().filter(is_in_all).cloned().collect()
}

/// Numbers go up by one with each snapshot: a job that does not overflow in its
/// life has not used up half of them in an earlier one.
fn check_sequence(sequence: u64, handle: &SnapshotHandle) -> Result<()> {
    if sequence <= MAX_SEQUENCE {
        return Ok(());
    }
    Err(Error::corrupt("a manifest has an impossible sequence number")
        .at(format_args!("manifest {}", handle.manifest()))
        .expected(format_args!("at most {MAX_SEQUENCE}"))
        .found(sequence)
        .remedy("restore from another copy of the snapshot"))
}

/// Whether the manifests know what the values in a table are written under, but
/// for those of states that were dropped.
///
/// # Errors
/// `Corrupt`, naming the state, if they do not.
pub(crate) fn check_schemas(
    states: &[StateMeta],
    table: &TableReader,
    dropped: &[String],
) -> Result<()> {
    for held in table.states().iter().filter(|held| !dropped.contains(&held.name)) {
        let known = states.iter().find(|state| state.name == held.name);
        let mut schemas = known.into_iter().flat_map(StateMeta::value_schemas);
        if !schemas.any(|schema| schema.fingerprint() == held.value_schema) {
            return Err(Error::corrupt(
                "a table holds values that its manifest knows no schema of",
            )
            .at(format_args!("state {:?}", held.name))
            .expected(match known {
                Some(state) => {
                    let known: Vec<_> = state
                        .value_schemas()
                        .map(|schema| format!("#{:016x}", schema.fingerprint()))
                        .collect();
                    format!("one of {}", known.join(", "))
                }
                None => "a state of the manifest".to_owned(),
            })
            .found(format_args!("#{:016x}", held.value_schema))
            .remedy("restore from another copy of the snapshot"));
        }
    }
    Ok(())
}

fn check_handles(target: Target<'_>, handles: &[SnapshotHandle]) -> Result<()> {
    for handle in handles {
        let at = format_args!("handle of snapshot {}, {}", handle.snapshot(), handle.groups())
            .to_string();
        if handle.max_parallelism() != target.max_parallelism {
            return Err(Error::incompatible("the snapshot has another number of key groups")
                .at(at)
                .expected(format_args!("max_parallelism {}", target.max_parallelism))
                .found(format_args!("max_parallelism {}", handle.max_parallelism()))
                .remedy("open the backend with the max_parallelism of the snapshot"));
        }
        if handle.operator() != target.operator {
            return Err(Error::incompatible("the snapshot belongs to another operator")
                .at(at)
                .expected(format_args!("{:?}", target.operator))
                .found(format_args!("{:?}", handle.operator()))
                .remedy("give the shard the operator name of the snapshot"));
        }
    }
    let mut wanted: Vec<KeyGroupRange> =
        handles.iter().filter_map(|handle| handle.groups().intersection(target.groups)).collect();
    wanted.sort_by_key(|range| range.first());
    let mut next = u32::from(target.groups.first().0);
    for range in wanted {
        let first = u32::from(range.first().0);
        if first < next {
            return Err(Error::invalid("two snapshots hold the same key group")
                .at(target.groups)
                .found(format_args!("{} twice", range.first()))
                .remedy("give the handles of one checkpoint, each once"));
        }
        if first > next {
            return Err(missing_groups(target, next));
        }
        next = u32::from(range.last().0) + 1;
    }
    if next <= u32::from(target.groups.last().0) {
        return Err(missing_groups(target, next));
    }
    Ok(())
}

fn missing_groups(target: Target<'_>, group: u32) -> Error {
    Error::invalid("the snapshots do not hold all key groups of the shard")
        .at(target.groups)
        .expected(format_args!("handles that cover {}", target.groups))
        .found(format_args!("none with {}", KeyGroup(group as u16)))
        .remedy("give the handles of all shards of the checkpoint")
}
