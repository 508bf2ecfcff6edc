//! `kill -9` at the system calls of a job: of checkpoint, upload, restore and collection.
//!
//! A process (`kills-job`) runs a job with every kind of state, the library's coordinator, a
//! real directory and real threads. It is traced, and killed just before or just after one
//! of its system calls. Then, with nothing but what is in the directory and what the process
//! had said through a pipe:
//!
//! - the last checkpoint that it said is complete, or the one that it had begun after it, is
//!   what the job would go on from; it verifies to the last byte, and restored, on any number
//!   of shards, it holds what ordered maps say (`kills_tests::contents`), to which the engine
//!   is unknown; the same for the savepoint, as long as nobody disposes of it;
//! - what nobody needs is of the checkpoint under way, or was being deleted, and nothing else;
//! - a new coordinator, having swept once, leaves exactly the files that are needed;
//! - a new process goes on from there, often to be killed, too, and comes to the end of the
//!   input with what it should have there.
//!
//! And a process that is not killed: it stands still at a system call while another one takes
//! the job over, from where the next entry of the journal is either there or has come and
//! gone, and then goes on. It completes nothing any more, and what the other one completed
//! is what it was.
//!
//! # How often
//!
//! `ALLUVIUM_KILLS=all` kills at every call that changes something, before and after it, and
//! at some hundred that change nothing. Otherwise some are chosen, others with each
//! `ALLUVIUM_SEED`, so that every phase (`phases::ALL`) is met; `ALLUVIUM_KILLS=n` chooses
//! about n. Threads take turns as they like, so that the n-th call is another one in each
//! run: what counts is which calls were met, and a table tells. `ALLUVIUM_KILLS_DIR` is where
//! jobs live; otherwise `/dev/shm`, if there is one, as a kill loses nothing that the system
//! was given, be it on a disk or not.
//!
//! # What this covers that cut power does not, and the other way round
//!
//! `tests/crash.rs` cuts the power of a simulated machine after each of its operations. It
//! loses what was not synced, or some of it, in any order, torn; a kill loses nothing of
//! what was written, so here no missing sync is ever found. The machine of that test has one
//! thread that can be replayed; its coordinator is a list in the test, nothing is deleted in
//! its store, and the kinds of state are values alone. Here are the real system calls, in
//! the order in which threads come to make them, those between two operations of `env::Fs`
//! and those that are none (locks of files, directory by directory, what the standard library
//! does beside); locks that the system drops, and temporary files of the dead; the journal,
//! subsumption, savepoints and collection; several background threads, early writes and
//! merges under way beside a snapshot.
//!
//! Where a process cannot be traced (a container without `ptrace`, say) the tests tell so on
//! standard error, captured or not, and do nothing; on other systems and processors they are
//! listed as ignored.

#![allow(
    clippy::disallowed_methods,
    reason = "real processes on real directories are what this test is about"
)]

#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod check;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod kills;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod phases;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod tracer;

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")))]
#[test]
#[ignore = "SKIPPED: system calls are only known here by their numbers on Linux, x86-64, with the GNU library"]
fn a_kill_at_any_system_call_leaves_the_last_completed_checkpoint() {}
