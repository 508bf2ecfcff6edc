//! Savepoints that a running job puts straight into another place: whole there, none of the
//! job's, and no row is lost or said twice, whatever is restored afterwards.

#![allow(clippy::disallowed_methods, reason = "results are real files, and threads ask the job")]

mod common;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use alluvium::codec::{Codec, HasCodec};
use alluvium::coordinator::{
    CheckpointSettings, Coordinator, Depth, JobView, RestoreFrom, ask, verify,
};
use alluvium::env::{ReadAt, RealEnv};
use alluvium::format::{Action, Answer};
use alluvium::object::{Contents, LocalStore, ObjectName, ObjectStore, open_url};
use alluvium::savepoint::{CheckpointReader, NativeSavepoint};
use alluvium::{Error, ErrorKind, MaxParallelism, Result, SnapshotId, ValueState};
use alluvium_timely::{FileSink, Job, JobHandle, Outcome, source_positions};
use common::world::{Feed, Numbers};
use common::{committed, results};
use timely::{CommunicationConfig, Config, WorkerConfig};

const KEYS: u64 = 10;
/// For how long anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(240);

/// What is counted up to a number.
fn counts(until: u64) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for number in 0..until {
        *counts.entry(number % KEYS).or_default() += 1;
    }
    counts
}

/// What is said of the numbers from one to another.
fn rows(from: u64, until: u64) -> Vec<String> {
    let row = |number| format!("{:02} {:06}", number % KEYS, number / KEYS + 1);
    let mut rows: Vec<_> = (from..until).map(row).collect();
    rows.sort();
    rows
}

fn check_rows(found: &[String], from: u64, until: u64) {
    let expected = rows(from, until);
    let differs = expected.iter().zip(found).find(|(one, other)| one != other);
    let (found, all) = (found.len(), expected.len());
    assert!(found == all && differs.is_none(), "{found} of {all} rows, {differs:?}");
}

fn url(path: &Path) -> String {
    format!("file://{}", path.to_str().unwrap())
}

fn open(place: &str) -> Result<Arc<dyn ObjectStore>> {
    open_url(Arc::new(RealEnv::new()), place)
}

fn local(dir: &Path) -> Arc<dyn ObjectStore> {
    Arc::new(LocalStore::open(Arc::new(RealEnv::new()), dir.to_owned()).unwrap())
}

fn is_master() -> bool {
    thread::current().name() == Some("alluvium-master")
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited for too long: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A directory by a path without links.
struct Ground {
    _dir: tempfile::TempDir,
    dir: PathBuf,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = std::fs::canonicalize(dir.path()).unwrap();
        Self { _dir: dir, dir: path }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A job that takes checkpoints when it is asked, with its store in this directory.
    fn job(&self, store: &str) -> Job {
        let mut settings = CheckpointSettings::default();
        (settings.interval_ms, settings.requests_interval_ms) = (None, Some(5));
        let state = self.at(&format!("{store}-state"));
        Job::new("count", local(&self.at(store)), state).settings(settings)
    }

    fn view(&self) -> JobView {
        JobView::open(local(&self.at("store")), "count").unwrap().unwrap()
    }

    /// Asks as the tool does.
    fn tool_asks(&self, name: &str, place: &str) -> Answer {
        let action = Action::SavepointInto { name: name.to_owned(), place: place.to_owned() };
        let store = local(&self.at("store"));
        let asked = ask(store, &RealEnv::new(), &self.view(), "a test", action).unwrap();
        let mut answer = None;
        until("an answer", || {
            answer = asked.answer().unwrap();
            answer.is_some()
        });
        answer.unwrap()
    }

    /// Brings a savepoint into the job of a store, as the tool does; its name there.
    fn import(&self, store: &str, place: &Path) -> String {
        let savepoint = NativeSavepoint::open(local(place)).unwrap().unwrap();
        let there = local(&self.at(store));
        let mut coordinator = Coordinator::builder(there, "count").open().unwrap();
        let name = format!("back-{}", coordinator.epoch());
        coordinator.import(&savepoint, &name, &mut |_| true).unwrap();
        name
    }

    /// A job that goes on from a savepoint.
    fn back(&self, store: &str, name: &str) -> Job {
        self.job(store).restore_from(RestoreFrom::Savepoint(name.to_owned()))
    }
}

/// The input and how much of it was counted.
#[derive(Clone, Default)]
struct Run {
    feed: Arc<Feed>,
    counted: Arc<AtomicU64>,
}

impl Run {
    /// Lets numbers come up to this one, and waits until all were counted.
    fn to(&self, number: u64) {
        self.feed.limit.store(number, SeqCst);
        until("numbers", || self.counted.load(SeqCst) >= number);
    }

    /// Counts until the input ends.
    fn run(&self, job: Job, config: Config, out: &Path) -> Result<Outcome> {
        let (run, out) = (self.clone(), out.to_owned());
        job.run(config, move |flow| {
            let numbers = Numbers { feed: Arc::clone(&run.feed), next: 0 };
            let numbers = flow.source("numbers", numbers).build()?;
            let counted = Arc::clone(&run.counted);
            let rows = flow
                .keyed("count", numbers, |number| number % KEYS)
                .state(|shard| ValueState::<u64, u64>::register(shard, "counts"))?
                .process(move |counts, context, key, number| {
                    let mut count = 0;
                    counts.update(context.store(), key, |before| {
                        count = before.unwrap_or(0) + 1;
                        Some(count)
                    })?;
                    context.emit(format!("{key:02} {count:06}"));
                    counted.fetch_max(number + 1, SeqCst);
                    Ok(())
                })?;
            flow.files("out", rows, FileSink::new(&out), |row: &String, bytes| {
                bytes.extend_from_slice(row.as_bytes());
                bytes.push(b'\n');
            })
        })
    }
}

/// Lets the input end, however a thread does.
struct Ending<'a>(&'a Run);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.feed.end();
    }
}

