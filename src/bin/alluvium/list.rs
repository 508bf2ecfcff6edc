//! `list`: what a store has.

use alluvium::SnapshotMode;
use alluvium::coordinator::JobView;
use alluvium::env::{Env, RealEnv};
use alluvium::format::{Checkpoint, CheckpointKind, CheckpointRef, JournalEntry, Outcome};
use serde_json::{Value, json};

use crate::args::{At, List};
use crate::canonical;
use crate::failure::{Failure, code_of};
use crate::out::{self, Out, Table};
use crate::store::{Access, Place, open_job, open_place, open_store};

/// One checkpoint, as far as it can be read.
struct Row {
    reference: Option<CheckpointRef>,
    names: Vec<String>,
    resumes: bool,
    read: Result<Checkpoint, alluvium::Error>,
}

pub(crate) fn run(args: &List, out: &mut Out) -> Result<u8, Failure> {
    let at = At { of: args.of.clone(), checkpoint: None, savepoint: None };
    if let Some(savepoint) = canonical::open_if_meant(&at)? {
        return canonical::list(savepoint, out);
    }
    let now = RealEnv::new().unix_time_ms();
    let mut code = 0;
    let mut shown = Vec::new();
    let views = match all_jobs(args)? {
        Ok(views) => views,
        Err(checkpoint) => {
            let names = match &checkpoint.kind {
                CheckpointKind::Savepoint(name) => vec![name.clone()],
                CheckpointKind::Checkpoint => Vec::new(),
            };
            let job = checkpoint.job.clone();
            let rows = vec![Row { reference: None, names, resumes: false, read: Ok(*checkpoint) }];
            if out.is_json() {
                let exported: Vec<_> = rows.iter().map(row_json).collect();
                out.json(&json!({ "exported": exported.first() }))?;
            } else {
                out.line(format!("exported savepoint of job {job}"))?;
                out.line("")?;
                print_rows(&rows, now, out)?;
            }
            return Ok(0);
        }
    };
    for (number, view) in views.iter().enumerate() {
        let rows = rows_of(view);
        for error in rows.iter().filter_map(|row| row.read.as_ref().err()) {
            out::note(error.to_string());
            code = code.max(code_of(error));
        }
        if out.is_json() {
            shown.push(job_json(view.entry(), &rows, args.history));
            continue;
        }
        if number > 0 {
            out.line("")?;
        }
        print_head(view.entry(), now, out)?;
        if rows.is_empty() {
            out.line("  no completed checkpoint yet")?;
        } else {
            print_rows(&rows, now, out)?;
        }
        if args.history {
            out.line("")?;
            print_history(&view.entry().outcomes, now, out)?;
        }
    }
    if out.is_json() {
        out.json(&json!({ "jobs": shown }))?;
    }
    Ok(code)
}

/// The jobs that are meant, or the one savepoint that there is instead.
fn all_jobs(args: &List) -> Result<Result<Vec<JobView>, Box<Checkpoint>>, Failure> {
    if args.of.job.is_some() {
        return Ok(Ok(vec![open_job(&args.of, Access::Read)?.1]));
    }
    let store = open_store(&args.of.store, Access::Read)?;
    let names = alluvium::coordinator::jobs(&*store)?;
    if names.len() < 2 {
        return Ok(match open_place(&args.of, Access::Read)? {
            Place::Job(view) => Ok(vec![view]),
            Place::Exported(exported) => Err(Box::new(exported.checkpoint().clone())),
        });
    }
    let mut views = Vec::new();
    for name in names {
        // One that vanished meanwhile is none.
        views.extend(JobView::open(store.clone(), &name)?);
    }
    Ok(Ok(views))
}

fn rows_of(view: &JobView) -> Vec<Row> {
    let entry = view.entry();
    let mut rows: Vec<Row> = Vec::new();
    let mut kept: Vec<&CheckpointRef> = entry.kept().collect();
    kept.sort_by_key(|reference| reference.id);
    kept.dedup();
    for reference in kept {
        let of_this = entry.savepoints.iter().filter(|named| named.checkpoint == *reference);
        rows.push(Row {
            names: of_this.map(|named| named.name.clone()).collect(),
            resumes: entry.resume.as_ref() == Some(reference),
            read: view.read(reference),
            reference: Some(reference.clone()),
        });
    }
    rows
}

fn print_head(entry: &JournalEntry, now: u64, out: &mut Out) -> Result<(), Failure> {
    let owner = match &*entry.owner {
        "" => "a coordinator without a name".to_owned(),
        owner => format!("{owner:?}"),
    };
    out.line(format!("job {}", entry.job))?;
    out.line(format!(
        "  epoch {} of {owner}, last heard of {} ago",
        entry.epoch,
        out::age(entry.written_unix_ms, now)
    ))?;
    match &entry.resume {
        Some(resume) => out.line(format!("  goes on from checkpoint {}", resume.id))?,
        None => out.line("  begins from nothing")?,
    }
    if !entry.retired.is_empty() {
        out.line(format!("  {} checkpoints are being deleted", entry.retired.len()))?;
    }
    for borrowed in &entry.borrowed {
        out.line(format!("  needs files of job {}", borrowed.job))?;
    }
    out.line("")
}

