//! When checkpoints begin and end, and which stay: one claim each.

use alluvium::coordinator::{
    Acknowledged, CheckpointSettings, ClaimMode, Event, OnCancel, RestoreFrom, SavepointSchedule,
    StopMode,
};
use alluvium::format::{CheckpointKind, ShardAck};
use alluvium::object::{ObjectName, ObjectStore};
use alluvium::{Coordinator, ErrorKind, SnapshotId};

use crate::by_hand::{Goes, Job, by_hand, world};

/// The settings of a job of which `change` makes others.
fn with(change: impl FnOnce(&mut CheckpointSettings)) -> CheckpointSettings {
    let mut settings = by_hand();
    change(&mut settings);
    settings
}

/// What is begun, at which of so many polls of one millisecond each.
fn triggers(job: &mut Job, ms: u64) -> Vec<(u64, SnapshotId)> {
    let mut found = Vec::new();
    for at in 0..ms {
        job.env.advance_ms(1);
        job.coordinator.poll().unwrap();
        for event in job.events() {
            if let Event::Trigger(barrier) = event {
                found.push((at, barrier.id));
            }
        }
    }
    found
}

fn complete(job: &mut Job, id: SnapshotId) {
    let acks = job.acks(id);
    job.acknowledge(acks);
    job.coordinator.poll().unwrap();
}

#[test]
fn checkpoints_begin_one_interval_apart_and_wait_for_the_one_before() {
    let mut job = Job::new(with(|s| s.interval_ms = Some(10)));
    let first = triggers(&mut job, 30);
    assert_eq!(first.len(), 1, "only one at a time: {first:?}");
    assert_eq!(first[0].0, 9);
    complete(&mut job, first[0].1);
    let events = job.events();
    assert!(
        matches!(events[..], [Event::Completed(SnapshotId(1)), Event::Trigger(_)]),
        "{events:?}"
    );
    let none = triggers(&mut job, 30);
    assert!(none.is_empty(), "{none:?}");
}

#[test]
fn so_many_checkpoints_may_be_under_way_as_the_settings_say_and_savepoints_beside_them() {
    let mut job = Job::new(with(|s| {
        s.interval_ms = Some(10);
        s.max_concurrent = 2;
    }));
    job.coordinator.savepoint("beside").unwrap();
    assert_eq!(triggers(&mut job, 100).len(), 3);
    assert_eq!(job.coordinator.under_way().count(), 3);
}

#[test]
fn between_the_end_of_one_and_the_next_there_is_a_pause() {
    let mut job = Job::new(with(|s| {
        s.interval_ms = Some(10);
        s.min_pause_ms = 25;
    }));
    let first = triggers(&mut job, 40);
    complete(&mut job, first[0].1);
    job.events();
    let next = triggers(&mut job, 40);
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].0, 24);
}

#[test]
fn while_a_job_catches_up_another_interval_counts_or_none() {
    for (interval, expected) in [(None, 3), (Some(Some(5)), 6), (Some(None), 0)] {
        let mut job = Job::new(with(|s| {
            s.interval_ms = Some(10);
            s.catching_up_interval_ms = interval;
            s.max_concurrent = 100;
        }));
        job.coordinator.set_catching_up(true);
        let begun = triggers(&mut job, 35).len();
        assert!((expected..=expected + 1).contains(&begun), "{interval:?}: {begun}");
        job.coordinator.set_catching_up(false);
        assert!(triggers(&mut job, 35).len() >= 3);
    }
}

#[test]
fn what_takes_too_long_is_given_up_and_too_many_failures_are_told() {
    let mut job = Job::new(with(|s| {
        s.timeout_ms = 20;
        s.tolerable_failures = 1;
    }));
    for failed in 1..=3 {
        let id = job.coordinator.trigger().unwrap();
        triggers(&mut job, 0);
        job.env.advance_ms(19);
        job.coordinator.poll().unwrap();
        let early = job.events();
        assert!(!early.iter().any(|event| matches!(event, Event::Aborted { .. })), "{early:?}");
        job.env.advance_ms(2);
        job.coordinator.poll().unwrap();
        let events = job.events();
        assert!(
            matches!(&events[0], Event::Aborted { id: of, reason }
            if *of == id && reason.contains("4 shards") && reason.contains("20 ms")),
            "{events:?}"
        );
        assert_eq!(events[1..] == [Event::TooManyFailures(failed)], failed > 1, "{events:?}");
    }
    // A success counts anew; a savepoint that fails does not count.
    job.checkpoint();
    job.coordinator.savepoint("late").unwrap();
    job.env.advance_ms(30);
    job.coordinator.poll().unwrap();
    let id = job.coordinator.trigger().unwrap();
    job.coordinator.abort(id, "");
    let events = job.events();
    assert!(!events.iter().any(|event| matches!(event, Event::TooManyFailures(_))), "{events:?}");
    let outcomes = &job.coordinator.view().entry().outcomes.clone();
    assert!(outcomes.iter().all(|outcome| outcome.failure.as_deref() != Some("")));
}

