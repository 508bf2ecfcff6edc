//! A store of ordered maps, plain enough to be read and believed.
//!
//! Snapshots are copies. Nothing is fast and nothing is shared with the engine,
//! with one exception: `update` takes the value to a little engine, has it changed
//! there, and takes it back, so that its `ValueMut` is that of an engine.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use alluvium::base::limits::{
    MAX_KEY_BYTES, MAX_NAMESPACE_BYTES, MAX_STATE_NAME_BYTES, MAX_VALUE_BYTES,
};
use alluvium::env::SimEnv;
use alluvium::{
    Backend, Error, KeyGroup, KeyGroupRange, KeyRef, KeyedStore, MaxParallelism, OldCodecs, OldKey,
    Rename, Result, Shard, StateId, StateInfo, StateKind, StateSpec, ValueMut,
};

use crate::harness::{Deployment, Factory};

/// The plain store.
pub(crate) struct Reference;

impl Factory for Reference {
    fn deploy(&self, max_parallelism: MaxParallelism, shards: u32) -> Box<dyn Deployment> {
        let mut job = Job { max: max_parallelism, shards: Vec::new(), snapshots: Vec::new() };
        job.open(shards, &[]);
        Box::new(job)
    }
}

struct Job {
    max: MaxParallelism,
    shards: Vec<Store>,
    snapshots: Vec<Vec<State>>,
}

impl Job {
    fn open(&mut self, shards: u32, states: &[State]) {
        let max = self.max;
        let open = |shard| {
            let groups = max.range_of_subtask(shard, shards).unwrap();
            let states = states.iter().map(|state| Some(state.within(groups))).collect();
            Store { groups, max, states, editor: None }
        };
        self.shards = (0..shards).map(open).collect();
    }
}

impl Deployment for Job {
    fn shards(&self) -> u32 {
        self.shards.len() as u32
    }

    fn store(&mut self, shard: u32) -> &mut dyn KeyedStore {
        &mut self.shards[shard as usize]
    }

    fn snapshot(&mut self) -> usize {
        let mut states = BTreeMap::<String, State>::new();
        for state in self.shards.iter().flat_map(|shard| shard.states.iter().flatten()) {
            let all = states
                .entry(state.spec.name().to_owned())
                .or_insert_with(|| State { cells: BTreeMap::new(), ..state.clone() });
            all.cells.extend(state.cells.clone());
        }
        self.snapshots.push(states.into_values().collect());
        self.snapshots.len() - 1
    }

    fn restore(&mut self, snapshot: usize, shards: u32) {
        let states = self.snapshots[snapshot].clone();
        self.open(shards, &states);
    }
}

/// Key group, key, namespace.
type Place = (KeyGroup, Vec<u8>, Vec<u8>);

#[derive(Clone)]
struct State {
    spec: StateSpec,
    is_registered: bool,
    cells: BTreeMap<Place, Cell>,
}

/// What a state holds for a key and namespace. No list and no map is empty.
#[derive(Clone)]
enum Cell {
    Value(Vec<u8>),
    List(Vec<Vec<u8>>),
    Map(BTreeMap<Vec<u8>, Vec<u8>>),
}

impl State {
    fn within(&self, groups: KeyGroupRange) -> Self {
        let cells = self.cells.iter().filter(|((group, ..), _)| groups.contains(*group));
        Self {
            spec: self.spec.clone(),
            is_registered: false,
            cells: cells.map(|(place, cell)| (place.clone(), cell.clone())).collect(),
        }
    }
}

struct Store {
    groups: KeyGroupRange,
    max: MaxParallelism,
    /// By number; `None` for those that were dropped.
    states: Vec<Option<State>>,
    editor: Option<Editor>,
}

/// Calls by the kinds that answer them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Value,
    List,
    Map,
}

impl Store {
    /// The state and the place that a call is about, if the call may be made.
    fn at(
        &mut self,
        family: Option<Family>,
        call: &str,
        state: StateId,
        key: KeyRef<'_>,
    ) -> Result<(&mut State, Place)> {
        let max = self.max;
        let groups = self.groups;
        let state = self.state(family, call, state)?;
        let (group, _) = key.locate(max);
        let (key, namespace) = (key.key_bytes(), key.namespace_bytes());
        if !groups.contains(group) {
            return Err(Error::invalid("the key is not of this shard").found(group));
        }
        if key.len() > MAX_KEY_BYTES || namespace.len() > MAX_NAMESPACE_BYTES {
            return Err(Error::invalid("the key or the namespace is too long"));
        }
        Ok((state, (group, key.to_vec(), namespace.to_vec())))
    }

    fn number_of(&self, name: &str) -> Option<usize> {
        let named = |state: &State| state.spec.name() == name;
        self.states.iter().position(|state| state.as_ref().is_some_and(named))
    }

