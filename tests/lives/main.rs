//! Lives of a job in which states of every kind live together: in the same
//! shards, tables and manifests, merged and brought into memory by the same
//! background.
//!
//! Each seed draws which states have a time to live and by which time, and some
//! hundred steps: reads and writes, lists, maps, merged namespaces, timers
//! registered, deleted and fired, operator states, the wall clock set forward and
//! back by a month, the watermark, states dropped and registered anew under each
//! other's names, barriers, background work one task at a time, snapshots
//! completed, cancelled and aborted, and restarts from any completed snapshot on
//! another split of the key groups, now and then by way of a canonical savepoint. With a
//! restart values may get another
//! schema, and states another time to live, or none; some are not registered
//! until later, or not at all in that life.
//!
//! What is claimed of every seed:
//!
//! - every read gives what the model says, at every moment;
//! - every restore gives the model of that snapshot, of all kinds;
//! - timers fire in order, each once, and ties always in the same order.
//!
//! The model is plain maps, and knows of each value when it was written. One that
//! had expired by what the wall clock said at some moment may have been removed;
//! if the clock goes back it may be there or not, and a read decides. By event
//! time nothing is left open.
//!
//! `ALLUVIUM_SEEDS=n` runs n seeds, `ALLUVIUM_SEED=n` replays one.

#![allow(unreachable_pub, reason = "the modules of a test program")]

mod check;
mod claims;
mod engine;
mod job;
mod keyed;
mod model;
mod operator;
mod registry;
mod runtime;
mod tally;
mod thing;
mod timers;

use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds that are run unless `ALLUVIUM_SEEDS` says otherwise.
const SEEDS: u64 = 600;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// Names the seed of a life that fails.
struct Naming(u64);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0} failed; ALLUVIUM_SEED={0} replays it", self.0);
        }
    }
}

fn run(seed: u64) -> tally::Tally {
    let _naming = Naming(seed);
    job::run(seed)
}

#[test]
#[allow(clippy::disallowed_methods, reason = "seeds are independent and share the processors")]
fn all_kinds_of_state_live_together_as_the_model_says() {
    if let Some(seed) = number_from("ALLUVIUM_SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let seeds = number_from("ALLUVIUM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let tally = std::sync::Mutex::new(tally::Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    let happened = run(seed);
                    tally.lock().unwrap().add(&happened);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    println!("{tally:?}");
    // What the lives are about does happen in them.
    if seeds >= SEEDS {
        tally.assert_all_happened();
    }
}

#[test]
fn a_seed_repeats_everything() {
    for seed in 1_000_000..1_000_010 {
        assert_eq!(run(seed), run(seed), "seed {seed} went two ways");
    }
}
