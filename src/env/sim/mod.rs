//! A machine in memory: its disk fails and its power is cut on demand, and a
//! seed repeats all of it.
//!
//! The disk keeps what the system shows apart from what is durable (the rules
//! stand at the top of `disk.rs`), so that a test can do three things:
//!
//! - **Cut the power after every operation.** [`SimEnv::stop_after`] lets a
//!   number of changing operations through and refuses everything after them;
//!   [`SimEnv::crash_image`] is the disk that the next start finds. Loop the
//!   number up from zero until [`SimEnv::power_lost`] stays false.
//! - **Fail the nth call of a kind**, once or from then on, instead of its
//!   effect ([`SimEnv::fail_nth`]) or after it ([`SimEnv::fail_nth_late`]).
//!   Loop n up from one until [`SimEnv::fault_fired`] stays false.
//! - **Damage files** that are at rest ([`SimEnv::mutate_file`]).
//!
//! There are no threads: [`Env::spawn`] refuses with `Unsupported`, and whoever
//! runs on this machine does background work in steps of its own. Time passes
//! by a little with every call, and otherwise by [`SimEnv::advance_ms`].

mod disk;
mod fault;
mod rng;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use disk::CrashMode;
use disk::{Disk, FileData, check, without_dots};
pub use fault::{FaultError, FaultKind};
use fault::{Faults, Moment};
pub use rng::SimRng;

use super::{Env, Fs, ReadAt, WriteFile, past_the_end, write_after_failure};

/// What one call on the simulated machine takes.
const CALL_NS: u64 = 1_000;

/// When simulated time begins, in milliseconds since 1970: 14 November 2023.
const FIRST_UNIX_TIME_MS: u64 = 1_700_000_000_000;

/// A simulated machine. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimEnv {
    world: Arc<Mutex<World>>,
    mapped_reads: bool,
}

struct World {
    disk: Disk,
    faults: Faults,
    rng: SimRng,
    now_ns: u64,
    /// How far the wall clock is from where time alone would have it.
    wall_shift_ms: i64,
    /// Changing operations done.
    ops: u64,
    /// The power goes once `ops` has reached this.
    stop_at: Option<u64>,
    power_lost: bool,
}

impl SimEnv {
    /// A machine with an empty disk (the directory `/` and nothing in it).
    pub fn new(seed: u64) -> Self {
        Self::with_disk(Disk::new(), seed, 0)
    }

    fn with_disk(disk: Disk, seed: u64, now_ns: u64) -> Self {
        let world = World {
            disk,
            faults: Faults::default(),
            rng: SimRng::new(seed),
            now_ns,
            wall_shift_ms: 0,
            ops: 0,
            stop_at: None,
            power_lost: false,
        };
        Self { world: Arc::new(Mutex::new(world)), mapped_reads: false }
    }

    /// Files opened through this handle offer [`ReadAt::as_slice`], as mapped
    /// ones do: the bytes as they were when the file was opened. Without it,
    /// every read is a call that can be made to fail.
    #[must_use]
    pub fn with_mapped_reads(mut self) -> Self {
        self.mapped_reads = true;
        self
    }

    /// Lets time pass.
    pub fn advance_ms(&self, ms: u64) {
        self.world.lock().now_ns += ms * 1_000_000;
    }

    /// Sets the wall clock forward, or back, as an administrator or a time server
    /// may. The clock that never goes back is not touched.
    pub fn shift_wall_clock(&self, ms: i64) {
        let mut world = self.world.lock();
        world.wall_shift_ms = world.wall_shift_ms.saturating_add(ms);
    }

    /// How many operations have changed the disk so far: directories and files
    /// created, writes, syncs of files and directories, renames, links,
    /// removals.
    pub fn ops(&self) -> u64 {
        self.world.lock().ops
    }

    /// Cuts the power after `ops` further changing operations: every call
    /// after that fails, on this machine for good.
    pub fn stop_after(&self, ops: u64) {
        let mut world = self.world.lock();
        world.stop_at = Some(world.ops + ops);
    }

    /// Whether a call has been refused because the power was gone.
    pub fn power_lost(&self) -> bool {
        self.world.lock().power_lost
    }

    /// The machine as it may come up after a power cut now: everything on its
    /// disk is durable, nothing is locked, no fault is planned. Equal modes
    /// and seeds give equal images. This machine stays as it is, so that many
    /// images can be taken of one moment.
    pub fn crash_image(&self, mode: CrashMode, seed: u64) -> SimEnv {
        let world = self.world.lock();
        let mut rng = SimRng::new(seed);
        let disk = world.disk.after_crash(mode, &mut rng);
        // Mixed with this machine's own numbers, so that a chain of crashes with
        // one seed does not draw the same incarnation twice. Rotated, lest two
        // generators in the same state cancel each other out.
        let image_seed = rng.next_u64() ^ world.rng.clone().next_u64().rotate_left(23);
        let image = Self::with_disk(disk, image_seed, world.now_ns);
        image.world.lock().wall_shift_ms = world.wall_shift_ms;
        Self { mapped_reads: self.mapped_reads, ..image }
    }

