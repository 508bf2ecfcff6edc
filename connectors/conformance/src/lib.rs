//! Claims that every runtime with its state in Alluvium has to keep, and what puts a
//! runtime to them.
//!
//! You have connected a runtime as [`alluvium::guide`] says. Implement [`Adapter`] for it:
//! how to run one small [`Job`], ask it for checkpoints, and kill it. [`run`] puts it to
//! every claim of [`checks`] and gives a [`Report`], a table for people.
//!
//! ```
//! use alluvium_conformance::{Adapter, Options, run};
//!
//! fn keeps_every_claim(runtime: &dyn Adapter, dir: &std::path::Path, seed: u64) {
//!     let report = run(runtime, &Options::new(dir, seed));
//!     println!("{report}");
//!     assert!(report.is_kept(), "{report}");
//! }
//! ```
//!
//! # The job
//!
//! A source of a few splits, sometimes two, an operator that counts records and sums them in
//! windows closed by event-time timers, a sink of lines. The suite has the source in its hands: it
//! lets so many records through and no more ([`Source`]), so that it knows what a
//! checkpoint holds without looking at a clock. The operator is there, too ([`Tally`]),
//! generic over the store that its state is in. The adapter's part is all that is between
//! them: routing, barriers, watermarks, timers, commits. What should come out is computed
//! from the seed alone ([`oracle`]), without any of that.
//!
//! # What an adapter cannot do
//!
//! It says so ([`Adapter::supports`]), with a reason. A claim that needs it is then told as
//! skipped in the report, never as kept.

mod checks;
mod faults;
mod job;
pub mod oracle;
mod report;
mod stage;

use std::path::{Path, PathBuf};

use alluvium::{Result, SnapshotId};

pub use crate::checks::checks;
pub use crate::faults::Faults;
pub use crate::job::{DISORDER, Place, Polled, Probe, Record, Source, Tally, WINDOW};
pub use crate::report::{CheckReport, Report, Verdict};

/// What not every runtime can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Capability {
    /// Savepoints, and going back to them.
    Savepoints,
    /// Taking back what the sink had shown, when the job goes back to before it.
    Rollback,
    /// Ending a job with a savepoint.
    StopWithSavepoint,
    /// Another number of workers than before.
    Rescaling,
    /// [`Faults`] between the runtime and its store.
    Faults,
    /// Losing what the job's parts are told of completed checkpoints.
    LostNotifications,
    /// Two lives of one job at a time, of which the later counts.
    Zombies,
    /// Knowing that restored state belongs to no operator of the job.
    UnknownState,
    /// Damaging the latest checkpoint, for the suite.
    Damage,
    /// Dividing the workers of a job among several processes, one of which may die: what
    /// fails by itself, and has its own directory, connections and memory. An adapter may
    /// run them as threads, if what it tests does not notice.
    Processes,
    /// A second input of the operator.
    TwoInputs,
}

/// Whether an adapter has a capability.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Support {
    /// It has.
    Yes,
    /// It has not, for this reason.
    No(String),
}

/// What a job goes on from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GoesOnFrom {
    /// The latest checkpoint, or the beginning if there is none.
    Latest,
    /// The savepoint of this name.
    Savepoint(String),
}

/// A job as an adapter is to run it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Job {
    /// Everything that outlives a life of the job belongs to this directory: the same job
    /// has the same one.
    pub dir: PathBuf,
    /// How many parallel subtasks the operator has.
    pub workers: u32,
    /// Among how many processes they are divided, the same number in each; 1 unless the
    /// adapter supports [`Capability::Processes`].
    pub processes: u32,
    /// What it goes on from.
    pub from: GoesOnFrom,
    /// The name of the operator.
    pub operator: String,
    /// Whether restored state may be lost that no operator has the name of.
    pub allow_dropped_state: bool,
    /// After which a checkpoint that is not complete is given up.
    pub timeout_ms: u64,
    /// What is to be read.
    pub source: Source,
    /// What is to be read beside it, as a second input of the operator with splits and
    /// barriers of its own, if the adapter supports [`Capability::TwoInputs`]: each record
    /// of either is given to [`Tally::record`], and time goes on as the slower one does.
    pub second: Option<Source>,
    /// What is to be given to [`Tally::open`].
    pub probe: Probe,
    /// What is to be put between the runtime and its store.
    pub faults: Faults,
}

/// A runtime, as the suite sees it.
pub trait Adapter {
    /// What it is called in reports.
    fn name(&self) -> String;

