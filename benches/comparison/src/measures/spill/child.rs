//! The process of one engine: what it does when it is told to.
//!
//! ```text
//! {"do": "load", "keys": n, "workloads": [..]}       the state, and a first checkpoint
//! {"do": "work", "workload": w, "batched": b,
//!  "ms": t, "interval_ms": i or null}                one round
//! {"do": "upload", "workload": w,
//!  "checkpoints": n, "operations": d}                n checkpoints, d operations apart
//! {"do": "check"}                                    are the counters right?
//! {"do": "save", "keys": n}                          load, checkpoint, close
//! {"do": "reopen", "keys": n, "saved": [..], "ms": t} open, work until t has passed
//! ```
//!
//! The clock stands still while keys are drawn and while a checkpoint's bytes are
//! counted. The time of single operations is taken one in [`SAMPLE_EVERY`].

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use hashbrown::HashSet;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::draw::{Draws, Watched, Workload};
use super::figures::{Timeline, percentiles};
use crate::Result;
use crate::child::serve;
use crate::clock::{Resident, Usage, fenced_now, nanos};
use crate::engines::{Kind, OnDisk, OnDiskVisitor, Settings, Written};
use crate::measures::with_sizes;
use crate::options::Cli;
use crate::workload::{key, value};

/// Operations between two looks at the clock.
const CHUNK: usize = 256;
const SAMPLE_EVERY: usize = 4;
/// Slices of the timeline of a round.
const SLICE_NS: u64 = 250_000_000;
/// Slices of the timeline of a restored shard: in these it is told when it is fast.
const REOPEN_SLICE_NS: u64 = 100_000_000;
/// Records that are handed to an engine at once while it is loaded.
const LOADED_AT_ONCE: usize = 4096;
/// Records that are sorted at once for that, and the parts this makes at most.
const PART_RECORDS: u64 = 1 << 15;
const MOST_PARTS: u64 = 128;

/// What the process of one engine does.
pub(crate) fn child(cli: &Cli, kind: Kind) -> Result<()> {
    let value_bytes = cli.value_bytes_or(&[100], &[100]).first().copied().unwrap_or(100);
    with_sizes!(cli.key_bytes, value_bytes, serve_as, cli, kind)
}

fn serve_as<const K: usize, const V: usize>(cli: &Cli, kind: Kind) -> Result<()> {
    kind.visit_on_disk::<K, V, _>(Serve { cli, name: kind.name() })
        .ok_or_else(|| format!("{} keeps all of its state in memory", kind.name()))?
}

struct Serve<'a> {
    cli: &'a Cli,
    name: &'static str,
}

impl<const K: usize, const V: usize> OnDiskVisitor<K, V> for Serve<'_> {
    type Output = Result<()>;

    fn visit<E: OnDisk<K, V> + 'static>(self) -> Result<()> {
        let settings = self.cli.settings_of_spill();
        let dir = self.cli.dir.as_path();
        let mut runner: Option<Runner<E, K, V>> = None;
        serve(|request| match request["do"].as_str().unwrap_or_default() {
            "load" => {
                let keys = number(request, "keys")?;
                let mut engine = load::<E, K, V>(self.name, &settings, dir, keys)?;
                // The first checkpoint holds the whole state and says nothing
                // about what a later one adds.
                let pending = engine.begin_checkpoint(1)?;
                engine.finish_checkpoint(pending)?;
                let mut newest = 1;
                engine.come_to_rest(&mut newest)?;
                runner = Some(Runner::new(engine, keys, newest, self.cli, request)?);
                found_of_process(Usage::default())
            }
            "save" => {
                let keys = number(request, "keys")?;
                let saved = load::<E, K, V>(self.name, &settings, dir, keys)?.save()?;
                Ok(json!({ "saved": E::pack(&saved) }))
            }
            "reopen" => reopen::<E, K, V>(&settings, dir, self.cli.seed, request),
            other => {
                let runner = runner.as_mut().ok_or("nothing has been loaded")?;
                match other {
                    "work" => runner.work(request),
                    "upload" => runner.upload(request),
                    "check" => runner.check(),
                    _ => Err(format!("unknown request {other:?}").into()),
                }
            }
        })
    }
}

