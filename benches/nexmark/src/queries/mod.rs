//! The queries, as NEXMark has them in Flink and Beam.
//!
//! Each is a function that builds a dataflow on any [`Engine`]. What it says does not
//! depend on how many workers there are, nor on which of two events that happen at one
//! time comes first; so the answers of stores can be compared.
//!
//! **Time.** A record is late if its own time is before the event time of the batch that
//! it came in, which is what its source promised. A query with windows leaves out late
//! records whose window has ended by then. (What of its windows an operator has closed
//! already depends on how far it has come, and would not do.)

pub mod q0;
pub mod q11;
pub mod q18;
pub mod q20;
pub mod q4;
pub mod q5;
pub mod q7;
pub mod q8;

use std::fmt;
use std::str::FromStr;

use alluvium::{Error, Result};
use alluvium_timely::{Flow, Time};
use timely::dataflow::StreamVec;
use timely::dataflow::operators::vec::Map;

use crate::engine::Engine;
use crate::event::{Auction, Bid, Event, Person};
use crate::record::Row;

/// One of the queries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Query {
    /// See [`q0`].
    PassThrough,
    /// See [`q4`].
    AveragePrices,
    /// See [`q5`].
    HotItems,
    /// See [`q7`].
    HighestBids,
    /// See [`q8`].
    NewSellers,
    /// See [`q11`].
    Sessions,
    /// See [`q18`].
    LastBids,
    /// See [`q20`].
    BidsWithAuctions,
}

impl Query {
    /// All that there are.
    pub const ALL: [Self; 8] = [
        Self::PassThrough,
        Self::AveragePrices,
        Self::HotItems,
        Self::HighestBids,
        Self::NewSellers,
        Self::Sessions,
        Self::LastBids,
        Self::BidsWithAuctions,
    ];

    /// Its number in NEXMark.
    pub fn number(self) -> u32 {
        match self {
            Self::PassThrough => 0,
            Self::AveragePrices => 4,
            Self::HotItems => 5,
            Self::HighestBids => 7,
            Self::NewSellers => 8,
            Self::Sessions => 11,
            Self::LastBids => 18,
            Self::BidsWithAuctions => 20,
        }
    }

    /// Builds its dataflow, and gives what it says to `sink`.
    ///
    /// # Errors
    /// What opening its states, or `sink`, fail with.
    pub fn build<'scope, E: Engine>(
        self,
        flow: &Flow<'scope>,
        events: StreamVec<'scope, Time, Event>,
        engine: &E,
        sink: &mut impl Sink<'scope>,
    ) -> Result<()> {
        match self {
            Self::PassThrough => sink.take(flow, q0::build(events)),
            Self::AveragePrices => sink.take(flow, q4::build(flow, events, engine)?),
            Self::HotItems => sink.take(flow, q5::build(flow, events, engine)?),
            Self::HighestBids => sink.take(flow, q7::build(flow, events, engine)?),
            Self::NewSellers => sink.take(flow, q8::build(flow, events, engine)?),
            Self::Sessions => sink.take(flow, q11::build(flow, events, engine)?),
            Self::LastBids => sink.take(flow, q18::build(flow, events, engine)?),
            Self::BidsWithAuctions => sink.take(flow, q20::build(flow, events, engine)?),
        }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q{}", self.number())
    }
}

impl FromStr for Query {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = text.trim_start_matches('q').parse();
        let known = Self::ALL.into_iter().find(|query| Ok(query.number()) == number);
        known.ok_or_else(|| {
            Error::invalid("there is no such query")
                .expected("0, 4, 5, 7, 8, 11, 18 or 20")
                .found(format_args!("{text:?}"))
        })
    }
}

/// Takes what a query says.
pub trait Sink<'scope> {
    /// Takes a stream of rows.
    ///
    /// # Errors
    /// Its own.
    fn take<R: Row>(&mut self, flow: &Flow<'scope>, rows: StreamVec<'scope, Time, R>)
    -> Result<()>;
}

/// Windows that follow each other without a gap, all of one length.
#[derive(Clone, Copy, Debug)]
struct Tumbling {
    ms: i64,
}

impl Tumbling {
    /// The beginning of the window of a time.
    fn of(self, at: i64) -> i64 {
        at - at.rem_euclid(self.ms)
    }

    /// The last time of the window that begins then.
    fn end_of(self, begin: i64) -> i64 {
        begin + self.ms - 1
    }
}

fn bids<'scope>(events: StreamVec<'scope, Time, Event>) -> StreamVec<'scope, Time, Bid> {
    events.flat_map(|event| match event {
        Event::Bid(bid) => Some(bid),
        _ => None,
    })
}

fn auctions<'scope>(events: StreamVec<'scope, Time, Event>) -> StreamVec<'scope, Time, Auction> {
    events.flat_map(|event| match event {
        Event::Auction(auction) => Some(auction),
        _ => None,
    })
}

fn persons<'scope>(events: StreamVec<'scope, Time, Event>) -> StreamVec<'scope, Time, Person> {
    events.flat_map(|event| match event {
        Event::Person(person) => Some(person),
        _ => None,
    })
}
