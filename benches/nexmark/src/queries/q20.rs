//! Query 20, bids with their auctions, of one category.
//!
//! ```sql
//! SELECT bid.*, auction.* FROM bid JOIN auction ON bid.auction = auction.id
//! WHERE auction.category = 10
//! ```
//!
//! The condition is asked before the join, so only auctions of the category are kept. A bid
//! whose auction is not known waits, and since nothing says that its auction will not come,
//! it waits for ever: most of the state is lists of such bids.

use alluvium::{ListState, Result, ValueState};
use alluvium_timely::{Either, Flow, Time};
use timely::dataflow::StreamVec;
use timely::dataflow::operators::vec::Filter;

use super::{auctions, bids};
use crate::engine::Engine;
use crate::event::{Auction, Bid, Event};
use crate::record::records;

/// The category that is asked for.
const CATEGORY: u32 = 10;

records! {
    /// A bid and its auction.
    pub struct Expanded kept by ExpandedCodec as "nexmark.expanded_bid" {
        /// The auction.
        pub auction: u64,
        /// Who bids.
        pub bidder: u64,
        /// How much, in cents.
        pub price: u32,
        /// When.
        pub at: i64,
        /// Who sells.
        pub seller: u64,
        /// When the auction began.
        pub begin: i64,
        /// When it ends.
        pub expires: i64,
        /// What is sold.
        pub category: u32,
        /// Where bids began, in cents.
        pub initial_bid: u32,
        /// What must be bid at least, in cents.
        pub reserve: u32,
    }
}

impl Expanded {
    fn new(bid: &Bid, auction: &Auction) -> Self {
        Self {
            auction: bid.auction,
            bidder: bid.bidder,
            price: bid.price,
            at: bid.at,
            seller: auction.seller,
            begin: auction.at,
            expires: auction.expires,
            category: auction.category,
            initial_bid: auction.initial_bid,
            reserve: auction.reserve,
        }
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
) -> Result<StreamVec<'scope, Time, Expanded>> {
    let bids = bids(events.clone());
    let auctions = auctions(events).filter(|auction| auction.category == CATEGORY);
    let by_auction =
        flow.keyed_two("expanded-bids", auctions, bids, |auction| auction.id, |bid| bid.auction);
    engine
        .states(by_auction, |store| {
            let auctions = ValueState::<u64, Auction>::register(store, "auctions")?;
            let waiting = ListState::<u64, Bid>::register(store, "waiting")?;
            Ok((auctions, waiting))
        })?
        .process(|(auctions, waiting), context, id, record| {
            match record {
                Either::Left(auction) => {
                    auctions.put(context.store(), id, &auction)?;
                    for bid in waiting.get(context.store(), id)? {
                        context.emit(Expanded::new(&bid, &auction));
                    }
                    waiting.clear(context.store(), id)?;
                }
                Either::Right(bid) => match auctions.get(context.store(), id)? {
                    Some(auction) => context.emit(Expanded::new(&bid, &auction)),
                    None => waiting.add(context.store(), id, &bid)?,
                },
            }
            Ok(())
        })
}
