//! What a shard was restored from, as far as it is not in memory yet.
//!
//! Everything that changed since the restore is in the memtable, so the writer
//! only looks at the tables it was restored from, never at those that the
//! background has written or merged since. They stay open, and the same, until
//! the memtable is complete. Only a shard with a memory budget, whose records leave
//! memory when tables have them, goes from one [view](super::spill::View) of the tables
//! to the next.
//!
//! Values of earlier versions are migrated on their way up (see
//! [`migration`](super::migration)).

use std::sync::Arc;

use super::base_scan::{BaseRecord, BaseScan};
use super::migration::{Form, Migration};
use crate::base::{Error, KeyGroupRange, Result};
use crate::format::Placement;
use crate::format::collection::EntryName;
use crate::table::{Found, PlacedKey, Rank, TableReader, TableReads, TableScan};
use crate::version::merge::MergeScan;

/// One table that the shard was restored from.
#[derive(Clone, Debug)]
pub(crate) struct BaseTable {
    /// The open table.
    pub(crate) reader: Arc<TableReader>,
    /// The key groups of it that belong to the shard.
    pub(crate) slice: KeyGroupRange,
    /// Names of the states whose records in it do not count: they were dropped.
    pub(crate) dropped: Arc<[String]>,
}

/// The tables that one state of a shard was restored from, newest first, with
/// the state's ordinal in each.
#[derive(Default)]
pub(crate) struct StateBase {
    tables: Vec<(BaseTable, u16)>,
    /// Known from the registration on; nobody reads before.
    migration: Option<Arc<Migration>>,
    /// A value as it is stored, on its way through a migration.
    stored: Vec<u8>,
}

impl StateBase {
    /// Those of `tables` (oldest first) that hold records of the state which
    /// count.
    pub(crate) fn new(name: &str, tables: &[BaseTable]) -> Self {
        let tables = tables
            .iter()
            .rev()
            .filter_map(|table| Some((table.clone(), table.ordinal(name)?)))
            .collect();
        Self { tables, ..Self::default() }
    }

    /// From now on it reads these tables (oldest first), which say the same of what
    /// is not in memory.
    pub(super) fn set_tables(&mut self, name: &str, tables: &[BaseTable]) {
        self.tables = Self::new(name, tables).tables;
    }

    /// Whether no table knows the state.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The tables, newest first.
    pub(super) fn tables(&self) -> &[(BaseTable, u16)] {
        &self.tables
    }

    /// Whether a table holds values of this schema.
    pub(super) fn names(&self, schema: u64) -> bool {
        self.tables.iter().any(|(table, ordinal)| table.value_schema(*ordinal) == schema)
    }

    /// From now on values are read by way of `migration`.
    pub(super) fn set_migration(&mut self, migration: Arc<Migration>) {
        self.migration = Some(migration);
    }

    /// Asks for what has to be searched to find out what a look at a key will read. Waits
    /// for nothing.
    pub(super) fn will_search(&self, at: PlacedKey<'_>) {
        let mut tables = self.of_group(at).peekable();
        while let Some((table, ordinal)) = tables.next() {
            let rank = rank(tables.peek().is_none());
            table.reader.will_search(rank, ordinal, (at.group, at.hash));
        }
    }

    /// Asks for what a look at a key will read, in the newest table that may have it.
    pub(super) fn will_need(&self, at: PlacedKey<'_>) {
        let mut tables = self.of_group(at).peekable();
        while let Some((table, ordinal)) = tables.next() {
            let rank = rank(tables.peek().is_none());
            if table.reader.will_need_in(rank, ordinal, (at.group, at.hash)) {
                break;
            }
        }
    }

    /// Looks for a key, newest table first; its value goes to `value`. Counts what was
    /// read.
    pub(super) fn get(
        &mut self,
        at: PlacedKey<'_>,
        value: &mut Vec<u8>,
        reads: &mut TableReads,
    ) -> Result<bool> {
        let PlacedKey { group, hash, key, namespace } = at;
        let mut tables =
            self.tables.iter().filter(|(table, _)| table.slice.contains(group)).peekable();
        while let Some((table, ordinal)) = tables.next() {
            let (reader, rank, hash) =
                (&table.reader, rank(tables.peek().is_none()), (group, hash));
            match reader.get_in(rank, *ordinal, hash, key, namespace, value, reads)? {
                Found::Absent => continue,
                Found::Deleted => return Ok(false),
                Found::Value => {}
            }
            let form = table.value_form(*ordinal);
            let as_it_is =
                |migration: &Migration| migration.current() == form && form.stamps.is_none();
            if let Some(migration) = self.migration.as_ref().filter(|m| !as_it_is(m)) {
                std::mem::swap(value, &mut self.stored);
                let migrated = migration.apply(form, &self.stored, value)?;
                // A schema that is read as it is gives back what it was given.
                if std::ptr::eq(migrated, self.stored.as_slice()) {
                    std::mem::swap(value, &mut self.stored);
                }
            }
            return Ok(true);
        }
        Ok(false)
    }
}

fn rank(is_last: bool) -> Rank {
    if is_last { Rank::Oldest } else { Rank::Any }
}

impl BaseTable {
    /// The ordinal of a state of which it holds records that count.
    pub(crate) fn ordinal(&self, name: &str) -> Option<u16> {
        let counts = self.dropped.iter().all(|dropped| dropped != name);
        counts.then(|| self.reader.state_ordinal(name)).flatten()
    }

