//! Query 11, sessions: how many bids somebody made without a pause of ten seconds.
//!
//! ```sql
//! SELECT bidder, COUNT(*), SESSION_START(...), SESSION_END(...) FROM bid
//! GROUP BY bidder, SESSION(at, INTERVAL '10' SECOND)
//! ```
//!
//! A session ends ten seconds after its last bid, and a bid that comes between two joins
//! them. The sessions of a bidder are a map by their beginnings, which hardly ever has more
//! than one entry. There is one timer for a session: if it has become longer when that
//! fires, the next one is set. A bid is late if its time is before what its source
//! promised: the session that it belongs to may be over.

use std::ops::{Bound, ControlFlow};

use alluvium::{MapState, Result, Timers};
use alluvium_timely::{Flow, Time};
use timely::dataflow::StreamVec;

use super::bids;
use crate::engine::Engine;
use crate::event::Event;
use crate::record::records;

/// The pause that ends a session, in milliseconds.
const GAP_MS: i64 = 10_000;

records! {
    /// A session that is not over, by its beginning.
    pub struct Open kept by OpenCodec as "nexmark.open_session" {
        /// When it ends, if nothing comes: the first time that is not in it.
        pub end: i64,
        /// How many bids it has.
        pub bids: u64,
    }

    /// A session.
    pub struct Session kept by SessionCodec as "nexmark.session" {
        /// Whose.
        pub bidder: u64,
        /// When it began.
        pub begin: i64,
        /// When it ended: the first time that is not in it.
        pub end: i64,
        /// How many bids it had.
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
) -> Result<StreamVec<'scope, Time, Session>> {
    let by_bidder = flow.keyed("sessions", bids(events), |bid| bid.bidder);
    engine
        .states(by_bidder, |store| {
            let open: MapState<u64, i64, Open> = MapState::register(store, "open")?;
            let ends: Timers<u64, i64> = Timers::event_time(store, "ends")?;
            Ok((open, ends))
        })?
        .process_with_timers(
            |(_, ends)| ends,
            |(open, ends), context, timer| {
                let (bidder, begin) = (timer.key, timer.namespace);
                // It may have been joined with an earlier one, which has a timer of its own.
                let Some(session) = open.get(context.store(), &bidder, &begin)? else {
                    return Ok(());
                };
                let Open { end, bids } = session;
                if end - 1 > timer.timestamp {
                    ends.register_in(context.store(), &bidder, &begin, end - 1)?;
                } else {
                    open.remove(context.store(), &bidder, &begin)?;
                    context.emit(Session { bidder, begin, end, bids });
                }
                Ok(())
            },
            |(open, ends), context, bidder, bid| {
                if bid.at < context.time() {
                    return Ok(());
                }
                let store = context.store();
                let alone = Open { end: bid.at + GAP_MS, bids: 1 };
                let (mut begin, mut session) = (bid.at, alone);
                // In the order of their beginnings: those that it touches follow each other.
                let mut joined = [None; 2];
                open.scan(store, bidder, Bound::Unbounded, |from, other| {
                    if from >= alone.end {
                        return ControlFlow::Break(());
                    }
                    if other.end > bid.at {
                        let place = usize::from(joined[0].is_some());
                        joined[place] = Some(from);
                        begin = begin.min(from);
                        session.end = session.end.max(other.end);
                        session.bids += other.bids;
                    }
                    ControlFlow::Continue(())
                })?;
                let mut has_timer = false;
                for from in joined.into_iter().flatten() {
                    if from == begin {
                        has_timer = true;
                    } else {
                        open.remove(store, bidder, &from)?;
                    }
                }
                open.put(store, bidder, &begin, &session)?;
                if !has_timer {
                    ends.register_in(store, bidder, &begin, session.end - 1)?;
                }
                Ok(())
            },
        )
}
