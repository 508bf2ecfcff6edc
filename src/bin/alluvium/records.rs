//! `get`, `scan`, `diff`: the records themselves.

use alluvium::codec::Schema;
use alluvium::codec::dynamic::{DynamicCodec, unhex};
use alluvium::format::OperatorStateMode;
use alluvium::savepoint::OperatorReader;
use alluvium::savepoint::diff::{Change, Differences, Stored, diff as differ};
use alluvium::savepoint::states::{Part, Record, StateScan};
use alluvium::{Error, KeyGroup, KeyGroupRange, StateKind};
use serde_json::{Value, json};

use crate::args::{Diff, Get, OfState, Scan};
use crate::canonical;
use crate::decode::{Decoder, Which, note_unknown};
use crate::failure::{DAMAGED, Failure, NO_SUCH_KEY};
use crate::out::{self, Out, Table, compact};
use crate::store::{Access, Chosen, choose, choose_of, named, open_job};

pub(crate) fn get(args: &Get, out: &mut Out) -> Result<u8, Failure> {
    let chosen = choose(&args.at, Access::Read)?;
    let operator = open_operator(&chosen, &args.of)?;
    let name = &args.of.state;
    if let Some(state) = operator.operator_states().iter().find(|state| state.name == *name) {
        let Some(schema) = &state.key_schema else {
            return Err(Error::invalid("a list of an operator has no keys")
                .at(format_args!("state {name:?}"))
                .remedy("use `alluvium scan`")
                .into());
        };
        let key =
            bytes_of(&DynamicCodec::of(schema), args.key.as_deref(), args.key_hex.as_deref())?;
        let mut found = 0;
        show_items(&operator, name, Some(&key), args.of.full, out, &mut |_| {
            found += 1;
            true
        })?;
        return Ok(if found == 0 { no_such_key() } else { 0 });
    }
    let state = operator.state(name)?;
    let mut decoder = Decoder::of(state, args.of.full);
    let key = bytes_of(&decoder.key, args.key.as_deref(), args.key_hex.as_deref())?;
    let has_namespaces = &*state.namespace_schema.id().name != "unit";
    let namespace = match (&args.namespace, &args.namespace_hex) {
        (None, None) => (!has_namespaces).then(Vec::new),
        (text, hex) => Some(bytes_of(&decoder.namespace, text.as_deref(), hex.as_deref())?),
    };
    let group = args.group.map(KeyGroup);
    let mut scan = operator.get(name, &key, namespace.as_deref(), group)?;
    let mut found = 0u64;
    while let Some(record) = scan.next()? {
        found += 1;
        show(&record, &mut decoder, out)?;
    }
    if found == 0 {
        return Ok(no_such_key());
    }
    Ok(code_of(&decoder))
}

fn no_such_key() -> u8 {
    out::note(
        "there is no such key in the key group that its hash says; if the runtime chooses groups itself, give --group",
    );
    NO_SUCH_KEY
}

/// The bytes that a person gave in one of two ways.
fn bytes_of(
    codec: &DynamicCodec,
    text: Option<&str>,
    hex: Option<&str>,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    match (text, hex) {
        (_, Some(hex)) => bytes = unhex(hex)?,
        (Some(text), None) => codec.parse(text, &mut bytes)?,
        (None, None) => {}
    }
    Ok(bytes)
}

fn open_operator(chosen: &Chosen, of: &OfState) -> Result<OperatorReader, Failure> {
    let name = chosen.operator_name(of.operator.as_deref())?;
    Ok(chosen.reader().show_expired(of.expired).operator(&name)?)
}

