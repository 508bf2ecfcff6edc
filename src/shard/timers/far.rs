//! Timers that have no room in memory: the far ones stay in tables, and come by the
//! stretch when the near ones have fired.
//!
//! Under a memory budget a state of timers has a *horizon*, a time and a hash as a
//! [queue's entry](Entry) has them:
//!
//! ```text
//! in memory:   every timer before the horizon; of the others those that no table has,
//!              or that somebody asked for
//! in tables:   all the others at or after the horizon
//! ```
//!
//! So a timer before the horizon that is not in memory does not exist, and whoever fires
//! timers need not look into tables until what comes first in the queue is not before the
//! horizon. It is a pair since there may be more timers of one time than have room: at one
//! time they fire in the order of their hashes, here as anywhere.
//!
//! - *Evicting* goes through the queue from its end. A record that tables have goes, and the
//!   horizon is where the last one was. One that is not written yet stays, until the next
//!   time round. Deletions go when tables have them.
//! - *Loading* reads all that the tables of the view have of the state, merged, and takes up
//!   what the memtable knows nothing of: whenever there is too much of it, the latest go
//!   again. Nothing else leaves memory meanwhile and the view stays the same, so what is
//!   read is as of one moment. Then the horizon is where the first one is that went. If none
//!   went, everything is in memory, and the state is as if there were no budget.
//!
//! If loading fails, the horizon is where it was, and what was taken up counts as asked for.
//!
//! A table has timers in the order of their keys, so loading reads all of the state, and the
//! cost of a timer is a step of the scan for each stretch until it fires.

use super::{ShardCore, TimerState, time_bytes, timestamp_of};
use crate::base::hash::{group_of_hash, hash_key};
use crate::base::{Error, Result};
use crate::memtable::queue::{Entry, Sifted};
use crate::memtable::{Below, Evicted, Lookup, Memtable};
use crate::shard::stats::Cause;

/// Timers that one step of evicting looks at.
pub(in crate::shard) const LOOKS: usize = 128;
/// Timers that are loaded at least: of one time and one hash there may be several, which
/// only come together.
const LEAST_LOADED: usize = 64;
/// Timers that are taken up between two looks at the memory that they take.
const LOOK_EVERY: usize = 32;
/// What a timer takes, likely, if there is none to be seen.
const LIKELY_BYTES: u64 = 100;
/// One part in so many of the room goes again when there is none.
const TRIM: u64 = 8;

/// Which timers of a state are in memory.
#[derive(Debug, Default)]
pub(super) struct Far {
    /// Every timer before it is in memory; `None` is the end of time. Not kept up while
    /// the memtable is complete.
    horizon: Bound,
    /// Live timers that are in tables only, if that is known. Likewise.
    elsewhere: Option<u64>,
    /// Where evicting goes on: before this entry; `None` is the end of the queue.
    hand: Option<Entry>,
}

/// The place before which everything is in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bound {
    At(Entry),
    End,
}

impl Default for Bound {
    /// Nothing is known to be in memory.
    fn default() -> Self {
        Self::At(Entry::LOWEST)
    }
}

impl Bound {
    fn is_after(self, entry: Entry) -> bool {
        match self {
            Self::At(horizon) => entry < horizon,
            Self::End => true,
        }
    }
}

impl Far {
    fn note_gone(&mut self, entry: Entry) {
        if self.horizon.is_after(entry) {
            self.horizon = Bound::At(entry);
        }
        self.elsewhere = self.elsewhere.map(|elsewhere| elsewhere + 1);
    }

    /// A timer that was in tables only is in memory, or deleted.
    pub(super) fn note_come(&mut self) {
        self.elsewhere = self.elsewhere.map(|elsewhere| elsewhere.saturating_sub(1));
    }
}

impl TimerState {
    /// Whether a timer of which the memtable knows nothing may be in a table. To be asked
    /// while it is not complete.
    pub(super) fn may_be_elsewhere(&self, entry: Entry) -> bool {
        !self.far.horizon.is_after(entry)
    }

    /// Bytes that the state takes in memory.
    fn own_bytes(&self, memtable: &Memtable) -> u64 {
        memtable.used_bytes() + self.queue.likely_bytes() as u64
    }

    /// Lets timers that tables have leave memory from the latest on, until so many bytes
    /// are free, or it has looked at so many, or those that come before take no more than
    /// `floor` bytes. Says that it has come round when there is no more to be had for now.
    pub(in crate::shard) fn evict(
        &mut self,
        memtable: &mut Memtable,
        bytes: u64,
        looks: usize,
        floor: u64,
    ) -> Evicted {
        if memtable.below() == Below::Nothing {
            self.far = Far { horizon: Bound::End, elsewhere: Some(0), hand: self.far.hand };
        }
        let each = memtable.used_bytes() / memtable.stats().records.max(1) + 2 * ENTRY_BYTES;
        let least = usize::try_from(floor / each).unwrap_or(usize::MAX);
        let before = memtable.used_bytes();
        let mut evicted = Evicted::default();
        let mut looked = 0;
        let far = &mut self.far;
        while !evicted.came_round && evicted.bytes < bytes && looked < looks {
            let mut is_near = false;
            let hand = self.queue.sift(far.hand, |entry, earlier| {
                is_near = earlier < least;
                if evicted.bytes >= bytes || looked == looks || is_near {
                    return Sifted::Enough;
                }
                looked += 1;
                if !evict_one(memtable, entry) {
                    return Sifted::Stays;
                }
                far.note_gone(entry);
                evicted.records += 1;
                evicted.bytes = before.saturating_sub(memtable.used_bytes());
                Sifted::Goes
            });
            evicted.came_round = hand.is_none() || is_near;
            far.hand = hand;
        }
        if evicted.came_round {
            far.hand = None;
        }
        evicted
    }
}

