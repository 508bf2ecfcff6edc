//! Tables of collections and single values, oldest to newest, beside a replay of
//! them in plain maps: lookups, collections, whole scans and merges must say
//! the same. A failure prints the seed; run it alone with `SEED=... cargo test`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::base_tables::{BaseTable, StateBase};
use super::compact::{self, Failure, Merged, Output};
use super::entry_run::EntryRun;
use super::flush::{self, Delta};
use super::migration::MigrationsNow;
use crate::base::{ErrorKind, FileId, KeyGroup, KeyGroupRange, MaxParallelism, Result};
use crate::codec::KeyRef;
use crate::env::Env;
use crate::env::ledger::Charge;
use crate::env::sim::SimEnv;
use crate::format::collection::{EntryName, Placement, Subkey};
use crate::format::frame::FRAME_HEADER_BYTES;
use crate::format::table::HEADER_BYTES;
use crate::format::{Compression, TableMeta};
use crate::table::{PlacedKey, TableOptions, TableReader, TableReads, TableWriter};
use crate::version::merge::MergeSource;

const GROUPS: u16 = 8;
/// Names in the order of tables, and whether they are of collections.
const STATES: [(&str, bool); 4] =
    [("counts", false), ("lists", true), ("maps", true), ("sums", false)];

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

type Bytes = Vec<u8>;
/// State, group, hash, key, namespace or entry name: the order of a table.
type Place = (usize, KeyGroup, u64, Bytes, Bytes);
type Layer = BTreeMap<Place, Option<Bytes>>;
/// State, group, hash, key, namespace, entry.
type Live = BTreeMap<(usize, KeyGroup, u64, Bytes, Bytes, Option<Bytes>), Bytes>;

fn max_parallelism() -> MaxParallelism {
    MaxParallelism::new(u32::from(GROUPS)).unwrap()
}

fn groups(first: u16, last: u16) -> KeyGroupRange {
    KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap()
}

fn key(number: u64) -> Bytes {
    format!("key {number}").into_bytes()
}

fn namespace(number: u64) -> Bytes {
    [b"".to_vec(), b"w".to_vec(), vec![1], vec![b'n'; 130]][number as usize].clone()
}

fn entry(state: usize, number: u64) -> Bytes {
    match STATES[state].0 {
        "lists" => number.to_be_bytes().to_vec(),
        _ if number.is_multiple_of(5) => vec![0; (number / 5) as usize],
        _ => number.to_le_bytes()[..1 + (number % 3) as usize].to_vec(),
    }
}

fn at<'a>(key: &'a [u8], namespace: &'a [u8]) -> PlacedKey<'a> {
    PlacedKey::new(KeyRef::new(key).namespace(namespace), max_parallelism())
}

fn place(state: usize, at: PlacedKey<'_>, subkey: Option<Subkey<'_>>) -> Place {
    let namespace = subkey.map_or(at.namespace.to_vec(), |subkey| {
        let mut name = Vec::new();
        EntryName { namespace: at.namespace, subkey }.encode(&mut name);
        name
    });
    (state, at.group, at.hash, at.key.to_vec(), namespace)
}

fn name_of(place: &Place) -> EntryName<'_> {
    EntryName::decode(&place.4).unwrap()
}

fn is_marker(place: &Place) -> bool {
    STATES[place.0].1 && name_of(place).is_marker()
}

/// Whether a record belongs to the collection of a marker.
fn is_of(place: &Place, marker: &Place) -> bool {
    (place.0, &place.3) == (marker.0, &marker.3)
        && name_of(place).namespace == name_of(marker).namespace
}

