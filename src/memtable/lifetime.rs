//! How long the values of a state live, and by which clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::time::ms_of_stamp;
use crate::env::clock::CoarseClock;

use super::queue::Entry;

/// The value of [`TtlRule::floor`] of event time until there is a watermark.
const NO_FLOOR_YET: u64 = u64::MAX;
/// Into how many steps a time to live is divided for the queue.
const STEPS: u64 = 32;

/// Who says what time it is.
#[derive(Clone, Debug)]
pub(crate) enum TtlClock {
    /// The wall clock.
    Processing(Arc<CoarseClock>),
    /// The stamp of the watermark; [`UNKNOWN_STAMP`](crate::base::time::UNKNOWN_STAMP)
    /// if there is none.
    Event(Arc<AtomicU64>),
}

impl TtlClock {
    pub(super) fn cell(&self) -> &Arc<AtomicU64> {
        match self {
            Self::Processing(clock) => clock.cell(),
            Self::Event(watermark) => watermark,
        }
    }

    /// The time, as a stamp.
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::Processing(clock) => clock.now(),
            Self::Event(watermark) => watermark.load(Ordering::Relaxed),
        }
    }
}

/// When the values of one state expire; shared by its memtable and by those who
/// merge its tables.
#[derive(Debug)]
pub(crate) struct TtlRule {
    ttl_ms: u64,
    pub(super) clock: TtlClock,
    /// Nothing expires before this and the time to live have passed: the first
    /// watermark that the state has seen. 0 in processing time.
    floor: AtomicU64,
    /// A read renews the stamp.
    pub(super) renews: bool,
    /// What has expired is seen until it is removed.
    pub(super) shows_expired: bool,
}

impl TtlRule {
    pub(crate) fn new(ttl_ms: u64, clock: TtlClock, renews: bool, shows_expired: bool) -> Self {
        let floor = match clock {
            TtlClock::Processing(_) => 0,
            TtlClock::Event(_) => NO_FLOOR_YET,
        };
        Self { ttl_ms, clock, floor: AtomicU64::new(floor), renews, shows_expired }
    }

    /// From now on nothing counts as older than this, in event time.
    pub(crate) fn set_floor(&self, stamp: u64) {
        self.floor.store(stamp, Ordering::Relaxed);
    }

    /// What has a stamp up to this has expired by now.
    pub(crate) fn cutoff(&self) -> u64 {
        self.cutoff_at(self.clock.now())
    }

    /// As [`cutoff`](Self::cutoff), by the time of this stamp.
    pub(crate) fn cutoff_at(&self, now: u64) -> u64 {
        let cutoff = now.saturating_sub(self.ttl_ms);
        if cutoff < self.floor.load(Ordering::Relaxed) { 0 } else { cutoff }
    }

    /// When something of this stamp expires; `None` if time does not go so far.
    pub(super) fn due(&self, stamp: u64) -> Option<u64> {
        let floor = self.floor.load(Ordering::Relaxed);
        let floor = if floor == NO_FLOOR_YET { 0 } else { floor };
        stamp.max(floor).checked_add(self.ttl_ms)
    }

    pub(super) fn step(&self) -> u64 {
        (self.ttl_ms / STEPS).max(1)
    }

    /// The entry of a record that is to be looked at then.
    pub(super) fn entry(&self, due: u64, hash: u64) -> Entry {
        let due = due.checked_next_multiple_of(self.step()).unwrap_or(u64::MAX);
        Entry::new(ms_of_stamp(due), hash)
    }
}
