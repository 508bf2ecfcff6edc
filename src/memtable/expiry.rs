//! Values that expire: when, and how they leave.
//!
//! Of a state with a time to live every value, list element and map entry has a
//! *stamp*, the time of its last write (or read): that of a value lies in front
//! of it, those of elements and entries in the layouts of
//! [`collection`](super::collection). It has expired when its stamp is not
//! above the *cutoff*, now less the time to live. The time to live is said
//! nowhere in a record, so another one is a matter of arithmetic.
//!
//! # Time
//!
//! The owner of the clock keeps the time in a number that everybody can look at.
//! An operation compares it with what it was when the memtable last looked
//! ([`Memtable::look_at_clock`]): nearly always that is all. If it has changed,
//! the cutoff is computed anew, and a few records that are due are looked at.
//!
//! # The queue
//!
//! 1. Each live record that can expire has at least one entry in a queue of (time, hash of the
//!    record); quiet records have none. It is made when the record comes to life
//!    ([`Memtable::add`], [`promote`](Memtable::promote), and when a tombstone
//!    gets a value). Changes leave the queue alone.
//! 2. When the entry is due, the record is looked at. If it has expired it is
//!    deleted, as if by its user: with a tombstone, unless no table can have
//!    heard of it. So nothing that has expired and went comes back from a table,
//!    whatever clocks do. Else it is due again when it will have expired.
//! 3. Deleting a record leaves its entry behind. When the queue has twice as many
//!    entries as there are records, it is gone through, a few entries with each
//!    operation: those of no record go, and of those of one record all but one.
//!
//! Times in the queue are rounded up to a 32nd of the time to live, so that
//! entries of one record often are equal, and a record that is changed all the
//! time is looked at 32 times in that time.
//!
//! A map is looked at page by page. A list gives up its expired elements when
//! they are half of its bytes, because that writes the rest of it anew.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::limits::check_value;
use crate::base::time::{UNKNOWN_STAMP, ms_of_stamp};
use crate::base::{KeyGroup, Result};
use crate::env::clock::ASK;

use super::arena::Block;
use super::collection::elements::{Element, Elements, ElementsBuf};
use super::collection::list::List;
use super::collection::map::MapPage;
use super::lifetime::TtlRule;
use super::maps::{MapAt, Part};
use super::queue::{Entry, TimeQueue};
use super::record::{Probe, Record};
use super::{Below, Found, Holds, Memtable};

/// Bytes of the stamp in front of a value.
pub(crate) const STAMP_BYTES: usize = 8;
/// Records that are due, and entries of the queue that may be of none, looked
/// at with an operation that sees the time change, and with each one after it
/// as long as there are more.
const PER_OPERATION: usize = 4;
/// Entries of a map that one look at a page removes.
const ENTRIES_AT_ONCE: usize = 64;
/// Entries that the queue may have beyond two for each record.
const SPARE_ENTRIES: usize = 1024;
/// What no clock says.
const NOT_LOOKED: u64 = u64::MAX;

/// What operations have to know of the time: nothing is ever looked up in a
/// state without time to live, whose clock stands still.
pub(super) struct Time {
    cell: Arc<AtomicU64>,
    /// What the clock said when the rest was computed.
    seen: u64,
    /// The stamp of what is written now.
    pub(super) stamp: u64,
    /// What has a stamp up to this has expired.
    pub(super) cutoff: u64,
    /// What has a stamp up to this is not to be seen.
    pub(super) hidden: u64,
    /// A read renews the stamp.
    pub(super) renews: bool,
}

impl Time {
    pub(super) fn standing_still() -> Self {
        Self { cell: Arc::default(), seen: 0, stamp: 0, cutoff: 0, hidden: 0, renews: false }
    }
}

/// What a memtable has besides, if its values expire.
pub(super) struct Expiry {
    rule: Arc<TtlRule>,
    now: u64,
    queue: TimeQueue,
    /// Entries that were taken out of the queue to see whether they are of use.
    under_sweep: Vec<Entry>,
    /// Where in the queue to go on with that.
    sweep_from: Entry,
    /// A value with its stamp, on its way.
    stamped: Vec<u8>,
    names: Vec<u8>,
}

