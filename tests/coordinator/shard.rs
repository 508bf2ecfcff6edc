//! A shard as a model: for each key group a list of numbers, kept in small tables that
//! are merged at random, and uploaded as the engine's pipeline does it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use alluvium::base::FileId;
use alluvium::env::sim::SimRng;
use alluvium::format::{
    Manifest, ShardAck, ShardCosts, ShardPart, StoredFile, TableMeta, TableRef,
};
use alluvium::object::Contents;
use alluvium::{
    KeyGroup, KeyGroupRange, MaxParallelism, Result, SnapshotHandle, SnapshotId, SnapshotMode,
    SnapshotSink, SnapshotSource, StoreSink, TableUpload,
};
use parking_lot::Mutex;

use crate::store::{Bytes, Door};

/// Numbers by key group.
pub type Value = BTreeMap<u16, Vec<u32>>;

pub const OPERATORS: [(&str, u32); 2] = [("alpha", 4), ("beta", 5)];

pub fn max_of(operator: &str) -> MaxParallelism {
    let (_, max) = OPERATORS.iter().find(|(name, _)| *name == operator).unwrap();
    MaxParallelism::new(*max).unwrap()
}

/// Where a table is in the store.
#[derive(Clone, Debug)]
struct Place {
    location: String,
    /// A completed checkpoint named it there.
    confirmed: bool,
    /// A manifest may name it there.
    named: bool,
}

/// Where it is, the place that was confirmed last first.
type Stored = Mutex<Vec<Place>>;

#[derive(Debug)]
pub struct Table {
    meta: TableMeta,
    bytes: Arc<[u8]>,
    contents: Value,
    stored: Stored,
}

#[derive(Clone, Debug)]
struct Held {
    table: Arc<Table>,
    slice: KeyGroupRange,
}

#[derive(Debug)]
struct Frozen {
    id: SnapshotId,
    epoch: u64,
    mode: SnapshotMode,
    delta: Value,
}

#[derive(Debug)]
pub struct Shard {
    pub job: usize,
    pub epoch: u64,
    pub operator: &'static str,
    pub groups: KeyGroupRange,
    /// The process that it lives in, in a simulation.
    pub door: Option<Arc<Door>>,
    sink: StoreSink,
    incarnation: u64,
    files: u64,
    tables: Vec<Held>,
    pub value: Value,
    fresh: Value,
    queue: VecDeque<Frozen>,
    last_barrier: u64,
    unconfirmed: BTreeMap<u64, Vec<(Held, String)>>,
    last_ack: Option<ShardAck>,
    /// It has come to the end of its input.
    pub finished: bool,
    /// A barrier, which said that nothing comes after it.
    stopped: Option<u64>,
    aborted: BTreeSet<u64>,
    /// What it was restored from and may read again.
    base: Vec<(String, Contents)>,
}

fn encode(file: FileId, contents: &Value) -> Arc<[u8]> {
    let mut out = file.number.to_le_bytes().to_vec();
    out.extend_from_slice(&file.incarnation.to_le_bytes());
    for (group, numbers) in contents {
        out.extend_from_slice(&group.to_le_bytes());
        out.extend_from_slice(&(numbers.len() as u16).to_le_bytes());
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    }
    out.into()
}

fn decode(bytes: &[u8]) -> Value {
    let mut value = Value::new();
    let mut rest = &bytes[16..];
    while !rest.is_empty() {
        let group = u16::from_le_bytes(rest[..2].try_into().unwrap());
        let len = usize::from(u16::from_le_bytes(rest[2..4].try_into().unwrap()));
        let numbers = rest[4..4 + len * 4].chunks(4);
        let numbers = numbers.map(|four| u32::from_le_bytes(four.try_into().unwrap()));
        value.insert(group, numbers.collect());
        rest = &rest[4 + len * 4..];
    }
    value
}

pub fn add(value: &mut Value, more: &Value, slice: KeyGroupRange) {
    for (group, numbers) in more.iter().filter(|(group, _)| slice.contains(KeyGroup(**group))) {
        value.entry(*group).or_default().extend(numbers);
    }
}

fn read(source: &dyn SnapshotSource, location: &str) -> Result<Arc<[u8]>> {
    let object = source.open(location)?;
    let mut bytes = vec![0; object.len() as usize];
    object.read_at(0, &mut bytes).unwrap();
    Ok(bytes.into())
}

