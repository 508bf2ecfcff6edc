//! From a canonical savepoint to snapshots of shards.
//!
//! 1. The savepoint is read to its end. Each entry becomes a record of a table, and
//!    goes into the sort under the table that it will be in.
//! 2. Only when the end was as it should be, tables are written as the records come out
//!    of the sort, and handed to the sink one after the other.
//! 3. Behind the last table of a shard its manifest is written.
//!
//! A shard's tables hold different key groups, so that merging goes on in steps from the
//! first snapshot on; values of older schemas are in tables of their own, since a table
//! knows one schema for each state.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::import_tables::{Output, Target};
use super::order;
use super::reader::SavepointReader;
use super::sort::Sorter;
use super::work::WorkDir;
use super::{BREATH_RECORDS, DEFAULT_SORT_BYTES, MAX_SORT_BYTES, MIN_SORT_BYTES, breathe};
use crate::base::hash::{group_of_hash, hash_key, with_namespace};
use crate::base::{Error, KeyGroup, KeyGroupRange, MaxParallelism, Result, SnapshotId};
use crate::codec::varint;
use crate::env::Env;
use crate::format::canonical::{End, Entry, Head, Name, OperatorHead, Section, stamp_of_instant};
use crate::format::collection::EntryName;
use crate::format::manifest::StateKind;
use crate::format::{OperatorStateMode, SnapshotHandle};
use crate::snapshot::sink::SnapshotSink;
use crate::table::TableOptions;

/// Bytes of a table unless told otherwise: 32 MiB, as of a backend's partitions.
const DEFAULT_TABLE_BYTES: u64 = 32 << 20;
/// Bytes of elements that are one record: 1 MiB, or one larger element.
const CHUNK_BYTES: usize = 1 << 20;

/// Makes snapshots of a canonical savepoint.
///
/// Works on the calling thread. Nothing is handed to the sink before the savepoint was
/// read to its end and found sound, and no handle returned before everything was stored.
/// What an import that failed later had handed to the sink is named by nothing.
///
/// # Cost
/// Writes and reads about as much as the state in files of the working directory, if it
/// does not fit into [`sort_bytes`](Self::sort_bytes), and each table there once before
/// it goes to the sink. Beside that it needs some MiB, the values that are larger than a
/// MiB, and one shard's operator states.
///
/// ```no_run
/// # use alluvium::{Backend, Result, StoreSink};
/// # fn import(bytes: &[u8], store: StoreSink, backend: Backend) -> Result<()> {
/// use alluvium::SnapshotId;
/// use alluvium::env::RealEnv;
/// use alluvium::savepoint::Import;
///
/// let env = std::sync::Arc::new(RealEnv::new());
/// let imported = Import::new(env, "DIR/work", &store, SnapshotId(1)).shards(2).read(bytes)?;
/// for operator in &imported.operators {
///     let max = operator.max_parallelism;
///     for index in 0..2 {
///         let groups = max.range_of_subtask(index, 2)?;
///         let handles = operator.handles.iter().cloned();
///         let shard = backend.shard(&operator.name, groups).restore(handles).open()?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Import<'a> {
    env: Arc<dyn Env>,
    work_dir: PathBuf,
    sink: &'a dyn SnapshotSink,
    snapshot: SnapshotId,
    shards: u32,
    max_parallelism: Option<MaxParallelism>,
    operators: BTreeMap<String, Wanted>,
    sort_bytes: usize,
    table_bytes: u64,
    table_options: TableOptions,
    keep_going: Option<&'a mut dyn FnMut(u64) -> bool>,
}

#[derive(Clone, Debug)]
enum Wanted {
    Shards(u32),
    Groups(Vec<KeyGroupRange>),
}

/// What was made of a savepoint.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Imported {
    /// What the savepoint held: the job, and what its runtime had attached.
    pub head: Head,
    /// How it ended: how much it held, and the hash of it.
    pub end: End,
    /// The operators, in ascending order of their names.
    pub operators: Vec<ImportedOperator>,
}

