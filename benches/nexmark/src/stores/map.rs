//! State in hash maps, as a program keeps it that needs no checkpoints.
//!
//! One map for each state, by the bytes of key and namespace. A list is one vector, a map
//! a tree, since its entries have an order; timers are in a tree, in the order of time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use alluvium::{
    Error, KeyGroup, KeyRef, KeyedStore, MaxParallelism, OldCodecs, Rename, Result, StateId,
    StateInfo, StateKind, StateSpec, TimerRef, TimerSpec, TimerStore, TimersId, ValueMut,
};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

use super::{not_here, too_late, unknown, wrong_kind};

type Map<V> = HashMap<Vec<u8>, V, FixedState>;
type Entries = BTreeMap<Box<[u8]>, Vec<u8>>;

/// The elements of a list, one after the other.
#[derive(Default)]
struct Elements {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Elements {
    fn push(&mut self, element: &[u8]) {
        self.bytes.extend_from_slice(element);
        self.ends.push(self.bytes.len() as u32);
    }

    fn visit(&self, visit: &mut dyn FnMut(&[u8])) {
        let mut from = 0;
        for end in &self.ends {
            let end = *end as usize;
            visit(&self.bytes[from..end]);
            from = end;
        }
    }
}

/// What a state holds.
enum Contents {
    Values(Map<Vec<u8>>),
    Lists(Map<Elements>),
    Maps(Map<Entries>),
}

struct State {
    spec: StateSpec,
    contents: Contents,
}

/// The timers of one name.
#[derive(Default)]
struct Queue {
    name: String,
    /// By time; what follows is a composed name.
    timers: BTreeSet<(i64, Box<[u8]>)>,
    watermark: Option<i64>,
}

/// See the [module documentation](self).
pub struct MapStore {
    max_parallelism: MaxParallelism,
    states: Vec<State>,
    queues: Vec<Queue>,
    /// The name that is looked for: key, namespace, and how long the latter is.
    name: Vec<u8>,
}

/// Composes what a key and namespace are found under.
#[inline]
fn compose(name: &mut Vec<u8>, key: KeyRef<'_>) {
    name.clear();
    name.extend_from_slice(key.key_bytes());
    name.extend_from_slice(key.namespace_bytes());
    name.extend_from_slice(&(key.namespace_bytes().len() as u16).to_le_bytes());
}

/// Key and namespace of a composed name.
fn parts(name: &[u8]) -> (&[u8], &[u8]) {
    let (name, len) = name.split_at(name.len() - 2);
    let len = u16::from_le_bytes([len[0], len[1]]);
    name.split_at(name.len() - usize::from(len))
}

impl MapStore {
    /// An empty one.
    pub fn new(max_parallelism: MaxParallelism) -> Self {
        Self { max_parallelism, states: Vec::new(), queues: Vec::new(), name: Vec::new() }
    }

    #[inline]
    fn values(&mut self, state: StateId, key: KeyRef<'_>) -> Result<(&mut Map<Vec<u8>>, &[u8])> {
        compose(&mut self.name, key);
        match self.states.get_mut(state.number() as usize) {
            Some(State { contents: Contents::Values(values), .. }) => Ok((values, &self.name)),
            Some(state) => Err(wrong_kind("a state of values", state.spec.kind())),
            None => Err(unknown("state", state.number())),
        }
    }

    #[inline]
    fn lists(&mut self, state: StateId, key: KeyRef<'_>) -> Result<(&mut Map<Elements>, &[u8])> {
        compose(&mut self.name, key);
        match self.states.get_mut(state.number() as usize) {
            Some(State { contents: Contents::Lists(lists), .. }) => Ok((lists, &self.name)),
            Some(state) => Err(wrong_kind("a state of lists", state.spec.kind())),
            None => Err(unknown("state", state.number())),
        }
    }

    #[inline]
    fn maps(&mut self, state: StateId, key: KeyRef<'_>) -> Result<(&mut Map<Entries>, &[u8])> {
        compose(&mut self.name, key);
        match self.states.get_mut(state.number() as usize) {
            Some(State { contents: Contents::Maps(maps), .. }) => Ok((maps, &self.name)),
            Some(state) => Err(wrong_kind("a state of maps", state.spec.kind())),
            None => Err(unknown("state", state.number())),
        }
    }

    fn queue(&mut self, timers: TimersId) -> Result<(&mut Queue, &mut Vec<u8>)> {
        match self.queues.get_mut(timers.number() as usize) {
            Some(queue) => Ok((queue, &mut self.name)),
            None => Err(unknown("state of timers", timers.number())),
        }
    }
}

impl KeyedStore for MapStore {
    fn max_parallelism(&self) -> MaxParallelism {
        self.max_parallelism
    }

