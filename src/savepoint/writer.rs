//! Writing a canonical savepoint, entry by entry.

use std::io;

use crate::base::checksum::{ContentHash, ContentHasher, of_contents};
use crate::base::{Error, Result};
use crate::format::Compression;
use crate::format::canonical::{
    BLOCK_BYTES, End, Entry, EntryWriter, Head, PIECE_BYTES, Section, identity,
};
use crate::format::frame::{FrameEncoder, PartKind};

/// Bytes that are gathered before the stream is called.
const BUFFER_BYTES: usize = 128 * 1024;

/// Writes the entries of a savepoint, which come in its order.
pub(super) struct SavepointWriter<'a> {
    out: &'a mut dyn io::Write,
    frames: FrameEncoder,
    /// Frames that are not in the stream yet.
    buffer: Vec<u8>,
    written: u64,
    hasher: ContentHasher,
    block: EntryWriter,
    section: u32,
    end: End,
}

impl<'a> SavepointWriter<'a> {
    /// Begins with the head.
    ///
    /// # Errors
    /// `Invalid` if the head breaks a promise, `Unavailable` if the stream fails.
    pub(super) fn new(
        out: &'a mut dyn io::Write,
        head: &Head,
        compression: Compression,
    ) -> Result<Self> {
        let bytes = head.encode()?;
        let stored: [u8; 16] = *bytes.last_chunk().expect("an envelope ends with its hash");
        let identity = identity(ContentHash(u128::from_le_bytes(stored)));
        let mut hasher = ContentHasher::new();
        hasher.update(&bytes);
        Ok(Self {
            out,
            frames: FrameEncoder::new(identity, compression),
            buffer: bytes,
            written: 0,
            hasher,
            block: EntryWriter::default(),
            section: 0,
            end: End { frames: 0, entries: 0, bytes: 0, hash: of_contents(&[]) },
        })
    }

    /// Adds an entry of section number `at`.
    ///
    /// # Errors
    /// `Unavailable` if the stream fails.
    pub(super) fn push(&mut self, at: u32, section: &Section<'_>, entry: &Entry<'_>) -> Result<()> {
        if at != self.section {
            self.end_block()?;
            self.section = at;
        }
        self.end.entries += 1;
        self.end.bytes += entry.bytes();
        if self.block.push(at, &section.shape(), entry) {
            self.end_block()?;
            for piece in entry.value.chunks(PIECE_BYTES) {
                self.write_frame(PartKind::Piece, piece)?;
            }
        } else if self.block.bytes() >= BLOCK_BYTES {
            self.end_block()?;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        let mut block = std::mem::take(&mut self.block);
        if let Some(payload) = block.finish() {
            self.write_frame(PartKind::Entries, payload)?;
        }
        self.block = block;
        Ok(())
    }

    fn write_frame(&mut self, kind: PartKind, payload: &[u8]) -> Result<()> {
        if kind != PartKind::End {
            self.end.frames += 1;
            self.hasher.update(payload);
        }
        let offset = self.written + self.buffer.len() as u64;
        self.frames.encode(&mut self.buffer, kind, offset, payload)?;
        if self.buffer.len() < BUFFER_BYTES { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<()> {
        self.out.write_all(&self.buffer).map_err(failed)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the end, and gives it with the number of bytes of the savepoint.
    ///
    /// # Errors
    /// `Unavailable` if the stream fails.
    pub(super) fn finish(mut self) -> Result<(End, u64)> {
        self.end_block()?;
        self.end.hash = self.hasher.finish();
        self.write_frame(PartKind::End, &self.end.encode())?;
        self.write()?;
        self.out.flush().map_err(failed)?;
        Ok((self.end, self.written))
    }
}

fn failed(source: io::Error) -> Error {
    Error::io("a canonical savepoint could not be written", source)
        .remedy("what there is of it is worthless: write it anew")
}
