//! The atomics that the hand-over uses, in one place, so that the models in
//! `tests/loom` can compile the same source against loom's.

pub(crate) use std::sync::atomic::{AtomicU32, Ordering};
