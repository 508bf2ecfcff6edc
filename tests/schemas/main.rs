//! Schemas are stored with state and compared before anything is touched; what
//! older versions wrote is read through any number of steps; keys change only
//! when asked for.

#![allow(unreachable_pub, reason = "the modules of a test program")]

mod collections;
#[path = "../common/mod.rs"]
mod common;
mod lives;
mod refusals;
mod rekey;
mod rekey_kinds;

use std::collections::BTreeMap;
use std::path::PathBuf;

use alluvium::codec::{Codec, Primitive};
use alluvium::env::SimEnv;
use alluvium::{
    Backend, BackendBuilder, Error, ErrorKind, Result, Shard, SnapshotHandle, SnapshotId,
    ValueState,
};

use common::{OPERATOR, range_of};

const MAX: u32 = 128;

/// A state whose keys are `u64` and whose values are written by `C`.
type State<V, C> = ValueState<u64, V, (), Primitive<u64>, C, Primitive<()>>;

fn backend_on(env: &SimEnv) -> BackendBuilder {
    common::backend_on(env, &common::Keyspace::new(MAX, ["s"]))
}

fn register<V: 'static, C: Codec<V>>(
    shard: &mut Shard,
    name: &str,
    codec: C,
) -> Result<State<V, C>> {
    State::with_codecs(shard, name, Primitive::default(), Primitive::default(), codec)
}

fn open(backend: &Backend, shards: u32, handles: &[SnapshotHandle]) -> Vec<Shard> {
    (0..shards)
        .map(|index| {
            let shard = backend.shard(OPERATOR, range_of(index, shards, MAX));
            shard.restore(handles.iter().cloned()).open().expect("a shard opens")
        })
        .collect()
}

fn open_one(backend: &Backend, handles: &[SnapshotHandle]) -> Shard {
    open(backend, 1, handles).pop().expect("there is one")
}

fn snapshot(shard: &mut Shard, id: u64) -> SnapshotHandle {
    let ticket = shard.snapshot(SnapshotId(id), b"").expect("a snapshot begins");
    ticket.wait().expect("a snapshot completes").handle
}

fn owns(shard: &Shard, key: u64) -> bool {
    let group = common::group_of(&key.to_be_bytes(), MAX);
    shard.groups().contains(alluvium::KeyGroup(group))
}

fn settle(backend: &Backend) {
    while backend.run_background() {}
}

/// Brings the registered states into memory, if that is possible.
fn warm_up(backend: &Backend, shard: &mut Shard) -> bool {
    let mut idle = 0;
    while idle < 3 {
        if shard.warm_up(100).expect("there is memory") {
            return true;
        }
        idle = if backend.run_background() { 0 } else { idle + 1 };
    }
    false
}

fn files_of(env: &SimEnv) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = env.list_all_files();
    paths.into_iter().map(|path| (path.clone(), env.file_bytes(&path).unwrap())).collect()
}

fn assert_says(error: &Error, kind: ErrorKind, facts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for fact in facts {
        assert!(text.contains(fact), "{fact:?} is missing in: {text}");
    }
}
