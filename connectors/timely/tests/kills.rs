//! A job of several operators that is killed again and again, by SIGKILL, and started again
//! with other numbers of workers and processes, says what an undisturbed one says.
//!
//! `ALLUVIUM_KILLS` is how many times it is killed, `ALLUVIUM_SEED` repeats a run.

#![allow(clippy::disallowed_methods, reason = "processes are started and killed")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Random, kill_job, results};
use timely::{CommunicationConfig, Config, WorkerConfig};

/// Given to a child: its directory, its number, its workers, and the addresses of all.
const CHILD: &str = "ALLUVIUM_TIMELY_CHILD";

/// Not a claim, but the job's process: does nothing unless the loop below starts it.
#[test]
fn a_process_of_the_job() {
    let Ok(words) = std::env::var(CHILD) else { return };
    let mut words = words.split('|');
    let mut next = || words.next().expect("a word").to_owned();
    let (dir, process, threads) = (next(), next().parse().unwrap(), next().parse().unwrap());
    let addresses: Vec<String> = words.map(str::to_owned).collect();
    let communication = match addresses.len() {
        0 | 1 => CommunicationConfig::Process(threads),
        _ => CommunicationConfig::Cluster {
            threads,
            process,
            addresses,
            report: false,
            zerocopy: false,
        },
    };
    let config = Config { communication, worker: WorkerConfig::default() };
    match kill_job::run(Path::new(&dir), config, kill_job::RECORDS) {
        Ok(_) => println!("finished"),
        Err(error) => {
            println!("failed {error}");
            // Threads of the network may hang.
            std::process::exit(1);
        }
    }
}

/// The processes of one run.
struct Run {
    children: Vec<Child>,
}

impl Run {
    fn start(dir: &Path, processes: usize, threads: usize) -> Self {
        let free: Vec<_> =
            (0..processes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> =
            free.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
        drop(free);
        let children = (0..processes)
            .map(|process| {
                let words =
                    format!("{}|{process}|{threads}|{}", dir.display(), addresses.join("|"));
                Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "a_process_of_the_job", "--nocapture", "--test-threads=1"])
                    .env(CHILD, words)
                    .stdin(Stdio::null())
                    .stdout(if process == 0 { Stdio::piped() } else { Stdio::null() })
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        Self { children }
    }

    /// Kills one of the processes when the first has said so many lines, if it comes so
    /// far, and waits until all are gone. The other processes end by themselves.
    fn kill_after(&mut self, lines: u64, victim: usize) -> Ended {
        let out = self.children[0].stdout.take().unwrap();
        let mut ended = Ended { finished: false, killed: false, lines: 0, said: Vec::new() };
        for line in BufReader::new(out).lines() {
            let Ok(line) = line else { break };
            if line.starts_with("progress") || line.starts_with("checkpoint") {
                ended.lines += 1;
            } else if !line.is_empty() && !line.starts_with("awaiting") {
                ended.said.push(line.clone());
            }
            ended.finished |= line.ends_with("finished");
            if ended.lines == lines && !ended.killed {
                ended.killed = true;
                self.children[victim].kill().unwrap();
            }
        }
        for child in &mut self.children {
            child.wait().unwrap();
        }
        ended
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

#[derive(Debug)]
struct Ended {
    finished: bool,
    killed: bool,
    lines: u64,
    said: Vec<String>,
}

#[test]
fn a_job_killed_at_random_moments_and_rescaled_says_what_an_undisturbed_one_says() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("ALLUVIUM_KILLS").unwrap_or(5);
    let mut random = Random::new(number("ALLUVIUM_SEED"));
    let dir = tempfile::tempdir().unwrap();
    let mut killed = 0;
    for round in 0.. {
        let processes = 1 + random.below(3) as usize;
        let threads = 1 + random.below(2) as usize;
        let victim = random.below(processes as u64) as usize;
        let lines = if killed < kills { 1 + random.below(24) } else { u64::MAX };
        let mut run = Run::start(dir.path(), processes, threads);
        let ended = run.kill_after(lines, victim);
        println!("round {round}: {processes} x {threads} workers, victim {victim}: {ended:?}");
        killed += u64::from(ended.killed && !ended.finished);
        if ended.finished && killed >= kills {
            break;
        }
        assert!(ended.killed || ended.finished, "seed {}: {ended:?}", random.seed);
        if ended.finished {
            // It was faster than the kill: from the beginning.
            common::compare(&kill_job::expected(kill_job::RECORDS), dir.path(), random.seed);
            std::fs::remove_dir_all(dir.path()).unwrap();
        }
        assert!(round < 20 * (kills + 1), "seed {}: no progress", random.seed);
    }
    common::compare(&kill_job::expected(kill_job::RECORDS), dir.path(), random.seed);
    assert!(!results(&dir.path().join("counts")).is_empty());
}
