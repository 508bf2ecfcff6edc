//! An endpoint that takes connections and does not answer, or stops in the middle of an
//! answer: calls end with an error that says so, the job goes on when it comes back, and
//! nobody is left waiting.
//!
//! How long a call may take is [`request_timeout`](RemoteOptions::request_timeout) for each
//! attempt; here it is short, and no claim is made about how long it was.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use alluvium::coordinator::{
    CheckpointSettings, ClaimMode, Coordinator, DriverHandle, Event, Participant, RestoreFrom,
};
use alluvium::env::{Env, Fs, RealEnv};
use alluvium::format::ShardAck;
use alluvium::object::{MIN_PART_BYTES, ObjectStore, RemoteOptions};
use alluvium::{Backend, ErrorKind, MaxParallelism, Shard, SnapshotId, ValueState};
use stores_tests::{Fault, Server};

use crate::claims::name;
use crate::{assert_same, bytes, read, small_parts};

/// What a hanging endpoint may do.
const HANGS: [Fault; 3] = [Fault::Hang, Fault::Swallow, Fault::Stall];

/// The real world, which counts the threads that are there.
#[derive(Clone, Default)]
struct Counting {
    real: Arc<RealEnv>,
    threads: Arc<AtomicUsize>,
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counting({})", self.threads())
    }
}

impl Counting {
    fn threads(&self) -> usize {
        self.threads.load(Ordering::SeqCst)
    }
}

/// Counts down also if the thread panics.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Env for Counting {
    fn fs(&self) -> &dyn Fs {
        self.real.fs()
    }

    fn unix_time_ms(&self) -> u64 {
        self.real.unix_time_ms()
    }

    fn monotonic_ns(&self) -> u64 {
        self.real.monotonic_ns()
    }

    fn random_u64(&self) -> u64 {
        self.real.random_u64()
    }

    fn spawn(
        &self,
        name: &str,
        body: Box<dyn FnOnce() + Send + 'static>,
    ) -> io::Result<JoinHandle<()>> {
        self.threads.fetch_add(1, Ordering::SeqCst);
        let counted = Counted(Arc::clone(&self.threads));
        self.real.spawn(
            name,
            Box::new(move || {
                let _counted = counted;
                body();
            }),
        )
    }
}

/// Gives up soon.
fn impatient(server: &Server) -> RemoteOptions {
    let options = small_parts(server.options()).tail_bytes(1000);
    options.retries(1).request_timeout(Duration::from_millis(50))
}

fn unavailable<T: fmt::Debug>(outcome: alluvium::Result<T>, context: &str) {
    let error = outcome.expect_err(context);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{context}: {error}");
}

#[test]
fn every_call_to_an_endpoint_that_hangs_ends_as_unavailable_and_works_when_it_is_back() {
    let (counting, server) = (Counting::default(), Server::start());
    let env: Arc<dyn Env> = Arc::new(counting.clone());
    let (small, large) = (bytes(5000, 1), bytes(MIN_PART_BYTES + 1, 2));
    for fault in HANGS {
        let prefix = format!("{fault:?}");
        let healthy = server.store(&env, &prefix);
        healthy.create(&name("small"), &small).unwrap();
        let store = server.store_with(&env, &prefix, impatient(&server));
        let open = store.open(&name("small")).unwrap();
        server.plan(fault, 1, true);
        let context = |what: &str| format!("{what} while it does {fault:?}");
        unavailable(store.create(&name("new"), &small), &context("creating"));
        unavailable(store.create(&name("large"), &large), &context("creating in parts"));
        // Only what has a body can stop in the middle of one: opening brings the end along.
        unavailable(store.open(&name("small")).map(|_| ()), &context("opening"));
        unavailable(store.list(""), &context("listing"));
        unavailable(store.len_of(&name("small")), &context("looking"));
        unavailable(store.remove(&name("small")), &context("removing"));
        let mut half = vec![0; 2500];
        let error = open.read_at(0, &mut half).expect_err(&context("reading"));
        assert_ne!(error.kind(), io::ErrorKind::UnexpectedEof, "{}", context("reading"));
        assert!(server.heal() > 0);

        // Both stores work again, and nothing is there in part.
        for store in [&store, &healthy] {
            for (object, expected) in [("new", &small), ("large", &large)] {
                let there = store.len_of(&name(object)).unwrap();
                assert!(there.is_none_or(|len| len == expected.len() as u64), "{object}");
            }
        }
        if healthy.len_of(&name("small")).unwrap().is_some() {
            assert_same(&read(&healthy, "small").unwrap(), &small, "small");
            open.read_at(0, &mut half).unwrap();
            assert_eq!(half, small[..2500]);
        }
        healthy.create(&name("later"), &large).unwrap();
        assert_same(&read(&store_again(&server, &env, &prefix), "later").unwrap(), &large, "later");
    }
    assert_eq!(counting.threads(), 0, "stores that were dropped leave no thread");
}

