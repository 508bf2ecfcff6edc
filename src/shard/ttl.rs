//! Time to live: what a state is asked for with, and what time it is for it.
//!
//! How values expire in memory is [`memtable::expiry`](crate::memtable::expiry);
//! here it is worked out which clock a state has, from when on values count that
//! have no stamp, and how the watermark moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::ShardCore;
use super::collections::Family;
use super::migration::Migration;
use super::store::StateSpec;
use crate::base::time::{UNKNOWN_STAMP, ms_of_stamp, stamp_of_ms};
use crate::base::{Error, Result, TimeDomain};
use crate::env::clock::CoarseClock;
use crate::format::manifest::{StateKind, StateMeta, TtlMeta};
use crate::memtable::lifetime::{TtlClock, TtlRule};

/// Longest time to live, in milliseconds: more than a hundred million years.
const MAX_TTL_MS: u64 = 1 << 62;

/// How long the values of a state live: the value of a key, each element of a
/// list, each entry of a map.
///
/// ```
/// use std::time::Duration;
/// use alluvium::{StateOptions, TimeDomain, Ttl, TtlUpdate, ValueState};
///
/// # fn main() -> alluvium::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let backend = alluvium::Backend::builder(dir.path()).open()?;
/// # let groups = backend.max_parallelism().all_groups();
/// # let mut shard = backend.shard("sessions", groups).open()?;
/// let half_an_hour = Ttl::after(Duration::from_secs(1800))
///     .update(TtlUpdate::OnReadAndWrite)
///     .time(TimeDomain::Event);
/// let sessions: ValueState<u64, u64> =
///     ValueState::register(&mut shard, StateOptions::new("sessions").ttl(half_an_hour))?;
/// sessions.put(&mut shard, &7, &1)?;
/// shard.advance_watermark(1_000);
/// assert_eq!(sessions.get(&mut shard, &7)?, Some(1));
/// shard.advance_watermark(1_801_000);
/// assert_eq!(sessions.get(&mut shard, &7)?, None);
/// # Ok(())
/// # }
/// ```
///
/// # When something expires
/// When its last write (or read, see [`TtlUpdate`]) is as long ago as the time to
/// live. A write to something that has expired begins afresh. What has expired is
/// removed from memory a little with each operation on the state
/// ([`Shard::expire`](crate::Shard::expire) does more in idle moments), and from
/// tables when they are merged. A table in which all values of a state have expired
/// gives them up after the next snapshot, unread, if no older one has values of the
/// state that have not.
///
/// # Time
/// *Processing time* is the wall clock of the [`Env`](crate::env::Env), as of
/// some ten milliseconds ago: a thread reads it, since reading it with each
/// operation would cost more than the operation. (With no background threads it
/// is read each time.) It may jump: forward, and what is too old then has
/// expired; back, and what is still there lives longer.
///
/// *Event time* is the watermark of the shard. It is part of snapshots; a shard
/// that is restored from several has the lowest of theirs. Before there is any
/// nothing expires, and what was written then counts as written when the first
/// one came.
///
/// # Another time to live
/// It is given to a state in each life of its shard anew: it may be on, off or
/// another than in the last one, without a migration. What was written without
/// counts as written when the state was first registered with one; a change from
/// one kind of time to the other counts as that, too.
///
/// # Cost
/// Eight bytes for each value, element and entry in memory and in tables, and 16
/// to 40 in memory for each key, list or page of a map. Reading with
/// [`TtlUpdate::OnReadAndWrite`] is writing: the next snapshot has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Ttl {
    after: Duration,
    update: TtlUpdate,
    visibility: TtlVisibility,
    time: TimeDomain,
}

/// What makes something live on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TtlUpdate {
    /// To create it or write it.
    #[default]
    OnCreateAndWrite,
    /// To read it, too. A read counts as a change then: snapshots carry it, and
    /// reading a list writes all of it anew. Enumerating keys, and asking whether
    /// a map is empty, read nothing.
    OnReadAndWrite,
}

/// Whether something that has expired may be seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TtlVisibility {
    /// Never: it is as if it were not there.
    #[default]
    NeverReturnExpired,
    /// As long as it has not been removed, which is not long, and cannot be
    /// foreseen.
    ReturnExpiredIfNotCleanedUp,
}

