//! A coordinator on a thread of its own, for runtimes that have no loop to call it in.
//!
//! [`Coordinator`] waits for nobody and has no thread: something has to call
//! [`poll`](Coordinator::poll). A [`Driver`] does, and takes calls from any thread by
//! [handles](DriverHandle) that are cheap to clone. What comes of a call is a [`Reply`],
//! to be waited for, awaited or dropped, so that a task thread never waits for the store.
//!
//! ```
//! use std::sync::Arc;
//!
//! use alluvium::coordinator::{ClaimMode, Coordinator, Event, Participant, RestoreFrom};
//! use alluvium::env::RealEnv;
//! use alluvium::format::ShardAck;
//! use alluvium::object::MemoryStore;
//! use alluvium::{Backend, MaxParallelism, ValueState};
//!
//! # fn main() -> alluvium::Result<()> {
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! let store = Arc::new(MemoryStore::new(Arc::new(RealEnv::new())));
//! let mut coordinator = Coordinator::builder(store, "orders").open()?;
//! let restored = coordinator.restore(&RestoreFrom::Latest, ClaimMode::NoClaim)?;
//! let sink = Arc::new(coordinator.sink());
//! let backend = Backend::builder(dir.path()).sink(sink.clone()).source(sink).open()?;
//! let all = MaxParallelism::DEFAULT;
//! let handles = restored.map(|checkpoint| checkpoint.handles("count")).unwrap_or_default();
//! let mut shard = backend.shard("count", all.all_groups()).restore(handles).open()?;
//! let counts: ValueState<u64, u64> = ValueState::register(&mut shard, "counts")?;
//! coordinator.start(Participant::of_operator("count", all, 1)?)?;
//!
//! // From here on the coordinator has a thread, and handles for whoever needs it.
//! let driver = coordinator.drive()?;
//! let (control, events) = (driver.handle(), driver.handle().subscribe());
//!
//! counts.put(&mut shard, &7, &1)?;
//! let complete = control.savepoint("before-upgrade"); // the schedule's come by themselves
//! let id = loop {
//!     match events.next()? {
//!         Event::Trigger(barrier) => {
//!             let report = shard.snapshot(barrier.id, b"")?.wait()?;
//!             // Nothing waits here: if it fails, the checkpoint's own reply tells.
//!             drop(control.acknowledge(ShardAck::of(barrier.epoch, &report)));
//!         }
//!         Event::SavepointCompleted { id, .. } => break id,
//!         other => println!("{other:?}"),
//!     }
//! };
//! assert_eq!(complete.wait()?, id);
//! assert_eq!(control.stats().savepoints, 1);
//!
//! let coordinator = driver.stop()?; // `cancel` it, or drop it to go on from here later
//! assert!(coordinator.view().entry().savepoint("before-upgrade").is_some());
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - Calls of one handle are done in their order, and before anything that is asked for
//!   after they returned.
//! - Every [`Reply`] gets an outcome: if the coordinator ends first, by itself or because
//!   it was stopped, `Closed` with the reason. An error that nobody waits for is logged.
//! - If the coordinator is fenced, or anything panics on its thread, it ends: all replies,
//!   all subscribers, and [`stop`](Driver::stop) are told so, with the cause.
//! - Stopping waits for one turn at most: the calls that were handed in before, and one
//!   [`poll`](Coordinator::poll). [`stop_within`](Driver::stop_within) does not even wait
//!   for a store that hangs; dropping the driver leaves out the calls.
//!
//! On a simulated machine there are no threads: [`Driver::by_hand`] takes a
//! [turn](Driver::turn) when it is told to, or when somebody waits.

mod events;
mod reply;
mod shared;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use self::events::Events;
use self::reply::Promise;
pub use self::reply::Reply;
use self::shared::{Shared, Work, panicked};
use super::{Acknowledged, Coordinator, Participant, StopMode};
use crate::base::{Error, Result, SnapshotId};
use crate::format::checkpoint::ShardAck;
use crate::object::ObjectStore;

/// How often a coordinator that is not called looks whether something is due. A look costs
/// some microseconds, and one list of the store when requests are due.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// What a coordinator did since it got its thread, and what it is at.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct DriverStats {
    /// Which life of the job's coordinator it is.
    pub epoch: u64,
    /// Turns that were taken.
    pub turns: u64,
    /// Checkpoints and savepoints that were begun.
    pub triggered: u64,
    /// Checkpoints that were completed.
    pub completed: u64,
    /// Savepoints that were completed, also the one with which the job stopped.
    pub savepoints: u64,
    /// Checkpoints and savepoints that were given up.
    pub given_up: u64,
    /// Checkpoints and savepoints that wait for acknowledgements or for the store.
    pub under_way: usize,
    /// The checkpoint that was completed last.
    pub last_completed: Option<SnapshotId>,
    /// Why the last one was given up.
    pub last_failure: Option<String>,
    /// Number of files that are needed, as of the last event.
    pub needed_files: usize,
    /// Bytes of them.
    pub needed_bytes: u64,
    /// Why it ended, if it did by itself.
    pub ended: Option<String>,
}

