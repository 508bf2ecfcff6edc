//! The source: reads flights in the order of the file, over and over, and says of each
//! which watermark those before it have brought.
//!
//! The order matters, so there is one split, which the first worker reads. All that the
//! source does follows from its position, which is the number of flights before it over
//! all repetitions: the repetition and the place in the file follow from that, and the
//! watermark from the flights before it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use alluvium::{Error, Result};
use alluvium_timely::{Next, Reader, Source};

use super::cli::JobOptions;
use super::departure::Reading;
use super::input::FlightReader;
use super::job::fingerprint;
use super::survey::InputIdentity;
use super::time::{self, EventTime, Watermarks};

/// What the source and the rest of its process tell each other.
#[derive(Default)]
pub(crate) struct Course {
    /// Flights that have been read.
    offset: AtomicU64,
    /// When so many have been read, somebody is told.
    awaited: Option<u64>,
    waiting: Mutex<Option<Sender<()>>>,
    /// The source does not come to its end while this is set.
    is_held: AtomicBool,
}

impl Course {
    /// Tells `waiting` when `awaited` flights have been read. If `is_held` says so, the
    /// source does not come to its end before it is [released](Self::release).
    pub(crate) fn new(awaited: Option<u64>, waiting: Sender<()>, is_held: bool) -> Self {
        Self {
            offset: AtomicU64::new(0),
            awaited,
            waiting: Mutex::new(Some(waiting)),
            is_held: AtomicBool::new(is_held),
        }
    }

    /// Flights that have been read, those of earlier processes included.
    pub(crate) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// Lets the source come to its end.
    pub(crate) fn release(&self) {
        self.is_held.store(false, Ordering::Relaxed);
    }

    /// Whoever waits need not wait any more.
    pub(crate) fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn come_to(&self, offset: u64) {
        self.offset.store(offset, Ordering::Relaxed);
        if self.awaited.is_some_and(|awaited| offset >= awaited)
            && let Some(waiting) =
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // If nobody waits the job is ending.
            let _ = waiting.send(());
        }
    }
}

/// The flights of a file, as often as the job wants them.
#[derive(Clone)]
pub(crate) struct FlightSource {
    input: PathBuf,
    /// Of what the job reads and does by which rules.
    fingerprint: u64,
    /// Flights in the file.
    flights: u64,
    /// The latest event of the file.
    latest: EventTime,
    repeat: u32,
    span_days: u32,
    bound_minutes: i64,
    course: Arc<Course>,
}

impl FlightSource {
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn new(options: &JobOptions, course: Arc<Course>) -> Result<Self> {
        Ok(Self {
            input: options.input.clone(),
            fingerprint: fingerprint(options, &InputIdentity::of_file(&options.input)?),
            flights: options.flights,
            latest: EventTime::from_minutes(options.latest_min),
            repeat: options.repeat,
            span_days: options.span_days,
            bound_minutes: options.rules.out_of_orderness_min,
            course,
        })
    }

    /// The watermark when all has been read.
    pub(crate) fn last_watermark(&self) -> EventTime {
        Watermarks::after(self.bound_minutes, self.latest_before(self.repeat))
    }

    /// The latest event of all repetitions before one.
    fn latest_before(&self, repetition: u32) -> EventTime {
        match repetition.checked_sub(1) {
            None => EventTime::START,
            Some(last) => self.latest.plus_days(self.days_before(last)),
        }
    }

    /// Days from the beginning of the first repetition to that of another.
    fn days_before(&self, repetition: u32) -> i64 {
        i64::from(repetition) * i64::from(self.span_days)
    }
}

impl Source for FlightSource {
    type Item = Reading;
    type Reader = Flights;

    fn splits(&self) -> Result<u32> {
        Ok(1)
    }

    fn fingerprint(&self) -> Result<u64> {
        Ok(self.fingerprint)
    }

    fn open(&self, _: u32, position: Option<u64>) -> Result<Flights> {
        let position = position.unwrap_or(0);
        // More than there are repetitions, if it is a position in none of them.
        let repetition = u32::try_from(position / self.flights.max(1)).unwrap_or(u32::MAX);
        let mut flights = Flights {
            repetition,
            record: 0,
            watermarks: Watermarks::resume(self.bound_minutes, self.latest_before(repetition)),
            file: None,
            source: self.clone(),
        };
        for _ in 0..position % self.flights.max(1) {
            if flights.read()?.is_none() {
                return Err(flights.changed());
            }
        }
        self.course.come_to(flights.position());
        Ok(flights)
    }
}

/// Reads the flights of a [`FlightSource`].
pub(crate) struct Flights {
    source: FlightSource,
    /// The repetition being read, from 0, and how much of it has been read.
    repetition: u32,
    record: u64,
    watermarks: Watermarks,
    /// The file, once something was read of this repetition.
    file: Option<FlightReader>,
}

impl Flights {
    /// The next flight of all repetitions.
    fn read(&mut self) -> Result<Option<Reading>> {
        while self.repetition < self.source.repeat {
            let file = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(FlightReader::open(&self.source.input)?),
            };
            let Some(flight) = file.next()? else {
                if self.record != self.source.flights {
                    return Err(self.changed());
                }
                self.file = None;
                self.record = 0;
                self.repetition += 1;
                continue;
            };
            self.record += 1;
            let scheduled =
                time::scheduled(&flight).plus_days(self.source.days_before(self.repetition));
            let watermark = self.watermarks.current();
            self.watermarks.observe(scheduled);
            let repetition = self.repetition;
            return Ok(Some(Reading { flight, repetition, scheduled, watermark }));
        }
        Ok(None)
    }

    fn changed(&self) -> Error {
        Error::incompatible("the input has not as many flights as it had")
            .at(self.source.input.display())
            .expected(self.source.flights)
            .found(self.record)
            .remedy("leave the file as it is while the job runs, and between its runs")
    }
}

impl Reader for Flights {
    type Item = Reading;

    fn next(&mut self) -> Result<Next<Reading>> {
        let reading = self.read()?;
        self.source.course.come_to(self.position());
        match reading {
            Some(reading) => Ok(Next::Record(reading)),
            // It is at rest; checkpoints are taken all the same.
            None if self.source.course.is_held.load(Ordering::Relaxed) => Ok(Next::Idle),
            None => Ok(Next::End),
        }
    }

    fn position(&self) -> u64 {
        u64::from(self.repetition) * self.source.flights + self.record
    }
}
