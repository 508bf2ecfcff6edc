//! How a shard with a budget comes by memory: records that tables have go, and chunks of
//! memory that are mostly gaps.

use super::{Cause, GAPS, HEADROOM, PINNED_FLUSH_FROM, ShardCore};
use crate::base::{Error, Result};
use crate::memtable::Compaction;
use crate::shard::collections::Family;

/// One part in so many may be gaps until operations wait for what was frozen to be
/// copied, so that chunks can be emptied.
const GAPS_WAIT_AT: u64 = 8;
/// Records that are moved at once, to empty a chunk.
const MOVES: usize = 256;
/// How often they are without any memory coming of it, until records must go.
const MOVES_IN_VAIN: usize = 512;
/// Buckets that one operation looks at, while there is room.
const BUCKETS: usize = 24;

impl ShardCore {
    /// Lets records go until so many bytes are free, or none can.
    pub(crate) fn evict(&mut self, bytes: u64) -> Result<u64> {
        if self.spill.is_none() {
            return Ok(0);
        }
        self.take_view();
        self.stop_warming();
        let mut freed = 0;
        // Those that were asked for lately go in the second round. The first may
        // begin anywhere.
        for _ in 0..3 {
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
        for slot in &mut self.states {
            while slot.memtable.compact(MOVES) {}
        }
        self.note_used();
        self.note_footprint();
        Ok(freed)
    }

    /// What is still in tables of states that may be evicted stays there: it would
    /// have to go at once.
    pub(super) fn stop_warming(&mut self) {
        let Some(warming) = &mut self.warming else { return };
        for (state, slot) in self.states.iter_mut().enumerate() {
            if slot.family != Family::Timers && !slot.no_room {
                slot.no_room = true;
                slot.memtable.stay_partial();
                // To read it to its end would take the disk from those who ask for records.
                warming.source.give_up(state);
            }
        }
    }

    /// Gives memory back, be it records or gaps, until no more is used than is allowed.
    pub(super) fn evict_some(&mut self, allowed: u64, mut used: u64) -> Result<()> {
        let wanted = allowed - allowed / HEADROOM;
        let (mut rounds, mut in_vain, mut least) = (0, 0, used);
        let states = self.states.len();
        loop {
            let excess = used.saturating_sub(wanted);
            if in_vain < MOVES_IN_VAIN && self.compact_some(allowed) {
                in_vain += 1;
            } else {
                let spill = self.spill.as_mut().expect("only who has a budget comes here");
                let state = spill.state;
                let evicted = self.states[state].memtable.evict(excess, BUCKETS);
                spill.evicted_records += evicted.records;
                if evicted.came_round {
                    spill.state = (state + 1) % states;
                    rounds += usize::from(spill.state == 0);
                }
            }
            let now = self.note_used();
            used = now.with_gaps(allowed);
            if used <= allowed {
                return Ok(());
            }
            if used < least {
                (least, in_vain) = (used, 0);
            }
            if rounds < 3 {
                continue;
            }
            rounds = 0;
            // All that is left was asked for by now, or is not written yet.
            let pinned = self.changed().pinned;
            let spill = self.spill();
            spill.pinned_flush_at = (spill.pinned_flush_at * 3 / 4).max(PINNED_FLUSH_FROM);
            if pinned > 0 && self.spill().in_flight.is_empty() {
                self.write_early()?;
            }
            if self.spill().in_flight.is_empty() {
                return Err(self.too_small(allowed, now.records + now.gaps));
            }
            self.wait_for_tables(Cause::Memory)?;
        }
    }

    /// Goes on emptying a chunk of the state that has the largest gaps, if there are too
    /// many in all; or waits until that is possible. Says whether it did.
    fn compact_some(&mut self, allowed: u64) -> bool {
        let gaps = self.used().gaps;
        if gaps <= allowed / GAPS {
            return false;
        }
        let (mut best, mut is_later) = (None, false);
        for (position, slot) in self.states.iter_mut().enumerate() {
            match slot.memtable.compaction() {
                Compaction::Possible => {
                    best = best.max(Some((slot.memtable.stats().arena_free_bytes, position)));
                }
                Compaction::Later => is_later = true,
                Compaction::Useless => {}
            }
        }
        if let Some((_, position)) = best {
            return self.states[position].memtable.compact(MOVES);
        }
        let waits = is_later && gaps > allowed / GAPS_WAIT_AT && !self.spill().in_flight.is_empty();
        // What cannot be written is told when nothing else can go, either.
        waits && self.wait_for_tables(Cause::Memory).is_ok()
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
