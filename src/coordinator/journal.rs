//! The journal of a job: a sequence of objects, each created once and never replaced.
//!
//! The store is asked for nothing but a create that fails if the name exists. Whoever
//! creates entry *n* + 1 has read entry *n*, so all that anybody decides is in one
//! order. A coordinator that takes over creates the next entry with a higher epoch;
//! from then on the one before finds its place taken and knows that it is
//! [fenced](Journal::append).
//!
//! Old entries are removed, and a coordinator that slept meanwhile may find a gap in
//! which to create one. So an entry counts only when no higher number was there
//! afterwards: the creator looks, and readers take the highest there is.

use std::fmt;
use std::sync::Arc;

use super::layout::Layout;
use super::objects::{self, Created};
use crate::base::{Error, Result, SnapshotId};
use crate::env::Env;
use crate::format::journal::JournalEntry;
use crate::object::ObjectStore;

/// Entries that stay, so that whoever reads one finds it, and a person what was before.
const ENTRIES_KEPT: u64 = 16;
/// How often somebody looks again when the last entry went between two looks, or when
/// others write at the same time.
const ATTEMPTS: usize = 64;

/// The last entry of a job's journal; `None` if the job has none.
///
/// # Errors
/// `Unavailable` if the store cannot be read, `Corrupt` or `Incompatible` if the entry
/// cannot.
pub(super) fn read_last(store: &dyn ObjectStore, layout: &Layout) -> Result<Option<JournalEntry>> {
    for _ in 0..ATTEMPTS {
        let Some(number) = numbers(store, layout)?.last().copied() else { return Ok(None) };
        if let Some(bytes) = objects::read(store, &layout.entry(number))? {
            return decode(layout, number, &bytes).map(Some);
        }
    }
    Err(Error::unavailable("the journal changes faster than it can be read")
        .at(layout.journal())
        .remedy("try again"))
}

fn decode(layout: &Layout, number: u64, bytes: &[u8]) -> Result<JournalEntry> {
    let name = layout.entry(number);
    let entry = JournalEntry::decode(bytes).map_err(|error| {
        error.at(&name).remedy(
            "put the object back from a copy; or remove it, to go on from the entry before it",
        )
    })?;
    if entry.number != number {
        return Err(Error::corrupt("a journal entry has the name of another one")
            .at(&name)
            .expected(number)
            .found(entry.number));
    }
    Ok(entry)
}

