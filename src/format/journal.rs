//! One entry of a job's journal: everything that its coordinator has to remember,
//! whole each time. The entry with the highest number is what is so.
//!
//! ```text
//! entry:      an envelope (see envelope.rs), magic "ALVJOURN", around
//!             | number u64 | epoch u64 | writer u64 | written_unix_ms u64 | next_id u64 |
//!             0            8           16           24                    32
//!             | job | owner | resume u8: 0, or 1 and | reference |
//!             | checkpoint count | reference ... |
//!             | savepoint count | name | created_unix_ms u64 | reference | ... |
//!             | retired count | reference ... | borrowed count | job, pin | ... |
//!             | outcome count | outcome ... |
//! reference:  | id u64 | epoch u64 | location | bytes u64 | hash u128 |
//! outcome:    | id u64 | epoch u64 | kind | triggered_unix_ms u64 |
//!             | duration_ms | pause_ns | bytes_new | bytes_total | failure |
//! kind:       as in checkpoint.rs
//!
//! pin:        an envelope, magic "ALVPINNE", around
//!             | created_unix_ms u64 | owner | reference |
//! ```
//!
//! Texts are a varint length and UTF-8, counts and measures varints; a failure is a
//! text, empty if there was none.
//!
//! Promises: checkpoints ascend by id, savepoints by name, outcomes are in the order in
//! which they came; what is resumed from is one of those; nothing is both retired and
//! kept; all that is kept is below `next_id`; names and limits hold.

use super::checkpoint::{CheckpointKind, MAX_JOB_NAME_BYTES, check_name, decode_kind, encode_kind};
use super::envelope::Envelope;
use super::manifest::{MAX_LOCATION_BYTES, encode_bytes};
use super::promise::{Broken, broken, check_len};
use crate::base::checksum::{ContentHash, of_contents};
use crate::base::{Error, ErrorKind, Result, SnapshotId, SnapshotMode};
use crate::codec::{Reader, varint};

/// Most checkpoints, savepoints and retired ones of a job, each.
pub const MAX_KEPT: usize = 1 << 16;
/// Most outcomes that an entry remembers.
pub const MAX_OUTCOMES: usize = 1 << 12;
/// Longest text about an owner or a failure, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Fewest bytes of a reference: two numbers, a location of one byte and its length,
/// size and hash.
const MIN_REFERENCE_BYTES: usize = 8 + 8 + 2 + 8 + 16;
/// Fewest bytes of a savepoint: a name of one byte, its length, a time, a reference.
const MIN_SAVEPOINT_BYTES: usize = 2 + 8 + MIN_REFERENCE_BYTES;
/// Fewest bytes of what is borrowed: two texts of one byte, their lengths.
const MIN_BORROWED_BYTES: usize = 4;
/// Fewest bytes of an outcome: three numbers, the kind, four measures, no failure.
const MIN_OUTCOME_BYTES: usize = 3 * 8 + 1 + 4 + 1;

const ENTRY: Envelope = Envelope { what: "journal entry", magic: *b"ALVJOURN", version: 1 };
const PIN: Envelope = Envelope { what: "pin", magic: *b"ALVPINNE", version: 1 };

/// Finds and recognises the metadata of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointRef {
    /// The checkpoint.
    pub id: SnapshotId,
    /// Which life of the coordinator completed it.
    pub epoch: u64,
    /// Object name of its metadata.
    pub location: String,
    /// Length of the metadata.
    pub bytes: u64,
    /// Hash of the metadata.
    pub hash: ContentHash,
}

/// A checkpoint that somebody asked for by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavepointRef {
    /// Its name, unique within the job.
    pub name: String,
    /// When it was completed, by the wall clock.
    pub created_unix_ms: u64,
    /// What it is.
    pub checkpoint: CheckpointRef,
}

/// What came of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The checkpoint.
    pub id: SnapshotId,
    /// Which life of the coordinator began it.
    pub epoch: u64,
    /// Why it was begun.
    pub kind: CheckpointKind,
    /// Whether it was to share files with those before it.
    pub mode: SnapshotMode,
    /// When its barriers were sent, by the wall clock.
    pub triggered_unix_ms: u64,
    /// From then until it was completed, or given up.
    pub duration_ms: u64,
    /// The longest time that a task thread stood still for it.
    pub pause_ns: u64,
    /// Bytes that it added to the store.
    pub bytes_new: u64,
    /// Bytes of all files that it needs.
    pub bytes_total: u64,
    /// Why it was given up, if it was.
    pub failure: Option<String>,
}

