//! What tables hold and what merging comes to, as figures for people.

use crate::base::{FileId, KeyGroupRange};
use crate::format::properties::StateProperties;

use super::{TableEntry, Version};

/// One table of a shard, or a slice of one; see [`Shard::tables`](crate::Shard::tables).
///
/// Counts are of the whole file, which may hold more than the slice.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TableStats {
    /// Its identity.
    pub file: FileId,
    /// The key groups of it that count.
    pub slice: KeyGroupRange,
    /// The key groups from its first record to its last.
    pub groups: KeyGroupRange,
    /// Bytes of the file.
    pub bytes: u64,
    /// What of those falls to the slice, as if all key groups were of one size.
    pub slice_bytes: u64,
    /// Records, deletions included.
    pub records: u64,
    /// Deletions among them.
    pub tombstones: u64,
    /// Bytes of keys, namespaces and values, before compression.
    pub raw_bytes: u64,
    /// Whether this process wrote it and has it as a file.
    pub is_local: bool,
    /// Whether a checkpoint store has it.
    pub is_stored: bool,
    /// By state, in the order of their names.
    pub states: Vec<TableStateStats>,
}

/// What a table holds of one state.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TableStateStats {
    /// Name of the state.
    pub name: String,
    /// Records, deletions included. An entry of a map is one, and so is what was
    /// appended to a list between two snapshots or early writes.
    pub records: u64,
    /// Deletions among them.
    pub tombstones: u64,
    /// Bytes of keys.
    pub key_bytes: u64,
    /// Bytes of namespaces, and of what names entries.
    pub namespace_bytes: u64,
    /// Bytes of values.
    pub value_bytes: u64,
    /// Whether the state was dropped since, so that none of these count.
    pub is_dropped: bool,
}

impl TableStats {
    /// What of a count of the whole file falls to the slice, about.
    pub(crate) fn share_of(&self, count: u64) -> u64 {
        let slice = self.slice.intersection(self.groups).map_or(0, KeyGroupRange::count);
        let part = u128::from(count) * u128::from(slice);
        part.div_ceil(u128::from(self.groups.count())) as u64
    }
}

impl TableStateStats {
    /// Bytes of keys, namespaces and values.
    pub fn raw_bytes(&self) -> u64 {
        self.key_bytes.saturating_add(self.namespace_bytes).saturating_add(self.value_bytes)
    }
}

/// What a shard wrote, merged and uploaded since it was opened, and what there is to be
/// merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MergeStats {
    /// Tables written of changes, for snapshots and before them.
    pub deltas: u64,
    /// Bytes of their files.
    pub delta_bytes: u64,
    /// Merges that were done, each of some key groups.
    pub merges: u64,
    /// Bytes that they read, as if all key groups of a table were of one size.
    pub read_bytes: u64,
    /// Bytes of the tables that they wrote.
    pub written_bytes: u64,
    /// Bytes of tables that were handed to the store.
    pub uploaded_bytes: u64,
    /// Bytes above the oldest tables: what merges would bring to nothing. They are let
    /// grow to 0.7 of what is beneath before it is merged.
    pub debt_bytes: u64,
}

impl MergeStats {
    pub(crate) fn note_delta(&mut self, bytes: u64) {
        self.deltas += 1;
        self.delta_bytes += bytes;
    }

    pub(crate) fn note_merge(&mut self, read_bytes: u64, written_bytes: u64) {
        self.merges += 1;
        self.read_bytes += read_bytes;
        self.written_bytes += written_bytes;
    }
}

impl std::ops::AddAssign for MergeStats {
    fn add_assign(&mut self, other: Self) {
        self.deltas += other.deltas;
        self.delta_bytes += other.delta_bytes;
        self.merges += other.merges;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
        self.uploaded_bytes += other.uploaded_bytes;
        self.debt_bytes += other.debt_bytes;
    }
}

impl Version {
    /// Its tables, oldest first.
    pub(crate) fn stats(&self) -> Vec<TableStats> {
        self.tables().iter().map(|table| table.stats()).collect()
    }
}

impl TableEntry {
    fn stats(&self) -> TableStats {
        let places = self.places();
        let dropped = self.dropped();
        let of_state = |state: &StateProperties| TableStateStats {
            name: state.name.clone(),
            records: state.records,
            tombstones: state.tombstones,
            key_bytes: state.key_bytes,
            namespace_bytes: state.namespace_bytes,
            value_bytes: state.value_bytes,
            is_dropped: dropped.contains(&state.name),
        };
        TableStats {
            file: self.meta.file,
            slice: self.slice,
            groups: self.meta.groups,
            bytes: self.meta.bytes,
            slice_bytes: self.bytes_in(self.slice),
            records: self.meta.records,
            tombstones: self.meta.tombstones,
            raw_bytes: self.meta.raw_bytes,
            is_local: places.local.is_some(),
            is_stored: !places.stored.is_empty(),
            states: self.states.iter().map(of_state).collect(),
        }
    }
}
