//! What the task thread counts while it works, as figures for people.
//!
//! Only what takes the long way is counted: an operation that finds its record at hand
//! adds to nothing.

use crate::format::manifest::StateKind;
use crate::memtable::Below;
use crate::table::TableReads;

use super::collections::Family;
use super::{ShardCore, StateSlot};

/// Look-ups of keys that were not in memory while tables might have them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LookupStats {
    /// Keys that were looked for in tables; a list or a map counts as one.
    pub lookups: u64,
    /// Of these, how many tables had; the others do not exist.
    pub found: u64,
    /// Tables that were asked, each key in one table counting as one.
    pub tables_asked: u64,
    /// Of these, how many excluded the key by their filter or key groups, so that
    /// nothing was read.
    pub excluded: u64,
    /// Of these, how many had to be read and did not have it: the filter was wrong, or
    /// there is none.
    pub false_positives: u64,
    /// Blocks of tables that were looked at.
    pub blocks_read: u64,
    /// Keys whose records were brought from tables into memory, those of a warm-up and
    /// timers that came near included.
    pub promoted: u64,
}

impl LookupStats {
    /// Notes that a key was looked for, and what that came to.
    pub(super) fn note(&mut self, found: bool, reads: TableReads) {
        self.lookups += 1;
        self.found += u64::from(found);
        self.promoted += u64::from(found);
        self.tables_asked += reads.asked;
        self.excluded += reads.excluded;
        self.false_positives += reads.false_positives;
        self.blocks_read += reads.blocks;
    }
}

impl std::ops::AddAssign for LookupStats {
    fn add_assign(&mut self, other: Self) {
        self.lookups += other.lookups;
        self.found += other.found;
        self.tables_asked += other.tables_asked;
        self.excluded += other.excluded;
        self.false_positives += other.false_positives;
        self.blocks_read += other.blocks_read;
        self.promoted += other.promoted;
    }
}

/// Waits of the task thread for one reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stall {
    /// How many there were.
    pub count: u64,
    /// How long they were together, in nanoseconds.
    pub total_ns: u64,
    /// How long the longest was, in nanoseconds.
    pub longest_ns: u64,
}

impl Stall {
    pub(super) fn note(&mut self, ns: u64) {
        self.count += 1;
        self.total_ns += ns;
        self.longest_ns = self.longest_ns.max(ns);
    }
}

impl std::ops::AddAssign for Stall {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.total_ns += other.total_ns;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
    }
}

/// Waits of the task thread within operations, by their cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stalls {
    /// What changed was not written fast enough: a faster disk, a larger budget, or more
    /// background threads help.
    pub writing: Stall,
    /// A key group was in too many tables, and merges do not keep up.
    pub merging: Stall,
    /// There was no room for a record, and nothing in memory could leave it before
    /// changes were written: the budget is small for what is asked for at once.
    pub memory: Stall,
    /// All records of a state had to be read from tables before it could be used, as
    /// timers have to be after a restore, and with a memory budget whenever those that are
    /// in memory have fired.
    pub loading: Stall,
}

impl Stalls {
    pub(super) fn of(&mut self, cause: Cause) -> &mut Stall {
        match cause {
            Cause::Writing => &mut self.writing,
            Cause::Merging => &mut self.merging,
            Cause::Memory => &mut self.memory,
            Cause::Loading => &mut self.loading,
        }
    }
}

impl std::ops::AddAssign for Stalls {
    fn add_assign(&mut self, other: Self) {
        self.writing += other.writing;
        self.merging += other.merging;
        self.memory += other.memory;
        self.loading += other.loading;
    }
}

/// Why an operation waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    Writing,
    Merging,
    Memory,
    Loading,
}

/// One state of a shard; see [`Shard::state_stats`](crate::Shard::state_stats).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct StateStats {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: StateKind,
    /// Whether it was asked for since the shard was opened.
    pub is_registered: bool,
    /// Whether all of it is in memory, so that what is not there does not exist.
    pub is_complete: bool,
    /// Records in memory, deletions that are not yet in a table included.
    pub records: u64,
    /// Bytes that they take, with their index.
    pub bytes: u64,
    /// Records that changed since the last snapshot or early write.
    pub dirty_records: u64,
    /// Records in tables, deletions and older versions of records included: of the
    /// slices that count, as if all key groups of a table were of one size.
    pub table_records: u64,
    /// Bytes of keys, namespaces and values in tables, before compression; likewise.
    pub table_bytes: u64,
    /// What became of look-ups that memory could not answer.
    pub lookups: LookupStats,
}

impl StateSlot {
    fn stats(&self) -> StateStats {
        let memory = self.memtable.stats();
        StateStats {
            name: self.meta.name.clone(),
            kind: self.meta.kind,
            is_registered: self.registered,
            is_complete: self.memtable.below() == Below::Nothing,
            records: memory.records,
            bytes: memory.arena_used_bytes + memory.index_bytes,
            dirty_records: memory.dirty_records,
            table_records: 0,
            table_bytes: 0,
            lookups: self.lookups,
        }
    }
}

impl ShardCore {
    /// Every state, but nothing of tables.
    pub(crate) fn state_stats(&self) -> Vec<StateStats> {
        let live = self.states.iter().filter(|slot| slot.family != Family::Dropped);
        let mut stats: Vec<_> = live.map(StateSlot::stats).collect();
        stats.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        stats
    }

    /// Of all states, dropped ones included.
    pub(crate) fn lookup_stats(&self) -> LookupStats {
        let mut sum = LookupStats::default();
        self.states.iter().for_each(|slot| sum += slot.lookups);
        sum
    }

    pub(crate) fn stalls(&self) -> Stalls {
        self.stalls
    }

    /// Does something that may wait, and counts how long it took.
    pub(super) fn stalled<T>(&mut self, cause: Cause, work: impl FnOnce(&mut Self) -> T) -> T {
        let began = self.clocks.monotonic_ns();
        let done = work(self);
        let took = self.clocks.monotonic_ns().saturating_sub(began);
        self.stalls.of(cause).note(took);
        done
    }
}
