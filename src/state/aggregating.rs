//! One accumulator for each key.

use std::fmt;

use super::keyed::{Keyed, keyed_methods, plain_keyed_methods};
use super::options::StateOptions;
use super::rekey::Keys;
use crate::base::Result;
use crate::codec::{Codec, CodecSpec, HasCodec};
use crate::shard::store::{KeyedStore, StateId, StateSpec};

/// The name of the user's part in errors.
const FUNCTION: &str = "the aggregate function";

/// How values become an accumulator, and an accumulator a result.
///
/// Only accumulators are stored. Of a method that panics the call becomes an
/// `Invalid` error; the state is as it was, since methods work on copies.
pub trait Aggregate: Send + 'static {
    /// What is added.
    type In;
    /// What is stored for each key.
    type Acc;
    /// What is read.
    type Out;

    /// The accumulator of no values.
    fn create(&self) -> Self::Acc;

    /// Adds a value to an accumulator.
    fn add(&self, acc: &mut Self::Acc, value: Self::In);

    /// Merges an accumulator into another one, whose values are older; it should
    /// not matter in what order three are merged.
    fn merge(&self, into: &mut Self::Acc, from: Self::Acc);

    /// What the values added so far amount to.
    fn result(&self, acc: Self::Acc) -> Self::Out;
}

/// A state that aggregates all values added for a key of type `K`, as `A` says,
/// within namespaces of type `N` (a window, say) if it has them.
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
/// use alluvium::{Aggregate, AggregatingState};
///
/// struct Mean;
///
/// impl Aggregate for Mean {
///     type In = f64;
///     type Acc = (f64, u64);
///     type Out = f64;
///
///     fn create(&self) -> (f64, u64) {
///         (0.0, 0)
///     }
///     fn add(&self, acc: &mut (f64, u64), value: f64) {
///         *acc = (acc.0 + value, acc.1 + 1);
///     }
///     fn merge(&self, into: &mut (f64, u64), from: (f64, u64)) {
///         *into = (into.0 + from.0, into.1 + from.1);
///     }
///     fn result(&self, (sum, count): (f64, u64)) -> f64 {
///         sum / count as f64
///     }
/// }
///
/// let mean: AggregatingState<String, Mean> =
///     AggregatingState::register(&mut shard, "mean", Mean)?;
/// let heron = "heron".to_owned();
/// mean.add(&mut shard, &heron, 3.0)?;
/// mean.add(&mut shard, &heron, 4.0)?;
/// assert_eq!(mean.get(&mut shard, &heron)?, Some(3.5));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every method fails as [`KeyedStore`] says; `Corrupt` if stored bytes cannot
/// be decoded, `Invalid` if a codec refuses to encode, or the aggregate or a
/// codec panics. The error then names the state, which is as it was.
pub struct AggregatingState<
    K,
    A: Aggregate,
    N = (),
    KC = <K as HasCodec>::Codec,
    AC = <<A as Aggregate>::Acc as HasCodec>::Codec,
    NC = <N as HasCodec>::Codec,
> {
    keyed: Keyed<K, N, KC, NC>,
    accumulators: AC,
    aggregate: A,
}

impl<K, A, N> AggregatingState<K, A, N>
where
    K: HasCodec + 'static,
    A: Aggregate<Acc: HasCodec + 'static>,
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
        aggregate: A,
    ) -> Result<Self> {
        Self::with_codecs(
            store,
            state,
            K::Codec::default(),
            N::Codec::default(),
            Default::default(),
            aggregate,
        )
    }
}

