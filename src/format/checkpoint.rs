//! The metadata of a checkpoint of a whole job, and what one shard says of its
//! part.
//!
//! ```text
//! checkpoint:  an envelope (see envelope.rs), magic "ALVCHKPT", around
//!              | id u64 | epoch u64 | triggered_unix_ms u64 | completed_unix_ms u64 |
//!              0        8           16                      24
//!              | job | kind |
//!              | shard count | shard ... | runtime data |
//! kind:        | u8: 1 checkpoint, 3 full checkpoint, 2 savepoint, 4 full savepoint |
//!              | of a savepoint: name |
//! shard:       | handle | pause_ns | duration_ns | bytes_new | bytes_total | records_new |
//!
//! ack:         an envelope, magic "ALVSHACK", around
//!              | epoch u64 | shard | file count | file ... |
//! file:        | location | bytes |
//! ```
//!
//! A handle is a varint length and the bytes of handle.rs; texts and the runtime's
//! data are a varint length and bytes; costs and counts are varints.
//!
//! Promises that a decoded checkpoint keeps (and an encoded one, or encoding fails):
//! shards ascend by operator and key groups; those of an operator have one number of
//! key groups and hold each of them once; none is of a later snapshot than the
//! checkpoint; names and limits hold. The same checkpoint has the same bytes.

use super::envelope::Envelope;
use super::handle::SnapshotHandle;
use super::manifest::{MAX_LOCATION_BYTES, encode_bytes};
use super::promise::{Broken, broken, check_len};
use crate::base::limits::MAX_USER_META_BYTES;
use crate::base::{Error, ErrorKind, Result, SnapshotId, SnapshotMode};
use crate::codec::{Reader, varint};

/// Longest name of a job or a savepoint, in bytes.
pub const MAX_JOB_NAME_BYTES: usize = 128;
/// Most shards of a job, over all operators.
pub const MAX_SHARDS: usize = 1 << 20;
/// Most files of one shard's snapshot: a table each, and the manifest.
pub const MAX_FILES: usize = super::manifest::MAX_TABLES + 1;
/// Longest encoded handle, in bytes.
const MAX_HANDLE_BYTES: usize = 16 << 10;

/// Fewest bytes of a shard: a handle of an envelope and 46 bytes, its length, five
/// costs.
const MIN_SHARD_BYTES: usize = super::envelope::ENVELOPE_BYTES + 46 + 1 + 5;
/// Fewest bytes of a file: a location of one byte, its length, its size.
const MIN_FILE_BYTES: usize = 3;

const CHECKPOINT: Envelope = Envelope { what: "checkpoint", magic: *b"ALVCHKPT", version: 1 };
const ACK: Envelope = Envelope { what: "acknowledgement", magic: *b"ALVSHACK", version: 1 };

/// Why a checkpoint was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckpointKind {
    /// To go on from after a failure; goes when later ones are there.
    Checkpoint,
    /// A person, or a schedule, asked for it by this name; stays until disposed of.
    Savepoint(String),
}

/// What a shard's part of a checkpoint cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardCosts {
    /// Time that the barrier kept the task thread.
    pub pause_ns: u64,
    /// From the barrier until the shard's snapshot was durable.
    pub duration_ns: u64,
    /// Bytes that it added to the store.
    pub bytes_new: u64,
    /// Bytes of all files that it needs.
    pub bytes_total: u64,
    /// Records in its delta.
    pub records_new: u64,
}

/// One shard's part of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardPart {
    /// Restores the shard.
    pub handle: SnapshotHandle,
    /// What it cost.
    pub costs: ShardCosts,
}

/// A checkpoint of a whole job: one snapshot of every shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The number of its barrier.
    pub id: SnapshotId,
    /// Which life of the job's coordinator completed it.
    pub epoch: u64,
    /// Name of the job.
    pub job: String,
    /// Why it was taken.
    pub kind: CheckpointKind,
    /// Whether it shares files with those before it.
    pub mode: SnapshotMode,
    /// When its barriers were sent, by the wall clock; for people.
    pub triggered_unix_ms: u64,
    /// When the last shard had acknowledged it.
    pub completed_unix_ms: u64,
    /// The shards, ascending by operator and key groups.
    pub shards: Vec<ShardPart>,
    /// What the runtime needs to go on: source offsets, sink transactions.
    pub runtime: Vec<u8>,
}

/// A file that a snapshot needs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct StoredFile {
    /// Name of the object.
    pub location: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What a shard tells the coordinator when its snapshot is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardAck {
    /// Which life of the coordinator asked for the snapshot.
    pub epoch: u64,
    /// The shard's part of the checkpoint of its snapshot's number.
    pub part: ShardPart,
    /// Every file that the snapshot needs, its manifest included, ascending.
    pub files: Vec<StoredFile>,
}

