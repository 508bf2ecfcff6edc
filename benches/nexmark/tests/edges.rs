//! What queries say of a few events on the edges of windows, sessions, auctions and
//! lateness, a millisecond this way and that, worked out by hand: neither a query nor the
//! plain computation is asked what is right.
//!
//! Events are read one at a time, so a record is late if it is before the latest one by more
//! than the bound on disorder, which is nothing unless said.

#![allow(clippy::disallowed_methods, reason = "results are real files")]

use nexmark_comparison::engine::{Alluvium, Engine, Maps};
use nexmark_comparison::event::{Auction, Bid, Event, Person};
use nexmark_comparison::generate::{BEGIN_MS, Events, Settings};
use nexmark_comparison::queries::Query;
use nexmark_comparison::run::{Plan, run};

/// A time on an edge of all windows.
const B: i64 = BEGIN_MS;

fn bid(auction: u64, bidder: u64, price: u32, ms: i64) -> Event {
    Event::Bid(Bid { auction, bidder, price, at: B + ms })
}

fn auction(id: u64, seller: u64, category: u32, ms: i64, expires: i64) -> Event {
    let (at, expires) = (B + ms, B + expires);
    Event::Auction(Auction { id, seller, at, expires, category, initial_bid: 1, reserve: 2 })
}

fn person(id: u64, ms: i64) -> Event {
    let mut name = [0; 16];
    name[0] = b'p';
    Event::Person(Person { id, at: B + ms, name })
}

/// Without disorder.
fn in_order() -> Settings {
    Settings { disorder: 1, edge_ms: None, late_one_of: None, ..Settings::default() }
}

/// The lines that a query says of these events, those taken back left out; the same on two
/// stores and on one and two workers.
fn said(query: Query, settings: &Settings, events: &[Event]) -> Vec<String> {
    let of_shards = [1, 2].map(|workers| said_by(query, settings, events, workers, &Alluvium));
    let of_maps = said_by(query, settings, events, 1, &Maps);
    assert_eq!(of_shards[0], of_shards[1], "{query} on one worker and two");
    assert_eq!(of_shards[0], of_maps, "{query} on two stores");
    of_maps
}

fn said_by<E: Engine>(
    query: Query,
    settings: &Settings,
    events: &[Event],
    workers: usize,
    engine: &E,
) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let plan = Plan {
        query,
        workers,
        interval_ms: None,
        memory_budget_bytes: None,
        batch_records: 1,
        out: Some(dir.join("out")),
    };
    let events = Events::given(settings, vec![events.to_vec()]);
    run(&plan, &events, engine, dir, |_| {}).unwrap();
    let mut lines = Vec::new();
    for file in std::fs::read_dir(dir.join("out")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    let back: Vec<_> =
        lines.iter().filter_map(|line| line.strip_prefix("- ")).map(str::to_owned).collect();
    lines.retain(|line| !line.starts_with("- "));
    lines.iter_mut().for_each(|line| *line = line.trim_start_matches("+ ").to_owned());
    for line in back {
        let at = lines.iter().position(|other| *other == line).expect("a row goes that came");
        lines.swap_remove(at);
    }
    // Times as they are written above.
    let shorter = |word: &str| match word.parse::<i64>() {
        Ok(at) if at >= B - 100_000 => (at - B).to_string(),
        _ => word.to_owned(),
    };
    for line in &mut lines {
        *line = line.split(' ').map(shorter).collect::<Vec<_>>().join(" ");
    }
    lines.sort();
    lines
}

#[track_caller]
fn check(query: Query, settings: &Settings, events: &[Event], expected: &[&str]) {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(said(query, settings, events), expected, "{query}");
}

#[test]
fn hot_items_are_counted_in_five_slices_of_two_seconds() {
    let events = [
        bid(1, 0, 1, 0),
        bid(1, 0, 1, 1_999),
        // Its slice ends now, and takes it.
        bid(4, 0, 1, 5),
        bid(4, 0, 1, 6),
        bid(2, 0, 1, 2_000),
        // The slice is over. Or it would be as hot as the second.
        bid(4, 0, 1, 7),
        bid(2, 0, 1, 2_000),
        bid(2, 0, 1, 3_999),
        bid(3, 0, 1, 9_999),
        bid(5, 0, 1, 40_000),
    ];
    let expected = [
        "2000 1 2",
        "2000 4 2",
        "4000 2 3",
        "6000 2 3",
        "8000 2 3",
        "10000 2 3",
        // Without the first slice, and then without the second.
        "12000 2 3",
        "14000 3 1",
        "16000 3 1",
        "18000 3 1",
        "42000 5 1",
        "44000 5 1",
        "46000 5 1",
        "48000 5 1",
        "50000 5 1",
    ];
    check(Query::HotItems, &in_order(), &events, &expected);
}

#[test]
fn highest_bids_are_those_of_ten_seconds_from_their_begin_to_before_their_end() {
    let events = [
        // Of the window before: it would be the highest of the next.
        bid(9, 9, 50, -1),
        bid(1, 1, 10, 0),
        bid(2, 3, 9, 9_999),
        bid(1, 2, 10, 9_999),
        // The window's last time has come, and is not over.
        bid(6, 6, 10, 5),
        // It would be the highest of the window before.
        bid(2, 4, 15, 10_000),
        // That is over.
        bid(7, 7, 99, 9_999),
        bid(3, 5, 20, 19_999),
        // It would be the highest there, too.
        bid(3, 6, 30, 20_000),
        bid(3, 6, 1, 29_999),
    ];
    let expected =
        ["9 9 50 -1", "1 1 10 0", "1 2 10 9999", "6 6 10 5", "3 5 20 19999", "3 6 30 20000"];
    check(Query::HighestBids, &in_order(), &events, &expected);
}

