//! Whether the processes of a job still hear each other.
//!
//! A process that dies takes its connections along, and timely ends the others. A machine
//! that loses its power or its network says nothing: its connections stay open, and all the
//! others wait, for hours if need be. So processes send each other beats, which travel like
//! all other messages.
//!
//! Promises that a process is missed only if it was heard of before: one that still builds
//! its dataflow, and perhaps restores for long, does not beat yet. And that nobody is missed
//! because this process slept itself: what counts is the time in which it listened.

use std::time::Duration;

/// Beats in the time after which a process is missed.
const BEATS: u32 = 8;
/// The longest time from one beat to the next.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Watch {
    limit: Duration,
    /// By process, since when it was not heard of; nothing if it never was.
    silent: Vec<Option<Duration>>,
    looked_ns: u64,
}

impl Watch {
    /// For so many processes, of which each is missed after so long a silence.
    pub(crate) fn new(processes: usize, limit: Duration, now_ns: u64) -> Self {
        Self { limit, silent: vec![None; processes], looked_ns: now_ns }
    }

    /// After which one beats, and looks, again.
    pub(crate) fn interval(&self) -> Duration {
        (self.limit / BEATS).min(LONGEST_INTERVAL)
    }

    /// A process was heard of.
    pub(crate) fn hear(&mut self, process: usize) {
        if let Some(silent) = self.silent.get_mut(process) {
            *silent = Some(Duration::ZERO);
        }
    }

    /// A process that is missed, and for how long it was silent.
    pub(crate) fn look(&mut self, now_ns: u64) -> Option<(usize, Duration)> {
        let listened = Duration::from_nanos(now_ns.saturating_sub(self.looked_ns));
        let listened = listened.min(self.interval() * 2);
        self.looked_ns = now_ns;
        let silent = self.silent.iter_mut().enumerate();
        silent
            .filter_map(|(process, silent)| {
                let silent = silent.as_mut()?;
                *silent += listened;
                (*silent > self.limit).then_some((process, *silent))
            })
            .next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_process_is_missed_after_a_silence_and_not_before_it_was_heard_of() {
        let mut watch = Watch::new(3, Duration::from_secs(40), 0);
        watch.hear(1);
        for second in 1..=40 {
            assert_eq!(watch.look(second * SECOND_NS), None);
        }
        assert_eq!(watch.look(41 * SECOND_NS), Some((1, Duration::from_secs(41))));
        watch.hear(1);
        assert_eq!(watch.look(42 * SECOND_NS), None);
    }

    #[test]
    fn a_process_that_slept_misses_nobody_before_it_has_listened() {
        let mut watch = Watch::new(2, Duration::from_secs(40), 0);
        watch.hear(1);
        // Ten minutes of sleep, twice, and then what lay in the inbox.
        for _ in 0..2 {
            assert_eq!(watch.look(watch.looked_ns + 600 * SECOND_NS), None);
        }
        watch.hear(1);
        assert_eq!(watch.look(watch.looked_ns + SECOND_NS), None);
    }
}
