//! Which jobs are killed where, and the tests; see the top of `main.rs`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use alluvium::coordinator::{Coordinator, JobView};
use alluvium::env::RealEnv;
use alluvium::object::LocalStore;
use kills_tests::input::Random;
use tempfile::TempDir;

use crate::check::{Oracle, Said, Scene};
use crate::phases::{self, COMPLETED, DEAD_REMOVED, Phase, SNAPSHOT_TABLE, TAKEN_OVER};
use crate::tracer::{Call, Run, Side, StoodStill, Target, run, run_with_pause};

/// Jobs that are killed unless `ALLUVIUM_KILLS` says otherwise, beside one for each phase.
const KILLS: usize = 40;
/// Calls that change nothing at which a job is killed, of all of them.
const OTHERS: usize = 300;
/// Jobs that stand still unless `ALLUVIUM_KILLS` says otherwise.
const PAUSES: usize = 16;
/// The same, if all calls are asked for.
const ALL_PAUSES: usize = 400;
/// Jobs at a time.
const WORKERS: usize = 2;

/// Tells people something, even if the test passes.
macro_rules! tell {
    ($($text:tt)*) => {
        writeln!(std::io::stderr().lock(), $($text)*).expect("standard error can be written")
    };
}

/// A directory for a job, which stays if the test fails.
struct Place(Option<TempDir>);

impl Place {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let root = match std::env::var_os("ALLUVIUM_KILLS_DIR") {
            Some(dir) => PathBuf::from(dir),
            None if memory.is_dir() => memory.to_owned(),
            None => std::env::temp_dir(),
        };
        let dir = tempfile::Builder::new().prefix("alluvium-kills-").tempdir_in(root);
        Self(Some(dir.expect("a temporary directory")))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().expect("it is there until it is dropped").path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.0.take()
        {
            tell!("the job's directory stays: {}", dir.keep().display());
        }
    }
}

/// A job that nobody kills; `None` if nothing can be traced here.
fn undisturbed() -> Option<&'static Run> {
    static RUN: OnceLock<Option<Run>> = OnceLock::new();
    let run = RUN.get_or_init(count).as_ref();
    if run.is_none() {
        tell!("SKIPPED: no process was killed, as none can be traced here");
    }
    run
}

/// Counts the calls of a job that nobody kills.
fn count() -> Option<Run> {
    let place = Place::new();
    let run = match run(place.path(), Target::Nowhere) {
        Ok(run) => run,
        Err(error) => {
            tell!("a process cannot be traced: {error}");
            return None;
        }
    };
    assert!(run.succeeded, "{}", run.failures);
    let mut said = Said::default();
    said.hear(&run.said);
    let [merges, early, evicted] = said.figures;
    assert!(merges > 5 && early > 5 && evicted > 50, "{:?}", said.figures);
    tell!("undisturbed: {merges} merges, {early} early writes, {evicted} records evicted");
    let scene = Scene {
        dir: place.path(),
        said: &said,
        oracle: &Oracle::default(),
        stored: &run.stored,
        parallelism: 2,
        what: "undisturbed",
    };
    scene.look();
    scene.sweep();
    Some(run)
}

/// A job that is killed, and what is done with it then.
#[derive(Clone, Copy, Debug)]
struct Kill {
    target: Target,
    /// Where the process after it is killed; by chance if nothing is said.
    then: Option<Target>,
    seed: u64,
}

