//! Locks, signals, atomics and threads of the code that is model-checked, in
//! one place, so that `tests/loom` can compile the same source against loom's.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::thread;

pub(crate) use parking_lot::{Condvar, Mutex};
