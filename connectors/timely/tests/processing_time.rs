//! Timers of the processing time: when they fire, when they do not, and that each one's
//! result counts once whatever becomes of the job.
//!
//! The clock is the test's own, so nothing here waits for time. `ALLUVIUM_SEED` repeats the
//! random lives.

#![allow(clippy::disallowed_methods, reason = "results are real files, and threads ask the job")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::coordinator::StopMode;
use alluvium::env::Env;
use alluvium::{Backend, Result, Shard, TimerStore, Timers};
use alluvium_timely::{Context, FileSink, Fire, Flow, Job, JobEvent, JobHandle, Outcome, Stateful};
use common::world::{Feed, Numbers, World};
use common::{Random, committed, mixed};
use timely::Config;
use timely::dataflow::StreamVec;

/// When the tests begin.
const BEGIN: u64 = 1_000_000;
/// In which the timers are due that are set.
const SPAN: u64 = 1_000;

/// When the timer of a number is due: 1 to [`SPAN`] ms after the beginning.
fn due(number: u64) -> i64 {
    (BEGIN + 1 + mixed(number) % SPAN) as i64
}

/// The numbers below `of` whose timers are due by then.
fn due_by(now: u64, of: u64) -> BTreeSet<u64> {
    (0..of).filter(|number| due(*number) <= now as i64).collect()
}

/// What happens in the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// A number has come, and its timer was set.
    Set(u64),
    /// Its timer fired, in this worker.
    Fired { worker: usize, number: u64 },
}

/// Sets a timer for each number, and says the number when it fires.
fn ring<'scope, S: TimerStore + 'static>(
    worker: usize,
    told: Sender<Told>,
    keyed: Stateful<
        'scope,
        u64,
        u64,
        <u64 as alluvium::codec::HasCodec>::Codec,
        S,
        Timers<u64, u64>,
    >,
) -> Result<StreamVec<'scope, alluvium_timely::Time, u64>> {
    let tells = told.clone();
    keyed.process_with_timers(
        |rings| rings,
        move |_, context: &mut Context<'_, S, u64>, timer| {
            let number = timer.namespace;
            assert_eq!((timer.key, timer.timestamp), (number % 97, due(number)));
            assert!(context.processing_time() >= timer.timestamp, "too early");
            context.emit(number);
            // A test that has seen enough listens no more.
            let _ = told.send(Told::Fired { worker, number });
            Ok(())
        },
        move |rings, context, key, number| {
            rings.register_in(context.store(), key, &number, due(number))?;
            let _ = tells.send(Told::Set(number));
            Ok(())
        },
    )
}

fn rings<S: TimerStore>(store: &mut S) -> Result<Timers<u64, u64>> {
    Timers::processing_time(store, "rings")
}

fn job(dir: &Path, world: &Arc<World>) -> Job {
    let env = Arc::clone(world) as Arc<dyn Env>;
    Job::local("rings", dir).unwrap().env(env).interval_ms(None)
}

/// Runs a job of one such operator, whose results go to files, while `ask` is called on
/// another thread.
fn run<T: Send + 'static>(
    job: Job,
    dir: &Path,
    workers: usize,
    feed: &Arc<Feed>,
    ask: impl FnOnce(&JobHandle, &Receiver<Told>) -> T + Send + 'static,
) -> (Result<Outcome>, T) {
    let (handle, (tell, told)) = (job.handle(), channel());
    let asking = std::thread::spawn(move || ask(&handle, &told));
    let (numbers, out) = (Numbers { feed: Arc::clone(feed), next: 0 }, dir.join("out"));
    let tell = Mutex::new(tell);
    let outcome = job.run(Config::process(workers), move |flow: &Flow<'_>| {
        let numbers = flow.source("numbers", numbers.clone()).build()?;
        let keyed = flow.keyed("ring", numbers, |number| number % 97).state(rings)?;
        let said = ring(flow.index(), tell.lock().unwrap().clone(), keyed)?;
        flow.files("out", said, FileSink::new(&out), |number, bytes| {
            bytes.extend_from_slice(format!("{number}\n").as_bytes());
        })
    });
    (outcome, asking.join().unwrap())
}

/// Waits until so many timers were set.
fn wait_for_set(told: &Receiver<Told>, count: usize) {
    let set = told.iter().filter(|told| matches!(told, Told::Set(_))).take(count).count();
    assert_eq!(set, count, "the job has ended");
}

