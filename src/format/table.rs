//! A table file as a whole: one immutable, sorted set of records of all states
//! of a shard.
//!
//! ```text
//! table:   | header | data block frames ... | filter frame | index frame | page sums frame
//!          | properties frame | footer |
//!
//! header:  | magic "ALVTABLE" | version u16 | reserved 6 | incarnation u64 | number u64 | checksum u64 |
//!          0                  8             10           16                24           32             40
//!
//! footer:  | checksum u64 | incarnation u64 | number u64 | filter offset u64 | index offset u64 |
//!          0              8                 16           24                  32
//!          | page sums offset u64 | properties offset u64 | reserved 6 | version u16 | magic "ALVTABLE" |
//!          40                     48                      56           62            64                 72
//! ```
//!
//! - Both ends name the file and the version; the version stands at the same
//!   distance from the magic in every version to come.
//! - The parts follow each other without gaps, so the footer needs offsets only:
//!   a part ends where the next begins, and the properties end at the footer.
//! - The header's checksum covers bytes 0 to 32 at offset 0; the footer's covers
//!   own bytes from 8 on at the footer's offset, so that bytes added or lost at
//!   the end are found even if a footer happens to stand there.
//! - Version 1, which is still read, has no page sums: no frame of them, and no offset in
//!   a footer of 64 bytes. Everything else is as it is here.
//! - Frames are drawn in [`frame`](super::frame), their payloads in
//!   [`block`](super::block), [`filter`](super::filter), [`index`](super::index),
//!   [`page_sums`](super::page_sums) and [`properties`](super::properties).

use std::ops::Range;

use super::envelope::unknown_version;
use super::frame::{FRAME_HEADER_BYTES, PartKind, checksum_matches};
use super::properties::{decode_groups, encode_groups};
use crate::base::checksum::{ContentHash, of_part};
use crate::base::{Error, FileId, KeyGroupRange, MaxParallelism, Result};
use crate::codec::Reader;

/// First and last bytes of a table.
pub const TABLE_MAGIC: [u8; 8] = *b"ALVTABLE";
/// The version that this code writes. It reads all before it, too.
pub const TABLE_VERSION: u16 = 2;
/// The last version whose tables have no page sums.
const LAST_WITHOUT_SUMS: u16 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 40;
/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 72;
/// Bytes of the footer of a table without page sums.
const FOOTER_BYTES_WITHOUT_SUMS: usize = 64;
/// Bytes at the end of every footer that say which version it is of.
const STAMP_BYTES: usize = 10;

const HEADER_CHECKSUM_AT: usize = 32;

/// The header of a table.
pub fn encode_header(file: FileId) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(&TABLE_MAGIC);
    out[8..10].copy_from_slice(&TABLE_VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&file.incarnation.to_le_bytes());
    out[24..32].copy_from_slice(&file.number.to_le_bytes());
    let checksum = of_part(file, 0, PartKind::Header as u8, &out[..HEADER_CHECKSUM_AT]);
    out[HEADER_CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// The id in the header at the start of `bytes`.
///
/// # Errors
/// `Incompatible` for another version, `Corrupt` if there is no sound header.
pub fn decode_header(bytes: &[u8]) -> Result<FileId> {
    let mut reader = Reader::new("table header", bytes);
    check_magic(reader.array("magic")?)?;
    check_version(reader.u16("version")?)?;
    check_reserved(&mut reader)?;
    let file = decode_file_id(&mut reader)?;
    let stored = reader.u64("checksum")?;
    let computed = of_part(file, 0, PartKind::Header as u8, &bytes[..HEADER_CHECKSUM_AT]);
    if !checksum_matches(computed, stored) {
        return Err(reader.corrupt(
            "checksum",
            format_args!("{computed:016x}"),
            format_args!("{stored:016x}"),
        ));
    }
    Ok(file)
}

/// Where the parts of a table lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    /// Identity of the file.
    pub file: FileId,
    /// Where the filter's frame starts, and the data blocks end.
    pub filter_at: u64,
    /// Where the index's frame starts.
    pub index_at: u64,
    /// Where the frame of the page sums starts, if there is one: see
    /// [`sums`](Self::sums).
    pub sums_at: Option<u64>,
    /// Where the properties' frame starts.
    pub properties_at: u64,
    /// Where the footer itself starts: the length of the file less its own.
    pub footer_at: u64,
}

impl Footer {
    /// The bytes of the file that hold data blocks.
    pub const fn data(&self) -> Range<u64> {
        HEADER_BYTES as u64..self.filter_at
    }

    /// The bytes of the filter's frame.
    pub const fn filter(&self) -> Range<u64> {
        self.filter_at..self.index_at
    }

    /// The bytes of the index's frame.
    pub const fn index(&self) -> Range<u64> {
        self.index_at..self.searched().end
    }

