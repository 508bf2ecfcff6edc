//! What checks are written with: one job in one directory, and its lives.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use alluvium::env::{Env, RealEnv};
use alluvium::{Error, ErrorKind};

use crate::job::mixed;
use crate::{Adapter, Faults, GoesOnFrom, Job, Options, Probe, Running, Source, oracle};

/// How a claim is broken, for people.
pub(crate) type Broken = String;
/// A part of a check.
pub(crate) type Checked<T = ()> = Result<T, Broken>;

/// Splits of the source.
pub(crate) const SPLITS: u32 = 3;
/// Records of each.
pub(crate) const RECORDS: u64 = 600;
/// Of these, which the job often stands after.
pub(crate) const HALF: u64 = RECORDS / 2;
/// The same, later.
pub(crate) const MOST: u64 = RECORDS * 3 / 4;
/// A timeout that no checkpoint meets.
const LONG_MS: u64 = 600_000;

/// The job of one check.
pub(crate) struct Stage<'a> {
    pub(crate) options: &'a Options,
    adapter: &'a dyn Adapter,
    dir: PathBuf,
    env: RealEnv,
    random: Cell<u64>,
}

/// What a life is to be like.
pub(crate) struct Spec {
    pub(crate) workers: u32,
    pub(crate) processes: u32,
    /// Records of each split of the second input that are let through at first, if there
    /// is one.
    pub(crate) second: Option<u64>,
    pub(crate) from: GoesOnFrom,
    pub(crate) operator: &'static str,
    pub(crate) allow_dropped_state: bool,
    pub(crate) timeout_ms: u64,
    /// Records of each split that are let through at first.
    pub(crate) released: u64,
}

impl Spec {
    /// So many workers go on from the latest checkpoint, and come so far.
    pub(crate) fn new(workers: u32, released: u64) -> Self {
        Self {
            workers,
            processes: 1,
            second: None,
            from: GoesOnFrom::Latest,
            operator: "tally",
            allow_dropped_state: false,
            timeout_ms: LONG_MS,
            released,
        }
    }
}

impl<'a> Stage<'a> {
    pub(crate) fn new(
        adapter: &'a dyn Adapter,
        options: &'a Options,
        dir: PathBuf,
        number: u64,
    ) -> Self {
        let random = Cell::new(mixed(options.seed ^ number << 32));
        Self { options, adapter, dir, env: RealEnv::new(), random }
    }

    /// The same job, in a directory of its own.
    pub(crate) fn another(&self, name: &str) -> Self {
        let random = Cell::new(self.below(u64::MAX));
        let dir = self.dir.join(name);
        Self { options: self.options, adapter: self.adapter, dir, env: RealEnv::new(), random }
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.random.set(self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        mixed(self.random.get()) % bound
    }

    /// Begins a life.
    pub(crate) fn try_start(&self, spec: &Spec) -> Result<Life<'_>, Error> {
        let job = Job {
            dir: self.dir.clone(),
            workers: spec.workers,
            processes: spec.processes,
            from: spec.from.clone(),
            operator: spec.operator.to_owned(),
            allow_dropped_state: spec.allow_dropped_state,
            timeout_ms: spec.timeout_ms,
            source: Source::new(self.options.seed, SPLITS, RECORDS, spec.released),
            second: spec
                .second
                .map(|released| Source::new(self.second_seed(), SPLITS, RECORDS, released)),
            probe: Probe::default(),
            faults: Faults::default(),
        };
        let running = self.adapter.start(&job)?;
        Ok(Life { stage: self, job, running: Some(running) })
    }

