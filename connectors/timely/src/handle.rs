//! Asking a running job for things.

use std::sync::mpsc::{Sender, channel};

use alluvium::coordinator::StopMode;
use alluvium::{Error, Result, SnapshotId};

use crate::master::Request;

/// What [`JobHandle`] asks the coordinator for.
pub(crate) enum Ask {
    Checkpoint,
    Savepoint(String),
    /// Its name, and where it goes.
    SavepointInto(String, String),
    Stop(String, StopMode),
}

/// Asks a running job for things, from any thread of the process of the first worker. Not
/// to be used from within the job's own functions: an answer needs the workers.
#[derive(Clone, Debug)]
pub struct JobHandle {
    pub(crate) asks: Sender<Request>,
}

impl JobHandle {
    /// Takes a checkpoint now and waits until it is complete.
    ///
    /// # Errors
    /// `Unavailable` if it was given up; `Closed` if the job is over or its coordinator
    /// in another process.
    pub fn checkpoint(&self) -> Result<SnapshotId> {
        self.ask(Ask::Checkpoint)
    }

    /// Takes a savepoint of this name and waits until it is complete.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint); `Invalid` if the name is taken or no name.
    pub fn savepoint(&self, name: &str) -> Result<SnapshotId> {
        self.ask(Ask::Savepoint(name.to_owned()))
    }

    /// Takes a savepoint of this name straight into another place and waits until it is
    /// complete: all shards, in all processes, put their files there, and it stands alone
    /// ([`NativeSavepoint`](alluvium::savepoint::NativeSavepoint)). It belongs to whoever
    /// asked for it: the job neither lists nor deletes it. What it means for the results of
    /// [sinks](crate::sink) is said there.
    ///
    /// `place` is the URL of an empty folder, or one that is not there yet, as
    /// [`Job::places`](crate::Job::places) has it opened, and not within the job's own
    /// store. Each process opens it, on its background threads, and so does the job's
    /// coordinator. If one cannot, or fails while it writes, the savepoint is given up and
    /// the job goes on; what is there by then is the caller's
    /// ([`dispose_leftovers`](alluvium::savepoint::NativeSavepoint::dispose_leftovers)).
    /// Costs an upload of all state.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint); `Invalid` if the name or the place is none, the
    /// place has anything in it, or the job was not told how to open one. If it cannot be
    /// opened where the coordinator is, what opening it failed with.
    pub fn savepoint_into(&self, name: &str, place: &str) -> Result<SnapshotId> {
        self.ask(Ask::SavepointInto(name.to_owned(), place.to_owned()))
    }

    /// Ends the job with a savepoint of this name and waits until it is complete.
    ///
    /// # Errors
    /// As [`savepoint`](Self::savepoint). After one the job goes on, unless it was to be
    /// [drained](StopMode::Drain): then it fails, since event time has come to its end.
    pub fn stop(&self, name: &str, mode: StopMode) -> Result<SnapshotId> {
        self.ask(Ask::Stop(name.to_owned(), mode))
    }

    fn ask(&self, ask: Ask) -> Result<SnapshotId> {
        let closed = || {
            Error::closed("the job's coordinator does not run here")
                .remedy("ask in the process of the first worker, while the job runs")
        };
        let (answer, answers) = channel();
        self.asks.send((ask, answer)).map_err(|_| closed())?;
        answers.recv().map_err(|_| closed())?
    }
}
