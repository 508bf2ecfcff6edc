//! From the snapshots of all shards of a job to a canonical savepoint.
//!
//! 1. All manifests are read and compared: which states are there, which schemas.
//! 2. The tables of one shard after the other are read merged, and what is alive goes
//!    into the sort, in canonical form: with the stamps of its state's time to live, or
//!    without; a chunk of a list as one record.
//! 3. Operator states go into the sort, too.
//! 4. Now everything has been counted, so the head can be written; then the entries as
//!    they come out of the sort.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::export_records::{Entries, Putter, Taker};
use super::export_states::{OperatorInput, ShardInput, StateInput, collect, head};
use super::sort::{Sorted, Sorter};
use super::work::{WorkDir, failed};
use super::writer::SavepointWriter;
use super::{BREATH_RECORDS, DEFAULT_SORT_BYTES, MAX_SORT_BYTES, MIN_SORT_BYTES, breathe};
use crate::base::checksum::{ContentHash, ContentHasher};
use crate::base::hash::{group_of_hash, hash_key};
use crate::base::limits::MAX_USER_META_BYTES;
use crate::base::{Error, Result};
use crate::codec::Reader;
use crate::env::{Env, WriteFile};
use crate::format::canonical::{Entry, Head, MAX_JOB_BYTES, Name, Section};
use crate::format::{Compression, OperatorStateMode, SnapshotHandle};
use crate::object::{Contents, ObjectName, ObjectStore};
use crate::restore::{check_schemas, read_manifest};
use crate::snapshot::sink::SnapshotSource;
use crate::table::TableReader;
use crate::version::merge::{MergeScan, MergeSource};

/// Writes a canonical savepoint.
///
/// Works on the calling thread and only reads the snapshots; it can be repeated, and
/// gives the same bytes each time.
///
/// # Cost
/// Reads every table once, and writes and reads about as much as the state again in
/// files of the working directory, if it does not fit into
/// [`sort_bytes`](Self::sort_bytes). Beside that and what open tables take (see
/// [`TableReader`]) it needs some MiB, the values that are larger than a MiB, and one
/// shard's operator states.
///
/// ```no_run
/// # use alluvium::{Result, SnapshotHandle, StoreSink};
/// # fn export(handles: Vec<SnapshotHandle>, store: StoreSink) -> Result<()> {
/// use alluvium::env::RealEnv;
/// use alluvium::savepoint::Export;
///
/// let mut bytes = Vec::new();
/// let env = std::sync::Arc::new(RealEnv::new());
/// let report = Export::new(env, "DIR/work", &store)
///     .job("orders", b"offset 100")
///     .write(&handles, &mut bytes)?;
/// println!("{} entries, hash {}", report.entries, report.hash);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Export<'a> {
    env: Arc<dyn Env>,
    work_dir: PathBuf,
    source: &'a dyn SnapshotSource,
    job: String,
    user_meta: Vec<u8>,
    compression: Compression,
    sort_bytes: usize,
    expired_at: Option<u64>,
    keep_going: Option<&'a mut dyn FnMut(u64) -> bool>,
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ExportReport {
    /// What is in it, and how much.
    pub head: Head,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of their keys, namespaces, names and values.
    pub entry_bytes: u64,
    /// Bytes of the savepoint.
    pub bytes: u64,
    /// Hash of its contents, the same for the same state however it is compressed.
    pub hash: ContentHash,
    /// Names of operators and of their broadcast states that were not the same on all
    /// subtasks. The savepoint has what the first subtask had.
    pub differing_broadcasts: Vec<(String, String)>,
}

impl<'a> Export<'a> {
    /// An export of snapshots in `source`. `work_dir` is created if need be; files in
    /// it have names of their own, and are removed at the end. After a crash they may
    /// be removed by anybody.
    pub fn new(
        env: Arc<dyn Env>,
        work_dir: impl Into<PathBuf>,
        source: &'a dyn SnapshotSource,
    ) -> Self {
        Self {
            env,
            work_dir: work_dir.into(),
            source,
            job: String::new(),
            user_meta: Vec::new(),
            compression: Compression::default(),
            sort_bytes: DEFAULT_SORT_BYTES,
            expired_at: None,
            keep_going: None,
        }
    }

    /// Names the job, and attaches the runtime's own bytes: source offsets, say. What
    /// was attached to the single snapshots is not in a savepoint.
    pub fn job(mut self, name: &str, user_meta: &[u8]) -> Self {
        self.job = name.to_owned();
        self.user_meta = user_meta.to_vec();
        self
    }

