//! Asking the coordinator of a running job for something: a checkpoint, a savepoint, or
//! the disposal of one. Only the coordinator writes the journal, so others leave a request in the
//! store and wait for the answer.
//!
//! ```text
//! asker                                   coordinator, every requests_interval_ms
//! create requests/R -------------------->  list requests/
//!                                          do it
//! read answers/R  <----------------------  create answers/R
//! remove answers/R                         remove requests/R
//! ```
//!
//! A request may be met twice: the coordinator may die after it did something and before
//! it said so. So what is asked for is a state of things, and one that is so already is
//! an answer: a savepoint whose name was free when it was asked for is the one that was
//! meant, a checkpoint of a number that was free is, too, and a savepoint that is gone has
//! been disposed of. A coordinator that was replaced and does not know it must not say so of
//! what it has not seen: whoever asks says which journal entry it had read. A request that
//! is met stays
//! until the answer is there. An answer that nobody fetches goes after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::Coordinator;
use super::completion::cut;
use super::objects::{self, Created};
use super::pending::Pending;
use super::placed::Place;
use super::places;
use super::view::{JobView, RestoreFrom};
use crate::base::{Error, Result, SnapshotId, SnapshotMode};
use crate::env::Env;
use crate::format::checkpoint::{CheckpointKind, check_job_name};
use crate::format::journal::MAX_TEXT_BYTES;
use crate::format::place::check_place;
use crate::format::request::{Action, Answer, MAX_REQUEST_BYTES, Request};
use crate::object::{ObjectName, ObjectStore};

/// Most requests that are met with one look.
const MET_AT_A_LOOK: usize = 64;
/// With how many looks an answer is seen before it goes: an hour of them, by default.
const LOOKS_AT_ANSWERS: u32 = 360;

/// Asks the coordinator of a job for something, which it does when it
/// [looks](super::CheckpointSettings::requests_interval_ms) next.
///
/// # Errors
/// `Invalid` if it is known already that it cannot be done: a name is taken, or not
/// there, or no savepoint can be asked into a place. `Unavailable` if the store fails.
pub fn ask(
    store: Arc<dyn ObjectStore>,
    env: &dyn Env,
    view: &JobView,
    asker: &str,
    action: Action,
) -> Result<Asked> {
    match &action {
        Action::Checkpoint(..) => {}
        Action::SavepointInto { name, place, .. } => {
            check_job_name("name of the savepoint", name)?;
            check_place(place)?;
        }
        Action::Dispose(name) => {
            view.find(&RestoreFrom::Savepoint(name.clone()))?;
        }
        Action::Savepoint(name, _) | Action::Keep(_, name) => {
            if view.entry().savepoint(name).is_some() {
                return Err(Error::invalid("the job has a savepoint of this name already")
                    .at(view.layout().root())
                    .found(format_args!("{name:?}"))
                    .remedy("choose another name, or dispose of the other one first"));
            }
        }
    }
    if let Action::Keep(id, _) = &action {
        view.find(&RestoreFrom::Checkpoint(*id))?;
    }
    let mut asker = asker.to_owned();
    cut(&mut asker, MAX_TEXT_BYTES);
    let seen = view.entry().number;
    let request = Request { created_unix_ms: env.unix_time_ms(), seen, asker, action };
    let name = view.layout().request(env.random_u64());
    let Some(answer) = view.layout().answer_to(&name) else {
        return Err(Error::internal("a request has no name of one"));
    };
    match objects::create(&*store, &name, &request.encode()?).map_err(|error| error.at(&name))? {
        Created::Ours => Ok(Asked { store, request: name, answer }),
        Created::Others(_) => {
            Err(Error::unavailable("another request has this name").at(&name).remedy("ask again"))
        }
    }
}

/// A request that was made.
#[derive(Debug)]
#[must_use]
pub struct Asked {
    store: Arc<dyn ObjectStore>,
    request: ObjectName,
    answer: ObjectName,
}