/// Waits until so many fired: which, in the order in which each worker did.
fn wait_for_fired(told: &Receiver<Told>, count: usize) -> Vec<(usize, u64)> {
    let fired = told.iter().filter_map(|told| match told {
        Told::Fired { worker, number } => Some((worker, number)),
        Told::Set(_) => None,
    });
    let fired: Vec<_> = fired.take(count).collect();
    assert_eq!(fired.len(), count, "the job has ended");
    fired
}

/// Checks that these have fired, each once, and each worker's in the order of their times.
fn check_fired(fired: &[(usize, u64)], expected: &BTreeSet<u64>) {
    let numbers: BTreeSet<u64> = fired.iter().map(|(_, number)| *number).collect();
    assert_eq!((&numbers, fired.len()), (expected, expected.len()));
    for worker in 0..8 {
        let times = fired.iter().filter(|(of, _)| *of == worker).map(|(_, number)| due(*number));
        assert!(times.is_sorted(), "worker {worker}");
    }
}

/// Checks that the files hold exactly these.
fn check_files(dir: &Path, expected: impl IntoIterator<Item = u64>) {
    let mut expected: Vec<String> = expected.into_iter().map(|number| number.to_string()).collect();
    expected.sort();
    assert_eq!(committed(&dir.join("out")), expected);
}

#[test]
fn timers_fire_in_the_order_of_their_times_when_the_clock_has_passed_them() {
    let dir = tempfile::tempdir().unwrap();
    let (world, feed) = (World::at(BEGIN), Feed::until(0));
    let (clock, fed) = (Arc::clone(&world), Arc::clone(&feed));
    let (outcome, ()) = run(job(dir.path(), &world), dir.path(), 3, &feed, move |handle, told| {
        // The operator has run, and seen that there is no timer yet.
        handle.checkpoint().unwrap();
        fed.limit.store(3_000, SeqCst);
        wait_for_set(told, 3_000);
        let mut before = BTreeSet::new();
        for part in [1, 2, 7] {
            let now = BEGIN + SPAN * part / 8;
            clock.set(now);
            let due = due_by(now, 3_000);
            let expected: BTreeSet<u64> = due.difference(&before).copied().collect();
            assert!(expected.len() > 100);
            check_fired(&wait_for_fired(told, expected.len()), &expected);
            before = due;
        }
        fed.end();
        // What is still pending at the end of the input stays.
        assert_eq!(told.iter().count(), 0);
    });
    outcome.unwrap();
    check_files(dir.path(), due_by(BEGIN + SPAN * 7 / 8, 3_000));
}

#[test]
fn timers_that_came_due_while_the_job_was_down_fire_at_once_on_any_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let world = World::at(BEGIN);
    let feed = Feed::until(1_500);
    let clock = Arc::clone(&world);
    let (outcome, ()) = run(job(dir, &world), dir, 2, &feed, move |handle, told| {
        wait_for_set(told, 1_500);
        clock.set(BEGIN + SPAN / 4);
        wait_for_fired(told, due_by(BEGIN + SPAN / 4, 1_500).len());
        handle.stop("down", StopMode::Suspend).unwrap();
    });
    outcome.unwrap();
    let mut before = due_by(BEGIN + SPAN / 4, 1_500);
    check_files(dir, before.iter().copied());
    for (workers, part) in [(3, 2), (1, 3), (4, 4)] {
        let now = BEGIN + SPAN * part / 4;
        world.set(now);
        let due = due_by(now, 1_500);
        let expected: BTreeSet<u64> = due.difference(&before).copied().collect();
        let (outcome, fired) = run(job(dir, &world), dir, workers, &feed, {
            let count = expected.len();
            move |handle, told| {
                // Nothing comes, and the clock stands still.
                let fired = wait_for_fired(told, count);
                handle.stop(&format!("down-{part}"), StopMode::Suspend).unwrap();
                fired
            }
        });
        outcome.unwrap();
        check_fired(&fired, &expected);
        check_files(dir, due.iter().copied());
        before = due;
    }
    assert_eq!(before.len(), 1_500);
}