/// Records of one hash, copied.
#[derive(Default)]
struct Copied {
    bytes: Vec<u8>,
    parts: Vec<(KeyGroup, usize, usize)>,
}

impl Copied {
    fn iter(&self) -> impl Iterator<Item = (KeyGroup, &[u8], &[u8])> {
        let mut at = 0;
        self.parts.iter().map(move |&(group, key_len, namespace_len)| {
            let (key, namespace) = self.bytes[at..at + key_len + namespace_len].split_at(key_len);
            at += key_len + namespace_len;
            (group, key, namespace)
        })
    }
}

/// Splits the stamp off a value.
#[inline(always)]
pub(super) fn split_stamp(value: &[u8]) -> (u64, &[u8]) {
    let (stamp, value) = value.split_first_chunk().expect("a value has a stamp");
    (u64::from_le_bytes(*stamp), value)
}

/// Writes the stamp of a value and gives what follows.
#[inline(always)]
pub(super) fn restamp(value: &mut [u8], stamp: u64) -> &mut [u8] {
    let (to, value) = value.split_first_chunk_mut().expect("a value has a stamp");
    *to = stamp.to_le_bytes();
    value
}

impl Memtable {
    /// From now on, before there is any record, values have stamps and expire.
    pub(crate) fn set_ttl(&mut self, rule: Arc<TtlRule>) {
        debug_assert_eq!(self.index.len(), 0);
        self.time = Time {
            cell: Arc::clone(rule.clock.cell()),
            seen: NOT_LOOKED,
            stamp: UNKNOWN_STAMP,
            cutoff: 0,
            hidden: 0,
            renews: rule.renews,
        };
        self.expiry = Some(Box::new(Expiry {
            rule,
            now: UNKNOWN_STAMP,
            queue: TimeQueue::new(),
            under_sweep: Vec::new(),
            sweep_from: Entry::LOWEST,
            stamped: Vec::new(),
            names: Vec::new(),
        }));
        self.note_at_hand();
        self.look_at_clock();
    }

    /// Whether values have stamps and expire.
    #[inline]
    pub(crate) fn is_timed(&self) -> bool {
        self.expiry.is_some()
    }

    /// Whether reads renew stamps.
    #[inline]
    pub(crate) fn renews(&self) -> bool {
        self.time.renews
    }

    /// The stamp of what is written now.
    #[inline]
    pub(crate) fn stamp(&self) -> u64 {
        self.time.stamp
    }

    /// What has a stamp up to this is not to be seen.
    #[inline]
    pub(crate) fn hidden(&self) -> u64 {
        self.time.hidden
    }

    /// Bytes of the queue.
    pub(crate) fn expiry_queue_bytes(&self) -> usize {
        self.expiry.as_ref().map_or(0, |expiry| {
            expiry.queue.bytes() + expiry.under_sweep.capacity() * size_of::<Entry>()
        })
    }

    /// Notes if time has passed. To be called before an operation looks for
    /// anything: what has expired may go, and its memory with it.
    #[inline(always)]
    pub(crate) fn look_at_clock(&mut self) {
        if self.time.cell.load(Ordering::Relaxed) != self.time.seen {
            self.time_passed(PER_OPERATION);
        }
    }