fn number(request: &Value, name: &str) -> Result<u64> {
    Ok(request[name].as_u64().ok_or_else(|| format!("the request lacks the number {name}"))?)
}

/// Stores `keys` records in the order of their keys, showing on a terminal how far
/// it is.
///
/// That order lets RocksDB and fjall begin with tables that do not overlap, as
/// after a compaction of everything. In any other order they rewrite the state many
/// times over while they are loaded, and begin with that work unfinished. Alluvium's
/// tables are in the order of hashes and overlap in any case: they are merged before
/// anything is measured.
fn load<E: OnDisk<K, V>, const K: usize, const V: usize>(
    name: &str,
    settings: &Settings,
    dir: &Path,
    keys: u64,
) -> Result<E> {
    let on_terminal = std::io::stderr().is_terminal();
    let mut engine = E::create(settings, dir)?;
    let parts = keys.div_ceil(PART_RECORDS).clamp(1, MOST_PARTS);
    let (mut sorted, mut records) = (Vec::new(), Vec::new());
    for part in 0..parts {
        part_of_keys::<K>(keys, part, parts, &mut sorted)?;
        for chunk in sorted.chunks(LOADED_AT_ONCE) {
            records.clear();
            let numbers = chunk.iter().map(|index| u64::from(*index));
            records.extend(numbers.map(|index| (key::<K>(index), value::<V>(index))));
            engine.load(&records)?;
        }
        if on_terminal {
            let end = if part + 1 == parts { "\n" } else { "" };
            eprint!("\rcomparison: loading {name}: {} %{end}", (part + 1) * 100 / parts);
        }
    }
    engine.settle()?;
    Ok(engine)
}

/// The numbers of one of `parts` stretches of the first `keys` keys in the order of those.
/// Going through all numbers once for every part, and reckoning keys again to sort them,
/// takes less memory than keeping them: this process has the engine's limit.
fn part_of_keys<const K: usize>(
    keys: u64,
    part: u64,
    parts: u64,
    into: &mut Vec<u32>,
) -> Result<()> {
    into.clear();
    into.extend((0..u32::try_from(keys)?).filter(|index| {
        let first = key::<K>(u64::from(*index));
        let first = first.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        (u128::from(first) * u128::from(parts)) >> 64 == u128::from(part)
    }));
    into.sort_unstable_by_key(|index| key::<K>(u64::from(*index)));
    Ok(())
}

/// What the process used since `before`, and has in memory.
fn found_of_process(before: Usage) -> Result<Value> {
    let now = Usage::now()?;
    Ok(json!({
        "cpu_ns": now.cpu_ns - before.cpu_ns,
        "disk_read_bytes": now.disk_read_bytes - before.disk_read_bytes,
        "disk_written_bytes": now.disk_written_bytes - before.disk_written_bytes,
        "anonymous_bytes": Resident::now()?.anonymous_bytes,
    }))
}

/// A checkpoint that is being written.
struct UnderWay<P> {
    pending: P,
    began: Instant,
}

struct Runner<E, const K: usize, const V: usize> {
    engine: E,
    draws: Vec<(String, Draws)>,
    watched: Watched,
    batch: usize,
    /// Number of the newest checkpoint.
    number: u64,
    /// Kept from chunk to chunk.
    indices: Vec<u64>,
    keys: Vec<[u8; K]>,
    records: Vec<([u8; K], [u8; V])>,
}

impl<E: OnDisk<K, V>, const K: usize, const V: usize> Runner<E, K, V> {
    fn new(engine: E, keys: u64, newest: u64, cli: &Cli, request: &Value) -> Result<Self> {
        let mut watched = Watched::among(keys, cli.seed);
        let mut draws = Vec::new();
        for name in request["workloads"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            let mut drawn = Draws::new(Workload::from_str(name, false)?, keys, cli.seed);
            watched.watch_first(&mut drawn);
            draws.push((name.to_owned(), drawn));
        }
        Ok(Self {
            engine,
            draws,
            watched,
            batch: cli.batch,
            number: newest,
            indices: Vec::with_capacity(CHUNK),
            keys: Vec::with_capacity(CHUNK),
            records: Vec::new(),
        })
    }

