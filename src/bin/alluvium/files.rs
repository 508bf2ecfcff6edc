//! `files`: what a checkpoint lies in, and who else needs it.

use std::collections::{BTreeMap, BTreeSet};

use alluvium::format::Manifest;
use alluvium::savepoint::states::open_table;
use serde_json::{Value, json};

use crate::args::Files;
use crate::failure::Failure;
use crate::out::{self, Out, Table};
use crate::store::{Access, choose, groups_of};

/// One file.
#[derive(Default)]
struct File {
    kind: &'static str,
    bytes: u64,
    /// Operator and key groups.
    shards: BTreeSet<String>,
    states: BTreeSet<String>,
    records: u64,
    /// Other checkpoints that need it.
    shared: Vec<u64>,
}

pub(crate) fn run(args: &Files, out: &mut Out) -> Result<u8, Failure> {
    let chosen = choose(&args.at, Access::Read)?;
    let reader = chosen.reader();
    let mut files: BTreeMap<String, File> = BTreeMap::new();
    if let Some((_, reference)) = &chosen.of_job {
        let meta = File { kind: "metadata", bytes: reference.bytes, ..File::default() };
        files.insert(reference.location.clone(), meta);
    }
    let bar = out::progress(None, "files read:");
    for part in &chosen.checkpoint.shards {
        let handle = &part.handle;
        let shard = format!("{} {}", handle.operator(), groups_of(handle));
        let manifest: Manifest = reader.manifest(handle)?;
        let file = files.entry(handle.manifest().to_owned()).or_default();
        (file.kind, file.bytes) = ("manifest", handle.manifest_bytes());
        file.shards.insert(shard.clone());
        for table in &manifest.tables {
            bar.inc(1);
            let file = files.entry(table.location.clone()).or_default();
            let is_new = file.kind.is_empty();
            (file.kind, file.bytes) = ("table", table.meta.bytes);
            (file.records, _) = (table.meta.records, file.shards.insert(shard.clone()));
            if is_new {
                let open = open_table(&**reader.source(), table)?;
                file.states.extend(open.states().iter().map(|state| state.name.clone()));
            }
        }
    }
    if let Some((view, chosen)) = &chosen.of_job {
        let mut others: Vec<_> = view.entry().kept().filter(|other| *other != chosen).collect();
        others.sort_by_key(|other| other.id);
        others.dedup();
        for other in others {
            match view.files(other) {
                Ok(needed) => {
                    for needed in needed {
                        if let Some(file) = files.get_mut(&needed.location) {
                            file.shared.push(other.id.0);
                        }
                    }
                }
                Err(error) => out::note(format!("checkpoint {} is left out: {error}", other.id)),
            }
        }
    }
    bar.finish_and_clear();
    let total: u64 = files.values().map(|file| file.bytes).sum();
    let alone: u64 =
        files.values().filter(|file| file.shared.is_empty()).map(|file| file.bytes).sum();
    if out.is_json() {
        let list: Vec<Value> =
            files.iter().map(|(location, file)| file_json(location, file)).collect();
        return out
            .json(&json!({
                "checkpoint": chosen.checkpoint.id.0,
                "bytes": total,
                "bytes_not_shared": alone,
                "files": list,
            }))
            .map(|()| 0);
    }
    out.line(format!(
        "{}: {} files, {}, of which {} are shared with no other checkpoint",
        chosen.title(),
        out::count(files.len() as u64),
        out::bytes(total),
        out::bytes(alone)
    ))?;
    out.line("")?;
    let mut table =
        Table::new(&["KIND", ">BYTES", ">RECORDS", "SHARDS", "STATES", "SHARED WITH", "LOCATION"]);
    for (location, file) in &files {
        let shared: Vec<_> = file.shared.iter().map(u64::to_string).collect();
        table.row([
            file.kind.to_owned(),
            out::count(file.bytes),
            if file.kind == "table" { out::count(file.records) } else { String::new() },
            few(file.shards.iter().map(String::as_str)),
            few(file.states.iter().map(String::as_str)),
            few(shared.iter().map(String::as_str)),
            location.clone(),
        ]);
    }
    out.table(&table)?;
    Ok(0)
}

/// The first few of many.
fn few<'a>(all: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 4;
    let len = all.len();
    let mut shown: Vec<String> = all.take(SHOWN).map(str::to_owned).collect();
    if len > SHOWN {
        shown.push(format!("and {} more", len - SHOWN));
    }
    shown.join(", ")
}

fn file_json(location: &str, file: &File) -> Value {
    json!({
        "location": location,
        "name": location.rsplit('/').next(),
        "kind": file.kind,
        "bytes": file.bytes,
        "records": file.records,
        "shards": file.shards,
        "states": file.states,
        "shared_with": file.shared,
    })
}
