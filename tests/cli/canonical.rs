//! Canonical savepoints: state out of the store and back, and the verbs that read them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use alluvium::coordinator::{ClaimMode, Coordinator, Event, JobView, Participant, RestoreFrom};
use alluvium::env::RealEnv;
use alluvium::format::ShardAck;
use alluvium::savepoint::Import;
use alluvium::{
    Backend, ErrorKind, KeyGroup, KeyRef, KeyedStore, MaxParallelism, Shard, SnapshotId, StateSpec,
    StoreSink, ValueState,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::job::{JOB, MAX, copy, counts, earlier, listing, open_store, shared};
use crate::tool::{alluvium, json, lines, on};

/// Every state of the job, and its operator.
const STATES: [(&str, &str); 12] = [
    ("count", "broken"),
    ("count", "counts"),
    ("count", "gone"),
    ("count", "largest"),
    ("count", "orders"),
    ("count", "prices"),
    ("count", "recent"),
    ("count", "visits"),
    ("count", "windows"),
    ("sessions", "offsets"),
    ("sessions", "rules"),
    ("sessions", "timeouts"),
];

/// Exports a checkpoint of a store into a file.
fn export(store: &Path, file: &Path, args: &[&str]) -> Vec<u8> {
    let told = json(store, "export", &[&[text(file), "--canonical"], args].concat());
    let bytes = fs::read(file).unwrap();
    assert_eq!(told["bytes"], bytes.len(), "{told}");
    bytes
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A new store with nothing in it.
fn empty(dir: &TempDir, name: &str) -> PathBuf {
    let store = dir.path().join(name);
    fs::create_dir(&store).unwrap();
    store
}

/// Runs the tool with this on its standard input, and gives what it wrote as it is.
fn with_input(args: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_alluvium"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have seen enough before the end.
    let _ = child.stdin.take().unwrap().write_all(input);
    let ran = child.wait_with_output().unwrap();
    (ran.status.code().unwrap_or(-1), ran.stdout, String::from_utf8(ran.stderr).unwrap())
}

/// What a state has, in some order; without what depends on the number of key groups and
/// of shards.
fn records(store: &Path, operator: &str, state: &str, at: &[&str]) -> Vec<String> {
    let args = ["--operator", operator, "--state", state, "--expired", "--format", "json"];
    let ran = on(store, "scan", &[&args, at].concat());
    // "broken" is.
    assert!(ran.code == 0 || ran.code == 2 && state == "broken", "{ran:?}");
    let mut all: Vec<String> = ran
        .stdout
        .lines()
        .map(|line| {
            // In the order of names, whatever the order that serde_json keeps.
            let mut fields: BTreeMap<String, Value> = serde_json::from_str(line).unwrap();
            for name in ["group", "first_group", "last_group", "expired"] {
                fields.remove(name);
            }
            serde_json::to_string(&fields).unwrap()
        })
        .collect();
    all.sort_unstable();
    assert!(!all.is_empty(), "{operator} {state}");
    all
}

#[test]
fn what_goes_from_p_shards_to_q_and_back_comes_out_with_the_same_bytes() {
    let (dir, store) = copy();
    let file = |name: &str| dir.path().join(name);
    let before = listing(&store);
    let first = export(&store, &file("first"), &["--savepoint", "before"]);
    assert_eq!(listing(&store), before, "the pin is gone again");
    let mut bytes = first.clone();
    for (round, shards) in [("one", "3"), ("two", "2")] {
        let target = empty(&dir, round);
        let from = file(&format!("{round}.from"));
        fs::write(&from, &bytes).unwrap();
        let args = [text(&from), "--canonical", "--name", "start", "--job", JOB];
        let more = ["--shards", shards, "--job-is-stopped", "--yes"];
        assert_eq!(json(&target, "import", &[&args[..], &more[..]].concat())["savepoint"], "start");
        assert_eq!(on(&target, "verify", &["--deep", "--all"]).code, 0);
        let at = ["--savepoint", "start"];
        let told = json(&target, "show", &at);
        assert_eq!(told["operators"][0]["shards"].as_array().unwrap().len().to_string(), shards);
        assert_eq!(told["runtime_data"]["text"], "offset 3");
        bytes = export(&target, &file(&format!("{round}.to")), &at);
        assert!(bytes == first, "{shards} shards");
        let args = ["--operator", "count", "--state", "counts", "--savepoint", "start"];
        assert_eq!(counted(&lines(&target, "scan", &args)), counts(3));
    }
    // By pipes, and without compression.
    let to_pipe = ["export", text(&store), "-", "--canonical", "--savepoint", "before"];
    let (code, piped, told) = with_input(&to_pipe, b"");
    assert_eq!(code, 0, "{told}");
    assert!(piped == first);
    let (_, stored, _) = with_input(&[&to_pipe[..], &["--stored"]].concat(), b"");
    assert!(stored.len() > first.len());
    let target = empty(&dir, "piped");
    let args = ["import", text(&target), "-", "--canonical", "--name", "start", "--job", JOB];
    let done = [&args[..], &["--job-is-stopped", "--yes"]].concat();
    let (code, _, told) = with_input(&done, &stored);
    assert_eq!(code, 0, "{told}");
    assert!(export(&target, &file("piped.to"), &["--savepoint", "start"]) == first);
    let (code, _, told) = with_input(&done, &stored);
    assert!(code == 1 && told.contains("of this name already"), "{told}");
    // Nothing is left beside.
    let hidden = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let is_ours = |name: &str| name.ends_with(".part") || name.starts_with('.');
    let hidden: Vec<_> = hidden.filter(|name| is_ours(name.to_str().unwrap())).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

fn counted(lines: &[Value]) -> BTreeMap<u64, u64> {
    let pair = |line: &Value| (line["key"].as_u64().unwrap(), line["value"].as_u64().unwrap());
    lines.iter().map(pair).collect()
}

#[test]
fn a_savepoint_that_is_cut_or_damaged_registers_nothing() {
    let (dir, store) = copy();
    let file = dir.path().join("file");
    let bytes = export(&store, &file, &[]);
    let before = listing(&store);
    let target = empty(&dir, "target");
    let bad = dir.path().join("bad");
    let mut all: Vec<Vec<u8>> =
        [0, 7, 20, bytes.len() / 2, bytes.len() - 1].map(|len| bytes[..len].to_vec()).into();
    for at in [9, 40, bytes.len() / 3, bytes.len() - 20, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        all.push(flipped);
    }
    all.push([&bytes[..], b"x"].concat());
    for damaged in all {
        fs::write(&bad, &damaged).unwrap();
        // The version is in the head: that of another one is no damage.
        let code = if damaged.get(9) == bytes.get(9) || damaged.len() < 10 { 2 } else { 4 };
        for (store, name) in [(&store, JOB), (&target, "new")] {
            let args = [text(&bad), "--canonical", "--name", "bad", "--job", name];
            let ran = on(store, "import", &[&args[..], &["--job-is-stopped", "--yes"]].concat());
            assert_eq!((ran.code, &*ran.stdout), (code, ""), "{} bytes: {ran:?}", damaged.len());
        }
        assert_eq!(listing(&store), before, "not even taken over");
        assert!(listing(&target).is_empty());
        let ran = on(&bad, "verify", &["--format", "json"]);
        assert_eq!(ran.code, code, "{ran:?}");
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(told["whole"], false);
        let args = ["import", text(&target), "-", "--canonical", "--name", "bad", "--job", "new"];
        let args = [&args[..], &["--job-is-stopped", "--yes"]].concat();
        assert_eq!(with_input(&args, &damaged).0, code);
        assert!(listing(&target).is_empty());
    }
}

/// Restores the job from a savepoint with so many key groups, takes a checkpoint, and
/// gives what "counts" has.
fn restored(dir: &Path, store: &Path, savepoint: &str, max: u32) -> BTreeMap<u64, u64> {
    let mut coordinator = Coordinator::builder(open_store(store), JOB).open().unwrap();
    let from = RestoreFrom::Savepoint(savepoint.to_owned());
    let checkpoint = coordinator.restore(&from, ClaimMode::NoClaim).unwrap().unwrap();
    assert_eq!(checkpoint.runtime, b"offset 4");
    let max = MaxParallelism::new(max).unwrap();
    let backend = Backend::builder(dir.join(format!("local-{savepoint}")))
        .max_parallelism(max)
        .sink(Arc::new(coordinator.sink()))
        .source(Arc::new(coordinator.sink()))
        .open()
        .unwrap();
    let mut participants = Participant::of_operator("count", max, 3).unwrap();
    participants.extend(Participant::of_operator("sessions", max, 1).unwrap());
    let mut shards: Vec<Shard> = participants
        .iter()
        .map(|part| {
            let handles = checkpoint.handles(&part.operator);
            backend.shard(&part.operator, part.groups).restore(handles).open().unwrap()
        })
        .collect();
    coordinator.start(participants).unwrap();
    let mut found = BTreeMap::new();
    for shard in &mut shards[..3] {
        let state = ValueState::<u64, u64>::register(shard, "counts").unwrap();
        for key in 0..2_000 {
            // A key belongs to one shard, and the others refuse it.
            if let Ok(Some(value)) = state.get(shard, &key) {
                assert_eq!(found.insert(key, value), None);
            }
        }
    }
    let id = coordinator.trigger().unwrap();
    let mut completed = false;
    while let Some(event) = coordinator.next_event() {
        match event {
            Event::Trigger(barrier) => {
                for shard in &mut shards {
                    let report = shard.snapshot(barrier.id, b"").unwrap().wait().unwrap();
                    coordinator.acknowledge(ShardAck::of(barrier.epoch, &report)).unwrap();
                }
                coordinator.poll().unwrap();
            }
            Event::Completed(other) => completed |= other == id,
            _ => {}
        }
    }
    assert!(completed, "the job goes on");
    found
}

#[test]
fn a_job_that_is_migrated_to_other_key_groups_and_restored_has_the_same_values() {
    let (dir, store) = copy();
    let all = |at: &[&str]| -> Vec<Vec<String>> {
        STATES.iter().map(|(operator, state)| records(&store, operator, state, at)).collect()
    };
    let had = all(&["--checkpoint", "4"]);
    let first = export(&store, &dir.path().join("first"), &[]);
    let work = dir.path().join("work");
    let work = ["--work", text(&work)];
    let told = json(
        &store,
        "migrate",
        &[&["--max-parallelism", "100", "--name", "wide", "--job-is-stopped", "--yes"], &work[..]]
            .concat(),
    );
    assert!(listing(&dir.path().join("work")).is_empty(), "nothing is left");
    assert_eq!(told["savepoint"], "wide");
    let at = ["--savepoint", "wide"];
    let shown = json(&store, "show", &at);
    for operator in shown["operators"].as_array().unwrap() {
        assert_eq!(operator["max_parallelism"], 100);
        let shards = if operator["operator"] == "count" { 2 } else { 1 };
        assert_eq!(operator["shards"].as_array().unwrap().len(), shards);
    }
    assert_eq!(all(&at), had);
    assert_eq!(on(&store, "verify", &["--deep", "--all"]).code, 0);
    assert_eq!(restored(dir.path(), &store, "wide", 100), counts(4));
    assert_eq!(on(&store, "verify", &["--deep", "--all"]).code, 0);
    // And back, into fewer groups than shards in between.
    for (name, from, max) in [("one", "wide", "1"), ("back", "one", "16")] {
        let args = ["--savepoint", from, "--max-parallelism", max, "--name", name];
        let ran = on(&store, "migrate", &[&args[..], &["--job-is-stopped", "--yes"]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    assert_eq!(MAX, 16);
    let last = export(&store, &dir.path().join("last"), &["--savepoint", "back"]);
    assert!(last == first, "through three numbers of key groups");
    assert_eq!(restored(dir.path(), &store, "back", 16), counts(4));
}

#[test]
fn a_store_of_an_earlier_version_is_read_as_it_is_and_written_anew_if_told_so() {
    let (dir, store) = earlier();
    let all = |at: &[&str]| -> Vec<Vec<String>> {
        STATES.iter().map(|(operator, state)| records(&store, operator, state, at)).collect()
    };
    let tables = |at: &[&str]| {
        let told = json(&store, "upgrade", at);
        let tables = told["kinds"].as_array().unwrap().iter().find(|of| of["kind"] == "tables");
        let tables = tables.unwrap().clone();
        assert_eq!(told["readable"], true);
        (told["to_rewrite"].clone(), tables["versions"].clone(), tables["files"].clone())
    };
    // What today's code says of the same job, and of this one.
    let (_dir, today) = copy();
    let had = all(&["--checkpoint", "4"]);
    for ((operator, state), had) in STATES.iter().zip(&had) {
        assert_eq!(*had, records(&today, operator, state, &["--checkpoint", "4"]), "{state}");
    }
    assert_eq!(on(&store, "verify", &["--deep", "--all"]).code, 0);
    let (older, versions, files) = tables(&["--checkpoint", "4"]);
    assert!(files.as_u64().unwrap() > 1);
    assert_eq!((&older, &versions), (&files, &serde_json::json!({ "1": files })));
    let told = on(&store, "upgrade", &["--checkpoint", "4"]);
    assert!(told.stdout.contains("an older version"), "{}", told.stdout);

    let new = ["--checkpoint", "4", "--name", "new"];
    let before = listing(&store);
    assert_eq!(on(&store, "upgrade", &new).code, 1, "the job may run");
    let would = on(&store, "upgrade", &[&new[..], &["--job-is-stopped"]].concat());
    assert_eq!((would.code, listing(&store)), (0, before), "{would:?}");
    let ran = on(&store, "upgrade", &[&new[..], &["--job-is-stopped", "--yes"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let at = ["--savepoint", "new"];
    let (older, versions, files) = tables(&at);
    assert_eq!((older, versions), (serde_json::json!(0), serde_json::json!({ "2": files })));
    assert_eq!(all(&at), had);
    assert_eq!(on(&store, "verify", &["--deep", "--all"]).code, 0);
    assert_eq!(restored(dir.path(), &store, "new", MAX), counts(4));
    // There is nothing more to do, and nothing is done.
    let before = listing(&store);
    let again = ["--savepoint", "new", "--name", "newer", "--job-is-stopped", "--yes"];
    let ran = on(&store, "upgrade", &again);
    assert!(ran.code == 0 && ran.stdout.contains("nothing to do"), "{ran:?}");
    assert_eq!(listing(&store), before);
}

#[test]
fn a_runtime_that_chose_key_groups_keeps_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut coordinator = Coordinator::builder(open_store(&path), JOB).open().unwrap();
    let max = MaxParallelism::new(MAX).unwrap();
    let backend = Backend::builder(dir.path().join("local"))
        .max_parallelism(max)
        .sink(Arc::new(coordinator.sink()))
        .open()
        .unwrap();
    let mut shard = backend.shard("routed", max.all_groups()).open().unwrap();
    let state = shard.register(StateSpec::value("placed")).unwrap();
    for group in 0..MAX as u16 {
        shard.put(state, KeyRef::in_group(KeyGroup(group), b"key"), b"value").unwrap();
    }
    coordinator.start(Participant::of_operator("routed", max, 1).unwrap()).unwrap();
    coordinator.trigger().unwrap();
    while let Some(event) = coordinator.next_event() {
        if let Event::Trigger(barrier) = event {
            let report = shard.snapshot(barrier.id, b"").unwrap().wait().unwrap();
            coordinator.acknowledge(ShardAck::of(barrier.epoch, &report)).unwrap();
            coordinator.poll().unwrap();
        }
    }
    drop((shard, backend, coordinator));
    let before = listing(&path);
    let args = ["--max-parallelism", "32", "--name", "wide", "--job-is-stopped", "--yes"];
    let ran = on(&path, "migrate", &args);
    assert_eq!((ran.code, &*ran.stdout), (4, ""), "{ran:?}");
    assert!(ran.stderr.contains("placed") && ran.stderr.contains("routed"), "{}", ran.stderr);
    assert_eq!(listing(&path), before);
    // With the number that it has it can go anywhere.
    let file = dir.path().join("file");
    let bytes = export(&path, &file, &[]);
    let target = empty(&dir, "target");
    let args = [text(&file), "--canonical", "--name", "start", "--job", JOB];
    let ran = on(&target, "import", &[&args[..], &["--job-is-stopped", "--yes"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let again = export(&target, &dir.path().join("again"), &["--savepoint", "start"]);
    assert!(again == bytes);
    assert_eq!(records(&file, "routed", "placed", &[]).len(), MAX as usize);
}

#[test]
fn what_was_not_told_yes_changes_nothing() {
    let (dir, store) = copy();
    let file = dir.path().join("file");
    export(&store, &file, &[]);
    let (before, around) = (listing(&store), fs::read_dir(dir.path()).unwrap().count());
    let stopped = "--job-is-stopped";
    let import = [text(&file), "--canonical", "--name", "new", "--job", JOB];
    let migrate = ["--max-parallelism", "32", "--name", "new"];
    for (verb, args) in [("import", &import[..]), ("migrate", &migrate)] {
        let told = json(&store, verb, &[args, &[stopped]].concat());
        assert_eq!((&told["dry_run"], &told["takes_over"]), (&json!(true), &json!(true)));
        let running = on(&store, verb, &[args, &["--yes"]].concat());
        assert!(running.code == 1 && running.stderr.contains(stopped), "{running:?}");
    }
    let wrong = [
        ("migrate", vec!["--max-parallelism", "0", "--name", "new", stopped, "--yes"]),
        ("migrate", vec!["--max-parallelism", "32", "--name", "before", stopped, "--yes"]),
        ("export", vec![text(&file), "--canonical"]),
        ("export", vec![text(&file)]),
        ("import", vec![text(&file), "--name", "new", "--job", JOB, stopped, "--yes"]),
        ("import", [&import[..], &["--shards", "0", stopped, "--yes"]].concat()),
        ("import", [&import[..], &["--shards", "17", stopped, "--yes"]].concat()),
        ("import", vec![text(dir.path()), "--canonical", "--name", "new", "--job", JOB, stopped]),
    ];
    for (verb, args) in wrong {
        let ran = on(&store, verb, &args);
        assert_eq!((ran.code, &*ran.stdout), (1, ""), "{verb} {args:?}: {ran:?}");
    }
    assert_eq!(listing(&store), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), around, "nothing is left beside");
}

#[test]
fn verbs_that_read_take_a_canonical_savepoint_and_the_others_say_so() {
    let (dir, store) = copy();
    let file = dir.path().join("file");
    let bytes = export(&store, &file, &["--savepoint", "before"]);
    let head = json(&file, "list", &[])["canonical"].clone();
    let whole = json(&file, "verify", &[]);
    assert_eq!((&whole["whole"], &whole["entries"]), (&json!(true), &head["entries"]));
    assert_eq!(head["job"], JOB);
    let shown = json(&file, "show", &[]);
    assert_eq!(shown["runtime_data"]["text"], "offset 3");
    assert_eq!(json(&file, "states", &[])["operators"], shown["operators"]);
    let mut entries = 0;
    for operator in shown["operators"].as_array().unwrap() {
        assert_eq!(operator["max_parallelism"], MAX);
        for states in ["states", "operator_states"] {
            for state in operator[states].as_array().unwrap() {
                let name = (operator["operator"].as_str(), state["state"].as_str());
                let (Some(operator), Some(name)) = name else { panic!("{state}") };
                assert!(STATES.contains(&(operator, name)), "{operator} {name}");
                let told = records(&file, operator, name, &[]);
                assert_eq!(
                    told,
                    records(&store, operator, name, &["--savepoint", "before"]),
                    "{operator} {name}"
                );
                assert_eq!(state["entries"], told.len(), "{operator} {name}");
                entries += told.len();
            }
        }
    }
    assert_eq!(head["entries"], entries);
    for (verb, args) in [
        ("list", &[][..]),
        ("show", &[]),
        ("states", &[]),
        ("verify", &[]),
        ("scan", &["--operator", "count", "--state", "orders"]),
    ] {
        let ran = on(&file, verb, args);
        let harm = |c: char| c.is_control() && c != '\n';
        assert!(ran.code == 0 && !ran.stdout.is_empty() && !ran.stdout.contains(harm), "{ran:?}");
    }
    let some = ["--operator", "count", "--state", "counts"];
    let (code, told, _) =
        with_input(&[&["scan", "-", "--format", "json"], &some[..]].concat(), &bytes);
    let told = String::from_utf8(told).unwrap();
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, counted(&told)), (0, counts(3)));
    let limited = [&some[..], &["--groups", "0-7", "--limit", "3"]].concat();
    let told = lines(&file, "scan", &limited);
    assert_eq!(told.len(), 3);
    assert!(told.iter().all(|line| line["group"].as_u64().unwrap() < 8));
    for (verb, args, word) in [
        ("files", &[][..], "no directory"),
        ("upgrade", &[], "no directory"),
        ("gc", &[], "no directory"),
        ("show", &["--checkpoint", "4"], "leave --job"),
        ("scan", &["--operator", "count", "--state", "x"], "no such state"),
        ("states", &["--operator", "x"], "no such operator"),
        ("states", &["--key-groups"], "no key groups"),
        ("scan", &["--operator", "count", "--state", "recent"], "--expired"),
    ] {
        let ran = on(&file, verb, args);
        assert_eq!((ran.code, &*ran.stdout), (1, ""), "{verb}: {ran:?}");
        assert!(ran.stderr.contains(word), "{verb}: {}", ran.stderr);
    }
    // Another file of the engine, and one of somebody else.
    let location = json(&store, "list", &[])["jobs"][0]["checkpoints"][0]["location"].clone();
    let ran = on(&store.join(location.as_str().unwrap()), "show", &[]);
    assert!(ran.code == 1 && ran.stderr.contains("ALVCHKPT"), "{ran:?}");
    fs::write(&file, "a letter to nobody").unwrap();
    let ran = on(&file, "show", &[]);
    assert!(ran.code == 2 && ran.stderr.contains("not a canonical savepoint"), "{ran:?}");
    assert!(shared().exists());
}

#[test]
fn snapshots_that_are_not_in_the_coordinators_sink_are_not_registered() {
    let (dir, path) = copy();
    let bytes = export(&path, &dir.path().join("file"), &[]);
    let store = open_store(&path);
    let mut coordinator = Coordinator::builder(Arc::clone(&store), JOB).open().unwrap();
    let env = Arc::new(RealEnv::new());
    let work = dir.path().join("work");
    let imported = |sink: &StoreSink| {
        let made = Import::new(Arc::clone(&env) as _, &work, sink, SnapshotId(2)).read(&bytes[..]);
        let operators = made.unwrap().operators;
        operators.into_iter().flat_map(|operator| operator.handles).collect::<Vec<_>>()
    };
    let elsewhere = imported(&StoreSink::new(Arc::clone(&store)));
    let refused = coordinator.import_shards("bad", elsewhere, Vec::new()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    let all = imported(&coordinator.sink());
    let twice = [all[0].clone(), all[0].clone()];
    let refused = coordinator.import_shards("bad", twice, Vec::new()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    let mut reversed = all.clone();
    reversed.reverse();
    let kept = coordinator.import_shards("good", reversed, b"offset 4".to_vec()).unwrap();
    assert!(kept.id > SnapshotId(4), "a number of its own");
    let taken = coordinator.import_shards("good", all, Vec::new()).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Invalid);
    let entry = JobView::open(store, JOB).unwrap().unwrap();
    let names: Vec<_> = entry.entry().savepoints.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["before", "first", "good"]);
    drop(coordinator);
    assert_eq!(restored(dir.path(), &path, "good", MAX), counts(4));
    assert_eq!(alluvium(&["verify", text(&path), "--all", "--deep"]).code, 0);
}
