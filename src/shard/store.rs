//! The bytes-level store that typed state, adapters and tools are written
//! against.

use std::ops::{Bound, ControlFlow};

use crate::base::limits::MAX_STATE_NAME_BYTES;
use crate::base::{Error, KeyGroup, MaxParallelism, Result};
use crate::codec::{CodecId, CodecSpec, KeyRef};
use crate::format::manifest::{StateKind, StateMeta};
use crate::memtable::ValueMut;

use super::rekey::{OldCodecs, Rename};
use super::ttl::Ttl;

/// A state of a shard, for the calls that follow its registration. Good for
/// the shard that gave it and for no other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StateId(pub(super) u32);

impl StateId {
    /// Set in the number of a state of single values that expire: such a number
    /// is beyond all others, so that operations on states without time to live,
    /// which look for the state anyway, need not ask whether theirs has one.
    pub(super) const TIMED: u32 = 1 << 31;

    pub(super) const fn at(position: usize, timed: bool) -> Self {
        Self(position as u32 | if timed { Self::TIMED } else { 0 })
    }

    /// Which of the states of its shard it is.
    pub(super) const fn position(self) -> usize {
        (self.0 & !Self::TIMED) as usize
    }

    pub(super) const fn is_timed(self) -> bool {
        self.0 & Self::TIMED != 0
    }

    /// The state with this number, for those who implement [`KeyedStore`].
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// What a state is: its name, its kind, and how its bytes are to be read.
#[derive(Clone, Debug)]
pub struct StateSpec {
    pub(super) name: String,
    pub(super) kind: StateKind,
    pub(super) keys: CodecSpec,
    pub(super) namespaces: CodecSpec,
    pub(super) map_keys: Option<CodecSpec>,
    pub(super) values: CodecSpec,
    pub(super) ttl: Option<Ttl>,
}

impl StateSpec {
    /// A state with one value for each (key, namespace), of bytes that mean
    /// nothing to the engine.
    pub fn value(name: &str) -> Self {
        Self::of_kind(StateKind::Value, name)
    }

    /// A state with one value for each (key, namespace), into which further
    /// ones are reduced. To the engine it is one of values.
    pub fn reducing(name: &str) -> Self {
        Self::of_kind(StateKind::Reducing, name)
    }

    /// A state with one accumulator for each (key, namespace). To the engine it
    /// is one of values.
    pub fn aggregating(name: &str) -> Self {
        Self::of_kind(StateKind::Aggregating, name)
    }

    /// A state with a list for each (key, namespace).
    pub fn list(name: &str) -> Self {
        Self::of_kind(StateKind::List, name)
    }

    /// A state with a map for each (key, namespace).
    pub fn map(name: &str) -> Self {
        Self::of_kind(StateKind::Map, name)
    }

    pub(super) fn of_kind(kind: StateKind, name: &str) -> Self {
        let raw = CodecSpec::from(CodecId::new("bytes", 1));
        Self {
            name: name.to_owned(),
            kind,
            keys: raw.clone(),
            namespaces: raw.clone(),
            map_keys: (kind == StateKind::Map).then(|| raw.clone()),
            values: raw,
            ttl: None,
        }
    }

    /// Says how long values live; for ever if nothing is said.
    #[must_use]
    pub fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Says what the keys are written under: a [`CodecSpec::of`] the codec, or a
    /// mere id. It is stored with the state and compared when the state is asked
    /// for again.
    #[must_use]
    pub fn key_codec(mut self, codec: impl Into<CodecSpec>) -> Self {
        self.keys = codec.into();
        self
    }

    /// As [`key_codec`](Self::key_codec), for the namespaces.
    #[must_use]
    pub fn namespace_codec(mut self, codec: impl Into<CodecSpec>) -> Self {
        self.namespaces = codec.into();
        self
    }

    /// As [`key_codec`](Self::key_codec), for the values: for the elements of a
    /// list, and for the values of the entries of a map. Given by
    /// [`CodecSpec::of`], values that older versions wrote are migrated when
    /// they are read or merged.
    #[must_use]
    pub fn value_codec(mut self, codec: impl Into<CodecSpec>) -> Self {
        self.values = codec.into();
        self
    }

    /// As [`key_codec`](Self::key_codec), for the keys of map entries. A state
    /// of another kind has none.
    #[must_use]
    pub fn entry_codec(mut self, codec: impl Into<CodecSpec>) -> Self {
        if self.kind == StateKind::Map {
            self.map_keys = Some(codec.into());
        }
        self
    }

    /// The name of the state.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long its values live, if not for ever.
    pub fn time_to_live(&self) -> Option<&Ttl> {
        self.ttl.as_ref()
    }

