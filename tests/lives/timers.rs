//! Timers by both times.

use alluvium::{ErrorKind, TimeDomain, TimerStore};

use crate::job::Life;
use crate::model::{Kind, PLACES, Place, STATES};

fn time_of(state: usize) -> TimeDomain {
    match STATES[state].0 {
        Kind::Timers(time) => time,
        kind => panic!("{kind:?}"),
    }
}

impl Life {
    fn open_timers(&self) -> Vec<usize> {
        (0..STATES.len())
            .filter(|&state| STATES[state].0.is_timers() && self.is_open[state])
            .collect()
    }

    pub fn timers_step(&mut self) {
        let open = self.open_timers();
        if open.is_empty() {
            return;
        }
        let state = open[self.pick(open.len())];
        if self.rng.one_in(5) {
            self.fire_some(state);
            return;
        }
        for _ in 0..1 + self.rng.below(6) {
            if self.rng.one_in(4) {
                self.delete_timer(state);
            } else {
                self.register_timer(state);
            }
        }
    }

    /// A time around that of now; few, so that there are ties.
    fn any_time(&mut self, state: usize) -> i64 {
        let now = match time_of(state) {
            TimeDomain::Event => self.image.watermark.unwrap_or(5_000),
            TimeDomain::Processing => self.now_ms(),
        };
        if self.rng.one_in(40) {
            return [i64::MIN + 1, -1, i64::MAX - 1][self.pick(3)];
        }
        (now / 100 + self.rng.below(20) as i64 - 3) * 100
    }

    fn register_timer(&mut self, state: usize) {
        let number = self.rng.below(PLACES);
        let time = self.any_time(state);
        let place = Place::of(STATES[state].0, number);
        let at = self.owner(&place);
        let running = &mut self.shards[at];
        let id = running.timers(state);
        let done = running.shard.register_timer(id, time, place.at());
        let told = running.told[state].filter(|_| time_of(state) == TimeDomain::Event);
        if told.is_some_and(|told| time <= told) {
            self.tally.count("too late", 1);
            assert_eq!(done.unwrap_err().kind(), ErrorKind::Invalid);
        } else {
            let new = self.image.states[state].timers.insert((time, number));
            assert_eq!(done.unwrap(), new, "timer {time} of {place:?}");
        }
    }

    fn delete_timer(&mut self, state: usize) {
        let timers = &self.image.states[state].timers;
        let (time, number) = match timers.len() {
            0 => (5_000, 0),
            all => *timers.iter().nth(self.rng.below(all as u64) as usize).unwrap(),
        };
        let number = if self.rng.one_in(5) { self.rng.below(PLACES) } else { number };
        let place = Place::of(STATES[state].0, number);
        let at = self.owner(&place);
        let running = &mut self.shards[at];
        let id = running.timers(state);
        let deleted = running.shard.delete_timer(id, time, place.at()).unwrap();
        let expected = self.image.states[state].timers.remove(&(time, number));
        assert_eq!(deleted, expected, "timer {time} of {place:?}");
    }

    fn fire_some(&mut self, state: usize) {
        let now = match time_of(state) {
            TimeDomain::Event => self.image.watermark.unwrap_or(5_000) + self.rng.below(300) as i64,
            TimeDomain::Processing => self.now_ms(),
        };
        // Not always to the last one that is due.
        let most = if self.rng.one_in(3) { self.rng.below(4) } else { u64::MAX };
        for at in 0..self.shards.len() {
            self.fire(state, at, now, most);
        }
    }

    fn fire(&mut self, state: usize, at: usize, now: i64, most: u64) {
        let mut popped = 0;
        while popped < most {
            let running = &mut self.shards[at];
            let id = running.timers(state);
            let mut taken = None;
            let fired = running
                .shard
                .pop_due(id, now, &mut |timer| {
                    let (key, namespace) = (timer.key.to_vec(), timer.namespace.to_vec());
                    let place = Place { group: timer.group.0, key, namespace };
                    taken = Some((timer.timestamp, place));
                    Ok(())
                })
                .unwrap();
            running.told[state] = running.told[state].max(Some(now));
            let kind = STATES[state].0;
            let timers = &mut self.image.states[state].timers;
            let ours = timers
                .iter()
                .copied()
                .filter(|(time, number)| *time <= now && running.owns(&Place::of(kind, *number)));
            let due: Vec<(i64, u64)> = ours.collect();
            let Some((time, place)) = taken else {
                assert!(!fired && due.is_empty(), "{due:?} of state {state} are due at {now}");
                return;
            };
            assert_eq!(time, due.first().expect("none is due").0, "the earliest first");
            let mut tied = due.iter().filter(|timer| timer.0 == time).map(|timer| timer.1);
            let number = tied.clone().find(|number| Place::of(kind, *number) == place);
            let number = number.unwrap_or_else(|| panic!("{place:?} at {time}: {due:?}"));
            let ties = &self.ties;
            assert!(
                !tied.clone().any(|other| ties.contains(&(state, time, other, number))),
                "ties fire in one order"
            );
            let others = tied.by_ref().filter(|other| *other != number);
            self.ties.extend(others.map(|other| (state, time, number, other)));
            timers.remove(&(time, number));
            popped += 1;
            self.tally.count("popped", 1);
        }
    }

    /// Compares what is known of timers without firing them.
    pub fn check_timers(&mut self) {
        for state in self.open_timers() {
            let kind = STATES[state].0;
            for running in &mut self.shards {
                let timers = &self.image.states[state].timers;
                let ours =
                    timers.iter().filter(|(_, number)| running.owns(&Place::of(kind, *number)));
                let ours: Vec<i64> = ours.map(|(time, _)| *time).collect();
                let id = running.timers(state);
                assert_eq!(running.shard.next_timer(id).unwrap(), ours.first().copied());
                assert_eq!(running.shard.pending_timers(id).unwrap(), ours.len() as u64);
                assert_eq!(running.shard.timer_watermark(id).unwrap(), running.told[state]);
            }
        }
    }

    /// Fires all timers there are; the job is not to go on after this.
    pub fn fire_to_the_end_of_time(&mut self) {
        for state in self.open_timers() {
            for at in 0..self.shards.len() {
                self.fire(state, at, i64::MAX, u64::MAX);
            }
            assert!(self.image.states[state].timers.is_empty());
        }
    }
}
