//! What a runtime does with the store: it keeps what the last checkpoints name and
//! deletes the rest. And reading all of it, to be sure of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::env::{Env, RealEnv};
use alluvium::format::Manifest;
use alluvium::object::LocalStore;
use alluvium::table::TableReader;
use alluvium::{SnapshotHandle, SnapshotSource, StoreSink};

fn open(dir: &Path) -> StoreSink {
    let env: Arc<dyn Env> = Arc::new(RealEnv::new());
    StoreSink::new(Arc::new(LocalStore::open(env, dir.join("store")).unwrap()))
}

fn manifest(store: &StoreSink, handle: &SnapshotHandle) -> Manifest {
    let object = store.open(handle.manifest()).unwrap();
    let mut bytes = vec![0; object.len() as usize];
    object.read_at(0, &mut bytes).unwrap();
    handle.open_manifest(&bytes).unwrap()
}

/// Names of objects that these checkpoints need.
pub fn named_by(dir: &Path, handles: &[SnapshotHandle]) -> BTreeSet<String> {
    let store = open(dir);
    let mut named = BTreeSet::new();
    for handle in handles {
        named.insert(handle.manifest().to_owned());
        named.extend(manifest(&store, handle).tables.into_iter().map(|table| table.location));
    }
    named
}

fn objects(root: &Path, dir: &Path, found: &mut Vec<(String, PathBuf)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        // Those are the store's own.
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            objects(root, &path, found);
        } else {
            found.push((name, path));
        }
    }
}

/// Deletes what is not `named`. There must be no snapshot under way.
pub fn collect(dir: &Path, named: &BTreeSet<String>) -> usize {
    let root = dir.join("store");
    let mut found = Vec::new();
    objects(&root, &root, &mut found);
    let mut missing = named.clone();
    let mut deleted = 0;
    for (name, path) in found {
        if !missing.remove(&name) {
            std::fs::remove_file(path).unwrap();
            deleted += 1;
        }
    }
    assert!(missing.is_empty(), "the store lost {missing:?}");
    deleted
}

/// What was counted by reading tables as a whole.
#[derive(Clone, Copy, Default, Debug)]
pub struct Scrubbed {
    pub tables: u64,
    pub bytes: u64,
    pub records: u64,
    pub raw_bytes: u64,
}

/// Reads every table of some checkpoints and compares what its records come to with
/// what manifest and properties say of them.
pub fn scrub(dir: &Path, handles: &[SnapshotHandle]) -> Scrubbed {
    let store = open(dir);
    let mut known = BTreeSet::new();
    let mut all = Scrubbed::default();
    for handle in handles {
        for table in manifest(&store, handle).tables {
            if !known.insert(table.location.clone()) {
                continue;
            }
            let file = store.open(&table.location).unwrap();
            let reader = Arc::new(TableReader::open(file, &table.meta).unwrap());
            reader.verify().unwrap();
            let mut counts = vec![[0_u64; 5]; reader.states().len()];
            let mut scan = reader.scan(reader.groups());
            while let Some(record) = scan.next().unwrap() {
                let lens = [
                    1,
                    usize::from(record.value.is_none()),
                    record.key.len(),
                    record.namespace.len(),
                    record.value.map_or(0, <[u8]>::len),
                ];
                let counts = &mut counts[usize::from(record.state)];
                for (count, len) in counts.iter_mut().zip(lens) {
                    *count += len as u64;
                }
            }
            let mut total = [0; 5];
            for (state, counts) in reader.states().iter().zip(&counts) {
                let said = [
                    state.records,
                    state.tombstones,
                    state.key_bytes,
                    state.namespace_bytes,
                    state.value_bytes,
                ];
                assert_eq!(said, *counts, "{} of {}", state.name, table.location);
                total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
            }
            let [records, tombstones, key, namespace, value] = total;
            let raw_bytes = key + namespace + value;
            let meta = &table.meta;
            let said = (meta.records, meta.tombstones, meta.raw_bytes);
            assert_eq!(said, (records, tombstones, raw_bytes), "{}", table.location);
            all.tables += 1;
            all.bytes += meta.bytes;
            all.records += records;
            all.raw_bytes += raw_bytes;
        }
    }
    all
}
