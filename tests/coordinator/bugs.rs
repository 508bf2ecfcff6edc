//! Bugs that the coordinators of other engines have had, each as a test. The numbers
//! are those of the project's catalogue, as in `tests/regressions`.
//!
//! Not here: 21 (uploads that are resumed: a store takes an object whole), 34 (numbers
//! of materialisations: there is no changelog beside the tables).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alluvium::coordinator::{Acknowledged, ClaimMode, Event, JobView, Participant, RestoreFrom};
use alluvium::object::{ObjectName, ObjectStore};
use alluvium::{ErrorKind, KeyGroup, KeyGroupRange, MaxParallelism, SnapshotId};

use crate::by_hand::{Goes, Job, by_hand, world};

/// FLINK-26985: a job deletes files of the one that it began from.
#[test]
fn bug_01_files_of_another_job_and_of_an_unclaimed_savepoint_stay() {
    let (env, store) = world();
    let mut source = Job::open(&env, &store, "source", by_hand());
    source.start(None, 2);
    source.savepoint("before");
    let value = source.value();
    let view = JobView::open(store.clone(), "source").unwrap().unwrap();
    let before = RestoreFrom::Savepoint("before".into());
    let checkpoint = view.read(&view.find(&before).unwrap().unwrap()).unwrap();

    let mut job = Job::open(&env, &store, "job", by_hand());
    job.start(Some(&checkpoint), 3);
    // The first one names its files and is given up; after that they are merged.
    job.write();
    let id = job.coordinator.trigger().unwrap();
    let acks = job.acks(id);
    job.acknowledge(acks[1..].to_vec());
    job.coordinator.abort(id, "by hand");
    assert_eq!(job.coordinator.acknowledge(acks[0].clone()).unwrap(), Acknowledged::Late);
    for _ in 0..10 {
        job.merge();
        job.checkpoint();
        job.collect();
    }
    source.assert_restores(&before, &value);

    // The same within one job: who does not claim a savepoint leaves it alone.
    let mut job = Job::open(&env, &store, "source", by_hand());
    job.restore(&before, ClaimMode::NoClaim, 2);
    job.coordinator.release_base();
    for _ in 0..10 {
        job.merge();
        job.checkpoint();
        job.collect();
    }
    job.assert_restores(&before, &value);
}

/// FLINK-24611, FLINK-25395: an aborted checkpoint's files are deleted, which the next
/// one uses.
#[test]
fn bug_02_files_of_an_aborted_checkpoint_stay_for_the_next_one() {
    for acknowledged in 0..=4 {
        let mut job = Job::new(by_hand());
        job.checkpoint();
        job.write();
        let one = job.coordinator.trigger().unwrap();
        let acks = job.acks(one);
        job.acknowledge(acks[..acknowledged.min(3)].to_vec());
        job.write();
        let two = job.coordinator.trigger().unwrap();
        job.coordinator.abort(one, "by hand");
        job.collect();
        // The second relies on what the first has stored.
        let seconds = job.acks(two);
        job.collect();
        job.acknowledge(acks[acknowledged.min(3)..].to_vec());
        job.collect();
        job.acknowledge(seconds);
        job.collect();
        assert!(job.events().contains(&Event::Completed(two)));
        let value = job.value();
        job.assert_restores(&RestoreFrom::Latest, &value);
    }
}

/// FLINK-29913, FLINK-6533: checkpoints under way at the same time share files, and one
/// of them takes the files of the other along.
#[test]
fn bug_03_acknowledgements_may_come_in_any_order() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let mut job = Job::new(by_hand());
        job.checkpoint();
        let mut begun = Vec::new();
        for _ in 0..3 {
            job.write();
            let id = job.coordinator.trigger().unwrap();
            let acks = job.acks(id);
            begun.push((acks, job.value()));
            job.merge();
        }
        for at in order {
            let (acks, value) = begun[at].clone();
            let is_newest =
                order[..=order.iter().position(|n| *n == at).unwrap()].iter().all(|n| *n <= at);
            job.acknowledge(acks);
            job.collect();
            if is_newest {
                job.notify(&[]);
                let view = job.coordinator.view();
                let last = view.entry().resume.clone().unwrap();
                view.files(&last).unwrap();
                assert_eq!(last.id.0, 2 + at as u64, "order {order:?}");
            }
            drop(value);
        }
        let value = begun[2].1.clone();
        job.assert_restores(&RestoreFrom::Latest, &value);
    }
}

