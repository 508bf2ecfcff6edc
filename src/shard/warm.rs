//! Records on their way from tables into memory, and where they come from.
//!
//! A state is brought up once it is registered: not before, since until then
//! nobody knows which schema its values should be in, and nobody asks for them.

use std::sync::Arc;

use super::base_tables::BaseTable;
use super::contents::Contents;
use super::migration::Migration;
use crate::base::KeyGroup;
use crate::env::ledger::Charge;
use crate::format::manifest::StateKind;

/// A state that is to be brought into memory.
pub(crate) struct Wanted {
    /// Its position in the shard.
    pub(crate) state: usize,
    pub(crate) kind: StateKind,
    /// The tables that it was restored from, oldest first, with its ordinal in
    /// each.
    pub(crate) tables: Vec<(BaseTable, u16)>,
    pub(crate) migration: Arc<Migration>,
}

/// Something that reads a restored shard's tables in the background.
pub(crate) trait WarmSource: Send {
    /// Reads this state, too, after those that were wanted before. Does not
    /// block.
    fn want(&mut self, wanted: Wanted);

    /// Reads no more of this state: there is no room for it. Does not block. What is on
    /// its way may still come.
    fn give_up(&mut self, state: usize);

    /// What it has ready. Does not block.
    fn try_next(&mut self) -> Warm;
}

/// What a [`WarmSource`] has to say.
#[derive(Debug)]
pub(crate) enum Warm {
    /// The newest versions of some records.
    Batch(WarmBatch),
    /// Nothing is ready.
    NotYet,
    /// Everything that the tables hold of the state at this position has been
    /// given.
    Done(usize),
    /// There will be no more of the state that came last, for a reason that is
    /// in the log. The shard goes on reading its tables.
    GaveUp,
    /// There will be no more of any state; likewise.
    Failed,
}

/// Some records, packed.
#[derive(Debug, Default)]
pub(crate) struct WarmBatch {
    records: Vec<WarmRecord>,
    bytes: Vec<u8>,
    contents: Vec<Contents>,
    contents_bytes: usize,
    charge: Charge,
}

#[derive(Debug)]
struct WarmRecord {
    state: usize,
    group: KeyGroup,
    start: usize,
    key_len: usize,
    namespace_len: usize,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// A value of so many bytes, behind the namespace.
    Value(usize),
    /// The collection at this position of `contents`.
    Collection(usize),
}

/// One record of a [`WarmBatch`].
#[derive(Debug)]
pub(super) struct Warmed<'a> {
    /// Position of its state in the shard.
    pub(super) state: usize,
    pub(super) group: KeyGroup,
    pub(super) key: &'a [u8],
    pub(super) namespace: &'a [u8],
    pub(super) what: WarmedWhat<'a>,
}

/// What tables have under its key and namespace.
#[derive(Debug)]
pub(super) enum WarmedWhat<'a> {
    Value(&'a [u8]),
    Collection(&'a Contents),
}

impl WarmBatch {
    /// Adds a record of the state at position `state` of the shard.
    pub(crate) fn push(
        &mut self,
        state: usize,
        group: KeyGroup,
        key: &[u8],
        namespace: &[u8],
        value: &[u8],
    ) {
        self.push_key(state, group, key, namespace, What::Value(value.len()));
        self.bytes.extend_from_slice(value);
    }

    /// Adds a whole collection of about so many bytes.
    pub(crate) fn push_collection(
        &mut self,
        state: usize,
        group: KeyGroup,
        key: &[u8],
        namespace: &[u8],
        contents: Contents,
        bytes: usize,
    ) {
        self.push_key(state, group, key, namespace, What::Collection(self.contents.len()));
        self.contents.push(contents);
        self.contents_bytes += bytes;
    }

    fn push_key(
        &mut self,
        state: usize,
        group: KeyGroup,
        key: &[u8],
        namespace: &[u8],
        what: What,
    ) {
        self.records.push(WarmRecord {
            state,
            group,
            start: self.bytes.len(),
            key_len: key.len(),
            namespace_len: namespace.len(),
            what,
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(namespace);
    }

    /// Bytes of keys, namespaces and values in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() + self.contents_bytes
    }

    /// Has its memory counted, until it is dropped.
    pub(crate) fn charge(&mut self, mut charge: Charge) {
        let records = self.records.capacity() * size_of::<WarmRecord>();
        charge.set((self.bytes.capacity() + self.contents_bytes + records) as u64);
        self.charge = charge;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The record at `position`.
    pub(super) fn get(&self, position: usize) -> Option<Warmed<'_>> {
        let record = self.records.get(position)?;
        let rest = &self.bytes[record.start..];
        let (key, rest) = rest.split_at(record.key_len);
        let (namespace, rest) = rest.split_at(record.namespace_len);
        let what = match record.what {
            What::Value(len) => WarmedWhat::Value(&rest[..len]),
            What::Collection(at) => WarmedWhat::Collection(&self.contents[at]),
        };
        Some(Warmed { state: record.state, group: record.group, key, namespace, what })
    }
}
