//! Who has how much memory, by component: what a person asks when a process grows.
//!
//! A backend has one ledger, with and without a [budget](super::budget). Whoever holds
//! much memory holds a [`Charge`] beside it, which says how much; when it is dropped
//! the memory counts no more. What is not charged is small: less than a megabyte in
//! all, and a hundredth of what the records take.
//!
//! Charges change when a buffer grows, a table is opened or changes are written, never
//! with an operation on a record in memory. The sum is exact whatever the order in which
//! threads add to it; what is read while they do may mix what was before with what
//! comes after.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What memory is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum MemoryComponent {
    /// Records in memory, headers included.
    Records,
    /// Room between them that waits to be used again.
    Gaps,
    /// Hash indexes of the records.
    Indexes,
    /// Queues of timers and of what expires.
    Queues,
    /// Operator states.
    OperatorStates,
    /// Copies of what changed, until a table has it.
    Changes,
    /// Buffers that wait for the next copies.
    SpareBuffers,
    /// Pages that are kept ready for states that grow.
    ReadyPages,
    /// Filters, indexes and properties of open tables.
    OpenTables,
    /// Tables that are being written: their buffers, and what their filters and
    /// indexes are made of.
    Writing,
    /// What merges read ahead.
    Merging,
    /// Buffers through which tables are copied to a store.
    Uploading,
    /// Records of restored tables on their way into memory.
    WarmUp,
    /// Buffers for blocks of tables, of each thread that looks into tables.
    Blocks,
}

/// How many there are.
const COMPONENTS: usize = 14;

impl MemoryComponent {
    /// All of them.
    pub const ALL: [Self; COMPONENTS] = [
        Self::Records,
        Self::Gaps,
        Self::Indexes,
        Self::Queues,
        Self::OperatorStates,
        Self::Changes,
        Self::SpareBuffers,
        Self::ReadyPages,
        Self::OpenTables,
        Self::Writing,
        Self::Merging,
        Self::Uploading,
        Self::WarmUp,
        Self::Blocks,
    ];

    /// Whether it is what shards hold of their state, and give up when they are to.
    const fn is_state(self) -> bool {
        matches!(
            self,
            Self::Records | Self::Gaps | Self::Indexes | Self::Queues | Self::OperatorStates
        )
    }

    /// What it is called, in a few words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Gaps => "gaps between records",
            Self::Indexes => "indexes",
            Self::Queues => "timer and expiry queues",
            Self::OperatorStates => "operator states",
            Self::Changes => "changes to be written",
            Self::SpareBuffers => "spare buffers",
            Self::ReadyPages => "ready pages",
            Self::OpenTables => "open tables",
            Self::Writing => "tables being written",
            Self::Merging => "merges",
            Self::Uploading => "uploads",
            Self::WarmUp => "warm-up",
            Self::Blocks => "blocks of tables",
        }
    }
}

/// See the [module documentation](self).
#[derive(Default)]
pub struct MemoryLedger {
    bytes: [AtomicU64; COMPONENTS],
    total: AtomicU64,
    peak: AtomicU64,
    /// Of all that is not state, and the most since somebody asked.
    beside: AtomicU64,
    most_beside: AtomicU64,
}

impl MemoryLedger {
    /// A ledger that says nothing is used.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Says that so many bytes are used, until the charge is dropped.
    pub fn charge(self: &Arc<Self>, component: MemoryComponent, bytes: u64) -> Charge {
        let mut charge = Charge { ledger: Some(Arc::clone(self)), component, bytes: 0 };
        charge.set(bytes);
        charge
    }

    /// What is used now.
    pub fn stats(&self) -> MemoryStats {
        let bytes = std::array::from_fn(|at| self.bytes[at].load(Ordering::Relaxed));
        let total_bytes = self.total.load(Ordering::Relaxed);
        let peak_bytes = self.peak.load(Ordering::Relaxed).max(total_bytes);
        MemoryStats { bytes, limit_bytes: None, total_bytes, peak_bytes }
    }

    fn change(&self, component: MemoryComponent, before: u64, after: u64) {
        // Wraps in the middle of nothing: the sums are exact whatever the order.
        let by = after.wrapping_sub(before);
        self.bytes[component as usize].fetch_add(by, Ordering::Relaxed);
        let total = self.total.fetch_add(by, Ordering::Relaxed).wrapping_add(by);
        if after > before {
            self.peak.fetch_max(total, Ordering::Relaxed);
        }
        if !component.is_state() {
            let beside = self.beside.fetch_add(by, Ordering::Relaxed).wrapping_add(by);
            if after > before {
                self.most_beside.fetch_max(beside, Ordering::Relaxed);
            }
        }
    }

    /// The most bytes that were used at once beside the state of shards, since this was
    /// asked last.
    pub(crate) fn take_most_beside(&self) -> u64 {
        let now = self.beside.load(Ordering::Relaxed);
        self.most_beside.swap(now, Ordering::Relaxed).max(now)
    }
}

impl fmt::Debug for MemoryLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryLedger({} bytes)", self.total.load(Ordering::Relaxed))
    }
}

/// Some memory that somebody has; see [`MemoryLedger::charge`]. The default one is of
/// no ledger and counts nowhere.
pub struct Charge {
    ledger: Option<Arc<MemoryLedger>>,
    component: MemoryComponent,
    bytes: u64,
}

