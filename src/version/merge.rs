//! Several tables read as one: in order, the newest record of each key.
//!
//! 1. Every source holds a copy of its next record, its *head*.
//! 2. The smallest head by (state name, group, hash, key, namespace) is the
//!    next record; of equal ones that of the newest source.
//! 3. Every source with an equal head moves on; the others keep theirs.
//!
//! In a state of collections, a marker hides what older sources hold of its
//! collection ([`collection`](crate::format::collection)). It comes before the
//! entries in every source, so that when they come, the newest marker is known:
//!
//! 4. A record of a marked collection is left out if it comes from a source
//!    older than the marker's, and if it is a deletion: the marker says as much.
//!
//! There are few sources (a shard's tables are bounded), so step 2 looks at
//! all of them rather than keeping a heap. Of one state a source is not read before its
//! slice begins, so that of many tables side by side only those at hand have buffers.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::base::{Error, KeyGroup, KeyGroupRange, Result, TimeDomain};
use crate::format::collection::{EntryName, Placement, prefix_len};
use crate::format::properties::StateProperties;
use crate::table::{TableReader, TableReads, TableScan};

use super::DroppedStates;

/// A table to be merged, the key groups of it that count, and the names of
/// states that do not.
#[derive(Debug)]
pub(crate) struct MergeSource {
    pub(crate) reader: Arc<TableReader>,
    pub(crate) slice: KeyGroupRange,
    pub(crate) dropped: DroppedStates,
}

impl MergeSource {
    /// The states whose records count.
    pub(crate) fn states(&self) -> impl Iterator<Item = &StateProperties> {
        self.reader.states().iter().filter(|state| !self.dropped.contains(&state.name))
    }
}

/// One record of the merged sequence. `value` is `None` for a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MergedRecord<'a> {
    pub(crate) state: &'a str,
    /// How the records of the state are placed.
    pub(crate) placement: Placement,
    /// Fingerprint of what the value is written under.
    pub(crate) value_schema: u64,
    /// Which time the stamps in front of the values are of.
    pub(crate) stamps: Option<TimeDomain>,
    /// What its table says that none of its stamps is above.
    pub(crate) newest_stamp: Option<u64>,
    pub(crate) group: KeyGroup,
    pub(crate) hash: u64,
    pub(crate) key: &'a [u8],
    /// An entry name in a state of collections.
    pub(crate) namespace: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

impl MergedRecord<'_> {
    /// Whether it only says something about older tables: a deletion, or the
    /// marker of a collection. Of no use where there are none.
    ///
    /// # Errors
    /// `Corrupt` if it is of a collection and has no name.
    pub(crate) fn is_only_for_older_tables(&self) -> Result<bool> {
        Ok(self.value.is_none() || self.is_marker()?)
    }

    fn is_marker(&self) -> Result<bool> {
        match self.placement {
            Placement::Single => Ok(false),
            Placement::Collection => Ok(EntryName::decode(self.namespace)?.is_marker()),
        }
    }

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
    scan: TableScan,
    /// States whose records are passed over.
    skipped: Vec<u16>,
    head: Option<Head>,
}