    /// How the savepoint is stored. Default: [`Compression::Lz4`]. With it the bytes
    /// may be others in another version of the engine; the
    /// [hash](ExportReport::hash) is not.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Bytes of records that are sorted in memory, from
    /// [`MIN_SORT_BYTES`] to [`MAX_SORT_BYTES`]. Default: [`DEFAULT_SORT_BYTES`].
    pub fn sort_bytes(mut self, bytes: usize) -> Self {
        self.sort_bytes = bytes.clamp(MIN_SORT_BYTES, MAX_SORT_BYTES);
        self
    }

    /// Leaves out what has expired: by event time at the lowest watermark of the
    /// operator's shards, by processing time at `unix_ms`. Default: everything that has
    /// not been removed is in the savepoint.
    pub fn without_expired(mut self, unix_ms: u64) -> Self {
        self.expired_at = Some(unix_ms);
        self
    }

    /// Has this asked every few thousand records, with the number of records done,
    /// whether to go on.
    pub fn keep_going(mut self, keep_going: &'a mut dyn FnMut(u64) -> bool) -> Self {
        self.keep_going = Some(keep_going);
        self
    }

    /// Writes the savepoint of the snapshots of all shards of all operators, each once.
    ///
    /// # Errors
    /// `Invalid` if an operator's handles do not hold each of its key groups once, or
    /// something is too long; `Incompatible` if they disagree about a state; `Corrupt`
    /// if a manifest or a table is missing or damaged; `Unavailable` if one cannot be
    /// read, or the stream or the working directory fails, or by
    /// [`keep_going`](Self::keep_going). What is in the stream is worthless then.
    pub fn write(
        mut self,
        handles: &[SnapshotHandle],
        out: &mut dyn io::Write,
    ) -> Result<ExportReport> {
        for (what, len, most) in [
            ("the name of the job", self.job.len(), MAX_JOB_BYTES),
            ("what is attached to the savepoint", self.user_meta.len(), MAX_USER_META_BYTES),
        ] {
            if len > most {
                return Err(Error::invalid(format_args!("{what} is too long"))
                    .expected(format_args!("at most {most} bytes"))
                    .found(len));
            }
        }
        let work = WorkDir::open(Arc::clone(&self.env), &self.work_dir)?;
        let mut operators = collect(self.source, handles)?;
        let mut sorter = Sorter::new(&work, self.sort_bytes);
        let mut section = 0;
        for operator in &mut operators {
            if let Some(unix_ms) = self.expired_at {
                let watermark = operator.watermark;
                let states = operator.states.iter_mut();
                states.for_each(|state| state.leave_out_expired(watermark, unix_ms));
            }
            self.take_operator(operator, section, &mut sorter)
                .map_err(|error| error.at(format_args!("operator {:?}", operator.name)))?;
            section += (operator.states.len() + operator.items.len()) as u32;
        }
        self.put(&operators, sorter.finish()?, out)
    }

