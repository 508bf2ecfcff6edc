//! Which time something is measured by, and instants of it as numbers that
//! ascend.

use std::fmt;

/// Which time the timers of a state wait for, or the values of one live by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TimeDomain {
    /// The time of events, which advances with the watermark and never goes
    /// back.
    ///
    /// A timer at or before the watermark is refused. Values with a [time to
    /// live](crate::Ttl) age by [`Shard::advance_watermark`](crate::Shard::advance_watermark).
    Event,
    /// The time of a clock.
    ///
    /// Timers read none: the runtime says what time it is, and a timer for a
    /// time that has passed is welcome, and due at once. Values with a [time to
    /// live](crate::Ttl) age by the wall clock of the
    /// [`Env`](crate::env::Env), which may jump.
    Processing,
}

impl fmt::Display for TimeDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event => "event time",
            Self::Processing => "processing time",
        })
    }
}

/// The stamp of an instant in milliseconds: a number that orders as they do,
/// and is at least [`UNKNOWN_STAMP`].
pub(crate) fn stamp_of_ms(ms: i64) -> u64 {
    (ms as u64 ^ 1 << 63).max(UNKNOWN_STAMP)
}

/// The instant of a stamp, in milliseconds.
pub(crate) fn ms_of_stamp(stamp: u64) -> i64 {
    (stamp ^ 1 << 63) as i64
}

/// The stamp of the wall clock's milliseconds since 1970.
pub(crate) fn stamp_of_unix_ms(ms: u64) -> u64 {
    stamp_of_ms(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// The stamp of what was written at a time that is not known: before there was
/// any watermark. 0 is no stamp.
pub(crate) const UNKNOWN_STAMP: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_order_as_instants_do_and_say_them() {
        let instants = [i64::MIN + 1, -86_400_000, -1, 0, 1, 1_700_000_000_000, i64::MAX];
        assert!(instants.map(stamp_of_ms).is_sorted_by(|a, b| a < b));
        assert_eq!(instants.map(|ms| ms_of_stamp(stamp_of_ms(ms))), instants);
        assert_eq!(stamp_of_ms(i64::MIN), UNKNOWN_STAMP);
        assert_eq!(stamp_of_unix_ms(u64::MAX), stamp_of_ms(i64::MAX));
    }
}
