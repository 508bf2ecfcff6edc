//! Query 5, hot items: the auctions with the most bids in the last ten seconds, every two.
//!
//! ```sql
//! SELECT auction, num FROM (
//!   SELECT auction, COUNT(*) AS num, window FROM bid
//!   GROUP BY auction, HOP(at, INTERVAL '2' SECOND, INTERVAL '10' SECOND)
//! ) GROUP BY window HAVING num >= ALL (...)
//! ```
//!
//! Bids are counted once, in slices of two seconds, of which a window has five. A timer at
//! the end of a slice adds five slices up, drops the oldest, and sets the next timer if
//! anything is left. A bid that comes after its slice has ended is late.

use alluvium::{ListState, Result, Timers, ValueState};
use alluvium_timely::{Flow, Time};
use timely::dataflow::StreamVec;

use super::{Tumbling, bids};
use crate::engine::Engine;
use crate::event::Event;
use crate::record::records;

const SLICE: Tumbling = Tumbling { ms: 2_000 };
/// How many slices a window has.
const SLICES: i64 = 5;

records! {
    /// How many bids an auction had in a window.
    pub struct Count kept by CountCodec as "nexmark.count_of_bids" {
        /// When the window ends: the first time that is not in it.
        pub end: i64,
        /// For what.
        pub auction: u64,
        /// How many.
        pub bids: u64,
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
) -> Result<StreamVec<'scope, Time, Count>> {
    let by_auction = flow.keyed("counts", bids(events), |bid| bid.auction);
    let counts = engine
        .states(by_auction, |store| {
            // By the beginning of the slice.
            let slices: ValueState<u64, u64, i64> = ValueState::register(store, "slices")?;
            let ends: Timers<u64> = Timers::event_time(store, "ends")?;
            Ok((slices, ends))
        })?
        .process_with_timers(
            |(_, ends)| ends,
            |(slices, ends), context, timer| {
                let (auction, end) = (timer.key, timer.timestamp + 1);
                let store = context.store();
                let (mut bids, mut is_left) = (0, false);
                for back in 1..=SLICES {
                    let slice = end - back * SLICE.ms;
                    let Some(count) = slices.get_in(store, &auction, &slice)? else { continue };
                    bids += count;
                    if back == SLICES {
                        slices.delete_in(store, &auction, &slice)?;
                    } else {
                        is_left = true;
                    }
                }
                if is_left {
                    ends.register(store, &auction, timer.timestamp + SLICE.ms)?;
                }
                if bids > 0 {
                    context.emit(Count { end, auction, bids });
                }
                Ok(())
            },
            |(slices, ends), context, auction, bid| {
                let slice = SLICE.of(bid.at);
                let end = SLICE.end_of(slice);
                if end < context.time() {
                    return Ok(());
                }
                let mut is_new = false;
                slices.update_in(context.store(), auction, &slice, |count| {
                    is_new = count.is_none();
                    Some(count.unwrap_or(0) + 1)
                })?;
                if is_new {
                    ends.register(context.store(), auction, end)?;
                }
                Ok(())
            },
        )?;

    let by_window = flow.keyed("hottest", counts, |count| count.end);
    engine
        .states(by_window, |store| {
            let most: ValueState<i64, u64> = ValueState::register(store, "most")?;
            let auctions: ListState<i64, u64> = ListState::register(store, "auctions")?;
            let ends: Timers<i64> = Timers::event_time(store, "ends")?;
            Ok((most, auctions, ends))
        })?
        .process_with_timers(
            |(.., ends)| ends,
            |(most, auctions, _), context, timer| {
                let end = timer.key;
                let bids = most.get(context.store(), &end)?.unwrap_or(0);
                for auction in auctions.get(context.store(), &end)? {
                    context.emit(Count { end, auction, bids });
                }
                most.delete(context.store(), &end)?;
                auctions.clear(context.store(), &end)
            },
            |(most, auctions, ends), context, end, Count { auction, bids, .. }| {
                let store = context.store();
                let before = most.get(store, end)?;
                if before.is_none() {
                    ends.register(store, end, end - 1)?;
                }
                if before.is_none_or(|before| bids > before) {
                    most.put(store, end, &bids)?;
                    auctions.replace(store, end, &[auction])?;
                } else if before == Some(bids) {
                    auctions.add(store, end, &auction)?;
                }
                Ok(())
            },
        )
}
