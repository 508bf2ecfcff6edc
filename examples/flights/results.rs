//! What the job says while it runs: lines of text in files that count once.
//!
//! A process that is killed has said things since its last checkpoint, and the
//! next one will say them again. So the connector's [`FileSink`](alluvium_timely::FileSink)
//! writes them to files that nobody listens to before a checkpoint covers them:
//! **a file counts if its name begins with `part-`**. What begins with a dot is
//! pending, and in `undone` lies what was said after a savepoint that the job was
//! rolled back to.
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
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use alluvium::base::{Error, Result};

/// What the names of files that count begin with.
const COMMITTED: &str = "part-";

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

/// One line, without its end.
pub(crate) fn line(kind: Kind, rest: fmt::Arguments<'_>) -> String {
    let mut line = String::with_capacity(64);
    write!(line, "{},{rest}", kind.word()).expect("a String takes everything");
    line
}

/// Gives every result that counts to `visit`: its kind, its key, and its whole line.
///
/// # Errors
/// `Corrupt` for a line that is none.
pub(crate) fn read_committed(dir: &Path, mut visit: impl FnMut(Kind, &str, &str)) -> Result<()> {
    let mut line = String::new();
    for path in parts_in(dir)? {
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

/// All files that count, by name: in the order of their checkpoints and workers.
fn parts_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut parts = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(COMMITTED)) {
                parts.push(entry.path());
            }
        }
        parts.sort_unstable();
        Ok(parts)
    };
    list().map_err(|e| Error::io("cannot list the results", e).at(dir.display()))
}
