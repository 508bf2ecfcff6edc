//! The frame around each part of a table: what it is, how it is stored, and a
//! checksum that knows where it belongs.
//!
//! ```text
//! frame:  | checksum u64 | kind u8 | codec u8 | reserved u16 | raw_len u32 | stored_len u32 | payload | padding |
//!         0              8         9          10             12            16               20
//! ```
//!
//! - `checksum`: xxh3 of everything behind it (bytes 8 to the end of the
//!   frame), seeded with the file's id, the frame's offset in the file and
//!   the kind. It stands first so that one pass over contiguous bytes makes it.
//! - `codec`: 0 the payload as it is, 1 one LZ4 block.
//! - `raw_len`, `stored_len`: length of the payload before and after
//!   compression; equal for codec 0.
//! - `padding`: of data blocks only, zeros up to where a page of the file begins; less
//!   than a [`PAGE_BYTES`] of them, and most often none.

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

use crate::base::checksum::of_part;
use crate::base::{Error, FileId, Result};
use crate::codec::Reader;

/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 20;

/// Bytes that a disk reads at once, at least: what blocks are laid in if they are to
/// [fit](crate::table::TableOptions::fit_pages).
pub const PAGE_BYTES: usize = 4096;

/// Most of a page that is padded: an eighth. If more is left, the next frame begins there.
const MAX_PADDING_BYTES: usize = PAGE_BYTES / 8;

/// Largest payload that is compressed, and so the most that a decoder has to
/// reserve for a compressed frame, however small: 4 MiB. Larger payloads are
/// single large values; they are stored as they are.
pub const MAX_COMPRESSED_RAW_BYTES: usize = 4 << 20;

/// What a frame holds. DO NOT CHANGE the numbers: they are on disk, and every
/// checksum covers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PartKind {
    /// Records of one state.
    Data = 1,
    /// The Bloom filter of the table.
    Filter = 2,
    /// Where the blocks lie.
    Index = 3,
    /// What the table holds.
    Properties = 4,
    /// The first bytes of the table (not a frame; the number seeds its checksum).
    Header = 5,
    /// The last bytes of the table (not a frame either).
    Footer = 6,
    /// Entries of a canonical savepoint.
    Entries = 7,
    /// Bytes of one long value in a canonical savepoint.
    Piece = 8,
    /// What ends a canonical savepoint.
    End = 9,
    /// Checksums of the pages of filter and index.
    PageSums = 10,
}

impl PartKind {
    /// What the part is called in errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data block",
            Self::Filter => "filter",
            Self::Index => "index",
            Self::Properties => "properties",
            Self::Header => "table header",
            Self::Footer => "table footer",
            Self::Entries => "block of entries",
            Self::Piece => "piece of a value",
            Self::End => "end",
            Self::PageSums => "page sums",
        }
    }

    const fn may_be_compressed(self) -> bool {
        matches!(self, Self::Data | Self::Entries | Self::Piece)
    }
}

/// How blocks are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// As they are. Larger files, cheapest reads: a mapped block is used where
    /// it lies.
    None,
    /// LZ4, where it saves at least an eighth of the block. About 1 GB/s to
    /// write and 2.7 GB/s to read.
    #[default]
    Lz4,
}

const CODEC_NONE: u8 = 0;
const CODEC_LZ4: u8 = 1;

/// Whether a stored checksum is right. The one place where fuzzing (which
/// cannot guess checksums, and would never get past them) waves them through.
pub(crate) fn checksum_matches<T: PartialEq>(computed: T, stored: T) -> bool {
    cfg!(fuzzing) || computed == stored
}

/// The lengths in a frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameLens {
    /// Payload bytes before compression.
    pub raw_len: u32,
    /// Payload bytes in the file.
    pub stored_len: u32,
    /// Zeros behind them.
    pub padding: u32,
}

