//! What the job should say, computed plainly: records of all splits are gone through one
//! after the other, and there are no workers, watermarks or checkpoints.

use std::collections::BTreeMap;

use crate::job::{Record, end_of_window};

/// The lines for the first `records` records of each split, sorted: what is said of each
/// record and, if `with_windows`, of each window.
pub fn lines(seed: u64, splits: u32, records: u64, with_windows: bool) -> Vec<String> {
    lines_of_inputs(&[seed], splits, records, with_windows)
}

/// As [`lines`], for an operator with several inputs, each of which follows from a seed of
/// its own.
pub fn lines_of_inputs(
    seeds: &[u64],
    splits: u32,
    records: u64,
    with_windows: bool,
) -> Vec<String> {
    let mut counts = BTreeMap::<u64, u64>::new();
    let mut windows = BTreeMap::<(u64, i64), (u64, u64)>::new();
    let mut lines = Vec::new();
    let splits = seeds.iter().flat_map(|seed| (0..splits).map(move |split| (*seed, split)));
    for (seed, split) in splits {
        for number in 0..records {
            let Record { key, time, value } = Record::of(seed, split, number);
            let count = counts.entry(key).or_default();
            *count += 1;
            lines.push(format!("count {key} {count}"));
            let window = windows.entry((key, end_of_window(time))).or_default();
            *window = (window.0 + 1, window.1 + value);
        }
    }
    if with_windows {
        let mut last = None;
        for ((key, end), (seen, sum)) in windows {
            let before = last.filter(|(of, _)| *of == key).map_or(-1, |(_, end)| end);
            lines.push(format!("window {key} {end} {before} {seen} {sum}"));
            last = Some((key, end));
        }
    }
    lines.sort();
    lines
}
