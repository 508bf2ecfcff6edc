//! `verify`: whether checkpoints are whole.

use alluvium::coordinator::{Depth, RestoreFrom, Verified, is_damaged, verify};
use alluvium::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::args::Verify;
use crate::canonical;
use crate::failure::{DAMAGED, Failure, UNAVAILABLE, code_of};
use crate::out::{self, Out};
use crate::store::{Access, Chosen, Place, choose, choose_of, open_place};

/// What was found of one checkpoint.
struct Looked {
    title: String,
    id: u64,
    names: Vec<String>,
    found: Result<Verified, Error>,
}

impl Looked {
    fn is_whole(&self) -> bool {
        self.found.as_ref().is_ok_and(Verified::is_whole)
    }

    fn code(&self) -> u8 {
        match &self.found {
            Ok(found) if found.is_whole() => 0,
            Ok(found) if is_damaged(found) => {
                // What another version may read is not damaged.
                let is_other = |error: &Error| error.kind() == ErrorKind::Incompatible;
                let known = found.problems.iter().map(|problem| &problem.error);
                known
                    .filter(|error| error.kind() != ErrorKind::Unavailable)
                    .find(|e| !is_other(e))
                    .map_or_else(|| crate::failure::INCOMPATIBLE, |_| DAMAGED)
            }
            Ok(_) => UNAVAILABLE,
            Err(error) => code_of(error),
        }
    }
}

pub(crate) fn run(args: &Verify, out: &mut Out) -> Result<u8, Failure> {
    if let Some(savepoint) = canonical::open_if_meant(&args.at)? {
        return canonical::verify(savepoint, out);
    }
    let depth = if args.deep { Depth::Deep } else { Depth::Shallow };
    let is_latest = args.at.checkpoint.is_none() && args.at.savepoint.is_none();
    let view = match open_place(&args.at.of, Access::Read)? {
        Place::Job(view) => view,
        Place::Exported(_) => {
            let chosen = choose(&args.at, Access::Read)?;
            let looked = look(&chosen, Vec::new(), depth);
            let code = looked.code();
            return report(&[looked], None, depth, out).map(|()| code);
        }
    };
    let entry = view.entry().clone();
    let names_of = |id: u64| -> Vec<String> {
        let of_this = entry.savepoints.iter().filter(|named| named.checkpoint.id.0 == id);
        of_this.map(|named| named.name.clone()).collect()
    };
    let look_at = |from: &RestoreFrom, id: u64| -> Result<Looked, Error> {
        let Place::Job(view) = open_place(&args.at.of, Access::Read)? else {
            return Err(Error::invalid("the job has gone"));
        };
        Ok(match choose_of(view, from) {
            Ok(chosen) => look(&chosen, names_of(id), depth),
            Err(found) => {
                let title = format!("checkpoint {id}");
                Looked { title, id, names: names_of(id), found: Err(found) }
            }
        })
    };
    // Newest first: what is whole and youngest is what one would restore.
    let mut kept: Vec<_> = entry.kept().collect();
    kept.sort_by_key(|reference| std::cmp::Reverse(reference.id));
    kept.dedup();
    let from_of = |id: u64| match names_of(id).pop() {
        Some(name) if entry.checkpoints.iter().all(|kept| kept.id.0 != id) => {
            RestoreFrom::Savepoint(name)
        }
        _ => RestoreFrom::Checkpoint(alluvium::SnapshotId(id)),
    };
    let mut looked = Vec::new();
    if args.all {
        for reference in &kept {
            looked.push(look_at(&from_of(reference.id.0), reference.id.0)?);
        }
        if looked.is_empty() {
            return Err(Error::invalid("the job has no completed checkpoint yet").into());
        }
        let code = looked.iter().map(Looked::code).max().unwrap_or(0);
        let whole = looked.iter().find(|looked| looked.is_whole()).map(|looked| looked.id);
        report(&looked, Some(whole), depth, out)?;
        return Ok(code);
    }
    let (from, id) = match (args.at.checkpoint, &args.at.savepoint) {
        (Some(id), _) => (RestoreFrom::Checkpoint(alluvium::SnapshotId(id)), id),
        (None, Some(name)) => {
            let from = RestoreFrom::Savepoint(name.clone());
            let id = view.find(&from)?.map_or(0, |reference| reference.id.0);
            (from, id)
        }
        (None, None) => match &entry.resume {
            Some(resume) => (RestoreFrom::Latest, resume.id.0),
            None => return Err(Error::invalid("the job has no completed checkpoint yet").into()),
        },
    };
    view.find(&from)?;
    let first = look_at(&from, id)?;
    let code = first.code();
    let is_whole = first.is_whole();
    looked.push(first);
    let mut fallback = None;
    if !is_whole && is_latest {
        // Which one could be restored instead.
        let mut whole = None;
        for reference in kept.iter().filter(|reference| reference.id.0 != id) {
            let other = look_at(&from_of(reference.id.0), reference.id.0)?;
            let found = other.is_whole();
            looked.push(other);
            if found {
                whole = Some(reference.id.0);
                break;
            }
        }
        fallback = Some(whole);
    }
    report(&looked, fallback, depth, out)?;
    Ok(code)
}

