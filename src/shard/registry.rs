//! Which states a shard has: adding one, beginning to use a restored one, and
//! dropping one.
//!
//! # Dropping
//!
//! A dropped state leaves its place among the states empty, for ever: whoever
//! has its number is told. Its name is free at once. What tables and deltas hold
//! under the name does not count from the next freeze on, and the frozen shard
//! carries the name to where the tables are
//! ([`Pipeline`](crate::snapshot::pipeline)), in order with its changes: a
//! snapshot from before has all of the state, one from after nothing. What a
//! later state of the name changes is frozen after that, so it is in tables that
//! count.

use std::sync::Arc;

use crate::base::{Epoch, Result};
use crate::format::manifest::StateMeta;
use crate::memtable::{Below, Holds, Memtable};

use super::base_tables::StateBase;
use super::collections::Family;
use super::migration::{self, Migration};
use super::stats::LookupStats;
use super::store::{StateId, StateInfo, StateSpec};
use super::timers::{self, TimerState};
use super::ttl::{self, StateTtl};
use super::warm::Wanted;
use super::{ShardCore, StateSlot};

impl ShardCore {
    /// See [`KeyedStore::register`](super::store::KeyedStore::register).
    pub(super) fn register(&mut self, spec: StateSpec) -> Result<StateId> {
        spec.check()?;
        self.operator.check_name_is_free(&spec)?;
        if let Some(&id) = self.by_name.get(&spec.name) {
            let position = id as usize;
            let slot = &self.states[position];
            if slot.registered {
                migration::check_again(&slot.meta, &spec)?;
                ttl::check_again(&slot.meta, slot.asked_ttl, &spec)?;
            } else {
                let migration = migration::compare(&slot.meta, &spec)?;
                self.adopt(position, &spec, migration);
            }
            return Ok(self.id_of(position));
        }
        let ttl = self.ttl_of(&spec, None);
        let meta = StateMeta { ttl: ttl.as_ref().map(|ttl| ttl.meta), ..spec.meta() };
        let as_of_today = Self::as_of_today(&meta, &spec, ttl.as_ref())?;
        let position = self.add_state(meta, StateBase::default(), true);
        self.states[position].restored = false;
        let slot = &mut self.states[position];
        if let Some(ttl) = &ttl {
            slot.memtable.set_ttl(Arc::clone(&ttl.rule));
        }
        slot.live_by(ttl, &spec);
        self.read_by(position, as_of_today);
        Ok(self.id_of(position))
    }

    /// How tables are read, and merged, of a state that was not restored, or whose
    /// records were all written anew: nothing changes but that values expire.
    ///
    /// # Errors
    /// `Invalid` if a codec panics.
    pub(super) fn as_of_today(
        meta: &StateMeta,
        spec: &StateSpec,
        ttl: Option<&StateTtl>,
    ) -> Result<Option<Arc<Migration>>> {
        let Some(ttl) = ttl else { return Ok(None) };
        let migration = migration::compare(meta, spec)?.living(Some(ttl.clone()));
        Ok(Some(Arc::new(migration)))
    }

    /// Has tables read, and merged, by this from now on.
    pub(super) fn read_by(&mut self, position: usize, migration: Option<Arc<Migration>>) {
        let Some(migration) = migration else { return };
        let slot = &mut self.states[position];
        slot.base.set_migration(Arc::clone(&migration));
        self.migrations.add(&migration);
        Arc::make_mut(&mut self.registered).insert(slot.meta.name.clone(), migration);
    }

    /// The number of a state at a position, for those who call.
    pub(super) fn id_of(&self, position: usize) -> StateId {
        StateId::at(position, self.states[position].id_is_timed())
    }

    /// Adds a state, and gives its position.
    pub(super) fn add_state(
        &mut self,
        meta: StateMeta,
        base: StateBase,
        registered: bool,
    ) -> usize {
        let id = self.states.len() as u32;
        let below = if base.is_empty() { Below::Nothing } else { Below::Tables };
        let family = Family::of(meta.kind);
        let memtable = self.new_memtable(id, &meta.name, family, below);
        self.by_name.insert(meta.name.clone(), id);
        Arc::make_mut(&mut self.metas).push(meta.clone());
        self.timers.extend(TimerState::new(&meta, id));
        let no_room = false;
        self.states.push(StateSlot {
            meta,
            family,
            memtable,
            base,
            registered,
            restored: true,
            since: self.freezes,
            no_room,
            asked_ttl: None,
            ttl: None,
            lookups: LookupStats::default(),
        });
        id as usize
    }

