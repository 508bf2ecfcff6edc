//! Writing a restored state anew under other keys.
//!
//! The bytes of a key decide where its record is, in memory, in a table, and on
//! which shard; those of a map key, in which order entries come. So keys,
//! namespaces and map keys are not migrated lazily like values, but all at once
//! and only when asked for:
//!
//! 1. Read everything that the tables hold of the state, merged and migrated,
//!    have the caller name each new key, and fill a fresh memtable with what it
//!    is to be. The state is as it was until all of it is there and in order.
//! 2. Put the memtable in its place, complete, and have what was frozen under the
//!    name of the state count no more, as if it had been
//!    [dropped](super::registry) and registered again. The next delta holds all
//!    of it; a snapshot from before holds none.

use std::sync::Arc;

use crate::base::hash::{group_of_hash, hash_key};
use crate::base::limits::check_key;
use crate::base::{Error, KeyGroup, Result};
use crate::codec::{CodecSpec, KeyRef};
use crate::format::collection::MAX_ENTRY_BYTES;
use crate::memtable::collection::elements::Elements;
use crate::memtable::maps::MapAt;
use crate::memtable::{Below, Lookup, Memtable};

use super::ShardCore;
use super::base_scan::BaseRecord;
use super::base_tables::StateBase;
use super::collections::Family;
use super::contents::check_chunk_entry;
use super::migration;
use super::store::{StateId, StateSpec};
use super::timers::NewTimers;

/// What the keys of a state were written under before it is re-keyed.
#[derive(Clone, Debug)]
pub struct OldCodecs {
    /// Of the keys.
    pub keys: CodecSpec,
    /// Of the namespaces.
    pub namespaces: CodecSpec,
    /// Of the keys of map entries. `None` in a state of another kind, and if
    /// they are as they were.
    pub map_keys: Option<CodecSpec>,
}

/// The key of a record, a list or a map that is to be written anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OldKey<'a> {
    /// Its key group.
    pub group: KeyGroup,
    /// The bytes of the key.
    pub key: &'a [u8],
    /// The bytes of the namespace.
    pub namespace: &'a [u8],
}

/// What a record, a list or a map is to be found under from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewKey {
    /// The bytes of the key.
    pub key: Vec<u8>,
    /// The bytes of the namespace.
    pub namespace: Vec<u8>,
    /// The key group, if it does not follow from the hash of the key; see
    /// [`KeyRef::in_group`].
    pub group: Option<KeyGroup>,
}

/// Says what keys become. A closure from an [`OldKey`] to a [`NewKey`] is one
/// that leaves the keys of map entries as they are.
pub trait Rename {
    /// What a key and namespace become. Asked once for each value, list, map or
    /// timer.
    ///
    /// # Errors
    /// Its own; re-keying then fails and changes nothing.
    fn key(&mut self, old: OldKey<'_>) -> Result<NewKey>;

    /// What the key of an entry of the map at `old` becomes.
    ///
    /// # Errors
    /// As [`key`](Self::key).
    fn map_key(&mut self, old: OldKey<'_>, map_key: &[u8]) -> Result<Vec<u8>> {
        let _ = old;
        Ok(map_key.to_vec())
    }
}

impl<F: FnMut(OldKey<'_>) -> Result<NewKey>> Rename for F {
    fn key(&mut self, old: OldKey<'_>) -> Result<NewKey> {
        self(old)
    }
}

/// A state on its way to its new keys.
struct Moved {
    memtable: Memtable,
    timers: NewTimers,
    /// The collection whose entries are coming, and what it is called now.
    open: Option<(KeyGroup, Vec<u8>, Vec<u8>, Named)>,
}

/// A new key of this shard.
#[derive(Clone)]
struct Named {
    group: KeyGroup,
    key: Vec<u8>,
    namespace: Vec<u8>,
}

impl ShardCore {
    /// See [`KeyedStore::register_rekeyed`](super::store::KeyedStore::register_rekeyed).
    pub(super) fn rekey(
        &mut self,
        spec: StateSpec,
        old: OldCodecs,
        rename: &mut dyn Rename,
    ) -> Result<StateId> {
        spec.check()?;
        let Some(&id) = self.by_name.get(&spec.name) else { return self.register(spec) };
        let position = id as usize;
        let slot = &self.states[position];
        if slot.registered || migration::has_keys_of(&slot.meta, &spec)? {
            return self.register(spec);
        }
        let map_keys = spec.map_keys.clone().map(|today| old.map_keys.unwrap_or(today));
        let as_it_was =
            StateSpec { keys: old.keys, namespaces: old.namespaces, map_keys, ..spec.clone() };
        let migration = migration::compare(&slot.meta, &as_it_was)?;
        let migration = Arc::new(self.living(migration, &spec, position));
        let ttl = migration.ttl().cloned();
        let family = slot.family;
        let mut moved = Moved {
            memtable: self.new_memtable(id, &spec.name, family, Below::Nothing),
            timers: NewTimers::new(),
            open: None,
        };
        if let Some(ttl) = &ttl {
            moved.memtable.set_ttl(Arc::clone(&ttl.rule));
        }
        let move_all = || {
            let scan = slot.base.scan(self.groups)?;
            let mut scan = scan.migrated(Some(migration));
            while let Some(record) = scan.next()? {
                self.move_record(&mut moved, family, &record, rename)?;
            }
            Ok(())
        };
        move_all()
            .map_err(|error: Error| error.at(format_args!("re-keying state {:?}", spec.name)))?;

        let as_of_today = Self::as_of_today(&spec.meta(), &spec, ttl.as_ref())?;
        let slot = &mut self.states[position];
        slot.meta = spec.meta();
        slot.live_by(ttl, &spec);
        slot.registered = true;
        slot.memtable = moved.memtable;
        slot.base = StateBase::default();
        (slot.restored, slot.since) = (false, self.freezes);
        self.note_meta(position);
        self.set_timers(position, moved.timers);
        self.forget_what_is_frozen(&spec.name);
        self.read_by(position, as_of_today);
        Ok(self.id_of(position))
    }

