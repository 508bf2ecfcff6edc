//! The job that runtimes are put to the claims with: what it reads, and what its operator
//! does.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use alluvium::codec::{Codec, HasCodec};
use alluvium::{Error, KeyRef, MaxParallelism, Result, Timer, TimerStore, Timers, ValueState};
use serde::{Deserialize, Serialize};

/// Length of a window, in the units of event time.
pub const WINDOW: i64 = 100;
/// By how much a record of a split may come after a later one: the watermark of a split is
/// the latest time that it had less this; nothing *before* that comes any more.
pub const DISORDER: i64 = 60;

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// By which it goes to a worker.
    pub key: u64,
    /// When it happened.
    pub time: i64,
    /// What is summed.
    pub value: u64,
}

impl Record {
    /// The record of this number in a split.
    pub(crate) fn of(seed: u64, split: u32, number: u64) -> Self {
        let random = mixed(seed ^ (u64::from(split) << 40 | number));
        let late = (random >> 40) as i64 % DISORDER;
        Self { key: random % KEYS, time: number as i64 * 3 - late, value: random >> 8 & 0xff }
    }
}

const KEYS: u64 = 40;

/// A number that looks random, from another one.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a split has at a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polled {
    /// A record; the next position is one more.
    Record(Record),
    /// Nothing now: ask again.
    Idle,
    /// Nothing any more.
    End,
}

/// Where the job reads: a few splits, each of which can be read from any position on. The
/// suite decides how far. Clones are the same source.
#[derive(Clone, Debug)]
pub struct Source {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    seed: u64,
    records: u64,
    /// Records of each split that may be read.
    released: Vec<AtomicU64>,
}

impl Source {
    pub(crate) fn new(seed: u64, splits: u32, records: u64, released: u64) -> Self {
        let released = (0..splits).map(|_| AtomicU64::new(released)).collect();
        Self { shared: Arc::new(Shared { seed, records, released }) }
    }

    /// How many splits there are; the same in every life of a job.
    pub fn splits(&self) -> u32 {
        self.shared.released.len() as u32
    }

    /// What a split has at a position, from 0. Does not wait.
    ///
    /// # Panics
    /// If there is no such split.
    pub fn at(&self, split: u32, position: u64) -> Polled {
        if position >= self.shared.records {
            Polled::End
        } else if position >= self.shared.released[split as usize].load(Ordering::SeqCst) {
            Polled::Idle
        } else {
            Polled::Record(Record::of(self.shared.seed, split, position))
        }
    }

    /// Lets so many records of each split be read.
    pub(crate) fn release(&self, records: u64) {
        (0..self.splits()).for_each(|split| self.release_of(split, records));
    }

    /// Lets so many records of one split be read.
    pub(crate) fn release_of(&self, split: u32, records: u64) {
        self.shared.released[split as usize].fetch_max(records, Ordering::SeqCst);
    }
}

/// What the suite wants to know of a life of a job. Clones are the same one.
#[derive(Clone, Default, Debug)]
pub struct Probe {
    seen: Arc<Seen>,
}

#[derive(Default, Debug)]
struct Seen {
    records: AtomicU64,
    misrouted: AtomicU64,
    out_of_order: AtomicU64,
}

impl Probe {
    /// Records that the operator has worked on.
    pub(crate) fn records(&self) -> u64 {
        self.seen.records.load(Ordering::SeqCst)
    }

    /// Records that came to a worker which does not own their key group.
    pub(crate) fn misrouted(&self) -> u64 {
        self.seen.misrouted.load(Ordering::SeqCst)
    }

    /// Timers that fired on one worker after one of a later time.
    pub(crate) fn out_of_order(&self) -> u64 {
        self.seen.out_of_order.load(Ordering::SeqCst)
    }
}

/// Which of the workers an operator is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its number, from 0.
    pub worker: u32,
    /// How many there are.
    pub workers: u32,
    /// The number of key groups.
    pub max_parallelism: MaxParallelism,
}

