//! The maps of a memtable.
//!
//! A small map is one record, a [page](super::collection::map); a large one is a
//! [root](super::collection::root) and a record for each page. Which record of a
//! map one is stands behind the namespace, and is told from the last byte:
//!
//! ```text
//! name:  | namespace | 0 |             the page of a small map
//!        | namespace | 1 |             the root of a large map, a quiet record
//!        | namespace | id u32 | 2 |    a page of a large map
//!        | namespace | 3 |             the marker, a tombstone
//! ```
//!
//! - A map has a small page, or a root with at least one page, or nothing; and
//!   then it is whole: what tables have of it is in it. A map without live
//!   entries has nothing: whoever removes the last entry clears the map.
//! - To clear a map removes its records without a trace, and leaves a *marker*,
//!   which tells tables that what they have of the map does not count. It stays,
//!   as every tombstone does, until it was extracted and nothing is below; until
//!   then it says that the map was empty when tables are not to be asked.
//! - Removed entries are tombstones within their pages. A page is freed of those
//!   that were extracted before it is split, and a page that has nothing else
//!   goes when a look around finds it: each split, and each page that loses its
//!   last entry, pays for a look at two pages.

use std::ops::{Bound, ControlFlow};

use crate::base::{Error, KeyGroup, Result};

use super::buffer::prefetch_rest;
use super::collection::build::BuiltMap;
use super::collection::map::{
    self, MAX_ADDED_BYTES, MapEntry, MapPage, MapPageMut, TARGET_PAGE_BYTES,
};
use super::collection::root::{MapRoot, MapRootMut, PageId};
use super::collection::{Buffer, NEVER};
use super::entry::Hit;
use super::expiry::split_stamp;
use super::record::Probe;
use super::{Below, Holds, Memtable};

const SMALL: u8 = 0;
const ROOT: u8 = 1;
const PAGE: u8 = 2;
const MARKER: u8 = 3;

/// Pages looked at for one that is split or loses its last entry: two, so that
/// they are found faster than they come.
const SWEEP_PAGES: usize = 2;

/// Memory that is kept from one new map to the next.
const KEPT_BYTES: usize = 64 * 1024;

/// Longest name, less the namespace.
pub(crate) const MAX_SUFFIX_BYTES: usize = 5;

/// What a record of a map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// A whole small map.
    Small,
    /// The root of a large one.
    Root,
    /// A page of a large one.
    Page(PageId),
    /// That it was cleared.
    Marker,
}

impl Part {
    /// Takes apart the name of a record of a map: the namespace and the part.
    pub(crate) fn of_name(name: &[u8]) -> (&[u8], Self) {
        let (last, rest) = name.split_last().expect("names of maps end in what they name");
        match *last {
            SMALL => (rest, Self::Small),
            ROOT => (rest, Self::Root),
            MARKER => (rest, Self::Marker),
            _ => {
                let (namespace, id) = rest.split_last_chunk().expect("a page has an id");
                (namespace, Self::Page(PageId::from_be_bytes(*id)))
            }
        }
    }
}

/// The name of a small map without a namespace.
pub(crate) const SMALL_NAME: &[u8] = &[SMALL];

/// The name of a small map in a namespace of usual length.
pub(crate) struct SmallName {
    bytes: [u8; Self::MAX_BYTES],
    len: usize,
}

impl SmallName {
    const MAX_BYTES: usize = 40;

    /// `None` if the namespace is longer than most are.
    #[inline(always)]
    pub(crate) fn of(namespace: &[u8]) -> Option<Self> {
        let len = namespace.len();
        if len >= Self::MAX_BYTES {
            return None;
        }
        let mut bytes = [0; Self::MAX_BYTES];
        bytes[..len].copy_from_slice(namespace);
        bytes[len] = SMALL;
        Some(Self { bytes, len: len + 1 })
    }

    /// It.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What one look at the likely place settles; that is the usual case, in which
/// every instruction is felt (see `entry`). All else goes the long way.
impl Memtable {
    /// A small map, by its name. `None` says nothing.
    #[inline(always)]
    pub(crate) fn map_at_hand(
        &self,
        group: Option<KeyGroup>,
        key: &[u8],
        name: &[u8],
    ) -> Option<Hit> {
        self.part_at_hand(Holds::Maps, group, key, name)
    }

