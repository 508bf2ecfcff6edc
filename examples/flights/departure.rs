//! What travels from the source to the workers: a flight under one of its keys.

use alluvium::base::hash::{group_of_hash, hash_key};
use alluvium::{KeyGroup, MaxParallelism};

use super::input::{Code, Flight, Outcome};
use super::time::{self, EventTime};

/// A flight, as operators see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Departure {
    /// Its event time.
    pub(crate) scheduled: EventTime,
    pub(crate) origin: Code,
    pub(crate) dest: Code,
    /// Whether its aircraft is known.
    pub(crate) has_aircraft: bool,
    pub(crate) outcome: Outcome,
}

impl Departure {
    /// A flight of a repetition that begins so many days after the first one.
    pub(crate) fn of(flight: &Flight, days_later: i64) -> Self {
        Self {
            scheduled: time::scheduled(flight).plus_days(days_later),
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

/// What the flights are keyed by: each flight travels once under each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

    /// Appends the key of a flight: `N14228`, `EWR`, `UA`, `UA 2013-01-01` or
    /// `EWR-IAH`. At most 23 bytes, so that a length with the suffix of a
    /// repetition fits one byte.
    pub(crate) fn write_key(self, flight: &Flight, key: &mut String) {
        match self {
            Self::Aircraft => key.push_str(flight.tailnum.as_ref().map_or("(none)", Code::as_str)),
            Self::Airport => key.push_str(flight.origin.as_str()),
            Self::Carrier => key.push_str(flight.carrier.as_str()),
            Self::CarrierDay => {
                let date = &flight.date;
                let digit = |number: u16| char::from(b'0' + (number % 10) as u8);
                let (year, month, day) = (date.year, u16::from(date.month), u16::from(date.day));
                key.push_str(flight.carrier.as_str());
                key.push(' ');
                key.extend([year / 1000, year / 100, year / 10, year].map(digit));
                key.push('-');
                key.extend([month / 10, month].map(digit));
                key.push('-');
                key.extend([day / 10, day].map(digit));
            }
            Self::Route => {
                key.push_str(flight.origin.as_str());
                key.push('-');
                key.push_str(flight.dest.as_str());
            }
        }
    }
}

/// What distinguishes the keys of one repetition from those of another.
pub(crate) fn repetition_suffix(spread: bool, repetition: u32) -> String {
    if spread { format!("#{repetition}") } else { String::new() }
}

/// The key group that a shard will put the key into: the codec of a `String`
/// writes its UTF-8 bytes and nothing else, and those are hashed.
pub(crate) fn group_of_key(key: &str, max_parallelism: MaxParallelism) -> KeyGroup {
    group_of_hash(hash_key(key.as_bytes()), max_parallelism)
}

/// Which of `shards` owns the key.
pub(crate) fn shard_of_key(key: &str, max_parallelism: MaxParallelism, shards: u32) -> usize {
    max_parallelism.subtask_of_group(group_of_key(key, max_parallelism), shards) as usize
}
