//! A shard that may not use more than a given amount of memory.
//!
//! Every operation that may need memory first comes here ([`ShardCore::keep_room`]);
//! those that find their record at hand do not. Nothing happens until the memory that
//! the shard [may use](Account::allowed) is nearly full. Then
//!
//! 1. what changed is written before anybody asks for a snapshot, as soon as the table
//!    will come to an [eighth](FLUSH_AT) of the memory, or the records that cannot be
//!    evicted until then to [three eighths](PINNED_FLUSH_AT), or less: of a list or a map
//!    all of a record stays, however little of it changed. It is a freeze like any
//!    other, whose delta becomes a table that the next snapshot names;
//! 2. records that tables have are [evicted](crate::memtable), a few with each
//!    operation, state after state; of timers the latest, down to a part of the memory
//!    that the next ones keep (`timers::far`);
//! 3. gaps between records, which only their own state can use again, are memory like any
//!    other. A [part](GAPS) of it is always left to them; when they have more, chunks
//!    [are emptied](crate::memtable) and go back to the system, of the state that has
//!    most gaps;
//! 4. if writing does not keep up, operations wait for it a little, and longer the
//!    more there is to be written; in the end until there is room. They wait a little,
//!    too, while the local directory has more than it may and nothing can leave it.
//!
//! # What the writer reads
//!
//! The background tells it which tables there are ([`View`]), after each that was
//! written or merged. A view says how many freezes are in its tables: records of those
//! epochs may go. The writer takes a new view at the beginning of an operation, so
//! tables do not change under one.

mod evict;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::base_tables::BaseTable;
use super::collections::Family;
use super::footprint::STEP_BYTES;
use super::stats::{Cause, LookupStats};
use super::{FrozenShard, ShardCore, StateSlot};
use crate::base::{Epoch, Error, Result};
use crate::env::budget::Account;
use crate::memtable::Changed;

/// One part in so many of the memory may be changed until it is written.
const FLUSH_AT: u64 = 8;
/// Parts of the memory, of [`PARTS`], that records may take that changed, until they are
/// written: at most. It is less while too little else is left to be evicted, as it is
/// with large maps, which one page keeps in memory.
const PINNED_FLUSH_AT: u64 = 96;
/// It is never less than these.
const PINNED_FLUSH_FROM: u64 = 16;
/// Parts that they may take, those included that are being written.
const MOST_PINNED: u64 = 192;
const PARTS: u64 = 256;
/// One part in so many may be changed and unwritten until operations wait.
const WAIT_AT: u64 = 6;
/// One part in so many may be, at most.
const MOST_UNWRITTEN: u64 = 4;
/// Tables in one key group above which operations that change something wait for
/// merges, too: reads look into each of them.
const MANY_TABLES: usize = 16;
/// Tables at which they wait as long as they ever do.
const TOO_MANY_TABLES: usize = 48;
/// What may be changed between two waits: one part in so many of the memory.
const PIECE: u64 = 256;
/// One part in so many of the memory is kept free.
const HEADROOM: u64 = 32;
/// One part in so many is left to gaps between records.
const GAPS: u64 = 16;
/// The longest wait for a piece of what is still to be written, while there is room.
const LONGEST_WAIT: Duration = Duration::from_millis(2);
/// The longest wait for a piece while there are too many tables, or too many bytes of
/// them in the local directory.
const LONGEST_WAIT_FOR_MERGES: Duration = Duration::from_millis(10);
/// How long to wait at once when there is none.
const WAIT: Duration = Duration::from_millis(20);

/// The tables of a shard at some time.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Ascends.
    pub(crate) number: u64,
    /// How many of the shard's freezes are in the tables: the first so many.
    pub(crate) freezes: u64,
    /// Oldest first.
    pub(crate) tables: Vec<BaseTable>,
}

/// Where a shard's changes are written, and where its tables come from.
pub(crate) trait Tables: Send {
    /// The number of the newest view.
    fn newest(&self) -> u64;

    /// The newest view.
    fn view(&self) -> Arc<View>;

    /// Whether tables are being merged, or about to be.
    fn is_merging(&self) -> bool;

    /// How far the local directory is above its limit with what cannot leave it: from 0,
    /// if it is not, to 1, if far.
    fn space_shortage(&self) -> f64;

    /// Says how many keys were looked for in tables so far, and how many of them are
    /// nowhere.
    fn note_lookups(&self, lookups: u64, absent: u64);

    /// Has a frozen shard written as a table. Does not block.
    fn write(&self, frozen: FrozenShard);

    /// Waits until there is a newer view than `seen`, or for so long.
    ///
    /// # Errors
    /// Why what was to be written last was not, if so; it is tried again.
    fn wait(&self, seen: u64, patience: Duration) -> Result<()>;
}

