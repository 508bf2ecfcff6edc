//! One value for each key.

use std::fmt;
use std::marker::PhantomData;

use super::keyed::{Keyed, keyed_methods, plain_keyed_methods};
use super::options::StateOptions;
use super::rekey::Keys;
use crate::base::Result;
use crate::codec::{Codec, CodecSpec, HasCodec};
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
    keyed: Keyed<K, N, KC, NC>,
    values: VC,
    types: PhantomData<fn(&V)>,
}

impl<K: HasCodec + 'static, V: HasCodec + 'static, N: HasCodec + 'static> ValueState<K, V, N> {
    /// Registers the state with the ready codecs of its types, or finds it if
    /// it is there already.
    ///
    /// # Errors
    /// `Incompatible` if a state of that name has another kind or other
    /// codecs.
    pub fn register<S: KeyedStore + ?Sized>(
        store: &mut S,
        state: impl Into<StateOptions>,
    ) -> Result<Self> {
        Self::with_codecs(
            store,
            state,
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
        state: impl Into<StateOptions>,
        keys: KC,
        namespaces: NC,
        values: VC,
    ) -> Result<Self> {
        let spec = state.into().spec(StateSpec::value).value_codec(CodecSpec::of(&values));
        let keyed = Keyed::register(store, spec, keys, namespaces)?;
        Ok(Self { keyed, values, types: PhantomData })
    }

    keyed_methods!(K, N);

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
        state: impl Into<StateOptions>,
        (old_keys, old_namespaces): (OKC, ONC),
        (keys, namespaces, values): (KC, NC, VC),
        rename: impl FnMut(OK, ON) -> Result<(K, N)>,
    ) -> Result<Self>
    where
        OKC: Codec<OK>,
        ONC: Codec<ON>,
    {
        let state = state.into();
        let spec = state.spec(StateSpec::value).value_codec(CodecSpec::of(&values));
        let (old_keys, old_namespaces) = (&old_keys, &old_namespaces);
        let names = Keys { old_keys, old_namespaces, keys: &keys, namespaces: &namespaces };
        let spec = spec.key_codec(CodecSpec::of(&keys)).namespace_codec(CodecSpec::of(&namespaces));
        store.register_rekeyed(spec, names.old(), &mut names.renaming(rename))?;
        Self::with_codecs(store, state, keys, namespaces, values)
    }

    /// The value of a key in a namespace.
    pub fn get_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<Option<V>> {
        self.keyed.with_key(key, namespace, |key, _| self.keyed.get_value(store, &self.values, key))
    }

    /// Inserts or replaces the value of a key in a namespace.
    pub fn put_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        value: &V,
    ) -> Result<()> {
        self.keyed.with_key(key, namespace, |key, bytes| {
            self.keyed.encode(&self.values, value, bytes)?;
            store.put(self.keyed.id(), key, bytes)
        })
    }

    /// Deletes a key in a namespace.
    pub fn delete_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<()> {
        self.keyed.with_key(key, namespace, |key, _| store.delete(self.keyed.id(), key))
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
        self.keyed.with_key(key, namespace, |key, bytes| {
            let mut outcome = Ok(());
            store.update(self.keyed.id(), key, &mut |value| {
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
        self.keyed.with_keys(keys, namespace, |keys, _| {
            let mut outcome = Ok(());
            store.get_many(self.keyed.id(), keys, &mut |_, bytes| match bytes
                .map(|bytes| self.keyed.decode(&self.values, bytes))
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
        self.keyed.with_keys(keys, namespace, |keys, bytes| {
            let mut outcome = Ok(());
            store.update_many(self.keyed.id(), keys, &mut |at, value| {
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
        let old = value.get().map(|bytes| self.keyed.decode(&self.values, bytes)).transpose()?;
        let existed = old.is_some();
        match change(old) {
            Some(new) => {
                bytes.clear();
                self.keyed.encode(&self.values, &new, bytes)?;
                value.set(bytes);
            }
            None if existed => value.delete(),
            None => {}
        }
        Ok(())
    }
}

impl<K: 'static, V: 'static, KC, VC, NC> ValueState<K, V, (), KC, VC, NC>
where
    KC: Codec<K>,
    VC: Codec<V>,
    NC: Codec<()>,
{
    plain_keyed_methods!(K);

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
        f.debug_tuple("ValueState").field(&self.keyed).finish()
    }
}
