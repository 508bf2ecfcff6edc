//! Verbs that only look: list, show, files, states, verify, rescale, upgrade, gc.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::job::{JOB, KEYS, REASON, copy, listing, shared};
use crate::tool::{alluvium, json, on};

fn find<'a>(all: &'a Value, field: &str, is: impl Into<Value>) -> &'a Value {
    let is = is.into();
    all.as_array().unwrap().iter().find(|one| one[field] == is).unwrap_or_else(|| panic!("{all}"))
}

#[test]
fn list_tells_every_checkpoint_and_savepoint_and_what_the_job_goes_on_from() {
    let told = json(shared(), "list", &["--history"]);
    let job = &told["jobs"][0];
    assert_eq!(job["job"], JOB);
    assert_eq!(job["resumes_from"], 4);
    let rows = &job["checkpoints"];
    let ids: Vec<u64> =
        rows.as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    let first = find(rows, "id", 1);
    assert_eq!(first["savepoints"], json!(["first"]));
    assert_eq!((&first["kind"], &first["shards"]), (&json!("checkpoint"), &json!(3)));
    let savepoint = find(rows, "id", 3);
    assert_eq!(
        (&savepoint["kind"], &savepoint["savepoints"]),
        (&json!("savepoint"), &json!(["before"]))
    );
    assert_eq!(find(rows, "id", 4)["resumes"], true);
    let second = find(rows, "id", 2);
    assert_eq!(second["records_new"], 6, "every tenth of sixty keys");
    assert!(second["bytes_new"].as_u64().unwrap() < second["bytes_total"].as_u64().unwrap());
    let history = &job["history"];
    assert_eq!(find(history, "id", 5)["failure"], REASON);
    assert_eq!(find(history, "id", 4)["failure"], Value::Null);

    let text = on(shared(), "list", &["--history"]);
    assert_eq!(text.code, 0);
    assert_eq!(text.stderr, "");
    for word in ["goes on from checkpoint 4", "before", "the test wants it so", "completed"] {
        assert!(text.stdout.contains(word), "{word}: {}", text.stdout);
    }
}

