//! Alluvium beside RocksDB, fjall and hash maps: the same work, one run.
//!
//! Each measure lives in a module of [`measures`], each engine in a module of
//! [`engines`]. Rounds alternate between the engines, so that a slow minute of
//! the machine hits all of them; figures are medians over rounds. Every
//! measure ends by checking that the engines have counted what they were told
//! to count. How to build, run and read it: `README.md`.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures the machine: it needs its clocks, files and threads"
)]

mod cgroup;
mod child;
mod clock;
mod engines;
mod measures;
mod options;
mod report;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use options::{Cli, Measure};
use report::Report;

/// Anything that stops a run.
pub(crate) type Error = Box<dyn std::error::Error>;
/// What can fail.
pub(crate) type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("comparison: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if let Measure::MemoryChild { engine, keys } = cli.measure {
        return measures::memory::child(cli, engine, keys);
    }
    if let Measure::RescaleChild { .. } = cli.measure {
        return measures::rescale::child(cli);
    }
    if let Measure::SpillChild { engine } = cli.measure {
        return measures::spill::child::child(cli, engine);
    }
    let mut report = Report::default();
    describe_run(cli, &mut report)?;
    measures::run(cli, &mut report)?;
    if cli.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

/// Writes down the machine and the settings that all measures share.
fn describe_run(cli: &Cli, report: &mut Report) -> Result<()> {
    let first = |path: &str, label: &str| {
        std::fs::read_to_string(path)
            .ok()
            .and_then(|text| {
                let line = text.lines().find(|line| line.starts_with(label))?;
                Some(line.trim_start_matches(label).trim_matches([' ', '\t', ':']).to_owned())
            })
            .unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    report.fact("processor", format!("{}, {cores} cores", first("/proc/cpuinfo", "model name")));
    report.fact("memory", first("/proc/meminfo", "MemTotal:"));
    report.fact("memory available at the start", first("/proc/meminfo", "MemAvailable:"));
    report.fact("load average at the start", first("/proc/loadavg", ""));
    report.fact("huge pages", first("/sys/kernel/mm/transparent_hugepage/enabled", ""));
    report.fact("kernel", first("/proc/version", ""));
    report.fact("directory", cli.dir.display().to_string());
    report.fact("memory budget of RocksDB and fjall", format!("{} MB", cli.memory_mb));
    report.fact("Bloom filters", if cli.bloom { "on" } else { "off" });
    report.fact("compression", format!("{:?}", cli.compression));
    report.fact("seed", cli.seed.to_string());
    report.fact("two clock readings", format!("{} ns", clock::clock_cost_ns()));
    Ok(())
}
