//! `show`: one checkpoint, from the outside in.

use alluvium::codec::dynamic::hex;
use alluvium::env::{Env, RealEnv};
use alluvium::format::{CheckpointKind, Manifest, ShardPart};
use serde_json::{Value, json};

use crate::args::Show;
use crate::canonical;
use crate::failure::Failure;
use crate::list::checkpoint_json;
use crate::out::{self, Out, Table};
use crate::states::{count_of, state_json};
use crate::store::{Access, choose, groups_of};

/// Most bytes of the runtime's data that people are shown.
const DATA_SHOWN_BYTES: usize = 256;

pub(crate) fn run(args: &Show, out: &mut Out) -> Result<u8, Failure> {
    if let Some(savepoint) = canonical::open_if_meant(&args.at)? {
        return canonical::show(savepoint, out);
    }
    let chosen = choose(&args.at, Access::Read)?;
    let checkpoint = &chosen.checkpoint;
    let reader = chosen.reader();
    let mut operators = Vec::new();
    let now = RealEnv::new().unix_time_ms();
    if !out.is_json() {
        let costs = checkpoint.costs();
        out.line(chosen.title())?;
        if let CheckpointKind::Savepoint(name) = &checkpoint.kind {
            out.line(format!("  taken as savepoint {name}"))?;
        }
        out.line(format!(
            "  completed {} UTC, {} ago, in epoch {}; it took {}, and a pause of {} at most",
            out::time(checkpoint.completed_unix_ms),
            out::age(checkpoint.completed_unix_ms, now),
            checkpoint.epoch,
            out::duration_ms(
                checkpoint.completed_unix_ms.saturating_sub(checkpoint.triggered_unix_ms)
            ),
            out::duration_ns(costs.pause_ns),
        ))?;
        out.line(format!(
            "  {}; {} in all, of which {} were new",
            checkpoint.mode,
            out::bytes(costs.bytes_total),
            out::bytes(costs.bytes_new)
        ))?;
        match &*checkpoint.runtime {
            [] => {}
            data => out.line(format!("  runtime data: {}", data_text(data)))?,
        }
    }
    for name in checkpoint.operators() {
        let operator = reader.operator(name)?;
        let mut shards = Vec::new();
        let mut table = Table::new(&[
            ">SHARD",
            ">KEY GROUPS",
            ">SNAPSHOT",
            "WATERMARK (UTC)",
            ">PAUSE",
            ">DURATION",
            ">NEW",
            ">TOTAL",
            ">TABLES",
            ">RECORDS",
            "DATA",
        ]);
        let of_operator = checkpoint.shards.iter().filter(|part| part.handle.operator() == name);
        for (number, part) in of_operator.enumerate() {
            let manifest = reader.manifest(&part.handle)?;
            if out.is_json() {
                shards.push(shard_json(part, &manifest));
                continue;
            }
            let records: u64 = manifest.tables.iter().map(|table| table.meta.records).sum();
            table.row([
                number.to_string(),
                groups_of(&part.handle),
                part.handle.snapshot().to_string(),
                manifest.watermark.map_or_else(|| "none".to_owned(), out::time_signed),
                out::duration_ns(part.costs.pause_ns),
                out::duration_ns(part.costs.duration_ns),
                out::bytes(part.costs.bytes_new),
                out::bytes(part.costs.bytes_total),
                manifest.tables.len().to_string(),
                out::count(records),
                match &*manifest.user_meta {
                    [] => String::new(),
                    data => out::cut(&data_text(data), 40).into_owned(),
                },
            ]);
        }
        let counted = count_of(&operator)?;
        if out.is_json() {
            let states: Vec<_> = operator
                .states()
                .iter()
                .map(|state| state_json(state, counted.get(&state.name)))
                .collect();
            let others = operator.operator_states().iter();
            operators.push(json!({
                "operator": name,
                "max_parallelism": operator.max_parallelism().get(),
                "shards": shards,
                "states": states,
                "operator_states": others.map(crate::states::operator_state_json).collect::<Vec<_>>(),
            }));
            continue;
        }
        out.line("")?;
        out.line(format!(
            "operator {name:?}, {} on {}",
            out::many(operator.max_parallelism().get().into(), "key group"),
            out::many(operator.handles().len() as u64, "shard")
        ))?;
        out.table(&table)?;
        out.line("")?;
        crate::states::print(&operator, &counted, out)?;
    }
    if out.is_json() {
        let mut value = checkpoint_json(checkpoint);
        value["runtime_data"] = data_json(&checkpoint.runtime);
        value["operators"] = operators.into();
        out.json(&value)?;
    }
    Ok(0)
}

fn shard_json(part: &ShardPart, manifest: &Manifest) -> Value {
    json!({
        "first_group": part.handle.groups().first().0,
        "last_group": part.handle.groups().last().0,
        "snapshot": part.handle.snapshot().0,
        "manifest": part.handle.manifest(),
        "store": part.handle.store(),
        "watermark": manifest.watermark,
        "created_unix_ms": manifest.created_unix_ms,
        "pause_ns": part.costs.pause_ns,
        "duration_ns": part.costs.duration_ns,
        "bytes_new": part.costs.bytes_new,
        "bytes_total": part.costs.bytes_total,
        "records_new": part.costs.records_new,
        "tables": manifest.tables.len(),
        "records": manifest.tables.iter().map(|table| table.meta.records).sum::<u64>(),
        "data": data_json(&manifest.user_meta),
    })
}

/// Bytes that mean something to the runtime: as text if they are one.
pub(crate) fn data_text(data: &[u8]) -> String {
    let shown = &data[..data.len().min(DATA_SHOWN_BYTES)];
    let mut text = match std::str::from_utf8(shown) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}"),
        _ => hex(shown),
    };
    if shown.len() < data.len() {
        text.push_str(&format!("… ({} bytes)", data.len()));
    }
    text
}

pub(crate) fn data_json(data: &[u8]) -> Value {
    json!({ "bytes": data.len(), "hex": hex(data), "text": std::str::from_utf8(data).ok() })
}
