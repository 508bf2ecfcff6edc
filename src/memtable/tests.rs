//! The memtable beside a model: every extracted run and every lookup must say
//! what plain maps say.

#![allow(clippy::disallowed_methods, reason = "one test extracts on a thread of its own")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::extract::{Frozen, Run};
use super::hasher::IndexHasher;
use super::{Below, Compaction, Lookup, Memtable, Probe};
use crate::base::hash::{group_of_hash, hash_key};
use crate::base::{Epoch, KeyGroup, MaxParallelism};
use crate::env::budget::{MIN_BUDGET_BYTES, MemoryBudget};
use crate::env::pages::{MIN_CHUNK_BYTES, PagePool};

type Key = (Vec<u8>, Vec<u8>);
type Model = BTreeMap<Key, Vec<u8>>;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

const SEED: u64 = 7;

fn probe(key: &Key) -> Probe<'_> {
    let group = group_of_hash(hash_key(&key.0), MaxParallelism::DEFAULT);
    in_group(group, &key.0, &key.1)
}

fn in_group<'a>(group: KeyGroup, key: &'a [u8], namespace: &'a [u8]) -> Probe<'a> {
    Probe { hash: IndexHasher::new(SEED).hash(key, namespace), group, key, namespace }
}

fn memtable() -> Memtable {
    Memtable::new(Arc::new(PagePool::new(0)), Below::Nothing, SEED)
}

/// A memtable with the chunks of the smallest budget: 16 KiB each.
fn memtable_of_small_chunks() -> Memtable {
    let pool = PagePool::within(&MemoryBudget::new(MIN_BUDGET_BYTES), 0);
    Memtable::new(Arc::new(pool), Below::Nothing, SEED)
}

/// What a run says, applied to a model.
fn apply(run: &Run, model: &mut Model) {
    for record in run.records() {
        let key = (record.key.to_vec(), record.namespace.to_vec());
        match record.value {
            Some(value) => drop(model.insert(key, value.to_vec())),
            None => drop(model.remove(&key)),
        }
    }
}

fn live(memtable: &Memtable) -> Model {
    let mut all = Model::new();
    let _ = memtable.visit(|record| {
        let key = (record.key.to_vec(), record.namespace.to_vec());
        assert!(all.insert(key, record.value.expect("live").to_vec()).is_none());
        std::ops::ControlFlow::Continue(())
    });
    all
}

fn random_key(rng: &mut Rng, keys: u64) -> Key {
    let number = rng.below(keys);
    let key = match number % 5 {
        0 => number.to_le_bytes()[..(number % 4) as usize].to_vec(),
        1 => number.to_be_bytes().to_vec(),
        2 => format!("user:{number:08}").into_bytes(),
        3 => vec![number as u8; (number % 300) as usize],
        _ => (number as u16).to_be_bytes().to_vec(),
    };
    let namespace = match number % 7 {
        0 => b"w".to_vec(),
        1 => number.to_le_bytes().to_vec(),
        _ => Vec::new(),
    };
    (key, namespace)
}

fn random_value(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(20) {
        0 => 0,
        1 => 200 + rng.below(5_000),
        2 if rng.below(50) == 0 => 600_000 + rng.below(10_000),
        3..=5 => rng.below(200),
        _ => 8,
    };
    let fill = rng.next() as u8;
    vec![fill; len as usize]
}

