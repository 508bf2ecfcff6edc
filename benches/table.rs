//! What does a table cost to write, to look into, and to scan?
//!
//! 100,000 records of 16-byte keys and 32-byte values, in memory, so that what
//! is measured is the code and not a disk. Values are half text, half noise,
//! and compress to about half. Then the index of a table of a million blocks, as
//! one has of 4 to 16 GB: what opening makes of it, and what a search in it costs.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::io;
use std::sync::{Arc, Mutex};

use alluvium::base::hash::hash_key;
use alluvium::base::{FileId, KeyGroup, KeyGroupRange, MaxParallelism};
use alluvium::codec::KeyRef;
use alluvium::env::{ReadAt, WriteFile};
use alluvium::format::index::{BlockEntry, Index, IndexBuilder, hash_prefix};
use alluvium::format::{Compression, TableMeta};
use alluvium::table::{BlockCache, Found, TableOptions, TableReader, TableWriter};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const RECORDS: u64 = 100_000;
const MAX: MaxParallelism = MaxParallelism::DEFAULT;
const FILE: FileId = FileId { incarnation: 1, number: 1 };

#[derive(Clone, Default)]
struct MemFile(Arc<Mutex<Vec<u8>>>);

impl WriteFile for MemFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Source {
    bytes: Vec<u8>,
    mapped: bool,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bytes in memory")
    }
}

impl ReadAt for Source {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        self.mapped.then_some(&self.bytes)
    }
}

type Record = (KeyGroup, u64, [u8; 16], [u8; 32]);

fn record(i: u64) -> Record {
    let mut key = *b"user:00000000000";
    key[8..].copy_from_slice(&i.to_be_bytes());
    let mut value = *b"state of the operator, not noise";
    value[..8].copy_from_slice(&hash_key(&key).to_le_bytes());
    value[8..16].copy_from_slice(&hash_key(&key[8..]).to_le_bytes());
    let (group, hash) = KeyRef::new(&key).locate(MAX);
    (group, hash, key, value)
}

fn records() -> Vec<Record> {
    let mut records: Vec<_> = (0..RECORDS).map(record).collect();
    records.sort_unstable();
    records
}

fn index(c: &mut Criterion) {
    const BLOCKS: u64 = 1_000_000;
    // Every 40th of 40 million records begins a block.
    let mut places: Vec<(KeyGroup, u64)> = (0..40 * BLOCKS)
        .map(|i| {
            let hash = hash_key(&i.to_le_bytes());
            (KeyGroup((hash % 128) as u16), hash)
        })
        .collect();
    places.sort_unstable();
    let asked: Vec<_> = places.iter().step_by(977).copied().collect();
    let places: Vec<_> = places.into_iter().step_by(40).collect();
    let mut builder = IndexBuilder::new();
    for (i, (group, hash)) in places.iter().enumerate() {
        let next = places.get(i + 1).map_or(KeyGroup(127), |next| next.0);
        let offset = 40 + i as u64 * 4200;
        builder.push(BlockEntry {
            state: 0,
            first_group: *group,
            last_group: next,
            records: 40,
            hash_prefix: hash_prefix(*hash),
            offset,
            end: offset + 4200,
        });
    }
    let groups = KeyGroupRange::new(KeyGroup(0), KeyGroup(127)).unwrap();
    let starts = [0, BLOCKS as u32];
    let index = Index::new(builder.payload(), &starts, 40..40 + BLOCKS * 4200, groups);
    let mut group = c.benchmark_group("index_1m_blocks");
    group.sample_size(20);
    group.bench_function("check", |b| b.iter(|| index.check(|_, _| Ok(())).unwrap()));
    // An order that has nothing to do with the table's.
    let mut order = 0usize;
    let mut next = move || {
        order = (order + 15_485_863) % asked.len();
        asked[order]
    };
    group.bench_function("blocks_of_hash", |b| {
        b.iter(|| {
            let (group, hash) = next();
            index.blocks_of_hash(0, group, hash)
        })
    });
    group.bench_function("binary_search_in_decoded_rows", |b| {
        b.iter(|| {
            let wanted = next();
            places.partition_point(|place| *place < wanted)
        })
    });
    group.finish();
}

fn write(records: &[Record], compression: Compression) -> (Vec<u8>, TableMeta) {
    let out = MemFile::default();
    let options = TableOptions { compression, ..TableOptions::default() };
    let mut writer = TableWriter::new(Box::new(out.clone()), FILE, MAX, options).unwrap();
    writer.begin_state("state").unwrap();
    for (group, hash, key, value) in records {
        writer.add(*group, *hash, key, b"", Some(value)).unwrap();
    }
    let meta = writer.finish().unwrap();
    let bytes = std::mem::take(&mut *out.0.lock().unwrap());
    (bytes, meta)
}

fn tables(c: &mut Criterion) {
    let sorted = records();
    let mut strangers: Vec<_> = (RECORDS..2 * RECORDS).map(record).collect();
    let mut friends: Vec<_> = (0..RECORDS).map(record).collect();
    // An order that has nothing to do with the table's.
    let shuffled = |record: &Record| record.1.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    friends.sort_by_key(shuffled);
    strangers.sort_by_key(shuffled);

    for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4)] {
        let mut group = c.benchmark_group(format!("table_{name}"));
        group.sample_size(20);
        group.throughput(Throughput::Elements(RECORDS));
        group.bench_function("write_100k", |b| b.iter(|| write(black_box(&sorted), compression)));

        let (bytes, meta) = write(&sorted, compression);
        eprintln!("{name}: {} bytes, {} raw", meta.bytes, meta.raw_bytes);
        for mapped in [true, false] {
            let how = if mapped { "mapped" } else { "read" };
            let source = Arc::new(Source { bytes: bytes.clone(), mapped });
            let table = Arc::new(TableReader::open(source, &meta).unwrap());
            group.throughput(Throughput::Elements(1));
            for (what, keys, found) in
                [("get_hit", &friends, Found::Value), ("get_miss", &strangers, Found::Absent)]
            {
                let mut keys = keys.iter().cycle();
                let mut out = Vec::new();
                group.bench_function(format!("{what}_{how}"), |b| {
                    b.iter(|| {
                        let (group, hash, key, _) = keys.next().unwrap();
                        let got = table.get(0, *group, *hash, key, b"", &mut out).unwrap();
                        assert_eq!(got, found);
                    })
                });
            }
            let source = Arc::new(Source { bytes: bytes.clone(), mapped });
            for (what, capacity) in [("all_in_cache", 64 << 20), ("a_tenth_in_cache", 1500 << 10)] {
                let cache = Arc::new(BlockCache::new(capacity));
                let source = Arc::clone(&source) as Arc<dyn ReadAt>;
                let table = TableReader::open(source, &meta).unwrap().with_cache(cache);
                let mut keys = friends.iter().cycle();
                let mut out = Vec::new();
                group.bench_function(format!("get_hit_{how}_{what}"), |b| {
                    b.iter(|| {
                        let (group, hash, key, _) = keys.next().unwrap();
                        table.get(0, *group, *hash, key, b"", &mut out).unwrap()
                    })
                });
            }
            group.throughput(Throughput::Elements(RECORDS));
            group.bench_function(format!("scan_100k_{how}"), |b| {
                b.iter(|| {
                    let mut scan = table.scan(MAX.all_groups());
                    let mut sum = 0;
                    while let Some(record) = scan.next().unwrap() {
                        sum += record.hash & 1;
                    }
                    sum
                })
            });
        }
        group.finish();
    }
}

criterion_group!(benches, tables, index);
criterion_main!(benches);
