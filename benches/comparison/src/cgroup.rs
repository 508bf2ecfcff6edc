//! A limit on the memory of one process and of all file pages it touches.
//!
//! A store that keeps its state in files still uses memory that no setting of
//! its own mentions: the kernel keeps file pages. Only a memory cgroup counts
//! both, so it alone shows how an engine does when memory really is short.
//!
//! A group is made below the group that this program is in, so that whatever
//! limits that one keeps doing so. Both versions of cgroups are known:
//!
//! ```text
//!              version 1                       version 2
//! limit        memory.limit_in_bytes           memory.max
//! no swap      memory.memsw.limit_in_bytes     memory.swap.max
//! peak         memory.max_usage_in_bytes       memory.peak
//! at limit     memory.failcnt                  memory.events, "max"
//! killed       memory.oom_control, "oom_kill"  memory.events, "oom_kill"
//! members      cgroup.procs                    cgroup.procs
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;

/// What the names of groups begin with; the process follows, then a number.
const PREFIX: &str = "comparison-";

/// Which interface the kernel offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

/// What a group has counted since it was made.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    /// The most memory that was in use at once, file pages included.
    pub(crate) peak_bytes: Option<u64>,
    /// How often the limit was reached and something had to be given back, if the
    /// kernel counts that: newer ones leave the counter of version 1 at zero.
    pub(crate) times_at_limit: Option<u64>,
    /// Processes that the kernel killed because nothing could be given back.
    pub(crate) killed: u64,
}

/// A memory cgroup with a limit; removed on drop, when it is empty.
pub(crate) struct MemoryGroup {
    dir: PathBuf,
    version: Version,
}

impl MemoryGroup {
    /// Makes a group below `parent`, the `number`th of this process, and removes what
    /// processes left there that were ended before they could.
    ///
    /// # Errors
    /// If `parent` is no memory cgroup, or this process may not make groups in it.
    pub(crate) fn below(parent: &Path, number: usize, limit_bytes: u64) -> Result<Self> {
        let version = if parent.join("memory.limit_in_bytes").exists() {
            Version::One
        } else if parent.join("cgroup.controllers").exists() {
            Version::Two
        } else {
            return Err(format!("{} is no memory cgroup", parent.display()).into());
        };
        if version == Version::Two {
            // A group passes a controller on only while no process is in it.
            let passed_on = parent.join("cgroup.subtree_control");
            let has_memory = std::fs::read_to_string(&passed_on)
                .is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"));
            if !has_memory {
                write(&passed_on, "+memory")?;
            }
        }
        remove_leftovers(parent);
        let dir = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        std::fs::create_dir(&dir)
            .map_err(|error| format!("{} cannot be made: {error}", dir.display()))?;
        let group = Self { dir, version };
        let limit = limit_bytes.to_string();
        match version {
            Version::One => {
                write(&group.dir.join("memory.limit_in_bytes"), &limit)?;
                // State that was swapped out would not count. A kernel without
                // accounting for swap lacks the file.
                let _ = write(&group.dir.join("memory.memsw.limit_in_bytes"), &limit);
            }
            Version::Two => {
                write(&group.dir.join("memory.max"), &limit)?;
                let _ = write(&group.dir.join("memory.swap.max"), "0");
            }
        }
        Ok(group)
    }

    /// Moves a process into the group. What it has in memory already stays
    /// counted where it was.
    pub(crate) fn admit(&self, pid: u32) -> Result<()> {
        write(&self.dir.join("cgroup.procs"), &pid.to_string())
    }

    /// What the group has counted so far.
    pub(crate) fn counts(&self) -> Counts {
        let number = |file: &str| -> Option<u64> {
            std::fs::read_to_string(self.dir.join(file)).ok()?.trim().parse().ok()
        };
        let labelled = |file: &str, label: &str| {
            std::fs::read_to_string(self.dir.join(file)).ok().and_then(|text| field(&text, label))
        };
        match self.version {
            Version::One => Counts {
                peak_bytes: number("memory.max_usage_in_bytes"),
                times_at_limit: number("memory.failcnt").filter(|times| *times > 0),
                killed: labelled("memory.oom_control", "oom_kill").unwrap_or(0),
            },
            Version::Two => Counts {
                peak_bytes: number("memory.peak"),
                times_at_limit: labelled("memory.events", "max"),
                killed: labelled("memory.events", "oom_kill").unwrap_or(0),
            },
        }
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that has just ended may be counted for a moment longer.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("comparison: {} could not be removed", self.dir.display());
    }
}

/// Removes groups whose makers are no more. One that still has processes stays: the
/// kernel refuses to remove it.
fn remove_leftovers(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
        if let Some((pid, _)) = maker
            && pid.parse::<u32>().is_ok()
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    Ok(std::fs::write(file, text)
        .map_err(|error| format!("{} cannot be set to {text}: {error}", file.display()))?)
}

/// The number behind `label` in lines of a label and a number.
fn field(text: &str, label: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, number) = line.split_once(' ')?;
        (name == label).then(|| number.trim().parse().ok())?
    })
}

