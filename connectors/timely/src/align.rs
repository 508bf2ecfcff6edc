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
        let is_passed = self.barriers.front().is_some_and(|barrier| barrier.id <= frontier.epoch);
        if is_passed { self.barriers.pop_front() } else { None }
    }

    /// Goes on past the barrier of this number; gives back what has waited for it.
    pub(crate) fn pass(&mut self, barrier: u64) -> Vec<Batch<R>> {
        self.epoch = barrier;
        self.waiting.remove(&barrier).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::mail::Stop;

    fn barrier(id: u64) -> Trigger {
        Trigger { id, life: 1, stop: Stop::No, is_full: false, place: None }
    }

    #[test]
    fn records_after_a_barrier_wait_for_it_and_hold_the_watermark_back() {
        let mut alignment = Alignment::new();
        // One source is past barrier 3, the other is not.
        assert!(alignment.admit(Time::new(0, 10), vec!["before"]).is_some());
        assert!(alignment.admit(Time::new(3, 20), vec!["after"]).is_none());
        alignment.expect(barrier(3));
        assert!(alignment.next_barrier(Time::new(0, 50)).is_none(), "more may come before it");
        assert_eq!(alignment.watermark(Time::new(0, 50)), 20);
        assert_eq!(alignment.next_barrier(Time::new(3, 50)), Some(barrier(3)));
        let waiting = alignment.pass(3);
        assert_eq!(waiting.len(), 1);
        assert_eq!((waiting[0].event, &*waiting[0].records), (20, &["after"][..]));
        assert_eq!(alignment.watermark(Time::new(3, 50)), 50);
        assert!(alignment.admit(Time::new(3, 60), vec!["now"]).is_some());
    }

    #[test]
    fn two_barriers_that_the_frontier_passes_at_once_are_passed_one_after_the_other() {
        let mut alignment = Alignment::new();
        assert!(alignment.admit(Time::new(8, 1), vec![8]).is_none());
        assert!(alignment.admit(Time::new(7, 1), vec![7]).is_none());
        alignment.expect(barrier(7));
        alignment.expect(barrier(8));
        for id in [7, 8] {
            assert_eq!(alignment.next_barrier(Time::new(8, 5)), Some(barrier(id)));
            let waiting = alignment.pass(id);
            assert_eq!(waiting.iter().flat_map(|b| &b.records).collect::<Vec<_>>(), [&id]);
        }
        assert!(alignment.next_barrier(Time::new(8, 5)).is_none());
    }

    #[test]
    fn a_barrier_that_was_not_heard_of_does_not_let_its_records_through() {
        let mut alignment = Alignment::new();
        assert!(alignment.admit(Time::new(4, 1), vec![()]).is_none());
        assert!(alignment.next_barrier(Time::new(4, 1)).is_none());
        alignment.expect(barrier(4));
        assert_eq!(alignment.next_barrier(Time::new(4, 1)), Some(barrier(4)));
    }
}
