//! Names of things: key groups, epochs, snapshots, files.
//!
//! Each is its own type, because a function that takes three integers will one
//! day be called with two of them exchanged.

use std::fmt;

use super::error::{Error, Result};

/// How many key groups a job's keys are divided into; fixed for the life of
/// its state, and the most shards it can ever be spread over.
///
/// From 1 to 32,768, as in Flink. The default is 128.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MaxParallelism(u16);

impl MaxParallelism {
    /// The default number of key groups, 128.
    pub const DEFAULT: Self = Self(128);
    /// The largest number of key groups, 32,768.
    pub const LIMIT: u32 = 32_768;

    /// Checks that `groups` lies in `1..=32_768`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](super::ErrorKind::Invalid) outside that range.
    pub fn new(groups: u32) -> Result<Self> {
        if (1..=Self::LIMIT).contains(&groups) {
            Ok(Self(groups as u16))
        } else {
            Err(Error::invalid("max_parallelism is out of range")
                .expected("1 to 32768")
                .found(groups)
                .remedy("choose a number of key groups in that range"))
        }
    }

    /// The number of key groups.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// All key groups, `0..=max_parallelism - 1`.
    pub const fn all_groups(self) -> KeyGroupRange {
        KeyGroupRange { first: KeyGroup(0), last: KeyGroup(self.0 - 1) }
    }

    /// The contiguous range of key groups that subtask `index` of
    /// `parallelism` owns, computed as Flink does.
    ///
    /// # Errors
    /// `Invalid` if `parallelism` is zero or larger than the number of key
    /// groups, or if `index` is not below `parallelism`.
    pub fn range_of_subtask(self, index: u32, parallelism: u32) -> Result<KeyGroupRange> {
        if parallelism == 0 || parallelism > self.get() {
            return Err(Error::invalid("parallelism does not fit max_parallelism")
                .expected(format_args!("1 to {}", self.get()))
                .found(parallelism)
                .remedy("run the operator on at most max_parallelism shards"));
        }
        if index >= parallelism {
            return Err(Error::invalid("subtask index is out of range")
                .expected(format_args!("0 to {}", parallelism - 1))
                .found(index)
                .remedy("number the subtasks from 0"));
        }
        let (i, p, max) = (u64::from(index), u64::from(parallelism), u64::from(self.get()));
        let first = (i * max).div_ceil(p);
        let last = ((i + 1) * max - 1) / p;
        Ok(KeyGroupRange { first: KeyGroup(first as u16), last: KeyGroup(last as u16) })
    }

    /// The smallest and the largest parallelism whose
    /// [`range_of_subtask`](Self::range_of_subtask) gives `groups` to some
    /// subtask, if there is any. When they are one and the same, `groups` say
    /// which subtask of how many owns them; short ranges often do not. Tries
    /// every parallelism.
    pub fn parallelisms_of_range(self, groups: KeyGroupRange) -> Option<(u32, u32)> {
        let has_range = |&parallelism: &u32| {
            let index = self.subtask_of_group(groups.first, parallelism);
            self.range_of_subtask(index, parallelism).is_ok_and(|range| range == groups)
        };
        let all = 1..=self.get();
        Some((all.clone().find(has_range)?, all.rev().find(has_range)?))
    }

    /// Which of `parallelism` subtasks owns `group`: the inverse of
    /// [`range_of_subtask`](Self::range_of_subtask).
    pub const fn subtask_of_group(self, group: KeyGroup, parallelism: u32) -> u32 {
        (group.0 as u64 * parallelism as u64 / self.0 as u64) as u32
    }
}

impl Default for MaxParallelism {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Debug for MaxParallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for MaxParallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One of the fixed hash buckets of keys that shards exchange on rescaling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroup(pub u16);

impl fmt::Debug for KeyGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kg{}", self.0)
    }
}

impl fmt::Display for KeyGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kg{}", self.0)
    }
}

/// A contiguous, non-empty, inclusive range of key groups.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyGroupRange {
    first: KeyGroup,
    last: KeyGroup,
}

impl KeyGroupRange {
    /// The groups `first..=last`.
    ///
    /// # Errors
    /// `Invalid` if `first` is after `last` or `last` is above 32,767.
    pub fn new(first: KeyGroup, last: KeyGroup) -> Result<Self> {
        if first <= last && u32::from(last.0) < MaxParallelism::LIMIT {
            Ok(Self { first, last })
        } else {
            Err(Error::invalid("not a range of key groups")
                .expected("first <= last <= kg32767")
                .found(format_args!("{first}..={last}"))
                .remedy("use MaxParallelism::range_of_subtask to compute it"))
        }
    }

    /// The first group of the range.
    #[inline]
    pub const fn first(self) -> KeyGroup {
        self.first
    }

    /// The last group of the range; it belongs to the range.
    #[inline]
    pub const fn last(self) -> KeyGroup {
        self.last
    }

    /// Number of groups, at least 1.
    pub const fn count(self) -> u32 {
        self.last.0 as u32 - self.first.0 as u32 + 1
    }

    /// Whether `group` lies in the range.
    #[inline]
    pub const fn contains(self, group: KeyGroup) -> bool {
        self.first.0 <= group.0 && group.0 <= self.last.0
    }

    /// Whether every group of `other` lies in the range.
    pub const fn covers(self, other: Self) -> bool {
        self.contains(other.first) && self.contains(other.last)
    }

    /// The groups that both ranges hold, if any.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let first = self.first.max(other.first);
        let last = self.last.min(other.last);
        (first <= last).then_some(Self { first, last })
    }

    /// The groups in ascending order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = KeyGroup> {
        (self.first.0..=self.last.0).map(KeyGroup)
    }
}

impl fmt::Debug for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.first, self.last)
    }
}

impl fmt::Display for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.first, self.last)
    }
}

/// A shard's counter, advanced at every freeze. A record remembers the epoch
/// of its last change.
///
/// Epoch 0 is "before the first": a record restored from a table carries it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// What restored, unchanged records carry.
    pub const CLEAN: Self = Self(0);
    /// The epoch in which a new shard starts to write.
    pub const FIRST: Self = Self(1);

    /// The following epoch.
    #[inline]
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// What a snapshot shares with those before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum SnapshotMode {
    /// It names what the store has already, and uploads the rest.
    #[default]
    Incremental,
    /// Everything that it names is uploaded for it, under new names: it stands alone,
    /// whatever becomes of those before it. Costs the size of the state.
    Full,
}

impl fmt::Display for SnapshotMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incremental => "incremental",
            Self::Full => "full",
        })
    }
}

/// The runtime's number for one snapshot, usually the checkpoint id of its
/// barrier. Ascending within a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The identity of a file: never used twice, whatever its name, place or size.
///
/// The high half is drawn at random when a backend opens, the low half counts
/// up within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Random number of the backend incarnation that wrote the file.
    pub incarnation: u64,
    /// Number of the file within that incarnation.
    pub number: u64,
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08x}", self.incarnation, self.number)
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
