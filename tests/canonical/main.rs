//! Canonical savepoints: what could go wrong is that something is lost, doubled or
//! changed on its way out of tables and back; that the same state has different bytes
//! on another number of shards; that a damaged or cut savepoint is believed. The oracle
//! is a reader written after the drawing of the layout (`plain`), beside plain maps.

#![allow(unreachable_pub, reason = "the modules of a test program")]

mod claims;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod golden;
mod lives;
mod plain;
mod schemas;
mod ttl;

use std::ops::Deref;
use std::sync::Arc;

use alluvium::env::SimEnv;
use alluvium::format::Compression;
use alluvium::object::MemoryStore;
use alluvium::savepoint::{Export, Import, Imported};
use alluvium::{
    Backend, BackendBuilder, KeyGroupRange, Result, Shard, SnapshotHandle, SnapshotId, StoreSink,
};

use common::{CHECKPOINTS, DIR, store_on};

/// Where exports and imports have their files.
const WORK: &str = "/node/work";

/// A store in memory, and the machine that it takes files of.
pub struct Memory {
    sink: StoreSink,
    objects: Arc<MemoryStore>,
    env: SimEnv,
}

impl Memory {
    fn on(env: &SimEnv) -> Self {
        let objects = Arc::new(MemoryStore::new(Arc::new(env.clone())));
        let sink = StoreSink::new(Arc::clone(&objects) as _);
        Self { sink, objects, env: env.clone() }
    }
}

impl Deref for Memory {
    type Target = StoreSink;

    fn deref(&self) -> &StoreSink {
        &self.sink
    }
}

fn memory() -> Memory {
    Memory::on(&SimEnv::new(4))
}

fn backend_on(env: &SimEnv, max: u32) -> BackendBuilder {
    Backend::builder(DIR)
        .checkpoint_dir(CHECKPOINTS)
        .env(Arc::new(env.clone()))
        .background_threads(0)
        .max_parallelism(alluvium::MaxParallelism::new(max).unwrap())
}

/// A backend of its own whose snapshots are in `store`.
fn backend_in(store: &Memory, max: u32) -> Backend {
    let builder = backend_on(&store.env, max);
    let store = Arc::new(store.sink.clone());
    builder.sink(Arc::clone(&store) as _).source(store).open().unwrap()
}

/// The subtasks of an operator, restored.
fn open(
    backend: &Backend,
    operator: &str,
    ranges: &[KeyGroupRange],
    handles: &[SnapshotHandle],
) -> Vec<Shard> {
    let shards = ranges.len() as u32;
    let each = ranges.iter().zip(0..).map(|(groups, index)| {
        let builder = backend.shard(operator, *groups).subtask(index, shards);
        builder.restore(handles.iter().cloned()).open().unwrap()
    });
    each.collect()
}

fn ranges(shards: u32, max: u32) -> Vec<KeyGroupRange> {
    (0..shards).map(|index| common::range_of(index, shards, max)).collect()
}

fn snapshots<'a>(shards: impl IntoIterator<Item = &'a mut Shard>, id: u64) -> Vec<SnapshotHandle> {
    let tickets: Vec<_> = shards
        .into_iter()
        .map(|shard| shard.snapshot(SnapshotId(id), b"not in the savepoint").unwrap())
        .collect();
    tickets.iter().map(|ticket| ticket.wait().unwrap().handle).collect()
}

fn store_of(env: &SimEnv) -> StoreSink {
    store_on(env, CHECKPOINTS).unwrap()
}

/// The savepoint of some snapshots, as the settings say.
fn export_by(
    store: &StoreSink,
    handles: &[SnapshotHandle],
    settings: impl FnOnce(Export<'_>) -> Export<'_>,
) -> Result<Vec<u8>> {
    let env = SimEnv::new(3);
    let mut bytes = Vec::new();
    let export = Export::new(Arc::new(env.clone()), WORK, store).job("job", b"offset 17");
    let done = settings(export).write(handles, &mut bytes);
    assert!(env.list_all_files().is_empty(), "files are left over");
    let report = done?;
    assert_eq!(report.bytes, bytes.len() as u64);
    Ok(bytes)
}

fn export(store: &StoreSink, handles: &[SnapshotHandle]) -> Vec<u8> {
    // The order of the handles means nothing.
    let mut shuffled = handles.to_vec();
    shuffled.reverse();
    export_by(store, &shuffled, |export| export.compression(Compression::None)).unwrap()
}

/// Imports a savepoint, as the settings say.
fn import_by(
    store: &Memory,
    bytes: &[u8],
    settings: impl FnOnce(Import<'_>) -> Import<'_>,
) -> Result<Imported> {
    let import = Import::new(Arc::new(store.env.clone()), WORK, &store.sink, SnapshotId(1));
    let done = settings(import).read(bytes);
    assert!(store.env.list_all_files().is_empty(), "files are left over");
    done
}

fn import(store: &Memory, bytes: &[u8], shards: u32) -> Imported {
    import_by(store, bytes, |import| import.shards(shards)).unwrap()
}

/// The handles of all operators.
fn handles_of(imported: &Imported) -> Vec<SnapshotHandle> {
    imported.operators.iter().flat_map(|operator| operator.handles.clone()).collect()
}
