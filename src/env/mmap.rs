//! Memory straight from the system: read-only file maps, anonymous pages, and
//! the processor's prefetch instruction.
//!
//! One of the few modules that may use `unsafe`. What has to hold, so that its
//! safe functions are safe:
//!
//! 1. A `FileMap` is made only of files that the engine has written and owns,
//!    in a directory of its own, and such files never change. Nobody writes to
//!    or truncates one while it is mapped; whoever cannot promise that (a
//!    network file system, FUSE, a directory that others write to) must use
//!    [`RealEnv::with_pread`](super::RealEnv::with_pread), which never maps.
//! 2. A map is exactly as long as the file was by `fstat` when it was made, so
//!    no touched page lies wholly behind the end of the file.
//! 3. [`Pages`] hands out a raw pointer and never a reference to its bytes.
//!    Reading, writing and synchronising through that pointer is the owner's
//!    `unsafe` and the owner's proof. The memory stays mapped, zeroed at first
//!    and at the same address, until the `Pages` is dropped.
//!
//! Even a promise that is kept cannot rule out a disk error, which a touch of
//! mapped memory reports by a signal that ends the process. Therefore
//! [`ReadAt::read_at`] and [`ReadAt::make_resident`] first ask the system to
//! fault the range in, which reports the same trouble as an error (Linux 5.14
//! and later). A page may be dropped and fail to come back afterwards, so this
//! makes the signal rare, not impossible.

#![allow(
    unsafe_code,
    reason = "mapping files and prefetching have no safe interface; the invariants are listed above"
)]

mod page_vec;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;

use memmap2::{Advice, Mmap, MmapOptions, MmapRaw};

use super::ReadAt;
use super::polled::PolledFile;

pub use self::page_vec::PageVec;

/// Size of a huge page on the machines we care about: 2 MiB.
///
/// Where the real size differs (64 KiB base pages on some arm64 kernels have
/// huge pages of 512 MiB) memory is merely aligned more than it needs to be.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The smallest page any supported system has. Touching memory in this stride
/// touches every page.
const SMALLEST_PAGE_BYTES: usize = 4096;

/// A whole file, mapped read-only.
pub(super) struct FileMap {
    /// `None` for an empty file: there is nothing to map.
    map: Option<Mmap>,
    /// For who does not want to go through the map.
    file: PolledFile,
}

impl FileMap {
    /// Maps the whole of `file`.
    ///
    /// The caller upholds invariant 1 by calling this only where
    /// [`RealEnv`](super::RealEnv) was made for mapping.
    pub(super) fn new(file: File, polls: bool) -> io::Result<Self> {
        let bytes = usize::try_from(file.metadata()?.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::OutOfMemory, "file is larger than the address space")
        })?;
        if bytes == 0 {
            return Ok(Self { map: None, file: PolledFile::new(file, polls) });
        }
        // SAFETY: the map is shared and read-only, of a file that nobody
        // changes while it lives (invariant 1), and no longer than the file
        // (invariant 2), so its bytes are initialised and stay what they are.
        let map = unsafe { MmapOptions::new().len(bytes).map(&file)? };
        Ok(Self { map: Some(map), file: PolledFile::new(file, polls) })
    }

    fn slice(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// Tells the system of a range, if that lies inside the file.
    fn advise(&self, advice: Advice, offset: u64, bytes: u64) {
        if let (Ok((start, end)), Some(map)) = (self.range(offset, bytes), &self.map)
            && end > start
        {
            // Only advice: without it the read is slower, nothing else.
            let _ = map.advise_range(advice, start, end - start);
        }
    }

    /// `offset` and `bytes` as indices, if the range lies inside the file.
    fn range(&self, offset: u64, bytes: u64) -> io::Result<(usize, usize)> {
        let end = offset.checked_add(bytes).filter(|&end| end <= self.len());
        match (usize::try_from(offset), end.map(usize::try_from)) {
            (Ok(start), Some(Ok(end))) => Ok((start, end)),
            _ => Err(super::past_the_end(offset, bytes, self.len())),
        }
    }
}