    /// In which form the values of a state are written.
    pub(crate) fn value_form(&self, ordinal: u16) -> Form {
        let state = self.reader.states().get(usize::from(ordinal));
        state.map_or(Form { schema: 0, stamps: None }, |state| Form {
            schema: state.value_schema,
            stamps: state.stamps,
        })
    }

    /// What the values of a state are written under.
    pub(crate) fn value_schema(&self, ordinal: u16) -> u64 {
        self.reader.states().get(usize::from(ordinal)).map_or(0, |state| state.value_schema)
    }
}

/// Collections, and whole states.
impl StateBase {
    /// Looks for one entry of the collection that `at` names by key and
    /// namespace; its value goes to `value` as it is stored.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` if a table cannot be read: it is then not
    /// known whether the entry is there.
    #[cfg(test)]
    pub(super) fn entry(
        &self,
        at: PlacedKey<'_>,
        entry: &[u8],
        value: &mut Vec<u8>,
    ) -> Result<bool> {
        self.check_collections()?;
        let (mut name, mut marker) = (Vec::new(), Vec::new());
        EntryName::entry(at.namespace, entry).encode(&mut name);
        EntryName::marker(at.namespace).encode(&mut marker);
        for (table, ordinal) in self.of_group(at) {
            let PlacedKey { hash, group, key, .. } = at;
            match table.reader.get(ordinal, group, hash, key, &name, value)? {
                Found::Value => return Ok(true),
                Found::Deleted => return Ok(false),
                Found::Absent => {}
            }
            let marked = table.reader.get(ordinal, group, hash, key, &marker, value)?;
            value.clear();
            if marked != Found::Absent {
                break;
            }
        }
        Ok(false)
    }

    /// The live entries of the collection that `at` names by key and namespace,
    /// in the order of their bytes, from `from` on, migrated. Older tables than
    /// the newest with a marker are not read.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` if a table cannot be read, now or from
    /// [`BaseScan::next`]: it is then not known which entries are there. Those of
    /// the codecs.
    pub(crate) fn collection(&self, at: PlacedKey<'_>, from: Option<&[u8]>) -> Result<BaseScan> {
        self.check_collections()?;
        let PlacedKey { hash, group, key, namespace } = at;
        let mut marker = Vec::new();
        EntryName::marker(namespace).encode(&mut marker);
        let mut scans = Vec::new();
        let mut value = Vec::new();
        let mut reads = TableReads::default();
        for (table, ordinal) in self.of_group(at) {
            reads.asked += 1;
            if !table.reader.may_contain(ordinal, group, hash) {
                reads.excluded += 1;
                continue;
            }
            scans.push(table.reader.scan_collection(ordinal, at, from)?);
            // Not another question, but perhaps another block.
            let mut again = TableReads::default();
            let at = (group, hash);
            let marked = table.reader.get_in(
                Rank::Any,
                ordinal,
                at,
                key,
                &marker,
                &mut value,
                &mut again,
            )?;
            reads.blocks += again.blocks;
            if marked != Found::Absent {
                break;
            }
        }
        Ok(self.merged(scans)?.migrated(self.migration.clone()).having_read(reads))
    }

    /// Everything of the state that is live in these groups, in the order of a
    /// table: by group, hash, key, namespace and entry. Values are as they are
    /// stored. Read block by block as it is asked for; holds a block or 256 KiB
    /// of each table.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` if a table cannot be read, now or from
    /// [`BaseScan::next`].
    pub(crate) fn scan(&self, groups: KeyGroupRange) -> Result<BaseScan> {
        let slices = self.tables.iter().filter_map(|(table, ordinal)| {
            let slice = table.slice.intersection(groups)?;
            Some(table.reader.scan_state(*ordinal, slice))
        });
        self.merged(slices.collect())
    }

    /// Whether anything of a stored record is to be seen: nothing if all has
    /// expired.
    ///
    /// # Errors
    /// `Corrupt` if it is not what its table says.
    pub(super) fn shows(&self, record: &BaseRecord<'_>, hidden: u64) -> Result<bool> {
        match &self.migration {
            Some(migration) => migration.shows(record.form, record.value, hidden),
            None => Ok(true),
        }
    }

    /// The tables that may hold the group of `at`, newest first.
    fn of_group(&self, at: PlacedKey<'_>) -> impl Iterator<Item = (&BaseTable, u16)> {
        let group = at.group;
        let tables = self.tables.iter().map(|(table, ordinal)| (table, *ordinal));
        tables.filter(move |(table, _)| table.slice.contains(group))
    }

    fn merged(&self, mut newest_first: Vec<TableScan>) -> Result<BaseScan> {
        newest_first.reverse();
        Ok(BaseScan::new(MergeScan::of(newest_first)))
    }

    fn check_collections(&self) -> Result<()> {
        let single = self
            .tables
            .iter()
            .find(|(table, ordinal)| table.reader.placement(*ordinal) != Placement::Collection);
        single.map_or(Ok(()), |(table, ordinal)| {
            Err(Error::incompatible("a table holds single values in a state of collections")
                .at(format_args!("file {}, state {ordinal}", table.reader.file()))
                .remedy("a state cannot become one of collections: use another name"))
        })
    }
}
