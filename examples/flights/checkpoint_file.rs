//! The job's own record of a completed checkpoint.
//!
//! Alluvium makes each *shard's* snapshot durable and hands out a handle to
//! it. That a checkpoint of the whole *job* is complete is the runtime's
//! decision, and this file is where it becomes a fact: it exists under its
//! final name, durable and whole, exactly if every shard's snapshot is.
//!
//! One file per checkpoint, `checkpoint-0000000007.completed`:
//!
//! ```text
//! | magic "flightsC" | version u32 | body_len u32 | body | xxh3 of all before u64 |
//!
//! body:  | id u64 | max_parallelism u32 | shards u32
//!        | input: file_bytes u64, hash u128, repeat u32, spread u8 | rules (see `rules`)
//!        | position: offset u64, repetition u32, record u64, latest i64
//!        | per shard: pause_ns u64, duration_ns u64, bytes_new u64, bytes_total u64,
//!        |            records_new u64, handle_len u32, handle
//! ```
//!
//! All integers are little-endian. A reader refuses an unknown version. The
//! newest file decides where a job goes on; if it cannot be read, that is an
//! error and not a reason to take an older one: whoever wants the older one
//! says so by removing the newer.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use alluvium::base::checksum::ContentHash;
use alluvium::base::{Error, Result, SnapshotId};
use xxhash_rust::xxh3::xxh3_64;

use super::cursor::Cursor;
use super::rules::Rules;
use super::survey::InputIdentity;
use super::time::EventTime;

const MAGIC: &[u8; 8] = b"flightsC";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 8;
const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".completed";
const TEMPORARY_SUFFIX: &str = ".unfinished";

/// Largest file that is believed; a job of 128 shards needs far less.
const MAX_FILE_BYTES: u64 = 64 << 20;

const WHAT: &str = "a completed checkpoint";

const REMEDY: &str =
    "restore the file from a copy, or remove it to go on from the checkpoint before it";

/// A checkpoint in which every shard's snapshot is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CompletedCheckpoint {
    pub(crate) id: SnapshotId,
    /// Key groups of the job; fixed for the life of its state.
    pub(crate) max_parallelism: u32,
    pub(crate) job: JobIdentity,
    /// How far the input had been read when the barriers were sent.
    pub(crate) position: Position,
    pub(crate) shards: Vec<ShardSnapshot>,
}

/// What must be the same after a restart for the input to be replayed rightly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JobIdentity {
    pub(crate) input: InputIdentity,
    pub(crate) repeat: u32,
    pub(crate) spread: bool,
    pub(crate) rules: Rules,
}

/// A place in the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    /// Records before this place, over all repetitions.
    pub(crate) offset: u64,
    /// The repetition being read, from 0.
    pub(crate) repetition: u32,
    /// Records of that repetition before this place.
    pub(crate) record: u64,
    /// The latest event before this place, from which the watermark follows.
    pub(crate) latest: EventTime,
}

impl Default for Position {
    /// The beginning.
    fn default() -> Self {
        Self { offset: 0, repetition: 0, record: 0, latest: EventTime::START }
    }
}

/// One shard's part of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ShardSnapshot {
    pub(crate) costs: Costs,
    /// The encoded `SnapshotHandle`.
    pub(crate) handle: Vec<u8>,
}

/// What one shard's snapshot cost, or (by [`Costs::of_all`]) a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Costs {
    /// How long the shard's thread stood still.
    pub(crate) pause_ns: u64,
    /// From the barrier to durable.
    pub(crate) duration_ns: u64,
    /// Bytes written for this snapshot.
    pub(crate) bytes_new: u64,
    /// Bytes that the snapshot refers to, old and new.
    pub(crate) bytes_total: u64,
    /// Records written for this snapshot.
    pub(crate) records_new: u64,
}

impl Costs {
    /// Of a checkpoint: the longest times, and the sums of everything else.
    pub(crate) fn of_all(shards: &[ShardSnapshot]) -> Self {
        shards.iter().map(|shard| shard.costs).fold(Self::default(), |all, one| Self {
            pause_ns: all.pause_ns.max(one.pause_ns),
            duration_ns: all.duration_ns.max(one.duration_ns),
            bytes_new: all.bytes_new.saturating_add(one.bytes_new),
            bytes_total: all.bytes_total.saturating_add(one.bytes_total),
            records_new: all.records_new.saturating_add(one.records_new),
        })
    }
}