    /// The kind of the state: which calls it answers.
    pub fn kind(&self) -> StateKind {
        self.kind
    }

    /// Refuses what no manifest can hold.
    pub(super) fn check(&self) -> Result<()> {
        if self.name.is_empty() || self.name.len() > MAX_STATE_NAME_BYTES {
            return Err(Error::invalid("the name of a state has a bad length")
                .expected(format_args!("1 to {MAX_STATE_NAME_BYTES} bytes"))
                .found(format_args!("{} bytes", self.name.len()))
                .remedy("give the state a short name"));
        }
        let codecs = [&self.keys, &self.namespaces, &self.values].into_iter();
        for codec in codecs.chain(&self.map_keys) {
            codec
                .schema()
                .check()
                .map_err(|error| error.at(format_args!("state {:?}", self.name)))?;
        }
        match &self.ttl {
            None => Ok(()),
            Some(ttl) => ttl
                .check(self.kind)
                .map_err(|error| error.at(format_args!("state {:?}", self.name))),
        }
    }

    /// What a manifest says of the state, except for older values and the time to
    /// live.
    pub fn meta(&self) -> StateMeta {
        StateMeta {
            name: self.name.clone(),
            kind: self.kind,
            key_schema: self.keys.schema().clone(),
            namespace_schema: self.namespaces.schema().clone(),
            map_key_schema: self.map_keys.as_ref().map(|codec| codec.schema().clone()),
            value_schema: self.values.schema().clone(),
            older_value_schemas: Vec::new(),
            ttl: None,
        }
    }
}

/// What a shard knows of one of its states.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateInfo {
    /// Name, kind and schemas, as the next manifest will have them.
    pub meta: StateMeta,
    /// Whether it was registered since the shard was opened. One that was only
    /// restored is carried on as it is.
    pub is_registered: bool,
}

/// Keyed state at the level of bytes, on one shard.
///
/// Object-safe: an adapter may hold a `Box<dyn KeyedStore>`. All methods take
/// `&mut self`, because a shard has one writer; none blocks on a background
/// thread. A key outside the shard's key groups is refused with
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), and so are keys,
/// namespaces and values above the [limits](crate::base::limits).
///
/// # Kinds
/// What a state holds for a key and namespace depends on its kind, and so do
/// the calls that it answers:
///
/// | kind | calls |
/// | --- | --- |
/// | value, reducing, aggregating | `get`, `put`, `delete`, `update`, `get_many`, `update_many` |
/// | list | `list_append`, `list_read`, `list_replace` |
/// | map | `map_get`, `map_put`, `map_remove`, `map_scan`, `map_is_empty` |
/// | all of these | `clear`, `visit_keys` |
///
/// A call that does not fit is `Invalid`, names the state, its kind and the
/// call, and changes nothing. A list without elements and a map without
/// entries do not exist: they are in no snapshot, and are not visited. An empty
/// value, element or entry does exist.
///
/// # Cost
/// One hash of the key and two dependent cache misses if the record is in
/// memory, which it is unless the shard was restored and the record has not
/// been touched since; then the tables are asked, newest first, and the record
/// is brought into memory. The batched calls overlap the misses of many keys.
///
/// Lists and maps are brought up as a whole, by the first call that needs to
/// know what is there; appending, replacing and clearing do not. A map of more
/// than 4 KiB is a tree of pages, of which a call touches one. A list is one
/// piece of memory: appending to it costs the same however long it is, except
/// that the first time after a barrier, as long as the background has not
/// copied out what the barrier froze, the whole list is copied.
///
/// # Errors
/// Besides what is said above: `Corrupt` or `Unavailable` if a table of a
/// restored shard cannot be read; whatever a codec says of an older value that
/// it cannot migrate. An error never means that a key is absent.
#[allow(
    clippy::type_complexity,
    reason = "a visitor spelled out says more than a name that has to be looked up"
)]
pub trait KeyedStore: Send {
    /// The number of key groups that keys are divided into.
    fn max_parallelism(&self) -> MaxParallelism;

    /// Creates a state, or finds it if it is there already.
    ///
    /// A state that was restored is compared with what it is asked for as, before
    /// anything is changed: its kind, keys and namespaces must be the same, and
    /// every version of its values readable.
    ///
    /// # Errors
    /// `Incompatible` if it does not fit, naming the state, both schemas and
    /// the difference, or if it is in use with another time to live in this life;
    /// `Invalid` if a name is empty or too long, a time to live is out of range,
    /// or a codec panics. The state is then as it was.
    fn register(&mut self, spec: StateSpec) -> Result<StateId>;

