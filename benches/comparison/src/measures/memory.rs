//! Resident memory per byte of keys and values.
//!
//! Each figure comes from a process of its own, which this program starts from
//! its own file: memory that another engine has freed but the allocator kept
//! would otherwise be counted. The process notes its private resident memory,
//! fills the engine, waits until the engine has come to rest and its memory has
//! not changed for a while, and notes it again. Mapped file pages are reported apart: the kernel can drop them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{EngineDir, kinds_or, loaded, own_program, progress, rotated, with_sizes};
use crate::Result;
use crate::clock::Resident;
use crate::engines::{Kind, Restore, Rmw, Settings, Visitor};
use crate::options::Cli;
use crate::report::{Better, Report, Section, Unit, keys_name, median};

/// How long memory must stay the same to be at rest.
const REST: Duration = Duration::from_secs(2);
/// How long to wait for that.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the measure at every size.
///
/// The default numbers of keys put a hash map that doubles its table at both
/// ends of its range: just grown, and about to grow.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    let mut sizes: Vec<(usize, usize)> = cli
        .value_bytes_or(&[32, 100], &[32])
        .into_iter()
        .map(|value_bytes| (cli.key_bytes, value_bytes))
        .collect();
    if cli.value_bytes.is_none() {
        sizes.push((8, 8));
    }
    for (key_bytes, value_bytes) in sizes {
        for keys in cli.keys_or(&[1_000_000, 1_800_000], &[50_000]) {
            report.add(at_size(cli, key_bytes, value_bytes, keys)?);
        }
    }
    Ok(())
}

fn at_size(cli: &Cli, key_bytes: usize, value_bytes: usize, keys: u64) -> Result<Section> {
    let rounds = cli.rounds_or(3);
    let kinds = kinds_or(cli, Kind::in_memory);
    let raw_bytes = (keys * (key_bytes + value_bytes) as u64) as f64;
    let mut found: Vec<Vec<(f64, f64)>> = vec![Vec::new(); kinds.len()];
    progress(&format!("memory: {} keys of {key_bytes}+{value_bytes} B", keys_name(keys)));
    for round in 0..rounds {
        for at in rotated(kinds.len(), round) {
            found[at].push(in_child(cli, kinds[at], key_bytes, value_bytes, keys)?);
        }
    }
    let mut section = Section::new(
        "memory",
        format!("{} keys of {key_bytes} B, values of {value_bytes} B", keys_name(keys)),
        &[
            ("resident/raw", Unit::Ratio),
            ("resident", Unit::Bytes),
            ("resident/record", Unit::Bytes),
            ("mapped files", Unit::Bytes),
        ],
        0,
        Better::Lower,
    )
    .parameter("keys", keys)
    .parameter("key_bytes", key_bytes)
    .parameter("value_bytes", value_bytes)
    .parameter("rounds", rounds);
    for (kind, rounds) in kinds.iter().zip(found) {
        let anonymous = median(rounds.iter().map(|round| round.0));
        section.row(
            "",
            kind.name(),
            vec![
                anonymous.map(|bytes| bytes / raw_bytes),
                anonymous,
                anonymous.map(|bytes| bytes / keys as f64),
                median(rounds.iter().map(|round| round.1)),
            ],
        );
    }
    Ok(section)
}

/// Growth of private and of file memory, in bytes, of a new process.
fn in_child(
    cli: &Cli,
    kind: Kind,
    key_bytes: usize,
    value_bytes: usize,
    keys: u64,
) -> Result<(f64, f64)> {
    let output = own_program(cli, "memory-child", kind, key_bytes, value_bytes)?
        .args(["--keys", &keys.to_string()])
        .args(["--bloom", &cli.bloom.to_string()])
        .arg("--dir")
        .arg(&cli.dir)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the process for {} ended with {}", kind.name(), output.status).into());
    }
    let figures: Value = serde_json::from_slice(&output.stdout)?;
    let figure = |name: &str| {
        figures[name]
            .as_f64()
            .ok_or_else(|| format!("the process for {} said nothing of {name}", kind.name()))
    };
    Ok((figure("anonymous_bytes")?, figure("file_bytes")?))
}

/// What the process of one engine does.
pub(crate) fn child(cli: &Cli, kind: Kind, keys: u64) -> Result<()> {
    let value_bytes =
        cli.value_bytes.as_ref().and_then(|sizes| sizes.first()).copied().unwrap_or(32);
    with_sizes!(cli.key_bytes, value_bytes, fill, cli, kind, keys)
}

fn fill<const K: usize, const V: usize>(cli: &Cli, kind: Kind, keys: u64) -> Result<()> {
    kind.visit::<K, V, _>(Fill { settings: &cli.settings(), dir: EngineDir::new(cli)?, keys })
}

struct Fill<'a> {
    settings: &'a Settings,
    dir: EngineDir,
    keys: u64,
}

impl<const K: usize, const V: usize> Visitor<K, V> for Fill<'_> {
    type Output = Result<()>;

    fn visit<E: Rmw<K, V> + Restore<K, V> + 'static>(self) -> Self::Output {
        let before = Resident::now()?;
        let mut engine = loaded::<E, K, V>(self.settings, self.dir.path(), self.keys)?;
        engine.settle()?;
        let after = at_rest()?;
        println!(
            "{}",
            json!({
                "anonymous_bytes": after.anonymous_bytes.saturating_sub(before.anonymous_bytes),
                "file_bytes": after.file_bytes.saturating_sub(before.file_bytes),
            })
        );
        Ok(())
    }
}

/// Resident memory once it has stayed the same for a while: engines and
/// allocators give back what they kept ready, or go on filling it.
fn at_rest() -> Result<Resident> {
    let began = Instant::now();
    let mut seen = (Resident::now()?, Instant::now());
    while seen.1.elapsed() < REST && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
        let now = Resident::now()?;
        if now.anonymous_bytes != seen.0.anonymous_bytes {
            seen = (now, Instant::now());
        }
    }
    Ok(seen.0)
}
