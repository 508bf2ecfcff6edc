//! `export`, `import`, `relocate`: savepoints as folders of their own.

use std::sync::Arc;

use alluvium::coordinator::{Depth, is_damaged, verify};
use alluvium::env::RealEnv;
use alluvium::format::Checkpoint;
use alluvium::format::checkpoint::check_job_name;
use alluvium::object::{ObjectName, ObjectStore};
use alluvium::savepoint::native::ExportProgress;
use alluvium::savepoint::{NativeSavepoint, export_native};
use alluvium::{Error, SnapshotId, SnapshotSource};
use serde_json::json;

use crate::args::{At, Export, Import, Relocate};
use crate::failure::{DAMAGED, Failure, UNAVAILABLE};
use crate::out::{self, Out};
use crate::portable;
use crate::readonly;
use crate::remote::is_remote;
use crate::store::{
    Access, Chosen, Place, choose, open_place, open_store, owner, path_of, take_over,
};

pub(crate) fn export(args: &Export, out: &mut Out) -> Result<u8, Failure> {
    let chosen = choose_to_copy(&args.at)?;
    if args.canonical {
        return portable::export(args, &chosen, out);
    }
    let target = open_target(&args.dest)?;
    let exported = pinned(&chosen, || copy(&chosen.checkpoint, &*chosen.source, target))?;
    told(&exported, &chosen.title(), &args.dest, out)
}

/// Finds a checkpoint that can be pinned, if it is a job's.
fn choose_to_copy(at: &At) -> Result<Chosen, Failure> {
    // Only a job's store has somebody who deletes, so only there a pin is needed.
    let access = match open_place(&at.of, Access::Read)? {
        Place::Job(_) => Access::Change,
        Place::Exported(_) => Access::Read,
    };
    Ok(choose(at, access)?)
}

/// Does something while nobody deletes the checkpoint.
pub(crate) fn pinned<T>(
    chosen: &Chosen,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let pin = match &chosen.of_job {
        Some((view, reference)) => Some(view.pin(&RealEnv::new(), reference, &owner("export"))?),
        None => None,
    };
    let done = work();
    if let Some(pin) = pin {
        pin.release()?;
    }
    done
}

