//! One value for each key.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::ControlFlow;

use super::keyed::visit_decoded;
use crate::base::{Error, Result};
use crate::codec::schema::guard;
use crate::codec::{Codec, CodecSpec, HasCodec, KeyRef};
use crate::memtable::ValueMut;
use crate::shard::store::{KeyedStore, NewKey, StateId, StateSpec};

/// A state with one value of type `V` for each key of type `K`, within
/// namespaces of type `N` (a window, say) if it has them.
///
/// Good for the shard it was registered on. The methods without `_in` are for
/// states without namespaces.
///
/// ```
/// # fn main() -> alluvium::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let backend = alluvium::Backend::builder(dir.path()).open()?;
/// # let groups = backend.max_parallelism().all_groups();
/// # let mut shard = backend.shard("count", groups).open()?;
/// use alluvium::ValueState;
///
/// let counts: ValueState<String, u64> = ValueState::register(&mut shard, "counts")?;
/// counts.update(&mut shard, &"heron".to_owned(), |count| Some(count.unwrap_or(0) + 1))?;
/// assert_eq!(counts.get(&mut shard, &"heron".to_owned())?, Some(1));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every method fails as [`KeyedStore`] says; `Corrupt` if stored bytes cannot
/// be decoded, `Invalid` if a codec refuses to encode or panics. The error names
/// the state, which is then as it was.
pub struct ValueState<
    K,
    V,
    N = (),
    KC = <K as HasCodec>::Codec,
    VC = <V as HasCodec>::Codec,
    NC = <N as HasCodec>::Codec,
> {
    id: StateId,
    name: String,
    keys: KC,
    values: VC,
    namespaces: NC,
    /// Encoded keys and values on their way; kept to save the allocations.
    scratch: Cell<Scratch>,
    types: PhantomData<fn(&K, &N, &V)>,
}

#[derive(Default)]
struct Scratch {
    key: Vec<u8>,
    namespace: Vec<u8>,
    value: Vec<u8>,
}

impl<K: HasCodec + 'static, V: HasCodec + 'static, N: HasCodec + 'static> ValueState<K, V, N> {
    /// Registers the state with the ready codecs of its types, or finds it if
    /// it is there already.
    ///
    /// # Errors
    /// `Incompatible` if a state of that name has another kind or other
    /// codecs.
    pub fn register<S: KeyedStore + ?Sized>(store: &mut S, name: &str) -> Result<Self> {
        Self::with_codecs(
            store,
            name,
            K::Codec::default(),
            N::Codec::default(),
            V::Codec::default(),
        )
    }
}