/// An acknowledgement of a savepoint on its way, while a later checkpoint is completed
/// and what it does not need goes.
#[test]
fn bug_03_a_slow_savepoint_keeps_what_it_may_name() {
    let mut job = Job::new(by_hand());
    job.checkpoint();
    job.write();
    let slow = job.coordinator.savepoint("slow").unwrap();
    let acks = job.acks(slow);
    let value = job.value();
    job.merge();
    job.checkpoint();
    job.collect();
    job.merge();
    job.checkpoint();
    job.collect();
    job.acknowledge(acks);
    let name = "slow".to_owned();
    assert!(job.events().contains(&Event::SavepointCompleted { id: slow, name }));
    job.collect();
    job.assert_restores(&RestoreFrom::Savepoint("slow".into()), &value);
}

/// FLINK-7268: a coordinator that was replaced goes on deleting, and meets the files of
/// the one that replaced it.
#[test]
fn bug_04_who_was_replaced_deletes_nothing_that_counts() {
    let mut old = Job::new(by_hand());
    old.checkpoint();
    old.write();
    let given_up = old.coordinator.trigger().unwrap();
    let acks = old.acks(given_up);
    old.acknowledge(acks[..2].to_vec());
    old.coordinator.abort(given_up, "by hand");
    old.merge();
    old.checkpoint();
    // It knows what to delete, and sleeps. The next one takes over.
    let mut new = old.next_life(by_hand());
    new.checkpoint();
    let value = new.value();
    while old.coordinator.collect(1).is_ok_and(|collected| !collected.is_done) {}
    new.collect();
    new.assert_restores(&RestoreFrom::Latest, &value);
}

/// FLINK-21351: a savepoint takes the place of the checkpoint that increments build on.
#[test]
fn bug_05_a_savepoint_takes_no_checkpoints_place() {
    let mut job = Job::new(by_hand());
    job.checkpoint();
    job.savepoint("between");
    job.collect();
    job.checkpoint();
    let value = job.value();
    job.coordinator.dispose("between").unwrap();
    job.collect();
    job.assert_restores(&RestoreFrom::Latest, &value);
}

/// FLINK-22494, FLINK-24543: the reply to a commit is lost, and what was committed is
/// cleaned up.
#[test]
fn bug_06_whatever_reply_is_lost_the_checkpoint_is_whole() {
    for lost in 0..40 {
        let mut job = Job::new(by_hand());
        job.checkpoint();
        job.write();
        let id = job.coordinator.trigger().unwrap();
        let acks = job.acks(id);
        let value = job.value();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        // The reply to one call, and then the store is away for some.
        job.store.watch(move |_, _| match counted.fetch_add(1, Ordering::Relaxed) {
            n if n == lost => Goes::Unheard,
            n if (lost + 1..lost + 4).contains(&n) => Goes::Fails,
            _ => Goes::Well,
        });
        job.acknowledge(acks);
        job.coordinator.abort(id, "too late for that, if it may be complete");
        for _ in 0..6 {
            let _ = job.coordinator.collect(2);
            job.coordinator.poll().unwrap();
        }
        let events = job.events();
        let completed = events.contains(&Event::Completed(id));
        let aborted = events.iter().any(|event| matches!(event, Event::Aborted { .. }));
        assert!(completed != aborted, "lost reply {lost}: {events:?}");
        let called = calls.load(Ordering::Relaxed);
        job.store.watch(|_, _| Goes::Well);
        if completed {
            job.assert_restores(&RestoreFrom::Latest, &value);
        }
        if called < lost {
            return;
        }
    }
    panic!("some call comes after all others");
}

/// FLINK-30461, FLINK-28984: what a cancelled upload has stored stays for ever.
#[test]
fn bug_07_what_unfinished_checkpoints_stored_goes() {
    for stored in 0..12 {
        let mut job = Job::new(by_hand());
        job.checkpoint();
        job.write();
        let id = job.coordinator.trigger().unwrap();
        let mut left = stored;
        job.store.watch(move |what, name| {
            if what == "create" && name.contains("/epochs/") {
                if left == 0 {
                    return Goes::Fails;
                }
                left -= 1;
            }
            Goes::Well
        });
        let epoch = job.coordinator.epoch();
        for shard in &mut job.shards {
            shard.freeze(id, epoch, false).unwrap();
            let _ = shard.work().unwrap().1;
        }
        job.store.watch(|_, _| Goes::Well);
        job.coordinator.abort(id, "an upload was cancelled");
        job.merge();
        job.coordinator.sweep().unwrap();
        job.checkpoint();
        job.collect();
        assert_eq!(job.files(), job.needed(), "{stored} objects were stored");

        // And if the job is cancelled instead, nothing waits for the next one.
        job.write();
        let id = job.coordinator.trigger().unwrap();
        job.acks(id);
        let Job { env, store, coordinator, .. } = job;
        coordinator.cancel().unwrap();
        let next = Job::open(&env, &store, "job", by_hand());
        assert_eq!(next.files(), next.needed());
    }
}

