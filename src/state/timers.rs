//! Timers for keys.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use super::rekey::Keys;
use crate::base::Result;
use crate::base::TimeDomain;
use crate::codec::schema::guard;
use crate::codec::{Codec, CodecSpec, HasCodec, KeyRef};
use crate::shard::timers::store::{TimerSpec, TimerStore, TimersId};

/// Timers for keys of type `K`, within namespaces of type `N` (a window, say)
/// if they have them: a priority queue that holds each timer once.
///
/// What a timer is, in which order timers fire and what the watermark does is
/// said at [`TimerStore`]. Good for the shard it was opened on. The methods
/// without `_in` are for timers without namespaces.
///
/// ```
/// # fn main() -> alluvium::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let backend = alluvium::Backend::builder(dir.path()).open()?;
/// # let groups = backend.max_parallelism().all_groups();
/// # let mut shard = backend.shard("sessions", groups).open()?;
/// use alluvium::{Timers, ValueState};
///
/// let timeouts: Timers<String> = Timers::event_time(&mut shard, "timeouts")?;
/// let sizes: ValueState<String, u64> = ValueState::register(&mut shard, "sizes")?;
///
/// // An event at 1,000 opens a session, one at 1,500 prolongs it.
/// let heron = "heron".to_owned();
/// sizes.update(&mut shard, &heron, |size| Some(size.unwrap_or(0) + 1))?;
/// assert!(timeouts.register(&mut shard, &heron, 2_000)?);
/// assert!(!timeouts.register(&mut shard, &heron, 2_000)?, "it is there already");
/// sizes.update(&mut shard, &heron, |size| Some(size.unwrap_or(0) + 1))?;
/// assert!(timeouts.delete(&mut shard, &heron, 2_000)?);
/// assert!(timeouts.register(&mut shard, &heron, 2_500)?);
/// assert_eq!(timeouts.next(&mut shard)?, Some(2_500));
///
/// // A watermark passes. The shard is free while a timer is handled.
/// let mut closed = Vec::new();
/// while let Some(timer) = timeouts.pop_due(&mut shard, 3_000)? {
///     let size = sizes.get(&mut shard, &timer.key)?;
///     sizes.delete(&mut shard, &timer.key)?;
///     closed.push((timer.timestamp, timer.key, size));
/// }
/// assert_eq!(closed, [(2_500, heron.clone(), Some(2))]);
///
/// let too_late = timeouts.register(&mut shard, &heron, 3_000).unwrap_err();
/// assert_eq!(too_late.kind(), alluvium::ErrorKind::Invalid);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every method fails as [`TimerStore`] says; `Corrupt` if stored bytes cannot
/// be decoded, `Invalid` if a codec refuses to encode. The timers are then as
/// they were.
pub struct Timers<K, N = (), KC = <K as HasCodec>::Codec, NC = <N as HasCodec>::Codec> {
    id: TimersId,
    name: String,
    time: TimeDomain,
    keys: KC,
    namespaces: NC,
    /// Encoded keys and namespaces on their way; kept to save the allocations.
    scratch: Cell<(Vec<u8>, Vec<u8>)>,
    types: PhantomData<fn(&K, &N)>,
}

/// A timer that was due, and is no longer registered.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timer<K, N = ()> {
    /// Its time.
    pub timestamp: i64,
    /// Its key.
    pub key: K,
    /// Its namespace.
    pub namespace: N,
}

impl<K: HasCodec + 'static, N: HasCodec + 'static> Timers<K, N> {
    /// Opens timers that wait for the watermark, with the ready codecs of
    /// their types.
    ///
    /// # Errors
    /// `Incompatible` if there is a state of that name that holds something
    /// else, timers of the other time, or timers with other codecs.
    pub fn event_time<S: TimerStore + ?Sized>(store: &mut S, name: &str) -> Result<Self> {
        Self::open(store, name, TimeDomain::Event)
    }

    /// Opens timers that wait for the runtime's clock, with the ready codecs
    /// of their types.
    ///
    /// # Errors
    /// As [`event_time`](Self::event_time).
    pub fn processing_time<S: TimerStore + ?Sized>(store: &mut S, name: &str) -> Result<Self> {
        Self::open(store, name, TimeDomain::Processing)
    }

    fn open<S: TimerStore + ?Sized>(store: &mut S, name: &str, time: TimeDomain) -> Result<Self> {
        Self::with_codecs(store, name, time, K::Codec::default(), N::Codec::default())
    }
}

impl<K: 'static, N: 'static, KC: Codec<K>, NC: Codec<N>> Timers<K, N, KC, NC> {
    /// Opens timers with these codecs.
    ///
    /// # Errors
    /// `Incompatible` if there is a state of that name that holds something
    /// else, timers of the other time, or timers with other codecs.
    pub fn with_codecs<S: TimerStore + ?Sized>(
        store: &mut S,
        name: &str,
        time: TimeDomain,
        keys: KC,
        namespaces: NC,
    ) -> Result<Self> {
        let spec = TimerSpec::new(name, time)
            .key_codec(CodecSpec::of(&keys))
            .namespace_codec(CodecSpec::of(&namespaces));
        let id = store.open_timers(spec)?;
        let name = name.to_owned();
        let scratch = Cell::default();
        Ok(Self { id, name, time, keys, namespaces, scratch, types: PhantomData })
    }

