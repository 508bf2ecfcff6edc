//! Runs a query on a store, and measures what it does.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alluvium::{Result, ValueState};
use alluvium_timely::{FileSink, Flow, Generator, Job, JobEvent, Time};
use timely::Config;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use crate::engine::Engine;
use crate::generate::Events;
use crate::queries::{Query, Sink};
use crate::record::Row;

/// How a query is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which.
    pub query: Query,
    /// Workers, all in this process.
    pub workers: usize,
    /// Time between checkpoints, in milliseconds; `None` for one at the end alone.
    pub interval_ms: Option<u64>,
    /// The memory that Alluvium may have, in bytes, if there is a limit.
    pub memory_budget_bytes: Option<u64>,
    /// Records that a source reads at a time.
    pub batch_records: usize,
    /// Where results go, each once; they are only counted if there is no such place.
    pub out: Option<PathBuf>,
}

/// What is summed up of all that a query has said: the same in whatever order it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// How many rows there are in the end.
    pub rows: i64,
    /// The sum of their checksums.
    pub checksum: u64,
}

/// What a checkpoint cost, all shards together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Uploaded {
    /// Its number.
    pub id: u64,
    /// Bytes that it added to the store.
    pub bytes_new: u64,
    /// Bytes of all files that it needs.
    pub bytes_total: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// From the start until all that is to be said was said. The last checkpoint, which
    /// ends the job, is not in it.
    pub took: Duration,
    /// What was said.
    pub answer: Answer,
    /// How long barriers kept workers, of each shard and checkpoint, in nanoseconds;
    /// ascending.
    pub pauses_ns: Vec<u64>,
    /// What checkpoints cost, in their order. The last one is that which ends the job.
    pub uploads: Vec<Uploaded>,
}

impl Report {
    /// The pause that so many of a hundred are not longer than; `None` if there was none.
    pub fn pause_ns(&self, percent: usize) -> Option<u64> {
        let last = self.pauses_ns.len().checked_sub(1)?;
        self.pauses_ns.get((last * percent).div_ceil(100)).copied()
    }
}

/// What workers and the coordinator add to while a job runs.
struct Totals {
    began: Instant,
    rows: AtomicI64,
    checksum: AtomicU64,
    took_ns: AtomicU64,
    checkpoints: Mutex<(Vec<u64>, Vec<Uploaded>)>,
}

impl Totals {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            rows: AtomicI64::new(0),
            checksum: AtomicU64::new(0),
            took_ns: AtomicU64::new(0),
            checkpoints: Mutex::default(),
        }
    }

    fn observe(&self, event: &JobEvent) {
        if let JobEvent::Acknowledged { id, costs, .. } = event {
            let mut checkpoints = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
            let (pauses, uploads) = &mut *checkpoints;
            pauses.push(costs.pause_ns);
            if uploads.last().is_none_or(|last| last.id != id.0) {
                uploads.push(Uploaded { id: id.0, ..Uploaded::default() });
            }
            if let Some(upload) = uploads.last_mut() {
                upload.bytes_new += costs.bytes_new;
                upload.bytes_total += costs.bytes_total;
            }
        }
    }

    fn report(&self) -> Report {
        let checkpoints = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut pauses_ns, uploads) = checkpoints.clone();
        pauses_ns.sort_unstable();
        Report {
            took: Duration::from_nanos(self.took_ns.load(Ordering::SeqCst)),
            answer: Answer {
                rows: self.rows.load(Ordering::SeqCst),
                checksum: self.checksum.load(Ordering::SeqCst),
            },
            pauses_ns,
            uploads,
        }
    }
}

/// Counts what a query says, and notes when it has said everything.
struct Counting {
    totals: Arc<Totals>,
    out: Option<PathBuf>,
}

