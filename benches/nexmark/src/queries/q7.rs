//! Query 7, highest bids: the bids with the highest price of each ten seconds.
//!
//! ```sql
//! SELECT auction, bidder, price, at FROM bid
//! JOIN (SELECT MAX(price) AS most, window FROM bid
//!       GROUP BY TUMBLE(at, INTERVAL '10' SECOND)) AS top
//! ON bid.price = top.most AND bid.at IN top.window
//! ```
//!
//! First for each auction, which divides the work, then of all. What is kept is the highest
//! price and the bids that have it, whose list begins anew with each higher one.

use alluvium::{ListState, ReducingState, Result, TimerStore, Timers};
use alluvium_timely::{Context, Flow, Time};
use timely::dataflow::StreamVec;

use super::{Tumbling, bids};
use crate::engine::Engine;
use crate::event::{Bid, Event};

const WINDOW: Tumbling = Tumbling { ms: 10_000 };

/// The highest bids of keys in windows.
struct Highest {
    most: ReducingState<u64, u32, i64>,
    bids: ListState<u64, Bid, i64>,
    ends: Timers<u64, i64>,
}

impl Highest {
    fn register<S: TimerStore>(store: &mut S) -> Result<Self> {
        Ok(Self {
            most: ReducingState::register(store, "most", |one: u32, other| one.max(other))?,
            bids: ListState::register(store, "bids")?,
            ends: Timers::event_time(store, "ends")?,
        })
    }

    fn add<S: TimerStore>(
        &mut self,
        context: &mut Context<'_, S, Bid>,
        key: &u64,
        bid: &Bid,
    ) -> Result<()> {
        let window = WINDOW.of(bid.at);
        let end = WINDOW.end_of(window);
        if end < context.time() {
            return Ok(());
        }
        let store = context.store();
        match self.most.get_in(store, key, &window)? {
            Some(most) if bid.price < most => return Ok(()),
            Some(most) if bid.price == most => return self.bids.add_in(store, key, &window, bid),
            Some(_) => {}
            None => {
                self.ends.register_in(store, key, &window, end)?;
            }
        }
        self.most.add_in(store, key, &window, bid.price)?;
        self.bids.replace_in(store, key, &window, &[*bid])
    }

    fn end<S: TimerStore>(
        &mut self,
        context: &mut Context<'_, S, Bid>,
        key: u64,
        window: i64,
    ) -> Result<()> {
        for bid in self.bids.get_in(context.store(), &key, &window)? {
            context.emit(bid);
        }
        self.most.clear_in(context.store(), &key, &window)?;
        self.bids.clear_in(context.store(), &key, &window)
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
) -> Result<StreamVec<'scope, Time, Bid>> {
    let by_auction = flow.keyed("highest-of-auctions", bids(events), |bid| bid.auction);
    let of_auctions = engine.states(by_auction, Highest::register)?.process_with_timers(
        |highest| &highest.ends,
        |highest, context, timer| highest.end(context, timer.key, timer.namespace),
        |highest, context, auction, bid| highest.add(context, auction, &bid),
    )?;
    let all = flow.keyed("highest", of_auctions, |bid| WINDOW.of(bid.at) as u64);
    engine.states(all, Highest::register)?.process_with_timers(
        |highest| &highest.ends,
        |highest, context, timer| highest.end(context, timer.key, timer.namespace),
        |highest, context, window, bid| highest.add(context, window, &bid),
    )
}
