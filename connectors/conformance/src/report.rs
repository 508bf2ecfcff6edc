//! What came of the checks.

use std::fmt;

/// What came of one check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The runtime keeps the claim, as far as was seen.
    Kept,
    /// It does not, as this says.
    Broken(String),
    /// It was not put to it, for this reason.
    Skipped(String),
}

/// One check and its verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckReport {
    /// The claim.
    pub name: &'static str,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of all checks; a table, when it is displayed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Report {
    /// The name of the runtime.
    pub adapter: String,
    /// Repeats the run.
    pub seed: u64,
    /// In the order in which they were made.
    pub checks: Vec<CheckReport>,
}

impl Report {
    /// Whether no claim was found broken. Those that were skipped are not counted.
    pub fn is_kept(&self) -> bool {
        self.broken().next().is_none()
    }

    /// The names of the claims that were found broken.
    pub fn broken(&self) -> impl Iterator<Item = &'static str> {
        let broken = |check: &&CheckReport| matches!(check.verdict, Verdict::Broken(_));
        self.checks.iter().filter(broken).map(|check| check.name)
    }

    /// The names of the claims that were not looked at.
    pub fn skipped(&self) -> impl Iterator<Item = &'static str> {
        let skipped = |check: &&CheckReport| matches!(check.verdict, Verdict::Skipped(_));
        self.checks.iter().filter(skipped).map(|check| check.name)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "conformance of {}, seed {}", self.adapter, self.seed)?;
        for CheckReport { name, verdict } in &self.checks {
            match verdict {
                Verdict::Kept => writeln!(f, "  kept     {name}")?,
                Verdict::Skipped(reason) => {
                    writeln!(f, "  SKIPPED  {name}\n             {reason}")?
                }
                Verdict::Broken(how) => writeln!(f, "  BROKEN   {name}\n             {how}")?,
            }
        }
        let (broken, skipped) = (self.broken().count(), self.skipped().count());
        let kept = self.checks.len() - broken - skipped;
        writeln!(f, "  {kept} kept, {broken} broken, {skipped} skipped")
    }
}
