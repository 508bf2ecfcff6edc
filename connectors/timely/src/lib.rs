//! Keyed state, checkpoints and exactly-once files for timely dataflow, on
//! [Alluvium](alluvium).
//!
//! Timely moves records and knows when no more of them come. It keeps nothing: what
//! operators hold is lost with the process. Here operators keep state for keys in Alluvium,
//! all workers take consistent checkpoints of it while they go on, and a job that was
//! killed goes on from the latest one, on any number of workers and processes.
//!
//! ```
//! use alluvium::{Timers, ValueState};
//! use alluvium_timely::{FileSink, Generator, Job};
//! use timely::Config;
//!
//! # fn main() -> alluvium::Result<()> {
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! # let dir = dir.path().to_owned();
//! let job = Job::local("sightings", &dir)?.interval_ms(Some(100));
//! let out = dir.join("out");
//! job.run(Config::process(2), move |flow| {
//!     // 4 splits of 1,000 records: a bird, and when it was seen.
//!     let sightings = Generator::new(4, |split, i| (i < 1000).then(|| (u64::from(split) % 3, i as i64)));
//!     let sightings = flow.source("sightings", sightings).event_time(|(_, at)| *at, 0).build()?;
//!
//!     // How often each was seen in each stretch of 100: a timer at its end.
//!     let counts = flow
//!         .keyed("count", sightings, |(bird, _)| *bird)
//!         .state(|shard| {
//!             let counts: ValueState<u64, u64, i64> = ValueState::register(shard, "counts")?;
//!             let ends: Timers<u64, i64> = Timers::event_time(shard, "ends")?;
//!             Ok((counts, ends))
//!         })?
//!         .process_with_timers(
//!             |(_, ends)| ends,
//!             |(counts, _), context, timer| {
//!                 let count = counts.get_in(context.store(), &timer.key, &timer.namespace)?;
//!                 counts.delete_in(context.store(), &timer.key, &timer.namespace)?;
//!                 context.emit((timer.key, timer.namespace, count.unwrap_or(0)));
//!                 Ok(())
//!             },
//!             |(counts, ends), context, bird, (_, at)| {
//!                 let window = at / 100;
//!                 let count = |before: Option<u64>| Some(before.unwrap_or(0) + 1);
//!                 counts.update_in(context.store(), bird, &window, count)?;
//!                 ends.register_in(context.store(), bird, &window, window * 100 + 99)?;
//!                 Ok(())
//!             },
//!         )?;
//!     flow.files("out", counts, FileSink::new(&out), |(bird, window, count), bytes| {
//!         bytes.extend_from_slice(format!("{bird} {window} {count}\n").as_bytes());
//!     })
//! })?;
//! # let mut lines = 0;
//! # for file in std::fs::read_dir(dir.join("out")).unwrap() {
//! #     lines += std::fs::read_to_string(file.unwrap().path()).unwrap().lines().count();
//! # }
//! # assert_eq!(lines, 30);
//! # Ok(())
//! # }
//! ```
//!
//! # The parts
//!
//! - [`Job`]: name, store and settings, and [`run`](Job::run) with timely's own
//!   configuration. [`JobHandle`] asks for savepoints or stops it, [`JobEvent`]s tell what
//!   happens.
//! - [`Flow`]: what a dataflow is built with. [`Flow::source`] reads, [`Flow::keyed`] keeps
//!   state for keys, [`Flow::keyed_two`] joins, [`Flow::files`] writes. In between stand
//!   timely's own operators.
//! - [`Keyed::state`] registers the operator's states (of any kind that Alluvium has), and
//!   [`Stateful::process`] or [`Stateful::process_with_timers`] gives its functions. They
//!   get the states, a [`Context`] (store, time, watermark, output), the key, the record.
//! - Functions that are to run on other stores, too, are generic over
//!   [`alluvium::TimerStore`], which a [`Shard`](alluvium::Shard) is: [`Keyed::state_in`]
//!   takes any other.
//! - [`Source`] and [`Reader`] are what other sources implement; [`Lines`] and
//!   [`Generator`] are there.

mod align;
mod control;
mod flow;
mod job;
mod keyed;
mod master;
mod metadata;
mod process;
pub mod sink;
pub mod source;
mod time;

use serde::{Deserialize, Serialize};

pub use crate::flow::Flow;
pub use crate::job::{Job, JobEvent, JobHandle, Outcome};
pub use crate::keyed::{Context, Keyed, Stateful};
pub use crate::sink::FileSink;
pub use crate::source::{Generator, Lines, Next, Reader, Source, SourceBuilder};
pub use crate::time::{Step, Time};

/// A record of one of two streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Either<L, R> {
    /// Of the first.
    Left(L),
    /// Of the second.
    Right(R),
}