/// What happened in one epoch.
fn random_layer(rng: &mut Rng, only_collections: bool) -> Layer {
    let mut layer = Layer::new();
    let value = |rng: &mut Rng| {
        let longest = if rng.one_in(8) { 200 } else { 12 };
        let len = rng.below(longest) as usize;
        vec![rng.next() as u8; len]
    };
    for _ in 0..rng.below(60) {
        let state = rng.below(STATES.len() as u64) as usize;
        let (key, namespace) = (key(rng.below(6)), namespace(rng.below(4)));
        let at = at(&key, &namespace);
        if !STATES[state].1 {
            if !only_collections {
                let value = (!rng.one_in(3)).then(|| value(rng));
                layer.insert(place(state, at, None), value);
            }
            continue;
        }
        if rng.one_in(4) {
            // Cleared or replaced: what the epoch did before is gone.
            let marker = place(state, at, Some(Subkey::Marker));
            layer.retain(|place, _| !STATES[place.0].1 || !is_of(place, &marker));
            layer.insert(marker, rng.one_in(4).then(|| value(rng)));
        }
        let many = if rng.one_in(10) { 150 } else { 8 };
        for _ in 0..rng.below(many) {
            let entry = entry(state, rng.below(many));
            let value = (!rng.one_in(4)).then(|| value(rng));
            layer.insert(place(state, at, Some(Subkey::Entry(&entry))), value);
        }
    }
    layer
}

/// A table and what it holds for the shard.
struct Table {
    base: BaseTable,
    layer: Layer,
}

struct Shard {
    env: SimEnv,
    options: TableOptions,
    files: u64,
    /// Oldest first.
    tables: Vec<Table>,
}

impl Shard {
    fn new(rng: &mut Rng) -> Self {
        let env = SimEnv::new(rng.next());
        let env = if rng.one_in(2) { env.with_mapped_reads() } else { env };
        env.fs().create_dir_all(Path::new("/shard")).unwrap();
        let options = TableOptions {
            block_bytes: [512, 2048, 16 * 1024][rng.below(3) as usize],
            compression: if rng.one_in(2) { Compression::None } else { Compression::Lz4 },
            filter_bits_per_key: [0, 8][rng.below(2) as usize],
            fit_pages: rng.one_in(3),
        };
        Self { env, options, files: 0, tables: Vec::new() }
    }

    fn next_file(&mut self) -> (FileId, PathBuf) {
        self.files += 1;
        let file = FileId { incarnation: 7, number: self.files };
        (file, PathBuf::from(format!("/shard/{}", self.files)))
    }

    fn open(&self, path: &Path, meta: &TableMeta) -> Arc<TableReader> {
        let reader = TableReader::open(self.env.fs().open(path).unwrap(), meta).unwrap();
        reader.verify().unwrap();
        Arc::new(reader)
    }

    /// Writes a layer as the background would, and takes a slice of it.
    fn add(&mut self, rng: &mut Rng, layer: Layer) {
        if layer.is_empty() {
            return;
        }
        let (file, path) = self.next_file();
        let collections_only = layer.keys().all(|place| STATES[place.0].1);
        let meta = if collections_only {
            self.flush(rng, file, &path, &layer)
        } else {
            self.write(file, &path, &layer)
        };
        assert_eq!(meta.unwrap().records, layer.len() as u64);
        let meta = meta_of(&self.env, &path);
        let reader = self.open(&path, &meta);
        let (a, b) = (rng.below(u64::from(GROUPS)) as u16, rng.below(u64::from(GROUPS)) as u16);
        let wanted = if rng.one_in(2) { groups(0, GROUPS - 1) } else { groups(a.min(b), a.max(b)) };
        let Some(slice) = meta.groups.intersection(wanted) else { return };
        let layer = layer.into_iter().filter(|(place, _)| slice.contains(place.1)).collect();
        self.tables
            .push(Table { base: BaseTable { reader, slice, dropped: Arc::from([]) }, layer });
    }

    fn write(&self, file: FileId, path: &Path, layer: &Layer) -> Result<TableMeta> {
        let out = flush::create(self.env.fs(), path)?;
        let mut writer = TableWriter::new(out, file, max_parallelism(), self.options)?;
        let mut state = None;
        for (place, value) in layer {
            let (number, group, hash, key, namespace) = place;
            if state != Some(number) {
                let (name, collections) = STATES[*number];
                match collections {
                    true => writer.begin_placed_state(name, Placement::Collection)?,
                    false => writer.begin_state(name)?,
                }
                state = Some(number);
            }
            writer.add(*group, *hash, key, namespace, value.as_deref())?;
        }
        writer.finish()
    }