impl FrameLens {
    /// Bytes of the whole frame in the file.
    pub const fn frame_bytes(self) -> u64 {
        FRAME_HEADER_BYTES as u64 + self.stored_len as u64 + self.padding as u64
    }
}

/// Puts payloads into frames. Holds the compressor's tables, so one is kept
/// for a whole file.
pub struct FrameEncoder {
    file: FileId,
    compression: Compression,
    table: CompressTable,
}

impl FrameEncoder {
    /// An encoder of frames of `file`.
    pub fn new(file: FileId, compression: Compression) -> Self {
        Self { file, compression, table: CompressTable::small() }
    }

    /// Appends to `out` the frame of `payload` that will stand at `offset` in
    /// the file. Of a table only data blocks are compressed: the other parts are hashes
    /// for the most, or tiny.
    ///
    /// # Errors
    /// `Invalid` if the payload is 4 GiB or longer.
    pub fn encode(
        &mut self,
        out: &mut Vec<u8>,
        kind: PartKind,
        offset: u64,
        payload: &[u8],
    ) -> Result<FrameLens> {
        self.encode_padded(out, kind, offset, payload, |_| 0)
    }

    /// The same of a data block; what little is left of a page behind it is part of it.
    ///
    /// # Errors
    /// As `encode`.
    pub fn encode_to_page(
        &mut self,
        out: &mut Vec<u8>,
        offset: u64,
        payload: &[u8],
    ) -> Result<FrameLens> {
        self.encode_padded(out, PartKind::Data, offset, payload, |end| {
            let left = (end.next_multiple_of(PAGE_BYTES as u64) - end) as usize;
            if left <= MAX_PADDING_BYTES { left } else { 0 }
        })
    }

    /// `padding` says how many zeros follow a frame that ends there.
    fn encode_padded(
        &mut self,
        out: &mut Vec<u8>,
        kind: PartKind,
        offset: u64,
        payload: &[u8],
        padding: impl FnOnce(u64) -> usize,
    ) -> Result<FrameLens> {
        let Ok(raw_len) = u32::try_from(payload.len()) else {
            return Err(self.too_large(kind, payload.len()));
        };
        let start = out.len();
        out.resize(start + FRAME_HEADER_BYTES, 0);
        let body = start + FRAME_HEADER_BYTES;
        let codec = match self.compressed(out, kind, payload)? {
            true => CODEC_LZ4,
            false => {
                out.truncate(body);
                out.extend_from_slice(payload);
                CODEC_NONE
            }
        };
        let stored_len = (out.len() - body) as u32;
        let padding = padding(offset + (out.len() - start) as u64);
        out.resize(out.len() + padding, 0);
        let lens = FrameLens { raw_len, stored_len, padding: padding as u32 };
        self.seal(&mut out[start..], kind, codec, offset, lens);
        Ok(lens)
    }

    /// Makes a frame, as it will stand at `offset` in the file, of a payload behind room
    /// for the header: for what is large and need not be copied. Nothing is compressed.
    ///
    /// # Errors
    /// `Invalid` if the payload is 4 GiB or longer.
    ///
    /// # Panics
    /// If there is no room for a header.
    pub fn frame_in_place(&self, frame: &mut [u8], kind: PartKind, offset: u64) -> Result<()> {
        let bytes = frame.len() - FRAME_HEADER_BYTES;
        let raw_len = u32::try_from(bytes).map_err(|_| self.too_large(kind, bytes))?;
        let lens = FrameLens { raw_len, stored_len: raw_len, padding: 0 };
        self.seal(frame, kind, CODEC_NONE, offset, lens);
        Ok(())
    }

    /// Writes the header of a frame.
    fn seal(&self, frame: &mut [u8], kind: PartKind, codec: u8, offset: u64, lens: FrameLens) {
        frame[8..FRAME_HEADER_BYTES].fill(0);
        frame[8] = kind as u8;
        frame[9] = codec;
        frame[12..16].copy_from_slice(&lens.raw_len.to_le_bytes());
        frame[16..20].copy_from_slice(&lens.stored_len.to_le_bytes());
        let checksum = of_part(self.file, offset, kind as u8, &frame[8..]);
        frame[..8].copy_from_slice(&checksum.to_le_bytes());
    }

