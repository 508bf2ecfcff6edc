//! Verbs that change something: savepoint, dispose, gc, export, import, relocate.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use alluvium::coordinator::{Coordinator, JobView, RestoreFrom, ask};
use alluvium::env::RealEnv;
use alluvium::format::Action;
use alluvium::{SnapshotId, SnapshotMode};
use serde_json::{Value, json};

use crate::job::{JOB, Job, copy, counts, listing, open_store, run, shared};
use crate::tool::{Ran, alluvium, json, lines, on};

/// Turns in which a coordinator that looks every millisecond has long looked.
const TURNS: usize = 20_000;

/// The names of the savepoints that the store has now.
fn savepoints(store: &Path) -> Vec<String> {
    let told = json(store, "list", &["--job", JOB]);
    let rows = told["jobs"][0]["checkpoints"].as_array().unwrap().clone();
    let names = rows.iter().flat_map(|row| row["savepoints"].as_array().unwrap().clone());
    let mut names: Vec<String> = names.map(|name| name.as_str().unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

/// Runs the tool while the job runs.
fn beside(job: &mut Job, store: &Path, args: &[&str]) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .arg(args[0])
        .arg(store)
        .args(&args[1..])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Ends with the child, which gives up by itself if nobody answers.
    while child.try_wait().unwrap().is_none() {
        job.turn();
        std::thread::yield_now();
    }
    let ran = child.wait_with_output().unwrap();
    Ran {
        code: ran.status.code().unwrap_or(-1),
        stdout: String::from_utf8(ran.stdout).unwrap(),
        stderr: String::from_utf8(ran.stderr).unwrap(),
    }
}

#[test]
fn a_running_job_takes_keeps_and_gives_up_savepoints_when_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = run(dir.path());
    let store = dir.path().join("store");
    let epoch = job.coordinator.epoch();

    let taken = beside(&mut job, &store, &["savepoint", "new", "--yes", "--format", "json"]);
    let taken = taken.json();
    let id = taken["checkpoint"].as_u64().unwrap();
    assert!(id > 4, "a new one: {taken}");
    let kept = beside(&mut job, &store, &["savepoint", "kept", "--checkpoint", "2", "--yes"]);
    assert_eq!(kept.code, 0, "{kept:?}");
    assert_eq!(savepoints(&store), ["before", "first", "kept", "new"]);
    let at = ["--operator", "count", "--state", "counts", "--savepoint", "kept"];
    assert_eq!(lines(&store, "scan", &at).len(), counts(2).len());

    let gone = beside(&mut job, &store, &["dispose", "before", "--yes"]);
    assert_eq!(gone.code, 0, "{gone:?}");
    assert_eq!(savepoints(&store), ["first", "kept", "new"]);
    let taken_name = beside(&mut job, &store, &["savepoint", "new", "--yes"]);
    assert_eq!(taken_name.code, 1);
    assert!(taken_name.stderr.contains("of this name already"), "{taken_name:?}");
    let unknown = beside(&mut job, &store, &["dispose", "before", "--yes"]);
    assert_eq!(unknown.code, 1, "it is gone");
    assert_eq!(job.coordinator.epoch(), epoch);
    job.checkpoint();
    for folder in ["requests", "answers"] {
        let left = fs::read_dir(store.join("jobs").join(JOB).join(folder));
        assert_eq!(left.map_or(0, Iterator::count), 0, "nothing is left of {folder}");
    }
}

#[test]
fn a_running_job_takes_full_checkpoints_and_savepoints_when_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = run(dir.path());
    let store = dir.path().join("store");
    let files = |at: &[&str]| -> Vec<String> {
        let told = json(&store, "files", at);
        let files = told["files"].as_array().unwrap().iter();
        files.map(|file| file["location"].as_str().unwrap().to_owned()).collect()
    };
    let before = files(&[]);
    let would = on(&store, "checkpoint", &["--full"]);
    assert!(would.stdout.contains("full checkpoint"), "{would:?}");

    let taken = beside(&mut job, &store, &["checkpoint", "--full", "--yes", "--format", "json"]);
    let taken = taken.json();
    let id = taken["checkpoint"].as_u64().unwrap();
    assert!(id > 4, "a new one: {taken}");
    assert_eq!(taken["mode"], "full");
    let own = files(&["--checkpoint", &id.to_string()]);
    assert!(own.iter().all(|file| !before.contains(file)), "{own:?}");
    let shown = json(&store, "show", &["--checkpoint", &id.to_string()]);
    assert_eq!(shown["mode"], "full");
    let text = on(&store, "show", &["--checkpoint", &id.to_string()]).stdout;
    assert!(text.contains("  full; "), "{text}");

    let next = beside(&mut job, &store, &["checkpoint", "--yes", "--format", "json"]).json();
    assert_eq!(next["checkpoint"], id + 1);
    assert!(files(&[]).iter().any(|file| own.contains(file)), "it builds on the full one");
    let taken = beside(&mut job, &store, &["savepoint", "alone", "--full", "--yes"]);
    assert_eq!(taken.code, 0, "{taken:?}");
    let alone = files(&["--savepoint", "alone"]);
    assert!(alone.iter().all(|file| !own.contains(file) && !before.contains(file)), "{alone:?}");
    let listed = on(&store, "list", &["--history"]).stdout;
    assert!(listed.contains("MODE") && listed.contains("full savepoint alone"), "{listed}");
    let wrong = on(&store, "savepoint", &["x", "--full", "--checkpoint", "2"]);
    assert_eq!(wrong.code, 1, "{wrong:?}");
}

