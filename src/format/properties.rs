//! What a table holds, counted.
//!
//! ```text
//! properties:  | max_parallelism u16 | first group u16 | last group u16 | states u16 | state | ... |
//!              0                     2                 4                6            8
//! state:       | name | placement u8 | stamps u8 | newest stamp u64, if stamps is 3 or 4 |
//!              | filtered u8 | value schema u64 |
//!              | blocks | records | tombstones | key bytes | namespace bytes | value bytes |
//! ```
//!
//! A name is a varint length and UTF-8; the counts are varints. The placement is
//! drawn in [`collection`](super::collection); the value schema is a fingerprint
//! (see schema.rs), and the manifest has the schema itself. The stamps say what is
//! in front of each value (of each element of a list): 0 nothing, 1 and 2 eight
//! bytes, the milliseconds of its last write in processing time or in event time,
//! little-endian, sign bit flipped; 1 is a time that is not known. 3 and 4 are as 1 and 2,
//! and say besides that no value (no element) has a stamp above the newest one. Without it
//! nothing is known of that; a state of deletions alone has none. `filtered` is 1 if the
//! state's records are in the filter, 0 if the filter knows nothing of them. States ascend
//! by the bytes of their names; a state's ordinal is its place in this list, and its blocks
//! are those behind the blocks of the states before.
//! `first group` to `last group` is the range that the records cover.

use super::collection::Placement;
use crate::base::limits::MAX_STATE_NAME_BYTES;
use crate::base::{Error, ErrorKind, KeyGroup, KeyGroupRange, MaxParallelism, Result, TimeDomain};
use crate::codec::{Reader, varint};

/// What a table holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Properties {
    /// Number of key groups of the job.
    pub max_parallelism: MaxParallelism,
    /// The groups from the first record to the last.
    pub groups: KeyGroupRange,
    /// The states, in ascending order of their names; ordinals are places.
    pub states: Vec<StateProperties>,
}

/// What a table holds of one state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateProperties {
    /// Name of the state.
    pub name: String,
    /// How its records are placed.
    pub placement: Placement,
    /// Which time the stamps in front of its values are of; `None` if there are
    /// none.
    pub stamps: Option<TimeDomain>,
    /// No stamp is above this one; `None` if that is not known, or there are none.
    pub newest_stamp: Option<u64>,
    /// Whether the filter knows its records; if not, it excludes none of them.
    pub filtered: bool,
    /// Fingerprint of the schema that its values were written under.
    pub value_schema: u64,
    /// Number of data blocks.
    pub blocks: u64,
    /// Number of records, tombstones included.
    pub records: u64,
    /// Number of tombstones.
    pub tombstones: u64,
    /// Sum of the lengths of the keys.
    pub key_bytes: u64,
    /// Sum of the lengths of the namespaces.
    pub namespace_bytes: u64,
    /// Sum of the lengths of the values.
    pub value_bytes: u64,
}

/// Fewest bytes that a state takes: a name of one byte, its length, the
/// placement, the stamps, whether it is filtered, the schema and six counts.
const MIN_STATE_BYTES: usize = 19;

impl Properties {
    /// The payload of the properties.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_max_parallelism(self.max_parallelism, &mut out);
        encode_groups(self.groups, &mut out);
        out.extend_from_slice(&(self.states.len() as u16).to_le_bytes());
        for state in &self.states {
            varint::put_u64(&mut out, state.name.len() as u64);
            out.extend_from_slice(state.name.as_bytes());
            out.push(state.placement as u8);
            encode_stamps(state, &mut out);
            out.push(u8::from(state.filtered));
            out.extend_from_slice(&state.value_schema.to_le_bytes());
            for count in [
                state.blocks,
                state.records,
                state.tombstones,
                state.key_bytes,
                state.namespace_bytes,
                state.value_bytes,
            ] {
                varint::put_u64(&mut out, count);
            }
        }
        out
    }

    /// Reads the payload back.
    ///
    /// # Errors
    /// `Corrupt` if it is not the properties of any table, `Incompatible` if it
    /// places records in a way that is not known here.
    pub fn decode(payload: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("properties", payload);
        let max_parallelism = decode_max_parallelism(&mut reader)?;
        let groups = decode_groups(&mut reader, max_parallelism.all_groups())?;
        let count = usize::from(reader.u16("state count")?);
        if count > reader.remaining() / MIN_STATE_BYTES {
            return Err(reader.corrupt("state count", "what the bytes can hold", count));
        }
        let mut states: Vec<StateProperties> = Vec::with_capacity(count);
        for _ in 0..count {
            let state = decode_state(&mut reader)?;
            if states.last().is_some_and(|before| before.name >= state.name) {
                return Err(reader.corrupt("state order", "ascending names", state.name));
            }
            states.push(state);
        }
        reader.finish()?;
        Ok(Self { max_parallelism, groups, states })
    }

    /// The ordinal of the state of this name, if the table knows it.
    pub fn ordinal(&self, name: &str) -> Option<u16> {
        let at = self.states.binary_search_by(|state| state.name.as_str().cmp(name)).ok()?;
        u16::try_from(at).ok()
    }

    /// The first block of each state, and at last the number of all blocks:
    /// what an [`Index`](super::index::Index) is read with.
    ///
    /// # Errors
    /// `Corrupt` if there are more than any index can hold.
    pub fn block_starts(&self) -> Result<Box<[u32]>> {
        let mut starts = Vec::with_capacity(self.states.len() + 1);
        starts.push(0);
        let mut sum = 0u64;
        for state in &self.states {
            sum = sum.saturating_add(state.blocks);
            let Ok(start) = u32::try_from(sum) else {
                return Err(Error::corrupt("properties name more blocks than a table can have")
                    .at(format_args!("state {:?}", state.name))
                    .expected(format_args!("at most {}", u32::MAX))
                    .found(sum));
            };
            starts.push(start);
        }
        Ok(starts.into())
    }

    /// A sum over all states; saturates instead of overflowing.
    pub fn total(&self, count: impl Fn(&StateProperties) -> u64) -> u64 {
        self.states.iter().fold(0, |sum, state| sum.saturating_add(count(state)))
    }
}