#[test]
fn a_declined_checkpoint_is_given_up_at_once_with_the_shards_reason() {
    let mut job = Job::new(by_hand());
    let id = job.coordinator.trigger().unwrap();
    let shard = crate::sim::participant(&job.shards[1]);
    job.coordinator.decline(id, &shard, "its disk is full");
    let events = job.events();
    assert!(matches!(&events[1], Event::Aborted { id: of, reason }
        if *of == id && reason.contains("its disk is full") && reason.contains("alpha")));
    job.coordinator.decline(id, &shard, "again");
    assert!(job.events().is_empty(), "it is over");
    job.checkpoint();
    let view = job.coordinator.view();
    let failure = view.entry().outcomes[0].failure.clone().unwrap();
    assert!(failure.contains("its disk is full"));
}

#[test]
fn scheduled_savepoints_come_by_themselves_and_the_oldest_go() {
    let schedule = SavepointSchedule { interval_ms: 50, prefix: "auto-".into(), retained: 2 };
    let mut job = Job::new(with(|s| {
        s.interval_ms = Some(20);
        s.savepoints = Some(schedule);
        s.retained = 1;
    }));
    // One that a person made, whose name begins alike, stays.
    job.savepoint("auto-mine");
    for _ in 0..300 {
        for (_, id) in triggers(&mut job, 1) {
            job.write();
            let acks = job.acks(id);
            job.acknowledge(acks);
        }
    }
    let entry = job.coordinator.view().entry().clone();
    let names: Vec<_> = entry.savepoints.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.contains(&"auto-mine"));
    assert_eq!(entry.checkpoints.len(), 1);
    job.merge();
    job.checkpoint();
    job.collect();
    assert_eq!(job.files(), job.needed());
}

#[test]
fn a_scheduled_savepoint_whose_name_is_taken_holds_up_no_checkpoints() {
    let schedule = SavepointSchedule { interval_ms: 50, prefix: "auto-".into(), retained: 2 };
    let mut job = Job::new(with(|s| {
        s.interval_ms = Some(60);
        s.savepoints = Some(schedule);
    }));
    let next = job.coordinator.savepoint("auto-2").unwrap();
    complete(&mut job, next);
    job.events();
    let begun = triggers(&mut job, 100);
    assert_eq!(begun.first().map(|(_, id)| *id), Some(SnapshotId(2)), "{begun:?}");
}

#[test]
fn late_repeated_and_foreign_acknowledgements_are_told_apart() {
    let mut job = Job::new(by_hand());
    job.write();
    let id = job.coordinator.trigger().unwrap();
    let acks = job.acks(id);
    let mut said = |ack: ShardAck| job.coordinator.acknowledge(ack).unwrap();
    assert_eq!(said(acks[0].clone()), Acknowledged::Counted);
    assert_eq!(said(acks[0].clone()), Acknowledged::Duplicate);
    assert_eq!(said(ShardAck { epoch: 2, ..acks[1].clone() }), Acknowledged::Foreign);
    assert_eq!(said(ShardAck { epoch: 0, ..acks[1].clone() }), Acknowledged::Foreign);
    for ack in &acks[1..] {
        assert_eq!(said(ack.clone()), Acknowledged::Counted);
    }
    assert_eq!(said(acks[0].clone()), Acknowledged::Late);
    assert!(job.events().contains(&Event::Completed(id)));
}

