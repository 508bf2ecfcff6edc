//! How a shard with a budget comes by memory: records that tables have go, and chunks of
//! memory that are mostly gaps.

use super::{Cause, GAPS, HEADROOM, PIECE, PINNED_FLUSH_FROM, ShardCore};
use crate::base::{Error, Result};
use crate::memtable::{Compaction, Evicted};
use crate::shard::collections::Family;
use crate::shard::timers::LOOKS;

/// One part in so many may be gaps until operations wait for what was frozen to be
/// copied, so that chunks can be emptied.
const GAPS_WAIT_AT: u64 = 8;
/// Records that are moved at once, to empty a chunk.
const MOVES: usize = 256;
/// How often they are without any memory coming of it, until records must go.
const MOVES_IN_VAIN: usize = 512;
/// Buckets that one operation looks at, while there is room.
const BUCKETS: usize = 24;
/// One part in so many of the memory may be near timers, as long as anything else can go.
const NEAR: u64 = 8;
/// One part in so many is for timers that are loaded, if others can do without, and more if
/// nobody needs it.
const LOADED: u64 = 4;
/// One part in so many is for them at least.
const LEAST_LOADED: u64 = 16;

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
                    let evicted = self.evict_from(position, bytes - freed, 0);
                    freed += evicted.bytes;
                    if evicted.came_round {
                        break;
                    }
                }
                while freed < bytes && self.states[position].family == Family::Timers {
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

    /// What is still in tables stays there: it would have to go at once.
    pub(super) fn stop_warming(&mut self) {
        let Some(warming) = &mut self.warming else { return };
        for (state, slot) in self.states.iter_mut().enumerate() {
            if !slot.no_room {
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
        // Near timers would have to be loaded again at once: before they go, what changed
        // is written.
        let mut takes_near = false;
        let states = self.states.len();
        loop {
            let excess = used.saturating_sub(wanted);
            if in_vain < MOVES_IN_VAIN && self.compact_some(allowed) {
                in_vain += 1;
            } else {
                let state = self.spill().state;
                let near = allowed / NEAR / self.open_timer_states();
                let floor = if takes_near { 0 } else { near };
                let evicted = self.evict_from(state, excess, floor);
                if evicted.came_round {
                    let spill = self.spill();
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
                if takes_near {
                    // Until now it may have given way to what the background needs.
                    if self.spill().account.insist() {
                        return Ok(());
                    }
                    let allowed = self.spill().account.allowed();
                    return Err(self.too_small(allowed, now.records + now.gaps));
                }
                takes_near = true;
                continue;
            }
            self.wait_for_tables(Cause::Memory)?;
        }
    }

    /// Lets records of a state go, some at a time: of timers the latest, down to `floor`
    /// bytes of near ones.
    fn evict_from(&mut self, state: usize, bytes: u64, floor: u64) -> Evicted {
        let mut evicted = self.states[state].memtable.evict(bytes, BUCKETS);
        if let Some(at) = self.timers_at(state) {
            // The hand over the index only sees to deletions. A look at the end of the
            // queue costs more than a record.
            let bytes = bytes.max(self.spill().account.allowed() / PIECE);
            let timers = self.evict_timers(at, bytes, LOOKS, floor);
            evicted.records += timers.records;
            evicted.bytes += timers.bytes;
            evicted.came_round = timers.came_round;
        }
        self.spill().evicted_records += evicted.records;
        evicted
    }

    /// Makes room for timers of a state that are to be loaded, all of which that tables
    /// have leave memory first; says how many bytes they may take.
    ///
    /// # Errors
    /// As of [`keep_room`](Self::keep_room).
    pub(in crate::shard) fn room_for_timers(&mut self, at: usize) -> Result<u64> {
        self.take_view();
        self.stop_warming();
        let allowed = self.spill().account.allowed();
        let state = self.start_loading(at);
        let wanted = self.may_come_to(at).min(allowed / LOADED / self.open_timer_states());
        let states = self.states.len();
        // What others need not have goes, if that is enough.
        let mut turn = (0..3 * states).map(|turn| turn % states).filter(|&other| other != state);
        let mut other = turn.next();
        while let Some(position) = other {
            let room = self.room(at, allowed);
            if room >= wanted {
                break;
            }
            let floor = allowed / NEAR / self.open_timer_states();
            if self.evict_from(position, wanted - room, floor).came_round {
                other = turn.next();
            }
        }
        if self.room(at, allowed) < wanted.min(allowed / LEAST_LOADED) {
            // Deletions of timers that fired are to be written, or there is too much else.
            let used = self.note_used().with_gaps(allowed);
            self.evict_some(allowed - allowed / LEAST_LOADED - allowed / HEADROOM, used)?;
        }
        self.start_loading(at);
        self.note_footprint();
        Ok(self.room(at, allowed))
    }

    /// Bytes that may be loaded of timers: gaps between their records are room for them.
    fn room(&mut self, at: usize, allowed: u64) -> u64 {
        let used = self.note_used();
        let own_gaps = self.states[self.state_of_timers(at)].memtable.stats().arena_free_bytes;
        let gaps = (used.gaps - own_gaps.min(used.gaps)).max(allowed / GAPS);
        (allowed - 2 * (allowed / HEADROOM)).saturating_sub(used.records + gaps)
    }

    /// Lets all timers of a state go that tables have, and nothing of it come from a
    /// warm-up any more; gives the state.
    fn start_loading(&mut self, at: usize) -> usize {
        let state = self.state_of_timers(at);
        let slot = &mut self.states[state];
        slot.no_room = true;
        slot.memtable.stay_partial();
        self.spill().evicted_records += self.evict_all_timers(at);
        // Timers that fire next to each other, at one time, have hashes near each other.
        self.states[state].memtable.shrink_index();
        state
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
