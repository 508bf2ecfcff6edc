//! From the records of collections that changed in an epoch to the entries that
//! tables hold: only what is new in a list, only the entries that changed in a
//! map. Done when the records have been copied out, so it holds nobody up.

use super::contents::chunk_entry;
use super::entry_run::EntryRun;
use crate::format::collection::Subkey;
use crate::format::manifest::StateKind;
use crate::memtable::collection::list::List;
use crate::memtable::collection::map::MapEntries;
use crate::memtable::extract::Run;
use crate::memtable::maps::Part;
use crate::table::PlacedKey;

/// The entries that a run of a state of lists or maps comes to, with stamps in
/// front of the values of a `timed` one. `sequence` is
/// above that of every earlier delta of the shard and of its ancestors, so that
/// the chunks of a list lie in the order in which they were added.
pub(super) fn entries_of(kind: StateKind, timed: bool, run: &Run, sequence: u64) -> EntryRun {
    let mut entries = EntryRun::charged(run.charge_beside());
    match kind {
        StateKind::Map => changes_of_maps(run, timed, &mut entries),
        _ => changes_of_lists(run, sequence, &mut entries),
    }
    entries
}

fn changes_of_lists(run: &Run, sequence: u64, entries: &mut EntryRun) {
    for record in run.records() {
        let at = PlacedKey::in_group(record.group, record.key, record.namespace);
        let Some(value) = record.value else {
            entries.push(at, Subkey::Marker, None);
            continue;
        };
        let changes = List::new(value).changes_in(run.epoch());
        if changes.replaces_older {
            entries.push(at, Subkey::Marker, None);
        }
        if changes.elements.count() > 0 {
            let entry = chunk_entry(sequence);
            entries.push(at, Subkey::Entry(&entry), Some(changes.elements.bytes()));
        }
    }
}

fn changes_of_maps(run: &Run, timed: bool, entries: &mut EntryRun) {
    let mut stamped = Vec::new();
    for record in run.records() {
        let (namespace, part) = Part::of_name(record.namespace);
        let at = PlacedKey::in_group(record.group, record.key, namespace);
        match (part, record.value) {
            (Part::Marker, _) => entries.push(at, Subkey::Marker, None),
            (Part::Small | Part::Page(_), Some(changed)) => {
                for entry in MapEntries::of_copy(changed) {
                    let value = entry.value.map(|value| {
                        if !timed {
                            return value;
                        }
                        stamped.clear();
                        stamped.extend_from_slice(&entry.stamp.to_le_bytes());
                        stamped.extend_from_slice(value);
                        &stamped
                    });
                    entries.push(at, Subkey::Entry(entry.key), value);
                }
            }
            // Only markers are ever tombstones, and roots are never dirty.
            (Part::Small | Part::Page(_), None) | (Part::Root, _) => {
                debug_assert!(false, "{part:?} of a map in a delta");
            }
        }
    }
}
