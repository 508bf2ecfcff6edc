//! Verbs that read records: get, scan, diff.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::job::{counts, shared};
use crate::tool::{json, lines, on};

fn scanned(state: &str, args: &[&str]) -> Vec<Value> {
    let operator =
        if matches!(state, "timeouts" | "offsets" | "rules") { "sessions" } else { "count" };
    let all = [&["--operator", operator, "--state", state], args].concat();
    lines(shared(), "scan", &all)
}

#[test]
fn scan_shows_every_record_of_a_checkpoint_once_and_in_order_of_key_groups() {
    for id in 1..=4 {
        let id_text = id.to_string();
        let records = scanned("counts", &["--checkpoint", &id_text]);
        let found: BTreeMap<u64, u64> = records
            .iter()
            .map(|line| (line["key"].as_u64().unwrap(), line["value"].as_u64().unwrap()))
            .collect();
        assert_eq!(found, counts(id), "checkpoint {id}");
        assert_eq!(records.len(), found.len());
        assert!(records.is_sorted_by_key(|line| line["group"].as_u64().unwrap()));
    }
}

#[test]
fn scan_is_bounded_by_limit_groups_and_prefix() {
    let all = scanned("counts", &[]);
    assert_eq!(scanned("counts", &["--limit", "5"]), all[..5]);
    let in_groups = |first: u64, last: u64| -> Vec<Value> {
        let within = |line: &&Value| (first..=last).contains(&line["group"].as_u64().unwrap());
        all.iter().filter(within).cloned().collect()
    };
    assert_eq!(scanned("counts", &["--groups", "3-9"]), in_groups(3, 9));
    assert_eq!(scanned("counts", &["--groups", "5"]), in_groups(5, 5));
    assert_eq!(scanned("visits", &["--prefix", "la"]).len(), 1);
    assert!(scanned("visits", &["--prefix", "sea"]).is_empty());
    let one = format!("0x{:016x}", 17);
    assert_eq!(scanned("counts", &["--prefix-hex", &one]).len(), 1);
    for groups in ["9-3", "x", "0-99999"] {
        let ran =
            on(shared(), "scan", &["--operator", "count", "--state", "counts", "--groups", groups]);
        assert_eq!((ran.code, &*ran.stdout), (1, ""));
    }
}

#[test]
fn records_of_all_kinds_are_shown_by_their_stored_schemas() {
    let visits = |at: &str| -> Vec<(Value, Value)> {
        let all = scanned("visits", &["--checkpoint", at]);
        all.into_iter().map(|line| (line["element"].clone(), line["value"].clone())).collect()
    };
    assert_eq!(
        visits("1"),
        [
            (json!(0), json!([0, "heron"])),
            (json!(1), json!([1, "stork"])),
            (json!(2), json!([2, "crane"]))
        ]
    );
    assert_eq!(visits("4"), [(json!(0), json!([9, "swan"]))], "replaced since");
    let prices = |at: &str| -> Vec<(Value, Value)> {
        let all = scanned("prices", &["--checkpoint", at]);
        all.into_iter().map(|line| (line["map_key"].clone(), line["value"].clone())).collect()
    };
    assert_eq!(prices("1"), [(json!("apple"), json!(5)), (json!("pear"), json!(null))]);
    assert_eq!(prices("4"), [(json!("apple"), json!(5))]);
    let largest = scanned("largest", &[]);
    assert_eq!((&largest[0]["key"], &largest[0]["value"]), (&json!(1), &json!(9)));
    let timer = &scanned("timeouts", &[])[0];
    assert_eq!((&timer["key"], &timer["timer_ms"]), (&json!("heron"), &json!(86_400_000)));
    assert_eq!(timer.get("value"), None);
    assert_eq!(scanned("offsets", &[])[0]["value"], json!(["a", 17]));
    let rule = &scanned("rules", &[])[0];
    assert_eq!((&rule["key"], &rule["value"]), (&json!(1), &json!("be kind")));
}

#[test]
fn what_has_expired_is_shown_only_on_request() {
    let keys = |args: &[&str]| -> Vec<(u64, bool)> {
        let mut keys: Vec<_> = scanned("recent", args)
            .iter()
            .map(|line| (line["key"].as_u64().unwrap(), line.get("expired").is_some()))
            .collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys(&["--checkpoint", "1"]), [(3, false)]);
    let with_expired = keys(&["--checkpoint", "1", "--expired"]);
    assert_eq!(with_expired, [(1, true), (2, true), (3, false)]);
    let line = &scanned("recent", &[])[0];
    assert_eq!((&line["value"], &line["written_ms"]), (&json!("new"), &json!(3_000_000)));
    let get = |args: &[&str]| {
        on(
            shared(),
            "get",
            &[&["--operator", "count", "--state", "recent", "--checkpoint", "1"], args].concat(),
        )
    };
    assert_eq!((get(&["1"]).code, get(&["3"]).code, get(&["1", "--expired"]).code), (5, 0, 0));
}

#[test]
fn what_was_dropped_does_not_come_back_under_a_state_of_the_same_name() {
    let keys = |at: &str| -> Vec<Value> {
        scanned("gone", &["--checkpoint", at]).iter().map(|line| line["key"].clone()).collect()
    };
    assert_eq!((keys("1"), keys("2"), keys("4")), (vec![json!(1)], vec![json!(1)], vec![json!(2)]));
    let get = |key: &str| on(shared(), "get", &["--operator", "count", "--state", "gone", key]);
    assert_eq!((get("1").code, get("2").code), (5, 0));
}

