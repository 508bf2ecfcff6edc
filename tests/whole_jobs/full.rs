//! Full checkpoints: they share no file with any that was there before, and later ones
//! build on them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use alluvium::coordinator::{
    ClaimMode, Coordinator, Depth, Event, JobView, RestoreFrom, orphans, verify,
};
use alluvium::env::SimEnv;
use alluvium::env::sim::SimRng;
use alluvium::format::{CheckpointRef, ShardAck};
use alluvium::object::{ObjectName, ObjectStore};
use alluvium::{ErrorKind, KeyedStore, SnapshotId, SnapshotMode};

use crate::job::{Job, Model, coordinator, latest, store};
use crate::vanishing::Vanishing;

/// The files of a checkpoint, its metadata included.
fn files(view: &JobView, reference: &CheckpointRef) -> BTreeSet<String> {
    view.files(reference).unwrap().into_iter().map(|file| file.location).collect()
}

fn files_of(coordinator: &Coordinator, from: &RestoreFrom) -> BTreeSet<String> {
    let view = coordinator.view();
    files(&view, &view.find(from).unwrap().unwrap())
}

/// The files of all that is kept.
fn kept(coordinator: &Coordinator) -> BTreeSet<String> {
    let view = coordinator.view();
    view.entry().kept().flat_map(|reference| files(&view, reference)).collect()
}

fn full(job: &mut Job) -> SnapshotId {
    let id = job.coordinator.trigger_as(SnapshotMode::Full).unwrap();
    assert_eq!(job.answer().last(), Some(&Event::Completed(id)));
    id
}

fn tables(files: &BTreeSet<String>) -> usize {
    files.iter().filter(|name| name.contains("/tables/")).count()
}

#[test]
fn a_full_checkpoint_restores_when_everything_that_was_there_before_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("store"));
    let state = dir.path().join("state");
    let mut model = Model::new();
    let mut job = Job::start(coordinator(&store, "job", 50), &state, 3, None, None);
    for round in 0..5 {
        job.work(round * 100, 150, &mut model);
        job.checkpoint();
    }
    job.savepoint("before");
    let before = kept(&job.coordinator);
    job.work(0, 10, &mut model);
    let id = full(&mut job);
    let own = files_of(&job.coordinator, &RestoreFrom::Checkpoint(id));
    assert!(tables(&own) >= 6, "{own:?}");
    assert_eq!(own.intersection(&before).count(), 0);
    let view = job.coordinator.view();
    let reference = view.find(&RestoreFrom::Checkpoint(id)).unwrap().unwrap();
    let checkpoint = view.read(&reference).unwrap();
    assert_eq!(checkpoint.mode, SnapshotMode::Full);
    let costs = checkpoint.costs();
    assert_eq!(costs.bytes_new, costs.bytes_total, "everything was put into the store");
    let outcome = view.entry().outcomes.last().unwrap();
    assert_eq!((outcome.id, outcome.mode), (id, SnapshotMode::Full));
    // What comes after it builds on it, and not on what was before.
    job.work(0, 1, &mut model);
    let next = job.checkpoint();
    let later = files_of(&job.coordinator, &RestoreFrom::Checkpoint(next));
    assert_eq!(later.intersection(&before).count(), 0);
    assert!(later.intersection(&own).count() > 0);
    drop(job);

    // Nothing is left but what the two need.
    for name in store.list("jobs/job/epochs/").unwrap() {
        if before.contains(name.as_str()) {
            store.remove(&name).unwrap();
        }
    }
    let found = verify(&checkpoint, &*view.source(), Depth::Deep, &mut |_, _| {});
    assert!(found.is_whole(), "{:?}", found.problems);
    let mut again = coordinator(&store, "job", 50);
    let checkpoint = latest(&mut again);
    let mut job = Job::start(again, &state, 2, Some(&checkpoint), None);
    job.check(&model);
}

#[test]
fn everything_older_than_a_full_checkpoint_is_deleted_when_nobody_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("store"));
    let state = dir.path().join("state");
    let mut model = Model::new();
    let mut job = Job::start(coordinator(&store, "job", 1), &state, 2, None, None);
    job.work(0, 300, &mut model);
    job.checkpoint();
    job.savepoint("old");
    let before = kept(&job.coordinator);
    job.work(0, 50, &mut model);
    full(&mut job);
    job.coordinator.dispose("old").unwrap();
    while !job.coordinator.collect(1000).unwrap().is_done {}
    let there: BTreeSet<String> = store
        .list("jobs/job/epochs/")
        .unwrap()
        .into_iter()
        .map(|name| name.as_str().to_owned())
        .collect();
    assert_eq!(there.intersection(&before).count(), 0, "nothing of before is left");
    assert_eq!(there.len() + 1, kept(&job.coordinator).len(), "the metadata lies elsewhere");
    job.work(0, 1, &mut model);
    job.checkpoint();
    job.check(&model);
    drop(job);
    let mut again = coordinator(&store, "job", 1);
    let checkpoint = latest(&mut again);
    Job::start(again, &state, 3, Some(&checkpoint), None).check(&model);
}

