//! `states`: what each state is, and how much there is of it.

use std::collections::BTreeMap;

use alluvium::codec::Schema;
use alluvium::format::{OperatorStateMode, StateKind, StateMeta};
use alluvium::savepoint::OperatorReader;
use alluvium::savepoint::states::{OperatorStateSummary, open_table};
use alluvium::{Error, KeyGroup, KeyGroupRange, TimeDomain};
use serde_json::{Value, json};

use crate::args::States;
use crate::canonical;
use crate::failure::Failure;
use crate::out::{self, Out, Table};
use crate::store::{Access, choose};

/// Most rows of a picture of key groups.
const ROWS: usize = 32;

/// A state in the tables of a checkpoint, by their properties. Of a table that a shard
/// shares with others all is counted in each, so sums may be too high after a rescale.
#[derive(Clone, Default, Debug)]
pub(crate) struct Counted {
    pub(crate) tables: u64,
    pub(crate) records: u64,
    pub(crate) tombstones: u64,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    /// Whether it is counted by whole tables of which only a part belongs here.
    pub(crate) at_most: bool,
    /// Stored bytes of blocks, by key group; filled only if asked for.
    pub(crate) groups: Vec<f64>,
}

pub(crate) fn run(args: &States, out: &mut Out) -> Result<u8, Failure> {
    if let Some(savepoint) = canonical::open_if_meant(&args.at)? {
        if args.key_groups {
            return Err(Error::invalid("a canonical savepoint has no key groups")
                .at(&args.at.of.store)
                .remedy("leave --key-groups out, or import it first")
                .into());
        }
        return canonical::states(savepoint, args.operator.as_deref(), out);
    }
    let chosen = choose(&args.at, Access::Read)?;
    let reader = chosen.reader();
    let names: Vec<String> = match &args.operator {
        Some(name) => vec![name.clone()],
        None => chosen.checkpoint.operators().map(str::to_owned).collect(),
    };
    let mut shown = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let operator = reader.operator(name)?;
        let counted = count(&operator, args.key_groups)?;
        if out.is_json() {
            let states = operator.states().iter().map(|state| {
                let mut value = state_json(state, counted.get(&state.name));
                if args.key_groups {
                    let groups = counted.get(&state.name).map(|counted| &counted.groups);
                    let bytes = groups.map(|all| all.iter().map(|b| *b as u64).collect::<Vec<_>>());
                    value["bytes_by_key_group"] = bytes.unwrap_or_default().into();
                }
                value
            });
            let others = operator.operator_states().iter().map(operator_state_json);
            shown.push(json!({
                "operator": name,
                "states": states.collect::<Vec<_>>(),
                "operator_states": others.collect::<Vec<_>>(),
            }));
            continue;
        }
        if number > 0 {
            out.line("")?;
        }
        out.line(format!("operator {name:?}"))?;
        print(&operator, &counted, out)?;
        if args.key_groups {
            for state in operator.states() {
                if let Some(counted) = counted.get(&state.name) {
                    out.line("")?;
                    out.line(format!("  {:?} by key group", state.name))?;
                    print_groups(&counted.groups, out)?;
                }
            }
        }
    }
    if out.is_json() {
        out.json(&json!({ "checkpoint": chosen.checkpoint.id.0, "operators": shown }))?;
    }
    Ok(0)
}

/// The states of an operator, counted.
pub(crate) fn count_of(operator: &OperatorReader) -> Result<BTreeMap<String, Counted>, Failure> {
    count(operator, false)
}