/// One random life: operations, freezes, and extractions some time after the
/// freeze. Every run, applied to the image before it, must give the image at
/// its freeze. In half of them chunks are small, and emptied now and then.
fn random_life(seed: u64) {
    let mut rng = Rng(seed);
    let keys = 1 + rng.below(2_000);
    let steps = 200 + rng.below(3_000);
    let compacts = rng.below(2) == 0;
    let mut memtable = if compacts { memtable_of_small_chunks() } else { memtable() };
    let mut model = Model::new();
    let mut durable = Model::new();
    let mut in_flight = VecDeque::<(Frozen, Model)>::new();
    for _ in 0..steps {
        let key = random_key(&mut rng, keys);
        if compacts && rng.below(4) == 0 {
            // Nothing is moved while anything frozen was not extracted.
            while rng.below(20) > 0
                && let Some((frozen, image)) = in_flight.pop_front()
            {
                apply(&frozen.extract(), &mut durable);
                assert_eq!(durable, image, "the delta differs from the image at the freeze");
            }
            memtable.compact(rng.below(200) as usize);
        }
        match rng.below(100) {
            0..=39 => {
                let value = random_value(&mut rng);
                memtable.put(&probe(&key), &value).expect("there is memory");
                model.insert(key, value);
            }
            40..=54 => {
                let had = memtable.delete(&probe(&key)).expect("there is memory");
                assert_eq!(had, model.remove(&key).is_some());
            }
            55..=79 => {
                let grown = random_value(&mut rng);
                let probed = key.clone();
                let mut entry = memtable.entry(probe(&probed));
                assert_eq!(entry.get(), model.get(&key).map(Vec::as_slice));
                match rng.below(5) {
                    0 => {
                        entry.set(&grown);
                        model.insert(key.clone(), grown);
                    }
                    1 => {
                        entry.delete();
                        entry.set(&grown);
                        model.insert(key.clone(), grown);
                    }
                    2 => {
                        entry.set(&grown);
                        entry.delete();
                        assert_eq!(entry.get(), None);
                        model.remove(&key);
                    }
                    _ => match (entry.bytes_mut(), model.get_mut(&key)) {
                        (None, None) => {}
                        (Some(bytes), Some(expected)) => {
                            for byte in bytes.iter_mut().chain(expected.iter_mut()) {
                                *byte = byte.wrapping_add(1);
                            }
                            assert_eq!(bytes, &expected[..]);
                        }
                        other => panic!("presence differs: {other:?}"),
                    },
                }
                entry.finish().expect("there is memory");
            }
            80..=94 => match (memtable.get(&probe(&key)), model.get(&key)) {
                (Lookup::Value(found), Some(expected)) => assert_eq!(found, &expected[..]),
                (Lookup::Absent | Lookup::Deleted, None) => {}
                other => panic!("lookup differs: {other:?}"),
            },
            95..=97 => {
                in_flight.push_back((memtable.freeze().expect("epochs left"), model.clone()));
            }
            _ => {
                if let Some((frozen, image)) = in_flight.pop_front() {
                    let run = frozen.extract();
                    apply(&run, &mut durable);
                    assert_eq!(durable, image, "the delta differs from the image at the freeze");
                }
                memtable.chores();
            }
        }
    }
    for (frozen, image) in in_flight {
        apply(&frozen.extract(), &mut durable);
        assert_eq!(durable, image);
    }
    assert_eq!(live(&memtable), model);
}

#[test]
fn every_delta_equals_the_model_at_its_freeze() {
    let seeds = std::env::var("ALLUVIUM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| random_life(seed));
        assert!(outcome.is_ok(), "seed {seed} failed; run random_life({seed})");
    }
}

fn numbered(number: u64) -> Key {
    (number.to_be_bytes().to_vec(), Vec::new())
}

#[test]
fn a_delta_holds_exactly_the_records_changed_since_the_last_freeze() {
    let mut memtable = memtable();
    for number in 0..10_000 {
        memtable.put(&probe(&numbered(number)), b"12345678").unwrap();
    }
    assert_eq!(memtable.freeze().unwrap().extract().len(), 10_000);
    for number in (0..10_000).step_by(100) {
        memtable.entry(probe(&numbered(number))).bytes_mut().unwrap()[0] = b'x';
        memtable.entry(probe(&numbered(number))).bytes_mut().unwrap()[1] = b'y';
    }
    assert_eq!(memtable.freeze().unwrap().extract().len(), 100);
    assert_eq!(memtable.freeze().unwrap().extract().len(), 0);
}

/// Records that went left holes in all chunks alike.
#[test]
fn what_is_left_of_a_state_is_moved_together_and_its_other_chunks_go_back() {
    let mut memtable = memtable_of_small_chunks();
    for number in 0..10_000 {
        memtable.put(&probe(&numbered(number)), &[1; 100]).unwrap();
    }
    let full = memtable.stats();
    drop(memtable.freeze().unwrap().extract());
    let mut rng = Rng(3);
    for number in 0..10_000 {
        if rng.below(10) > 0 {
            memtable.forget(&probe(&numbered(number)));
        }
    }
    let gappy = memtable.stats();
    assert_eq!(gappy.arena_mapped_bytes, full.arena_mapped_bytes);
    assert!(gappy.arena_free_bytes > full.arena_used_bytes / 10 * 8, "{gappy:?}");
    let all = live(&memtable);
    while memtable.compact(10) {}
    let compact = memtable.stats();
    assert_eq!(compact.arena_used_bytes, gappy.arena_used_bytes);
    let most = compact.arena_used_bytes + 3 * MIN_CHUNK_BYTES as u64;
    assert!(compact.arena_mapped_bytes <= most, "{compact:?}");
    assert_eq!(live(&memtable), all);
    for key in all.keys() {
        memtable.forget(&probe(key));
    }
    assert!(memtable.compact(1));
    assert_eq!(memtable.compaction(), Compaction::Useless);
    let empty = memtable.stats();
    assert_eq!((empty.arena_mapped_bytes, empty.index_bytes / 1024), (0, 0), "{empty:?}");
    memtable.put(&probe(&numbered(1)), b"again").unwrap();
    assert_eq!(live(&memtable).len(), 1);
}

