//! A broadcast state in memory: an ordered map of byte strings whose clones share
//! it.
//!
//! Entries lie in pages of up to 4 KiB, ascending, each laid out as it is stored:
//! the key and the value, behind their lengths. The list of pages has the first
//! eight bytes of the first key of each, so that a search in it seldom looks into
//! a page that is not the one. A clone costs nothing. Changing a map of which
//! there is a clone copies the list of pages once, sixteen bytes each, and every
//! page that is changed.
//!
//! Promises: no page is empty, keys ascend within pages and from page to page, and
//! every head in the list is that of its page.

use std::cmp::Ordering;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::format::Items;
use crate::format::manifest::encode_bytes;
use crate::format::operator_state::split_item;

/// A longer page is split, if it holds more than one entry.
const PAGE_BYTES: usize = 4096;
/// What a split puts into one page, again if that is more than one entry.
const SPLIT_BYTES: usize = PAGE_BYTES / 4 * 3;
/// Two neighbours that together are no longer than this become one.
const MERGED_BYTES: usize = PAGE_BYTES / 2;

#[derive(Clone, Default, Debug)]
struct Page {
    /// By itself, so that a snapshot shares it without the other field.
    bytes: Arc<Vec<u8>>,
    /// Where each entry starts.
    starts: Vec<u32>,
}

/// A page that is not empty, and where its keys begin.
#[derive(Clone, Debug)]
struct Listed {
    /// The [`head`] of the first key.
    head: u64,
    page: Arc<Page>,
}

impl Listed {
    fn new(page: Arc<Page>) -> Self {
        Self { head: head(page.first_key()), page }
    }
}

/// The first bytes of a key, in the order of keys as far as they go.
fn head(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(bytes)
}

/// See the [module documentation](self).
#[derive(Clone, Default, Debug)]
pub(crate) struct Map {
    pages: Arc<Vec<Listed>>,
    entries: u64,
    bytes: u64,
}

impl Page {
    fn entry(&self, at: usize) -> (&[u8], &[u8]) {
        let (key, rest) = split_item(&self.bytes[self.starts[at] as usize..]);
        (key, split_item(rest).0)
    }

    fn first_key(&self) -> &[u8] {
        self.entry(0).0
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.starts.binary_search_by(|&start| split_item(&self.bytes[start as usize..]).0.cmp(key))
    }

    /// Where entry `at` starts, or would if there were one more.
    fn start(&self, at: usize) -> usize {
        self.starts.get(at).map_or(self.bytes.len(), |&start| start as usize)
    }

    fn insert(&mut self, at: usize, entry: &[u8]) {
        let start = self.start(at);
        Arc::make_mut(&mut self.bytes).splice(start..start, entry.iter().copied());
        for later in &mut self.starts[at..] {
            *later += entry.len() as u32;
        }
        self.starts.insert(at, start as u32);
    }

    /// Gives the bytes that the entry took.
    fn remove(&mut self, at: usize) -> u64 {
        let (start, end) = (self.start(at), self.start(at + 1));
        Arc::make_mut(&mut self.bytes).drain(start..end);
        self.starts.remove(at);
        for later in &mut self.starts[at..] {
            *later -= (end - start) as u32;
        }
        (end - start) as u64
    }

    /// Adds all entries of a page with greater keys.
    fn append(&mut self, other: &Self) {
        let before = self.bytes.len() as u32;
        Arc::make_mut(&mut self.bytes).extend_from_slice(&other.bytes);
        self.starts.extend(other.starts.iter().map(|start| before + start));
    }

    /// The same entries in pages that are shorter than this one.
    fn split(&self) -> Vec<Listed> {
        let mut pages = Vec::new();
        let mut first = 0;
        while first < self.starts.len() {
            let from = self.start(first);
            let mut end = first + 1;
            while end < self.starts.len() && self.start(end + 1) - from <= SPLIT_BYTES {
                end += 1;
            }
            pages.push(Listed::new(Arc::new(Self {
                bytes: Arc::new(self.bytes[from..self.start(end)].to_vec()),
                starts: self.starts[first..end].iter().map(|start| start - from as u32).collect(),
            })));
            first = end;
        }
        pages
    }
}

