//! Reading what a checkpoint holds without opening a shard: for tools.
//!
//! Records are found and put together by the engine's own reads of tables: the newest
//! of each key, without what was deleted, cleared or dropped, and without what has
//! expired. Values stay in the schemas that they were written under, since only the job
//! knows how to bring them up to date: each record says which one it is.
//!
//! One shard's tables are open at a time. A scan holds a block or 256 KiB of each of
//! them, and the manifest of that shard.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::base::time::{UNKNOWN_STAMP, ms_of_stamp, stamp_of_ms, stamp_of_unix_ms};
use crate::base::{Error, FileId, KeyGroup, KeyGroupRange, MaxParallelism, Result, TimeDomain};
use crate::codec::{KeyRef, Schema};
use crate::format::checkpoint::Checkpoint;
use crate::format::handle::SnapshotHandle;
use crate::format::manifest::{Manifest, StateKind, StateMeta, TableRef, TtlMeta};
use crate::format::{OperatorStateMode, Placement};
use crate::memtable::collection::elements::Elements;
use crate::memtable::lifetime::{TtlClock, TtlRule};
use crate::restore::{check_schemas, read_manifest};
use crate::shard::BaseTable;
use crate::shard::base_scan::{BaseRecord, BaseScan};
use crate::shard::base_tables::StateBase;
use crate::shard::migration::{self, Form, split_form};
use crate::snapshot::sink::SnapshotSource;
use crate::table::{Found, PlacedKey, TableReader};

/// Opens the table that a manifest names: its ends and its index are read and checked.
///
/// # Errors
/// `Corrupt` if it is missing or not that table, `Unavailable` if it cannot be read.
pub fn open_table(source: &dyn SnapshotSource, table: &TableRef) -> Result<Arc<TableReader>> {
    let place = || format!("table {} named by the manifest", table.location);
    let bytes = source.open(&table.location).map_err(|error| error.at(place()))?;
    let reader = TableReader::open(bytes, &table.meta).map_err(|error| error.at(place()))?;
    Ok(Arc::new(reader))
}

/// Reads the states of a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointReader {
    checkpoint: Arc<Checkpoint>,
    source: Arc<dyn SnapshotSource>,
    now_unix_ms: u64,
    shows_expired: bool,
}

impl CheckpointReader {
    /// A reader of `checkpoint`, whose files `source` opens. What has expired by
    /// `now_unix_ms`, or, in event time, by the watermark of its shard, is not shown.
    pub fn new(checkpoint: Checkpoint, source: Arc<dyn SnapshotSource>, now_unix_ms: u64) -> Self {
        Self { checkpoint: Arc::new(checkpoint), source, now_unix_ms, shows_expired: false }
    }

    /// Whether what has expired, and is still stored, is shown as well.
    #[must_use]
    pub fn show_expired(self, shows_expired: bool) -> Self {
        Self { shows_expired, ..self }
    }

    /// What is read.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Opens its files.
    pub fn source(&self) -> &Arc<dyn SnapshotSource> {
        &self.source
    }

    /// The manifest of one of its shards.
    ///
    /// # Errors
    /// `Corrupt` if it is missing or not what the handle says, `Unavailable` if it
    /// cannot be read.
    pub fn manifest(&self, handle: &SnapshotHandle) -> Result<Manifest> {
        read_manifest(&*self.source, handle)
    }

    /// What is known of an operator's states: reads the manifests of its shards.
    ///
    /// # Errors
    /// `Invalid` if there is no such operator, else as [`manifest`](Self::manifest);
    /// `Incompatible` if its shards disagree about a state.
    pub fn operator(&self, name: &str) -> Result<OperatorReader> {
        let handles = self.checkpoint.handles(name);
        let Some(first) = handles.first() else {
            let known: Vec<_> = self.checkpoint.operators().collect();
            return Err(Error::invalid("the checkpoint has no such operator")
                .expected(format_args!("one of {known:?}"))
                .found(format_args!("{name:?}")));
        };
        let max_parallelism = first.max_parallelism();
        let mut states: Vec<StateMeta> = Vec::new();
        let mut operator_states: Vec<OperatorStateSummary> = Vec::new();
        for handle in &handles {
            let manifest = self.manifest(handle)?;
            for state in manifest.states {
                match states.iter_mut().find(|known| known.name == state.name) {
                    Some(known) => migration::join(known, state)?,
                    None => states.push(state),
                }
            }
            for state in &manifest.operator_states {
                let items = state.parts.iter().map(|part| part.items.len()).sum();
                let bytes = state.parts.iter().map(|part| part.items.bytes()).sum();
                let value_schema = state.parts.last().map(|part| part.value_schema.clone());
                match operator_states.iter_mut().find(|known| known.name == state.name) {
                    Some(known) => {
                        known.shards += 1;
                        known.items += items;
                        known.bytes += bytes;
                    }
                    None => operator_states.push(OperatorStateSummary {
                        name: state.name.clone(),
                        mode: state.mode,
                        key_schema: state.key_schema.clone(),
                        value_schema,
                        shards: 1,
                        items,
                        bytes,
                    }),
                }
            }
        }
        states.sort_by(|a, b| a.name.cmp(&b.name));
        operator_states.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(OperatorReader {
            name: name.to_owned(),
            reader: self.clone(),
            handles,
            max_parallelism,
            states,
            operator_states,
        })
    }
}

