//! Runs the job under `ptrace` and kills it at one of its system calls.
//!
//! Every thread of the process stops before and after each call. The calls that change
//! something (see [`Verb`]) are numbered in the order in which they begin, whatever their
//! thread. Only one stop is looked at at a time, but calls of other threads may be under
//! way in the system when the kill comes, as with any kill.
//!
//! A call before which a process is killed has no effect: the system skips it when it finds
//! the signal (`a_call_has_no_effect_if_the_kill_comes_before_it_and_all_if_after` looks).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::phases::{Class, Phase, SAID, Verb, phase_of};

/// Whether the kill comes before or after the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Before,
    After,
}

/// Where a process is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// Nowhere: calls are counted.
    Nowhere,
    /// At the call of this number that changes something.
    Change(usize, Side),
    /// Before the call of this number that changes nothing.
    Other(usize),
    /// At the call of this number within a phase.
    Within(Phase, usize, Side),
}

/// A system call as it was met.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    pub(crate) phase: Phase,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of a {} ({})", self.name, self.class.name(), self.phase)
    }
}

/// How far a process was that stood still.
#[derive(Debug)]
pub(crate) struct StoodStill {
    pub(crate) call: Call,
    /// How many lines it had said.
    pub(crate) lines: usize,
    /// Whether it was being restored.
    pub(crate) restores: bool,
}

/// What came of a process.
#[derive(Default, Debug)]
pub(crate) struct Run {
    /// The calls that change something, in the order in which they began.
    pub(crate) calls: Vec<Call>,
    /// Number of the other calls.
    pub(crate) others: usize,
    /// At which call it was killed; `None` if it came to its end.
    pub(crate) killed_at: Option<Call>,
    /// At which call it stood still, if it did.
    pub(crate) stood_still: Option<StoodStill>,
    /// Whether it ended by itself and well.
    pub(crate) succeeded: bool,
    /// Objects that were given a name, or about to be, with the checkpoint that had been
    /// begun last.
    pub(crate) stored: BTreeMap<String, u64>,
    /// What it said.
    pub(crate) said: Vec<String>,
    /// What it said of failures.
    pub(crate) failures: String,
}

/// Runs the job in `dir` until it ends or is killed.
///
/// # Errors
/// What the system says if it does not let a process be traced here.
pub(crate) fn run(dir: &Path, target: Target) -> Result<Run, Errno> {
    run_until(dir, target, None)
}

/// As [`run`], but the process is not killed: it stands still at that call while
/// `meanwhile` runs, and then goes on.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_with_pause(
    dir: &Path,
    target: Target,
    meanwhile: &mut dyn FnMut(),
) -> Result<Run, Errno> {
    run_until(dir, target, Some(meanwhile))
}

#[expect(clippy::zombie_processes, reason = "the tracer waits for all threads of the job")]
fn run_until(
    dir: &Path,
    target: Target,
    meanwhile: Option<&mut dyn FnMut()>,
) -> Result<Run, Errno> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kills-job"))
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the job's program can be started");
    let pid = Pid::from_raw(child.id() as i32);
    // It has one thread yet, which waits for a line.
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_EXITKILL;
    if let Err(error) = ptrace::seize(pid, options).and_then(|()| ptrace::interrupt(pid)) {
        child.kill().and_then(|()| child.wait()).expect("a child can be killed");
        return Err(error);
    }
    let memory = File::open(format!("/proc/{pid}/mem")).expect("memory of a tracee can be read");
    let dir = dir.to_str().expect("a path of UTF-8").to_owned();
    let mut tracer = Tracer {
        pid,
        memory,
        dir,
        target,
        meanwhile,
        mark: "restore".to_owned(),
        triggered: 0,
        lines: 0,
        within: 0,
        kill_after: HashMap::new(),
        run: Run::default(),
    };
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("the job listens");
    tracer.until_the_end();
    let mut run = tracer.run;
    let mut said = String::new();
    // So little is said that the pipe holds it all.
    child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("UTF-8");
    child.stderr.take().expect("a pipe").read_to_string(&mut run.failures).expect("UTF-8");
    // Half a line was not said.
    let whole = said.rfind('\n').map_or("", |end| &said[..end]);
    let lines = whole.lines().filter(|line| !line.starts_with("mark "));
    run.said = lines.map(str::to_owned).collect();
    Ok(run)
}

