//! Records that leave memory because tables have them as they are.
//!
//! A hand goes round the index, bucket by bucket, as the clock algorithm does
//! (second chance; Corbató, 1968). A record that somebody asked for since it came by
//! last is marked [`COLD`]; one that is marked already goes, without a trace. Who asks
//! for a cold record takes the mark away ([`Memtable::refer`]): a look at the likely
//! place does not find cold records, so the usual case need not know of this at all.
//!
//! What comes from a table is cold at first, and still so after the change for which it
//! came ([`Memtable::keep_cold`]): most of what is asked for once is not asked for
//! again, and would push out what is (as in SIEVE; Zhang et al., 2024). So a record may
//! be cold before it is durable. Its header is left alone while an extractor may read it.
//!
//! # What may go
//!
//! Only what is *durable*: of an epoch whose delta is in a table that the owner reads.
//! Deletions too: the table says them. Of a large map all records go together, and the
//! root decides, since a map is in memory whole or not at all; a small one goes with
//! its marker, which would otherwise say that the map was empty. Of what the owner uses
//! for something else ([`Holds::Others`]) the hand takes deletions only; which records go
//! the owner says one by one ([`Memtable::evict_one`]).
//!
//! From the first record on that has gone, a key that is absent here may be in a
//! table ([`Below::Tables`]), and its owner must know that every time.

use crate::base::{Epoch, KeyGroup};

use super::addr::Addr;
use super::arena::Block;
use super::index::{Hand, Slot};
use super::maps::{MapAt, Part};
use super::record::{COLD, Probe};
use super::sync::Ordering;
use super::{Below, Holds, Memtable, hash_of};

/// What a [share](super::Shared::delta_share) is of.
pub(super) const WHOLE: u32 = 1024;
/// Buckets whose records are asked for before the hand comes to them.
const AHEAD: usize = 2;
/// Records in a bucket, at most.
const MOST_IN_BUCKET: usize = 16;

/// What a memtable that gives up records has to remember.
#[derive(Default)]
pub(super) struct Sweep {
    hand: Hand,
    /// Where the names of records are copied to.
    names: Vec<u8>,
}

/// What changed and is not written yet, in bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Changed {
    /// What a table will hold of it: of lists and maps, as large a part as of what
    /// changed before.
    pub(crate) bytes: u64,
    /// The records that must stay in memory until then.
    pub(crate) pinned: u64,
}

impl std::ops::AddAssign for Changed {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.pinned += other.pinned;
    }
}

/// What a part of a sweep has come to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Evicted {
    /// Records that went.
    pub(crate) records: u64,
    /// Bytes of the blocks that they had.
    pub(crate) bytes: u64,
    /// The hand has come round to where it began.
    pub(crate) came_round: bool,
}

impl Memtable {
    /// What changed since the last freeze, roughly.
    pub(crate) fn changed(&self) -> Changed {
        let records = self.dirty.records();
        if records == 0 {
            return Changed::default();
        }
        let pinned = records * (self.arena.bytes().used / self.index.len().max(1));
        let share = u64::from(self.shared.delta_share.load(Ordering::Relaxed));
        Changed { bytes: (pinned * share / u64::from(WHOLE)).max(1), pinned }
    }

    /// The tables that the owner reads have what changed up to the end of this epoch.
    /// Once this was said, nothing is forgotten that they do not have.
    pub(crate) fn note_durable(&mut self, epoch: Epoch) {
        self.durable = Some(epoch);
    }

    /// Whether some records are in tables only, and stay there until they are asked
    /// for.
    pub(crate) fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Says so of a memtable that was to be made complete.
    pub(crate) fn stay_partial(&mut self) {
        if self.below == Below::Tables && !self.is_partial {
            self.is_partial = true;
            self.note_at_hand();
        }
    }

    /// Notes that somebody asks for a key, if its record is here; says whether
    /// anything is known of it.
    pub(crate) fn refer(&mut self, probe: &Probe<'_>) -> bool {
        match self.find(probe) {
            Some(found) => {
                let epoch = self.arena.header(found.block).epoch();
                if epoch == self.epoch || self.durable.is_some_and(|durable| epoch <= durable) {
                    self.arena.warm(found.block);
                }
                true
            }
            None => false,
        }
    }

    /// The mark of what comes from a table.
    pub(super) fn cold_at_first(&self) -> u64 {
        if self.is_partial && self.holds == Holds::Values { COLD } else { 0 }
    }

    /// Has a record that came from a table just now, and was changed, be cold still.
    pub(crate) fn keep_cold(&mut self, probe: &Probe<'_>) {
        if self.cold_at_first() == 0 {
            return;
        }
        if let Some(found) = self.find(probe)
            && self.arena.header(found.block).epoch() == self.epoch
        {
            self.arena.cool(found.block);
        }
    }

    /// Whether anything is known of a key without asking tables.
    pub(crate) fn knows(&self, probe: &Probe<'_>) -> bool {
        self.find(probe).is_some()
    }

    /// The same for a map.
    pub(crate) fn refer_to_map(&mut self, at: &mut MapAt<'_>) {
        if !self.refer(&at.probe(self, Part::Small)) {
            self.refer(&at.probe(self, Part::Root));
        }
    }

