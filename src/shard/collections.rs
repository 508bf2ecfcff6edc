//! The operations on lists and maps, and those on all kinds of state.
//!
//! A map, and a list that is read, is in memory as a whole: in a restored shard
//! that is not warm yet, the first operation on it brings it up from the tables.
//! Appending to a list, replacing and clearing need not know what was there, and
//! read nothing.

use std::fmt;
use std::ops::{Bound, ControlFlow};

use super::contents::{Assembly, chunk_entry};
use super::store::StateId;
use super::{ShardCore, StateSlot, WARM_PER_OPERATION, no_such_state};
use crate::base::limits::check_value;
use crate::base::{Error, KeyGroup, Result};
use crate::codec::KeyRef;
use crate::format::collection::MAX_ENTRY_BYTES;
use crate::format::manifest::StateKind;
use crate::memtable::collection::map::MapPage;
use crate::memtable::maps::{MapAt, Part, SMALL_NAME, SmallName};
use crate::memtable::{Below, Holds, Lookup};
use crate::table::PlacedKey;

/// What an operation works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    /// Values, and what is merged into values.
    Values,
    Lists,
    Maps,
    /// Records that stand in a queue, too, and are served by calls of their own.
    Timers,
    /// Nothing any more: the state was dropped.
    Dropped,
}

impl Family {
    pub(super) fn of(kind: StateKind) -> Self {
        match kind {
            StateKind::Value | StateKind::Reducing | StateKind::Aggregating => Self::Values,
            StateKind::List => Self::Lists,
            StateKind::Map => Self::Maps,
            StateKind::Timers => Self::Timers,
        }
    }

    pub(super) fn is_collection(self) -> bool {
        matches!(self, Self::Lists | Self::Maps)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Values => "a state of kind Value, Reducing or Aggregating",
            Self::Lists => "a state of kind List",
            Self::Maps => "a state of kind Map",
            Self::Timers => "a state of kind Timers",
            Self::Dropped => "a state that was dropped",
        })
    }
}

/// What a scan shows the key and the value of each entry, until it breaks.
type VisitEntry<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// Shows the entries of a small map from a bound on.
#[inline(always)]
fn show(map: MapPage<'_>, from: Bound<&[u8]>, visit: &mut VisitEntry<'_>) {
    for entry in map.live_from(from) {
        if let Some(value) = entry.value
            && visit(entry.key, value).is_break()
        {
            return;
        }
    }
}

/// A key put together again from its parts.
fn key_of<'a>(group: Option<KeyGroup>, key: &'a [u8], namespace: &'a [u8]) -> KeyRef<'a> {
    match group {
        Some(group) => KeyRef::in_group(group, key),
        None => KeyRef::new(key),
    }
    .namespace(namespace)
}

/// Lists.
impl ShardCore {
    #[inline(always)]
    pub(super) fn list_append(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        elements: &[&[u8]],
    ) -> Result<()> {
        let (group, key, namespace) = key.parts();
        if let [element] = elements
            && let Some(slot) = self.states.get_mut(state.0 as usize)
            && slot.memtable.append_at_hand(group, key, namespace, element)
        {
            return Ok(());
        }
        self.list_append_elsewhere(state, group, key, namespace, elements)
    }

    #[inline(never)]
    fn list_append_elsewhere(
        &mut self,
        state: StateId,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        elements: &[&[u8]],
    ) -> Result<()> {
        if let Some(slot) = self.states.get_mut(state.0 as usize)
            && slot.memtable.append_to_any_epoch(group, key, namespace, elements)
        {
            return Ok(());
        }
        let key = key_of(group, key, namespace);
        let group = self.check_call(state, key, Family::Lists, "list_append")?;
        self.check_elements(state, elements)?;
        self.before_a_call(state)?;
        let slot = self.slot(state)?;
        let probe = slot.memtable.probe(group, key.key_bytes(), key.namespace_bytes());
        let done = slot.memtable.append_to_list(&probe, elements);
        done.map_err(|error| slot.locate(error))
    }

    #[inline(always)]
    pub(super) fn list_read(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let (group, key, namespace) = key.parts();
        if let Some(slot) = self.states.get(state.0 as usize)
            && let Some(list) = slot.memtable.list_at_hand(group, key, namespace)
        {
            list.elements().visit(visit);
            return Ok(());
        }
        self.list_read_elsewhere(state, group, key, namespace, visit)
    }