impl ShardPart {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(&self.handle.encode(), out);
        let ShardCosts { pause_ns, duration_ns, bytes_new, bytes_total, records_new } = self.costs;
        for cost in [pause_ns, duration_ns, bytes_new, bytes_total, records_new] {
            varint::put_u64(out, cost);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let handle = SnapshotHandle::decode(reader.bytes("handle", MAX_HANDLE_BYTES)?)?;
        let costs = ShardCosts {
            pause_ns: reader.varint_u64("pause")?,
            duration_ns: reader.varint_u64("duration")?,
            bytes_new: reader.varint_u64("new bytes")?,
            bytes_total: reader.varint_u64("bytes in all")?,
            records_new: reader.varint_u64("new records")?,
        };
        Ok(Self { handle, costs })
    }
}

impl Checkpoint {
    /// The bytes of the checkpoint.
    ///
    /// # Errors
    /// `Invalid` if it breaks one of the promises in the module's head.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|broken| broken.error(ErrorKind::Invalid, CHECKPOINT.what))?;
        CHECKPOINT.seal(|out| {
            for number in [self.id.0, self.epoch, self.triggered_unix_ms, self.completed_unix_ms] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            encode_bytes(self.job.as_bytes(), out);
            encode_kind(&self.kind, self.mode, out);
            varint::put_u64(out, self.shards.len() as u64);
            for shard in &self.shards {
                shard.encode(out);
            }
            encode_bytes(&self.runtime, out);
            Ok(())
        })
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not a checkpoint that keeps its promises,
    /// `Incompatible` if they are one of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = CHECKPOINT.open(bytes)?;
        let id = SnapshotId(reader.u64("id")?);
        let epoch = reader.u64("epoch")?;
        let triggered_unix_ms = reader.u64("trigger time")?;
        let completed_unix_ms = reader.u64("completion time")?;
        let job = reader.str("job", MAX_JOB_NAME_BYTES)?.to_owned();
        let (kind, mode) = decode_kind(&mut reader)?;
        let shards = reader.count("shard count", MAX_SHARDS, MIN_SHARD_BYTES)?;
        let shards = (0..shards).map(|_| ShardPart::decode(&mut reader)).collect::<Result<_>>()?;
        let runtime = reader.bytes("runtime data", MAX_USER_META_BYTES)?.to_vec();
        reader.finish()?;
        let checkpoint = Self {
            id,
            epoch,
            job,
            kind,
            mode,
            triggered_unix_ms,
            completed_unix_ms,
            shards,
            runtime,
        };
        checkpoint.check().map_err(|broken| broken.error(ErrorKind::Corrupt, CHECKPOINT.what))?;
        Ok(checkpoint)
    }

    /// The names of the operators, ascending.
    pub fn operators(&self) -> impl Iterator<Item = &str> {
        let mut before = None;
        self.shards.iter().filter_map(move |shard| {
            let name = shard.handle.operator();
            (before.replace(name) != Some(name)).then_some(name)
        })
    }

    /// The handles of an operator's shards, ascending by key groups: what its new
    /// shards, however many, are restored from.
    pub fn handles(&self, operator: &str) -> Vec<SnapshotHandle> {
        let of_operator = |shard: &&ShardPart| shard.handle.operator() == operator;
        self.shards.iter().filter(of_operator).map(|shard| shard.handle.clone()).collect()
    }

    /// What it cost: the longest pause and duration, the sums of the rest.
    pub fn costs(&self) -> ShardCosts {
        self.shards.iter().fold(ShardCosts::default(), |sum, shard| ShardCosts {
            pause_ns: sum.pause_ns.max(shard.costs.pause_ns),
            duration_ns: sum.duration_ns.max(shard.costs.duration_ns),
            bytes_new: sum.bytes_new.saturating_add(shard.costs.bytes_new),
            bytes_total: sum.bytes_total.saturating_add(shard.costs.bytes_total),
            records_new: sum.records_new.saturating_add(shard.costs.records_new),
        })
    }

    /// The promises of the module's head.
    fn check(&self) -> Result<(), Broken> {
        check_name("name of the job", &self.job)?;
        if let CheckpointKind::Savepoint(name) = &self.kind {
            check_name("name of the savepoint", name)?;
        }
        check_len("number of shards", self.shards.len(), 0, MAX_SHARDS)?;
        check_len("runtime data", self.runtime.len(), 0, MAX_USER_META_BYTES)?;
        let mut before: Option<&SnapshotHandle> = None;
        for handle in self.shards.iter().map(|shard| &shard.handle) {
            if handle.snapshot() > self.id {
                return broken("snapshot of a shard", self.id, handle.snapshot());
            }
            let first = match before {
                Some(before) if before.operator() == handle.operator() => {
                    if before.max_parallelism() != handle.max_parallelism() {
                        let expected = before.max_parallelism();
                        return broken("key groups", expected, handle.max_parallelism());
                    }
                    u32::from(before.groups().last().0) + 1
                }
                _ => {
                    check_whole(before)?;
                    if before.is_some_and(|before| before.operator() >= handle.operator()) {
                        return broken("order of operators", "ascending", handle.operator());
                    }
                    0
                }
            };
            if u32::from(handle.groups().first().0) != first {
                let expected = format_args!("{:?} from group {first} on", handle.operator());
                return broken("groups of the shards", expected, handle.groups());
            }
            before = Some(handle);
        }
        check_whole(before)
    }
}

