//! Lists and maps of a shard, at the level of bytes.
//!
//! [`lives`] lets jobs live at random beside ordered maps: operations, barriers
//! with several snapshots under way, aborted ones, merges, restores of any
//! completed checkpoint on another number of shards, warm-ups that come to no
//! end. What every read says, and which keys there are, is what the maps say.
//!
//! [`claims`] names what is claimed besides, one claim a test.
//!
//! `ALLUVIUM_SEEDS=n` runs n seeds, `ALLUVIUM_SEED=n` replays one.

#![allow(unreachable_pub, reason = "the modules of a test program")]

mod claims;
mod lives;

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

#[test]
fn every_life_of_lists_and_maps_is_that_of_ordered_maps() {
    let seeds = match number_from("ALLUVIUM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("ALLUVIUM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let _naming = Naming(seed);
        lives::run(seed);
    }
}
