//! The coordinator of a job in a world where everything goes wrong at any time.
//!
//! Each seed draws some jobs in one store, how often things fail, and some hundred
//! steps: shards write, merge their tables and take barriers; barriers,
//! acknowledgements and notices are lost, repeated and reordered; store calls fail
//! without effect, lose their reply, take effect much later, and while one of them is
//! waited for everybody else goes on; processes die at any call; others take over
//! while those before do not know yet, restore the latest, an older one, a savepoint
//! with and without claiming it, or one of another job, on other numbers of shards, or
//! fork another job; savepoints are exported, and imported into whatever job; others ask
//! for savepoints and their disposal, and wait for answers; readers pin checkpoints; clocks
//! jump.
//!
//! What is claimed of every seed (`truth.rs` watches each change of the store):
//!
//! - what the last journal entry says is kept is whole, and so is what is pinned, and
//!   what shards were restored from until they say that they do not read it any more;
//! - entries follow from one another: one writer for each epoch, none after a fence, a
//!   job goes on from what was completed last or from what somebody chose;
//! - a restore gives the numbers that the shards had at their barriers;
//! - each checkpoint that was begun ends once, and none ends as given up that is
//!   completed; ids are never used twice;
//! - nothing of another job is removed but the pin of a fork that needs no file any more
//!   which only that pin keeps, and that no journal entry on its way names;
//! - what is forked or imported holds what the checkpoint held that it was made of, and an
//!   import lies in the job's own folder; nothing else comes without barriers;
//! - what an answer says is so, and what was asked for once is done once; when faults end
//!   every request is answered;
//! - when faults end the next checkpoint completes, and after a sweep and two more
//!   there is nothing but what is needed, and the end of the journal.
//!
//! `ALLUVIUM_SEEDS=n` runs n seeds, `ALLUVIUM_SEED=n` replays one, step by step.

#![allow(unreachable_pub, reason = "the modules of a test program")]

mod bugs;
mod by_hand;
mod cost;
mod driver;
mod forks;
mod lives;
mod schedule;
mod shard;
mod sim;
mod store;
mod truth;

use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Sim, Tally};

/// Seeds that are run unless `ALLUVIUM_SEEDS` says otherwise.
const SEEDS: u64 = 300;

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

fn run(seed: u64, tracing: bool) -> Tally {
    let _naming = Naming(seed);
    let sim = Sim::new(seed, tracing);
    let steps = {
        let mut state = sim.state.lock();
        200 + state.below(800)
    };
    sim.take_over();
    (0..steps).for_each(|_| sim.step());
    sim.come_to_rest();
    sim.state.lock().tally.clone()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "seeds are independent and share the processors")]
fn nothing_that_is_needed_goes_and_all_else_does_whatever_fails() {
    if let Some(seed) = number_from("ALLUVIUM_SEED") {
        println!("{:?}", run(seed, true));
        return;
    }
    let seeds = number_from("ALLUVIUM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let tallies = parking_lot::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    let tally = run(seed, false);
                    tallies.lock().push(tally.fields());
                }
            });
        }
    });
    let tallies = tallies.into_inner();
    let names = Tally::default().fields().map(|(name, _)| name);
    for (at, name) in names.into_iter().enumerate() {
        let sum: u64 = tallies.iter().map(|fields| fields[at].1).sum();
        println!("{name}: {sum}");
        // What the lives are about does happen in them.
        assert!(sum > 0 || seeds < SEEDS, "no {name} in {seeds} seeds");
    }
}

#[test]
fn a_seed_repeats_everything() {
    for seed in 1_000_000..1_000_010 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed} went two ways");
    }
}
