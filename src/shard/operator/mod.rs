//! Operator states: what a subtask keeps beside its keys.
//!
//! They live here, on the task thread's heap, in containers whose clones share
//! them ([`Items`] for lists, [`Map`] for broadcast states), so that freezing
//! them is cloning them. The background makes them part of the manifest.
//!
//! A restored state stays [`Restored`](Content::Restored) until it is opened:
//! nobody knows yet under which schema its items should be. It has two sides,
//! what it is opened with and what is carried on. They are the same but for a
//! union list. That is opened with the elements of all subtasks, but carried on,
//! as long as nobody opens it, as a share of them; otherwise every restore would
//! multiply it by the number of subtasks.
//!
//! Which of the restored items belong to this subtask is for the restore to work
//! out. This module knows no keyed states; that a name is not taken by one of
//! those, and not taken from one of these, is seen to where both are known.

mod map;
mod migrate;
pub(crate) mod store;

use std::collections::HashMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::base::limits::{MAX_OPERATOR_STATE_BYTES, check_key};
use crate::base::{Error, Result};
use crate::codec::Schema;
use crate::format::operator_state::{MAX_MANIFEST_ITEM_BYTES, MAX_OPERATOR_STATES};
use crate::format::{Items, OperatorPart, OperatorState, OperatorStateMode};

use self::map::Map;
use self::migrate::{check_again, check_mode, migrate, name_is_taken};
use self::store::{OperatorStateId, OperatorStateInfo, OperatorStateSpec};
use super::ShardCore;
use super::store::StateSpec;

/// A state that was restored and not opened yet.
#[derive(Clone, Debug)]
pub(crate) struct RestoredOperatorState {
    /// What it is, and what it is opened with.
    pub(crate) state: OperatorState,
    /// What further snapshots hold as long as nobody opens it.
    pub(crate) carried: Vec<OperatorPart>,
}

/// What a restore has to say about operator states.
#[derive(Debug, Default)]
pub(crate) struct RestoredOperatorStates {
    pub(crate) states: Vec<RestoredOperatorState>,
    /// What was missing of the snapshots, so that there may be states that
    /// nobody knows of.
    pub(crate) missing: Option<String>,
}

/// The operator states of a shard.
#[derive(Debug, Default)]
pub(crate) struct OperatorStates {
    /// By number; none where one was dropped.
    states: Vec<Option<OneState>>,
    by_name: HashMap<String, u32>,
    /// What all of them take in a snapshot.
    bytes: u64,
    missing: Option<String>,
}

/// An operator state as it is now, or as it was at a barrier. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct OneState {
    what: Arc<What>,
    content: Content,
}

#[derive(Debug)]
struct What {
    name: String,
    mode: OperatorStateMode,
    key_schema: Option<Schema>,
    /// Not of a state that is only restored.
    value_schema: Option<Schema>,
}

#[derive(Clone, Debug)]
enum Content {
    Restored(Arc<RestoredOperatorState>),
    List(Items),
    Broadcast(Map),
}

impl Content {
    /// What it takes in a snapshot.
    fn bytes(&self) -> u64 {
        match self {
            Self::Restored(restored) => bytes_of(&restored.carried),
            Self::List(items) => items.bytes(),
            Self::Broadcast(map) => map.bytes(),
        }
    }

    /// Elements or entries that a snapshot has of it.
    fn items(&self) -> u64 {
        match self {
            Self::Restored(restored) => {
                let items: u64 = restored.carried.iter().map(|part| part.items.len()).sum();
                if restored.state.mode.is_list() { items } else { items / 2 }
            }
            Self::List(items) => items.len(),
            Self::Broadcast(map) => map.len(),
        }
    }
}

fn bytes_of(parts: &[OperatorPart]) -> u64 {
    parts.iter().map(|part| part.items.bytes()).sum()
}

