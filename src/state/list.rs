//! A sequence of elements for each key.

use std::fmt;
use std::marker::PhantomData;

use super::keyed::{Keyed, keyed_methods, pieces, plain_keyed_methods};
use super::options::StateOptions;
use super::rekey::Keys;
use crate::base::Result;
use crate::codec::{Codec, CodecSpec, HasCodec, KeyRef};
use crate::shard::store::{KeyedStore, StateId, StateSpec};

/// A state with a list of elements of type `E` for each key of type `K`, within
/// namespaces of type `N` (a window, say) if it has them.
///
/// Adding does not read what is there. A list without elements does not exist:
/// its key is not enumerated.
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
/// use alluvium::ListState;
///
/// let seen: ListState<String, u64> = ListState::register(&mut shard, "seen")?;
/// let heron = "heron".to_owned();
/// seen.add(&mut shard, &heron, &1600)?;
/// seen.add_all(&mut shard, &heron, &[1605, 1620])?;
/// assert_eq!(seen.get(&mut shard, &heron)?, [1600, 1605, 1620]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every method fails as [`KeyedStore`] says; `Corrupt` if stored bytes cannot
/// be decoded, `Invalid` if a codec refuses to encode or panics. The error then
/// names the state, which is as it was.
pub struct ListState<
    K,
    E,
    N = (),
    KC = <K as HasCodec>::Codec,
    EC = <E as HasCodec>::Codec,
    NC = <N as HasCodec>::Codec,
> {
    keyed: Keyed<K, N, KC, NC>,
    elements: EC,
    types: PhantomData<fn(&E)>,
}

impl<K, E, N> ListState<K, E, N>
where
    K: HasCodec + 'static,
    E: HasCodec + 'static,
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
            E::Codec::default(),
        )
    }
}