    /// Opens timers whose keys or namespaces were of other types or codecs
    /// before, as [`ValueState::rekeyed`](crate::ValueState::rekeyed) does. Their
    /// times stay.
    ///
    /// # Errors
    /// As [`TimerStore::open_timers_rekeyed`]; the timers are then as they were.
    pub fn rekeyed<S: TimerStore + ?Sized, OK: 'static, ON: 'static, OKC, ONC>(
        store: &mut S,
        name: &str,
        time: TimeDomain,
        (old_keys, old_namespaces): (OKC, ONC),
        (keys, namespaces): (KC, NC),
        rename: impl FnMut(OK, ON) -> Result<(K, N)>,
    ) -> Result<Self>
    where
        OKC: Codec<OK>,
        ONC: Codec<ON>,
    {
        let spec = TimerSpec::new(name, time)
            .key_codec(CodecSpec::of(&keys))
            .namespace_codec(CodecSpec::of(&namespaces));
        let (old_keys, old_namespaces) = (&old_keys, &old_namespaces);
        let names = Keys { old_keys, old_namespaces, keys: &keys, namespaces: &namespaces };
        store.open_timers_rekeyed(spec, names.old(), &mut names.renaming(rename))?;
        Self::with_codecs(store, name, time, keys, namespaces)
    }

    /// The number of the timers, for calls at the level of bytes.
    pub fn id(&self) -> TimersId {
        self.id
    }

    /// Which time they wait for: what says `now` to [`pop_due`](Self::pop_due).
    pub fn time_domain(&self) -> TimeDomain {
        self.time
    }

    /// Registers a timer for a key in a namespace; `false` if there is such a
    /// timer already.
    pub fn register_in<S: TimerStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        timestamp: i64,
    ) -> Result<bool> {
        self.with_key(key, namespace, |key| store.register_timer(self.id, timestamp, key))
    }

    /// Deletes a timer of a key in a namespace; `false` if there is no such
    /// timer.
    pub fn delete_in<S: TimerStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        timestamp: i64,
    ) -> Result<bool> {
        self.with_key(key, namespace, |key| store.delete_timer(self.id, timestamp, key))
    }

    /// The time of the earliest timer of the shard, whatever its key.
    pub fn next<S: TimerStore + ?Sized>(&self, store: &mut S) -> Result<Option<i64>> {
        store.next_timer(self.id)
    }

    /// Number of pending timers of the shard.
    pub fn pending<S: TimerStore + ?Sized>(&self, store: &mut S) -> Result<u64> {
        store.pending_timers(self.id)
    }

    /// The latest time that [`pop_due`](Self::pop_due) was called with since
    /// the shard was opened.
    pub fn watermark<S: TimerStore + ?Sized>(&self, store: &S) -> Result<Option<i64>> {
        store.timer_watermark(self.id)
    }

    /// Says that it is `now` (the new watermark, or what the clock shows), and
    /// takes out the earliest timer that is not later, if there is one.
    ///
    /// Call it until it gives `None` to fire all that is due.
    pub fn pop_due<S: TimerStore + ?Sized>(
        &self,
        store: &mut S,
        now: i64,
    ) -> Result<Option<Timer<K, N>>> {
        let mut timer = None;
        // Decoded before it is removed: what cannot be decoded is not lost.
        store.pop_due(self.id, now, &mut |due| {
            let (key, namespace) =
                guard(|| Ok((self.keys.decode(due.key)?, self.namespaces.decode(due.namespace)?)))?;
            timer = Some(Timer { timestamp: due.timestamp, key, namespace });
            Ok(())
        })?;
        Ok(timer)
    }

    /// Runs a codec; a panic in it becomes an error. Ready codecs do not panic,
    /// and the fence would be felt.
    #[inline]
    fn fenced<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
        if KC::MAY_PANIC || NC::MAY_PANIC { guard(work) } else { work() }
    }

    fn with_key<T>(
        &self,
        key: &K,
        namespace: &N,
        work: impl FnOnce(KeyRef<'_>) -> Result<T>,
    ) -> Result<T> {
        let (mut key_bytes, mut namespace_bytes) = self.scratch.take();
        key_bytes.clear();
        namespace_bytes.clear();
        let encode = || {
            self.keys.encode(key, &mut key_bytes)?;
            self.namespaces.encode(namespace, &mut namespace_bytes)
        };
        let done = Self::fenced(encode)
            .map_err(|error| error.at(format_args!("timers {:?}, being encoded", self.name)))
            .and_then(|()| work(KeyRef::new(&key_bytes).namespace(&namespace_bytes)));
        self.scratch.set((key_bytes, namespace_bytes));
        done
    }
}

impl<K: 'static, KC: Codec<K>, NC: Codec<()>> Timers<K, (), KC, NC> {
    /// Registers a timer for a key; `false` if there is such a timer already.
    pub fn register<S: TimerStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        timestamp: i64,
    ) -> Result<bool> {
        self.register_in(store, key, &(), timestamp)
    }

    /// Deletes a timer of a key; `false` if there is no such timer.
    pub fn delete<S: TimerStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        timestamp: i64,
    ) -> Result<bool> {
        self.delete_in(store, key, &(), timestamp)
    }
}

impl<K, N, KC, NC> fmt::Debug for Timers<K, N, KC, NC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("id", &self.id).finish_non_exhaustive()
    }
}
