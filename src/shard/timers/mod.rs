//! Timers: records that also stand in a queue.
//!
//! A timer is a record of a state of timers, so that snapshots, deltas, merges,
//! restores and rescaling need not know that timers exist:
//!
//! ```text
//! key:        the timer's key
//! namespace:  | timestamp i64, big-endian, its sign bit flipped | the timer's namespace |
//! value:      empty
//! ```
//!
//! Beside the memtable each such state has a [`queue`](TimeQueue) of (time,
//! hash of the record). Two invariants:
//!
//! 1. The queue has exactly one entry for each live record of the memtable.
//!    Every way into the memtable and out of it passes through this module:
//!    registering, deleting, popping, and [`take_in`] for what comes from
//!    tables.
//! 2. What is earliest is asked of a complete memtable only. One that is not
//!    complete is made so first, by a scan of what the state has in the tables
//!    beneath ([`ShardCore::take_in_all`]); what the warm-up brings after that is
//!    old news and is passed over. With a memory budget it need be complete up to a
//!    horizon only ([`far`]).
//!
//! The queue is never written down: it follows from the records. Since it
//! orders timers of one time by the hashes that place their records in the
//! memtable, that hash must be the same function in every life of a shard.

mod far;
pub(crate) mod store;

use crate::base::hash::{group_of_hash, hash_key};
use crate::base::{Error, KeyGroup, Result, TimeDomain};
use crate::codec::KeyRef;
use crate::format::manifest::StateMeta;
use crate::memtable::{Below, Lookup, Memtable, Probe, Shown};
use crate::table::{PlacedKey, TableReads};

use self::far::Far;
pub(super) use self::far::LOOKS;
use self::store::{TIME_BYTES, TimerRef, TimerSpec, TimerStore, TimersId};
use super::base_scan::BaseRecord;
use super::base_tables::StateBase;
use super::collections::Family;
use super::rekey::{OldCodecs, Rename};
use super::stats::Cause;
use super::store::StateId;
use super::{ShardCore, StateSlot, WARM_PER_OPERATION};
use crate::memtable::queue::{Entry, TimeQueue};

/// What the hashes of timers' records are seeded with: always the same, since
/// they decide the order of timers of one time.
pub(super) const HASH_SEED: u64 = 0x7469_6d65_7273;
/// How many timers ahead of the one that fires index lines and records are
/// asked for: enough to cover a miss with the work of the timers between.
const INDEX_AHEAD: usize = 10;
const RECORD_AHEAD: usize = 5;
/// Longest namespace that needs no allocation on its way.
const INLINE_NAMESPACE_BYTES: usize = 56;

/// What a state of timers has besides its records.
#[derive(Debug)]
pub(super) struct TimerState {
    /// Its position among the shard's states.
    state: usize,
    time: TimeDomain,
    queue: TimeQueue,
    /// Which of them are in memory, if not all are.
    far: Far,
    /// The latest time that was said to be now.
    watermark: Option<i64>,
    /// Why nothing is said about which timers there are.
    closed: Option<Closed>,
    /// Key and stored namespace of the timer that fires.
    firing: Vec<u8>,
}

/// Why a state of timers answers no calls.
#[derive(Debug)]
enum Closed {
    /// A table has a record that is not one of a timer: this one.
    Damaged(String),
    /// The state was dropped.
    Dropped,
}

impl TimerState {
    /// For the state `id`, if it is one of timers that this code can read.
    pub(super) fn new(meta: &StateMeta, id: u32) -> Option<Self> {
        TimeDomain::of(meta).map(|time| Self {
            state: id as usize,
            time,
            queue: TimeQueue::new(),
            far: Far::default(),
            watermark: None,
            closed: None,
            firing: Vec::new(),
        })
    }

    /// Whether these are the timers of the state at a position.
    pub(super) fn is_of(&self, state: usize) -> bool {
        self.state == state
    }

    /// The state was dropped.
    pub(super) fn drop_all(&mut self) {
        self.queue = TimeQueue::new();
        self.firing = Vec::new();
        self.closed = Some(Closed::Dropped);
    }

