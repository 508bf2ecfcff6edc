//! Where the objects of a job are.
//!
//! ```text
//! jobs/JOB/journal/NUMBER                  what the coordinator remembers; the last counts
//! jobs/JOB/checkpoints/ID-EPOCH            metadata of a checkpoint
//! jobs/JOB/epochs/EPOCH/tables/FILE.table  what shards wrote in that life of the coordinator
//! jobs/JOB/epochs/EPOCH/manifests/...
//! jobs/JOB/epochs/EPOCH/imports/RANDOM/... both of a savepoint that came from elsewhere
//! jobs/JOB/pins/ID-EPOCH-RANDOM            somebody reads that checkpoint
//! jobs/JOB/requests/RANDOM                 somebody asks the coordinator for something
//! jobs/JOB/answers/RANDOM                  what came of it
//! ```
//!
//! Numbers are decimal and padded, so that names ascend as the numbers do. The epoch in
//! the path says to whom an object belongs: what a coordinator of an earlier epoch left
//! behind and the journal does not need will never be needed.

use std::fmt;

use crate::base::{Result, SnapshotId};
use crate::format::checkpoint::check_job_name;
use crate::format::journal::CheckpointRef;
use crate::object::ObjectName;

/// What all jobs lie under.
const JOBS: &str = "jobs/";

/// Names the objects of one job.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// `jobs/JOB/`.
    root: String,
}

impl Layout {
    /// # Errors
    /// `Invalid` if no job can have this name.
    pub(super) fn new(job: &str) -> Result<Self> {
        check_job_name("name of the job", job)?;
        Ok(Self { root: root_of(job) })
    }

    /// What the name of everything that belongs to the job begins with.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn journal(&self) -> String {
        format!("{}journal/", self.root)
    }

    pub(super) fn entry(&self, number: u64) -> ObjectName {
        self.name(format_args!("journal/{number:020}"))
    }

    /// The number of the journal entry of this name.
    pub(super) fn number_of_entry(&self, name: &ObjectName) -> Option<u64> {
        number(name.as_str().strip_prefix(&self.journal())?)
    }

    pub(super) fn checkpoints(&self) -> String {
        format!("{}checkpoints/", self.root)
    }

    pub(super) fn checkpoint(&self, id: SnapshotId, epoch: u64) -> ObjectName {
        self.name(format_args!("checkpoints/{:020}-{epoch:010}", id.0))
    }

    /// The checkpoint, and its epoch, whose metadata has this name.
    pub(super) fn checkpoint_of(&self, name: &ObjectName) -> Option<(SnapshotId, u64)> {
        let (id, epoch) = name.as_str().strip_prefix(&self.checkpoints())?.split_once('-')?;
        Some((SnapshotId(number(id)?), number(epoch)?))
    }

    pub(super) fn epochs(&self) -> String {
        format!("{}epochs/", self.root)
    }

    pub(super) fn epoch(&self, epoch: u64) -> ObjectName {
        self.name(format_args!("epochs/{epoch:010}"))
    }

    /// What is copied from elsewhere in an epoch, each savepoint into a folder of its own.
    pub(super) fn import(&self, epoch: u64, random: u64) -> ObjectName {
        self.name(format_args!("epochs/{epoch:010}/imports/{random:016x}"))
    }

    /// The epoch in which the table or manifest of this name was written.
    pub(super) fn epoch_of_file(&self, name: &str) -> Option<u64> {
        let (epoch, _) = name.strip_prefix(&self.epochs())?.split_once('/')?;
        number(epoch)
    }

    pub(super) fn pins(&self) -> String {
        format!("{}pins/", self.root)
    }

    pub(super) fn pins_of(&self, checkpoint: &CheckpointRef) -> String {
        format!("{}pins/{:020}-{:010}-", self.root, checkpoint.id.0, checkpoint.epoch)
    }

    pub(super) fn pin(&self, checkpoint: &CheckpointRef, random: u64) -> ObjectName {
        let (id, epoch) = (checkpoint.id.0, checkpoint.epoch);
        self.name(format_args!("pins/{id:020}-{epoch:010}-{random:016x}"))
    }

    pub(super) fn requests(&self) -> String {
        format!("{}requests/", self.root)
    }

    pub(super) fn request(&self, random: u64) -> ObjectName {
        self.name(format_args!("requests/{random:016x}"))
    }

    pub(super) fn answers(&self) -> String {
        format!("{}answers/", self.root)
    }

    /// Where the answer to the request of this name is.
    pub(super) fn answer_to(&self, request: &ObjectName) -> Option<ObjectName> {
        let random = request.as_str().strip_prefix(&self.requests())?;
        let is_random = random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit());
        is_random.then(|| self.name(format_args!("answers/{random}")))
    }

    fn name(&self, rest: fmt::Arguments<'_>) -> ObjectName {
        let name = ObjectName::new(format!("{}{rest}", self.root));
        name.expect("a job's name is a segment, and numbers are")
    }
}

/// What the names of all objects of a job begin with.
pub(super) fn root_of(job: &str) -> String {
    format!("{JOBS}{job}/")
}

/// Whether an object is a pin in a job of this name.
pub(super) fn is_pin_of(job: &str, name: &ObjectName) -> bool {
    let pin = name.as_str().strip_prefix(&root_of(job)).and_then(|rest| rest.strip_prefix("pins/"));
    pin.is_some_and(|pin| !pin.contains('/'))
}

/// The name of the job that an object belongs to.
pub(super) fn job_of(name: &ObjectName) -> Option<&str> {
    Some(name.as_str().strip_prefix(JOBS)?.split_once('/')?.0)
}

/// What the names of all objects of all jobs begin with.
pub(super) fn all_jobs() -> &'static str {
    JOBS
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_of() {
        let layout = Layout::new("flights").unwrap();
        assert_eq!(layout.number_of_entry(&layout.entry(7)), Some(7));
        let checkpoint = layout.checkpoint(SnapshotId(3), 9);
        assert_eq!(layout.checkpoint_of(&checkpoint), Some((SnapshotId(3), 9)));
        let file = layout.epoch(12).join("tables/x.table").unwrap();
        assert_eq!(layout.epoch_of_file(file.as_str()), Some(12));
        let imported = layout.import(12, 7).join("manifests/x.manifest").unwrap();
        assert_eq!(layout.epoch_of_file(imported.as_str()), Some(12));
        assert_eq!(job_of(&file), Some("flights"));
        let checkpoint = CheckpointRef {
            id: SnapshotId(3),
            epoch: 9,
            location: checkpoint.as_str().to_owned(),
            bytes: 1,
            hash: crate::base::checksum::of_contents(b""),
        };
        let pin = layout.pin(&checkpoint, 5);
        assert!(is_pin_of("flights", &pin) && !is_pin_of("other", &pin));
        assert!(!is_pin_of("flights", &file) && !is_pin_of("flights", &layout.entry(7)));
        let answer = layout.answer_to(&layout.request(5)).unwrap();
        assert_eq!(answer.as_str(), "jobs/flights/answers/0000000000000005");
        assert_eq!(layout.answer_to(&answer), None);
        let other = Layout::new("other").unwrap();
        assert_eq!(other.answer_to(&layout.request(5)), None);
        assert_eq!(other.number_of_entry(&layout.entry(7)), None);
        assert_eq!(other.epoch_of_file(file.as_str()), None);
    }

    #[test]
    fn a_job_has_the_name_of_a_segment() {
        for name in ["", ".", "..", "a/b", "a b", ".hidden", "ü", &"x".repeat(129)] {
            assert!(Layout::new(name).is_err(), "{name:?}");
        }
    }
}