impl Position {
    /// The form in which a snapshot carries the position as its metadata.
    pub(crate) fn to_bytes(self) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.repetition.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.record.to_le_bytes());
        bytes[20..].copy_from_slice(&self.latest.minutes().to_le_bytes());
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// `Corrupt` if there are more or fewer bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor { what: "a position in the input", rest: bytes };
        let position = Self::take(&mut cursor)?;
        cursor.end()?;
        Ok(position)
    }

    fn take(cursor: &mut Cursor<'_>) -> Result<Self> {
        Ok(Self {
            offset: cursor.u64()?,
            repetition: cursor.u32()?,
            record: cursor.u64()?,
            latest: EventTime::from_minutes(cursor.i64()?),
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, repetition, record, .. } = self;
        write!(f, "record {offset} (record {record} of repetition {repetition}, from 0)")
    }
}

impl CompletedCheckpoint {
    /// Makes the checkpoint complete: when this returns, the file is durable
    /// under its final name. Costs two fsyncs.
    pub(crate) fn publish(&self, dir: &Path) -> Result<()> {
        let path = path_of(dir, self.id);
        let temporary = path.with_extension(&TEMPORARY_SUFFIX[1..]);
        let publish = || -> io::Result<()> {
            // A leftover of a killed run may have the temporary name: overwrite it.
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
            file.write_all(&self.encode())?;
            file.sync_all()?;
            if path.try_exists()? {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "a checkpoint of this number is already complete",
                ));
            }
            fs::rename(&temporary, &path)?;
            sync_dir(dir)
        };
        publish().map_err(|e| {
            Error::io("cannot record a completed checkpoint", e)
                .at(path.display())
                .remedy("check space and permissions; the job restarts from the checkpoint before")
        })
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&self.id.0.to_le_bytes());
        body.extend_from_slice(&self.max_parallelism.to_le_bytes());
        body.extend_from_slice(&(self.shards.len() as u32).to_le_bytes());
        body.extend_from_slice(&self.job.input.file_bytes.to_le_bytes());
        body.extend_from_slice(&self.job.input.hash.0.to_le_bytes());
        body.extend_from_slice(&self.job.repeat.to_le_bytes());
        body.push(u8::from(self.job.spread));
        body.extend_from_slice(&self.job.rules.to_bytes());
        body.extend_from_slice(&self.position.to_bytes());
        for shard in &self.shards {
            let costs = &shard.costs;
            for number in [
                costs.pause_ns,
                costs.duration_ns,
                costs.bytes_new,
                costs.bytes_total,
                costs.records_new,
            ] {
                body.extend_from_slice(&number.to_le_bytes());
            }
            body.extend_from_slice(&(shard.handle.len() as u32).to_le_bytes());
            body.extend_from_slice(&shard.handle);
        }
        let mut file = Vec::with_capacity(HEADER_BYTES + body.len() + CHECKSUM_BYTES);
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&(body.len() as u32).to_le_bytes());
        file.extend_from_slice(&body);
        let checksum = xxh3_64(&file);
        file.extend_from_slice(&checksum.to_le_bytes());
        file
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// `Corrupt` if they are damaged, `Incompatible` if another version of
    /// this program wrote them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut header = Cursor { what: WHAT, rest: bytes };
        let magic = header.take(MAGIC.len())?;
        if magic != MAGIC {
            return Err(Error::corrupt("this is not a checkpoint of the flights job")
                .expected(MAGIC.escape_ascii())
                .found(magic.escape_ascii()));
        }
        let version = header.u32()?;
        if version != VERSION {
            return Err(Error::incompatible(
                "another version of this program wrote the checkpoint",
            )
            .expected(format_args!("version {VERSION}"))
            .found(version));
        }
        let body_len = header.u32()? as usize;
        let body = header.take(body_len)?;
        let recorded = header.u64()?;
        header.end()?;
        let computed = xxh3_64(&bytes[..HEADER_BYTES + body_len]);
        if recorded != computed {
            return Err(Error::corrupt("the checksum of a completed checkpoint is wrong")
                .expected(format_args!("{recorded:016x}"))
                .found(format_args!("{computed:016x}")));
        }
        Self::decode_body(&mut Cursor { what: WHAT, rest: body })
    }

    fn decode_body(body: &mut Cursor<'_>) -> Result<Self> {
        let id = SnapshotId(body.u64()?);
        let max_parallelism = body.u32()?;
        let shard_count = body.u32()?;
        let job = JobIdentity {
            input: InputIdentity { file_bytes: body.u64()?, hash: ContentHash(body.u128()?) },
            repeat: body.u32()?,
            spread: match body.take(1)? {
                [0] => false,
                [1] => true,
                other => {
                    return Err(Error::corrupt("a flag is neither 0 nor 1").found(other[0]));
                }
            },
            rules: Rules::from_bytes(body.array()?),
        };
        let position = Position::take(body)?;
        let mut shards = Vec::new();
        for _ in 0..shard_count {
            let costs = Costs {
                pause_ns: body.u64()?,
                duration_ns: body.u64()?,
                bytes_new: body.u64()?,
                bytes_total: body.u64()?,
                records_new: body.u64()?,
            };
            let handle_len = body.u32()? as usize;
            shards.push(ShardSnapshot { costs, handle: body.take(handle_len)?.to_vec() });
        }
        body.end()?;
        Ok(Self { id, max_parallelism, job, position, shards })
    }
}

