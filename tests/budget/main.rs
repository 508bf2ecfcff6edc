//! State larger than memory: whatever leaves memory is as good as what stays, the
//! budget holds, and what keeps tables from being written or read is told.
//!
//! Collections, times to live and dropped states under eviction are part of
//! `tests/lives` and `tests/conformance`.

mod cost;
mod faults;
mod job;
mod limits;
mod restored;
mod timers;
mod turns;
mod values;