/// FLINK-35803, FLINK-35379, FLINK-38347: counts of users drift when notices are lost,
/// repeated or come in another order.
#[test]
fn bug_08_repeated_and_late_acknowledgements_count_once() {
    let mut job = Job::new(by_hand());
    let mut all = Vec::new();
    for round in 0..6 {
        job.write();
        let id = job.coordinator.trigger().unwrap();
        let acks = job.acks(id);
        all.extend(acks.clone());
        let given_up = round % 3 == 1;
        if given_up {
            job.acknowledge(acks[..1].to_vec());
            job.coordinator.abort(id, "by hand");
        }
        for ack in acks.iter().rev().chain(&acks).chain(&all) {
            let said = job.coordinator.acknowledge(ack.clone()).unwrap();
            assert!(!given_up || said == Acknowledged::Late);
        }
        if round % 2 == 0 {
            job.merge();
        }
        job.collect();
    }
    job.merge();
    job.checkpoint();
    job.acknowledge(all);
    job.collect();
    assert_eq!(job.files(), job.needed());
    let value = job.value();
    job.assert_restores(&RestoreFrom::Latest, &value);
}

/// SlateDB #604, #1044: what a reader reads is deleted.
#[test]
fn bug_09_what_is_pinned_stays_between_any_two_steps() {
    let mut job = Job::new(by_hand());
    job.checkpoint();
    let view = JobView::open(job.store.clone(), "job").unwrap().unwrap();
    let read = view.entry().resume.clone().unwrap();
    let pin = view.pin(&job.env, &read, "a reader").unwrap();
    for _ in 0..3 {
        job.merge();
        job.checkpoint();
        while !job.coordinator.collect(1).unwrap().is_done {
            view.files(&read).unwrap();
        }
        view.files(&read).unwrap();
    }
    assert_eq!(job.coordinator.collect(1).unwrap().pinned, 1);
    // The next life keeps it, too.
    let mut next = job.next_life(by_hand());
    next.collect();
    view.files(&read).unwrap();
    pin.release().unwrap();
    next.coordinator.release_base();
    next.merge();
    next.checkpoint();
    next.checkpoint();
    next.collect();
    assert_eq!(next.files(), next.needed());
    // Too late for another.
    let late = view.pin(&job.env, &read, "a reader").unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Invalid);
}

/// SlateDB #1622, #1682: the object that fences goes, and the create of who was fenced
/// succeeds.
#[test]
fn bug_10_an_entry_written_into_a_gap_does_not_count() {
    for entries in [1, 5, 40] {
        let mut old = Job::new(by_hand());
        old.checkpoint();
        old.write();
        let id = old.coordinator.trigger().unwrap();
        let acks = old.acks(id);
        let mut new = old.next_life(by_hand());
        let value = new.value();
        for n in 0..entries {
            // Entries go when there are more than sixteen.
            new.savepoint(&format!("s{n}"));
            new.coordinator.dispose(&format!("s{n}")).unwrap();
        }
        let mut said = Ok(Acknowledged::Counted);
        for ack in acks {
            said = old.coordinator.acknowledge(ack);
        }
        assert_eq!(said.unwrap_err().kind(), ErrorKind::Closed);
        assert!(!old.events().contains(&Event::Completed(id)));
        drop(value);
        let last = new.coordinator.view().entry().resume.clone().unwrap();
        assert_eq!(last.id, SnapshotId(1));
        new.coordinator.poll().unwrap();
    }
}

/// FLINK-39964: the files of a claimed savepoint are looked for in another place.
#[test]
fn bug_13_a_claimed_savepoint_is_found_by_what_builds_on_it() {
    let mut job = Job::new(by_hand());
    job.savepoint("claimed");
    let mut next = Job::open(&job.env, &job.store, "job", by_hand());
    next.restore(&RestoreFrom::Savepoint("claimed".into()), ClaimMode::Claim, 3);
    assert!(next.coordinator.view().entry().savepoint("claimed").is_none());
    next.checkpoint();
    let value = next.value();
    next.collect();
    let mut third = next.next_life(by_hand());
    assert_eq!(third.value(), value);
    third.coordinator.release_base();
    third.merge();
    third.checkpoint();
    third.checkpoint();
    third.collect();
    assert_eq!(third.files(), third.needed(), "it was claimed, and is not needed any more");
}