#[test]
fn a_codec_that_is_not_known_is_shown_in_hexadecimal_and_said_to_be() {
    let ran =
        on(shared(), "scan", &["--operator", "count", "--state", "orders", "--format", "json"]);
    assert!(ran.stderr.contains("shop.Order@2"), "{}", ran.stderr);
    assert_eq!(ran.lines()[0]["value"], "0x00ff");
}

#[test]
fn get_finds_a_key_by_its_text_and_by_its_bytes() {
    let get = |args: &[&str]| {
        on(shared(), "get", &[&["--operator", "count", "--format", "json"], args].concat())
    };
    for id in ["1", "2", "4"] {
        let expected = counts(id.parse().unwrap());
        for key in [0, 1, 10, 59, 1_000] {
            let text = u64::to_string(&key);
            let ran = get(&["--state", "counts", "--checkpoint", id, &text]);
            match expected.get(&key) {
                Some(value) => assert_eq!(ran.lines()[0]["value"], *value),
                None => {
                    assert_eq!((ran.code, &*ran.stdout), (5, ""));
                    assert!(ran.stderr.contains("no such key"), "{}", ran.stderr);
                }
            }
        }
    }
    let hex = format!("{:016x}", 17);
    assert_eq!(get(&["--state", "counts", "--key-hex", &hex]).lines()[0]["value"], 117);
    assert_eq!(get(&["--state", "prices", "market"]).lines().len(), 1);
    assert_eq!(get(&["--state", "visits", "lake", "--savepoint", "before"]).lines().len(), 3);
    assert_eq!(get(&["--state", "counts", "one"]).code, 1, "not a number");
    // In all namespaces, or in one.
    let windows = get(&["--state", "windows", "5"]).lines();
    let mut names: Vec<_> =
        windows.iter().map(|line| line["namespace"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["monday", "tuesday"]);
    let one = get(&["--state", "windows", "5", "--namespace", "tuesday"]).lines();
    assert_eq!((one.len(), &one[0]["namespace"]), (1, &json!("tuesday")));
    assert_eq!(get(&["--state", "windows", "5", "--namespace", "sunday"]).code, 5);
    let session = |args: &[&str]| {
        on(shared(), "get", &[&["--operator", "sessions", "--format", "json"], args].concat())
    };
    assert_eq!(session(&["--state", "timeouts", "heron"]).lines()[0]["timer_ms"], 86_400_000);
    assert_eq!(session(&["--state", "rules", "1"]).lines()[0]["value"], "be kind");
    assert_eq!(session(&["--state", "rules", "2"]).code, 5);
    assert_eq!(session(&["--state", "offsets", "1"]).code, 1);
}

/// What one state's records were, by a description of their places.
fn changes(before: &str, after: &str) -> Vec<(String, Value, Value, Value)> {
    let args = [before, after, "--operator", "count", "--state", "counts", "--records"];
    let mut all = lines(shared(), "diff", &args);
    let counted = all.pop().unwrap();
    let state = &counted["states"][0];
    assert_eq!(state["state"], "counts");
    for kind in ["added", "removed", "changed"] {
        let shown = all.iter().filter(|line| line["change"] == kind).count();
        assert_eq!(state[kind], shown, "{counted}");
    }
    let mut changes: Vec<_> = all
        .into_iter()
        .map(|line| {
            let kind = line["change"].as_str().unwrap().to_owned();
            (kind, line["key"].clone(), line["before"].clone(), line["after"].clone())
        })
        .collect();
    changes.sort_by_key(|change| change.1.as_u64());
    changes
}

#[test]
fn diff_shows_exactly_what_was_added_removed_and_changed() {
    for (before, after) in [(1, 2), (2, 4), (1, 4), (4, 1)] {
        let (a, b) = (counts(before), counts(after));
        let mut expected = Vec::new();
        let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
        for key in keys {
            let kind = match (a.get(key), b.get(key)) {
                (Some(a), Some(b)) if a == b => continue,
                (Some(_), Some(_)) => "changed",
                (None, _) => "added",
                (_, None) => "removed",
            };
            let value = |side: &BTreeMap<u64, u64>| side.get(key).map_or(Value::Null, |v| json!(v));
            expected.push((kind.to_owned(), json!(key), value(&a), value(&b)));
        }
        assert_eq!(changes(&before.to_string(), &after.to_string()), expected);
    }
}

#[test]
fn diff_does_not_read_what_lies_in_the_same_files() {
    // Nothing was changed between the second checkpoint and the savepoint.
    let told = json(shared(), "diff", &["2", "before", "--operator", "count", "--state", "counts"]);
    let counted = &told["states"][0];
    assert_eq!((&counted["groups_skipped"], &counted["same_read"]), (&json!(16), &json!(0)));
    let told = json(shared(), "diff", &["1", "4", "--operator", "count"]);
    let of = |state: &str| {
        let states = told["states"].as_array().unwrap();
        states.iter().find(|found| found["state"] == state).unwrap().clone()
    };
    // A list is one thing, whatever its elements.
    assert_eq!((&of("visits")["changed"], &of("visits")["added"]), (&json!(1), &json!(0)));
    assert_eq!((&of("prices")["removed"], &of("prices")["changed"]), (&json!(1), &json!(0)));
    assert_eq!(of("orders")["changed"], 0);
    let text = on(shared(), "diff", &["1", "4"]);
    assert!(text.stdout.contains("from savepoint") || text.stdout.contains("from checkpoint 1"));
}
