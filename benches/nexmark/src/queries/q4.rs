//! Query 4, average prices: how much is paid on the average in each category.
//!
//! ```sql
//! SELECT category, AVG(final) FROM (
//!   SELECT MAX(bid.price) AS final, auction.category FROM auction JOIN bid
//!   ON auction.id = bid.auction AND bid.at BETWEEN auction.at AND auction.expires
//!   GROUP BY auction.id, auction.category
//! ) GROUP BY category
//! ```
//!
//! An auction closes when event time has passed its end, and has been won by the highest
//! bid if there was one. The averages of all auctions so far are said at the end of each
//! ten seconds in which an auction of the category has closed.
//!
//! A bid may come before its auction, from another split: it waits until event time has
//! passed the bid, since by then the auction has come, or began after it, or is over. One
//! timer for each second lets go of all bids on an auction that have waited in vain.

use alluvium::{ListState, ReducingState, Result, TimerStore, Timers, ValueState};
use alluvium_timely::{Context, Either, Flow, Time};
use timely::dataflow::StreamVec;

use super::{Tumbling, auctions, bids};
use crate::engine::Engine;
use crate::event::{Auction, Bid, Event};
use crate::record::records;

const WINDOW: Tumbling = Tumbling { ms: 10_000 };
/// At whose ends bids stop waiting.
const WAIT: Tumbling = Tumbling { ms: 1_000 };

records! {
    /// An open auction.
    pub struct Open kept by OpenCodec as "nexmark.open_auction" {
        /// When it began.
        pub at: i64,
        /// When it ends.
        pub expires: i64,
        /// What is sold.
        pub category: u32,
        /// The highest bid, and 0 if there is none: nobody bids nothing.
        pub highest: u32,
    }

    /// An auction was won.
    pub struct Won kept by WonCodec as "nexmark.won_auction" {
        /// What was sold.
        pub category: u64,
        /// For how much.
        pub price: u64,
    }

    /// Prices of several auctions.
    pub struct Sum kept by SumCodec as "nexmark.sum_of_prices" {
        /// How many auctions.
        pub auctions: u64,
        /// What was paid in all, in cents.
        pub paid: u64,
    }

    /// What is paid on the average.
    pub struct Average kept by AverageCodec as "nexmark.average_price" {
        /// The window at whose end it is so.
        pub window: i64,
        /// For what.
        pub category: u64,
        /// How much, in cents.
        pub price: u64,
    }
}

impl Open {
    /// Lets a bid count, if it comes in its time.
    fn hear(&mut self, bid: &Bid) {
        if (self.at..=self.expires).contains(&bid.at) {
            self.highest = self.highest.max(bid.price);
        }
    }
}

/// Why an auction waits for event time.
mod waits {
    /// It is open.
    pub(super) const OPEN: u32 = 0;
    /// It is not there, and bids wait for it.
    pub(super) const ABSENT: u32 = 1;
}

struct Auctions {
    open: ValueState<u64, Open>,
    waiting: ListState<u64, Bid>,
    times: Timers<u64, u32>,
}

impl Auctions {
    fn register<S: TimerStore>(store: &mut S) -> Result<Self> {
        Ok(Self {
            open: ValueState::register(store, "open")?,
            waiting: ListState::register(store, "waiting")?,
            times: Timers::event_time(store, "times")?,
        })
    }

    fn auction<S: TimerStore>(
        &self,
        context: &mut Context<'_, S, Won>,
        auction: &Auction,
    ) -> Result<()> {
        let Auction { id, at, expires, category, .. } = *auction;
        let store = context.store();
        let mut open = Open { at, expires, category, highest: 0 };
        self.waiting.get(store, &id)?.iter().for_each(|bid| open.hear(bid));
        self.waiting.clear(store, &id)?;
        self.open.put(store, &id, &open)?;
        self.times.register_in(store, &id, &waits::OPEN, expires)?;
        Ok(())
    }