/// The completed checkpoint with the highest number, or `None` if none was
/// ever completed.
///
/// # Errors
/// If the directory, or the newest checkpoint in it, cannot be read.
pub(crate) fn latest_completed(dir: &Path) -> Result<Option<CompletedCheckpoint>> {
    let Some(id) = completed_ids(dir)?.pop() else {
        return Ok(None);
    };
    let path = path_of(dir, id);
    let checkpoint = read(&path).map_err(|e| e.at(path.display()).remedy(REMEDY))?;
    if checkpoint.id != id {
        return Err(Error::corrupt("a completed checkpoint has the name of another one")
            .at(path.display())
            .expected(format_args!("checkpoint {id}"))
            .found(format_args!("checkpoint {}", checkpoint.id))
            .remedy(REMEDY));
    }
    Ok(Some(checkpoint))
}

/// The numbers of all completed checkpoints, ascending. Other files are passed
/// over: unfinished ones never counted.
pub(crate) fn completed_ids(dir: &Path) -> Result<Vec<SnapshotId>> {
    let list = || -> io::Result<Vec<SnapshotId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(dir)? {
            ids.extend(id_of(&entry?.file_name()));
        }
        ids.sort_unstable();
        Ok(ids)
    };
    list().map_err(|e| {
        Error::io("cannot list the completed checkpoints", e)
            .at(dir.display())
            .remedy("check the directory given with --dir and its permissions")
    })
}

/// Forgets every completed checkpoint before `first_kept`.
pub(crate) fn forget_before(dir: &Path, first_kept: SnapshotId) -> Result<()> {
    for id in completed_ids(dir)?.into_iter().filter(|id| *id < first_kept) {
        let path = path_of(dir, id);
        fs::remove_file(&path).map_err(|e| {
            Error::io("cannot remove the record of an old checkpoint", e).at(path.display())
        })?;
    }
    Ok(())
}

/// Where the checkpoint of this number is recorded.
pub(crate) fn path_of(dir: &Path, id: SnapshotId) -> PathBuf {
    dir.join(format!("{PREFIX}{:010}{SUFFIX}", id.0))
}

fn id_of(name: &OsStr) -> Option<SnapshotId> {
    let digits = name.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    digits.parse().ok().map(SnapshotId)
}

fn read(path: &Path) -> Result<CompletedCheckpoint> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
        .map_err(|e| Error::io("cannot read the latest completed checkpoint", e))?;
    CompletedCheckpoint::decode(&bytes)
}

#[cfg(unix)]
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
pub(crate) fn sync_dir(_dir: &Path) -> io::Result<()> {
    // Elsewhere a directory cannot be opened; names become durable by themselves.
    Ok(())
}
