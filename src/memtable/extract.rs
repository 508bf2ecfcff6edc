//! From a frozen epoch to a sorted run of records, on a background thread.
//!
//! 1. Walk the dirty map in address order, a few records ahead of ourselves
//!    with prefetches, and copy each record, header and all, to the end of one
//!    buffer. Of a list or a page only what changed in the epoch is copied, so
//!    the value of a page in a run is a row of entries.
//! 2. Publish the epoch as extracted: from now on the writer may change those
//!    records in place again.
//! 3. Walk the copies, and note the hash, group and place of each.
//! 4. Sort the notes by (group, hash, key, namespace).
//!
//! Only the first step holds records frozen. It runs at the speed of memory, and
//! does nothing that can wait: as long as it lasts, the writer copies what it
//! changes.

use std::fmt;
use std::sync::Arc;

use crate::base::{Epoch, KeyGroup, hash};
use crate::env::ledger::Charge;
use crate::env::mmap::{PageVec, prefetch_read};
use crate::env::pages::PagePool;

use super::addr::Addr;
use super::arena::ChunkSet;
use super::collection::list::List;
use super::collection::map::MapPage;
use super::copies::{Copies, CopyAt};
use super::dirty::DirtyMap;
use super::evict::WHOLE;
use super::hasher::IndexHasher;
use super::record::{self, Record};
use super::sync::Ordering;
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
    pub(super) epoch: Epoch,
    pub(super) dirty: DirtyMap,
    pub(super) chunks: ChunkSet,
    pub(super) hasher: IndexHasher,
    pub(super) shared: Arc<Shared>,
    pub(super) holds: Holds,
    /// What a record of the memtable takes on average.
    pub(super) record_bytes: usize,
    /// Where there is memory for copies.
    pub(super) pool: Arc<PagePool>,
}

impl Frozen {
    /// Number of records that changed in it.
    pub(crate) fn records(&self) -> u64 {
        self.dirty.records()
    }

