//! Jobs of the suite as jobs of timely, each life on a thread of its own; several if it has
//! several processes, which timely tells from real ones by nothing: they talk over sockets.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use alluvium::codec::HasCodec;
use alluvium::coordinator::{CheckpointSettings, JobView, RestoreFrom, StopMode};
use alluvium::env::RealEnv;
use alluvium::object::{LocalStore, ObjectName, ObjectStore};
use alluvium::{Error, MaxParallelism, Result, Shard, SnapshotId};
use alluvium_conformance::{
    Adapter, Capability, DISORDER, GoesOnFrom, Job, Place, Polled, Record, Running, Source,
    Support, Tally,
};
use alluvium_timely::{
    Either, FileSink, Flow, JobEvent, JobHandle, Next, Outcome, Reader, Stateful, Time,
};
use timely::dataflow::StreamVec;
use timely::{CommunicationConfig, Config, ExchangeData, WorkerConfig};

const JOB: &str = "tally";

/// The connector.
#[derive(Default)]
pub(crate) struct OnTimely {
    lives: AtomicU64,
}

/// The suite's source, read by timely's workers until the life is killed.
#[derive(Clone)]
struct Held {
    source: Source,
    is_killed: Arc<AtomicBool>,
}

/// One split of it.
struct HeldSplit {
    held: Held,
    split: u32,
    at: u64,
}

impl alluvium_timely::Source for Held {
    type Item = Record;
    type Reader = HeldSplit;

    fn splits(&self) -> Result<u32> {
        Ok(self.source.splits())
    }

    fn open(&self, split: u32, position: Option<u64>) -> Result<HeldSplit> {
        Ok(HeldSplit { held: self.clone(), split, at: position.unwrap_or(0) })
    }
}

impl Reader for HeldSplit {
    type Item = Record;

    fn next(&mut self) -> Result<Next<Record>> {
        if self.held.is_killed.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the life was killed"));
        }
        Ok(match self.held.source.at(self.split, self.at) {
            Polled::Record(record) => {
                self.at += 1;
                Next::Record(record)
            }
            Polled::Idle => Next::Idle,
            // A split that has ended is read no more, and would not hear of its death.
            Polled::End => Next::End,
        })
    }

    fn position(&self) -> u64 {
        self.at
    }
}

fn out(dir: &Path) -> PathBuf {
    dir.join("out")
}

fn store(dir: &Path) -> Result<Arc<dyn ObjectStore>> {
    Ok(Arc::new(LocalStore::open(Arc::new(RealEnv::new()), dir.join("checkpoints"))?))
}

/// The operator, of records however they come.
fn tally<'scope, R: ExchangeData>(
    stateful: Stateful<'scope, R, u64, <u64 as HasCodec>::Codec, Shard, Tally>,
    record_of: impl Fn(R) -> Record + 'static,
) -> Result<StreamVec<'scope, Time, String>> {
    stateful.process_with_timers(
        Tally::timers,
        |tally, context, timer| {
            let mut lines = Vec::new();
            tally.timer(context.store(), &timer, &mut lines)?;
            lines.into_iter().for_each(|line| context.emit(line));
            Ok(())
        },
        move |tally, context, _, record| {
            let mut lines = Vec::new();
            tally.record(context.store(), &record_of(record), &mut lines)?;
            lines.into_iter().for_each(|line| context.emit(line));
            Ok(())
        },
    )
}

fn build(flow: &Flow<'_>, job: &Job, is_killed: &Arc<AtomicBool>) -> Result<()> {
    let read = |name: &str, source: &Source| {
        let held = Held { source: source.clone(), is_killed: Arc::clone(is_killed) };
        let time = |record: &Record| record.time;
        flow.source(name, held).event_time(time, DISORDER as u64).batch_records(16).build()
    };
    let records = read("records", &job.source)?;
    let (worker, workers) = (flow.index() as u32, flow.peers() as u32);
    let place = Place { worker, workers, max_parallelism: MaxParallelism::DEFAULT };
    let probe = job.probe.clone();
    let lines = match &job.second {
        None => {
            let keyed = flow.keyed(&job.operator, records, |record| record.key);
            tally(keyed.state(|shard| Tally::open(shard, place, probe))?, |record| record)?
        }
        Some(second) => {
            let second = read("second", second)?;
            let (left, right) = (|record: &Record| record.key, |record: &Record| record.key);
            let keyed = flow.keyed_two(&job.operator, records, second, left, right);
            let stateful = keyed.state(|shard| Tally::open(shard, place, probe))?;
            tally(stateful, |record| match record {
                Either::Left(record) | Either::Right(record) => record,
            })?
        }
    };
    flow.files("out", lines, FileSink::new(out(&job.dir)), |line: &String, bytes| {
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
    })
}

impl Adapter for OnTimely {
    fn name(&self) -> String {
        "alluvium-timely".to_owned()
    }

    fn supports(&self, capability: Capability) -> Support {
        match capability {
            Capability::LostNotifications => {
                Support::No("messages between its workers cannot be lost one by one".to_owned())
            }
            _ => Support::Yes,
        }
    }

