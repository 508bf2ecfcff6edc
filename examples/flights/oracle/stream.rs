//! Windows, sessions, days and aircraft, over all repetitions of the file.
//!
//! A flight's watermark is worked out from the flights before it. What happened
//! to a window since it was last looked at (it became complete, it was given
//! up) follows from that, when the next flight of its key comes, or at the end.

use std::collections::{BTreeMap, HashMap};

use alluvium::base::Result;

use super::super::cli::JobOptions;
use super::super::input::{Flight, FlightReader};
use super::super::results::Kind;
use super::calendar::{self, Calendar};

const DAY: i64 = 1440;

/// What is there when all has been read.
#[derive(Default)]
pub(crate) struct End {
    /// By what is counted and the key of whoever counts.
    pub(crate) counts: BTreeMap<(&'static str, String), u64>,
    /// Cancelled flights by airport and midnight.
    pub(crate) cancelled: BTreeMap<(String, String), u64>,
    /// Aircraft in service: since when, and how many flights since then.
    pub(crate) in_service: BTreeMap<String, (String, u64)>,
}

/// Works out every result and gives it to `say` with its kind and key; the
/// order of the results of a key is not that of the job.
pub(crate) fn answer(options: &JobOptions, say: &mut dyn FnMut(Kind, &str, &str)) -> Result<End> {
    let mut plain = Plain {
        lateness: options.rules.lateness_min,
        gap: options.rules.session_gap_min,
        idle: i64::from(options.rules.idle_days) * DAY,
        top: options.rules.top as usize,
        first_watermark: None,
        calendar: Calendar::default(),
        hours: HashMap::new(),
        sessions: HashMap::new(),
        days: HashMap::new(),
        aircraft: HashMap::new(),
        end: End::default(),
        say,
    };
    let mut latest: Option<i64> = None;
    let bound = options.rules.out_of_orderness_min;
    let watermark_of = |latest: i64| (latest - bound).div_euclid(10) * 10 - 1;
    // Each repetition begins where the one before it ended; how long one is is
    // known after the first.
    let (mut first_day, mut last_day, mut days_before) = (i64::MAX, i64::MIN, 0);
    for repetition in 0..options.repeat {
        let suffix = if options.spread { format!("#{repetition}") } else { String::new() };
        let mut reader = FlightReader::open(&options.input)?;
        while let Some(flight) = reader.next()? {
            let day = calendar::day_number(flight.date);
            (first_day, last_day) = (first_day.min(day), last_day.max(day));
            let due = calendar::due(&flight) + days_before * DAY;
            plain.flight(&flight, &suffix, due, latest.map(watermark_of));
            latest = latest.max(Some(due));
            plain.first_watermark = plain.first_watermark.or(latest.map(watermark_of));
        }
        days_before += last_day - first_day + 1;
        // Only so that it does not pile up.
        plain.settle(latest.map_or(i64::MIN, watermark_of));
    }
    plain.settle(i64::MAX);
    Ok(plain.finish(latest.map_or(i64::MIN, watermark_of)))
}

/// An airport's hour.
#[derive(Default)]
struct Hour {
    flights: u64,
    delay: i64,
    longest: Option<i64>,
    is_said: bool,
}

struct Session {
    from: i64,
    until: i64,
    legs: Vec<(i64, bool, String)>,
    is_said: bool,
}

struct Plain<'a> {
    lateness: i64,
    gap: i64,
    idle: i64,
    top: usize,
    first_watermark: Option<i64>,
    calendar: Calendar,
    hours: HashMap<(String, i64), Hour>,
    sessions: HashMap<String, Vec<Session>>,
    days: HashMap<(String, i64), BTreeMap<String, u64>>,
    /// The watermark when it last flew, if there was one, since when, flights.
    aircraft: HashMap<String, (Option<i64>, i64, u64)>,
    end: End,
    say: &'a mut dyn FnMut(Kind, &str, &str),
}

