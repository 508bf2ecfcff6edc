//! The lines of a file.

use std::path::PathBuf;
use std::sync::Arc;

use alluvium::env::{Env, ReadAt, RealEnv};
use alluvium::{Error, Result};

use super::{Next, Reader, Source};

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 64 << 10;
/// Longest line, in bytes.
const MAX_LINE_BYTES: usize = 64 << 20;

/// The lines of a file that does not change, without their ends (`\n` or `\r\n`), in
/// splits of about equal size. A position is a byte of the file. What is no UTF-8 is an
/// error.
#[derive(Clone, Debug)]
pub struct Lines {
    path: PathBuf,
    splits: u32,
}

impl Lines {
    /// The file at `path`, which all processes reach there. Read as 16 splits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), splits: 16 }
    }

    /// As how many splits the file is read: as many workers can take part.
    #[must_use]
    pub fn splits(mut self, splits: u32) -> Self {
        self.splits = splits.max(1);
        self
    }

    fn file(&self) -> Result<Arc<dyn ReadAt>> {
        // Never mapped: a file that somebody cuts short is an error, not a signal.
        RealEnv::with_pread().fs().open(&self.path).map_err(|e| {
            Error::io("the input cannot be opened", e)
                .at(self.path.display())
                .remedy("check that every process reaches the file under this path")
        })
    }

    /// Where a split would begin if lines were not.
    fn cut(&self, split: u32, len: u64) -> u64 {
        let cut = u128::from(len) * u128::from(split) / u128::from(self.splits);
        u64::try_from(cut).unwrap_or(len)
    }
}

impl Source for Lines {
    type Item = String;
    type Reader = LineReader;

    fn splits(&self) -> Result<u32> {
        Ok(self.splits)
    }

    /// The length of the file.
    fn fingerprint(&self) -> Result<u64> {
        Ok(self.file()?.len())
    }

    fn open(&self, split: u32, position: Option<u64>) -> Result<LineReader> {
        let file = self.file()?;
        let len = file.len();
        let (from, end) = (self.cut(split, len), self.cut(split + 1, len));
        let mut reader = LineReader {
            path: self.path.clone(),
            file,
            len,
            end,
            at: position.unwrap_or(from),
            buffer: Vec::new(),
            used: 0,
        };
        if position.is_none() && from > 0 {
            // The line that begins before the cut belongs to the split before.
            reader.at = from - 1;
            reader.take_line()?;
        }
        Ok(reader)
    }
}

/// Reads a split of [`Lines`]: those lines that begin in it.
#[derive(Debug)]
pub struct LineReader {
    path: PathBuf,
    file: Arc<dyn ReadAt>,
    len: u64,
    /// Lines that begin here or later are the next split's.
    end: u64,
    /// Where the next line begins.
    at: u64,
    /// Bytes of the file; those from `used` on begin at `at`.
    buffer: Vec<u8>,
    used: usize,
}

impl LineReader {
    /// The bytes of the next line, its end included; none at the end of the file.
    fn take_line(&mut self) -> Result<&[u8]> {
        let mut searched = 0;
        let bytes = loop {
            let rest = &self.buffer[self.used..];
            if let Some(end) = rest[searched..].iter().position(|byte| *byte == b'\n') {
                break searched + end + 1;
            }
            searched = rest.len();
            let read = self.at + searched as u64;
            if read >= self.len {
                break searched;
            }
            if searched > MAX_LINE_BYTES {
                return Err(Error::invalid("a line of the input is too long")
                    .at(format_args!("{}, byte {}", self.path.display(), self.at))
                    .expected(format_args!("at most {MAX_LINE_BYTES} bytes")));
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            let more = BUFFER_BYTES.min((self.len - read) as usize);
            self.buffer.resize(searched + more, 0);
            self.file.read_at(read, &mut self.buffer[searched..]).map_err(|e| {
                Error::io("the input cannot be read", e)
                    .at(format_args!("{}, byte {read}", self.path.display()))
            })?;
        };
        let line = self.used..self.used + bytes;
        self.used += bytes;
        self.at += bytes as u64;
        Ok(&self.buffer[line])
    }
}

impl Reader for LineReader {
    type Item = String;

    fn next(&mut self) -> Result<Next<String>> {
        let at = self.at;
        if at >= self.end {
            return Ok(Next::End);
        }
        let line = self.take_line()?;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::str::from_utf8(line) {
            Ok(line) => Ok(Next::Record(line.to_owned())),
            Err(error) => Err(Error::invalid("a line of the input is not UTF-8")
                .source(error)
                .at(format_args!("{}, byte {at}", self.path.display()))),
        }
    }

    fn position(&self) -> u64 {
        self.at
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the input is a real file")]
mod tests {
    use super::*;

    /// All lines of all splits, each split stopped and opened again after every line.
    fn read(path: &std::path::Path, splits: u32) -> Vec<String> {
        let source = Lines::new(path).splits(splits);
        let mut lines = Vec::new();
        for split in 0..splits {
            let mut position = None;
            loop {
                let mut reader = source.open(split, position).unwrap();
                match reader.next().unwrap() {
                    Next::Record(line) => lines.push(line),
                    Next::Idle | Next::End => break,
                }
                position = Some(reader.position());
            }
        }
        lines
    }

    #[test]
    fn every_line_is_read_once_however_the_file_is_split() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        for text in ["", "\n", "a", "a\n", "\n\n\na\n\nbb\r\nccc", "long line\nb\nc\nanother\n"] {
            std::fs::write(&path, text).unwrap();
            let expected: Vec<_> = text.lines().collect();
            for splits in 1..=text.len() as u32 + 3 {
                assert_eq!(read(&path, splits), expected, "{text:?} in {splits} splits");
            }
        }
    }

    #[test]
    fn a_line_longer_than_the_buffer_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        let long = "x".repeat(3 * BUFFER_BYTES + 17);
        std::fs::write(&path, format!("a\n{long}\nb\n")).unwrap();
        for splits in [1, 2, 5] {
            assert_eq!(read(&path, splits), ["a", &long, "b"]);
        }
    }
}
