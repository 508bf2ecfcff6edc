//! What the measures of lists, maps, windows and timers share: rounds of a fixed
//! time over several kinds of work, the same for every engine.

use std::time::Duration;

use super::{EngineDir, progress, rotated};
use crate::Result;
use crate::clock::{Usage, fenced_now, nanos};
use crate::engines::bare::Bare;
use crate::engines::kinds::{Kinds, KindsVisitor};
use crate::engines::{Settings, Written};
use crate::options::Cli;
use crate::report::{Better, Section, Unit, median};

/// Operations between two looks at the clock.
pub(super) const CHUNK: usize = 1024;

/// An engine with its state and its place in the work, under a common face for
/// the loop over rounds; the loop over operations behind it is compiled for the
/// engine.
pub(super) trait Contestant {
    /// Does a piece of work, some [`CHUNK`] operations, and adds the time that
    /// they took to `clock`. What has to be done between is done off the clock.
    fn work(&mut self, task: usize, clock: &mut Clock) -> Result<()>;

    /// Brings the engine's own threads to rest.
    fn settle(&mut self) -> Result<()>;

    /// Takes a checkpoint; says what it added to the one before.
    fn checkpoint(&mut self) -> Result<Written> {
        Ok(Written::default())
    }

    /// Compares what the engine has with what it must have.
    fn check(&mut self, name: &str) -> Result<()>;
}

/// Time and operations of a round.
#[derive(Default)]
pub(super) struct Clock {
    elapsed: Duration,
    operations: u64,
}

impl Clock {
    /// Times some operations.
    #[inline]
    pub(super) fn time<T>(
        &mut self,
        operations: u64,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let start = fenced_now();
        let done = work()?;
        self.elapsed += fenced_now() - start;
        self.operations += operations;
        Ok(done)
    }
}

/// What a round found.
#[derive(Clone, Copy)]
struct Round {
    per_second: f64,
    cpu_ns_per_op: f64,
    written_bytes_per_op: f64,
}

/// Those who take part in a measure, the bare loop first.
pub(super) type Contestants<'a> = Vec<(&'static str, Box<dyn Contestant + 'a>)>;

/// What an engine is made a contestant with.
pub(super) struct Prepare<'a> {
    /// What the engine is told.
    pub(super) settings: &'a Settings,
    /// Where its files go.
    pub(super) dir: EngineDir,
    /// Whether it keeps anything: the bare loop does not.
    pub(super) keeps: bool,
}

/// A table for a measure of kinds.
pub(super) fn section(measure: &'static str, title: String, cli: &Cli) -> Section {
    Section::new(
        measure,
        title,
        &[
            ("ops", Unit::PerSecond),
            ("time/op", Unit::Nanos),
            ("cpu/op", Unit::Nanos),
            ("written/op", Unit::Bytes),
        ],
        0,
        Better::Higher,
    )
    .parameter("rounds", rounds(cli))
    .parameter("round_ms", round_time(cli).as_millis() as u64)
}

/// The bare loop and every engine that was asked for, made contestants by
/// `prepare`.
pub(super) fn contestants<'a, const K: usize, const V: usize, P>(
    cli: &Cli,
    settings: &'a Settings,
    measure: &str,
    prepare: impl Fn(Prepare<'a>) -> P,
) -> Result<Contestants<'static>>
where
    P: KindsVisitor<K, V, Output = Result<Box<dyn Contestant>>>,
{
    let new = |keeps| Ok::<_, crate::Error>(Prepare { settings, dir: EngineDir::new(cli)?, keeps });
    let mut all: Contestants<'static> = vec![("bare loop", prepare(new(false)?).visit::<Bare>()?)];
    for kind in cli.kinds() {
        progress(&format!("{measure}: preparing {}", kind.name()));
        all.push((kind.name(), kind.visit_kinds::<K, V, _>(prepare(new(true)?))?));
    }
    Ok(all)
}

/// Gives every contestant the same rounds of each task, and writes down the
/// medians.
pub(super) fn compare(
    cli: &Cli,
    section: &mut Section,
    measure: &str,
    contestants: &mut Contestants<'_>,
    tasks: &[(usize, &str)],
) -> Result<()> {
    for &(task, task_name) in tasks {
        progress(&format!("{measure}: {task_name}"));
        let mut found: Vec<Vec<Round>> = vec![Vec::new(); contestants.len()];
        for round in 0..=rounds(cli) {
            for at in rotated(contestants.len(), round) {
                let time = if contestants[at].0 == "bare loop" { 10 } else { 1 };
                let result = one_round(&mut *contestants[at].1, task, round_time(cli) / time)?;
                // The first round warms caches and is not counted.
                if round > 0 {
                    found[at].push(result);
                }
            }
        }
        for ((name, _), rounds) in contestants.iter().zip(found) {
            let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
            section.row(
                task_name,
                name,
                vec![
                    of(|round| round.per_second),
                    of(|round| nanos(Duration::from_secs(1)) as f64 / round.per_second),
                    of(|round| round.cpu_ns_per_op),
                    of(|round| round.written_bytes_per_op),
                ],
            );
        }
    }
    Ok(())
}

fn one_round(contestant: &mut dyn Contestant, task: usize, time: Duration) -> Result<Round> {
    let before = Usage::now()?;
    let mut clock = Clock::default();
    while clock.elapsed < time {
        contestant.work(task, &mut clock)?;
    }
    contestant.settle()?;
    let after = Usage::now()?;
    let done = clock.operations as f64;
    Ok(Round {
        per_second: done / clock.elapsed.as_secs_f64(),
        cpu_ns_per_op: (after.cpu_ns - before.cpu_ns) as f64 / done,
        written_bytes_per_op: (after.written_bytes - before.written_bytes) as f64 / done,
    })
}

/// Rounds that count.
pub(super) fn rounds(cli: &Cli) -> usize {
    cli.rounds_or(5)
}

/// Length of a round.
pub(super) fn round_time(cli: &Cli) -> Duration {
    Duration::from_millis(cli.round_ms.unwrap_or(if cli.quick { 20 } else { 1000 }))
}

/// A contestant that is an engine with all kinds of state.
pub(super) fn engine<E: Kinds<K, V>, const K: usize, const V: usize>(
    prepare: &Prepare<'_>,
) -> Result<E> {
    E::create(prepare.settings, prepare.dir.path())
}
