//! What is added up of flights: six running numbers in 44 bytes.
//!
//! ```text
//! | flights u64 | cancelled u64 | departure delay i64 | arrival delay i64 | miles u64 | longest i32 |
//! ```
//!
//! All of them are little-endian. The length never changes, so Alluvium
//! updates them where they lie.
//!
//! The rules, which the oracle repeats in its own words:
//!
//! 1. Every flight counts as a flight.
//! 2. A flight without a departure time was cancelled: it counts as such, and
//!    adds neither delay nor miles.
//! 3. A delay that is not known adds nothing.
//! 4. The longest delay is taken over departures and arrivals alike.

use alluvium::base::Result;
use alluvium::codec::{Codec, CodecId, HasCodec, decode_exact};

use super::super::input::Outcome;

/// Bytes of all of them.
const ENCODED_BYTES: usize = 44;

/// The running numbers of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Totals {
    pub(crate) flights: u64,
    pub(crate) cancelled: u64,
    pub(crate) departure_delay_sum_minutes: i64,
    pub(crate) arrival_delay_sum_minutes: i64,
    pub(crate) miles: u64,
    /// [`NO_DELAY`](Self::NO_DELAY) as long as no delay is known.
    pub(crate) longest_delay_minutes: i32,
}

impl Totals {
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
    pub(crate) fn add(&mut self, outcome: &Outcome) {
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

    /// Adds up what two groups of flights have.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.flights += other.flights;
        self.cancelled += other.cancelled;
        self.departure_delay_sum_minutes += other.departure_delay_sum_minutes;
        self.arrival_delay_sum_minutes += other.arrival_delay_sum_minutes;
        self.miles += other.miles;
        self.longest_delay_minutes = self.longest_delay_minutes.max(other.longest_delay_minutes);
    }
}

impl HasCodec for Totals {
    type Codec = TotalsCodec;
}

/// Writes the layout drawn above.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct TotalsCodec;

impl TotalsCodec {
    const NAME: &str = "flights.Totals";
}

impl Codec<Totals> for TotalsCodec {
    // Spares every access a guard.
    const MAY_PANIC: bool = false;

    fn id(&self) -> CodecId {
        CodecId::new(Self::NAME, 1)
    }

    #[inline]
    fn encode(&self, value: &Totals, out: &mut Vec<u8>) -> Result<()> {
        let mut bytes = [0; ENCODED_BYTES];
        bytes[..8].copy_from_slice(&value.flights.to_le_bytes());
        bytes[8..16].copy_from_slice(&value.cancelled.to_le_bytes());
        bytes[16..24].copy_from_slice(&value.departure_delay_sum_minutes.to_le_bytes());
        bytes[24..32].copy_from_slice(&value.arrival_delay_sum_minutes.to_le_bytes());
        bytes[32..40].copy_from_slice(&value.miles.to_le_bytes());
        bytes[40..].copy_from_slice(&value.longest_delay_minutes.to_le_bytes());
        out.extend_from_slice(&bytes);
        Ok(())
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<Totals> {
        let bytes: [u8; ENCODED_BYTES] = decode_exact(Self::NAME, bytes)?;
        let eight = |at: usize| bytes[at..at + 8].try_into().expect("eight bytes");
        Ok(Totals {
            flights: u64::from_le_bytes(eight(0)),
            cancelled: u64::from_le_bytes(eight(8)),
            departure_delay_sum_minutes: i64::from_le_bytes(eight(16)),
            arrival_delay_sum_minutes: i64::from_le_bytes(eight(24)),
            miles: u64::from_le_bytes(eight(32)),
            longest_delay_minutes: i32::from_le_bytes(bytes[40..].try_into().expect("four bytes")),
        })
    }

    #[inline]
    fn fixed_len(&self) -> Option<usize> {
        Some(ENCODED_BYTES)
    }
}
