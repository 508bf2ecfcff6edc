//! A supply of huge pages that are ready to be written.
//!
//! The first touch of a fresh 2 MiB page costs 150-250 us, because the kernel
//! zeroes it: an eternity beside an update of 100 ns. So a [`PageThread`]
//! prepares some in advance, and the thread that owns a shard only takes them.
//! Nothing comes back: pages that are no longer needed are unmapped by whoever
//! drops them, which gives their memory back to the system.
//!
//! How many are kept ready follows the demand: one while nothing grows, so that
//! a backend at rest weighs little; one and twice what was taken between two
//! looks of the thread while something does, up to a limit.
//!
//! To take a page makes no system call and wakes nobody, with one exception:
//! who takes the last one, which at the beginning of a growth is also the
//! first, calls the thread from its nap (`env::nap`), since small pages would
//! be slower for ever.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::Env;
use super::budget::MemoryBudget;
use super::buffers::BufferPool;
use super::ledger::{Charge, MemoryComponent, MemoryLedger};
use super::mmap::{HUGE_PAGE_BYTES, Pages};
use super::nap::{NapLength, Naps};
use super::sync::{AtomicBool, AtomicU64, Mutex, Ordering, thread};

/// The smallest chunk of records, in bytes: 16 KiB.
pub const MIN_CHUNK_BYTES: usize = 16 << 10;
/// Pages that are ready while nothing grows.
const READY_AT_REST: usize = 1;
/// Looks that find nothing taken until a growth counts as over. Their naps are
/// a second together: a state that grows by a page or more in that time keeps
/// its supply.
const CALM_LOOKS: u32 = 20;
/// Spare buffers that are kept for the next snapshot: 256 MiB.
const MOST_SPARE_BUFFERS: usize = 128;
/// The nap of a thread whose pages nobody takes. Who takes the last one calls,
/// so it may be long.
const LONGEST_NAP: Duration = Duration::from_millis(80);

/// Hands out [`Pages`] of [`HUGE_PAGE_BYTES`], prefaulted if its thread kept
/// up. One per backend, shared by its shards.
pub struct PagePool {
    ready: ArrayQueue<(Pages, Charge)>,
    most_ready: usize,
    on_small_pages: bool,
    chunk_bytes: usize,
    ledger: Arc<MemoryLedger>,
    buffers: BufferPool,
    demand: Mutex<Demand>,
    naps: Naps,
    /// The thread was called and has not begun to look since.
    called: AtomicBool,
    closed: AtomicBool,
    taken: AtomicU64,
    taken_unready: AtomicU64,
}

/// What a [`PagePool`] has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagePoolStats {
    /// Pages handed out.
    pub taken: u64,
    /// Of these, how many were not ready, so that the taker pays for zeroing
    /// them. If this grows, states grow faster than pages can be made ready.
    pub taken_unready: u64,
}

/// How many pages ought to be ready, as [`PagePool::refill`] sees it.
#[derive(Debug)]
struct Demand {
    wanted: usize,
    /// Pages taken until the last look.
    taken: u64,
    /// Looks since then that found none taken.
    calm_looks: u32,
}

impl Demand {
    /// Takes note of the pages `taken` by now, and says how many to keep ready.
    fn look(&mut self, taken: u64, most: usize) -> usize {
        let lately = usize::try_from(taken - self.taken).unwrap_or(usize::MAX);
        self.taken = taken;
        if lately > 0 {
            self.calm_looks = 0;
            self.wanted = self.wanted.max(lately.saturating_mul(2).saturating_add(1));
        } else if self.calm_looks < CALM_LOOKS {
            self.calm_looks += 1;
        } else {
            self.wanted = READY_AT_REST;
        }
        self.wanted = self.wanted.min(most);
        self.wanted
    }
}

impl PagePool {
    /// An empty pool that will keep up to `most_ready` huge pages at hand.
    ///
    /// More: longer bursts of new state without a stall, for 2 MiB of memory
    /// each while they last. Zero: every taker zeroes its own.
    pub fn new(most_ready: usize) -> Self {
        let ledger = MemoryLedger::new();
        Self {
            ready: ArrayQueue::new(most_ready.max(1)),
            most_ready,
            on_small_pages: false,
            chunk_bytes: HUGE_PAGE_BYTES,
            buffers: BufferPool::new(MOST_SPARE_BUFFERS, Arc::clone(&ledger)),
            ledger,
            demand: Mutex::new(Demand { wanted: READY_AT_REST, taken: 0, calm_looks: 0 }),
            naps: Naps::new(),
            called: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            taken_unready: AtomicU64::new(0),
        }
    }