impl Ttl {
    /// Values that live so long, from the last write on, by the wall clock.
    ///
    /// A duration is counted in whole milliseconds. One of less than one, or of
    /// more than 2^62, is refused when a state is registered with it.
    pub const fn after(duration: Duration) -> Self {
        Self {
            after: duration,
            update: TtlUpdate::OnCreateAndWrite,
            visibility: TtlVisibility::NeverReturnExpired,
            time: TimeDomain::Processing,
        }
    }

    /// Says what makes something live on.
    pub const fn update(mut self, update: TtlUpdate) -> Self {
        self.update = update;
        self
    }

    /// Says whether something that has expired may be seen.
    pub const fn visibility(mut self, visibility: TtlVisibility) -> Self {
        self.visibility = visibility;
        self
    }

    /// Says by which time.
    pub const fn time(mut self, time: TimeDomain) -> Self {
        self.time = time;
        self
    }

    /// How long values live.
    pub const fn duration(&self) -> Duration {
        self.after
    }

    /// What makes something live on.
    pub const fn update_type(&self) -> TtlUpdate {
        self.update
    }

    /// Whether something that has expired may be seen.
    pub const fn visibility_type(&self) -> TtlVisibility {
        self.visibility
    }

    /// By which time values live.
    pub const fn time_domain(&self) -> TimeDomain {
        self.time
    }

    fn ms(&self) -> u64 {
        u64::try_from(self.after.as_millis()).unwrap_or(u64::MAX)
    }

    /// Refuses what cannot be counted, and timers, which do not expire.
    pub(super) fn check(&self, kind: StateKind) -> Result<()> {
        if Family::of(kind) == Family::Timers {
            return Err(Error::invalid("timers have no time to live")
                .remedy("delete them, or let them fire"));
        }
        if (1..=MAX_TTL_MS).contains(&self.ms()) {
            return Ok(());
        }
        Err(Error::invalid("the time to live of a state is out of range")
            .expected(format_args!("1 to {MAX_TTL_MS} milliseconds"))
            .found(format_args!("{:?}", self.after))
            .remedy("give it a longer or shorter one, or none"))
    }
}

/// What the states of a shard may live by.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    /// `None` if the shard was given no clock.
    processing: Option<Arc<CoarseClock>>,
    /// The stamp of the watermark; [`UNKNOWN_STAMP`] if there is none.
    watermark: Arc<AtomicU64>,
}

impl Clocks {
    pub(super) fn none() -> Self {
        Self { processing: None, watermark: Arc::new(AtomicU64::new(UNKNOWN_STAMP)) }
    }

    /// Nanoseconds on the clock that only goes on; always 0 without a clock.
    pub(super) fn monotonic_ns(&self) -> u64 {
        self.processing.as_ref().map_or(0, |clock| clock.monotonic_ns())
    }

    fn watermark(&self) -> Option<i64> {
        let stamp = self.watermark.load(Ordering::Relaxed);
        (stamp != UNKNOWN_STAMP).then(|| ms_of_stamp(stamp))
    }
}

/// A state's time to live in this life.
#[derive(Clone, Debug)]
pub(crate) struct StateTtl {
    pub(crate) time: TimeDomain,
    pub(crate) rule: Arc<TtlRule>,
    /// The stamp of what has none.
    pub(crate) unstamped: u64,
    /// What manifests say of it.
    pub(super) meta: TtlMeta,
}

impl ShardCore {
    /// What processing time is, from now on.
    pub(crate) fn set_clock(&mut self, clock: Arc<CoarseClock>) {
        self.clocks.processing = Some(clock);
    }

    /// The event time of the shard, if it is known.
    pub(crate) fn watermark(&self) -> Option<i64> {
        self.clocks.watermark()
    }

    /// Says that no event before this is to come any more. One that lies before
    /// an earlier one is forgotten.
    pub(crate) fn advance_watermark(&mut self, ms: i64) {
        let stamp = stamp_of_ms(ms);
        let before = self.clocks.watermark.load(Ordering::Relaxed);
        if stamp <= before {
            return;
        }
        if before == UNKNOWN_STAMP {
            for at in 0..self.states.len() {
                let slot = &mut self.states[at];
                if let (Some(ttl), Some(meta)) = (&slot.ttl, &mut slot.meta.ttl)
                    && meta.time == TimeDomain::Event
                    && meta.since_ms.is_none()
                {
                    ttl.rule.set_floor(stamp);
                    meta.since_ms = Some(ms);
                    self.note_meta(at);
                }
            }
        }
        self.clocks.watermark.store(stamp, Ordering::Relaxed);
    }