/// The snapshots of one operator.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ImportedOperator {
    /// Its name.
    pub name: String,
    /// Number of its key groups.
    pub max_parallelism: MaxParallelism,
    /// The handles of its shards, in the order of their key groups.
    pub handles: Vec<SnapshotHandle>,
}

impl<'a> Import<'a> {
    /// An import into `sink`, as the snapshot `snapshot` of each shard. `work_dir` is
    /// created if need be; files in it have names of their own, and are removed at the
    /// end. After a crash they may be removed by anybody.
    pub fn new(
        env: Arc<dyn Env>,
        work_dir: impl Into<PathBuf>,
        sink: &'a dyn SnapshotSink,
        snapshot: SnapshotId,
    ) -> Self {
        Self {
            env,
            work_dir: work_dir.into(),
            sink,
            snapshot,
            shards: 1,
            max_parallelism: None,
            operators: BTreeMap::new(),
            sort_bytes: DEFAULT_SORT_BYTES,
            table_bytes: DEFAULT_TABLE_BYTES,
            table_options: TableOptions::default(),
            keep_going: None,
        }
    }

    /// How many shards an operator is divided into if nothing else is said of it, by
    /// [`MaxParallelism::range_of_subtask`]. Default: 1. Any other division can be
    /// restored later; it is then the snapshots that are divided.
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = shards;
        self
    }

    /// How many shards this operator is divided into.
    pub fn operator_shards(mut self, operator: &str, shards: u32) -> Self {
        self.operators.insert(operator.to_owned(), Wanted::Shards(shards));
        self
    }

    /// Which key groups the shards of this operator have, ascending and each once.
    pub fn operator_groups(mut self, operator: &str, groups: Vec<KeyGroupRange>) -> Self {
        self.operators.insert(operator.to_owned(), Wanted::Groups(groups));
        self
    }

    /// The number of key groups of all operators. Default: what each of them had.
    ///
    /// Another one can only be had if all keys are in the groups that follow from their
    /// hashes. A savepoint with a key in a group of the runtime's choice is refused,
    /// naming its state; if every such choice happened to agree with the hash, nobody
    /// can tell, so a runtime that chooses groups must not use this.
    pub fn max_parallelism(mut self, max_parallelism: MaxParallelism) -> Self {
        self.max_parallelism = Some(max_parallelism);
        self
    }

    /// Bytes of records that are sorted in memory, from
    /// [`MIN_SORT_BYTES`] to [`MAX_SORT_BYTES`]. Default: [`DEFAULT_SORT_BYTES`].
    pub fn sort_bytes(mut self, bytes: usize) -> Self {
        self.sort_bytes = bytes.clamp(MIN_SORT_BYTES, MAX_SORT_BYTES);
        self
    }

    /// About how many bytes of keys and values a table has, if it holds more than one
    /// key group. Default: 32 MiB. See
    /// [`BackendBuilder::partition_bytes`](crate::BackendBuilder::partition_bytes).
    pub fn table_bytes(mut self, bytes: u64) -> Self {
        self.table_bytes = bytes.max(1);
        self
    }

    /// Block size and compression of the tables. Default: that of [`TableOptions`].
    pub fn table_options(mut self, options: TableOptions) -> Self {
        self.table_options = options;
        self
    }

    /// Has this asked every few thousand records, with the number of records done,
    /// whether to go on.
    pub fn keep_going(mut self, keep_going: &'a mut dyn FnMut(u64) -> bool) -> Self {
        self.keep_going = Some(keep_going);
        self
    }

    /// Reads a savepoint to its end and makes snapshots of it.
    ///
    /// # Errors
    /// `Corrupt` if the savepoint is damaged or cut short; `Incompatible` if it is of
    /// another version, or cannot have another number of key groups; `Invalid` if what
    /// is wanted does not fit it, or the operator states are too large for a shard;
    /// `Unavailable` if the stream, the working directory or the sink fails, or by
    /// [`keep_going`](Self::keep_going).
    pub fn read(mut self, input: impl io::Read) -> Result<Imported> {
        self.table_options.check()?;
        let work = WorkDir::open(Arc::clone(&self.env), &self.work_dir)?;
        let mut reader = SavepointReader::open(input)?;
        let head = reader.head().clone();
        let targets = self.targets(&head)?;
        let mut sorter = Sorter::new(&work, self.sort_bytes);
        let mut taker = Taker {
            targets: &targets,
            sections: sections_of(&head),
            sorter: &mut sorter,
            key: Vec::new(),
            list: None,
            sequences: vec![0; targets.len()],
            items: 0,
            section: u32::MAX,
        };
        let mut records = 0_u64;
        while let Some((section, entry)) = reader.next()? {
            records += 1;
            if records.is_multiple_of(BREATH_RECORDS) {
                breathe(&mut self.keep_going, records)?;
            }
            taker.take(section, &entry)?;
        }
        taker.end_chunk()?;
        let sequences = taker.sequences;
        let Some(end) = reader.end().copied() else {
            return Err(Error::internal("a savepoint ended without an end"));
        };
        let mut sorted = sorter.finish()?;
        let mut output = Output {
            work: &work,
            sink: self.sink,
            snapshot: self.snapshot,
            options: self.table_options,
            targets: &targets,
            sequences: &sequences,
            keep_going: &mut self.keep_going,
            records,
            operator: 0,
            shard: 0,
            open: None,
            tables: Vec::new(),
            broadcast: BTreeMap::new(),
            items: BTreeMap::new(),
            item_bytes: 0,
            handles: Vec::new(),
        };
        while let Some((key, value)) = sorted.next()? {
            output.take(key, value)?;
        }
        let handles = output.finish()?;
        let operators = targets
            .iter()
            .zip(handles)
            .map(|(target, handles)| ImportedOperator {
                name: target.head.name.clone(),
                max_parallelism: target.max_parallelism,
                handles,
            })
            .collect();
        Ok(Imported { head, end, operators })
    }

    /// What becomes of each operator.
    fn targets<'h>(&self, head: &'h Head) -> Result<Vec<Target<'h>>> {
        let names: Vec<&str> = head.operators.iter().map(|operator| &*operator.name).collect();
        if let Some(name) = self.operators.keys().find(|name| !names.contains(&name.as_str())) {
            return Err(Error::invalid("the savepoint has no such operator")
                .expected(format_args!("one of {names:?}"))
                .found(format_args!("{name:?}"))
                .remedy("leave it out"));
        }
        let mut targets = Vec::new();
        let mut slots = 0;
        for operator in &head.operators {
            let max = self.max_parallelism.unwrap_or(operator.max_parallelism);
            let groups = self
                .groups_of(operator, max)
                .map_err(|error| error.at(format_args!("operator {:?}", operator.name)))?;
            let target = Target::new(operator, max, groups, self.table_bytes, slots)?;
            slots = target.end_slot();
            targets.push(target);
        }
        Ok(targets)
    }

    fn groups_of(
        &self,
        operator: &OperatorHead,
        max: MaxParallelism,
    ) -> Result<Vec<KeyGroupRange>> {
        let shards = match self.operators.get(&operator.name) {
            None => self.shards,
            Some(Wanted::Shards(shards)) => *shards,
            Some(Wanted::Groups(groups)) => {
                let mut next = 0;
                for range in groups {
                    if u32::from(range.first().0) != next {
                        break;
                    }
                    next = u32::from(range.last().0) + 1;
                }
                let count: u32 = groups.iter().map(|range| range.count()).sum();
                if next != max.get() || count != next {
                    return Err(Error::invalid(
                        "the key groups of the shards are not all there are",
                    )
                    .expected(format_args!("{} divided, ascending", max.all_groups()))
                    .found(format_args!("{groups:?}"))
                    .remedy("use MaxParallelism::range_of_subtask to compute them"));
                }
                return Ok(groups.clone());
            }
        };
        if shards == 0 {
            return Err(Error::invalid("an operator needs a shard").expected("1 or more").found(0));
        }
        (0..shards).map(|index| max.range_of_subtask(index, shards)).collect()
    }
}

