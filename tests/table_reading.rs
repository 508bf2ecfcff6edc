//! What an open table holds, asks for and keeps: memory, hints to the system,
//! filters that were left out, and the block cache.
//!
//! What could break: an open table grows with its file; a lookup reads what was
//! not asked for; a state without a filter denies a
//! record; the cache gives a block of another file, a damaged one, or more than
//! it may hold.

mod table_support;

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use alluvium::base::{ErrorKind, FileId, MaxParallelism};
use alluvium::codec::KeyRef;
use alluvium::env::ReadAt;
use alluvium::format::collection::EntryName;
use alluvium::format::{Compression, TableMeta};
use alluvium::table::{BlockCache, Found, PlacedKey, TableOptions, TableReader, TableWriter};
use table_support::*;

const SMALL_BLOCKS: TableOptions = TableOptions {
    block_bytes: 512,
    compression: Compression::Lz4,
    filter_bits_per_key: 8,
    fit_pages: false,
};

/// A file that remembers what was read of it and what was asked for.
struct Watched {
    bytes: Vec<u8>,
    mapped: bool,
    read: Mutex<Vec<Range<u64>>>,
    asked: Mutex<Vec<Range<u64>>>,
    singly: Mutex<Vec<Range<u64>>>,
    /// Whether it had been read by each of these times.
    touched: Mutex<Vec<bool>>,
}

impl Watched {
    fn new(bytes: &[u8], mapped: bool) -> Arc<Self> {
        let (read, asked, singly, touched) = Default::default();
        Arc::new(Self { bytes: bytes.to_vec(), mapped, read, asked, singly, touched })
    }

    fn take_read(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.read.lock().unwrap())
    }

    fn take_asked(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a watched file")
    }
}

impl ReadAt for Watched {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        self.read.lock().unwrap().push(offset..end);
        buf.copy_from_slice(&self.bytes[offset as usize..end as usize]);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        self.mapped.then_some(&self.bytes)
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        assert!(offset + bytes <= self.len(), "asked for what is not there");
        self.asked.lock().unwrap().push(offset..offset + bytes);
    }

    fn read_singly(&self, offset: u64, bytes: u64) {
        self.singly.lock().unwrap().push(offset..offset + bytes);
        self.touched.lock().unwrap().push(!self.read.lock().unwrap().is_empty());
    }
}

fn counts(records: u32) -> Model {
    let mut model = Model::default();
    for i in 0..records {
        model.insert("counts", &i.to_be_bytes(), b"", Some(&i.to_le_bytes()));
    }
    model
}

fn at(model: &Model, i: u32) -> (alluvium::base::KeyGroup, u64, [u8; 4]) {
    let key = i.to_be_bytes();
    let (group, hash) = KeyRef::new(&key).locate(model.max_parallelism);
    (group, hash, key)
}

fn get(table: &TableReader, model: &Model, i: u32) -> Found {
    let (group, hash, key) = at(model, i);
    let mut out = Vec::new();
    let found = table.get(0, group, hash, &key, b"", &mut out).unwrap();
    assert!(found != Found::Value || out == i.to_le_bytes(), "the value of another key");
    found
}

#[test]
fn an_open_table_of_a_mapped_file_is_as_small_with_many_blocks_as_with_one() {
    let sizes = [10, 50_000].map(|records| {
        let (bytes, meta) = counts(records).write(FILE, SMALL_BLOCKS).unwrap();
        let table = open(&bytes, true, &meta).unwrap();
        assert_eq!(get(&table, &counts(0), 7), Found::Value);
        (table.index().unwrap().len(), table.memory_bytes())
    });
    assert!(sizes[0].0 == 1 && sizes[1].0 > 900, "{sizes:?}");
    // Of each page of the index, which has 256 rows, a few bytes are remembered.
    let more = sizes[1].1 - sizes[0].1;
    assert!(more <= 8 * (sizes[1].0 / 256 + 2), "{more} more bytes for {} blocks", sizes[1].0);
    assert!(sizes[0].1 < 700, "{} bytes", sizes[0].1);
}