fn store_again(server: &Server, env: &Arc<dyn Env>, prefix: &str) -> impl ObjectStore {
    server.store(env, prefix)
}

type Model = BTreeMap<u64, u64>;

const SHARDS: u32 = 2;
const KEYS: u64 = 200;

/// A job on a thread of its own for its coordinator, all in one bucket.
struct Job {
    control: DriverHandle,
    events: alluvium::coordinator::driver::Events,
    shards: Vec<Shard>,
    values: ValueState<u64, u64>,
    // Dropped in this order.
    driver: Option<alluvium::coordinator::Driver>,
    _backend: Backend,
    _dir: tempfile::TempDir,
}

impl Job {
    fn open(env: &Arc<dyn Env>, server: &Server, prefix: &str) -> Self {
        let store = Arc::new(server.store_with(env, prefix, impatient(server)));
        let mut settings = CheckpointSettings::default();
        (settings.interval_ms, settings.requests_interval_ms) = (None, None);
        settings.tolerable_failures = usize::MAX;
        let builder = Coordinator::builder(store, "job").settings(settings);
        let mut coordinator = builder.env(Arc::clone(env)).open().unwrap();
        let restored = coordinator.restore(&RestoreFrom::Latest, ClaimMode::NoClaim).unwrap();
        let handles = restored.map(|restored| restored.handles("op")).unwrap_or_default();
        let dir = tempfile::tempdir().unwrap();
        let sink = Arc::new(coordinator.sink());
        let builder = Backend::builder(dir.path()).env(Arc::clone(env)).warm_up(false);
        let backend = builder.sink(sink.clone()).source(sink).open().unwrap();
        let max = MaxParallelism::DEFAULT;
        let mut values = None;
        let shards = (0..SHARDS).map(|index| {
            let groups = max.range_of_subtask(index, SHARDS).unwrap();
            let builder = backend.shard("op", groups).restore(handles.iter().cloned());
            let mut shard = builder.open().unwrap();
            values = Some(ValueState::register(&mut shard, "v").unwrap());
            shard
        });
        let shards = shards.collect();
        coordinator.start(Participant::of_operator("op", max, SHARDS).unwrap()).unwrap();
        let driver = coordinator.drive().unwrap();
        let (control, events) = (driver.handle(), driver.handle().subscribe());
        let (values, driver) = (values.unwrap(), Some(driver));
        Self { control, events, shards, values, driver, _backend: backend, _dir: dir }
    }

    fn put(&mut self, model: &mut Model, keys: std::ops::Range<u64>, salt: u64) {
        for key in keys {
            model.insert(key, key ^ salt);
            let mut shards = self.shards.iter_mut();
            let put = shards.any(|shard| self.values.put(shard, &key, &(key ^ salt)).is_ok());
            assert!(put, "a shard has key {key}");
        }
    }

    fn check(&mut self, model: &Model) {
        for key in 0..KEYS {
            let shards = self.shards.iter_mut();
            let found: Vec<_> =
                shards.filter_map(|shard| self.values.get(shard, &key).ok()).collect();
            assert_eq!(found, [model.get(&key).copied()], "key {key}");
        }
    }

