//! The lists of a memtable: one record each, in the
//! [layout](super::collection::list) of a list.
//!
//! A list without elements has no record: to clear one is to
//! [delete](Memtable::delete) it. The tombstone tells tables that what they have
//! of the list does not count. A list that begins again in the epoch of its
//! tombstone takes that duty over (`Start::Replacing`); one that begins later
//! need not, since the tombstone is in a delta by then.
//!
//! A list that was appended to unseen while tables lay below is a *tail*: it is
//! whole when what tables had has been [put in front](Memtable::promote_list),
//! or when the memtable is complete, since then they had nothing.

use crate::base::{Epoch, Result};

use super::collection::elements::Elements;
use super::collection::list::{List, ListMut, Start};
use super::record::Probe;
use super::{Below, Memtable};

impl Memtable {
    /// The list of a key, as far as it is in memory; none if it is absent,
    /// empty, or only in tables.
    pub(crate) fn list(&self, probe: &Probe<'_>) -> Option<List<'_>> {
        self.live_value(probe).map(List::new)
    }

    /// Whether tables have to be asked for a list, or for its older part.
    pub(crate) fn wants_older(&self, probe: &Probe<'_>) -> bool {
        self.below == Below::Tables
            && match self.list(probe) {
                Some(list) => list.is_tail(),
                None => self.deleted_in(probe).is_none(),
            }
    }

    /// Appends elements. Does not care what tables have.
    ///
    /// # Errors
    /// `Invalid` if the list becomes too long; `Unavailable` if no memory can be
    /// had. The list is then as it was.
    pub(crate) fn append_to_list(
        &mut self,
        probe: &Probe<'_>,
        elements: Elements<'_>,
    ) -> Result<()> {
        if elements.count() == 0 {
            return Ok(());
        }
        let epoch = self.epoch();
        if let Some(mut record) = self.open(probe)? {
            return ListMut::new(&mut record).append_all(epoch, elements);
        }
        let start = match self.deleted_in(probe) {
            Some(deleted) if deleted == epoch => Start::Replacing,
            Some(_) => Start::Whole,
            None if self.below == Below::Tables => Start::Tail,
            None => Start::Whole,
        };
        self.set_record(probe, &new_list(epoch, start, elements)?)
    }

    /// Makes these, of which there is at least one, all elements of a list,
    /// whatever it was.
    ///
    /// # Errors
    /// As of [`append_to_list`](Self::append_to_list).
    pub(crate) fn replace_list(&mut self, probe: &Probe<'_>, elements: Elements<'_>) -> Result<()> {
        debug_assert!(elements.count() > 0);
        let epoch = self.epoch();
        let start = match self.deleted_in(probe) {
            Some(deleted) if deleted != epoch => Start::Whole,
            None if self.is_fresh(probe) => Start::Whole,
            None if self.below == Below::Nothing && self.list(probe).is_none() => Start::Whole,
            _ => Start::Replacing,
        };
        self.set_record(probe, &new_list(epoch, start, elements)?)
    }

    /// Brings in what tables have of a list, unless the memtable knows better.
    ///
    /// # Errors
    /// As of [`append_to_list`](Self::append_to_list).
    pub(crate) fn promote_list(&mut self, probe: &Probe<'_>, older: Elements<'_>) -> Result<()> {
        if !self.wants_older(probe) {
            return Ok(());
        }
        if let Some(mut tail) = self.open(probe)? {
            return ListMut::new(&mut tail).prepend_older(&[older]);
        }
        if older.count() == 0 {
            return Ok(());
        }
        self.promote(probe, &new_list(Epoch::CLEAN, Start::Whole, older)?)
    }
}

fn new_list(epoch: Epoch, start: Start, elements: Elements<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ListMut::create(&mut bytes, epoch, elements.is_timed(), start)?.append_all(epoch, elements)?;
    Ok(bytes)
}
