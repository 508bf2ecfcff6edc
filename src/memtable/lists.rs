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

use crate::base::{Epoch, KeyGroup, Result};

use super::buffer::prefetch_rest;
use super::collection::elements::{Elements, MAX_ELEMENTS_BYTES, check_elements_len, untimed_len};
use super::collection::list::{self, List, ListMut, Start, fill_last};
use super::collection::{Buffer, NEVER};
use super::entry::Hit;
use super::record::{FRESH, Probe};
use super::{Below, Found, Holds, Memtable};

/// Memory that is kept from one new list to the next.
const KEPT_BYTES: usize = 64 * 1024;

/// A new list whose element is not longer has room for [`FEW`] such.
const SMALL_BYTES: usize = 64;
const FEW: usize = 4;

/// Elements that a list is to get.
#[derive(Clone, Copy)]
enum Added<'a> {
    /// These, with one stamp or [`NEVER`].
    Each { elements: &'a [&'a [u8]], stamp: u64 },
    /// These, with the stamps that they have.
    Packed(Elements<'a>),
}

impl Added<'_> {
    #[inline(always)]
    fn is_empty(self) -> bool {
        match self {
            Self::Each { elements, .. } => elements.is_empty(),
            Self::Packed(elements) => elements.count() == 0,
        }
    }

    #[inline(always)]
    fn append_to<B: Buffer>(self, list: &mut ListMut<'_, B>, epoch: Epoch) -> Result<()> {
        match self {
            Self::Each { elements, stamp } => list.append_each(epoch, elements, stamp),
            Self::Packed(elements) => list.append_all(epoch, elements),
        }
    }
}

/// What one look at the likely place settles; that is the usual case, in which
/// every instruction is felt (see `entry`). All else goes the long way.
impl Memtable {
    /// The list of a key. `None` says nothing.
    #[inline(always)]
    pub(crate) fn list_at_hand(
        &self,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> Option<List<'_>> {
        let hit = self.part_at_hand(Holds::Lists, group, key, namespace)?;
        let bytes = self.value_of::<false>(hit, key, namespace);
        prefetch_rest(bytes);
        Some(List::new(bytes))
    }

    /// Appends an element to a list of the current epoch that has room for it.
    /// False says nothing: the list is as it was.
    #[inline(always)]
    pub(crate) fn append_at_hand(
        &mut self,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        element: &[u8],
    ) -> bool {
        let Some(Hit(block)) = self.current_at_hand(Holds::Lists, group, key, namespace) else {
            return false;
        };
        let list = List::new(self.arena.value_of(block, key, namespace));
        let added = untimed_len(element);
        // A list that does not come near its limit is the usual case, too.
        if list.is_timed()
            || list.elements().bytes().len().saturating_add(added) > MAX_ELEMENTS_BYTES
            || !self.arena.extend_value(block, key, namespace, added)
        {
            return false;
        }
        fill_last(self.arena.value_of_mut(block, key, namespace), self.epoch, element);
        true
    }