    /// An empty memtable for a state.
    pub(super) fn new_memtable(
        &self,
        id: u32,
        name: &str,
        family: Family,
        below: Below,
    ) -> Memtable {
        let seed = match family {
            Family::Timers => timers::HASH_SEED,
            // A function of its own for each state, too: records often go from
            // one state to another in the order of their hashes.
            _ => self.seed ^ u64::from(id),
        };
        let mut memtable = Memtable::new(Arc::clone(&self.pool), below, seed);
        if self.spill.is_some() {
            memtable.note_durable(Epoch::CLEAN);
        }
        memtable.hold(match family {
            Family::Values => Holds::Values,
            Family::Lists => Holds::Lists,
            Family::Maps => Holds::Maps,
            Family::Timers | Family::Dropped => Holds::Others,
        });
        if family == Family::Values {
            memtable.name_owner(format!("state {name:?}"));
        }
        memtable
    }

    /// Begins to use a restored state as what it was asked for as. Nothing of it
    /// is in memory yet.
    fn adopt(&mut self, position: usize, spec: &StateSpec, migration: Migration) {
        let migration = self.living(migration, spec, position);
        let migration = self.take_over(position, spec, migration);
        let slot = &mut self.states[position];
        if let Some(ttl) = &slot.ttl {
            slot.memtable.set_ttl(Arc::clone(&ttl.rule));
        }
        slot.base.set_migration(Arc::clone(&migration));
        if let Some(warming) = self.warming.as_mut().filter(|_| !slot.base.is_empty()) {
            warming.wanted += 1;
            let kind = slot.meta.kind;
            let tables = slot.base.tables().iter().rev().cloned().collect();
            warming.source.want(Wanted { state: position, kind, tables, migration });
        }
    }

    /// Notes what a restored state is from now on.
    fn take_over(
        &mut self,
        position: usize,
        spec: &StateSpec,
        migration: Migration,
    ) -> Arc<Migration> {
        let migration = Arc::new(migration);
        let slot = &mut self.states[position];
        let meta = spec.meta();
        let older = slot.meta.value_schemas().filter(|schema| {
            **schema != meta.value_schema && slot.base.names(schema.fingerprint())
        });
        slot.meta =
            StateMeta { older_value_schemas: migration::sorted(older.cloned().collect()), ..meta };
        slot.live_by(migration.ttl().cloned(), spec);
        slot.registered = true;
        self.note_meta(position);
        self.migrations.add(&migration);
        Arc::make_mut(&mut self.registered).insert(spec.name.clone(), Arc::clone(&migration));
        migration
    }

    /// Has the next manifest say what a state is now.
    pub(super) fn note_meta(&mut self, position: usize) {
        let at = self.place_of_meta(position);
        Arc::make_mut(&mut self.metas)[at] = self.states[position].meta.clone();
    }

    /// See [`KeyedStore::drop_state`](super::store::KeyedStore::drop_state).
    pub(super) fn drop_state(&mut self, name: &str) -> Result<bool> {
        let Some(id) = self.by_name.remove(name) else { return Ok(false) };
        let position = id as usize;
        let at = self.place_of_meta(position);
        Arc::make_mut(&mut self.metas).remove(at);
        // What is frozen of the memtable shares its memory until it is extracted.
        let empty = self.new_memtable(id, name, Family::Dropped, Below::Nothing);
        let slot = &mut self.states[position];
        slot.memtable = empty;
        slot.base = StateBase::default();
        slot.family = Family::Dropped;
        slot.registered = false;
        (slot.ttl, slot.asked_ttl) = (None, None);
        for timers in self.timers.iter_mut().filter(|timers| timers.is_of(position)) {
            timers.drop_all();
        }
        self.migrations.give_up(name);
        if self.registered.contains_key(name) {
            Arc::make_mut(&mut self.registered).remove(name);
        }
        self.forget_what_is_frozen(name);
        Ok(true)
    }

    /// From the next freeze on, what was frozen before it under this name does
    /// not count.
    pub(super) fn forget_what_is_frozen(&mut self, name: &str) {
        if self.dropped.iter().all(|dropped| dropped != name) {
            self.dropped.push(name.to_owned());
        }
    }

    /// Every state that there is, by name.
    pub(crate) fn state_infos(&self) -> Vec<StateInfo> {
        let live = self.states.iter().filter(|slot| slot.family != Family::Dropped);
        let mut infos: Vec<_> = live
            .map(|slot| StateInfo { meta: slot.meta.clone(), is_registered: slot.registered })
            .collect();
        infos.sort_unstable_by(|a, b| a.meta.name.cmp(&b.meta.name));
        infos
    }

    /// Where among `metas` that of a state is.
    fn place_of_meta(&self, position: usize) -> usize {
        let before = self.states[..position].iter();
        before.filter(|slot| slot.family != Family::Dropped).count()
    }
}