#[test]
fn show_tells_operators_shards_watermarks_costs_and_the_data_of_the_runtime() {
    let told = json(shared(), "show", &["--checkpoint", "2"]);
    assert_eq!((&told["id"], &told["job"]), (&json!(2), &json!(JOB)));
    assert_eq!(told["runtime_data"]["text"], "offset 2");
    let count = find(&told["operators"], "operator", "count");
    assert_eq!(count["max_parallelism"], 16);
    let shards = count["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 2);
    assert_eq!((&shards[0]["first_group"], &shards[0]["last_group"]), (&json!(0), &json!(7)));
    assert_eq!(shards[1]["watermark"], 5_000_000);
    assert_eq!(shards[1]["data"]["text"], "meta");
    let sessions = find(&told["operators"], "operator", "sessions");
    assert_eq!(sessions["shards"].as_array().unwrap().len(), 1);
    assert_eq!(find(&sessions["operator_states"], "state", "rules")["mode"], "broadcast");
    let text = on(shared(), "show", &[]).stdout;
    assert!(text.contains("\"offset 4\"") && text.contains("1970-01-01 01:23:20"), "{text}");
}

#[test]
fn states_tells_kinds_schemas_lifetimes_and_counts() {
    let told = json(shared(), "states", &["--checkpoint", "1", "--key-groups"]);
    let states = &find(&told["operators"], "operator", "count")["states"];
    let counts = find(states, "state", "counts");
    assert_eq!((&counts["kind"], &counts["records"]), (&json!("value"), &json!(KEYS)));
    assert_eq!(counts["value"]["codec"], "u64");
    let groups = counts["bytes_by_key_group"].as_array().unwrap();
    assert_eq!(groups.len(), 16);
    let visits = find(states, "state", "visits");
    assert_eq!(
        (&visits["kind"], &visits["value"]["codec"]),
        (&json!("list"), &json!("tuple(u64,string)"))
    );
    let prices = find(states, "state", "prices");
    assert_eq!(prices["map_key"]["codec"], "string");
    let recent = find(states, "state", "recent");
    assert_eq!(recent["ttl"]["duration_ms"], 3_600_000);
    assert_eq!(recent["ttl"]["time"], "event time");
    assert_eq!(find(states, "state", "orders")["value"]["codec"], "shop.Order@2");
    let sessions = find(&told["operators"], "operator", "sessions");
    assert_eq!(find(&sessions["states"], "state", "timeouts")["kind"], "timers");
    assert_eq!(find(&sessions["operator_states"], "state", "offsets")["items"], 1);
}

#[test]
fn files_tells_every_file_and_which_checkpoints_share_it() {
    let told = json(shared(), "files", &["--checkpoint", "2"]);
    let files = told["files"].as_array().unwrap();
    let there: BTreeSet<String> = listing(shared())
        .keys()
        .map(|path| path.strip_prefix(shared()).unwrap().to_str().unwrap().to_owned())
        .collect();
    let mut sum = 0;
    for file in files {
        let location = file["location"].as_str().unwrap();
        assert!(there.contains(location), "{location}");
        let bytes = fs::metadata(shared().join(location)).unwrap().len();
        assert_eq!(file["bytes"], bytes, "{location}");
        sum += bytes;
    }
    assert_eq!(told["bytes"], sum);
    let of_kind = |kind: &str| files.iter().filter(|file| file["kind"] == kind).count();
    assert_eq!((of_kind("metadata"), of_kind("manifest")), (1, 3));
    let with_counts = |file: &&Value| {
        file["kind"] == "table" && file["states"].as_array().unwrap().contains(&json!("counts"))
    };
    assert!(files.iter().filter(with_counts).count() >= 2);
    // Nothing was changed between the second checkpoint and the savepoint.
    assert!(
        files
            .iter()
            .filter(with_counts)
            .all(|file| { file["shared_with"].as_array().unwrap().contains(&json!(3)) })
    );
}

#[test]
fn verify_finds_what_is_whole_and_what_is_not_and_which_older_one_is() {
    for args in [&["--all"][..], &["--all", "--deep"], &["--savepoint", "before"]] {
        let told = json(shared(), "verify", args);
        let all = told["checkpoints"].as_array().unwrap();
        assert!(all.iter().all(|one| one["whole"] == true), "{told}");
    }
    let (_dir, store) = copy();
    // A table of the latest checkpoint that no other one has.
    let files = json(&store, "files", &[]);
    let victim = files["files"]
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["kind"] == "table" && file["shared_with"] == json!([]));
    let location = victim.unwrap()["location"].as_str().unwrap();
    let path = store.join(location);
    let mut bytes = fs::read(&path).unwrap();
    // In the first block: only a deep look reads it.
    bytes[60] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(on(&store, "verify", &[]).code, 0);
    let deep = on(&store, "verify", &["--deep", "--format", "json"]);
    assert_eq!((deep.code, &*deep.stderr), (2, ""));
    let told: Value = serde_json::from_str(&deep.stdout).unwrap();
    assert_eq!(told["checkpoints"][0]["whole"], false);
    assert_eq!(told["checkpoints"][0]["problems"][0]["location"], location);
    assert_eq!(told["newest_whole"], 3);

    fs::remove_file(&path).unwrap();
    let text = on(&store, "verify", &[]);
    assert_eq!(text.code, 2);
    assert!(text.stdout.contains("checkpoint 3 is the newest that is whole"), "{}", text.stdout);
    assert_eq!(on(&store, "verify", &["--checkpoint", "2"]).code, 0);
}

#[test]
fn rescale_divides_all_blocks_among_the_new_subtasks() {
    let one = json(shared(), "rescale", &["--operator", "count", "--to", "1"]);
    let four = json(shared(), "rescale", &["--operator", "count", "--to", "4"]);
    let subtasks = four["subtasks"].as_array().unwrap();
    assert_eq!((subtasks.len(), &four["from"]), (4, &json!(2)));
    assert_eq!((&subtasks[1]["first_group"], &subtasks[1]["last_group"]), (&json!(4), &json!(7)));
    // The first two read files of the first shard, the others of the second.
    let files = |at: usize| -> BTreeSet<&str> {
        let files = subtasks[at]["files"].as_array().unwrap();
        files.iter().map(|file| file["location"].as_str().unwrap()).collect()
    };
    assert!(files(0).is_disjoint(&files(3)));
    let bytes = |told: &Value| told["bytes"].as_u64().unwrap();
    assert!(bytes(&four) >= bytes(&one) && bytes(&one) > 0);
    assert_eq!(on(shared(), "rescale", &["--operator", "count", "--to", "17"]).code, 1);
    assert_eq!(on(shared(), "rescale", &["--to", "2"]).code, 1, "two operators");
}