#[test]
fn an_open_table_of_a_file_that_is_not_mapped_says_that_it_holds_index_and_filter() {
    let (bytes, meta) = counts(50_000).write(FILE, SMALL_BLOCKS).unwrap();
    let [mapped, read] = [true, false].map(|mapped| open(&bytes, mapped, &meta).unwrap());
    let footer = read.footer();
    let held = (footer.footer_at - footer.filter_at) as usize;
    assert!(held > 50_000 + 16 * read.index().unwrap().len());
    let more = read.memory_bytes() - mapped.memory_bytes();
    assert!((held..held + 4096).contains(&more), "{more} bytes for {held}, in whole pages");
}

#[test]
fn what_a_lookup_reads_was_asked_for_and_nothing_else() {
    let model = counts(5000);
    let (bytes, meta) = model.write(FILE, SMALL_BLOCKS).unwrap();
    let file = Watched::new(&bytes, false);
    let table = TableReader::open(Arc::clone(&file) as _, &meta).unwrap();
    file.take_read();
    file.take_asked();
    let mut excluded = 0;
    for i in (0..10_000).step_by(7) {
        let (group, hash, _) = at(&model, i);
        let maybe = table.will_need(0, group, hash);
        assert!(file.take_read().is_empty(), "asking reads no block");
        let asked = file.take_asked();
        assert_eq!(get(&table, &model, i) == Found::Value, i < 5000);
        let mut read = file.take_read();
        // A stranger that the filter lets pass, with the hash of the first record
        // of a block, may be in the one before.
        read.truncate(if i < 5000 { usize::MAX } else { 1 });
        assert_eq!(asked, read, "key {i}");
        assert_eq!(maybe, !asked.is_empty());
        excluded += u32::from(!maybe);
    }
    assert!(excluded > 600, "the filter knows most strangers");
}

#[test]
fn a_lookup_in_a_mapped_file_asks_for_its_block_before_it_touches_it() {
    let model = counts(5000);
    let (bytes, meta) = model.write(FILE, SMALL_BLOCKS).unwrap();
    let file = Watched::new(&bytes, true);
    let table = TableReader::open(Arc::clone(&file) as _, &meta).unwrap();
    let index = table.index().unwrap();
    file.take_asked();
    for i in 0..5000 {
        let (group, hash, _) = at(&model, i);
        let block = index.blocks_of_hash(0, group, hash).unwrap().end - 1;
        let block = index.block(block).unwrap();
        assert_eq!(get(&table, &model, i), Found::Value);
        let [asked] = &file.take_asked()[..] else { panic!("asked for once") };
        assert_eq!(*asked, block.offset..block.end);
    }
}

/// A touch of a map brings along what the disk reads ahead, unless that was said before;
/// and a file in a store far away keeps its end at hand until then.
#[test]
fn a_map_is_told_of_single_reads_before_the_first_and_another_file_when_its_end_was_read() {
    let (bytes, meta) = counts(100).write(FILE, SMALL_BLOCKS).unwrap();
    for mapped in [true, false] {
        let file = Watched::new(&bytes, mapped);
        TableReader::open(Arc::clone(&file) as _, &meta).unwrap();
        assert_eq!(*file.touched.lock().unwrap(), [!mapped], "mapped: {mapped}");
    }
}

