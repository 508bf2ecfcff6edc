//! The timestamp of a job's dataflow: the checkpoint a record comes after, and event time.

use serde::{Deserialize, Serialize};
use timely::order::PartialOrder;
use timely::progress::Timestamp;
use timely::progress::timestamp::{PathSummary, Refines};

/// When a record is, twice: after which barrier, and in event time.
///
/// The order is that of the product: one time is before another if it is in both parts.
/// So a frontier tells two things apart: its least `epoch` says which barriers everybody
/// has passed, its least `event` is the watermark. Neither part of a source's capability
/// ever goes back, and each goes on without the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Time {
    /// The number of the last checkpoint whose barrier came before; 0 before the first
    /// one of this run. A record with epoch 7 is not part of checkpoint 7 and part of
    /// every later one.
    pub epoch: u64,
    /// A lower bound of the event times that may still come: the source's watermark when
    /// the record was read, or the time of the timer that made it. In milliseconds
    /// usually; whatever the job's timers are in.
    pub event: i64,
}

impl Time {
    pub(crate) const fn new(epoch: u64, event: i64) -> Self {
        Self { epoch, event }
    }
}

impl PartialOrder for Time {
    #[inline]
    fn less_equal(&self, other: &Self) -> bool {
        self.epoch <= other.epoch && self.event <= other.event
    }
}

impl Timestamp for Time {
    type Summary = Step;

    fn minimum() -> Self {
        Self::new(0, i64::MIN)
    }
}

impl Refines<()> for Time {
    fn to_inner((): ()) -> Self {
        Self::minimum()
    }

    fn to_outer(self) {}

    fn summarize(_: Step) {}
}

/// How a [`Time`] advances along a path; only cycles do so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Step {
    /// Is added to the epoch.
    pub epoch: u64,
    /// Is added to the event time; not below 0.
    pub event: i64,
}

impl PartialOrder for Step {
    fn less_equal(&self, other: &Self) -> bool {
        self.epoch <= other.epoch && self.event <= other.event
    }
}

impl PathSummary<Time> for Step {
    #[inline]
    fn results_in(&self, time: &Time) -> Option<Time> {
        Some(Time {
            epoch: time.epoch.checked_add(self.epoch)?,
            event: time.event.checked_add(self.event)?,
        })
    }

    fn followed_by(&self, other: &Self) -> Option<Self> {
        Some(Self {
            epoch: self.epoch.checked_add(other.epoch)?,
            event: self.event.checked_add(other.event)?,
        })
    }
}

/// The least epoch and the least event time of a frontier; the greatest there are if it
/// is empty, since then nothing comes any more.
pub(crate) fn least(frontier: &[Time]) -> Time {
    let least =
        |one: Time, other: &Time| Time::new(one.epoch.min(other.epoch), one.event.min(other.event));
    frontier.iter().fold(Time::new(u64::MAX, i64::MAX), least)
}

/// The time of a message, of which it can have one only: a record that belongs to two
/// epochs belongs to no checkpoint.
pub(crate) fn single(stamp: &[Time]) -> alluvium::Result<Time> {
    match stamp {
        [time] => Ok(*time),
        _ => Err(alluvium::Error::invalid("a message does not belong to one epoch")
            .expected("a stamp of one time")
            .found(format_args!("{stamp:?}"))
            .remedy("send with a single capability in operators of your own")),
    }
}