impl<K: 'static, E: 'static, N: 'static, KC, EC, NC> ListState<K, E, N, KC, EC, NC>
where
    KC: Codec<K>,
    EC: Codec<E>,
    NC: Codec<N>,
{
    /// Registers the state with these codecs, or finds it if it is there
    /// already. Restored elements that were written by an older version are migrated
    /// as their codec says; see [`Evolving`](crate::codec::Evolving).
    ///
    /// # Errors
    /// `Incompatible` if a state of that name has another kind or other codecs,
    /// or elements that these codecs cannot read.
    pub fn with_codecs<S: KeyedStore + ?Sized>(
        store: &mut S,
        state: impl Into<StateOptions>,
        keys: KC,
        namespaces: NC,
        elements: EC,
    ) -> Result<Self> {
        let spec = state.into().spec(StateSpec::list).value_codec(CodecSpec::of(&elements));
        let keyed = Keyed::register(store, spec, keys, namespaces)?;
        Ok(Self { keyed, elements, types: PhantomData })
    }

    keyed_methods!(K, N);

    /// Registers a state whose keys or namespaces were of other types or codecs
    /// before, as [`ValueState::rekeyed`](crate::ValueState::rekeyed) does: lists move as a
    /// whole.
    ///
    /// # Errors
    /// As [`KeyedStore::register_rekeyed`]; the state is then as it was.
    pub fn rekeyed<S: KeyedStore + ?Sized, OK: 'static, ON: 'static, OKC, ONC>(
        store: &mut S,
        state: impl Into<StateOptions>,
        (old_keys, old_namespaces): (OKC, ONC),
        (keys, namespaces, elements): (KC, NC, EC),
        rename: impl FnMut(OK, ON) -> Result<(K, N)>,
    ) -> Result<Self>
    where
        OKC: Codec<OK>,
        ONC: Codec<ON>,
    {
        let state = state.into();
        let spec = state.spec(StateSpec::list).value_codec(CodecSpec::of(&elements));
        let (old_keys, old_namespaces) = (&old_keys, &old_namespaces);
        let names = Keys { old_keys, old_namespaces, keys: &keys, namespaces: &namespaces };
        let spec = spec.key_codec(CodecSpec::of(&keys)).namespace_codec(CodecSpec::of(&namespaces));
        store.register_rekeyed(spec, names.old(), &mut names.renaming(rename))?;
        Self::with_codecs(store, state, keys, namespaces, elements)
    }

    /// Adds an element to the end of a key's list in a namespace.
    pub fn add_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        element: &E,
    ) -> Result<()> {
        self.keyed.with_key(key, namespace, |key, bytes| {
            self.keyed.encode(&self.elements, element, bytes)?;
            store.list_append(self.id(), key, &[bytes])
        })
    }

    /// Adds elements, in order, to the end of a key's list in a namespace.
    pub fn add_all_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        elements: &[E],
    ) -> Result<()> {
        self.with_elements(key, namespace, elements, |key, elements| {
            store.list_append(self.id(), key, elements)
        })
    }

    /// The elements of a key in a namespace, in the order in which they were
    /// added; none if it has no list.
    pub fn get_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<Vec<E>> {
        let mut elements = Vec::new();
        let mut outcome = Ok(());
        self.keyed.with_key(key, namespace, |key, _| {
            store.list_read(self.id(), key, &mut |bytes| {
                if outcome.is_err() {
                    return;
                }
                match self.keyed.decode(&self.elements, bytes) {
                    Ok(element) => elements.push(element),
                    Err(error) => outcome = Err(error),
                }
            })
        })?;
        outcome.map(|()| elements)
    }

    /// Replaces all elements of a key in a namespace; none clear it.
    pub fn replace_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        elements: &[E],
    ) -> Result<()> {
        self.with_elements(key, namespace, elements, |key, elements| {
            store.list_replace(self.id(), key, elements)
        })
    }

    /// Moves the elements of a key in some namespaces to the end of its list in
    /// another: those of `target` come first, then those of the sources in the
    /// order given. The sources are cleared. A source that is the target, or is
    /// named again, is left out. In a state with time to live what was moved counts
    /// as written now.
    ///
    /// # Errors
    /// All is read before anything is written, and a merge that fails leaves
    /// everything as it was. Should the store refuse even to have that put back,
    /// the error [says](crate::Error::may_have_happened) so.
    pub fn merge_namespaces<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        target: &N,
        sources: &[N],
    ) -> Result<()> {
        self.keyed.with_namespaces(key, target, sources, |target, sources| {
            let mut bytes = Vec::new();
            let mut ends = Vec::new();
            let mut full = Vec::with_capacity(sources.len());
            let mut parts = Vec::with_capacity(sources.len());
            for &source in sources {
                let before = ends.len();
                store.list_read(self.id(), source, &mut |element| {
                    bytes.extend_from_slice(element);
                    ends.push(bytes.len());
                })?;
                if ends.len() > before {
                    full.push(source);
                    parts.push(before..ends.len());
                }
            }
            let elements: Vec<&[u8]> = pieces(&bytes, &ends).collect();
            self.keyed.clear_and_write(
                store,
                &full,
                |store| store.list_append(self.id(), target, &elements),
                |store, at| store.list_append(self.id(), full[at], &elements[parts[at].clone()]),
            )
        })
    }

    /// Encodes elements and runs `work` with them.
    fn with_elements(
        &self,
        key: &K,
        namespace: &N,
        elements: &[E],
        work: impl FnOnce(KeyRef<'_>, &[&[u8]]) -> Result<()>,
    ) -> Result<()> {
        self.keyed.with_key(key, namespace, |key, bytes| {
            let mut ends = Vec::with_capacity(elements.len());
            for element in elements {
                self.keyed.encode(&self.elements, element, bytes)?;
                ends.push(bytes.len());
            }
            work(key, &pieces(bytes, &ends).collect::<Vec<_>>())
        })
    }
}

impl<K: 'static, E: 'static, KC, EC, NC> ListState<K, E, (), KC, EC, NC>
where
    KC: Codec<K>,
    EC: Codec<E>,
    NC: Codec<()>,
{
    /// Adds an element to the end of a key's list.
    pub fn add<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K, element: &E) -> Result<()> {
        self.add_in(store, key, &(), element)
    }

    /// Adds elements, in order, to the end of a key's list.
    pub fn add_all<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        elements: &[E],
    ) -> Result<()> {
        self.add_all_in(store, key, &(), elements)
    }

    /// The elements of a key, in the order in which they were added; none if
    /// it has no list.
    pub fn get<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K) -> Result<Vec<E>> {
        self.get_in(store, key, &())
    }

    /// Replaces all elements of a key; none clear it.
    pub fn replace<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        elements: &[E],
    ) -> Result<()> {
        self.replace_in(store, key, &(), elements)
    }

    plain_keyed_methods!(K);
}

impl<K, E, N, KC, EC, NC> fmt::Debug for ListState<K, E, N, KC, EC, NC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListState").field(&self.keyed).finish()
    }
}
