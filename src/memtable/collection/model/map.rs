//! A map of a root and pages beside ordered maps.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::base::Epoch;
use crate::memtable::Below;

use super::super::NEVER;
use super::super::map::{MapEntry, MapPage, MapPageMut};
use super::super::root::{MapRoot, MapRootMut, PageId};
use super::{Scarce, Script, scarcely};

/// Entries of one run; more of the same finds nothing more.
const MAX_ENTRIES: usize = 300;

/// What an entry must say.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    value: Option<Vec<u8>>,
    epoch: Epoch,
    stamp: u64,
    fresh: bool,
}

/// What a user or a table knows of a key.
type Values = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

struct Run {
    /// Pages are split when they are longer than this.
    target_bytes: usize,
    below: Below,
    epoch: Epoch,
    now: u64,
    root: Scarce,
    pages: BTreeMap<PageId, Scarce>,
    /// What the pages must hold.
    entries: BTreeMap<Vec<u8>, Entry>,
    /// What the user put and did not remove.
    truth: Values,
    /// What tables had at the start.
    base: Values,
    /// What tables have, deltas included.
    table: Values,
}

pub(super) fn run(script: &mut Script<'_>) {
    let mut run = Run::new(script);
    while !script.is_over() {
        run.step(script);
        run.check(script);
    }
    run.freeze();
}

fn key(script: &mut Script<'_>) -> Vec<u8> {
    let number = u64::from(script.byte());
    match script.below(8) {
        0 => number.to_be_bytes().to_vec(),
        1 => (number % 16 * 200).to_be_bytes().to_vec(),
        2 => format!("user:{number:04}").into_bytes(),
        3 => number.to_le_bytes()[..(number % 4) as usize].to_vec(),
        // Same heads, and nothing but zeros to tell keys apart.
        4 => vec![0; (number % 12) as usize],
        5 => [b"common".to_vec(), vec![number as u8 % 3; (number % 9) as usize]].concat(),
        6 if number > 240 => vec![number as u8; 5000],
        _ => vec![number as u8],
    }
}

impl Run {
    fn new(script: &mut Script<'_>) -> Self {
        let mut run = Self {
            target_bytes: [100, 300, 1000, 4096][script.below(4)],
            below: [Below::Nothing, Below::Tables][script.below(2)],
            epoch: Epoch::FIRST,
            now: 1000,
            root: Scarce::default(),
            pages: BTreeMap::new(),
            entries: BTreeMap::new(),
            truth: Values::new(),
            base: Values::new(),
            table: Values::new(),
        };
        MapRootMut::create(&mut run.root, 0).unwrap();
        let mut page = Scarce::default();
        MapPageMut::create(&mut page).unwrap();
        run.pages.insert(0, page);
        if run.below == Below::Tables {
            for _ in 0..script.below(20) {
                let (key, value) = (key(script), script.value());
                run.base.insert(key, (value, script.expiry(run.now)));
            }
            run.table = run.base.clone();
            run.truth = run.base.clone();
        }
        run
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.below(32) {
            0..=15 if self.entries.len() < MAX_ENTRIES => self.put(script),
            16..=19 => self.remove(script),
            20..=21 => self.change_in_place(script),
            22 => self.promote(script),
            23 => self.split_around(script),
            24 if script.chance(3) => self.clear(),
            25 => self.purge(script),
            26 => self.convert(script),
            27 => self.below = if script.chance(4) { self.warm_up() } else { self.below },
            _ => self.freeze(),
        }
    }

    /// The id of the page of a key, and the page taken out of its place.
    fn take_page(&mut self, key: &[u8]) -> (PageId, Scarce) {
        let id = MapRoot::new(&self.root.bytes).find_page(key);
        (id, std::mem::take(self.pages.get_mut(&id).expect("the root names pages that exist")))
    }

    fn put_back(&mut self, script: &mut Script<'_>, key: &[u8], id: PageId, page: Scarce) {
        let vacant = MapPage::new(&page.bytes).entries() == 0;
        self.pages.insert(id, page);
        if vacant {
            self.drop_page(key, id);
        } else {
            self.split_while_long(script, id);
        }
    }

    fn drop_page(&mut self, key: &[u8], id: PageId) {
        let pages = self.pages.len();
        let removed = MapRootMut::new(&mut self.root).remove_page(key).unwrap();
        assert_eq!(removed, (pages > 1).then_some(id));
        if removed.is_some() {
            self.pages.remove(&id);
        }
    }