    fn state(&mut self, family: Option<Family>, call: &str, id: StateId) -> Result<&mut State> {
        let state = self
            .states
            .get_mut(id.number() as usize)
            .ok_or_else(|| Error::invalid("no such state"))?
            .as_mut()
            .ok_or_else(|| Error::invalid("the state was dropped"))?;
        let kind = state.spec.kind();
        let serves = match kind {
            StateKind::List => Family::List,
            StateKind::Map => Family::Map,
            _ => Family::Value,
        };
        if family.is_some_and(|family| family != serves) {
            return Err(Error::invalid("the call does not fit the kind of the state")
                .at(format_args!("state {:?}", state.spec.name()))
                .expected(format_args!("a call for {kind:?}"))
                .found(call));
        }
        Ok(state)
    }

    fn list(
        &mut self,
        call: &str,
        state: StateId,
        key: KeyRef<'_>,
        change: impl FnOnce(&mut Vec<Vec<u8>>),
    ) -> Result<()> {
        let (state, place) = self.at(Some(Family::List), call, state, key)?;
        let mut elements = match state.cells.remove(&place) {
            Some(Cell::List(elements)) => elements,
            _ => Vec::new(),
        };
        change(&mut elements);
        if !elements.is_empty() {
            state.cells.insert(place, Cell::List(elements));
        }
        Ok(())
    }

    fn map<T>(
        &mut self,
        call: &str,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
        work: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>) -> T,
    ) -> Result<T> {
        let (state, place) = self.at(Some(Family::Map), call, state, key)?;
        if entry.len() > MAX_KEY_BYTES {
            return Err(Error::invalid("the user key is too long"));
        }
        let mut entries = match state.cells.remove(&place) {
            Some(Cell::Map(entries)) => entries,
            _ => BTreeMap::new(),
        };
        let done = work(&mut entries);
        if !entries.is_empty() {
            state.cells.insert(place, Cell::Map(entries));
        }
        Ok(done)
    }
}

impl KeyedStore for Store {
    fn max_parallelism(&self) -> MaxParallelism {
        self.max
    }

    fn register(&mut self, spec: StateSpec) -> Result<StateId> {
        let name = spec.name();
        if name.is_empty() || name.len() > MAX_STATE_NAME_BYTES {
            return Err(Error::invalid("the name of a state has a bad length"));
        }
        let Some(at) = self.number_of(name) else {
            self.states.push(Some(State { spec, is_registered: true, cells: BTreeMap::new() }));
            return Ok(StateId::new(self.states.len() as u32 - 1));
        };
        let state = self.states[at].as_mut().expect("it has a number");
        // The text tells the kind and the codecs.
        let (have, want) = (format!("{:?}", state.spec), format!("{spec:?}"));
        if have != want {
            return Err(Error::incompatible("the state is another one").expected(have).found(want));
        }
        state.is_registered = true;
        Ok(StateId::new(at as u32))
    }

    fn drop_state(&mut self, name: &str) -> Result<bool> {
        let dropped = self.number_of(name).and_then(|at| self.states[at].take());
        Ok(dropped.is_some())
    }

    fn states(&self) -> Vec<StateInfo> {
        let states = self.states.iter().flatten();
        let by_name: BTreeMap<_, _> = states.map(|state| (state.spec.name(), state)).collect();
        let info = |state: &State| StateInfo {
            meta: state.spec.meta(),
            is_registered: state.is_registered,
        };
        by_name.into_values().map(info).collect()
    }

    fn register_rekeyed(
        &mut self,
        spec: StateSpec,
        old: OldCodecs,
        rename: &mut dyn Rename,
    ) -> Result<StateId> {
        let Some(at) = self.number_of(spec.name()) else { return self.register(spec) };
        let state = self.states[at].as_ref().expect("it has a number");
        let have = format!("{:?}", state.spec);
        if have == format!("{spec:?}") {
            return self.register(spec);
        }
        let mut was = spec.clone().key_codec(old.keys).namespace_codec(old.namespaces);
        if let Some(map_keys) = old.map_keys {
            was = was.entry_codec(map_keys);
        }
        if have != format!("{was:?}") || state.is_registered {
            return Err(Error::incompatible("the state is another one").expected(have));
        }
        let mut cells = BTreeMap::new();
        for ((group, key, namespace), cell) in &state.cells {
            let old = OldKey { group: *group, key, namespace };
            let cell = match cell {
                Cell::Map(entries) => {
                    let mut renamed = BTreeMap::new();
                    for (entry, value) in entries {
                        let entry = rename.map_key(old, entry)?;
                        if entry.len() > MAX_KEY_BYTES {
                            return Err(Error::invalid("the user key is too long"));
                        }
                        if renamed.insert(entry, value.clone()).is_some() {
                            return Err(Error::invalid("two user keys would become one"));
                        }
                    }
                    Cell::Map(renamed)
                }
                other => other.clone(),
            };
            let new = rename.key(old)?;
            let to = match new.group {
                Some(group) => KeyRef::in_group(group, &new.key),
                None => KeyRef::new(&new.key),
            };
            let (group, _) = to.locate(self.max);
            if !self.groups.contains(group) {
                return Err(Error::invalid("the new key is not of this shard").found(group));
            }
            if new.key.len() > MAX_KEY_BYTES || new.namespace.len() > MAX_NAMESPACE_BYTES {
                return Err(Error::invalid("the key or the namespace is too long"));
            }
            if cells.insert((group, new.key, new.namespace), cell).is_some() {
                return Err(Error::invalid("two keys would become one"));
            }
        }
        self.states[at] = Some(State { spec, is_registered: true, cells });
        Ok(StateId::new(at as u32))
    }