    #[cold]
    fn too_large(&self, kind: PartKind, bytes: usize) -> Error {
        Error::invalid(format_args!("{} is too large for a frame", kind.name()))
            .at(format_args!("file {}", self.file))
            .expected("less than 4 GiB")
            .found(format_args!("{bytes} bytes"))
            .remedy("write several smaller tables")
    }

    /// Appends the compressed payload and says whether that was worth it.
    fn compressed(&mut self, out: &mut Vec<u8>, kind: PartKind, payload: &[u8]) -> Result<bool> {
        let wanted = kind.may_be_compressed()
            && self.compression == Compression::Lz4
            && payload.len() <= MAX_COMPRESSED_RAW_BYTES;
        if !wanted {
            return Ok(false);
        }
        let body = out.len();
        out.resize(body + get_maximum_output_size(payload.len()), 0);
        let len = compress_into_with_table(payload, &mut out[body..], &mut self.table)
            .map_err(|why| Error::internal("LZ4 refused to compress a block").source(why))?;
        out.truncate(body + len);
        Ok(len <= payload.len() - payload.len() / 8 && len < payload.len())
    }
}

/// Checks the frame that fills `frame` and stands at `offset` of `file`, and
/// gives its payload: within `frame` itself, or in `scratch` if it had to be
/// decompressed.
///
/// # Errors
/// `Corrupt` if it is not exactly such a frame, `Incompatible` if it is sound
/// but stored in a way that this version does not know.
pub fn decode_frame<'a>(
    frame: &'a [u8],
    file: FileId,
    kind: PartKind,
    offset: u64,
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    decode(frame, file, kind, offset, scratch)
        .map_err(|error| error.at(format_args!("file {file}, {} at offset {offset}", kind.name())))
}

