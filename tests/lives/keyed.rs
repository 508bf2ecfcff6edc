//! Reads and writes of values, lists, maps and what is reduced or aggregated.

use std::ops::{Bound, ControlFlow};

use alluvium::KeyedStore;

use crate::engine::Open;
use crate::job::Life;
use crate::model::{Cell, Kind, Named, PLACES, Place, STATES};
use crate::thing::{NOTHING, Thing, accumulated, reduced};

type Bytes = Vec<u8>;

impl Life {
    pub fn operate_on_some(&mut self) {
        let state = self.pick(STATES.len());
        if STATES[state].0.is_timers() || !self.is_open[state] {
            return;
        }
        for _ in 0..1 + self.rng.below(5) {
            let number = self.rng.below(PLACES);
            match (STATES[state].0, self.rng.below(14)) {
                (_, 0) => self.clear(state, number),
                (_, 1..=4) => self.check(state, number),
                (Kind::Value, 5..=7) => self.update(state, number),
                (Kind::Value, _) => self.put(state, number),
                (Kind::List, 5) => self.replace(state, number),
                (Kind::List, _) => self.append(state, number),
                (Kind::Map, 5..=6) => self.remove_entry(state, number),
                (Kind::Map, _) => self.put_entries(state, number),
                (_, 5..=7) => self.merge(state, number),
                _ => self.accumulate(state, number),
            }
        }
    }

    /// The shard that owns a key.
    pub fn owner(&self, place: &Place) -> usize {
        let owner = self.shards.iter().position(|running| running.owns(place));
        owner.expect("every group has a shard")
    }

    pub fn place(&self, state: usize, number: u64) -> (Place, usize) {
        let place = Place::of(STATES[state].0, number);
        let at = self.owner(&place);
        (place, at)
    }

    fn next_number(&mut self) -> u32 {
        self.written += 1;
        self.written
    }

    /// Something that is written now.
    fn fresh(&self, state: usize, number: u32) -> Cell {
        let now = self.rule(state).now;
        Cell { number, by: self.version, oldest: now, newest: now, doomed: false }
    }

    fn set(&mut self, state: usize, place: u64, named: Named) {
        let cells = &mut self.image.states[state].cells;
        if named.is_empty() {
            cells.remove(&place);
        } else {
            cells.insert(place, named);
        }
    }

    fn clear(&mut self, state: usize, number: u64) {
        let (place, at) = self.place(state, number);
        let running = &mut self.shards[at];
        let (key, namespace) = (&place.key, &place.namespace);
        match running.open[state].as_ref().expect("it is open") {
            Open::Reducing(state) => state.clear_in(&mut running.shard, key, namespace).unwrap(),
            Open::Aggregating(state) => state.clear_in(&mut running.shard, key, namespace).unwrap(),
            Open::Plain(id) => running.shard.clear(*id, place.at()).unwrap(),
            Open::Timers(_) => unreachable!("timers are not cleared"),
        }
        self.set(state, number, Vec::new());
    }

    fn put(&mut self, state: usize, number: u64) {
        let (place, at) = self.place(state, number);
        let next = self.next_number();
        let cell = self.fresh(state, next);
        let running = &mut self.shards[at];
        let id = running.id(state);
        running.shard.put(id, place.at(), &cell.read_by(self.version)).unwrap();
        self.set(state, number, vec![(Vec::new(), cell)]);
    }