    fn start(&self, job: &Job) -> Result<Box<dyn Running>> {
        std::fs::create_dir_all(&job.dir)
            .map_err(|error| Error::io("no directory for the job", error))?;
        let mut settings = CheckpointSettings::default();
        settings.interval_ms = None;
        settings.timeout_ms = job.timeout_ms;
        settings.tolerable_failures = usize::MAX;
        let life = self.lives.fetch_add(1, Ordering::SeqCst);
        let (started, starts) = channel();
        let state = job.dir.join(format!("life-{life}"));
        let of_process = |started: Option<Sender<()>>| {
            let store = job.faults.wrap(store(&job.dir)?);
            let from = match &job.from {
                GoesOnFrom::Latest => RestoreFrom::Latest,
                GoesOnFrom::Savepoint(name) => RestoreFrom::Savepoint(name.clone()),
            };
            let of_timely = alluvium_timely::Job::new(JOB, store, state.clone())
                .settings(settings.clone())
                .allow_dropped_state(job.allow_dropped_state)
                .restore_from(from);
            Ok(of_timely.observer(move |event| {
                if let (JobEvent::Started { .. }, Some(started)) = (event, &started) {
                    // Who waited may have given up.
                    let _ = started.send(());
                }
            }))
        };
        let run = |of_timely: alluvium_timely::Job, config: Config| {
            let is_killed = Arc::new(AtomicBool::new(false));
            let (job, killed) = (job.clone(), Arc::clone(&is_killed));
            let thread = std::thread::spawn(move || {
                of_timely.run(config, move |flow| build(flow, &job, &killed))
            });
            (is_killed, thread)
        };
        let first = of_process(Some(started))?;
        let handle = first.handle();
        let mut configs = configs(job)?.into_iter();
        let (is_killed, thread) = run(first, configs.next().expect("a process"));
        let mut others = Vec::new();
        for config in configs {
            others.push(run(of_process(None)?, config));
        }
        // The sender goes with the job.
        match starts.recv() {
            Ok(()) => Ok(Box::new(Life { handle, thread, is_killed, others })),
            Err(_) => match thread.join().expect("the job does not panic") {
                Ok(_) => Err(Error::internal("the job has ended before it began")),
                Err(error) => Err(error),
            },
        }
    }

    fn results(&self, dir: &Path) -> Result<Vec<String>> {
        let failed = |error| Error::io("results cannot be read", error);
        let entries = match std::fs::read_dir(out(dir)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut lines = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with("part-") {
                let text = std::fs::read_to_string(entry.path()).map_err(failed)?;
                lines.extend(text.lines().map(str::to_owned));
            }
        }
        Ok(lines)
    }

    fn damage_latest(&self, dir: &Path) -> Result<()> {
        let store = store(dir)?;
        let view = JobView::open(Arc::clone(&store), JOB)?;
        let latest = view.and_then(|view| view.entry().resume.clone());
        let latest = latest.ok_or_else(|| Error::invalid("there is no checkpoint"))?;
        let name = ObjectName::new(latest.location)?;
        store.remove(&name)?;
        store.create(&name, b"damaged")
    }
}

type Thread = JoinHandle<Result<Outcome>>;

struct Life {
    handle: JobHandle,
    /// Of the first process, and whether it was killed.
    thread: Thread,
    is_killed: Arc<AtomicBool>,
    others: Vec<(Arc<AtomicBool>, Thread)>,
}

impl Life {
    /// Waits for all processes. How the first one has ended.
    fn join(self) -> Result<()> {
        let outcome = self.thread.join().expect("the job does not panic");
        for (_, other) in self.others {
            // They end alike.
            let _ = other.join().expect("the job does not panic");
        }
        outcome.map(drop)
    }
}

/// Timely's configuration of each process.
fn configs(job: &Job) -> Result<Vec<Config>> {
    if job.processes == 1 {
        return Ok(vec![Config::process(job.workers as usize)]);
    }
    let ports = (0..job.processes).map(|_| TcpListener::bind("127.0.0.1:0"));
    let ports = ports.collect::<std::io::Result<Vec<_>>>();
    let addresses = ports.and_then(|ports| {
        let address = |port: &TcpListener| Ok(port.local_addr()?.to_string());
        ports.iter().map(address).collect::<std::io::Result<Vec<_>>>()
    });
    let addresses = addresses.map_err(|error| Error::io("there is no port", error))?;
    let config = |process| Config {
        communication: CommunicationConfig::Cluster {
            threads: (job.workers / job.processes) as usize,
            process,
            addresses: addresses.clone(),
            report: false,
            zerocopy: false,
        },
        worker: WorkerConfig::default(),
    };
    Ok((0..job.processes as usize).map(config).collect())
}

impl Running for Life {
    fn checkpoint(&self) -> Result<SnapshotId> {
        self.handle.checkpoint()
    }

    fn begin_checkpoint(&self) {
        let handle = self.handle.clone();
        drop(std::thread::spawn(move || handle.checkpoint()));
    }

    fn savepoint(&self, name: &str) -> Result<SnapshotId> {
        self.handle.savepoint(name)
    }

    fn stop(self: Box<Self>, name: &str) -> Result<()> {
        self.handle.stop(name, StopMode::Suspend)?;
        self.join()
    }

    fn lose_notifications(&self) {
        unreachable!("it was said that this cannot be done");
    }

    fn kill_process(&self, process: u32) {
        let is_killed = match process.checked_sub(1) {
            None => &self.is_killed,
            Some(other) => &self.others[other as usize].0,
        };
        is_killed.store(true, Ordering::SeqCst);
    }

    fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    fn kill(self: Box<Self>) {
        self.is_killed.store(true, Ordering::SeqCst);
        self.others.iter().for_each(|(killed, _)| killed.store(true, Ordering::SeqCst));
        // How it ended does not matter any more.
        let _ = self.join();
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.join()
    }
}
