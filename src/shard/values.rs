//! The calls on single values, which are the ones that count.
//!
//! A look at the likely place ([`Memtable::entry_at_hand`]) settles nearly all of
//! them; what it does not settle goes elsewhere, in functions that are not inlined.
//! Batches ask for the lines of all their keys first, then for their records, and
//! then do the work, so that the cache misses overlap. States whose values expire
//! have ids of their own ([`StateId::is_timed`]), and are looked for where others
//! are not, so that those ask nothing.
//!
//! Count instructions before and after any change here.

use super::collections::Family;
use super::store::StateId;
use super::{Settled, ShardCore};
use crate::base::hash::{group_of_hash, hash_key};
use crate::base::limits::check_value;
use crate::base::{Error, KeyGroup, Result};
use crate::codec::KeyRef;
use crate::memtable::{BATCH, Hint, Holds, Lookup, Memtable, ValueMut};
use crate::table::PlacedKey;

/// Keys of a batch whose blocks are asked for at once, if they are in tables: about
/// as many reads as a disk does at a time.
const ASKED_AHEAD: usize = 128;

/// One at a time.
impl ShardCore {
    #[inline(always)]
    pub(super) fn get(&mut self, state: StateId, key: KeyRef<'_>) -> Result<Option<&[u8]>> {
        let at = state.0 as usize;
        let (group, key, namespace) = key.parts();
        if let Some(slot) = self.states.get(at) {
            if let Some(hit) = slot.memtable.value_at_hand::<false>(group, key, namespace) {
                return Ok(Some(self.states[at].memtable.value_of::<false>(hit, key, namespace)));
            }
        } else if let Some(memtable) = self.timed(state)
            && let Some(hit) = memtable.value_at_hand::<true>(group, key, namespace)
        {
            let memtable = &self.states[state.position()].memtable;
            return Ok(Some(memtable.value_of::<true>(hit, key, namespace)));
        }
        self.get_elsewhere(state, group, key, namespace)
    }

    #[inline(always)]
    pub(super) fn put(&mut self, state: StateId, key: KeyRef<'_>, value: &[u8]) -> Result<()> {
        let (group, key, namespace) = key.parts();
        if let Some(slot) = self.states.get_mut(state.0 as usize) {
            if let Some(mut entry) = slot.memtable.entry_at_hand::<false>(group, key, namespace) {
                entry.set(value);
                return entry.finish();
            }
        } else if let Some(memtable) = self.timed(state)
            && let Some(mut entry) = memtable.entry_at_hand::<true>(group, key, namespace)
        {
            entry.set(value);
            return entry.finish();
        }
        self.put_elsewhere(state, group, key, namespace, value)
    }

    #[inline]
    pub(super) fn delete(&mut self, state: StateId, key: KeyRef<'_>) -> Result<()> {
        let (group, key, namespace) = key.parts();
        if let Some(slot) = self.states.get_mut(state.0 as usize)
            && slot.memtable.delete_at_hand(Holds::Values, group, key, namespace)
        {
            return Ok(());
        }
        let group = self.check(state, group, key, namespace, Family::Values, "delete")?;
        let memtable = self.blind(state)?;
        let done = memtable.delete(&memtable.probe(group, key, namespace)).map(drop);
        done.map_err(|error| self.in_state(state, error))
    }

    #[inline(always)]
    pub(super) fn update(
        &mut self,
        state: StateId,
        key: KeyRef<'_>,
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        let (group, key, namespace) = key.parts();
        if let Some(slot) = self.states.get_mut(state.0 as usize) {
            if let Some(mut entry) = slot.memtable.entry_at_hand::<false>(group, key, namespace) {
                change(&mut entry);
                return entry.finish();
            }
        } else if let Some(memtable) = self.timed(state)
            && let Some(mut entry) = memtable.entry_at_hand::<true>(group, key, namespace)
        {
            change(&mut entry);
            return entry.finish();
        }
        self.update_elsewhere(state, group, key, namespace, change)
    }
}

