//! Query 8, new sellers: who came and began to sell within the same ten seconds.
//!
//! ```sql
//! SELECT DISTINCT person.id, person.name, window FROM
//!   TUMBLE(person, at, INTERVAL '10' SECOND) AS person
//!   JOIN TUMBLE(auction, at, INTERVAL '10' SECOND) AS auction
//!   ON person.id = auction.seller AND person.window = auction.window
//! ```
//!
//! A timer at the end of the window says who was there as both.

use alluvium::{Result, Timers, ValueState};
use alluvium_timely::{Either, Flow, Time};
use timely::dataflow::StreamVec;

use super::{Tumbling, auctions, persons};
use crate::engine::Engine;
use crate::event::{Event, Person};
use crate::record::{Name, records};

const WINDOW: Tumbling = Tumbling { ms: 10_000 };

records! {
    /// Somebody who has come and sells.
    pub struct NewSeller kept by NewSellerCodec as "nexmark.new_seller" {
        /// When the window began.
        pub window: i64,
        /// The person.
        pub id: u64,
        /// What it is called.
        pub name: Name,
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
) -> Result<StreamVec<'scope, Time, NewSeller>> {
    let (persons, auctions) = (persons(events.clone()), auctions(events));
    let by_person = flow.keyed_two(
        "new-sellers",
        persons,
        auctions,
        |person| person.id,
        |auction| auction.seller,
    );
    engine
        .states(by_person, |store| {
            let people: ValueState<u64, Person, i64> = ValueState::register(store, "people")?;
            // How many auctions each has begun.
            let sellers: ValueState<u64, u64, i64> = ValueState::register(store, "sellers")?;
            let ends: Timers<u64, i64> = Timers::event_time(store, "ends")?;
            Ok((people, sellers, ends))
        })?
        .process_with_timers(
            |(.., ends)| ends,
            |(people, sellers, _), context, timer| {
                let (id, window) = (timer.key, timer.namespace);
                let store = context.store();
                let person = people.get_in(store, &id, &window)?;
                people.delete_in(store, &id, &window)?;
                let auctions = sellers.get_in(store, &id, &window)?;
                sellers.delete_in(store, &id, &window)?;
                if let (Some(Person { name, .. }), Some(_)) = (person, auctions) {
                    context.emit(NewSeller { window, id, name });
                }
                Ok(())
            },
            |(people, sellers, ends), context, id, record| {
                let at = match &record {
                    Either::Left(person) => person.at,
                    Either::Right(auction) => auction.at,
                };
                let window = WINDOW.of(at);
                let end = WINDOW.end_of(window);
                if end < context.time() {
                    return Ok(());
                }
                let store = context.store();
                let mut is_new = true;
                match record {
                    Either::Left(person) => people.put_in(store, id, &window, &person)?,
                    Either::Right(_) => sellers.update_in(store, id, &window, |before| {
                        is_new = before.is_none();
                        Some(before.unwrap_or(0) + 1)
                    })?,
                }
                if is_new {
                    ends.register_in(store, id, &window, end)?;
                }
                Ok(())
            },
        )
}