/// What a shard with a budget has.
pub(super) struct Spill {
    tables: Box<dyn Tables>,
    account: Account,
    /// The number of the delta of the first freeze.
    first_delta: u64,
    /// The number of the view that the states read.
    seen: u64,
    /// Freezes that are not: their number, and what was changed.
    in_flight: VecDeque<(u64, Changed)>,
    /// Parts of the memory that changed records may take until they are written.
    pinned_flush_at: u64,
    /// The state whose turn it is to give up records.
    state: usize,
    /// Tables of the view that a look-up meets at most.
    tables_met: usize,
    /// Bytes that were changed in all, roughly, when an operation waited last, or was
    /// seen to have no reason to.
    waited_at: u64,
    /// Bytes that were changed up to the last freeze.
    frozen_bytes: u64,
    evicted_records: u64,
    early_writes: u64,
}

/// What a shard did to keep within its budget.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct SpillStats {
    pub(crate) allowed_bytes: u64,
    pub(crate) evicted_records: u64,
    pub(crate) early_writes: u64,
    pub(crate) tables_met: usize,
}

impl Spill {
    /// How long an operation waits, because of what is to be written or merged.
    fn patience(&self, allowed: u64, unwritten: u64) -> (Duration, Cause) {
        let share = |over: u64, of: u64| (over as f64 / of.max(1) as f64).min(1.0);
        let mut patience = Duration::ZERO;
        if !self.in_flight.is_empty() {
            let over = unwritten.saturating_sub(allowed / WAIT_AT);
            let full = allowed / MOST_UNWRITTEN - allowed / WAIT_AT;
            patience = LONGEST_WAIT.mul_f64(share(over, full));
        }
        let mut short = self.tables.space_shortage();
        // If nobody merges them, waiting would change nothing.
        if self.tables_met > MANY_TABLES && self.tables.is_merging() {
            let over = (self.tables_met - MANY_TABLES) as u64;
            short = short.max(share(over, (TOO_MANY_TABLES - MANY_TABLES) as u64));
        }
        let for_merges = LONGEST_WAIT_FOR_MERGES.mul_f64(short);
        if for_merges > patience {
            (for_merges, Cause::Merging)
        } else {
            (patience, Cause::Writing)
        }
    }

    /// The number that the chunks of lists have which the first freeze has.
    pub(super) fn first_chunk(&self) -> u64 {
        self.first_delta
    }
}

/// What the memory of a shard is used for, in bytes.
#[derive(Clone, Copy)]
struct Used {
    /// Records and all else, but for the gaps.
    records: u64,
    gaps: u64,
}

impl Used {
    /// What it comes to with what is left to gaps at least.
    fn with_gaps(self, allowed: u64) -> u64 {
        self.records + self.gaps.max(allowed / GAPS)
    }
}

impl StateSlot {
    /// The number of the chunks of lists that come of an epoch, if those of the first
    /// freeze of the shard have the number `first`.
    pub(super) fn chunk_of(&self, first: u64, epoch: Epoch) -> u64 {
        first + self.since + u64::from(epoch.0 - Epoch::FIRST.0)
    }

    /// The last epoch of the memtable whose changes are all in tables, if so many
    /// freezes are.
    fn durable_epoch(&self, freezes: u64) -> Epoch {
        // Its first epoch ended with the first freeze since it is there.
        let own = freezes.saturating_sub(self.since).min(u64::from(u32::MAX / 2));
        Epoch(Epoch::CLEAN.0 + own as u32)
    }

    /// Whether a view knows which of its tables' records count for this state.
    fn is_known_to(&self, view: &View) -> bool {
        self.family != Family::Dropped && (self.restored || view.freezes > self.since)
    }
}

impl ShardCore {
    /// From now on the shard keeps within a budget.
    ///
    /// The deltas of its freezes are numbered from `first_delta` on.
    pub(crate) fn start_spilling(
        &mut self,
        tables: Box<dyn Tables>,
        account: Account,
        first_delta: u64,
    ) {
        for slot in &mut self.states {
            slot.memtable.note_durable(Epoch::CLEAN);
        }
        self.spill = Some(Box::new(Spill {
            tables,
            account,
            first_delta,
            seen: 0,
            in_flight: VecDeque::new(),
            pinned_flush_at: PINNED_FLUSH_AT,
            state: 0,
            tables_met: 0,
            waited_at: 0,
            frozen_bytes: 0,
            evicted_records: 0,
            early_writes: 0,
        }));
    }

    pub(crate) fn spill_stats(&self) -> SpillStats {
        let stats = self.spill.as_ref().map(|spill| SpillStats {
            allowed_bytes: spill.account.allowed(),
            evicted_records: spill.evicted_records,
            early_writes: spill.early_writes,
            tables_met: spill.tables_met,
        });
        stats.unwrap_or_default()
    }

