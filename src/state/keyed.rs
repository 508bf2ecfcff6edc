//! What typed states of all kinds have in common: a name, keys and namespaces
//! and their way into bytes, enumeration, and the fence around code that is
//! not ours.
//!
//! Promises that no panic of a codec or of a user's function passes through a
//! store, and that each failure names the state. Knows no kinds.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::base::{Error, Result};
use crate::codec::schema::{guard, panic_text};
use crate::codec::{Codec, CodecSpec, KeyRef};
use crate::shard::store::{KeyedStore, StateId, StateSpec};

/// The part of a typed state that does not depend on its kind.
pub(super) struct Keyed<K, N, KC, NC> {
    id: StateId,
    name: String,
    keys: KC,
    namespaces: NC,
    /// Encoded keys and values on their way; kept to save the allocations.
    scratch: Cell<Scratch>,
    types: PhantomData<fn(&K, &N)>,
}

#[derive(Default)]
struct Scratch {
    key: Vec<u8>,
    namespace: Vec<u8>,
    value: Vec<u8>,
}

impl<K: 'static, N: 'static, KC: Codec<K>, NC: Codec<N>> Keyed<K, N, KC, NC> {
    /// Registers a state whose own codecs `spec` names already.
    pub(super) fn register<S: KeyedStore + ?Sized>(
        store: &mut S,
        spec: StateSpec,
        keys: KC,
        namespaces: NC,
    ) -> Result<Self> {
        let name = spec.name().to_owned();
        let spec = spec.key_codec(CodecSpec::of(&keys)).namespace_codec(CodecSpec::of(&namespaces));
        let id = store.register(spec)?;
        Ok(Self { id, name, keys, namespaces, scratch: Cell::default(), types: PhantomData })
    }

    pub(super) fn id(&self) -> StateId {
        self.id
    }

    /// Appends the bytes of a value of this state to `out`.
    #[inline]
    pub(super) fn encode<T, C: Codec<T>>(
        &self,
        codec: &C,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let encoded = if C::MAY_PANIC {
            guard(|| codec.encode(value, out))
        } else {
            codec.encode(value, out)
        };
        encoded.map_err(|error| self.failed("encoded", error))
    }

    /// The value that bytes of this state stand for.
    #[inline]
    pub(super) fn decode<T, C: Codec<T>>(&self, codec: &C, bytes: &[u8]) -> Result<T> {
        let decoded =
            if C::MAY_PANIC { guard(|| codec.decode(bytes)) } else { codec.decode(bytes) };
        decoded.map_err(|error| self.failed("decoded", error))
    }

    #[cold]
    fn failed(&self, what: &str, error: Error) -> Error {
        error.at(format_args!("state {:?}, being {what}", self.name))
    }

