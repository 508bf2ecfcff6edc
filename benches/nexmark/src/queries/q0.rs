//! Query 0, pass through: what moving events costs.
//!
//! ```sql
//! SELECT auction, bidder, price, at FROM bid
//! ```

use alluvium_timely::Time;
use timely::dataflow::StreamVec;

use super::bids;
use crate::event::{Bid, Event};

/// Builds it.
pub fn build<'scope>(events: StreamVec<'scope, Time, Event>) -> StreamVec<'scope, Time, Bid> {
    bids(events)
}
