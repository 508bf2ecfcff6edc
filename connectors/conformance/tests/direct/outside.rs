//! Where results go: a system that keeps transactions through crashes, and shows those
//! that were committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(crate) struct Outside {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The life of the job that may commit.
    life: u64,
    transactions: BTreeMap<String, Transaction>,
}

struct Transaction {
    lines: Vec<String>,
    is_shown: bool,
}

impl Outside {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps lines under a name that nothing else has, without showing them.
    pub(crate) fn prepare(&self, name: &str, lines: Vec<String>) {
        let transaction = Transaction { lines, is_shown: false };
        self.inner().transactions.insert(name.to_owned(), transaction);
    }

    /// Shows what was prepared, once. What a former life says counts for nothing.
    pub(crate) fn commit(&self, life: u64, name: &str) {
        let mut inner = self.inner();
        if life >= inner.life
            && let Some(transaction) = inner.transactions.get_mut(name)
        {
            transaction.is_shown = true;
        }
    }

    /// A life of the job begins, from a checkpoint before which these were prepared: they
    /// are shown, and nothing else is. Nothing is removed, since a savepoint may name it.
    pub(crate) fn recover(&self, life: u64, names: &BTreeSet<String>) {
        let mut inner = self.inner();
        inner.life = life;
        for (name, transaction) in &mut inner.transactions {
            transaction.is_shown = names.contains(name);
        }
    }

    /// A life begins; nothing else changes.
    pub(crate) fn fence(&self, life: u64) {
        self.inner().life = life;
    }

    /// What a broken sink would write once more.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        self.inner().transactions.get(name).map_or_else(Vec::new, |of| of.lines.clone())
    }

    pub(crate) fn shown(&self) -> Vec<String> {
        let inner = self.inner();
        let shown = inner.transactions.values().filter(|transaction| transaction.is_shown);
        shown.flat_map(|transaction| transaction.lines.iter().cloned()).collect()
    }
}
