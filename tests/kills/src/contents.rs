//! What a job's state should be at an offset of its input, by ordered maps.

use std::collections::{BTreeMap, BTreeSet};

use crate::input::{Change, NAMESPACES, record};

/// All that the shards of a job hold together. What is empty is not there.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Contents {
    /// Values by key.
    pub values: BTreeMap<u64, Vec<u8>>,
    /// Counts by key and window.
    pub counts: BTreeMap<(u64, u32), u64>,
    /// Lists by key and namespace.
    pub lists: BTreeMap<(u64, u32), Vec<u64>>,
    /// Maps by key.
    pub maps: BTreeMap<u64, BTreeMap<u32, Vec<u8>>>,
    /// Sums by key.
    pub sums: BTreeMap<u64, u64>,
    /// Sum and number of what was measured, by key.
    pub means: BTreeMap<u64, (u64, u64)>,
    /// Timers of event time.
    pub waiting: BTreeSet<(i64, u64)>,
    /// Timers of processing time.
    pub reminders: BTreeSet<(i64, u64)>,
    /// What the divided lists of all subtasks hold, ascending.
    pub notes: Vec<u64>,
    /// What every subtask has been told.
    pub told: BTreeMap<u32, u64>,
}

/// What firing a timer adds to the sum of its key.
pub const FIRED: u64 = 1_000_000;

impl Contents {
    /// The state once the input was read up to this offset.
    pub fn at(offset: u64) -> Self {
        let mut contents = Self::default();
        (0..offset).for_each(|offset| contents.apply(offset));
        contents
    }

    fn apply(&mut self, offset: u64) {
        let record = record(offset);
        let key = record.key;
        *self.sums.entry(key).or_default() += 1;
        match record.change {
            Change::Put(value) => drop(self.values.insert(key, value)),
            Change::Delete => drop(self.values.remove(&key)),
            Change::Count(window, n) => *self.counts.entry((key, window)).or_default() += n,
            Change::Append(_, elements) if elements.is_empty() => {}
            Change::Append(namespace, elements) => {
                self.lists.entry((key, namespace)).or_default().extend(elements);
            }
            Change::MergeLists(target) => {
                for other in (0..NAMESPACES).filter(|other| *other != target) {
                    if let Some(elements) = self.lists.remove(&(key, other)) {
                        self.lists.entry((key, target)).or_default().extend(elements);
                    }
                }
            }
            Change::ClearList(namespace) => drop(self.lists.remove(&(key, namespace))),
            Change::PutEntry(entry, value) => {
                self.maps.entry(key).or_default().insert(entry, value);
            }
            Change::RemoveEntry(entry) => {
                if let Some(map) = self.maps.get_mut(&key) {
                    map.remove(&entry);
                    self.maps.retain(|_, map| !map.is_empty());
                }
            }
            Change::ClearMap => drop(self.maps.remove(&key)),
            Change::Measure(value) => {
                let (sum, number) = self.means.entry(key).or_default();
                *sum += value;
                *number += 1;
            }
            Change::Wait(time) => drop(self.waiting.insert((time, key))),
            Change::WaitNoMore(time) => drop(self.waiting.remove(&(time, key))),
            Change::Remind(time) => drop(self.reminders.insert((time, key))),
            Change::Note(note) => self.notes.push(note),
            Change::Tell(about, what) => drop(self.told.insert(about, what)),
        }
        if let Some(now) = record.watermark {
            let later = self.waiting.split_off(&(now + 1, 0));
            for (_, key) in std::mem::replace(&mut self.waiting, later) {
                *self.sums.entry(key).or_default() += FIRED;
            }
        }
    }
}
