//! What a snapshot gives its caller: a ticket to follow, await or cancel it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::base::{Error, Result, SnapshotId};
use crate::env::executor::Executor;
use crate::env::sync::{AtomicBool, AtomicU8, AtomicU64, Condvar, Mutex, Ordering};
use crate::format::checkpoint::StoredFile;
use crate::format::handle::SnapshotHandle;

/// What came of a snapshot.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// Restores the shard; to be kept with those of the other shards.
    pub handle: SnapshotHandle,
    /// The snapshot's number.
    pub snapshot: SnapshotId,
    /// Time that [`snapshot`](crate::Shard::snapshot) kept the task thread.
    pub pause_ns: u64,
    /// Time from the freeze until the changed records had been copied out of
    /// memory; until then the task copies a frozen record that it changes.
    pub extract_ns: u64,
    /// Time from the freeze until the manifest was durable.
    pub duration_ns: u64,
    /// Bytes that this snapshot added to the store, its manifest included.
    pub bytes_new: u64,
    /// Bytes of all tables that the snapshot needs, and its manifest.
    pub bytes_total: u64,
    /// Records in the delta, deletions included.
    pub records_new: u64,
    /// Bytes of keys, namespaces and values in the delta.
    pub raw_bytes_new: u64,
    /// Number of tables that the snapshot needs.
    pub tables: usize,
    /// Every file that the snapshot needs, its manifest included, each once, ascending
    /// by location.
    pub files: Arc<[StoredFile]>,
}

/// How far a snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SnapshotPhase {
    /// Frozen; changed records are being copied out of memory.
    Extracting,
    /// The delta table is being sorted and written.
    Writing,
    /// Tables are being handed to the sink.
    Uploading,
    /// The manifest is being published.
    Publishing,
    /// Over, for better or worse.
    Done,
}

impl SnapshotPhase {
    const ALL: [Self; 5] =
        [Self::Extracting, Self::Writing, Self::Uploading, Self::Publishing, Self::Done];
}

/// How far a snapshot is, in phases and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotProgress {
    /// What is being done.
    pub phase: SnapshotPhase,
    /// Bytes handed to the sink so far.
    pub uploaded_bytes: u64,
    /// Bytes that are to be handed to the sink; 0 until that is known.
    pub upload_bytes: u64,
}

/// How long to sleep while another thread does the work of a backend without
/// threads of its own, before looking for more work.
const OTHERS_WORK: Duration = Duration::from_millis(1);

struct Outcome {
    result: Option<Result<SnapshotReport, SharedError>>,
    wakers: Vec<Waker>,
}

/// The outcome may be asked for more than once; an error is not `Clone`.
type SharedError = Arc<Error>;

fn unshare(error: &SharedError) -> Error {
    let copy = Error::new(error.kind(), error);
    if error.may_have_happened() { copy.ambiguous() } else { copy }
}

pub(super) struct TicketState {
    snapshot: SnapshotId,
    phase: AtomicU8,
    uploaded_bytes: AtomicU64,
    upload_bytes: AtomicU64,
    cancelled: AtomicBool,
    /// Known only after the snapshot is under way, so it is filled in when
    /// the outcome is read.
    pause_ns: AtomicU64,
    outcome: Mutex<Outcome>,
    done: Condvar,
}

/// Follows one snapshot. Dropping it does not stop the snapshot.
///
/// It is also a [`Future`], for callers that have a runtime of their own.
///
/// The background finds a new snapshot by itself, within 16 ms if its threads
/// are not busy. Waiting, awaiting and cancelling make it begin at once, which
/// costs the caller a system call; [`try_poll`](Self::try_poll) and
/// [`progress`](Self::progress) only look.
#[derive(Clone)]
pub struct SnapshotTicket {
    state: Arc<TicketState>,
    executor: Executor,
}

impl SnapshotTicket {
    /// The snapshot's number.
    pub fn snapshot(&self) -> SnapshotId {
        self.state.snapshot
    }

    pub(crate) fn set_pause_ns(&self, pause_ns: u64) {
        self.state.pause_ns.store(pause_ns, Ordering::Relaxed);
    }