/// An operator state of all subtasks, counted.
#[derive(Clone, Debug)]
pub struct OperatorStateSummary {
    /// Its name.
    pub name: String,
    /// How it is distributed.
    pub mode: OperatorStateMode,
    /// What its keys are written under, if it is a broadcast state.
    pub key_schema: Option<Schema>,
    /// What its elements or values are written under.
    pub value_schema: Option<Schema>,
    /// Shards that have it.
    pub shards: u64,
    /// Elements, or keys and values, of all of them.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Reads the states of one operator of a checkpoint.
#[derive(Clone, Debug)]
pub struct OperatorReader {
    name: String,
    reader: CheckpointReader,
    /// Ascending by key groups.
    handles: Vec<SnapshotHandle>,
    max_parallelism: MaxParallelism,
    states: Vec<StateMeta>,
    operator_states: Vec<OperatorStateSummary>,
}

impl OperatorReader {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of its key groups.
    pub fn max_parallelism(&self) -> MaxParallelism {
        self.max_parallelism
    }

    /// Its shards, ascending by key groups.
    pub fn handles(&self) -> &[SnapshotHandle] {
        &self.handles
    }

    /// The manifest of one of its shards.
    ///
    /// # Errors
    /// As [`CheckpointReader::manifest`].
    pub fn manifest(&self, handle: &SnapshotHandle) -> Result<Manifest> {
        self.reader.manifest(handle)
    }

    /// Opens its files.
    pub fn source(&self) -> &Arc<dyn SnapshotSource> {
        &self.reader.source
    }

    /// Its keyed states, by name, as all shards together know them.
    pub fn states(&self) -> &[StateMeta] {
        &self.states
    }

    /// Its operator states, by name.
    pub fn operator_states(&self) -> &[OperatorStateSummary] {
        &self.operator_states
    }

    /// The keyed state of this name.
    ///
    /// # Errors
    /// `Invalid` if there is none.
    pub fn state(&self, name: &str) -> Result<&StateMeta> {
        self.states.iter().find(|state| state.name == name).ok_or_else(|| {
            let keyed = self.states.iter().map(|state| state.name.as_str());
            let others = self.operator_states.iter().map(|state| state.name.as_str());
            let known: Vec<_> = keyed.chain(others).collect();
            Error::invalid("the operator has no such keyed state")
                .at(format_args!("operator {:?}", self.name))
                .expected(format_args!("one of {known:?}"))
                .found(format_args!("{name:?}"))
        })
    }

    /// Lends the records of a keyed state in these key groups, in the order of tables:
    /// by group, hash, key, namespace, and entry.
    ///
    /// # Errors
    /// `Invalid` if there is no such state.
    pub fn scan(&self, state: &str, groups: KeyGroupRange) -> Result<StateScan> {
        self.scan_ranges(state, &[groups])
    }

    /// As [`scan`](Self::scan), for several ranges, which ascend and are apart.
    ///
    /// # Errors
    /// As `scan`.
    pub fn scan_ranges(&self, state: &str, ranges: &[KeyGroupRange]) -> Result<StateScan> {
        let work = ranges.iter().flat_map(|range| {
            let of_shard = |(at, handle): (usize, &SnapshotHandle)| {
                Some((at, handle.groups().intersection(*range)?))
            };
            self.handles.iter().enumerate().filter_map(of_shard)
        });
        StateScan::new(self, state, work.collect())
    }