    /// The entries of a small map that was found at hand and will be scanned.
    #[inline(always)]
    pub(crate) fn whole_map_of(&self, hit: Hit, key: &[u8], name: &[u8]) -> MapPage<'_> {
        let bytes = self.value_of::<false>(hit, key, name);
        prefetch_rest(bytes);
        MapPage::new(bytes)
    }

    /// The entries of a small map that was found at hand.
    #[inline(always)]
    pub(crate) fn map_of(&self, hit: Hit, key: &[u8], name: &[u8]) -> MapPage<'_> {
        MapPage::new(self.value_of::<false>(hit, key, name))
    }

    /// Gives an entry of a small map of the current epoch a value as long as the
    /// one it has. False says nothing: the map is as it was.
    #[inline(always)]
    pub(crate) fn map_put_at_hand(
        &mut self,
        group: Option<KeyGroup>,
        key: &[u8],
        name: &[u8],
        entry: &[u8],
        value: &[u8],
    ) -> bool {
        match self.current_at_hand(Holds::Maps, group, key, name) {
            Some(Hit(block)) => {
                let page = self.arena.value_of_mut(block, key, name);
                map::overwrite(page, self.epoch, entry, value)
            }
            None => false,
        }
    }

    /// Gives an entry of a small map of any epoch a value. False says nothing: the
    /// map is as it was.
    #[inline]
    pub(crate) fn map_put_of_any_epoch(
        &mut self,
        group: Option<KeyGroup>,
        key: &[u8],
        name: &[u8],
        entry: &[u8],
        value: &[u8],
    ) -> bool {
        let epoch = self.epoch;
        let Some(mut record) = self.open_of_any_epoch(Holds::Maps, group, key, name) else {
            return false;
        };
        // A page that need not be split is far from any other limit.
        let len = record.bytes().len() + MAX_ADDED_BYTES;
        len.saturating_add(entry.len()).saturating_add(value.len()) <= TARGET_PAGE_BYTES
            && MapPageMut::new(&mut record).put(epoch, entry, value, NEVER, Below::Nothing).is_ok()
    }
}

/// Which map, and room to write the names of its records.
#[derive(Debug)]
pub(crate) struct MapAt<'k> {
    group: KeyGroup,
    key: &'k [u8],
    name: Vec<u8>,
    namespace_bytes: usize,
}

impl<'k> MapAt<'k> {
    /// The map of a key and namespace. `buffer` is used for names.
    pub(crate) fn new(
        group: KeyGroup,
        key: &'k [u8],
        namespace: &[u8],
        mut buffer: Vec<u8>,
    ) -> Self {
        buffer.clear();
        buffer.reserve(namespace.len() + MAX_SUFFIX_BYTES);
        buffer.extend_from_slice(namespace);
        Self { group, key, name: buffer, namespace_bytes: namespace.len() }
    }

    /// Gives the buffer back.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.name
    }

    pub(super) fn probe<'a>(&'a mut self, memtable: &Memtable, part: Part) -> Probe<'a> {
        self.name.truncate(self.namespace_bytes);
        match part {
            Part::Small => self.name.push(SMALL),
            Part::Root => self.name.push(ROOT),
            Part::Marker => self.name.push(MARKER),
            Part::Page(id) => {
                self.name.extend_from_slice(&id.to_be_bytes());
                self.name.push(PAGE);
            }
        }
        memtable.probe(self.group, self.key, &self.name)
    }
}

/// Reading.
impl Memtable {
    /// Whether tables have to be asked for a map: nothing here knows of it.
    pub(crate) fn wants_map(&self, at: &mut MapAt<'_>) -> bool {
        self.below == Below::Tables
            && !self.has_map(at)
            && self.deleted_in(&at.probe(self, Part::Marker)).is_none()
    }

    /// Whether a map has entries, as far as memory knows.
    pub(crate) fn has_map(&self, at: &mut MapAt<'_>) -> bool {
        self.live_value(&at.probe(self, Part::Small)).is_some() || self.map_root(at).is_some()
    }

    /// The value of an entry, as far as memory knows.
    pub(crate) fn map_get(&self, at: &mut MapAt<'_>, entry: &[u8]) -> Option<&[u8]> {
        let (_, page) = self.map_page_of(at, entry)?;
        let found = page.find(entry)?;
        if found.is_expired(self.hidden()) { None } else { found.value }
    }

