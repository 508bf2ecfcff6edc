//! Hash maps of the standard library's collections, which is what a program
//! without a state backend would use.
//!
//! * A list is a `Vec` in a hash map, a map a `BTreeMap` in one.
//! * Timers are a binary heap with a hash set beside it, which keeps a timer that
//!   is registered twice from firing twice. [`HeapAlone`] leaves the set out.
//! * A window is part of the key, as in Flink's heap backend, and each key in it
//!   has a timer. [`MapPerWindow`] has neither: it keeps a hash map for each window
//!   and drops it whole, the fastest that a program made for this work can be.
//!
//! Keys and values are inside the collections or boxed, like those of the engines
//! for values.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{Hash, Hasher};
use std::path::Path;

use ::hashbrown::hash_map::EntryRef;
use ::hashbrown::{Equivalent, HashMap, HashSet};

use super::{Contents, ENTRY_BYTES, Lists, Maps, Store, Timers, Windows, empty_window};
use crate::Result;
use crate::engines::Settings;
use crate::workload::counter_of;

/// Bytes as a collection owns them.
pub(crate) trait Own: Borrow<[u8]> + Eq + Hash + Ord + Clone + 'static {
    /// A copy of these bytes, which have the one length there is.
    fn own(bytes: &[u8]) -> Self;

    /// Becomes a copy of bytes of the same length.
    fn assign(&mut self, bytes: &[u8]);
}

impl<const N: usize> Own for [u8; N] {
    #[inline]
    fn own(bytes: &[u8]) -> Self {
        bytes.try_into().expect("all have one length")
    }

    #[inline]
    fn assign(&mut self, bytes: &[u8]) {
        self.copy_from_slice(bytes);
    }
}

impl Own for Box<[u8]> {
    #[inline]
    fn own(bytes: &[u8]) -> Self {
        Self::from(bytes)
    }

    #[inline]
    fn assign(&mut self, bytes: &[u8]) {
        self.copy_from_slice(bytes);
    }
}

/// A key in a window, or of a timer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct At<T>(u64, T);

impl<T: Own> Hash for At<T> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        AtRef(self.0, self.1.borrow()).hash(state);
    }
}

/// The same, borrowed.
#[derive(Hash)]
struct AtRef<'a>(u64, &'a [u8]);

impl<T: Own> Equivalent<At<T>> for AtRef<'_> {
    #[inline]
    fn equivalent(&self, owned: &At<T>) -> bool {
        self.0 == owned.0 && self.1 == owned.1.borrow()
    }
}

impl AtRef<'_> {
    #[inline]
    fn own<T: Own>(&self) -> At<T> {
        At(self.0, T::own(self.1))
    }
}

/// What a map has for a key, made if there is nothing; the key is copied only then.
#[inline]
fn entry_of<'m, KO: Hash + Eq, Q: Hash + Equivalent<KO> + ?Sized, T: Default>(
    map: &'m mut HashMap<KO, T>,
    key: &Q,
    own: impl FnOnce() -> KO,
) -> &'m mut T {
    match map.entry_ref(key) {
        EntryRef::Occupied(there) => there.into_mut(),
        EntryRef::Vacant(vacant) => vacant.insert_with_key(own(), T::default()),
    }
}

/// A collection of each kind.
pub(crate) struct Collections<KO, VO, EO> {
    lists: HashMap<KO, Vec<VO>>,
    maps: HashMap<KO, BTreeMap<EO, VO>>,
    windows_of_lists: HashMap<At<KO>, Vec<VO>>,
    windows_of_sums: HashMap<At<KO>, u64>,
    heap: BinaryHeap<Reverse<At<KO>>>,
    set: HashSet<At<KO>>,
}

impl<KO: Own, VO: Own, EO: Own> Store for Collections<KO, VO, EO> {
    fn create(_: &Settings, _: &Path) -> Result<Self> {
        Ok(Self {
            lists: HashMap::new(),
            maps: HashMap::new(),
            windows_of_lists: HashMap::new(),
            windows_of_sums: HashMap::new(),
            heap: BinaryHeap::new(),
            set: HashSet::new(),
        })
    }
}

impl<KO: Own, VO: Own, EO: Own, const K: usize, const V: usize> Lists<K, V>
    for Collections<KO, VO, EO>
{
    #[inline]
    fn append(&mut self, key: &[u8; K], element: &[u8; V]) -> Result<()> {
        entry_of(&mut self.lists, &key[..], || KO::own(key)).push(VO::own(element));
        Ok(())
    }

    #[inline]
    fn read(&mut self, key: &[u8; K], mut visit: impl FnMut(&[u8])) -> Result<()> {
        if let Some(list) = self.lists.get(&key[..]) {
            list.iter().for_each(|element| visit(element.borrow()));
        }
        Ok(())
    }

    fn clear(&mut self, key: &[u8; K]) -> Result<()> {
        self.lists.remove(&key[..]);
        Ok(())
    }
}

impl<KO: Own, VO: Own, EO: Own, const K: usize, const V: usize> Maps<K, V>
    for Collections<KO, VO, EO>
{
    #[inline]
    fn put(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES], value: &[u8; V]) -> Result<()> {
        let map = entry_of(&mut self.maps, &key[..], || KO::own(key));
        match map.get_mut(&entry[..]) {
            Some(there) => there.assign(value),
            None => drop(map.insert(EO::own(entry), VO::own(value))),
        }
        Ok(())
    }

    #[inline]
    fn get(&mut self, key: &[u8; K], entry: &[u8; ENTRY_BYTES]) -> Result<Option<u64>> {
        let value = self.maps.get(&key[..]).and_then(|map| map.get(&entry[..]));
        Ok(value.and_then(|value| counter_of(value.borrow())))
    }

    #[inline]
    fn scan(&mut self, key: &[u8; K], mut visit: impl FnMut(&[u8], &[u8])) -> Result<()> {
        if let Some(map) = self.maps.get(&key[..]) {
            map.iter().for_each(|(entry, value)| visit(entry.borrow(), value.borrow()));
        }
        Ok(())
    }
}

