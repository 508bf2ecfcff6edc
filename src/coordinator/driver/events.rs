//! What a coordinator on a thread of its own tells its runtime, to everybody who listens.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crossbeam_channel::{self as channel, Receiver, Sender, TryRecvError};
use parking_lot::Mutex;

use super::shared::Shared;
use crate::base::{Error, Result};
use crate::coordinator::Event;

/// Events that are kept while nobody listens; the oldest go.
const MOST_UNHEARD: usize = 4_096;

/// What is told, in order; each subscriber hears everything from the moment on at which
/// it [subscribed](super::DriverHandle::subscribe), the first one everything.
///
/// Nothing is thrown away: a subscriber that does not listen lets a few hundred bytes
/// for each checkpoint pile up.
pub struct Events {
    heard: Receiver<Event>,
    shared: Arc<Shared>,
}

impl Events {
    /// The next event, if there is one. Does not block.
    ///
    /// # Errors
    /// `Closed` if the coordinator has ended and there is nothing more to hear, with the
    /// reason.
    pub fn try_next(&self) -> Result<Option<Event>> {
        match self.heard.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(self.shared.ended()),
        }
    }

    /// Blocks until there is an event. On a [driver by hand](super::Driver::by_hand),
    /// takes its turns.
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next); `Invalid` as [`Reply::wait`](super::Reply::wait).
    pub fn next(&self) -> Result<Event> {
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            self.shared.check_may_wait()?;
            if !self.shared.is_by_hand() {
                return self.heard.recv().map_err(|_| self.shared.ended());
            }
            if !self.shared.turn() && self.heard.is_empty() && !self.shared.has_ended() {
                return Err(Error::invalid("nothing is left to do that would bring an event")
                    .at("a coordinator that is driven by hand")
                    .remedy("let shards acknowledge, or time pass, and look again"));
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Events({} to hear)", self.heard.len())
    }
}

/// Tells everybody.
#[derive(Default)]
pub(super) struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    listeners: Vec<Sender<Event>>,
    unheard: VecDeque<Event>,
    has_ended: bool,
}

impl Hub {
    pub(super) fn subscribe(&self, shared: Arc<Shared>) -> Events {
        let (teller, heard) = channel::unbounded();
        let mut inner = self.inner.lock();
        for event in inner.unheard.drain(..) {
            let _ = teller.send(event);
        }
        if !inner.has_ended {
            inner.listeners.push(teller);
        }
        Events { heard, shared }
    }

    pub(super) fn tell(&self, event: Event) {
        let mut inner = self.inner.lock();
        inner.listeners.retain(|listener| listener.send(event.clone()).is_ok());
        if inner.listeners.is_empty() {
            if inner.unheard.len() == MOST_UNHEARD {
                inner.unheard.pop_front();
                tracing::warn!("nobody listens to a coordinator; the oldest event was dropped");
            }
            inner.unheard.push_back(event);
        }
    }

    /// Nothing more will be told.
    pub(super) fn end(&self) {
        let mut inner = self.inner.lock();
        inner.has_ended = true;
        inner.listeners.clear();
    }
}
