//! Compares every aggregate in the shards with the single pass.

use std::collections::BTreeMap;

use alluvium::base::Result;

use super::aggregate::Aggregate;
use super::cli::JobOptions;
use super::event::Verdict;
use super::job;
use super::oracle::{Expected, Oracle};
use super::store::{Operator, ShardStore};

/// Looks up every key that the single pass found, on the shard that owns it.
///
/// A missing or different aggregate makes its key wrong. Nothing extra can
/// hide either: each record adds exactly one flight to one key of each
/// operator, so the flights of all known keys together must be all records.
pub(crate) fn against_single_pass(
    options: &JobOptions,
    shards: &mut [ShardStore],
) -> Result<Vec<Verdict>> {
    let oracle = Oracle::single_pass(&options.input)?;
    let records = oracle.flights * u64::from(options.repeat);
    Operator::ALL
        .into_iter()
        .map(|operator| {
            let expected = match operator {
                Operator::Aircraft => &oracle.by_aircraft,
                Operator::Route => &oracle.by_route,
                Operator::CarrierDay => &oracle.by_carrier_day,
            };
            compare(operator, expected, options, shards, records)
        })
        .collect()
}

fn compare(
    operator: Operator,
    expected: &BTreeMap<String, Expected>,
    options: &JobOptions,
    shards: &mut [ShardStore],
    expected_flights: u64,
) -> Result<Verdict> {
    let mut verdict = Verdict {
        operator: operator.name().to_owned(),
        keys: 0,
        wrong_keys: 0,
        flights: 0,
        expected_flights,
        first_difference: String::new(),
    };
    // Either every repetition has its own keys, or all share the same.
    let (repetitions, times) =
        if options.spread { (options.repeat, 1) } else { (1, options.repeat) };
    for repetition in 0..repetitions {
        let suffix = job::repetition_suffix(options.spread, repetition);
        for (key, &of_one_pass) in expected {
            let key = format!("{key}{suffix}");
            let owner = job::shard_of_key(&key, options.shards);
            let found = shards[owner].get(operator, &key)?;
            verdict.keys += 1;
            verdict.flights += found.map_or(0, |aggregate| aggregate.flights);
            let expected = of_one_pass.times(times);
            if !found.is_some_and(|found| agrees(&found, &expected)) {
                verdict.wrong_keys += 1;
                if verdict.wrong_keys == 1 {
                    verdict.first_difference =
                        format!("{key}: expected {expected:?}, found {found:?}");
                }
            }
        }
    }
    Ok(verdict)
}

fn agrees(found: &Aggregate, expected: &Expected) -> bool {
    let longest = match found.longest_delay_minutes {
        Aggregate::NO_DELAY => None,
        minutes => Some(i64::from(minutes)),
    };
    found.flights == expected.total
        && found.flights - found.cancelled == expected.flown
        && found.departure_delay_sum_minutes == expected.minutes_late_leaving
        && found.arrival_delay_sum_minutes == expected.minutes_late_arriving
        && longest == expected.worst_minutes
        && found.miles == expected.miles_flown
}