impl OneState {
    /// As a manifest has it. Copies no items.
    pub(crate) fn into_stored(self) -> OperatorState {
        let items = match self.content {
            Content::Restored(restored) => {
                return OperatorState {
                    parts: restored.carried.clone(),
                    name: restored.state.name.clone(),
                    mode: restored.state.mode,
                    key_schema: restored.state.key_schema.clone(),
                };
            }
            Content::List(items) => items,
            Content::Broadcast(map) => map.items(),
        };
        let What { name, mode, key_schema, value_schema } = &*self.what;
        let value_schema = value_schema.clone().expect("a state that is open has a schema");
        OperatorState {
            name: name.clone(),
            mode: *mode,
            key_schema: key_schema.clone(),
            parts: vec![OperatorPart { value_schema, items }],
        }
    }
}

#[allow(
    clippy::type_complexity,
    reason = "a visitor spelled out says more than a name that has to be looked up"
)]
impl OperatorStates {
    /// Those of a shard that has just been restored.
    pub(crate) fn restored(restored: RestoredOperatorStates) -> Self {
        let mut all = Self { missing: restored.missing, ..Self::default() };
        for restored in restored.states {
            let what = What {
                name: restored.state.name.clone(),
                mode: restored.state.mode,
                key_schema: restored.state.key_schema.clone(),
                value_schema: None,
            };
            all.add(what, Content::Restored(Arc::new(restored)));
        }
        all
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.states.iter().flatten().map(|state| state.what.name.as_str())
    }

    /// What they are, by name.
    pub(crate) fn infos(&self) -> Vec<OperatorStateInfo> {
        let info = |state: &OneState| OperatorStateInfo {
            name: state.what.name.clone(),
            mode: state.what.mode,
            is_open: !matches!(state.content, Content::Restored(_)),
            items: state.content.items(),
            bytes: state.content.bytes(),
        };
        let mut infos: Vec<_> = self.states.iter().flatten().map(info).collect();
        infos.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        infos
    }

    /// See [`store::OperatorStore::drop_operator_state`].
    pub(crate) fn drop(&mut self, name: &str) -> bool {
        let Some(at) = self.by_name.remove(name) else { return false };
        let dropped = self.states[at as usize].take().expect("a name is that of a state");
        self.bytes -= dropped.content.bytes();
        true
    }

    /// What they take in a snapshot.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Refuses a name that one of them has.
    ///
    /// # Errors
    /// `Incompatible`, naming the state.
    pub(super) fn check_name_is_free(&self, spec: &StateSpec) -> Result<()> {
        let Some(&at) = self.by_name.get(spec.name()) else { return Ok(()) };
        let have = self.state(OperatorStateId::new(at))?.what.mode;
        let asked = format_args!("a state of kind {:?}", spec.kind());
        Err(name_is_taken(spec.name(), &have, &asked))
    }

    /// All of them as they are now. One step for each state.
    pub(super) fn freeze(&self) -> Vec<OneState> {
        self.states.iter().flatten().cloned().collect()
    }

    fn add(&mut self, what: What, content: Content) -> OperatorStateId {
        let id = self.states.len() as u32;
        self.by_name.insert(what.name.clone(), id);
        self.bytes += content.bytes();
        self.states.push(Some(OneState { what: Arc::new(what), content }));
        OperatorStateId::new(id)
    }

    /// See [`store::OperatorStore::open_operator_state`]; `spec` has been checked.
    fn open(&mut self, spec: &OperatorStateSpec) -> Result<OperatorStateId> {
        let what = What {
            name: spec.name().to_owned(),
            mode: spec.mode(),
            key_schema: spec.key_schema().cloned(),
            value_schema: Some(spec.values().schema().clone()),
        };
        let Some(&id) = self.by_name.get(spec.name()) else {
            self.check_is_new(spec)?;
            let content = match spec.mode() {
                OperatorStateMode::List | OperatorStateMode::UnionList => {
                    Content::List(Items::default())
                }
                OperatorStateMode::Broadcast => Content::Broadcast(Map::default()),
            };
            return Ok(self.add(what, content));
        };
        let state = self.state(OperatorStateId::new(id))?;
        check_mode(&state.what, spec)?;
        let Content::Restored(restored) = &state.content else {
            check_again(&state.what, spec)?;
            return Ok(OperatorStateId::new(id));
        };
        let content = migrate(&restored.state, spec)?;
        let bytes = self.bytes - state.content.bytes() + content.bytes();
        if bytes > MAX_MANIFEST_ITEM_BYTES {
            return Err(Error::invalid("what was restored is too large for a snapshot")
                .at(at_state(spec.name()))
                .expected(format_args!(
                    "at most {MAX_MANIFEST_ITEM_BYTES} bytes in all operator states of a shard"
                ))
                .found(format_args!("{bytes} bytes"))
                .remedy("restore on more subtasks, and keep less in a union list"));
        }
        self.bytes = bytes;
        self.states[id as usize] = Some(OneState { what: Arc::new(what), content });
        Ok(OperatorStateId::new(id))
    }

