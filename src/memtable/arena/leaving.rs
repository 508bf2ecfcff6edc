//! Chunks that are given back to the system.
//!
//! Blocks come back one by one, and a chunk is hardly ever free as a whole. So one
//! after the other is emptied: a hand goes over its blocks; free ones behind it are not
//! listed any more, and records are moved by the memtable, which knows who refers to
//! them. Blocks in front of the hand are used as ever. When the last block behind it is
//! released, the chunk is unmapped: at once, or when the last
//! [`ChunkSet`](super::ChunkSet) that has it is dropped.
//!
//! What is won is always more than what is copied, since all that is copied goes into
//! gaps of other chunks; and it does not matter which chunk is taken, since an eviction
//! by hash leaves the same holes in all. So they take turns, and nothing need be counted
//! when blocks are given out.

#![deny(unsafe_code)]

use std::sync::Arc;

use super::super::addr::{Addr, UNIT_BYTES};
use super::super::freelist::FreeLists;
use super::super::record::FREE;
use super::{Arena, ArenaBytes, MIN_UNITS};

/// The chunk that is being emptied, if any, and how far.
#[derive(Clone, Copy, Default)]
pub(super) struct Leaving {
    /// 0 if there is none.
    chunk: usize,
    /// Where the hand is; all before it is passed.
    unit: u32,
    end: u32,
    /// Units behind the hand that are in use still.
    in_use: u32,
    /// The chunk that was emptied last.
    last: usize,
}

impl Leaving {
    /// Whether a block is behind the hand.
    #[inline]
    pub(super) fn has_passed(&self, addr: Addr) -> bool {
        addr.chunk() == self.chunk && addr.unit() < self.unit
    }

    pub(super) fn is_of(&self, chunk: usize) -> bool {
        chunk == self.chunk
    }
}

impl Arena {
    /// Whether chunks can be given back now: there are none in use, or gaps that have
    /// room for what is in one.
    pub(in crate::memtable) fn can_shrink(&self) -> bool {
        if self.bytes.used == 0 || self.leaving.chunk != 0 {
            let waits = self.leaving.unit == self.leaving.end;
            return if self.bytes.used == 0 { self.bytes.mapped > 0 } else { !waits };
        }
        // Half a chunk more, since gaps do not fit what is moved to the last byte.
        self.bytes.free >= (self.chunk_bytes + self.chunk_bytes / 2) as u64
            && self.next_to_leave().is_some()
    }

    /// The next record of the chunk that is being emptied, for the caller to
    /// [pass](Self::pass), and then to move; of another chunk, if none is. `None` if
    /// there is nothing to be done, now.
    pub(in crate::memtable) fn next_leaving(&mut self) -> Option<Addr> {
        if self.leaving.chunk == 0 && !(self.can_shrink() && self.begin_leaving()) {
            return None;
        }
        while self.leaving.unit < self.leaving.end {
            let addr = Addr::new(self.leaving.chunk, self.leaving.unit);
            let header = self.header(self.block(addr));
            if !header.has(FREE) {
                return Some(addr);
            }
            let units = header.capacity_units();
            if units >= MIN_UNITS {
                self.unlist(addr, units);
            }
            self.leaving.unit += units;
        }
        self.leave_if_empty();
        None
    }

    /// Moves the hand behind a record that [`next_leaving`](Self::next_leaving) gave.
    pub(in crate::memtable) fn pass(&mut self, addr: Addr) {
        debug_assert!(addr == Addr::new(self.leaving.chunk, self.leaving.unit));
        let units = self.header(self.block(addr)).capacity_units();
        self.leaving.unit += units;
        self.leaving.in_use += units;
    }

    /// Notes that so many units behind the hand came back.
    pub(super) fn note_left(&mut self, units: u32) {
        self.leaving.in_use -= units;
        self.leave_if_empty();
    }

    /// Gives everything back. Nothing is in use.
    pub(in crate::memtable) fn clear(&mut self) {
        debug_assert!(self.bytes.used == 0);
        self.moves += 1;
        self.bases.truncate(1);
        // A frozen epoch keeps what it has.
        self.chunks = Arc::new(vec![None]);
        (self.bump_chunk, self.bump_unit, self.bump_end) = (0, 0, 0);
        self.vacant = Vec::new();
        self.free = FreeLists::new();
        self.sweep = (1, 0);
        self.leaving = Leaving::default();
        self.bytes = ArenaBytes::default();
    }

    /// The chunk whose turn it is: an ordinary one that is not being filled.
    fn next_to_leave(&self) -> Option<usize> {
        let all = self.chunks.len();
        let turns = (self.leaving.last + 1..all).chain(1..all.min(self.leaving.last + 1));
        turns.into_iter().find(|&chunk| {
            let is_shared = self.chunks[chunk].as_ref().is_some_and(|chunk| chunk.shared);
            is_shared && chunk != self.bump_chunk
        })
    }

    fn begin_leaving(&mut self) -> bool {
        let Some(chunk) = self.next_to_leave() else { return false };
        let bytes = self.chunks[chunk].as_ref().map_or(0, |chunk| chunk.pages.len());
        let end = (bytes / UNIT_BYTES) as u32;
        self.leaving = Leaving { chunk, unit: 0, end, in_use: 0, last: chunk };
        // Another chunk may have its number when the sweep comes to it.
        if self.sweep.0 == chunk {
            self.sweep.1 = 0;
        }
        true
    }

    fn leave_if_empty(&mut self) {
        let Leaving { chunk, unit, end, in_use, last } = self.leaving;
        if chunk == 0 || unit < end || in_use > 0 {
            return;
        }
        let bytes = u64::from(end) * UNIT_BYTES as u64;
        self.bytes.mapped -= bytes;
        self.bytes.free -= bytes;
        self.bases[chunk] = std::ptr::null_mut();
        Arc::make_mut(&mut self.chunks)[chunk] = None;
        self.vacant.push(chunk as u32);
        self.leaving = Leaving { last, ..Leaving::default() };
    }
}