impl fmt::Debug for FileMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileMap({} bytes)", self.slice().len())
    }
}

impl ReadAt for FileMap {
    fn len(&self) -> u64 {
        self.slice().len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (start, end) = self.range(offset, buf.len() as u64)?;
        self.make_resident(offset, buf.len() as u64)?;
        buf.copy_from_slice(&self.slice()[start..end]);
        Ok(())
    }

    fn read_through(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = buf.len() as u64;
        self.range(offset, bytes)?;
        self.file.file().read_exact_at(buf, offset)
    }

    fn read_piece(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.range(offset, buf.len() as u64)?;
        self.file.read_piece(offset, buf)
    }

    fn await_page(&self, offset: u64) {
        if offset < self.len() {
            self.file.await_page(offset);
        }
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(self.slice())
    }

    fn make_resident(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let (start, end) = self.range(offset, bytes)?;
        match &self.map {
            Some(map) if end > start => populate_for_reading(map, start, end - start),
            _ => Ok(()),
        }
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        self.advise(Advice::WillNeed, offset, bytes);
    }

    fn read_singly(&self, offset: u64, bytes: u64) {
        // Without it a touch of one page reads up to 128 KiB around it, and in a
        // tight limit of memory pushes out as much.
        self.advise(Advice::Random, offset, bytes);
    }
}

#[cfg(target_os = "linux")]
fn populate_for_reading(map: &Mmap, start: usize, bytes: usize) -> io::Result<()> {
    const EFAULT: i32 = 14;
    loop {
        return match map.advise_range(Advice::PopulateRead, start, bytes) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // A kernel before 5.14: the touch itself is all there is.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
            Err(e) if e.raw_os_error() == Some(EFAULT) => Err(io::Error::other(
                "a page of the mapped file cannot be read: disk error, or the file was truncated",
            )),
            Err(e) => Err(e),
        };
    }
}

#[cfg(not(target_os = "linux"))]
fn populate_for_reading(_map: &Mmap, _start: usize, _bytes: usize) -> io::Result<()> {
    Ok(())
}

/// Anonymous memory: owned, zeroed, page-aligned, outside the heap.
///
/// From [`HUGE_PAGE_BYTES`] on, it begins at a multiple of that size and asks
/// for huge pages, which halve the cost of a random access to a large arena.
///
/// This is raw memory. It can be sent to and shared between threads because it
/// gives nobody a reference to its bytes; who may touch which byte when is the
/// owner's business. It is unmapped on drop, whatever pointers are still about.
pub struct Pages {
    map: MmapRaw,
    /// Where the aligned part begins in `map`.
    skipped: usize,
    len: usize,
}

impl Pages {
    /// Maps `len` bytes of zeros. The pages themselves come into being when
    /// first touched, or by [`prefault`](Self::prefault).
    ///
    /// # Errors
    /// `InvalidInput` for a length of zero; otherwise the system's, when it
    /// has no memory or no map to give.
    pub fn new(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a mapping of zero bytes"));
        }
        let exact = anonymous(len)?;
        if len < HUGE_PAGE_BYTES {
            return Ok(Self { map: exact, skipped: 0, len });
        }
        // Recent kernels align such a mapping by themselves. That is worth a
        // try, since neighbours without slack between them become one entry in
        // the kernel's table of mappings, which has room for 65,530.
        let pages = if slack_before_huge_page(&exact) == 0 {
            Self { map: exact, skipped: 0, len }
        } else {
            drop(exact);
            let padded = len.checked_add(HUGE_PAGE_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
            let map = anonymous(padded)?;
            let skipped = slack_before_huge_page(&map);
            Self { map, skipped, len }
        };
        pages.ask_for_huge_pages();
        Ok(pages)
    }

