//! Read-modify-write with a checkpoint every interval: how long the task
//! thread stands still, how fast it is while a checkpoint is being written,
//! and how much each checkpoint adds.
//!
//! A round of one engine:
//!
//! 1. Work for one interval; this is idle time, no checkpoint is under way.
//! 2. Begin a checkpoint. The time of that call is the pause.
//! 3. Work on. Until the engine reports the checkpoint as complete this is
//!    writing time, after that idle time again. One operation in 64 is timed on
//!    its own, behind fences, for the latency figures.
//! 4. When the interval is over and the checkpoint complete, go to 2, until
//!    the round has its checkpoints.
//!
//! Bytes are divided by dirty bytes: keys and values of the distinct records
//! changed since the checkpoint before, counted after the round.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::rmw::{one_at_a_time, spell};
use super::{EngineDir, check_counters, loaded, progress, rotated, with_sizes};
use crate::Result;
use crate::clock::{fenced_now, nanos};
use crate::engines::{Checkpoint, Restore, Rmw, Settings, Visitor, Written};
use crate::options::Cli;
use crate::report::{Better, Report, Section, Unit, keys_name, mean, median};
use crate::workload::{Distribution, Ops};

/// Operations between two looks at the clock; the first of every
/// [`SAMPLE_EVERY`] is timed on its own.
const CHUNK: usize = 256;
const SAMPLE_EVERY: usize = 64;

/// Operations and time in one phase.
#[derive(Clone, Copy, Default)]
struct Phase {
    operations: u64,
    time: Duration,
}

impl Phase {
    fn per_second(self) -> f64 {
        if self.operations == 0 {
            f64::NAN
        } else {
            self.operations as f64 / self.time.as_secs_f64()
        }
    }
}

/// One finished checkpoint.
struct Taken {
    duration_ns: u64,
    written: Written,
    /// Distinct records changed since the checkpoint before.
    dirty_records: u64,
}

/// A checkpoint that is being written.
struct UnderWay<P> {
    pending: P,
    began: Instant,
    pause_ns: u64,
    /// The operations since the checkpoint before.
    operations: (u64, u64),
}

/// What one engine showed over all rounds.
struct Findings {
    taken: Vec<Taken>,
    pauses: Histogram<u64>,
    idle_latency: Histogram<u64>,
    writing_latency: Histogram<u64>,
    /// Per round: operations per second in all, idle, and while writing.
    rounds: Vec<(f64, f64, f64)>,
}

trait Contestant {
    fn round(&mut self, ops: &Ops, interval: Duration, checkpoints: u64) -> Result<()>;
    fn check(&mut self, name: &str, ops: &Ops) -> Result<()>;
    fn findings(&self) -> &Findings;
}

struct Runner<E, const K: usize, const V: usize> {
    engine: E,
    /// Number of keys in the state.
    count: u64,
    /// Keys of the chunk that is being worked on.
    keys: Vec<[u8; K]>,
    /// Operations done so far, and when the newest checkpoint began.
    position: u64,
    checkpointed_at: u64,
    /// Number of the newest checkpoint.
    number: u64,
    findings: Findings,
    /// Removed after the engine, which has files in it.
    _dir: EngineDir,
}

impl<E: Rmw<K, V> + Checkpoint<K, V>, const K: usize, const V: usize> Runner<E, K, V> {
    /// Works through one chunk and adds it to `phase`.
    fn work(&mut self, ops: &Ops, phase: &mut Phase, writing: bool) -> Result<()> {
        let start = fenced_now();
        let chunk = ops.slice(self.position, CHUNK);
        spell(chunk, &mut self.keys);
        for part in self.keys.chunks(SAMPLE_EVERY) {
            if let Some((first, rest)) = part.split_first() {
                let before = fenced_now();
                self.engine.rmw(first)?;
                let latency_ns = nanos(fenced_now() - before);
                if writing {
                    self.findings.writing_latency.record(latency_ns)?;
                } else {
                    self.findings.idle_latency.record(latency_ns)?;
                }
                one_at_a_time(&mut self.engine, rest)?;
            }
        }
        self.position += chunk.len() as u64;
        phase.operations += chunk.len() as u64;
        phase.time += fenced_now() - start;
        Ok(())
    }

    /// Begins a checkpoint and times that.
    fn begin(&mut self) -> Result<UnderWay<E::Pending>> {
        self.number += 1;
        let began = fenced_now();
        let pending = self.engine.begin_checkpoint(self.number)?;
        let pause_ns = nanos(fenced_now() - began);
        self.findings.pauses.record(pause_ns)?;
        let operations = (self.checkpointed_at, self.position);
        self.checkpointed_at = self.position;
        Ok(UnderWay { pending, began, pause_ns, operations })
    }
}

