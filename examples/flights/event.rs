//! What the job tells its supervisor: one event, one line of flat JSON.
//!
//! The lines go over a pipe. The last one may be cut short, because the
//! process that writes it is one that gets killed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use alluvium::coordinator::JobView;
use alluvium::format::{Checkpoint, CheckpointKind, ShardCosts};
use alluvium::{Error, Result, SnapshotId};

use super::store;

/// Something that happened in the job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// All workers run and the source begins to read.
    Started { workers: u32, offset: u64, restored: Option<Restored> },
    /// So far the source has read `offset` records, some of them before this
    /// process was started, and the others in `elapsed_us`.
    Progress { offset: u64, elapsed_us: u64 },
    /// A checkpoint is complete and durable.
    Checkpoint(CheckpointLine),
    /// A checkpoint came to nothing; the job goes on.
    Aborted { id: u64, reason: String },
    /// Every record has been applied.
    Applied { offset: u64, elapsed_us: u64 },
    /// Results of one kind were compared with the plain computation.
    Verified(Verdict),
    /// The job is at its end.
    Finished { right: bool },
    /// The job failed.
    Failed { message: String },
}

/// Where a restarted job goes on from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Restored {
    pub(crate) checkpoint: u64,
    /// The name of the savepoint, if it is one; else empty.
    pub(crate) savepoint: String,
    pub(crate) from_workers: u32,
    /// From the start of the process's work until all workers ran.
    pub(crate) restore_us: u64,
}

/// A completed checkpoint, as the final table shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CheckpointLine {
    pub(crate) id: u64,
    /// The name of the savepoint, if it is one; else empty.
    pub(crate) savepoint: String,
    pub(crate) workers: u32,
    pub(crate) offset: u64,
    pub(crate) costs: ShardCosts,
}

impl CheckpointLine {
    /// What Alluvium has recorded of a checkpoint; nothing if it is gone again.
    pub(crate) fn read(view: &JobView, id: SnapshotId) -> Result<Option<Self>> {
        let Some(reference) = view.entry().kept().find(|kept| kept.id == id) else {
            return Ok(None);
        };
        Self::of(&view.read(reference)?).map(Some)
    }

    /// What a checkpoint says of itself.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let positions = alluvium_timely::source_positions(checkpoint)?;
        let Some([offset]) = positions.get(store::SOURCE).map(Vec::as_slice) else {
            return Err(Error::incompatible("the checkpoint was taken by another job")
                .at(format_args!("checkpoint {}", checkpoint.id))
                .expected(format_args!("one position of a source {:?}", store::SOURCE))
                .found(format_args!("{positions:?}")));
        };
        Ok(Self {
            id: checkpoint.id.0,
            savepoint: match &checkpoint.kind {
                CheckpointKind::Checkpoint => String::new(),
                CheckpointKind::Savepoint(name) => name.clone(),
            },
            // Each has one shard.
            workers: checkpoint.shards.len() as u32,
            offset: *offset,
            costs: checkpoint.costs(),
        })
    }
}

/// How the results of one kind compare with the plain computation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    /// What was compared.
    pub(crate) what: String,
    pub(crate) keys: u64,
    /// How much there is of it over all keys.
    pub(crate) values: u64,
    /// Keys of which something is wrong, missing or extra.
    pub(crate) wrong_keys: u64,
    /// What was counted, for people.
    pub(crate) note: String,
    /// The first difference, in words; empty if there is none.
    pub(crate) first_difference: String,
}

impl Verdict {
    /// Whether everything is right, and nothing is missing or extra.
    pub(crate) fn is_right(&self) -> bool {
        self.wrong_keys == 0
    }
}

impl Event {
    /// Writes the event as one line to standard output, in one piece.
    ///
    /// # Errors
    /// If nobody listens any more; then the job had better end too.
    pub(crate) fn send(&self) -> Result<()> {
        let mut line = self.to_line();
        line.push('\n');
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(|e| {
            Error::io("cannot report to the supervisor", e)
                .remedy("it has probably ended; start the example again")
        })
    }

    /// The event as a line of JSON, without the line's end.
    pub(crate) fn to_line(&self) -> String {
        match self {
            Self::Started { workers, offset, restored } => {
                let line =
                    Line::new("started").number("workers", *workers).number("offset", *offset);
                match restored {
                    None => line,
                    Some(r) => line
                        .number("checkpoint", r.checkpoint)
                        .text("savepoint", &r.savepoint)
                        .number("from_workers", r.from_workers)
                        .number("restore_us", r.restore_us),
                }
            }
            Self::Progress { offset, elapsed_us } => {
                Line::new("progress").number("offset", *offset).number("elapsed_us", *elapsed_us)
            }
            Self::Checkpoint(c) => Line::new("checkpoint")
                .number("id", c.id)
                .text("savepoint", &c.savepoint)
                .number("workers", c.workers)
                .number("offset", c.offset)
                .number("pause_ns", c.costs.pause_ns)
                .number("duration_ns", c.costs.duration_ns)
                .number("bytes_new", c.costs.bytes_new)
                .number("bytes_total", c.costs.bytes_total)
                .number("records_new", c.costs.records_new),
            Self::Aborted { id, reason } => {
                Line::new("aborted").number("id", *id).text("reason", reason)
            }
            Self::Applied { offset, elapsed_us } => {
                Line::new("applied").number("offset", *offset).number("elapsed_us", *elapsed_us)
            }
            Self::Verified(v) => Line::new("verified")
                .text("what", &v.what)
                .number("keys", v.keys)
                .number("values", v.values)
                .number("wrong_keys", v.wrong_keys)
                .text("note", &v.note)
                .text("first_difference", &v.first_difference),
            Self::Finished { right } => Line::new("finished").number("right", u8::from(*right)),
            Self::Failed { message } => Line::new("failed").text("message", message),
        }
        .finish()
    }

