//! Lists that belong to a subtask, not to a key; and what typed operator states
//! have in common.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::ControlFlow;

use super::keyed::pieces;
use crate::base::{Error, Result};
use crate::codec::schema::guard;
use crate::codec::{Codec, CodecSpec, HasCodec};
use crate::shard::operator::store::{OperatorStateId, OperatorStateSpec, OperatorStore};

/// An operator state with a list of elements of type `E` on each subtask: the
/// offsets of a source, transactions that are to be committed.
///
/// When it is restored, the elements of all subtasks are
/// [divided evenly](Self::even_split), or each subtask is given
/// [those of all](Self::union). [`OperatorStore`] says more of that, and of what
/// it costs. Good for the shard it was opened on.
///
/// ```
/// # fn main() -> alluvium::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let backend = alluvium::Backend::builder(dir.path()).open()?;
/// # let max = backend.max_parallelism();
/// use alluvium::{OperatorListState, SnapshotId};
///
/// // One subtask reads five files, and notes how far it has come in each.
/// let mut shard = backend.shard("read", max.all_groups()).open()?;
/// let open_files: OperatorListState<(String, u64)> =
///     OperatorListState::even_split(&mut shard, "open files")?;
/// for file in ["a", "b", "c", "d", "e"] {
///     open_files.add(&mut shard, &(file.to_owned(), 0))?;
/// }
/// let handle = shard.snapshot(SnapshotId(1), b"")?.wait()?.handle;
///
/// // Two go on: the first with three of them, the second with two.
/// for (index, expected) in [(0, vec!["a", "b", "c"]), (1, vec!["d", "e"])] {
///     let mut shard = backend
///         .shard("read", max.range_of_subtask(index, 2)?)
///         .subtask(index, 2)
///         .restore([handle.clone()])
///         .open()?;
///     let open_files: OperatorListState<(String, u64)> =
///         OperatorListState::even_split(&mut shard, "open files")?;
///     let files: Vec<String> =
///         open_files.get(&shard)?.into_iter().map(|(file, _)| file).collect();
///     assert_eq!(files, expected);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Every method fails as [`OperatorStore`] says; `Corrupt` if stored bytes cannot
/// be decoded, `Invalid` if a codec refuses to encode or panics. The error then
/// names the state, which is as it was.
pub struct OperatorListState<E, EC = <E as HasCodec>::Codec> {
    operator: Operator,
    elements: EC,
    types: PhantomData<fn(&E)>,
}

impl<E: HasCodec + 'static> OperatorListState<E> {
    /// Opens a list whose elements are divided evenly when it is restored, with
    /// the ready codec of their type, or finds it if it is there already.
    ///
    /// # Errors
    /// As [`OperatorStore::open_operator_state`].
    pub fn even_split<S: OperatorStore + ?Sized>(store: &mut S, name: &str) -> Result<Self> {
        Self::even_split_with(store, name, E::Codec::default())
    }

    /// As [`even_split`](Self::even_split), for a list of which every subtask is
    /// given the elements of all when it is restored.
    ///
    /// # Errors
    /// As [`OperatorStore::open_operator_state`].
    pub fn union<S: OperatorStore + ?Sized>(store: &mut S, name: &str) -> Result<Self> {
        Self::union_with(store, name, E::Codec::default())
    }
}