    fn register(&mut self, spec: StateSpec) -> Result<StateId> {
        if let Some(at) = self.states.iter().position(|state| state.spec.name() == spec.name()) {
            return Ok(StateId::new(at as u32));
        }
        let contents = match spec.kind() {
            StateKind::Value | StateKind::Reducing | StateKind::Aggregating => {
                Contents::Values(Map::default())
            }
            StateKind::List => Contents::Lists(Map::default()),
            StateKind::Map => Contents::Maps(Map::default()),
            other => return Err(wrong_kind("a keyed state", other)),
        };
        self.states.push(State { spec, contents });
        Ok(StateId::new(self.states.len() as u32 - 1))
    }

    fn drop_state(&mut self, _: &str) -> Result<bool> {
        Err(not_here("dropping a state"))
    }

    fn states(&self) -> Vec<StateInfo> {
        let info = |state: &State| StateInfo { meta: state.spec.meta(), is_registered: true };
        self.states.iter().map(info).collect()
    }

    fn register_rekeyed(
        &mut self,
        _: StateSpec,
        _: OldCodecs,
        _: &mut dyn Rename,
    ) -> Result<StateId> {
        Err(not_here("re-keying a state"))
    }

    fn get(&mut self, state: StateId, key: KeyRef<'_>) -> Result<Option<&[u8]>> {
        let (values, name) = self.values(state, key)?;
        Ok(values.get(name).map(Vec::as_slice))
    }

    fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        let (values, name) = self.values(state, key)?;
        let there = values.entry_ref(name).or_default();
        there.clear();
        there.extend_from_slice(value);
        Ok(())
    }

    fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        let (values, name) = self.values(state, key)?;
        values.remove(name);
        Ok(())
    }

    fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        let max = self.max_parallelism;
        let (values, name) = self.values(state, key)?;
        match values.entry_ref(name) {
            EntryRef::Occupied(mut there) => {
                let mut value = Some(std::mem::take(there.get_mut()));
                change(&mut ValueMut::detached(key, max, &mut value));
                match value {
                    Some(value) => *there.get_mut() = value,
                    None => {
                        there.remove();
                    }
                }
            }
            EntryRef::Vacant(place) => {
                let mut value = None;
                change(&mut ValueMut::detached(key, max, &mut value));
                if let Some(value) = value {
                    place.insert(value);
                }
            }
        }
        Ok(())
    }

    fn list_append(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        let (lists, name) = self.lists(state, key)?;
        if !elements.is_empty() {
            let list = lists.entry_ref(name).or_default();
            elements.iter().for_each(|element| list.push(element));
        }
        Ok(())
    }

    fn list_read(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let (lists, name) = self.lists(state, key)?;
        if let Some(list) = lists.get(name) {
            list.visit(visit);
        }
        Ok(())
    }

    fn list_replace(&mut self, state: StateId, key: KeyRef<'_>, elements: &[&[u8]]) -> Result<()> {
        let (lists, name) = self.lists(state, key)?;
        if elements.is_empty() {
            lists.remove(name);
            return Ok(());
        }
        let list = lists.entry_ref(name).or_default();
        list.bytes.clear();
        list.ends.clear();
        elements.iter().for_each(|element| list.push(element));
        Ok(())
    }

    fn map_get(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<Option<&[u8]>> {
        let (maps, name) = self.maps(state, key)?;
        Ok(maps.get(name).and_then(|map| map.get(entry)).map(Vec::as_slice))
    }

    fn map_put(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
        value: &[u8],
    ) -> Result<()> {
        let (maps, name) = self.maps(state, key)?;
        let map = maps.entry_ref(name).or_default();
        match map.get_mut(entry) {
            Some(there) => {
                there.clear();
                there.extend_from_slice(value);
            }
            None => {
                map.insert(entry.into(), value.into());
            }
        }
        Ok(())
    }

    fn map_remove(&mut self, state: StateId, key: KeyRef<'_>, entry: &[u8]) -> Result<()> {
        let (maps, name) = self.maps(state, key)?;
        if let Some(map) = maps.get_mut(name) {
            map.remove(entry);
            if map.is_empty() {
                maps.remove(name);
            }
        }
        Ok(())
    }

    fn map_scan(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let (maps, name) = self.maps(state, key)?;
        if let Some(map) = maps.get(name) {
            for (entry, value) in map.range::<[u8], _>((from, Bound::Unbounded)) {
                if visit(entry, value).is_break() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn map_is_empty(&mut self, state: StateId, key: KeyRef<'_>) -> Result<bool> {
        let (maps, name) = self.maps(state, key)?;
        Ok(!maps.contains_key(name))
    }

    fn clear(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        compose(&mut self.name, key);
        let name = self.name.as_slice();
        match self.states.get_mut(state.number() as usize).map(|state| &mut state.contents) {
            Some(Contents::Values(values)) => drop(values.remove(name)),
            Some(Contents::Lists(lists)) => drop(lists.remove(name)),
            Some(Contents::Maps(maps)) => drop(maps.remove(name)),
            None => return Err(unknown("state", state.number())),
        }
        Ok(())
    }

    fn visit_keys(
        &mut self,
        state: StateId,
        namespace: Option<&[u8]>,
        visit: &mut dyn FnMut(KeyGroup, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let state = self.states.get(state.number() as usize);
        let names: Vec<&Vec<u8>> = match state.map(|state| &state.contents) {
            Some(Contents::Values(values)) => values.keys().collect(),
            Some(Contents::Lists(lists)) => lists.keys().collect(),
            Some(Contents::Maps(maps)) => maps.keys().collect(),
            None => return Err(Error::invalid("there is no such state")),
        };
        for name in names {
            let (key, within) = parts(name);
            let group = KeyRef::new(key).locate(self.max_parallelism).0;
            let is_asked_for = namespace.is_none_or(|namespace| namespace == within);
            if is_asked_for && visit(group, key, within).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl TimerStore for MapStore {
    fn open_timers(&mut self, spec: TimerSpec) -> Result<TimersId> {
        let known = self.queues.iter().position(|queue| queue.name == spec.name());
        let at = known.unwrap_or_else(|| {
            self.queues.push(Queue { name: spec.name().to_owned(), ..Queue::default() });
            self.queues.len() - 1
        });
        Ok(TimersId::new(at as u32))
    }

    fn open_timers_rekeyed(
        &mut self,
        _: TimerSpec,
        _: OldCodecs,
        _: &mut dyn Rename,
    ) -> Result<TimersId> {
        Err(not_here("re-keying timers"))
    }

    fn register_timer(
        &mut self,
        timers: TimersId,
        timestamp: i64,
        key: KeyRef<'_>,
    ) -> Result<bool> {
        let (queue, name) = self.queue(timers)?;
        if let Some(watermark) = queue.watermark.filter(|watermark| timestamp <= *watermark) {
            return Err(too_late(timestamp, watermark));
        }
        compose(name, key);
        Ok(queue.timers.insert((timestamp, name.as_slice().into())))
    }

    fn delete_timer(&mut self, timers: TimersId, timestamp: i64, key: KeyRef<'_>) -> Result<bool> {
        let (queue, name) = self.queue(timers)?;
        compose(name, key);
        Ok(queue.timers.remove(&(timestamp, name.as_slice().into())))
    }

    fn next_timer(&mut self, timers: TimersId) -> Result<Option<i64>> {
        let (queue, _) = self.queue(timers)?;
        Ok(queue.timers.first().map(|(timestamp, _)| *timestamp))
    }

    fn pop_due(
        &mut self,
        timers: TimersId,
        now: i64,
        take: &mut dyn FnMut(&TimerRef<'_>) -> Result<()>,
    ) -> Result<bool> {
        let max = self.max_parallelism;
        let (queue, _) = self.queue(timers)?;
        queue.watermark = Some(queue.watermark.map_or(now, |before| before.max(now)));
        if queue.timers.first().is_none_or(|(timestamp, _)| *timestamp > now) {
            return Ok(false);
        }
        let Some((timestamp, name)) = queue.timers.pop_first() else { return Ok(false) };
        let (key, namespace) = parts(&name);
        let group = KeyRef::new(key).locate(max).0;
        let taken = take(&TimerRef { timestamp, group, key, namespace });
        if taken.is_err() {
            queue.timers.insert((timestamp, name));
        }
        taken.map(|()| true)
    }

    fn timer_watermark(&self, timers: TimersId) -> Result<Option<i64>> {
        match self.queues.get(timers.number() as usize) {
            Some(queue) => Ok(queue.watermark),
            None => Err(unknown("state of timers", timers.number())),
        }
    }

    fn pending_timers(&mut self, timers: TimersId) -> Result<u64> {
        let (queue, _) = self.queue(timers)?;
        Ok(queue.timers.len() as u64)
    }
}
