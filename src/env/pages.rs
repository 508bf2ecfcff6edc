//! A supply of huge pages that are ready to be written.
//!
//! The first touch of a fresh 2 MiB page costs 150-250 us, because the kernel
//! zeroes it: an eternity beside an update of 100 ns. So a background thread
//! prepares some in advance, and the thread that owns a shard only takes them.
//! Nothing comes back: pages that are no longer needed are unmapped by whoever
//! drops them, which gives their memory back to the system.

use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use super::mmap::{HUGE_PAGE_BYTES, Pages};

/// What [`PagePool::set_waker`] takes.
pub type Waker = Box<dyn Fn() + Send + Sync>;

/// Hands out [`Pages`] of [`HUGE_PAGE_BYTES`], prefaulted if the background
/// thread kept up. One per backend, shared by its shards.
pub struct PagePool {
    ready: ArrayQueue<Pages>,
    keep_ready: usize,
    waker: OnceLock<Waker>,
    /// A wake-up is under way and no [`refill`](Self::refill) has begun since.
    woken: AtomicBool,
    taken: AtomicU64,
    taken_unready: AtomicU64,
}

/// What a [`PagePool`] has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagePoolStats {
    /// Pages handed out.
    pub taken: u64,
    /// Of these, how many were not ready, so that the taker pays for zeroing
    /// them. If this grows, keep more pages ready.
    pub taken_unready: u64,
}

impl PagePool {
    /// An empty pool that will keep `keep_ready` huge pages at hand.
    ///
    /// More: longer bursts of new state without a stall, for 2 MiB of idle
    /// memory each. Zero: every taker zeroes its own.
    pub fn new(keep_ready: usize) -> Self {
        Self {
            ready: ArrayQueue::new(keep_ready.max(1)),
            keep_ready,
            waker: OnceLock::new(),
            woken: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            taken_unready: AtomicU64::new(0),
        }
    }

    /// Says whom to wake when pages were taken and [`refill`](Self::refill)
    /// should run. Called from the taker's thread, so it must be short.
    ///
    /// # Panics
    /// If a waker was set before.
    pub fn set_waker(&self, waker: Waker) {
        assert!(self.waker.set(waker).is_ok(), "the waker of a page pool is set once");
    }

    /// As much zeroed memory as a huge page has. Never waits: takes a page that
    /// is ready, or else maps small ones. Those are slower to reach for ever
    /// after; but to make a whole huge page here and now would stop the caller
    /// for up to milliseconds. A pool that keeps none ready maps a huge page.
    ///
    /// # Errors
    /// The system's, when it has no memory to give.
    pub fn take(&self) -> io::Result<Pages> {
        let ready = self.ready.pop();
        let was_ready = ready.is_some();
        let pages = match ready {
            Some(pages) => pages,
            None if self.keep_ready == 0 => Pages::new(HUGE_PAGE_BYTES)?,
            None => Pages::on_small_pages(HUGE_PAGE_BYTES)?,
        };
        self.taken.fetch_add(1, Ordering::Relaxed);
        if !was_ready {
            self.taken_unready.fetch_add(1, Ordering::Relaxed);
        }
        // SeqCst, here and in `refill`: either this thread sees the flag
        // lowered and wakes, or the refill sees the page gone and replaces it.
        if self.wants_refill()
            && !self.woken.swap(true, Ordering::SeqCst)
            && let Some(wake) = self.waker.get()
        {
            wake();
        }
        Ok(pages)
    }

    /// Whether fewer pages are ready than should be.
    pub fn wants_refill(&self) -> bool {
        self.ready.len() < self.keep_ready
    }

    /// Maps and prefaults until enough pages are ready. Takes about 0.2 ms for
    /// each; belongs on a background thread. Several threads may do it at once.
    ///
    /// # Errors
    /// The system's, when memory runs out. The pages made so far are kept, and
    /// the next [`take`](Self::take) wakes again.
    pub fn refill(&self) -> io::Result<()> {
        self.woken.store(false, Ordering::SeqCst);
        while self.wants_refill() {
            let pages = Pages::new(HUGE_PAGE_BYTES)?;
            pages.prefault();
            if self.ready.push(pages).is_err() {
                // Another thread filled it meanwhile; ours is unmapped.
                break;
            }
        }
        Ok(())
    }

    /// Bytes of memory that lie ready: real memory, to be counted in a budget.
    pub fn ready_bytes(&self) -> usize {
        self.ready.len() * HUGE_PAGE_BYTES
    }

    /// What was handed out so far.
    pub fn stats(&self) -> PagePoolStats {
        PagePoolStats {
            taken: self.taken.load(Ordering::Relaxed),
            taken_unready: self.taken_unready.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for PagePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagePool")
            .field("ready", &self.ready.len())
            .field("keep_ready", &self.keep_ready)
            .field("stats", &self.stats())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn take_works_without_any_refill_and_counts_it() {
        let pool = PagePool::new(2);
        assert!(pool.wants_refill());
        assert_eq!(pool.take().unwrap().len(), HUGE_PAGE_BYTES);
        assert_eq!(pool.stats(), PagePoolStats { taken: 1, taken_unready: 1 });
    }

    #[test]
    fn refill_stops_at_the_mark_and_takes_are_served_from_it() {
        let pool = PagePool::new(3);
        pool.refill().unwrap();
        assert!(!pool.wants_refill());
        assert_eq!(pool.ready_bytes(), 3 * HUGE_PAGE_BYTES);
        pool.refill().unwrap();
        assert_eq!(pool.ready_bytes(), 3 * HUGE_PAGE_BYTES);
        let _pages: Vec<_> = (0..4).map(|_| pool.take().unwrap()).collect();
        assert_eq!(pool.stats(), PagePoolStats { taken: 4, taken_unready: 1 });
    }

    #[test]
    fn a_run_of_takes_wakes_once_until_the_refill_begins() {
        let pool = PagePool::new(4);
        pool.refill().unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&calls);
        pool.set_waker(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        let _first: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        pool.refill().unwrap();
        let _second: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_pool_that_keeps_nothing_never_asks_for_a_refill() {
        let pool = PagePool::new(0);
        pool.set_waker(Box::new(|| panic!("woken for nothing")));
        assert!(!pool.wants_refill());
        pool.refill().unwrap();
        assert_eq!(pool.ready_bytes(), 0);
        pool.take().unwrap();
    }
}
