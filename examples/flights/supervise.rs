//! The supervisor: starts the job as a child of itself, watches it, kills it,
//! starts it again elsewhere in the input and on other shards, and reports.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use alluvium::coordinator::{JobView, RestoreFrom};
use alluvium::{Error, Result};

use super::cli::{JobOptions, MAX_WORKERS, Options};
use super::event::{CheckpointLine, Event, Restored, Verdict};
use super::report::{self, percent, placed, thousands};
use super::store::{self, Directories};
use super::survey::Extent;
use super::time::EventTime;
use super::view::View;

/// Everything that the final report is made of.
pub(crate) struct Run {
    pub(crate) input: PathBuf,
    /// Flights in the file, and records in all its repetitions.
    pub(crate) flights: u64,
    pub(crate) total: u64,
    pub(crate) repeat: u32,
    pub(crate) spread: bool,
    pub(crate) processes: u32,
    pub(crate) kept_dir: Option<PathBuf>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) checkpoints: Vec<CheckpointLine>,
}

impl Run {
    /// Whether the job came to its end and everything is right.
    pub(crate) fn is_right(&self) -> bool {
        let unharmed = |attempt: &&Attempt| !attempt.killed;
        let mut verified = self.attempts.iter().filter(unharmed).peekable();
        verified.peek().is_some()
            && verified.all(|attempt| {
                attempt.finished
                    && !attempt.verdicts.is_empty()
                    && attempt.verdicts.iter().all(Verdict::is_right)
            })
    }
}

/// One run of the job, in one process or several.
#[derive(Default)]
pub(crate) struct Attempt {
    /// Of all processes.
    pub(crate) workers: u32,
    pub(crate) restored: Option<Restored>,
    /// Records that the run before this one had read in vain, as far as it
    /// had come to report them.
    pub(crate) replayed: Option<u64>,
    pub(crate) first_offset: u64,
    pub(crate) last_offset: u64,
    pub(crate) elapsed_us: u64,
    pub(crate) killed: bool,
    pub(crate) finished: bool,
    /// How what it had at its end compares with the plain computation.
    pub(crate) verdicts: Vec<Verdict>,
}

impl Attempt {
    /// Records read by this run.
    pub(crate) fn records(&self) -> u64 {
        self.last_offset.saturating_sub(self.first_offset)
    }

    /// Records applied per second by this run.
    pub(crate) fn records_per_s(&self) -> u64 {
        (self.records() as f64 * 1e6 / self.elapsed_us.max(1) as f64) as u64
    }
}

