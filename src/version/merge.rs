//! Several tables read as one: in order, the newest record of each key.
//!
//! 1. Every source holds a copy of its next record, its *head*.
//! 2. The smallest head by (state name, group, hash, key, namespace) is the
//!    next record; of equal ones that of the newest source.
//! 3. Every source with an equal head moves on; the others keep theirs.
//!
//! There are few sources (a shard's tables are bounded), so step 2 looks at
//! all of them rather than keeping a heap.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::base::{KeyGroup, KeyGroupRange, Result};
use crate::table::{TableReader, TableScan};

/// A table to be merged, and the key groups of it that count.
#[derive(Debug)]
pub(crate) struct MergeSource {
    pub(crate) reader: Arc<TableReader>,
    pub(crate) slice: KeyGroupRange,
}

/// One record of the merged sequence. `value` is `None` for a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MergedRecord<'a> {
    pub(crate) state: &'a str,
    /// Fingerprint of what the value is written under.
    pub(crate) value_schema: u64,
    pub(crate) group: KeyGroup,
    pub(crate) hash: u64,
    pub(crate) key: &'a [u8],
    pub(crate) namespace: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

impl MergedRecord<'_> {
    fn order(&self, other: &MergedRecord<'_>) -> Ordering {
        (self.state.as_bytes(), self.group, self.hash, self.key, self.namespace).cmp(&(
            other.state.as_bytes(),
            other.group,
            other.hash,
            other.key,
            other.namespace,
        ))
    }
}

struct Source {
    /// Names and value schemas of the states, by their ordinals.
    states: Vec<(Arc<str>, u64)>,
    scan: TableScan,
    head: Option<Head>,
}

/// A source's next record. Its buffers are used again for the record after.
#[derive(Default)]
struct Head {
    state: usize,
    group: u16,
    hash: u64,
    key: Vec<u8>,
    namespace: Vec<u8>,
    value: Vec<u8>,
    deleted: bool,
}

impl Source {
    fn advance(&mut self) -> Result<()> {
        let mut head = self.head.take().unwrap_or_default();
        if let Some(record) = self.scan.next()? {
            head.state = usize::from(record.state);
            head.group = record.group.0;
            head.hash = record.hash;
            head.key.clear();
            head.key.extend_from_slice(record.key);
            head.namespace.clear();
            head.namespace.extend_from_slice(record.namespace);
            head.value.clear();
            head.value.extend_from_slice(record.value.unwrap_or_default());
            head.deleted = record.value.is_none();
            self.head = Some(head);
        }
        Ok(())
    }

    fn peek(&self) -> Option<MergedRecord<'_>> {
        self.head.as_ref().map(|head| MergedRecord {
            state: &self.states[head.state].0,
            value_schema: self.states[head.state].1,
            group: KeyGroup(head.group),
            hash: head.hash,
            key: &head.key,
            namespace: &head.namespace,
            value: (!head.deleted).then_some(&head.value),
        })
    }
}

/// See the [module documentation](self).
pub(crate) struct MergeScan {
    /// Oldest first.
    sources: Vec<Source>,
    /// Sources whose heads were given out and must move on.
    spent: Vec<usize>,
}

impl MergeScan {
    /// Starts at the first record. `sources` are ordered oldest first.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` if a table cannot be read.
    pub(crate) fn new(sources: Vec<MergeSource>) -> Result<Self> {
        let scans = sources.into_iter().map(|source| source.reader.scan(source.slice));
        Self::over(scans.collect())
    }

    /// As [`new`](Self::new), for one state, whose ordinal is beside each table.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn of_state(sources: Vec<(MergeSource, u16)>) -> Result<Self> {
        let scans = sources
            .into_iter()
            .map(|(source, ordinal)| source.reader.scan_state(ordinal, source.slice));
        Self::over(scans.collect())
    }

    fn over(scans: Vec<TableScan>) -> Result<Self> {
        let mut all = Vec::with_capacity(scans.len());
        for scan in scans {
            let states = scan.table().states().iter();
            let states =
                states.map(|state| (Arc::from(&*state.name), state.value_schema)).collect();
            let mut source = Source { states, scan, head: None };
            source.advance()?;
            all.push(source);
        }
        Ok(Self { spent: Vec::with_capacity(all.len()), sources: all })
    }

    /// The next record, borrowed until the next call; `None` at the end.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` if a table cannot be read. The scan is then
    /// of no more use.
    pub(crate) fn next(&mut self) -> Result<Option<MergedRecord<'_>>> {
        for spent in std::mem::take(&mut self.spent) {
            self.sources[spent].advance()?;
        }
        let mut best: Option<MergedRecord<'_>> = None;
        for (at, source) in self.sources.iter().enumerate() {
            let Some(head) = source.peek() else { continue };
            let order = best.map_or(Ordering::Less, |best| head.order(&best));
            match order {
                Ordering::Greater => continue,
                Ordering::Less => self.spent.clear(),
                Ordering::Equal => {}
            }
            self.spent.push(at);
            best = Some(head);
        }
        Ok(best)
    }
}
