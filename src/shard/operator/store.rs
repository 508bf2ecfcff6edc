//! Operator states at the level of bytes: what typed ones, adapters and tools
//! are written against.

use std::ops::{Bound, ControlFlow};

use crate::base::limits::MAX_STATE_NAME_BYTES;
use crate::base::{Error, Result};
use crate::codec::{CodecId, CodecSpec, Schema};
use crate::format::OperatorStateMode;

/// An operator state of a shard, for the calls that follow its opening. Good for
/// the shard that gave it and for no other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OperatorStateId(u32);

impl OperatorStateId {
    /// The state with this number, for those who implement [`OperatorStore`].
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// What an operator state is: its name, how it is distributed, and how its bytes
/// are to be read.
#[derive(Clone, Debug)]
pub struct OperatorStateSpec {
    name: String,
    mode: OperatorStateMode,
    keys: Option<CodecSpec>,
    values: CodecSpec,
}

impl OperatorStateSpec {
    /// A list whose elements are divided evenly when it is restored; they are
    /// bytes that mean nothing to the engine.
    pub fn list(name: &str) -> Self {
        Self::of_mode(OperatorStateMode::List, name)
    }

    /// A list of which every subtask gets the elements of all when it is
    /// restored.
    pub fn union_list(name: &str) -> Self {
        Self::of_mode(OperatorStateMode::UnionList, name)
    }

    /// A map that is the same on every subtask.
    pub fn broadcast(name: &str) -> Self {
        Self::of_mode(OperatorStateMode::Broadcast, name)
    }

    fn of_mode(mode: OperatorStateMode, name: &str) -> Self {
        let raw = CodecSpec::from(CodecId::new("bytes", 1));
        let keys = (!mode.is_list()).then(|| raw.clone());
        Self { name: name.to_owned(), mode, keys, values: raw }
    }

    /// Says what the elements of a list, or the values of a broadcast state, are
    /// written under: a [`CodecSpec::of`] the codec, or a mere id. It is stored
    /// with the state and compared when the state is opened again. Given by
    /// [`CodecSpec::of`], what older versions wrote is migrated then.
    #[must_use]
    pub fn value_codec(mut self, codec: impl Into<CodecSpec>) -> Self {
        self.values = codec.into();
        self
    }

    /// As [`value_codec`](Self::value_codec), for the keys of a broadcast state.
    /// A list has none.
    #[must_use]
    pub fn key_codec(mut self, codec: impl Into<CodecSpec>) -> Self {
        if self.keys.is_some() {
            self.keys = Some(codec.into());
        }
        self
    }

    /// The name of the state.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is distributed: which calls it answers.
    pub fn mode(&self) -> OperatorStateMode {
        self.mode
    }

    /// What the elements or values are written under.
    pub fn values(&self) -> &CodecSpec {
        &self.values
    }

    /// What the keys are written under, if it is a broadcast state.
    pub fn keys(&self) -> Option<&CodecSpec> {
        self.keys.as_ref()
    }

    pub(super) fn key_schema(&self) -> Option<&Schema> {
        self.keys.as_ref().map(CodecSpec::schema)
    }

    /// Refuses what no manifest can hold.
    pub(super) fn check(&self) -> Result<()> {
        if self.name.is_empty() || self.name.len() > MAX_STATE_NAME_BYTES {
            return Err(Error::invalid("the name of an operator state has a bad length")
                .expected(format_args!("1 to {MAX_STATE_NAME_BYTES} bytes"))
                .found(format_args!("{} bytes", self.name.len()))
                .remedy("give the state a short name"));
        }
        let codecs = self.keys.iter().chain([&self.values]);
        for codec in codecs {
            codec
                .schema()
                .check()
                .map_err(|error| error.at(format_args!("operator state {:?}", self.name)))?;
        }
        Ok(())
    }
}

/// What a shard knows of one of its operator states.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OperatorStateInfo {
    /// Its name.
    pub name: String,
    /// How it is distributed.
    pub mode: OperatorStateMode,
    /// Whether it was opened since the shard was. One that was only restored is
    /// carried on as it is.
    pub is_open: bool,
    /// Elements or entries that the next snapshot will have of it.
    pub items: u64,
    /// Bytes that those take, with their lengths.
    pub bytes: u64,
}

