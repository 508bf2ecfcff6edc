//! Figures for gauges, and as a person reads them at night.
//!
//! Each kind of figures has a `Display` of a few aligned lines.

use std::fmt::{self, Display, Formatter};

use crate::env::ledger::{MemoryComponent, MemoryStats};
use crate::shard::stats::{LookupStats, Stall, Stalls, StateStats};
use crate::version::stats::{MergeStats, TableStats};

/// Size and shape of a shard, for gauges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ShardStats {
    /// Records in memory, deletions that are not yet in a table included. A
    /// list is one record, a map one for each 4 KiB or so.
    pub records: u64,
    /// Records that the next snapshot's delta will hold.
    pub dirty_records: u64,
    /// Bytes of hash indexes.
    pub index_bytes: u64,
    /// Bytes of memory mapped for records.
    pub arena_mapped_bytes: u64,
    /// Bytes of those that records take, headers included.
    pub arena_used_bytes: u64,
    /// Bytes of those that wait to be used again.
    pub arena_free_bytes: u64,
    /// Bytes of the queues of timers.
    pub timer_queue_bytes: u64,
    /// Bytes that operator states take in a snapshot.
    pub operator_state_bytes: u64,
    /// Bytes of the queues of what expires.
    pub expiry_queue_bytes: u64,
    /// Whether all records of the registered states are in memory; not yet so
    /// after a restore.
    pub is_warm: bool,
    /// Bytes that records and indexes may take now; 0 without a memory budget.
    pub allowed_bytes: u64,
    /// Records that left memory so far because tables have them, deletions included.
    pub evicted_records: u64,
    /// Times that changes were written before a snapshot asked for them, because
    /// there were so many.
    pub early_writes: u64,
    /// Tables that a look-up of a key which is not in memory meets at most; 0 without
    /// a memory budget.
    pub tables_met: usize,
    /// Number of tables, as a snapshot's manifest would name them: a file of which
    /// two slices count, two times.
    pub tables: usize,
    /// Bytes of their files, each counted once and whole.
    pub table_bytes: u64,
    /// Whether tables are being merged, or about to be. When not, they stay as they
    /// are until the next snapshot.
    pub is_merging: bool,
    /// What became of look-ups that memory could not answer.
    pub lookups: LookupStats,
    /// How long operations waited, and for what.
    pub stalls: Stalls,
    /// What was written, merged and uploaded so far, and what there is to be merged.
    pub merges: MergeStats,
}

/// Adds the figures of another shard, to see a whole backend: counts and bytes are
/// sums, [`is_warm`](Self::is_warm) holds if it does for both, `is_merging` if for one,
/// and `tables_met` and the longest waits are the larger ones.
impl std::ops::AddAssign for ShardStats {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.dirty_records += other.dirty_records;
        self.index_bytes += other.index_bytes;
        self.arena_mapped_bytes += other.arena_mapped_bytes;
        self.arena_used_bytes += other.arena_used_bytes;
        self.arena_free_bytes += other.arena_free_bytes;
        self.timer_queue_bytes += other.timer_queue_bytes;
        self.operator_state_bytes += other.operator_state_bytes;
        self.expiry_queue_bytes += other.expiry_queue_bytes;
        self.is_warm &= other.is_warm;
        self.allowed_bytes += other.allowed_bytes;
        self.evicted_records += other.evicted_records;
        self.early_writes += other.early_writes;
        self.tables_met = self.tables_met.max(other.tables_met);
        self.tables += other.tables;
        self.table_bytes += other.table_bytes;
        self.is_merging |= other.is_merging;
        self.lookups += other.lookups;
        self.stalls += other.stalls;
        self.merges += other.merges;
    }
}

/// A number of bytes, in the unit that suits it.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            bytes if bytes < 1 << 10 => format!("{bytes} B"),
            bytes if bytes < 1 << 20 => format!("{:.1} KiB", bytes as f64 / 1024.0),
            bytes if bytes < 10 << 30 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
            bytes => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        };
        f.pad(&text)
    }
}

/// A part of a whole, per cent; nothing of nothing is a dash.
struct Percent(u64, u64);

impl Display for Percent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(part, whole) = *self;
        match whole {
            0 => f.pad("-"),
            _ => f.pad(&format!("{:.1} %", part as f64 * 100.0 / whole as f64)),
        }
    }
}

/// A length of time given in nanoseconds.
struct Took(u64);

impl Display for Took {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(ns) = *self;
        let text = match ns {
            0 => "0".to_owned(),
            ns if ns < 1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
            ns if ns < 1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
            ns => format!("{:.1} s", ns as f64 / 1e9),
        };
        f.pad(&text)
    }
}