    /// Reads a line that [`to_line`](Self::to_line) wrote.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let fields = Fields::parse(line).ok_or_else(|| {
            Error::corrupt("the job reported something that is not an event")
                .expected("a line of JSON")
                .found(format_args!("{line:?}"))
        })?;
        let event = match fields.text("event")? {
            "started" => Self::Started {
                workers: fields.number_u32("workers")?,
                offset: fields.number("offset")?,
                restored: match fields.0.contains_key("checkpoint") {
                    false => None,
                    true => Some(Restored {
                        checkpoint: fields.number("checkpoint")?,
                        savepoint: fields.text("savepoint")?.to_owned(),
                        from_workers: fields.number_u32("from_workers")?,
                        restore_us: fields.number("restore_us")?,
                    }),
                },
            },
            "progress" => Self::Progress {
                offset: fields.number("offset")?,
                elapsed_us: fields.number("elapsed_us")?,
            },
            "checkpoint" => Self::Checkpoint(CheckpointLine {
                id: fields.number("id")?,
                savepoint: fields.text("savepoint")?.to_owned(),
                workers: fields.number_u32("workers")?,
                offset: fields.number("offset")?,
                costs: ShardCosts {
                    pause_ns: fields.number("pause_ns")?,
                    duration_ns: fields.number("duration_ns")?,
                    bytes_new: fields.number("bytes_new")?,
                    bytes_total: fields.number("bytes_total")?,
                    records_new: fields.number("records_new")?,
                },
            }),
            "aborted" => Self::Aborted {
                id: fields.number("id")?,
                reason: fields.text("reason")?.to_owned(),
            },
            "applied" => Self::Applied {
                offset: fields.number("offset")?,
                elapsed_us: fields.number("elapsed_us")?,
            },
            "verified" => Self::Verified(Verdict {
                what: fields.text("what")?.to_owned(),
                keys: fields.number("keys")?,
                values: fields.number("values")?,
                wrong_keys: fields.number("wrong_keys")?,
                note: fields.text("note")?.to_owned(),
                first_difference: fields.text("first_difference")?.to_owned(),
            }),
            "finished" => Self::Finished { right: fields.number("right")? == 1 },
            "failed" => Self::Failed { message: fields.text("message")?.to_owned() },
            other => return Err(Error::corrupt("the job reported an unknown event").found(other)),
        };
        Ok(event)
    }
}

/// A flat JSON object being written.
struct Line(String);

impl Line {
    fn new(event: &str) -> Self {
        Self(String::from("{")).text("event", event)
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        write!(self.0, "\"{name}\":").expect("a String takes everything");
    }

    fn number(mut self, name: &str, value: impl Into<u64>) -> Self {
        self.name(name);
        write!(self.0, "{}", value.into()).expect("a String takes everything");
        self
    }

    fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        self.0.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => self.0.extend(['\\', c]),
                c if c < ' ' => {
                    write!(self.0, "\\u{:04x}", u32::from(c)).expect("a String takes everything");
                }
                c => self.0.push(c),
            }
        }
        self.0.push('"');
        self
    }

    fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A flat JSON object of numbers and strings, as [`Line`] writes it.
struct Fields(BTreeMap<String, Field>);

enum Field {
    Number(u64),
    Text(String),
}

impl Fields {
    fn parse(line: &str) -> Option<Self> {
        let mut rest = line.trim().strip_prefix('{')?;
        let mut fields = BTreeMap::new();
        loop {
            let (name, after) = quoted(rest)?;
            rest = after.strip_prefix(':')?;
            let value = if rest.starts_with('"') {
                let (text, after) = quoted(rest)?;
                rest = after;
                Field::Text(text)
            } else {
                let end = rest.find([',', '}'])?;
                let number = rest[..end].parse().ok()?;
                rest = &rest[end..];
                Field::Number(number)
            };
            fields.insert(name, value);
            if rest == "}" {
                return Some(Self(fields));
            }
            rest = rest.strip_prefix(',')?;
        }
    }

    fn number(&self, name: &str) -> Result<u64> {
        match self.0.get(name) {
            Some(Field::Number(number)) => Ok(*number),
            _ => Err(missing(name, "a number")),
        }
    }

    fn number_u32(&self, name: &str) -> Result<u32> {
        u32::try_from(self.number(name)?).map_err(|_| missing(name, "a number of 32 bits"))
    }

    fn text(&self, name: &str) -> Result<&str> {
        match self.0.get(name) {
            Some(Field::Text(text)) => Ok(text),
            _ => Err(missing(name, "a string")),
        }
    }
}

fn missing(name: &str, expected: &str) -> Error {
    Error::corrupt("the job reported an event that lacks a field")
        .at(name)
        .expected(expected)
        .found("none")
}

/// The string at the start of `rest`, and what follows it.
fn quoted(rest: &str) -> Option<(String, &str)> {
    let rest = rest.strip_prefix('"')?;
    let mut text = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((text, &rest[at + 1..])),
            '\\' => match chars.next()?.1 {
                'u' => {
                    let mut code = 0;
                    for _ in 0..4 {
                        code = code * 16 + chars.next()?.1.to_digit(16)?;
                    }
                    text.push(char::from_u32(code)?);
                }
                c => text.push(c),
            },
            c => text.push(c),
        }
    }
    None
}
