//! Checkpoints of a whole job, for runtimes that have no coordinator of their own.
//!
//! The engine makes snapshots of shards. That those of all shards together are a
//! *completed checkpoint*, from which a job can go on, is decided here; and which files
//! nobody needs any more.
//!
//! ```text
//! poll ----> Event::Trigger(barrier) ----> the runtime sends barriers to its shards
//!                                          Shard::snapshot_as(barrier.mode, ..)
//! acknowledge <---- ShardAck <------------ the ticket's report
//!      |
//!      | the last one:  metadata, then one journal entry that nobody can replace
//!      v
//! Event::Completed ----------------------> Shard::notify_complete, sinks commit
//! ```
//!
//! A [`Coordinator`] has no thread and waits for nothing but the store. The runtime
//! calls [`poll`](Coordinator::poll) now and then (every 10 to 100 ms, or when it has
//! something to say) and does what the [events](Coordinator::next_event) tell. Calls
//! that reach the store block, so it belongs on a thread of its own: [`driver`] is one, for
//! runtimes that have no loop.
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
//!
//! let sink = Arc::new(coordinator.sink());
//! let backend = Backend::builder(dir.path()).sink(sink.clone()).source(sink).open()?;
//! let all = MaxParallelism::DEFAULT;
//! let handles = restored.map(|checkpoint| checkpoint.handles("count")).unwrap_or_default();
//! let mut shard = backend.shard("count", all.all_groups()).restore(handles).open()?;
//! let counts: ValueState<u64, u64> = ValueState::register(&mut shard, "counts")?;
//! coordinator.start(Participant::of_operator("count", all, 1)?)?;
//!
//! counts.put(&mut shard, &7, &1)?;
//! coordinator.trigger()?; // `poll` does so by itself when it is time
//! while let Some(event) = coordinator.next_event() {
//!     match event {
//!         Event::Trigger(barrier) => {
//!             let report = shard.snapshot_as(barrier.mode, barrier.id, b"")?.wait()?;
//!             coordinator.set_runtime_data(barrier.id, b"source offset 1".to_vec())?;
//!             coordinator.acknowledge(ShardAck::of(barrier.epoch, &report))?;
//!         }
//!         Event::Completed(id) => shard.notify_complete(id),
//!         other => println!("{other:?}"),
//!     }
//! }
//! coordinator.poll()?;
//! assert_eq!(coordinator.view().entry().checkpoints.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - A checkpoint is completed by one create of a small object that never replaces
//!   anything, after everything that it needs is durable (see the `journal` module). An
//!   outcome that is not known is read back, and nothing is decided before.
//! - Only one coordinator can complete anything for a job: whoever opens one
//!   [fences](Coordinator::epoch) those before. A fenced one gets `Closed` and cannot
//!   complete, delete or replace anything that counts. Acknowledgements carry the epoch
//!   in which their snapshot was asked for; those of another one are not counted.
//! - A file goes only when no checkpoint that is kept, no savepoint, no checkpoint under
//!   way and nobody who [reads](JobView::pin) needs it, and after the journal says so:
//!   a crash in between leaves work for the next coordinator, never a checkpoint with
//!   holes. Only files of this job are deleted. What a killed coordinator and its shards
//!   left behind goes with the first [`collect`](Coordinator::collect) of the next one.
//! - A checkpoint whose metadata says that it is [full](crate::SnapshotMode::Full) shares
//!   no file with any that was begun before it: that is checked with every
//!   acknowledgement.
//! - Notifications are best effort: everything works if they are lost, late or repeated.

mod collect;
mod completion;
pub mod driver;
mod event;
mod fork;
mod journal;
mod layout;
mod objects;
mod participant;
mod pending;
mod placed;
mod places;
mod registry;
mod requests;
mod schedule;
mod settings;
mod verify;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use self::collect::Garbage;
pub use self::collect::{Collected, Orphan, orphans};
use self::completion::retire_all_but;
pub use self::driver::{Driver, DriverHandle};
pub use self::event::{Acknowledged, Barrier, Event, StopMode};
use self::journal::Journal;
use self::layout::Layout;
pub use self::participant::Participant;
use self::pending::{Counted, Pending, ShardKey, key_of};
use self::places::Opener;
use self::registry::{Holder, Registry};
use self::requests::Requests;
pub use self::requests::{Asked, ask};
use self::schedule::Clock;
pub use self::settings::{CheckpointSettings, OnCancel, SavepointSchedule};
pub use self::verify::{Depth, Problem, Verified, is_damaged, verify};
pub use self::view::{JobView, PinGuard, RestoreFrom, jobs};
use crate::base::limits::MAX_USER_META_BYTES;
use crate::base::{Error, ErrorKind, Result, SnapshotId, SnapshotMode};
use crate::env::Env;
use crate::env::real::RealEnv;
use crate::format::checkpoint::{Checkpoint, CheckpointKind, ShardAck, StoredFile, check_job_name};
use crate::format::journal::{CheckpointRef, JournalEntry, MAX_TEXT_BYTES, Outcome};
use crate::object::{ObjectName, ObjectStore};
use crate::snapshot::sink::StoreSink;

