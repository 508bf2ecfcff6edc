//! The claims, by subject. Each is a function of a job; where it calls
//! [`pause`](crate::harness::Job::pause), snapshots and restores may happen.

pub(crate) mod dropped;
pub(crate) mod everything;
pub(crate) mod keys;
pub(crate) mod kinds;
pub(crate) mod lists;
pub(crate) mod lives;
pub(crate) mod maps;
pub(crate) mod rekeyed;
pub(crate) mod states;
pub(crate) mod values;

use alluvium::KeyRef;

use crate::harness::Job;

/// Keys of two different shards of the job, which must have two.
fn keys_of_two_shards(job: &Job) -> (Vec<u8>, Vec<u8>) {
    assert!(job.shards() >= 2, "the claim needs two shards");
    let key_of = |shard| {
        (0_u32..)
            .map(|number| number.to_be_bytes().to_vec())
            .find(|key| job.shard_of(KeyRef::new(key)) == shard)
            .expect("every shard has keys")
    };
    (key_of(0), key_of(1))
}

/// Bytes that look like nothing in particular.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
