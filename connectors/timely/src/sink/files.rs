//! The files of a sink, written by one thread for each worker.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use alluvium::env::{Env, Fs, WriteFile};
use alluvium::{Error, Result};
use timely::scheduling::SyncActivator;

use crate::control::mail::Part;

pub(super) const PENDING: &str = ".pending-";
const SAVED: &str = ".saved-";
const COMMITTED: &str = "part-";

/// What the writer is to do.
pub(super) enum Command {
    Write(Vec<u8>),
    /// The barrier of a checkpoint, or of a savepoint that goes elsewhere.
    Prepare {
        id: u64,
        is_elsewhere: bool,
    },
    /// A checkpoint is complete.
    Commit(u64),
}

/// What it has done.
pub(super) enum Done {
    Prepared { id: u64, parts: Vec<Part> },
    Committed,
    Failed(Error),
}

/// Writes the files of one sink and worker.
pub(super) struct Writer {
    pub(super) env: Arc<dyn Env>,
    pub(super) dir: PathBuf,
    pub(super) life: u64,
    pub(super) worker: usize,
    pub(super) commands: Receiver<Command>,
    pub(super) done: Sender<Done>,
    pub(super) activator: SyncActivator,
    /// Bytes that wait to be written.
    pub(super) backlog: Arc<AtomicUsize>,
}

/// What the writer has under way.
#[derive(Default)]
struct Files {
    open: Option<(String, Box<dyn WriteFile>)>,
    number: u64,
    /// Durable, and not committed.
    prepared: Vec<Prepared>,
}

/// A file on its way from pending to committed.
struct Prepared {
    /// The first checkpoint that commits it.
    id: u64,
    part: Part,
    /// A savepoint that went elsewhere names it.
    is_saved: bool,
}

impl Writer {
    /// Works until the operator has gone.
    pub(super) fn run(self) {
        let mut files = Files::default();
        while let Ok(command) = self.commands.recv() {
            let done = match command {
                Command::Write(bytes) => {
                    let written = self.write(&mut files, &bytes);
                    self.backlog.fetch_sub(bytes.len(), Ordering::AcqRel);
                    written.map(|()| None)
                }
                Command::Prepare { id, is_elsewhere } => {
                    let prepared = self.prepare(&mut files, id, is_elsewhere);
                    prepared.map(|parts| Some(Done::Prepared { id, parts }))
                }
                Command::Commit(id) => self.commit(&mut files, id).map(|()| Some(Done::Committed)),
            };
            let failed = done.is_err();
            // The operator may have gone: then the job is over.
            if let Some(done) = done.unwrap_or_else(|error| Some(Done::Failed(error)))
                && self.done.send(done).is_err()
            {
                return;
            }
            let _ = self.activator.activate();
            if failed {
                return;
            }
        }
    }

    fn write(&self, files: &mut Files, bytes: &[u8]) -> Result<()> {
        let (name, file) = match &mut files.open {
            Some(open) => open,
            None => {
                let name =
                    format!("{PENDING}{:010}-{:05}-{:010}", self.life, self.worker, files.number);
                files.number += 1;
                let path = self.dir.join(&name);
                let file = self.env.fs().create_new(&path).map_err(|e| cannot_write(&path, e))?;
                files.open.insert((name, file))
            }
        };
        file.write_all(bytes).map_err(|e| cannot_write(&self.dir.join(name), e))
    }

    fn prepare(&self, files: &mut Files, id: u64, is_elsewhere: bool) -> Result<Vec<Part>> {
        let mut is_new = false;
        if let Some((pending, mut file)) = files.open.take() {
            let path = self.dir.join(&pending);
            file.sync().map_err(|e| cannot_write(&path, e))?;
            let committed = name_of(id, self.worker);
            let part = Part { pending, committed };
            files.prepared.push(Prepared { id, part, is_saved: false });
            is_new = true;
        }
        // The job's journal does not know such a savepoint, nor when it goes.
        for prepared in files.prepared.iter_mut().filter(|of| is_elsewhere && !of.is_saved) {
            if let Some(mark) = mark_of(&prepared.part, prepared.id) {
                let path = self.dir.join(mark);
                let made = self.env.fs().create_new(&path).and_then(|mut file| file.sync());
                made.map_err(|e| cannot_write(&path, e))?;
            }
            prepared.is_saved = true;
            is_new = true;
        }
        if is_new {
            self.env.fs().sync_dir(&self.dir).map_err(|e| cannot_write(&self.dir, e))?;
        }
        Ok(files.prepared.iter().map(|prepared| prepared.part.clone()).collect())
    }

    fn commit(&self, files: &mut Files, completed: u64) -> Result<()> {
        let due: Vec<_> = files.prepared.extract_if(.., |of| of.id <= completed).collect();
        if due.is_empty() {
            return Ok(());
        }
        for Prepared { part, .. } in &due {
            commit(self.env.fs(), &self.dir, part)?;
        }
        self.env.fs().sync_dir(&self.dir).map_err(|e| cannot_write(&self.dir, e))?;
        for Prepared { id, part, .. } in due.iter().filter(|of| of.is_saved) {
            if let Some(mark) = mark_of(part, *id) {
                let path = self.dir.join(mark);
                self.env.fs().remove_file(&path).map_err(|e| cannot_write(&path, e))?;
            }
        }
        Ok(())
    }
}

/// Gives a pending file the name under which it counts, unless it has it already.
pub(super) fn commit(fs: &dyn Fs, dir: &Path, part: &Part) -> Result<()> {
    let (from, to) = (dir.join(&part.pending), dir.join(&part.committed));
    match fs.rename(&from, &to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs.file_len(&to).is_ok() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::corrupt("results that a checkpoint commits are missing")
                .at(from.display())
                .expected(format_args!("this file, or {}", part.committed))
                .remedy("put it back from a copy, or go on from an older checkpoint"))
        }
        Err(error) => Err(cannot_write(&to, error)),
    }
}

pub(super) fn name_of(id: u64, worker: usize) -> String {
    format!("{COMMITTED}{id:020}-{worker:05}")
}

/// The checkpoint that committed a file of this name; `None` if it is no such file.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let (id, worker) = name.strip_prefix(COMMITTED)?.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(id) && is_number(worker)).then(|| id.parse().ok()).flatten()
}

/// The name of an empty file that says of a pending one that a savepoint names it which went
/// elsewhere.
pub(super) fn mark_of(part: &Part, id: u64) -> Option<String> {
    let rest = part.pending.strip_prefix(PENDING)?;
    Some(format!("{SAVED}{rest}-{id:020}"))
}

/// The pending file that such a mark is of; `None` if it is no mark.
pub(super) fn marked_by(mark: &str) -> Option<Part> {
    let (rest, id) = mark.strip_prefix(SAVED)?.rsplit_once('-')?;
    let worker = rest.split('-').nth(1)?.parse().ok()?;
    let committed = name_of(id.parse().ok()?, worker);
    Some(Part { pending: format!("{PENDING}{rest}"), committed })
}

pub(super) fn cannot_write(path: &Path, source: io::Error) -> Error {
    Error::io("results cannot be written", source)
        .at(path.display())
        .remedy("check the directory of the sink, its permissions and the space left")
}
