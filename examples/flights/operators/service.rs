//! Which aircraft are in service: a value for each that expires when it has not
//! flown for long.
//!
//! An aircraft that has no value is new, or was forgotten: it is said to be in
//! service from this flight on, and a value is put. Each further flight writes
//! it, which renews its time to live.
//!
//! Time is event time, that of the watermark: what has expired when a flight
//! comes follows from the input, and not from how fast it is read. A value that
//! has expired counts no more, but stays until its aircraft flies again.

use std::ops::ControlFlow;

use alluvium::{Result, Shard, ValueState};

use super::super::departure::Departure;
use super::super::results::Kind;
use super::super::rules::Rules;
use super::super::time::{EventTime, Watermarks};
use super::Context;

const MINUTES_PER_DAY: i64 = 24 * 60;

/// In service since when (minutes), and how many flights since then.
pub(crate) type InService = (i64, u64);

pub(crate) struct Service {
    /// By aircraft: the watermark at the last flight, and the value.
    since: ValueState<String, (i64, i64, u64)>,
    ttl_minutes: i64,
    bound_minutes: i64,
    now: EventTime,
}

impl Service {
    pub(super) fn register(shard: &mut Shard, rules: &Rules) -> Result<Self> {
        Ok(Self {
            since: ValueState::register(shard, "in-service")?,
            ttl_minutes: i64::from(rules.idle_days) * MINUTES_PER_DAY,
            bound_minutes: rules.out_of_orderness_min,
            now: EventTime::START,
        })
    }

    pub(crate) fn advance(&mut self, watermark: EventTime) {
        self.now = watermark;
    }

    pub(super) fn add(
        &self,
        context: &mut Context<'_>,
        aircraft: &String,
        flight: &Departure,
    ) -> Result<()> {
        let now = self.now.minutes();
        // The first flight of all brings the first watermark.
        let first = Watermarks::resume(self.bound_minutes, flight.scheduled).current();
        let seen = if self.now == EventTime::START { first.minutes() } else { now };
        let mut is_new = false;
        self.since.update(context.shard, aircraft, |value| {
            let live = value.filter(|&(seen, _, _)| self.lives(seen));
            is_new = live.is_none();
            let (_, since, flights) = live.unwrap_or((0, flight.scheduled.minutes(), 0));
            Some((seen, since, flights + 1))
        })?;
        if is_new {
            let line = format_args!("{aircraft},{}", flight.scheduled);
            context.results.line(Kind::Service, line)?;
        }
        Ok(())
    }

    fn lives(&self, seen: i64) -> bool {
        self.now == EventTime::START || self.now.minutes() - seen < self.ttl_minutes
    }

    /// All aircraft of the shard that are in service now.
    pub(crate) fn all(&self, shard: &mut Shard) -> Result<Vec<(String, InService)>> {
        let mut aircraft = Vec::new();
        self.since.visit_keys(shard, |key, ()| {
            aircraft.push(key);
            ControlFlow::Continue(())
        })?;
        let mut all = Vec::with_capacity(aircraft.len());
        for key in aircraft {
            let value = self.since.get(shard, &key)?;
            let live = value.filter(|&(seen, _, _)| self.lives(seen));
            all.extend(live.map(|(_, since, flights)| (key, (since, flights))));
        }
        Ok(all)
    }
}
