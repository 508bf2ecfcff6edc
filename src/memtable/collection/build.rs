//! A whole map made of entries that come in order: what tables have of it.

use crate::base::{Error, Result};

use super::common_prefix;
use super::map::{MapPage, MapPageMut, PAGE_HEADER_BYTES, TARGET_PAGE_BYTES};
use super::root::MapRootMut;

/// Bytes of a page at which the next one begins: a quarter is left to grow.
const FILL_BYTES: usize = TARGET_PAGE_BYTES / 4 * 3;

/// A map, ready to be taken into memory.
#[derive(Debug, Default)]
pub(crate) struct BuiltMap {
    /// Its pages in the order of their ids and keys.
    pub(crate) pages: Vec<Vec<u8>>,
    /// Its root, if it has more than one page.
    pub(crate) root: Vec<u8>,
}

/// See the [module documentation](self). All entries count as unchanged.
#[derive(Debug, Default)]
pub(crate) struct MapBuilder {
    pages: Vec<Vec<u8>>,
    /// Those of all pages but the first.
    separators: Vec<Vec<u8>>,
    last: Vec<u8>,
    bytes: usize,
}

impl MapBuilder {
    /// Adds an entry with its stamp, or [`NEVER`](super::NEVER), whose key is above
    /// all others.
    ///
    /// # Errors
    /// `Corrupt` if it is not; as of [`MapPageMut::promote`].
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8], stamp: u64) -> Result<()> {
        if !self.pages.is_empty() && key <= &*self.last {
            return Err(Error::corrupt("the entries of a map are not in order"));
        }
        let full = self.pages.last().is_none_or(|page| {
            page.len() > PAGE_HEADER_BYTES && page.len() + key.len() + value.len() > FILL_BYTES
        });
        if full {
            if !self.pages.is_empty() {
                self.separators.push(key[..=common_prefix(&self.last, key)].to_vec());
            }
            let mut page = Vec::new();
            MapPageMut::create(&mut page)?;
            self.pages.push(page);
        }
        let page = self.pages.last_mut().expect("there is one now");
        MapPageMut::new(page).promote(key, value, stamp)?;
        self.bytes += key.len() + value.len();
        self.last.clear();
        self.last.extend_from_slice(key);
        Ok(())
    }

    /// Bytes of keys and values so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The map.
    ///
    /// # Errors
    /// `Invalid` if the root becomes too long.
    pub(crate) fn finish(self) -> Result<BuiltMap> {
        let mut root = Vec::new();
        if self.pages.len() > 1 {
            let live = self.pages.iter().map(|page| MapPage::new(page).live() as u64).sum();
            let mut building = MapRootMut::create(&mut root, live)?;
            for separator in &self.separators {
                building.add_page(separator)?;
            }
        }
        Ok(BuiltMap { pages: self.pages, root })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::NEVER;
    use super::super::root::MapRoot;
    use super::*;
    use crate::base::ErrorKind;
    use crate::env::sim::SimRng;

    #[test]
    fn the_root_of_a_built_map_leads_to_the_page_of_every_key() {
        let mut rng = SimRng::new(3);
        for entries in [0, 1, 40, 3000] {
            let mut model = BTreeMap::new();
            for _ in 0..entries {
                let mut key = vec![0; rng.below(5) as usize];
                rng.fill(&mut key);
                let longest = if rng.one_in(50) { 6000 } else { 30 };
                model.insert(key, vec![7; rng.below(longest) as usize]);
            }
            let mut builder = MapBuilder::default();
            for (key, value) in &model {
                builder.push(key, value, NEVER).unwrap();
            }
            let map = builder.finish().unwrap();
            assert_eq!(map.pages.is_empty(), model.is_empty());
            assert_eq!(map.root.is_empty(), map.pages.len() < 2);
            let in_pages = map.pages.iter().flat_map(|page| MapPage::new(page).iter());
            assert!(in_pages.map(|entry| entry.key).eq(model.keys().map(|key| &**key)));
            if map.pages.len() > 1 {
                let root = MapRoot::new(&map.root);
                assert_eq!(root.pages(), map.pages.len());
                assert_eq!(root.live(), model.len() as u64);
                for (key, value) in &model {
                    let page = &map.pages[root.find_page(key) as usize];
                    let entry = MapPage::new(page).find(key).unwrap();
                    assert_eq!(entry.value, Some(&**value));
                    assert_eq!(entry.epoch, crate::base::Epoch::CLEAN);
                }
            }
        }
    }

    #[test]
    fn entries_that_are_not_in_order_are_corrupt() {
        for (first, second) in [(&b"b"[..], &b"a"[..]), (b"a", b"a"), (b"ab", b"a"), (b"", b"")] {
            let mut builder = MapBuilder::default();
            builder.push(first, b"", NEVER).unwrap();
            let error = builder.push(second, b"", NEVER).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}