    #[inline(never)]
    fn list_read_elsewhere(
        &mut self,
        state: StateId,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let key = key_of(group, key, namespace);
        let group = self.check_call(state, key, Family::Lists, "list_read")?;
        self.before_a_call(state)?;
        let first_chunk = self.spill.as_ref().map(|spill| spill.first_chunk());
        let slot = self.slot(state)?;
        let probe = slot.memtable.probe(group, key.key_bytes(), key.namespace_bytes());
        if slot.memtable.below() == Below::Tables {
            slot.memtable.refer(&probe);
        }
        if slot.memtable.wants_older(&probe) {
            let since = slot.memtable.tail_since(&probe);
            let until = since.zip(first_chunk).map(|(since, first)| slot.chunk_of(first, since));
            slot.bring_up(group, key, until)?;
        }
        if slot.memtable.renews() {
            slot.memtable.renew_list(&probe).map_err(|error| slot.locate(error))?;
        }
        if let Some(list) = slot.memtable.list(&probe) {
            let hidden = slot.memtable.hidden();
            let shown = list.elements().iter().filter(|element| !element.is_expired(hidden));
            shown.for_each(|element| visit(element.value));
        }
        Ok(())
    }

    pub(super) fn list_replace(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        elements: &[&[u8]],
    ) -> Result<()> {
        let group = self.check_call(state, key, Family::Lists, "list_replace")?;
        self.check_elements(state, elements)?;
        self.before_a_call(state)?;
        let slot = self.slot(state)?;
        let probe = slot.memtable.probe(group, key.key_bytes(), key.namespace_bytes());
        let done = if elements.is_empty() {
            slot.memtable.delete(&probe).map(drop)
        } else {
            slot.memtable.replace_list(&probe, elements)
        };
        done.map_err(|error| slot.locate(error))
    }

    fn check_elements(&self, state: StateId, elements: &[&[u8]]) -> Result<()> {
        elements.iter().enumerate().try_for_each(|(number, element)| {
            check_value(element).map_err(|error| {
                let error = error.at(format_args!("element {number}"));
                self.states[state.0 as usize].locate(error)
            })
        })
    }
}

/// Maps.
impl ShardCore {
    #[inline(always)]
    pub(super) fn map_get(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
    ) -> Result<Option<&[u8]>> {
        let at = state.0 as usize;
        let (group, key, namespace) = key.parts();
        if namespace.is_empty() {
            let hit = self.states.get(at);
            let hit = hit.and_then(|slot| slot.memtable.map_at_hand(group, key, SMALL_NAME));
            if let Some(hit) = hit {
                let map = self.states[at].memtable.map_of(hit, key, SMALL_NAME);
                return Ok(map.find(entry).and_then(|entry| entry.value));
            }
        }
        self.map_get_elsewhere(state, group, key, namespace, entry)
    }

    #[inline(never)]
    fn map_get_elsewhere(
        &mut self,
        state: StateId,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        entry: &[u8],
    ) -> Result<Option<&[u8]>> {
        let at = state.0 as usize;
        if !namespace.is_empty()
            && let Some(name) = SmallName::of(namespace)
            && let Some(slot) = self.states.get(at)
            && let Some(hit) = slot.memtable.map_at_hand(group, key, name.bytes())
        {
            let map = self.states[at].memtable.map_of(hit, key, name.bytes());
            return Ok(map.find(entry).and_then(|entry| entry.value));
        }
        let key = key_of(group, key, namespace);
        let mut at = self.map(state, key, "map_get")?;
        let slot = &mut self.states[state.0 as usize];
        if slot.memtable.renews() {
            slot.memtable.map_renew(&mut at, entry).map_err(|error| slot.locate(error))?;
        }
        let found = self.states[state.0 as usize].memtable.map_get(&mut at, entry);
        self.names = at.into_buffer();
        Ok(found)
    }

    #[inline(always)]
    pub(super) fn map_put(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
        value: &[u8],
    ) -> Result<()> {
        let (group, key, namespace) = key.parts();
        if namespace.is_empty()
            && let Some(slot) = self.states.get_mut(state.0 as usize)
            && slot.memtable.map_put_at_hand(group, key, SMALL_NAME, entry, value)
        {
            return Ok(());
        }
        self.map_put_elsewhere(state, group, key, namespace, entry, value)
    }

