//! What the job itself keeps with a checkpoint, beside the state of its shards: over
//! which input and by which rules it was taken, and how far the input had been read.
//!
//! Alluvium's coordinator stores it with the checkpoint and gives it back with a
//! restore; what it means is the job's business.
//!
//! ```text
//! | version u32 | input: file_bytes u64, hash u128 | repeat u32 | spread u8 | rules (see `rules`)
//! | position: offset u64, repetition u32, record u64, latest i64
//! ```
//!
//! All integers are little-endian. A reader refuses an unknown version.

use std::fmt;

use alluvium::base::checksum::ContentHash;
use alluvium::base::{Error, Result};

use super::cursor::Cursor;
use super::rules::Rules;
use super::survey::InputIdentity;
use super::time::EventTime;

const VERSION: u32 = 1;

/// What the job keeps with a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JobData {
    pub(crate) job: JobIdentity,
    /// How far the input had been read when the barriers were sent.
    pub(crate) position: Position,
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

impl Position {
    /// The form in which a shard's snapshot carries the position.
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

impl JobData {
    /// The bytes that go into a checkpoint.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let Self { job, position } = self;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&job.input.file_bytes.to_le_bytes());
        bytes.extend_from_slice(&job.input.hash.0.to_le_bytes());
        bytes.extend_from_slice(&job.repeat.to_le_bytes());
        bytes.push(u8::from(job.spread));
        bytes.extend_from_slice(&job.rules.to_bytes());
        bytes.extend_from_slice(&position.to_bytes());
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// `Corrupt` if they are something else, `Incompatible` if another version of this
    /// program wrote them.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor { what: "the job's part of a checkpoint", rest: bytes };
        let version = cursor.u32()?;
        if version != VERSION {
            return Err(Error::incompatible(
                "another version of this program wrote the checkpoint",
            )
            .expected(format_args!("version {VERSION}"))
            .found(version));
        }
        let job = JobIdentity {
            input: InputIdentity { file_bytes: cursor.u64()?, hash: ContentHash(cursor.u128()?) },
            repeat: cursor.u32()?,
            spread: match cursor.take(1)? {
                [0] => false,
                [1] => true,
                other => {
                    return Err(Error::corrupt("a flag is neither 0 nor 1").found(other[0]));
                }
            },
            rules: Rules::from_bytes(cursor.array()?),
        };
        let position = Position::take(&mut cursor)?;
        cursor.end()?;
        Ok(Self { job, position })
    }
}
