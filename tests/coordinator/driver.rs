//! A coordinator that somebody else calls: on a simulated machine turn by turn, and on a
//! thread of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use alluvium::coordinator::driver::{Events, Reply};
use alluvium::coordinator::{
    Acknowledged, Barrier, CheckpointSettings, Driver, Event, Participant, StopMode,
};
use alluvium::env::sim::SimRng;
use alluvium::env::{Env, RealEnv};
use alluvium::format::ShardAck;
use alluvium::object::{MemoryStore, ObjectStore};
use alluvium::{Coordinator, ErrorKind, Result, SnapshotId};

use crate::by_hand::{Goes, Job, by_hand};
use crate::shard::{OPERATORS, Shard, max_of};

/// A coordinator with its shards, in a simulated world, driven by hand.
struct World {
    job: Job,
    driver: Driver,
    events: Events,
}

impl World {
    fn new(settings: CheckpointSettings) -> Self {
        let mut job = Job::new(settings.clone());
        // The job keeps another one, which has nothing to say.
        let idle = Job::open(&job.env, &job.store, "idle", by_hand()).coordinator;
        let driver = Driver::by_hand(std::mem::replace(&mut job.coordinator, idle));
        let events = driver.handle().subscribe();
        Self { job, driver, events }
    }

    fn events(&self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_next().unwrap()).collect()
    }

    fn acks(&mut self, barrier: &Barrier) -> Vec<ShardAck> {
        acks(&mut self.job.shards, barrier)
    }

    /// The barrier that was said last.
    fn barrier(&self) -> Barrier {
        self.driver.turn();
        let mut barriers = self.events().into_iter().filter_map(|event| match event {
            Event::Trigger(barrier) => Some(barrier),
            _ => None,
        });
        barriers.next_back().expect("a barrier")
    }
}

fn acks(shards: &mut [Shard], barrier: &Barrier) -> Vec<ShardAck> {
    let take = |shard: &mut Shard| {
        shard.freeze(barrier.id, barrier.epoch, barrier.stop.is_some()).unwrap();
        shard.work().unwrap().1.unwrap()
    };
    shards.iter_mut().map(take).collect()
}

/// The kind of an error, and its text.
fn failed<T: std::fmt::Debug>(reply: &Reply<T>) -> (ErrorKind, String) {
    let error = reply.try_take().expect("an outcome").expect_err("an error");
    (error.kind(), error.to_string())
}

#[test]
fn a_checkpoint_is_told_to_who_asked_for_it_when_it_is_complete_and_not_before() {
    let mut world = World::new(by_hand());
    let control = world.driver.handle();
    let complete = control.trigger();
    assert!(complete.try_take().is_none(), "no turn was taken");
    let barrier = world.barrier();
    let mut acks = world.acks(&barrier);
    let last = acks.pop().unwrap();
    control.set_runtime_data(barrier.id, b"offset".to_vec()).wait().unwrap();
    for ack in acks {
        assert_eq!(control.acknowledge(ack.clone()).wait().unwrap(), Acknowledged::Counted);
        assert_eq!(control.acknowledge(ack).wait().unwrap(), Acknowledged::Duplicate);
    }
    assert_eq!(complete.wait().unwrap_err().kind(), ErrorKind::Invalid, "nobody would bring it");
    drop(control.acknowledge(last));
    assert_eq!(complete.wait().unwrap(), barrier.id);
    assert_eq!(complete.wait().unwrap_err().kind(), ErrorKind::Invalid, "it was taken");
    assert_eq!(world.events(), [Event::Completed(barrier.id)]);
    let stats = control.stats();
    assert_eq!((stats.triggered, stats.completed, stats.under_way), (1, 1, 0));
    assert_eq!(stats.last_completed, Some(barrier.id));
    let coordinator = world.driver.stop().unwrap();
    assert_eq!((stats.needed_files, stats.needed_bytes), coordinator.files());
    let view = coordinator.view();
    let resume = view.entry().resume.clone().unwrap();
    assert_eq!(view.read(&resume).unwrap().runtime, b"offset");
}