    /// Creates an object that holds the savepoint, by way of a file in the working
    /// directory.
    ///
    /// # Errors
    /// As [`write`](Self::write), and those of the store; `Invalid` if the object
    /// exists.
    pub fn create(
        mut self,
        handles: &[SnapshotHandle],
        store: &dyn ObjectStore,
        name: &ObjectName,
    ) -> Result<ExportReport> {
        let work = WorkDir::open(Arc::clone(&self.env), &self.work_dir)?;
        let (file, out) = work.create("savepoint")?;
        let mut out = HashedFile { out, hasher: ContentHasher::new() };
        let mut go_on: Box<dyn FnMut(u64) -> bool + '_> = match self.keep_going.take() {
            Some(keep_going) => Box::new(keep_going),
            None => Box::new(|_| true),
        };
        let report = Export { keep_going: Some(&mut *go_on), ..self }.write(handles, &mut out)?;
        out.out.sync().map_err(|source| failed("a file could not be made durable", source))?;
        let contents = Contents { bytes: report.bytes, hash: out.hasher.finish() };
        store.create_from_file(name, &file.path, &contents, &mut |_| go_on(report.entries))?;
        Ok(report)
    }

    /// Brings all that an operator has into the sort. Its sections begin with number
    /// `first`.
    fn take_operator(
        &mut self,
        operator: &mut OperatorInput,
        first: u32,
        sorter: &mut Sorter<'_>,
    ) -> Result<()> {
        let OperatorInput { max_parallelism, shards, states, items, .. } = operator;
        let mut records = 0_u64;
        for shard in &*shards {
            let mut scan = MergeScan::new(open_tables(self.source, shard)?)?;
            let mut taker = Taker::new(first);
            while let Some(record) = scan.next()? {
                records += 1;
                if records.is_multiple_of(BREATH_RECORDS) {
                    breathe(&mut self.keep_going, records)?;
                }
                if record.is_only_for_older_tables()? {
                    continue;
                }
                let computed = group_of_hash(hash_key(record.key), *max_parallelism);
                let chosen = (computed != record.group).then_some(record.group);
                taker.take(states, &record, chosen, sorter)?;
            }
        }
        // A broadcast state and a list of items are both read a second time here, so that
        // those of one shard are in memory at once and no more.
        if items.is_empty() {
            return Ok(());
        }
        let mut number = 0_u64;
        let mut key = Vec::new();
        for (at, shard) in shards.iter().enumerate() {
            let manifest = read_manifest(self.source, &shard.handle)?;
            for state in &manifest.operator_states {
                let section = items.keys().position(|name| *name == state.name);
                let (Some(section), Some(known)) = (section, items.get(&state.name)) else {
                    return Err(Error::internal("a manifest has changed"));
                };
                let section = first + (states.len() + section) as u32;
                let mut of_state = state.parts.iter().flat_map(|part| part.items.iter());
                while let Some(item) = of_state.next() {
                    key.clear();
                    key.extend_from_slice(&section.to_be_bytes());
                    if known.mode != OperatorStateMode::Broadcast {
                        key.extend_from_slice(&number.to_be_bytes());
                        number += 1;
                        sorter.push(&key, &[item])?;
                    } else if known.owner == at {
                        key.extend_from_slice(item);
                        sorter.push(&key, &[of_state.next().unwrap_or_default()])?;
                    }
                }
            }
        }
        Ok(())
    }

    fn put(
        mut self,
        operators: &[OperatorInput],
        mut sorted: Sorted,
        out: &mut dyn io::Write,
    ) -> Result<ExportReport> {
        let head = head(&self.job, &self.user_meta, operators);
        let mut writer = SavepointWriter::new(out, &head, self.compression)?;
        let sections: Vec<Section<'_>> = head.sections().collect();
        let numbers: Vec<Vec<usize>> = operators
            .iter()
            .flat_map(|operator| {
                let states = operator.states.iter().map(StateInput::numbers);
                states.chain(operator.items.iter().map(|_| Vec::new()))
            })
            .collect();
        let mut put = Putter::default();
        let mut records = 0_u64;
        while let Some((key, value)) = sorted.next()? {
            records += 1;
            if records.is_multiple_of(BREATH_RECORDS) {
                breathe(&mut self.keep_going, records)?;
            }
            let mut reader = Reader::new("sorted record", key);
            let number = u32::from_be_bytes(reader.array("section")?);
            let section = &sections[number as usize];
            match section {
                Section::State(_, state) => {
                    let numbers = &numbers[number as usize];
                    let is_timed = state.meta.ttl.is_some();
                    let rest = reader.rest();
                    let entries = Entries { kind: state.meta.kind, is_timed, numbers };
                    put.record(rest, value, entries, |entry| writer.push(number, section, entry))?;
                }
                Section::Items(_, items) => {
                    let rest = reader.rest();
                    let is_broadcast = items.mode == OperatorStateMode::Broadcast;
                    let name = if is_broadcast { Name::Key(rest) } else { Name::None };
                    writer.push(
                        number,
                        section,
                        &Entry {
                            key: &[],
                            namespace: &[],
                            group: None,
                            name,
                            schema: 0,
                            stamp: None,
                            value,
                        },
                    )?;
                }
            }
        }
        let (end, bytes) = writer.finish()?;
        let differing_broadcasts = operators
            .iter()
            .flat_map(|operator| {
                let differing = operator.items.iter().filter(|(_, items)| items.differs);
                differing.map(|(name, _)| (operator.name.clone(), name.clone()))
            })
            .collect();
        Ok(ExportReport {
            entries: end.entries,
            entry_bytes: end.bytes,
            bytes,
            hash: end.hash,
            differing_broadcasts,
            head,
        })
    }
}

/// The tables of a shard, oldest first.
fn open_tables(source: &dyn SnapshotSource, shard: &ShardInput) -> Result<Vec<MergeSource>> {
    let manifest = &shard.manifest;
    let open = |table: &crate::format::TableRef| {
        let bytes = source.open(&table.location)?;
        let reader = TableReader::open(bytes, &table.meta)?;
        check_schemas(&manifest.states, &reader, &table.dropped)?;
        let dropped = table.dropped.clone();
        Ok(MergeSource { reader: Arc::new(reader), slice: table.slice, dropped })
    };
    let named = |table| {
        open(table).map_err(|error: Error| {
            error.at(format_args!("table {} named by the manifest", table.location))
        })
    };
    manifest.tables.iter().map(named).collect()
}

/// A file that is hashed while it is written.
struct HashedFile {
    out: Box<dyn WriteFile>,
    hasher: ContentHasher,
}

impl io::Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
