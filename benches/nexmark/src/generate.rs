//! Where events come from: the generator of the crate `nexmark`, as a source.
//!
//! Event `i` of split `s` is event `i * splits + s` of all, and follows from its number
//! alone, so any split can be read from anywhere. Making an event costs more than many a
//! query spends on it, nearly all of it for texts that no query here asks for: so events
//! are made once, before the clock starts, and kept for all runs; or as they are read, if
//! there are too many to be kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium::{Error, Result};
use alluvium_timely::{Next, Reader, Source};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;

use crate::event::Event;
use crate::record::mixed;

/// When the first event happens, in milliseconds since 1970.
pub const BEGIN_MS: i64 = 1_000_000_000_000;

/// Events that a reader has read before it says so.
const TOLD_AT_A_TIME: u64 = 1024;

/// What the events are like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How many there are.
    pub events: u64,
    /// In how many splits, at least 1.
    pub splits: u32,
    /// How many there are in a second of event time.
    pub rate: usize,
    /// How many auctions are open at a time.
    pub auctions_in_flight: usize,
    /// How many persons bid and sell at a time.
    pub active_people: usize,
    /// Groups of so many events come in an order of chance; 1 for the order of their times.
    pub disorder: usize,
    /// One of so many events comes late, if any.
    pub late_one_of: Option<u64>,
    /// How late those are, in milliseconds.
    pub late_ms: i64,
    /// Times are rounded down to multiples of so many milliseconds, and every other one is
    /// a millisecond less, if anything is said: so many an event is on the edge of a window.
    pub edge_ms: Option<u32>,
}

impl Default for Settings {
    /// As NEXMark has it: 10,000 events a second, 100 open auctions, 1,000 people.
    fn default() -> Self {
        Self {
            events: 1_000_000,
            splits: 4,
            rate: 10_000,
            auctions_in_flight: 100,
            active_people: 1_000,
            disorder: 1,
            late_one_of: None,
            late_ms: 0,
            edge_ms: None,
        }
    }
}

impl Settings {
    /// By how many milliseconds an event that is not late may come after a later one.
    pub fn out_of_orderness_ms(&self) -> u64 {
        let within_group = match self.disorder {
            0 | 1 => 0,
            // A group, and the rounding of times.
            group => (group as u64 * 1_000).div_ceil(self.rate as u64) + 1,
        };
        within_group + self.edge_ms.map_or(0, |ms| u64::from(ms) + 1)
    }

    /// How many events a split has.
    pub fn events_of(&self, split: u32) -> u64 {
        let (splits, split) = (u64::from(self.splits), u64::from(split));
        self.events / splits + u64::from(split < self.events % splits)
    }

    /// Makes the events of a split, from one of them on.
    pub fn make(&self, split: u32, from: u64) -> Making {
        let sizes = NexmarkConfig {
            // No text beyond what every event has: it would be made and thrown away.
            avg_person_byte_size: 0,
            avg_auction_byte_size: 0,
            avg_bid_byte_size: 0,
            in_flight_auctions: self.auctions_in_flight,
            active_people: self.active_people,
            out_of_order_group_size: self.disorder.max(1),
            first_rate: self.rate,
            next_rate: self.rate,
            base_time: BEGIN_MS as u64,
            ..NexmarkConfig::default()
        };
        let splits = u64::from(self.splits);
        let first = u64::from(split) + from * splits;
        Making {
            generator: EventGenerator::new(sizes).with_offset(first).with_step(splits),
            events: self.events,
            edge_ms: self.edge_ms.map(|ms| i64::from(ms.max(1))),
            late: self.late_one_of.map(|one_of| (one_of.max(1), self.late_ms)),
        }
    }
}

/// The events of a split, one after the other.
#[derive(Clone, Debug)]
pub struct Making {
    generator: EventGenerator,
    events: u64,
    edge_ms: Option<i64>,
    late: Option<(u64, i64)>,
}

impl Iterator for Making {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let number = self.generator.offset();
        if number >= self.events {
            return None;
        }
        let mut event = Event::from(self.generator.next()?);
        if let Some(ms) = self.edge_ms {
            event = event.moved_to(event.at() / ms * ms - (mixed(number, 5) % 2) as i64);
            if let Event::Auction(auction) = &mut event {
                auction.expires = auction.expires / ms * ms;
            }
        }
        match self.late {
            Some((one_of, ms))
                if mixed(number, 7).is_multiple_of(one_of) && event.at() - ms > BEGIN_MS + ms =>
            {
                Some(event.moved_to(event.at() - ms))
            }
            _ => Some(event),
        }
    }
}

/// What a reader is to do before it reads on; see [`Events::watched`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Go {
    /// Read.
    On,
    /// Wait a little and ask again.
    Wait,
    /// Fail.
    Fail,
}

type Watch = dyn Fn(u32, u64) -> Go + Send + Sync;

/// The events as a source.
#[derive(Clone)]
pub struct Events {
    settings: Arc<Settings>,
    kept: Option<Arc<Vec<Vec<Event>>>>,
    read: Arc<AtomicU64>,
    watch: Option<Arc<Watch>>,
}

impl Events {
    /// Events that are made as they are read.
    pub fn made(settings: &Settings) -> Self {
        let settings = Arc::new(settings.clone());
        Self { settings, kept: None, read: Arc::default(), watch: None }
    }