impl Kill {
    /// Runs a job, kills it, looks, and goes on; gives where it was killed, if it was.
    fn run(self, oracle: &Oracle, calls: usize) -> Vec<Call> {
        let mut random = Random(self.seed);
        let place = Place::new();
        let mut said = Said::default();
        let mut met = Vec::new();
        let mut target = self.target;
        let mut what = format!("{self:?}");
        loop {
            let run = run(place.path(), target).expect("what was traced before");
            said.hear(&run.said);
            met.extend(run.killed_at);
            match run.killed_at {
                Some(call) => what = format!("{what}, killed at {call}"),
                None => assert!(run.succeeded && said.ended, "{what}: {}", run.failures),
            }
            assert!(run.failures.is_empty() || run.killed_at.is_none(), "{what}: {}", run.failures);
            let parallelism = random.below(4) as u32 + 1;
            let scene = Scene {
                dir: place.path(),
                said: &said,
                oracle,
                stored: &run.stored,
                parallelism,
                what: &what,
            };
            let latest = scene.look();
            let then = self.then.filter(|_| met.len() == 1);
            let is_last = said.ended || then.is_none() && random.below(3) != 0;
            let again = then.is_some() || random.below(2) == 0;
            // Half of those that go on to their end sweep for themselves.
            if is_last || again || random.below(2) == 0 {
                scene.sweep();
            }
            if is_last {
                return met;
            }
            said.find(latest);
            let side = if random.below(2) == 0 { Side::Before } else { Side::After };
            target = match (then, again) {
                (Some(then), _) => then,
                (None, true) => Target::Change(random.below(calls as u64) as usize, side),
                (None, false) => Target::Nowhere,
            };
        }
    }
}

/// Runs all these jobs, some at a time; gives where they were killed, and how often.
fn run_all(kills: &[Kill], calls: usize) -> BTreeMap<Call, usize> {
    let oracle = Oracle::default();
    let next = AtomicUsize::new(0);
    let met = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(kill) = kills.get(at) else { break };
                    if at > 0 && at.is_multiple_of(500) {
                        tell!("{at} jobs were killed");
                    }
                    for call in kill.run(&oracle, calls) {
                        *met.lock().expect("nobody panics here").entry(call).or_default() += 1;
                    }
                }
            });
        }
    });
    met.into_inner().expect("nobody panics here")
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")))
}

fn wants_all() -> bool {
    std::env::var("ALLUVIUM_KILLS").is_ok_and(|kills| kills == "all")
}

#[test]
fn a_kill_at_any_system_call_leaves_the_last_completed_checkpoint() {
    let Some(counted) = undisturbed() else { return };
    let calls = counted.calls.len();
    let seed = number_from("ALLUVIUM_SEED").unwrap_or(1);
    let is_all = wants_all();
    let sides = [Side::Before, Side::After];
    let mut targets = Vec::new();
    let every = 2 * calls;
    let wanted = match is_all {
        // Another run may make more calls than the one that was counted.
        true => every + every / 20,
        false => number_from("ALLUVIUM_KILLS").map_or(KILLS, |n| n as usize),
    };
    let stride = (every / wanted.max(1)).max(1);
    let last = if is_all { wanted } else { every };
    for n in ((seed as usize % stride)..last).step_by(stride) {
        targets.push(Target::Change(n / 2, sides[n % 2]));
    }
    let others = if is_all { OTHERS } else { wanted / 6 };
    let stride = (counted.others / others.max(1)).max(1);
    for n in ((seed as usize % stride)..counted.others).step_by(stride) {
        targets.push(Target::Other(n));
    }
    let mut kills: Vec<_> = targets.into_iter().map(|target| (target, None)).collect();
    // Whatever the stride passed over.
    let mut in_phase: BTreeMap<Phase, usize> = BTreeMap::new();
    counted.calls.iter().for_each(|call| *in_phase.entry(call.phase).or_default() += 1);
    for (at, phase) in phases::ALL.into_iter().enumerate() {
        let side = sides[(seed as usize + at) % 2];
        // In the first half: a job may make fewer calls than the one that was counted.
        let there = in_phase.get(phase).copied().unwrap_or(1) as u64;
        let which = Random(seed + at as u64).below(there.div_ceil(2)) as usize;
        kills.push(match phase {
            // That takes two.
            DEAD_REMOVED => {
                let first = Target::Within(SNAPSHOT_TABLE, which + 9, Side::After);
                (first, Some(Target::Within(phase, which, side)))
            }
            _ => (Target::Within(phase, which, side), None),
        });
    }
    tell!(
        "a job makes {calls} calls that change something and {} others; {} jobs are killed, seed {seed}",
        counted.others,
        kills.len()
    );
    let kills = kills.into_iter().enumerate().map(|(at, (target, then))| {
        let seed = seed.wrapping_mul(1_000_003) + at as u64;
        Kill { target, then, seed }
    });
    let kills: Vec<_> = kills.collect();
    let met = run_all(&kills, calls);
    tell!("{:>6} {:>6}  killed at", "calls", "kills");
    for (call, kills) in &met {
        let there = counted.calls.iter().filter(|other| *other == call).count();
        tell!("{there:>6} {kills:>6}  {call}");
    }
    for phase in phases::ALL {
        assert!(met.keys().any(|call| call.phase == phase), "no job was killed at {phase:?}");
    }
    let missed = counted.calls.iter().filter(|call| !met.contains_key(call)).collect::<Vec<_>>();
    assert!(!is_all || missed.is_empty(), "no job was killed at {missed:?}");
}