    /// Copies the records out and lets the writer have them back.
    pub(crate) fn extract(self) -> Run {
        let Self { epoch, dirty, chunks, hasher, shared, holds, record_bytes, pool } = self;
        let records = dirty.records() as usize;
        let likely_bytes = match holds {
            Holds::Values | Holds::Others => records * record_bytes,
            // Mostly a small part of each.
            Holds::Lists | Holds::Maps => 0,
        };
        let copies = Copies::new(likely_bytes, pool);
        let mut run = Run { epoch, records, copies, scratch: Vec::new() };
        let mut buried = Vec::new();
        let mut ahead = std::collections::VecDeque::with_capacity(AHEAD);
        let mut take = |addr: Addr| {
            let bytes = chunks.record_bytes(addr);
            match holds {
                Holds::Lists => run.push_list(bytes),
                Holds::Maps => run.push_page(bytes),
                Holds::Values | Holds::Others => run.copies.push(bytes),
            }
            if record::is_tombstone(bytes) {
                let record = Record::parse(bytes);
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
        if matches!(holds, Holds::Lists | Holds::Maps) {
            shared.note_delta(run.copies.bytes(), records * record_bytes);
        }
        shared.handoff.publish(epoch.0);
        if !buried.is_empty() {
            shared.buried.push(buried);
        }
        run
    }
}

impl Shared {
    /// Notes that a delta of so many bytes came of records of so many.
    fn note_delta(&self, bytes: usize, of: usize) {
        let Some(share) = (bytes * WHOLE as usize).checked_div(of) else { return };
        let before = self.delta_share.load(Ordering::Relaxed);
        // One that is odd counts half.
        let now = (share.min(WHOLE as usize) as u32).midpoint(before).max(1);
        self.delta_share.store(now, Ordering::Relaxed);
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frozen({:?}, {} records)", self.epoch, self.records())
    }
}

/// Copied records of one epoch of one state, in no particular order.
pub(crate) struct Run {
    epoch: Epoch,
    records: usize,
    copies: Copies,
    scratch: Vec<u8>,
}

impl Run {
    /// Takes in a copy of a record whose value is a list: all of it but the
    /// elements of earlier epochs.
    fn push_list(&mut self, bytes: &[u8]) {
        let Some(list) = Record::parse(bytes).value else {
            return self.copies.push(bytes);
        };
        let (header, elements) = List::new(list).only_changes_in(self.epoch);
        self.push_with(&bytes[..bytes.len() - list.len()], |out| {
            out.extend_from_slice(&header);
            out.extend_from_slice(elements);
        });
    }

    /// Takes in a copy of a record whose value is a page of a map: the entries
    /// that changed, in the place of the page.
    fn push_page(&mut self, bytes: &[u8]) {
        let Some(page) = Record::parse(bytes).value else {
            return self.copies.push(bytes);
        };
        let epoch = self.epoch;
        self.push_with(&bytes[..bytes.len() - page.len()], |out| {
            MapPage::new(page).copy_changes_in(epoch, out);
        });
    }

    /// Takes in a record with another value, which `append` appends.
    fn push_with(&mut self, head: &[u8], append: impl FnOnce(&mut Vec<u8>)) {
        record::copy_with_value(head, &mut self.scratch, append);
        self.copies.push(&self.scratch);
    }

    /// The epoch whose changes these are.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A charge for what is made of it.
    pub(crate) fn charge_beside(&self) -> Charge {
        self.copies.charge_beside()
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.records
    }

    /// The records, as they were copied.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let places = self.copies.places(record::copied_bytes);
        places.map(|at| Record::parse(self.copies.at(at)))
    }

    /// Brings the records into the order of a table: by group and hash, and only
    /// where those are equal by the keys themselves.
    pub(crate) fn sort(self) -> SortedRun {
        let mut notes = PageVec::with_capacity(self.records);
        let mut charge = self.charge_beside();
        let mut raw_bytes = 0;
        for at in self.copies.places(record::copied_bytes) {
            let record = Record::parse(self.copies.at(at));
            let hash = hash::with_namespace(hash::hash_key(record.key), record.namespace);
            notes.push(Note { hash, group: record.group, at });
            let value_bytes = record.value.map_or(0, <[u8]>::len);
            raw_bytes += (record.key.len() + record.namespace.len() + value_bytes) as u64;
        }
        charge.set(notes.memory_bytes());
        notes.sort_unstable_by_key(|note| (note.group, note.hash));
        let parse = |note: &Note| Record::parse(self.copies.at(note.at));
        for equals in notes.chunk_by_mut(|a, b| (a.group, a.hash) == (b.group, b.hash)) {
            if equals.len() > 1 {
                equals.sort_unstable_by(|a, b| {
                    let (a, b) = (parse(a), parse(b));
                    (a.key, a.namespace).cmp(&(b.key, b.namespace))
                });
            }
        }
        SortedRun { epoch: self.epoch, notes, copies: self.copies, raw_bytes, _charge: charge }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run({:?}, {} records)", self.epoch, self.records)
    }
}

#[derive(Clone, Copy)]
struct Note {
    hash: u64,
    group: KeyGroup,
    at: CopyAt,
}

/// Copied records of one epoch of one state, in the order of a table.
pub(crate) struct SortedRun {
    epoch: Epoch,
    notes: PageVec<Note>,
    copies: Copies,
    raw_bytes: u64,
    /// Of the notes.
    _charge: Charge,
}

impl SortedRun {
    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.notes.len()
    }

    /// Bytes of keys, namespaces and values: what a delta cannot do without.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// The records with their hashes, in order. In that order they are all over
    /// the memory that they were copied to, so it is asked for some records
    /// ahead.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, Record<'_>)> {
        for note in self.notes.iter().take(AHEAD) {
            self.prefetch(note);
        }
        self.notes.iter().enumerate().map(|(at, note)| {
            if let Some(ahead) = self.notes.get(at + AHEAD) {
                self.prefetch(ahead);
            }
            (note.hash, Record::parse(self.copies.at(note.at)))
        })
    }

    /// Asks the processor for the beginning of a record, where its lengths and
    /// most of a small one are.
    fn prefetch(&self, note: &Note) {
        let start = self.copies.at(note.at).as_ptr();
        prefetch_read(start);
        prefetch_read(start.wrapping_add(64));
        prefetch_read(start.wrapping_add(128));
    }
}

impl fmt::Debug for SortedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SortedRun({:?}, {} records, {} bytes)", self.epoch, self.len(), self.raw_bytes)
    }
}
