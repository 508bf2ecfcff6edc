//! Where the records are: chunks of raw memory, divided into blocks.
//!
//! The arena owns chunks of [`CHUNK_BYTES`] (the first is mapped lazily, so a
//! small state stays small; the others come prefaulted and on huge pages), or
//! smaller ones within a small budget ([`PagePool::chunk_bytes`]). A
//! chunk is a row of *blocks*, each a multiple of [`UNIT_BYTES`], each holding
//! one record or being free. A record that needs more than a [quarter](CHUNK_PART)
//! of a chunk gets one of its own, which is unmapped when the record goes. The
//! others are unmapped when all their records were [moved](leaving) elsewhere.
//!
//! What a record looks like is drawn in [`record`](super::record); which blocks are in
//! use is decided in [`space`]. A free block:
//!
//! ```text
//! | word a: FREE | word b: capacity | next u32 | previous u32 | ... |
//! ```
//!
//! # Invariants
//!
//! 1. An [`Addr`] in the index, in a dirty map or in a retired list is the
//!    start of a block that holds a record; in the index it may be zero, which
//!    is an empty slot. `Addr`s never leave `memtable`,
//!    which is the boundary that the safety of this file rests on.
//! 2. Lengths in a header never exceed the block's capacity, and a block never
//!    exceeds its chunk.
//! 3. Only the writer, who has `&mut Arena`, changes memory. It never changes
//!    a byte of a block that is in the dirty map of a frozen epoch which has
//!    not been extracted yet (`Memtable` decides that by the epoch in the
//!    header; the models in `tests/loom` check the hand-over).
//! 4. An extractor reads only blocks of invariant 3, through a [`ChunkSet`]
//!    that keeps their chunks mapped.
//!
//! From 3 and 4 follows that no byte is ever read by one thread while the
//! other writes it.

#![allow(
    unsafe_code,
    reason = "records of any length are packed into raw chunks and read by the extractor while the writer goes on; the invariants above are what makes that sound"
)]

mod leaving;
mod space;

use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use crate::base::{Epoch, KeyGroup, Result};
use crate::env::mmap::{Pages, prefetch_read};
use crate::env::pages::{MIN_CHUNK_BYTES, PagePool};

use self::leaving::Leaving;
use super::addr::{Addr, CHUNK_BYTES, UNIT_BYTES};
use super::freelist::FreeLists;
use super::record::{
    Apart, COLD, FREE, Header, MAX_STORED_BYTES, NAMESPACE_LEN_BYTES, Pattern, Probe,
    SMALL_HEADER_BYTES, SMALL_KEY_BYTES, TOMBSTONE, ValueLens, WIDE_HEADER_BYTES, stored_bytes,
};

/// Blocks larger than this part of a chunk get one of their own, so that a chunk
/// wastes at most a quarter of itself at its end.
const CHUNK_PART: usize = 4;
/// No block that has a chunk of its own is smaller.
const LEAST_ALONE_BYTES: usize = MIN_CHUNK_BYTES / CHUNK_PART;
/// A free block needs room for its links.
pub(super) const MIN_UNITS: u32 = 2;

/// A block of the arena: what its address comes to in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    ptr: NonNull<u8>,
}

/// One chunk of raw memory, kept mapped as long as anybody refers to it.
struct Chunk {
    pages: Pages,
    /// Divided into blocks, rather than one large record.
    shared: bool,
}

/// The chunks of an arena as they were at a freeze, for the extractor.
#[derive(Clone)]
pub(super) struct ChunkSet(Arc<Vec<Option<Arc<Chunk>>>>);

/// What is at address 0: no record, and dead, so that no lookup takes it for what it
/// looks for.
static NOTHING: Unit2 = Unit2([TOMBSTONE | FREE, 0, 0, 0]);

/// As large and as aligned as the smallest block.
#[repr(C, align(16))]
struct Unit2([u64; 4]);

const _: () = assert!(size_of::<Unit2>() == MIN_UNITS as usize * UNIT_BYTES);

/// A change of the length of a value: the `remove` bytes at `at` become
/// `insert` bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Splice {
    pub(super) at: usize,
    pub(super) remove: usize,
    pub(super) insert: usize,
}

