//! The busiest routes of each carrier and day: a map from route to flights.
//!
//! The map of a day lives in the namespace of its midnight. One timer waits for
//! the last minute of the day, and so many more as late flights are allowed:
//! then the map is read, its busiest entries are fired, and it is cleared. So
//! each day is fired once, late flights included.

use std::ops::{Bound, ControlFlow};

use alluvium::{MapState, Result, Shard, Timer, Timers};

use super::super::departure::Departure;
use super::super::results::{Firing, Kind};
use super::super::rules::Rules;
use super::super::time::EventTime;
use super::Context;
use super::counters::{Counter, Counters};

pub(crate) struct Routes {
    flights: MapState<String, String, u64, i64>,
    timers: Timers<String, i64>,
    lateness_minutes: i64,
    top: usize,
}

impl Routes {
    pub(super) fn register(shard: &mut Shard, rules: &Rules) -> Result<Self> {
        Ok(Self {
            flights: MapState::register(shard, "routes")?,
            timers: Timers::event_time(shard, "routes-timers")?,
            lateness_minutes: rules.lateness_min,
            top: rules.top as usize,
        })
    }

    pub(super) fn add(
        &self,
        context: &mut Context<'_, '_>,
        counters: &Counters,
        carrier: &String,
        flight: &Departure,
    ) -> Result<()> {
        let day = flight.scheduled.day();
        let over = self.over(day);
        if over <= context.watermark() {
            return counters.count(context.shard(), carrier, Counter::RouteDropped);
        }
        let (day, route) = (day.minutes(), flight.route());
        let shard = context.shard();
        let flights = self.flights.get_in(shard, carrier, &day, &route)?.unwrap_or(0);
        self.flights.put_in(shard, carrier, &day, &route, &(flights + 1))?;
        self.timers.register_in(shard, carrier, &day, over.milliseconds())?;
        Ok(())
    }

    /// Fires all that is due.
    pub(super) fn advance(&self, context: &mut Context<'_, '_>) -> Result<()> {
        let now = context.watermark().milliseconds();
        while let Some(timer) = self.timers.pop_due(context.shard(), now)? {
            self.fire(context, &timer)?;
        }
        Ok(())
    }

    pub(crate) fn timers(&self) -> &Timers<String, i64> {
        &self.timers
    }

    /// Does what a timer has waited for.
    pub(crate) fn fire(
        &self,
        context: &mut Context<'_, '_>,
        timer: &Timer<String, i64>,
    ) -> Result<()> {
        let (carrier, day) = (&timer.key, EventTime::from_minutes(timer.namespace));
        // At most `top` at a time, the busiest first; of equally busy ones
        // the first by name, which is how the scan brings them.
        let mut busiest: Vec<(String, u64)> = Vec::with_capacity(self.top + 1);
        let all = Bound::Unbounded;
        self.flights.scan_in(
            context.shard(),
            carrier,
            &timer.namespace,
            all,
            |route, flights| {
                let rank = busiest.partition_point(|(_, more)| *more >= flights);
                busiest.insert(rank, (route, flights));
                busiest.truncate(self.top);
                ControlFlow::Continue(())
            },
        )?;
        let until = day.plus_days(1);
        let list: Vec<String> =
            busiest.iter().map(|(route, flights)| format!("{route} {flights}")).collect();
        context.say(
            Kind::Routes,
            format_args!("{carrier},{day},{until},{},{}", Firing::OnTime, list.join(";")),
        );
        self.flights.clear_in(context.shard(), carrier, &timer.namespace)
    }

    /// The last minute at which a day takes flights.
    fn over(&self, day: EventTime) -> EventTime {
        day.plus_days(1).plus_minutes(self.lateness_minutes - 1)
    }

    pub(super) fn left_over(&self, shard: &mut Shard) -> Result<u64> {
        let mut left = self.timers.pending(shard)?;
        self.flights.visit_keys(shard, |_, _| {
            left += 1;
            ControlFlow::Continue(())
        })?;
        Ok(left)
    }
}
