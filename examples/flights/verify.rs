//! Compares everything that the job has in its last checkpoint, and everything that
//! it has said, with the plain computation.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use alluvium::{Error, Result};
use xxhash_rust::xxh3::xxh3_128;

use super::cli::JobOptions;
use super::departure::repetition_suffix;
use super::event::Verdict;
use super::operators::{Counter, Grouping, Totals};
use super::oracle::{self, End, Expected, PlainTotals};
use super::results::{self, Kind};
use super::store::{Directories, Kept};
use super::time::EventTime;

/// Compares all there is. `watermark` is that of the end of the input: the last step of
/// it came with the end, and what lives by event time is looked at as of then.
pub(crate) fn against_plain_computation(
    options: &JobOptions,
    directories: &Directories,
    watermark: EventTime,
) -> Result<Vec<Verdict>> {
    let mut kept = Kept::open_latest(&directories.checkpoints, &options.rules)?;
    kept.shard.advance_watermark(watermark.milliseconds());
    // Three readings that have nothing to do with each other.
    let (totals, answered, said) = std::thread::scope(|scope| {
        let totals = scope.spawn(|| PlainTotals::single_pass(&options.input));
        let answered = scope.spawn(|| digests_of_answer(options));
        let said = digests_of_results(directories);
        (totals.join(), answered.join(), said)
    });
    let totals = totals.map_err(|_| panicked())??;
    let (answer, end) = answered.map_err(|_| panicked())??;
    let records = totals.flights * u64::from(options.repeat);
    let mut verdicts = Vec::new();
    for grouping in Grouping::ALL {
        let expected = match grouping {
            Grouping::Aircraft => &totals.by_aircraft,
            Grouping::Route => &totals.by_route,
            Grouping::CarrierDay => &totals.by_carrier_day,
        };
        verdicts.push(compare_totals(grouping, expected, options, &mut kept, records)?);
    }
    verdicts.extend(compare_results(options, directories, answer, said?)?);
    verdicts.extend(compare_ends(&end, &mut kept)?);
    Ok(verdicts)
}

/// Looks up every key that the single pass found.
///
/// Missing or different totals make their key wrong. Nothing extra can hide
/// either: each record adds exactly one flight to one key of each grouping, so
/// the flights of all known keys together must be all records.
fn compare_totals(
    grouping: Grouping,
    expected: &BTreeMap<String, Expected>,
    options: &JobOptions,
    kept: &mut Kept,
    expected_flights: u64,
) -> Result<Verdict> {
    let mut verdict = verdict(grouping.name(), "flights");
    let mut flights = 0;
    // Either every repetition has its own keys, or all share the same.
    let (repetitions, times) =
        if options.spread { (options.repeat, 1) } else { (1, options.repeat) };
    for repetition in 0..repetitions {
        let suffix = repetition_suffix(options.spread, repetition);
        for (key, &of_one_pass) in expected {
            let key = format!("{key}{suffix}");
            let found = kept.operators.aggregates.get(&mut kept.shard, grouping, &key)?;
            flights += found.map_or(0, |totals| totals.flights);
            let expected = of_one_pass.times(times);
            verdict.keys += 1;
            if !found.is_some_and(|found| agrees(&found, &expected)) {
                differ(&mut verdict, &key, Some(expected), found);
            }
        }
    }
    verdict.values = flights;
    if flights != expected_flights {
        differ(&mut verdict, "flights in all", Some(expected_flights), Some(flights));
    }
    Ok(verdict)
}

fn agrees(found: &Totals, expected: &Expected) -> bool {
    let longest = match found.longest_delay_minutes {
        Totals::NO_DELAY => None,
        minutes => Some(i64::from(minutes)),
    };
    found.flights == expected.total
        && found.flights - found.cancelled == expected.flown
        && found.departure_delay_sum_minutes == expected.minutes_late_leaving
        && found.arrival_delay_sum_minutes == expected.minutes_late_arriving
        && longest == expected.worst_minutes
        && found.miles == expected.miles_flown
}

/// Stands for lines in any order: how many, and the sum of their hashes of 128
/// bits. Two sets of lines with the same digest are the same, short of a chance
/// that nobody will live to see; a line too many, missing or repeated shows.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Digest {
    lines: u64,
    sum: u128,
}

impl Digest {
    fn add(&mut self, line: &str) {
        self.lines += 1;
        self.sum = self.sum.wrapping_add(xxh3_128(line.as_bytes()));
    }
}

type Digests = HashMap<Kind, HashMap<String, Digest>>;

fn add_to(digests: &mut Digests, kind: Kind, key: &str, line: &str) {
    let of_kind = digests.entry(kind).or_default();
    match of_kind.get_mut(key) {
        Some(digest) => digest.add(line),
        None => of_kind.entry(key.to_owned()).or_default().add(line),
    }
}

/// What the job should have said, and what there should be at the end.
fn digests_of_answer(options: &JobOptions) -> Result<(Digests, End)> {
    let mut digests = Digests::new();
    let end = oracle::answer(options, &mut |kind, key, line| {
        add_to(&mut digests, kind, key, line);
    })?;
    Ok((digests, end))
}