    /// Notes a freeze of what changed.
    pub(super) fn note_freeze(&mut self, changed: Changed) {
        if let Some(spill) = &mut self.spill {
            spill.in_flight.push_back((self.freezes, changed));
            spill.frozen_bytes += changed.bytes;
        }
        self.freezes += 1;
    }

    /// What changed since the last freeze, roughly.
    pub(super) fn changed(&self) -> Changed {
        let mut changed = Changed::default();
        self.states.iter().for_each(|slot| changed += slot.memtable.changed());
        changed
    }

    /// What is used now.
    fn used(&self) -> Used {
        let queues = (self.likely_timer_queue_bytes() + self.expiry_queue_bytes()) as u64;
        let mut used = Used { records: queues + self.operator.bytes(), gaps: 0 };
        for slot in &self.states {
            let stats = slot.memtable.stats();
            used.records += stats.arena_used_bytes + stats.index_bytes;
            used.gaps += stats.arena_free_bytes;
        }
        used
    }

    /// Sees to it that there is memory for one more operation.
    ///
    /// # Errors
    /// `Unavailable` if there is none: because what changed cannot be written, or
    /// because the budget is too small.
    #[inline]
    pub(super) fn keep_room(&mut self) -> Result<()> {
        if self.spill.is_some() { self.make_room() } else { Ok(()) }
    }

    #[inline(never)]
    fn make_room(&mut self) -> Result<()> {
        self.take_view();
        let used = self.note_used();
        let allowed = self.spill().account.allowed();
        let used = used.with_gaps(allowed);
        self.keep_writing(allowed)?;
        if used + allowed / HEADROOM <= allowed {
            return Ok(());
        }
        self.stop_warming();
        self.evict_some(allowed, used)
    }

    fn spill(&mut self) -> &mut Spill {
        self.spill.as_mut().expect("only who has a budget comes here")
    }

    fn note_used(&mut self) -> Used {
        let used = self.used();
        let all = used.records + used.gaps;
        self.spill().account.set_used(all);
        if all.abs_diff(self.footprint.said_bytes()) >= STEP_BYTES {
            self.note_footprint();
        }
        used
    }

    /// Takes the newest view of the tables, if the shard has a budget.
    pub(crate) fn take_newest_view(&mut self) {
        if self.spill.is_some() {
            self.take_view();
        }
    }

    /// Takes the newest view of the tables.
    fn take_view(&mut self) {
        let spill = self.spill.as_mut().expect("only who has a budget comes here");
        if spill.tables.newest() == spill.seen {
            return;
        }
        let view = spill.tables.view();
        spill.seen = view.number;
        spill.tables_met = most_in_a_group(&view.tables);
        while spill.in_flight.front().is_some_and(|(freeze, _)| *freeze < view.freezes) {
            spill.in_flight.pop_front();
        }
        // Of values only: timers are nearly always new, and filters of lists and maps are
        // asked in any case.
        let of_values = self.states.iter().filter(|slot| slot.family == Family::Values);
        let mut all = LookupStats::default();
        of_values.for_each(|slot| all += slot.lookups);
        spill.tables.note_lookups(all.lookups, all.lookups - all.found);
        for slot in &mut self.states {
            if slot.is_known_to(&view) {
                slot.base.set_tables(&slot.meta.name, &view.tables);
                slot.memtable.note_durable(slot.durable_epoch(view.freezes));
            }
        }
        self.note_footprint();
    }

    /// Has changes written early, and waits if writing does not keep up.
    fn keep_writing(&mut self, allowed: u64) -> Result<()> {
        loop {
            let dirty = self.changed();
            let spill = self.spill();
            let mut unwritten = dirty;
            spill.in_flight.iter().for_each(|(_, changed)| unwritten += *changed);
            let is_writing = !spill.in_flight.is_empty();
            let is_pinned = dirty.pinned >= allowed / PARTS * spill.pinned_flush_at;
            let is_much = is_pinned || dirty.bytes >= allowed / FLUSH_AT;
            if is_much && (!is_writing || dirty.bytes >= allowed / WAIT_AT) {
                if is_pinned {
                    spill.pinned_flush_at = (spill.pinned_flush_at + 1).min(PINNED_FLUSH_AT);
                }
                self.write_early()?;
                continue;
            }
            let is_too_much = unwritten.bytes >= allowed / MOST_UNWRITTEN
                || unwritten.pinned >= allowed / PARTS * MOST_PINNED;
            if is_too_much && is_writing {
                self.wait_for_tables(Cause::Writing)?;
                continue;
            }
            // A little for each piece that was changed since.
            let changed = spill.frozen_bytes + dirty.bytes;
            if changed >= spill.waited_at + allowed / PIECE {
                spill.waited_at = changed;
                let (patience, cause) = spill.patience(allowed, unwritten.bytes);
                if !patience.is_zero() {
                    // What cannot be written is a reason to fail when there is no room.
                    self.stalled(cause, |core| {
                        let spill = core.spill();
                        let _ = spill.tables.wait(spill.seen, patience);
                    });
                    self.take_view();
                }
            }
            return Ok(());
        }
    }

