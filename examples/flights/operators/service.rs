//! Which aircraft are in service: a value for each that expires when it has not
//! flown for long.
//!
//! An aircraft that has no value is new, or was forgotten: it is said to be in
//! service from this flight on, and a value is put. Each further flight writes
//! it, which renews its time to live.
//!
//! It lives by event time, which is the watermark: what has expired when a
//! flight comes follows from the input, and not from how fast it is read. And
//! nothing has to be done for it: no timer, no clearing.

use std::ops::ControlFlow;
use std::time::Duration;

use alluvium::{Result, Shard, StateOptions, TimeDomain, Ttl, ValueState};

use super::super::departure::Departure;
use super::super::results::Kind;
use super::super::rules::Rules;
use super::Context;

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// In service since when (minutes), and how many flights since then.
pub(crate) type InService = (i64, u64);

pub(crate) struct Service {
    by_aircraft: ValueState<String, InService>,
}

impl Service {
    pub(super) fn register(shard: &mut Shard, rules: &Rules) -> Result<Self> {
        let idle = Duration::from_secs(u64::from(rules.idle_days) * SECONDS_PER_DAY);
        let ttl = Ttl::after(idle).time(TimeDomain::Event);
        let options = StateOptions::new("in-service").ttl(ttl);
        Ok(Self { by_aircraft: ValueState::register(shard, options)? })
    }

    pub(super) fn add(
        &self,
        context: &mut Context<'_, '_>,
        aircraft: &String,
        flight: &Departure,
    ) -> Result<()> {
        let mut is_new = false;
        self.by_aircraft.update(context.shard(), aircraft, |value| {
            is_new = value.is_none();
            let (since, flights) = value.unwrap_or((flight.scheduled.minutes(), 0));
            Some((since, flights + 1))
        })?;
        if is_new {
            let line = format_args!("{aircraft},{}", flight.scheduled);
            context.say(Kind::Service, line);
        }
        Ok(())
    }

    /// All aircraft of the shard that are in service.
    pub(crate) fn all(&self, shard: &mut Shard) -> Result<Vec<(String, InService)>> {
        let mut aircraft = Vec::new();
        self.by_aircraft.visit_keys(shard, |key, ()| {
            aircraft.push(key);
            ControlFlow::Continue(())
        })?;
        let mut all = Vec::with_capacity(aircraft.len());
        for key in aircraft {
            let value = self.by_aircraft.get(shard, &key)?;
            all.extend(value.map(|value| (key, value)));
        }
        Ok(all)
    }
}