impl Display for MemoryStats {
    /// A line for each component that has anything, then the sum.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let total = self.total_bytes;
        for component in MemoryComponent::ALL {
            let bytes = self.bytes_of(component);
            if bytes > 0 {
                let name = component.name();
                writeln!(f, "{name:<24} {:>12} {:>8}", Bytes(bytes), Percent(bytes, total))?;
            }
        }
        write!(f, "{:<24} {:>12}", "together", Bytes(total))?;
        if let Some(limit) = self.limit_bytes {
            write!(f, " {:>8} of {}", Percent(total, limit), Bytes(limit))?;
        }
        write!(f, ", at most {}", Bytes(self.peak_bytes))
    }
}

impl Display for LookupStats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { lookups, found, tables_asked, excluded, false_positives, .. } = *self;
        write!(
            f,
            "{lookups} look-ups in tables, {} found; {tables_asked} tables asked, {} excluded, \
             {} in vain; {} blocks, {} promoted",
            Percent(found, lookups),
            Percent(excluded, tables_asked),
            Percent(false_positives, tables_asked),
            self.blocks_read,
            self.promoted,
        )
    }
}

impl Display for Stall {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (total, longest) = (Took(self.total_ns), Took(self.longest_ns));
        write!(f, "{:>8} waits, {total:>9}, longest {longest:>9}", self.count)
    }
}

impl Display for Stalls {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "writing too slow     {}", self.writing)?;
        writeln!(f, "too many tables      {}", self.merging)?;
        writeln!(f, "memory full          {}", self.memory)?;
        write!(f, "loading              {}", self.loading)
    }
}

impl Display for MergeStats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} written in {} deltas; {} merges read {} and wrote {}; {} uploaded; {} to be merged",
            Bytes(self.delta_bytes),
            self.deltas,
            self.merges,
            Bytes(self.read_bytes),
            Bytes(self.written_bytes),
            Bytes(self.uploaded_bytes),
            Bytes(self.debt_bytes),
        )
    }
}

impl Display for ShardStats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let resident = self.arena_used_bytes + self.index_bytes;
        let queues = self.timer_queue_bytes + self.expiry_queue_bytes;
        writeln!(
            f,
            "records in memory    {} in {}, {} dirty, {}",
            self.records,
            Bytes(resident),
            self.dirty_records,
            if self.is_warm { "complete" } else { "the rest in tables" },
        )?;
        if self.allowed_bytes > 0 {
            let used = Percent(resident + queues + self.operator_state_bytes, self.allowed_bytes);
            let allowed = Bytes(self.allowed_bytes);
            let (evicted, early) = (self.evicted_records, self.early_writes);
            writeln!(
                f,
                "budget               {used} of {allowed}; {evicted} evicted, {early} early writes"
            )?;
        }
        writeln!(
            f,
            "besides              gaps {}, queues {}, operator states {}",
            Bytes(self.arena_free_bytes),
            Bytes(queues),
            Bytes(self.operator_state_bytes),
        )?;
        writeln!(
            f,
            "tables               {} of {}, {} to a key{}",
            self.tables,
            Bytes(self.table_bytes),
            self.tables_met,
            if self.is_merging { ", merging" } else { "" },
        )?;
        writeln!(f, "look-ups             {}", self.lookups)?;
        writeln!(f, "tables so far        {}", self.merges)?;
        write!(f, "{}", self.stalls)
    }
}

impl Display for StateStats {
    /// One line.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<24} {:>10} records {:>11} in memory{}, {:>10} records {:>11} in tables; {}",
            self.name,
            self.records,
            Bytes(self.bytes),
            if self.is_complete { " (all)" } else { "" },
            self.table_records,
            Bytes(self.table_bytes),
            self.lookups,
        )
    }
}

impl Display for TableStats {
    /// One line, and one for each state.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let place = match (self.is_local, self.is_stored) {
            (true, true) => "local and stored",
            (true, false) => "local",
            (false, _) => "stored",
        };
        write!(
            f,
            "{} {} {:>11} of {:>11}, {} records, {} deletions, {place}",
            self.file,
            self.slice,
            Bytes(self.slice_bytes),
            Bytes(self.bytes),
            self.records,
            self.tombstones,
        )?;
        for state in &self.states {
            write!(
                f,
                "\n  {:<22} {:>10} records, {:>8} deletions {:>11}{}",
                state.name,
                state.records,
                state.tombstones,
                Bytes(state.raw_bytes()),
                if state.is_dropped { ", dropped" } else { "" },
            )?;
        }
        Ok(())
    }
}
