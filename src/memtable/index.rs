//! The hash index: from a hash to the address of a record, in one cache line.
//!
//! Extendible hashing in small steps. The top bits of a hash choose, through
//! the directory, a *segment* of [`BUCKETS`] buckets; the next bits a bucket;
//! eight more are the tag. A bucket is one cache line:
//!
//! ```text
//! | tags 12 x u8 | passed u32 | addresses 12 x u32 |
//! ```
//!
//! A tag of zero is an empty slot. `passed` counts the records that belong in
//! this bucket or an earlier one but were stored in a later one, because this
//! was full; a search goes on to the next bucket only if it is not zero.
//!
//! A segment that is four fifths full is split in two; that moves about 1,200
//! records and is the most work a single insert can cause (tens of
//! microseconds), however large the index is. The directory doubles now and
//! then: 4 bytes for each 1,500 slots.
//!
//! The index keeps no keys. It asks its caller whether an address is the right
//! one, and for the hash of an address when it splits.

#![allow(
    unsafe_code,
    reason = "buckets live in anonymous pages, so that they are on huge pages; one function turns pages into a slice of buckets"
)]

use std::slice;
use std::sync::Arc;

use crate::base::{Error, Result};
use crate::env::mmap::{Pages, prefetch_read};
use crate::env::pages::PagePool;

use super::arena::Addr;

const SLOTS: usize = 12;
/// Buckets in a segment: 8 KiB, so that a split stays in the tens of
/// microseconds and a directory entry serves 1,536 slots.
const BUCKETS: usize = 128;
const BUCKET_MASK: usize = BUCKETS - 1;
const SEGMENT_BYTES: usize = BUCKETS * size_of::<Bucket>();
/// Records in a segment at which it is split: four fifths of its slots. More
/// would make searches pass full buckets, less would waste memory.
const SPLIT_AT: u32 = (BUCKETS * SLOTS * 4 / 5) as u32;
/// Most bits of the hash that the directory uses.
const MAX_DEPTH: u32 = 26;
const SEGMENTS_PER_PAGE: usize = (2 << 20) / SEGMENT_BYTES;
/// Segments on the first page, which is small enough to be mapped lazily.
const SEGMENTS_ON_FIRST_PAGE: usize = SEGMENTS_PER_PAGE / 2;

#[derive(Clone)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u8; SLOTS],
    passed: u32,
    addrs: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Self = Self { tags: [0; SLOTS], passed: 0, addrs: [0; SLOTS] };

    /// One bit for each slot whose tag is `tag`.
    #[inline]
    fn matching(&self, tag: u8) -> u32 {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{
                _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8,
            };
            let low = u64::from_ne_bytes(self.tags[..8].try_into().expect("eight tags"));
            let high = u32::from_ne_bytes(self.tags[8..].try_into().expect("four tags"));
            // SSE2 is part of x86-64, and these intrinsics touch no memory.
            #[allow(
                unused_unsafe,
                reason = "needed by compilers before intrinsics without pointers became safe"
            )]
            // SAFETY: SSE2 is always there on x86-64.
            let mask = unsafe {
                let tags = _mm_set_epi64x(i64::from(high), low as i64);
                _mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8(tag as i8)))
            };
            mask as u32 & ((1 << SLOTS) - 1)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let mut mask = 0;
            for (slot, &found) in self.tags.iter().enumerate() {
                mask |= u32::from(found == tag) << slot;
            }
            mask
        }
    }
}

/// Two megabytes (the first: one) of segments.
struct BucketPage(Pages);

impl BucketPage {
    #[inline]
    fn buckets(&self) -> &[Bucket] {
        // SAFETY: the pages are zeroed, aligned to 64 bytes and more, as long
        // as said, and owned by this value; a zeroed bucket is a valid one.
        unsafe { slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() / size_of::<Bucket>()) }
    }

    #[inline]
    fn buckets_mut(&mut self) -> &mut [Bucket] {
        // SAFETY: as in `buckets`, and `&mut self` makes the slice the only
        // one.
        unsafe {
            slice::from_raw_parts_mut(self.0.as_ptr().cast(), self.0.len() / size_of::<Bucket>())
        }
    }
}

/// Where an address is stored. Valid until the index is changed.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    page: u32,
    bucket: u32,
    slot: u32,
}

#[derive(Clone, Copy)]
struct Segment {
    depth: u32,
    used: u32,
}

/// See the [module documentation](self).
pub(super) struct Index {
    /// Segment numbers, by the top `depth` bits of the hash.
    directory: Vec<u32>,
    depth: u32,
    pages: Vec<BucketPage>,
    segments: Vec<Segment>,
    len: u64,
    pool: Arc<PagePool>,
    /// Records on the move during a split; kept to save its allocation.
    moving: Vec<(u64, u32)>,
}

#[inline]
fn home_of(hash: u64) -> usize {
    (hash >> 32) as usize & BUCKET_MASK
}

#[inline]
fn tag_of(hash: u64) -> u8 {
    ((hash >> (32 + BUCKETS.trailing_zeros())) as u8).max(1)
}