/// Its extractor would still have what was moved, and chunks that nobody else has.
#[test]
fn nothing_is_moved_until_what_is_frozen_was_extracted() {
    let mut memtable = memtable_of_small_chunks();
    for number in 0..2_000 {
        memtable.put(&probe(&numbered(number)), &[2; 100]).unwrap();
    }
    for number in (0..2_000).filter(|number| number % 8 > 0) {
        memtable.delete(&probe(&numbered(number))).unwrap();
    }
    let full = memtable.stats();
    assert_eq!(memtable.compaction(), Compaction::Possible);
    assert!(memtable.compact(10), "a chunk is half empty");
    let frozen = memtable.freeze().unwrap();
    let all = live(&memtable);
    assert_eq!(memtable.compaction(), Compaction::Later);
    assert!(!memtable.compact(10));
    for number in (0..2_000).step_by(16) {
        memtable.entry(probe(&numbered(number))).bytes_mut().unwrap()[0] = 3;
    }
    let mut delta = Model::new();
    apply(&frozen.extract(), &mut delta);
    assert_eq!(delta, all);
    for number in (0..2_000).step_by(8) {
        memtable.entry(probe(&numbered(number))).bytes_mut().unwrap()[1] = 4;
    }
    let changed = live(&memtable);
    while memtable.compact(10) {}
    assert!(memtable.stats().arena_mapped_bytes < full.arena_mapped_bytes / 4);
    assert_eq!(live(&memtable), changed);
    apply(&memtable.freeze().unwrap().extract(), &mut delta);
    assert_eq!(delta, changed, "what changed and was moved is in the delta");
}

#[test]
fn state_created_and_cleared_between_two_freezes_leaves_no_trace() {
    let mut memtable = memtable();
    memtable.put(&probe(&numbered(0)), b"stays").unwrap();
    let before = memtable.stats();
    for round in 0..50 {
        for number in 1..1_000 {
            memtable.put(&probe(&numbered(number)), &vec![7; 8 + round]).unwrap();
        }
        for number in 1..1_000 {
            assert!(memtable.delete(&probe(&numbered(number))).unwrap());
        }
    }
    let after = memtable.stats();
    assert_eq!((after.records, after.dirty_records), (before.records, before.dirty_records));
    assert_eq!(after.arena_used_bytes, before.arena_used_bytes);
    assert_eq!(memtable.freeze().unwrap().extract().len(), 1);
}

#[test]
fn tombstones_are_dropped_after_extraction_and_their_memory_is_reused() {
    let mut memtable = memtable();
    for number in 0..5_000 {
        memtable.put(&probe(&numbered(number)), &[1; 100]).unwrap();
    }
    let full = memtable.stats();
    drop(memtable.freeze().unwrap().extract());
    for number in 0..5_000 {
        assert!(memtable.delete(&probe(&numbered(number))).unwrap());
    }
    let run = memtable.freeze().unwrap().extract();
    assert_eq!(run.records().filter(|record| record.value.is_none()).count(), 5_000);
    while memtable.chores() {}
    assert_eq!(memtable.stats().records, 0);
    assert_eq!(memtable.stats().arena_used_bytes, 0);
    for number in 5_000..10_000 {
        memtable.put(&probe(&numbered(number)), &[1; 100]).unwrap();
    }
    assert_eq!(memtable.stats().arena_mapped_bytes, full.arena_mapped_bytes);
}

