//! A shard that may not use more than a given amount of memory.
//!
//! Every operation that may need memory first comes here ([`ShardCore::keep_room`]);
//! those that find their record at hand do not. Nothing happens until the memory that
//! the shard [may use](Account::allowed) is nearly full. Then
//!
//! 1. what changed is written before anybody asks for a snapshot, as soon as it comes to
//!    an [eighth](FLUSH_AT) of the memory: a freeze like any other, whose delta becomes a
//!    table that the next snapshot names;
//! 2. records that tables have are [evicted](crate::memtable::Evicted), a few with each
//!    operation, state after state;
//! 3. if writing does not keep up, operations wait for it a little, and longer the
//!    more there is to be written; in the end until there is room. They wait a little,
//!    too, while the local directory has more than it may and nothing can leave it.
//!
//! # What the writer reads
//!
//! The background tells it which tables there are ([`View`]), after each that was
//! written or merged. A view says how many freezes are in its tables: records of those
//! epochs may go. The writer takes a new view at the beginning of an operation, so
//! tables do not change under one.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::base_tables::BaseTable;
use super::collections::Family;
use super::footprint::STEP_BYTES;
use super::stats::Cause;
use super::{FrozenShard, ShardCore, StateSlot};
use crate::base::{Epoch, Error, Result};
use crate::env::budget::Account;