    fn promote(&mut self, memtable: &mut Memtable, probe: &Probe<'_>, value: &[u8]) -> Result<()> {
        if memtable.get(probe) != Lookup::Absent {
            return Ok(());
        }
        match timestamp_of(probe.namespace) {
            Some(timestamp) if value.is_empty() => {
                memtable.promote(probe, value)?;
                let entry = Entry::new(timestamp, probe.hash);
                self.queue.insert(self.queue.locate(entry), entry);
                self.far.note_come();
            }
            _ => {
                let what = || what_it_is(probe.group, probe.key, probe.namespace, value);
                self.closed.get_or_insert_with(|| Closed::Damaged(what()));
            }
        }
        Ok(())
    }
}

/// Copies a record from a table into the memtable, unless it is older than what
/// the memtable has to say; and if it is a timer, into its queue.
///
/// # Errors
/// `Unavailable` if no memory can be had.
pub(super) fn take_in(
    slot: &mut StateSlot,
    timers: &mut [TimerState],
    state: usize,
    probe: &Probe<'_>,
    value: &[u8],
) -> Result<()> {
    if slot.memtable.below() == Below::Nothing {
        // It has taken in everything already, and forgotten some since.
        return Ok(());
    }
    match timers.iter_mut().find(|timers| timers.state == state) {
        None => slot.memtable.promote(probe, value),
        Some(timers) => timers.promote(&mut slot.memtable, probe, value),
    }
}

/// The timers of a state that is written anew.
pub(super) struct NewTimers(TimeQueue);

impl NewTimers {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(TimeQueue::new())
    }

    /// The time of a timer and its namespace proper.
    ///
    /// # Errors
    /// `Corrupt` if the record is not one of a timer.
    pub(super) fn split<'a>(record: &BaseRecord<'a>) -> Result<(i64, &'a [u8])> {
        match timestamp_of(record.namespace) {
            Some(timestamp) if record.value.is_empty() => {
                Ok((timestamp, &record.namespace[TIME_BYTES..]))
            }
            _ => {
                Err(no_timer(&what_it_is(record.group, record.key, record.namespace, record.value)))
            }
        }
    }

    /// What the namespace of a timer's record is.
    ///
    /// # Errors
    /// `Invalid` if the namespace proper is too long.
    pub(super) fn namespace(timestamp: i64, namespace: &[u8]) -> Result<Vec<u8>> {
        if namespace.len() > TimerSpec::MAX_NAMESPACE_BYTES {
            return Err(namespace_too_long(namespace.len()));
        }
        Ok([&time_bytes(timestamp), namespace].concat())
    }

    /// Adds one whose record has this hash.
    pub(super) fn add(&mut self, timestamp: i64, hash: u64) {
        let entry = Entry::new(timestamp, hash);
        self.0.insert(self.0.locate(entry), entry);
    }
}

/// The time in the namespace of a timer's record.
fn timestamp_of(namespace: &[u8]) -> Option<i64> {
    let ascending = u64::from_be_bytes(*namespace.first_chunk::<TIME_BYTES>()?);
    Some((ascending ^ 1 << 63) as i64)
}

fn time_bytes(timestamp: i64) -> [u8; TIME_BYTES] {
    (timestamp as u64 ^ 1 << 63).to_be_bytes()
}

impl ShardCore {
    /// Bytes of the queues of all timers.
    pub(crate) fn timer_queue_bytes(&self) -> usize {
        self.timers.iter().map(|timers| timers.queue.bytes()).sum()
    }

    /// About as many, at no cost.
    pub(super) fn likely_timer_queue_bytes(&self) -> usize {
        self.timers.iter().map(|timers| timers.queue.likely_bytes()).sum()
    }

    /// Does `work` for some timers, and says which they are if it fails.
    #[inline(always)]
    fn on_timers<T>(
        &mut self,
        timers: TimersId,
        work: impl FnOnce(&mut Self, usize) -> Result<T>,
    ) -> Result<T> {
        let at = timers.0 as usize;
        match self.timers.get(at) {
            None => Err(super::no_such_state(&self.name, self.groups)),
            Some(TimerState { closed: Some(_), .. }) => Err(self.in_timers(at, self.closed(at))),
            Some(_) => work(self, at).map_err(|error| self.in_timers(at, error)),
        }
    }

