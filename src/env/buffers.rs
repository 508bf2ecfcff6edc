//! Large buffers that come round: a snapshot's copies are written into the memory
//! that an earlier snapshot's lay in.
//!
//! A fresh page has to be zeroed by the kernel, and on a virtual machine often to
//! be found by the host first. For a copy that should run at the speed of memory
//! that is most of the time: copying a million records of 132 bytes took 100 to
//! 130 ms into fresh small pages, 30 to 500 ms into fresh huge ones, and 30 to 40
//! into huge ones that were in use before.
//!
//! What nobody asks for goes back to the system after some seconds, so that it is
//! kept by jobs that take snapshots in quick succession and by no others.

use std::fmt;
use std::io;
use std::sync::Arc;

use crossbeam::queue::SegQueue;

use super::ledger::{Charge, MemoryComponent, MemoryLedger};
use super::mmap::{HUGE_PAGE_BYTES, PageBuf};
use super::sync::{AtomicU64, Ordering};

/// Bytes of a buffer that comes round, unless memory is short.
pub const BUFFER_BYTES: usize = HUGE_PAGE_BYTES;
/// Looks that find nothing taken until spare buffers are given up: some ten
/// seconds of looks by a thread that naps as long as it may.
const CALM_LOOKS: u64 = 128;
/// Buffers that one look gives up, so that unmapping them holds up no other
/// mapping for long.
const GIVEN_UP_AT_ONCE: usize = 8;

/// Spare buffers of one size; one pool per backend, shared by its shards.
pub struct BufferPool {
    spare: SegQueue<(PageBuf, Charge)>,
    buffer_bytes: usize,
    most_spare: usize,
    ledger: Arc<MemoryLedger>,
    taken: AtomicU64,
    /// What was taken at the last look that found something taken.
    seen: AtomicU64,
    calm_looks: AtomicU64,
}

impl BufferPool {
    /// An empty pool that keeps up to `most_spare` buffers, which are charged.
    pub fn new(most_spare: usize, ledger: Arc<MemoryLedger>) -> Self {
        Self::of_bytes(BUFFER_BYTES, most_spare, ledger)
    }

    /// The same with buffers of so many bytes.
    pub fn of_bytes(buffer_bytes: usize, most_spare: usize, ledger: Arc<MemoryLedger>) -> Self {
        Self {
            spare: SegQueue::new(),
            buffer_bytes,
            most_spare,
            ledger,
            taken: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            calm_looks: AtomicU64::new(0),
        }
    }

    /// A buffer of at least `bytes`, with whatever in it; usually a spare one. Who
    /// needs more than one has gets one made to measure.
    ///
    /// # Errors
    /// The system's, when it has no memory to give.
    pub fn take(&self, bytes: usize) -> io::Result<PageBuf> {
        if bytes > self.buffer_bytes {
            return PageBuf::new(bytes);
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        let spare = self.spare.pop().map(|(buffer, _)| buffer);
        spare.map_or_else(|| PageBuf::new(self.buffer_bytes), Ok)
    }

    /// Takes a buffer back, to be taken again.
    pub fn give_back(&self, buffer: PageBuf) {
        if buffer.len() == self.buffer_bytes && self.spare.len() < self.most_spare {
            let bytes = self.buffer_bytes as u64;
            let charge = self.ledger.charge(MemoryComponent::SpareBuffers, bytes);
            self.spare.push((buffer, charge));
        }
    }

    /// Bytes of spare buffers: real memory, to be counted in a budget.
    pub fn spare_bytes(&self) -> usize {
        self.spare.len() * self.buffer_bytes
    }

    /// One look of the background: gives up some spare buffers if none was taken
    /// for long. Says whether it did.
    pub fn look(&self) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        if self.seen.swap(taken, Ordering::Relaxed) != taken {
            self.calm_looks.store(0, Ordering::Relaxed);
        }
        if self.calm_looks.fetch_add(1, Ordering::Relaxed) < CALM_LOOKS {
            return false;
        }
        (0..GIVEN_UP_AT_ONCE).map_while(|_| self.spare.pop()).count() > 0
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("spare", &self.spare.len())
            .field("most_spare", &self.most_spare)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_round_as_it_was_left() {
        let pool = BufferPool::new(1, MemoryLedger::new());
        let mut buffer = pool.take(100).unwrap();
        assert_eq!(buffer.len(), BUFFER_BYTES);
        buffer[7] = 7;
        pool.give_back(buffer);
        assert_eq!(pool.spare_bytes(), BUFFER_BYTES);
        assert_eq!(pool.take(100).unwrap()[7], 7);
        assert_eq!(pool.spare_bytes(), 0);
    }

    #[test]
    fn no_more_is_kept_than_was_said_and_nothing_of_an_odd_size() {
        let pool = BufferPool::new(1, MemoryLedger::new());
        let odd = pool.take(BUFFER_BYTES + 1).unwrap();
        assert_eq!(odd.len(), BUFFER_BYTES + 1);
        pool.give_back(odd);
        assert_eq!(pool.spare_bytes(), 0);
        let two = [pool.take(1).unwrap(), pool.take(1).unwrap()];
        two.into_iter().for_each(|buffer| pool.give_back(buffer));
        assert_eq!(pool.spare_bytes(), BUFFER_BYTES);
    }

    #[test]
    fn spare_buffers_that_nobody_takes_are_given_up_and_others_are_kept() {
        let pool = BufferPool::new(64, MemoryLedger::new());
        let buffers: Vec<_> = (0..20).map(|_| pool.take(1).unwrap()).collect();
        buffers.into_iter().for_each(|buffer| pool.give_back(buffer));
        for _ in 0..4 {
            for _ in 0..CALM_LOOKS {
                assert!(!pool.look());
            }
            pool.give_back(pool.take(1).unwrap());
        }
        assert_eq!(pool.spare_bytes(), 20 * BUFFER_BYTES);
        let looks = (0..).take_while(|_| !pool.look()).count() as u64;
        assert_eq!(looks, CALM_LOOKS);
        while pool.look() {}
        assert_eq!(pool.spare_bytes(), 0);
    }
}
