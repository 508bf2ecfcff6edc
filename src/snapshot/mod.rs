//! Snapshots of one shard: capture, upload, publish.
//!
//! [`pipeline`] is the way of the data, [`sink`] where it goes, and
//! [`ticket`] what the caller holds meanwhile.

pub(crate) mod pipeline;
pub(crate) mod sink;
pub(crate) mod ticket;
