//! A job of several operators, what it should say, and what it has said.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::disallowed_methods, reason = "inputs and results are real files")]

pub(crate) mod kill_job;
pub(crate) mod network;
pub(crate) mod world;

use std::collections::BTreeMap;
use std::path::Path;

/// All lines of all committed files, sorted. Nothing else has been left behind.
pub(crate) fn results(dir: &Path) -> Vec<String> {
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with("part-") || name == "undone", "{name} was left behind");
    }
    committed(dir)
}

/// All lines of all committed files, sorted.
pub(crate) fn committed(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().into_string().unwrap().starts_with("part-") {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            lines.extend(text.lines().map(str::to_owned));
        }
    }
    lines.sort();
    lines
}

/// Compares what each sink has said with what it should have.
pub(crate) fn compare(expected: &BTreeMap<&'static str, Vec<String>>, dir: &Path, seed: u64) {
    for (sink, expected) in expected {
        let found = results(&dir.join(sink));
        let differs = expected.iter().zip(&found).position(|(one, other)| one != other);
        assert!(
            found == *expected,
            "seed {seed}, sink {sink}: {} lines instead of {}, first difference {:?}",
            found.len(),
            expected.len(),
            differs.map(|at| (&expected[at], &found[at]))
        );
    }
}

/// Numbers from a seed, which is printed.
pub(crate) struct Random {
    pub(crate) seed: u64,
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let seed = seed.unwrap_or_else(|| {
            std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 % 1_000_000
        });
        println!("seed {seed}");
        Self { seed, state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.state)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A number that looks random, from another one.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