/// What the job has said.
fn digests_of_results(directories: &Directories) -> Result<Digests> {
    let mut digests = Digests::new();
    results::read_committed(&directories.results, |kind, key, line| {
        add_to(&mut digests, kind, key, line);
    })?;
    Ok(digests)
}

/// Every line that the job has said, against every line that it should have:
/// key by key, with as much memory as there are keys.
fn compare_results(
    options: &JobOptions,
    directories: &Directories,
    mut expected: Digests,
    mut found: Digests,
) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for kind in Kind::ALL {
        let mut verdict = verdict(kind.name(), "results");
        let expected = expected.remove(&kind).unwrap_or_default();
        let found = found.remove(&kind).unwrap_or_default();
        verdict.values = found.values().map(|digest| digest.lines).sum();
        let mut keys: Vec<&String> = expected.keys().chain(found.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        verdict.keys = keys.len() as u64;
        for key in keys {
            if expected.get(key) != found.get(key) {
                verdict.wrong_keys += 1;
                if verdict.wrong_keys == 1 {
                    verdict.first_difference = first_difference(options, directories, kind, key)?;
                }
            }
        }
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// Works the results of one key out again, to say what is wrong with them.
fn first_difference(
    options: &JobOptions,
    directories: &Directories,
    of: Kind,
    of_key: &str,
) -> Result<String> {
    let mut surplus: BTreeMap<String, i64> = BTreeMap::new();
    results::read_committed(&directories.results, |kind, key, line| {
        if (kind, key) == (of, of_key) {
            *surplus.entry(line.to_owned()).or_default() += 1;
        }
    })?;
    oracle::answer(options, &mut |kind, key, line| {
        if (kind, key) == (of, of_key) {
            *surplus.entry(line.to_owned()).or_default() -= 1;
        }
    })?;
    let first = surplus.into_iter().find(|(_, times)| *times != 0);
    Ok(first.map_or_else(String::new, |(line, times)| match times {
        ..0 => format!("{} times too few: {line}", -times),
        _ => format!("{times} times too many: {line}"),
    }))
}

/// What is left in the states at the end.
fn compare_ends(end: &End, kept: &mut Kept) -> Result<Vec<Verdict>> {
    let Kept { shard, operators, .. } = kept;
    let mut counts = BTreeMap::new();
    for (key, counter, count) in operators.counters.all(shard)? {
        counts.insert((counter, key), count);
    }
    let mut cancelled = BTreeMap::new();
    for (airport, day, count) in operators.cancelled.all(shard)? {
        cancelled.insert((airport, day.to_string()), count);
    }
    let mut in_service = BTreeMap::new();
    for (aircraft, (since, flights)) in operators.service.all(shard)? {
        let since = EventTime::from_minutes(since).to_string();
        in_service.insert(aircraft, (since, flights));
    }
    let of_what = "windows, sessions and days, and their timers";
    let mut left_over = verdict("left behind", of_what);
    left_over.values = operators.left_over(shard)?;
    left_over.wrong_keys = left_over.values;

    let mut verdicts = Vec::new();
    for counter in Counter::ALL {
        let of_name = end.counts.iter().filter(|((name, _), _)| *name == counter.name());
        let expected = of_name.map(|((_, key), &count)| (key.clone(), count)).collect();
        let of_number = counts.iter().filter(|((number, _), _)| *number == counter as u8);
        let found = of_number.map(|((_, key), &count)| (key.clone(), count)).collect();
        verdicts.push(compare_maps((counter.name(), "flights"), &expected, &found, |count| *count));
    }
    verdicts
        .push(compare_maps(("cancelled", "flights"), &end.cancelled, &cancelled, |count| *count));
    let flights = |value: &(String, u64)| value.1;
    verdicts.push(compare_maps(
        ("still in service", "flights since then"),
        &end.in_service,
        &in_service,
        flights,
    ));
    verdicts.push(left_over);
    Ok(verdicts)
}

fn compare_maps<K: Ord + Debug, V: PartialEq + Debug>(
    (what, values_are): (&str, &str),
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
    amount: impl Fn(&V) -> u64,
) -> Verdict {
    let mut verdict = verdict(what, values_are);
    verdict.values = found.values().map(amount).sum();
    verdict.keys = found.len() as u64;
    for (key, expected) in expected {
        let found = found.get(key);
        if found != Some(expected) {
            differ(&mut verdict, key, Some(expected), found);
        }
    }
    for (key, found) in found.iter().filter(|(key, _)| !expected.contains_key(*key)) {
        differ(&mut verdict, key, None::<&V>, Some(found));
    }
    verdict
}

fn verdict(what: &str, values_are: &str) -> Verdict {
    Verdict {
        what: what.to_owned(),
        keys: 0,
        values: 0,
        wrong_keys: 0,
        note: values_are.to_owned(),
        first_difference: String::new(),
    }
}

fn differ(
    verdict: &mut Verdict,
    key: impl Debug,
    expected: Option<impl Debug>,
    found: Option<impl Debug>,
) {
    verdict.wrong_keys += 1;
    if verdict.wrong_keys == 1 {
        verdict.first_difference = format!("{key:?}: expected {expected:?}, found {found:?}");
    }
}

fn panicked() -> Error {
    Error::internal("the plain computation ended unexpectedly")
        .remedy("see its message above, and report it")
}
