//! What jobs do beside running to their end: savepoints, stopping, refusing what does not
//! fit, and going on when snapshots fail.

#![allow(clippy::disallowed_methods, reason = "results are real files, and a thread asks the job")]

mod common;

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use alluvium::coordinator::{self, CheckpointSettings, JobView, RestoreFrom, StopMode};
use alluvium::env::{ReadAt, RealEnv};
use alluvium::format::Action;
use alluvium::object::{Contents, LocalStore, ObjectName, ObjectStore};
use alluvium::{
    Backend, Error, ErrorKind, Result, SnapshotId, SnapshotMode, TimerStore, Timers, ValueState,
};
use alluvium_timely::{
    Context, FileSink, Fire, Flow, Generator, Job, JobEvent, JobHandle, Lines, Next, Outcome,
    Reader, Source,
};
use common::{compare, kill_job};
use timely::Config;
use timely::dataflow::operators::Inspect;

const RECORDS: u64 = 6_000;

/// Lets the job go on when its thread is done, or has failed.
struct Release(Arc<AtomicBool>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Runs the job of the kill loop. When a worker has counted `at` records, `ask` is called
/// on a thread of its own, and the second half of the records comes when that is done.
fn run(
    job: Job,
    dir: &Path,
    workers: usize,
    at: u64,
    ask: impl FnOnce(&JobHandle) + Send + 'static,
) -> Result<Outcome> {
    let handle = job.handle();
    let (reached, waits) = channel();
    // On a busy machine the job could be over before anybody asks.
    let is_held = Arc::new(AtomicBool::new(at < u64::MAX));
    let held = Arc::clone(&is_held);
    let asking = std::thread::spawn(move || {
        let _release = Release(held);
        if waits.recv().is_ok() {
            ask(&handle);
        }
    });
    let reached = Mutex::new(Some(reached));
    let (out, reached) = (dir.to_owned(), Arc::new(reached));
    let outcome = job.run(Config::process(workers), move |flow| {
        let reached = Arc::clone(&reached);
        kill_job::build_held(flow, &out, RECORDS, &is_held, move |seen| {
            if seen == at
                && let Some(reached) = reached.lock().unwrap().take()
            {
                reached.send(()).unwrap();
            }
        })
    });
    asking.join().unwrap();
    outcome
}

#[test]
fn a_job_goes_back_to_a_savepoint_and_says_the_same_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let first = run(kill_job::job(dir).unwrap(), dir, 2, 1_000, |handle| {
        handle.savepoint("half").unwrap();
    });
    assert!(first.unwrap().stopped_with.is_none());
    compare(&kill_job::expected(RECORDS), dir, 0);

    let job = kill_job::job(dir).unwrap();
    let back = job.restore_from(RestoreFrom::Savepoint("half".to_owned()));
    run(back, dir, 3, u64::MAX, |_| {}).unwrap();
    compare(&kill_job::expected(RECORDS), dir, 0);
    let undone = std::fs::read_dir(dir.join("counts/undone")).unwrap().count();
    assert!(undone > 0, "what was said after the savepoint was set aside");
}

/// The numbers up to 1,500; those from `limit` on do not come yet.
struct Gated {
    limit: Arc<AtomicU64>,
    next: u64,
}

impl Source for Gated {
    type Item = u64;
    type Reader = Self;

    fn splits(&self) -> Result<u32> {
        Ok(1)
    }

    fn open(&self, _: u32, position: Option<u64>) -> Result<Self> {
        Ok(Self { limit: Arc::clone(&self.limit), next: position.unwrap_or(0) })
    }
}

impl Reader for Gated {
    type Item = u64;

    fn next(&mut self) -> Result<Next<u64>> {
        if self.next == 1_500 {
            return Ok(Next::End);
        }
        if self.next >= self.limit.load(Ordering::SeqCst) {
            return Ok(Next::Idle);
        }
        self.next += 1;
        Ok(Next::Record(self.next - 1))
    }

    fn position(&self) -> u64 {
        self.next
    }
}

