//! Records of tables on their way through the sort of an export: into canonical form
//! before it, and into entries behind it.

use super::export_states::StateInput;
use super::order;
use super::sort::Sorter;
use crate::base::time::UNKNOWN_STAMP;
use crate::base::{Error, KeyGroup, Result, TimeDomain};
use crate::codec::{Reader, varint};
use crate::format::canonical::{Entry, Name, instant_of_stamp};
use crate::format::collection::{EntryName, Subkey};
use crate::format::manifest::StateKind;
use crate::memtable::collection::elements::Elements;
use crate::version::merge::MergedRecord;

const STAMP_BYTES: usize = 8;
const TIME_BYTES: usize = 8;

/// Brings records of tables into canonical form and into the sort.
///
/// ```text
/// key:    | section u32 | key | namespace u8: 0, or 1 and | namespace | group u16: 0, or one more |
///         | user key, time, or number of the chunk |
/// value:  | schema u16 | stamp u64, if the state has a time to live | value |
///         | schema u16 | length varint | stamp u64 | element | ... |     of a list
/// ```
///
/// Numbers of the key are big-endian, those of the value little-endian.
pub(super) struct Taker {
    first: u32,
    key: Vec<u8>,
    value: Vec<u8>,
    /// The position of the last record's state.
    last: Option<usize>,
}

impl Taker {
    /// For an operator whose sections begin with number `first`.
    pub(super) fn new(first: u32) -> Self {
        Self { first, key: Vec::new(), value: Vec::new(), last: None }
    }

    /// Takes in a live record; `chosen` is its key group if that does not follow from its
    /// key.
    ///
    /// # Errors
    /// `Corrupt` if the record is not one of its state, `Unavailable` if the working
    /// directory fails.
    pub(super) fn take(
        &mut self,
        states: &mut [StateInput],
        record: &MergedRecord<'_>,
        chosen: Option<KeyGroup>,
        sorter: &mut Sorter<'_>,
    ) -> Result<()> {
        let at = match self.last {
            Some(at) if states[at].meta.name == record.state => at,
            _ => states
                .binary_search_by(|state| state.meta.name.as_str().cmp(record.state))
                .map_err(|_| Error::internal("a table has a state that its manifest has not"))?,
        };
        self.last = Some(at);
        self.take_of(&mut states[at], at, record, chosen, sorter)
            .map_err(|error| error.at(format_args!("state {:?}", record.state)))
    }

    fn take_of(
        &mut self,
        state: &mut StateInput,
        at: usize,
        record: &MergedRecord<'_>,
        chosen: Option<KeyGroup>,
        sorter: &mut Sorter<'_>,
    ) -> Result<()> {
        let kind = state.meta.kind;
        let (namespace, name) = match kind {
            StateKind::List | StateKind::Map => {
                let EntryName { namespace, subkey } = EntryName::decode(record.namespace)?;
                match subkey {
                    Subkey::Entry(entry) => (namespace, entry),
                    Subkey::Marker => return Ok(()),
                }
            }
            StateKind::Timers => match record.namespace.split_first_chunk::<TIME_BYTES>() {
                Some((time, namespace)) => (namespace, &time[..]),
                None => return Err(Error::corrupt("a table holds something that is no timer")),
            },
            StateKind::Value | StateKind::Reducing | StateKind::Aggregating => {
                (record.namespace, &[][..])
            }
        };
        let stored = record.value.unwrap_or_default();
        let schema = state.schema(record.value_schema)?;
        let schema_bytes = (schema as u16).to_le_bytes();
        let (entries, bytes, value) = match kind {
            StateKind::List => {
                let (count, bytes) = self.take_elements(state, record.stamps, stored)?;
                if count == 0 {
                    return Ok(());
                }
                (count, bytes, None)
            }
            StateKind::Timers => (1, TIME_BYTES as u64, Some((None, stored))),
            _ => {
                let (stamp, value) = split_stamp(record.stamps, stored)?;
                let stamp = stamp_in(state, record.stamps, stamp);
                if stamp.is_some_and(|stamp| is_expired(state, stamp)) {
                    return Ok(());
                }
                let named = name.len() + value.len();
                (1, named as u64, Some((stamp, value)))
            }
        };
        state.used[schema] = true;
        state.entries += entries;
        state.bytes += entries * (record.key.len() + namespace.len()) as u64 + bytes;
        self.key.clear();
        self.key.extend_from_slice(&(self.first + at as u32).to_be_bytes());
        order::put(&mut self.key, record.key);
        if namespace.is_empty() {
            self.key.push(0);
        } else {
            self.key.push(1);
            order::put(&mut self.key, namespace);
        }
        self.key.extend_from_slice(&chosen.map_or(0, |group| group.0 + 1).to_be_bytes());
        self.key.extend_from_slice(name);
        match value {
            None => sorter.push(&self.key, &[&schema_bytes, &self.value]),
            Some((None, value)) => sorter.push(&self.key, &[&schema_bytes, value]),
            Some((Some(stamp), value)) => {
                sorter.push(&self.key, &[&schema_bytes, &stamp.to_le_bytes(), value])
            }
        }
    }

