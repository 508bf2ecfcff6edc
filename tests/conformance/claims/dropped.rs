//! Listing states, and dropping them.

use alluvium::codec::CodecId;
use alluvium::{KeyRef, StateInfo, StateSpec};

use crate::harness::{Job, assert_invalid, claims};

claims! {
    states_are_listed_by_name_with_what_they_are
    a_dropped_state_is_gone_with_all_that_it_held
    dropping_what_is_not_there_changes_nothing
    the_number_of_a_dropped_state_is_good_for_nothing
    a_state_of_the_same_name_begins_empty
    a_dropped_state_may_come_back_as_another_kind
    states_that_come_and_go_leave_nothing_behind
}

const KINDS: [fn(&str) -> StateSpec; 5] = [
    StateSpec::value,
    StateSpec::list,
    StateSpec::map,
    StateSpec::reducing,
    StateSpec::aggregating,
];

/// Puts something of its own under a key of a state of any kind.
fn fill(job: &mut Job, spec: &StateSpec, key: &[u8], what: &[u8]) {
    let at = KeyRef::new(key);
    job.on(spec, at, |store, state| match spec.kind() {
        alluvium::StateKind::List => store.list_append(state, at, &[what]),
        alluvium::StateKind::Map => store.map_put(state, at, what, what),
        _ => store.put(state, at, what),
    });
}

/// All that a state of any kind holds for a key.
fn held(job: &mut Job, spec: &StateSpec, key: &[u8]) -> Vec<Vec<u8>> {
    let at = KeyRef::new(key);
    match spec.kind() {
        alluvium::StateKind::List => job.list(spec, at),
        alluvium::StateKind::Map => {
            job.entries(spec, at).into_iter().map(|entry| entry.0).collect()
        }
        _ => job.get(spec, at).into_iter().collect(),
    }
}

/// Drops a state on all shards; says on how many there was one.
fn drop_everywhere(job: &mut Job, name: &str) -> u32 {
    (0..job.shards()).map(|shard| u32::from(job.store(shard).drop_state(name).unwrap())).sum()
}

fn names(infos: &[StateInfo]) -> Vec<&str> {
    infos.iter().map(|info| &*info.meta.name).collect()
}

fn states_are_listed_by_name_with_what_they_are(job: &mut Job) {
    assert_eq!(job.store(0).states(), []);
    let specs = [
        StateSpec::map("m").entry_codec(CodecId::new("u64", 1)),
        StateSpec::value("b").key_codec(CodecId::new("u64", 1)),
        StateSpec::list("l").value_codec(CodecId::new("u64", 1)),
        StateSpec::value("a").namespace_codec(CodecId::new("u64", 1)),
    ];
    for shard in 0..job.shards() {
        for spec in &specs {
            job.store(shard).register(spec.clone()).unwrap();
        }
    }
    let listed = job.store(0).states();
    assert!(listed.iter().all(|info| info.is_registered));
    job.pause();
    for shard in 0..job.shards() {
        let listed = job.store(shard).states();
        assert_eq!(names(&listed), ["a", "b", "l", "m"]);
        for (info, spec) in listed.iter().zip([3, 1, 2, 0].map(|at| &specs[at])) {
            assert_eq!(info.meta, spec.meta());
        }
        job.store(shard).register(specs[2].clone()).unwrap();
        let info = job.store(shard).states().swap_remove(2);
        assert!(info.is_registered && info.meta.name == "l");
    }
}

fn a_dropped_state_is_gone_with_all_that_it_held(job: &mut Job) {
    for (number, kind) in KINDS.iter().enumerate() {
        for key in 0..20_u8 {
            fill(job, &kind(&number.to_string()), &[key], b"old");
        }
    }
    job.pause();
    assert_eq!(drop_everywhere(job, "1"), job.shards());
    assert_eq!(drop_everywhere(job, "2"), job.shards());
    assert_eq!(drop_everywhere(job, "4"), job.shards());
    for _ in 0..3 {
        for shard in 0..job.shards() {
            assert_eq!(names(&job.store(shard).states()), ["0", "3"]);
        }
        for key in 0..20_u8 {
            assert_eq!(held(job, &KINDS[0]("0"), &[key]), [b"old"]);
        }
        job.pause();
    }
}

fn dropping_what_is_not_there_changes_nothing(job: &mut Job) {
    let spec = StateSpec::value("a");
    fill(job, &spec, b"k", b"v");
    for _ in 0..2 {
        for name in ["", "aa", "A", "b"] {
            assert_eq!(drop_everywhere(job, name), 0);
        }
        assert_eq!(held(job, &spec, b"k"), [b"v"]);
        job.pause();
    }
    assert!(drop_everywhere(job, "a") > 0);
    assert_eq!(drop_everywhere(job, "a"), 0, "it is dropped already");
}

