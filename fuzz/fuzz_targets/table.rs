//! Any bytes as a table file, mapped and read: opening, scanning, looking up
//! and verifying end with an answer or an error, and both ways agree.

#![no_main]

use std::io;
use std::sync::Arc;

use alluvium::env::ReadAt;
use alluvium::table::TableReader;
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

/// Number of records, or nothing if the file is bad.
fn read(bytes: &[u8], mapped: bool) -> Option<(u64, bool)> {
    let source = Arc::new(Source { bytes: bytes.to_vec(), mapped });
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
                    let _ = table.get(state, group, hash, record.key, record.namespace, &mut out);
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

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(read(bytes, false), read(bytes, true));
});
