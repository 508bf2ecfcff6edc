//! Sightings of birds, generated: counted one by one, in windows by a timer each, and the
//! windows once more over all birds; three sinks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium::{MapState, ReducingState, Result, Timers, ValueState};
use alluvium_timely::{FileSink, Flow, Generator, Job, JobEvent, Next, Outcome, Reader, Source};
use timely::Config;

use super::mixed;

/// Records of each split.
pub(crate) const RECORDS: u64 = 12_000;
pub(crate) const SPLITS: u32 = 5;
const BIRDS: u64 = 300;
const WINDOW: i64 = 1_000;
/// By how much a record comes too late at most.
const DISORDER: i64 = 400;

/// A bird, when it was seen, and how many eggs it had.
type Sighting = (u64, i64, u64);

fn sighting(split: u32, number: u64) -> Sighting {
    let random = mixed(u64::from(split) << 40 | number);
    let at = number as i64 * 3 - (random >> 40) as i64 % DISORDER;
    (random % BIRDS, at, random >> 8 & 7)
}

const fn window_of(at: i64) -> i64 {
    at.div_euclid(WINDOW)
}

const fn end_of(window: i64) -> i64 {
    (window + 1) * WINDOW - 1
}

/// What an undisturbed job says, by sink, computed plainly.
pub(crate) fn expected(records: u64) -> BTreeMap<&'static str, Vec<String>> {
    let mut counts = BTreeMap::<u64, u64>::new();
    let mut windows = BTreeMap::<(i64, u64), (u64, u64)>::new();
    let mut said = Vec::new();
    for split in 0..SPLITS {
        for number in 0..records {
            let (bird, at, eggs) = sighting(split, number);
            let count = counts.entry(bird).or_default();
            *count += 1;
            said.push(format!("{bird} {count}"));
            let window = windows.entry((window_of(at), bird)).or_default();
            *window = (window.0 + 1, window.1.max(eggs));
        }
    }
    let by_bird = windows
        .iter()
        .map(|((window, bird), (seen, eggs))| format!("{window} {bird} {seen} {eggs}"));
    let by_bird = by_bird.collect();
    let every: BTreeSet<i64> = windows.keys().map(|(window, _)| *window).collect();
    let all = every.into_iter().map(|window| {
        let of = windows.range((window, 0)..=(window, u64::MAX));
        let (birds, seen) = of.fold((0, 0), |(birds, all), (_, (seen, _))| (birds + 1, all + seen));
        format!("{window} {birds} {seen}")
    });
    let mut expected =
        BTreeMap::from([("counts", said), ("windows", by_bird), ("all", all.collect())]);
    expected.values_mut().for_each(|lines: &mut Vec<String>| lines.sort());
    expected
}

/// The job with its settings; `progress` says on the way how it goes.
pub(crate) fn job(dir: &Path) -> Result<Job> {
    let mut settings = alluvium::coordinator::CheckpointSettings::default();
    settings.interval_ms = Some(30);
    settings.retained = 2;
    settings.tolerable_failures = 3;
    Ok(Job::local("sightings", dir)?.settings(settings).lead_records(5_000))
}

pub(crate) fn run(dir: &Path, config: Config, records: u64) -> Result<Outcome> {
    let out = dir.to_owned();
    job(dir)?
        .observer(|event| {
            if let JobEvent::Completed(id) = event {
                println!("checkpoint {id}");
            }
        })
        .run(config, move |flow| {
            build(flow, &out, records, |seen| {
                if seen % 1_000 == 0 {
                    println!("progress");
                }
            })
        })
}

/// Sightings of which the second half does not come while they are held.
struct Sightings<G> {
    generator: G,
    /// Records of a split that come in any case.
    half: u64,
    is_held: Arc<AtomicBool>,
}

impl<G: Source> Source for Sightings<G> {
    type Item = G::Item;
    type Reader = Sightings<G::Reader>;

    fn splits(&self) -> Result<u32> {
        self.generator.splits()
    }

    fn open(&self, split: u32, position: Option<u64>) -> Result<Self::Reader> {
        let generator = self.generator.open(split, position)?;
        Ok(Sightings { generator, half: self.half, is_held: Arc::clone(&self.is_held) })
    }
}

impl<G: Reader> Reader for Sightings<G> {
    type Item = G::Item;

    fn next(&mut self) -> Result<Next<G::Item>> {
        if self.generator.position() >= self.half && self.is_held.load(Ordering::SeqCst) {
            return Ok(Next::Idle);
        }
        self.generator.next()
    }