/// The numbers of the entries, ascending.
fn numbers(store: &dyn ObjectStore, layout: &Layout) -> Result<Vec<u64>> {
    let names = store.list(&layout.journal())?;
    let mut numbers: Vec<_> =
        names.iter().filter_map(|name| layout.number_of_entry(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The journal as its one writer has it.
pub(super) struct Journal {
    store: Arc<dyn ObjectStore>,
    env: Arc<dyn Env>,
    layout: Layout,
    owner: String,
    writer: u64,
    epoch: u64,
    last: JournalEntry,
    /// An entry that may have been created, or may yet be.
    in_doubt: Option<JournalEntry>,
    fenced: bool,
}

impl Journal {
    /// Takes over the journal of a job: from now on its writer before can write no
    /// more. A job that has none gets one.
    ///
    /// # Errors
    /// As [`read_last`]; `Unavailable` if the entry that says so cannot be written.
    pub(super) fn take_over(
        store: Arc<dyn ObjectStore>,
        env: Arc<dyn Env>,
        layout: Layout,
        job: &str,
        owner: &str,
    ) -> Result<Self> {
        // Two that take over at the same time must not write the same bytes.
        let writer = env.random_u64();
        for _ in 0..ATTEMPTS {
            let before = read_last(&*store, &layout)?;
            let entry = before.unwrap_or_else(|| JournalEntry {
                number: 0,
                epoch: 0,
                writer: 0,
                written_unix_ms: 0,
                next_id: SnapshotId(1),
                job: job.to_owned(),
                owner: String::new(),
                resume: None,
                checkpoints: Vec::new(),
                savepoints: Vec::new(),
                retired: Vec::new(),
                borrowed: Vec::new(),
                outcomes: Vec::new(),
            });
            let epoch = entry.epoch + 1;
            let mut journal = Self {
                store: Arc::clone(&store),
                env: Arc::clone(&env),
                layout: layout.clone(),
                owner: owner.to_owned(),
                writer,
                epoch,
                last: entry,
                in_doubt: None,
                fenced: false,
            };
            match journal.append(|_| {}) {
                Ok(()) => return Ok(journal),
                Err(_) if journal.fenced => {}
                // Nobody else writes this entry: if it comes to be later, it is one of a
                // coordinator that never was.
                Err(error) => return Err(error),
            }
        }
        Err(Error::unavailable("others take over the job all the time")
            .at(layout.journal())
            .remedy("see to it that only one coordinator is started for a job"))
    }

    /// Which life of the job's coordinator this is.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last entry that is known to be written.
    pub(super) fn last(&self) -> &JournalEntry {
        &self.last
    }

    /// Whether it is not known what came of the last entry. [`settle`](Self::settle)
    /// finds out.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt.is_some()
    }

    /// Whether the journal has this checkpoint, or may come to have it.
    pub(super) fn may_have(&self, id: SnapshotId) -> bool {
        let entries = self.in_doubt.iter().chain([&self.last]);
        entries.flat_map(JournalEntry::kept).any(|kept| kept.id == id && kept.epoch == self.epoch)
    }

    /// Whether another one has taken over.
    pub(super) fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Writes the next entry: what is so now, with a change.
    ///
    /// # Errors
    /// `Closed` if another coordinator has taken over. `Unavailable` if the store
    /// fails; ambiguous if the entry may be there or come to be: then nothing else can
    /// be written until it is [settled](Self::settle) that it is.
    pub(super) fn append(&mut self, change: impl FnOnce(&mut JournalEntry)) -> Result<()> {
        self.settle()?;
        let mut entry = self.last.clone();
        entry.number += 1;
        entry.epoch = self.epoch;
        entry.writer = self.writer;
        entry.owner.clone_from(&self.owner);
        entry.written_unix_ms = self.env.unix_time_ms();
        change(&mut entry);
        self.write(entry)
    }

    /// Writes an entry in doubt again, until it is there.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub(super) fn settle(&mut self) -> Result<()> {
        if self.fenced {
            return Err(self.fenced_by(None));
        }
        match self.in_doubt.clone() {
            Some(entry) => self.write(entry),
            None => Ok(()),
        }
    }

    /// Looks whether another one has taken over, after something was not found that the
    /// last entry names, or somebody spoke of a later one.
    ///
    /// # Errors
    /// `Closed` if so; `Unavailable` if the store cannot be read.
    pub(super) fn look_again(&mut self) -> Result<()> {
        let newest = numbers(&*self.store, &self.layout)?.pop();
        if newest.is_some_and(|newest| newest > self.last.number) && self.in_doubt.is_none() {
            self.fenced = true;
            let newer = read_last(&*self.store, &self.layout).ok().flatten();
            return Err(self.fenced_by(newer));
        }
        Ok(())
    }

    /// What is in doubt stays so until the store says what came of it: that another
    /// attempt had no effect says nothing of those before.
    fn write(&mut self, entry: JournalEntry) -> Result<()> {
        let bytes = entry.encode()?;
        let name = self.layout.entry(entry.number);
        match objects::create(&*self.store, &name, &bytes) {
            Ok(Created::Ours) => {}
            Ok(Created::Others(found)) => {
                self.fenced = true;
                return Err(self.fenced_by(JournalEntry::decode(&found).ok()));
            }
            Err(error) => {
                let error = error.at(&name);
                if self.in_doubt.is_none() && !error.may_have_happened() {
                    return Err(error);
                }
                self.in_doubt = Some(entry);
                return Err(error.ambiguous());
            }
        }
        // It is there. It counts if nobody has gone on without it.
        let numbers = match numbers(&*self.store, &self.layout) {
            Ok(numbers) => numbers,
            Err(error) => {
                self.in_doubt = Some(entry);
                return Err(error.ambiguous());
            }
        };
        if numbers.last().is_some_and(|last| *last > entry.number) {
            self.fenced = true;
            let newer = read_last(&*self.store, &self.layout).ok().flatten();
            return Err(self.fenced_by(newer));
        }
        for number in numbers.iter().filter(|number| **number + ENTRIES_KEPT <= entry.number) {
            // What stays behind goes the next time.
            let _ = self.store.remove(&self.layout.entry(*number));
        }
        self.in_doubt = None;
        self.last = entry;
        Ok(())
    }

    fn fenced_by(&self, newer: Option<JournalEntry>) -> Error {
        let error = Error::closed("another coordinator has taken over the job")
            .at(self.layout.root())
            .expected(format_args!("epoch {}", self.epoch))
            .remedy("stop this one: the other has gone on from the last completed checkpoint");
        match newer {
            Some(newer) => error.found(format_args!("epoch {} of {:?}", newer.epoch, newer.owner)),
            None => error,
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Journal({} at {}, epoch {})", self.layout.root(), self.last.number, self.epoch)
    }
}
