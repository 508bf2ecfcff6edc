//! Canonical savepoints for the verbs that read.

use std::io::BufRead;
use std::path::Path;

use alluvium::base::hash::{group_of_hash, hash_key};
use alluvium::codec::Schema;
use alluvium::codec::dynamic::DynamicCodec;
use alluvium::format::StateKind;
use alluvium::format::canonical::{Entry, Head, ItemsHead, Name, Section, StateHead, UNKNOWN_TIME};
use alluvium::savepoint::SavepointReader;
use alluvium::savepoint::states::{Part, Record};
use alluvium::{Error, KeyGroup, KeyGroupRange, MaxParallelism};
use serde_json::{Value, json};

use crate::args::{At, Scan};
use crate::decode::{Decoder, note_unknown};
use crate::failure::{Failure, code_of};
use crate::out::{self, Out, Table, compact};
use crate::records::{self, parse_groups, prefix_of};
use crate::scratch::{STANDARD, open_stream};
use crate::show::{data_json, data_text};
use crate::states::{kind_text, lives_text, mode_text, schema_json, ttl_json, value_text};
use crate::store::path_of;

/// A canonical savepoint, or why there is none that can be read.
pub(crate) type Opened = Result<SavepointReader<Box<dyn BufRead>>, Error>;

/// Opens what is meant, if that is a file or the standard input; `None` if it is a
/// directory, or nothing.
pub(crate) fn open_if_meant(at: &At) -> Result<Option<Opened>, Failure> {
    let text = &at.of.store;
    if crate::remote::is_remote(text) {
        return Ok(None);
    }
    let path = path_of(text)?;
    if text != STANDARD && !crate::readonly::is_file(&path) {
        return Ok(None);
    }
    if at.checkpoint.is_some() || at.savepoint.is_some() || at.of.job.is_some() {
        return Err(Error::invalid("a canonical savepoint is one, of one job")
            .at(text)
            .remedy("leave --job, --checkpoint and --savepoint out")
            .into());
    }
    let mut input = open_stream(text, &path)?;
    let head = input.fill_buf().map_err(|error| Error::io("a file could not be read", error))?;
    if let Some(magic) = head.first_chunk::<8>()
        && magic.starts_with(b"ALV")
        && magic != b"ALVCANON"
    {
        return Err(other_file(&path, magic).into());
    }
    Ok(Some(SavepointReader::open(input).map_err(|error| error.at(text))))
}

/// A file of a store is looked at with the others of that.
fn other_file(path: &Path, magic: &[u8]) -> Error {
    Error::invalid("this is a file of alluvium, and no canonical savepoint")
        .at(path.display())
        .expected("first bytes ALVCANON")
        .found(magic.escape_ascii())
        .remedy("give the directory of the store, or of the exported savepoint")
}

/// What it is called in a sentence.
pub(crate) fn title(head: &Head) -> String {
    match &*head.job {
        "" => "a canonical savepoint of a job without a name".to_owned(),
        job => format!("a canonical savepoint of job {job:?}"),
    }
}

pub(crate) fn list(savepoint: Opened, out: &mut Out) -> Result<u8, Failure> {
    let savepoint = savepoint?;
    let head = savepoint.head();
    if out.is_json() {
        out.json(&json!({ "canonical": head_json(head) }))?;
        return Ok(0);
    }
    print_head(head, out)?;
    Ok(0)
}

pub(crate) fn show(savepoint: Opened, out: &mut Out) -> Result<u8, Failure> {
    let savepoint = savepoint?;
    let head = savepoint.head();
    if out.is_json() {
        let mut value = head_json(head);
        value["runtime_data"] = data_json(&head.user_meta);
        value["operators"] = operators_json(head, None);
        out.json(&value)?;
        return Ok(0);
    }
    print_head(head, out)?;
    if !head.user_meta.is_empty() {
        out.line(format!("  runtime data: {}", data_text(&head.user_meta)))?;
    }
    print_states(head, None, out)?;
    Ok(0)
}

pub(crate) fn states(
    savepoint: Opened,
    operator: Option<&str>,
    out: &mut Out,
) -> Result<u8, Failure> {
    let savepoint = savepoint?;
    let head = savepoint.head();
    if let Some(asked) = operator {
        check_operator(head, asked)?;
    }
    if out.is_json() {
        out.json(&json!({ "canonical": true, "operators": operators_json(head, operator) }))?;
        return Ok(0);
    }
    print_states(head, operator, out)?;
    Ok(0)
}

