//! Loom's primitives with the shape that the engine's own `env::sync` has.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// A lock without poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, guard: Some(lock(&self.0)) }
    }
}

fn lock<T>(mutex: &loom::sync::Mutex<T>) -> loom::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Empty only while it is waiting.
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    guard: Option<loom::sync::MutexGuard<'a, T>>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("nobody looks while it waits")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("nobody looks while it waits")
    }
}

/// A signal that waits with a borrowed guard.
#[derive(Debug)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self(loom::sync::Condvar::new())
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let mut held = guard.guard.take().expect("a guard waits in one place");
        if LEAKY_WAITS.get() {
            drop(held);
            held = lock(&guard.mutex.0);
        }
        let woken = self.0.wait(held).unwrap_or_else(std::sync::PoisonError::into_inner);
        guard.guard = Some(woken);
    }

    /// Loom has no time: this waits for the signal, and a model that needs the
    /// time to run out finds a deadlock.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
        self.wait(guard);
    }
}

thread_local! {
    // All threads of a model run on the thread of its test.
    static LEAKY_WAITS: Cell<bool> = const { Cell::new(false) };
}

/// Runs models while every wait gives its lock away for a moment before it
/// listens, as careless code would. A model that passes nevertheless does not
/// look for lost wake-ups.
pub fn with_leaky_waits(models: impl FnOnce()) {
    struct Mended;
    impl Drop for Mended {
        fn drop(&mut self) {
            LEAKY_WAITS.set(false);
        }
    }
    let _mended = Mended;
    LEAKY_WAITS.set(true);
    models();
}

/// Opens after a number of events, for the threads of a model to wait at.
#[derive(Debug)]
pub struct Gate {
    missing: Mutex<usize>,
    opened: Condvar,
}

impl Gate {
    /// A gate that opens at the last of `events`.
    pub fn new(events: usize) -> Self {
        Self { missing: Mutex::new(events), opened: Condvar::new() }
    }

    /// One event less is missing.
    ///
    /// # Panics
    /// If none was missing.
    pub fn arrive(&self) {
        let mut missing = self.missing.lock();
        *missing = missing.checked_sub(1).expect("no more events than were expected");
        drop(missing);
        self.opened.notify_all();
    }

    /// Blocks until the gate is open.
    pub fn wait(&self) {
        let mut missing = self.missing.lock();
        while *missing > 0 {
            self.opened.wait(&mut missing);
        }
    }
}
