//! Loom's primitives with the shape that the engine's own `env::sync` has.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;
use std::time::Duration;

use loom::sync::atomic::{AtomicUsize, Ordering};

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

    /// Loom has no time. Usually this waits for the signal, however long that
    /// takes, and a model that needs the time to run out finds a deadlock: all
    /// that must happen at once has to happen in such a model. Within
    /// [`with_naps_that_end`] it never hears the signal, and the time is over
    /// when the others have gone on for a while.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
        if NAPS_END.get() {
            drop(guard.guard.take().expect("a guard waits in one place"));
            loom::thread::yield_now();
            guard.guard = Some(lock(&guard.mutex.0));
        } else {
            self.wait(guard);
        }
    }
}

/// A queue without locks, as weak as the real one may be: a look may miss what
/// another thread has pushed, unless something else orders the two; whoever
/// takes an item sees what its push made ready.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// All that loom sees. It changes together with `items`, since loom
    /// interrupts a thread only before it touches a primitive of loom's.
    len: AtomicUsize,
    items: std::sync::Mutex<VecDeque<T>>,
    /// Whether anything was ever pushed. Of a queue that was never used there
    /// is one thing to see, and a model is spared the ways to see it.
    used: std::sync::atomic::AtomicBool,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            len: AtomicUsize::new(0),
            items: std::sync::Mutex::default(),
            used: std::sync::atomic::AtomicBool::new(false),
        }
    }

    fn items(&self) -> std::sync::MutexGuard<'_, VecDeque<T>> {
        self.items.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn push(&self, item: T) {
        self.len.fetch_add(1, Ordering::Release);
        self.items().push_back(item);
        self.used.store(true, Ordering::Relaxed);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        if !self.used.load(Ordering::Relaxed) {
            return None;
        }
        let less = |len: usize| len.checked_sub(1);
        self.len.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).ok()?;
        self.items().pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.used.load(Ordering::Relaxed) || self.len.load(Ordering::Acquire) == 0
    }
}

thread_local! {
    // All threads of a model run on the thread of its test.
    static LEAKY_WAITS: Cell<bool> = const { Cell::new(false) };
    static NAPS_END: Cell<bool> = const { Cell::new(false) };
}

/// Runs models while every wait gives its lock away for a moment before it
/// listens, as careless code would. A model that passes nevertheless does not
/// look for lost wake-ups.
pub fn with_leaky_waits(models: impl FnOnce()) {
    with(&LEAKY_WAITS, models);
}

/// Runs models in which every wait with a limit comes to that limit, and no
/// signal ends it. Otherwise none does, and only the signal helps.
pub fn with_naps_that_end(models: impl FnOnce()) {
    with(&NAPS_END, models);
}

fn with(switch: &'static LocalKey<Cell<bool>>, models: impl FnOnce()) {
    struct Reset(&'static LocalKey<Cell<bool>>);
    impl Drop for Reset {
        fn drop(&mut self) {
            self.0.set(false);
        }
    }
    let _reset = Reset(switch);
    switch.set(true);
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