impl Index {
    pub(super) fn new(pool: Arc<PagePool>) -> Self {
        Self {
            directory: Vec::new(),
            depth: 0,
            pages: Vec::new(),
            segments: Vec::new(),
            len: 0,
            pool,
            moving: Vec::new(),
        }
    }

    /// Number of records.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes taken by buckets and directory.
    pub(super) fn bytes(&self) -> u64 {
        (self.segments.len() * SEGMENT_BYTES + self.directory.len() * 4) as u64
    }

    #[inline]
    fn segment_of(&self, hash: u64) -> usize {
        // Two shifts, because a shift by 64 is none.
        let top = hash >> 1 >> (63 - self.depth);
        self.directory[top as usize] as usize
    }

    #[inline]
    fn base_of(segment: usize) -> (usize, usize) {
        (segment / SEGMENTS_PER_PAGE, segment % SEGMENTS_PER_PAGE * BUCKETS)
    }

    /// Asks the processor for the bucket of `hash`.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        if self.len == 0 {
            return;
        }
        let (page, base) = Self::base_of(self.segment_of(hash));
        let bucket = &self.pages[page].buckets()[base + home_of(hash)];
        prefetch_read(std::ptr::from_ref(bucket).cast());
    }

    /// The first address in the bucket of `hash` with its tag: most probably
    /// the record, and good enough to prefetch.
    #[inline]
    pub(super) fn likely(&self, hash: u64) -> Option<Addr> {
        if self.len == 0 {
            return None;
        }
        let (page, base) = Self::base_of(self.segment_of(hash));
        let bucket = &self.pages[page].buckets()[base + home_of(hash)];
        let mask = bucket.matching(tag_of(hash));
        (mask != 0).then(|| Addr(bucket.addrs[mask.trailing_zeros() as usize]))
    }

    /// Looks for the record with `hash` that `is_it` recognises.
    #[inline]
    pub(super) fn find(
        &self,
        hash: u64,
        mut is_it: impl FnMut(Addr) -> bool,
    ) -> Option<(Slot, Addr)> {
        if self.len == 0 {
            return None;
        }
        let (page, base) = Self::base_of(self.segment_of(hash));
        let buckets = &self.pages[page].buckets()[base..base + BUCKETS];
        let tag = tag_of(hash);
        let mut at = home_of(hash);
        for _ in 0..BUCKETS {
            let bucket = &buckets[at];
            let mut mask = bucket.matching(tag);
            while mask != 0 {
                let slot = mask.trailing_zeros() as usize;
                let addr = Addr(bucket.addrs[slot]);
                if is_it(addr) {
                    let slot =
                        Slot { page: page as u32, bucket: (base + at) as u32, slot: slot as u32 };
                    return Some((slot, addr));
                }
                mask &= mask - 1;
            }
            if bucket.passed == 0 {
                return None;
            }
            at = (at + 1) & BUCKET_MASK;
        }
        None
    }

    /// Points a slot at the new place of its record.
    #[inline]
    pub(super) fn replace(&mut self, slot: Slot, addr: Addr) {
        let bucket = &mut self.pages[slot.page as usize].buckets_mut()[slot.bucket as usize];
        bucket.addrs[slot.slot as usize] = addr.0;
    }

    /// Makes sure that the next [`insert`](Self::insert) of `hash` has room,
    /// splitting its segment if need be. `hash_of` gives the hash of a stored
    /// address, `prefetch` may fetch it beforehand.
    pub(super) fn reserve(
        &mut self,
        hash: u64,
        hash_of: impl Fn(Addr) -> u64,
        prefetch: impl Fn(Addr),
    ) -> Result<()> {
        if self.directory.is_empty() {
            let first = self.add_segment(0)?;
            self.directory.push(first as u32);
        }
        loop {
            let segment = self.segment_of(hash);
            let Segment { depth, used } = self.segments[segment];
            if used < SPLIT_AT {
                return Ok(());
            }
            // Far more bits than the number of records calls for means that
            // the keys share their hash bits: splitting on would not help.
            let useful = (64 - (self.len / u64::from(SPLIT_AT)).leading_zeros() + 6).min(MAX_DEPTH);
            if depth < useful {
                self.split(segment, hash, &hash_of, &prefetch)?;
            } else if used < (BUCKETS * SLOTS) as u32 {
                return Ok(());
            } else {
                return Err(Error::invalid(
                    "too many keys of a state share the bits of their hash",
                )
                .expected("keys whose xxh3 hashes are spread")
                .found(format_args!("{used} keys with the same top {depth} bits"))
                .remedy("check where the keys come from: this does not happen by chance"));
            }
        }
    }

    /// Adds a record that is not there yet, after [`reserve`](Self::reserve).
    #[inline]
    pub(super) fn insert(&mut self, hash: u64, addr: Addr) -> Slot {
        let segment = self.segment_of(hash);
        let (page, base) = Self::base_of(segment);
        let buckets = &mut self.pages[page].buckets_mut()[base..base + BUCKETS];
        let (at, slot) = place(buckets, hash, addr.0);
        self.segments[segment].used += 1;
        self.len += 1;
        Slot { page: page as u32, bucket: (base + at) as u32, slot: slot as u32 }
    }

    /// Takes a record out.
    pub(super) fn remove(&mut self, hash: u64, slot: Slot) {
        let segment = self.segment_of(hash);
        let (page, base) = Self::base_of(segment);
        debug_assert_eq!(page, slot.page as usize);
        let buckets = &mut self.pages[page].buckets_mut()[base..base + BUCKETS];
        let stored = slot.bucket as usize - base;
        buckets[stored].tags[slot.slot as usize] = 0;
        let mut at = home_of(hash);
        while at != stored {
            buckets[at].passed -= 1;
            at = (at + 1) & BUCKET_MASK;
        }
        self.segments[segment].used -= 1;
        self.len -= 1;
    }

    /// Every address, in no particular order.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> impl Iterator<Item = Addr> {
        self.pages.iter().flat_map(|page| page.buckets()).flat_map(|bucket| {
            (0..SLOTS).filter(|&slot| bucket.tags[slot] != 0).map(|slot| Addr(bucket.addrs[slot]))
        })
    }

    fn add_segment(&mut self, depth: u32) -> Result<usize> {
        let mut number = self.segments.len();
        if number == SEGMENTS_ON_FIRST_PAGE {
            // The numbers of the missing half of the first page are skipped.
            self.segments.resize(SEGMENTS_PER_PAGE, Segment { depth: 0, used: 0 });
            number = SEGMENTS_PER_PAGE;
        }
        if Self::base_of(number).0 == self.pages.len() {
            let pages = if self.pages.is_empty() {
                Pages::new(SEGMENTS_ON_FIRST_PAGE * SEGMENT_BYTES)
            } else {
                self.pool.take()
            };
            self.pages.push(BucketPage(pages.map_err(|source| {
                Error::io("no memory for the index could be mapped", source)
                    .remedy("free memory, or spread the job over more shards")
            })?));
        }
        self.segments.push(Segment { depth, used: 0 });
        Ok(number)
    }

    fn split(
        &mut self,
        segment: usize,
        hash: u64,
        hash_of: &impl Fn(Addr) -> u64,
        prefetch: &impl Fn(Addr),
    ) -> Result<()> {
        let depth = self.segments[segment].depth;
        if depth == self.depth {
            // Every entry twice: the new lowest bit does not matter yet.
            self.directory = self.directory.iter().flat_map(|&entry| [entry, entry]).collect();
            self.depth += 1;
        }
        let sibling = self.add_segment(depth + 1)?;
        self.segments[segment].depth = depth + 1;

        // The directory entries of the segment are neighbours: the upper half
        // of them goes to the sibling.
        let span = 1_usize << (self.depth - depth);
        let top = (hash >> 1 >> (63 - self.depth)) as usize;
        let first = top & !(span - 1);
        for entry in &mut self.directory[first + span / 2..first + span] {
            *entry = sibling as u32;
        }

        let mut moving = std::mem::take(&mut self.moving);
        moving.clear();
        let (page, base) = Self::base_of(segment);
        for bucket in &mut self.pages[page].buckets_mut()[base..base + BUCKETS] {
            for slot in 0..SLOTS {
                if bucket.tags[slot] != 0 {
                    moving.push((0, bucket.addrs[slot]));
                }
            }
            *bucket = Bucket::EMPTY;
        }
        // Hashing needs the keys, which are all over the arena: fetch a few
        // ahead, so that their misses overlap.
        const AHEAD: usize = 16;
        for &(_, addr) in moving.iter().take(AHEAD) {
            prefetch(Addr(addr));
        }
        for at in 0..moving.len() {
            if let Some(&(_, addr)) = moving.get(at + AHEAD) {
                prefetch(Addr(addr));
            }
            moving[at].0 = hash_of(Addr(moving[at].1));
        }
        let bit = 63 - depth;
        let mut used = [0, 0];
        for (side, target) in [(0, segment), (1, sibling)] {
            let (page, base) = Self::base_of(target);
            let buckets = &mut self.pages[page].buckets_mut()[base..base + BUCKETS];
            for &(hash, addr) in moving.iter().filter(|&&(hash, _)| hash >> bit & 1 == side) {
                place(buckets, hash, addr);
                used[side as usize] += 1;
            }
        }
        self.segments[segment].used = used[0];
        self.segments[sibling].used = used[1];
        self.moving = moving;
        Ok(())
    }
}

/// Stores an address in the first bucket from its home on that has room, and
/// says which bucket and slot that is.
/// There is room: a segment is never full when this is called.
#[inline]
fn place(buckets: &mut [Bucket], hash: u64, addr: u32) -> (usize, usize) {
    let mut at = home_of(hash);
    loop {
        let bucket = &mut buckets[at];
        let empty = bucket.matching(0);
        if empty != 0 {
            let slot = empty.trailing_zeros() as usize;
            bucket.tags[slot] = tag_of(hash);
            bucket.addrs[slot] = addr;
            return (at, slot);
        }
        bucket.passed += 1;
        at = (at + 1) & BUCKET_MASK;
    }
}
