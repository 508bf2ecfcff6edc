//! Starting again from a checkpoint on the local disk: how long until the
//! first read, and until every key has been read once.
//!
//! The files were written moments before, so they are in the page cache: this
//! measures the work, not the disk.

use std::hint::black_box;
use std::time::Duration;

use super::{EngineDir, loaded, progress, rotated, with_sizes};
use crate::Result;
use crate::clock::{fenced_now, nanos};
use crate::engines::{Restore, Rmw, Settings, Visitor};
use crate::options::Cli;
use crate::report::{Better, Report, Section, Unit, keys_name, median};
use crate::workload::{key, scatter};

/// Times of one restore.
struct Round {
    first_read: Duration,
    all_read: Duration,
}

trait Contestant {
    fn round(&mut self, settings: &Settings) -> Result<Round>;
}

struct Runner<E: Restore<K, V>, const K: usize, const V: usize> {
    saved: E::Saved,
    keys: u64,
    _dir: EngineDir,
}

impl<E: Restore<K, V>, const K: usize, const V: usize> Contestant for Runner<E, K, V> {
    fn round(&mut self, settings: &Settings) -> Result<Round> {
        let start = fenced_now();
        let mut engine = E::restore(settings, &self.saved)?;
        let middle = key(self.keys / 2);
        let found = black_box(engine.counter(&middle)?);
        let first_read = fenced_now() - start;
        if found.is_none() {
            return Err("the restored state lacks a key".into());
        }
        let mut missing = 0u64;
        for index in 0..self.keys {
            let counter = engine.counter(&key(scatter(index, self.keys)))?;
            missing += u64::from(counter != Some(0));
        }
        let all_read = fenced_now() - start;
        if missing > 0 {
            return Err(format!("the restored state lacks {missing} keys").into());
        }
        engine.settle()?;
        Ok(Round { first_read, all_read })
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
        let engine = loaded::<E, K, V>(self.settings, self.dir.path(), self.keys)?;
        let saved = engine.save()?;
        Ok(Box::new(Runner::<E, K, V> { saved, keys: self.keys, _dir: self.dir }))
    }
}

/// Runs the measure at every size.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    for keys in cli.keys_or(&[1_000_000, 8_000_000], &[20_000]) {
        for value_bytes in cli.value_bytes_or(&[100], &[100]) {
            report.add(with_sizes!(cli.key_bytes, value_bytes, at_size, cli, keys)?);
        }
    }
    Ok(())
}

fn at_size<const K: usize, const V: usize>(cli: &Cli, keys: u64) -> Result<Section> {
    let settings = cli.settings();
    let rounds = cli.rounds_or(3);
    let mut contestants: Vec<(&'static str, Box<dyn Contestant>, Vec<Round>)> = Vec::new();
    for kind in cli.kinds() {
        progress(&format!("restore: saving {} keys from {}", keys_name(keys), kind.name()));
        let prepare = Prepare { settings: &settings, dir: EngineDir::new(cli)?, keys };
        contestants.push((kind.name(), kind.visit::<K, V, _>(prepare)?, Vec::new()));
    }
    for round in 0..rounds {
        for at in rotated(contestants.len(), round) {
            let (_, contestant, found) = &mut contestants[at];
            found.push(contestant.round(&settings)?);
        }
    }
    let mut section = Section::new(
        "restore",
        format!("{} keys of {K} B, values of {V} B", keys_name(keys)),
        &[("first read", Unit::Nanos), ("all read", Unit::Nanos), ("reads", Unit::PerSecond)],
        0,
        Better::Lower,
    )
    .parameter("keys", keys)
    .parameter("key_bytes", K)
    .parameter("value_bytes", V)
    .parameter("rounds", rounds);
    for (name, _, found) in &contestants {
        let all_read_ns = median(found.iter().map(|round| nanos(round.all_read) as f64));
        section.row(
            "",
            name,
            vec![
                median(found.iter().map(|round| nanos(round.first_read) as f64)),
                all_read_ns,
                all_read_ns.map(|ns| keys as f64 / (ns / 1e9)),
            ],
        );
    }
    section.note(
        "From the local disk with a warm page cache. The maps read a file of plain records into a \
         map of the right capacity; RocksDB opens its checkpoint, fjall its own directory.",
    );
    Ok(section)
}
