//! The world as it is: the operating system's files, clocks, threads and
//! randomness.
//!
//! For Unix. Files are opened by whole paths and symbolic links are followed,
//! as the operator who set them up expects.

#![allow(
    clippy::disallowed_methods,
    reason = "this is the one place where the engine meets the operating system"
)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::mmap::FileMap;
use super::polled::PolledFile;
use super::{Env, Fs, ReadAt, WriteFile};

/// Bytes gathered before a write call is made.
///
/// A table is written in blocks of a few KiB; this turns sixteen of them into
/// one call. Longer pieces go to the system directly.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;

/// The real system.
#[derive(Debug)]
pub struct RealEnv {
    /// Where [`Env::monotonic_ns`] counts from.
    origin: Instant,
    fs: RealFs,
}

impl RealEnv {
    /// Reads files through memory maps: right for a private directory on a
    /// local disk, which nobody else writes to.
    ///
    /// A mapped read costs no system call once the page is in memory. The
    /// price is that a file cut short by somebody else, or a failing disk,
    /// may end the process with a signal instead of an error.
    pub fn new() -> Self {
        Self::reading(ReadBy::Map)
    }

    /// Never maps a file, and reads with `pread` instead.
    ///
    /// For network file systems, FUSE, and any directory in which others may
    /// change files: there, a map would turn their mistakes into a signal.
    /// Every read is a system call, and every open file keeps a descriptor.
    pub fn with_pread() -> Self {
        Self::reading(ReadBy::Pread)
    }

    /// Sleeps whenever the disk has to be waited for.
    ///
    /// Without this a task thread that needs a record which is not in memory looks for it
    /// again and again, for up to 200 us, giving way to threads that want the processor: on
    /// a fast disk a record comes a fifth sooner, and the time until then counts as the
    /// thread's. One processor of those that the process may use is always left to others;
    /// see it as wasted where many processes share a machine.
    #[must_use]
    pub fn without_polling(mut self) -> Self {
        self.fs.polls = false;
        self
    }

    fn reading(read_by: ReadBy) -> Self {
        Self { origin: Instant::now(), fs: RealFs { read_by, polls: true } }
    }
}

impl Default for RealEnv {
    fn default() -> Self {
        Self::new()
    }
}

impl Env for RealEnv {
    fn fs(&self) -> &dyn Fs {
        &self.fs
    }

    fn unix_time_ms(&self) -> u64 {
        // A clock set before 1970 reads as 1970: people will see that it is wrong.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn random_u64(&self) -> u64 {
        // The standard library keys each of these hashers from the system's
        // random source. The rest is for a clone of a virtual machine, or a
        // fork, that would go on with the same keys.
        RandomState::new().hash_one((std::process::id(), self.unix_time_ms(), self.monotonic_ns()))
    }

    fn spawn(
        &self,
        name: &str,
        body: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name(name.to_owned()).spawn(body)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ReadBy {
    Map,
    Pread,
}

#[derive(Debug)]
struct RealFs {
    read_by: ReadBy,
    /// Whether single pieces are looked for until they are there.
    polls: bool,
}

impl Fs for RealFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(Box::new(RealWriter {
            file: BufWriter::with_capacity(WRITE_BUFFER_BYTES, file),
            synced_once: false,
            failed: false,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(match self.read_by {
            ReadBy::Map => Arc::new(FileMap::new(file, self.polls)?),
            ReadBy::Pread => {
                let file = PolledFile::new(file, self.polls);
                Arc::new(PreadFile { len: metadata.len(), file })
            }
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        fs::hard_link(existing, new)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let file = File::open(dir)?;
        if !file.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        file.sync_all()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is listed with replacement characters. It
        // is none of ours, but it is there.
        let mut names = fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        let metadata = fs::metadata(path)?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(metadata.len())
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }
}

/// A file being written. After the first failure it refuses everything, since
/// nobody can say any more what the file holds.
struct RealWriter {
    file: BufWriter<File>,
    synced_once: bool,
    failed: bool,
}

impl RealWriter {
    fn unless_failed(
        &mut self,
        act: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.failed {
            return Err(super::write_after_failure());
        }
        // A panic on the way leaves the mark, too.
        self.failed = true;
        act(&mut self.file)?;
        self.failed = false;
        Ok(())
    }
}

impl WriteFile for RealWriter {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unless_failed(|file| file.write_all(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.unless_failed(BufWriter::flush)
    }

    fn sync(&mut self) -> io::Result<()> {
        let synced_once = self.synced_once;
        self.unless_failed(|file| {
            file.flush()?;
            // The first time, everything about the new inode has to reach the
            // disk; later only its contents and size.
            if synced_once { file.get_ref().sync_data() } else { file.get_ref().sync_all() }
        })?;
        self.synced_once = true;
        Ok(())
    }
}

/// A file read with `pread`: the twin of a map where mapping is unsafe.
#[derive(Debug)]
struct PreadFile {
    file: PolledFile,
    len: u64,
}

impl PreadFile {
    /// Checked against the size at opening, so that both twins agree on where a file ends
    /// even if somebody appends to it.
    fn ensure_inside(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(super::past_the_end(offset, bytes, self.len)),
        }
    }
}

impl ReadAt for PreadFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.ensure_inside(offset, buf.len() as u64)?;
        self.file.file().read_exact_at(buf, offset)
    }

    fn read_piece(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.ensure_inside(offset, buf.len() as u64)?;
        self.file.read_piece(offset, buf)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// A file on a disk without space.
    fn full_disk() -> RealWriter {
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        RealWriter { file: BufWriter::with_capacity(16, file), synced_once: false, failed: false }
    }

    #[test]
    fn a_failed_sync_poisons_the_file() {
        let mut file = full_disk();
        file.write_all(b"short").unwrap();
        assert_eq!(file.sync().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(file.write_all(b"x").is_err());
        assert!(file.sync().unwrap_err().to_string().contains("new name"));
    }

    #[test]
    fn a_failed_write_poisons_the_file() {
        let mut file = full_disk();
        assert!(file.write_all(b"longer than the buffer").is_err());
        assert!(file.write_all(b"").is_err());
        assert!(file.sync().is_err());
    }
}
