//! Files in memory, for tests that write a table and read it.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::env::{ReadAt, WriteFile};

#[derive(Clone, Default)]
pub(super) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// What was written so far.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl WriteFile for Written {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A mapped file that notes what was waited for, and what was asked for.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    bytes: Vec<u8>,
    /// Offsets whose pages were waited for.
    awaited: Mutex<Vec<u64>>,
    /// Where pieces that were waited for begin.
    pieces: Mutex<Vec<u64>>,
    /// Where other reads began.
    reads: Mutex<Vec<u64>>,
    /// Ranges that were asked for.
    asked: Mutex<Vec<Range<u64>>>,
}

impl Mapped {
    pub(super) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes, ..Self::default() })
    }

    /// Offsets of pages, pieces and other reads since this was asked last.
    pub(super) fn take_waits(&self) -> [Vec<u64>; 3] {
        [&self.awaited, &self.pieces, &self.reads]
            .map(|of| std::mem::take(&mut *of.lock().unwrap()))
    }

    /// Ranges that were asked for since this was asked last.
    pub(super) fn take_asked(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn copy(&self, offset: u64, buf: &mut [u8]) {
        buf.copy_from_slice(&self.bytes[offset as usize..offset as usize + buf.len()]);
    }
}

impl ReadAt for Mapped {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.reads.lock().unwrap().push(offset);
        self.copy(offset, buf);
        Ok(())
    }

    fn read_piece(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.pieces.lock().unwrap().push(offset);
        self.copy(offset, buf);
        Ok(())
    }

    fn await_page(&self, offset: u64) {
        self.awaited.lock().unwrap().push(offset);
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        self.asked.lock().unwrap().push(offset..offset + bytes);
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.bytes)
    }
}
