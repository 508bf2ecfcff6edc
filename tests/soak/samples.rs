//! What a run takes from the machine: samples of it, and what is made of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Parts of the run that the table has a row for.
const ROWS: usize = 10;

/// At one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What has passed of the run, of 1.
    pub at: f64,
    pub anonymous_bytes: u64,
    pub descriptors: u64,
    pub threads: u64,
    /// Files and bytes of the backend's own directory.
    pub local: (u64, u64),
    /// Files and bytes of the store.
    pub store: (u64, u64),
    /// Bytes on the disk of both: what both have is there once.
    pub disk_bytes: u64,
    /// Bytes of keys and values that are there.
    pub live_bytes: u64,
    /// Records that were read, changed or written since the last one.
    pub operations: u64,
}

/// The files below `dir` that match: how many there are, their bytes, and those that
/// are not among `known` yet.
fn files(dir: &Path, known: &mut BTreeSet<u64>) -> (u64, u64, u64) {
    let (mut count, mut bytes, mut new) = (0, 0, 0);
    let Ok(entries) = std::fs::read_dir(dir) else { return (0, 0, 0) };
    for entry in entries.flatten() {
        // It may be gone by now.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            let below = files(&entry.path(), known);
            (count, bytes, new) = (count + below.0, bytes + below.1, new + below.2);
        } else {
            count += 1;
            bytes += meta.len();
            new += if known.insert(meta.ino()) { meta.len() } else { 0 };
        }
    }
    (count, bytes, new)
}

/// A number of the process, as Linux tells it; 0 elsewhere.
fn of_process(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl Sample {
    pub fn take(dir: &Path, at: f64, live_bytes: u64, operations: u64) -> Self {
        let mut known = BTreeSet::new();
        let local = files(&dir.join("node"), &mut known);
        let store = files(&dir.join("store"), &mut known);
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self {
            at,
            anonymous_bytes: of_process("RssAnon:") * 1024,
            descriptors: descriptors as u64,
            threads: of_process("Threads:"),
            local: (local.0, local.1),
            store: (store.0, store.1),
            disk_bytes: local.2 + store.2,
            live_bytes,
            operations,
        }
    }
}

type Column = (&'static str, fn(&Sample) -> f64);

const COLUMNS: [Column; 8] = [
    ("RSS MiB", |sample| sample.anonymous_bytes as f64 / f64::from(1 << 20)),
    ("fds", |sample| sample.descriptors as f64),
    ("threads", |sample| sample.threads as f64),
    ("local files", |sample| sample.local.0 as f64),
    ("local MiB", |sample| sample.local.1 as f64 / f64::from(1 << 20)),
    ("store files", |sample| sample.store.0 as f64),
    ("disk MiB", |sample| sample.disk_bytes as f64 / f64::from(1 << 20)),
    ("disk/live", |sample| sample.disk_bytes as f64 / sample.live_bytes.max(1) as f64),
];

/// Least, median and most.
fn spread(samples: &[Sample], column: fn(&Sample) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = samples.iter().map(column).collect();
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => (0.0, 0.0, 0.0),
        values => (values[0], values[values.len() / 2], values[values.len() - 1]),
    }
}

fn part(samples: &[Sample], part: usize, parts: usize) -> Vec<Sample> {
    let bounds = |part: usize| part as f64 / parts as f64;
    let within = |sample: &&Sample| sample.at >= bounds(part) && sample.at < bounds(part + 1);
    samples.iter().filter(within).copied().collect()
}

/// For people: a row for each tenth of the run.
pub fn table(samples: &[Sample]) -> String {
    let mut text = String::from("least / median / most of each tenth of the run\n\n| part |");
    for (name, _) in COLUMNS {
        let _ = write!(text, " {name} |");
    }
    text += " operations |\n|---|";
    text += &"---|".repeat(COLUMNS.len() + 1);
    for row in 0..ROWS {
        let part = part(samples, row, ROWS);
        let _ = write!(text, "\n| {} |", row + 1);
        for (name, column) in COLUMNS {
            let (least, median, most) = spread(&part, column);
            let digits = if name.contains('/') { 2 } else { 0 };
            let _ = write!(text, " {least:.digits$} / {median:.digits$} / {most:.digits$} |");
        }
        let _ = write!(text, " {} |", part.iter().map(|sample| sample.operations).sum::<u64>());
    }
    text + "\n"
}

/// What grew from the second third of the run to the last.
pub fn growth(samples: &[Sample]) -> Vec<String> {
    let (second, last) = (part(samples, 1, 3), part(samples, 2, 3));
    let mut grown = Vec::new();
    for (name, column) in COLUMNS {
        let (before, now) = (spread(&second, column).1, spread(&last, column).1);
        // One file or descriptor more or less is none that grows.
        let most = match name {
            "RSS MiB" | "threads" => before * 1.05,
            "fds" => (before * 1.05).max(before + 2.0),
            "disk/live" => (before * 1.05).max(2.0),
            _ => continue,
        };
        if now > most {
            grown.push(format!(
                "{name}: median {before:.2} in the second third, {now:.2} in the last"
            ));
        }
    }
    grown
}
