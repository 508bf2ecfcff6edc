//! The result, as text on standard output.

use std::io::{self, Write};

use super::event::{CheckpointLine, Verdict};
use super::supervise::{Attempt, Run};

/// Writes the whole report.
pub(crate) fn print(run: &Run, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "input        {}: {} flights x {} = {} records{}",
        run.input.display(),
        thousands(run.flights),
        run.repeat,
        thousands(run.total),
        if run.spread { ", keys spread" } else { "" },
    )?;
    if let Some(dir) = &run.kept_dir {
        writeln!(out, "directory    {}", dir.display())?;
    }
    writeln!(out)?;
    // The long part first: what counts is then still on the screen at the end.
    print_checkpoints(&run.checkpoints, out)?;
    writeln!(out)?;
    for attempt in &run.attempts {
        print_attempt(run, attempt, out)?;
        if !attempt.verdicts.is_empty() {
            writeln!(out)?;
            print_verdicts(&attempt.verdicts, out)?;
            writeln!(out)?;
        }
    }
    let answer = if run.is_right() { "yes" } else { "NO" };
    writeln!(out, "everything equals a plain computation over the file: {answer}")
}

fn print_attempt(run: &Run, attempt: &Attempt, out: &mut impl Write) -> io::Result<()> {
    if let Some(restored) = &attempt.restored {
        writeln!(
            out,
            "{} {} at record {}, {} -> {} workers, in {}",
            match restored.savepoint.as_str() {
                "" => "restarted    from checkpoint".to_owned(),
                name => format!("rolled back  to savepoint {name:?}, checkpoint"),
            },
            restored.checkpoint,
            thousands(attempt.first_offset),
            restored.from_workers,
            attempt.workers,
            duration(restored.restore_us * 1000),
        )?;
    }
    if let Some(replayed) = attempt.replayed {
        writeln!(
            out,
            "replayed     at least {} records that the {} process had read after that checkpoint",
            thousands(replayed),
            if restored_name(attempt).is_empty() { "killed" } else { "last" },
        )?;
    }
    writeln!(
        out,
        "records/s    {} on {} ({} records in {})",
        thousands(attempt.records_per_s()),
        placed(attempt.workers, run.processes),
        thousands(attempt.records()),
        duration(attempt.elapsed_us * 1000),
    )?;
    if attempt.killed {
        writeln!(
            out,
            "killed       with SIGKILL at record {} ({})",
            thousands(attempt.last_offset),
            percent(attempt.last_offset, run.total),
        )?;
    }
    Ok(())
}

/// The name of the savepoint that a process was restored from; empty if it was none.
fn restored_name(attempt: &Attempt) -> &str {
    attempt.restored.as_ref().map_or("", |restored| restored.savepoint.as_str())
}

fn print_checkpoints(checkpoints: &[CheckpointLine], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:>10}  {:>7}  {:>12}  {:>10}  {:>10}  {:>11}  {:>11}  {:>12}",
        "checkpoint",
        "workers",
        "at record",
        "pause",
        "duration",
        "records new",
        "bytes new",
        "bytes in all"
    )?;
    for line in checkpoints {
        writeln!(
            out,
            "{:>10}  {:>7}  {:>12}  {:>10}  {:>10}  {:>11}  {:>11}  {:>12}{}",
            line.id,
            line.workers,
            thousands(line.offset),
            duration(line.costs.pause_ns),
            duration(line.costs.duration_ns),
            thousands(line.costs.records_new),
            bytes(line.costs.bytes_new),
            bytes(line.costs.bytes_total),
            match line.savepoint.as_str() {
                "" => String::new(),
                name => format!("  savepoint {name:?}"),
            },
        )?;
    }
    let pauses = Spread::of(checkpoints.iter().map(|line| line.costs.pause_ns));
    let durations = Spread::of(checkpoints.iter().map(|line| line.costs.duration_ns));
    writeln!(
        out,
        "{}: median pause {}, longest {}; median duration {}, longest {}",
        counted(checkpoints.len() as u64, "checkpoint"),
        duration(pauses.median),
        duration(pauses.most),
        duration(durations.median),
        duration(durations.most),
    )?;
    writeln!(out, "bytes new: uploaded for the checkpoint, tables merged since the last included")?;
    writeln!(
        out,
        "bytes in all: needed to restart from it; a table of several workers counts for each"
    )
}

struct Spread {
    median: u64,
    most: u64,
}

impl Spread {
    fn of(values: impl Iterator<Item = u64>) -> Self {
        let mut values: Vec<u64> = values.collect();
        values.sort_unstable();
        let at = |index: usize| values.get(index).copied().unwrap_or(0);
        Self { median: at(values.len() / 2), most: values.last().copied().unwrap_or(0) }
    }
}

fn print_verdicts(verdicts: &[Verdict], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<24} {:>9} {:>11} {:>12}", "compared", "keys", "wrong keys", "in all")?;
    for verdict in verdicts {
        writeln!(
            out,
            "{:<24} {:>9} {:>11} {:>12} {}",
            verdict.what,
            thousands(verdict.keys),
            thousands(verdict.wrong_keys),
            thousands(verdict.values),
            verdict.note,
        )?;
        if !verdict.first_difference.is_empty() {
            writeln!(out, "    first: {}", verdict.first_difference)?;
        }
    }
    Ok(())
}

/// `6735520` as `6,735,520`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 worker`, `2 workers`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// `2 workers`, `4 workers in 2 processes`.
pub(crate) fn placed(workers: u32, processes: u32) -> String {
    let workers = counted(workers.into(), "worker");
    match processes {
        1 => workers,
        _ => format!("{workers} in {processes} processes"),
    }
}

/// `part` of `whole`, as `50.1 %`.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

fn duration(ns: u64) -> String {
    let ns = ns as f64;
    if ns < 1e6 {
        format!("{:.1} us", ns / 1e3)
    } else if ns < 1e9 {
        format!("{:.1} ms", ns / 1e6)
    } else {
        format!("{:.2} s", ns / 1e9)
    }
}

fn bytes(count: u64) -> String {
    let count_f = count as f64;
    if count < 10 << 10 {
        format!("{} B", thousands(count))
    } else if count < 10 << 20 {
        format!("{:.1} KiB", count_f / 1024.0)
    } else {
        format!("{:.1} MiB", count_f / 1_048_576.0)
    }
}
