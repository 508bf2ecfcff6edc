//! Finding a record by one look, and changing it in place.
//!
//! These are the paths that count. A processor overlaps the cache misses of two
//! operations only if both fit its window, so every instruction of them is
//! felt: nothing is computed that a hit does not need, such as the key group,
//! and all that is rare goes the long way. Count instructions before and after
//! any change here.

use crate::base::limits::check_value;
use crate::base::{Error, KeyGroup, Result};

use super::addr::Addr;
use super::arena::Block;
use super::expiry::{restamp, split_stamp};
use super::index::{LineRef, Slot};
use super::record::{Apart, FREE};
use super::value_mut::ValueMut;
use super::{Below, Found, Holds, Memtable, Probe};

/// What is ored to the pattern of a lookup that wants to be told by one look:
/// the current epoch, or [`FREE`] if there is more to an operation than finding
/// the record.
#[derive(Clone, Copy)]
pub(super) struct AtHand(u64);

impl AtHand {
    pub(super) const NOTHING: Self = Self(FREE);
}

impl Memtable {
    /// Keeps `at_hand` true.
    pub(super) fn note_at_hand(&mut self) {
        let given = match self.below {
            _ if self.holds != Holds::Values => AtHand::NOTHING,
            Below::Nothing => AtHand(u64::from(self.epoch.0)),
            // What is here is as good as ever, and nothing waits to be taken in.
            Below::Tables if self.is_partial => AtHand(u64::from(self.epoch.0)),
            Below::Tables => AtHand::NOTHING,
        };
        // Whoever looks for a key without a group does not compare groups.
        let computed = if self.groups_are_given { AtHand::NOTHING } else { given };
        let nothing = [AtHand::NOTHING; 2];
        // Whoever does not know whether values expire finds nothing at hand.
        (self.at_hand, self.timed_at_hand) = if self.is_timed() {
            (nothing, [computed, given])
        } else {
            ([computed, given], nothing)
        };
    }

    /// What the record of a key must have besides for it to be at hand.
    #[inline(always)]
    fn also<const TIMED: bool>(&self, group: Option<KeyGroup>) -> u64 {
        let at_hand = if TIMED { &self.timed_at_hand } else { &self.at_hand };
        at_hand[usize::from(group.is_some())].0
    }

    /// Asks the processor for the index line of a key.
    #[inline(always)]
    pub(crate) fn prefetch_line(&self, hash: u64) -> Line {
        Line(self.index.prefetch(hash))
    }

    /// Asks the processor for the record of a key, whose index line has
    /// arrived. Says where it most probably is.
    #[inline(always)]
    pub(crate) fn prefetch_record(&self, hash: u64, line: Line) -> Hint {
        let block = self.arena.block(self.index.likely_in(line.0, hash));
        self.arena.prefetch(block);
        Hint(block)
    }

    /// How often records have moved, or their memory was given back: a [`Hint`]
    /// from before must not be used any more.
    #[inline(always)]
    pub(crate) fn moves(&self) -> u64 {
        self.arena.moves()
    }

    /// Where a key most probably is.
    #[inline(always)]
    fn hint(&self, hash: u64) -> Option<Hint> {
        self.index.likely(hash).map(|(_, addr)| Hint(self.arena.block(addr)))
    }

    // With `TIMED` all of these are for states whose values expire, without it for
    // those whose values do not; on the other kind they find nothing.

    /// The value of a key, if one look tells; that is the usual case. `None`
    /// says nothing.
    #[inline(always)]
    pub(crate) fn value_at_hand<const TIMED: bool>(
        &self,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> Option<Hit> {
        let hint = self.hint(self.hash(key, namespace))?;
        self.hit_at_hand::<TIMED>(hint, group, key, namespace)
    }

    /// The same for a key that was prefetched.
    #[inline(always)]
    pub(crate) fn hit_at_hand<const TIMED: bool>(
        &self,
        hint: Hint,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> Option<Hit> {
        let Hint(block) = hint;
        self.arena.matches(block, self.also::<TIMED>(group), group, key, namespace)?;
        // A read that renews is a change.
        if TIMED && (self.time.renews || !self.is_shown(block, key, namespace)) {
            return None;
        }
        Some(Hit(block))
    }

    /// Whether a live record's value has not expired, or is shown all the same.
    #[inline(always)]
    fn is_shown(&self, block: Block, key: &[u8], namespace: &[u8]) -> bool {
        split_stamp(self.arena.value_of(block, key, namespace)).0 > self.time.hidden
    }

    /// The value of a key that was found at hand.
    #[inline(always)]
    pub(crate) fn value_of<const TIMED: bool>(
        &self,
        hit: Hit,
        key: &[u8],
        namespace: &[u8],
    ) -> &[u8] {
        let value = self.arena.value_of(hit.0, key, namespace);
        if TIMED { split_stamp(value).1 } else { value }
    }

    /// The record of a key, if one look tells that it is there. `None` says
    /// nothing.
    #[inline(always)]
    pub(crate) fn entry_at_hand<'a, const TIMED: bool>(
        &'a mut self,
        group: Option<KeyGroup>,
        key: &'a [u8],
        namespace: &'a [u8],
    ) -> Option<ValueMut<'a>> {
        let hash = self.hash(key, namespace);
        self.entry_at_hint::<TIMED>(self.hint(hash)?, group, hash, key, namespace)
    }