    /// Looks at so many records that are due, or does as much of the chores that
    /// their going makes, and says whether there is no more to do.
    ///
    /// # Errors
    /// `Unavailable` if there is no memory for a tombstone: the record stays,
    /// and is due.
    pub(crate) fn expire(&mut self, records: usize) -> Result<bool> {
        let Some(expiry) = &mut self.expiry else { return Ok(true) };
        let seen = self.time.cell.load(Ordering::Relaxed);
        expiry.now = if seen == ASK { expiry.rule.clock.now() } else { seen };
        self.time.cutoff = expiry.rule.cutoff_at(expiry.now);
        self.time.stamp = expiry.now;
        self.time.hidden = if expiry.rule.shows_expired { 0 } else { self.time.cutoff };
        // Until it is known that nothing is due, the next operation looks again.
        self.time.seen = NOT_LOOKED;
        let mut left = records;
        while self.is_any_due() {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            let Some(entry) = self.pop_first() else { break };
            if let Err(error) = self.look_at_due(entry.hash()) {
                self.queue(entry);
                return Err(error);
            }
        }
        if !self.sweep_queue(left) {
            return Ok(false);
        }
        // The tombstones of what went before are in a table by now, some of them.
        while self.chores() {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
        }
        if seen != ASK {
            self.time.seen = seen;
        }
        Ok(true)
    }

    #[cold]
    #[inline(never)]
    fn time_passed(&mut self, records: usize) {
        // Whoever operates on other records has nothing to do with a failure
        // here. The next operation tries again.
        let _ = self.expire(records);
    }

    fn is_any_due(&mut self) -> bool {
        let Some(expiry) = &mut self.expiry else { return false };
        let now = ms_of_stamp(expiry.now);
        expiry.queue.first().is_some_and(|first| first.timestamp() <= now)
    }

    fn pop_first(&mut self) -> Option<Entry> {
        self.expiry.as_mut()?.queue.pop_first()
    }

    fn queue(&mut self, entry: Entry) {
        if let Some(expiry) = &mut self.expiry {
            expiry.queue.insert_unless_there(entry);
        }
    }

    /// Has a record looked at when it may have expired. For records that come to
    /// life.
    #[inline]
    pub(super) fn expect_expiry(&mut self, hash: u64, value: &[u8]) {
        if self.expiry.is_some() {
            self.queue_new(hash, value);
        }
    }

    #[inline(never)]
    fn queue_new(&mut self, hash: u64, value: &[u8]) {
        let Some(due) = self.due_of(value) else { return };
        let Some(expiry) = &mut self.expiry else { return };
        let entry = expiry.rule.entry(due, hash);
        expiry.queue.insert(expiry.queue.locate(entry), entry);
    }

    /// When the value of a record should be looked at; never if it is a quiet
    /// record's, or does not expire as long as time can be counted.
    fn due_of(&self, value: &[u8]) -> Option<u64> {
        let Expiry { rule, now, .. } = &**self.expiry.as_ref()?;
        match self.holds {
            Holds::Values => rule.due(split_stamp(value).0),
            Holds::Lists => {
                let elements = List::new(value).elements();
                let due = rule.due(half_expired_at(elements).unwrap_or(*now))?;
                Some(due.max(now.checked_add(rule.step())?))
            }
            Holds::Maps => {
                let oldest = MapPage::new(value)
                    .iter()
                    .filter(|entry| entry.value.is_some())
                    .map(|entry| entry.stamp)
                    .min();
                // A page of tombstones may get entries again.
                rule.due(oldest.unwrap_or(*now))
            }
            Holds::Others => None,
        }
    }

    fn copy_of_hash(&self, hash: u64) -> Copied {
        let mut copied = Copied::default();
        self.visit_hash(hash, |_, group, key, namespace| {
            copied.bytes.extend_from_slice(key);
            copied.bytes.extend_from_slice(namespace);
            copied.parts.push((group, key.len(), namespace.len()));
        });
        copied
    }

    /// Looks at the records of a hash whose entry came due and is out of the
    /// queue.
    fn look_at_due(&mut self, hash: u64) -> Result<()> {
        for (group, key, namespace) in self.copy_of_hash(hash).iter() {
            let probe = Probe { hash, group, key, namespace };
            match self.holds {
                Holds::Values => self.expire_value(&probe)?,
                Holds::Lists => self.expire_list(&probe)?,
                Holds::Maps => self.expire_page(&probe)?,
                Holds::Others => {}
            }
            self.queue_again(&probe);
        }
        Ok(())
    }

