//! Which parts of the chunks are in use: blocks are taken from free ones, or from what
//! was never given out, and come back, to be joined with their neighbours.
//!
//! The heads of the lists of free blocks are in [`FreeLists`](super::super::freelist);
//! their links lie in the blocks themselves, which is the arena's business.

#![deny(unsafe_code)]

use std::sync::Arc;

use crate::base::{Error, Result};
use crate::env::mmap::Pages;

use super::super::addr::{Addr, CHUNK_BYTES, MAX_CHUNKS, UNIT_BYTES};
use super::super::record::{FREE, Header, ValueLens};
use super::{Arena, Block, CHUNK_PART, Chunk, MIN_UNITS};

/// The first chunk is below the size at which huge pages are asked for, so
/// that a small state takes only the small pages it touches.
const FIRST_CHUNK_BYTES: usize = CHUNK_BYTES / 2;
/// Blocks of a size class that are tried before the next class is.
const CLASS_VISITS: u32 = 8;
/// Blocks that one sweep visits at most: about 50 us of work.
const SWEEP_BLOCKS: u32 = 4096;

impl Arena {
    /// A block for a record with a key and a value of these lengths and `front` bytes
    /// between header and value; and its units.
    pub(super) fn allocate_record(
        &mut self,
        key_len: usize,
        front: usize,
        value: ValueLens,
    ) -> Result<(Addr, Block, u32)> {
        let header = Header::bytes_for(key_len, front, value.longest);
        self.allocate(header + front + value.longest)
    }

    /// A block of at least `bytes`, and its units. Its header means nothing
    /// yet.
    pub(super) fn allocate(&mut self, bytes: usize) -> Result<(Addr, Block, u32)> {
        let (addr, units) = if bytes > self.chunk_bytes / CHUNK_PART {
            self.allocate_alone(bytes)?
        } else {
            self.allocate_shared(bytes)?
        };
        self.bytes.used += u64::from(units) * UNIT_BYTES as u64;
        Ok((addr, self.block(addr), units))
    }

    fn allocate_shared(&mut self, bytes: usize) -> Result<(Addr, u32)> {
        let units = (bytes.div_ceil(UNIT_BYTES) as u32).max(MIN_UNITS);
        // Split larger free blocks only when there is much to win: otherwise
        // they would be worn down to crumbs by every small insert.
        let thrifty = self.bytes.free * 8 > self.bytes.mapped;
        match self.take_free(units, thrifty) {
            Some(taken) => Ok(taken),
            None => self.take_bump(units),
        }
    }

    fn allocate_alone(&mut self, bytes: usize) -> Result<(Addr, u32)> {
        // Whole small pages: the mapping has that size anyway.
        let bytes = bytes.next_multiple_of(4096);
        let chunk = self.add_chunk(Pages::new(bytes).map_err(out_of_memory)?, false)?;
        Ok((Addr::new(chunk, 0), (bytes / UNIT_BYTES) as u32))
    }

    /// Takes units that were never given out, from a new chunk if need be.
    fn take_bump(&mut self, units: u32) -> Result<(Addr, u32)> {
        if self.bump_unit + units > self.bump_end {
            if self.bytes.free * 4 > self.bytes.mapped {
                self.sweep_some();
                if let Some(taken) = self.take_free(units, true) {
                    return Ok(taken);
                }
            }
            self.start_chunk()?;
        }
        let addr = Addr::new(self.bump_chunk, self.bump_unit);
        self.bump_unit += units;
        Ok((addr, units))
    }

    /// Begins to fill a new ordinary chunk; what is left of the old one
    /// becomes a free block.
    fn start_chunk(&mut self) -> Result<()> {
        let pages = if self.bases.len() == 1 {
            Pages::new(self.chunk_bytes.min(FIRST_CHUNK_BYTES)).map_err(out_of_memory)?
        } else {
            self.pool.take_chunk().map_err(out_of_memory)?
        };
        let end = (pages.len() / UNIT_BYTES) as u32;
        let chunk = self.add_chunk(pages, true)?;
        let left = self.bump_end - self.bump_unit;
        if left > 0 {
            let addr = Addr::new(self.bump_chunk, self.bump_unit);
            self.bytes.free += u64::from(left) * UNIT_BYTES as u64;
            self.add_free(addr, left);
        }
        self.bump_chunk = chunk;
        self.bump_unit = 0;
        self.bump_end = end;
        Ok(())
    }

