//! The dataflow, as each worker builds it.
//!
//! ```text
//! flights   reads the file (`source`); its event time is the watermark of the job
//!    |      each flight becomes five, one under each of its keys (`departure`)
//! flights   keyed: to the worker that owns the key; all states and timers (`operators`)
//!    |      lines of text
//! results   files that count when a checkpoint covers them (`results`)
//! ```
//!
//! What the job says is to follow from the file alone. So a flight brings the watermark
//! along that the source had when it read it, and timers that are due by that fire before
//! the flight is taken in, as if timely's frontier had been seen between any two flights.
//! The frontier comes in larger steps, and at the end; what is due by it is never ahead of
//! the flights that are still to come.

use std::path::Path;

use alluvium::Result;
use alluvium_timely::{FileSink, Fire, Flow};
use timely::dataflow::operators::vec::Map;

use super::departure::{ByKey, Reading};
use super::operators::Operators;
use super::rules::Rules;
use super::source::FlightSource;
use super::store;
use super::time::Watermarks;

/// What is the same in all workers.
pub(crate) struct Plan<'a> {
    pub(crate) source: FlightSource,
    pub(crate) rules: Rules,
    /// Whether each repetition has keys of its own.
    pub(crate) spread: bool,
    /// Where results go.
    pub(crate) results: &'a Path,
}

/// Builds the dataflow of one worker.
pub(crate) fn build(flow: &Flow<'_>, plan: Plan<'_>) -> Result<()> {
    let Plan { source, rules, spread, results } = plan;
    let bound = rules.out_of_orderness_min;
    let flights = flow
        .source(store::SOURCE, source)
        // Nothing is expected up to the watermark.
        .event_time(
            move |reading| Watermarks::after(bound, reading.scheduled).milliseconds() + 1,
            0,
        )
        .build()?;
    let by_key = flights.flat_map(move |reading: Reading| ByKey::all(&reading, spread));
    let said = flow
        .keyed(store::OPERATOR, by_key, |flight| flight.key.as_str().to_owned())
        .state(|shard| Operators::register(shard, &rules))?
        .process_with_all_timers::<String, 3>(
            [
                Fire::new(
                    |operators: &Operators| operators.windows.timers(),
                    |operators, context, timer| operators.windows.fire(&mut context.into(), &timer),
                ),
                Fire::new(
                    |operators: &Operators| operators.sessions.timers(),
                    |operators, context, timer| {
                        operators.sessions.fire(&mut context.into(), &timer)
                    },
                ),
                Fire::new(
                    |operators: &Operators| operators.routes.timers(),
                    |operators, context, timer| operators.routes.fire(&mut context.into(), &timer),
                ),
            ],
            |operators, context, key, ByKey { by, flight, .. }| {
                operators.process(context, by, key, &flight)
            },
        )?;
    flow.files(store::SINK, said, FileSink::new(results), |line: &String, bytes| {
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
    })
}