    /// Goes on with the sweep until `bytes` are free or it has looked at so many
    /// buckets, of about eight records each, or has come round.
    pub(crate) fn evict(&mut self, bytes: u64, buckets: usize) -> Evicted {
        let durable = self.durable.unwrap_or(Epoch::CLEAN);
        let mut evicted = Evicted::default();
        // Of a state that nobody asks for, nobody else does them.
        self.chores();
        let before = self.arena.bytes().used;
        for _ in 0..buckets {
            self.prefetch_ahead();
            let mut slots = [None; MOST_IN_BUCKET];
            for (at, slot) in slots.iter_mut().zip(self.index.slots_at(self.eviction.hand)) {
                *at = Some(slot);
            }
            for (slot, addr) in slots.into_iter().flatten() {
                evicted.records += self.consider(durable, slot, addr);
            }
            let (hand, came_round) = self.index.after(self.eviction.hand);
            self.eviction.hand = hand;
            evicted.bytes = before.saturating_sub(self.arena.bytes().used);
            evicted.came_round = came_round;
            if came_round || evicted.bytes >= bytes {
                break;
            }
        }
        // Whoever forgets nothing but deletions is as complete as before.
        if evicted.records > 0 && self.holds != Holds::Others {
            self.become_partial();
        }
        evicted
    }

    /// From now on some records are in tables only.
    fn become_partial(&mut self) {
        if !self.is_partial {
            self.below = Below::Tables;
            self.stay_partial();
        }
    }

    /// Everything that is in tables only has come back: what is not here does not exist.
    pub(crate) fn be_complete_again(&mut self) {
        self.is_partial = false;
        self.set_complete();
    }

    /// Lets a live record with this hash go whose namespace is the right one, if it is
    /// durable; says whether one went.
    pub(crate) fn evict_one(&mut self, hash: u64, is_meant: impl Fn(&[u8]) -> bool) -> bool {
        let Some(durable) = self.durable else { return false };
        let meant = |addr| {
            let block = self.arena.block(addr);
            let header = self.arena.header(block);
            let may_go = !header.is_tombstone() && header.epoch() <= durable;
            let is_it = may_go
                && is_meant(self.arena.key_and_namespace(block).1)
                && hash_of(&self.hasher, &self.arena, addr) == hash;
            is_it.then_some(addr)
        };
        let found = self.index.find(hash, meant).or_else(|| self.index.find_beyond(hash, meant));
        let Some((slot, addr)) = found else { return false };
        self.remove_found(slot, addr);
        self.become_partial();
        true
    }

    /// Bytes of records, deletions included, and of their index.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.arena.bytes().used + self.index.bytes()
    }

    /// The index is another one.
    pub(super) fn start_sweep_anew(&mut self) {
        self.eviction.hand = Hand::default();
    }

    fn prefetch_ahead(&self) {
        let mut hand = self.eviction.hand;
        for _ in 0..AHEAD {
            hand = self.index.after(hand).0;
        }
        for (_, addr) in self.index.slots_at(hand) {
            self.arena.prefetch(self.arena.block(addr));
        }
    }

    /// Marks a record, or lets it go; gives the number of records that went.
    fn consider(&mut self, durable: Epoch, slot: Slot, addr: Addr) -> u64 {
        // Of a map that went just now, several may have been in the bucket.
        if self.index.addr(slot) != addr {
            return 0;
        }
        let block = self.arena.block(addr);
        let header = self.arena.header(block);
        if header.epoch() > durable {
            return 0;
        }
        let goes = header.has(COLD) || header.is_tombstone();
        match self.holds {
            Holds::Others if header.is_tombstone() => {
                self.remove_found(slot, addr);
                1
            }
            Holds::Others => 0,
            Holds::Values | Holds::Lists if goes => {
                self.remove_found(slot, addr);
                1
            }
            Holds::Values | Holds::Lists => {
                self.arena.cool(block);
                0
            }
            Holds::Maps => self.consider_of_map(durable, slot, addr, block, goes),
        }
    }

    fn consider_of_map(
        &mut self,
        durable: Epoch,
        slot: Slot,
        addr: Addr,
        block: Block,
        goes: bool,
    ) -> u64 {
        let (key, name) = self.arena.key_and_namespace(block);
        match Part::of_name(name) {
            (_, Part::Page(_)) => 0,
            (_, Part::Marker) => {
                self.remove_found(slot, addr);
                1
            }
            (_, Part::Small | Part::Root) if !goes => {
                self.arena.cool(block);
                0
            }
            (namespace, Part::Small | Part::Root) => {
                let group = self.arena.header(block).group();
                let (key_len, namespace_len) = (key.len(), namespace.len());
                let mut names = std::mem::take(&mut self.eviction.names);
                names.clear();
                names.extend_from_slice(&self.arena.key_and_namespace(block).0[..key_len]);
                names.extend_from_slice(&self.arena.key_and_namespace(block).1[..namespace_len]);
                let (key, namespace) = names.split_at(key_len);
                let gone = self.evict_map(durable, group, key, namespace);
                self.eviction.names = names;
                gone
            }
        }
    }

    /// Lets a map go, if all of it is durable.
    fn evict_map(&mut self, durable: Epoch, group: KeyGroup, key: &[u8], namespace: &[u8]) -> u64 {
        let mut at = MapAt::new(group, key, namespace, Vec::new());
        let mut parts = self.map_parts(&mut at);
        parts.push(Part::Marker);
        let is_durable = |memtable: &Self, probe: &Probe<'_>| {
            let found = memtable.find(probe);
            found.is_none_or(|found| memtable.arena.header(found.block).epoch() <= durable)
        };
        if !parts.iter().all(|&part| is_durable(self, &at.probe(self, part))) {
            return 0;
        }
        parts.push(Part::Root);
        let before = self.index.len();
        for part in parts {
            self.forget(&at.probe(self, part));
        }
        before - self.index.len()
    }

    /// Removes a durable record, which no extractor reads.
    fn remove_found(&mut self, slot: Slot, addr: Addr) {
        let hash = hash_of(&self.hasher, &self.arena, addr);
        self.index.remove(hash, slot);
        self.arena.release(addr);
    }
}