#[test]
fn a_mapped_file_is_touched_here_and_there_and_read_in_order_without_the_map() {
    let (bytes, meta) = counts(60_000).write(FILE, TableOptions::default()).unwrap();
    let file = Watched::new(&bytes, true);
    let table = Arc::new(TableReader::open(Arc::clone(&file) as _, &meta).unwrap());
    let footer = *table.footer();
    let end = footer.sums().unwrap().start..footer.footer_at;
    assert_eq!(file.take_asked(), [end], "opening reads neither filter nor index");
    let whole = 0..file.len();
    assert_eq!(*file.singly.lock().unwrap(), std::slice::from_ref(&whole));
    file.take_read();
    assert_eq!(collect(table.scan(groups(0, 127))).unwrap().len(), 60_000);
    let data = table.footer().data();
    let read: u64 = file.take_read().iter().map(|read| read.end - read.start).sum();
    assert_eq!(read, data.end - data.start, "a scan reads each block once");
    table.verify().unwrap();
    assert!(file.take_read().len() > 1, "and so does whoever verifies");
    let searched = footer.searched();
    assert_eq!(file.take_asked(), std::slice::from_ref(&searched), "to check filter and index");
}

#[test]
fn a_collection_is_asked_for_whole() {
    let model = small_collections();
    let (bytes, meta) = model.write(FILE, SMALL_BLOCKS).unwrap();
    let file = Watched::new(&bytes, false);
    let table = Arc::new(TableReader::open(Arc::clone(&file) as _, &meta).unwrap());
    let maps = table.state_ordinal("maps").unwrap();
    for (key, namespace) in [(&b"large"[..], &b"ns"[..]), (&[3], b""), (&[9], b"")] {
        let at = PlacedKey::new(KeyRef::new(key).namespace(namespace), model.max_parallelism);
        file.take_asked();
        assert!(table.will_need(maps, at.group, at.hash));
        let [asked] = &file.take_asked()[..] else { panic!("one run of blocks") };
        file.take_read();
        assert!(!collect(table.scan_collection(maps, at, None).unwrap()).unwrap().is_empty());
        let alone = file.take_asked();
        assert_eq!(alone, std::slice::from_ref(asked), "and by who reads it alone");
        for read in file.take_read() {
            assert!(asked.start <= read.start && read.end <= asked.end, "{read:?} of {asked:?}");
        }
    }
}

#[test]
fn a_state_without_a_filter_denies_nothing_and_its_neighbours_keep_theirs() {
    let model = {
        let mut model = small_collections();
        for i in 0..2000u32 {
            model.insert("bare", &i.to_be_bytes(), b"", Some(b"v"));
            model.insert("known", &i.to_be_bytes(), b"", Some(b"v"));
        }
        model
    };
    let write = |bare: &[&str], options| -> (Vec<u8>, TableMeta) {
        let out = MemFile::default();
        let mut writer =
            TableWriter::new(Box::new(out.clone()), FILE, model.max_parallelism, options).unwrap();
        for (name, records) in &model.states {
            writer.begin_placed_state(name, model.placement(name)).unwrap();
            writer.set_filtered(!bare.contains(&&**name)).unwrap();
            for ((group, hash, key, namespace), value) in records {
                writer.add(*group, *hash, key, namespace, value.as_deref()).unwrap();
            }
            assert_eq!(writer.set_filtered(true).unwrap_err().kind(), ErrorKind::Internal);
        }
        let meta = writer.finish().unwrap();
        let bytes = std::mem::take(&mut *out.0.lock().unwrap());
        (bytes, meta)
    };
    let none = TableOptions { filter_bits_per_key: 0, ..SMALL_BLOCKS };
    let every: Vec<&str> = model.states.keys().map(String::as_str).collect();
    let whole = write(&[], SMALL_BLOCKS).0.len();
    for (bare, options) in
        [(&["bare", "maps"][..], SMALL_BLOCKS), (&every, SMALL_BLOCKS), (&[], none)]
    {
        let (bytes, meta) = write(bare, options);
        assert!(bytes.len() < whole - 2000, "the filter is smaller");
        for mapped in [false, true] {
            let table = open(&bytes, mapped, &meta).unwrap();
            table.verify().unwrap();
            let mut out = Vec::new();
            for row in model.scan(groups(0, 127)) {
                let found = table
                    .get(row.state, row.group, row.hash, &row.key, &row.namespace, &mut out)
                    .unwrap();
                assert_eq!(found == Found::Value, row.value.is_some());
                assert_eq!(out, row.value.unwrap_or_default());
            }
            for (ordinal, state) in table.states().iter().enumerate() {
                let filtered = options != none && !bare.contains(&&*state.name);
                assert_eq!(state.filtered, filtered, "{}", state.name);
                let passed = (10_000..11_000)
                    .filter(|&i| {
                        let (group, hash, _) = at(&model, i);
                        table.may_contain(ordinal as u16, group, hash)
                    })
                    .count();
                assert!(if filtered { passed < 70 } else { passed == 1000 }, "{passed}");
            }
            assert_eq!(get_plain(&table, &model, "bare", 10_000), Found::Absent);
        }
    }
}

