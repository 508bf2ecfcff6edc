//! Source files of the engine, compiled against loom's atomics, locks and
//! threads, so that the models in `tests/` run the code that ships.
//!
//! Loom runs a model once for every way in which its threads can interleave
//! and every value that a load may return, and fails it on a data race, a
//! deadlock or a failed assertion. A lost wake-up is a deadlock: the one who
//! waits for it waits for ever.
//!
//! | here | there |
//! | --- | --- |
//! | [`memtable`] | `src/memtable/handoff.rs` |
//! | [`env::executor`] | `src/env/executor.rs`, `src/env/nap.rs` |
//! | [`snapshot::ticket`] | `src/snapshot/ticket.rs` |
//!
//! There is no time in a model. A nap of the executor's threads lasts until
//! somebody ends it, unless the model says that naps end by themselves
//! ([`with_naps_that_end`]).
//!
//! What cannot be compiled here, because it works on raw memory or on files,
//! is modelled by hand in the tests, which say what they stand for.

#![allow(clippy::duplicate_mod, reason = "one file is compiled as it is and broken in two ways")]

pub mod env;
pub mod memtable;
pub mod snapshot;
mod sync;

pub use alluvium::base;

/// What the ticket's report carries. No model looks inside.
pub mod format {
    /// Stands for `src/format/checkpoint.rs`.
    pub mod checkpoint {
        /// A file that is nowhere.
        #[derive(Clone, Debug)]
        pub struct StoredFile;
    }

    /// Stands for `src/format/handle.rs`.
    pub mod handle {
        /// A handle that leads nowhere.
        #[derive(Clone, Debug)]
        pub struct SnapshotHandle;
    }
}

/// Checks a model, all interleavings of it with at most `preemptions` places
/// at which a thread is interrupted that could have gone on.
///
/// # Panics
/// If the model fails.
pub fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

pub use sync::{Gate, with_leaky_waits, with_naps_that_end};