/// Writes each number of a gated source to a file; fails with number `fails_at`.
fn copy(
    job: Job,
    dir: &Path,
    limit: &Arc<AtomicU64>,
    fails_at: u64,
    seen: Option<Sender<u64>>,
) -> Result<Outcome> {
    let (limit, out) = (Arc::clone(limit), dir.join("out"));
    let seen = Mutex::new(seen);
    job.run(Config::process(2), move |flow| {
        let numbers = flow.source("n", Gated { limit: Arc::clone(&limit), next: 0 }).build()?;
        let seen = seen.lock().unwrap().clone();
        let same = flow
            .keyed("op", numbers, |number| *number)
            .state(|shard| ValueState::<u64, u64>::register(shard, "v"))?
            .process(move |_, context, _, number| {
                if number == fails_at {
                    return Err(Error::invalid("a failure on purpose"));
                }
                if let Some(seen) = &seen {
                    // Nobody counts any more when all has been asked for.
                    let _ = seen.send(number);
                }
                context.emit(number);
                Ok(())
            })?;
        flow.files("out", same, FileSink::new(&out), |number, bytes| {
            bytes.extend_from_slice(format!("{number:04}\n").as_bytes());
        })
    })
}

#[test]
fn a_savepoint_keeps_its_results_when_the_job_goes_on_from_a_checkpoint_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let job = || Job::local("copy", dir).unwrap().interval_ms(None);
    let all: Vec<String> = (0..1_500).map(|number| format!("{number:04}")).collect();
    let limit = Arc::new(AtomicU64::new(500));
    let first = job();
    let (handle, opened) = (first.handle(), Arc::clone(&limit));
    let (seen, sees) = channel();
    let asking = std::thread::spawn(move || {
        sees.iter().take(500).for_each(drop);
        handle.checkpoint().unwrap();
        opened.store(1_000, Ordering::SeqCst);
        sees.iter().take(500).for_each(drop);
        handle.savepoint("thousand").unwrap();
        // It fails before there is another checkpoint.
        opened.store(1_001, Ordering::SeqCst);
    });
    let failed = copy(first, dir, &limit, 1_000, Some(seen)).unwrap_err();
    assert!(failed.to_string().contains("on purpose"), "{failed}");
    asking.join().unwrap();
    limit.store(u64::MAX, Ordering::SeqCst);
    for _ in 0..2 {
        copy(job(), dir, &limit, u64::MAX, None).unwrap();
        assert_eq!(common::committed(&dir.join("out")), all);
        let back = job().restore_from(RestoreFrom::Savepoint("thousand".to_owned()));
        copy(back, dir, &limit, u64::MAX, None).unwrap();
        assert_eq!(common::committed(&dir.join("out")), all);
    }
}

#[test]
fn whoever_asks_in_the_store_for_a_full_savepoint_gets_one_that_stands_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = None;
    settings.requests_interval_ms = Some(5);
    let (saved, is_saved) = channel();
    let job = Job::local("copy", dir).unwrap().settings(settings).observer(move |event| {
        if let JobEvent::Savepoint { name, .. } = event {
            saved.send(name.clone()).unwrap();
        }
    });
    let limit = Arc::new(AtomicU64::new(500));
    let (handle, opened, asked) = (job.handle(), Arc::clone(&limit), dir.to_owned());
    let (seen, sees) = channel();
    let view = |dir: &Path| {
        let store = LocalStore::open(Arc::new(RealEnv::new()), dir.join("checkpoints")).unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        (Arc::clone(&store), JobView::open(store, "copy").unwrap().unwrap())
    };
    let asking = std::thread::spawn(move || {
        sees.iter().take(500).for_each(drop);
        handle.checkpoint().unwrap();
        let (store, view) = view(&asked);
        let action = Action::Savepoint("whole".to_owned(), SnapshotMode::Full);
        let _ = coordinator::ask(store, &RealEnv::new(), &view, "a test", action).unwrap();
        assert_eq!(is_saved.recv().unwrap(), "whole");
        opened.store(u64::MAX, Ordering::SeqCst);
    });
    copy(job, dir, &limit, u64::MAX, Some(seen)).unwrap();
    asking.join().unwrap();
    let (_, view) = view(dir);
    let whole = view.find(&RestoreFrom::Savepoint("whole".to_owned())).unwrap().unwrap();
    assert_eq!(view.read(&whole).unwrap().mode, SnapshotMode::Full);
}