/// A source's next record. Its buffers are used again for the record after.
#[derive(Default)]
struct Head {
    state: u16,
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
        while let Some(record) = self.scan.next()? {
            if self.skipped.contains(&record.state) {
                continue;
            }
            head.state = record.state;
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
            break;
        }
        Ok(())
    }

    fn peek(&self) -> Option<MergedRecord<'_>> {
        let head = self.head.as_ref()?;
        let state = &self.scan.table().states()[usize::from(head.state)];
        Some(MergedRecord {
            state: &state.name,
            placement: state.placement,
            value_schema: state.value_schema,
            stamps: state.stamps,
            newest_stamp: state.newest_stamp,
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
    /// Sources that are not read yet, and where their slices begin: the first last.
    later: Vec<(KeyGroup, usize)>,
    /// The last marker that was given out.
    marker: Option<Marker>,
}

/// The marker of a collection, and the source that has the newest one.
struct Marker {
    state: String,
    group: KeyGroup,
    hash: u64,
    key: Vec<u8>,
    /// What the names of the collection begin with.
    prefix: Vec<u8>,
    source: usize,
}

impl Marker {
    /// Whether a record belongs to the collection.
    fn covers(&self, record: &MergedRecord<'_>) -> bool {
        (self.hash, self.group) == (record.hash, record.group)
            && self.key == record.key
            && record.namespace.starts_with(&self.prefix)
            && self.state == record.state
    }
}

impl MergeScan {
    /// Starts at the first record. `sources` are ordered oldest first.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` if a table cannot be read.
    pub(crate) fn new(sources: Vec<MergeSource>) -> Result<Self> {
        let of_source = |source: MergeSource| {
            let names = source.dropped.iter();
            let skipped = names.filter_map(|name| source.reader.state_ordinal(name)).collect();
            (source.reader.scan(source.slice), skipped)
        };
        Self::skipping(sources.into_iter().map(of_source).collect())
    }

    /// As [`new`](Self::new), for one state, whose ordinal is beside each table
    /// and whose records count in all of them. Reads nothing yet.
    pub(crate) fn of_state(sources: Vec<(MergeSource, u16)>) -> Self {
        let scans = sources
            .into_iter()
            .map(|(source, ordinal)| source.reader.scan_state(ordinal, source.slice));
        Self::of(scans.collect())
    }

    /// The same of scans of one state, or of one collection of it.
    pub(crate) fn of(scans: Vec<TableScan>) -> Self {
        let mut later: Vec<_> = scans.iter().map(|scan| scan.groups().first()).zip(0..).collect();
        later.sort_unstable_by(|a, b| b.cmp(a));
        let unread = |scan| Source { scan, skipped: Vec::new(), head: None };
        let sources: Vec<_> = scans.into_iter().map(unread).collect();
        Self { spent: Vec::with_capacity(sources.len()), sources, later, marker: None }
    }

    /// As [`new`](Self::new); records of the states beside each scan are passed over.
    fn skipping(scans: Vec<(TableScan, Vec<u16>)>) -> Result<Self> {
        let mut sources = Vec::with_capacity(scans.len());
        for (scan, skipped) in scans {
            let mut source = Source { scan, skipped, head: None };
            source.advance()?;
            sources.push(source);
        }
        let spent = Vec::with_capacity(sources.len());
        Ok(Self { spent, sources, later: Vec::new(), marker: None })
    }

    /// Adds what was read so far, of each table.
    pub(crate) fn count_reads(&self, reads: &mut TableReads) {
        self.sources.iter().for_each(|source| source.scan.count_reads(reads));
    }

    /// Bytes of the buffers of all sources.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let of_head =
            |head: &Head| head.key.capacity() + head.namespace.capacity() + head.value.capacity();
        let of_source = |source: &Source| {
            source.scan.memory_bytes() + source.head.as_ref().map_or(0, of_head) as u64
        };
        self.sources.iter().map(of_source).sum()
    }

    /// The next record, borrowed until the next call; `None` at the end.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` if a table cannot be read, `Incompatible` if
    /// two of them hold the same state in different ways. The scan is then of no
    /// more use.
    pub(crate) fn next(&mut self) -> Result<Option<MergedRecord<'_>>> {
        self.step()?;
        Ok(self.current())
    }

    /// Moves on to the next record, for [`current`](Self::current) to lend;
    /// `false` at the end.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(crate) fn step(&mut self) -> Result<bool> {
        loop {
            for &spent in &self.spent {
                self.sources[spent].advance()?;
            }
            self.choose_of_all()?;
            let Some(&newest) = self.spent.last() else { return Ok(false) };
            if !self.is_hidden(newest)? {
                return Ok(true);
            }
        }
    }

    /// The record that the last step moved on to.
    pub(crate) fn current(&self) -> Option<MergedRecord<'_>> {
        self.sources[*self.spent.last()?].peek()
    }

    /// Chooses, having begun to read all sources that may have the smallest head.
    fn choose_of_all(&mut self) -> Result<()> {
        loop {
            self.choose()?;
            let group = self.current().map(|record| record.group);
            let begins =
                |&mut (first, _): &mut (KeyGroup, usize)| group.is_none_or(|group| first <= group);
            let Some((_, at)) = self.later.pop_if(begins) else { return Ok(()) };
            self.sources[at].advance()?;
        }
    }

    /// Puts the sources with the smallest head into `spent`, the newest last.
    fn choose(&mut self) -> Result<()> {
        self.spent.clear();
        let mut best: Option<MergedRecord<'_>> = None;
        for (at, source) in self.sources.iter().enumerate() {
            let Some(head) = source.peek() else { continue };
            if let Some(best) = best {
                if best.placement != head.placement && best.state == head.state {
                    return Err(placed_differently(&head));
                }
                match head.order(&best) {
                    Ordering::Greater => continue,
                    Ordering::Less => self.spent.clear(),
                    Ordering::Equal => {}
                }
            }
            self.spent.push(at);
            best = Some(head);
        }
        Ok(())
    }

    /// Whether a marker hides the head of `source`, the newest of its name.
    /// Notes it if it is a marker itself.
    fn is_hidden(&mut self, source: usize) -> Result<bool> {
        let Some(head) = self.sources[source].peek() else { return Ok(false) };
        if head.placement == Placement::Single {
            return Ok(false);
        }
        if head.is_marker()? {
            self.marker = Some(Marker {
                state: head.state.to_owned(),
                group: head.group,
                hash: head.hash,
                key: head.key.to_vec(),
                prefix: head.namespace[..prefix_len(head.namespace)?].to_vec(),
                source,
            });
            return Ok(false);
        }
        Ok(self.marker.as_ref().is_some_and(|marker| {
            marker.covers(&head) && (source < marker.source || head.value.is_none())
        }))
    }
}

#[cold]
fn placed_differently(record: &MergedRecord<'_>) -> Error {
    Error::incompatible("tables of one shard place the records of a state in different ways")
        .at(format_args!("state {:?}", record.state))
        .remedy("a state cannot change between single values and collections: use another name")
}
