//! Entries by user key for each key.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, ControlFlow};

use super::keyed::{Keyed, keyed_methods, plain_keyed_methods};
use super::options::StateOptions;
use super::rekey::{Keys, MapRenaming, same_key};
use crate::base::Result;
use crate::codec::{Codec, CodecSpec, HasCodec};
use crate::shard::rekey::OldCodecs;
use crate::shard::store::{KeyedStore, StateId, StateSpec};

/// A state with a map from user keys of type `UK` to values of type `UV` for
/// each key of type `K`, within namespaces of type `N` (a window, say) if it
/// has them.
///
/// Entries are read and written one by one, however many there are. They come
/// in ascending order of the *bytes* of their user keys. The ready codecs of
/// numbers, characters, strings and bytes keep the order of the values; tuples
/// do only while every part but the last has a fixed length. A map without
/// entries does not exist: its key is not enumerated.
///
/// Good for the shard it was registered on. The methods without `_in` are for
/// states without namespaces.
///
/// ```
/// # fn main() -> alluvium::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let backend = alluvium::Backend::builder(dir.path()).open()?;
/// # let groups = backend.max_parallelism().all_groups();
/// # let mut shard = backend.shard("sightings", groups).open()?;
/// use alluvium::MapState;
///
/// let places: MapState<String, String, u64> = MapState::register(&mut shard, "places")?;
/// let (heron, weir, pond) = ("heron".to_owned(), "weir".to_owned(), "pond".to_owned());
/// places.put(&mut shard, &heron, &weir, &3)?;
/// places.put(&mut shard, &heron, &pond, &1)?;
/// assert_eq!(places.get(&mut shard, &heron, &weir)?, Some(3));
/// assert_eq!(places.entries(&mut shard, &heron)?, [(pond, 1), (weir, 3)]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every method fails as [`KeyedStore`] says; `Corrupt` if stored bytes cannot
/// be decoded, `Invalid` if a codec refuses to encode or panics. The error then
/// names the state, which is as it was.
pub struct MapState<
    K,
    UK,
    UV,
    N = (),
    KC = <K as HasCodec>::Codec,
    UC = <UK as HasCodec>::Codec,
    VC = <UV as HasCodec>::Codec,
    NC = <N as HasCodec>::Codec,
> {
    keyed: Keyed<K, N, KC, NC>,
    user_keys: UC,
    values: VC,
    types: PhantomData<fn(&UK, &UV)>,
}

impl<K, UK, UV, N> MapState<K, UK, UV, N>
where
    K: HasCodec + 'static,
    UK: HasCodec + 'static,
    UV: HasCodec + 'static,
    N: HasCodec + 'static,
{
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
            UK::Codec::default(),
            UV::Codec::default(),
        )
    }
}

impl<K: 'static, UK: 'static, UV: 'static, N: 'static, KC, UC, VC, NC>
    MapState<K, UK, UV, N, KC, UC, VC, NC>
