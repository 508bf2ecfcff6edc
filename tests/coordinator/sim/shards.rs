//! What shards do.

use alluvium::ErrorKind;
use alluvium::coordinator::Participant;

use super::{Message, Sim, What};
use crate::shard::Shard;

impl Sim {
    pub fn with_shard(&self, act: impl FnOnce(&Self, &mut Shard)) {
        let Some((at, mut shard)) = ({
            let mut state = self.state.lock();
            state.pick(|state| &state.shards).map(|at| (at, state.shards[at].take().unwrap()))
        }) else {
            return;
        };
        act(self, &mut shard);
        if !shard.door.as_ref().unwrap().is_crashed() {
            self.state.lock().shards[at] = Some(shard);
        }
    }

    pub fn write(&self) {
        self.with_shard(|sim, shard| {
            let mut state = sim.state.lock();
            for _ in 0..=state.below(4) {
                state.numbers += 1;
                let number = state.numbers;
                shard.write(number, &mut state.rng);
            }
        });
    }

    pub fn merge(&self) {
        self.with_shard(|sim, shard| {
            let rng = &mut sim.state.lock().rng;
            if rng.one_in(2) { shard.merge(rng) } else { shard.merge_all() }
        });
    }

    pub fn work(&self) {
        self.with_shard(|sim, shard| sim.work_on(shard));
    }

    pub fn work_on(&self, shard: &mut Shard) {
        let Some((id, ack)) = shard.work() else { return };
        let (job, epoch) = (shard.job, shard.epoch);
        let mut state = self.state.lock();
        let what = match ack {
            Ok(ack) => What::Ack(id.0, ack.encode().unwrap()),
            Err(error) => {
                // What those before wrote may be swept while they look at it, and what
                // shards of a cancelled job write.
                let truth = &state.truths[job];
                let is_last = truth.epoch() == epoch && !truth.cancelling.contains(&epoch);
                assert!(!is_last || error.kind() == ErrorKind::Unavailable, "{error}");
                What::Decline(id.0, participant(shard))
            }
        };
        state.send(Message { job, epoch, what });
    }

    pub fn finish_one(&self) {
        self.with_shard(|sim, shard| {
            if let Some(last) = shard.finish() {
                let (job, epoch) = (shard.job, shard.epoch);
                let mut state = sim.state.lock();
                state.truths[job].finished.insert((epoch, shard.key()), shard.value.clone());
                let what = What::Finish(last.encode().unwrap());
                state.send(Message { job, epoch, what });
                state.tally.finished += 1;
            }
        });
    }

    /// Shards may read what they were restored from until they say that they will not.
    pub fn read_base(&self) {
        self.with_shard(|sim, shard| {
            let mut state = sim.state.lock();
            let truth = &state.truths[shard.job];
            let is_there = truth.base.as_ref().is_some_and(|(epoch, _)| *epoch == shard.epoch)
                && truth.epoch() == shard.epoch;
            if !is_there {
                return;
            }
            if let Some((location, contents)) = shard.read_base(&mut state.rng) {
                let found = state.objects.get(location);
                let found = found.unwrap_or_else(|| panic!("{location} went while it was read"));
                assert_eq!(found.len() as u64, contents.bytes);
                state.tally.base_reads += 1;
            }
        });
    }
}

pub fn participant(shard: &Shard) -> Participant {
    Participant {
        operator: shard.operator.to_owned(),
        groups: shard.groups,
        max_parallelism: crate::shard::max_of(shard.operator),
    }
}
