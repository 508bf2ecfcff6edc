//! One value for each key.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use crate::base::Result;
use crate::codec::KeyRef;
use crate::codec::{Codec, HasCodec};
use crate::memtable::ValueMut;
use crate::shard::store::{KeyedStore, StateId, StateSpec};

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
/// be decoded, `Invalid` if a codec refuses to encode. The state is then as it
/// was.
pub struct ValueState<
    K,
    V,
    N = (),
    KC = <K as HasCodec>::Codec,
    VC = <V as HasCodec>::Codec,
    NC = <N as HasCodec>::Codec,
> {
    id: StateId,
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

impl<K: HasCodec, V: HasCodec, N: HasCodec> ValueState<K, V, N> {
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

impl<K, V, N, KC, VC, NC> ValueState<K, V, N, KC, VC, NC>
where
    KC: Codec<K>,
    VC: Codec<V>,
    NC: Codec<N>,
{
    /// Registers the state with these codecs, or finds it if it is there
    /// already.
    ///
    /// # Errors
    /// `Incompatible` if a state of that name has another kind or other
    /// codecs.
    pub fn with_codecs<S: KeyedStore + ?Sized>(
        store: &mut S,
        name: &str,
        keys: KC,
        namespaces: NC,
        values: VC,
    ) -> Result<Self> {
        let spec = StateSpec::value(name)
            .key_codec(keys.id())
            .namespace_codec(namespaces.id())
            .value_codec(values.id());
        let id = store.register(spec)?;
        Ok(Self { id, keys, values, namespaces, scratch: Cell::default(), types: PhantomData })
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
            store.get(self.id, key)?.map(|bytes| self.values.decode(bytes)).transpose()
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
            self.values.encode(value, bytes)?;
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
                .map(|bytes| self.values.decode(bytes))
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
        let old = value.get().map(|bytes| self.values.decode(bytes)).transpose()?;
        let existed = old.is_some();
        match change(old) {
            Some(new) => {
                bytes.clear();
                self.values.encode(&new, bytes)?;
                value.set(bytes);
            }
            None if existed => value.delete(),
            None => {}
        }
        Ok(())
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
            .keys
            .encode(key, &mut scratch.key)
            .and_then(|()| self.namespaces.encode(namespace, &mut scratch.namespace))
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
            self.keys.encode(key, &mut encoded)?;
            ends.push(encoded.len());
        }
        let mut in_namespace = Vec::new();
        self.namespaces.encode(namespace, &mut in_namespace)?;
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

impl<K, V, KC, VC, NC> ValueState<K, V, (), KC, VC, NC>
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

impl<K, V, N, KC, VC, NC> fmt::Debug for ValueState<K, V, N, KC, VC, NC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueState").field(&self.id).finish()
    }
}
