//! The plain answer: the same questions, answered without shards, timers,
//! checkpoints, kills or the engine.
//!
//! It shares with the job the reader of lines and the names of things, and
//! nothing else: keys, times, watermarks, windows and the text of results are
//! worked out here a second time and in another way, so that a mistake in the
//! job is not made twice. Where the job waits for a timer, this looks back.

mod calendar;
mod stream;
mod totals;

pub(crate) use self::stream::{End, answer};
pub(crate) use self::totals::{Expected, PlainTotals};