pub(crate) fn scan(args: &Scan, out: &mut Out) -> Result<u8, Failure> {
    if let Some(savepoint) = canonical::open_if_meant(&args.at)? {
        return canonical::scan(savepoint, args, out);
    }
    let chosen = choose(&args.at, Access::Read)?;
    let operator = open_operator(&chosen, &args.of)?;
    let name = &args.of.state;
    let limit = args.limit.unwrap_or(u64::MAX);
    if operator.operator_states().iter().any(|state| state.name == *name) {
        if args.groups.is_some() || args.prefix.is_some() || args.prefix_hex.is_some() {
            return Err(Error::invalid(
                "an operator state has no key groups, and no order of keys",
            )
            .at(format_args!("state {name:?}"))
            .remedy("leave --groups and --prefix out")
            .into());
        }
        let mut shown = 0;
        show_items(&operator, name, None, args.of.full, out, &mut |_| {
            shown += 1;
            shown < limit
        })?;
        return Ok(0);
    }
    let groups = match &args.groups {
        Some(text) => parse_groups(text)?,
        None => operator.max_parallelism().all_groups(),
    };
    let prefix = prefix_of(args)?;
    let mut decoder = Decoder::of(operator.state(name)?, args.of.full);
    let mut scan: StateScan = operator.scan(name, groups)?;
    let mut shown = 0;
    while shown < limit {
        let Some(record) = scan.next()? else { break };
        if record.key.starts_with(&prefix) {
            show(&record, &mut decoder, out)?;
            shown += 1;
        }
    }
    Ok(code_of(&decoder))
}

/// The bytes that keys are to begin with.
pub(crate) fn prefix_of(args: &Scan) -> Result<Vec<u8>, Failure> {
    Ok(match (&args.prefix, &args.prefix_hex) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(hex)) => unhex(hex)?,
        (None, None) => Vec::new(),
    })
}

pub(crate) fn parse_groups(text: &str) -> Result<KeyGroupRange, Failure> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let numbers = first.trim().parse().ok().zip(last.trim().parse().ok());
    let Some((first, last)) = numbers else {
        return Err(Error::invalid("not a range of key groups")
            .expected("A-B, such as 0-63")
            .found(format_args!("{text:?}"))
            .into());
    };
    Ok(KeyGroupRange::new(KeyGroup(first), KeyGroup(last))?)
}

/// Damage does not stop a scan, and is not passed over either.
pub(crate) fn code_of(decoder: &Decoder) -> u8 {
    if decoder.misfits == 0 {
        return 0;
    }
    out::note(format!("{} stored values do not fit their schemas", decoder.misfits));
    DAMAGED
}

pub(crate) fn show(
    record: &Record<'_>,
    decoder: &mut Decoder,
    out: &mut Out,
) -> Result<(), Failure> {
    let key = decoder.read(Which::Key, record.key);
    let namespace = match record.namespace {
        [] => Value::Null,
        bytes => decoder.read(Which::Namespace, bytes),
    };
    let value = match record.part {
        Part::Timer(_) => Value::Null,
        _ => decoder.read(Which::Value(record.schema), record.value),
    };
    let map_key = match record.part {
        Part::Entry(entry) => Some(decoder.read(Which::MapKey, entry)),
        _ => None,
    };
    if out.is_json() {
        let mut line = json!({ "group": record.group.0, "key": key });
        if !namespace.is_null() {
            line["namespace"] = namespace;
        }
        match record.part {
            Part::Whole => {}
            Part::Element(place) => line["element"] = place.into(),
            Part::Entry(_) => line["map_key"] = map_key.unwrap_or_default(),
            Part::Timer(time) => line["timer_ms"] = time.into(),
        }
        if !matches!(record.part, Part::Timer(_)) {
            line["value"] = value;
        }
        if let Some(written) = record.written_ms {
            line["written_ms"] = written.into();
        }
        if record.is_expired {
            line["expired"] = true.into();
        }
        return out.json_line(&line);
    }
    let mut text = place_text(record.group, &key, &namespace, decoder);
    match record.part {
        Part::Whole => {}
        Part::Element(place) => text.push_str(&format!(" #{place}")),
        Part::Entry(_) => {
            text.push_str(&format!(" {{{}}}", decoder.text(&map_key.unwrap_or_default())));
        }
        Part::Timer(time) => {
            text.push_str(&format!("  at {time} ({} UTC)", out::time_signed(time)));
        }
    }
    if !matches!(record.part, Part::Timer(_)) {
        text.push_str(&format!("  =  {}", decoder.text(&value)));
    }
    if record.is_expired {
        text.push_str("  (expired)");
    }
    out.line(text)
}

fn place_text(group: KeyGroup, key: &Value, namespace: &Value, decoder: &Decoder) -> String {
    let mut text = format!("{:>7}  {}", group.to_string(), decoder.text(key));
    if !namespace.is_null() {
        text.push_str(&format!(" in {}", decoder.text(namespace)));
    }
    text
}

