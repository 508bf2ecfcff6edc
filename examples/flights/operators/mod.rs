//! What is computed, each operator with its states and timers.
//!
//! | operator | keyed by | keeps | says |
//! | --- | --- | --- | --- |
//! | `aggregates` | aircraft; route; carrier and day | running totals in value states | nothing: they are read at the end |
//! | `windows` | airport | hourly sums in an aggregating state, event-time timers | each hour when the watermark has passed it, and again for each late flight |
//! | `sessions` | aircraft | open sessions in a value state, their flights in a list state that is merged, timers | each session when it is over, and again if it changes |
//! | `routes` | carrier | flights of each route of a day in a map state, timers | the busiest routes of each day |
//! | `service` | aircraft | a value state that lives by event time | each aircraft that is new, or back after it was forgotten |
//! | `cancelled` | airport | a reducing state for each day | nothing |
//! | `counters` | the key of whoever counts | a reducing state | nothing |
//!
//! An operator sees the flights of a key in the order of the input, each with
//! the watermark that the source had when it read the flight, and its timers
//! fire before a flight that they are due before. So what it does follows from
//! the input alone, whatever else happens at what time: that is what makes a
//! replay give the same results, and lets them be compared.

mod aggregates;
mod cancelled;
mod counters;
mod routes;
mod service;
mod session_set;
mod sessions;
mod totals;
mod windows;

use std::fmt;

use alluvium::{Result, Shard};

pub(crate) use self::aggregates::Grouping;
pub(crate) use self::counters::Counter;
#[allow(unused_imports, reason = "the tests look at the codecs")]
pub(crate) use self::session_set::{SessionSet, SessionSetCodec};
#[allow(unused_imports, reason = "the tests look at the codecs")]
pub(crate) use self::totals::{Totals, TotalsCodec};

use super::departure::{Departure, KeyedBy};
use super::results::{self, Kind};
use super::rules::Rules;
use super::time::EventTime;

/// Timely's context, with lines of results as what is sent on.
type Inner<'a> = alluvium_timely::Context<'a, Shard, String>;

/// What an operator works with: the shard, what time it is, where results go.
pub(crate) struct Context<'a, 'b> {
    inner: &'a mut Inner<'b>,
    watermark: EventTime,
}

impl<'a, 'b> From<&'a mut Inner<'b>> for Context<'a, 'b> {
    /// That of a timer that fires since the frontier has passed it.
    fn from(inner: &'a mut Inner<'b>) -> Self {
        let watermark = inner.watermark().map_or(EventTime::START, EventTime::from_milliseconds);
        Self { inner, watermark }
    }
}

impl Context<'_, '_> {
    fn shard(&mut self) -> &mut Shard {
        self.inner.store()
    }

    /// Up to which time, itself included, timers have fired.
    fn watermark(&self) -> EventTime {
        self.watermark
    }

    /// Says a result.
    fn say(&mut self, kind: Kind, rest: fmt::Arguments<'_>) {
        self.inner.emit(results::line(kind, rest));
    }
}

/// All operators of one shard.
pub(crate) struct Operators {
    pub(crate) aggregates: aggregates::Aggregates,
    pub(crate) windows: windows::Windows,
    pub(crate) sessions: sessions::Sessions,
    pub(crate) routes: routes::Routes,
    pub(crate) service: service::Service,
    pub(crate) cancelled: cancelled::Cancelled,
    pub(crate) counters: counters::Counters,
    /// Up to which flights have brought it.
    watermark: EventTime,
}

impl Operators {
    /// Registers all states, new or restored.
    pub(crate) fn register(shard: &mut Shard, rules: &Rules) -> Result<Self> {
        Ok(Self {
            aggregates: aggregates::Aggregates::register(shard)?,
            windows: windows::Windows::register(shard, rules)?,
            sessions: sessions::Sessions::register(shard, rules)?,
            routes: routes::Routes::register(shard, rules)?,
            service: service::Service::register(shard, rules)?,
            cancelled: cancelled::Cancelled::register(shard)?,
            counters: counters::Counters::register(shard)?,
            watermark: EventTime::START,
        })
    }

    /// Takes in a flight under one of its keys.
    pub(crate) fn process(
        &mut self,
        inner: &mut Inner<'_>,
        by: KeyedBy,
        key: &String,
        flight: &Departure,
    ) -> Result<()> {
        let context = &mut Context { inner, watermark: flight.watermark };
        if flight.watermark > self.watermark {
            self.watermark = flight.watermark;
            self.advance(context)?;
        }
        let counters = &self.counters;
        let was_flown = !flight.outcome.cancelled;
        match by {
            KeyedBy::Aircraft => {
                let shard = context.shard();
                self.aggregates.add(shard, Grouping::Aircraft, key, &flight.outcome)?;
                if flight.has_aircraft {
                    self.sessions.add(context, counters, key, flight)?;
                    if was_flown {
                        self.service.add(context, key, flight)?;
                    }
                }
                Ok(())
            }
            KeyedBy::Airport if was_flown => self.windows.add(context, counters, key, flight),
            KeyedBy::Airport => self.cancelled.add(context.shard(), key, flight),
            KeyedBy::Carrier if was_flown => self.routes.add(context, counters, key, flight),
            KeyedBy::Carrier => Ok(()),
            KeyedBy::CarrierDay => {
                self.aggregates.add(context.shard(), Grouping::CarrierDay, key, &flight.outcome)
            }
            KeyedBy::Route => {
                self.aggregates.add(context.shard(), Grouping::Route, key, &flight.outcome)
            }
        }
    }

    /// The watermark has advanced: what lives by event time ages, and the timers that are
    /// due fire.
    fn advance(&mut self, context: &mut Context<'_, '_>) -> Result<()> {
        context.shard().advance_watermark(self.watermark.milliseconds());
        self.windows.advance(context)?;
        self.sessions.advance(context)?;
        self.routes.advance(context)
    }

    /// What is still kept of windows, sessions and days, timers included: none
    /// at the end of the input.
    pub(crate) fn left_over(&self, shard: &mut Shard) -> Result<u64> {
        Ok(self.windows.left_over(shard)?
            + self.sessions.left_over(shard)?
            + self.routes.left_over(shard)?)
    }
}