#[test]
fn a_savepoint_into_a_place_is_told_to_who_asked_for_it_and_its_place_to_the_shards() {
    let mut world = World::new(by_hand());
    let control = world.driver.handle();
    let there: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(Arc::new(world.job.env.clone())));
    let placed = control.savepoint_into("a", "there", Arc::clone(&there));
    let barrier = world.barrier();
    assert_eq!(barrier.place.as_deref(), Some("there"));
    // These shards know no other place than the job's store.
    let ack = world.acks(&barrier).remove(0);
    assert_eq!(control.acknowledge(ack).wait().unwrap_err().kind(), ErrorKind::Invalid);
    let (kind, text) = failed(&placed);
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("not in the folder"), "{text}");
    let refused = control.savepoint_into("b", "there", there);
    world.driver.turn();
    assert_eq!(failed(&refused).0, ErrorKind::Invalid, "somebody has begun there");
}

#[test]
fn what_is_given_up_is_told_with_the_reason_and_the_job_goes_on() {
    let mut world = World::new(by_hand());
    let control = world.driver.handle();
    let declined = control.savepoint("a");
    let barrier = world.barrier();
    let shard = Participant {
        operator: OPERATORS[0].0.to_owned(),
        groups: world.job.shards[0].groups,
        max_parallelism: max_of(OPERATORS[0].0),
    };
    control.decline(barrier.id, &shard, "no room").wait().unwrap();
    let (kind, text) = failed(&declined);
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("no room"), "{text}");
    assert!(control.stats().last_failure.unwrap().contains("no room"));

    let late = control.trigger();
    world.barrier();
    world.job.env.advance_ms(600_000);
    world.driver.turn();
    assert!(failed(&late).1.contains("did not acknowledge it within"));
    // What cannot be begun is told at once.
    let nameless = control.savepoint("..");
    world.driver.turn();
    assert_eq!(failed(&nameless).0, ErrorKind::Invalid);

    let again = control.savepoint("a");
    let barrier = world.barrier();
    world.acks(&barrier).into_iter().for_each(|ack| drop(control.acknowledge(ack)));
    assert_eq!(again.wait().unwrap(), barrier.id);
    let stats = control.stats();
    assert_eq!((stats.triggered, stats.savepoints, stats.given_up), (3, 1, 2));
}

#[test]
fn checkpoints_begin_by_the_clock_of_the_environment() {
    let mut settings = by_hand();
    settings.interval_ms = Some(100);
    let mut world = World::new(settings);
    for _ in 0..99 {
        world.job.env.advance_ms(1);
        world.driver.turn();
    }
    assert_eq!(world.events(), []);
    world.job.env.advance_ms(1);
    // Waiting takes turns.
    let Event::Trigger(barrier) = world.events.next().unwrap() else { panic!("a barrier") };
    let control = world.driver.handle();
    world.acks(&barrier).into_iter().for_each(|ack| drop(control.acknowledge(ack)));
    assert_eq!(world.events.next().unwrap(), Event::Completed(barrier.id));
    assert_eq!(world.events.next().unwrap_err().kind(), ErrorKind::Invalid, "nothing is due");
}

