//! The one hash of a key.
//!
//! A key is hashed once per access with xxh3-64. The low 32 bits choose the
//! key group, the whole value (mixed with the namespace, if there is one)
//! places the record in the memtable's index and in a table's order, and
//! feeds the filter. Key groups and index positions use different bits, so a
//! shard that owns few key groups still fills its index evenly.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::ids::{KeyGroup, MaxParallelism};

/// The hash of a key alone, without its namespace.
#[inline(always)]
pub fn hash_key(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The hash that places a (key, namespace) pair, given [`hash_key`] of the key.
///
/// Equal to `key_hash` when the namespace is empty, so a state without
/// namespaces pays for one hash only.
#[inline(always)]
pub fn with_namespace(key_hash: u64, namespace: &[u8]) -> u64 {
    if namespace.is_empty() { key_hash } else { xxh3_64_with_seed(namespace, key_hash) }
}

/// The key group of a key, given [`hash_key`] of it: its low 32 bits scaled to
/// the number of groups.
#[inline(always)]
pub fn group_of_hash(key_hash: u64, max_parallelism: MaxParallelism) -> KeyGroup {
    let low = key_hash & 0xffff_ffff;
    KeyGroup(((low * u64::from(max_parallelism.get())) >> 32) as u16)
}