    /// As [`new`](Self::new), on small pages whatever the length: each first
    /// touch makes 4 KiB and not 2 MiB, for memory that must be used at once.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn on_small_pages(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a mapping of zero bytes"));
        }
        Ok(Self { map: anonymous(len)?, skipped: 0, len })
    }

    /// The first byte. Valid for reads and writes of [`len`](Self::len) bytes
    /// until this value is dropped.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: `skipped + len` is at most the length of the map, which is
        // one allocation, so the offset stays inside it.
        unsafe { self.map.as_mut_ptr().add(self.skipped) }
    }

    /// Number of bytes, as asked for.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Makes every page exist now, so that no later first touch pays for
    /// zeroing it (150-250 us for a huge page). Contents do not change.
    ///
    /// It touches the pages one by one. Having the kernel populate them all in
    /// one call would hold the lock of the address space meanwhile, and every
    /// other thread that maps memory would wait for it.
    ///
    /// Call it before the memory is shared: the touches are atomic, and no
    /// match for another thread's plain accesses.
    pub fn prefault(&self) {
        for offset in (0..self.len).step_by(SMALLEST_PAGE_BYTES) {
            // SAFETY: `offset` is below `len`, so the byte is inside the
            // mapping, which is valid for reads and writes; a byte needs no
            // alignment. Only this thread knows the memory (see above).
            let byte = unsafe { std::sync::atomic::AtomicU8::from_ptr(self.as_ptr().add(offset)) };
            // A zero replaced by a zero makes the page; any other byte shows
            // that it is there.
            let _ = byte.compare_exchange(
                0,
                0,
                std::sync::atomic::Ordering::Relaxed,
                std::sync::atomic::Ordering::Relaxed,
            );
        }
    }

    #[cfg(target_os = "linux")]
    fn ask_for_huge_pages(&self) {
        if let Err(error) = self.map.advise_range(Advice::HugePage, self.skipped, self.len) {
            // A kernel built without them: slower, and nothing else.
            tracing::debug!(%error, "no huge pages to be had");
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn ask_for_huge_pages(&self) {}
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({} bytes at {:p})", self.len, self.as_ptr())
    }
}

/// Bytes with one owner on [`Pages`]: a boxed slice on huge pages. Zeros at
/// first.
#[derive(Debug)]
pub struct PageBuf(Pages);

impl PageBuf {
    /// A buffer of `len` bytes.
    ///
    /// # Errors
    /// As [`Pages::new`].
    pub fn new(len: usize) -> io::Result<Self> {
        Ok(Self(Pages::new(len)?))
    }

    /// As [`new`](Self::new), on small pages whatever the length.
    ///
    /// # Errors
    /// As [`Pages::new`].
    pub fn on_small_pages(len: usize) -> io::Result<Self> {
        Ok(Self(Pages::on_small_pages(len)?))
    }
}

impl Deref for PageBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the pages are mapped and initialised for `len` bytes as long as
        // `self` lives; nobody else has their pointer, and whoever writes them
        // borrows `self` mutably.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

impl DerefMut for PageBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), self.0.len()) }
    }
}

fn anonymous(len: usize) -> io::Result<MmapRaw> {
    Ok(MmapOptions::new().len(len).map_anon()?.into())
}

/// Bytes from the start of `map` to the first huge-page boundary.
fn slack_before_huge_page(map: &MmapRaw) -> usize {
    let address = map.as_ptr().addr();
    address.next_multiple_of(HUGE_PAGE_BYTES) - address
}

