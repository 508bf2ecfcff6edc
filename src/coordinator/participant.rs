//! The shards of a job.

use crate::base::{Error, KeyGroupRange, MaxParallelism, Result};
use crate::format::handle::SnapshotHandle;

/// One shard that has to acknowledge every checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Participant {
    /// Name of its operator.
    pub operator: String,
    /// Its key groups.
    pub groups: KeyGroupRange,
    /// Number of key groups of its operator.
    pub max_parallelism: MaxParallelism,
}

impl Participant {
    /// The shards of an operator that runs as so many subtasks.
    ///
    /// # Errors
    /// `Invalid` if there are more subtasks than key groups, or none.
    pub fn of_operator(
        operator: &str,
        max_parallelism: MaxParallelism,
        parallelism: u32,
    ) -> Result<Vec<Self>> {
        (0..parallelism)
            .map(|index| {
                Ok(Self {
                    operator: operator.to_owned(),
                    groups: max_parallelism.range_of_subtask(index, parallelism)?,
                    max_parallelism,
                })
            })
            .collect()
    }

    /// Whether a snapshot is one of this shard.
    pub(super) fn is_of(&self, handle: &SnapshotHandle) -> bool {
        self.operator == handle.operator()
            && self.groups == handle.groups()
            && self.max_parallelism == handle.max_parallelism()
    }
}

/// Whether they have every key group of each operator once; they ascend by operator and
/// groups.
///
/// # Errors
/// `Invalid` if they do not, or there are none.
pub(super) fn check(participants: &[Participant]) -> Result<()> {
    let wrong = |at: &Participant, expected: String| {
        Err(Error::invalid("the shards do not have every key group of an operator once")
            .at(format_args!("operator {:?}", at.operator))
            .expected(expected)
            .found(format_args!("a shard with {}", at.groups)))
    };
    if participants.is_empty() {
        return Err(Error::invalid("a job without shards has nothing to check point"));
    }
    for (index, shard) in participants.iter().enumerate() {
        let all = shard.max_parallelism.all_groups();
        let before = index.checked_sub(1).map(|before| &participants[before]);
        let first = match before.filter(|before| before.operator == shard.operator) {
            None => 0,
            Some(before) if before.max_parallelism != shard.max_parallelism => {
                return wrong(shard, format!("{} key groups, as before", before.max_parallelism));
            }
            Some(before) => u32::from(before.groups.last().0) + 1,
        };
        if u32::from(shard.groups.first().0) != first {
            return wrong(shard, format!("one that begins with group {first}"));
        }
        let is_last =
            participants.get(index + 1).is_none_or(|next| next.operator != shard.operator);
        if is_last && shard.groups.last() != all.last() {
            return wrong(shard, format!("the last one to end with {}", all.last()));
        }
    }
    Ok(())
}
