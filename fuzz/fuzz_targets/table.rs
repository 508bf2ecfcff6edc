//! Any bytes as a table file, mapped and read: opening, scanning, looking up,
//! reading collections and verifying end with an answer or an error, and both ways agree,
//! with a block cache and without.

#![no_main]

use std::io;
use std::sync::Arc;

use alluvium::env::ReadAt;
use alluvium::format::collection::{EntryName, Placement};
use alluvium::table::{BlockCache, PlacedKey, ScanRecord, TableReader};
use libfuzzer_sys::fuzz_target;

struct Source {
    bytes: Vec<u8>,
    mapped: bool,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("fuzz input")
    }
}

impl ReadAt for Source {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let bytes = self.bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        self.mapped.then_some(&self.bytes)
    }
}

/// The collection of a record, if it is of one: whole and from its middle on.
fn read_collection(table: &Arc<TableReader>, record: ScanRecord<'_>) {
    let ScanRecord { state, group, hash, key, namespace: name, .. } = record;
    if table.placement(state) != Placement::Collection {
        return;
    }
    let namespace = EntryName::decode(name).expect("a scan lends sound names only").namespace;
    let at = PlacedKey { group, hash, key, namespace };
    for from in [None, Some(&name[name.len() / 2..])] {
        let Ok(mut scan) = table.scan_collection(state, at, from) else { continue };
        while let Ok(Some(found)) = scan.next() {
            assert_eq!((found.hash, found.key), (hash, key));
            let found = EntryName::decode(found.namespace).expect("as above");
            assert_eq!(found.namespace, namespace);
        }
    }
}

/// Number of records, or nothing if the file is bad.
fn read(bytes: &[u8], mapped: bool) -> Option<(u64, bool)> {
    let source = Arc::new(Source { bytes: bytes.to_vec(), mapped });
    let cache = Arc::new(BlockCache::new(1 << 20));
    let cached = TableReader::open_any(Arc::clone(&source) as _).ok()?.with_cache(cache);
    let table = Arc::new(TableReader::open_any(source).ok()?);
    let mut scan = table.scan(table.properties().max_parallelism.all_groups());
    let mut records = 0;
    let mut out = Vec::new();
    let ended = loop {
        match scan.next() {
            Ok(Some(record)) => {
                records += 1;
                if records <= 16 {
                    let (state, group, hash) = (record.state, record.group, record.hash);
                    let _ = table.will_need(state, group, hash);
                    let found =
                        table.get(state, group, hash, record.key, record.namespace, &mut out);
                    let mut again = Vec::new();
                    for _ in 0..2 {
                        let found_again = cached.get(
                            state,
                            group,
                            hash,
                            record.key,
                            record.namespace,
                            &mut again,
                        );
                        assert_eq!(found.as_ref().ok(), found_again.as_ref().ok());
                        assert!(found.is_err() || out == again, "the cache has another value");
                    }
                    read_collection(&table, record);
                }
            }
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    let sound = table.verify().is_ok();
    assert!(!sound || ended, "a verified table scans to its end");
    assert!(!sound || records == table.meta().records);
    Some((records, sound))
}

fuzz_target!(|bytes: &[u8]| match (read(bytes, false), read(bytes, true)) {
    // Of a mapped file filter and index are looked at later, and by whoever verifies.
    (None, Some((_, sound))) => assert!(!sound, "what does not open is not sound"),
    (read, mapped) => assert_eq!(read, mapped),
});
