//! What the queries say, computed plainly over all events at once.

use std::collections::{BTreeMap, BTreeSet};

use nexmark_comparison::event::{Auction, Bid, Event, Person};
use nexmark_comparison::generate::Settings;
use nexmark_comparison::queries::Query;

const SECOND: i64 = 1_000;

/// All events, and those of them that are in time.
pub(crate) struct Input {
    all: Vec<Event>,
    in_time: Vec<Event>,
}

impl Input {
    pub(crate) fn new(settings: &Settings) -> Self {
        let undisturbed = Settings { late_one_of: None, ..settings.clone() };
        let (mut all, mut in_time) = (Vec::new(), Vec::new());
        for split in 0..settings.splits {
            for (event, plain) in settings.make(split, 0).zip(undisturbed.make(split, 0)) {
                all.push(event);
                if event == plain {
                    in_time.push(event);
                }
            }
        }
        assert_eq!(all.len() as u64, settings.events);
        let late = all.len() - in_time.len();
        assert!(late * 200 > all.len(), "only {late} events are late");
        Self { all, in_time }
    }

    /// The lines that a query says, sorted.
    pub(crate) fn answer(&self, query: Query) -> Vec<String> {
        let mut lines = match query {
            Query::PassThrough => bids(&self.all).map(line).collect(),
            Query::AveragePrices => average_prices(&self.in_time),
            Query::HotItems => hot_items(&self.in_time),
            Query::HighestBids => highest_bids(&self.in_time),
            Query::NewSellers => new_sellers(&self.in_time),
            Query::Sessions => sessions(&self.in_time),
            Query::LastBids => last_bids(&self.all),
            Query::BidsWithAuctions => bids_with_auctions(&self.all),
        };
        lines.sort();
        lines
    }
}

fn bids(events: &[Event]) -> impl Iterator<Item = &Bid> {
    events.iter().filter_map(|event| match event {
        Event::Bid(bid) => Some(bid),
        _ => None,
    })
}

fn auctions(events: &[Event]) -> impl Iterator<Item = &Auction> {
    events.iter().filter_map(|event| match event {
        Event::Auction(auction) => Some(auction),
        _ => None,
    })
}

fn persons(events: &[Event]) -> impl Iterator<Item = &Person> {
    events.iter().filter_map(|event| match event {
        Event::Person(person) => Some(person),
        _ => None,
    })
}

fn line(bid: &Bid) -> String {
    format!("{} {} {} {}", bid.auction, bid.bidder, bid.price, bid.at)
}

fn window(at: i64) -> i64 {
    at / (10 * SECOND) * (10 * SECOND)
}

fn average_prices(events: &[Event]) -> Vec<String> {
    // By category and when it was won.
    let mut won = BTreeMap::<u32, Vec<(i64, u64)>>::new();
    let mut of = BTreeMap::<u64, Vec<&Bid>>::new();
    bids(events).for_each(|bid| of.entry(bid.auction).or_default().push(bid));
    for auction in auctions(events) {
        let counts = |bid: &&&Bid| auction.at <= bid.at && bid.at <= auction.expires;
        let highest = of.get(&auction.id).into_iter().flatten().filter(counts).map(|b| b.price);
        if let Some(price) = highest.max() {
            won.entry(auction.category).or_default().push((auction.expires, price.into()));
        }
    }
    let mut lines = Vec::new();
    for (category, sales) in won {
        let windows: BTreeSet<i64> = sales.iter().map(|(at, _)| window(*at)).collect();
        for begin in windows {
            let end = begin + 10 * SECOND;
            let prices: Vec<u64> =
                sales.iter().filter(|(at, _)| *at < end).map(|(_, price)| *price).collect();
            let average = prices.iter().sum::<u64>() / prices.len() as u64;
            lines.push(format!("{begin} {category} {average}"));
        }
    }
    lines
}

fn hot_items(events: &[Event]) -> Vec<String> {
    let mut windows = BTreeMap::<i64, BTreeMap<u64, u64>>::new();
    for bid in bids(events) {
        // The five even seconds after it.
        let first = bid.at / (2 * SECOND) * (2 * SECOND) + 2 * SECOND;
        for end in (0..5).map(|n| first + n * 2 * SECOND) {
            *windows.entry(end).or_default().entry(bid.auction).or_default() += 1;
        }
    }
    let mut lines = Vec::new();
    for (end, counts) in windows {
        let most = counts.values().max().copied().unwrap_or(0);
        let hottest = counts.iter().filter(|(_, count)| **count == most);
        lines.extend(hottest.map(|(auction, _)| format!("{end} {auction} {most}")));
    }
    lines
}

fn highest_bids(events: &[Event]) -> Vec<String> {
    let mut most = BTreeMap::<i64, u32>::new();
    for bid in bids(events) {
        let most = most.entry(window(bid.at)).or_default();
        *most = bid.price.max(*most);
    }
    bids(events).filter(|bid| bid.price == most[&window(bid.at)]).map(line).collect()
}

fn new_sellers(events: &[Event]) -> Vec<String> {
    let sellers: BTreeSet<(u64, i64)> =
        auctions(events).map(|auction| (auction.seller, window(auction.at))).collect();
    let new = persons(events).filter(|person| sellers.contains(&(person.id, window(person.at))));
    new.map(|person| {
        let name = String::from_utf8(person.name.to_vec()).unwrap();
        format!("{} {} {}", window(person.at), person.id, name.trim_end_matches('\0'))
    })
    .collect()
}

fn sessions(events: &[Event]) -> Vec<String> {
    let mut times = BTreeMap::<u64, Vec<i64>>::new();
    bids(events).for_each(|bid| times.entry(bid.bidder).or_default().push(bid.at));
    let mut lines = Vec::new();
    for (bidder, mut times) in times {
        times.sort_unstable();
        for session in times.chunk_by(|one, next| next - one < 10 * SECOND) {
            let (first, last) = (session[0], session[session.len() - 1]);
            lines.push(format!("{bidder} {first} {} {}", last + 10 * SECOND, session.len()));
        }
    }
    lines
}

fn last_bids(events: &[Event]) -> Vec<String> {
    let mut last = BTreeMap::<(u64, u64), &Bid>::new();
    for bid in bids(events) {
        let before = last.entry((bid.bidder, bid.auction)).or_insert(bid);
        if (bid.at, bid.price) > (before.at, before.price) {
            *before = bid;
        }
    }
    last.into_values().map(line).collect()
}

fn bids_with_auctions(events: &[Event]) -> Vec<String> {
    let of_category: BTreeMap<u64, &Auction> = auctions(events)
        .filter(|auction| auction.category == 10)
        .map(|auction| (auction.id, auction))
        .collect();
    bids(events)
        .filter_map(|bid| {
            let a = of_category.get(&bid.auction)?;
            let (category, initial, reserve) = (a.category, a.initial_bid, a.reserve);
            Some(format!(
                "{} {} {} {} {category} {initial} {reserve}",
                line(bid),
                a.seller,
                a.at,
                a.expires
            ))
        })
        .collect()
}