/// The last shard of an operator ends with the last key group.
fn check_whole(last: Option<&SnapshotHandle>) -> Result<(), Broken> {
    match last {
        Some(last) if last.groups().last() != last.max_parallelism().all_groups().last() => {
            let all = last.max_parallelism().all_groups();
            broken("groups of the shards", format_args!("all of {all}"), last.groups())
        }
        _ => Ok(()),
    }
}

impl ShardAck {
    /// The bytes of the acknowledgement, to be sent to the coordinator.
    ///
    /// # Errors
    /// `Invalid` if there are too many files, or one has no or too long a name.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|broken| broken.error(ErrorKind::Invalid, ACK.what))?;
        ACK.seal(|out| {
            out.extend_from_slice(&self.epoch.to_le_bytes());
            self.part.encode(out);
            varint::put_u64(out, self.files.len() as u64);
            for file in &self.files {
                encode_bytes(file.location.as_bytes(), out);
                varint::put_u64(out, file.bytes);
            }
            Ok(())
        })
    }

    /// Reads an acknowledgement.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are none, `Incompatible` if they are one of another
    /// version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = ACK.open(bytes)?;
        let epoch = reader.u64("epoch")?;
        let part = ShardPart::decode(&mut reader)?;
        let files = reader.count("file count", MAX_FILES, MIN_FILE_BYTES)?;
        let files = (0..files)
            .map(|_| {
                Ok(StoredFile {
                    location: reader.str("location", MAX_LOCATION_BYTES)?.to_owned(),
                    bytes: reader.varint_u64("size")?,
                })
            })
            .collect::<Result<_>>()?;
        reader.finish()?;
        let ack = Self { epoch, part, files };
        ack.check().map_err(|broken| broken.error(ErrorKind::Corrupt, ACK.what))?;
        Ok(ack)
    }

    fn check(&self) -> Result<(), Broken> {
        check_len("number of files", self.files.len(), 0, MAX_FILES)?;
        for file in &self.files {
            check_len("location of a file", file.location.len(), 1, MAX_LOCATION_BYTES)?;
        }
        match self.files.windows(2).find(|pair| pair[0].location >= pair[1].location) {
            Some(pair) => broken("order of files", "ascending locations", &pair[1].location),
            None => Ok(()),
        }
    }
}

/// Names of jobs and savepoints are parts of object names.
pub(super) fn check_name(what: &'static str, name: &str) -> Result<(), Broken> {
    check_len(what, name.len(), 1, MAX_JOB_NAME_BYTES)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.starts_with('.') || !name.bytes().all(allowed) {
        let expected = "letters, digits, '.', '_' or '-', not beginning with '.'";
        return broken(what, expected, format_args!("{name:?}"));
    }
    Ok(())
}

/// Refuses what cannot be the name of a job or a savepoint.
///
/// # Errors
/// `Invalid`.
pub fn check_job_name(what: &'static str, name: &str) -> Result<()> {
    check_name(what, name).map_err(|broken| broken.error(ErrorKind::Invalid, "a name"))
}

/// Numbers of kinds and modes together. DO NOT CHANGE.
const CHECKPOINT_KIND: u8 = 1;
const SAVEPOINT_KIND: u8 = 2;
const FULL_CHECKPOINT_KIND: u8 = 3;
const FULL_SAVEPOINT_KIND: u8 = 4;

pub(super) fn encode_kind(kind: &CheckpointKind, mode: SnapshotMode, out: &mut Vec<u8>) {
    out.push(match (kind, mode) {
        (CheckpointKind::Checkpoint, SnapshotMode::Incremental) => CHECKPOINT_KIND,
        (CheckpointKind::Savepoint(_), SnapshotMode::Incremental) => SAVEPOINT_KIND,
        (CheckpointKind::Checkpoint, SnapshotMode::Full) => FULL_CHECKPOINT_KIND,
        (CheckpointKind::Savepoint(_), SnapshotMode::Full) => FULL_SAVEPOINT_KIND,
    });
    if let CheckpointKind::Savepoint(name) = kind {
        encode_bytes(name.as_bytes(), out);
    }
}

pub(super) fn decode_kind(reader: &mut Reader<'_>) -> Result<(CheckpointKind, SnapshotMode)> {
    let number = reader.u8("kind")?;
    let mode = match number {
        CHECKPOINT_KIND | SAVEPOINT_KIND => SnapshotMode::Incremental,
        _ => SnapshotMode::Full,
    };
    match number {
        CHECKPOINT_KIND | FULL_CHECKPOINT_KIND => Ok((CheckpointKind::Checkpoint, mode)),
        SAVEPOINT_KIND | FULL_SAVEPOINT_KIND => {
            let name = reader.str("name of the savepoint", MAX_JOB_NAME_BYTES)?;
            Ok((CheckpointKind::Savepoint(name.to_owned()), mode))
        }
        other => Err(Error::incompatible("a kind of checkpoint that is not known here")
            .expected("1 to 4")
            .found(other)
            .remedy("read it with the version of the engine that wrote it, or a later one")),
    }
}
