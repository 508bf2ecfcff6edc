//! `gc`: what no checkpoint needs, and who keeps checkpoints from going.

use std::sync::Arc;

use alluvium::Error;
use alluvium::coordinator::{Orphan, orphans};
use alluvium::env::{Env, RealEnv};
use alluvium::format::Pin;
use alluvium::object::{ObjectName, ObjectStore};
use serde_json::json;

use crate::args::Gc;
use crate::failure::Failure;
use crate::out::{self, Out, Table};
use crate::store::{Access, open_job, take_over};

/// Most orphans that people are shown by name.
const SHOWN: usize = 50;

pub(crate) fn run(args: &Gc, out: &mut Out) -> Result<u8, Failure> {
    let access = if args.change.yes { Access::Change } else { Access::Read };
    let (store, view) = open_job(&args.of, access)?;
    let job = view.entry().job.clone();
    let pins = view.pins()?;
    if let Some(name) = &args.remove_pin {
        return remove_pin(args, name, &pins, &*store, out);
    }
    let found = orphans(&store, &job)?;
    let mut sized = Vec::with_capacity(found.len());
    for orphan in found {
        // One that went meanwhile is none.
        if let Some(bytes) = store.len_of(&orphan.name)? {
            sized.push((orphan, bytes));
        }
    }
    let goes = |orphan: &Orphan| orphan.is_old || args.writer.job_is_stopped;
    let (count, bytes) = sized
        .iter()
        .filter(|(orphan, _)| goes(orphan))
        .fold((0, 0), |(count, sum), (_, bytes)| (count + 1, sum + bytes));
    if args.change.yes {
        delete(args, &store, &job, &sized, goes)?;
    }
    let now = RealEnv::new().unix_time_ms();
    if out.is_json() {
        let orphans = sized.iter().map(|(orphan, bytes)| {
            json!({ "name": orphan.name.as_str(), "bytes": bytes, "old": orphan.is_old, "goes": goes(orphan) })
        });
        let pins = pins.iter().map(|(name, pin)| {
            json!({
                "name": name.as_str(),
                "owner": pin.owner,
                "created_unix_ms": pin.created_unix_ms,
                "checkpoint": pin.checkpoint.id.0,
            })
        });
        out.json(&json!({
            "dry_run": !args.change.yes,
            "job": job,
            "objects": count,
            "bytes": bytes,
            "orphans": orphans.collect::<Vec<_>>(),
            "pins": pins.collect::<Vec<_>>(),
            "retired": view.entry().retired.iter().map(|gone| gone.id.0).collect::<Vec<_>>(),
        }))?;
        return Ok(0);
    }
    if !sized.is_empty() {
        let mut table = Table::new(&[">BYTES", "", "OBJECT"]);
        for (orphan, bytes) in sized.iter().take(SHOWN) {
            let fate = match (goes(orphan), args.change.yes) {
                (true, true) => "deleted",
                (true, false) => "would go",
                (false, _) => "stays: the job may need it yet",
            };
            table.row([out::count(*bytes), fate.to_owned(), orphan.name.as_str().to_owned()]);
        }
        out.table(&table)?;
        if sized.len() > SHOWN {
            out.line(format!("  and {} more", out::count((sized.len() - SHOWN) as u64)))?;
        }
        out.line("")?;
    }
    let verb = if args.change.yes { "deleted" } else { "would delete" };
    if sized.is_empty() {
        out.line(format!("job {job}: there is nothing that no checkpoint needs"))?;
    } else {
        out.line(format!(
            "job {job}: {verb} {} of {} that no checkpoint needs, {}",
            out::count(count),
            out::many(sized.len() as u64, "object"),
            out::bytes(bytes)
        ))?;
    }
    if !view.entry().retired.is_empty() {
        let gone: Vec<_> = view.entry().retired.iter().map(|gone| gone.id.to_string()).collect();
        out.line(format!(
            "retired checkpoints, which the coordinator deletes: {}",
            gone.join(", ")
        ))?;
    }
    if !pins.is_empty() {
        out.line("")?;
        let mut table = Table::new(&[">CHECKPOINT", ">AGE", "OWNER", "PIN"]);
        for (name, pin) in &pins {
            table.row([
                pin.checkpoint.id.to_string(),
                out::age(pin.created_unix_ms, now),
                pin.owner.clone(),
                last_part(name).to_owned(),
            ]);
        }
        out.table(&table)?;
    }
    if !args.change.yes && count > 0 {
        out::note("nothing was changed; --yes does it");
    }
    Ok(0)
}

fn delete(
    args: &Gc,
    store: &Arc<dyn ObjectStore>,
    job: &str,
    found: &[(Orphan, u64)],
    goes: impl Fn(&Orphan) -> bool,
) -> Result<(), Failure> {
    if args.writer.job_is_stopped {
        // The coordinator's own way out: nobody will name anything any more.
        return Ok(take_over(Arc::clone(store), job)?.cancel()?);
    }
    let bar = out::progress(None, "objects deleted:");
    for (orphan, _) in found.iter().filter(|(orphan, _)| goes(orphan)) {
        store.remove(&orphan.name)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

fn remove_pin(
    args: &Gc,
    name: &str,
    pins: &[(ObjectName, Pin)],
    store: &dyn ObjectStore,
    out: &mut Out,
) -> Result<u8, Failure> {
    let is_meant = |of: &ObjectName| of.as_str() == name || last_part(of) == name;
    let Some((object, pin)) = pins.iter().find(|(of, _)| is_meant(of)) else {
        let known: Vec<_> = pins.iter().map(|(of, _)| last_part(of)).collect();
        return Err(Error::invalid("the job has no such pin")
            .expected(format_args!("one of {known:?}"))
            .found(format_args!("{name:?}"))
            .into());
    };
    if args.change.yes {
        store.remove(object)?;
    }
    if out.is_json() {
        out.json(&json!({
            "dry_run": !args.change.yes,
            "pin": object.as_str(),
            "owner": pin.owner,
            "checkpoint": pin.checkpoint.id.0,
        }))?;
    } else {
        let verb = if args.change.yes { "removed" } else { "would remove" };
        out.line(format!("{verb} the pin of checkpoint {} by {:?}", pin.checkpoint.id, pin.owner))?;
    }
    if !args.change.yes {
        out::note("nothing was changed; --yes does it");
    }
    Ok(0)
}

fn last_part(name: &ObjectName) -> &str {
    name.as_str().rsplit('/').next().unwrap_or_default()
}
