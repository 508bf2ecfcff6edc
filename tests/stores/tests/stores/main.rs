//! Object stores in a cloud: what every store owes, and what is their own.
//!
//! What could break: a reply that is lost and taken for a failure, or a refusal that is taken
//! for "it exists"; parts that are put together wrongly, or stay behind; bytes of
//! another object; a checkpoint that names what is not there.
//!
//! The command line tool is run on a bucket here as well (`tool`).

#[path = "../../../object_claims/mod.rs"]
mod claims;

#[path = "../../../cli/job.rs"]
#[allow(dead_code, clippy::disallowed_methods, reason = "it is the other tests' as well")]
mod job;

mod faults;
mod hanging;
mod jobs;
mod owed;
mod parts;
mod reading;
mod services;
mod tool;

use std::sync::Arc;

use alluvium::base::checksum;
use alluvium::env::{Env, RealEnv};
use alluvium::object::{MIN_PART_BYTES, ObjectStore, RemoteOptions};

fn env() -> Arc<dyn Env> {
    Arc::new(RealEnv::with_pread())
}

/// Parts as small as may be.
fn small_parts(options: RemoteOptions) -> RemoteOptions {
    options.part_bytes(MIN_PART_BYTES).parallel_parts(2)
}

/// Bytes that no two parts have alike.
fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(n + 8);
    while bytes.len() < n {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    bytes.truncate(n);
    bytes
}

/// Reads an object whole, as the engine does.
fn read(store: &dyn ObjectStore, name: &str) -> alluvium::Result<Vec<u8>> {
    let object = store.open(&claims::name(name))?;
    let mut bytes = vec![0; object.len() as usize];
    let half = bytes.len() / 2;
    let (first, second) = bytes.split_at_mut(half);
    let failed = |e| alluvium::base::Error::io("read", e);
    object.read_at(half as u64, second).map_err(failed)?;
    object.read_at(0, first).map_err(failed)?;
    Ok(bytes)
}

fn assert_same(found: &[u8], expected: &[u8], context: &str) {
    let hashes = (checksum::of_contents(found), checksum::of_contents(expected));
    assert_eq!((found.len(), hashes.0), (expected.len(), hashes.1), "{context}");
}
