//! Jobs that begin with the state of others, and savepoints that come from elsewhere.
//!
//! Whatever becomes a checkpoint without barriers must be one that some job once
//! completed: its runtime data says which (see [`Truth`](crate::truth::Truth)).

use std::sync::Arc;

use alluvium::coordinator::RestoreFrom;
use alluvium::format::{Checkpoint, CheckpointRef};
use alluvium::object::{MemoryStore, ObjectStore};
use alluvium::savepoint::{NativeSavepoint, export_native};
use alluvium::{ErrorKind, StoreSink};

use super::{Actor, Reader, Sim};
use crate::store::Door;

/// Savepoints outside that are kept; a newer one takes the place of an older.
const MOST_EXPORTED: usize = 3;

impl Sim {
    /// Begins with a checkpoint of another job, by the coordinator. `None` if there is
    /// nothing to begin with, or it could not be done.
    pub fn fork(&self, actor: &mut Actor) -> Option<(Checkpoint, CheckpointRef)> {
        let (other, name) = {
            let mut state = self.state.lock();
            let jobs = state.truths.len();
            let other = state.below(jobs);
            if other == actor.job || !state.rng.one_in(3) {
                return None;
            }
            (other, state.truths[other].name.clone())
        };
        let from = {
            let mut state = self.state.lock();
            let kept: Vec<_> = {
                let top = state.truths[other].top.as_ref()?;
                let names = top.savepoints.iter().map(|s| RestoreFrom::Savepoint(s.name.clone()));
                let ids = top.checkpoints.iter().map(|c| RestoreFrom::Checkpoint(c.id));
                names.chain(ids).chain([RestoreFrom::Latest]).collect()
            };
            kept[state.below(kept.len())].clone()
        };
        self.state.lock().truths[actor.job].forking.insert((actor.epoch, other));
        for _ in 0..4 {
            let forked = actor.coordinator.as_mut().unwrap().fork(&name, &from);
            match forked {
                Ok(checkpoint) => {
                    let view = actor.coordinator.as_ref().unwrap().view();
                    let reference = view.entry().resume.clone().unwrap();
                    assert_eq!((reference.id, reference.epoch), (checkpoint.id, checkpoint.epoch));
                    let mut state = self.state.lock();
                    state.trace(|| format!("job {} is a fork of {other}: {from}", actor.job));
                    state.tally.forks += 1;
                    return Some((checkpoint, reference));
                }
                // It was given up meanwhile, or there is none yet.
                Err(error) if error.kind() == ErrorKind::Invalid => return None,
                Err(error) => {
                    let in_doubt = error.may_have_happened();
                    self.state.lock().tally.forks_in_doubt += u64::from(in_doubt);
                    self.check::<()>(actor, Err(error));
                }
            }
            if actor.fenced || actor.door.is_crashed() {
                break;
            }
        }
        // Which of both it goes on from would have to be found out; a new one does.
        actor.fenced = true;
        None
    }

    /// Copies a checkpoint of a job into a folder outside of the store.
    pub fn export(&self) {
        let job = {
            let mut state = self.state.lock();
            let jobs = state.truths.len();
            state.below(jobs)
        };
        let Some((view, reference)) = self.pin_some(job, false) else { return };
        let source = StoreSink::new(Door::new(&self.me(), job));
        let target: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Arc::new(self.env.clone())));
        let exported = view.read(&reference).and_then(|checkpoint| {
            export_native(&checkpoint, &source, Arc::clone(&target), &mut |_| true)
        });
        match exported {
            Ok(_) => {
                let mut state = self.state.lock();
                if state.exported.len() == MOST_EXPORTED {
                    state.exported.remove(0);
                }
                state.exported.push(target);
                state.tally.exported += 1;
            }
            Err(error) => {
                let state = self.state.lock();
                let of = |reader: &&Reader| reader.job == job && reader.pinned == reference;
                // Others go on meanwhile, and this reader may have ended.
                let is_pinned = state.readers.iter().flatten().any(|reader| of(&reader));
                assert!(error.kind() == ErrorKind::Unavailable || !is_pinned, "{error}");
            }
        }
    }

    /// Brings a savepoint from elsewhere into a job.
    pub fn import(&self, actor: &mut Actor) {
        let (target, name) = {
            let mut state = self.state.lock();
            if state.exported.is_empty() {
                return;
            }
            let (all, at) = (state.exported.len(), state.below(4));
            let which = state.below(all);
            (Arc::clone(&state.exported[which]), format!("i{at}"))
        };
        let savepoint = NativeSavepoint::open(target).unwrap().unwrap();
        let coordinator = actor.coordinator.as_mut().unwrap();
        let taken = super::acts::is_taken(coordinator, &name);
        self.state.lock().truths[actor.job].importing.insert((actor.epoch, name.clone()));
        match coordinator.import(&savepoint, &name, &mut |_| true) {
            Err(error) if error.kind() == ErrorKind::Invalid => {
                // An entry that was in doubt may have had it.
                assert!(taken || super::acts::is_taken(coordinator, &name), "{error}");
            }
            imported => {
                if let Some(reference) = self.check(actor, imported) {
                    let mut state = self.state.lock();
                    state.trace(|| format!("{name} of job {} is {}", actor.job, reference.id));
                    state.tally.imported += 1;
                }
            }
        }
    }
}