#[test]
fn a_shard_that_has_finished_is_part_of_every_later_checkpoint() {
    let mut job = Job::new(by_hand());
    job.write();
    let id = job.coordinator.trigger().unwrap();
    let acks = job.acks(id);
    // Of a checkpoint that came to nothing: its files are needed all the same.
    job.coordinator.abort(id, "by hand");
    job.coordinator.finish(acks[0].clone()).unwrap();
    let finished = job.shards.remove(0);
    for _ in 0..3 {
        let before = job.coordinator.under_way().count();
        assert_eq!(before, 0);
        job.merge();
        job.checkpoint();
        job.collect();
    }
    job.shards.insert(0, finished);
    let value = job.value();
    job.assert_restores(&RestoreFrom::Latest, &value);

    let mut wrong = acks[1].clone();
    wrong.epoch += 1;
    assert_eq!(job.coordinator.finish(wrong).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_job_whose_shards_have_all_finished_still_takes_checkpoints() {
    let mut job = Job::new(by_hand());
    job.write();
    let id = job.coordinator.trigger().unwrap();
    let acks = job.acks(id);
    job.acknowledge(acks.clone());
    acks.into_iter().for_each(|ack| job.coordinator.finish(ack).unwrap());
    let value = job.value();
    let id = job.coordinator.trigger().unwrap();
    job.coordinator.set_runtime_data(id, b"offsets".to_vec()).unwrap();
    job.coordinator.poll().unwrap();
    assert!(job.events().contains(&Event::Completed(id)));
    job.collect();
    job.assert_restores(&RestoreFrom::Latest, &value);
}

#[test]
fn a_newer_checkpoint_ends_older_ones_and_spares_savepoints() {
    let mut job = Job::new(by_hand());
    let older = job.coordinator.trigger().unwrap();
    let savepoint = job.coordinator.savepoint("beside").unwrap();
    let newer = job.coordinator.trigger().unwrap();
    let [first, second, third] = [older, savepoint, newer].map(|id| job.acks(id));
    job.acknowledge(third);
    let events = job.events();
    let aborted: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Aborted { id, .. } => Some(*id),
            _ => None,
        })
        .collect();
    assert_eq!(aborted, [older]);
    assert_eq!(job.coordinator.acknowledge(first[0].clone()).unwrap(), Acknowledged::Late);
    job.acknowledge(second);
    let name = "beside".to_owned();
    assert!(job.events().contains(&Event::SavepointCompleted { id: savepoint, name }));
    let entry = job.coordinator.view().entry().clone();
    assert_eq!(entry.resume.unwrap().id, newer, "a savepoint is not what a job goes on from");
}

