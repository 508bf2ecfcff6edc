//! The one door to the world: files, clocks, threads, randomness, memory maps.
//!
//! Nothing outside this module calls `std::fs`, `std::time` or `std::thread`
//! (clippy enforces it). That is what lets a test stop the world between two
//! fsyncs and replay it from a seed.
//!
//! - [`real`]: the operating system.
//! - [`sim`]: a machine in memory whose disk fails and whose power is cut on
//!   demand.
//! - [`mmap`], [`pages`]: memory taken from the system directly. Both worlds
//!   share it: memory has no crash to simulate.

pub mod budget;
pub mod buffers;
pub(crate) mod clock;
pub mod executor;
pub mod ledger;
pub(crate) mod local_files;
pub mod mmap;
mod nap;
pub mod pages;
pub(crate) mod parallel;
mod polled;
pub mod real;
pub mod sim;
pub(crate) mod sync;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use mmap::{HUGE_PAGE_BYTES, Pages, prefetch_read};
pub use pages::{PagePool, PagePoolStats, PageThread};
pub use real::RealEnv;
pub use sim::SimEnv;

/// Everything the engine asks of the outside world.
///
/// One value per process in production; one per simulated machine in tests.
pub trait Env: Send + Sync + fmt::Debug + 'static {
    /// The file system.
    fn fs(&self) -> &dyn Fs;

    /// Wall-clock time in milliseconds since 1970, for people to read, for the age of
    /// values with a [time to live](crate::Ttl) in processing time, and for runtimes that
    /// fire timers of the processing time by it. May jump; the engine decides nothing else
    /// by it.
    fn unix_time_ms(&self) -> u64;

    /// Nanoseconds on a clock that never goes back, from an arbitrary origin.
    fn monotonic_ns(&self) -> u64;

    /// A random number, from a seed in simulation.
    fn random_u64(&self) -> u64;

    /// Starts a named thread. The engine joins what it starts.
    ///
    /// # Errors
    /// Whatever the system says when no thread can be had.
    fn spawn(
        &self,
        name: &str,
        body: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<std::thread::JoinHandle<()>>;
}

/// A file system, with writing, making durable, and naming kept apart, because
/// a crash can fall between any two of them.
///
/// Paths are whole. `NotFound` and `AlreadyExists` are reported with those
/// [`io::ErrorKind`]s.
pub trait Fs: Send + Sync {
    /// Creates a directory and its parents; existing ones are left alone.
    /// The names are durable after [`sync_dir`](Self::sync_dir) of each parent.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Creates a file that must not exist yet, for appending.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;

    /// Opens an immutable file for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>>;

    /// Renames a file, replacing any that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives an existing file a second name, which must not exist yet.
    /// `Unsupported` or `CrossesDevices` where the file system cannot.
    fn hard_link(&self, existing: &Path, new: &Path) -> io::Result<()>;

    /// Removes one name of a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Makes the names created, renamed and removed in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names (not paths) in a directory, sorted. `NotADirectory` for a
    /// file.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// The size of a file in bytes. `IsADirectory` for a directory.
    fn file_len(&self, path: &Path) -> io::Result<u64>;

    /// Takes an exclusive lock on `path`, creating the file if need be.
    /// `None` if somebody else holds it. The lock falls with the returned
    /// value, and with the process.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;

    /// The one absolute path, free of links and dots, of something that
    /// exists. Two names of one directory have the same.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;
}

/// A file being written, front to back.
pub trait WriteFile: Send {
    /// Appends all of `bytes`.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written so far visible to who opens the file, and says if that
    /// is not possible; nothing becomes durable. For files that are of no use after a
    /// crash.
    fn flush(&mut self) -> io::Result<()> {
        self.sync()
    }

    /// Makes everything written so far durable. After an error the file is
    /// lost: it must be abandoned and rewritten under a new name, since the
    /// system may have dropped the dirty pages.
    fn sync(&mut self) -> io::Result<()>;
}

/// An immutable file (or anything like one) that can be read at any offset,
/// from any thread.
pub trait ReadAt: Send + Sync + fmt::Debug {
    /// Size in bytes, fixed when the file was opened.
    fn len(&self) -> u64;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`. `UnexpectedEof` past the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The bytes themselves where they are already in the address space (a
    /// mapped file); `None` where they have to be read.
    fn as_slice(&self) -> Option<&[u8]> {
        None
    }

    /// Brings a range into memory, so that touching it through
    /// [`as_slice`](Self::as_slice) right afterwards meets no disk error.
    ///
    /// Touching a mapped page that cannot be read ends the process with a
    /// signal; here the same trouble is an error. Worth a call before the
    /// first touch of a range (about 1 us when it is in memory already). Without
    /// a map there is nothing to guard, and nothing happens.
    fn make_resident(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let _ = (offset, bytes);
        Ok(())
    }

    /// Hints that a range will be read soon, so that many reads can be under
    /// way at once. Returns at once; cannot fail; may do nothing.
    fn will_need(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }

    /// As [`read_at`](Self::read_at), for who reads much of a file once, in order: a
    /// mapped file is read without touching the map, so that the system reads ahead
    /// in large pieces, and may give the memory to others at once.
    ///
    /// # Errors
    /// As of `read_at`.
    fn read_through(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buf)
    }

    /// As [`read_through`](Self::read_through), for a piece of a few KiB that a thread waits
    /// for which has nothing else to do. It may look for the piece again and again instead
    /// of sleeping until it is there, and so use a processor meanwhile.
    ///
    /// # Errors
    /// As of `read_at`.
    fn read_piece(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_through(offset, buf)
    }

    /// Waits in the same way until the page that has this offset can be touched through
    /// [`as_slice`](Self::as_slice) without waiting for the disk. Does not wait for long,
    /// and may not wait at all; cannot fail.
    fn await_page(&self, offset: u64) {
        let _ = offset;
    }

    /// Hints that from now on pieces of a range will be read here and there, and
    /// that what lies around a piece is not worth reading with it. Cannot fail;
    /// may do nothing.
    fn read_singly(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }
}

/// What every [`ReadAt`] says of a read that does not fit into the file.
fn past_the_end(offset: u64, bytes: u64, len: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("{bytes} bytes at offset {offset} of a file of {len} bytes"),
    )
}

/// What every [`WriteFile`] says once it has failed.
fn write_after_failure() -> io::Error {
    io::Error::other("an earlier write or sync of this file failed; rewrite it under a new name")
}
