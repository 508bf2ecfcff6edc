//! How often things go wrong, and what happened.

/// How often things go wrong: once in so many times.
#[derive(Clone, Copy, Default, Debug)]
pub struct Chances {
    pub fail: u64,
    pub crash: u64,
    /// That others go on while somebody waits for the store.
    pub meanwhile: u64,
    pub lose: u64,
    pub repeat: u64,
    /// That a message stays on its way for long.
    pub slow: u64,
}

/// What happened, counted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    pub completed: u64,
    pub savepoints: u64,
    pub stopped: u64,
    pub aborted: u64,
    pub fenced: u64,
    pub crashed: u64,
    pub opened: u64,
    pub restored: u64,
    pub restored_older: u64,
    pub claimed: u64,
    pub of_other_jobs: u64,
    pub disposed: u64,
    pub cancelled: u64,
    pub late_acks: u64,
    pub foreign_acks: u64,
    pub repeated_acks: u64,
    pub finished: u64,
    pub pins: u64,
    pub pins_returned: u64,
    pub forks: u64,
    pub forks_in_doubt: u64,
    pub exported: u64,
    pub imported: u64,
    pub asked: u64,
    pub answered: u64,
    pub refused: u64,
    pub removed: u64,
    pub failed_calls: u64,
    pub late_effects: u64,
    pub entries_in_gaps: u64,
    pub base_reads: u64,
    pub went_on_after_faults: u64,
}

impl Tally {
    pub fn fields(&self) -> [(&'static str, u64); 32] {
        [
            ("completed", self.completed),
            ("savepoints", self.savepoints),
            ("stopped", self.stopped),
            ("aborted", self.aborted),
            ("fenced", self.fenced),
            ("crashed", self.crashed),
            ("opened", self.opened),
            ("restored", self.restored),
            ("restored older", self.restored_older),
            ("claimed", self.claimed),
            ("of other jobs", self.of_other_jobs),
            ("disposed", self.disposed),
            ("cancelled", self.cancelled),
            ("late acks", self.late_acks),
            ("foreign acks", self.foreign_acks),
            ("repeated acks", self.repeated_acks),
            ("finished", self.finished),
            ("pins", self.pins),
            ("pins returned", self.pins_returned),
            ("forks", self.forks),
            ("forks in doubt", self.forks_in_doubt),
            ("exported", self.exported),
            ("imported", self.imported),
            ("asked", self.asked),
            ("answered", self.answered),
            ("refused", self.refused),
            ("removed", self.removed),
            ("failed calls", self.failed_calls),
            ("late effects", self.late_effects),
            ("entries in gaps", self.entries_in_gaps),
            ("base reads", self.base_reads),
            ("went on after faults", self.went_on_after_faults),
        ]
    }
}