impl<K: 'static, A, N: 'static, KC, AC, NC> AggregatingState<K, A, N, KC, AC, NC>
where
    A: Aggregate<Acc: 'static>,
    KC: Codec<K>,
    AC: Codec<A::Acc>,
    NC: Codec<N>,
{
    /// Registers the state with these codecs, or finds it if it is there
    /// already. Restored accumulators that were written by an older version are migrated
    /// as their codec says; see [`Evolving`](crate::codec::Evolving).
    ///
    /// # Errors
    /// `Incompatible` if a state of that name has another kind or other codecs,
    /// or accumulators that these codecs cannot read.
    pub fn with_codecs<S: KeyedStore + ?Sized>(
        store: &mut S,
        state: impl Into<StateOptions>,
        keys: KC,
        namespaces: NC,
        accumulators: AC,
        aggregate: A,
    ) -> Result<Self> {
        let spec =
            state.into().spec(StateSpec::aggregating).value_codec(CodecSpec::of(&accumulators));
        let keyed = Keyed::register(store, spec, keys, namespaces)?;
        Ok(Self { keyed, accumulators, aggregate })
    }

    keyed_methods!(K, N);

    /// Registers a state whose keys or namespaces were of other types or codecs
    /// before, as [`ValueState::rekeyed`](crate::ValueState::rekeyed) does: accumulators move
    /// as they are.
    ///
    /// # Errors
    /// As [`KeyedStore::register_rekeyed`]; the state is then as it was.
    pub fn rekeyed<S: KeyedStore + ?Sized, OK: 'static, ON: 'static, OKC, ONC>(
        store: &mut S,
        state: impl Into<StateOptions>,
        (old_keys, old_namespaces): (OKC, ONC),
        (keys, namespaces, accumulators): (KC, NC, AC),
        rename: impl FnMut(OK, ON) -> Result<(K, N)>,
        aggregate: A,
    ) -> Result<Self>
    where
        OKC: Codec<OK>,
        ONC: Codec<ON>,
    {
        let state = state.into();
        let spec = state.spec(StateSpec::aggregating).value_codec(CodecSpec::of(&accumulators));
        let (old_keys, old_namespaces) = (&old_keys, &old_namespaces);
        let names = Keys { old_keys, old_namespaces, keys: &keys, namespaces: &namespaces };
        let spec = spec.key_codec(CodecSpec::of(&keys)).namespace_codec(CodecSpec::of(&namespaces));
        store.register_rekeyed(spec, names.old(), &mut names.renaming(rename))?;
        Self::with_codecs(store, state, keys, namespaces, accumulators, aggregate)
    }

    /// What the values added to a key in a namespace amount to, if there are
    /// any.
    pub fn get_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<Option<A::Out>> {
        self.keyed.with_key(key, namespace, |key, _| {
            let acc = self.keyed.get_value(store, &self.accumulators, key)?;
            acc.map(|acc| self.keyed.call(FUNCTION, || self.aggregate.result(acc))).transpose()
        })
    }

    /// Adds a value to a key in a namespace, with one access.
    pub fn add_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
        value: A::In,
    ) -> Result<()> {
        self.keyed.update_value(store, &self.accumulators, key, namespace, |acc| {
            self.keyed.call(FUNCTION, || {
                let mut acc = acc.unwrap_or_else(|| self.aggregate.create());
                self.aggregate.add(&mut acc, value);
                acc
            })
        })
    }

    /// Merges the accumulators of a key in some namespaces into that in
    /// another: that of `target` comes first, then those of the sources in the
    /// order given. The sources are cleared. A source that is the target, or is
    /// named again, is left out.
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
        let merge = |mut into, from| {
            self.aggregate.merge(&mut into, from);
            into
        };
        self.keyed.merge_values(store, &self.accumulators, key, target, sources, (FUNCTION, &merge))
    }
}

impl<K: 'static, A, KC, AC, NC> AggregatingState<K, A, (), KC, AC, NC>
where
    A: Aggregate<Acc: 'static>,
    KC: Codec<K>,
    AC: Codec<A::Acc>,
    NC: Codec<()>,
{
    /// What the values added to a key amount to, if there are any.
    pub fn get<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K) -> Result<Option<A::Out>> {
        self.get_in(store, key, &())
    }

    /// Adds a value to a key, with one access.
    pub fn add<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &K, value: A::In) -> Result<()> {
        self.add_in(store, key, &(), value)
    }

    plain_keyed_methods!(K);
}

impl<K, A: Aggregate, N, KC, AC, NC> fmt::Debug for AggregatingState<K, A, N, KC, AC, NC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AggregatingState").field(&self.keyed).finish()
    }
}