pub(crate) fn relocate(args: &Relocate, out: &mut Out) -> Result<u8, Failure> {
    let savepoint = open_exported(&args.src)?;
    let checkpoint = savepoint.checkpoint();
    let title = format!("savepoint of job {} (checkpoint {})", checkpoint.job, checkpoint.id);
    if let Some(dest) = &args.dest {
        let target = open_target(dest)?;
        let moved = copy(checkpoint, &*savepoint.source(), target)?;
        return told(&moved, &title, dest, out);
    }
    let bar = out::progress(Some(checkpoint.costs().bytes_total), "checking");
    let source = savepoint.source();
    let mut found =
        verify(checkpoint, &*source, Depth::Deep, &mut |_, bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    // Locations are looked up in the folder, and an object's name cannot leave it.
    for shard in &checkpoint.shards {
        if !shard.handle.store().is_empty() {
            found.problems.push(alluvium::coordinator::Problem {
                location: shard.handle.manifest().to_owned(),
                error: Error::corrupt("a handle of an exported savepoint names a store")
                    .expected("none")
                    .found(format_args!("{:?}", shard.handle.store())),
            });
        }
    }
    if out.is_json() {
        let problems = found.problems.iter().map(
            |problem| json!({ "location": problem.location, "error": problem.error.to_string() }),
        );
        out.json(&json!({
            "whole": found.is_whole(),
            "files": found.files,
            "bytes": found.bytes,
            "problems": problems.collect::<Vec<_>>(),
        }))?;
    } else if found.is_whole() {
        out.line(format!(
            "whole where it is: {title}, {} files, {}",
            out::count(found.files as u64),
            out::bytes(found.bytes)
        ))?;
    } else {
        out.line(format!("NOT WHOLE: {title}"))?;
        for problem in &found.problems {
            out.line(format!("  {}: {}", problem.location, problem.error))?;
        }
    }
    Ok(match found.is_whole() {
        true => 0,
        false if is_damaged(&found) => DAMAGED,
        false => UNAVAILABLE,
    })
}

pub(crate) fn import(args: &Import, out: &mut Out) -> Result<u8, Failure> {
    check_job_name("name of the savepoint", &args.name)?;
    let job = match &args.of.job {
        Some(job) => {
            check_job_name("name of the job", job)?;
            job.clone()
        }
        None => {
            return Err(Error::invalid("the job that gets the savepoint is not named")
                .remedy("give --job; it may be one that the store does not have yet")
                .into());
        }
    };
    if !args.writer.job_is_stopped {
        return Err(Error::invalid("a savepoint can only be brought into a stopped job")
            .at(format_args!("job {job:?}"))
            .remedy("stop the job, and say --job-is-stopped: its journal is taken over")
            .into());
    }
    if args.canonical {
        return portable::import(args, &job, out);
    }
    let savepoint = open_exported(&args.src)?;
    let checkpoint = savepoint.checkpoint();
    let what = format!(
        "copy the savepoint of job {} (checkpoint {}, {}) into job {job} as savepoint {}",
        checkpoint.job,
        checkpoint.id,
        out::bytes(checkpoint.costs().bytes_total),
        args.name
    );
    if !args.change.yes {
        open_store(&args.of.store, Access::Read)?;
        return crate::change::would(&what, true, out);
    }
    let store = open_store(&args.of.store, Access::Change)?;
    let mut coordinator = take_over(store, &job)?;
    let bar = out::progress(Some(checkpoint.costs().bytes_total), "copying");
    let reference =
        coordinator.import(&savepoint, &args.name, &mut |progress| show(&bar, progress))?;
    bar.finish_and_clear();
    imported(&job, &args.name, reference.id, out)
}

/// Says what became of a savepoint from elsewhere.
pub(crate) fn imported(
    job: &str,
    name: &str,
    id: SnapshotId,
    out: &mut Out,
) -> Result<u8, Failure> {
    if out.is_json() {
        out.json(&json!({
            "dry_run": false,
            "job": job,
            "savepoint": name,
            "checkpoint": id.0,
        }))?;
    } else {
        out.line(format!("savepoint {name} of job {job} is checkpoint {id}"))?;
    }
    Ok(0)
}

/// Opens an exported savepoint for reading.
fn open_exported(text: &str) -> Result<NativeSavepoint, Failure> {
    let store = open_store(text, Access::Read)?;
    Ok(NativeSavepoint::open(store)?.ok_or_else(|| {
        Error::invalid("there is no exported savepoint")
            .at(text)
            .expected("an object `savepoint`, which an export writes last")
            .remedy("give the folder of a finished export")
    })?)
}

/// Opens the folder that a savepoint is to be copied into.
fn open_target(dest: &str) -> Result<Arc<dyn ObjectStore>, Failure> {
    if is_remote(dest) || readonly::is_dir(&path_of(dest)?) {
        let parts = |name: &ObjectName| {
            let name = name.as_str();
            name == "savepoint" || name.starts_with("tables/") || name.starts_with("manifests/")
        };
        let there = open_store(dest, Access::Read)?.list("")?;
        if let Some(other) = there.iter().find(|name| !parts(name)) {
            return Err(Error::invalid("the folder holds something else")
                .at(dest)
                .expected("an empty folder, or what an export that was cut short left")
                .found(other)
                .into());
        }
    }
    Ok(open_store(dest, Access::Make)?)
}

fn copy(
    checkpoint: &Checkpoint,
    source: &dyn SnapshotSource,
    target: Arc<dyn ObjectStore>,
) -> Result<NativeSavepoint, Failure> {
    let bar = out::progress(Some(checkpoint.costs().bytes_total), "copying");
    let exported = export_native(checkpoint, source, target, &mut |progress| show(&bar, progress))?;
    bar.finish_and_clear();
    Ok(exported)
}

fn show(bar: &indicatif::ProgressBar, progress: ExportProgress) -> bool {
    bar.set_position(progress.done_bytes);
    true
}

fn told(moved: &NativeSavepoint, title: &str, dest: &str, out: &mut Out) -> Result<u8, Failure> {
    let files = moved.store().list("")?;
    let mut bytes = 0;
    for file in &files {
        bytes += moved.store().len_of(file)?.unwrap_or(0);
    }
    if out.is_json() {
        out.json(&json!({
            "checkpoint": moved.checkpoint().id.0,
            "job": moved.checkpoint().job,
            "dest": dest,
            "files": files.len(),
            "bytes": bytes,
        }))?;
    } else {
        out.line(format!(
            "{title} is in {dest}: {} files, {}",
            out::count(files.len() as u64),
            out::bytes(bytes)
        ))?;
    }
    Ok(0)
}