    /// Runs code of the user; a panic in it becomes an error.
    pub(super) fn call<T>(&self, what: &str, work: impl FnOnce() -> T) -> Result<T> {
        // What it leaves half done are its own arguments and results, which
        // nobody looks at after an error.
        catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
            let text = panic_text(&*panic);
            Error::invalid(format_args!("{what} of a state panicked"))
                .at(format_args!("state {:?}", self.name))
                .found(format_args!("the panic {text:?}"))
                .remedy("correct it; the state is as it was before the call")
        })
    }

    /// Encodes a key and runs `work` with it and an empty buffer.
    #[inline]
    pub(super) fn with_key<T>(
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
    pub(super) fn with_keys<T>(
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
        let refs: Vec<KeyRef<'_>> =
            pieces(&encoded, &ends).map(|key| KeyRef::new(key).namespace(&in_namespace)).collect();
        work(&refs, &mut Vec::new())
    }

    /// Encodes one key in the namespaces of a merge and runs `work` with the
    /// target and the sources. A source that is the target, or was there
    /// before, is left out.
    pub(super) fn with_namespaces<T>(
        &self,
        key: &K,
        target: &N,
        sources: &[N],
        work: impl FnOnce(KeyRef<'_>, &[KeyRef<'_>]) -> Result<T>,
    ) -> Result<T> {
        self.with_key(key, target, |target, bytes| {
            let mut ends = Vec::with_capacity(sources.len());
            for source in sources {
                self.encode(&self.namespaces, source, bytes)?;
                ends.push(bytes.len());
            }
            let mut seen = BTreeSet::from([target.namespace_bytes()]);
            let sources: Vec<KeyRef<'_>> = pieces(bytes, &ends)
                .filter(|source| seen.insert(source))
                .map(|source| target.namespace(source))
                .collect();
            work(target, &sources)
        })
    }

    /// Changes the one value that the state holds for a key, with one access;
    /// all that `change` does is done before anything is written.
    pub(super) fn update_value<S: KeyedStore + ?Sized, V>(
        &self,
        store: &mut S,
        codec: &impl Codec<V>,
        key: &K,
        namespace: &N,
        change: impl FnOnce(Option<V>) -> Result<V>,
    ) -> Result<()> {
        self.with_key(key, namespace, |key, bytes| {
            let mut change = Some(change);
            let mut outcome = Ok(());
            store.update(self.id, key, &mut |slot| {
                let change = change.take().expect("a store calls the closure once");
                outcome = slot
                    .get()
                    .map(|bytes| self.decode(codec, bytes))
                    .transpose()
                    .and_then(change)
                    .and_then(|value| self.encode(codec, &value, bytes));
                if outcome.is_ok() {
                    slot.set(bytes);
                }
            })?;
            outcome
        })
    }

    /// The one value that the state holds for a key.
    pub(super) fn get_value<S: KeyedStore + ?Sized, V>(
        &self,
        store: &mut S,
        codec: &impl Codec<V>,
        key: KeyRef<'_>,
    ) -> Result<Option<V>> {
        store.get(self.id, key)?.map(|bytes| self.decode(codec, bytes)).transpose()
    }

    /// Merges states that hold one value for each key: folds the values of the
    /// sources, in order, into that of the target, clears the sources, and writes
    /// it.
    pub(super) fn merge_values<S: KeyedStore + ?Sized, V>(
        &self,
        store: &mut S,
        codec: &impl Codec<V>,
        key: &K,
        target: &N,
        sources: &[N],
        (what, merge): (&str, &dyn Fn(V, V) -> V),
    ) -> Result<()> {
        self.with_namespaces(key, target, sources, |target, sources| {
            let mut merged = self.get_value(store, codec, target)?;
            let mut full = Vec::with_capacity(sources.len());
            let mut stored = Vec::with_capacity(sources.len());
            for &source in sources {
                let Some(bytes) = store.get(self.id, source)? else { continue };
                let value = self.decode(codec, bytes)?;
                full.push(source);
                stored.push(bytes.to_vec());
                merged = Some(match merged {
                    Some(before) => self.call(what, || merge(before, value))?,
                    None => value,
                });
            }
            let Some(merged) = merged.filter(|_| !full.is_empty()) else { return Ok(()) };
            let mut bytes = Vec::new();
            self.encode(codec, &merged, &mut bytes)?;
            self.clear_and_write(
                store,
                &full,
                |store| store.put(self.id, target, &bytes),
                |store, at| store.put(self.id, full[at], &stored[at]),
            )
        })
    }

    /// Clears `sources` and calls `write`, or leaves all as it was: if one of
    /// these fails, `put_back` is called with the place of each source that was
    /// cleared. That needs no more memory than was just given back.
    pub(super) fn clear_and_write<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        sources: &[KeyRef<'_>],
        write: impl FnOnce(&mut S) -> Result<()>,
        put_back: impl Fn(&mut S, usize) -> Result<()>,
    ) -> Result<()> {
        let mut cleared = 0;
        let done = sources.iter().try_for_each(|source| {
            store.clear(self.id, *source)?;
            cleared += 1;
            Ok(())
        });
        let Err(error) = done.and_then(|()| write(store)) else { return Ok(()) };
        let mut failure = None;
        for at in 0..cleared {
            failure = put_back(store, at).err().or(failure);
        }
        Err(match failure {
            None => error,
            Some(why) => error
                .at(format_args!("state {:?}, which is not as it was: {why}", self.name))
                .ambiguous(),
        })
    }

    pub(super) fn clear<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        key: &K,
        namespace: &N,
    ) -> Result<()> {
        self.with_key(key, namespace, |key, _| store.clear(self.id, key))
    }

    pub(super) fn visit_keys<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        mut visit: impl FnMut(K, N) -> ControlFlow<()>,
    ) -> Result<()> {
        visit_decoded(store, self.id, None, |key, namespace| {
            let key = self.decode(&self.keys, key)?;
            Ok(visit(key, self.decode(&self.namespaces, namespace)?))
        })
    }

    pub(super) fn keys_in<S: KeyedStore + ?Sized>(
        &self,
        store: &mut S,
        namespace: &N,
    ) -> Result<Vec<K>> {
        let mut bytes = Vec::new();
        self.encode(&self.namespaces, namespace, &mut bytes)?;
        let mut found = Vec::new();
        visit_decoded(store, self.id, Some(&bytes), |key, _| {
            found.push(self.decode(&self.keys, key)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }
}

/// Enumerates a state with a visitor that may fail, which ends it.
fn visit_decoded<S: KeyedStore + ?Sized>(
    store: &mut S,
    id: StateId,
    namespace: Option<&[u8]>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut outcome = Ok(());
    store.visit_keys(id, namespace, &mut |_, key, namespace| {
        visit(key, namespace).unwrap_or_else(|error| {
            outcome = Err(error);
            ControlFlow::Break(())
        })
    })?;
    outcome
}

/// The pieces of `bytes` that end at `ends`, one after the other.
pub(super) fn pieces<'a>(bytes: &'a [u8], ends: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(ends).map(|(start, &end)| &bytes[start..end])
}

impl<K, N, KC, NC> fmt::Debug for Keyed<K, N, KC, NC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {:?}", self.name, self.id)
    }
}