    fn check_is_new(&self, spec: &OperatorStateSpec) -> Result<()> {
        if let Some(missing) = &self.missing {
            return Err(Error::invalid(
                "an operator state cannot be opened: what it was may be in a snapshot that was not given",
            )
            .at(at_state(spec.name()))
            .expected("handles of all old subtasks")
            .found(missing)
            .remedy("restore each shard with the handles of all old shards of the operator"));
        }
        if self.by_name.len() == MAX_OPERATOR_STATES {
            return Err(Error::invalid("the shard has too many operator states")
                .at(at_state(spec.name()))
                .expected(format_args!("at most {MAX_OPERATOR_STATES}"))
                .remedy("keep several things in one state"));
        }
        Ok(())
    }

    fn state(&self, state: OperatorStateId) -> Result<&OneState> {
        let found = self.states.get(state.number() as usize).and_then(Option::as_ref);
        found.ok_or_else(|| {
            Error::invalid("no such operator state")
                .found(format_args!("number {} of {}", state.number(), self.states.len()))
                .remedy("use the OperatorStateId that this shard gave when it was opened, and not dropped since")
        })
    }

    fn list(&self, state: OperatorStateId, call: &str) -> Result<&Items> {
        let state = self.state(state)?;
        match &state.content {
            Content::List(items) => Ok(items),
            _ => Err(unfit(&state.what, call)),
        }
    }

    fn map(&self, state: OperatorStateId, call: &str) -> Result<&Map> {
        let state = self.state(state)?;
        match &state.content {
            Content::Broadcast(map) => Ok(map),
            _ => Err(unfit(&state.what, call)),
        }
    }

    /// Changes a state, if it is there, and keeps count of the bytes.
    fn change(&mut self, state: OperatorStateId, change: impl FnOnce(&mut Content)) {
        if let Some(Some(OneState { content, .. })) = self.states.get_mut(state.number() as usize) {
            self.bytes -= content.bytes();
            change(content);
            self.bytes += content.bytes();
        }
    }

    /// Refuses to let a state grow from `before` to `after` bytes if all of them
    /// would then be too large.
    fn check_growth(&self, state: OperatorStateId, before: u64, after: u64) -> Result<()> {
        let all = (self.bytes - before).saturating_add(after);
        if after <= before || all <= MAX_OPERATOR_STATE_BYTES {
            return Ok(());
        }
        let name = &self.state(state)?.what.name;
        Err(Error::invalid("the operator states of the shard would become too large")
            .at(at_state(name))
            .expected(format_args!("at most {MAX_OPERATOR_STATE_BYTES} bytes in all of them"))
            .found(format_args!("{after} bytes in this one and {} in others", self.bytes - before))
            .remedy("keep less in them, or keep it by key"))
    }

    pub(crate) fn len(&self, state: OperatorStateId) -> Result<u64> {
        self.state(state).map(|state| state.content.items())
    }

    pub(crate) fn clear(&mut self, state: OperatorStateId) -> Result<()> {
        self.state(state)?;
        self.change(state, |content| match content {
            Content::List(items) => *items = Items::default(),
            Content::Broadcast(map) => *map = Map::default(),
            // Nobody has the id of a state before it is open.
            Content::Restored(_) => {}
        });
        Ok(())
    }