#[test]
fn the_first_who_listens_hears_everything_and_others_what_comes_from_then_on() {
    let job = Job::new(by_hand());
    let driver = Driver::by_hand(job.coordinator);
    let control = driver.handle();
    drop(control.trigger());
    driver.turn();
    let first = control.subscribe();
    let second = control.subscribe();
    drop(control.call(|coordinator| {
        coordinator.abort(SnapshotId(1), "no");
        Ok(())
    }));
    driver.turn();
    assert!(matches!(first.try_next().unwrap(), Some(Event::Trigger(_))));
    assert!(matches!(first.try_next().unwrap(), Some(Event::Aborted { .. })));
    assert!(matches!(second.try_next().unwrap(), Some(Event::Aborted { .. })));
    drop(first);
    drop(second);
    drop(control.trigger());
    driver.turn();
    driver.stop().unwrap();
    // What nobody heard is there for who comes late, and then the end.
    let late = control.subscribe();
    assert!(matches!(late.try_next().unwrap(), Some(Event::Trigger(_) | Event::Aborted { .. })));
    while let Ok(Some(_)) = late.try_next() {}
    assert_eq!(late.try_next().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(late.next().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_job_is_stopped_with_a_savepoint_and_goes_on_from_it() {
    let mut world = World::new(by_hand());
    world.job.write();
    let value = world.job.value();
    let control = world.driver.handle();
    let last = control.stop_with_savepoint("last", StopMode::Suspend);
    let barrier = world.barrier();
    assert_eq!(barrier.stop, Some(StopMode::Suspend));
    world.acks(&barrier).into_iter().for_each(|ack| drop(control.acknowledge(ack)));
    let id = last.wait().unwrap();
    assert_eq!(world.events(), [Event::Stopped { id, name: "last".to_owned() }]);
    drop(world.driver.stop().unwrap());
    world.job.assert_restores(&alluvium::coordinator::RestoreFrom::Latest, &value);
}

#[test]
fn a_coordinator_that_is_fenced_ends_and_everybody_hears_why() {
    let mut world = World::new(by_hand());
    let control = world.driver.handle();
    let under_way = control.trigger();
    let barrier = world.barrier();
    let acks = world.acks(&barrier);
    let settings = by_hand();
    let next = Job::coordinator(&world.job.env, &world.job.store, "job", settings).unwrap();
    // With the last one it would be complete.
    let acked: Vec<_> = acks.into_iter().map(|ack| control.acknowledge(ack)).collect();
    let behind = control.call(|_| Ok(7));
    world.driver.turn();
    for (kind, text) in
        [failed(&under_way), failed(&control.call(|_| Ok(()))), failed(acked.last().unwrap())]
    {
        assert_eq!(kind, ErrorKind::Closed, "{text}");
        assert!(text.contains("has taken over"), "{text}");
    }
    assert_eq!(behind.wait().unwrap(), 7, "it was done before that was known");
    let over = world.events.next().unwrap_err();
    assert!(over.to_string().contains("has taken over"), "{over}");
    assert!(control.stats().ended.unwrap().contains("has taken over"));
    let error = world.driver.stop().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(next.epoch(), 2);
}

/// Keeps what is meant to panic from writing all over the output.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let done = work();
    std::panic::set_hook(hook);
    done
}

#[test]
fn a_panic_ends_it_and_is_told_to_who_asked_and_to_who_waits() {
    let world = World::new(by_hand());
    let control = world.driver.handle();
    let before = control.trigger();
    world.barrier();
    let panics: Reply<()> = control.call(|_| panic!("seven of {}", "nine"));
    let behind = control.call(|_| Ok(()));
    quietly(|| world.driver.turn());
    let (kind, text) = failed(&panics);
    assert_eq!(kind, ErrorKind::Internal);
    assert!(text.contains("seven of nine"), "{text}");
    for reply in [&behind, &control.call(|_| Ok(()))] {
        let (kind, text) = failed(reply);
        assert_eq!(kind, ErrorKind::Closed);
        assert!(text.contains("seven of nine"), "{text}");
    }
    assert!(failed(&before).1.contains("seven of nine"));
    assert!(world.events.next().unwrap_err().to_string().contains("seven of nine"));
    let error = world.driver.stop().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("seven of nine"), "{error}");
}

#[test]
fn stopping_does_what_was_asked_for_before_and_dropping_does_not() {
    for drops in [false, true] {
        let world = World::new(by_hand());
        let control = world.driver.handle();
        let under_way = control.trigger();
        world.barrier();
        let was_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&was_done);
        let asked = control.call(move |_| {
            done.store(true, Ordering::Relaxed);
            Ok(())
        });
        if drops {
            drop(world.driver);
        } else {
            world.driver.stop().unwrap();
        }
        assert_eq!(was_done.load(Ordering::Relaxed), !drops);
        if drops {
            assert_eq!(failed(&asked).0, ErrorKind::Closed);
        } else {
            asked.wait().unwrap();
        }
        let (kind, text) = failed(&under_way);
        assert_eq!(kind, ErrorKind::Closed);
        assert!(text.contains("was stopped"), "{text}");
        assert_eq!(failed(&control.savepoint("late")).0, ErrorKind::Closed);
        assert_eq!(world.events.next().unwrap_err().kind(), ErrorKind::Closed);
    }
}