    /// Events that are made now, and kept in memory. `progress` is told after each of
    /// [`splits`](Settings::splits) how many there are.
    pub fn kept(settings: &Settings, mut progress: impl FnMut(u64)) -> Self {
        let mut kept = Vec::with_capacity(settings.splits as usize);
        let mut made = 0;
        for split in 0..settings.splits {
            let mut events = Vec::with_capacity(settings.events_of(split) as usize);
            events.extend(settings.make(split, 0));
            made += events.len() as u64;
            kept.push(events);
            progress(made);
        }
        Self { kept: Some(Arc::new(kept)), ..Self::made(settings) }
    }

    /// These events, for tests which think of each: those of each split. Of `settings` only
    /// the [bound on disorder](Settings::out_of_orderness_ms) counts.
    pub fn given(settings: &Settings, events: Vec<Vec<Event>>) -> Self {
        let count = events.iter().map(|split| split.len() as u64).sum();
        let splits = events.len() as u32;
        let settings = Settings { events: count, splits, ..settings.clone() };
        Self { kept: Some(Arc::new(events)), ..Self::made(&settings) }
    }

    /// The same events, counted from none on again.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { read: Arc::default(), ..self.clone() }
    }

    /// Asks before each event, giving split and position, whether to go on.
    #[must_use]
    pub fn watched(self, watch: impl Fn(u32, u64) -> Go + Send + Sync + 'static) -> Self {
        Self { watch: Some(Arc::new(watch)), ..self }
    }

    /// What they are like.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Counts, in steps, how many have been read.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }
}

impl Source for Events {
    type Item = Event;
    type Reader = EventReader;

    fn splits(&self) -> Result<u32> {
        Ok(self.settings.splits)
    }

    fn fingerprint(&self) -> Result<u64> {
        let Settings {
            events,
            splits,
            rate,
            auctions_in_flight,
            active_people,
            disorder,
            late_one_of,
            late_ms,
            edge_ms,
        } = *self.settings;
        let late = [late_one_of.unwrap_or(0), late_ms as u64, edge_ms.unwrap_or(0).into()];
        let others = [rate, auctions_in_flight, active_people, disorder].map(|n| n as u64);
        let all = [events, u64::from(splits)].into_iter().chain(others).chain(late);
        Ok(all.fold(0, mixed))
    }

    fn open(&self, split: u32, position: Option<u64>) -> Result<EventReader> {
        let position = position.unwrap_or(0);
        let events = match &self.kept {
            Some(kept) => Feed::Kept(Arc::clone(kept)),
            None => Feed::Made(Box::new(self.settings.make(split, position))),
        };
        let read = Arc::clone(&self.read);
        Ok(EventReader { split, position, events, told: position, read, watch: self.watch.clone() })
    }
}

enum Feed {
    Kept(Arc<Vec<Vec<Event>>>),
    Made(Box<Making>),
}

/// Reads a split of [`Events`].
pub struct EventReader {
    split: u32,
    position: u64,
    events: Feed,
    /// The position up to which it has said how many it has read.
    told: u64,
    read: Arc<AtomicU64>,
    watch: Option<Arc<Watch>>,
}

impl EventReader {
    #[inline]
    fn tell(&mut self, step: u64) {
        if self.position - self.told >= step {
            self.read.fetch_add(self.position - self.told, Ordering::Relaxed);
            self.told = self.position;
        }
    }
}

impl Reader for EventReader {
    type Item = Event;

    #[inline]
    fn next(&mut self) -> Result<Next<Event>> {
        if let Some(watch) = &self.watch {
            match watch(self.split, self.position) {
                Go::On => {}
                Go::Wait => return Ok(Next::Idle),
                Go::Fail => return Err(Error::unavailable("the reader was told to fail")),
            }
        }
        let event = match &mut self.events {
            Feed::Kept(kept) => kept[self.split as usize].get(self.position as usize).copied(),
            Feed::Made(making) => making.next(),
        };
        let Some(event) = event else {
            self.tell(1);
            return Ok(Next::End);
        };
        self.position += 1;
        self.tell(TOLD_AT_A_TIME);
        Ok(Next::Record(event))
    }

    fn position(&self) -> u64 {
        self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &Events, split: u32, from: Option<u64>) -> Vec<Event> {
        let mut reader = events.open(split, from).unwrap();
        let mut read = Vec::new();
        while let Next::Record(event) = reader.next().unwrap() {
            read.push(event);
        }
        assert_eq!(reader.position(), events.settings().events_of(split));
        read
    }

    #[test]
    fn a_split_goes_on_where_it_was_whether_its_events_are_kept_or_made() {
        let late = Settings { late_one_of: Some(10), late_ms: 500, ..Settings::default() };
        let settings = Settings { events: 20_003, disorder: 50, ..late };
        let (kept, made) = (Events::kept(&settings, |_| {}), Events::made(&settings));
        let mut moved = 0;
        for split in 0..settings.splits {
            let all = read(&kept, split, None);
            assert_eq!(read(&made, split, None), all);
            for from in [1, 977, all.len() - 1] {
                assert_eq!(read(&kept, split, Some(from as u64)), all[from..]);
                assert_eq!(read(&made, split, Some(from as u64)), all[from..]);
            }
            let plain = Settings { late_one_of: None, ..settings.clone() };
            let plain = read(&Events::made(&plain), split, None);
            moved += plain.iter().zip(&all).filter(|(plain, late)| plain != late).count();
        }
        assert!(moved > 500, "{moved} of 20,003 were late");
    }
}
