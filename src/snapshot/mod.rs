//! Snapshots of one shard: capture, upload, publish.
//!
//! [`pipeline`] is the way of the data, [`sink`] where it goes, [`ticket`] what the
//! caller holds meanwhile, and [`views`] what a shard with a memory budget sees of it.
//! [`local`] decides which tables lie in the local directory, [`stores`] opens them where
//! they lie.

pub(crate) mod local;
pub(crate) mod pipeline;
pub(crate) mod sink;
pub(crate) mod stores;
pub(crate) mod ticket;
pub(crate) mod views;