fn count(operator: &OperatorReader, by_group: bool) -> Result<BTreeMap<String, Counted>, Failure> {
    let mut counted: BTreeMap<String, Counted> = BTreeMap::new();
    let bar = out::progress(None, "tables read:");
    for handle in operator.handles() {
        for table in operator.manifest(handle)?.tables {
            let reader = open_table(&**operator.source(), &table)?;
            bar.inc(1);
            for (ordinal, state) in reader.states().iter().enumerate() {
                if table.dropped.contains(&state.name) {
                    continue;
                }
                let sum = counted.entry(state.name.clone()).or_default();
                sum.tables += 1;
                sum.records += state.records;
                sum.tombstones += state.tombstones;
                sum.key_bytes += state.key_bytes + state.namespace_bytes;
                sum.value_bytes += state.value_bytes;
                sum.at_most |= table.slice != reader.groups();
                if !by_group {
                    continue;
                }
                sum.groups.resize(operator.max_parallelism().get() as usize, 0.0);
                let index = reader.index()?;
                for block in index.blocks_of_groups(ordinal as u16, table.slice)? {
                    let block = index.block(block)?;
                    let Some(groups) = KeyGroupRange::new(block.first_group, block.last_group)
                        .ok()
                        .and_then(|groups| groups.intersection(table.slice))
                    else {
                        continue;
                    };
                    // A block of several groups is divided evenly.
                    let all = u32::from(block.last_group.0 - block.first_group.0) + 1;
                    let each = block.frame_bytes() as f64 / f64::from(all);
                    groups.iter().for_each(|KeyGroup(at)| sum.groups[usize::from(at)] += each);
                }
            }
        }
    }
    bar.finish_and_clear();
    Ok(counted)
}

/// The states of an operator as tables.
pub(crate) fn print(
    operator: &OperatorReader,
    counted: &BTreeMap<String, Counted>,
    out: &mut Out,
) -> Result<(), Failure> {
    if !operator.states().is_empty() {
        let mut table = Table::new(&[
            "STATE",
            "KIND",
            "KEY",
            "NAMESPACE",
            "VALUE",
            "LIVES",
            ">TABLES",
            ">RECORDS",
            ">TOMBSTONES",
            ">KEYS",
            ">VALUES",
        ]);
        for state in operator.states() {
            let none = Counted::default();
            let counted = counted.get(&state.name).unwrap_or(&none);
            let most = if counted.at_most { "≤ " } else { "" };
            table.row([
                format!("{:?}", state.name),
                kind_text(state.kind).to_owned(),
                state.key_schema.to_string(),
                state.namespace_schema.to_string(),
                value_text(state),
                lives_text(state),
                out::count(counted.tables),
                format!("{most}{}", out::count(counted.records)),
                format!("{most}{}", out::count(counted.tombstones)),
                out::bytes(counted.key_bytes),
                out::bytes(counted.value_bytes),
            ]);
        }
        out.table(&table)?;
    }
    if !operator.operator_states().is_empty() {
        if !operator.states().is_empty() {
            out.line("")?;
        }
        let mut table =
            Table::new(&["OPERATOR STATE", "MODE", "KEY", "VALUE", ">SHARDS", ">ITEMS", ">BYTES"]);
        for state in operator.operator_states() {
            table.row([
                format!("{:?}", state.name),
                state.mode.to_string(),
                state.key_schema.as_ref().map_or_else(String::new, Schema::to_string),
                state.value_schema.as_ref().map_or_else(String::new, Schema::to_string),
                state.shards.to_string(),
                out::count(items_of(state)),
                out::bytes(state.bytes),
            ]);
        }
        out.table(&table)?;
    }
    Ok(())
}

fn print_groups(groups: &[f64], out: &mut Out) -> Result<(), Failure> {
    const WIDE: f64 = 40.0;
    let step = groups.len().div_ceil(ROWS).max(1);
    let sums: Vec<f64> = groups.chunks(step).map(|chunk| chunk.iter().sum()).collect();
    let most = sums.iter().copied().fold(0.0, f64::max).max(1.0);
    let mut table = Table::new(&[">KEY GROUPS", ">BYTES", ""]);
    for (at, sum) in sums.iter().enumerate() {
        let first = at * step;
        let last = (first + step).min(groups.len()) - 1;
        let range = if first == last { format!("{first}") } else { format!("{first}-{last}") };
        let bar = "█".repeat((sum / most * WIDE).ceil() as usize);
        table.row([range, out::bytes(*sum as u64), bar]);
    }
    out.table(&table)
}

