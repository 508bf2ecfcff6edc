//! Filter and index of a mapped table, checked page by page when they are first looked
//! at: opening a table reads neither.
//!
//! Who looks at bytes of them says so before. Of each page that is remembered in one bit,
//! so that asking again costs one load. Two threads may check the same page at the same
//! time; both come to the same.
//!
//! Of a page of the index its first place is remembered, too. Where memory is short pages
//! come and go, and a search that guesses where a hash should be may touch two or three; by
//! what is remembered it finds the one page, and who looks many keys up can ask for that
//! page beforehand ([`TableReader::will_search`]).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Held, Rank, TableReader, payload_of};
use crate::base::{Error, KeyGroup, Result};
use crate::format::filter::{Filter, filter_hash};
use crate::format::frame::PAGE_BYTES;
use crate::format::index::{Index, ROW_BYTES, Within, place_of};
use crate::format::page_sums::SummedPages;
use crate::format::table::Footer;

const BITS: usize = u64::BITS as usize;

/// An index on fewer pages is searched without what is remembered of them.
const FEW_PAGES: usize = 4;

/// How many pages are looked through to either side of where a place should be.
const NEAR_PAGES: usize = 8;

/// Which pages of a table's filter and index have been checked, a bit each; and then, of
/// the pages of the index if they are not few, one more than the place of the first row
/// that begins there, or 0.
#[derive(Debug)]
pub(super) struct CheckedPages(Box<[AtomicU64]>);

impl CheckedPages {
    /// None of those of a table.
    pub(super) fn none_of(footer: &Footer) -> Self {
        let pages = SummedPages::new(footer.file, footer.searched());
        let of_index = pages.len() - pages.number_of(footer.index_at);
        let places = if of_index < FEW_PAGES { 0 } else { of_index };
        let words = pages.len().div_ceil(BITS) + places;
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// Bytes of memory beside its own.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    #[inline]
    fn contains(&self, number: usize) -> bool {
        self.0.get(number / BITS).is_some_and(|word| {
            // Nothing else is published by it: the bytes are what they are.
            word.load(Ordering::Relaxed) >> (number % BITS) & 1 == 1
        })
    }

    fn add(&self, number: usize) {
        if let Some(word) = self.0.get(number / BITS) {
            word.fetch_or(1 << (number % BITS), Ordering::Relaxed);
        }
    }

    /// The word of the first place of a page of a table with these pages.
    #[inline]
    fn place_word(
        &self,
        pages: &SummedPages,
        first_of_index: usize,
        number: usize,
    ) -> Option<&AtomicU64> {
        self.0.get(pages.len().div_ceil(BITS)..)?.get(number.checked_sub(first_of_index)?)
    }
}

/// The numbers of the pages that a range of the file lies on.
#[inline]
fn numbers_of(pages: &SummedPages, range: &Range<usize>) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    pages.number_of(range.start as u64)..pages.number_of(range.end as u64 - 1) + 1
}

impl TableReader {
    #[inline]
    fn summed_pages(&self) -> SummedPages {
        SummedPages::new(self.meta.file, self.footer.searched())
    }

    /// Checks the pages of a range within filter and index, unless that has been done.
    ///
    /// # Errors
    /// `Corrupt` if one is damaged, `Unavailable` if it cannot be read.
    #[inline]
    pub(super) fn ensure_sound(&self, range: Range<usize>) -> Result<()> {
        let Some(checked) = &self.checked else { return Ok(()) };
        let mut numbers = numbers_of(&self.summed_pages(), &range);
        numbers.try_for_each(|number| match checked.contains(number) {
            true => Ok(()),
            false => self.check_page(checked, number),
        })
    }

    /// Asks the system for a range within filter and index that has not been looked at
    /// yet, if it is more than a page.
    pub(super) fn ask_for_searched(&self, range: Range<usize>) {
        let Some(checked) = self.checked.as_ref().filter(|_| range.len() > PAGE_BYTES) else {
            return;
        };
        if !numbers_of(&self.summed_pages(), &range).all(|number| checked.contains(number)) {
            self.source.will_need(range.start as u64, range.len() as u64);
        }
    }

    /// Asks the system for the page that a look-up will search first, if it may have to be
    /// read.
    pub(crate) fn will_search(&self, rank: Rank, ordinal: u16, at: (KeyGroup, u64)) {
        if let Some(page) = self.searched_first(rank, ordinal, at) {
            self.source.will_need(page.start, page.end - page.start);
        }
    }

