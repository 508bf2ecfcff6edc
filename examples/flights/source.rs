//! The source: reads flights, sends each to the shards that own its keys, with
//! watermarks and barriers in between.
//!
//! All that it does follows from its [`Position`]: what it reads next, and what
//! watermark it sends when.

use std::sync::atomic::{AtomicU64, Ordering};

use alluvium::base::{SnapshotId, SnapshotMode};
use crossbeam::channel::{Receiver, Sender, TryRecvError};

use super::cli::JobOptions;
use super::departure::{self, Departure, KeyedBy};
use super::input::{Flight, FlightReader};
use super::job::{Halt, MAX_PARALLELISM, Message, Report};
use super::job_data::Position;
use super::time::{EventTime, Watermarks};

/// Elements that travel together. Larger: cheaper sending, longer waits at a
/// barrier.
const BATCH_ELEMENTS: usize = 1024;

/// Records between two looks of the source at what the coordinator wants.
const RECORDS_PER_LOOK: u64 = 64;

/// What flows to one shard between two barriers, in order. The keys lie one
/// after the other in `keys`.
pub(crate) struct Batch {
    keys: String,
    elements: Vec<Element>,
}

enum Element {
    Flight { by: KeyedBy, key_bytes: u8, flight: Departure },
    Watermark(EventTime),
}

/// An element as a worker sees it.
pub(crate) enum Input<'a> {
    Flight(KeyedBy, &'a str, &'a Departure),
    Watermark(EventTime),
}

impl Batch {
    fn new() -> Self {
        Self {
            keys: String::with_capacity(BATCH_ELEMENTS * 12),
            elements: Vec::with_capacity(BATCH_ELEMENTS),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Input<'_>> {
        let mut keys = self.keys.as_str();
        self.elements.iter().map(move |element| match element {
            Element::Flight { by, key_bytes, flight } => {
                let (key, rest) = keys.split_at(usize::from(*key_bytes));
                keys = rest;
                Input::Flight(*by, key, flight)
            }
            Element::Watermark(watermark) => Input::Watermark(*watermark),
        })
    }
}

/// Reads and routes.
pub(crate) struct Source<'a> {
    options: &'a JobOptions,
    position: Position,
    watermarks: Watermarks,
    workers: Vec<Sender<Message>>,
    /// What is to be sent to each worker next.
    batches: Vec<Batch>,
    triggers: Receiver<(SnapshotMode, SnapshotId)>,
    /// `position.offset`, for everybody to see.
    offset: &'a AtomicU64,
    /// Ends every key of this repetition.
    suffix: String,
    key: String,
}

impl<'a> Source<'a> {
    pub(crate) fn new(
        options: &'a JobOptions,
        start: Position,
        workers: Vec<Sender<Message>>,
        triggers: Receiver<(SnapshotMode, SnapshotId)>,
        offset: &'a AtomicU64,
    ) -> Self {
        Self {
            options,
            position: start,
            watermarks: Watermarks::resume(options.rules.out_of_orderness_min, start.latest),
            batches: workers.iter().map(|_| Batch::new()).collect(),
            workers,
            triggers,
            offset,
            suffix: String::new(),
            key: String::new(),
        }
    }

    pub(crate) fn run(&mut self, reports: &Sender<Report>) -> Result<(), Halt> {
        let start = self.position;
        // Watermarks are no part of a snapshot: restored shards hear it again.
        if start.latest > EventTime::START {
            self.send_watermark(self.watermarks.current())?;
        }
        for repetition in start.repetition..self.options.repeat {
            let mut reader = FlightReader::open(&self.options.input)?;
            self.position.repetition = repetition;
            self.position.record = 0;
            if repetition == start.repetition {
                reader.skip(start.record)?;
                self.position.record = start.record;
            }
            self.suffix = departure::repetition_suffix(self.options.spread, repetition);
            let days_later = i64::from(repetition) * i64::from(self.options.span_days);
            while let Some(flight) = reader.next()? {
                self.route(&flight, days_later)?;
                self.position.offset += 1;
                self.position.record += 1;
                if self.position.offset.is_multiple_of(RECORDS_PER_LOOK) {
                    self.look_at_triggers()?;
                }
            }
        }
        // Nothing comes any more: whatever is open is complete.
        self.send_watermark(EventTime::END)?;
        self.flush()?;
        reports.send(Report::InputEnded)?;
        // An input at rest still gets its checkpoints, until nobody asks.
        while let Ok((mode, id)) = self.triggers.recv() {
            self.send_barrier(mode, id)?;
        }
        Ok(())
    }

    fn look_at_triggers(&mut self) -> Result<(), Halt> {
        self.offset.store(self.position.offset, Ordering::Relaxed);
        match self.triggers.try_recv() {
            Ok((mode, id)) => self.send_barrier(mode, id),
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => Err(Halt::Stopped),
        }
    }

    fn send_barrier(&mut self, mode: SnapshotMode, id: SnapshotId) -> Result<(), Halt> {
        self.flush()?;
        for worker in &self.workers {
            worker.send(Message::Barrier { mode, id, position: self.position })?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Halt> {
        self.offset.store(self.position.offset, Ordering::Relaxed);
        (0..self.workers.len()).try_for_each(|index| self.send_batch(index))
    }

    /// Sends a flight under each of its keys, and then the watermark that it
    /// brings, if it brings one.
    fn route(&mut self, flight: &Flight, days_later: i64) -> Result<(), Halt> {
        let departure = Departure::of(flight, days_later);
        for by in KeyedBy::ALL {
            self.key.clear();
            by.write_key(flight, &mut self.key);
            self.key.push_str(&self.suffix);
            let shards = self.workers.len() as u32;
            let index = departure::shard_of_key(&self.key, MAX_PARALLELISM, shards);
            self.batches[index].keys.push_str(&self.key);
            let key_bytes = self.key.len() as u8;
            self.push(index, Element::Flight { by, key_bytes, flight: departure })?;
        }
        if let Some(watermark) = self.watermarks.observe(departure.scheduled) {
            self.send_watermark(watermark)?;
        }
        self.position.latest = self.watermarks.latest();
        Ok(())
    }

    fn send_watermark(&mut self, watermark: EventTime) -> Result<(), Halt> {
        (0..self.workers.len())
            .try_for_each(|index| self.push(index, Element::Watermark(watermark)))
    }

    fn push(&mut self, index: usize, element: Element) -> Result<(), Halt> {
        self.batches[index].elements.push(element);
        match self.batches[index].elements.len() {
            BATCH_ELEMENTS.. => self.send_batch(index),
            _ => Ok(()),
        }
    }

    fn send_batch(&mut self, index: usize) -> Result<(), Halt> {
        if self.batches[index].elements.is_empty() {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.batches[index], Batch::new());
        Ok(self.workers[index].send(Message::Batch(batch))?)
    }
}