    /// The bytes of filter and index: what is searched, and may be checked page by page.
    pub const fn searched(&self) -> Range<u64> {
        let end = match self.sums_at {
            Some(at) => at,
            None => self.properties_at,
        };
        self.filter_at..end
    }

    /// The bytes of the frame of the page sums; `None` in a table of a version that had
    /// none.
    pub fn sums(&self) -> Option<Range<u64>> {
        self.sums_at.map(|at| at..self.properties_at)
    }

    /// The bytes of the properties' frame.
    pub const fn properties(&self) -> Range<u64> {
        self.properties_at..self.footer_at
    }

    /// The bytes of the footer.
    ///
    /// # Panics
    /// If there are no page sums: this version writes none without.
    pub fn encode(&self) -> [u8; FOOTER_BYTES] {
        let sums_at = self.sums_at.expect("tables are written with page sums");
        let mut out = [0; FOOTER_BYTES];
        out[8..16].copy_from_slice(&self.file.incarnation.to_le_bytes());
        out[16..24].copy_from_slice(&self.file.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.filter_at.to_le_bytes());
        out[32..40].copy_from_slice(&self.index_at.to_le_bytes());
        out[40..48].copy_from_slice(&sums_at.to_le_bytes());
        out[48..56].copy_from_slice(&self.properties_at.to_le_bytes());
        out[62..64].copy_from_slice(&TABLE_VERSION.to_le_bytes());
        out[64..72].copy_from_slice(&TABLE_MAGIC);
        let checksum = of_part(self.file, self.footer_at, PartKind::Footer as u8, &out[8..]);
        out[..8].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads the last [`FOOTER_BYTES`] of a file of `file_bytes` bytes.
    ///
    /// # Errors
    /// `Incompatible` for a version that is not known, `Corrupt` if it is no footer of a
    /// file of that length.
    pub fn decode(bytes: &[u8; FOOTER_BYTES], file_bytes: u64) -> Result<Self> {
        let mut stamp = Reader::new("table footer", &bytes[FOOTER_BYTES - STAMP_BYTES..]);
        let version = stamp.u16("version")?;
        check_magic(stamp.array("magic")?)?;
        check_version(version)?;
        let has_sums = version > LAST_WITHOUT_SUMS;
        let len = if has_sums { FOOTER_BYTES } else { FOOTER_BYTES_WITHOUT_SUMS };
        let bytes = &bytes[FOOTER_BYTES - len..];

        let mut reader = Reader::new("table footer", bytes);
        let stored = reader.u64("checksum")?;
        let file = decode_file_id(&mut reader)?;
        let filter_at = reader.u64("filter offset")?;
        let index_at = reader.u64("index offset")?;
        let sums_at = has_sums.then(|| reader.u64("page sums offset")).transpose()?;
        let properties_at = reader.u64("properties offset")?;
        check_reserved(&mut reader)?;
        let footer_at = file_bytes.saturating_sub(len as u64);
        let computed = of_part(file, footer_at, PartKind::Footer as u8, &bytes[8..]);
        if !checksum_matches(computed, stored) {
            return Err(reader.corrupt(
                "checksum",
                format_args!("{computed:016x}"),
                format_args!("{stored:016x}"),
            ));
        }
        let starts = [Some(filter_at), Some(index_at), sums_at, Some(properties_at)];
        let starts: Vec<u64> = starts.into_iter().flatten().chain([footer_at]).collect();
        // The data may be empty as far as the footer knows; a frame is not.
        let ordered = HEADER_BYTES as u64 <= filter_at
            && starts.windows(2).all(|pair| {
                pair[0].checked_add(FRAME_HEADER_BYTES as u64).is_some_and(|least| least <= pair[1])
            });
        if !ordered {
            return Err(reader.corrupt("offsets", "parts in order", format_args!("{starts:?}")));
        }
        Ok(Self { file, filter_at, index_at, sums_at, properties_at, footer_at })
    }
}

fn check_magic(found: [u8; 8]) -> Result<()> {
    if found == TABLE_MAGIC {
        return Ok(());
    }
    Err(Error::corrupt("not a table, or cut short")
        .expected("the bytes \"ALVTABLE\" at both ends")
        .found(format_args!("\"{}\"", found.escape_ascii()))
        .remedy("restore the file from another copy"))
}

fn check_version(found: u16) -> Result<()> {
    if (1..=TABLE_VERSION).contains(&found) {
        Ok(())
    } else {
        Err(unknown_version("table", TABLE_VERSION, found))
    }
}

fn check_reserved(reader: &mut Reader<'_>) -> Result<()> {
    let reserved = reader.array::<6>("reserved bytes")?;
    if reserved == [0; 6] {
        Ok(())
    } else {
        Err(reader.corrupt("reserved bytes", "zeros", format_args!("{reserved:?}")))
    }
}

fn decode_file_id(reader: &mut Reader<'_>) -> Result<FileId> {
    Ok(FileId { incarnation: reader.u64("file incarnation")?, number: reader.u64("file number")? })
}

/// What a referrer remembers of a table: enough to recognise the file, and to
/// plan with it unopened.
///
/// ```text
/// meta:  | incarnation u64 | number u64 | bytes u64 | hash u128 | records u64 | tombstones u64 |
///        0                 8            16          24          40            48
///        | raw_bytes u64 | first group u16 | last group u16 |
///        56              64                66               68
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableMeta {
    /// Identity of the file.
    pub file: FileId,
    /// Length of the file.
    pub bytes: u64,
    /// Hash of the whole file.
    pub hash: ContentHash,
    /// Number of records, tombstones included.
    pub records: u64,
    /// Number of tombstones.
    pub tombstones: u64,
    /// Bytes of keys, namespaces and values before encoding.
    pub raw_bytes: u64,
    /// The groups from the first record to the last.
    pub groups: KeyGroupRange,
}

impl TableMeta {
    /// Bytes of an encoded meta.
    pub const ENCODED_BYTES: usize = 68;

