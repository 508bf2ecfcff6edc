//! Writing a restored state anew under other keys.
//!
//! The bytes of a key decide where its record is, in memory, in a table, and on
//! which shard; so keys and namespaces are not migrated lazily like values, but
//! all at once and only when asked for:
//!
//! 1. Read every record from the tables, merged, and have the caller name its
//!    new key. Nothing is changed until all are named and found to be in order.
//! 2. Fill a fresh memtable with the new records, and with a deletion of each old
//!    key, so that the tables beneath are hidden from now on.
//! 3. Put the memtable in its place. The next delta holds all of it; a snapshot
//!    from before holds none.
//!
//! Needs memory for the state twice while it lasts.

use std::sync::Arc;

use crate::base::hash::{group_of_hash, hash_key};
use crate::base::limits::check_key;
use crate::base::{Error, KeyGroup, Result};
use crate::codec::{CodecSpec, KeyRef};
use crate::memtable::{Below, Memtable, Probe};

use super::ShardCore;
use super::base_tables::StateBase;
use super::collections::Family;
use super::migration::{self, Migration};
use super::store::{NewKey, OldKey, StateId, StateSpec};

/// One record, by the places of its parts in [`Records::bytes`].
struct Record {
    old_group: KeyGroup,
    new_group: Option<KeyGroup>,
    start: usize,
    /// Lengths of the old key and namespace, the new key and namespace, and the
    /// value, which follow each other.
    lens: [usize; 5],
}

#[derive(Default)]
struct Records {
    records: Vec<Record>,
    bytes: Vec<u8>,
}

impl Records {
    fn push(&mut self, old: &OldKey<'_>, new: &NewKey, value: &[u8]) {
        let start = self.bytes.len();
        let parts = [old.key, old.namespace, &*new.key, &*new.namespace, value];
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        let lens = parts.map(<[u8]>::len);
        self.records.push(Record { old_group: old.group, new_group: new.group, start, lens });
    }

    /// The old key, the new one and the value of each record.
    fn iter(&self) -> impl Iterator<Item = (KeyRef<'_>, KeyRef<'_>, &[u8])> {
        self.records.iter().map(|record| {
            let mut rest = &self.bytes[record.start..];
            let parts = record.lens.map(|len| {
                let (part, behind) = rest.split_at(len);
                rest = behind;
                part
            });
            let old = KeyRef::in_group(record.old_group, parts[0]).namespace(parts[1]);
            let new = match record.new_group {
                Some(group) => KeyRef::in_group(group, parts[2]),
                None => KeyRef::new(parts[2]),
            };
            (old, new.namespace(parts[3]), parts[4])
        })
    }
}

impl ShardCore {
    /// See [`KeyedStore::register_rekeyed`](super::store::KeyedStore::register_rekeyed).
    pub(super) fn rekey(
        &mut self,
        spec: StateSpec,
        old_keys: CodecSpec,
        old_namespaces: CodecSpec,
        rename: &mut dyn FnMut(OldKey<'_>) -> Result<NewKey>,
    ) -> Result<StateId> {
        spec.check()?;
        let Some(&id) = self.by_name.get(&spec.name) else { return self.register(spec) };
        let position = id as usize;
        let slot = &self.states[position];
        if slot.registered || migration::has_keys_of(&slot.meta, &spec)? {
            return self.register(spec);
        }
        if slot.family != Family::Values {
            return Err(Error::invalid("only states of single values can be re-keyed")
                .at(format_args!("state {:?}", spec.name))
                .expected(Family::Values)
                .found(format_args!("one of kind {:?}", slot.meta.kind))
                .remedy("register the state under its old keys, and copy it into a state of another name"));
        }
        let as_it_was = StateSpec { keys: old_keys, namespaces: old_namespaces, ..spec.clone() };
        let migration = migration::compare(&slot.meta, &as_it_was)?;
        let records = self
            .renamed(position, &migration, rename)
            .map_err(|error| error.at(format_args!("re-keying state {:?}", spec.name)))?;

        let seed = self.seed ^ u64::from(id);
        let mut memtable = Memtable::new(Arc::clone(&self.pool), Below::Tables, seed);
        for (old, _, _) in records.iter() {
            let probe = self.probe_of(&mut memtable, old);
            memtable.delete(&probe)?;
        }
        for (_, new, value) in records.iter() {
            let probe = self.probe_of(&mut memtable, new);
            memtable.put(&probe, value)?;
        }
        memtable.set_complete();

        self.take_over(position, &spec, migration);
        let slot = &mut self.states[position];
        slot.memtable = memtable;
        slot.base = StateBase::default();
        Ok(StateId(id))
    }

    /// What `memtable` knows a key by.
    fn probe_of<'k>(&self, memtable: &mut Memtable, key: KeyRef<'k>) -> Probe<'k> {
        let (key_bytes, namespace) = (key.key_bytes(), key.namespace_bytes());
        let computed = group_of_hash(hash_key(key_bytes), self.max_parallelism);
        let group = key.group().unwrap_or(computed);
        if group != computed {
            memtable.expect_given_groups();
        }
        memtable.probe(group, key_bytes, namespace)
    }

    /// All records of a state that nothing of is in memory, with their new keys.
    fn renamed(
        &self,
        position: usize,
        migration: &Migration,
        rename: &mut dyn FnMut(OldKey<'_>) -> Result<NewKey>,
    ) -> Result<Records> {
        let mut scan = self.states[position].base.scan(self.groups)?;
        let mut records = Records::default();
        let mut migrated = Vec::new();
        while let Some(record) = scan.next()? {
            let old = OldKey { group: record.group, key: record.key, namespace: record.namespace };
            let value = migration.apply(record.value_schema, record.value, &mut migrated)?;
            let new = rename(old)?;
            check_key(&new.key, &new.namespace)?;
            records.push(&old, &new, value);
        }
        self.check_new_keys(&records)?;
        Ok(records)
    }

    fn check_new_keys(&self, records: &Records) -> Result<()> {
        let mut keys = Vec::with_capacity(records.records.len());
        for (_, new, _) in records.iter() {
            let (group, _) = new.locate(self.max_parallelism);
            if !self.groups.contains(group) {
                return Err(Error::invalid("a new key belongs to another shard")
                    .at(format_args!("shard {} of operator {:?}", self.groups, self.name))
                    .expected(format_args!("a key group in {}", self.groups))
                    .found(group)
                    .remedy("re-key on one shard that owns all key groups, take a snapshot of it, and restore that on as many as you like"));
            }
            keys.push((new.key_bytes(), new.namespace_bytes()));
        }
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid("two keys would become one")
                .found(format_args!(
                    "key \"{:.200}\" in namespace \"{:.200}\" twice",
                    pair[0].0.escape_ascii().to_string(),
                    pair[0].1.escape_ascii().to_string()
                ))
                .remedy("give every key and namespace a new name of its own"));
        }
        Ok(())
    }
}