#[test]
fn a_running_job_puts_a_savepoint_straight_into_a_place_when_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(dir.path()).unwrap();
    let mut job = run(&root);
    let store = root.join("store");
    let there = root.join("there, 1");
    let path = there.to_str().unwrap();
    let url = format!("file://{}", path.replace(", ", "%2C%20"));
    let tables = || listing(&store.join("jobs").join(JOB).join("epochs"));
    let before = (tables(), savepoints(&store));

    let would = on(&store, "savepoint", &["away", "--into", path]);
    assert_eq!(would.code, 0, "{would:?}");
    let expected =
        format!("ask the job's coordinator to take savepoint away of job {JOB} into {url}");
    assert!(would.stdout.contains(&expected), "{would:?}");
    assert!(!there.exists());

    let args = ["savepoint", "away", "--into", path, "--yes", "--format", "json"];
    let taken = beside(&mut job, &store, &args).json();
    let id = taken["checkpoint"].as_u64().unwrap();
    assert_eq!((&taken["place"], &taken["savepoint"]), (&json!(url), &json!("away")));
    assert_eq!((tables(), savepoints(&store)), before, "none of it is the job's");
    let told = alluvium(&["relocate", path, "--format", "json"]).json();
    assert_eq!(told["whole"], true);
    let shown = json(&there, "show", &[]);
    assert_eq!((&shown["id"], &shown["mode"]), (&json!(id), &json!("full")));
    let at = ["--operator", "count", "--state", "counts"];
    assert_eq!(lines(&there, "scan", &at).len(), counts(4).len());

    // There is no room for another one, whatever it is called; by URL as well.
    let full = listing(&there);
    let again = beside(&mut job, &store, &["savepoint", "again", "--into", &url, "--yes"]);
    assert_eq!((again.code, &*again.stdout), (1, ""));
    assert!(again.stderr.contains("coordinator refused"), "{again:?}");
    assert!(again.stderr.contains("something in the place"), "{again:?}");
    assert_eq!(listing(&there), full);
    let second = root.join("second");
    let args = ["savepoint", "away", "--into", second.to_str().unwrap(), "--yes"];
    let text = beside(&mut job, &store, &args);
    let expected = format!("savepoint away of job {JOB} (checkpoint {}) is in file://", id + 1);
    assert!(text.code == 0 && text.stdout.starts_with(&expected), "{text:?}");
    job.checkpoint();
}

#[test]
fn a_place_that_leads_elsewhere_is_refused_and_nothing_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(dir.path()).unwrap();
    let mut job = run(&root);
    let store = root.join("store");
    let before = listing(&root);
    let up = format!("{}/a/../b", root.to_str().unwrap());
    for place in ["there", "./there", "../there", &up, "", "memory:///", "file://there", "/"] {
        let ran = on(&store, "savepoint", &["away", "--into", place, "--yes"]);
        assert_eq!((ran.code, &*ran.stdout), (1, ""), "{place}: {ran:?}");
        assert!(ran.stderr.contains("absolute path"), "{place}: {ran:?}");
    }
    let secret = "https://me:hunter2@host/container";
    let ran = on(&store, "savepoint", &["away", "--into", secret, "--yes"]);
    assert!(ran.code == 1 && !ran.stderr.contains("hunter2"), "{ran:?}");
    for other in [&["--full"][..], &["--checkpoint", "2"], &["--job-is-stopped"]] {
        let ran = on(&store, "savepoint", &[&["away", "--into", "/a"], other].concat());
        assert_eq!(ran.code, 1, "{ran:?}");
    }
    assert_eq!(listing(&root), before);
    // What only the job can know is refused by it.
    std::os::unix::fs::symlink(&store, root.join("link")).unwrap();
    for place in ["store/there", "link/there", "link"] {
        let path = root.join(place);
        let args = ["savepoint", "away", "--into", path.to_str().unwrap(), "--yes"];
        let ran = beside(&mut job, &store, &args);
        assert_eq!(ran.code, 1, "{place}: {ran:?}");
        assert!(ran.stderr.contains("coordinator refused"), "{place}: {ran:?}");
    }
    fs::remove_file(root.join("link")).unwrap();
    assert_eq!(listing(&root), before);
}