impl StateProperties {
    /// Bytes of keys, namespaces and values; saturates instead of overflowing.
    pub fn raw_bytes(&self) -> u64 {
        self.key_bytes.saturating_add(self.namespace_bytes).saturating_add(self.value_bytes)
    }
}

/// What is added to the number of a time if the newest stamp follows. DO NOT CHANGE:
/// on disk.
const WITH_NEWEST: u8 = 2;

fn encode_stamps(state: &StateProperties, out: &mut Vec<u8>) {
    match state.stamps.and(state.newest_stamp) {
        Some(newest) => {
            out.push(encode_time(state.stamps) + WITH_NEWEST);
            out.extend_from_slice(&newest.to_le_bytes());
        }
        None => out.push(encode_time(state.stamps)),
    }
}

fn decode_stamps(reader: &mut Reader<'_>) -> Result<(Option<TimeDomain>, Option<u64>)> {
    let number = reader.u8("stamps")?;
    let (time, has_newest) = match number.checked_sub(WITH_NEWEST) {
        Some(time @ 1..) => (time, true),
        _ => (number, false),
    };
    let Some(stamps) = time_of(time) else {
        return Err(unknown_time("stamps", reader)
            .expected("0 to 4: none, processing time, event time, both with the newest stamp")
            .found(number));
    };
    let newest = if has_newest { Some(reader.u64("newest stamp")?) } else { None };
    Ok((stamps, newest))
}

fn decode_state(reader: &mut Reader<'_>) -> Result<StateProperties> {
    let name = reader.str("state name", MAX_STATE_NAME_BYTES)?.to_owned();
    if name.is_empty() {
        return Err(reader.corrupt("state name", "at least 1 byte", 0));
    }
    let placement = Placement::decode(reader)?;
    let (stamps, newest_stamp) = decode_stamps(reader)?;
    let state = StateProperties {
        name,
        placement,
        stamps,
        newest_stamp,
        filtered: match reader.u8("filtered")? {
            0 => false,
            1 => true,
            other => return Err(reader.corrupt("filtered", "0 or 1", other)),
        },
        value_schema: reader.u64("value schema")?,
        blocks: reader.varint_u64("blocks")?,
        records: reader.varint_u64("records")?,
        tombstones: reader.varint_u64("tombstones")?,
        key_bytes: reader.varint_u64("key bytes")?,
        namespace_bytes: reader.varint_u64("namespace bytes")?,
        value_bytes: reader.varint_u64("value bytes")?,
    };
    if state.tombstones > state.records {
        return Err(reader.corrupt("tombstones", "at most the records", state.tombstones));
    }
    Ok(state)
}

/// The number of a time domain, or of none. DO NOT CHANGE: on disk.
pub(super) fn encode_time(time: Option<TimeDomain>) -> u8 {
    match time {
        None => 0,
        Some(TimeDomain::Processing) => 1,
        Some(TimeDomain::Event) => 2,
    }
}

pub(super) fn decode_time(
    what: &'static str,
    reader: &mut Reader<'_>,
) -> Result<Option<TimeDomain>> {
    let number = reader.u8(what)?;
    time_of(number).ok_or_else(|| {
        unknown_time(what, reader)
            .expected("0 to 2: none, processing time, event time")
            .found(number)
    })
}

/// The time of a number, or none; `None` if it is no such number.
fn time_of(number: u8) -> Option<Option<TimeDomain>> {
    match number {
        0 => Some(None),
        1 => Some(Some(TimeDomain::Processing)),
        2 => Some(Some(TimeDomain::Event)),
        _ => None,
    }
}

#[cold]
fn unknown_time(what: &'static str, reader: &Reader<'_>) -> Error {
    Error::incompatible("values live by an unknown kind of time")
        .at(format_args!("byte {}, {what}", reader.offset() - 1))
        .remedy("read it with the version of alluvium that wrote it, or a newer one")
}

