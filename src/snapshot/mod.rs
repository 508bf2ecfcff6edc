//! Snapshots of one shard: capture, upload, publish.
//!
//! [`pipeline`] is the way of the data, [`sink`] where it goes, [`ticket`] what the
//! caller holds meanwhile, and [`views`] what a shard with a memory budget sees of it.

pub(crate) mod pipeline;
pub(crate) mod sink;
pub(crate) mod ticket;
pub(crate) mod views;