/// What a restored savepoint is to the job from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClaimMode {
    /// It stays a savepoint, whatever becomes of the job.
    #[default]
    NoClaim,
    /// It becomes a checkpoint of the job, which goes when later ones are there.
    Claim,
}

/// Opens a [`Coordinator`]; see [`Coordinator::builder`].
#[derive(Debug)]
#[must_use]
pub struct CoordinatorBuilder {
    store: Arc<dyn ObjectStore>,
    job: String,
    owner: String,
    settings: CheckpointSettings,
    env: Option<Arc<dyn Env>>,
    places: Option<Opener>,
}

impl CoordinatorBuilder {
    /// When checkpoints are taken, and which are kept.
    pub fn settings(mut self, settings: CheckpointSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Who this is, for people: a host and a process, say. Up to 1,024 bytes.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }

    /// The world to live in, if not the real one: for simulations.
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = Some(env);
        self
    }

    /// Takes over the job: fences its coordinator before, if there was one, and reads
    /// which files its checkpoints need (their metadata and every manifest).
    ///
    /// # Errors
    /// `Invalid` if a setting or a name is; `Unavailable` if the store fails; `Corrupt`
    /// or `Incompatible` if the journal cannot be read. A checkpoint that cannot be read
    /// is no error here: nothing is deleted then (see
    /// [`deletes_nothing`](Coordinator::deletes_nothing)).
    pub fn open(self) -> Result<Coordinator> {
        self.settings.check()?;
        if self.owner.len() > MAX_TEXT_BYTES {
            return Err(Error::invalid("the owner's text is too long")
                .expected(format_args!("at most {MAX_TEXT_BYTES} bytes"))
                .found(self.owner.len()));
        }
        let layout = Layout::new(&self.job)?;
        let env = self.env.unwrap_or_else(|| Arc::new(RealEnv::new()));
        let journal = Journal::take_over(
            Arc::clone(&self.store),
            Arc::clone(&env),
            layout.clone(),
            &self.job,
            &self.owner,
        )?;
        let seen = journal.last().clone();
        let now_ns = env.monotonic_ns();
        let mut coordinator = Coordinator {
            store: self.store,
            env,
            layout,
            settings: self.settings,
            next_id: seen.next_id,
            journal,
            seen,
            registry: Registry::default(),
            garbage: Garbage::default(),
            participants: Vec::new(),
            finished: BTreeMap::new(),
            pending: BTreeMap::new(),
            completed: BTreeSet::new(),
            base: None,
            claimed: None,
            failures: 0,
            outcomes: Vec::new(),
            events: VecDeque::new(),
            clock: Clock::new(now_ns),
            requests: Requests::default(),
            places: self.places,
            catching_up: false,
            stopping: false,
        };
        coordinator.learn_files();
        Ok(coordinator)
    }
}

/// Decides which snapshots make a checkpoint; see the [module
/// documentation](self).
pub struct Coordinator {
    store: Arc<dyn ObjectStore>,
    env: Arc<dyn Env>,
    layout: Layout,
    settings: CheckpointSettings,
    journal: Journal,
    /// The journal entry of which everything was done that follows from it.
    seen: JournalEntry,
    registry: Registry,
    garbage: Garbage,
    participants: Vec<Participant>,
    /// What shards said that have come to their end.
    finished: BTreeMap<ShardKey, ShardAck>,
    pending: BTreeMap<SnapshotId, Pending>,
    next_id: SnapshotId,
    /// What was completed in this epoch, but what is older than the
    /// [horizon](Self::horizon).
    completed: BTreeSet<SnapshotId>,
    /// What the shards of this epoch were restored from and may still read.
    base: Option<CheckpointRef>,
    /// The savepoint that was to be claimed, by its name then.
    claimed: Option<(String, CheckpointRef)>,
    /// One after the other.
    failures: usize,
    /// Of checkpoints that were given up, which no journal entry has yet.
    outcomes: Vec<Outcome>,
    events: VecDeque<Event>,
    clock: Clock,
    requests: Requests,
    places: Option<Opener>,
    catching_up: bool,
    stopping: bool,
}

