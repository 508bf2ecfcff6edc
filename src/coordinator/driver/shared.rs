//! What the driver's thread and its handles have in common, and a turn of it.
//!
//! ```text
//! handles ---- calls ----> inbox ---- a turn ----> coordinator
//!         <--- replies ---                          |
//!         <--- events ------------------------------+
//! ```
//!
//! Whoever takes a turn has the coordinator to itself: the thread, or on a driver by hand
//! whoever asks for one. No lock is held while somebody else's code runs but that one.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::DriverStats;
use super::events::Hub;
use super::reply::Promise;
use crate::base::{Error, Result, SnapshotId};
use crate::coordinator::{Coordinator, Event};

/// Something to do with the coordinator.
pub(super) type Call = Box<dyn FnOnce(&mut Work) + Send>;

/// What a turn works on.
pub(super) struct Work {
    pub(super) coordinator: Coordinator,
    /// Who waits for the end of a checkpoint.
    pub(super) waiting: BTreeMap<SnapshotId, Promise<SnapshotId>>,
}

/// How far its life is.
enum Life {
    Runs,
    /// What was asked for by now is done, and nothing more.
    Stops,
    /// Nothing more is done.
    Dies,
    /// It is over.
    Over,
}

struct Inbox {
    calls: VecDeque<Call>,
    life: Life,
}

/// What became of the coordinator.
enum End {
    NotYet,
    Stopped(Option<Box<Coordinator>>),
    Failed(Error),
}

pub(super) struct Shared {
    by_hand: bool,
    poll_every: Duration,
    inbox: Mutex<Inbox>,
    /// There is a call, or an end.
    called: Condvar,
    work: Mutex<Option<Work>>,
    /// Who takes a turn at the moment.
    turning: Mutex<Option<ThreadId>>,
    end: Mutex<End>,
    ended: Condvar,
    pub(super) hub: Hub,
    pub(super) stats: Mutex<DriverStats>,
}

impl Shared {
    pub(super) fn new(coordinator: Coordinator, by_hand: bool, poll_every: Duration) -> Arc<Self> {
        let (needed_files, needed_bytes) = coordinator.files();
        let stats = DriverStats {
            epoch: coordinator.epoch(),
            needed_files,
            needed_bytes,
            ..DriverStats::default()
        };
        Arc::new(Self {
            by_hand,
            poll_every,
            inbox: Mutex::new(Inbox { calls: VecDeque::new(), life: Life::Runs }),
            called: Condvar::new(),
            work: Mutex::new(Some(Work { coordinator, waiting: BTreeMap::new() })),
            turning: Mutex::new(None),
            end: Mutex::new(End::NotYet),
            ended: Condvar::new(),
            hub: Hub::default(),
            stats: Mutex::new(stats),
        })
    }

    pub(super) fn is_by_hand(&self) -> bool {
        self.by_hand
    }

    /// Hands in a call. It is dropped, and with it what it promised, if there is nobody any
    /// more to do it.
    pub(super) fn call(&self, call: Call) {
        let mut inbox = self.inbox.lock();
        let refused = match inbox.life {
            Life::Runs => {
                inbox.calls.push_back(call);
                None
            }
            Life::Stops | Life::Dies | Life::Over => Some(call),
        };
        drop(inbox);
        self.called.notify_all();
        // Not under the lock: a promise wakes whoever waits for it.
        drop(refused);
    }

    /// Nobody may wait for what only itself could bring.
    pub(super) fn check_may_wait(&self) -> Result<()> {
        if *self.turning.lock() != Some(thread::current().id()) {
            return Ok(());
        }
        Err(Error::invalid("a coordinator cannot wait for itself")
            .at("a call that runs on the driver's thread")
            .remedy("give the reply to another thread, or use the coordinator that is at hand"))
    }

    pub(super) fn has_ended(&self) -> bool {
        !matches!(*self.end.lock(), End::NotYet)
    }

    /// What is said to whoever still wants something.
    pub(super) fn ended(&self) -> Error {
        let error = Error::closed("the coordinator has ended");
        match &*self.end.lock() {
            End::Failed(why) => {
                error.source(why.to_string()).remedy("open a new one, and restore the job")
            }
            End::NotYet | End::Stopped(_) => error.found("it was stopped"),
        }
    }

    /// The thread.
    pub(super) fn run(&self) {
        while !self.has_ended() {
            self.turn();
            let mut inbox = self.inbox.lock();
            if inbox.calls.is_empty() && matches!(inbox.life, Life::Runs) {
                self.called.wait_for(&mut inbox, self.poll_every);
            }
        }
    }

