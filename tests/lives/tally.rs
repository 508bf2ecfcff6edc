//! That what the lives are about does happen in them.

use std::collections::BTreeMap;

/// What happened, and how often.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub fn count(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, times)| self.count(what, *times));
    }

    pub fn assert_all_happened(&self) {
        for what in [
            "completed",
            "cancelled",
            "restarted",
            "power cut",
            "rescaled",
            "by way of a savepoint",
            "new version",
            "left for later",
            "dropped",
            "registered later",
            "clock",
            "watermark",
            "expired",
            "either way",
            "merged namespaces",
            "popped",
            "too late",
            "old snapshot",
            "time to live changed",
            "in the middle",
            "side by side",
            "left the local directory",
            "fetched",
        ] {
            assert!(
                self.0.get(what).is_some_and(|times| *times > 20),
                "{what:?} is rare: {self:?}"
            );
        }
    }
}