/// Runs a job of two workers while somebody asks things of it; then its input ends.
fn run(job: Job, out: &Path, ask: impl FnOnce(&JobHandle, &Run) + Send) -> Result<Outcome> {
    let run = Run::default();
    let handle = job.handle();
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let _ending = Ending(&run);
            ask(&handle, &run);
        });
        let outcome = run.run(job, Config::process(2), out);
        asking.join().unwrap();
        outcome
    })
}

/// Runs a job to the end of as many numbers.
fn run_to(job: Job, out: &Path, number: u64) -> Result<Outcome> {
    let run = Run::default();
    run.feed.limit.store(number, SeqCst);
    run.feed.end();
    run.run(job, Config::process(3), out)
}

/// A savepoint that is whole, with the state after so many numbers.
fn check(place: &Path, shards: usize, number: u64) -> SnapshotId {
    let savepoint = NativeSavepoint::open(local(place)).unwrap().unwrap();
    let checkpoint = savepoint.checkpoint();
    let found = verify(checkpoint, &*savepoint.source(), Depth::Deep, &mut |_, _| {});
    assert!(found.is_whole(), "{:?}", found.problems);
    assert_eq!(checkpoint.shards.len(), shards);
    let positions = source_positions(checkpoint).unwrap();
    assert_eq!(positions, BTreeMap::from([("numbers".to_owned(), vec![number])]));
    let reader = CheckpointReader::new(checkpoint.clone(), savepoint.source(), 0);
    let all = MaxParallelism::DEFAULT.range_of_subtask(0, 1).unwrap();
    let mut scan = reader.operator("count").unwrap().scan("counts", all).unwrap();
    let (codec, mut state) = (<u64 as HasCodec>::Codec::default(), BTreeMap::new());
    while let Some(record) = scan.next().unwrap() {
        let key = codec.decode(record.key).unwrap();
        assert!(state.insert(key, codec.decode(record.value).unwrap()).is_none());
    }
    assert_eq!(state, counts(number));
    checkpoint.id
}

#[test]
fn a_savepoint_into_a_place_holds_the_state_of_all_workers_at_its_barrier_whoever_asks() {
    for is_tool in [true, false] {
        let ground = Ground::new();
        let (out, place) = (ground.at("out"), ground.at("places/release"));
        run(ground.job("store").places(open), &out, |handle, run| {
            run.to(500);
            handle.checkpoint().unwrap();
            run.to(1_000);
            let id = if is_tool {
                let answer = ground.tool_asks("release", &url(&place));
                answer.id.unwrap_or_else(|| panic!("{answer:?}"))
            } else {
                handle.savepoint_into("release", &url(&place)).unwrap()
            };
            assert_eq!(check(&place, 2, 1_000), id);
            assert!(ground.view().entry().savepoints.is_empty());
            let again = handle.savepoint_into("release", &url(&place)).unwrap_err();
            assert_eq!(again.kind(), ErrorKind::Invalid, "{again}");
            run.to(1_500);
            handle.checkpoint().unwrap();
            check(&place, 2, 1_000);
            run.to(2_000);
        })
        .unwrap();
        check_rows(&results(&out), 0, 2_000);
    }
}

