//! Finding one collection in a table, and one record in it.
//!
//! The records of a collection lie side by side, nearly always in one block.
//! Where they fill several, all but the first of those blocks have the same
//! hash in the index; the right one is then found by looking at the first
//! record of the one in the middle, and so on.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::reader::{Found, Rank, TableReader, TableReads};
use super::scan::TableScan;
use crate::base::hash::{hash_key, with_namespace};
use crate::base::{Error, KeyGroup, MaxParallelism, Result};
use crate::codec::KeyRef;
use crate::format::block::{BlockRecord, DataBlock, tag_of_hash};
use crate::format::collection::{EntryName, Placement, encode_prefix};

/// A key and its namespace, with what places them in a table: what one value
/// or a collection is found by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacedKey<'a> {
    /// The key group of its key.
    pub group: KeyGroup,
    /// The hash of its key and namespace.
    pub hash: u64,
    /// Its key.
    pub key: &'a [u8],
    /// Its namespace, empty if it has none.
    pub namespace: &'a [u8],
}

impl<'a> PlacedKey<'a> {
    /// The place of this key and namespace.
    pub fn new(key: KeyRef<'a>, max_parallelism: MaxParallelism) -> Self {
        let (group, hash) = key.locate(max_parallelism);
        Self { group, hash, key: key.key_bytes(), namespace: key.namespace_bytes() }
    }

    /// The place of a key whose group is known.
    pub(crate) fn in_group(group: KeyGroup, key: &'a [u8], namespace: &'a [u8]) -> Self {
        Self { group, hash: with_namespace(hash_key(key), namespace), key, namespace }
    }
}

impl TableReader {
    /// Lends the records of one collection: the marker if there is one, then
    /// the entries in the order of their bytes, tombstones included. With
    /// `from`, only the entries that are not before it, and no marker.
    ///
    /// Reads the blocks that hold them, and in a collection of *n* blocks
    /// log2(*n*) to find the first; usually one, and none if the filter knows
    /// better.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` if a block that had to be looked at is
    /// damaged or could not be read; `Invalid` if the state is not one of
    /// collections.
    pub fn scan_collection(
        self: &Arc<Self>,
        ordinal: u16,
        collection: PlacedKey<'_>,
        from: Option<&[u8]>,
    ) -> Result<TableScan> {
        if self.placement(ordinal) != Placement::Collection {
            return Err(Error::invalid("a collection was asked of a state that has none")
                .at(format_args!("file {}, state {ordinal}", self.file())));
        }
        let bounds = Bounds::new(collection, from);
        let mut blocks =
            match self.blocks_that_may_hold(Rank::Any, ordinal, (bounds.group, bounds.hash)) {
                Ok(blocks) => blocks,
                Err(error) => {
                    return self.instead(error)?.scan_collection(ordinal, collection, from);
                }
            };
        // Without a bound the collection starts where these blocks do.
        if from.is_some() && blocks.len() > 1 {
            blocks.start = self.search(
                blocks.clone(),
                (bounds.group, bounds.hash, &bounds.key, &bounds.first),
                |_| Ok(false),
            )?;
        }
        self.ask_for(blocks.clone());
        TableScan::of_collection(Arc::clone(self), ordinal, bounds, blocks)
    }

    /// [`get`](Self::get) in a state of collections.
    pub(super) fn get_of_collection(
        &self,
        ordinal: u16,
        (group, hash): (KeyGroup, u64),
        key: &[u8],
        name: &[u8],
        out: &mut Vec<u8>,
        reads: &mut TableReads,
    ) -> Result<Found> {
        let own_hash = EntryName::decode(name)
            .and_then(|_| Placement::Collection.own_hash(hash, name))
            .map_err(|why| {
                Error::invalid("a record of a collection was asked for without a name").source(why)
            })?;
        let blocks = self.filter_passes(ordinal, group, own_hash).and_then(|passes| match passes {
            true => self.blocks_that_may_hold(Rank::Any, ordinal, (group, hash)),
            false => Ok(0..0),
        });
        let blocks = match blocks {
            Ok(blocks) => blocks,
            Err(error) => {
                let other = self.instead(error)?;
                return other.get_of_collection(ordinal, (group, hash), key, name, out, reads);
            }
        };
        let mut found = Found::Absent;
        self.search(blocks, (group, hash, key, name), |block| {
            reads.blocks += 1;
            found = Found::of(block.find(group, tag_of_hash(own_hash), key, name)?, out);
            Ok(found != Found::Absent)
        })?;
        Ok(found)
    }

    /// Of `blocks`, which are all that can hold records of a hash, the last one
    /// that begins at or before the wanted one; the first if none does. `visit`
    /// is shown some that do, in order, and ends the search when it says so.
    fn search(
        &self,
        blocks: Range<usize>,
        wanted: (KeyGroup, u64, &[u8], &[u8]),
        mut visit: impl FnMut(&DataBlock<'_>) -> Result<bool>,
    ) -> Result<usize> {
        let mut last = blocks.start;
        let (mut low, mut high) = (blocks.start, blocks.end);
        while low < high {
            let middle = low + (high - low) / 2;
            let (behind, ended) = self.with_block(middle, |block| {
                let BlockRecord { group, key, namespace, .. } = block.record(0)?;
                // The index knows but half of it.
                let hash = Placement::Collection.hash(key, namespace)?;
                let behind = (group, hash, key, namespace) > wanted;
                Ok((behind, !behind && visit(&block)?))
            })?;
            if behind {
                high = middle;
            } else {
                last = middle;
                low = middle + 1;
            }
            if ended {
                break;
            }
        }
        Ok(last)
    }
}

/// The records of one collection, perhaps from one of its entries on.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) group: KeyGroup,
    hash: u64,
    key: Vec<u8>,
    /// What the names of the collection begin with.
    prefix: Vec<u8>,
    /// No name before this one counts.
    first: Vec<u8>,
}

impl Bounds {
    fn new(collection: PlacedKey<'_>, from: Option<&[u8]>) -> Self {
        let PlacedKey { group, hash, key, namespace } = collection;
        let mut prefix = Vec::new();
        encode_prefix(namespace, &mut prefix);
        let first = from.map_or_else(
            || prefix.clone(),
            |from| {
                let mut first = Vec::new();
                EntryName::entry(namespace, from).encode(&mut first);
                first
            },
        );
        Self { group, hash, key: key.to_vec(), prefix, first }
    }

    /// Where a record of the same group lies: before, within or behind.
    pub(super) fn compare(&self, record: BlockRecord<'_>) -> Result<Ordering> {
        let BlockRecord { key, namespace: name, .. } = record;
        if key == self.key && name.starts_with(&self.prefix) {
            return Ok(if name < &*self.first { Ordering::Less } else { Ordering::Equal });
        }
        let hash = Placement::Collection.hash(key, name)?;
        Ok((hash, key, name).cmp(&(self.hash, &*self.key, &*self.first)))
    }
}
