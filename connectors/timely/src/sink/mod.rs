//! A sink of files, whose records count when the checkpoint that they are before is
//! complete.
//!
//! ```text
//! DIR/.pending-LIFE-WORKER-NUMBER    written, and not committed
//! DIR/part-CHECKPOINT-WORKER         committed
//! DIR/undone/LIFE-part-...           committed once, and then the job went back before it
//! DIR/.saved-...                     of a pending file: a savepoint elsewhere names it
//! ```
//!
//! 1. Each worker writes records to a pending file, on a thread of its own.
//! 2. At the barrier of a checkpoint it ends the file and makes it durable, its name
//!    included. What it would commit goes into the metadata of the checkpoint.
//! 3. When the checkpoint is complete the file is renamed: from then on it counts. A file
//!    of a checkpoint that was given up is committed with the next one, since its records
//!    came before that one's barrier, too.
//! 4. A job that goes on from a checkpoint first commits what is in its metadata, which
//!    does nothing if it was committed before, and removes what else is pending: the
//!    records of it will come again.
//! 5. A savepoint commits nothing: the job goes on from its latest checkpoint, and should it
//!    do so from one before the savepoint, the same records come again. The pending files
//!    that a savepoint names stay as long as it does, for the day on which the job is rolled
//!    back to it; what was set aside meanwhile then comes back, if it came before.
//! 6. Of a savepoint [into another place](crate::Job::places) the job does not know how long
//!    it stays. What it would commit is marked until the next checkpoint has committed it. If
//!    the job goes on from an older one instead, its marked files are not removed but set
//!    aside, as if they had been committed, and come back with the savepoint. They are small
//!    change, and of use as long as the savepoint is: whoever deletes it may delete them.
//!
//! A savepoint elsewhere has the numbers of the job that took it, and keeps them: if it is
//! brought back into that job (`alluvium import`), results after it are set aside as they
//! are of a savepoint of the job itself. **Another job**, or one in another store, can go on
//! from it as follows; everything else is refused before anything is changed.
//!
//! - Its sinks have new directories, and what was said before the savepoint stays in the old
//!   ones.
//! - The files that the savepoint would commit are copied into the new directories. The
//!   error of the first try names them. In the old directory each has its pending name, its
//!   committed one, or is set aside under the latter. There may be none, if nothing came
//!   between the savepoint and the checkpoint before.
//! - To go back to the savepoint once more, restore what was imported the first time: an
//!   import after that has a number above those of results.
//!
//! So every record is in exactly one committed file, whatever happens to the processes.

mod files;
mod operator;
pub(crate) mod recover;

use std::path::PathBuf;

use alluvium::{Error, Result};
use timely::dataflow::StreamVec;

use crate::flow::{WorkerParts, check_new};
use crate::time::Time;

/// Bytes that may wait to be written before the sink holds up checkpoints and sources.
const DEFAULT_BACKLOG_BYTES: usize = 64 << 20;

/// A directory of files, written exactly once; see [`Flow::files`](crate::Flow::files).
///
/// Files that count are `part-CHECKPOINT-WORKER`; what begins with a dot does not. The
/// directory belongs to one sink of one job, and all processes reach it under one path.
#[derive(Clone, Debug)]
#[must_use]
pub struct FileSink {
    dir: PathBuf,
    backlog_bytes: usize,
}

impl FileSink {
    /// Files in `dir`, which is created if need be.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), backlog_bytes: DEFAULT_BACKLOG_BYTES }
    }

    /// How many bytes may wait to be written. With more the sink lets no barrier pass, so
    /// that sources stop at their [lead](crate::Job::lead_records). Default: 64 MiB.
    pub fn backlog_bytes(mut self, bytes: usize) -> Self {
        self.backlog_bytes = bytes;
        self
    }
}

pub(crate) fn build<R: 'static>(
    worker: &WorkerParts,
    name: &str,
    stream: StreamVec<'_, Time, R>,
    sink: FileSink,
    write: impl FnMut(&R, &mut Vec<u8>) + 'static,
) -> Result<()> {
    let control = &worker.control;
    let Some(dir) = sink.dir.to_str() else {
        return Err(Error::invalid("the directory of a sink must be UTF-8")
            .at(sink.dir.display())
            .remedy("choose another directory"));
    };
    {
        let mut plan = control.plan.borrow_mut();
        check_new("sink", name, plan.sinks.iter().map(|(name, _)| name.as_str()))?;
        check_new("directory of a sink", dir, plan.sinks.iter().map(|(_, dir)| dir.as_str()))?;
        plan.sinks.push((name.to_owned(), dir.to_owned()));
    }
    operator::build(worker, name, stream, sink, write)
}