impl Splice {
    /// The length that a value of `len` bytes comes to.
    ///
    /// # Panics
    /// If what is removed is not there, or no value may be so long.
    fn check(self, len: usize) -> usize {
        let tail = len.checked_sub(self.at).and_then(|rest| rest.checked_sub(self.remove));
        let tail = tail.expect("the removed bytes are there");
        let new_len = self.at + self.insert + tail;
        assert!(new_len <= MAX_STORED_BYTES, "layouts are checked against their limits");
        new_len
    }
}

/// What an arena holds, in bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct ArenaBytes {
    /// Address space mapped for chunks.
    pub(crate) mapped: u64,
    /// Blocks given out, headers and slack included.
    pub(crate) used: u64,
    /// Blocks waiting to be used again.
    pub(crate) free: u64,
}

/// See the [module documentation](self).
pub(super) struct Arena {
    /// For every chunk what the bytes of an address, its chunk number included,
    /// are added to: the one load between an address and its record. Chunk 0
    /// is [`NOTHING`], so that address 0 may be looked at and no record has it.
    bases: Vec<*mut u8>,
    /// Owners of the same chunks, shared with frozen epochs.
    chunks: Arc<Vec<Option<Arc<Chunk>>>>,
    /// First unit never given out, and capacity, of the chunk being filled.
    bump_chunk: usize,
    bump_unit: u32,
    bump_end: u32,
    /// Numbers of chunks that are gone and may be given to new ones.
    vacant: Vec<u32>,
    free: FreeLists,
    /// Chunk and unit where the next sweep goes on.
    sweep: (usize, u32),
    /// The chunk that is being emptied.
    leaving: Leaving,
    /// Bytes of an ordinary chunk.
    chunk_bytes: usize,
    pool: Arc<PagePool>,
    bytes: ArenaBytes,
    /// How often a block was given back or its record moved: whoever has kept a
    /// [`Block`] must not look at it after that.
    moves: u64,
}

// SAFETY: the raw pointers in `bases` point into chunks owned by `chunks`, and
// by invariant 3 nobody but the owner of the arena writes through them, so the
// arena may move to another thread like the memory it owns.
unsafe impl Send for Arena {}

impl Arena {
    pub(super) fn new(pool: Arc<PagePool>) -> Self {
        Self {
            bases: vec![(&raw const NOTHING).cast::<u8>().cast_mut()],
            chunks: Arc::new(vec![None]),
            bump_chunk: 0,
            bump_unit: 0,
            bump_end: 0,
            vacant: Vec::new(),
            free: FreeLists::new(),
            sweep: (1, 0),
            leaving: Leaving::default(),
            chunk_bytes: pool.chunk_bytes().min(CHUNK_BYTES),
            pool,
            bytes: ArenaBytes::default(),
            moves: 0,
        }
    }

    /// How often a block was given back, or its record moved to another.
    #[inline(always)]
    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    /// Notes that the record of a block, which stays for its extractor, has
    /// moved to another.
    #[inline]
    pub(super) fn note_move(&mut self) {
        self.moves += 1;
    }

    /// Where its chunks come from.
    pub(super) fn pool(&self) -> &Arc<PagePool> {
        &self.pool
    }

    pub(super) fn bytes(&self) -> ArenaBytes {
        self.bytes
    }

    /// The chunks as they are now. Constant time.
    pub(super) fn chunk_set(&self) -> ChunkSet {
        ChunkSet(Arc::clone(&self.chunks))
    }

    #[inline(always)]
    pub(super) fn block(&self, addr: Addr) -> Block {
        debug_assert!(addr.0 == 0 || self.chunks[addr.chunk()].is_some());
        // SAFETY: `addr` is the start of a block (invariant 1) or zero, so its
        // chunk has a base, and what is added to that leads into a mapping or
        // to `NOTHING`, neither of which is at zero.
        let ptr = unsafe {
            let base = *self.bases.get_unchecked(addr.chunk());
            NonNull::new_unchecked(base.wrapping_add(addr.0 as usize * UNIT_BYTES))
        };
        Block { ptr }
    }