/// Another job, of whose files some are needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Borrowed {
    /// Name of that job.
    pub job: String,
    /// Object name of the pin that keeps it from deleting them.
    pub pin: String,
}

/// What a coordinator remembers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalEntry {
    /// The place of the entry: entries count up by one.
    pub number: u64,
    /// Which life of the coordinator wrote it: counts up with each that takes over.
    pub epoch: u64,
    /// Drawn at random by that coordinator, so that no two write the same bytes.
    pub writer: u64,
    /// When it was written, by the wall clock.
    pub written_unix_ms: u64,
    /// No checkpoint with this id or a higher one was begun before the entry was
    /// written.
    pub next_id: SnapshotId,
    /// Name of the job.
    pub job: String,
    /// Who the coordinator is, for people.
    pub owner: String,
    /// Where the job goes on from after a failure: what was completed last, or what
    /// somebody chose to go back to since.
    pub resume: Option<CheckpointRef>,
    /// Completed checkpoints that a restore may take, ascending.
    pub checkpoints: Vec<CheckpointRef>,
    /// Savepoints, ascending by name.
    pub savepoints: Vec<SavepointRef>,
    /// What is no longer to be restored: its files may be gone.
    pub retired: Vec<CheckpointRef>,
    /// Other jobs whose files this one needs.
    pub borrowed: Vec<Borrowed>,
    /// What came of the last checkpoints, oldest first.
    pub outcomes: Vec<Outcome>,
}

/// Says that somebody reads a checkpoint, whose files must stay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    /// When it was made, by the wall clock.
    pub created_unix_ms: u64,
    /// Who reads, for people.
    pub owner: String,
    /// What is read.
    pub checkpoint: CheckpointRef,
}

impl CheckpointRef {
    /// Checks that `bytes` are the metadata that was meant.
    ///
    /// # Errors
    /// `Corrupt` if they are not.
    pub fn check(&self, bytes: &[u8]) -> Result<()> {
        let found = of_contents(bytes);
        if bytes.len() as u64 == self.bytes && super::frame::checksum_matches(found, self.hash) {
            return Ok(());
        }
        Err(Error::corrupt("not the metadata of the checkpoint that the journal names")
            .at(&self.location)
            .expected(format_args!("{} bytes, hash {}", self.bytes, self.hash))
            .found(format_args!("{} bytes, hash {found}", bytes.len()))
            .remedy("put it back from a copy, or restore another checkpoint"))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        encode_bytes(self.location.as_bytes(), out);
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.hash.0.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            id: SnapshotId(reader.u64("checkpoint")?),
            epoch: reader.u64("epoch of a checkpoint")?,
            location: reader.str("location", MAX_LOCATION_BYTES)?.to_owned(),
            bytes: reader.u64("size")?,
            hash: ContentHash(reader.u128("hash")?),
        })
    }
}

impl Outcome {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        encode_kind(&self.kind, self.mode, out);
        out.extend_from_slice(&self.triggered_unix_ms.to_le_bytes());
        for measure in [self.duration_ms, self.pause_ns, self.bytes_new, self.bytes_total] {
            varint::put_u64(out, measure);
        }
        encode_bytes(self.failure.as_deref().unwrap_or("").as_bytes(), out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let id = SnapshotId(reader.u64("outcome")?);
        let epoch = reader.u64("epoch of an outcome")?;
        let (kind, mode) = decode_kind(reader)?;
        Ok(Self {
            id,
            epoch,
            kind,
            mode,
            triggered_unix_ms: reader.u64("trigger time")?,
            duration_ms: reader.varint_u64("duration")?,
            pause_ns: reader.varint_u64("pause")?,
            bytes_new: reader.varint_u64("new bytes")?,
            bytes_total: reader.varint_u64("bytes in all")?,
            failure: Some(reader.str("failure", MAX_TEXT_BYTES)?.to_owned())
                .filter(|text| !text.is_empty()),
        })
    }
}

