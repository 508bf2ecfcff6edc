//! The hand-over between writer and extractor: as it ships, and twice broken.

/// What the models do with a hand-over.
pub trait Handoff: Send + Sync + 'static {
    /// Everything up to `epoch` counts as extracted.
    fn new(epoch: u32) -> Self;
    /// The last record of `epoch` has been read.
    fn publish(&self, epoch: u32);
    /// The last extracted epoch.
    fn extracted(&self) -> u32;
}

/// Compiles `src/memtable/handoff.rs` with its `Release` and `Acquire` being
/// what is given.
macro_rules! handoff {
    ($module:ident, $release:ident, $acquire:ident) => {
        #[path = "../../../src/memtable"]
        mod $module {
            #[path = "handoff.rs"]
            mod handoff;

            mod sync {
                use loom::sync::atomic::Ordering as Order;

                /// The orderings that the source names.
                #[derive(Clone, Copy)]
                pub(crate) enum Ordering {
                    Relaxed,
                    Release,
                    Acquire,
                }

                impl Ordering {
                    fn order(self) -> Order {
                        match self {
                            Self::Relaxed => Order::Relaxed,
                            Self::Release => Order::$release,
                            Self::Acquire => Order::$acquire,
                        }
                    }
                }

                #[derive(Debug)]
                pub(crate) struct AtomicU32(loom::sync::atomic::AtomicU32);

                impl AtomicU32 {
                    pub(crate) fn new(value: u32) -> Self {
                        Self(loom::sync::atomic::AtomicU32::new(value))
                    }

                    pub(crate) fn load(&self, ordering: Ordering) -> u32 {
                        match ordering {
                            // Only the one thread that stores loads like this,
                            // so that it sees the last value in any case. To
                            // loom it must not look like a load: loom 0.7
                            // compares a store with the last access only, and
                            // a load by the thread that is about to store
                            // would hide the other thread's load from it.
                            Ordering::Relaxed => self.0.fetch_add(0, Order::Relaxed),
                            _ => self.0.load(ordering.order()),
                        }
                    }

                    pub(crate) fn store(&self, value: u32, ordering: Ordering) {
                        self.0.store(value, ordering.order());
                    }
                }
            }

            /// See the macro.
            #[derive(Debug)]
            pub struct Handoff(handoff::Handoff);

            impl super::Handoff for Handoff {
                fn new(epoch: u32) -> Self {
                    Self(handoff::Handoff::new(epoch))
                }

                fn publish(&self, epoch: u32) {
                    self.0.publish(epoch);
                }

                fn extracted(&self) -> u32 {
                    self.0.extracted()
                }
            }
        }
    };
}

handoff!(shipped, Release, Acquire);
handoff!(without_release, Relaxed, Acquire);
handoff!(without_acquire, Release, Relaxed);

pub use shipped::Handoff as Shipped;
pub use without_acquire::Handoff as WithoutAcquire;
pub use without_release::Handoff as WithoutRelease;
