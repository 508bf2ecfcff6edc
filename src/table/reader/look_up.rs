//! Looking one key up in a table.
//!
//! A look-up
//!
//! 1. asks the filter, if the state has one and it is worth a look;
//! 2. finds the block in the index;
//! 3. takes that block from the cache if there is one; else reads it (or finds
//!    it mapped), checks it, decompresses it;
//! 4. compares the records whose tag matches.
//!
//! Almost always one block is read for a key that is there, and none for a key
//! that is not.

use std::ops::Range;

use super::{Held, TableReader, in_part};
use crate::base::{KeyGroup, Result};
use crate::format::block::{Slot, tag_of_hash};
use crate::format::collection::Placement;
use crate::format::filter::{Filter, filter_hash};
use crate::format::frame::PartKind;
use crate::table::cache::BlockCache;

/// Most that is asked for ahead at once: more would push out what was asked for
/// before.
const MAX_ASKED_BYTES: u64 = 1024 * 1024;

/// What a lookup found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Found {
    /// The table does not know the key; an older one may.
    Absent,
    /// The key was deleted, whatever older tables say.
    Deleted,
    /// The value is in the caller's buffer.
    Value,
}

impl Found {
    /// What is in a slot; a value goes to `out`.
    #[inline]
    pub(in crate::table) fn of(slot: Slot<'_>, out: &mut Vec<u8>) -> Self {
        match slot {
            Slot::Absent => Self::Absent,
            Slot::Deleted => Self::Deleted,
            Slot::Value(value) => {
                out.extend_from_slice(value);
                Self::Value
            }
        }
    }
}

/// What look-ups in tables came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableReads {
    /// Tables that were asked for a key.
    pub asked: u64,
    /// Of these, how many had nothing to be read: key groups or filter excluded the key.
    pub excluded: u64,
    /// How many did not have the key although nothing excluded it.
    pub false_positives: u64,
    /// Blocks that were looked at.
    pub blocks: u64,
}

impl std::ops::AddAssign for TableReads {
    fn add_assign(&mut self, other: Self) {
        self.asked += other.asked;
        self.excluded += other.excluded;
        self.false_positives += other.false_positives;
        self.blocks += other.blocks;
    }
}

/// Where a table stands among those that may have a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rank {
    /// Anywhere.
    Any,
    /// None is older: what is not in it is nowhere.
    Oldest,
}

impl TableReader {
    /// Whether the table may hold a record of this hash: the one that places
    /// it, so for a state of collections this asks for a whole collection.
    /// `false` is certain; `true` is wrong for about one stranger in 40, and
    /// always said of a state that has no filter. Reads no block.
    /// Said too where the filter is damaged or cannot be read: who then looks the
    /// key up is told what is wrong.
    #[inline]
    pub fn may_contain(&self, ordinal: u16, group: KeyGroup, hash: u64) -> bool {
        let is_excluded = || matches!(self.filter_passes(ordinal, group, hash), Ok(false));
        self.meta.groups.contains(group) && !is_excluded()
    }

    /// Asks the system for the block that a lookup of this hash will read, so
    /// that it is on its way while others are asked for; `false` if there is
    /// nothing to read, since the filter excludes the hash or no block can hold
    /// it. What is in the block cache is not asked for.
    ///
    /// Worth it before a batch of lookups in a table that is not in memory: the
    /// reads of all then overlap. (A single lookup does so for itself.) Costs a system
    /// call (about 1 us) for each that it asks for. Waits for nothing but, at times, a
    /// page of the filter and of the index; does nothing for a file that is not mapped,
    /// and says the same.
    pub fn will_need(&self, ordinal: u16, group: KeyGroup, hash: u64) -> bool {
        self.will_need_in(Rank::Any, ordinal, (group, hash))
    }

    /// As [`will_need`](Self::will_need), of a table of this rank.
    pub(crate) fn will_need_in(
        &self,
        rank: Rank,
        ordinal: u16,
        (group, hash): (KeyGroup, u64),
    ) -> bool {
        // What is wrong will be seen by who reads.
        let Ok(mut blocks) = self.blocks_that_may_hold(rank, ordinal, (group, hash)) else {
            return true;
        };
        if blocks.is_empty() {
            return false;
        }
        if self.placement(ordinal) == Placement::Single {
            // Nearly always the only one: see `get`.
            blocks.start = blocks.end - 1;
        }
        let cached = |cache: &BlockCache| cache.contains(self.file(), blocks.start);
        if blocks.len() > 1 || !self.cache.as_deref().is_some_and(cached) {
            self.ask_for(blocks);
        }
        true
    }