fn decode<'a>(
    frame: &'a [u8],
    file: FileId,
    kind: PartKind,
    offset: u64,
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let mut reader = Reader::new("frame", frame);
    let stored_checksum = reader.u64("checksum")?;
    let stored_kind = reader.u8("kind")?;
    let codec = reader.u8("codec")?;
    let reserved = reader.u16("reserved")?;
    let raw_len = reader.u32("raw length")? as usize;
    let stored_len = reader.u32("stored length")? as usize;
    let stored = reader.rest();

    let checksum = of_part(file, offset, kind as u8, &frame[8..]);
    if !checksum_matches(checksum, stored_checksum) {
        return Err(Error::corrupt("checksum does not match: bytes are damaged or misplaced")
            .expected(format_args!("{stored_checksum:016x}"))
            .found(format_args!("{checksum:016x}"))
            .remedy("restore the file from another copy"));
    }
    if stored_kind != kind as u8 {
        return Err(reader.corrupt("kind", kind as u8, stored_kind));
    }
    if reserved != 0 {
        return Err(reader.corrupt("reserved bytes", 0, reserved));
    }
    let Some((payload, padding)) = stored.split_at_checked(stored_len) else {
        return Err(reader.corrupt("stored length", stored.len(), stored_len));
    };
    let most_padding = if kind == PartKind::Data { MAX_PADDING_BYTES } else { 0 };
    if padding.len() > most_padding {
        return Err(reader.corrupt("stored length", stored.len(), stored_len));
    }
    if padding.iter().any(|&byte| byte != 0) {
        return Err(reader.corrupt("padding", "zeros", "something else"));
    }
    match codec {
        CODEC_NONE if raw_len == stored_len => Ok(payload),
        CODEC_NONE => Err(reader.corrupt("raw length", stored_len, raw_len)),
        CODEC_LZ4 if kind.may_be_compressed() && raw_len <= MAX_COMPRESSED_RAW_BYTES => {
            scratch.clear();
            scratch.resize(raw_len, 0);
            match decompress_into(payload, scratch) {
                Ok(len) if len == raw_len => Ok(scratch),
                Ok(len) => Err(reader.corrupt("decompressed length", raw_len, len)),
                Err(why) => Err(reader.corrupt("LZ4 payload", "one LZ4 block", why)),
            }
        }
        CODEC_LZ4 => Err(reader.corrupt(
            "codec",
            "LZ4 only for data blocks of at most 4 MiB",
            format_args!("a {} of {raw_len} bytes", kind.name()),
        )),
        other => Err(Error::incompatible("frame is stored with an unknown codec")
            .expected("0 (none) or 1 (LZ4)")
            .found(other)
            .remedy("read it with the version that wrote it, or a newer one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    const FILE: FileId = FileId { incarnation: 7, number: 9 };

    fn frame_of(kind: PartKind, payload: &[u8]) -> (Vec<u8>, FrameLens) {
        let mut out = vec![0xaa; 3];
        let lens =
            FrameEncoder::new(FILE, Compression::Lz4).encode(&mut out, kind, 40, payload).unwrap();
        let frame = out.split_off(3);
        assert_eq!(frame.len() as u64, lens.frame_bytes());
        (frame, lens)
    }

    #[test]
    fn payloads_come_back_and_only_worthwhile_compression_is_kept() {
        let mut scratch = Vec::new();
        let zeros = vec![0u8; 10_000];
        let (frame, lens) = frame_of(PartKind::Data, &zeros);
        assert!(lens.stored_len < 200);
        assert_eq!(decode_frame(&frame, FILE, PartKind::Data, 40, &mut scratch).unwrap(), zeros);

        let noise: Vec<u8> = (0..500u64)
            .flat_map(|i| crate::base::hash::hash_key(&i.to_le_bytes()).to_le_bytes())
            .collect();
        let (frame, lens) = frame_of(PartKind::Data, &noise);
        assert_eq!(lens.stored_len, lens.raw_len);
        assert_eq!(decode_frame(&frame, FILE, PartKind::Data, 40, &mut scratch).unwrap(), noise);

        let (frame, lens) = frame_of(PartKind::Index, &zeros);
        assert_eq!(lens.stored_len, lens.raw_len, "only data is compressed");
        assert_eq!(decode_frame(&frame, FILE, PartKind::Index, 40, &mut scratch).unwrap(), zeros);

        let (frame, _) = frame_of(PartKind::Data, &[]);
        assert_eq!(decode_frame(&frame, FILE, PartKind::Data, 40, &mut scratch).unwrap(), b"");

        let large = vec![0u8; MAX_COMPRESSED_RAW_BYTES + 1];
        let (_, lens) = frame_of(PartKind::Data, &large);
        assert_eq!(lens.stored_len, lens.raw_len, "too large to be compressed");
    }

    /// A frame that stands at offset 40, sealed with this padding.
    fn padded(kind: PartKind, padding: &[u8]) -> Vec<u8> {
        let (mut frame, lens) = frame_of(kind, b"payload");
        frame.extend_from_slice(padding);
        FrameEncoder::new(FILE, Compression::None).seal(&mut frame, kind, CODEC_NONE, 40, lens);
        frame
    }

    #[test]
    fn only_zeros_to_the_end_of_a_page_may_follow_a_data_block_and_nothing_any_other_part() {
        let mut scratch = Vec::new();
        let zeros = [0; MAX_PADDING_BYTES + 1];
        for len in [0, 1, MAX_PADDING_BYTES] {
            let frame = padded(PartKind::Data, &zeros[..len]);
            let found = decode_frame(&frame, FILE, PartKind::Data, 40, &mut scratch).unwrap();
            assert_eq!(found, b"payload");
        }
        let bad: [(_, &[u8]); 4] = [
            (PartKind::Data, &zeros),
            (PartKind::Data, &[0, 0, 1]),
            (PartKind::Index, &[0]),
            (PartKind::Entries, &[0]),
        ];
        for (kind, padding) in bad {
            let frame = padded(kind, padding);
            let error = decode_frame(&frame, FILE, kind, 40, &mut scratch).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind:?}, {} bytes", padding.len());
        }
    }

    #[test]
    fn a_block_is_padded_where_little_of_its_page_is_left() {
        let mut frames = FrameEncoder::new(FILE, Compression::None);
        let end_of = |frames: &mut FrameEncoder, offset: u64, bytes: usize| {
            let mut out = Vec::new();
            let lens = frames.encode_to_page(&mut out, offset, &vec![7; bytes]).unwrap();
            assert_eq!(out.len() as u64, lens.frame_bytes());
            offset + lens.frame_bytes()
        };
        let page = PAGE_BYTES as u64;
        assert_eq!(end_of(&mut frames, 40, 3600), page);
        assert_eq!(end_of(&mut frames, 40, 4096 - 60), page, "it fits exactly");
        assert_eq!(end_of(&mut frames, 40, 4096 - 59), page + 1, "nearly a page is left");
        assert_eq!(end_of(&mut frames, 0, 3000), 3020, "a quarter of a page is left");
        assert_eq!(end_of(&mut frames, 2 * page, 2 * 4096 - 100), 4 * page);
    }

    #[test]
    fn a_sound_frame_in_the_wrong_place_is_corrupt() {
        let (frame, _) = frame_of(PartKind::Data, b"payload");
        let mut scratch = Vec::new();
        let other = FileId { number: 10, ..FILE };
        for (file, kind, offset) in
            [(other, PartKind::Data, 40), (FILE, PartKind::Filter, 40), (FILE, PartKind::Data, 41)]
        {
            let error = decode_frame(&frame, file, kind, offset, &mut scratch).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn every_bit_flip_and_every_other_length_is_corrupt() {
        let (frame, _) = frame_of(PartKind::Data, &[5; 100]);
        let mut scratch = Vec::new();
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = decode_frame(&bad, FILE, PartKind::Data, 40, &mut scratch).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}");
        }
        for len in 0..frame.len() {
            assert!(decode_frame(&frame[..len], FILE, PartKind::Data, 40, &mut scratch).is_err());
        }
    }

    /// Rewrites header bytes and makes the checksum right again.
    fn repaired(mut frame: Vec<u8>, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        edit(&mut frame);
        let checksum = of_part(FILE, 40, PartKind::Data as u8, &frame[8..]);
        frame[..8].copy_from_slice(&checksum.to_le_bytes());
        frame
    }

    #[test]
    fn hostile_headers_with_right_checksums_are_refused_without_allocating() {
        let (frame, _) = frame_of(PartKind::Data, &[0; 1000]);
        let mut scratch = Vec::new();
        let huge = repaired(frame.clone(), |f| f[12..16].copy_from_slice(&u32::MAX.to_le_bytes()));
        let error = decode_frame(&huge, FILE, PartKind::Data, 40, &mut scratch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(scratch.capacity(), 0);
        let longer = repaired(frame.clone(), |f| f[12..16].copy_from_slice(&2000u32.to_le_bytes()));
        assert!(decode_frame(&longer, FILE, PartKind::Data, 40, &mut scratch).is_err());
        let shorter = repaired(frame.clone(), |f| f[12..16].copy_from_slice(&10u32.to_le_bytes()));
        assert!(decode_frame(&shorter, FILE, PartKind::Data, 40, &mut scratch).is_err());
        let unknown = repaired(frame, |f| f[9] = 2);
        let error = decode_frame(&unknown, FILE, PartKind::Data, 40, &mut scratch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible);
    }
}
