//! Others who ask the coordinator of a job for something, and wait for its answer.
//!
//! Names of savepoints that are asked for are asked for once, so that it can be told what
//! came of which request.

use alluvium::coordinator::{Asked, JobView, ask};
use alluvium::format::{Action, Answer};
use alluvium::{ErrorKind, SnapshotId};

use super::Sim;
use crate::store::Door;

/// What the names of savepoints begin with that were asked for.
pub const ASKED_FOR: &str = "r";

/// Who waits for answers of one job; savepoints for more would leave room for nothing else.
const MOST_ASKERS: usize = 3;

/// Somebody who waits for an answer.
pub struct Asker {
    pub job: usize,
    pub asked: Asked,
    pub action: Action,
    /// The journal entry that it had read.
    pub seen: u64,
}

impl Sim {
    /// Somebody asks a job for something.
    pub fn ask(&self) {
        let job = {
            let mut state = self.state.lock();
            let jobs = state.truths.len();
            state.below(jobs)
        };
        let name = {
            let state = self.state.lock();
            if state.askers.iter().flatten().filter(|asker| asker.job == job).count() >= MOST_ASKERS
            {
                return;
            }
            state.truths[job].name.clone()
        };
        let door = Door::new(&self.me(), job);
        let may_fail = |error: &alluvium::Error| {
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::Invalid), "{error}");
        };
        let store = || std::sync::Arc::clone(&door);
        let Ok(Some(view)) = JobView::open(store(), &name).inspect_err(may_fail) else { return };
        let action = {
            let mut state = self.state.lock();
            let kept: Vec<SnapshotId> = view.entry().kept().map(|kept| kept.id).collect();
            let names: Vec<String> = view
                .entry()
                .savepoints
                .iter()
                .map(|savepoint| savepoint.name.clone())
                .filter(|name| !state.truths[job].is_owed(name))
                .collect();
            state.requests += 1;
            let new = format!("{ASKED_FOR}{}", state.requests);
            match state.below(3) {
                0 if !kept.is_empty() => Action::Keep(kept[state.below(kept.len())], new),
                1 if !names.is_empty() => {
                    let name = names[state.below(names.len())].clone();
                    state.truths[job].asked_to_dispose.insert(name.clone());
                    Action::Dispose(name)
                }
                _ => Action::Savepoint(new, state.some_mode()),
            }
        };
        if let Action::Savepoint(name, _) | Action::Keep(_, name) = &action {
            let owed = name.clone();
            self.state.lock().truths[job].owed.insert(owed);
        }
        let asked = ask(store(), &self.env, &view, "an asker", action.clone());
        let Ok(asked) = asked.inspect_err(may_fail) else { return };
        let mut state = self.state.lock();
        state.trace(|| format!("{} asks job {job} for {action:?}", asked.name()));
        state.tally.asked += 1;
        let seen = view.entry().number;
        state.askers.push(Some(Asker { job, asked, action, seen }));
    }

    /// Somebody looks for the answer, or has waited long enough.
    pub fn hear(&self) {
        let Some((at, asker)) = ({
            let mut state = self.state.lock();
            state.pick(|state| &state.askers).map(|at| (at, state.askers[at].take().unwrap()))
        }) else {
            return;
        };
        if self.state.lock().rng.one_in(40) {
            // It may be done all the same, and whoever it was does not want to know.
            let _ = asker.asked.take_back();
            return;
        }
        let answer = match asker.asked.answer() {
            Ok(Some(answer)) => answer,
            Ok(None) => return self.state.lock().askers[at] = Some(asker),
            // The answer may be gone by now: whoever asks hears nothing any more.
            Err(error) => return assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        };
        self.check_answer(&asker, &answer);
    }

    fn check_answer(&self, asker: &Asker, answer: &Answer) {
        let mut state = self.state.lock();
        let Asker { job, action, seen, asked } = asker;
        state.trace(|| format!("{} hears {answer:?}", asked.name()));
        state.tally.answered += 1;
        if answer.refused.is_some() {
            state.tally.refused += 1;
            return;
        }
        let truth = &mut state.truths[*job];
        match action {
            Action::Savepoint(name, _) | Action::Keep(_, name) => {
                let id = answer.id.expect("a savepoint has a number").0;
                let was_kept = truth.named.contains(&(name.clone(), id));
                assert!(was_kept, "savepoint {name} is said to be {id} and was never there");
                if let Action::Keep(asked_for, _) = action {
                    assert_eq!(asked_for.0, id, "another checkpoint is kept as {name}");
                }
                truth.owed.remove(name);
            }
            Action::Dispose(name) => {
                let left = truth.left.get(name).copied().unwrap_or(0);
                assert!(left > *seen, "savepoint {name} is said to be gone and is there");
            }
            Action::Checkpoint(..) | Action::SavepointInto { .. } => {
                unreachable!("nobody here asks for one")
            }
        }
    }

    /// Nothing fails any more: every request is answered, and every answer heard.
    pub fn hear_all(&self, job: usize) {
        let askers: Vec<Asker> = {
            let mut state = self.state.lock();
            let of_job = |asker: &mut Option<Asker>| asker.take_if(|asker| asker.job == job);
            state.askers.iter_mut().filter_map(of_job).collect()
        };
        for asker in askers {
            let answer = asker.asked.answer().unwrap();
            let answer = answer.unwrap_or_else(|| panic!("{:?} was not answered", asker.asked));
            self.check_answer(&asker, &answer);
        }
    }
}
