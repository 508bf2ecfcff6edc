//! The open sessions of one aircraft: 24 bytes each, in one value.
//!
//! ```text
//! | from i64 | until i64 | flights i64 | ...
//! ```
//!
//! All of them are little-endian. They are few, and always wanted together, so a
//! value is cheaper than a map with an entry for each.

use alluvium::codec::{Codec, CodecId, HasCodec};
use alluvium::{Error, Result};

/// Bytes of one session.
const SESSION_BYTES: usize = 24;

/// A time in which an aircraft had no long gap; in minutes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Session {
    pub(crate) from: i64,
    /// The first minute that is no part of it.
    pub(crate) until: i64,
    /// The namespace of its flights: the time of that which opened it.
    pub(crate) flights: i64,
}

/// Sessions that neither overlap nor touch.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct SessionSet(Vec<Session>);

impl SessionSet {
    /// Takes out the sessions that overlap or touch a time.
    pub(crate) fn take_near(&mut self, from: i64, until: i64) -> Vec<Session> {
        let is_near = |session: &mut Session| session.from <= until && from <= session.until;
        self.0.extract_if(.., is_near).collect()
    }

    /// Adds a session that is near to no other one.
    pub(crate) fn insert(&mut self, session: Session) {
        self.0.push(session);
    }

    /// The session that begins at a time.
    pub(crate) fn find(&self, from: i64) -> Option<Session> {
        self.0.iter().find(|session| session.from == from).copied()
    }

    /// Removes the session that begins at a time.
    pub(crate) fn remove(&mut self, from: i64) {
        self.0.retain(|session| session.from != from);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl HasCodec for SessionSet {
    type Codec = SessionSetCodec;
}

/// Writes the layout drawn above.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct SessionSetCodec;

impl SessionSetCodec {
    const NAME: &str = "flights.SessionSet";
}

impl Codec<SessionSet> for SessionSetCodec {
    // Spares every access a guard.
    const MAY_PANIC: bool = false;

    fn id(&self) -> CodecId {
        CodecId::new(Self::NAME, 1)
    }

    fn encode(&self, value: &SessionSet, out: &mut Vec<u8>) -> Result<()> {
        for Session { from, until, flights } in &value.0 {
            for number in [from, until, flights] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<SessionSet> {
        let sessions = bytes.chunks_exact(SESSION_BYTES);
        if !sessions.remainder().is_empty() {
            return Err(Error::corrupt("the open sessions of an aircraft have a bad length")
                .expected(format_args!("a multiple of {SESSION_BYTES} bytes"))
                .found(bytes.len()));
        }
        let session = |bytes: &[u8]| {
            let number =
                |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
            Session { from: number(0), until: number(8), flights: number(16) }
        };
        Ok(SessionSet(sessions.map(session).collect()))
    }
}
