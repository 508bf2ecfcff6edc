//! Copies of records, one behind the other, in memory that comes round.
//!
//! Few of them lie on the heap, and some more on small pages of their own. The rest goes
//! into buffers of a huge page each, which are taken from the backend's
//! [`BufferPool`](crate::env::buffers::BufferPool) and given back when the copies are
//! dropped. A record lies in one piece.

use std::alloc::{Layout, handle_alloc_error};
use std::sync::Arc;
use std::{fmt, io};

use crate::env::buffers::Buffer;
use crate::env::ledger::{Charge, MemoryComponent};
use crate::env::pages::PagePool;

/// Up to so many bytes are kept on the heap. Allocators take larger pieces from the system
/// one by one, and learn from each that is freed to keep more of what is freed later.
const MOST_ON_THE_HEAP: usize = 64 << 10;
/// Up to so many bytes are kept on small pages, of which only those exist that are written:
/// a huge page costs more to zero than the copying of those.
const MOST_ON_SMALL_PAGES: usize = 256 << 10;

/// Where a copy is: the number of a piece in the upper half, and an offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CopyAt(u64);

impl CopyAt {
    fn new(piece: usize, offset: usize) -> Self {
        // No record is as long as what 32 bits can count.
        Self((piece as u64) << 32 | offset as u64)
    }
}

/// See the [module documentation](self).
pub(super) struct Copies {
    /// Piece 0.
    small: Vec<u8>,
    /// The others, each with the number of its bytes that are in use.
    large: Vec<(Buffer, usize)>,
    likely_bytes: usize,
    pool: Arc<PagePool>,
    /// Of the smallest piece; the others have their own.
    charge: Charge,
}

impl Copies {
    /// None yet; most likely they will come to so many bytes.
    pub(super) fn new(likely_bytes: usize, pool: Arc<PagePool>) -> Self {
        let small = if likely_bytes <= MOST_ON_THE_HEAP { likely_bytes } else { 0 };
        let charge = pool.ledger().charge(MemoryComponent::Changes, small as u64);
        let small = Vec::with_capacity(small);
        Self { small, large: Vec::new(), likely_bytes, pool, charge }
    }

    /// Appends a copy.
    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some((buffer, used)) = self.large.last_mut()
            && let Some(room) = buffer.get_mut(*used..*used + bytes.len())
        {
            room.copy_from_slice(bytes);
            *used += bytes.len();
        } else {
            self.push_elsewhere(bytes);
        }
    }

    #[cold]
    #[inline(never)]
    fn push_elsewhere(&mut self, bytes: &[u8]) {
        let is_for_heap = self.large.is_empty() && self.likely_bytes <= MOST_ON_THE_HEAP;
        if is_for_heap && self.small.len() + bytes.len() <= MOST_ON_THE_HEAP {
            if self.small.capacity() < self.small.len() + bytes.len() {
                // As a vector grows by itself, but no further than it will be filled.
                let grown = (2 * self.small.len()).max(self.small.len() + bytes.len());
                let more = grown.min(MOST_ON_THE_HEAP) - self.small.len();
                self.small.reserve_exact(more);
            }
            self.small.extend_from_slice(bytes);
            self.charge.set(self.small.capacity() as u64);
            return;
        }
        // As a vector would do, for whose memory this stands.
        let mut buffer = self.next_buffer(bytes.len()).unwrap_or_else(|error| {
            tracing::error!(%error, "no memory for the records of a snapshot");
            handle_alloc_error(Layout::for_value(bytes))
        });
        buffer[..bytes.len()].copy_from_slice(bytes);
        self.large.push((buffer, bytes.len()));
    }

    /// A buffer of at least so many bytes.
    fn next_buffer(&self, bytes: usize) -> io::Result<Buffer> {
        let is_small = bytes.max(self.likely_bytes) <= MOST_ON_SMALL_PAGES;
        if self.large.is_empty()
            && is_small
            && let Some(buffer) = self.pool.buffers().small(MOST_ON_SMALL_PAGES)?
        {
            return Ok(buffer);
        }
        self.pool.buffers().take(bytes)
    }

    /// Bytes of all copies.
    pub(super) fn bytes(&self) -> usize {
        self.small.len() + self.large.iter().map(|(_, used)| used).sum::<usize>()
    }

    /// A charge for what is made of them.
    pub(super) fn charge_beside(&self) -> Charge {
        self.charge.beside(MemoryComponent::Changes)
    }

    /// The copy there, and what follows it in its piece.
    #[inline]
    pub(super) fn at(&self, CopyAt(at): CopyAt) -> &[u8] {
        &self.piece((at >> 32) as usize)[at as u32 as usize..]
    }

    /// The places of all copies in the order in which they were appended;
    /// `bytes_of` says how long the one is that a slice begins with.
    pub(super) fn places(&self, bytes_of: impl Fn(&[u8]) -> usize) -> impl Iterator<Item = CopyAt> {
        let (mut piece, mut offset) = (0, 0);
        std::iter::from_fn(move || {
            while offset == self.piece(piece).len() {
                if piece == self.large.len() {
                    return None;
                }
                (piece, offset) = (piece + 1, 0);
            }
            let at = CopyAt::new(piece, offset);
            offset += bytes_of(&self.piece(piece)[offset..]);
            Some(at)
        })
    }

    #[inline]
    fn piece(&self, number: usize) -> &[u8] {
        match number.checked_sub(1) {
            None => &self.small,
            Some(number) => {
                let (buffer, used) = &self.large[number];
                &buffer[..*used]
            }
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        for (buffer, _) in self.large.drain(..) {
            self.pool.buffers().give_back(buffer);
        }
    }
}

