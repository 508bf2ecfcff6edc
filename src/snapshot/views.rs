//! What a shard with a memory budget asks of its pipeline: early writes, and views of
//! the tables that there are.

use std::sync::Arc;
use std::time::Duration;

use crate::base::{Error, Result};
use crate::env::budget::HeldAccount;
use crate::env::executor::Priority;
use crate::env::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering};
use crate::shard::spill::{Tables, View};
use crate::shard::{BaseTable, FrozenShard};
use crate::table::{Held, TableReader};
use crate::version::TableEntry;

use super::pipeline::Pipeline;

/// How long to sleep while another thread does the work of a backend without
/// threads of its own.
const OTHERS_WORK: Duration = Duration::from_millis(1);

/// What a table that is not open yet will take besides its filter and index, at least.
const LEAST_OPEN_BYTES: usize = 1024;

/// Of a smaller budget what every open table takes is more than could be gained.
const LEAST_JUDGED_BYTES: u64 = 1 << 20;
/// Look-ups until it is asked again what filters are good for.
const LOOKUPS_TO_JUDGE: u64 = 1024;
/// Filters of the oldest tables spare reads if so many look-ups of a thousand find nothing;
const SPARING_PER_MILLE: u64 = 60;
/// and nothing if no more than so many do.
const USELESS_PER_MILLE: u64 = 15;

/// What the filters of those tables are good for that have no older ones beneath them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Filters {
    #[default]
    Unknown,
    /// Many keys are asked for that are nowhere.
    SpareReads,
    /// Nearly every key that is asked for is there.
    SpareNothing,
}

/// How many look-ups of late found nothing.
#[derive(Default)]
struct Denials {
    /// Up to where they were judged: keys that were looked for, and those that are nowhere.
    seen: (u64, u64),
    filters: Filters,
}

impl Denials {
    /// Takes note of all look-ups so far, and says what filters are good for.
    fn note(&mut self, (lookups, absent): (u64, u64)) -> Filters {
        // Those of a state that was dropped count no more.
        let Some(of_late) = lookups.checked_sub(self.seen.0) else {
            self.seen = (lookups, absent);
            return self.filters;
        };
        if of_late >= LOOKUPS_TO_JUDGE {
            let per_mille = absent.saturating_sub(self.seen.1) * 1000 / of_late;
            self.seen = (lookups, absent);
            // In between it stays as it is, lest tables be opened again and again.
            if per_mille >= SPARING_PER_MILLE {
                self.filters = Filters::SpareReads;
            } else if per_mille <= USELESS_PER_MILLE {
                self.filters = Filters::SpareNothing;
            }
        }
        self.filters
    }
}

/// What is known for the choice of what is held in memory of which tables.
#[derive(Default)]
struct Holding {
    denials: Denials,
    /// From the first view on.
    account: Option<HeldAccount>,
}

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
    publishing: Mutex<Holding>,
    /// Keys that the shard looked for in tables so far, and how many of them are nowhere.
    lookups: AtomicU64,
    absent: AtomicU64,
    latest: Mutex<Latest>,
    changed: Condvar,
}