#[test]
fn a_job_that_is_stopped_goes_on_where_it_was() {
    for mode in [StopMode::Suspend, StopMode::Drain] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let stopped = run(kill_job::job(dir).unwrap(), dir, 3, 500, move |handle| {
            handle.stop("end", mode).unwrap();
            assert_eq!(handle.savepoint("more").unwrap_err().kind(), ErrorKind::Closed);
        });
        assert_eq!(stopped.unwrap().stopped_with.as_deref(), Some("end"));
        let before = common::results(&dir.join("counts")).len() as u64;
        let all = RECORDS * u64::from(kill_job::SPLITS);
        assert!((500..all).contains(&before), "{before} records counted, then stopped");
        let windows = common::results(&dir.join("windows")).len();
        run(kill_job::job(dir).unwrap(), dir, 1, u64::MAX, |_| {}).unwrap();
        match mode {
            StopMode::Suspend => compare(&kill_job::expected(RECORDS), dir, 0),
            // Its windows were closed early, so records of later ones only.
            StopMode::Drain => {
                assert!(windows > 0);
                assert_eq!(common::results(&dir.join("counts")).len() as u64, all);
            }
        }
    }
}

/// A store that refuses, or holds up, what it is to keep, while it is told to.
#[derive(Debug)]
struct Moody {
    inner: LocalStore,
    refusals: AtomicU64,
}

impl Moody {
    fn refuse(&self, name: &ObjectName) -> Result<()> {
        let is_table = name.as_str().contains("/tables/");
        let one_less = |left: u64| left.checked_sub(1);
        if is_table
            && self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
        {
            return Err(Error::unavailable("the store is in a bad mood").at(name));
        }
        Ok(())
    }
}

impl ObjectStore for Moody {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.refuse(name)?;
        self.inner.create(name, bytes)
    }

    fn create_from_file(
        &self,
        name: &ObjectName,
        local: &Path,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.refuse(name)?;
        self.inner.create_from_file(name, local, expected, keep_going)
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.refuse(name)?;
        self.inner.create_from_source(name, source, expected, keep_going)
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        self.inner.open(name)
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.inner.len_of(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        self.inner.list(prefix)
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.inner.remove(name)
    }
}

fn moody(dir: &Path, refusals: u64, tolerable: usize, aborted: &Arc<AtomicU64>) -> Job {
    let inner = LocalStore::open(Arc::new(RealEnv::new()), dir.join("checkpoints")).unwrap();
    let store = Arc::new(Moody { inner, refusals: AtomicU64::new(refusals) });
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = Some(5);
    settings.tolerable_failures = tolerable;
    let aborted = Arc::clone(aborted);
    Job::new("sightings", store, dir.join("state")).settings(settings).observer(move |event| {
        if let JobEvent::Aborted { reason, .. } = event {
            assert!(reason.contains("bad mood"), "{reason}");
            aborted.fetch_add(1, Ordering::SeqCst);
        }
    })
}

#[test]
fn a_job_goes_on_when_snapshots_fail_and_its_results_count_with_the_next_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let aborted = Arc::new(AtomicU64::new(0));
    run(moody(dir, 7, 100, &aborted), dir, 2, u64::MAX, |_| {}).unwrap();
    assert!(aborted.load(Ordering::SeqCst) > 0);
    compare(&kill_job::expected(RECORDS), dir, 0);
}

#[test]
fn a_job_whose_snapshots_keep_failing_fails_and_can_be_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let aborted = Arc::new(AtomicU64::new(0));
    let failed = run(moody(dir, u64::MAX, 2, &aborted), dir, 2, u64::MAX, |_| {}).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed}");
    assert!(failed.to_string().contains("3 in a row"), "{failed}");
    run(moody(dir, 0, 0, &aborted), dir, 3, u64::MAX, |_| {}).unwrap();
    compare(&kill_job::expected(RECORDS), dir, 0);
}