    /// The same by way of a delta, from records in any order.
    fn flush(&self, rng: &mut Rng, file: FileId, path: &Path, layer: &Layer) -> Result<TableMeta> {
        let mut records: Vec<_> = layer.iter().collect();
        records.sort_by_cached_key(|_| rng.next());
        let mut runs: Vec<(String, EntryRun)> = STATES
            .iter()
            .rev()
            .map(|(name, _)| ((*name).to_owned(), EntryRun::default()))
            .collect();
        let mut raw_bytes = 0;
        for (place, value) in records {
            let name = name_of(place);
            let at = at(&place.3, name.namespace);
            let run = &mut runs[STATES.len() - 1 - place.0].1;
            run.push(at, name.subkey, value.as_deref());
            raw_bytes += place.3.len() + place.4.len() + value.as_ref().map_or(0, Vec::len);
        }
        let mut delta = Delta::unsorted(vec![]).with_collections(runs);
        assert_eq!(delta.records(), layer.len() as u64);
        assert_eq!(delta.raw_bytes(), raw_bytes as u64);
        delta.sort(1, || {});
        let (max_parallelism, options) = (max_parallelism(), self.options);
        let output = Output { file, max_parallelism, options, charge: Charge::default() };
        let written = delta.write(self.env.fs(), path, output, || {});
        written.map(|(meta, _)| meta)
    }

    /// Makes one table of some neighbours.
    fn merge(&mut self, first: usize, count: usize) {
        let inputs = &self.tables[first..first + count];
        let expected = merged(inputs, first == 0);
        let sources = inputs
            .iter()
            .map(|table| MergeSource {
                reader: Arc::clone(&table.base.reader),
                slice: table.base.slice,
                dropped: Vec::new(),
            })
            .collect();
        let (file, path) = self.next_file();
        let (max_parallelism, options) = (max_parallelism(), self.options);
        let output = Output { file, max_parallelism, options, charge: Charge::default() };
        let meta = compact::merge(
            sources,
            first == 0,
            &MigrationsNow::default(),
            self.env.fs(),
            &path,
            output,
            || Ok(()),
        )
        .unwrap();
        assert_eq!(meta.is_some(), !expected.is_empty());
        let table = meta.map(|Merged { meta, states }| {
            let reader = self.open(&path, &meta);
            assert_eq!(states, reader.states());
            let mut found = Layer::new();
            let mut scan = reader.scan(meta.groups);
            while let Some(record) = scan.next().unwrap() {
                let name = &*reader.states()[usize::from(record.state)].name;
                let state = STATES.iter().position(|state| state.0 == name).unwrap();
                let (key, namespace) = (record.key.to_vec(), record.namespace.to_vec());
                let place = (state, record.group, record.hash, key, namespace);
                assert!(found.last_key_value().is_none_or(|(last, _)| *last < place));
                found.insert(place, record.value.map(<[u8]>::to_vec));
            }
            assert_eq!(found, expected, "what tables {first} and {count} on merge to");
            if first == 0 {
                assert_eq!(meta.tombstones, 0);
                assert!(!found.keys().any(is_marker));
            }
            Table {
                base: BaseTable { reader, slice: meta.groups, dropped: Arc::from([]) },
                layer: found,
            }
        });
        self.tables.splice(first..first + count, table);
    }

    fn state(&self, state: usize) -> StateBase {
        let tables: Vec<BaseTable> = self.tables.iter().map(|table| table.base.clone()).collect();
        StateBase::new(STATES[state].0, &tables)
    }