/// The methods with namespaces that states of all kinds have, for the inside
/// of an `impl` block of a type with a field `keyed`.
macro_rules! keyed_methods {
    ($K:ident, $N:ident) => {
        /// The state's number, for calls at the level of bytes.
        pub fn id(&self) -> StateId {
            self.keyed.id()
        }

        /// Removes all that the state holds for a key in a namespace.
        pub fn clear_in<S: KeyedStore + ?Sized>(
            &self,
            store: &mut S,
            key: &$K,
            namespace: &$N,
        ) -> Result<()> {
            self.keyed.clear(store, key, namespace)
        }

        /// Every key and namespace that the state holds something for, each
        /// once, in no particular order, until `visit` breaks. Blocks while the
        /// state is read.
        pub fn visit_keys<S: KeyedStore + ?Sized>(
            &self,
            store: &mut S,
            visit: impl FnMut($K, $N) -> ::std::ops::ControlFlow<()>,
        ) -> Result<()> {
            self.keyed.visit_keys(store, visit)
        }

        /// The keys that the state holds something for in a namespace, in no
        /// particular order.
        pub fn keys_in<S: KeyedStore + ?Sized>(
            &self,
            store: &mut S,
            namespace: &$N,
        ) -> Result<Vec<$K>> {
            self.keyed.keys_in(store, namespace)
        }

        /// Calls `work` with the store and each key that the state held
        /// something for in a namespace when the call began; `work` may change
        /// this state and others. Stops at the first error; what was done
        /// before it remains done.
        pub fn for_each_key_in<S: KeyedStore + ?Sized>(
            &self,
            store: &mut S,
            namespace: &$N,
            mut work: impl FnMut(&mut S, &$K) -> Result<()>,
        ) -> Result<()> {
            let keys = self.keyed.keys_in(store, namespace)?;
            keys.iter().try_for_each(|key| work(store, key))
        }
    };
}

/// As [`keyed_methods`], the methods without namespaces.
macro_rules! plain_keyed_methods {
    ($K:ident) => {
        /// Removes all that the state holds for a key.
        pub fn clear<S: KeyedStore + ?Sized>(&self, store: &mut S, key: &$K) -> Result<()> {
            self.clear_in(store, key, &())
        }

        /// The keys that the state holds something for, in no particular
        /// order.
        pub fn keys<S: KeyedStore + ?Sized>(&self, store: &mut S) -> Result<Vec<$K>> {
            self.keys_in(store, &())
        }

        /// Calls `work` with the store and each key that the state held
        /// something for when the call began; `work` may change this state and
        /// others. Stops at the first error; what was done before it remains
        /// done.
        pub fn for_each_key<S: KeyedStore + ?Sized>(
            &self,
            store: &mut S,
            work: impl FnMut(&mut S, &$K) -> Result<()>,
        ) -> Result<()> {
            self.for_each_key_in(store, &(), work)
        }
    };
}

pub(super) use {keyed_methods, plain_keyed_methods};