#[allow(
    clippy::type_complexity,
    reason = "a visitor spelled out says more than a name that has to be looked up"
)]
impl Map {
    /// Number of entries.
    pub(super) fn len(&self) -> u64 {
        self.entries
    }

    /// Bytes that they take in a snapshot.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that an entry takes in a snapshot.
    pub(super) fn entry_bytes(key: &[u8], value: &[u8]) -> u64 {
        Items::stored_bytes(key.len()) + Items::stored_bytes(value.len())
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let page = &self.pages.get(self.page_of(key))?.page;
        page.find(key).ok().map(|at| page.entry(at).1)
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        let mut entry = Vec::with_capacity(Self::entry_bytes(key, value) as usize);
        encode_bytes(key, &mut entry);
        encode_bytes(value, &mut entry);
        let number = self.page_of(key);
        let pages = Arc::make_mut(&mut self.pages);
        if pages.is_empty() {
            // It gets its first entry, and its head, below.
            pages.push(Listed { head: 0, page: Arc::default() });
        }
        let page = Arc::make_mut(&mut pages[number].page);
        let at = match page.find(key) {
            Ok(at) => {
                self.bytes -= page.remove(at);
                self.entries -= 1;
                at
            }
            Err(at) => at,
        };
        page.insert(at, &entry);
        self.bytes += entry.len() as u64;
        self.entries += 1;
        if page.bytes.len() > PAGE_BYTES && page.starts.len() > 1 {
            let parts = page.split();
            pages.splice(number..=number, parts);
        } else if at == 0 {
            pages[number].head = head(key);
        }
    }

