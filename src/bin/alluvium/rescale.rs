//! `rescale`: what each subtask would read if an operator ran on another number of them.
//!
//! Restoring a checkpoint on another number of shards needs nothing to be written: each
//! takes the slices of tables that hold its key groups. This says which those are.

use std::collections::BTreeMap;

use alluvium::KeyGroupRange;
use alluvium::format::OperatorStateMode;
use alluvium::savepoint::states::open_table;
use alluvium::table::TableReader;
use serde_json::{Value, json};

use crate::args::Rescale;
use crate::failure::Failure;
use crate::out::{self, Out, Table};
use crate::store::{Access, choose};

/// What one subtask reads.
struct Share {
    groups: KeyGroupRange,
    bytes: u64,
    /// Bytes of each file, and of what it reads of it.
    files: BTreeMap<String, (u64, u64)>,
    /// Old shards of which it has key groups.
    old: usize,
}

pub(crate) fn run(args: &Rescale, out: &mut Out) -> Result<u8, Failure> {
    let chosen = choose(&args.at, Access::Read)?;
    let name = chosen.operator_name(args.operator.as_deref())?;
    let operator = chosen.reader().operator(&name)?;
    let max = operator.max_parallelism();
    let mut shares = Vec::new();
    for index in 0..args.to.max(1) {
        let groups = max.range_of_subtask(index, args.to)?;
        let takes =
            |range: &&alluvium::SnapshotHandle| range.groups().intersection(groups).is_some();
        let old = operator.handles().iter().filter(takes).count();
        shares.push(Share { groups, bytes: 0, files: BTreeMap::new(), old });
    }
    let bar = out::progress(None, "tables looked at:");
    for handle in operator.handles() {
        for table in operator.manifest(handle)?.tables {
            let reader = open_table(&**operator.source(), &table)?;
            bar.inc(1);
            for share in &mut shares {
                let Some(slice) = table.slice.intersection(share.groups) else { continue };
                let bytes = bytes_in(&reader, slice, &table.dropped)?;
                share.bytes += bytes;
                share.files.entry(table.location.clone()).or_insert((table.meta.bytes, 0)).1 +=
                    bytes;
            }
        }
    }
    bar.finish_and_clear();
    let total: u64 = shares.iter().map(|share| share.bytes).sum();
    let most = shares.iter().map(|share| share.bytes).max().unwrap_or(0);
    let mean = total as f64 / shares.len() as f64;
    let skew = if total == 0 { 1.0 } else { most as f64 / mean };
    if out.is_json() {
        let subtasks: Vec<Value> = shares.iter().enumerate().map(share_json).collect();
        out.json(&json!({
            "checkpoint": chosen.checkpoint.id.0,
            "operator": name,
            "max_parallelism": max.get(),
            "from": operator.handles().len(),
            "to": args.to,
            "bytes": total,
            "largest_over_mean": skew,
            "subtasks": subtasks,
        }))?;
        return Ok(0);
    }
    out.line(format!(
        "operator {name:?} of {}: from {} to {} subtasks, {max} key groups",
        chosen.title(),
        operator.handles().len(),
        args.to
    ))?;
    out.line("")?;
    let mut table = Table::new(&[
        ">SUBTASK",
        ">KEY GROUPS",
        ">READS",
        ">SHARE",
        ">FILES",
        ">OF OLD SHARDS",
        "",
    ]);
    for (index, share) in shares.iter().enumerate() {
        let part = if total == 0 { 0.0 } else { share.bytes as f64 / total as f64 };
        let bar = if most == 0 { 0.0 } else { share.bytes as f64 / most as f64 };
        table.row([
            index.to_string(),
            format!("{}-{}", share.groups.first().0, share.groups.last().0),
            out::bytes(share.bytes),
            format!("{:.1}%", 100.0 * part),
            share.files.len().to_string(),
            share.old.to_string(),
            "█".repeat((bar * 30.0).ceil() as usize),
        ]);
    }
    out.table(&table)?;
    if args.files {
        for (index, share) in shares.iter().enumerate() {
            out.line("")?;
            let mut table = Table::new(&[">READS", ">OF BYTES", "FILE"]);
            for (location, (bytes, read)) in &share.files {
                table.row([out::count(*read), out::count(*bytes), location.clone()]);
            }
            out.line(format!("subtask {index}"))?;
            out.table(&table)?;
        }
    }
    out.line("")?;
    out.line(format!(
        "{} in all; the largest share is {skew:.2} times the mean",
        out::bytes(total)
    ))?;
    for state in operator.operator_states() {
        let way = match state.mode {
            OperatorStateMode::List => "is divided evenly",
            OperatorStateMode::UnionList => "goes whole to each subtask",
            OperatorStateMode::Broadcast => "goes to each subtask",
            _ => "is distributed in a way that is not known here",
        };
        out.line(format!("operator state {:?}, {}, {way}", state.name, out::bytes(state.bytes)))?;
    }
    out.line("there is nothing to write: restore the checkpoint on that many shards")?;
    Ok(0)
}

/// Stored bytes of the blocks that hold records of these groups which count.
fn bytes_in(
    table: &TableReader,
    groups: KeyGroupRange,
    dropped: &[String],
) -> Result<u64, Failure> {
    let index = table.index()?;
    let mut bytes = 0;
    for (ordinal, state) in table.states().iter().enumerate() {
        if dropped.contains(&state.name) {
            continue;
        }
        for block in index.blocks_of_groups(ordinal as u16, groups)? {
            bytes += index.block(block)?.frame_bytes();
        }
    }
    Ok(bytes)
}

fn share_json((index, share): (usize, &Share)) -> Value {
    let files = share.files.iter().map(
        |(location, (bytes, read))| json!({ "location": location, "bytes": bytes, "reads": read }),
    );
    json!({
        "subtask": index,
        "first_group": share.groups.first().0,
        "last_group": share.groups.last().0,
        "bytes": share.bytes,
        "old_shards": share.old,
        "files": files.collect::<Vec<_>>(),
    })
}