    /// Asks the system for these blocks, the first MiB of them.
    pub(in crate::table) fn ask_for(&self, blocks: Range<usize>) {
        // An error will be seen by who reads.
        if let (false, Ok(first)) = (blocks.is_empty(), self.block(blocks.start)) {
            let end = self.block(blocks.end - 1).map_or(first.end, |last| last.end);
            self.source.will_need(first.offset, (end - first.offset).min(MAX_ASKED_BYTES));
        }
    }

    /// Looks a key up. The value, if there is one, is put into `out`, which is
    /// emptied first in any case.
    ///
    /// In a state of collections this finds one record of one: `namespace` is
    /// its [entry name](crate::format::collection), and `hash` the one that
    /// places the collection. Usually that reads one block, or none; in a
    /// collection of *n* blocks, log2(*n*).
    ///
    /// # Errors
    /// `Corrupt` if a block that had to be looked at is damaged, `Unavailable`
    /// if it could not be read, `Invalid` if `namespace` had to be an entry
    /// name and is none.
    pub fn get(
        &self,
        ordinal: u16,
        group: KeyGroup,
        hash: u64,
        key: &[u8],
        namespace: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Found> {
        let mut reads = TableReads::default();
        self.get_in(Rank::Any, ordinal, (group, hash), key, namespace, out, &mut reads)
    }

    /// As [`get`](Self::get), of a key in this group and with this hash, in a table of this
    /// rank; counts what was done for it.
    ///
    /// # Errors
    /// As `get`.
    #[expect(
        clippy::too_many_arguments,
        reason = "one look-up; they would be told apart nowhere else"
    )]
    pub(crate) fn get_in(
        &self,
        rank: Rank,
        ordinal: u16,
        (group, hash): (KeyGroup, u64),
        key: &[u8],
        namespace: &[u8],
        out: &mut Vec<u8>,
        reads: &mut TableReads,
    ) -> Result<Found> {
        out.clear();
        reads.asked += 1;
        let before = reads.blocks;
        let found = if self.placement(ordinal) == Placement::Collection {
            self.get_of_collection(ordinal, (group, hash), key, namespace, out, reads)?
        } else {
            self.get_single(rank, ordinal, (group, hash), key, namespace, out, reads)?
        };
        if found == Found::Absent {
            if reads.blocks == before {
                reads.excluded += 1;
            } else {
                reads.false_positives += 1;
            }
        }
        Ok(found)
    }

    #[expect(clippy::too_many_arguments, reason = "as of get_in")]
    #[inline]
    fn get_single(
        &self,
        rank: Rank,
        ordinal: u16,
        (group, hash): (KeyGroup, u64),
        key: &[u8],
        namespace: &[u8],
        out: &mut Vec<u8>,
        reads: &mut TableReads,
    ) -> Result<Found> {
        self.await_searched(rank, ordinal, (group, hash));
        let blocks = match self.blocks_that_may_hold(rank, ordinal, (group, hash)) {
            Ok(blocks) => blocks,
            // Somebody else may have filter and index.
            Err(error) => {
                let other = self.instead(error)?;
                return other.get_single(rank, ordinal, (group, hash), key, namespace, out, reads);
            }
        };
        // The last one first: where a block begins with this very hash, the one
        // before could only hold another key of the same.
        for block in blocks.rev() {
            reads.blocks += 1;
            let found = self.with_block(block, |block| {
                Ok(Found::of(block.find(group, tag_of_hash(hash), key, namespace)?, out))
            })?;
            if found != Found::Absent {
                return Ok(found);
            }
        }
        Ok(Found::Absent)
    }

    /// The blocks to be looked at for a hash; none if the filter excludes it.
    ///
    /// # Errors
    /// `Corrupt` if filter or index are damaged there, `Unavailable` if they cannot be read.
    #[inline]
    pub(in crate::table) fn blocks_that_may_hold(
        &self,
        rank: Rank,
        ordinal: u16,
        (group, hash): (KeyGroup, u64),
    ) -> Result<Range<usize>> {
        if self.may_hold(rank, ordinal, (group, hash))? {
            self.blocks_of_hash(ordinal, group, hash)
        } else {
            Ok(0..0)
        }
    }

    /// Whether the table is to be looked at for a hash, be it because the filter is not
    /// worth a look: where it must be read from disk itself, and no other table is left to
    /// have the record, it costs as much as the block that it might spare.
    #[inline]
    fn may_hold(&self, rank: Rank, ordinal: u16, (group, hash): (KeyGroup, u64)) -> Result<bool> {
        let is_of_group = self.meta.groups.contains(group);
        if !self.is_filter_asked(rank, ordinal) {
            return Ok(is_of_group);
        }
        Ok(is_of_group && self.filter_passes(ordinal, group, hash)?)
    }

    /// Whether the filter is worth a look.
    #[inline]
    pub(super) fn is_filter_asked(&self, rank: Rank, ordinal: u16) -> bool {
        let is_at_hand = self.holds == Held::Both || !self.by_calls;
        rank != Rank::Oldest || is_at_hand || self.placement(ordinal) != Placement::Single
    }

    /// Whether the filter does not exclude the hash: one that places a record
    /// of this state, or its own.
    #[inline]
    pub(in crate::table) fn filter_passes(
        &self,
        ordinal: u16,
        group: KeyGroup,
        hash: u64,
    ) -> Result<bool> {
        let state = self.properties.states.get(usize::from(ordinal));
        if state.is_none_or(|state| !state.filtered) {
            return Ok(true);
        }
        // Opening checked the length; an empty filter excludes nothing.
        let filter = Filter::decode(self.filter_bytes()).unwrap_or_default();
        let hash = filter_hash(ordinal, group, hash);
        let Range { start, end } = filter.range_of(hash);
        self.ensure_sound(self.filter.start + start..self.filter.start + end)
            .map_err(|error| in_part(error, self.file(), PartKind::Filter))?;
        Ok(filter.may_contain(hash))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::written::Written;
    use super::*;
    use crate::base::{FileId, MaxParallelism};
    use crate::codec::KeyRef;
    use crate::env::ReadAt;
    use crate::env::ledger::MemoryLedger;
    use crate::table::{TableOptions, TableWriter};

    /// A mapped file whose filter, once told so, excludes everything: who finds something
    /// has not asked it.
    #[derive(Debug)]
    struct Excluding {
        sound: Vec<u8>,
        excluding: Vec<u8>,
        excludes: AtomicBool,
    }

    impl ReadAt for Excluding {
        fn len(&self) -> u64 {
            self.sound.len() as u64
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            let start = offset as usize;
            buf.copy_from_slice(&self.sound[start..start + buf.len()]);
            Ok(())
        }

        fn as_slice(&self) -> Option<&[u8]> {
            let excludes = self.excludes.load(Ordering::Relaxed);
            Some(if excludes { &self.excluding } else { &self.sound })
        }
    }

    #[test]
    fn a_filter_that_must_be_read_is_not_asked_when_no_older_table_is_left() {
        let parallelism = MaxParallelism::new(128).unwrap();
        let (group, hash) = KeyRef::new(b"key").locate(parallelism);
        let at = (group, hash);
        let (out, file) = (Written::default(), FileId { incarnation: 1, number: 1 });
        let options = TableOptions::default();
        let mut writer =
            TableWriter::new(Box::new(out.clone()), file, parallelism, options).unwrap();
        writer.begin_state("state").unwrap();
        writer.add(group, hash, b"key", b"", Some(b"value")).unwrap();
        let meta = writer.finish().unwrap();
        let sound = out.bytes();

        let source = |excluding| {
            Arc::new(Excluding {
                sound: sound.clone(),
                excluding,
                excludes: AtomicBool::new(false),
            })
        };
        let mut excluding = sound.clone();
        let filter = TableReader::open(source(Vec::new()), &meta).unwrap().filter;
        excluding[filter].fill(0);
        let source = source(excluding);

        let at_hand = TableReader::open(Arc::<Excluding>::clone(&source), &meta).unwrap();
        let on_disk = at_hand.reopened(Held::Nothing, &MemoryLedger::new()).unwrap();
        // What has been checked is not checked again, and may change without being noticed.
        assert!(at_hand.may_contain(0, group, hash) && on_disk.may_contain(0, group, hash));
        source.excludes.store(true, Ordering::Relaxed);
        let mut value = Vec::new();
        for (reader, rank, is_found) in [
            (&at_hand, Rank::Any, false),
            (&at_hand, Rank::Oldest, false),
            (&on_disk, Rank::Any, false),
            (&on_disk, Rank::Oldest, true),
        ] {
            let mut reads = TableReads::default();
            let found = reader.get_in(rank, 0, at, b"key", b"", &mut value, &mut reads).unwrap();
            let expected = if is_found { Found::Value } else { Found::Absent };
            assert_eq!(found, expected, "{rank:?}, by calls: {}", reader.is_read_by_calls());
            assert_eq!(reads.excluded, u64::from(!is_found));
            assert_eq!(reader.will_need_in(rank, 0, at), is_found);
        }
    }
}
