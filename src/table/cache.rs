//! Blocks of open tables that are kept as they are needed: read, checked,
//! decompressed and parsed.
//!
//! The system's page cache keeps the bytes of files. A block that is found there
//! still has to be checked against its checksum and decompressed by every lookup,
//! which for one of 16 KiB is most of a lookup. What is kept here is ready, and
//! costs its own memory beside the page cache's: worth it where blocks are
//! compressed or large and the same ones are asked for again, as those of large
//! collections are. Single records that are asked for at random are better kept
//! without their blocks: for the memory of one block there is room for a hundred.
//!
//! Keys are (file, number of the block). A file is never written twice, so an
//! entry is never out of date; those of a table that is gone are pushed out like
//! any that nobody asks for.

use std::fmt;
use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::FixedState;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::base::{FileId, Result};
use crate::format::block::{BlockLayout, DataBlock};

/// Capacity from which a cache that is turned on later guesses how many blocks it
/// will hold.
const NOMINAL_BYTES: u64 = 64 << 20;

/// The size of a block that is assumed where none is known yet.
const NOMINAL_BLOCK_BYTES: u64 = 4096;

/// Parts that are locked separately.
const SHARDS: usize = 16;

/// Bytes that an entry takes beside its block: the entry, its place in the
/// cache's own tables, and what an allocation adds.
const ENTRY_BYTES: u64 = (size_of::<CachedBlock>() + size_of::<BlockKey>() + 64) as u64;

/// A cache of decompressed, checked blocks, shared by the tables of a backend
/// and used from any thread.
///
/// Its capacity can be changed at any time, and 0 turns it off. A block of more
/// than a sixteenth of the capacity is not kept.
pub struct BlockCache {
    blocks: Cache<BlockKey, Arc<CachedBlock>, Weigh, FixedState>,
    /// 0 while it is off; the inner cache then keeps some other capacity.
    capacity_bytes: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct BlockKey {
    file: FileId,
    block: usize,
}

/// A block and where everything is in it.
pub(super) struct CachedBlock {
    payload: Box<[u8]>,
    layout: BlockLayout,
}

impl CachedBlock {
    /// The block, which was checked when it was put here.
    #[inline]
    pub(super) fn block(&self) -> Result<DataBlock<'_>> {
        DataBlock::from_layout(&self.payload, self.layout)
    }
}

#[derive(Clone)]
struct Weigh;

impl Weighter<BlockKey, Arc<CachedBlock>> for Weigh {
    fn weight(&self, _: &BlockKey, block: &Arc<CachedBlock>) -> u64 {
        block.payload.len() as u64 + ENTRY_BYTES
    }
}

impl BlockCache {
    /// A cache of at most so many bytes; 0: off.
    pub fn new(capacity_bytes: u64) -> Self {
        let nominal = if capacity_bytes == 0 { NOMINAL_BYTES } else { capacity_bytes };
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity((nominal / NOMINAL_BLOCK_BYTES) as usize)
            .weight_capacity(nominal)
            .build()
            .expect("both capacities are given");
        let blocks =
            Cache::with_options(options, Weigh, FixedState::default(), DefaultLifecycle::default());
        Self { blocks, capacity_bytes: AtomicU64::new(capacity_bytes) }
    }

    /// Bytes that it may hold.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that it holds: blocks, and what each takes beside.
    ///
    /// Memory of a block that a lookup is reading just then is freed after it.
    pub fn used_bytes(&self) -> u64 {
        self.blocks.weight()
    }

    /// Gives it another capacity, from now on; what is too much is dropped before
    /// this returns. 0 turns it off and empties it.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.capacity_bytes.store(capacity_bytes, Ordering::SeqCst);
        match capacity_bytes {
            // The inner capacity stays: from 0 the cache could not tell how many
            // it should remember of those that it pushed out.
            0 => self.blocks.clear(),
            more => self.blocks.set_capacity(more),
        }
    }

    /// Whether it keeps anything.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.capacity_bytes.load(Ordering::Relaxed) > 0
    }

    #[inline]
    pub(super) fn get(&self, file: FileId, block: usize) -> Option<Arc<CachedBlock>> {
        self.blocks.get(&BlockKey { file, block })
    }

    /// Whether a block is there; does not count as using it.
    #[inline]
    pub(super) fn contains(&self, file: FileId, block: usize) -> bool {
        self.is_on() && self.blocks.contains_key(&BlockKey { file, block })
    }

    /// Keeps a copy of a block, which was checked.
    pub(super) fn insert(&self, file: FileId, block: usize, payload: &[u8], layout: BlockLayout) {
        let kept = Arc::new(CachedBlock { payload: payload.into(), layout });
        self.blocks.insert(BlockKey { file, block }, kept);
        // Turned off meanwhile: whoever did so has emptied it, or does so still.
        if self.capacity_bytes.load(Ordering::SeqCst) == 0 {
            self.blocks.clear();
        }
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCache")
            .field("capacity_bytes", &self.capacity_bytes())
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}