    /// Removes an entry; `false` if there is none.
    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        let number = self.page_of(key);
        let Some(at) = self.pages.get(number).and_then(|listed| listed.page.find(key).ok()) else {
            return false;
        };
        let pages = Arc::make_mut(&mut self.pages);
        let page = Arc::make_mut(&mut pages[number].page);
        self.bytes -= page.remove(at);
        self.entries -= 1;
        if page.starts.is_empty() {
            pages.remove(number);
            return true;
        }
        pages[number].head = head(pages[number].page.first_key());
        for first in [Some(number), number.checked_sub(1)].into_iter().flatten() {
            if let [one, other, ..] = &pages[first..]
                && one.page.bytes.len() + other.page.bytes.len() <= MERGED_BYTES
            {
                let other = pages.remove(first + 1);
                Arc::make_mut(&mut pages[first].page).append(&other.page);
                break;
            }
        }
        true
    }

    /// Entries in ascending order of their keys, from `from` on.
    pub(super) fn scan(
        &self,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) {
        let (Bound::Included(start) | Bound::Excluded(start)) = from else {
            return self.visit(0, 0, visit);
        };
        let number = self.page_of(start);
        let Some(Listed { page, .. }) = self.pages.get(number) else { return };
        let at = match page.find(start) {
            Ok(at) if matches!(from, Bound::Excluded(_)) => at + 1,
            Ok(at) | Err(at) => at,
        };
        self.visit(number, at, visit);
    }

    fn visit(
        &self,
        number: usize,
        mut at: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) {
        for Listed { page, .. } in &self.pages[number..] {
            for at in at..page.starts.len() {
                let (key, value) = page.entry(at);
                if visit(key, value).is_break() {
                    return;
                }
            }
            at = 0;
        }
    }

    /// Keys and values in turn, as a manifest has them, without copying them.
    pub(super) fn items(&self) -> Items {
        let pieces = self.pages.iter().map(|listed| Arc::clone(&listed.page.bytes)).collect();
        Items::of_pieces(pieces, 2 * self.entries)
    }

    /// The page that has the key, if any has.
    fn page_of(&self, key: &[u8]) -> usize {
        let wanted = head(key);
        let begins_before = |listed: &Listed| match listed.head.cmp(&wanted) {
            Ordering::Equal => listed.page.first_key() <= key,
            other => other.is_lt(),
        };
        self.pages.partition_point(begins_before).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::env::sim::SimRng;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn assert_is(map: &Map, model: &Model) {
        let mut found = Vec::new();
        map.scan(Bound::Unbounded, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        });
        assert!(found.iter().map(|(key, value)| (key, value)).eq(model));
        let flat = model.iter().flat_map(|(key, value)| [key, value]);
        assert!(map.items().iter().eq(flat));
        assert_eq!((map.len(), map.items().bytes()), (model.len() as u64, map.bytes()));
        for Listed { head: stored, page } in &*map.pages {
            assert_eq!(*stored, head(page.first_key()));
        }
    }

    #[test]
    fn a_map_and_its_clones_are_what_an_ordered_map_was_at_each_moment() {
        for seed in 0..30 {
            println!("seed {seed}");
            let mut rng = SimRng::new(seed);
            let (mut map, mut model) = (Map::default(), Model::new());
            let mut clones = Vec::new();
            let keys = [20, 300, 3000][seed as usize % 3];
            for step in 0..2000 {
                let mut key = rng.below(keys).to_string().into_bytes();
                if seed % 2 == 0 {
                    // Keys that begin alike, and keys that are the heads of others.
                    key.splice(0..0, *b"\0\0the same");
                    key.truncate(key.len() - rng.below(4) as usize);
                }
                let removes = if step / 500 % 2 == 0 { 2 } else { 8 };
                if rng.below(10) < removes {
                    assert_eq!(map.remove(&key), model.remove(&key).is_some());
                } else {
                    let most = if rng.below(100) == 0 { 20_000 } else { 60 };
                    let value = vec![step as u8; rng.below(most) as usize];
                    map.put(&key, &value);
                    model.insert(key.clone(), value);
                }
                assert_eq!(map.get(&key), model.get(&key).map(Vec::as_slice));
                if step % 100 == 0 {
                    clones.push((map.clone(), model.clone()));
                }
            }
            let from = rng.below(keys).to_string().into_bytes();
            for bound in [Bound::Included(&from[..]), Bound::Excluded(&from[..])] {
                let mut found = Vec::new();
                map.scan(bound, &mut |key, _| {
                    found.push(key.to_vec());
                    if found.len() == 7 {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                });
                let range = model.range::<[u8], _>((bound, Bound::Unbounded));
                assert!(found.iter().eq(range.map(|(key, _)| key).take(7)), "{bound:?}");
            }
            clones.push((map, model));
            for (map, model) in &clones {
                assert_is(map, model);
            }
        }
    }

    #[test]
    fn pages_stay_within_their_size_and_are_merged_when_they_empty() {
        let mut map = Map::default();
        for number in 0..5000_u32 {
            map.put(&number.to_be_bytes(), b"a value");
        }
        assert!(map.pages.iter().all(|listed| listed.page.bytes.len() <= PAGE_BYTES));
        let (full, before) = (map.pages.len(), map.clone());
        assert!(full < 5000 * 13 / MERGED_BYTES, "{full} pages");
        map.put(&17_u32.to_be_bytes(), b"another");
        let both = map.pages.iter().zip(&*before.pages);
        assert_eq!(both.filter(|(one, other)| !Arc::ptr_eq(&one.page, &other.page)).count(), 1);
        for number in (0..5000_u32).filter(|number| number % 50 != 0) {
            assert!(map.remove(&number.to_be_bytes()));
        }
        assert!(map.pages.len() <= 2, "{} pages", map.pages.len());
        for number in 0..5000_u32 {
            map.remove(&number.to_be_bytes());
        }
        assert_eq!((map.pages.len(), map.len(), map.bytes()), (0, 0, 0));
        assert_eq!(before.len(), 5000);
    }
}