    /// Does what was asked for, and what is due. Says whether anything came of it.
    pub(super) fn turn(&self) -> bool {
        let mut place = self.work.lock();
        let Some(mut work) = place.take() else { return false };
        *self.turning.lock() = Some(thread::current().id());
        let (calls, stops, dies) = {
            let mut inbox = self.inbox.lock();
            let dies = matches!(inbox.life, Life::Dies);
            let stops = dies || matches!(inbox.life, Life::Stops);
            (std::mem::take(&mut inbox.calls), stops, dies)
        };
        let mut did = !calls.is_empty() || stops;
        let mut calls = calls.into_iter();
        let turned = catch_unwind(AssertUnwindSafe(|| {
            if dies {
                return Ok(());
            }
            calls.by_ref().for_each(|call| call(&mut work));
            work.coordinator.poll()
        }));
        let turned = turned.unwrap_or_else(|panic| Err(panicked(&*panic)));
        did |= self.tell(&mut work);
        *self.turning.lock() = None;
        match turned {
            Ok(()) if !stops => *place = Some(work),
            Ok(()) => self.finish(work, None),
            Err(error) => self.finish(work, Some(error)),
        }
        drop(place);
        // Calls behind one that panicked hear of it when it is known.
        drop(calls);
        did || !matches!(*self.end.lock(), End::NotYet)
    }

    /// Tells what happened, to who waits for it and to who listens.
    fn tell(&self, work: &mut Work) -> bool {
        let mut any = false;
        let mut stats = self.stats.lock().clone();
        stats.turns += 1;
        while let Some(event) = work.coordinator.next_event() {
            any = true;
            match &event {
                Event::Completed(id) => {
                    stats.completed += 1;
                    stats.last_completed = Some(*id);
                    work.settle(*id, Ok(*id));
                }
                Event::SavepointCompleted { id, .. } | Event::Stopped { id, .. } => {
                    stats.savepoints += 1;
                    work.settle(*id, Ok(*id));
                }
                Event::Aborted { id, reason } => {
                    stats.given_up += 1;
                    stats.last_failure = Some(reason.clone());
                    let error = Error::unavailable("the checkpoint was given up")
                        .at(format_args!("checkpoint {id}"))
                        .found(reason)
                        .remedy("the job goes on; trigger another");
                    work.settle(*id, Err(error));
                }
                Event::Trigger(_) => stats.triggered += 1,
                Event::TooManyFailures(_) => {}
            }
            self.hub.tell(event);
        }
        stats.under_way = work.coordinator.under_way().count();
        if any {
            (stats.needed_files, stats.needed_bytes) = work.coordinator.files();
        }
        *self.stats.lock() = stats;
        any
    }

    /// Ends it all: everybody who waits is told.
    fn finish(&self, work: Work, error: Option<Error>) {
        let Work { coordinator, waiting } = work;
        if let Some(error) = &error {
            tracing::error!(%error, "a coordinator has ended");
            self.stats.lock().ended = Some(error.to_string());
        }
        *self.end.lock() = match error {
            Some(error) => End::Failed(error),
            None => End::Stopped(Some(Box::new(coordinator))),
        };
        let left = {
            let mut inbox = self.inbox.lock();
            inbox.life = Life::Over;
            std::mem::take(&mut inbox.calls)
        };
        self.ended.notify_all();
        self.called.notify_all();
        self.hub.end();
        drop((waiting, left));
    }

    /// Has it end: after what was asked for by now, or at once.
    pub(super) fn stop(&self, at_once: bool) {
        let dropped = {
            let mut inbox = self.inbox.lock();
            if !matches!(inbox.life, Life::Over) {
                inbox.life = if at_once { Life::Dies } else { Life::Stops };
            }
            if at_once { std::mem::take(&mut inbox.calls) } else { VecDeque::new() }
        };
        self.called.notify_all();
        drop(dropped);
    }

    /// Waits until it has ended, at most so long; gives the coordinator to the first who
    /// asks.
    ///
    /// # Errors
    /// What ended it, if that was not asked for; `Unavailable` if it has not ended.
    pub(super) fn outcome(&self, patience: Option<Duration>) -> Result<Coordinator> {
        let mut end = self.end.lock();
        let goes_on = |end: &mut End| matches!(end, End::NotYet);
        match patience {
            None => self.ended.wait_while(&mut end, goes_on),
            Some(patience) => {
                self.ended.wait_while_for(&mut end, goes_on, patience);
            }
        }
        match &mut *end {
            End::NotYet => Err(Error::unavailable("the coordinator has not ended yet")
                .found("a call to its store, or one of the runtime, that takes long")
                .remedy("it ends by itself after that; open no other one before if you can")
                .ambiguous()),
            End::Stopped(coordinator) => match coordinator.take() {
                Some(coordinator) => Ok(*coordinator),
                None => Err(Error::closed("the coordinator has ended")),
            },
            End::Failed(error) => {
                let copy = Error::new(error.kind(), &*error);
                Err(if error.may_have_happened() { copy.ambiguous() } else { copy })
            }
        }
    }
}

impl Work {
    fn settle(&mut self, id: SnapshotId, outcome: Result<SnapshotId>) {
        if let Some(promise) = self.waiting.remove(&id) {
            promise.keep(outcome);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("stats", &*self.stats.lock()).finish_non_exhaustive()
    }
}

/// What somebody said when he panicked.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal("a call panicked on the thread of the coordinator")
        .found(text.unwrap_or("a panic without words"))
        .remedy("open a new coordinator, and restore the job")
}