    /// Appends the meta.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.file.incarnation.to_le_bytes());
        out.extend_from_slice(&self.file.number.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.hash.0.to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.tombstones.to_le_bytes());
        out.extend_from_slice(&self.raw_bytes.to_le_bytes());
        encode_groups(self.groups, out);
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// `Corrupt` if there is no meta of any table at the cursor.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let all = MaxParallelism::new(MaxParallelism::LIMIT)?.all_groups();
        let meta = Self {
            file: decode_file_id(reader)?,
            bytes: reader.u64("table bytes")?,
            hash: ContentHash(reader.u128("table hash")?),
            records: reader.u64("table records")?,
            tombstones: reader.u64("table tombstones")?,
            raw_bytes: reader.u64("table raw bytes")?,
            groups: decode_groups(reader, all)?,
        };
        if meta.tombstones > meta.records {
            return Err(reader.corrupt("table tombstones", "at most the records", meta.tombstones));
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ErrorKind, KeyGroup};

    const FILE: FileId = FileId { incarnation: 0x0102_0304, number: 5 };

    fn footer() -> Footer {
        Footer {
            file: FILE,
            filter_at: 100,
            index_at: 150,
            sums_at: Some(200),
            properties_at: 250,
            footer_at: 300,
        }
    }

    #[test]
    fn header_and_footer_come_back_and_no_bit_of_them_is_idle() {
        let header = encode_header(FILE);
        assert_eq!(decode_header(&header).unwrap(), FILE);
        for bit in 0..header.len() * 8 {
            let mut bad = header;
            bad[bit / 8] ^= 1 << (bit % 8);
            let kind = decode_header(&bad).unwrap_err().kind();
            let version = (8..10).contains(&(bit / 8));
            assert_eq!(kind, if version { ErrorKind::Incompatible } else { ErrorKind::Corrupt });
        }
        let bytes = footer().encode();
        assert_eq!(Footer::decode(&bytes, 372).unwrap(), footer());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            let kind = Footer::decode(&bad, 372).unwrap_err().kind();
            let version = (62..64).contains(&(bit / 8));
            assert_eq!(kind, if version { ErrorKind::Incompatible } else { ErrorKind::Corrupt });
        }
    }

    #[test]
    fn a_footer_at_another_length_is_corrupt() {
        let bytes = footer().encode();
        for file_bytes in [0, 71, 371, 373, u64::MAX] {
            let error = Footer::decode(&bytes, file_bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{file_bytes}");
        }
    }

    #[test]
    fn parts_out_of_order_are_corrupt() {
        for bad in [
            Footer { filter_at: 39, ..footer() },
            Footer { index_at: 119, ..footer() },
            Footer { sums_at: Some(169), ..footer() },
            Footer { sums_at: Some(u64::MAX), ..footer() },
            Footer { properties_at: 219, ..footer() },
            Footer { properties_at: 281, ..footer() },
            Footer { filter_at: u64::MAX, ..footer() },
            Footer { index_at: u64::MAX - 5, ..footer() },
        ] {
            let error = Footer::decode(&bad.encode(), 372).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad:?}");
        }
    }

    #[test]
    fn meta_comes_back() {
        let meta = TableMeta {
            file: FILE,
            bytes: 1,
            hash: ContentHash(2),
            records: 3,
            tombstones: 3,
            raw_bytes: 4,
            groups: KeyGroupRange::new(KeyGroup(0), KeyGroup(32_767)).unwrap(),
        };
        let mut out = Vec::new();
        meta.encode(&mut out);
        assert_eq!(out.len(), TableMeta::ENCODED_BYTES);
        let mut reader = Reader::new("meta", &out);
        assert_eq!(TableMeta::decode(&mut reader).unwrap(), meta);
        reader.finish().unwrap();
        out[48] = 4;
        let error = TableMeta::decode(&mut Reader::new("meta", &out)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