/// redb #1290: a crash while recovering from a crash.
#[test]
fn bug_19_a_crash_at_any_call_of_a_take_over_loses_nothing() {
    for first in 0..60 {
        let mut job = Job::new(by_hand());
        job.checkpoint();
        job.merge();
        job.checkpoint();
        let value = job.value();
        job.write();
        let id = job.coordinator.trigger().unwrap();
        job.acks(id);
        // Two that take over die after so many calls, with or without the last one.
        for deaths in [first, first / 2] {
            let mut left: u32 = deaths;
            job.store.watch(move |_, _| {
                left = left.saturating_sub(1);
                match left {
                    1 if deaths % 2 == 0 => Goes::Unheard,
                    0 | 1 => Goes::Fails,
                    _ => Goes::Well,
                }
            });
            if let Ok(mut dying) = Job::coordinator(&job.env, &job.store, "job", by_hand())
                && dying.restore(&RestoreFrom::Latest, ClaimMode::NoClaim).is_ok()
            {
                let _ = dying.collect(usize::MAX);
            }
        }
        job.store.watch(|_, _| Goes::Well);
        let mut next = job.next_life(by_hand());
        assert_eq!(next.value(), value);
        next.collect();
        assert_eq!(next.files(), next.needed());
    }
}

/// FLINK-5940, FLINK-22502: a latest checkpoint that cannot be read is passed over.
#[test]
fn bug_20_a_checkpoint_that_cannot_be_read_is_an_error_and_not_passed_over() {
    let mut settings = by_hand();
    settings.retained = 2;
    let mut job = Job::new(settings.clone());
    let older = job.checkpoint();
    let value = job.value();
    job.checkpoint();
    let view = job.coordinator.view();
    let last = view.entry().resume.clone().unwrap();
    let name = ObjectName::new(&last.location).unwrap();
    job.store.inner.remove(&name).unwrap();
    let mut next = Job::open(&job.env, &job.store, "job", settings);
    let error = next.coordinator.restore(&RestoreFrom::Latest, ClaimMode::NoClaim).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(next.coordinator.deletes_nothing().is_some());
    // The older one is the caller's choice.
    next.restore(&RestoreFrom::Checkpoint(older), ClaimMode::NoClaim, 2);
    assert_eq!(next.value(), value);

    // A journal whose last entry is damaged is no journal without it.
    let last = job.store.names("jobs/job/journal/").pop().unwrap();
    let last = ObjectName::new(last).unwrap();
    job.store.inner.remove(&last).unwrap();
    job.store.inner.create(&last, b"not an entry").unwrap();
    let error = Job::coordinator(&job.env, &job.store, "job", by_hand()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// FLINK-40113: another number of key groups is mapped onto the old one in silence.
#[test]
fn bug_25_shards_of_another_number_of_key_groups_are_refused() {
    let mut job = Job::new(by_hand());
    job.checkpoint();
    let mut next = Job::open(&job.env, &job.store, "job", by_hand());
    let checkpoint = next.coordinator.restore(&RestoreFrom::Latest, ClaimMode::NoClaim);
    let handles = checkpoint.unwrap().unwrap().handles("alpha");
    // Shards of eight key groups, where there were four.
    let eight = MaxParallelism::new(8).unwrap();
    let participants = Participant::of_operator("alpha", eight, 2).unwrap();
    next.coordinator.start(participants).unwrap();
    let id = next.coordinator.trigger().unwrap();
    let mut ack = job.shards[0].last_ack().unwrap();
    ack.epoch = next.coordinator.epoch();
    let mut manifest = next.coordinator.view().manifest(&handles[0]).unwrap();
    manifest.snapshot = id;
    let bytes = manifest.encode().unwrap();
    ack.part.handle = alluvium::SnapshotHandle::new(&manifest, &bytes, "", "m").unwrap();
    assert_eq!(next.coordinator.acknowledge(ack).unwrap_err().kind(), ErrorKind::Invalid);

    let range = |first, last| KeyGroupRange::new(KeyGroup(first), KeyGroup(last)).unwrap();
    let participant =
        |groups, max_parallelism| Participant { operator: "alpha".into(), groups, max_parallelism };
    let four = MaxParallelism::new(4).unwrap();
    for wrong in [
        vec![participant(range(0, 1), four), participant(range(2, 7), eight)],
        vec![participant(range(0, 2), four)],
        vec![participant(range(1, 3), four)],
        vec![participant(range(0, 1), four), participant(range(1, 3), four)],
        vec![],
    ] {
        let mut other = Job::open(&job.env, &job.store, "other", by_hand());
        let error = other.coordinator.start(wrong.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{wrong:?}");
    }
}