impl<K: 'static, V: 'static, N: 'static, KC, VC, NC> ValueState<K, V, N, KC, VC, NC>
where
    KC: Codec<K>,
    VC: Codec<V>,
    NC: Codec<N>,
{
    /// Registers the state with these codecs, or finds it if it is there
    /// already. Restored values that were written by an older version are
    /// migrated as the codec of the values says; see
    /// [`Evolving`](crate::codec::Evolving).
    ///
    /// # Errors
    /// `Incompatible` if a state of that name has another kind or other codecs,
    /// or values that these codecs cannot read.
    pub fn with_codecs<S: KeyedStore + ?Sized>(
        store: &mut S,
        name: &str,
        keys: KC,
        namespaces: NC,
        values: VC,
    ) -> Result<Self> {
        let spec = StateSpec::value(name)
            .key_codec(CodecSpec::of(&keys))
            .namespace_codec(CodecSpec::of(&namespaces))
            .value_codec(CodecSpec::of(&values));
        let id = store.register(spec)?;
        Ok(Self {
            id,
            name: name.to_owned(),
            keys,
            values,
            namespaces,
            scratch: Cell::default(),
            types: PhantomData,
        })
    }

    /// Registers a state whose keys or namespaces were of other types or codecs
    /// before, and writes it anew under those that `rename` makes of them. Does no
    /// more than [`with_codecs`](Self::with_codecs) if that has been done, or if
    /// the state is new. See [`KeyedStore::register_rekeyed`] for when it can be
    /// done, and what it costs.
    ///
    /// ```
    /// # fn main() -> alluvium::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let backend = alluvium::Backend::builder(dir.path()).open()?;
    /// # let groups = backend.max_parallelism().all_groups();
    /// use alluvium::codec::{Primitive, StringCodec};
    /// use alluvium::{SnapshotId, ValueState};
    ///
    /// let mut shard = backend.shard("count", groups).open()?;
    /// let counts: ValueState<u32, u64> = ValueState::register(&mut shard, "counts")?;
    /// counts.put(&mut shard, &7, &100)?;
    /// let handle = shard.snapshot(SnapshotId(1), b"")?.wait()?.handle;
    ///
    /// let mut shard = backend.shard("count", groups).restore([handle]).open()?;
    /// let none = Primitive::<()>::default();
    /// let counts: ValueState<String, u64> = ValueState::rekeyed(
    ///     &mut shard,
    ///     "counts",
    ///     (Primitive::<u32>::default(), none),
    ///     (StringCodec, none, Primitive::<u64>::default()),
    ///     |user, ()| Ok((format!("user {user}"), ())),
    /// )?;
    /// assert_eq!(counts.get(&mut shard, &"user 7".to_owned())?, Some(100));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`KeyedStore::register_rekeyed`]; the state is then as it was.
    pub fn rekeyed<S: KeyedStore + ?Sized, OK: 'static, ON: 'static, OKC, ONC>(
        store: &mut S,
        name: &str,
        (old_keys, old_namespaces): (OKC, ONC),
        (keys, namespaces, values): (KC, NC, VC),
        mut rename: impl FnMut(OK, ON) -> Result<(K, N)>,
    ) -> Result<Self>
    where
        OKC: Codec<OK>,
        ONC: Codec<ON>,
    {
        let spec = StateSpec::value(name)
            .key_codec(CodecSpec::of(&keys))
            .namespace_codec(CodecSpec::of(&namespaces))
            .value_codec(CodecSpec::of(&values));
        let old_specs = (CodecSpec::of(&old_keys), CodecSpec::of(&old_namespaces));
        store.register_rekeyed(spec, old_specs.0, old_specs.1, &mut |old| {
            guard(|| {
                let old = (old_keys.decode(old.key)?, old_namespaces.decode(old.namespace)?);
                let (key, namespace) = rename(old.0, old.1)?;
                let mut new = NewKey { key: Vec::new(), namespace: Vec::new(), group: None };
                keys.encode(&key, &mut new.key)?;
                namespaces.encode(&namespace, &mut new.namespace)?;
                Ok(new)
            })
        })?;
        Self::with_codecs(store, name, keys, namespaces, values)
    }

    /// The state's number, for calls at the level of bytes.
    pub fn id(&self) -> StateId {
        self.id
    }

    /// The value of a key in a namespace.
    pub fn get_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<Option<V>> {
        self.with_key(key, namespace, |key, _| {
            store.get(self.id, key)?.map(|bytes| self.decode(bytes)).transpose()
        })
    }

    /// Inserts or replaces the value of a key in a namespace.
    pub fn put_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        value: &V,
    ) -> Result<()> {
        self.with_key(key, namespace, |key, bytes| {
            self.encode(&self.values, value, bytes)?;
            store.put(self.id, key, bytes)
        })
    }

    /// Deletes a key in a namespace.
    pub fn delete_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<()> {
        self.with_key(key, namespace, |key, _| store.delete(self.id, key))
    }

    /// Reads the value of a key in a namespace, lets `change` make another of
    /// it (`None` deletes), and writes that, with one access.
    pub fn update_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        change: impl FnOnce(Option<V>) -> Option<V>,
    ) -> Result<()> {
        let mut change = Some(change);
        self.with_key(key, namespace, |key, bytes| {
            let mut outcome = Ok(());
            store.update(self.id, key, &mut |value| {
                let change = change.take().expect("a store calls the closure once");
                outcome = self.change(value, bytes, change);
            })?;
            outcome
        })
    }

    /// Looks many keys of one namespace up, their cache misses overlapping, in
    /// order.
    pub fn get_many_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        keys: &[K],
        namespace: &N,
    ) -> Result<Vec<Option<V>>> {
        let mut values = Vec::with_capacity(keys.len());
        self.with_keys(keys, namespace, |keys, _| {
            let mut outcome = Ok(());
            store.get_many(self.id, keys, &mut |_, bytes| match bytes
                .map(|bytes| self.decode(bytes))
                .transpose()
            {
                Ok(value) => values.push(value),
                Err(error) => outcome = std::mem::replace(&mut outcome, Ok(())).and(Err(error)),
            })?;
            outcome
        })?;
        Ok(values)
    }

    /// Updates many keys of one namespace, their cache misses overlapping, in
    /// order; `change` also gets the position of the key.
    pub fn update_many_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        keys: &[K],
        namespace: &N,
        mut change: impl FnMut(usize, Option<V>) -> Option<V>,
    ) -> Result<()> {
        self.with_keys(keys, namespace, |keys, bytes| {
            let mut outcome = Ok(());
            store.update_many(self.id, keys, &mut |at, value| {
                // After a failure the rest is left alone.
                if outcome.is_ok() {
                    outcome = self.change(value, bytes, |value| change(at, value));
                }
            })?;
            outcome
        })
    }

    /// Decode, change, encode, write: the inside of an update.
    fn change(
        &self,
        value: &mut ValueMut<'_>,
        bytes: &mut Vec<u8>,
        change: impl FnOnce(Option<V>) -> Option<V>,
    ) -> Result<()> {
        let old = value.get().map(|bytes| self.decode(bytes)).transpose()?;
        let existed = old.is_some();
        match change(old) {
            Some(new) => {
                bytes.clear();
                self.encode(&self.values, &new, bytes)?;
                value.set(bytes);
            }
            None if existed => value.delete(),
            None => {}
        }
        Ok(())
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<V> {
        self.decode_with(&self.values, bytes)
    }

    #[inline]
    fn decode_with<T, C: Codec<T>>(&self, codec: &C, bytes: &[u8]) -> Result<T> {
        let decoded =
            if C::MAY_PANIC { guard(|| codec.decode(bytes)) } else { codec.decode(bytes) };
        decoded.map_err(|error| self.failed("decoded", error))
    }

    #[inline]
    fn encode<T, C: Codec<T>>(&self, codec: &C, value: &T, out: &mut Vec<u8>) -> Result<()> {
        let encoded = if C::MAY_PANIC {
            guard(|| codec.encode(value, out))
        } else {
            codec.encode(value, out)
        };
        encoded.map_err(|error| self.failed("encoded", error))
    }

    #[cold]
    fn failed(&self, what: &str, error: Error) -> Error {
        error.at(format_args!("state {:?}, being {what}", self.name))
    }

    /// Encodes a key and runs `work` with it and an empty buffer.
    fn with_key<T>(
        &self,
        key: &K,
        namespace: &N,
        work: impl FnOnce(KeyRef<'_>, &mut Vec<u8>) -> Result<T>,
    ) -> Result<T> {
        // Taken, not borrowed: a closure that comes back here finds an empty
        // one instead of a panic.
        let mut scratch = self.scratch.take();
        scratch.key.clear();
        scratch.namespace.clear();
        scratch.value.clear();
        let done = self
            .encode(&self.keys, key, &mut scratch.key)
            .and_then(|()| self.encode(&self.namespaces, namespace, &mut scratch.namespace))
            .and_then(|()| {
                let key = KeyRef::new(&scratch.key).namespace(&scratch.namespace);
                work(key, &mut scratch.value)
            });
        self.scratch.set(scratch);
        done
    }

    /// Encodes many keys and runs `work` with them and an empty buffer.
    fn with_keys<T>(
        &self,
        keys: &[K],
        namespace: &N,
        work: impl FnOnce(&[KeyRef<'_>], &mut Vec<u8>) -> Result<T>,
    ) -> Result<T> {
        let mut encoded = Vec::new();
        let mut ends = Vec::with_capacity(keys.len());
        for key in keys {
            self.encode(&self.keys, key, &mut encoded)?;
            ends.push(encoded.len());
        }
        let mut in_namespace = Vec::new();
        self.encode(&self.namespaces, namespace, &mut in_namespace)?;
        let mut start = 0;
        let refs: Vec<KeyRef<'_>> = ends
            .into_iter()
            .map(|end| {
                let key = &encoded[start..end];
                start = end;
                KeyRef::new(key).namespace(&in_namespace)
            })
            .collect();
        work(&refs, &mut Vec::new())
    }
}

impl<K: 'static, V: 'static, KC, VC, NC> ValueState<K, V, (), KC, VC, NC>
where
    KC: Codec<K>,
    VC: Codec<V>,
    NC: Codec<()>,
{
    /// The value of a key.
    pub fn get<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K) -> Result<Option<V>> {
        self.get_in(store, key, &())
    }

    /// Inserts or replaces the value of a key.
    pub fn put<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K, value: &V) -> Result<()> {
        self.put_in(store, key, &(), value)
    }

    /// Deletes a key.
    pub fn delete<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K) -> Result<()> {
        self.delete_in(store, key, &())
    }

    /// Reads the value of a key, lets `change` make another of it (`None`
    /// deletes), and writes that, with one access.
    pub fn update<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        change: impl FnOnce(Option<V>) -> Option<V>,
    ) -> Result<()> {
        self.update_in(store, key, &(), change)
    }

    /// Looks many keys up, their cache misses overlapping, in order.
    pub fn get_many<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        keys: &[K],
    ) -> Result<Vec<Option<V>>> {
        self.get_many_in(store, keys, &())
    }

    /// Updates many keys, their cache misses overlapping, in order; `change`
    /// also gets the position of the key.
    pub fn update_many<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        keys: &[K],
        change: impl FnMut(usize, Option<V>) -> Option<V>,
    ) -> Result<()> {
        self.update_many_in(store, keys, &(), change)
    }
}