    /// Asks for everything, in every way.
    fn check(&self, rng: &mut Rng, live: &Live) {
        let (a, b) = (rng.below(u64::from(GROUPS)) as u16, rng.below(u64::from(GROUPS)) as u16);
        let some = groups(a.min(b), a.max(b));
        for (state, (_, collections)) in STATES.into_iter().enumerate() {
            let mut base = self.state(state);
            for range in [groups(0, GROUPS - 1), some] {
                let expected: Live = live
                    .iter()
                    .filter(|(place, _)| place.0 == state && range.contains(place.1))
                    .map(|(place, value)| (place.clone(), value.clone()))
                    .collect();
                assert_eq!(scan(state, base.scan(range).unwrap()), expected, "scan of {range}");
            }
            for (key, namespace) in (0..7 * 4).map(|i| (key(i / 4), namespace(i % 4))) {
                let at = at(&key, &namespace);
                let (group, hash) = (at.group, at.hash);
                let full = |entry| (state, group, hash, key.clone(), namespace.clone(), entry);
                let mut value = b"before".to_vec();
                if !collections {
                    let found = base
                        .get(at, &mut value, &mut TableReads::default())
                        .unwrap()
                        .then_some(&value);
                    assert_eq!(found, live.get(&full(None)));
                    continue;
                }
                for number in 0..10 {
                    let entry = entry(state, number);
                    let found = base.entry(at, &entry, &mut value).unwrap();
                    assert_eq!(found.then_some(&value), live.get(&full(Some(entry))));
                }
                let number = rng.below(60);
                for from in [None, Some(entry(state, number))] {
                    let lowest = full(Some(from.clone().unwrap_or_default()));
                    let expected: Live = live
                        .range(lowest..)
                        .take_while(|(place, _)| {
                            (place.0, &place.3, &place.4) == (state, &key, &namespace)
                        })
                        .map(|(place, value)| (place.clone(), value.clone()))
                        .collect();
                    let found = base.collection(at, from.as_deref()).unwrap();
                    assert_eq!(scan(state, found), expected, "{at:?} from {from:?}");
                }
            }
        }
    }
}

fn meta_of(env: &SimEnv, path: &Path) -> TableMeta {
    let found = TableReader::open_any(env.fs().open(path).unwrap()).unwrap();
    let bytes = env.file_bytes(path).unwrap();
    TableMeta { hash: crate::base::checksum::of_contents(&bytes), ..*found.meta() }
}

fn scan(state: usize, mut scan: super::base_scan::BaseScan) -> Live {
    let mut found = Live::new();
    while let Some(record) = scan.next().unwrap() {
        let place = (
            state,
            record.group,
            record.hash,
            record.key.to_vec(),
            record.namespace.to_vec(),
            record.entry.map(<[u8]>::to_vec),
        );
        assert_eq!(record.entry.is_some(), STATES[state].1);
        assert!(found.last_key_value().is_none_or(|(last, _)| *last < place), "in order");
        found.insert(place, record.value.to_vec());
    }
    found
}

/// What is alive after all tables, by replaying them.
fn replay(tables: &[Table]) -> Live {
    let mut live = Live::new();
    for table in tables {
        for marker in table.layer.keys().filter(|place| is_marker(place)) {
            let namespace = name_of(marker).namespace;
            live.retain(|place, _| {
                (place.0, &*place.3, &*place.4) != (marker.0, &*marker.3, namespace)
            });
        }
        for (place, value) in &table.layer {
            let (state, group, hash, key, namespace) = place.clone();
            let (namespace, entry) = match STATES[state].1.then(|| name_of(place)) {
                None => (namespace, None),
                Some(EntryName { namespace, subkey: Subkey::Entry(entry) }) => {
                    (namespace.to_vec(), Some(entry.to_vec()))
                }
                Some(_) => continue,
            };
            let full = (state, group, hash, key, namespace, entry);
            match value {
                Some(value) => drop(live.insert(full, value.clone())),
                None => drop(live.remove(&full)),
            }
        }
    }
    live
}

/// What a merge of these tables must hold, to the record.
fn merged(tables: &[Table], to_the_bottom: bool) -> Layer {
    let mut all = Layer::new();
    for table in tables {
        for marker in table.layer.keys().filter(|place| is_marker(place)) {
            all.retain(|place, _| !STATES[place.0].1 || !is_of(place, marker));
        }
        all.extend(table.layer.clone());
    }
    let markers: Vec<Place> = all.keys().filter(|place| is_marker(place)).cloned().collect();
    all.retain(|place, value| {
        let marked = || STATES[place.0].1 && markers.iter().any(|marker| is_of(place, marker));
        match (is_marker(place), value) {
            (true, _) => !to_the_bottom,
            (false, None) => !to_the_bottom && !marked(),
            (false, Some(_)) => true,
        }
    });
    all
}

fn check_seed(seed: u64) {
    let mut rng = Rng(seed);
    let mut shard = Shard::new(&mut rng);
    for _ in 0..1 + rng.below(7) {
        let only_collections = rng.one_in(3);
        let layer = random_layer(&mut rng, only_collections);
        shard.add(&mut rng, layer);
    }
    let live = replay(&shard.tables);
    shard.check(&mut rng, &live);
    while !shard.tables.is_empty() {
        let first = rng.below(shard.tables.len() as u64) as usize;
        let count = 1 + rng.below((shard.tables.len() - first) as u64) as usize;
        let last = shard.tables.len() == 1;
        shard.merge(first, count);
        shard.check(&mut rng, &live);
        if last {
            break;
        }
    }
}

