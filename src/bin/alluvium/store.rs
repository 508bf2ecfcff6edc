//! From what stands on the command line to a store, a job, and a checkpoint.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use alluvium::coordinator::{Coordinator, JobView, RestoreFrom, jobs};
use alluvium::env::{Env, RealEnv};
use alluvium::format::{Checkpoint, CheckpointKind, CheckpointRef};
use alluvium::object::{LocalStore, ObjectStore};
use alluvium::savepoint::{CheckpointReader, NativeSavepoint};
use alluvium::{Error, Result, SnapshotHandle, SnapshotId, SnapshotSource};

use crate::args::{At, OfJob};
use crate::readonly::{self, ReadOnlyStore};
use crate::remote;

/// What a store is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Nothing is written.
    Read,
    /// Objects are created and removed in one that is there.
    Change,
    /// It is made if it is not there.
    Make,
}

/// Opens the store that a text names: the one place that knows where stores can be.
pub(crate) fn open_store(text: &str, access: Access) -> Result<Arc<dyn ObjectStore>> {
    if remote::is_remote(text) {
        return remote::open(text, access);
    }
    let path = path_of(text)?;
    if readonly::is_file(&path) {
        return Err(Error::invalid("this is a file, and no directory")
            .at(path.display())
            .expected("the directory of a checkpoint store, or of an exported savepoint")
            .remedy(
                "list, show, states, scan, verify and import --canonical read a canonical savepoint",
            ));
    }
    if access != Access::Make && !readonly::is_dir(&path) {
        return Err(Error::invalid("there is no such directory")
            .at(path.display())
            .remedy("give the directory of a checkpoint store, or of an exported savepoint"));
    }
    Ok(match access {
        Access::Read => Arc::new(ReadOnlyStore::open(&path)?),
        Access::Change | Access::Make => {
            Arc::new(LocalStore::open(Arc::new(RealEnv::with_pread()), path)?)
        }
    })
}

/// The path that a text names: of a directory, or of a file.
pub(crate) fn path_of(text: &str) -> Result<PathBuf> {
    match text.split_once("://") {
        Some(("file", path)) => Ok(PathBuf::from(decode_percent(path)?)),
        // What follows may hold a secret.
        Some((scheme, _)) => Err(Error::invalid("this is no file of this machine")
            .expected("a path, or file://")
            .found(format_args!("{scheme}://"))
            .remedy("a canonical savepoint is a file: write it here, or pipe it by -")),
        None => Ok(PathBuf::from(text)),
    }
}

fn decode_percent(path: &str) -> Result<String> {
    let wrong = || Error::invalid("not a file:// URL").expected("file:///DIRECTORY").found(path);
    if !path.starts_with('/') {
        return Err(wrong());
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16));
                let (high, low) = digits.ok_or_else(wrong)?;
                bytes.push((high << 4 | low) as u8);
                after
            }
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// What a store turned out to hold.
#[derive(Debug)]
pub(crate) enum Place {
    /// A job's checkpoints.
    Job(JobView),
    /// One savepoint that was exported.
    Exported(NativeSavepoint),
}

/// Opens a job, or an exported savepoint.
pub(crate) fn open_place(of: &OfJob, access: Access) -> Result<Place> {
    let store = open_store(&of.store, access)?;
    if of.job.is_none()
        && let Some(exported) = NativeSavepoint::open(Arc::clone(&store))?
    {
        return Ok(Place::Exported(exported));
    }
    find_job(store, of).map(Place::Job)
}

/// Opens a job for looking.
pub(crate) fn open_job(of: &OfJob, access: Access) -> Result<(Arc<dyn ObjectStore>, JobView)> {
    let store = open_store(&of.store, access)?;
    let view = find_job(Arc::clone(&store), of)?;
    Ok((store, view))
}

fn find_job(store: Arc<dyn ObjectStore>, of: &OfJob) -> Result<JobView> {
    let name = match &of.job {
        Some(name) => name.clone(),
        None => {
            let mut names = jobs(&*store)?;
            match names.len() {
                1 => names.remove(0),
                0 => {
                    return Err(Error::invalid("there is neither a job nor an exported savepoint")
                        .at(&of.store)
                        .expected("a folder `jobs`, or an object `savepoint`")
                        .remedy("give the directory or the URL of a checkpoint store"));
                }
                _ => {
                    return Err(Error::invalid("the store has several jobs")
                        .at(&of.store)
                        .expected("--job with one of them")
                        .found(names.join(", ")));
                }
            }
        }
    };
    JobView::open(Arc::clone(&store), &name)?.ok_or_else(|| {
        let known = jobs(&*store).unwrap_or_default().join(", ");
        Error::invalid("the store has no such job")
            .at(&of.store)
            .expected(format_args!("one of [{known}]"))
            .found(format_args!("{name:?}"))
    })
}