    #[inline(never)]
    fn map_put_elsewhere(
        &mut self,
        state: StateId,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        entry: &[u8],
        value: &[u8],
    ) -> Result<()> {
        if let Some(name) = SmallName::of(namespace)
            && let Some(slot) = self.states.get_mut(state.0 as usize)
            && slot.memtable.map_put_of_any_epoch(group, key, name.bytes(), entry, value)
        {
            return Ok(());
        }
        let key = key_of(group, key, namespace);
        self.check_kind(state, Family::Maps, "map_put")?;
        self.check_entry(state, entry, value)?;
        let mut at = self.map(state, key, "map_put")?;
        let slot = &mut self.states[state.0 as usize];
        let done = slot.memtable.map_put(&mut at, entry, value);
        let done = done.map_err(|error| slot.locate(error));
        self.names = at.into_buffer();
        done
    }

    pub(super) fn map_remove(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        entry: &[u8],
    ) -> Result<()> {
        let mut at = self.map(state, key, "map_remove")?;
        let slot = &mut self.states[state.0 as usize];
        let done = slot.memtable.map_remove(&mut at, entry);
        let done = done.map_err(|error| slot.locate(error));
        self.names = at.into_buffer();
        done
    }

    #[inline(always)]
    pub(super) fn map_scan(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        from: Bound<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<()> {
        let (group, key, namespace) = key.parts();
        if namespace.is_empty()
            && let Some(slot) = self.states.get(state.0 as usize)
            && let Some(hit) = slot.memtable.map_at_hand(group, key, SMALL_NAME)
        {
            show(slot.memtable.whole_map_of(hit, key, SMALL_NAME), from, visit);
            return Ok(());
        }
        self.map_scan_elsewhere(state, group, key, namespace, from, visit)
    }

    #[inline(never)]
    fn map_scan_elsewhere(
        &mut self,
        state: StateId,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        from: Bound<&[u8]>,
        visit: &mut VisitEntry<'_>,
    ) -> Result<()> {
        if !namespace.is_empty()
            && let Some(name) = SmallName::of(namespace)
            && let Some(slot) = self.states.get(state.0 as usize)
            && let Some(hit) = slot.memtable.map_at_hand(group, key, name.bytes())
        {
            show(slot.memtable.whole_map_of(hit, key, name.bytes()), from, visit);
            return Ok(());
        }
        let key = key_of(group, key, namespace);
        let mut at = self.map(state, key, "map_scan")?;
        let slot = &mut self.states[state.0 as usize];
        let mut read = Vec::new();
        // Whether all were seen is for the caller to know.
        if slot.memtable.renews() {
            let _ = slot.memtable.map_scan(&mut at, from, |entry, value| {
                read.push(entry.to_vec());
                visit(entry, value)
            });
        } else {
            let _ = slot.memtable.map_scan(&mut at, from, visit);
        }
        let renewed = read.iter().try_for_each(|entry| slot.memtable.map_renew(&mut at, entry));
        let renewed = renewed.map_err(|error| slot.locate(error));
        self.names = at.into_buffer();
        renewed
    }

    pub(super) fn map_is_empty(&mut self, state: StateId, key: KeyRef<'_>) -> Result<bool> {
        let mut at = self.map(state, key, "map_is_empty")?;
        let has_entries = self.states[state.0 as usize].memtable.shows_map(&mut at);
        self.names = at.into_buffer();
        Ok(!has_entries)
    }

    /// A map of this shard, whole in memory if it exists at all.
    #[inline]
    fn map<'k>(
        &mut self,
        state: StateId,
        key: KeyRef<'k>,
        call: &'static str,
    ) -> Result<MapAt<'k>> {
        let group = self.check_call(state, key, Family::Maps, call)?;
        self.before_a_call(state)?;
        let buffer = std::mem::take(&mut self.names);
        let mut at = MapAt::new(group, key.key_bytes(), key.namespace_bytes(), buffer);
        let slot = self.slot(state)?;
        if slot.memtable.below() == Below::Tables {
            slot.memtable.refer_to_map(&mut at);
            if slot.memtable.wants_map(&mut at) {
                slot.bring_up(group, key, None)?;
            }
        }
        Ok(at)
    }

    fn check_entry(&mut self, state: StateId, entry: &[u8], value: &[u8]) -> Result<()> {
        let done = if entry.len() > MAX_ENTRY_BYTES {
            Err(Error::invalid("the key of a map entry is too long")
                .expected(format_args!("at most {MAX_ENTRY_BYTES} bytes"))
                .found(format_args!("{} bytes", entry.len()))
                .remedy("use a digest as the key and keep the rest in the value"))
        } else {
            check_value(value)
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) => Err(self.slot(state)?.locate(error)),
        }
    }
}

