//! From two shards to three: how long until the first operation of each new shard, and
//! how many bytes are written for it.
//!
//! A process saves the state from two shards and ends. In each round every new shard is
//! opened by a process of its own, in a directory of its own, from the handles of both:
//! time runs from the call that opens its backend to the end of a read-modify-write of one
//! of its keys. Once with what the page cache has, once after it was dropped (which needs
//! root). Of Alluvium alone: the others have no shards that can be divided.

use std::fs;
use std::path::Path;

use ::alluvium::{Backend, KeyGroupRange, KeyRef, KeyedStore, MaxParallelism, SnapshotHandle};
use ::alluvium::{Shard, SnapshotId, StateId, StateSpec, ValueMut};
use serde_json::{Value, json};

use super::{EngineDir, own_program, progress, with_sizes};
use crate::Result;
use crate::child::{Answer, Child, serve};
use crate::clock::{Usage, fenced_now, nanos};
use crate::engines::Kind;
use crate::engines::alluvium::{CHECKPOINTS, open_with};
use crate::options::Cli;
use crate::report::{Better, Report, Section, Unit, keys_name, median};
use crate::workload::{bump, counter_of, key, value};

const BEFORE: u32 = 2;
const AFTER: u32 = 3;
const OPERATOR: &str = "comparison";
const STATE: &str = "counters";
/// Keys that are looked through for one of a shard.
const LOOKED_THROUGH: u64 = 1_000;

/// Whether the page cache is dropped before a shard is opened.
const CACHES: [(&str, bool); 2] = [("warm", false), ("cold", true)];

/// What one shard found.
struct Opened {
    first_ns: f64,
    read_bytes: f64,
    written_bytes: f64,
    checkpoint_bytes: f64,
}

/// Runs the measure.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    let state_bytes = cli.state_mb.unwrap_or(if cli.quick { 96 } else { 1024 }) << 20;
    for value_bytes in cli.value_bytes_or(&[100], &[100]) {
        let keys = (state_bytes / (cli.key_bytes + value_bytes) as u64).max(LOOKED_THROUGH);
        report.add(at_size(cli, keys, value_bytes)?);
    }
    Ok(())
}

fn at_size(cli: &Cli, keys: u64, value_bytes: usize) -> Result<Section> {
    let rounds = cli.rounds_or(3);
    let dir = EngineDir::new(cli)?;
    progress(&format!("rescale: saving {} keys from {BEFORE} shards", keys_name(keys)));
    let saved = in_child(cli, dir.path(), value_bytes, &json!({ "do": "save", "keys": keys }))?;
    let (state_bytes, files) = size_of(&dir.path().join(CHECKPOINTS))?;
    let mut section = Section::new(
        "rescale",
        format!(
            "{} keys of {} B, values of {value_bytes} B, {} MiB, {BEFORE} shards to {AFTER}",
            keys_name(keys),
            cli.key_bytes,
            (keys * (cli.key_bytes + value_bytes) as u64) >> 20,
        ),
        &[
            ("first op", Unit::Nanos),
            ("worst", Unit::Nanos),
            ("read until then", Unit::Bytes),
            ("written until then", Unit::Bytes),
            ("first checkpoint", Unit::Bytes),
        ],
        0,
        Better::Lower,
    )
    .parameter("keys", keys)
    .parameter("key_bytes", cli.key_bytes)
    .parameter("value_bytes", value_bytes)
    .parameter("budget_bytes", cli.budget_bytes())
    .parameter("rounds", rounds);
    for (cache, drops) in CACHES {
        if drops && !drop_page_cache() {
            section.note("The page cache could not be dropped: that needs root.");
            continue;
        }
        let mut found: Vec<Vec<Opened>> = (0..AFTER).map(|_| Vec::new()).collect();
        for round in 0..rounds {
            progress(&format!("rescale: round {} of {rounds}, {cache}", round + 1));
            for (index, found) in (0_u32..).zip(&mut found) {
                if drops {
                    drop_page_cache();
                }
                let request = json!({ "do": "open", "keys": keys, "saved": saved, "index": index });
                let answer = in_child(cli, dir.path(), value_bytes, &request)?;
                let number = |name: &str| {
                    answer[name].as_f64().ok_or_else(|| format!("a shard said nothing of {name}"))
                };
                found.push(Opened {
                    first_ns: number("first_ns")?,
                    read_bytes: number("read_bytes")?,
                    written_bytes: number("written_bytes")?,
                    checkpoint_bytes: number("checkpoint_bytes")?,
                });
            }
        }
        for (index, rounds) in found.iter().enumerate() {
            section.row(
                cache,
                &format!("shard {index} of {AFTER}"),
                vec![
                    median(rounds.iter().map(|one| one.first_ns)),
                    rounds.iter().map(|one| one.first_ns).reduce(f64::max),
                    median(rounds.iter().map(|one| one.read_bytes)),
                    median(rounds.iter().map(|one| one.written_bytes)),
                    median(rounds.iter().map(|one| one.checkpoint_bytes)),
                ],
            );
        }
    }
    section.note(format!(
        "{files} files of {state_bytes} bytes were restored from, on the local disk. `written` is \
         what the process handed to write calls; the first checkpoint is what it uploaded after \
         that one operation, manifest included. The process had just been started: after the page \
         cache was dropped its own program is read from the disk, too.",
    ));
    Ok(section)
}

