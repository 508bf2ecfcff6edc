//! A year of real flights on timely dataflow, killed half-way.
//!
//! The job uses every kind of state that Alluvium has, in one shard for each of
//! timely's workers: running totals per aircraft, per route, and per
//! carrier and day; event-time windows of an hour per airport; sessions of each
//! aircraft that merge; the busiest routes of each carrier and day; which
//! aircraft are in service (`operators` has the list). Alluvium's connector for
//! timely carries barriers along with timely's own progress, and every barrier
//! becomes an asynchronous, incremental checkpoint in a directory, which also
//! commits the results that the job has said until then.
//!
//! The process that you start is the *supervisor*. It runs the job as a child
//! of itself (or as several, which talk to each other), which takes a savepoint on the
//! way; kills it with SIGKILL, and starts it again on a different number of workers from
//! the latest completed checkpoint. When that has come to its end it rolls the job back to
//! the savepoint and runs it once more from there. Both times it prints whether every
//! total and every result equals a plain computation over the same file.
//!
//! ```text
//!                 supervisor  (supervise, view, report)
//!                     | starts, watches over a pipe (event), kills
//!                     v
//!   job of the first process (job, store)             job of the next
//!                     | runs                                | runs
//!                     v                                     v
//!   timely's workers, each with the dataflow (dataflow):
//!   file --> source --> flights by key --> operators with one shard --> results
//!   (input) (source)    (departure)        (operators)                  (results)
//!
//!  at the end: oracle, the same without any of the above, and verify
//! ```
//!
//! Begin with `operators/windows.rs` to see how states and timers are used,
//! with `dataflow.rs` to see what a job looks like on timely. What a runtime has to do
//! around Alluvium is in the connector, `connectors/timely`.
//!
//! Run it with `cargo run --release --example flights -- --help`.
#![allow(
    clippy::disallowed_methods,
    reason = "an example has files, clocks and threads of its own"
)]

// Not private: `tests/flights_job` looks into them.
pub(crate) mod cli;
pub(crate) mod dataflow;
pub(crate) mod departure;
pub(crate) mod event;
pub(crate) mod input;
pub(crate) mod job;
pub(crate) mod operators;
pub(crate) mod oracle;
pub(crate) mod report;
pub(crate) mod results;
pub(crate) mod rules;
pub(crate) mod source;
pub(crate) mod store;
pub(crate) mod supervise;
pub(crate) mod survey;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod verify;
pub(crate) mod view;

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