    /// Asks the processor to fetch the start of a record.
    #[inline(always)]
    pub(super) fn prefetch(&self, block: Block) {
        prefetch_read(block.ptr.as_ptr());
    }

    #[inline(always)]
    pub(super) fn header(&self, block: Block) -> Header {
        let words = block.ptr.cast::<u64>();
        // SAFETY: a block is at least 16 bytes and 16-byte aligned, so both
        // words are inside it and aligned; nobody writes them meanwhile,
        // since writing takes `&mut self`.
        unsafe { Header::read(words.read(), || words.add(1).read()) }
    }

    #[inline(always)]
    fn set_header(&mut self, block: Block, header: Header) {
        let words = block.ptr.cast::<u64>();
        // SAFETY: as in `header`; we have `&mut self`, and the callers keep
        // invariant 3.
        unsafe {
            let (a, b) = header.words();
            words.write(a);
            if let Some(b) = b {
                words.add(1).write(b);
            }
        }
    }

    /// Whether a record is the one that `probe` looks for.
    #[inline(always)]
    pub(super) fn is(&self, block: Block, probe: &Probe<'_>) -> bool {
        let header = self.header(block);
        if !header.names(probe) {
            return false;
        }
        if header.is_namespaced() {
            return self.key_and_namespace(block) == (probe.key, probe.namespace);
        }
        // SAFETY: by invariant 2 the key lies inside the block, behind the
        // header; it has the length of the probed one, and readers hold
        // `&self`.
        let key = unsafe {
            slice::from_raw_parts(block.ptr.add(header.bytes()).as_ptr(), probe.key.len())
        };
        same_bytes(key, probe.key)
    }