/// One part in so many of the memory may be changed until it is written.
const FLUSH_AT: u64 = 8;
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
/// Buckets that one operation looks at, while there is room.
const BUCKETS: usize = 24;
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

    /// How far the local directory is above its limit with what cannot leave it: from 0,
    /// if it is not, to 1, if far.
    fn space_shortage(&self) -> f64;

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
    /// Freezes that are not: their number, and how many bytes were changed.
    in_flight: VecDeque<(u64, u64)>,
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
        let over = self.tables_met.saturating_sub(MANY_TABLES) as u64;
        let full = (TOO_MANY_TABLES - MANY_TABLES) as u64;
        let short = share(over, full).max(self.tables.space_shortage());
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

    fn resident_bytes(&self) -> u64 {
        let stats = self.memtable.stats();
        stats.arena_used_bytes + stats.index_bytes
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

    /// Notes a freeze, of changes of so many bytes.
    pub(super) fn note_freeze(&mut self, bytes: u64) {
        if let Some(spill) = &mut self.spill {
            spill.in_flight.push_back((self.freezes, bytes));
            spill.frozen_bytes += bytes;
        }
        self.freezes += 1;
    }

    /// Bytes that changed since the last freeze, roughly.
    pub(super) fn dirty_bytes(&self) -> u64 {
        self.states.iter().map(|slot| slot.memtable.dirty_bytes()).sum()
    }

    fn resident_bytes(&self) -> u64 {
        let states: u64 = self.states.iter().map(StateSlot::resident_bytes).sum();
        states
            + self.timer_queue_bytes() as u64
            + self.expiry_queue_bytes() as u64
            + self.operator.bytes()
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

    fn note_used(&mut self) -> u64 {
        let used = self.resident_bytes();
        self.spill().account.set_used(used);
        if used.abs_diff(self.footprint.said_bytes()) >= STEP_BYTES {
            self.note_footprint();
        }
        used
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
            let dirty = self.dirty_bytes();
            let spill = self.spill();
            let in_flight: u64 = spill.in_flight.iter().map(|(_, bytes)| bytes).sum();
            let unwritten = dirty + in_flight;
            let may_begin = spill.in_flight.is_empty() || dirty >= allowed / WAIT_AT;
            if dirty >= allowed / FLUSH_AT && may_begin {
                self.write_early()?;
                continue;
            }
            if unwritten >= allowed / MOST_UNWRITTEN && !spill.in_flight.is_empty() {
                self.wait_for_tables(Cause::Writing)?;
                continue;
            }
            // A little for each piece that was changed since.
            let changed = spill.frozen_bytes + dirty;
            if changed >= spill.waited_at + allowed / PIECE {
                spill.waited_at = changed;
                let (patience, cause) = spill.patience(allowed, unwritten);
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

    /// Lets records go until so many bytes are free, or none can.
    pub(crate) fn evict(&mut self, bytes: u64) -> Result<u64> {
        if self.spill.is_none() {
            return Ok(0);
        }
        self.take_view();
        self.stop_warming();
        let mut freed = 0;
        // Those that were asked for lately go in the second round.
        for _ in 0..2 {
            for position in 0..self.states.len() {
                while freed < bytes {
                    let evicted = self.states[position].memtable.evict(bytes - freed, BUCKETS);
                    freed += evicted.bytes;
                    self.spill().evicted_records += evicted.records;
                    if evicted.came_round {
                        break;
                    }
                }
            }
        }
        self.note_used();
        self.note_footprint();
        Ok(freed)
    }

    /// Has what changed written, if anything did.
    pub(crate) fn write_early_if_dirty(&mut self) -> Result<()> {
        let dirty = self.spill.is_some() && self.dirty_bytes() > 0;
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

    /// What is still in tables of states that may be evicted stays there: it would
    /// have to go at once.
    fn stop_warming(&mut self) {
        if self.warming.is_none() {
            return;
        }
        for slot in &mut self.states {
            if slot.family != Family::Timers && !slot.no_room {
                slot.no_room = true;
                slot.memtable.stay_partial();
            }
        }
    }

    fn evict_some(&mut self, allowed: u64, mut used: u64) -> Result<()> {
        let wanted = allowed - allowed / HEADROOM;
        let mut rounds = 0;
        let states = self.states.len();
        loop {
            let excess = used.saturating_sub(wanted);
            let spill = self.spill.as_mut().expect("only who has a budget comes here");
            let state = spill.state;
            let evicted = self.states[state].memtable.evict(excess, BUCKETS);
            spill.evicted_records += evicted.records;
            if evicted.came_round {
                spill.state = (state + 1) % states;
                rounds += usize::from(spill.state == 0);
            }
            used = self.note_used();
            if used <= allowed {
                return Ok(());
            }
            if rounds < 3 {
                continue;
            }
            rounds = 0;
            // All that is left was asked for by now, or is not written yet.
            if self.dirty_bytes() > 0 && self.spill().in_flight.is_empty() {
                self.write_early()?;
            }
            if self.spill().in_flight.is_empty() {
                return Err(self.too_small(allowed, used));
            }
            self.wait_for_tables(Cause::Memory)?;
        }
    }

    #[cold]
    fn too_small(&self, allowed: u64, used: u64) -> Error {
        let index: u64 = self.states.iter().map(|slot| slot.memtable.stats().index_bytes).sum();
        let limit = self.spill.as_ref().map_or(0, |spill| spill.account.budget().limit_bytes());
        Error::unavailable("the memory budget is too small for the job")
            .at(format_args!("shard {} of operator {:?}", self.groups, self.name))
            .expected(format_args!(
                "at most {allowed} bytes for this shard, of a budget of {limit}"
            ))
            .found(format_args!(
                "{used} bytes that must stay in memory, {index} of them indexes, {} timers, {} \
                 operator states",
                self.timer_queue_bytes(),
                self.operator.bytes(),
            ))
            .remedy(
                "give the backend a larger memory budget, or spread the job over more processes",
            )
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

    /// A directory that is so far above its limit.
    struct Short(f64);

    impl Tables for Short {
        fn newest(&self) -> u64 {
            0
        }

        fn view(&self) -> Arc<View> {
            Arc::default()
        }

        fn space_shortage(&self) -> f64 {
            self.0
        }

        fn write(&self, _: FrozenShard) {}

        fn wait(&self, _: u64, _: Duration) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn operations_wait_for_the_local_directory_the_longer_the_more_it_has() {
        let patience = |shortage: f64| {
            let budget = Arc::new(MemoryBudget::new(16 << 20));
            let account = budget.open_account();
            let spill = Spill {
                tables: Box::new(Short(shortage)),
                account,
                first_delta: 1,
                seen: 0,
                in_flight: VecDeque::new(),
                state: 0,
                tables_met: 0,
                waited_at: 0,
                frozen_bytes: 0,
                evicted_records: 0,
                early_writes: 0,
            };
            spill.patience(1 << 20, 0)
        };
        assert_eq!(patience(0.0), (Duration::ZERO, Cause::Writing));
        assert_eq!(patience(0.5), (LONGEST_WAIT_FOR_MERGES / 2, Cause::Merging));
        assert_eq!(patience(1.0), (LONGEST_WAIT_FOR_MERGES, Cause::Merging));
    }
}
