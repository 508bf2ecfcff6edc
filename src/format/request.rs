//! What somebody who is not the coordinator of a job asks of it, and the answer.
//!
//! ```text
//! request:  an envelope (see envelope.rs), magic "ALVREQST", around
//!           | created_unix_ms u64 | seen u64 | asker | action u8 | of 1 to 4 and 7: name |
//!           | of 2, 5 and 6: id u64 | of 7: place |
//!           0                     8          16
//! answer:   an envelope, magic "ALVANSWR", around
//!           | answered_unix_ms u64 | id u64 | refused |
//!           0                      8        16
//! ```
//!
//! `action` is 1 to take a savepoint, 2 to keep a checkpoint as one, 3 to dispose of one,
//! 4 to take a full savepoint; 5 to take a checkpoint, 6 to take a full one, of this
//! number or a higher one each; 7 to take a savepoint straight into a
//! place. A coordinator that does not know an action refuses it by its
//! number. `seen` is the number of the journal entry by which it was asked. `id` in an answer is
//! that of the checkpoint concerned, 0 if there is none. Texts are a varint length and
//! UTF-8; `refused` says why, and is empty if the request was met.

use super::checkpoint::{MAX_JOB_NAME_BYTES, check_name};
use super::envelope::Envelope;
use super::journal::MAX_TEXT_BYTES;
use super::manifest::encode_bytes;
use super::place::{MAX_PLACE_BYTES, check_promise};
use super::promise::{Broken, check_len};
use crate::base::{Error, ErrorKind, Result, SnapshotId, SnapshotMode};

/// Most bytes of a request or an answer.
pub const MAX_REQUEST_BYTES: u64 = 4096;

const REQUEST: Envelope = Envelope { what: "request", magic: *b"ALVREQST", version: 1 };
const ANSWER: Envelope = Envelope { what: "answer", magic: *b"ALVANSWR", version: 1 };

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// To take a savepoint of this name and mode now.
    Savepoint(String, SnapshotMode),
    /// To take a checkpoint of this mode now. One with this number or a higher one will
    /// do, so that a request which is met twice, for the coordinator died meanwhile, has
    /// one checkpoint taken if it was complete: give the
    /// [`next_id`](super::JournalEntry::next_id) that the journal says.
    Checkpoint(SnapshotMode, SnapshotId),
    /// To keep this completed checkpoint as a savepoint of this name.
    Keep(SnapshotId, String),
    /// To dispose of the savepoint of this name.
    Dispose(String),
    /// To take a savepoint now whose files go straight into another place, and are none of
    /// the job's afterwards.
    SavepointInto {
        /// What it is called there; the job may have another one of this name.
        name: String,
        /// The URL of an empty folder, or of an empty store (see
        /// [`check_place`](super::check_place)).
        place: String,
    },
}

impl Action {
    /// The name of the savepoint, if it is about one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Savepoint(name, _)
            | Self::Keep(_, name)
            | Self::Dispose(name)
            | Self::SavepointInto { name, .. } => Some(name),
            Self::Checkpoint(..) => None,
        }
    }
}

/// Something that the coordinator of a job is asked to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// When it was asked, by the wall clock.
    pub created_unix_ms: u64,
    /// The journal entry that the asker had read: in it a new name was free, and an old
    /// one was there.
    pub seen: u64,
    /// Who asks, for people.
    pub asker: String,
    /// What for.
    pub action: Action,
}

/// What the coordinator has to say to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// When, by the wall clock.
    pub answered_unix_ms: u64,
    /// The checkpoint concerned, if there is one.
    pub id: Option<SnapshotId>,
    /// Why it was not done, if it was not.
    pub refused: Option<String>,
}

impl Request {
    /// The bytes of the request.
    ///
    /// # Errors
    /// `Invalid` if a name is none or a text too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|broken| broken.error(ErrorKind::Invalid, REQUEST.what))?;
        REQUEST.seal(|out| {
            out.extend_from_slice(&self.created_unix_ms.to_le_bytes());
            out.extend_from_slice(&self.seen.to_le_bytes());
            encode_bytes(self.asker.as_bytes(), out);
            out.push(match self.action {
                Action::Savepoint(_, SnapshotMode::Incremental) => 1,
                Action::Keep(..) => 2,
                Action::Dispose(_) => 3,
                Action::Savepoint(_, SnapshotMode::Full) => 4,
                Action::Checkpoint(SnapshotMode::Incremental, _) => 5,
                Action::Checkpoint(SnapshotMode::Full, _) => 6,
                Action::SavepointInto { .. } => 7,
            });
            if let Some(name) = self.action.name() {
                encode_bytes(name.as_bytes(), out);
            }
            if let Action::Keep(id, _) | Action::Checkpoint(_, id) = self.action {
                out.extend_from_slice(&id.0.to_le_bytes());
            }
            if let Action::SavepointInto { place, .. } = &self.action {
                encode_bytes(place.as_bytes(), out);
            }
            Ok(())
        })
    }

    /// Reads a request.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are none, `Incompatible` if they are one of another
    /// version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = REQUEST.open(bytes)?;
        let created_unix_ms = reader.u64("time")?;
        let seen = reader.u64("journal entry")?;
        let asker = reader.str("asker", MAX_TEXT_BYTES)?.to_owned();
        let action = reader.u8("action")?;
        let mut name = || Ok(reader.str("name of a savepoint", MAX_JOB_NAME_BYTES)?.to_owned());
        let action = match action {
            1 => Action::Savepoint(name()?, SnapshotMode::Incremental),
            2 => {
                let name = name()?;
                Action::Keep(SnapshotId(reader.u64("checkpoint")?), name)
            }
            3 => Action::Dispose(name()?),
            4 => Action::Savepoint(name()?, SnapshotMode::Full),
            5 | 6 => {
                let mode = if action == 5 { SnapshotMode::Incremental } else { SnapshotMode::Full };
                Action::Checkpoint(mode, SnapshotId(reader.u64("checkpoint")?))
            }
            7 => Action::SavepointInto {
                name: name()?,
                place: reader.str("place of a savepoint", MAX_PLACE_BYTES)?.to_owned(),
            },
            other => {
                return Err(Error::incompatible("a request for something that is not known here")
                    .expected("1 to 7: savepoint, keep, dispose, full savepoint, checkpoint, full checkpoint, savepoint into a place")
                    .found(other)
                    .remedy("ask with the version of alluvium that the job has"));
            }
        };
        reader.finish()?;
        let request = Self { created_unix_ms, seen, asker, action };
        request.check().map_err(|broken| broken.error(ErrorKind::Corrupt, REQUEST.what))?;
        Ok(request)
    }

    fn check(&self) -> Result<(), Broken> {
        check_len("asker", self.asker.len(), 0, MAX_TEXT_BYTES)?;
        if let Action::SavepointInto { place, .. } = &self.action {
            check_promise(place)?;
        }
        self.action.name().map_or(Ok(()), |name| check_name("name of the savepoint", name))
    }
}

