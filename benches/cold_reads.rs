//! What do lookups cost in a table that is not in memory?
//!
//! A table of 4 million records of 16 + 100 bytes lies on a disk, out of the page
//! cache but for its index and its filter. Lookups of random keys that are there:
//! one at a time, and in batches whose blocks are asked for ahead; with the
//! system's own read-ahead and without. Then the same keys again, now in the page
//! cache, which is what a lookup costs without the disk. Then whole scans. At last,
//! what it costs to open a table of a million blocks.
//!
//! `cargo bench --bench cold_reads [-- DIR]`, where `DIR` is on the disk that is
//! meant. Pages are dropped with GNU `dd`; where there is no `/proc/self/io`, the
//! bytes that were read are 0.

#![allow(clippy::disallowed_methods, reason = "measures real files by a real clock")]

use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use alluvium::base::{FileId, KeyGroup, MaxParallelism};
use alluvium::codec::KeyRef;
use alluvium::env::{Env, ReadAt, RealEnv};
use alluvium::format::{Compression, TableMeta};
use alluvium::table::{BlockCache, Found, TableOptions, TableReader, TableWriter};

const RECORDS: u64 = 4_000_000;
const LOOKUPS: usize = 1024;
const ROUNDS: usize = 5;
const MAX: MaxParallelism = MaxParallelism::DEFAULT;

/// What a table says of its file to the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hints {
    /// As built.
    All,
    /// Nothing: the system reads as it thinks best.
    None,
    /// Nothing is asked for, and nothing is read but what is touched.
    PageByPage,
    /// What is asked for is read, and nothing else in the whole file.
    AskedOnly,
}

/// A file whose hints reach the system, or do not.
#[derive(Debug)]
struct Hinted {
    file: Arc<dyn ReadAt>,
    hints: Hints,
}