    fn move_record(
        &self,
        moved: &mut Moved,
        family: Family,
        record: &BaseRecord<'_>,
        rename: &mut dyn Rename,
    ) -> Result<()> {
        if family.is_collection() != record.entry.is_some() {
            return Err(Error::corrupt("a table keeps a state as one of another kind")
                .expected(family)
                .found("records that are placed in another way")
                .remedy("restore from another copy of the snapshot"));
        }
        if family == Family::Timers {
            return self.move_timer(moved, record, rename);
        }
        let BaseRecord { group, key, namespace, value, .. } = *record;
        let old = OldKey { group, key, namespace };
        let entry = record.entry.unwrap_or_default();
        let (new, begins) = match &moved.open {
            Some((at, of_key, of_namespace, new))
                if (*at, &**of_key, &**of_namespace) == (group, key, namespace) =>
            {
                (new.clone(), false)
            }
            _ => {
                let new = self.new_key(rename.key(old)?)?;
                if family.is_collection() {
                    moved.open = Some((group, key.to_vec(), namespace.to_vec(), new.clone()));
                }
                (new, true)
            }
        };
        let memtable = &mut moved.memtable;
        self.expect_group_of(memtable, &new);
        let probe = memtable.probe(new.group, &new.key, &new.namespace);
        let mut at = MapAt::new(new.group, &new.key, &new.namespace, Vec::new());
        let is_taken = match family {
            Family::Maps => memtable.has_map(&mut at),
            _ => memtable.get(&probe) != Lookup::Absent,
        };
        if begins && is_taken {
            return Err(taken_twice(&new.key, &new.namespace));
        }
        match family {
            Family::Lists => {
                check_chunk_entry(entry)?;
                let elements = Elements::parse(value, memtable.is_timed())?;
                memtable.append_packed(&probe, elements)
            }
            Family::Maps => {
                let entry = rename.map_key(old, entry)?;
                if entry.len() > MAX_ENTRY_BYTES {
                    return Err(Error::invalid("the new key of a map entry is too long")
                        .expected(format_args!("at most {MAX_ENTRY_BYTES} bytes"))
                        .found(format_args!("{} bytes", entry.len()))
                        .remedy("use a digest as the key"));
                }
                if memtable.map_get(&mut at, &entry).is_some() {
                    return Err(Error::invalid("two keys of a map would become one")
                        .found(format_args!("{} twice in one map", shown(&entry)))
                        .remedy("give every entry of a map a new key of its own"));
                }
                memtable.map_put_as_stored(&mut at, &entry, value)
            }
            _ => memtable.put(&probe, value),
        }
    }

    /// A timer's namespace stands behind its time, which stays as it is.
    fn move_timer(
        &self,
        moved: &mut Moved,
        record: &BaseRecord<'_>,
        rename: &mut dyn Rename,
    ) -> Result<()> {
        let (time, namespace) = NewTimers::split(record)?;
        let NewKey { key, namespace, group } =
            rename.key(OldKey { group: record.group, key: record.key, namespace })?;
        let namespace = NewTimers::namespace(time, &namespace)?;
        let new = self.new_key(NewKey { key, namespace, group })?;
        self.expect_group_of(&mut moved.memtable, &new);
        let probe = moved.memtable.probe(new.group, &new.key, &new.namespace);
        if moved.memtable.get(&probe) != Lookup::Absent {
            return Err(taken_twice(&new.key, &new.namespace));
        }
        moved.memtable.put(&probe, &[])?;
        moved.timers.add(time, probe.hash);
        Ok(())
    }

    /// A new key, if it can be one of this shard.
    fn new_key(&self, new: NewKey) -> Result<Named> {
        let NewKey { key, namespace, group } = new;
        check_key(&key, &namespace)?;
        let group = group.unwrap_or_else(|| KeyRef::new(&key).locate(self.max_parallelism).0);
        if !self.groups.contains(group) {
            return Err(Error::invalid("a new key belongs to another shard")
                .at(format_args!("shard {} of operator {:?}", self.groups, self.name))
                .expected(format_args!("a key group in {}", self.groups))
                .found(group)
                .remedy("re-key on one shard that owns all key groups, take a snapshot of it, and restore that on as many as you like"));
        }
        Ok(Named { group, key, namespace })
    }

    fn expect_group_of(&self, memtable: &mut Memtable, new: &Named) {
        if new.group != group_of_hash(hash_key(&new.key), self.max_parallelism) {
            memtable.expect_given_groups();
        }
    }
}

#[cold]
fn taken_twice(key: &[u8], namespace: &[u8]) -> Error {
    Error::invalid("two keys would become one")
        .found(format_args!("key {} in namespace {} twice", shown(key), shown(namespace)))
        .remedy("give every key and namespace a new name of its own")
}

/// Bytes as people read them, not too many.
fn shown(bytes: &[u8]) -> String {
    format!("\"{:.200}\"", bytes.escape_ascii().to_string())
}