/// A job of one operator, as `build` says.
fn small(
    dir: &Path,
    build: impl Fn(&Flow<'_>) -> Result<()> + Send + Sync + 'static,
) -> Result<Outcome> {
    Job::local("small", dir)?.interval_ms(None).run(Config::process(2), build)
}

fn numbers(flow: &Flow<'_>, splits: u32, operator: &str) -> Result<()> {
    let source = Generator::new(splits, |_, number| (number < 100).then_some(number));
    let numbers = flow.source("numbers", source).build()?;
    flow.keyed(operator, numbers, |number| number % 7)
        .state(|shard| ValueState::<u64, u64>::register(shard, "v"))?
        .process::<()>(|values, context, key, number| values.put(context.store(), key, &number))?;
    Ok(())
}

#[test]
fn what_does_not_fit_the_checkpoint_is_refused_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    small(dir.path(), |flow| numbers(flow, 3, "op")).unwrap();
    let renamed = small(dir.path(), |flow| numbers(flow, 3, "renamed")).unwrap_err();
    assert_eq!(renamed.kind(), ErrorKind::Incompatible, "{renamed}");
    assert!(renamed.to_string().contains("op"), "{renamed}");
    let split = small(dir.path(), |flow| numbers(flow, 4, "op")).unwrap_err();
    assert_eq!(split.kind(), ErrorKind::Incompatible, "{split}");
    small(dir.path(), |flow| numbers(flow, 3, "op")).unwrap();
    let dropped = Job::local("small", dir.path()).unwrap().allow_dropped_state(true);
    dropped.run(Config::process(1), |flow| numbers(flow, 3, "renamed")).unwrap();
}

#[test]
fn what_cannot_be_built_is_an_error_in_every_worker() {
    let dir = tempfile::tempdir().unwrap();
    let twice = small(dir.path(), |flow| {
        numbers(flow, 1, "op")?;
        numbers(flow, 1, "op")
    });
    assert_eq!(twice.unwrap_err().kind(), ErrorKind::Invalid);
    let missing = small(dir.path(), |flow| {
        flow.source("lines", Lines::new("/nowhere/at/all")).build().map(|_| ())
    });
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::Unavailable);
    let different = small(dir.path(), |flow| numbers(flow, 1, &format!("op{}", flow.index())));
    let different = different.unwrap_err();
    assert_eq!(different.kind(), ErrorKind::Invalid);
    assert!(different.to_string().contains("different jobs"), "{different}");
    let many = Job::local("small", dir.path()).unwrap().run(Config::process(129), |_| Ok(()));
    assert_eq!(many.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn an_error_or_a_panic_of_a_function_ends_the_job_which_then_goes_on_from_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for failure in ["error", "panic"] {
        let failed = kill_job::job(dir).unwrap().run(Config::process(2), {
            let out = dir.to_owned();
            move |flow| {
                let index = flow.index();
                kill_job::build(flow, &out, RECORDS, move |seen| {
                    assert!(seen < 3_000 || index > 0 || failure != "panic", "a panic on purpose");
                })?;
                // An operator that fails late.
                let source = Generator::new(1, |_, number| (number < 5_000).then_some(number));
                let numbers = flow.source("numbers", source).build()?;
                flow.keyed("failing", numbers, |number| *number)
                    .state(|shard| ValueState::<u64, u64>::register(shard, "v"))?
                    .process::<()>(move |values, context, key, number| {
                        if number == 4_000 && failure == "error" {
                            return Err(Error::invalid("an error on purpose"));
                        }
                        values.put(context.store(), key, &number)
                    })?;
                Ok(())
            }
        });
        let failed = failed.unwrap_err();
        assert!(failed.to_string().contains("on purpose"), "{failed}");
    }
    let job = kill_job::job(dir).unwrap().allow_dropped_state(true);
    run(job, dir, 2, u64::MAX, |_| {}).unwrap();
    compare(&kill_job::expected(RECORDS), dir, 0);
}