impl Plain<'_> {
    fn flight(&mut self, flight: &Flight, suffix: &str, due: i64, watermark: Option<i64>) {
        let airport = format!("{}{suffix}", flight.origin);
        let carrier = format!("{}{suffix}", flight.carrier);
        let route = format!("{}-{}", flight.origin, flight.dest);
        let cancelled = flight.outcome.cancelled;
        let now = watermark.unwrap_or(i64::MIN);
        if let Some(tailnum) = &flight.tailnum {
            let aircraft = format!("{tailnum}{suffix}");
            self.session(&aircraft, (due, cancelled, route.clone()), now);
            if !cancelled {
                self.in_service(aircraft, due, watermark);
            }
        }
        if cancelled {
            let midnight = self.calendar.text(due.div_euclid(DAY) * DAY);
            *self.end.cancelled.entry((airport, midnight)).or_default() += 1;
            return;
        }
        let delay = flight.outcome.departure_delay.map(i64::from);
        let arrival = flight.outcome.arrival_delay.map(i64::from);
        self.hour(airport, due, delay, delay.max(arrival), now);
        self.day(carrier, due, route, now);
    }

    fn count(&mut self, what: &'static str, key: &str) {
        *self.end.counts.entry((what, key.to_owned())).or_default() += 1;
    }

    fn hour(
        &mut self,
        airport: String,
        due: i64,
        delay: Option<i64>,
        longest: Option<i64>,
        now: i64,
    ) {
        let from = due.div_euclid(60) * 60;
        let last = from + 59;
        if last + self.lateness <= now {
            return self.count("too late for an hour", &airport);
        }
        let is_late = last <= now;
        let key = (airport, from);
        if is_late {
            self.say_hour(&key, "on time");
            self.count("late for an hour", &key.0);
        }
        let hour = self.hours.entry(key.clone()).or_default();
        hour.flights += 1;
        hour.delay += delay.unwrap_or(0);
        hour.longest = hour.longest.max(longest);
        hour.is_said = false;
        if is_late {
            self.say_hour(&key, "late");
        }
    }

    /// Says an hour, unless there is nothing new to say of it.
    fn say_hour(&mut self, key: &(String, i64), when: &str) {
        let Some(hour) = self.hours.get_mut(key).filter(|hour| !hour.is_said) else { return };
        hour.is_said = true;
        let (airport, from) = key;
        let (start, end) = (self.calendar.text(*from), self.calendar.text(from + 60));
        let Hour { flights, delay, longest, .. } = hour;
        let longest = longest.unwrap_or(i64::from(i32::MIN));
        let line = format!("hour,{airport},{start},{end},{when},{flights},{delay},{longest}");
        (self.say)(Kind::Hour, airport, &line);
    }

    fn session(&mut self, aircraft: &str, leg: (i64, bool, String), now: i64) {
        self.settle_sessions(aircraft, now);
        let mut sessions = self.sessions.remove(aircraft).unwrap_or_default();
        let (at, until) = (leg.0, leg.0 + self.gap);
        let is_near = |other: &Session| at <= other.until && other.from <= until;
        let from = sessions.iter().filter(|s| is_near(s)).map(|s| s.from).fold(at, i64::min);
        let until = sessions.iter().filter(|s| is_near(s)).map(|s| s.until).fold(until, i64::max);
        if until - 1 + self.lateness <= now {
            self.count("too late for a session", aircraft);
        } else {
            let is_late = until - 1 <= now;
            let (near, mut rest): (Vec<_>, Vec<_>) = sessions.into_iter().partition(is_near);
            if near.len() > 1 {
                self.count("sessions merged", aircraft);
            }
            let mut legs: Vec<_> = near.into_iter().flat_map(|session| session.legs).collect();
            legs.push(leg);
            legs.sort();
            let session = Session { from, until, legs, is_said: is_late };
            if is_late {
                self.count("late for a session", aircraft);
                self.say_session(aircraft, &session, "late");
            }
            rest.push(session);
            sessions = rest;
        }
        self.sessions.insert(aircraft.to_owned(), sessions);
    }

    /// Says the sessions of an aircraft that are complete, and gives up those
    /// that are over.
    fn settle_sessions(&mut self, aircraft: &str, now: i64) {
        let Some(mut sessions) = self.sessions.remove(aircraft) else { return };
        for session in &mut sessions {
            if session.until - 1 <= now && !session.is_said {
                session.is_said = true;
                self.say_session(aircraft, session, "on time");
            }
        }
        sessions.retain(|session| now < (session.until - 1).saturating_add(self.lateness));
        if !sessions.is_empty() {
            self.sessions.insert(aircraft.to_owned(), sessions);
        }
    }

    fn say_session(&mut self, aircraft: &str, session: &Session, when: &str) {
        let (from, until) = (self.calendar.text(session.from), self.calendar.text(session.until));
        let flights = session.legs.len();
        let cancelled = session.legs.iter().filter(|leg| leg.1).count();
        let routes: Vec<&str> = session.legs.iter().map(|leg| leg.2.as_str()).collect();
        let routes = routes.join(" ");
        let line =
            format!("session,{aircraft},{from},{until},{when},{flights},{cancelled},{routes}");
        (self.say)(Kind::Session, aircraft, &line);
    }

    fn day(&mut self, carrier: String, due: i64, route: String, now: i64) {
        let midnight = due.div_euclid(DAY) * DAY;
        if midnight + DAY - 1 + self.lateness <= now {
            return self.count("too late for a day", &carrier);
        }
        let routes = self.days.entry((carrier, midnight)).or_default();
        *routes.entry(route).or_default() += 1;
    }

    fn in_service(&mut self, aircraft: String, due: i64, watermark: Option<i64>) {
        let known = self.aircraft.get(&aircraft).copied();
        // What was written before there was a watermark has the first one.
        let known = known.filter(|(flew, _, _)| {
            let flew = flew.or(self.first_watermark);
            watermark.zip(flew).is_none_or(|(now, flew)| now - flew < self.idle)
        });
        let (_, since, flights) = known.unwrap_or((None, due, 0));
        if known.is_none() {
            let line = format!("service,{aircraft},{}", self.calendar.text(due));
            (self.say)(Kind::Service, &aircraft, &line);
        }
        self.aircraft.insert(aircraft, (watermark, since, flights + 1));
    }

    /// Says all that is complete at a watermark, and gives up what is over.
    fn settle(&mut self, now: i64) {
        let complete: Vec<_> =
            self.hours.keys().filter(|(_, from)| from + 59 <= now).cloned().collect();
        for key in complete {
            self.say_hour(&key, "on time");
            if key.1 + 59 + self.lateness <= now {
                self.hours.remove(&key);
            }
        }
        let aircraft: Vec<String> = self.sessions.keys().cloned().collect();
        for aircraft in aircraft {
            self.settle_sessions(&aircraft, now);
        }
        let over = |midnight: i64, lateness: i64| midnight + DAY - 1 + lateness <= now;
        let days: Vec<_> =
            self.days.keys().filter(|(_, day)| over(*day, self.lateness)).cloned().collect();
        for key in days {
            let mut routes: Vec<(String, u64)> =
                self.days.remove(&key).into_iter().flatten().collect();
            routes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            routes.truncate(self.top);
            let routes: Vec<String> =
                routes.iter().map(|(route, flights)| format!("{route} {flights}")).collect();
            let (carrier, midnight) = key;
            let (from, until) = (self.calendar.text(midnight), self.calendar.text(midnight + DAY));
            let line = format!("routes,{carrier},{from},{until},on time,{}", routes.join(";"));
            (self.say)(Kind::Routes, &carrier, &line);
        }
    }

    fn finish(mut self, now: i64) -> End {
        for (aircraft, (flew, since, flights)) in self.aircraft {
            if flew.or(self.first_watermark).is_some_and(|flew| now - flew < self.idle) {
                let since = self.calendar.text(since);
                self.end.in_service.insert(aircraft, (since, flights));
            }
        }
        self.end
    }
}