impl ReadAt for Hinted {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buf)
    }

    fn as_slice(&self) -> Option<&[u8]> {
        self.file.as_slice()
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        if matches!(self.hints, Hints::All | Hints::AskedOnly) {
            self.file.will_need(offset, bytes);
        }
    }

    fn read_singly(&self, offset: u64, bytes: u64) {
        match self.hints {
            Hints::All => self.file.read_singly(offset, bytes),
            Hints::None => {}
            Hints::PageByPage | Hints::AskedOnly => self.file.read_singly(0, self.len()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    group: KeyGroup,
    hash: u64,
    number: u64,
}

impl Key {
    fn new(number: u64) -> Self {
        let (group, hash) = KeyRef::new(&key(number)).locate(MAX);
        Self { group, hash, number }
    }
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"user:00000000000";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Half text, half noise.
fn value(hash: u64) -> [u8; 100] {
    let mut value = *b"state of the operator, not noise; state of the operator, not noise; state of the operator, not noise";
    let mut noise = hash;
    for eight in value[..48].chunks_exact_mut(8) {
        noise = noise.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ hash;
        eight.copy_from_slice(&noise.to_le_bytes());
    }
    value
}

struct Table {
    path: PathBuf,
    meta: TableMeta,
}

impl Table {
    fn write(dir: &Path, name: &str, keys: &[Key], options: TableOptions) -> Self {
        let path = dir.join(name);
        let _ = std::fs::remove_file(&path);
        let env = RealEnv::new();
        let out = env.fs().create_new(&path).unwrap();
        let file = FileId { incarnation: env.random_u64(), number: 1 };
        let mut writer = TableWriter::new(out, file, MAX, options).unwrap();
        writer.begin_state("state").unwrap();
        for at in keys {
            let value = value(at.hash);
            writer.add(at.group, at.hash, &key(at.number), b"", Some(&value)).unwrap();
        }
        Self { path, meta: writer.finish().unwrap() }
    }

    /// Opens it when nothing of it is in the page cache any more.
    fn open_cold(&self, hints: Hints, map: bool) -> Arc<TableReader> {
        self.drop_pages();
        self.open(hints, map)
    }

    fn drop_pages(&self) {
        let of = format!("of={}", self.path.display());
        let args = [&of[..], "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"];
        assert!(Command::new("dd").args(args).status().unwrap().success());
    }

    fn open(&self, hints: Hints, map: bool) -> Arc<TableReader> {
        let env = if map { RealEnv::new() } else { RealEnv::with_pread() };
        let file = env.fs().open(&self.path).unwrap();
        let source = Arc::new(Hinted { file, hints });
        Arc::new(TableReader::open(source, &self.meta).unwrap())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// Looks all keys up, in batches that are asked for ahead if so wanted.
fn lookups(table: &TableReader, keys: &[Key], batch: usize, ask: bool) {
    let mut out = Vec::new();
    for keys in keys.chunks(batch) {
        if ask {
            for at in keys {
                black_box(table.will_need(0, at.group, at.hash));
            }
        }
        for at in keys {
            let found = table.get(0, at.group, at.hash, &key(at.number), b"", &mut out).unwrap();
            assert_eq!(found, Found::Value);
        }
    }
}

fn scan(table: &Arc<TableReader>) -> u64 {
    let mut scan = table.scan(MAX.all_groups());
    let mut sum = 0;
    while let Some(record) = scan.next().unwrap() {
        sum ^= record.hash;
    }
    sum
}

fn main() {
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let dir = dir.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned());
    let mut keys: Vec<Key> = (0..RECORDS).map(Key::new).collect();
    keys.sort_unstable();
    let mut order = 0x1234_5678_9abc_def1u64;
    let mut sample = || -> Vec<Key> {
        let mut some = Vec::new();
        for _ in 0..LOOKUPS {
            order = order.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            some.push(keys[(order >> 33) as usize % keys.len()]);
        }
        some
    };
    println!(
        "microseconds a lookup (median and least of {ROUNDS} rounds), KiB read from the disk for each"
    );
    for (codec, compression) in [("none", Compression::None), ("lz4", Compression::Lz4)] {
        for block_kib in [4, 8, 16] {
            let options =
                TableOptions { block_bytes: block_kib << 10, compression, ..Default::default() };
            let table = Table::write(Path::new(&dir), "cold.table", &keys, options);
            println!(
                "{block_kib} KiB blocks, {codec}: {} MiB, index {} KiB",
                table.meta.bytes >> 20,
                (table.open_cold(Hints::All, true).index().unwrap().len() * 16) >> 10
            );
            let ways = [
                ("mapped, nothing is asked for", Hints::None, true, 1, false),
                ("mapped, page by page", Hints::PageByPage, true, 1, false),
                ("mapped (as built)", Hints::All, true, 1, false),
                ("mapped, all read singly", Hints::AskedOnly, true, 1, false),
                ("batches of 16 (as built)", Hints::All, true, 16, true),
                ("batches of 64 (as built)", Hints::All, true, 64, true),
                ("batches of 256 (as built)", Hints::All, true, 256, true),
                ("batches of 256, all read singly", Hints::AskedOnly, true, 256, true),
                ("pread", Hints::All, false, 1, false),
            ];
            // In turn, so that what else the machine does meets all alike.
            let mut figures = vec![[const { Vec::new() }; 3]; ways.len()];
            for _ in 0..ROUNDS {
                for (figures, (_, hints, map, batch, ask)) in figures.iter_mut().zip(ways) {
                    let some = sample();
                    let opened = table.open_cold(hints, map);
                    let (read, begun) = (bytes_read(), Instant::now());
                    lookups(&opened, &some, batch, ask);
                    figures[0].push(begun.elapsed().as_secs_f64() * 1e6 / LOOKUPS as f64);
                    figures[1].push((bytes_read() - read) as f64 / 1024.0 / LOOKUPS as f64);
                    for _ in 0..3 {
                        let begun = Instant::now();
                        lookups(&opened, &some, batch, ask);
                        figures[2].push(begun.elapsed().as_secs_f64() * 1e6 / LOOKUPS as f64);
                    }
                }
            }
            for (mut figures, (name, ..)) in figures.into_iter().zip(ways) {
                figures.iter_mut().for_each(|figures| figures.sort_by(f64::total_cmp));
                let [cold, read, warm] = figures;
                println!(
                    "  {name:42} {:6.1} us ({:6.1} at least) {:6.1} KiB   again {:6.2} us",
                    cold[ROUNDS / 2],
                    cold[0],
                    read[ROUNDS / 2],
                    warm[0]
                );
            }
            let file = RealEnv::new().fs().open(&table.path).unwrap();
            let cache = Arc::new(BlockCache::new(256 << 20));
            let cached =
                TableReader::open(file, &table.meta).unwrap().with_cache(Arc::clone(&cache));
            let some = sample();
            for _ in 0..2 {
                lookups(&cached, &some, 1, false);
            }
            let mut hit = f64::MAX;
            for _ in 0..10 {
                let begun = Instant::now();
                lookups(&cached, &some, 1, false);
                hit = hit.min(begun.elapsed().as_secs_f64() * 1e6 / LOOKUPS as f64);
            }
            println!("  in the block cache ({} MiB used) {hit:.2} us", cache.used_bytes() >> 20);
            let ways = [("nothing is said", Hints::None), ("as built", Hints::All)];
            let mut figures = vec![Vec::new(); ways.len()];
            for _ in 0..ROUNDS {
                for (figures, (_, hints)) in figures.iter_mut().zip(ways) {
                    let opened = table.open_cold(hints, true);
                    let begun = Instant::now();
                    black_box(scan(&opened));
                    figures.push(table.meta.bytes as f64 / 1e6 / begun.elapsed().as_secs_f64());
                }
            }
            for (mut figures, (name, ..)) in figures.into_iter().zip(ways) {
                figures.sort_by(f64::total_cmp);
                let (median, most) = (figures[ROUNDS / 2], figures[ROUNDS - 1]);
                println!("  scan, {name:30} {median:7.0} MB/s ({most:.0} at most)");
            }
        }
    }
    opening(Path::new(&dir), &keys);
}

/// Opens a table of very many blocks.
fn opening(dir: &Path, keys: &[Key]) {
    let options =
        TableOptions { block_bytes: 512, compression: Compression::None, ..Default::default() };
    let table = Table::write(dir, "opened.table", keys, options);
    for (name, map) in [("mapped", true), ("pread", false)] {
        let mut took = [f64::MAX; 2];
        let mut blocks_and_bytes = (0, 0);
        for _ in 0..ROUNDS {
            table.drop_pages();
            for took in &mut took {
                let begun = Instant::now();
                let opened = table.open(Hints::All, map);
                *took = took.min(begun.elapsed().as_secs_f64() * 1e3);
                blocks_and_bytes = (opened.index().unwrap().len(), opened.memory_bytes());
            }
        }
        let (blocks, bytes) = blocks_and_bytes;
        println!(
            "opening {blocks} blocks, {name}: {:.1} ms from the disk, {:.1} ms from the page cache, \
             {bytes} bytes of memory",
            took[0], took[1]
        );
    }
}