    pub(crate) fn start(&self, spec: &Spec) -> Checked<Life<'_>> {
        self.try_start(spec).map_err(|error| format!("the job does not begin: {error}"))
    }

    /// A life that is to be refused with this kind of error; if it begins, until its end.
    pub(crate) fn is_refused(&self, spec: &Spec, kind: ErrorKind) -> Checked {
        let outcome = match self.try_start(spec) {
            Ok(mut life) => match life.running.take() {
                Some(running) => running.finish(),
                None => Ok(()),
            },
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => Err(format!("the job ran, instead of an error of kind {kind:?}")),
            Err(error) if error.kind() == kind => Ok(()),
            Err(error) => Err(format!("an error of kind {kind:?} was expected, not {error:?}")),
        }
    }

    pub(crate) fn damage_latest(&self) -> Checked {
        let damaged = self.adapter.damage_latest(&self.dir);
        damaged.map_err(|error| format!("the adapter could not damage the checkpoint: {error}"))
    }

    /// All lines that are shown, sorted.
    pub(crate) fn shown(&self) -> Checked<Vec<String>> {
        let lines = self.adapter.results(&self.dir);
        let mut lines = lines.map_err(|error| format!("no results can be seen: {error}"))?;
        lines.sort();
        Ok(lines)
    }

    /// The lines of records that are shown.
    pub(crate) fn shown_counts(&self) -> Checked<Vec<String>> {
        let mut lines = self.shown()?;
        lines.retain(|line| line.starts_with("count "));
        Ok(lines)
    }

    /// Everything is shown, and nothing twice.
    pub(crate) fn is_all_shown(&self) -> Checked {
        same(&oracle::lines(self.options.seed, SPLITS, RECORDS, true), &self.shown()?)
    }

    /// Everything of both inputs is shown, and nothing twice.
    pub(crate) fn is_all_of_both_shown(&self) -> Checked {
        let inputs = [self.options.seed, self.second_seed()];
        same(&oracle::lines_of_inputs(&inputs, SPLITS, RECORDS, true), &self.shown()?)
    }

    /// What the second input follows from.
    fn second_seed(&self) -> u64 {
        mixed(self.options.seed ^ 2)
    }

    /// Exactly what belongs to so many records of each split is shown.
    pub(crate) fn is_shown(&self, records: u64) -> Checked {
        same(&self.counts(records), &self.shown_counts()?)
    }

    fn counts(&self, records: u64) -> Vec<String> {
        oracle::lines(self.options.seed, SPLITS, records, false)
    }

    /// Waits until something is so; false if patience is at its end.
    fn wait(&self, mut is_so: impl FnMut() -> Checked<bool>) -> Checked<bool> {
        let began_ns = self.env.monotonic_ns();
        loop {
            if is_so()? {
                return Ok(true);
            }
            let waited_ns = self.env.monotonic_ns().saturating_sub(began_ns);
            if Duration::from_nanos(waited_ns) > Duration::from_secs(self.options.patience_s) {
                return Ok(false);
            }
            nap();
        }
    }
}

/// Others have their turn.
fn nap() {
    let (nobody, never) = (Mutex::new(()), Condvar::new());
    let guard = nobody.lock().unwrap_or_else(PoisonError::into_inner);
    drop(never.wait_timeout(guard, Duration::from_millis(1)));
}

/// Two sorted lists of lines are the same.
pub(crate) fn same(expected: &[String], found: &[String]) -> Checked {
    if expected == found {
        return Ok(());
    }
    let differs = expected.iter().zip(found).position(|(one, other)| one != other);
    let at = differs.unwrap_or(expected.len().min(found.len()));
    Err(format!(
        "{} lines are shown instead of {}; the first difference: {:?} instead of {:?}",
        found.len(),
        expected.len(),
        found.get(at),
        expected.get(at)
    ))
}

/// A life of the job. One that is not ended is killed when it is dropped.
pub(crate) struct Life<'a> {
    stage: &'a Stage<'a>,
    job: Job,
    running: Option<Box<dyn Running>>,
}