/// Random calls, a store that fails now and then, and time that passes: every call gets one
/// outcome, and what the statistics count adds up.
#[test]
fn every_call_gets_one_outcome_whatever_the_store_does() {
    let mut sums = [0; 3];
    for seed in 0..300 {
        let mut rng = SimRng::new(seed);
        let mut settings = by_hand();
        settings.interval_ms = Some(40);
        settings.timeout_ms = 200;
        settings.max_concurrent = 2;
        settings.tolerable_failures = 1_000;
        let mut world = World::new(settings);
        let control = world.driver.handle();
        let mut flaky = SimRng::new(!seed);
        let one_in = [0, 30, 6][rng.below(3) as usize];
        world.job.store.watch(move |_, _| match one_in > 0 && flaky.one_in(one_in) {
            false => Goes::Well,
            true if flaky.one_in(2) => Goes::Fails,
            true => Goes::Unheard,
        });
        let mut waiting: Vec<Reply<SnapshotId>> = Vec::new();
        let mut outcomes = 0u64;
        let mut asked = 0u64;
        for _ in 0..60 {
            match rng.below(6) {
                0 => waiting.push(control.trigger()),
                1 => waiting.push(control.savepoint(format!("s{}", rng.below(5)))),
                _ => world.job.env.advance_ms(rng.below(30)),
            }
            asked = asked.max(outcomes + waiting.len() as u64);
            world.driver.turn();
            for event in world.events() {
                if let Event::Trigger(barrier) = event {
                    world.job.write();
                    for shard in &mut world.job.shards {
                        if shard.freeze(barrier.id, barrier.epoch, false).is_none() {
                            continue;
                        }
                        // A shard whose upload failed says nothing.
                        let Some((_, Ok(ack))) = shard.work() else { continue };
                        if !rng.one_in(12) {
                            drop(control.acknowledge(ack));
                        }
                    }
                }
            }
            waiting.retain(|reply| {
                let outcome = reply.try_take();
                outcomes += u64::from(outcome.is_some());
                outcome.is_none()
            });
        }
        world.job.store.watch(|_, _| Goes::Well);
        for _ in 0..5 {
            world.job.env.advance_ms(250);
            world.driver.turn();
        }
        let stats = control.stats();
        let over = stats.completed + stats.savepoints + stats.given_up;
        assert_eq!(stats.triggered, over + stats.under_way as u64, "seed {seed}: {stats:?}");
        sums[0] += stats.completed;
        sums[1] += stats.savepoints;
        sums[2] += stats.given_up;
        world.driver.stop().unwrap();
        for reply in &waiting {
            outcomes += 1;
            assert!(reply.try_take().is_some(), "seed {seed}: a call without an outcome");
        }
        assert_eq!(outcomes, asked, "seed {seed}");
    }
    assert!(sums.iter().all(|sum| *sum > 100), "{sums:?}");
}

/// A coordinator and its shards in the real world.
fn real(store: Arc<dyn ObjectStore>) -> (Coordinator, Vec<Shard>) {
    let mut coordinator = Coordinator::builder(store, "job").settings(by_hand()).open().unwrap();
    let mut shards = Vec::new();
    let mut participants = Vec::new();
    for (operator, _) in OPERATORS {
        let of = Participant::of_operator(operator, max_of(operator), 2).unwrap();
        for participant in &of {
            let who = (0, coordinator.epoch(), shards.len() as u64);
            let what = (operator, participant.groups);
            shards.push(Shard::open(who, what, None, coordinator.sink(), &[]).unwrap());
        }
        participants.extend(of);
    }
    coordinator.start(participants).unwrap();
    (coordinator, shards)
}

/// Nobody sleeps for so long: who is heard before was called.
const NEVER: Duration = Duration::from_secs(1 << 30);