impl Asked {
    /// The name of the request.
    pub fn name(&self) -> &ObjectName {
        &self.request
    }

    /// The answer, if there is one yet. It is fetched: the next call has none.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read, `Corrupt` or `Incompatible` if the
    /// answer cannot.
    pub fn answer(&self) -> Result<Option<Answer>> {
        let Some(bytes) = read_small(&*self.store, &self.answer)? else { return Ok(None) };
        let answer = Answer::decode(&bytes).map_err(|error| error.at(&self.answer))?;
        // In this order, or the coordinator might take it for one that is not met.
        self.store.remove(&self.request)?;
        self.store.remove(&self.answer)?;
        Ok(Some(answer))
    }

    /// Takes the request back. It may be met all the same, if the coordinator has begun.
    ///
    /// # Errors
    /// `Unavailable` if the store fails.
    pub fn take_back(self) -> Result<()> {
        self.store.remove(&self.request)
    }
}

/// A request or an answer; `None` if there is none.
fn read_small(store: &dyn ObjectStore, name: &ObjectName) -> Result<Option<Vec<u8>>> {
    match store.len_of(name)? {
        Some(len) if len > MAX_REQUEST_BYTES => {
            Err(Error::corrupt("an object is too large to be a request or an answer")
                .at(name)
                .expected(format_args!("at most {MAX_REQUEST_BYTES} bytes"))
                .found(format_args!("{len} bytes")))
        }
        Some(_) => objects::read(store, name),
        None => Ok(None),
    }
}

/// What the coordinator knows of requests.
#[derive(Default)]
pub(super) struct Requests {
    looked_ns: Option<u64>,
    /// Requests whose savepoints are under way.
    begun: BTreeMap<ObjectName, SnapshotId>,
    /// Those of them that are complete in another place, of which the journal may remember
    /// nothing.
    placed: BTreeSet<SnapshotId>,
    /// Answers that nobody has fetched, and how often they were seen; `None` before the
    /// first look for those that are left from before.
    answers: Option<BTreeMap<ObjectName, u32>>,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Requests({} begun)", self.begun.len())
    }
}

impl Requests {
    /// A savepoint is complete in another place.
    pub(super) fn is_placed(&mut self, id: SnapshotId) {
        if self.begun.values().any(|begun| *begun == id) {
            self.placed.insert(id);
        }
    }
}

/// What comes of a request at a look.
enum Met {
    /// It is done; the checkpoint concerned.
    Done(Option<SnapshotId>),
    /// It is under way, or will be.
    Later,
}

impl Coordinator {
    /// Does what others ask for, if it is time to look.
    ///
    /// # Errors
    /// `Closed` if another coordinator has taken over. All else is tried again.
    pub(super) fn meet_requests(&mut self) -> Result<()> {
        let Some(interval_ms) = self.settings.requests_interval_ms else { return Ok(()) };
        let now_ns = self.env.monotonic_ns();
        let passed = |since_ns: u64| now_ns.saturating_sub(since_ns) / 1_000_000 >= interval_ms;
        if !self.requests.looked_ns.is_none_or(passed) {
            return Ok(());
        }
        self.requests.looked_ns = Some(now_ns);
        match self.look_at_requests() {
            Err(error) => self.unless_fenced(error, "requests could not be met yet"),
            Ok(()) => Ok(()),
        }
    }