    /// Looks at so many records of each state that may have expired; `true` if
    /// nothing more is due.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had for a tombstone.
    pub(crate) fn expire(&mut self, records: usize) -> Result<bool> {
        let mut done = true;
        for slot in &mut self.states {
            done &= slot.memtable.expire(records)?;
        }
        Ok(done)
    }

    /// Bytes of the queues of what expires.
    pub(crate) fn expiry_queue_bytes(&self) -> usize {
        self.states.iter().map(|state| state.memtable.expiry_queue_bytes()).sum()
    }

    /// How a restored state is migrated that is asked for as this.
    pub(super) fn living(
        &self,
        migration: Migration,
        spec: &StateSpec,
        position: usize,
    ) -> Migration {
        migration.living(self.ttl_of(spec, self.states[position].meta.ttl))
    }

    /// The time to live that a state is asked for with. `stored` is what manifests
    /// have said of it so far.
    pub(super) fn ttl_of(&self, spec: &StateSpec, stored: Option<TtlMeta>) -> Option<StateTtl> {
        let ttl = spec.ttl?;
        let clock = match (ttl.time, &self.clocks.processing) {
            (TimeDomain::Processing, Some(clock)) => {
                clock.start();
                TtlClock::Processing(Arc::clone(clock))
            }
            // Without a clock time stands still.
            (TimeDomain::Processing, None) | (TimeDomain::Event, _) => {
                TtlClock::Event(Arc::clone(&self.clocks.watermark))
            }
        };
        let now = match ttl.time {
            TimeDomain::Processing => Some(ms_of_stamp(clock.now())),
            TimeDomain::Event => self.watermark(),
        };
        let known = stored.filter(|stored| stored.time == ttl.time);
        let since_ms = known.and_then(|stored| stored.since_ms).or(now);
        let rule = TtlRule::new(
            ttl.ms(),
            clock,
            ttl.update == TtlUpdate::OnReadAndWrite,
            ttl.visibility == TtlVisibility::ReturnExpiredIfNotCleanedUp,
        );
        let unstamped = match (ttl.time, since_ms) {
            (TimeDomain::Processing, Some(since)) => stamp_of_ms(since),
            (TimeDomain::Event, Some(since)) => {
                rule.set_floor(stamp_of_ms(since));
                UNKNOWN_STAMP
            }
            (_, None) => UNKNOWN_STAMP,
        };
        let meta = TtlMeta { time: ttl.time, duration_ms: ttl.ms(), since_ms };
        Some(StateTtl { time: ttl.time, rule: Arc::new(rule), unstamped, meta })
    }
}

/// What joined snapshots say of a state's time to live; one of them may not have
/// heard of it yet, and lets it count from when another did.
pub(super) fn join(one: Option<TtlMeta>, other: Option<TtlMeta>) -> Option<TtlMeta> {
    match (one, other) {
        (Some(one), Some(other)) if one.time == other.time => {
            // Rather longer than too short.
            let since_ms = one.since_ms.zip(other.since_ms).map(|(one, other)| one.max(other));
            Some(TtlMeta { since_ms, duration_ms: one.duration_ms.max(other.duration_ms), ..one })
        }
        (Some(_), Some(_)) => None,
        (one, other) => one.or(other),
    }
}

/// Refuses a state that is in use with another time to live.
pub(super) fn check_again(have: &StateMeta, had: Option<Ttl>, want: &StateSpec) -> Result<()> {
    if had == want.ttl {
        return Ok(());
    }
    let text = |ttl: Option<Ttl>| ttl.map_or("none".to_owned(), |ttl| format!("{ttl:?}"));
    Err(Error::incompatible("a state is in use with another time to live in this process")
        .at(format_args!("state {:?}", have.name))
        .expected(text(had))
        .found(text(want.ttl))
        .remedy("register a state with one and the same time to live until its shard is reopened"))
}
