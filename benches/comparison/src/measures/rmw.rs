//! Throughput of read-modify-write over keys that exist already.
//!
//! All engines hold the same state at the same time. A round gives each of
//! them the same operations for the same time, one engine after the other; an
//! engine's own threads come to rest before the next begins. What they do
//! then is not in the throughput, but in the processor time and the bytes
//! written per operation.

use std::hint::black_box;
use std::time::Duration;

use super::{EngineDir, check_counters, loaded, progress, rotated, with_sizes};
use crate::Result;
use crate::clock::{Usage, fenced_now, nanos};
use crate::engines::bare::Bare;
use crate::engines::{Kind, Restore, Rmw, Settings, Visitor};
use crate::options::Cli;
use crate::report::{Better, Report, Section, Unit, keys_name, median};
use crate::workload::{Distribution, Ops, key};

/// Operations between two looks at the clock.
const CHUNK: usize = 1024;

/// How one round addresses the engine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Single,
    Batched,
}

/// What a round found.
#[derive(Clone, Copy)]
struct Round {
    per_second: f64,
    cpu_ns_per_op: f64,
    written_bytes_per_op: f64,
}

/// An engine with its state, under a common face for the loop over rounds;
/// the loop over operations behind it is compiled for the engine.
trait Contestant {
    fn round(
        &mut self,
        ring: usize,
        ops: &Ops,
        mode: Mode,
        batch: usize,
        time: Duration,
    ) -> Result<Round>;
    fn check(&mut self, name: &str, keys: u64, rings: &[(Distribution, Ops)]) -> Result<()>;
}

struct Runner<E, const K: usize, const V: usize> {
    engine: E,
    /// How far each ring has been used.
    positions: Vec<u64>,
    counts: bool,
    /// Removed after the engine, which has files in it.
    _dir: EngineDir,
}

impl<E: Rmw<K, V>, const K: usize, const V: usize> Contestant for Runner<E, K, V> {
    fn round(
        &mut self,
        ring: usize,
        ops: &Ops,
        mode: Mode,
        batch: usize,
        time: Duration,
    ) -> Result<Round> {
        let before = Usage::now()?;
        let first = self.positions[ring];
        let mut position = first;
        let mut keys = Vec::with_capacity(CHUNK);
        let start = fenced_now();
        let elapsed = loop {
            let chunk = ops.slice(position, CHUNK);
            spell(chunk, &mut keys);
            match mode {
                Mode::Single => one_at_a_time(&mut self.engine, &keys)?,
                Mode::Batched => in_batches(&mut self.engine, &keys, batch)?,
            }
            position += chunk.len() as u64;
            let elapsed = fenced_now() - start;
            if elapsed >= time {
                break elapsed;
            }
        };
        self.positions[ring] = position;
        self.engine.settle()?;
        let after = Usage::now()?;
        let done = (position - first) as f64;
        Ok(Round {
            per_second: done / elapsed.as_secs_f64(),
            cpu_ns_per_op: (after.cpu_ns - before.cpu_ns) as f64 / done,
            written_bytes_per_op: (after.written_bytes - before.written_bytes) as f64 / done,
        })
    }

    fn check(&mut self, name: &str, keys: u64, rings: &[(Distribution, Ops)]) -> Result<()> {
        if !self.counts {
            return Ok(());
        }
        let done: Vec<_> = rings
            .iter()
            .zip(&self.positions)
            .map(|((_, ops), position)| (ops, *position))
            .collect();
        check_counters(&mut self.engine, name, keys, &done)
    }
}

/// Turns a chunk of operations into keys.
///
/// The keys lie in memory before the engine is called, as an event's key does.
/// Made just before the call they would still be on their way to the cache as
/// two halves, and a map that compares them whole would wait for that.
#[inline]
pub(super) fn spell<const K: usize>(chunk: &[u32], keys: &mut Vec<[u8; K]>) {
    keys.clear();
    keys.extend(chunk.iter().map(|index| key::<K>(u64::from(*index))));
    black_box(keys);
}

/// The loop that is measured.
#[inline]
pub(super) fn one_at_a_time<E: Rmw<K, V>, const K: usize, const V: usize>(
    engine: &mut E,
    keys: &[[u8; K]],
) -> Result<()> {
    keys.iter().try_for_each(|key| engine.rmw(key))
}

/// The same in batches.
#[inline]
fn in_batches<E: Rmw<K, V>, const K: usize, const V: usize>(
    engine: &mut E,
    keys: &[[u8; K]],
    batch: usize,
) -> Result<()> {
    keys.chunks(batch).try_for_each(|keys| engine.rmw_batch(keys))
}

