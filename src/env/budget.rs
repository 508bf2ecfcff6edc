//! How much memory a backend may use, and who has how much of it.
//!
//! One budget serves all shards of a backend. Most of it is for records and their
//! indexes; the rest is set aside for what the background needs (copies of what
//! changed, tables on their way, pages kept ready). When that needs more, as it does with
//! very many tables, records get less, and what filters and indexes of tables leave of their
//! part records have. A shard has an account: it says
//! how much it uses, and is told how much it may. That is never less than an equal part,
//! and more as long as the others leave theirs: a shard that sleeps is not asked to give
//! anything up, since nobody would hear it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use super::mmap::HUGE_PAGE_BYTES;
use super::pages::MIN_CHUNK_BYTES;

/// The smallest budget that is accepted, in bytes: 256 KiB.
pub const MIN_BUDGET_BYTES: u64 = 256 << 10;

/// The parts that the budget is divided into.
const PARTS: u64 = 32;
/// Parts that records and indexes may take.
const FOR_RECORDS: u64 = 19;
/// The same, where filters and indexes of tables leave some of theirs.
const MOST_FOR_RECORDS: u64 = 22;
/// Parts that they may take whatever all else needs; more if so much cannot leave memory.
const LEAST_FOR_RECORDS: u64 = 8;
/// One part in so many of the budget that is added to what cannot leave.
const ROOM_TO_WORK: u64 = 64;
/// What all else may need above its part before records get less: a small budget has room
/// for none of the buffers of the background. Less of it the larger the budget, and nothing
/// from 32 MiB on.
const NOT_COUNTED_BYTES: u64 = 1 << 20;
/// After a peak of all else, what was set aside for it shrinks by one part in so many with
/// each view of the tables.
const PEAK_FADES_BY: u64 = 128;
/// Parts for buffers that wait for the next snapshot.
const FOR_SPARE_BUFFERS: u64 = 2;
/// Parts for filters and indexes of tables.
const FOR_HELD: u64 = 6;
/// The same, where filters spare reads.
const MOST_FOR_HELD: u64 = 10;
/// One part in so many for pages that are kept ready.
const FOR_READY_PAGES: u64 = 64;
/// Chunks of records that the budget has room for, at least: gaps of a state go back to
/// the system by the chunk.
const CHUNKS: u64 = 64;

/// See the [module documentation](self).
#[derive(Debug)]
pub struct MemoryBudget {
    limit_bytes: u64,
    /// What all else has used at once of late.
    beside: AtomicU64,
    /// What records and indexes took when nothing of it could leave memory, at most.
    pinned: AtomicU64,
    /// What all accounts use together.
    used: AtomicU64,
    /// What filters and indexes of tables take, and what they leave of their parts to
    /// records; less than nothing if they need more.
    held: AtomicU64,
    left_to_records: AtomicI64,
    accounts: AtomicUsize,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            beside: AtomicU64::new(0),
            pinned: AtomicU64::new(0),
            used: AtomicU64::new(0),
            held: AtomicU64::new(0),
            left_to_records: AtomicI64::new(0),
            accounts: AtomicUsize::new(0),
        }
    }

    /// All that may be used.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// What of it is for records and indexes.
    pub fn records_bytes(&self) -> u64 {
        let not_counted = NOT_COUNTED_BYTES.saturating_sub(self.limit_bytes / 32);
        let beside = self.beside.load(Ordering::Relaxed).saturating_sub(not_counted);
        let left = self.limit_bytes.saturating_sub(beside);
        let part = |parts: u64| self.limit_bytes / PARTS * parts;
        let pinned = self.pinned.load(Ordering::Relaxed);
        let more = self.left_to_records.load(Ordering::Relaxed);
        let most = part(FOR_RECORDS).saturating_add_signed(more).min(part(MOST_FOR_RECORDS));
        left.min(most).max(part(LEAST_FOR_RECORDS)).max(pinned.min(part(FOR_RECORDS)))
    }

    /// Says how much was used at once beside records and indexes, since it was said last.
    pub(crate) fn note_beside(&self, most_bytes: u64) {
        let before = self.beside.load(Ordering::Relaxed);
        let faded = before - before.div_ceil(PEAK_FADES_BY);
        self.beside.store(most_bytes.max(faded), Ordering::Relaxed);
    }

    /// What records and indexes take now.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Buffers for copies that may wait to be used again.
    pub fn spare_buffers(&self) -> usize {
        (self.limit_bytes / PARTS * FOR_SPARE_BUFFERS) as usize / self.buffer_bytes()
    }

    /// Bytes of such a buffer: a huge page, or less if that is more than there may be.
    pub(crate) fn buffer_bytes(&self) -> usize {
        let most = (self.limit_bytes / PARTS * FOR_SPARE_BUFFERS).max(1);
        (1_usize << most.ilog2()).clamp(MIN_CHUNK_BYTES, HUGE_PAGE_BYTES)
    }

    /// An account for filters and indexes of the tables of one more shard.
    pub(crate) fn open_held_account(self: &Arc<Self>) -> HeldAccount {
        HeldAccount { budget: Arc::clone(self), held: 0, left_to_records: 0 }
    }

    /// Huge pages that may be kept ready; none if the budget is small, since then
    /// huge pages are too large altogether.
    pub fn ready_pages(&self) -> usize {
        (self.limit_bytes / FOR_READY_PAGES) as usize / HUGE_PAGE_BYTES
    }

    /// Bytes of a chunk of records: a power of two.
    pub(crate) fn chunk_bytes(&self) -> usize {
        let most = (self.limit_bytes / CHUNKS).max(1);
        (1_usize << most.ilog2()).clamp(MIN_CHUNK_BYTES, HUGE_PAGE_BYTES)
    }

    /// An account for one more shard.
    pub(crate) fn open_account(self: &Arc<Self>) -> Account {
        self.accounts.fetch_add(1, Ordering::Relaxed);
        Account { budget: Arc::clone(self), used: 0 }
    }
}

