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
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crossbeam_queue::SegQueue;

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

/// A large buffer, which is counted as long as it is there.
#[derive(Debug)]
pub struct Buffer {
    /// Dropped before its charge: what is counted is never less than what is there.
    pages: PageBuf,
    charge: Charge,
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.pages
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages
    }
}

/// Spare buffers of one size; one pool per backend, shared by its shards.
pub struct BufferPool {
    spare: SegQueue<Buffer>,
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

    /// A buffer of at least `bytes`, with whatever in it, for copies of changes; usually a
    /// spare one. Who needs more than one has gets one made to measure.
    ///
    /// # Errors
    /// The system's, when it has no memory to give.
    pub fn take(&self, bytes: usize) -> io::Result<Buffer> {
        if bytes > self.buffer_bytes {
            return Ok(self.counted(PageBuf::new(bytes)?));
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        if let Some(mut spare) = self.spare.pop() {
            spare.charge.turn_into(MemoryComponent::Changes);
            return Ok(spare);
        }
        Ok(self.counted(PageBuf::new(self.buffer_bytes)?))
    }

    /// A buffer of so many bytes on small pages, of which only those exist that are
    /// written; none if that is no less than what comes round has.
    ///
    /// # Errors
    /// The system's, when it has no memory to give.
    pub(crate) fn small(&self, bytes: usize) -> io::Result<Option<Buffer>> {
        if bytes >= self.buffer_bytes {
            return Ok(None);
        }
        Ok(Some(self.counted(PageBuf::on_small_pages(bytes)?)))
    }

    fn counted(&self, pages: PageBuf) -> Buffer {
        let charge = self.ledger.charge(MemoryComponent::Changes, pages.len() as u64);
        Buffer { pages, charge }
    }

    /// Takes a buffer back, to be taken again.
    pub fn give_back(&self, mut buffer: Buffer) {
        if buffer.len() == self.buffer_bytes && self.spare.len() < self.most_spare {
            buffer.charge.turn_into(MemoryComponent::SpareBuffers);
            self.spare.push(buffer);
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
    fn a_buffer_counts_as_long_as_it_is_there_and_as_what_it_is_for() {
        let ledger = MemoryLedger::new();
        let pool = BufferPool::new(1, Arc::clone(&ledger));
        let counted = || {
            let stats = ledger.stats();
            let of = |component| stats.bytes_of(component) as usize / BUFFER_BYTES;
            (of(MemoryComponent::Changes), of(MemoryComponent::SpareBuffers))
        };
        let two = [pool.take(1).unwrap(), pool.take(1).unwrap()];
        assert_eq!(counted(), (2, 0));
        two.into_iter().for_each(|buffer| pool.give_back(buffer));
        assert_eq!(counted(), (0, 1));
        let again = pool.take(1).unwrap();
        assert_eq!(counted(), (1, 0));
        drop(again);
        let small = pool.small(4096).unwrap().unwrap();
        assert_eq!(ledger.stats().total_bytes, 4096);
        drop(small);
        assert!(pool.small(BUFFER_BYTES).unwrap().is_none());
        assert_eq!(ledger.stats().total_bytes, 0);
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