/// Which operator, and which of its states, a section is.
struct SectionOf<'h> {
    section: Section<'h>,
    operator: usize,
    state: u16,
}

fn sections_of(head: &Head) -> Vec<SectionOf<'_>> {
    let mut all = Vec::new();
    for (at, operator) in head.operators.iter().enumerate() {
        for (number, state) in operator.states.iter().enumerate() {
            let section = Section::State(operator, state);
            all.push(SectionOf { section, operator: at, state: number as u16 });
        }
        for (number, items) in operator.operator_states.iter().enumerate() {
            let section = Section::Items(operator, items);
            all.push(SectionOf { section, operator: at, state: number as u16 });
        }
    }
    all
}

/// Makes records of entries and brings them into the sort.
///
/// ```text
/// key:    | slot u32 | state u16 | group u16 | hash u64 | key | namespace, or entry name |
///         | slot u32 | state u16 | number u64 |, or | key |         of an operator state
/// value:  as in a table; of an operator state | part u32 | item |
/// ```
///
/// The slot says which table of which shard ([`Target`]). Numbers of the key are
/// big-endian.
struct Taker<'a, 'w, 'h> {
    targets: &'a [Target<'h>],
    sections: Vec<SectionOf<'h>>,
    sorter: &'a mut Sorter<'w>,
    key: Vec<u8>,
    list: Option<Chunk>,
    /// The next number that a list chunk may take, by operator.
    sequences: Vec<u64>,
    /// Number of the next item of the section.
    items: u64,
    section: u32,
}