fn get_plain(table: &TableReader, model: &Model, state: &str, i: u32) -> Found {
    let (group, hash, key) = at(model, i);
    let ordinal = table.state_ordinal(state).unwrap();
    table.get(ordinal, group, hash, &key, b"", &mut Vec::new()).unwrap()
}

#[test]
fn a_block_in_the_cache_is_not_read_again_until_the_cache_is_turned_off() {
    let model = counts(5000);
    for compression in [Compression::None, Compression::Lz4] {
        let (bytes, meta) =
            model.write(FILE, TableOptions { compression, ..SMALL_BLOCKS }).unwrap();
        let file = Watched::new(&bytes, false);
        let cache = Arc::new(BlockCache::new(8 << 20));
        let table = TableReader::open(Arc::clone(&file) as _, &meta).unwrap();
        let table = table.with_cache(Arc::clone(&cache));
        for i in 0..5000 {
            assert_eq!(get(&table, &model, i), Found::Value);
        }
        assert!(cache.used_bytes() > 5000 * 8, "{cache:?}");
        file.take_read();
        file.take_asked();
        for i in 0..5000 {
            let (group, hash, _) = at(&model, i);
            assert!(table.will_need(0, group, hash));
            assert_eq!(get(&table, &model, i), Found::Value);
        }
        assert_eq!((file.take_read(), file.take_asked()), (vec![], vec![]));
        cache.set_capacity_bytes(0);
        assert_eq!(cache.used_bytes(), 0);
        for _ in 0..2 {
            assert_eq!(get(&table, &model, 17), Found::Value);
            assert_eq!(file.take_read().len(), 1, "off");
        }
        cache.set_capacity_bytes(8 << 20);
        for expected in [1, 0] {
            assert_eq!(get(&table, &model, 17), Found::Value);
            assert_eq!(file.take_read().len(), expected, "on again");
        }
    }
}

#[test]
fn tables_that_share_a_cache_keep_their_answers_whatever_its_capacity() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0xcac4e);
    println!("SEED={seed}");
    let mut rng = Rng(seed);
    let cache = Arc::new(BlockCache::new(0));
    // Equal shapes, other values: a block of the wrong file would show.
    let tables: Vec<_> = (0..3u32)
        .map(|number| {
            let mut model = small_collections();
            for i in 0..2000 {
                let value = (number + i).to_le_bytes();
                model.insert("counts", &i.to_be_bytes(), b"w", Some(&value));
            }
            let file = FileId { number: u64::from(number), ..FILE };
            let (bytes, meta) = model.write(file, SMALL_BLOCKS).unwrap();
            let source = source(&bytes, number == 1);
            let table = TableReader::open(source, &meta).unwrap().with_cache(Arc::clone(&cache));
            (model.scan(groups(0, 127)), table)
        })
        .collect();
    let mut out = Vec::new();
    for round in 0..60_000 {
        if rng.one_in(500) {
            let capacity = [0, 1, 4096, 100 << 10, 1 << 20][rng.below(5) as usize];
            cache.set_capacity_bytes(capacity);
            assert_eq!(cache.capacity_bytes(), capacity);
            assert!(capacity > 0 || cache.used_bytes() == 0);
        }
        let (rows, table) = &tables[rng.below(3) as usize];
        let row = &rows[rng.below(rows.len() as u64) as usize];
        let found =
            table.get(row.state, row.group, row.hash, &row.key, &row.namespace, &mut out).unwrap();
        assert_eq!(found == Found::Value, row.value.is_some(), "round {round}");
        assert_eq!(Some(&out), row.value.as_ref().or(Some(&vec![])), "round {round}");
        // Every part of the cache rounds its share up.
        assert!(cache.used_bytes() <= cache.capacity_bytes() + 16, "round {round}");
    }
}