#[test]
fn new_sellers_come_and_sell_between_two_edges() {
    let events = [
        person(1, 0),
        person(4, 1),
        person(5, 2),
        auction(10, 1, 0, 9_999, 90_000),
        person(2, 9_999),
        // The window's last time has come, and is not over.
        auction(11, 4, 0, 9_998, 90_000),
        auction(12, 2, 0, 10_000, 90_000),
        // That is over.
        auction(13, 5, 0, 9_999, 90_000),
        person(3, 10_000),
        auction(14, 3, 0, 19_999, 90_000),
        person(6, 19_999),
        auction(15, 6, 0, 20_000, 90_000),
    ];
    check(Query::NewSellers, &in_order(), &events, &["0 1 p", "0 4 p", "10000 3 p"]);
}

#[test]
fn sessions_end_after_ten_seconds_and_not_a_millisecond_before() {
    let events = [
        bid(0, 1, 1, 0),
        bid(0, 2, 1, 0),
        bid(0, 7, 1, 0),
        bid(0, 8, 1, 9_999),
        // It joins what ends next.
        bid(0, 1, 1, 9_999),
        bid(0, 8, 1, 10_000),
        // It does not join what has just ended.
        bid(0, 2, 1, 10_000),
        // A millisecond before what was promised: late.
        bid(0, 7, 1, 9_999),
    ];
    let expected =
        ["1 0 19999 2", "2 0 10000 1", "2 10000 20000 1", "7 0 10000 1", "8 9999 20000 2"];
    check(Query::Sessions, &in_order(), &events, &expected);
}

#[test]
fn sessions_are_joined_by_a_bid_that_touches_both() {
    // A second for each event, and groups of twenty: 20,001 ms.
    let settings = Settings { disorder: 20, rate: 1, ..in_order() };
    assert_eq!(settings.out_of_orderness_ms(), 20_001);
    let events = [
        bid(0, 3, 1, 0),
        bid(0, 3, 1, 19_998),
        bid(0, 3, 1, 9_999),
        bid(0, 4, 1, 0),
        bid(0, 4, 1, 20_000),
        // Too far from the one and from the other.
        bid(0, 4, 1, 10_000),
        // Event time is 20,000 now.
        bid(0, 9, 1, 40_001),
        bid(0, 5, 1, 20_000),
        bid(0, 6, 1, 19_999),
    ];
    let expected = [
        "3 0 29998 3",
        "4 0 10000 1",
        "4 10000 20000 1",
        "4 20000 30000 1",
        "9 40001 50001 1",
        "5 20000 30000 1",
    ];
    check(Query::Sessions, &settings, &events, &expected);
}

#[test]
fn an_auction_is_won_by_a_bid_from_its_begin_to_its_end() {
    let events = [
        auction(1, 0, 10, 0, 5_000),
        bid(1, 0, 7, 0),
        // The auction is not there, and begins later.
        bid(2, 0, 50, 99),
        auction(2, 0, 11, 100, 9_999),
        bid(2, 0, 3, 100),
        auction(3, 0, 11, 200, 10_000),
        bid(3, 0, 5, 201),
        bid(8, 0, 1, 998),
        // The auction is not there, and begins just now; it waits no longer.
        bid(4, 0, 8, 999),
        auction(4, 0, 12, 999, 20_000),
        // One waits no longer, and another does.
        bid(8, 0, 6, 1_000),
        bid(1, 0, 1, 1_000),
        bid(1, 0, 1, 1_000),
        bid(1, 0, 1, 1_000),
        bid(1, 0, 1, 1_000),
        auction(8, 0, 14, 1_000, 2_000),
        bid(1, 0, 1, 1_999),
        // It begins to wait in the last moment.
        bid(7, 0, 9, 1_999),
        bid(1, 0, 9, 5_000),
        bid(1, 0, 99, 5_001),
        // Late, for any auction.
        bid(2, 0, 60, 5_000),
        // In time, as long as event time has not passed it.
        bid(2, 0, 4, 5_001),
        // Late itself, and no auction.
        auction(6, 0, 13, 5_000, 9_000),
        bid(6, 0, 9, 5_002),
    ];
    let expected = ["0 10 9", "0 11 4", "10000 11 4", "20000 12 8", "0 14 6"];
    check(Query::AveragePrices, &in_order(), &events, &expected);
}

#[test]
fn the_last_bid_is_the_latest_and_the_higher_of_two_at_one_time() {
    let events = [
        bid(1, 1, 5, 10),
        bid(1, 1, 7, 10),
        bid(1, 1, 6, 10),
        bid(1, 1, 9, 9),
        bid(1, 2, 9, 10),
        bid(1, 2, 1, 11),
        bid(2, 1, 2, 0),
    ];
    check(Query::LastBids, &in_order(), &events, &["1 1 7 10", "1 2 1 11", "2 1 2 0"]);
}

#[test]
fn bids_come_with_auctions_of_the_category_whichever_is_first() {
    let events = [
        bid(1, 1, 5, 0),
        auction(1, 8, 10, 1, 9),
        bid(1, 2, 6, 2),
        auction(2, 8, 9, 3, 9),
        auction(3, 8, 11, 3, 9),
        bid(2, 1, 1, 4),
        bid(3, 1, 1, 4),
    ];
    let expected = ["1 1 5 0 8 1 9 10 1 2", "1 2 6 2 8 1 9 10 1 2"];
    check(Query::BidsWithAuctions, &in_order(), &events, &expected);
}