impl<E: Rmw<K, V> + Checkpoint<K, V>, const K: usize, const V: usize> Contestant
    for Runner<E, K, V>
{
    fn round(&mut self, ops: &Ops, interval: Duration, checkpoints: u64) -> Result<()> {
        let (mut idle, mut writing) = (Phase::default(), Phase::default());
        let mut finished = Vec::new();
        let mut under_way: Option<UnderWay<E::Pending>> = None;
        let mut begun = 0;
        let mut next = Instant::now() + interval;
        loop {
            if let Some(mut current) = under_way.take() {
                // Read before the poll, which may spend time on counting bytes.
                let duration_ns = nanos(current.began.elapsed());
                match self.engine.poll_checkpoint(&mut current.pending)? {
                    Some(written) => {
                        finished.push((current.pause_ns, duration_ns, written, current.operations));
                    }
                    None => under_way = Some(current),
                }
            } else if begun == checkpoints {
                break;
            } else if Instant::now() >= next {
                under_way = Some(self.begin()?);
                begun += 1;
                next += interval;
                continue;
            }
            if under_way.is_some() {
                self.work(ops, &mut writing, true)?;
            } else {
                self.work(ops, &mut idle, false)?;
            }
        }
        let paused = finished.iter().map(|(pause_ns, ..)| Duration::from_nanos(*pause_ns)).sum();
        let all = Phase {
            operations: idle.operations + writing.operations,
            time: [idle.time, writing.time, paused].iter().sum(),
        };
        self.findings.rounds.push((all.per_second(), idle.per_second(), writing.per_second()));
        for (_, duration_ns, written, (from, to)) in finished {
            let dirty_records = ops.distinct(from, to, self.count);
            self.findings.taken.push(Taken { duration_ns, written, dirty_records });
        }
        self.engine.settle()
    }

    fn check(&mut self, name: &str, ops: &Ops) -> Result<()> {
        check_counters(&mut self.engine, name, self.count, &[(ops, self.position)])
    }

    fn findings(&self) -> &Findings {
        &self.findings
    }
}

struct Prepare<'a> {
    settings: &'a Settings,
    dir: EngineDir,
    keys: u64,
}

impl<const K: usize, const V: usize> Visitor<K, V> for Prepare<'_> {
    type Output = Result<Box<dyn Contestant>>;

    fn visit<E: Rmw<K, V> + Restore<K, V> + 'static>(self) -> Self::Output {
        let mut engine = loaded::<E, K, V>(self.settings, self.dir.path(), self.keys)?;
        // The first checkpoint holds the whole state and says nothing about
        // what a later one adds.
        let pending = engine.begin_checkpoint(1)?;
        engine.finish_checkpoint(pending)?;
        engine.settle()?;
        let findings = Findings {
            taken: Vec::new(),
            pauses: Histogram::new(3)?,
            idle_latency: Histogram::new(3)?,
            writing_latency: Histogram::new(3)?,
            rounds: Vec::new(),
        };
        Ok(Box::new(Runner::<E, K, V> {
            engine,
            count: self.keys,
            keys: Vec::with_capacity(CHUNK),
            position: 0,
            checkpointed_at: 0,
            number: 1,
            findings,
            _dir: self.dir,
        }))
    }
}

/// Runs the measure at every size, distribution and interval.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    let intervals = cli
        .interval_ms
        .clone()
        .unwrap_or_else(|| if cli.quick { vec![50] } else { vec![1000, 10_000] });
    for keys in cli.keys_or(&[1_000_000, 8_000_000], &[20_000]) {
        for value_bytes in cli.value_bytes_or(&[100], &[100]) {
            for distribution in cli.distributions() {
                for interval_ms in &intervals {
                    let cell = Cell { keys, distribution, interval_ms: *interval_ms };
                    let sections = with_sizes!(cli.key_bytes, value_bytes, at_size, cli, &cell)?;
                    sections.into_iter().for_each(|section| report.add(section));
                }
            }
        }
    }
    Ok(())
}

/// One setting of the measure.
struct Cell {
    keys: u64,
    distribution: Distribution,
    interval_ms: u64,
}