    /// Takes a checkpoint, as a runtime does; `None` if it was given up.
    fn checkpoint(&mut self) -> Option<SnapshotId> {
        let complete = self.control.trigger();
        loop {
            match self.events.next().unwrap() {
                Event::Trigger(barrier) => {
                    let begin = |shard: &mut Shard| shard.snapshot(barrier.id, b"").unwrap();
                    let tickets: Vec<_> = self.shards.iter_mut().map(begin).collect();
                    let parts =
                        Participant::of_operator("op", MaxParallelism::DEFAULT, SHARDS).unwrap();
                    for (ticket, part) in tickets.into_iter().zip(&parts) {
                        match ticket.wait() {
                            Ok(report) => {
                                drop(
                                    self.control.acknowledge(ShardAck::of(barrier.epoch, &report)),
                                );
                            }
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                                let reason = error.to_string();
                                drop(self.control.decline(barrier.id, part, &reason));
                            }
                        }
                    }
                }
                Event::Completed(id) => {
                    self.shards.iter_mut().for_each(|shard| shard.notify_complete(id));
                    assert_eq!(complete.wait().unwrap(), id);
                    return Some(id);
                }
                Event::Aborted { id, .. } => {
                    self.shards.iter_mut().for_each(|shard| shard.notify_aborted(id));
                    assert_eq!(complete.wait().unwrap_err().kind(), ErrorKind::Unavailable);
                    return None;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn end(mut self) {
        drop(self.driver.take().unwrap().stop().unwrap());
    }
}

#[test]
fn a_job_goes_on_when_an_endpoint_that_hung_is_back_and_has_lost_nothing() {
    let (counting, server) = (Counting::default(), Server::start());
    let env: Arc<dyn Env> = Arc::new(counting.clone());
    for fault in HANGS {
        // From some request of a checkpoint on: of an upload, or of the coordinator.
        for first in [1, 2, 4, 6] {
            let prefix = format!("{fault:?}-{first}");
            let mut job = Job::open(&env, &server, &prefix);
            let mut model = Model::new();
            job.put(&mut model, 0..100, 1 << 32);
            let before = job.checkpoint().expect("nothing is wrong yet");
            job.put(&mut model, 50..150, 2 << 32);
            server.plan(fault, first, true);
            // What came of a create is not known before the endpoint is back, and the
            // coordinator asks until it is.
            #[allow(clippy::disallowed_methods, reason = "a test of threads, which no world runs")]
            let (hung, suffered) = std::thread::scope(|scope| {
                let healing = scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(300));
                    server.heal()
                });
                (job.checkpoint(), healing.join().unwrap())
            });
            assert!(suffered > 0, "{prefix}: nothing hung");
            job.check(&model);
            job.put(&mut model, 120..KEYS, 3 << 32);
            let after = job.checkpoint().unwrap_or_else(|| panic!("{prefix}: it is back"));
            assert!(hung.is_none_or(|hung| hung > before) && after > before);
            job.check(&model);
            job.end();

            let mut again = Job::open(&env, &server, &prefix);
            again.check(&model);
            again.end();
            assert_eq!(counting.threads(), 0, "{prefix}: a thread is left");
        }
    }
}

#[test]
fn whoever_stops_while_an_endpoint_hangs_does_not_wait_for_it_for_ever() {
    let (counting, server) = (Counting::default(), Server::start());
    let env: Arc<dyn Env> = Arc::new(counting.clone());
    let mut job = Job::open(&env, &server, "job");
    let mut model = Model::new();
    job.put(&mut model, 0..100, 1);
    let begun = job.control.trigger();
    let barrier = loop {
        if let Event::Trigger(barrier) = job.events.next().unwrap() {
            break barrier;
        }
    };
    server.plan(Fault::Swallow, 1, true);
    let tickets: Vec<_> =
        job.shards.iter_mut().map(|shard| shard.snapshot(barrier.id, b"")).collect();
    job.end();
    assert_eq!(begun.wait().unwrap_err().kind(), ErrorKind::Closed);
    for ticket in tickets {
        unavailable_or_closed(ticket.unwrap().wait());
    }
    assert_eq!(counting.threads(), 0);
}

fn unavailable_or_closed<T: fmt::Debug>(outcome: alluvium::Result<T>) {
    let kind = outcome.expect_err("the endpoint hangs").kind();
    assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::Closed), "{kind:?}");
}