    /// Appends elements to a list of any epoch. False says nothing: the list is as
    /// it was.
    #[inline]
    pub(crate) fn append_to_any_epoch(
        &mut self,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        elements: &[&[u8]],
    ) -> bool {
        let epoch = self.epoch;
        match self.open_of_any_epoch(Holds::Lists, group, key, namespace) {
            Some(mut record) => {
                ListMut::new(&mut record).append_each(epoch, elements, NEVER).is_ok()
            }
            None => false,
        }
    }
}

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

    /// In which epoch a list began of which older elements may lie in tables.
    pub(crate) fn tail_since(&self, probe: &Probe<'_>) -> Option<Epoch> {
        self.list(probe)?.tail_since()
    }

    /// Appends elements, of now if they expire. Does not care what tables have.
    ///
    /// # Errors
    /// `Invalid` if the list becomes too long; `Unavailable` if no memory can be
    /// had. The list is then as it was.
    pub(crate) fn append_to_list(&mut self, probe: &Probe<'_>, elements: &[&[u8]]) -> Result<()> {
        let stamp = self.stamp_of_elements();
        self.append_added(probe, Added::Each { elements, stamp })
    }

    /// Appends elements that are in the form of the list.
    ///
    /// # Errors
    /// As of [`append_to_list`](Self::append_to_list).
    pub(crate) fn append_packed(
        &mut self,
        probe: &Probe<'_>,
        elements: Elements<'_>,
    ) -> Result<()> {
        self.append_added(probe, Added::Packed(elements))
    }

    /// Makes these, of which there is at least one, all elements of a list,
    /// whatever it was.
    ///
    /// # Errors
    /// As of [`append_to_list`](Self::append_to_list).
    pub(crate) fn replace_list(&mut self, probe: &Probe<'_>, elements: &[&[u8]]) -> Result<()> {
        let stamp = self.stamp_of_elements();
        self.replace_added(probe, Added::Each { elements, stamp })
    }

    /// The same with elements that are in the form of the list.
    ///
    /// # Errors
    /// As of [`append_to_list`](Self::append_to_list).
    pub(crate) fn replace_packed(
        &mut self,
        probe: &Probe<'_>,
        elements: Elements<'_>,
    ) -> Result<()> {
        self.replace_added(probe, Added::Packed(elements))
    }

    fn stamp_of_elements(&self) -> u64 {
        if self.is_timed() { self.stamp() } else { NEVER }
    }

    #[inline(always)]
    fn append_added(&mut self, probe: &Probe<'_>, elements: Added<'_>) -> Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        let epoch = self.epoch;
        let found = self.find(probe);
        let start = match found {
            Some(found) if self.is_live(found.block) => {
                let mut record = self.open_found(found, probe)?;
                return elements.append_to(&mut ListMut::new(&mut record), epoch);
            }
            Some(found) if self.arena.header(found.block).epoch() == epoch => Start::Replacing,
            Some(_) => Start::Whole,
            None if self.below == Below::Tables => Start::Tail,
            None => Start::Whole,
        };
        self.set_list(found, probe, start, elements)
    }

    fn replace_added(&mut self, probe: &Probe<'_>, elements: Added<'_>) -> Result<()> {
        debug_assert!(!elements.is_empty());
        let epoch = self.epoch();
        let start = match self.deleted_in(probe) {
            Some(deleted) if deleted != epoch => Start::Whole,
            None if self.is_fresh(probe) => Start::Whole,
            None if self.below == Below::Nothing && self.list(probe).is_none() => Start::Whole,
            _ => Start::Replacing,
        };
        self.set_list(self.find(probe), probe, start, elements)
    }

    fn set_list(
        &mut self,
        found: Option<Found>,
        probe: &Probe<'_>,
        start: Start,
        elements: Added<'_>,
    ) -> Result<()> {
        if let (Added::Each { elements: [element], stamp: NEVER }, None) = (elements, found) {
            return self.begin_list(probe, start, element);
        }
        let (epoch, timed) = (self.epoch, self.is_timed());
        let mut bytes = std::mem::take(&mut self.scratch);
        let done = ListMut::create(&mut bytes, epoch, timed, start)
            .and_then(|mut list| elements.append_to(&mut list, epoch))
            .and_then(|()| self.set_found(found, probe, &bytes));
        if bytes.capacity() <= KEPT_BYTES {
            self.scratch = bytes;
        }
        done
    }

    /// Makes a list of one element, where there is no record.
    fn begin_list(&mut self, probe: &Probe<'_>, start: Start, element: &[u8]) -> Result<()> {
        let added = untimed_len(element);
        check_elements_len(added)?;
        let empty = list::empty(self.epoch, start);
        let fresh = if self.below == Below::Nothing { FRESH } else { 0 };
        // Most lists get more elements than one: room for a few small ones.
        let slack = if added <= SMALL_BYTES { FEW * added } else { added };
        let block = self.add(probe, Some(&empty), fresh, slack)?;
        let fits = self.arena.extend_value(block, probe.key, probe.namespace, added);
        debug_assert!(fits, "the record was made with room for it");
        fill_last(self.arena.value_of_mut(block, probe.key, probe.namespace), self.epoch, element);
        Ok(())
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
        let mut bytes = Vec::new();
        ListMut::create(&mut bytes, Epoch::CLEAN, self.is_timed(), Start::Whole)?
            .append_all(Epoch::CLEAN, older)?;
        self.promote(probe, &bytes)
    }
}
