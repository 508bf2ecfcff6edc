//! What tables have of one collection, put together for memory.

use crate::base::{Error, KeyGroup, Result};
use crate::format::manifest::StateKind;
use crate::memtable::collection::NEVER;
use crate::memtable::collection::build::{BuiltMap, MapBuilder};
use crate::memtable::collection::elements::{Elements, MAX_ELEMENTS_BYTES};
use crate::memtable::maps::MapAt;
use crate::memtable::{Memtable, Probe};

/// The live entries of one collection, oldest or lowest first.
#[derive(Debug)]
pub(crate) enum Assembly {
    /// The elements of a list, one chunk behind the other.
    List { elements: Vec<u8>, timed: bool },
    /// The entries of a map.
    Map { map: MapBuilder, timed: bool },
}

/// A collection as tables have it.
#[derive(Debug)]
pub(crate) enum Contents {
    /// Sound elements of a list.
    List(Vec<u8>),
    /// A map.
    Map(BuiltMap),
}

impl Assembly {
    /// Without entries, for a state of this kind whose values have stamps or not;
    /// `None` if it holds single values.
    pub(crate) fn new(kind: StateKind, timed: bool) -> Option<Self> {
        match kind {
            StateKind::List => Some(Self::List { elements: Vec::new(), timed }),
            StateKind::Map => Some(Self::Map { map: MapBuilder::default(), timed }),
            _ => None,
        }
    }

    /// Takes in the next entry.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be one; `Invalid` if a list becomes too long, as
    /// one may that was only ever appended to unseen.
    pub(crate) fn push(&mut self, entry: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Self::List { elements, timed } => {
                check_chunk_entry(entry)?;
                Elements::parse(value, *timed)?;
                if elements.len() + value.len() > MAX_ELEMENTS_BYTES {
                    return Err(too_long(elements.len() + value.len()));
                }
                elements.extend_from_slice(value);
                Ok(())
            }
            Self::Map { map, timed: false } => map.push(entry, value, NEVER),
            Self::Map { map, timed: true } => {
                let Some((stamp, value)) = value.split_first_chunk() else {
                    return Err(Error::corrupt("the value of a map entry has no stamp"));
                };
                map.push(entry, value, u64::from_le_bytes(*stamp))
            }
        }
    }

    /// Bytes so far, roughly.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::List { elements, .. } => elements.len(),
            Self::Map { map, .. } => map.bytes(),
        }
    }

    /// The collection, which may turn out to be empty.
    ///
    /// # Errors
    /// `Invalid` if it is too large for memory's layouts.
    pub(crate) fn finish(self) -> Result<Contents> {
        Ok(match self {
            Self::List { elements, .. } => Contents::List(elements),
            Self::Map { map, .. } => Contents::Map(map.finish()?),
        })
    }
}

impl Contents {
    /// Bytes that it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::List(elements) => elements.len(),
            Self::Map(map) => map.root.len() + map.pages.iter().map(Vec::len).sum::<usize>(),
        }
    }

    /// Brings it into memory, unless the memtable knows better.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had.
    pub(super) fn promote(
        &self,
        memtable: &mut Memtable,
        group: KeyGroup,
        key: &[u8],
        namespace: &[u8],
    ) -> Result<()> {
        match self {
            Self::List(elements) => {
                let probe: Probe<'_> = memtable.probe(group, key, namespace);
                let elements = Elements::parse(elements, memtable.is_timed())?;
                memtable.promote_list(&probe, elements)
            }
            Self::Map(map) => {
                memtable.promote_map(&mut MapAt::new(group, key, namespace, Vec::new()), map)
            }
        }
    }
}

/// The number of the chunk that a delta's elements of a list have in its table.
pub(super) fn chunk_entry(sequence: u64) -> [u8; 8] {
    sequence.to_be_bytes()
}

/// Refuses the entry of a list that is not a number of a chunk.
pub(super) fn check_chunk_entry(entry: &[u8]) -> Result<()> {
    if entry.len() == 8 {
        return Ok(());
    }
    Err(Error::corrupt("a chunk of a list has a bad number")
        .expected("8 bytes")
        .found(format_args!("{} bytes", entry.len())))
}

#[cold]
fn too_long(found: usize) -> Error {
    Error::invalid("a list has become too long to be in memory")
        .expected(format_args!("at most {MAX_ELEMENTS_BYTES} bytes"))
        .found(format_args!("{found} bytes or more"))
        .remedy("replace or clear it, and spread what comes over several keys")
}
