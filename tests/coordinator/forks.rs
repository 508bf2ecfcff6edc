//! Jobs that begin with the state of another one, when the store fails in between.

use alluvium::ErrorKind;
use alluvium::coordinator::RestoreFrom;

use crate::by_hand::{Goes, Job, by_hand, world};

/// The journal entry that makes the fork may be there, and nobody can tell: then the files
/// that it names must stay.
#[test]
fn a_fork_that_is_in_doubt_keeps_what_it_needs_in_the_other_job() {
    let (env, store) = world();
    let mut source = Job::open(&env, &store, "source", by_hand());
    source.start(None, 2);
    source.write();
    source.checkpoint();
    let value = source.value();

    let mut fork = Job::open(&env, &store, "fork", by_hand());
    store.watch(|what, name| match (what, name.starts_with("jobs/fork/journal/")) {
        ("create", true) => Goes::Unheard,
        _ => Goes::Well,
    });
    *store.unreadable.lock() = Some("jobs/fork/journal/".into());
    let error = fork.coordinator.fork("source", &RestoreFrom::Latest).unwrap_err();
    assert!(error.may_have_happened(), "{error}");
    drop(fork);
    *store.unreadable.lock() = None;
    store.watch(|_, _| Goes::Well);

    for _ in 0..5 {
        source.write();
        source.merge();
        source.checkpoint();
        source.collect();
    }
    let fork = Job::open(&env, &store, "fork", by_hand());
    fork.assert_restores(&RestoreFrom::Latest, &value);
}

#[test]
fn a_fork_that_failed_leaves_no_pin() {
    let (env, store) = world();
    let mut source = Job::open(&env, &store, "source", by_hand());
    source.start(None, 2);
    source.checkpoint();
    let mut fork = Job::open(&env, &store, "fork", by_hand());
    store.watch(|what, name| match (what, name.starts_with("jobs/fork/journal/")) {
        ("create", true) => Goes::Fails,
        _ => Goes::Well,
    });
    let error = fork.coordinator.fork("source", &RestoreFrom::Latest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.may_have_happened(), "{error}");
    assert!(store.names("jobs/source/pins/").is_empty());
    // It may be tried again.
    store.watch(|_, _| Goes::Well);
    fork.coordinator.fork("source", &RestoreFrom::Latest).unwrap();
    assert_eq!(store.names("jobs/source/pins/").len(), 1);
}
