//! Sources that can be read again from where a checkpoint says.
//!
//! A [`Source`] is made of *splits*, which are read independently of each other and
//! divided among the workers; there are as many of them in every run. A [`Reader`] reads
//! one split in an order that never changes, and says where it is by a number.

mod generator;
mod lines;
mod operator;

use alluvium::Result;
use timely::ExchangeData;
use timely::dataflow::{Scope, StreamVec};

pub use self::generator::Generator;
pub use self::lines::Lines;
use crate::flow::WorkerParts;
use crate::time::Time;

/// Records that a source reads before it lets others work, unless told otherwise.
const DEFAULT_BATCH: usize = 1024;

/// Where records come from.
pub trait Source: 'static {
    /// What is read.
    type Item: ExchangeData;
    /// Reads a split.
    type Reader: Reader<Item = Self::Item>;

    /// How many splits there are, at least 1; the same in every worker and every run.
    ///
    /// # Errors
    /// Any; the job then fails with it.
    fn splits(&self) -> Result<u32>;

    /// A number that is another one when splits or positions mean something else: the
    /// length of a file, say. It is kept with checkpoints, and a job does not go on from
    /// one with another.
    ///
    /// # Errors
    /// As of [`splits`](Self::splits).
    fn fingerprint(&self) -> Result<u64> {
        Ok(0)
    }

    /// Begins to read a split: from its beginning, or from a [position](Reader::position)
    /// that a reader of it was at.
    ///
    /// # Errors
    /// As of [`splits`](Self::splits).
    fn open(&self, split: u32, position: Option<u64>) -> Result<Self::Reader>;
}

/// What a split has next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next<T> {
    /// A record.
    Record(T),
    /// Nothing at the moment; it is asked again after some milliseconds.
    Idle,
    /// Nothing any more.
    End,
}

/// Reads a split, record by record.
pub trait Reader: 'static {
    /// What is read.
    type Item;

    /// The next record. It is called on the worker's thread and should not wait long.
    ///
    /// # Errors
    /// Any; the job then fails with it.
    fn next(&mut self) -> Result<Next<Self::Item>>;

    /// Where to go on to read what comes after the last record.
    fn position(&self) -> u64;
}

/// A source that is about to be read; from [`Flow::source`](crate::Flow::source).
#[must_use]
pub struct SourceBuilder<'scope, S: Source> {
    scope: Scope<'scope, Time>,
    worker: WorkerParts,
    name: String,
    source: S,
    clock: Option<Clock<S::Item>>,
    batch: usize,
}

/// How event time follows from records.
struct Clock<T> {
    time_of: Box<dyn Fn(&T) -> i64>,
    out_of_orderness: i64,
}

impl<'scope, S: Source> SourceBuilder<'scope, S> {
    pub(crate) fn new(
        scope: Scope<'scope, Time>,
        worker: WorkerParts,
        name: &str,
        source: S,
    ) -> Self {
        Self { scope, worker, name: name.to_owned(), source, clock: None, batch: DEFAULT_BATCH }
    }

    /// Says when a record happened, and by how much a record of one split may come after a
    /// later one and still be in time. The watermark of a split is the latest time less
    /// `out_of_orderness`: nothing before it is expected. That of the source is the least
    /// of all splits that have not ended; those that have are at the end of time.
    ///
    /// Without it event time stands still until all splits have ended.
    pub fn event_time(
        mut self,
        time_of: impl Fn(&S::Item) -> i64 + 'static,
        out_of_orderness: u64,
    ) -> Self {
        let out_of_orderness = i64::try_from(out_of_orderness).unwrap_or(i64::MAX);
        self.clock = Some(Clock { time_of: Box::new(time_of), out_of_orderness });
        self
    }

    /// How many records are read before other operators have their turn; they have one
    /// [`Time`]. Default: 1,024.
    pub fn batch_records(mut self, records: usize) -> Self {
        self.batch = records.max(1);
        self
    }

    /// Begins to read.
    ///
    /// # Errors
    /// `Invalid` if another source has the name; `Incompatible` if the checkpoint has
    /// another number of splits or another [fingerprint](Source::fingerprint); what the
    /// source fails with.
    pub fn build(self) -> Result<StreamVec<'scope, Time, S::Item>> {
        operator::build(self)
    }
}
