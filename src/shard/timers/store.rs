//! Timers at the level of bytes: what typed timers, adapters and tools are
//! written against.

use crate::base::limits::MAX_NAMESPACE_BYTES;
use crate::base::{KeyGroup, Result, TimeDomain};
use crate::codec::{CodecId, CodecSpec, KeyRef};
use crate::format::manifest::{StateKind, StateMeta};
use crate::shard::rekey::{OldCodecs, Rename};
use crate::shard::store::{KeyedStore, StateSpec};

/// Bytes before the namespace of a timer's record: its time.
pub(crate) const TIME_BYTES: usize = 8;

impl TimeDomain {
    /// What the value codec of a state of timers says: nothing about values,
    /// which are empty, but which time is meant and how it is laid out.
    pub(super) fn codec(self) -> CodecId {
        // DO NOT CHANGE: on disk.
        match self {
            Self::Event => CodecId::new("timers.event_time", 1),
            Self::Processing => CodecId::new("timers.processing_time", 1),
        }
    }

    pub(super) fn of(meta: &StateMeta) -> Option<Self> {
        [Self::Event, Self::Processing]
            .into_iter()
            .find(|time| meta.kind == StateKind::Timers && *meta.value_schema.id() == time.codec())
    }
}

/// The timers of one name in a shard, for the calls that follow their opening.
/// Good for the shard that gave it and for no other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimersId(pub(super) u32);

impl TimersId {
    /// The timers with this number, for those who implement [`TimerStore`].
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Their number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// What timers are: the name of their state, which time they wait for, and how
/// the bytes of their keys and namespaces are to be read.
#[derive(Clone, Debug)]
pub struct TimerSpec(pub(super) StateSpec);

impl TimerSpec {
    /// Longest namespace of a timer, in bytes. The time is stored beside it.
    pub const MAX_NAMESPACE_BYTES: usize = MAX_NAMESPACE_BYTES - TIME_BYTES;

    /// Timers with keys and namespaces of bytes that mean nothing to the
    /// engine.
    pub fn new(name: &str, time: TimeDomain) -> Self {
        Self(StateSpec::of_kind(StateKind::Timers, name).value_codec(time.codec()))
    }

    /// Says what the keys are written under, as
    /// [`StateSpec::key_codec`] does.
    #[must_use]
    pub fn key_codec(self, codec: impl Into<CodecSpec>) -> Self {
        Self(self.0.key_codec(codec))
    }

    /// As [`key_codec`](Self::key_codec), for the namespaces.
    #[must_use]
    pub fn namespace_codec(self, codec: impl Into<CodecSpec>) -> Self {
        Self(self.0.namespace_codec(codec))
    }

    /// The name of the state.
    pub fn name(&self) -> &str {
        self.0.name()
    }
}

/// A timer that is due, as lent by [`TimerStore::pop_due`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerRef<'a> {
    /// Its time.
    pub timestamp: i64,
    /// The group of its key.
    pub group: KeyGroup,
    /// Its key.
    pub key: &'a [u8],
    /// Its namespace, empty if it has none.
    pub namespace: &'a [u8],
}

impl<'a> TimerRef<'a> {
    /// Key, namespace and group, as other calls take them.
    pub fn key_ref(&self) -> KeyRef<'a> {
        KeyRef::in_group(self.group, self.key).namespace(self.namespace)
    }
}