    fn look_at_requests(&mut self) -> Result<()> {
        let names = self.store.list(&self.layout.requests())?;
        for name in names.iter().take(MET_AT_A_LOOK) {
            // What has another name is not ours to judge.
            let Some(answer) = self.layout.answer_to(name) else { continue };
            if self.store.len_of(&answer)?.is_some() {
                // It was met, and then the request did not go.
                self.store.remove(name)?;
                continue;
            }
            let met = match read_small(&*self.store, name) {
                Ok(Some(bytes)) => {
                    Request::decode(&bytes).and_then(|asked| self.meet(name, &asked))
                }
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            let (id, refused) = match met {
                Ok(Met::Later) => continue,
                Ok(Met::Done(id)) => (id, None),
                Err(error) if self.journal.is_fenced() || error.is_retryable() => {
                    return Err(error);
                }
                Err(error) => {
                    let mut reason = error.to_string();
                    cut(&mut reason, MAX_TEXT_BYTES);
                    (None, Some(reason))
                }
            };
            let answered_unix_ms = self.env.unix_time_ms();
            let bytes = Answer { answered_unix_ms, id, refused }.encode()?;
            // One that is there by now was given by a coordinator that is fenced.
            objects::create(&*self.store, &answer, &bytes)?;
            self.store.remove(name)?;
            self.requests.answers.get_or_insert_default().insert(answer, 0);
        }
        self.forget_old_answers(names.is_empty())
    }

    /// Removes answers that nobody fetches. Looks for those that are left from before only
    /// when there is nothing else to do.
    fn forget_old_answers(&mut self, is_idle: bool) -> Result<()> {
        if !is_idle || self.requests.answers.as_ref().is_some_and(BTreeMap::is_empty) {
            return Ok(());
        }
        let known = self.requests.answers.take().unwrap_or_default();
        let there = self.store.list(&self.layout.answers())?;
        let mut seen = BTreeMap::new();
        for name in there {
            let looks = known.get(&name).copied().unwrap_or(0) + 1;
            if looks > LOOKS_AT_ANSWERS {
                self.store.remove(&name)?;
            } else {
                seen.insert(name, looks);
            }
        }
        self.requests.answers = Some(seen);
        Ok(())
    }

    fn meet(&mut self, name: &ObjectName, request: &Request) -> Result<Met> {
        if let Some(&id) = self.requests.begun.get(name) {
            if self.pending.contains_key(&id) {
                return Ok(Met::Later);
            }
            self.requests.begun.remove(name);
            let mut outcomes = self.outcomes.iter().chain(&self.seen.outcomes);
            let outcome = outcomes.rfind(|outcome| outcome.id == id);
            let is_done = match request.action.name() {
                _ if matches!(request.action, Action::SavepointInto { .. }) => {
                    let is_done = self.requests.placed.contains(&id);
                    if !self.requests.begun.values().any(|begun| *begun == id) {
                        self.requests.placed.remove(&id);
                    }
                    is_done
                }
                Some(name) => self.seen.savepoint(name).is_some_and(|of| of.checkpoint.id == id),
                // Few outcomes may be remembered, or none.
                None => outcome.map_or_else(
                    || self.completed.contains(&id) || self.seen.kept().any(|of| of.id == id),
                    |outcome| outcome.failure.is_none(),
                ),
            };
            if !is_done {
                let reason = outcome.and_then(|outcome| outcome.failure.clone());
                let error = Error::invalid("the checkpoint was given up")
                    .at(format_args!("checkpoint {id}"))
                    .found(reason.unwrap_or_else(|| "it is not there".to_owned()));
                return Err(match &request.action {
                    Action::SavepointInto { place, .. } => error.remedy(format_args!(
                        "clear {place} of what is left there, or choose another folder, and ask again"
                    )),
                    _ => error,
                });
            }
            return Ok(Met::Done(Some(id)));
        }
        if request.seen > self.seen.number {
            // Whoever asks knows more: of another coordinator's work, as it seems.
            self.settle()?;
            self.journal.look_again()?;
            if request.seen > self.seen.number {
                return Err(Error::invalid("the request speaks of a journal entry that never was")
                    .expected(format_args!("at most {}", self.seen.number))
                    .found(request.seen));
            }
        }
        let named = request.action.name().and_then(|name| self.seen.savepoint(name));
        let there = named.map(|found| found.checkpoint.id);
        match (&request.action, there) {
            // The name was free when it was asked for.
            (Action::Savepoint(..), Some(id)) => Ok(Met::Done(Some(id))),
            (Action::Savepoint(..) | Action::Checkpoint(..), None)
                if self.participants.is_empty() =>
            {
                Ok(Met::Later)
            }
            (Action::Savepoint(savepoint, mode), None) => {
                let kind = CheckpointKind::Savepoint(savepoint.clone());
                let under_way = self.pending.values().find(|of| of.is_own(&kind));
                // Others may have asked for the same one.
                let id = match under_way.map(Pending::id) {
                    Some(id) => id,
                    None => self.savepoint_as(savepoint, *mode)?,
                };
                self.requests.begun.insert(name.clone(), id);
                Ok(Met::Later)
            }
            (Action::Checkpoint(mode, from), _) => {
                let is_meant = |kind: &CheckpointKind, of: SnapshotMode, id: SnapshotId| {
                    *kind == CheckpointKind::Checkpoint && of == *mode && id >= *from
                };
                let done = self.seen.outcomes.iter().rfind(|outcome| {
                    outcome.failure.is_none() && is_meant(&outcome.kind, outcome.mode, outcome.id)
                });
                if let Some(done) = done {
                    return Ok(Met::Done(Some(done.id)));
                }
                let mut under_way = self.pending.values().map(|of| &of.barrier);
                let under_way = under_way.find(|of| is_meant(&of.kind, of.mode, of.id));
                let id = match under_way.map(|barrier| barrier.id) {
                    Some(id) => id,
                    None => self.trigger_as(*mode)?,
                };
                self.requests.begun.insert(name.clone(), id);
                Ok(Met::Later)
            }
            (Action::SavepointInto { name: savepoint, place }, _) => {
                self.meet_placed(name, savepoint, place)
            }
            (Action::Keep(id, _), Some(found)) if *id == found => Ok(Met::Done(Some(found))),
            (Action::Keep(id, savepoint), _) => {
                let kept = self.keep(&RestoreFrom::Checkpoint(*id), savepoint)?;
                Ok(Met::Done(Some(kept.id)))
            }
            (Action::Dispose(_), None) => Ok(Met::Done(None)),
            (Action::Dispose(savepoint), Some(id)) => {
                self.dispose(savepoint)?;
                Ok(Met::Done(Some(id)))
            }
        }
    }
    /// Begins a savepoint in another place, unless it is there or on its way. What has to do
    /// with the place is told to who asked and not tried again: other requests would wait.
    fn meet_placed(&mut self, request: &ObjectName, name: &str, place: &str) -> Result<Met> {
        if self.places.is_some() && self.participants.is_empty() {
            return Ok(Met::Later);
        }
        let kind = CheckpointKind::Savepoint(name.to_owned());
        // Others may have asked for the same one.
        let under_way = self.pending.values().find(|pending| {
            pending.barrier.kind == kind && pending.barrier.place.as_deref() == Some(place)
        });
        let id = match under_way.map(Pending::id) {
            Some(id) => id,
            None => {
                let own = self.store.identity();
                let store = places::open(self.places.as_ref(), &*self.env, &own, place)?;
                let there = Place { name: place.to_owned(), store };
                let failed = |error: Error| match error.is_retryable() {
                    true => Error::invalid("the place of a savepoint cannot be used")
                        .at(place)
                        .source(error)
                        .remedy("see to it, or choose another one, and ask again"),
                    false => error,
                };
                // A coordinator may have died after it did it and before it said so.
                if let Some(id) = self.placed_for(request, &there).map_err(failed)? {
                    return Ok(Met::Done(Some(id)));
                }
                self.check_may_begin(SnapshotMode::Full)?;
                self.claim(&there, name, Some(request)).map_err(failed)?;
                self.begin_claimed(name, there)?
            }
        };
        self.requests.begun.insert(request.clone(), id);
        Ok(Met::Later)
    }
}
