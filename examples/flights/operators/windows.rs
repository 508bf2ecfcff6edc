//! How each airport fares each hour: tumbling windows in event time.
//!
//! A window is the hour `[from, from + 60)` of an airport; its sums live in the
//! namespace `from`, in which one timer waits as well:
//!
//! 1. for the *last minute* of the hour: the watermark says that the hour is
//!    complete, and its result is fired;
//! 2. after that for as many minutes as late flights are allowed: then the sums
//!    are cleared.
//!
//! A flight that finds its hour complete, but not cleared, is added and fires
//! the result again. One that comes after that is counted and dropped: there is
//! nothing left that it could be added to.

use std::ops::ControlFlow;

use alluvium::{Aggregate, AggregatingState, Result, Shard, Timer, Timers};

use super::super::departure::Departure;
use super::super::input::Outcome;
use super::super::results::{Firing, Kind};
use super::super::rules::Rules;
use super::super::time::EventTime;
use super::Context;
use super::counters::{Counter, Counters};
use super::totals::Totals;

const WINDOW_MINUTES: i64 = 60;

/// Adds up flights.
struct Sum;

impl Aggregate for Sum {
    type In = Outcome;
    type Acc = Totals;
    type Out = Totals;

    fn create(&self) -> Totals {
        Totals::EMPTY
    }

    fn add(&self, totals: &mut Totals, outcome: Outcome) {
        totals.add(&outcome);
    }

    fn merge(&self, into: &mut Totals, from: Totals) {
        into.merge(&from);
    }

    fn result(&self, totals: Totals) -> Totals {
        totals
    }
}

pub(crate) struct Windows {
    sums: AggregatingState<String, Sum, i64>,
    timers: Timers<String, i64>,
    lateness_minutes: i64,
}

impl Windows {
    pub(super) fn register(shard: &mut Shard, rules: &Rules) -> Result<Self> {
        Ok(Self {
            sums: AggregatingState::register(shard, "hours", Sum)?,
            timers: Timers::event_time(shard, "hours-timers")?,
            lateness_minutes: rules.lateness_min,
        })
    }

    pub(super) fn add(
        &self,
        context: &mut Context<'_, '_>,
        counters: &Counters,
        airport: &String,
        flight: &Departure,
    ) -> Result<()> {
        let from = flight.scheduled.hour();
        let (complete, over) = self.times_of(from);
        let now = context.watermark();
        if over <= now {
            return counters.count(context.shard(), airport, Counter::HourDropped);
        }
        let window = from.minutes();
        self.sums.add_in(context.shard(), airport, &window, flight.outcome)?;
        if complete <= now {
            // It may be the first flight of its hour, and have no timer yet.
            self.timers.register_in(context.shard(), airport, &window, over.milliseconds())?;
            counters.count(context.shard(), airport, Counter::HourLate)?;
            self.say(context, airport, from, Firing::Late)
        } else {
            self.timers.register_in(context.shard(), airport, &window, complete.milliseconds())?;
            Ok(())
        }
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
        let from = EventTime::from_minutes(timer.namespace);
        let (complete, over) = self.times_of(from);
        if timer.timestamp == complete.milliseconds() {
            self.say(context, &timer.key, from, Firing::OnTime)?;
            // A watermark may pass both times in one step.
            if over > context.watermark() {
                let (window, over) = (&timer.namespace, over.milliseconds());
                self.timers.register_in(context.shard(), &timer.key, window, over)?;
                return Ok(());
            }
        }
        self.sums.clear_in(context.shard(), &timer.key, &timer.namespace)
    }

    /// When a window is complete, and when it is over for late flights too.
    fn times_of(&self, from: EventTime) -> (EventTime, EventTime) {
        let complete = from.plus_minutes(WINDOW_MINUTES - 1);
        (complete, complete.plus_minutes(self.lateness_minutes))
    }

    fn say(
        &self,
        context: &mut Context<'_, '_>,
        airport: &String,
        from: EventTime,
        firing: Firing,
    ) -> Result<()> {
        let Some(sum) = self.sums.get_in(context.shard(), airport, &from.minutes())? else {
            return Ok(());
        };
        let until = from.plus_minutes(WINDOW_MINUTES);
        let Totals { flights, departure_delay_sum_minutes: delay, .. } = sum;
        let longest = sum.longest_delay_minutes;
        context.say(
            Kind::Hour,
            format_args!("{airport},{from},{until},{firing},{flights},{delay},{longest}"),
        );
        Ok(())
    }

    pub(super) fn left_over(&self, shard: &mut Shard) -> Result<u64> {
        let mut left = self.timers.pending(shard)?;
        self.sums.visit_keys(shard, |_, _| {
            left += 1;
            ControlFlow::Continue(())
        })?;
        Ok(left)
    }
}