    /// Whether it can do something. What it cannot is never asked of it.
    fn supports(&self, capability: Capability) -> Support;

    /// Begins a life of a job, restored as it says, and returns when all its workers run.
    ///
    /// Checkpoints are taken when they are asked for, and once more at the end of the
    /// inputs, never by the clock; any number of them may fail without ending the job;
    /// one is retained.
    ///
    /// # Errors
    /// Why the job cannot begin, or cannot go on from where it should.
    fn start(&self, job: &Job) -> Result<Box<dyn Running>>;

    /// The lines that the sink of the job in this directory shows now, in any order. The
    /// job may be running or not.
    ///
    /// # Errors
    /// If that cannot be found out.
    fn results(&self, dir: &Path) -> Result<Vec<String>>;

    /// Damages the latest checkpoint of the job in this directory, which does not run, so
    /// that it cannot be read.
    ///
    /// # Errors
    /// If it cannot be done.
    fn damage_latest(&self, dir: &Path) -> Result<()>;
}

/// A life of a job.
pub trait Running {
    /// Takes a checkpoint and waits until it is complete.
    ///
    /// # Errors
    /// If it was given up, or the job has ended.
    fn checkpoint(&self) -> Result<SnapshotId>;

    /// Begins a checkpoint and waits for nothing. What comes of it is nobody's business.
    fn begin_checkpoint(&self);

    /// Takes a savepoint and waits until it is complete.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    fn savepoint(&self, name: &str) -> Result<SnapshotId>;

    /// Ends the job with a savepoint, and waits until it is over and its results are shown.
    ///
    /// # Errors
    /// If it failed.
    fn stop(self: Box<Self>, name: &str) -> Result<()>;

    /// From now on nothing in the job is told that a checkpoint was completed.
    fn lose_notifications(&self);

    /// Ends one process, of number 0 and more, as a crash would, and not the others. What
    /// becomes of the job is the runtime's: it ends, or goes on with nothing lost.
    ///
    /// Only asked for with [`Capability::Processes`].
    fn kill_process(&self, process: u32) {
        unreachable!("process {process} is to be killed, which the adapter does not support");
    }

    /// Whether the job has ended, for whatever reason.
    fn has_ended(&self) -> bool;

    /// Ends the job as a crash would: nothing is completed, committed or cleaned up, and
    /// what is in no completed checkpoint is lost. Returns when nothing of it runs.
    fn kill(self: Box<Self>);

    /// Waits until the inputs have come to their end, the last checkpoint is complete and
    /// its results are shown.
    ///
    /// # Errors
    /// Why it failed before.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// How [`run`] goes about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Each check has a directory of its own in this one, which is empty.
    pub dir: PathBuf,
    /// All that is random follows from it.
    pub seed: u64,
    /// How often a job is killed at random moments.
    pub kills: u32,
    /// After how long without progress a check gives up, in seconds. A loaded machine must
    /// not come near it.
    pub patience_s: u64,
    /// Only the checks of these names; all, if there is none.
    pub only: Vec<String>,
}

impl Options {
    /// All checks, with this directory and seed.
    pub fn new(dir: impl Into<PathBuf>, seed: u64) -> Self {
        Self { dir: dir.into(), seed, kills: 4, patience_s: 300, only: Vec::new() }
    }

    /// Only the check of this name.
    #[must_use]
    pub fn only(mut self, name: &str) -> Self {
        self.only.push(name.to_owned());
        self
    }
}

/// Puts a runtime to the claims, one after the other.
pub fn run(adapter: &dyn Adapter, options: &Options) -> Report {
    let is_wanted =
        |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let wanted = checks().iter().enumerate().filter(|(_, check)| is_wanted(check.name));
    let checks = wanted
        .map(|(number, check)| {
            let missing = check.needs.iter().find_map(|need| match adapter.supports(*need) {
                Support::Yes => None,
                Support::No(reason) => Some(format!("needs {need:?}: {reason}")),
            });
            let verdict = match missing {
                Some(reason) => Verdict::Skipped(reason),
                None => {
                    let dir = options.dir.join(format!("{number:02}"));
                    let stage = stage::Stage::new(adapter, options, dir, number as u64);
                    match (check.run)(&stage) {
                        Ok(()) => Verdict::Kept,
                        Err(broken) => Verdict::Broken(broken),
                    }
                }
            };
            CheckReport { name: check.name, verdict }
        })
        .collect();
    Report { adapter: adapter.name(), seed: options.seed, checks }
}