    fn count(&mut self, by: i64) {
        MapRootMut::new(&mut self.root).add_live(by);
    }

    fn split_while_long(&mut self, script: &mut Script<'_>, id: PageId) {
        let page = &self.pages[&id];
        if page.bytes.len() <= self.target_bytes {
            return;
        }
        let Some(split) = MapPage::new(&page.bytes).plan_split() else { return };
        let mut upper = Scarce::default();
        let page = page.clone();
        let copied = scarcely(script, &mut upper, |upper| {
            MapPage::new(&page.bytes).copy_upper(&split, upper)
        });
        if copied.is_none() {
            return;
        }
        let next = MapRoot::new(&self.root.bytes).next_page();
        let added = scarcely(script, &mut self.root, |root| {
            MapRootMut::new(root).add_page(split.separator())
        });
        let Some(new) = added else { return };
        assert_eq!(new, next);
        let lower = self.pages.get_mut(&id).expect("it is there");
        MapPageMut::new(lower).drop_upper(&split).unwrap();
        let halves = [&lower.bytes, &upper.bytes].map(|page| MapPage::new(page).entries());
        assert!(halves.iter().all(|&entries| entries > 0), "both halves have entries");
        self.pages.insert(new, upper);
        self.split_while_long(script, id);
        self.split_while_long(script, new);
    }

    fn put(&mut self, script: &mut Script<'_>) {
        let (key, value, stamp) = (key(script), script.value(), script.expiry(self.now));
        let (epoch, below) = (self.epoch, self.below);
        let (id, mut page) = self.take_page(&key);
        let done = scarcely(script, &mut page, |page| {
            MapPageMut::new(page).put(epoch, &key, &value, stamp, below)
        });
        if let Some(new) = done {
            let old = self.entries.get(&key);
            assert_eq!(new, old.is_none_or(|old| old.value.is_none()));
            let fresh = match old {
                None => below == Below::Nothing,
                Some(old) => old.fresh && old.epoch == epoch,
            };
            let entry = Entry { value: Some(value.clone()), epoch, stamp, fresh };
            self.entries.insert(key.clone(), entry);
            self.truth.insert(key.clone(), (value, stamp));
            self.count(i64::from(new));
        }
        self.put_back(script, &key, id, page);
    }

    fn remove(&mut self, script: &mut Script<'_>) {
        let key = self.some_key(script);
        let (epoch, below) = (self.epoch, self.below);
        let (id, mut page) = self.take_page(&key);
        let done =
            scarcely(script, &mut page, |page| MapPageMut::new(page).remove(epoch, &key, below));
        if let Some(removed) = done {
            let old = self.entries.get(&key);
            let was_live = old.is_some_and(|old| old.value.is_some());
            assert_eq!(removed, was_live);
            if self.bury(&key) || !self.entries.contains_key(&key) && below == Below::Tables {
                let entry = Entry { value: None, epoch, stamp: NEVER, fresh: false };
                self.entries.insert(key.clone(), entry);
            }
            self.truth.remove(&key);
            self.count(-i64::from(removed));
        }
        self.put_back(script, &key, id, page);
    }

    /// Removes a live entry; true if a tombstone has to take its place.
    fn bury(&mut self, key: &[u8]) -> bool {
        let Some(old) = self.entries.get(key).filter(|old| old.value.is_some()) else {
            return false;
        };
        let vanishes = old.fresh && old.epoch == self.epoch;
        if vanishes {
            self.entries.remove(key);
            // Nothing of it may come back: tables never knew it, or what they
            // know has expired.
            assert!(self.table.get(key).is_none_or(|(_, expires)| *expires <= self.now));
        }
        !vanishes
    }

    fn change_in_place(&mut self, script: &mut Script<'_>) {
        let key = self.some_key(script);
        let (id, mut page) = self.take_page(&key);
        let mut map = MapPageMut::new(&mut page);
        let value = map.value_mut(self.epoch, &key);
        let expected = self.entries.get_mut(&key).filter(|entry| entry.value.is_some());
        assert_eq!(value.as_deref(), expected.as_deref().and_then(|entry| entry.value.as_deref()));
        if let (Some(value), Some(entry)) = (value, expected) {
            let byte = script.byte();
            value.fill(byte);
            entry.value.as_mut().expect("it is live").fill(byte);
            entry.fresh &= entry.epoch == self.epoch;
            entry.epoch = self.epoch;
            let truth = self.truth.get_mut(&key).expect("a live entry has a value");
            truth.0.fill(byte);
        }
        self.pages.insert(id, page);
    }

