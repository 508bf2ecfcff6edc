//! Jobs that begin with the state of another one, when the store fails in between; what
//! comes from elsewhere; and who answers what is asked for.

use std::sync::Arc;

use alluvium::coordinator::{RestoreFrom, ask};
use alluvium::format::Action;
use alluvium::object::{MemoryStore, ObjectStore};
use alluvium::savepoint::export_native;
use alluvium::{ErrorKind, SnapshotId};

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

/// Whoever takes over has read the entry that makes the fork. Its writer is told that it is
/// too late, and must not think that nothing came of it.
#[test]
fn a_fork_that_another_coordinator_goes_on_from_keeps_what_it_needs_in_the_other_job() {
    let (env, store) = world();
    let mut source = Job::open(&env, &store, "source", by_hand());
    source.start(None, 2);
    source.checkpoint();
    let value = source.value();

    let mut fork = Job::open(&env, &store, "fork", by_hand());
    let next = (env.clone(), Arc::clone(&store));
    let (took_over, takes_over) = std::sync::mpsc::channel();
    store.when_created("jobs/fork/journal/", move || {
        took_over.send(Job::open(&next.0, &next.1, "fork", by_hand())).unwrap();
    });
    let error = fork.coordinator.fork("source", &RestoreFrom::Latest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    let next = takes_over.recv().unwrap();
    assert!(next.coordinator.view().entry().resume.is_some(), "it goes on from the fork");

    for _ in 0..5 {
        source.write();
        source.merge();
        source.checkpoint();
        source.collect();
    }
    next.assert_restores(&RestoreFrom::Latest, &value);
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

/// The coordinator has swept before, so that it does not find by looking what it left.
#[test]
fn forks_that_failed_leave_nothing_that_the_same_coordinator_does_not_remove() {
    let ways: [(&str, Goes, &str); 3] = [
        ("jobs/fork/checkpoints/", Goes::Unheard, "jobs/fork/checkpoints/"),
        ("jobs/fork/journal/", Goes::Fails, "nothing"),
        ("nothing", Goes::Well, "manifests/"),
    ];
    for (created, goes, unreadable) in ways {
        let (env, store) = world();
        let mut source = Job::open(&env, &store, "source", by_hand());
        source.start(None, 2);
        source.checkpoint();
        let mut fork = Job::open(&env, &store, "fork", by_hand());
        fork.collect();

        store.watch(move |what, name| match (what, name.starts_with(created)) {
            ("create", true) => goes,
            _ => Goes::Well,
        });
        *store.unreadable.lock() = Some(unreadable.into());
        let error = fork.coordinator.fork("source", &RestoreFrom::Latest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(fork.files().len(), 1, "{:?}: its metadata, after {error}", fork.files());
        store.watch(|_, _| Goes::Well);
        *store.unreadable.lock() = None;
        fork.collect();
        assert_eq!(fork.files(), [""; 0], "after {error}");

        // Nor does what failed keep the files of the other job for ever.
        let checkpoint = fork.coordinator.fork("source", &RestoreFrom::Latest).unwrap();
        fork.start(Some(&checkpoint), 2);
        fork.coordinator.release_base();
        for _ in 0..3 {
            fork.write();
            fork.merge();
            fork.checkpoint();
            fork.collect();
        }
        assert_eq!(store.names("jobs/source/pins/"), [""; 0], "after {error}");
    }
}

/// Numbers of checkpoints, and so the names of manifests, are the same in all jobs.
#[test]
fn savepoints_of_two_jobs_come_into_one_in_the_same_life_of_its_coordinator() {
    let (env, store) = world();
    let mut target = Job::open(&env, &store, "target", by_hand());
    let mut values = Vec::new();
    for name in ["one", "other"] {
        let mut source = Job::open(&env, &store, name, by_hand());
        source.start(None, 2);
        let id = source.savepoint("out");
        assert_eq!(id, SnapshotId(1));
        values.push(source.value());
        let view = source.coordinator.view();
        let from = RestoreFrom::Savepoint("out".to_owned());
        let checkpoint = view.read(&view.find(&from).unwrap().unwrap()).unwrap();
        let folder: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Arc::new(env.clone())));
        let exported = export_native(&checkpoint, &*view.source(), folder, &mut |_| true).unwrap();
        target.coordinator.import(&exported, name, &mut |_| true).unwrap();
        // The same one again is another savepoint, with files of its own.
        let again = format!("{name}-again");
        target.coordinator.import(&exported, &again, &mut |_| true).unwrap();
        target.coordinator.dispose(&again).unwrap();
    }
    target.start(None, 2);
    target.checkpoint();
    target.checkpoint();
    target.collect();
    for (name, value) in ["one", "other"].into_iter().zip(values) {
        target.assert_restores(&RestoreFrom::Savepoint(name.to_owned()), &value);
    }
}

/// It would have been told by its first entry; but to say that nothing is to be done it
/// writes none.
#[test]
fn a_coordinator_that_was_replaced_does_not_say_that_what_it_never_saw_is_gone() {
    let mut settings = by_hand();
    settings.requests_interval_ms = Some(1);
    let mut old = Job::new(settings.clone());
    let mut new = old.next_life(settings);
    new.savepoint("kept");
    let view = new.coordinator.view();
    let action = Action::Dispose("kept".to_owned());
    let store: Arc<dyn ObjectStore> = Arc::clone(&old.store) as _;
    let asked = ask(store, &old.env, &view, "somebody", action).unwrap();
    old.env.advance_ms(1);
    let error = old.coordinator.poll().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(asked.answer().unwrap().is_none());
    new.coordinator.poll().unwrap();
    let answer = asked.answer().unwrap().unwrap();
    assert_eq!(answer.refused, None);
    assert!(new.coordinator.view().entry().savepoint("kept").is_none());
}

/// The fork in the middle names files of the first job. When it needs none of them any more,
/// the last one may.
#[test]
fn a_fork_of_a_fork_keeps_what_the_first_job_has() {
    let (env, store) = world();
    let mut first = Job::open(&env, &store, "first", by_hand());
    first.start(None, 2);
    first.checkpoint();
    let value = first.value();
    let mut jobs = vec![first];
    for (name, of) in [("middle", "first"), ("last", "middle")] {
        let mut fork = Job::open(&env, &store, name, by_hand());
        let checkpoint = fork.coordinator.fork(of, &RestoreFrom::Latest).unwrap();
        fork.start(Some(&checkpoint), 2);
        jobs.push(fork);
    }
    // The last one has manifests of its own soon, and goes on reading the first one's tables.
    for _ in 0..3 {
        let last = jobs.last_mut().unwrap();
        last.coordinator.release_base();
        let id = last.coordinator.trigger().unwrap();
        let acks = last.acks(id);
        last.acknowledge(acks);
        let events = last.events();
        last.notify(&events);
        last.collect();
        for job in &mut jobs[..2] {
            job.coordinator.release_base();
            job.write();
            job.merge();
            job.checkpoint();
            job.collect();
        }
    }
    let last = jobs.last().unwrap();
    last.assert_restores(&RestoreFrom::Latest, &value);
}

/// Found by seeds 17096 and 17244: the reply to a create is lost, and between two looks at
/// the object whoever took over removes it with all of its folder. To say that the folder is
/// another savepoint's would have the caller give up; what became of the job is the reason.
#[test]
fn an_import_that_is_swept_away_under_its_writer_is_not_another_savepoint() {
    let (env, store) = world();
    let mut source = Job::open(&env, &store, "source", by_hand());
    source.start(None, 2);
    source.write();
    source.checkpoint();
    let view = source.coordinator.view();
    let reference = view.find(&RestoreFrom::Latest).unwrap().unwrap();
    let outside: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Arc::new(env.clone())));
    let checkpoint = view.read(&reference).unwrap();
    let exported = export_native(&checkpoint, &*view.source(), outside, &mut |_| true).unwrap();

    for part in ["tables/", "manifests/"] {
        let mut target = Job::open(&env, &store, "target", by_hand());
        let folder = format!("jobs/target/epochs/{:010}/imports/", target.coordinator.epoch());
        let of_import = move |name: &str| name.starts_with(&folder) && name.contains(part);
        let seen = format!("jobs/target/epochs/{:010}/imports/", target.coordinator.epoch());
        let (next, swept) = ((env.clone(), Arc::clone(&store)), seen.clone());
        store.watch(move |what, name| match (what, of_import(name)) {
            ("create", true) => Goes::Unheard,
            _ => Goes::Well,
        });
        store.when_seen(&seen, move || {
            let mut next = Job::open(&next.0, &next.1, "target", by_hand());
            next.coordinator.sweep().unwrap();
            while !next.coordinator.collect(usize::MAX).unwrap().is_done {}
            assert!(next.store.names(&swept).is_empty(), "it was swept");
        });
        let error = target.coordinator.import(&exported, "late", &mut |_| true).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Closed), "{error}");
        let error = target.coordinator.import(&exported, "late", &mut |_| true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        store.watch(|_, _| Goes::Well);
    }
}