/// What one shard uses of a budget. Closed when dropped.
pub(crate) struct Account {
    budget: Arc<MemoryBudget>,
    used: u64,
}

impl Account {
    /// Says what the shard uses now.
    pub(crate) fn set_used(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.used, bytes);
        // Wraps in the middle of nothing: the sum is exact whatever the order.
        self.budget.used.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
    }

    /// What the shard may use now.
    pub(crate) fn allowed(&self) -> u64 {
        let all = self.budget.records_bytes();
        let accounts = self.budget.accounts.load(Ordering::Relaxed).max(1) as u64;
        let others = self.budget.used_bytes().saturating_sub(self.used);
        all.saturating_sub(others).max(all / accounts)
    }

    /// Says that nothing of what the shard uses can leave memory, and whether it may have
    /// it: if it only was to give way to something else, it need not.
    pub(crate) fn insist(&self) -> bool {
        let pinned = self.budget.used_bytes() + self.budget.limit_bytes / ROOM_TO_WORK;
        self.budget.pinned.fetch_max(pinned, Ordering::Relaxed);
        self.used <= self.allowed()
    }

    pub(crate) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.set_used(0);
        self.budget.accounts.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What filters and indexes of the tables of one shard take of a budget. Closed when
/// dropped.
#[derive(Debug)]
pub(crate) struct HeldAccount {
    budget: Arc<MemoryBudget>,
    held: u64,
    left_to_records: i64,
}

impl HeldAccount {
    /// What the shard may keep of them if there is room; more, if filters spare reads.
    pub(crate) fn share(&self, filters_spare_reads: bool) -> u64 {
        self.parts(if filters_spare_reads { MOST_FOR_HELD } else { FOR_HELD })
    }

    /// So many parts, divided by the shards.
    fn parts(&self, parts: u64) -> u64 {
        let accounts = self.budget.accounts.load(Ordering::Relaxed).max(1) as u64;
        self.budget.limit_bytes / PARTS * parts / accounts
    }

    /// What there is room for now: what is there already, and what records have left.
    /// They leave more when they have heard [what is wanted](Self::note).
    pub(crate) fn room(&self) -> u64 {
        let all = self.budget.limit_bytes / PARTS * (FOR_RECORDS + FOR_HELD);
        let others = self.budget.held.load(Ordering::Relaxed).saturating_sub(self.held);
        all.saturating_sub(others + self.budget.used_bytes()).max(self.held)
    }

    /// Says what they take, and what they would take if there was room, if that is known
    /// to be worth while: records have the difference to what they usually may take.
    pub(crate) fn note(&mut self, held: u64, wanted: Option<u64>) {
        let left = wanted.map_or(0, |wanted| self.parts(FOR_HELD) as i64 - wanted as i64);
        self.set(held, left);
    }

    fn set(&mut self, held: u64, left_to_records: i64) {
        let before = std::mem::replace(&mut self.held, held);
        // Wraps in the middle of nothing: the sums are exact whatever the order.
        self.budget.held.fetch_add(held.wrapping_sub(before), Ordering::Relaxed);
        let before = std::mem::replace(&mut self.left_to_records, left_to_records);
        self.budget.left_to_records.fetch_add(left_to_records - before, Ordering::Relaxed);
    }
}

