//! What every `KeyedStore` owes its callers, as claims that any store can be
//! put to.
//!
//! The claims, in [`claims`], are written once, against the calls of the trait
//! and a [`harness::Factory`] that deploys, snapshots and restores a job on any
//! number of shards. They are run here on a plain store of ordered maps, which
//! says that the claims are right, and on the engine. The author of another
//! store implements the two traits of [`harness`] and calls [`run`] with each
//! of [`ROOMS`], or a single claim with a [`harness::Job`].
//!
//! Each claim is lived through several times: in one go, with snapshots, and
//! with restores on the same or another number of shards wherever it pauses. The
//! engine lives through them again with a time to live that is never over, and with
//! one that comes and goes with each restore.

mod claims;
mod engine;
mod harness;
mod living;
mod reference;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::harness::{Claim, Factory, Job, Pause};

/// Rooms of claims that the engine does not serve.
const NOT_SERVED_BY_THE_ENGINE: &[&str] = &[];

/// Claims about one subject.
struct Room {
    name: &'static str,
    claims: &'static [Claim],
}

macro_rules! rooms {
    ($($room:ident)*) => {
        /// All claims there are.
        const ROOMS: &[Room] =
            &[$(Room { name: stringify!($room), claims: claims::$room::CLAIMS }),*];

        rooms!(@on the_reference, &crate::reference::Reference, &[], $($room)*);
        rooms!(@on the_engine, &crate::engine::Engine::warm(crate::living::never),
            crate::NOT_SERVED_BY_THE_ENGINE, $($room)*);
        rooms!(@on the_engine_while_it_reads_its_tables,
            &crate::engine::Engine::cold(crate::living::never),
            crate::NOT_SERVED_BY_THE_ENGINE, $($room)*);
        rooms!(@on the_engine_without_room_in_memory,
            &crate::engine::Engine::evicted(crate::living::never),
            crate::NOT_SERVED_BY_THE_ENGINE, $($room)*);
        rooms!(@on the_engine_without_room_in_memory_while_its_time_to_live_comes_and_goes,
            &crate::engine::Engine::evicted(crate::living::ever_another),
            crate::NOT_SERVED_BY_THE_ENGINE, $($room)*);
        rooms!(@on the_engine_with_a_long_time_to_live,
            &crate::engine::Engine::warm(crate::living::always),
            crate::NOT_SERVED_BY_THE_ENGINE, $($room)*);
        rooms!(@on the_engine_whose_time_to_live_comes_and_goes,
            &crate::engine::Engine::warm(crate::living::ever_another),
            crate::NOT_SERVED_BY_THE_ENGINE, $($room)*);
        rooms!(@on the_engine_whose_time_to_live_comes_and_goes_while_it_reads_its_tables,
            &crate::engine::Engine::cold(crate::living::ever_another),
            crate::NOT_SERVED_BY_THE_ENGINE, $($room)*);
    };
    (@on $store:ident, $factory:expr, $left_out:expr, $($room:ident)*) => {
        mod $store {
            $(
                #[test]
                fn $room() {
                    let left_out: &[&str] = $left_out;
                    if !left_out.contains(&stringify!($room)) {
                        crate::run($factory, crate::room(stringify!($room)));
                    }
                }
            )*
        }
    };
}

rooms! { values states dropped rekeyed lives kinds keys lists maps everything }

fn room(name: &str) -> &'static Room {
    ROOMS.iter().find(|room| room.name == name).expect("the room is one of ROOMS")
}

/// The claims of a room that do not hold, each with the lives in which it does
/// not.
fn broken(factory: &dyn Factory, room: &Room) -> Vec<String> {
    let mut broken = Vec::new();
    for claim in room.claims {
        for pause in Pause::ALL {
            let life = || (claim.run)(&mut Job::new(factory, pause));
            if catch_unwind(AssertUnwindSafe(life)).is_err() {
                broken.push(format!("{}::{} with {pause:?}", room.name, claim.name));
            }
        }
    }
    broken
}

/// Puts a store to the claims of a room.
fn run(factory: &dyn Factory, room: &Room) {
    let broken = broken(factory, room);
    assert!(broken.is_empty(), "claims that do not hold: {broken:#?}");
}

#[test]
fn what_is_left_out_for_the_engine_does_not_hold_there() {
    for name in NOT_SERVED_BY_THE_ENGINE {
        let broken = broken(&engine::Engine::warm(living::never), room(name));
        assert!(!broken.is_empty(), "the engine serves {name}: take it off the list");
    }
}