    /// Has what changed written, if anything did.
    pub(crate) fn write_early_if_dirty(&mut self) -> Result<()> {
        let dirty = self.spill.is_some() && self.changed().pinned > 0;
        if dirty { self.write_early() } else { Ok(()) }
    }

    fn wait_for_tables(&mut self, cause: Cause) -> Result<()> {
        let waited = self.stalled(cause, |core| {
            let spill = core.spill();
            spill.tables.wait(spill.seen, WAIT)
        });
        waited.map_err(|error| {
            Error::unavailable("the memory is full, and what changed cannot be written")
                .source(error)
                .remedy("mend what keeps tables from being written; the operation may then be tried again")
        })?;
        self.take_view();
        Ok(())
    }

    fn write_early(&mut self) -> Result<()> {
        let frozen = self.freeze()?;
        let spill = self.spill();
        spill.early_writes += 1;
        spill.tables.write(frozen);
        Ok(())
    }
}

/// The most tables that hold a slice of one and the same key group.
fn most_in_a_group(tables: &[BaseTable]) -> usize {
    let mut ends: Vec<(u32, bool)> = Vec::with_capacity(2 * tables.len());
    for BaseTable { slice, .. } in tables {
        ends.push((u32::from(slice.first().0), true));
        ends.push((u32::from(slice.last().0) + 1, false));
    }
    // Where one ends, the next may begin.
    ends.sort_unstable();
    let (mut now, mut most) = (0_usize, 0);
    for (_, begins) in ends {
        now = if begins { now + 1 } else { now - 1 };
        most = most.max(now);
    }
    most
}

impl fmt::Debug for Spill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spill")
            .field("account", &self.account)
            .field("seen", &self.seen)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::budget::MemoryBudget;

    /// A directory that is so far above its limit, and whether tables are merged.
    struct Short(f64, bool);

    impl Tables for Short {
        fn newest(&self) -> u64 {
            0
        }

        fn view(&self) -> Arc<View> {
            Arc::default()
        }

        fn is_merging(&self) -> bool {
            self.1
        }

        fn space_shortage(&self) -> f64 {
            self.0
        }

        fn note_lookups(&self, _: u64, _: u64) {}

        fn write(&self, _: FrozenShard) {}

        fn wait(&self, _: u64, _: Duration) -> Result<()> {
            Ok(())
        }
    }

    fn patience(tables: Short, tables_met: usize) -> (Duration, Cause) {
        let budget = Arc::new(MemoryBudget::new(16 << 20));
        let account = budget.open_account();
        let spill = Spill {
            tables: Box::new(tables),
            account,
            first_delta: 1,
            seen: 0,
            in_flight: VecDeque::new(),
            pinned_flush_at: PINNED_FLUSH_AT,
            state: 0,
            tables_met,
            waited_at: 0,
            frozen_bytes: 0,
            evicted_records: 0,
            early_writes: 0,
        };
        spill.patience(1 << 20, 0)
    }

    #[test]
    fn operations_wait_for_the_local_directory_the_longer_the_more_it_has() {
        let patience = |shortage: f64| patience(Short(shortage, false), 0);
        assert_eq!(patience(0.0), (Duration::ZERO, Cause::Writing));
        assert_eq!(patience(0.5), (LONGEST_WAIT_FOR_MERGES / 2, Cause::Merging));
        assert_eq!(patience(1.0), (LONGEST_WAIT_FOR_MERGES, Cause::Merging));
    }

    #[test]
    fn operations_wait_for_merges_only_if_tables_are_being_merged() {
        let none = (Duration::ZERO, Cause::Writing);
        assert_eq!(patience(Short(0.0, true), MANY_TABLES), none);
        assert_eq!(patience(Short(0.0, false), 2 * TOO_MANY_TABLES), none);
        let longest = (LONGEST_WAIT_FOR_MERGES, Cause::Merging);
        assert_eq!(patience(Short(0.0, true), TOO_MANY_TABLES), longest);
        let for_space = (LONGEST_WAIT_FOR_MERGES / 2, Cause::Merging);
        assert_eq!(patience(Short(0.5, false), TOO_MANY_TABLES), for_space);
    }
}