impl Life<'_> {
    pub(crate) fn probe(&self) -> &Probe {
        &self.job.probe
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.job.faults
    }

    pub(crate) fn running(&self) -> Checked<&dyn Running> {
        self.running.as_deref().ok_or_else(|| "the job has ended".to_owned())
    }

    /// Lets so many records of each split through.
    pub(crate) fn release(&self, records: u64) {
        self.job.source.release(records);
    }

    /// Lets so many records of each split of the second input through.
    pub(crate) fn release_second(&self, records: u64) {
        if let Some(second) = &self.job.second {
            second.release(records);
        }
    }

    /// Lets one split run ahead, to its end, and waits until all of it was worked on.
    pub(crate) fn run_ahead(&self, split: u32) -> Checked {
        self.job.source.release_of(split, RECORDS);
        self.wait_for_records(RECORDS)
    }

    /// Waits until something is so, as long as the job runs.
    pub(crate) fn wait(&self, what: &str, mut is_so: impl FnMut() -> Checked<bool>) -> Checked {
        let running = self.running()?;
        let mut ended = false;
        let met = self.stage.wait(|| {
            if is_so()? {
                return Ok(true);
            }
            // What was before it ended is seen once more.
            let had_ended = std::mem::replace(&mut ended, running.has_ended());
            if had_ended { Err(format!("the job ended before {what}")) } else { Ok(false) }
        });
        if met? { Ok(()) } else { Err(format!("in vain was waited until {what}")) }
    }

    /// Waits until the operator has worked on so many records in this life.
    pub(crate) fn wait_for_records(&self, records: u64) -> Checked {
        self.wait(&format!("{records} records were worked on"), || {
            Ok(self.probe().records() >= records)
        })
    }

    /// Waits until the job has let so many records of each split through, from where it
    /// began.
    pub(crate) fn come_to(&self, records: u64, began_at: u64) -> Checked {
        self.release(records);
        self.wait_for_records((records - began_at) * u64::from(SPLITS))
    }

    /// Waits until exactly what belongs to so many records of each split is shown: a sink
    /// commits when it hears that it may.
    pub(crate) fn wait_until_shown(&self, records: u64) -> Checked {
        let expected = self.stage.counts(records);
        let waited = self.wait("the results of a complete checkpoint were shown", || {
            let shown = self.stage.shown_counts()?;
            if shown.len() > expected.len() {
                same(&expected, &shown)?
            }
            Ok(shown == expected)
        });
        waited.map_err(|broken| match self.stage.is_shown(records) {
            Err(difference) if !broken.contains(&difference) => format!("{broken}: {difference}"),
            _ => broken,
        })
    }

    /// Takes a checkpoint, which may be tried several times on a busy machine.
    pub(crate) fn checkpoint(&self) -> Checked {
        self.try_often("a checkpoint", |running| running.checkpoint().map(drop))
    }

    /// Takes a savepoint, in the same way.
    pub(crate) fn savepoint(&self, name: &str) -> Checked {
        self.try_often("a savepoint", |running| running.savepoint(name).map(drop))
    }

    fn try_often(
        &self,
        what: &str,
        mut take: impl FnMut(&dyn Running) -> alluvium::Result<()>,
    ) -> Checked {
        let running = self.running()?;
        let mut last = None;
        let taken = self.stage.wait(|| match take(running) {
            Ok(()) => Ok(true),
            Err(error) if running.has_ended() => {
                Err(format!("{what} failed and the job ended: {error}"))
            }
            Err(error) => {
                last = Some(error);
                Ok(false)
            }
        });
        if taken? { Ok(()) } else { Err(format!("{what} never succeeds: {last:?}")) }
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Who waits for the store could not end.
        self.faults().release();
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }

    /// Lets everything through and waits until the job has come to its end.
    pub(crate) fn finish(self) -> Checked {
        self.outcome()?.map_err(|error| format!("the job does not come to its end: {error}"))
    }

    /// Lets everything through and waits until the job has come to its end, whichever.
    pub(crate) fn outcome(mut self) -> Checked<Result<(), Error>> {
        self.faults().release();
        self.release(RECORDS);
        self.release_second(RECORDS);
        match self.running.take() {
            Some(running) => Ok(running.finish()),
            None => Err("the job has ended".to_owned()),
        }
    }

    /// Ends it with a savepoint.
    pub(crate) fn stop(mut self, name: &str) -> Checked {
        match self.running.take() {
            Some(running) => {
                running.stop(name).map_err(|error| format!("the job does not stop: {error}"))
            }
            None => Err("the job has ended".to_owned()),
        }
    }
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