/// Has a new process do something.
fn in_child(cli: &Cli, dir: &Path, value_bytes: usize, request: &Value) -> Result<Value> {
    let mut command =
        own_program(cli, "rescale-child", Kind::Alluvium, cli.key_bytes, value_bytes)?;
    command.args(["--budget-mb", &(cli.budget_bytes() >> 20).to_string()]).arg("--dir").arg(dir);
    match Child::start("a shard", command, None)?.ask(request)? {
        Answer::Done(found) => Ok(found),
        Answer::Killed => Err("the process of a shard was killed".into()),
    }
}

/// Has the system forget what it has of files; says whether it did.
fn drop_page_cache() -> bool {
    let synced = std::process::Command::new("sync").status().is_ok_and(|status| status.success());
    synced && fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Bytes and number of the files below a directory.
fn size_of(dir: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut files) = (0, 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (more, others) = match entry.file_type()?.is_dir() {
            true => size_of(&entry.path())?,
            false => (entry.metadata()?.len(), 1),
        };
        (bytes, files) = (bytes + more, files + others);
    }
    Ok((bytes, files))
}

/// What the process of one shard does, or of the two before.
pub(crate) fn child(cli: &Cli) -> Result<()> {
    let value_bytes = cli.value_bytes_or(&[100], &[100]).first().copied().unwrap_or(100);
    with_sizes!(cli.key_bytes, value_bytes, serve_shards, cli)
}

fn serve_shards<const K: usize, const V: usize>(cli: &Cli) -> Result<()> {
    serve(|request| {
        let number = |name: &str| {
            request[name].as_u64().ok_or_else(|| format!("a request lacks the number {name}"))
        };
        let keys = number("keys")?;
        if request["do"] == "save" {
            return save::<K, V>(cli, keys);
        }
        let saved: Vec<Vec<u8>> = serde_json::from_value(request["saved"].clone())?;
        let handles: std::result::Result<Vec<_>, _> =
            saved.iter().map(|handle| SnapshotHandle::decode(handle)).collect();
        open::<K>(cli, keys, handles?, number("index")? as u32)
    })
}

fn groups(index: u32, of: u32) -> Result<KeyGroupRange> {
    Ok(MaxParallelism::DEFAULT.range_of_subtask(index, of)?)
}

fn is_in<const K: usize>(groups: KeyGroupRange, key: &[u8; K]) -> bool {
    groups.contains(KeyRef::new(key).locate(MaxParallelism::DEFAULT).0)
}

fn open_backend(cli: &Cli, own: &str) -> Result<Backend> {
    let checkpoints = cli.dir.join(CHECKPOINTS);
    open_with(&cli.settings_of_spill(), &cli.dir.join(own), &checkpoints)
}

fn register(shard: &mut Shard) -> Result<StateId> {
    Ok(shard.register(StateSpec::value(STATE))?)
}

/// Fills the shards one after the other, and gives their handles.
fn save<const K: usize, const V: usize>(cli: &Cli, keys: u64) -> Result<Value> {
    let mut saved = Vec::new();
    for index in 0..BEFORE {
        let backend = open_backend(cli, &format!("before-{index}"))?;
        let groups = groups(index, BEFORE)?;
        let mut shard = backend.shard(OPERATOR, groups).open()?;
        let state = register(&mut shard)?;
        for (key, value) in (0..keys).map(|index| (key::<K>(index), value::<V>(index))) {
            if is_in(groups, &key) {
                shard.put(state, KeyRef::new(&key), &value)?;
            }
        }
        let report = shard.snapshot(SnapshotId(1), &[])?.wait()?;
        saved.push(report.handle.encode());
    }
    Ok(json!(saved))
}

/// Opens one of the shards after, and takes its first checkpoint.
fn open<const K: usize>(
    cli: &Cli,
    keys: u64,
    handles: Vec<SnapshotHandle>,
    index: u32,
) -> Result<Value> {
    let groups = groups(index, AFTER)?;
    let middle = keys / 2;
    let mine = (middle..keys).map(key::<K>).find(|key| is_in(groups, key));
    let mine = mine.ok_or("no key belongs to the shard")?;
    let own = format!("after-{index}");
    let before = Usage::now()?;
    let start = fenced_now();
    let backend = open_backend(cli, &own)?;
    let mut shard = backend.shard(OPERATOR, groups).restore(handles).open()?;
    let state = register(&mut shard)?;
    let mut found = None;
    shard.update(state, KeyRef::new(&mine), &mut |value: &mut ValueMut<'_>| {
        if let Some(bytes) = value.bytes_mut() {
            bump(bytes, 1);
            found = counter_of(bytes);
        }
    })?;
    let first = fenced_now() - start;
    let after = Usage::now()?;
    if found != Some(1) {
        return Err(format!("a key was counted as {found:?} instead of 1").into());
    }
    let report = shard.snapshot(SnapshotId(2), &[])?.wait()?;
    drop(shard);
    drop(backend);
    // The next round begins without it.
    fs::remove_dir_all(cli.dir.join(own))?;
    Ok(json!({
        "first_ns": nanos(first),
        "read_bytes": after.disk_read_bytes.saturating_sub(before.disk_read_bytes),
        "written_bytes": after.written_bytes.saturating_sub(before.written_bytes),
        "checkpoint_bytes": report.bytes_new,
    }))
}
