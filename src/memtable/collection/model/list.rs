//! A list beside vectors.

use crate::base::Epoch;

use super::super::NEVER;
use super::super::elements::{Elements, ElementsBuf};
use super::super::list::{List, ListMut, Start};
use super::{Scarce, Script, scarcely};

/// Elements of one run; more of the same finds nothing more.
const MAX_ELEMENTS: usize = 400;

type Model = Vec<(Vec<u8>, u64)>;

struct Run {
    timed: bool,
    epoch: Epoch,
    now: u64,
    buffer: Scarce,
    /// What the list must say.
    memory: Model,
    /// From here on, elements are new in `changed_in`.
    new_from: usize,
    changed_in: Epoch,
    replaced: bool,
    /// What tables have beneath a tail.
    beneath: Model,
    is_tail: bool,
    /// What tables have, deltas included.
    table: Model,
}

pub(super) fn run(script: &mut Script<'_>) {
    let mut run = Run::new(script);
    while !script.is_over() {
        run.step(script);
        run.check();
    }
    run.freeze();
}

impl Run {
    fn new(script: &mut Script<'_>) -> Self {
        let mut run = Self {
            timed: script.chance(2),
            epoch: Epoch::FIRST,
            now: 1000,
            buffer: Scarce::default(),
            memory: Model::new(),
            new_from: 0,
            changed_in: Epoch::FIRST,
            replaced: false,
            beneath: Model::new(),
            is_tail: false,
            table: Model::new(),
        };
        let start = [Start::Whole, Start::Tail, Start::Replacing][script.below(3)];
        if start != Start::Whole {
            run.table = run.elements(script);
        }
        if start == Start::Tail {
            run.beneath = run.table.clone();
        }
        run.create(start);
        // As it is when a whole list comes from a table.
        if start == Start::Whole && script.chance(2) {
            let epoch = Epoch::CLEAN;
            ListMut::create(&mut run.buffer, epoch, run.timed, start).unwrap();
            run.table = run.elements(script);
            let elements = encoded(&run.table, run.timed);
            ListMut::new(&mut run.buffer).append_all(epoch, elements.elements()).unwrap();
            run.memory = run.table.clone();
            run.changed_in = epoch;
        }
        run
    }

    fn create(&mut self, start: Start) {
        ListMut::create(&mut self.buffer, self.epoch, self.timed, start).unwrap();
        self.memory.clear();
        self.changed_in = self.epoch;
        self.new_from = 0;
        self.replaced = start == Start::Replacing;
        self.is_tail = start == Start::Tail;
    }

    fn element(&mut self, script: &mut Script<'_>) -> (Vec<u8>, u64) {
        (script.value(), if self.timed { script.expiry(self.now) } else { NEVER })
    }

    fn elements(&mut self, script: &mut Script<'_>) -> Model {
        (0..script.below(5)).map(|_| self.element(script)).collect()
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let (epoch, timed) = (self.epoch, self.timed);
        match script.below(16) {
            0..=5 if self.memory.len() < MAX_ELEMENTS => {
                let new = self.element(script);
                let append =
                    |buffer: &mut Scarce| ListMut::new(buffer).append(epoch, &new.0, new.1);
                if scarcely(script, &mut self.buffer, append).is_some() {
                    self.begin();
                    self.memory.push(new);
                }
            }
            6..=7 if self.memory.len() < MAX_ELEMENTS => {
                let new = self.elements(script);
                let encoded = encoded(&new, timed);
                let append = |buffer: &mut Scarce| {
                    ListMut::new(buffer).append_all(epoch, encoded.elements())
                };
                if scarcely(script, &mut self.buffer, append).is_some() && !new.is_empty() {
                    self.begin();
                    self.memory.extend(new);
                }
            }
            8 => {
                let new = self.elements(script);
                let encoded = encoded(&new, timed);
                let replace = |buffer: &mut Scarce| {
                    ListMut::new(buffer).replace_all(epoch, encoded.elements())
                };
                if scarcely(script, &mut self.buffer, replace).is_some() {
                    self.memory = new;
                    self.is_tail = false;
                    self.restated();
                }
            }
            9 => {
                self.create(Start::Replacing);
                self.beneath.clear();
            }
            10 if !self.is_tail => {
                ListMut::new(&mut self.buffer).restate(epoch);
                self.restated();
            }
            10 => self.complete(script),
            11 => self.convert(script),
            _ => self.freeze(),
        }
    }

