//! What happened how often, for each key: a reducing state of sums.
//!
//! In a state and not in a variable, so that a restart counts nothing twice.

use std::ops::ControlFlow;

use alluvium::{ReducingState, Result, Shard};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Counter {
    /// Flights that fired an hour again.
    HourLate = 1,
    /// Flights that came too late for their hour.
    HourDropped = 2,
    /// Flights that fired a session again.
    SessionLate = 3,
    /// Flights that came too late for a session.
    SessionDropped = 4,
    /// Flights that made one session of several.
    SessionMerge = 5,
    /// Flights that came too late for the routes of their day.
    RouteDropped = 6,
}

impl Counter {
    pub(crate) const ALL: [Self; 6] = [
        Self::HourLate,
        Self::HourDropped,
        Self::SessionLate,
        Self::SessionDropped,
        Self::SessionMerge,
        Self::RouteDropped,
    ];

    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::HourLate => "late for an hour",
            Self::HourDropped => "too late for an hour",
            Self::SessionLate => "late for a session",
            Self::SessionDropped => "too late for a session",
            Self::SessionMerge => "sessions merged",
            Self::RouteDropped => "too late for a day",
        }
    }
}

pub(crate) struct Counters {
    counts: ReducingState<String, u64, u8>,
}

impl Counters {
    pub(super) fn register(shard: &mut Shard) -> Result<Self> {
        let counts = ReducingState::register(shard, "counters", |a: u64, b| a + b)?;
        Ok(Self { counts })
    }

    pub(super) fn count(&self, shard: &mut Shard, key: &String, counter: Counter) -> Result<()> {
        self.counts.add_in(shard, key, &(counter as u8), 1)
    }

    /// All counts of the shard.
    pub(crate) fn all(&self, shard: &mut Shard) -> Result<Vec<(String, u8, u64)>> {
        let mut keys = Vec::new();
        self.counts.visit_keys(shard, |key, counter| {
            keys.push((key, counter));
            ControlFlow::Continue(())
        })?;
        let mut all = Vec::with_capacity(keys.len());
        for (key, counter) in keys {
            let count = self.counts.get_in(shard, &key, &counter)?.unwrap_or(0);
            all.push((key, counter, count));
        }
        Ok(all)
    }
}