/// The operator: what it keeps in a worker's store, and what it does with a record and a
/// timer. Lines that it says go to the sink.
///
/// - For a record: `count KEY N`, the how manyth of its key it is.
/// - For a timer at the end of a window: `window KEY END BEFORE N SUM`, with the end of the
///   window of that key that was closed before.
pub struct Tally {
    place: Place,
    probe: Probe,
    counts: ValueState<u64, u64>,
    seen: ValueState<u64, u64, i64>,
    sums: ValueState<u64, u64, i64>,
    closed: ValueState<u64, i64>,
    ends: Timers<u64, i64>,
    last: AtomicI64,
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Tally {
    /// Registers its states in a worker's store, new or restored.
    ///
    /// # Errors
    /// What the store fails with.
    pub fn open<S: TimerStore>(store: &mut S, place: Place, probe: Probe) -> Result<Self> {
        Ok(Self {
            place,
            probe,
            counts: ValueState::register(store, "counts")?,
            seen: ValueState::register(store, "seen")?,
            sums: ValueState::register(store, "sums")?,
            closed: ValueState::register(store, "closed")?,
            ends: Timers::event_time(store, "ends")?,
            last: AtomicI64::new(i64::MIN),
        })
    }

    /// Its timers, which the runtime pops when the watermark has come to them.
    pub fn timers(&self) -> &Timers<u64, i64> {
        &self.ends
    }

    /// Works on a record. Lines are added to `lines`.
    ///
    /// # Errors
    /// `Invalid` if the record is late, or on the wrong worker; what the store fails with.
    pub fn record<S: TimerStore>(
        &self,
        store: &mut S,
        record: &Record,
        lines: &mut Vec<String>,
    ) -> Result<()> {
        let Record { key, time, value } = *record;
        let owner = owner(key, self.place.max_parallelism, self.place.workers)?;
        if owner != self.place.worker {
            self.probe.seen.misrouted.fetch_add(1, Ordering::SeqCst);
            return Err(Error::invalid("a record came to the wrong worker")
                .at(format_args!("key {key}"))
                .expected(format_args!("worker {owner} of {}", self.place.workers))
                .found(format_args!("worker {}", self.place.worker))
                .remedy("route records by the key group of their encoded key"));
        }
        let mut count = 0;
        self.counts.update(store, &key, |before| {
            count = before.unwrap_or(0) + 1;
            Some(count)
        })?;
        lines.push(format!("count {key} {count}"));
        let end = end_of_window(time);
        self.seen.update_in(store, &key, &end, |seen| Some(seen.unwrap_or(0) + 1))?;
        self.sums.update_in(store, &key, &end, |sum| Some(sum.unwrap_or(0) + value))?;
        self.ends.register_in(store, &key, &end, end)?;
        self.probe.seen.records.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Works on a timer that was popped. Lines are added to `lines`.
    ///
    /// # Errors
    /// What the store fails with.
    pub fn timer<S: TimerStore>(
        &self,
        store: &mut S,
        timer: &Timer<u64, i64>,
        lines: &mut Vec<String>,
    ) -> Result<()> {
        let Timer { timestamp, key, namespace: end } = *timer;
        if self.last.fetch_max(timestamp, Ordering::SeqCst) > timestamp {
            self.probe.seen.out_of_order.fetch_add(1, Ordering::SeqCst);
        }
        let seen = self.seen.get_in(store, &key, &end)?.unwrap_or(0);
        let sum = self.sums.get_in(store, &key, &end)?.unwrap_or(0);
        self.seen.delete_in(store, &key, &end)?;
        self.sums.delete_in(store, &key, &end)?;
        let before = self.closed.get(store, &key)?.unwrap_or(-1);
        self.closed.put(store, &key, &end)?;
        lines.push(format!("window {key} {end} {before} {seen} {sum}"));
        Ok(())
    }
}

/// The last time of the window that a time is in.
pub(crate) fn end_of_window(time: i64) -> i64 {
    (time.div_euclid(WINDOW) + 1) * WINDOW - 1
}

/// The worker that owns the key group of a key.
fn owner(key: u64, max: MaxParallelism, workers: u32) -> Result<u32> {
    let mut bytes = Vec::new();
    <u64 as HasCodec>::Codec::default().encode(&key, &mut bytes)?;
    Ok(max.subtask_of_group(KeyRef::new(&bytes).locate(max).0, workers))
}
