//! NEXMark on timely dataflow, with state in Alluvium, in hash maps and in RocksDB.
//!
//! An auction house: people come, sell and bid. [`generate`] makes the events, each of
//! [`queries`] is a dataflow of operators that know no store, [`engine`] says what they
//! keep their state in, and [`run`] runs one and measures it.

#![allow(
    clippy::disallowed_methods,
    reason = "a measurement reads the real clock and works on real files"
)]

pub mod engine;
pub mod event;
pub mod generate;
pub mod queries;
pub mod record;
pub mod run;
pub mod stores;
