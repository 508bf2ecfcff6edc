//! The suite on a small runtime that is whole, and on ones that are broken on purpose: each
//! of them is found out by the claim that it breaks.

#![allow(clippy::disallowed_methods, reason = "the runtime has threads of its own")]

mod master;
mod mutation;
mod outside;
mod runtime;
mod second;
mod subtask;

use alluvium_conformance::{Options, Report, checks, run};

use crate::mutation::Mutation;
use crate::runtime::Direct;

/// `ALLUVIUM_SEED` repeats a run.
fn seed() -> u64 {
    let given = std::env::var("ALLUVIUM_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 % 1_000_000)
}

fn report(runtime: &Direct, change: impl FnOnce(Options) -> Options) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let report = run(runtime, &change(Options::new(dir.path(), seed())));
    println!("{report}");
    report
}

#[test]
fn the_direct_runtime_keeps_every_claim() {
    let report = report(&Direct::default(), |options| options);
    assert!(report.is_kept(), "{report}");
    assert_eq!(report.skipped().count(), 0, "{report}");
    assert_eq!(report.checks.len(), checks().len());
}

/// The suite finds this claim broken by a runtime that is broken so. It looks at that claim
/// alone, since others are broken with it.
fn is_found(mutation: Mutation, claim: &str) {
    let report = report(&Direct::broken(mutation), |options| options.only(claim));
    assert_eq!(report.broken().collect::<Vec<_>>(), [claim], "{mutation:?}: {report}");
}

#[test]
fn a_sink_that_commits_too_early_is_found() {
    is_found(Mutation::CommitsEarly, "nothing is shown before its checkpoint is complete");
    is_found(
        Mutation::CommitsAborted,
        "an aborted checkpoint commits nothing and the next one everything",
    );
    is_found(Mutation::CommitsLate, "a late acknowledgement counts for nothing");
    is_found(Mutation::CommitsSavepoints, "a savepoint commits nothing");
    is_found(Mutation::CommitsWhenFenced, "a former life cannot commit");
}

#[test]
fn a_sink_that_commits_twice_or_never_is_found() {
    is_found(
        Mutation::CommitsTwice,
        "an aborted checkpoint commits nothing and the next one everything",
    );
    is_found(Mutation::StopsWithoutCommit, "a job stopped with a savepoint goes on where it was");
    is_found(
        Mutation::RestoresNoTransactions,
        "results whose completion nobody was told of are shown by a restore",
    );
}

#[test]
fn a_source_that_does_not_go_on_where_it_was_is_found() {
    is_found(Mutation::IgnoresOffsets, "no record is lost or counted twice by a restore");
    is_found(Mutation::OffsetsAhead, "no record is lost or counted twice by a restore");
    is_found(
        Mutation::OffsetsAhead,
        "a job killed at random moments says what an undisturbed one says",
    );
}

#[test]
fn timers_that_are_forgotten_repeated_or_fired_too_early_are_found() {
    is_found(Mutation::ForgetsTimers, "timers fire once and in order across a restore");
    is_found(Mutation::FiresTwice, "timers fire once and in order across a restore");
    is_found(Mutation::HastyWatermark, "a job says the same on any number of workers");
}

#[test]
fn state_that_is_lost_or_in_the_wrong_place_is_found() {
    is_found(Mutation::LosesShards, "rescaling keeps all keys and timers");
    is_found(Mutation::OwnHash, "a record goes to the owner of its key group");
    is_found(
        Mutation::LosesUnknownState,
        "state that the job does not know is refused unless allowed",
    );
    is_found(Mutation::BeginsAnew, "a damaged latest checkpoint is an error and no beginning");
    is_found(
        Mutation::SubsumesSavepoints,
        "a savepoint outlives later checkpoints and can be gone back to",
    );
}

#[test]
fn what_goes_wrong_between_processes_is_found() {
    is_found(Mutation::StaysAtHome, "a job says the same on several processes");
    is_found(
        Mutation::RespawnsEmpty,
        "a job that loses a process goes on from its latest checkpoint",
    );
    is_found(Mutation::RestoresOwnShare, "rescaling over processes keeps all keys and timers");
}

#[test]
fn barriers_and_times_that_are_those_of_one_input_alone_are_found() {
    is_found(Mutation::AlignsOnFirst, "a barrier is aligned over two inputs");
    is_found(Mutation::DoesNotBlock, "a barrier is aligned over two inputs");
    is_found(Mutation::FasterInput, "time is that of the slower of two inputs");
}