    /// Waits for that page, if it may have to be read.
    pub(super) fn await_searched(&self, rank: Rank, ordinal: u16, at: (KeyGroup, u64)) {
        if let Some(page) = self.searched_first(rank, ordinal, at) {
            self.source.await_page(page.start);
        }
    }

    /// The page that a look-up will search first, if it may have to be read: of the filter,
    /// or, where that is not asked, of the index.
    #[inline]
    fn searched_first(
        &self,
        rank: Rank,
        ordinal: u16,
        (group, hash): (KeyGroup, u64),
    ) -> Option<Range<u64>> {
        let checked = self.checked.as_ref()?;
        let page = if self.is_filter_asked(rank, ordinal) {
            let state = self.properties.states.get(usize::from(ordinal));
            if state.is_none_or(|state| !state.filtered) {
                return None;
            }
            let filter = Filter::decode(self.filter_bytes()).unwrap_or_default();
            self.filter.start + filter.range_of(filter_hash(ordinal, group, hash)).start
        } else if self.holds != Held::Nothing {
            return None;
        } else {
            let within = self.rows_near(checked, ordinal, group, hash);
            let likely = within.map(|within| within.rows.start);
            let row = likely.or_else(|| self.rows().likely_row(ordinal, place_of(group, hash)));
            self.index.start + Index::range_of_row(row?).start
        };
        let pages = self.summed_pages();
        let number = pages.number_of(page as u64);
        // Where memory is not short it stays once it was read.
        (self.by_calls || !checked.contains(number)).then(|| pages.range_of(number))
    }

    /// The rows among which those of a hash are: of one page or two, if the pages around
    /// were looked at before.
    pub(super) fn rows_near(
        &self,
        checked: &CheckedPages,
        ordinal: u16,
        group: KeyGroup,
        hash: u64,
    ) -> Option<Within> {
        let (rows, wanted) = (self.rows(), place_of(group, hash));
        let Range { start, end } = rows.blocks_of_state(ordinal);
        let pages = self.summed_pages();
        let first_of_index = pages.number_of(self.footer.index_at);
        let page_of =
            |row| pages.number_of((self.index.start + Index::range_of_row(row).start) as u64);
        let first_row_of = |number| {
            let at = pages.range_of(number).start as usize;
            at.saturating_sub(self.index.start).div_ceil(ROW_BYTES)
        };
        let place_of_page = |number| {
            let word = checked.place_word(&pages, first_of_index, number)?;
            word.load(Ordering::Relaxed).checked_sub(1)
        };
        let likely = page_of(rows.likely_row(ordinal, wanted)?);
        // The nearest page that begins before the place, and the nearest that does not.
        let (mut low, mut behind) = (None, None);
        for number in (likely.saturating_sub(NEAR_PAGES)..=likely).rev() {
            if number < first_of_index || first_row_of(number) <= start {
                low = Some(start);
                break;
            }
            match place_of_page(number) {
                Some(place) if place < wanted => {
                    low = Some(first_row_of(number) + 1);
                    break;
                }
                Some(place) => behind = Some((first_row_of(number), Some(place))),
                None => {}
            }
        }
        let mut low = low?;
        let mut number = likely + 1;
        while behind.is_none() {
            if number >= pages.len() || first_row_of(number) >= end {
                behind = Some((end, None));
            } else if number > likely + NEAR_PAGES {
                return None;
            } else {
                match place_of_page(number) {
                    Some(place) if place < wanted => low = first_row_of(number) + 1,
                    Some(place) => behind = Some((first_row_of(number), Some(place))),
                    None => {}
                }
            }
            number += 1;
        }
        let (high, place_behind) = behind?;
        // Among more a guess is better than halves.
        (high - low <= 2 * PAGE_BYTES / ROW_BYTES)
            .then_some(Within { rows: low..high, place_behind })
    }

