//! `upgrade`, `migrate`: format versions, and other shapes of the same state.

use std::collections::{BTreeMap, BTreeSet};

use alluvium::codec::Reader;
use alluvium::format::table::TABLE_VERSION;
use alluvium::savepoint::states::open_table;
use alluvium::{Error, ErrorKind, SnapshotSource};
use serde_json::{Value, json};

use crate::args::{Migrate, Upgrade};
use crate::failure::{Failure, code_of};
use crate::out::{self, Out, Table};
use crate::portable::{How, rewrite};
use crate::store::{Access, choose};

/// What there is of one kind of file.
#[derive(Default)]
struct Kind {
    newest: u16,
    files: u64,
    versions: BTreeMap<u16, u64>,
    problems: Vec<(String, Error)>,
}

impl Kind {
    /// Takes a file in: its version, and whether it was read.
    fn add(&mut self, location: &str, version: Result<u16, Error>, read: Result<(), Error>) {
        self.files += 1;
        match version {
            Ok(version) => *self.versions.entry(version).or_default() += 1,
            Err(error) if read.is_ok() => self.problems.push((location.to_owned(), error)),
            Err(_) => {}
        }
        if let Err(error) = read {
            self.problems.push((location.to_owned(), error));
        }
    }

    fn older(&self) -> u64 {
        self.versions.range(..self.newest).map(|(_, files)| files).sum()
    }
}

pub(crate) fn upgrade(args: &Upgrade, out: &mut Out) -> Result<u8, Failure> {
    let access = match &args.rewritten.name {
        Some(_) if args.change.yes => Access::Change,
        _ => Access::Read,
    };
    let chosen = choose(&args.at, access)?;
    let (checkpoint, source) = (&chosen.checkpoint, &*chosen.source);
    let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
    // What this version writes is the newest that there is.
    let metadata = kinds.entry("metadata").or_default();
    metadata.newest = version_in(&checkpoint.encode()?)?;
    let location = match &chosen.of_job {
        Some((_, reference)) => reference.location.as_str(),
        None => "savepoint",
    };
    metadata.add(location, version_of(source, location), Ok(()));
    if let Some((view, _)) = &chosen.of_job {
        let journal = kinds.entry("journal").or_default();
        journal.newest = version_in(&view.entry().encode()?)?;
        let location = format!("jobs/{}/journal/{:020}", view.entry().job, view.entry().number);
        journal.add(&location, version_of(source, &location), Ok(()));
    }
    let reader = chosen.reader();
    let bar = out::progress(None, "files read:");
    let mut seen = BTreeSet::new();
    for part in &checkpoint.shards {
        let location = part.handle.manifest();
        let read = reader.manifest(&part.handle);
        let manifests = kinds.entry("manifests").or_default();
        if let Ok(manifest) = &read {
            manifests.newest = version_in(&manifest.encode()?)?;
        }
        let tables = read.as_ref().map(|manifest| manifest.tables.clone()).unwrap_or_default();
        manifests.add(location, version_of(source, location), read.map(|_| ()));
        bar.inc(1);
        for table in tables {
            if !seen.insert(table.location.clone()) {
                continue;
            }
            let kind = kinds.entry("tables").or_default();
            kind.newest = TABLE_VERSION;
            let read = open_table(source, &table).map(|_| ());
            kind.add(&table.location, version_of(source, &table.location), read);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let code = kinds.values().flat_map(|kind| &kind.problems).map(|(_, error)| code_of(error));
    let code = code.max().unwrap_or(0);
    let older: u64 = kinds.values().map(Kind::older).sum();
    if let (0, 1.., Some(name)) = (code, older, &args.rewritten.name) {
        let how = How { rewritten: &args.rewritten, change: &args.change, max: None };
        return rewrite(&chosen, &args.at.of.store, name, &how, out);
    }
    if out.is_json() {
        let kinds: Vec<Value> = kinds.iter().map(kind_json).collect();
        out.json(&json!({
            "checkpoint": checkpoint.id.0,
            "to_rewrite": older,
            "readable": code == 0,
            "kinds": kinds,
        }))?;
        return Ok(code);
    }
    out.line(chosen.title())?;
    let mut table =
        Table::new(&["KIND", ">FILES", "VERSIONS STORED", ">VERSION WRITTEN", "READABLE"]);
    for (name, kind) in &kinds {
        let versions = kind.versions.iter().map(|(version, files)| format!("{version} ({files})"));
        let readable = match kind.problems.len() {
            0 => "all".to_owned(),
            problems => format!("all but {problems}"),
        };
        table.row([
            (*name).to_owned(),
            out::count(kind.files),
            versions.collect::<Vec<_>>().join(", "),
            kind.newest.to_string(),
            readable,
        ]);
    }
    out.table(&table)?;
    for (location, error) in kinds.values().flat_map(|kind| &kind.problems) {
        out.line(format!("  {location}: {error}"))?;
    }
    match (code, older) {
        (0, 0) => out.line("everything has the newest version: there is nothing to do")?,
        (0, _) => out.line(format!(
            "{} have an older version, which is read as it is; the job writes what it merges in the \
             newest. To write all of it now, as a savepoint, with the job stopped: --name NAME \
             --job-is-stopped",
            out::count(older)
        ))?,
        _ => out.line("what cannot be read here cannot be upgraded here")?,
    }
    if args.change.yes && older == 0 {
        out::note("nothing was changed");
    }
    Ok(code)
}

/// The version in the head of an envelope or a table: both have it behind the magic.
fn version_in(head: &[u8]) -> Result<u16, Error> {
    let mut reader = Reader::new("file", head);
    let magic = reader.array::<8>("magic")?;
    if !magic.starts_with(b"ALV") {
        return Err(Error::corrupt("not a file of alluvium")
            .expected("first bytes ALV..")
            .found(format_args!("{:?}", magic.escape_ascii().to_string())));
    }
    reader.u16("version")
}

fn version_of(source: &dyn SnapshotSource, location: &str) -> Result<u16, Error> {
    let object = source.open(location)?;
    let mut head = vec![0; object.len().min(10) as usize];
    object
        .read_at(0, &mut head)
        .map_err(|source| Error::io("a file could not be read", source).at(location))?;
    version_in(&head).map_err(|error| error.at(location))
}

fn kind_json((name, kind): (&&str, &Kind)) -> Value {
    let versions = kind.versions.iter().map(|(version, files)| (version.to_string(), json!(files)));
    let problems = kind.problems.iter().map(|(location, error)| {
        json!({
            "location": location,
            "error": error.to_string(),
            "incompatible": error.kind() == ErrorKind::Incompatible,
        })
    });
    json!({
        "kind": name,
        "files": kind.files,
        "versions": Value::Object(versions.collect()),
        "version_written": kind.newest,
        "problems": problems.collect::<Vec<_>>(),
    })
}

pub(crate) fn migrate(args: &Migrate, out: &mut Out) -> Result<u8, Failure> {
    if let Some(codec) = &args.to_codec {
        return Err(Error::invalid("values cannot be migrated without the job's code")
            .at(choose(&args.at, Access::Read)?.title())
            .expected(format_args!("a codec {codec:?} that reads what is stored"))
            .remedy(
                "register the state with an evolving codec: values are brought up to date when they are read or merged",
            )
            .into());
    }
    if let (Some(groups), Some(name)) = (args.max_parallelism, &args.rewritten.name) {
        return crate::portable::migrate(args, groups, name, out);
    }
    Err(Error::invalid("it is not said what to migrate")
        .at(choose(&args.at, Access::Read)?.title())
        .expected("--max-parallelism and --name, or --to-codec")
        .into())
}