    /// Puts a record into the queue that may be there already; if it is there at
    /// all.
    fn queue_again(&mut self, probe: &Probe<'_>) {
        if self.holds == Holds::Maps
            && !matches!(Part::of_name(probe.namespace).1, Part::Small | Part::Page(_))
        {
            return;
        }
        let due = self.live_value(probe).and_then(|value| self.due_of(value));
        if let (Some(due), Some(expiry)) = (due, &mut self.expiry) {
            let entry = expiry.rule.entry(due, probe.hash);
            expiry.queue.insert_unless_there(entry);
        }
    }

    /// Goes through some entries of the queue if it may have many of no use.
    /// Says whether nothing is left to do.
    fn sweep_queue(&mut self, entries: usize) -> bool {
        let records = self.index.len() as usize;
        for _ in 0..entries {
            let Some(expiry) = &mut self.expiry else { return true };
            if expiry.under_sweep.is_empty() {
                if expiry.queue.len() <= 2 * records + SPARE_ENTRIES {
                    return true;
                }
                let from = expiry.sweep_from;
                (expiry.under_sweep, expiry.sweep_from) = expiry.queue.take_leaf(from);
            }
            let Some(entry) = expiry.under_sweep.pop() else { return true };
            let hash = entry.hash();
            for (group, key, namespace) in self.copy_of_hash(hash).iter() {
                self.queue_again(&Probe { hash, group, key, namespace });
            }
        }
        self.expiry.as_ref().is_none_or(|expiry| {
            expiry.under_sweep.is_empty() && expiry.queue.len() <= 2 * records + SPARE_ENTRIES
        })
    }

    /// What has a stamp up to this has expired.
    pub(super) fn cutoff(&self) -> u64 {
        self.time.cutoff
    }
}

/// Values.
impl Memtable {
    /// Whether anything of a live record, a value or a list, is to be seen.
    pub(crate) fn shows(&self, record: &Record<'_>) -> bool {
        match (self.is_timed(), self.holds, record.value) {
            (true, Holds::Values, Some(value)) => split_stamp(value).0 > self.time.hidden,
            (true, Holds::Lists, Some(list)) => self.shows_any(List::new(list).elements()),
            _ => true,
        }
    }

    /// The value of a key, without its stamp, if it is to be seen.
    pub(crate) fn timed_value(&self, probe: &Probe<'_>) -> Option<&[u8]> {
        let (stamp, value) = split_stamp(self.live_value(probe)?);
        (stamp > self.time.hidden).then_some(value)
    }

    /// Inserts or replaces a value, which gets a stamp.
    ///
    /// # Errors
    /// As of [`put`](Self::put); `Invalid` if it has no room beside a stamp.
    pub(crate) fn put_timed(&mut self, probe: &Probe<'_>, value: &[u8]) -> Result<()> {
        let found = self.find(probe);
        self.write_timed(found, probe, value).map(drop)
    }

    pub(super) fn write_timed(
        &mut self,
        found: Option<Found>,
        probe: &Probe<'_>,
        value: &[u8],
    ) -> Result<Block> {
        let mut stamped = match &mut self.expiry {
            Some(expiry) => std::mem::take(&mut expiry.stamped),
            None => Vec::new(),
        };
        stamped.clear();
        stamped.extend_from_slice(&self.time.stamp.to_le_bytes());
        stamped.extend_from_slice(value);
        let done = check_value(&stamped).and_then(|()| match found {
            Some(found) => self.overwrite(found, probe, &stamped),
            None => self.insert(probe, &stamped),
        });
        if let Some(expiry) = self.expiry.as_mut().filter(|_| stamped.capacity() <= 64 * 1024) {
            expiry.stamped = stamped;
        }
        done
    }

    fn expire_value(&mut self, probe: &Probe<'_>) -> Result<()> {
        let Some(value) = self.live_value(probe) else { return Ok(()) };
        if split_stamp(value).0 <= self.cutoff() {
            self.delete(probe)?;
        }
        Ok(())
    }
}

