//! `checkpoint`, `savepoint`, `dispose`: what only a job's coordinator can do, asked of it or done in
//! its place.

use std::sync::Arc;

use alluvium::coordinator::{JobView, RestoreFrom, ask};
use alluvium::env::{Env, RealEnv};
use alluvium::format::checkpoint::check_job_name;
use alluvium::format::{Action, CheckpointRef, check_place};
use alluvium::object::ObjectStore;
use alluvium::{Error, SnapshotId, SnapshotMode};
use serde_json::json;

use crate::args::{Checkpoint, Dispose, Savepoint};
use crate::failure::Failure;
use crate::out::{self, Out};
use crate::store::{Access, open_job, owner, take_over, wait_a_little};

pub(crate) fn checkpoint(args: &Checkpoint, out: &mut Out) -> Result<u8, Failure> {
    let access = if args.change.yes { Access::Change } else { Access::Read };
    let (store, view) = open_job(&args.of, access)?;
    let job = view.entry().job.clone();
    let mode = mode(args.full);
    if !args.change.yes {
        return would(&format!("take a {mode} checkpoint of job {job} now"), false, out);
    }
    let action = Action::Checkpoint(mode, view.entry().next_id);
    let id = wait_for(store, &view, action, args.timeout)?;
    if out.is_json() {
        let id = id.map(|id| id.0);
        out.json(&json!({ "dry_run": false, "mode": mode.to_string(), "checkpoint": id }))?;
    } else {
        out.line(format!("checkpoint {} of job {job} is complete", text(id)))?;
    }
    Ok(0)
}

fn mode(full: bool) -> SnapshotMode {
    if full { SnapshotMode::Full } else { SnapshotMode::Incremental }
}

pub(crate) fn savepoint(args: &Savepoint, out: &mut Out) -> Result<u8, Failure> {
    let access = if args.change.yes { Access::Change } else { Access::Read };
    let (store, view) = open_job(&args.of, access)?;
    let (job, name) = (view.entry().job.clone(), &args.name);
    check_job_name("name of the savepoint", name)?;
    if let Some(into) = &args.into {
        return savepoint_into(args, into, store, &view, out);
    }
    if view.entry().savepoint(name).is_some() {
        return Err(Error::invalid("the job has a savepoint of this name already")
            .at(format_args!("job {job:?}"))
            .found(format_args!("{name:?}"))
            .remedy("choose another name, or dispose of the other one first")
            .into());
    }
    let from = match args.checkpoint {
        Some(id) => RestoreFrom::Checkpoint(SnapshotId(id)),
        None => RestoreFrom::Latest,
    };
    let kept = view.find(&from)?;
    let stopped = args.writer.job_is_stopped;
    let what = match (args.checkpoint, stopped, &kept) {
        (Some(id), ..) => format!("keep checkpoint {id} of job {job} as savepoint {name}"),
        (None, true, Some(kept)) => {
            format!("keep checkpoint {}, the latest of job {job}, as savepoint {name}", kept.id)
        }
        (None, true, None) => {
            return Err(Error::invalid("the job has no completed checkpoint to keep")
                .at(format_args!("job {job:?}"))
                .into());
        }
        (None, false, _) if args.full => format!("take full savepoint {name} of job {job} now"),
        (None, false, _) => format!("take savepoint {name} of job {job} now"),
    };
    if !args.change.yes {
        return would(&what, stopped, out);
    }
    let id = if stopped {
        Some(take_over(store, &job)?.keep(&from, name)?.id)
    } else {
        let action = match args.checkpoint {
            Some(id) => Action::Keep(SnapshotId(id), name.clone()),
            None => Action::Savepoint(name.clone(), mode(args.full)),
        };
        wait_for(store, &view, action, args.timeout)?
    };
    done(&format!("savepoint {name} of job {job} is checkpoint {}", text(id)), name, id, out)
}

/// Has the job put a savepoint straight into another place.
fn savepoint_into(
    args: &Savepoint,
    into: &str,
    store: Arc<dyn ObjectStore>,
    view: &JobView,
    out: &mut Out,
) -> Result<u8, Failure> {
    let (job, name) = (&view.entry().job, args.name.clone());
    let place = place_of(into)?;
    if !args.change.yes {
        return would(&format!("take savepoint {name} of job {job} into {place} now"), false, out);
    }
    let action = Action::SavepointInto { name: name.clone(), place: place.clone() };
    let id = wait_for(store, view, action, args.timeout)?;
    if out.is_json() {
        let id = id.map(|id| id.0);
        out.json(&json!({
            "dry_run": false, "savepoint": name, "checkpoint": id, "place": place,
        }))?;
    } else {
        out.line(format!("savepoint {name} of job {job} (checkpoint {}) is in {place}", text(id)))?;
    }
    Ok(0)
}