impl Drop for HeldAccount {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({} of {} bytes)", self.used, self.allowed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_may_use_what_others_leave_and_never_less_than_its_part() {
        let budget = Arc::new(MemoryBudget::new(16 << 20));
        let all = budget.records_bytes();
        let mut first = budget.open_account();
        assert_eq!(first.allowed(), all);
        first.set_used(all);
        let mut second = budget.open_account();
        assert_eq!(second.allowed(), all / 2);
        assert_eq!(first.allowed(), all, "nobody else uses anything");
        second.set_used(all / 4);
        assert_eq!(first.allowed(), all - all / 4);
        second.set_used(all);
        assert_eq!(first.allowed(), all / 2);
        drop(second);
        assert_eq!(first.allowed(), all);
        drop(first);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn records_get_less_while_all_else_needs_more_and_never_less_than_a_quarter() {
        let budget = Arc::new(MemoryBudget::new(32 << 20));
        let mib = |bytes: u64| bytes >> 20;
        assert_eq!(mib(budget.records_bytes()), 19);
        budget.note_beside(13 << 20);
        assert_eq!(mib(budget.records_bytes()), 19);
        budget.note_beside(20 << 20);
        assert_eq!(mib(budget.records_bytes()), 12);
        budget.note_beside(1 << 20);
        assert_eq!(mib(budget.records_bytes()), 12, "a peak may come again");
        (0..100).for_each(|_| budget.note_beside(1 << 20));
        assert_eq!(mib(budget.records_bytes()), 19);
        budget.note_beside(40 << 20);
        assert_eq!(mib(budget.records_bytes()), 8);
        (0..10_000).for_each(|_| budget.note_beside(0));
        assert_eq!(mib(budget.records_bytes()), 19);
    }

    #[test]
    fn what_the_background_always_needs_leaves_a_small_budget_its_records() {
        let records = |budget_mib: u64, beside_kib: u64| {
            let budget = MemoryBudget::new(budget_mib << 20);
            budget.note_beside(beside_kib << 10);
            budget.records_bytes() >> 10
        };
        assert_eq!(records(1, 1024), 1024 / 32 * 19);
        assert_eq!(records(16, 8 << 10), (8 << 10) + 512);
        assert_eq!(records(32, 16 << 10), 16 << 10);
    }

    #[test]
    fn records_have_what_filters_leave_and_filters_what_records_have_left() {
        let budget = Arc::new(MemoryBudget::new(32 << 20));
        let mib = |bytes: u64| bytes >> 20;
        let (mut account, mut held) = (budget.open_account(), budget.open_held_account());
        assert_eq!((mib(account.allowed()), mib(held.room())), (19, 25));
        assert_eq!((mib(held.share(false)), mib(held.share(true))), (6, 10));
        account.set_used(19 << 20);
        held.note(4 << 20, None);
        assert_eq!((mib(account.allowed()), mib(held.room())), (19, 6), "nobody knows yet");
        held.note(4 << 20, Some(4 << 20));
        assert_eq!(mib(account.allowed()), 21);
        held.note(1 << 20, Some(1 << 20));
        assert_eq!(mib(account.allowed()), 22, "no more");
        account.set_used(22 << 20);
        held.note(3 << 20, Some(10 << 20));
        assert_eq!(mib(account.allowed()), 15, "what is wanted, not only what is there");
        assert_eq!(mib(held.room()), 3, "until records have left");
        account.set_used(15 << 20);
        assert_eq!(mib(held.room()), 10);
        held.note(10 << 20, Some(10 << 20));
        account.set_used(17 << 20);
        assert_eq!(mib(held.room()), 10, "what is there stays");
        let mut others = budget.open_held_account();
        assert_eq!(mib(others.room()), 0);
        others.note(1 << 20, Some(3 << 20));
        assert_eq!(mib(account.allowed()), 18);
        drop((held, others));
        assert_eq!(mib(account.allowed()), 19);
    }

    /// A job that fits when nothing is merged must not fail when much is.
    #[test]
    fn what_cannot_leave_memory_gives_way_to_nothing_up_to_the_part_of_records() {
        let budget = Arc::new(MemoryBudget::new(16 << 20));
        let mut account = budget.open_account();
        budget.note_beside(40 << 20);
        account.set_used(8 << 20);
        assert_eq!(account.allowed(), 4 << 20);
        assert!(account.insist());
        assert!(account.allowed() > 8 << 20, "there is some room to work in");
        account.set_used(11 << 20);
        assert!(!account.insist());
        assert_eq!(account.allowed(), (16 << 20) / PARTS * FOR_RECORDS);
    }

    /// Else one chunk of each of some states would be all that there is.
    #[test]
    fn chunks_and_buffers_are_small_where_the_budget_is() {
        let sizes = |mib: u64| {
            let budget = MemoryBudget::new(mib << 20);
            (budget.chunk_bytes() >> 10, budget.buffer_bytes() >> 10, budget.spare_buffers())
        };
        assert_eq!(sizes(1), (16, 64, 1));
        assert_eq!(sizes(4), (64, 256, 1));
        assert_eq!(sizes(100), (1024, 2048, 3));
        assert_eq!(sizes(128), (2048, 2048, 4));
        assert_eq!(sizes(100_000), (2048, 2048, 3125));
    }
}