impl Answer {
    /// The bytes of the answer.
    ///
    /// # Errors
    /// `Invalid` if the reason is empty or too long.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let refused = self.refused.as_deref().unwrap_or("-");
        check_len("reason of a refusal", refused.len(), 1, MAX_TEXT_BYTES)
            .map_err(|broken| broken.error(ErrorKind::Invalid, ANSWER.what))?;
        ANSWER.seal(|out| {
            out.extend_from_slice(&self.answered_unix_ms.to_le_bytes());
            out.extend_from_slice(&self.id.map_or(0, |id| id.0).to_le_bytes());
            encode_bytes(self.refused.as_deref().unwrap_or("").as_bytes(), out);
            Ok(())
        })
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// As [`Request::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = ANSWER.open(bytes)?;
        let answered_unix_ms = reader.u64("time")?;
        let id = reader.u64("checkpoint")?;
        let refused = reader.str("reason of a refusal", MAX_TEXT_BYTES)?.to_owned();
        reader.finish()?;
        Ok(Self {
            answered_unix_ms,
            id: (id > 0).then_some(SnapshotId(id)),
            refused: (!refused.is_empty()).then_some(refused),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(action: Action) -> Request {
        Request { created_unix_ms: 5, seen: 6, asker: "tool".to_owned(), action }
    }

    #[test]
    fn requests_and_answers_come_back_and_damage_is_found() {
        let actions = [
            Action::Savepoint("before-upgrade".to_owned(), SnapshotMode::Incremental),
            Action::Savepoint("alone".to_owned(), SnapshotMode::Full),
            Action::Checkpoint(SnapshotMode::Incremental, SnapshotId(3)),
            Action::Checkpoint(SnapshotMode::Full, SnapshotId(u64::MAX)),
            Action::Keep(SnapshotId(7), "a".to_owned()),
            Action::Dispose("a".to_owned()),
            Action::SavepointInto {
                name: "moved".to_owned(),
                place: format!("s3://bucket/{}", "a".repeat(MAX_PLACE_BYTES - 12)),
            },
        ];
        for request in actions.map(request) {
            let bytes = request.encode().unwrap();
            assert!(bytes.len() as u64 <= MAX_REQUEST_BYTES);
            assert_eq!(Request::decode(&bytes).unwrap(), request);
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Request::decode(&bad).is_err(), "bit {bit}");
            }
        }
        for (id, refused) in [(None, None), (Some(SnapshotId(3)), Some("no".to_owned()))] {
            let answer = Answer { answered_unix_ms: 9, id, refused };
            let bytes = answer.encode().unwrap();
            assert_eq!(Answer::decode(&bytes).unwrap(), answer);
            for len in 0..bytes.len() {
                assert!(Answer::decode(&bytes[..len]).is_err());
            }
        }
    }

    #[test]
    fn what_a_later_version_asks_for_is_refused_by_its_number_and_not_misread() {
        let bytes = REQUEST.seal(|out| {
            out.extend_from_slice(&[0; 16]);
            encode_bytes(b"tool", out);
            out.push(8);
            encode_bytes(b"name", out);
            Ok(())
        });
        let error = Request::decode(&bytes.unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        assert!(error.to_string().contains("found 8"), "{error}");
    }

    #[test]
    fn a_place_that_leads_elsewhere_is_neither_written_nor_read() {
        let into = |place: &str| {
            let (name, place) = ("a".to_owned(), place.to_owned());
            request(Action::SavepointInto { name, place })
        };
        assert_eq!(into("file:///a/../b").encode().unwrap_err().kind(), ErrorKind::Invalid);
        let body = |place: &str| {
            let sealed = REQUEST.seal(|out| {
                out.extend_from_slice(&[0; 16]);
                encode_bytes(b"tool", out);
                out.push(7);
                encode_bytes(b"a", out);
                encode_bytes(place.as_bytes(), out);
                Ok(())
            });
            Request::decode(&sealed.unwrap())
        };
        assert!(body("file:///a/b").is_ok());
        assert_eq!(body("file:///a/../b").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn names_that_are_not_of_a_savepoint_are_refused() {
        for name in ["", "..", "a/b", "\u{1b}[31m"] {
            let error = request(Action::Dispose(name.to_owned())).encode().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}
