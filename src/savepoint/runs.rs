//! Sorted records in a file.
//!
//! ```text
//! run:     | frame ... |            of kind "data block" (see frame.rs)
//! frame:   | record ... |, or bytes of the one value that goes on
//! record:  | key length | value length, doubled, and 1 if it is long | key | value, unless long |
//! ```
//!
//! Lengths are varints. A long value follows its record, which is then the last of its
//! frame, in frames of their own. Runs never leave the machine and the process that
//! wrote them.

use std::ops::Range;
use std::sync::Arc;

use super::work::{WorkDir, WorkFile, failed};
use crate::base::{Error, Result};
use crate::codec::{Reader, varint};
use crate::env::{ReadAt, WriteFile};
use crate::format::Compression;
use crate::format::frame::{FRAME_HEADER_BYTES, FrameEncoder, PartKind, decode_frame};

/// Bytes of records after which a frame ends.
const FRAME_BYTES: usize = 64 * 1024;
/// Bytes of a value above which it is long, and most bytes of a frame with a part of
/// one.
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes that are gathered before the file is called.
const BUFFER_BYTES: usize = 256 * 1024;

/// Writes records that come in order.
pub(super) struct RunWriter {
    file: WorkFile,
    out: Box<dyn WriteFile>,
    frames: FrameEncoder,
    /// Records of the next frame.
    payload: Vec<u8>,
    /// Frames that are not in the file yet.
    buffer: Vec<u8>,
    written: u64,
}

/// A finished run.
#[derive(Debug)]
pub(super) struct Run {
    file: WorkFile,
    bytes: u64,
}

impl RunWriter {
    /// Starts a run.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be created.
    pub(super) fn new(work: &WorkDir) -> Result<Self> {
        let (file, out) = work.create("run")?;
        let frames = FrameEncoder::new(file.id, Compression::None);
        Ok(Self { file, out, frames, payload: Vec::new(), buffer: Vec::new(), written: 0 })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// `Unavailable` if the file fails.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let is_long = value.len() > PIECE_BYTES;
        varint::put_u64(&mut self.payload, key.len() as u64);
        varint::put_u64(&mut self.payload, (value.len() as u64) << 1 | u64::from(is_long));
        self.payload.extend_from_slice(key);
        if !is_long {
            self.payload.extend_from_slice(value);
            return if self.payload.len() < FRAME_BYTES { Ok(()) } else { self.end_frame() };
        }
        self.end_frame()?;
        for piece in value.chunks(PIECE_BYTES) {
            self.payload.extend_from_slice(piece);
            self.end_frame()?;
        }
        Ok(())
    }

