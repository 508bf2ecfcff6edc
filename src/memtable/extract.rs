//! From a frozen epoch to a sorted run of records, on a background thread.
//!
//! 1. Walk the dirty map in address order, a few records ahead of ourselves
//!    with prefetches, and copy each record, header and all, to the end of one
//!    buffer. Note its hash, group and place.
//! 2. Publish the epoch as extracted: from now on the writer may change those
//!    records in place again.
//! 3. Sort the notes by (group, hash, key, namespace).
//!
//! Only the first step holds records frozen; it runs at the speed of memory.

use std::fmt;
use std::sync::Arc;

use crate::base::{Epoch, KeyGroup, hash};

use super::Shared;
use super::addr::Addr;
use super::arena::ChunkSet;
use super::dirty::DirtyMap;
use super::hasher::IndexHasher;
use super::record::Record;

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
}

impl Frozen {
    pub(super) fn new(
        epoch: Epoch,
        dirty: DirtyMap,
        chunks: ChunkSet,
        hasher: IndexHasher,
        shared: Arc<Shared>,
    ) -> Self {
        Self { epoch, dirty, chunks, hasher, shared }
    }

    /// Number of records that changed in it.
    pub(crate) fn records(&self) -> u64 {
        self.dirty.records()
    }

    /// Copies the records out and lets the writer have them back.
    pub(crate) fn extract(self) -> Run {
        let Self { epoch, dirty, chunks, hasher, shared } = self;
        let records = dirty.records() as usize;
        let mut run =
            Run { epoch, notes: Vec::with_capacity(records), bytes: Vec::new(), raw_bytes: 0 };
        let mut buried = Vec::new();
        let mut ahead = std::collections::VecDeque::with_capacity(AHEAD);
        let mut take = |addr: Addr| {
            let record = run.push(chunks.record_bytes(addr));
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
    fn push<'a>(&mut self, record_bytes: &'a [u8]) -> Record<'a> {
        let record = Record::parse(record_bytes);
        let hash = hash::with_namespace(hash::hash_key(record.key), record.namespace);
        self.notes.push(Note { hash, group: record.group, at: self.bytes.len() as u64 });
        self.bytes.extend_from_slice(record_bytes);
        self.raw_bytes += (record.key.len()
            + record.namespace.len()
            + record.value.map_or(0, <[u8]>::len)) as u64;
        record
    }

    fn record(&self, note: Note) -> Record<'_> {
        Record::parse(&self.bytes[note.at as usize..])
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
