//! The wall clock, as coarse as time to live can bear and as cheap as a load.
//!
//! Reading a clock costs 15 ns and more, and keeps the processor from
//! overlapping what is before it with what comes after: too much for every
//! operation on a record. So a thread reads it every [`PRECISION`] and leaves
//! the time where everybody can look. It begins when somebody first
//! [asks](CoarseClock::start) for it.
//!
//! Where work is driven by the caller, in simulations, there is no such thread:
//! each look reads the clock itself, so that what happens follows from the
//! calls alone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::Env;
use super::nap::{NapLength, Naps};
use crate::base::time::stamp_of_unix_ms;

/// How old the time may be that is read here; older on a machine that does not
/// let the thread run. A look takes some 25 us of a processor in all.
const PRECISION: Duration = Duration::from_millis(10);

/// What stands in the place of the time when the clock itself has to be asked.
pub(crate) const ASK: u64 = 0;

/// See the [module documentation](self).
pub(crate) struct CoarseClock {
    env: Arc<dyn Env>,
    now: Arc<AtomicU64>,
    naps: Naps,
    closed: AtomicBool,
    /// Whether there may be a thread.
    has_threads: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl CoarseClock {
    /// A clock that is asked each time, until it is [started](Self::start).
    pub(crate) fn new(env: Arc<dyn Env>, has_threads: bool) -> Arc<Self> {
        Arc::new(Self {
            env,
            now: Arc::new(AtomicU64::new(ASK)),
            naps: Naps::new(),
            closed: AtomicBool::new(false),
            has_threads,
            thread: Mutex::new(None),
        })
    }

    /// Where the time stands, as a stamp; [`ASK`] if [`read`](Self::read) has to
    /// be called.
    pub(crate) fn cell(&self) -> &Arc<AtomicU64> {
        &self.now
    }

    /// Reads the clock.
    #[cold]
    pub(crate) fn read(&self) -> u64 {
        stamp_of_unix_ms(self.env.unix_time_ms())
    }

    /// The time of the other clock, which only goes on: to see how long something took.
    pub(crate) fn monotonic_ns(&self) -> u64 {
        self.env.monotonic_ns()
    }

    /// The time, from wherever it stands.
    pub(crate) fn now(&self) -> u64 {
        match self.now.load(Ordering::Relaxed) {
            ASK => self.read(),
            now => now,
        }
    }

    /// Starts the thread, if there may be one and is none. Without it, if the
    /// system has none to give, the clock is read at each look, which is slower.
    pub(crate) fn start(self: &Arc<Self>) {
        if !self.has_threads {
            return;
        }
        let mut thread = self.thread.lock();
        if thread.is_some() {
            return;
        }
        let clock = Arc::clone(self);
        match self.env.spawn("alluvium-clock", Box::new(move || clock.run())) {
            Ok(started) => *thread = Some(started),
            Err(error) => tracing::warn!(%error, "no thread for the clock of time to live"),
        }
    }

    fn run(&self) {
        let mut nap = NapLength::up_to(PRECISION);
        while !self.closed.load(Ordering::Relaxed) {
            self.now.store(self.read(), Ordering::Relaxed);
            self.naps.nap(&mut nap, || self.closed.load(Ordering::Relaxed));
        }
        self.now.store(ASK, Ordering::Relaxed);
    }
}

impl fmt::Debug for CoarseClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoarseClock").field("now", &self.now).finish_non_exhaustive()
    }
}

/// Ends and joins the thread of a clock when it is dropped.
#[derive(Debug)]
pub(crate) struct ClockThread(pub(crate) Arc<CoarseClock>);

impl Drop for ClockThread {
    fn drop(&mut self) {
        let Self(clock) = self;
        clock.closed.store(true, Ordering::Relaxed);
        clock.naps.call_all();
        if let Some(thread) = clock.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{RealEnv, SimEnv};

    #[test]
    fn a_clock_without_a_thread_is_read_at_each_look() {
        let env = SimEnv::new(1);
        let clock = CoarseClock::new(Arc::new(env.clone()), false);
        clock.start();
        let before = clock.now();
        env.advance_ms(5);
        assert_eq!(clock.now(), before + 5);
        assert_eq!(clock.cell().load(Ordering::Relaxed), ASK);
    }

    #[test]
    fn the_thread_keeps_the_time_and_ends_when_it_is_dropped() {
        let clock = CoarseClock::new(Arc::new(RealEnv::new()), true);
        let thread = ClockThread(Arc::clone(&clock));
        clock.start();
        let cell = Arc::clone(clock.cell());
        let changes = || {
            let before = cell.load(Ordering::Relaxed);
            while cell.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
        };
        changes();
        changes();
        drop(thread);
        assert_eq!(cell.load(Ordering::Relaxed), ASK);
        assert_eq!(Arc::strong_count(&clock), 1);
    }
}