/// Many at a time, and what a look did not settle.
impl ShardCore {
    /// The index lines of 1 to [`BATCH`] keys are asked for, then their
    /// records: so the cache misses overlap. Gives the hashes, and where the
    /// records most probably are.
    #[inline(always)]
    fn prefetch<K>(
        memtable: &Memtable,
        keys: &[K],
        key_of: impl Fn(&K) -> KeyRef<'_>,
    ) -> [(u64, Hint); BATCH] {
        // Of fewer keys the last is asked for again and again, which costs little and
        // spares arrays of what may be missing.
        let last = keys.len() - 1;
        let line_of = |at: usize| {
            let (_, key, namespace) = key_of(&keys[at.min(last)]).parts();
            let hash = memtable.hash(key, namespace);
            (hash, memtable.prefetch_line(hash))
        };
        // A loop, because the compiler may not inline what `from_fn` calls.
        let mut lines = [line_of(0); BATCH];
        for (at, line) in lines.iter_mut().enumerate().skip(1) {
            *line = line_of(at);
        }
        lines.map(|(hash, line)| (hash, memtable.prefetch_record(hash, line)))
    }

    /// Looks up keys of any form, [`BATCH`] at a time.
    #[inline(always)]
    pub(crate) fn get_each<K>(
        &mut self,
        state: StateId,
        keys: &[K],
        key_of: impl Fn(&K) -> KeyRef<'_>,
        visit: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        if state.is_timed() {
            self.get_timed_batches(state, keys, key_of, visit)
        } else {
            self.get_batches::<K, false>(state, keys, key_of, visit)
        }
    }

    // Apart from the others, so that those are compiled as if there were no time to
    // live.

    #[inline(never)]
    fn get_timed_batches<K>(
        &mut self,
        state: StateId,
        keys: &[K],
        key_of: impl Fn(&K) -> KeyRef<'_>,
        visit: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.get_batches::<K, true>(state, keys, key_of, visit)
    }

    #[inline(never)]
    fn update_timed_batches<K>(
        &mut self,
        state: StateId,
        keys: &[K],
        key_of: impl Fn(&K) -> KeyRef<'_>,
        change: impl FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        self.update_batches::<K, true>(state, keys, key_of, change)
    }

    #[inline(always)]
    fn get_batches<K, const TIMED: bool>(
        &mut self,
        state: StateId,
        keys: &[K],
        key_of: impl Fn(&K) -> KeyRef<'_>,
        mut visit: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        if self.memtable::<TIMED>(state)?.is_partial() {
            let mut visit = visit;
            return self.each_asked_ahead(state, keys, &key_of, |core, first, keys| {
                core.get_some::<K, TIMED>(state, first, keys, &key_of, &mut visit)
            });
        }
        // Full batches have a length that the compiler knows.
        let (batches, rest) = keys.as_chunks::<BATCH>();
        for (batch, keys) in batches.iter().enumerate() {
            self.get_some::<K, TIMED>(state, batch * BATCH, keys, &key_of, &mut visit)?;
        }
        self.get_some::<K, TIMED>(state, batches.len() * BATCH, rest, &key_of, &mut visit)
    }

    #[inline(always)]
    fn get_some<K, const TIMED: bool>(
        &mut self,
        state: StateId,
        first: usize,
        keys: &[K],
        key_of: &impl Fn(&K) -> KeyRef<'_>,
        visit: &mut impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        if TIMED {
            self.slot(state)?.memtable.look_at_clock();
        }
        let hints = Self::prefetch(self.memtable::<TIMED>(state)?, keys, key_of);
        let moves = self.memtable::<TIMED>(state)?.moves();
        for (at, (key, &(hash, hint))) in keys.iter().zip(&hints).enumerate() {
            let (group, key, namespace) = key_of(key).parts();
            let memtable = &*self.memtable::<TIMED>(state)?;
            // A read gives back what has expired, or what is evicted to make room.
            let moved = memtable.moves() != moves;
            let hint = if moved { memtable.hint_again(hash) } else { hint };
            match memtable.hit_at_hand::<TIMED>(hint, group, key, namespace) {
                Some(hit) => {
                    visit(first + at, Some(memtable.value_of::<TIMED>(hit, key, namespace)));
                }
                // The keys before a bad one are done first, as if they had
                // come one at a time.
                None => visit(
                    first + at,
                    self.get_elsewhere(state, group, key, namespace)
                        .map_err(|error| at_key(error, first + at))?,
                ),
            }
        }
        Ok(())
    }