    /// Reads and checks a page.
    #[cold]
    fn check_page(&self, checked: &CheckedPages, number: usize) -> Result<()> {
        let pages = self.summed_pages();
        let range = pages.range_of(number);
        let bytes = range.end - range.start;
        let place = || format!("{:?}, {bytes} bytes at offset {}", self.source, range.start);
        // An error and not a signal, if the disk cannot read it.
        self.source
            .make_resident(range.start, bytes)
            .map_err(|why| Error::io("could not read a table", why).at(place()))?;
        let file = self.source.as_slice().unwrap_or_default();
        let page = file.get(range.start as usize..range.end as usize).unwrap_or_default();
        let sums = self.footer.sums().and_then(|sums| file.get(payload_of(sums)));
        pages.check(number, page, sums.unwrap_or_default())?;
        checked.add(number);
        let first_of_index = pages.number_of(self.footer.index_at);
        if self.holds == Held::Nothing
            && let Some(word) = checked.place_word(&pages, first_of_index, number)
        {
            let at = (range.start as usize).saturating_sub(self.index.start);
            let row = at.div_ceil(ROW_BYTES);
            // Its first half has to be on this page.
            let is_here = self.index.start + row * ROW_BYTES + ROW_BYTES / 2 <= range.end as usize;
            if let Some(place) = self.rows().place_at(row).filter(|_| is_here) {
                word.store(place + 1, Ordering::Relaxed);
            }
        }
        if let Some(origin) = &self.origin {
            origin.note_read(bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use super::super::written::{Mapped, Written};
    use super::*;
    use crate::base::{FileId, KeyGroup, MaxParallelism};
    use crate::codec::KeyRef;
    use crate::env::ledger::MemoryLedger;
    use crate::format::Placement;
    use crate::format::collection::EntryName;
    use crate::format::table::TableMeta;
    use crate::table::origin::{Origin, Spare};
    use crate::table::{Found, PlacedKey, TableOptions, TableReads, TableWriter};

    const KEYS: u32 = 60_000;

    /// Another copy of the table, and how often it was asked for.
    struct Elsewhere(Arc<TableReader>, AtomicU32);

    impl Spare for Elsewhere {
        fn instead(&self, _: Error) -> Result<Arc<TableReader>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::clone(&self.0))
        }
    }

    fn in_order() -> Vec<(KeyGroup, u64, [u8; 4])> {
        in_order_of(KEYS)
    }

    fn in_order_of(keys: u32) -> Vec<(KeyGroup, u64, [u8; 4])> {
        let place = |key: u32| {
            let key = key.to_le_bytes();
            let (group, hash) = KeyRef::new(&key).locate(MaxParallelism::DEFAULT);
            (group, hash, key)
        };
        let mut all: Vec<_> = (0..keys).map(place).collect();
        all.sort_unstable();
        all
    }

    fn name_of_entry() -> Vec<u8> {
        let mut name = Vec::new();
        EntryName::entry(b"", b"entry").encode(&mut name);
        name
    }

    /// A table of lists of one entry and of values; what is in it is its key.
    fn written() -> (Vec<u8>, TableMeta) {
        written_of(KEYS)
    }

    fn written_of(keys: u32) -> (Vec<u8>, TableMeta) {
        let (out, file) = (Written::default(), FileId { incarnation: 1, number: 1 });
        let options = TableOptions { block_bytes: 512, ..TableOptions::default() };
        let parallelism = MaxParallelism::DEFAULT;
        let mut writer =
            TableWriter::new(Box::new(out.clone()), file, parallelism, options).unwrap();
        let states = [
            ("lists", Placement::Collection, name_of_entry()),
            ("values", Placement::Single, Vec::new()),
        ];
        for (state, placement, namespace) in states {
            writer.begin_placed_state(state, placement).unwrap();
            for (group, hash, key) in in_order_of(keys) {
                writer.add(group, hash, &key, &namespace, Some(&key)).unwrap();
            }
        }
        let meta = writer.finish().unwrap();
        (out.bytes(), meta)
    }

    #[test]
    fn where_filter_or_index_are_damaged_another_copy_is_read_by_every_way_to_look() {
        let (bytes, meta) = written();
        let sound = Arc::new(TableReader::open(Mapped::new(bytes.clone()), &meta).unwrap());
        for part in [sound.footer.filter(), sound.footer.index()] {
            // Every page of it but what is read when the table is opened.
            let mut bad = bytes.clone();
            (part.start..part.end).step_by(512).for_each(|at| bad[at as usize] ^= 0x40);
            let spare = Arc::new(Elsewhere(Arc::clone(&sound), AtomicU32::new(0)));
            let open = || {
                let origin = Origin {
                    reads: Arc::default(),
                    store_bytes: None,
                    spare: Some(Arc::<Elsewhere>::clone(&spare)),
                    file: None,
                };
                let reader = TableReader::open(Mapped::new(bad.clone()), &meta).unwrap();
                Arc::new(reader.with_origin(origin))
            };
            let table = open();
            let mut asked = 0;
            let mut was_asked = |what: &str| {
                let now = spare.1.load(Ordering::Relaxed);
                assert!(now > asked, "{what} met no damage in {part:?}");
                asked = now;
            };
            let mut out = Vec::new();
            for (ordinal, namespace) in [(0, name_of_entry()), (1, Vec::new())] {
                for (group, hash, key) in in_order() {
                    let found = table.get(ordinal, group, hash, &key, &namespace, &mut out);
                    let found = found.unwrap();
                    assert_eq!((found, &out[..]), (Found::Value, &key[..]));
                }
                was_asked("a look-up");
            }
            for (group, hash, key) in in_order() {
                let at = PlacedKey { group, hash, key: &key, namespace: b"" };
                let mut scan = table.scan_collection(0, at, None).unwrap();
                assert_eq!(scan.next().unwrap().unwrap().value, Some(&key[..]));
                assert!(scan.next().unwrap().is_none());
            }
            was_asked("a scan of a collection");
            if part == sound.footer.index() {
                let (table, mut records) = (open(), 0);
                let mut scan = table.scan(meta.groups);
                while scan.next().unwrap().is_some() {
                    records += 1;
                }
                assert_eq!(records, 2 * KEYS);
                was_asked("a scan");
            }
        }
    }

    #[test]
    fn a_look_up_waits_for_one_page_to_search_and_for_one_piece_to_read() {
        let (bytes, meta) = written();
        let file = Mapped::new(bytes);
        let mapped = TableReader::open(Arc::clone(&file) as _, &meta).unwrap();
        let [on_disk, held] = [Held::Nothing, Held::Both]
            .map(|held| mapped.reopened(held, &MemoryLedger::new()).unwrap());
        let mut out = Vec::new();
        let mut get = |table: &TableReader, rank, (group, hash, key): (_, _, [u8; 4])| {
            let mut reads = TableReads::default();
            let at = (group, hash);
            let found = table.get_in(rank, 1, at, &key, b"", &mut out, &mut reads).unwrap();
            assert_eq!((found, &out[..]), (Found::Value, &key[..]));
            file.take_waits()
        };
        let (filter, index) = (on_disk.footer.filter(), on_disk.footer.index());
        let index_held = mapped.reopened(Held::Index, &MemoryLedger::new()).unwrap();
        for (at, key) in in_order().into_iter().step_by(97).enumerate() {
            let block = on_disk.blocks_of_hash(1, key.0, key.1).unwrap();
            let block = on_disk.block(block.end - 1).unwrap().offset;
            // What the pages of a mapped table need is waited for when it is checked.
            file.take_waits();
            for (rank, part) in [(Rank::Any, &filter), (Rank::Oldest, &index)] {
                let [pages, pieces, reads] = get(&on_disk, rank, key);
                let is_of_part = |page: &u64| *page < part.end && part.start < page + 4096;
                assert!(pages.len() == 1 && is_of_part(&pages[0]), "key {at}, {rank:?}: {pages:?}");
                // Who has many keys asks for the very page beforehand.
                file.take_asked();
                on_disk.will_search(rank, 1, (key.0, key.1));
                assert!(matches!(&file.take_asked()[..], [asked] if asked.start == pages[0]));
                assert_eq!((&pieces[..], &reads[..]), (&[block][..], &[][..]), "key {at}");
                let [pages, pieces, reads] = get(&held, rank, key);
                assert_eq!((&pages[..], &pieces[..], &reads[..]), (&[][..], &[block][..], &[][..]));
            }
            // With the index at hand a page of the filter is waited for, if it is asked.
            for (rank, awaited) in [(Rank::Any, 1), (Rank::Oldest, 0)] {
                let [pages, pieces, reads] = get(&index_held, rank, key);
                assert_eq!((pages.len(), &pieces[..], reads.len()), (awaited, &[block][..], 0));
            }
            // Of a map the block itself is touched, once it is there.
            let [pages, pieces, reads] = get(&mapped, Rank::Any, key);
            assert_eq!(pages.last(), Some(&block));
            assert!(pieces.is_empty() && reads.is_empty());
        }
        file.take_asked();
        held.will_search(Rank::Any, 1, (KeyGroup(0), 0));
        assert!(file.take_asked().is_empty(), "what is held is not asked for");
        let mut scan = Arc::new(on_disk).scan(meta.groups);
        while scan.next().unwrap().is_some() {}
        let [pages, pieces, reads] = file.take_waits();
        assert!(pages.is_empty() && pieces.is_empty() && !reads.is_empty(), "scans wait for none");
    }

    #[test]
    fn a_table_that_holds_its_index_holds_that_and_still_checks_its_filter() {
        let (bytes, meta) = written();
        let sound = TableReader::open(Mapped::new(bytes.clone()), &meta).unwrap();
        let ledger = MemoryLedger::new();
        let (filter, index) = (sound.footer.filter(), sound.footer.index());
        let held = sound.reopened(Held::Index, &ledger).unwrap();
        let bytes_held = held.held_bytes() as u64;
        assert!(bytes_held >= index.end - index.start && bytes_held < filter.end - filter.start);
        assert_eq!(bytes_held, sound.bytes_to_hold(Held::Index));
        assert_eq!(held.index().unwrap().len(), sound.index().unwrap().len());
        held.verify().unwrap();

        // The whole of it is read and checked when it is opened.
        let damaged = |at: u64| {
            let mut bad = bytes.clone();
            bad[at as usize] ^= 0x40;
            TableReader::open(Mapped::new(bad), &meta).unwrap()
        };
        let error = damaged(index.end - 1).reopened(Held::Index, &ledger).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Corrupt, "{error}");
        let bad = damaged((filter.start + filter.end) / 2).reopened(Held::Index, &ledger).unwrap();
        assert_eq!(bad.verify().unwrap_err().kind(), crate::ErrorKind::Corrupt);
        let (mut failed, mut out) = (0, Vec::new());
        for (group, hash, key) in in_order() {
            let mut get = |rank| {
                let mut reads = TableReads::default();
                bad.get_in(rank, 1, (group, hash), &key, b"", &mut out, &mut reads)
            };
            assert_eq!(get(Rank::Oldest).unwrap(), Found::Value, "the filter is not asked");
            match get(Rank::Any) {
                Ok(found) => assert_eq!(found, Found::Value, "an error is never absent"),
                Err(error) => {
                    assert_eq!(error.kind(), crate::ErrorKind::Corrupt, "{error}");
                    failed += 1;
                }
            }
        }
        assert!(failed > 100 && failed < KEYS / 2, "{failed} keys");
    }

