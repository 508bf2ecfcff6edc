//! How a job begins, goes on from what it had, and comes to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alluvium::coordinator::{ClaimMode, Participant, RestoreFrom};
use alluvium::format::{Checkpoint, CheckpointRef};
use alluvium::object::ObjectName;
use alluvium::{Coordinator, ErrorKind, StoreSink};

use crate::shard::{OPERATORS, Shard, Value, max_of};
use crate::sim::{Actor, Chances, Message, Sim, What};
use crate::store::Door;
use crate::truth::entry_name;

type Values = BTreeMap<&'static str, Value>;

impl Sim {
    pub fn take_over(&self) {
        let job = {
            let mut state = self.state.lock();
            let jobs = state.truths.len();
            state.below(jobs)
        };
        self.open(job, false);
    }

    /// Opens a coordinator for a job, restores and starts it.
    fn open(&self, job: usize, latest: bool) -> Option<usize> {
        let door = Door::new(&self.me(), job);
        let (name, settings) = {
            let state = self.state.lock();
            (state.truths[job].name.clone(), state.truths[job].settings.clone())
        };
        let store = Arc::clone(&door);
        let opened = Coordinator::builder(store, &name)
            .env(Arc::new(self.env.clone()))
            .settings(settings)
            .owner("a simulation")
            .open();
        let coordinator = match opened {
            Ok(coordinator) => coordinator,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                return None;
            }
        };
        let epoch = coordinator.epoch();
        {
            let mut state = self.state.lock();
            state.trace(|| format!("epoch {epoch} of job {job} begins"));
            state.tally.opened += 1;
            // Those before are dead, or do not know yet.
            if state.rng.one_in(2) {
                let is_old = |actor: &Actor| actor.job == job && actor.epoch < epoch;
                state
                    .actors
                    .iter_mut()
                    .filter(|a| a.as_ref().is_some_and(is_old))
                    .for_each(|a| *a = None);
            }
        }
        let coordinator = Some(coordinator);
        let asked = BTreeMap::new();
        let mut actor = Actor { job, epoch, door, coordinator, fenced: false, asked };
        self.restore(&mut actor, latest)?;
        let mut state = self.state.lock();
        state.actors.push(Some(actor));
        Some(state.actors.len() - 1)
    }

    fn choose(&self, actor: &Actor, latest: bool) -> (RestoreFrom, ClaimMode) {
        let view = actor.coordinator.as_ref().unwrap().view();
        let entry = view.entry();
        let mut state = self.state.lock();
        let claim = if state.rng.one_in(2) { ClaimMode::Claim } else { ClaimMode::NoClaim };
        let roll = if latest { 9 } else { state.below(10) };
        match roll {
            0 if !entry.checkpoints.is_empty() => {
                let at = state.below(entry.checkpoints.len());
                (RestoreFrom::Checkpoint(entry.checkpoints[at].id), claim)
            }
            1..3 if !entry.savepoints.is_empty() => {
                let at = state.below(entry.savepoints.len());
                let name = entry.savepoints[at].name.clone();
                // Who asked for it would not find it.
                let is_owed = state.truths[actor.job].is_owed(&name);
                let claim = if is_owed { ClaimMode::NoClaim } else { claim };
                (RestoreFrom::Savepoint(name), claim)
            }
            _ => (RestoreFrom::Latest, claim),
        }
    }

    fn restore(&self, actor: &mut Actor, latest: bool) -> Option<()> {
        if !latest {
            let forked = self.fork(actor);
            if actor.fenced || actor.door.is_crashed() {
                return None;
            }
            if let Some((checkpoint, reference)) = forked {
                let job = actor.job;
                {
                    let truth = &mut self.state.lock().truths[job];
                    let files = truth.files_of(&reference);
                    truth.base = Some((actor.epoch, files));
                }
                let shards = self.start(actor, Some((checkpoint, reference, job)))?;
                self.state.lock().shards.extend(shards.into_iter().map(Some));
                return Some(());
            }
        }
        let (from, claim) = self.choose(actor, latest);
        let view = actor.coordinator.as_ref().unwrap().view();
        let meant = view.find(&from).unwrap();
        {
            let truth = &mut self.state.lock().truths[actor.job];
            if let Some(meant) = &meant {
                truth.restoring.insert(actor.epoch, meant.id.0);
            }
            if let (RestoreFrom::Savepoint(name), ClaimMode::Claim) = (&from, claim) {
                truth.disposing.insert((actor.epoch, name.clone()));
            }
        }
        let mut checkpoint = None;
        for _ in 0..4 {
            let restored = actor.coordinator.as_mut().unwrap().restore(&from, claim);
            checkpoint = self.check(actor, restored);
            if checkpoint.is_some() || actor.fenced || actor.door.is_crashed() {
                break;
            }
        }
        let checkpoint = checkpoint?;
        assert_eq!(checkpoint.is_some(), meant.is_some(), "a restore from {from}");
        if let Some(meant) = &meant {
            let mut state = self.state.lock();
            let truth = &mut state.truths[actor.job];
            let files = truth.files_of(meant);
            truth.base = Some((actor.epoch, files));
            state.tally.restored += 1;
            state.tally.restored_older += u64::from(from != RestoreFrom::Latest);
            let claimed = matches!(from, RestoreFrom::Savepoint(_)) && claim == ClaimMode::Claim;
            state.tally.claimed += u64::from(claimed);
        }
        let checkpoint = checkpoint.zip(meant.clone()).map(|(c, meant)| (c, meant, actor.job));
        let checkpoint = checkpoint.or_else(|| self.of_other_job(actor.job));
        let shards = self.start(actor, checkpoint)?;
        let mut state = self.state.lock();
        state.shards.extend(shards.into_iter().map(Some));
        Some(())
    }

    /// A checkpoint of another job to begin from.
    fn of_other_job(&self, job: usize) -> Option<(Checkpoint, CheckpointRef, usize)> {
        let other = {
            let mut state = self.state.lock();
            let jobs = state.truths.len();
            let other = state.below(jobs);
            if other == job || !state.rng.one_in(2) {
                return None;
            }
            other
        };
        let (view, reference) = self.pin_some(other, true)?;
        let checkpoint = view.read(&reference).ok()?;
        self.state.lock().tally.of_other_jobs += 1;
        Some((checkpoint, reference, other))
    }

    fn start(
        &self,
        actor: &mut Actor,
        from: Option<(Checkpoint, CheckpointRef, usize)>,
    ) -> Option<Vec<Shard>> {
        let mut participants = Vec::new();
        let mut shards = Vec::new();
        let mut values = Values::new();
        let folder = {
            let state = self.state.lock();
            format!("jobs/{}/epochs/{:010}", state.truths[actor.job].name, actor.epoch)
        };
        let door = Door::new(&self.me(), actor.job);
        for (operator, max) in OPERATORS {
            let (parallelism, with_it) = {
                let mut state = self.state.lock();
                (1 + state.below(max as usize) as u32, state.rng.one_in(2))
            };
            // The shards live in a process of their own, or in the coordinator's.
            let (door, sink) = if with_it {
                (Arc::clone(&actor.door), actor.coordinator.as_ref().unwrap().sink())
            } else {
                let folder = ObjectName::new(&*folder).unwrap();
                (Arc::clone(&door), StoreSink::in_folder(door.clone(), &folder))
            };
            let handles =
                from.as_ref().map_or(vec![], |(checkpoint, ..)| checkpoint.handles(operator));
            let of_operator =
                Participant::of_operator(operator, max_of(operator), parallelism).unwrap();
            for participant in &of_operator {
                let incarnation = self.state.lock().rng.next_u64();
                let who = (actor.job, actor.epoch, incarnation);
                let what = (operator, participant.groups);
                let opened =
                    Shard::open(who, what, Some(Arc::clone(&door)), sink.clone(), &handles);
                let shard = self.check(actor, opened)?;
                values.entry(operator).or_default().extend(shard.value.clone());
                shards.push(shard);
            }
            participants.extend(of_operator);
        }
        if let Some((checkpoint, reference, job)) = &from {
            let state = self.state.lock();
            let truth = &state.truths[*job];
            let mut expected = truth.value_of(reference);
            expected.values_mut().for_each(|value| value.retain(|_, numbers| !numbers.is_empty()));
            assert_eq!(values, expected, "what checkpoint {} of job {job} holds", reference.id);
            assert_eq!(checkpoint.runtime, truth.runtime_of(reference), "the runtime's data");
        }
        let started = actor.coordinator.as_mut().unwrap().start(participants);
        started.unwrap();
        Some(shards)
    }

    /// Nothing fails any more: every job goes on, and what nobody needs goes.
    pub fn come_to_rest(&self) {
        let jobs = {
            let mut state = self.state.lock();
            state.trace(|| "faults end".into());
            state.chances = Chances::default();
            let slow = std::mem::take(&mut state.slow);
            state.network.extend(slow.into_iter().map(|(_, message)| message));
            while let Some(late) = state.late.pop() {
                state.land(late);
            }
            state.truths.len()
        };
        let mut going = Vec::new();
        for job in 0..jobs {
            going.push(self.the_one_that_counts(job));
        }
        for (job, at) in going.iter().enumerate() {
            self.begin_to_rest(job, *at);
        }
        for job in 0..jobs {
            self.unpin_all(job);
        }
        for (job, at) in going.into_iter().enumerate() {
            self.rest(job, at);
        }
    }

    /// The coordinator that was not fenced, or a new one, if it died.
    fn the_one_that_counts(&self, job: usize) -> usize {
        let found = {
            let mut state = self.state.lock();
            let epoch = state.truths[job].epoch();
            let counts = |actor: &Actor| {
                let with_shards = !state.shards_of(job, epoch).is_empty();
                actor.job == job && actor.epoch == epoch && !actor.door.is_crashed() && with_shards
            };
            let found = state.actors.iter().position(|actor| actor.as_ref().is_some_and(counts));
            let at = found.filter(|at| {
                // All its shards must live.
                let actor = state.actors[*at].as_ref().unwrap();
                let groups: u32 = state
                    .shards_of(job, epoch)
                    .into_iter()
                    .map(|at| state.shards[at].as_ref().unwrap())
                    .filter(|shard| !shard.door.as_ref().unwrap().is_crashed())
                    .map(|shard| shard.groups.iter().count() as u32)
                    .sum();
                actor.coordinator.is_some()
                    && groups == OPERATORS.iter().map(|(_, max)| max).sum::<u32>()
            });
            if at.is_some() {
                state.tally.went_on_after_faults += 1;
            }
            at
        };
        found.unwrap_or_else(|| self.open(job, true).expect("a store without faults"))
    }

    fn begin_to_rest(&self, job: usize, at: usize) {
        let mut state = self.state.lock();
        let epoch = state.actors[at].as_ref().unwrap().epoch;
        assert_eq!(state.truths[job].epoch(), epoch);
        let is_old = |of: usize, other: u64| of == job && other < epoch;
        for shard in &mut state.shards {
            if shard.as_ref().is_some_and(|shard| is_old(shard.job, shard.epoch)) {
                *shard = None;
            }
        }
        for actor in &mut state.actors {
            if actor.as_ref().is_some_and(|actor| is_old(actor.job, actor.epoch)) {
                *actor = None;
            }
        }
        let counts = |message: &Message| {
            message.epoch == epoch && !matches!(message.what, What::Barrier(..))
        };
        state.network.retain(|message| message.job != job || counts(message));
        // What was lost is said again.
        for at in state.shards_of(job, epoch) {
            let shard = state.shards[at].as_mut().unwrap();
            shard.go_on();
            if shard.finished {
                let what = What::Finish(shard.last_ack().unwrap().encode().unwrap());
                state.send(Message { job, epoch, what });
            }
        }
    }

    /// Readers end, and an administrator removes the pins of those that died.
    fn unpin_all(&self, job: usize) {
        let mut readers = Vec::new();
        let stale = {
            let mut state = self.state.lock();
            for at in 0..state.readers.len() {
                if state.readers[at].as_ref().is_some_and(|r| r.job == job && !r.for_good) {
                    state.pinned.remove(&at);
                    readers.extend(state.readers[at].take());
                }
            }
            let name = state.truths[job].name.clone();
            state.names(&format!("jobs/{name}/pins/")).cloned().collect::<Vec<_>>()
        };
        for reader in readers {
            // One that died leaves its pin.
            if let Err(error) = reader.guard.release() {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
        }
        let mut state = self.state.lock();
        let for_good = state.readers.iter().flatten().filter(|reader| reader.job == job);
        let mut for_good: Vec<_> = for_good
            .map(|reader| format!("/{:020}-{:010}-", reader.pinned.id.0, reader.pinned.epoch))
            .collect();
        let tops = state.truths.iter().filter_map(|truth| truth.top.as_ref());
        for_good.extend(tops.flat_map(|top| &top.borrowed).map(|borrowed| borrowed.pin.clone()));
        for name in stale.iter().filter(|name| !for_good.iter().any(|pin| name.contains(pin))) {
            state.objects.remove(name);
        }
    }

    /// Messages come, shards work, time passes.
    fn run(&self, job: usize, at: usize, ms: u64) {
        for _ in 0..30 {
            while let Some(message) = {
                let state = self.state.lock();
                state.network.iter().position(|message| message.job == job)
            } {
                self.deliver(Some(message));
            }
            let busy: Vec<_> = {
                let state = self.state.lock();
                let is_busy = |shard: &Shard| shard.job == job && shard.has_work();
                let slots = 0..state.shards.len();
                slots.filter(|at| state.shards[*at].as_ref().is_some_and(is_busy)).collect()
            };
            let is_idle = busy.is_empty();
            for at in busy {
                let mut shard = self.state.lock().shards[at].take().unwrap();
                self.work_on(&mut shard);
                self.state.lock().shards[at] = Some(shard);
            }
            self.with_actor(at, |sim, actor| {
                let polled = actor.coordinator.as_mut().unwrap().poll();
                sim.check(actor, polled).unwrap();
            });
            if is_idle {
                break;
            }
        }
        self.env.advance_ms(ms);
    }

    /// Lets a checkpoint be taken now, which must come to be.
    fn checkpoint(&self, job: usize, at: usize) {
        let mut id = None;
        self.with_actor(at, |sim, actor| {
            let begun = actor.coordinator.as_mut().unwrap().trigger();
            id = Some(sim.check(actor, begun).expect("a checkpoint begins").0);
        });
        let id = id.unwrap();
        (0..4).for_each(|_| self.run(job, at, 1));
        let state = self.state.lock();
        assert!(
            state.truths[job].accepted.contains_key(&id),
            "checkpoint {id} of job {job} came to nothing"
        );
    }

    fn rest(&self, job: usize, at: usize) {
        // What is under way comes to an end, one way or the other.
        (0..12).for_each(|_| self.run(job, at, 250));
        self.state.lock().trace(|| format!("job {job} comes to rest"));
        let is_stopped = self.state.lock().actors[at].is_none();
        if is_stopped {
            // It ended with a savepoint; the next one goes on from there.
            let at = self.open(job, true).unwrap();
            self.begin_to_rest(job, at);
            return self.rest(job, at);
        }
        self.hear_all(job);
        self.checkpoint(job, at);
        let epoch = self.state.lock().actors[at].as_ref().unwrap().epoch;
        self.end_base(job, epoch);
        self.with_actor(at, |_, actor| {
            let coordinator = actor.coordinator.as_mut().unwrap();
            coordinator.release_base();
            assert!(coordinator.deletes_nothing().is_none(), "{coordinator:?}");
            coordinator.sweep().unwrap();
        });
        self.checkpoint(job, at);
        self.checkpoint(job, at);
        self.with_actor(at, |_, actor| {
            let coordinator = actor.coordinator.as_mut().unwrap();
            for _ in 0..3 {
                assert!(coordinator.collect(usize::MAX).unwrap().is_done);
            }
        });
        self.assert_nothing_else(job);
    }

    /// There is what is kept, what is pinned, and the end of the journal.
    fn assert_nothing_else(&self, job: usize) {
        let state = self.state.lock();
        let truth = &state.truths[job];
        let top = truth.top.as_ref().unwrap();
        let mut expected: BTreeSet<String> = BTreeSet::new();
        for kept in top.kept() {
            expected.extend(truth.files_of(kept).iter().cloned());
        }
        for (of, _, files) in state.pinned.values() {
            if *of == job {
                expected.extend(files.iter().cloned());
            }
        }
        let root = format!("jobs/{}/", truth.name);
        let by_forks = state.pins.iter().filter(|(name, pinned)| {
            pinned.of == job && pinned.by != job && state.objects.contains_key(*name)
        });
        let by_forks: Vec<_> = by_forks.map(|(_, pinned)| pinned).collect();
        by_forks.iter().for_each(|pinned| expected.extend(pinned.files.iter().cloned()));
        let is_pinned = |id: u64| {
            let by_reader = |(of, what, _): &(usize, String, _)| {
                *of == job && *what == format!("checkpoint {id}")
            };
            state.pinned.values().any(by_reader) || by_forks.iter().any(|pinned| pinned.id == id)
        };
        let forgotten = top.retired.iter().all(|retired| is_pinned(retired.id.0));
        assert!(forgotten, "retired, gone, and not forgotten: {:#?}", top.retired);
        expected.retain(|name| name.starts_with(&root));
        let first = top.number.saturating_sub(15).max(1);
        expected.extend((first..=top.number).map(|number| entry_name(&truth.name, number)));
        // Answers that nobody fetched stay for a while.
        let aside = ["pins/", "answers/"].map(|folder| format!("{root}{folder}"));
        let is_aside = |name: &&String| aside.iter().any(|folder| name.starts_with(folder));
        let found: BTreeSet<_> =
            state.names(&root).filter(|name| !is_aside(name)).cloned().collect();
        let orphans: Vec<_> = found.difference(&expected).collect();
        let missing: Vec<_> = expected.difference(&found).collect();
        let missing: Vec<_> = missing.iter().filter(|name| !name.contains("/journal/")).collect();
        assert!(orphans.is_empty(), "left behind: {orphans:#?}\nof {top:#?}");
        assert!(missing.is_empty(), "not there: {missing:#?}");
    }
}