    /// The first change in a new epoch.
    fn begin(&mut self) {
        if self.changed_in != self.epoch {
            self.changed_in = self.epoch;
            self.new_from = self.memory.len();
            self.replaced = false;
        }
    }

    fn restated(&mut self) {
        self.changed_in = self.epoch;
        self.new_from = 0;
        self.replaced = true;
        self.beneath.clear();
    }

    fn complete(&mut self, script: &mut Script<'_>) {
        // As two tables would have them.
        let (first, second) = self.beneath.split_at(script.below(self.beneath.len() + 1));
        let parts = [first, second].map(|part| encoded(part, self.timed));
        let prepend = |buffer: &mut Scarce| {
            ListMut::new(buffer).prepend_older(&[parts[0].elements(), parts[1].elements()])
        };
        if scarcely(script, &mut self.buffer, prepend).is_some() {
            self.new_from += self.beneath.len();
            self.beneath.append(&mut self.memory);
            self.memory = std::mem::take(&mut self.beneath);
            self.is_tail = false;
        }
    }

    fn convert(&mut self, script: &mut Script<'_>) {
        let longest = self.memory.iter().chain(&self.table).map(|(value, _)| value.len()).max();
        if longest.unwrap_or(0) > 6000 {
            return;
        }
        let add = script.below(100);
        let change = |value: &[u8], out: &mut Vec<u8>| {
            out.extend(value.iter().rev());
            out.resize(out.len() + add, 7);
        };
        let old = List::new(&self.buffer.bytes);
        let mut new = Scarce::default();
        let converted = scarcely(script, &mut new, |new| {
            old.convert(self.timed, new, |value, out| {
                change(value, out);
                Ok(())
            })
        });
        if converted.is_none() {
            return;
        }
        self.buffer = new;
        for elements in [&mut self.memory, &mut self.beneath, &mut self.table] {
            for (value, _) in elements {
                let mut new = Vec::new();
                change(value, &mut new);
                *value = new;
            }
        }
    }

    fn freeze(&mut self) {
        let changes = List::new(&self.buffer.bytes).changes_in(self.epoch);
        if changes.replaces_older {
            self.table.clear();
        }
        let delta = Elements::parse(changes.elements.bytes(), self.timed).unwrap();
        assert_eq!(delta, changes.elements);
        self.table.extend(model(delta));

        let valid = |elements: &[(Vec<u8>, u64)]| -> Model {
            elements.iter().filter(|(_, expires)| *expires > self.now).cloned().collect()
        };
        let mut all = valid(&self.beneath);
        all.extend(valid(&self.memory));
        assert_eq!(valid(&self.table), all, "the tables have what the memory has");
        self.epoch = self.epoch.next();
    }

    fn check(&self) {
        let list = List::new(&self.buffer.bytes);
        assert_eq!(list.count(), self.memory.len());
        assert_eq!(list.is_tail(), self.is_tail);
        assert_eq!(list.is_timed(), self.timed);
        assert_eq!(list.elements().count(), self.memory.len());
        assert_eq!(model(list.elements()), self.memory);

        let changes = list.changes_in(self.epoch);
        let changed = self.changed_in == self.epoch;
        let new = if changed { &self.memory[self.new_from..] } else { &[] };
        assert_eq!(changes.replaces_older, changed && self.replaced);
        assert_eq!(changes.elements.count(), new.len());
        assert_eq!(model(changes.elements), new);
        assert_eq!(changes.is_nothing(), !changes.replaces_older && new.is_empty());
    }
}

fn encoded(elements: &[(Vec<u8>, u64)], timed: bool) -> ElementsBuf {
    let mut encoded = ElementsBuf::new(timed);
    for (value, expires) in elements {
        encoded.push(value, *expires).unwrap();
    }
    encoded
}

fn model(elements: Elements<'_>) -> Model {
    elements.iter().map(|element| (element.value.to_vec(), element.stamp)).collect()
}