#[test]
fn so_many_checkpoints_stay_as_the_settings_say() {
    let mut job = Job::new(with(|s| s.retained = 3));
    let mut values = Vec::new();
    for _ in 0..6 {
        job.merge();
        let id = job.checkpoint();
        values.push((id, job.value()));
        job.collect();
    }
    assert_eq!(job.files(), job.needed());
    for (id, value) in &values[3..] {
        job.assert_restores(&RestoreFrom::Checkpoint(*id), value);
    }
    let gone = RestoreFrom::Checkpoint(values[2].0);
    let error = job.coordinator.view().find(&gone).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_cancelled_job_keeps_or_deletes_its_checkpoints_and_always_keeps_savepoints() {
    for on_cancel in [OnCancel::Keep, OnCancel::Delete] {
        let settings = with(|s| s.on_cancel = on_cancel);
        let mut job = Job::new(settings.clone());
        job.savepoint("kept");
        job.merge();
        let id = job.checkpoint();
        let value = job.value();
        job.coordinator.trigger().unwrap();
        let Job { env, store, coordinator, .. } = job;
        coordinator.cancel().unwrap();
        let mut next = Job::open(&env, &store, "job", settings);
        assert_eq!(next.files(), next.needed(), "{on_cancel:?}");
        next.coordinator.view().find(&RestoreFrom::Savepoint("kept".into())).unwrap();
        let latest = next.coordinator.restore(&RestoreFrom::Latest, ClaimMode::NoClaim).unwrap();
        match on_cancel {
            OnCancel::Keep => {
                assert_eq!(latest.as_ref().unwrap().id, id);
                next.start(latest.as_ref(), 2);
                assert_eq!(next.value(), value);
            }
            OnCancel::Delete => assert!(latest.is_none()),
        }
    }
}

#[test]
fn a_stopped_job_goes_on_from_its_savepoint_and_a_failed_stop_changes_nothing() {
    let mut job = Job::new(by_hand());
    job.checkpoint();
    let id = job.coordinator.stop("end", StopMode::Drain).unwrap();
    assert_eq!(job.coordinator.trigger().unwrap_err().kind(), ErrorKind::Invalid);
    job.coordinator.abort(id, "not yet");
    job.checkpoint();
    job.write();
    let id = job.coordinator.stop("end", StopMode::Suspend).unwrap();
    let acks = job.acks(id);
    job.acknowledge(acks);
    let events = job.events();
    let name = "end".to_owned();
    assert_eq!(events.last(), Some(&Event::Stopped { id, name }));
    let stop = events.iter().rev().find_map(|event| match event {
        Event::Trigger(barrier) => Some(barrier.clone()),
        _ => None,
    });
    assert_eq!(stop.as_ref().unwrap().stop, Some(StopMode::Suspend));
    assert_eq!(stop.unwrap().kind, CheckpointKind::Savepoint("end".into()));
    let value = job.value();
    job.assert_restores(&RestoreFrom::Latest, &value);
    job.assert_restores(&RestoreFrom::Savepoint("end".into()), &value);
}

#[test]
fn a_claimed_savepoint_goes_with_later_checkpoints_and_an_unclaimed_one_stays() {
    for claim in [ClaimMode::Claim, ClaimMode::NoClaim] {
        let mut job = Job::new(by_hand());
        job.savepoint("s");
        let from = RestoreFrom::Savepoint("s".into());
        let mut next = Job::open(&job.env, &job.store, "job", by_hand());
        next.restore(&from, claim, 2);
        // What the job would go on from is not disposed of.
        let refused = next.coordinator.dispose("s").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        next.coordinator.release_base();
        next.merge();
        next.checkpoint();
        next.merge();
        next.checkpoint();
        next.collect();
        assert_eq!(next.files(), next.needed());
        let stays = next.coordinator.view().entry().savepoint("s").is_some();
        assert_eq!(stays, claim == ClaimMode::NoClaim);
        if stays {
            next.coordinator.dispose("s").unwrap();
            next.collect();
            assert_eq!(next.files(), next.needed());
        }
    }
}

#[test]
fn a_claim_whose_reply_was_lost_can_be_repeated() {
    let mut job = Job::new(by_hand());
    job.savepoint("s");
    let from = RestoreFrom::Savepoint("s".into());
    let mut next = Job::open(&job.env, &job.store, "job", by_hand());
    let mut calls = 0;
    job.store.watch(move |_, _| {
        calls += 1;
        if calls == 1 { Goes::Unheard } else { Goes::Fails }
    });
    *job.store.unreadable.lock() = Some("/journal/".into());
    let lost = next.coordinator.restore(&from, ClaimMode::Claim).unwrap_err();
    assert!(lost.may_have_happened() && lost.kind() == ErrorKind::Unavailable, "{lost}");
    // Trying again while the store is away leaves it in doubt.
    let again = next.coordinator.restore(&from, ClaimMode::Claim).unwrap_err();
    assert!(again.may_have_happened(), "{again}");
    job.store.watch(|_, _| Goes::Well);
    *job.store.unreadable.lock() = None;
    let restored = next.coordinator.restore(&from, ClaimMode::Claim).unwrap();
    assert!(restored.is_some());
    assert!(next.coordinator.view().entry().savepoint("s").is_none());
}

#[test]
fn a_damaged_checkpoint_that_is_kept_suspends_deleting_until_it_is_given_up() {
    let mut job = Job::new(by_hand());
    job.savepoint("damaged");
    job.merge();
    job.checkpoint();
    let view = job.coordinator.view();
    let damaged = view.find(&RestoreFrom::Savepoint("damaged".into())).unwrap().unwrap();
    let checkpoint = view.read(&damaged).unwrap();
    let manifest = ObjectName::new(checkpoint.shards[0].handle.manifest()).unwrap();
    job.store.inner.remove(&manifest).unwrap();

    let mut next = job.next_life(by_hand());
    assert_eq!(next.coordinator.deletes_nothing().unwrap().kind(), ErrorKind::Corrupt);
    let before = next.files();
    next.coordinator.release_base();
    for _ in 0..3 {
        next.merge();
        next.checkpoint();
        next.collect();
    }
    let after = next.files();
    assert!(before.iter().all(|name| after.contains(name)), "something was deleted");
    next.coordinator.dispose("damaged").unwrap();
    next.collect();
    assert!(next.coordinator.deletes_nothing().is_none());
    // What its lost manifest named is left to the next sweep, as are others.
    next.coordinator.sweep().unwrap();
    next.checkpoint();
    next.collect();
    assert_eq!(next.files(), next.needed());
}

#[test]
fn a_store_that_fails_while_a_coordinator_is_opened_suspends_deleting_only_meanwhile() {
    let mut job = Job::new(by_hand());
    job.checkpoint();
    job.merge();
    job.checkpoint();
    *job.store.unreadable.lock() = Some("/manifests/".into());
    let mut next = Job::open(&job.env, &job.store, "job", by_hand());
    assert_eq!(next.coordinator.deletes_nothing().unwrap().kind(), ErrorKind::Unavailable);
    assert_eq!(next.coordinator.collect(100).unwrap().deleted, 0);
    *job.store.unreadable.lock() = None;
    assert!(next.coordinator.collect(100).unwrap().deleted > 0);
    assert!(next.coordinator.deletes_nothing().is_none());
    assert_eq!(next.files(), next.needed());
}

#[test]
fn data_of_the_runtime_comes_back_and_is_refused_once_metadata_is_written() {
    let mut job = Job::new(by_hand());
    job.write();
    let id = job.coordinator.trigger().unwrap();
    job.coordinator.set_runtime_data(id, b"offsets 17".to_vec()).unwrap();
    let acks = job.acks(id);
    job.store.watch(|_, name| if name.contains("/journal/") { Goes::Fails } else { Goes::Well });
    job.acknowledge(acks);
    let late = job.coordinator.set_runtime_data(id, b"others".to_vec()).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Invalid);
    job.store.watch(|_, _| Goes::Well);
    job.coordinator.poll().unwrap();
    assert!(job.events().contains(&Event::Completed(id)));
    let mut next = Job::open(&job.env, &job.store, "job", by_hand());
    let checkpoint = next.coordinator.restore(&RestoreFrom::Latest, ClaimMode::NoClaim);
    assert_eq!(checkpoint.unwrap().unwrap().runtime, b"offsets 17");
}

