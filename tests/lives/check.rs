//! Comparing what the engine says with the model.

use alluvium::KeyedStore;

use crate::job::Life;
use crate::model::{Is, Kind, PLACES, Place, STATES};

type Bytes = Vec<u8>;

impl Life {
    /// A read said this of one cell: it may, and now more is known.
    pub fn found(&mut self, state: usize, number: u64, name: &[u8], seen: Option<&[u8]>) {
        let rule = self.rule(state);
        let held = &mut self.image.states[state];
        let what = || format!("{:?}, state {state}, place {number}, {name:?}", STATES[state].0);
        let named = held.cells.get_mut(&number);
        let cell = named.and_then(|named| named.iter_mut().find(|(known, _)| known == name));
        let Some((_, cell)) = cell else {
            assert_eq!(seen, None, "{}: it is not there", what());
            return;
        };
        let is = rule.is(held.since, cell);
        let expected = cell.read_by(self.version);
        match (seen, is) {
            (Some(seen), Is::There | Is::EitherWay) => {
                assert!(seen == expected, "{}: {cell:?}, {seen:?}", what());
            }
            (None, Is::Gone | Is::EitherWay) => {}
            (seen, _) => panic!(
                "{}: {cell:?} is {is:?}, and a read says {seen:?}; {rule:?} since {:?}",
                what(),
                held.since
            ),
        }
        self.tally.count("expired", u64::from(is == Is::Gone));
        self.tally.count("either way", u64::from(is == Is::EitherWay));
        if seen.is_none() {
            // Hidden, or removed; if the clock goes back it may be there.
            cell.doomed = true;
        } else if rule.renews() {
            // Only what is surely not expired was surely renewed.
            if !rule.expired(held.since, cell.oldest) {
                (cell.oldest, cell.doomed) = (rule.now, false);
            }
            cell.newest = rule.now;
        }
    }

    /// A scan said this of the entries of these names.
    pub fn found_entries(
        &mut self,
        state: usize,
        number: u64,
        names: Vec<Bytes>,
        seen: Vec<(Bytes, Bytes)>,
    ) {
        assert!(seen.is_sorted_by(|one, other| one.0 < other.0), "in order, each once");
        let mut seen = seen.into_iter().peekable();
        for name in names {
            let value = seen.next_if(|(entry, _)| *entry == name).map(|(_, value)| value);
            self.found(state, number, &name, value.as_deref());
        }
        let rest: Vec<_> = seen.collect();
        assert!(rest.is_empty(), "state {state}, place {number}: {rest:?} is not there");
    }

    /// Reads what a state has for a place, in some way.
    pub fn check(&mut self, state: usize, number: u64) {
        let (place, at) = self.place(state, number);
        match STATES[state].0 {
            Kind::List => {
                let seen = self.shards[at].list(state, &place);
                let named = self.image.states[state].cells.get(&number).cloned();
                let mut seen = seen.into_iter().peekable();
                for (name, cell) in named.unwrap_or_default() {
                    let expected = cell.read_by(self.version);
                    let element = seen.next_if(|element| *element == expected);
                    self.found(state, number, &name, element.as_deref());
                }
                let rest: Vec<_> = seen.collect();
                assert!(rest.is_empty(), "state {state}, place {number}: {rest:?} is not there");
            }
            Kind::Map if self.rng.one_in(2) => self.look_into_map(state, number),
            Kind::Map => {
                let seen = self.shards[at].map(state, &place);
                let named = self.image.states[state].cells.get(&number).cloned();
                let names = named.unwrap_or_default().into_iter().map(|(name, _)| name).collect();
                self.found_entries(state, number, names, seen);
            }
            _ if self.rng.one_in(3) => {
                let running = &mut self.shards[at];
                let id = running.id(state);
                let mut seen = None;
                let visit = &mut |_, value: Option<&[u8]>| seen = value.map(<[u8]>::to_vec);
                running.shard.get_many(id, &[place.at()], visit).unwrap();
                self.found(state, number, &[], seen.as_deref());
            }
            _ => {
                let seen = self.shards[at].get(state, &place);
                self.found(state, number, &[], seen.as_deref());
            }
        }
    }

    /// Whether a state has anything for a place: it may be so.
    pub fn check_there(&self, state: usize, number: u64, there: bool) {
        let rule = self.rule(state);
        let held = &self.image.states[state];
        let named = held.cells.get(&number).map_or(&[][..], |named| named);
        let mut all = named.iter().map(|(_, cell)| rule.is(held.since, cell));
        let may = if there { all.any(|is| is != Is::Gone) } else { all.all(|is| is != Is::There) };
        assert!(
            may,
            "state {state}, place {number}, {there}: {named:?}, {rule:?} since {:?}",
            held.since
        );
    }

    /// Compares the keys of every open state, all of them or those of a namespace.
    pub fn check_keys(&mut self) {
        for (state, (kind, _)) in STATES.into_iter().enumerate() {
            if kind.is_timers() || !self.is_open[state] {
                continue;
            }
            let wanted = Place::of(kind, self.rng.below(PLACES)).namespace;
            let wanted = self.rng.one_in(2).then_some(wanted);
            let mut found = Vec::new();
            for running in &mut self.shards {
                let places = running.places(state, wanted.as_deref());
                assert!(places.iter().all(|place| running.owns(place)), "a key of another shard");
                found.extend(places);
            }
            for number in 0..PLACES {
                let place = Place::of(kind, number);
                if wanted.as_ref().is_none_or(|wanted| *wanted == place.namespace) {
                    let before = found.len();
                    found.retain(|other| *other != place);
                    assert!(before - found.len() <= 1, "state {state}: {place:?} twice");
                    self.check_there(state, number, before > found.len());
                }
            }
            assert!(found.is_empty(), "state {state}: {found:?} were never written");
        }
    }

    /// Every shard lists the states that were registered once and not dropped.
    pub fn assert_states_are_listed(&self) {
        let there = self.image.states.iter().filter(|state| state.is_there);
        let mut expected: Vec<&str> = there.map(|state| &*state.name).collect();
        expected.sort_unstable();
        for running in &self.shards {
            let listed = running.shard.states();
            let listed: Vec<&str> = listed.iter().map(|info| &*info.meta.name).collect();
            assert_eq!(listed, expected, "the states of {}", running.shard.groups());
        }
    }

    /// Compares all that is open.
    pub fn check_all(&mut self) {
        for (state, (kind, _)) in STATES.into_iter().enumerate() {
            if !kind.is_timers() && self.is_open[state] {
                for number in 0..PLACES {
                    self.check(state, number);
                }
            }
        }
        self.check_keys();
        self.check_timers();
        self.check_operators();
        self.assert_states_are_listed();
    }
}