    /// Does `work` with the probe of a timer's record.
    ///
    /// Before the key is checked, `look` may answer by a look at where the record
    /// most probably is.
    #[inline(always)]
    fn on_timer<T>(
        &mut self,
        timers: TimersId,
        timestamp: i64,
        key: KeyRef<'_>,
        look: impl FnOnce(&Memtable, Option<KeyGroup>, &[u8], &[u8]) -> Option<T>,
        work: impl FnOnce(&mut Self, usize, &Probe<'_>) -> Result<T>,
    ) -> Result<T> {
        self.on_timers(timers, |core, at| {
            let (group, key, namespace) = key.parts();
            let mut inline = [0; TIME_BYTES + INLINE_NAMESPACE_BYTES];
            let spilled: Vec<u8>;
            let stored = if namespace.len() <= INLINE_NAMESPACE_BYTES {
                let stored = &mut inline[..TIME_BYTES + namespace.len()];
                stored[..TIME_BYTES].copy_from_slice(&time_bytes(timestamp));
                stored[TIME_BYTES..].copy_from_slice(namespace);
                &*stored
            } else if namespace.len() <= TimerSpec::MAX_NAMESPACE_BYTES {
                spilled = [&time_bytes(timestamp), namespace].concat();
                &spilled
            } else {
                return Err(namespace_too_long(namespace.len()));
            };
            let state = core.timers[at].state;
            if let Some(answer) = look(&core.states[state].memtable, group, key, stored) {
                return Ok(answer);
            }
            let group = core.check(
                StateId(state as u32),
                group,
                key,
                stored,
                Family::Timers,
                "on a timer",
            )?;
            let probe = core.states[state].memtable.probe(group, key, stored);
            work(core, at, &probe)
        })
    }

    #[cold]
    fn in_timers(&self, at: usize, error: Error) -> Error {
        let timers = &self.timers[at];
        error.at(format_args!("{} timers {:?}", timers.time, self.states[timers.state].meta.name))
    }

    #[cold]
    fn closed(&self, at: usize) -> Error {
        let timers = &self.timers[at];
        let found = match &timers.closed {
            Some(Closed::Dropped) => return self.states[timers.state].was_dropped(),
            Some(Closed::Damaged(found)) => &**found,
            None => "",
        };
        no_timer(found).at(format_args!("shard {} of operator {:?}", self.groups, self.name))
    }

    /// Puts the timers of a state that was written anew into its queue.
    pub(super) fn set_timers(&mut self, state: usize, NewTimers(queue): NewTimers) {
        if let Some(timers) = self.timers.iter_mut().find(|timers| timers.state == state) {
            timers.queue = queue;
        }
    }

    fn timers_of(&self, StateId(state): StateId) -> TimersId {
        let at = self.timers.iter().position(|timers| timers.state == state as usize);
        let at = at.expect("a state that was registered with the spec of timers has a queue");
        TimersId(at as u32)
    }

    /// Brings a timer's record into memory, if only the tables have it.
    #[cold]
    fn settle_timer(&mut self, at: usize, timestamp: i64, probe: &Probe<'_>) -> Result<()> {
        self.warm(WARM_PER_OPERATION)?;
        let timers = &mut self.timers[at];
        let slot = &mut self.states[timers.state];
        let at_base = PlacedKey::in_group(probe.group, probe.key, probe.namespace);
        let entry = Entry::new(timestamp, probe.hash);
        if timers.may_be_elsewhere(entry) && slot.memtable.get(probe) == Lookup::Absent {
            let mut reads = TableReads::default();
            let found = slot.base.get(at_base, &mut self.value, &mut reads)?;
            slot.lookups.note(found, reads);
            if found {
                timers.promote(&mut slot.memtable, probe, &self.value)?;
            }
        }
        if timers.closed.is_some() { Err(self.closed(at)) } else { Ok(()) }
    }

    /// Registers a timer while tables may have timers that are not in memory.
    #[cold]
    fn register_among_others(
        &mut self,
        at: usize,
        timestamp: i64,
        probe: &Probe<'_>,
    ) -> Result<bool> {
        self.settle_timer(at, timestamp, probe)?;
        let timers = &mut self.timers[at];
        let memtable = &mut self.states[timers.state].memtable;
        let added = memtable.add_absent_everywhere(probe)?;
        if added {
            let entry = Entry::new(timestamp, probe.hash);
            timers.queue.insert(timers.queue.locate(entry), entry);
        }
        Ok(added)
    }

    /// Makes sure that the earliest timer is in memory: at all, or if it is due at `now`.
    #[inline(always)]
    fn near(&mut self, at: usize, now: Option<i64>) -> Result<()> {
        match self.states[self.timers[at].state].memtable.below() {
            Below::Nothing => Ok(()),
            Below::Tables => self.bring_near(at, now),
        }
    }

    #[cold]
    fn wait_for_all(&mut self, at: usize) -> Result<()> {
        self.stalled(Cause::Loading, |core| core.take_in_all(at))
    }

    /// Without a budget: reads all timers from the tables. If that fails, those that were read
    /// are there, the others still in the tables, and nothing is complete.
    #[cold]
    fn take_in_all(&mut self, at: usize) -> Result<()> {
        let max_parallelism = self.max_parallelism;
        let timers = &mut self.timers[at];
        let slot = &mut self.states[timers.state];
        let mut scan = slot.base.scan(self.groups)?;
        while let Some(record) = scan.next()? {
            if record.group != group_of_hash(hash_key(record.key), max_parallelism) {
                slot.memtable.expect_given_groups();
            }
            let probe = slot.memtable.probe(record.group, record.key, record.namespace);
            timers.promote(&mut slot.memtable, &probe, record.value)?;
            slot.lookups.promoted += 1;
        }
        if timers.closed.is_some() {
            return Err(self.closed(at));
        }
        slot.memtable.set_complete();
        slot.base = StateBase::default();
        Ok(())
    }

    /// Pops the earliest timer if it is due.
    fn pop(
        &mut self,
        at: usize,
        now: i64,
        take: &mut dyn FnMut(&TimerRef<'_>) -> Result<()>,
    ) -> Result<bool> {
        loop {
            let timers = &mut self.timers[at];
            timers.watermark = timers.watermark.max(Some(now));
            let memtable = &mut self.states[timers.state].memtable;
            let Some(first) = timers.queue.first().filter(|first| first.timestamp() <= now) else {
                return Ok(false);
            };
            // Firing goes through memory in the order of nothing in
            // particular: let the misses overlap.
            if let Some(entry) = timers.queue.upcoming(INDEX_AHEAD) {
                memtable.prefetch_line(entry.hash());
            }
            if let Some(entry) = timers.queue.upcoming(RECORD_AHEAD) {
                let line = memtable.prefetch_line(entry.hash());
                memtable.prefetch_record(entry.hash(), line);
            }
            let firing = &mut timers.firing;
            let Some((shown, group, key_len)) = find(memtable, first, firing) else {
                // A record that went another way than through here, by a number
                // that another shard gave.
                timers.queue.pop_first();
                self.near(at, Some(now))?;
                continue;
            };
            let (key, namespace) = firing.split_at(key_len);
            take(&TimerRef {
                timestamp: first.timestamp(),
                group,
                key,
                namespace: &namespace[TIME_BYTES..],
            })?;
            memtable.delete_shown(shown, &Probe { hash: first.hash(), group, key, namespace })?;
            timers.queue.pop_first();
            return Ok(true);
        }
    }
}

/// Copies key and stored namespace of a queue's entry into `out`; gives where the
/// record is, and the key's group and length. If hashes collide, of the timer that comes first by
/// key and namespace.
#[inline]
fn find(memtable: &Memtable, entry: Entry, out: &mut Vec<u8>) -> Option<(Shown, KeyGroup, usize)> {
    let time = time_bytes(entry.timestamp());
    let mut found: Option<(Shown, KeyGroup, usize)> = None;
    memtable.visit_hash(entry.hash(), |shown, group, key, namespace| {
        if !namespace.starts_with(&time) {
            return;
        }
        if let Some((_, first_group, key_len)) = found
            && (out.split_at(key_len), first_group) <= ((key, namespace), group)
        {
            return;
        }
        out.clear();
        out.extend_from_slice(key);
        out.extend_from_slice(namespace);
        found = Some((shown, group, key.len()));
    });
    found
}

impl TimerStore for ShardCore {
    fn open_timers(&mut self, spec: TimerSpec) -> Result<TimersId> {
        let state = self.register(spec.0)?;
        Ok(self.timers_of(state))
    }

    fn open_timers_rekeyed(
        &mut self,
        spec: TimerSpec,
        old: OldCodecs,
        rename: &mut dyn Rename,
    ) -> Result<TimersId> {
        let state = self.rekey(spec.0, old, rename)?;
        Ok(self.timers_of(state))
    }

    #[inline]
    fn register_timer(
        &mut self,
        timers: TimersId,
        timestamp: i64,
        key: KeyRef<'_>,
    ) -> Result<bool> {
        let is_late = self.timers.get(timers.0 as usize).is_some_and(|timers| {
            timers.time == TimeDomain::Event && Some(timestamp) <= timers.watermark
        });
        // Registered again for each event, a timer usually is there.
        let look = |memtable: &Memtable, group, key: &[u8], stored: &[u8]| {
            (!is_late && memtable.has_at_hand(group, key, stored)).then_some(false)
        };
        self.on_timer(timers, timestamp, key, look, |core, at, probe| {
            let timers = &core.timers[at];
            let state = timers.state;
            if let (true, Some(watermark)) = (is_late, timers.watermark) {
                return Err(too_late(timestamp, watermark));
            }
            core.keep_room()?;
            if core.states[state].memtable.below() == Below::Tables {
                return core.register_among_others(at, timestamp, probe);
            }
            let memtable = &mut core.states[state].memtable;
            let queue = &mut core.timers[at].queue;
            // The search in the queue fills the time that the index line takes
            // to arrive.
            memtable.prefetch_line(probe.hash);
            let entry = Entry::new(timestamp, probe.hash);
            let place = queue.locate(entry);
            let added = memtable.add_absent(probe)?;
            if added {
                queue.insert(place, entry);
            }
            Ok(added)
        })
    }

    #[inline]
    fn delete_timer(&mut self, timers: TimersId, timestamp: i64, key: KeyRef<'_>) -> Result<bool> {
        let look = |_: &Memtable, _, _: &[u8], _: &[u8]| None;
        self.on_timer(timers, timestamp, key, look, |core, at, probe| {
            let state = core.timers[at].state;
            if core.states[state].memtable.below() == Below::Tables {
                core.keep_room()?;
                core.settle_timer(at, timestamp, probe)?;
                if !matches!(core.states[state].memtable.get(probe), Lookup::Value(_)) {
                    return Ok(false);
                }
            }
            let deleted = core.states[state].memtable.delete(probe)?;
            if deleted {
                core.timers[at].queue.remove(Entry::new(timestamp, probe.hash));
            }
            Ok(deleted)
        })
    }

    fn next_timer(&mut self, timers: TimersId) -> Result<Option<i64>> {
        self.on_timers(timers, |core, at| {
            core.near(at, None)?;
            Ok(core.timers[at].queue.first().map(Entry::timestamp))
        })
    }

    #[inline]
    fn pop_due(
        &mut self,
        timers: TimersId,
        now: i64,
        take: &mut dyn FnMut(&TimerRef<'_>) -> Result<()>,
    ) -> Result<bool> {
        self.on_timers(timers, |core, at| {
            core.near(at, Some(now))?;
            core.pop(at, now, take)
        })
    }

    fn timer_watermark(&self, timers: TimersId) -> Result<Option<i64>> {
        let at = timers.0 as usize;
        match self.timers.get(at) {
            Some(TimerState { closed: Some(Closed::Dropped), .. }) => {
                Err(self.in_timers(at, self.closed(at)))
            }
            Some(timers) => Ok(timers.watermark),
            None => Err(super::no_such_state(&self.name, self.groups)),
        }
    }

    fn pending_timers(&mut self, timers: TimersId) -> Result<u64> {
        self.on_timers(timers, Self::count_timers)
    }
}

fn what_it_is(group: KeyGroup, key: &[u8], namespace: &[u8], value: &[u8]) -> String {
    let (key, namespace, value) = (key.len(), namespace.len(), value.len());
    format!(
        "a record in {group} with a key of {key} bytes, a namespace of {namespace} and a value \
         of {value}"
    )
}

#[cold]
fn no_timer(found: &str) -> Error {
    Error::corrupt("a table holds something among timers that is none")
        .expected("a namespace that begins with a time, and no value")
        .found(found)
        .remedy("restore from another copy of the snapshot")
}

#[cold]
fn namespace_too_long(found: usize) -> Error {
    Error::invalid("the namespace of a timer is too long")
        .expected(format_args!("at most {} bytes", TimerSpec::MAX_NAMESPACE_BYTES))
        .found(format_args!("{found} bytes"))
        .remedy("use a digest as the namespace and keep the rest in a value")
}

#[cold]
fn too_late(timestamp: i64, watermark: i64) -> Error {
    Error::invalid("the timer lies at or before the watermark")
        .expected(format_args!("a time after {watermark}"))
        .found(timestamp)
        .remedy("do now what it was to do then, or register it for a later time")
}
