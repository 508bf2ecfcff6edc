//! What is kept for each key: six running numbers in 44 bytes.
//!
//! The rules, which the oracle repeats in its own words:
//!
//! 1. Every flight counts as a flight.
//! 2. A flight without a departure time was cancelled: it counts as such, and
//!    adds neither delay nor miles.
//! 3. A delay that is not known adds nothing.
//! 4. The longest delay is taken over departures and arrivals alike.

use super::input::Outcome;

/// The running numbers of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Aggregate {
    pub(crate) flights: u64,
    pub(crate) cancelled: u64,
    pub(crate) departure_delay_sum_minutes: i64,
    pub(crate) arrival_delay_sum_minutes: i64,
    pub(crate) miles: u64,
    /// [`NO_DELAY`](Self::NO_DELAY) as long as no delay is known.
    pub(crate) longest_delay_minutes: i32,
}

impl Aggregate {
    /// Below every delay that a record can carry.
    pub(crate) const NO_DELAY: i32 = i32::MIN;

    /// Of no flights.
    pub(crate) const EMPTY: Self = Self {
        flights: 0,
        cancelled: 0,
        departure_delay_sum_minutes: 0,
        arrival_delay_sum_minutes: 0,
        miles: 0,
        longest_delay_minutes: Self::NO_DELAY,
    };

    /// Takes in one more flight.
    pub(crate) fn apply(&mut self, outcome: &Outcome) {
        self.flights += 1;
        if outcome.cancelled {
            self.cancelled += 1;
            return;
        }
        self.miles += u64::from(outcome.miles);
        if let Some(minutes) = outcome.departure_delay {
            self.departure_delay_sum_minutes += i64::from(minutes);
            self.longest_delay_minutes = self.longest_delay_minutes.max(i32::from(minutes));
        }
        if let Some(minutes) = outcome.arrival_delay {
            self.arrival_delay_sum_minutes += i64::from(minutes);
            self.longest_delay_minutes = self.longest_delay_minutes.max(i32::from(minutes));
        }
    }
}