/// Bytes of an entry of the queue.
const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;

fn evict_one(memtable: &mut Memtable, entry: Entry) -> bool {
    let time = time_bytes(entry.timestamp());
    memtable.evict_one(entry.hash(), |namespace| namespace.starts_with(&time))
}

impl ShardCore {
    /// States of timers that were opened.
    pub(in crate::shard) fn open_timer_states(&self) -> u64 {
        let open = self.timers.iter().filter(|timers| {
            let slot = &self.states[timers.state];
            slot.registered && slot.memtable.below() == Below::Tables || timers.queue.len() > 0
        });
        (open.count() as u64).max(1)
    }

    /// Where among the timers those of a state are.
    pub(in crate::shard) fn timers_at(&self, state: usize) -> Option<usize> {
        self.timers.iter().position(|timers| timers.state == state && timers.closed.is_none())
    }

    /// Lets timers of a state leave memory; see [`TimerState::evict`].
    pub(in crate::shard) fn evict_timers(
        &mut self,
        at: usize,
        bytes: u64,
        looks: usize,
        floor: u64,
    ) -> Evicted {
        let timers = &mut self.timers[at];
        timers.evict(&mut self.states[timers.state].memtable, bytes, looks, floor)
    }

    /// Lets all timers of a state go that tables have; gives their number.
    pub(in crate::shard) fn evict_all_timers(&mut self, at: usize) -> u64 {
        self.timers[at].far.hand = None;
        self.evict_timers(at, u64::MAX, usize::MAX, 0).records
    }

    /// Bytes that the timers which are in tables only would take in memory, roughly; the
    /// most there can be if nobody knows how many they are.
    pub(in crate::shard) fn may_come_to(&self, at: usize) -> u64 {
        let timers = &self.timers[at];
        let memtable = &self.states[timers.state].memtable;
        let each = 2 * LIKELY_BYTES.max(memtable.used_bytes() / memtable.stats().records.max(1));
        timers.far.elsewhere.map_or(u64::MAX, |elsewhere| elsewhere.saturating_mul(each))
    }

    /// The position of the state of some timers.
    pub(in crate::shard) fn state_of_timers(&self, at: usize) -> usize {
        self.timers[at].state
    }

    /// Sees to it that the earliest timer is in memory: at all, or if it is due at `now`.
    #[cold]
    pub(super) fn bring_near(&mut self, at: usize, now: Option<i64>) -> Result<()> {
        if self.spill.is_none() {
            return self.wait_for_all(at);
        }
        // A timer that fires leaves a deletion, which is to be written, too.
        self.keep_room()?;
        let timers = &mut self.timers[at];
        let far = &timers.far;
        if timers.queue.first().is_some_and(|first| far.horizon.is_after(first)) {
            return Ok(());
        }
        if now.is_some_and(|now| far.horizon.is_after(Entry::new(now, u64::MAX))) {
            return Ok(());
        }
        self.stalled(Cause::Loading, |core| core.load(at))
    }

    /// Loads the next stretch of timers.
    fn load(&mut self, at: usize) -> Result<()> {
        let room = self.room_for_timers(at)?;
        let (groups, max_parallelism) = (self.groups, self.max_parallelism);
        let timers = &mut self.timers[at];
        let slot = &mut self.states[timers.state];
        let before = timers.far.horizon;
        let was_elsewhere = timers.far.elsewhere;
        timers.far.horizon = Bound::End;
        let base = timers.own_bytes(&slot.memtable);
        let all = was_elsewhere;
        let mut loading = Loading { all, passed: 0, seen: 0, loaded: 0, base, room };
        let mut scan_all = || -> Result<()> {
            let mut scan = slot.base.scan(groups)?;
            while let Some(record) = scan.next()? {
                loading.passed += 1;
                // If it is known how many there are, the late ones need not be looked for.
                if was_elsewhere.is_some()
                    && let (Bound::At(horizon), Some(time)) =
                        (timers.far.horizon, timestamp_of(record.namespace))
                    && time > horizon.timestamp()
                    && record.value.is_empty()
                {
                    continue;
                }
                let probe = slot.memtable.probe(record.group, record.key, record.namespace);
                if slot.memtable.get(&probe) != Lookup::Absent {
                    continue;
                }
                loading.seen += 1;
                let is_far = timestamp_of(record.namespace)
                    .is_some_and(|time| timers.may_be_elsewhere(Entry::new(time, probe.hash)));
                if is_far && record.value.is_empty() {
                    continue;
                }
                if record.group != group_of_hash(hash_key(record.key), max_parallelism) {
                    slot.memtable.expect_given_groups();
                }
                timers.promote(&mut slot.memtable, &probe, record.value)?;
                slot.lookups.promoted += 1;
                loading.loaded += 1;
                if loading.loaded.is_multiple_of(LOOK_EVERY) {
                    loading.trim(timers, &mut slot.memtable);
                }
            }
            Ok(())
        };
        let done = scan_all();
        // Timers that are none were not taken up.
        let damaged = timers.closed.is_some();
        if done.is_err() || damaged {
            timers.far.horizon = before;
            return if damaged { Err(self.closed(at)) } else { done };
        }
        let elsewhere = match was_elsewhere {
            Some(_) => timers.far.elsewhere.unwrap_or(0),
            None => loading.seen - loading.loaded as u64,
        };
        timers.far.elsewhere = Some(elsewhere);
        if elsewhere == 0 {
            slot.memtable.be_complete_again();
            return Ok(());
        }
        let horizon = timers.far.horizon;
        if timers.queue.first().is_some_and(|first| horizon.is_after(first)) {
            return Ok(());
        }
        Err(no_room_for_one_time())
    }

