//! From a frozen epoch to a sorted run of records, on a background thread.
//!
//! 1. Walk the dirty map in address order, a few records ahead of ourselves
//!    with prefetches, and copy each record, header and all, to the end of one
//!    buffer. Note its hash, group and place.
//!    Of a list or a page only what changed in the epoch is copied, so the
//!    value of a page in a run is a row of entries.
//! 2. Publish the epoch as extracted: from now on the writer may change those
//!    records in place again.
//! 3. Sort the notes by (group, hash, key, namespace).
//!
//! Only the first step holds records frozen; it runs at the speed of memory.

use std::fmt;
use std::sync::Arc;

use crate::base::{Epoch, KeyGroup, hash};

use super::addr::Addr;
use super::arena::ChunkSet;
use super::collection::list::List;
use super::collection::map::MapPage;
use super::dirty::DirtyMap;
use super::hasher::IndexHasher;
use super::record::{self, Record};
use super::{Holds, Shared};

/// Records whose memory is asked for before it is read.
const AHEAD: usize = 16;

/// A tombstone that has been extracted, for the writer to drop: the hash that
/// places it in the index, and its address.
#[derive(Clone, Copy)]
pub(super) struct Buried {
    pub(super) hash: u64,
    pub(super) addr: u32,
}

/// The changes of one epoch of one memtable, not to be changed any more.
///
/// It has no `put`. It must be [extracted](Self::extract), in the order of
/// epochs, or the writer will copy its records at every first touch for ever.
pub(crate) struct Frozen {
    epoch: Epoch,
    dirty: DirtyMap,
    chunks: ChunkSet,
    hasher: IndexHasher,
    shared: Arc<Shared>,
    holds: Holds,
}

impl Frozen {
    pub(super) fn new(
        epoch: Epoch,
        holds: Holds,
        dirty: DirtyMap,
        chunks: ChunkSet,
        hasher: IndexHasher,
        shared: Arc<Shared>,
    ) -> Self {
        Self { epoch, dirty, chunks, hasher, shared, holds }
    }

    /// Number of records that changed in it.
    pub(crate) fn records(&self) -> u64 {
        self.dirty.records()
    }

    /// Copies the records out and lets the writer have them back.
    pub(crate) fn extract(self) -> Run {
        let Self { epoch, dirty, chunks, hasher, shared, holds } = self;
        let records = dirty.records() as usize;
        let mut run =
            Run { epoch, notes: Vec::with_capacity(records), bytes: Vec::new(), raw_bytes: 0 };
        let mut buried = Vec::new();
        let mut ahead = std::collections::VecDeque::with_capacity(AHEAD);
        let mut take = |addr: Addr| {
            let bytes = chunks.record_bytes(addr);
            let record = Record::parse(bytes);
            match (holds, record.value) {
                (Holds::Lists, Some(list)) => run.push_list(record, bytes, list),
                (Holds::Maps, Some(page)) => run.push_page(record, bytes, page),
                (_, _) => run.push(record, bytes),
            }
            if record.value.is_none() {
                let hash = hasher.hash(record.key, record.namespace);
                buried.push(Buried { hash, addr: addr.0 });
            }
        };
        dirty.drain(
            |addr| {
                chunks.prefetch(addr);
                ahead.push_back(addr);
                if ahead.len() == AHEAD {
                    take(ahead.pop_front().expect("the queue is full"));
                }
            },
            |bits| shared.spare_bits.push(bits),
        );
        for addr in ahead {
            take(addr);
        }
        drop(chunks);
        shared.handoff.publish(epoch.0);
        if !buried.is_empty() {
            shared.buried.push(buried);
        }
        run
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen({:?}, {} records)", self.epoch, self.records())
    }
}

#[derive(Clone, Copy)]
struct Note {
    hash: u64,
    group: KeyGroup,
    at: u64,
}

/// Copied records of one epoch of one state.
pub(crate) struct Run {
    epoch: Epoch,
    notes: Vec<Note>,
    bytes: Vec<u8>,
    raw_bytes: u64,
}

impl Run {
    /// Takes in a copy of a record.
    fn push(&mut self, record: Record<'_>, bytes: &[u8]) {
        self.note(record);
        self.bytes.extend_from_slice(bytes);
        self.raw_bytes += record.value.map_or(0, <[u8]>::len) as u64;
    }

    /// Takes in a copy of a record whose value is a list: all of it but the
    /// elements of earlier epochs.
    fn push_list(&mut self, record: Record<'_>, bytes: &[u8], list: &[u8]) {
        let (header, elements) = List::new(list).only_changes_in(self.epoch);
        self.push_with(record, &bytes[..bytes.len() - list.len()], |out| {
            out.extend_from_slice(&header);
            out.extend_from_slice(elements);
        });
    }

    /// Takes in a copy of a record whose value is a page of a map: the entries
    /// that changed, in the place of the page.
    fn push_page(&mut self, record: Record<'_>, bytes: &[u8], page: &[u8]) {
        let epoch = self.epoch;
        self.push_with(record, &bytes[..bytes.len() - page.len()], |out| {
            MapPage::new(page).copy_changes_in(epoch, out);
        });
    }

    /// Takes in a record with another value, which `append` appends.
    fn push_with(&mut self, record: Record<'_>, head: &[u8], append: impl FnOnce(&mut Vec<u8>)) {
        self.note(record);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(head);
        append(&mut self.bytes);
        let value_len = self.bytes.len() - start - head.len();
        record::set_value_len(&mut self.bytes[start..], value_len);
        self.raw_bytes += value_len as u64;
    }

    /// Notes a record that is appended next.
    fn note(&mut self, record: Record<'_>) {
        let hash = hash::with_namespace(hash::hash_key(record.key), record.namespace);
        self.notes.push(Note { hash, group: record.group, at: self.bytes.len() as u64 });
        self.raw_bytes += (record.key.len() + record.namespace.len()) as u64;
    }

    fn record(&self, note: Note) -> Record<'_> {
        Record::parse(&self.bytes[note.at as usize..])
    }

    /// The epoch whose changes these are.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.notes.len()
    }

    /// Bytes of keys, namespaces and values: what a delta cannot do without.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Sorts the records into the order of a table: by group and hash, which
    /// the notes hold, and only where those are equal by the keys themselves.
    pub(crate) fn sort(&mut self) {
        let mut notes = std::mem::take(&mut self.notes);
        notes.sort_unstable_by_key(|note| (note.group, note.hash));
        for equals in notes.chunk_by_mut(|a, b| (a.group, a.hash) == (b.group, b.hash)) {
            if equals.len() > 1 {
                equals.sort_unstable_by(|a, b| {
                    let (a, b) = (self.record(*a), self.record(*b));
                    (a.key, a.namespace).cmp(&(b.key, b.namespace))
                });
            }
        }
        self.notes = notes;
    }

    /// The records with their hashes, in the order that [`sort`](Self::sort)
    /// left them in.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, Record<'_>)> {
        self.notes.iter().map(|&note| (note.hash, self.record(note)))
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run({:?}, {} records, {} bytes)", self.epoch, self.len(), self.raw_bytes)
    }
}