impl JournalEntry {
    /// The bytes of the entry.
    ///
    /// # Errors
    /// `Invalid` if it breaks one of the promises in the module's head.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|broken| broken.error(ErrorKind::Invalid, ENTRY.what))?;
        ENTRY.seal(|out| {
            let Self { number, epoch, writer, written_unix_ms, next_id, .. } = self;
            for number in [number, epoch, writer, written_unix_ms, &next_id.0] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            encode_bytes(self.job.as_bytes(), out);
            encode_bytes(self.owner.as_bytes(), out);
            out.push(u8::from(self.resume.is_some()));
            if let Some(resume) = &self.resume {
                resume.encode(out);
            }
            encode_all(&self.checkpoints, out);
            varint::put_u64(out, self.savepoints.len() as u64);
            for savepoint in &self.savepoints {
                encode_bytes(savepoint.name.as_bytes(), out);
                out.extend_from_slice(&savepoint.created_unix_ms.to_le_bytes());
                savepoint.checkpoint.encode(out);
            }
            encode_all(&self.retired, out);
            varint::put_u64(out, self.borrowed.len() as u64);
            for borrowed in &self.borrowed {
                encode_bytes(borrowed.job.as_bytes(), out);
                encode_bytes(borrowed.pin.as_bytes(), out);
            }
            varint::put_u64(out, self.outcomes.len() as u64);
            for outcome in &self.outcomes {
                outcome.encode(out);
            }
            Ok(())
        })
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not an entry that keeps its promises, `Incompatible`
    /// if they are one of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = ENTRY.open(bytes)?;
        let number = reader.u64("number")?;
        let epoch = reader.u64("epoch")?;
        let writer = reader.u64("writer")?;
        let written_unix_ms = reader.u64("time")?;
        let next_id = SnapshotId(reader.u64("next id")?);
        let job = reader.str("job", MAX_JOB_NAME_BYTES)?.to_owned();
        let owner = reader.str("owner", MAX_TEXT_BYTES)?.to_owned();
        let resume = match reader.u8("resume")? {
            0 => None,
            1 => Some(CheckpointRef::decode(&mut reader)?),
            other => return Err(reader.corrupt("resume", "0 or 1", other)),
        };
        let checkpoints = decode_all("checkpoint count", &mut reader)?;
        let savepoints = reader.count("savepoint count", MAX_KEPT, MIN_SAVEPOINT_BYTES)?;
        let savepoints = (0..savepoints)
            .map(|_| {
                Ok(SavepointRef {
                    name: reader.str("name of a savepoint", MAX_JOB_NAME_BYTES)?.to_owned(),
                    created_unix_ms: reader.u64("time of a savepoint")?,
                    checkpoint: CheckpointRef::decode(&mut reader)?,
                })
            })
            .collect::<Result<_>>()?;
        let retired = decode_all("retired count", &mut reader)?;
        let borrowed = reader.count("borrowed count", MAX_KEPT, MIN_BORROWED_BYTES)?;
        let borrowed = (0..borrowed)
            .map(|_| {
                Ok(Borrowed {
                    job: reader.str("job that is borrowed from", MAX_JOB_NAME_BYTES)?.to_owned(),
                    pin: reader.str("pin", MAX_LOCATION_BYTES)?.to_owned(),
                })
            })
            .collect::<Result<_>>()?;
        let outcomes = reader.count("outcome count", MAX_OUTCOMES, MIN_OUTCOME_BYTES)?;
        let outcomes =
            (0..outcomes).map(|_| Outcome::decode(&mut reader)).collect::<Result<_>>()?;
        reader.finish()?;
        let entry = Self {
            number,
            epoch,
            writer,
            written_unix_ms,
            next_id,
            job,
            owner,
            resume,
            checkpoints,
            savepoints,
            retired,
            borrowed,
            outcomes,
        };
        entry.check().map_err(|broken| broken.error(ErrorKind::Corrupt, ENTRY.what))?;
        Ok(entry)
    }

    /// Everything that may be restored: checkpoints, then savepoints.
    pub fn kept(&self) -> impl Iterator<Item = &CheckpointRef> {
        self.checkpoints.iter().chain(self.savepoints.iter().map(|named| &named.checkpoint))
    }

    /// The savepoint of this name.
    pub fn savepoint(&self, name: &str) -> Option<&SavepointRef> {
        self.savepoints.iter().find(|savepoint| savepoint.name == name)
    }

    /// Adds a checkpoint in its place.
    pub(crate) fn add_checkpoint(&mut self, checkpoint: CheckpointRef) {
        let at = self.checkpoints.partition_point(|other| other.id < checkpoint.id);
        self.checkpoints.insert(at, checkpoint);
    }

    /// Adds a savepoint, of a name that is free, in its place.
    pub(crate) fn add_savepoint(&mut self, savepoint: SavepointRef) {
        let at = self.savepoints.partition_point(|other| other.name < savepoint.name);
        self.savepoints.insert(at, savepoint);
    }

    fn check(&self) -> Result<(), Broken> {
        check_name("name of the job", &self.job)?;
        check_len("owner", self.owner.len(), 0, MAX_TEXT_BYTES)?;
        check_len("number of checkpoints", self.checkpoints.len(), 0, MAX_KEPT)?;
        check_len("number of savepoints", self.savepoints.len(), 0, MAX_KEPT)?;
        check_len("number of retired checkpoints", self.retired.len(), 0, MAX_KEPT)?;
        check_len("number of jobs borrowed from", self.borrowed.len(), 0, MAX_KEPT)?;
        check_len("number of outcomes", self.outcomes.len(), 0, MAX_OUTCOMES)?;
        for savepoint in &self.savepoints {
            check_name("name of a savepoint", &savepoint.name)?;
        }
        if let Some(pair) = self.savepoints.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            return broken("names of savepoints", "each once, ascending", &pair[1].name);
        }
        if let Some(pair) = self.checkpoints.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            return broken("checkpoints", "each once, ascending", pair[1].id);
        }
        for reference in self.kept().chain(&self.retired) {
            check_len("location of a checkpoint", reference.location.len(), 1, MAX_LOCATION_BYTES)?;
        }
        if let Some(resume) = &self.resume
            && !self.kept().any(|reference| reference == resume)
        {
            return broken("what to resume from", "one that is kept", &resume.location);
        }
        if let Some(high) = self.kept().find(|reference| reference.id >= self.next_id) {
            return broken("ids", format_args!("below {}", self.next_id), high.id);
        }
        let is_kept = |retired: &&CheckpointRef| {
            self.kept().any(|reference| reference.location == retired.location)
        };
        if let Some(retired) = self.retired.iter().find(is_kept) {
            return broken("retired checkpoints", "none that is kept", &retired.location);
        }
        for borrowed in &self.borrowed {
            check_name("name of a job borrowed from", &borrowed.job)?;
            check_len("name of a pin", borrowed.pin.len(), 1, MAX_LOCATION_BYTES)?;
        }
        for outcome in &self.outcomes {
            let text = outcome.failure.as_deref().unwrap_or("-");
            check_len("reason of a failure", text.len(), 1, MAX_TEXT_BYTES)?;
            if let CheckpointKind::Savepoint(name) = &outcome.kind {
                check_name("name of a savepoint", name)?;
            }
        }
        Ok(())
    }
}

