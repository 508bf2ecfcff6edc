//! Flights that never left, by airport and day: a reducing state that nothing
//! fires or clears.

use std::ops::ControlFlow;

use alluvium::{ReducingState, Result, Shard};

use super::super::departure::Departure;
use super::super::time::EventTime;

pub(crate) struct Cancelled {
    by_day: ReducingState<String, u64, i64>,
}

impl Cancelled {
    pub(super) fn register(shard: &mut Shard) -> Result<Self> {
        Ok(Self { by_day: ReducingState::register(shard, "cancelled", |a: u64, b| a + b)? })
    }

    pub(super) fn add(
        &self,
        shard: &mut Shard,
        airport: &String,
        flight: &Departure,
    ) -> Result<()> {
        self.by_day.add_in(shard, airport, &flight.scheduled.day().minutes(), 1)
    }

    /// All counts of the shard: airport, midnight, flights.
    pub(crate) fn all(&self, shard: &mut Shard) -> Result<Vec<(String, EventTime, u64)>> {
        let mut keys = Vec::new();
        self.by_day.visit_keys(shard, |airport, day| {
            keys.push((airport, day));
            ControlFlow::Continue(())
        })?;
        let mut all = Vec::with_capacity(keys.len());
        for (airport, day) in keys {
            let count = self.by_day.get_in(shard, &airport, &day)?.unwrap_or(0);
            all.push((airport, EventTime::from_minutes(day), count));
        }
        Ok(all)
    }
}