/// Lists.
impl Memtable {
    /// Renews the stamps of all elements that have not expired, if reads do; the
    /// list is whole.
    ///
    /// # Errors
    /// As of [`append_to_list`](Self::append_to_list); the list is as it was.
    pub(crate) fn renew_list(&mut self, probe: &Probe<'_>) -> Result<()> {
        let (cutoff, hidden, stamp) = (self.cutoff(), self.time.hidden, self.time.stamp);
        let Some(list) = self.list(probe) else { return Ok(()) };
        let stale = |element: &Element<'_>| element.stamp > cutoff && element.stamp != stamp;
        if !list.elements().iter().any(|element| stale(&element)) {
            return Ok(());
        }
        let mut renewed = ElementsBuf::new(true);
        for element in list.elements().iter().filter(|element| element.stamp > hidden) {
            let renewed_at = if element.is_expired(cutoff) { element.stamp } else { stamp };
            renewed.push(element.value, renewed_at)?;
        }
        self.replace_packed(probe, renewed.elements())
    }

    /// Whether a list has an element in memory that is to be seen.
    pub(crate) fn shows_list(&self, probe: &Probe<'_>) -> bool {
        self.list(probe).is_some_and(|list| self.shows_any(list.elements()))
    }

    fn shows_any(&self, elements: Elements<'_>) -> bool {
        elements.iter().any(|element| !element.is_expired(self.time.hidden))
    }

    fn expire_list(&mut self, probe: &Probe<'_>) -> Result<()> {
        let cutoff = self.cutoff();
        if self.below == Below::Tables && self.wants_older(probe) {
            // What is older comes up first, or nobody ever asks for it.
            return Ok(());
        }
        let Some(list) = self.list(probe) else { return Ok(()) };
        let elements = list.elements();
        let live = |element: &Element<'_>| !element.is_expired(cutoff);
        let live_bytes: usize =
            elements.iter().filter(live).map(|element| element.value.len() + STAMP_BYTES).sum();
        if live_bytes == 0 {
            return self.delete(probe).map(drop);
        }
        if live_bytes * 2 > elements.bytes().len() {
            return Ok(());
        }
        let mut left = ElementsBuf::new(true);
        elements
            .iter()
            .filter(live)
            .try_for_each(|element| left.push(element.value, element.stamp))?;
        self.replace_packed(probe, left.elements())
    }
}

/// The stamp with which half of the bytes will have expired, if elements were
/// appended as time passed.
fn half_expired_at(elements: Elements<'_>) -> Option<u64> {
    let half = elements.bytes().len() / 2;
    let mut bytes = 0;
    elements
        .iter()
        .map(|element| {
            bytes += element.value.len() + STAMP_BYTES + 1;
            (bytes, element.stamp)
        })
        .find(|&(bytes, _)| bytes >= half)
        .map(|(_, stamp)| stamp)
}

/// Maps.
impl Memtable {
    /// Removes expired entries of a page, some of them.
    fn expire_page(&mut self, probe: &Probe<'_>) -> Result<()> {
        let cutoff = self.cutoff();
        let (namespace, part) = Part::of_name(probe.namespace);
        let Some(page) = self.live_value(probe) else { return Ok(()) };
        if !matches!(part, Part::Small | Part::Page(_)) {
            return Ok(());
        }
        let expired: Vec<Vec<u8>> = MapPage::new(page)
            .iter()
            .filter(|entry| entry.value.is_some() && entry.is_expired(cutoff))
            .map(|entry| entry.key.to_vec())
            .take(ENTRIES_AT_ONCE)
            .collect();
        if expired.is_empty() {
            return Ok(());
        }
        let names = self.expiry.as_mut().map(|expiry| std::mem::take(&mut expiry.names));
        let mut at = MapAt::new(probe.group, probe.key, namespace, names.unwrap_or_default());
        let done = expired.iter().try_for_each(|entry| self.map_remove(&mut at, entry));
        if let Some(expiry) = &mut self.expiry {
            expiry.names = at.into_buffer();
        }
        done
    }
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expiry")
            .field("rule", &self.rule)
            .field("now", &ms_of_stamp(self.now))
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}
