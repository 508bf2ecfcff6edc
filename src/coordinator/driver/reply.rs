//! An outcome that another thread owes, as in `snapshot::ticket`, once and for one reader.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::shared::Shared;
use crate::base::{Error, Result};

enum State<T> {
    /// Nothing yet; who wants to be woken.
    Owed(Option<Waker>),
    Here(Result<T>),
    Taken,
}

struct Cell<T> {
    state: Mutex<State<T>>,
    here: Condvar,
}

/// What a coordinator on a thread of its own will say to a call: it can be waited for,
/// awaited, or looked at. There is one outcome, and whoever gets it first has it.
///
/// Dropping it undoes nothing. An error that nobody waits for any more is logged.
#[must_use = "what comes of the call is told here, errors included"]
pub struct Reply<T> {
    cell: Arc<Cell<T>>,
    shared: Arc<Shared>,
}

impl<T> Reply<T> {
    /// The outcome, if it is there. Does not block.
    pub fn try_take(&self) -> Option<Result<T>> {
        let mut state = self.cell.state.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Here(outcome) => Some(outcome),
            State::Taken => Some(Err(taken())),
            owed @ State::Owed(_) => {
                *state = owed;
                None
            }
        }
    }

    /// Blocks until there is an outcome. On a [driver by hand](super::Driver::by_hand),
    /// takes its turns.
    ///
    /// # Errors
    /// Whatever came of the call; `Closed` if the coordinator ended first, with the
    /// reason. `Invalid` if nobody is there to bring an outcome: this is the driver's own
    /// thread, or a driver by hand has nothing left to do.
    pub fn wait(&self) -> Result<T> {
        loop {
            if let Some(outcome) = self.try_take() {
                return outcome;
            }
            self.shared.check_may_wait()?;
            if !self.shared.is_by_hand() {
                let mut state = self.cell.state.lock();
                if matches!(*state, State::Owed(_)) {
                    self.cell.here.wait(&mut state);
                }
            } else if !self.shared.turn() {
                return self.try_take().unwrap_or_else(|| {
                    Err(Error::invalid("nothing is left to do that would bring an outcome")
                        .at("a coordinator that is driven by hand")
                        .remedy("let shards acknowledge, or time pass, and look again"))
                });
            }
        }
    }

    /// Blocks until there is an outcome or so much time has passed; `None` then. On a
    /// driver by hand, takes turns as long as they do something.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<T>> {
        if let Err(error) = self.shared.check_may_wait() {
            return Some(self.try_take().unwrap_or(Err(error)));
        }
        if self.shared.is_by_hand() {
            while self.is_owed() && self.shared.turn() {}
        } else {
            let mut state = self.cell.state.lock();
            let is_owed = |state: &mut State<T>| matches!(state, State::Owed(_));
            self.cell.here.wait_while_for(&mut state, is_owed, timeout);
        }
        self.try_take()
    }

    fn is_owed(&self) -> bool {
        matches!(*self.cell.state.lock(), State::Owed(_))
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        {
            let mut state = self.cell.state.lock();
            if let State::Owed(waker) = &mut *state {
                *waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.try_take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_owed() { "Reply(owed)" } else { "Reply(here)" })
    }
}

fn taken() -> Error {
    Error::invalid("the outcome of this call was taken already")
}

/// The other end: who holds it owes an outcome. Dropping it without one says that the
/// coordinator ended, and why.
pub(super) struct Promise<T> {
    cell: Arc<Cell<T>>,
    shared: Arc<Shared>,
    /// What was asked for, for people.
    what: &'static str,
}

impl<T> Promise<T> {
    pub(super) fn new(shared: &Arc<Shared>, what: &'static str) -> (Self, Reply<T>) {
        let cell = Arc::new(Cell { state: Mutex::new(State::Owed(None)), here: Condvar::new() });
        let reply = Reply { cell: Arc::clone(&cell), shared: Arc::clone(shared) };
        (Self { cell, shared: Arc::clone(shared), what }, reply)
    }

    pub(super) fn keep(self, outcome: Result<T>) {
        self.settle(outcome);
    }

    fn settle(&self, outcome: Result<T>) {
        if let Err(error) = &outcome
            && Arc::strong_count(&self.cell) == 1
        {
            tracing::warn!(%error, "{} failed, and nobody waits to hear it", self.what);
        }
        let before = std::mem::replace(&mut *self.cell.state.lock(), State::Here(outcome));
        self.cell.here.notify_all();
        if let State::Owed(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let is_owed = matches!(*self.cell.state.lock(), State::Owed(_));
        if is_owed {
            self.settle(Err(self.shared.ended().at(self.what)));
        }
    }
}