    /// Drops a state with all that it holds, whatever its kind, registered or
    /// only restored; `false` if there is no state of that name. Memory is given
    /// back at once, or when snapshots that are under way have copied what is
    /// theirs.
    ///
    /// Snapshots taken before this still have the state, later ones do not, and
    /// none ever has its records again. Its name is free: a state that is
    /// registered under it, as anything, begins empty. Calls with the old number,
    /// and with typed views of the state, are `Invalid`.
    ///
    /// A state is dropped on one shard. Restored from several shards' snapshots,
    /// a shard has it if one of them has, with what those hold that have it: drop
    /// it on all of them between the same two checkpoints.
    ///
    /// # Errors
    /// None of the engine's own. The state is then as it was.
    fn drop_state(&mut self, name: &str) -> Result<bool>;

    /// All states by name, restored ones that nobody has asked for included.
    fn states(&self) -> Vec<StateInfo>;

    /// As [`register`](Self::register), for a state that was stored under other
    /// keys, namespaces or map keys: reads all of it and writes it anew under
    /// those that `rename` gives, within this call and hence between two
    /// snapshots. Lists and maps move as a whole. The old keys must be those of
    /// `old`; values are migrated as always. If the state is new, or has the keys
    /// of `spec` already, this is `register` and `rename` is not called: a job may
    /// ask for it in every life.
    ///
    /// A new key must belong to the shard. As its group follows from its hash,
    /// re-keying is for one shard that owns all groups; its snapshot can then be
    /// restored on any number of them. A runtime that chooses groups itself may
    /// keep them ([`NewKey::group`](crate::NewKey::group)). New keys of map entries alone need neither.
    ///
    /// Blocks while the state is read, and brings all of it into memory; the next
    /// snapshot writes all of it.
    ///
    /// # Errors
    /// As `register`, `rename` and reading; `Invalid` if a new key is too long,
    /// is another one's too, or belongs to another shard. The state is then as it
    /// was.
    fn register_rekeyed(
        &mut self,
        spec: StateSpec,
        old: OldCodecs,
        rename: &mut dyn Rename,
    ) -> Result<StateId>;

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

    /// Looks many keys up, in a shard with their cache misses overlapping, and gives each
    /// answer with its position in `keys`, in order.
    ///
    /// Stops at the first error.
    fn get_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        for (at, key) in keys.iter().enumerate() {
            visit(at, self.get(state, *key)?);
        }
        Ok(())
    }

    /// Updates many keys, in a shard with their cache misses overlapping, in the order of
    /// `keys`; a key may occur more than once.
    ///
    /// Stops at the first error; the keys before it have been updated.
    fn update_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        change: &mut dyn FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        for (at, key) in keys.iter().enumerate() {
            self.update(state, *key, &mut |value| change(at, value))?;
        }
        Ok(())
    }

    /// Appends elements to the list of a key, in order, without reading what is
    /// there. No elements change nothing.
    ///
    /// # Errors
    /// `Invalid` if the list becomes longer than a value may be; then it is as
    /// it was.
    fn list_append(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()>;

    /// The elements of a list in the order in which they were added; none if
    /// there is no list.
    fn list_read(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()>;

    /// Replaces the whole list; no elements means that the list is cleared.
    ///
    /// # Errors
    /// As [`list_append`](Self::list_append).
    fn list_replace(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()>;

    /// The value of an entry of the map of a key, borrowed until the next call.
    fn map_get(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<Option<&[u8]>>;

    /// Inserts or replaces an entry of the map of a key.
    ///
    /// # Errors
    /// `Invalid` if the key of the entry is longer than a key may be, or its
    /// value longer than a value.
    fn map_put(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
        value: &[u8],
    ) -> Result<()>;

    /// Removes an entry of the map of a key; removing an absent one is no error.
    fn map_remove(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<()>;

    /// The entries of the map of a key in ascending order of the bytes of their
    /// keys, from `from` on, until `visit` breaks.
    fn map_scan(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()>;

    /// Whether the map of a key has no entries.
    fn map_is_empty(&mut self, state: StateId, key: KeyRef<'_>) -> Result<bool>;

    /// Removes all that a state holds for a key and namespace, whatever its
    /// kind; clearing what is not there is no error.
    fn clear(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()>;

    /// Every (group, key, namespace) that a state holds something for, each
    /// once and in no particular order, until `visit` breaks; only those in a
    /// namespace, if one is given. Of a restored shard that is not warm this
    /// reads the tables of the state, and brings nothing into memory.
    fn visit_keys(
        &mut self,
        state: StateId,
        namespace: Option<&[u8]>,
        visit: &mut dyn FnMut(KeyGroup, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()>;
}
