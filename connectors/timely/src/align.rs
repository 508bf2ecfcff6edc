//! Barriers at an operator: which records are before the next one, and which wait.
//!
//! A record of a later epoch than the operator's waits until the operator has come to
//! that epoch, since the snapshot in between must not know of it. The operator gets
//! there when its frontier has passed the barrier: no earlier record can come then.

use std::collections::{BTreeMap, VecDeque};

use crate::control::mail::Trigger;
use crate::time::Time;

/// Records of one time.
pub(crate) struct Batch<R> {
    pub(crate) event: i64,
    pub(crate) records: Vec<R>,
}

/// See the [module documentation](self).
pub(crate) struct Alignment<R> {
    epoch: u64,
    barriers: VecDeque<Trigger>,
    waiting: BTreeMap<u64, Vec<Batch<R>>>,
}

impl<R> Alignment<R> {
    pub(crate) fn new() -> Self {
        Self { epoch: 0, barriers: VecDeque::new(), waiting: BTreeMap::new() }
    }

    /// The number of the last barrier that passed.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A barrier is on its way.
    pub(crate) fn expect(&mut self, barrier: Trigger) {
        self.barriers.push_back(barrier);
    }

    /// Takes in records of one time, and gives them back if they are to be worked on now.
    pub(crate) fn admit(&mut self, time: Time, records: Vec<R>) -> Option<Batch<R>> {
        let batch = Batch { event: time.event, records };
        if time.epoch <= self.epoch {
            return Some(batch);
        }
        self.waiting.entry(time.epoch).or_default().push(batch);
        None
    }

    /// The event time below which nothing will be worked on any more.
    pub(crate) fn watermark(&self, frontier: Time) -> i64 {
        let waiting = self.waiting.values().flatten().map(|batch| batch.event).min();
        waiting.map_or(frontier.event, |event| event.min(frontier.event))
    }

    /// The next barrier, if the frontier has passed it: everything before it has been
    /// worked on.
    pub(crate) fn next_barrier(&mut self, frontier: Time) -> Option<Trigger> {
        let barrier = *self.barriers.front().filter(|barrier| barrier.id <= frontier.epoch)?;
        self.barriers.pop_front();
        Some(barrier)
    }

    /// Goes on past a barrier; gives back what has waited for it.
    pub(crate) fn pass(&mut self, barrier: Trigger) -> Vec<Batch<R>> {
        self.epoch = barrier.id;
        self.waiting.remove(&barrier.id).unwrap_or_default()
    }
}