    /// Makes the `nth` call of a kind from now on fail, before it has any
    /// effect; `sticky` makes all calls after it fail, too.
    ///
    /// Two kinds leave traces all the same: a failed write may have appended a
    /// part of its bytes, and what was unsynced at a failed sync is beyond
    /// saving, although it can still be read.
    ///
    /// # Panics
    /// If `nth` is zero: calls are counted from one.
    pub fn fail_nth(&self, call: FaultKind, nth: u64, error: impl Into<FaultError>, sticky: bool) {
        self.world.lock().faults.plan(call, nth, error.into(), sticky, Moment::Before);
    }

    /// Like [`fail_nth`](Self::fail_nth), but the call takes full effect and
    /// only then reports the error, as when a reply is lost.
    ///
    /// # Panics
    /// If `nth` is zero: calls are counted from one.
    pub fn fail_nth_late(
        &self,
        call: FaultKind,
        nth: u64,
        error: impl Into<FaultError>,
        sticky: bool,
    ) {
        self.world.lock().faults.plan(call, nth, error.into(), sticky, Moment::After);
    }

    /// Forgets all planned faults, and that any fired.
    pub fn clear_faults(&self) {
        self.world.lock().faults.clear();
    }

    /// Whether a planned fault has fired.
    pub fn fault_fired(&self) -> bool {
        self.world.lock().faults.fired
    }

    /// How many calls of a kind there have been, failed ones included.
    pub fn calls(&self, call: FaultKind) -> u64 {
        self.world.lock().faults.calls(call)
    }

    /// The paths of all files, sorted. Works without power, and meets no fault.
    pub fn list_all_files(&self) -> Vec<PathBuf> {
        self.world.lock().disk.all_files()
    }

    /// The bytes of a file, if it exists. Works without power, and meets no
    /// fault.
    pub fn file_bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.world.lock().disk.file(path).ok()?;
        let bytes = file.lock().bytes().to_vec();
        Some(bytes)
    }

    /// Changes the bytes of a file at rest, durably, whatever its name is
    /// linked to. Files opened with [mapped reads](Self::with_mapped_reads)
    /// still show the old ones.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn mutate_file(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let file = self.world.lock().disk.file(path).expect("the file to damage exists");
        file.lock().mutate(change);
    }

    /// Takes a file's name away at rest, durably.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn lose_file(&self, path: &Path) {
        self.world.lock().disk.lose(path).expect("the file to lose exists");
    }

    /// One call: refused without power, counted, possibly failed, timed.
    fn call<T>(
        &self,
        kind: FaultKind,
        act: impl FnOnce(&mut World) -> io::Result<T>,
    ) -> io::Result<T> {
        self.call_leaving(kind, act, |_| {})
    }

    /// The same, with what a call that fails before its effect leaves behind.
    fn call_leaving<T>(
        &self,
        kind: FaultKind,
        act: impl FnOnce(&mut World) -> io::Result<T>,
        traces: impl FnOnce(&mut World),
    ) -> io::Result<T> {
        let mut world = self.world.lock();
        world.now_ns += CALL_NS;
        if world.stop_at.is_some_and(|stop_at| world.ops >= stop_at) {
            world.power_lost = true;
            return Err(io::Error::other("simulated power loss"));
        }
        match world.faults.on_call(kind) {
            None => act(&mut world),
            Some((Moment::Before, error)) => {
                traces(&mut world);
                Err(error)
            }
            Some((Moment::After, error)) => act(&mut world).and(Err(error)),
        }
    }
}

impl fmt::Debug for SimEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.world.lock();
        f.debug_struct("SimEnv")
            .field("ops", &world.ops)
            .field("power_lost", &world.power_lost)
            .finish_non_exhaustive()
    }
}

impl Env for SimEnv {
    fn fs(&self) -> &dyn Fs {
        self
    }

    fn unix_time_ms(&self) -> u64 {
        let ms = FIRST_UNIX_TIME_MS + self.monotonic_ns() / 1_000_000;
        ms.saturating_add_signed(self.world.lock().wall_shift_ms)
    }

    fn monotonic_ns(&self) -> u64 {
        let mut world = self.world.lock();
        world.now_ns += CALL_NS;
        world.now_ns
    }

    fn random_u64(&self) -> u64 {
        self.world.lock().rng.next_u64()
    }

    fn spawn(
        &self,
        name: &str,
        _body: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("no thread {name} on a simulated machine: run with no background threads"),
        ))
    }
}