#[test]
fn a_full_savepoint_shares_nothing_with_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("store"));
    let state = dir.path().join("state");
    let mut model = Model::new();
    let mut job = Job::start(coordinator(&store, "job", 1), &state, 2, None, None);
    job.work(0, 300, &mut model);
    job.checkpoint();
    let before = kept(&job.coordinator);
    let id = job.coordinator.savepoint_as("alone", SnapshotMode::Full).unwrap();
    let completed = Event::SavepointCompleted { id, name: "alone".into() };
    assert_eq!(job.answer().last(), Some(&completed));
    let own = files_of(&job.coordinator, &RestoreFrom::Savepoint("alone".into()));
    assert_eq!(own.intersection(&before).count(), 0);
    assert!(tables(&own) >= 4, "{own:?}");
}

/// Answers the barrier of a full checkpoint with incremental snapshots.
#[test]
fn a_shard_that_shares_files_has_the_full_checkpoint_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("store"));
    let mut model = Model::new();
    let mut job =
        Job::start(coordinator(&store, "job", 1), &dir.path().join("state"), 1, None, None);
    job.work(0, 100, &mut model);
    job.checkpoint();
    let id = job.coordinator.trigger_as(SnapshotMode::Full).unwrap();
    let Some(Event::Trigger(barrier)) = job.coordinator.next_event() else { panic!("no barrier") };
    assert_eq!(barrier.mode, SnapshotMode::Full);
    let report = job.operators[0].shards[0].snapshot(barrier.id, b"").unwrap().wait().unwrap();
    let ack = ShardAck::of(barrier.epoch, &report);
    let error = job.coordinator.acknowledge(ack).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("/tables/"), "{error}");
    assert_eq!(job.coordinator.under_way().count(), 0);
    let Some(Event::Aborted { id: aborted, .. }) = job.coordinator.next_event() else {
        panic!("it was not given up")
    };
    assert_eq!(aborted, id);
    job.operators[0].shards[0].notify_aborted(id);
    // The next one is as full as it should have been.
    let before = kept(&job.coordinator);
    let id = full(&mut job);
    let own = files_of(&job.coordinator, &RestoreFrom::Checkpoint(id));
    assert_eq!(own.intersection(&before).count(), 0);
    job.check(&model);
}

#[test]
fn a_job_with_a_shard_at_its_end_takes_no_full_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("store"));
    let mut model = Model::new();
    let mut job =
        Job::start(coordinator(&store, "job", 1), &dir.path().join("state"), 1, None, None);
    job.work(0, 10, &mut model);
    let id = job.coordinator.trigger().unwrap();
    let Some(Event::Trigger(barrier)) = job.coordinator.next_event() else { panic!("no barrier") };
    for operator in &mut job.operators {
        let report = operator.shards[0].snapshot(id, b"").unwrap().wait().unwrap();
        let ack = ShardAck::of(barrier.epoch, &report);
        job.coordinator.acknowledge(ack.clone()).unwrap();
        job.coordinator.finish(ack).unwrap();
    }
    let error = job.coordinator.trigger_as(SnapshotMode::Full).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("come to its end"), "{error}");
}

/// The acknowledgement of a later one, which builds on it, may come first.
#[test]
fn a_full_checkpoint_may_be_acknowledged_after_one_that_builds_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("store"));
    let mut model = Model::new();
    let mut job =
        Job::start(coordinator(&store, "job", 9), &dir.path().join("state"), 1, None, None);
    job.work(0, 100, &mut model);
    job.checkpoint();
    let savepoint = job.coordinator.savepoint_as("alone", SnapshotMode::Full).unwrap();
    job.coordinator.trigger().unwrap();
    let mut acks = Vec::new();
    while let Some(Event::Trigger(barrier)) = job.coordinator.next_event() {
        for operator in &mut job.operators {
            let shard = &mut operator.shards[0];
            let ticket = shard.snapshot_as(barrier.mode, barrier.id, b"").unwrap();
            acks.push(ShardAck::of(barrier.epoch, &ticket.wait().unwrap()));
        }
    }
    for ack in acks.into_iter().rev() {
        job.coordinator.acknowledge(ack).unwrap();
    }
    let view = job.coordinator.view();
    assert_eq!(view.entry().savepoint("alone").unwrap().checkpoint.id, savepoint);
    assert_eq!(job.coordinator.under_way().count(), 0);
}