    /// A pool that keeps within a memory budget. If that is small, what is taken is on
    /// small pages, of which only those count that are touched.
    pub fn within(budget: &MemoryBudget, most_ready: usize) -> Self {
        let most_ready = budget.ready_pages().min(most_ready);
        let mut pool = Self::new(most_ready);
        pool.on_small_pages = most_ready == 0;
        pool.chunk_bytes = budget.chunk_bytes();
        let most_spare = budget.spare_buffers().min(MOST_SPARE_BUFFERS);
        let ledger = Arc::clone(&pool.ledger);
        pool.buffers = BufferPool::of_bytes(budget.buffer_bytes(), most_spare, ledger);
        pool
    }

    /// Whether pages are kept ready, so that a thread has to look after them.
    pub fn keeps_ready(&self) -> bool {
        self.most_ready > 0
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
            Some((pages, _)) => pages,
            None if self.most_ready == 0 && !self.on_small_pages => Pages::new(HUGE_PAGE_BYTES)?,
            None => Pages::on_small_pages(HUGE_PAGE_BYTES)?,
        };
        self.taken.fetch_add(1, Ordering::Relaxed);
        if !was_ready {
            self.taken_unready.fetch_add(1, Ordering::Relaxed);
        }
        // A run of takers calls once: until the thread looks, it will find all
        // that was taken. SeqCst, here and in `refill`: either this thread sees
        // the flag lowered and calls, or that one sees the page gone.
        if self.most_ready > 0 && self.ready.is_empty() && !self.called.swap(true, Ordering::SeqCst)
        {
            self.naps.call_one();
        }
        Ok(pages)
    }

    /// Bytes of what [`take_chunk`](Self::take_chunk) gives: a huge page, or less within
    /// a small budget. A power of two, at least [`MIN_CHUNK_BYTES`].
    pub fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Zeroed memory for records, of [`chunk_bytes`](Self::chunk_bytes).
    ///
    /// # Errors
    /// The system's, when it has no memory to give.
    pub fn take_chunk(&self) -> io::Result<Pages> {
        if self.chunk_bytes < HUGE_PAGE_BYTES { Pages::new(self.chunk_bytes) } else { self.take() }
    }

    /// One look of the background: maps and prefaults until as many pages are
    /// ready as the demand of late asks for, or unmaps what is too much, and
    /// says whether there was anything to do. A page takes about 0.2 ms. Several
    /// threads may do it at once.
    ///
    /// # Errors
    /// The system's, when memory runs out. The pages made so far are kept.
    pub fn refill(&self) -> io::Result<bool> {
        self.called.store(false, Ordering::SeqCst);
        let wanted = {
            let mut demand = self.demand.lock();
            demand.look(self.taken.load(Ordering::Relaxed), self.most_ready)
        };
        let mut changed = false;
        while self.ready.len() < wanted && !self.is_closed() {
            let pages = Pages::new(HUGE_PAGE_BYTES)?;
            pages.prefault();
            changed = true;
            let charge = self.ledger.charge(MemoryComponent::ReadyPages, HUGE_PAGE_BYTES as u64);
            if self.ready.push((pages, charge)).is_err() {
                // Another thread filled it meanwhile; ours is unmapped.
                break;
            }
        }
        while self.ready.len() > wanted && self.ready.pop().is_some() {
            changed = true;
        }
        Ok(changed)
    }

    /// Who has how much of the memory; what lies ready here is charged to it.
    pub fn ledger(&self) -> &Arc<MemoryLedger> {
        &self.ledger
    }

    /// Memory for copies, which comes round; this pool's thread looks after it.
    pub fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
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

    fn keep_ready_until_closed(&self) {
        let mut nap = NapLength::up_to(LONGEST_NAP);
        let mut failed_before = false;
        while !self.is_closed() {
            match self.refill() {
                Ok(changed) => {
                    failed_before = false;
                    if self.buffers.look() || changed {
                        nap.has_worked();
                    }
                }
                Err(error) => {
                    // Takers map their own, and fail if they must.
                    if !failed_before {
                        tracing::warn!(%error, "no memory could be made ready");
                    }
                    failed_before = true;
                }
            }
            let called = || self.is_closed() || self.called.load(Ordering::SeqCst);
            self.naps.nap(&mut nap, called);
        }
    }
}

impl fmt::Debug for PagePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagePool")
            .field("ready", &self.ready.len())
            .field("most_ready", &self.most_ready)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The thread that keeps the pages of one [`PagePool`] ready. Dropping it ends
