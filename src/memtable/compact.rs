//! Chunks of the arena that are emptied and given back, where memory is short.
//!
//! Records go elsewhere as they are: the index learns of the new place, and of a record
//! of the current epoch the dirty map, too. It is done while nothing is frozen that was
//! not extracted; then nothing is retired, either, and every block is a record that the
//! index knows.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::addr::Addr;
use super::index::Index;
use super::{Memtable, hash_of};

/// What an index takes that is no larger than it need be: of few records, and for each of
/// many.
const SMALL_INDEX_BYTES: u64 = 16 << 10;
const INDEX_BYTES: u64 = 32;

/// Whether chunks can be given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Compaction {
    /// Now.
    Possible,
    /// When what is frozen has been extracted: until then a record that is moved takes
    /// twice the memory, and a chunk that is given back stays mapped.
    Later,
    /// No: the gaps are small.
    Useless,
}

impl Memtable {
    /// Whether memory can be given back by [compacting](Self::compact).
    pub(crate) fn compaction(&mut self) -> Compaction {
        if !self.arena.can_shrink() {
            return Compaction::Useless;
        }
        self.refresh_extracted();
        if self.extracted.next() == self.epoch { Compaction::Possible } else { Compaction::Later }
    }

    /// Goes on emptying a chunk of the arena, by up to so many records, if that is
    /// possible; gives all back if there are none. Says whether anything was done.
    pub(crate) fn compact(&mut self, records: usize) -> bool {
        if self.compaction() != Compaction::Possible {
            return false;
        }
        // Otherwise some of it would be moved about.
        while self.chores() {}
        if self.arena.bytes().used == 0 {
            debug_assert!(self.index.len() == 0 && self.retired.is_empty());
            self.arena.clear();
            self.index = Index::new(Arc::clone(self.arena.pool()));
            return true;
        }
        for _ in 0..records {
            match self.arena.next_leaving() {
                Some(addr) if self.move_record(addr) => {}
                // Memory that cannot be had to save memory is no reason to fail.
                Some(_) => return false,
                None => break,
            }
        }
        true
    }

    /// Makes the index anew if it is far larger than the records that are left need it: where
    /// hashes that were near each other have gone, segments stay behind that others do not
    /// come to. Costs a look at all of the index.
    pub(crate) fn shrink_index(&mut self) {
        if self.index.bytes() <= SMALL_INDEX_BYTES + INDEX_BYTES * self.index.len() {
            return;
        }
        let (hasher, arena) = (&self.hasher, &self.arena);
        let hash = |addr| hash_of(hasher, arena, addr);
        let mut index = Index::new(Arc::clone(arena.pool()));
        let made = self.index.visit(|addr| {
            // Memory that cannot be had to save memory is no reason to fail.
            match index.reserve(hash(addr), hash, |addr| arena.prefetch(arena.block(addr))) {
                Ok(()) => {
                    index.insert(hash(addr), addr);
                    ControlFlow::Continue(())
                }
                Err(_) => ControlFlow::Break(()),
            }
        });
        if made.is_continue() {
            self.index = index;
            self.start_sweep_anew();
        }
    }

    /// Moves a record out of the chunk that is being emptied; `false` if there is no
    /// memory for it elsewhere.
    fn move_record(&mut self, old: Addr) -> bool {
        let hash = hash_of(&self.hasher, &self.arena, old);
        let same = |found| (found == old).then_some(());
        let found = self.index.find(hash, same).or_else(|| self.index.find_beyond(hash, same));
        let Some((slot, ())) = found else {
            debug_assert!(false, "a block that no index knows was released");
            self.arena.pass(old);
            return true;
        };
        let block = self.arena.block(old);
        let is_dirty = self.arena.header(block).epoch() == self.epoch;
        let Ok((new, _)) = self.arena.copy_as_it_is(block) else { return false };
        self.arena.pass(old);
        self.index.replace(slot, new);
        if is_dirty {
            self.dirty.clear(old);
            self.mark_dirty(new);
        }
        self.arena.release(old);
        true
    }
}
