//! Where the job meets Alluvium, beside timely: the names that it uses, how its
//! checkpoints are taken, and one of them opened without a dataflow.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::coordinator::{CheckpointSettings, JobView, RestoreFrom};
use alluvium::env::RealEnv;
use alluvium::format::Checkpoint;
use alluvium::object::{LocalStore, ObjectStore};
use alluvium::{Backend, Error, Result, Shard};
use tempfile::TempDir;

use super::operators::Operators;
use super::rules::Rules;

/// The name under which Alluvium knows the job.
pub(crate) const JOB: &str = "flights";
/// The name of the source.
pub(crate) const SOURCE: &str = "flights";
/// The name of the operator that has all states.
pub(crate) const OPERATOR: &str = "flights";
/// The name of the sink.
pub(crate) const SINK: &str = "results";
/// The name of the savepoint that is taken on the way.
pub(crate) const SAVEPOINT: &str = "on-the-way";

/// Completed checkpoints that are kept.
const RETAINED_CHECKPOINTS: usize = 2;
/// Checkpoints that may fail one after the other before the job does.
pub(crate) const TOLERATED_FAILURES: usize = 3;

/// Where the job keeps what, below the directory given to it.
pub(crate) struct Directories {
    /// Alluvium's working files.
    pub(crate) state: PathBuf,
    /// Alluvium's checkpoints and savepoints.
    pub(crate) checkpoints: PathBuf,
    /// What the job says.
    pub(crate) results: PathBuf,
}

impl Directories {
    pub(crate) fn below(dir: &Path) -> Self {
        Self {
            state: dir.join("state"),
            checkpoints: dir.join("checkpoints"),
            results: dir.join("results"),
        }
    }
}

/// The directory in which checkpoints are.
pub(crate) fn object_store(dir: &Path) -> Result<Arc<dyn ObjectStore>> {
    Ok(Arc::new(LocalStore::open(Arc::new(RealEnv::new()), dir.to_owned())?))
}

/// When checkpoints are taken, and which are kept.
pub(crate) fn settings(interval_ms: u64) -> CheckpointSettings {
    let mut settings = CheckpointSettings::default();
    settings.interval_ms = Some(interval_ms);
    settings.retained = RETAINED_CHECKPOINTS;
    settings.tolerable_failures = TOLERATED_FAILURES;
    settings
}

/// Looks for a checkpoint of the job.
///
/// # Errors
/// `Invalid` if there is none.
pub(crate) fn find(checkpoints: &Path, from: &RestoreFrom) -> Result<(JobView, Checkpoint)> {
    let none = || {
        Error::invalid("there is no completed checkpoint to restart from")
            .at(checkpoints.display())
            .remedy("start the job anew")
    };
    let view = JobView::open(object_store(checkpoints)?, JOB)?.ok_or_else(none)?;
    let checkpoint = view.read(&view.find(from)?.ok_or_else(none)?)?;
    Ok((view, checkpoint))
}

/// All states of one checkpoint, in one shard of their own.
pub(crate) struct Kept {
    pub(crate) shard: Shard,
    pub(crate) operators: Operators,
    /// With the backend's working files; falls last.
    _dir: TempDir,
}

impl Kept {
    /// Opens the latest checkpoint of the job, which stays as it is.
    pub(crate) fn open_latest(checkpoints: &Path, rules: &Rules) -> Result<Self> {
        let (view, checkpoint) = find(checkpoints, &RestoreFrom::Latest)?;
        let dir =
            tempfile::tempdir().map_err(|e| Error::io("cannot create a temporary directory", e))?;
        let backend = Backend::builder(dir.path()).source(view.source()).open()?;
        let groups = backend.max_parallelism().all_groups();
        let handles = checkpoint.handles(OPERATOR);
        let mut shard = backend.shard(OPERATOR, groups).restore(handles).open()?;
        let operators = Operators::register(&mut shard, rules)?;
        Ok(Self { shard, operators, _dir: dir })
    }
}