    /// Lends what a keyed state has for a key: in one namespace, or in all of them. The
    /// key is in the group that its hash says, unless it was put into another.
    ///
    /// One namespace is looked up; for all of them, and for timers, the whole group is
    /// read.
    ///
    /// # Errors
    /// `Invalid` if there is no such state, or no such group; `Corrupt` or
    /// `Unavailable` if a file cannot be read.
    pub fn get(
        &self,
        state: &str,
        key: &[u8],
        namespace: Option<&[u8]>,
        group: Option<KeyGroup>,
    ) -> Result<StateScan> {
        let key_ref = match group {
            Some(group) => KeyRef::in_group(group, key),
            None => KeyRef::new(key),
        };
        let place =
            PlacedKey::new(key_ref.namespace(namespace.unwrap_or(&[])), self.max_parallelism);
        let PlacedKey { group, .. } = place;
        let groups = KeyGroupRange::new(group, group)?;
        let Some(at) = self.handles.iter().position(|handle| handle.groups().contains(group))
        else {
            return Err(Error::invalid("the operator has no such key group")
                .expected(self.max_parallelism.all_groups())
                .found(group));
        };
        let kind = self.state(state)?.kind;
        let (Some(namespace), true) = (namespace, kind != StateKind::Timers) else {
            let mut scan = StateScan::new(self, state, VecDeque::from([(at, groups)]))?;
            scan.only = Some((key.to_vec(), namespace.map(<[u8]>::to_vec)));
            return Ok(scan);
        };
        let mut scan = StateScan::new(self, state, VecDeque::new())?;
        let shard = scan.open_shard(at)?;
        scan.shard = Some((at, shard));
        let Some((_, shard)) = &scan.shard else { return Ok(scan) };
        if Placement::of(kind) == Placement::Collection {
            scan.from = Origin::Tables(shard.base.collection(place, None)?);
        } else {
            let mut value = Vec::new();
            if let Some(form) = find(&shard.tables, state, place, &mut value)? {
                let (key, namespace) = (key.to_vec(), namespace.to_vec());
                scan.from = Origin::One { place: (group, place.hash, key, namespace), form, value };
            }
        }
        Ok(scan)
    }