    /// Draws the next operations of a workload; `true` if they are inserts.
    fn draw(&mut self, request: &Value, count: usize) -> Result<bool> {
        let name = request["workload"].as_str().unwrap_or_default();
        let (_, draws) = self
            .draws
            .iter_mut()
            .find(|(known, _)| known == name)
            .ok_or_else(|| format!("workload {name:?} was not announced"))?;
        draws.chunk(count, &mut self.indices, &mut self.watched);
        self.keys.clear();
        self.keys.extend(self.indices.iter().map(|index| key::<K>(*index)));
        let inserts = draws.workload() == Workload::Insert;
        self.records.clear();
        if inserts {
            let values = self.indices.iter().map(|index| value::<V>(*index));
            self.records.extend(self.keys.iter().copied().zip(values));
        }
        Ok(inserts)
    }

    /// The drawn operations one at a time; some are timed.
    fn one_at_a_time(&mut self, inserts: bool, times: &mut Histogram<u64>) -> Result<()> {
        for at in 0..self.keys.len() {
            let before = at.is_multiple_of(SAMPLE_EVERY).then(fenced_now);
            if inserts {
                let (key, value) = &self.records[at];
                self.engine.insert_absent(key, value)?;
            } else {
                self.engine.rmw(&self.keys[at])?;
            }
            if let Some(before) = before {
                times.record(nanos(fenced_now() - before))?;
            }
        }
        Ok(())
    }

    fn in_batches(&mut self, inserts: bool) -> Result<()> {
        if inserts {
            self.records
                .chunks(self.batch)
                .try_for_each(|batch| self.engine.insert_absent_batch(batch))
        } else {
            self.keys.chunks(self.batch).try_for_each(|batch| self.engine.rmw_batch(batch))
        }
    }

    fn begin_checkpoint(&mut self) -> Result<UnderWay<E::Pending>> {
        self.number += 1;
        let began = fenced_now();
        Ok(UnderWay { pending: self.engine.begin_checkpoint(self.number)?, began })
    }

    /// One round, with a checkpoint every interval if there is one.
    fn work(&mut self, request: &Value) -> Result<Value> {
        let time = Duration::from_millis(number(request, "ms")?);
        let interval = request["interval_ms"].as_u64().map(Duration::from_millis);
        let batched = request["batched"].as_bool().unwrap_or(false);
        let before = Usage::now()?;
        let mut times = Histogram::new(3)?;
        let mut timeline = Timeline::new(SLICE_NS);
        let (mut operations, mut worked) = (0, Duration::ZERO);
        let (mut pauses_ns, mut complete_ns) = (Vec::new(), Vec::new());
        let mut under_way: Option<UnderWay<E::Pending>> = None;
        let mut next = interval.map(|interval| Instant::now() + interval);
        while worked < time {
            if let Some(mut current) = under_way.take() {
                // Read before the poll, which may spend time on counting bytes.
                let duration_ns = nanos(current.began.elapsed());
                match self.engine.poll_checkpoint(&mut current.pending)? {
                    Some(_) => complete_ns.push(duration_ns),
                    None => under_way = Some(current),
                }
            } else if let (Some(due), Some(interval)) = (next, interval)
                && Instant::now() >= due
            {
                let current = self.begin_checkpoint()?;
                let pause = fenced_now() - current.began;
                pauses_ns.push(nanos(pause));
                worked += pause;
                under_way = Some(current);
                next = Some(due + interval);
            }
            let inserts = self.draw(request, CHUNK)?;
            let start = fenced_now();
            if batched {
                self.in_batches(inserts)?;
            } else {
                self.one_at_a_time(inserts, &mut times)?;
            }
            worked += fenced_now() - start;
            operations += self.keys.len() as u64;
            timeline.add(nanos(worked), self.keys.len() as u64);
        }
        if let Some(current) = under_way {
            self.engine.finish_checkpoint(current.pending)?;
            complete_ns.push(nanos(current.began.elapsed()));
        }
        self.engine.settle()?;
        let mut found = found_of_process(before)?;
        found["operations"] = json!(operations);
        found["worked_ns"] = json!(nanos(worked));
        found["times"] = percentiles(&times);
        found["per_second"] = json!(timeline.per_second());
        found["pauses_ns"] = json!(pauses_ns);
        found["complete_ns"] = json!(complete_ns);
        found["live_bytes"] = json!(self.live_bytes());
        Ok(found)
    }