#[test]
fn a_job_that_does_not_know_how_to_open_places_says_so_and_goes_on() {
    let ground = Ground::new();
    let (out, place) = (ground.at("out"), ground.at("release"));
    run(ground.job("store"), &out, |handle, run| {
        run.to(500);
        let refused = handle.savepoint_into("release", &url(&place)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
        let answer = ground.tool_asks("release", &url(&place));
        assert!(answer.refused.unwrap().contains("takes no savepoints into other places"));
        assert!(!place.exists());
    })
    .unwrap();
    check_rows(&results(&out), 0, 500);
}

#[test]
fn workers_go_on_while_a_place_is_being_opened_once_for_all_of_their_shards() {
    let ground = Ground::new();
    let (out, place) = (ground.at("out"), ground.at("release"));
    let (opening, opens) = channel();
    let (release, released) = channel::<()>();
    let first = Mutex::new(Some((opening, released)));
    let times = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&times);
    let job = ground.job("store").places(move |place| {
        if !is_master() {
            count.fetch_add(1, SeqCst);
            let first = first.lock().unwrap().take();
            if let Some((opening, released)) = first {
                opening.send(()).unwrap();
                // An error if whoever would release it has failed.
                released.recv().map_err(|_| Error::unavailable("never released"))?;
            }
        }
        open(place)
    });
    run(job, &out, move |handle, run| {
        run.to(1_000);
        let (asked, name) = (handle.clone(), url(&place));
        let asking = thread::spawn(move || asked.savepoint_into("release", &name));
        opens.recv_timeout(PATIENCE).unwrap();
        run.to(2_000);
        release.send(()).unwrap();
        let id = asking.join().unwrap().unwrap();
        assert_eq!(check(&place, 2, 1_000), id);
        assert_eq!(times.load(SeqCst), 1, "it was opened again");
        handle.checkpoint().unwrap();
    })
    .unwrap();
    check_rows(&results(&out), 0, 2_000);
}

#[test]
fn a_place_that_one_process_cannot_open_fails_the_savepoint_and_not_the_job() {
    let ground = Ground::new();
    let out = ground.at("out");
    let ports: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> =
        ports.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
    drop(ports);
    let config = |process| {
        let addresses = addresses.clone();
        let communication = CommunicationConfig::Cluster {
            threads: 2,
            process,
            addresses,
            report: false,
            zerocopy: false,
        };
        Config { communication, worker: WorkerConfig::default() }
    };
    let other = ground.job("store").places(|place| match place.contains("/near") {
        true => open(place),
        false => Err(Error::invalid("out of reach")),
    });
    let first = ground.job("store").places(open);
    let (run, handle) = (Run::default(), first.handle());
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let _ending = Ending(&run);
            run.to(500);
            handle.checkpoint().unwrap();
            run.to(1_000);
            let failed = handle.savepoint_into("far", &url(&ground.at("far"))).unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed}");
            assert!(failed.to_string().contains("cannot be opened"), "{failed}");
            let refused = ground.tool_asks("far", &url(&ground.at("far-away"))).refused.unwrap();
            assert!(refused.contains("cannot be opened"), "{refused}");
            assert!(NativeSavepoint::open(local(&ground.at("far"))).unwrap().is_none());
            handle.checkpoint().unwrap();
            let id = handle.savepoint_into("near", &url(&ground.at("near"))).unwrap();
            assert_eq!(check(&ground.at("near"), 4, 1_000), id);
            run.to(2_000);
        });
        let second = scope.spawn(|| run.run(other, config(1), &out));
        run.run(first, config(0), &out).unwrap();
        second.join().unwrap().unwrap();
        asking.join().unwrap();
    });
    check_rows(&results(&out), 0, 2_000);
}

/// A store that refuses tables with an error of this kind.
#[derive(Debug)]
struct Refusing(LocalStore, ErrorKind);

impl Refusing {
    fn refuse(&self, name: &ObjectName) -> Result<()> {
        match name.as_str().starts_with("tables/") {
            true => Err(Error::new(self.1, "refused on purpose").at(name)),
            false => Ok(()),
        }
    }
}

impl ObjectStore for Refusing {
    fn identity(&self) -> String {
        self.0.identity()
    }

    fn create(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.refuse(name)?;
        self.0.create(name, bytes)
    }

    fn create_from_file(
        &self,
        name: &ObjectName,
        local: &Path,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.refuse(name)?;
        self.0.create_from_file(name, local, expected, keep_going)
    }