#[test]
#[allow(clippy::disallowed_methods, reason = "this is about threads")]
fn a_thread_of_its_own_hears_calls_from_all_threads_at_once() {
    let env: Arc<dyn Env> = Arc::new(RealEnv::new());
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new(env));
    let (coordinator, shards) = real(Arc::clone(&store));
    let driver = Driver::start(coordinator, NEVER).unwrap();
    let control = driver.handle();
    let rounds = 20;
    std::thread::scope(|scope| {
        for mut shard in shards {
            let (control, events) = (driver.handle(), driver.handle().subscribe());
            scope.spawn(move || {
                let mut completed = 0;
                while completed < rounds {
                    match events.next().unwrap() {
                        Event::Trigger(barrier) => {
                            shard.freeze(barrier.id, barrier.epoch, false).unwrap();
                            let ack = shard.work().unwrap().1.unwrap();
                            drop(control.acknowledge(ack));
                        }
                        Event::Completed(id) => {
                            shard.complete(id.0);
                            completed += 1;
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        for _ in 0..rounds {
            control.trigger().wait().unwrap();
        }
    });
    assert_eq!(control.stats().completed, rounds);
    let coordinator = driver.stop().unwrap();
    assert_eq!(coordinator.under_way().count(), 0);
    let mut next = Coordinator::builder(store, "job").open().unwrap();
    next.restore(&alluvium::coordinator::RestoreFrom::Latest, Default::default()).unwrap();
}

/// A store in which somebody can be kept.
struct Slow {
    inner: MemoryStore,
    entered: Sender<()>,
    leave: Mutex<Receiver<()>>,
    keeps: Arc<AtomicBool>,
}

impl std::fmt::Debug for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slow")
    }
}

impl ObjectStore for Slow {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn create(&self, name: &alluvium::object::ObjectName, bytes: &[u8]) -> Result<()> {
        if self.keeps.swap(false, Ordering::Relaxed) {
            self.entered.send(()).unwrap();
            self.leave.lock().unwrap().recv().unwrap();
        }
        self.inner.create(name, bytes)
    }

    fn create_from_file(
        &self,
        _: &alluvium::object::ObjectName,
        _: &std::path::Path,
        _: &alluvium::object::Contents,
        _: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        unreachable!("nobody here has files")
    }

    fn create_from_source(
        &self,
        name: &alluvium::object::ObjectName,
        source: &dyn alluvium::env::ReadAt,
        expected: &alluvium::object::Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.inner.create_from_source(name, source, expected, keep_going)
    }

    fn open(&self, name: &alluvium::object::ObjectName) -> Result<Arc<dyn alluvium::env::ReadAt>> {
        self.inner.open(name)
    }

    fn len_of(&self, name: &alluvium::object::ObjectName) -> Result<Option<u64>> {
        self.inner.len_of(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<alluvium::object::ObjectName>> {
        self.inner.list(prefix)
    }

    fn remove(&self, name: &alluvium::object::ObjectName) -> Result<()> {
        self.inner.remove(name)
    }
}

#[test]
fn a_store_that_hangs_keeps_nobody_who_does_not_want_to_wait_for_it() {
    let env: Arc<dyn Env> = Arc::new(RealEnv::new());
    let (entered, was_entered) = channel();
    let (let_go, leave) = channel();
    let keeps = Arc::new(AtomicBool::new(false));
    let store = Slow {
        inner: MemoryStore::new(env),
        entered,
        leave: Mutex::new(leave),
        keeps: Arc::clone(&keeps),
    };
    let (coordinator, _shards) = real(Arc::new(store));
    let driver = Driver::start(coordinator, NEVER).unwrap();
    let control = driver.handle();
    keeps.store(true, Ordering::Relaxed);
    // Its number is told in the journal first, which hangs.
    let begun = control.trigger();
    was_entered.recv().unwrap();
    let behind = control.call(|coordinator| Ok(coordinator.epoch()));
    assert!(begun.wait_timeout(Duration::ZERO).is_none());
    assert_eq!(control.stats().triggered, 0, "who only looks does not wait");
    let error = driver.stop_within(Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.may_have_happened(), "{error}");
    let refused = control.call(|_| Ok(()));
    assert_eq!(refused.wait().unwrap_err().kind(), ErrorKind::Closed, "it is stopping");
    let_go.send(()).unwrap();
    // It ends by itself, after what was asked for before.
    assert_eq!(begun.wait().unwrap_err().kind(), ErrorKind::Closed, "it was begun, not completed");
    assert_eq!(behind.wait().unwrap(), 1);
}

#[test]
fn nobody_waits_for_itself() {
    let env: Arc<dyn Env> = Arc::new(RealEnv::new());
    let (coordinator, _shards) = real(Arc::new(MemoryStore::new(env)));
    let driver = coordinator.drive().unwrap();
    let control = driver.handle();
    let inner = control.clone();
    let asked = control.call(move |_| {
        let kind = inner.call(|_| Ok(())).wait().unwrap_err().kind();
        let timed = inner.call(|_| Ok(())).wait_timeout(NEVER).unwrap().unwrap_err().kind();
        let heard = inner.subscribe().next().unwrap_err().kind();
        Ok([kind, timed, heard])
    });
    assert_eq!(asked.wait().unwrap(), [ErrorKind::Invalid; 3]);
    // Nor does it join itself.
    let dropped = control.call(move |_| {
        drop(driver);
        Ok(())
    });
    dropped.wait().unwrap();
    let over = control.call(|_| Ok(()));
    assert_eq!(over.wait().unwrap_err().kind(), ErrorKind::Closed);
}

/// Counts how often it was woken.
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_reply_can_be_awaited_and_wakes_who_does_once() {
    let world = World::new(by_hand());
    let control = world.driver.handle();
    let woken = Arc::new(Woken(AtomicU64::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut reply = Box::pin(control.call(|coordinator| Ok(coordinator.epoch())));
    for _ in 0..2 {
        assert!(reply.as_mut().poll(&mut context).is_pending());
    }
    world.driver.turn();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    let std::task::Poll::Ready(epoch) = reply.as_mut().poll(&mut context) else { panic!("owed") };
    assert_eq!(epoch.unwrap(), 1);
}