/// All kinds.
impl ShardCore {
    pub(super) fn clear(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        let (group, key_bytes, namespace) = key.parts();
        if let Some(slot) = self.states.get_mut(state.0 as usize)
            && let Some(holds) = match slot.family {
                Family::Values => Some(Holds::Values),
                Family::Lists => Some(Holds::Lists),
                Family::Maps | Family::Timers | Family::Dropped => None,
            }
            && slot.memtable.delete_at_hand(holds, group, key_bytes, namespace)
        {
            return Ok(());
        }
        let family = self.slot(state)?.family;
        if matches!(family, Family::Timers | Family::Dropped) {
            return Err(self.slot(state)?.wrong_kind(Family::Values, "clear"));
        }
        let group = self.check_call(state, key, family, "clear")?;
        self.before_a_call(state)?;
        let (key, namespace) = (key.key_bytes(), key.namespace_bytes());
        let buffer = std::mem::take(&mut self.names);
        let slot = &mut self.states[state.position()];
        let mut at = MapAt::new(group, key, namespace, buffer);
        let done = match family {
            Family::Maps => slot.memtable.map_clear(&mut at),
            _ => slot.memtable.delete(&slot.memtable.probe(group, key, namespace)).map(drop),
        };
        let done = done.map_err(|error| slot.locate(error));
        self.names = at.into_buffer();
        done
    }

