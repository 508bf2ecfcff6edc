//! The command line tool, run as people and scripts run it: on a store that a job made
//! with a coordinator, whose records the test knows.
//!
//! What is claimed of every verb: what it says is what the job did; data goes to the
//! standard output and nothing else does; the exit code says how it ended; what only
//! looks, and what was not told `--yes`, changes no object of the store.

#![allow(
    clippy::disallowed_methods,
    reason = "the tool works on real files, and so do those who check what it did"
)]

#[cfg(feature = "avro")]
mod avro;
mod canonical;
mod changing;
mod hostile;
mod job;
mod looking;
mod records;
mod tool;