/// One life of a job at random: incremental and full checkpoints and savepoints, some of
/// which are given up half-way, other numbers of shards, states that end, memory that is
/// short.
fn live(seed: u64) {
    let mut rng = SimRng::new(seed);
    let env = SimEnv::new(seed);
    let store: Arc<dyn ObjectStore> = Arc::new(Vanishing::new(Arc::new(env.clone())));
    let mut model = Model::new();
    let mut at_checkpoint = model.clone();
    let retained = 1 + rng.below(3) as usize;
    let budget = rng.one_in(2).then_some(4 << 20);
    let local = rng.one_in(2).then_some(rng.below(20_000));
    let start = |coordinator, parallelism, from: Option<&_>| {
        Job::start_with(coordinator, Path::new("/node"), parallelism, from, None, |mut builder| {
            builder = builder.env(Arc::new(env.clone()));
            builder = builder.max_tables_per_shard(2).partition_bytes(16 << 10);
            if let Some(bytes) = budget {
                builder = builder.memory_budget_bytes(bytes);
            }
            match local {
                Some(bytes) => builder.local_limit_bytes(bytes),
                None => builder,
            }
        })
    };
    let mut job = start(coordinator(&store, "job", retained), 1 + rng.below(4) as u32, None);
    let mut completed = 0;
    for step in 0..40 {
        job.work(rng.below(300), 1 + rng.below(60), &mut model);
        if rng.one_in(8) {
            // A state of the last life, or of this one, ends.
            for operator in &mut job.operators {
                for shard in &mut operator.shards {
                    shard.drop_state("scratch").unwrap();
                }
            }
        }
        let mode = if rng.one_in(3) { SnapshotMode::Full } else { SnapshotMode::Incremental };
        let before = kept(&job.coordinator);
        let name = format!("s{step}");
        let (begun, from) = match rng.below(4) {
            0 => (
                job.coordinator.savepoint_as(&name, mode).unwrap(),
                RestoreFrom::Savepoint(name.clone()),
            ),
            _ => (job.coordinator.trigger_as(mode).unwrap(), RestoreFrom::Latest),
        };
        if rng.one_in(5) {
            give_up_half_way(&mut job, begun, &mut rng);
            continue;
        }
        job.answer();
        completed += 1;
        if from == RestoreFrom::Latest {
            at_checkpoint = model.clone();
        }
        let own = files_of(&job.coordinator, &from);
        if mode == SnapshotMode::Full {
            let shared: Vec<_> = own.intersection(&before).collect();
            assert!(shared.is_empty(), "seed {seed}, step {step}: {shared:?}");
        }
        if rng.one_in(3) {
            job.check(&model);
        }
        if rng.one_in(4) {
            let names = job.coordinator.view().entry().savepoints.clone();
            for savepoint in names {
                // That from which the job goes on cannot go.
                let _ = job.coordinator.dispose(&savepoint.name);
            }
        }
        if rng.one_in(4) {
            for operator in &mut job.operators {
                for shard in &mut operator.shards {
                    while !shard.warm_up(100).unwrap() {
                        job.backend.run_background();
                    }
                }
            }
            job.coordinator.release_base();
        }
        while !job.coordinator.collect(1000).unwrap().is_done {}
        let missing: Vec<_> = kept(&job.coordinator)
            .into_iter()
            .filter(|name| store.len_of(&ObjectName::new(name).unwrap()).unwrap().is_none())
            .collect();
        assert!(missing.is_empty(), "seed {seed}, step {step}: {missing:?}");
        if rng.one_in(6) && completed > 0 {
            drop(job);
            let mut next = coordinator(&store, "job", retained);
            let checkpoint = next.restore(&RestoreFrom::Latest, ClaimMode::NoClaim).unwrap();
            model = at_checkpoint.clone();
            job = start(next, 1 + rng.below(4) as u32, checkpoint.as_ref());
            job.check(&model);
        }
    }
    while job.backend.run_background() {}
    job.checkpoint();
    job.check(&model);
    drop(job);
    let mut next = coordinator(&store, "job", retained);
    while !next.collect(1000).unwrap().is_done {}
    let left = orphans(&store, "job").unwrap();
    assert!(left.is_empty(), "seed {seed}: {left:?}");
    let checkpoint = latest(&mut next);
    start(next, 2, Some(&checkpoint)).check(&model);
}

/// Some shards answer, some take the snapshot and do not say so, some have it cancelled;
/// then the checkpoint is given up, and perhaps the shards hear of it.
fn give_up_half_way(job: &mut Job, id: SnapshotId, rng: &mut SimRng) {
    let Some(Event::Trigger(barrier)) = job.coordinator.next_event() else { panic!("no barrier") };
    for operator in &mut job.operators {
        for shard in &mut operator.shards {
            let ticket = shard.snapshot_as(barrier.mode, barrier.id, b"").unwrap();
            match rng.below(3) {
                0 => ticket.cancel(),
                1 => drop(ticket.wait().unwrap()),
                _ => {
                    let ack = ShardAck::of(barrier.epoch, &ticket.wait().unwrap());
                    // The last one would complete it.
                    if rng.one_in(2) && job.coordinator.under_way().any(|(_, left)| left > 1) {
                        job.coordinator.acknowledge(ack).unwrap();
                    }
                }
            }
        }
    }
    job.coordinator.abort(id, "half-way");
    let tell = rng.one_in(2);
    while let Some(event) = job.coordinator.next_event() {
        let Event::Aborted { id, .. } = event else { continue };
        for operator in job.operators.iter_mut().filter(|_| tell) {
            operator.shards.iter_mut().for_each(|shard| shard.notify_aborted(id));
        }
    }
}

#[test]
fn full_checkpoints_share_nothing_whatever_else_a_job_does() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => 0..12,
    };
    for seed in seeds {
        println!("seed {seed}");
        live(seed);
    }
}