    /// Checkpoints with as many operations between them for every engine.
    fn upload(&mut self, request: &Value) -> Result<Value> {
        // What the rounds changed since their last checkpoint is not counted.
        let current = self.begin_checkpoint()?;
        self.engine.finish_checkpoint(current.pending)?;
        // Nor what merges of theirs are left.
        self.engine.come_to_rest(&mut self.number)?;
        let before = Usage::now()?;
        let mut changed = HashSet::new();
        let mut taken = Vec::new();
        for _ in 0..number(request, "checkpoints")? {
            changed.clear();
            let mut left = number(request, "operations")?;
            while left > 0 {
                let inserts = self.draw(request, left.min(CHUNK as u64) as usize)?;
                changed.extend(self.indices.iter().copied());
                self.in_batches(inserts)?;
                left -= self.indices.len() as u64;
            }
            let current = self.begin_checkpoint()?;
            let Written { raw_bytes, stored_bytes } =
                self.engine.finish_checkpoint(current.pending)?;
            taken.push(json!({
                "dirty_records": changed.len(),
                "dirty_bytes": changed.len() * (K + V),
                "raw_bytes": raw_bytes,
                "stored_bytes": stored_bytes,
            }));
        }
        self.engine.settle()?;
        let mut found = found_of_process(before)?;
        found["taken"] = json!(taken);
        found["live_bytes"] = json!(self.live_bytes());
        Ok(found)
    }

    fn live_bytes(&self) -> u64 {
        let records = self.draws.iter().map(|(_, draws)| draws.live_keys()).max().unwrap_or(0);
        records * (K + V) as u64
    }

    /// Compares the counters of the watched keys with what was drawn.
    fn check(&mut self) -> Result<Value> {
        for (index, expected) in self.watched.expected() {
            let found = self.engine.counter(&key(index))?;
            if found != Some(expected) {
                return Err(format!(
                    "key {index} was counted wrongly: expected {expected}, found {found:?}"
                )
                .into());
            }
        }
        Ok(Value::Null)
    }
}

/// Opens what was saved, and works until it has for a while.
fn reopen<E: OnDisk<K, V>, const K: usize, const V: usize>(
    settings: &Settings,
    dir: &Path,
    seed: u64,
    request: &Value,
) -> Result<Value> {
    let keys = number(request, "keys")?;
    let time = Duration::from_millis(number(request, "ms")?);
    let packed: Vec<u8> = request["saved"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|byte| u8::try_from(byte.as_u64()?).ok())
        .collect();
    let mut draws = Draws::new(Workload::Zipf, keys, seed);
    let mut timeline = Timeline::new(REOPEN_SLICE_NS);
    let (mut indices, mut watched) = (Vec::new(), Watched::default());
    let before = Usage::now()?;
    let start = fenced_now();
    let mut engine = E::restore(settings, &E::unpack(dir, &packed)?)?;
    engine.rmw(&key(keys / 2))?;
    let first = fenced_now() - start;
    let mut operations = 0u64;
    loop {
        // Here the clock runs on: warming up in the background does, too.
        draws.chunk(CHUNK / 4, &mut indices, &mut watched);
        indices.iter().try_for_each(|index| engine.rmw(&key(*index)))?;
        operations += indices.len() as u64;
        let passed = start.elapsed();
        timeline.add(nanos(passed), indices.len() as u64);
        if passed >= time {
            break;
        }
    }
    let mut found = found_of_process(before)?;
    found["first_ns"] = json!(nanos(first));
    found["operations"] = json!(operations);
    found["slice_ns"] = json!(REOPEN_SLICE_NS);
    found["per_second"] = json!(timeline.per_second());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_all_keys_in_their_order() {
        let (mut all, mut part_of) = (Vec::new(), Vec::new());
        for part in 0..7 {
            part_of_keys::<16>(1000, part, 7, &mut part_of).unwrap();
            assert!(part_of.len() > 100, "{}", part_of.len());
            all.append(&mut part_of);
        }
        let mut indices: Vec<u64> = all.into_iter().map(u64::from).collect();
        assert!(indices.is_sorted_by_key(|index| key::<16>(*index)));
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..1000));
    }
}