#[test]
fn a_request_that_nobody_answers_is_taken_back() {
    let (_dir, store) = copy();
    let before = listing(&store);
    let ran = on(&store, "savepoint", &["new", "--yes", "--timeout", "0"]);
    assert_eq!((ran.code, &*ran.stdout), (3, ""));
    assert!(ran.stderr.contains("--job-is-stopped"), "{}", ran.stderr);
    assert_eq!(listing(&store), before);
}

#[test]
fn what_cannot_be_done_is_refused_and_what_is_done_is_not_done_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = run(dir.path());
    let store = open_store(&dir.path().join("store"));
    let env = RealEnv::new();
    let view = JobView::open(Arc::clone(&store), JOB).unwrap().unwrap();
    let asked = |action| ask(Arc::clone(&store), &env, &view, "test", action).unwrap();

    // By the time that the coordinator looks, another checkpoint has the name.
    let refused = asked(Action::Keep(SnapshotId(2), "name".to_owned()));
    let keep = RestoreFrom::Checkpoint(SnapshotId(4));
    job.coordinator.keep(&keep, "name").unwrap();
    // A coordinator that died before it said that it was done.
    let done = asked(Action::Savepoint("done".to_owned(), SnapshotMode::Incremental));
    let gone = asked(Action::Dispose("first".to_owned()));
    let id = job.coordinator.savepoint("done").unwrap();
    job.coordinator.dispose("first").unwrap();
    assert!(done.answer().unwrap().is_none());
    let mut answers = [None, None, None];
    for _ in 0..TURNS {
        if answers.iter().all(Option::is_some) {
            break;
        }
        job.turn();
        for (answer, asked) in answers.iter_mut().zip([&refused, &done, &gone]) {
            *answer = answer.take().or(asked.answer().unwrap());
        }
    }
    let [refused, done, gone] = answers.map(Option::unwrap);
    let reason = refused.refused.unwrap();
    assert!(reason.contains("of this name already"), "{reason}");
    assert_eq!((done.id, done.refused), (Some(id), None));
    assert_eq!((gone.id, gone.refused), (None, None));
    assert!(ask(Arc::clone(&store), &env, &view, "test", Action::Dispose("x".to_owned())).is_err());
}

#[test]
fn a_savepoint_that_was_there_before_the_answer_is_the_answer() {
    let (_dir, path) = copy();
    let store = open_store(&path);
    let view = JobView::open(Arc::clone(&store), JOB).unwrap().unwrap();
    let action = Action::Savepoint("late".to_owned(), SnapshotMode::Incremental);
    let asked = ask(Arc::clone(&store), &RealEnv::new(), &view, "test", action).unwrap();
    // This one dies after it did it and before it says so.
    let mut first = Coordinator::builder(Arc::clone(&store), JOB).open().unwrap();
    let kept = first.keep(&RestoreFrom::Latest, "late").unwrap();
    drop(first);
    assert!(asked.answer().unwrap().is_none());
    let mut next = Coordinator::builder(store, JOB).open().unwrap();
    next.poll().unwrap();
    let answer = asked.answer().unwrap().unwrap();
    assert_eq!((answer.id, answer.refused), (Some(kept.id), None));
    assert!(asked.answer().unwrap().is_none(), "it was fetched");
}

#[test]
fn what_is_no_request_is_refused_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = run(dir.path());
    let folder = dir.path().join("store").join("jobs").join(JOB).join("requests");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("0000000000000001"), b"nonsense").unwrap();
    fs::write(folder.join("0000000000000002"), vec![0; 10_000]).unwrap();
    fs::write(folder.join("not-a-request"), b"").unwrap();
    let answers = dir.path().join("store").join("jobs").join(JOB).join("answers");
    let answered = || fs::read_dir(&answers).map_or(0, Iterator::count);
    for _ in 0..TURNS {
        if answered() == 2 {
            break;
        }
        job.turn();
    }
    assert_eq!(answered(), 2);
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["not-a-request"]);
    job.checkpoint();
}

