//! Snapshots and restores of values.

use std::collections::BTreeMap;

use alluvium::{KeyRef, StateSpec};

use super::noise;
use crate::harness::{Job, claims};

claims! {
    a_snapshot_holds_what_was_there_and_nothing_later
    a_job_of_nothing_is_restored_as_nothing
    a_state_that_nobody_asks_for_outlives_restores
    a_job_goes_through_any_number_of_shards
    random_changes_of_values_are_what_they_were_after_any_life
}

fn spec() -> StateSpec {
    StateSpec::value("values")
}

fn a_snapshot_holds_what_was_there_and_nothing_later(job: &mut Job) {
    let keys: Vec<[u8; 2]> = (0_u16..300).map(u16::to_be_bytes).collect();
    let mut snapshots = Vec::new();
    for round in 0_u8..4 {
        for (at, key) in keys.iter().enumerate() {
            match (at + usize::from(round)) % 4 {
                0 => job.delete(&spec(), KeyRef::new(key)),
                1 => job.put(&spec(), KeyRef::new(key), &[round; 3]),
                2 => job.put(&spec(), KeyRef::new(key), &noise(1, at)),
                _ => {}
            }
        }
        let all: Vec<_> = keys.iter().map(|key| job.get(&spec(), KeyRef::new(key))).collect();
        snapshots.push((job.snapshot(), all));
    }
    for shards in [1, 3] {
        for (snapshot, expected) in snapshots.iter().rev() {
            job.restore(*snapshot, shards);
            for (key, expected) in keys.iter().zip(expected) {
                assert_eq!(&job.get(&spec(), KeyRef::new(key)), expected, "{snapshot}, {key:?}");
            }
        }
    }
}

fn a_job_of_nothing_is_restored_as_nothing(job: &mut Job) {
    job.pause();
    assert_eq!(job.get(&spec(), KeyRef::new(b"k")), None);
    job.pause();
    assert_eq!(job.get(&spec(), KeyRef::new(b"k")), None);
}

fn a_state_that_nobody_asks_for_outlives_restores(job: &mut Job) {
    let (kept, used) = (StateSpec::value("kept"), StateSpec::value("used"));
    job.put(&kept, KeyRef::new(b"k"), b"v");
    for round in 0_u8..3 {
        job.pause();
        job.put(&used, KeyRef::new(b"k"), &[round]);
    }
    job.pause();
    assert_eq!(job.get(&kept, KeyRef::new(b"k")).as_deref(), Some(&b"v"[..]));
}

fn a_job_goes_through_any_number_of_shards(job: &mut Job) {
    let keys: Vec<[u8; 2]> = (0_u16..500).map(u16::to_be_bytes).collect();
    for (round, shards) in [1, 4, 2, 16, 3, 1].into_iter().enumerate() {
        for (at, key) in keys.iter().enumerate() {
            if at % (round + 2) == 0 {
                job.put(&spec(), KeyRef::new(key), &[round as u8]);
            }
        }
        let expected: Vec<_> = keys.iter().map(|key| job.get(&spec(), KeyRef::new(key))).collect();
        let snapshot = job.snapshot();
        job.restore(snapshot, shards);
        for (key, expected) in keys.iter().zip(expected) {
            assert_eq!(job.get(&spec(), KeyRef::new(key)), expected, "on {shards} shards");
        }
    }
}

fn random_changes_of_values_are_what_they_were_after_any_life(job: &mut Job) {
    for seed in 0..4 {
        let spec = StateSpec::value(&format!("values {seed}"));
        let mut expected = BTreeMap::<(u8, u8), Vec<u8>>::new();
        let dice = noise(seed + 1000, 4 * 600);
        for (round, roll) in dice.chunks_exact(4).enumerate() {
            let place = (roll[0] % 40, roll[1] % 4);
            let (name, namespace) = ([place.0], [place.1]);
            let key = KeyRef::new(&name).namespace(&namespace[..usize::from(place.1).min(1)]);
            let value = noise(round as u64, usize::from(roll[3]));
            match roll[2] % 8 {
                0 | 1 => {
                    job.delete(&spec, key);
                    expected.remove(&place);
                }
                2..=4 => {
                    job.put(&spec, key, &value);
                    expected.insert(place, value);
                }
                5 => {
                    let before = expected.insert(place, value.clone());
                    job.on(&spec, key, |store, state| {
                        store.update(state, key, &mut |slot| {
                            assert_eq!(slot.get(), before.as_deref(), "seed {seed}, round {round}");
                            slot.set(&value);
                        })
                    });
                }
                _ => assert_eq!(
                    job.get(&spec, key).as_ref(),
                    expected.get(&place),
                    "seed {seed}, round {round}"
                ),
            }
            if round % 100 == 99 {
                job.pause();
            }
        }
        for name in 0..40 {
            for namespace in 0..4_u8 {
                let bytes = [namespace];
                let name_bytes = [name];
                let key =
                    KeyRef::new(&name_bytes).namespace(&bytes[..usize::from(namespace).min(1)]);
                let found = job.get(&spec, key);
                assert_eq!(found.as_ref(), expected.get(&(name, namespace)), "seed {seed}");
            }
        }
    }
}
