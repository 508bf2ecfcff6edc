//! The thread that reads the second input of the operator, if there is one: slowly, so that
//! much is on its way when a barrier comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use alluvium::Result;
use alluvium::coordinator::Barrier;
use alluvium_conformance::{Polled, Source};

use crate::master::{Position, times};
use crate::runtime::Routes;
use crate::subtask::{Mail, Message, Report};

/// Records of each split that are read at a time.
const BATCH: u64 = 4;
/// From one time to the next.
const NAP: Duration = Duration::from_millis(1);
/// The input that this thread reads.
const SECOND: usize = 1;

/// The master's end of the thread.
pub(crate) struct ToSecond {
    barriers: Sender<Barrier>,
    has_ended: Arc<AtomicBool>,
}

impl ToSecond {
    /// A barrier is to go.
    pub(crate) fn send(&self, barrier: Barrier) {
        // If it has failed it has said so.
        let _ = self.barriers.send(barrier);
    }

    /// All of its splits have been read.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }
}

/// See the [module documentation](self).
pub(crate) struct Second {
    source: Source,
    splits: Vec<Position>,
    subtasks: Vec<Sender<Mail>>,
    reports: Sender<Report>,
    routes: Routes,
    barriers: Receiver<Barrier>,
    has_ended: Arc<AtomicBool>,
    is_stopped: bool,
}

impl Second {
    pub(crate) fn new(
        source: Source,
        splits: Vec<Position>,
        subtasks: Vec<Sender<Mail>>,
        reports: Sender<Report>,
        routes: Routes,
    ) -> (Self, ToSecond) {
        let (send, barriers) = channel();
        let has_ended = Arc::new(AtomicBool::new(false));
        let of_master = ToSecond { barriers: send, has_ended: Arc::clone(&has_ended) };
        let is_stopped = false;
        (
            Self { source, splits, subtasks, reports, routes, barriers, has_ended, is_stopped },
            of_master,
        )
    }

    /// Reads until the master has gone.
    pub(crate) fn run(mut self) {
        loop {
            if let Err(error) = self.read() {
                let _ = self.reports.send(Report::Failed(error));
                return;
            }
            match self.barriers.try_recv() {
                Ok(barrier) => self.pass(barrier),
                Err(TryRecvError::Empty) => std::thread::sleep(NAP),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    fn read(&mut self) -> Result<()> {
        if self.is_stopped {
            return Ok(());
        }
        for (split, position) in self.splits.iter_mut().enumerate() {
            for _ in 0..BATCH {
                match self.source.at(split as u32, position.at) {
                    Polled::Record(record) => {
                        position.at += 1;
                        position.latest = position.latest.max(Some(record.time));
                        let owner = self.routes.owner(split, record.key)?;
                        // One that has ended said why.
                        let _ = self.subtasks[owner].send((SECOND, Message::Record(record)));
                    }
                    Polled::Idle => break,
                    Polled::End => {
                        position.ended = true;
                        break;
                    }
                }
            }
        }
        if let Some(now) = times(&self.splits).min() {
            self.tell_all(|| Message::Watermark(now));
        }
        if self.splits.iter().all(|split| split.ended) {
            self.has_ended.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Everything that was read comes before the barrier, nothing else.
    fn pass(&mut self, barrier: Barrier) {
        self.is_stopped |= barrier.stop.is_some();
        let (id, splits) = (barrier.id, self.splits.clone());
        let _ = self.reports.send(Report::Positions { id, splits });
        self.tell_all(|| Message::Barrier(barrier.clone()));
    }

    fn tell_all(&self, message: impl Fn() -> Message) {
        for subtask in &self.subtasks {
            let _ = subtask.send((SECOND, message()));
        }
    }
}