    fn promote(&mut self, script: &mut Script<'_>) {
        let keys: Vec<_> = self.base.keys().cloned().collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[script.below(keys.len())].clone();
        self.promote_key(script, key);
    }

    fn promote_key(&mut self, script: &mut Script<'_>, key: Vec<u8>) {
        let (value, stamp) = self.base[&key].clone();
        // Later the tables of the start are not asked any more.
        if self.below == Below::Nothing {
            return;
        }
        let (id, mut page) = self.take_page(&key);
        let done =
            scarcely(script, &mut page, |page| MapPageMut::new(page).promote(&key, &value, stamp));
        if let Some(new) = done {
            assert_eq!(new, !self.entries.contains_key(&key));
            if new {
                let entry = Entry { value: Some(value), epoch: Epoch::CLEAN, stamp, fresh: false };
                self.entries.insert(key.clone(), entry);
                self.count(1);
            }
        }
        self.put_back(script, &key, id, page);
    }

    /// Brings up all that tables had; from then on nothing is below.
    fn warm_up(&mut self) -> Below {
        for key in self.base.keys().cloned().collect::<Vec<_>>() {
            self.promote_key(&mut Script { rest: &[] }, key);
        }
        Below::Nothing
    }

    fn split_around(&mut self, script: &mut Script<'_>) {
        let key = self.some_key(script);
        let id = MapRoot::new(&self.root.bytes).find_page(&key);
        assert!(MapPage::new(&self.pages[&id].bytes).has_room(&key, 100));
        // After a few steps it is alone.
        for step in 0.. {
            let id = MapRoot::new(&self.root.bytes).find_page(&key);
            let lower = self.pages.get_mut(&id).expect("it is there");
            let Some(split) = MapPage::new(&lower.bytes).plan_split_around(&key) else { break };
            assert!(step < 2, "two splits are enough");
            let mut upper = Scarce::default();
            MapPage::new(&lower.bytes).copy_upper(&split, &mut upper).unwrap();
            MapPageMut::new(lower).drop_upper(&split).unwrap();
            let new = MapRootMut::new(&mut self.root).add_page(split.separator()).unwrap();
            self.pages.insert(new, upper);
        }
        let id = MapRoot::new(&self.root.bytes).find_page(&key);
        let page = MapPage::new(&self.pages[&id].bytes);
        assert!(page.iter().all(|entry| entry.key == key));
        if page.entries() == 0 {
            self.drop_page(&key, id);
        }
    }

    fn clear(&mut self) {
        for page in self.pages.values_mut() {
            let live = MapPage::new(&page.bytes).live();
            assert_eq!(MapPageMut::new(page).clear(self.epoch).unwrap(), live);
            assert!(MapPage::new(&page.bytes).is_empty());
        }
        let live = MapRoot::new(&self.root.bytes).live();
        self.count(-(live as i64));
        for key in self.entries.keys().cloned().collect::<Vec<_>>() {
            if self.bury(&key) {
                let entry = Entry { value: None, epoch: self.epoch, stamp: NEVER, fresh: false };
                self.entries.insert(key.clone(), entry);
            }
            self.truth.remove(&key);
        }
        self.drop_vacant_pages();
    }

    fn purge(&mut self, script: &mut Script<'_>) {
        let extracted = Epoch(self.epoch.0.saturating_sub(1 + script.below(3) as u32));
        for page in self.pages.values_mut() {
            MapPageMut::new(page).purge(extracted, self.below).unwrap();
        }
        if self.below == Below::Nothing {
            self.entries.retain(|_, entry| entry.epoch > extracted || entry.value.is_some());
        }
        self.drop_vacant_pages();
    }

    fn drop_vacant_pages(&mut self) {
        for id in self.pages.keys().copied().collect::<Vec<_>>() {
            if MapPage::new(&self.pages[&id].bytes).entries() > 0 {
                continue;
            }
            let root = MapRoot::new(&self.root.bytes);
            let found = root.pages_from(b"").find(|&(_, page)| page == id);
            let separator = found.expect("the root has all pages").0.to_vec();
            self.drop_page(&separator, id);
        }
    }

