//! Operator states: a list that is dealt out, a union list, a broadcast map.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use alluvium::{OperatorStateId, OperatorStateMode, OperatorStateSpec, OperatorStore, Shard};

use crate::job::Life;

pub const MODES: [OperatorStateMode; 3] =
    [OperatorStateMode::List, OperatorStateMode::UnionList, OperatorStateMode::Broadcast];

/// Elements of a union list beyond which a subtask keeps only some of them.
const MOST_ELEMENTS: usize = 100;

type Elements = Vec<Vec<u8>>;
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// What one subtask has of one state.
#[derive(Clone, PartialEq, Debug)]
pub enum Kept {
    Nothing,
    List(Elements),
    Broadcast(Entries),
}

impl Kept {
    fn elements(&self) -> Elements {
        match self {
            Self::List(elements) => elements.clone(),
            _ => Elements::new(),
        }
    }
}

fn name(at: usize) -> String {
    format!("operator {at}")
}

/// `all` dealt out like cards: how many each of so many gets, and then which.
fn dealt(all: &[Vec<u8>], to: usize) -> Vec<Elements> {
    let mut counts = vec![0; to];
    (0..all.len()).for_each(|card| counts[card % to] += 1);
    let mut cards = all.iter();
    counts.into_iter().map(|count| cards.by_ref().take(count).cloned().collect()).collect()
}

/// What subtask `index` of `parallelism` has of state `at` after `image`: when it
/// is carried on, and when it is opened.
fn restored(image: &[Vec<Kept>], at: usize, index: usize, parallelism: usize) -> (Kept, Kept) {
    let of_all: Vec<&Kept> = image.iter().map(|states| &states[at]).collect();
    if of_all.iter().all(|kept| **kept == Kept::Nothing) {
        return (Kept::Nothing, Kept::Nothing);
    }
    if MODES[at] == OperatorStateMode::Broadcast {
        // Round and round from the old one of its number.
        let mut round = of_all.iter().cycle().skip(index % of_all.len());
        let copy = round.find(|kept| ***kept != Kept::Nothing).expect("some subtask has it");
        return ((*copy).clone(), (*copy).clone());
    }
    let all: Elements = of_all.iter().flat_map(|kept| kept.elements()).collect();
    let carried = Kept::List(if parallelism == image.len() {
        of_all[index].elements()
    } else {
        dealt(&all, parallelism).swap_remove(index)
    });
    match MODES[at] {
        OperatorStateMode::UnionList => (carried, Kept::List(all)),
        _ => (carried.clone(), carried),
    }
}

/// What so many subtasks have of all states after an import: lists dealt out, and the
/// first one's broadcast states.
pub fn imported(image: &[Vec<Kept>], parallelism: usize) -> Vec<Vec<Kept>> {
    let of_state = |at: usize, index: usize| {
        let mut there =
            image.iter().map(|states| &states[at]).filter(|kept| **kept != Kept::Nothing);
        match there.clone().next() {
            None => Kept::Nothing,
            Some(Kept::Broadcast(entries)) => Kept::Broadcast(entries.clone()),
            Some(_) => {
                let all: Elements = there.by_ref().flat_map(|kept| kept.elements()).collect();
                Kept::List(dealt(&all, parallelism).swap_remove(index))
            }
        }
    };
    (0..parallelism).map(|index| (0..MODES.len()).map(|at| of_state(at, index)).collect()).collect()
}

fn read(shard: &Shard, state: OperatorStateId) -> Elements {
    let mut elements = Elements::new();
    let visit = &mut |element: &[u8]| {
        elements.push(element.to_vec());
        ControlFlow::Continue(())
    };
    shard.operator_list_read(state, visit).unwrap();
    elements
}

fn entries(shard: &Shard, state: OperatorStateId) -> Entries {
    let mut found = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    shard.broadcast_scan(state, Bound::Unbounded, visit).unwrap();
    assert!(found.is_sorted(), "in the order of the keys");
    found.into_iter().collect()
}

impl Life {
    /// Begins a life with what `image` says.
    pub fn open_operator(&mut self, image: &[Vec<Kept>], parallelism: usize) {
        let empty = [vec![Kept::Nothing; MODES.len()]];
        let image = if image.is_empty() { &empty } else { image };
        (self.image.operator, self.unopened) = (0..parallelism)
            .map(|index| {
                let of_one = (0..MODES.len()).map(|at| restored(image, at, index, parallelism));
                let (carried, opened): (Vec<_>, Vec<_>) = of_one.unzip();
                (carried, opened.into_iter().map(Some).collect::<Vec<_>>())
            })
            .unzip();
    }

