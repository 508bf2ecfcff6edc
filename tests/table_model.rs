//! Tables beside a `BTreeMap`: what was written is what is read, by lookup and
//! by scan, mapped or not, whatever the shape of the records.
//!
//! A failure prints the seed; run that seed alone with `SEED=... cargo test`.

mod table_support;

use std::sync::Arc;

use alluvium::base::MaxParallelism;
use alluvium::codec::KeyRef;
use alluvium::format::collection::{EntryName, Subkey};
use alluvium::format::{Compression, Placement};
use alluvium::table::{Found, PlacedKey, TableOptions, TableReader};
use table_support::*;

/// How the pieces of a column look.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Empty,
    Fixed(usize),
    Short,
    Long,
}

fn shape(rng: &mut Rng) -> Shape {
    match rng.below(5) {
        0 => Shape::Empty,
        1 | 2 => Shape::Fixed(1 + rng.below(24) as usize),
        3 => Shape::Short,
        _ => Shape::Long,
    }
}

fn piece(rng: &mut Rng, shape: Shape) -> Vec<u8> {
    match shape {
        Shape::Empty => vec![],
        Shape::Fixed(len) => rng.bytes(len),
        Shape::Short => {
            let len = rng.below(30) as usize;
            rng.bytes(len)
        }
        Shape::Long => {
            let longest = if rng.one_in(20) { 3000 } else { 300 };
            let len = rng.below(longest) as usize;
            vec![rng.next() as u8; len]
        }
    }
}

fn random_model(rng: &mut Rng) -> Model {
    let max = [1, 2, 5, 128, 1000, 32_768][rng.below(6) as usize];
    let mut model =
        Model { max_parallelism: MaxParallelism::new(max).unwrap(), ..Model::default() };
    for state in 0..1 + rng.below(5) {
        let name = format!("state {state}");
        let (keys, values) = (shape(rng), shape(rng));
        let namespaces = if rng.one_in(2) { Shape::Empty } else { shape(rng) };
        let tombstones = [1, 2, 10, u64::MAX][rng.below(4) as usize];
        if rng.one_in(2) {
            random_collections(rng, &mut model, &name, keys, namespaces, values, tombstones);
            continue;
        }
        for _ in 0..1 + rng.below(400) {
            let (key, namespace) = (piece(rng, keys), piece(rng, namespaces));
            let value = piece(rng, values);
            let value = if rng.one_in(tombstones) { None } else { Some(&value[..]) };
            model.insert(&name, &key, &namespace, value);
        }
    }
    model
}

/// A few collections, each of a few entries or of many.
fn random_collections(
    rng: &mut Rng,
    model: &mut Model,
    state: &str,
    keys: Shape,
    namespaces: Shape,
    values: Shape,
    tombstones: u64,
) {
    let entries = shape(rng);
    for _ in 0..1 + rng.below(20) {
        let (key, namespace) = (piece(rng, keys), piece(rng, namespaces));
        if rng.one_in(3) {
            let value = rng.one_in(2).then_some(&b"marker"[..]);
            model.insert_named(state, &key, EntryName::marker(&namespace), value);
        }
        let most = if rng.one_in(5) { 300 } else { 10 };
        for _ in 0..1 + rng.below(most) {
            let (entry, value) = (piece(rng, entries), piece(rng, values));
            let value = if rng.one_in(tombstones) { None } else { Some(&value[..]) };
            model.insert_named(state, &key, EntryName::entry(&namespace, &entry), value);
        }
    }
}