/// Shows items of an operator state, those of one key if one is given.
fn show_items(
    operator: &OperatorReader,
    name: &str,
    only: Option<&[u8]>,
    full: bool,
    out: &mut Out,
    shown: &mut dyn FnMut(u64) -> bool,
) -> Result<(), Failure> {
    let summary = operator.operator_states().iter().find(|state| state.name == name);
    let schemas = summary.map(|state| state.key_schema.iter().chain(&state.value_schema));
    note_unknown(name, schemas.into_iter().flatten());
    let keys = summary.and_then(|state| state.key_schema.as_ref()).map(DynamicCodec::of);
    let is_broadcast = summary.is_some_and(|state| state.mode == OperatorStateMode::Broadcast);
    let mut failed = None;
    let mut place = 0;
    let mut last_shard = None;
    operator.visit_operator_state(name, &mut |handle, key, value, schema| {
        let first = handle.groups().first();
        if last_shard.replace(first) != Some(first) {
            place = 0;
        }
        place += 1;
        if only.is_some() && key != only {
            return Ok(true);
        }
        let groups = handle.groups();
        let key = match (&keys, key) {
            (Some(codec), Some(key)) => Some(codec.decode(key)?),
            _ => None,
        };
        let value = DynamicCodec::of(schema).decode(value)?;
        let written = if out.is_json() {
            let mut line = json!({
                "first_group": groups.first().0,
                "last_group": groups.last().0,
                "value": value,
            });
            match key {
                Some(key) => line["key"] = key,
                None => line["element"] = (place - 1).into(),
            }
            out.json_line(&line)
        } else {
            let shard = format!("shard {}-{}", groups.first().0, groups.last().0);
            let key = key.map_or_else(|| format!("#{}", place - 1), |key| compact(&key));
            let value = compact(&value);
            let value = if full { value.into() } else { out::cut(&value, 120) };
            out.line(format!("{shard:>17}  {key}  =  {value}"))
        };
        if let Err(error) = written {
            failed = Some(error);
            return Ok(false);
        }
        Ok(shown(place))
    })?;
    debug_assert!(is_broadcast || only.is_none(), "lists have no keys");
    failed.map_or(Ok(()), Err)
}

pub(crate) fn diff(args: &Diff, out: &mut Out) -> Result<u8, Failure> {
    let (_, view) = open_job(&args.of, Access::Read)?;
    let (from, to) = (named(&args.before, &view), named(&args.after, &view));
    let (_, again) = open_job(&args.of, Access::Read)?;
    let (before, after) = (choose_of(view, &from)?, choose_of(again, &to)?);
    let mut names: Vec<&str> = before.checkpoint.operators().collect();
    names.extend(after.checkpoint.operators());
    names.sort_unstable();
    names.dedup();
    if let Some(asked) = &args.operator {
        names.retain(|name| name == asked);
        if names.is_empty() {
            return Err(Error::invalid("neither checkpoint has such an operator")
                .found(format_args!("{asked:?}"))
                .into());
        }
    }
    let mut rows = Vec::new();
    for name in names {
        let has = |chosen: &Chosen| chosen.checkpoint.operators().any(|known| known == name);
        if !has(&before) || !has(&after) {
            let which = if has(&before) { &before } else { &after };
            out::note(format!("operator {name:?} is only in {}", which.title()));
            continue;
        }
        let (one, other) = (before.reader().operator(name)?, after.reader().operator(name)?);
        let mut states: Vec<String> =
            one.states().iter().chain(other.states()).map(|state| state.name.clone()).collect();
        states.sort_unstable();
        states.dedup();
        states.retain(|state| args.state.as_ref().is_none_or(|asked| asked == state));
        for state in states {
            let meta = other.state(&state).or_else(|_| one.state(&state))?;
            let mut decoder = args.records.then(|| Decoder::of(meta, args.full));
            let mut failed = None;
            let compared = differ(&one, &other, &state, &mut |change| {
                let Some(decoder) = &mut decoder else { return Ok(()) };
                let shown = show_change(name, meta.kind, &state, change, decoder, out);
                shown.map_err(|error| {
                    failed = Some(error);
                    Error::unavailable("the output could not be written")
                })
            });
            let found = match (failed, compared) {
                (Some(error), _) => return Err(error),
                (None, compared) => compared?,
            };
            rows.push((name.to_owned(), state, found));
        }
    }
    if rows.is_empty() {
        return Err(Error::invalid("there is no such state to compare")
            .found(format_args!("{:?}", args.state))
            .into());
    }
    if !out.is_json() {
        if args.records && rows.iter().any(|(_, _, found)| !found.is_empty()) {
            out.line("")?;
        }
        out.line(format!("from {} to {}", before.title(), after.title()))?;
        let mut table = Table::new(&[
            "OPERATOR",
            "STATE",
            ">ADDED",
            ">REMOVED",
            ">CHANGED",
            ">SAME, READ",
            ">KEY GROUPS OF SAME FILES",
        ]);
        for (operator, state, found) in &rows {
            table.row([
                format!("{operator:?}"),
                format!("{state:?}"),
                out::count(found.added),
                out::count(found.removed),
                out::count(found.changed),
                out::count(found.same),
                out::count(u64::from(found.groups_skipped)),
            ]);
        }
        out.table(&table)?;
        return Ok(0);
    }
    let states = rows.iter().map(|(operator, state, found)| counts_json(operator, state, found));
    let value = json!({
        "before": before.checkpoint.id.0,
        "after": after.checkpoint.id.0,
        "states": states.collect::<Vec<_>>(),
    });
    if args.records {
        out.json_line(&value)?
    } else {
        out.json(&value)?
    }
    Ok(0)
}

