//! The ticket of a snapshot and the promise at its other end.

use crate::base::{Result, SnapshotId};
use crate::env::executor::Executor;

#[allow(dead_code, reason = "the models do not look at the progress of a snapshot")]
#[path = "../../../src/snapshot/ticket.rs"]
pub mod ticket;

pub use ticket::{SnapshotReport, SnapshotTicket};

/// The promise, for those outside of this module.
pub struct Promise(ticket::Promise);

impl Promise {
    /// A promise and the ticket that follows it.
    pub fn new(executor: &Executor) -> (Self, SnapshotTicket) {
        let (promise, ticket) = ticket::Promise::new(SnapshotId(1), executor.clone());
        (Self(promise), ticket)
    }

    /// Settles it.
    pub fn keep(self, result: Result<SnapshotReport>) {
        self.0.keep(result);
    }
}

impl std::fmt::Debug for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Promise")
    }
}
