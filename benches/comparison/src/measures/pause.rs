//! Many checkpoints of small and of large states, with the same number of
//! changes between them: does the pause depend on the size of the state?
//!
//! Each checkpoint is complete before the next changes begin. An engine with
//! long pauses gets fewer checkpoints: it stops when its time is up.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::rmw::{one_at_a_time, spell};
use super::{EngineDir, kinds_or, loaded, progress, with_sizes};
use crate::Result;
use crate::clock::{fenced_now, nanos};
use crate::engines::bare::Bare;
use crate::engines::{Kind, POLL_INTERVAL, Restore, Rmw, Settings, Visitor};
use crate::options::Cli;
use crate::report::{Better, Report, Section, Unit, keys_name};
use crate::workload::{Distribution, Ops};

/// How long one engine may take for all its checkpoints of one state.
const TIME_LIMIT: Duration = Duration::from_secs(20);
/// Fewest checkpoints, however long they take.
const AT_LEAST: u64 = 5;

struct Snapshots<'a> {
    settings: &'a Settings,
    dir: EngineDir,
    keys: u64,
    ops: &'a Ops,
    dirty: usize,
    snapshots: u64,
}

impl<const K: usize, const V: usize> Visitor<K, V> for Snapshots<'_> {
    type Output = Result<Histogram<u64>>;

    fn visit<E: Rmw<K, V> + Restore<K, V> + 'static>(self) -> Self::Output {
        let mut engine = loaded::<E, K, V>(self.settings, self.dir.path(), self.keys)?;
        let first = engine.begin_checkpoint(1)?;
        engine.finish_checkpoint(first)?;
        let mut pauses = Histogram::new(3)?;
        let mut position = 0;
        let mut keys = Vec::new();
        let start = Instant::now();
        for number in 0..self.snapshots {
            if number >= AT_LEAST && start.elapsed() > TIME_LIMIT {
                break;
            }
            let until = position + self.dirty as u64;
            while position < until {
                let chunk = self.ops.slice(position, (until - position) as usize);
                spell(chunk, &mut keys);
                one_at_a_time(&mut engine, &keys)?;
                position += chunk.len() as u64;
            }
            let before = fenced_now();
            let pending = engine.begin_checkpoint(number + 2)?;
            pauses.record(nanos(fenced_now() - before))?;
            engine.finish_checkpoint(pending)?;
        }
        Ok(pauses)
    }
}

/// The same loop with the same readings of the clock, and nothing between them.
fn without_a_store<const K: usize, const V: usize>(
    ops: &Ops,
    dirty: usize,
    snapshots: u64,
) -> Result<Histogram<u64>> {
    let mut engine = Bare;
    let mut pauses = Histogram::new(3)?;
    let mut position = 0;
    let mut keys = Vec::new();
    for _ in 0..snapshots {
        let until = position + dirty as u64;
        while position < until {
            let chunk = ops.slice(position, (until - position) as usize);
            spell::<K>(chunk, &mut keys);
            one_at_a_time::<Bare, K, V>(&mut engine, &keys)?;
            position += chunk.len() as u64;
        }
        let before = fenced_now();
        pauses.record(nanos(fenced_now() - before))?;
        // As engines wait for their checkpoints.
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(pauses)
}

/// Runs the measure; all states of one value size are in one table.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    for value_bytes in cli.value_bytes_or(&[32], &[32]) {
        report.add(with_sizes!(cli.key_bytes, value_bytes, at_size, cli)?);
    }
    Ok(())
}

fn at_size<const K: usize, const V: usize>(cli: &Cli) -> Result<Section> {
    let settings = cli.settings();
    let snapshots = cli.snapshots.unwrap_or(if cli.quick { 20 } else { 300 });
    let dirty = cli.dirty.unwrap_or(if cli.quick { 1000 } else { 10_000 });
    let mut section = Section::new(
        "pause",
        format!(
            "keys of {K} B, values of {V} B, {} operations between checkpoints",
            keys_name(dirty as u64)
        ),
        &[
            ("checkpoints", Unit::Count),
            ("p50", Unit::Nanos),
            ("p99", Unit::Nanos),
            ("max", Unit::Nanos),
        ],
        1,
        Better::Lower,
    )
    .parameter("key_bytes", K)
    .parameter("value_bytes", V)
    .parameter("dirty", dirty);
    for keys in cli.keys_or(&[1_000_000, 8_000_000], &[5_000, 40_000]) {
        let ops = Ops::draw(Distribution::Uniform, keys, cli.ring_length().min(1 << 22), cli.seed);
        let group = format!("{} keys", keys_name(keys));
        let mut row = |name: &str, pauses: &Histogram<u64>| {
            section.row(
                &group,
                name,
                vec![
                    Some(pauses.len() as f64),
                    Some(pauses.value_at_quantile(0.5) as f64),
                    Some(pauses.value_at_quantile(0.99) as f64),
                    Some(pauses.max() as f64),
                ],
            );
        };
        row("bare loop", &without_a_store::<K, V>(&ops, dirty, snapshots)?);
        for kind in kinds_or(cli, |kind| kind != Kind::Fjall) {
            progress(&format!("pause: {} keys in {}", keys_name(keys), kind.name()));
            let dir = EngineDir::new(cli)?;
            let visitor = Snapshots { settings: &settings, dir, keys, ops: &ops, dirty, snapshots };
            row(kind.name(), &kind.visit::<K, V, _>(visitor)?);
        }
    }
    section.note(
        "A pause includes two clock readings; compare the groups to see whether it grows with the \
         state. The bare loop takes no checkpoint: its row is the clock, and the machine where it \
         takes the processor away just then.",
    );
    Ok(section)
}
