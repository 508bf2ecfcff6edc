//! Locks, signals, queues, atomics and threads of the code that is
//! model-checked, in one place, so that `tests/loom` can compile the same
//! source against loom's.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use std::thread;

/// A queue without locks, of any length. What a push hands over is seen by the
/// pop that takes it; nothing more is promised about who sees what when.
pub(crate) use crossbeam_queue::SegQueue as Queue;
pub(crate) use parking_lot::{Condvar, Mutex};