impl<E: 'static, EC: Codec<E>> OperatorListState<E, EC> {
    /// Opens a list whose elements are divided evenly when it is restored, with
    /// this codec, or finds it if it is there already. Restored elements that were
    /// written by an older version are migrated as the codec says; see
    /// [`Evolving`](crate::codec::Evolving).
    ///
    /// # Errors
    /// As [`OperatorStore::open_operator_state`].
    pub fn even_split_with<S: OperatorStore + ?Sized>(
        store: &mut S,
        name: &str,
        elements: EC,
    ) -> Result<Self> {
        Self::open(store, OperatorStateSpec::list(name), elements)
    }

    /// As [`even_split_with`](Self::even_split_with), for a list of which every
    /// subtask is given the elements of all when it is restored.
    ///
    /// # Errors
    /// As [`OperatorStore::open_operator_state`].
    pub fn union_with<S: OperatorStore + ?Sized>(
        store: &mut S,
        name: &str,
        elements: EC,
    ) -> Result<Self> {
        Self::open(store, OperatorStateSpec::union_list(name), elements)
    }

    fn open<S: OperatorStore + ?Sized>(
        store: &mut S,
        spec: OperatorStateSpec,
        elements: EC,
    ) -> Result<Self> {
        let operator = Operator::open(store, spec.value_codec(CodecSpec::of(&elements)))?;
        Ok(Self { operator, elements, types: PhantomData })
    }

    /// The number of the state, for calls at the level of bytes.
    pub fn id(&self) -> OperatorStateId {
        self.operator.id
    }

    /// Adds an element to the end of the list.
    pub fn add<S: OperatorStore + ?Sized>(&self, store: &mut S, element: &E) -> Result<()> {
        self.operator.with_buffer(|bytes| {
            self.operator.encode(&self.elements, element, bytes)?;
            store.operator_list_add(self.id(), &[bytes])
        })
    }

    /// Adds elements, in order, to the end of the list: all or none.
    pub fn add_all<S: OperatorStore + ?Sized>(&self, store: &mut S, elements: &[E]) -> Result<()> {
        self.with_elements(elements, |elements| store.operator_list_add(self.id(), elements))
    }

    /// Replaces all elements.
    pub fn replace<S: OperatorStore + ?Sized>(&self, store: &mut S, elements: &[E]) -> Result<()> {
        self.with_elements(elements, |elements| store.operator_list_replace(self.id(), elements))
    }

    /// The elements in order.
    pub fn get<S: OperatorStore + ?Sized>(&self, store: &S) -> Result<Vec<E>> {
        let mut elements = Vec::new();
        self.scan(store, |element| {
            elements.push(element);
            ControlFlow::Continue(())
        })?;
        Ok(elements)
    }

    /// Gives the elements to `visit`, in order, until it breaks.
    pub fn scan<S: OperatorStore + ?Sized>(
        &self,
        store: &S,
        mut visit: impl FnMut(E) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        store.operator_list_read(self.id(), &mut |bytes| {
            self.operator
                .give(&mut outcome, || Ok(visit(self.operator.decode(&self.elements, bytes)?)))
        })?;
        outcome
    }

    /// Number of elements.
    pub fn len<S: OperatorStore + ?Sized>(&self, store: &S) -> Result<u64> {
        store.operator_state_len(self.id())
    }

    /// Whether there are none.
    pub fn is_empty<S: OperatorStore + ?Sized>(&self, store: &S) -> Result<bool> {
        Ok(self.len(store)? == 0)
    }

    /// Removes all elements.
    pub fn clear<S: OperatorStore + ?Sized>(&self, store: &mut S) -> Result<()> {
        store.operator_state_clear(self.id())
    }

    /// Encodes elements and runs `work` with them.
    fn with_elements(
        &self,
        elements: &[E],
        work: impl FnOnce(&[&[u8]]) -> Result<()>,
    ) -> Result<()> {
        self.operator.with_buffer(|bytes| {
            let mut ends = Vec::with_capacity(elements.len());
            for element in elements {
                self.operator.encode(&self.elements, element, bytes)?;
                ends.push(bytes.len());
            }
            work(&pieces(bytes, &ends).collect::<Vec<_>>())
        })
    }
}

impl<E, EC> fmt::Debug for OperatorListState<E, EC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OperatorListState").field(&self.operator).finish()
    }
}

/// The part of a typed operator state that does not depend on its mode.
pub(super) struct Operator {
    pub(super) id: OperatorStateId,
    name: String,
    /// Encoded items on their way; kept to save the allocations.
    scratch: Cell<Vec<u8>>,
}

impl Operator {
    /// Opens a state whose codecs `spec` names already.
    pub(super) fn open<S: OperatorStore + ?Sized>(
        store: &mut S,
        spec: OperatorStateSpec,
    ) -> Result<Self> {
        let name = spec.name().to_owned();
        Ok(Self { id: store.open_operator_state(spec)?, name, scratch: Cell::default() })
    }

    /// Appends the bytes of an item to `out`.
    pub(super) fn encode<T, C: Codec<T>>(
        &self,
        codec: &C,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        guard(|| codec.encode(value, out)).map_err(|error| self.failed("encoded", error))
    }

    /// The item that bytes stand for.
    pub(super) fn decode<T, C: Codec<T>>(&self, codec: &C, bytes: &[u8]) -> Result<T> {
        guard(|| codec.decode(bytes)).map_err(|error| self.failed("decoded", error))
    }

    #[cold]
    fn failed(&self, what: &str, error: Error) -> Error {
        error.at(format_args!("operator state {:?}, being {what}", self.name))
    }

    /// Does `work` for one item of many, and stops at the first error.
    pub(super) fn give(
        &self,
        outcome: &mut Result<()>,
        work: impl FnOnce() -> Result<ControlFlow<()>>,
    ) -> ControlFlow<()> {
        work().unwrap_or_else(|error| {
            *outcome = Err(error);
            ControlFlow::Break(())
        })
    }

    /// Runs `work` with an empty buffer.
    pub(super) fn with_buffer<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> Result<T>) -> Result<T> {
        // Taken, not borrowed: a codec that comes back here finds an empty one
        // instead of a panic.
        let mut scratch = self.scratch.take();
        scratch.clear();
        let done = work(&mut scratch);
        self.scratch.set(scratch);
        done
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("id", &self.id).field("name", &self.name).finish()
    }
}