impl<KO: Own, VO: Own, EO: Own, const K: usize> Timers<K> for Collections<KO, VO, EO> {
    #[inline]
    fn register(&mut self, time: u64, key: &[u8; K]) -> Result<()> {
        let at = AtRef(time, key);
        if !self.set.contains(&at) {
            self.set.insert(at.own());
            self.heap.push(Reverse(at.own()));
        }
        Ok(())
    }

    #[inline]
    fn fire(&mut self, until: u64, mut visit: impl FnMut(u64, &[u8])) -> Result<()> {
        while let Some(Reverse(first)) = self.heap.peek()
            && first.0 <= until
            && let Some(Reverse(timer)) = self.heap.pop()
        {
            self.set.remove(&timer);
            visit(timer.0, timer.1.borrow());
        }
        Ok(())
    }
}

impl<KO: Own, VO: Own, EO: Own, const K: usize, const V: usize> Windows<K, V>
    for Collections<KO, VO, EO>
{
    #[inline]
    fn add(
        &mut self,
        contents: Contents,
        key: &[u8; K],
        window: u64,
        event: &[u8; V],
    ) -> Result<()> {
        let at = AtRef(window, key);
        match contents {
            Contents::List => {
                entry_of(&mut self.windows_of_lists, &at, || at.own()).push(VO::own(event));
            }
            Contents::Sum => {
                let sum = entry_of(&mut self.windows_of_sums, &at, || at.own());
                *sum = sum.wrapping_add(counter_of(event).unwrap_or(0));
            }
        }
        Timers::<K>::register(self, window, key)
    }

    fn fire_window(
        &mut self,
        contents: Contents,
        window: u64,
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<()> {
        while let Some(Reverse(first)) = self.heap.peek()
            && first.0 <= window
            && let Some(Reverse(timer)) = self.heap.pop()
        {
            self.set.remove(&timer);
            let key = timer.1.borrow();
            match contents {
                Contents::List => {
                    let events = self.windows_of_lists.remove(&timer);
                    let events = events.ok_or_else(|| empty_window(window))?;
                    events.iter().for_each(|event| visit(key, event.borrow()));
                }
                Contents::Sum => {
                    let sum = self.windows_of_sums.remove(&timer);
                    visit(key, &sum.ok_or_else(|| empty_window(window))?.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}

/// A binary heap of timers without a set: what is registered twice fires twice,
/// and nothing can be deleted.
pub(crate) struct HeapAlone<const K: usize>(BinaryHeap<Reverse<At<[u8; K]>>>);

impl<const K: usize> Store for HeapAlone<K> {
    fn create(_: &Settings, _: &Path) -> Result<Self> {
        Ok(Self(BinaryHeap::new()))
    }
}

impl<const K: usize> Timers<K> for HeapAlone<K> {
    #[inline]
    fn register(&mut self, time: u64, key: &[u8; K]) -> Result<()> {
        self.0.push(Reverse(At(time, *key)));
        Ok(())
    }

    #[inline]
    fn fire(&mut self, until: u64, mut visit: impl FnMut(u64, &[u8])) -> Result<()> {
        while let Some(Reverse(first)) = self.0.peek()
            && first.0 <= until
            && let Some(Reverse(timer)) = self.0.pop()
        {
            visit(timer.0, &timer.1);
        }
        Ok(())
    }
}

/// A hash map for each window, without timers: not state for any windows, but for
/// windows that all end at once.
pub(crate) struct MapPerWindow<const K: usize, const V: usize> {
    lists: BTreeMap<u64, HashMap<[u8; K], Vec<[u8; V]>>>,
    sums: BTreeMap<u64, HashMap<[u8; K], u64>>,
}

impl<const K: usize, const V: usize> Store for MapPerWindow<K, V> {
    fn create(_: &Settings, _: &Path) -> Result<Self> {
        Ok(Self { lists: BTreeMap::new(), sums: BTreeMap::new() })
    }
}

impl<const K: usize, const V: usize> Windows<K, V> for MapPerWindow<K, V> {
    #[inline]
    fn add(
        &mut self,
        contents: Contents,
        key: &[u8; K],
        window: u64,
        event: &[u8; V],
    ) -> Result<()> {
        match contents {
            Contents::List => {
                self.lists.entry(window).or_default().entry(*key).or_default().push(*event);
            }
            Contents::Sum => {
                let sum = self.sums.entry(window).or_default().entry(*key).or_default();
                *sum = sum.wrapping_add(counter_of(event).unwrap_or(0));
            }
        }
        Ok(())
    }

    fn fire_window(
        &mut self,
        contents: Contents,
        window: u64,
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<()> {
        match contents {
            Contents::List => {
                for (key, events) in self.lists.remove(&window).unwrap_or_default() {
                    events.iter().for_each(|event| visit(&key, event));
                }
            }
            Contents::Sum => {
                for (key, sum) in self.sums.remove(&window).unwrap_or_default() {
                    visit(&key, &sum.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}