struct Prepare<'a> {
    settings: &'a Settings,
    dir: EngineDir,
    keys: u64,
    rings: usize,
}

impl<const K: usize, const V: usize> Visitor<K, V> for Prepare<'_> {
    type Output = Result<Box<dyn Contestant>>;

    fn visit<E: Rmw<K, V> + Restore<K, V> + 'static>(self) -> Self::Output {
        let engine = loaded::<E, K, V>(self.settings, self.dir.path(), self.keys)?;
        Ok(Box::new(Runner::<E, K, V> {
            engine,
            positions: vec![0; self.rings],
            counts: true,
            _dir: self.dir,
        }))
    }
}

/// Runs the measure at every size.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    for keys in cli.keys_or(&[1_000_000, 8_000_000], &[20_000]) {
        for value_bytes in cli.value_bytes_or(&[8, 100], &[8]) {
            report.add(with_sizes!(cli.key_bytes, value_bytes, at_size, cli, keys)?);
        }
    }
    Ok(())
}

fn at_size<const K: usize, const V: usize>(cli: &Cli, keys: u64) -> Result<Section> {
    let rounds = cli.rounds_or(5);
    let time = Duration::from_millis(cli.round_ms.unwrap_or(if cli.quick { 20 } else { 1000 }));
    let rings: Vec<(Distribution, Ops)> = cli
        .distributions()
        .into_iter()
        .map(|kind| (kind, Ops::draw(kind, keys, cli.ring_length(), cli.seed)))
        .collect();

    let mut contestants: Vec<(&'static str, Box<dyn Contestant>)> = vec![(
        "bare loop",
        Box::new(Runner::<Bare, K, V> {
            engine: Bare,
            positions: vec![0; rings.len()],
            counts: false,
            _dir: EngineDir::new(cli)?,
        }),
    )];
    for kind in cli.kinds() {
        progress(&format!(
            "rmw: loading {} keys of {K}+{V} B into {}",
            keys_name(keys),
            kind.name()
        ));
        contestants.push((kind.name(), prepare::<K, V>(cli, kind, keys, rings.len())?));
    }

    let modes = [
        (Mode::Single, "one at a time".to_owned()),
        (Mode::Batched, format!("batches of {}", cli.batch)),
    ];
    let mut section = Section::new(
        "rmw",
        format!("{} keys of {K} B, values of {V} B", keys_name(keys)),
        &[
            ("ops", Unit::PerSecond),
            ("time/op", Unit::Nanos),
            ("cpu/op", Unit::Nanos),
            ("written/op", Unit::Bytes),
        ],
        0,
        Better::Higher,
    )
    .parameter("keys", keys)
    .parameter("key_bytes", K)
    .parameter("value_bytes", V)
    .parameter("batch", cli.batch)
    .parameter("rounds", rounds)
    .parameter("round_ms", u64::try_from(time.as_millis())?);

    for (ring, (distribution, ops)) in rings.iter().enumerate() {
        for (mode, mode_name) in &modes {
            progress(&format!("rmw: {}, {mode_name}", distribution.name()));
            let mut found: Vec<Vec<Round>> = vec![Vec::new(); contestants.len()];
            for round in 0..=rounds {
                for at in rotated(contestants.len(), round) {
                    // The first is the bare loop, which needs no long look.
                    let time = if at == 0 { time / 10 } else { time };
                    let result = contestants[at].1.round(ring, ops, *mode, cli.batch, time)?;
                    // The first round warms caches and is not counted.
                    if round > 0 {
                        found[at].push(result);
                    }
                }
            }
            let group = format!("{}, {mode_name}", distribution.name());
            for ((name, _), rounds) in contestants.iter().zip(found) {
                let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
                section.row(
                    &group,
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
    }
    for (name, contestant) in &mut contestants {
        contestant.check(name, keys, &rings)?;
    }
    let state_mb = keys * (K + V) as u64 / 1_000_000;
    section.note(format!(
        "Keys and values are {state_mb} MB; RocksDB and fjall may use {} MB for cache and buffers and the page cache beyond.",
        cli.memory_mb
    ));
    Ok(section)
}

fn prepare<const K: usize, const V: usize>(
    cli: &Cli,
    kind: Kind,
    keys: u64,
    rings: usize,
) -> Result<Box<dyn Contestant>> {
    let settings = cli.settings();
    kind.visit::<K, V, _>(Prepare { settings: &settings, dir: EngineDir::new(cli)?, keys, rings })
}