/// Every collection of a state, whole and from any of its entries on.
fn check_collections(rng: &mut Rng, model: &Model, table: &Arc<TableReader>, ordinal: u16) {
    let all = model.scan(model.max_parallelism.all_groups());
    let rows: Vec<Row> = all.into_iter().filter(|row| row.state == ordinal).collect();
    let name = |row: &Row| EntryName::decode(&row.namespace).unwrap().namespace.to_vec();
    for collection in rows.chunk_by(|a, b| a.key == b.key && name(a) == name(b)) {
        let namespace = name(&collection[0]);
        let key = KeyRef::new(&collection[0].key).namespace(&namespace);
        let at = PlacedKey::new(key, model.max_parallelism);
        let found = collect(table.scan_collection(ordinal, at, None).unwrap()).unwrap();
        assert_eq!(found, collection);
        for _ in 0..5 {
            let some = &collection[rng.below(collection.len() as u64) as usize];
            let mut from = match EntryName::decode(&some.namespace).unwrap().subkey {
                Subkey::Marker => vec![],
                Subkey::Entry(entry) => entry.to_vec(),
            };
            if rng.one_in(3) {
                from.push(rng.next() as u8);
            }
            let first = encoded(EntryName::entry(&namespace, &from));
            let expected: Vec<Row> =
                collection.iter().filter(|row| row.namespace >= first).cloned().collect();
            let scan = table.scan_collection(ordinal, at, Some(&from)).unwrap();
            assert_eq!(collect(scan).unwrap(), expected, "from {from:?}");
        }
        // Neighbours of the same hash that are not there.
        let stranger = rng.bytes(9);
        for absent in [PlacedKey { key: &stranger, ..at }, PlacedKey { namespace: &stranger, ..at }]
        {
            let found = collect(table.scan_collection(ordinal, absent, None).unwrap()).unwrap();
            assert_eq!(found, []);
        }
    }
}

fn random_options(rng: &mut Rng) -> TableOptions {
    TableOptions {
        block_bytes: [512, 1024, 4096, 16 * 1024, 1024 * 1024][rng.below(5) as usize],
        compression: if rng.one_in(2) { Compression::None } else { Compression::Lz4 },
        filter_bits_per_key: [0, 4, 8, 10][rng.below(4) as usize],
        fit_pages: rng.one_in(3),
    }
}

fn check_seed(seed: u64) {
    let mut rng = Rng(seed);
    let model = random_model(&mut rng);
    let options = random_options(&mut rng);
    let (bytes, meta) = model.write(FILE, options).unwrap();
    assert_eq!(meta.bytes, bytes.len() as u64);
    assert_eq!((meta.records, meta.raw_bytes), (model.records(), model.raw_bytes()));
    assert_eq!(model.write(FILE, options).unwrap().0, bytes, "writing is deterministic");

    for mapped in [false, true] {
        let table = open(&bytes, mapped, &meta).unwrap();
        table.verify().unwrap();
        let mut out = vec![1, 2, 3];
        for (ordinal, (name, records)) in model.states.iter().enumerate() {
            let ordinal = ordinal as u16;
            assert_eq!(table.state_ordinal(name), Some(ordinal));
            for ((group, hash, key, namespace), value) in records {
                let found = table.get(ordinal, *group, *hash, key, namespace, &mut out).unwrap();
                match value {
                    Some(value) => assert_eq!((found, &out), (Found::Value, value)),
                    None => assert_eq!((found, out.len()), (Found::Deleted, 0)),
                }
                assert!(table.may_contain(ordinal, *group, *hash));
                let other = (ordinal + 1) % (model.states.len() as u16 + 1);
                if table.placement(other) != table.placement(ordinal) {
                    continue;
                }
                let there = model.states.values().nth(usize::from(other)).is_some_and(|state| {
                    state.contains_key(&(*group, *hash, key.clone(), namespace.clone()))
                });
                let found = table.get(other, *group, *hash, key, namespace, &mut out).unwrap();
                assert_eq!(found != Found::Absent, there, "another state");
            }
            assert_eq!(table.placement(ordinal), model.placement(name));
            if table.placement(ordinal) == Placement::Collection {
                check_collections(&mut rng, &model, &table, ordinal);
            }
            for _ in 0..200 {
                let len = rng.below(20) as usize;
                let (key, mut namespace) = (rng.bytes(len), rng.bytes(len % 3));
                let (group, hash) =
                    KeyRef::new(&key).namespace(&namespace).locate(model.max_parallelism);
                if table.placement(ordinal) == Placement::Collection {
                    namespace = encoded(EntryName::entry(&namespace, &key));
                }
                let expected = records.get(&(group, hash, key.clone(), namespace.clone()));
                let found = table.get(ordinal, group, hash, &key, &namespace, &mut out).unwrap();
                assert_eq!(found != Found::Absent, expected.is_some());
            }
        }
        let last = model.max_parallelism.get() as u16 - 1;
        assert_eq!(collect(table.scan(groups(0, last))).unwrap(), model.scan(groups(0, last)));
        for _ in 0..10 {
            let (a, b) = (rng.below(u64::from(last) + 1), rng.below(u64::from(last) + 1));
            let range = groups(a.min(b) as u16, a.max(b) as u16);
            let expected = model.scan(range);
            assert_eq!(collect(table.scan(range)).unwrap(), expected, "{range}");
            let state = rng.below(model.states.len() as u64 + 1) as u16;
            let of_state: Vec<_> = expected.into_iter().filter(|row| row.state == state).collect();
            assert_eq!(collect(table.scan_state(state, range)).unwrap(), of_state);
        }
        assert_eq!(table.state_ordinal("unknown"), None);
    }
}

