//! One value for each key, into which further ones are reduced.

use std::fmt;

use super::keyed::{Keyed, keyed_methods, plain_keyed_methods};
use super::options::StateOptions;
use super::rekey::Keys;
use crate::base::Result;
use crate::codec::{Codec, CodecSpec, HasCodec};
use crate::shard::store::{KeyedStore, StateId, StateSpec};

/// The name of the user's part in errors.
const FUNCTION: &str = "the reduce function";

/// A state that reduces all values added for a key of type `K` to one of the
/// same type `V`, within namespaces of type `N` (a window, say) if it has them.
///
/// The function gets the value so far and the one that is added. It should be
/// associative, since [`merge_namespaces`](Self::merge_namespaces) reduces
/// values that were reduced before. It is not stored: give the same one in
/// every life of the job.
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
/// use alluvium::ReducingState;
///
/// let most: ReducingState<String, u64> =
///     ReducingState::register(&mut shard, "most", |most: u64, count| most.max(count))?;
/// let heron = "heron".to_owned();
/// for count in [3, 7, 5] {
///     most.add(&mut shard, &heron, count)?;
/// }
/// assert_eq!(most.get(&mut shard, &heron)?, Some(7));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every method fails as [`KeyedStore`] says; `Corrupt` if stored bytes cannot
/// be decoded, `Invalid` if a codec refuses to encode, or the function or a
/// codec panics. The error then names the state, which is as it was.
pub struct ReducingState<
    K,
    V,
    N = (),
    KC = <K as HasCodec>::Codec,
    VC = <V as HasCodec>::Codec,
    NC = <N as HasCodec>::Codec,
> {
    keyed: Keyed<K, N, KC, NC>,
    values: VC,
    reduce: Box<dyn Fn(V, V) -> V + Send>,
}

impl<K, V, N> ReducingState<K, V, N>
where
    K: HasCodec + 'static,
    V: HasCodec + 'static,
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
        reduce: impl Fn(V, V) -> V + Send + 'static,
    ) -> Result<Self> {
        Self::with_codecs(
            store,
            state,
            K::Codec::default(),
            N::Codec::default(),
            V::Codec::default(),
            reduce,
        )
    }
}

impl<K: 'static, V: 'static, N: 'static, KC, VC, NC> ReducingState<K, V, N, KC, VC, NC>
where
    KC: Codec<K>,
    VC: Codec<V>,
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
        values: VC,
        reduce: impl Fn(V, V) -> V + Send + 'static,
    ) -> Result<Self> {
        let spec = state.into().spec(StateSpec::reducing).value_codec(CodecSpec::of(&values));
        let keyed = Keyed::register(store, spec, keys, namespaces)?;
        Ok(Self { keyed, values, reduce: Box::new(reduce) })
    }

    keyed_methods!(K, N);

    /// Registers a state whose keys or namespaces were of other types or codecs
    /// before, as [`ValueState::rekeyed`](crate::ValueState::rekeyed) does: values move as they
    /// are.
    ///
    /// # Errors
    /// As [`KeyedStore::register_rekeyed`]; the state is then as it was.
    pub fn rekeyed<S: KeyedStore + ?Sized, OK: 'static, ON: 'static, OKC, ONC>(
        store: &mut S,
        state: impl Into<StateOptions>,
        (old_keys, old_namespaces): (OKC, ONC),
        (keys, namespaces, values): (KC, NC, VC),
        rename: impl FnMut(OK, ON) -> Result<(K, N)>,
        reduce: impl Fn(V, V) -> V + Send + 'static,
    ) -> Result<Self>
    where
        OKC: Codec<OK>,
        ONC: Codec<ON>,
    {
        let state = state.into();
        let spec = state.spec(StateSpec::reducing).value_codec(CodecSpec::of(&values));
        let (old_keys, old_namespaces) = (&old_keys, &old_namespaces);
        let names = Keys { old_keys, old_namespaces, keys: &keys, namespaces: &namespaces };
        let spec = spec.key_codec(CodecSpec::of(&keys)).namespace_codec(CodecSpec::of(&namespaces));
        store.register_rekeyed(spec, names.old(), &mut names.renaming(rename))?;
        Self::with_codecs(store, state, keys, namespaces, values, reduce)
    }

    /// The reduced value of a key in a namespace, if one was added.
    pub fn get_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<Option<V>> {
        self.keyed.with_key(key, namespace, |key, _| self.keyed.get_value(store, &self.values, key))
    }

    /// Adds a value to a key in a namespace, with one access. The first one is
    /// stored as it is.
    pub fn add_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        value: V,
    ) -> Result<()> {
        self.keyed.update_value(store, &self.values, key, namespace, |old| match old {
            Some(old) => self.keyed.call(FUNCTION, || (self.reduce)(old, value)),
            None => Ok(value),
        })
    }

    /// Reduces the values of a key in some namespaces into that in another:
    /// that of `target` comes first, then those of the sources in the order
    /// given. The sources are cleared. A source that is the target, or is named
    /// again, is left out.
    ///
    /// # Errors
    /// All is computed before anything is written, and a merge that fails leaves
    /// everything as it was. Should the store refuse even to have that put back,
    /// the error [says](crate::Error::may_have_happened) so.
    pub fn merge_namespaces<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        target: &N,
        sources: &[N],
    ) -> Result<()> {
        let reduce = |old, value| (self.reduce)(old, value);
        self.keyed.merge_values(store, &self.values, key, target, sources, (FUNCTION, &reduce))
    }
}

impl<K: 'static, V: 'static, KC, VC, NC> ReducingState<K, V, (), KC, VC, NC>
where
    KC: Codec<K>,
    VC: Codec<V>,
    NC: Codec<()>,
{
    /// The reduced value of a key, if one was added.
    pub fn get<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K) -> Result<Option<V>> {
        self.get_in(store, key, &())
    }

    /// Adds a value to a key, with one access. The first one is stored as it
    /// is.
    pub fn add<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K, value: V) -> Result<()> {
        self.add_in(store, key, &(), value)
    }

    plain_keyed_methods!(K);
}

impl<K, V, N, KC, VC, NC> fmt::Debug for ReducingState<K, V, N, KC, VC, NC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReducingState").field(&self.keyed).finish()
    }
}