fn print_rows(rows: &[Row], now: u64, out: &mut Out) -> Result<(), Failure> {
    let mut table = Table::new(&[
        "",
        ">CHECKPOINT",
        ">EPOCH",
        "SAVEPOINT",
        "COMPLETED (UTC)",
        ">AGE",
        ">DURATION",
        ">PAUSE",
        ">NEW",
        ">TOTAL",
        ">SHARDS",
        ">RECORDS WRITTEN",
        "MODE",
    ]);
    for row in rows {
        let mark = if row.resumes { "*" } else { "" }.to_owned();
        let names = row.names.join(", ");
        match &row.read {
            Ok(checkpoint) => {
                let costs = checkpoint.costs();
                let took =
                    checkpoint.completed_unix_ms.saturating_sub(checkpoint.triggered_unix_ms);
                table.row([
                    mark,
                    checkpoint.id.to_string(),
                    checkpoint.epoch.to_string(),
                    names,
                    out::time(checkpoint.completed_unix_ms),
                    out::age(checkpoint.completed_unix_ms, now),
                    out::duration_ms(took),
                    out::duration_ns(costs.pause_ns),
                    out::bytes(costs.bytes_new),
                    out::bytes(costs.bytes_total),
                    out::count(checkpoint.shards.len() as u64),
                    out::count(costs.records_new),
                    match checkpoint.mode {
                        SnapshotMode::Incremental => String::new(),
                        SnapshotMode::Full => checkpoint.mode.to_string(),
                    },
                ]);
            }
            Err(_) => {
                let id = row.reference.as_ref().map(|reference| reference.id.to_string());
                let epoch = row.reference.as_ref().map(|reference| reference.epoch.to_string());
                let text = "cannot be read".to_owned();
                table.row([mark, id.unwrap_or_default(), epoch.unwrap_or_default(), names, text]);
            }
        }
    }
    out.table(&table)
}

fn print_history(outcomes: &[Outcome], now: u64, out: &mut Out) -> Result<(), Failure> {
    let mut table = Table::new(&[
        ">CHECKPOINT",
        ">EPOCH",
        "KIND",
        "BEGUN (UTC)",
        ">AGE",
        ">DURATION",
        ">PAUSE",
        ">NEW",
        ">TOTAL",
        "OUTCOME",
    ]);
    for outcome in outcomes {
        table.row([
            outcome.id.to_string(),
            outcome.epoch.to_string(),
            kind_text(&outcome.kind, outcome.mode),
            out::time(outcome.triggered_unix_ms),
            out::age(outcome.triggered_unix_ms, now),
            out::duration_ms(outcome.duration_ms),
            out::duration_ns(outcome.pause_ns),
            out::bytes(outcome.bytes_new),
            out::bytes(outcome.bytes_total),
            outcome.failure.clone().unwrap_or_else(|| "completed".to_owned()),
        ]);
    }
    out.table(&table)
}

fn kind_text(kind: &CheckpointKind, mode: SnapshotMode) -> String {
    let full = if mode == SnapshotMode::Full { "full " } else { "" };
    match kind {
        CheckpointKind::Checkpoint => format!("{full}checkpoint"),
        CheckpointKind::Savepoint(name) => format!("{full}savepoint {name}"),
    }
}

fn job_json(entry: &JournalEntry, rows: &[Row], history: bool) -> Value {
    let mut value = json!({
        "job": entry.job,
        "epoch": entry.epoch,
        "owner": entry.owner,
        "journal_entry": entry.number,
        "written_unix_ms": entry.written_unix_ms,
        "resumes_from": entry.resume.as_ref().map(|resume| resume.id.0),
        "retired": entry.retired.iter().map(|gone| gone.id.0).collect::<Vec<_>>(),
        "borrowed_from": entry.borrowed.iter().map(|of| of.job.as_str()).collect::<Vec<_>>(),
        "checkpoints": rows.iter().map(row_json).collect::<Vec<_>>(),
    });
    if history {
        value["history"] = entry.outcomes.iter().map(outcome_json).collect();
    }
    value
}

fn row_json(row: &Row) -> Value {
    let mut value = match &row.read {
        Ok(checkpoint) => checkpoint_json(checkpoint),
        Err(error) => json!({ "error": error.to_string() }),
    };
    if let Some(reference) = &row.reference {
        value["id"] = reference.id.0.into();
        value["epoch"] = reference.epoch.into();
        value["location"] = reference.location.clone().into();
    }
    value["savepoints"] = row.names.clone().into();
    value["resumes"] = row.resumes.into();
    value
}

/// What is told of a checkpoint everywhere.
pub(crate) fn checkpoint_json(checkpoint: &Checkpoint) -> Value {
    let costs = checkpoint.costs();
    let savepoint = match &checkpoint.kind {
        CheckpointKind::Checkpoint => None,
        CheckpointKind::Savepoint(name) => Some(name.as_str()),
    };
    json!({
        "id": checkpoint.id.0,
        "epoch": checkpoint.epoch,
        "job": checkpoint.job,
        "kind": if savepoint.is_some() { "savepoint" } else { "checkpoint" },
        "mode": checkpoint.mode.to_string(),
        "taken_as_savepoint": savepoint,
        "triggered_unix_ms": checkpoint.triggered_unix_ms,
        "completed_unix_ms": checkpoint.completed_unix_ms,
        "duration_ms": checkpoint.completed_unix_ms.saturating_sub(checkpoint.triggered_unix_ms),
        "pause_ns": costs.pause_ns,
        "bytes_new": costs.bytes_new,
        "bytes_total": costs.bytes_total,
        "records_new": costs.records_new,
        "shards": checkpoint.shards.len(),
    })
}

fn outcome_json(outcome: &Outcome) -> Value {
    json!({
        "id": outcome.id.0,
        "epoch": outcome.epoch,
        "kind": kind_text(&outcome.kind, SnapshotMode::Incremental),
        "mode": outcome.mode.to_string(),
        "triggered_unix_ms": outcome.triggered_unix_ms,
        "duration_ms": outcome.duration_ms,
        "pause_ns": outcome.pause_ns,
        "bytes_new": outcome.bytes_new,
        "bytes_total": outcome.bytes_total,
        "failure": outcome.failure,
    })
}
