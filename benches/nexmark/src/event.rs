//! The events: persons, auctions and bids, with what the queries ask of them.

use nexmark::event::Event as Made;
use serde::{Deserialize, Serialize};

use crate::record::{NAME_BYTES, Name, records};

records! {
    /// Somebody who bids and sells.
    pub struct Person kept by PersonCodec as "nexmark.person" {
        /// Its number.
        pub id: u64,
        /// When it came, in milliseconds.
        pub at: i64,
        /// What it is called.
        pub name: Name,
    }

    /// Something that is sold.
    pub struct Auction kept by AuctionCodec as "nexmark.auction" {
        /// Its number.
        pub id: u64,
        /// Who sells.
        pub seller: u64,
        /// When it began, in milliseconds.
        pub at: i64,
        /// Until when bids count, in milliseconds.
        pub expires: i64,
        /// The kind of what is sold.
        pub category: u32,
        /// Where bids begin, in cents.
        pub initial_bid: u32,
        /// What must be bid at least, in cents.
        pub reserve: u32,
    }

    /// Somebody offers a price.
    pub struct Bid kept by BidCodec as "nexmark.bid" {
        /// For what.
        pub auction: u64,
        /// Who.
        pub bidder: u64,
        /// How much, in cents.
        pub price: u32,
        /// When, in milliseconds.
        pub at: i64,
    }
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// A person comes.
    Person(Person),
    /// An auction begins.
    Auction(Auction),
    /// A bid is made.
    Bid(Bid),
}

impl Event {
    /// When it happens, in milliseconds.
    #[inline]
    pub fn at(&self) -> i64 {
        match self {
            Self::Person(person) => person.at,
            Self::Auction(auction) => auction.at,
            Self::Bid(bid) => bid.at,
        }
    }

    /// The same, at another time.
    #[must_use]
    pub fn moved_to(mut self, time: i64) -> Self {
        match &mut self {
            Self::Person(person) => person.at = time,
            Self::Auction(auction) => auction.at = time,
            Self::Bid(bid) => bid.at = time,
        }
        self
    }
}

/// Prices are below a million dollars, and their sums below what there is room for.
fn cents(price: usize) -> u32 {
    u32::try_from(price).unwrap_or(u32::MAX)
}

impl From<Made> for Event {
    fn from(made: Made) -> Self {
        match made {
            Made::Person(person) => {
                let mut name = [0; NAME_BYTES];
                let bytes = person.name.as_bytes();
                let len = bytes.len().min(NAME_BYTES);
                name[..len].copy_from_slice(&bytes[..len]);
                Self::Person(Person { id: person.id as u64, at: person.date_time as i64, name })
            }
            Made::Auction(auction) => Self::Auction(Auction {
                id: auction.id as u64,
                seller: auction.seller as u64,
                at: auction.date_time as i64,
                expires: auction.expires as i64,
                category: auction.category as u32,
                initial_bid: cents(auction.initial_bid),
                reserve: cents(auction.reserve),
            }),
            Made::Bid(bid) => Self::Bid(Bid {
                auction: bid.auction as u64,
                bidder: bid.bidder as u64,
                price: cents(bid.price),
                at: bid.date_time as i64,
            }),
        }
    }
}