    fn get(&mut self, state: StateId, key: KeyRef<'_>) -> Result<Option<&[u8]>> {
        let (state, place) = self.at(Some(Family::Value), "get", state, key)?;
        Ok(match state.cells.get(&place) {
            Some(Cell::Value(value)) => Some(value),
            _ => None,
        })
    }

    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        let (state, place) = self.at(Some(Family::Value), "put", state, key)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::invalid("the value is too long"));
        }
        state.cells.insert(place, Cell::Value(value.to_vec()));
        Ok(())
    }

    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        let (state, place) = self.at(Some(Family::Value), "delete", state, key)?;
        state.cells.remove(&place);
        Ok(())
    }

    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        let (_, (group, ..)) = self.at(Some(Family::Value), "update", state, key)?;
        let mut editor = match self.editor.take() {
            Some(editor) => editor,
            None => Editor::new(self.max)?,
        };
        let old = self.get(state, key)?;
        let given = KeyRef::in_group(group, key.key_bytes()).namespace(key.namespace_bytes());
        let new = editor.edit(given, old, change);
        self.editor = Some(editor);
        match new? {
            Some(new) => self.put(state, key, &new),
            None => self.delete(state, key),
        }
    }

    fn get_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        visit: &mut dyn FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.state(Some(Family::Value), "get_many", state)?;
        for (at, key) in keys.iter().enumerate() {
            visit(at, self.get(state, *key)?);
        }
        Ok(())
    }

    fn update_many(
        &mut self,
        state: StateId,
        keys: &[KeyRef<'_>],
        change: &mut dyn FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        self.state(Some(Family::Value), "update_many", state)?;
        for (at, key) in keys.iter().enumerate() {
            self.update(state, *key, &mut |value| change(at, value))?;
        }
        Ok(())
    }

    fn list_append(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        self.list("list_append", state, key, |list| {
            list.extend(elements.iter().map(|element| element.to_vec()));
        })
    }

    fn list_read(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        self.list("list_read", state, key, |list| list.iter().for_each(|element| visit(element)))
    }

    fn list_replace(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        self.list("list_replace", state, key, |list| {
            *list = elements.iter().map(|element| element.to_vec()).collect();
        })
    }

    fn map_get(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<Option<&[u8]>> {
        self.map("map_get", state, key, entry, |_| ())?;
        let (state, place) = self.at(Some(Family::Map), "map_get", state, key)?;
        Ok(match state.cells.get(&place) {
            Some(Cell::Map(entries)) => entries.get(entry).map(Vec::as_slice),
            _ => None,
        })
    }

    fn map_put(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
        value: &[u8],
    ) -> Result<()> {
        self.map("map_put", state, key, entry, |entries| {
            entries.insert(entry.to_vec(), value.to_vec());
        })
    }

    fn map_remove(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<()> {
        self.map("map_remove", state, key, entry, |entries| {
            entries.remove(entry);
        })
    }

    fn map_scan(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.map("map_scan", state, key, b"", |entries| {
            let range = entries.range::<[u8], _>((from, Bound::Unbounded));
            for (entry, value) in range {
                if visit(entry, value).is_break() {
                    break;
                }
            }
        })
    }

    fn map_is_empty(&mut self, state: StateId, key: KeyRef<'_>) -> Result<bool> {
        self.map("map_is_empty", state, key, b"", |entries| entries.is_empty())
    }

    fn clear(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        let (state, place) = self.at(None, "clear", state, key)?;
        state.cells.remove(&place);
        Ok(())
    }

    fn visit_keys(
        &mut self,
        state: StateId,
        namespace: Option<&[u8]>,
        visit: &mut dyn FnMut(KeyGroup, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let state = self.state(None, "visit_keys", state)?;
        for (group, key, found) in state.cells.keys() {
            if namespace.is_none_or(|namespace| namespace == found)
                && visit(*group, key, found).is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

/// An engine that values are taken to, to be changed.
struct Editor {
    shard: Shard,
    state: StateId,
}

impl Editor {
    fn new(max: MaxParallelism) -> Result<Self> {
        let backend = Backend::builder("/editor")
            .env(Arc::new(SimEnv::new(1)))
            .max_parallelism(max)
            .background_threads(0)
            .open()?;
        let mut shard = backend.shard("editor", max.all_groups()).open()?;
        let state = shard.register(StateSpec::value("edited"))?;
        Ok(Self { shard, state })
    }

    fn edit(
        &mut self,
        key: KeyRef<'_>,
        old: Option<&[u8]>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<Option<Vec<u8>>> {
        match old {
            Some(old) => self.shard.put(self.state, key, old)?,
            None => self.shard.delete(self.state, key)?,
        }
        self.shard.update(self.state, key, change)?;
        let new = self.shard.get(self.state, key)?.map(<[u8]>::to_vec);
        self.shard.delete(self.state, key)?;
        Ok(new)
    }
}