#[test]
fn upgrade_reads_every_version_and_says_that_there_is_nothing_to_do() {
    let told = json(shared(), "upgrade", &[]);
    assert_eq!((&told["to_rewrite"], &told["readable"]), (&json!(0), &json!(true)));
    for (kind, newest) in [("metadata", "1"), ("manifests", "1"), ("tables", "2"), ("journal", "1")]
    {
        let kind = find(&told["kinds"], "kind", kind);
        assert_eq!(kind["versions"][newest], kind["files"], "{kind}");
    }
    // A table of a later version is not damaged, and not readable here.
    let (_dir, store) = copy();
    let files = json(&store, "files", &[]);
    let table = find(&files["files"], "kind", "table")["location"].as_str().unwrap();
    let path = store.join(table);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[8] = 3;
    bytes[end - 10] = 3;
    fs::write(&path, &bytes).unwrap();
    let ran = on(&store, "upgrade", &["--format", "json"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let tables = find(&told["kinds"], "kind", "tables");
    assert_eq!(
        (&tables["versions"]["3"], &tables["problems"][0]["incompatible"]),
        (&json!(1), &json!(true))
    );
}

#[test]
fn migrate_says_what_it_cannot_do() {
    for (args, word) in [
        (&["--state", "counts", "--to-codec", "i64"][..], "evolving codec"),
        (&["--max-parallelism", "32"], "--name"),
        (&[], "--max-parallelism"),
    ] {
        let ran = on(shared(), "migrate", args);
        assert_eq!((ran.code, &*ran.stdout), (1, ""));
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
}

#[test]
fn verbs_that_look_change_nothing() {
    let (_dir, store) = copy();
    // Not even the folder that a store makes for itself.
    fs::remove_dir_all(store.join(".tmp")).unwrap();
    let before = listing(&store);
    let with_temporary = fs::read_dir(&store).unwrap().count();
    for (verb, args) in [
        ("list", &["--history"][..]),
        ("show", &[]),
        ("files", &[]),
        ("states", &["--key-groups"]),
        ("get", &["--operator", "count", "--state", "counts", "1"]),
        ("scan", &["--operator", "count", "--state", "counts"]),
        ("diff", &["1", "4"]),
        ("verify", &["--deep", "--all"]),
        ("savepoint", &["new"]),
        ("savepoint", &["new", "--checkpoint", "2", "--job-is-stopped"]),
        ("dispose", &["before"]),
        ("dispose", &["before", "--job-is-stopped"]),
        ("gc", &[]),
        ("gc", &["--job-is-stopped"]),
        ("rescale", &["--operator", "count", "--to", "3", "--files"]),
        ("upgrade", &["--yes"]),
    ] {
        let ran = on(&store, verb, args);
        assert_eq!(ran.code, 0, "{verb}: {ran:?}");
        assert!(!ran.stdout.is_empty(), "{verb}");
        assert_eq!(listing(&store), before, "{verb} {args:?}");
        assert_eq!(fs::read_dir(&store).unwrap().count(), with_temporary, "{verb} {args:?}");
    }
}

#[test]
fn help_is_no_mistake_and_a_mistake_is_told_on_the_error_output() {
    let help = alluvium(&["--help"]);
    assert_eq!((help.code, &*help.stderr), (0, ""));
    assert!(help.stdout.contains("Exit codes"));
    for verb in [
        "list",
        "show",
        "files",
        "states",
        "get",
        "scan",
        "diff",
        "verify",
        "savepoint",
        "dispose",
        "export",
        "import",
        "relocate",
        "gc",
        "rescale",
        "upgrade",
        "migrate",
    ] {
        assert_eq!(alluvium(&[verb, "--help"]).code, 0);
        let wrong = alluvium(&[verb, "--no-such-option"]);
        assert_eq!((wrong.code, &*wrong.stdout), (1, ""), "{verb}");
    }
    let nowhere = shared().join("nowhere");
    for (ran, word) in [
        (on(&nowhere, "list", &[]), "no such directory"),
        (on(shared(), "show", &["--job", "other"]), "no such job"),
        (on(shared(), "show", &["--checkpoint", "77"]), "no such checkpoint"),
        (on(shared(), "show", &["--savepoint", "x"]), "no such checkpoint"),
        (on(shared(), "states", &["--operator", "x"]), "no such operator"),
        (on(shared(), "scan", &["--operator", "count", "--state", "x"]), "no such keyed state"),
    ] {
        assert_eq!((ran.code, &*ran.stdout), (1, ""), "{ran:?}");
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
    assert!(!nowhere.exists());
    let url = format!("file://{}", shared().display());
    assert_eq!(alluvium(&["list", &url]).code, 0);
}

/// With the feature it is tested on a real bucket, in `tests/stores`.
#[test]
#[cfg(not(feature = "object-store"))]
fn a_store_that_needs_a_feature_is_told_by_how_to_install_it_and_its_secret_is_not() {
    for (url, features) in [
        ("s3://bucket/job", "cli,object-store"),
        ("gs://key:hunter2@bucket", "cli,object-store"),
        ("az://container?sig=hunter2", "cli,object-store"),
        ("hdfs://hunter2@node:9000/job", "cli,hdfs"),
    ] {
        for args in [&["list", url][..], &["verify", url], &["gc", url], &["relocate", url]] {
            let ran = alluvium(args);
            assert_eq!((ran.code, &*ran.stdout), (1, ""), "{ran:?}");
            let install = format!("cargo install alluvium --features {features}");
            assert!(ran.stderr.contains(&install), "{}", ran.stderr);
            assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
        }
    }
}