#[test]
fn nothing_fires_between_the_last_snapshot_and_the_end_of_the_job() {
    for ends in [None, Some(StopMode::Suspend), Some(StopMode::Drain)] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (world, feed) = (World::at(BEGIN), Feed::until(300));
        let (clock, fed) = (Arc::clone(&world), Arc::clone(&feed));
        let job_of = job(dir, &world).observer(move |event| {
            if matches!(event, JobEvent::Acknowledged { .. }) {
                clock.set(BEGIN + SPAN);
                // Longer than a worker ever sleeps: what would fire now does.
                std::thread::sleep(Duration::from_millis(60));
            }
        });
        let (outcome, fired) = run(job_of, dir, 2, &feed, move |handle, told| {
            wait_for_set(told, 300);
            match ends {
                None => fed.end(),
                Some(mode) => drop(handle.stop("end", mode).unwrap()),
            }
            told.iter().count()
        });
        outcome.unwrap();
        assert_eq!(fired, 0, "{ends:?}");
        check_files(dir, []);
        // They are all in what it ended with.
        feed.ends.store(false, SeqCst);
        if ends == Some(StopMode::Suspend) {
            let (outcome, fired) = run(job(dir, &world), dir, 3, &feed, move |handle, told| {
                let fired = wait_for_fired(told, 300);
                handle.stop("again", StopMode::Suspend).unwrap();
                fired
            });
            outcome.unwrap();
            check_fired(&fired, &(0..300).collect());
            check_files(dir, 0..300);
        }
    }
}

/// Lives of one job: more records, more time, checkpoints, and an end by failure or a stop.
fn live_and_die(seed: Option<u64>) {
    const ALL: u64 = 1_200;
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (world, feed) = (World::at(BEGIN), Feed::until(0));
    for life in 0..6 {
        let workers = 1 + random.below(4) as usize;
        let actions: Vec<_> = (0..2 + random.below(5)).map(|_| random.next()).collect();
        let (clock, fed) = (Arc::clone(&world), Arc::clone(&feed));
        let (is_last, fails) = (life == 5, random.below(3) > 0);
        let ends_with_checkpoint = random.below(2) > 0;
        let files = dir.to_owned();
        let (outcome, ()) = run(job(dir, &world), dir, workers, &feed, move |handle, told| {
            for action in actions {
                let by = action >> 8;
                match action % 5 {
                    0 => drop(handle.checkpoint().unwrap()),
                    1 => {
                        let limit = fed.limit.load(SeqCst) + by % (ALL / 6);
                        fed.limit.store(limit.min(ALL), SeqCst);
                    }
                    2 => drop(clock.now.fetch_add(by % (SPAN / 8), SeqCst)),
                    3 => clock.step.store(by % 2, SeqCst),
                    // Something happens first, if something is to come.
                    _ => drop(told.recv_timeout(Duration::from_millis(20))),
                }
            }
            if is_last {
                fed.limit.store(ALL, SeqCst);
                clock.now.fetch_max(BEGIN + SPAN, SeqCst);
                let mut patience = 1_000;
                let is_all_said = || committed(&files.join("out")).len() as u64 >= ALL;
                while !is_all_said() && patience > 0 {
                    handle.checkpoint().unwrap();
                    patience -= 1;
                }
                fed.end();
            } else if fails {
                if ends_with_checkpoint {
                    // What it goes on from is then what was there a moment ago.
                    handle.checkpoint().unwrap();
                }
                fed.fails.store(true, SeqCst);
            } else {
                handle.stop(&format!("life-{life}"), StopMode::Suspend).unwrap();
            }
        });
        assert_eq!(outcome.is_err(), fails && !is_last, "life {life}: {outcome:?}");
        feed.fails.store(false, SeqCst);
    }
    check_files(dir, 0..ALL);
}

#[test]
fn each_timer_counts_once_however_often_the_job_fails_stops_and_is_rescaled() {
    let seed = std::env::var("ALLUVIUM_SEED").ok().map(|seed| seed.parse().unwrap());
    for _ in 0..if seed.is_some() { 1 } else { 5 } {
        live_and_die(seed);
    }
}

