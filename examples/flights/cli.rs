//! The command line: what a person may choose, and what the supervisor tells
//! its child.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use super::rules::Rules;

/// Most workers that can be asked for, in all processes: the number of key groups.
pub(crate) const MAX_WORKERS: u32 = 128;

/// Most processes that can be asked for.
const MAX_PROCESSES: u32 = 16;

const AFTER_HELP: &str = "\
Results go to standard output; progress goes to standard error (a bar on a \
terminal, plain lines otherwise).

Exit status: 0 if everything equals the plain computation, 1 if something does \
not or the run failed, 2 if an option was wrong.";

/// Follows a year of real flights with timely dataflow and Alluvium, is killed on the way,
/// recovers on another number of workers, and is rolled back to a savepoint.
#[derive(Parser, Debug)]
#[command(name = "flights", args_conflicts_with_subcommands = true)]
#[command(disable_help_subcommand = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What a person may choose.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Flights to read: CSV with the columns of nycflights13, plain or
    /// compressed with gzip (told apart by content, not by name)
    /// [default: the bundled examples/flights/flights.csv.gz]
    #[arg(long, value_name = "FILE", default_value_os_t = bundled_input(), hide_default_value = true)]
    pub(crate) input: PathBuf,

    /// Workers to start with, each on a thread of its own
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = workers())]
    pub(crate) workers: u32,

    /// Workers to continue with after the kill
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = workers())]
    pub(crate) rescale_to: u32,

    /// Processes that the job runs in, each with so many workers; they talk over the
    /// loopback interface, and all of them are killed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PROCESSES)))]
    pub(crate) processes: u32,

    /// Time from the start of one checkpoint to the start of the next; a
    /// checkpoint that takes longer delays the next one
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub(crate) interval_ms: u64,

    /// Directory for state and checkpoints, new or empty, kept afterwards; a
    /// temporary one, removed at the end, if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Read the input N times over, each time as if it followed the last one
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeat: u32,

    /// Give each repetition keys of its own, so that the state grows with
    /// --repeat
    #[arg(long)]
    pub(crate) spread: bool,

    /// Kill the job at this fraction of the input, from 0 to 1, but not before
    /// a first checkpoint is complete
    #[arg(long, value_name = "FRACTION", default_value_t = 0.5, value_parser = fraction)]
    pub(crate) kill_at: f64,

    /// Take a savepoint at this fraction of the input, from 0 to 1
    #[arg(long, value_name = "FRACTION", default_value_t = 0.25, value_parser = fraction)]
    pub(crate) savepoint_at: f64,

    /// Do not roll the job back to the savepoint at the end
    #[arg(long)]
    pub(crate) no_rollback: bool,

    /// Let the job run to its end undisturbed
    #[arg(long, conflicts_with_all = ["kill_at", "rescale_to"])]
    pub(crate) no_kill: bool,

    #[command(flatten)]
    pub(crate) rules: Rules,
}

/// What the supervisor runs as its child.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the job itself and report to standard output in JSON lines
    #[command(hide = true)]
    Job(JobOptions),
}

/// What the supervisor tells its child.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobOptions {
    /// File of flights.
    #[arg(long)]
    pub(crate) input: PathBuf,
    /// Directory for state and checkpoints.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Workers of each process.
    #[arg(long, value_parser = workers())]
    pub(crate) workers: u32,
    /// Number of this process.
    #[arg(long, default_value_t = 0)]
    pub(crate) process: u32,
    /// Addresses at which the processes find each other, one for each; none if there is
    /// one process.
    #[arg(long = "address")]
    pub(crate) addresses: Vec<String>,
    /// Time between the starts of two checkpoints.
    #[arg(long)]
    pub(crate) interval_ms: u64,
    /// Repetitions of the input.
    #[arg(long)]
    pub(crate) repeat: u32,
    /// Flights in the file.
    #[arg(long)]
    pub(crate) flights: u64,
    /// Days from the beginning of one repetition to that of the next.
    #[arg(long)]
    pub(crate) span_days: u32,
    /// The latest event of the file, in minutes.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) latest_min: i64,
    /// Whether each repetition has its own keys.
    #[arg(long)]
    pub(crate) spread: bool,
    /// Start from the latest completed checkpoint, which must exist.
    #[arg(long)]
    pub(crate) restore: bool,
    /// Start from the savepoint of this name, which must exist.
    #[arg(long)]
    pub(crate) rollback_to: Option<String>,
    /// Take a savepoint when so many records have been read.
    #[arg(long)]
    pub(crate) savepoint_at_record: Option<u64>,
    /// At the end of the input, go on with checkpoints until killed, so that
    /// a small input cannot escape the kill by ending first.
    #[arg(long)]
    pub(crate) await_kill: bool,
    #[command(flatten)]
    pub(crate) rules: Rules,
}

impl JobOptions {
    /// The command-line words that give these options.
    pub(crate) fn to_words(&self) -> Vec<std::ffi::OsString> {
        let mut words = Vec::new();
        words.push("job".into());
        for (flag, path) in [("--input", &self.input), ("--dir", &self.dir)] {
            words.push(flag.into());
            words.push(path.into());
        }
        for (flag, number) in [
            ("--workers", u64::from(self.workers)),
            ("--process", u64::from(self.process)),
            ("--interval-ms", self.interval_ms),
            ("--repeat", u64::from(self.repeat)),
            ("--flights", self.flights),
            ("--span-days", u64::from(self.span_days)),
        ] {
            words.push(flag.into());
            words.push(number.to_string().into());
        }
        words.push("--latest-min".into());
        words.push(self.latest_min.to_string().into());
        for address in &self.addresses {
            words.push("--address".into());
            words.push(address.into());
        }
        for (flag, number) in self.rules.to_words() {
            words.push(flag.into());
            words.push(number.to_string().into());
        }
        if let Some(name) = &self.rollback_to {
            words.push("--rollback-to".into());
            words.push(name.into());
        }
        if let Some(record) = self.savepoint_at_record {
            words.push("--savepoint-at-record".into());
            words.push(record.to_string().into());
        }
        for (flag, wanted) in [
            ("--spread", self.spread),
            ("--restore", self.restore),
            ("--await-kill", self.await_kill),
        ] {
            if wanted {
                words.push(flag.into());
            }
        }
        words
    }
}

fn bundled_input() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights/flights.csv.gz")
}

fn workers() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MAX_WORKERS))
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 1, such as 0.5".into()),
    }
}
