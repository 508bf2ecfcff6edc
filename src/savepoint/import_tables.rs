//! The second half of an import: tables, manifests and handles of sorted records.

use std::collections::BTreeMap;

use super::order;
use super::work::{WorkDir, WorkFile};
use super::{BREATH_RECORDS, breathe};
use crate::base::{Error, KeyGroup, KeyGroupRange, MaxParallelism, Result, SnapshotId};
use crate::codec::{Reader, Schema};
use crate::format::canonical::OperatorHead;
use crate::format::manifest::{Manifest, TableRef};
use crate::format::operator_state::MAX_MANIFEST_ITEM_BYTES;
use crate::format::{Items, OperatorPart, OperatorState, OperatorStateMode, Placement};
use crate::format::{SnapshotHandle, StateMeta};
use crate::object::Contents;
use crate::snapshot::sink::{SnapshotSink, TableUpload};
use crate::table::{TableOptions, TableWriter};

/// Most tables of one schema that a shard gets.
const MOST_PARTITIONS: u64 = 1024;
/// Bytes that a record takes in a table beside its own, about.
const RECORD_EXTRA_BYTES: u64 = 4;

/// What an operator becomes.
///
/// The *slots* of all operators are numbered in the order in which they are written:
///
/// ```text
/// operator:  | broadcast states | shard ... |
/// shard:     | table ... | operator lists |
/// table:     one for each partition of the key groups, and in it for each value schema
/// ```
#[derive(Debug)]
pub(super) struct Target<'h> {
    pub(super) head: &'h OperatorHead,
    pub(super) max_parallelism: MaxParallelism,
    shards: Vec<TargetShard>,
    /// The shard of each key group.
    shard_of_group: Vec<u16>,
    /// Most value schemas of a state.
    layers: u32,
    first_slot: u32,
    end_slot: u32,
}

#[derive(Debug)]
struct TargetShard {
    groups: KeyGroupRange,
    partitions: u32,
    first_slot: u32,
}

impl<'h> Target<'h> {
    /// Lays out the slots of an operator, from `first_slot` on.
    ///
    /// # Errors
    /// `Invalid` if there would be too many.
    pub(super) fn new(
        head: &'h OperatorHead,
        max_parallelism: MaxParallelism,
        groups: Vec<KeyGroupRange>,
        table_bytes: u64,
        first_slot: u32,
    ) -> Result<Self> {
        let schemas = head.states.iter().map(|state| state.meta.value_schemas().count());
        let layers = schemas.max().unwrap_or(1) as u32;
        let bytes: u64 = head
            .states
            .iter()
            .map(|state| {
                state.entries.saturating_mul(RECORD_EXTRA_BYTES).saturating_add(state.bytes)
            })
            .fold(0, u64::saturating_add);
        let mut next = u64::from(first_slot) + 1;
        let mut shards = Vec::with_capacity(groups.len());
        let mut shard_of_group = vec![0; max_parallelism.get() as usize];
        for (number, groups) in groups.into_iter().enumerate() {
            let share =
                u128::from(bytes) * u128::from(groups.count()) / u128::from(max_parallelism.get());
            let wanted = share.div_ceil(u128::from(table_bytes)).min(u128::from(MOST_PARTITIONS));
            let partitions = (wanted as u32).clamp(1, groups.count());
            shards.push(TargetShard { groups, partitions, first_slot: next as u32 });
            next += u64::from(partitions) * u64::from(layers) + 1;
            if next > u64::from(u32::MAX) {
                return Err(Error::invalid("there would be too many tables")
                    .at(format_args!("operator {:?}", head.name))
                    .remedy("import it on fewer shards"));
            }
            for group in groups.iter() {
                shard_of_group[usize::from(group.0)] = number as u16;
            }
        }
        let end_slot = next as u32;
        Ok(Self { head, max_parallelism, shards, shard_of_group, layers, first_slot, end_slot })
    }

    /// The first slot of the next operator.
    pub(super) fn end_slot(&self) -> u32 {
        self.end_slot
    }

    pub(super) fn broadcast_slot(&self) -> u32 {
        self.first_slot
    }

    /// The slot of a record of this key group and number of a value schema.
    pub(super) fn slot(&self, group: KeyGroup, schema: usize) -> u32 {
        let shard = &self.shards[usize::from(self.shard_of_group[usize::from(group.0)])];
        let at = u32::from(group.0 - shard.groups.first().0);
        let partition = at * shard.partitions / shard.groups.count();
        shard.first_slot + partition * self.layers + schema as u32
    }

    /// The slot of the items of a shard's operator lists.
    pub(super) fn items_slot(&self, shard: usize) -> u32 {
        let shard = &self.shards[shard];
        shard.first_slot + shard.partitions * self.layers
    }

