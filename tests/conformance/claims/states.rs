//! Registering states.

use alluvium::base::limits::MAX_STATE_NAME_BYTES;
use alluvium::codec::CodecId;
use alluvium::{ErrorKind, KeyRef, StateSpec};

use crate::harness::{Job, assert_invalid, claims};

claims! {
    a_state_is_found_again_under_its_number
    another_kind_is_refused
    another_codec_is_refused
    empty_and_too_long_names_are_refused
}

fn a_state_is_found_again_under_its_number(job: &mut Job) {
    let store = job.store(0);
    let first = store.register(StateSpec::value("a")).unwrap();
    let second = store.register(StateSpec::value("b")).unwrap();
    assert_ne!(first, second);
    assert_eq!(store.register(StateSpec::value("a")).unwrap(), first);
    assert_eq!(store.register(StateSpec::value("b")).unwrap(), second);
}

/// Registers a state on all shards.
fn register(job: &mut Job, spec: &StateSpec) {
    for shard in 0..job.shards() {
        job.store(shard).register(spec.clone()).unwrap();
    }
}

fn assert_refused(job: &mut Job, spec: &StateSpec) {
    for shard in 0..job.shards() {
        let error = job.store(shard).register(spec.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    }
}

fn another_kind_is_refused(job: &mut Job) {
    let kinds = [
        StateSpec::value,
        StateSpec::list,
        StateSpec::map,
        StateSpec::reducing,
        StateSpec::aggregating,
    ];
    for (number, kind) in kinds.iter().enumerate() {
        register(job, &kind(&number.to_string()));
    }
    job.pause();
    for (number, kind) in kinds.iter().enumerate() {
        for (other_number, other) in kinds.iter().enumerate() {
            let spec = other(&number.to_string());
            if number == other_number {
                assert_eq!(spec.kind(), kind("a").kind());
                register(job, &spec);
            } else {
                assert_refused(job, &spec);
            }
        }
    }
}

fn another_codec_is_refused(job: &mut Job) {
    let id = |name: &'static str, version| CodecId::new(name, version);
    let specs = |name| {
        [
            StateSpec::value(name),
            StateSpec::value(name).key_codec(id("u64", 1)),
            StateSpec::value(name).key_codec(id("u64", 2)),
            StateSpec::value(name).namespace_codec(id("u64", 1)),
            StateSpec::value(name).value_codec(id("u64", 1)),
            StateSpec::map(name),
            StateSpec::map(name).entry_codec(id("u64", 1)),
            StateSpec::map(name).value_codec(id("u64", 1)),
        ]
    };
    let names: Vec<String> = (0..8).map(|number| number.to_string()).collect();
    for (number, name) in names.iter().enumerate() {
        register(job, &specs(name)[number]);
    }
    job.pause();
    for (number, name) in names.iter().enumerate() {
        for (other_number, spec) in specs(name).iter().enumerate() {
            if number == other_number {
                register(job, spec);
            } else {
                assert_refused(job, spec);
            }
        }
    }
}

fn empty_and_too_long_names_are_refused(job: &mut Job) {
    let (longest, too_long) =
        ("x".repeat(MAX_STATE_NAME_BYTES), "x".repeat(MAX_STATE_NAME_BYTES + 1));
    assert_invalid(job.store(0).register(StateSpec::value("")));
    assert_invalid(job.store(0).register(StateSpec::value(&too_long)));
    let spec = StateSpec::value(&longest);
    job.put(&spec, KeyRef::new(b"k"), b"v");
    job.pause();
    assert_eq!(job.get(&spec, KeyRef::new(b"k")).as_deref(), Some(&b"v"[..]));
}
