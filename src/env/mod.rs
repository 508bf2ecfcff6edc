//! The one door to the world: files, clocks, threads, randomness, memory maps.
//!
//! Nothing outside this module calls `std::fs`, `std::time` or `std::thread`
//! (clippy enforces it). That is what lets a test stop the world between two
//! fsyncs and replay it from a seed.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Everything the engine asks of the outside world.
///
/// One value per process in production; one per simulated machine in tests.
pub trait Env: Send + Sync + fmt::Debug + 'static {
    /// The file system.
    fn fs(&self) -> &dyn Fs;

    /// Wall-clock time in milliseconds since 1970, for people to read. May
    /// jump; nothing is decided by it.
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

    /// The names (not paths) in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// The size of a file in bytes.
    fn file_len(&self, path: &Path) -> io::Result<u64>;

    /// Takes an exclusive lock on `path`, creating the file if need be.
    /// `None` if somebody else holds it. The lock falls with the returned
    /// value, and with the process.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;
}

/// A file being written, front to back.
pub trait WriteFile: Send {
    /// Appends all of `bytes`.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

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
}
