//! What travels from the source to the operators: a flight under one of its keys.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::input::{Code, Date, Flight, Outcome};
use super::text::Text;
use super::time::EventTime;

/// What flights are grouped by: `N14228`, `EWR`, `UA`, `UA 2013-01-01` or `EWR-IAH`, and
/// `#4` after it if each repetition has keys of its own. The longest are a carrier, or an
/// airport, and another one, and a number of 32 bits.
pub(crate) type Key = Text<{ 2 * Code::MAX_BYTES + 1 + 11 }>;

/// A flight as the source has read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Reading {
    pub(crate) flight: Flight,
    /// The repetition that it was read in, from 0.
    pub(crate) repetition: u32,
    /// Its event time, in that repetition.
    pub(crate) scheduled: EventTime,
    /// The watermark that the flights before it had brought.
    pub(crate) watermark: EventTime,
}

/// A flight, as operators see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Departure {
    /// Its event time.
    pub(crate) scheduled: EventTime,
    /// The watermark that the source had when it read the flight.
    pub(crate) watermark: EventTime,
    pub(crate) origin: Code,
    pub(crate) dest: Code,
    /// Whether its aircraft is known.
    pub(crate) has_aircraft: bool,
    pub(crate) outcome: Outcome,
}

impl Departure {
    fn of(reading: &Reading) -> Self {
        let Reading { flight, scheduled, watermark, .. } = reading;
        Self {
            scheduled: *scheduled,
            watermark: *watermark,
            origin: flight.origin,
            dest: flight.dest,
            has_aircraft: flight.tailnum.is_some(),
            outcome: flight.outcome,
        }
    }

    /// `EWR-IAH`.
    pub(crate) fn route(&self) -> String {
        [self.origin.as_str(), "-", self.dest.as_str()].concat()
    }
}

/// A flight under one of its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ByKey {
    pub(crate) by: KeyedBy,
    pub(crate) key: Key,
    pub(crate) flight: Departure,
}

impl ByKey {
    /// The flight under each of its keys. `spread` says whether each repetition has keys
    /// of its own.
    pub(crate) fn all(reading: &Reading, spread: bool) -> [Self; KeyedBy::ALL.len()] {
        let flight = Departure::of(reading);
        let repetition = spread.then_some(reading.repetition);
        KeyedBy::ALL.map(|by| Self { by, key: by.key(&reading.flight, repetition), flight })
    }
}

/// What the flights are keyed by: each flight travels once under each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum KeyedBy {
    Aircraft,
    Airport,
    Carrier,
    CarrierDay,
    Route,
}

impl KeyedBy {
    pub(crate) const ALL: [Self; 5] =
        [Self::Aircraft, Self::Airport, Self::Carrier, Self::CarrierDay, Self::Route];

    /// The key of a flight, of a repetition if that has keys of its own.
    pub(crate) fn key(self, flight: &Flight, repetition: Option<u32>) -> Key {
        let mut key = Key::EMPTY;
        let mut push = |text: &str| key.write_str(text).expect("a key has room for all its parts");
        match self {
            Self::Aircraft => push(flight.tailnum.as_ref().map_or("(none)", Code::as_str)),
            Self::Airport => push(flight.origin.as_str()),
            Self::Carrier => push(flight.carrier.as_str()),
            Self::CarrierDay => {
                push(flight.carrier.as_str());
                let date = written(flight.date);
                push(std::str::from_utf8(&date).expect("digits are text"));
            }
            Self::Route => {
                push(flight.origin.as_str());
                push("-");
                push(flight.dest.as_str());
            }
        }
        if let Some(repetition) = repetition {
            write!(key, "{}", Suffix(repetition)).expect("a key has room for its repetition");
        }
        key
    }
}

/// ` 2013-01-01`. Every flight has one, and `write!` would be felt.
fn written(date: Date) -> [u8; 11] {
    let digit = |number: u16| b'0' + (number % 10) as u8;
    let (year, month, day) = (date.year, u16::from(date.month), u16::from(date.day));
    let [y1, y2, y3, y4] = [year / 1000, year / 100, year / 10, year].map(digit);
    let [m1, m2, d1, d2] = [month / 10, month, day / 10, day].map(digit);
    [b' ', y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2]
}

/// What distinguishes the keys of one repetition from those of another.
struct Suffix(u32);

impl std::fmt::Display for Suffix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What the keys of a repetition end with; nothing if all have the same.
pub(crate) fn repetition_suffix(spread: bool, repetition: u32) -> String {
    if spread { Suffix(repetition).to_string() } else { String::new() }
}
