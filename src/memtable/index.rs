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
//! The address of an empty slot is zero, and so is its tag. A record may have
//! that tag, too: to look at one more address now and then is cheaper than to
//! avoid it. `passed` counts the records that belong in this bucket or an
//! earlier one but were stored in a later one, because this was full; a search
//! goes on to the next bucket only if it is not zero.
//!
//! A segment that is four fifths full is split in two; that moves about 1,200
//! records and is the most work a single insert can cause (tens of
//! microseconds), however large the index is. The directory doubles now and
//! then: 4 bytes for each 1,500 slots.
//!
//! The index keeps no keys. It asks its caller whether an address, or zero, is
//! the right one, and for the hash of an address when it splits.

#![allow(
    unsafe_code,
    reason = "buckets live in anonymous pages, so that they are on huge pages, and are reached by one load of a pointer and no bounds check"
)]

use std::ops::ControlFlow;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::base::{Error, Result};
use crate::env::mmap::{Pages, prefetch_read};
use crate::env::pages::PagePool;

use super::addr::Addr;

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
    #[inline(always)]
    fn matching(&self, tag: u8) -> u32 {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{
                _mm_cmpeq_epi8, _mm_load_si128, _mm_movemask_epi8, _mm_set1_epi32,
            };
            // One multiplication is shorter than what a byte's own broadcast
            // takes without the instructions of later processors.
            let four = u32::from(tag) * 0x0101_0101;
            // SAFETY: SSE2 is part of x86-64; the bucket begins with sixteen
            // bytes (tags and `passed`), at an address that 64 divides.
            let mask = unsafe {
                let head = _mm_load_si128(std::ptr::from_ref(self).cast());
                _mm_movemask_epi8(_mm_cmpeq_epi8(head, _mm_set1_epi32(four as i32)))
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

/// What the directory of an empty index points at.
static NO_BUCKETS: [Bucket; BUCKETS] = [Bucket::EMPTY; BUCKETS];

/// Where an address is stored. It keeps its meaning until its segment is
/// split or its record removed.
#[derive(Clone, Copy)]
pub(super) struct Slot(NonNull<u32>);

/// Where a walk over all buckets is. It stays good whatever becomes of the index; what
/// is split meanwhile may be met twice, or in the next round.
#[derive(Clone, Copy, Default)]
pub(super) struct Hand {
    segment: u32,
    bucket: u32,
}

/// A bucket, for the short time between asking for it and looking at it.
#[derive(Clone, Copy)]
pub(super) struct LineRef(NonNull<Bucket>);

#[derive(Clone, Copy)]
struct Segment {
    base: NonNull<Bucket>,
    depth: u32,
    used: u32,
}

/// See the [module documentation](self).
pub(super) struct Index {
    /// First buckets of segments, by the top `depth` bits of the hash. Its
    /// length is two to the power of the depth.
    directory: Vec<NonNull<Bucket>>,
    /// 64 less `depth`, which is never zero.
    shift: u32,
    /// Numbers of the same segments.
    numbers: Vec<u32>,
    segments: Vec<Segment>,
    /// What the segments lie in; never unmapped before the index is dropped.
    pages: Vec<Pages>,
    len: u64,
    pool: Arc<PagePool>,
    /// Records on the move during a split; kept to save its allocation.
    moving: Vec<(u64, u32)>,
}

// SAFETY: the pointers lead into `pages`, which the index owns, and into a
// static that is only read.
unsafe impl Send for Index {}

#[inline(always)]
fn home_of(hash: u64) -> usize {
    (hash >> 32) as usize & BUCKET_MASK
}

#[inline(always)]
fn tag_of(hash: u64) -> u8 {
    hash as u8
}

impl Index {
    pub(super) fn new(pool: Arc<PagePool>) -> Self {
        Self {
            directory: vec![NonNull::from(&NO_BUCKETS[0]); 2],
            shift: 63,
            numbers: Vec::new(),
            segments: Vec::new(),
            pages: Vec::new(),
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
        (self.segments.len() * SEGMENT_BYTES
            + self.directory.len() * (size_of::<NonNull<Bucket>>() + size_of::<u32>()))
            as u64
    }

    #[inline(always)]
    fn top(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }

    /// The first bucket of the segment that `hash` belongs in.
    #[inline(always)]
    fn segment_base(&self, hash: u64) -> NonNull<Bucket> {
        // SAFETY: `top` has as many bits as the directory is deep.
        unsafe { *self.directory.get_unchecked(self.top(hash)) }
    }

    /// Asks the processor for the bucket of `hash`.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) -> LineRef {
        let bucket = self.segment_base(hash).as_ptr().wrapping_add(home_of(hash));
        prefetch_read(bucket.cast());
        // SAFETY: a segment has `BUCKETS` buckets and `home_of` is below that,
        // so this is inside it, and no segment is at zero.
        LineRef(unsafe { NonNull::new_unchecked(bucket) })
    }

    /// The first record in the bucket of `hash` that has its tag: most
    /// probably the right one, which only a look at its key can tell.
    #[inline(always)]
    pub(super) fn likely(&self, hash: u64) -> Option<(Slot, Addr)> {
        // SAFETY: a segment has `BUCKETS` buckets and `home_of` is below that;
        // nobody writes them, since that takes `&mut self`; the mask has
        // `SLOTS` bits.
        unsafe {
            let bucket = self.segment_base(hash).add(home_of(hash));
            let mask = bucket.as_ref().matching(tag_of(hash));
            (mask != 0).then(|| slot_of(bucket, mask.trailing_zeros()))
        }
    }

    /// The same in a bucket that was prefetched; zero if there is none. No
    /// branch: between keys of a batch, a mispredicted one costs more.
    #[inline(always)]
    pub(super) fn likely_in(&self, line: LineRef, hash: u64) -> Addr {
        // SAFETY: a line is made by `prefetch`, which points it at a bucket;
        // segments stay mapped, and nobody writes them, since that takes
        // `&mut self`. The number is below `SLOTS`.
        unsafe {
            let mask = line.0.as_ref().matching(tag_of(hash));
            let slot = (mask | 1 << (SLOTS - 1)).trailing_zeros();
            slot_of(line.0, slot).1
        }
    }

    /// Looks in the bucket of `hash` for the record that `recognise` makes
    /// something of. What is not there may be [`beyond`](Self::find_beyond).
    #[inline(always)]
    pub(super) fn find<T>(
        &self,
        hash: u64,
        recognise: impl Fn(Addr) -> Option<T>,
    ) -> Option<(Slot, T)> {
        // SAFETY: a segment has `BUCKETS` buckets and `home_of` is below that;
        // nobody writes them, since that takes `&mut self`; the mask has
        // `SLOTS` bits.
        unsafe {
            let bucket = self.segment_base(hash).add(home_of(hash));
            let mut mask = bucket.as_ref().matching(tag_of(hash));
            while mask != 0 {
                let (slot, addr) = slot_of(bucket, mask.trailing_zeros());
                if let Some(found) = recognise(addr) {
                    return Some((slot, found));
                }
                mask &= mask - 1;
            }
        }
        None
    }

    /// Looks on where [`find`](Self::find) found nothing, if the bucket had no
    /// room for all that belong there: it is so for one record in some thirty.
    #[inline]
    pub(super) fn find_beyond<T>(
        &self,
        hash: u64,
        recognise: impl Fn(Addr) -> Option<T>,
    ) -> Option<(Slot, T)> {
        let base = self.segment_base(hash);
        let home = home_of(hash);
        let mut at = home;
        loop {
            // SAFETY: as in `find`; `at` is below `BUCKETS`.
            unsafe {
                if base.add(at).as_ref().passed == 0 {
                    return None;
                }
                at = (at + 1) & BUCKET_MASK;
                // Only a segment filled to the last slot brings us round.
                if at == home {
                    return None;
                }
                let bucket = base.add(at);
                let mut mask = bucket.as_ref().matching(tag_of(hash));
                while mask != 0 {
                    let (slot, addr) = slot_of(bucket, mask.trailing_zeros());
                    if let Some(found) = recognise(addr) {
                        return Some((slot, found));
                    }
                    mask &= mask - 1;
                }
            }
        }
    }

    /// The address that a slot holds.
    #[inline(always)]
    pub(super) fn addr(&self, slot: Slot) -> Addr {
        // SAFETY: slots are made by `slot_of` and `place` and point into
        // segments, which stay mapped.
        Addr(unsafe { slot.0.read() })
    }

    /// Points a slot, which holds its record, at the new place of that record.
    #[inline]
    pub(super) fn replace(&mut self, slot: Slot, addr: Addr) {
        // SAFETY: as in `addr`; `&mut self` makes us the only one. The static
        // empty segment has no records, so no slot points into it.
        unsafe { slot.0.write(addr.0) }
    }

    /// Makes sure that the next [`insert`](Self::insert) of `hash` has room,
    /// splitting its segment if need be. `hash_of` gives the hash of a stored
    /// address, `prefetch` may fetch it beforehand.
    #[inline]
    pub(super) fn reserve(
        &mut self,
        hash: u64,
        hash_of: impl Fn(Addr) -> u64,
        prefetch: impl Fn(Addr),
    ) -> Result<()> {
        if let Some(&number) = self.numbers.get(self.top(hash))
            && self.segments[number as usize].used < SPLIT_AT
        {
            return Ok(());
        }
        self.make_room(hash, &hash_of, &prefetch)
    }

    #[cold]
    fn make_room(
        &mut self,
        hash: u64,
        hash_of: &impl Fn(Addr) -> u64,
        prefetch: &impl Fn(Addr),
    ) -> Result<()> {
        if self.segments.is_empty() {
            let number = self.add_segment(0)?;
            self.directory.fill(self.segments[number].base);
            self.numbers.resize(self.directory.len(), number as u32);
        }
        loop {
            let number = self.numbers[self.top(hash)] as usize;
            let Segment { depth, used, .. } = self.segments[number];
            if used < SPLIT_AT {
                return Ok(());
            }
            // Far more bits than the number of records calls for means that
            // the keys share their hash bits: splitting on would not help.
            let useful = (64 - (self.len / u64::from(SPLIT_AT)).leading_zeros() + 6).min(MAX_DEPTH);
            if depth < useful {
                self.split(number, hash, hash_of, prefetch)?;
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
        let number = self.numbers[self.top(hash)] as usize;
        let segment = &mut self.segments[number];
        segment.used += 1;
        self.len += 1;
        let base = segment.base;
        // SAFETY: `base` is the start of a segment, we have `&mut self`, and
        // `reserve` has seen to it that there is room.
        unsafe { place(base, hash, addr.0) }
    }

    /// Takes a record out of the slot that holds it.
    pub(super) fn remove(&mut self, hash: u64, slot: Slot) {
        let number = self.numbers[self.top(hash)] as usize;
        let segment = &mut self.segments[number];
        segment.used -= 1;
        self.len -= 1;
        let base = segment.base;
        let offset = slot.0.as_ptr() as usize - base.as_ptr() as usize;
        let stored = offset / size_of::<Bucket>();
        let position = (offset % size_of::<Bucket>() - std::mem::offset_of!(Bucket, addrs)) / 4;
        debug_assert!(stored < BUCKETS, "the slot belongs to the segment of the hash");
        // SAFETY: all indexes are below `BUCKETS`, and we have `&mut self`.
        unsafe {
            let bucket = base.add(stored).as_mut();
            bucket.tags[position] = 0;
            bucket.addrs[position] = 0;
            let mut at = home_of(hash);
            while at != stored {
                base.add(at).as_mut().passed -= 1;
                at = (at + 1) & BUCKET_MASK;
            }
        }
    }

    /// Gives every address, in no particular order, until `visit` breaks.
    pub(super) fn visit(&self, mut visit: impl FnMut(Addr) -> ControlFlow<()>) -> ControlFlow<()> {
        for segment in &self.segments {
            for at in 0..BUCKETS {
                // SAFETY: `at` is below `BUCKETS`, and we have `&self`.
                let bucket = unsafe { segment.base.add(at).as_ref() };
                for &addr in bucket.addrs.iter().filter(|&&addr| addr != 0) {
                    visit(Addr(addr))?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// The slots in use of the bucket at the hand.
    pub(super) fn slots_at(&self, hand: Hand) -> impl Iterator<Item = (Slot, Addr)> + use<> {
        let segment = self.segments.get(hand.segment as usize);
        let bucket = segment.map(|segment| {
            debug_assert!((hand.bucket as usize) < BUCKETS);
            // SAFETY: the number is below `BUCKETS`.
            unsafe { segment.base.add(hand.bucket as usize) }
        });
        let slots = bucket.into_iter().flat_map(|bucket| {
            // SAFETY: as above, and the slots are below `SLOTS`; segments stay mapped,
            // and whoever writes them has `&mut self` and is not meanwhile here.
            (0..SLOTS as u32).map(move |slot| unsafe { slot_of(bucket, slot) })
        });
        slots.filter(|(_, addr)| addr.0 != 0)
    }

    /// The next bucket, and whether it is the first one again.
    pub(super) fn after(&self, hand: Hand) -> (Hand, bool) {
        let Hand { segment, bucket } = hand;
        if bucket as usize + 1 < BUCKETS {
            return (Hand { segment, bucket: bucket + 1 }, false);
        }
        let segment = segment + 1;
        if (segment as usize) < self.segments.len() {
            return (Hand { segment, bucket: 0 }, false);
        }
        (Hand::default(), true)
    }

    fn add_segment(&mut self, depth: u32) -> Result<usize> {
        let number = self.segments.len();
        // The first page is half as large as the others.
        let on_later_pages = number.checked_sub(SEGMENTS_ON_FIRST_PAGE);
        let (page, on_page) = match on_later_pages {
            None => (0, number),
            Some(later) => (1 + later / SEGMENTS_PER_PAGE, later % SEGMENTS_PER_PAGE),
        };
        if page == self.pages.len() {
            let pages = if page == 0 {
                Pages::new(SEGMENTS_ON_FIRST_PAGE * SEGMENT_BYTES)
            } else {
                self.pool.take()
            };
            self.pages.push(pages.map_err(|source| {
                Error::io("no memory for the index could be mapped", source)
                    .remedy("free memory, or spread the job over more shards")
            })?);
        }
        let start = self.pages[page].as_ptr().wrapping_add(on_page * SEGMENT_BYTES);
        let base = NonNull::new(start.cast()).expect("mapped pages are not at zero");
        self.segments.push(Segment { base, depth, used: 0 });
        Ok(number)
    }

    fn split(
        &mut self,
        number: usize,
        hash: u64,
        hash_of: &impl Fn(Addr) -> u64,
        prefetch: &impl Fn(Addr),
    ) -> Result<()> {
        let sibling = self.add_segment(self.segments[number].depth + 1)?;
        let depth = self.segments[number].depth;
        if depth == 64 - self.shift {
            // Every entry twice: the new lowest bit does not matter yet.
            self.directory = self.directory.iter().flat_map(|&entry| [entry, entry]).collect();
            self.numbers = self.numbers.iter().flat_map(|&entry| [entry, entry]).collect();
            self.shift -= 1;
        }
        self.segments[number].depth = depth + 1;

        // The directory entries of the segment are neighbours: the upper half
        // of them goes to the sibling.
        let span = 1_usize << (64 - self.shift - depth);
        let first = self.top(hash) & !(span - 1);
        self.directory[first + span / 2..first + span].fill(self.segments[sibling].base);
        self.numbers[first + span / 2..first + span].fill(sibling as u32);

        let mut moving = std::mem::take(&mut self.moving);
        moving.clear();
        for at in 0..BUCKETS {
            // SAFETY: `at` is below `BUCKETS`, and we have `&mut self`.
            let bucket = unsafe { self.segments[number].base.add(at).as_mut() };
            moving.extend(bucket.addrs.iter().filter(|&&addr| addr != 0).map(|&addr| (0, addr)));
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
        for (side, target) in [(0, number), (1, sibling)] {
            let mut used = 0;
            for &(hash, addr) in moving.iter().filter(|&&(hash, _)| hash >> bit & 1 == side) {
                // SAFETY: the target was emptied, or is new, and gets no more
                // records than the split segment had room for.
                unsafe { place(self.segments[target].base, hash, addr) };
                used += 1;
            }
            self.segments[target].used = used;
        }
        self.moving = moving;
        Ok(())
    }
}

/// A slot of a bucket and the address in it.
///
/// # Safety
/// `bucket` is one of the index, and `slot` is below `SLOTS`.
#[inline(always)]
unsafe fn slot_of(bucket: NonNull<Bucket>, slot: u32) -> (Slot, Addr) {
    // SAFETY: the caller vouches for both; no reference is made, so that the
    // slot may later be written through this pointer.
    unsafe {
        let addr = (&raw mut (*bucket.as_ptr()).addrs).cast::<u32>().add(slot as usize);
        (Slot(NonNull::new_unchecked(addr)), Addr(addr.read()))
    }
}

/// Stores an address in the first bucket from its home on that has room, and
/// says where that is.
///
/// # Safety
/// `base` is the start of a segment that nobody else accesses and that has an
/// empty slot.
#[inline]
unsafe fn place(base: NonNull<Bucket>, hash: u64, addr: u32) -> Slot {
    let mut at = home_of(hash);
    loop {
        // SAFETY: `at` is below `BUCKETS`, and the caller vouches for the rest.
        let bucket = unsafe { base.add(at).as_mut() };
        // Records may have the tag of an empty slot.
        let mut empty = bucket.matching(0);
        while empty != 0 && bucket.addrs[empty.trailing_zeros() as usize] != 0 {
            empty &= empty - 1;
        }
        if empty != 0 {
            let slot = empty.trailing_zeros() as usize;
            bucket.tags[slot] = tag_of(hash);
            bucket.addrs[slot] = addr;
            return Slot(NonNull::from(&mut bucket.addrs[slot]));
        }
        bucket.passed += 1;
        at = (at + 1) & BUCKET_MASK;
    }
}