#[test]
fn tables_answer_as_a_map_does() {
    if let Ok(seed) = std::env::var("SEED") {
        return check_seed(seed.parse().expect("SEED is a number"));
    }
    for seed in 0..24 {
        let checked = std::panic::catch_unwind(|| check_seed(seed));
        assert!(checked.is_ok(), "failed with SEED={seed}");
    }
}

#[test]
fn a_value_of_five_mebibytes_is_one_block_between_small_ones() {
    let mut model = Model::default();
    let huge: Vec<u8> = (0..5u32 << 20).map(|i| (i / 1000) as u8).collect();
    for i in 0..2000u32 {
        let value = if i == 1000 { &huge[..] } else { b"small" };
        model.insert("s", &i.to_be_bytes(), b"", Some(value));
    }
    let (bytes, meta) = model.write(FILE, TableOptions::default()).unwrap();
    for mapped in [false, true] {
        let table = open(&bytes, mapped, &meta).unwrap();
        table.verify().unwrap();
        let largest = table
            .index()
            .unwrap()
            .iter()
            .map(|block| block.unwrap())
            .max_by_key(|block| block.frame_bytes())
            .unwrap();
        assert_eq!(largest.records, 1);
        assert!(largest.frame_bytes() > huge.len() as u64, "too large to be compressed");
        let (group, hash) = KeyRef::new(&1000u32.to_be_bytes()).locate(model.max_parallelism);
        let mut out = Vec::new();
        let found = table.get(0, group, hash, &1000u32.to_be_bytes(), b"", &mut out).unwrap();
        assert_eq!((found, out == huge), (Found::Value, true));
        let all = groups(0, 127);
        assert_eq!(collect(table.scan(all)).unwrap(), model.scan(all));
    }
}

#[test]
fn records_with_equal_hashes_are_found_across_the_borders_of_blocks() {
    // Real hashes do not collide, so these are invented; lookups take the hash
    // as given. (Scans compute it, and are not what is tested here.)
    use alluvium::base::KeyGroup;
    use alluvium::table::TableWriter;
    for mapped in [false, true] {
        let out = MemFile::default();
        let options = TableOptions { block_bytes: 512, ..TableOptions::default() };
        let mut writer =
            TableWriter::new(Box::new(out.clone()), FILE, MaxParallelism::DEFAULT, options)
                .unwrap();
        writer.begin_state("s").unwrap();
        let group = KeyGroup(7);
        let key = |i: u32| i.to_be_bytes();
        for i in 0..300 {
            writer
                .add(group, 1000 + u64::from(i / 100), &key(i), b"", Some(&[i as u8; 10]))
                .unwrap();
        }
        let meta = writer.finish().unwrap();
        let bytes = out.0.lock().unwrap().clone();
        let table = open(&bytes, mapped, &meta).unwrap();
        assert!(table.index().unwrap().len() > 8, "equal hashes span several blocks");
        let mut value = Vec::new();
        for i in 0..300 {
            let hash = 1000 + u64::from(i / 100);
            let found = table.get(0, group, hash, &key(i), b"", &mut value).unwrap();
            assert_eq!((found, &value[..]), (Found::Value, &[i as u8; 10][..]), "record {i}");
            let found = table.get(0, group, hash, &key(i + 300), b"", &mut value).unwrap();
            assert_eq!(found, Found::Absent);
            let found = table.get(0, group, hash + 1, &key(i), b"", &mut value).unwrap();
            assert_eq!(found, Found::Absent);
        }
    }
}