#[test]
fn what_fired_after_the_last_checkpoint_fires_again_and_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (world, feed) = (World::at(BEGIN), Feed::until(500));
    let (clock, fed) = (Arc::clone(&world), Arc::clone(&feed));
    let (outcome, ()) = run(job(dir, &world), dir, 2, &feed, move |handle, told| {
        wait_for_set(told, 500);
        handle.checkpoint().unwrap();
        clock.set(BEGIN + SPAN / 2);
        wait_for_fired(told, due_by(BEGIN + SPAN / 2, 500).len());
        fed.fails.store(true, SeqCst);
    });
    assert!(outcome.unwrap_err().to_string().contains("on purpose"));
    check_files(dir, []);
    feed.fails.store(false, SeqCst);
    world.set(BEGIN + SPAN);
    let fed = Arc::clone(&feed);
    let (outcome, fired) = run(job(dir, &world), dir, 3, &feed, move |_, told| {
        let fired = wait_for_fired(told, 500);
        fed.end();
        fired
    });
    outcome.unwrap();
    check_fired(&fired, &(0..500).collect());
    check_files(dir, 0..500);
}

#[test]
fn a_worker_sleeps_until_a_timer_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let (world, feed) = (World::at(BEGIN), Feed::until(50));
    let (clock, fed) = (Arc::clone(&world), Arc::clone(&feed));
    let (outcome, (asked, looked)) =
        run(job(dir.path(), &world), dir.path(), 1, &feed, move |_, told| {
            wait_for_set(told, 50);
            let count = || (fed.asked.load(SeqCst), clock.looks.load(SeqCst));
            let before = count();
            // The source has nothing, sleeps, and is asked again.
            while fed.asked.load(SeqCst) < before.0 + 40 {
                let nothing = told.recv_timeout(Duration::from_millis(1));
                assert_eq!(nothing, Err(RecvTimeoutError::Timeout), "no timer is due");
            }
            let after = count();
            clock.set(BEGIN + SPAN);
            wait_for_fired(told, 50);
            fed.end();
            (after.0 - before.0, after.1 - before.1)
        });
    outcome.unwrap();
    assert!(
        looked <= asked * 10,
        "{looked} looks at the clock, while the source was asked {asked} times"
    );
}

/// Sets a timer that is due.
fn again(rings: &Timers<u64>, context: &mut Context<'_, Shard, ()>, key: u64) -> Result<()> {
    let now = context.processing_time();
    rings.register(context.store(), &key, now).map(drop)
}

#[test]
fn timers_that_are_due_again_at_once_keep_neither_records_nor_barriers_away() {
    let dir = tempfile::tempdir().unwrap();
    let (world, feed) = (World::at(BEGIN), Feed::until(1));
    let fed = Arc::clone(&feed);
    let job = job(dir.path(), &world);
    let (handle, (saw, seen)) = (job.handle(), channel());
    let asking = std::thread::spawn(move || {
        assert_eq!(seen.recv(), Ok(0));
        handle.checkpoint().unwrap();
        fed.limit.store(2, SeqCst);
        assert_eq!(seen.recv(), Ok(1));
        handle.stop("enough", StopMode::Suspend).unwrap();
    });
    let (numbers, saw) = (Numbers { feed, next: 0 }, Mutex::new(saw));
    job.run(Config::process(1), move |flow| {
        let saw = saw.lock().unwrap().clone();
        let numbers = flow.source("numbers", numbers.clone()).build()?;
        flow.keyed("ring", numbers, |number| *number)
            .state(|shard| Timers::processing_time(shard, "rings"))?
            .process_with_timers(
                |rings| rings,
                move |rings, context, timer| again(rings, context, timer.key),
                move |rings, context, key, number| {
                    let _ = saw.send(number);
                    again(rings, context, *key)
                },
            )?;
        Ok(())
    })
    .unwrap();
    asking.join().unwrap();
}

/// Timers of the event time, and of the processing time.
type Both = (Timers<u64>, Timers<u64, i64>);