    /// Which shard gets item `number` of `count`: each as many, and one more each of the
    /// first as long as there are any left, as a restore divides them.
    pub(super) fn shard_of_item(&self, number: u64, count: u64) -> usize {
        let shards = self.shards.len() as u64;
        let (each, left) = (count / shards, count % shards);
        let with_more = left * (each + 1);
        let shard = match number < with_more {
            true => number / (each + 1),
            false => left + (number - with_more) / each.max(1),
        };
        shard.min(shards - 1) as usize
    }
}

/// Writes tables and manifests as records come.
pub(super) struct Output<'a, 'h, 'k> {
    pub(super) work: &'a WorkDir,
    pub(super) sink: &'a dyn SnapshotSink,
    pub(super) snapshot: SnapshotId,
    pub(super) options: TableOptions,
    pub(super) targets: &'a [Target<'h>],
    /// The next number of a list chunk, by operator.
    pub(super) sequences: &'a [u64],
    pub(super) keep_going: &'a mut Option<&'k mut dyn FnMut(u64) -> bool>,
    pub(super) records: u64,
    /// The operator and the shard that records are being written of.
    pub(super) operator: usize,
    pub(super) shard: usize,
    pub(super) open: Option<OpenTable>,
    /// The finished tables of the shard.
    pub(super) tables: Vec<TableRef>,
    /// The broadcast states of the operator and the lists of the shard, by their
    /// position among the operator states.
    pub(super) broadcast: BTreeMap<u16, Vec<(u32, Items)>>,
    pub(super) items: BTreeMap<u16, Vec<(u32, Items)>>,
    pub(super) item_bytes: u64,
    /// Of all operators so far, those of the current one last.
    pub(super) handles: Vec<Vec<SnapshotHandle>>,
}

/// A table that is being written.
pub(super) struct OpenTable {
    slot: u32,
    state: Option<u16>,
    file: WorkFile,
    writer: TableWriter,
    /// The key of the current record.
    key: Vec<u8>,
}

