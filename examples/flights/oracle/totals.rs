//! Running totals: one pass over the file into ordered maps.

use std::collections::BTreeMap;
use std::path::Path;

use alluvium::base::Result;

use super::super::input::FlightReader;

/// What a key must have at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) total: u64,
    pub(crate) flown: u64,
    pub(crate) minutes_late_leaving: i64,
    pub(crate) minutes_late_arriving: i64,
    pub(crate) worst_minutes: Option<i64>,
    pub(crate) miles_flown: u64,
}

impl Expected {
    /// The same after `n` readings of the same flights under the same key.
    pub(crate) fn times(self, n: u32) -> Self {
        let n = u64::from(n);
        Self {
            total: self.total * n,
            flown: self.flown * n,
            minutes_late_leaving: self.minutes_late_leaving * n as i64,
            minutes_late_arriving: self.minutes_late_arriving * n as i64,
            worst_minutes: self.worst_minutes,
            miles_flown: self.miles_flown * n,
        }
    }
}

/// The answer for each key of each operator.
#[derive(Default)]
pub(crate) struct PlainTotals {
    pub(crate) flights: u64,
    pub(crate) by_aircraft: BTreeMap<String, Expected>,
    pub(crate) by_route: BTreeMap<String, Expected>,
    pub(crate) by_carrier_day: BTreeMap<String, Expected>,
}

impl PlainTotals {
    /// Reads the file once.
    pub(crate) fn single_pass(path: &Path) -> Result<Self> {
        let mut plain = Self::default();
        let mut reader = FlightReader::open(path)?;
        while let Some(flight) = reader.next()? {
            plain.flights += 1;
            let aircraft =
                flight.tailnum.map_or_else(|| "(none)".to_owned(), |tailnum| tailnum.to_string());
            let route = format!("{}-{}", flight.origin, flight.dest);
            let day = &flight.date;
            let carrier_day =
                format!("{} {:04}-{:02}-{:02}", flight.carrier, day.year, day.month, day.day);

            let what = &flight.outcome;
            let leaving = what.departure_delay.map(i64::from);
            let arriving = what.arrival_delay.map(i64::from);
            let flown = u64::from(!what.cancelled);
            for entry in [
                plain.by_aircraft.entry(aircraft).or_default(),
                plain.by_route.entry(route).or_default(),
                plain.by_carrier_day.entry(carrier_day).or_default(),
            ] {
                entry.total += 1;
                entry.flown += flown;
                entry.minutes_late_leaving += leaving.unwrap_or(0);
                entry.minutes_late_arriving += arriving.unwrap_or(0);
                // `None` orders below every known delay.
                entry.worst_minutes = entry.worst_minutes.max(leaving).max(arriving);
                entry.miles_flown += flown * u64::from(what.miles);
            }
        }
        Ok(plain)
    }
}