#[test]
fn a_call_has_no_effect_if_the_kill_comes_before_it_and_all_if_after() {
    if undisturbed().is_none() {
        return;
    }
    for (side, entries) in [(Side::Before, 0), (Side::After, 1)] {
        let place = Place::new();
        let run = run(place.path(), Target::Within(TAKEN_OVER, 0, side)).unwrap();
        assert_eq!(run.killed_at.unwrap().phase, TAKEN_OVER);
        let journal = place.path().join("store/jobs/job/journal");
        assert_eq!(std::fs::read_dir(journal).unwrap().count(), entries, "{side:?}");
    }
}

#[test]
fn a_checkpoint_that_was_completed_and_never_announced_counts() {
    if undisturbed().is_none() {
        return;
    }
    for (side, completed) in [(Side::Before, None), (Side::After, Some(1))] {
        let place = Place::new();
        let run = run(place.path(), Target::Within(COMPLETED, 0, side)).unwrap();
        assert_eq!(run.said, ["restored 0 0", "trigger 1 60"]);
        let env = Arc::new(RealEnv::new());
        let store = LocalStore::open(env, place.path().join("store")).unwrap();
        let view = JobView::open(Arc::new(store), "job").unwrap().unwrap();
        assert_eq!(view.entry().resume.as_ref().map(|latest| latest.id.0), completed, "{side:?}");
    }
}

/// What another process does with a job whose process stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meanwhile {
    /// It takes the job over and sweeps: the next entry of the journal is there.
    TakesOver,
    /// It takes the job over, on another machine as it were, and comes to the end of the
    /// input: the next entry of the journal has come and gone.
    ComesToTheEnd,
}

/// Takes a job over and sweeps; gives what it would go on from.
fn take_over(dir: &Path) -> Option<u64> {
    let store = LocalStore::open(Arc::new(RealEnv::new()), dir.join("store")).unwrap();
    let mut coordinator = Coordinator::builder(Arc::new(store), "job").open().unwrap();
    assert!(coordinator.collect(usize::MAX).unwrap().is_done);
    coordinator.view().entry().resume.as_ref().map(|latest| latest.id.0)
}

