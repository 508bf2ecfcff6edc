//! Tumbling windows: every event is added to the state of its key in its window
//! and registers a timer for the end of the window; when that has come, what each
//! key has is read and purged.
//!
//! Then the same again between two checkpoints: what the second of them adds, when
//! all windows that came after the first have gone before it.

use std::hint::black_box;

use super::kinds::{CHUNK, Clock, Contestant, Contestants, Prepare, compare, contestants, section};
use super::{EngineDir, progress, with_sizes};
use crate::Result;
use crate::engines::Written;
use crate::engines::kinds::hashbrown::MapPerWindow;
use crate::engines::kinds::{Contents, Kinds, KindsVisitor, Windows};
use crate::options::Cli;
use crate::report::{Better, Report, Section, Unit, keys_name};
use crate::workload::{Random, bump, counter_of, key};

/// Events for each key in a window, on average.
const EVENTS_PER_KEY: u64 = 4;
/// Windows between the two checkpoints.
const WINDOWS_BETWEEN: u64 = 3;
/// Time from window to window.
const WINDOW_MS: u64 = 60_000;

struct Runner<E, const K: usize, const V: usize> {
    engine: E,
    contents: Contents,
    keys: u64,
    keeps: bool,
    /// The end of the window that is open.
    window: u64,
    picks: Random,
    /// Keys and events of a chunk, made before the clock starts.
    chunk: Vec<([u8; K], [u8; V])>,
    _dir: EngineDir,
}

/// Takes an event, or a sum of events, into a sum over a window: as events are
/// added up by their counters, both come to the same.
#[inline]
fn take_in(sum: &mut u64, key: &[u8], event: &[u8]) {
    let word = key.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    *sum = sum.wrapping_add(word.wrapping_mul(counter_of(event).unwrap_or(0)));
}

impl<E: Windows<K, V>, const K: usize, const V: usize> Runner<E, K, V> {
    /// One window, from its first event until nothing of it is left.
    fn one_window(&mut self, clock: &mut Clock) -> Result<()> {
        let (window, contents) = (self.window, self.contents);
        let (mut expected, mut found) = (0, 0);
        let mut left = EVENTS_PER_KEY * self.keys;
        while left > 0 {
            let count = left.min(CHUNK as u64);
            left -= count;
            self.chunk.clear();
            for _ in 0..count {
                let (key, mut event) = (key(self.picks.below(self.keys)), [0; V]);
                bump(&mut event, 1 + (left & 7));
                take_in(&mut expected, &key, &event);
                self.chunk.push((key, event));
            }
            black_box(&mut self.chunk);
            clock.time(count, || {
                self.chunk
                    .iter()
                    .try_for_each(|(key, event)| self.engine.add(contents, key, window, event))
            })?;
        }
        clock.time(0, || {
            self.engine.fire_window(contents, window, |key, event| take_in(&mut found, key, event))
        })?;
        self.window += WINDOW_MS;
        if self.keeps && found != expected {
            return Err(format!("the window that ended at {window} had other events").into());
        }
        Ok(())
    }
}

impl<E: Windows<K, V>, const K: usize, const V: usize> Contestant for Runner<E, K, V> {
    fn work(&mut self, _: usize, clock: &mut Clock) -> Result<()> {
        self.one_window(clock)
    }

    fn settle(&mut self) -> Result<()> {
        self.engine.settle()
    }

    fn checkpoint(&mut self) -> Result<Written> {
        self.engine.checkpoint()
    }

    fn check(&mut self, _: &str) -> Result<()> {
        // Every window was checked when it fired.
        Ok(())
    }
}

struct InWindows<'a> {
    prepare: Prepare<'a>,
    contents: Contents,
    keys: u64,
    seed: u64,
}

impl InWindows<'_> {
    fn with<E: Windows<K, V> + 'static, const K: usize, const V: usize>(
        self,
    ) -> Result<Box<dyn Contestant>> {
        Ok(Box::new(Runner::<E, K, V> {
            engine: E::create(self.prepare.settings, self.prepare.dir.path())?,
            contents: self.contents,
            keys: self.keys,
            keeps: self.prepare.keeps,
            window: WINDOW_MS,
            picks: Random::new(self.seed),
            chunk: Vec::with_capacity(CHUNK),
            _dir: self.prepare.dir,
        }))
    }
}

impl<const K: usize, const V: usize> KindsVisitor<K, V> for InWindows<'_> {
    type Output = Result<Box<dyn Contestant>>;

    fn visit<E: Kinds<K, V> + 'static>(self) -> Self::Output {
        self.with::<E, K, V>()
    }
}

/// Runs the measure at every size.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    for keys in cli.keys_or(&[100_000], &[1_000]) {
        for value_bytes in cli.value_bytes_or(&[32], &[32]) {
            for section in with_sizes!(cli.key_bytes, value_bytes, at_size, cli, keys)? {
                report.add(section);
            }
        }
    }
    Ok(())
}

fn at_size<const K: usize, const V: usize>(cli: &Cli, keys: u64) -> Result<Vec<Section>> {
    let settings = cli.settings();
    let title = format!("{} keys of {K} B, events of {V} B", keys_name(keys));
    let mut speed = section("windows", title.clone(), cli)
        .parameter("keys", keys)
        .parameter("key_bytes", K)
        .parameter("value_bytes", V)
        .parameter("events_per_key", EVENTS_PER_KEY);
    let mut bytes = Section::new(
        "windows",
        format!(
            "what a checkpoint adds after {WINDOWS_BETWEEN} windows that came and went, {title}"
        ),
        &[("events", Unit::Count), ("stored", Unit::Bytes), ("per event", Unit::Bytes)],
        1,
        Better::Lower,
    )
    .parameter("keys", keys)
    .parameter("key_bytes", K)
    .parameter("value_bytes", V);
    for (contents, task) in
        [(Contents::Sum, "sums: add, fire, purge"), (Contents::List, "lists: add, fire, purge")]
    {
        let new = |prepare| InWindows { prepare, contents, keys, seed: cli.seed };
        let mut all: Contestants<'_> = contestants::<K, V, _>(cli, &settings, "windows", new)?;
        if cli.engines.is_none() {
            let prepare = Prepare { settings: &settings, dir: EngineDir::new(cli)?, keeps: true };
            all.push(("map per window", new(prepare).with::<MapPerWindow<K, V>, K, V>()?));
        }
        compare(cli, &mut speed, "windows", &mut all, &[(0, task)])?;
        progress("windows: bytes of a checkpoint");
        for (name, contestant) in &mut all {
            if *name == "bare loop" {
                continue;
            }
            contestant.checkpoint()?;
            for _ in 0..WINDOWS_BETWEEN {
                contestant.work(0, &mut Clock::default())?;
            }
            let stored = contestant.checkpoint()?.stored_bytes.map(|bytes| bytes as f64);
            let events = (WINDOWS_BETWEEN * EVENTS_PER_KEY * keys) as f64;
            let cells = vec![Some(events), stored, stored.map(|bytes| bytes / events)];
            bytes.row(task, name, cells);
        }
    }
    speed.note(format!(
        "An operation is an event: its share of firing and purging is in it. Windows have \
         {EVENTS_PER_KEY} events per key. `map per window` has no timers: it keeps one hash map \
         per window and drops it whole."
    ));
    bytes.note("Of Alluvium and RocksDB: the files that the checkpoint before did not have.");
    Ok(vec![speed, bytes])
}
