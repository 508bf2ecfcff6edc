//! Bringing a restored shard into memory while it works.
//!
//! The background reads the tables merged and in order, and sends batches of
//! records; the task thread takes in a few with each operation, and asks for
//! more when it has none left. A key about which the memtable has anything to
//! say (a later value, or a deletion) is left alone. When all has been taken
//! in, the shard is as fast as one that was never restored.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use crate::base::Result;
use crate::env::executor::{Executor, Priority};
use crate::format::manifest::StateMeta;
use crate::shard::BaseTable;
use crate::shard::warm::{Warm, WarmBatch, WarmSource};
use crate::version::merge::{MergeScan, MergeSource};

/// Bytes of records in a batch.
const BATCH_BYTES: usize = 32 * 1024;
/// Batches made for one request: some milliseconds of the task thread's time.
const BATCHES: usize = 32;

struct Work {
    scan: MergeScan,
    /// State names in the order of the shard's states.
    states: Vec<String>,
    out: Sender<Warm>,
}

struct Shared {
    work: Mutex<Option<Work>>,
    requested: AtomicBool,
    executor: Executor,
}

/// The task thread's end of a warm-up.
pub(crate) struct WarmUp {
    shared: Arc<Shared>,
    batches: Receiver<Warm>,
}

impl WarmUp {
    /// Prepares to read `tables` (oldest first), and begins.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt` if a table cannot be read.
    pub(crate) fn start(
        tables: &[BaseTable],
        states: &[StateMeta],
        executor: Executor,
    ) -> Result<Self> {
        let sources = tables
            .iter()
            .map(|table| MergeSource { reader: Arc::clone(&table.reader), slice: table.slice })
            .collect();
        let (out, batches) = unbounded();
        let work = Work {
            scan: MergeScan::new(sources)?,
            states: states.iter().map(|state| state.name.clone()).collect(),
            out,
        };
        let shared =
            Shared { work: Mutex::new(Some(work)), requested: AtomicBool::new(false), executor };
        let warm_up = Self { shared: Arc::new(shared), batches };
        warm_up.request();
        Ok(warm_up)
    }

    fn request(&self) {
        if !self.shared.requested.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(&self.shared);
            self.shared.executor.spawn(Priority::Idle, move || shared.work());
        }
    }
}

impl WarmSource for WarmUp {
    fn try_next(&mut self) -> Warm {
        match self.batches.try_recv() {
            Ok(message) => message,
            // The other end is gone without having said that it is done.
            Err(error) if error.is_disconnected() => Warm::Failed,
            Err(_) => {
                self.request();
                Warm::NotYet
            }
        }
    }
}

impl fmt::Debug for WarmUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WarmUp")
    }
}

impl Shared {
    fn work(&self) {
        let mut work = self.work.lock();
        // Taken out: if this panics it is gone, and the shard is told so.
        let Some(mut running) = work.take() else { return };
        match running.send_some(&self.executor) {
            Ok(true) => *work = Some(running),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "a restored shard could not be brought into memory");
            }
        }
        self.requested.store(false, Ordering::Release);
    }
}

impl Work {
    /// Sends the next batches; `false` when that was all.
    fn send_some(&mut self, executor: &Executor) -> Result<bool> {
        for _ in 0..BATCHES {
            executor.breathe(Priority::Idle);
            let mut batch = WarmBatch::default();
            let mut ended = true;
            while let Some(record) = self.scan.next()? {
                let state = self.states.iter().position(|name| name == record.state);
                let state = state.expect("the manifest names every state of its tables");
                if let Some(value) = record.value {
                    batch.push(state, record.group, record.key, record.namespace, value);
                }
                if batch.bytes() >= BATCH_BYTES {
                    ended = false;
                    break;
                }
            }
            // Nobody listens any more when the shard is gone.
            if !batch.is_empty() && self.out.send(Warm::Batch(batch)).is_err() {
                return Ok(false);
            }
            if ended {
                let _ = self.out.send(Warm::Done);
                return Ok(false);
            }
        }
        Ok(true)
    }
}