    #[test]
    fn who_looks_at_many_rows_asks_for_them_before_the_first() {
        // More pages than the search for the first and the last touches.
        let (bytes, meta) = written_of(4 * KEYS);
        let file = Mapped::new(bytes);
        let table = TableReader::open(Arc::clone(&file) as _, &meta).unwrap();
        let first = Index::range_of_row(table.block_starts[1] as usize).start;
        let rows = table.index.start + first..table.index.end;
        file.take_asked();
        let mut scan = Arc::new(table).scan_state(1, meta.groups);
        assert!(scan.next().unwrap().is_some());
        let rows = rows.start as u64..rows.end as u64;
        assert_eq!(file.take_asked(), std::slice::from_ref(&rows));
    }

    #[test]
    fn what_was_seen_of_an_index_leads_to_one_page_of_it_and_to_the_same_blocks() {
        let (bytes, meta) = written();
        let table = TableReader::open(Mapped::new(bytes), &meta).unwrap();
        let checked = table.checked.as_ref().unwrap();
        let rows_of_page = PAGE_BYTES / ROW_BYTES;
        assert!(table.index.len() > 6 * PAGE_BYTES, "{} bytes of index", table.index.len());
        let mut hashes: Vec<_> =
            in_order().into_iter().map(|(group, hash, _)| (group, hash)).collect();
        // And those of nobody, at the ends of groups among them.
        for group in 0..128 {
            hashes.extend([0, 1, u64::MAX / 3, u64::MAX].map(|hash| (KeyGroup(group), hash)));
        }
        let mut known = Vec::new();
        for round in 0..2 {
            let mut led_to = 0;
            for (ordinal, &(group, hash)) in
                (0..2).flat_map(|ordinal| hashes.iter().map(move |at| (ordinal, at)))
            {
                let within = table.rows_near(checked, ordinal, group, hash);
                if let Some(Within { rows, .. }) = &within {
                    led_to += 1;
                    assert!(round == 0 || rows.len() <= rows_of_page, "{rows:?}");
                }
                let alone = table.rows().search(ordinal, group, hash, None, |_| Ok(())).unwrap();
                let led = table.rows().search(ordinal, group, hash, within, |_| Ok(())).unwrap();
                assert_eq!(led, alone, "round {round}, state {ordinal}, {group}, {hash:016x}");
                assert_eq!(table.blocks_of_hash(ordinal, group, hash).unwrap(), alone);
            }
            known.push(led_to);
        }
        assert!(known[0] > 0 && known[1] == 2 * hashes.len(), "{known:?}");
    }
}
