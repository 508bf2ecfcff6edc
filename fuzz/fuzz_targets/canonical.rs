//! Any bytes as a canonical savepoint: it is refused, or its entries come in order,
//! none is longer than a table takes, and an import of it exports to the same entries.

#![no_main]

use std::sync::Arc;

use alluvium::SnapshotId;
use alluvium::env::SimEnv;
use alluvium::object::MemoryStore;
use alluvium::savepoint::{Export, Import, SavepointReader};
use libfuzzer_sys::fuzz_target;

/// All entries, as text.
fn read(bytes: &[u8]) -> alluvium::Result<Vec<String>> {
    let mut reader = SavepointReader::open(bytes)?;
    let mut entries = Vec::new();
    while let Some((section, entry)) = reader.next()? {
        entries.push(format!("{section} {entry:?}"));
    }
    Ok(entries)
}

fuzz_target!(|bytes: &[u8]| {
    let env = Arc::new(SimEnv::new(1));
    let store = alluvium::StoreSink::new(Arc::new(MemoryStore::new(Arc::clone(&env) as _)));
    let import = Import::new(Arc::clone(&env) as _, "/work", &store, SnapshotId(1));
    let imported = import.shards(1).table_bytes(100).sort_bytes(1).read(bytes);
    let Ok(entries) = read(bytes) else {
        assert!(imported.is_err(), "what cannot be read was imported");
        return;
    };
    let Ok(imported) = imported else { return };
    let handles: Vec<_> =
        imported.operators.iter().flat_map(|operator| operator.handles.clone()).collect();
    let mut out = Vec::new();
    let export =
        Export::new(env, "/work", &store).job(&imported.head.job, &imported.head.user_meta);
    export.write(&handles, &mut out).expect("an import has a savepoint");
    let again = read(&out).expect("what was exported is read");
    assert_eq!(entries.len(), again.len());
    // Schemas that nothing is written under are gone, so numbers may differ.
    let without = |entry: &String| {
        let (start, rest) = entry.split_once("schema: ").unwrap_or((entry, ""));
        format!("{start}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
    };
    assert!(entries.iter().map(without).eq(again.iter().map(without)), "the same entries");
});