    fn end_frame(&mut self) -> Result<()> {
        if self.payload.is_empty() {
            return Ok(());
        }
        let offset = self.written + self.buffer.len() as u64;
        self.frames.encode(&mut self.buffer, PartKind::Data, offset, &self.payload)?;
        self.payload.clear();
        if self.buffer.len() < BUFFER_BYTES { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<()> {
        self.out
            .write_all(&self.buffer)
            .map_err(|source| failed("a file could not be written", source))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the run.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(super) fn finish(mut self) -> Result<Run> {
        self.end_frame()?;
        self.write()?;
        self.out.flush().map_err(|source| failed("a file could not be written", source))?;
        Ok(Run { file: self.file, bytes: self.written })
    }
}

impl Run {
    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// At the first record.
    ///
    /// # Errors
    /// As [`RunReader::advance`].
    pub(super) fn read(self) -> Result<RunReader> {
        let source = self.file.open()?;
        let mut reader = RunReader {
            source,
            run: self,
            at: 0,
            frame: Vec::new(),
            next: FRAME_HEADER_BYTES,
            key: 0..0,
            value: Value::Here(0..0),
            prefix: 0,
        };
        reader.advance()?;
        Ok(reader)
    }
}

/// A cursor over the records of a run.
#[derive(Debug)]
pub(super) struct RunReader {
    source: Arc<dyn ReadAt>,
    run: Run,
    /// Where the next frame begins.
    at: u64,
    /// The current frame, and where the next record in it begins.
    frame: Vec<u8>,
    next: usize,
    key: Range<usize>,
    value: Value,
    /// The first bytes of the key, for quick comparisons.
    prefix: u128,
}

#[derive(Clone, Debug)]
enum Value {
    /// In the frame.
    Here(Range<usize>),
    /// In the frames that follow, so many bytes.
    Long(usize),
}

impl RunReader {
    /// Moves on to the next record; `false` if there is none.
    ///
    /// # Errors
    /// `Corrupt` if the file is not as it was written, `Unavailable` if it cannot be
    /// read.
    pub(super) fn advance(&mut self) -> Result<bool> {
        if let Value::Long(len) = self.value {
            self.pass_over(len)?;
        }
        if self.next >= self.frame.len() {
            if self.at >= self.run.bytes {
                return Ok(false);
            }
            read_frame(&*self.source, &self.run.file, &mut self.at, &mut self.frame)?;
            self.next = FRAME_HEADER_BYTES;
        }
        let mut reader = Reader::new("sorted run", &self.frame[self.next..]);
        let key_len = reader.varint_u64("key length")? as usize;
        let value_len = reader.varint_u64("value length")?;
        let key = reader.take("key", key_len)?;
        self.prefix = prefix_of(key);
        let key_end = self.next + reader.offset();
        self.key = key_end - key_len..key_end;
        let is_long = value_len & 1 == 1;
        let value_len = (value_len >> 1) as usize;
        if is_long {
            self.value = Value::Long(value_len);
        } else {
            reader.take("value", value_len)?;
            self.value = Value::Here(key_end..key_end + value_len);
        }
        self.next += reader.offset();
        Ok(true)
    }

    /// The frames of a long value that nobody asked for.
    fn pass_over(&mut self, len: usize) -> Result<()> {
        self.take_long(len, &mut Vec::new())
    }

    fn take_long(&mut self, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let mut frame = Vec::new();
        while out.len() < len {
            read_frame(&*self.source, &self.run.file, &mut self.at, &mut frame)?;
            out.extend_from_slice(&frame[FRAME_HEADER_BYTES..]);
        }
        self.value = Value::Here(0..0);
        Ok(())
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.frame[self.key.clone()]
    }

    pub(super) fn prefix(&self) -> u128 {
        self.prefix
    }

    /// Brings a long value into `out`; `false` if the value is not long, and lies in the
    /// frame. To be called once for a record.
    ///
    /// # Errors
    /// As [`advance`](Self::advance).
    pub(super) fn fetch(&mut self, out: &mut Vec<u8>) -> Result<bool> {
        let Value::Long(len) = self.value else { return Ok(false) };
        out.clear();
        self.take_long(len, out)?;
        Ok(true)
    }

    /// The value, unless it was fetched.
    pub(super) fn value(&self) -> &[u8] {
        match &self.value {
            Value::Here(range) => &self.frame[range.clone()],
            Value::Long(_) => &[],
        }
    }
}

/// The first sixteen bytes of a key, as a number that orders as they do.
#[inline]
pub(super) fn prefix_of(key: &[u8]) -> u128 {
    match key.first_chunk::<16>() {
        Some(first) => u128::from_be_bytes(*first),
        None => {
            let mut first = [0; 16];
            first[..key.len()].copy_from_slice(key);
            u128::from_be_bytes(first)
        }
    }
}

fn read_frame(
    source: &dyn ReadAt,
    file: &WorkFile,
    at: &mut u64,
    frame: &mut Vec<u8>,
) -> Result<()> {
    let failed = |source| failed("a file could not be read", source).at(file.path.display());
    let mut head = [0; FRAME_HEADER_BYTES];
    source.read_through(*at, &mut head).map_err(failed)?;
    let stored = u32::from_le_bytes([head[16], head[17], head[18], head[19]]) as usize;
    let bytes = FRAME_HEADER_BYTES + stored;
    // What was damaged since must not be believed before it is checked.
    if bytes as u64 > source.len() - *at {
        return Err(Error::corrupt("a sorted run is not as it was written")
            .at(format_args!("{}, offset {at}", file.path.display()))
            .remedy("check the disk, and start again"));
    }
    frame.resize(bytes, 0);
    source.read_through(*at, frame).map_err(failed)?;
    decode_frame(frame, file.id, PartKind::Data, *at, &mut Vec::new())?;
    *at += bytes as u64;
    Ok(())
}