/// Runs the job to its end, where nobody traces it; gives what it said.
fn come_to_the_end(dir: &Path) -> Vec<String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kills-job"))
        .args([dir, Path::new("elsewhere")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().map(str::to_owned).collect()
}

/// Runs a job that stands still at a call while another process takes over; gives where that
/// was, and whether it was told that it is fenced.
fn stand_still(target: Target, other: Meanwhile, oracle: &Oracle) -> Option<(Call, bool)> {
    let place = Place::new();
    // What the other one went on from, and said.
    let mut start = None;
    let mut successor = Vec::new();
    let mut meanwhile = || match other {
        Meanwhile::TakesOver => start = take_over(place.path()),
        Meanwhile::ComesToTheEnd => {
            successor = come_to_the_end(place.path());
            let restored = successor.iter().find_map(|line| line.strip_prefix("restored "));
            let id = restored.and_then(|rest| rest.split(' ').next());
            start = id.map(|id| id.parse().unwrap()).filter(|id| *id > 0);
        }
    };
    let run = run_with_pause(place.path(), target, &mut meanwhile).unwrap();
    let StoodStill { call, lines, restores } = run.stood_still?;
    let what = format!("{target:?}, stood still at {call}, and {other:?}");
    let (before, after) = run.said.split_at(lines);
    let is_fenced = run.failures.starts_with("Closed");
    // What shards should read of a checkpoint may have gone when another one was complete.
    let is_gone = restores && run.failures.starts_with("Corrupt");
    assert!(is_fenced || is_gone || run.succeeded, "{what}: {}", run.failures);
    let mut said = Said::default();
    said.hear(before);
    said.hear(&successor);
    // What it says to be complete was so when the other took over, until it takes the job
    // over itself, as it does if it stood still before a restore. Then nobody fences it.
    let own = after.iter().position(|line| run.succeeded && line.starts_with("restored "));
    let (of_the_fenced, own) = after.split_at(own.unwrap_or(after.len()));
    let complete = of_the_fenced.iter().filter_map(|line| line.strip_prefix("complete "));
    for id in complete.filter_map(|rest| rest.split(' ').next()) {
        assert_eq!(id.parse().ok(), start, "{what}: {after:?}");
    }
    said.hear(own);
    if own.is_empty() && !said.ended {
        said.find(start);
    }
    let stored = &run.stored;
    let sweep = |said: &Said| {
        Scene { dir: place.path(), said, oracle, stored, parallelism: 2, what: &what }.sweep()
    };
    let latest = sweep(&said);
    if !said.ended {
        assert_eq!(latest, said.complete(), "{what}");
        said.hear(&come_to_the_end(place.path()));
        sweep(&said);
    }
    Some((call, is_fenced))
}

#[test]
fn a_process_that_stood_still_at_any_system_call_while_another_took_over_does_no_harm() {
    let Some(counted) = undisturbed() else { return };
    let seed = number_from("ALLUVIUM_SEED").unwrap_or(1);
    let calls = counted.calls.len();
    let pauses = if wants_all() { ALL_PAUSES } else { PAUSES };
    let stride = (calls / pauses).max(1);
    let mut targets: Vec<_> = (seed as usize % stride..calls)
        .step_by(stride)
        .map(|n| Target::Change(n, Side::Before))
        .collect();
    let completed = counted.calls.iter().filter(|call| call.phase == COMPLETED).count();
    let which = match wants_all() {
        true => 0..completed,
        false => seed as usize % completed..seed as usize % completed + 1,
    };
    for nth in which {
        let at = |side| Target::Within(COMPLETED, nth, side);
        targets.extend([Side::Before, Side::After].map(at));
    }
    let oracle = Oracle::default();
    let (mut fenced, mut at_journal) = (0, 0);
    for (at, target) in targets.into_iter().enumerate() {
        let both = [Meanwhile::TakesOver, Meanwhile::ComesToTheEnd];
        let others = match target {
            Target::Within(..) => &both[..],
            _ => &both[at % 2..=at % 2],
        };
        for other in others {
            if let Some((call, is_fenced)) = stand_still(target, *other, &oracle) {
                fenced += usize::from(is_fenced);
                at_journal += usize::from(call.phase == COMPLETED);
            }
        }
    }
    tell!(
        "{fenced} jobs were fenced while they stood still, {at_journal} as they completed a checkpoint, seed {seed}"
    );
    assert!(fenced > 5 && at_journal >= 4, "{fenced} {at_journal}");
}
