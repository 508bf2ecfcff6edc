//! When checkpoints are taken, and which are kept.

use crate::base::{Error, Result};

/// What becomes of a job's checkpoints when it is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnCancel {
    /// They stay, and the job can go on from the last one.
    #[default]
    Keep,
    /// They are deleted; savepoints stay.
    Delete,
}

/// Savepoints that nobody has to ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavepointSchedule {
    /// Time from one to the next, in milliseconds.
    pub interval_ms: u64,
    /// What their names begin with; the number of the checkpoint follows.
    pub prefix: String,
    /// How many of them stay; the oldest is disposed of when there are more. At least 1.
    pub retained: usize,
}

/// Settings of a [`Coordinator`](super::Coordinator). Times are in milliseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CheckpointSettings {
    /// From one trigger to the next; `None` if checkpoints are only taken when somebody
    /// asks. Default: 10 seconds.
    pub interval_ms: Option<u64>,
    /// The same while the job [catches up](super::Coordinator::set_catching_up); `None`
    /// if there are to be none meanwhile. Default: as always.
    pub catching_up_interval_ms: Option<Option<u64>>,
    /// After which a checkpoint that is not complete is given up. Default: 10 minutes.
    pub timeout_ms: u64,
    /// From the end of one to the trigger of the next, at least. Default: 0.
    pub min_pause_ms: u64,
    /// How many may be under way at a time; savepoints are not counted. Default: 1.
    pub max_concurrent: usize,
    /// How many may fail one after the other until the job is
    /// [told to fail](super::Event::TooManyFailures). Default: 0.
    pub tolerable_failures: usize,
    /// How many completed checkpoints stay; savepoints are not counted. Default: 1.
    pub retained: usize,
    /// What becomes of them when the job is cancelled. Default: they stay.
    pub on_cancel: OnCancel,
    /// Savepoints beside the checkpoints. Default: none.
    pub savepoints: Option<SavepointSchedule>,
    /// How often the coordinator looks whether somebody, such as the command line tool,
    /// [asks](super::ask) for a savepoint or its disposal; `None` if never. Each look
    /// lists one folder of the store, or two. Default: 10 seconds.
    pub requests_interval_ms: Option<u64>,
    /// How many outcomes the journal remembers, up to 4,096. Default: 100.
    pub history: usize,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            interval_ms: Some(10_000),
            catching_up_interval_ms: None,
            timeout_ms: 600_000,
            min_pause_ms: 0,
            max_concurrent: 1,
            tolerable_failures: 0,
            retained: 1,
            on_cancel: OnCancel::Keep,
            savepoints: None,
            requests_interval_ms: Some(10_000),
            history: 100,
        }
    }
}

impl CheckpointSettings {
    pub(super) fn check(&self) -> Result<()> {
        let least_one = [
            ("max_concurrent", self.max_concurrent as u64),
            ("retained", self.retained as u64),
            ("timeout_ms", self.timeout_ms),
            ("interval_ms", self.interval_ms.unwrap_or(1)),
            ("requests_interval_ms", self.requests_interval_ms.unwrap_or(1)),
            ("catching_up_interval_ms", self.catching_up_interval_ms.flatten().unwrap_or(1)),
            ("savepoints.interval_ms", self.savepoints.as_ref().map_or(1, |s| s.interval_ms)),
            ("savepoints.retained", self.savepoints.as_ref().map_or(1, |s| s.retained as u64)),
        ];
        if let Some((name, _)) = least_one.iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid("a checkpoint setting is out of range")
                .at(name)
                .expected("at least 1")
                .found(0));
        }
        let most = crate::format::journal::MAX_OUTCOMES;
        if self.history > most {
            return Err(Error::invalid("a checkpoint setting is out of range")
                .at("history")
                .expected(format_args!("at most {most}"))
                .found(self.history));
        }
        if let Some(schedule) = &self.savepoints {
            let longest = format!("{}{}", schedule.prefix, u64::MAX);
            crate::format::checkpoint::check_job_name("prefix of savepoints", &longest)?;
        }
        Ok(())
    }

    /// The interval that counts now.
    pub(super) fn interval(&self, catching_up: bool) -> Option<u64> {
        match self.catching_up_interval_ms {
            Some(interval) if catching_up => interval,
            _ => self.interval_ms,
        }
    }
}
