//! What happens to coordinators.

use std::sync::Arc;

use alluvium::coordinator::StopMode;
use alluvium::format::CheckpointKind;
use alluvium::{Coordinator, ErrorKind, SnapshotMode};

use super::{Actor, Sim};
use crate::shard::Shard;

impl Sim {
    pub fn end_base(&self, job: usize, epoch: u64) {
        let truth = &mut self.state.lock().truths[job];
        if truth.base.as_ref().is_some_and(|(of, _)| *of == epoch) {
            truth.base = None;
        }
    }

    pub fn close_shards(&self, job: usize, epoch: u64) {
        self.end_base(job, epoch);
        let mut state = self.state.lock();
        for at in state.shards_of(job, epoch) {
            state.shards[at] = None;
        }
    }

    pub fn poll(&self, actor: &mut Actor) {
        let polled = actor.coordinator.as_mut().unwrap().poll();
        self.check(actor, polled);
    }

    pub fn trigger(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        if coordinator.under_way().count() < 4 && !is_stopping(coordinator) {
            let mode = self.state.lock().some_mode();
            let begun = match coordinator.trigger_as(mode) {
                // A shard has come to its end.
                Err(error) if mode == SnapshotMode::Full && error.kind() == ErrorKind::Invalid => {
                    coordinator.trigger()
                }
                begun => begun,
            };
            self.check(actor, begun);
        }
    }

    pub fn savepoint(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        if coordinator.under_way().count() < 4 && !is_stopping(coordinator) {
            let name = format!("s{}", self.state.lock().below(4));
            let taken = is_taken(coordinator, &name);
            let mode = self.state.lock().some_mode();
            match coordinator.savepoint_as(&name, mode) {
                Err(error) if error.to_string().contains("come to its end") => {
                    assert_eq!(mode, SnapshotMode::Full);
                }
                Err(error) if error.kind() == ErrorKind::Invalid => assert!(taken, "{error}"),
                begun => drop(self.check(actor, begun)),
            }
        }
    }

    pub fn stop(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        if !is_stopping(coordinator) {
            let number = self.state.lock().below(1000);
            let begun = coordinator.stop(&format!("stop-{number}"), StopMode::Suspend);
            if begun.as_ref().is_err_and(|error| error.kind() == ErrorKind::Invalid) {
                return;
            }
            self.check(actor, begun);
        }
    }

    pub fn dispose(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        let view = coordinator.view();
        let names: Vec<_> = {
            let state = self.state.lock();
            let savepoints = view.entry().savepoints.iter().map(|s| s.name.clone());
            savepoints.filter(|name| !state.truths[actor.job].is_owed(name)).collect()
        };
        if names.is_empty() {
            return;
        }
        let name = {
            let mut state = self.state.lock();
            let name = names[state.below(names.len())].clone();
            state.truths[actor.job].disposing.insert((actor.epoch, name.clone()));
            name
        };
        let disposed = coordinator.dispose(&name);
        if disposed.as_ref().is_err_and(|error| error.kind() == ErrorKind::Invalid) {
            return;
        }
        if self.check(actor, disposed).is_some() {
            self.state.lock().tally.disposed += 1;
        }
    }

    pub fn give_up(&self, actor: &mut Actor) {
        let coordinator = actor.coordinator.as_mut().unwrap();
        let ids: Vec<_> = coordinator.under_way().map(|(barrier, _)| barrier.id).collect();
        if !ids.is_empty() {
            let id = ids[self.state.lock().below(ids.len())];
            coordinator.abort(id, "");
        }
    }

    pub fn collect(&self, actor: &mut Actor) {
        let limit = self.state.lock().below(6);
        let collected = actor.coordinator.as_mut().unwrap().collect(limit);
        self.check(actor, collected);
    }

    pub fn cancel(&self, actor: &mut Actor) {
        if !self.state.lock().rng.one_in(3) {
            return;
        }
        self.close_shards(actor.job, actor.epoch);
        self.drain(actor);
        self.state.lock().truths[actor.job].cancelling.insert(actor.epoch);
        let cancelled = actor.coordinator.take().unwrap().cancel();
        if self.check(actor, cancelled).is_some() {
            self.state.lock().tally.cancelled += 1;
        }
    }

    pub fn crash(&self) {
        let mut state = self.state.lock();
        if state.rng.one_in(2) {
            if let Some(at) = state.pick(|state| &state.shards) {
                // Its whole process.
                let door = state.shards[at].as_ref().unwrap().door.clone().unwrap();
                door.crash();
                let same = |shard: &Shard| Arc::ptr_eq(shard.door.as_ref().unwrap(), &door);
                state.shards.iter_mut().for_each(|slot| {
                    if slot.as_ref().is_some_and(same) {
                        *slot = None;
                    }
                });
            }
        } else if let Some(at) = state.pick(|state| &state.actors) {
            state.trace(|| "a coordinator crashes".into());
            state.tally.crashed += 1;
            state.actors[at] = None;
        }
    }
}

fn is_stopping(coordinator: &Coordinator) -> bool {
    coordinator.under_way().any(|(barrier, _)| barrier.stop.is_some())
}

pub fn is_taken(coordinator: &Coordinator, name: &str) -> bool {
    let under_way = coordinator
        .under_way()
        .any(|(barrier, _)| barrier.kind == CheckpointKind::Savepoint(name.to_owned()));
    under_way || coordinator.view().entry().savepoint(name).is_some()
}
