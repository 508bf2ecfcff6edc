//! Stores that were made to do harm, or are damaged: an error says so, nothing outside the
//! store is opened, and no terminal is told anything.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use alluvium::SnapshotHandle;
use alluvium::format::{Checkpoint, Manifest, ShardPart};
use serde_json::json;
use tempfile::TempDir;

use crate::job::{JOB, OWNER, copy, shared};
use crate::tool::{json, on};

const VERBS: [(&str, &[&str]); 8] = [
    ("list", &["--history"]),
    ("show", &[]),
    ("files", &[]),
    ("states", &["--key-groups"]),
    ("scan", &["--operator", "count", "--state", "counts"]),
    ("verify", &["--deep"]),
    ("rescale", &["--operator", "count", "--to", "2"]),
    ("upgrade", &[]),
];

#[test]
fn no_escape_sequence_reaches_the_terminal() {
    // The owner's text holds one, a reason in the history, and a key of "orders".
    let all = VERBS.iter().copied().chain([
        ("gc", &[][..]),
        ("scan", &["--operator", "count", "--state", "orders"]),
        ("savepoint", &["\u{1b}[31m"]),
        ("show", &["--job", "\u{1b}[31m"]),
        ("scan", &["--operator", "count", "--state", "\u{9b}2J\u{202e}"]),
    ]);
    for (verb, args) in all {
        for format in ["table", "json"] {
            let ran = on(shared(), verb, &[args, &["--format", format]].concat());
            for text in [&ran.stdout, &ran.stderr] {
                let harm = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
                assert!(!text.contains(harm), "{verb}: {text:?}");
            }
        }
    }
    let told = json(shared(), "list", &[]);
    assert_eq!(told["jobs"][0]["owner"], OWNER, "scripts get it all the same");
}

/// An exported savepoint that may be tampered with.
fn exported() -> (TempDir, PathBuf) {
    let (dir, store) = copy();
    let folder = dir.path().join("exported");
    assert_eq!(on(&store, "export", &[folder.to_str().unwrap()]).code, 0);
    (dir, folder)
}

/// Rewrites the first manifest, and what leads to it.
fn rewrite(folder: &Path, edit: impl FnOnce(&mut Manifest)) {
    let path = folder.join("savepoint");
    let mut checkpoint = Checkpoint::decode(&fs::read(&path).unwrap()).unwrap();
    let ShardPart { handle, costs } = checkpoint.shards[0].clone();
    let mut manifest =
        Manifest::decode(&fs::read(folder.join(handle.manifest())).unwrap()).unwrap();
    edit(&mut manifest);
    let bytes = manifest.encode().unwrap();
    fs::write(folder.join(handle.manifest()), &bytes).unwrap();
    let handle = SnapshotHandle::new(&manifest, &bytes, "", handle.manifest()).unwrap();
    checkpoint.shards[0] = ShardPart { handle, costs };
    fs::write(&path, checkpoint.encode().unwrap()).unwrap();
}

#[test]
fn names_that_lead_out_of_the_store_are_refused() {
    for name in ["../secret", "/etc/passwd", "tables/../../secret", "tables/.hidden", "a\u{1b}[2J"]
    {
        let (dir, folder) = exported();
        // It would open, if it were looked for.
        fs::write(dir.path().join("secret"), b"secret").unwrap();
        rewrite(&folder, |manifest| name.clone_into(&mut manifest.tables[0].location));
        for (verb, args) in VERBS.iter().filter(|(verb, _)| !matches!(*verb, "list" | "show")) {
            let ran = on(&folder, verb, args);
            assert_eq!(ran.code, 2, "{verb} {name:?}: {ran:?}");
            let all = format!("{}{}", ran.stdout, ran.stderr);
            assert!(all.contains("cannot be an object"), "{verb}: {all}");
            assert!(!all.contains('\u{1b}'));
        }
    }
}

#[test]
fn links_that_lead_out_of_the_store_are_not_followed() {
    let (dir, folder) = exported();
    let table = fs::read_dir(folder.join("tables")).unwrap().next().unwrap().unwrap().path();
    let outside = dir.path().join("outside");
    fs::rename(&table, &outside).unwrap();
    symlink(&outside, &table).unwrap();
    let ran = on(&folder, "verify", &[]);
    assert_eq!(ran.code, 2);
    assert!(ran.stdout.contains("leads out of the store"), "{}", ran.stdout);
    // One that stays within is fine.
    fs::remove_file(&table).unwrap();
    fs::rename(&outside, folder.join("inside")).unwrap();
    symlink(folder.join("inside"), &table).unwrap();
    assert_eq!(on(&folder, "verify", &["--deep"]).code, 0);
    // One that leads in a circle ends the search.
    symlink(&folder, folder.join("jobs")).unwrap();
    assert_eq!(on(&folder, "list", &[]).code, 0);
}

#[test]
fn what_is_no_plain_file_is_not_opened() {
    let (_dir, folder) = exported();
    let table = fs::read_dir(folder.join("tables")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&table).unwrap();
    assert!(Command::new("mkfifo").arg(&table).status().unwrap().success());
    // It would wait for ever.
    let ran = on(&folder, "verify", &["--deep"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stdout.contains("no plain file"), "{}", ran.stdout);
}

#[test]
fn damaged_and_foreign_metadata_is_told_with_its_name() {
    let (_dir, store) = copy();
    let journal = store.join(format!("jobs/{JOB}/journal"));
    let mut entries: Vec<_> =
        fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let last = entries.pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    let name = last.file_name().unwrap().to_str().unwrap();
    let mut later = bytes.clone();
    later[8] = 9;
    let mut lying = bytes.clone();
    lying[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut cut = bytes.clone();
    cut.truncate(40);
    for (bad, code) in [(later, 4), (lying, 2), (cut, 2), (Vec::new(), 2), (vec![0; 1 << 20], 2)] {
        fs::write(&last, &bad).unwrap();
        let ran = on(&store, "list", &[]);
        assert_eq!((ran.code, &*ran.stdout), (code, ""), "{ran:?}");
        assert!(ran.stderr.contains(name), "{}", ran.stderr);
    }
    fs::write(&last, &bytes).unwrap();
    // A checkpoint that cannot be read does not hide the others.
    let location = json(&store, "list", &[])["jobs"][0]["checkpoints"][1]["location"].clone();
    fs::remove_file(store.join(location.as_str().unwrap())).unwrap();
    let ran = on(&store, "list", &["--format", "json"]);
    assert_eq!(ran.code, 2);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let rows = told["jobs"][0]["checkpoints"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    assert_eq!((&rows[1]["id"], &rows[2]["id"]), (&json!(2), &json!(3)));
    assert!(rows[1]["error"].is_string() && rows[2].get("error").is_none());
}

#[test]
fn values_that_do_not_fit_their_schema_are_shown_as_bytes_and_told() {
    for verb in [&["scan"][..], &["get", "--key-hex", "6b6579"]] {
        let args = [&["--operator", "count", "--state", "broken", "--format", "json"], &verb[1..]];
        let ran = on(shared(), verb[0], &args.concat());
        assert_eq!(ran.code, 2, "{ran:?}");
        let line: serde_json::Value = serde_json::from_str(ran.stdout.trim()).unwrap();
        assert_eq!((&line["key"], &line["value"]), (&json!("0x6b6579"), &json!("0x616263")));
        assert!(ran.stderr.contains("do not fit"), "{}", ran.stderr);
    }
}