struct Tracer<'a> {
    pid: Pid,
    memory: File,
    dir: String,
    target: Target,
    /// What happens at that call, if not a kill.
    meanwhile: Option<&'a mut dyn FnMut()>,
    /// What the main thread said last that it does.
    mark: String,
    /// The checkpoint that was begun last.
    triggered: u64,
    /// Lines that it said.
    lines: usize,
    /// Calls met of the phase that is meant.
    within: usize,
    /// The thread after whose call the process is to be killed.
    kill_after: HashMap<Pid, Call>,
    run: Run,
}

impl Tracer<'_> {
    /// Follows all threads until none is left.
    fn until_the_end(&mut self) {
        // Children of this thread only: others trace as well.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let (thread, signal) = match waitpid(None, Some(flags)) {
                Ok(WaitStatus::PtraceSyscall(thread)) => {
                    self.at_call(thread);
                    (thread, None)
                }
                Ok(WaitStatus::PtraceEvent(thread, ..)) => (thread, None),
                Ok(WaitStatus::Stopped(thread, signal)) => (thread, Some(signal)),
                Ok(WaitStatus::Exited(thread, code)) => {
                    self.run.succeeded |= thread == self.pid && code == 0;
                    continue;
                }
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => return,
                Err(error) => panic!("threads cannot be waited for: {error}"),
            };
            match ptrace::syscall(thread, signal) {
                // It was killed meanwhile.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => panic!("a thread cannot go on: {error}"),
            }
        }
    }

    /// The process is at the call that is meant.
    fn strike(&mut self, call: Call, side: Side) {
        if let Some(meanwhile) = self.meanwhile.take() {
            // Its other threads stop at their next calls, as nobody lets them go on.
            let is_unsaid = call.phase == SAID && side == Side::Before;
            let lines = self.lines - usize::from(is_unsaid);
            let restores = self.mark == "restore";
            self.run.stood_still = Some(StoodStill { call, lines, restores });
            self.target = Target::Nowhere;
            meanwhile();
        } else if self.run.killed_at.is_none() {
            self.run.killed_at = Some(call);
            kill(self.pid, Signal::SIGKILL).expect("a child can be killed");
        }
    }

    /// A thread is about to make a call, or has made it.
    fn at_call(&mut self, thread: Pid) {
        // What others do in the moment of the kill is not ours to count.
        if self.run.killed_at.is_some() {
            return;
        }
        let is_entry = match ptrace::syscall_info(thread) {
            Ok(info) => info.op == libc::PTRACE_SYSCALL_INFO_ENTRY,
            Err(_) => return,
        };
        if !is_entry {
            if let Some(call) = self.kill_after.remove(&thread) {
                self.strike(call, Side::After);
            }
            return;
        }
        let Ok(registers) = ptrace::getregs(thread) else { return };
        let found = self.describe(&registers);
        let Some((verb, name, path)) = found else {
            self.at_other(thread, &registers);
            return;
        };
        let class = Class::of(&path, &verb);
        let phase = phase_of(verb, class, &self.mark);
        let call = Call { name, class, phase };
        if matches!(verb, Verb::Name | Verb::Create)
            && let Some(object) = path.strip_prefix("store/")
        {
            self.run.stored.insert(object.to_owned(), self.triggered);
        }
        let number = self.run.calls.len();
        self.run.calls.push(call);
        self.meet(thread, call, Some(number));
    }

    /// A call that changes nothing.
    fn at_other(&mut self, thread: Pid, registers: &user_regs_struct) {
        let name =
            if registers.orig_rax == libc::SYS_openat as u64 { "open" } else { "other call" };
        let class = Class::Nothing;
        let call = Call { name, class, phase: phase_of(Verb::Other, class, &self.mark) };
        let number = self.run.others;
        self.run.others += 1;
        match self.target {
            Target::Other(wanted) if number == wanted => self.strike(call, Side::Before),
            _ => self.meet(thread, call, None),
        }
    }

    fn meet(&mut self, thread: Pid, call: Call, number: Option<usize>) {
        let side = match self.target {
            Target::Change(wanted, side) if number == Some(wanted) => side,
            Target::Within(phase, wanted, side) if call.phase == phase => {
                self.within += 1;
                if self.within != wanted + 1 {
                    return;
                }
                side
            }
            _ => return,
        };
        match side {
            Side::Before => self.strike(call, side),
            Side::After => drop(self.kill_after.insert(thread, call)),
        }
    }

    /// What a call changes: how, its name, and the path in the job's directory, or all of
    /// the path; `None` if it changes nothing.
    fn describe(&mut self, registers: &user_regs_struct) -> Option<(Verb, &'static str, String)> {
        let r = registers;
        let number = r.orig_rax as i64;
        let of_descriptor = |verb, name| Some((verb, name, self.path_of(r.rdi)));
        let of_path = |verb, name, at| Some((verb, name, self.path_at(at)));
        match number {
            libc::SYS_write if r.rdi == 1 => self.hear(r.rsi, r.rdx),
            libc::SYS_write => of_descriptor(Verb::Write, "write"),
            libc::SYS_pwrite64 => of_descriptor(Verb::Write, "pwrite"),
            libc::SYS_writev => of_descriptor(Verb::Write, "writev"),
            libc::SYS_pwritev | libc::SYS_pwritev2 => of_descriptor(Verb::Write, "pwritev"),
            libc::SYS_ftruncate => of_descriptor(Verb::Write, "ftruncate"),
            libc::SYS_fallocate => of_descriptor(Verb::Write, "fallocate"),
            libc::SYS_copy_file_range => {
                Some((Verb::Write, "copy_file_range", self.path_of(r.rdx)))
            }
            libc::SYS_sendfile => of_descriptor(Verb::Write, "sendfile"),
            libc::SYS_fsync => of_descriptor(Verb::Sync, "fsync"),
            libc::SYS_fdatasync => of_descriptor(Verb::Sync, "fdatasync"),
            libc::SYS_sync_file_range => of_descriptor(Verb::Sync, "sync_file_range"),
            libc::SYS_syncfs => of_descriptor(Verb::Sync, "syncfs"),
            libc::SYS_msync => Some((Verb::Sync, "msync", String::new())),
            libc::SYS_flock => of_descriptor(Verb::Lock, "flock"),
            libc::SYS_openat if r.rdx & MAKES != 0 => of_path(Verb::Create, "open", r.rsi),
            libc::SYS_open if r.rsi & MAKES != 0 => of_path(Verb::Create, "open", r.rdi),
            libc::SYS_creat => of_path(Verb::Create, "creat", r.rdi),
            libc::SYS_truncate => of_path(Verb::Write, "truncate", r.rdi),
            libc::SYS_link => of_path(Verb::Name, "link", r.rsi),
            libc::SYS_linkat => of_path(Verb::Name, "link", r.r10),
            libc::SYS_rename => of_path(Verb::Name, "rename", r.rsi),
            libc::SYS_renameat | libc::SYS_renameat2 => of_path(Verb::Name, "rename", r.r10),
            libc::SYS_symlink => of_path(Verb::Name, "symlink", r.rsi),
            libc::SYS_symlinkat => of_path(Verb::Name, "symlink", r.rdx),
            libc::SYS_unlink => of_path(Verb::Remove, "unlink", r.rdi),
            libc::SYS_unlinkat => of_path(Verb::Remove, "unlink", r.rsi),
            libc::SYS_rmdir => of_path(Verb::Remove, "rmdir", r.rdi),
            libc::SYS_mkdir => of_path(Verb::MakeDir, "mkdir", r.rdi),
            libc::SYS_mkdirat => of_path(Verb::MakeDir, "mkdir", r.rsi),
            _ => None,
        }
    }

    /// What the job says. Where its main thread is, is said for us alone.
    fn hear(&mut self, at: u64, bytes: u64) -> Option<(Verb, &'static str, String)> {
        let line = self.read(at, bytes as usize);
        if let Some(mark) = line.strip_prefix("mark ") {
            mark.trim_end().clone_into(&mut self.mark);
            return None;
        }
        if let Some(id) = line.strip_prefix("trigger ").and_then(|rest| rest.split(' ').next()) {
            self.triggered = id.parse().expect("a number");
        }
        self.lines += 1;
        Some((Verb::Say, "write", "said".to_owned()))
    }

    fn read(&self, at: u64, bytes: usize) -> String {
        let mut buffer = vec![0; bytes.min(4096)];
        let bytes = self.memory.read_at(&mut buffer, at).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..bytes]).into_owned()
    }

    fn within_dir(&self, path: &str) -> String {
        let inside = path.strip_prefix(&self.dir).map(|rest| rest.trim_start_matches('/'));
        inside.unwrap_or(path).to_owned()
    }

    /// The path that ends with a zero at this address.
    fn path_at(&self, at: u64) -> String {
        let text = self.read(at, 512);
        self.within_dir(text.split('\0').next().unwrap_or_default())
    }

    fn path_of(&self, descriptor: u64) -> String {
        let link = format!("/proc/{}/fd/{descriptor}", self.pid);
        let path = std::fs::read_link(link).unwrap_or_default();
        self.within_dir(&path.to_string_lossy())
    }
}

/// Flags of an `open` that may make a file or empty it.
const MAKES: u64 = (libc::O_CREAT | libc::O_TRUNC) as u64;