impl Fs for SimEnv {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        // Each directory is an operation of its own, between any two of which
        // the power may go.
        let missing = self.world.lock().disk.missing_dirs(check(dir)?)?;
        if missing.is_empty() {
            return self.call(FaultKind::CreateDir, |_| Ok(()));
        }
        for path in missing {
            self.call(FaultKind::CreateDir, |world| {
                world.disk.make_dir(&path)?;
                world.ops += 1;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let path = check(path)?;
        let file = self.call(FaultKind::Create, |world| {
            let file = world.disk.create(path)?;
            world.ops += 1;
            Ok(file)
        })?;
        Ok(Box::new(SimWriter { env: self.clone(), file, failed: false }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let path = check(path)?;
        let file = self.call(FaultKind::Open, |world| world.disk.file(path))?;
        let (len, mapped) = {
            let file = file.lock();
            (file.bytes().len() as u64, self.mapped_reads.then(|| file.bytes().into()))
        };
        Ok(Arc::new(SimFile { env: self.clone(), file, len, mapped }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (check(from)?, check(to)?);
        self.call(FaultKind::Rename, |world| {
            world.disk.rename(from, to)?;
            world.ops += 1;
            Ok(())
        })
    }

    fn hard_link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        let (existing, new) = (check(existing)?, check(new)?);
        self.call(FaultKind::Link, |world| {
            world.disk.link(existing, new)?;
            world.ops += 1;
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = check(path)?;
        self.call(FaultKind::Remove, |world| {
            world.disk.remove(path)?;
            world.ops += 1;
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = check(dir)?;
        self.call(FaultKind::SyncDir, |world| {
            world.disk.sync_dir(dir)?;
            world.ops += 1;
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let dir = check(dir)?;
        self.call(FaultKind::List, |world| world.disk.list(dir))
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        let path = check(path)?;
        self.call(FaultKind::Len, |world| Ok(world.disk.file(path)?.lock().bytes().len() as u64))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let path = check(path)?;
        let file = self.call(FaultKind::Lock, |world| match world.disk.file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = world.disk.create(path)?;
                world.ops += 1;
                Ok(file)
            }
            found => found,
        })?;
        let taken = std::mem::replace(&mut file.lock().locked, true);
        Ok((!taken).then(|| Box::new(SimLock(file)) as Box<dyn Send + Sync>))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        if !path.is_absolute() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let path = without_dots(path);
        self.call(FaultKind::Len, |world| {
            if world.disk.exists(&path)? { Ok(path) } else { Err(io::ErrorKind::NotFound.into()) }
        })
    }
}

struct SimWriter {
    env: SimEnv,
    file: Arc<Mutex<FileData>>,
    failed: bool,
}

impl SimWriter {
    fn unless_failed(&mut self, act: impl FnOnce(&Self) -> io::Result<()>) -> io::Result<()> {
        if self.failed {
            return Err(write_after_failure());
        }
        let result = act(self);
        self.failed = result.is_err();
        result
    }
}

impl WriteFile for SimWriter {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unless_failed(|this| {
            this.env.call_leaving(
                FaultKind::Write,
                |world| {
                    this.file.lock().append(bytes);
                    world.ops += 1;
                    Ok(())
                },
                |world| {
                    let part = world.rng.below(bytes.len() as u64 + 1) as usize;
                    this.file.lock().append(&bytes[..part]);
                },
            )
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.unless_failed(|this| {
            this.env.call_leaving(
                FaultKind::Sync,
                |world| {
                    this.file.lock().sync();
                    world.ops += 1;
                    Ok(())
                },
                |_| this.file.lock().fail_to_sync(),
            )
        })
    }
}

struct SimFile {
    env: SimEnv,
    file: Arc<Mutex<FileData>>,
    len: u64,
    mapped: Option<Box<[u8]>>,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({} bytes)", self.len)
    }
}

impl ReadAt for SimFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = buf.len() as u64;
        let end = offset.checked_add(bytes).filter(|&end| end <= self.len);
        let end = end.ok_or_else(|| past_the_end(offset, bytes, self.len))?;
        self.env.call(FaultKind::Read, |_| {
            // The file may have been cut short behind our back.
            let file = self.file.lock();
            let found = file.bytes().get(offset as usize..end as usize);
            buf.copy_from_slice(found.ok_or_else(|| past_the_end(offset, bytes, self.len))?);
            Ok(())
        })
    }

    fn as_slice(&self) -> Option<&[u8]> {
        self.mapped.as_deref()
    }

    fn make_resident(&self, offset: u64, bytes: u64) -> io::Result<()> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.len) {
            return Err(past_the_end(offset, bytes, self.len));
        }
        match self.mapped {
            // The call that stands between a mapped reader and a bad sector.
            Some(_) => self.env.call(FaultKind::Read, |_| Ok(())),
            None => Ok(()),
        }
    }
}

struct SimLock(Arc<Mutex<FileData>>);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.lock().locked = false;
    }
}