/// Reads it to its end.
pub(crate) fn verify(savepoint: Opened, out: &mut Out) -> Result<u8, Failure> {
    let bar = out::progress(None, "entries read:");
    let mut entries = 0_u64;
    let found = savepoint.and_then(|mut savepoint| {
        while savepoint.next()?.is_some() {
            entries += 1;
            if entries.is_multiple_of(4096) {
                bar.set_position(entries);
            }
        }
        let end = savepoint.end().copied();
        let end = end.ok_or_else(|| Error::internal("a savepoint ended without an end"))?;
        Ok((title(savepoint.head()), end))
    });
    bar.finish_and_clear();
    match found {
        Ok((title, end)) => {
            if out.is_json() {
                out.json(&json!({
                    "canonical": true,
                    "whole": true,
                    "entries": end.entries,
                    "entry_bytes": end.bytes,
                    "hash": end.hash.to_string(),
                }))?;
            } else {
                out.line(format!(
                    "whole    {title}: {} entries, {}, hash {}",
                    out::count(end.entries),
                    out::bytes(end.bytes),
                    end.hash
                ))?;
                out.line("(every byte was read)")?;
            }
            Ok(0)
        }
        Err(error) => {
            if out.is_json() {
                out.json(&json!({
                    "canonical": true,
                    "whole": false,
                    "entries_read": entries,
                    "problem": { "kind": format!("{:?}", error.kind()), "error": error.to_string() },
                }))?;
            } else {
                let state = if error.is_retryable() { "UNKNOWN" } else { "DAMAGED" };
                out.line(format!("{state}  after {} entries", out::count(entries)))?;
                out.line(format!("         {error}"))?;
            }
            Ok(code_of(&error))
        }
    }
}

/// Shows the records of a keyed state, or the items of an operator state, as they come:
/// in the order of keys.
pub(crate) fn scan(savepoint: Opened, args: &Scan, out: &mut Out) -> Result<u8, Failure> {
    let mut savepoint = savepoint?;
    let head = savepoint.head().clone();
    let operator = match (&args.of.operator, &*head.operators) {
        (Some(asked), _) => {
            check_operator(&head, asked)?;
            asked.clone()
        }
        (None, [only]) => only.name.clone(),
        (None, all) => {
            let names: Vec<&str> = all.iter().map(|operator| &*operator.name).collect();
            return Err(Error::invalid("the savepoint has several operators, or none")
                .expected("--operator with one of them")
                .found(format_args!("{names:?}"))
                .into());
        }
    };
    let name = &args.of.state;
    let is_meant =
        |section: &Section<'_>| section.operator().name == operator && section.name() == name;
    let Some((wanted, section)) = head.sections().enumerate().find(|(_, of)| is_meant(of)) else {
        return Err(Error::invalid("the operator has no such state")
            .at(format_args!("operator {operator:?}"))
            .found(format_args!("{name:?}"))
            .into());
    };
    let groups = args.groups.as_deref().map(parse_groups).transpose()?;
    let filter = Filter { groups, prefix: prefix_of(args)? };
    let limit = args.limit.unwrap_or(u64::MAX);
    let mut shown = match section {
        Section::State(_, state) if state.meta.ttl.is_some() && !args.of.expired => {
            return Err(Error::invalid("a canonical savepoint does not say what has expired")
                .at(format_args!("state {name:?}"))
                .remedy("say --expired to see all that is stored")
                .into());
        }
        Section::State(of, state) => Shown::Records {
            decoder: Box::new(Decoder::of(&state.meta, args.of.full)),
            max: of.max_parallelism,
            state,
            last: None,
        },
        Section::Items(_, items) => {
            note_unknown(name, items.key_schema.iter().chain(items.parts.iter().map(|p| &p.0)));
            Shown::Items { items, full: args.of.full, place: 0 }
        }
    };
    let mut count = 0;
    while count < limit {
        let Some((number, entry)) = savepoint.next()? else { break };
        match (number as usize).cmp(&wanted) {
            std::cmp::Ordering::Less => continue,
            std::cmp::Ordering::Greater => break,
            std::cmp::Ordering::Equal => {}
        }
        count += u64::from(shown.entry(&entry, &filter, out)?);
    }
    if savepoint.end().is_none() {
        out::note("whether the rest of the savepoint is whole, `alluvium verify` says");
    }
    Ok(match &shown {
        Shown::Records { decoder, .. } => records::code_of(decoder),
        Shown::Items { .. } => 0,
    })
}