impl Coordinator {
    /// Puts the coordinator on a thread of its own, which looks every 50 ms what is due.
    ///
    /// # Errors
    /// As [`Driver::start`].
    pub fn drive(self) -> Result<Driver> {
        Driver::start(self, POLL_EVERY)
    }
}

/// Owns a coordinator and its thread; see the [module documentation](self).
///
/// Dropping it ends the coordinator after the call to the store that is under way; what was
/// asked for and not begun is answered with `Closed`.
#[derive(Debug)]
pub struct Driver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts the thread, `alluvium-coordinator`, in the coordinator's own environment. It
    /// sleeps for `poll_every` when nobody calls, at least a millisecond: checkpoints begin
    /// so much later than their schedule says.
    ///
    /// # Errors
    /// `Unavailable` if the system has no thread to give.
    pub fn start(coordinator: Coordinator, poll_every: Duration) -> Result<Self> {
        let env = Arc::clone(&coordinator.env);
        let poll_every = poll_every.max(Duration::from_millis(1));
        let shared = Shared::new(coordinator, false, poll_every);
        let runs = Arc::clone(&shared);
        let thread = env
            .spawn("alluvium-coordinator", Box::new(move || runs.run()))
            .map_err(|error| Error::io("cannot start the thread of a coordinator", error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A driver without a thread: whoever calls [`turn`](Self::turn), or waits for a reply
    /// or an event, does the work.
    pub fn by_hand(coordinator: Coordinator) -> Self {
        Self { shared: Shared::new(coordinator, true, POLL_EVERY), thread: None }
    }

    /// What calls come from. Any number of threads may have one.
    pub fn handle(&self) -> DriverHandle {
        DriverHandle { shared: Arc::clone(&self.shared) }
    }

    /// Does what was asked for and what is due; says whether anything came of it. The
    /// thread does so by itself; to call this beside it does no harm.
    pub fn turn(&self) -> bool {
        self.shared.turn()
    }

    /// Ends the coordinator after what was asked for by now, and gives it back: to
    /// [cancel](Coordinator::cancel) the job, or to be dropped, so that the job goes on
    /// later. Checkpoints that are under way are not waited for: their replies say
    /// `Closed`. To stop with a savepoint, [ask](DriverHandle::stop_with_savepoint) for it
    /// and wait for that before.
    ///
    /// # Errors
    /// What ended it, if it ended by itself: `Closed` if another coordinator has taken
    /// over, `Internal` if something panicked.
    pub fn stop(mut self) -> Result<Coordinator> {
        self.shared.stop(false);
        self.end(None)
    }

    /// As [`stop`](Self::stop), but waits for so long at most. The thread then ends by
    /// itself, when the store or the call that it waits for has come back.
    ///
    /// # Errors
    /// As `stop`; `Unavailable` if the time did not suffice. What was asked for may happen
    /// yet.
    pub fn stop_within(mut self, patience: Duration) -> Result<Coordinator> {
        self.shared.stop(false);
        self.end(Some(patience))
    }

    fn end(&mut self, patience: Option<Duration>) -> Result<Coordinator> {
        if self.shared.is_by_hand() {
            self.shared.check_may_wait()?;
            self.shared.turn();
        }
        let outcome = self.shared.outcome(patience);
        let thread = self.thread.take();
        if self.shared.has_ended() {
            join(thread);
        }
        outcome
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.shared.is_by_hand() {
            self.shared.stop(true);
            if self.shared.check_may_wait().is_ok() {
                self.shared.turn();
            }
        } else if let Some(thread) = self.thread.take() {
            self.shared.stop(true);
            join(Some(thread));
        }
        // Else it was told to stop before, and does what it was asked for until then.
    }
}

/// Waits for a thread, unless it is this one.
fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.thread().id() != thread::current().id()
    {
        // It catches what panics and tells.
        let _ = thread.join();
    }
}

/// Calls a coordinator that has a thread of its own. Cheap to clone; any thread may have
/// one. No call blocks.
#[derive(Clone)]
pub struct DriverHandle {
    shared: Arc<Shared>,
}

impl DriverHandle {
    /// Begins a checkpoint now, whatever the schedule says. The reply comes when it is
    /// complete, or was given up.
    ///
    /// Errors: as [`Coordinator::trigger`]; `Unavailable` with the reason if it was given
    /// up.
    pub fn trigger(&self) -> Reply<SnapshotId> {
        self.begin("a checkpoint", Coordinator::trigger)
    }

    /// Begins a savepoint of this name now. The reply comes when it is complete, or was
    /// given up.
    ///
    /// Errors: as [`Coordinator::savepoint`]; `Unavailable` with the reason if it was given
    /// up.
    pub fn savepoint(&self, name: impl Into<String>) -> Reply<SnapshotId> {
        let name = name.into();
        self.begin("a savepoint", move |coordinator| coordinator.savepoint(&name))
    }

    /// Begins a savepoint of this name that the shards put straight into another place. The
    /// reply comes when it is complete, or was given up. The place is waited for on the
    /// coordinator's thread.
    ///
    /// Errors: as [`Coordinator::savepoint_into`]; `Unavailable` with the reason if it was
    /// given up.
    pub fn savepoint_into(
        &self,
        name: impl Into<String>,
        place: impl Into<String>,
        store: Arc<dyn ObjectStore>,
    ) -> Reply<SnapshotId> {
        let (name, place) = (name.into(), place.into());
        self.begin("a savepoint in another place", move |coordinator| {
            coordinator.savepoint_into(&name, &place, store)
        })
    }

    /// Ends the job with a savepoint of this name. The reply comes when it is complete; the
    /// coordinator is [stopped](Driver::stop) after that, or goes on if it was given up.
    ///
    /// Errors: as [`Coordinator::stop`]; `Unavailable` with the reason if it was given up.
    pub fn stop_with_savepoint(
        &self,
        name: impl Into<String>,
        mode: StopMode,
    ) -> Reply<SnapshotId> {
        let name = name.into();
        self.begin("a last savepoint", move |coordinator| coordinator.stop(&name, mode))
    }

    /// Gives what a shard says of its part of a checkpoint; see
    /// [`Coordinator::acknowledge`].
    pub fn acknowledge(&self, ack: ShardAck) -> Reply<Acknowledged> {
        self.ask("an acknowledgement", move |coordinator| coordinator.acknowledge(ack))
    }

    /// Says that a shard cannot take part in a checkpoint; see [`Coordinator::decline`].
    pub fn decline(&self, id: SnapshotId, shard: &Participant, reason: &str) -> Reply<()> {
        let (shard, reason) = (shard.clone(), reason.to_owned());
        self.ask("a refusal", move |coordinator| {
            coordinator.decline(id, &shard, &reason);
            Ok(())
        })
    }

    /// Attaches what the runtime needs to go on from a checkpoint; see
    /// [`Coordinator::set_runtime_data`]. It counts if it was handed in before the last
    /// acknowledgement.
    pub fn set_runtime_data(&self, id: SnapshotId, data: Vec<u8>) -> Reply<()> {
        self.ask("the runtime's data", move |coordinator| coordinator.set_runtime_data(id, data))
    }

    /// Does anything with the coordinator, on its thread, and gives back what came of it.
    /// Checkpoints wait meanwhile. If it panics the coordinator ends: nobody could say what
    /// state it is in.
    pub fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Coordinator) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        self.ask("a call", call)
    }

    /// Listens to what the runtime is told from now on. Whoever listens first hears also
    /// what was told before. One listener should act on [`Trigger`](super::Event::Trigger).
    pub fn subscribe(&self) -> Events {
        self.shared.hub.subscribe(Arc::clone(&self.shared))
    }

    /// What it did and is at, as of its last turn. Does not wait for it.
    pub fn stats(&self) -> DriverStats {
        self.shared.stats.lock().clone()
    }

    fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl FnOnce(&mut Coordinator) -> Result<T> + Send + 'static,
    ) -> Reply<T> {
        let (promise, reply) = Promise::new(&self.shared, what);
        self.shared.call(Box::new(move |work: &mut Work| {
            match catch_unwind(AssertUnwindSafe(|| call(&mut work.coordinator))) {
                Ok(outcome) => promise.keep(outcome),
                Err(panic) => {
                    promise.keep(Err(panicked(&*panic)));
                    // It ends the coordinator.
                    resume_unwind(panic);
                }
            }
        }));
        reply
    }

    fn begin(
        &self,
        what: &'static str,
        begin: impl FnOnce(&mut Coordinator) -> Result<SnapshotId> + Send + 'static,
    ) -> Reply<SnapshotId> {
        let (promise, reply) = Promise::new(&self.shared, what);
        self.shared.call(Box::new(move |work: &mut Work| match begin(&mut work.coordinator) {
            Ok(id) => drop(work.waiting.insert(id, promise)),
            Err(error) => promise.keep(Err(error)),
        }));
        reply
    }
}

impl fmt::Debug for DriverHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DriverHandle({:?})", self.shared)
    }
}