    fn update(&mut self, state: usize, number: u64) {
        let (place, at) = self.place(state, number);
        let next = self.next_number();
        let cell = self.fresh(state, next);
        let value = cell.read_by(self.version);
        let deletes = self.rng.one_in(4);
        let running = &mut self.shards[at];
        let id = running.id(state);
        let mut seen = None;
        let mut change = |value_mut: &mut alluvium::ValueMut<'_>| {
            seen = value_mut.get().map(<[u8]>::to_vec);
            if deletes {
                value_mut.delete();
            } else {
                value_mut.set(&value);
            }
        };
        if self.rng.one_in(2) {
            running.shard.update(id, place.at(), &mut change).unwrap();
        } else {
            let keys = [place.at()];
            running.shard.update_many(id, &keys, &mut |_, value| change(value)).unwrap();
        }
        self.found(state, number, &[], seen.as_deref());
        self.set(state, number, if deletes { Vec::new() } else { vec![(Vec::new(), cell)] });
    }

    fn elements(&mut self, state: usize, count: u64) -> Named {
        let numbers: Vec<u32> = (0..count).map(|_| self.next_number()).collect();
        let named = |number: u32| (number.to_be_bytes().to_vec(), self.fresh(state, number));
        numbers.into_iter().map(named).collect()
    }

    fn append(&mut self, state: usize, number: u64) {
        let (place, at) = self.place(state, number);
        let count = if self.rng.one_in(20) { 40 } else { self.rng.below(4) };
        let named = self.elements(state, count);
        let elements: Vec<Bytes> =
            named.iter().map(|(_, cell)| cell.read_by(self.version)).collect();
        let elements: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
        let running = &mut self.shards[at];
        let id = running.id(state);
        running.shard.list_append(id, place.at(), &elements).unwrap();
        if !named.is_empty() {
            self.image.states[state].cells.entry(number).or_default().extend(named);
        }
    }

    fn replace(&mut self, state: usize, number: u64) {
        let (place, at) = self.place(state, number);
        let count = self.rng.below(4);
        let named = self.elements(state, count);
        let elements: Vec<Bytes> =
            named.iter().map(|(_, cell)| cell.read_by(self.version)).collect();
        let elements: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
        let running = &mut self.shards[at];
        let id = running.id(state);
        running.shard.list_replace(id, place.at(), &elements).unwrap();
        self.set(state, number, named);
    }

    pub fn any_entry(&mut self) -> Bytes {
        let number = self.rng.below(12);
        match number % 4 {
            0 => vec![0; number as usize],
            1 => vec![number as u8; (number % 3) as usize + 1],
            _ => format!("entry {number:05}").into_bytes(),
        }
    }

    fn put_entries(&mut self, state: usize, number: u64) {
        let (place, at) = self.place(state, number);
        let many = self.rng.one_in(25);
        for time in 0..if many { 150 } else { 1 + self.rng.below(3) } {
            let entry = if many { format!("many {time}").into_bytes() } else { self.any_entry() };
            let next = self.next_number();
            let cell = self.fresh(state, next);
            let running = &mut self.shards[at];
            let id = running.id(state);
            let value = cell.read_by(self.version);
            running.shard.map_put(id, place.at(), &entry, &value).unwrap();
            let named = self.image.states[state].cells.entry(number).or_default();
            match named.binary_search_by(|(name, _)| name.cmp(&entry)) {
                Ok(at) => named[at].1 = cell,
                Err(at) => named.insert(at, (entry, cell)),
            }
        }
    }

    fn remove_entry(&mut self, state: usize, number: u64) {
        let (place, at) = self.place(state, number);
        let mut named = self.image.states[state].cells.remove(&number).unwrap_or_default();
        let mut entry = self.any_entry();
        if !named.is_empty() && self.rng.one_in(2) {
            entry = named[self.rng.below(named.len() as u64) as usize].0.clone();
        }
        let running = &mut self.shards[at];
        let id = running.id(state);
        running.shard.map_remove(id, place.at(), &entry).unwrap();
        named.retain(|(name, _)| *name != entry);
        self.set(state, number, named);
    }

    /// Reads what a state of single values has, and gives the number of it.
    fn read_number(&mut self, state: usize, number: u64) -> Option<u32> {
        let (place, at) = self.place(state, number);
        let seen = self.shards[at].get(state, &place);
        self.found(state, number, &[], seen.as_deref());
        seen.map(|_| self.image.states[state].cells[&number][0].1.number)
    }

    fn accumulate(&mut self, state: usize, number: u64) {
        let before = self.read_number(state, number);
        let (place, at) = self.place(state, number);
        let next = self.next_number();
        let running = &mut self.shards[at];
        let shard = &mut running.shard;
        let (key, namespace) = (&place.key, &place.namespace);
        let after = match running.open[state].as_ref().expect("it is open") {
            Open::Reducing(state) => {
                let thing = Thing { number: next, by: self.version, steps: 0 };
                state.add_in(shard, key, namespace, thing).unwrap();
                before.map_or(next, |before| reduced(before, next))
            }
            Open::Aggregating(state) => {
                state.add_in(shard, key, namespace, next).unwrap();
                reduced(before.unwrap_or(NOTHING), next)
            }
            Open::Plain(_) | Open::Timers(_) => unreachable!("it accumulates"),
        };
        let cell = self.fresh(state, after);
        self.set(state, number, vec![(Vec::new(), cell)]);
    }

    /// Merges some namespaces of a key into one, which may be among them.
    fn merge(&mut self, state: usize, number: u64) {
        let mut sources: Vec<u64> = Vec::new();
        for _ in 0..self.rng.below(4) {
            let namespace = self.rng.below(3);
            sources.push(Place::number_in(number, namespace));
        }
        let target = Place::number_in(number, self.rng.below(3));
        let mut merged = self.read_number(state, target);
        let was_there = merged.is_some();
        let mut full: Vec<u64> = Vec::new();
        let kind = STATES[state].0;
        for &source in &sources {
            if source == target || full.contains(&source) {
                continue;
            }
            let Some(from) = self.read_number(state, source) else { continue };
            full.push(source);
            merged = Some(match (merged, kind) {
                (None, _) => from,
                (Some(into), Kind::Reducing) => reduced(into, from),
                (Some(into), _) => accumulated(into, from),
            });
        }
        let (place, at) = self.place(state, target);
        let namespaces: Vec<Bytes> =
            sources.iter().map(|&source| Place::of(kind, source).namespace).collect();
        // What only moves is still by the version that wrote it.
        let moved = full.len() == 1 && !was_there;
        let running = &mut self.shards[at];
        let shard = &mut running.shard;
        let (key, into) = (&place.key, &place.namespace);
        match running.open[state].as_ref().expect("it is open") {
            Open::Reducing(state) => state.merge_namespaces(shard, key, into, &namespaces).unwrap(),
            Open::Aggregating(state) => {
                state.merge_namespaces(shard, key, into, &namespaces).unwrap();
            }
            Open::Plain(_) | Open::Timers(_) => unreachable!("it accumulates"),
        }
        if full.is_empty() {
            return;
        }
        self.tally.count("merged namespaces", 1);
        let mut cell = self.fresh(state, merged.expect("a source has something"));
        if moved {
            cell.by = self.image.states[state].cells[&full[0]][0].1.by;
        }
        full.into_iter().for_each(|source| self.set(state, source, Vec::new()));
        self.set(state, target, vec![(Vec::new(), cell)]);
    }

    /// Reads an entry, or asks whether a map is empty, or reads a part of it.
    pub fn look_into_map(&mut self, state: usize, number: u64) {
        let (place, at) = self.place(state, number);
        let entry = self.any_entry();
        let running = &mut self.shards[at];
        let id = running.id(state);
        match self.rng.below(3) {
            0 => {
                let seen = running.shard.map_get(id, place.at(), &entry).unwrap();
                let seen = seen.map(<[u8]>::to_vec);
                self.found(state, number, &entry, seen.as_deref());
            }
            1 => {
                let empty = running.shard.map_is_empty(id, place.at()).unwrap();
                self.check_there(state, number, !empty);
            }
            _ => {
                let most = 1 + self.rng.below(4) as usize;
                let mut seen: Vec<(Bytes, Bytes)> = Vec::new();
                let visit = &mut |entry: &[u8], value: &[u8]| {
                    seen.push((entry.to_vec(), value.to_vec()));
                    if seen.len() < most {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                };
                running.shard.map_scan(id, place.at(), Bound::Excluded(&entry), visit).unwrap();
                let last = (seen.len() == most).then(|| seen[most - 1].0.clone());
                let named = self.image.states[state].cells.get(&number).cloned();
                let within =
                    named.unwrap_or_default().into_iter().map(|(name, _)| name).filter(|name| {
                        *name > entry && last.as_ref().is_none_or(|last| name <= last)
                    });
                self.found_entries(state, number, within.collect(), seen);
            }
        }
    }
}
