//! Values that expire.
//!
//! [`claims`] names what is claimed of time to live, one claim a test. [`lives`]
//! lets jobs live at random beside a plain model of what may and what must be
//! there: clocks that jump, restores with another time to live or none, merges,
//! aborted snapshots, warm-ups that come to no end. [`whole`] is of tables that have
//! expired as a whole.
//!
//! `ALLUVIUM_SEEDS=n` runs n seeds, `ALLUVIUM_SEED=n` replays one.

#![allow(unreachable_pub, reason = "the modules of a test program")]

mod claims;
mod job;
mod lives;
mod whole;
