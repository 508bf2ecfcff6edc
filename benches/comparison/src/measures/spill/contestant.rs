//! One engine of `spill` or `reopen`: its directory, its memory, its process.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::figures::{Space, disk_bytes};
use crate::Result;
use crate::cgroup::{Counts, MemoryGroup, own_group};
use crate::child::{Answer, Child};
use crate::engines::Kind;
use crate::measures::{EngineDir, kinds_or, own_program};
use crate::options::Cli;

/// Time between two looks at the space an engine takes on disk.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What a process takes by itself; matters where a quarter of the budget is less.
const LEAST_SPARE_BYTES: u64 = 16 << 20;

/// What the process of an engine may use in all, file pages included.
pub(crate) fn limit_bytes(budget_bytes: u64) -> u64 {
    budget_bytes + (budget_bytes / 4).max(LEAST_SPARE_BYTES)
}

/// What tells contestants of one kind apart.
#[derive(Clone, Copy)]
struct Setting {
    suffix: &'static str,
    bloom: bool,
    copied: bool,
}

/// One engine under one setting.
pub(crate) struct Contestant {
    /// As the tables call it.
    pub(crate) name: String,
    kind: Kind,
    setting: Setting,
    // Dropped in this order: a process is in its group and has files in its
    // directory.
    child: Option<Child>,
    group: Option<MemoryGroup>,
    dir: EngineDir,
    /// What it was doing when it was killed.
    pub(crate) killed_while: Option<String>,
    /// Space on disk while it worked.
    pub(crate) space: Space,
    /// Processor time and bytes written to disk, of all processes so far.
    pub(crate) cpu_ns: f64,
    pub(crate) disk_written_bytes: f64,
    /// Most private memory that was seen after a round.
    pub(crate) anonymous_bytes: f64,
}

impl Contestant {
    /// Starts its process, unless there is one.
    pub(crate) fn start(&mut self, cli: &Cli, value_bytes: usize) -> Result<()> {
        let mut command = own_program(cli, "spill-child", self.kind, cli.key_bytes, value_bytes)?;
        command
            .args(["--bloom", &self.setting.bloom.to_string()])
            .args(self.setting.copied.then_some("--copied"))
            .args(["--budget-mb", &(cli.budget_bytes() >> 20).to_string()])
            .args(["--batch", &cli.batch.to_string()])
            .args(["--seed", &cli.seed.to_string()])
            .arg("--dir")
            .arg(self.dir.path());
        self.child = Some(Child::start(&self.name, command, self.group.as_ref())?);
        Ok(())
    }

    /// Ends its process in its own time.
    pub(crate) fn end(&mut self) {
        self.child = None;
    }

    /// Has it do something; nothing if it was killed, now or before.
    ///
    /// # Errors
    /// If the engine fails, or ends without being killed.
    pub(crate) fn ask(&mut self, what: &str, request: &Value) -> Result<Option<Value>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let (dir, space) = (self.dir.path(), &mut self.space);
        let answer = std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel::<()>();
            scope.spawn(move || {
                while let Err(mpsc::RecvTimeoutError::Timeout) = is_done.recv_timeout(LOOK_EVERY) {
                    space.add(disk_bytes(dir));
                }
            });
            let answer = child.ask(request);
            drop(done);
            answer
        })?;
        match answer {
            Answer::Done(found) => {
                let number = |name: &str| found[name].as_f64().unwrap_or(0.0);
                self.cpu_ns += number("cpu_ns");
                self.disk_written_bytes += number("disk_written_bytes");
                self.anonymous_bytes = self.anonymous_bytes.max(number("anonymous_bytes"));
                Ok(Some(found))
            }
            Answer::Killed => {
                self.end();
                self.killed_while = Some(what.to_owned());
                Ok(None)
            }
        }
    }

    /// What its group has counted.
    pub(crate) fn counts(&self) -> Counts {
        self.group.as_ref().map(MemoryGroup::counts).unwrap_or_default()
    }

    /// The sentence about its death.
    pub(crate) fn obituary(&self) -> Option<String> {
        let what = self.killed_while.as_ref()?;
        let by = match self.counts().killed {
            0 => "killed, not for its group's memory,",
            _ => "killed for its memory",
        };
        Some(format!("{} was {by} while {what}.", self.name))
    }
}

/// The engines of a run, and a sentence about their memory.
pub(crate) struct Field {
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) limit: String,
}

/// Makes the contestants of a run, each with a group of its own if that can be.
///
/// RocksDB takes part with and without Bloom filters: where they do not fit the
/// cache they cost more than they save, and the better of the two counts. Where a restore
/// is measured it takes part once more, with files that it has to copy.
pub(crate) fn contestants(cli: &Cli, restores: bool) -> Result<Field> {
    let limit_bytes = limit_bytes(cli.budget_bytes());
    let parent = cli.cgroup.clone().map_or_else(own_group, Ok);
    let mut limit = format!(
        "Each engine has {} MiB of memory, and its process at most {} MiB, file pages included.",
        cli.budget_bytes() >> 20,
        limit_bytes >> 20
    );
    let mut unlimited = None;
    let mut contestants = Vec::new();
    for kind in kinds_or(cli, Kind::on_disk) {
        if !kind.on_disk() {
            return Err(format!("{} keeps all of its state in memory", kind.name()).into());
        }
        let plain = Setting { suffix: "", bloom: cli.bloom, copied: false };
        let mut settings = vec![plain];
        if kind.name() == "rocksdb" {
            let bloom = Setting { bloom: true, ..plain };
            settings = vec![bloom, Setting { suffix: " without Bloom", bloom: false, ..plain }];
            if restores {
                settings.push(Setting { suffix: ", files copied", copied: true, ..bloom });
            }
        }
        for setting in settings {
            let number = contestants.len();
            let group = parent
                .as_ref()
                .map_err(ToString::to_string)
                .and_then(|parent| {
                    MemoryGroup::below(parent, number, limit_bytes)
                        .map_err(|error| error.to_string())
                })
                .map_err(|error| unlimited = Some(error))
                .ok();
            contestants.push(Contestant {
                name: format!("{}{}", kind.name(), setting.suffix),
                kind,
                setting,
                child: None,
                group,
                dir: EngineDir::new(cli)?,
                killed_while: None,
                space: Space::default(),
                cpu_ns: 0.0,
                disk_written_bytes: 0.0,
                anonymous_bytes: 0.0,
            });
        }
    }
    if let Some(error) = unlimited {
        limit = format!(
            "WITHOUT A MEMORY LIMIT: the page cache may hold all of the state, so these figures \
             say nothing about state larger than memory. No memory cgroup could be made ({error}); \
             run as root, or name one that you may use with --cgroup."
        );
        crate::measures::progress(&limit);
    }
    Ok(Field { contestants, limit })
}

#[cfg(test)]
mod tests {
    use super::limit_bytes;

    #[test]
    fn the_limit_is_the_budget_and_a_quarter() {
        assert_eq!(limit_bytes(256 << 20), 320 << 20);
        assert_eq!(limit_bytes(8 << 20), 24 << 20);
    }
}