impl Views {
    pub(super) fn new() -> Self {
        Self {
            wanted: AtomicBool::new(false),
            newest: AtomicU64::new(0),
            publishing: Mutex::default(),
            lookups: AtomicU64::new(0),
            absent: AtomicU64::new(0),
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

    /// Keys that were looked for so far, and how many of them are nowhere.
    fn lookups(&self) -> (u64, u64) {
        // The smaller one first: more of it than of the other would be nonsense.
        let absent = self.absent.load(Ordering::Acquire);
        (self.lookups.load(Ordering::Relaxed), absent)
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
            let mut holding = self.views().publishing.lock();
            let outcome = written.and_then(|()| self.open_tables(&mut holding));
            self.note_beside_records();
            self.views().publish(outcome, self.is_all_written());
        }
    }

    /// Changes where tables are read, and tells the shard.
    pub(super) fn publish_view_after(&self, change: impl FnOnce()) {
        if !self.views().are_wanted() {
            return change();
        }
        let mut holding = self.views().publishing.lock();
        change();
        self.views().publish(self.open_tables(&mut holding), self.is_all_written());
    }

    /// The tables, open, and the number of freezes that are in them.
    ///
    /// Who is to be held from now on, or not any more, is opened once more; the other goes
    /// when the shard has taken the view.
    fn open_tables(&self, holding: &mut Holding) -> Result<(u64, Vec<BaseTable>)> {
        let (version, freezes) = self.version_now();
        let Some(budget) = self.budget() else {
            return Err(Error::internal("views of tables without a budget"));
        };
        let account = holding.account.get_or_insert_with(|| budget.open_held_account());
        let filters = match budget.limit_bytes() {
            small if small < LEAST_JUDGED_BYTES => Filters::Unknown,
            _ => holding.denials.note(self.views().lookups()),
        };
        // What every open table takes is no matter of choice.
        let apart = |table: &Arc<TableEntry>| match table.reader() {
            Some(reader) => reader.memory_bytes() - reader.held_bytes(),
            None => LEAST_OPEN_BYTES,
        };
        let all_apart = version.tables().iter().map(apart).sum::<usize>() as u64;
        let share = account.share(filters == Filters::SpareReads).saturating_sub(all_apart);
        let room = account.room().min(share);
        let (mut held, mut wanted) = (0, 0);
        // The newest first: they are the smallest, and asked the most.
        let mut tables = Vec::with_capacity(version.tables().len());
        for (number, table) in version.tables().iter().enumerate().rev() {
            let older = &version.tables()[..number];
            let has_older =
                || older.iter().any(|older| older.slice.intersection(table.slice).is_some());
            let best = match filters {
                Filters::SpareNothing if !has_older() => Held::Index,
                _ => Held::Both,
            };
            let mut reader = match table.reader() {
                Some(reader) => reader,
                None => {
                    // A byte a record for the filter, and some for the index.
                    let likely = table.meta.records + table.meta.bytes / 256;
                    let is_held = best == Held::Both && held + likely <= room;
                    let open = if is_held { TableReader::open_held } else { TableReader::open };
                    table.replace_reader(self.open_table(table, open)?)
                }
            };
            // Who looks for a list or a map asks the filter in any case.
            let choices: &[Held] = match best {
                _ if reader.has_collections() || filters == Filters::Unknown => &[Held::Both],
                Held::Both => &[Held::Both, Held::Index],
                Held::Index | Held::Nothing => &[Held::Index],
            };
            let fitting = |taken: u64, most: u64| {
                let fits = |held: &&Held| taken + reader.bytes_to_hold(**held) <= most;
                choices.iter().find(fits).copied().unwrap_or(Held::Nothing)
            };
            wanted += reader.bytes_to_hold(fitting(wanted, share));
            let holds = fitting(held, room);
            if reader.would_hold(holds) != reader.holds() || !reader.is_read_by_calls() {
                // What cannot be read now is told by who needs it.
                if let Ok(again) = reader.reopened(holds, self.ledger()) {
                    reader = table.replace_reader(Arc::new(again));
                }
            }
            held += reader.held_bytes() as u64;
            let dropped = Arc::from(table.dropped());
            tables.push(BaseTable { reader, slice: table.slice, dropped });
        }
        account.note(held, (filters != Filters::Unknown).then_some(wanted));
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

    fn note_lookups(&self, lookups: u64, absent: u64) {
        let views = self.0.views();
        views.lookups.store(lookups, Ordering::Relaxed);
        views.absent.store(absent, Ordering::Release);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_filters_are_good_for_is_judged_by_look_ups_of_late_and_stays_in_between() {
        let mut denials = Denials::default();
        let mut all = (0, 0);
        let mut after = |lookups: u64, per_mille: u64| {
            all = (all.0 + lookups, all.1 + lookups * per_mille / 1000);
            denials.note(all)
        };
        assert_eq!(after(LOOKUPS_TO_JUDGE - 1, 1000), Filters::Unknown, "too few");
        assert_eq!(after(1, 0), Filters::SpareReads);
        assert_eq!(after(10_000, (SPARING_PER_MILLE + USELESS_PER_MILLE) / 2), Filters::SpareReads);
        assert_eq!(after(10_000, USELESS_PER_MILLE), Filters::SpareNothing);
        assert_eq!(after(10, 1000), Filters::SpareNothing, "too few");
        assert_eq!(after(10_000, SPARING_PER_MILLE - 1), Filters::SpareNothing);
        assert_eq!(after(10_000, SPARING_PER_MILLE), Filters::SpareReads);
        // A state was dropped, and with it most of them.
        assert_eq!(denials.note((5, 5)), Filters::SpareReads);
        assert_eq!(denials.note((5 + LOOKUPS_TO_JUDGE, 5)), Filters::SpareNothing);
    }
}
