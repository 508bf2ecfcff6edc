//! Days and minutes, counted by going through the calendar.

use std::collections::HashMap;

use super::super::input::{Date, Flight};

const LENGTHS: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
const DAY: i64 = 1440;

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_length(year: i64, month: usize) -> i64 {
    LENGTHS[month] + i64::from(month == 1 && is_leap(year))
}

/// Days from the first day of the year 1 to that of another year.
fn days_before_year(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

/// Days from the first day of the year 1; a day past the end of its month
/// counts on.
pub(super) fn day_number(date: Date) -> i64 {
    let year = i64::from(date.year);
    let months = (0..usize::from(date.month) - 1).map(|month| month_length(year, month));
    days_before_year(year) + months.sum::<i64>() + i64::from(date.day) - 1
}

/// When a flight was to leave, in minutes from the first day of the year 1.
pub(super) fn due(flight: &Flight) -> i64 {
    let day = day_number(flight.date) * DAY;
    if let (Some(left), Some(delay)) = (flight.departed_minute, flight.outcome.departure_delay) {
        return day + i64::from(left) - i64::from(delay);
    }
    day + i64::from(flight.scheduled_minute)
}

/// Minutes as text; the days are remembered, since most come often.
#[derive(Default)]
pub(super) struct Calendar {
    days: HashMap<i64, String>,
}

impl Calendar {
    /// `2013-01-01T05:15`.
    pub(super) fn text(&mut self, minute: i64) -> String {
        let (day, minute) = (minute.div_euclid(DAY), minute.rem_euclid(DAY));
        let day = self.days.entry(day).or_insert_with(|| {
            let mut year = day / 366 + 1;
            while days_before_year(year + 1) <= day {
                year += 1;
            }
            let mut left = day - days_before_year(year);
            let mut month = 0;
            while left >= month_length(year, month) {
                left -= month_length(year, month);
                month += 1;
            }
            format!("{year:04}-{:02}-{:02}", month + 1, left + 1)
        });
        format!("{day}T{:02}:{:02}", minute / 60, minute % 60)
    }
}
