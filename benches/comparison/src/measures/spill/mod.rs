//! State ten times and more as large as memory.
//!
//! Every engine lives in a process of its own ([`child`]), in a memory cgroup of
//! its own, with the same limit for all; file pages count, so state cannot hide in
//! the page cache. The processes stay from the first round to the last, and one
//! works while the others wait:
//!
//! 1. Each loads the state and takes a first checkpoint; not measured.
//! 2. For each workload: a round to warm up, then rounds of three parts (one
//!    operation at a time, in batches, one at a time with checkpoints), each part
//!    by all engines in turn before the next.
//! 3. For each workload that changes records: checkpoints with a fixed number of
//!    operations between them, for the bytes they upload.
//! 4. Each compares its counters with what was drawn.
//!
//! A process that is killed for its memory is a result, and the others go on.

use serde_json::{Value, json};

use self::contestant::{Contestant, Field, contestants};
use self::draw::Workload;
use super::{progress, rotated};
use crate::Result;
use crate::options::Cli;
use crate::report::{Report, keys_name};

pub(crate) mod child;
pub(crate) mod contestant;
pub(crate) mod draw;
pub(crate) mod figures;
mod tables;

/// The workloads in the order in which they run; the last changes the size.
const WORKLOADS: [Workload; 4] =
    [Workload::Zipf, Workload::Uniform, Workload::Drift, Workload::Insert];

/// How a round goes about its operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Single,
    Batched,
    Checkpointed,
}

const PARTS: [Part; 3] = [Part::Single, Part::Batched, Part::Checkpointed];

/// The sizes of one run.
struct Plan {
    times: u64,
    keys: u64,
    key_bytes: usize,
    value_bytes: usize,
    workloads: Vec<Workload>,
    rounds: usize,
    round_ms: u64,
    interval_ms: u64,
    checkpoints: u64,
    operations_per_checkpoint: u64,
}

/// What one engine found, by workload.
#[derive(Default)]
struct Findings {
    rounds: Vec<(Workload, Part, Value)>,
    uploads: Vec<(Workload, Value)>,
    /// Operations per second over the rounds of one at a time, the first included.
    drift: Vec<f64>,
    live_bytes: f64,
}

/// Runs the measure at every size.
pub(crate) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    let default = if cli.quick { 3 } else { 10 };
    for times in cli.times.clone().unwrap_or_else(|| vec![default]) {
        for value_bytes in cli.value_bytes_or(&[100], &[100]) {
            let plan = Plan {
                times,
                keys: (times * cli.budget_bytes() / (cli.key_bytes + value_bytes) as u64).max(1),
                key_bytes: cli.key_bytes,
                value_bytes,
                workloads: cli.workload.clone().unwrap_or_else(|| WORKLOADS.to_vec()),
                rounds: cli.rounds_or(3),
                round_ms: cli.round_ms.unwrap_or(if cli.quick { 100 } else { 5000 }),
                interval_ms: cli
                    .interval_ms
                    .as_ref()
                    .and_then(|all| all.first().copied())
                    .unwrap_or(if cli.quick { 40 } else { 1000 }),
                checkpoints: cli.checkpoints.unwrap_or(if cli.quick { 3 } else { 50 }),
                operations_per_checkpoint: cli
                    .dirty
                    .map_or(if cli.quick { 500 } else { 10_000 }, |operations| operations as u64),
            };
            at_size(cli, &plan, report)?;
        }
    }
    Ok(())
}

fn at_size(cli: &Cli, plan: &Plan, report: &mut Report) -> Result<()> {
    let Field { mut contestants, limit } = contestants(cli, false)?;
    let mut found: Vec<Findings> = contestants.iter().map(|_| Findings::default()).collect();
    let workloads: Vec<String> =
        plan.workloads.iter().map(|workload| workload.argument()).collect();
    for contestant in &mut contestants {
        progress(&format!("spill: loading {} keys into {}", keys_name(plan.keys), contestant.name));
        contestant.start(cli, plan.value_bytes)?;
        let request = json!({ "do": "load", "keys": plan.keys, "workloads": workloads });
        contestant.ask("loading the state", &request)?;
        // Loading is not what is measured; its peak of space is no figure either.
        contestant.space = figures::Space::default();
    }
    for workload in &plan.workloads {
        progress(&format!("spill: {}, a round to warm up", workload.name()));
        for (contestant, found) in contestants.iter_mut().zip(&mut found) {
            round(contestant, plan, *workload, Part::Single, found, false)?;
        }
        for at_round in 0..plan.rounds {
            progress(&format!(
                "spill: {}, round {} of {}",
                workload.name(),
                at_round + 1,
                plan.rounds
            ));
            for part in PARTS {
                for at in rotated(contestants.len(), at_round) {
                    round(&mut contestants[at], plan, *workload, part, &mut found[at], true)?;
                }
            }
        }
    }
    for workload in plan.workloads.iter().filter(|workload| **workload != Workload::Insert) {
        for (contestant, found) in contestants.iter_mut().zip(&mut found) {
            progress(&format!(
                "spill: {} checkpoints of {}, {}",
                plan.checkpoints,
                contestant.name,
                workload.name()
            ));
            let request = json!({
                "do": "upload",
                "workload": workload.argument(),
                "checkpoints": plan.checkpoints,
                "operations": plan.operations_per_checkpoint,
            });
            let what = format!("taking checkpoints, {}", workload.name());
            if let Some(answer) = contestant.ask(&what, &request)? {
                found.uploads.push((*workload, answer));
            }
        }
    }
    for contestant in &mut contestants {
        contestant.ask("being checked", &json!({ "do": "check" }))?;
        contestant.end();
    }
    tables::add(plan, &limit, &contestants, &found, report);
    Ok(())
}

/// One part of a round of one engine.
fn round(
    contestant: &mut Contestant,
    plan: &Plan,
    workload: Workload,
    part: Part,
    found: &mut Findings,
    counts: bool,
) -> Result<()> {
    let request = json!({
        "do": "work",
        "workload": workload.argument(),
        "batched": part == Part::Batched,
        "ms": plan.round_ms,
        "interval_ms": (part == Part::Checkpointed).then_some(plan.interval_ms),
    });
    let what = format!("working, {}", workload.name());
    let Some(answer) = contestant.ask(&what, &request)? else { return Ok(()) };
    if workload == Workload::Drift && part == Part::Single {
        let slices = answer["per_second"].as_array().into_iter().flatten();
        found.drift.extend(slices.filter_map(Value::as_f64));
    }
    found.live_bytes = answer["live_bytes"].as_f64().unwrap_or(0.0);
    if counts {
        found.rounds.push((workload, part, answer));
    }
    Ok(())
}
