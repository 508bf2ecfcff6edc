//! Reading a whole table to be sure of it.

use std::sync::Arc;

use super::reader::{TableReader, in_block, read_exact, read_through};
use crate::base::checksum::ContentHasher;
use crate::base::{Error, KeyGroup, Result};
use crate::format::Placement;
use crate::format::block::{DataBlock, tag_of_hash};
use crate::format::frame::checksum_matches;
use crate::format::index::{BlockEntry, hash_prefix};
use crate::format::properties::StateProperties;
use crate::format::table::{HEADER_BYTES, decode_header};

/// Bytes hashed at a time.
const PIECE_BYTES: u64 = 1024 * 1024;

impl TableReader {
    /// Reads the whole file, twice, and checks everything that can be checked:
    /// the hash of the file (if it was opened as an expected table), the
    /// header, the index, every block, that records are in order and counted right, that
    /// the filter knows each of them, and that no value placed singly has a stamp
    /// above the newest.
    ///
    /// Blocks for as long as it takes to read the file; needs memory for one
    /// block and 1 MiB.
    ///
    /// # Errors
    /// `Corrupt` with the first thing that is wrong, `Unavailable` if the file
    /// cannot be read.
    pub fn verify(&self) -> Result<()> {
        self.verify_hash()?;
        let mut header = [0; HEADER_BYTES];
        read_exact(self.source(), 0, &mut header)?;
        let file = decode_header(&header)
            .map_err(|error| error.at(format_args!("{:?}", self.source())))?;
        if file != self.file() {
            return Err(Error::corrupt("header and footer name different files")
                .at(format_args!("{:?}", self.source()))
                .expected(self.file())
                .found(file));
        }
        let mut counted: Vec<StateProperties> = self
            .states()
            .iter()
            .map(|state| StateProperties {
                name: state.name.clone(),
                placement: state.placement,
                filtered: state.filtered,
                stamps: state.stamps,
                newest_stamp: state.newest_stamp,
                value_schema: state.value_schema,
                ..Default::default()
            })
            .collect();
        let mut last = Last::default();
        let (mut stored, mut raw) = (Vec::new(), Vec::new());
        self.verify_searched()?;
        for entry in self.index()?.iter() {
            let entry = entry?;
            read_through(self.source(), entry.offset..entry.end, &mut stored)?;
            let payload = self.payload(&entry, &stored, &mut raw)?;
            let block = self.parse(&entry, payload)?;
            let counted = &mut counted[usize::from(entry.state)];
            self.verify_block(&entry, &block, &mut last, counted)
                .map_err(|error| in_block(error, self.file(), &entry))?;
        }
        for (expected, found) in self.states().iter().zip(&counted) {
            if expected != found {
                return Err(Error::corrupt("records do not add up to the properties")
                    .at(format_args!("file {}", self.file()))
                    .expected(format_args!("{expected:?}"))
                    .found(format_args!("{found:?}")));
            }
        }
        Ok(())
    }

    fn verify_hash(&self) -> Result<()> {
        let Some(expected) = self.expected_hash() else { return Ok(()) };
        let mut hasher = ContentHasher::new();
        let mut buffer = Vec::new();
        let (mut at, end) = (0, self.source().len());
        while at < end {
            let next = end.min(at + PIECE_BYTES);
            read_through(self.source(), at..next, &mut buffer)?;
            hasher.update(&buffer);
            at = next;
        }
        let found = hasher.finish();
        if checksum_matches(found, expected) {
            return Ok(());
        }
        Err(Error::corrupt("table is not the file that was written")
            .at(format_args!("file {}, {:?}", self.file(), self.source()))
            .expected(format_args!("hash {expected}"))
            .found(found)
            .remedy("restore the file from another copy"))
    }

    fn verify_block(
        &self,
        entry: &BlockEntry,
        block: &DataBlock<'_>,
        last: &mut Last,
        counted: &mut StateProperties,
    ) -> Result<()> {
        let mut cursor = block.cursor(None);
        let mut first = true;
        while let Some(record) = cursor.next(block)? {
            let hash = counted.placement.hash(record.key, record.namespace)?;
            let own_hash = counted.placement.own_hash(hash, record.namespace)?;
            if first && hash_prefix(hash) != entry.hash_prefix {
                return Err(Error::corrupt("index has the wrong hash of a block's first record")
                    .expected(format_args!("{:08x}", hash_prefix(hash)))
                    .found(format_args!("{:08x}", entry.hash_prefix)));
            }
            if record.tag != tag_of_hash(own_hash) {
                return Err(Error::corrupt("record has the wrong tag")
                    .expected(tag_of_hash(own_hash))
                    .found(record.tag));
            }
            let place = (entry.state, record.group, hash);
            if !last.advance(place, record.key, record.namespace) {
                return Err(Error::corrupt("records are out of order")
                    .at(format_args!("{}, hash {hash:016x}", record.group)));
            }
            let known = [hash, own_hash].into_iter().try_fold(true, |known, hash| {
                Ok::<_, Error>(known && self.filter_passes(entry.state, record.group, hash)?)
            })?;
            if !known {
                return Err(Error::corrupt("filter denies a record that is there")
                    .at(format_args!("{}, hash {hash:016x}", record.group)));
            }
            check_stamp(counted, record.value)?;
            counted.records += 1;
            counted.blocks += u64::from(first);
            first = false;
            counted.tombstones += u64::from(record.value.is_none());
            counted.key_bytes += record.key.len() as u64;
            counted.namespace_bytes += record.namespace.len() as u64;
            counted.value_bytes += record.value.map_or(0, <[u8]>::len) as u64;
        }
        Ok(())
    }
}

/// Whether the stamp of a value may be as it is. (Where those of a collection are, only
/// its state knows.)
fn check_stamp(state: &StateProperties, value: Option<&[u8]>) -> Result<()> {
    let newest = state.newest_stamp.filter(|_| state.placement == Placement::Single);
    let Some((newest, value)) = newest.zip(value) else { return Ok(()) };
    let stamp = value.first_chunk().map(|stamp| u64::from_le_bytes(*stamp));
    if stamp.is_some_and(|stamp| stamp <= newest) {
        return Ok(());
    }
    Err(Error::corrupt("a value is newer than its table says")
        .expected(format_args!("a stamp up to {newest}"))
        .found(format_args!("{stamp:?}")))
}

/// The last record seen.
#[derive(Default)]
struct Last {
    place: Option<(u16, KeyGroup, u64)>,
    key: Vec<u8>,
    namespace: Vec<u8>,
}

impl Last {
    /// Moves on to a record, which must be behind the last.
    fn advance(&mut self, place: (u16, KeyGroup, u64), key: &[u8], namespace: &[u8]) -> bool {
        let follows = self.place.is_none_or(|last| {
            last < place || last == place && (&*self.key, &*self.namespace) < (key, namespace)
        });
        self.place = Some(place);
        self.key.clear();
        self.key.extend_from_slice(key);
        self.namespace.clear();
        self.namespace.extend_from_slice(namespace);
        follows
    }
}

/// Verifying is `&self`, so that it can run beside readers.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<TableReader>>();
};
