//! Which keys the operations touch when the state is larger than memory.
//!
//! Operations are drawn a chunk at a time with the clock stopped: a ring of them
//! drawn beforehand would take memory that the engines are to be short of. How
//! often some of the keys were drawn is remembered, to check the engine by.

use clap::ValueEnum;
use hashbrown::HashMap;

use crate::workload::{Random, Zipf, scatter};

/// What the operations are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Workload {
    /// Read-modify-write, Zipf with exponent 0.99.
    Zipf,
    /// Read-modify-write, every key equally often.
    Uniform,
    /// Read-modify-write of a small part of the keys, which moves on.
    Drift,
    /// New keys only: looked for in vain, then stored.
    Insert,
}

impl Workload {
    /// As the tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zipf => "Zipf 0.99",
            Self::Uniform => "uniform",
            Self::Drift => "drifting hot set",
            Self::Insert => "new keys",
        }
    }

    /// As the command line calls it.
    pub(crate) fn argument(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// One of this many keys is hot at a time.
const HOT_PART: u64 = 20;
/// One of this many operations goes to any key, the others to hot ones.
const COLD_PART: u64 = 10;
/// After this many operations the hot set loses its oldest key and gains another:
/// a key is touched about seven times while it is hot, whatever the size.
const OPERATIONS_PER_STEP: u64 = 8;
/// Keys that are watched: random ones, and the first that a workload touches.
const WATCHED: usize = 256;

/// How often some of the keys were drawn.
#[derive(Default)]
pub(crate) struct Watched {
    counts: HashMap<u64, u64>,
}

impl Watched {
    /// Watches some keys out of all.
    pub(crate) fn among(keys: u64, seed: u64) -> Self {
        let mut random = Random::new(seed ^ keys);
        Self { counts: (0..WATCHED).map(|_| (random.below(keys), 0)).collect() }
    }

    /// Watches the keys that a sequence begins with as well, and starts it again.
    /// To be done before anything is counted: a key must be watched all along.
    pub(crate) fn watch_first(&mut self, draws: &mut Draws) {
        if draws.workload != Workload::Insert {
            for _ in 0..WATCHED {
                self.counts.insert(draws.next(), 0);
            }
            draws.drawn = 0;
            draws.random = Random::new(draws.seed);
        }
    }

    /// Key number and how often it was drawn.
    pub(crate) fn expected(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().map(|(index, count)| (*index, *count))
    }
}

/// A sequence of key numbers, the same for every engine.
pub(crate) struct Draws {
    workload: Workload,
    seed: u64,
    random: Random,
    zipf: Option<Zipf>,
    keys: u64,
    drawn: u64,
}

impl Draws {
    /// Over `keys` keys; inserts begin with the number `keys`.
    pub(crate) fn new(workload: Workload, keys: u64, seed: u64) -> Self {
        Self {
            workload,
            seed,
            random: Random::new(seed),
            zipf: (workload == Workload::Zipf).then(|| Zipf::new(keys, 0.99)),
            keys,
            drawn: 0,
        }
    }

    /// What the operations are.
    pub(crate) fn workload(&self) -> Workload {
        self.workload
    }

    /// How many keys there are, with those that were inserted so far.
    pub(crate) fn live_keys(&self) -> u64 {
        self.keys + if self.workload == Workload::Insert { self.drawn } else { 0 }
    }

    /// The next key.
    pub(crate) fn next(&mut self) -> u64 {
        let drawn = self.drawn;
        self.drawn += 1;
        match (self.workload, &self.zipf) {
            (Workload::Zipf, Some(zipf)) => scatter(zipf.draw(&mut self.random), self.keys),
            (Workload::Drift, _) if self.random.below(COLD_PART) > 0 => {
                let hot = (self.keys / HOT_PART).max(1);
                let first = drawn / OPERATIONS_PER_STEP;
                scatter((first + self.random.below(hot)) % self.keys, self.keys)
            }
            (Workload::Insert, _) => self.keys + drawn,
            _ => self.random.below(self.keys),
        }
    }

    /// The next `count` keys, into `indices`, counting those that are watched.
    pub(crate) fn chunk(&mut self, count: usize, indices: &mut Vec<u64>, watched: &mut Watched) {
        indices.clear();
        for _ in 0..count {
            let index = self.next();
            indices.push(index);
            if self.workload == Workload::Insert {
                // New, so nothing can have been missed; its counter stays at zero.
                if watched.counts.len() < 4 * WATCHED {
                    watched.counts.insert(index, 0);
                }
            } else if let Some(count) = watched.counts.get_mut(&index) {
                *count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hot_set_has_nine_of_ten_operations_and_moves_on() {
        let keys = 10_000;
        let mut draws = Draws::new(Workload::Drift, keys, 5);
        // Where in the order before scattering a key stands.
        let mut place = vec![0; keys as usize];
        for at in 0..keys {
            place[scatter(at, keys) as usize] = at;
        }
        let hot = keys / HOT_PART;
        let mut share = |from_operation: u64, operations: u64| {
            let first = from_operation / OPERATIONS_PER_STEP;
            let until = (from_operation + operations) / OPERATIONS_PER_STEP + hot;
            let inside = (0..operations)
                .filter(|_| (first..until).contains(&place[draws.next() as usize]))
                .count();
            inside as f64 / operations as f64
        };
        let early = share(0, 4000);
        assert!((0.88..0.97).contains(&early), "{early}");
        // Far on, the hot set has left where it was and is where it should be.
        share(4000, 36_000);
        let late = share(40_000, 4000);
        assert!((0.88..0.97).contains(&late), "{late}");
    }

    #[test]
    fn new_keys_are_new() {
        let mut draws = Draws::new(Workload::Insert, 100, 1);
        let (mut indices, mut watched) = (Vec::new(), Watched::default());
        draws.chunk(3, &mut indices, &mut watched);
        draws.chunk(2, &mut indices, &mut watched);
        assert_eq!(indices, [103, 104]);
        let mut expected: Vec<_> = watched.expected().collect();
        expected.sort_unstable();
        assert_eq!(expected, [(100, 0), (101, 0), (102, 0), (103, 0), (104, 0)]);
    }

    #[test]
    fn what_is_watched_is_counted_in_all_workloads() {
        // Far more keys than are watched: most are drawn unseen.
        let keys = 100_000;
        let mut watched = Watched::among(keys, 9);
        let mut all: Vec<Draws> = [Workload::Zipf, Workload::Uniform, Workload::Drift]
            .map(|workload| Draws::new(workload, keys, 2))
            .into();
        all.iter_mut().for_each(|draws| watched.watch_first(draws));
        let mut plain: HashMap<u64, u64> = HashMap::new();
        for draws in &mut all {
            let mut indices = Vec::new();
            for _ in 0..100 {
                draws.chunk(1000, &mut indices, &mut watched);
                for index in &indices {
                    *plain.entry(*index).or_insert(0) += 1;
                }
            }
        }
        let touched = watched.expected().filter(|(_, count)| *count > 0).count();
        assert!(touched > 2 * WATCHED, "{touched}");
        for (index, count) in watched.expected() {
            assert_eq!(count, plain.get(&index).copied().unwrap_or(0), "key {index}");
        }
    }
}