    fn convert(&mut self, script: &mut Script<'_>) {
        let change = |value: &[u8], out: &mut Vec<u8>| {
            out.extend(value.iter().rev());
            out.truncate(20);
            out.push(1);
        };
        for page in self.pages.values_mut() {
            let mut new = Scarce::default();
            MapPage::new(&page.bytes)
                .convert(&mut new, |value, out| {
                    change(value, out);
                    Ok(())
                })
                .unwrap();
            *page = new;
        }
        let values = self.entries.values_mut().filter_map(|entry| entry.value.as_mut());
        let others = [&mut self.truth, &mut self.base, &mut self.table];
        let others = others.into_iter().flat_map(|map| map.values_mut().map(|(value, _)| value));
        for value in values.chain(others) {
            let mut new = Vec::new();
            change(value, &mut new);
            *value = new;
        }
        for id in self.pages.keys().copied().collect::<Vec<_>>() {
            self.split_while_long(script, id);
        }
    }

    fn freeze(&mut self) {
        for page in self.pages.values() {
            for entry in MapPage::new(&page.bytes).changes_in(self.epoch) {
                let value = entry.value.map(|value| (value.to_vec(), entry.stamp));
                match value {
                    Some(value) => drop(self.table.insert(entry.key.to_vec(), value)),
                    None => drop(self.table.remove(entry.key)),
                }
            }
        }
        let valid = |values: &Values| -> Values {
            let valid = values.iter().filter(|(_, (_, expires))| *expires > self.now);
            valid.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        assert_eq!(valid(&self.table), valid(&self.truth), "the tables have what the user put");
        self.epoch = self.epoch.next();
    }

    /// A key that is there, or any.
    fn some_key(&mut self, script: &mut Script<'_>) -> Vec<u8> {
        if self.entries.is_empty() || script.chance(4) {
            return key(script);
        }
        let at = script.below(self.entries.len());
        self.entries.keys().nth(at).expect("there are so many").clone()
    }

    fn check(&self, script: &mut Script<'_>) {
        let root = MapRoot::new(&self.root.bytes);
        assert_eq!(root.pages(), self.pages.len());
        let pages: Vec<_> =
            root.pages_from(b"").map(|(_, id)| MapPage::new(&self.pages[&id].bytes)).collect();
        assert_eq!(pages.len(), self.pages.len());
        let expected = || self.entries.iter().map(|(key, entry)| as_read(key, entry));
        assert!(pages.iter().flat_map(MapPage::iter).eq(expected()));
        let changed = pages.iter().flat_map(|page| page.changes_in(self.epoch));
        assert!(changed.eq(expected().filter(|entry| entry.epoch == self.epoch)));

        let live = expected().filter(|entry| entry.value.is_some()).count();
        assert_eq!(root.live(), live as u64);
        assert_eq!(pages.iter().map(MapPage::live).sum::<usize>(), live);
        for page in &pages {
            assert_eq!(page.live(), page.live_from(Bound::Unbounded).count());
        }

        for (key, entry) in &self.entries {
            let page = MapPage::new(&self.pages[&root.find_page(key)].bytes);
            assert_eq!(page.find(key), Some(as_read(key, entry)));
        }
        let key = key(script);
        let page = MapPage::new(&self.pages[&root.find_page(&key)].bytes);
        assert_eq!(page.find(&key), self.entries.get(&key).map(|entry| as_read(&key, entry)));
        for bound in [Bound::Included(&key[..]), Bound::Excluded(&key[..])] {
            let mut pages =
                root.pages_from(&key).map(|(_, id)| MapPage::new(&self.pages[&id].bytes));
            let first = pages.next().expect("every key has a page");
            let found = first
                .live_from(bound)
                .chain(pages.flat_map(|page| page.live_from(Bound::Unbounded)));
            let range = self.entries.range::<[u8], _>((bound, Bound::Unbounded));
            let range = range.map(|(key, entry)| as_read(key, entry));
            assert!(found.eq(range.filter(|entry| entry.value.is_some())));
        }
    }
}

fn as_read<'a>(key: &'a [u8], entry: &'a Entry) -> MapEntry<'a> {
    MapEntry { key, value: entry.value.as_deref(), epoch: entry.epoch, stamp: entry.stamp }
}