/// The URL of a place that stands on the command line: of one, or of a directory.
fn place_of(text: &str) -> Result<String, Failure> {
    let place = match text.starts_with('/') {
        true => format!("file://{}", encode_percent(text)),
        false => text.to_owned(),
    };
    check_place(&place)?;
    Ok(place)
}

fn encode_percent(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

pub(crate) fn dispose(args: &Dispose, out: &mut Out) -> Result<u8, Failure> {
    let access = if args.change.yes { Access::Change } else { Access::Read };
    let (store, view) = open_job(&args.of, access)?;
    let (job, name) = (view.entry().job.clone(), &args.name);
    let reference = view.find(&RestoreFrom::Savepoint(name.clone()))?;
    let id = reference.as_ref().map(|reference| reference.id);
    let stopped = args.writer.job_is_stopped;
    if !args.change.yes {
        let bytes =
            reference.as_ref().map(|reference| bytes_freed(&view, reference)).transpose()?;
        let what = format!(
            "dispose of savepoint {name} of job {job} (checkpoint {}), and free {}",
            text(id),
            out::bytes(bytes.unwrap_or(0))
        );
        return would(&what, stopped, out);
    }
    if stopped {
        let mut coordinator = take_over(store, &job)?;
        coordinator.dispose(name)?;
        // Deletes what nobody needs now.
        coordinator.cancel()?;
    } else {
        wait_for(store, &view, Action::Dispose(name.clone()), args.timeout)?;
    }
    done(&format!("savepoint {name} of job {job} is given up"), name, id, out)
}

/// Bytes of files that nothing else needs.
fn bytes_freed(view: &JobView, gone: &CheckpointRef) -> Result<u64, Failure> {
    let mut others = std::collections::BTreeSet::new();
    let twice = view.entry().kept().filter(|kept| *kept == gone).count() > 1;
    if twice {
        return Ok(0);
    }
    for other in view.entry().kept().filter(|kept| *kept != gone) {
        others.extend(view.files(other)?.into_iter().map(|file| file.location));
    }
    let files = view.files(gone)?;
    Ok(files.iter().filter(|file| !others.contains(&file.location)).map(|file| file.bytes).sum())
}

fn text(id: Option<SnapshotId>) -> String {
    id.map_or_else(|| "?".to_owned(), |id| id.to_string())
}

/// Asks the coordinator, and waits for its answer.
fn wait_for(
    store: Arc<dyn ObjectStore>,
    view: &JobView,
    action: Action,
    timeout_seconds: u64,
) -> Result<Option<SnapshotId>, Failure> {
    let env = RealEnv::new();
    let begun_ns = env.monotonic_ns();
    let asked = ask(store, &env, view, &owner("asking"), action)?;
    let bar = out::progress(None, "waiting for the job's coordinator, tenths of seconds:");
    loop {
        if let Some(answer) = asked.answer()? {
            bar.finish_and_clear();
            return match answer.refused {
                None => Ok(answer.id),
                Some(reason) => Err(Error::invalid("the job's coordinator refused")
                    .at(format_args!("job {:?}", view.entry().job))
                    .found(reason)
                    .into()),
            };
        }
        let waited_ns = env.monotonic_ns().saturating_sub(begun_ns);
        if waited_ns / 1_000_000_000 >= timeout_seconds {
            bar.finish_and_clear();
            let name = asked.name().clone();
            asked.take_back()?;
            return Err(Error::unavailable("the job's coordinator did not answer in time")
                .at(format_args!("request {name}, taken back"))
                .expected(format_args!("an answer within {timeout_seconds} s"))
                .remedy(
                    "see whether the job runs and looks for requests; if it is stopped, say --job-is-stopped",
                )
                .ambiguous()
                .into());
        }
        bar.set_position(waited_ns / 100_000_000);
        wait_a_little();
    }
}

/// Says what would be done.
pub(crate) fn would(what: &str, stopped: bool, out: &mut Out) -> Result<u8, Failure> {
    let how =
        if stopped { "take over the stopped job, and" } else { "ask the job's coordinator to" };
    if out.is_json() {
        out.json(&json!({ "dry_run": true, "would": what, "takes_over": stopped }))?;
    } else {
        out.line(format!("would {how} {what}"))?;
    }
    out::note("nothing was changed; --yes does it");
    Ok(0)
}

fn done(what: &str, name: &str, id: Option<SnapshotId>, out: &mut Out) -> Result<u8, Failure> {
    if out.is_json() {
        let id = id.map(|id| id.0);
        out.json(&json!({ "dry_run": false, "savepoint": name, "checkpoint": id }))?;
    } else {
        out.line(what)?;
    }
    Ok(0)
}