fn the_number_of_a_dropped_state_is_good_for_nothing(job: &mut Job) {
    for (number, kind) in KINDS.iter().enumerate() {
        let name = number.to_string();
        fill(job, &kind(&name), b"k", b"old");
        job.pause();
        let key = KeyRef::new(b"k");
        let owner = job.shard_of(key);
        let old = job.store(owner).register(kind(&name)).unwrap();
        assert!(drop_everywhere(job, &name) > 0);
        let store = job.store(owner);
        for again in [false, true] {
            if again {
                let new = store.register(StateSpec::value(&name)).unwrap();
                assert_ne!(new, old);
                store.put(new, key, b"new").unwrap();
            }
            let text = assert_invalid(store.get(old, key).map(drop));
            assert!(text.contains("dropped"), "{text}");
            assert_invalid(store.put(old, key, b"v"));
            assert_invalid(store.delete(old, key));
            assert_invalid(store.update(old, key, &mut |_| panic!("it was dropped")));
            assert_invalid(store.get_many(old, &[key], &mut |_, _| panic!("it was dropped")));
            assert_invalid(store.update_many(old, &[key], &mut |_, _| panic!("it was dropped")));
            assert_invalid(store.list_append(old, key, &[b"v"]));
            assert_invalid(store.list_read(old, key, &mut |_| panic!("it was dropped")));
            assert_invalid(store.list_replace(old, key, &[b"v"]));
            assert_invalid(store.map_get(old, key, b"e").map(drop));
            assert_invalid(store.map_put(old, key, b"e", b"v"));
            assert_invalid(store.map_remove(old, key, b"e"));
            let from = std::ops::Bound::Unbounded;
            assert_invalid(store.map_scan(old, key, from, &mut |_, _| panic!("it was dropped")));
            assert_invalid(store.map_is_empty(old, key));
            assert_invalid(store.clear(old, key));
            assert_invalid(store.visit_keys(old, None, &mut |_, _, _| panic!("it was dropped")));
        }
        assert_eq!(job.get(&StateSpec::value(&name), key).as_deref(), Some(&b"new"[..]));
    }
}

fn a_state_of_the_same_name_begins_empty(job: &mut Job) {
    for (number, kind) in KINDS.iter().enumerate() {
        let spec = kind(&number.to_string());
        for key in 0..20_u8 {
            fill(job, &spec, &[key], b"old");
        }
        job.pause();
        for key in 10..15_u8 {
            fill(job, &spec, &[key], b"newer");
        }
        drop_everywhere(job, spec.name());
        for key in 5..12_u8 {
            assert_eq!(held(job, &spec, &[key]), [] as [&[u8]; 0]);
            fill(job, &spec, &[key], b"new");
        }
        for _ in 0..3 {
            for key in 0..20_u8 {
                let expected: &[&[u8]] = if (5..12).contains(&key) { &[b"new"] } else { &[] };
                assert_eq!(held(job, &spec, &[key]), expected, "key {key} of {spec:?}");
            }
            assert_eq!(job.keys(&spec, None).len(), 7);
            job.pause();
        }
    }
}

fn a_dropped_state_may_come_back_as_another_kind(job: &mut Job) {
    for from in KINDS {
        for to in KINDS {
            let (old, new) = (from("s"), to("s").key_codec(CodecId::new("other", 1)));
            for key in 0..8_u8 {
                fill(job, &old, &[key], b"old");
            }
            job.pause();
            drop_everywhere(job, "s");
            fill(job, &new, &[3], b"new");
            for _ in 0..2 {
                for key in 0..8_u8 {
                    let expected: &[&[u8]] = if key == 3 { &[b"new"] } else { &[] };
                    assert_eq!(held(job, &new, &[key]), expected, "{old:?} as {new:?}");
                }
                job.pause();
            }
            drop_everywhere(job, "s");
        }
    }
}

fn states_that_come_and_go_leave_nothing_behind(job: &mut Job) {
    let kept = StateSpec::value("kept");
    fill(job, &kept, b"k", b"v");
    for shard in 0..job.shards() {
        job.store(shard).register(kept.clone()).unwrap();
    }
    for round in 0..12_u8 {
        let spec = KINDS[usize::from(round) % 5]("comes and goes");
        for key in 0..6 {
            assert_eq!(held(job, &spec, &[key]), [] as [&[u8]; 0], "round {round}");
        }
        for key in 0..6 {
            if (round + key) % 3 > 0 {
                fill(job, &spec, &[key], &[round]);
            }
        }
        if round % 4 > 0 {
            job.pause();
        }
        for key in 0..6 {
            let expected: &[&[u8]] = if (round + key) % 3 > 0 { &[&[round]] } else { &[] };
            assert_eq!(held(job, &spec, &[key]), expected, "round {round}");
        }
        assert!(drop_everywhere(job, spec.name()) > 0);
    }
    job.pause();
    assert_eq!(held(job, &kept, b"k"), [b"v"]);
    for shard in 0..job.shards() {
        assert_eq!(names(&job.store(shard).states()), ["kept"]);
    }
}