/// Asks the processor to load the cache line at `ptr`, to be read soon.
///
/// Any address will do, even one that is not mapped: a prefetch never faults
/// and changes nothing that a program can see. Does nothing on processors for
/// which stable Rust has no such instruction.
#[inline(always)]
#[allow(
    clippy::not_unsafe_ptr_arg_deref,
    reason = "a prefetch does not dereference: any address is allowed"
)]
pub fn prefetch_read(ptr: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction belongs to SSE, which every x86-64 has, and
        // it is only a hint: it neither faults nor accesses memory in the
        // language's sense, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr.cast()) }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = ptr;
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make their own files to map")]
mod tests {
    use super::*;

    fn read(pages: &Pages, offset: usize) -> u8 {
        assert!(offset < pages.len());
        // SAFETY: inside the mapping (just checked), and no other thread knows it.
        unsafe { pages.as_ptr().add(offset).read() }
    }

    fn write(pages: &Pages, offset: usize, byte: u8) {
        assert!(offset < pages.len());
        // SAFETY: inside the mapping (just checked), and no other thread knows it.
        unsafe { pages.as_ptr().add(offset).write(byte) }
    }

    #[test]
    fn pages_can_be_sent_and_shared() {
        fn assert_send_sync<T: Send + Sync>() {}
        assert_send_sync::<Pages>();
    }

    #[test]
    fn pages_are_zeroed_and_writable_to_the_last_byte() {
        for len in [1, 4095, 4096, 4097, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, 5 << 20] {
            let pages = Pages::new(len).unwrap();
            assert_eq!(pages.len(), len);
            assert_eq!(pages.as_ptr().addr() % SMALLEST_PAGE_BYTES, 0);
            for offset in (0..len).step_by(1000).chain([len - 1]) {
                assert_eq!(read(&pages, offset), 0, "len {len} offset {offset}");
            }
            write(&pages, len - 1, 7);
            assert_eq!(read(&pages, len - 1), 7);
        }
    }

    #[test]
    fn large_pages_are_aligned_whatever_lies_beside_them() {
        // Odd small neighbours push the kernel off the boundary.
        let mut kept = Vec::new();
        for round in 0..20 {
            kept.push(Pages::new(4096 * (round + 1)).unwrap());
            let large = Pages::new(HUGE_PAGE_BYTES * (1 + round % 3) + round * 4096).unwrap();
            assert_eq!(large.as_ptr().addr() % HUGE_PAGE_BYTES, 0);
            write(&large, large.len() - 1, 1);
            kept.push(large);
        }
    }

    #[test]
    fn prefaulting_changes_no_byte() {
        for len in [100, 3 * 4096 + 1, HUGE_PAGE_BYTES] {
            let pages = Pages::new(len).unwrap();
            write(&pages, 0, 3);
            write(&pages, len - 1, 4);
            pages.prefault();
            assert_eq!((read(&pages, 0), read(&pages, len - 1)), (3, 4));
            assert_eq!(read(&pages, len / 2), 0);
        }
    }

    #[test]
    fn pages_of_no_bytes_are_refused() {
        assert_eq!(Pages::new(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_impossible_length_is_an_error() {
        assert!(Pages::new(usize::MAX).is_err());
        assert!(Pages::new(usize::MAX / 2).is_err());
    }

    #[test]
    fn prefetching_any_address_is_harmless() {
        let byte = 1u8;
        prefetch_read(&raw const byte);
        prefetch_read(std::ptr::null());
        prefetch_read(std::ptr::without_provenance(usize::MAX));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_page_lost_to_truncation_is_an_error_and_no_signal() {
        // Breaks invariant 1 on purpose, and touches the lost page through
        // nothing but the guarded functions.
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * 4096).unwrap();
        let map = FileMap::new(file.try_clone().unwrap(), true).unwrap();
        let mut buf = [1u8; 16];
        map.read_at(2 * 4096, &mut buf).unwrap();
        assert_eq!(buf, [0; 16]);
        file.set_len(4096).unwrap();
        map.read_at(0, &mut buf).unwrap();
        assert!(map.read_at(2 * 4096, &mut buf).is_err());
        assert!(map.make_resident(0, 3 * 4096).is_err());
    }
}
