//! What a shard with a memory budget asks of its pipeline: early writes, and views of
//! the tables that there are.

use std::sync::Arc;
use std::time::Duration;

use crate::base::{Error, Result};
use crate::env::executor::Priority;
use crate::env::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering};
use crate::shard::spill::{Tables, View};
use crate::shard::{BaseTable, FrozenShard};
use crate::table::TableReader;
use crate::version::TableEntry;

use super::pipeline::Pipeline;

/// How long to sleep while another thread does the work of a backend without
/// threads of its own.
const OTHERS_WORK: Duration = Duration::from_millis(1);

/// What a table that is not open yet will take besides its filter and index, at least.
const LEAST_OPEN_BYTES: usize = 1024;

#[derive(Default)]
struct Latest {
    view: Arc<View>,
    /// Why a delta was not written, or a table not opened, if that came last.
    failure: Option<Arc<Error>>,
}

/// The views of a shard, newest only.
pub(super) struct Views {
    /// Whether anybody wants them.
    wanted: AtomicBool,
    newest: AtomicU64,
    /// Held while the tables for a view are opened: what was looked up first must not be
    /// shown last, or a view would have fewer freezes than one before.
    publishing: Mutex<()>,
    latest: Mutex<Latest>,
    changed: Condvar,
}

impl Views {
    pub(super) fn new() -> Self {
        Self {
            wanted: AtomicBool::new(false),
            newest: AtomicU64::new(0),
            publishing: Mutex::new(()),
            latest: Mutex::new(Latest::default()),
            changed: Condvar::new(),
        }
    }

    pub(super) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Publishes what came of the last change of the tables. Why something was not
    /// written stays to be told until it is.
    pub(super) fn publish(&self, outcome: Result<(u64, Vec<BaseTable>)>, is_all_written: bool) {
        let mut latest = self.latest.lock();
        match outcome {
            Ok((freezes, tables)) => {
                let number = latest.view.number + 1;
                latest.view = Arc::new(View { number, freezes, tables });
                if is_all_written {
                    latest.failure = None;
                }
                self.newest.store(number, Ordering::Release);
            }
            Err(error) => latest.failure = Some(Arc::new(error)),
        }
        drop(latest);
        self.changed.notify_all();
    }

    fn take_failure(&self) -> Option<Arc<Error>> {
        self.latest.lock().failure.take()
    }
}

/// A pipeline as its shard sees it.
pub(crate) struct ShardTables(Arc<Pipeline>);

impl Pipeline {
    /// From now on there are views of the tables, the first, of those that the shard
    /// was restored from, at once.
    pub(crate) fn spilling(self: &Arc<Self>, base: Vec<BaseTable>) -> ShardTables {
        self.views().wanted.store(true, Ordering::Relaxed);
        self.views().publish(Ok((0, base)), true);
        // With a budget it is worth more.
        self.local().fetch_later();
        // A restore opens tables without knowing whose filters there is room for.
        let pipeline = Arc::clone(self);
        self.executor().spawn(Priority::Normal, move || pipeline.publish_view(Ok(())));
        ShardTables(Arc::clone(self))
    }

    /// Tells the shard what tables there are now; or, if the last attempt to write
    /// one failed, why.
    pub(super) fn publish_view(&self, written: Result<()>) {
        if self.views().are_wanted() {
            let _alone = self.views().publishing.lock();
            let outcome = written.and_then(|()| self.open_tables());
            self.note_beside_records();
            self.views().publish(outcome, self.is_all_written());
        }
    }

    /// Changes where tables are read, and tells the shard.
    pub(super) fn publish_view_after(&self, change: impl FnOnce()) {
        if !self.views().are_wanted() {
            return change();
        }
        let _alone = self.views().publishing.lock();
        change();
        self.views().publish(self.open_tables(), self.is_all_written());
    }

    /// The tables, open, and the number of freezes that are in them.
    fn open_tables(&self) -> Result<(u64, Vec<BaseTable>)> {
        let (version, freezes) = self.version_now();
        // What every open table takes is no matter of choice.
        let apart = |table: &Arc<TableEntry>| match table.reader() {
            Some(reader) => reader.memory_bytes() - reader.held_bytes(),
            None => LEAST_OPEN_BYTES,
        };
        let all_apart: usize = version.tables().iter().map(apart).sum();
        let mut may_hold_bytes = self.held_bytes().saturating_sub(all_apart as u64);
        let open = |table: &Arc<TableEntry>| {
            let may_hold = |bytes: u64| bytes <= may_hold_bytes;
            let mut reader = match table.reader() {
                Some(reader) => reader,
                None => {
                    // A byte a record for the filter, and some for the index.
                    let likely = table.meta.records + table.meta.bytes / 256;
                    let open =
                        if may_hold(likely) { TableReader::open_held } else { TableReader::open };
                    table.replace_reader(self.open_table(table, open)?)
                }
            };
            let is_held = may_hold(reader.holdable_bytes()) || !reader.can_be_mapped();
            if is_held != (reader.held_bytes() > 0) || !reader.is_read_by_calls() {
                // What cannot be read now is told by who needs it.
                if let Ok(again) = reader.reopened(is_held, self.ledger()) {
                    reader = table.replace_reader(Arc::new(again));
                }
            }
            may_hold_bytes = may_hold_bytes.saturating_sub(reader.held_bytes() as u64);
            let dropped = Arc::from(table.dropped());
            Ok(BaseTable { reader, slice: table.slice, dropped })
        };
        // The newest first: they are the smallest, and asked the most. Who is to be held
        // from now on, or not any more, is opened once more; the other goes when the shard
        // has taken the view.
        let mut tables: Vec<_> = version.tables().iter().rev().map(open).collect::<Result<_>>()?;
        tables.reverse();
        Ok((freezes, tables))
    }
}

impl Tables for ShardTables {
    fn newest(&self) -> u64 {
        self.0.views().newest.load(Ordering::Acquire)
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.views().latest.lock().view)
    }

    fn is_merging(&self) -> bool {
        self.0.is_merging()
    }

    fn space_shortage(&self) -> f64 {
        self.0.local().shortage()
    }

    fn write(&self, frozen: FrozenShard) {
        self.0.submit_early(frozen);
    }

    fn wait(&self, seen: u64, patience: Duration) -> Result<()> {
        let views = self.0.views();
        let executor = self.0.executor();
        executor.wake();
        if executor.is_driven_by_caller() {
            while self.newest() == seen && executor.run_one() {}
        }
        {
            let mut latest = views.latest.lock();
            if latest.view.number == seen && latest.failure.is_none() {
                let patience = if executor.is_driven_by_caller() { OTHERS_WORK } else { patience };
                views.changed.wait_for(&mut latest, patience);
            }
        }
        match views.take_failure() {
            None => {
                // The failure may have been told to somebody else, or have been followed
                // by a merge that went well.
                if self.newest() == seen && self.0.is_left_unwritten() {
                    let pipeline = Arc::clone(&self.0);
                    executor.spawn(Priority::Normal, move || pipeline.write_again());
                }
                Ok(())
            }
            Some(failure) => {
                // Somebody has to try again, or nothing will ever be written.
                let pipeline = Arc::clone(&self.0);
                executor.spawn(Priority::Normal, move || pipeline.write_again());
                let copy = Error::new(failure.kind(), &failure);
                Err(if failure.may_have_happened() { copy.ambiguous() } else { copy })
            }
        }
    }
}
