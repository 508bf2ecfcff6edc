//! What each aircraft does without a long gap: sessions that merge.
//!
//! Each flight is a window `[scheduled, scheduled + gap)` of its aircraft, and
//! windows that overlap or touch are one session: it begins with its first
//! flight and ends a gap after its last one. Flights come out of order (a
//! cancelled one at the end of its day), so one may bridge the gap between two
//! sessions that were taken for different ones.
//!
//! - The open sessions of an aircraft are one value (`session_set`): from when
//!   to when each is, and under which namespace its flights are kept.
//! - Its flights are a list in that namespace, which is the time of the flight
//!   that opened it. It stays the same while the session grows, in either
//!   direction, so nothing has to be copied then; only when sessions are
//!   bridged are the lists of the others merged into that of the first.
//! - One timer waits in the namespace of when it begins, as for windows: for
//!   its last minute, to fire it; and after that until late flights are no more
//!   allowed, to forget it. When a session changes, its timer does.

use std::fmt::Write as _;
use std::ops::ControlFlow;

use alluvium::{Error, ListState, Result, Shard, Timer, Timers, ValueState};

use super::super::departure::Departure;
use super::super::results::{Firing, Kind};
use super::super::rules::Rules;
use super::super::time::EventTime;
use super::Context;
use super::counters::{Counter, Counters};
use super::session_set::{Session, SessionSet};

/// One flight of a session: when, whether it was cancelled, its route.
type Leg = (i64, bool, String);

pub(crate) struct Sessions {
    open: ValueState<String, SessionSet>,
    flights: ListState<String, Leg, i64>,
    timers: Timers<String, i64>,
    gap_minutes: i64,
    lateness_minutes: i64,
}

impl Sessions {
    pub(super) fn register(shard: &mut Shard, rules: &Rules) -> Result<Self> {
        Ok(Self {
            open: ValueState::register(shard, "sessions")?,
            flights: ListState::register(shard, "sessions-flights")?,
            timers: Timers::event_time(shard, "sessions-timers")?,
            gap_minutes: rules.session_gap_min,
            lateness_minutes: rules.lateness_min,
        })
    }

    pub(super) fn add(
        &self,
        context: &mut Context<'_, '_>,
        counters: &Counters,
        aircraft: &String,
        flight: &Departure,
    ) -> Result<()> {
        let at = flight.scheduled.minutes();
        let until = at + self.gap_minutes;
        let now = context.watermark().minutes();
        let shard = context.shard();
        let mut open = self.open.get(shard, aircraft)?.unwrap_or_default();
        let bridged = open.take_near(at, until);

        let mut session = Session { from: at, until, flights: at };
        for old in &bridged {
            session.from = session.from.min(old.from);
            session.until = session.until.max(old.until);
        }
        let (complete, over) = self.times_of(&session);
        if over <= now {
            return counters.count(shard, aircraft, Counter::SessionDropped);
        }

        if let Some((first, others)) = bridged.split_first() {
            session.flights = first.flights;
            if !others.is_empty() {
                let lists: Vec<i64> = others.iter().map(|other| other.flights).collect();
                self.flights.merge_namespaces(shard, aircraft, &session.flights, &lists)?;
                counters.count(shard, aircraft, Counter::SessionMerge)?;
            }
        }
        let leg = (at, flight.outcome.cancelled, flight.route());
        self.flights.add_in(shard, aircraft, &session.flights, &leg)?;

        if bridged != [session] {
            for old in &bridged {
                let due = milliseconds(self.due(old, now));
                self.timers.delete_in(shard, aircraft, &old.from, due)?;
            }
            let due = milliseconds(self.due(&session, now));
            self.timers.register_in(shard, aircraft, &session.from, due)?;
            open.insert(session);
            self.open.put(shard, aircraft, &open)?;
        }
        if complete <= now {
            counters.count(shard, aircraft, Counter::SessionLate)?;
            self.say(context, aircraft, &session, Firing::Late)?;
        }
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
        let now = context.watermark().minutes();
        let (aircraft, from) = (&timer.key, timer.namespace);
        let mut open = self.open.get(context.shard(), aircraft)?.unwrap_or_default();
        let session = open.find(from).ok_or_else(|| no_session(aircraft, from))?;
        let (complete, over) = self.times_of(&session);
        if timer.timestamp == milliseconds(complete) {
            self.say(context, aircraft, &session, Firing::OnTime)?;
            if over > now {
                let over = milliseconds(over);
                self.timers.register_in(context.shard(), aircraft, &from, over)?;
                return Ok(());
            }
        }
        self.flights.clear_in(context.shard(), aircraft, &session.flights)?;
        open.remove(from);
        match open.is_empty() {
            true => self.open.delete(context.shard(), aircraft),
            false => self.open.put(context.shard(), aircraft, &open),
        }
    }

    /// When a session is complete, and when it is over for late flights too.
    fn times_of(&self, session: &Session) -> (i64, i64) {
        let complete = session.until - 1;
        (complete, complete + self.lateness_minutes)
    }

    /// What the timer of a session waits for.
    fn due(&self, session: &Session, now: i64) -> i64 {
        let (complete, over) = self.times_of(session);
        if complete > now { complete } else { over }
    }

    fn say(
        &self,
        context: &mut Context<'_, '_>,
        aircraft: &String,
        session: &Session,
        firing: Firing,
    ) -> Result<()> {
        let mut legs = self.flights.get_in(context.shard(), aircraft, &session.flights)?;
        legs.sort_unstable();
        let cancelled = legs.iter().filter(|(_, cancelled, _)| *cancelled).count();
        let mut routes = String::with_capacity(legs.len() * 8);
        for (_, _, route) in &legs {
            let space = if routes.is_empty() { "" } else { " " };
            write!(routes, "{space}{route}").expect("a String takes everything");
        }
        let from = EventTime::from_minutes(session.from);
        let until = EventTime::from_minutes(session.until);
        let flights = legs.len();
        context.say(
            Kind::Session,
            format_args!("{aircraft},{from},{until},{firing},{flights},{cancelled},{routes}"),
        );
        Ok(())
    }

    pub(super) fn left_over(&self, shard: &mut Shard) -> Result<u64> {
        let mut left = self.timers.pending(shard)?;
        left += self.open.keys(shard)?.len() as u64;
        self.flights.visit_keys(shard, |_, _| {
            left += 1;
            ControlFlow::Continue(())
        })?;
        Ok(left)
    }
}

/// The time of a timer, of minutes.
fn milliseconds(minutes: i64) -> i64 {
    EventTime::from_minutes(minutes).milliseconds()
}

fn no_session(aircraft: &str, from: i64) -> Error {
    Error::internal("a timer of a session has fired, and there is no such session")
        .at(format_args!("{aircraft} from {}", EventTime::from_minutes(from)))
        .remedy("please report it")
}