    fn create_from_source(
        &self,
        name: &ObjectName,
        source: &dyn ReadAt,
        expected: &Contents,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.refuse(name)?;
        self.0.create_from_source(name, source, expected, keep_going)
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn ReadAt>> {
        self.0.open(name)
    }

    fn len_of(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.0.len_of(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        self.0.list(prefix)
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.0.remove(name)
    }
}

#[test]
fn a_place_that_fails_while_it_is_written_fails_the_savepoint_and_not_the_job() {
    use ErrorKind::{Closed, Corrupt, Incompatible, Internal, Invalid, Unavailable};
    let kinds = [Unavailable, Invalid, Incompatible, Corrupt, Closed, Internal];
    let ground = Ground::new();
    let out = ground.at("out");
    let job = ground.job("store").places(move |place| {
        let at = Path::new(place.strip_prefix("file://").unwrap());
        let kind: usize = at.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let inner = LocalStore::open(Arc::new(RealEnv::new()), at.to_owned())?;
        Ok(Arc::new(Refusing(inner, kinds[kind])))
    });
    run(job, &out, |handle, run| {
        for number in 0..kinds.len() {
            run.to(number as u64 * 100 + 100);
            let place = ground.at(&number.to_string());
            let failed = handle.savepoint_into("release", &url(&place)).unwrap_err();
            assert_eq!(failed.kind(), Unavailable, "{failed}");
            assert!(failed.to_string().contains("on purpose"), "{failed}");
            assert!(NativeSavepoint::open(local(&place)).unwrap().is_none());
            handle.checkpoint().unwrap();
        }
    })
    .unwrap();
    check_rows(&results(&out), 0, 600);
}

#[test]
fn a_job_goes_back_to_a_savepoint_elsewhere_and_no_row_is_lost_or_said_twice() {
    #[derive(Clone, Copy, PartialEq)]
    enum Then {
        Checkpoint,
        /// It is killed and goes on from the checkpoint before.
        Death,
        /// There is no checkpoint before.
        EarlyDeath,
    }
    for then in [Then::Checkpoint, Then::Death, Then::EarlyDeath] {
        let ground = Ground::new();
        let (out, place) = (ground.at("out"), ground.at("release"));
        let ended = run(ground.job("store").places(open), &out, |handle, run| {
            run.to(500);
            if then != Then::EarlyDeath {
                handle.checkpoint().unwrap();
            }
            run.to(1_000);
            handle.savepoint_into("release", &url(&place)).unwrap();
            if then == Then::Checkpoint {
                run.to(1_500);
                handle.checkpoint().unwrap();
                run.to(2_000);
            } else {
                run.feed.fails.store(true, SeqCst);
            }
        });
        assert_eq!(ended.is_ok(), then == Then::Checkpoint);
        // Its records are read once more, and said by other files.
        run_to(ground.job("store"), &out, 2_000).unwrap();
        check_rows(&results(&out), 0, 2_000);
        check(&place, 2, 1_000);
        for until in [3_000, 4_000] {
            let name = ground.import("store", &place);
            run_to(ground.back("store", &name), &out, until).unwrap();
            check_rows(&results(&out), 0, until);
            // It goes on from its end.
            run_to(ground.job("store"), &out, until).unwrap();
            check_rows(&results(&out), 0, until);
        }
    }
}

#[test]
fn another_job_goes_on_from_a_savepoint_when_its_sink_has_what_the_savepoint_commits() {
    let ground = Ground::new();
    let (out, new, place) = (ground.at("out"), ground.at("new"), ground.at("release"));
    let mut id = None;
    run(ground.job("store").places(open), &out, |handle, run| {
        run.to(500);
        handle.checkpoint().unwrap();
        run.to(1_000);
        id = Some(handle.savepoint_into("release", &url(&place)).unwrap());
        run.to(1_500);
    })
    .unwrap();
    check_rows(&results(&out), 0, 1_500);
    // Rows before the savepoint that nobody has committed for the other job.
    let name = ground.import("there", &place);
    let refused = run_to(ground.back("there", &name), &new, 2_000).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert!(refused.to_string().contains("copy"), "{refused}");
    // The directory of the other one.
    let refused = run_to(ground.back("there", &name), &out, 2_000).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    check_rows(&results(&out), 0, 1_500);

    let named = format!("part-{:020}-", id.unwrap().0);
    for file in std::fs::read_dir(&out).unwrap() {
        let name = file.unwrap().file_name();
        if name.to_str().unwrap().starts_with(&named) {
            std::fs::copy(out.join(&name), new.join(&name)).unwrap();
        }
    }
    check_rows(&committed(&new), 500, 1_000);
    for until in [2_000, 3_000] {
        run_to(ground.back("there", &name), &new, until).unwrap();
        check_rows(&results(&new), 500, until);
        run_to(ground.job("there"), &new, until).unwrap();
        check_rows(&results(&new), 500, until);
    }
}