    /// The outcome, if there is one yet. Does not block.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_poll(&self) -> Option<Result<SnapshotReport>> {
        self.state.result()
    }

    /// Blocks until the snapshot is over. On a backend without background
    /// threads, does its work.
    ///
    /// # Errors
    /// `Unavailable` if the world did not cooperate or the snapshot was
    /// cancelled; nothing is lost, the next snapshot carries its changes.
    /// `Closed` if the backend was closed first. After any error the last
    /// completed snapshot is as restorable as it was.
    pub fn wait(&self) -> Result<SnapshotReport> {
        self.hurry();
        loop {
            if let Some(result) = self.try_poll() {
                return result;
            }
            if self.executor.is_driven_by_caller() {
                if self.executor.run_one() {
                    continue;
                }
                if self.executor.is_idle() && self.try_poll().is_none() {
                    return Err(Error::internal(
                        "a snapshot was left without anybody to finish it",
                    )
                    .at(format_args!("snapshot {}", self.state.snapshot)));
                }
                // Another thread is at it. It may hand in more work, so do not
                // sleep for good.
                let mut outcome = self.state.outcome.lock();
                if outcome.result.is_none() {
                    self.state.done.wait_for(&mut outcome, OTHERS_WORK);
                }
                continue;
            }
            let mut outcome = self.state.outcome.lock();
            if outcome.result.is_none() {
                self.state.done.wait(&mut outcome);
            }
        }
    }

    /// Blocks until the snapshot is over or `timeout` has passed; `None` then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<SnapshotReport>> {
        self.hurry();
        if self.executor.is_driven_by_caller() {
            while self.try_poll().is_none() && self.executor.run_one() {}
        } else {
            let mut outcome = self.state.outcome.lock();
            if outcome.result.is_none() {
                self.state.done.wait_for(&mut outcome, timeout);
            }
        }
        self.try_poll()
    }

    /// Asks the snapshot to stop. It ends with an `Unavailable` error, or
    /// completes after all if it was too far; its changes go into the next
    /// snapshot. Does not block.
    pub fn cancel(&self) {
        self.state.cancelled.store(true, Ordering::Relaxed);
        self.hurry();
    }

    /// Has a napping thread begin with the snapshot, if none has. What follows
    /// is handed in by the background, which wakes as it goes.
    fn hurry(&self) {
        if self.state.phase.load(Ordering::Relaxed) == SnapshotPhase::Extracting as u8 {
            self.executor.wake();
        }
    }

    /// How far it is. Does not block.
    pub fn progress(&self) -> SnapshotProgress {
        SnapshotProgress {
            phase: SnapshotPhase::ALL[usize::from(self.state.phase.load(Ordering::Relaxed))],
            uploaded_bytes: self.state.uploaded_bytes.load(Ordering::Relaxed),
            upload_bytes: self.state.upload_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Future for SnapshotTicket {
    type Output = Result<SnapshotReport>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.hurry();
        if self.executor.is_driven_by_caller() {
            while self.try_poll().is_none() && self.executor.run_one() {}
        }
        let mut outcome = self.state.outcome.lock();
        match &outcome.result {
            Some(result) => Poll::Ready(self.state.copy(result)),
            None => {
                if !outcome.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                    outcome.wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for SnapshotTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotTicket")
            .field("snapshot", &self.state.snapshot)
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

impl TicketState {
    fn result(&self) -> Option<Result<SnapshotReport>> {
        let outcome = self.outcome.lock();
        outcome.result.as_ref().map(|result| self.copy(result))
    }

    fn copy(&self, result: &Result<SnapshotReport, SharedError>) -> Result<SnapshotReport> {
        match result {
            Ok(report) => {
                let pause_ns = self.pause_ns.load(Ordering::Relaxed);
                Ok(SnapshotReport { pause_ns, ..report.clone() })
            }
            Err(error) => Err(unshare(error)),
        }
    }
}

/// The other end of a ticket: who holds it owes an outcome. Dropping it
/// without one tells the waiters that the backend was closed.
pub(super) struct Promise {
    state: Arc<TicketState>,
}

impl Promise {
    /// A promise and the ticket that follows it.
    pub(super) fn new(snapshot: SnapshotId, executor: Executor) -> (Self, SnapshotTicket) {
        let state = Arc::new(TicketState {
            snapshot,
            phase: AtomicU8::new(SnapshotPhase::Extracting as u8),
            uploaded_bytes: AtomicU64::new(0),
            upload_bytes: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            pause_ns: AtomicU64::new(0),
            outcome: Mutex::new(Outcome { result: None, wakers: Vec::new() }),
            done: Condvar::new(),
        });
        (Self { state: Arc::clone(&state) }, SnapshotTicket { state, executor })
    }

    pub(super) fn set_phase(&self, phase: SnapshotPhase) {
        self.state.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn set_upload_bytes(&self, bytes: u64) {
        self.state.upload_bytes.store(bytes, Ordering::Relaxed);
    }

    /// For those who upload, on whatever threads.
    pub(super) fn uploading(&self) -> Uploading {
        Uploading { state: Arc::clone(&self.state) }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::Relaxed)
    }

    /// Fails if the snapshot was cancelled.
    pub(super) fn check_cancelled(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::unavailable("the snapshot was cancelled")
                .at(format_args!("snapshot {}", self.state.snapshot))
                .remedy("take another; it carries the changes of this one"));
        }
        Ok(())
    }

    pub(super) fn keep(self, result: Result<SnapshotReport>) {
        self.settle(result);
    }

    fn settle(&self, result: Result<SnapshotReport>) {
        let wakers = {
            let mut outcome = self.state.outcome.lock();
            if outcome.result.is_some() {
                return;
            }
            outcome.result = Some(result.map_err(Arc::new));
            self.state.phase.store(SnapshotPhase::Done as u8, Ordering::Relaxed);
            std::mem::take(&mut outcome.wakers)
        };
        self.state.done.notify_all();
        for waker in wakers {
            waker.wake();
        }
    }
}

/// Tells a ticket how far the uploads are, and whether they are still wanted.
pub(super) struct Uploading {
    state: Arc<TicketState>,
}

impl Uploading {
    /// A table was uploaded up to `bytes`, having been up to `before`.
    pub(super) fn advance(&self, before: u64, bytes: u64) {
        // Around zero, if it begins again.
        self.state.uploaded_bytes.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::Relaxed)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.state.outcome.lock().result.is_none() {
            self.settle(Err(Error::closed("the snapshot was given up")
                .at(format_args!("snapshot {}", self.state.snapshot))
                .remedy("open the backend again and restore the last completed snapshot")));
        }
    }
}