    /// Whether a map has an entry that is to be seen, as far as memory knows.
    pub(crate) fn shows_map(&self, at: &mut MapAt<'_>) -> bool {
        if !self.is_timed() {
            return self.has_map(at);
        }
        self.map_scan(at, Bound::Unbounded, |_, _| ControlFlow::Break(())).is_break()
    }

    /// The live entries from a bound on, in order, until `visit` breaks; without
    /// those that have expired, unless they are to be seen.
    pub(crate) fn map_scan(
        &self,
        at: &mut MapAt<'_>,
        from: Bound<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let hidden = self.hidden();
        let mut page = |page: MapPage<'_>| {
            for entry in page.live_from(from) {
                let MapEntry { key, value, .. } = entry;
                if let Some(value) = value
                    && !entry.is_expired(hidden)
                {
                    visit(key, value)?;
                }
            }
            ControlFlow::Continue(())
        };
        if let Some(small) = self.live_value(&at.probe(self, Part::Small)) {
            return page(MapPage::new(small));
        }
        let Some(root) = self.map_root(at) else { return ControlFlow::Continue(()) };
        let (Bound::Included(first) | Bound::Excluded(first)) = from else {
            return root.pages_from(b"").try_for_each(|(_, id)| page(self.map_page(at, id)));
        };
        root.pages_from(first).try_for_each(|(_, id)| page(self.map_page(at, id)))
    }

    fn map_root(&self, at: &mut MapAt<'_>) -> Option<MapRoot<'_>> {
        self.live_value(&at.probe(self, Part::Root)).map(MapRoot::new)
    }

    fn map_page(&self, at: &mut MapAt<'_>, id: PageId) -> MapPage<'_> {
        let page = self.live_value(&at.probe(self, Part::Page(id)));
        MapPage::new(page.expect("the root names pages that exist"))
    }

    /// The page that an entry belongs on, and which it is.
    fn map_page_of(&self, at: &mut MapAt<'_>, entry: &[u8]) -> Option<(Part, MapPage<'_>)> {
        if let Some(small) = self.live_value(&at.probe(self, Part::Small)) {
            return Some((Part::Small, MapPage::new(small)));
        }
        let id = self.map_root(at)?.find_page(entry);
        Some((Part::Page(id), self.map_page(at, id)))
    }
}

/// Changing. Of a map that tables may know, only when it is whole.
impl Memtable {
    /// Gives an entry a value.
    ///
    /// # Errors
    /// `Invalid` if the map becomes too large; `Unavailable` if no memory can be
    /// had. The map is then as it was.
    pub(crate) fn map_put(&mut self, at: &mut MapAt<'_>, entry: &[u8], value: &[u8]) -> Result<()> {
        let stamp = if self.is_timed() { self.stamp() } else { NEVER };
        self.map_put_stamped(at, entry, value, stamp)
    }

    /// As [`map_put`](Self::map_put), of a value as tables have it: with its stamp
    /// in front, if values expire.
    ///
    /// # Errors
    /// As of `map_put`.
    pub(crate) fn map_put_as_stored(
        &mut self,
        at: &mut MapAt<'_>,
        entry: &[u8],
        value: &[u8],
    ) -> Result<()> {
        if !self.is_timed() {
            return self.map_put_stamped(at, entry, value, NEVER);
        }
        let (stamp, value) = split_stamp(value);
        self.map_put_stamped(at, entry, value, stamp)
    }

    fn map_put_stamped(
        &mut self,
        at: &mut MapAt<'_>,
        entry: &[u8],
        value: &[u8],
        stamp: u64,
    ) -> Result<()> {
        let epoch = self.epoch();
        let Some((mut part, _)) = self.map_page_of(at, entry) else {
            let mut page = std::mem::take(&mut self.scratch);
            MapPageMut::create(&mut page)?.put(epoch, entry, value, stamp, Below::Nothing)?;
            let fresh = self.below == Below::Nothing;
            let done = self.add_part(&at.probe(self, Part::Small), &page, fresh);
            if page.capacity() <= KEPT_BYTES {
                self.scratch = page;
            }
            return done;
        };
        // Only entries of a gigabyte ever need this.
        while let Some((of_entry, page)) = self.map_page_of(at, entry)
            && !page.has_room(entry, value.len())
        {
            self.map_split(at, of_entry, Some(entry))?;
            (part, _) = self.map_page_of(at, entry).expect("a split map has pages");
        }
        let probe = at.probe(self, part);
        let mut record = self.open(&probe)?.expect("the page was found");
        let mut page = MapPageMut::new(&mut record);
        let added = page.put(epoch, entry, value, stamp, Below::Nothing)?;
        let splits = page.page().wants_split();
        if added {
            self.map_count(at, part, 1);
        }
        if splits {
            self.map_shorten(at, part);
        }
        Ok(())
    }

    /// Renews the stamp of an entry that has not expired.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had. The map is then as it was.
    pub(crate) fn map_renew(&mut self, at: &mut MapAt<'_>, entry: &[u8]) -> Result<()> {
        let (epoch, stamp, cutoff) = (self.epoch(), self.stamp(), self.cutoff());
        let Some((part, page)) = self.map_page_of(at, entry) else { return Ok(()) };
        let live = |found: &MapEntry<'_>| {
            found.value.is_some() && !found.is_expired(cutoff) && found.stamp != stamp
        };
        if !page.find(entry).is_some_and(|found| live(&found)) {
            return Ok(());
        }
        let probe = at.probe(self, part);
        let mut record = self.open(&probe)?.expect("the page was found");
        MapPageMut::new(&mut record).restamp(epoch, entry, stamp);
        Ok(())
    }

    /// Removes an entry; one that is absent is no error.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had. The map is then as it was.
    pub(crate) fn map_remove(&mut self, at: &mut MapAt<'_>, entry: &[u8]) -> Result<()> {
        let Some((part, page)) = self.map_page_of(at, entry) else { return Ok(()) };
        if page.find(entry).and_then(|entry| entry.value).is_none() {
            return Ok(());
        }
        let live = match part {
            Part::Small => page.live() as u64,
            _ => self.map_root(at).map_or(0, |root| root.live()),
        };
        if live == 1 {
            return self.map_clear(at);
        }
        let epoch = self.epoch();
        let probe = at.probe(self, part);
        let mut record = self.open(&probe)?.expect("the page was found");
        let mut page = MapPageMut::new(&mut record);
        page.remove(epoch, entry, Below::Nothing)?;
        let emptied = page.page().is_empty();
        self.map_count(at, part, -1);
        if emptied {
            self.map_sweep(at);
        }
        Ok(())
    }

    /// The records that hold the entries of a map.
    pub(super) fn map_parts(&self, at: &mut MapAt<'_>) -> Vec<Part> {
        if self.live_value(&at.probe(self, Part::Small)).is_some() {
            return vec![Part::Small];
        }
        let root = self.map_root(at);
        root.into_iter()
            .flat_map(|root| root.pages_from(b""))
            .map(|(_, id)| Part::Page(id))
            .collect()
    }

    /// Removes all entries, and hides those that only tables have.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had. The map is then as it was.
    pub(crate) fn map_clear(&mut self, at: &mut MapAt<'_>) -> Result<()> {
        let parts = self.map_parts(at);
        let leaves_a_trace = if parts.is_empty() {
            self.wants_map(at)
        } else {
            parts.iter().any(|&part| !self.is_fresh(&at.probe(self, part)))
        };
        if leaves_a_trace {
            self.entomb(&at.probe(self, Part::Marker))?;
        }
        for part in parts {
            self.forget(&at.probe(self, part));
        }
        self.forget(&at.probe(self, Part::Root));
        Ok(())
    }

    /// Brings in a map that tables have, unless the memtable knows better.
    ///
    /// # Errors
    /// `Unavailable` if no memory can be had. The map is then as it was.
    pub(crate) fn promote_map(&mut self, at: &mut MapAt<'_>, map: &BuiltMap) -> Result<()> {
        if map.pages.is_empty() || !self.wants_map(at) {
            return Ok(());
        }
        if let [page] = &*map.pages {
            return self.promote(&at.probe(self, Part::Small), page);
        }
        let pages = (0..).zip(&map.pages);
        let mut done = pages.clone().try_for_each(|(id, page)| {
            let probe = at.probe(self, Part::Page(id));
            self.promote(&probe, page)
        });
        if done.is_ok() {
            done = self.add_quiet(&at.probe(self, Part::Root), &map.root);
        }
        if done.is_err() {
            pages.for_each(|(id, _)| self.forget(&at.probe(self, Part::Page(id))));
        }
        done
    }

    /// Counts live entries of a large map that came or went.
    fn map_count(&mut self, at: &mut MapAt<'_>, part: Part, by: i64) {
        if part != Part::Small
            && let Some(mut root) = self.open_quiet(&at.probe(self, Part::Root))
        {
            MapRootMut::new(&mut root).add_live(by);
        }
    }

    /// Makes a long page of the current epoch shorter, if that can be done.
    fn map_shorten(&mut self, at: &mut MapAt<'_>, part: Part) {
        let extracted = self.forgettable();
        let probe = at.probe(self, part);
        let Ok(Some(mut record)) = self.open(&probe) else { return };
        let mut page = MapPageMut::new(&mut record);
        // Neither step fails but for want of memory, and then the next entry
        // that makes the page longer tries again.
        if page.purge(extracted, Below::Nothing).is_ok()
            && page.page().wants_split()
            && self.map_split(at, part, None).is_ok()
        {
            self.map_sweep(at);
        }
    }

    /// Splits a page in the middle, or around an entry that needs much room.
    fn map_split(&mut self, at: &mut MapAt<'_>, part: Part, around: Option<&[u8]>) -> Result<()> {
        let id = match part {
            Part::Page(id) => id,
            _ => self.map_make_large(at)?,
        };
        let page = self.map_page(at, id);
        let split = match around {
            None => page.plan_split(),
            Some(entry) => page.plan_split_around(entry),
        };
        let split = split.ok_or_else(|| {
            Error::invalid("an entry of a map has no room").remedy("give it a shorter value")
        })?;
        let mut upper = Vec::new();
        page.copy_upper(&split, &mut upper)?;
        let next = self.map_root(at).expect("a large map has a root").next_page();
        let fresh = self.is_fresh(&at.probe(self, Part::Page(id)));
        // From here on the lower page is current: dropping its half cannot fail.
        self.open(&at.probe(self, Part::Page(id)))?;
        self.add_part(&at.probe(self, Part::Page(next)), &upper, fresh)?;
        let probe = at.probe(self, Part::Root);
        let mut root = self.open_quiet(&probe).expect("a large map has a root");
        if let Err(error) = MapRootMut::new(&mut root).add_page(split.separator()) {
            self.forget(&at.probe(self, Part::Page(next)));
            return Err(error);
        }
        let probe = at.probe(self, Part::Page(id));
        let mut lower = self.open(&probe)?.expect("the page is there");
        MapPageMut::new(&mut lower).drop_upper(&split)
    }

    /// Makes a small map a large one of one page, and gives the id of that.
    fn map_make_large(&mut self, at: &mut MapAt<'_>) -> Result<PageId> {
        let probe = at.probe(self, Part::Small);
        let fresh = self.is_fresh(&probe);
        let page = self.live_value(&probe).expect("the map is small").to_vec();
        let mut root = Vec::new();
        MapRootMut::create(&mut root, MapPage::new(&page).live() as u64)?;
        self.add_part(&at.probe(self, Part::Page(0)), &page, fresh)?;
        if let Err(error) = self.add_quiet(&at.probe(self, Part::Root), &root) {
            self.forget(&at.probe(self, Part::Page(0)));
            return Err(error);
        }
        self.forget(&at.probe(self, Part::Small));
        Ok(0)
    }

    /// Looks at a few pages of a large map for some that can go.
    fn map_sweep(&mut self, at: &mut MapAt<'_>) {
        let extracted = self.forgettable();
        for _ in 0..SWEEP_PAGES {
            // Steps of the golden ratio come everywhere, however many pages the
            // maps have and however these numbers change.
            self.sweep = self.sweep.wrapping_add(0x9e37_79b9);
            let Some(root) = self.map_root(at) else { return };
            if root.pages() == 1 {
                return;
            }
            let index = (u64::from(self.sweep) * root.pages() as u64) >> 32;
            let (separator, id) = root.nth(index as usize);
            let page = self.map_page(at, id);
            let goes = page.is_empty() && page.iter().all(|entry| entry.epoch <= extracted);
            let separator = separator.to_vec();
            if !goes {
                continue;
            }
            let probe = at.probe(self, Part::Root);
            let mut root = self.open_quiet(&probe).expect("a large map has a root");
            if MapRootMut::new(&mut root).remove_page(&separator).is_ok() {
                self.forget(&at.probe(self, Part::Page(id)));
            }
        }
    }
}