/// Appends `max_parallelism` as a u16: at most 32,768.
pub(super) fn encode_max_parallelism(max_parallelism: MaxParallelism, out: &mut Vec<u8>) {
    out.extend_from_slice(&(max_parallelism.get() as u16).to_le_bytes());
}

pub(super) fn decode_max_parallelism(reader: &mut Reader<'_>) -> Result<MaxParallelism> {
    let groups = u32::from(reader.u16("max_parallelism")?);
    MaxParallelism::new(groups).map_err(|_| reader.corrupt("max_parallelism", "1 to 32768", groups))
}

/// Appends a range of groups: first u16, last u16.
pub(super) fn encode_groups(groups: KeyGroupRange, out: &mut Vec<u8>) {
    out.extend_from_slice(&groups.first().0.to_le_bytes());
    out.extend_from_slice(&groups.last().0.to_le_bytes());
}

/// Reads a range of groups that must lie within `all`.
pub(super) fn decode_groups(reader: &mut Reader<'_>, all: KeyGroupRange) -> Result<KeyGroupRange> {
    let first = KeyGroup(reader.u16("first group")?);
    let last = KeyGroup(reader.u16("last group")?);
    match KeyGroupRange::new(first, last) {
        Ok(groups) if all.covers(groups) => Ok(groups),
        Ok(_) => Err(reader.corrupt("groups", format_args!("within {all}"), last)),
        Err(error) => {
            debug_assert_eq!(error.kind(), ErrorKind::Invalid);
            Err(reader.corrupt("groups", "first <= last", format_args!("{first} to {last}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Properties {
        let state = |name: &str, records| StateProperties {
            name: name.into(),
            placement: if records == 7 { Placement::Collection } else { Placement::Single },
            stamps: [None, Some(TimeDomain::Event), Some(TimeDomain::Processing)]
                [records as usize % 3],
            newest_stamp: (records == 7).then_some(u64::MAX - 7),
            filtered: records != 1,
            value_schema: u64::MAX - records,
            blocks: records / 2,
            records,
            tombstones: 1,
            key_bytes: records * 8,
            namespace_bytes: 0,
            value_bytes: u64::MAX,
        };
        Properties {
            max_parallelism: MaxParallelism::DEFAULT,
            groups: KeyGroupRange::new(KeyGroup(3), KeyGroup(127)).unwrap(),
            states: vec![state("a", 1), state("ab", 300), state("b", 7)],
        }
    }

    #[test]
    fn properties_come_back_and_names_have_ordinals() {
        let properties = sample();
        assert_eq!(Properties::decode(&properties.encode()).unwrap(), properties);
        assert_eq!(properties.ordinal("ab"), Some(1));
        assert_eq!(properties.ordinal("aa"), None);
        assert_eq!(properties.total(|state| state.records), 308);
        assert_eq!(properties.total(StateProperties::raw_bytes), u64::MAX, "saturates");
    }

    #[test]
    fn properties_that_contradict_themselves_are_corrupt() {
        let damages: [fn(&mut Properties); 5] = [
            |p| p.states.swap(0, 1),
            |p| p.states[1].name = "a".into(),
            |p| p.states[1].name = String::new(),
            |p| p.states[0].tombstones = 2,
            |p| p.max_parallelism = MaxParallelism::new(127).unwrap(),
        ];
        for damage in damages {
            let mut bad = sample();
            damage(&mut bad);
            let error = Properties::decode(&bad.encode()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        let bytes = sample().encode();
        for len in 0..bytes.len() {
            assert!(Properties::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        let mut bytes = sample().encode();
        assert_eq!(bytes[12], 0, "behind the stamps of \"a\"");
        bytes[12] = 2;
        assert_eq!(Properties::decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_placement_of_the_future_is_incompatible() {
        for number in [0, 3, 255] {
            let mut bytes = sample().encode();
            assert_eq!(bytes[10], Placement::Single as u8, "behind the name \"a\"");
            bytes[10] = number;
            let error = Properties::decode(&bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        }
    }

    #[test]
    fn stamps_of_a_time_of_the_future_are_incompatible() {
        let mut bytes = sample().encode();
        assert_eq!(bytes[11], 2, "behind the placement of \"a\"");
        for number in [5, 6, 255] {
            bytes[11] = number;
            let error = Properties::decode(&bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
        }
    }

    #[test]
    fn the_newest_stamp_is_there_or_not_and_needs_stamps() {
        for time in [TimeDomain::Processing, TimeDomain::Event] {
            for newest_stamp in [None, Some(0), Some(1), Some(u64::MAX)] {
                let mut properties = sample();
                for state in &mut properties.states {
                    (state.stamps, state.newest_stamp) = (Some(time), newest_stamp);
                }
                assert_eq!(Properties::decode(&properties.encode()).unwrap(), properties);
            }
        }
        let mut without = sample();
        without.states[0].stamps = None;
        without.states[0].newest_stamp = Some(5);
        let found = Properties::decode(&without.encode()).unwrap();
        assert_eq!(found.states[0].newest_stamp, None, "of what no value has");
    }
}