    /// Shows the items of an operator state, shard by shard: a key, if it is a broadcast
    /// state, the element or value, and what that is written under. Ends early when
    /// `visit` says no.
    ///
    /// # Errors
    /// `Invalid` if there is no such state, those of `visit`, and as
    /// [`CheckpointReader::manifest`].
    pub fn visit_operator_state(&self, name: &str, visit: &mut VisitItem<'_>) -> Result<()> {
        for handle in &self.handles {
            let manifest = self.manifest(handle)?;
            for state in manifest.operator_states.iter().filter(|state| state.name == name) {
                for part in &state.parts {
                    let mut items = part.items.iter();
                    while let Some(item) = items.next() {
                        let (key, value) = match state.mode {
                            OperatorStateMode::Broadcast => {
                                (Some(item), items.next().unwrap_or_default())
                            }
                            _ => (None, item),
                        };
                        if !visit(handle, key, value, &part.value_schema)? {
                            return Ok(());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The ranges of key groups that are not of the very same files in another reader of
    /// the operator: where a state of this name may differ. Reads manifests only.
    ///
    /// # Errors
    /// As [`CheckpointReader::manifest`]; `Incompatible` if the numbers of key groups
    /// differ.
    pub fn differing_groups(&self, other: &Self, state: &str) -> Result<Vec<KeyGroupRange>> {
        if self.max_parallelism != other.max_parallelism {
            return Err(Error::incompatible(
                "the checkpoints have different numbers of key groups",
            )
            .at(format_args!("operator {:?}", self.name))
            .expected(self.max_parallelism)
            .found(other.max_parallelism));
        }
        let all = self.max_parallelism.all_groups();
        let by_event_time = |reader: &Self| {
            let ttl = reader.states.iter().find(|known| known.name == state)?.ttl?;
            (ttl.time == TimeDomain::Event).then_some(())
        };
        if by_event_time(self).is_some() || by_event_time(other).is_some() {
            // What has expired depends on the watermarks as well.
            return Ok(vec![all]);
        }
        let (ours, theirs) = (self.files_of_groups(state)?, other.files_of_groups(state)?);
        let mut ranges: Vec<KeyGroupRange> = Vec::new();
        for (at, group) in all.iter().enumerate() {
            if ours[at] == theirs[at] {
                continue;
            }
            let grown = ranges.pop_if(|range| u32::from(range.last().0) + 1 == u32::from(group.0));
            let first = grown.map_or(group, KeyGroupRange::first);
            ranges.push(KeyGroupRange::new(first, group)?);
        }
        Ok(ranges)
    }

    /// The files, oldest first, that may hold records of a state in each key group.
    fn files_of_groups(&self, state: &str) -> Result<Vec<Vec<FileId>>> {
        let mut files = vec![Vec::new(); self.max_parallelism.get() as usize];
        for handle in &self.handles {
            for table in self.manifest(handle)?.tables {
                if table.dropped.iter().all(|dropped| dropped != state) {
                    for group in table.slice.iter() {
                        files[usize::from(group.0)].push(table.meta.file);
                    }
                }
            }
        }
        Ok(files)
    }
}

/// Is shown an item of an operator state: the shard that has it, its key if it has one,
/// itself, and what it is written under. Says whether to go on.
pub type VisitItem<'a> =
    dyn FnMut(&SnapshotHandle, Option<&[u8]>, &[u8], &Schema) -> Result<bool> + 'a;

/// Looks for a single value, newest table first.
fn find(
    tables: &[BaseTable],
    state: &str,
    at: PlacedKey<'_>,
    value: &mut Vec<u8>,
) -> Result<Option<Form>> {
    let PlacedKey { group, hash, key, namespace } = at;
    for table in tables.iter().rev().filter(|table| table.slice.contains(group)) {
        let Some(ordinal) = table.ordinal(state) else { continue };
        match table.reader.get(ordinal, group, hash, key, namespace, value)? {
            Found::Absent => {}
            Found::Deleted => return Ok(None),
            Found::Value => return Ok(Some(table.value_form(ordinal))),
        }
    }
    Ok(None)
}

/// Which part of what a state has for a key and a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    /// All of it: a single value.
    Whole,
    /// The element of a list at this place, counted from 0.
    Element(u64),
    /// The entry of a map under this key.
    Entry(&'a [u8]),
    /// A timer of this time.
    Timer(i64),
}

/// A record, lent by a [`StateScan`] until its next step.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The key group of its key.
    pub group: KeyGroup,
    /// The hash of key and namespace that orders records.
    pub hash: u64,
    /// Its key.
    pub key: &'a [u8],
    /// Its namespace, empty if it has none.
    pub namespace: &'a [u8],
    /// Which part of what the state has there.
    pub part: Part<'a>,
    /// Its value; empty for a timer.
    pub value: &'a [u8],
    /// What the value is written under.
    pub schema: &'a Schema,
    /// When it was written last, in milliseconds of the state's time, if that is known.
    pub written_ms: Option<i64>,
    /// Whether it has expired, and is only stored still.
    pub is_expired: bool,
}

/// Lends the records of a keyed state; see [`OperatorReader::scan`].
pub struct StateScan {
    reader: CheckpointReader,
    handles: Vec<SnapshotHandle>,
    state: StateMeta,
    work: VecDeque<(usize, KeyGroupRange)>,
    shard: Option<(usize, OpenShard)>,
    from: Origin,
    /// Only this key is shown, in this namespace if one is given.
    only: Option<(Vec<u8>, Option<Vec<u8>>)>,
    list: ListPlace,
}

/// Where the records of the current range come from.
enum Origin {
    Nothing,
    Tables(BaseScan),
    One { place: (KeyGroup, u64, Vec<u8>, Vec<u8>), form: Form, value: Vec<u8> },
}

/// What is open of a shard.
struct OpenShard {
    base: StateBase,
    tables: Vec<BaseTable>,
    lifetime: Option<Lifetime>,
}

/// Where a scan is in a list.
#[derive(Default)]
struct ListPlace {
    /// What is left of the current chunk: where elements lie in it, and their stamps.
    elements: VecDeque<(Range<usize>, u64)>,
    /// The list that the last chunk was of.
    of: Option<(KeyGroup, Vec<u8>, Vec<u8>)>,
    /// The place of the next element.
    next: u64,
}

/// When the values of a state expire.
#[derive(Clone, Copy)]
struct Lifetime {
    time: TimeDomain,
    cutoff: u64,
    unstamped: u64,
}

impl Lifetime {
    /// As the engine reckons it when a shard is restored ([`crate::shard::ttl`]).
    fn new(ttl: TtlMeta, now_unix_ms: u64, watermark: Option<i64>) -> Self {
        let since = ttl.since_ms.map(stamp_of_ms);
        // The clock is not asked: the time is given.
        let clock = TtlClock::Event(Arc::new(AtomicU64::new(UNKNOWN_STAMP)));
        let rule = TtlRule::new(ttl.duration_ms, clock, false, false);
        let (now, floor, unstamped) = match ttl.time {
            TimeDomain::Processing => {
                (stamp_of_unix_ms(now_unix_ms), Some(0), since.unwrap_or(UNKNOWN_STAMP))
            }
            TimeDomain::Event => {
                (watermark.map_or(UNKNOWN_STAMP, stamp_of_ms), since, UNKNOWN_STAMP)
            }
        };
        if let Some(floor) = floor {
            rule.set_floor(floor);
        }
        Self { time: ttl.time, cutoff: rule.cutoff_at(now), unstamped }
    }

    /// The stamp that counts of something that has this one.
    fn stamp(self, form: Form, stored: Option<u64>) -> u64 {
        match stored {
            Some(stamp) if form.stamps == Some(self.time) => stamp.max(UNKNOWN_STAMP),
            _ => self.unstamped,
        }
    }
}

impl StateScan {
    fn new(
        of: &OperatorReader,
        state: &str,
        work: VecDeque<(usize, KeyGroupRange)>,
    ) -> Result<Self> {
        Ok(Self {
            reader: of.reader.clone(),
            handles: of.handles.clone(),
            state: of.state(state)?.clone(),
            work,
            shard: None,
            from: Origin::Nothing,
            only: None,
            list: ListPlace::default(),
        })
    }

    /// What is known of the state.
    pub fn state(&self) -> &StateMeta {
        &self.state
    }

    /// The next record, borrowed until the next call; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` if a file cannot be read: records would be missing.
    /// The scan is then of no more use.
    #[expect(clippy::should_implement_trait, reason = "an Iterator cannot lend")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        let Some(found) = self.step()? else { return Ok(None) };
        self.lend(found).map(Some)
    }

    /// Moves on to the next thing to show: a stamp, and where the value lies in what is
    /// stored.
    fn step(&mut self) -> Result<Option<(Range<usize>, Option<u64>)>> {
        let shows_expired = self.reader.shows_expired;
        loop {
            let form = self.form_now();
            while let Some((range, stamp)) = self.list.elements.pop_front() {
                let form = form.unwrap_or(Form { schema: 0, stamps: None });
                let stamp = form.stamps.map(|_| stamp);
                if shows_expired || !self.has_expired(form, stamp) {
                    self.list.next += 1;
                    return Ok(Some((range, stamp)));
                }
            }
            let is_list = self.state.kind == StateKind::List;
            let only = self.only.as_ref();
            let Some(record) = (match &mut self.from {
                Origin::Tables(base) => base.next()?,
                _ => None,
            }) else {
                if let Origin::One { form, value, .. } = &self.from {
                    let (form, bytes) = (*form, value.len());
                    let (stamp, value) = split_form(form, value)?;
                    let range = bytes - value.len()..bytes;
                    if self.list.next == 0 && (shows_expired || !self.has_expired(form, stamp)) {
                        self.list.next = 1;
                        return Ok(Some((range, stamp)));
                    }
                }
                if !self.next_range()? {
                    return Ok(None);
                }
                continue;
            };
            if only.is_some_and(|(key, namespace)| {
                let is_timer = self.state.kind == StateKind::Timers;
                let skip = if is_timer { TIME_BYTES.min(record.namespace.len()) } else { 0 };
                let found = &record.namespace[skip..];
                key != record.key || namespace.as_ref().is_some_and(|wanted| wanted != found)
            }) {
                continue;
            }
            if is_list {
                let elements = Elements::parse(record.value, record.form.stamps.is_some())?;
                let start = record.value.as_ptr().addr();
                self.list.elements = elements
                    .iter()
                    .map(|element| {
                        let at = element.value.as_ptr().addr() - start;
                        (at..at + element.value.len(), element.stamp)
                    })
                    .collect();
                let is_same = self.list.of.as_ref().is_some_and(|(group, key, namespace)| {
                    (*group, &**key, &**namespace) == (record.group, record.key, record.namespace)
                });
                if !is_same {
                    let of = (record.group, record.key.to_vec(), record.namespace.to_vec());
                    (self.list.of, self.list.next) = (Some(of), 0);
                }
                continue;
            }
            let (form, bytes) = (record.form, record.value.len());
            let (stamp, value) = split_form(form, record.value)?;
            let range = bytes - value.len()..bytes;
            if shows_expired || !self.has_expired(form, stamp) {
                return Ok(Some((range, stamp)));
            }
        }
    }

    fn lend(&mut self, (range, stamp): (Range<usize>, Option<u64>)) -> Result<Record<'_>> {
        let lifetime = self.shard.as_ref().and_then(|(_, shard)| shard.lifetime);
        let record = match &mut self.from {
            Origin::Tables(base) => base.current()?,
            Origin::One { place: (group, hash, key, namespace), form, value } => Some(BaseRecord {
                group: *group,
                hash: *hash,
                key,
                namespace,
                entry: None,
                form: *form,
                value,
            }),
            Origin::Nothing => None,
        };
        let Some(record) = record else {
            return Err(Error::internal("a scan has no record to lend from"));
        };
        let mut schemas = self.state.value_schemas();
        let Some(schema) = schemas.find(|known| known.fingerprint() == record.form.schema) else {
            return Err(Error::internal("a table was not asked for its schema when it was opened"));
        };
        let (namespace, part) = match (self.state.kind, record.entry) {
            (StateKind::Timers, _) => match record.namespace.split_first_chunk::<TIME_BYTES>() {
                Some((time, namespace)) => {
                    (namespace, Part::Timer((u64::from_be_bytes(*time) ^ 1 << 63) as i64))
                }
                None => {
                    return Err(Error::corrupt("a record is not one of a timer")
                        .at(format_args!("state {:?}", self.state.name))
                        .expected("a time in front of the namespace"));
                }
            },
            (StateKind::List, _) => (record.namespace, Part::Element(self.list.next - 1)),
            (StateKind::Map, Some(entry)) => (record.namespace, Part::Entry(entry)),
            _ => (record.namespace, Part::Whole),
        };
        let counted = lifetime.map(|life| (life, life.stamp(record.form, stamp)));
        let stamp = counted.map_or(stamp, |(_, stamp)| Some(stamp));
        Ok(Record {
            group: record.group,
            hash: record.hash,
            key: record.key,
            namespace,
            part,
            value: &record.value[range],
            schema,
            written_ms: stamp.filter(|stamp| *stamp > UNKNOWN_STAMP).map(ms_of_stamp),
            is_expired: counted.is_some_and(|(life, stamp)| stamp <= life.cutoff),
        })
    }

    /// The form of the record whose elements are being shown.
    fn form_now(&mut self) -> Option<Form> {
        match &mut self.from {
            Origin::Tables(base) if !self.list.elements.is_empty() => {
                base.current().ok().flatten().map(|record| record.form)
            }
            _ => None,
        }
    }

    fn has_expired(&self, form: Form, stamp: Option<u64>) -> bool {
        let lifetime = self.shard.as_ref().and_then(|(_, shard)| shard.lifetime);
        lifetime.is_some_and(|life| life.stamp(form, stamp) <= life.cutoff)
    }

    /// Goes on to the next range; `false` if there is none.
    fn next_range(&mut self) -> Result<bool> {
        self.from = Origin::Nothing;
        let Some((at, groups)) = self.work.pop_front() else { return Ok(false) };
        let shard = match self.shard.take() {
            Some((open, shard)) if open == at => shard,
            _ => self.open_shard(at)?,
        };
        self.from = Origin::Tables(shard.base.scan(groups)?);
        self.shard = Some((at, shard));
        Ok(true)
    }

    fn open_shard(&self, at: usize) -> Result<OpenShard> {
        let Some(handle) = self.handles.get(at) else {
            return Err(Error::internal("a scan is of a shard that there is not"));
        };
        let manifest = self.reader.manifest(handle)?;
        let mut tables = Vec::with_capacity(manifest.tables.len());
        for table in &manifest.tables {
            let reader = open_table(&*self.reader.source, table)?;
            check_schemas(&manifest.states, &reader, &table.dropped)
                .map_err(|error| error.at(&table.location))?;
            let dropped = Arc::from(table.dropped.clone());
            tables.push(BaseTable { reader, slice: table.slice, dropped });
        }
        let base = StateBase::new(&self.state.name, &tables);
        let lifetime = self.state.ttl;
        let now = self.reader.now_unix_ms;
        let lifetime = lifetime.map(|ttl| Lifetime::new(ttl, now, manifest.watermark));
        Ok(OpenShard { base, tables, lifetime })
    }
}

/// Bytes of the time in front of a timer's namespace.
const TIME_BYTES: usize = crate::shard::timers::store::TIME_BYTES;

impl std::fmt::Debug for StateScan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StateScan({:?})", self.state.name)
    }
}
