//! Timers: as many pending all the time; some are registered, then time goes on
//! by as much as makes as many fire.

use std::hint::black_box;

use super::kinds::{CHUNK, Clock, Contestant, Prepare, compare, contestants, section};
use super::{EngineDir, with_sizes};
use crate::Result;
use crate::engines::kinds::hashbrown::HeapAlone;
use crate::engines::kinds::{Kinds, KindsVisitor, Timers};
use crate::options::Cli;
use crate::report::{Report, Section, keys_name};
use crate::workload::{Random, key};

/// Longest time from registering a timer to firing it: so long that two are
/// hardly ever equal.
const SPAN: u64 = 1 << 40;

struct Runner<E, const K: usize> {
    engine: E,
    pending: u64,
    batch: usize,
    keeps: bool,
    now: u64,
    picks: Random,
    /// Times and keys added up, of all that were registered and all that fired.
    registered: u64,
    fired: u64,
    /// Timers of a chunk, made before the clock starts.
    chunk: Vec<(u64, [u8; K])>,
    _dir: EngineDir,
}

#[inline]
fn take_in(sum: &mut u64, time: u64, key: &[u8]) {
    let word = key.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    *sum = sum.wrapping_add(time.wrapping_mul(word | 1));
}

impl<E: Timers<K>, const K: usize> Runner<E, K> {
    fn draw(&mut self, now: u64, delay: u64) {
        let time = now + 1 + delay;
        let key = key(self.picks.below(self.pending));
        take_in(&mut self.registered, time, &key);
        self.chunk.push((time, key));
    }

    /// As many as are pending when timers with delays of up to [`SPAN`] have been
    /// registered for ever: those with long delays have piled up.
    fn fill(&mut self) -> Result<()> {
        for _ in 0..self.pending {
            let left = (1.0 - self.picks.unit().sqrt()) * SPAN as f64;
            self.chunk.clear();
            self.draw(0, left as u64);
            let [(time, key)] = &self.chunk[..] else { continue };
            self.engine.register(*time, key)?;
        }
        self.engine.settle()
    }

    /// How far time goes on until as many as a batch has have fired.
    fn step(&self) -> u64 {
        SPAN / (2 * self.pending) * self.batch as u64
    }

    /// Fires what is due at a time, in order.
    #[inline]
    fn fire(&mut self, until: u64) -> Result<()> {
        let (fired, mut last) = (&mut self.fired, 0);
        let mut in_order = true;
        self.engine.fire(until, |time, key| {
            in_order &= last <= time && time <= until;
            last = time;
            take_in(fired, time, key);
        })?;
        if in_order { Ok(()) } else { Err("timers did not fire in the order of time".into()) }
    }

    fn batch(&mut self, from: usize) -> Result<()> {
        let until = self.chunk.len().min(from + self.batch);
        self.chunk[from..until]
            .iter()
            .try_for_each(|(time, key)| self.engine.register(*time, key))?;
        self.now += self.step();
        self.fire(self.now)
    }
}

impl<E: Timers<K>, const K: usize> Contestant for Runner<E, K> {
    fn work(&mut self, _: usize, clock: &mut Clock) -> Result<()> {
        self.chunk.clear();
        let mut now = self.now;
        for at in 0..CHUNK {
            let delay = self.picks.below(SPAN);
            self.draw(now, delay);
            if (at + 1).is_multiple_of(self.batch) {
                now += self.step();
            }
        }
        black_box(&mut self.chunk);
        clock.time(CHUNK as u64, || {
            (0..CHUNK).step_by(self.batch).try_for_each(|from| self.batch(from))
        })
    }

    fn settle(&mut self) -> Result<()> {
        self.engine.settle()
    }

    fn check(&mut self, name: &str) -> Result<()> {
        if !self.keeps {
            return Ok(());
        }
        self.fire(self.now + SPAN)?;
        if self.fired != self.registered {
            return Err(format!("{name} fired other timers than were registered").into());
        }
        Ok(())
    }
}

struct Pending<'a> {
    prepare: Prepare<'a>,
    pending: u64,
    batch: usize,
    seed: u64,
}

impl Pending<'_> {
    fn with<E: Timers<K> + 'static, const K: usize>(self) -> Result<Box<dyn Contestant>> {
        let mut runner = Runner::<E, K> {
            engine: E::create(self.prepare.settings, self.prepare.dir.path())?,
            pending: self.pending,
            batch: self.batch,
            keeps: self.prepare.keeps,
            now: 0,
            picks: Random::new(self.seed),
            registered: 0,
            fired: 0,
            chunk: Vec::with_capacity(CHUNK),
            _dir: self.prepare.dir,
        };
        runner.fill()?;
        Ok(Box::new(runner))
    }
}

impl<const K: usize, const V: usize> KindsVisitor<K, V> for Pending<'_> {
    type Output = Result<Box<dyn Contestant>>;

    fn visit<E: Kinds<K, V> + 'static>(self) -> Self::Output {
        self.with::<E, K>()
    }
}

/// Runs the measure at every size.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    for pending in cli.keys_or(&[1_000_000], &[20_000]) {
        report.add(with_sizes!(cli.key_bytes, 8, at_size, cli, pending)?);
    }
    Ok(())
}

fn at_size<const K: usize, const V: usize>(cli: &Cli, pending: u64) -> Result<Section> {
    let (settings, batch) = (cli.settings(), cli.batch);
    let title = format!("{} pending, keys of {K} B", keys_name(pending));
    let mut section = section("timers", title, cli)
        .parameter("pending", pending)
        .parameter("key_bytes", K)
        .parameter("batch", batch);
    let new = |prepare| Pending { prepare, pending, batch, seed: cli.seed };
    let mut all = contestants::<K, V, _>(cli, &settings, "timers", new)?;
    for (name, _) in &mut all {
        if *name == "hashbrown inline" {
            *name = "heap and set";
        } else if *name == "hashbrown boxed" {
            *name = "heap and set, boxed";
        }
    }
    if cli.engines.is_none() {
        let prepare = Prepare { settings: &settings, dir: EngineDir::new(cli)?, keeps: true };
        all.push(("heap alone", new(prepare).with::<HeapAlone<K>, K>()?));
    }
    let task = format!("register {batch}, fire as many");
    compare(cli, &mut section, "timers", &mut all, &[(0, &task)])?;
    for (name, contestant) in &mut all {
        contestant.check(name)?;
    }
    section.note(
        "An operation is one timer registered and one fired. `heap alone` cannot tell whether a \
         timer is there already, and deletes none.",
    );
    Ok(section)
}