/// The memory cgroup that this process is in.
pub(crate) fn own_group() -> Result<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let text = std::fs::read_to_string("/proc/self/cgroup")?;
    Ok(group_in(&text, root, root.join("cgroup.controllers").exists())
        .ok_or("/proc/self/cgroup names no memory cgroup")?)
}

/// Where the memory cgroup is that a `/proc/PID/cgroup` names. With `unified`,
/// version 2 is mounted at the root; memory may be left to version 1 otherwise.
fn group_in(text: &str, root: &Path, unified: bool) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        if controllers.split(',').any(|name| name == "memory") {
            Some(root.join("memory").join(path))
        } else {
            (controllers.is_empty() && unified).then(|| root.join(path))
        }
    })
}

#[cfg(test)]
mod tests {
    //! On plain directories that look like cgroups: which file is written and
    //! read for what. That the kernel obeys is not claimed here.
    use super::*;

    #[test]
    fn the_own_group_is_found_in_both_versions() {
        let root = Path::new("/sys/fs/cgroup");
        let hybrid = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n";
        assert_eq!(group_in(hybrid, root, false), Some("/sys/fs/cgroup/memory/a/b".into()));
        let unified = "0::/user.slice/x.scope\n";
        assert_eq!(group_in(unified, root, true), Some(root.join("user.slice/x.scope")));
        assert_eq!(group_in("9:name=systemd:/\n0::/\n", root, false), None);
    }

    #[test]
    fn version_one_sets_the_limit_and_reads_its_counters() -> Result<()> {
        let parent = tempfile::tempdir()?;
        std::fs::write(parent.path().join("memory.limit_in_bytes"), "9223372036854771712")?;
        let group = MemoryGroup::below(parent.path(), 1, 4096)?;
        let dir = group.dir.clone();
        assert_eq!(std::fs::read_to_string(dir.join("memory.limit_in_bytes"))?, "4096");
        group.admit(77)?;
        assert_eq!(std::fs::read_to_string(dir.join("cgroup.procs"))?, "77");
        std::fs::write(dir.join("memory.max_usage_in_bytes"), "4000\n")?;
        std::fs::write(dir.join("memory.failcnt"), "3\n")?;
        std::fs::write(
            dir.join("memory.oom_control"),
            "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        )?;
        let expected = Counts { peak_bytes: Some(4000), times_at_limit: Some(3), killed: 1 };
        assert_eq!(group.counts(), expected);
        std::fs::write(dir.join("memory.failcnt"), "0\n")?;
        assert_eq!(group.counts().times_at_limit, None);
        std::fs::remove_dir_all(&dir)?;
        std::fs::create_dir(&dir)?;
        drop(group);
        assert!(!dir.exists());
        Ok(())
    }

    #[test]
    fn version_two_sets_the_limit_and_reads_its_counters() -> Result<()> {
        let parent = tempfile::tempdir()?;
        std::fs::write(parent.path().join("cgroup.controllers"), "cpu memory")?;
        std::fs::write(parent.path().join("cgroup.subtree_control"), "cpu")?;
        let group = MemoryGroup::below(parent.path(), 2, 8192)?;
        let dir = group.dir.clone();
        let passed_on = std::fs::read_to_string(parent.path().join("cgroup.subtree_control"))?;
        assert_eq!(passed_on, "+memory");
        assert_eq!(std::fs::read_to_string(dir.join("memory.max"))?, "8192");
        assert_eq!(std::fs::read_to_string(dir.join("memory.swap.max"))?, "0");
        // Kernels before 5.19 know no peak.
        assert_eq!(group.counts(), Counts::default());
        std::fs::write(dir.join("memory.peak"), "8000\n")?;
        std::fs::write(
            dir.join("memory.events"),
            "low 0\nhigh 0\nmax 5\noom 2\noom_kill 2\noom_group_kill 0\n",
        )?;
        let expected = Counts { peak_bytes: Some(8000), times_at_limit: Some(5), killed: 2 };
        assert_eq!(group.counts(), expected);
        std::fs::remove_dir_all(&dir)?;
        std::fs::create_dir(&dir)?;
        Ok(())
    }

    #[test]
    fn groups_of_dead_makers_are_removed_and_those_of_living_ones_stay() -> Result<()> {
        let parent = tempfile::tempdir()?;
        // No process has a number that large.
        let dead = parent.path().join("comparison-4294967295-0");
        let alive = parent.path().join(format!("comparison-{}-7", std::process::id()));
        let foreign = parent.path().join("comparison-of-others");
        for dir in [&dead, &alive, &foreign] {
            std::fs::create_dir(dir)?;
        }
        remove_leftovers(parent.path());
        assert_eq!((dead.exists(), alive.exists(), foreign.exists()), (false, true, true));
        Ok(())
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_refused() -> Result<()> {
        let parent = tempfile::tempdir()?;
        let refused = MemoryGroup::below(parent.path(), 0, 4096).err();
        assert!(refused.is_some_and(|error| error.to_string().contains("no memory cgroup")));
        Ok(())
    }
}
