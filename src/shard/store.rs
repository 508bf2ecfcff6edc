//! The bytes-level store that typed state, adapters and tools are written
//! against.

use crate::base::{MaxParallelism, Result};
use crate::codec::CodecId;
use crate::codec::KeyRef;
use crate::format::manifest::{StateKind, StateMeta};
use crate::memtable::ValueMut;

/// A state of a shard, for the calls that follow its registration. Good for
/// the shard that gave it and for no other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StateId(pub(super) u32);

/// What a state is: its name, its kind, and how its bytes are to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateSpec(pub(super) StateMeta);

impl StateSpec {
    /// A state with one value for each (key, namespace), of bytes that mean
    /// nothing to the engine.
    pub fn value(name: &str) -> Self {
        let raw = CodecId::new("bytes", 1);
        Self(StateMeta {
            name: name.to_owned(),
            kind: StateKind::Value,
            key_codec: raw.clone(),
            namespace_codec: raw.clone(),
            value_codec: raw,
        })
    }

    /// Names the codec of the keys; it is stored with the state and compared
    /// when the state is asked for again.
    #[must_use]
    pub fn key_codec(mut self, codec: CodecId) -> Self {
        self.0.key_codec = codec;
        self
    }

    /// Names the codec of the namespaces.
    #[must_use]
    pub fn namespace_codec(mut self, codec: CodecId) -> Self {
        self.0.namespace_codec = codec;
        self
    }

    /// Names the codec of the values.
    #[must_use]
    pub fn value_codec(mut self, codec: CodecId) -> Self {
        self.0.value_codec = codec;
        self
    }

    /// The name of the state.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

/// Keyed state at the level of bytes, on one shard.
///
/// Object-safe: an adapter may hold a `Box<dyn KeyedStore>`. All methods take
/// `&mut self`, because a shard has one writer; none blocks on a background
/// thread. A key outside the shard's key groups is refused with
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), and so are keys,
/// namespaces and values above the [limits](crate::base::limits).
///
/// # Cost
/// One hash of the key and two dependent cache misses if the record is in
/// memory, which it is unless the shard was restored and the record has not
/// been touched since; then the tables are asked, newest first, and the record
/// is brought into memory. The batched calls overlap the misses of many keys.
///
/// # Errors
/// Besides what is said above: `Corrupt` or `Unavailable` if a table of a
/// restored shard cannot be read. An error never means that a key is absent.
pub trait KeyedStore: Send {
    /// The number of key groups that keys are divided into.
    fn max_parallelism(&self) -> MaxParallelism;

    /// Creates a state, or finds it if it is there already.
    ///
    /// # Errors
    /// `Incompatible` if a state of that name has another kind or other
    /// codecs; `Invalid` if the name is empty or too long.
    fn register(&mut self, spec: StateSpec) -> Result<StateId>;

    /// The value of a key, borrowed until the next call.
    fn get(&mut self, state: StateId, key: KeyRef<'_>) -> Result<Option<&[u8]>>;

    /// Inserts or replaces the value of a key.
    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()>;

    /// Deletes a key; deleting an absent one is no error.
    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()>;

    /// Reads, changes and writes the value of a key in place.
    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()>;

    /// Looks many keys up, their cache misses overlapping, and gives each
    /// answer with its position in `keys`, in order.
    ///
    /// Stops at the first error.
    fn get_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()>;

    /// Updates many keys, their cache misses overlapping, in the order of
    /// `keys`; a key may occur more than once.
    ///
    /// Stops at the first error; the keys before it have been updated.
    fn update_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        change: &mut dyn FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()>;
}
