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
//!   happens. With [`Job::places`] savepoints can be put straight into other places, too.
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
//!
//! # Barriers, acknowledgements, sinks, restore
//!
//! This is also an example of how a runtime is connected to Alluvium: everything here uses
//! the library's public interface.
//!
//! **Time.** A [`Time`] has two parts: an epoch, which is the number of the last checkpoint
//! whose barrier came before, and an event time. In the order of the product a frontier
//! says of both how far everybody has come, and neither waits for the other. A record's
//! event part is the watermark at which its source read it: records travel in large
//! batches of one time, and their own times are in them.
//!
//! **Barriers.** The coordinator begins checkpoints by the clock, or because somebody asks:
//!
//! ```text
//! coordinator's thread          every worker
//!   Event::Trigger(7) --------> source: notes where its splits are, downgrades its
//!                               capability from epoch 4 to epoch 7
//!                               operator: records of epoch 7 wait; when its frontier has
//!                               passed (7, ..) it has seen everything before, and freezes
//!                               its shard (microseconds), downgrades, works on what waited
//!   all have passed 7 --------> source: may read on without bound
//!                               background: writes and uploads; the operator looks at its
//!                               ticket every 2 ms and goes on
//!   acknowledge  <------------- the shard's report; the splits' positions; the sink's parts
//!   Event::Completed(7) ------> shards: notify_complete; sinks: rename
//! ```
//!
//! Sources decide which records belong to which checkpoint, each when it hears of the
//! barrier. Every worker has an instance of every source, which keeps its capability as
//! long as the job lives. So when a frontier passes a barrier every worker has heard of it,
//! and an operator knows all barriers that it has to pass. If a frontier passes two of
//! them at once, they are passed one after the other.
//!
//! **Messages.** Orders and reports travel through timely as well, in a dataflow of their
//! own, in which nobody waits for a frontier; so they reach all processes, in the order in
//! which they were sent. [`Coordinator`](alluvium::Coordinator) is on a thread of the first
//! process, since it waits for the store. It is given everything that belongs to a
//! checkpoint only when all of it is there: positions and parts as runtime data, then the
//! acknowledgements, the last of which completes it.
//!
//! **Event time.** An operator's watermark is the least event time of its frontier and of
//! what waits at a barrier. Timers before it fire in the order of their times, each with
//! its output at its own time. At the end of all inputs event time comes to its end,
//! timers fire, and one more checkpoint ends the job, when all workers have committed it.
//!
//! **Sinks.** See [`sink`]: files count when the checkpoint is complete that their records
//! are before, and a restored job commits first what its checkpoint names.
//!
//! **Places.** A savepoint [into another place](JobHandle::savepoint_into) is a barrier that
//! names a place. Workers freeze their shards as ever and answer with a sink that opens the
//! place when a background thread first has something for it, so nobody waits for it; a
//! place that cannot be opened or written is a snapshot that is declined. There is nothing to
//! be said to shards afterwards.
//!
//! **Failure.** A snapshot that cannot be stored, or takes longer than the timeout,
//! is declined or given up, and the job goes on; what it held is in the next one. An error
//! or panic of a function, a damaged state or too many failed checkpoints end the job in
//! all workers and processes; if a process dies, timely ends the others. In the next run
//! the coordinator fences that of the last one, so what a straggler still does counts for
//! nothing.
//!
//! **Restore.** The coordinator chooses the checkpoint and sends its metadata to all
//! workers before they build their dataflow. Key groups and splits are divided among the
//! workers that there are; a shard is opened from the handles of all shards of its
//! operator, whatever their number.
//!
//! # Processing time
//!
//! [`Timers::processing_time`](alluvium::Timers::processing_time) wait for the wall clock
//! of the process, in milliseconds since 1970: that of the job's [environment](Job::env),
//! which a test brings along and moves. An operator may have timers of both times.
//!
//! - They fire on the worker's thread in the order of their times, as soon as the clock has
//!   passed them and the worker comes to it, up to a thousand before records and barriers
//!   are looked at again. An idle worker sleeps until the next one is due, and looks every
//!   20 ms whether the clock was moved.
//! - What they send has the operator's watermark and epoch, so it is late for nobody
//!   downstream.
//! - They are state: of every checkpoint, and of their key group, whichever worker has it.
//!   A checkpoint has a timer or what it did, so its results count once however often it
//!   fires. Those that came due while the job was down fire when it goes on.
//! - **They do not fire at the end of the input**, as in Flink, nor after the barrier that a
//!   job is stopped with: a job would wait for the clock, and for ever if they set
//!   themselves again, or its results would depend on when it was run. They stay in the
//!   last checkpoint or savepoint, and fire if a job goes on from there and has input. The
//!   watermark of a job that is [drained](alluvium::coordinator::StopMode::Drain) ends, and
//!   with it processing time. What has to be said at the end belongs into a timer of the
//!   event time.
//!
//! # Several processes, several machines
//!
//! [`Job::run`] is given timely's own configuration, which says where all processes of the
//! job are: `CommunicationConfig::Cluster` has the address of each (`host:port`), how many
//! workers it has, and which one this is. `Config::from_args` reads it from the command
//! line: `-n` processes, of which this is number `-p`, of `-w` workers each, whose addresses
//! are the lines of the file `-h`; without that file all are on this machine.
//!
//! ```sh
//! printf '%s\n' 10.0.0.1:2101 10.0.0.2:2101 >hosts     # the same file on both machines
//! words FILE DIR -n 2 -w 4 -h hosts -p 0               # on 10.0.0.1
//! words FILE DIR -n 2 -w 4 -h hosts -p 1               # on 10.0.0.2
//! ```
//!
//! - Each process listens at its own address and connects to those before it, so the
//!   addresses must be those by which the others reach it. Nothing is encrypted: use a
//!   network that is yours.
//! - All processes reach one store under one identity: an object store, or a directory of a
//!   shared file system at the same path. So they do the directories of sinks, and inputs.
//!   Working files are each machine's own.
//! - A process that dies ends all others at once, and a machine or network that is silent
//!   ends them after a [timeout](Job::peer_timeout_ms). Starting the job again is up to
//!   whoever started it; with however many processes, wherever. Those of a former run that
//!   nobody reached may go on meanwhile: what they do counts for nothing.
//!
//! # Limits
//!
//! - Sources are read on the worker's thread. Without checkpoints nothing holds a source
//!   back; with them it reads at most [so many records](Job::lead_records) past a barrier.
//! - What waits at a barrier waits in memory.
//! - A job needs at least one operator with state in Alluvium, and not more workers than
//!   key groups. A loop around a stateful operator is no part of checkpoints: what is on
//!   its way in it when a barrier passes is lost with the process.
//! - Processes share nothing but the store and the directories of sinks and inputs; working
//!   files of a process that there are fewer of now stay until somebody removes them.

mod align;
mod control;
mod flow;
mod handle;
mod job;
mod keyed;
mod master;
mod metadata;
mod place;
mod process;
pub mod sink;
pub mod source;
mod time;

use serde::{Deserialize, Serialize};

pub use crate::flow::Flow;
pub use crate::handle::JobHandle;
pub use crate::job::{Job, JobEvent, Outcome};
pub use crate::keyed::{Context, Fire, Keyed, Stateful};
pub use crate::metadata::source_positions;
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