    pub(super) fn visit_keys(
        &mut self,
        state: StateId,
        namespace: Option<&[u8]>,
        mut visit: impl FnMut(KeyGroup, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let groups = self.groups;
        let slot = self.slot(state)?;
        if matches!(slot.family, Family::Timers | Family::Dropped) {
            return Err(slot.wrong_kind(Family::Values, "visit_keys"));
        }
        slot.memtable.look_at_clock();
        let mut visit = |group, key: &[u8], found: &[u8]| match namespace {
            Some(wanted) if wanted != found => ControlFlow::Continue(()),
            _ => visit(group, key, found),
        };
        let in_memory = slot.memtable.visit(|record| {
            if slot.family != Family::Maps {
                if !slot.memtable.shows(&record) {
                    return ControlFlow::Continue(());
                }
                return visit(record.group, record.key, record.namespace);
            }
            match Part::of_name(record.namespace) {
                (namespace, Part::Small | Part::Root) => {
                    let mut at = MapAt::new(record.group, record.key, namespace, Vec::new());
                    if slot.memtable.is_timed() && !slot.memtable.shows_map(&mut at) {
                        return ControlFlow::Continue(());
                    }
                    visit(record.group, record.key, namespace)
                }
                (_, Part::Page(_) | Part::Marker) => ControlFlow::Continue(()),
            }
        });
        if in_memory.is_break() || slot.memtable.below() == Below::Nothing {
            return Ok(());
        }
        // What only the tables have. The entries of a collection are neighbours.
        let hidden = slot.memtable.hidden();
        let mut scan = slot.base.scan(groups).map_err(|error| slot.locate(error))?;
        let mut last: Option<(KeyGroup, Vec<u8>, Vec<u8>)> = None;
        while let Some(record) = scan.next().map_err(|error| slot.locate(error))? {
            let (group, key, namespace) = (record.group, record.key, record.namespace);
            if last.as_ref().is_some_and(|(last_group, last_key, last_namespace)| {
                (*last_group, &**last_key, &**last_namespace) == (group, key, namespace)
            }) {
                continue;
            }
            let only_below = match slot.family {
                Family::Maps => {
                    slot.memtable.wants_map(&mut MapAt::new(group, key, namespace, Vec::new()))
                }
                Family::Lists => {
                    let probe = slot.memtable.probe(group, key, namespace);
                    // Of a tail, all that is in memory may have expired.
                    slot.memtable.wants_older(&probe) && !slot.memtable.shows_list(&probe)
                }
                Family::Values | Family::Timers | Family::Dropped => {
                    let probe = slot.memtable.probe(group, key, namespace);
                    slot.memtable.get(&probe) == Lookup::Absent
                }
            };
            // Of a collection one live entry is enough: the next ones are asked.
            if only_below && !slot.base.shows(&record, hidden).map_err(|e| slot.locate(e))? {
                continue;
            }
            if only_below && visit(group, key, namespace).is_break() {
                break;
            }
            if slot.family.is_collection() {
                last = Some((group, key.to_vec(), namespace.to_vec()));
            }
        }
        Ok(())
    }

    /// The group of a key, if it may be used on this shard and the state serves
    /// the call.
    fn check_call(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        family: Family,
        call: &'static str,
    ) -> Result<KeyGroup> {
        self.check(state, key.group(), key.key_bytes(), key.namespace_bytes(), family, call)
    }

    /// Sees to it that there is memory, takes in some of what the warm-up has ready,
    /// and lets some of what has expired go.
    #[inline]
    fn before_a_call(&mut self, state: StateId) -> Result<()> {
        self.keep_room()?;
        if self.slot(state)?.memtable.below() == Below::Tables {
            self.warm(WARM_PER_OPERATION)?;
        }
        self.slot(state)?.memtable.look_at_clock();
        Ok(())
    }

    /// Refuses a state that does not exist or is of another kind.
    pub(super) fn check_kind(
        &self,
        state: StateId,
        family: Family,
        call: &'static str,
    ) -> Result<()> {
        match self.states.get(state.position()).filter(|slot| slot.is_meant_by(state)) {
            None => Err(no_such_state(&self.name, self.groups)),
            Some(slot) if slot.family != family => Err(slot.wrong_kind(family, call)),
            Some(_) => Ok(()),
        }
    }
}

impl StateSlot {
    /// Brings a collection that tables have into memory, whole. Of a list only the
    /// chunks below number `until`: what comes after is in memory, and may be in
    /// tables, too.
    fn bring_up(&mut self, group: KeyGroup, key: KeyRef<'_>, until: Option<u64>) -> Result<()> {
        let (key, namespace) = (key.key_bytes(), key.namespace_bytes());
        let mut bring_up = || {
            let mut found = Assembly::new(self.meta.kind, self.memtable.is_timed())
                .expect("a state of collections");
            let at = PlacedKey::in_group(group, key, namespace);
            let mut scan = self.base.collection(at, None)?;
            let mut any = false;
            let until = until.map(chunk_entry);
            while let Some(record) = scan.next()? {
                let entry = record.entry.unwrap_or_default();
                if until.is_some_and(|until| *entry >= until[..]) {
                    break;
                }
                found.push(entry, record.value)?;
                any = true;
            }
            self.lookups.note(any, scan.reads());
            found.finish()?.promote(&mut self.memtable, group, key, namespace)
        };
        bring_up().map_err(|error| self.locate(error))
    }

    /// Whether its id says that its values expire: only those of single values do.
    pub(super) fn id_is_timed(&self) -> bool {
        self.family == Family::Values && self.memtable.is_timed()
    }

    /// Whether it is the one that an id of its position means; a dropped one says
    /// itself that it is gone.
    pub(super) fn is_meant_by(&self, state: StateId) -> bool {
        self.family == Family::Dropped || self.id_is_timed() == state.is_timed()
    }

    pub(super) fn locate(&self, error: Error) -> Error {
        error.at(format_args!("state {:?}", self.meta.name))
    }

    #[cold]
    pub(super) fn wrong_kind(&self, wanted: Family, call: &str) -> Error {
        if self.family == Family::Dropped {
            return self.was_dropped();
        }
        Error::invalid(format_args!("the call {call} does not fit the kind of the state"))
            .at(format_args!("state {:?}", self.meta.name))
            .expected(wanted)
            .found(format_args!("one of kind {:?}", self.meta.kind))
            .remedy("use the calls of that kind, or register the state as what it is to be")
    }

    #[cold]
    pub(super) fn was_dropped(&self) -> Error {
        self.locate(Error::invalid("the state was dropped"))
            .remedy("register it again, and use what that gives")
    }
}
