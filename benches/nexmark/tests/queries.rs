//! Each query says on every store what a plain computation over all events says: on one
//! worker and on two, undisturbed, and when the job fails in the middle and goes on from
//! its checkpoint. Events are out of order, many are on the edges of windows, and some come
//! far too late.

#![allow(clippy::disallowed_methods, reason = "results are real files")]

mod reference;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alluvium_timely::JobEvent;
use nexmark_comparison::engine::{Alluvium, Engine, Maps};
use nexmark_comparison::generate::{Events, Go, Settings};
use nexmark_comparison::queries::Query;
use nexmark_comparison::run::{Answer, Plan, run};
use reference::Input;

const EVENTS: u64 = 16_000;
/// Events that a split is read for before the job fails.
const HALF: u64 = 2_300;
/// Events that are read past the checkpoint that the failed job goes on from.
const PAST: u64 = 150;

fn settings() -> Settings {
    Settings {
        events: EVENTS,
        splits: 4,
        // 80 seconds in all.
        rate: 200,
        auctions_in_flight: 60,
        active_people: 100,
        disorder: 24,
        late_one_of: Some(30),
        late_ms: 30_000,
        edge_ms: Some(500),
    }
}

fn plan(query: Query, workers: usize, dir: &Path) -> Plan {
    Plan {
        query,
        workers,
        interval_ms: Some(20),
        memory_budget_bytes: None,
        // Little, so that what is late is late whoever reads it.
        batch_records: 64,
        out: Some(dir.join("out")),
    }
}

/// All lines of all files; what comes and goes is counted.
fn lines(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut gone = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(name.starts_with("part-"), "{name} was left behind");
        for line in std::fs::read_to_string(entry.path()).unwrap().lines() {
            match (line.strip_prefix("+ "), line.strip_prefix("- ")) {
                (Some(line), _) => lines.push(line.to_owned()),
                (_, Some(line)) => gone.push(line.to_owned()),
                _ => lines.push(line.to_owned()),
            }
        }
    }
    lines.sort();
    gone.sort();
    let mut gone = gone.into_iter().peekable();
    lines.retain(|line| gone.next_if_eq(line).is_none());
    assert_eq!(gone.next(), None, "a row goes that has not come");
    lines
}

#[track_caller]
fn compare(what: &str, expected: &[String], found: &[String]) {
    let differs = expected.iter().zip(found).position(|(one, other)| one != other);
    assert!(
        found == expected,
        "{what}: {} lines instead of {}, first difference {:?}",
        found.len(),
        expected.len(),
        differs.map(|at| (&expected[at], &found[at]))
    );
}

fn undisturbed<E: Engine>(
    query: Query,
    workers: usize,
    engine: &E,
    events: &Events,
    expected: &[String],
) -> Answer {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let report = run(&plan(query, workers, dir), &events.again(), engine, dir, |_| {}).unwrap();
    compare(&format!("{query}, {workers} workers"), expected, &lines(&dir.join("out")));
    assert_eq!(report.answer.rows, expected.len() as i64);
    assert_eq!(E::HAS_CHECKPOINTS, !report.pauses_ns.is_empty(), "checkpoints were taken");
    report.answer
}

/// Fails in the middle, past a checkpoint of the middle, and goes on with other workers.
fn disturbed(query: Query, workers: [usize; 2], events: &Events, expected: &[String]) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (reached, completed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (seen, counted) = (Arc::clone(&reached), Arc::clone(&completed));
    let failing = events.again().watched(move |_, position| {
        if position < HALF {
            return Go::On;
        }
        seen.store(true, Ordering::SeqCst);
        match counted.load(Ordering::SeqCst) {
            0 | 1 => Go::Wait,
            _ if position < HALF + PAST => Go::On,
            _ => Go::Fail,
        }
    });
    let count = move |event: &JobEvent| {
        if matches!(event, JobEvent::Completed(_)) && reached.load(Ordering::SeqCst) {
            completed.fetch_add(1, Ordering::SeqCst);
        }
    };
    let plans = workers.map(|workers| plan(query, workers, dir));
    let failed = run(&plans[0], &failing, &Alluvium, dir, count).unwrap_err();
    assert!(failed.to_string().contains("told to fail"), "{failed}");
    let rest = events.again();
    run(&plans[1], &rest, &Alluvium, dir, |_| {}).unwrap();
    let read = rest.counter().load(Ordering::Relaxed);
    assert!(read < EVENTS - HALF, "{read} events were read again: it began anew");
    compare(&format!("{query}, {workers:?} workers"), expected, &lines(&dir.join("out")));
}

fn check(query: Query) {
    let settings = settings();
    let expected = Input::new(&settings).answer(query);
    assert!(expected.len() > 5, "{query} says {} lines", expected.len());
    let events = Events::kept(&settings, |_| {});
    let one = undisturbed(query, 1, &Alluvium, &events, &expected);
    let two = undisturbed(query, 2, &Alluvium, &events, &expected);
    let maps = undisturbed(query, 2, &Maps, &events, &expected);
    assert_eq!((one, one), (two, maps));
    disturbed(query, [2, 1], &events, &expected);
    disturbed(query, [1, 2], &Events::made(&settings), &expected);
    #[cfg(feature = "rocksdb")]
    {
        let dir = tempfile::tempdir().unwrap();
        let rocks = nexmark_comparison::stores::rocksdb::Rocks::new(dir.path(), Some(16 << 20));
        assert_eq!(undisturbed(query, 2, &rocks, &events, &expected), one);
    }
}

#[test]
fn bids_pass_through() {
    check(Query::PassThrough);
}

#[test]
fn average_prices_of_categories_are_those_of_the_auctions_that_were_won() {
    check(Query::AveragePrices);
}

#[test]
fn hot_items_have_the_most_bids_of_their_window() {
    check(Query::HotItems);
}

#[test]
fn highest_bids_are_those_of_their_window() {
    check(Query::HighestBids);
}

#[test]
fn new_sellers_come_and_sell_in_one_window() {
    check(Query::NewSellers);
}

#[test]
fn sessions_end_after_a_pause() {
    check(Query::Sessions);
}

#[test]
fn last_bids_are_those_of_each_bidder_on_each_auction() {
    check(Query::LastBids);
}

#[test]
fn bids_of_a_category_come_with_their_auctions() {
    check(Query::BidsWithAuctions);
}