/// A checkpoint that was chosen.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) source: Arc<dyn SnapshotSource>,
    /// `None` of an exported savepoint.
    pub(crate) of_job: Option<(JobView, CheckpointRef)>,
}

impl Chosen {
    /// What it is called in a sentence.
    pub(crate) fn title(&self) -> String {
        let Checkpoint { id, job, kind, .. } = &self.checkpoint;
        match (&self.of_job, kind) {
            (None, _) => format!("exported savepoint, checkpoint {id} of job {job}"),
            (Some(_), CheckpointKind::Checkpoint) => format!("checkpoint {id} of job {job}"),
            (Some(_), CheckpointKind::Savepoint(name)) => {
                format!("savepoint {name} (checkpoint {id}) of job {job}")
            }
        }
    }

    /// Reads its states, as they are now.
    pub(crate) fn reader(&self) -> CheckpointReader {
        let now = RealEnv::new().unix_time_ms();
        CheckpointReader::new(self.checkpoint.clone(), Arc::clone(&self.source), now)
    }

    /// The operator that is meant: the one of this name, or the only one.
    pub(crate) fn operator_name(&self, asked: Option<&str>) -> Result<String> {
        let all: Vec<_> = self.checkpoint.operators().collect();
        match (asked, &*all) {
            (Some(asked), _) => Ok(asked.to_owned()),
            (None, [only]) => Ok((*only).to_owned()),
            (None, _) => Err(Error::invalid("the checkpoint has several operators, or none")
                .expected("--operator with one of them")
                .found(format_args!("{all:?}"))),
        }
    }
}

/// Finds the checkpoint that is meant.
pub(crate) fn choose(at: &At, access: Access) -> Result<Chosen> {
    let from = match (at.checkpoint, &at.savepoint) {
        (Some(id), _) => RestoreFrom::Checkpoint(SnapshotId(id)),
        (None, Some(name)) => RestoreFrom::Savepoint(name.clone()),
        (None, None) => RestoreFrom::Latest,
    };
    match open_place(&at.of, access)? {
        Place::Job(view) => choose_of(view, &from),
        Place::Exported(exported) => {
            let checkpoint = exported.checkpoint().clone();
            let is_meant = match &from {
                RestoreFrom::Latest => true,
                RestoreFrom::Checkpoint(id) => checkpoint.id == *id,
                RestoreFrom::Savepoint(name) => {
                    checkpoint.kind == CheckpointKind::Savepoint(name.clone())
                }
            };
            if !is_meant {
                return Err(Error::invalid("the exported savepoint is another one")
                    .expected(from)
                    .found(format_args!("checkpoint {}", checkpoint.id)));
            }
            Ok(Chosen { checkpoint, source: exported.source(), of_job: None })
        }
    }
}

/// Finds a checkpoint of a job.
pub(crate) fn choose_of(view: JobView, from: &RestoreFrom) -> Result<Chosen> {
    let Some(reference) = view.find(from)? else {
        return Err(Error::invalid("the job has no completed checkpoint yet")
            .at(format_args!("job {:?}", view.entry().job)));
    };
    let checkpoint = view.read(&reference)?;
    let source = view.source();
    Ok(Chosen { checkpoint, source, of_job: Some((view, reference)) })
}

/// A checkpoint by what a person calls it: a number, or the name of a savepoint.
pub(crate) fn named(text: &str, view: &JobView) -> RestoreFrom {
    match text.parse() {
        // A savepoint may be called by a number as well.
        Ok(id) if view.entry().savepoint(text).is_none() => RestoreFrom::Checkpoint(SnapshotId(id)),
        _ if text == "latest" && view.entry().savepoint(text).is_none() => RestoreFrom::Latest,
        _ => RestoreFrom::Savepoint(text.to_owned()),
    }
}

/// Takes over a job that is stopped.
pub(crate) fn take_over(store: Arc<dyn ObjectStore>, job: &str) -> Result<Coordinator> {
    Coordinator::builder(store, job).owner(owner("stopped job")).open()
}

/// Who this is, for people.
pub(crate) fn owner(doing: &str) -> String {
    format!("alluvium command line, {doing}, process {}", std::process::id())
}

/// Waits a little, for somebody elsewhere.
#[expect(
    clippy::disallowed_methods,
    reason = "the answer comes from another process, which has no way to wake this one"
)]
pub(crate) fn wait_a_little() {
    thread::sleep(Duration::from_millis(100));
}

/// Shard 0..=63 of an operator, in few words.
pub(crate) fn groups_of(handle: &SnapshotHandle) -> String {
    let groups = handle.groups();
    format!("{}-{}", groups.first().0, groups.last().0)
}