#[test]
fn tables_of_collections_answer_and_merge_as_maps_do() {
    if let Ok(seed) = std::env::var("SEED") {
        return check_seed(seed.parse().expect("SEED is a number"));
    }
    for seed in 0..100 {
        let checked = std::panic::catch_unwind(|| check_seed(seed));
        assert!(checked.is_ok(), "failed with SEED={seed}");
    }
}

/// A table of one record of the state "maps".
fn one_record(shard: &mut Shard, collections: bool, subkey: Subkey<'_>) -> BaseTable {
    let (file, path) = shard.next_file();
    let out = flush::create(shard.env.fs(), &path).unwrap();
    let mut writer = TableWriter::new(out, file, max_parallelism(), shard.options).unwrap();
    let at = at(b"key", b"ns");
    let subkey = collections.then_some(subkey);
    let placement = if collections { Placement::Collection } else { Placement::Single };
    writer.begin_placed_state("maps", placement).unwrap();
    let (_, group, hash, key, namespace) = place(2, at, subkey);
    writer.add(group, hash, &key, &namespace, Some(b"value")).unwrap();
    let meta = writer.finish().unwrap();
    BaseTable { reader: shard.open(&path, &meta), slice: meta.groups, dropped: Arc::from([]) }
}

#[test]
fn tables_that_disagree_about_a_state_are_not_read_as_one() {
    let mut shard = Shard::new(&mut Rng(1));
    let entry = Subkey::Entry(b"e");
    let tables = [one_record(&mut shard, false, entry), one_record(&mut shard, true, entry)];
    let base = StateBase::new("maps", &tables);
    let at = at(b"key", b"ns");
    let mut out = Vec::new();
    let error = base.entry(at, b"e", &mut out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    let error = base.collection(at, None).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    let error = base
        .scan(groups(0, GROUPS - 1))
        .and_then(|mut scan| scan.next().map(|record| record.is_some()))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    let sources = tables
        .map(|table| MergeSource { reader: table.reader, slice: table.slice, dropped: Vec::new() })
        .into_iter()
        .collect();
    let (file, path) = shard.next_file();
    let options = shard.options;
    let output =
        Output { file, max_parallelism: max_parallelism(), options, charge: Charge::default() };
    let none = MigrationsNow::default();
    let merged = compact::merge(sources, true, &none, shard.env.fs(), &path, output, || Ok(()));
    let Err(Failure::Tables(error)) = merged else { panic!("{merged:?}") };
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
}

#[test]
fn a_table_that_cannot_be_read_never_means_that_an_entry_is_absent() {
    // The older table has a marker, the newer one an entry.
    for (damaged, entry) in [(1, b"other"), (2, b"entry")] {
        let mut shard = Shard::new(&mut Rng(damaged));
        let mut tables = [Subkey::Marker, Subkey::Entry(entry)]
            .map(|subkey| one_record(&mut shard, true, subkey));
        let path = PathBuf::from(format!("/shard/{damaged}"));
        shard.env.mutate_file(&path, |bytes| bytes[HEADER_BYTES + FRAME_HEADER_BYTES] ^= 1);
        let table = &mut tables[damaged as usize - 1].reader;
        let bytes = shard.env.fs().open(&path).unwrap();
        *table = Arc::new(TableReader::open(bytes, table.meta()).unwrap());
        let base = StateBase::new("maps", &tables);
        let at = at(b"key", b"ns");
        let all = base
            .collection(at, None)
            .and_then(|mut scan| {
                while scan.next()?.is_some() {}
                Ok(())
            })
            .unwrap_err();
        assert_eq!(all.kind(), ErrorKind::Corrupt, "table {damaged}: {all}");
        let mut out = Vec::new();
        let found = base.entry(at, b"entry", &mut out);
        assert_eq!(found.unwrap_err().kind(), ErrorKind::Corrupt, "table {damaged}");
    }
}