where
    KC: Codec<K>,
    UC: Codec<UK>,
    VC: Codec<UV>,
    NC: Codec<N>,
{
    /// Registers the state with these codecs, or finds it if it is there
    /// already. Restored values that were written by an older version are migrated
    /// as their codec says; see [`Evolving`](crate::codec::Evolving).
    ///
    /// # Errors
    /// `Incompatible` if a state of that name has another kind or other codecs,
    /// or values that these codecs cannot read.
    pub fn with_codecs<S: KeyedStore + ?Sized>(
        store: &mut S,
        state: impl Into<StateOptions>,
        keys: KC,
        namespaces: NC,
        user_keys: UC,
        values: VC,
    ) -> Result<Self> {
        let spec = state
            .into()
            .spec(StateSpec::map)
            .entry_codec(CodecSpec::of(&user_keys))
            .value_codec(CodecSpec::of(&values));
        let keyed = Keyed::register(store, spec, keys, namespaces)?;
        Ok(Self { keyed, user_keys, values, types: PhantomData })
    }

    keyed_methods!(K, N);

    /// Registers a state whose keys, namespaces or user keys were of other types
    /// or codecs before, as [`ValueState::rekeyed`](crate::ValueState::rekeyed)
    /// does: maps move as a whole. `rename` is asked once for each map,
    /// `rename_entry` for each entry.
    ///
    /// # Errors
    /// As [`KeyedStore::register_rekeyed`], which it also is if two entries of a
    /// map would become one; the state is then as it was.
    pub fn rekeyed<S, OK: 'static, ON: 'static, OUK: 'static, OKC, ONC, OUC>(
        store: &mut S,
        state: impl Into<StateOptions>,
        (old_keys, old_namespaces, old_user_keys): (OKC, ONC, OUC),
        (keys, namespaces, user_keys, values): (KC, NC, UC, VC),
        rename: impl FnMut(OK, ON) -> Result<(K, N)>,
        rename_entry: impl FnMut(OUK) -> Result<UK>,
    ) -> Result<Self>
    where
        S: KeyedStore + ?Sized,
        OKC: Codec<OK>,
        ONC: Codec<ON>,
        OUC: Codec<OUK>,
    {
        let state = state.into();
        let spec = Self::spec(&state, &keys, &namespaces, &user_keys, &values);
        let (old_keys, old_namespaces) = (&old_keys, &old_namespaces);
        let names = Keys { old_keys, old_namespaces, keys: &keys, namespaces: &namespaces };
        let old = OldCodecs { map_keys: Some(CodecSpec::of(&old_user_keys)), ..names.old() };
        let (rename, codecs) = (names.renaming(rename), (&old_user_keys, &user_keys));
        store.register_rekeyed(spec, old, &mut MapRenaming::new(rename, rename_entry, codecs))?;
        Self::with_codecs(store, state, keys, namespaces, user_keys, values)
    }

    /// As [`rekeyed`](Self::rekeyed), if only the user keys of the entries were
    /// of another type or codec: keys and namespaces stay, and every map on its
    /// shard, so this can be done on any number of them.
    ///
    /// ```
    /// # fn main() -> alluvium::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let backend = alluvium::Backend::builder(dir.path()).open()?;
    /// # let groups = backend.max_parallelism().all_groups();
    /// use alluvium::codec::{Primitive, StringCodec};
    /// use alluvium::{MapState, SnapshotId};
    ///
    /// let mut shard = backend.shard("sightings", groups).open()?;
    /// let places: MapState<u64, u32, u64> = MapState::register(&mut shard, "places")?;
    /// places.put(&mut shard, &1, &7, &100)?;
    /// let handle = shard.snapshot(SnapshotId(1), b"")?.wait()?.handle;
    ///
    /// let mut shard = backend.shard("sightings", groups).restore([handle]).open()?;
    /// let (keys, none) = (Primitive::<u64>::default(), Primitive::<()>::default());
    /// let places: MapState<u64, String, u64> = MapState::entries_rekeyed(
    ///     &mut shard,
    ///     "places",
    ///     Primitive::<u32>::default(),
    ///     (keys, none, StringCodec, keys),
    ///     |place| Ok(format!("place {place}")),
    /// )?;
    /// assert_eq!(places.get(&mut shard, &1, &"place 7".to_owned())?, Some(100));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`rekeyed`](Self::rekeyed).
    pub fn entries_rekeyed<S: KeyedStore + ?Sized, OUK: 'static, OUC: Codec<OUK>>(
        store: &mut S,
        state: impl Into<StateOptions>,
        old_user_keys: OUC,
        (keys, namespaces, user_keys, values): (KC, NC, UC, VC),
        rename_entry: impl FnMut(OUK) -> Result<UK>,
    ) -> Result<Self> {
        let state = state.into();
        let spec = Self::spec(&state, &keys, &namespaces, &user_keys, &values);
        let old = OldCodecs {
            keys: CodecSpec::of(&keys),
            namespaces: CodecSpec::of(&namespaces),
            map_keys: Some(CodecSpec::of(&old_user_keys)),
        };
        let codecs = (&old_user_keys, &user_keys);
        store.register_rekeyed(spec, old, &mut MapRenaming::new(same_key, rename_entry, codecs))?;
        Self::with_codecs(store, state, keys, namespaces, user_keys, values)
    }

    fn spec(
        state: &StateOptions,
        keys: &KC,
        namespaces: &NC,
        user_keys: &UC,
        values: &VC,
    ) -> StateSpec {
        state
            .spec(StateSpec::map)
            .key_codec(CodecSpec::of(keys))
            .namespace_codec(CodecSpec::of(namespaces))
            .entry_codec(CodecSpec::of(user_keys))
            .value_codec(CodecSpec::of(values))
    }

    /// The value of one entry of a key in a namespace.
    pub fn get_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        user_key: &UK,
    ) -> Result<Option<UV>> {
        self.keyed.with_key(key, namespace, |key, bytes| {
            self.keyed.encode(&self.user_keys, user_key, bytes)?;
            let value = store.map_get(self.id(), key, bytes)?;
            value.map(|value| self.keyed.decode(&self.values, value)).transpose()
        })
    }

    /// Whether a key has an entry in a namespace.
    pub fn contains_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        user_key: &UK,
    ) -> Result<bool> {
        self.keyed.with_key(key, namespace, |key, bytes| {
            self.keyed.encode(&self.user_keys, user_key, bytes)?;
            Ok(store.map_get(self.id(), key, bytes)?.is_some())
        })
    }

    /// Inserts or replaces one entry of a key in a namespace.
    pub fn put_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        user_key: &UK,
        value: &UV,
    ) -> Result<()> {
        self.keyed.with_key(key, namespace, |key, bytes| {
            self.keyed.encode(&self.user_keys, user_key, bytes)?;
            let user_key_bytes = bytes.len();
            self.keyed.encode(&self.values, value, bytes)?;
            let (user_key, value) = bytes.split_at(user_key_bytes);
            store.map_put(self.id(), key, user_key, value)
        })
    }

    /// Removes one entry of a key in a namespace; removing an absent one is no
    /// error.
    pub fn remove_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        user_key: &UK,
    ) -> Result<()> {
        self.keyed.with_key(key, namespace, |key, bytes| {
            self.keyed.encode(&self.user_keys, user_key, bytes)?;
            store.map_remove(self.id(), key, bytes)
        })
    }

    /// Whether a key has no entries in a namespace.
    pub fn is_empty_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<bool> {
        self.keyed.with_key(key, namespace, |key, _| store.map_is_empty(self.id(), key))
    }

    /// Gives the entries of a key in a namespace to `visit`, in ascending order
    /// of the bytes of their user keys, from `from` on, until it breaks.
    pub fn scan_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        from: Bound<&UK>,
        mut visit: impl FnMut(UK, UV) -> ControlFlow<()>,
    ) -> Result<()> {
        self.scan_bytes(store, key, namespace, from, |user_key, value| {
            let user_key = self.keyed.decode(&self.user_keys, user_key)?;
            Ok(visit(user_key, self.keyed.decode(&self.values, value)?))
        })
    }

    /// The entries of a key in a namespace, in ascending order of the bytes of
    /// their user keys.
    pub fn entries_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<Vec<(UK, UV)>> {
        let mut entries = Vec::new();
        self.scan_in(store, key, namespace, Bound::Unbounded, |user_key, value| {
            entries.push((user_key, value));
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// The user keys of a key in a namespace, in ascending order of their
    /// bytes.
    pub fn entry_keys_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<Vec<UK>> {
        let mut user_keys = Vec::new();
        self.scan_bytes(store, key, namespace, Bound::Unbounded, |user_key, _| {
            user_keys.push(self.keyed.decode(&self.user_keys, user_key)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(user_keys)
    }

    /// The values of a key in a namespace, in ascending order of the bytes of
    /// their user keys.
    pub fn entry_values_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<Vec<UV>> {
        let mut values = Vec::new();
        self.scan_bytes(store, key, namespace, Bound::Unbounded, |_, value| {
            values.push(self.keyed.decode(&self.values, value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(values)
    }

    /// A scan whose visitor may fail, which ends it.
    fn scan_bytes<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        from: Bound<&UK>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        self.keyed.with_key(key, namespace, |key, bytes| {
            if let Bound::Included(user_key) | Bound::Excluded(user_key) = from {
                self.keyed.encode(&self.user_keys, user_key, bytes)?;
            }
            let mut outcome = Ok(());
            store.map_scan(self.id(), key, from.map(|_| &bytes[..]), &mut |user_key, value| {
                visit(user_key, value).unwrap_or_else(|error| {
                    outcome = Err(error);
                    ControlFlow::Break(())
                })
            })?;
            outcome
        })
    }
}

impl<K: 'static, UK: 'static, UV: 'static, KC, UC, VC, NC> MapState<K, UK, UV, (), KC, UC, VC, NC>
where
    KC: Codec<K>,
    UC: Codec<UK>,
    VC: Codec<UV>,
    NC: Codec<()>,
{
    /// The value of one entry of a key.
    pub fn get<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        user_key: &UK,
    ) -> Result<Option<UV>> {
        self.get_in(store, key, &(), user_key)
    }

    /// Whether a key has an entry.
    pub fn contains<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        user_key: &UK,
    ) -> Result<bool> {
        self.contains_in(store, key, &(), user_key)
    }

    /// Inserts or replaces one entry of a key.
    pub fn put<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        user_key: &UK,
        value: &UV,
    ) -> Result<()> {
        self.put_in(store, key, &(), user_key, value)
    }

    /// Removes one entry of a key; removing an absent one is no error.
    pub fn remove<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        user_key: &UK,
    ) -> Result<()> {
        self.remove_in(store, key, &(), user_key)
    }

    /// Whether a key has no entries.
    pub fn is_empty<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K) -> Result<bool> {
        self.is_empty_in(store, key, &())
    }

    /// Gives the entries of a key to `visit`, in ascending order of the bytes
    /// of their user keys, from `from` on, until it breaks.
    pub fn scan<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        from: Bound<&UK>,
        visit: impl FnMut(UK, UV) -> ControlFlow<()>,
    ) -> Result<()> {
        self.scan_in(store, key, &(), from, visit)
    }

    /// The entries of a key, in ascending order of the bytes of their user
    /// keys.
    pub fn entries<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K) -> Result<Vec<(UK, UV)>> {
        self.entries_in(store, key, &())
    }

    /// The user keys of a key, in ascending order of their bytes.
    pub fn entry_keys<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K) -> Result<Vec<UK>> {
        self.entry_keys_in(store, key, &())
    }

    /// The values of a key, in ascending order of the bytes of their user
    /// keys.
    pub fn entry_values<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K) -> Result<Vec<UV>> {
        self.entry_values_in(store, key, &())
    }

    plain_keyed_methods!(K);
}

impl<K, UK, UV, N, KC, UC, VC, NC> fmt::Debug for MapState<K, UK, UV, N, KC, UC, VC, NC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MapState").field(&self.keyed).finish()
    }
}
