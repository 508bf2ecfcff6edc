//! Records on their way from tables into memory, and where they come from.

use crate::base::KeyGroup;

/// Something that reads a restored shard's tables in the background.
pub(crate) trait WarmSource: Send {
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
    /// Everything that the tables hold has been given.
    Done,
    /// It cannot go on, and has said why in the log. The shard goes on reading
    /// its tables.
    Failed,
}

/// Some records, packed.
#[derive(Debug, Default)]
pub(crate) struct WarmBatch {
    records: Vec<WarmRecord>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct WarmRecord {
    state: usize,
    group: KeyGroup,
    start: usize,
    key_len: usize,
    namespace_len: usize,
    value_len: usize,
}

/// One record of a [`WarmBatch`].
#[derive(Debug)]
pub(super) struct Warmed<'a> {
    /// Position of its state in the shard.
    pub(super) state: usize,
    pub(super) group: KeyGroup,
    pub(super) key: &'a [u8],
    pub(super) namespace: &'a [u8],
    pub(super) value: &'a [u8],
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
        self.records.push(WarmRecord {
            state,
            group,
            start: self.bytes.len(),
            key_len: key.len(),
            namespace_len: namespace.len(),
            value_len: value.len(),
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(namespace);
        self.bytes.extend_from_slice(value);
    }

    /// Bytes of keys, namespaces and values in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
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
        let value = &rest[..record.value_len];
        Some(Warmed { state: record.state, group: record.group, key, namespace, value })
    }
}