/// In a broadcast state a key and its value are one.
fn items_of(state: &OperatorStateSummary) -> u64 {
    match state.mode {
        OperatorStateMode::Broadcast => state.items / 2,
        _ => state.items,
    }
}

/// What kind of state it is, in a word.
pub(crate) fn kind_text(kind: StateKind) -> &'static str {
    match kind {
        StateKind::Value => "value",
        StateKind::List => "list",
        StateKind::Map => "map",
        StateKind::Reducing => "reducing",
        StateKind::Aggregating => "aggregating",
        StateKind::Timers => "timers",
        _ => "unknown",
    }
}

/// What the values of a state are, and the keys of a map.
pub(crate) fn value_text(state: &StateMeta) -> String {
    let older = match state.older_value_schemas.len() {
        0 => String::new(),
        older => format!(" (and {older} older)"),
    };
    match (&state.map_key_schema, state.kind) {
        (_, StateKind::Timers) => timers_text(state),
        (Some(key), _) => format!("{key} => {}{older}", state.value_schema),
        (None, _) => format!("{}{older}", state.value_schema),
    }
}

/// How long a state keeps what it has.
pub(crate) fn lives_text(state: &StateMeta) -> String {
    state.ttl.map_or_else(
        || "for ever".to_owned(),
        |ttl| format!("{}, {}", out::duration_ms(ttl.duration_ms), time_text(ttl.time)),
    )
}

/// How long a state keeps what it has, for scripts.
pub(crate) fn ttl_json(state: &StateMeta) -> Option<Value> {
    state.ttl.map(|ttl| {
        json!({
            "time": time_text(ttl.time),
            "duration_ms": ttl.duration_ms,
            "since_ms": ttl.since_ms,
        })
    })
}

/// How an operator state is distributed, for scripts.
pub(crate) fn mode_text(mode: OperatorStateMode) -> &'static str {
    match mode {
        OperatorStateMode::List => "list",
        OperatorStateMode::UnionList => "union",
        OperatorStateMode::Broadcast => "broadcast",
        _ => "unknown",
    }
}

fn timers_text(state: &StateMeta) -> String {
    let codec = state.value_schema.to_string();
    codec.strip_prefix("timers.").map_or(codec.clone(), |time| time.replace('_', " "))
}

fn time_text(time: TimeDomain) -> &'static str {
    match time {
        TimeDomain::Event => "event time",
        TimeDomain::Processing => "processing time",
    }
}

pub(crate) fn schema_json(schema: &Schema) -> Value {
    json!({
        "codec": schema.id().to_string(),
        "fingerprint": format!("{:016x}", schema.fingerprint()),
        "detail_bytes": schema.detail().len(),
    })
}

/// A keyed state for scripts.
pub(crate) fn state_json(state: &StateMeta, counted: Option<&Counted>) -> Value {
    let none = Counted::default();
    let counted = counted.unwrap_or(&none);
    json!({
        "state": state.name,
        "kind": kind_text(state.kind),
        "key": schema_json(&state.key_schema),
        "namespace": schema_json(&state.namespace_schema),
        "map_key": state.map_key_schema.as_ref().map(schema_json),
        "value": schema_json(&state.value_schema),
        "older_values": state.older_value_schemas.iter().map(schema_json).collect::<Vec<_>>(),
        "ttl": ttl_json(state),
        "tables": counted.tables,
        "records": counted.records,
        "tombstones": counted.tombstones,
        "key_bytes": counted.key_bytes,
        "value_bytes": counted.value_bytes,
        "counts_are_upper_bounds": counted.at_most,
    })
}

/// An operator state for scripts.
pub(crate) fn operator_state_json(state: &OperatorStateSummary) -> Value {
    json!({
        "state": state.name,
        "mode": mode_text(state.mode),
        "key": state.key_schema.as_ref().map(schema_json),
        "value": state.value_schema.as_ref().map(schema_json),
        "shards": state.shards,
        "items": items_of(state),
        "bytes": state.bytes,
    })
}