    /// Counts the timers that are in tables only.
    fn count_elsewhere(&mut self, at: usize) -> Result<u64> {
        if let Some(elsewhere) = self.timers[at].far.elsewhere {
            return Ok(elsewhere);
        }
        let timers = &mut self.timers[at];
        let slot = &mut self.states[timers.state];
        let mut scan = slot.base.scan(self.groups)?;
        let mut elsewhere = 0;
        while let Some(record) = scan.next()? {
            let probe = slot.memtable.probe(record.group, record.key, record.namespace);
            if slot.memtable.get(&probe) != Lookup::Absent {
                continue;
            }
            if timestamp_of(record.namespace).is_none() || !record.value.is_empty() {
                // It is none, and the state is closed.
                timers.promote(&mut slot.memtable, &probe, record.value)?;
                return Err(self.closed(at));
            }
            elsewhere += 1;
        }
        timers.far.elsewhere = Some(elsewhere);
        Ok(elsewhere)
    }

    /// Number of live timers of a state.
    pub(super) fn count_timers(&mut self, at: usize) -> Result<u64> {
        let state = self.timers[at].state;
        let elsewhere = match self.states[state].memtable.below() {
            Below::Nothing => 0,
            Below::Tables if self.spill.is_none() => {
                self.wait_for_all(at)?;
                0
            }
            Below::Tables => self.stalled(Cause::Loading, |core| core.count_elsewhere(at))?,
        };
        Ok(self.timers[at].queue.len() as u64 + elsewhere)
    }
}

/// A stretch of timers on its way into memory.
struct Loading {
    /// Timers that tables have and memory has not, if that is known.
    all: Option<u64>,
    /// Timers of tables that were gone by.
    passed: u64,
    /// Timers of which the memtable knew nothing.
    seen: u64,
    /// Of these, how many it has now.
    loaded: usize,
    /// Bytes that the state took before.
    base: u64,
    /// Bytes that it may take besides.
    room: u64,
}

impl Loading {
    /// Bytes that what is loaded may take by now. Tables have timers in the order of a hash,
    /// so that of any part of them the same part is among the next: whatever is more than
    /// that would go again later. A quarter more is for chance.
    fn room_by_now(&self) -> u64 {
        match self.all {
            Some(all) if all > 0 => {
                let part = (self.passed + self.passed / 4 + all / 16).min(all);
                (u128::from(self.room) * u128::from(part) / u128::from(all)) as u64
            }
            _ => self.room,
        }
    }

    /// Lets the latest of those that were loaded go again, if they take too much. Before
    /// the horizon there is nothing else that may go: that went before loading began.
    fn trim(&mut self, timers: &mut TimerState, memtable: &mut Memtable) {
        let (own, room) = (timers.own_bytes(memtable), self.room_by_now());
        let most = self.base + room;
        if own <= most || self.loaded <= LEAST_LOADED {
            return;
        }
        let mut goes = own - most + room / TRIM;
        timers.far.hand = match timers.far.horizon {
            Bound::At(horizon) => Some(horizon),
            Bound::End => None,
        };
        while goes > 0 && self.loaded > LEAST_LOADED {
            let looks = self.loaded - LEAST_LOADED;
            let evicted = timers.evict(memtable, goes, looks, 0);
            goes = goes.saturating_sub(evicted.bytes + evicted.records * ENTRY_BYTES);
            self.loaded -= (evicted.records as usize).min(self.loaded);
            if evicted.came_round {
                break;
            }
        }
    }
}

#[cold]
fn no_room_for_one_time() -> Error {
    Error::unavailable("the memory budget is too small for timers that only fire together")
        .expected("room for all timers of one time and one hash")
        .remedy("give the backend a larger memory budget, or spread the job over more processes")
}