    /// Updates keys of any form, [`BATCH`] at a time.
    #[inline(always)]
    pub(crate) fn update_each<K>(
        &mut self,
        state: StateId,
        keys: &[K],
        key_of: impl Fn(&K) -> KeyRef<'_>,
        change: impl FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        if state.is_timed() {
            self.update_timed_batches(state, keys, key_of, change)
        } else {
            self.update_batches::<K, false>(state, keys, key_of, change)
        }
    }

    #[inline(always)]
    fn update_batches<K, const TIMED: bool>(
        &mut self,
        state: StateId,
        keys: &[K],
        key_of: impl Fn(&K) -> KeyRef<'_>,
        mut change: impl FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        if self.memtable::<TIMED>(state)?.is_partial() {
            let mut change = change;
            return self.each_asked_ahead(state, keys, &key_of, |core, first, keys| {
                core.update_some::<K, TIMED>(state, first, keys, &key_of, &mut change)
            });
        }
        let (batches, rest) = keys.as_chunks::<BATCH>();
        for (batch, keys) in batches.iter().enumerate() {
            self.update_some::<K, TIMED>(state, batch * BATCH, keys, &key_of, &mut change)?;
        }
        self.update_some::<K, TIMED>(state, batches.len() * BATCH, rest, &key_of, &mut change)
    }

    #[inline(always)]
    fn update_some<K, const TIMED: bool>(
        &mut self,
        state: StateId,
        first: usize,
        keys: &[K],
        key_of: &impl Fn(&K) -> KeyRef<'_>,
        change: &mut impl FnMut(usize, &mut ValueMut<'_>),
    ) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        if TIMED {
            self.slot(state)?.memtable.look_at_clock();
        }
        let hints = Self::prefetch(self.memtable::<TIMED>(state)?, keys, key_of);
        let moves = self.memtable::<TIMED>(state)?.moves();
        let mut at = 0;
        loop {
            // The memtable is looked for once, not for each key.
            let memtable = self.memtable::<TIMED>(state)?;
            while at < keys.len() {
                let (hash, mut hint) = hints[at];
                // A change before this one may have moved the record.
                if memtable.moves() != moves {
                    hint = memtable.hint_again(hash);
                }
                let (group, key, namespace) = key_of(&keys[at]).parts();
                let Some(mut entry) =
                    memtable.entry_at_hint::<TIMED>(hint, group, hash, key, namespace)
                else {
                    break;
                };
                change(first + at, &mut entry);
                entry.finish().map_err(|error| at_key(error, first + at))?;
                at += 1;
            }
            if at == keys.len() {
                return Ok(());
            }
            let (group, key, namespace) = key_of(&keys[at]).parts();
            self.update_elsewhere(state, group, key, namespace, &mut |entry| {
                change(first + at, entry);
            })
            .map_err(|error| at_key(error, first + at))?;
            at += 1;
        }
    }

