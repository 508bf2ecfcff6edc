//! A map that is the same on every subtask.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, ControlFlow};

use super::operator::Operator;
use crate::base::Result;
use crate::codec::{Codec, CodecSpec, HasCodec};
use crate::shard::operator::store::{OperatorStateId, OperatorStateSpec, OperatorStore};

/// An operator state with a map from keys of type `K` to values of type `V` that
/// is the same on every subtask: rules, prices, settings that a stream of their
/// own brings to all.
///
/// Its keys have nothing to do with those of keyed state. Every subtask has to
/// make the same changes, which is what broadcasting a stream is for; each
/// snapshot holds the whole map, and each restored subtask gets a copy.
/// [`OperatorStore`] says more of that, and of what it costs. Good for the shard
/// it was opened on.
///
/// ```
/// # fn main() -> alluvium::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let backend = alluvium::Backend::builder(dir.path()).open()?;
/// # let groups = backend.max_parallelism().all_groups();
/// # let mut shard = backend.shard("price", groups).open()?;
/// use alluvium::BroadcastState;
///
/// let prices: BroadcastState<String, u64> = BroadcastState::open(&mut shard, "prices")?;
/// prices.put(&mut shard, &"heron".to_owned(), &250)?;
/// prices.put(&mut shard, &"egret".to_owned(), &175)?;
/// assert_eq!(prices.get(&shard, &"heron".to_owned())?, Some(250));
/// assert!(prices.remove(&mut shard, &"heron".to_owned())?);
/// assert_eq!(prices.entries(&shard)?, [("egret".to_owned(), 175)]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every method fails as [`OperatorStore`] says; `Corrupt` if stored bytes cannot
/// be decoded, `Invalid` if a codec refuses to encode or panics. The error then
/// names the state, which is as it was.
pub struct BroadcastState<K, V, KC = <K as HasCodec>::Codec, VC = <V as HasCodec>::Codec> {
    operator: Operator,
    keys: KC,
    values: VC,
    types: PhantomData<fn(&K, &V)>,
}

impl<K: HasCodec + 'static, V: HasCodec + 'static> BroadcastState<K, V> {
    /// Opens the state with the ready codecs of its types, or finds it if it is
    /// there already.
    ///
    /// # Errors
    /// As [`OperatorStore::open_operator_state`].
    pub fn open<S: OperatorStore + ?Sized>(store: &mut S, name: &str) -> Result<Self> {
        Self::with_codecs(store, name, K::Codec::default(), V::Codec::default())
    }
}

impl<K: 'static, V: 'static, KC: Codec<K>, VC: Codec<V>> BroadcastState<K, V, KC, VC> {
    /// Opens the state with these codecs, or finds it if it is there already.
    /// Restored keys and values that were written by an older version are migrated
    /// as their codecs say; see [`Evolving`](crate::codec::Evolving).
    ///
    /// # Errors
    /// As [`OperatorStore::open_operator_state`].
    pub fn with_codecs<S: OperatorStore + ?Sized>(
        store: &mut S,
        name: &str,
        keys: KC,
        values: VC,
    ) -> Result<Self> {
        let spec = OperatorStateSpec::broadcast(name)
            .key_codec(CodecSpec::of(&keys))
            .value_codec(CodecSpec::of(&values));
        let operator = Operator::open(store, spec)?;
        Ok(Self { operator, keys, values, types: PhantomData })
    }

    /// The number of the state, for calls at the level of bytes.
    pub fn id(&self) -> OperatorStateId {
        self.operator.id
    }

    /// The value of a key.
    pub fn get<S: OperatorStore + ?Sized>(&self, store: &S, key: &K) -> Result<Option<V>> {
        self.with_key(key, |key| {
            let value = store.broadcast_get(self.id(), key)?;
            value.map(|value| self.operator.decode(&self.values, value)).transpose()
        })
    }

    /// Whether a key has a value.
    pub fn contains<S: OperatorStore + ?Sized>(&self, store: &S, key: &K) -> Result<bool> {
        self.with_key(key, |key| Ok(store.broadcast_get(self.id(), key)?.is_some()))
    }

    /// Inserts or replaces the value of a key.
    pub fn put<S: OperatorStore + ?Sized>(&self, store: &mut S, key: &K, value: &V) -> Result<()> {
        self.operator.with_buffer(|bytes| {
            self.operator.encode(&self.keys, key, bytes)?;
            let key_bytes = bytes.len();
            self.operator.encode(&self.values, value, bytes)?;
            let (key, value) = bytes.split_at(key_bytes);
            store.broadcast_put(self.id(), key, value)
        })
    }

    /// Removes the value of a key; `false` if there is none.
    pub fn remove<S: OperatorStore + ?Sized>(&self, store: &mut S, key: &K) -> Result<bool> {
        self.with_key(key, |key| store.broadcast_remove(self.id(), key))
    }

    /// Gives keys and values to `visit`, in ascending order of the bytes of the
    /// keys, from `from` on, until it breaks.
    pub fn scan<S: OperatorStore + ?Sized>(
        &self,
        store: &S,
        from: Bound<&K>,
        mut visit: impl FnMut(K, V) -> ControlFlow<()>,
    ) -> Result<()> {
        self.operator.with_buffer(|bytes| {
            if let Bound::Included(key) | Bound::Excluded(key) = from {
                self.operator.encode(&self.keys, key, bytes)?;
            }
            let mut outcome = Ok(());
            store.broadcast_scan(self.id(), from.map(|_| &**bytes), &mut |key, value| {
                self.operator.give(&mut outcome, || {
                    let key = self.operator.decode(&self.keys, key)?;
                    Ok(visit(key, self.operator.decode(&self.values, value)?))
                })
            })?;
            outcome
        })
    }

    /// Keys and values in ascending order of the bytes of the keys.
    pub fn entries<S: OperatorStore + ?Sized>(&self, store: &S) -> Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        self.scan(store, Bound::Unbounded, |key, value| {
            entries.push((key, value));
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Number of keys.
    pub fn len<S: OperatorStore + ?Sized>(&self, store: &S) -> Result<u64> {
        store.operator_state_len(self.id())
    }

    /// Whether there are none.
    pub fn is_empty<S: OperatorStore + ?Sized>(&self, store: &S) -> Result<bool> {
        Ok(self.len(store)? == 0)
    }

    /// Removes all keys.
    pub fn clear<S: OperatorStore + ?Sized>(&self, store: &mut S) -> Result<()> {
        store.operator_state_clear(self.id())
    }

    fn with_key<T>(&self, key: &K, work: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        self.operator.with_buffer(|bytes| {
            self.operator.encode(&self.keys, key, bytes)?;
            work(bytes)
        })
    }
}

impl<K, V, KC, VC> fmt::Debug for BroadcastState<K, V, KC, VC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BroadcastState").field(&self.operator).finish()
    }
}
