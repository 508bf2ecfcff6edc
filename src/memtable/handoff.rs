//! The hand-over of frozen epochs from the extractor back to the writer.
//!
//! The writer may change a record in place if no extractor will read it any
//! more. It knows from the record's epoch: of the current epoch, nobody reads
//! it; of an epoch that has been extracted, nobody reads it any more. What is
//! in between is frozen, and is copied before it is changed.
//!
//! One number crosses the threads: the last extracted epoch. The extractor
//! stores it with release when it has read its last byte; the writer loads it
//! with acquire before it writes its first. `tests/loom` compiles this very
//! file against loom's atomics and checks every interleaving.

use super::sync::{AtomicU32, Ordering};

/// The last epoch whose records have all been copied out of the arena.
#[derive(Debug)]
pub(crate) struct Handoff {
    extracted: AtomicU32,
}

impl Handoff {
    /// Everything up to `epoch` counts as extracted.
    pub(crate) fn new(epoch: u32) -> Self {
        Self { extracted: AtomicU32::new(epoch) }
    }

    /// The extractor has read the last record of `epoch`.
    ///
    /// # Panics
    /// If epochs are published out of order: a later epoch would release
    /// records of an earlier one that are still to be read.
    pub(crate) fn publish(&self, epoch: u32) {
        let before = self.extracted.load(Ordering::Relaxed);
        assert_eq!(before.wrapping_add(1), epoch, "epochs are extracted one after the other");
        self.extracted.store(epoch, Ordering::Release);
    }

    /// The last extracted epoch. Records up to it may be written again.
    pub(crate) fn extracted(&self) -> u32 {
        self.extracted.load(Ordering::Acquire)
    }
}