struct Filter {
    groups: Option<KeyGroupRange>,
    prefix: Vec<u8>,
}

/// Shows the entries of one section.
enum Shown<'h> {
    Records {
        decoder: Box<Decoder>,
        max: MaxParallelism,
        state: &'h StateHead,
        last: Option<Element>,
    },
    Items {
        items: &'h ItemsHead,
        full: bool,
        place: u64,
    },
}

impl Shown<'_> {
    /// Whether the entry was shown.
    fn entry(
        &mut self,
        entry: &Entry<'_>,
        filter: &Filter,
        out: &mut Out,
    ) -> Result<bool, Failure> {
        match self {
            Self::Records { decoder, max, state, last } => {
                let place = next_place(last, entry);
                let computed = || group_of_hash(hash_key(entry.key), *max);
                let group = entry.group.unwrap_or_else(computed);
                if filter.groups.is_some_and(|groups| !groups.contains(group))
                    || !entry.key.starts_with(&filter.prefix)
                {
                    return Ok(false);
                }
                let part = match (state.meta.kind, entry.name) {
                    (StateKind::List, _) => Part::Element(place),
                    (_, Name::Key(key)) => Part::Entry(key),
                    (_, Name::Time(time)) => Part::Timer(time),
                    (_, Name::None) => Part::Whole,
                };
                let schema = state.meta.value_schemas().nth(entry.schema);
                let record = Record {
                    group,
                    hash: hash_key(entry.key),
                    key: entry.key,
                    namespace: entry.namespace,
                    part,
                    value: entry.value,
                    schema: schema.unwrap_or(&state.meta.value_schema),
                    written_ms: entry.stamp.filter(|time| *time != UNKNOWN_TIME),
                    // As of when nobody said.
                    is_expired: false,
                };
                records::show(&record, decoder, out)?;
            }
            Self::Items { items, full, place } => {
                let schema = items.parts.get(entry.schema).map(|(schema, _)| schema);
                let value = decoded(schema, entry.value)?;
                let key = match entry.name {
                    Name::Key(key) => Some(decoded(items.key_schema.as_ref(), key)?),
                    _ => None,
                };
                let number = *place;
                *place += 1;
                if out.is_json() {
                    let mut line = json!({ "value": value });
                    match key {
                        Some(key) => line["key"] = key,
                        None => line["element"] = number.into(),
                    }
                    out.json_line(&line)?;
                } else {
                    let key = key.map_or_else(|| format!("#{number}"), |key| compact(&key));
                    let value = compact(&value);
                    let value = if *full { value.into() } else { out::cut(&value, 120) };
                    out.line(format!("{key}  =  {value}"))?;
                }
            }
        }
        Ok(true)
    }
}

/// Where the last element was.
struct Element {
    key: Vec<u8>,
    namespace: Vec<u8>,
    group: Option<KeyGroup>,
    place: u64,
}

/// The place of an element in its list.
fn next_place(last: &mut Option<Element>, entry: &Entry<'_>) -> u64 {
    if let Some(last) = last
        && (&*last.key, &*last.namespace, last.group) == (entry.key, entry.namespace, entry.group)
    {
        last.place += 1;
        return last.place;
    }
    let (key, namespace) = (entry.key.to_vec(), entry.namespace.to_vec());
    *last = Some(Element { key, namespace, group: entry.group, place: 0 });
    0
}

fn decoded(schema: Option<&Schema>, bytes: &[u8]) -> Result<Value, Failure> {
    match schema {
        Some(schema) => Ok(DynamicCodec::of(schema).decode(bytes)?),
        None => Err(Error::corrupt("an entry has a schema that is not known").into()),
    }
}

fn check_operator(head: &Head, asked: &str) -> Result<(), Failure> {
    if head.operators.iter().any(|operator| operator.name == asked) {
        return Ok(());
    }
    let names: Vec<&str> = head.operators.iter().map(|operator| &*operator.name).collect();
    Err(Error::invalid("the savepoint has no such operator")
        .expected(format_args!("one of {names:?}"))
        .found(format_args!("{asked:?}"))
        .into())
}