impl fmt::Debug for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Copies({} bytes and {} buffers)", self.small.len(), self.large.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::buffers::BUFFER_BYTES;

    /// A copy of `len` bytes that says how long it is.
    fn copy(len: usize) -> Vec<u8> {
        let mut bytes = vec![len as u8; len];
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        bytes
    }

    fn len_of(bytes: &[u8]) -> usize {
        u32::from_le_bytes(*bytes.first_chunk().unwrap()) as usize
    }

    /// Lengths that fill the heap's part to the last byte, cross into buffers,
    /// fill one to the last byte, and need one of their own.
    #[test]
    fn copies_come_back_as_they_were_wherever_they_lie() {
        let filling = BUFFER_BYTES - 70_000;
        let lens: [&[usize]; 6] = [
            &[4, 5, 6],
            &[MOST_ON_THE_HEAP - 4, 4, 70_000, filling, 4, 300],
            &[MOST_ON_THE_HEAP - 4, 4, MOST_ON_SMALL_PAGES - 4, 4, 4, 300],
            &[MOST_ON_SMALL_PAGES + 1, 4, 300],
            &[BUFFER_BYTES + 1, 4, 4],
            &[MOST_ON_THE_HEAP + 1, BUFFER_BYTES, 9, 3 * BUFFER_BYTES, 9],
        ];
        for lens in lens {
            for likely_bytes in [0, 1, MOST_ON_THE_HEAP, MOST_ON_SMALL_PAGES, usize::MAX / 2] {
                let mut copies = Copies::new(likely_bytes, Arc::new(PagePool::new(0)));
                lens.iter().for_each(|&len| copies.push(&copy(len)));
                let found: Vec<Vec<u8>> = copies
                    .places(len_of)
                    .map(|at| copies.at(at)[..len_of(copies.at(at))].to_vec())
                    .collect();
                assert_eq!(found, lens.iter().map(|&len| copy(len)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn memory_that_is_given_back_is_never_counted_twice() {
        let pool = Arc::new(PagePool::new(0));
        let mut copies = Copies::new(0, Arc::clone(&pool));
        (0..3).for_each(|_| copies.push(&copy(BUFFER_BYTES)));
        drop(copies);
        let stats = pool.ledger().stats();
        let bytes = 3 * BUFFER_BYTES as u64;
        assert_eq!((stats.total_bytes, stats.peak_bytes), (bytes, bytes));
    }

    #[test]
    fn few_copies_take_no_large_buffer_and_many_take_nothing_else() {
        let taken = |likely_bytes: usize, bytes: usize| {
            let pool = Arc::new(PagePool::new(0));
            let mut copies = Copies::new(likely_bytes, Arc::clone(&pool));
            (0..bytes / 1000).for_each(|_| copies.push(&copy(1000)));
            pool.ledger().stats().total_bytes as usize
        };
        for likely in [0, 10_000] {
            assert!(taken(likely, 10_000) <= MOST_ON_THE_HEAP);
            assert!(taken(likely, 200_000) <= MOST_ON_THE_HEAP + MOST_ON_SMALL_PAGES);
        }
        assert_eq!(taken(MOST_ON_SMALL_PAGES, 200_000), MOST_ON_SMALL_PAGES);
        assert_eq!(taken(2 * MOST_ON_SMALL_PAGES, BUFFER_BYTES - 1000), BUFFER_BYTES);
    }

    #[test]
    fn the_memory_of_copies_serves_the_next_ones() {
        let pool = Arc::new(PagePool::new(0));
        let mut copies = Copies::new(0, Arc::clone(&pool));
        (0..10).for_each(|_| copies.push(&copy(BUFFER_BYTES / 2)));
        assert_eq!(pool.buffers().spare_bytes(), 0);
        drop(copies);
        assert_eq!(pool.buffers().spare_bytes(), 5 * BUFFER_BYTES);
        let mut copies = Copies::new(0, Arc::clone(&pool));
        copies.push(&copy(BUFFER_BYTES));
        assert_eq!(pool.buffers().spare_bytes(), 4 * BUFFER_BYTES);
    }
}