impl Pin {
    /// The bytes of the pin.
    ///
    /// # Errors
    /// `Invalid` if a text is too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|broken| broken.error(ErrorKind::Invalid, PIN.what))?;
        PIN.seal(|out| {
            out.extend_from_slice(&self.created_unix_ms.to_le_bytes());
            encode_bytes(self.owner.as_bytes(), out);
            self.checkpoint.encode(out);
            Ok(())
        })
    }

    /// Reads a pin.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are none, `Incompatible` if they are one of another
    /// version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = PIN.open(bytes)?;
        let pin = Self {
            created_unix_ms: reader.u64("time")?,
            owner: reader.str("owner", MAX_TEXT_BYTES)?.to_owned(),
            checkpoint: CheckpointRef::decode(&mut reader)?,
        };
        reader.finish()?;
        pin.check().map_err(|broken| broken.error(ErrorKind::Corrupt, PIN.what))?;
        Ok(pin)
    }

    fn check(&self) -> Result<(), Broken> {
        check_len("owner", self.owner.len(), 0, MAX_TEXT_BYTES)?;
        check_len("location", self.checkpoint.location.len(), 1, MAX_LOCATION_BYTES)
    }
}

fn encode_all(references: &[CheckpointRef], out: &mut Vec<u8>) {
    varint::put_u64(out, references.len() as u64);
    for reference in references {
        reference.encode(out);
    }
}

fn decode_all(what: &'static str, reader: &mut Reader<'_>) -> Result<Vec<CheckpointRef>> {
    let count = reader.count(what, MAX_KEPT, MIN_REFERENCE_BYTES)?;
    (0..count).map(|_| CheckpointRef::decode(reader)).collect()
}