    /// A hint in the place of one that must not be used any more.
    #[inline(never)]
    pub(crate) fn hint_again(&self, hash: u64) -> Hint {
        self.hint(hash).unwrap_or(Hint(self.arena.block(Addr(0))))
    }

    /// The same for a key that was prefetched.
    #[inline(always)]
    pub(crate) fn entry_at_hint<'a, const TIMED: bool>(
        &'a mut self,
        hint: Hint,
        group: Option<KeyGroup>,
        hash: u64,
        key: &'a [u8],
        namespace: &'a [u8],
    ) -> Option<ValueMut<'a>> {
        let Hint(block) = hint;
        let also = self.also::<TIMED>(group);
        let apart = self.arena.matches(block, also, group, key, namespace)?;
        let place = Place::Here { block, apart };
        if !TIMED {
            let (stamp, failed) = (0, false);
            return Some(ValueMut::of(RecordMut {
                memtable: self,
                hash,
                group,
                key,
                namespace,
                place,
                stamp,
                failed,
            }));
        }
        let written = split_stamp(self.arena.value_of(block, key, namespace)).0;
        if written <= self.time.hidden {
            return None;
        }
        let stamp = self.time.stamp;
        if self.time.renews {
            if apart.is_earlier() || written <= self.time.cutoff {
                return None;
            }
            restamp(self.arena.value_of_mut(block, key, namespace), stamp);
        }
        let failed = false;
        let memtable = self;
        let value = RecordMut { memtable, hash, group, key, namespace, place, stamp, failed };
        Some(ValueMut::of(value))
    }

    /// The record of a key, present or not, to be read and changed.
    #[inline]
    pub(crate) fn entry<'a>(&'a mut self, probe: Probe<'a>) -> ValueMut<'a> {
        let place = match self.find(&probe) {
            Some(Found { block, .. }) if self.is_live(block) => {
                let apart = self.arena.header(block).apart(self.epoch);
                Place::Here { block, apart }
            }
            _ => Place::Absent,
        };
        self.entry_in(place, probe, 0)
    }

    /// The same of a value that expires.
    #[inline]
    pub(crate) fn timed_entry<'a>(&'a mut self, probe: Probe<'a>) -> ValueMut<'a> {
        let place = match self.find(&probe) {
            Some(Found { block, .. })
                if self.is_live(block) && self.is_shown(block, probe.key, probe.namespace) =>
            {
                let apart = self.arena.header(block).apart(self.epoch);
                Place::Here { block, apart }
            }
            _ => Place::Absent,
        };
        self.entry_in(place, probe, self.time.stamp)
    }

    #[inline]
    fn entry_in<'a>(&'a mut self, place: Place, probe: Probe<'a>, stamp: u64) -> ValueMut<'a> {
        let Probe { hash, group, key, namespace } = probe;
        let group = Some(group);
        let failed = false;
        let memtable = self;
        ValueMut::of(RecordMut { memtable, hash, group, key, namespace, place, stamp, failed })
    }

    /// Makes a record of an earlier epoch one that may be changed in place. If
    /// there is no memory for that, leaves the reason in `failure`.
    ///
    /// Takes what it needs in registers, lest its caller's entry must lie in
    /// memory.
    #[inline(never)]
    fn make_current(&mut self, hash: u64, block: Block) -> Option<Block> {
        let slot = self.slot_of(hash, block);
        match self.first_touch(slot, block) {
            Ok(block) => Some(block),
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }

    /// The slot of a record that is in the index under this hash.
    #[inline(always)]
    fn slot_of(&self, hash: u64, block: Block) -> Slot {
        match self.index.likely(hash) {
            Some((slot, addr)) if self.arena.block(addr) == block => slot,
            _ => self.slot_elsewhere(hash, block),
        }
    }

    #[cold]
    #[inline(never)]
    fn slot_elsewhere(&self, hash: u64, block: Block) -> Slot {
        let same = |addr| (self.arena.block(addr) == block).then_some(());
        let found = self.index.find(hash, same).or_else(|| self.index.find_beyond(hash, same));
        found.expect("a record that was found is in the index").0
    }
}

/// The index line that a key is in, if it is in the first that it may be in.
#[derive(Clone, Copy)]
pub(crate) struct Line(LineRef);

/// A record that may be the one looked for, or nothing, which matches no key.
/// Good until [`Memtable::moves`] changes.
#[derive(Clone, Copy)]
pub(crate) struct Hint(Block);