    /// Whether a record is live and has this key and namespace, and this group if
    /// one is given; if so, how far its epoch is from that in `also`
    /// ([`Pattern::live`]).
    ///
    /// Wide records are told apart by a branch, which the processor foresees: an
    /// offset computed from the header would have to wait for it.
    #[inline(always)]
    pub(super) fn matches(
        &self,
        block: Block,
        also: u64,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> Option<Apart> {
        let pattern = Pattern::live(also, group, key, namespace);
        // SAFETY: a block is at least 16 bytes and 16-byte aligned.
        let a = unsafe { block.ptr.cast::<u64>().read() };
        let Some(apart) = pattern.matches(a).filter(|_| key.len() <= SMALL_KEY_BYTES) else {
            return self.matches_wide(block, also, group, key, namespace);
        };
        // SAFETY: the pattern matched, so this is a small record with a key of the
        // wanted length, and with a namespace if the wanted one is not empty.
        let same = unsafe { self.has_at(block, SMALL_HEADER_BYTES, key, namespace) };
        same.then_some(apart)
    }

    // Takes what it needs in registers, lest the pattern must lie in memory.
    #[inline(never)]
    fn matches_wide(
        &self,
        block: Block,
        also: u64,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> Option<Apart> {
        let header = self.header(block);
        let apart = Pattern::live(also, group, key, namespace).matches_wide(header)?;
        if header.key_len() != key.len() {
            return None;
        }
        // SAFETY: the pattern matched, so this is a wide record, with a namespace if
        // the wanted one is not empty; and its key has the wanted length.
        let same = unsafe { self.has_at(block, WIDE_HEADER_BYTES, key, namespace) };
        same.then_some(apart)
    }

    /// Whether a record with a header of so many bytes has this key and namespace.
    ///
    /// # Safety
    /// The record has such a header, a key of that length, and a namespace if this
    /// one is not empty.
    #[inline(always)]
    unsafe fn has_at(
        &self,
        block: Block,
        header_bytes: usize,
        key: &[u8],
        namespace: &[u8],
    ) -> bool {
        let mut at = header_bytes;
        // SAFETY: by invariant 2 key and namespace lie inside the block, behind the
        // header and, with a namespace, its length, which is compared before it is
        // read.
        unsafe {
            if !namespace.is_empty() {
                let len = block.ptr.add(at).cast::<u32>().read() as usize;
                if len != namespace.len() {
                    return false;
                }
                at += NAMESPACE_LEN_BYTES;
                let stored = slice::from_raw_parts(block.ptr.add(at + key.len()).as_ptr(), len);
                if !same_bytes(stored, namespace) {
                    return false;
                }
            }
            same_bytes(slice::from_raw_parts(block.ptr.add(at).as_ptr(), key.len()), key)
        }
    }

    /// The value of a record that has this key and namespace, as the caller
    /// knows from [`matches`](Self::matches) or [`is`](Self::is).
    #[inline(always)]
    pub(super) fn value_of(&self, block: Block, key: &[u8], namespace: &[u8]) -> &[u8] {
        let (at, len) = self.value_place(block, key, namespace);
        // SAFETY: by invariant 2 the value lies inside the block; the slice
        // borrows `self`, so nobody writes it meanwhile.
        unsafe { NonNull::slice_from_raw_parts(at, len).as_ref() }
    }

    /// The same, to be changed in place. The caller has made sure that the
    /// record is not part of a frozen epoch (invariant 3).
    #[inline(always)]
    pub(super) fn value_of_mut(&mut self, block: Block, key: &[u8], namespace: &[u8]) -> &mut [u8] {
        let (at, len) = self.value_place(block, key, namespace);
        // SAFETY: as in `value_of`, and we have `&mut self`; no extractor
        // reads the block (invariant 3).
        unsafe { NonNull::slice_from_raw_parts(at, len).as_mut() }
    }

    /// Where the value of a record with this key and namespace is.
    #[inline(always)]
    fn value_place(&self, block: Block, key: &[u8], namespace: &[u8]) -> (NonNull<u8>, usize) {
        let header = self.header(block);
        if header.is_wide() {
            return self.wide_value_place(block, key, namespace);
        }
        let offset = SMALL_HEADER_BYTES + stored_bytes(key, namespace);
        debug_assert_eq!(offset, self.value_offset(block, header));
        // SAFETY: key and namespace are those of the record, so the offset is
        // that of its value, inside the block by invariant 2.
        let at = unsafe { block.ptr.add(offset) };
        (at, header.value_len())
    }

    // Apart, so that it is a branch and not an offset that waits for the header.
    #[cold]
    #[inline(never)]
    fn wide_value_place(&self, block: Block, key: &[u8], namespace: &[u8]) -> (NonNull<u8>, usize) {
        let header = self.header(block);
        let offset = WIDE_HEADER_BYTES + stored_bytes(key, namespace);
        debug_assert_eq!(offset, self.value_offset(block, header));
        // SAFETY: as in `value_place`.
        let at = unsafe { block.ptr.add(offset) };
        (at, header.value_len())
    }

    /// Bytes of the block in front of the value.
    #[inline(always)]
    fn value_offset(&self, block: Block, header: Header) -> usize {
        let offset = header.bytes() + header.key_len();
        if !header.is_namespaced() {
            return offset;
        }
        // SAFETY: the flag says that a length follows the header.
        let len = unsafe { block.ptr.add(header.bytes()).cast::<u32>().read() };
        offset + NAMESPACE_LEN_BYTES + len as usize
    }

    /// Key and namespace of a record.
    #[inline]
    pub(super) fn key_and_namespace(&self, block: Block) -> (&[u8], &[u8]) {
        let header = self.header(block);
        // SAFETY: by invariant 2 key and namespace lie inside the block.
        unsafe {
            let mut at = block.ptr.add(header.bytes());
            let mut namespace_len = 0;
            if header.is_namespaced() {
                namespace_len = at.cast::<u32>().read() as usize;
                at = at.add(NAMESPACE_LEN_BYTES);
            }
            (
                slice::from_raw_parts(at.as_ptr(), header.key_len()),
                slice::from_raw_parts(at.add(header.key_len()).as_ptr(), namespace_len),
            )
        }
    }

    /// Whether a value of `value_len` bytes fits the block of this record,
    /// without wasting more than half of a block worth saving.
    #[inline]
    pub(super) fn fits(&self, block: Block, value_len: usize) -> bool {
        let header = self.header(block);
        let needed = self.value_offset(block, header) + value_len;
        let capacity = header.capacity_bytes();
        header.can_say(value_len)
            && needed <= capacity
            && (capacity <= 8 * UNIT_BYTES || needed * 2 > capacity)
    }

    /// Marks a record as changed in `epoch`, no longer fresh.
    #[inline]
    pub(super) fn touch(&mut self, block: Block, epoch: Epoch) {
        self.set_header(block, self.header(block).touched(epoch));
    }

    /// Replaces the value in place; it fits. Clears a tombstone.
    #[inline]
    pub(super) fn write_value(&mut self, block: Block, value: &[u8]) {
        let header = self.header(block);
        let offset = self.value_offset(block, header);
        debug_assert!(offset + value.len() <= header.capacity_bytes());
        self.set_header(block, header.without(TOMBSTONE).with_value_len(value.len()));
        // SAFETY: the caller checked `fits`, so the bytes end inside the
        // block; `value` cannot overlap it, since the caller's slice borrows
        // something else while we hold `&mut self`.
        unsafe {
            block.ptr.add(offset).as_ptr().copy_from_nonoverlapping(value.as_ptr(), value.len());
        }
    }

    /// Whether a value of `value_len` bytes fits the block of this record at
    /// all, and whether it would leave most of a large block unused.
    pub(super) fn room_for(&self, block: Block, value_len: usize) -> (bool, bool) {
        let header = self.header(block);
        let needed = self.value_offset(block, header) + value_len;
        let capacity = header.capacity_bytes();
        let fits = needed <= capacity && header.can_say(value_len);
        (fits, capacity > 8 * UNIT_BYTES && needed * 4 < capacity)
    }

    /// Changes the length of a part of the value in place: the new value fits.
    /// What is inserted may have any content.
    pub(super) fn splice_value(&mut self, block: Block, splice: Splice) {
        let header = self.header(block);
        let offset = self.value_offset(block, header);
        let new_len = splice.check(header.value_len());
        assert!(
            offset + new_len <= header.capacity_bytes() && header.can_say(new_len),
            "the caller has asked for room"
        );
        let Splice { at, remove, insert } = splice;
        // SAFETY: `check` has seen that what is removed lies inside the value,
        // which lies inside the block (invariant 2), and by the assertion the
        // new value does too; memory of a chunk is always initialised. We have
        // `&mut self`, and the callers keep invariant 3.
        unsafe {
            let from = block.ptr.add(offset + at + remove);
            let to = block.ptr.add(offset + at + insert);
            to.copy_from(from, header.value_len() - at - remove);
        }
        self.set_header(block, header.with_value_len(new_len));
    }

    /// Makes the value of a record, which has this key and namespace, `by` bytes
    /// longer, if its block has the room. What is added may have any content.
    #[inline(always)]
    pub(super) fn extend_value(
        &mut self,
        block: Block,
        key: &[u8],
        namespace: &[u8],
        by: usize,
    ) -> bool {
        let header = self.header(block);
        let len = header.value_len().saturating_add(by);
        let needed = (header.bytes() + stored_bytes(key, namespace)).saturating_add(len);
        if needed > header.capacity_bytes() || len > MAX_STORED_BYTES || !header.can_say(len) {
            return false;
        }
        self.set_header(block, header.with_value_len(len));
        true
    }

    /// Copies a record, its epoch and flags included, with its value spliced
    /// and with `slack` bytes of room behind it. The old block stays as it is.
    pub(super) fn copy_spliced(
        &mut self,
        from: Block,
        splice: Splice,
        slack: usize,
    ) -> Result<(Addr, Block)> {
        let header = self.header(from);
        let offset = self.value_offset(from, header);
        let new_len = splice.check(header.value_len());
        // In front of the value, header excluded.
        let front = offset - header.bytes();
        let lens = ValueLens { len: new_len, longest: new_len + slack };
        let (addr, to, units) = self.allocate_record(header.key_len(), front, lens)?;
        let moved = header.moved(lens, units);
        let Splice { at, remove, insert } = splice;
        // SAFETY: `check` has seen that what is removed lies inside the value,
        // so both parts read lie inside the old block, which is not free and so
        // is not the new one; the new block was allocated for all of it, a header
        // of the length that `moved` has included.
        unsafe {
            let head = to.ptr.add(moved.bytes());
            head.copy_from_nonoverlapping(from.ptr.add(header.bytes()), front + at);
            let tail = from.ptr.add(offset + at + remove);
            let behind = head.add(front + at + insert);
            behind.copy_from_nonoverlapping(tail, header.value_len() - at - remove);
        }
        self.set_header(to, moved);
        Ok((addr, to))
    }

    /// Notes that nobody asked for a record lately; no extractor reads it.
    #[inline]
    pub(super) fn cool(&mut self, block: Block) {
        self.set_header(block, self.header(block).with(COLD));
    }

    /// Notes that somebody asked for a record.
    #[inline]
    pub(super) fn warm(&mut self, block: Block) {
        let header = self.header(block);
        if header.has(COLD) {
            self.set_header(block, header.without(COLD));
        }
    }

    /// Turns a record into a tombstone in place.
    #[inline]
    pub(super) fn bury(&mut self, block: Block) {
        self.set_header(block, self.header(block).with(TOMBSTONE).with_value_len(0));
    }

    /// Writes a new record, a tombstone if there is no `value`, and returns
    /// where it is. `fresh` is [`FRESH`] or zero, `slack` spare room for the
    /// value to grow, in bytes.
    pub(super) fn create(
        &mut self,
        probe: &Probe<'_>,
        value: Option<&[u8]>,
        fresh: u64,
        epoch: Epoch,
        slack: usize,
    ) -> Result<(Addr, Block)> {
        let tombstone = if value.is_none() { TOMBSTONE } else { 0 };
        let value = value.unwrap_or_default();
        let (key_len, front) = (probe.key.len(), stored_bytes(probe.key, probe.namespace));
        let lens = ValueLens { len: value.len(), longest: value.len() + slack };
        let (addr, block, units) = self.allocate_record(key_len, front, lens)?;
        let header = Header::of_record(probe, epoch, tombstone | fresh, lens, units);
        self.set_header(block, header);
        // SAFETY: `allocate` gave a block of at least the bytes written here,
        // and nobody else knows it yet.
        unsafe {
            let mut at = block.ptr.add(header.bytes()).as_ptr();
            if header.is_namespaced() {
                at.cast::<u32>().write(probe.namespace.len() as u32);
                at = at.add(NAMESPACE_LEN_BYTES);
            }
            at.copy_from_nonoverlapping(probe.key.as_ptr(), probe.key.len());
            at = at.add(probe.key.len());
            at.copy_from_nonoverlapping(probe.namespace.as_ptr(), probe.namespace.len());
            at = at.add(probe.namespace.len());
            at.copy_from_nonoverlapping(value.as_ptr(), value.len());
        }
        Ok((addr, block))
    }

    /// Copies a record as it is into a new block of the same capacity. The
    /// copy belongs to `epoch` and is not fresh.
    pub(super) fn copy(&mut self, from: Block, epoch: Epoch) -> Result<(Addr, Block)> {
        let (addr, to) = self.copy_as_it_is(from)?;
        self.touch(to, epoch);
        Ok((addr, to))
    }

    /// Copies a record, its epoch and flags included, into a new block of the same
    /// capacity.
    pub(super) fn copy_as_it_is(&mut self, from: Block) -> Result<(Addr, Block)> {
        let header = self.header(from);
        let body = self.value_offset(from, header) - header.bytes() + header.value_len();
        let (addr, to, units) = self.allocate(header.capacity_bytes())?;
        let moved = header.moved(ValueLens::exactly(header.value_len()), units);
        // SAFETY: the old block has `body` bytes behind its header. If the new one
        // has another header, then because it has at least a unit more, which is
        // more than headers differ by. It is not the old one, since that is not
        // free.
        unsafe {
            let head = to.ptr.add(moved.bytes());
            head.copy_from_nonoverlapping(from.ptr.add(header.bytes()), body);
        }
        self.set_header(to, moved);
        Ok((addr, to))
    }

    /// Gives a block back. The caller has removed every reference to it, and
    /// no unextracted epoch holds it.
    pub(super) fn release(&mut self, addr: Addr) {
        self.moves += 1;
        let units = self.header(self.block(addr)).capacity_units();
        let bytes = u64::from(units) * UNIT_BYTES as u64;
        self.bytes.used -= bytes;
        let chunk = addr.chunk();
        // The test of the size saves the look at the chunk for nearly all.
        if units as usize > LEAST_ALONE_BYTES / UNIT_BYTES
            && self.chunks[chunk].as_ref().is_some_and(|chunk| !chunk.shared)
        {
            self.bytes.mapped -= bytes;
            self.bases[chunk] = std::ptr::null_mut();
            Arc::make_mut(&mut self.chunks)[chunk] = None;
            self.vacant.push(chunk as u32);
            return;
        }
        self.bytes.free += bytes;
        if self.leaving.has_passed(addr) {
            self.note_left(units);
            return;
        }
        self.add_free(addr, units);
    }

    // Free blocks. Their links live in the blocks themselves; the heads of the
    // lists in `FreeLists`.

    fn links(&self, addr: Addr) -> (u32, u32) {
        let ptr = self.block(addr).ptr.cast::<u32>();
        // SAFETY: a listed free block has at least 32 bytes; the links are
        // two words behind the header.
        unsafe { (ptr.add(4).read(), ptr.add(5).read()) }
    }

    fn set_next(&mut self, addr: Addr, next: u32) {
        // SAFETY: as in `links`; free blocks belong to the writer alone.
        unsafe { self.block(addr).ptr.cast::<u32>().add(4).write(next) }
    }

    fn set_previous(&mut self, addr: Addr, previous: u32) {
        // SAFETY: as in `links`; free blocks belong to the writer alone.
        unsafe { self.block(addr).ptr.cast::<u32>().add(5).write(previous) }
    }
}

impl ChunkSet {
    /// The bytes of a record in a frozen epoch, header included, value
    /// included, slack not.
    ///
    /// The caller is the extractor of that epoch and `addr` is in its dirty
    /// map: by invariant 3 the writer does not change the block until the
    /// extraction is published.
    #[inline]
    pub(super) fn record_bytes(&self, addr: Addr) -> &[u8] {
        let ptr = self.ptr(addr);
        // SAFETY: by invariant 1 `addr` is a block of a chunk in this set, by
        // invariant 2 the record ends inside it, by invariant 3 nobody writes
        // it, and the set keeps the chunk mapped.
        unsafe {
            let words = ptr.cast::<u64>();
            let header = Header::read(words.read(), || words.add(1).read());
            let mut len = header.bytes() + header.key_len() + header.value_len();
            if header.is_namespaced() {
                len += NAMESPACE_LEN_BYTES + ptr.add(header.bytes()).cast::<u32>().read() as usize;
            }
            slice::from_raw_parts(ptr, len)
        }
    }

    /// Asks the processor to fetch a record that will be read soon.
    #[inline]
    pub(super) fn prefetch(&self, addr: Addr) {
        let ptr = self.ptr(addr);
        prefetch_read(ptr);
        prefetch_read(ptr.wrapping_add(64));
    }

    #[inline]
    fn ptr(&self, addr: Addr) -> *const u8 {
        let chunk = self.0[addr.chunk()].as_ref().expect("a dirty record's chunk is in the set");
        chunk.pages.as_ptr().wrapping_add(addr.unit() as usize * UNIT_BYTES)
    }
}

/// Equality without a call for the short keys that most states have.
#[inline]
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let len = a.len();
    if len != b.len() {
        return false;
    }
    let word = |s: &[u8], at: usize| {
        u64::from_ne_bytes(s[at..at + 8].try_into().expect("eight bytes were taken"))
    };
    if (8..=16).contains(&len) {
        word(a, 0) == word(b, 0) && word(a, len - 8) == word(b, len - 8)
    } else {
        a == b
    }
}