#[test]
fn timers_fire_in_the_order_of_their_times_and_chains_of_them_in_one_round() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = Arc::new(AtomicBool::new(false));
    let fired = Arc::new(AtomicU64::new(0));
    let (seen, count) = (Arc::clone(&wrong), Arc::clone(&fired));
    small(dir.path(), move |flow| {
        let (wrong, fired) = (Arc::clone(&seen), Arc::clone(&count));
        let source = Generator::new(2, |split, number| {
            (number < 2_000).then_some((number % 50, number as i64 * 2 + i64::from(split)))
        });
        let events = flow.source("events", source).event_time(|(_, at)| *at, 0).build()?;
        let last = Rc::new(Cell::new(i64::MIN));
        let fire = move |timestamp, time, watermark| {
            fired.fetch_add(1, Ordering::SeqCst);
            let in_order =
                timestamp >= last.get() && time == timestamp && watermark == Some(timestamp);
            wrong.fetch_or(!in_order, Ordering::SeqCst);
            last.set(timestamp);
        };
        let also_fire = fire.clone();
        flow.keyed("timers", events, |(key, _)| *key)
            .state(|shard| {
                let chains = Timers::<u64, u64>::event_time(shard, "chains")?;
                let singles = Timers::<u64>::event_time(shard, "singles")?;
                Ok((chains, singles))
            })?
            .process_with_all_timers::<(), 2>(
                [
                    Fire::new(
                        |(chains, _)| chains,
                        move |(chains, _), context, timer| {
                            fire(timer.timestamp, context.time(), context.watermark());
                            if timer.namespace < 2 {
                                let (next, at) = (timer.namespace + 1, timer.timestamp + 1);
                                chains.register_in(context.store(), &timer.key, &next, at)?;
                            }
                            Ok(())
                        },
                    ),
                    Fire::new(
                        |(_, singles)| singles,
                        move |_, context, timer| {
                            also_fire(timer.timestamp, context.time(), context.watermark());
                            Ok(())
                        },
                    ),
                ],
                |(chains, singles), context, key, (_, at)| {
                    assert!(context.watermark().is_none_or(|watermark| watermark < at));
                    chains.register_in(context.store(), key, &0, at + 100)?;
                    singles.register(context.store(), key, at + 37)?;
                    Ok(())
                },
            )?;
        Ok(())
    })
    .unwrap();
    assert!(!wrong.load(Ordering::SeqCst));
    // Each of 4,000 times has a chain of three timers, and a single one.
    assert_eq!(fired.load(Ordering::SeqCst), 4 * 4_000);
}

#[test]
fn a_sink_refuses_to_begin_among_the_results_of_another_job() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("part-00000000000000000003-00000"), "x").unwrap();
    let refused = small(dir.path(), move |flow| {
        let source = Generator::new(1, |_, number| (number < 10).then_some(number));
        let numbers = flow.source("numbers", source).build()?;
        let same = flow
            .keyed("op", numbers, |number| *number)
            .state(|shard| ValueState::<u64, u64>::register(shard, "v"))?
            .process(|_, context, _, number| {
                context.emit(number);
                Ok(())
            })?;
        flow.files("out", same, FileSink::new(&out), |number: &u64, bytes| {
            bytes.extend_from_slice(&number.to_le_bytes());
        })
    });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_checkpoint_that_a_slow_worker_holds_up_is_given_up_and_the_job_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = Some(1);
    // Far more than a checkpoint takes on a busy machine, or none would ever complete.
    settings.timeout_ms = 1_000;
    settings.tolerable_failures = 1_000;
    let (given_up, wait) = channel();
    let job = Job::local("sightings", dir).unwrap().settings(settings).observer(move |event| {
        if let JobEvent::Aborted { reason, .. } = event {
            assert!(reason.contains("within 1000 ms"), "{reason}");
            // Only the first is waited for.
            let _ = given_up.send(());
        }
    });
    let (out, wait) = (dir.to_owned(), Arc::new(Mutex::new(Some(wait))));
    job.run(Config::process(2), move |flow| {
        let (is_slow, wait) = (flow.index() == 1, Arc::clone(&wait));
        kill_job::build(flow, &out, RECORDS, move |seen| {
            if is_slow && seen == 1_000 {
                wait.lock().unwrap().take().unwrap().recv().unwrap();
            }
        })
    })
    .unwrap();
    compare(&kill_job::expected(RECORDS), dir, 0);
}