/// A record that was found to be the one looked for.
#[derive(Clone, Copy)]
pub(crate) struct Hit(pub(super) Block);

/// Where the value of an entry is.
#[derive(Clone, Copy)]
enum Place {
    /// Nowhere: there is none, or it was deleted.
    Absent,
    /// In this record; one of an earlier epoch is not to be changed just so.
    Here { block: Block, apart: Apart },
}

/// The value of one key, present or not, in a memtable: what is behind a
/// [`ValueMut`] of a shard, whose methods these are.
pub(super) struct RecordMut<'a> {
    memtable: &'a mut Memtable,
    hash: u64,
    /// `None` as long as the record, which is there, has it.
    group: Option<KeyGroup>,
    key: &'a [u8],
    namespace: &'a [u8],
    place: Place,
    /// The stamp that a change leaves in front of the value; 0 if there is none.
    stamp: u64,
    /// Whether the memtable has a failure for us. The error is not kept here:
    /// without anything to drop, the whole struct can live in registers.
    failed: bool,
}

impl RecordMut<'_> {
    /// The value, if the key has one.
    #[inline(always)]
    pub(super) fn get(&self) -> Option<&[u8]> {
        match self.place {
            Place::Absent => None,
            Place::Here { block, .. } => {
                let value = self.memtable.arena.value_of(block, self.key, self.namespace);
                Some(if self.stamp == 0 { value } else { split_stamp(value).1 })
            }
        }
    }

    /// The value, to be changed where it is, at its present length; `None` if
    /// the key has none. The record counts as changed even if the bytes are
    /// not.
    #[inline(always)]
    pub(super) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let Place::Here { mut block, apart } = self.place else { return None };
        if apart.is_earlier() {
            let Some(current) = self.memtable.make_current(self.hash, block) else {
                self.failed = true;
                return None;
            };
            block = current;
            self.place = Place::Here { block, apart: Apart::NOT };
        }
        let value = self.memtable.arena.value_of_mut(block, self.key, self.namespace);
        Some(if self.stamp == 0 { value } else { restamp(value, self.stamp) })
    }

    /// Inserts or replaces the value; any length up to the limit is welcome.
    #[inline(always)]
    pub(super) fn set(&mut self, value: &[u8]) {
        if self.get().is_some_and(|there| there.len() == value.len()) {
            if let Some(there) = self.bytes_mut() {
                there.copy_from_slice(value);
            }
            return;
        }
        self.replace(value);
    }

    /// Renews the stamp of a value that is there and has not expired, if reads do.
    ///
    /// # Errors
    /// `Unavailable` if its record is frozen and there is no memory for a copy.
    pub(super) fn renew(&mut self) -> Result<()> {
        let Place::Here { block, .. } = self.place else { return Ok(()) };
        let value = self.memtable.arena.value_of(block, self.key, self.namespace);
        let live = split_stamp(value).0 > self.memtable.time.cutoff;
        if self.memtable.renews() && live && self.bytes_mut().is_none() {
            self.failed = false;
            return Err(self.memtable.take_failure());
        }
        Ok(())
    }

    /// Deletes the key.
    #[inline(never)]
    pub(super) fn delete(&mut self) {
        let group = self.key_group();
        self.group = Some(group);
        let Self { hash, key, namespace, .. } = *self;
        match self.memtable.delete(&Probe { hash, group, key, namespace }) {
            Ok(_) => self.place = Place::Absent,
            Err(error) => self.fail(error),
        }
    }

    /// The key group of the key.
    pub(super) fn key_group(&self) -> KeyGroup {
        match (self.group, self.place) {
            (Some(group), _) => group,
            (None, Place::Here { block, .. }) => self.memtable.arena.header(block).group(),
            (None, Place::Absent) => unreachable!("delete has noted the group of the record"),
        }
    }

    fn found(&self) -> Option<Found> {
        let Self { hash, key, namespace, .. } = *self;
        self.memtable.find(&Probe { hash, group: self.key_group(), key, namespace })
    }

    #[inline(never)]
    fn replace(&mut self, value: &[u8]) {
        let found = self.found();
        let Self { hash, key, namespace, .. } = *self;
        let probe = Probe { hash, group: self.key_group(), key, namespace };
        let done = if self.stamp == 0 {
            check_value(value).and_then(|()| match found {
                Some(found) => self.memtable.overwrite(found, &probe, value),
                None => self.memtable.insert(&probe, value),
            })
        } else {
            self.memtable.write_timed(found, &probe, value)
        };
        match done {
            Ok(block) => self.place = Place::Here { block, apart: Apart::NOT },
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: Error) {
        self.memtable.failure = Some(error);
        self.failed = true;
    }

    /// The last failure inside the closure, if there was one.
    #[inline(always)]
    pub(super) fn finish(self) -> Result<()> {
        if self.failed { Err(self.memtable.take_failure()) } else { Ok(()) }
    }
}