impl Coordinator {
    /// A coordinator for the job of this name (letters, digits, `.`, `_` and `-`),
    /// whose checkpoints are in `store`, which it may share with other jobs.
    pub fn builder(store: Arc<dyn ObjectStore>, job: &str) -> CoordinatorBuilder {
        CoordinatorBuilder {
            store,
            job: job.to_owned(),
            owner: String::new(),
            settings: CheckpointSettings::default(),
            env: None,
            places: None,
        }
    }

    /// Which life of the job's coordinator this is: each one that is opened has a
    /// higher one, and ends those before.
    pub fn epoch(&self) -> u64 {
        self.journal.epoch()
    }

    /// Where the shards of this epoch put their snapshots, and find those of all: for
    /// [`BackendBuilder::sink`](crate::BackendBuilder::sink) and
    /// [`source`](crate::BackendBuilder::source).
    pub fn sink(&self) -> StoreSink {
        StoreSink::in_folder(Arc::clone(&self.store), &self.folder())
    }

    /// The folder of the store that [`sink`](Self::sink) writes into. What runs in other
    /// processes makes its own sink of it, with [`StoreSink::in_folder`].
    pub fn folder(&self) -> ObjectName {
        self.layout.epoch(self.epoch())
    }

    /// The job as it is now.
    pub fn view(&self) -> JobView {
        let entry = self.journal.last().clone();
        JobView::of(Arc::clone(&self.store), self.layout.clone(), entry)
    }