#[test]
fn a_damaged_block_is_an_error_each_time_and_never_in_the_cache() {
    let model = counts(5000);
    // Not compressed, so that nothing but the checksum tells.
    let options = TableOptions { compression: Compression::None, ..SMALL_BLOCKS };
    let (mut bytes, meta) = model.write(FILE, options).unwrap();
    let (group, hash, key) = at(&model, 99);
    let damaged = {
        let table = open(&bytes, true, &meta).unwrap();
        let index = table.index().unwrap();
        let blocks = index.blocks_of_hash(0, group, hash).unwrap();
        index.block(blocks.start).unwrap()
    };
    bytes[damaged.end as usize - 1] ^= 4;
    for mapped in [false, true] {
        let cache = Arc::new(BlockCache::new(1 << 20));
        let source = source(&bytes, mapped);
        let table = TableReader::open(source, &meta).unwrap().with_cache(Arc::clone(&cache));
        for _ in 0..3 {
            let error = table.get(0, group, hash, &key, b"", &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&format!("offset {}", damaged.offset)), "{error}");
            assert_eq!(cache.used_bytes(), 0);
        }
    }
}

#[test]
fn lookups_in_collections_use_the_cache_too() {
    let mut model = Model { max_parallelism: MaxParallelism::new(4).unwrap(), ..Model::default() };
    for i in 0..3000u32 {
        let entry = i.to_be_bytes();
        model.insert_named("maps", b"k", EntryName::entry(b"n", &entry), Some(&entry));
    }
    let (bytes, meta) = model.write(FILE, SMALL_BLOCKS).unwrap();
    let file = Watched::new(&bytes, false);
    let cache = Arc::new(BlockCache::new(4 << 20));
    let table = TableReader::open(Arc::clone(&file) as _, &meta).unwrap().with_cache(cache);
    for expected_reads in [true, false] {
        for row in model.scan(model.max_parallelism.all_groups()) {
            let mut out = Vec::new();
            file.take_read();
            let found =
                table.get(0, row.group, row.hash, &row.key, &row.namespace, &mut out).unwrap();
            assert_eq!((found, Some(out)), (Found::Value, row.value));
            assert!(expected_reads || file.take_read().is_empty());
        }
    }
}

/// Of a block across two pages a disk reads both.
#[test]
fn blocks_that_fit_pages_are_read_with_one_page_each_and_little_more_space() {
    for compression in [Compression::None, Compression::Lz4] {
        let mut rng = Rng(1);
        let mut model = Model::default();
        for key in 0..20_000_u64 {
            // Half of each value can be compressed.
            let mut value = rng.bytes(100);
            value[50..].fill(7);
            model.insert("values", &key.to_be_bytes(), b"", Some(&value));
        }
        let write = |fit_pages| {
            let options = TableOptions { compression, fit_pages, ..TableOptions::default() };
            let (bytes, meta) = model.write(FILE, options).unwrap();
            open(&bytes, false, &meta).unwrap()
        };
        let (plain, paged) = (write(false), write(true));
        let blocks: Vec<_> = paged.index().unwrap().iter().map(Result::unwrap).collect();
        let pages = |offset: u64, end: u64| (end - 1) / 4096 - offset / 4096 + 1;
        let across = blocks.iter().filter(|block| pages(block.offset, block.end) > 1).count();
        assert!(across * 25 < blocks.len(), "{across} of {} blocks", blocks.len());
        assert!(blocks.iter().all(|block| pages(block.offset, block.end) <= 2));
        let (before, now) = (plain.meta().bytes, paged.meta().bytes);
        assert!(now * 100 < before * 107, "{now} bytes instead of {before}");
        paged.verify().unwrap();
        let all = model.max_parallelism.all_groups();
        assert_eq!(collect(paged.scan(all)).unwrap(), model.scan(all));
    }
}

