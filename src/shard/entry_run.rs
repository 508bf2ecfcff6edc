//! The changed records of one state of collections, on their way to a table.
//!
//! What [`Run`](crate::memtable::extract::Run) is for records that are each by
//! themselves: filled in any order, sorted, and written. A collection that was
//! cleared or replaced gets a marker, and then the entries that it has now;
//! one in which only entries changed gets those, with tombstones for the ones
//! that were removed.

use std::fmt;

use crate::base::KeyGroup;
use crate::env::ledger::Charge;
use crate::env::mmap::PageVec;
use crate::format::collection::{EntryName, Subkey};
use crate::table::PlacedKey;

#[derive(Clone, Copy)]
struct Note {
    hash: u64,
    at: u64,
    group: KeyGroup,
    deleted: bool,
    key_bytes: u32,
    name_bytes: u32,
    value_bytes: u32,
}

/// A record as a table takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NamedRecord<'a> {
    pub(crate) group: KeyGroup,
    pub(crate) hash: u64,
    pub(crate) key: &'a [u8],
    /// The [entry name](crate::format::collection).
    pub(crate) name: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

/// See the [module documentation](self).
#[derive(Default)]
pub(crate) struct EntryRun {
    notes: PageVec<Note>,
    /// Keys, names and values.
    bytes: PageVec<u8>,
    name: Vec<u8>,
    charge: Charge,
}

/// Records between two looks at how much memory they take.
const CHARGE_RECORDS: usize = 4096;

impl EntryRun {
    /// An empty one, whose memory is charged.
    pub(crate) fn charged(charge: Charge) -> Self {
        Self { charge, ..Self::default() }
    }

    fn note_memory(&mut self) {
        self.charge.set(self.notes.memory_bytes() + self.bytes.memory_bytes());
    }

    /// Takes in one record; `None` for a tombstone. Each may come once. The
    /// lengths are within the limits: whoever wrote them has checked.
    pub(crate) fn push(
        &mut self,
        collection: PlacedKey<'_>,
        subkey: Subkey<'_>,
        value: Option<&[u8]>,
    ) {
        let PlacedKey { group, hash, key, namespace } = collection;
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let name_at = self.bytes.len();
        self.name.clear();
        EntryName { namespace, subkey }.encode(&mut self.name);
        self.bytes.extend_from_slice(&self.name);
        let name_bytes = self.bytes.len() - name_at;
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.notes.push(Note {
            hash,
            at: at as u64,
            group,
            deleted: value.is_none(),
            key_bytes: key.len() as u32,
            name_bytes: name_bytes as u32,
            value_bytes: value.map_or(0, <[u8]>::len) as u32,
        });
        if self.notes.len().is_multiple_of(CHARGE_RECORDS) {
            self.note_memory();
        }
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.notes.len()
    }

    /// Bytes of keys, names and values.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Sorts the records into the order of a table. In a collection all hashes
    /// are equal and the names decide.
    pub(crate) fn sort(&mut self) {
        self.note_memory();
        let Self { notes, bytes, .. } = self;
        notes.sort_unstable_by(|a, b| {
            (a.group, a.hash).cmp(&(b.group, b.hash)).then_with(|| {
                let (a, b) = (record(bytes, *a), record(bytes, *b));
                (a.key, a.name).cmp(&(b.key, b.name))
            })
        });
    }

    /// The records, in the order that [`sort`](Self::sort) left them in.
    pub(crate) fn records(&self) -> impl Iterator<Item = NamedRecord<'_>> {
        self.notes.iter().map(|&note| record(&self.bytes, note))
    }
}

fn record(bytes: &[u8], note: Note) -> NamedRecord<'_> {
    let name_at = note.at as usize + note.key_bytes as usize;
    let value_at = name_at + note.name_bytes as usize;
    NamedRecord {
        group: note.group,
        hash: note.hash,
        key: &bytes[note.at as usize..name_at],
        name: &bytes[name_at..value_at],
        value: (!note.deleted).then(|| &bytes[value_at..value_at + note.value_bytes as usize]),
    }
}

impl fmt::Debug for EntryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryRun({} records, {} bytes)", self.len(), self.raw_bytes())
    }
}
