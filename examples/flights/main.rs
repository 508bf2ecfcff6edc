//! A small stream processor over a year of real flights, killed half-way.
//!
//! The job keeps three sets of running aggregates in Alluvium (per aircraft,
//! per route, per carrier and day), spread over several shards on their own
//! threads. Barriers flow through the same channels as the records, and every
//! barrier becomes an asynchronous, incremental checkpoint in a directory.
//!
//! The process that you start is the *supervisor*. It runs the job as a child
//! of itself, kills the child with SIGKILL on the way, starts it again on a
//! different number of shards from the latest completed checkpoint, and prints
//! whether every aggregate equals a plain single pass over the same file.
//!
//! ```text
//!                 supervisor  (supervise, view, report)
//!                     | starts, watches over a pipe (event), kills
//!                     v
//!  file --> source --> worker 0 (store: one shard, three states) --+
//!  (input)  (job)  \-> worker 1                                    | tickets
//!                  \-> ...                                         v
//!              ^                                              coordinator (job)
//!              +---- "begin checkpoint 7" --------------------------+
//!                                                                   v
//!                                             completed checkpoints (checkpoint_file)
//!
//!  at the end: oracle, a single pass without any of the above, and verify
//! ```
//!
//! Run it with `cargo run --release --example flights -- --help`.
#![allow(
    clippy::disallowed_methods,
    reason = "an example plays the runtime, which has files, clocks and threads of its own"
)]

mod aggregate;
mod checkpoint_file;
mod cli;
mod event;
mod input;
mod job;
mod oracle;
mod report;
mod store;
mod supervise;
mod verify;
mod view;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let outcome = match &cli.command {
        Some(cli::Command::Job(options)) => job::run_as_child(options),
        None => supervise::run(&cli.options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