fn counts_json(operator: &str, state: &str, found: &Differences) -> Value {
    json!({
        "operator": operator,
        "state": state,
        "added": found.added,
        "removed": found.removed,
        "changed": found.changed,
        "same_read": found.same,
        "groups_skipped": found.groups_skipped,
    })
}

fn show_change(
    operator: &str,
    kind: StateKind,
    state: &str,
    change: &Change<'_>,
    decoder: &mut Decoder,
    out: &mut Out,
) -> Result<(), Failure> {
    let key = decoder.read(Which::Key, change.key);
    let namespace = match change.namespace {
        [] => Value::Null,
        bytes => decoder.read(Which::Namespace, bytes),
    };
    let map_key = change.entry.map(|entry| decoder.read(Which::MapKey, entry));
    let mut read = |stored: &[Stored]| -> Option<Value> {
        let mut one = |(schema, value): &(Schema, Vec<u8>)| match kind {
            StateKind::Timers => Value::Null,
            _ => decoder.read(Which::Value(schema), value),
        };
        match (kind, stored) {
            (_, []) => None,
            (StateKind::List, all) => Some(all.iter().map(one).collect()),
            (_, [first, ..]) => Some(one(first)),
        }
    };
    let (before, after) = (read(change.before), read(change.after));
    let what = match (&before, &after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    if out.is_json() {
        let mut line = json!({
            "change": what,
            "operator": operator,
            "state": state,
            "group": change.group.0,
            "key": key,
        });
        if !namespace.is_null() {
            line["namespace"] = namespace;
        }
        for (field, value) in [
            ("map_key", map_key),
            ("timer_ms", change.time.map(Value::from)),
            ("before", before.filter(|_| kind != StateKind::Timers)),
            ("after", after.filter(|_| kind != StateKind::Timers)),
        ] {
            if let Some(value) = value {
                line[field] = value;
            }
        }
        return out.json_line(&line);
    }
    let sign = match what {
        "added" => '+',
        "removed" => '-',
        _ => '~',
    };
    let place = place_text(change.group, &key, &namespace, decoder);
    let mut text = format!("{sign} {state:?} {}", place.trim_start());
    if let Some(map_key) = &map_key {
        text.push_str(&format!(" {{{}}}", decoder.text(map_key)));
    }
    match (change.time, &before, &after) {
        (Some(time), ..) => {
            text.push_str(&format!("  at {time} ({} UTC)", out::time_signed(time)));
        }
        (None, Some(before), Some(after)) => {
            text.push_str(&format!("  =  {}  ->  {}", decoder.text(before), decoder.text(after)));
        }
        (None, Some(value), None) | (None, None, Some(value)) => {
            text.push_str(&format!("  =  {}", decoder.text(value)));
        }
        (None, None, None) => {}
    }
    out.line(text)
}
