//! In which records two checkpoints differ.
//!
//! Both are read in the order of their tables and compared record by record; a list is
//! compared as a whole, since its chunks may lie otherwise after a merge. Key groups
//! whose files are the very same in both are not read at all.
//!
//! Records are compared as they are stored: one that was written anew under another
//! schema is changed. A time of the last write that moved without the value is no change.

use std::cmp::Ordering;

use super::states::{OperatorReader, Part, Record, StateScan};
use crate::base::{KeyGroup, Result};
use crate::codec::Schema;
use crate::format::collection::encode_prefix;

/// How many records differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Differences {
    /// Only in the later one.
    pub added: u64,
    /// Only in the earlier one.
    pub removed: u64,
    /// In both, with another value.
    pub changed: u64,
    /// In both and equal, as far as was read.
    pub same: u64,
    /// Key groups that were not read, since their files are the same.
    pub groups_skipped: u32,
}

impl Differences {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.added + self.removed + self.changed == 0
    }
}

/// A value, or an element of a list, with what it is written under.
pub type Stored = (Schema, Vec<u8>);

/// A record, or a list, in which the two differ.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    /// The key group of its key.
    pub group: KeyGroup,
    /// Its key.
    pub key: &'a [u8],
    /// Its namespace.
    pub namespace: &'a [u8],
    /// The key of a map's entry.
    pub entry: Option<&'a [u8]>,
    /// The time of a timer.
    pub time: Option<i64>,
    /// What the earlier one has: nothing, one value, or the elements of a list.
    pub before: &'a [Stored],
    /// What the later one has.
    pub after: &'a [Stored],
}

/// One record, or one list, of a side.
#[derive(Default)]
struct Head {
    group: u16,
    hash: u64,
    key: Vec<u8>,
    /// What orders those of one key.
    name: Vec<u8>,
    namespace: Vec<u8>,
    entry: Option<Vec<u8>>,
    time: Option<i64>,
    values: Vec<Stored>,
}

impl Head {
    fn of(record: &Record<'_>) -> Self {
        let mut name = Vec::new();
        let (mut entry, mut time) = (None, None);
        match record.part {
            Part::Whole => name.extend_from_slice(record.namespace),
            Part::Element(_) => encode_prefix(record.namespace, &mut name),
            Part::Entry(of) => {
                encode_prefix(record.namespace, &mut name);
                name.extend_from_slice(of);
                entry = Some(of.to_vec());
            }
            Part::Timer(of) => {
                name.extend_from_slice(&(of as u64 ^ 1 << 63).to_be_bytes());
                name.extend_from_slice(record.namespace);
                time = Some(of);
            }
        }
        Self {
            group: record.group.0,
            hash: record.hash,
            key: record.key.to_vec(),
            name,
            namespace: record.namespace.to_vec(),
            entry,
            time,
            values: vec![(record.schema.clone(), record.value.to_vec())],
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        (self.group, self.hash, &self.key, &self.name).cmp(&(
            other.group,
            other.hash,
            &other.key,
            &other.name,
        ))
    }

    fn change<'a>(&'a self, before: &'a [Stored], after: &'a [Stored]) -> Change<'a> {
        Change {
            group: KeyGroup(self.group),
            key: &self.key,
            namespace: &self.namespace,
            entry: self.entry.as_deref(),
            time: self.time,
            before,
            after,
        }
    }
}

/// One of the two, read head by head.
struct Side {
    scan: StateScan,
    head: Option<Head>,
    /// The first element of the next list.
    ahead: Option<Head>,
}

impl Side {
    fn new(scan: StateScan) -> Result<Self> {
        let mut side = Self { scan, head: None, ahead: None };
        side.advance()?;
        Ok(side)
    }

    fn advance(&mut self) -> Result<()> {
        self.head = match self.ahead.take() {
            Some(ahead) => Some(ahead),
            None => self.scan.next()?.map(|record| Head::of(&record)),
        };
        let Some(head) = &mut self.head else { return Ok(()) };
        while let Some(record) = self.scan.next()? {
            if !matches!(record.part, Part::Element(place) if place > 0) {
                self.ahead = Some(Head::of(&record));
                break;
            }
            head.values.push((record.schema.clone(), record.value.to_vec()));
        }
        Ok(())
    }
}

/// Compares a keyed state of one operator in two checkpoints, and shows what differs.
/// A state that one of them does not have is empty there.
///
/// # Errors
/// `Invalid` if neither has the state; `Incompatible` if the numbers of key groups
/// differ; `Corrupt` or `Unavailable` if a file cannot be read; those of `visit`.
pub fn diff(
    before: &OperatorReader,
    after: &OperatorReader,
    state: &str,
    visit: &mut dyn FnMut(&Change<'_>) -> Result<()>,
) -> Result<Differences> {
    let ranges = before.differing_groups(after, state)?;
    let read: u32 = ranges.iter().map(|range| range.count()).sum();
    let mut found = Differences {
        groups_skipped: before.max_parallelism().get() - read,
        ..Differences::default()
    };
    let known = |of: &OperatorReader| of.states().iter().any(|known| known.name == state);
    if !known(before) {
        after.state(state)?;
    }
    let side = |of: &OperatorReader| -> Result<Option<Side>> {
        match known(of) {
            true => of.scan_ranges(state, &ranges).and_then(Side::new).map(Some),
            false => Ok(None),
        }
    };
    let (mut one, mut other) = (side(before)?, side(after)?);
    loop {
        let head =
            |side: &'_ Option<Side>| side.as_ref().and_then(|side| side.head.as_ref()).is_some();
        let order = match (head(&one), head(&other)) {
            (false, false) => return Ok(found),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (true, true) => {
                let heads = one.as_ref().zip(other.as_ref());
                let heads = heads.and_then(|(a, b)| a.head.as_ref().zip(b.head.as_ref()));
                heads.map_or(Ordering::Equal, |(a, b)| a.order(b))
            }
        };
        let left = one.as_mut().filter(|_| order != Ordering::Greater);
        let right = other.as_mut().filter(|_| order != Ordering::Less);
        let left_head = left.as_ref().and_then(|side| side.head.as_ref());
        let right_head = right.as_ref().and_then(|side| side.head.as_ref());
        match (left_head, right_head) {
            (Some(a), Some(b)) if a.values == b.values => found.same += 1,
            (Some(a), Some(b)) => {
                found.changed += 1;
                visit(&a.change(&a.values, &b.values))?;
            }
            (Some(a), None) => {
                found.removed += 1;
                visit(&a.change(&a.values, &[]))?;
            }
            (None, Some(b)) => {
                found.added += 1;
                visit(&b.change(&[], &b.values))?;
            }
            (None, None) => return Ok(found),
        }
        for side in [left, right].into_iter().flatten() {
            side.advance()?;
        }
    }
}