    fn add_chunk(&mut self, pages: Pages, shared: bool) -> Result<usize> {
        let chunks = Arc::make_mut(&mut self.chunks);
        let base = pages.as_ptr();
        self.bytes.mapped += pages.len() as u64;
        let chunk = Some(Arc::new(Chunk { pages, shared }));
        if let Some(number) = self.vacant.pop() {
            self.bases[number as usize] = base.wrapping_sub(number as usize * CHUNK_BYTES);
            chunks[number as usize] = chunk;
            return Ok(number as usize);
        }
        if self.bases.len() == MAX_CHUNKS {
            self.bytes.mapped -= chunk.map_or(0, |chunk| chunk.pages.len() as u64);
            return Err(Error::unavailable("a state of one shard has outgrown its address space")
                .expected(format_args!("at most {MAX_CHUNKS} chunks of 2 MiB or single records"))
                .remedy("spread the job over more shards"));
        }
        self.bases.push(base.wrapping_sub(self.bases.len() * CHUNK_BYTES));
        chunks.push(chunk);
        Ok(self.bases.len() - 1)
    }

    /// Marks a block free and lists it. A single unit is too small for links:
    /// it waits unlisted until a sweep joins it to a neighbour.
    pub(super) fn add_free(&mut self, addr: Addr, units: u32) {
        self.set_header(self.block(addr), Header::of_free(units));
        if units < MIN_UNITS {
            return;
        }
        let next = self.free.push(units, addr.0);
        self.set_next(addr, next);
        self.set_previous(addr, 0);
        if next != 0 {
            self.set_previous(Addr(next), addr.0);
        }
    }

    pub(super) fn unlist(&mut self, addr: Addr, units: u32) {
        let (next, previous) = self.links(addr);
        if next != 0 {
            self.set_previous(Addr(next), previous);
        }
        if previous != 0 {
            self.set_next(Addr(previous), next);
        } else {
            self.free.set_head(units, next);
        }
    }

    /// Takes a free block of at least `units`, splitting a larger one if
    /// `may_split`.
    fn take_free(&mut self, units: u32, may_split: bool) -> Option<(Addr, u32)> {
        let found = self.find_in_class(units).or_else(|| self.free.find(units, may_split))?;
        let addr = Addr(found);
        let have = self.header(self.block(addr)).capacity_units();
        self.unlist(addr, have);
        let mut taken = have;
        if have - units >= MIN_UNITS {
            self.add_free(Addr(addr.0 + units), have - units);
            taken = units;
        }
        self.bytes.free -= u64::from(taken) * UNIT_BYTES as u64;
        Some((addr, taken))
    }

    /// Looks through the first blocks of the class of `units` for one that is
    /// large enough: the usual case is that all have the same size.
    fn find_in_class(&self, units: u32) -> Option<u32> {
        let mut candidate = self.free.candidates(units)?;
        for _ in 0..CLASS_VISITS {
            if self.header(self.block(Addr(candidate))).capacity_units() >= units {
                return Some(candidate);
            }
            candidate = self.links(Addr(candidate)).0;
            if candidate == 0 {
                break;
            }
        }
        None
    }

    /// Joins neighbouring free blocks, a bounded number of blocks at a time.
    fn sweep_some(&mut self) {
        let mut visits = SWEEP_BLOCKS;
        while visits > 0 {
            let (chunk, unit) = self.sweep;
            let end = self.chunk_end(chunk);
            if unit >= end {
                let next = if chunk + 1 < self.bases.len() { chunk + 1 } else { 1 };
                self.sweep = (next, 0);
                visits -= 1;
                continue;
            }
            let first = Addr::new(chunk, unit);
            let header = self.header(self.block(first));
            let mut units = header.capacity_units();
            if header.has(FREE) {
                let mut joined = units;
                while unit + joined < end {
                    let next = Addr::new(chunk, unit + joined);
                    let header = self.header(self.block(next));
                    if !header.has(FREE) {
                        break;
                    }
                    if header.capacity_units() >= MIN_UNITS {
                        self.unlist(next, header.capacity_units());
                    }
                    joined += header.capacity_units();
                    visits = visits.saturating_sub(1);
                }
                if joined > units {
                    if units >= MIN_UNITS {
                        self.unlist(first, units);
                    }
                    self.add_free(first, joined);
                    units = joined;
                }
            }
            self.sweep.1 = unit + units;
            visits = visits.saturating_sub(1);
        }
    }

    /// How many units of an ordinary chunk are divided into blocks that may be
    /// joined; 0 for chunks that hold one large record or nothing, or are being
    /// emptied.
    fn chunk_end(&self, chunk: usize) -> u32 {
        if chunk == self.bump_chunk {
            return self.bump_unit;
        }
        if self.leaving.is_of(chunk) {
            return 0;
        }
        match self.chunks.get(chunk) {
            Some(Some(chunk)) if chunk.shared => (chunk.pages.len() / UNIT_BYTES) as u32,
            _ => 0,
        }
    }
}

fn out_of_memory(source: std::io::Error) -> Error {
    Error::io("no memory for records could be mapped", source)
        .remedy("free memory, or spread the job over more shards")
}
