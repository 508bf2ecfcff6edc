//! What the job says while it runs: lines of text in files that count once.
//!
//! A process that is killed has said things since its last checkpoint, and the
//! next one will say them again. So nobody listens to what has only been said:
//!
//! 1. Each worker writes its results to a *part*, one file for each checkpoint
//!    and shard, `results/part-0000000007-002.csv`.
//! 2. At the barrier of checkpoint 7 it closes the part and hands it to the
//!    coordinator with its ticket. It does not wait for the disk.
//! 3. The coordinator makes the parts durable before the checkpoint is completed.
//!    Its completion commits them: **a part counts exactly if a
//!    checkpoint of its number, or of a later one, is completed.** (A later
//!    one, since an aborted checkpoint loses nothing: what came before its
//!    barrier came before that of the next one too.)
//! 4. A restarted job removes the parts that never came to count, and writes
//!    them anew.
//!
//! So each result counts exactly once, and as soon as a checkpoint covers it.
//! Why not in a state? It would grow for ever, and each checkpoint with it.
//!
//! A line is `kind,key,from,until,when,...` if it says something of a time:
//! `until` is the first minute that is no part of it; `when` is `on time` for
//! what a timer fired and `late` for what a late flight fired again. There are
//! no quotes and no commas within.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use alluvium::base::{Error, Result, SnapshotId};

const PREFIX: &str = "part-";
const SUFFIX: &str = ".csv";

/// The kinds of results, by the first word of their lines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    /// An airport's departures within an hour: flights, minutes of delay in
    /// all, longest delay.
    Hour,
    /// An aircraft's flights without a long gap: flights, cancelled ones, routes
    /// in the order of the timetable.
    Session,
    /// A carrier's busiest routes of a day.
    Routes,
    /// An aircraft that is seen for the first time, or again after it was
    /// forgotten: `service,key,at`.
    Service,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Hour, Self::Session, Self::Routes, Self::Service];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Session => "session",
            Self::Routes => "routes",
            Self::Service => "service",
        }
    }

    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hour => "airport, by hour",
            Self::Session => "session of an aircraft",
            Self::Routes => "busiest routes, by day",
            Self::Service => "coming into service",
        }
    }
}

/// What made a window fire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Firing {
    /// The watermark reached its end.
    OnTime,
    /// A flight came after that, and was still allowed.
    Late,
}

impl fmt::Display for Firing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnTime => "on time",
            Self::Late => "late",
        })
    }
}

/// Where one worker writes its results.
pub(crate) struct Results {
    dir: PathBuf,
    shard: usize,
    /// The checkpoint that will commit what is written now.
    next: SnapshotId,
    /// Made when there is a first result for it.
    open: Option<(PathBuf, BufWriter<File>)>,
    line: String,
}

impl Results {
    pub(crate) fn new(dir: &Path, shard: usize, next: SnapshotId) -> Self {
        Self { dir: dir.to_owned(), shard, next, open: None, line: String::new() }
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, kind: Kind, rest: fmt::Arguments<'_>) -> Result<()> {
        if self.open.is_none() {
            let path = path_of(&self.dir, self.next, self.shard);
            let file = File::create_new(&path).map_err(|e| cannot_write(&path, e))?;
            self.open = Some((path, BufWriter::with_capacity(64 << 10, file)));
        }
        let (path, out) = self.open.as_mut().expect("it was just opened");
        self.line.clear();
        writeln!(self.line, "{},{rest}", kind.word()).expect("a String takes everything");
        out.write_all(self.line.as_bytes()).map_err(|e| cannot_write(path, e))
    }

    /// The barrier of a checkpoint: closes its part, if there were any results.
    pub(crate) fn barrier(&mut self, id: SnapshotId) -> Result<Option<Part>> {
        self.next = SnapshotId(id.0 + 1);
        let Some((path, out)) = self.open.take() else { return Ok(None) };
        let file = out.into_inner().map_err(|e| cannot_write(&path, e.into_error()))?;
        Ok(Some(Part { path, file }))
    }
}

/// A part that is written, and not durable yet.
pub(crate) struct Part {
    path: PathBuf,
    file: File,
}

/// Makes parts durable, names included. Blocks on the disk. If it fails nobody
/// knows what is in them, and the job has to go back to its last checkpoint.
pub(crate) fn make_durable(dir: &Path, parts: Vec<Part>) -> Result<()> {
    if parts.is_empty() {
        return Ok(());
    }
    for Part { path, file } in parts {
        file.sync_all().map_err(|e| cannot_write(&path, e))?;
    }
    sync_dir(dir).map_err(|e| cannot_write(dir, e))
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> io::Result<()> {
    // Elsewhere a directory cannot be opened; names become durable by themselves.
    Ok(())
}

/// Removes the parts that no completed checkpoint commits.
pub(crate) fn discard_after(dir: &Path, completed: SnapshotId) -> Result<()> {
    for (id, path) in parts_in(dir)? {
        if id > completed {
            fs::remove_file(&path).map_err(|e| {
                Error::io("cannot remove results that no checkpoint committed", e)
                    .at(path.display())
            })?;
        }
    }
    Ok(())
}

/// Gives every result that a completed checkpoint commits to `visit`: its kind,
/// its key, and its whole line.
///
/// # Errors
/// `Corrupt` for a line that is none.
pub(crate) fn read_committed(
    dir: &Path,
    completed: SnapshotId,
    mut visit: impl FnMut(Kind, &str, &str),
) -> Result<()> {
    let mut line = String::new();
    for (id, path) in parts_in(dir)? {
        if id > completed {
            continue;
        }
        let unreadable = |e| Error::io("cannot read results", e).at(path.display());
        let mut lines = BufReader::with_capacity(128 << 10, File::open(&path).map_err(unreadable)?);
        for number in 1u64.. {
            line.clear();
            if lines.read_line(&mut line).map_err(unreadable)? == 0 {
                break;
            }
            let (kind, key) = line
                .ends_with('\n')
                .then(|| line.split_once(','))
                .flatten()
                .and_then(|(kind, rest)| Some((kind, rest.split_once(',')?.0)))
                .and_then(|(kind, key)| Some((kind_of(kind)?, key)))
                .ok_or_else(|| {
                    Error::corrupt("a line of the results is not what the job writes")
                        .at(format_args!("{}:{number}", path.display()))
                        .expected("kind,key,...")
                        .found(format_args!("{line:?}"))
                })?;
            visit(kind, key, line.trim_end_matches('\n'));
        }
    }
    Ok(())
}

fn kind_of(word: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.word() == word)
}

/// All parts, in the order of their checkpoints and shards.
fn parts_in(dir: &Path) -> Result<Vec<(SnapshotId, PathBuf)>> {
    let list = || -> io::Result<Vec<(SnapshotId, PathBuf)>> {
        let mut parts = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-'))
                .and_then(|(id, _shard)| id.parse().ok());
            parts.extend(id.map(|id| (SnapshotId(id), entry.path())));
        }
        parts.sort_unstable();
        Ok(parts)
    };
    list().map_err(|e| Error::io("cannot list the results", e).at(dir.display()))
}

fn path_of(dir: &Path, id: SnapshotId, shard: usize) -> PathBuf {
    dir.join(format!("{PREFIX}{:010}-{shard:03}{SUFFIX}", id.0))
}

fn cannot_write(path: &Path, error: io::Error) -> Error {
    Error::io("cannot write results", error)
        .at(path.display())
        .remedy("check the space and the permissions of the directory given with --dir")
}