impl Output<'_, '_, '_> {
    /// Takes in a record of the sort.
    ///
    /// # Errors
    /// `Unavailable` if the working directory or the sink fails; `Invalid` if operator
    /// states are too large.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.records += 1;
        if self.records.is_multiple_of(BREATH_RECORDS) {
            breathe(self.keep_going, self.records)?;
        }
        let mut reader = Reader::new("sorted record", key);
        let slot = u32::from_be_bytes(reader.array("slot")?);
        let state = u16::from_be_bytes(reader.array("state")?);
        self.go_to(slot)?;
        let target = &self.targets[self.operator];
        if slot == target.broadcast_slot() {
            self.take_item(state, Some(reader.rest()), value)
        } else if slot == target.items_slot(self.shard) {
            self.end_table()?;
            self.take_item(state, None, value)
        } else {
            self.take_record(slot, state, reader, value)
        }
    }

    /// Ends what lies before a slot.
    fn go_to(&mut self, slot: u32) -> Result<()> {
        let targets = self.targets;
        while slot >= targets[self.operator].end_slot {
            self.end_shard()?;
        }
        let target = &targets[self.operator];
        while slot != target.broadcast_slot() && slot > target.items_slot(self.shard) {
            self.end_shard()?;
        }
        Ok(())
    }

    fn take_record(
        &mut self,
        slot: u32,
        state: u16,
        mut reader: Reader<'_>,
        value: &[u8],
    ) -> Result<()> {
        let group = KeyGroup(u16::from_be_bytes(reader.array("group")?));
        let hash = u64::from_be_bytes(reader.array("hash")?);
        if self.open.as_ref().is_some_and(|table| table.slot != slot) {
            self.end_table()?;
        }
        let target = &self.targets[self.operator];
        let table = match &mut self.open {
            Some(table) => table,
            none => {
                let (file, out) = self.work.create("table")?;
                let writer = TableWriter::new(out, file.id, target.max_parallelism, self.options)?;
                none.insert(OpenTable { slot, state: None, file, writer, key: Vec::new() })
            }
        };
        if table.state != Some(state) {
            let meta = &target.head.states[usize::from(state)].meta;
            let shard = &target.shards[self.shard];
            let layer = (slot - shard.first_slot) % target.layers;
            table.writer.begin_placed_state(&meta.name, Placement::of(meta.kind))?;
            table.writer.set_value_schema(schema_of(meta, layer)?.fingerprint())?;
            table.writer.set_stamps(meta.ttl.map(|ttl| ttl.time))?;
            table.state = Some(state);
        }
        let namespace = order::take(reader.rest(), &mut table.key)?;
        table.writer.add(group, hash, &table.key, namespace, Some(value))
    }

    /// Takes in an item of an operator list, or a key and value of a broadcast state.
    fn take_item(&mut self, state: u16, key: Option<&[u8]>, value: &[u8]) -> Result<()> {
        let mut reader = Reader::new("sorted record", value);
        let part = reader.u32("part")?;
        let item = reader.rest();
        let all = if key.is_some() { &mut self.broadcast } else { &mut self.items };
        let parts = all.entry(state).or_default();
        if parts.last().is_none_or(|(last, _)| *last != part) {
            parts.push((part, Items::default()));
        }
        let (_, items) = parts.last_mut().expect("one was pushed");
        for item in key.into_iter().chain([item]) {
            items.push(item);
            self.item_bytes += Items::stored_bytes(item.len());
        }
        if self.item_bytes <= MAX_MANIFEST_ITEM_BYTES {
            return Ok(());
        }
        Err(Error::invalid("the operator states are too large for one shard")
            .at(format_args!("operator {:?}", self.targets[self.operator].head.name))
            .expected(format_args!("at most {MAX_MANIFEST_ITEM_BYTES} bytes"))
            .found(format_args!("{} bytes or more", self.item_bytes))
            .remedy("import the operator on more shards"))
    }

    /// Finishes the current table and hands it to the sink.
    fn end_table(&mut self) -> Result<()> {
        let Some(OpenTable { file, writer, .. }) = self.open.take() else { return Ok(()) };
        let meta = writer.finish()?;
        let bytes = file.open()?;
        let (keep_going, records) = (&mut *self.keep_going, self.records);
        let location = self.sink.put_table(
            &TableUpload {
                name: &format!("{}.table", meta.file),
                contents: Contents { bytes: meta.bytes, hash: meta.hash },
                local: Some(&file.path),
                bytes: &*bytes,
            },
            &mut |_| breathe(keep_going, records).is_ok(),
        )?;
        self.tables.push(TableRef { meta, location, slice: meta.groups, dropped: Vec::new() });
        Ok(())
    }

    /// Finishes the current shard, and moves on to the next one.
    fn end_shard(&mut self) -> Result<()> {
        self.end_table()?;
        let target = &self.targets[self.operator];
        let head = target.head;
        let groups = target.shards[self.shard].groups;
        let operator_states = head.operator_states.iter().enumerate().map(|(at, state)| {
            let is_broadcast = state.mode == OperatorStateMode::Broadcast;
            let all = if is_broadcast { &self.broadcast } else { &self.items };
            let parts = all.get(&(at as u16)).map_or(&[][..], |parts| parts);
            let schema = |part: u32| state.parts[part as usize].0.clone();
            let mut parts: Vec<OperatorPart> = parts
                .iter()
                .map(|(part, items)| OperatorPart {
                    value_schema: schema(*part),
                    items: items.clone(),
                })
                .collect();
            if parts.is_empty() {
                let value_schema = schema(state.parts.len() as u32 - 1);
                parts.push(OperatorPart { value_schema, items: Items::default() });
            }
            let (name, key_schema) = (state.name.clone(), state.key_schema.clone());
            OperatorState { name, mode: state.mode, key_schema, parts }
        });
        let env = self.work.env();
        let manifest = Manifest {
            snapshot: self.snapshot,
            operator: head.name.clone(),
            created_unix_ms: env.unix_time_ms(),
            sequence: self.sequences[self.operator],
            groups,
            max_parallelism: target.max_parallelism,
            watermark: head.watermark,
            states: head.states.iter().map(|state| state.meta.clone()).collect(),
            operator_states: operator_states.collect(),
            tables: std::mem::take(&mut self.tables),
            user_meta: Vec::new(),
        };
        let bytes = manifest.encode()?;
        let name = format!(
            "{:020}-{:05}-{:05}-{}.manifest",
            self.snapshot.0,
            groups.first().0,
            groups.last().0,
            self.work.next_id(),
        );
        let location = self.sink.put_manifest(&name, &bytes)?;
        let handle = SnapshotHandle::new(&manifest, &bytes, &self.sink.identity(), &location)?;
        if self.handles.len() == self.operator {
            self.handles.push(Vec::new());
        }
        self.handles[self.operator].push(handle);
        let items = std::mem::take(&mut self.items);
        self.item_bytes -= bytes_of(&items);
        self.shard += 1;
        if self.shard == target.shards.len() {
            self.operator += 1;
            self.shard = 0;
            self.broadcast.clear();
            self.item_bytes = 0;
        }
        Ok(())
    }

    /// Ends everything, and gives the handles of the shards of each operator.
    ///
    /// # Errors
    /// As of [`take`](Self::take).
    pub(super) fn finish(mut self) -> Result<Vec<Vec<SnapshotHandle>>> {
        while self.operator < self.targets.len() {
            self.end_shard()?;
        }
        Ok(self.handles)
    }
}

fn bytes_of(items: &BTreeMap<u16, Vec<(u32, Items)>>) -> u64 {
    items.values().flatten().map(|(_, items)| items.bytes()).sum()
}

fn schema_of(meta: &StateMeta, layer: u32) -> Result<&Schema> {
    let mut schemas = meta.value_schemas();
    schemas.nth(layer as usize).ok_or_else(|| Error::internal("a state has no such schema"))
}