    fn position(&self) -> u64 {
        self.generator.position()
    }
}

/// Builds the dataflow; `progress` is told how many records this worker has counted.
pub(crate) fn build(
    flow: &Flow<'_>,
    out: &Path,
    records: u64,
    progress: impl Fn(u64) + 'static,
) -> Result<()> {
    build_held(flow, out, records, &Arc::default(), progress)
}

/// As [`build`]; the job does not come past its half while `is_held` says so.
pub(crate) fn build_held(
    flow: &Flow<'_>,
    out: &Path,
    records: u64,
    is_held: &Arc<AtomicBool>,
    progress: impl Fn(u64) + 'static,
) -> Result<()> {
    let make = move |split, number| (number < records).then(|| sighting(split, number));
    let generator = Generator::new(SPLITS, make);
    let sightings = flow
        .source(
            "sightings",
            Sightings { generator, half: records / 2, is_held: Arc::clone(is_held) },
        )
        .event_time(|(_, at, _)| *at, DISORDER as u64)
        .batch_records(256)
        .build()?;

    let mut seen = 0;
    let counts = flow
        .keyed("count", sightings.clone(), |(bird, ..)| *bird)
        .state(|shard| ValueState::<u64, u64>::register(shard, "counts"))?
        .process(move |counts, context, bird, _| {
            let mut count = 0;
            counts.update(context.store(), bird, |before| {
                count = before.unwrap_or(0) + 1;
                Some(count)
            })?;
            context.emit(format!("{bird} {count}"));
            seen += 1;
            progress(seen);
            Ok(())
        })?;

    let windows = flow
        .keyed("windows", sightings, |(bird, ..)| *bird)
        .state(|shard| {
            let seen: ValueState<u64, u64, i64> = ValueState::register(shard, "seen")?;
            let eggs: ReducingState<u64, u64, i64> =
                ReducingState::register(shard, "eggs", |most: u64, eggs| most.max(eggs))?;
            let ends: Timers<u64, i64> = Timers::event_time(shard, "ends")?;
            Ok((seen, eggs, ends))
        })?
        .process_with_timers(
            |(.., ends)| ends,
            |(seen, eggs, _), context, timer| {
                let (bird, window) = (timer.key, timer.namespace);
                let count = seen.get_in(context.store(), &bird, &window)?.unwrap_or(0);
                let most = eggs.get_in(context.store(), &bird, &window)?.unwrap_or(0);
                seen.delete_in(context.store(), &bird, &window)?;
                eggs.clear_in(context.store(), &bird, &window)?;
                context.emit((window, bird, count, most));
                Ok(())
            },
            |(seen, eggs, ends), context, bird, (_, at, of)| {
                let window = window_of(at);
                let count = |before: Option<u64>| Some(before.unwrap_or(0) + 1);
                seen.update_in(context.store(), bird, &window, count)?;
                eggs.add_in(context.store(), bird, &window, of)?;
                ends.register_in(context.store(), bird, &window, end_of(window))?;
                Ok(())
            },
        )?;

    // Its input comes at the ends of windows, and so is it ready then.
    let all = flow
        .keyed("all", windows.clone(), |(window, ..)| *window)
        .state(|shard| {
            let birds: MapState<i64, u64, u64> = MapState::register(shard, "birds")?;
            let ends: Timers<i64> = Timers::event_time(shard, "ends")?;
            Ok((birds, ends))
        })?
        .process_with_timers(
            |(_, ends)| ends,
            |(birds, _), context, timer| {
                let seen = birds.entry_values(context.store(), &timer.key)?;
                birds.clear(context.store(), &timer.key)?;
                let all: u64 = seen.iter().sum();
                context.emit(format!("{} {} {all}", timer.key, seen.len()));
                Ok(())
            },
            |(birds, ends), context, window, (_, bird, seen, _)| {
                birds.put(context.store(), window, &bird, &seen)?;
                ends.register(context.store(), window, end_of(*window))?;
                Ok(())
            },
        )?;

    let line = |line: &String, bytes: &mut Vec<u8>| {
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
    };
    flow.files("counts", counts, FileSink::new(out.join("counts")), line)?;
    flow.files("all", all, FileSink::new(out.join("all")), line)?;
    flow.files("windows", windows, FileSink::new(out.join("windows")), |of, bytes| {
        let (window, bird, seen, eggs) = of;
        bytes.extend_from_slice(format!("{window} {bird} {seen} {eggs}\n").as_bytes());
    })
}
