//! Where background threads sleep that look for work by themselves.
//!
//! To wake a sleeping thread is a system call and an interrupt to another
//! processor: 5 to 40 us on a virtual machine, far more than a barrier may
//! stop a task thread. So a thread that finds nothing to do does not sleep for
//! good. It *naps*, and looks again; who must not be held up leaves work where
//! the thread will look, and tells nobody. Who waits for that work can afford
//! to [call](Naps::call_one), which ends a nap at once.
//!
//! A nap is short after work and doubles with every look that found nothing,
//! up to a limit. A look of a thread that has slept costs some 25 us in all,
//! the timer and the switches included, so a nap of 16 ms takes 0.16 % of a
//! processor.
//!
//! A call is never lost: who calls after having left work is heard by a thread
//! that is napping, and one that is about to nap sees the work.

use std::fmt;
use std::time::Duration;

use super::sync::{Condvar, Mutex};

/// The nap after work: there is often more. Long enough that sleeping and
/// waking (some 10 us) stay small beside it.
const SHORTEST: Duration = Duration::from_micros(250);
/// See the [module documentation](self). For one kind of work, and any number
/// of threads.
pub(super) struct Naps {
    /// Held from the last look for work until the sleep has begun, so that no
    /// call falls between the two. Never held for longer.
    falling_asleep: Mutex<()>,
    call: Condvar,
}

impl Naps {
    pub(super) fn new() -> Self {
        Self { falling_asleep: Mutex::new(()), call: Condvar::new() }
    }

    /// Sleeps for a nap or until called; not at all if `anything_to_do`.
    pub(super) fn nap(&self, length: &mut NapLength, anything_to_do: impl FnOnce() -> bool) {
        let mut falling_asleep = self.falling_asleep.lock();
        if !anything_to_do() {
            self.call.wait_for(&mut falling_asleep, length.next());
        }
    }

    /// Ends the nap of one thread, if there is one.
    pub(super) fn call_one(&self) {
        drop(self.falling_asleep.lock());
        self.call.notify_one();
    }

    /// Ends every nap.
    pub(super) fn call_all(&self) {
        drop(self.falling_asleep.lock());
        self.call.notify_all();
    }
}

impl fmt::Debug for Naps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Naps")
    }
}

/// How long the next nap of one thread is.
#[derive(Debug)]
pub(super) struct NapLength {
    next: Duration,
    longest: Duration,
}

impl NapLength {
    pub(super) fn up_to(longest: Duration) -> Self {
        Self { next: SHORTEST, longest }
    }

    /// The thread has worked: its next nap is short.
    pub(super) fn has_worked(&mut self) {
        self.next = SHORTEST;
    }

    fn next(&mut self) -> Duration {
        let length = self.next;
        self.next = (length * 2).min(self.longest);
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_grow_while_there_is_nothing_to_do_and_are_short_after_work() {
        let longest = Duration::from_millis(10);
        let mut length = NapLength::up_to(longest);
        let naps: Vec<_> = std::iter::repeat_with(|| length.next()).take(64).collect();
        assert_eq!(naps[0], SHORTEST);
        assert!(naps.is_sorted());
        assert_eq!(naps.last(), Some(&longest));
        length.has_worked();
        assert_eq!(length.next(), SHORTEST);
    }

    #[test]
    fn nobody_naps_who_has_something_to_do() {
        let mut length = NapLength::up_to(Duration::from_millis(10));
        Naps::new().nap(&mut length, || true);
        assert_eq!(length.next(), SHORTEST, "no nap was taken from it");
    }
}
