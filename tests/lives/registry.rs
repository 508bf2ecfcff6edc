//! Which states there are, how long they live, and what time it is for them.

use std::time::Duration;

use alluvium::env::Env;
use alluvium::{KeyedStore, TimeDomain, Ttl, TtlUpdate};

use crate::job::Life;
use crate::model::{Rule, STATES, State};

const DAY_MS: i64 = 86_400_000;

impl Life {
    pub fn now_ms(&self) -> i64 {
        self.env.unix_time_ms() as i64
    }

    pub fn rule(&self, state: usize) -> Rule {
        let time = self.times[state];
        let now = match time {
            TimeDomain::Processing => Some(self.now_ms()),
            TimeDomain::Event => self.image.watermark,
        };
        Rule { ttl: self.ttls[state], time, now }
    }

    /// Notes what has expired by now, here and, by the clock, in snapshots that
    /// are under way: their tables may be merged with what is older before they
    /// are done.
    pub fn doom(&mut self) {
        for state in (0..STATES.len()).filter(|&state| self.is_open[state]) {
            let rule = self.rule(state);
            rule.doom(&mut self.image.states[state]);
            if rule.time == TimeDomain::Event {
                continue;
            }
            let name = &self.image.states[state].name;
            for point in self.checkpoints.iter_mut().filter(|point| point.handles.is_none()) {
                // The table may have been dropped since, and be something else.
                let theirs = &mut point.image.states[state];
                if theirs.name == *name {
                    rule.doom(theirs);
                }
            }
        }
        self.doom_what_was_dropped();
    }

    /// A merge that was under way when a state was dropped goes on by its rule.
    fn doom_what_was_dropped(&mut self) {
        for point in self.checkpoints.iter_mut().filter(|point| point.handles.is_none()) {
            for (theirs, ours) in point.image.states.iter_mut().zip(&self.image.states) {
                if theirs.timed && (!ours.is_there || theirs.name != ours.name) {
                    let cells = theirs.cells.values_mut().flatten();
                    cells.for_each(|(_, cell)| cell.doomed = true);
                }
            }
        }
    }

    pub fn pass(&mut self) {
        self.tally.count("clock", 1);
        let by = match self.rng.below(12) {
            0 => self.rng.below(30) as i64 * DAY_MS,
            1 => -(self.rng.below(30) as i64 * DAY_MS),
            2 => -(self.rng.below(3_000) as i64),
            3..=6 => self.rng.below(400) as i64,
            _ => self.rng.below(3_000) as i64,
        };
        self.env.shift_wall_clock(by);
        self.doom();
    }

    pub fn advance_watermark(&mut self) {
        self.tally.count("watermark", 1);
        let before = self.image.watermark.unwrap_or(5_000);
        // One that lies before an earlier one is passed over.
        let to = before + self.rng.below(700) as i64 - 60;
        for running in &mut self.shards {
            running.shard.advance_watermark(to);
        }
        for state in (0..STATES.len()).filter(|&state| self.is_open[state]) {
            let timed = self.ttls[state].is_some() && self.times[state] == TimeDomain::Event;
            let since = &mut self.image.states[state].since;
            if timed && since.is_none() {
                *since = Some(to);
            }
        }
        self.image.watermark = self.image.watermark.max(Some(to));
        self.doom();
        for running in &self.shards {
            assert_eq!(running.shard.watermark(), self.image.watermark);
        }
    }

    fn any_ttl(&mut self, state: usize) -> Option<Ttl> {
        if !STATES[state].1 || self.rng.one_in(4) {
            return None;
        }
        let duration = [200, 1_000, 20_000][self.pick(3)];
        let update = [TtlUpdate::OnCreateAndWrite, TtlUpdate::OnReadAndWrite][self.pick(2)];
        let ttl = Ttl::after(Duration::from_millis(duration));
        Some(ttl.update(update).time(self.times[state]))
    }

    /// Registers a state on all shards, as it was or anew.
    pub fn register(&mut self, state: usize) {
        let ttl = self.any_ttl(state);
        self.ttls[state] = ttl;
        self.is_open[state] = true;
        let held = &mut self.image.states[state];
        held.is_there = true;
        for running in &mut self.shards {
            running.register(state, &held.name, ttl, (self.version, &self.door));
        }
        let rule = self.rule(state);
        let held = &mut self.image.states[state];
        if ttl.is_some() && !held.timed {
            // What has no stamp counts as written now; what kept one, as then.
            held.since = rule.now;
            for (_, cell) in held.cells.values_mut().flatten() {
                cell.oldest = cell.oldest.min(rule.now);
                cell.newest = cell.newest.max(rule.now);
            }
        } else if ttl.is_some() && held.since.is_none() {
            held.since = rule.now;
        }
        if held.timed != ttl.is_some() && !held.cells.is_empty() {
            self.tally.count("time to live changed", 1);
        }
        held.timed = ttl.is_some();
        rule.doom(held);
    }

    pub fn register_some(&mut self) {
        let closed = (0..STATES.len()).filter(|&state| !self.is_open[state]);
        let closed: Vec<usize> = closed.collect();
        if !closed.is_empty() {
            self.tally.count("registered later", 1);
            let state = closed[self.pick(closed.len())];
            self.register(state);
        }
    }

    pub fn open_all(&mut self) {
        for state in 0..STATES.len() {
            if !self.is_open[state] {
                self.register(state);
            }
        }
    }

    /// Drops a state on all shards; sometimes two, which then change names.
    pub fn drop_some(&mut self) {
        if self.rng.one_in(4) {
            self.drop_operator_state();
            return;
        }
        let (one, other) = (self.pick(STATES.len()), self.pick(STATES.len()));
        let both = self.rng.one_in(2) && one != other;
        for state in [Some(one), both.then_some(other)].into_iter().flatten() {
            let held = &mut self.image.states[state];
            let is_there = held.is_there;
            let name = held.name.clone();
            *held = State::absent(name.clone());
            (self.is_open[state], self.ttls[state]) = (false, None);
            for running in &mut self.shards {
                assert_eq!(running.shard.drop_state(&name).unwrap(), is_there, "{name:?}");
                running.open[state] = None;
            }
            self.ties.retain(|tie| tie.0 != state);
            self.tally.count("dropped", u64::from(is_there));
        }
        if both {
            let name = self.image.states[one].name.clone();
            let name = std::mem::replace(&mut self.image.states[other].name, name);
            self.image.states[one].name = name;
        }
        if self.rng.one_in(2) {
            self.register(one);
        }
    }
}