fn look(chosen: &Chosen, names: Vec<String>, depth: Depth) -> Looked {
    let total = chosen.checkpoint.costs().bytes_total;
    let bar = out::progress(Some(total), "checking");
    let mut note = |_files: usize, bytes: u64| bar.set_position(bytes);
    let found = verify(&chosen.checkpoint, &*chosen.source, depth, &mut note);
    bar.finish_and_clear();
    let (title, id) = (chosen.title(), chosen.checkpoint.id.0);
    Looked { title, id, names, found: Ok(found) }
}

/// `fallback` is the newest checkpoint that is whole, if that was looked for.
fn report(
    looked: &[Looked],
    fallback: Option<Option<u64>>,
    depth: Depth,
    out: &mut Out,
) -> Result<(), Failure> {
    if out.is_json() {
        let mut value = json!({
            "deep": depth == Depth::Deep,
            "checkpoints": looked.iter().map(looked_json).collect::<Vec<_>>(),
        });
        if let Some(whole) = fallback {
            value["newest_whole"] = whole.into();
        }
        return out.json(&value);
    }
    let how = match depth {
        Depth::Deep => "every byte was read",
        Depth::Shallow => "ends, indexes and filters of tables were read; --deep reads every byte",
    };
    for looked in looked {
        match &looked.found {
            Ok(found) if found.is_whole() => out.line(format!(
                "whole    {}: {} files, {}",
                looked.title,
                out::count(found.files as u64),
                out::bytes(found.bytes)
            ))?,
            Ok(found) => {
                let state = if is_damaged(found) { "DAMAGED" } else { "UNKNOWN" };
                out.line(format!(
                    "{state}  {}: {} of {} files",
                    looked.title,
                    out::count(found.problems.len() as u64),
                    out::count(found.files as u64)
                ))?;
                for problem in &found.problems {
                    out.line(format!("         {}: {}", problem.location, problem.error))?;
                }
            }
            Err(error) => {
                out.line(format!("DAMAGED  {}", looked.title))?;
                out.line(format!("         {error}"))?;
            }
        }
    }
    out.line(format!("({how})"))?;
    match fallback {
        Some(Some(id)) => out.line(format!("checkpoint {id} is the newest that is whole")),
        Some(None) => out.line("no checkpoint is whole"),
        None => Ok(()),
    }
}

fn looked_json(looked: &Looked) -> Value {
    let mut value = json!({
        "id": looked.id,
        "savepoints": looked.names,
        "whole": looked.is_whole(),
    });
    match &looked.found {
        Ok(found) => {
            value["files"] = found.files.into();
            value["bytes"] = found.bytes.into();
            value["problems"] =
                found.problems.iter().map(|p| problem_json(&p.location, &p.error)).collect();
        }
        Err(error) => value["problems"] = vec![problem_json("", error)].into(),
    }
    value
}

fn problem_json(location: &str, error: &Error) -> Value {
    json!({
        "location": location,
        "kind": format!("{:?}", error.kind()),
        "error": error.to_string(),
    })
}