#[test]
fn timers_of_both_times_fire_in_one_operator_and_what_they_send_is_never_late() {
    const COUNT: i64 = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let (world, feed) = (World::at(BEGIN), Feed::until(COUNT as u64));
    let fed = Arc::clone(&feed);
    let (say, said) = channel();
    let asking = std::thread::spawn(move || {
        let (mut all, mut rings) = (Vec::new(), 0);
        // The last number holds the watermark back until the input ends.
        while rings < COUNT - 1 {
            let said: (bool, u64, i64, i64) = said.recv().expect("the job has ended");
            rings += i64::from(said.0);
            all.push(said);
        }
        fed.end();
        all.extend(said);
        all
    });
    let (numbers, say) = (Numbers { feed, next: 0 }, Mutex::new(say));
    let job = job(dir.path(), &world);
    job.run(Config::process(2), move |flow| {
        let say = say.lock().unwrap().clone();
        let numbers = flow.source("numbers", numbers.clone());
        let numbers = numbers.event_time(|number| *number as i64, 0).batch_records(64).build()?;
        let at_the_watermark = Fire::new(
            |(ends, _): &Both| ends,
            |(_, rings), context, timer| {
                assert_eq!(context.time(), timer.timestamp);
                let time = context.time();
                context.emit((false, timer.key, timer.timestamp, time));
                // Due already, as long as there is input.
                let due = context.processing_time() - timer.timestamp.min(COUNT);
                rings.register_in(context.store(), &timer.key, &timer.timestamp, due)?;
                Ok(())
            },
        );
        let by_the_clock = Fire::new(
            |(_, rings): &Both| rings,
            |(ends, _), context, timer| {
                assert!(timer.timestamp <= BEGIN as i64);
                let watermark = context.watermark().expect("event timers fired");
                assert_eq!(context.time(), watermark + 1);
                context.emit((true, timer.key, timer.namespace, watermark + 1));
                if timer.namespace % 100 == 0 {
                    let end = COUNT + timer.namespace;
                    ends.register(context.store(), &timer.key, end)?;
                }
                Ok(())
            },
        );
        let both = flow
            .keyed("both", numbers, |number| number % 7)
            .state(|shard| {
                let ends = Timers::event_time(shard, "ends")?;
                let rings = Timers::processing_time(shard, "rings")?;
                Ok((ends, rings))
            })?
            .process_with_all_timers(
                [at_the_watermark, by_the_clock],
                |(ends, _), context, key, number| {
                    ends.register(context.store(), key, number as i64)?;
                    Ok(())
                },
            )?;
        flow.keyed("after", both, |(_, key, ..)| *key)
            .state(|shard| Timers::<u64>::event_time(shard, "unused"))?
            .process::<()>(move |_, context, _, record| {
                assert_eq!(context.time(), record.3, "what it was sent at");
                let is_late = context.watermark().is_some_and(|past| past >= context.time());
                assert!(!is_late, "{record:?} at {}", context.time());
                let _ = say.send(record);
                Ok(())
            })?;
        Ok(())
    })
    .unwrap();
    let said = asking.join().unwrap();
    let of = |is_ring| {
        let of = said.iter().filter(|(what, ..)| *what == is_ring);
        of.map(|(_, _, at, _)| *at).collect::<BTreeSet<_>>()
    };
    let late = (0..COUNT - 1).filter(|at| at % 100 == 0).map(|at| COUNT + at);
    assert_eq!(of(false), (0..COUNT).chain(late).collect());
    // Those that were set when the input had ended fire no more.
    assert_eq!(of(true), (0..COUNT - 1).collect());
    assert_eq!(said.len(), of(false).len() + of(true).len(), "one fired twice");
}

#[test]
fn timers_fire_on_stores_of_other_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let (world, feed) = (World::at(BEGIN), Feed::until(400));
    let (clock, fed) = (Arc::clone(&world), Arc::clone(&feed));
    let (tell, told) = channel();
    let asking = std::thread::spawn(move || {
        wait_for_set(&told, 400);
        clock.set(BEGIN + SPAN);
        let fired = wait_for_fired(&told, 400);
        fed.end();
        fired
    });
    let (numbers, tell, other) =
        (Numbers { feed, next: 0 }, Mutex::new(tell), dir.path().join("other"));
    job(dir.path(), &world)
        .run(Config::process(2), move |flow| {
            let numbers = flow.source("numbers", numbers.clone()).build()?;
            let other = other.join(flow.index().to_string());
            // A job has state in its own backend somewhere.
            flow.keyed("ours", numbers.clone(), |number| *number)
                .state(rings)?
                .process::<()>(|_, _, _, _| Ok(()))?;
            let keyed = flow.keyed("theirs", numbers, |number| number % 97).state_in(
                |_, groups| Backend::builder(&other).open()?.shard("theirs", groups).open(),
                rings,
            )?;
            ring(flow.index(), tell.lock().unwrap().clone(), keyed)?;
            Ok(())
        })
        .unwrap();
    check_fired(&asking.join().unwrap(), &(0..400).collect());
}
