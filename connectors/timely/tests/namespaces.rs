//! A job on several machines, as far as one machine can have them: each process has a network
//! of its own, with an address, and a cable that is pulled while the job runs.
//!
//! Needs `ip`, and the right to make network namespaces (root). Where it has not got that
//! it says so and tests nothing. `ALLUVIUM_SEED` repeats a run.

#![allow(clippy::disallowed_methods, reason = "processes are started, killed and waited for")]

mod common;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use alluvium::env::RealEnv;
use alluvium::object::LocalStore;
use alluvium_timely::{Job, JobEvent};
use common::network::{Network, address};
use common::{Random, kill_job};
use timely::{CommunicationConfig, Config, WorkerConfig};

/// Given to a child: its directory, the number of its run, its own, its workers, and the
/// addresses of all.
const CHILD: &str = "ALLUVIUM_TIMELY_MACHINE";
/// If there is a file of this name in the directory the job does not come past its half.
const HELD: &str = "held";
/// Silence after which processes give up.
const SILENCE_MS: u64 = 4_000;
/// For how long anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(240);

/// Not a claim, but the job's process: does nothing unless a test starts it.
#[test]
fn a_process_on_a_machine() {
    let Ok(words) = std::env::var(CHILD) else { return };
    let mut words = words.split('|');
    let mut next = || words.next().expect("a word").to_owned();
    let (dir, run) = (PathBuf::from(next()), next());
    let (process, threads) = (next().parse().unwrap(), next().parse().unwrap());
    let addresses = words.map(str::to_owned).collect();
    let communication = CommunicationConfig::Cluster {
        threads,
        process,
        addresses,
        report: false,
        zerocopy: false,
    };
    let config = Config { communication, worker: WorkerConfig::default() };

    // Each machine would have a disk of its own, and reach the store under one name.
    let store = LocalStore::open(Arc::new(RealEnv::new()), dir.join("checkpoints")).unwrap();
    let mut settings = alluvium::coordinator::CheckpointSettings::default();
    settings.interval_ms = Some(30);
    settings.tolerable_failures = usize::MAX;
    let job = Job::new("sightings", Arc::new(store), dir.join(format!("state-{run}")))
        .settings(settings)
        .lead_records(5_000)
        .peer_timeout_ms(Some(SILENCE_MS))
        .observer(|event| {
            if let JobEvent::Completed(id) = event {
                println!("checkpoint {id}");
            }
        });
    let is_held = Arc::new(AtomicBool::new(dir.join(HELD).exists()));
    let ended = job.run(config, move |flow| {
        kill_job::build_held(flow, &dir, kill_job::RECORDS, &is_held, |_| {})
    });
    match ended {
        Ok(_) => println!("finished"),
        Err(error) => {
            println!("failed {error}");
            // Threads of the network may hang.
            std::process::exit(1);
        }
    }
}

/// The processes of one run, each on a machine.
struct Run {
    children: Vec<Child>,
    said: Vec<PathBuf>,
}

impl Run {
    fn start(network: &Network, dir: &Path, run: u64, processes: usize, threads: usize) -> Self {
        // A former run may still have the port.
        let port = 7_000 + run;
        let addresses: Vec<_> =
            (0..processes).map(|machine| format!("{}:{port}", address(machine))).collect();
        let said: Vec<_> =
            (0..processes).map(|process| dir.join(format!("said-{run}-{process}"))).collect();
        let child = |(process, said): (usize, &PathBuf)| {
            let words = [dir.display().to_string(), run.to_string()];
            let words = [words.join("|"), format!("{process}|{threads}"), addresses.join("|")];
            let mut command = network.command(process, &std::env::current_exe().unwrap());
            command
                .args(["--exact", "a_process_on_a_machine", "--nocapture", "--test-threads=1"])
                .env(CHILD, words.join("|"))
                .stdin(Stdio::null())
                .stdout(File::create(said).unwrap())
                .stderr(Stdio::null());
            command.spawn().unwrap()
        };
        Self { children: said.iter().enumerate().map(child).collect(), said }
    }

    fn said(&self, process: usize) -> String {
        std::fs::read_to_string(&self.said[process]).unwrap()
    }

    /// Waits until the job has taken so many checkpoints.
    fn wait_for_checkpoints(&mut self, count: usize) {
        wait("the job takes checkpoints", || {
            assert!(self.children[0].try_wait().unwrap().is_none(), "{}", self.said(0));
            self.said(0).matches("checkpoint").count() >= count
        });
    }

    /// Waits until every process has ended by itself. What they said.
    fn wait_for_end(&mut self) -> Vec<String> {
        wait("all processes end by themselves", || {
            self.children.iter_mut().all(|child| child.try_wait().unwrap().is_some())
        });
        (0..self.children.len()).map(|process| self.said(process)).collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "in vain was waited until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_job_whose_machines_lose_each_other_goes_on_from_its_latest_checkpoint() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let network = match Network::new(3) {
        Ok(network) => network,
        Err(reason) => {
            eprintln!("SKIPPED: no machines with networks of their own: {reason}");
            return;
        }
    };
    let seed = std::env::var("ALLUVIUM_SEED").ok().map(|seed| seed.parse().unwrap());
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join(HELD), "").unwrap();
    let mut stragglers = None;
    for number in 0..4 {
        let (processes, threads) = (2 + random.below(2) as usize, 1 + random.below(2) as usize);
        let victim = random.below(processes as u64) as usize;
        let mut run = Run::start(&network, dir, number, processes, threads);
        run.wait_for_checkpoints(1 + random.below(6) as usize);
        println!("run {number}: {processes} x {threads} workers, victim {victim}");
        match number {
            0 | 2 => {
                network.cut(victim);
                // Each of them misses somebody.
                let said = run.wait_for_end();
                for (process, said) in said.iter().enumerate() {
                    assert!(said.contains("failed"), "process {process}: {said}");
                }
                let missed = said.iter().filter(|said| said.contains("not heard of any more"));
                assert!(missed.count() >= 2, "{said:?}");
            }
            1 => {
                // It goes on while the next run begins, and its network is mended meanwhile.
                network.cut(victim);
                stragglers = Some(run);
            }
            _ => {
                run.children[victim].kill().unwrap();
                let said = run.wait_for_end();
                assert!(!said.iter().any(|said| said.contains("finished")), "{said:?}");
            }
        }
        network.mend(victim);
    }
    drop(stragglers);
    std::fs::remove_file(dir.join(HELD)).unwrap();
    let mut last = Run::start(&network, dir, 9, 3, 1);
    let said = last.wait_for_end();
    assert!(said.iter().all(|said| said.contains("finished")), "{said:?}");
    common::compare(&kill_job::expected(kill_job::RECORDS), dir, random.seed);
}
