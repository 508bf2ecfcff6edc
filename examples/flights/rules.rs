//! The rules of the job that change its results: bounds of event time, gaps,
//! how many.

use clap::Args;

/// Most minutes that can be asked for: a century.
const MAX_MINUTES: i64 = 100 * 366 * 24 * 60;

/// What a person may choose of what is computed.
#[derive(Args, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rules {
    /// Minutes by which the watermark stays behind the latest scheduled
    /// departure: a flight that comes later than that may find its window
    /// fired
    #[arg(long, value_name = "MINUTES", default_value_t = 30, value_parser = minutes(0))]
    pub(crate) out_of_orderness_min: i64,

    /// Minutes for which a window that has fired takes late flights, each of
    /// which fires it again; what comes later still is dropped and counted
    #[arg(long, value_name = "MINUTES", default_value_t = 180, value_parser = minutes(0))]
    pub(crate) lateness_min: i64,

    /// Minutes without a scheduled flight that end the session of an aircraft
    #[arg(long, value_name = "MINUTES", default_value_t = 480, value_parser = minutes(1))]
    pub(crate) session_gap_min: i64,

    /// Days of event time without a flight after which an aircraft is
    /// forgotten
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36_600))]
    pub(crate) idle_days: u32,

    /// Busiest routes that are reported for each carrier and day
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) top: u32,
}

fn minutes(least: i64) -> clap::builder::RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(least..=MAX_MINUTES)
}

impl Rules {
    /// Bytes of [`to_bytes`](Self::to_bytes).
    pub(crate) const BYTES: usize = 32;

    /// The command-line words that give these rules.
    pub(crate) fn to_words(self) -> [(&'static str, i64); 5] {
        [
            ("--out-of-orderness-min", self.out_of_orderness_min),
            ("--lateness-min", self.lateness_min),
            ("--session-gap-min", self.session_gap_min),
            ("--idle-days", self.idle_days.into()),
            ("--top", self.top.into()),
        ]
    }

    /// As the fingerprint of the job takes them: three i64 and two u32, little-endian.
    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.out_of_orderness_min.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lateness_min.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.session_gap_min.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.idle_days.to_le_bytes());
        bytes[28..].copy_from_slice(&self.top.to_le_bytes());
        bytes
    }
}