    pub(crate) fn read(
        &self,
        state: OperatorStateId,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        // Whether the visitor broke is its own business.
        let _ = self.list(state, "operator_list_read")?.iter().try_for_each(visit);
        Ok(())
    }

    pub(crate) fn add_all(&mut self, state: OperatorStateId, elements: &[&[u8]]) -> Result<()> {
        let before = self.list(state, "operator_list_add")?.bytes();
        let more = elements.iter().map(|element| Items::stored_bytes(element.len()));
        self.check_growth(state, before, more.fold(before, u64::saturating_add))?;
        self.change(state, |content| {
            if let Content::List(items) = content {
                elements.iter().for_each(|element| items.push(element));
            }
        });
        Ok(())
    }

    pub(crate) fn replace(&mut self, state: OperatorStateId, elements: &[&[u8]]) -> Result<()> {
        let before = self.list(state, "operator_list_replace")?.bytes();
        let after = elements.iter().map(|element| Items::stored_bytes(element.len()));
        self.check_growth(state, before, after.fold(0, u64::saturating_add))?;
        let items = elements.iter().collect();
        self.change(state, |content| *content = Content::List(items));
        Ok(())
    }

    pub(crate) fn get(&self, state: OperatorStateId, key: &[u8]) -> Result<Option<&[u8]>> {
        Ok(self.map(state, "broadcast_get")?.get(key))
    }

    pub(crate) fn put(&mut self, state: OperatorStateId, key: &[u8], value: &[u8]) -> Result<()> {
        let map = self.map(state, "broadcast_put")?;
        let name = &self.state(state)?.what.name;
        check_key(key, b"").map_err(|error| error.at(at_state(name)))?;
        let before = map.bytes();
        let replaced = map.get(key).map_or(0, |value| Map::entry_bytes(key, value));
        let after = (before - replaced).saturating_add(Map::entry_bytes(key, value));
        self.check_growth(state, before, after)?;
        self.change(state, |content| {
            if let Content::Broadcast(map) = content {
                map.put(key, value);
            }
        });
        Ok(())
    }

    pub(crate) fn remove(&mut self, state: OperatorStateId, key: &[u8]) -> Result<bool> {
        self.map(state, "broadcast_remove")?;
        let mut removed = false;
        self.change(state, |content| {
            if let Content::Broadcast(map) = content {
                removed = map.remove(key);
            }
        });
        Ok(removed)
    }

    pub(crate) fn scan(
        &self,
        state: OperatorStateId,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.map(state, "broadcast_scan")?.scan(from, visit);
        Ok(())
    }
}

impl ShardCore {
    pub(crate) fn operator(&self) -> &OperatorStates {
        &self.operator
    }

    pub(crate) fn operator_mut(&mut self) -> &mut OperatorStates {
        &mut self.operator
    }

    /// Begins with what was restored.
    pub(crate) fn start_with(&mut self, restored: RestoredOperatorStates) {
        self.operator = OperatorStates::restored(restored);
    }

    /// See [`store::OperatorStore::open_operator_state`].
    pub(crate) fn open_operator_state(
        &mut self,
        spec: &OperatorStateSpec,
    ) -> Result<OperatorStateId> {
        spec.check()?;
        if let Some(&id) = self.by_name.get(spec.name()) {
            let have = self.states[id as usize].meta.kind;
            let have = format_args!("a state of kind {have:?}");
            return Err(name_is_taken(spec.name(), &have, &spec.mode()));
        }
        self.operator.open(spec)
    }
}

fn at_state(name: &str) -> String {
    format!("operator state {name:?}")
}

#[cold]
fn unfit(what: &What, call: &str) -> Error {
    Error::invalid("the call does not fit the mode of the operator state")
        .at(at_state(&what.name))
        .expected(if what.mode.is_list() {
            "operator_list_ calls on a list"
        } else {
            "broadcast_ calls on a broadcast state"
        })
        .found(call)
        .remedy("open the state in the mode that it is used in")
}