/// Runs the whole demonstration. True if everything is right.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let most = options.workers.max(options.rescale_to).saturating_mul(options.processes);
    if most > MAX_WORKERS {
        return Err(Error::invalid("there are more workers than key groups")
            .expected(format_args!("at most {MAX_WORKERS} in all processes"))
            .found(most)
            .remedy("choose smaller --workers, --rescale-to or --processes"));
    }
    let extent = Extent::of_file(&options.input)?;
    let Some((first_day, last_day)) = extent.days else {
        return Err(Error::invalid("the input holds no flights")
            .at(options.input.display())
            .expected("at least one line below the header")
            .remedy("give another file with --input"));
    };
    let days = EventTime::midnight(last_day).days_since(EventTime::midnight(first_day)) + 1;
    let flights = extent.flights;
    let total = flights.checked_mul(u64::from(options.repeat)).ok_or_else(|| {
        Error::invalid("the input is repeated too often to be counted")
            .found(format_args!("--repeat {}", options.repeat))
            .remedy("choose a smaller --repeat")
    })?;

    // Removed when `_temporary` falls, also after an error.
    let (dir, _temporary) = match &options.dir {
        Some(dir) => (prepare(dir)?, None),
        None => {
            let temporary = tempfile::tempdir().map_err(|e| {
                Error::io("cannot create a temporary directory", e).remedy("give one with --dir")
            })?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    let job = JobOptions {
        input: options.input.clone(),
        dir: dir.clone(),
        workers: options.workers,
        process: 0,
        addresses: Vec::new(),
        interval_ms: options.interval_ms,
        repeat: options.repeat,
        flights,
        span_days: days as u32,
        latest_min: extent.latest.minutes(),
        spread: options.spread,
        rules: options.rules,
        restore: false,
        rollback_to: None,
        savepoint_at_record: Some((total as f64 * options.savepoint_at).ceil() as u64),
        await_kill: !options.no_kill,
    };
    let mut supervisor = Supervisor {
        view: View::new(total),
        run: Run {
            input: options.input.clone(),
            flights,
            total,
            repeat: options.repeat,
            spread: options.spread,
            processes: options.processes,
            kept_dir: options.dir.clone(),
            attempts: Vec::new(),
            checkpoints: Vec::new(),
        },
    };
    let outcome = supervisor.run_job(options, job);
    supervisor.view.end();
    outcome?;

    report::print(&supervisor.run, &mut io::stdout().lock())
        .map_err(|e| Error::io("cannot write the report", e))?;
    Ok(supervisor.run.is_right())
}

/// Creates the directory, or makes sure that it is empty: whatever it holds
/// is somebody's, perhaps the checkpoints of an earlier run.
fn prepare(dir: &Path) -> Result<PathBuf> {
    let unusable = |e| {
        Error::io("cannot use the directory for state and checkpoints", e)
            .at(dir.display())
            .expected("a directory that can be created, read and written")
            .remedy("give another one with --dir, or correct its permissions")
    };
    fs::create_dir_all(dir).map_err(unusable)?;
    if fs::read_dir(dir).map_err(unusable)?.next().is_none() {
        return dir.canonicalize().map_err(unusable);
    }
    let checkpoints = Directories::below(dir).checkpoints;
    let found = match checkpoints.try_exists().map_err(unusable)? {
        false => "other files".to_owned(),
        true => match JobView::open(store::object_store(&checkpoints)?, store::JOB)?
            .and_then(|job| job.entry().resume.clone())
        {
            None => "an earlier run without a completed checkpoint".to_owned(),
            Some(latest) => format!("an earlier run with a completed checkpoint {}", latest.id),
        },
    };
    Err(Error::invalid("the directory for state and checkpoints is not empty")
        .at(dir.display())
        .expected("a new or empty directory")
        .found(found)
        .remedy("give another one with --dir, or remove this one if you do not need it any more"))
}

struct Supervisor {
    view: View,
    run: Run,
}

impl Supervisor {
    fn run_job(&mut self, options: &Options, mut job: JobOptions) -> Result<()> {
        if !options.no_kill {
            let kill_at = (self.run.total as f64 * options.kill_at).ceil() as u64;
            self.view.say(&format!(
                "starting on {}, to be killed at record {} of {}",
                self.placed(&job),
                thousands(kill_at),
                thousands(self.run.total),
            ));
            self.attempt(&job, Some(kill_at))?;
            self.note_unreported_checkpoint(&job.dir)?;
            job.restore = true;
            job.await_kill = false;
            job.savepoint_at_record = None;
            job.workers = options.rescale_to;
        }
        self.view.say(&format!(
            "{} on {}",
            if job.restore {
                "starting again from the latest completed checkpoint,"
            } else {
                "starting"
            },
            self.placed(&job),
        ));
        self.attempt(&job, None)?;
        if !options.no_rollback {
            job.restore = false;
            job.rollback_to = Some(store::SAVEPOINT.to_owned());
            job.savepoint_at_record = None;
            job.workers = options.workers;
            self.view.say(&format!(
                "rolling back to savepoint {:?}, on {}",
                store::SAVEPOINT,
                self.placed(&job),
            ));
            self.attempt(&job, None)?;
        }
        Ok(())
    }

    /// `4 workers in 2 processes`.
    fn placed(&self, job: &JobOptions) -> String {
        placed(job.workers * self.run.processes, self.run.processes)
    }

    /// Runs the job once, to its end or until it is killed at `kill_at`.
    fn attempt(&mut self, job: &JobOptions, kill_at: Option<u64>) -> Result<()> {
        let (mut running, mut lines) = Running::start(job, self.run.processes)?;
        let workers = job.workers * self.run.processes;
        let mut attempt = Attempt { workers, ..Attempt::default() };
        let mut failure = None;
        // What has to be seen before the kill.
        let mut completed = false;
        let mut savepoint_due = job.savepoint_at_record.is_some();
        let mut line = String::new();
        loop {
            line.clear();
            let read = lines.read_line(&mut line);
            if read.map_err(|e| Error::io("cannot listen to the job", e))? == 0 {
                break;
            }
            if !line.ends_with('\n') && attempt.killed {
                // The kill cut it short.
                break;
            }
            // Timely tells everybody whom it waits for.
            if line.starts_with("awaiting connections") {
                continue;
            }
            match Event::parse(&line)? {
                Event::Started { offset, restored, .. } => {
                    attempt.first_offset = offset;
                    attempt.last_offset = offset;
                    attempt.restored = restored;
                    self.say_restored(&mut attempt);
                }
                Event::Progress { offset, elapsed_us } => {
                    // At the end of a small input the job idles until killed;
                    // that time says nothing about its speed.
                    if offset > attempt.last_offset {
                        attempt.last_offset = offset;
                        attempt.elapsed_us = elapsed_us;
                    }
                    self.view.progress(offset, self.run.checkpoints.len());
                    let due = kill_at.is_some_and(|kill_at| offset >= kill_at);
                    if due && completed && !savepoint_due && !attempt.killed {
                        running.kill()?;
                        attempt.killed = true;
                        let done = percent(offset, self.run.total);
                        self.view.say(&format!(
                            "killed with SIGKILL at record {} ({done})",
                            thousands(offset)
                        ));
                    }
                }
                Event::Checkpoint(checkpoint) => {
                    match checkpoint.savepoint.is_empty() {
                        true => completed = true,
                        false => savepoint_due = false,
                    }
                    self.run.checkpoints.push(checkpoint);
                }
                Event::Aborted { id, reason } => {
                    self.view.say(&format!("checkpoint {id} was aborted: {reason}"));
                }
                Event::Applied { offset, elapsed_us } => {
                    attempt.last_offset = offset;
                    attempt.elapsed_us = elapsed_us;
                    self.view.progress(offset, self.run.checkpoints.len());
                    self.view.say("end of input and last checkpoint; now the comparison");
                }
                Event::Verified(verdict) => attempt.verdicts.push(verdict),
                Event::Finished { right: _ } => attempt.finished = true,
                Event::Failed { message } => failure = Some(message),
            }
        }
        if let Some(message) = failure {
            return Err(Error::unavailable(message));
        }
        let statuses = running.wait()?;
        let as_planned = match attempt.killed {
            true => statuses.iter().all(|status| was_killed(*status)),
            false => attempt.finished,
        };
        if !as_planned {
            return Err(Error::unavailable("the job ended out of turn")
                .expected(if kill_at.is_some() { "to run until killed" } else { "a result" })
                .found(format_args!("{statuses:?}"))
                .remedy("see its message above; check that memory did not run out"));
        }
        self.run.attempts.push(attempt);
        Ok(())
    }

    /// Works out what has to be read again, and says so.
    fn say_restored(&self, attempt: &mut Attempt) {
        let Some(restored) = attempt.restored.clone() else {
            return;
        };
        let offset = attempt.first_offset;
        let replayed =
            self.run.attempts.last().map_or(0, |killed| killed.last_offset.saturating_sub(offset));
        attempt.replayed = Some(replayed);
        self.view.say(&format!(
            "restored {} {} at record {}, {} -> {} workers; replaying {} records, {} to go",
            if restored.savepoint.is_empty() { "checkpoint" } else { "savepoint" },
            restored.checkpoint,
            thousands(offset),
            restored.from_workers,
            attempt.workers,
            thousands(replayed),
            thousands(self.run.total.saturating_sub(offset)),
        ));
    }

    /// A checkpoint may have become complete in the last moment of a killed
    /// process, too late for it to say so.
    fn note_unreported_checkpoint(&mut self, dir: &Path) -> Result<()> {
        let checkpoints = store::object_store(&Directories::below(dir).checkpoints)?;
        let Some(view) = JobView::open(checkpoints, store::JOB)? else { return Ok(()) };
        let Some(latest) = view.find(&RestoreFrom::Latest)? else { return Ok(()) };
        if self.run.checkpoints.iter().all(|known| known.id < latest.id.0) {
            self.run.checkpoints.extend(CheckpointLine::read(&view, latest.id)?);
        }
        Ok(())
    }
}

/// The processes of one run, which do not outlive their supervisor.
struct Running(Vec<Child>);

impl Running {
    /// Starts the job. The first of its processes tells how it goes.
    fn start(job: &JobOptions, processes: u32) -> Result<(Self, BufReader<ChildStdout>)> {
        let failed = |e| {
            Error::io("cannot start the job as a child process", e)
                .remedy("check that this program still exists and may be executed")
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut job = job.clone();
        job.addresses = free_addresses(processes)?;
        let mut running = Self(Vec::new());
        for process in 0..processes {
            job.process = process;
            let stdout = if process == 0 { Stdio::piped() } else { Stdio::null() };
            let child = Command::new(&program)
                .args(job.to_words())
                .stdin(Stdio::null())
                .stdout(stdout)
                .spawn()
                .map_err(failed)?;
            running.0.push(child);
        }
        let stdout = running.0[0].stdout.take().expect("it was asked for");
        Ok((running, BufReader::new(stdout)))
    }

    /// SIGKILL on Unix: the processes get no chance to finish anything.
    fn kill(&mut self) -> Result<()> {
        let kill = |child: &mut Child| child.kill();
        self.0.iter_mut().try_for_each(kill).map_err(|e| Error::io("cannot kill the job", e))
    }

    fn wait(&mut self) -> Result<Vec<ExitStatus>> {
        let statuses = self.0.iter_mut().map(Child::wait).collect::<io::Result<_>>();
        statuses.map_err(|e| Error::io("cannot learn how the job ended", e))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Both fail if it has ended already, which is what we want.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where processes find each other: as many free ports of the loopback interface; none if
/// there is nobody to be found.
fn free_addresses(processes: u32) -> Result<Vec<String>> {
    if processes == 1 {
        return Ok(Vec::new());
    }
    let find = || -> io::Result<Vec<String>> {
        // All at once, so that they are different ones.
        let listen = |_| TcpListener::bind("127.0.0.1:0");
        let listeners = (0..processes).map(listen).collect::<io::Result<Vec<_>>>()?;
        listeners.iter().map(|free| Ok(free.local_addr()?.to_string())).collect()
    };
    find().map_err(|e| Error::io("cannot find free ports for the processes of the job", e))
}

#[cfg(unix)]
fn was_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    const SIGKILL: i32 = 9;
    status.signal() == Some(SIGKILL)
}

#[cfg(not(unix))]
fn was_killed(status: ExitStatus) -> bool {
    !status.success()
}