#[test]
fn memory_freed_by_small_records_serves_larger_ones() {
    let mut memtable = memtable();
    for round in 0..6_u32 {
        let len = 20 << round;
        let count = (8 << 20) / (len as u64 + 24);
        for number in 0..count {
            memtable.put(&probe(&numbered(number)), &vec![3; len]).unwrap();
        }
        for number in 0..count {
            memtable.delete(&probe(&numbered(number))).unwrap();
        }
    }
    let stats = memtable.stats();
    assert_eq!(stats.arena_used_bytes, 0);
    assert!(
        stats.arena_mapped_bytes <= 4 * (8 << 20),
        "8 MiB of records of changing sizes took {} MiB",
        stats.arena_mapped_bytes >> 20
    );
}

#[test]
fn values_up_to_megabytes_grow_shrink_and_give_their_memory_back() {
    let mut memtable = memtable();
    let key = numbered(1);
    let frozen = {
        memtable.put(&probe(&key), &vec![1; 3 << 20]).unwrap();
        memtable.freeze().unwrap()
    };
    memtable.put(&probe(&key), &vec![2; 5 << 20]).unwrap();
    let run = frozen.extract();
    let record = run.records().next().unwrap();
    assert_eq!(record.value, Some(&vec![1; 3 << 20][..]));
    memtable.put(&probe(&key), b"small").unwrap();
    while memtable.chores() {}
    assert_eq!(memtable.get(&probe(&key)), Lookup::Value(b"small"));
    assert!(memtable.stats().arena_mapped_bytes <= 2 << 20);
}