fn sums(head: &Head) -> (u64, u64) {
    let add = |(entries, bytes): (u64, u64), section: Section<'_>| {
        (entries.saturating_add(section.entries()), bytes.saturating_add(section.bytes()))
    };
    head.sections().fold((0, 0), add)
}

fn print_head(head: &Head, out: &mut Out) -> Result<(), Failure> {
    let (entries, bytes) = sums(head);
    out.line(title(head))?;
    out.line(format!(
        "  {}, {} entries, {} of keys and values, by its head",
        out::many(head.operators.len() as u64, "operator"),
        out::count(entries),
        out::bytes(bytes)
    ))
}

fn head_json(head: &Head) -> Value {
    let (entries, bytes) = sums(head);
    json!({
        "canonical": true,
        "job": head.job,
        "entries": entries,
        "entry_bytes": bytes,
        "operators": head.operators.len(),
    })
}

fn print_states(head: &Head, only: Option<&str>, out: &mut Out) -> Result<(), Failure> {
    for operator in head.operators.iter().filter(|of| only.is_none_or(|only| of.name == only)) {
        out.line("")?;
        out.line(format!(
            "operator {:?}, {}, watermark {}",
            operator.name,
            out::many(operator.max_parallelism.get().into(), "key group"),
            operator.watermark.map_or_else(|| "none".to_owned(), out::time_signed)
        ))?;
        if !operator.states.is_empty() {
            let mut table = Table::new(&[
                "STATE",
                "KIND",
                "KEY",
                "NAMESPACE",
                "VALUE",
                "LIVES",
                ">ENTRIES",
                ">BYTES",
            ]);
            for StateHead { meta, entries, bytes } in &operator.states {
                table.row([
                    format!("{:?}", meta.name),
                    kind_text(meta.kind).to_owned(),
                    meta.key_schema.to_string(),
                    meta.namespace_schema.to_string(),
                    value_text(meta),
                    lives_text(meta),
                    out::count(*entries),
                    out::bytes(*bytes),
                ]);
            }
            out.table(&table)?;
        }
        if !operator.operator_states.is_empty() {
            let mut table =
                Table::new(&["OPERATOR STATE", "MODE", "KEY", "VALUE", ">ENTRIES", ">BYTES"]);
            for items in &operator.operator_states {
                let values: Vec<String> =
                    items.parts.iter().map(|(schema, _)| schema.to_string()).collect();
                table.row([
                    format!("{:?}", items.name),
                    items.mode.to_string(),
                    items.key_schema.as_ref().map_or_else(String::new, Schema::to_string),
                    values.join(", "),
                    out::count(items.entries()),
                    out::bytes(items.bytes),
                ]);
            }
            out.table(&table)?;
        }
    }
    Ok(())
}

fn operators_json(head: &Head, only: Option<&str>) -> Value {
    let meant = head.operators.iter().filter(|of| only.is_none_or(|only| of.name == only));
    meant
        .map(|operator| {
            let states = operator.states.iter().map(|StateHead { meta, entries, bytes }| {
                let older = meta.older_value_schemas.iter().map(schema_json);
                json!({
                    "state": meta.name,
                    "kind": kind_text(meta.kind),
                    "key": schema_json(&meta.key_schema),
                    "namespace": schema_json(&meta.namespace_schema),
                    "map_key": meta.map_key_schema.as_ref().map(schema_json),
                    "value": schema_json(&meta.value_schema),
                    "older_values": older.collect::<Vec<_>>(),
                    "ttl": ttl_json(meta),
                    "entries": entries,
                    "bytes": bytes,
                })
            });
            let others = operator.operator_states.iter().map(|items| {
                let values = items.parts.iter().map(|(schema, _)| schema_json(schema));
                json!({
                    "state": items.name,
                    "mode": mode_text(items.mode),
                    "key": items.key_schema.as_ref().map(schema_json),
                    "values": values.collect::<Vec<_>>(),
                    "entries": items.entries(),
                    "bytes": items.bytes,
                })
            });
            json!({
                "operator": operator.name,
                "max_parallelism": operator.max_parallelism.get(),
                "watermark": operator.watermark,
                "states": states.collect::<Vec<_>>(),
                "operator_states": others.collect::<Vec<_>>(),
            })
        })
        .collect()
}