    /// Takes the elements of a chunk that have not expired, and counts them and their
    /// bytes.
    fn take_elements(
        &mut self,
        state: &StateInput,
        stamps: Option<TimeDomain>,
        stored: &[u8],
    ) -> Result<(u64, u64)> {
        self.value.clear();
        let (mut count, mut bytes) = (0, 0);
        for element in Elements::parse(stored, stamps.is_some())?.iter() {
            let stamp = stamp_in(state, stamps, stamps.map(|_| element.stamp));
            if stamp.is_some_and(|stamp| is_expired(state, stamp)) {
                continue;
            }
            count += 1;
            bytes += element.value.len() as u64;
            varint::put_u64(&mut self.value, element.value.len() as u64);
            if let Some(stamp) = stamp {
                self.value.extend_from_slice(&stamp.to_le_bytes());
            }
            self.value.extend_from_slice(element.value);
        }
        Ok((count, bytes))
    }
}

/// The stamp that something of a state has in the savepoint.
fn stamp_in(state: &StateInput, stamps: Option<TimeDomain>, stored: Option<u64>) -> Option<u64> {
    let ttl = state.meta.ttl?;
    Some(match stored {
        Some(stamp) if stamps == Some(ttl.time) => stamp.max(UNKNOWN_STAMP),
        _ => state.unstamped,
    })
}

fn is_expired(state: &StateInput, stamp: u64) -> bool {
    state.cutoff != 0 && stamp <= state.cutoff
}

/// Splits a stored value into its stamp, if it has one, and the rest.
fn split_stamp(stamps: Option<TimeDomain>, value: &[u8]) -> Result<(Option<u64>, &[u8])> {
    if stamps.is_none() {
        return Ok((None, value));
    }
    match value.split_first_chunk::<STAMP_BYTES>() {
        Some((stamp, value)) => Ok((Some(u64::from_le_bytes(*stamp)), value)),
        None => Err(Error::corrupt("a value has no stamp")
            .expected(format_args!("at least {STAMP_BYTES} bytes"))
            .found(format_args!("{} bytes", value.len()))),
    }
}

fn each_element(
    elements: &[u8],
    is_timed: bool,
    mut visit: impl FnMut(Option<u64>, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader::new("elements in a sort", elements);
    while reader.remaining() > 0 {
        let len = reader.varint_u64("length")? as usize;
        let stamp = if is_timed { Some(reader.u64("stamp")?) } else { None };
        visit(stamp, reader.take("element", len)?)?;
    }
    Ok(())
}

/// Makes entries of what came out of the sort.
#[derive(Default)]
pub(super) struct Putter {
    key: Vec<u8>,
    namespace: Vec<u8>,
}

/// What the entries of a state look like.
#[derive(Clone, Copy)]
pub(super) struct Entries<'n> {
    pub(super) kind: StateKind,
    pub(super) is_timed: bool,
    /// Where the schemas are in the head.
    pub(super) numbers: &'n [usize],
}

impl Putter {
    /// Shows the entries of a record, whose key is without the section.
    ///
    /// # Errors
    /// Those of `push`; `Corrupt` if it is no such record.
    pub(super) fn record(
        &mut self,
        key: &[u8],
        value: &[u8],
        entries: Entries<'_>,
        mut push: impl FnMut(&Entry<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut reader = Reader::new("sorted record", order::take(key, &mut self.key)?);
        if reader.u8("namespace")? == 0 {
            self.namespace.clear();
        } else {
            let rest = order::take(reader.rest(), &mut self.namespace)?;
            reader = Reader::new("sorted record", rest);
        }
        let group = u16::from_be_bytes(reader.array("group")?).checked_sub(1).map(KeyGroup);
        let name = reader.rest();
        let mut reader = Reader::new("sorted record", value);
        let schema = entries.numbers[usize::from(reader.u16("schema")?)];
        let (key, namespace) = (&*self.key, &*self.namespace);
        let entry =
            Entry { key, namespace, group, name: Name::None, schema, stamp: None, value: &[] };
        match entries.kind {
            StateKind::List => {
                return each_element(reader.rest(), entries.is_timed, |stamp, value| {
                    push(&Entry { stamp: stamp.map(instant_of_stamp), value, ..entry })
                });
            }
            StateKind::Timers => {
                let mut time = Reader::new("sorted record", name);
                let flipped = u64::from_be_bytes(time.array("time")?);
                return push(&Entry { name: Name::Time((flipped ^ 1 << 63) as i64), ..entry });
            }
            _ => {}
        }
        let stamp = if entries.is_timed { Some(reader.u64("stamp")?) } else { None };
        let name = match entries.kind {
            StateKind::Map => Name::Key(name),
            _ => Name::None,
        };
        let stamp = stamp.map(instant_of_stamp);
        push(&Entry { name, stamp, value: reader.rest(), ..entry })
    }
}