/// Timers on one shard, at the level of bytes: a priority queue with the
/// semantics of a set for each name.
///
/// A timer is a time (a number; milliseconds, usually) for a key in a
/// namespace. There is at most one of each (time, key, namespace): registering
/// it again does nothing. Timers belong to the key group of their key, are part
/// of every snapshot, and are restored wherever their key group goes.
///
/// # Order
/// Timers fire by ascending time. Those of one time fire in the order of a hash
/// of their keys and namespaces: arbitrary, but the same after every restore
/// and on any number of shards, so that work which is repeated is repeated in
/// the same order. (If two such hashes collide, in the order of the keys and
/// namespaces.) Another version of the engine may have another order.
///
/// # The watermark
/// [`pop_due`](Self::pop_due) says what time it is. For
/// [event time](TimeDomain::Event) the latest time that was said is the
/// *watermark*: from the first call with it, registering a timer for that time
/// or an earlier one is refused, even while earlier timers are still to be
/// popped. A handler may register timers for later times, and they fire in this
/// round if they are due. The watermark is not part of a snapshot: after a
/// restore there is none until the runtime says it again, as it does to every
/// operator, and pending timers before it are the first to fire. For
/// [processing time](TimeDomain::Processing) nothing is refused.
///
/// # Exactly once
/// A timer is removed when it is popped. Since a snapshot is taken between two
/// calls, it holds a timer's effects or the timer itself, if the caller handles
/// what it popped before it lets a snapshot be taken.
///
/// # Cost
/// Registering and firing cost about what a put and a delete do, whatever the
/// number of timers. A timer takes some 70 bytes beside its key and namespace.
/// After a restore the first call that has to know the earliest timer reads all
/// timers of the state that the background has not brought into memory yet.
///
/// With a [memory budget](crate::BackendBuilder::memory_budget_bytes) only the next timers
/// need be in memory. The call that has to know what comes after them reads all timers of
/// the state in tables, which is a pause, and keeps the earliest that fit; and
/// registering or deleting a timer that is not among them looks for it in tables. How many
/// are pending is known without reading, but for the first time after a restore.
///
/// # Errors
/// Each names the state and leaves it as it was; a call that failed may be
/// repeated.
/// - `Invalid`: the key belongs to another shard, is too long, or has a
///   namespace above [`TimerSpec::MAX_NAMESPACE_BYTES`]; the timer lies at or
///   before the watermark; the [`TimersId`] is not of this shard.
/// - `Corrupt` or `Unavailable`: a table of a restored shard, or of one with a memory
///   budget, cannot be read. Timers that are in memory fire all the same.
/// - `Unavailable`: with a memory budget there is no room, as of any operation.
pub trait TimerStore: KeyedStore {
    /// Creates the timers of a name, or finds them if they are there already.
    ///
    /// # Errors
    /// `Incompatible` if there is a state of that name that holds something
    /// else, timers of the other time, or timers with other codecs; `Invalid`
    /// if the name is empty or too long.
    fn open_timers(&mut self, spec: TimerSpec) -> Result<TimersId>;

    /// As [`open_timers`](Self::open_timers), for timers that were stored under
    /// other keys or namespaces; as
    /// [`register_rekeyed`](KeyedStore::register_rekeyed) does it for other
    /// states. `rename` is given namespaces without times, which stay as they are.
    ///
    /// # Errors
    /// As `open_timers` and `register_rekeyed`; `Corrupt` if a table holds
    /// something among timers that is none. The timers are then as they were.
    fn open_timers_rekeyed(
        &mut self,
        spec: TimerSpec,
        old: OldCodecs,
        rename: &mut dyn Rename,
    ) -> Result<TimersId>;

    /// Registers a timer; `false` if there is such a timer already.
    fn register_timer(&mut self, timers: TimersId, timestamp: i64, key: KeyRef<'_>)
    -> Result<bool>;

    /// Deletes a timer; `false` if there is no such timer.
    fn delete_timer(&mut self, timers: TimersId, timestamp: i64, key: KeyRef<'_>) -> Result<bool>;

    /// The time of the earliest timer.
    fn next_timer(&mut self, timers: TimersId) -> Result<Option<i64>>;

    /// Says that it is `now`, and pops the earliest timer if it is due, that
    /// is, not later than `now`. `false` if none is due.
    ///
    /// `take` is lent the timer before it is removed. Whenever this returns an
    /// error, that of `take` included, the timer is still registered.
    ///
    /// To fire all that is due, call this until it returns `false`. The shard
    /// is free between the calls. A `now` before the latest one moves nothing
    /// back.
    fn pop_due(
        &mut self,
        timers: TimersId,
        now: i64,
        take: &mut dyn FnMut(&TimerRef<'_>) -> Result<()>,
    ) -> Result<bool>;

    /// The latest time that [`pop_due`](Self::pop_due) was called with; `None`
    /// if it was not called since the shard was opened.
    fn timer_watermark(&self, timers: TimersId) -> Result<Option<i64>>;

    /// Number of pending timers.
    fn pending_timers(&mut self, timers: TimersId) -> Result<u64>;
}
