//! What the writer refuses, and what happens when the disk says no.

mod table_support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium::base::hash::hash_key;
use alluvium::base::limits::{MAX_KEY_BYTES, MAX_NAMESPACE_BYTES};
use alluvium::base::{ErrorKind, KeyGroup, MaxParallelism};
use alluvium::codec::KeyRef;
use alluvium::env::{ReadAt, WriteFile};
use alluvium::format::Placement;
use alluvium::format::collection::{EntryName, MAX_ENTRY_BYTES};
use alluvium::table::{PlacedKey, TableOptions, TableReader, TableWriter};
use table_support::*;

fn writer() -> TableWriter {
    let options = TableOptions::default();
    TableWriter::new(Box::new(MemFile::default()), FILE, MaxParallelism::DEFAULT, options).unwrap()
}

#[test]
fn records_out_of_order_are_a_bug_of_ours() {
    let add = |writer: &mut TableWriter, group, hash, key: &[u8], namespace: &[u8]| {
        writer.add(KeyGroup(group), hash, key, namespace, Some(b"v"))
    };
    let mut writer = writer();
    assert_eq!(add(&mut writer, 0, 0, b"", b"").unwrap_err().kind(), ErrorKind::Internal);
    writer.begin_state("b").unwrap();
    add(&mut writer, 5, 50, b"k", b"n").unwrap();
    for (group, hash, key, namespace) in [
        (4, 60, b"k", b"n"),
        (5, 49, b"k", b"n"),
        (5, 50, b"j", b"n"),
        (5, 50, b"k", b"m"),
        (5, 50, b"k", b"n"),
        (128, 0, b"k", b"n"),
    ] {
        let error = add(&mut writer, group, hash, key, namespace).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    }
    add(&mut writer, 5, 50, b"k", b"o").unwrap();
    for name in ["a", "b"] {
        assert_eq!(writer.begin_state(name).unwrap_err().kind(), ErrorKind::Internal);
    }
    writer.begin_state("c").unwrap();
    add(&mut writer, 0, 0, b"", b"").unwrap();
    assert_eq!(writer.finish().unwrap().records, 3);
}

