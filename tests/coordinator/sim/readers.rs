//! Who reads checkpoints, and keeps them by pins.

use alluvium::ErrorKind;
use alluvium::coordinator::JobView;
use alluvium::format::CheckpointRef;

use super::{Reader, Sim};
use crate::store::Door;

impl Sim {
    pub fn pin(&self) {
        let job = {
            let mut state = self.state.lock();
            let jobs = state.truths.len();
            state.below(jobs)
        };
        self.pin_some(job, false);
    }

    /// Pins a checkpoint of a job, for a reader or for good.
    pub fn pin_some(&self, job: usize, for_good: bool) -> Option<(JobView, CheckpointRef)> {
        let name = self.state.lock().truths[job].name.clone();
        let door = Door::new(&self.me(), job);
        let may_fail = |error: &alluvium::Error| {
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Invalid), "{error}");
        };
        let view = JobView::open(door, &name).inspect_err(may_fail).ok()??;
        let kept: Vec<_> = view.entry().kept().cloned().collect();
        if kept.is_empty() {
            return None;
        }
        let reference = kept[self.state.lock().below(kept.len())].clone();
        let guard = view.pin(&self.env, &reference, "reader").inspect_err(may_fail).ok()?;
        let mut state = self.state.lock();
        let files = state.truths[job].files_of(&reference);
        for name in &*files {
            assert!(state.objects.contains_key(name), "{name} was pinned and is not there");
        }
        let at = state.readers.len();
        state.pinned.insert(at, (job, format!("checkpoint {}", reference.id), files));
        state.readers.push(Some(Reader { job, guard, pinned: reference.clone(), for_good }));
        state.tally.pins += 1;
        drop(state);
        Some((view, reference))
    }

    pub fn unpin(&self) {
        let reader = {
            let mut state = self.state.lock();
            let Some(at) = state.pick(|state| &state.readers) else { return };
            if state.readers[at].as_ref().unwrap().for_good {
                return;
            }
            state.pinned.remove(&at);
            state.readers[at].take().unwrap()
        };
        let _ = reader.guard.release();
    }
}