/// A user's function that knows no store.
fn count<S: TimerStore>(
    counts: &mut ValueState<u64, u64>,
    context: &mut Context<'_, S, (u64, u64)>,
    key: &u64,
    _: u64,
) -> Result<()> {
    let mut count = 0;
    counts.update(context.store(), key, |before| {
        count = before.unwrap_or(0) + 1;
        Some(count)
    })?;
    context.emit((*key, count));
    Ok(())
}

#[test]
fn one_function_runs_on_alluvium_and_on_another_store() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_owned();
    let found = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
    let (collected, other) = (Arc::clone(&found), dir.join("other"));
    small(&dir, move |flow| {
        let source = Generator::new(3, |_, number| (number < 1_000).then_some(number));
        let numbers = flow.source("numbers", source).build()?;
        let ours = flow
            .keyed("ours", numbers.clone(), |number| number % 7)
            .state(|shard| ValueState::register(shard, "counts"))?
            .process(count)?;
        let other = other.join(flow.index().to_string());
        let theirs = flow
            .keyed("theirs", numbers, |number| number % 7)
            .state_in(
                |_, groups| Backend::builder(&other).open()?.shard("theirs", groups).open(),
                |store| ValueState::register(store, "counts"),
            )?
            .process(count)?;
        for (index, counts) in [ours, theirs].into_iter().enumerate() {
            let collected = Arc::clone(&collected);
            counts.inspect(move |count| collected.lock().unwrap()[index].push(*count));
        }
        Ok(())
    })
    .unwrap();
    let mut found = found.lock().unwrap().clone();
    found.iter_mut().for_each(|counts| counts.sort_unstable());
    assert_eq!(found[0].len(), 3_000);
    assert_eq!(found[0], found[1]);
}

#[test]
fn a_restored_checkpoint_goes_when_the_shards_do_not_read_it_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let checkpoints = move |dir: &Path| -> Vec<SnapshotId> {
        let store = LocalStore::open(Arc::new(RealEnv::new()), dir.join("checkpoints")).unwrap();
        let view = JobView::open(Arc::new(store), "endless").unwrap().unwrap();
        view.entry().checkpoints.iter().map(|checkpoint| checkpoint.id).collect()
    };
    let run = |ask: fn(&JobHandle, &Path)| {
        let job = Job::local("endless", dir).unwrap().interval_ms(None);
        let (handle, asked) = (job.handle(), dir.to_owned());
        let asking = std::thread::spawn(move || ask(&handle, &asked));
        let ended = job.run(Config::process(2), |flow| {
            let numbers = flow.source("n", Generator::new(2, |_, n| Some(n % 1_000))).build()?;
            flow.keyed("op", numbers, |number| *number)
                .state(|shard| ValueState::register(shard, "counts"))?
                .process(count)?;
            Ok(())
        });
        asking.join().unwrap();
        ended.unwrap();
    };
    run(|handle, _| {
        handle.checkpoint().unwrap();
        handle.stop("first", StopMode::Suspend).unwrap();
    });
    let base = *checkpoints(dir).last().unwrap();
    std::fs::write(dir.join("base"), base.0.to_string()).unwrap();
    run(|handle, dir| {
        let base = std::fs::read_to_string(dir.join("base")).unwrap().parse().unwrap();
        let store = LocalStore::open(Arc::new(RealEnv::new()), dir.join("checkpoints")).unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        let is_kept = || {
            let view = JobView::open(Arc::clone(&store), "endless").unwrap().unwrap();
            view.entry().checkpoints.iter().any(|kept| kept.id == SnapshotId(base))
        };
        let mut taken = 0;
        while is_kept() && taken < 50 {
            handle.checkpoint().unwrap();
            taken += 1;
        }
        handle.stop("second", StopMode::Suspend).unwrap();
        assert!(!is_kept(), "after {taken} checkpoints");
    });
}
