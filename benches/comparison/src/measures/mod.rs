//! The measures, and what they share.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;

use crate::Result;
use crate::engines::{Engine, Kind, Settings};
use crate::options::{Cli, Measure};
use crate::report::Report;
use crate::workload::{Ops, Random, key, value};

pub(crate) mod checkpoint;
pub(crate) mod grow;
mod kinds;
pub(crate) mod lists;
pub(crate) mod maps;
pub(crate) mod memory;
pub(crate) mod pause;
pub(crate) mod reopen;
pub(crate) mod rescale;
pub(crate) mod restore;
pub(crate) mod rmw;
pub(crate) mod scopes;
pub(crate) mod spill;
pub(crate) mod timers;
pub(crate) mod windows;

/// Calls a function that is generic over key and value size with the sizes of
/// this run.
macro_rules! with_sizes {
    ($key_bytes:expr, $value_bytes:expr, $function:ident, $($argument:expr),*) => {
        match ($key_bytes, $value_bytes) {
            (8, 8) => $function::<8, 8>($($argument),*),
            (8, 32) => $function::<8, 32>($($argument),*),
            (8, 100) => $function::<8, 100>($($argument),*),
            (16, 8) => $function::<16, 8>($($argument),*),
            (16, 32) => $function::<16, 32>($($argument),*),
            (16, 100) => $function::<16, 100>($($argument),*),
            (key, value) => Err(format!("no engine is compiled for {key} B keys and {value} B values").into()),
        }
    };
}
pub(crate) use with_sizes;

/// Runs what the command line asks for.
pub(crate) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    let all = cli.measure == Measure::All;
    if all || cli.measure == Measure::Rmw {
        rmw::run(cli, report)?;
    }
    if all || cli.measure == Measure::Checkpoint {
        checkpoint::run(cli, report)?;
    }
    if all || cli.measure == Measure::Pause {
        pause::run(cli, report)?;
    }
    if all || cli.measure == Measure::Grow {
        grow::run(cli, report)?;
    }
    if all || cli.measure == Measure::Memory {
        memory::run(cli, report)?;
    }
    if all || cli.measure == Measure::Restore {
        restore::run(cli, report)?;
    }
    if all || cli.measure == Measure::Lists {
        lists::run(cli, report)?;
    }
    if all || cli.measure == Measure::Maps {
        maps::run(cli, report)?;
    }
    if all || cli.measure == Measure::Windows {
        windows::run(cli, report)?;
    }
    if all || cli.measure == Measure::Timers {
        timers::run(cli, report)?;
    }
    if all || cli.measure == Measure::Scopes {
        scopes::run(cli, report)?;
    }
    if all || cli.measure == Measure::Spill {
        spill::run(cli, report)?;
    }
    if all || cli.measure == Measure::Reopen {
        reopen::run(cli, report)?;
    }
    if all || cli.measure == Measure::Rescale {
        rescale::run(cli, report)?;
    }
    Ok(())
}

/// Says on the error stream what is being done, so that a long run shows life.
pub(crate) fn progress(text: &str) {
    eprintln!("comparison: {text}");
}

/// A directory for one engine's files, removed with everything in it on drop.
pub(crate) struct EngineDir(tempfile::TempDir);

impl EngineDir {
    /// Makes one below the directory of the run.
    pub(crate) fn new(cli: &Cli) -> Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("comparison-").tempdir_in(&cli.dir)?))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Which of the engines take part, when a measure leaves out some unless they
/// are asked for by name.
pub(crate) fn kinds_or(cli: &Cli, default: impl Fn(Kind) -> bool) -> Vec<Kind> {
    let asked = cli.engines.is_some();
    cli.kinds().into_iter().filter(|kind| asked || default(*kind)).collect()
}

/// The engines of a round, beginning with another one each time.
pub(crate) fn rotated(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| (at + round) % count)
}

/// Makes an engine and stores `keys` records in it.
pub(crate) fn loaded<E: Engine<K, V>, const K: usize, const V: usize>(
    settings: &Settings,
    dir: &Path,
    keys: u64,
) -> Result<E> {
    let mut engine = E::create(settings, dir)?;
    let mut records = Vec::new();
    let mut next = 0;
    while next < keys {
        let until = keys.min(next + 16_384);
        records.clear();
        records.extend((next..until).map(|index| (key::<K>(index), value::<V>(index))));
        engine.load(&records)?;
        next = until;
    }
    engine.settle()?;
    Ok(engine)
}

/// Checks a sample of counters against what the operations must have made of
/// them. `done` names each ring of operations and how far it was used.
///
/// # Errors
/// If a counter differs: the engine has lost or repeated an update, and its
/// figures are worth nothing.
pub(crate) fn check_counters<E: Engine<K, V>, const K: usize, const V: usize>(
    engine: &mut E,
    name: &str,
    keys: u64,
    done: &[(&Ops, u64)],
) -> Result<()> {
    let mut random = Random::new(keys);
    // Most keys of a large state are touched rarely: look at the first
    // operations' keys as well as at random ones.
    let mut sample: Vec<u32> = (0..128).map(|_| random.below(keys) as u32).collect();
    sample.extend(done.iter().flat_map(|(ops, _)| ops.slice(0, 128)));
    sample.sort_unstable();
    sample.dedup();
    let mut expected = vec![0; sample.len()];
    for (ops, position) in done {
        for (sum, count) in expected.iter_mut().zip(ops.occurrences(&sample, *position)) {
            *sum += count;
        }
    }
    for (index, expected) in sample.iter().zip(expected) {
        let found = engine.counter(&key(u64::from(*index)))?;
        if found != Some(expected) {
            return Err(format!(
                "{name} counted key {index} wrongly: expected {expected}, found {found:?}"
            )
            .into());
        }
    }
    Ok(())
}

/// This program again, with the settings of this run, as the process of one engine.
pub(crate) fn own_program(
    cli: &Cli,
    subcommand: &str,
    kind: Kind,
    key_bytes: usize,
    value_bytes: usize,
) -> Result<Command> {
    let compression = cli.compression.to_possible_value().ok_or("unnamed")?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([subcommand, "--engine", &kind.argument()])
        .args(["--key-bytes", &key_bytes.to_string()])
        .args(["--value-bytes", &value_bytes.to_string()])
        .args(["--memory-mb", &cli.memory_mb.to_string()])
        .args(["--compression", compression.get_name()])
        .args(["--background-threads", &cli.background_threads.to_string()])
        .args(cli.without_polling.then_some("--without-polling"));
    Ok(command)
}
