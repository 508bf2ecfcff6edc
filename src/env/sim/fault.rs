//! Calls that fail on demand, and the moment the power goes.

use std::io;

/// A kind of call that can be counted and made to fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// Making one directory. `create_dir_all` makes several.
    CreateDir,
    /// Creating a file.
    Create,
    /// Appending to a file. A failed write may have appended a part.
    Write,
    /// Making a file's bytes durable.
    Sync,
    /// Making a directory's names durable.
    SyncDir,
    /// Renaming.
    Rename,
    /// Giving a file a second name.
    Link,
    /// Removing a name.
    Remove,
    /// Opening a file for reading.
    Open,
    /// Reading from an open file.
    Read,
    /// Listing a directory.
    List,
    /// Asking for a file's size, or for a canonical path.
    Len,
    /// Taking a lock.
    Lock,
}

impl FaultKind {
    /// Every kind, for tests to loop over.
    pub const ALL: [Self; 13] = [
        Self::CreateDir,
        Self::Create,
        Self::Write,
        Self::Sync,
        Self::SyncDir,
        Self::Rename,
        Self::Link,
        Self::Remove,
        Self::Open,
        Self::Read,
        Self::List,
        Self::Len,
        Self::Lock,
    ];
}

/// The error that a simulated fault reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// An error of this kind.
    Kind(io::ErrorKind),
    /// The error the operating system has this number for.
    Os(i32),
}

impl FaultError {
    /// The disk failed.
    pub const EIO: Self = Self::Os(5);
    /// No space left on the device.
    pub const ENOSPC: Self = Self::Os(28);
    /// Too many open files.
    pub const EMFILE: Self = Self::Os(24);

    fn to_io(self) -> io::Error {
        match self {
            Self::Kind(kind) => kind.into(),
            Self::Os(number) => io::Error::from_raw_os_error(number),
        }
    }
}

impl From<io::ErrorKind> for FaultError {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Kind(kind)
    }
}

/// When a call fails with respect to what it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moment {
    /// Instead of it.
    Before,
    /// After it: the reply was lost.
    After,
}

#[derive(Debug)]
struct Fault {
    kind: FaultKind,
    /// Calls of this kind until it fires; it fires at zero.
    calls_left: u64,
    error: FaultError,
    sticky: bool,
    moment: Moment,
    spent: bool,
}

/// Counts calls, and decides which of them fail.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<Fault>,
    calls: [u64; FaultKind::ALL.len()],
    pub(super) fired: bool,
}

impl Faults {
    pub(super) fn plan(
        &mut self,
        kind: FaultKind,
        nth: u64,
        error: FaultError,
        sticky: bool,
        moment: Moment,
    ) {
        assert!(nth > 0, "calls are counted from 1");
        self.planned.push(Fault { kind, calls_left: nth, error, sticky, moment, spent: false });
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
        self.fired = false;
    }

    pub(super) fn calls(&self, kind: FaultKind) -> u64 {
        self.calls[kind as usize]
    }

    /// Counts a call, and says how it fails, if it does.
    pub(super) fn on_call(&mut self, kind: FaultKind) -> Option<(Moment, io::Error)> {
        self.calls[kind as usize] += 1;
        let mut failure = None;
        for fault in self.planned.iter_mut().filter(|fault| fault.kind == kind && !fault.spent) {
            fault.calls_left = fault.calls_left.saturating_sub(1);
            if fault.calls_left == 0 && failure.is_none() {
                fault.spent = !fault.sticky;
                failure = Some((fault.moment, fault.error.to_io()));
                self.fired = true;
            }
        }
        failure
    }
}