#[test]
fn a_stopped_job_is_taken_over_for_a_savepoint_and_its_disposal() {
    let (_dir, store) = copy();
    let told = json(&store, "savepoint", &["last", "--job-is-stopped", "--yes"]);
    assert_eq!(told["checkpoint"], 4);
    assert_eq!(json(&store, "list", &[])["jobs"][0]["epoch"], 2, "fenced");
    let dry = json(&store, "dispose", &["before", "--job-is-stopped"]);
    assert_eq!(dry["dry_run"], true);
    let metadata = |store: &Path| -> usize {
        let is_of = |path: &std::path::PathBuf| {
            let path = path.to_str().unwrap();
            path.contains("/checkpoints/") || path.contains("/manifests/")
        };
        listing(store).keys().filter(|path| is_of(path)).count()
    };
    let before = metadata(&store);
    assert_eq!(on(&store, "dispose", &["before", "--job-is-stopped", "--yes"]).code, 0);
    assert_eq!(savepoints(&store), ["first", "last"]);
    // Its metadata and its three manifests go; tables are those of others.
    assert_eq!(before - metadata(&store), 4);
    assert_eq!(on(&store, "verify", &["--deep", "--all"]).code, 0);
}

#[test]
fn gc_deletes_what_is_old_and_of_a_stopped_job_everything_that_is_not_needed() {
    let (_dir, store) = copy();
    // The job never took itself over, so what is old is of an epoch before the first.
    let old = store.join(format!("jobs/{JOB}/epochs/0000000000/tables/a.table"));
    let young = store.join(format!("jobs/{JOB}/epochs/0000000001/tables/b.table"));
    fs::create_dir_all(old.parent().unwrap()).unwrap();
    fs::write(&old, vec![0; 1_000]).unwrap();
    fs::write(&young, vec![0; 2_000]).unwrap();
    let goes = |told: &Value, path: &Path| -> bool {
        let name = path.strip_prefix(&store).unwrap().to_str().unwrap();
        let orphans = told["orphans"].as_array().unwrap();
        orphans.iter().any(|orphan| orphan["name"] == name && orphan["goes"] == true)
    };
    let dry = json(&store, "gc", &[]);
    assert!(goes(&dry, &old) && !goes(&dry, &young));
    assert_eq!((&dry["dry_run"], &dry["bytes"]), (&json!(true), &json!(1_000)));
    assert!(old.exists());
    assert_eq!(on(&store, "gc", &["--yes"]).code, 0);
    assert!(!old.exists() && young.exists());
    assert!(goes(&json(&store, "gc", &["--job-is-stopped"]), &young) && young.exists());
    assert_eq!(on(&store, "gc", &["--job-is-stopped", "--yes"]).code, 0);
    assert!(!young.exists());
    assert_eq!(json(&store, "gc", &[])["orphans"], json!([]));
    assert_eq!(on(&store, "verify", &["--deep", "--all"]).code, 0);
}

#[test]
fn gc_tells_who_pins_a_checkpoint_and_removes_a_pin() {
    let (_dir, store) = copy();
    let view = JobView::open(open_store(&store), JOB).unwrap().unwrap();
    let chosen = view.find(&RestoreFrom::Latest).unwrap().unwrap();
    let pin = view.pin(&RealEnv::new(), &chosen, "someone who\u{1b}[2J died").unwrap();
    std::mem::forget(pin);
    let told = json(&store, "gc", &[]);
    let pin = &told["pins"][0];
    assert_eq!(
        (&pin["checkpoint"], &pin["owner"]),
        (&json!(4), &json!("someone who\u{1b}[2J died"))
    );
    let name = pin["name"].as_str().unwrap().rsplit('/').next().unwrap();
    let text = on(&store, "gc", &[]);
    assert!(text.stdout.contains(name) && !text.stdout.contains('\u{1b}'), "{}", text.stdout);
    assert_eq!(json(&store, "gc", &["--remove-pin", name])["dry_run"], true);
    assert_eq!(json(&store, "gc", &[])["pins"].as_array().unwrap().len(), 1);
    assert_eq!(json(&store, "gc", &["--remove-pin", name, "--yes"])["dry_run"], false);
    assert_eq!(json(&store, "gc", &[])["pins"], json!([]));
    assert_eq!(on(&store, "gc", &["--remove-pin", name]).code, 1);
}

