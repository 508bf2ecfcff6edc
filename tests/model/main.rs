//! Random work on a simulated machine, against a model.
//!
//! Each seed draws a scenario (how many key groups, shards, states and keys;
//! what values look like; how often things fail) and then a few hundred steps:
//! reads and writes, barriers, background work one task at a time, cancelled
//! and aborted and completed snapshots, lost and late notifications, a runtime
//! that throws away files it does not need, restarts with and without a power
//! cut on another number of shards. Steps of the writer also happen inside the
//! sink, that is, in the middle of an upload.
//!
//! What is claimed of every seed:
//!
//! - every read gives what the model says;
//! - every snapshot that completes holds, table by table, what the model held
//!   when it was taken, and its delta holds the records that changed since the
//!   snapshot before and no others;
//! - every restore gives the model of that snapshot, whichever it was;
//! - a snapshot fails only for a reason that the test knows of.
//!
//! `ALLUVIUM_SEEDS=n` runs n seeds, `ALLUVIUM_SEED=n` replays one.

#![allow(unreachable_pub, reason = "the modules of a test program")]

#[path = "../common/mod.rs"]
mod common;
mod job;
mod runtime;
mod scenario;

use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds that are run unless `ALLUVIUM_SEEDS` says otherwise.
const SEEDS: u64 = 2_000;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// Names the seed of a scenario that fails.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} failed; ALLUVIUM_SEED={0} replays it", self.0);
        }
    }
}

fn run(seed: u64) -> u64 {
    let _naming = Naming(seed);
    scenario::run(seed)
}

#[test]
#[allow(clippy::disallowed_methods, reason = "seeds are independent and share the processors")]
fn every_sealed_image_and_every_restore_equals_the_model() {
    if let Some(seed) = number_from("ALLUVIUM_SEED") {
        run(seed);
        return;
    }
    let seeds = number_from("ALLUVIUM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    run(seed);
                }
            });
        }
    });
}

#[test]
fn a_seed_repeats_everything() {
    for seed in 1_000_000..1_000_040 {
        assert_eq!(run(seed), run(seed), "seed {seed} went two ways");
    }
}