#[test]
fn the_writer_may_go_on_while_an_epoch_is_extracted_on_another_thread() {
    for seed in 0..20 {
        let mut rng = Rng(seed);
        let mut memtable = memtable();
        let mut model = Model::new();
        for number in 0..20_000 {
            memtable.put(&probe(&numbered(number)), &number.to_le_bytes()).unwrap();
            model.insert(numbered(number), number.to_le_bytes().to_vec());
        }
        for _ in 0..5 {
            let frozen = memtable.freeze().unwrap();
            let image = model.clone();
            let extractor = std::thread::spawn(move || frozen.extract());
            for _ in 0..20_000 {
                let key = numbered(rng.below(20_000));
                let value = rng.next().to_le_bytes();
                let mut entry = memtable.entry(probe(&key));
                entry.bytes_mut().unwrap().copy_from_slice(&value);
                entry.finish().unwrap();
                model.insert(key, value.to_vec());
            }
            for record in extractor.join().unwrap().records() {
                let key = (record.key.to_vec(), Vec::new());
                assert_eq!(record.value, image.get(&key).map(Vec::as_slice), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_run_is_sorted_by_group_then_hash() {
    let mut memtable = memtable();
    for number in 0..3_000 {
        memtable.put(&probe(&numbered(number)), b"").unwrap();
    }
    let run = memtable.freeze().unwrap().extract().sort();
    let order: Vec<(KeyGroup, u64)> =
        run.records().map(|(hash, record)| (record.group, hash)).collect();
    assert!(order.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn a_runtime_may_give_equal_keys_in_different_groups() {
    let mut memtable = memtable();
    let in_group = |group| in_group(group, b"k", b"");
    memtable.put(&in_group(KeyGroup(1)), b"one").unwrap();
    memtable.put(&in_group(KeyGroup(2)), b"two").unwrap();
    assert_eq!(memtable.get(&in_group(KeyGroup(1))), Lookup::Value(b"one"));
    assert_eq!(memtable.get(&in_group(KeyGroup(2))), Lookup::Value(b"two"));
    assert_eq!(memtable.get(&in_group(KeyGroup(3))), Lookup::Absent);
}

/// Lengths on both sides of what a small record can say, in every order: by all ways
/// of looking, in place, in a copy of what is frozen, and in what is extracted.
#[test]
fn records_are_the_same_whether_their_lengths_fit_a_small_header_or_not() {
    const KEY_BYTES: [usize; 12] = [0, 1, 5, 62, 63, 64, 65, 69, 127, 4_096 + 5, 65_535, 65_536];
    const VALUE_BYTES: [usize; 12] = [0, 1, 60, 119, 120, 121, 127, 128, 129, 136, 144, 1_000];
    let mut memtable = memtable();
    let mut model = Model::new();
    let mut all = Vec::new();
    for key_bytes in KEY_BYTES {
        for namespace_bytes in [0, 1, 8, 64] {
            all.push((vec![7; key_bytes], vec![9; namespace_bytes]));
        }
    }
    let mut frozen = std::collections::VecDeque::new();
    let mut rng = Rng(SEED);
    for round in 0..VALUE_BYTES.len() * VALUE_BYTES.len() {
        let lens = [VALUE_BYTES[round % 12], VALUE_BYTES[round / 12]];
        for key in &all {
            let value = vec![round as u8; lens[rng.below(2) as usize]];
            match rng.below(4) {
                0 => memtable.put(&probe(key), &value).unwrap(),
                1 => {
                    let hash = memtable.hash(&key.0, &key.1);
                    let mut entry = match memtable.entry_at_hand::<false>(None, &key.0, &key.1) {
                        Some(entry) => entry,
                        None => memtable.entry(Probe { hash, ..probe(key) }),
                    };
                    entry.set(&value);
                    entry.finish().unwrap();
                }
                2 => {
                    let mut entry = memtable.entry(probe(key));
                    if let Some(bytes) = entry.bytes_mut() {
                        bytes.fill(round as u8);
                        model.get_mut(key).unwrap().fill(round as u8);
                    }
                    continue;
                }
                _ => {
                    memtable.delete(&probe(key)).unwrap();
                    model.remove(key);
                    continue;
                }
            }
            model.insert(key.clone(), value);
        }
        for key in &all {
            let expected = model.get(key).map(Vec::as_slice);
            let found = match memtable.get(&probe(key)) {
                Lookup::Value(value) => Some(value),
                Lookup::Absent | Lookup::Deleted => None,
            };
            assert_eq!(found, expected);
            if let Some(hit) = memtable.value_at_hand::<false>(None, &key.0, &key.1) {
                assert_eq!(Some(memtable.value_of::<false>(hit, &key.0, &key.1)), expected);
            }
        }
        if round % 3 == 0 {
            frozen.push_back((memtable.freeze().unwrap(), model.clone()));
        }
        if round % 7 == 0
            && let Some((frozen, image)) = frozen.pop_front()
        {
            for record in frozen.extract().records() {
                let key = (record.key.to_vec(), record.namespace.to_vec());
                assert_eq!(record.value, image.get(&key).map(Vec::as_slice));
            }
        }
    }
    assert_eq!(live(&memtable), model);
}

/// What a record says of a key's length is compared in parts; what follows the key
/// in memory is no part of it.
#[test]
fn no_record_is_taken_for_one_of_a_longer_or_shorter_key() {
    let bytes = vec![7; 70_000];
    for value_bytes in [100, 5_000] {
        for key_bytes in [0, 1, 5, 63, 64, 65, 69, 4_101, 65_536] {
            let mut arena = super::arena::Arena::new(Arc::new(PagePool::new(0)));
            let stored = (bytes[..key_bytes].to_vec(), Vec::new());
            let value = Some(&bytes[..value_bytes]);
            let (_, block) = arena.create(&probe(&stored), value, 0, Epoch::FIRST, 0).unwrap();
            for wanted in [0, 1, 5, 63, 64, 65, 69, 69 + 64, 4_101, 4_101 + 1_024, 65_536] {
                let key = &bytes[..wanted];
                let group = probe(&stored).group;
                let says = [
                    arena.is(block, &in_group(group, key, b"")),
                    arena.matches(block, 0, None, key, b"").is_some(),
                    arena.matches(block, 0, Some(group), key, b"").is_some(),
                ];
                assert_eq!(says, [wanted == key_bytes; 3], "{wanted} of {key_bytes}");
            }
        }
    }
}

#[test]
fn two_records_of_sixteen_and_eight_bytes_fill_a_cache_line() {
    let mut memtable = memtable();
    for number in 0..1_000_u64 {
        let key = ([number.to_le_bytes(), [1; 8]].concat(), Vec::new());
        memtable.put(&probe(&key), &[0; 8]).unwrap();
    }
    assert_eq!(memtable.stats().arena_used_bytes, 32 * 1_000);
}

#[test]
fn keys_and_namespaces_do_not_run_into_each_other() {
    let mut memtable = memtable();
    let pairs = [("ab", ""), ("a", "b"), ("", "ab"), ("", ""), ("abc", ""), ("ab", "c")];
    for (number, (key, namespace)) in pairs.iter().enumerate() {
        let key = (key.as_bytes().to_vec(), namespace.as_bytes().to_vec());
        memtable.put(&probe(&key), &[number as u8]).unwrap();
    }
    for (number, (key, namespace)) in pairs.iter().enumerate() {
        let key = (key.as_bytes().to_vec(), namespace.as_bytes().to_vec());
        assert_eq!(memtable.get(&probe(&key)), Lookup::Value(&[number as u8]));
    }
}