#[test]
fn parts_that_are_too_long_and_empty_names_are_refused() {
    let mut writer = writer();
    assert_eq!(writer.begin_state("").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(writer.begin_state(&"x".repeat(1025)).unwrap_err().kind(), ErrorKind::Invalid);
    writer.begin_state("s").unwrap();
    let long = vec![0; MAX_KEY_BYTES.max(MAX_NAMESPACE_BYTES) + 1];
    let error = writer.add(KeyGroup(0), 0, &long, b"", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = writer.add(KeyGroup(0), 0, b"", &long, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    writer.add(KeyGroup(0), 0, &long[1..], &long[1..], None).unwrap();
}

#[test]
fn a_record_of_a_collection_needs_a_name_and_only_there() {
    let mut writer = writer();
    writer.begin_placed_state("maps", Placement::Collection).unwrap();
    for bad in [&b""[..], b"ns", &[0], &[0, 2], &[9, 1, 1]] {
        let error = writer.add(KeyGroup(0), 0, b"k", bad, Some(b"v")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    }
    let (namespace, entry) = (vec![1; MAX_NAMESPACE_BYTES], vec![2; MAX_ENTRY_BYTES]);
    let longest = encoded(EntryName::entry(&namespace, &entry));
    writer.add(KeyGroup(0), 0, b"k", &longest, Some(b"v")).unwrap();
    let longer = [&longest[..], &[3]].concat();
    let error = writer.add(KeyGroup(0), 0, b"k", &longer, Some(b"v")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // The next state is one of single values again.
    writer.begin_state("values").unwrap();
    writer.add(KeyGroup(0), 0, b"k", b"ns", Some(b"v")).unwrap();
    assert_eq!(writer.finish().unwrap().records, 2);
}

#[test]
fn collections_and_values_cannot_be_mistaken_for_each_other() {
    let model = small_collections();
    let (bytes, meta) = model.write(FILE, TableOptions::default()).unwrap();
    let table = open(&bytes, true, &meta).unwrap();
    let (counts, maps) = (0, table.state_ordinal("maps").unwrap());
    let at = PlacedKey::new(KeyRef::new(b"large").namespace(b"ns"), model.max_parallelism);
    let error = table.scan_collection(counts, at, None).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error =
        table.get(maps, at.group, at.hash, at.key, at.namespace, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[test]
fn an_empty_table_and_options_out_of_range_are_invalid() {
    assert_eq!(writer().finish().unwrap_err().kind(), ErrorKind::Invalid);
    let mut only_names = writer();
    only_names.begin_state("s").unwrap();
    assert_eq!(only_names.finish().unwrap_err().kind(), ErrorKind::Invalid);
    for options in [
        TableOptions { block_bytes: 0, ..TableOptions::default() },
        TableOptions { block_bytes: usize::MAX, ..TableOptions::default() },
        TableOptions { filter_bits_per_key: 33, ..TableOptions::default() },
    ] {
        let out = Box::new(MemFile::default());
        let error = TableWriter::new(out, FILE, MaxParallelism::DEFAULT, options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_state_without_records_is_known_and_empty() {
    let out = MemFile::default();
    let options = TableOptions::default();
    let mut writer =
        TableWriter::new(Box::new(out.clone()), FILE, MaxParallelism::DEFAULT, options).unwrap();
    for name in ["a", "b", "c"] {
        writer.begin_state(name).unwrap();
        if name == "b" {
            let (group, hash) = KeyRef::new(b"k").locate(MaxParallelism::DEFAULT);
            writer.add(group, hash, b"k", b"", Some(b"v")).unwrap();
        }
    }
    let meta = writer.finish().unwrap();
    let bytes = out.0.lock().unwrap().clone();
    let table = open(&bytes, true, &meta).unwrap();
    table.verify().unwrap();
    assert_eq!(table.states().iter().map(|s| s.records).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!(collect(table.scan(groups(0, 127))).unwrap().len(), 1);
    assert!(collect(table.scan_state(0, groups(0, 127))).unwrap().is_empty());
    assert!(collect(table.scan_state(u16::MAX, groups(0, 127))).unwrap().is_empty());
}

/// Fails the call with this number, counted down over writes and syncs.
struct Failing(AtomicU64);

impl Failing {
    fn tick(&self) -> io::Result<()> {
        match self.0.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl WriteFile for Failing {
    fn write_all(&mut self, _bytes: &[u8]) -> io::Result<()> {
        self.tick()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.tick()
    }
}

#[test]
fn a_writer_whose_file_failed_refuses_further_work() {
    let mut failures = 0;
    for fail_at in 0.. {
        let out = Box::new(Failing(AtomicU64::new(fail_at)));
        let options = TableOptions::default();
        let mut writer = TableWriter::new(out, FILE, MaxParallelism::DEFAULT, options).unwrap();
        writer.begin_state("s").unwrap();
        let noise: Vec<u8> =
            (0..8000u64).flat_map(|i| hash_key(&i.to_le_bytes()).to_le_bytes()).collect();
        let mut failed = false;
        for hash in 0..8u64 {
            let added = writer.add(KeyGroup(0), hash, &[hash as u8], b"", Some(&noise));
            if failed {
                assert_eq!(added.unwrap_err().kind(), ErrorKind::Closed);
            } else if let Err(error) = added {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.is_retryable());
                failed = true;
            }
        }
        match writer.finish() {
            Ok(_) => break,
            Err(error) if failed => assert_eq!(error.kind(), ErrorKind::Closed),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
        }
        failures += 1;
    }
    assert!(failures >= 4, "several writes and the sync: {failures}");
}

/// Fails the read with this number.
#[derive(Debug)]
struct FailingReads {
    bytes: Vec<u8>,
    left: AtomicU64,
}

impl ReadAt for FailingReads {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Err(io::Error::other("the disk is on fire"));
        }
        let start = offset as usize;
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }
}

#[test]
fn a_read_error_is_never_absent_or_the_end() {
    read_errors_are_errors(&small_model());
    read_errors_are_errors(&small_collections());
}

fn read_errors_are_errors(model: &Model) {
    let (bytes, meta) = model.write(FILE, TableOptions::default()).unwrap();
    let all = groups(0, 127);
    let expected = model.scan(all);
    for fail_at in 0.. {
        let source = Arc::new(FailingReads { bytes: bytes.clone(), left: AtomicU64::new(fail_at) });
        let outcome = TableReader::open(source, &meta).and_then(|table| {
            let mut out = Vec::new();
            for row in &expected {
                let found = table.get(
                    row.state,
                    row.group,
                    row.hash,
                    &row.key,
                    &row.namespace,
                    &mut out,
                )?;
                assert_ne!(found, alluvium::table::Found::Absent);
            }
            let table = Arc::new(table);
            assert_eq!(collect(table.scan(all))?, expected);
            if let Some(maps) = table.state_ordinal("maps") {
                let key = KeyRef::new(b"large").namespace(b"ns");
                let at = PlacedKey::new(key, model.max_parallelism);
                let large = collect(table.scan_collection(maps, at, None)?)?;
                let from = collect(table.scan_collection(maps, at, Some(&[40]))?)?;
                assert!(large.len() > 50 && large.ends_with(&from) && !from.is_empty());
            }
            table.verify()
        });
        match outcome {
            Ok(()) => {
                assert!(fail_at > 50, "every read failed once");
                break;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                assert!(error.to_string().contains("the disk is on fire"), "{error}");
            }
        }
    }
}