/// and joins the thread, at the latest when it has made one more page.
#[derive(Debug)]
pub struct PageThread {
    pool: Arc<PagePool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl PageThread {
    /// Starts it.
    ///
    /// # Errors
    /// Whatever the system says when no thread can be had.
    pub fn start(env: &dyn Env, name: &str, pool: &Arc<PagePool>) -> io::Result<Self> {
        let body = {
            let pool = Arc::clone(pool);
            Box::new(move || pool.keep_ready_until_closed())
        };
        Ok(Self { pool: Arc::clone(pool), thread: Some(env.spawn(name, body)?) })
    }
}

impl Drop for PageThread {
    fn drop(&mut self) {
        self.pool.closed.store(true, Ordering::Relaxed);
        self.pool.naps.call_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::RealEnv;

    fn take(pool: &PagePool, pages: usize) -> Vec<Pages> {
        (0..pages).map(|_| pool.take().unwrap()).collect()
    }

    fn ready(pool: &PagePool) -> usize {
        pool.ready_bytes() / HUGE_PAGE_BYTES
    }

    #[test]
    fn take_works_without_any_refill_and_counts_it() {
        let pool = PagePool::new(2);
        assert_eq!(pool.take().unwrap().len(), HUGE_PAGE_BYTES);
        assert_eq!(pool.stats(), PagePoolStats { taken: 1, taken_unready: 1 });
    }

    #[test]
    fn a_pool_at_rest_keeps_one_page() {
        let pool = PagePool::new(8);
        assert!(pool.refill().unwrap());
        assert_eq!(ready(&pool), 1);
        assert!(!pool.refill().unwrap());
        assert_eq!(ready(&pool), 1);
    }

    #[test]
    fn demand_raises_what_is_ready_up_to_the_limit_and_rest_lowers_it() {
        let pool = PagePool::new(8);
        pool.refill().unwrap();
        let _one = take(&pool, 1);
        pool.refill().unwrap();
        assert_eq!(ready(&pool), 3);
        let _two = take(&pool, 2);
        pool.refill().unwrap();
        assert_eq!(ready(&pool), 5);
        let _many = take(&pool, 5);
        pool.refill().unwrap();
        assert_eq!(ready(&pool), 8);
        assert_eq!(pool.stats(), PagePoolStats { taken: 8, taken_unready: 0 });
        for _ in 0..CALM_LOOKS {
            assert!(!pool.refill().unwrap(), "it may go on growing");
        }
        assert!(pool.refill().unwrap());
        assert_eq!(ready(&pool), 1);
    }

    #[test]
    fn a_state_that_grows_slowly_keeps_its_supply() {
        let pool = PagePool::new(8);
        pool.refill().unwrap();
        for _ in 0..4 {
            let _page = take(&pool, 1);
            for _ in 0..CALM_LOOKS {
                pool.refill().unwrap();
            }
            assert_eq!(ready(&pool), 3);
        }
    }

    #[test]
    fn only_the_last_page_calls_and_only_once_until_the_next_look() {
        let pool = PagePool::new(4);
        pool.refill().unwrap();
        let _first = take(&pool, 1);
        assert!(pool.called.load(Ordering::SeqCst), "the only one was taken");
        pool.refill().unwrap();
        assert!(!pool.called.load(Ordering::SeqCst));
        let _some = take(&pool, 2);
        assert!(!pool.called.load(Ordering::SeqCst), "one is left");
        let _rest = take(&pool, 2);
        assert!(pool.called.load(Ordering::SeqCst));
    }

    #[test]
    fn a_pool_that_keeps_nothing_never_calls() {
        let pool = PagePool::new(0);
        assert!(!pool.refill().unwrap());
        assert_eq!(pool.ready_bytes(), 0);
        pool.take().unwrap();
        assert!(!pool.called.load(Ordering::SeqCst));
    }

    #[test]
    fn the_thread_makes_pages_ready_by_itself_and_ends_when_it_is_dropped() {
        let pool = Arc::new(PagePool::new(4));
        let thread = PageThread::start(&RealEnv::new(), "test", &pool).unwrap();
        let mut pages = Vec::new();
        while pages.len() < 8 {
            if pool.ready_bytes() > 0 {
                pages.push(pool.take().unwrap());
            }
            std::thread::yield_now();
        }
        assert_eq!(pool.stats(), PagePoolStats { taken: 8, taken_unready: 0 });
        drop(thread);
        assert_eq!(Arc::strong_count(&pool), 1);
    }
}