    /// Does `work` with the keys, up to [`BATCH`] at a time, of a state of which some
    /// records are in tables only. What these will read is asked for beforehand, so
    /// that the disk has many reads to do at once.
    #[inline(never)]
    fn each_asked_ahead<K>(
        &mut self,
        state: StateId,
        keys: &[K],
        key_of: &impl Fn(&K) -> KeyRef<'_>,
        mut work: impl FnMut(&mut Self, usize, &[K]) -> Result<()>,
    ) -> Result<()> {
        let mut missing = Vec::with_capacity(keys.len().min(ASKED_AHEAD));
        for (number, asked) in keys.chunks(ASKED_AHEAD).enumerate() {
            let max_parallelism = self.max_parallelism;
            let slot = self.slot(state)?;
            missing.clear();
            for key in asked {
                let (group, key, namespace) = key_of(key).parts();
                let group = group.unwrap_or_else(|| group_of_hash(hash_key(key), max_parallelism));
                if !slot.memtable.knows(&slot.memtable.probe(group, key, namespace)) {
                    let at = PlacedKey::in_group(group, key, namespace);
                    slot.base.will_search(at);
                    missing.push(at);
                }
            }
            for at in &missing {
                slot.base.will_need(*at);
            }
            for (batch, keys) in asked.chunks(BATCH).enumerate() {
                work(self, number * ASKED_AHEAD + batch * BATCH, keys)?;
            }
        }
        Ok(())
    }

    /// The memtable of a state whose values expire, for a look at what is at hand.
    #[inline(always)]
    fn timed(&mut self, state: StateId) -> Option<&mut Memtable> {
        let memtable = &mut self.states.get_mut(state.position())?.memtable;
        memtable.look_at_clock();
        Some(memtable)
    }

    // What the operations do when a look at the likely place did not settle
    // them: the record is of an earlier epoch, or not there, or in a table, or
    // the key is not ours. Kept apart so that the usual case stays short, and
    // given the parts of a key because the whole would be laid out in memory
    // before it is known that it is needed.

    #[inline(never)]
    fn get_elsewhere(
        &mut self,
        state: StateId,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
    ) -> Result<Option<&[u8]>> {
        let group = self.check(state, group, key, namespace, Family::Values, "get")?;
        let Settled { memtable, probe, .. } = self.settled(state, group, key, namespace)?;
        if state.is_timed() {
            memtable.look_at_clock();
            if memtable.renews() {
                memtable.timed_entry(probe).renew()?;
            }
            return Ok(memtable.timed_value(&probe));
        }
        Ok(match memtable.get(&probe) {
            Lookup::Value(value) => Some(value),
            Lookup::Absent | Lookup::Deleted => None,
        })
    }

    #[inline(never)]
    fn put_elsewhere(
        &mut self,
        state: StateId,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        value: &[u8],
    ) -> Result<()> {
        let group = self.check(state, group, key, namespace, Family::Values, "put")?;
        check_value(value).map_err(|error| self.in_state(state, error))?;
        let memtable = self.blind(state)?;
        let probe = memtable.probe(group, key, namespace);
        let done = if state.is_timed() {
            memtable.look_at_clock();
            memtable.put_timed(&probe, value)
        } else {
            memtable.put(&probe, value)
        };
        done.map_err(|error| self.in_state(state, error))
    }

    #[inline(never)]
    fn update_elsewhere(
        &mut self,
        state: StateId,
        group: Option<KeyGroup>,
        key: &[u8],
        namespace: &[u8],
        change: &mut dyn FnMut(&mut ValueMut<'_>),
    ) -> Result<()> {
        let group = self.check(state, group, key, namespace, Family::Values, "update")?;
        let Settled { memtable, probe, came_up } = self.settled(state, group, key, namespace)?;
        if state.is_timed() {
            memtable.look_at_clock();
            let mut value = memtable.timed_entry(probe);
            // An update reads first: where that renews, nothing is changed unless it
            // can be.
            value.renew()?;
            change(&mut value);
            return value.finish();
        }
        let mut value = memtable.entry(probe);
        change(&mut value);
        value.finish()?;
        if came_up {
            memtable.keep_cold(&probe);
        }
        Ok(())
    }
}

#[cold]
fn at_key(error: Error, number: usize) -> Error {
    error.at(format_args!("key {number} of the batch"))
}