fn at_size<const K: usize, const V: usize>(cli: &Cli, cell: &Cell) -> Result<Vec<Section>> {
    let rounds = cli.rounds_or(3);
    let checkpoints = cli.checkpoints.unwrap_or(if cli.quick { 2 } else { 4 });
    let interval = Duration::from_millis(cell.interval_ms);
    let ops = Ops::draw(cell.distribution, cell.keys, cli.ring_length(), cli.seed);
    let settings = cli.settings();

    let mut contestants: Vec<(&'static str, Box<dyn Contestant>)> = Vec::new();
    for kind in cli.kinds() {
        progress(&format!(
            "checkpoint: loading {} keys into {}",
            keys_name(cell.keys),
            kind.name()
        ));
        let prepare = Prepare { settings: &settings, dir: EngineDir::new(cli)?, keys: cell.keys };
        contestants.push((kind.name(), kind.visit::<K, V, _>(prepare)?));
    }
    for round in 0..rounds {
        progress(&format!("checkpoint: round {} of {rounds}", round + 1));
        for at in rotated(contestants.len(), round) {
            contestants[at].1.round(&ops, interval, checkpoints)?;
        }
    }

    let title = format!(
        "{} keys of {K} B, values of {V} B, {}, every {} ms",
        keys_name(cell.keys),
        cell.distribution.name(),
        cell.interval_ms
    );
    let with_parameters = |section: Section| {
        section
            .parameter("keys", cell.keys)
            .parameter("key_bytes", K)
            .parameter("value_bytes", V)
            .parameter("distribution", cell.distribution.name())
            .parameter("interval_ms", cell.interval_ms)
            .parameter("rounds", rounds)
    };
    let mut pauses = with_parameters(Section::new(
        "checkpoint pauses",
        title.clone(),
        &[
            ("checkpoints", Unit::Count),
            ("pause p50", Unit::Nanos),
            ("pause p99", Unit::Nanos),
            ("pause max", Unit::Nanos),
            ("complete after", Unit::Nanos),
        ],
        1,
        Better::Lower,
    ));
    let mut load = with_parameters(Section::new(
        "checkpoint load",
        title.clone(),
        &[
            ("ops", Unit::PerSecond),
            ("ops idle", Unit::PerSecond),
            ("ops writing", Unit::PerSecond),
            ("kept", Unit::Ratio),
            ("op p50 idle", Unit::Nanos),
            ("op p99.9 idle", Unit::Nanos),
            ("op p99.9 writing", Unit::Nanos),
        ],
        0,
        Better::Higher,
    ));
    let mut bytes = with_parameters(Section::new(
        "checkpoint bytes",
        title,
        &[
            ("dirty records", Unit::Count),
            ("raw/dirty p50", Unit::Ratio),
            ("raw/dirty mean", Unit::Ratio),
            ("stored/dirty p50", Unit::Ratio),
            ("stored/dirty mean", Unit::Ratio),
            ("stored mean", Unit::Bytes),
        ],
        4,
        Better::Lower,
    ));
    for (name, contestant) in &mut contestants {
        contestant.check(name, &ops)?;
        let findings = contestant.findings();
        let percentile = |histogram: &Histogram<u64>, quantile: f64| {
            (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64)
        };
        pauses.row(
            "",
            name,
            vec![
                Some(findings.taken.len() as f64),
                percentile(&findings.pauses, 0.5),
                percentile(&findings.pauses, 0.99),
                percentile(&findings.pauses, 1.0),
                median(findings.taken.iter().map(|taken| taken.duration_ns as f64)),
            ],
        );
        let of = |figure: fn(&(f64, f64, f64)) -> f64| median(findings.rounds.iter().map(figure));
        load.row(
            "",
            name,
            vec![
                of(|round| round.0),
                of(|round| round.1),
                of(|round| round.2),
                of(|round| round.2 / round.1),
                percentile(&findings.idle_latency, 0.5),
                percentile(&findings.idle_latency, 0.999),
                percentile(&findings.writing_latency, 0.999),
            ],
        );
        let per_dirty = |bytes: fn(&Written) -> Option<u64>| -> Vec<f64> {
            let of_one = |taken: &Taken| {
                let dirty_bytes = (taken.dirty_records * (K + V) as u64).max(1);
                bytes(&taken.written).map(|bytes| bytes as f64 / dirty_bytes as f64)
            };
            findings.taken.iter().filter_map(of_one).collect()
        };
        let raw = per_dirty(|written| written.raw_bytes);
        let stored = per_dirty(|written| written.stored_bytes);
        let stored_bytes = |taken: &Taken| taken.written.stored_bytes.map(|bytes| bytes as f64);
        bytes.row(
            "",
            name,
            vec![
                mean(findings.taken.iter().map(|taken| taken.dirty_records as f64)),
                median(raw.iter().copied()),
                mean(raw),
                median(stored.iter().copied()),
                mean(stored),
                mean(findings.taken.iter().filter_map(stored_bytes)),
            ],
        );
    }
    pauses.note(
        "fjall has no checkpoint that could be shipped; its pause is the fsync of its journal. \
         RocksDB's includes the flush, as the call does.",
    );
    load.note(
        "`ops` has the pauses in it; `kept` is writing through idle. An engine whose checkpoint is \
         one blocking call has no writing phase. Single operations include two clock readings.",
    );
    Ok(vec![pauses, load, bytes])
}