    fn operator_id(&mut self, index: usize, at: usize) -> OperatorStateId {
        if let Some(id) = self.shards[index].operator[at] {
            return id;
        }
        let (spec, empty) = match MODES[at] {
            OperatorStateMode::List => {
                (OperatorStateSpec::list(&name(at)), Kept::List(Elements::new()))
            }
            OperatorStateMode::UnionList => {
                (OperatorStateSpec::union_list(&name(at)), Kept::List(Elements::new()))
            }
            _ => (OperatorStateSpec::broadcast(&name(at)), Kept::Broadcast(Entries::new())),
        };
        let id = self.shards[index].shard.open_operator_state(spec).unwrap();
        self.shards[index].operator[at] = Some(id);
        let opened = self.unopened[index][at].take().expect("it was not open");
        self.image.operator[index][at] = if opened == Kept::Nothing { empty } else { opened };
        id
    }

    pub fn operator_step(&mut self) {
        let index = self.pick(self.shards.len());
        let at = self.pick(MODES.len());
        let id = self.operator_id(index, at);
        let longest = if self.rng.one_in(50) { 20_000 } else { 40 };
        let mut bytes = vec![0; self.pick(longest)];
        self.rng.fill(&mut bytes);
        let key = self.rng.below(60).to_string().into_bytes();
        let what = self.rng.below(20);
        let times = self.pick(4);
        let shard = &mut self.shards[index].shard;
        match &mut self.image.operator[index][at] {
            Kept::List(elements) if what == 0 => {
                shard.operator_state_clear(id).unwrap();
                elements.clear();
            }
            Kept::List(elements) if what == 1 || elements.len() > MOST_ELEMENTS => {
                elements.truncate(elements.len() / 3);
                elements.push(bytes);
                let replaced: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
                shard.operator_list_replace(id, &replaced).unwrap();
            }
            Kept::List(elements) => {
                let batch: Vec<&[u8]> = vec![&bytes; times];
                shard.operator_list_add(id, &batch).unwrap();
                elements.extend(batch.iter().map(|element| element.to_vec()));
            }
            Kept::Broadcast(entries) if what == 0 => {
                shard.operator_state_clear(id).unwrap();
                entries.clear();
            }
            Kept::Broadcast(entries) if what < 6 => {
                let removed = shard.broadcast_remove(id, &key).unwrap();
                assert_eq!(removed, entries.remove(&key).is_some());
            }
            Kept::Broadcast(entries) => {
                shard.broadcast_put(id, &key, &bytes).unwrap();
                entries.insert(key, bytes);
            }
            Kept::Nothing => unreachable!("it was opened"),
        }
        self.check_operator(index, at);
    }

    pub fn drop_operator_state(&mut self) {
        let at = self.pick(MODES.len());
        for (index, running) in self.shards.iter_mut().enumerate() {
            let dropped = running.shard.drop_operator_state(&name(at)).unwrap();
            let held = std::mem::replace(&mut self.image.operator[index][at], Kept::Nothing);
            assert_eq!(dropped, held != Kept::Nothing, "{} of subtask {index}", name(at));
            self.tally.count("dropped", u64::from(dropped));
            running.operator[at] = None;
            self.unopened[index][at] = Some(Kept::Nothing);
        }
    }

    /// Compares a state with the model, if it is open.
    pub fn check_operator(&self, index: usize, at: usize) {
        let shard = &self.shards[index].shard;
        let Some(id) = self.shards[index].operator[at] else { return };
        let what = || format!("{} of subtask {index} of {}", name(at), self.shards.len());
        let count = match &self.image.operator[index][at] {
            Kept::List(expected) => {
                assert!(read(shard, id) == *expected, "{}", what());
                expected.len()
            }
            Kept::Broadcast(expected) => {
                assert!(entries(shard, id) == *expected, "{}", what());
                expected.len()
            }
            Kept::Nothing => unreachable!("it was opened"),
        };
        assert_eq!(shard.operator_state_len(id).unwrap(), count as u64, "{}", what());
    }

    /// Opens some states, and compares what is open.
    pub fn check_operators(&mut self) {
        for index in 0..self.shards.len() {
            for at in 0..MODES.len() {
                if self.rng.one_in(4) {
                    self.operator_id(index, at);
                }
                self.check_operator(index, at);
            }
        }
    }
}