impl<'scope> Sink<'scope> for Counting {
    fn take<R: Row>(
        &mut self,
        flow: &Flow<'scope>,
        rows: StreamVec<'scope, Time, R>,
    ) -> Result<()> {
        let totals = Arc::clone(&self.totals);
        let is_over = Cell::new(false);
        let counted = rows.unary_frontier::<CapacityContainerBuilder<Vec<R>>, _, _, _>(
            Pipeline,
            "count",
            move |_, _| {
                move |(input, frontier), output| {
                    let (mut count, mut sum) = (0_i64, 0_u64);
                    input.for_each(|time, rows| {
                        for row in rows.iter() {
                            let change = row.change();
                            count += change;
                            sum = sum.wrapping_add(row.checksum().wrapping_mul(change as u64));
                        }
                        output.session(&time).give_container(rows);
                    });
                    if count != 0 || sum != 0 {
                        totals.rows.fetch_add(count, Ordering::Relaxed);
                        totals.checksum.fetch_add(sum, Ordering::Relaxed);
                    }
                    // No event time comes any more.
                    let is_at_end = frontier.frontier().iter().all(|time| time.event == i64::MAX);
                    if is_at_end && !is_over.replace(true) {
                        let now = totals.began.elapsed().as_nanos() as u64;
                        totals.took_ns.fetch_max(now, Ordering::SeqCst);
                    }
                }
            },
        );
        match self.out.take() {
            None => Ok(()),
            Some(out) => flow.files("out", counted, FileSink::new(out), |row: &R, bytes| {
                row.write(bytes);
                bytes.push(b'\n');
            }),
        }
    }
}

/// A job needs an operator with state in Alluvium, which a query on another store has not,
/// and this one has nothing to do.
fn idle(flow: &Flow<'_>) -> Result<()> {
    let nothing = flow.source("nothing", Generator::new(1, |_, _| None::<u64>)).build()?;
    flow.keyed("nothing", nothing, |number| *number)
        .state(|shard| ValueState::<u64, u64>::register(shard, "nothing"))?
        .process::<()>(|_, _, _, _| Ok(()))?;
    Ok(())
}

/// Runs a query over `events` with its state in `engine`. Checkpoints are in `dir`: if
/// there are some, the job goes on from the latest, and what is measured is the rest of it.
/// `observe` is told what happens to it.
///
/// # Errors
/// What the job fails with.
pub fn run<E: Engine>(
    plan: &Plan,
    events: &Events,
    engine: &E,
    dir: &Path,
    observe: impl Fn(&JobEvent) + Send + 'static,
) -> Result<Report> {
    let totals = Arc::new(Totals::new());
    let observed = Arc::clone(&totals);
    let budget = plan.memory_budget_bytes.filter(|_| E::HAS_CHECKPOINTS);
    let mut job = Job::local("nexmark", dir)?
        .interval_ms(plan.interval_ms.filter(|_| E::HAS_CHECKPOINTS))
        .observer(move |event| {
            observed.observe(event);
            observe(event);
        });
    if let Some(bytes) = budget {
        job = job.backend(move |backend| backend.memory_budget_bytes(bytes));
    }
    let Plan { query, workers, batch_records, ref out, .. } = *plan;
    let (events, engine, out) = (events.clone(), engine.clone(), out.clone());
    let sums = Arc::clone(&totals);
    job.run(Config::process(workers), move |flow| {
        let late = events.settings().out_of_orderness_ms();
        let events = flow
            .source("events", events.clone())
            .event_time(|event| event.at(), late)
            .batch_records(batch_records)
            .build()?;
        let mut sink = Counting { totals: Arc::clone(&sums), out: out.clone() };
        query.build(flow, events, &engine, &mut sink)?;
        if !E::HAS_CHECKPOINTS || query == Query::PassThrough {
            idle(flow)?;
        }
        Ok(())
    })?;
    let report = totals.report();
    // Those of an operator that has nothing to do say nothing.
    let Report { took, answer, .. } = report;
    Ok(if E::HAS_CHECKPOINTS { report } else { Report { took, answer, ..Report::default() } })
}