#[test]
fn only_what_may_be_complete_is_not_given_up_while_the_journal_is_in_doubt() {
    let mut job = Job::new(by_hand());
    job.savepoint("s");
    let first = job.coordinator.trigger().unwrap();
    let second = job.coordinator.trigger().unwrap();
    let seconds = job.acks(second);
    job.store.watch(|_, name| if name.contains("/journal/") { Goes::Unheard } else { Goes::Well });
    *job.store.unreadable.lock() = Some("/journal/".into());
    job.acknowledge(seconds);
    job.coordinator.abort(second, "too late");
    job.coordinator.abort(first, "not too late");
    let aborted: Vec<_> = job
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Aborted { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!(aborted, [first]);
    job.store.watch(|_, _| Goes::Well);
    *job.store.unreadable.lock() = None;
    job.coordinator.poll().unwrap();
    assert!(job.events().contains(&Event::Completed(second)));
}

#[test]
fn settings_out_of_range_are_refused() {
    let schedule = |prefix: &str, interval_ms, retained| {
        Some(SavepointSchedule { interval_ms, prefix: prefix.into(), retained })
    };
    type Change = Box<dyn Fn(&mut CheckpointSettings)>;
    let wrong: Vec<(&str, Change)> = vec![
        ("interval", Box::new(|s| s.interval_ms = Some(0))),
        ("catching up", Box::new(|s| s.catching_up_interval_ms = Some(Some(0)))),
        ("timeout", Box::new(|s| s.timeout_ms = 0)),
        ("concurrent", Box::new(|s| s.max_concurrent = 0)),
        ("retained", Box::new(|s| s.retained = 0)),
        ("history", Box::new(|s| s.history = 4097)),
        ("no interval of savepoints", Box::new(move |s| s.savepoints = schedule("a", 0, 1))),
        ("no savepoint retained", Box::new(move |s| s.savepoints = schedule("a", 1, 0))),
        ("prefix that is no name", Box::new(move |s| s.savepoints = schedule("a/b", 1, 1))),
        ("prefix too long", Box::new(move |s| s.savepoints = schedule(&"a".repeat(109), 1, 1))),
    ];
    let (env, store) = world();
    for (what, change) in wrong {
        let error = Job::coordinator(&env, &store, "job", with(&*change)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}");
    }
    for name in ["", "a/b", ".x", "ü"] {
        let error = Job::coordinator(&env, &store, name, by_hand()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name:?}");
    }
    let owner = Coordinator::builder(store.clone(), "job").owner("x".repeat(1025)).open();
    assert_eq!(owner.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(store.names("").is_empty(), "nothing was written");
}

#[test]
fn who_was_replaced_before_its_restore_is_told_so_and_not_that_a_checkpoint_is_damaged() {
    let mut first = Job::new(by_hand());
    first.checkpoint();
    let mut late = Job::open(&first.env, &first.store, first.name, by_hand());
    // Another one takes over, and what the late one would go on from goes.
    let mut other = first.next_life(by_hand());
    other.coordinator.release_base();
    for _ in 0..2 {
        other.checkpoint();
        other.collect();
    }
    let restore = |job: &mut Job| job.coordinator.restore(&RestoreFrom::Latest, ClaimMode::NoClaim);
    let error = restore(&mut late).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    // Where nobody took over, what is missing is damage.
    let mut next = Job::open(&first.env, &first.store, first.name, by_hand());
    let latest = next.coordinator.view().entry().resume.clone().unwrap();
    first.store.inner.remove(&ObjectName::new(latest.location).unwrap()).unwrap();
    assert_eq!(restore(&mut next).unwrap_err().kind(), ErrorKind::Corrupt);
}