    /// Chooses what the job goes on from, and reads it; `None` if that is the
    /// [latest](RestoreFrom::Latest) and there is none, so that the job begins. Its
    /// files stay until [`release_base`](Self::release_base), since shards go on
    /// reading them.
    ///
    /// From anything but the latest the job goes *back*: should it fail before its
    /// next checkpoint is complete, it goes on from there again.
    ///
    /// # Errors
    /// `Invalid` if there is no such checkpoint or savepoint, or shards have been
    /// started; `Corrupt` if it cannot be read: to take an older one is the caller's
    /// choice. `Closed` if another coordinator has taken over and the checkpoint has gone;
    /// `Unavailable` if the store fails.
    pub fn restore(&mut self, from: &RestoreFrom, claim: ClaimMode) -> Result<Option<Checkpoint>> {
        self.check_not_started()?;
        let found = match self.claimed.clone() {
            // The claim was written, and its reply lost.
            Some((name, claimed))
                if *from == RestoreFrom::Savepoint(name.clone())
                    && claim == ClaimMode::Claim
                    && self.journal.last().checkpoints.contains(&claimed) =>
            {
                Some(claimed)
            }
            _ => self.view().find(from)?,
        };
        let Some(chosen) = found else { return Ok(None) };
        let checkpoint = match view::read_checkpoint(&*self.store, &chosen) {
            // Whoever took over meanwhile may have completed a newer one.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Err(self.journal.look_again().err().unwrap_or(error));
            }
            read => read?,
        };
        let claimed = match from {
            RestoreFrom::Savepoint(name) if claim == ClaimMode::Claim => Some(name.clone()),
            _ => None,
        };
        self.claimed = claimed.clone().map(|name| (name, chosen.clone()));
        if claimed.is_some() || self.journal.last().resume.as_ref() != Some(&chosen) {
            self.append(|entry| {
                if let Some(name) = claimed {
                    entry.savepoints.retain(|savepoint| savepoint.name != name);
                    if !entry.checkpoints.contains(&chosen) {
                        entry.add_checkpoint(chosen.clone());
                    }
                }
                entry.resume = Some(chosen.clone());
            })?;
        }
        self.base = Some(chosen);
        Ok(Some(checkpoint))
    }

    /// Says that no shard reads the checkpoint any more from which the job was
    /// restored: all are [warm](crate::ShardStats::is_warm), or have a memory budget
    /// and took a snapshot since. Until then it is kept beside the others.
    pub fn release_base(&mut self) {
        self.base = None;
    }

    /// Says which shards the job has: from now on checkpoints are taken. Together they
    /// have every key group of each operator once.
    ///
    /// # Errors
    /// `Invalid` if they do not, or are started already.
    pub fn start(&mut self, mut participants: Vec<Participant>) -> Result<()> {
        if !self.participants.is_empty() {
            return Err(Error::invalid("shards have been started already").at(self.layout.root()));
        }
        participants
            .sort_by(|a, b| (&a.operator, a.groups.first()).cmp(&(&b.operator, b.groups.first())));
        participant::check(&participants)?;
        self.participants = participants;
        self.clock = Clock::new(self.env.monotonic_ns());
        Ok(())
    }

    /// Says whether the job works off a backlog, when other checkpoints may be wanted
    /// ([`catching_up_interval_ms`](CheckpointSettings::catching_up_interval_ms)).
    pub fn set_catching_up(&mut self, catching_up: bool) {
        self.catching_up = catching_up;
    }

    /// Does what is due: gives up what took too long, completes what is ready, does what
    /// others [ask] for, begins checkpoints, deletes up to 256 files that nobody
    /// needs.
    ///
    /// # Errors
    /// `Closed` if another coordinator has taken over the job: stop it. All else is
    /// tried again with the next call, and told in events if it comes to nothing.
    pub fn poll(&mut self) -> Result<()> {
        const DELETES: usize = 256;
        self.try_to_complete()?;
        self.give_up_late_ones();
        self.meet_requests()?;
        self.trigger_what_is_due()?;
        match self.collect(DELETES) {
            Err(error) if self.journal.is_fenced() => Err(error),
            Err(error) => {
                tracing::debug!(job = self.layout.root(), %error, "files were not deleted yet");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// The next thing that the runtime should know, oldest first.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Begins a checkpoint now, whatever the schedule says. It is incremental, as those
    /// of the schedule are.
    ///
    /// # Errors
    /// `Invalid` if no shards were started, or the job stops; `Closed` if another
    /// coordinator has taken over; `Unavailable` if the store fails.
    pub fn trigger(&mut self) -> Result<SnapshotId> {
        self.trigger_as(SnapshotMode::Incremental)
    }

    /// Begins a checkpoint of this mode now, whatever the schedule says. A
    /// [full](SnapshotMode::Full) one shares no file with those before it: they may all
    /// be deleted, or it alone be copied elsewhere. It costs the size of the state, and
    /// the checkpoints after it are incremental and build on it.
    ///
    /// # Errors
    /// As [`trigger`](Self::trigger); `Invalid` for a full one if a shard has
    /// [come to its end](Self::finish).
    pub fn trigger_as(&mut self, mode: SnapshotMode) -> Result<SnapshotId> {
        self.begin(CheckpointKind::Checkpoint, mode, None)
    }

    /// Begins a savepoint of this name now, without copying anything: it shares files
    /// with checkpoints, and stays until it is [disposed](Self::dispose) of.
    ///
    /// # Errors
    /// As [`trigger`](Self::trigger); `Invalid` if the name is taken or no name.
    pub fn savepoint(&mut self, name: &str) -> Result<SnapshotId> {
        self.savepoint_as(name, SnapshotMode::Incremental)
    }

    /// Begins a savepoint of this name and mode now. A [full](SnapshotMode::Full) one
    /// shares no file with what was there before it.
    ///
    /// # Errors
    /// As [`savepoint`](Self::savepoint) and [`trigger_as`](Self::trigger_as).
    pub fn savepoint_as(&mut self, name: &str, mode: SnapshotMode) -> Result<SnapshotId> {
        self.check_new(name)?;
        self.begin(CheckpointKind::Savepoint(name.to_owned()), mode, None)
    }

    /// Ends the job with a savepoint. When it is complete ([`Event::Stopped`]) the job
    /// would go on from there; if it fails the job goes on as before.
    ///
    /// # Errors
    /// As [`savepoint`](Self::savepoint).
    pub fn stop(&mut self, name: &str, mode: StopMode) -> Result<SnapshotId> {
        self.check_new(name)?;
        let kind = CheckpointKind::Savepoint(name.to_owned());
        let id = self.begin(kind, SnapshotMode::Incremental, Some(mode))?;
        self.stopping = true;
        Ok(id)
    }

    /// Counts what a shard says of its part of a checkpoint. With the last one it is
    /// completed: this call then waits for the store.
    ///
    /// # Errors
    /// `Invalid` if the job has no such shard, or its snapshot shares files with others
    /// though a full one was asked for: then the checkpoint is given up. `Closed` if
    /// another coordinator has taken over. If the checkpoint could not be completed that is no error here:
    /// [`poll`](Self::poll) tries again until it is too late.
    pub fn acknowledge(&mut self, mut ack: ShardAck) -> Result<Acknowledged> {
        if ack.epoch != self.epoch() {
            return Ok(Acknowledged::Foreign);
        }
        let id = ack.part.handle.snapshot();
        self.check_place(id, &ack)?;
        let holder = Holder::Pending(id);
        let now_unix_ms = self.env.unix_time_ms();
        let shard = format!("shard {} of {:?}", ack.part.handle.groups(), key_of(&ack).0);
        let Some(pending) = self.pending.get_mut(&id) else {
            self.look_after(id, &ack);
            return Ok(Acknowledged::Late);
        };
        let files = std::mem::take(&mut ack.files);
        let mode = pending.barrier.mode;
        let is_own = pending.place.is_none();
        match pending.add(ack, &self.participants, now_unix_ms) {
            Counted::Yes => {}
            Counted::Again => return Ok(Acknowledged::Duplicate),
            Counted::NoShard => {
                return Err(Error::invalid("the job has no such shard")
                    .at(shard)
                    .expected("one that was started")
                    .remedy("acknowledge with the handle that the shard's report gives"));
            }
        }
        if is_own {
            self.registry.hold(&holder, files.iter().map(|file| (&*file.location, file.bytes)));
        }
        // Acknowledgements of later ones, which build on it, may have come before.
        let is_older = |file: &&StoredFile| self.registry.needed_since(&file.location) < Some(id);
        if mode == SnapshotMode::Full
            && is_own
            && let Some(file) = files.iter().find(is_older)
        {
            let reason = format!("{shard} shares {} with others", file.location);
            self.give_up(id, reason, true);
            return Err(Error::invalid(
                "a full checkpoint was asked for, and a shard shares files",
            )
            .at(shard)
            .found(&file.location)
            .remedy("take the snapshot with the mode of the barrier"));
        }
        if self.pending.get(&id).is_some_and(Pending::is_ready) {
            self.try_to_complete()?;
        }
        Ok(Acknowledged::Counted)
    }

    /// Attaches what the runtime itself needs to go on from a checkpoint under way: the
    /// positions of its sources at the barrier, transactions of its sinks. To be called
    /// before the last shard acknowledges. Up to 16 MiB. Of a checkpoint that is over
    /// nothing is attached.
    ///
    /// # Errors
    /// `Invalid` if it is too long, or too late: the checkpoint is being completed.
    pub fn set_runtime_data(&mut self, id: SnapshotId, data: Vec<u8>) -> Result<()> {
        if data.len() > MAX_USER_META_BYTES {
            return Err(Error::invalid("the runtime's data is too long for a checkpoint")
                .at(format_args!("checkpoint {id}"))
                .expected(format_args!("at most {MAX_USER_META_BYTES} bytes"))
                .found(data.len()));
        }
        let Some(pending) = self.pending.get_mut(&id) else { return Ok(()) };
        if pending.meta_written {
            return Err(Error::invalid("the runtime's data comes too late for a checkpoint")
                .at(format_args!("checkpoint {id}"))
                .remedy("attach it before the last shard acknowledges"));
        }
        pending.set_runtime_data(data);
        Ok(())
    }

    /// Says that a shard cannot take part in a checkpoint, which is given up. One that
    /// is over is not.
    pub fn decline(&mut self, id: SnapshotId, shard: &Participant, reason: &str) {
        let reason = format!("shard {} of {:?} declined: {reason}", shard.groups, shard.operator);
        self.give_up(id, reason, true);
    }

    /// Gives up a checkpoint that is under way because the runtime wants it so.
    pub fn abort(&mut self, id: SnapshotId, reason: &str) {
        self.give_up(id, reason.to_owned(), true);
    }

    /// Says that a shard has come to the end of its input: what it says here counts for
    /// every checkpoint that begins from now on.
    ///
    /// # Errors
    /// `Invalid` if the job has no such shard, or this is of another epoch, or of a
    /// snapshot that was never asked for.
    pub fn finish(&mut self, last: ShardAck) -> Result<()> {
        let handle = &last.part.handle;
        let known = self.participants.iter().any(|shard| shard.is_of(handle));
        if !known || last.epoch != self.epoch() || handle.snapshot() >= self.next_id {
            return Err(Error::invalid("the job has no such shard")
                .at(format_args!("shard {} of {:?}", handle.groups(), handle.operator()))
                .expected(format_args!("one that was started in epoch {}", self.epoch()))
                .found(format_args!("snapshot {} of epoch {}", handle.snapshot(), last.epoch)));
        }
        let key = key_of(&last);
        let holder = Holder::Finished(key.clone());
        let before = self.registry.release(&holder);
        let files = last.files.iter().map(|file| (&*file.location, file.bytes));
        self.registry.hold_since(&holder, last.part.handle.snapshot(), files);
        self.garbage.add_loose(SnapshotId(self.next_id.0.saturating_sub(1)), before);
        self.finished.insert(key, last);
        Ok(())
    }

    /// Gives up a savepoint: its files go when nobody else needs them.
    ///
    /// # Errors
    /// `Invalid` if there is none of this name, or the job would go on from it;
    /// `Closed` and `Unavailable` as always.
    pub fn dispose(&mut self, name: &str) -> Result<()> {
        self.settle()?;
        let Some(savepoint) = self.journal.last().savepoint(name).cloned() else {
            return Err(Error::invalid("the job has no savepoint of this name")
                .at(self.layout.root())
                .found(format_args!("{name:?}")));
        };
        let last = self.journal.last();
        let is_checkpoint = last.checkpoints.contains(&savepoint.checkpoint);
        if !is_checkpoint && last.resume.as_ref() == Some(&savepoint.checkpoint) {
            return Err(Error::invalid("the job would go on from this savepoint")
                .at(name)
                .remedy("let a checkpoint complete first"));
        }
        self.append(|entry| {
            entry.savepoints.retain(|savepoint| savepoint.name != name);
            if !is_checkpoint {
                entry.retired.push(savepoint.checkpoint);
            }
        })
    }

    /// Ends the job for good, or for now, after its shards were closed: what is under
    /// way is given up, and checkpoints are kept or deleted [as
    /// set](CheckpointSettings::on_cancel). Savepoints stay.
    ///
    /// # Errors
    /// `Closed` and `Unavailable` as always; what was not deleted goes with the next
    /// coordinator.
    pub fn cancel(mut self) -> Result<()> {
        self.settle()?;
        let under_way: Vec<_> = self.pending.keys().copied().collect();
        for id in under_way {
            self.give_up(id, "the job was cancelled".to_owned(), false);
        }
        // No shard will name anything any more, nor what nobody acknowledged.
        for key in std::mem::take(&mut self.finished).into_keys() {
            let released = self.registry.release(&Holder::Finished(key));
            self.garbage.add_loose(SnapshotId(0), released);
        }
        self.sweep()?;
        self.completed.insert(SnapshotId(u64::MAX));
        self.let_loose_go();
        if self.settings.on_cancel == OnCancel::Delete {
            self.base = None;
            self.participants.clear();
            self.append(|entry| {
                entry.resume = None;
                retire_all_but(entry, 0);
            })?;
        }
        while !self.collect(usize::MAX)?.is_done {}
        Ok(())
    }

    /// Number of files that are needed, and their bytes.
    pub fn files(&self) -> (usize, u64) {
        self.registry.size()
    }

    /// The checkpoints and savepoints that are under way, with the number of shards
    /// that have not acknowledged them.
    pub fn under_way(&self) -> impl Iterator<Item = (&Barrier, usize)> {
        self.pending.values().map(|pending| (&pending.barrier, pending.missing()))
    }

    pub(super) fn check_new(&mut self, name: &str) -> Result<()> {
        check_job_name("name of the savepoint", name)?;
        self.settle()?;
        let kind = CheckpointKind::Savepoint(name.to_owned());
        let under_way = self.pending.values().any(|pending| pending.is_own(&kind));
        if under_way || self.journal.last().savepoint(name).is_some() {
            return Err(Error::invalid("the job has a savepoint of this name already")
                .at(self.layout.root())
                .found(format_args!("{name:?}"))
                .remedy("choose another name, or dispose of the other one first"));
        }
        Ok(())
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Coordinator({:?}, {} under way)", self.journal, self.pending.len())
    }
}