/// A mapped file that counts how often each of its pages is made resident, and of which a
/// page can be made unreadable.
struct Paged {
    bytes: Vec<u8>,
    resident: Mutex<std::collections::BTreeMap<u64, u32>>,
    unreadable: Mutex<Option<u64>>,
}

impl std::fmt::Debug for Paged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Paged")
    }
}

impl ReadAt for Paged {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.copy_from_slice(&self.bytes[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.bytes)
    }

    fn make_resident(&self, offset: u64, bytes: u64) -> io::Result<()> {
        for page in offset / 4096..(offset + bytes).div_ceil(4096) {
            if *self.unreadable.lock().unwrap() == Some(page) {
                return Err(io::Error::other("the disk cannot read it"));
            }
            *self.resident.lock().unwrap().entry(page).or_default() += 1;
        }
        Ok(())
    }
}

#[test]
fn a_page_of_filter_or_index_is_read_and_checked_once_and_only_if_it_is_looked_at() {
    let model = counts(50_000);
    let (bytes, meta) = model.write(FILE, SMALL_BLOCKS).unwrap();
    let file = Arc::new(Paged { bytes, resident: Mutex::default(), unreadable: Mutex::default() });
    let table = TableReader::open(Arc::clone(&file) as _, &meta).unwrap();
    let searched = table.footer().searched();
    let searched = searched.start / 4096..searched.end.div_ceil(4096);
    // The page that both share with what is read at first.
    let shared = searched.end - 1;
    let pages = |page: u64| file.resident.lock().unwrap().get(&page).copied().unwrap_or(0);
    let touched = || (searched.start..shared).filter(|&page| pages(page) > 0).count();
    assert_eq!(touched(), 0, "opening looks at neither");
    assert_eq!(get(&table, &model, 7), Found::Value);
    assert!((2..=5).contains(&touched()), "{} pages for one key", touched());
    for i in 0..50_000 {
        assert_eq!(get(&table, &model, i), Found::Value);
    }
    assert!(touched() > 12, "{} pages", touched());
    for page in searched.start..shared {
        assert_eq!(pages(page), 1, "page {page}");
    }
    // What was read stays read, even if the disk fails later.
    for page in searched {
        *file.unreadable.lock().unwrap() = Some(page);
        assert_eq!(get(&table, &model, 7), Found::Value);
    }
}

#[test]
fn a_page_of_filter_or_index_that_cannot_be_read_is_an_error_for_the_keys_that_need_it() {
    let model = counts(50_000);
    let (bytes, meta) = model.write(FILE, SMALL_BLOCKS).unwrap();
    let footer = *open(&bytes, true, &meta).unwrap().footer();
    for part in [footer.filter(), footer.index()] {
        let page = (part.start + part.end) / 2 / 4096;
        let file = Paged {
            bytes: bytes.clone(),
            resident: Mutex::default(),
            unreadable: Mutex::new(Some(page)),
        };
        let table = TableReader::open(Arc::new(file), &meta).unwrap();
        let (mut failed, mut out) = (0, Vec::new());
        for i in 0..50_000 {
            let (group, hash, key) = at(&model, i);
            match table.get(0, group, hash, &key, b"", &mut out) {
                Ok(found) => assert_eq!(found, Found::Value, "an error is never absent"),
                Err(error) => {
                    assert_eq!(error.kind(), alluvium::ErrorKind::Unavailable, "{error}");
                    assert!(table.may_contain(0, group, hash), "what is not known may be there");
                    failed += 1;
                }
            }
        }
        assert!((500..40_000).contains(&failed), "{failed} keys of 50,000");
    }
}