/// The elements of a list that become one record.
#[derive(Default)]
struct Chunk {
    section: u32,
    key: Vec<u8>,
    namespace: Vec<u8>,
    group: Option<KeyGroup>,
    schema: usize,
    number: u64,
    elements: Vec<u8>,
}

impl Taker<'_, '_, '_> {
    fn take(&mut self, number: u32, entry: &Entry<'_>) -> Result<()> {
        if number != self.section {
            self.end_chunk()?;
            self.list = None;
            self.section = number;
            self.items = 0;
        }
        let SectionOf { section, operator, state } = &self.sections[number as usize];
        match section {
            Section::State(_, of) if of.meta.kind == StateKind::List => {
                self.take_element(number, entry)
            }
            Section::State(..) => self.take_single(number, entry),
            Section::Items(_, items) => {
                let target = &self.targets[*operator];
                self.key.clear();
                let is_broadcast = items.mode == OperatorStateMode::Broadcast;
                let slot = match is_broadcast {
                    true => target.broadcast_slot(),
                    false => target.items_slot(target.shard_of_item(self.items, items.entries())),
                };
                self.key.extend_from_slice(&slot.to_be_bytes());
                self.key.extend_from_slice(&state.to_be_bytes());
                match entry.name {
                    Name::Key(key) => self.key.extend_from_slice(key),
                    _ => self.key.extend_from_slice(&self.items.to_be_bytes()),
                }
                self.items += 1;
                let part = (entry.schema as u32).to_le_bytes();
                self.sorter.push(&self.key, &[&part, entry.value])
            }
        }
    }

    /// Begins the key of a record.
    fn place(
        &mut self,
        number: u32,
        entry_group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        schema: usize,
    ) -> Result<()> {
        let SectionOf { section, operator, state } = &self.sections[number as usize];
        let target = &self.targets[*operator];
        let key_hash = hash_key(key);
        let group = match entry_group {
            None => group_of_hash(key_hash, target.max_parallelism),
            Some(group) if target.max_parallelism == target.head.max_parallelism => group,
            Some(group) => return Err(has_chosen_groups(target, section, group)),
        };
        self.key.clear();
        self.key.extend_from_slice(&target.slot(group, schema).to_be_bytes());
        self.key.extend_from_slice(&state.to_be_bytes());
        self.key.extend_from_slice(&group.0.to_be_bytes());
        let is_timers =
            matches!(section, Section::State(_, of) if of.meta.kind == StateKind::Timers);
        // A timer's time is a part of its namespace; see the caller.
        let hash = if is_timers { 0 } else { with_namespace(key_hash, namespace) };
        self.key.extend_from_slice(&hash.to_be_bytes());
        order::put(&mut self.key, key);
        Ok(())
    }

    fn take_single(&mut self, number: u32, entry: &Entry<'_>) -> Result<()> {
        let Entry { key, namespace, group, name, schema, stamp, value } = *entry;
        self.place(number, group, key, namespace, schema)?;
        match name {
            Name::None => self.key.extend_from_slice(namespace),
            Name::Key(name) => EntryName::entry(namespace, name).encode(&mut self.key),
            Name::Time(time) => {
                let at = self.key.len();
                self.key.extend_from_slice(&(time as u64 ^ 1 << 63).to_be_bytes());
                self.key.extend_from_slice(namespace);
                let hash = with_namespace(hash_key(key), &self.key[at..]);
                self.key[8..16].copy_from_slice(&hash.to_be_bytes());
            }
        }
        match stamp {
            None => self.sorter.push(&self.key, &[value]),
            Some(stamp) => {
                self.sorter.push(&self.key, &[&stamp_of_instant(stamp).to_le_bytes(), value])
            }
        }
    }

    fn take_element(&mut self, number: u32, entry: &Entry<'_>) -> Result<()> {
        let is_same_list = self.list.as_ref().is_some_and(|chunk| {
            chunk.key == entry.key
                && chunk.namespace == entry.namespace
                && chunk.group == entry.group
        });
        let fits = self.list.as_ref().is_some_and(|chunk| {
            chunk.schema == entry.schema && chunk.elements.len() + entry.value.len() <= CHUNK_BYTES
        });
        if !is_same_list || !fits {
            self.end_chunk()?;
        }
        let chunk = self.list.get_or_insert_default();
        if !is_same_list {
            chunk.number = 0;
            chunk.key.clear();
            chunk.key.extend_from_slice(entry.key);
            chunk.namespace.clear();
            chunk.namespace.extend_from_slice(entry.namespace);
            chunk.group = entry.group;
        }
        chunk.section = number;
        chunk.schema = entry.schema;
        varint::put_u64(&mut chunk.elements, entry.value.len() as u64);
        if let Some(stamp) = entry.stamp {
            chunk.elements.extend_from_slice(&stamp_of_instant(stamp).to_le_bytes());
        }
        chunk.elements.extend_from_slice(entry.value);
        Ok(())
    }

    /// Brings the elements so far into the sort.
    fn end_chunk(&mut self) -> Result<()> {
        let Some(mut chunk) = self.list.take() else { return Ok(()) };
        if !chunk.elements.is_empty() {
            let Chunk { section, key, namespace, group, schema, .. } = &chunk;
            self.place(*section, *group, key, namespace, *schema)?;
            EntryName::entry(namespace, &chunk.number.to_be_bytes()).encode(&mut self.key);
            self.sorter.push(&self.key, &[&chunk.elements])?;
            chunk.number += 1;
            let operator = self.sections[chunk.section as usize].operator;
            self.sequences[operator] = self.sequences[operator].max(chunk.number);
            chunk.elements.clear();
            if chunk.elements.capacity() > 4 * CHUNK_BYTES {
                chunk.elements = Vec::new();
            }
        }
        self.list = Some(chunk);
        Ok(())
    }
}

#[cold]
fn has_chosen_groups(target: &Target<'_>, section: &Section<'_>, group: KeyGroup) -> Error {
    Error::incompatible(
        "the number of key groups cannot change: a key is in a group of the runtime's choice",
    )
    .at(format_args!("operator {:?}, state {:?}", target.head.name, section.name()))
    .expected(format_args!("max_parallelism {}, as in the savepoint", target.head.max_parallelism))
    .found(format_args!("max_parallelism {} wanted, and a key in {group}", target.max_parallelism))
    .remedy("import it with the max_parallelism that it has")
}