impl<K: 'static, V: 'static, N: 'static, KC, VC, NC> ValueState<K, V, N, KC, VC, NC>
where
    KC: Codec<K>,
    VC: Codec<V>,
    NC: Codec<N>,
{
    /// Every key and namespace that has a value, each once, in no particular
    /// order, until `visit` breaks. Blocks while the state is read.
    pub fn visit_keys<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        mut visit: impl FnMut(K, N) -> ControlFlow<()>,
    ) -> Result<()> {
        visit_decoded(store, self.id, None, |key, namespace| {
            let key = self.decode_with(&self.keys, key)?;
            Ok(visit(key, self.decode_with(&self.namespaces, namespace)?))
        })
    }

    /// The keys that have a value in a namespace, in no particular order.
    pub fn keys_in<S: KeyedStore + ?Sized>(&self, store: &mut S, namespace: &N) -> Result<Vec<K>> {
        let mut bytes = Vec::new();
        self.encode(&self.namespaces, namespace, &mut bytes)?;
        let mut found = Vec::new();
        visit_decoded(store, self.id, Some(&bytes), |key, _| {
            found.push(self.decode_with(&self.keys, key)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// Calls `work` with the store and each key that had a value in a
    /// namespace when the call began; `work` may change this state and others.
    /// Stops at the first error; what was done before it remains done.
    pub fn for_each_key_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        namespace: &N,
        mut work: impl FnMut(&mut S, &K) -> Result<()>,
    ) -> Result<()> {
        let keys = self.keys_in(store, namespace)?;
        keys.iter().try_for_each(|key| work(store, key))
    }
}

impl<K: 'static, V: 'static, KC, VC, NC> ValueState<K, V, (), KC, VC, NC>
where
    KC: Codec<K>,
    VC: Codec<V>,
    NC: Codec<()>,
{
    /// The keys that have a value, in no particular order.
    pub fn keys<S: KeyedStore + ?Sized>(&self, store: &mut S) -> Result<Vec<K>> {
        self.keys_in(store, &())
    }

    /// Calls `work` with the store and each key that had a value when the call
    /// began; `work` may change this state and others. Stops at the first
    /// error; what was done before it remains done.
    pub fn for_each_key<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        work: impl FnMut(&mut S, &K) -> Result<()>,
    ) -> Result<()> {
        self.for_each_key_in(store, &(), work)
    }
}

impl<K, V, N, KC, VC, NC> fmt::Debug for ValueState<K, V, N, KC, VC, NC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueState").field(&self.name).field(&self.id).finish()
    }
}