#[test]
fn fixed_records_of_sixteen_bytes_cost_at_most_fifteen_percent_more() {
    let mut model = Model::default();
    for i in 0..20_000u64 {
        let value = alluvium::base::hash::hash_key(&i.to_le_bytes());
        model.insert("counts", &i.to_be_bytes(), b"", Some(&value.to_be_bytes()));
    }
    let options = TableOptions { compression: Compression::None, ..TableOptions::default() };
    let (bytes, meta) = model.write(FILE, options).unwrap();
    let ratio = bytes.len() as f64 / meta.raw_bytes as f64;
    assert!(ratio <= 1.15, "{ratio} of the raw bytes");
}

#[test]
fn strangers_rarely_pass_the_filter() {
    let mut model = Model::default();
    for i in 0..5000u32 {
        model.insert("s", &i.to_be_bytes(), b"", Some(b"v"));
    }
    let (bytes, meta) = model.write(FILE, TableOptions::default()).unwrap();
    let table = open(&bytes, true, &meta).unwrap();
    let passed = (5000..15_000u32)
        .filter(|i| {
            let (group, hash) = KeyRef::new(&i.to_be_bytes()).locate(model.max_parallelism);
            table.may_contain(0, group, hash)
        })
        .count();
    assert!(passed < 400, "{passed} of 10000");
}

#[test]
fn blocks_end_before_their_counters_overflow() {
    let mut model = Model { max_parallelism: MaxParallelism::new(1).unwrap(), ..Model::default() };
    for i in 0..140_000u32 {
        model.insert("s", &i.to_be_bytes(), b"", None);
    }
    let options = TableOptions { block_bytes: 1024 * 1024, ..TableOptions::default() };
    let (bytes, meta) = model.write(FILE, options).unwrap();
    let table = open(&bytes, true, &meta).unwrap();
    table.verify().unwrap();
    assert_eq!(table.index().unwrap().block(0).unwrap().records, u16::MAX);
    assert_eq!((meta.records, meta.tombstones), (140_000, 140_000));
}

/// A file that counts what is read of it.
#[derive(Debug)]
struct Counted {
    bytes: Vec<u8>,
    read: std::sync::atomic::AtomicU64,
}

impl alluvium::env::ReadAt for Counted {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.read.fetch_add(buf.len() as u64, std::sync::atomic::Ordering::Relaxed);
        let start = offset as usize;
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }
}

#[test]
fn one_entry_of_a_large_collection_costs_a_few_blocks() {
    let mut model = Model::default();
    for i in 0..20_000u32 {
        let entry = i.to_be_bytes();
        model.insert_named("maps", b"k", EntryName::entry(b"n", &entry), Some(&[7; 8]));
    }
    let options = TableOptions {
        block_bytes: 1024,
        compression: Compression::None,
        ..TableOptions::default()
    };
    let (bytes, meta) = model.write(FILE, options).unwrap();
    let counted = Arc::new(Counted { bytes, read: 0.into() });
    let table = Arc::new(TableReader::open(Arc::clone(&counted) as _, &meta).unwrap());
    assert!(table.index().unwrap().len() > 256, "{} blocks", table.index().unwrap().len());
    let at = PlacedKey::new(KeyRef::new(b"k").namespace(b"n"), model.max_parallelism);
    let read = |body: &dyn Fn()| {
        let before = counted.read.load(std::sync::atomic::Ordering::Relaxed);
        body();
        counted.read.load(std::sync::atomic::Ordering::Relaxed) - before
    };
    let get = |i: u32| {
        let name = encoded(EntryName::entry(b"n", &i.to_be_bytes()));
        let mut out = Vec::new();
        table.get(0, at.group, at.hash, b"k", &name, &mut out).unwrap()
    };
    for i in [0, 1, 7_777, 19_999] {
        let bytes = read(&|| assert_eq!(get(i), Found::Value));
        assert!(bytes <= 11 * 1100, "entry {i}: {bytes} bytes read");
    }
    let strangers = (20_000..21_000).filter(|&i| read(&|| assert_eq!(get(i), Found::Absent)) > 0);
    assert!(strangers.count() < 60, "the filter knows single entries");
    let last = read(&|| {
        let scan = table.scan_collection(0, at, Some(&19_998u32.to_be_bytes())).unwrap();
        assert_eq!(collect(scan).unwrap().len(), 2);
    });
    assert!(last <= 12 * 1100, "{last} bytes read for the last two entries");
}