impl Shard {
    /// A shard of some groups of an operator, from the handles of all its shards.
    pub fn open(
        (job, epoch, incarnation): (usize, u64, u64),
        (operator, groups): (&'static str, KeyGroupRange),
        door: Option<Arc<Door>>,
        sink: StoreSink,
        handles: &[SnapshotHandle],
    ) -> Result<Self> {
        let mut shard = Self {
            job,
            epoch,
            operator,
            groups,
            door,
            sink,
            incarnation,
            files: 0,
            tables: Vec::new(),
            value: Value::new(),
            fresh: Value::new(),
            queue: VecDeque::new(),
            last_barrier: 0,
            unconfirmed: BTreeMap::new(),
            last_ack: None,
            finished: false,
            stopped: None,
            aborted: BTreeSet::new(),
            base: Vec::new(),
        };
        for handle in handles {
            let manifest = handle.open_manifest(&read(&shard.sink, handle.manifest())?)?;
            for TableRef { meta, location, slice, .. } in manifest.tables {
                let Some(slice) = slice.intersection(groups) else { continue };
                let bytes = read(&shard.sink, &location)?;
                let expected = Contents { bytes: meta.bytes, hash: meta.hash };
                assert_eq!(Contents::of(&bytes), expected, "the bytes of {location}");
                shard.base.push((location.clone(), expected));
                let contents = decode(&bytes);
                add(&mut shard.value, &contents, slice);
                // Two slices of one file may lie in two places, after a full checkpoint of
                // two shards; from now on it is in one.
                let mut known = shard.tables.iter().map(|held| &held.table);
                let table = match known.find(|known| known.meta.file == meta.file) {
                    Some(known) => Arc::clone(known),
                    None => {
                        let place = Place { location, confirmed: true, named: true };
                        let stored = Mutex::new(vec![place]);
                        Arc::new(Table { meta, bytes, contents, stored })
                    }
                };
                shard.tables.push(Held { table, slice });
            }
        }
        Ok(shard)
    }

    pub fn write(&mut self, number: u32, rng: &mut SimRng) {
        if self.finished || self.stopped.is_some() {
            return;
        }
        let first = u64::from(self.groups.first().0);
        let group = (first + rng.below(u64::from(self.groups.last().0) - first + 1)) as u16;
        self.value.entry(group).or_default().push(number);
        self.fresh.entry(group).or_default().push(number);
    }

    /// Takes a barrier; `None` if it comes too late.
    pub fn freeze(&mut self, id: SnapshotId, epoch: u64, stops: bool) -> Option<Value> {
        self.freeze_as(SnapshotMode::Incremental, id, epoch, stops)
    }

    pub fn freeze_as(
        &mut self,
        mode: SnapshotMode,
        id: SnapshotId,
        epoch: u64,
        stops: bool,
    ) -> Option<Value> {
        let is_over = id.0 <= self.last_barrier || self.aborted.contains(&id.0);
        if epoch != self.epoch || is_over || self.finished || self.stopped.is_some() {
            return None;
        }
        self.last_barrier = id.0;
        self.stopped = stops.then_some(id.0);
        let delta = std::mem::take(&mut self.fresh);
        self.queue.push_back(Frozen { id, epoch, mode, delta });
        Some(self.value.clone())
    }

    /// If it was stopping that came to nothing: it was not told.
    pub fn go_on(&mut self) {
        self.stopped = None;
    }

    pub fn complete(&mut self, id: u64) {
        if let Some(tables) = self.unconfirmed.remove(&id) {
            for (held, location) in tables {
                let mut stored = held.table.stored.lock();
                if let Some(at) = stored.iter().position(|place| place.location == location) {
                    stored[at].confirmed = true;
                    stored.drain(..at);
                }
            }
            self.unconfirmed = self.unconfirmed.split_off(&id);
        }
    }

    pub fn abort(&mut self, id: u64) {
        self.unconfirmed.remove(&id);
        self.aborted.insert(id);
        if self.stopped == Some(id) {
            self.stopped = None;
        }
    }

    fn table(&mut self, contents: Value) -> Held {
        self.files += 1;
        let file = FileId { incarnation: self.incarnation, number: self.files };
        let bytes = encode(file, &contents);
        let Contents { bytes: len, hash } = Contents::of(&bytes);
        let meta = TableMeta {
            file,
            bytes: len,
            hash,
            records: 1,
            tombstones: 0,
            raw_bytes: 1,
            groups: self.groups,
        };
        let table = Arc::new(Table { meta, bytes, contents, stored: Mutex::default() });
        Held { table, slice: self.groups }
    }

    /// Replaces some neighbouring tables by one.
    pub fn merge(&mut self, rng: &mut SimRng) {
        if self.tables.len() < 2 {
            return;
        }
        let from = rng.below(self.tables.len() as u64 - 1) as usize;
        let to = from + 2 + rng.below((self.tables.len() - from - 1) as u64) as usize;
        let mut contents = Value::new();
        for held in &self.tables[from..to] {
            add(&mut contents, &held.table.contents, held.slice);
        }
        let merged = self.table(contents);
        self.tables.splice(from..to, [merged]);
    }

    pub fn merge_all(&mut self) {
        let mut contents = Value::new();
        for held in &self.tables {
            add(&mut contents, &held.table.contents, held.slice);
        }
        self.tables = vec![self.table(contents)];
    }

    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Finishes the oldest snapshot that is under way.
    pub fn work(&mut self) -> Option<(SnapshotId, Result<ShardAck>)> {
        let Frozen { id, epoch, mode, delta } = self.queue.pop_front()?;
        if !delta.is_empty() {
            let delta = self.table(delta);
            self.tables.push(delta);
        }
        let ack = self.publish(id, epoch, mode);
        if let Ok(ack) = &ack {
            self.last_ack = Some(ack.clone());
        }
        Some((id, ack))
    }

    /// Where a snapshot may name a table, if it need not be stored for it.
    fn stored_at(&self, table: &Table, mode: SnapshotMode) -> Result<Option<String>> {
        let contents = Contents { bytes: table.meta.bytes, hash: table.meta.hash };
        loop {
            let Some(place) = table.stored.lock().last().cloned() else { return Ok(None) };
            if mode == SnapshotMode::Full && place.named {
                return Ok(None);
            }
            if place.confirmed || self.sink.holds_table(&place.location, &contents)? {
                return Ok(Some(place.location));
            }
            table.stored.lock().pop();
        }
    }

    fn publish(&mut self, id: SnapshotId, epoch: u64, mode: SnapshotMode) -> Result<ShardAck> {
        let version = self.tables.clone();
        let mut tables = Vec::new();
        let mut files = BTreeSet::new();
        let mut bytes_new = 0;
        for Held { table, slice } in &version {
            let contents = Contents { bytes: table.meta.bytes, hash: table.meta.hash };
            if self.stored_at(table, mode)?.is_none() {
                self.files += 1;
                let name = match mode {
                    SnapshotMode::Incremental => format!("{}.table", table.meta.file),
                    SnapshotMode::Full => {
                        format!("{}-{:x}-{}.table", table.meta.file, self.incarnation, self.files)
                    }
                };
                let bytes = Bytes(Arc::clone(&table.bytes));
                let upload = TableUpload { name: &name, contents, local: None, bytes: &bytes };
                let location = self.sink.put_table(&upload, &mut |_| true)?;
                table.stored.lock().push(Place { location, confirmed: false, named: false });
                bytes_new += contents.bytes;
            }
            let location = table.stored.lock().last().unwrap().location.clone();
            files.insert(StoredFile { location: location.clone(), bytes: contents.bytes });
            tables.push(TableRef { meta: table.meta, location, slice: *slice, dropped: vec![] });
        }
        let places = version.into_iter().zip(&tables);
        let named: Vec<_> =
            places.map(|(held, table): (Held, &TableRef)| (held, table.location.clone())).collect();
        for (held, _) in &named {
            held.table.stored.lock().last_mut().unwrap().named = true;
        }
        let manifest = Manifest {
            snapshot: id,
            operator: self.operator.to_owned(),
            created_unix_ms: 1,
            sequence: id.0,
            groups: self.groups,
            max_parallelism: max_of(self.operator),
            watermark: None,
            states: Vec::new(),
            tables,
            operator_states: Vec::new(),
            user_meta: Vec::new(),
        };
        let bytes = manifest.encode().unwrap();
        let name = format!("{:020}-{}-{:x}", id.0, self.groups.first().0, self.incarnation);
        let location = self.sink.put_manifest(&name, &bytes)?;
        let store = SnapshotSink::identity(&self.sink);
        let handle = SnapshotHandle::new(&manifest, &bytes, &store, &location)?;
        files.insert(StoredFile { location, bytes: bytes.len() as u64 });
        self.unconfirmed.insert(id.0, named);
        let costs = ShardCosts { pause_ns: 1, bytes_new, ..ShardCosts::default() };
        let part = ShardPart { handle, costs };
        Ok(ShardAck { epoch, part, files: files.into_iter().collect() })
    }

    /// Its last acknowledgement, if it has come to its end with it.
    pub fn finish(&mut self) -> Option<ShardAck> {
        if self.queue.is_empty() && self.fresh.is_empty() && self.stopped.is_none() {
            let last = self
                .last_ack
                .clone()
                .filter(|ack| ack.part.handle.snapshot().0 == self.last_barrier)?;
            self.finished = true;
            return Some(last);
        }
        None
    }

    pub fn last_ack(&self) -> Option<ShardAck> {
        self.last_ack.clone()
    }

    /// Reads a table again that it was restored from.
    pub fn read_base(&self, rng: &mut SimRng) -> Option<(&str, Contents)> {
        let at = rng.below(self.base.len() as u64) as usize;
        self.base.get(at).map(|(location, contents)| (location.as_str(), *contents))
    }

    pub fn key(&self) -> (&'static str, u16) {
        (self.operator, self.groups.first().0)
    }
}
