//! Event time: whole minutes, as the timetable has them, and the watermark
//! that a source makes of them.
//!
//! All times are local to New York, where all flights of the data leave. An
//! hour that is left out in spring or comes twice in autumn is not told apart.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::input::{Date, Flight};

const MINUTES_PER_HOUR: i64 = 60;
const MINUTES_PER_DAY: i64 = 24 * MINUTES_PER_HOUR;
const MS_PER_MINUTE: i64 = 60_000;

/// The watermark moves in steps of so many minutes: at each step every worker looks
/// what is due, and a finer one would tell it little more.
const WATERMARK_STEP_MINUTES: i64 = 10;

/// A minute, counted from the beginning of 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct EventTime(i64);

impl EventTime {
    /// Before every event: the watermark of a source that has read nothing.
    pub(crate) const START: Self = Self(i64::MIN);

    pub(crate) const fn from_minutes(minutes: i64) -> Self {
        Self(minutes)
    }

    /// Minutes since the beginning of 1970, as namespaces have it.
    pub(crate) const fn minutes(self) -> i64 {
        self.0
    }

    /// Milliseconds since the beginning of 1970, as timers, the clock of a shard and
    /// timely's times have it.
    pub(crate) const fn milliseconds(self) -> i64 {
        self.0.saturating_mul(MS_PER_MINUTE)
    }

    /// The minute that a time in milliseconds lies in.
    pub(crate) const fn from_milliseconds(ms: i64) -> Self {
        Self(ms.div_euclid(MS_PER_MINUTE))
    }

    /// Midnight at the beginning of a day.
    pub(crate) fn midnight(date: Date) -> Self {
        Self(days_since_1970(date) * MINUTES_PER_DAY)
    }

    #[must_use]
    pub(crate) const fn plus_minutes(self, minutes: i64) -> Self {
        Self(self.0.saturating_add(minutes))
    }

    #[must_use]
    pub(crate) const fn plus_days(self, days: i64) -> Self {
        self.plus_minutes(days.saturating_mul(MINUTES_PER_DAY))
    }

    /// The full hour at or before this minute.
    #[must_use]
    pub(crate) const fn hour(self) -> Self {
        Self(self.0 - self.0.rem_euclid(MINUTES_PER_HOUR))
    }

    /// The midnight at or before this minute.
    #[must_use]
    pub(crate) const fn day(self) -> Self {
        Self(self.0 - self.0.rem_euclid(MINUTES_PER_DAY))
    }

    /// Days from another midnight to this one.
    pub(crate) const fn days_since(self, other: Self) -> i64 {
        (self.0 - other.0) / MINUTES_PER_DAY
    }
}

impl fmt::Display for EventTime {
    /// `2013-01-01T05:15`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0.div_euclid(MINUTES_PER_DAY));
        let minute = self.0.rem_euclid(MINUTES_PER_DAY);
        if !(0..=9999).contains(&year) {
            return write!(f, "{year}-{month:02}-{day:02}T{:02}:{:02}", minute / 60, minute % 60);
        }
        // Digit by digit: every result has two, and `write!` would be felt.
        let mut text = *b"0000-00-00T00:00";
        let mut put = |at: std::ops::Range<usize>, mut number: i64| {
            for digit in text[at].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        put(0..4, year);
        put(5..7, month);
        put(8..10, day);
        put(11..13, minute / MINUTES_PER_HOUR);
        put(14..16, minute % MINUTES_PER_HOUR);
        f.write_str(std::str::from_utf8(&text).expect("digits are text"))
    }
}

/// Days from the beginning of 1970 to a date of the Gregorian calendar.
///
/// Years begin in March here, so that the day that comes and goes is their
/// last one; then the days before a month follow a straight line.
fn days_since_1970(date: Date) -> i64 {
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    // From 1 March of the year 0 to 1 January 1970.
    era * 146_097 + day_of_era - 719_468
}

/// The year, month and day of a number of days since the beginning of 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// When a flight was to leave, which is the event time of all that we do.
///
/// The table has flights in the order in which they left, by the day and the
/// minute of departure: one that left with a delay comes so much later than its
/// event time, and one that was cancelled comes at the end of its day.
pub(crate) fn scheduled(flight: &Flight) -> EventTime {
    let midnight = EventTime::midnight(flight.date);
    match (flight.departed_minute, flight.outcome.departure_delay) {
        // Not the scheduled time of that date: a flight that left after
        // midnight may have been due the day before.
        (Some(left), Some(delay)) => midnight.plus_minutes(i64::from(left) - i64::from(delay)),
        _ => midnight.plus_minutes(i64::from(flight.scheduled_minute)),
    }
}

/// Makes watermarks: "no event up to this minute is to be expected any more",
/// which is wrong for those that are later than the bound allows.
///
/// A pure function of the events before it, so that a replay from any
/// checkpoint gives every event the same watermark as the first time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watermarks {
    bound_minutes: i64,
    latest: EventTime,
}

impl Watermarks {
    /// Of a source whose latest event so far was at `latest`.
    pub(crate) fn resume(bound_minutes: i64, latest: EventTime) -> Self {
        Self { bound_minutes, latest }
    }

    /// The watermark when the latest event was at `latest`. A later event has never an
    /// earlier watermark.
    pub(crate) fn after(bound_minutes: i64, latest: EventTime) -> EventTime {
        let behind = latest.minutes() - bound_minutes;
        EventTime(behind - behind.rem_euclid(WATERMARK_STEP_MINUTES) - 1)
    }

    /// The watermark now.
    pub(crate) fn current(&self) -> EventTime {
        if self.latest == EventTime::START {
            return EventTime::START;
        }
        Self::after(self.bound_minutes, self.latest)
    }

    /// Takes an event into account.
    pub(crate) fn observe(&mut self, event: EventTime) {
        self.latest = self.latest.max(event);
    }
}
