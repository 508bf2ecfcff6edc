//! The time of every single insert while a state grows from nothing: does
//! growing ever stop the task thread?

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{EngineDir, kinds_or, progress, rotated, with_sizes};
use crate::Result;
use crate::clock::{fenced_now, nanos};
use crate::engines::bare::Bare;
use crate::engines::{Engine, Restore, Rmw, Settings, Visitor};
use crate::options::Cli;
use crate::report::{Better, Report, Section, Unit, keys_name, median};
use crate::workload::{key, value};

/// The times of single inserts, and how long all of them took.
struct Grown {
    times: Histogram<u64>,
    took: Duration,
}

/// Inserts `keys` records and times each; begins again with the first until
/// `at_least` has passed.
fn grow<E: Engine<K, V>, const K: usize, const V: usize>(
    mut engine: E,
    keys: u64,
    at_least: Duration,
) -> Result<Grown> {
    let mut times = Histogram::new(3)?;
    let began = Instant::now();
    let took = loop {
        for index in 0..keys {
            let (key, value) = (key::<K>(index), value::<V>(index));
            let start = fenced_now();
            engine.insert(&key, &value)?;
            times.record(nanos(fenced_now() - start))?;
        }
        let took = began.elapsed();
        if took >= at_least {
            break took;
        }
    };
    // The work must have been done: look at some of it.
    for index in (0..keys).step_by((keys / 64).max(1) as usize) {
        std::hint::black_box(engine.counter(&key(index))?);
    }
    Ok(Grown { times, took })
}

struct Grow<'a> {
    settings: &'a Settings,
    dir: EngineDir,
    keys: u64,
}

impl<const K: usize, const V: usize> Visitor<K, V> for Grow<'_> {
    type Output = Result<Grown>;

    fn visit<E: Rmw<K, V> + Restore<K, V> + 'static>(self) -> Self::Output {
        grow(E::create(self.settings, self.dir.path())?, self.keys, Duration::ZERO)
    }
}

/// Runs the measure at every size.
pub(super) fn run(cli: &Cli, report: &mut Report) -> Result<()> {
    for keys in cli.keys_or(&[8_000_000], &[100_000]) {
        for value_bytes in cli.value_bytes_or(&[32], &[32]) {
            report.add(with_sizes!(cli.key_bytes, value_bytes, at_size, cli, keys)?);
        }
    }
    Ok(())
}

fn at_size<const K: usize, const V: usize>(cli: &Cli, keys: u64) -> Result<Section> {
    let settings = cli.settings();
    let rounds = cli.rounds_or(3);
    let kinds = kinds_or(cli, |kind| cli.quick || kind.in_memory());
    let mut found: Vec<Vec<Histogram<u64>>> = vec![Vec::new(); kinds.len()];
    let mut bare = Vec::new();
    for round in 0..rounds {
        // The machine has as long to get in the way of the bare loop as of the
        // first engine.
        let mut as_long = Duration::ZERO;
        for at in rotated(kinds.len(), round) {
            let kind = kinds[at];
            progress(&format!("grow: {} keys in {}", keys_name(keys), kind.name()));
            let dir = EngineDir::new(cli)?;
            let grown = kind.visit::<K, V, _>(Grow { settings: &settings, dir, keys })?;
            if at == 0 {
                as_long = grown.took;
            }
            found[at].push(grown.times);
        }
        bare.push(grow::<Bare, K, V>(Bare, keys, as_long)?.times);
    }
    found.insert(0, bare);
    let mut section = Section::new(
        "grow",
        format!("0 to {} keys of {K} B, values of {V} B", keys_name(keys)),
        &[
            ("mean", Unit::Nanos),
            ("p50", Unit::Nanos),
            ("p99", Unit::Nanos),
            ("p99.9", Unit::Nanos),
            ("p99.99", Unit::Nanos),
            ("worst", Unit::Nanos),
            ("worst of all rounds", Unit::Nanos),
        ],
        5,
        Better::Lower,
    )
    .parameter("keys", keys)
    .parameter("key_bytes", K)
    .parameter("value_bytes", V)
    .parameter("rounds", rounds);
    let names = std::iter::once("bare loop").chain(kinds.iter().map(|kind| kind.name()));
    for (name, rounds) in names.zip(&found) {
        let of = |figure: &dyn Fn(&Histogram<u64>) -> f64| median(rounds.iter().map(figure));
        section.row(
            "",
            name,
            vec![
                of(&|times| times.mean()),
                of(&|times| times.value_at_quantile(0.5) as f64),
                of(&|times| times.value_at_quantile(0.99) as f64),
                of(&|times| times.value_at_quantile(0.999) as f64),
                of(&|times| times.value_at_quantile(0.9999) as f64),
                of(&|times| times.max() as f64),
                rounds.iter().map(|times| times.max() as f64).reduce(f64::max),
            ],
        );
    }
    section.note(format!(
        "The bare loop reads the same clocks and inserts nothing, for as long as the rounds of {} \
         take: its worst is the machine's. It takes more and shorter samples in that time, so \
         that a disturbance weighs less in its percentiles.",
        kinds.first().map_or("an engine", |kind| kind.name()),
    ));
    Ok(section)
}