/// What a subtask keeps beside its keys (the offsets of a source, the rules that
/// all subtasks follow), at the level of bytes.
///
/// Object-safe, apart from [`KeyedStore`](crate::KeyedStore), and like it for one
/// writer: none of the methods blocks.
///
/// # Modes
/// A state is opened in one of three modes, for ever:
///
/// | mode | on each subtask | after a restore, each subtask has | calls |
/// | --- | --- | --- | --- |
/// | [`List`](OperatorStateMode::List) | elements of its own | a share of all, in order; on as many subtasks as before, its own | `operator_list_add`, `operator_list_replace`, `operator_list_read` |
/// | [`UnionList`](OperatorStateMode::UnionList) | elements of its own | those of all subtasks, in order | the same |
/// | [`Broadcast`](OperatorStateMode::Broadcast) | the same map | the map of one of them | `broadcast_get`, `broadcast_put`, `broadcast_remove`, `broadcast_scan` |
///
/// and `operator_state_len` and `operator_state_clear` for all of them. A call
/// that does not fit is `Invalid`, names the state, its mode and the call, and
/// changes nothing.
///
/// *In order* is that of the old subtasks, and in each of them that in which the
/// elements were added. A share is `total / subtasks` of them, one more on each
/// of the first `total % subtasks`. A subtask takes the map of the old one of its
/// own number, counted round if there are more than before, or that of the next
/// one that has the state. That the maps of
/// subtasks are the same is for the operator to see to; the engine does not
/// compare them.
///
/// Whoever opens a union list is given the elements of all, and its next snapshot
/// has them: unless each subtask replaces them by its own, there are as many
/// copies of each after the next restore as there were subtasks.
///
/// # Snapshots
/// They are part of every snapshot of the shard, as they were at its barrier, and
/// written whole with each. Taking one copies nothing. The first change of a state
/// after it copies the list of its pieces (8 or 16 bytes for each 2 to 16 KiB) as
/// long as the snapshot is under way, and each change the piece that it meets.
///
/// A restored state that nobody opens is carried on, as it was, in every further
/// snapshot, and distributed again by every further restore. A union list is then
/// carried on divided, so that it does not grow.
///
/// # Restoring
/// Which elements a subtask has depends on all old subtasks, and on which of how
/// many it is: see [`ShardBuilder::restore`](crate::ShardBuilder::restore) and
/// [`ShardBuilder::subtask`](crate::ShardBuilder::subtask).
///
/// # Size
/// All operator states of a shard together may have
/// [`MAX_OPERATOR_STATE_BYTES`](crate::base::limits::MAX_OPERATOR_STATE_BYTES),
/// and live in the task's heap. A write that would exceed that is `Invalid`, names
/// the state, and changes nothing.
#[allow(
    clippy::type_complexity,
    reason = "a visitor spelled out says more than a name that has to be looked up"
)]
pub trait OperatorStore: Send {
    /// Creates an operator state, or finds it if it is there already.
    ///
    /// One that was restored is compared with what it is asked for as, before
    /// anything is changed, and items that older versions wrote are migrated
    /// within this call: values and elements, and the keys of a broadcast state
    /// as well.
    ///
    /// # Errors
    /// `Incompatible` if it does not fit, naming the state, both schemas and the
    /// difference, or if there is a keyed state or a state of timers of that
    /// name. `Invalid` if the name is empty or too long, if a codec panics or
    /// makes two keys one, if what was restored is larger than a manifest can
    /// hold, or if the shard was restored from some of the old subtasks only.
    /// Whatever a codec says of an item that it cannot migrate. The state is then
    /// as it was.
    fn open_operator_state(&mut self, spec: OperatorStateSpec) -> Result<OperatorStateId>;

    /// Drops a state with all that it holds, opened or only restored; `false` if
    /// there is no operator state of that name.
    ///
    /// Snapshots taken before this still have the state, later ones do not. Its
    /// name is free for a state of any sort, which begins empty. Calls with the
    /// old number are `Invalid`. Drop a state on all subtasks between the same two
    /// checkpoints: after a restore it is there if one of them had it.
    ///
    /// # Errors
    /// None of the engine's own.
    fn drop_operator_state(&mut self, name: &str) -> Result<bool>;

    /// All operator states by name, restored ones that nobody has opened included.
    fn operator_states(&self) -> Vec<OperatorStateInfo>;

    /// Number of elements, or of entries.
    fn operator_state_len(&self, state: OperatorStateId) -> Result<u64>;

    /// Removes all elements or entries. The state itself stays.
    fn operator_state_clear(&mut self, state: OperatorStateId) -> Result<()>;

    /// The elements of a list in order, until `visit` breaks.
    fn operator_list_read(
        &self,
        state: OperatorStateId,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<()>;

    /// Adds elements, in order, to the end of a list: all or none.
    fn operator_list_add(&mut self, state: OperatorStateId, elements: &[&[u8]]) -> Result<()>;

    /// Replaces all elements of a list.
    fn operator_list_replace(&mut self, state: OperatorStateId, elements: &[&[u8]]) -> Result<()>;

    /// The value of a key, borrowed until the next change. `O(log n)`.
    fn broadcast_get(&self, state: OperatorStateId, key: &[u8]) -> Result<Option<&[u8]>>;

    /// Inserts or replaces the value of a key. `O(log n)`, and rarely more.
    ///
    /// # Errors
    /// `Invalid` if the key is longer than
    /// [`MAX_KEY_BYTES`](crate::base::limits::MAX_KEY_BYTES).
    fn broadcast_put(&mut self, state: OperatorStateId, key: &[u8], value: &[u8]) -> Result<()>;

    /// Removes the value of a key; `false` if there is none.
    fn broadcast_remove(&mut self, state: OperatorStateId, key: &[u8]) -> Result<bool>;

    /// Keys and values in ascending order of the bytes of the keys, from `from`
    /// on, until `visit` breaks.
    fn broadcast_scan(
        &self,
        state: OperatorStateId,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()>;
}
