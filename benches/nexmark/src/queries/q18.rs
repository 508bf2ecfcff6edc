//! Query 18, last bids: the last bid of each bidder on each auction.
//!
//! ```sql
//! SELECT auction, bidder, price, at FROM (
//!   SELECT *, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY at DESC) AS n FROM bid
//! ) WHERE n <= 1
//! ```
//!
//! A bid that is the last one takes the one before it back. Of two bids at one time the
//! higher one counts. State grows by a value for each pair that there is, and nothing ever
//! goes.

use alluvium::{Result, ValueState};
use alluvium_timely::{Flow, Time};
use timely::dataflow::StreamVec;

use super::bids;
use crate::engine::Engine;
use crate::event::{Bid, Event};
use crate::record::{Change, records};

records! {
    /// The last bid of a bidder on an auction.
    pub struct Last kept by LastCodec as "nexmark.last_bid" {
        /// When it was.
        pub at: i64,
        /// How much.
        pub price: u32,
    }
}

/// Builds it.
///
/// # Errors
/// What opening the state fails with.
pub fn build<'scope, E: Engine>(
    flow: &Flow<'scope>,
    events: StreamVec<'scope, Time, Event>,
    engine: &E,
) -> Result<StreamVec<'scope, Time, Change<Bid>>> {
    let by_pair = flow.keyed("last-bids", bids(events), |bid| (bid.bidder, bid.auction));
    engine
        .states(by_pair, |store| ValueState::<(u64, u64), Last>::register(store, "last"))?
        .process(|last, context, pair, bid| {
            let new = Last { at: bid.at, price: bid.price };
            let mut before = None;
            let mut is_last = false;
            last.update(context.store(), pair, |there| {
                before = there;
                is_last = there.is_none_or(|there| there < new);
                if is_last { Some(new) } else { there }
            })?;
            if is_last {
                if let Some(Last { at, price }) = before {
                    context.emit(Change { row: Bid { at, price, ..bid }, comes: false });
                }
                context.emit(Change { row: bid, comes: true });
            }
            Ok(())
        })
}
