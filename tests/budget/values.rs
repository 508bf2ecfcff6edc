//! Single values under a budget that is a tenth of the state.

use std::collections::BTreeMap;

use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::{KeyRef, KeyedStore, SnapshotHandle};

use crate::job::{BUDGET_BYTES, Job};

const KEYS: u64 = 20_000;
const STEPS: u64 = 60_000;

type Model = BTreeMap<u64, Vec<u8>>;

fn value(rng: &mut SimRng, step: u64) -> Vec<u8> {
    let len = if rng.one_in(50) { 3_000 } else { [8, 60, 100, 100, 200][rng.below(5) as usize] };
    step.to_le_bytes().into_iter().cycle().take(len).collect()
}

/// A batch of keys, some of them twice, some of which are often asked for.
fn some_keys(rng: &mut SimRng) -> Vec<[u8; 8]> {
    let len = 1 + rng.below(300);
    let mut key = |_| if rng.one_in(3) { rng.below(KEYS / 50) } else { rng.below(KEYS) };
    (0..len).map(|at| key(at).to_le_bytes()).collect()
}

#[test]
fn state_ten_times_the_budget_is_what_ordered_maps_say() {
    for seed in 0..4 {
        let env = SimEnv::new(seed);
        let mut rng = SimRng::new(seed);
        let mut job = Job::open(&env, None);
        let mut model = Model::new();
        let mut completed: Option<(SnapshotHandle, Model)> = None;
        let mut snapshots = 0;
        for step in 0..STEPS {
            let key = if rng.one_in(3) { rng.below(KEYS / 50) } else { rng.below(KEYS) };
            let bytes = key.to_le_bytes();
            // Batches are long, and so must be few.
            match if rng.one_in(100) { 10 + rng.below(2) } else { rng.below(10) } {
                10 => {
                    let keys = some_keys(&mut rng);
                    let mut found = vec![None; keys.len()];
                    job.shard
                        .get_batch(job.state, &keys, |at, value| {
                            found[at] = value.map(<[u8]>::to_vec);
                        })
                        .unwrap();
                    for (key, found) in keys.iter().zip(found) {
                        let key = u64::from_le_bytes(*key);
                        assert_eq!(found.as_ref(), model.get(&key), "seed {seed}, step {step}");
                    }
                }
                11 => {
                    let keys = some_keys(&mut rng);
                    let new = value(&mut rng, step);
                    job.shard
                        .update_batch(job.state, &keys, |at, entry| {
                            let key = u64::from_le_bytes(keys[at]);
                            assert_eq!(entry.get(), model.get(&key).map(Vec::as_slice));
                            if at % 3 == 0 {
                                entry.set(&new);
                                model.insert(key, new.clone());
                            }
                        })
                        .unwrap();
                }
                0..=3 => {
                    let value = value(&mut rng, step);
                    job.put(key, &value).unwrap();
                    model.insert(key, value);
                }
                4 if rng.one_in(3) => {
                    job.shard.delete(job.state, KeyRef::new(&bytes)).unwrap();
                    model.remove(&key);
                }
                5..=6 => {
                    let expected = model.get(&key).cloned();
                    let mut found = None;
                    job.shard
                        .update(job.state, KeyRef::new(&bytes), &mut |entry| {
                            found = entry.get().map(<[u8]>::to_vec);
                            if let Some(bytes) = entry.bytes_mut() {
                                bytes[0] ^= 1;
                            }
                        })
                        .unwrap();
                    assert_eq!(found, expected, "seed {seed}, step {step}, key {key}");
                    if let Some(value) = model.get_mut(&key) {
                        value[0] ^= 1;
                    }
                }
                _ => {
                    let expected = model.get(&key).cloned();
                    assert_eq!(
                        job.get(key).unwrap(),
                        expected,
                        "seed {seed}, step {step}, key {key}"
                    );
                }
            }
            if step % (STEPS / 6) == STEPS / 6 - 1 {
                snapshots += 1;
                let handle = job.snapshot(snapshots).unwrap();
                completed = Some((handle, model.clone()));
            }
            if step == STEPS / 12 * 7 {
                // The job fails, and goes on from its last checkpoint.
                let (handle, image) = completed.clone().unwrap();
                drop(job);
                job = Job::open(&env, Some(handle));
                model = image;
            }
        }
        let (used, allowed) = job.resident();
        assert!(used <= allowed, "{used} of {allowed} bytes");
        let stats = job.shard.stats();
        assert!(stats.evicted_records > 1_000 && stats.early_writes > 0, "{stats:?}");
        for key in 0..KEYS {
            assert_eq!(job.get(key).unwrap(), model.get(&key).cloned(), "seed {seed}, key {key}");
        }
    }
}

/// Records of more than 512 KiB have a chunk of memory each, which is unmapped when they
/// go: whoever looked where one was would not come back.
#[test]
fn a_batch_of_reads_looks_again_when_it_has_pushed_out_what_it_is_to_read() {
    let env = SimEnv::new(1);
    let mut job = Job::with_budget(&env, None, 16 * BUDGET_BYTES);
    let value = |key: u64| vec![key as u8; 600 << 10];
    for key in 0..8 {
        job.put(key, &value(key)).unwrap();
    }
    job.snapshot(1).unwrap();
    let mut rng = SimRng::new(1);
    for _ in 0..20 {
        let keys: Vec<_> = (0..12).map(|_| rng.below(8).to_le_bytes()).collect();
        job.shard
            .get_batch(job.state, &keys, |at, found| {
                assert_eq!(found, Some(&value(u64::from_le_bytes(keys[at]))[..]));
            })
            .unwrap();
    }
    assert!(job.shard.stats().evicted_records > 20);
}