impl Charge {
    /// Says that it is so many bytes now.
    #[inline]
    pub fn set(&mut self, bytes: u64) {
        if bytes == self.bytes {
            return;
        }
        let before = std::mem::replace(&mut self.bytes, bytes);
        if let Some(ledger) = &self.ledger {
            ledger.change(self.component, before, bytes);
        }
    }

    /// How many bytes it was said to be.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The same bytes are of another component of the same ledger from now on: at no time
    /// they count twice, or not at all.
    pub(crate) fn turn_into(&mut self, component: MemoryComponent) {
        debug_assert!(!component.is_state() && !self.component.is_state());
        if let Some(ledger) = &self.ledger {
            ledger.bytes[self.component as usize].fetch_sub(self.bytes, Ordering::Relaxed);
            ledger.bytes[component as usize].fetch_add(self.bytes, Ordering::Relaxed);
        }
        self.component = component;
    }

    /// A charge of nothing yet for another component of the same ledger.
    #[must_use]
    pub fn beside(&self, component: MemoryComponent) -> Self {
        Self { ledger: self.ledger.clone(), component, bytes: 0 }
    }

    /// Counts the same bytes in the ledger of another one, unless it does already.
    pub(crate) fn move_to(&mut self, other: &Self) {
        let of = |charge: &Self| charge.ledger.as_ref().map(Arc::as_ptr);
        if of(self) != of(other) {
            let bytes = self.bytes;
            self.set(0);
            self.ledger = other.ledger.clone();
            self.set(bytes);
        }
    }
}

impl Default for Charge {
    fn default() -> Self {
        Self { ledger: None, component: MemoryComponent::Blocks, bytes: 0 }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({}: {} bytes)", self.component.name(), self.bytes)
    }
}

/// How much memory a backend has, by component; see
/// [`Backend::memory`](crate::Backend::memory).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MemoryStats {
    bytes: [u64; COMPONENTS],
    /// What may be used, in bytes; `None` without a memory budget.
    pub limit_bytes: Option<u64>,
    /// The sum of all components, in bytes.
    pub total_bytes: u64,
    /// The largest sum so far, in bytes.
    pub peak_bytes: u64,
}

impl MemoryStats {
    /// Bytes of one component.
    pub fn bytes_of(&self, component: MemoryComponent) -> u64 {
        self.bytes[component as usize]
    }

    pub(crate) fn within(self, limit_bytes: Option<u64>) -> Self {
        Self { limit_bytes, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_numbered_in_the_order_of_the_list() {
        for (at, component) in MemoryComponent::ALL.into_iter().enumerate() {
            assert_eq!(component as usize, at, "{component:?}");
        }
    }

    #[test]
    fn charges_count_while_they_live_and_the_peak_is_remembered() {
        let ledger = MemoryLedger::new();
        let mut records = ledger.charge(MemoryComponent::Records, 100);
        let merging = ledger.charge(MemoryComponent::Merging, 50);
        records.set(30);
        let stats = ledger.stats();
        assert_eq!(stats.bytes_of(MemoryComponent::Records), 30);
        assert_eq!(stats.bytes_of(MemoryComponent::Merging), 50);
        assert_eq!((stats.total_bytes, stats.peak_bytes), (80, 150));
        drop(merging);
        assert_eq!(ledger.stats().total_bytes, 30);
        drop(records);
        assert_eq!((ledger.stats().total_bytes, ledger.stats().peak_bytes), (0, 150));
    }

    #[test]
    fn what_turns_into_something_else_counts_once() {
        let ledger = MemoryLedger::new();
        let mut buffer = ledger.charge(MemoryComponent::Changes, 100);
        buffer.turn_into(MemoryComponent::SpareBuffers);
        let stats = ledger.stats();
        assert_eq!(stats.bytes_of(MemoryComponent::Changes), 0);
        assert_eq!(stats.bytes_of(MemoryComponent::SpareBuffers), 100);
        assert_eq!((stats.total_bytes, stats.peak_bytes), (100, 100));
        drop(buffer);
        assert_eq!(ledger.stats().bytes_of(MemoryComponent::SpareBuffers), 0);
    }

    #[test]
    fn what_is_used_beside_the_state_is_told_by_its_peaks() {
        let ledger = MemoryLedger::new();
        let _state = ledger.charge(MemoryComponent::Indexes, 1000);
        let mut merging = ledger.charge(MemoryComponent::Merging, 50);
        let writing = ledger.charge(MemoryComponent::Writing, 20);
        merging.set(10);
        assert_eq!(ledger.take_most_beside(), 70);
        drop(writing);
        assert_eq!(ledger.take_most_beside(), 30, "since the last time");
        assert_eq!(ledger.take_most_beside(), 10);
    }

    #[test]
    fn a_charge_that_moves_is_counted_once() {
        let (from, to) = (MemoryLedger::new(), MemoryLedger::new());
        let mut charge = from.charge(MemoryComponent::Blocks, 7);
        let there = to.charge(MemoryComponent::OpenTables, 1);
        charge.move_to(&there);
        charge.move_to(&there);
        assert_eq!((from.stats().total_bytes, to.stats().total_bytes), (0, 8));
        drop(charge);
        assert_eq!(to.stats().total_bytes, 1);
    }

    #[test]
    fn threads_that_charge_at_once_lose_nothing() {
        let ledger = MemoryLedger::new();
        #[allow(clippy::disallowed_methods, reason = "a test of threads, which no world runs")]
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut charge = ledger.charge(MemoryComponent::Changes, 0);
                    (0..10_000).for_each(|bytes| charge.set(bytes));
                });
            }
        });
        assert_eq!(ledger.stats().total_bytes, 0);
    }
}
