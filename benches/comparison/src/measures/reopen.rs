//! Starting again with a state larger than memory: how long until the first
//! operation, and until work goes as fast as it will.
//!
//! A process saves the state and ends; for every round another one, in the same
//! memory cgroup, opens it and works on it (read-modify-write, Zipf 0.99, one at a
//! time) for the length of the round. Time runs from the call that opens it. The
//! speed at the end is the median of the last third of the round; full speed is
//! reached with nine tenths of that in two slices in a row. Engines differ in how fast
//! that is, so it is also said when each is as fast as the slowest of them gets.

use serde_json::{Value, json};

use super::spill::contestant::{Contestant, Field, contestants};
use super::spill::figures::{bars, full_speed, reached, thinned};
use super::{progress, rotated};
use crate::Result;
use crate::options::Cli;
use crate::report::{Better, Report, Section, Unit, keys_name, median};

/// Bars of the picture at most.
const BARS: usize = 60;

/// What one round found.
struct Round {
    first_ns: f64,
    /// Speed at the end, and when it was reached.
    steady: Option<f64>,
    full_after_ns: Option<f64>,
    slice_ns: f64,
    mean: f64,
    read_bytes: f64,
    per_second: Vec<f64>,
}

impl Round {
    fn of(answer: &Value, seconds: f64) -> Result<Self> {
        let number = |name: &str| {
            answer[name].as_f64().ok_or_else(|| format!("a round of reopen lacks {name}"))
        };
        let slices = answer["per_second"].as_array().into_iter().flatten();
        let per_second: Vec<f64> = slices.filter_map(Value::as_f64).collect();
        let reached = full_speed(&per_second);
        let slice_ns = number("slice_ns")?;
        Ok(Self {
            first_ns: number("first_ns")?,
            steady: reached.map(|(steady, _)| steady),
            full_after_ns: reached.map(|(_, slices)| slices as f64 * slice_ns),
            slice_ns,
            mean: number("operations")? / seconds,
            read_bytes: number("disk_read_bytes")?,
            per_second,
        })
    }
}

/// Runs the measure.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    let state_bytes = cli.state_mb.unwrap_or(if cli.quick { 96 } else { 1024 }) << 20;
    let round_ms = cli.round_ms.unwrap_or(if cli.quick { 2000 } else { 15_000 });
    for value_bytes in cli.value_bytes_or(&[100], &[100]) {
        let keys = (state_bytes / (cli.key_bytes + value_bytes) as u64).max(1);
        report.add(at_size(cli, keys, value_bytes, round_ms)?);
    }
    Ok(())
}

fn at_size(cli: &Cli, keys: u64, value_bytes: usize, round_ms: u64) -> Result<Section> {
    let rounds = cli.rounds_or(3);
    let Field { mut contestants, limit } = contestants(cli, true)?;
    let mut saved = Vec::new();
    for contestant in &mut contestants {
        progress(&format!("reopen: saving {} keys from {}", keys_name(keys), contestant.name));
        contestant.start(cli, value_bytes)?;
        let request = json!({ "do": "save", "keys": keys });
        let answer = contestant.ask("saving the state", &request)?;
        saved.push(answer.map(|answer| answer["saved"].clone()));
        contestant.end();
    }
    let mut found: Vec<Vec<Round>> = contestants.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        progress(&format!("reopen: round {} of {rounds}", round + 1));
        for at in rotated(contestants.len(), round) {
            let (contestant, Some(saved)) = (&mut contestants[at], &saved[at]) else { continue };
            contestant.start(cli, value_bytes)?;
            let request = json!({ "do": "reopen", "keys": keys, "saved": saved, "ms": round_ms });
            if let Some(answer) = contestant.ask("working after it was restored", &request)? {
                found[at].push(Round::of(&answer, round_ms as f64 / 1e3)?);
            }
            contestant.end();
        }
    }
    let mut section = Section::new(
        "reopen",
        format!(
            "{} keys of {} B, values of {value_bytes} B, {} MiB in {} MiB of memory",
            keys_name(keys),
            cli.key_bytes,
            (keys * (cli.key_bytes + value_bytes) as u64) >> 20,
            cli.budget_bytes() >> 20
        ),
        &[
            ("first op", Unit::Nanos),
            ("full speed after", Unit::Nanos),
            ("slowest's after", Unit::Nanos),
            ("full speed", Unit::PerSecond),
            ("ops from the start", Unit::PerSecond),
            ("read", Unit::Bytes),
            ("memory peak", Unit::Bytes),
            ("killed", Unit::Count),
        ],
        0,
        Better::Lower,
    )
    .parameter("keys", keys)
    .parameter("key_bytes", cli.key_bytes)
    .parameter("value_bytes", value_bytes)
    .parameter("budget_bytes", cli.budget_bytes())
    .parameter("rounds", rounds)
    .parameter("round_ms", round_ms);
    let full_speeds =
        found.iter().filter_map(|rounds| median(rounds.iter().filter_map(|round| round.steady)));
    let slowest = full_speeds.fold(f64::INFINITY, f64::min);
    for (contestant, rounds) in contestants.iter().zip(&found) {
        section.row(
            "",
            &contestant.name,
            vec![
                median(rounds.iter().map(|round| round.first_ns)),
                median(rounds.iter().filter_map(|round| round.full_after_ns)),
                median(rounds.iter().filter_map(|round| {
                    Some(reached(&round.per_second, slowest)? as f64 * round.slice_ns)
                })),
                median(rounds.iter().filter_map(|round| round.steady)),
                median(rounds.iter().map(|round| round.mean)),
                median(rounds.iter().map(|round| round.read_bytes)),
                contestant.counts().peak_bytes.map(|bytes| bytes as f64),
                Some(f64::from(u8::from(contestant.killed_while.is_some()))),
            ],
        );
    }
    section.note(picture(&contestants, &found));
    section.note(
        "From the local disk, and the checkpoint stays what it is: RocksDB works in a directory \
         of links to its tables, or copies them first, as it has to from a store that is not this \
         disk; Alluvium reads them where they are. What the page cache still has is at most what \
         the group's limit left there. `full speed` is that of the last third of the round, and \
         `slowest's after` says when an engine had that of the slowest of them: an engine whose \
         cache is still filling then would get faster yet.",
    );
    section.note(limit);
    contestants.iter().filter_map(Contestant::obituary).for_each(|line| section.note(line));
    Ok(section)
}

/// Throughput over time of the last round.
fn picture(contestants: &[Contestant], found: &[Vec<Round>]) -> String {
    let mut text = "Operations over time in the last round:\n".to_owned();
    let width = contestants.iter().map(|one| one.name.len()).max().unwrap_or(0);
    for (contestant, rounds) in contestants.iter().zip(found) {
        let figures = rounds.last().map_or_else(Vec::new, |last| thinned(&last.per_second, BARS));
        text.push_str(&format!("\n{:<width$}  {}", contestant.name, bars(&figures)));
    }
    text
}