#[test]
fn an_exported_savepoint_can_be_moved_read_and_brought_into_another_job() {
    let (dir, store) = copy();
    let before = listing(&store);
    let first = dir.path().join("first");
    let told = json(&store, "export", &[first.to_str().unwrap(), "--savepoint", "before"]);
    assert_eq!(told["checkpoint"], 3);
    assert_eq!(listing(&store), before, "the pin is gone again");
    // Again into the same folder, and another one into it.
    let again = on(&store, "export", &[first.to_str().unwrap(), "--savepoint", "before"]);
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(on(&store, "export", &[first.to_str().unwrap()]).code, 1);
    let other = on(&store, "export", &[store.to_str().unwrap()]);
    assert!(other.code == 1 && other.stderr.contains("something else"), "{other:?}");

    let moved = dir.path().join("moved");
    fs::rename(&first, &moved).unwrap();
    let copied = dir.path().join("copied");
    let told = alluvium(&[
        "relocate",
        moved.to_str().unwrap(),
        copied.to_str().unwrap(),
        "--format",
        "json",
    ]);
    assert_eq!(told.json()["checkpoint"], 3);
    for folder in [&moved, &copied] {
        let told = alluvium(&["relocate", folder.to_str().unwrap(), "--format", "json"]).json();
        assert_eq!(told["whole"], true);
        let records = lines(folder, "scan", &["--operator", "count", "--state", "counts"]);
        assert_eq!(records.len(), counts(3).len());
        for (verb, args) in [
            ("list", &[][..]),
            ("show", &[]),
            ("files", &[]),
            ("states", &[]),
            ("verify", &["--deep"]),
            ("upgrade", &[]),
            ("rescale", &["--operator", "count", "--to", "3"]),
        ] {
            assert_eq!(on(folder, verb, args).code, 0, "{verb}");
        }
        for verb in ["gc", "diff"] {
            let args = if verb == "diff" { &["1", "2"][..] } else { &[] };
            assert_eq!(on(folder, verb, args).code, 1, "{verb} needs a job");
        }
    }
    // A folder with a hole is not whole.
    let table =
        listing(&copied).into_keys().find(|path| path.extension().is_some_and(|e| e == "table"));
    fs::remove_file(table.unwrap()).unwrap();
    assert_eq!(alluvium(&["relocate", copied.to_str().unwrap()]).code, 2);

    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let from = moved.to_str().unwrap();
    let args = [from, "--job", "next", "--name", "start"];
    assert_eq!(on(&target, "import", &args).code, 1, "only a stopped job");
    let stopped = [&args[..], &["--job-is-stopped"]].concat();
    assert_eq!(json(&target, "import", &stopped)["dry_run"], true);
    assert!(listing(&target).is_empty());
    let done = [&stopped[..], &["--yes"]].concat();
    assert_eq!(json(&target, "import", &done)["savepoint"], "start");
    let args = ["--operator", "count", "--state", "counts", "--savepoint", "start"];
    assert_eq!(lines(&target, "scan", &args).len(), counts(3).len());
    assert_eq!(on(&target, "verify", &["--deep", "--all"]).code, 0);
    assert_eq!(on(&target, "import", &done).code, 1, "the name is taken");
}

#[test]
fn a_store_with_several_jobs_is_asked_for_one_of_them() {
    let dir = tempfile::tempdir().unwrap();
    drop(run(dir.path()));
    let from = RestoreFrom::Checkpoint(SnapshotId(2));
    // On three shards: some read parts of tables.
    let mut fork = Job::open(dir.path(), "fork", 3, Some((JOB, from)));
    fork.checkpoint();
    drop(fork);
    let store = dir.path().join("store");
    let told = json(&store, "list", &[]);
    let names: Vec<_> =
        told["jobs"].as_array().unwrap().iter().map(|job| job["job"].clone()).collect();
    assert_eq!(names, [json!("flights"), json!("fork")]);
    assert_eq!(told["jobs"][1]["borrowed_from"], json!([JOB]));
    let ran = on(&store, "show", &[]);
    assert_eq!((ran.code, &*ran.stdout), (1, ""));
    assert!(ran.stderr.contains("flights, fork"), "{}", ran.stderr);
    let args = ["--job", "fork", "--operator", "count", "--state", "counts"];
    let found: std::collections::BTreeMap<u64, u64> = lines(&store, "scan", &args)
        .iter()
        .map(|line| (line["key"].as_u64().unwrap(), line["value"].as_u64().unwrap()))
        .collect();
    assert_eq!(found, counts(2));
    // The fork's checkpoints lie in files of the other job, which has them pinned.
    let pins = json(&store, "gc", &["--job", JOB]);
    assert_eq!(pins["pins"][0]["owner"], "job fork");
    assert_eq!(on(&store, "verify", &["--job", "fork", "--deep", "--all"]).code, 0);
    assert!(shared().exists());
}
