//! Operator states: what could go wrong is that an element is lost or doubled
//! when a job is restored on another number of subtasks, that a snapshot sees
//! what came after its barrier, or that a state is read as something that it is
//! not. A model in plain vectors and maps stands beside each test, and divides
//! elements by dealing them out, not by the engine's formula.

#![allow(unreachable_pub, reason = "the modules of a test program")]

#[path = "../common/mod.rs"]
mod common;
mod crash;
mod lives;
mod migration;
mod redistribution;
mod refusals;
mod snapshots;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use alluvium::env::SimEnv;
use alluvium::{
    Backend, BackendBuilder, Error, ErrorKind, OperatorStateId, OperatorStateMode,
    OperatorStateSpec, OperatorStore, Result, Shard, SnapshotHandle, SnapshotId,
};

use common::{Keyspace, OPERATOR, range_of};

const MAX: u32 = 128;

type Elements = Vec<Vec<u8>>;
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn machine() -> SimEnv {
    SimEnv::new(41)
}

fn backend_on(env: &SimEnv) -> BackendBuilder {
    common::backend_on(env, &Keyspace::new(MAX, ["s"]))
}

/// Subtask `index` of `parallelism`, told so.
fn open_one(
    backend: &Backend,
    index: u32,
    parallelism: u32,
    handles: &[SnapshotHandle],
) -> Result<Shard> {
    let max = backend.max_parallelism().get();
    backend
        .shard(OPERATOR, range_of(index, parallelism, max))
        .subtask(index, parallelism)
        .restore(handles.iter().cloned())
        .open()
}

fn open(backend: &Backend, parallelism: u32, handles: &[SnapshotHandle]) -> Vec<Shard> {
    (0..parallelism).map(|index| open_one(backend, index, parallelism, handles).unwrap()).collect()
}

fn snapshot(shard: &mut Shard, id: u64) -> SnapshotHandle {
    shard.snapshot(SnapshotId(id), b"").unwrap().wait().unwrap().handle
}

fn snapshots(shards: &mut [Shard], id: u64) -> Vec<SnapshotHandle> {
    shards.iter_mut().map(|shard| snapshot(shard, id)).collect()
}

/// Spreads handles as a runtime does that keeps them in no order.
fn shuffled(handles: &[SnapshotHandle]) -> Vec<SnapshotHandle> {
    let (even, odd): (Vec<_>, Vec<_>) = handles.iter().enumerate().partition(|(at, _)| at % 2 == 0);
    odd.into_iter().rev().chain(even).map(|(_, handle)| handle.clone()).collect()
}

fn list(shard: &mut Shard, name: &str) -> OperatorStateId {
    shard.open_operator_state(OperatorStateSpec::list(name)).unwrap()
}

fn union(shard: &mut Shard, name: &str) -> OperatorStateId {
    shard.open_operator_state(OperatorStateSpec::union_list(name)).unwrap()
}

fn broadcast(shard: &mut Shard, name: &str) -> OperatorStateId {
    shard.open_operator_state(OperatorStateSpec::broadcast(name)).unwrap()
}

fn add(shard: &mut Shard, state: OperatorStateId, element: impl AsRef<[u8]>) {
    shard.operator_list_add(state, &[element.as_ref()]).unwrap();
}

fn read(shard: &Shard, state: OperatorStateId) -> Elements {
    let mut elements = Elements::new();
    let visit = &mut |element: &[u8]| {
        elements.push(element.to_vec());
        ControlFlow::Continue(())
    };
    shard.operator_list_read(state, visit).unwrap();
    assert_eq!(shard.operator_state_len(state).unwrap(), elements.len() as u64);
    elements
}

fn entries(shard: &Shard, state: OperatorStateId) -> Entries {
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    shard.broadcast_scan(state, Bound::Unbounded, visit).unwrap();
    assert!(found.is_sorted(), "in the order of the keys");
    assert_eq!(shard.operator_state_len(state).unwrap(), found.len() as u64);
    found.into_iter().collect()
}

/// `all` dealt out like cards: how many each of so many gets, and then which.
fn dealt<T: Clone>(all: &[T], to: usize) -> Vec<Vec<T>> {
    let mut counts = vec![0; to];
    (0..all.len()).for_each(|card| counts[card % to] += 1);
    let mut cards = all.iter();
    counts.into_iter().map(|count| cards.by_ref().take(count).cloned().collect()).collect()
}

/// Checks the kind of an error, and that it says certain things.
fn assert_says(error: &Error, kind: ErrorKind, facts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for fact in facts {
        assert!(text.contains(fact), "{text:?} does not say {fact:?}");
    }
}
