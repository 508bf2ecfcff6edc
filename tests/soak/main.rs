//! State twenty times as large as the memory that it may use, for a long time.
//!
//! A job has all kinds of state: single values of mixed sizes, values that expire by
//! event time and by the wall clock, lists, maps and timers. Keys are drawn uniformly,
//! by Zipf's law, and from a set that drifts. Checkpoints are taken all the time,
//! completed, aborted and cancelled; of the store all is deleted that the last two do
//! not name. The process "dies" again and again, in the middle of snapshots too, and
//! goes on from the last completed checkpoint on one, two or three shards.
//!
//! What is claimed:
//!
//! - every answer is what the oracle says, at every moment and after every restore;
//! - memory, descriptors, threads and disk stay as they are;
//! - what tables and manifests say of numbers of records and bytes is so.
//!
//! The short test does so much work; the long one runs for `ALLUVIUM_SOAK_SECONDS`
//! (half an hour unless told otherwise) with a budget of `ALLUVIUM_SOAK_BUDGET_MB` (64)
//! in a temporary directory below `ALLUVIUM_SOAK_DIR`, and prints a table:
//!
//! ```text
//! cargo test --release --test soak -- --ignored --nocapture
//! ```

#![allow(unreachable_pub, reason = "the modules of a test program")]
#![allow(clippy::disallowed_methods, reason = "looks at the real process and its real files")]

mod job;
mod oracle;
mod run;
mod samples;
mod store;

use run::{Pace, Plan, run};

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

#[test]
fn state_twenty_times_the_budget_is_what_the_oracle_says_through_crashes_and_retention() {
    let seed = number_from("ALLUVIUM_SEED").unwrap_or(1);
    println!("ALLUVIUM_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan {
        budget_bytes: 1 << 20,
        pace: Pace::Rounds,
        length: 6_000,
        checkpoint_every: 150,
        crash_every: 700,
        sample_every: 100,
        seed,
    };
    // Too short to say what grows.
    run(plan, dir.path());
}

#[test]
#[ignore = "half an hour; cargo test --release --test soak -- --ignored --nocapture"]
fn memory_descriptors_threads_and_disk_stay_flat_for_half_an_hour() {
    let seed = number_from("ALLUVIUM_SEED").unwrap_or(1);
    println!("ALLUVIUM_SEED={seed}");
    let below =
        std::env::var_os("ALLUVIUM_SOAK_DIR").unwrap_or_else(|| std::env::temp_dir().into());
    let dir = tempfile::tempdir_in(below).unwrap();
    let seconds = number_from("ALLUVIUM_SOAK_SECONDS").unwrap_or(1_800);
    let plan = Plan {
        budget_bytes: number_from("ALLUVIUM_SOAK_BUDGET_MB").unwrap_or(64) << 20,
        pace: Pace::Milliseconds,
        length: seconds * 1_000,
        checkpoint_every: 4_000,
        // Nine in each third, and so as many on one shard as on two and three.
        crash_every: (seconds * 1_000).div_ceil(27).max(1),
        sample_every: (seconds * 1_000).div_ceil(1_800).max(1),
        seed,
    };
    let grown = run(plan, dir.path());
    assert!(grown.is_empty(), "{grown:#?}");
}