    fn bid<S: TimerStore>(&self, context: &mut Context<'_, S, Won>, bid: &Bid) -> Result<()> {
        let store = context.store();
        let mut is_open = false;
        self.open.update(store, &bid.auction, |open| {
            let mut open = open?;
            is_open = true;
            open.hear(bid);
            Some(open)
        })?;
        if !is_open {
            self.waiting.add(store, &bid.auction, bid)?;
            let end = WAIT.end_of(WAIT.of(bid.at));
            self.times.register_in(store, &bid.auction, &waits::ABSENT, end)?;
        }
        Ok(())
    }

    /// The time of an auction is over, or that of bids that waited for one.
    fn pass<S: TimerStore>(
        &self,
        context: &mut Context<'_, S, Won>,
        id: u64,
        what: u32,
        now: i64,
    ) -> Result<()> {
        let store = context.store();
        if what == waits::ABSENT {
            let mut waiting = self.waiting.get(store, &id)?;
            waiting.retain(|bid| bid.at > now);
            return self.waiting.replace(store, &id, &waiting);
        }
        if let Some(Open { category, highest, .. }) = self.open.get(store, &id)? {
            self.open.delete(store, &id)?;
            if highest > 0 {
                context.emit(Won { category: category.into(), price: highest.into() });
            }
        }
        Ok(())
    }
}

/// Builds it.
///
/// # Errors
/// What opening the states fails with.
pub fn build<'scope, E: Engine>(
    flow: &Flow<'scope>,
    events: StreamVec<'scope, Time, Event>,
    engine: &E,
) -> Result<StreamVec<'scope, Time, Average>> {
    let (bids, auctions) = (bids(events.clone()), auctions(events));
    let by_auction =
        flow.keyed_two("auctions", auctions, bids, |auction| auction.id, |bid| bid.auction);
    let won = engine.states(by_auction, Auctions::register)?.process_with_timers(
        |auctions| &auctions.times,
        |auctions, context, timer| {
            auctions.pass(context, timer.key, timer.namespace, timer.timestamp)
        },
        |auctions, context, _, record| match record {
            Either::Left(auction) if auction.at >= context.time() => {
                auctions.auction(context, &auction)
            }
            Either::Right(bid) if bid.at >= context.time() => auctions.bid(context, &bid),
            // Late.
            _ => Ok(()),
        },
    )?;

    let by_category = flow.keyed("categories", won, |won| won.category);
    engine
        .states(by_category, |store| {
            let reduce = |one: Sum, other: Sum| Sum {
                auctions: one.auctions + other.auctions,
                paid: one.paid + other.paid,
            };
            let all: ReducingState<u64, Sum> = ReducingState::register(store, "all", reduce)?;
            let closed: ReducingState<u64, Sum, i64> =
                ReducingState::register(store, "closed", reduce)?;
            let ends: Timers<u64, i64> = Timers::event_time(store, "ends")?;
            Ok((all, closed, ends))
        })?
        .process_with_timers(
            |(.., ends)| ends,
            |(all, closed, _), context, timer| {
                let (category, window) = (timer.key, timer.namespace);
                let store = context.store();
                let Some(now) = closed.get_in(store, &category, &window)? else { return Ok(()) };
                closed.clear_in(store, &category, &window)?;
                all.add(store, &category, now)?;
                if let Some(Sum { auctions, paid }) = all.get(store, &category)? {
                    context.emit(Average { window, category, price: paid / auctions });
                }
                Ok(())
            },
            |(_, closed, ends), context, category, won| {
                // It was won when its time was over, which is the time of its record.
                let window = WINDOW.of(context.time());
                let store = context.store();
                closed.add_in(store, category, &window, Sum { auctions: 1, paid: won.price })?;
                ends.register_in(store, category, &window, WINDOW.end_of(window))?;
                Ok(())
            },
        )
}
